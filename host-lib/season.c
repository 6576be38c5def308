/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Loads that come back: serving alternates between prefill and decode, benchmarks repeat their
 * requests. A series has a period when a step is much more like the one a period ago than like any
 * running mean. Steps are compared by sketches of a few numbers (Charikar, Chen and Farach-Colton,
 * ICALP 2002), whose distances are those of the shares in the mean.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PERIOD_MOST 512
/** Bytes that the steps of one period may take. */
#define ROWS_BYTES ((size_t)8 << 20)
#define SKETCH 32
/** Running means to compare with: gains of 1, 1/2, 1/4, ... and the mean of all. */
#define MEANS 8
/** Distance at a period, in errors of the best mean, below which it is believed after that many
 * steps and a whole period; the square of the part that was seen holds it lower before. Chance
 * alone makes it 2. */
#define CLEAR 0.5
#define STEPS_CLEAR 16
#define STEPS_LEAST 4
/** The same below which it is all but exact. */
#define SURE 0.1
/** A row of so many shares that comes back exactly is no chance: believed at once. */
#define ROW_EXACT 64

struct season {
	uint32_t layers, experts, most;
	uint64_t tick;
	bool tokens;			   /**< the last step had some */
	float *row;			   /**< [most][layers][experts], the last steps */
	int64_t step[PERIOD_MOST + 1];	   /**< of the last rows */
	float sketch[PERIOD_MOST][SKETCH]; /**< of the last steps */
	double error[PERIOD_MOST + 1];	   /**< running sum of the errors of the best mean */
	float mean[MEANS][SKETCH];
	double mean_error[MEANS];
	double distance[PERIOD_MOST + 1]; /**< mean over about a period */
	uint32_t count[PERIOD_MOST + 1];  /**< steps compared */
	uint32_t period;		  /**< 0: none */
	double relative;		  /**< distance at the period, in errors of the best mean */
};

int mtl_season_open(uint32_t layers, uint32_t experts, struct season **season)
{
	size_t cells = (size_t)layers * experts;
	struct season *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return -ENOMEM;
	s->layers = layers;
	s->experts = experts;
	s->most = PERIOD_MOST;
	if (ROWS_BYTES / (cells * sizeof(float)) < s->most)
		s->most = (uint32_t)(ROWS_BYTES / (cells * sizeof(float)));
	s->row = calloc(s->most * cells + 1, sizeof(float));
	if (s->row == NULL) {
		free(s);
		return -ENOMEM;
	}
	*season = s;
	return 0;
}

void mtl_season_close(struct season *s)
{
	if (s == NULL)
		return;
	free(s->row);
	free(s);
}

static void make_sketch(const float *row, size_t cells, float sketch[SKETCH])
{
	uint32_t hash = 1;

	memset(sketch, 0, SKETCH * sizeof(float));
	for (size_t c = 0; c < cells; c++) {
		/* Numerical Recipes' generator; its high bits are the good ones. */
		hash = hash * 1664525u + 1013904223u;
		sketch[(hash >> 24) % SKETCH] += hash >> 31 ? row[c] : -row[c];
	}
}

static double square_distance(const float *a, const float *b)
{
	float sum = 0;

	for (uint32_t i = 0; i < SKETCH; i++)
		sum += (a[i] - b[i]) * (a[i] - b[i]);
	return sum;
}

/** Error of the mean that was the best so far; then all means learn. */
static double add_means(struct season *s, const float sketch[SKETCH])
{
	uint32_t best = 0;
	double error = 0;

	for (uint32_t k = 1; k < MEANS; k++)
		best = s->mean_error[k] < s->mean_error[best] ? k : best;
	for (uint32_t k = 0; k < MEANS; k++) {
		double d = square_distance(s->mean[k], sketch);
		float gain = 1.0f / (float)(k + 1 < MEANS ? 1u << k : s->tick);

		error = k == best ? d : error;
		s->mean_error[k] += (d - s->mean_error[k]) / fmin((double)s->tick, 64);
		gain = fmaxf(gain, 1.0f / (float)s->tick);
		for (uint32_t i = 0; i < SKETCH; i++)
			s->mean[k][i] += gain * (sketch[i] - s->mean[k][i]);
	}
	return error;
}

/** Distance at a period in errors of the best mean over the same steps; 9 where that is not known.
 */
static double relative(const struct season *s, uint32_t period)
{
	uint32_t steps = s->count[period] < period ? s->count[period] : period;
	double error = s->error[s->tick % (PERIOD_MOST + 1)] -
		       s->error[(s->tick - steps) % (PERIOD_MOST + 1)];

	return steps > 0 && error > 0 ? s->distance[period] * steps / error : 9;
}

static bool is_believed(const struct season *s, uint32_t period, double r)
{
	double seen = (double)s->count[period] / fmax(period, STEPS_CLEAR);

	if (r == 0 && s->tokens && s->layers * s->experts >= ROW_EXACT)
		return true;
	return s->count[period] >= STEPS_LEAST && r < CLEAR * fmin(1, seen * seen);
}

static void find_period(struct season *s)
{
	double best = INFINITY;

	s->period = 0;
	for (uint32_t p = 2; p < s->most && p < s->tick; p++) {
		double r = relative(s, p);

		/* A multiple of the period is as good, or a little better by chance. */
		if (is_believed(s, p, r) && r < 0.8 * best) {
			s->period = p;
			best = s->relative = r;
		}
	}
}

void mtl_season_add(struct season *s, int64_t step, const double *share)
{
	size_t cells = (size_t)s->layers * s->experts;
	float *row, sketch[SKETCH];

	if (s->most < STEPS_LEAST)
		return;
	row = s->row + (s->tick % s->most) * cells;
	s->tokens = false;
	for (size_t c = 0; c < cells; c++) {
		row[c] = (float)share[c];
		s->tokens = s->tokens || row[c] > 0;
	}
	s->step[s->tick % (PERIOD_MOST + 1)] = step;
	make_sketch(row, cells, sketch);
	s->tick++;
	s->error[s->tick % (PERIOD_MOST + 1)] =
		s->error[(s->tick - 1) % (PERIOD_MOST + 1)] + add_means(s, sketch);
	for (uint32_t p = 2; p < s->most && p < s->tick; p++) {
		double d = square_distance(sketch, s->sketch[(s->tick - 1 - p) % PERIOD_MOST]);

		s->count[p]++;
		s->distance[p] += (d - s->distance[p]) / (s->count[p] < p ? s->count[p] : p);
	}
	memcpy(s->sketch[(s->tick - 1) % PERIOD_MOST], sketch, sizeof(sketch));
	find_period(s);
}

/** How often in `horizon` steps one comes that is `offset` into a period of `length`. */
static int64_t times_of(int64_t horizon, int64_t offset, int64_t length)
{
	return horizon < offset ? 0 : (horizon - offset) / length + 1;
}

uint32_t mtl_season_predict(const struct season *s, int64_t horizon, double *share)
{
	size_t cells = (size_t)s->layers * s->experts;
	uint32_t p = s->period;
	int64_t begin, length, times = 0;

	if (p == 0)
		return 0;
	begin = s->step[(s->tick - 1 - p) % (PERIOD_MOST + 1)];
	length = s->step[(s->tick - 1) % (PERIOD_MOST + 1)] - begin;
	/* Over a whole period, levels of longer memory are better, unless it is all but exact. */
	if (s->relative >= SURE && horizon >= length)
		return 0;
	memset(share, 0, cells * sizeof(*share));
	for (uint64_t i = s->tick - p; i < s->tick; i++) {
		/* Steps that are missing in the last period will be so in the next. */
		int64_t n = times_of(horizon, s->step[i % (PERIOD_MOST + 1)] - begin, length);
		const float *row = s->row + (i % s->most) * cells;

		for (size_t c = 0; n > 0 && c < cells; c++)
			share[c] += (double)n * row[c];
		times += n;
	}
	for (size_t c = 0; times > 0 && c < cells; c++)
		share[c] /= (double)times;
	return times > 0 ? p : 0;
}
