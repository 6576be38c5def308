/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How far the shares of a layer moved, and how far noise alone would have moved them.
 *
 * The mean shares of two adjacent windows are compared: a window as the forecast of the steps after
 * it. With d their difference and weights w = 1 / (mean share + floor), as in Pearson's test, the
 * statistic is T = sum of w d^2. Its mean under noise alone, V, comes from successive differences
 * (von Neumann 1941), which a slow drift hardly touches:
 *
 * - h, by block of 16 steps: half the mean of sum w (x_t - x_t-1)^2 over its steps. It follows what
 *   the number of tokens or their kind does to the noise within a block.
 * - c, for blocks of b steps: half the squared difference of the means of adjacent blocks, times b,
 *   over h. 1 when steps are independent; it grows with b when neighbours are alike.
 *
 * So V = c (h1 / s1 + h2 / s2) for windows of s1 and s2 steps, with the largest c of blocks much
 * shorter than the windows. T / V is then about F distributed. The degrees of freedom above are
 * those that a sum of unequal squares has (Satterthwaite 1946), or what the scatter of the squares
 * of blocks leaves, whichever is less: experts may go together. Paulson (1942) turns that into
 * standard deviations of a normal variable.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK MTL_DRIFT_BLOCK
#define RING (MTL_DRIFT_STEPS / BLOCK + 1)
/** Lengths of block at which c is estimated: 1, 2, 4, ... blocks. */
#define LENGTHS 4
/** Blocks that the weights are made of. */
#define WEIGHT_BLOCKS 16
/** The most that c may be: what is more alike than that is no noise but shares that wander. */
#define C_MOST 3
/** What noise ratios without noise are kept away from. */
#define TINY 1e-18

/** A mean that forgets: of all values at first, later of about the last `memory`. */
struct mean {
	double value;
	uint32_t count; /**< up to the memory */
};

struct mtl_drift {
	uint32_t experts;
	uint32_t inside; /**< steps in the block under way */
	uint64_t blocks; /**< whole ones */
	bool any;	 /**< `last` is there */
	double square;	 /**< sum of w (x_t - x_t-1)^2 in the block under way */
	struct mean c[LENGTHS];
	struct mean scatter; /**< of (c of one pair of blocks / its mean - 1)^2 */
	double own;	/**< degrees of freedom of a sum of squares, were experts independent */
	double freedom; /**< as they are */
	double variance, root; /**< sums over experts: w * variance[e], sqrt(variance[e]) */
	double h[RING];	       /**< summed over the blocks so far */
	int64_t step[RING];    /**< last of the block */
	double *sum;	       /**< [RING][experts], of shares over all steps so far */
	double *now, *last, *weight, *block_variance; /**< [experts] */
};

static const uint32_t memory[LENGTHS] = {64, 32, 16, 8};

int mtl_drift_open(uint32_t experts, struct mtl_drift **drift)
{
	struct mtl_drift *d = calloc(1, sizeof(*d));

	if (d == NULL)
		return -ENOMEM;
	d->experts = experts;
	d->sum = calloc((size_t)experts * (RING + 4), sizeof(double));
	if (d->sum == NULL) {
		free(d);
		return -ENOMEM;
	}
	d->now = d->sum + (size_t)RING * experts;
	d->last = d->now + experts;
	d->weight = d->last + experts;
	d->block_variance = d->weight + experts;
	mtl_drift_forget(d);
	*drift = d;
	return 0;
}

void mtl_drift_close(struct mtl_drift *d)
{
	if (d == NULL)
		return;
	free(d->sum);
	free(d);
}

void mtl_drift_forget(struct mtl_drift *d)
{
	double *sum = d->sum, *now = d->now, *last = d->last, *weight = d->weight;
	double *variance = d->block_variance;
	uint32_t experts = d->experts;

	memset(sum, 0, (size_t)experts * (RING + 4) * sizeof(double));
	memset(d, 0, sizeof(*d));
	d->experts = experts;
	d->sum = sum;
	d->now = now;
	d->last = last;
	d->weight = weight;
	d->block_variance = variance;
	d->own = d->freedom = 1;
	for (uint32_t e = 0; e < experts; e++)
		weight[e] = experts;
}

static void mean_add(struct mean *m, double value, uint32_t most)
{
	if (m->count < most)
		m->count++;
	m->value += (value - m->value) / m->count;
}

static double *sum_at(const struct mtl_drift *d, uint64_t block)
{
	return d->sum + (block % RING) * d->experts;
}

/** Mean of h over the blocks from `from` to `to`. */
static double h_mean(const struct mtl_drift *d, uint64_t from, uint64_t to)
{
	return (d->h[to % RING] - d->h[from % RING]) / (double)(to - from);
}

/** Sum of w d^2 for the last `after` blocks and the `before` blocks before them; `l1` gets that of
 * |d|. */
static double distance(const struct mtl_drift *d, uint32_t before, uint32_t after, double *l1)
{
	const double *a = sum_at(d, d->blocks - after - before), *b = sum_at(d, d->blocks - after);
	const double *c = sum_at(d, d->blocks), *weight = d->weight;
	double one = 1.0 / (before * BLOCK), two = 1.0 / (after * BLOCK), square = 0, sum = 0;

	for (uint32_t e = 0; e < d->experts; e++) {
		double diff = (c[e] - b[e]) * two - (b[e] - a[e]) * one;

		square += weight[e] * diff * diff;
		sum += fabs(diff);
	}
	*l1 = sum;
	return square;
}

static void set_weights(struct mtl_drift *d)
{
	uint64_t n = d->blocks < WEIGHT_BLOCKS ? d->blocks : WEIGHT_BLOCKS;
	const double *from = sum_at(d, d->blocks - n), *to = sum_at(d, d->blocks);
	double floor = 0.05 / d->experts, one = 1.0 / ((double)n * BLOCK);

	for (uint32_t e = 0; e < d->experts; e++)
		d->weight[e] = 1 / ((to[e] - from[e]) * one + floor);
}

/** Updates the variance of block means by expert with the newest two blocks, whose differences
 * count `part` of themselves, and what follows from it. */
static void set_variance(struct mtl_drift *d, double part)
{
	const double *a = sum_at(d, d->blocks - 2), *b = sum_at(d, d->blocks - 1);
	const double *c = sum_at(d, d->blocks);
	double rate = 1.0 / d->c[0].count, sum = 0, squares = 0, root = 0;

	for (uint32_t e = 0; e < d->experts; e++) {
		double diff = (c[e] - 2 * b[e] + a[e]) / BLOCK, w;

		d->block_variance[e] += rate * (part * diff * diff / 2 - d->block_variance[e]);
		w = d->weight[e] * d->block_variance[e];
		sum += w;
		squares += w * w;
		root += sqrt(d->block_variance[e]);
	}
	d->variance = sum;
	d->root = root;
	d->own = squares > 0 ? sum * sum / squares : 1;
	/* The scatter that `own` makes counts like that of eight pairs of blocks. */
	d->freedom =
		2 * (d->scatter.count + 8) / (d->scatter.value * d->scatter.count + 8 * 2 / d->own);
	d->freedom = fmax(fmin(d->freedom, d->own), 1);
}

/** Learns from the newest two blocks of 2^i blocks. What no noise of that kind makes is a change,
 * and counts as much as noise may. */
static void learn(struct mtl_drift *d, int i)
{
	uint32_t n = 1u << i;
	double l1, ratio, part = 1, most;

	if (d->blocks % n != 0 || d->blocks < 2 * n)
		return;
	ratio = distance(d, n, n, &l1) / 2 * n * BLOCK /
		(h_mean(d, d->blocks - 2 * n, d->blocks) + TINY);
	most = (d->c[i].count < 8 ? C_MOST : d->c[i].value) * (1 + 4 * sqrt(2 / d->freedom));
	if (ratio > most) {
		part = most / ratio;
		ratio = most;
	}
	mean_add(&d->c[i], ratio, memory[i]);
	if (i > 0)
		return;
	if (d->c[i].value > 0)
		mean_add(&d->scatter, pow(ratio / d->c[i].value - 1, 2), memory[i]);
	set_variance(d, part);
}

static void end_block(struct mtl_drift *d, int64_t step)
{
	const double *before = sum_at(d, d->blocks);
	double *after = sum_at(d, d->blocks + 1);

	for (uint32_t e = 0; e < d->experts; e++) {
		after[e] = before[e] + d->now[e];
		d->now[e] = 0;
	}
	d->h[(d->blocks + 1) % RING] = d->h[d->blocks % RING] + d->square / 2 / BLOCK;
	d->blocks++;
	d->step[d->blocks % RING] = step;
	d->square = 0;
	d->inside = 0;
	for (int i = 0; i < LENGTHS; i++)
		learn(d, i);
	set_weights(d);
}

bool mtl_drift_add(struct mtl_drift *d, int64_t step, const double *share)
{
	double square = 0;

	if (!d->any) {
		memcpy(d->last, share, d->experts * sizeof(double));
		d->step[0] = step;
		d->any = true;
	}
	for (uint32_t e = 0; e < d->experts; e++) {
		double diff = share[e] - d->last[e];

		square += d->weight[e] * diff * diff;
		d->now[e] += share[e];
		d->last[e] = share[e];
	}
	d->square += square;
	if (++d->inside < BLOCK)
		return false;
	end_block(d, step);
	return true;
}

uint64_t mtl_drift_steps(const struct mtl_drift *d)
{
	return d->blocks * BLOCK + d->inside;
}

/** Where F lies, in standard deviations of a normal variable (Paulson 1942). */
static double normal_of_f(double f, double above, double below)
{
	double a = 2 / (9 * above), b = 2 / (9 * below), root = cbrt(f);

	return ((1 - b) * root - (1 - a)) / sqrt(b * root * root + a);
}

/** The largest c of blocks of up to `most` blocks; `count` gets the pairs that it comes from. */
static double alike(const struct mtl_drift *d, uint32_t most, uint32_t *count)
{
	double c = d->c[0].value;

	*count = d->c[0].count;
	for (int i = 1; i < LENGTHS && (1u << i) <= most; i++) {
		if (d->c[i].count < 4 || d->c[i].value <= c)
			continue;
		c = d->c[i].value;
		*count = d->c[i].count;
	}
	return c;
}

bool mtl_drift_look(
	const struct mtl_drift *d, uint32_t before, uint32_t after, struct mtl_look *look)
{
	uint32_t a = before / BLOCK, b = after / BLOCK, count;
	uint64_t end = d->blocks;
	double c, below;

	if (end < a + b)
		return false;
	/* Two blocks at least: else neighbours that are alike over tens of steps would look like
	 * drift. */
	c = alike(d, (a + b) / 8 > 2 ? (a + b) / 8 : 2, &count);
	look->expected = fmin(c, C_MOST) * (h_mean(d, end - b - a, end - b) / before +
						   h_mean(d, end - b, end) / after) +
			 TINY;
	look->square = distance(d, a, b, &look->l1);
	below = 2.0 / 3 * count * d->freedom;
	look->z = normal_of_f(look->square / look->expected, d->freedom, below);
	look->z_most = normal_of_f(look->square / look->expected, d->own, 2.0 / 3 * count * d->own);
	look->deviation = look->expected * sqrt(2 / d->freedom + 2 / below);
	look->noise = d->variance > 0 ? d->root * sqrt(2 / M_PI * look->expected / d->variance) : 0;
	look->before = before;
	look->after = after;
	look->apart = (double)(d->step[end % RING] - d->step[(end - a - b) % RING]) / 2;
	look->span = 2 * look->apart * after / (before + after);
	return true;
}

double mtl_drift_part(const struct mtl_drift *d, const struct mtl_look *look,
	const struct mtl_look *longer, double *deviation)
{
	const double *end = sum_at(d, d->blocks);
	const double *b1 = sum_at(d, d->blocks - look->after / BLOCK);
	const double *a1 = sum_at(d, d->blocks - (look->after + look->before) / BLOCK);
	const double *b2 = sum_at(d, d->blocks - longer->after / BLOCK);
	const double *a2 = sum_at(d, d->blocks - (longer->after + longer->before) / BLOCK);
	double product = 0, variance = 0, own = fmax(longer->square - longer->expected, TINY);

	for (uint32_t e = 0; e < d->experts; e++) {
		double one = (end[e] - b1[e]) / look->after - (b1[e] - a1[e]) / look->before;
		double two = (end[e] - b2[e]) / longer->after - (b2[e] - a2[e]) / longer->before;

		two *= d->weight[e];
		product += one * two;
		variance += two * two * d->block_variance[e];
	}
	if (d->variance > 0)
		variance *= look->expected / d->variance * d->own / d->freedom;
	*deviation = sqrt(variance) / own;
	return product / own;
}
