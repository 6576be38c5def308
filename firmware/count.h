/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file count.h: the hot path, from a parsed packet to a counter.
 *
 * fw_take() is called for every packet of a flow: fw_classify() asks the rules what the packet
 * means (a struct fw_item), fw_apply() adds that to the cells of the flow's epoch. A packet that is
 * not the next one of its flow goes the slow way in flow.c, which ends in fw_apply() too.
 */
#ifndef MOETAP_FW_COUNT_H
#define MOETAP_FW_COUNT_H

#include <rte_prefetch.h>

#include "core.h"
#include "learn_atomic.h"
#include "values.h"
#include "witness.h"

/**
 * A packet that is not the next one of its flow, or of a flow in which others wait.
 *
 * @return outcome
 */
unsigned int fw_take_slow(
	struct fw_core *core, struct fw_flow *f, const struct fw_packet *p, int32_t ahead);

/** Make the flow of a packet; NULL: its addresses are no ranks', or there is no room; counted. */
struct fw_flow *fw_flow_new(struct fw_core *core, const struct fw_packet *p);

/** What the map says of the queue pair @p want; NULL: it does not name it. */
const struct mt_flow *fw_mapped(const struct mt_bank *b, const struct mt_flow *want);

/**
 * The ranks of the flow that @p p is the first known packet of, where ranks share addresses: those
 * of the queue pair, if the map names it, else of the message that @p p begins: the destination
 * has the region that it goes to, and there is the place of its source.
 *
 * @param[in,out] want on entry, the first of the ranks that share each address, and the QPN
 * @return false: they are not to be known by this packet, which is counted
 */
bool fw_place(struct fw_core *core, const struct fw_packet *p, struct mt_flow *want);

/**
 * Open epoch @p label of a flow at @p it. Where no bank is free, the old one goes on, flagged; a
 * flow without an old one then counts in a bank that nobody reads, and the core's overruns say so.
 */
void fw_epoch_open(
	struct fw_core *core, struct fw_flow *f, const struct fw_item *it, uint32_t label);

/** A dispatch or count to @p expert that may begin an epoch of its flow: opens it if it does. */
void fw_flow_step(
	struct fw_core *core, struct fw_flow *f, const struct fw_item *it, uint32_t expert);

/** What was seen of a flow before its first epoch, which it may never have. */
void fw_mark(struct fw_tables *t, struct fw_flow *f, const struct fw_item *it);

/** Begin the next epoch of a source rank at @p it. */
void fw_source_open(
	struct fw_core *core, struct fw_source *s, uint32_t source, const struct fw_item *it);

/** Hold no flow back any more to find its first packet. */
void fw_start_all(struct fw_core *core);

/** Give up holes of flows: all of them, or those that have been open for too long. */
void fw_give_up(struct fw_core *core, bool all);

/**
 * PSNs are missing, nobody knows how many (0), that may be of any phase of a source from @p from to
 * @p to.
 */
void fw_gap_in_phases(struct fw_source *s, uint32_t from, uint32_t to, uint32_t missing);

/** Remember what a dispatch message at @p va meant: see struct fw_flow. */
void fw_window_set(struct fw_flow *f, const struct fw_rule *r, uint64_t va, uint64_t inside,
	const struct fw_item *it);

/* ---- what a packet means ------------------------------------------------------------------- */

/** a modulo n, by the reciprocal of n. */
static inline uint32_t fw_wrap(uint32_t a, uint32_t n, struct rte_reciprocal reciprocal)
{
	return a - rte_reciprocal_divide(a, reciprocal) * n;
}

/** Does the region or length of a rule match? Then *inside is the offset in the parity's area. */
static inline bool fw_rule_matches(const struct fw_rule *r, uint64_t offset, uint32_t length,
	uint64_t *inside, uint8_t *parity)
{
	uint64_t o = offset - r->offset, area = 0;

	if (length - r->length_min > r->length_span)
		return false;
	*parity = FW_NO_PARITY;
	if (!r->region)
		return r->length_step == 0 ||
		       fw_wrap(length - r->length_min, r->length_step, r->step_wrap) == 0;
	if (r->parity_count != 0) {
		area = rte_reciprocal_divide_u64(o, &r->parity_div);
		if (area >= r->parity_count)
			return false;
		o -= area * r->parity_stride;
		*parity = (uint8_t)area;
	}
	*inside = o;
	return o < r->size;
}

static inline const struct mt_rank *fw_rank_of(const struct fw_tables *t, const struct fw_flow *f)
{
	return &mt_bank_ranks(t->config->bank)[fw_cold_of(t, f)->dst];
}

/**
 * What the region of a rule is compared with: @p va from the base that it counts from at the
 * destination @p dst. @p offset is @p va from that rank's own base, which most rules count from.
 */
static inline uint64_t fw_rule_offset(const struct fw_config *c, const struct fw_rule *r,
	const struct mt_rank *dst, uint64_t va, uint64_t offset)
{
	return likely(r->bases == NULL) ? offset : va - r->bases[dst - mt_bank_ranks(c->bank)];
}

/** Index of the expert at the destination @p dst, FW_NO_EXPERT: it cannot be. */
static inline uint16_t fw_rule_expert(const struct fw_tables *t, const struct fw_rule *r,
	const struct fw_flow *f, const struct mt_rank *dst, uint64_t inside)
{
	uint32_t expert = r->expert_fixed, source;

	if (r->type == MT_RULE_QP)
		return fw_cold_of(t, f)->expert;
	if (r->source_count != 0) {
		source = fw_wrap((uint32_t)rte_reciprocal_divide_u64(inside, &r->source_div),
			r->source_count, r->source_wrap);
		if (unlikely(source != fw_cold_of(t, f)->src))
			return FW_NO_EXPERT;
	}
	if (r->expert_count != 0)
		expert = fw_wrap((uint32_t)rte_reciprocal_divide_u64(inside, &r->expert_div),
			r->expert_count, r->expert_wrap);
	return expert < dst->experts ? (uint16_t)expert : FW_NO_EXPERT;
}

/** Give the messages in the window of @p f, counted apart so far, to their cell. */
static inline void fw_add_hits(const struct fw_tables *t, struct fw_flow *f)
{
	struct fw_cell *cell = &fw_epoch_of(t, f)->cell[f->expert];
	uint32_t hits = f->hits;

	__atomic_store_n(&f->hits, hits | FW_ADDING, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	cell->bytes += (uint64_t)hits * f->window_length;
	cell->tokens += hits * f->window_tokens;
	cell->messages += hits;
	__atomic_store_n(&f->hits, 0, __ATOMIC_RELEASE);
}

static inline unsigned int fw_as_dispatch(const struct fw_tables *t, struct fw_flow *f,
	const struct fw_rule *r, const struct mt_rank *dst, uint64_t va, uint64_t inside,
	struct fw_item *it)
{
	if (f->hits != 0)
		fw_add_hits(t, f);
	it->expert = fw_rule_expert(t, r, f, dst, inside);
	f->expert = it->expert;
	f->window_bytes = 0;
	if (unlikely(it->expert == FW_NO_EXPERT)) {
		f->expert = 0; /* of no use, but it is prefetched by */
		it->what = FW_CONTRADICT;
		return MT_OUT_CONTRADICT;
	}
	it->what = FW_DISPATCH;
	it->value = 1;
	if (r->by_bytes)
		it->value = 0;
	else if (r->token_bytes != 0 && it->bytes != r->token_bytes) {
		it->value = it->bytes / r->token_bytes;
		it->fraction = it->bytes % r->token_bytes != 0;
	}
	fw_window_set(f, r, va, inside, it);
	return MT_OUT_DISPATCH;
}

/**
 * A message of it->bytes starts at @p va; @p rules are those that could know it. Lengths come
 * first: they tell most rules apart, and those of all rules lie together.
 */
static __rte_always_inline unsigned int fw_match(const struct fw_tables *t,
	const struct fw_list *rules, struct fw_flow *f, const struct fw_packet *p, uint64_t va,
	struct fw_item *it)
{
	const struct mt_rank *dst = fw_rank_of(t, f);
	uint64_t offset = va - dst->base, inside = 0;
	const struct fw_length *length = rules->length;
	const struct fw_rule *r = rules->rule;

	for (uint32_t n = rules->n; n > 0; n--, r++, length++) {
		if (it->bytes - length->min > length->span ||
			!fw_rule_matches(r, fw_rule_offset(t->config, r, dst, va, offset),
				it->bytes, &inside, &it->parity))
			continue;
		if (r->payload) {
			unsigned int out = fw_values_begin(t, f, r, p, inside, it);

			if (likely(out != MT_OUTCOMES))
				return out;
			continue;
		}
		if (r->phase == MT_PHASE_DISPATCH)
			return fw_as_dispatch(t, f, r, dst, va, inside, it);
		it->what = r->phase == MT_PHASE_COMBINE ? FW_COMBINE : FW_NOTHING;
		return MT_OUT_DISPATCH + r->phase;
	}
	it->what = FW_UNMATCHED;
	return MT_OUT_UNMATCHED;
}

/** Whether a rule takes an operand: 0 announces nothing, so it is neither. */
static inline bool fw_takes(const struct fw_rule *r, int64_t operand)
{
	return r->when == MT_WHEN_ANY || (r->when == MT_WHEN_NEGATIVE ? operand < 0 : operand > 0);
}

/** A message of rule @p r that announces tokens, or is of another phase than dispatch. */
static inline unsigned int fw_as_count(const struct fw_tables *t, const struct fw_flow *f,
	const struct fw_rule *r, const struct mt_rank *dst, uint64_t inside, int64_t operand,
	struct fw_item *it)
{
	int64_t tokens;

	if (r->phase != MT_PHASE_COUNT) {
		it->what = r->phase == MT_PHASE_COMBINE ? FW_COMBINE : FW_NOTHING;
		return MT_OUT_DISPATCH + r->phase;
	}
	/* an operand beyond any count is no count; the bound also keeps the product sane */
	tokens = operand < -INT32_MAX || operand > INT32_MAX
			 ? -1
			 : operand * r->value_scale + r->value_add;
	it->expert = fw_rule_expert(t, r, f, dst, inside);
	if (unlikely(it->expert == FW_NO_EXPERT || tokens < 0 || tokens > INT32_MAX)) {
		it->what = FW_CONTRADICT;
		return MT_OUT_CONTRADICT;
	}
	it->what = r->count_what;
	it->value = (uint32_t)tokens;
	return MT_OUT_COUNT;
}

/** What the rules say of an atomic that has the operand @p raw, signed, for @p va. */
static inline unsigned int fw_read_atomic(const struct fw_tables *t, const struct fw_flow *f,
	uint64_t va, uint64_t raw, struct fw_item *it)
{
	const struct fw_config *c = t->config;
	const struct mt_rank *dst = fw_rank_of(t, f);
	uint64_t offset = va - dst->base, inside = 0;

	for (uint32_t i = 0; i < c->atomics; i++) {
		const struct fw_rule *r = &c->atomic[i];
		int64_t operand = r->value_width == 4 ? (int32_t)raw : (int64_t)raw;

		if (fw_takes(r, operand) &&
			fw_rule_matches(r, fw_rule_offset(c, r, dst, va, offset), r->length_min,
				&inside, &it->parity))
			return fw_as_count(t, f, r, dst, inside, operand, it);
	}
	it->what = FW_UNMATCHED;
	return MT_OUT_UNMATCHED;
}

static inline unsigned int fw_classify_atomic(
	const struct fw_tables *t, struct fw_flow *f, const struct fw_packet *p, struct fw_item *it)
{
	if (unlikely(p->payload != 0 && t->config->learn != NULL))
		return fw_classify_odd(t, f, p, it);
	return fw_read_atomic(t, f, fw_be64(p->ext), fw_be64(p->ext + 12), it);
}

/** The operand of a rule in an immediate. */
static inline int64_t fw_imm_operand(const struct fw_rule *r, uint32_t imm)
{
	uint32_t v = imm >> r->operand_shift & r->operand_mask;
	uint32_t sign = r->operand_mask ^ r->operand_mask >> 1;

	return r->operand_signed && (v & sign) != 0 ? (int64_t)v - r->operand_mask - 1 : v;
}

/** Rules imm: what the immediate of a WRITE of one packet means; MT_OUTCOMES: nothing to them. */
static inline unsigned int fw_classify_imm(
	const struct fw_tables *t, struct fw_flow *f, const struct fw_packet *p, struct fw_item *it)
{
	const struct fw_config *c = t->config;
	uint64_t inside = 0;
	uint32_t imm;

	if (p->have < 20) {
		it->what = FW_TRUNCATED;
		return MT_OUT_TRUNCATED;
	}
	imm = fw_be32(p->ext + 16);
	for (uint32_t i = 0; i < c->imms; i++) {
		const struct fw_rule *r = &c->imm[i];
		uint64_t place = (uint64_t)(imm >> r->place_shift & r->place_mask) * r->place_unit;
		int64_t operand = fw_imm_operand(r, imm);

		if ((imm & r->imm_mask) == r->imm_value && fw_takes(r, operand) &&
			fw_rule_matches(r, place, it->bytes, &inside, &it->parity))
			return fw_as_count(t, f, r, fw_rank_of(t, f), inside, operand, it);
	}
	return MT_OUTCOMES;
}

/** PSNs of a message of @p bytes, when its packets other than the first are not to be seen. */
static inline uint32_t fw_span(uint32_t bytes, uint32_t mtu_log2)
{
	uint64_t n = ((uint64_t)bytes + (1u << mtu_log2) - 1) >> mtu_log2;

	return n == 0 ? 1 : (uint32_t)RTE_MIN(n, (uint64_t)FW_PSN_MASK >> 1);
}

/** A message of one packet, or of more, begins. */
static inline void fw_begin(struct fw_flow *f, const struct fw_packet *p, bool more)
{
	f->message = more ? FW_MSG_OPEN : FW_MSG_NONE;
	/* a FIRST packet is as long as the path MTU, IBTA 9.7.5.1.5 */
	if (more && likely(p->payload != 0))
		f->mtu_log2 = (uint8_t)(31 - __builtin_clz(p->payload));
}

static inline unsigned int fw_classify_write(const struct fw_tables *t, struct fw_flow *f,
	const struct fw_packet *p, const struct fw_opcode *op, struct fw_item *it)
{
	uint64_t va = fw_be64(p->ext);
	bool more = op->more;

	it->bytes = fw_be32(p->ext + 12);
	fw_begin(f, p, more);
	if (more && t->config->heads && likely(p->payload != 0))
		it->span = fw_span(it->bytes, f->mtu_log2);
	if (t->config->by_source && va - f->window < f->window_bytes &&
		it->bytes == f->window_length) {
		it->what = FW_DISPATCH;
		it->expert = f->expert;
		it->parity = f->window_parity;
		it->value = f->window_tokens;
		return MT_OUT_DISPATCH;
	}
	if (t->config->imms != 0 && p->opcode == FW_WRITE_ONLY_IMM) {
		unsigned int out = fw_classify_imm(t, f, p, it);

		if (out != MT_OUTCOMES)
			return out;
	}
	return fw_match(t, &t->config->of_write[op->shows], f, p, va, it);
}

/** A SEND does not say how long it is: its payload is added packet by packet. */
static inline unsigned int fw_classify_send(const struct fw_tables *t, struct fw_flow *f,
	const struct fw_packet *p, const struct fw_opcode *op, struct fw_item *it)
{
	unsigned int out;

	it->bytes = p->payload;
	fw_begin(f, p, op->more);
	out = fw_match(t, &t->config->of_send[op->shows], f, p, 0, it);
	if (op->more && (it->what == FW_DISPATCH || it->what == FW_WITNESS))
		f->message = FW_MSG_ADDS;
	return out;
}

/** A READ request: its response takes as many PSNs; a gap is reported where the MTU is a guess. */
static inline unsigned int fw_classify_read(
	const struct fw_tables *t, struct fw_flow *f, const struct fw_packet *p, struct fw_item *it)
{
	f->message = FW_MSG_NONE;
	it->bytes = fw_be32(p->ext + 12);
	it->span = fw_span(it->bytes, f->mtu_log2 ? f->mtu_log2 : t->config->mtu_log2);
	return fw_match(t, &t->config->of_read, f, p, 0, it);
}

static inline unsigned int fw_classify_body(
	const struct fw_tables *t, struct fw_flow *f, const struct fw_packet *p, struct fw_item *it)
{
	uint8_t message = f->message;

	if (unlikely(message == FW_MSG_VALUES))
		return fw_values_go_on(t, f, p, it);

	if (fw_opcodes[p->opcode].last)
		f->message = FW_MSG_NONE;
	if (message == FW_MSG_NONE)
		return MT_OUT_ORPHAN;
	if (message == FW_MSG_ADDS) {
		it->what = t->config->body_adds;
		it->bytes = p->payload;
		it->expert = f->expert;
	}
	return MT_OUT_BODY;
}

/** What the rules say of a packet; also follows the message that is open in the flow. */
static inline unsigned int fw_classify(
	const struct fw_tables *t, struct fw_flow *f, const struct fw_packet *p, struct fw_item *it)
{
	const struct fw_opcode *op = &fw_opcodes[p->opcode];

	*it = (struct fw_item){.ns = p->ns, .psn = p->psn, .span = 1};
	switch (p->kind) {
	case FW_KIND_CUT:
		f->message = op->more ? FW_MSG_OPEN : FW_MSG_NONE;
		it->what = FW_TRUNCATED;
		return MT_OUT_TRUNCATED;
	case FW_KIND_WRITE:
	case FW_KIND_WRITE_FIRST:
		return fw_classify_write(t, f, p, op, it);
	case FW_KIND_BODY:
		return fw_classify_body(t, f, p, it);
	case FW_KIND_ATOMIC:
		f->message = FW_MSG_NONE;
		return fw_classify_atomic(t, f, p, it);
	case FW_KIND_ODD:
		return fw_classify_odd(t, f, p, it);
	case FW_KIND_SEND:
		return fw_classify_send(t, f, p, op, it);
	case FW_KIND_READ:
		return fw_classify_read(t, f, p, it);
	default:
		break;
	}
	it->what = FW_UNMATCHED;
	f->message = FW_MSG_NONE;
	return MT_OUT_UNMATCHED;
}

/* ---- what it does -------------------------------------------------------------------------- */

/** Whether a new epoch of a source rank begins with @p it. */
static inline bool fw_source_ends(
	const struct fw_config *c, const struct fw_source *s, const struct fw_item *it)
{
	switch (c->split) {
	case FW_SPLIT_PARITY:
		return (it->parity != s->parity && it->parity != FW_NO_PARITY) || s->combined;
	case FW_SPLIT_COMBINE:
		return s->combined;
	default:
		return it->ns > s->last_ns && it->ns - s->last_ns > c->idle_gap_ns;
	}
}

/**
 * Whether a combine ends the epoch of its source. Where parity parts epochs, this matters only to
 * jobs that take the other half for every all-to-all, so that all dispatches have one parity and
 * all combines the other (DeepEP's low-latency kernels in a plain loop). Of jobs whose dispatches
 * take turns, a combine of the other parity is one of the round before, which was overtaken.
 */
static inline bool fw_combine_ends(
	const struct fw_config *c, const struct fw_source *s, const struct fw_item *it)
{
	return c->split != FW_SPLIT_PARITY || (!s->turns && it->parity != s->parity &&
						      it->parity != FW_NO_PARITY && s->label != 0);
}

/** A source combines. */
static inline void fw_source_combines(
	const struct fw_config *c, struct fw_source *s, const struct fw_item *it)
{
	s->combined |= fw_combine_ends(c, s, it);
	s->combined_ns = it->ns;
}

/** The cell of an expert, in the epoch that @p it belongs to, which is opened if it is not yet. */
static inline struct fw_cell *fw_cell_of(
	struct fw_core *core, struct fw_flow *f, const struct fw_item *it, uint32_t expert)
{
	const struct fw_tables *t = core->tables;
	struct fw_source *s;
	uint32_t src;

	if (likely(!t->config->by_source)) {
		if (unlikely(
			    it->parity != f->parity || fw_epoch_of(t, f)->cell[expert].counts != 0))
			fw_flow_step(core, f, it, expert);
	} else {
		src = fw_cold_of(t, f)->src;
		s = &t->sources[src];
		if (unlikely(s->label == 0 || fw_source_ends(t->config, s, it)))
			fw_source_open(core, s, src, it);
		s->last_ns = RTE_MAX(s->last_ns, it->ns);
		if (unlikely(f->label != s->label))
			fw_epoch_open(core, f, it, s->label);
	}
	return &fw_epoch_of(t, f)->cell[expert];
}

static inline void fw_apply_dispatch(
	struct fw_core *core, struct fw_flow *f, const struct fw_item *it)
{
	struct fw_cell *cell = fw_cell_of(core, f, it, it->expert);

	cell->bytes += it->bytes;
	cell->tokens += it->value;
	cell->messages++;
	f->last_ns = it->ns;
	if (unlikely(it->fraction))
		fw_epoch_of(core->tables, f)->flags |= FW_EPOCH_FRACTION;
}

static inline void fw_apply_count(struct fw_core *core, struct fw_flow *f, const struct fw_item *it)
{
	struct fw_cell *cell;

	/* before the count is there: with it, tokens are compared */
	if (f->hits != 0)
		fw_add_hits(core->tables, f);
	f->window_bytes = 0;
	cell = fw_cell_of(core, f, it, it->expert);
	cell->announced += it->value;
	cell->counts++;
	f->last_ns = it->ns;
}

/** What is not counted, but spoils or explains the quality of the epoch. */
static inline void fw_apply_other(struct fw_tables *t, struct fw_flow *f, const struct fw_item *it)
{
	struct fw_epoch *e = fw_epoch_of(t, f);

	if (unlikely(t->config->witness) && fw_witness_apply(t, f, it))
		return;
	if (it->what == FW_CONTRADICT)
		f->flags |= FW_FLOW_DOUBT;
	if (f->label == 0) {
		fw_mark(t, f, it);
		return;
	}
	if (it->what == FW_BYTES)
		e->cell[it->expert].bytes += it->bytes;
	e->gaps += it->what == FW_LOST;
	e->unmatched += it->what == FW_UNMATCHED;
	e->contradict += it->what == FW_CONTRADICT;
	e->truncated += it->what == FW_TRUNCATED;
}

static inline void fw_apply(struct fw_core *core, struct fw_flow *f, const struct fw_item *it)
{
	struct fw_tables *t = core->tables;

	switch (it->what) {
	case FW_NOTHING:
		break;
	case FW_DISPATCH:
		fw_apply_dispatch(core, f, it);
		break;
	case FW_COUNT:
		fw_apply_count(core, f, it);
		break;
	case FW_COMBINE:
		if (t->config->by_source)
			fw_source_combines(t->config, &t->sources[fw_cold_of(t, f)->src], it);
		else if (t->config->witness)
			t->sources[fw_cold_of(t, f)->src].combined = true;
		break;
	case FW_VALUES:
		fw_values_apply(core, f, it);
		break;
	default:
		fw_apply_other(t, f, it);
	}
}

/** Whether a packet most likely is a message in the window of its flow: fw_hit() knows. */
static inline bool fw_may_hit(
	const struct fw_config *c, const struct fw_flow *f, const struct fw_packet *p)
{
	return (c->hit_kinds >> p->kind & 1 & (f->window_bytes != 0)) != 0;
}

/**
 * Fetch what fw_take() reads: the cell, and the epoch and what is cold of the flow, since an epoch
 * may begin. Where fw_hit() most likely needs none of it, what is always at hand is fetched, since
 * a branch would often be guessed wrong.
 */
static inline void fw_prefetch(
	const struct fw_tables *t, const struct fw_flow *f, const struct fw_packet *p)
{
	size_t needed = (size_t)fw_may_hit(t->config, f, p) - 1;
	size_t cell = sizeof(struct fw_epoch) + f->expert * sizeof(struct fw_cell);
	const char *epoch = t->banks + (f->epoch * (size_t)t->bank_bytes & needed);

	rte_prefetch0(epoch + t->config->beside);
	rte_prefetch0(epoch + (cell & needed));
	rte_prefetch0(&t->cold[(size_t)(f - t->flows) & needed]);
}

/** Count a packet that is a message in the window of its flow, and its turn. @return whether */
static inline bool fw_hit(const struct fw_config *c, struct fw_flow *f, const struct fw_packet *p)
{
	if (p->psn != f->next || f->block != 0 || !(c->hit_kinds >> p->kind & 1) ||
		fw_be64(p->ext) - f->window >= f->window_bytes ||
		fw_be32(p->ext + 12) != f->window_length || f->window_parity != f->parity)
		return false;
	f->hits++;
	f->last_ns = p->ns;
	f->message = p->kind == FW_KIND_WRITE_FIRST ? FW_MSG_OPEN : FW_MSG_NONE;
	f->next = (p->psn + 1) & FW_PSN_MASK;
	return true;
}

/** Count a packet of flow @p f that fw_hit() did not. @return outcome */
static inline unsigned int fw_take(
	struct fw_core *core, struct fw_flow *f, const struct fw_packet *p)
{
	int32_t ahead = fw_psn_ahead(p->psn, f->next);
	struct fw_item it;
	unsigned int out;

	if (unlikely(ahead != 0 || f->block != 0))
		return fw_take_slow(core, f, p, ahead);
	out = fw_classify(core->tables, f, p, &it);
	fw_apply(core, f, &it);
	f->next = (it.psn + it.span) & FW_PSN_MASK;
	if (core->tables->config->source_labels)
		fw_cold_of(core->tables, f)->passed =
			core->tables->sources[fw_cold_of(core->tables, f)->src].label;
	return out;
}

/** The flow of a packet, made if it is new; NULL: it has none, which is counted. */
static inline struct fw_flow *fw_flow_of(struct fw_core *core, const struct fw_packet *p)
{
	const struct fw_tables *t = core->tables;
	uint32_t i = p->hash & t->mask;

	while (unlikely(((t->flows[i].ips ^ p->ips) | (t->flows[i].qpn ^ p->qpn)) != 0)) {
		if (t->flows[i].qpn == 0)
			return fw_flow_new(core, p);
		i = (i + 1) & t->mask;
	}
	return &t->flows[i];
}

#endif
