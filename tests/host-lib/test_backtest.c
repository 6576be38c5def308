/* SPDX-License-Identifier: BSD-3-Clause */
#include "common.h"

#define LAYERS 4
#define EXPERTS 16
#define STEPS 2000

/** The trace, read again by the plainest means. */
static double trace[STEPS][LAYERS][EXPERTS];

static int read_trace(void **unused)
{
	FILE *file = fopen(data_path("gpt-4x16-short.csv"), "r");
	double step, loss;
	char header[4096];

	(void)unused;
	assert_non_null(file);
	assert_non_null(fgets(header, sizeof(header), file));
	for (int t = 0; t < STEPS; t++) {
		assert_int_equal(fscanf(file, "%lf,%lf", &step, &loss), 2);
		for (int c = 0; c < LAYERS * EXPERTS; c++)
			assert_int_equal(
				fscanf(file, ",%lf", &trace[t][c / EXPERTS][c % EXPERTS]), 1);
	}
	fclose(file);
	return 0;
}

/** Mean share over steps from ... to, straight from the definition. */
static double mean_share(int layer, int expert, int from, int to)
{
	double mean = 0;

	for (int t = from; t <= to; t++) {
		double sum = 0;

		for (int e = 0; e < EXPERTS; e++)
			sum += trace[t][layer][e];
		mean += trace[t][layer][expert] / sum / (to - from + 1);
	}
	return mean;
}

/** rel and norm of a window, straight from the definition. */
static void judge(int horizon, int window, int from, int every, double *rel, double *norm,
	unsigned int *origins)
{
	double rel_sum = 0, norm_sum = 0;
	unsigned int rel_terms = 0, norm_terms = 0;

	*origins = 0;
	for (int t = from; t + horizon <= STEPS - 1; t += every) {
		++*origins;
		for (int c = 0; c < LAYERS * EXPERTS; c++) {
			int l = c / EXPERTS, e = c % EXPERTS;
			double predicted = mean_share(l, e, t - window + 1, t);
			double actual = mean_share(l, e, t + 1, t + horizon);

			norm_sum += fabs(predicted - actual) * EXPERTS;
			norm_terms++;
			if (actual < 0.05 / EXPERTS)
				continue;
			rel_sum += fabs(predicted - actual) / actual;
			rel_terms++;
		}
	}
	*rel = rel_sum / rel_terms;
	*norm = norm_sum / norm_terms;
}

static struct moetap_series *load(void)
{
	struct moetap_series *series;

	assert_int_equal(
		moetap_series_load_trace(data_path("gpt-4x16-short.csv"), &series, NULL), 0);
	return series;
}

static void test_definition(void **unused)
{
	static const struct {
		const char *method;
		int horizon, window, from, every;
	} cases[] = {
		{"sw_avg", 100, 50, 200, 100},
		{"sw_avg", 1, 10, 30, 77},
		{"sw_avg", 500, 100, 100, 50},
		{"last", 100, 1, 0, 111},
		{"last", 700, 1, 499, 250},
	};
	struct moetap_series *series = load();

	(void)unused;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct moetap_backtest_options options = {.method = cases[i].method,
			.horizon = (uint32_t)cases[i].horizon,
			.window = (uint32_t)cases[i].window,
			.from = cases[i].from,
			.every = (uint32_t)cases[i].every};
		struct moetap_backtest_line lines[MOETAP_ORIGINS_KINDS];
		unsigned int origins;
		double rel, norm;

		judge(cases[i].horizon, cases[i].window, cases[i].from, cases[i].every, &rel, &norm,
			&origins);
		assert_int_equal(moetap_backtest(series, &options, lines, NULL), 0);
		assert_near(lines[MOETAP_ORIGINS_ALL].rel, rel, 1e-12);
		assert_near(lines[MOETAP_ORIGINS_ALL].norm, norm, 1e-12);
		assert_int_equal(lines[MOETAP_ORIGINS_ALL].origins, origins);
	}
	moetap_series_free(series);
}

/* Origins of the two states are all origins, and their errors together are the error of all. */
static void test_states(void **unused)
{
	struct moetap_backtest_options options = {.horizon = 50, .from = 50, .every = 25};
	struct moetap_backtest_line l[MOETAP_ORIGINS_KINDS];
	struct moetap_series *series = load();
	const struct moetap_backtest_line *t = &l[MOETAP_ORIGINS_TRANSIENT];
	const struct moetap_backtest_line *s = &l[MOETAP_ORIGINS_STABLE];

	(void)unused;
	assert_int_equal(moetap_backtest(series, &options, l, NULL), 0);
	assert_true(t->origins > 0 && s->origins > 0);
	assert_int_equal(t->origins + s->origins, l[MOETAP_ORIGINS_ALL].origins);
	assert_near((t->norm * t->origins + s->norm * s->origins) / (t->origins + s->origins),
		l[MOETAP_ORIGINS_ALL].norm, 1e-12);
	/* What the state is for. */
	assert_true(s->norm < t->norm);
	moetap_series_free(series);
}

static void test_perfect_and_dead(void **unused)
{
	struct moetap_backtest_options options = {
		.method = "sw_avg", .horizon = 10, .from = 20, .every = 5};
	struct moetap_backtest_line l[MOETAP_ORIGINS_KINDS];
	struct moetap_series *s = series_of(2, 4, 0);

	(void)unused;
	/* Constant shares; one expert below the floor; a layer without tokens. */
	for (int step = 0; step < 60; step++)
		moetap_series_add_step(
			s, step, (double[]){1000, 500, 100, 1, 0, 0, 0, 0}, NULL, NULL);
	assert_int_equal(moetap_backtest(s, &options, l, NULL), 0);
	assert_near(l[MOETAP_ORIGINS_ALL].rel, 0, 1e-12);
	assert_near(l[MOETAP_ORIGINS_ALL].norm, 0, 1e-12);
	assert_int_equal(l[MOETAP_ORIGINS_ALL].experts, 3);
	assert_int_equal(l[MOETAP_ORIGINS_ALL].origins, 6); /* 20, 25, ..., 45; 50 + 10 > 59 */
	moetap_series_free(s);
}

static void test_refused(void **unused)
{
	struct moetap_backtest_line lines[MOETAP_ORIGINS_KINDS];
	struct moetap_series *series = load();
	struct moetap_error error;
	struct moetap_backtest_options options = {.horizon = 2000, .from = 0};

	(void)unused;
	assert_int_equal(moetap_backtest(series, &options, lines, &error), -ENODATA);
	assert_non_null(strstr(error.text, "shorter horizon"));
	options.horizon = 0;
	assert_int_equal(moetap_backtest(series, &options, lines, &error), -EINVAL);
	options = (struct moetap_backtest_options){.horizon = 5, .method = "none"};
	assert_int_equal(moetap_backtest(series, &options, lines, &error), -EINVAL);
	/* The shortest series that has an origin at all. */
	options = (struct moetap_backtest_options){.horizon = 1999, .from = 0};
	assert_int_equal(moetap_backtest(series, &options, lines, &error), 0);
	assert_int_equal(lines[MOETAP_ORIGINS_ALL].origins, 1);
	moetap_series_free(series);
}

static int stop_at_3(void *arg, uint32_t done, uint32_t total)
{
	assert_true(done <= total);
	*(uint32_t *)arg = done;
	return done == 3;
}

static void test_cancel(void **unused)
{
	struct moetap_backtest_line lines[MOETAP_ORIGINS_KINDS];
	struct moetap_series *series = load();
	uint32_t done = 0;
	struct moetap_backtest_options options = {
		.horizon = 10, .from = -1, .progress = stop_at_3, .arg = &done};

	(void)unused;
	assert_int_equal(moetap_backtest(series, &options, lines, NULL), -ECANCELED);
	assert_int_equal(done, 3);
	moetap_series_free(series);
}

/** What the callbacks saw. */
struct heard {
	uint32_t done, total, forecasts, stop_at;
	uint32_t wrong; /**< asserted by the test's own thread */
};

static int count_progress(void *arg, uint32_t done, uint32_t total)
{
	struct heard *heard = arg;

	/* One at a time, whatever thread. */
	heard->wrong += done != heard->done + 1;
	heard->done = done;
	heard->total = total;
	return done == heard->stop_at;
}

static void count_forecasts(void *arg, const struct moetap_forecast *f)
{
	struct heard *heard = arg;

	heard->wrong += moetap_forecast_layers(f) != LAYERS;
	heard->forecasts++;
}

/* All methods at once: the same to the last bit as one after the other, and as one thread. */
static void test_threads(void **unused)
{
	static struct moetap_backtest_line one[16][MOETAP_ORIGINS_KINDS],
		many[16][MOETAP_ORIGINS_KINDS], alone[MOETAP_ORIGINS_KINDS];
	struct heard heard = {0};
	struct moetap_backtest_options options = {.horizon = 100,
		.from = 200,
		.every = 150,
		.threads = 1,
		.progress = count_progress,
		.made = count_forecasts,
		.arg = &heard};
	struct moetap_series *series = load();
	const char *methods[16];
	uint32_t count = 0;

	(void)unused;
	while ((methods[count] = moetap_forecast_method(count, NULL)) != NULL)
		count++;
	assert_int_equal(moetap_backtest_methods(series, &options, methods, count, one, NULL), 0);
	assert_int_equal(heard.done, heard.total);
	assert_int_equal(heard.forecasts, heard.total);
	assert_int_equal(heard.total, count * one[0][MOETAP_ORIGINS_ALL].origins);
	heard = (struct heard){0};
	options.threads = 4;
	assert_int_equal(moetap_backtest_methods(series, &options, methods, count, many, NULL), 0);
	assert_memory_equal(one, many, count * sizeof(one[0]));
	assert_int_equal(heard.wrong, 0);
	for (uint32_t i = 0; i < count; i++) {
		heard = (struct heard){0};
		options.method = methods[i];
		assert_int_equal(moetap_backtest(series, &options, alone, NULL), 0);
		assert_memory_equal(alone, one[i], sizeof(alone));
	}
	moetap_series_free(series);
}

/* Canceled, and a method that does not exist. */
static void test_threads_end(void **unused)
{
	struct moetap_backtest_line lines[3][MOETAP_ORIGINS_KINDS];
	const char *methods[] = {"last", "sw_avg", "last"};
	struct heard heard = {.stop_at = 5};
	struct moetap_backtest_options options = {
		.horizon = 50, .from = -1, .threads = 3, .progress = count_progress, .arg = &heard};
	struct moetap_series *series = load();
	struct moetap_error error;

	(void)unused;
	assert_int_equal(
		moetap_backtest_methods(series, &options, methods, 3, lines, &error), -ECANCELED);
	assert_int_equal(heard.done, 5);
	assert_int_equal(heard.wrong, 0);
	methods[1] = "none";
	assert_int_equal(
		moetap_backtest_methods(series, &options, methods, 3, lines, &error), -EINVAL);
	assert_non_null(strstr(error.text, "'none'"));
	assert_int_equal(
		moetap_backtest_methods(series, &options, methods, 0, lines, &error), -EINVAL);
	moetap_series_free(series);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_definition),
		cmocka_unit_test(test_states),
		cmocka_unit_test(test_perfect_and_dead),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_threads_end),
	};

	return cmocka_run_group_tests(tests, read_trace, NULL);
}
