/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The least that a plan gains over another placement, whatever the shares are within their
 * intervals.
 *
 * Let U be the shares s with low <= s <= high that sum to 1, c_r . s the load of rank r in the
 * placement in force and p_q . s that of rank q in the plan: linear in s, the coefficient of an
 * expert being its replicas on the rank / all its replicas. The gain max_r c_r . s - max_q p_q . s
 * is never less than c_r . s - p_q . s for one fixed r and the q that is busiest at s. So
 *
 *	min over q of min over s in U of (c_r - p_q) . s
 *
 * is a lower bound of it on all of U, for any r. We take the r that is busiest as forecast. The
 * inner minimum is a linear program over a box cut by a plane, and filling up the experts of the
 * smallest coefficients first solves it exactly.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** An expert in the linear program. */
struct term {
	double cost, low, room;
};

static int by_cost(const void *a, const void *b)
{
	double x = ((const struct term *)a)->cost, y = ((const struct term *)b)->cost;

	return (x > y) - (x < y);
}

/** Smallest cost . s over the box whose sum is 1; sorts the terms. */
static double smallest(struct term *term, uint32_t n)
{
	double sum = 0, left = 1;

	for (uint32_t i = 0; i < n; i++) {
		sum += term[i].cost * term[i].low;
		left -= term[i].low;
	}
	qsort(term, n, sizeof(*term), by_cost);
	for (uint32_t i = 0; i < n && left > 0; i++) {
		double more = fmin(left, term[i].room);

		sum += term[i].cost * more;
		left -= more;
	}
	return sum;
}

/** Adds `sign` times the coefficients of a rank. */
static void add_rank(
	const struct moetap_plan *plan, uint32_t layer, uint32_t rank, double sign, double *cost)
{
	const uint32_t *replicas =
		moetap_plan_replicas(plan) + (size_t)layer * moetap_plan_experts(plan);
	const uint32_t *slot;
	struct moetap_shape shape;
	uint32_t a_rank;

	moetap_plan_shape(plan, &shape);
	a_rank = shape.slots / shape.ranks;
	slot = moetap_plan_slots(plan) + (size_t)layer * shape.slots + (size_t)rank * a_rank;
	for (uint32_t s = 0; s < a_rank; s++)
		cost[slot[s]] += sign / replicas[slot[s]];
}

/** The rank that is busiest at `share`. `cost` is scratch, all zero before and after. */
static uint32_t busiest(
	const struct moetap_plan *plan, uint32_t layer, const double *share, double *cost)
{
	uint32_t experts = moetap_plan_experts(plan), best = 0;
	struct moetap_shape shape;
	double most = -1;

	moetap_plan_shape(plan, &shape);
	for (uint32_t r = 0; r < shape.ranks; r++) {
		double load = 0;

		add_rank(plan, layer, r, 1, cost);
		for (uint32_t e = 0; e < experts; e++)
			load += cost[e] * share[e];
		memset(cost, 0, experts * sizeof(*cost));
		if (load > most) {
			most = load;
			best = r;
		}
	}
	return best;
}

int mtl_plan_least_gain(const struct moetap_plan *plan, const struct moetap_plan *current,
	uint32_t layer, const struct moetap_forecast *f, double *gain)
{
	uint32_t experts = moetap_plan_experts(plan), rank;
	size_t at = (size_t)layer * experts;
	const double *low = moetap_forecast_low(f) + at, *high = moetap_forecast_high(f) + at;
	struct term *term = malloc(experts * sizeof(*term));
	double *cost = calloc(experts, sizeof(*cost));
	struct moetap_shape shape;

	if (term == NULL || cost == NULL) {
		free(term);
		free(cost);
		return -ENOMEM;
	}
	moetap_plan_shape(plan, &shape);
	rank = busiest(current, layer, moetap_forecast_share(f) + at, cost);
	*gain = INFINITY;
	for (uint32_t q = 0; q < shape.ranks; q++) {
		memset(cost, 0, experts * sizeof(*cost));
		add_rank(current, layer, rank, 1, cost);
		add_rank(plan, layer, q, -1, cost);
		for (uint32_t e = 0; e < experts; e++)
			term[e] = (struct term){cost[e], low[e], high[e] - low[e]};
		*gain = fmin(*gain, smallest(term, experts));
	}
	free(term);
	free(cost);
	return 0;
}
