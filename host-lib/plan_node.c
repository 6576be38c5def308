/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The search: as long as it makes the busiest rank lighter, swap two slots, or turn a replica of
 * one expert into a replica of another. Where it ends far from even, it is kicked: a few arbitrary
 * steps, then the search again, and the better placement stays. The kicks are pseudo-random from a
 * fixed seed and nothing depends on the clock: equal loads give equal plans.
 */
#include "plan_node.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Steps of the search in a node, for each slot: far more than it takes in practice, so that the
 * time is bounded. */
#define STEPS_A_SLOT 16
/** The search ends once the busiest rank is this close to the mean: less than loads change from
 * step to step. */
#define EVEN 1.0005
/** Kicks: so many slots' worth in all, so that a small node gets more of them, but not more than
 * KICKS_MOST. */
#define KICKED_SLOTS 4096
#define KICKS_MOST 256

void mtl_node_free(struct node *d)
{
	free(d->load);
	free(d->count);
	free(d->has);
}

int mtl_node_new(struct node *d, const struct task *task)
{
	uint32_t nodes = mtl_task_nodes(task);

	d->experts = task->experts / nodes;
	d->slots = task->shape.slots / nodes;
	d->ranks = task->shape.ranks / nodes;
	d->per_rank = d->slots / d->ranks;
	d->activated = task->activated;
	d->load = calloc(4 * (size_t)d->experts + d->slots + d->ranks, sizeof(double));
	d->count = calloc(2 * (size_t)d->experts + 6 * (size_t)d->slots + d->ranks, sizeof(uint32_t));
	d->has = calloc((size_t)d->ranks * d->experts, sizeof(bool));
	if (d->load == NULL || d->count == NULL || d->has == NULL) {
		mtl_node_free(d);
		return -ENOMEM;
	}
	d->each = d->load + d->experts;
	d->fewer = d->each + d->experts;
	d->further = d->fewer + d->experts;
	d->weight = d->further + d->experts;
	d->rank = d->weight + d->slots;
	d->slot = d->count + d->experts;
	d->replica = d->slot + d->slots;
	d->order = d->replica + d->slots;
	d->best = d->order + d->slots;
	d->filled = d->best + d->slots;
	d->first = d->filled + d->ranks;
	d->next = d->first + d->experts;
	d->home = d->next + d->slots;
	for (uint32_t s = 0; s < d->slots; s++)
		d->home[s] = s / d->per_rank;
	return 0;
}

/** End of a list of slots. */
#define NONE UINT32_MAX

static bool *has(const struct node *d, uint32_t rank, uint32_t expert)
{
	return &d->has[(size_t)rank * d->experts + expert];
}

/** fmax() is a call, and no load is NaN. */
static inline double larger(double a, double b)
{
	return a > b ? a : b;
}

/** Puts an expert into a slot that has none. */
static void fill(struct node *d, uint32_t s, uint32_t expert)
{
	d->slot[s] = expert;
	d->next[s] = d->first[expert];
	d->first[expert] = s;
	*has(d, d->home[s], expert) = true;
}

/** Puts an expert into a slot in place of another. */
static void set_slot(struct node *d, uint32_t s, uint32_t expert)
{
	uint32_t *link = &d->first[d->slot[s]];

	while (*link != s)
		link = &d->next[*link];
	*link = d->next[s];
	*has(d, d->home[s], d->slot[s]) = false;
	fill(d, s, expert);
}

static void clear(struct node *d)
{
	memset(d->has, 0, (size_t)d->ranks * d->experts * sizeof(bool));
	memset(d->first, 0xff, d->experts * sizeof(uint32_t)); /* NONE */
}

static void set_count(struct node *d, uint32_t expert, uint32_t count)
{
	d->count[expert] = count;
	d->each[expert] = mtl_part(d->activated, d->load[expert], count);
	d->fewer[expert] = count > 1 ? mtl_part(d->activated, d->load[expert], count - 1) : 0;
	d->further[expert] = mtl_part(d->activated, d->load[expert], count + 1);
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
	fill(d, rank * d->per_rank + d->filled[rank]++, expert);
	d->rank[rank] += d->each[expert];
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
			after = larger(after, d->rank[from] + d->each[d->slot[s]]);
			if (after < best) {
				best = after;
				to = r;
				at = s;
			}
		}
	}
	put(d, from, d->slot[at]);
	set_slot(d, at, expert);
	sum_rank(d, to);
}

/** Grants replicas where they add least: every one shares its expert's tokens, so that tokens are
 * rarely enough to spare it. Cold experts it is, and as many of one as fit. */
static void replicate_cold(struct node *d)
{
	for (uint32_t e = 0; e < d->experts; e++) {
		d->replica[e] = e;
		set_count(d, e, 1);
	}
	for (uint32_t i = d->experts; i < d->slots; i++) {
		uint32_t best = d->experts;
		double least = INFINITY;

		for (uint32_t e = 0; e < d->experts; e++) {
			double added = (d->count[e] + 1) * d->further[e] - d->count[e] * d->each[e];

			if (d->count[e] < d->ranks && added < least) {
				least = added;
				best = e;
			}
		}
		d->replica[i] = best;
		set_count(d, best, d->count[best] + 1);
	}
}

static void replicate(struct node *d, bool cold)
{
	if (cold) {
		replicate_cold(d);
		return;
	}
	mtl_replicate(d->experts, d->load, d->slots, d->ranks, d->replica, d->count, d->each);
	for (uint32_t e = 0; e < d->experts; e++)
		set_count(d, e, d->count[e]);
}

/** The heaviest replica first, each to the lightest rank with room that lacks its expert. */
int mtl_node_start(struct node *d, bool cold)
{
	int ret;

	clear(d);
	memset(d->rank, 0, d->ranks * sizeof(double));
	memset(d->filled, 0, d->ranks * sizeof(uint32_t));
	replicate(d, cold);
	for (uint32_t i = 0; i < d->slots; i++)
		d->weight[i] = d->each[d->replica[i]];
	ret = mtl_order_falling(d->slots, d->weight, d->order);
	for (uint32_t i = 0; i < d->slots && ret == 0; i++) {
		uint32_t expert = d->replica[d->order[i]], best = d->ranks;

		for (uint32_t r = 0; r < d->ranks; r++) {
			if (d->filled[r] < d->per_rank &&
				(best == d->ranks || d->rank[r] < d->rank[best]) &&
				!*has(d, r, expert))
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

/** Swaps of a slot of the busiest rank `from` with one of rank `to`. */
static void look_at_rank(const struct node *d, uint32_t from, uint32_t to, struct step *best)
{
	/* no swap brings both below half of what they have */
	if ((d->rank[from] + d->rank[to]) / 2 >= best->most)
		return;
	for (uint32_t a = from * d->per_rank; a < (from + 1) * d->per_rank; a++) {
		const double each = d->each[d->slot[a]];

		if (*has(d, to, d->slot[a]))
			continue;
		for (uint32_t b = to * d->per_rank; b < (to + 1) * d->per_rank; b++) {
			double less = each - d->each[d->slot[b]];
			double most = larger(d->rank[from] - less, d->rank[to] + less);

			if (less > 0 && most < best->most && !*has(d, from, d->slot[b]))
				*best = (struct step){most, a, b, false};
		}
	}
}

/** Swaps of a slot of the busiest rank with one of another rank, until one is good enough. */
static void look_for_swap(const struct node *d, uint32_t from, double enough, struct step *best)
{
	uint32_t least = 0;

	/* The lightest rank promises most; after it, few others can be better. */
	for (uint32_t r = 1; r < d->ranks; r++)
		least = d->rank[r] < d->rank[least] ? r : least;
	look_at_rank(d, from, least, best);
	for (uint32_t r = 0; r < d->ranks && best->most > enough; r++)
		look_at_rank(d, from, r, best);
}

/** Load of the busiest rank that would be touched if slot `a` held `expert`; gives up at `limit`. */
static double after_turn(const struct node *d, uint32_t a, uint32_t expert, double limit)
{
	uint32_t old = d->slot[a], rank = d->home[a];
	double more = d->fewer[old] - d->each[old], each = d->further[expert];
	double most = d->rank[rank] - d->each[old] + each;

	for (uint32_t s = d->first[expert]; s != NONE && most < limit; s = d->next[s]) {
		double load = d->rank[d->home[s]] - d->each[expert] + each;

		most = larger(most, *has(d, d->home[s], old) ? load + more : load);
	}
	for (uint32_t s = d->first[old]; s != NONE && most < limit; s = d->next[s])
		if (s != a && !*has(d, d->home[s], expert))
			most = larger(most, d->rank[d->home[s]] + more);
	return most;
}

static void try_turn(const struct node *d, uint32_t a, uint32_t expert, struct step *best)
{
	double most;

	if (d->count[d->slot[a]] < 2 || *has(d, d->home[a], expert))
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
	sum_rank(d, d->home[step->a]);
	sum_rank(d, d->home[step->b]);
}

/* Every step leaves the touched ranks lighter than the busiest one was, so no placement comes back,
 * and the search ends. */
double mtl_node_search(struct node *d, double enough)
{
	for (uint32_t i = 0; i < STEPS_A_SLOT * d->slots; i++) {
		uint32_t from = busiest(d);
		const double limit = d->rank[from] * LIGHTER;
		struct step best = {.most = limit};

		if (d->rank[from] <= enough)
			break;
		look_for_swap(d, from, enough, &best);
		if (best.most >= limit)
			look_for_turn(d, from, &best);
		if (best.most >= limit)
			break;
		take(d, &best);
	}
	return d->rank[busiest(d)];
}

void mtl_node_set(struct node *d, const uint32_t *slot_expert)
{
	clear(d);
	memset(d->count, 0, d->experts * sizeof(uint32_t));
	for (uint32_t s = 0; s < d->slots; s++) {
		d->count[slot_expert[s]]++;
		fill(d, s, slot_expert[s]);
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
	uint32_t rank_a = d->home[a], rank_b = d->home[b];

	if (d->count[d->slot[a]] > 1 && !*has(d, rank_a, e))
		take(d, &(struct step){.a = a, .b = e, .turn = true});
	else if (!*has(d, rank_a, d->slot[b]) && !*has(d, rank_b, d->slot[a]))
		take(d, &(struct step){.a = a, .b = b});
}

double mtl_node_search_kicked(struct node *d, double enough)
{
	uint32_t kicks = KICKED_SLOTS / d->slots, seed = 1;
	double best, found, mean = 0;

	for (uint32_t r = 0; r < d->ranks; r++)
		mean += d->rank[r] / d->ranks;
	enough = larger(enough, EVEN * mean);
	/* The start grants replicas so that the heaviest one is as light as can be. */
	for (uint32_t e = 0; e < d->experts; e++)
		enough = larger(enough, d->each[e] / LIGHTER);
	best = mtl_node_search(d, enough);
	memcpy(d->best, d->slot, d->slots * sizeof(uint32_t));
	if (kicks > KICKS_MOST)
		kicks = KICKS_MOST;
	for (uint32_t i = 0; i < kicks && best > enough; i++) {
		for (uint32_t k = 0; k < 2 + i % 3; k++)
			kick(d, &seed);
		found = mtl_node_search(d, enough);
		if (found <= best) {
			best = found;
			memcpy(d->best, d->slot, d->slots * sizeof(uint32_t));
		} else {
			mtl_node_set(d, d->best);
		}
	}
	return best;
}
