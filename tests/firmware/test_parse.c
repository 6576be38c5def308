/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "parse.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define QPN 0xabcdefu
#define PSN 0x123456u
#define ROCE MT_OUTCOMES /* a packet of a reliable connection */

/** A frame to be made; all zero is the smallest one. */
struct spec {
	unsigned int tags, options, extensions; /* of VLAN, IPv4 in words, IPv6 */
	bool v6;
	uint8_t opcode, pad, tos; /* tos: or traffic class */
	uint32_t payload;	  /* with padding */
	uint32_t trailer;	  /* Ethernet padding behind the IP packet */
};

struct frame {
	uint8_t data[1024];
	uint32_t len, ip, udp, bth, ext; /* where they begin */
	uint32_t outer_ip, outer_udp, vxlan;
};

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint32_t extension_bytes(uint8_t opcode)
{
	return fw_opcodes[opcode].ext;
}

static void make(struct frame *f, const struct spec *s)
{
	static const uint16_t tag[2] = {0x88a8, 0x8100};
	static const uint8_t extension[FW_IPV6_EXT_MAX] = {0, 60, 43, 60};
	uint32_t at = 12, transport, options = 0;
	uint8_t *d = f->data, *next = NULL;

	memset(d, 0xee, sizeof(f->data));
	for (unsigned int i = 0; i < s->tags; i++, at += 4)
		put16(d + at, tag[i + 2 - s->tags]);
	put16(d + at, s->v6 ? 0x86dd : 0x0800);
	f->ip = at += 2;
	transport = 8 + FW_BTH_BYTES + extension_bytes(s->opcode) + s->payload + FW_ICRC_BYTES;
	if (s->v6) {
		for (unsigned int i = 0; i < s->extensions; i++)
			options += 8 * (1 + i % 2);
		put16(d + at, 0x6000u | (uint32_t)s->tos << 4);
		put16(d + at + 4, options + transport);
		next = d + at + 6;
		at += 40;
		for (unsigned int i = 0; i < s->extensions; i++) {
			*next = extension[i];
			next = d + at;
			d[at + 1] = (uint8_t)(i % 2);
			at += 8 * (1 + i % 2);
		}
		*next = 17;
	} else {
		d[at] = (uint8_t)(0x45 + s->options);
		d[at + 1] = s->tos;
		put16(d + at + 2, 20 + 4 * s->options + transport);
		put16(d + at + 6, 0x4000);
		d[at + 9] = 17;
		at += 20 + 4 * s->options;
	}
	f->udp = at;
	put16(d + at + 2, FW_ROCE_PORT);
	put16(d + at + 4, transport);
	f->bth = at += 8;
	d[at] = s->opcode;
	d[at + 1] = (uint8_t)(s->pad << 4 | 0x80);
	d[at + 5] = 0xab;
	d[at + 6] = 0xcd;
	d[at + 7] = 0xef;
	d[at + 9] = 0x12;
	d[at + 10] = 0x34;
	d[at + 11] = 0x56;
	f->ext = at + FW_BTH_BYTES;
	f->len = f->udp + transport + s->trailer;
	assert_true(f->len <= sizeof(f->data));
}

/** Put a frame into a VXLAN, between hosts of IPv4 or IPv6. */
static void wrap(struct frame *f, bool v6, uint8_t tos)
{
	struct spec s = {.v6 = v6, .tos = tos, .payload = f->len};
	uint32_t *at[] = {&f->ip, &f->udp, &f->bth, &f->ext, &f->len}, more;
	struct frame outer;

	make(&outer, &s); /* its BTH and ICRC become the VXLAN header */
	more = outer.bth + 8;
	assert_true(more + f->len <= sizeof(f->data));
	put16(outer.data + outer.udp + 2, FW_VXLAN_PORT);
	put16(outer.data + outer.udp + 4, 16 + f->len);
	put16(outer.data + outer.ip + (v6 ? 4 : 2), (v6 ? 0 : 20) + 16 + f->len);
	memset(outer.data + outer.bth, 0, 8);
	outer.data[outer.bth] = 0x08;
	memmove(f->data + more, f->data, f->len);
	memcpy(f->data, outer.data, more);
	f->outer_ip = outer.ip;
	f->outer_udp = outer.udp;
	f->vxlan = outer.bth;
	for (size_t i = 0; i < COUNT(at); i++)
		*at[i] += more;
}

/** What was said of a frame, with offsets instead of pointers. */
struct got {
	unsigned int out;
	uint32_t ext, v6, qpn, psn, payload; /* v6: where the addresses are, 0: not IPv6 */
	uint64_t ips;			     /* of IPv4, as they are in the frame */
	uint8_t opcode, touched;
	bool cut, marked;
};

/** Parses in a block of just that size, so that a read behind it is found by the sanitizer. */
static struct got parse(const uint8_t *data, uint32_t len)
{
	uint8_t *block = malloc(len ? len : 1);
	struct fw_packet p, plain;
	struct fw_far far;
	struct got g = {0};
	const uint8_t *v6;

	assert_non_null(block);
	memcpy(block, data, len);
	memset(&p, 0, sizeof(p)); /* with what lies between its fields */
	memset(&plain, 0, sizeof(plain));
	g.out = fw_parse_long(block, len, &p, &far);
	v6 = far.v6;
	g.marked = far.marked;
	if (fw_is_plain(block, len)) { /* the short way says the same */
		assert_int_equal(fw_parse_plain(block, len, &plain), g.out);
		assert_memory_equal(&plain, &p, sizeof(p));
		assert_true(v6 == NULL && !g.marked);
	}
	if (g.out == ROCE) {
		g.cut = p.kind == FW_KIND_CUT;
		/* what users go on to read */
		for (uint32_t i = 0; !g.cut && i < fw_opcodes[p.opcode].read; i++)
			g.touched ^= p.ext[i];
		for (uint32_t i = 0; v6 != NULL && i < 32; i++)
			g.touched ^= v6[i];
		g.ext = (uint32_t)(p.ext - block);
		g.v6 = v6 == NULL ? 0 : (uint32_t)(v6 - block);
		g.ips = p.ips;
		g.qpn = p.qpn & FW_KEY_QPN;
		g.psn = p.psn;
		g.payload = p.payload;
		g.opcode = p.opcode;
		if (!g.cut)
			assert_int_equal(p.kind, fw_opcodes[p.opcode].kind);
	}
	free(block);
	return g;
}

static unsigned int outcome(const struct frame *f)
{
	return parse(f->data, f->len).out;
}

/* ---- opcodes ------------------------------------------------------------------------------- */

/* Written down again from the tables of the specification. */
static const struct {
	uint8_t opcode, kind, ext, read;
	bool more, last;
} opcodes[] = {
	{0x00, FW_KIND_SEND, 0, 0, true, false},
	{0x01, FW_KIND_BODY, 0, 0, false, false},
	{0x02, FW_KIND_BODY, 0, 0, false, true},
	{0x03, FW_KIND_BODY, 4, 0, false, true},
	{0x04, FW_KIND_SEND, 0, 0, false, false},
	{0x05, FW_KIND_SEND, 4, 0, false, false},
	{0x06, FW_KIND_WRITE_FIRST, 16, 16, true, false},
	{0x07, FW_KIND_BODY, 0, 0, false, false},
	{0x08, FW_KIND_BODY, 0, 0, false, true},
	{0x09, FW_KIND_BODY, 4, 0, false, true},
	{0x0a, FW_KIND_WRITE, 16, 16, false, false},
	{0x0b, FW_KIND_WRITE, 20, 16, false, false},
	{0x0c, FW_KIND_READ, 16, 16, false, false},
	{0x0d, FW_KIND_RESPONSE, 4, 0, false, false},
	{0x0e, FW_KIND_RESPONSE, 0, 0, false, false},
	{0x0f, FW_KIND_RESPONSE, 4, 0, false, false},
	{0x10, FW_KIND_RESPONSE, 4, 0, false, false},
	{0x11, FW_KIND_RESPONSE, 4, 0, false, false},
	{0x12, FW_KIND_RESPONSE, 12, 0, false, false},
	{0x13, FW_KIND_ATOMIC, 28, 20, false, false},
	{0x14, FW_KIND_ATOMIC, 28, 20, false, false},
	{0x16, FW_KIND_BODY, 4, 0, false, true},
	{0x17, FW_KIND_SEND, 4, 0, false, false},
	{0x1c, FW_KIND_OTHER, 20, 0, false, false},
	{0x1d, FW_KIND_OTHER, 16, 0, false, false},
};

static void test_opcodes(void **unused)
{
	static const uint8_t others[] = {0, MT_OUT_UC, MT_OUT_RD, MT_OUT_UD, MT_OUT_CNP, MT_OUT_XRC,
		MT_OUT_TRANSPORT, MT_OUT_TRANSPORT};
	uint32_t known = 0;

	(void)unused;
	for (size_t i = 0; i < COUNT(opcodes); i++) {
		const struct fw_opcode *o = &fw_opcodes[opcodes[i].opcode];

		assert_int_equal(o->kind, opcodes[i].kind);
		assert_int_equal(o->ext, opcodes[i].ext);
		assert_int_equal(o->read, opcodes[i].read);
		assert_int_equal(o->more, opcodes[i].more);
		assert_int_equal(o->last, opcodes[i].last);
		known |= 1u << opcodes[i].opcode;
	}
	for (unsigned int op = 0; op < 256; op++) {
		struct spec s = {.opcode = (uint8_t)op, .payload = 8};
		struct frame f;

		make(&f, &s);
		if (op >= 32)
			assert_int_equal(outcome(&f), others[op / 32]);
		else if (known & 1u << op)
			assert_int_equal(outcome(&f), ROCE);
		else {
			assert_int_equal(fw_opcodes[op].kind, FW_KIND_NONE);
			assert_int_equal(outcome(&f), MT_OUT_MALFORMED);
			s.payload = 20; /* with room for address, key and operand */
			make(&f, &s);
			assert_int_equal(outcome(&f), MT_OUT_FORM);
		}
	}
}

/* ---- good packets, and where they are cut -------------------------------------------------- */

/** Calls f for every combination of headers with every opcode. */
static void every_spec(void (*f)(const struct spec *s))
{
	for (unsigned int tags = 0; tags <= 2; tags++)
		for (unsigned int v6 = 0; v6 <= 1; v6++)
			for (unsigned int more = 0; more <= (v6 ? FW_IPV6_EXT_MAX : 10); more++)
				for (size_t i = 0; i < COUNT(opcodes); i++) {
					struct spec s = {.tags = tags,
						.v6 = v6,
						.options = v6 ? 0 : more,
						.extensions = v6 ? more : 0,
						.opcode = opcodes[i].opcode,
						.pad = (uint8_t)((tags + more) % 4),
						.payload = (uint32_t)(i % 3 * 20 + 4),
						.trailer = more % 2 * 6};

					f(&s);
				}
}

static void good_frame(const struct spec *s, const struct frame *frame)
{
	struct frame f = *frame;
	struct got g = parse(f.data, f.len);

	assert_int_equal(g.out, ROCE);
	assert_int_equal(g.opcode, s->opcode);
	assert_int_equal(g.qpn, QPN);
	assert_int_equal(g.psn, PSN);
	assert_int_equal(g.ext, f.ext);
	assert_int_equal(g.payload, s->payload - s->pad);
	assert_false(g.marked);
	if (s->v6)
		assert_int_equal(g.v6, f.ip + 8);
	else
		assert_memory_equal(&g.ips, f.data + f.ip + 12, 8);
	assert_int_equal(g.v6 != 0, s->v6);
	assert_false(g.cut);
}

static void good_packet(const struct spec *s)
{
	struct frame f;

	make(&f, s);
	good_frame(s, &f);
	wrap(&f, (s->options + s->extensions) % 2, 0);
	good_frame(s, &f);
}

static void test_good_packets(void **unused)
{
	(void)unused;
	every_spec(good_packet);
}

/* However short a frame is cut: truncated, or the same as the whole. */
static void cut_frame(const struct spec *s, const struct frame *frame)
{
	struct frame f = *frame;

	for (uint32_t len = 0; len < f.len; len++) {
		struct got g = parse(f.data, len);

		if (len < 14) {
			assert_int_equal(g.out, MT_OUT_MALFORMED); /* no frame at all */
		} else if (len < f.ext) {
			assert_int_equal(g.out, MT_OUT_TRUNCATED);
		} else {
			assert_int_equal(g.out, ROCE);
			assert_int_equal(g.cut, len < f.ext + fw_opcodes[s->opcode].read);
			assert_int_equal(g.payload, s->payload - s->pad);
			assert_int_equal(g.psn, PSN);
			assert_int_equal(g.qpn, QPN);
			assert_int_equal(g.ext, f.ext);
		}
	}
}

static void cut_packet(const struct spec *s)
{
	struct frame f;

	make(&f, s);
	cut_frame(s, &f);
	wrap(&f, (s->options + s->extensions) % 2, 0);
	cut_frame(s, &f);
}

static void test_cut_packets(void **unused)
{
	(void)unused;
	every_spec(cut_packet);
}

/* ---- packets that are something else ------------------------------------------------------- */

/** A frame of s with byte `at` (from the start of a header) set to `value`. */
#define CHANGED(header, at, value, wanted)                                                         \
	do {                                                                                       \
		struct frame f_;                                                                   \
		make(&f_, &s);                                                                     \
		f_.data[f_.header + (at)] = (uint8_t)(value);                                      \
		assert_int_equal(outcome(&f_), wanted);                                            \
		prefixes(&f_, wanted);                                                             \
	} while (0)

/** A cut frame of it is the same, or truncated. */
static void prefixes(const struct frame *f, unsigned int wanted)
{
	for (uint32_t len = 14; len < f->len; len++) {
		unsigned int out = parse(f->data, len).out;

		assert_true(out == wanted || out == MT_OUT_TRUNCATED);
	}
}

static void test_ethernet(void **unused)
{
	static const uint16_t types[] = {0x8100, 0x88a8, 0x9100};
	struct spec s = {.opcode = 0x0a, .payload = 32, .tags = 2};
	struct frame f;

	(void)unused;
	for (size_t i = 0; i < 9; i++) {
		make(&f, &s);
		put16(f.data + 12, types[i % 3]);
		put16(f.data + 16, types[i / 3]);
		assert_int_equal(outcome(&f), ROCE);
	}
	/* a third tag; other protocols; ARP; IP in the wrong family */
	put16(f.data + 20, 0x8100);
	assert_int_equal(outcome(&f), MT_OUT_NOT_ROCE);
	prefixes(&f, MT_OUT_NOT_ROCE);
	s.tags = 0;
	CHANGED(ip, -1, 0x06, MT_OUT_NOT_ROCE);
	CHANGED(ip, -2, 0x88, MT_OUT_NOT_ROCE);
	CHANGED(ip, 0, 0x65, MT_OUT_MALFORMED);
	s.v6 = true;
	CHANGED(ip, 0, 0x45, MT_OUT_MALFORMED);
}

static void test_ipv4(void **unused)
{
	struct spec s = {.opcode = 0x0a, .payload = 32, .options = 1};

	(void)unused;
	for (unsigned int ihl = 0; ihl < 5; ihl++)
		CHANGED(ip, 0, 0x40 | ihl, MT_OUT_MALFORMED);
	CHANGED(ip, 9, 6, MT_OUT_NOT_ROCE);
	CHANGED(ip, 6, 0x20, MT_OUT_FRAGMENT); /* more follow */
	CHANGED(ip, 7, 0x01, MT_OUT_FRAGMENT); /* not the first */
	CHANGED(ip, 6, 0x1f, MT_OUT_FRAGMENT);
	CHANGED(ip, 6, 0x80, ROCE);	      /* a reserved bit */
	CHANGED(ip, 3, 23, MT_OUT_MALFORMED); /* shorter than its header */
	CHANGED(ip, 3, 0, MT_OUT_MALFORMED);
	/* the header says more or less than UDP does */
	for (unsigned int total = 24; total < 24 + 8 + 12 + 16 + 32 + 4; total++)
		CHANGED(ip, 3, total, MT_OUT_MALFORMED);
	CHANGED(ip, 2, 0x10, ROCE);
}

static void test_ipv6(void **unused)
{
	struct spec s = {.opcode = 0x0a, .payload = 32, .v6 = true};
	struct frame f;

	(void)unused;
	CHANGED(ip, 6, 44, MT_OUT_FRAGMENT);
	CHANGED(ip, 6, 6, MT_OUT_NOT_ROCE);
	CHANGED(ip, 6, 59, MT_OUT_NOT_ROCE);
	for (unsigned int length = 0; length < 8 + 12 + 16 + 32 + 4; length++)
		CHANGED(ip, 5, length, MT_OUT_MALFORMED);
	s.extensions = 2; /* 8 and 16 bytes */
	CHANGED(ip, 40, 44, MT_OUT_FRAGMENT);
	CHANGED(ip, 48, 44, MT_OUT_FRAGMENT);
	CHANGED(ip, 40, 58, MT_OUT_NOT_ROCE);
	CHANGED(ip, 41, 255, MT_OUT_MALFORMED);
	for (unsigned int length = 0; length < 24; length++)
		CHANGED(ip, 5, length, MT_OUT_MALFORMED);
	/* more extension headers than are walked */
	make(&f, &s);
	for (uint32_t i = 0; i < 40; i++) {
		f.data[f.ip + 40 + 8 * i] = 60;
		f.data[f.ip + 41 + 8 * i] = 0;
	}
	put16(f.data + f.ip + 4, 320);
	f.len = f.ip + 360;
	assert_int_equal(outcome(&f), MT_OUT_MALFORMED);
	prefixes(&f, MT_OUT_MALFORMED);
}

static void test_udp_and_bth(void **unused)
{
	struct spec s = {.opcode = 0x0a, .payload = 32};

	(void)unused;
	for (unsigned int v6 = 0; v6 <= 1; v6++) {
		s.v6 = v6;
		CHANGED(udp, 3, 0xb8, MT_OUT_NOT_ROCE);
		CHANGED(udp, 2, 0, MT_OUT_NOT_ROCE);
		/* from no header to one byte less than its headers need */
		for (unsigned int length = 0; length < 8 + 12 + 16 + 4; length++)
			CHANGED(udp, 5, length, MT_OUT_MALFORMED);
		CHANGED(udp, 5, 8 + 12 + 16 + 4, ROCE);
		CHANGED(udp, 5, 8 + 12 + 16 + 32 + 5, MT_OUT_MALFORMED); /* more than IP has */
		for (unsigned int version = 1; version < 16; version++)
			CHANGED(bth, 1, version, MT_OUT_MALFORMED);
		CHANGED(bth, 1, 0xf0, ROCE); /* solicited, migrated, 3 bytes of padding */
		CHANGED(bth, 0, 0x15, MT_OUT_FORM);
		CHANGED(bth, 0, 0x1f, MT_OUT_FORM);
		CHANGED(bth, 0, 0x2a, MT_OUT_UC);
		CHANGED(bth, 0, 0x44, MT_OUT_RD);
		CHANGED(bth, 0, 0x64, MT_OUT_UD);
		CHANGED(bth, 0, 0x81, MT_OUT_CNP);
		CHANGED(bth, 0, 0xaa, MT_OUT_XRC);
		CHANGED(bth, 0, 0xca, MT_OUT_TRANSPORT);
		CHANGED(bth, 0, 0xea, MT_OUT_FORM);
	}
	/* padding that is longer than the payload */
	s = (struct spec){.opcode = 0x0a, .payload = 0, .pad = 1};
	CHANGED(udp, 0, 0, MT_OUT_MALFORMED);
	s.payload = 1;
	CHANGED(udp, 0, 0, ROCE);
}

/** Every length that UDP may say of a packet of another transport: malformed up to @p needs. */
static void lengths(uint8_t opcode, uint32_t needs, unsigned int wanted)
{
	struct spec s = {.opcode = opcode, .payload = 8};

	for (unsigned int v6 = 0; v6 <= 1; v6++) {
		s.v6 = v6;
		for (uint32_t length = 0; length < 8 + needs; length++)
			CHANGED(udp, 5, length, MT_OUT_MALFORMED);
		CHANGED(udp, 5, 8 + needs, wanted);
		for (unsigned int version = 1; version < 16; version++)
			CHANGED(bth, 1, version, MT_OUT_MALFORMED);
	}
}

static void test_other_transports(void **unused)
{
	(void)unused;
	lengths(0x2a, 12 + 4, MT_OUT_UC);
	lengths(0x40, 12 + 4, MT_OUT_RD);
	lengths(0x64, 12 + 8 + 4, MT_OUT_UD);
	lengths(0x80, 12 + 16 + 4, MT_OUT_CNP);
	lengths(0x81, 12 + 16 + 4, MT_OUT_CNP);
	lengths(0xaa, 12 + 4, MT_OUT_XRC);
	lengths(0xc0, 12 + 4, MT_OUT_TRANSPORT);
}

/* ECN: 3 is congestion experienced, in one of the headers. */
static void test_marks(void **unused)
{
	struct spec s = {.opcode = 0x0a, .payload = 32};
	struct frame f;

	(void)unused;
	for (unsigned int tos = 0; tos < 256; tos++)
		for (unsigned int v6 = 0; v6 <= 1; v6++) {
			bool marked = tos % 4 == 3;

			s.v6 = v6;
			s.tos = (uint8_t)tos;
			make(&f, &s);
			assert_int_equal(outcome(&f), ROCE);
			assert_int_equal(parse(f.data, f.len).marked, marked);
			assert_int_equal(fw_is_plain(f.data, f.len), !marked && !v6);
			f.data[f.ip + (v6 ? 6 : 9)] = 6;
			assert_false(fw_is_plain(f.data, f.len));
			assert_int_equal(outcome(&f), MT_OUT_NOT_ROCE);
			make(&f, &s);
			wrap(&f, tos / 4 % 2, 0xfe);
			assert_int_equal(parse(f.data, f.len).marked, marked);
			make(&f, &s);
			wrap(&f, tos / 4 % 2, 0xff);
			assert_true(parse(f.data, f.len).marked);
			assert_int_equal(outcome(&f), ROCE);
		}
}

/** As CHANGED(), of a frame in a VXLAN between hosts of IPv4 and of IPv6. */
#define INSIDE(header, at, value, wanted)                                                          \
	do {                                                                                       \
		for (unsigned int v6_ = 0; v6_ <= 1; v6_++) {                                      \
			struct frame f_;                                                           \
			make(&f_, &s);                                                             \
			wrap(&f_, v6_, 0);                                                         \
			f_.data[f_.header + (at)] = (uint8_t)(value);                              \
			assert_int_equal(outcome(&f_), wanted);                                    \
			prefixes(&f_, wanted);                                                     \
		}                                                                                  \
	} while (0)

static void test_vxlan(void **unused)
{
	struct spec s = {.opcode = 0x0a, .payload = 32};
	struct frame f;

	(void)unused;
	for (unsigned int v6 = 0; v6 <= 1; v6++) {
		s.v6 = v6;
		INSIDE(vxlan, 0, 0xf7, MT_OUT_NOT_ROCE); /* no VNI */
		INSIDE(vxlan, 0, 0xff, ROCE);		 /* bits that are to be ignored */
		INSIDE(outer_udp, 3, 0xb6, MT_OUT_NOT_ROCE);
		/* no room for its header, the inner Ethernet header, what lies in that */
		for (unsigned int length = 0; length < 16 + 14 + 20 + 8 + 32 + 32; length++)
			INSIDE(outer_udp, 5, length, MT_OUT_MALFORMED);
		INSIDE(ip, -1, 0x06, MT_OUT_VXLAN);
		INSIDE(ip, v6 ? 6 : 9, 6, MT_OUT_VXLAN);
		INSIDE(udp, 3, 0xb8, MT_OUT_VXLAN);
		INSIDE(udp, 5, 8, MT_OUT_MALFORMED);
		INSIDE(ip, v6 ? 4 : 2, 0x10, MT_OUT_MALFORMED); /* longer than the outer one */
		INSIDE(bth, 0, 0x2a, MT_OUT_UC);
		INSIDE(bth, 0, 0x81, MT_OUT_CNP);
		INSIDE(bth, 0, 0x1f, MT_OUT_FORM);
		make(&f, &s); /* one in another */
		wrap(&f, v6, 0);
		wrap(&f, !v6, 0);
		assert_int_equal(outcome(&f), MT_OUT_VXLAN);
		prefixes(&f, MT_OUT_VXLAN);
	}
	s.v6 = false;
	INSIDE(ip, 6, 0x20, MT_OUT_FRAGMENT);
	INSIDE(outer_ip, 0, 0x15, MT_OUT_MALFORMED);
	s.tags = 2;
	INSIDE(vxlan, 7, 0xff, ROCE);
}

/** A frame of type @p type, of @p len bytes. */
static void make_typed(struct frame *f, uint32_t type, uint32_t len)
{
	memset(f, 0, sizeof(*f));
	put16(f->data + 12, type);
	f->ip = 14;
	f->len = len;
}

static void test_rocev1(void **unused)
{
	struct frame f;

	(void)unused;
	make_typed(&f, 0x8915, 14 + 40 + 12 + 16 + 4);
	f.data[f.ip] = 0x60;
	f.data[f.ip + 6] = 0x1b;
	for (uint32_t len = 14; len <= f.len; len++)
		assert_int_equal(parse(f.data, len).out, MT_OUT_ROCEV1);
	f.data[f.ip + 6] = 17; /* no transport header of InfiniBand */
	for (uint32_t len = f.ip + 7; len <= f.len; len++)
		assert_int_equal(parse(f.data, len).out, MT_OUT_MALFORMED);
	f.data[f.ip + 6] = 0x1b;
	f.data[f.ip] = 0x45;
	for (uint32_t len = f.ip + 1; len <= f.len; len++)
		assert_int_equal(parse(f.data, len).out, MT_OUT_MALFORMED);
	f.data[f.ip] = 0x60;
	wrap(&f, false, 0);
	assert_int_equal(outcome(&f), MT_OUT_ROCEV1);
	/* the outer packet ends before it */
	put16(f.data + f.outer_udp + 4, 8 + 8 + 14 + 40 + 12 + 3);
	assert_int_equal(outcome(&f), MT_OUT_MALFORMED);
}

static void test_pfc(void **unused)
{
	struct frame f;

	(void)unused;
	make_typed(&f, 0x8808, 60);
	put16(f.data + f.ip, 0x0101);
	for (uint32_t len = 14; len <= f.len; len++)
		assert_int_equal(parse(f.data, len).out, len < 16 ? MT_OUT_TRUNCATED : MT_OUT_PFC);
	put16(f.data + f.ip, 0x0001); /* a pause of the whole link */
	assert_int_equal(outcome(&f), MT_OUT_NOT_ROCE);
	prefixes(&f, MT_OUT_NOT_ROCE);
}

/* ---- bytes without sense ------------------------------------------------------------------- */

static uint32_t next_random(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

static uint32_t first_seed(void)
{
	const char *given = getenv("MOETAP_SEED");
	uint32_t seed = given ? (uint32_t)strtoul(given, NULL, 0)
			      : (uint32_t)time(NULL) ^ (uint32_t)getpid() << 16;

	seed |= seed == 0;
	print_message("MOETAP_SEED=%u\n", seed);
	return seed;
}

/* Any outcome, and of a packet that is one, nothing is read outside of the frame. */
static void test_random_bytes(void **unused)
{
	uint32_t seed = first_seed(), seen[MT_OUTCOMES + 1] = {0};
	struct frame f;

	(void)unused;
	for (int i = 0; i < 300000; i++) {
		struct spec s = {.tags = next_random(&seed) % 3,
			.v6 = next_random(&seed) & 1,
			.options = next_random(&seed) % 11,
			.extensions = next_random(&seed) % 5,
			.opcode = (uint8_t)(next_random(&seed) % (i % 4 == 0 ? 256 : 32)),
			.tos = (uint8_t)next_random(&seed),
			.pad = (uint8_t)(next_random(&seed) % 4),
			.payload = next_random(&seed) % 64};
		uint32_t changes = next_random(&seed) % 4, len;
		struct got g;

		make(&f, &s);
		if (next_random(&seed) % 4 == 0)
			wrap(&f, next_random(&seed) & 1, (uint8_t)next_random(&seed));
		if (i % 16 == 1)
			put16(f.data + f.ip - 2, next_random(&seed) & 1 ? 0x8915 : 0x8808);
		if (i % 16 == 0)
			for (uint32_t b = 14; b < f.len; b++)
				f.data[b] = (uint8_t)next_random(&seed);
		while (changes-- > 0)
			f.data[12 + next_random(&seed) % (f.len - 12)] =
				(uint8_t)next_random(&seed);
		len = next_random(&seed) % 2 ? f.len : next_random(&seed) % (f.len + 1);
		g = parse(f.data, len);
		assert_true(g.out <= MT_OUTCOMES);
		seen[g.out]++;
		if (g.out == ROCE)
			assert_true(g.ext <= len && g.opcode < 32 && g.payload <= 65535 &&
				    g.psn <= 0xffffff && g.qpn <= 0xffffff);
	}
	/* the test reaches them all */
	for (uint32_t o = MT_OUT_TRUNCATED; o <= MT_OUT_NOT_ROCE; o++)
		assert_true(seen[o] != 0 || o == MT_OUT_PFC); /* two bytes of chance */
	assert_true(seen[ROCE]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_opcodes),
		cmocka_unit_test(test_good_packets),
		cmocka_unit_test(test_cut_packets),
		cmocka_unit_test(test_ethernet),
		cmocka_unit_test(test_ipv4),
		cmocka_unit_test(test_ipv6),
		cmocka_unit_test(test_udp_and_bth),
		cmocka_unit_test(test_other_transports),
		cmocka_unit_test(test_marks),
		cmocka_unit_test(test_vxlan),
		cmocka_unit_test(test_rocev1),
		cmocka_unit_test(test_pfc),
		cmocka_unit_test(test_random_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
