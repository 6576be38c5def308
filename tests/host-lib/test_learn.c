/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods that learn step by step, on what a real job may bring. */
#include "common.h"

#define LAYERS 2
#define EXPERTS 10
#define CELLS (LAYERS * EXPERTS)

static const char *const methods[] = {"arima", "lstm"};

/** What the shares are, before noise. */
static const double truth[EXPERTS] = {0.25, 0.2, 0.15, 0.1, 0.1, 0.08, 0.05, 0.04, 0.03, 0};

/** Loads of a step: the truth with noise, and shifted by `shift` experts. */
static void make_step(uint32_t *seed, int shift, double *tokens)
{
	for (int c = 0; c < CELLS; c++)
		tokens[c] = 1000 * truth[(c + shift) % EXPERTS] * (0.7 + 0.6 * next_uniform(seed));
}

static struct moetap_forecaster *forecaster_of(const char *method)
{
	struct moetap_forecaster *f;

	assert_int_equal(moetap_forecaster_new(method, 0, &f, NULL), 0);
	return f;
}

static struct moetap_forecast *ask(
	struct moetap_forecaster *f, const struct moetap_series *s, uint32_t horizon)
{
	struct moetap_forecast *forecast;

	assert_int_equal(moetap_forecaster_update(f, s, moetap_series_last_step(s), NULL), 0);
	assert_int_equal(moetap_forecaster_forecast(f, s, horizon, &forecast, NULL), 0);
	return forecast;
}

/** Norm of the error of a layer against the truth; the shares must lie on the simplex. */
static double error_of(const struct moetap_forecast *f, int layer, int shift)
{
	double sum = 0, error = 0;

	for (int e = 0; e < EXPERTS; e++) {
		int c = layer * EXPERTS + e;
		double share = moetap_forecast_share(f)[c];

		assert_true(share >= 0);
		assert_true(moetap_forecast_low(f)[c] <= share);
		assert_true(moetap_forecast_high(f)[c] >= share);
		sum += share;
		error += fabs(share - truth[(c + shift) % EXPERTS]);
	}
	assert_near(sum, 1, 1e-9);
	return error;
}

/* Steady loads under noise: far better than a single step; a dead expert stays dead. */
static void test_steady(void **unused)
{
	(void)unused;
	for (size_t m = 0; m < COUNT(methods); m++) {
		struct moetap_series *s = series_of(LAYERS, EXPERTS, 0);
		struct moetap_forecaster *f = forecaster_of(methods[m]);
		uint32_t seed = 11;

		for (int step = 0; step < 600; step++) {
			struct moetap_forecast *forecast;
			double tokens[CELLS];

			make_step(&seed, 0, tokens);
			moetap_series_add_step(s, step, tokens, NULL, NULL);
			forecast = ask(f, s, 1 + (uint32_t)step % 300);
			if (step > 300) {
				/* A single step is wrong by 0.13 or so. */
				assert_true(error_of(forecast, 0, 0) < 0.05);
				assert_near(moetap_forecast_share(forecast)[9], 0, 1e-6);
			}
			moetap_forecast_free(forecast);
		}
		moetap_forecaster_free(f);
		moetap_series_free(s);
	}
}

/* Every tenth step, some of them missing, a layer that is idle at times, and a long gap. */
static void test_missing(void **unused)
{
	(void)unused;
	for (size_t m = 0; m < COUNT(methods); m++) {
		struct moetap_series *s = series_of(LAYERS, EXPERTS, 0);
		struct moetap_forecaster *f = forecaster_of(methods[m]);
		struct moetap_forecast *forecast;
		uint32_t seed = 12;

		for (int64_t step = 0; step < 4000; step += 10) {
			double tokens[CELLS];
			/* Months later. */
			int64_t late = step < 2000 ? step : step + INT64_C(1000000000);

			make_step(&seed, 0, tokens);
			if (next_random(&seed) % 4 == 0)
				continue;
			if (next_random(&seed) % 3 == 0)
				memset(tokens, 0, EXPERTS * sizeof(double));
			moetap_series_add_step(s, late, tokens, NULL, NULL);
			if (step % 500 != 490)
				continue;
			forecast = ask(f, s, 500);
			if (step > 300)
				assert_true(error_of(forecast, 0, 0) < 0.1);
			if (step > 300)
				assert_true(error_of(forecast, 1, 0) < 0.1);
			moetap_forecast_free(forecast);
		}
		moetap_forecaster_free(f);
		moetap_series_free(s);
	}
}

/** Mean error when every third round is wrong, with flags or without. */
static double error_of_wrong_rounds(const char *method, bool flags)
{
	struct moetap_series *s = series_of(LAYERS, EXPERTS, 0);
	struct moetap_forecaster *f = forecaster_of(method);
	uint32_t seed = 13;
	double error = 0;

	for (int step = 0; step < 400; step++) {
		bool wrong = next_random(&seed) % 3 == 0;
		const uint32_t flag = wrong && flags ? MOETAP_QUALITY_GAP : 0;
		double tokens[CELLS];
		struct moetap_forecast *forecast;

		make_step(&seed, 0, tokens);
		for (int c = 0; c < CELLS && wrong; c += EXPERTS)
			tokens[c] = tokens[c + 1] = 0;
		moetap_series_add_step(s, step, tokens, (uint32_t[LAYERS]){flag, flag}, NULL);
		if (step < 200)
			continue;
		forecast = ask(f, s, 50);
		error += error_of(forecast, 0, 0) / 200;
		moetap_forecast_free(forecast);
	}
	moetap_forecaster_free(f);
	moetap_series_free(s);
	return error;
}

/* Flagged rounds count less than exact ones, and where there are no others they count. */
static void test_flagged(void **unused)
{
	(void)unused;
	for (size_t m = 0; m < COUNT(methods); m++) {
		double flagged = error_of_wrong_rounds(methods[m], true);
		double hidden = error_of_wrong_rounds(methods[m], false);
		struct moetap_series *s = series_of(LAYERS, EXPERTS, 0);
		struct moetap_forecaster *f = forecaster_of(methods[m]);
		struct moetap_forecast *forecast;
		uint32_t seed = 14;

		assert_true(flagged < 0.5 * hidden);
		for (int step = 0; step < 200; step++) {
			double tokens[CELLS];

			make_step(&seed, 0, tokens);
			moetap_series_add_step(s, step, tokens,
				(uint32_t[LAYERS]){MOETAP_QUALITY_GAP, MOETAP_QUALITY_GAP}, NULL);
		}
		forecast = ask(f, s, 50);
		assert_true(error_of(forecast, 1, 0) < 0.1);
		moetap_forecast_free(forecast);
		moetap_forecaster_free(f);
		moetap_series_free(s);
	}
}

/* Experts change places: the methods follow. A series of other experts: they begin anew. */
static void test_changes(void **unused)
{
	(void)unused;
	for (size_t m = 0; m < COUNT(methods); m++) {
		struct moetap_series *s = series_of(LAYERS, EXPERTS, 0);
		struct moetap_series *other = series_of(3, 5, 0);
		struct moetap_forecaster *f = forecaster_of(methods[m]);
		struct moetap_forecaster *fresh = forecaster_of(methods[m]);
		struct moetap_forecast *a, *b;
		uint32_t seed = 15;

		for (int step = 0; step < 900; step++) {
			double tokens[CELLS];

			make_step(&seed, step < 600 ? 0 : 4, tokens);
			moetap_series_add_step(s, step, tokens, NULL, NULL);
			moetap_series_add_step(other, step, tokens, NULL, NULL);
		}
		a = ask(f, s, 20);
		assert_true(error_of(a, 0, 4) < 0.25);
		moetap_forecast_free(a);
		a = ask(f, other, 20);
		b = ask(fresh, other, 20);
		assert_int_equal(moetap_forecast_experts(a), 5);
		assert_memory_equal(
			moetap_forecast_share(a), moetap_forecast_share(b), 15 * sizeof(double));
		assert_memory_equal(
			moetap_forecast_high(a), moetap_forecast_high(b), 15 * sizeof(double));
		moetap_forecast_free(a);
		moetap_forecast_free(b);
		moetap_forecaster_free(f);
		moetap_forecaster_free(fresh);
		moetap_series_free(s);
		moetap_series_free(other);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_steady),
		cmocka_unit_test(test_missing),
		cmocka_unit_test(test_flagged),
		cmocka_unit_test(test_changes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
