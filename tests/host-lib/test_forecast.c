/* SPDX-License-Identifier: BSD-3-Clause */
#include "common.h"

static struct moetap_forecast *make(const struct moetap_series *s, int64_t step, const char *method,
	uint32_t horizon, uint32_t window)
{
	struct moetap_forecast *f;
	struct moetap_error error;

	if (moetap_forecast_make(s, step, method, horizon, window, &f, &error) < 0)
		fail_msg("%s", error.text);
	return f;
}

/** Steps 0 ... 3 of two experts, sum 10: shares of the first 0.1, 0.3, 0.5, 0.9. */
static struct moetap_series *small(void)
{
	struct moetap_series *s = series_of(1, 2, 0);

	moetap_series_add_step(s, 0, (double[]){1, 9}, NULL, NULL);
	moetap_series_add_step(s, 1, (double[]){30, 70}, NULL, NULL);
	moetap_series_add_step(s, 2, (double[]){5, 5}, NULL, NULL);
	moetap_series_add_step(s, 3, (double[]){9, 1}, NULL, NULL);
	return s;
}

static void test_by_hand(void **unused)
{
	static const struct {
		const char *method;
		int64_t step;
		uint32_t window;
		double share;
	} cases[] = {
		{"last", 3, 0, 0.9}, {"last", 1, 0, 0.3}, {"last", 99, 0, 0.9},
		{"sw_avg", 3, 1, 0.9}, {"sw_avg", 3, 2, 0.7}, {"sw_avg", 3, 4, 0.45},
		{"sw_avg", 3, 100, 0.45}, {"sw_avg", 2, 3, 0.3},
		{"sw_avg", 3, 0, 0.45}, /* a short history: all of it */
	};
	struct moetap_series *s = small();

	(void)unused;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct moetap_forecast *f =
			make(s, cases[i].step, cases[i].method, 5, cases[i].window);

		assert_near(moetap_forecast_share(f)[0], cases[i].share, 1e-12);
		assert_near(moetap_forecast_share(f)[1], 1 - cases[i].share, 1e-12);
		moetap_forecast_free(f);
	}
	moetap_series_free(s);
}

/* Windows count steps, not lines: sampled traces have gaps. */
static void test_sparse_steps(void **unused)
{
	struct moetap_series *s = series_of(1, 2, 0);
	struct moetap_forecast *f;

	(void)unused;
	for (int i = 0; i <= 10; i++)
		moetap_series_add_step(s, 10 * i, (double[]){i, 10 - i}, NULL, NULL);
	f = make(s, 100, "sw_avg", 5, 20);
	assert_near(moetap_forecast_share(f)[0], 0.95, 1e-12);
	moetap_forecast_free(f);
	/* Nothing in the window: further back, rather than nothing. */
	f = make(s, 109, "sw_avg", 5, 5);
	assert_near(moetap_forecast_share(f)[0], 1.0, 1e-12);
	moetap_forecast_free(f);
	moetap_series_free(s);
}

static void test_refused(void **unused)
{
	struct moetap_series *s = small(), *empty = series_of(1, 2, 0);
	struct moetap_forecast *f;
	struct moetap_error error;

	(void)unused;
	assert_int_equal(moetap_forecast_make(s, 3, "oracle", 5, 0, &f, &error), -EINVAL);
	assert_non_null(strstr(error.text, "'oracle'"));
	assert_int_equal(moetap_forecast_make(s, 3, NULL, 0, 0, &f, &error), -EINVAL);
	assert_int_equal(moetap_forecast_make(s, -1, NULL, 5, 0, &f, &error), -ENODATA);
	assert_int_equal(moetap_forecast_make(empty, 3, NULL, 5, 0, &f, &error), -ENODATA);
	moetap_series_free(empty);
	moetap_series_free(s);
}

/* On random series with dead experts and idle layers, every method stays on the simplex. */
static void test_simplex(void **unused)
{
	enum { LAYERS = 3, EXPERTS = 5 };
	uint32_t seed = 12345;

	(void)unused;
	for (int run = 0; run < 50; run++) {
		struct moetap_series *s = series_of(LAYERS, EXPERTS, 0);
		const char *method;

		for (int step = 0; step < 60; step++) {
			double tokens[LAYERS * EXPERTS] = {0};

			for (int c = 0; c < 2 * EXPERTS; c++)
				tokens[c] = next_random(&seed) % 3 ? next_random(&seed) % 100 : 0;
			moetap_series_add_step(s, step, tokens, NULL, NULL);
		}
		for (uint32_t i = 0; (method = moetap_forecast_method(i, NULL)) != NULL; i++) {
			struct moetap_forecast *f =
				make(s, 59, method, 1 + next_random(&seed) % 40, 0);

			for (int l = 0; l < LAYERS; l++) {
				double sum = 0;

				for (int e = 0; e < EXPERTS; e++) {
					int c = l * EXPERTS + e;
					double share = moetap_forecast_share(f)[c];

					assert_true(share >= 0);
					assert_true(moetap_forecast_low(f)[c] >= 0);
					assert_true(moetap_forecast_low(f)[c] <= share);
					assert_true(moetap_forecast_high(f)[c] >= share);
					assert_true(moetap_forecast_high(f)[c] <= 1);
					sum += share;
				}
				/* The last layer never had a token. */
				assert_near(sum, l < 2 ? 1 : 0, 1e-12);
			}
			moetap_forecast_free(f);
		}
		moetap_series_free(s);
	}
}

/* A forecast made after step t is the same whatever comes after t. */
static void test_no_peeking(void **unused)
{
	struct moetap_series *a = series_of(1, 4, 0), *b = series_of(1, 4, 0);
	uint32_t seed = 5;
	const char *method;

	(void)unused;
	for (int step = 0; step < 400; step++) {
		double tokens[4];

		for (int e = 0; e < 4; e++)
			tokens[e] = 1 + next_random(&seed) % 100;
		moetap_series_add_step(a, step, tokens, NULL, NULL);
		if (step > 250)
			tokens[0] += 1000;
		if (step <= 300)
			moetap_series_add_step(b, step, tokens, NULL, NULL);
	}
	for (uint32_t i = 0; (method = moetap_forecast_method(i, NULL)) != NULL; i++) {
		struct moetap_forecast *f = make(a, 250, method, 30, 0);
		struct moetap_forecast *g = make(b, 250, method, 30, 0);

		assert_memory_equal(
			moetap_forecast_share(f), moetap_forecast_share(g), 4 * sizeof(double));
		assert_memory_equal(
			moetap_forecast_low(f), moetap_forecast_low(g), 4 * sizeof(double));
		assert_memory_equal(
			moetap_forecast_high(f), moetap_forecast_high(g), 4 * sizeof(double));
		moetap_forecast_free(f);
		moetap_forecast_free(g);
	}
	moetap_series_free(a);
	moetap_series_free(b);
}

static void test_info(void **unused)
{
	struct moetap_series *s = series_of(1, 2, 0);
	struct moetap_forecast *f;
	struct moetap_forecast_info info;

	(void)unused;
	for (int step = 0; step < 100; step++)
		moetap_series_add_round(s, step, 0, (double[]){1, 1 + step % 2},
			step == 95 ? MOETAP_QUALITY_GAP : 0, NULL);
	f = make(s, 99, "sw_avg", 7, 10);
	moetap_forecast_info(f, &info);
	assert_string_equal(info.method, "sw_avg");
	assert_int_equal(info.step, 99);
	assert_int_equal(info.horizon, 7);
	assert_int_equal(info.window, 10);
	assert_int_equal(info.rounds, 10);
	assert_int_equal(info.flagged, 1);
	assert_int_equal(info.quality, MOETAP_QUALITY_GAP);
	assert_non_null(strstr(info.interval, "matured"));
	moetap_forecast_free(f);
	/* The flagged round lies outside this window. */
	f = make(s, 99, "sw_avg", 7, 4);
	moetap_forecast_info(f, &info);
	assert_int_equal(info.flagged, 0);
	assert_int_equal(info.quality, 0);
	moetap_forecast_free(f);
	moetap_series_free(s);
}

/** Fraction of (expert, run) whose actual mean share falls into the interval. */
static double coverage(int history, uint32_t horizon)
{
	enum { EXPERTS = 8, RUNS = 100 };
	uint32_t seed = 77, inside = 0;

	for (int run = 0; run < RUNS; run++) {
		struct moetap_series *s = series_of(1, EXPERTS, 0);
		struct moetap_forecast *f;
		double actual[EXPERTS];

		for (int step = 0; step < history + (int)horizon; step++) {
			double tokens[EXPERTS];

			for (int e = 0; e < EXPERTS; e++)
				tokens[e] = (e + 1) * (0.2 + next_uniform(&seed));
			moetap_series_add_step(s, step, tokens, NULL, NULL);
		}
		f = make(s, history - 1, "sw_avg", horizon, 50);
		moetap_series_mean_shares(s, 0, history, history + horizon - 1, actual);
		for (int e = 0; e < EXPERTS; e++)
			inside += actual[e] >= moetap_forecast_low(f)[e] &&
				  actual[e] <= moetap_forecast_high(f)[e];
		moetap_forecast_free(f);
		moetap_series_free(s);
	}
	return (double)inside / (RUNS * EXPERTS);
}

/* 80 % intervals hold about 80 % of what comes; stretched ones rather more, never much less. */
static void test_coverage(void **unused)
{
	double matured = coverage(500, 50), stretched = coverage(120, 100);

	(void)unused;
	print_message(
		"coverage of 80 %% intervals: %.3f matured, %.3f stretched\n", matured, stretched);
	assert_in_range(1000 * matured, 720, 880);
	assert_in_range(1000 * stretched, 720, 1000);
}

static void test_single_step(void **unused)
{
	struct moetap_series *s = series_of(1, 2, 0);
	struct moetap_forecast *f;
	struct moetap_forecast_info info;

	(void)unused;
	moetap_series_add_step(s, 5, (double[]){1, 3}, NULL, NULL);
	f = make(s, 5, NULL, 10, 0);
	moetap_forecast_info(f, &info);
	assert_non_null(strstr(info.interval, "single step"));
	assert_near(moetap_forecast_low(f)[0], 0, 0);
	assert_near(moetap_forecast_high(f)[0], 1, 0);
	moetap_forecast_free(f);
	moetap_series_free(s);
}

/* All zero, constant, a dead expert, idle layers: shares of 0, or those that came, on the simplex.
 */
static void test_auto_plain(void **unused)
{
	struct moetap_series *s = series_of(3, 4, 0);
	struct moetap_forecast *f;

	(void)unused;
	for (int step = 0; step < 300; step++)
		moetap_series_add_step(s, step,
			(double[]){700, 200, 100, 0, 0, 0, 0, 0, step % 2 ? 5 : 0, 0, 0, 0}, NULL,
			NULL);
	f = make(s, 299, "auto", 100, 0);
	for (int e = 0; e < 4; e++) {
		assert_near(moetap_forecast_share(f)[e], ((double[]){0.7, 0.2, 0.1, 0})[e], 1e-6);
		assert_near(moetap_forecast_share(f)[4 + e], 0, 0);
		assert_near(moetap_forecast_share(f)[8 + e], e == 0, 1e-6);
	}
	moetap_forecast_free(f);
	moetap_series_free(s);
}

/* Prefill and decode in turn: once a period was seen, the coming part of it is known. */
static void test_auto_period(void **unused)
{
	struct moetap_series *s = series_of(1, 4, 0);
	struct moetap_forecast *f;
	uint32_t seed = 7;

	(void)unused;
	for (int step = 0; step < 200; step++) {
		double a = step % 24 < 10 ? 3 : 1;

		moetap_series_add_step(s, step,
			(double[]){1000 * a + next_random(&seed) % 20, 1000, 1000, 6000 - 1000 * a},
			NULL, NULL);
	}
	/* Steps 200 to 204 are 8 to 12 of the period: two of ten with many. */
	f = make(s, 199, "auto", 5, 0);
	assert_near(moetap_forecast_share(f)[0], (2 * 3 + 3 * 1) / 5.0 / 8, 0.005);
	moetap_forecast_free(f);
	moetap_series_free(s);
}

/* A replay repeats itself to the token: known from the first step that comes back, and exact though
 * some steps of the period are never seen. */
static void test_auto_replay(void **unused)
{
	struct moetap_series *s = series_of(8, 8, 0);
	struct moetap_forecast *f;
	double row[50][64], actual[8];
	uint32_t seed = 11;

	(void)unused;
	for (int i = 0; i < 50; i++)
		for (int c = 0; c < 64; c++)
			row[i][c] = next_random(&seed) % (i < 16 ? 1000 : 20);
	for (int step = 0; step < 200; step++) {
		if (step % 50 != 20 && step % 50 != 49)
			moetap_series_add_step(s, step, row[step % 50], NULL, NULL);
	}
	for (int step = 50; step < 150; step += 17) {
		f = make(s, step, "auto", 33, 0);
		for (uint32_t l = 0; l < 8; l++) {
			moetap_series_mean_shares(s, l, step + 1, step + 33, actual);
			for (int e = 0; e < 8; e++)
				assert_near(moetap_forecast_share(f)[8 * l + e], actual[e], 1e-6);
		}
		moetap_forecast_free(f);
	}
	moetap_series_free(s);
}

/* What is shown step by step gives the same as all at once, and flagged steps are left out. */
static void test_online(void **unused)
{
	struct moetap_series *s = series_of(2, 8, 0);
	struct moetap_forecaster *online;
	struct moetap_forecast *f, *g;
	uint32_t seed = 99;

	(void)unused;
	assert_int_equal(moetap_forecaster_new("auto", 0, &online, NULL), 0);
	assert_int_equal(moetap_forecaster_forecast(online, s, 5, &f, NULL), -ENODATA);
	for (int step = 0; step < 500; step++) {
		bool flagged = step % 10 == 9;
		double tokens[16];

		for (int c = 0; c < 16; c++)
			tokens[c] = flagged && c % 8 == 0 ? 0 : 1000 + next_random(&seed) % 100;
		moetap_series_add_step(s, step, tokens,
			flagged ? (uint32_t[]){MOETAP_QUALITY_GAP, MOETAP_QUALITY_GAP} : NULL,
			NULL);
		assert_int_equal(moetap_forecaster_update(online, s, step, NULL), 0);
	}
	assert_int_equal(moetap_forecaster_forecast(online, s, 64, &f, NULL), 0);
	g = make(s, 499, "auto", 64, 0);
	assert_memory_equal(
		moetap_forecast_share(f), moetap_forecast_share(g), 16 * sizeof(double));
	/* With the flagged steps it would be 10 % less. */
	assert_near(moetap_forecast_share(f)[0], 0.125, 0.004);
	moetap_forecast_free(f);
	moetap_forecast_free(g);
	moetap_series_free(s);
	/* Another number of experts: it begins anew. */
	s = series_of(1, 2, 0);
	moetap_series_add_step(s, 0, (double[]){1, 3}, NULL, NULL);
	assert_int_equal(moetap_forecaster_forecast(online, s, 5, &f, NULL), -ENODATA);
	assert_int_equal(moetap_forecaster_update(online, s, 0, NULL), 0);
	assert_int_equal(moetap_forecaster_forecast(online, s, 5, &f, NULL), 0);
	assert_near(moetap_forecast_share(f)[1], 0.75, 1e-6);
	moetap_forecast_free(f);
	moetap_forecaster_free(online);
	moetap_series_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_by_hand),
		cmocka_unit_test(test_sparse_steps),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_simplex),
		cmocka_unit_test(test_no_peeking),
		cmocka_unit_test(test_info),
		cmocka_unit_test(test_coverage),
		cmocka_unit_test(test_single_step),
		cmocka_unit_test(test_auto_plain),
		cmocka_unit_test(test_auto_period),
		cmocka_unit_test(test_auto_replay),
		cmocka_unit_test(test_online),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
