/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file parse.h: from a frame to the transport header of RoCEv2.
 *
 * Formats: Ethernet with up to two VLAN tags (IEEE 802.1Q), IPv4 with options (RFC 791), IPv6
 * with extension headers (RFC 8200), UDP to port 4791, then BTH and its extension headers (IBTA
 * volume 1, chapter 9 and annex A17). Sizes of the extension headers as in the Linux kernel's
 * include/rdma/ib_pack.h and drivers/infiniband/sw/rxe/rxe_hdr.h. All that may also lie in a VXLAN
 * (UDP to port 4789, RFC 7348): a tap in the underlay sees the same packets as one outside of it.
 *
 * Known by name only: other transports (the upper three bits of the opcode, IBTA 9.2.1; of
 * congestion notifications, annex A17.9.3), RoCE of version 1 (ethertype 0x8915: GRH, then BTH;
 * IBTA annex A16), priority flow control (ethertype 0x8808, IEEE 802.3 annex 31D).
 *
 * A frame may be cut (mirrors cut): lengths come from the IP header, and only the bytes that are
 * really read have to be there. Nothing here allocates, logs or keeps state.
 */
#ifndef MOETAP_FW_PARSE_H
#define MOETAP_FW_PARSE_H

#include <stdbool.h>
#include <string.h>

#include <rte_branch_prediction.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "moetap_page.h"

#define FW_ROCE_PORT 4791
#define FW_VXLAN_PORT 4789
#define FW_PROTO_UDP 17u
#define FW_PROTO_TCP 6u
#define FW_UDP_BYTES 8u
#define FW_BTH_BYTES 12u
#define FW_ICRC_BYTES 4u
#define FW_WRITE_ONLY_IMM 0x0b /* opcode: RDMA WRITE Only with Immediate */
#define FW_IPV6_EXT_MAX 4      /* extension headers walked before a packet is called malformed */

/* In fw_packet.qpn: which key it is part of, see fw_hash(). */
#define FW_KEY_QPN 0xffffffu
#define FW_KEY_V4 (1u << 30)
#define FW_KEY_V6 (1u << 31)

/** What an opcode is. */
enum fw_kind {
	FW_KIND_TRANSPORT, /**< of another transport than reliable connected */
	FW_KIND_NONE,	   /**< reserved */
	FW_KIND_CUT,   /**< the frame ends before what the rules read: no opcode, fw_parse() says so
			*/
	FW_KIND_WRITE, /**< only packet of an RDMA WRITE: has RETH */
	FW_KIND_WRITE_FIRST, /**< first packet of several */
	FW_KIND_SEND,	     /**< first or only packet of a SEND */
	FW_KIND_ATOMIC,	     /**< compare-and-swap or fetch-and-add: has AtomicETH */
	FW_KIND_READ,	     /**< RDMA READ request: has RETH, takes as many PSNs as its response */
	FW_KIND_OTHER,	     /**< another request (FLUSH, ATOMIC WRITE) */
	FW_KIND_BODY,	     /**< goes on with a WRITE or SEND */
	FW_KIND_RESPONSE,    /**< goes back to the requester */
	FW_KIND_TCP,	     /**< no opcode: a TCP segment, see tcp.h */
	FW_KIND_ODD, /**< no standard knows the opcode, but the packet is as long as an atomic */
};

/** What the first packet of a WRITE or SEND shows of the immediate that its last one may have. */
enum fw_shows {
	FW_SHOWS_ALONE, /**< it is the only one, and has none */
	FW_SHOWS_IMM,	/**< it is the only one, and has one */
	FW_SHOWS_MORE,	/**< others follow */
	FW_SHOWS
};

struct fw_opcode {
	uint8_t kind;	   /**< enum fw_kind */
	uint8_t ext;	   /**< bytes of extension headers */
	uint8_t read;	   /**< how many of them the rules read */
	bool more;	   /**< FIRST: packets of the message follow */
	bool last;	   /**< LAST: the message ends */
	uint8_t shows;	   /**< enum fw_shows */
	uint8_t unused[2]; /**< so that one is found by a shift */
};

/** All opcodes (IBTA table "OpCode field", ib_pack.h). */
extern const struct fw_opcode fw_opcodes[256];

/** What a packet is by the upper three bits of its opcode; MT_OUTCOMES: reliable connected. */
extern const uint8_t fw_transports[8];

/** What a packet of MT_OUT_FORM is where no map has use for atomics. */
static inline unsigned int fw_unknown(uint8_t opcode)
{
	return opcode >> 5 == 0 ? MT_OUT_MALFORMED : fw_transports[opcode >> 5];
}

/** A packet on its way through a burst. */
struct fw_packet {
	const uint8_t *ext; /**< extension headers, as many bytes as fw_opcode.read */
	uint64_t ips;	    /**< IPv4 addresses, source first, as on the wire; see fw_hash() */
	uint64_t ns;
	uint64_t tsc; /**< when it was received */
	uint32_t qpn; /**< of the destination, and FW_KEY_V4 */
	uint32_t psn;
	uint32_t payload; /**< bytes of payload, by the IP length; FW_KIND_ODD: behind the BTH */
	uint32_t hash;
	uint32_t have; /**< bytes from ext on that the frame has */
	uint8_t opcode;
	uint8_t kind; /**< enum fw_kind */
};

static inline uint32_t fw_be32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return rte_be_to_cpu_32(v);
}

static inline uint64_t fw_be64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return rte_be_to_cpu_64(v);
}

static inline uint16_t fw_be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

/** Source port of the UDP datagram that a packet is. */
static inline uint16_t fw_source_port(const struct fw_packet *p)
{
	return fw_be16(p->ext - FW_BTH_BYTES - FW_UDP_BYTES);
}

/** What else is known of a frame that is not plain, see fw_is_plain(). */
struct fw_far {
	const uint8_t *v6; /**< IPv6 addresses, source first; NULL: of IPv4, in fw_packet.ips */
	bool marked; /**< it met congestion: ECN, RFC 3168; in a VXLAN also outside, RFC 6040 */
};

/** A place in a frame: the header there, the bytes that the frame has, the bytes that should be. */
struct fw_cursor {
	const uint8_t *at;
	uint32_t have;
	uint32_t left;
};

/** Step over @p n bytes that must be there: an outcome if they are not, else MT_OUTCOMES. */
static inline unsigned int fw_step(struct fw_cursor *c, uint32_t n)
{
	if (unlikely(c->left < n))
		return MT_OUT_MALFORMED;
	if (unlikely(c->have < n))
		return MT_OUT_TRUNCATED;
	c->at += n;
	c->have -= n;
	c->left -= n;
	return MT_OUTCOMES;
}

/** Do @p n bytes lack that are looked at before it is known what they are? As fw_step(). */
static inline unsigned int fw_lacks(const struct fw_cursor *c, uint32_t n)
{
	return c->left < n ? MT_OUT_MALFORMED : c->have < n ? MT_OUT_TRUNCATED : MT_OUTCOMES;
}

static inline unsigned int fw_parse_ipv4(
	struct fw_cursor *c, uint8_t proto, struct fw_packet *p, struct fw_far *far)
{
	const uint8_t *ip = c->at;
	unsigned int out = fw_lacks(c, 20);
	uint32_t header, total;

	if (unlikely(out != MT_OUTCOMES))
		return out;
	header = (ip[0] & 0x0fu) * 4u;
	total = fw_be16(ip + 2);
	if (unlikely(ip[0] >> 4 != 4 || header < 20 || total < header || total > c->left))
		return MT_OUT_MALFORMED;
	if (ip[9] != proto)
		return MT_OUT_NOT_ROCE;
	if (unlikely((fw_be16(ip + 6) & 0x3fffu) != 0)) /* more fragments, or an offset: RFC 791 */
		return MT_OUT_FRAGMENT;
	c->left = total;
	far->v6 = NULL;
	far->marked |= (ip[1] & 3) == 3;
	memcpy(&p->ips, ip + 12, sizeof(p->ips));
	return fw_step(c, header);
}

static inline unsigned int fw_parse_ipv6(struct fw_cursor *c, uint8_t proto, struct fw_far *far)
{
	const uint8_t *ip = c->at;
	unsigned int out = fw_lacks(c, 40);
	uint32_t total;
	uint8_t next;

	if (unlikely(out != MT_OUTCOMES))
		return out;
	total = 40u + fw_be16(ip + 4);
	if (unlikely(ip[0] >> 4 != 6 || total > c->left))
		return MT_OUT_MALFORMED;
	next = ip[6];
	c->left = total;
	far->v6 = ip + 8;
	far->marked |= (ip[1] >> 4 & 3) == 3; /* version 4, traffic class 8, flow label 20 bits */
	out = fw_step(c, 40);
	for (int i = 0; out == MT_OUTCOMES && next != proto; i++) {
		if (next == 44)
			return MT_OUT_FRAGMENT;
		if (next != 0 && next != 43 && next != 60) /* hop-by-hop, routing, destination */
			return MT_OUT_NOT_ROCE;
		if (i == FW_IPV6_EXT_MAX)
			return MT_OUT_MALFORMED;
		out = fw_lacks(c, 8);
		if (out != MT_OUTCOMES)
			return out;
		next = c->at[0];
		out = fw_step(c, (c->at[1] + 1u) * 8u);
	}
	return out;
}

/**
 * Of a BTH that fw_parse_bth() does not take: another transport's, an opcode that no standard
 * knows, lengths that do not fit.
 *
 * @return its outcome, and of @p p opcode, QPN and PSN are filled; MT_OUT_FORM: it may be an atomic
 * of a NIC's own, FW_KIND_ODD, and @p p is as fw_parse_bth() leaves it
 */
unsigned int fw_parse_odd(const uint8_t *bth, uint32_t have, uint32_t left, struct fw_packet *p);

/** BTH and what follows, UDP length already cut to; fills what of @p p is there. */
static inline unsigned int fw_parse_bth(const struct fw_cursor *c, struct fw_packet *p)
{
	const uint8_t *bth = c->at;
	const struct fw_opcode *op;
	uint64_t low; /* QPN and PSN, a byte above each */
	uint32_t tail, first;

	if (unlikely(c->left < FW_BTH_BYTES || c->have < FW_BTH_BYTES))
		return c->left < FW_BTH_BYTES ? MT_OUT_MALFORMED : MT_OUT_TRUNCATED;
	first = fw_be16(bth);
	op = &fw_opcodes[first >> 8];
	low = fw_be64(bth + 4);
	tail = FW_BTH_BYTES + op->ext + (first >> 4 & 3u) + FW_ICRC_BYTES;
	/* low bits of the second byte: transport header version, IBTA 9.2.3 */
	if (unlikely((first & 0x0f) != 0 || op->kind <= FW_KIND_NONE || c->left < tail))
		return fw_parse_odd(bth, c->have, c->left, p);
	p->ext = bth + FW_BTH_BYTES;
	p->have = c->have - FW_BTH_BYTES;
	p->kind = c->have < FW_BTH_BYTES + op->read ? FW_KIND_CUT : op->kind;
	p->payload = c->left - tail;
	p->opcode = (uint8_t)(first >> 8);
	p->psn = (uint32_t)low & 0xffffff;
	p->qpn = (uint32_t)(low >> 32 & 0xffffff) | FW_KEY_V4;
	return MT_OUTCOMES;
}

/** To what UDP carries to @p port, if that is RoCEv2 or VXLAN. */
static inline unsigned int fw_parse_udp(struct fw_cursor *c, uint32_t *port)
{
	const uint8_t *udp = c->at;
	uint32_t length;

	if (unlikely(c->left < 8))
		return MT_OUT_MALFORMED;
	if (unlikely(c->have < 4))
		return MT_OUT_TRUNCATED;
	*port = fw_be16(udp + 2);
	if (*port != FW_ROCE_PORT && *port != FW_VXLAN_PORT)
		return MT_OUT_NOT_ROCE;
	if (unlikely(c->have < 8))
		return MT_OUT_TRUNCATED;
	length = fw_be16(udp + 4);
	if (unlikely(length < 8 || length > c->left))
		return MT_OUT_MALFORMED;
	c->left = length;
	return fw_step(c, 8);
}

/** RoCE of version 1: what is there of its GRH has to be one; IBTA 8.3 and annex A16. */
static inline unsigned int fw_parse_grh(const struct fw_cursor *c)
{
	uint32_t have = RTE_MIN(c->have, c->left);

	if ((have > 0 && c->at[0] >> 4 != 6) || (have > 6 && c->at[6] != 0x1b))
		return MT_OUT_MALFORMED;
	return c->left < 40 + FW_BTH_BYTES + FW_ICRC_BYTES ? MT_OUT_MALFORMED : MT_OUT_ROCEV1;
}

/** MAC control: which one is the word behind the type; IEEE 802.3, annexes 31A and 31D. */
static inline unsigned int fw_parse_mac_control(const struct fw_cursor *c)
{
	unsigned int out = fw_lacks(c, 2);

	if (unlikely(out != MT_OUTCOMES))
		return out;
	return fw_be16(c->at) == 0x0101 ? MT_OUT_PFC : MT_OUT_NOT_ROCE;
}

/** From an Ethernet header to what an IP packet of protocol @p proto carries. */
static inline unsigned int fw_parse_ip(
	struct fw_cursor *c, uint8_t proto, struct fw_packet *p, struct fw_far *far)
{
	unsigned int out = fw_step(c, 14);
	uint16_t type = 0x8100;

	for (int tags = 0; out == MT_OUTCOMES; tags++) {
		type = fw_be16(c->at - 2);
		if (tags == 2 || (type != 0x8100 && type != 0x88a8 && type != 0x9100))
			break;
		out = fw_step(c, 4);
	}
	if (unlikely(out != MT_OUTCOMES))
		return out;
	switch (type) {
	case 0x0800:
		return fw_parse_ipv4(c, proto, p, far);
	case 0x86dd:
		return fw_parse_ipv6(c, proto, far);
	case 0x8915:
		return fw_parse_grh(c);
	case 0x8808:
		return fw_parse_mac_control(c);
	default:
		return MT_OUT_NOT_ROCE;
	}
}

/** From an Ethernet header to what UDP carries. */
static inline unsigned int fw_parse_ethernet(
	struct fw_cursor *c, struct fw_packet *p, struct fw_far *far, uint32_t *port)
{
	unsigned int out = fw_parse_ip(c, FW_PROTO_UDP, p, far);

	return out != MT_OUTCOMES ? out : fw_parse_udp(c, port);
}

/** Over the header of a VXLAN. */
static inline unsigned int fw_step_vxlan(struct fw_cursor *c)
{
	unsigned int out = fw_lacks(c, 1);

	if (unlikely(out != MT_OUTCOMES))
		return out;
	if (!(c->at[0] & 0x08)) /* without a VNI it is none: RFC 7348, section 5 */
		return MT_OUT_NOT_ROCE;
	return fw_step(c, 8);
}

/** Into a VXLAN, one level deep. */
static inline unsigned int fw_parse_vxlan(
	struct fw_cursor *c, struct fw_packet *p, struct fw_far *far)
{
	uint32_t port = 0;
	unsigned int out = fw_step_vxlan(c);

	if (out != MT_OUTCOMES)
		return out;
	out = fw_parse_ethernet(c, p, far, &port);
	if (out == MT_OUT_NOT_ROCE || (out == MT_OUTCOMES && port != FW_ROCE_PORT))
		return MT_OUT_VXLAN;
	return out;
}

#define FW_PLAIN_BYTES (14u + 20u + 8u)

/**
 * Whether a frame is what nearly all are: no VLAN tag, IPv4 without options, no congestion met, no
 * fragment, UDP to port 4791, lengths that agree. One comparison in place of eleven; others go the
 * long way.
 */
static inline bool fw_is_plain(const uint8_t *data, uint32_t len)
{
	uint32_t link, fragment, udp, differs;
	uint16_t port;

	if (unlikely(len < FW_PLAIN_BYTES))
		return false;
	memcpy(&link, data + 12, sizeof(link));
	memcpy(&fragment, data + 20, sizeof(fragment));
	memcpy(&port, data + 36, sizeof(port));
	udp = fw_be16(data + 38);
	/* type, version, options: all zero; then the ECN bits, of which 3 becomes 4 and stays */
	differs = (((link ^ RTE_BE32(0x08004500u)) & RTE_BE32(0xffffff03u)) + RTE_BE32(1u)) &
		  ~RTE_BE32(3u);
	differs |= ((fragment ^ RTE_BE32(0x00000011u)) & RTE_BE32(0x3fff00ffu)) | /* and protocol */
		   (port ^ RTE_BE16(FW_ROCE_PORT)) | (udp + 20u - fw_be16(data + 16));
	return differs == 0 && udp >= 8;
}

/**
 * Parse a frame for which fw_is_plain() holds.
 *
 * @param data the frame, @p len bytes of it in one piece
 * @return MT_OUTCOMES: an RC packet, @p p is filled but for ns, tsc and hash; else what it is
 * instead, and of that p->ips is filled
 */
static inline unsigned int fw_parse_plain(const uint8_t *data, uint32_t len, struct fw_packet *p)
{
	struct fw_cursor c;

	c.at = data + FW_PLAIN_BYTES;
	c.have = len - FW_PLAIN_BYTES;
	c.left = fw_be16(data + 38) - 8u;
	memcpy(&p->ips, data + 26, sizeof(p->ips));
	return fw_parse_bth(&c, p);
}

/**
 * As fw_parse_plain(), of any frame. Addresses are those of the inmost IP header; of IPv6 they are
 * in @p far, and p->ips is not filled.
 */
static inline unsigned int fw_parse_long(
	const uint8_t *data, uint32_t len, struct fw_packet *p, struct fw_far *far)
{
	struct fw_cursor c = {.at = data, .have = len, .left = UINT32_MAX};
	uint32_t port = 0;
	unsigned int out;

	*far = (struct fw_far){NULL, false};
	if (unlikely(len < 14))
		return MT_OUT_MALFORMED; /* shorter than any Ethernet frame: nothing cuts so deep */
	out = fw_parse_ethernet(&c, p, far, &port);
	if (out == MT_OUTCOMES && port == FW_VXLAN_PORT)
		out = fw_parse_vxlan(&c, p, far);
	return out != MT_OUTCOMES ? out : fw_parse_bth(&c, p);
}

#endif
