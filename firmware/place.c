/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Ranks that share an address: which of them a flow is of. Asked for the first packet of a flow,
 * and for all that come before one that tells; other packets find their flow as ever.
 */
#include "count.h"

/** The beginning of a message: the rules that could know it, where it goes, how long it is. */
struct head {
	const struct fw_list *rules;
	uint64_t va, operand;
	uint32_t bytes;
};

/** Whether no other rank has the address of the first of those that have it. */
static bool alone(const struct fw_config *c, uint32_t first)
{
	return c->shares[first] == MT_MAX_RANKS;
}

static bool is_among(const struct fw_config *c, uint32_t first, uint32_t rank)
{
	while (first != rank && first != MT_MAX_RANKS)
		first = c->shares[first];
	return first == rank;
}

/** A queue pair has one rank at either end, so that its name tells both. */
static bool is_named(const struct fw_config *c, struct mt_flow *want)
{
	struct mt_flow f = *want;

	for (f.src = want->src; f.src != MT_MAX_RANKS; f.src = c->shares[f.src])
		for (f.dst = want->dst; f.dst != MT_MAX_RANKS; f.dst = c->shares[f.dst])
			if (fw_mapped(c->bank, &f) != NULL) {
				*want = f;
				return true;
			}
	return false;
}

/** @return MT_OUTCOMES: a message begins; else what the packet is */
static unsigned int read_head(const struct fw_config *c, const struct fw_packet *p, struct head *h)
{
	unsigned int shows = fw_opcodes[p->opcode].shows;
	bool odd = p->kind == FW_KIND_ODD ||
		   (p->kind == FW_KIND_ATOMIC && p->payload != 0 && c->learn != NULL);

	if (p->kind == FW_KIND_CUT)
		return MT_OUT_TRUNCATED;
	if (p->kind == FW_KIND_BODY)
		return MT_OUT_ORPHAN;
	if (odd && !fw_odd_known(c, p))
		return MT_OUT_FORM;
	*h = (struct head){.bytes = p->payload};
	if (odd || p->kind == FW_KIND_ATOMIC) {
		h->rules = &c->of_atomic;
		if (odd)
			return fw_odd_read(c, p, &h->va, &h->operand) ? MT_OUTCOMES
								      : MT_OUT_TRUNCATED;
		h->va = fw_be64(p->ext);
		h->operand = fw_be64(p->ext + 12);
		return MT_OUTCOMES;
	}
	if (p->kind == FW_KIND_SEND) {
		h->rules = &c->of_send[shows];
		return MT_OUTCOMES;
	}
	if (p->kind != FW_KIND_WRITE && p->kind != FW_KIND_WRITE_FIRST && p->kind != FW_KIND_READ)
		return MT_OUT_UNMATCHED;
	h->rules = p->kind == FW_KIND_READ ? &c->of_read : &c->of_write[shows];
	h->va = fw_be64(p->ext);
	h->bytes = fw_be32(p->ext + 12);
	return MT_OUTCOMES;
}

/** Whether a message is one of rule @p r, if it goes to rank @p dst. */
static bool is_of(const struct fw_config *c, const struct fw_rule *r, uint32_t dst,
	const struct head *h, uint64_t *inside)
{
	const struct mt_rank *rank = &mt_bank_ranks(c->bank)[dst];
	bool atomic = r->type == MT_RULE_ATOMIC;
	int64_t operand = r->value_width == 4 ? (int32_t)h->operand : (int64_t)h->operand;
	uint8_t parity;

	return (!atomic || fw_takes(r, operand)) &&
	       fw_rule_matches(r, fw_rule_offset(c, r, rank, h->va, h->va - rank->base),
		       atomic ? r->length_min : h->bytes, inside, &parity);
}

/** The rule that knows a message, and the first rank to which it would go by it; NULL: none. */
static const struct fw_rule *rule_of(const struct fw_config *c, const struct head *h,
	uint32_t first, uint32_t *dst, uint64_t *inside)
{
	for (*dst = first; *dst != MT_MAX_RANKS; *dst = c->shares[*dst])
		for (uint32_t i = 0; i < h->rules->n; i++)
			if (is_of(c, &h->rules->rule[i], *dst, h, inside))
				return &h->rules->rule[i];
	return NULL;
}

/** Whether rounds are the same without the messages of a rule. */
static bool is_idle(const struct fw_config *c, const struct fw_rule *r)
{
	return r->phase == MT_PHASE_CONTROL || (r->phase == MT_PHASE_COMBINE && !c->source_labels);
}

/** The ranks of a message that rule @p r knows. @return MT_OUTCOMES: here they are */
static unsigned int ranks_of(const struct fw_config *c, const struct fw_rule *r, uint32_t dst,
	uint64_t inside, struct mt_flow *want)
{
	uint32_t src = want->src;

	if (r->source_count != 0)
		src = fw_wrap((uint32_t)rte_reciprocal_divide_u64(inside, &r->source_div),
			r->source_count, r->source_wrap);
	else if (!alone(c, src))
		src = MT_MAX_RANKS;
	if (src != MT_MAX_RANKS && src != dst && is_among(c, want->src, src) &&
		(r->region || alone(c, want->dst))) {
		want->src = src;
		want->dst = dst;
		return MT_OUTCOMES;
	}
	return is_idle(c, r) ? MT_OUT_DISPATCH + r->phase : MT_OUT_CONTRADICT;
}

bool fw_place(struct fw_core *core, const struct fw_packet *p, struct mt_flow *want)
{
	const struct fw_config *c = core->tables->config;
	const struct fw_rule *r;
	uint64_t inside = 0;
	unsigned int out;
	uint32_t dst;
	struct head h;

	if (alone(c, want->src) && want->src == want->dst) {
		core->outcome[MT_OUT_UNKNOWN_RANK]++;
		return false;
	}
	if ((alone(c, want->src) && alone(c, want->dst)) || is_named(c, want))
		return true;
	out = read_head(c, p, &h);
	if (out == MT_OUTCOMES && c->imms != 0 && p->opcode == FW_WRITE_ONLY_IMM) {
		out = MT_OUT_CONTRADICT; /* an immediate tells no rank */
	} else if (out == MT_OUTCOMES) {
		r = rule_of(c, &h, want->dst, &dst, &inside);
		out = r == NULL ? MT_OUT_UNMATCHED : ranks_of(c, r, dst, inside, want);
	}
	if (out == MT_OUTCOMES)
		return true;
	core->outcome[out]++;
	/* who is missing is missing in all rounds from here on, so they all say it */
	if (out == MT_OUT_CONTRADICT || out == MT_OUT_TRUNCATED)
		__atomic_store_n(&core->tables->unplaced, 1, __ATOMIC_RELAXED);
	return false;
}
