/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which replica a token takes. Every replica of an expert gets the same part of its tokens, so that
 * ranks are as even as the plan says; within that, tokens stay on their node as far as they can.
 * For one expert that is the transportation problem with costs 0 and 1: what fits on the own node
 * first, the rest evenly to the room that is left, is its optimum.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** One expert of a layer. */
struct split {
	const struct moetap_shape *shape;
	const uint32_t *slot; /**< [n], of its replicas */
	uint32_t n;
	const double
		*from; /**< [nodes], its tokens by source; one node is `stride` from the next */
	uint32_t stride;
	double *room;	/**< [n], tokens that a replica may still get */
	double *weight; /**< [nodes][slots], of the layer */
};

static double *weight_of(const struct split *x, uint32_t node, uint32_t replica)
{
	return &x->weight[(size_t)node * x->shape->slots + x->slot[replica]];
}

/** Gives tokens to replicas on their own node. */
static void stay_home(const struct split *x, uint32_t node)
{
	uint32_t a_node = x->shape->slots / x->shape->nodes;
	double tokens = x->from[(size_t)node * x->stride];

	for (uint32_t i = 0; i < x->n; i++) {
		double here = x->slot[i] / a_node == node ? fmin(tokens, x->room[i]) : 0;

		*weight_of(x, node, i) = here;
		x->room[i] -= here;
		tokens -= here;
	}
}

/** Gives the tokens of a node that are left to all that have room, `left` in all, and turns tokens
 * into parts of 1. */
static void go_away(const struct split *x, uint32_t node, double left)
{
	double all = x->from[(size_t)node * x->stride], tokens = all;

	for (uint32_t i = 0; i < x->n; i++)
		tokens -= *weight_of(x, node, i);
	for (uint32_t i = 0; i < x->n; i++) {
		double *w = weight_of(x, node, i);

		if (left > 0)
			*w += fmax(tokens, 0) * x->room[i] / left;
		*w = all > 0 ? *w / all : 1.0 / x->n;
	}
}

static void split_expert(const struct split *x)
{
	double sum = 0, left = 0;

	for (uint32_t k = 0; k < x->shape->nodes; k++)
		sum += x->from[(size_t)k * x->stride];
	for (uint32_t i = 0; i < x->n; i++)
		x->room[i] = sum / x->n;
	for (uint32_t k = 0; k < x->shape->nodes; k++)
		stay_home(x, k);
	for (uint32_t i = 0; i < x->n; i++)
		left += x->room[i];
	for (uint32_t k = 0; k < x->shape->nodes; k++)
		go_away(x, k, left);
}

int moetap_plan_split(
	const struct moetap_plan *plan, uint32_t layer, const double *from, double *weight)
{
	uint32_t experts = moetap_plan_experts(plan), n;
	struct moetap_shape shape;
	const uint32_t *slots;
	uint32_t *mine;
	double *room;

	if (layer >= moetap_plan_layers(plan))
		return -EINVAL;
	moetap_plan_shape(plan, &shape);
	slots = moetap_plan_slots(plan) + (size_t)layer * shape.slots;
	mine = malloc(shape.slots * sizeof(*mine));
	room = malloc(shape.slots * sizeof(*room));
	if (mine == NULL || room == NULL) {
		free(mine);
		free(room);
		return -ENOMEM;
	}
	for (uint32_t e = 0; e < experts; e++) {
		n = 0;
		for (uint32_t s = 0; s < shape.slots; s++)
			if (slots[s] == e)
				mine[n++] = s;
		split_expert(&(struct split){.shape = &shape,
			.slot = mine,
			.n = n,
			.from = from + e,
			.stride = experts,
			.room = room,
			.weight = weight});
	}
	free(mine);
	free(room);
	return 0;
}

double moetap_plan_between(
	const struct moetap_plan *plan, uint32_t layer, const double *from, const double *weight)
{
	uint32_t experts = moetap_plan_experts(plan);
	struct moetap_shape shape;
	const uint32_t *slots;
	double between = 0;

	moetap_plan_shape(plan, &shape);
	slots = moetap_plan_slots(plan) + (size_t)layer * shape.slots;
	for (uint32_t k = 0; k < shape.nodes; k++)
		for (uint32_t s = 0; s < shape.slots; s++)
			if (s / (shape.slots / shape.nodes) != k)
				between += from[(size_t)k * experts + slots[s]] *
					   weight[(size_t)k * shape.slots + s];
	return between;
}
