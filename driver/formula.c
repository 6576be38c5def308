/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Recursive descent, which evaluates as it reads. What a condition leaves out is read as well,
 * since its form must be right, but its values are not judged.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formula.h"

typedef unsigned __int128 wide;

struct reader {
	const char *text, *at;
	const struct mt_name *names;
	unsigned int count;
	unsigned int depth;
	unsigned int skipped; /* branches around this place that are not taken */
	struct mt_error *err;
};

enum function { ALIGN, CEIL_DIV, MIN, MAX, FUNCTIONS };

static const char *const function_names[FUNCTIONS] = {"align", "ceil_div", "min", "max"};

static int read_condition(struct reader *r, mt_number *value);

/** What is wrong, and where: at the character of @p at. */
__attribute__((format(printf, 4, 5))) static int wrong(
	struct reader *r, const char *at, int code, const char *fmt, ...)
{
	char reason[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(reason, sizeof(reason), fmt, ap);
	va_end(ap);
	return mt_fail(r->err, code, "character %zu: %s", (size_t)(at - r->text) + 1, reason);
}

/** Goes over blanks. Gives the character after them. */
static char look(struct reader *r)
{
	while (*r->at == ' ' || *r->at == '\n')
		r->at++;
	return *r->at;
}

static bool take(struct reader *r, char c)
{
	if (look(r) != c)
		return false;
	r->at++;
	return true;
}

static int expect(struct reader *r, char c)
{
	char found = look(r);

	if (take(r, c))
		return 0;
	if (found == '\0')
		return wrong(r, r->at, -EINVAL, "'%c' is expected, but the formula ends", c);
	return wrong(r, r->at, -EINVAL, "'%c' is expected before '%.1s'", c, r->at);
}

static int deeper(struct reader *r)
{
	if (r->depth == MT_FORMULA_DEPTH)
		return wrong(r, r->at, -EINVAL, "more than %u deep", MT_FORMULA_DEPTH);
	r->depth++;
	return 0;
}

/* ---- arithmetic: operands are in range, results are made so ------------------------------- */

static wide size_of(mt_number v)
{
	return v < 0 ? (wide)-v : (wide)v;
}

/** A result from its sign and its size, refused where it is too large. */
static int in_range(struct reader *r, const char *at, bool negative, wide size, mt_number *value)
{
	*value = 0;
	if (size <= (negative ? (wide)1 << 63 : (wide)UINT64_MAX))
		*value = negative ? -(mt_number)size : (mt_number)size;
	else if (r->skipped == 0)
		return wrong(r, at, -ERANGE, "the value is out of range: -2^63 to 2^64 - 1");
	return 0;
}

static int sum(struct reader *r, const char *at, mt_number a, mt_number b, mt_number *value)
{
	return in_range(r, at, a + b < 0, size_of(a + b), value);
}

static int product(struct reader *r, const char *at, mt_number a, mt_number b, mt_number *value)
{
	return in_range(r, at, (a < 0) != (b < 0), size_of(a) * size_of(b), value);
}

/** @p c is / or %. */
static int quotient(
	struct reader *r, const char *at, char c, mt_number a, mt_number b, mt_number *value)
{
	uint64_t n = (uint64_t)size_of(a), d = (uint64_t)size_of(b);

	*value = 0;
	if (d == 0)
		return r->skipped ? 0 : wrong(r, at, -ERANGE, "a division by zero");
	if (c == '/')
		return in_range(r, at, (a < 0) != (b < 0), n / d, value);
	return in_range(r, at, a < 0, n % d, value);
}

/** Multiples of @p a that @p x takes: as their number, or as their sum. */
static int round_up(struct reader *r, const char *at, enum function f, mt_number x, mt_number a,
	mt_number *value)
{
	*value = 0;
	if (x < 0 || a < 1)
		return r->skipped
			       ? 0
			       : wrong(r, at, -ERANGE,
					 "%s() wants a number of 0 or more, and one of 1 or more",
					 function_names[f]);
	x = (mt_number)((uint64_t)x / (uint64_t)a + ((uint64_t)x % (uint64_t)a != 0));
	return f == ALIGN ? product(r, at, x, a, value) : in_range(r, at, false, (wide)x, value);
}

/* ---- what formulas are made of ------------------------------------------------------------ */

static int read_number(struct reader *r, mt_number *value)
{
	const char *start = r->at;
	unsigned int base = 10, digit;
	wide size = 0;

	if (start[0] == '0' && (start[1] == 'x' || start[1] == 'X')) {
		base = 16;
		r->at += 2;
	} else if (start[0] == '0' && isdigit((unsigned char)start[1])) {
		return wrong(r, start, -EINVAL, "a number that begins with 0");
	}
	if (!isxdigit((unsigned char)*r->at))
		return wrong(r, start, -EINVAL, "digits are expected after 0x");
	for (; isalnum((unsigned char)*r->at) || *r->at == '_' || *r->at == '.'; r->at++) {
		digit = isdigit((unsigned char)*r->at)	  ? (unsigned int)(*r->at - '0')
			: isxdigit((unsigned char)*r->at) ? (unsigned int)(*r->at | 0x20) - 'a' + 10
							  : 16;
		if (digit >= base)
			return wrong(r, start, -EINVAL, "no whole number, as in 16 or 0x10");
		size = size * base + digit;
		if (size > UINT64_MAX)
			return wrong(
				r, start, -ERANGE, "the number is out of range: at most 2^64 - 1");
	}
	*value = (mt_number)size;
	return 0;
}

/** Length of the name that begins here. */
static size_t name_length(const char *s)
{
	size_t n = 0;

	if (!islower((unsigned char)s[0]))
		return 0;
	while (islower((unsigned char)s[n]) || isdigit((unsigned char)s[n]) || s[n] == '_')
		n++;
	return n;
}

static int read_call(struct reader *r, const char *start, enum function f, mt_number *value)
{
	mt_number x, result = 0;
	unsigned int given = 0;
	int ret = deeper(r);

	if (ret == 0)
		ret = expect(r, '(');
	if (ret < 0)
		return ret;
	do {
		ret = read_condition(r, &x);
		if (ret < 0)
			return ret;
		given++;
		if (given == 1 || (f == MIN && x < result) || (f == MAX && x > result))
			result = x;
		if (given == 2 && f <= CEIL_DIV) {
			ret = round_up(r, start, f, result, x, &result);
			if (ret < 0)
				return ret;
		}
	} while (take(r, ','));
	ret = expect(r, ')');
	if (ret == 0 && (given < 2 || (given > 2 && f <= CEIL_DIV)))
		ret = wrong(r, start, -EINVAL, "%s() takes two numbers%s", function_names[f],
			f <= CEIL_DIV ? "" : " or more");
	r->depth--;
	*value = result;
	return ret;
}

static int read_name(struct reader *r, size_t length, mt_number *value)
{
	const char *start = r->at;
	char known[120] = "";
	size_t at = 0;

	r->at += length;
	for (unsigned int i = 0; i < FUNCTIONS; i++)
		if (strlen(function_names[i]) == length &&
			memcmp(start, function_names[i], length) == 0)
			return read_call(r, start, i, value);
	for (unsigned int i = 0; i < r->count; i++) {
		const char *name = r->names[i].name;

		if (strlen(name) == length && memcmp(start, name, length) == 0) {
			*value = r->names[i].value;
			return 0;
		}
		if (at < sizeof(known))
			at += (size_t)snprintf(
				known + at, sizeof(known) - at, "%s%s", i ? ", " : "", name);
	}
	return wrong(r, start, -EINVAL, "there is no '%.*s' here; names are %s%s",
		length < 40 ? (int)length : 40, start, r->count ? known : "none",
		at >= sizeof(known) ? " ..." : "");
}

static int read_operand(struct reader *r, mt_number *value)
{
	char c = look(r);
	size_t length;
	int ret;

	if (isdigit((unsigned char)c))
		return read_number(r, value);
	length = name_length(r->at);
	if (length > 0)
		return read_name(r, length, value);
	if (!take(r, '(')) {
		if (c == '\0')
			return wrong(
				r, r->at, -EINVAL, "a number is expected, but the formula ends");
		return wrong(r, r->at, -EINVAL, "a number, a name or '(' is expected, not '%.1s'",
			r->at);
	}
	ret = deeper(r);
	if (ret == 0)
		ret = read_condition(r, value);
	if (ret == 0)
		ret = expect(r, ')');
	r->depth--;
	return ret;
}

static int read_signed(struct reader *r, mt_number *value)
{
	const char *start;
	int ret;

	look(r);
	start = r->at;
	if (!take(r, '-'))
		return read_operand(r, value);
	ret = read_operand(r, value);
	return ret < 0 ? ret : in_range(r, start, *value > 0, size_of(*value), value);
}

static int read_product(struct reader *r, mt_number *value)
{
	int ret = read_signed(r, value);

	while (ret == 0) {
		char c = look(r);
		const char *at = r->at;
		mt_number next;

		if (c != '*' && c != '/' && c != '%')
			break;
		r->at++;
		ret = read_signed(r, &next);
		if (ret == 0)
			ret = c == '*' ? product(r, at, *value, next, value)
				       : quotient(r, at, c, *value, next, value);
	}
	return ret;
}

static int read_sum(struct reader *r, mt_number *value)
{
	int ret = read_product(r, value);

	while (ret == 0) {
		char c = look(r);
		const char *at = r->at;
		mt_number next;

		if (c != '+' && c != '-')
			break;
		r->at++;
		ret = read_product(r, &next);
		if (ret == 0)
			ret = sum(r, at, *value, c == '+' ? next : -next, value);
	}
	return ret;
}

static int read_comparison(struct reader *r, mt_number *value)
{
	mt_number a, b;
	bool equal;
	int ret = read_sum(r, value);
	char c;

	if (ret < 0)
		return ret;
	c = look(r);
	equal = c != '\0' && r->at[1] == '=';
	if (!(c == '<' || c == '>' || ((c == '=' || c == '!') && equal)))
		return 0;
	r->at += equal ? 2 : 1;
	a = *value;
	ret = read_sum(r, &b);
	if (c == '<')
		*value = equal ? a <= b : a < b;
	else if (c == '>')
		*value = equal ? a >= b : a > b;
	else
		*value = (a == b) == (c == '=');
	return ret;
}

static int read_condition(struct reader *r, mt_number *value)
{
	mt_number yes, no;
	bool chosen;
	int ret = read_comparison(r, value);

	if (ret < 0 || !take(r, '?'))
		return ret;
	ret = deeper(r);
	if (ret < 0)
		return ret;
	chosen = *value != 0;
	r->skipped += !chosen;
	ret = read_condition(r, &yes);
	r->skipped -= !chosen;
	if (ret == 0)
		ret = expect(r, ':');
	if (ret < 0)
		return ret;
	r->skipped += chosen;
	ret = read_condition(r, &no);
	r->skipped -= chosen;
	if (ret == 0)
		*value = chosen ? yes : no;
	r->depth--;
	return ret;
}

int mt_formula(const char *text, const struct mt_name *names, unsigned int count, mt_number *value,
	struct mt_error *err)
{
	struct reader r = {.text = text, .at = text, .names = names, .count = count, .err = err};
	mt_number result;
	int ret;

	*value = 0;
	if (strnlen(text, MT_FORMULA_MAX + 1) > MT_FORMULA_MAX)
		return mt_fail(err, -EINVAL, "character %u: a formula has at most %u",
			MT_FORMULA_MAX + 1, MT_FORMULA_MAX);
	ret = read_condition(&r, &result);
	if (ret == 0 && look(&r) != '\0')
		ret = wrong(&r, r.at, -EINVAL, "an operator is expected, not '%.10s'", r.at);
	if (ret == 0)
		*value = result;
	return ret;
}

bool mt_formula_is_name(const char *text)
{
	size_t length = name_length(text);

	for (unsigned int i = 0; i < FUNCTIONS; i++)
		if (strcmp(text, function_names[i]) == 0)
			return false;
	return length > 0 && length < MT_FORMULA_NAME_LEN && text[length] == '\0';
}

char *mt_number_text(mt_number value, char text[MT_FORMULA_TEXT_LEN])
{
	snprintf(text, MT_FORMULA_TEXT_LEN, "%s%" PRIu64, value < 0 ? "-" : "",
		(uint64_t)size_of(value));
	return text;
}
