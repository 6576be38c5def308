/* SPDX-License-Identifier: BSD-3-Clause */
#include "common.h"

#include "arima.h"
#include "arima_values.h"

#define SERIES 5

/** The i-th case as a panel of `series` copies, the k-th times k + 1. */
static struct panel panel_of(size_t i, uint32_t series)
{
	static double value[VALUES_N * SERIES];
	static bool seen[VALUES_N];

	for (unsigned int t = 0; t < VALUES_N; t++) {
		seen[t] = values[i].missing == 0 || t < values[i].missing ||
			  t >= values[i].missing + 3;
		for (uint32_t k = 0; k < series; k++)
			value[t * series + k] = seen[t] ? values[i].value[t] * (k + 1) : NAN;
	}
	return (struct panel){.blocks = VALUES_N, .series = series, .value = value, .seen = seen};
}

static double memory[SERIES * (ARIMA_STATE + 2)];

/* statsmodels' likelihood at statsmodels' coefficients, and its coefficients from ours. */
static void test_fit(void **unused)
{
	(void)unused;
	assert_true(mtl_arima_bytes(SERIES) <= sizeof(memory));
	for (size_t i = 0; i < COUNT(values); i++) {
		const struct panel panel = panel_of(i, 1);
		struct arima model = {.p = values[i].p, .q = values[i].q};
		struct arima_fit fit;

		memcpy(model.ar, values[i].ar, sizeof(model.ar));
		memcpy(model.ma, values[i].ma, sizeof(model.ma));
		mtl_arima_judge(&model, &panel, memory, &fit);
		assert_near(fit.loglik, values[i].loglik, 1e-6);
		assert_int_equal(
			fit.observed, values[i].missing != 0 ? VALUES_N - 4 : VALUES_N - 1);

		memset(model.ar, 0, sizeof(model.ar));
		memset(model.ma, 0, sizeof(model.ma));
		assert_true(mtl_arima_fit(&model, &panel, memory, &fit));
		assert_near(fit.loglik, values[i].loglik, 1e-5);
		for (int k = 0; k < 2; k++) {
			assert_near(model.ar[k], values[i].ar[k], 2e-3);
			assert_near(model.ma[k], values[i].ma[k], 2e-3);
		}
	}
}

static void test_forecast(void **unused)
{
	(void)unused;
	for (size_t i = 0; i < COUNT(values); i++) {
		const struct panel panel = panel_of(i, 1);
		struct arima model = {.p = values[i].p, .q = values[i].q};
		struct arima_filter f;
		double mean;

		memcpy(model.ar, values[i].ar, sizeof(model.ar));
		memcpy(model.ma, values[i].ma, sizeof(model.ma));
		mtl_arima_begin(&f, &model, 1, memory);
		for (unsigned int t = 0; t < VALUES_N; t++)
			mtl_arima_step(&f, panel.seen[t] ? panel.value + t : NULL);
		for (size_t h = 0; h < COUNT(ahead); h++) {
			mtl_arima_forecast(&f, NULL, 0, ahead[h], &mean);
			assert_near(mean, values[i].forecast[h], 1e-8);
		}
	}
}

/* Scales differ from series to series and do not matter; still series count neither way. */
static void test_panel(void **unused)
{
	(void)unused;
	for (size_t i = 0; i < COUNT(values); i++) {
		struct arima one = {.p = values[i].p, .q = values[i].q}, all = one;
		struct arima_fit fit_one, fit_all;
		struct panel panel = panel_of(i, 1);
		double scales = 0;

		mtl_arima_fit(&one, &panel, memory, &fit_one);
		panel = panel_of(i, SERIES);
		for (int t = 0; t < VALUES_N; t++)
			((double *)(uintptr_t)panel.value)[t * SERIES + 2] = 0.25;
		mtl_arima_fit(&all, &panel, memory, &fit_all);
		assert_int_equal(fit_all.used, SERIES - 1);
		for (int k = 0; k < SERIES; k++)
			scales += k == 2 ? 0 : log(k + 1) * fit_one.observed;
		assert_near(fit_all.loglik, (SERIES - 1) * fit_one.loglik - scales, 1e-3);
		for (int k = 0; k < 2; k++) {
			assert_near(all.ar[k], one.ar[k], 2e-3);
			assert_near(all.ma[k], one.ma[k], 2e-3);
		}
	}
}

/* A block under way: with all of it there it is a block; with less, between that and nothing. */
static void test_under_way(void **unused)
{
	const struct arima model = {.p = 1, .q = 1, .ar = {0.4}, .ma = {-0.7}};
	const double last = 0.9;
	struct arima_filter f;
	double whole, half, none, next;

	(void)unused;
	mtl_arima_begin(&f, &model, 1, memory);
	for (int t = 0; t < 20; t++)
		mtl_arima_step(&f, &(double){0.5 + 0.01 * (t % 3)});
	mtl_arima_forecast(&f, &last, 0, 4, &whole);
	mtl_arima_forecast(&f, &last, 0.7, 4, &half);
	mtl_arima_forecast(&f, &last, 1e12, 4, &none);
	mtl_arima_step(&f, &last);
	mtl_arima_forecast(&f, NULL, 0, 4, &next);
	assert_near(whole, next, 1e-12);
	assert_true(none < half && half < whole);
	/* Long before the end of a long path nothing changes any more. */
	mtl_arima_forecast(&f, NULL, 0, 1e9, &next);
	mtl_arima_forecast(&f, NULL, 0, 2e9, &whole);
	assert_near(next, whole, 1e-9);
}

/* Shares that sum to 1 have forecasts that do. */
static void test_simplex(void **unused)
{
	const struct arima model = {.p = 2, .q = 2, .ar = {0.3, 0.2}, .ma = {-0.5, 0.1}};
	double share[SERIES], mean[SERIES], sum;
	struct arima_filter f;
	uint32_t seed = 7;

	(void)unused;
	mtl_arima_begin(&f, &model, SERIES, memory);
	for (int t = 0; t < 50; t++) {
		sum = 0;
		for (int k = 0; k < SERIES; k++)
			sum += share[k] = k == 3 ? 0 : next_uniform(&seed); /* one dead */
		for (int k = 0; k < SERIES; k++)
			share[k] /= sum;
		mtl_arima_step(&f, t % 7 == 5 ? NULL : share);
		mtl_arima_forecast(&f, share, 0.5, 3.5, mean);
		sum = 0;
		for (int k = 0; k < SERIES; k++)
			sum += mean[k];
		assert_near(sum, 1, 1e-9);
		assert_near(mean[3], 0, 1e-12);
	}
}

static void test_too_little(void **unused)
{
	const double value[] = {0.5, 0.4, 0.3};
	bool seen[] = {true, false, true};
	struct panel panel = {.blocks = 3, .series = 1, .value = value, .seen = seen};
	struct arima model = {.q = 1};
	struct arima_filter f;
	struct arima_fit fit;
	double mean;

	(void)unused;
	assert_false(mtl_arima_fit(&model, &panel, memory, &fit));
	assert_true(isnan(fit.loglik) && isnan(fit.aicc));
	mtl_arima_begin(&f, &model, 1, memory);
	mtl_arima_step(&f, NULL);
	mtl_arima_forecast(&f, NULL, 0, 1, &mean);
	assert_near(mean, 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fit),
		cmocka_unit_test(test_forecast),
		cmocka_unit_test(test_panel),
		cmocka_unit_test(test_under_way),
		cmocka_unit_test(test_simplex),
		cmocka_unit_test(test_too_little),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
