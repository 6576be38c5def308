/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `moetap`, the default policy. It starts as EPLB does, but never puts two replicas of an expert
 * on a rank, and then searches: as long as it makes the busiest rank lighter, swap two slots, or
 * turn a replica of one expert into a replica of another. Where EPLB keeps the rule by itself, the
 * start is EPLB's plan, so the outcome is never worse. Where the search ends far from even, it is
 * kicked: a few arbitrary steps, then the search again, and the better placement stays. With
 * groups, a second packing of groups to nodes, improved by swapping groups, competes with EPLB's.
 * The kicks are pseudo-random from a fixed seed and nothing depends on the clock: equal loads give
 * equal plans.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Steps of the search in a node, for each slot: far more than it takes in practice, so that the
 * time is bounded. */
#define STEPS_A_SLOT 16
/** Kicks: so many slots' worth in all, so that a small node gets more of them, but not more than
 * KICKS_MOST; and no more once the busiest rank is this close to the mean. */
#define KICKED_SLOTS 4096
#define KICKS_MOST 256
#define EVEN 1.001
/** What counts as lighter, relative: above the rounding of sums. */
#define LIGHTER (1 - 1e-12)

/** Placement inside one node (a global plan has one). Experts are numbered in the node. */
struct node {
	uint32_t experts, slots, ranks, per_rank;
	double *load;	   /**< [experts] */
	double *each;	   /**< [experts], load of one replica */
	uint32_t *count;   /**< [experts], replicas */
	uint32_t *slot;	   /**< [slots], expert */
	uint32_t *replica; /**< [slots], experts in order of granting */
	uint32_t *order;   /**< [slots] */
	uint32_t *best;	   /**< [slots], expert: the best placement so far */
	double *weight;	   /**< [slots] */
	double *rank;	   /**< [ranks], load */
	uint32_t *filled;  /**< [ranks], slots used */
	bool *has;	   /**< [ranks][experts] */
};

static void node_free(struct node *d)
{
	free(d->load);
	free(d->count);
	free(d->has);
}

static int node_new(struct node *d, const struct task *task)
{
	uint32_t nodes = mtl_task_nodes(task);

	d->experts = task->experts / nodes;
	d->slots = task->shape.slots / nodes;
	d->ranks = task->shape.ranks / nodes;
	d->per_rank = d->slots / d->ranks;
	d->load = calloc(2 * (size_t)d->experts + d->slots + d->ranks, sizeof(double));
	d->count = calloc(d->experts + 4 * (size_t)d->slots + d->ranks, sizeof(uint32_t));
	d->has = calloc((size_t)d->ranks * d->experts, sizeof(bool));
	if (d->load == NULL || d->count == NULL || d->has == NULL) {
		node_free(d);
		return -ENOMEM;
	}
	d->each = d->load + d->experts;
	d->weight = d->each + d->experts;
	d->rank = d->weight + d->slots;
	d->slot = d->count + d->experts;
	d->replica = d->slot + d->slots;
	d->order = d->replica + d->slots;
	d->best = d->order + d->slots;
	d->filled = d->best + d->slots;
	return 0;
}

static bool *has(const struct node *d, uint32_t rank, uint32_t expert)
{
	return &d->has[(size_t)rank * d->experts + expert];
}

static void set_count(struct node *d, uint32_t expert, uint32_t count)
{
	d->count[expert] = count;
	d->each[expert] = d->load[expert] / count;
}

static void sum_rank(struct node *d, uint32_t rank)
{
	d->rank[rank] = 0;
	for (uint32_t s = 0; s < d->filled[rank]; s++)
		d->rank[rank] += d->each[d->slot[rank * d->per_rank + s]];
}

static uint32_t busiest(const struct node *d)
{
	uint32_t most = 0;

	for (uint32_t r = 1; r < d->ranks; r++) {
		if (d->rank[r] > d->rank[most])
			most = r;
	}
	return most;
}

/* ---- the start ---- */

static void put(struct node *d, uint32_t rank, uint32_t expert)
{
	d->slot[rank * d->per_rank + d->filled[rank]++] = expert;
	d->rank[rank] += d->each[expert];
	*has(d, rank, expert) = true;
}

/**
 * Places a replica when every rank with room holds its expert already: a full rank `to` gives
 * another expert to a rank with room and takes this one. One such pair exists: `to` holds more
 * experts than the rank with room, so at least one that is missing there. The lightest outcome
 * wins.
 */
static void put_by_exchange(struct node *d, uint32_t expert)
{
	uint32_t from = 0, to = 0, at = 0;
	double best = INFINITY;

	while (d->filled[from] == d->per_rank)
		from++;
	for (uint32_t r = 0; r < d->ranks; r++) {
		for (uint32_t s = r * d->per_rank; s < (r + 1) * d->per_rank; s++) {
			double after;

			if (d->filled[r] < d->per_rank || *has(d, r, expert) ||
				*has(d, from, d->slot[s]))
				continue;
			after = d->rank[r] - d->each[d->slot[s]] + d->each[expert];
			after = fmax(after, d->rank[from] + d->each[d->slot[s]]);
			if (after < best) {
				best = after;
				to = r;
				at = s;
			}
		}
	}
	put(d, from, d->slot[at]);
	*has(d, to, d->slot[at]) = false;
	*has(d, to, expert) = true;
	d->slot[at] = expert;
	sum_rank(d, to);
}

/** The heaviest replica first, each to the lightest rank with room that lacks its expert. */
static int start(struct node *d)
{
	int ret;

	memset(d->has, 0, (size_t)d->ranks * d->experts * sizeof(bool));
	memset(d->rank, 0, d->ranks * sizeof(double));
	memset(d->filled, 0, d->ranks * sizeof(uint32_t));
	mtl_replicate(d->experts, d->load, d->slots, d->ranks, d->replica, d->count);
	for (uint32_t e = 0; e < d->experts; e++)
		set_count(d, e, d->count[e]);
	for (uint32_t i = 0; i < d->slots; i++)
		d->weight[i] = d->each[d->replica[i]];
	ret = mtl_order_falling(d->slots, d->weight, d->order);
	for (uint32_t i = 0; i < d->slots && ret == 0; i++) {
		uint32_t expert = d->replica[d->order[i]], best = d->ranks;

		for (uint32_t r = 0; r < d->ranks; r++) {
			if (d->filled[r] < d->per_rank && !*has(d, r, expert) &&
				(best == d->ranks || d->rank[r] < d->rank[best]))
				best = r;
		}
		if (best < d->ranks)
			put(d, best, expert);
		else
			put_by_exchange(d, expert);
	}
	return ret;
}

/* ---- the search ---- */

/** The best step found so far. */
struct step {
	double most; /**< load of the busiest of the ranks that the step touches, after it */
	uint32_t a;  /**< slot of the busiest rank to swap, or slot to be turned */
	uint32_t b;  /**< other slot, or expert that `a` is turned into */
	bool turn;
};

/** Swaps of a slot of the busiest rank with one of another rank. */
static void look_for_swap(const struct node *d, uint32_t from, struct step *best)
{
	for (uint32_t a = from * d->per_rank; a < (from + 1) * d->per_rank; a++) {
		for (uint32_t b = 0; b < d->slots; b++) {
			uint32_t to = b / d->per_rank;
			double less = d->each[d->slot[a]] - d->each[d->slot[b]];
			double most = fmax(d->rank[from] - less, d->rank[to] + less);

			if (less <= 0 || most >= best->most)
				continue;
			if (*has(d, to, d->slot[a]) || *has(d, from, d->slot[b]))
				continue;
			*best = (struct step){most, a, b, false};
		}
	}
}

/** Load of the busiest rank that would be touched if slot `a` held `expert`; gives up above
 * `limit`. */
static double after_turn(const struct node *d, uint32_t a, uint32_t expert, double limit)
{
	uint32_t old = d->slot[a];
	double gain = d->load[old] / (d->count[old] - 1) - d->each[old];
	double loss = d->each[expert] - d->load[expert] / (d->count[expert] + 1);
	double most = 0;

	for (uint32_t r = 0; r < d->ranks && most < limit; r++) {
		double load = d->rank[r];

		if (r == a / d->per_rank)
			load += d->load[expert] / (d->count[expert] + 1) - d->each[old];
		else if (*has(d, r, old))
			load += gain;
		if (*has(d, r, expert))
			load -= loss;
		else if (r != a / d->per_rank && load <= d->rank[r])
			continue;
		most = fmax(most, load);
	}
	return most;
}

static void try_turn(const struct node *d, uint32_t a, uint32_t expert, struct step *best)
{
	double most;

	if (d->count[d->slot[a]] < 2 || *has(d, a / d->per_rank, expert))
		return;
	most = after_turn(d, a, expert, best->most);
	if (most < best->most)
		*best = (struct step){most, a, expert, true};
}

/** Replicas turned into one of an expert of the busiest rank, or replicas on that rank turned into
 * a lighter one. Either way the busiest rank is touched, so its load after the step counts. */
static void look_for_turn(const struct node *d, uint32_t from, struct step *best)
{
	for (uint32_t s = from * d->per_rank; s < (from + 1) * d->per_rank; s++) {
		for (uint32_t a = 0; a < d->slots; a++)
			try_turn(d, a, d->slot[s], best);
		for (uint32_t e = 0; e < d->experts; e++)
			try_turn(d, s, e, best);
	}
}

static void set_slot(struct node *d, uint32_t s, uint32_t expert)
{
	*has(d, s / d->per_rank, d->slot[s]) = false;
	*has(d, s / d->per_rank, expert) = true;
	d->slot[s] = expert;
}

static void take(struct node *d, const struct step *step)
{
	uint32_t old = d->slot[step->a];

	if (step->turn) {
		set_count(d, old, d->count[old] - 1);
		set_count(d, step->b, d->count[step->b] + 1);
		set_slot(d, step->a, step->b);
		for (uint32_t r = 0; r < d->ranks; r++)
			sum_rank(d, r);
		return;
	}
	set_slot(d, step->a, d->slot[step->b]);
	set_slot(d, step->b, old);
	sum_rank(d, step->a / d->per_rank);
	sum_rank(d, step->b / d->per_rank);
}

/** Every step leaves the touched ranks lighter than the busiest one was, so no placement comes
 * back, and the search ends. */
static void search(struct node *d)
{
	for (uint32_t i = 0; i < STEPS_A_SLOT * d->slots; i++) {
		uint32_t from = busiest(d);
		const double limit = d->rank[from] * LIGHTER;
		struct step best = {.most = limit};

		look_for_swap(d, from, &best);
		if (best.most >= limit)
			look_for_turn(d, from, &best);
		if (best.most >= limit)
			return;
		take(d, &best);
	}
}

/** Makes `slot_expert` the placement again. */
static void restore(struct node *d, const uint32_t *slot_expert)
{
	memset(d->has, 0, (size_t)d->ranks * d->experts * sizeof(bool));
	memset(d->count, 0, d->experts * sizeof(uint32_t));
	memcpy(d->slot, slot_expert, d->slots * sizeof(uint32_t));
	for (uint32_t s = 0; s < d->slots; s++) {
		d->count[d->slot[s]]++;
		*has(d, s / d->per_rank, d->slot[s]) = true;
	}
	for (uint32_t e = 0; e < d->experts; e++)
		set_count(d, e, d->count[e]);
	for (uint32_t r = 0; r < d->ranks; r++)
		sum_rank(d, r);
}

/** Pseudo-random number below n (xorshift32; n is small, so the bias does not matter). */
static uint32_t pick(uint32_t *seed, uint32_t n)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed % n;
}

/** An arbitrary step that keeps the rule, if the one picked does. */
static void kick(struct node *d, uint32_t *seed)
{
	uint32_t a = pick(seed, d->slots), b = pick(seed, d->slots), e = pick(seed, d->experts);
	uint32_t rank_a = a / d->per_rank, rank_b = b / d->per_rank;

	if (d->count[d->slot[a]] > 1 && !*has(d, rank_a, e))
		take(d, &(struct step){.a = a, .b = e, .turn = true});
	else if (!*has(d, rank_a, d->slot[b]) && !*has(d, rank_b, d->slot[a]))
		take(d, &(struct step){.a = a, .b = b});
}

/** The whole search in a node. Leaves the best placement in d->best and returns the load of its
 * busiest rank. */
static double search_kicked(struct node *d)
{
	uint32_t kicks = KICKED_SLOTS / d->slots, seed = 1;
	double best, mean = 0;

	search(d);
	best = d->rank[busiest(d)];
	memcpy(d->best, d->slot, d->slots * sizeof(uint32_t));
	for (uint32_t r = 0; r < d->ranks; r++)
		mean += d->rank[r] / d->ranks;
	if (kicks > KICKS_MOST)
		kicks = KICKS_MOST;
	for (uint32_t i = 0; i < kicks && best > EVEN * mean; i++) {
		for (uint32_t k = 0; k < 2 + i % 3; k++)
			kick(d, &seed);
		search(d);
		if (d->rank[busiest(d)] <= best) {
			best = d->rank[busiest(d)];
			memcpy(d->best, d->slot, d->slots * sizeof(uint32_t));
		} else {
			restore(d, d->best);
		}
	}
	return best;
}

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
		ret = start(d);
		if (ret < 0)
			return ret;
		*most = fmax(*most, search_kicked(d));
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

/** Plans with EPLB's packing of groups, and with an improved one if there is one. */
static int plan_packings(
	const struct task *task, struct node *d, uint32_t *expert, uint32_t *slot_expert)
{
	uint32_t *other;
	double most, other_most;
	int ret;

	ret = mtl_pack_groups(task, expert);
	if (ret == 0)
		ret = plan_nodes(task, d, expert, slot_expert, &most);
	if (ret < 0 || mtl_task_nodes(task) == 1)
		return ret;
	ret = improve_groups(task, expert);
	if (ret <= 0)
		return ret;
	other = malloc(task->shape.slots * sizeof(*other));
	if (other == NULL)
		return -ENOMEM;
	ret = plan_nodes(task, d, expert, other, &other_most);
	if (ret == 0 && other_most < most)
		memcpy(slot_expert, other, task->shape.slots * sizeof(*other));
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
	double *flat;
	int ret;

	if (expert == NULL || flatten(&task, &flat) < 0) {
		free(expert);
		return -ENOMEM;
	}
	ret = node_new(&d, &task);
	if (ret == 0) {
		ret = plan_packings(&task, &d, expert, slot_expert);
		node_free(&d);
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
