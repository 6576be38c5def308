/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The load of a round and its witness: where both are counted in the same cells (phase count), and
 * where the witness is counted by phases of its source (witness.h).
 */
#include "map.h"
#include "rounds_priv.h"
#include "witness.h"

#define SILENT 8u /* phases after which a flow is not in use any more */

/** What a difference between the load and its witness says. */
static void differs(struct mt_round *m, bool missing)
{
	m->witness_differ += !missing;
	m->witness_gaps += missing;
}

/** Compare announced with counted tokens, of one cell; @p gaps: packets missing in its pair. */
static void compare_cell(struct fw_rounds *r, size_t cell, uint32_t gaps)
{
	struct mt_round *m = r->round;
	uint32_t *tokens = &mt_round_tokens(m)[cell], announced = r->announced[cell];
	bool missing = announced > *tokens || gaps != 0;

	if (r->counts[cell] < r->config->announcers) {
		m->counts_missing++;
		if (!r->config->witness)
			m->witness_gaps++;
		return;
	}
	if (!r->config->witness)
		m->witness_compared++;
	if (announced == *tokens && r->counts[cell] == r->config->announcers)
		return;
	m->disagreements++;
	if (announced > *tokens)
		m->tokens_unseen += announced - *tokens;
	differs(m, missing);
	if (r->config->announced_first)
		*tokens = announced;
}

void fw_compare_pair(struct fw_rounds *r, uint32_t src, uint32_t dst)
{
	const struct mt_rank *d = &mt_bank_ranks(r->config->bank)[dst];
	const struct mt_pair *p = &mt_round_pairs(r->round)[src * ranks_of(r) + dst];

	for (uint32_t e = 0; e < d->experts; e++)
		compare_cell(
			r, (size_t)src * r->config->bank->experts + d->first_expert + e, p->gaps);
}

/* ---- by phases ------------------------------------------------------------------------------- */

/**
 * Whether packets of a pair may be missing in a phase of its source: some are, or its flows were
 * not all seen to go on after it. One that was silent for long is not waited for.
 */
static bool may_miss(const struct fw_rounds *r, uint32_t src, uint32_t dst, uint32_t phase)
{
	const struct fw_tables *t = tables_of(r, r->phase[src * ranks_of(r) + dst].core);

	if (load32(&t->sources[src].phase[phase & (FW_EPOCHS - 1)].gaps) != 0)
		return true;
	FOREACH_LANE(r, l)
	FOREACH_FLOW(l, f)
	{
		uint32_t passed;

		if (f->src != src || f->dst != dst)
			continue;
		passed = load32(&fw_cold_of(t, f->f)->passed);
		if (f->f->block != 0 || phase - passed < SILENT)
			return true;
	}
	return false;
}

/** Whether the witness of a pair in a phase is there, and if so how much of it differs. */
static bool count_different(struct fw_rounds *r, uint32_t src, uint32_t dst, uint32_t phase,
	uint32_t *different, uint32_t *compared)
{
	const struct fw_config *c = r->config;
	const struct fw_tables *t = tables_of(r, r->phase[src * ranks_of(r) + dst].core);
	const struct mt_rank *d = &mt_bank_ranks(c->bank)[dst];
	const uint64_t *cell = fw_witness_cells(t, src, phase) + d->first_expert;
	const uint32_t *label = &t->sources[src].phase[phase & (FW_EPOCHS - 1)].witness;
	size_t load = (size_t)src * c->bank->experts + d->first_expert;
	uint64_t unit = c->witness_bytes != 0 ? c->witness_bytes : 1, sum = 0, loads = 0;
	bool same = __atomic_load_n(label, __ATOMIC_ACQUIRE) == phase;

	*different = 0;
	for (uint32_t e = 0; e < d->experts; e++) {
		uint64_t n = __atomic_load_n(&cell[e], __ATOMIC_RELAXED);

		sum += n;
		loads += mt_round_tokens(r->round)[load + e] * unit;
		*different += n != mt_round_tokens(r->round)[load + e] * unit;
	}
	*compared = d->experts;
	if (c->witness_type == MT_RULE_LENGTH) { /* it knows no experts */
		*compared = d->experts != 0;
		*different = sum != loads;
	}
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	same &= load32(label) == phase;
	r->witnessed[src * ranks_of(r) + dst] |= same && sum != 0;
	return same;
}

/** Compare what counts say of a pair with its witness. */
static void compare_phase(struct fw_rounds *r, uint32_t src, uint32_t dst)
{
	size_t pair = src * ranks_of(r) + dst;
	uint32_t phase = r->phase[pair].label, different, compared;
	struct mt_round *m = r->round;
	bool whole, missing;

	if (phase == 0)
		return;
	whole = phase != FW_PHASES && count_different(r, src, dst, phase, &different, &compared);
	if (!r->witnessed[pair])
		return; /* it takes another way than the tap's, such as ranks of one node */
	if (!whole) {
		m->witness_gaps++;
		return;
	}
	m->witness_compared += compared;
	if (different == 0)
		return;
	missing = mt_round_pairs(m)[pair].gaps != 0 || may_miss(r, src, dst, phase);
	*(missing ? &m->witness_gaps : &m->witness_differ) += different;
	m->disagreements += missing ? 0 : different;
}

void fw_compare_end(struct fw_rounds *r)
{
	struct mt_round *m = r->round;
	const struct mt_rule *witness = mt_bank_witness(r->config->bank);

	m->load_from = mt_bank_load(r->config->bank)->type;
	if (witness == NULL)
		return;
	if (r->config->learn != NULL && !r->counted) { /* counts were there, but not to be read */
		m->witness_from = m->load_from;
		m->load_from = witness->type;
		m->witness = MT_WITNESS_ABSENT;
		return;
	}
	m->witness_from = witness->type;
	for (uint32_t i = 0; r->config->witness && i < ranks_of(r) * ranks_of(r); i++)
		compare_phase(r, i / ranks_of(r), i % ranks_of(r));
	m->witness = m->witness_differ != 0	? MT_WITNESS_DISAGREED
		     : m->witness_gaps != 0	? MT_WITNESS_GAP
		     : m->witness_compared != 0 ? MT_WITNESS_AGREED
						: MT_WITNESS_ABSENT;
}
