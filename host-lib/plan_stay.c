/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Staying near the placement in force. Every slot that gets another expert is weights to be sent,
 * and a plan from scratch moves nearly all of them when loads change by a percent. So the search
 * is also started from what is in force and ends as soon as it is nearly as even.
 */
#include "plan_node.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/** How much heavier than that of a plan from scratch the busiest rank may be for moving little;
 * what little is, of all slots; and how much where it is not. */
#define SLACK 0.008
#define LITTLE 16
#define SLACK_ELSE 0.0005

/** What is needed besides the node. */
struct stay {
	const struct task *task;
	struct node *node;
	uint32_t nodes, group; /**< experts of a group that stays on a node; 1 where none does */
	uint32_t *local;       /**< [experts], index in its node, LACKING: in none yet */
	uint32_t *mine;	       /**< [experts of a node] */
	uint32_t *slot;	       /**< [slots of a node], local */
	uint32_t *out;	       /**< [slots] */
};

#define LACKING UINT32_MAX

/** Finds the experts of node `n` in the placement in force. @return whether they can be kept:
 * as many as a plan has, none on two nodes, whole groups, none twice on a rank */
static bool look_at(struct stay *y, uint32_t n)
{
	const struct node *d = y->node;
	const uint32_t *current = y->task->current + (size_t)n * d->slots;
	uint32_t found = 0;

	for (uint32_t s = 0; s < d->slots; s++) {
		uint32_t e = current[s], from = s / d->per_rank * d->per_rank;

		for (uint32_t t = from; t < s; t++)
			if (current[t] == e)
				return false;
		if (y->local[e] == LACKING) {
			if (found == d->experts)
				return false;
			y->local[e] = found;
			y->mine[found++] = e;
		} else if (y->local[e] >= found || y->mine[y->local[e]] != e) {
			return false; /* of another node */
		}
		y->slot[s] = y->local[e];
	}
	for (uint32_t i = 0; i < found; i++) {
		uint32_t first = y->mine[i] / y->group * y->group;

		for (uint32_t e = first; e < first + y->group; e++)
			if (y->local[e] >= found || y->mine[y->local[e]] != e)
				return false;
	}
	return found == d->experts;
}

/** @return whether every node was brought under `enough` */
static bool search_near(struct stay *y, double enough)
{
	struct node *d = y->node;

	memset(y->local, 0xff, y->task->experts * sizeof(*y->local));
	for (uint32_t n = 0; n < y->nodes; n++) {
		if (!look_at(y, n))
			return false;
		for (uint32_t e = 0; e < d->experts; e++)
			d->load[e] = y->task->load[y->mine[e]];
		mtl_node_set(d, y->slot);
		if (mtl_node_search(d, enough) > enough)
			return false;
		for (uint32_t s = 0; s < d->slots; s++)
			y->out[(size_t)n * d->slots + s] = y->mine[d->slot[s]];
	}
	return true;
}

/** Whether a placement that was found near moves little. */
static bool moves_little(const struct stay *y)
{
	uint32_t slots = y->task->shape.slots, per_rank = y->node->per_rank, moves = 0;

	for (uint32_t s = 0; s < slots; s++) {
		const uint32_t *there = y->task->current + s / per_rank * per_rank;
		bool stays = false;

		for (uint32_t t = 0; t < per_rank; t++)
			stays |= there[t] == y->out[s];
		moves += !stays;
	}
	return moves <= slots / LITTLE;
}

/* ---- the order of ranks ---- */

/** Experts of `a[slots]` that `b[slots]` has too. */
static uint32_t common(const uint32_t *a, const uint32_t *b, uint32_t slots)
{
	uint32_t n = 0;

	for (uint32_t s = 0; s < slots; s++)
		for (uint32_t t = 0; t < slots; t++)
			if (a[s] == b[t]) {
				n++;
				break;
			}
	return n;
}

/** A place for a part of the plan. */
struct match {
	uint32_t common, part, place;
};

static int most_common_first(const void *a, const void *b)
{
	const struct match *x = a, *y = b;

	if (x->common != y->common)
		return x->common > y->common ? -1 : 1;
	if (x->part != y->part)
		return x->part < y->part ? -1 : 1;
	return x->place < y->place ? -1 : 1;
}

/**
 * Orders `parts` parts (nodes, ranks) of `each` slots of a plan, so that they have much in common
 * with what is in force at their place: those that have the most first.
 */
static int order_parts(uint32_t *slot, const uint32_t *current, uint32_t parts, uint32_t each)
{
	struct match *m = malloc((size_t)parts * parts * sizeof(*m));
	uint32_t *moved = malloc((size_t)parts * each * sizeof(*moved));
	bool *used = calloc(2 * (size_t)parts, sizeof(*used)); /* parts, places */
	size_t n = 0;

	for (uint32_t i = 0; m != NULL && i < parts; i++)
		for (uint32_t k = 0; k < parts; k++)
			m[n++] = (struct match){
				common(slot + (size_t)i * each, current + (size_t)k * each, each),
				i, k};
	if (m == NULL || moved == NULL || used == NULL) {
		free(m);
		free(moved);
		free(used);
		return -ENOMEM;
	}
	qsort(m, n, sizeof(*m), most_common_first);
	for (size_t i = 0; i < n; i++) {
		if (used[m[i].part] || used[parts + m[i].place])
			continue;
		used[m[i].part] = used[parts + m[i].place] = true;
		memcpy(moved + (size_t)m[i].place * each, slot + (size_t)m[i].part * each,
			each * sizeof(*slot));
	}
	memcpy(slot, moved, (size_t)parts * each * sizeof(*slot));
	free(m);
	free(moved);
	free(used);
	return 0;
}

static int order_ranks(const struct task *task, const struct node *d, uint32_t *slot)
{
	uint32_t nodes = mtl_task_nodes(task);
	int ret = nodes > 1 ? order_parts(slot, task->current, nodes, d->slots) : 0;

	for (uint32_t n = 0; n < nodes && ret == 0; n++)
		ret = order_parts(slot + (size_t)n * d->slots, task->current + (size_t)n * d->slots,
			d->ranks, d->per_rank);
	return ret;
}

int mtl_plan_stay(const struct task *task, struct node *d, double most, uint32_t *slot_expert)
{
	size_t room = task->experts + d->experts + (size_t)d->slots + task->shape.slots;
	struct stay y = {.task = task,
		.node = d,
		.nodes = mtl_task_nodes(task),
		.group = task->hierarchical ? task->experts / task->shape.groups : 1,
		.local = malloc(room * sizeof(uint32_t))};
	int ret = 0;

	if (y.local == NULL)
		return -ENOMEM;
	y.mine = y.local + task->experts;
	y.slot = y.mine + d->experts;
	y.out = y.slot + d->slots;
	if ((search_near(&y, most * (1 + SLACK)) && moves_little(&y)) ||
		search_near(&y, most * (1 + SLACK_ELSE)))
		memcpy(slot_expert, y.out, task->shape.slots * sizeof(*slot_expert));
	else
		ret = order_ranks(task, d, slot_expert);
	free(y.local);
	return ret;
}
