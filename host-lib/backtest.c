/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rolling origins. The error of a forecast made after step t for horizon h compares the predicted
 * share of (layer, expert) with its mean share over the steps t+1 ... t+h:
 *
 *	rel	mean of |predicted - actual| / actual where actual >= 0.05 / experts
 *	norm	mean of |predicted - actual| * experts over all
 *
 * over layers, experts and origins. Layers without tokens in the horizon have no shares and are
 * left out.
 *
 * A method that learns has to see the steps in order, so what runs at the same time are methods,
 * each from its first origin to its last.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/** Running sums behind one line. */
struct sums {
	double rel, norm;
	uint64_t rel_terms, norm_terms, inside;
	uint32_t origins;
	bool *counted; /**< [layers][experts]: had a term in rel */
};

static void add_layer(
	struct sums *sums, const struct moetap_forecast *f, uint32_t layer, const double *actual)
{
	uint32_t experts = moetap_forecast_experts(f);
	size_t at = (size_t)layer * experts;

	for (uint32_t e = 0; e < experts; e++) {
		double error = fabs(moetap_forecast_share(f)[at + e] - actual[e]);

		if (isnan(error))
			continue; /* an expert that was never seen */
		sums->norm += error * experts;
		sums->norm_terms++;
		sums->inside += actual[e] >= moetap_forecast_low(f)[at + e] &&
				actual[e] <= moetap_forecast_high(f)[at + e];
		if (actual[e] < 0.05 / experts)
			continue;
		sums->rel += error / actual[e];
		sums->rel_terms++;
		sums->counted[at + e] = true;
	}
}

/** Adds what a forecast was wrong by to the lines it belongs to. */
static void judge(const struct moetap_series *series, const struct moetap_forecast *f,
	struct sums *all, struct sums *state, double *actual)
{
	struct moetap_forecast_info info;

	moetap_forecast_info(f, &info);
	all->origins++;
	state->origins++;
	for (uint32_t l = 0; l < moetap_forecast_layers(f); l++) {
		if (moetap_series_mean_shares(
			    series, l, info.step + 1, info.step + info.horizon, actual) == 0)
			continue;
		add_layer(all, f, l, actual);
		add_layer(state, f, l, actual);
	}
}

static void finish(const struct sums *sums, size_t cells, struct moetap_backtest_line *line)
{
	memset(line, 0, sizeof(*line));
	line->rel = sums->rel_terms > 0 ? sums->rel / (double)sums->rel_terms : NAN;
	line->norm = sums->norm_terms > 0 ? sums->norm / (double)sums->norm_terms : NAN;
	line->coverage =
		sums->norm_terms > 0 ? (double)sums->inside / (double)sums->norm_terms : NAN;
	line->origins = sums->origins;
	for (size_t c = 0; c < cells; c++)
		line->experts += sums->counted[c];
}

/** Origins: from, from + every, ... as far as the series covers the horizon. */
static int find_origins(const struct moetap_series *series, struct moetap_backtest_options *options,
	uint32_t *count, struct moetap_error *error)
{
	int64_t first = moetap_series_first_step(series), last = moetap_series_last_step(series);
	int64_t span = last - first, end = last - (int64_t)options->horizon;

	if (options->horizon == 0)
		return mtl_fail(error, -EINVAL, "the horizon must be at least one step");
	if (options->from < 0)
		options->from = first + (span + 15) / 16;
	if (options->every == 0)
		options->every = span >= 32 ? (uint32_t)((span + 31) / 32) : 1;
	if (options->from < first)
		return mtl_fail(error, -EINVAL,
			"the first origin %lld lies before the first step %lld",
			(long long)options->from, (long long)first);
	if (options->from > end)
		return mtl_fail(error, -ENODATA,
			"no origin: after step %lld the series has no %u more steps (it ends at "
			"step %lld); take a shorter horizon or an earlier first origin",
			(long long)options->from, options->horizon, (long long)last);
	*count = (uint32_t)((end - options->from) / options->every) + 1;
	return 0;
}

/** Methods under way. */
struct pool {
	const struct moetap_series *series;
	struct moetap_backtest_options options; /**< `from` and `every` are set */
	const char *const *methods;
	struct moetap_backtest_line (*lines)[MOETAP_ORIGINS_KINDS];
	uint32_t count, origins; /**< of methods; of origins of each */
	pthread_mutex_t lock;	 /**< of all below, and of the caller's functions */
	uint32_t next, done;
	bool canceled;
	int result; /**< of the first method that failed */
	struct moetap_error error;
};

/** One method. */
struct run {
	const char *method;
	struct moetap_state *state;
	struct moetap_forecaster *forecaster;
	struct sums sums[MOETAP_ORIGINS_KINDS];
	double *actual;
};

/** Tells the caller, and hears whether to go on. */
static int report(struct pool *pool, const struct moetap_forecast *f, struct moetap_error *error)
{
	const struct moetap_backtest_options *options = &pool->options;
	bool canceled;

	pthread_mutex_lock(&pool->lock);
	if (!pool->canceled) {
		pool->done++;
		if (options->made != NULL)
			options->made(options->arg, f);
		if (options->progress != NULL)
			pool->canceled = options->progress(options->arg, pool->done,
						 pool->count * pool->origins) != 0;
	}
	canceled = pool->canceled;
	pthread_mutex_unlock(&pool->lock);
	return canceled ? mtl_fail(error, -ECANCELED, "canceled") : 0;
}

/** One origin. */
static int run_origin(struct pool *pool, struct run *run, int64_t step, struct moetap_error *error)
{
	struct moetap_forecast *f;
	enum moetap_origins kind;
	int ret;

	if (moetap_state_update(run->state, pool->series, step) < 0)
		return mtl_fail_memory(error);
	kind = moetap_state_stable(run->state, NULL) ? MOETAP_ORIGINS_STABLE
						     : MOETAP_ORIGINS_TRANSIENT;
	ret = moetap_forecaster_update(run->forecaster, pool->series, step, error);
	if (ret == 0)
		ret = moetap_forecaster_forecast(
			run->forecaster, pool->series, pool->options.horizon, &f, error);
	if (ret < 0)
		return ret;
	judge(pool->series, f, &run->sums[MOETAP_ORIGINS_ALL], &run->sums[kind], run->actual);
	ret = report(pool, f, error);
	moetap_forecast_free(f);
	return ret;
}

static int run_open(const struct pool *pool, struct run *run, size_t cells)
{
	if (moetap_state_new(moetap_series_layers(pool->series), &run->state) < 0)
		return -ENOMEM;
	if (mtl_forecaster_new(run->method, pool->options.window, pool->options.horizon,
		    &run->forecaster, NULL) < 0)
		return -ENOMEM;
	run->actual = malloc(moetap_series_experts(pool->series) * sizeof(double));
	if (run->actual == NULL)
		return -ENOMEM;
	for (int k = 0; k < MOETAP_ORIGINS_KINDS; k++) {
		run->sums[k].counted = calloc(cells, sizeof(bool));
		if (run->sums[k].counted == NULL)
			return -ENOMEM;
	}
	return 0;
}

static void run_close(struct run *run)
{
	moetap_state_free(run->state);
	moetap_forecaster_free(run->forecaster);
	free(run->actual);
	for (int k = 0; k < MOETAP_ORIGINS_KINDS; k++)
		free(run->sums[k].counted);
}

static int run_method(struct pool *pool, uint32_t i, struct moetap_error *error)
{
	size_t cells =
		(size_t)moetap_series_layers(pool->series) * moetap_series_experts(pool->series);
	struct run run = {.method = pool->methods[i]};
	int ret = run_open(pool, &run, cells);

	if (ret < 0)
		mtl_fail_memory(error);
	for (uint32_t k = 0; k < pool->origins && ret == 0; k++)
		ret = run_origin(
			pool, &run, pool->options.from + (int64_t)k * pool->options.every, error);
	for (int k = 0; k < MOETAP_ORIGINS_KINDS && ret == 0; k++)
		finish(&run.sums[k], cells, &pool->lines[i][k]);
	run_close(&run);
	return ret;
}

/** Takes methods until none is left. */
static void *work(void *arg)
{
	struct pool *pool = arg;

	pthread_mutex_lock(&pool->lock);
	while (pool->next < pool->count && !pool->canceled) {
		struct moetap_error error;
		uint32_t i = pool->next++;
		int ret;

		pthread_mutex_unlock(&pool->lock);
		ret = run_method(pool, i, &error);
		pthread_mutex_lock(&pool->lock);
		if (ret < 0 && pool->result == 0) {
			pool->result = ret;
			pool->error = error;
		}
		/* A method that failed ends the others. */
		pool->canceled = pool->canceled || ret < 0;
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

static uint32_t threads_wanted(const struct pool *pool)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	uint32_t n = pool->options.threads;

	if (n == 0)
		n = processors > 0 ? (uint32_t)processors : 1;
	return n < pool->count ? n : pool->count;
}

/** Runs all methods; this thread is one of those that work. */
static int run_all(struct pool *pool, struct moetap_error *error)
{
	uint32_t more = threads_wanted(pool) - 1, made = 0;
	pthread_t *thread = calloc(more + 1, sizeof(*thread));

	if (thread == NULL)
		return mtl_fail_memory(error);
	/* With fewer threads than wanted it only takes longer. */
	while (made < more && pthread_create(&thread[made], NULL, work, pool) == 0)
		made++;
	work(pool);
	while (made > 0)
		pthread_join(thread[--made], NULL);
	free(thread);
	if (pool->result < 0 && error != NULL)
		*error = pool->error;
	return pool->result;
}

int moetap_backtest_methods(const struct moetap_series *series,
	const struct moetap_backtest_options *options, const char *const *methods, uint32_t count,
	struct moetap_backtest_line (*lines)[MOETAP_ORIGINS_KINDS], struct moetap_error *error)
{
	struct pool pool = {.series = series,
		.options = *options,
		.methods = methods,
		.lines = lines,
		.count = count};
	int ret;

	if (count == 0)
		return mtl_fail(error, -EINVAL, "no method is given");
	for (uint32_t i = 0; i < count; i++) {
		if (mtl_forecaster_find(methods[i]) == NULL)
			return mtl_fail(error, -EINVAL, "there is no method '%.60s'", methods[i]);
	}
	ret = find_origins(series, &pool.options, &pool.origins, error);
	if (ret < 0)
		return ret;
	pthread_mutex_init(&pool.lock, NULL);
	ret = run_all(&pool, error);
	pthread_mutex_destroy(&pool.lock);
	return ret;
}

int moetap_backtest(const struct moetap_series *series,
	const struct moetap_backtest_options *options,
	struct moetap_backtest_line lines[MOETAP_ORIGINS_KINDS], struct moetap_error *error)
{
	struct moetap_backtest_line one[1][MOETAP_ORIGINS_KINDS];
	int ret = moetap_backtest_methods(series, options, &options->method, 1, one, error);

	if (ret == 0)
		memcpy(lines, one[0], sizeof(one[0]));
	return ret;
}
