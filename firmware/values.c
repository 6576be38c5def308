/* SPDX-License-Identifier: BSD-3-Clause */
#include "count.h"
#include "map.h"

/** Where in a message of rule @p r to rank @p dst the integers of that rank's experts lie. */
static void find_own(const struct fw_tables *t, const struct fw_rule *r, uint32_t dst,
	uint32_t *begin, uint32_t *end)
{
	const struct mt_rank *rank = &mt_bank_ranks(t->config->bank)[dst];
	uint32_t skip = r->of == MT_OF_ALL ? rank->first_expert : 0;

	*begin = r->payload_at + skip * r->value_width;
	*end = *begin + rank->experts * r->value_width;
}

/** The part of @p p, whose payload begins at byte @p from of its message, that is read. */
static unsigned int find_part(const struct fw_tables *t, struct fw_flow *f, uint32_t rule,
	uint32_t from, const struct fw_packet *p, struct fw_item *it)
{
	const struct fw_rule *r = &t->config->write[rule];
	uint32_t begin, end, ext = fw_opcodes[p->opcode].ext;

	find_own(t, r, fw_cold_of(t, f)->dst, &begin, &end);
	begin = RTE_MAX(begin, from);
	end = RTE_MAX(RTE_MIN(end, from + p->payload), begin);
	f->message = fw_opcodes[p->opcode].last ||
				     !(p->kind == FW_KIND_BODY || fw_opcodes[p->opcode].more)
			     ? FW_MSG_NONE
			     : FW_MSG_VALUES;
	f->window = (uint64_t)rule << 32 | (from + p->payload);
	it->what = FW_VALUES;
	it->values = (struct fw_values){.at = p->ext + ext + (begin - from),
		.from = begin,
		.bytes = end - begin,
		.next = from + p->payload,
		.rule = rule};
	if (end > begin && ext + (end - from) > p->have) {
		it->what = FW_TRUNCATED;
		return MT_OUT_TRUNCATED;
	}
	return p->kind == FW_KIND_BODY ? MT_OUT_BODY : MT_OUT_DISPATCH + r->phase;
}

unsigned int fw_values_begin(const struct fw_tables *t, struct fw_flow *f, const struct fw_rule *r,
	const struct fw_packet *p, struct fw_item *it)
{
	if (f->hits != 0)
		fw_add_hits(t, f);
	f->window_bytes = 0;
	return find_part(t, f, (uint32_t)(r - t->config->write), 0, p, it);
}

unsigned int fw_values_go_on(
	const struct fw_tables *t, struct fw_flow *f, const struct fw_packet *p, struct fw_item *it)
{
	return find_part(t, f, (uint32_t)(f->window >> 32), (uint32_t)f->window, p, it);
}

/** An integer as tokens; negative: it cannot be. */
static int64_t tokens_of(const struct fw_rule *r, const uint8_t *at)
{
	int64_t v = 0;

	if (r->value_width == 4) {
		int32_t w;

		memcpy(&w, at, sizeof(w));
		v = w;
	} else {
		memcpy(&v, at, sizeof(v));
	}
	if (r->encoding == MT_ENCODING_COMPLEMENT)
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

void fw_values_apply(struct fw_core *core, struct fw_flow *f, const struct fw_item *it)
{
	const struct fw_tables *t = core->tables;
	const struct fw_values *v = &it->values;
	const struct fw_rule *r = &t->config->write[v->rule];
	struct fw_item first = *it;
	uint32_t begin, end, n = v->bytes / r->value_width;

	find_own(t, r, fw_cold_of(t, f)->dst, &begin, &end);
	if (n == 0 || v->from < begin)
		return;
	first.expert = (uint16_t)((v->from - begin) / r->value_width);
	fw_cell_of(core, f, &first);
	for (uint32_t i = 0; i < n; i++)
		add(r, fw_epoch_of(t, f), &fw_epoch_of(t, f)->cell[first.expert + i],
			tokens_of(r, v->at + i * r->value_width));
	if (v->bytes % r->value_width != 0 || (v->from - begin) % r->value_width != 0)
		fw_epoch_of(t, f)->contradict++; /* packets end inside of an integer */
	f->last_ns = it->ns;
}

void fw_values_keep(struct fw_tables *t, struct fw_item *it)
{
	uint32_t piece;

	if (it->values.bytes == 0)
		return;
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
