/* SPDX-License-Identifier: BSD-3-Clause */
#include "gate.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HOT_SHARE 0.6	   /* of a layer's tokens, what its hot experts want */
#define DRIFT 0.02	   /* by how much of itself what an expert gets goes up and down, */
#define DRIFT_STEPS 4000.0 /* once in so many steps */

/** splitmix64 (Vigna, public domain, as described at prng.di.unimi.it). */
static double draw(struct gate *g)
{
	uint64_t z = g->random += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

int gate_new(struct gate *g, uint32_t layers, uint32_t experts, uint64_t seed)
{
	*g = (struct gate){.layers = layers, .experts = experts, .random = seed};
	g->hot = calloc((size_t)layers * experts, sizeof(*g->hot));
	g->cumulative = calloc(experts, sizeof(*g->cumulative));
	return g->hot != NULL && g->cumulative != NULL ? 0 : -ENOMEM;
}

void gate_free(struct gate *g)
{
	free(g->hot);
	free(g->cumulative);
}

void gate_heat(struct gate *g, uint32_t layer, const uint32_t *experts, uint32_t count)
{
	bool *hot = g->hot + (size_t)layer * g->experts;

	memset(hot, 0, g->experts * sizeof(*hot));
	for (uint32_t i = 0; i < count; i++)
		hot[experts[i]] = true;
}

void gate_layer(struct gate *g, uint32_t layer, int64_t step)
{
	const bool *hot = g->hot + (size_t)layer * g->experts;
	double sum[2] = {0}, at = 0;

	for (uint32_t e = 0; e < g->experts; e++) {
		double turn = 2 * M_PI * ((double)step / DRIFT_STEPS + (double)e / g->experts);

		/* no two alike, and none of them nothing */
		g->cumulative[e] = (1 + 0.5 * sin(2.4 * e + layer)) * (1 + DRIFT * sin(turn));
		sum[hot[e]] += g->cumulative[e];
	}
	for (uint32_t e = 0; e < g->experts; e++) {
		double part = sum[1] == 0 ? 1 : hot[e] ? HOT_SHARE : 1 - HOT_SHARE;

		at += g->cumulative[e] / sum[hot[e]] * part;
		g->cumulative[e] = at;
	}
}

/** The first expert whose end is above `x`, which is below the last one's. */
static uint32_t find(const struct gate *g, double x)
{
	uint32_t low = 0, high = g->experts - 1;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (g->cumulative[middle] > x)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

void gate_token(struct gate *g, uint32_t top, uint32_t *expert)
{
	for (uint32_t k = 0; k < top;) {
		uint32_t e = find(g, draw(g)), i = 0;

		while (i < k && expert[i] != e)
			i++;
		if (i == k)
			expert[k++] = e;
	}
}
