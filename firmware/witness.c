/* SPDX-License-Identifier: BSD-3-Clause */
#include "witness.h"
#include "count.h"

size_t fw_witness_room(const struct fw_config *config)
{
	return config->witness ? (size_t)config->bank->ranks * FW_EPOCHS * config->bank->experts *
					 sizeof(uint64_t)
			       : 1;
}

static struct fw_source *source_of(const struct fw_tables *t, const struct fw_flow *f)
{
	return &t->sources[fw_cold_of(t, f)->src];
}

/**
 * The next phase of a source. In one that nobody told counts in, it is that one again. @p sure:
 * what came before it, and nothing else, is of phases before.
 */
static void begin(const struct fw_tables *t, uint32_t src, bool sure)
{
	struct fw_source *s = &t->sources[src];
	bool again = s->label != 0 && !s->told;
	uint32_t label = s->label + !again, at = label & (FW_EPOCHS - 1);

	__atomic_store_n(&s->phase[at].witness, 0, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	memset(fw_witness_cells(t, src, label), 0, t->config->bank->experts * sizeof(uint64_t));
	/* cells of a phase without counts: of a dispatch that repeats routes, or of the one before
	 * it, when a combine came late */
	if (again && s->used)
		s->phase[(label - 1) & (FW_EPOCHS - 1)].gaps++;
	if (!again)
		s->phase[at].gaps = 0;
	s->phase[at].gaps += s->carry + !sure;
	s->carry = 0;
	__atomic_store_n(&s->phase[at].witness, label, __ATOMIC_RELEASE);
	s->label = label;
	s->combined = s->told = s->used = false;
}

uint32_t fw_witness_told(const struct fw_tables *t, const struct fw_flow *f)
{
	struct fw_cold *cold = fw_cold_of(t, f);
	struct fw_source *s = &t->sources[cold->src];

	if (s->combined || s->label == 0) {
		begin(t, cold->src, s->label != 0);
	} else if (cold->born == s->label) {
		/* told again, and no combine was seen: what came first of it is in the one before
		 */
		s->phase[s->label & (FW_EPOCHS - 1)].gaps++;
		begin(t, cold->src, false);
	}
	cold->born = s->label;
	s->told = true;
	return s->label;
}

unsigned int fw_witness_begin(const struct fw_tables *t, struct fw_flow *f, const struct fw_rule *r,
	uint64_t inside, struct fw_item *it)
{
	it->expert = fw_rule_expert(t, r, f, fw_rank_of(t, f), inside);
	f->expert = it->expert;
	f->window_bytes = 0;
	if (it->expert == FW_NO_EXPERT) {
		f->expert = 0;
		it->what = FW_CONTRADICT;
		return MT_OUT_CONTRADICT;
	}
	it->what = FW_WITNESS;
	it->value = r->by_bytes ? 0 : r->token_bytes != 0 ? it->bytes / r->token_bytes : 1;
	return MT_OUT_DISPATCH;
}

void fw_witness_follow(const struct fw_tables *t, const struct fw_flow *f)
{
	const struct fw_source *s = source_of(t, f);

	if (s->combined || s->label == 0)
		begin(t, fw_cold_of(t, f)->src, s->label != 0);
}

void fw_witness_add(const struct fw_tables *t, const struct fw_flow *f, uint32_t expert, uint64_t n)
{
	struct fw_source *s = source_of(t, f);

	fw_witness_follow(t, f);
	s->used = true;
	fw_witness_cells(
		t, fw_cold_of(t, f)->src, s->label)[fw_rank_of(t, f)->first_expert + expert] += n;
}

void fw_witness_miss(const struct fw_tables *t, const struct fw_flow *f, uint32_t from, uint32_t to)
{
	struct fw_source *s = source_of(t, f);

	/* after a combine it may as well be of the phase that nothing else of was seen yet */
	if (t->config->witness)
		fw_gap_in_phases(s, from, RTE_MAX(to, s->label + s->combined), 1);
}

bool fw_witness_apply(const struct fw_tables *t, const struct fw_flow *f, const struct fw_item *it)
{
	if (it->what == FW_TRUNCATED || it->what == FW_LOST)
		fw_witness_miss(t, f, fw_cold_of(t, f)->passed, 0);
	if (it->what != FW_WITNESS)
		return false;
	fw_witness_add(t, f, it->expert, t->config->witness_bytes != 0 ? it->bytes : it->value);
	return true;
}
