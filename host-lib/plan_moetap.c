/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `moetap`, the default policy. It starts as EPLB does, but never puts two replicas of an expert
 * on a rank, and then searches (plan_node.c). Where EPLB keeps the rule by itself, the start is
 * EPLB's plan, so the outcome is never worse. With groups, a second packing of groups to nodes,
 * improved by swapping groups, competes with EPLB's. Where a placement is in force, one near it is
 * taken instead if it is nearly as even (plan_stay.c).
 */
#include "plan_node.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- groups and nodes ---- */

/** Plans every node for the given experts of each. `most` gets the load of the busiest rank. */
static int plan_nodes(const struct task *task, struct node *d, const uint32_t *expert,
	uint32_t *slot_expert, double *most)
{
	int ret;

	*most = 0;
	for (uint32_t i = 0; i < mtl_task_nodes(task); i++) {
		const uint32_t *mine = expert + (size_t)i * d->experts;

		for (uint32_t e = 0; e < d->experts; e++)
			d->load[e] = task->load[mine[e]];
		ret = mtl_node_start(d);
		if (ret < 0)
			return ret;
		*most = fmax(*most, mtl_node_search_kicked(d));
		for (uint32_t s = 0; s < d->slots; s++)
			slot_expert[(size_t)i * d->slots + s] = mine[d->best[s]];
	}
	return 0;
}

/** Load of the group that stands at place p. */
static double group_load(const struct task *task, const uint32_t *expert, uint32_t p)
{
	uint32_t size = task->experts / task->shape.groups;
	double sum = 0;

	for (uint32_t e = p * size; e < (p + 1) * size; e++)
		sum += task->load[expert[e]];
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

/** Improves a packing of groups to nodes by swaps. Returns whether it changed, or -ENOMEM. */
static int improve_groups(const struct task *task, uint32_t *expert)
{
	uint32_t groups = task->shape.groups, a_node = groups / task->shape.nodes;
	double *node = calloc(task->shape.nodes, sizeof(*node));
	int changed = 0;
	bool again = true;

	if (node == NULL)
		return -ENOMEM;
	for (uint32_t p = 0; p < groups; p++)
		node[p / a_node] += group_load(task, expert, p);
	/* Each round of swaps lowers the sum of squares of node loads; groups bound the rounds. */
	for (uint32_t round = 0; round < groups && again; round++) {
		again = false;
		for (uint32_t p = 0; p < groups; p++) {
			for (uint32_t q = p + 1; q < groups; q++)
				again |= improve_pair(task, expert, node, p, q);
		}
		changed |= again;
	}
	free(node);
	return changed;
}

/** Plans with EPLB's packing of groups, and with an improved one if there is one. `most` gets the
 * load of the busiest rank. */
static int plan_packings(const struct task *task, struct node *d, uint32_t *expert,
	uint32_t *slot_expert, double *most)
{
	uint32_t *other;
	double other_most;
	int ret;

	ret = mtl_pack_groups(task, expert);
	if (ret == 0)
		ret = plan_nodes(task, d, expert, slot_expert, most);
	if (ret < 0 || mtl_task_nodes(task) == 1)
		return ret;
	ret = improve_groups(task, expert);
	if (ret <= 0)
		return ret;
	other = malloc(task->shape.slots * sizeof(*other));
	if (other == NULL)
		return -ENOMEM;
	ret = plan_nodes(task, d, expert, other, &other_most);
	if (ret == 0 && other_most < *most) {
		memcpy(slot_expert, other, task->shape.slots * sizeof(*other));
		*most = other_most;
	}
	free(other);
	return ret;
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

static int plan(const struct task *given, uint32_t *slot_expert)
{
	uint32_t *expert = malloc(given->experts * sizeof(*expert));
	struct task task = *given;
	struct node d;
	double *flat, most;
	int ret;

	if (expert == NULL || flatten(&task, &flat) < 0) {
		free(expert);
		return -ENOMEM;
	}
	ret = mtl_node_new(&d, &task);
	if (ret == 0) {
		ret = plan_packings(&task, &d, expert, slot_expert, &most);
		if (ret == 0 && task.current != NULL)
			ret = mtl_plan_stay(&task, &d, most, slot_expert);
		mtl_node_free(&d);
	}
	free(flat);
	free(expert);
	return ret;
}

const struct planner mtl_planner_moetap = {
	.name = "moetap",
	.title = "EPLB's start improved by search; one replica of an expert a rank (default)",
	.plan = plan,
	.doubles = false,
};
