/* SPDX-License-Identifier: BSD-3-Clause */
/* Numbers, words, lists and keys of a map or preset, as they are read from YAML. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "map_priv.h"

unsigned int map_line_of(const yaml_node_t *n)
{
	return (unsigned int)n->start_mark.line + 1;
}

static int vbad(struct build *b, const char *name, unsigned int line, const char *fmt, va_list ap)
{
	char reason[400];

	vsnprintf(reason, sizeof(reason), fmt, ap);
	for (char *c = reason; *c; c++)
		if (*c < ' ' || *c > '~') /* words of the map could do things to a terminal */
			*c = '?';
	return mt_fail(b->err, -EINVAL, "%s:%u: %s", name, line, reason);
}

/** What is wrong in a line of the file @p name. */
int map_bad_in(struct build *b, const char *name, unsigned int line, const char *fmt, ...)
{
	va_list ap;
	int ret;

	va_start(ap, fmt);
	ret = vbad(b, name, line, fmt, ap);
	va_end(ap);
	return ret;
}

/** The same in the file that is read. */
int map_bad(struct build *b, unsigned int line, const char *fmt, ...)
{
	va_list ap;
	int ret;

	va_start(ap, fmt);
	ret = vbad(b, b->name, line, fmt, ap);
	va_end(ap);
	return ret;
}

/** The text of a scalar; NULL for lists, mappings and texts with a NUL in them. */
const char *map_scalar(const yaml_node_t *n)
{
	if (n->type != YAML_SCALAR_NODE ||
		memchr(n->data.scalar.value, '\0', n->data.scalar.length) != NULL)
		return NULL;
	return (const char *)n->data.scalar.value;
}

static int not_a_number(struct build *b, const yaml_node_t *n, const char *what)
{
	const char *s = map_scalar(n);

	if (s == NULL || *s == '\0')
		return map_bad(b, map_line_of(n), "a %s is expected", what);
	return map_bad(b, map_line_of(n), "'%.40s' is not a %s, as in 16 or 0x10", s, what);
}

/** A number, or a formula for one, in the names that there are at this place. */
int map_get_number(struct build *b, const yaml_node_t *n, const char *what, mt_number *out)
{
	const char *s = map_scalar(n);
	struct mt_error why;
	int ret;

	if (s == NULL || *s == '\0' || *s == ' ')
		return not_a_number(b, n, what);
	ret = mt_formula(s, b->names, b->name_count, out, &why);
	if (ret == -ERANGE)
		return map_bad(b, map_line_of(n), "'%.80s' has no value: %s", s, why.text);
	if (ret < 0)
		return map_bad(b, map_line_of(n), "'%.80s' is not a %s, as in 16 or 0x10: %s", s,
			what, why.text);
	return 0;
}

static int out_of_range(
	struct build *b, const yaml_node_t *n, mt_number v, mt_number min, mt_number max)
{
	char value[MT_FORMULA_TEXT_LEN], least[MT_FORMULA_TEXT_LEN], most[MT_FORMULA_TEXT_LEN];
	const char *s = map_scalar(n);
	bool plain = s[strspn(s, "-0123456789xXabcdefABCDEF")] == '\0';

	return map_bad(b, map_line_of(n), "%.80s%s%s is out of range: %s to %s", s,
		plain ? "" : " = ", plain ? "" : mt_number_text(v, value),
		mt_number_text(min, least), mt_number_text(max, most));
}

int map_get_int(struct build *b, yaml_node_t *n, int64_t min, int64_t max, int64_t *out)
{
	mt_number v = 0;
	int ret = map_get_number(b, n, "whole number", &v);

	if (ret < 0)
		return ret;
	if (v < min || v > max)
		return out_of_range(b, n, v, min, max);
	*out = (int64_t)v;
	return 0;
}

int map_get_u32(struct build *b, yaml_node_t *n, uint32_t min, uint32_t max, uint32_t *out)
{
	int64_t v = 0;
	int ret = map_get_int(b, n, min, max, &v);

	if (ret == 0)
		*out = (uint32_t)v;
	return ret;
}

/* Addresses use all 64 bits, so they have a reader of their own. */
int map_get_u64(struct build *b, yaml_node_t *n, uint64_t *out)
{
	mt_number v = 0;
	int ret = map_get_number(b, n, "whole number of 0 or more", &v);

	if (ret < 0)
		return ret;
	if (v < 0)
		return map_bad(b, map_line_of(n), "'%.80s' is below 0; 0 or more is expected",
			map_scalar(n));
	*out = (uint64_t)v;
	return 0;
}

int map_get_word(struct build *b, yaml_node_t *n, const char *(*name)(unsigned int),
	unsigned int words, uint32_t *out)
{
	const char *s = map_scalar(n);
	char known[160] = "";
	size_t at = 0;

	for (unsigned int i = 0; i < words; i++) {
		if (s != NULL && strcmp(s, name(i)) == 0) {
			*out = i;
			return 0;
		}
		at += (size_t)snprintf(
			known + at, sizeof(known) - at, "%s%s", i ? ", " : "", name(i));
	}
	return map_bad(b, map_line_of(n), "'%.40s' is not known; it may be %s",
		s ? s : "(not a word)", known);
}

int map_get_text(struct build *b, yaml_node_t *n, char *out, size_t len)
{
	const char *s = map_scalar(n);

	if (s == NULL || *s == '\0' || strlen(s) >= len)
		return map_bad(
			b, map_line_of(n), "a text of 1 to %zu characters is expected", len - 1);
	for (const char *c = s; *c; c++)
		if ((unsigned char)*c < 0x20 || (unsigned char)*c == 0x7f)
			return map_bad(b, map_line_of(n), "the text has a control character");
	memset(out, 0, len);
	memcpy(out, s, strlen(s));
	return 0;
}

/** Walk a mapping along its table of keys; @p seen gets a bit for each key that stood there. */
int map_walk(struct build *b, yaml_node_t *n, const struct map_key *keys, void *object,
	uint32_t *seen_out)
{
	uint32_t seen = 0;
	int ret;

	if (n->type != YAML_MAPPING_NODE)
		return map_bad(b, map_line_of(n), "'key: value' lines are expected");
	for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top;
		p++) {
		yaml_node_t *kn = yaml_document_get_node(&b->doc, p->key);
		yaml_node_t *vn = yaml_document_get_node(&b->doc, p->value);
		const char *s = map_scalar(kn);
		unsigned int i = 0;

		while (keys[i].name != NULL && (s == NULL || strcmp(s, keys[i].name) != 0))
			i++;
		if (keys[i].name == NULL) {
			char known[200] = "";
			size_t at = 0;

			for (i = 0; keys[i].name != NULL && at < sizeof(known); i++)
				at += (size_t)snprintf(known + at, sizeof(known) - at, "%s%s",
					i ? ", " : "", keys[i].name);
			return map_bad(b, map_line_of(kn), "'%.40s' is not known here; keys are %s",
				s ? s : "(not a word)", known);
		}
		if (seen & 1u << i)
			return map_bad(b, map_line_of(kn), "'%s' stands here twice", keys[i].name);
		seen |= 1u << i;
		ret = keys[i].take(b, vn, object);
		if (ret < 0)
			return ret;
	}
	for (unsigned int i = 0; keys[i].name != NULL; i++)
		if (keys[i].required && (seen & 1u << i) == 0)
			return map_bad(b, map_line_of(n), "'%s' is missing", keys[i].name);
	if (seen_out != NULL)
		*seen_out = seen;
	return 0;
}

int map_each(struct build *b, yaml_node_t *n, const char *what, uint32_t max,
	int (*take)(struct build *b, yaml_node_t *item))
{
	int ret;

	if (n->type != YAML_SEQUENCE_NODE)
		return map_bad(b, map_line_of(n), "a list of %s is expected", what);
	if (n->data.sequence.items.top - n->data.sequence.items.start > (ptrdiff_t)max)
		return map_bad(b, map_line_of(n), "too many %s: at most %u", what, max);
	for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top;
		i++) {
		ret = take(b, yaml_document_get_node(&b->doc, *i));
		if (ret < 0)
			return ret;
	}
	return 0;
}

/** Walk a mapping whose keys are the user's; @p object goes to @p take. */
int map_each_pair(struct build *b, yaml_node_t *n, const char *what, uint32_t max,
	int (*take)(struct build *b, yaml_node_t *key, yaml_node_t *value, void *object),
	void *object)
{
	int ret;

	if (n->type != YAML_MAPPING_NODE)
		return map_bad(b, map_line_of(n), "%s are expected, as in 'name: value'", what);
	if (n->data.mapping.pairs.top - n->data.mapping.pairs.start > (ptrdiff_t)max)
		return map_bad(b, map_line_of(n), "too many %s: at most %u", what, max);
	for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top;
		p++) {
		ret = take(b, yaml_document_get_node(&b->doc, p->key),
			yaml_document_get_node(&b->doc, p->value), object);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/** The value of a key of a mapping; NULL if there is none. */
yaml_node_t *map_find(struct build *b, yaml_node_t *n, const char *key)
{
	if (n->type != YAML_MAPPING_NODE)
		return NULL;
	for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top;
		p++) {
		const char *s = map_scalar(yaml_document_get_node(&b->doc, p->key));

		if (s != NULL && strcmp(s, key) == 0)
			return yaml_document_get_node(&b->doc, p->value);
	}
	return NULL;
}

/** Two numbers in a list, as in [first, count]. */
int map_get_some(struct build *b, yaml_node_t *n, uint32_t max, uint32_t *two, int count)
{
	int ret;

	if (n->type != YAML_SEQUENCE_NODE ||
		n->data.sequence.items.top - n->data.sequence.items.start != count)
		return map_bad(b, map_line_of(n), "two numbers are expected, as in [0, 4]");
	for (int i = 0; i < count; i++) {
		ret = map_get_u32(b,
			yaml_document_get_node(&b->doc, n->data.sequence.items.start[i]), 0, max,
			&two[i]);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int map_get_two(struct build *b, yaml_node_t *n, uint32_t max, uint32_t two[2])
{
	return map_get_some(b, n, max, two, 2);
}

/** Room for one more in a growing array; keeps what is there. */
int map_grow(void **array, uint32_t *cap, uint32_t used, size_t item)
{
	uint32_t more = *cap ? *cap * 2 : 64;
	void *p;

	if (used < *cap)
		return 0;
	p = realloc(*array, more * item);
	if (p == NULL)
		return -ENOMEM;
	*array = p;
	*cap = more;
	return 0;
}

int map_get_bits(struct build *b, yaml_node_t *n, uint32_t min, uint32_t max, uint8_t *out)
{
	uint32_t v = 0;
	int ret = map_get_u32(b, n, min, max, &v);

	*out = (uint8_t)v;
	return ret;
}

int map_width_of(struct build *b, yaml_node_t *n, uint8_t *out)
{
	int ret = map_get_bits(b, n, 1, 8, out);

	return ret == 0 && (*out & (*out - 1)) != 0
		       ? map_bad(b, map_line_of(n), "a width of 1, 2, 4 or 8")
		       : ret;
}

int map_order_of(struct build *b, yaml_node_t *n, uint8_t *out)
{
	uint32_t v = 0;
	int ret = map_get_word(b, n, mt_order_name, MT_ORDERS, &v);

	*out = (uint8_t)v;
	return ret;
}
