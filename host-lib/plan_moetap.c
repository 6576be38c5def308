/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `moetap`, the default policy. It starts as EPLB does, but never puts two replicas of an expert
 * on a rank, and then searches (plan_node.c). Where EPLB keeps the rule by itself, the start is
 * EPLB's plan, so the outcome is never worse. With groups, other packings of groups to nodes
 * compete with EPLB's: one improved by swapping groups, and those a swap away from the best. Where a
 * placement is in force, one near it is taken instead if it is nearly as even (plan_stay.c).
 */
#include "plan_node.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Packings of groups to nodes that are tried beside EPLB's and the improved one: so many slots'
 * worth in all, but not more than TRIES_MOST. */
#define TRIED_SLOTS 16384
#define TRIES_MOST 64
/** And only those that may make the busiest rank so much lighter. */
#define WORTH 1.001

/** A packing of groups to nodes, and the best one so far. */
struct packing {
	uint32_t *expert; /**< [experts], those of the first node first, group by group */
	uint32_t *best;	  /**< [experts], the same of the best plan so far */
	uint32_t *slot;	  /**< [slots], expert */
	uint32_t *order;  /**< [nodes] */
	double *load;	  /**< [nodes] */
	double most;	  /**< load of the busiest rank of the best plan; INFINITY: none yet */
};

/* ---- groups and nodes ---- */

/** Load of every node, [nodes]. */
static void load_nodes(const struct task *task, const uint32_t *expert, double *load)
{
	uint32_t nodes = mtl_task_nodes(task), a_node = task->experts / nodes;

	memset(load, 0, nodes * sizeof(*load));
	for (uint32_t e = 0; e < task->experts; e++)
		load[e / a_node] += mtl_part(task->activated, task->load[expert[e]], 1);
}

/** Plans one node, from one start or, for activated experts, the better of both: cold replicas cost
 * least, but an expert that is nearly all of a node's load needs some. `slot[slots]` gets experts of
 * the node. @return load of its busiest rank, or -ENOMEM */
static double plan_node(struct node *d, double enough, uint32_t *slot)
{
	double best = INFINITY, most;

	for (int cold = d->activated; cold >= 0; cold--) {
		int ret = mtl_node_start(d, cold);

		if (ret < 0)
			return ret;
		most = mtl_node_search_kicked(d, enough);
		if (most >= best)
			continue;
		best = most;
		memcpy(slot, d->best, d->slots * sizeof(*slot));
	}
	return best;
}

/** Plans every node for the given experts of each, the busiest first: the others need not be more
 * even than it. Gives up once a rank has `limit`. `most` gets the load of the busiest rank. */
static int plan_nodes(const struct task *task, struct node *d, const struct packing *x,
	double limit, double *most)
{
	uint32_t nodes = mtl_task_nodes(task);
	double busiest;
	int ret;

	load_nodes(task, x->expert, x->load);
	ret = mtl_order_falling(nodes, x->load, x->order);
	*most = 0;
	for (uint32_t i = 0; i < nodes && ret == 0 && *most < limit; i++) {
		const uint32_t *mine = x->expert + (size_t)x->order[i] * d->experts;
		uint32_t *slot = x->slot + (size_t)x->order[i] * d->slots;

		for (uint32_t e = 0; e < d->experts; e++)
			d->load[e] = task->load[mine[e]];
		busiest = plan_node(d, *most, slot);
		if (busiest < 0)
			ret = (int)busiest;
		*most = fmax(*most, busiest);
		for (uint32_t s = 0; s < d->slots && ret == 0; s++)
			slot[s] = mine[slot[s]];
	}
	return ret;
}

/** Load of the group that stands at place p. */
static double group_load(const struct task *task, const uint32_t *expert, uint32_t p)
{
	uint32_t size = task->experts / task->shape.groups;
	double sum = 0;

	for (uint32_t e = p * size; e < (p + 1) * size; e++)
		sum += mtl_part(task->activated, task->load[expert[e]], 1);
	return sum;
}

static void swap_groups(const struct task *task, uint32_t *expert, uint32_t p, uint32_t q)
{
	uint32_t size = task->experts / task->shape.groups;

	for (uint32_t e = 0; e < size; e++) {
		uint32_t moved = expert[p * size + e];

		expert[p * size + e] = expert[q * size + e];
		expert[q * size + e] = moved;
	}
}

/** Swaps two groups of different nodes if that makes the busier of the two nodes lighter. */
static bool improve_pair(
	const struct task *task, uint32_t *expert, double *node, uint32_t p, uint32_t q)
{
	uint32_t a_node = task->shape.groups / task->shape.nodes;
	uint32_t i = p / a_node, j = q / a_node;
	double less = group_load(task, expert, p) - group_load(task, expert, q);

	if (i == j || fmax(node[i] - less, node[j] + less) >= fmax(node[i], node[j]) * LIGHTER)
		return false;
	swap_groups(task, expert, p, q);
	node[i] -= less;
	node[j] += less;
	return true;
}

/** Improves a packing of groups to nodes by swaps. @return whether it changed */
static bool improve_groups(const struct task *task, uint32_t *expert, double *node)
{
	uint32_t groups = task->shape.groups;
	bool again = true, changed = false;

	load_nodes(task, expert, node);
	/* Each round of swaps lowers the sum of squares of node loads; groups bound the rounds. */
	for (uint32_t round = 0; round < groups && again; round++) {
		again = false;
		for (uint32_t p = 0; p < groups; p++) {
			for (uint32_t q = p + 1; q < groups; q++)
				again |= improve_pair(task, expert, node, p, q);
		}
		changed |= again;
	}
	return changed;
}

/** Plans a packing, and keeps the plan if it is the most even so far. */
static int try_packing(
	const struct task *task, struct node *d, struct packing *x, uint32_t *slot_expert)
{
	double most;
	int ret = plan_nodes(task, d, x, x->most, &most);

	if (ret < 0 || most >= x->most * LIGHTER)
		return ret;
	x->most = most;
	memcpy(x->best, x->expert, task->experts * sizeof(*x->best));
	memcpy(slot_expert, x->slot, task->shape.slots * sizeof(*slot_expert));
	return 0;
}

/** Whether a packing may do much better than the best so far: the busiest rank of a node has more
 * than the mean. */
static bool promises(const struct task *task, const struct packing *x)
{
	uint32_t nodes = mtl_task_nodes(task);

	load_nodes(task, x->expert, x->load);
	for (uint32_t n = 0; n < nodes; n++)
		if (x->load[n] / (task->shape.ranks / nodes) * WORTH >= x->most)
			return false;
	return true;
}

/** Tries packings that differ from the best so far in two groups. Nodes with equal loads differ in
 * how well they can be split over ranks. */
static int try_swaps(
	const struct task *task, struct node *d, struct packing *x, uint32_t *slot_expert)
{
	uint32_t groups = task->shape.groups, a_node = groups / task->shape.nodes;
	uint32_t left = TRIED_SLOTS / task->shape.slots;
	double before = INFINITY;
	int ret = 0;

	left = left < TRIES_MOST ? left : TRIES_MOST;
	while (x->most < before * LIGHTER) {
		before = x->most;
		for (uint32_t p = 0; p < groups; p++) {
			for (uint32_t q = (p / a_node + 1) * a_node; q < groups && left > 0; q++) {
				memcpy(x->expert, x->best, task->experts * sizeof(*x->best));
				swap_groups(task, x->expert, p, q);
				if (!promises(task, x))
					continue;
				left--;
				ret = try_packing(task, d, x, slot_expert);
				if (ret < 0)
					return ret;
			}
		}
	}
	return ret;
}

/** Plans with EPLB's packing of groups, with an improved one if there is one, and with others. */
static int plan_packings(
	const struct task *task, struct node *d, struct packing *x, uint32_t *slot_expert)
{
	int ret = mtl_pack_groups(task, x->expert);

	if (ret == 0)
		ret = try_packing(task, d, x, slot_expert);
	if (ret < 0 || mtl_task_nodes(task) == 1 || task->shape.groups == task->shape.nodes)
		return ret;
	if (improve_groups(task, x->expert, x->load))
		ret = try_packing(task, d, x, slot_expert);
	return ret < 0 ? ret : try_swaps(task, d, x, slot_expert);
}

static int packing_new(const struct task *task, struct packing *x)
{
	uint32_t nodes = mtl_task_nodes(task);

	x->most = INFINITY;
	x->expert = malloc((2 * (size_t)task->experts + task->shape.slots + nodes) *
			   sizeof(*x->expert));
	x->load = malloc(nodes * sizeof(*x->load));
	if (x->expert == NULL || x->load == NULL) {
		free(x->expert);
		free(x->load);
		return -ENOMEM;
	}
	x->best = x->expert + task->experts;
	x->slot = x->best + task->experts;
	x->order = x->slot + task->shape.slots;
	return 0;
}

/** A layer without tokens gives no reason to prefer any expert: all count the same. */
static int flatten(struct task *task, double **flat)
{
	double sum = 0;

	*flat = NULL;
	for (uint32_t e = 0; e < task->experts; e++)
		sum += task->load[e];
	if (sum > 0)
		return 0;
	*flat = malloc(task->experts * sizeof(**flat));
	if (*flat == NULL)
		return -ENOMEM;
	for (uint32_t e = 0; e < task->experts; e++)
		(*flat)[e] = 1;
	task->load = *flat;
	return 0;
}

static int plan_flat(const struct task *task, uint32_t *slot_expert)
{
	struct packing x;
	struct node d;
	int ret = packing_new(task, &x);

	if (ret < 0)
		return ret;
	ret = mtl_node_new(&d, task);
	if (ret == 0) {
		ret = plan_packings(task, &d, &x, slot_expert);
		if (ret == 0 && task->current != NULL)
			ret = mtl_plan_stay(task, &d, x.most, slot_expert);
		mtl_node_free(&d);
	}
	free(x.expert);
	free(x.load);
	return ret;
}

static int plan(const struct task *given, uint32_t *slot_expert)
{
	struct task task = *given;
	double *flat;
	int ret = flatten(&task, &flat);

	if (ret == 0)
		ret = plan_flat(&task, slot_expert);
	free(flat);
	return ret;
}

static int plan_experts(const struct task *given, uint32_t *slot_expert)
{
	struct task task = *given;

	task.activated = true;
	return plan(&task, slot_expert);
}

const struct planner mtl_planner_moetap = {
	.name = "moetap",
	.title = "EPLB's start improved by search; one replica of an expert a rank (default)",
	.plan = plan,
	.doubles = false,
};

const struct planner mtl_planner_experts = {
	.name = "experts",
	.title = "the same search for activated experts instead of tokens, for memory-bound decode",
	.plan = plan_experts,
	.doubles = false,
};
