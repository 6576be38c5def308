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
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

/** What one run needs. */
struct run {
	const struct moetap_series *series;
	struct moetap_backtest_options options;
	struct moetap_state *state;
	struct moetap_forecaster *forecaster;
	struct sums sums[MOETAP_ORIGINS_KINDS];
	double *actual;
};

static int run_origins(struct run *run, uint32_t count, struct moetap_error *error)
{
	for (uint32_t i = 0; i < count; i++) {
		int64_t step = run->options.from + (int64_t)i * run->options.every;
		struct moetap_forecast *f;
		enum moetap_origins kind;
		int ret;

		if (moetap_state_update(run->state, run->series, step) < 0)
			return mtl_fail_memory(error);
		kind = moetap_state_stable(run->state, NULL) ? MOETAP_ORIGINS_STABLE
							     : MOETAP_ORIGINS_TRANSIENT;
		ret = moetap_forecaster_update(run->forecaster, run->series, step, error);
		if (ret == 0)
			ret = moetap_forecaster_forecast(
				run->forecaster, run->series, run->options.horizon, &f, error);
		if (ret < 0)
			return ret;
		judge(run->series, f, &run->sums[MOETAP_ORIGINS_ALL], &run->sums[kind],
			run->actual);
		moetap_forecast_free(f);
		if (run->options.progress != NULL &&
			run->options.progress(run->options.arg, i + 1, count) != 0)
			return mtl_fail(error, -ECANCELED, "canceled");
	}
	return 0;
}

static int run_open(struct run *run, size_t cells)
{
	if (moetap_state_new(moetap_series_layers(run->series), &run->state) < 0)
		return -ENOMEM;
	if (mtl_forecaster_new(run->options.method, run->options.window, run->options.horizon,
		    &run->forecaster, NULL) < 0)
		return -ENOMEM;
	run->actual = malloc(moetap_series_experts(run->series) * sizeof(double));
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

int moetap_backtest(const struct moetap_series *series,
	const struct moetap_backtest_options *options,
	struct moetap_backtest_line lines[MOETAP_ORIGINS_KINDS], struct moetap_error *error)
{
	size_t cells = (size_t)moetap_series_layers(series) * moetap_series_experts(series);
	struct run run = {.series = series, .options = *options};
	uint32_t count = 0;
	int ret;

	if (mtl_forecaster_find(options->method) == NULL)
		return mtl_fail(error, -EINVAL, "there is no method '%.60s'", options->method);
	ret = find_origins(series, &run.options, &count, error);
	if (ret < 0)
		return ret;
	ret = run_open(&run, cells);
	if (ret < 0)
		mtl_fail_memory(error);
	if (ret == 0)
		ret = run_origins(&run, count, error);
	for (int k = 0; k < MOETAP_ORIGINS_KINDS && ret == 0; k++)
		finish(&run.sums[k], cells, &lines[k]);
	run_close(&run);
	return ret;
}
