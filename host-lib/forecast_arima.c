/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `arima`: an ARIMA model a layer, on means over blocks of steps.
 *
 * Blocks, since single steps are nearly all noise: a model of single steps spends itself on it. The
 * length of a layer's blocks is the shortest at which the noise no longer drowns the movement from
 * block to block. One set of orders and coefficients for all experts of a layer, since one series
 * is too short for an estimate; the scale is each expert's own (arima.h). The orders are those of
 * the least AICc. A block that is under way counts as an observation with more noise.
 *
 * Refits are spread out: a step fits at most one candidate of one layer.
 */
#include "arima.h"
#include "blocks.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Experts that a fit looks at, evenly spread over the layer; enough for four coefficients. */
#define SERIES_MOST 64u
/** The differences of neighbouring means of pure noise have a correlation of -0.5. Blocks are long
 * enough when it is above this. */
#define NOISE_CORRELATION (-0.30)
/** Samples before a layer is fitted, and the part by which the samples must grow for the next. */
#define SAMPLES_LEAST 16u
#define REFIT_PART 8u

/** The candidates, all with one difference: shares in training drift, and a model that returns to
 * their mean was worse wherever the criterion took it. */
static const struct arima candidates[] = {
	{.q = 1},
	{.q = 0},
	{.q = 2},
	{.p = 1},
	{.p = 1, .q = 1},
};

#define CANDIDATES (sizeof(candidates) / sizeof(candidates[0]))

/** Before the first fit: exponential smoothing. */
static const struct arima start = {.q = 1, .ma = {-0.7}};

struct layer {
	struct arima model;
	struct arima_filter filter;
	uint32_t level;	 /**< of its blocks */
	uint64_t filled; /**< blocks of that level that the filter has seen */
	uint64_t due;	 /**< samples at which it is fitted next */
};

struct state {
	struct blocks blocks;
	struct layer *layer;
	double *memory; /**< of the filters of all layers */
	size_t stride;	/**< of `memory`, doubles a layer */
	double *value;	/**< [experts], a block */

	/* The fit under way. */
	uint32_t fitting;   /**< layer */
	uint32_t candidate; /**< the next one; CANDIDATES: none under way */
	uint32_t level;
	struct panel panel; /**< its memory is value and seen below */
	double *panel_value, *fit_memory;
	bool panel_seen[BLOCKS_KEPT];
	struct arima best;
	double best_aicc;
};

static void arima_close(void *arg)
{
	struct state *s = arg;

	if (s == NULL)
		return;
	mtl_blocks_close(&s->blocks);
	free(s->layer);
	free(s->memory);
	free(s->value);
	free(s->panel_value);
	free(s->fit_memory);
	free(s);
}

static int arima_open(uint32_t layers, uint32_t experts, uint32_t window, void **state)
{
	struct state *s = calloc(1, sizeof(*s));

	(void)window;
	if (s == NULL)
		return -ENOMEM;
	s->stride = mtl_arima_bytes(experts) / sizeof(double);
	s->layer = calloc(layers, sizeof(*s->layer));
	s->memory = malloc(layers * s->stride * sizeof(double));
	s->value = malloc(experts * sizeof(double));
	s->panel_value = malloc((size_t)BLOCKS_KEPT * SERIES_MOST * sizeof(double));
	s->fit_memory = malloc(mtl_arima_bytes(SERIES_MOST));
	if (mtl_blocks_open(&s->blocks, layers, experts) < 0 || s->layer == NULL ||
		s->memory == NULL || s->value == NULL || s->panel_value == NULL ||
		s->fit_memory == NULL) {
		arima_close(s);
		return -ENOMEM;
	}
	s->candidate = CANDIDATES;
	for (uint32_t l = 0; l < layers; l++) {
		s->layer[l].model = start;
		s->layer[l].due = SAMPLES_LEAST;
		mtl_arima_begin(&s->layer[l].filter, &start, experts, s->memory + l * s->stride);
	}
	*state = s;
	return 0;
}

/** Oldest block of a level that is kept. */
static uint64_t oldest(const struct blocks *b, uint32_t level)
{
	uint64_t n = mtl_blocks_count(b, level);

	return n > BLOCKS_KEPT ? n - BLOCKS_KEPT : 0;
}

/** Shows the filter of a layer the blocks that it has not seen yet. */
static void catch_up(struct state *s, uint32_t l)
{
	const struct blocks *b = &s->blocks;
	struct layer *layer = &s->layer[l];

	if (layer->filled < oldest(b, layer->level))
		layer->filled = oldest(b, layer->level);
	for (; layer->filled < mtl_blocks_count(b, layer->level); layer->filled++) {
		const float *mean = mtl_blocks_mean(b, layer->level, layer->filled, l);

		for (uint32_t e = 0; mean != NULL && e < b->experts; e++)
			s->value[e] = mean[e];
		mtl_arima_step(&layer->filter, mean != NULL ? s->value : NULL);
	}
}

/** Correlation of successive differences of the block means of a level, mean over the experts of a
 * layer; NAN when there are too few blocks. */
static double correlation(const struct blocks *b, uint32_t level, uint32_t l)
{
	uint64_t end = mtl_blocks_count(b, level), begin = oldest(b, level);
	double sum = 0;
	uint32_t used = 0;

	if (end - begin < BLOCKS_KEPT)
		return NAN;
	for (uint32_t e = 0; e < b->experts; e++) {
		double cross = 0, square = 0, before = 0;

		for (uint64_t i = begin + 1; i < end; i++) {
			const float *x = mtl_blocks_mean(b, level, i - 1, l);
			const float *y = mtl_blocks_mean(b, level, i, l);
			double change = x != NULL && y != NULL ? (double)y[e] - x[e] : 0;

			cross += change * before;
			square += change * change;
			before = change;
		}
		if (square > 0) {
			sum += cross / square;
			used++;
		}
	}
	return used > 0 ? sum / used : NAN;
}

/** The shortest blocks such that these and all longer ones are not mostly noise. From the long ones
 * down, since neighbouring steps are alike (their batches are), and very short blocks then do not
 * look like noise either. */
static uint32_t choose_level(const struct blocks *b, uint32_t l)
{
	uint32_t longest = BLOCKS_LEVELS - 1, level;

	while (longest > 0 && isnan(correlation(b, longest, l)))
		longest--;
	level = longest + 1;
	while (level > 0 && !(correlation(b, level - 1, l) <= NOISE_CORRELATION))
		level--;
	return level < longest ? level : longest;
}

/** Copies what a fit of a layer looks at. */
static void begin_fit(struct state *s, uint32_t l)
{
	const struct blocks *b = &s->blocks;
	const uint32_t apart = (b->experts + SERIES_MOST - 1) / SERIES_MOST;
	const uint64_t begin = oldest(b, s->level = choose_level(b, l));

	s->fitting = l;
	s->candidate = 0;
	s->best = start;
	s->best_aicc = INFINITY;
	s->panel = (struct panel){.blocks = (uint32_t)(mtl_blocks_count(b, s->level) - begin),
		.series = (b->experts + apart - 1) / apart,
		.value = s->panel_value,
		.seen = s->panel_seen};
	for (uint32_t t = 0; t < s->panel.blocks; t++) {
		const float *mean = mtl_blocks_mean(b, s->level, begin + t, l);

		s->panel_seen[t] = mean != NULL;
		for (uint32_t i = 0; mean != NULL && i < s->panel.series; i++)
			s->panel_value[(size_t)t * s->panel.series + i] = mean[i * apart];
	}
}

/** Puts the best candidate in force. */
static void end_fit(struct state *s)
{
	struct layer *layer = &s->layer[s->fitting];

	layer->model = s->best;
	layer->level = s->level;
	layer->filled = 0;
	layer->due = s->blocks.samples + s->blocks.samples / REFIT_PART;
	mtl_arima_begin(&layer->filter, &layer->model, s->blocks.experts,
		s->memory + s->fitting * s->stride);
	catch_up(s, s->fitting);
}

static void fit_candidate(struct state *s)
{
	struct arima model = candidates[s->candidate++];
	struct arima_fit fit;

	if (mtl_arima_fit(&model, &s->panel, s->fit_memory, &fit) && fit.aicc < s->best_aicc) {
		s->best = model;
		s->best_aicc = fit.aicc;
	}
	if (s->candidate == CANDIDATES)
		end_fit(s);
}

static void arima_add(void *arg, const struct observation *o)
{
	struct state *s = arg;

	mtl_blocks_add(&s->blocks, o);
	for (uint32_t l = 0; l < s->blocks.layers; l++)
		catch_up(s, l);
	if (s->candidate < CANDIDATES) {
		fit_candidate(s);
		return;
	}
	/* Layers take turns. */
	for (uint32_t i = 1; i <= s->blocks.layers; i++) {
		uint32_t l = (s->fitting + i) % s->blocks.layers;

		if (s->layer[l].due <= s->blocks.samples) {
			begin_fit(s, l);
			break;
		}
	}
}

static void predict_layer(struct state *s, uint32_t l, uint32_t horizon, double *share)
{
	const struct layer *layer = &s->layer[l];
	const double length = (double)s->blocks.stride * (1u << layer->level);
	const double part = mtl_blocks_partial(&s->blocks, layer->level, l, s->value);
	double ahead = length > 0 ? horizon / length : 1;
	double noise = 0;

	if (layer->filter.seen == 0) {
		if (part > 0)
			memcpy(share, s->value, s->blocks.experts * sizeof(*share));
		return;
	}
	/* Exact for ARIMA(0,1,1), which is a random walk under noise: this much of the scale is
	 * noise, and it goes with the inverse of the length. */
	if (part > 0)
		noise = fmin(fmax(-layer->model.ma[0], 0.05), 1) * (1 / part - 1);
	mtl_arima_forecast(&layer->filter, part > 0 ? s->value : NULL, noise, ahead, share);
}

static void arima_predict(const struct question *q, double *share, int64_t *first)
{
	struct state *s = q->state;

	*first = s->blocks.first;
	for (uint32_t l = 0; l < s->blocks.layers; l++)
		predict_layer(s, l, q->horizon, share + (size_t)l * s->blocks.experts);
}

const struct forecaster mtl_forecaster_arima = {
	.name = "arima",
	.title = "ARIMA of block means, orders by AICc",
	.open = arima_open,
	.close = arima_close,
	.add = arima_add,
	.predict = arima_predict,
};
