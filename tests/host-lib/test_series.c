/* SPDX-License-Identifier: BSD-3-Clause */
#include "common.h"

static void test_limits(void **unused)
{
	struct moetap_series *series;
	struct moetap_error error;

	(void)unused;
	assert_int_equal(moetap_series_new(0, 4, 0, &series, &error), -EINVAL);
	assert_int_equal(moetap_series_new(4, 0, 0, &series, &error), -EINVAL);
	assert_int_equal(moetap_series_new(MOETAP_MAX_LAYERS + 1, 4, 0, &series, &error), -E2BIG);
	assert_non_null(strstr(error.text, "layers"));
	assert_int_equal(moetap_series_new(4, MOETAP_MAX_EXPERTS + 1, 0, &series, &error), -E2BIG);
	assert_non_null(strstr(error.text, "experts"));
	assert_int_equal(
		moetap_series_new(MOETAP_MAX_LAYERS, MOETAP_MAX_EXPERTS, 1000000, &series, &error),
		-E2BIG);
	assert_non_null(strstr(error.text, "MiB"));
	/* The error may be left out. */
	assert_int_equal(moetap_series_new(0, 4, 0, &series, NULL), -EINVAL);
}

static void test_rounds_add_up(void **unused)
{
	struct moetap_series *s = series_of(2, 2, 0);
	double share[2], tokens[4];

	(void)unused;
	/* Two micro-batches of layer 0, one round of layer 1. */
	assert_int_equal(moetap_series_add_round(s, 7, 0, (double[]){1, 3}, 0, NULL), 0);
	assert_int_equal(moetap_series_add_round(s, 7, 1, (double[]){5, 5}, 0, NULL), 0);
	assert_int_equal(moetap_series_add_round(s, 7, 0, (double[]){2, 2}, 0, NULL), 0);
	assert_int_equal(moetap_series_steps(s), 1);
	assert_int_equal(moetap_series_mean_shares(s, 0, 7, 7, share), 1);
	assert_near(share[0], 3.0 / 8, 1e-15);
	assert_near(share[1], 5.0 / 8, 1e-15);
	moetap_series_mean_tokens(s, 0, tokens);
	assert_memory_equal(tokens, ((double[]){3, 5, 5, 5}), sizeof(tokens));
	moetap_series_free(s);
}

static void test_mean_of_shares_not_of_tokens(void **unused)
{
	struct moetap_series *s = series_of(1, 2, 0);
	double share[2];

	(void)unused;
	/* A step of 10 tokens counts as much as one of 1,000; a step of none does not count. */
	moetap_series_add_step(s, 1, (double[]){10, 0}, NULL, NULL);
	moetap_series_add_step(s, 2, (double[]){0, 0}, NULL, NULL);
	moetap_series_add_step(s, 3, (double[]){500, 500}, NULL, NULL);
	assert_int_equal(moetap_series_mean_shares(s, 0, 1, 3, share), 2);
	assert_near(share[0], 0.75, 1e-15);
	assert_int_equal(moetap_series_mean_shares(s, 0, 2, 2, share), 0);
	assert_true(share[0] == 0 && share[1] == 0);
	/* Ends that are not steps, and beyond both ends. */
	assert_int_equal(moetap_series_mean_shares(s, 0, -5, 100, share), 2);
	assert_int_equal(moetap_series_mean_shares(s, 0, 4, 100, share), 0);
	moetap_series_free(s);
}

static void test_late_and_dropped(void **unused)
{
	struct moetap_series *s = series_of(1, 1, 3);
	struct moetap_error error;

	(void)unused;
	for (int64_t step = 10; step <= 14; step += 2)
		assert_int_equal(moetap_series_add_step(s, step, (double[]){1}, NULL, NULL), 0);
	assert_int_equal(moetap_series_dropped(s), 0);
	/* A late round of a kept step, and one of a step between, which pushes the oldest out. */
	assert_int_equal(moetap_series_add_round(s, 10, 0, (double[]){1}, 0, NULL), 0);
	assert_int_equal(moetap_series_add_round(s, 13, 0, (double[]){1}, 0, NULL), 0);
	assert_int_equal(moetap_series_steps(s), 3);
	assert_int_equal(moetap_series_dropped(s), 1);
	assert_int_equal(moetap_series_first_step(s), 12);
	assert_int_equal(moetap_series_last_step(s), 14);
	assert_int_equal(moetap_series_add_round(s, 11, 0, (double[]){1}, 0, &error), -ESTALE);
	assert_non_null(strstr(error.text, "11"));
	moetap_series_free(s);
}

/* The ring against the plainest possible model of it: the newest steps, kept in order. */
static void test_ring(void **unused)
{
	enum { KEPT = 5, STEPS = 300 };
	struct moetap_series *s = series_of(1, 2, KEPT);
	double sum[STEPS] = {0}, tokens[2];
	uint32_t seed = 99;

	(void)unused;
	for (int i = 0; i < 1000; i++) {
		int64_t newest = moetap_series_last_step(s);
		int64_t step = newest + 1 - (int64_t)(next_random(&seed) % 3);
		double load = next_random(&seed) % 100;

		if (step < 0 || step >= STEPS)
			continue;
		if (moetap_series_add_step(s, step, (double[]){load, load}, NULL, NULL) == 0)
			sum[step] += 2 * load;
	}
	assert_int_equal(moetap_series_steps(s), KEPT);
	assert_true(moetap_series_last_step(s) > KEPT);
	assert_int_equal(moetap_series_dropped(s), moetap_series_last_step(s) + 1 - KEPT);
	for (uint32_t last = 1; last <= KEPT; last++) {
		double want = 0;

		for (uint32_t i = 0; i < last; i++)
			want += sum[moetap_series_last_step(s) - i] / last;
		moetap_series_mean_tokens(s, last, tokens);
		assert_near(tokens[0] + tokens[1], want, 1e-9);
	}
	moetap_series_free(s);
}

static void test_bad_loads(void **unused)
{
	const double bad[] = {-1, NAN, INFINITY, -INFINITY, 1e300};
	struct moetap_series *s = series_of(2, 2, 0);
	struct moetap_error error;

	(void)unused;
	for (size_t i = 0; i < COUNT(bad); i++) {
		double tokens[] = {1, 1, 1, bad[i]};

		assert_int_equal(moetap_series_add_step(s, 1, tokens, NULL, &error), -EINVAL);
		assert_non_null(strstr(error.text, "layer 1, expert 1"));
		assert_int_equal(moetap_series_add_round(s, 1, 1, tokens + 2, 0, &error), -EINVAL);
	}
	assert_int_equal(moetap_series_add_round(s, 1, 2, (double[]){1, 1}, 0, &error), -EINVAL);
	/* Nothing of it was kept. */
	assert_int_equal(moetap_series_steps(s), 0);
	assert_int_equal(moetap_series_last_step(s), -1);
	moetap_series_free(s);
}

static void test_flagged(void **unused)
{
	struct moetap_series *s = series_of(2, 1, 0);
	uint32_t quality;
	uint64_t rounds;
	char text[128];

	(void)unused;
	moetap_series_add_round(s, 1, 0, (double[]){1}, 0, NULL);
	moetap_series_add_round(s, 1, 1, (double[]){1}, MOETAP_QUALITY_GAP, NULL);
	moetap_series_add_round(s, 2, 0, (double[]){1}, MOETAP_QUALITY_NIC_DROP, NULL);
	/* Two micro-batches of one round: one flagged round. */
	moetap_series_add_round(s, 2, 0, (double[]){1}, MOETAP_QUALITY_GAP, NULL);
	assert_int_equal(moetap_series_flagged(s, 1, 2, &quality, &rounds), 2);
	assert_int_equal(quality, MOETAP_QUALITY_GAP | MOETAP_QUALITY_NIC_DROP);
	assert_int_equal(rounds, 3);
	assert_int_equal(moetap_series_flagged(s, 1, 1, &quality, NULL), 1);
	assert_int_equal(quality, MOETAP_QUALITY_GAP);
	assert_int_equal(moetap_series_flagged(s, 3, 9, &quality, &rounds), 0);
	assert_int_equal(quality, 0);
	assert_string_equal(moetap_quality_text(MOETAP_QUALITY_GAP | MOETAP_QUALITY_NIC_DROP, text,
				    sizeof(text)),
		"gap,nic-drop");
	assert_string_equal(moetap_quality_text(0, text, sizeof(text)), "");
	assert_string_equal(moetap_quality_text(UINT32_MAX, text, 6), "gap,d");
	moetap_series_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_rounds_add_up),
		cmocka_unit_test(test_mean_of_shares_not_of_tokens),
		cmocka_unit_test(test_late_and_dropped),
		cmocka_unit_test(test_ring),
		cmocka_unit_test(test_bad_loads),
		cmocka_unit_test(test_flagged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
