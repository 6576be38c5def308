/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `eplb`: the balancer that DeepSeek describes in github.com/deepseek-ai/EPLB, as the yardstick.
 * (1) Groups are packed evenly to nodes; (2) inside each node, replicas are granted one at a time
 * to the expert with the most load a replica; (3) the replicas are packed evenly to the node's
 * ranks. Without groups all of it happens as on one node. It may put two replicas of an expert on
 * one rank.
 *
 * The three steps are functions of their own, because the policy `moetap` starts from them.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>

struct weighted {
	double weight;
	uint32_t index;
};

static int heavier_first(const void *a, const void *b)
{
	const struct weighted *x = a, *y = b;

	if (x->weight != y->weight)
		return x->weight > y->weight ? -1 : 1;
	return x->index < y->index ? -1 : 1;
}

int mtl_order_falling(uint32_t n, const double *weight, uint32_t *order)
{
	struct weighted *items = malloc(n * sizeof(*items));

	if (items == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		items[i] = (struct weighted){weight[i], i};
	qsort(items, n, sizeof(*items), heavier_first);
	for (uint32_t i = 0; i < n; i++)
		order[i] = items[i].index;
	free(items);
	return 0;
}

/** The lightest pack that has room. */
static uint32_t lightest(
	const double *weight, const uint32_t *filled, uint32_t packs, uint32_t room)
{
	uint32_t best = packs;

	for (uint32_t p = 0; p < packs; p++) {
		if (filled[p] < room && (best == packs || weight[p] < weight[best]))
			best = p;
	}
	return best;
}

int mtl_pack_evenly(uint32_t n, const double *weight, uint32_t packs, uint32_t *place)
{
	uint32_t *order = malloc(n * sizeof(*order));
	uint32_t *filled = calloc(packs, sizeof(*filled));
	double *sum = calloc(packs, sizeof(*sum));
	int ret = -ENOMEM;

	if (order == NULL || filled == NULL || sum == NULL)
		goto out;
	ret = mtl_order_falling(n, weight, order);
	/* One item a pack: nothing to choose, so every item stays where it is. */
	for (uint32_t i = 0; i < n && n == packs; i++)
		order[i] = i;
	for (uint32_t i = 0; i < n && ret == 0; i++) {
		uint32_t item = order[i];
		uint32_t pack = n == packs ? i : lightest(sum, filled, packs, n / packs);

		place[item] = pack * (n / packs) + filled[pack]++;
		sum[pack] += weight[item];
	}
out:
	free(order);
	free(filled);
	free(sum);
	return ret;
}

void mtl_replicate(uint32_t n, const double *load, uint32_t total, uint32_t most, uint32_t *replica,
	uint32_t *count, double *each)
{
	for (uint32_t e = 0; e < n; e++) {
		replica[e] = e;
		count[e] = 1;
		each[e] = load[e];
	}
	for (uint32_t i = n; i < total; i++) {
		uint32_t best = n;

		for (uint32_t e = 0; e < n; e++) {
			if (count[e] < most && (best == n || each[e] > each[best]))
				best = e;
		}
		replica[i] = best;
		count[best]++;
		each[best] = load[best] / count[best];
	}
}

uint32_t mtl_task_nodes(const struct task *task)
{
	return task->hierarchical ? task->shape.nodes : 1;
}

int mtl_pack_groups(const struct task *task, uint32_t *expert)
{
	uint32_t groups = task->hierarchical ? task->shape.groups : 1;
	uint32_t size = task->experts / groups;
	uint32_t *place = malloc(groups * sizeof(*place));
	double *weight = calloc(groups, sizeof(*weight));
	int ret = -ENOMEM;

	if (place == NULL || weight == NULL)
		goto out;
	for (uint32_t e = 0; e < task->experts; e++)
		weight[e / size] += mtl_part(task->activated, task->load[e], 1);
	ret = mtl_pack_evenly(groups, weight, mtl_task_nodes(task), place);
	for (uint32_t e = 0; e < task->experts && ret == 0; e++)
		expert[place[e / size] * size + e % size] = e;
out:
	free(place);
	free(weight);
	return ret;
}

/** Steps 2 and 3 for one node, whose experts are `expert[n]`. */
static int plan_node(const struct task *task, const uint32_t *expert, uint32_t n, uint32_t *slot)
{
	uint32_t nodes = mtl_task_nodes(task);
	uint32_t slots = task->shape.slots / nodes, ranks = task->shape.ranks / nodes;
	uint32_t *integers = malloc((n + 2 * (size_t)slots) * sizeof(*integers));
	double *load = malloc((2 * n + (size_t)slots) * sizeof(*load));
	uint32_t *count = integers, *replica = count + n, *place = replica + slots;
	double *each = load + n, *weight = each + n;
	int ret = -ENOMEM;

	if (integers == NULL || load == NULL)
		goto out;
	for (uint32_t i = 0; i < n; i++)
		load[i] = task->load[expert[i]];
	mtl_replicate(n, load, slots, slots, replica, count, each);
	for (uint32_t s = 0; s < slots; s++)
		weight[s] = each[replica[s]];
	ret = mtl_pack_evenly(slots, weight, ranks, place);
	for (uint32_t s = 0; s < slots && ret == 0; s++)
		slot[place[s]] = expert[replica[s]];
out:
	free(integers);
	free(load);
	return ret;
}

static int plan(const struct task *task, uint32_t *slot_expert)
{
	uint32_t nodes = mtl_task_nodes(task), n = task->experts / nodes;
	uint32_t *expert = malloc(task->experts * sizeof(*expert));
	int ret;

	if (expert == NULL)
		return -ENOMEM;
	ret = mtl_pack_groups(task, expert);
	for (uint32_t i = 0; i < nodes && ret == 0; i++)
		ret = plan_node(task, expert + (size_t)i * n, n,
			slot_expert + (size_t)i * (task->shape.slots / nodes));
	free(expert);
	return ret;
}

const struct planner mtl_planner_eplb = {
	.name = "eplb",
	.title = "DeepSeek's EPLB, for comparison; may put two replicas of an expert on a rank",
	.plan = plan,
	.doubles = true,
};
