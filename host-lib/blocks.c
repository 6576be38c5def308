/* SPDX-License-Identifier: BSD-3-Clause */
/* Two blocks of a level make one of the next: a sample costs about two additions a cell. */
#include "blocks.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Samples for which an exact round is better than a flagged one. */
#define EXACT_FOR 16
/** A longer gap is cut to this; then nothing of what came before is left in any level. */
#define GAP_MOST ((uint64_t)BLOCKS_KEPT << (BLOCKS_LEVELS - 1))

int mtl_blocks_open(struct blocks *b, uint32_t layers, uint32_t experts)
{
	bool ok = true;

	*b = (struct blocks){.layers = layers, .experts = experts, .last = -1};
	for (uint32_t k = 0; k < BLOCKS_LEVELS; k++) {
		b->level[k].mean = malloc(BLOCKS_KEPT * (size_t)layers * experts * sizeof(float));
		b->level[k].weight = malloc(BLOCKS_KEPT * (size_t)layers * sizeof(float));
		ok = ok && b->level[k].mean != NULL && b->level[k].weight != NULL;
	}
	b->exact = calloc(layers, sizeof(*b->exact));
	return ok && b->exact != NULL ? 0 : -ENOMEM;
}

void mtl_blocks_close(struct blocks *b)
{
	for (uint32_t k = 0; k < BLOCKS_LEVELS; k++) {
		free(b->level[k].mean);
		free(b->level[k].weight);
	}
	free(b->exact);
}

static float *mean_at(const struct blocks *b, uint32_t level, uint64_t i, uint32_t layer)
{
	return b->level[level].mean + ((i % BLOCKS_KEPT) * b->layers + layer) * b->experts;
}

static float *weight_at(const struct blocks *b, uint32_t level, uint64_t i, uint32_t layer)
{
	return b->level[level].weight + (i % BLOCKS_KEPT) * b->layers + layer;
}

/** Makes a layer's block `i` of a level out of two of the level below. */
static void pair(struct blocks *b, uint32_t level, uint64_t i, uint32_t layer)
{
	const float *x = mean_at(b, level - 1, 2 * i, layer);
	const float *y = mean_at(b, level - 1, 2 * i + 1, layer);
	float u = *weight_at(b, level - 1, 2 * i, layer);
	float v = *weight_at(b, level - 1, 2 * i + 1, layer);
	float *to = mean_at(b, level, i, layer);

	*weight_at(b, level, i, layer) = u + v;
	if (u == 0 && v == 0)
		return;
	/* What was not seen may hold anything. */
	if (u == 0 || v == 0) {
		memcpy(to, u > 0 ? x : y, b->experts * sizeof(float));
		return;
	}
	u /= u + v;
	for (uint32_t e = 0; e < b->experts; e++)
		to[e] = y[e] + u * (x[e] - y[e]);
}

/** Counts the sample that was written to level 0, and completes blocks. */
static void count(struct blocks *b)
{
	b->samples++;
	for (uint32_t k = 1; k < BLOCKS_LEVELS && b->samples % (1ull << k) == 0; k++)
		for (uint32_t l = 0; l < b->layers; l++)
			pair(b, k, (b->samples >> k) - 1, l);
}

static void add_missing(struct blocks *b, uint64_t samples)
{
	for (; samples > 0; samples--) {
		memset(weight_at(b, 0, b->samples, 0), 0, b->layers * sizeof(float));
		count(b);
	}
}

/** Fills up to the sample before `step`. */
static void fill_gap(struct blocks *b, int64_t step)
{
	int64_t gap = step - b->last;
	uint64_t missing;

	if (b->stride == 0 || gap < b->stride)
		b->stride = gap;
	missing = (uint64_t)((gap + b->stride / 2) / b->stride) - 1;
	add_missing(b, missing < GAP_MOST ? missing : GAP_MOST);
}

/** Weight of a layer's round in its sample. */
static float weight_of(struct blocks *b, const struct observation *o, uint32_t l)
{
	if (o->sum[l] <= 0)
		return 0;
	if ((o->quality[l] & MOETAP_QUALITY_INEXACT) == 0) {
		b->exact[l] = b->samples + 1;
		return 1;
	}
	return b->exact[l] > 0 && b->samples < b->exact[l] + EXACT_FOR ? 0 : 1;
}

void mtl_blocks_add(struct blocks *b, const struct observation *o)
{
	if (b->last < 0)
		b->first = o->step;
	else
		fill_gap(b, o->step);
	b->last = o->step;
	for (uint32_t l = 0; l < b->layers; l++) {
		const double *from = o->share + (size_t)l * b->experts;
		float *to = mean_at(b, 0, b->samples, l);

		*weight_at(b, 0, b->samples, l) = weight_of(b, o, l);
		for (uint32_t e = 0; e < b->experts; e++)
			to[e] = (float)from[e];
	}
	count(b);
}

const float *mtl_blocks_mean(const struct blocks *b, uint32_t level, uint64_t i, uint32_t layer)
{
	if (*weight_at(b, level, i, layer) * 8 < (float)(1u << level))
		return NULL;
	return mean_at(b, level, i, layer);
}

double mtl_blocks_partial(const struct blocks *b, uint32_t level, uint32_t layer, double *mean)
{
	double weight = 0;

	/* The binary digits of the samples since the last complete block are the last blocks of
	 * the levels below. */
	for (uint32_t k = level; k-- > 0;) {
		uint64_t blocks = mtl_blocks_count(b, k);
		const float *from = mean_at(b, k, blocks - 1, layer);
		double w;

		if (blocks % 2 == 0)
			continue;
		w = *weight_at(b, k, blocks - 1, layer);
		if (w == 0)
			continue;
		for (uint32_t e = 0; e < b->experts; e++)
			mean[e] = weight > 0 ? mean[e] + w / (weight + w) * (from[e] - mean[e])
					     : from[e];
		weight += w;
	}
	return weight / (1u << level);
}
