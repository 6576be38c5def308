/* SPDX-License-Identifier: BSD-3-Clause */
#include "tcp.h"
#include "count.h"
#include "map.h"
#include "match.h"

#define FLAG_SYN 0x02
#define FLAG_ACK 0x10
#define LONGEST (1ull << 40)	   /* frame; a longer one is no frame */
#define LONGEST_GUESS (1ull << 30) /* of a frame that is unsure */
#define MOST_BYTES (1ull << 48)
#define PARITIES                                                                                   \
	251u /* rounds that are told apart by their number; a prime, so nothing alternates */
#define PSN_SHIFT 10 /* what rounds.c takes for PSNs are KiB of the stream */

/* ---- memory -------------------------------------------------------------------------------- */

static size_t tcp_bytes(const struct fw_tables *t)
{
	return (t->tcp_mask + 1ul) * sizeof(struct fw_tcp);
}

bool fw_tcp_reserve(struct fw_tables *t)
{
	if (!t->config->tcp)
		return true;
	t->tcp_mask = rte_align32pow2(t->max * 2) - 1;
	t->tcp = fw_reserve(tcp_bytes(t));
	t->segments = fw_reserve(FW_TCP_HELD * sizeof(*t->segments));
	return t->tcp != NULL && t->segments != NULL;
}

void fw_tcp_release(struct fw_tables *t)
{
	if (t->segments != NULL)
		for (uint32_t i = 0; i < t->segments_touched; i++)
			rte_pktmbuf_free(t->segments[i].m);
	if (t->tcp != NULL)
		fw_release(t->tcp, tcp_bytes(t));
	fw_release(t->segments, FW_TCP_HELD * sizeof(*t->segments));
}

/* ---- from a frame to a segment --------------------------------------------------------------- */

/** From an Ethernet header to a TCP or UDP header, which may lie in a VXLAN. */
static __rte_always_inline unsigned int find_header(
	struct fw_cursor *at, uint8_t proto, bool wrapped, struct fw_packet *p, struct fw_far *far)
{
	unsigned int out = MT_OUTCOMES;
	uint32_t port;

	if (wrapped)
		out = fw_parse_ethernet(at, p, far, &port);
	if (wrapped && out == MT_OUTCOMES)
		out = fw_step_vxlan(at);
	return out != MT_OUTCOMES ? out : fw_parse_ip(at, proto, p, far);
}

/** The rest of a segment. @return bytes of its header, 0: it cannot be */
static uint32_t read_tcp(const struct fw_cursor *at, struct fw_packet *p)
{
	uint32_t header = (at->at[12] >> 4) * 4u;

	if (header < 20 || header > at->left)
		return 0;
	p->payload = at->left - header;
	p->opcode = at->at[13];
	p->psn = fw_be32(at->at + 4);
	return header;
}

/** The rest of a datagram. @return bytes of its header, 0: it cannot be */
static uint32_t read_udp(const struct fw_cursor *at, struct fw_packet *p)
{
	uint32_t length = fw_be16(at->at + 4);

	if (length < FW_UDP_BYTES || length > at->left)
		return 0;
	p->payload = length - FW_UDP_BYTES;
	p->opcode = 0;
	p->psn = 0;
	return FW_UDP_BYTES;
}

/** fw_tcp_parse(), of a job whose frames are datagrams or not: code of its own for each. */
static __rte_always_inline unsigned int parse(const struct fw_config *c, const struct rte_mbuf *m,
	bool udp, bool wrapped, struct fw_packet *p)
{
	const uint8_t *data = rte_pktmbuf_mtod(m, const uint8_t *);
	struct fw_cursor at = {.at = data, .have = m->data_len, .left = UINT32_MAX};
	struct fw_far far = {NULL, false};
	unsigned int out = find_header(&at, udp ? FW_PROTO_UDP : FW_PROTO_TCP, wrapped, p, &far);
	uint32_t least = udp ? FW_UDP_BYTES : 20, header, src, dst;
	uint16_t from, to;

	if (out != MT_OUTCOMES)
		return out;
	if (at.left < least)
		return MT_OUT_MALFORMED;
	if (at.have < least)
		return MT_OUT_TRUNCATED;
	from = fw_be16(at.at);
	to = fw_be16(at.at + 2);
	if ((from < c->bank->port_min || from > c->bank->port_max) &&
		(to < c->bank->port_min || to > c->bank->port_max))
		return MT_OUT_NOT_ROCE;
	header = udp ? read_udp(&at, p) : read_tcp(&at, p);
	if (header == 0)
		return MT_OUT_MALFORMED;
	p->qpn = far.v6 == NULL ? FW_KEY_V4 : FW_KEY_V6;
	if (far.v6 != NULL) {
		p->ips = fw_key_v6(fw_addr_v6(c, far.v6) - 1, fw_addr_v6(c, far.v6 + 16) - 1);
		src = fw_rank_at(c, (uint32_t)p->ips);
		dst = fw_rank_at(c, (uint32_t)(p->ips >> 32));
	} else {
		src = fw_rank_v4(c, (uint32_t)p->ips);
		dst = fw_rank_v4(c, (uint32_t)(p->ips >> 32));
	}
	if (src == 0 || dst == 0 || src == dst)
		return MT_OUT_UNKNOWN_RANK;
	if (!udp && p->payload == 0 && (p->opcode & FLAG_SYN) == 0)
		return MT_OUT_RESPONSE;
	p->ext = at.at;
	p->have = (uint32_t)(at.at - data) + header;
	p->hash = fw_hash(p->ips, fw_be32(at.at));
	p->kind = FW_KIND_TCP;
	return MT_OUTCOMES;
}

unsigned int fw_tcp_parse(
	const struct fw_config *c, const struct rte_mbuf *m, bool wrapped, struct fw_packet *p)
{
	return c->datagrams ? parse(c, m, true, wrapped, p) : parse(c, m, false, wrapped, p);
}

/** The connection of a segment, made if it is new; NULL: there is no room. */
static struct fw_tcp *find(struct fw_core *core, const struct fw_packet *p)
{
	struct fw_tables *t = core->tables;
	uint32_t ports = fw_be32(p->ext), i = p->hash & t->tcp_mask;
	struct fw_tcp *c;

	for (; t->tcp[i].key != 0; i = (i + 1) & t->tcp_mask)
		if (t->tcp[i].ips == p->ips && t->tcp[i].ports == ports && t->tcp[i].key == p->qpn)
			return &t->tcp[i];
	if (t->tcp_used == t->max)
		return NULL;
	t->tcp_used++;
	c = &t->tcp[i];
	*c = (struct fw_tcp){.ips = p->ips,
		.ports = ports,
		.key = p->qpn,
		.high = (1ull << 32) + p->psn,
		.want = (1ull << 32) + p->psn,
		.src = fw_key_src(t->config, p->ips, p->qpn) - 1,
		.dst = fw_key_dst(t->config, p->ips, p->qpn) - 1,
		.state = FW_TCP_BLIND};
	return c;
}

/* ---- what a connection knows ----------------------------------------------------------------- */

static struct fw_source *source_of(const struct fw_tables *t, const struct fw_tcp *c)
{
	return &t->sources[c->src];
}

/** A hole in it is open, or where its frames are is not known: no round of it is whole. */
static void set_block(struct fw_tcp *c)
{
	if (c->flow != NULL)
		c->flow->block = c->waiting != 0 || c->state != FW_TCP_SURE;
}

/** Make the flow of a connection that is the job's. @return whether it has one */
static bool make_flow(struct fw_core *core, struct fw_tcp *c, struct fw_segment *seg)
{
	struct fw_packet p = {.ips = c->ips, .psn = (uint32_t)(c->high >> PSN_SHIFT) & FW_PSN_MASK};

	if (c->flow != NULL)
		return true;
	p.qpn = c->key | ((uint32_t)(c - core->tables->tcp) & FW_KEY_QPN);
	p.hash = fw_hash(p.ips, p.qpn);
	c->flow = fw_flow_new(core, &p);
	if (c->flow != NULL) {
		fw_cold_of(core->tables, c->flow)->passed = source_of(core->tables, c)->label;
		return true;
	}
	c->state = FW_TCP_STRANGER;
	seg->outcome = MT_OUTCOMES; /* it was counted: no room */
	return false;
}

/** The next frame is to begin at @p at. */
static void expect(struct fw_core *core, struct fw_tcp *c, uint64_t at)
{
	c->want = c->begin = c->end = at;
	c->got = 0;
	c->values = c->value = 0;
	c->need = core->tables->config->tcp_header;
}

/** The chain of frames broke. Where ports are named, a connection is the job's from its start on.
 */
static void lose(struct fw_core *core, struct fw_tcp *c, struct fw_segment *seg)
{
	const struct mt_bank *b = core->tables->config->bank;
	bool named = b->port_min != 0 || b->port_max != UINT16_MAX;

	c->state = FW_TCP_BLIND;
	c->chain = 0;
	c->got = 0;
	c->values = 0;
	if (c->flow == NULL && c->has_isn && !named)
		c->state = FW_TCP_STRANGER;
	else if (c->flow == NULL && named)
		make_flow(core, c, seg);
	set_block(c);
}

/** Another frame is where it should be. */
static void believe(struct fw_core *core, struct fw_tcp *c)
{
	const struct fw_config *config = core->tables->config;
	struct fw_source *s = source_of(core->tables, c);

	if (c->state != FW_TCP_UNSURE)
		return;
	c->chain = (uint8_t)RTE_MIN(c->chain + 1u, FW_TCP_CHAIN);
	/* where only telling again parts rounds, one that was not seen is never made up for */
	if (c->chain < FW_TCP_CHAIN || (config->split == FW_SPLIT_AGAIN && !config->tcp_combine))
		return;
	c->state = FW_TCP_SURE;
	fw_gap_in_phases(s, fw_cold_of(core->tables, c->flow)->passed, s->label + 1, 1);
	fw_cold_of(core->tables, c->flow)->passed = s->label;
	set_block(c);
}

/* ---- frames ---------------------------------------------------------------------------------- */

/** A field of the header; *good: it is a number of bytes. */
static uint64_t field(const struct mt_field *f, const uint8_t *head, uint64_t most, bool *good)
{
	uint64_t v = fw_number(head + f->at, f->width, f->order);

	if (v > most || (f->add < 0 && v < (uint64_t) - (int64_t)f->add)) {
		*good = false;
		return 0;
	}
	return v + (uint64_t)(int64_t)f->add;
}

/** Whether a frame is of a rule, as far as its header was read. */
static inline enum fw_verdict judge(const struct mt_rule *r, const uint8_t *head, unsigned int got)
{
	if (fw_judge(r->match, r->matches, head, got) == FW_IS_NOT)
		return FW_IS_NOT;
	return got >= r->header ? FW_IS : FW_MAY_BE;
}

/** The epoch of an earlier round; one that is not known any more is the one before. */
static uint32_t label_of_round(const struct fw_source *s, uint8_t parity)
{
	for (uint32_t back = 1; back < RTE_MIN(FW_EPOCHS, s->label); back++)
		if (s->phase[(s->label - back) & (FW_EPOCHS - 1)].parity == parity)
			return s->label - back;
	return s->label - 1;
}

/**
 * The epoch of a dispatch message: where its source was when it came, not where it is now. @return
 * false: that epoch is not to be had any more, a gap
 */
static bool open_epoch(struct fw_core *core, struct fw_tcp *c, const struct fw_item *it)
{
	const struct fw_config *config = core->tables->config;
	struct fw_source *s = source_of(core->tables, c);
	struct fw_flow *f = c->flow;
	uint32_t label = c->label;

	if (config->split == FW_SPLIT_PARITY) {
		/* the number of the round says more than when it came */
		label = s->label == 0 ? 1 : s->label + 1;
		if (s->label != 0 && it->value == s->round)
			label = s->label;
		else if (s->label != 0 && (int32_t)(it->value - s->round) < 0)
			label = label_of_round(s, it->parity);
	} else {
		label += label == 0 || (config->split == FW_SPLIT_AGAIN && f->label == label) ||
			 c->ended;
	}
	c->ended = false;
	if ((int32_t)(s->label - label) > 0) {
		fw_gap_in_phases(s, label, s->label, 1);
		c->label = label;
		return false;
	}
	if (s->label != label) {
		fw_source_open(core, s, c->src, it);
		s->round = it->value;
	}
	c->label = s->label;
	s->last_ns = RTE_MAX(s->last_ns, it->ns);
	if (f->label != s->label)
		fw_epoch_open(core, f, it, s->label);
	f->last_ns = RTE_MAX(f->last_ns, it->ns);
	return true;
}

/** Where the integers of a message at @p begin are. @return false: they do not fit in it */
static bool begin_values(
	struct fw_core *core, struct fw_tcp *c, const struct mt_rule *r, uint64_t begin)
{
	const struct mt_rank *dst = &mt_bank_ranks(core->tables->config->bank)[c->dst];
	uint64_t at = begin + r->header + r->payload_at;

	at += r->of == MT_OF_ALL ? (uint64_t)dst->first_expert * r->value_width : 0;
	if (at + (uint64_t)dst->experts * r->value_width > c->end)
		return false;
	if (dst->experts == 0)
		return true;
	c->want = at;
	c->need = r->value_width;
	c->got = 0;
	c->value = 0;
	c->values = (uint16_t)RTE_MIN(dst->experts, (uint32_t)UINT16_MAX);
	c->rule = (uint8_t)(r - mt_bank_rules(core->tables->config->bank));
	return true;
}

/** The number of the round, with the field's highest bit at that of 32 bits, so that it wraps. */
static void number_round(const struct mt_rule *r, const uint8_t *head, struct fw_item *it)
{
	const struct mt_field *f = &r->frame_round;
	uint64_t id = fw_number(head + f->at, f->width, f->order);

	it->parity = f->width == 0 ? FW_NO_PARITY : (uint8_t)(id % PARITIES);
	it->value = (uint32_t)id << (f->width < 4 ? 32 - 8 * f->width : 0) % 32;
}

/** A message of phase dispatch. @return outcome */
static unsigned int dispatch(struct fw_core *core, struct fw_tcp *c, const struct mt_rule *r,
	struct fw_item *it, const uint8_t *head, uint64_t begin)
{
	struct fw_tables *t = core->tables;
	struct fw_cell *cell;
	bool good = true;
	uint64_t bytes = 0;

	if (!mt_rule_has_integers(r)) {
		bytes = r->frame_bytes.width == 0 && r->frame_bytes.add == 0 && t->config->datagrams
				? c->end - begin - r->header /* all that is behind it */
				: field(&r->frame_bytes, head, MOST_BYTES, &good);
		good &= r->expert_fixed < mt_bank_ranks(t->config->bank)[c->dst].experts;
	}
	number_round(r, head, it);
	if (!good) {
		it->what = FW_CONTRADICT;
		fw_apply_other(t, c->flow, it);
		return MT_OUT_CONTRADICT;
	}
	if (!open_epoch(core, c, it))
		return MT_OUT_DISPATCH;
	c->values_label = c->flow->label;
	if (mt_rule_has_integers(r)) {
		if (!begin_values(core, c, r, begin)) {
			it->what = FW_CONTRADICT;
			fw_apply_other(t, c->flow, it);
			return MT_OUT_CONTRADICT;
		}
		return MT_OUT_DISPATCH;
	}
	cell = &fw_epoch_of(t, c->flow)->cell[r->expert_fixed];
	cell->bytes += bytes;
	cell->messages++;
	return MT_OUT_DISPATCH;
}

/** An integer was read. */
static void add_value(struct fw_core *core, struct fw_tcp *c, const uint8_t *at)
{
	const struct fw_tables *t = core->tables;
	const struct mt_rule *r = &mt_bank_rules(t->config->bank)[c->rule];
	struct fw_epoch *e = fw_epoch_of(t, c->flow);
	struct fw_source *s = source_of(t, c);
	int64_t tokens = fw_values_tokens(at, r->value_width, r->encoding);

	if (c->flow->label == 0 || c->flow->label != c->values_label) {
		fw_gap_in_phases(s, c->values_label, s->label, 1);
	} else if (tokens < 0) {
		e->contradict++;
	} else {
		e->cell[c->value].tokens += (uint32_t)tokens;
		e->cell[c->value].messages++;
	}
	c->got = 0;
	if (++c->value == c->values)
		expect(core, c, c->end);
}

/** A frame is of rule @p r. @return outcome */
static unsigned int take_frame(struct fw_core *core, struct fw_tcp *c, const struct mt_rule *r,
	struct fw_segment *seg, const uint8_t *head)
{
	struct fw_source *s = source_of(core->tables, c);
	struct fw_item it = {.ns = seg->ns};
	bool good = true;
	uint64_t begin = c->begin;
	uint64_t length = core->tables->config->datagrams
				  ? seg->bytes
				  : field(&r->frame_length, head, LONGEST, &good);

	if (!good || length < r->header || (c->state == FW_TCP_UNSURE && length > LONGEST_GUESS)) {
		lose(core, c, seg);
		return MT_OUT_UNMATCHED;
	}
	if (!make_flow(core, c, seg))
		return MT_OUT_NO_ROOM;
	believe(core, c);
	it.psn = c->flow->next;
	expect(core, c, begin + length);
	if (r->phase == MT_PHASE_DISPATCH)
		return dispatch(core, c, r, &it, head, begin);
	if (r->phase == MT_PHASE_COMBINE) {
		c->ended = true;
		if (s->label == c->label)
			s->combined = true;
	}
	return MT_OUT_DISPATCH + r->phase;
}

/** Bytes of the stream, in an mbuf or in one piece. */
struct span {
	uint64_t at;
	uint32_t bytes, have;
	const struct rte_mbuf *m;
	uint32_t offset;
	const uint8_t *flat;
};

/** @p n bytes, where they lie; in @p to, if that is in several pieces. */
static const uint8_t *find_bytes(const struct span *x, uint64_t from, uint32_t n, uint8_t *to)
{
	uint32_t at = (uint32_t)(from - x->at);

	return x->flat != NULL ? x->flat + at : rte_pktmbuf_read(x->m, x->offset + at, n, to);
}

/** What is wanted, as far as it is there. @return all that was asked for, NULL: more has to come */
static const uint8_t *take_bytes(struct fw_tcp *c, const struct span *x, uint32_t n)
{
	uint8_t *to = c->head + c->got;
	const uint8_t *p = find_bytes(x, c->want, n, to);
	bool whole = n == c->need;

	if (!whole && p != to)
		memcpy(to, p, n);
	c->got = (uint8_t)(c->got + n);
	c->want += n;
	if (c->got < c->need)
		return NULL;
	return whole ? p : c->head;
}

static void read_span(
	struct fw_core *core, struct fw_tcp *c, struct fw_segment *seg, const struct span *x);

static void note(struct fw_segment *seg, unsigned int out)
{
	if (seg->outcome == MT_OUT_BODY)
		seg->outcome = (uint8_t)out;
}

/** A longer header was tried before: @p got bytes, some of them of what comes behind this one. */
static void read_rest(struct fw_core *core, struct fw_tcp *c, struct fw_segment *seg,
	uint64_t begin, const uint8_t *head, uint32_t got)
{
	const struct span rest = {.at = begin, .bytes = got, .have = got, .flat = head};

	if (c->state <= FW_TCP_UNSURE)
		read_span(core, c, seg, &rest);
}

/** A frame of a rule, whose header is as short as can be or shorter than was read. */
static void read_frame(struct fw_core *core, struct fw_tcp *c, const struct mt_rule *r,
	struct fw_segment *seg, const uint8_t *head, uint32_t got)
{
	uint8_t before[MT_MAX_HEADER]; /* c->head is for what comes next */
	uint64_t begin = c->begin;

	if (got > r->header)
		memcpy(before, head, got);
	note(seg, take_frame(core, c, r, seg, head));
	if (got > r->header)
		read_rest(core, c, seg, begin, before, got);
}

/** As much of a header as was asked for is there, in @p head. */
static void read_head(
	struct fw_core *core, struct fw_tcp *c, struct fw_segment *seg, const uint8_t *head)
{
	const struct mt_bank *b = core->tables->config->bank;
	uint32_t got = c->got;

	for (uint32_t i = 0; i < b->rules; i++) {
		const struct mt_rule *r = &mt_bank_rules(b)[i];
		enum fw_verdict v = judge(r, head, got);

		if (v == FW_IS_NOT)
			continue;
		if (v == FW_IS) {
			read_frame(core, c, r, seg, head, got);
			return;
		}
		if (head != c->head)
			memcpy(c->head, head, got);
		c->need = r->header;
		return;
	}
	lose(core, c, seg);
	note(seg, MT_OUT_UNMATCHED);
	if (c->flow != NULL && c->flow->label != 0)
		fw_epoch_of(core->tables, c->flow)->unmatched++;
}

/** The header is cut away. */
static void cut(struct fw_core *core, struct fw_tcp *c, struct fw_segment *seg)
{
	struct fw_item it = {.ns = seg->ns, .what = FW_TRUNCATED};

	lose(core, c, seg);
	note(seg, MT_OUT_TRUNCATED);
	if (c->flow != NULL)
		fw_apply_other(core->tables, c->flow, &it);
}

static void read_span(
	struct fw_core *core, struct fw_tcp *c, struct fw_segment *seg, const struct span *x)
{
	while (c->state <= FW_TCP_UNSURE && c->want >= x->at && c->want < x->at + x->bytes) {
		uint32_t n =
			(uint32_t)RTE_MIN((uint64_t)(c->need - c->got), x->at + x->bytes - c->want);
		const uint8_t *head;

		if (c->want + n > x->at + x->have) {
			cut(core, c, seg);
			return;
		}
		head = take_bytes(c, x, n);
		if (head == NULL)
			return;
		if (c->values != 0)
			add_value(core, c, head);
		else
			read_head(core, c, seg, head);
	}
}

/* ---- segments -------------------------------------------------------------------------------- */

/** What a segment has of what is wanted. */
static void read_segment(struct fw_core *core, struct fw_tcp *c, struct fw_segment *seg)
{
	struct span x = {.at = seg->at,
		.bytes = seg->bytes,
		.have = seg->have,
		.m = seg->m,
		.offset = seg->offset};

	if ((int32_t)(seg->label - c->label) > 0) {
		c->label = seg->label;
		c->ended = seg->ended;
	} else if (seg->label == c->label) {
		c->ended |= seg->ended;
	}
	if (c->state == FW_TCP_BLIND && seg->at >= c->want) {
		uint64_t want = c->want;

		expect(core, c, seg->at);
		c->state = FW_TCP_UNSURE;
		c->chain = 0;
		read_span(core, c, seg, &x);
		if (c->state == FW_TCP_BLIND)
			c->want = RTE_MAX(want, c->end);
		if (c->state == FW_TCP_BLIND && seg->outcome == MT_OUT_UNMATCHED)
			seg->outcome = MT_OUT_ORPHAN;
		return;
	}
	if (c->state == FW_TCP_BLIND)
		note(seg, MT_OUT_ORPHAN);
	if (c->state == FW_TCP_STRANGER)
		note(seg, MT_OUT_UNMATCHED);
	read_span(core, c, seg, &x);
}

static void count_outcome(struct fw_core *core, const struct fw_segment *seg)
{
	if (seg->outcome != MT_OUTCOMES)
		core->outcome[seg->outcome]++;
}

/** The first segment that waits is read. */
static void read_first(struct fw_core *core, struct fw_tcp *c)
{
	struct fw_tables *t = core->tables;
	uint32_t i = c->waits - 1;
	struct fw_segment *seg = &t->segments[i];

	c->waits = seg->next;
	c->waiting--;
	t->segments_used -= seg->m->nb_segs;
	read_segment(core, c, seg);
	count_outcome(core, seg);
	rte_pktmbuf_free(seg->m);
	seg->m = NULL;
	seg->next = t->free_segment;
	t->free_segment = i + 1;
}

static bool has_hole(const struct fw_tables *t, const struct fw_tcp *c)
{
	return c->waits != 0 && c->state <= FW_TCP_UNSURE && t->segments[c->waits - 1].at > c->want;
}

/** Those that waited and need wait no longer. */
static void drain(struct fw_core *core, struct fw_tcp *c)
{
	while (c->waits != 0 && !has_hole(core->tables, c))
		read_first(core, c);
}

/** What the first segment waits for does not come. */
static void give_up(struct fw_core *core, struct fw_tcp *c)
{
	if (has_hole(core->tables, c))
		lose(core, c, &core->tables->segments[c->waits - 1]);
	drain(core, c);
}

/** Its turn will come: it waits, sorted. @return false: there is no room for it */
static bool keep(struct fw_core *core, struct fw_tcp *c, const struct fw_segment *seg)
{
	struct fw_tables *t = core->tables;
	uint32_t *link = &c->waits, i;

	if (t->segments_used + seg->m->nb_segs > FW_TCP_HELD)
		return false;
	if (t->free_segment != 0) {
		i = t->free_segment - 1;
		t->free_segment = t->segments[i].next;
	} else if (t->segments_touched < FW_TCP_HELD) {
		i = t->segments_touched++;
	} else {
		return false;
	}
	while (*link != 0 && t->segments[*link - 1].at <= seg->at)
		link = &t->segments[*link - 1].next;
	t->segments[i] = *seg;
	t->segments[i].next = *link;
	*link = i + 1;
	rte_pktmbuf_refcnt_update(seg->m, 1);
	t->segments_used += seg->m->nb_segs;
	c->waiting++;
	return true;
}

/** Whether the hole of a connection has been open for long enough. */
static bool has_waited(const struct fw_tables *t, const struct fw_tcp *c)
{
	return c->waiting >= FW_TCP_WAIT ||
	       source_of(t, c)->label - t->segments[c->waits - 1].label >= FW_HOLD_LABELS;
}

void fw_tcp_give_up(struct fw_core *core, bool all)
{
	struct fw_tables *t = core->tables;
	uint64_t now = rte_rdtsc();

	core->tsc = now;
	for (uint32_t i = 0; i < t->segments_touched && t->segments_used != 0; i++) {
		struct fw_tcp *c = &t->tcp[t->segments[i].tcp];

		if (t->segments[i].m == NULL)
			continue;
		while (c->waits != 0 &&
			(all || now - t->segments[c->waits - 1].tsc > core->hold_tsc))
			give_up(core, c);
		set_block(c);
	}
}

/** A connection begins, perhaps another one between the same ports. */
static void take_syn(struct fw_core *core, struct fw_tcp *c, const struct fw_packet *p)
{
	const struct mt_bank *b = core->tables->config->bank;
	struct fw_source *s = source_of(core->tables, c);
	uint32_t skip = p->opcode & FLAG_ACK ? b->accept_bytes : b->connect_bytes;

	if (c->has_isn && c->isn == p->psn)
		return; /* once more */
	while (c->waits != 0)
		give_up(core, c);
	if (c->flow != NULL) {
		fw_gap_in_phases(s, fw_cold_of(core->tables, c->flow)->passed, s->label, 0);
		c->flow->flags |= FW_FLOW_RESYNC;
	}
	c->isn = p->psn;
	c->has_isn = true;
	c->high = (1ull << 32) + p->psn + 1;
	c->state = FW_TCP_SURE;
	c->chain = 0;
	expect(core, c, c->high + skip);
	set_block(c);
}

/** Where labels of the source stand, for when this segment is read. */
static void stamp(const struct fw_tables *t, const struct fw_tcp *c, struct fw_segment *seg)
{
	const struct fw_source *s = source_of(t, c);

	seg->label = s->label;
	if (t->config->split == FW_SPLIT_COMBINE || t->config->split == FW_SPLIT_AGAIN)
		seg->ended = s->combined;
	if (t->config->split == FW_SPLIT_IDLE)
		seg->ended = seg->ns > s->last_ns && seg->ns - s->last_ns > t->config->idle_gap_ns;
}

/**
 * A datagram is a frame of its own. None has a number, so that nobody can tell that one is missing,
 * or came twice; rounds.c says so of all of their rounds.
 */
static void take_datagram(
	struct fw_core *core, struct fw_tcp *c, const struct fw_packet *p, struct rte_mbuf *m)
{
	struct fw_segment seg = {.m = m,
		.at = c->high,
		.ns = p->ns,
		.bytes = p->payload,
		.have = m->pkt_len > p->have ? RTE_MIN(m->pkt_len - p->have, p->payload) : 0,
		.offset = p->have,
		.outcome = MT_OUT_BODY};

	c->high += p->payload;
	c->state = FW_TCP_SURE;
	stamp(core->tables, c, &seg);
	expect(core, c, seg.at);
	read_segment(core, c, &seg);
	if (seg.outcome == MT_OUT_BODY) /* it ended in the header */
		seg.outcome = MT_OUT_UNMATCHED;
	c->state = FW_TCP_SURE;
	count_outcome(core, &seg);
}

static void take_payload(
	struct fw_core *core, struct fw_tcp *c, const struct fw_packet *p, struct rte_mbuf *m)
{
	struct fw_tables *t = core->tables;
	struct fw_segment seg = {.m = m,
		.tcp = (uint32_t)(c - t->tcp),
		.at = c->high + (uint64_t)(int64_t)(int32_t)(p->psn - (uint32_t)c->high),
		.ns = p->ns,
		.tsc = p->tsc,
		.bytes = p->payload,
		.have = m->pkt_len > p->have ? RTE_MIN(m->pkt_len - p->have, p->payload) : 0,
		.offset = p->have,
		.outcome = MT_OUT_BODY};
	bool old = seg.at + seg.bytes <= c->high;

	c->high = RTE_MAX(c->high, seg.at + seg.bytes);
	stamp(t, c, &seg);
	if (c->state <= FW_TCP_UNSURE && seg.at > c->want && keep(core, c, &seg)) {
		if (has_waited(t, c))
			give_up(core, c);
		return;
	}
	if (c->state <= FW_TCP_UNSURE && seg.at > c->want) {
		while (c->waits != 0)
			give_up(core, c);
		if (c->state <= FW_TCP_UNSURE && seg.at > c->want)
			lose(core, c, &seg);
	}
	if (old && c->state <= FW_TCP_UNSURE && seg.at + seg.bytes <= c->want)
		seg.outcome = MT_OUT_DUPLICATE;
	read_segment(core, c, &seg);
	drain(core, c);
	if (seg.outcome == MT_OUT_DUPLICATE && c->flow != NULL && c->flow->label != 0 &&
		c->flow->label == source_of(t, c)->label)
		fw_epoch_of(t, c->flow)->duplicates++;
	count_outcome(core, &seg);
}

void fw_tcp_take(struct fw_core *core, const struct fw_packet *p, struct rte_mbuf *m)
{
	struct fw_tables *t = core->tables;
	struct fw_tcp *c = find(core, p);

	core->tsc = p->tsc;
	if (c == NULL) {
		core->outcome[MT_OUT_NO_ROOM]++;
		return;
	}
	if (p->opcode & FLAG_SYN) {
		take_syn(core, c, p);
		core->outcome[MT_OUT_CONTROL]++;
		return;
	}
	if (t->config->datagrams)
		take_datagram(core, c, p, m);
	else
		take_payload(core, c, p, m);
	set_block(c);
	if (c->flow == NULL)
		return;
	__atomic_store_n(
		&c->flow->next, (uint32_t)(c->high >> PSN_SHIFT) & FW_PSN_MASK, __ATOMIC_RELAXED);
	if (c->flow->block == 0)
		fw_cold_of(t, c->flow)->passed = source_of(t, c)->label;
}
