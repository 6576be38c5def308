/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Transient or stable. Cong et al. (arXiv 2404.16914) read the two states from plots of variance;
 * variance alone calls a run stable while its forecasts still get better. So a layer is stable
 * here when (1) its last window agrees with the one before and (2) the last matured
 * sliding-window forecast over a longer span was right, both within a limit or within what the
 * dispersion of shares explains; three looks in a row; and it stays stable until a wider limit is
 * passed.
 *
 * All figures are means over experts of |difference of shares| * experts.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** Steps between two looks. */
#define GRID 25
/** Steps in the series before anything can be said. */
#define STEPS_LEAST 40
/** Looks in a row that must pass before a layer is stable. */
#define PASSES 3
/** Blocks per window, for the dispersion. */
#define BLOCKS 5

/** Limits: to become stable, and to stop being so. `noise` counts in units of what the dispersion
 * explains. */
struct limits {
	double drift, error, noise;
};
static const struct limits enter = {.drift = 0.05, .error = 0.06, .noise = 2};
static const struct limits leave = {.drift = 0.10, .error = 0.12, .noise = 4};

struct layer {
	struct moetap_layer_state state;
	uint32_t passes;
	bool idle; /**< no tokens in the last windows */
};

struct moetap_state {
	uint32_t layers;
	bool started;
	int64_t next; /**< step of the next look */
	struct layer layer[];
};

int moetap_state_new(uint32_t layers, struct moetap_state **state)
{
	struct moetap_state *s;

	if (layers == 0 || layers > MOETAP_MAX_LAYERS)
		return -EINVAL;
	s = calloc(1, sizeof(*s) + layers * sizeof(s->layer[0]));
	if (s == NULL)
		return -ENOMEM;
	s->layers = layers;
	for (uint32_t l = 0; l < layers; l++)
		snprintf(s->layer[l].state.reason, sizeof(s->layer[l].state.reason),
			"no steps seen yet");
	*state = s;
	return 0;
}

void moetap_state_free(struct moetap_state *s)
{
	free(s);
}

/** Arrays of [experts] for one look. */
struct scratch {
	const struct moetap_series *series;
	uint32_t experts;
	double *a, *b, *square;
};

static double norm(const struct scratch *x)
{
	double sum = 0;

	for (uint32_t e = 0; e < x->experts; e++)
		sum += fabs(x->a[e] - x->b[e]);
	return sum; /* the mean times experts */
}

/** Difference between the mean shares of two spans of steps, (a0, a1] and (b0, b1]; negative when
 * one of them has no shares. */
static double difference(
	struct scratch *x, uint32_t layer, int64_t a0, int64_t a1, int64_t b0, int64_t b1)
{
	if (moetap_series_mean_shares(x->series, layer, a0 + 1, a1, x->a) == 0 ||
		moetap_series_mean_shares(x->series, layer, b0 + 1, b1, x->b) == 0)
		return -1;
	return norm(x);
}

/**
 * What the difference of the means of two adjacent windows of `window` steps before `step` would
 * be if the shares only fluctuated. From successive differences of block means (von Neumann), which
 * a slow drift hardly touches and which see the correlation between neighbouring steps. For normal
 * x and y of variance v each, the mean of |x - y| is sqrt(4 v / pi).
 */
static double dispersion(struct scratch *x, uint32_t layer, int64_t step, int64_t window)
{
	uint32_t pairs = 0;
	double sum = 0;

	memset(x->square, 0, x->experts * sizeof(double));
	for (int i = 0; i < 2 * BLOCKS - 1; i++) {
		int64_t p0 = step - 2 * window + i * window / BLOCKS;
		int64_t p1 = step - 2 * window + (i + 1) * window / BLOCKS;
		int64_t p2 = step - 2 * window + (i + 2) * window / BLOCKS;

		if (difference(x, layer, p0, p1, p1, p2) < 0)
			continue;
		pairs++;
		for (uint32_t e = 0; e < x->experts; e++)
			x->square[e] += (x->a[e] - x->b[e]) * (x->a[e] - x->b[e]) / 2;
	}
	for (uint32_t e = 0; e < x->experts && pairs > 0; e++)
		sum += sqrt(4 / M_PI * x->square[e] / pairs / BLOCKS);
	return sum;
}

static bool within(const struct moetap_layer_state *s, const struct limits *limit)
{
	return s->drift <= fmax(limit->drift, limit->noise * s->noise) &&
	       s->error <= fmax(limit->error, limit->noise * s->noise);
}

static void explain(struct moetap_layer_state *s, const struct limits *limit, int64_t window)
{
	double drift = fmax(limit->drift, limit->noise * s->noise);
	double error = fmax(limit->error, limit->noise * s->noise);

	if (s->stable)
		snprintf(s->reason, sizeof(s->reason), "drift %.3f, error of forecasts %.3f",
			s->drift, s->error);
	else if (s->drift > drift)
		snprintf(s->reason, sizeof(s->reason),
			"drift %.3f between windows of %lld steps is above %.3f", s->drift,
			(long long)window, drift);
	else if (s->error > error)
		snprintf(s->reason, sizeof(s->reason),
			"forecasts over %lld steps were wrong by %.3f, above %.3f",
			(long long)(4 * window), s->error, error);
	else
		snprintf(s->reason, sizeof(s->reason), "settled only just now");
}

static void set_stable(struct layer *layer, bool stable, int64_t step)
{
	if (layer->state.stable == stable)
		return;
	layer->state.stable = stable;
	layer->state.since = step;
	layer->passes = 0;
}

/** One look at one layer, after `step`. */
static void look(struct layer *layer, uint32_t l, struct scratch *x, int64_t step, int64_t window)
{
	struct moetap_layer_state *s = &layer->state;

	s->drift = difference(x, l, step - 2 * window, step - window, step - window, step);
	s->error = difference(x, l, step - 5 * window, step - 4 * window, step - 4 * window, step);
	layer->idle = s->drift < 0 || s->error < 0;
	if (layer->idle) {
		s->drift = s->error = s->noise = 0;
		set_stable(layer, false, step);
		snprintf(s->reason, sizeof(s->reason), "no tokens in the last %lld steps",
			(long long)(5 * window));
		return;
	}
	s->noise = dispersion(x, l, step, window);
	if (s->stable) {
		set_stable(layer, within(s, &leave), step);
	} else {
		layer->passes = within(s, &enter) ? layer->passes + 1 : 0;
		set_stable(layer, layer->passes >= PASSES, step);
	}
	explain(s, s->stable ? &leave : &enter, window);
}

static void look_all(struct moetap_state *s, struct scratch *x, int64_t step)
{
	int64_t span = step - moetap_series_first_step(x->series) + 1;
	int64_t window = mtl_sw_avg_window(x->series, step);

	if (window > span / 5)
		window = span / 5;
	for (uint32_t l = 0; l < s->layers; l++)
		look(&s->layer[l], l, x, step, window);
}

static void too_few(struct moetap_state *s, uint32_t steps)
{
	for (uint32_t l = 0; l < s->layers; l++)
		snprintf(s->layer[l].state.reason, sizeof(s->layer[l].state.reason),
			"only %u steps seen, %u are needed", steps, STEPS_LEAST);
}

int moetap_state_update(struct moetap_state *s, const struct moetap_series *series, int64_t step)
{
	struct scratch x = {.series = series, .experts = moetap_series_experts(series)};

	if (moetap_series_layers(series) != s->layers)
		return -EINVAL;
	if (step > moetap_series_last_step(series))
		step = moetap_series_last_step(series);
	x.a = malloc(3 * x.experts * sizeof(double));
	if (x.a == NULL)
		return -ENOMEM;
	x.b = x.a + x.experts;
	x.square = x.b + x.experts;
	if (!s->started || s->next < moetap_series_first_step(series)) {
		s->started = moetap_series_steps(series) > 0;
		s->next = moetap_series_first_step(series) + GRID - 1;
	}
	for (; s->next <= step; s->next += GRID) {
		if (mtl_series_lower(series, s->next + 1) >= STEPS_LEAST)
			look_all(s, &x, s->next);
	}
	if (mtl_series_lower(series, step + 1) < STEPS_LEAST)
		too_few(s, mtl_series_lower(series, step + 1));
	free(x.a);
	return 0;
}

int moetap_state_layer(const struct moetap_state *s, uint32_t layer, struct moetap_layer_state *out)
{
	if (layer >= s->layers)
		return -EINVAL;
	*out = s->layer[layer].state;
	return 0;
}

bool moetap_state_stable(const struct moetap_state *s, char reason[128])
{
	uint32_t transient = 0, idle = 0, first = 0;

	for (uint32_t l = s->layers; l-- > 0;) {
		idle += s->layer[l].idle;
		if (s->layer[l].idle || s->layer[l].state.stable)
			continue;
		transient++;
		first = l;
	}
	if (idle == s->layers) {
		if (reason != NULL)
			snprintf(reason, 128, "no layer has tokens");
		return false;
	}
	if (reason != NULL && transient == 0)
		snprintf(reason, 128, "all layers are stable");
	else if (reason != NULL)
		snprintf(reason, 128, "%u of %u layers are transient; layer %u: %s", transient,
			s->layers - idle, first, s->layer[first].state.reason);
	return transient == 0;
}
