/* SPDX-License-Identifier: BSD-3-Clause */
/* What only the whole of a map can tell: what may stand in any order, and what does not go
 * together. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "map_priv.h"

static int resolve_ranks(struct build *b)
{
	struct mt_bank *h = &b->head;

	for (uint32_t i = 0; i < h->ranks; i++) {
		struct line_rank *r = &b->ranks[i];

		if (!r->seen)
			return map_bad(b, 1, "rank %u is missing: ranks are 0 to %u without holes",
				i, h->ranks - 1);
		if (!r->has_experts && b->experts_per_rank == 0)
			return map_bad(b, r->line,
				"rank %u: no experts; give it 'experts: [first, count]', or the "
				"map "
				"'experts-per-rank'",
				i);
		if (!r->has_experts) {
			r->r.first_expert = i * b->experts_per_rank;
			r->r.experts = b->experts_per_rank;
		}
		if (r->r.first_expert + r->r.experts > MT_MAX_EXPERTS)
			return map_bad(b, r->line, "rank %u: too many experts: at most %u in all",
				i, MT_MAX_EXPERTS);
		if (r->r.first_expert + r->r.experts > h->experts)
			h->experts = r->r.first_expert + r->r.experts;
	}
	if (h->ranks < 2)
		return map_bad(
			b, 1, "a map has at least 2 ranks: nothing crosses a wire between fewer");
	if (h->experts == 0)
		return map_bad(b, 1, "no rank holds an expert");
	if ((uint64_t)h->ranks * h->experts > MT_MAX_CELLS)
		return map_bad(b, 1, "%u ranks with %u experts make more than %u cells", h->ranks,
			h->experts, MT_MAX_CELLS);
	return 0;
}

static int judge_experts(struct build *b)
{
	uint32_t *owner = calloc(b->head.experts, sizeof(*owner));
	int ret = 0;

	if (owner == NULL)
		return mt_fail(b->err, -ENOMEM, "%s: out of memory", b->name);
	for (uint32_t i = 0; i < b->head.ranks && ret == 0; i++) {
		const struct mt_rank *r = &b->ranks[i].r;

		for (uint32_t e = r->first_expert; e < r->first_expert + r->experts; e++) {
			if (owner[e] != 0) {
				ret = map_bad(b, b->ranks[i].line,
					"expert %u is at rank %u and at rank %u", e, owner[e] - 1,
					i);
				break;
			}
			owner[e] = i + 1;
		}
	}
	free(owner);
	return ret;
}

/** Either all ranks say their node, or each is one of its own; and something crosses the tap. */
static int resolve_nodes(struct build *b)
{
	const struct line_rank *first = &b->ranks[0];
	bool apart = false;

	for (uint32_t i = 0; i < b->head.ranks; i++) {
		struct line_rank *r = &b->ranks[i];

		if (r->has_node != first->has_node)
			return map_bad(b, r->line,
				"rank %u has %s 'node', but rank 0 (line %u) has %s: all ranks "
				"say it, or none",
				i, r->has_node ? "a" : "no", first->line,
				r->has_node ? "none" : "one");
		if (!r->has_node)
			r->r.node = r->first; /* who shares a NIC is on one node */
		apart |= r->r.node != first->r.node;
		if (r->r.node != b->ranks[r->first].r.node)
			return map_bad(b, r->line,
				"ranks %u and %u share an address, so they are on one node",
				r->first, i);
	}
	if (b->within_line != 0 && !first->has_node)
		return map_bad(b, b->within_line,
			"'within-node' has no use where no rank says its 'node'");
	if (!apart && b->head.within_node == MT_WITHIN_UNSEEN)
		return map_bad(b, first->line,
			"all ranks are on node %u, and the tap does not see traffic within a node: "
			"no load could be counted, or estimated from what is counted; is "
			"'within-node: seen' right?",
			first->r.node);
	return 0;
}

static int by_address(const void *x, const void *y)
{
	const struct line_addr *a = x, *b = y;
	int order = memcmp(a->a.ip, b->a.ip, sizeof(a->a.ip));

	return order != 0 ? order : (a->a.rank > b->a.rank) - (a->a.rank < b->a.rank);
}

/**
 * The ranks that have the address at @p i, @p n of them, as they stand there: they are the same at
 * every address that one of them has.
 */
static int take_sharers(struct build *b, uint32_t i, uint32_t n)
{
	const struct line_addr *a = &b->addrs[i];
	uint32_t first = a->a.rank;

	b->shared |= n > 1;
	for (uint32_t j = 0; j < n; j++) {
		struct line_rank *r = &b->ranks[a[j].a.rank];

		if (r->first == first && r->addrs == b->ranks[first].addrs)
			continue;
		return map_bad(b, a[j].line,
			"ranks %u and %u share the address in line %u, but not all of their "
			"addresses: ranks of one NIC have the same list",
			r->first < first ? r->first : first, a[j].a.rank, a->line);
	}
	return 0;
}

static int judge_addresses(struct build *b)
{
	uint32_t first = 0;
	int ret = 0;

	if (b->head.addrs == 0)
		return 0;
	qsort(b->addrs, b->head.addrs, sizeof(*b->addrs), by_address);
	for (uint32_t i = 0; i < b->head.addrs; i++) {
		const struct line_addr *a = &b->addrs[i];
		struct line_rank *r = &b->ranks[a->a.rank];

		if (i > 0 && by_address(a - 1, a) == 0)
			return map_bad(b, a->line, "rank %u has the address in line %u twice",
				a->a.rank, a[-1].line);
		if (i == 0 || memcmp(a[-1].a.ip, a->a.ip, sizeof(a->a.ip)) != 0)
			first = a->a.rank;
		if (r->addrs++ == 0)
			r->first = first;
	}
	for (uint32_t i = 0, n; i < b->head.addrs && ret == 0; i += n) {
		for (n = 1; i + n < b->head.addrs; n++)
			if (memcmp(b->addrs[i].a.ip, b->addrs[i + n].a.ip, 16) != 0)
				break;
		ret = take_sharers(b, i, n);
	}
	return ret;
}

static int by_flow(const void *x, const void *y)
{
	return mt_flow_order(&((const struct line_flow *)x)->f, &((const struct line_flow *)y)->f);
}

static int judge_flows(struct build *b)
{
	for (uint32_t i = 0; i < b->head.flows; i++) {
		const struct line_flow *l = &b->flows[i];
		const struct mt_flow *f = &l->f;
		const struct mt_rank *d;

		if (f->src >= b->head.ranks || f->dst >= b->head.ranks)
			return map_bad(b, l->line, "there is no rank %u: ranks are 0 to %u",
				f->src >= b->head.ranks ? f->src : f->dst, b->head.ranks - 1);
		if (f->src == f->dst)
			return map_bad(b, l->line, "a flow of rank %u to itself", f->src);
		d = &b->ranks[f->dst].r;
		if (f->expert != MT_NO_EXPERT &&
			(f->expert < d->first_expert || f->expert >= d->first_expert + d->experts))
			return map_bad(b, l->line,
				"expert %u is not at rank %u, which holds %u to %u", f->expert,
				f->dst, d->first_expert, d->first_expert + d->experts - 1);
	}
	if (b->head.flows == 0)
		return 0;
	qsort(b->flows, b->head.flows, sizeof(*b->flows), by_flow);
	for (uint32_t i = 1; i < b->head.flows; i++)
		if (by_flow(&b->flows[i - 1], &b->flows[i]) == 0)
			return map_bad(b,
				b->flows[i].line > b->flows[i - 1].line ? b->flows[i].line
									: b->flows[i - 1].line,
				"flow %u to %u, QPN 0x%x stands here twice", b->flows[i].f.src,
				b->flows[i].f.dst, b->flows[i].f.qpn);
	return 0;
}

/* Which keys each kind of rule needs, and which it can have. */
static int judge_keys(struct build *b, const struct line_rule *l)
{
	static const struct {
		uint32_t need, may;
	} by_type[MT_RULE_TYPES] = {
		[MT_RULE_VA] = {1 << KEY_SIZE, 1 << KEY_LENGTH | 1 << KEY_BASE | 1 << KEY_OFFSET |
						       1 << KEY_PARITY | 1 << KEY_SOURCE |
						       1 << KEY_EXPERT | 1 << KEY_TOKEN_BYTES},
		[MT_RULE_ATOMIC] = {1 << KEY_SIZE,
			1 << KEY_BASE | 1 << KEY_OFFSET | 1 << KEY_PARITY | 1 << KEY_SOURCE |
				1 << KEY_EXPERT | 1 << KEY_VALUE | 1 << KEY_WHEN},
		[MT_RULE_QP] = {0, 1 << KEY_LENGTH | 1 << KEY_TOKEN_BYTES},
		[MT_RULE_LENGTH] = {1 << KEY_LENGTH, 1 << KEY_EXPERT | 1 << KEY_TOKEN_BYTES},
		[MT_RULE_COUNTS] = {1 << KEY_LENGTH | 1 << KEY_PAYLOAD,
			1 << KEY_SIZE | 1 << KEY_BASE | 1 << KEY_OFFSET | 1 << KEY_PARITY |
				1 << KEY_MATCH},
		[MT_RULE_INDEX] = {1 << KEY_LENGTH | 1 << KEY_PAYLOAD,
			1 << KEY_SIZE | 1 << KEY_BASE | 1 << KEY_OFFSET | 1 << KEY_PARITY},
		[MT_RULE_DENSE] = {1 << KEY_LENGTH | 1 << KEY_PAYLOAD,
			1 << KEY_SIZE | 1 << KEY_BASE | 1 << KEY_OFFSET | 1 << KEY_PARITY},
		[MT_RULE_IMM] = {1 << KEY_IMM | 1 << KEY_PLACE | 1 << KEY_SIZE,
			1 << KEY_LENGTH | 1 << KEY_OFFSET | 1 << KEY_PARITY | 1 << KEY_SOURCE |
				1 << KEY_EXPERT | 1 << KEY_VALUE | 1 << KEY_WHEN},
		[MT_RULE_FLOW] = {
			1 << KEY_FRAME, 1 << KEY_EXPERT | 1 << KEY_TOKEN_BYTES | 1 << KEY_PAYLOAD}};
	bool messages = l->r.type != MT_RULE_ATOMIC && l->r.type != MT_RULE_IMM &&
			l->r.type != MT_RULE_FLOW;
	uint32_t always = 1 << KEY_NAME | 1 << KEY_RULE | 1 << KEY_PHASE | 1 << KEY_IF;
	uint32_t need = by_type[l->r.type].need, may = by_type[l->r.type].may | need | always;

	if (l->r.phase == MT_PHASE_DISPATCH && l->r.type == MT_RULE_VA)
		need |= 1 << KEY_EXPERT;
	if (l->r.phase == MT_PHASE_DISPATCH && l->r.type == MT_RULE_LENGTH)
		need |= 1 << KEY_EXPERT | 1 << KEY_TOKEN_BYTES;
	may |= messages ? 1u << KEY_IMMEDIATE : 0;
	if (l->r.phase == MT_PHASE_COUNT || l->r.type == MT_RULE_COUNTS)
		may |= 1 << KEY_ANNOUNCERS;
	if (l->r.phase == MT_PHASE_DISPATCH && l->r.type == MT_RULE_FLOW &&
		(l->keys & 1 << KEY_PAYLOAD) != 0)
		may &= ~(1u << KEY_EXPERT | 1u << KEY_TOKEN_BYTES);
	else if (l->r.phase == MT_PHASE_DISPATCH && l->r.type == MT_RULE_FLOW)
		need |= 1 << KEY_EXPERT | 1 << KEY_TOKEN_BYTES;
	if (l->r.phase != MT_PHASE_DISPATCH && l->r.type == MT_RULE_FLOW)
		may &= ~(1u << KEY_PAYLOAD);
	if (l->r.phase == MT_PHASE_COUNT && l->r.type != MT_RULE_COUNTS)
		need |= 1 << KEY_EXPERT | 1 << KEY_VALUE;
	else if (l->r.type != MT_RULE_IMM && (l->keys & 1 << KEY_WHEN) == 0)
		may &= ~(1u << KEY_VALUE); /* where the operand is, is needed to test it */
	if (l->r.phase != MT_PHASE_DISPATCH)
		may &= ~(1u << KEY_TOKEN_BYTES);
	if (l->r.phase != MT_PHASE_DISPATCH && l->r.phase != MT_PHASE_COUNT)
		may &= ~(1u << KEY_EXPERT);
	if (l->r.phase == MT_PHASE_CONTROL ||
		(l->r.phase == MT_PHASE_COMBINE && l->r.type == MT_RULE_IMM))
		may &= ~(1u << KEY_SOURCE);
	for (unsigned int i = 0; map_rule_key(i) != NULL; i++) {
		if (need & ~l->keys & 1u << i)
			return map_bad(b, l->line, "rule '%s' (%s, %s) needs '%s'", l->r.name,
				mt_rule_type_name(l->r.type), mt_phase_name(l->r.phase),
				map_rule_key(i));
		if (l->keys & ~may & 1u << i)
			return map_bad(b, l->line, "rule '%s' (%s, %s) has no use for '%s'",
				l->r.name, mt_rule_type_name(l->r.type), mt_phase_name(l->r.phase),
				map_rule_key(i));
	}
	return 0;
}

/** Whether the experts that a rule names are those that the ranks hold. */
static int judge_rule_experts(struct build *b, const struct line_rule *l)
{
	const struct mt_rule *r = &l->r;
	bool region = mt_rule_has_place(r);

	if ((l->keys & 1 << KEY_EXPERT) == 0)
		return 0;
	if (region && r->expert_count == 0)
		return map_bad(b, l->line, "rule '%s': expert is 'stride' and 'count' in a rule %s",
			r->name, mt_rule_type_name(r->type));
	if (!region && r->expert_count != 0)
		return map_bad(b, l->line, "rule '%s': expert is 'fixed' in a rule %s", r->name,
			mt_rule_type_name(r->type));
	for (uint32_t i = 0; i < b->head.ranks; i++) {
		uint32_t held = b->ranks[i].r.experts;

		if (held == 0)
			continue;
		if (region && r->expert_count != held)
			return map_bad(b, l->line,
				"rule '%s': %u experts a rank, but rank %u holds %u", r->name,
				r->expert_count, i, held);
		if (!region && r->expert_fixed >= held)
			return map_bad(b, l->line,
				"rule '%s': expert %u of a rank, but rank %u holds %u", r->name,
				r->expert_fixed, i, held);
	}
	return 0;
}

/** What the payload of rules payload-index and payload-dense can be. */
static int judge_lists(struct build *b, const struct line_rule *l)
{
	const struct mt_rule *r = &l->r;
	const char *type = mt_rule_type_name(r->type);

	if (r->type != MT_RULE_INDEX && (r->payload_count != 0 || r->payload_stride != 0))
		return map_bad(b, l->line, "rule '%s' (%s) has no use for 'count' and 'stride'",
			r->name, type);
	if (r->type != MT_RULE_INDEX && r->type != MT_RULE_DENSE)
		return 0;
	if (r->value_width != 4 || r->encoding != MT_ENCODING_PLAIN)
		return map_bad(b, l->line, "rule '%s' (%s): a width of 4, plain", r->name, type);
	if (r->type == MT_RULE_DENSE)
		return 0;
	if (r->payload_count == 0 || r->payload_stride == 0)
		return map_bad(b, l->line,
			"rule '%s' (%s): payload needs 'count', numbers of a token, and 'stride', "
			"from token to token",
			r->name, type);
	if (r->payload_stride % 4 != 0 || r->payload_count > r->payload_stride / 4)
		return map_bad(b, l->line,
			"rule '%s': %u numbers of 4 bytes do not fit in a stride of %u, which is a "
			"multiple of 4",
			r->name, r->payload_count, r->payload_stride);
	if (r->payload_at + (uint64_t)r->payload_count * 4 > r->length_min)
		return map_bad(b, l->line,
			"rule '%s': numbers end at byte %u, but messages may have %u", r->name,
			r->payload_at + r->payload_count * 4, r->length_min);
	return 0;
}

/** Whether the integers of a rule fit in its messages, and its bits in an immediate. */
static int judge_payload(struct build *b, const struct line_rule *l)
{
	const struct mt_rule *r = &l->r;
	uint64_t end;
	int ret;

	/* packets end between integers, unless a header comes before them */
	if (r->payload_at % r->value_width != 0 && (l->keys & 1 << KEY_MATCH) == 0)
		return map_bad(b, l->line,
			"rule '%s': 'at' of the payload is no multiple of the width, %u", r->name,
			r->value_width);
	ret = judge_lists(b, l);
	if (ret < 0)
		return ret;
	for (uint32_t i = 0;
		i < b->head.ranks && (r->type == MT_RULE_COUNTS || r->type == MT_RULE_DENSE); i++) {
		end = r->payload_at +
		      (uint64_t)r->value_width *
			      (r->of == MT_OF_ALL ? b->head.experts : b->ranks[i].r.experts);
		if (end > r->length_min)
			return map_bad(b, l->line,
				"rule '%s': integers for rank %u end at byte %llu, but messages "
				"may "
				"have %u",
				r->name, i, (unsigned long long)end, r->length_min);
	}
	if (r->type != MT_RULE_IMM)
		return 0;
	if (r->place_shift + r->place_bits > 32 || r->operand_shift + r->operand_bits > 32)
		return map_bad(b, l->line, "rule '%s': an immediate has 32 bits", r->name);
	if (((l->keys & 1 << KEY_VALUE) || r->when != MT_WHEN_ANY) && r->operand_bits == 0)
		return map_bad(
			b, l->line, "rule '%s' (imm) needs the 'bits' of its value", r->name);
	return 0;
}

static int resolve_base(struct build *b, struct line_rule *l)
{
	uint32_t i = map_find_base(b, l->base);

	if ((l->keys & 1 << KEY_BASE) == 0)
		return 0;
	if (i == b->head.bases &&
		b->found != NULL) /* the user's place is the map, not the preset */
		return map_bad_in(b, b->map_name, b->ranks[0].line,
			"rank 0 has no '%s' among its 'bases', which rule '%s' of the preset "
			"needs, as in bases: {%s: 0x7f0000000000}",
			l->base, l->r.name, l->base);
	if (i == b->head.bases)
		return map_bad(b, l->line, "rule '%s': no rank has '%s' among its 'bases'",
			l->r.name, l->base);
	l->r.base = (uint8_t)(i + 1);
	return 0;
}

/** Whether every rank has the base of a rule. */
static int judge_base(struct build *b, const struct line_rule *l)
{
	const struct mt_rule *r = &l->r;

	if ((l->keys & 1 << KEY_BASE) && !mt_rule_needs_base(r))
		return map_bad(
			b, l->line, "rule '%s' has no use for 'base' without 'size'", r->name);
	for (uint32_t i = 0; i < b->head.ranks && mt_rule_needs_base(r); i++) {
		const struct line_rank *rank = &b->ranks[i];

		if (r->base == 0 && !rank->has_base)
			return map_bad_in(b, b->map_name, rank->line,
				"rank %u has no 'base', which rule '%s' needs", i, r->name);
		if (r->base != 0 && (rank->has_bases & 1u << (r->base - 1)) == 0)
			return map_bad_in(b, b->map_name, rank->line,
				"rank %u has no '%s' among its 'bases', which rule '%s' needs", i,
				l->base, r->name);
	}
	return 0;
}

/** Whether a rule of that kind can be of its phase. */
static int judge_phase(struct build *b, const struct line_rule *l)
{
	unsigned int type = l->r.type, phase = l->r.phase;
	bool tells = phase == MT_PHASE_DISPATCH || phase == MT_PHASE_COUNT;
	const char *why = NULL;

	if (phase == MT_PHASE_COUNT && type != MT_RULE_ATOMIC && type != MT_RULE_COUNTS &&
		type != MT_RULE_IMM)
		why = "counts are announced by rules atomic, payload-counts and imm";
	else if (!tells && type == MT_RULE_COUNTS)
		why = "integers are tokens: phase dispatch, or count beside a rule that counts "
		      "messages";
	else if (phase != MT_PHASE_DISPATCH && (type == MT_RULE_INDEX || type == MT_RULE_DENSE))
		why = "a list names experts: phase dispatch";
	else if (phase == MT_PHASE_DISPATCH && type == MT_RULE_IMM)
		why = "an immediate announces tokens: phase count?";
	else if (phase != MT_PHASE_DISPATCH && type == MT_RULE_QP)
		why = "a queue pair names experts in phase dispatch only; use rule length or va";
	else if (phase == MT_PHASE_DISPATCH && type == MT_RULE_ATOMIC)
		why = "an atomic carries no tokens; phase count?";
	return why == NULL ? 0 : map_bad(b, l->line, "rule '%s': %s", l->r.name, why);
}

/** A datagram says how long it is, a frame of a stream must. */
static int judge_frame(struct build *b, const struct line_rule *l)
{
	bool tokens = l->r.phase == MT_PHASE_DISPATCH && l->r.token_bytes != 0;
	const char *why = NULL;

	if (b->head.datagrams && l->frame_has_length)
		why = "a datagram says how long it is: no 'length'";
	else if (!b->head.datagrams && !l->frame_has_length)
		why = "the frame needs 'length'";
	else if (l->frame_has_bytes && !tokens)
		why = "'bytes' of a frame go with 'token-bytes'";
	else if (!l->frame_has_bytes && tokens && !b->head.datagrams)
		why = "the frame needs 'bytes'";
	return why == NULL ? 0 : map_bad(b, l->line, "rule '%s': %s", l->r.name, why);
}

/** Whether lengths so many bytes apart, or the bytes of a frame, go with what else it says. */
static int judge_lengths(struct build *b, const struct line_rule *l)
{
	const struct mt_rule *r = &l->r;

	if (r->type == MT_RULE_FLOW)
		return judge_frame(b, l);
	if (r->length_step != 0 && (r->size != 0 || r->type == MT_RULE_IMM))
		return map_bad(b, l->line,
			"rule '%s': lengths so many bytes apart are for rules without 'size'",
			r->name);
	return 0;
}

/**
 * Whether a rule can know the immediate when it reads a message: the first packet says what a
 * message is, the last one has the immediate, so that they have to be one.
 */
static int judge_immediate(struct build *b, const struct line_rule *l)
{
	uint32_t most = mt_immediate_most(&b->head);

	if (l->r.immediate == MT_IMMEDIATE_ANY || l->r.length_max <= most)
		return 0;
	return map_bad(b, l->line,
		"rule '%s': a message of several packets has its immediate in the last one, but is "
		"read by its first: 'length' is to be at most %u, the path MTU%s",
		l->r.name, most,
		b->head.path_mtu == 0 ? "'s least; a larger one is said by 'path-mtu'" : "");
}

/** Whether the parts of a region lie in it. */
static int judge_region(struct build *b, const struct line_rule *l)
{
	const struct mt_rule *r = &l->r;

	if (r->parity_count != 0 && r->size > r->parity_stride)
		return map_bad(b, l->line,
			"rule '%s': a region of %llu bytes does not fit in a parity "
			"stride of %llu",
			r->name, (unsigned long long)r->size, (unsigned long long)r->parity_stride);
	if (r->expert_stride * r->expert_count > r->size)
		return map_bad(b, l->line,
			"rule '%s': %u experts of %llu bytes do not fit in a region of "
			"%llu",
			r->name, r->expert_count, (unsigned long long)r->expert_stride,
			(unsigned long long)r->size);
	if (r->source_count != 0 && r->source_count != b->head.ranks)
		return map_bad(b, l->line, "rule '%s': %u sources, but the map has %u ranks",
			r->name, r->source_count, b->head.ranks);
	if (r->source_stride * r->source_count > r->size)
		return map_bad(b, l->line,
			"rule '%s': %u sources of %llu bytes do not fit in a region of "
			"%llu",
			r->name, r->source_count, (unsigned long long)r->source_stride,
			(unsigned long long)r->size);
	return 0;
}

/** What one rule alone can be; the first thing that is wrong is told. */
static int judge_rule(struct build *b, const struct line_rule *l)
{
	static int (*const judges[])(struct build *, const struct line_rule *) = {judge_phase,
		judge_keys, judge_lengths, judge_immediate, judge_rule_experts, judge_region,
		judge_payload, judge_base};
	int ret = 0;

	for (size_t i = 0; i < sizeof(judges) / sizeof(judges[0]) && ret == 0; i++)
		ret = judges[i](b, l);
	return ret;
}

/** Addresses wrap at 2^64, and so do these. */
static bool ranges_meet(uint64_t a, uint64_t alen, uint64_t c, uint64_t clen)
{
	return c - a < alen || a - c < clen;
}

/** Whether the operands that one rule takes are none of the other's: they read the same bits. */
static bool operands_part(const struct mt_rule *r, const struct mt_rule *s)
{
	return r->when != s->when && r->when != MT_WHEN_ANY && s->when != MT_WHEN_ANY &&
	       r->value_width == s->value_width && r->operand_shift == s->operand_shift &&
	       r->operand_bits == s->operand_bits && r->value_signed == s->value_signed;
}

/** Whether the messages that one rule reads have an immediate, and those of the other none. */
static bool immediates_part(const struct mt_rule *r, const struct mt_rule *s)
{
	return r->immediate != s->immediate && r->immediate != MT_IMMEDIATE_ANY &&
	       s->immediate != MT_IMMEDIATE_ANY;
}

/** Whether regions share an address, that of @p s moved by @p apart. Exact: areas are few. */
static bool regions_meet(const struct mt_rule *r, const struct mt_rule *s, uint64_t apart)
{
	uint32_t rp = r->parity_count ? r->parity_count : 1,
		 sp = s->parity_count ? s->parity_count : 1;

	for (uint32_t i = 0; i < rp; i++)
		for (uint32_t j = 0; j < sp; j++)
			if (ranges_meet(r->offset + i * r->parity_stride, r->size,
				    s->offset + j * s->parity_stride + apart, s->size))
				return true;
	return false;
}

/** Whether some length is one of both rules. Steps are short, so that few lengths are tried. */
static bool lengths_meet(const struct mt_rule *r, const struct mt_rule *s)
{
	uint32_t rs = r->length_step ? r->length_step : 1, ss = s->length_step ? s->length_step : 1;
	uint32_t least = r->length_min > s->length_min ? r->length_min : s->length_min;
	uint32_t most = r->length_max < s->length_max ? r->length_max : s->length_max;
	uint64_t at = least - r->length_min;

	at = r->length_min + (at + rs - 1) / rs * rs;
	for (uint32_t i = 0; i < ss && at <= most; i++, at += rs)
		if ((at - s->length_min) % ss == 0)
			return true;
	return false;
}

/** Where the offsets of a rule count from at a rank. */
static uint64_t base_of(const struct mt_rule *r, const struct line_rank *rank)
{
	return r->base == 0 ? rank->r.base : rank->bases[r->base - 1];
}

/** Whether one message could be read by both rules, but for where it goes. */
static bool rules_are_alike(const struct mt_rule *r, const struct mt_rule *s)
{
	if (r->type == MT_RULE_FLOW)
		return false; /* their order says which comes first */
	if ((r->type == MT_RULE_ATOMIC) != (s->type == MT_RULE_ATOMIC))
		return false;
	if (!lengths_meet(r, s))
		return false;
	if (operands_part(r, s) || immediates_part(r, s))
		return false;
	if ((r->type == MT_RULE_IMM) != (s->type == MT_RULE_IMM))
		return false; /* rules imm come first */
	if (mt_rule_matches(r) || mt_rule_matches(s))
		return false; /* then those that match, in their order */
	if (r->type == MT_RULE_IMM &&
		((r->imm_value ^ s->imm_value) & r->imm_mask & s->imm_mask) != 0)
		return false;
	return true;
}

/** Whether one message could be read by both rules. */
static bool rules_meet(const struct build *b, const struct mt_rule *r, const struct mt_rule *s)
{
	if (!rules_are_alike(r, s))
		return false;
	if (r->size == 0 || s->size == 0)
		return true;
	if (r->base == s->base)
		return regions_meet(r, s, 0);
	for (uint32_t i = 0; i < b->head.ranks; i++)
		if (regions_meet(r, s, base_of(s, &b->ranks[i]) - base_of(r, &b->ranks[i])))
			return true;
	return false;
}

/** A rule qp knows the experts of messages from the flows only. */
static int judge_qp_flows(struct build *b)
{
	const struct line_rule *l = b->rules;

	for (uint32_t i = 0; i < b->head.flows; i++)
		if (b->flows[i].f.expert != MT_NO_EXPERT)
			return 0;
	for (uint32_t i = 0; i < b->head.rules; i++, l++)
		if (l->r.type == MT_RULE_QP)
			return map_bad(b, l->line,
				"rule '%s' (qp) needs 'flows' with their experts", l->r.name);
	return 0;
}

/**
 * Counts in payloads go before all else that tells tokens, which is their witness: of one kind, so
 * that it is one number, and with combines, which part its rounds.
 */
static int judge_witness(struct build *b)
{
	const struct line_rule *load = NULL, *witness = NULL, *l = b->rules;
	bool combine = false;

	for (uint32_t i = 0; i < b->head.rules; i++) {
		combine |= l[i].r.phase == MT_PHASE_COMBINE;
		if (load == NULL && mt_rule_is_load(&l[i].r))
			load = &l[i];
	}
	for (uint32_t i = 0; i < b->head.rules && load != NULL; i++) {
		if (!mt_rule_tells(&l[i].r) || mt_rule_is_load(&l[i].r))
			continue;
		if (l[i].r.type == MT_RULE_COUNTS)
			return map_bad(b, l[i].line,
				"rules '%s' and '%s' both read the load; phase control?",
				load->r.name, l[i].r.name);
		if (witness != NULL && (witness->r.type != l[i].r.type ||
					       witness->r.token_bytes != l[i].r.token_bytes))
			return map_bad(b, l[i].line,
				"rules '%s' and '%s' are both to be compared with '%s': one kind "
				"of rule, with the same 'token-bytes'",
				witness->r.name, l[i].r.name, load->r.name);
		witness = &l[i];
	}
	if (witness != NULL && !combine)
		return map_bad(b, witness->line,
			"rule '%s' is compared with '%s': that needs a rule of phase combine, "
			"which parts rounds",
			witness->r.name, load->r.name);
	return 0;
}

/** Whether a queue pair at a shared address is said to be of different ranks. */
static int judge_shared_flows(struct build *b)
{
	struct line_flow *f = calloc(b->head.flows + 1, sizeof(*f));
	int ret = 0;

	if (f == NULL)
		return mt_fail(b->err, -ENOMEM, "%s: out of memory", b->name);
	for (uint32_t i = 0; i < b->head.flows; i++) {
		f[i] = b->flows[i];
		f[i].f.src = b->ranks[f[i].f.src].first;
		f[i].f.dst = b->ranks[f[i].f.dst].first;
	}
	qsort(f, b->head.flows, sizeof(*f), by_flow);
	for (uint32_t i = 1; i < b->head.flows && ret == 0; i++)
		if (by_flow(&f[i - 1], &f[i]) == 0)
			ret = map_bad_in(b, b->map_name,
				f[i].line > f[i - 1].line ? f[i].line : f[i - 1].line,
				"queue pair 0x%x at that address is in line %u too: it is of one "
				"rank",
				f[i].f.qpn, f[i].line < f[i - 1].line ? f[i].line : f[i - 1].line);
	free(f);
	return ret;
}

/** Whether the messages of a rule say the ranks at either end, where ranks share addresses. */
static int judge_shared_rule(struct build *b, const struct line_rule *l, bool by_source)
{
	const struct mt_rule *r = &l->r;

	if (r->phase == MT_PHASE_CONTROL || (r->phase == MT_PHASE_COMBINE && !by_source))
		return 0;
	if (r->size != 0 && r->type != MT_RULE_IMM && r->source_count != 0)
		return 0;
	return map_bad(b, l->line,
		"rule '%s': ranks share addresses, so a message has to say its ranks by the place "
		"that it goes to: a rule va or atomic with 'source'; or name all queue pairs in "
		"'flows'",
		r->name);
}

/** Whether a message to an address could be for one rank by one rule, for another by another. */
static int judge_shared_places(
	struct build *b, const struct line_rule *l, const struct line_rule *m)
{
	const struct mt_rule *r = &l->r, *s = &m->r;

	if (r->size == 0 || s->size == 0 || !rules_are_alike(r, s))
		return 0;
	for (uint32_t i = 0; i < b->head.ranks; i++)
		for (uint32_t j = 0; j < b->head.ranks; j++)
			if (i != j && b->ranks[i].first == b->ranks[j].first &&
				regions_meet(
					r, s, base_of(s, &b->ranks[j]) - base_of(r, &b->ranks[i])))
				return map_bad_in(b, b->map_name, b->ranks[i > j ? i : j].line,
					"ranks %u and %u share an address, and the regions of "
					"rules '%s' and '%s' meet there: are their bases right? "
					"Else name all queue pairs in 'flows'",
					i, j, r->name, s->name);
	return 0;
}

/**
 * Ranks that share an address are told apart by queue pairs that the map names, or by where
 * messages go.
 */
static int judge_shared(struct build *b)
{
	const struct line_rule *l = b->rules;
	bool by_source = true;
	int ret = 0;

	if (!b->shared)
		return 0;
	if (l->r.type == MT_RULE_FLOW)
		return map_bad(b, l->line,
			"rule '%s' (flow): ranks share addresses, but of a stream the address "
			"alone tells the rank",
			l->r.name);
	if (b->head.flows != 0)
		return judge_shared_flows(b);
	for (uint32_t i = 0; i < b->head.rules; i++)
		if (l[i].r.phase == MT_PHASE_COUNT && b->head.atomics != MT_ATOMICS_LEARN)
			by_source = false;
	for (uint32_t i = 0; i < b->head.rules && ret == 0; i++)
		ret = judge_shared_rule(b, &l[i], by_source);
	for (uint32_t i = 0; i < b->head.rules && ret == 0; i++)
		for (uint32_t j = 0; j <= i && ret == 0; j++)
			ret = judge_shared_places(b, &l[i], &l[j]);
	return ret;
}

static int judge_rules(struct build *b)
{
	const struct line_rule *first = NULL, *telling = NULL;
	int ret;

	for (uint32_t i = 0; i < b->head.rules; i++) {
		struct line_rule *l = &b->rules[i];

		ret = resolve_base(b, l);
		if (ret == 0)
			ret = judge_rule(b, l);
		if (ret < 0)
			return ret;
		if ((l->r.type == MT_RULE_FLOW) != (b->rules->r.type == MT_RULE_FLOW))
			return map_bad(b, l->line,
				"rules flow read TCP, others RDMA: rules '%s' and '%s' are not of "
				"one map",
				b->rules->r.name, l->r.name);
		for (uint32_t j = 0; j < i; j++) {
			if (strcmp(l->r.name, b->rules[j].r.name) == 0)
				return map_bad(b, l->line,
					"a rule of the name '%s' stands in line %u", l->r.name,
					b->rules[j].line);
			if (rules_meet(b, &l->r, &b->rules[j].r))
				return map_bad(b, l->line,
					"a message could be read by rule '%s' and by "
					"rule '%s' (line %u)",
					l->r.name, b->rules[j].r.name, b->rules[j].line);
		}
		if (l->keys & 1 << KEY_ANNOUNCERS) {
			if (telling != NULL && telling->r.announcers != l->r.announcers)
				return map_bad(b, l->line,
					"rules '%s' and '%s' have different numbers of announcers",
					telling->r.name, l->r.name);
			telling = l;
		}
		if (l->r.phase != MT_PHASE_DISPATCH)
			continue;
		if (first == NULL || mt_rule_is_load(&first->r))
			first = l;
		else if (mt_rule_way(&first->r) != mt_rule_way(&l->r) && !mt_rule_is_load(&l->r))
			return map_bad(b, l->line,
				"rules '%s' and '%s' count tokens in different ways", first->r.name,
				l->r.name);
	}
	if (b->head.rules != 0 && b->rules->r.type == MT_RULE_FLOW && b->head.tap == MT_TAP_HEADS)
		return map_bad(b, b->rules->line,
			"rule '%s' (flow) needs 'tap: all': packets of sockets have no RDMA "
			"headers",
			b->rules->r.name);
	if (first == NULL)
		return map_bad(b, 1, "no rule of phase dispatch: nothing would be counted");
	ret = judge_witness(b);
	if (ret == 0)
		ret = judge_qp_flows(b);
	return ret < 0 ? ret : judge_shared(b);
}

/** What an atomic's form is for: counts, and to learn one, counts in atomics alone. */
static int judge_atomic_form(struct build *b)
{
	bool atomic = false;

	if (b->head.atomics == MT_ATOMICS_STANDARD)
		return 0;
	for (uint32_t i = 0; i < b->head.rules; i++) {
		const struct mt_rule *r = &b->rules[i].r;

		atomic |= r->type == MT_RULE_ATOMIC && r->phase == MT_PHASE_COUNT;
		if (b->head.atomics == MT_ATOMICS_LEARN && r->type != MT_RULE_ATOMIC &&
			(r->phase == MT_PHASE_COUNT || r->type == MT_RULE_COUNTS))
			return map_bad_in(b, b->form_name, b->form_line,
				"to learn a form, atomics alone announce counts, but rule '%s' "
				"(%s) tells tokens too",
				r->name, mt_rule_type_name(r->type));
	}
	if (!atomic)
		return map_bad_in(b, b->form_name, b->form_line,
			"'atomic-form' needs a rule atomic of phase count");
	return 0;
}

int map_judge(struct build *b)
{
	int ret = resolve_ranks(b);

	if (ret == 0)
		ret = judge_addresses(b);
	if (ret == 0)
		ret = resolve_nodes(b);
	if (ret == 0)
		ret = judge_experts(b);
	if (ret == 0)
		ret = judge_flows(b);
	b->name = b->rules_name;
	if (ret == 0)
		ret = judge_rules(b);
	b->name = b->map_name;
	return ret == 0 ? judge_atomic_form(b) : ret;
}
