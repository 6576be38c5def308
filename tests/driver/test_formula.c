/* SPDX-License-Identifier: BSD-3-Clause */
#include "common.h"

#include "formula.h"

static const struct mt_name names[] = {{"ranks", 4}, {"hidden", 2048}, {"zero", 0}, {"x_2", -7},
	{"huge", MT_NUMBER_MAX}, {"least", MT_NUMBER_MIN}};

static void gives(const char *text, mt_number value)
{
	char got[MT_FORMULA_TEXT_LEN];
	struct mt_error err = {""};
	mt_number v;

	if (mt_formula(text, names, COUNT(names), &v, &err) != 0)
		fail_msg("'%s' refused: %s", text, err.text);
	if (v != value)
		fail_msg("'%s' gives %s", text, mt_number_text(v, got));
}

static void refused(const char *text, int code, unsigned int character, const char *words)
{
	struct mt_error err = {"(no words)"};
	char place[32];
	mt_number v;
	int ret = mt_formula(text, names, COUNT(names), &v, &err);

	snprintf(place, sizeof(place), "character %u: ", character);
	if (ret != code || strncmp(err.text, place, strlen(place)) != 0 ||
		strstr(err.text, words) == NULL)
		fail_msg("'%.80s': wanted %d, '%s ... %s', got %d: %s", text, code, place, words,
			ret, err.text);
	assert_true(v == 0);
	assert_int_equal(mt_formula(text, names, COUNT(names), &v, NULL), code);
}

static void test_numbers(void **unused)
{
	(void)unused;
	gives("0", 0);
	gives("16", 16);
	gives("0x10", 16);
	gives("0XaBcDeF", 0xabcdef);
	gives("18446744073709551615", MT_NUMBER_MAX);
	gives("0xffffffffffffffff", MT_NUMBER_MAX);
	gives("-9223372036854775808", MT_NUMBER_MIN);
	gives("-0", 0);
	gives(" 7 ", 7);
	gives("1\n+ 2", 3);
	refused("18446744073709551616", -ERANGE, 1, "at most 2^64 - 1");
	refused("0x10000000000000000", -ERANGE, 1, "at most 2^64 - 1");
	refused("1 + 99999999999999999999999999999999999999999999999", -ERANGE, 5, "out of range");
	refused("-9223372036854775809", -ERANGE, 1, "out of range");
	refused("010", -EINVAL, 1, "begins with 0");
	refused("0x", -EINVAL, 1, "after 0x");
	refused("0xg", -EINVAL, 1, "after 0x");
	refused("12a", -EINVAL, 1, "no whole number");
	refused("0x1z", -EINVAL, 1, "no whole number");
	refused("1.5", -EINVAL, 1, "no whole number");
	refused("1_000", -EINVAL, 1, "no whole number");
}

static void test_operators(void **unused)
{
	(void)unused;
	gives("1 + 2 * 3", 7);
	gives("(1 + 2) * 3", 9);
	gives("10 - 3 - 2", 5);
	gives("100 / 10 / 3", 3);
	gives("7 % 4 * 2", 6);
	gives("2*-3", -6);
	gives("2 - -3", 5);
	gives("-7 / 2", -3);
	gives("-7 % 2", -1);
	gives("7 / -2", -3);
	gives("7 % -2", 1);
	gives("1 < 2", 1);
	gives("2 < 1", 0);
	gives("2 <= 2", 1);
	gives("3 > 2 + 1", 0);
	gives("3 >= 2 + 1", 1);
	gives("4 == 2 * 2", 1);
	gives("4 != 2 * 2", 0);
	gives("huge - 1", MT_NUMBER_MAX - 1);
	gives("huge + least", MT_NUMBER_MAX + MT_NUMBER_MIN);
	gives("huge / huge", 1);
	gives("least / 1", MT_NUMBER_MIN);
	gives("least / -1", (mt_number)1 << 63);
	gives("least % -1", 0);
	gives("-1 * least", (mt_number)1 << 63);
	refused("huge + 1", -ERANGE, 6, "out of range");
	refused("least - 1", -ERANGE, 7, "out of range");
	refused("huge * huge", -ERANGE, 6, "out of range");
	refused("huge * least", -ERANGE, 6, "out of range");
	refused("4294967296 * 4294967296", -ERANGE, 12, "out of range");
	refused("-huge", -ERANGE, 1, "out of range");
	refused("1 / 0", -ERANGE, 3, "division by zero");
	refused("1 % (2 - 2)", -ERANGE, 3, "division by zero");
}

static void test_conditions(void **unused)
{
	(void)unused;
	gives("1 ? 2 : 3", 2);
	gives("0 ? 2 : 3", 3);
	gives("-1 ? 2 : 3", 2);
	gives("ranks == 4 ? hidden : 0", 2048);
	gives("0 ? 1 : 0 ? 2 : 3", 3);
	gives("1 ? 0 ? 4 : 5 : 6", 5);
	gives("1 + (0 ? 1 : 2)", 3);
	/* what is not taken has no value, but its form must be right */
	gives("zero == 0 ? 1 : 5 / zero", 1);
	gives("zero != 0 ? huge + 1 : 2", 2);
	gives("zero ? align(1, 0) : 3", 3);
	gives("1 ? 2 : (zero ? 1 / 0 : 1 / 0)", 2);
	refused("zero ? 1 : 1 / zero", -ERANGE, 14, "division by zero");
	refused("1 ? 2 : nothing", -EINVAL, 9, "there is no 'nothing'");
	refused("1 ? 2", -EINVAL, 6, "':' is expected");
	refused("1 ? : 2", -EINVAL, 5, "a number, a name");
	refused("1 < 2 < 3", -EINVAL, 7, "an operator is expected");
	refused("1 = 2", -EINVAL, 3, "an operator is expected");
	refused("!1", -EINVAL, 1, "not '!'");
}

static void test_functions(void **unused)
{
	(void)unused;
	gives("align(1, 128)", 128);
	gives("align(128, 128)", 128);
	gives("align(0, 128)", 0);
	gives("align(129, 128)", 256);
	gives("align(huge, 1)", MT_NUMBER_MAX);
	gives("ceil_div(7, 2)", 4);
	gives("ceil_div(8, 2)", 4);
	gives("ceil_div(huge, huge)", 1);
	gives("min(3, 2)", 2);
	gives("max(3, 2)", 3);
	gives("min(3, x_2, 9)", -7);
	gives("max(3, x_2, 9)", 9);
	gives("max (align (5, 4), min(100, hidden))", 100);
	refused("align(huge, 2)", -ERANGE, 1, "out of range");
	refused("align(1, 0)", -ERANGE, 1, "1 or more");
	refused("align(x_2, 4)", -ERANGE, 1, "0 or more");
	refused("ceil_div(1, x_2)", -ERANGE, 1, "1 or more");
	refused("align(1)", -EINVAL, 1, "takes two numbers");
	refused("align(1, 2, 3)", -EINVAL, 1, "takes two numbers");
	refused("2 + max(1)", -EINVAL, 5, "two numbers or more");
	refused("align", -EINVAL, 6, "'(' is expected");
	refused("align(1, 2", -EINVAL, 11, "')' is expected");
	refused("align()", -EINVAL, 7, "a number, a name");
	refused("sqrt(4)", -EINVAL, 1, "there is no 'sqrt'");
}

static void test_names(void **unused)
{
	static const char *const good[] = {"a", "x_2", "experts_per_rank", "alignment"};
	static const char *const bad[] = {"", "A", "2x", "_x", "a-b", "a b", "min", "max", "align",
		"ceil_div", "x\n", "a2345678901234567890123456789012"};
	mt_number v;

	(void)unused;
	gives("x_2", -7);
	gives("ranks*hidden", 8192);
	refused("rank", -EINVAL, 1, "names are ranks, hidden");
	refused("ranks2", -EINVAL, 1, "there is no 'ranks2'");
	refused("Ranks", -EINVAL, 1, "not 'R'");
	refused("token-bytes", -EINVAL, 1, "there is no 'token'");
	assert_int_equal(mt_formula("a", NULL, 0, &v, NULL), -EINVAL);
	for (size_t i = 0; i < COUNT(good); i++)
		assert_true(mt_formula_is_name(good[i]));
	for (size_t i = 0; i < COUNT(bad); i++)
		assert_false(mt_formula_is_name(bad[i]));
}

static void test_form(void **unused)
{
	(void)unused;
	refused("", -EINVAL, 1, "the formula ends");
	refused("1 +", -EINVAL, 4, "the formula ends");
	refused("1 2", -EINVAL, 3, "an operator is expected");
	refused("(1", -EINVAL, 3, "')' is expected, but the formula ends");
	refused("(1 2)", -EINVAL, 4, "')' is expected before '2'");
	refused("1)", -EINVAL, 2, "an operator is expected");
	refused("--1", -EINVAL, 2, "not '-'");
	refused("+1", -EINVAL, 1, "not '+'");
	refused("1 ** 2", -EINVAL, 4, "not '*'");
	refused("1\t+ 1", -EINVAL, 2, "an operator is expected");
	refused("1 & 1", -EINVAL, 3, "an operator is expected");
}

static void test_limits(void **unused)
{
	static const char *const open[] = {"(", "min(1,", "1?", "-("};
	char text[4 * MT_FORMULA_MAX];
	mt_number v;

	(void)unused;
	for (size_t i = 0; i < COUNT(open); i++) {
		text[0] = '\0';
		for (size_t n = 0; (n + 1) * strlen(open[i]) < MT_FORMULA_MAX; n++)
			strcat(text, open[i]);
		assert_int_equal(mt_formula(text, NULL, 0, &v, NULL), -EINVAL);
	}
	snprintf(text, sizeof(text), "%*s1%*s", (int)MT_FORMULA_DEPTH, "", (int)MT_FORMULA_DEPTH,
		"");
	memset(text, '(', MT_FORMULA_DEPTH);
	memset(text + MT_FORMULA_DEPTH + 1, ')', MT_FORMULA_DEPTH);
	gives(text, 1);
	memset(text, '(', MT_FORMULA_DEPTH + 1);
	refused(text, -EINVAL, MT_FORMULA_DEPTH + 2, "more than 32 deep");
	memset(text, ' ', MT_FORMULA_MAX);
	text[0] = '5';
	text[MT_FORMULA_MAX] = '\0';
	gives(text, 5);
	strcat(text, " ");
	refused(text, -EINVAL, MT_FORMULA_MAX + 1, "at most 1024");
}

/** Texts from the alphabet of formulas: whatever they are, a value in range, or a reason. */
static void test_random(void **unused)
{
	static const char *const words[] = {"1", "0", "7", "18446744073709551615", "huge", "least",
		"zero", "x_2", "(", ")", "+", "-", "*", "/", "%", "?", ":", "<", ">=", "==", ",",
		"align(", "ceil_div(", "min(", "max("};
	uint32_t seed = first_seed();
	unsigned int good = 0;

	(void)unused;
	for (unsigned int i = 0; i < 200000; i++) {
		struct mt_error err = {""};
		char text[512] = "";
		mt_number v;
		int ret;

		for (uint32_t n = next_random(&seed) % 12; n > 0; n--)
			strcat(text, words[next_random(&seed) % COUNT(words)]);
		ret = mt_formula(text, names, COUNT(names), &v, &err);
		assert_true(ret == 0 || ret == -EINVAL || ret == -ERANGE);
		assert_true(v >= MT_NUMBER_MIN && v <= MT_NUMBER_MAX);
		assert_true((ret == 0) == (err.text[0] == '\0'));
		good += ret == 0;
	}
	print_message("%u have a value\n", good);
	assert_true(good > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_operators),
		cmocka_unit_test(test_conditions),
		cmocka_unit_test(test_functions),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_form),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
