/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table of methods, and what they have in common: the interval of a forecast rests on how
 * wrong the same method was when it was asked the same question earlier ("matured" forecasts). A
 * method that reads the series can be asked again at earlier steps; one that learns step by step
 * is asked while the steps come (matured.c).
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** A new method is a new file and a line here. The first is the default. */
static const struct forecaster *const forecasters[] = {
	&mtl_forecaster_auto,
	&mtl_forecaster_sw_avg,
	&mtl_forecaster_last,
	&mtl_forecaster_arima,
	&mtl_forecaster_lstm,
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

static const char interval_matured[] = "errors of matured forecasts";
static const char interval_stretched[] =
	"errors of matured forecasts of a shorter horizon, stretched";

/** Errors of matured forecasts. */
struct matured_past {
	uint32_t count;	  /**< forecasts */
	uint32_t horizon; /**< theirs; shorter than asked when the history is short */
	double *error;	  /**< [count][layers][experts], in units of scale() */
};

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
			row[e] = fabs(row[e] - actual[e]) / mtl_share_scale(row[e], experts);
	}
	return seen > 0;
}

/** Collects matured forecasts for the question `q`: origins go back from the newest whose horizon
 * has passed, a quarter of the horizon apart, into no more than the newer three quarters of the
 * history. Returns 0 or -ENOMEM. */
static int collect(
	const struct forecaster *method, const struct question *q, struct matured_past *m)
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
	const struct moetap_forecast *f, const struct matured_past *m, uint32_t layer, double *pool)
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
static int intervals_matured(struct moetap_forecast *f, const struct matured_past *m)
{
	double stretch = sqrt((double)f->info.horizon / m->horizon);
	double *pool = malloc((size_t)m->count * f->experts * sizeof(*pool));

	if (pool == NULL)
		return -ENOMEM;
	for (uint32_t l = 0; l < f->layers; l++) {
		double q = layer_quantile(f, m, l, pool) * stretch;

		for (uint32_t e = 0; e < f->experts; e++) {
			size_t cell = (size_t)l * f->experts + e;

			set_interval(f, cell, q * mtl_share_scale(f->share[cell], f->experts));
		}
	}
	free(pool);
	f->info.interval = m->horizon == f->info.horizon ? interval_matured : interval_stretched;
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

/** Intervals of a method that reads the series: it is asked again at earlier steps. */
static int intervals_read(
	struct moetap_forecast *f, const struct forecaster *method, const struct question *q)
{
	struct matured_past m;
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

/** Intervals of a method that learns: it was asked while the steps came. */
static int intervals_learned(
	struct moetap_forecast *f, const struct matured *m, const struct question *q)
{
	double *width = malloc(f->layers * sizeof(*width));
	bool itself, any = false;

	if (width == NULL)
		return -ENOMEM;
	itself = mtl_matured_width(m, q->horizon, width);
	for (uint32_t l = 0; l < f->layers; l++)
		any = any || width[l] >= 0;
	if (!any) {
		free(width);
		return intervals_dispersion(f, q->series);
	}
	for (uint32_t l = 0; l < f->layers; l++) {
		for (uint32_t e = 0; e < f->experts; e++) {
			size_t cell = (size_t)l * f->experts + e;

			set_interval(f, cell,
				width[l] < 0
					? 1
					: width[l] * mtl_share_scale(f->share[cell], f->experts));
		}
	}
	free(width);
	f->info.interval = itself ? interval_matured : interval_stretched;
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

/* ---- the online form ---- */

struct moetap_forecaster {
	const struct forecaster *method;
	uint32_t layers, experts, window;
	uint32_t horizon; /**< the only one that will be asked for; 0: any */
	bool started;
	int64_t step; /**< of the last update, when started */
	void *state;
	struct matured *matured;
	struct observation now;
	double *share, *sum; /**< of `now` */
	uint32_t *quality;   /**< of `now` */
};

static bool learns(const struct moetap_forecaster *f)
{
	return f->method->add != NULL;
}

static void forget(struct moetap_forecaster *f)
{
	if (learns(f))
		f->method->close(f->state);
	mtl_matured_close(f->matured);
	free(f->share);
	free(f->sum);
	free(f->quality);
	f->state = NULL;
	f->matured = NULL;
	f->share = f->sum = NULL;
	f->quality = NULL;
	f->started = false;
}

/** Makes what a method that learns needs. */
static int begin(struct moetap_forecaster *f, uint32_t layers, uint32_t experts)
{
	forget(f);
	f->layers = layers;
	f->experts = experts;
	if (!learns(f))
		return 0;
	f->share = malloc((size_t)layers * experts * sizeof(double));
	f->sum = malloc(layers * sizeof(double));
	f->quality = malloc(layers * sizeof(uint32_t));
	f->now.share = f->share;
	f->now.sum = f->sum;
	f->now.quality = f->quality;
	if (f->share == NULL || f->sum == NULL || f->quality == NULL ||
		mtl_matured_open(layers, experts, f->horizon, &f->matured) < 0 ||
		f->method->open(layers, experts, f->window, &f->state) < 0)
		return -ENOMEM;
	return 0;
}

int mtl_forecaster_new(const char *name, uint32_t window, uint32_t horizon,
	struct moetap_forecaster **out, struct moetap_error *error)
{
	const struct forecaster *method = mtl_forecaster_find(name);
	struct moetap_forecaster *f;

	if (method == NULL)
		return mtl_fail(error, -EINVAL, "there is no method '%.60s'", name);
	f = calloc(1, sizeof(*f));
	if (f == NULL)
		return mtl_fail_memory(error);
	f->method = method;
	f->window = window;
	f->horizon = horizon;
	*out = f;
	return 0;
}

int moetap_forecaster_new(
	const char *name, uint32_t window, struct moetap_forecaster **f, struct moetap_error *error)
{
	return mtl_forecaster_new(name, window, 0, f, error);
}

void moetap_forecaster_free(struct moetap_forecaster *f)
{
	if (f == NULL)
		return;
	forget(f);
	free(f);
}

/** What a method that learns says, on the simplex. */
static void predict_learned(
	const struct moetap_forecaster *f, const struct question *q, double *share, int64_t *first)
{
	f->method->predict(q, share, first);
	for (uint32_t l = 0; l < f->layers; l++) {
		double *row = share + (size_t)l * f->experts, sum = 0;

		for (uint32_t e = 0; e < f->experts; e++) {
			row[e] = row[e] > 0 ? row[e] : 0; /* not a number neither */
			sum += row[e];
		}
		for (uint32_t e = 0; e < f->experts && sum > 0; e++)
			row[e] /= sum;
	}
}

/** For mtl_matured_ask(). */
struct asking {
	const struct moetap_forecaster *forecaster;
	struct question question;
};

static void ask(void *arg, uint32_t horizon, double *share)
{
	struct asking *a = arg;
	int64_t first;

	a->question.horizon = horizon;
	predict_learned(a->forecaster, &a->question, share, &first);
}

/** Gives the method one more step. */
static void learn(struct moetap_forecaster *f, const struct moetap_series *series, uint32_t i)
{
	struct asking asking = {f, {series, 0, 0, f->window, f->state}};

	f->now.step = mtl_series_observe(series, i, f->share, f->sum, f->quality);
	asking.question.step = f->now.step;
	mtl_matured_add(f->matured, &f->now);
	f->method->add(f->state, &f->now);
	mtl_matured_ask(f->matured, ask, &asking);
}

int moetap_forecaster_update(struct moetap_forecaster *f, const struct moetap_series *series,
	int64_t step, struct moetap_error *error)
{
	uint32_t layers = moetap_series_layers(series), experts = moetap_series_experts(series);
	uint32_t end = mtl_series_lower(series, step + 1);
	bool another =
		!f->started || layers != f->layers || experts != f->experts || step < f->step;

	if (end == 0)
		return mtl_fail(
			error, -ENODATA, "the series has no step up to %lld", (long long)step);
	if (another && begin(f, layers, experts) < 0) {
		forget(f);
		return mtl_fail_memory(error);
	}
	for (uint32_t i = another ? 0 : mtl_series_lower(series, f->step + 1); learns(f) && i < end;
		i++)
		learn(f, series, i);
	f->started = true;
	f->step = step;
	return 0;
}

/** Shares and intervals. Returns 0 or -ENOMEM. */
static int fill(struct moetap_forecast *f, struct moetap_forecaster *by, const struct question *q)
{
	int64_t first = q->step;
	int ret;

	if (learns(by))
		predict_learned(by, q, f->share, &first);
	else
		by->method->predict(q, f->share, &first);
	f->info.method = by->method->name;
	f->info.step = q->step;
	f->info.horizon = q->horizon;
	f->info.window = (uint32_t)(q->step - first + 1);
	f->info.flagged =
		moetap_series_flagged(q->series, first, q->step, &f->info.quality, &f->info.rounds);
	ret = learns(by) ? intervals_learned(f, by->matured, q) : intervals_read(f, by->method, q);
	return ret < 0 ? ret : carry_unseen(f, q->series, first);
}

int moetap_forecaster_forecast(struct moetap_forecaster *f, const struct moetap_series *series,
	uint32_t horizon, struct moetap_forecast **forecast, struct moetap_error *error)
{
	const struct question q = {series, f->step, horizon, f->window, f->state};
	struct moetap_forecast *made;

	if (horizon == 0)
		return mtl_fail(error, -EINVAL, "the horizon must be at least one step");
	if (!f->started || moetap_series_layers(series) != f->layers ||
		moetap_series_experts(series) != f->experts ||
		mtl_series_lower(series, f->step + 1) == 0)
		return mtl_fail(error, -ENODATA, "the forecaster was given no step of this series");
	made = forecast_new(f->layers, f->experts);
	if (made == NULL)
		return mtl_fail_memory(error);
	if (fill(made, f, &q) < 0) {
		moetap_forecast_free(made);
		return mtl_fail_memory(error);
	}
	*forecast = made;
	return 0;
}

int moetap_forecast_make(const struct moetap_series *series, int64_t step, const char *name,
	uint32_t horizon, uint32_t window, struct moetap_forecast **forecast,
	struct moetap_error *error)
{
	struct moetap_forecaster *f;
	int ret;

	if (mtl_forecaster_find(name) != NULL && horizon == 0)
		return mtl_fail(error, -EINVAL, "the horizon must be at least one step");
	ret = mtl_forecaster_new(name, window, horizon, &f, error);
	if (ret < 0)
		return ret;
	ret = moetap_forecaster_update(f, series, step, error);
	if (ret == 0)
		ret = moetap_forecaster_forecast(f, series, horizon, forecast, error);
	moetap_forecaster_free(f);
	return ret;
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
