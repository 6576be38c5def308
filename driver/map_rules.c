/* SPDX-License-Identifier: BSD-3-Clause */
/* The rules of a map or preset, as they are read from YAML; map_judge.c says whether they can be.
 */
#include <string.h>

#include "map_priv.h"

static int rule_name(struct build *b, yaml_node_t *n, void *object)
{
	struct line_rule *r = object;

	return map_get_text(b, n, r->r.name, sizeof(r->r.name));
}

static int rule_type(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t v = 0;
	int ret = map_get_word(b, n, mt_rule_type_name, MT_RULE_TYPES, &v);

	((struct line_rule *)object)->r.type = (uint8_t)v;
	return ret;
}

static int rule_phase(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t v = 0;
	int ret = map_get_word(b, n, mt_phase_name, MT_PHASES, &v);

	((struct line_rule *)object)->r.phase = (uint8_t)v;
	return ret;
}

static int rule_length(struct build *b, yaml_node_t *n, void *object)
{
	struct mt_rule *r = &((struct line_rule *)object)->r;
	uint32_t two[3] = {0};
	int ret;

	if (n->type == YAML_SEQUENCE_NODE) {
		bool step = n->data.sequence.items.top - n->data.sequence.items.start == 3;

		ret = map_get_some(b, n, INT32_MAX, two, step ? 3 : 2);
		if (ret == 0 && two[0] > two[1])
			ret = map_bad(b, map_line_of(n), "the first length is above the second");
		if (ret == 0 && step && (two[2] == 0 || two[2] > MT_MAX_LENGTH_STEP))
			ret = map_bad(b, map_line_of(n), "lengths are 1 to %u bytes apart",
				MT_MAX_LENGTH_STEP);
		r->length_step = two[2];
	} else {
		ret = map_get_u32(b, n, 0, INT32_MAX, &two[0]);
		two[1] = two[0];
	}
	r->length_min = two[0];
	r->length_max = two[1];
	return ret;
}

static int rule_base(struct build *b, yaml_node_t *n, void *object)
{
	struct line_rule *r = object;

	return map_get_text(b, n, r->base, sizeof(r->base));
}

static int rule_offset(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u64(b, n, &((struct line_rule *)object)->r.offset);
}

static int rule_size(struct build *b, yaml_node_t *n, void *object)
{
	struct mt_rule *r = &((struct line_rule *)object)->r;
	int ret = map_get_u64(b, n, &r->size);

	if (ret == 0 && (r->size == 0 || r->size > 1ULL << 47))
		ret = map_bad(b, map_line_of(n), "a size of 1 to 2^47 bytes is expected");
	return ret;
}

static int stride_value(struct build *b, yaml_node_t *n, void *object)
{
	uint64_t *v = object;
	int ret = map_get_u64(b, n, v);

	if (ret == 0 && (*v < 2 || *v > 1ULL << 47))
		ret = map_bad(b, map_line_of(n), "a stride of 2 to 2^47 bytes is expected");
	return ret;
}

struct field {
	uint64_t stride;
	uint32_t count, fixed, max;
};

static int field_stride(struct build *b, yaml_node_t *n, void *object)
{
	return stride_value(b, n, &((struct field *)object)->stride);
}

static int field_count(struct build *b, yaml_node_t *n, void *object)
{
	struct field *f = object;

	return map_get_u32(b, n, 1, f->max, &f->count);
}

static int field_fixed(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(b, n, 0, MT_MAX_EXPERTS - 1, &((struct field *)object)->fixed);
}

static int field_of(struct build *b, yaml_node_t *n, void *object)
{
	(void)object;
	if (map_scalar(n) == NULL || strcmp(map_scalar(n), "dst") != 0)
		return map_bad(b, map_line_of(n), "experts of a message are those 'of: dst'");
	return 0;
}

static int get_field(
	struct build *b, yaml_node_t *n, uint32_t max, uint64_t *stride, uint32_t *count)
{
	static const struct map_key keys[] = {
		{"stride", field_stride, true}, {"count", field_count, true}, {NULL, NULL, false}};
	struct field f = {.max = max};
	int ret = map_walk(b, n, keys, &f, NULL);

	*stride = f.stride;
	*count = f.count;
	return ret;
}

static int rule_parity(struct build *b, yaml_node_t *n, void *object)
{
	struct mt_rule *r = &((struct line_rule *)object)->r;

	return get_field(b, n, MT_MAX_PARITY, &r->parity_stride, &r->parity_count);
}

static int rule_source(struct build *b, yaml_node_t *n, void *object)
{
	struct mt_rule *r = &((struct line_rule *)object)->r;

	return get_field(b, n, MT_MAX_RANKS, &r->source_stride, &r->source_count);
}

static int rule_expert(struct build *b, yaml_node_t *n, void *object)
{
	static const struct map_key keys[] = {{"stride", field_stride, false},
		{"count", field_count, false}, {"of", field_of, false},
		{"fixed", field_fixed, false}, {NULL, NULL, false}};
	struct mt_rule *r = &((struct line_rule *)object)->r;
	struct field f = {.max = MT_MAX_EXPERTS};
	uint32_t seen = 0;
	int ret = map_walk(b, n, keys, &f, &seen);

	if (ret < 0)
		return ret;
	if ((seen & 8) ? (seen & 3) != 0 : (seen & 3) != 3)
		return map_bad(
			b, map_line_of(n), "expert needs 'stride' and 'count', or 'fixed' alone");
	r->expert_stride = f.stride;
	r->expert_count = f.count;
	r->expert_fixed = f.fixed;
	return 0;
}

static int rule_token_bytes(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(b, n, 1, INT32_MAX, &((struct line_rule *)object)->r.token_bytes);
}

static int value_scale(struct build *b, yaml_node_t *n, void *object)
{
	int64_t v = 0;
	int ret = map_get_int(b, n, -MT_MAX_SCALE, MT_MAX_SCALE, &v);

	((struct mt_rule *)object)->value_scale = (int32_t)v;
	return ret == 0 && v == 0 ? map_bad(b, map_line_of(n), "a scale of 0 announces nothing")
				  : ret;
}

static int value_add(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_int(b, n, INT32_MIN, INT32_MAX, &((struct mt_rule *)object)->value_add);
}

static int value_width(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t v = 0;
	int ret = map_get_u32(b, n, 4, 8, &v);

	((struct mt_rule *)object)->value_width = (uint8_t)v;
	return ret == 0 && v != 4 && v != 8 ? map_bad(b, map_line_of(n), "a width of 4 or 8 bytes")
					    : ret;
}

static int value_shift(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_bits(b, n, 0, 31, &((struct mt_rule *)object)->operand_shift);
}

static int value_bits(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_bits(b, n, 1, 32, &((struct mt_rule *)object)->operand_bits);
}

static int value_signed(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_bits(b, n, 0, 1, &((struct mt_rule *)object)->value_signed);
}

static int rule_value(struct build *b, yaml_node_t *n, void *object)
{
	static const struct map_key keys[] = {{"scale", value_scale, true},
		{"add", value_add, false}, {"width", value_width, false},
		{"shift", value_shift, false}, {"bits", value_bits, false},
		{"signed", value_signed, false}, {NULL, NULL, false}};

	return map_walk(b, n, keys, &((struct line_rule *)object)->r, NULL);
}

static int rule_announcers(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(b, n, 1, MT_MAX_ANNOUNCERS, &((struct line_rule *)object)->r.announcers);
}

static int rule_when(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t v = 0;
	int ret = map_get_word(b, n, mt_when_name, MT_WHENS, &v);

	((struct line_rule *)object)->r.when = (uint8_t)v;
	return ret;
}

static int rule_immediate(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t v = 0;
	int ret = map_get_word(b, n, mt_immediate_name, MT_IMMEDIATES, &v);

	((struct line_rule *)object)->r.immediate = (uint8_t)v;
	return ret;
}

static int payload_at(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(b, n, 0, MT_MAX_PAYLOAD_AT, &((struct mt_rule *)object)->payload_at);
}

static int payload_encoding(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t v = 0;
	int ret = map_get_word(b, n, mt_encoding_name, MT_ENCODINGS, &v);

	((struct mt_rule *)object)->encoding = (uint8_t)v;
	return ret;
}

static int payload_of(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t v = 0;
	int ret = map_get_word(b, n, mt_of_name, MT_OFS, &v);

	((struct mt_rule *)object)->of = (uint8_t)v;
	return ret;
}

static int payload_count(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(
		b, n, 1, MT_MAX_PAYLOAD_AT / 4, &((struct mt_rule *)object)->payload_count);
}

static int payload_stride(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(b, n, 4, MT_MAX_PAYLOAD_AT, &((struct mt_rule *)object)->payload_stride);
}

static int rule_payload(struct build *b, yaml_node_t *n, void *object)
{
	static const struct map_key keys[] = {{"at", payload_at, false},
		{"width", value_width, true}, {"encoding", payload_encoding, false},
		{"of", payload_of, false}, {"count", payload_count, false},
		{"stride", payload_stride, false}, {NULL, NULL, false}};

	return map_walk(b, n, keys, &((struct line_rule *)object)->r, NULL);
}

static int imm_mask(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(b, n, 0, UINT32_MAX, &((struct mt_rule *)object)->imm_mask);
}

static int imm_value(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(b, n, 0, UINT32_MAX, &((struct mt_rule *)object)->imm_value);
}

static int rule_imm(struct build *b, yaml_node_t *n, void *object)
{
	static const struct map_key keys[] = {
		{"mask", imm_mask, true}, {"value", imm_value, true}, {NULL, NULL, false}};
	struct mt_rule *r = &((struct line_rule *)object)->r;
	int ret = map_walk(b, n, keys, r, NULL);

	if (ret == 0 && (r->imm_value & ~r->imm_mask) != 0)
		ret = map_bad(b, map_line_of(n),
			"the value 0x%x has bits that the mask 0x%x has not", r->imm_value,
			r->imm_mask);
	return ret;
}

/* ---- read: headers, of messages and of frames of streams ---------------------------------------
 */

static int field_at(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_bits(b, n, 0, MT_MAX_HEADER - 1, &((struct mt_field *)object)->at);
}

static int field_width(struct build *b, yaml_node_t *n, void *object)
{
	return map_width_of(b, n, &((struct mt_field *)object)->width);
}

static int field_order(struct build *b, yaml_node_t *n, void *object)
{
	return map_order_of(b, n, &((struct mt_field *)object)->order);
}

static int field_add(struct build *b, yaml_node_t *n, void *object)
{
	int64_t v = 0;
	int ret = map_get_int(b, n, INT32_MIN, INT32_MAX, &v);

	((struct mt_field *)object)->add = (int32_t)v;
	return ret;
}

static int frame_field(struct build *b, yaml_node_t *n, struct mt_field *f)
{
	static const struct map_key keys[] = {{"at", field_at, false},
		{"width", field_width, false}, {"order", field_order, false},
		{"add", field_add, false}, {NULL, NULL, false}};
	uint32_t seen = 0;
	int ret = map_walk(b, n, keys, f, &seen);

	if (ret == 0 && (seen & 1) != (seen >> 1 & 1))
		ret = map_bad(b, map_line_of(n), "'at' and 'width' stand together");
	if (ret == 0 && seen == 0)
		ret = map_bad(b, map_line_of(n), "'at' and 'width', or 'add', are expected");
	return ret;
}

static int frame_header(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_bits(b, n, 1, MT_MAX_HEADER, &((struct mt_rule *)object)->header);
}

static int frame_length(struct build *b, yaml_node_t *n, void *object)
{
	return frame_field(b, n, &((struct mt_rule *)object)->frame_length);
}

static int frame_bytes(struct build *b, yaml_node_t *n, void *object)
{
	return frame_field(b, n, &((struct mt_rule *)object)->frame_bytes);
}

static int frame_round(struct build *b, yaml_node_t *n, void *object)
{
	return frame_field(b, n, &((struct mt_rule *)object)->frame_round);
}

static int match_at(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_bits(b, n, 0, MT_MAX_HEADER - 1, &((struct mt_match *)object)->at);
}

static int match_width(struct build *b, yaml_node_t *n, void *object)
{
	return map_width_of(b, n, &((struct mt_match *)object)->width);
}

static int match_order(struct build *b, yaml_node_t *n, void *object)
{
	return map_order_of(b, n, &((struct mt_match *)object)->order);
}

static int match_mask(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u64(b, n, &((struct mt_match *)object)->mask);
}

static int match_value(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u64(b, n, &((struct mt_match *)object)->value);
}

static int match_modulo(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(b, n, 2, INT32_MAX, &((struct mt_match *)object)->modulo);
}

static int frame_match(struct build *b, yaml_node_t *n, void *object)
{
	static const struct map_key keys[] = {{"at", match_at, true}, {"width", match_width, true},
		{"order", match_order, false}, {"mask", match_mask, false},
		{"value", match_value, true}, {"modulo", match_modulo, false}, {NULL, NULL, false}};
	struct mt_rule *r = object;
	int ret = 0;

	if (n->type != YAML_SEQUENCE_NODE)
		return map_bad(b, map_line_of(n), "a list of matches is expected");
	if (n->data.sequence.items.top - n->data.sequence.items.start > (ptrdiff_t)MT_MAX_MATCHES)
		return map_bad(b, map_line_of(n), "too many matches: at most %u", MT_MAX_MATCHES);
	for (yaml_node_item_t *i = n->data.sequence.items.start;
		ret == 0 && i < n->data.sequence.items.top; i++) {
		yaml_node_t *item = yaml_document_get_node(&b->doc, *i);
		struct mt_match *m = &r->match[r->matches++];

		m->mask = UINT64_MAX;
		ret = map_walk(b, item, keys, m, NULL);
		if (ret == 0 && m->width < 8)
			m->mask &= (1ULL << 8 * m->width) - 1;
		if (ret == 0 && m->modulo == 0 && (m->value & ~m->mask) != 0)
			ret = map_bad(b, map_line_of(item),
				"the value 0x%llx has bits that the mask 0x%llx has not",
				(unsigned long long)m->value, (unsigned long long)m->mask);
		if (ret == 0 && m->modulo != 0 && m->value >= m->modulo)
			ret = map_bad(b, map_line_of(item), "the value is below the modulo, %u",
				m->modulo);
	}
	return ret;
}

static bool reaches(unsigned int at, unsigned int width, unsigned int header)
{
	return width != 0 && at + width > header;
}

static int rule_match(struct build *b, yaml_node_t *n, void *object)
{
	struct mt_rule *r = &((struct line_rule *)object)->r;
	int ret = frame_match(b, n, r);

	if (ret == 0 && r->matches == 0)
		ret = map_bad(b, map_line_of(n), "the list of matches is empty");
	for (uint32_t i = 0; ret == 0 && i < r->matches; i++)
		if (reaches(r->match[i].at, r->match[i].width, MT_MAX_HEADER))
			ret = map_bad(
				b, map_line_of(n), "a match ends behind byte %u", MT_MAX_HEADER);
	return ret;
}

static int rule_frame(struct build *b, yaml_node_t *n, void *object)
{
	static const struct map_key keys[] = {{"header", frame_header, true},
		{"length", frame_length, false}, {"match", frame_match, false},
		{"bytes", frame_bytes, false}, {"round", frame_round, false}, {NULL, NULL, false}};
	struct mt_rule *r = &((struct line_rule *)object)->r;
	const struct mt_field *fields[] = {&r->frame_length, &r->frame_bytes, &r->frame_round};
	uint32_t seen = 0;
	bool out = false;
	int ret = map_walk(b, n, keys, r, &seen);

	if (ret < 0)
		return ret;
	for (int i = 0; i < 3; i++)
		out |= reaches(fields[i]->at, fields[i]->width, r->header);
	for (uint32_t i = 0; i < r->matches; i++)
		out |= reaches(r->match[i].at, r->match[i].width, r->header);
	if ((seen & 2) != 0 && r->frame_length.width == 0 && r->frame_length.add < r->header)
		return map_bad(b, map_line_of(n), "a frame of %d bytes is shorter than its header",
			r->frame_length.add);
	if (out)
		return map_bad(
			b, map_line_of(n), "a field ends behind the header of %u bytes", r->header);
	((struct line_rule *)object)->frame_has_length = (seen & 2) != 0;
	((struct line_rule *)object)->frame_has_bytes = (seen & 8) != 0;
	return 0;
}

static int place_shift(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_bits(b, n, 0, 31, &((struct mt_rule *)object)->place_shift);
}

static int place_bits(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_bits(b, n, 1, 32, &((struct mt_rule *)object)->place_bits);
}

static int place_unit(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(b, n, 1, 1u << 20, &((struct mt_rule *)object)->place_unit);
}

static int rule_place(struct build *b, yaml_node_t *n, void *object)
{
	static const struct map_key keys[] = {{"shift", place_shift, true},
		{"bits", place_bits, true}, {"unit", place_unit, false}, {NULL, NULL, false}};

	return map_walk(b, n, keys, &((struct line_rule *)object)->r, NULL);
}

/** Seen by is_left_out(). */
static int rule_if(struct build *b, yaml_node_t *n, void *object)
{
	(void)b;
	(void)n;
	(void)object;
	return 0;
}

static const struct map_key rule_keys[] = {[KEY_NAME] = {"name", rule_name, true},
	[KEY_RULE] = {"rule", rule_type, true},
	[KEY_PHASE] = {"phase", rule_phase, true},
	[KEY_LENGTH] = {"length", rule_length, false},
	[KEY_BASE] = {"base", rule_base, false},
	[KEY_OFFSET] = {"offset", rule_offset, false},
	[KEY_SIZE] = {"size", rule_size, false},
	[KEY_PARITY] = {"parity", rule_parity, false},
	[KEY_EXPERT] = {"expert", rule_expert, false},
	[KEY_SOURCE] = {"source", rule_source, false},
	[KEY_TOKEN_BYTES] = {"token-bytes", rule_token_bytes, false},
	[KEY_VALUE] = {"value", rule_value, false},
	[KEY_WHEN] = {"when", rule_when, false},
	[KEY_PAYLOAD] = {"payload", rule_payload, false},
	[KEY_IMM] = {"imm", rule_imm, false},
	[KEY_PLACE] = {"place", rule_place, false},
	[KEY_ANNOUNCERS] = {"announcers", rule_announcers, false},
	[KEY_FRAME] = {"frame", rule_frame, false},
	[KEY_IF] = {"if", rule_if, false},
	[KEY_MATCH] = {"match", rule_match, false},
	[KEY_IMMEDIATE] = {"immediate", rule_immediate, false},
	{NULL, NULL, false}};

const char *map_rule_key(unsigned int key)
{
	return rule_keys[key].name;
}

/** A rule whose 'if' is 0 is not read: what it says need not make sense. */
static int is_left_out(struct build *b, const yaml_node_t *n, bool *out)
{
	mt_number v = 0;
	int ret = 0;

	if (n->type != YAML_MAPPING_NODE)
		return 0; /* said later */
	for (yaml_node_pair_t *p = n->data.mapping.pairs.start;
		p < n->data.mapping.pairs.top && ret == 0 && !*out; p++) {
		const yaml_node_t *key = yaml_document_get_node(&b->doc, p->key);

		if (key->type != YAML_SCALAR_NODE || strcmp(map_scalar(key), "if") != 0)
			continue;
		ret = map_get_number(
			b, yaml_document_get_node(&b->doc, p->value), "whole number", &v);
		*out = ret == 0 && v == 0;
	}
	return ret;
}

int map_take_rule(struct build *b, yaml_node_t *n)
{
	struct line_rule *r = &b->rules[b->head.rules];
	bool out = false;
	int ret = is_left_out(b, n, &out);

	if (ret < 0 || out)
		return ret;
	b->head.rules++;
	r->line = map_line_of(n);
	r->r.length_max = UINT32_MAX;
	r->r.value_width = 8;
	r->r.place_unit = 1;
	return map_walk(b, n, rule_keys, r, &r->keys);
}
