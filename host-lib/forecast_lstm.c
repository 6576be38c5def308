/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `lstm`: one LSTM for all experts of all layers, trained while the steps come.
 *
 * Of every expert there are nine exponential means over blocks of steps, each twice as long as the
 * one before; the network sees how they differ, block by block, and says how much each of them is
 * to be trusted for a horizon (lstm.h). So a forecast is a mean of what was seen, at the best a
 * better one than any fixed window. Everything is in units of the noise of the layer, so that one
 * network fits all.
 *
 * Blocks grow with the history: the last 128 to 256 of them are kept to learn from, of at most
 * 1,024 experts. Every step makes one descent on 32 windows of 16 blocks; no clock and no foreign
 * random numbers are in it, so equal series give equal forecasts. When a block ends, the states of
 * a large model move on over the steps of the next block.
 */
#include "blocks.h"
#include "lstm.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Blocks kept to learn from; when they are full, two become one. */
#define HISTORY 256u
/** Longest blocks, 2^6 samples; from then on the older half of the history is dropped. */
#define LEVEL_MOST 6u
/** Groups of LSTM_LANES experts that are learned from. */
#define PANEL_MOST 128u
/** Experts that may move on in a step; a larger model begins with longer blocks. */
#define EXPERTS_A_STEP 2048u
/** Groups a descent looks at. */
#define BATCH 4
/** Horizons of which weights are kept: 1, 2, 4, ... 256 blocks. */
#define FARS 9
/** What the network is told of a horizon: the logarithm of its blocks to base 2, by this. */
#define FAR_UNIT 4.0
/** Rate of the descents: fast to begin with, to be of use after a few dozen steps. */
#define RATE 0.002
#define RATE_FIRST 0.02
#define RATE_STEPS 300.0
#define SEED 20240425u
/** A layer's noise is a mean over so many blocks, and never less than this. */
#define NOISE_BLOCKS 32.0
#define NOISE_LEAST 1e-6
/** Inputs beyond this are cut. */
#define INPUT_MOST 5.0

typedef double lanes[LSTM_LANES];
typedef lanes levels[LSTM_LEVELS];

/** What is kept of a group for a block that ended. */
struct past {
	float level[LSTM_LEVELS][LSTM_LANES];
	float unit[LSTM_LANES];
	float seen; /**< blocks seen since the beginning, in present blocks */
	lanes sum;  /**< of their means */
};

struct layer {
	double noise; /**< how far a block lies from the mean of those before, in units of scale */
	double seen;  /**< blocks, in present blocks */
};

struct state {
	struct blocks blocks;
	uint32_t groups;  /**< of a layer */
	uint32_t level;	  /**< of the blocks */
	uint64_t handled; /**< blocks of that level */
	uint32_t pending; /**< the next layer whose states have to move on */
	struct layer *layer;
	levels *bank;		   /**< [layers][groups] */
	lanes *unit;		   /**< [layers][groups] */
	struct lstm_state *memory; /**< [layers][groups] */
	/** [layers][groups]: weights of the means, so that a forecast is cheap. */
	float (*weight)[FARS][LSTM_LEVELS][LSTM_LANES];
	double *value; /**< [experts + LSTM_LANES], a block */

	uint32_t panel, apart; /**< groups learned from, and every which that is */
	uint32_t count;	       /**< blocks in the history */
	struct past *past;     /**< [HISTORY][panel] */
	struct past *now;      /**< [panel], sums so far */

	struct lstm net;
	struct lstm_adam adam;
	struct lstm gradient;
	struct lstm_window window;
	uint32_t seed;
};

static void lstm_close(void *arg)
{
	struct state *s = arg;

	if (s == NULL)
		return;
	mtl_blocks_close(&s->blocks);
	free(s->layer);
	free(s->bank);
	free(s->unit);
	free(s->memory);
	free(s->weight);
	free(s->value);
	free(s->past);
	free(s->now);
	free(s);
}

/** Finds the weights of a group from its state. */
static void weigh(struct state *s, size_t g)
{
	levels weight;

	for (int i = 0; i < FARS; i++) {
		mtl_lstm_mix(&s->net, s->memory[g].out, i / FAR_UNIT, weight);
		for (int j = 0; j < LSTM_LEVELS; j++)
			for (int n = 0; n < LSTM_LANES; n++)
				s->weight[g][i][j][n] = (float)weight[j][n];
	}
}

static int lstm_open(uint32_t layers, uint32_t experts, uint32_t window, void **state)
{
	struct state *s = calloc(1, sizeof(*s));
	size_t all;

	(void)window;
	if (s == NULL)
		return -ENOMEM;
	s->groups = (experts + LSTM_LANES - 1) / LSTM_LANES;
	all = (size_t)layers * s->groups;
	s->apart = (uint32_t)((all + PANEL_MOST - 1) / PANEL_MOST);
	s->panel = (uint32_t)((all + s->apart - 1) / s->apart);
	s->layer = calloc(layers, sizeof(*s->layer));
	s->bank = calloc(all, sizeof(*s->bank));
	s->unit = calloc(all, sizeof(*s->unit));
	s->memory = calloc(all, sizeof(*s->memory));
	s->weight = calloc(all, sizeof(*s->weight));
	s->value = calloc(experts + LSTM_LANES, sizeof(*s->value));
	s->past = calloc((size_t)HISTORY * s->panel, sizeof(*s->past));
	s->now = calloc(s->panel, sizeof(*s->now));
	if (mtl_blocks_open(&s->blocks, layers, experts) < 0 || s->layer == NULL ||
		s->bank == NULL || s->unit == NULL || s->memory == NULL || s->weight == NULL ||
		s->value == NULL || s->past == NULL || s->now == NULL) {
		lstm_close(s);
		return -ENOMEM;
	}
	while ((uint64_t)layers * experts > (uint64_t)EXPERTS_A_STEP << s->level &&
		s->level < LEVEL_MOST)
		s->level++;
	s->pending = layers;
	s->seed = SEED;
	mtl_lstm_begin(&s->net, SEED);
	for (size_t g = 0; g < all; g++)
		weigh(s, g);
	*state = s;
	return 0;
}

/** Weight of the newest of `seen` blocks in the j-th mean: a plain mean to begin with. */
static double newest_weight(int j, double seen)
{
	return fmax(1.0 / (1 << j), 1 / fmax(seen, 1));
}

/** Takes a block into the means and the noise of a layer. */
static void take_block(struct state *s, uint32_t l, const float *mean)
{
	const uint32_t experts = s->blocks.experts;
	struct layer *layer = &s->layer[l];
	levels *bank = s->bank + (size_t)l * s->groups;
	lanes *unit = s->unit + (size_t)l * s->groups;
	double noise = 0;

	layer->seen++;
	for (uint32_t e = 0; e < experts; e++) {
		lanes *level = bank[e / LSTM_LANES];
		const uint32_t n = e % LSTM_LANES;

		noise += fabs(mean[e] - level[1][n]) / mtl_share_scale(level[1][n], experts);
		for (int j = 0; j < LSTM_LEVELS; j++)
			level[j][n] += newest_weight(j, layer->seen) * (mean[e] - level[j][n]);
	}
	if (layer->seen > 1)
		layer->noise += fmax(1 / NOISE_BLOCKS, 1 / (layer->seen - 1)) *
				(noise / experts - layer->noise);
	for (uint32_t e = 0; e < experts; e++)
		unit[e / LSTM_LANES][e % LSTM_LANES] =
			mtl_share_scale(
				bank[e / LSTM_LANES][LSTM_LEVELS - 1][e % LSTM_LANES], experts) *
			fmax(layer->noise, NOISE_LEAST);
}

/** What the network sees of a group. */
static void make_inputs(
	const levels level, const lanes unit, uint32_t experts, lanes input[LSTM_INPUTS])
{
	for (int n = 0; n < LSTM_LANES; n++) {
		const double share = level[LSTM_LEVELS - 1][n];

		for (int j = 0; j + 1 < LSTM_LEVELS; j++) {
			/* Means twice as long fluctuate less by the root of two. */
			double x = unit[n] > 0 ? (level[j][n] - level[j + 1][n]) / unit[n] *
							 sqrt(1 << j)
					       : 0;

			input[j][n] = fmin(fmax(x, -INPUT_MOST), INPUT_MOST);
		}
		input[LSTM_LEVELS - 1][n] = 0.25 * log(fmax(unit[n] * experts, NOISE_LEAST));
		input[LSTM_LEVELS][n] = 0.5 * log(share * experts + 0.05);
	}
}

/** Writes down the block that ended. */
static void record(struct state *s)
{
	struct past *to = s->past + (size_t)s->count * s->panel;

	for (uint32_t p = 0; p < s->panel; p++) {
		const size_t g = (size_t)p * s->apart;
		const struct layer *layer = &s->layer[g / s->groups];
		struct past *now = &s->now[p];

		if (layer->seen > now->seen) /* it was seen in this block */
			for (int n = 0; n < LSTM_LANES; n++)
				now->sum[n] += s->bank[g][0][n];
		now->seen = (float)layer->seen;
		for (int j = 0; j < LSTM_LEVELS; j++)
			for (int n = 0; n < LSTM_LANES; n++)
				now->level[j][n] = (float)s->bank[g][j][n];
		for (int n = 0; n < LSTM_LANES; n++)
			now->unit[n] = (float)s->unit[g][n];
		to[p] = *now;
	}
	s->count++;
}

/** The means and sums of a group in terms of blocks twice as long. */
static void stretch(struct past *p)
{
	memmove(p->level[0], p->level[1], (LSTM_LEVELS - 1) * sizeof(p->level[0]));
	p->seen /= 2;
	for (int n = 0; n < LSTM_LANES; n++)
		p->sum[n] /= 2;
}

/** Makes room in the history: two blocks become one, or the older half goes. */
static void make_room(struct state *s)
{
	const size_t row = s->panel * sizeof(*s->past);

	if (s->level == LEVEL_MOST) {
		memmove(s->past, s->past + (size_t)HISTORY / 2 * s->panel, HISTORY / 2 * row);
		s->count = HISTORY / 2;
		return;
	}
	for (uint32_t i = 0; i < HISTORY / 2; i++) {
		memcpy(s->past + (size_t)i * s->panel, s->past + (2 * (size_t)i + 1) * s->panel,
			row);
		for (uint32_t p = 0; p < s->panel; p++)
			stretch(&s->past[(size_t)i * s->panel + p]);
	}
	for (uint32_t p = 0; p < s->panel; p++)
		stretch(&s->now[p]);
	for (size_t g = 0; g < (size_t)s->blocks.layers * s->groups; g++)
		memmove(s->bank[g][0], s->bank[g][1], (LSTM_LEVELS - 1) * sizeof(lanes));
	for (uint32_t l = 0; l < s->blocks.layers; l++)
		s->layer[l].seen /= 2;
	s->count = HISTORY / 2;
	s->level++;
	s->handled = mtl_blocks_count(&s->blocks, s->level);
}

/** A block ended. What a gap in the steps skipped is left out. */
static void end_block(struct state *s)
{
	const uint64_t newest = mtl_blocks_count(&s->blocks, s->level) - 1;

	for (uint32_t l = 0; l < s->blocks.layers; l++) {
		const float *mean = mtl_blocks_mean(&s->blocks, s->level, newest, l);

		if (mean != NULL)
			take_block(s, l, mean);
	}
	s->handled = newest + 1;
	s->pending = 0;
	record(s);
	if (s->count == HISTORY)
		make_room(s);
}

/** Moves the states of some layers on. */
static void move_on(struct state *s)
{
	const uint32_t layers = s->blocks.layers, block = 1u << s->level;
	const uint32_t share = (layers + block - 1) / block;
	lanes input[LSTM_INPUTS];

	for (uint32_t i = 0; i < share && s->pending < layers; i++, s->pending++) {
		for (uint32_t k = 0; k < s->groups; k++) {
			const size_t g = (size_t)s->pending * s->groups + k;

			make_inputs(s->bank[g], s->unit[g], s->blocks.experts, input);
			mtl_lstm_step(&s->net, input, &s->memory[g]);
			weigh(s, g);
		}
	}
}

/** A number from 0 to 1, 1 left out. */
static double random_part(struct state *s)
{
	s->seed ^= s->seed << 13;
	s->seed ^= s->seed >> 17;
	s->seed ^= s->seed << 5;
	return s->seed / 4294967296.0;
}

/** The window of a group that begins with block `begin`; targets are means of the `ahead` blocks
 * after each. */
static void make_window(struct state *s, uint32_t p, uint32_t begin, uint32_t ahead)
{
	struct lstm_window *w = &s->window;

	for (uint32_t t = 0; t < LSTM_STEPS; t++) {
		const struct past *at = &s->past[(size_t)(begin + t) * s->panel + p];
		const struct past *end = &s->past[(size_t)(begin + t + ahead) * s->panel + p];
		lanes unit;
		levels level;

		for (int n = 0; n < LSTM_LANES; n++) {
			unit[n] = at->unit[n];
			w->target[t][n] = NAN;
			for (int j = 0; j < LSTM_LEVELS; j++)
				level[j][n] = at->level[j][n];
		}
		make_inputs(level, unit, s->blocks.experts, w->input[t]);
		for (int n = 0; n < LSTM_LANES; n++) {
			const double base = level[LSTM_LEVELS - 1][n];

			for (int j = 0; j < LSTM_LEVELS; j++)
				w->level[t][j][n] =
					unit[n] > 0 ? (level[j][n] - base) / unit[n] : 0;
			if (end->seen > at->seen && unit[n] > 0)
				w->target[t][n] =
					((end->sum[n] - at->sum[n]) / (end->seen - at->seen) -
						base) /
					unit[n];
		}
	}
	w->far = log2(ahead) / FAR_UNIT;
}

/** Exponent of the longest horizon in blocks, a power of two, that has been learned; -1: none. */
static int longest(const struct state *s)
{
	return s->count > LSTM_STEPS ? (int)log2(s->count - LSTM_STEPS) : -1;
}

/** One descent. */
static void learn(struct state *s)
{
	const double rate = RATE + RATE_FIRST / (1 + s->adam.steps / RATE_STEPS);
	double *g = (double *)&s->gradient;

	if (longest(s) < 0)
		return;
	memset(g, 0, sizeof(s->gradient));
	for (int b = 0; b < BATCH; b++) {
		const uint32_t p = (uint32_t)(random_part(s) * s->panel);
		const uint32_t ahead = 1u << (int)(random_part(s) * (longest(s) + 1));
		const uint32_t begins = s->count - ahead - LSTM_STEPS + 1;
		const double age = random_part(s);

		/* Newer ones more often. */
		make_window(s, p, begins - 1 - (uint32_t)(age * age * begins), ahead);
		mtl_lstm_learn(&s->net, &s->window, &s->gradient);
	}
	for (size_t i = 0; i < LSTM_WEIGHTS; i++)
		g[i] /= BATCH * LSTM_LANES;
	mtl_lstm_descend(&s->net, &s->adam, &s->gradient, rate);
}

static void lstm_add(void *arg, const struct observation *o)
{
	struct state *s = arg;

	mtl_blocks_add(&s->blocks, o);
	if (mtl_blocks_count(&s->blocks, s->level) > s->handled)
		end_block(s);
	move_on(s);
	learn(s);
}

/** The means of a group with the block under way, which weighs `newest[LSTM_LEVELS]`. */
static void with_partial(
	const struct state *s, uint32_t l, uint32_t k, const double *newest, levels level)
{
	memcpy(level, s->bank[(size_t)l * s->groups + k], sizeof(levels));
	for (int j = 0; j < LSTM_LEVELS; j++)
		for (int n = 0; n < LSTM_LANES; n++)
			level[j][n] += newest[j] * (s->value[k * LSTM_LANES + n] - level[j][n]);
}

/** `far`: the logarithm of the blocks ahead, between two of which weights are kept. */
static void predict_group(
	struct state *s, uint32_t l, uint32_t k, double far, const double *newest, double *share)
{
	const int i = far < FARS - 2 ? (int)far : FARS - 2;
	const size_t g = (size_t)l * s->groups + k;
	levels level;

	with_partial(s, l, k, newest, level);
	for (uint32_t n = 0; n < LSTM_LANES && k * LSTM_LANES + n < s->blocks.experts; n++)
		for (int j = 0; j < LSTM_LEVELS; j++) {
			const double a = s->weight[g][i][j][n], b = s->weight[g][i + 1][j][n];

			share[k * LSTM_LANES + n] += (a + (far - i) * (b - a)) * level[j][n];
		}
}

static void lstm_predict(const struct question *q, double *share, int64_t *first)
{
	struct state *s = q->state;
	const double length = (double)s->blocks.stride * (1u << s->level);
	double far = length > 0 ? log2(fmax(q->horizon / length, 1)) : 0;

	/* Not farther than what could be learned. */
	far = fmin(far, fmax(longest(s), 0));
	*first = s->blocks.first;
	memset(share, 0, (size_t)s->blocks.layers * s->blocks.experts * sizeof(*share));
	for (uint32_t l = 0; l < s->blocks.layers; l++) {
		const double part = mtl_blocks_partial(&s->blocks, s->level, l, s->value);
		double newest[LSTM_LEVELS];

		/* A part of a block weighs as if so much of it had come at once. */
		for (int j = 0; j < LSTM_LEVELS; j++)
			newest[j] = 1 - pow(1 - newest_weight(j, s->layer[l].seen + 1), part);
		for (uint32_t k = 0; k < s->groups; k++)
			predict_group(s, l, k, far, newest, share + (size_t)l * s->blocks.experts);
	}
}

const struct forecaster mtl_forecaster_lstm = {
	.name = "lstm",
	.title = "LSTM, one for all experts, trained online",
	.open = lstm_open,
	.close = lstm_close,
	.add = lstm_add,
	.predict = lstm_predict,
};
