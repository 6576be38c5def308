/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table of methods, and what they have in common: the interval of a forecast rests on how
 * wrong the same method was when it was asked the same question earlier ("matured" forecasts).
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** A new method is a new file and a line here. The first is the default. */
static const struct forecaster *const forecasters[] = {
	&mtl_forecaster_sw_avg,
	&mtl_forecaster_last,
};

#define FORECASTERS (sizeof(forecasters) / sizeof(forecasters[0]))

/** Matured forecasts that an interval rests on, at most and at least. */
#define MATURED_MOST 8
#define MATURED_LEAST 2

struct moetap_forecast {
	uint32_t layers, experts;
	struct moetap_forecast_info info;
	double *share, *low, *high, *unseen; /**< one block */
};

const struct forecaster *mtl_forecaster_find(const char *name)
{
	if (name == NULL)
		return forecasters[0];
	for (size_t i = 0; i < FORECASTERS; i++) {
		if (strcmp(forecasters[i]->name, name) == 0)
			return forecasters[i];
	}
	return NULL;
}

const char *moetap_forecast_method(uint32_t i, const char **title)
{
	if (i >= FORECASTERS)
		return NULL;
	if (title != NULL)
		*title = forecasters[i]->title;
	return forecasters[i]->name;
}

/** Errors of matured forecasts. */
struct matured {
	uint32_t count;	  /**< forecasts */
	uint32_t horizon; /**< theirs; shorter than asked when the history is short */
	double *error;	  /**< [count][layers][experts], in units of scale() */
};

/** Errors of shares grow about as their square root, like those of counts; dead experts keep a
 * floor. Dividing by this makes errors of all experts of a layer comparable, so that a few
 * forecasts are enough for a quantile. */
static double scale(double share, uint32_t experts)
{
	return sqrt((share + 0.05 / experts) / experts);
}

/** Asks the method at one earlier step and writes down how wrong it was. Returns false when the
 * truth has no steps. */
static bool mature(
	const struct forecaster *method, const struct question *q, double *error, double *actual)
{
	uint32_t layers = moetap_series_layers(q->series);
	uint32_t experts = moetap_series_experts(q->series);
	uint32_t seen = 0;
	int64_t first;

	method->predict(q, error, &first);
	for (uint32_t l = 0; l < layers; l++) {
		double *row = error + (size_t)l * experts;

		if (moetap_series_mean_shares(
			    q->series, l, q->step + 1, q->step + q->horizon, actual) > 0)
			seen++;
		for (uint32_t e = 0; e < experts; e++)
			row[e] = fabs(row[e] - actual[e]) / scale(row[e], experts);
	}
	return seen > 0;
}

/** Collects matured forecasts for the question `q`: origins go back from the newest whose horizon
 * has passed, a quarter of the horizon apart, into no more than the newer three quarters of the
 * history. Returns 0 or -ENOMEM. */
static int collect(const struct forecaster *method, const struct question *q, struct matured *m)
{
	size_t cells = (size_t)moetap_series_layers(q->series) * moetap_series_experts(q->series);
	int64_t oldest = moetap_series_first_step(q->series), span = q->step - oldest + 1;
	int64_t horizon = q->horizon < span / 4 ? q->horizon : span / 4;
	int64_t apart = horizon / 4 > 0 ? horizon / 4 : 1;
	struct question early = *q;
	double *actual;

	memset(m, 0, sizeof(*m));
	if (horizon == 0)
		return 0;
	m->horizon = early.horizon = (uint32_t)horizon;
	m->error = malloc(MATURED_MOST * cells * sizeof(double));
	actual = malloc(moetap_series_experts(q->series) * sizeof(double));
	if (m->error == NULL || actual == NULL) {
		free(m->error);
		free(actual);
		return -ENOMEM;
	}
	for (early.step = q->step - horizon;
		m->count < MATURED_MOST && early.step >= oldest + span / 4; early.step -= apart)
		m->count += mature(method, &early, m->error + m->count * cells, actual);
	free(actual);
	return 0;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/** The 80 % quantile of all errors of a layer. `pool` has room for count * experts. */
static double layer_quantile(
	const struct moetap_forecast *f, const struct matured *m, uint32_t layer, double *pool)
{
	size_t cells = (size_t)f->layers * f->experts, n = (size_t)m->count * f->experts;

	for (uint32_t k = 0; k < m->count; k++)
		memcpy(pool + (size_t)k * f->experts,
			m->error + k * cells + (size_t)layer * f->experts,
			f->experts * sizeof(*pool));
	qsort(pool, n, sizeof(*pool), compare);
	return pool[(n * 8 + 9) / 10 - 1];
}

static void set_interval(struct moetap_forecast *f, size_t cell, double half)
{
	f->low[cell] = fmax(f->share[cell] - half, 0);
	f->high[cell] = fmin(f->share[cell] + half, 1);
}

/** Intervals from matured forecasts. A shorter horizon than asked is stretched like the path of a
 * random walk, which errs on the wide side. */
static int intervals_matured(struct moetap_forecast *f, const struct matured *m)
{
	double stretch = sqrt((double)f->info.horizon / m->horizon);
	double *pool = malloc((size_t)m->count * f->experts * sizeof(*pool));

	if (pool == NULL)
		return -ENOMEM;
	for (uint32_t l = 0; l < f->layers; l++) {
		double q = layer_quantile(f, m, l, pool) * stretch;

		for (uint32_t e = 0; e < f->experts; e++) {
			size_t cell = (size_t)l * f->experts + e;

			set_interval(f, cell, q * scale(f->share[cell], f->experts));
		}
	}
	free(pool);
	f->info.interval = m->horizon == f->info.horizon
				   ? "errors of matured forecasts"
				   : "errors of matured forecasts of a shorter horizon, stretched";
	return 0;
}

/** Intervals from the dispersion of shares from step to step, for a history too short for matured
 * forecasts. 1.28 standard deviations hold 80 % of a normal distribution. */
static int intervals_dispersion(struct moetap_forecast *f, const struct moetap_series *series)
{
	uint32_t begin = mtl_series_lower(series, f->info.step - f->info.window + 1);
	uint32_t end = mtl_series_lower(series, f->info.step + 1);
	double *one = malloc(f->experts * sizeof(*one));
	double *square = calloc((size_t)f->layers * f->experts, sizeof(*square));
	uint32_t n = end - begin;

	if (one == NULL || square == NULL) {
		free(one);
		free(square);
		return -ENOMEM;
	}
	for (uint32_t i = begin; i < end && n > 1; i++) {
		int64_t step = mtl_series_step(series, i);

		for (uint32_t l = 0; l < f->layers; l++) {
			size_t at = (size_t)l * f->experts;

			if (moetap_series_mean_shares(series, l, step, step, one) == 0)
				continue;
			for (uint32_t e = 0; e < f->experts; e++)
				square[at + e] += (one[e] - f->share[at + e]) *
						  (one[e] - f->share[at + e]) / (n - 1);
		}
	}
	for (size_t c = 0; c < (size_t)f->layers * f->experts; c++)
		set_interval(f, c,
			n > 1 ? 1.28 * sqrt(square[c] * (1.0 / n + 1.0 / f->info.horizon)) : 1);
	free(one);
	free(square);
	f->info.interval = n > 1 ? "dispersion of shares; too few steps for matured forecasts"
				 : "nothing: a single step was seen";
	return 0;
}

static int fill_intervals(
	struct moetap_forecast *f, const struct forecaster *method, const struct question *q)
{
	struct matured m;
	int ret;

	ret = collect(method, q, &m);
	if (ret < 0)
		return ret;
	if (m.count >= MATURED_LEAST)
		ret = intervals_matured(f, &m);
	else
		ret = intervals_dispersion(f, q->series);
	free(m.error);
	return ret;
}

/** Widens an interval by the error of the estimate, which is none of the forecast's own: the squares
 * of the halves add up. Where nothing tells the error, all that is unseen in the layer, or none of
 * it, may be this expert's. */
static void widen(struct moetap_forecast *f, size_t cell, double half, double layer)
{
	double share = f->share[cell];

	if (isinf(half)) {
		f->low[cell] = fmax(f->low[cell] - share * f->unseen[cell], 0);
		f->high[cell] = fmin(f->high[cell] + layer, 1);
		f->info.unseen_blind = true;
	} else if (half > 0) {
		f->low[cell] = fmax(share - hypot(share - f->low[cell], half), 0);
		f->high[cell] = fmin(share + hypot(f->high[cell] - share, half), 1);
	}
}

/** Carries on what of the loads is estimated, or not known at all. Returns 0 or -ENOMEM. */
static int carry_unseen(
	struct moetap_forecast *f, const struct moetap_series *series, int64_t first)
{
	double *half = malloc(f->experts * sizeof(*half));
	uint32_t layers = 0;

	if (half == NULL)
		return -ENOMEM;
	for (uint32_t l = 0; l < f->layers; l++) {
		size_t at = (size_t)l * f->experts;
		double layer = moetap_series_unseen(
			series, l, first, f->info.step, f->unseen + at, half);

		if (isnan(layer)) {
			free(half);
			return -ENOMEM;
		}
		f->info.unseen += layer;
		layers += layer > 0;
		for (uint32_t e = 0; e < f->experts; e++) {
			widen(f, at + e, half[e], layer);
			if (!moetap_series_seen(series, e))
				f->share[at + e] = f->low[at + e] = f->high[at + e] = NAN;
		}
	}
	f->info.unseen /= layers > 0 ? layers : 1;
	free(half);
	return 0;
}

static struct moetap_forecast *forecast_new(uint32_t layers, uint32_t experts)
{
	size_t cells = (size_t)layers * experts;
	struct moetap_forecast *f = calloc(1, sizeof(*f));

	if (f == NULL)
		return NULL;
	f->layers = layers;
	f->experts = experts;
	f->share = calloc(4 * cells, sizeof(double));
	if (f->share == NULL) {
		free(f);
		return NULL;
	}
	f->low = f->share + cells;
	f->high = f->low + cells;
	f->unseen = f->high + cells;
	return f;
}

static int check(const struct question *q, const struct forecaster *method, const char *name,
	struct moetap_error *error)
{
	if (method == NULL)
		return mtl_fail(error, -EINVAL, "there is no method '%.60s'", name);
	if (q->horizon == 0)
		return mtl_fail(error, -EINVAL, "the horizon must be at least one step");
	if (mtl_series_lower(q->series, q->step + 1) == 0)
		return mtl_fail(
			error, -ENODATA, "the series has no step up to %lld", (long long)q->step);
	return 0;
}

int moetap_forecast_make(const struct moetap_series *series, int64_t step, const char *name,
	uint32_t horizon, uint32_t window, struct moetap_forecast **forecast,
	struct moetap_error *error)
{
	const struct question q = {series, step, horizon, window};
	const struct forecaster *method = mtl_forecaster_find(name);
	struct moetap_forecast *f;
	int64_t first;
	int ret;

	ret = check(&q, method, name, error);
	if (ret < 0)
		return ret;
	f = forecast_new(moetap_series_layers(series), moetap_series_experts(series));
	if (f == NULL)
		return mtl_fail_memory(error);
	method->predict(&q, f->share, &first);
	f->info.method = method->name;
	f->info.step = step;
	f->info.horizon = horizon;
	f->info.window = (uint32_t)(step - first + 1);
	f->info.flagged =
		moetap_series_flagged(series, first, step, &f->info.quality, &f->info.rounds);
	if (fill_intervals(f, method, &q) < 0 || carry_unseen(f, series, first) < 0) {
		moetap_forecast_free(f);
		return mtl_fail_memory(error);
	}
	*forecast = f;
	return 0;
}

void moetap_forecast_free(struct moetap_forecast *f)
{
	if (f == NULL)
		return;
	free(f->share);
	free(f);
}

uint32_t moetap_forecast_layers(const struct moetap_forecast *f)
{
	return f->layers;
}

uint32_t moetap_forecast_experts(const struct moetap_forecast *f)
{
	return f->experts;
}

const double *moetap_forecast_share(const struct moetap_forecast *f)
{
	return f->share;
}

const double *moetap_forecast_low(const struct moetap_forecast *f)
{
	return f->low;
}

const double *moetap_forecast_high(const struct moetap_forecast *f)
{
	return f->high;
}

const double *moetap_forecast_unseen(const struct moetap_forecast *f)
{
	return f->unseen;
}

void moetap_forecast_info(const struct moetap_forecast *f, struct moetap_forecast_info *info)
{
	*info = f->info;
}
