/* SPDX-License-Identifier: BSD-3-Clause */
#include "count.h"
#include "map.h"
#include "match.h"
#include "witness.h"

/**
 * Where of what is read of a message up to byte @p to ends: of lists, at the end of the last one.
 * Mostly there is one, and no division is needed.
 */
static uint32_t part_end(const struct fw_part *part, uint32_t to)
{
	uint32_t bytes = to - part->begin, list = 0;

	if (to <= part->begin)
		return to;
	if (bytes > part->stride)
		list = (bytes - 1) / part->stride * part->stride;
	return part->begin + RTE_MIN(bytes, list + part->bytes);
}

/** Whether packets of its message follow a packet. */
static bool has_more(const struct fw_packet *p)
{
	const struct fw_opcode *op = &fw_opcodes[p->opcode];

	return op->more || (p->kind == FW_KIND_BODY && !op->last);
}

/** The part of @p p, whose payload begins at byte @p from of its message, that is read. */
static unsigned int find_part(const struct fw_tables *t, struct fw_flow *f, uint32_t rule,
	uint32_t from, const struct fw_packet *p, struct fw_item *it)
{
	const struct fw_rule *r = &t->config->write[rule];
	const struct fw_part *part = &r->parts[fw_cold_of(t, f)->dst];
	uint32_t to = from + p->payload, ext = fw_opcodes[p->opcode].ext;
	uint32_t begin = RTE_MAX(part->begin, from), end = RTE_MAX(part_end(part, to), begin);

	f->message = has_more(p) ? FW_MSG_VALUES : FW_MSG_NONE;
	f->window = (uint64_t)rule << 32 | to;
	it->what = FW_VALUES;
	it->values = (struct fw_values){.at = p->ext + ext + (begin - from),
		.from = begin,
		.bytes = end - begin,
		.next = to,
		.rule = rule};
	if (end > begin && ext + (end - from) > p->have) {
		it->what = FW_TRUNCATED;
		return MT_OUT_TRUNCATED;
	}
	return p->kind == FW_KIND_BODY ? MT_OUT_BODY : MT_OUT_DISPATCH + r->phase;
}

/** Whether a message that begins with @p p is one of rule @p r; FW_MAY_BE: the frame was cut. */
static enum fw_verdict match(const struct fw_rule *r, const struct fw_packet *p)
{
	uint32_t ext = fw_opcodes[p->opcode].ext, have = p->have > ext ? p->have - ext : 0;
	enum fw_verdict v = fw_judge(r->match, r->matches, p->ext + ext, RTE_MIN(have, p->payload));

	return v == FW_MAY_BE && have >= p->payload ? FW_IS_NOT : v; /* it ends before */
}

unsigned int fw_values_begin(const struct fw_tables *t, struct fw_flow *f, const struct fw_rule *r,
	const struct fw_packet *p, uint64_t inside, struct fw_item *it)
{
	enum fw_verdict v = r->matches == 0 ? FW_IS : match(r, p);

	if (v == FW_IS_NOT)
		return MT_OUTCOMES;
	if (v == FW_MAY_BE) {
		it->what = FW_TRUNCATED;
		return MT_OUT_TRUNCATED;
	}
	if (f->hits != 0)
		fw_add_hits(t, f);
	f->window_bytes = 0;
	if (r->parts == NULL)
		return fw_witness_begin(t, f, r, inside, it);
	if (r->witness)
		fw_witness_follow(t, f);
	else if (t->config->witness)
		fw_witness_told(t, f);
	it->value = t->sources[fw_cold_of(t, f)->src].label;
	return find_part(t, f, r->number, 0, p, it);
}

unsigned int fw_values_go_on(
	const struct fw_tables *t, struct fw_flow *f, const struct fw_packet *p, struct fw_item *it)
{
	it->value = t->sources[fw_cold_of(t, f)->src].label;
	return find_part(t, f, (uint32_t)(f->window >> 32), (uint32_t)f->window, p, it);
}

int64_t fw_values_tokens(const uint8_t *at, uint8_t width, uint8_t encoding)
{
	int64_t v = 0;

	if (width == 4) {
		int32_t w;

		memcpy(&w, at, sizeof(w));
		v = w;
	} else {
		memcpy(&v, at, sizeof(v));
	}
	if (encoding == MT_ENCODING_COMPLEMENT)
		v = -1 - v; /* of the least one, the greatest: no overflow */
	return v > INT32_MAX ? -1 : v;
}

static void add(const struct fw_rule *r, struct fw_epoch *e, struct fw_cell *cell, int64_t tokens)
{
	if (tokens < 0) {
		e->contradict++;
		return;
	}
	cell->announced += (uint32_t)tokens;
	cell->counts++;
	if (r->phase == MT_PHASE_DISPATCH)
		cell->tokens += (uint32_t)tokens;
}

static void apply_counts(struct fw_core *core, struct fw_flow *f, const struct fw_item *it)
{
	const struct fw_tables *t = core->tables;
	const struct fw_values *v = &it->values;
	const struct fw_rule *r = &t->config->write[v->rule];
	uint32_t begin = r->parts[fw_cold_of(t, f)->dst].begin, skip, first, n;

	if (v->from < begin)
		return;
	/* an integer that lies in two packets is not read */
	skip = RTE_MIN((begin - v->from) % r->value_width, v->bytes);
	n = (v->bytes - skip) / r->value_width;
	if (n == 0)
		return;
	first = (v->from + skip - begin) / r->value_width;
	fw_cell_of(core, f, it, first);
	f->last_ns = it->ns;
	fw_epoch_of(t, f)->phase = it->value;
	for (uint32_t i = 0; i < n; i++)
		add(r, fw_epoch_of(t, f), &fw_epoch_of(t, f)->cell[first + i],
			fw_values_tokens(
				v->at + skip + i * r->value_width, r->value_width, r->encoding));
	if (v->bytes % r->value_width != 0 || skip != 0)
		fw_epoch_of(t, f)->contradict++;
}

/** A token for an expert of the destination. */
static void add_token(struct fw_core *core, struct fw_flow *f, const struct fw_rule *r,
	uint32_t expert, const struct fw_item *it)
{
	struct fw_cell *cell;

	if (unlikely(r->witness)) {
		fw_witness_add(core->tables, f, expert, 1);
		return;
	}
	cell = fw_cell_of(core, f, it, expert);
	cell->tokens++;
	cell->messages++;
	f->last_ns = it->ns; /* not of a list without tokens: it is of no epoch */
}

/** Count @p n values from @p at, numbers of experts; those of other ranks are beyond the part's. */
static void add_numbers(struct fw_core *core, struct fw_flow *f, const struct fw_rule *r,
	const struct fw_part *part, const uint8_t *at, uint32_t n, const struct fw_item *it)
{
	uint32_t first = part->first, experts = part->experts, value;

	for (const uint8_t *end = at + n * 4; at != end; at += 4) {
		memcpy(&value, at, sizeof(value));
		if (value - first < experts)
			add_token(core, f, r, value - first, it);
	}
}

/** Count @p n values from @p at: floats for the experts one by one from @p i, of which -0 is 0. */
static void add_floats(struct fw_core *core, struct fw_flow *f, const struct fw_rule *r, uint32_t i,
	const uint8_t *at, uint32_t n, const struct fw_item *it)
{
	uint32_t value;

	for (const uint8_t *end = at + n * 4; at != end; at += 4, i++) {
		memcpy(&value, at, sizeof(value));
		if ((value & INT32_MAX) != 0)
			add_token(core, f, r, i, it);
	}
}

static void apply_lists(struct fw_core *core, struct fw_flow *f, const struct fw_rule *r,
	const struct fw_part *part, const struct fw_item *it)
{
	const struct fw_values *v = &it->values;
	uint32_t in_list = v->from - part->begin, at = 0, n;

	if (in_list >= part->stride)
		in_list %= part->stride;
	while (at + 4 <= v->bytes) {
		n = in_list < part->bytes ? RTE_MIN(part->bytes - in_list, v->bytes - at) / 4 : 0;
		if (r->type == MT_RULE_DENSE)
			add_floats(core, f, r, in_list / 4, v->at + at, n, it);
		else
			add_numbers(core, f, r, part, v->at + at, n, it);
		at += part->stride - in_list; /* on to the next list */
		in_list = 0;
	}
	if (unlikely(((v->from - part->begin) | v->bytes) % 4 != 0))
		fw_epoch_of(core->tables, f)->contradict += f->label != 0;
}

void fw_values_apply(struct fw_core *core, struct fw_flow *f, const struct fw_item *it)
{
	const struct fw_tables *t = core->tables;
	const struct fw_rule *r = &t->config->write[it->values.rule];

	if (it->values.bytes == 0)
		return;
	if (r->type == MT_RULE_COUNTS)
		apply_counts(core, f, it);
	else
		apply_lists(core, f, r, &r->parts[fw_cold_of(t, f)->dst], it);
}

void fw_values_keep(struct fw_tables *t, struct fw_item *it)
{
	uint32_t piece;

	if (it->values.bytes == 0)
		return;
	if (it->values.bytes > t->kept_bytes) {
		it->what = FW_LOST;
		return;
	}
	if (t->kept_free_count != 0) {
		piece = t->kept_free[--t->kept_free_count];
	} else if (t->kept_touched < t->kept_max) {
		piece = t->kept_touched++;
	} else {
		it->what = FW_LOST;
		return;
	}
	memcpy(t->kept + (size_t)piece * t->kept_bytes, it->values.at, it->values.bytes);
	it->values.at = t->kept + (size_t)piece * t->kept_bytes;
}

void fw_values_drop(struct fw_tables *t, const struct fw_item *it)
{
	if (it->values.bytes != 0)
		t->kept_free[t->kept_free_count++] =
			(uint32_t)((size_t)(it->values.at - t->kept) / t->kept_bytes);
}
