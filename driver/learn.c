/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Frames to messages: whatever carries an address, each once, in the order in which it was posted.
 */
#include "learn_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGES_MAX (1u << 20)
#define FLOW_SLOTS (1u << 17)
#define FLOWS_MAX (FLOW_SLOTS / 2)
#define LIFE (1 << 14) /* packets: no retransmission goes back so far */

#define ETHER_IPV4 0x0800
#define ETHER_IPV6 0x86dd
#define PORT_ROCE 4791
#define PORT_VXLAN 4789

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static uint64_t get64(const uint8_t *p)
{
	return (uint64_t)get32(p) << 32 | get32(p + 4);
}

int mt_learn_new(const uint8_t (*address)[16], uint32_t ranks, struct mt_learn **l)
{
	struct mt_learn *n = calloc(1, sizeof(*n));

	if (n == NULL)
		return -ENOMEM;
	n->slots = calloc(FLOW_SLOTS, sizeof(*n->slots));
	if (n->slots == NULL) {
		free(n);
		return -ENOMEM;
	}
	n->ranks = ranks < MT_LEARN_RANKS ? ranks : MT_LEARN_RANKS;
	n->open = ranks == 0;
	for (uint32_t i = 0; i < n->ranks; i++)
		memcpy(n->address[i], address[i], 16);
	*l = n;
	return 0;
}

void mt_learn_free(struct mt_learn *l)
{
	if (l == NULL)
		return;
	free(l->msgs);
	free(l->flows);
	free(l->slots);
	free(l);
}

const struct mt_learn_seen *mt_learn_seen(const struct mt_learn *l)
{
	return &l->seen;
}

/** A request on its way: addresses and what follows the UDP header. */
struct packet {
	uint8_t src[16], dst[16];
	const uint8_t *bth;
	uint32_t left; /**< bytes from the BTH on */
};

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

static void set_ipv4(uint8_t to[16], const uint8_t *from)
{
	memcpy(to, mapped, 12);
	memcpy(to + 12, from, 4);
}

/** Bytes of the headers up to UDP's payload; 0: this is not UDP, or cut. */
static uint32_t ip_bytes(const uint8_t *p, uint32_t left, uint16_t type, struct packet *out)
{
	uint32_t at;
	uint8_t next;

	if (type == ETHER_IPV4 && left >= 20) {
		at = (p[0] & 15u) * 4;
		if (p[9] != 17 || at < 20 || (get16(p + 6) & 0x3fff) != 0)
			return 0;
		set_ipv4(out->src, p + 12);
		set_ipv4(out->dst, p + 16);
		return at + 8;
	}
	if (type != ETHER_IPV6 || left < 40)
		return 0;
	memcpy(out->src, p + 8, 16);
	memcpy(out->dst, p + 24, 16);
	next = p[6];
	at = 40;
	while ((next == 0 || next == 43 || next == 60) && left >= at + 8) {
		next = p[at];
		at += (p[at + 1] + 1u) * 8;
	}
	return next == 17 ? at + 8 : 0;
}

/** Finds the BTH, also in a VXLAN. */
static bool find_bth(const uint8_t *p, uint32_t left, struct packet *out, bool inside)
{
	uint32_t at = 12, skip;
	uint16_t type, port;

	if (left < 14)
		return false;
	type = get16(p + at);
	while ((type == 0x8100 || type == 0x88a8 || type == 0x9100) && left >= at + 6) {
		at += 4;
		type = get16(p + at);
	}
	at += 2;
	if (left < at)
		return false;
	skip = ip_bytes(p + at, left - at, type, out);
	if (skip == 0 || left < at + skip)
		return false;
	port = get16(p + at + skip - 6);
	at += skip;
	if (port == PORT_VXLAN && !inside && left > at + 8)
		return find_bth(p + at + 8, left - at - 8, out, true);
	out->bth = p + at;
	out->left = left - at;
	return port == PORT_ROCE && out->left >= 12;
}

/** The rank of an address, or -1. */
static int rank_of(struct mt_learn *l, const uint8_t *address)
{
	for (uint32_t i = 0; i < l->ranks; i++)
		if (memcmp(l->address[i], address, 16) == 0)
			return (int)i;
	if (!l->open || l->ranks == MT_LEARN_RANKS)
		return -1;
	memcpy(l->address[l->ranks], address, 16);
	return (int)l->ranks++;
}

/** The flow of a packet; NULL: there are too many, or no memory. */
static struct learn_flow *flow_of(struct mt_learn *l, uint16_t src, uint16_t dst, uint32_t qpn)
{
	uint64_t hash = ((uint64_t)src << 40 ^ (uint64_t)dst << 24 ^ qpn) * 0x9e3779b97f4a7c15u;
	uint32_t at = (uint32_t)(hash >> 32) % FLOW_SLOTS;
	struct learn_flow *f;

	for (; l->slots[at] != 0; at = (at + 1) % FLOW_SLOTS) {
		f = &l->flows[l->slots[at] - 1];
		if (f->src == src && f->dst == dst && f->qpn == qpn)
			return f;
	}
	if (l->flow_count == FLOWS_MAX)
		return NULL;
	if (l->flow_count == l->flow_room) {
		l->flow_room = l->flow_room > 0 ? 2 * l->flow_room : 64;
		f = realloc(l->flows, l->flow_room * sizeof(*f));
		if (f == NULL)
			return NULL;
		l->flows = f;
	}
	f = &l->flows[l->flow_count++];
	*f = (struct learn_flow){.src = src, .dst = dst, .qpn = qpn};
	l->slots[at] = l->flow_count;
	return f;
}

/** Unwraps a PSN; a jump is a new life of the queue pair. */
static uint64_t order_of(struct learn_flow *f, uint32_t psn)
{
	int32_t delta = (int32_t)((psn - (uint32_t)f->psn) << 8) >> 8;

	if (!f->met)
		f->psn = (1u << 24) + psn;
	else if (delta > LIFE || delta < -LIFE) {
		f->life++;
		f->psn = (1u << 24) + psn;
	} else
		f->psn += (uint64_t)(int64_t)delta;
	f->met = true;
	return f->life << 40 | f->psn;
}

static int keep(struct mt_learn *l, const struct learn_msg *m)
{
	struct learn_msg *more;

	if (l->count == MESSAGES_MAX)
		return 1;
	if (l->count == l->room) {
		l->room = l->room > 0 ? 2 * l->room : 4096;
		more = realloc(l->msgs, l->room * sizeof(*more));
		if (more == NULL)
			return -ENOMEM;
		l->msgs = more;
	}
	l->msgs[l->count++] = *m;
	l->sorted = false;
	return 0;
}

int mt_learn_add(struct mt_learn *l, const struct mt_learn_frame *frame)
{
	struct learn_msg m = {0};
	struct learn_flow *f;
	struct packet p;
	int src, dst;
	uint8_t op;

	l->seen.frames++;
	if (!find_bth(frame->data, frame->captured, &p, false))
		return 0;
	op = p.bth[0];
	l->seen.vendor += op >= 0xe0 || (op >= 0x15 && op < 0x20 && op != 0x16 && op != 0x17);
	if (op >= 0x15 || (op >= 0x0d && op <= 0x12))
		return 0;
	src = rank_of(l, p.src);
	dst = rank_of(l, p.dst);
	if (src < 0 || dst < 0 || src == dst) {
		l->seen.strangers++;
		return 0;
	}
	l->seen.roce++;
	l->firsts += op == 0x06;
	l->behind += op == 0x07 || op == 0x08;
	l->seen.sends += op == 0x00 || op == 0x04 || op == 0x05;
	l->seen.reads += op == 0x0c;
	f = flow_of(l, (uint16_t)src, (uint16_t)dst, get32(p.bth + 4) & 0xffffff);
	if (f == NULL)
		return l->flow_count == FLOWS_MAX ? 1 : -ENOMEM;
	m.order = order_of(f, get32(p.bth + 8) & 0xffffff);
	m.flow = (uint32_t)(f - l->flows);
	if ((op == 0x06 || op == 0x0a || op == 0x0b) && p.left >= 28) {
		m.kind = LEARN_WRITE;
		m.va = get64(p.bth + 12);
		m.length = get32(p.bth + 24);
		l->seen.writes++;
	} else if (op == 0x14 && p.left >= 32) {
		m.kind = LEARN_ATOMIC;
		m.va = get64(p.bth + 12);
		m.operand = (int64_t)get64(p.bth + 24);
		l->seen.atomics++;
	} else {
		l->seen.cut += op == 0x06 || op == 0x0a || op == 0x0b || op == 0x14;
		return 0;
	}
	l->seen.heads = l->firsts > 0 && l->behind == 0;
	return keep(l, &m);
}
