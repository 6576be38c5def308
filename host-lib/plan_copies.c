/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * To how many nodes a token goes. A token that takes several experts of a node is sent there once
 * (DeepEP's normal mode and others), so it matters whether the groups to which its gate is limited
 * are whole on a node.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/** Part of each group's tokens that a node serves, replicas having equal parts, and each group's
 * part of all. */
static void parts(const struct moetap_plan *plan, uint32_t layer, const double *load, uint32_t node,
	uint32_t groups, double *part, double *share)
{
	uint32_t experts = moetap_plan_experts(plan), size = experts / groups;
	const uint32_t *count = moetap_plan_replicas(plan) + (size_t)layer * experts;
	struct moetap_shape shape;
	const uint32_t *slot;
	uint32_t a_node;

	moetap_plan_shape(plan, &shape);
	a_node = shape.slots / shape.nodes;
	slot = moetap_plan_slots(plan) + (size_t)layer * shape.slots + (size_t)node * a_node;
	for (uint32_t g = 0; g < groups; g++)
		part[g] = share[g] = 0;
	for (uint32_t e = 0; e < experts; e++)
		share[e / size] += load[e];
	for (uint32_t s = 0; s < a_node; s++)
		part[slot[s] / size] += load[slot[s]] / count[slot[s]];
	for (uint32_t g = 0; g < groups; g++)
		part[g] = share[g] > 0 ? fmin(part[g] / share[g], 1) : 0;
}

/**
 * Chance that none of a token's experts is on a node: it takes `limit` groups, each set of them
 * with a chance that goes with the product of their shares, and topk / limit experts in each. Both
 * sums over sets are elementary symmetric polynomials.
 */
static double misses(uint32_t groups, uint32_t limit, double topk, const double *part,
	const double *share, double *all, double *missed)
{
	for (uint32_t m = 0; m <= limit; m++)
		all[m] = missed[m] = m == 0;
	for (uint32_t g = 0; g < groups; g++) {
		double x = share[g] * pow(1 - part[g], topk / limit);

		for (uint32_t m = limit; m > 0; m--) {
			all[m] += all[m - 1] * share[g];
			missed[m] += missed[m - 1] * x;
		}
	}
	return all[limit] > 0 ? missed[limit] / all[limit] : 1;
}

double moetap_plan_copies(const struct moetap_plan *plan, uint32_t layer, const double *load,
	const struct moetap_gate *gate)
{
	uint32_t experts = moetap_plan_experts(plan);
	struct moetap_shape shape;
	double *room, copies = 0, sum = 0;

	if (layer >= moetap_plan_layers(plan) || gate->groups == 0 || experts % gate->groups != 0 ||
		gate->limit == 0 || gate->limit > gate->groups || gate->topk < gate->limit ||
		gate->topk > experts / gate->groups * gate->limit)
		return NAN;
	for (uint32_t e = 0; e < experts; e++)
		sum += load[e];
	room = malloc((2 * (size_t)gate->groups + 2 * ((size_t)gate->limit + 1)) * sizeof(*room));
	if (room == NULL || !(sum > 0)) {
		free(room);
		return NAN;
	}
	moetap_plan_shape(plan, &shape);
	for (uint32_t n = 0; n < shape.nodes; n++) {
		double *part = room, *share = part + gate->groups, *all = share + gate->groups;

		parts(plan, layer, load, n, gate->groups, part, share);
		for (uint32_t g = 0; g < gate->groups; g++)
			share[g] /= sum;
		copies += 1 - misses(gate->groups, gate->limit, gate->topk, part, share, all,
				      all + gate->limit + 1);
	}
	free(room);
	/* Its own node is as likely as any: to that one it crosses nothing. */
	return copies * (shape.nodes - 1) / shape.nodes;
}
