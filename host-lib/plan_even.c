/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Unequal parts of tokens for the replicas of an expert, so that ranks are as even as a placement
 * allows. One expert after the other fills up the lightest of its ranks to a common level, as water
 * would. The sum of squares of rank loads falls with each; where no expert lowers it any more it is
 * the least, since it is convex, and then the busiest rank is as light as can be too.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/** Passes over all experts, at most, and what the busiest rank has to lose in one for another. */
#define PASSES 200
#define WORTH 1e-7

/** One layer. */
struct even {
	uint32_t slots, per_rank;
	const uint32_t *slot; /**< [slots], expert */
	double *part;	      /**< [slots], tokens */
	double *rank;	      /**< [ranks], tokens */
	double *base;	/**< [slots], of the ranks of one expert, without its tokens; rising */
	uint32_t *mine; /**< [slots], its slots in that order */
};

/** Takes the tokens of an expert off its ranks. @return ranks that hold it */
static uint32_t take_off(struct even *x, uint32_t expert)
{
	uint32_t n = 0;

	for (uint32_t s = 0; s < x->slots; s++) {
		uint32_t rank = s / x->per_rank, at = n;

		if (x->slot[s] != expert)
			continue;
		x->rank[rank] -= x->part[s];
		x->part[s] = 0;
		/* Of two replicas on a rank, the second gets nothing. */
		if (n > 0 && x->mine[n - 1] / x->per_rank == rank)
			continue;
		x->mine[at] = s;
		n++;
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t s = x->mine[i], at = i;
		double base = x->rank[s / x->per_rank];

		for (; at > 0 && x->base[at - 1] > base; at--) {
			x->base[at] = x->base[at - 1];
			x->mine[at] = x->mine[at - 1];
		}
		x->base[at] = base;
		x->mine[at] = s;
	}
	return n;
}

static void level(struct even *x, uint32_t expert, double tokens)
{
	uint32_t n = take_off(x, expert), k = 1;
	double sum = tokens + x->base[0];

	while (k < n && x->base[k] * k < sum)
		sum += x->base[k++];
	for (uint32_t i = 0; i < k; i++) {
		x->part[x->mine[i]] = fmax(0, sum / k - x->base[i]);
		x->rank[x->mine[i] / x->per_rank] += x->part[x->mine[i]];
	}
}

static double busiest(const struct even *x)
{
	double most = 0;

	for (uint32_t r = 0; r < x->slots / x->per_rank; r++)
		most = fmax(most, x->rank[r]);
	return most;
}

/** @return the busiest rank's tokens */
static double spread(struct even *x, uint32_t experts, const uint32_t *count, const double *load)
{
	double most = busiest(x), before;
	uint32_t pass = 0;

	do {
		before = most;
		for (uint32_t e = 0; e < experts; e++)
			if (count[e] > 1 && load[e] > 0)
				level(x, e, load[e]);
		most = busiest(x);
	} while (++pass < PASSES && most < before * (1 - WORTH));
	return most;
}

double moetap_plan_even(
	const struct moetap_plan *plan, uint32_t layer, const double *load, double *part)
{
	uint32_t experts = moetap_plan_experts(plan);
	const uint32_t *count = moetap_plan_replicas(plan) + (size_t)layer * experts;
	struct moetap_shape shape;
	struct even x = {.part = part};
	double most, sum = 0;

	moetap_plan_shape(plan, &shape);
	x.slots = shape.slots;
	x.per_rank = shape.slots / shape.ranks;
	x.slot = moetap_plan_slots(plan) + (size_t)layer * shape.slots;
	x.rank = calloc((size_t)shape.ranks + shape.slots, sizeof(double));
	x.mine = malloc(shape.slots * sizeof(*x.mine));
	if (x.rank == NULL || x.mine == NULL) {
		free(x.rank);
		free(x.mine);
		return NAN;
	}
	x.base = x.rank + shape.ranks;
	for (uint32_t s = 0; s < x.slots; s++) {
		part[s] = load[x.slot[s]] / count[x.slot[s]];
		x.rank[s / x.per_rank] += part[s];
	}
	most = spread(&x, experts, count, load);
	for (uint32_t s = 0; s < x.slots; s++)
		part[s] = load[x.slot[s]] > 0 ? part[s] / load[x.slot[s]] : 1.0 / count[x.slot[s]];
	for (uint32_t e = 0; e < experts; e++)
		sum += load[e];
	free(x.rank);
	free(x.mine);
	return most > 0 ? sum / shape.ranks / most : 1;
}
