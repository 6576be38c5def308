/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table of policies, and what is the same for all: which shapes are possible, what a plan
 * says, how balanced it is. A policy plans one layer at a time.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** A new policy is a new file and a line here. The first is the default. */
static const struct planner *const planners[] = {
	&mtl_planner_moetap,
	&mtl_planner_experts,
	&mtl_planner_eplb,
};

#define PLANNERS (sizeof(planners) / sizeof(planners[0]))

struct moetap_plan {
	struct moetap_shape shape;
	uint32_t layers, experts;
	uint32_t *slot_expert; /**< [layers][slots] */
	uint32_t *replicas;    /**< [layers][experts] */
};

const char *moetap_plan_policy(uint32_t i, const char **title)
{
	if (i >= PLANNERS)
		return NULL;
	if (title != NULL)
		*title = planners[i]->title;
	return planners[i]->name;
}

static const struct planner *planner_find(const char *name)
{
	if (name == NULL)
		return planners[0];
	for (size_t i = 0; i < PLANNERS; i++) {
		if (strcmp(planners[i]->name, name) == 0)
			return planners[i];
	}
	return NULL;
}

/*
 * Of tokens, each replica gets the same part. In memory-bound decode a rank is busy reading the
 * weights of the experts that any token takes, not with the tokens (METRO, arXiv 2512.09277): there
 * it counts whether the replica gets any. Its tokens are load / count on average; if they come
 * independently, about Poisson, that is 1 - exp(-load / count) of the steps.
 */
double mtl_part(bool activated, double load, uint32_t count)
{
	return activated ? -expm1(-load / count) : load / count;
}

static bool is_hierarchical(const struct moetap_shape *shape)
{
	return shape->groups > 1 && shape->groups % shape->nodes == 0;
}

/* ---- what is possible ---- */

static int check_shape(const struct moetap_shape *s, uint32_t experts, struct moetap_error *error)
{
	if (s->ranks == 0 || s->nodes == 0 || s->slots == 0 || s->groups == 0)
		return mtl_fail(
			error, -EINVAL, "ranks, nodes, slots and groups must be at least 1");
	if (s->ranks > MOETAP_MAX_RANKS || s->slots > MOETAP_MAX_SLOTS)
		return mtl_fail(error, -E2BIG, "more than the limit of %u ranks or %u slots",
			MOETAP_MAX_RANKS, MOETAP_MAX_SLOTS);
	if (s->ranks % s->nodes != 0)
		return mtl_fail(error, -EINVAL, "%u ranks cannot be spread evenly over %u nodes",
			s->ranks, s->nodes);
	if (s->slots % s->ranks != 0)
		return mtl_fail(error, -EINVAL,
			"%u slots cannot be spread evenly over %u ranks; the next number that can "
			"is %u",
			s->slots, s->ranks, (s->slots / s->ranks + 1) * s->ranks);
	if (s->slots < experts)
		return mtl_fail(error, -EINVAL,
			"%u slots do not hold %u experts; every expert needs a slot", s->slots,
			experts);
	if (experts % s->groups != 0)
		return mtl_fail(error, -EINVAL, "%u experts cannot be split into %u equal groups",
			experts, s->groups);
	return 0;
}

/** Whether a placement without two replicas of an expert on a rank exists. */
static int check_room(const struct moetap_shape *s, uint32_t experts, struct moetap_error *error)
{
	uint32_t nodes = is_hierarchical(s) ? s->nodes : 1;

	if (s->slots / s->ranks > experts / nodes)
		return mtl_fail(error, -EINVAL,
			"%u slots a rank, but only %u experts a rank may hold: a rank would hold "
			"an expert twice; take at most %u slots",
			s->slots / s->ranks, experts / nodes, experts / nodes * s->ranks);
	return 0;
}

static int check_loads(
	uint32_t layers, uint32_t experts, const double *loads, struct moetap_error *error)
{
	for (size_t c = 0; c < (size_t)layers * experts; c++) {
		if (isnan(loads[c]))
			return mtl_fail(error, -EINVAL,
				"layer %zu, expert %zu: no load is known, since no source of its "
				"tokens passes the tap: nothing is planned on a guess",
				c / experts, c % experts);
		if (!(loads[c] >= 0 && loads[c] <= LOAD_MAX))
			return mtl_fail(error, -EINVAL,
				"layer %zu, expert %zu: a load of %g; it must be a number from 0 "
				"to 2^53",
				c / experts, c % experts, loads[c]);
	}
	return 0;
}

/* ---- making plans ---- */

static struct moetap_plan *plan_new(
	const struct moetap_shape *shape, uint32_t layers, uint32_t experts)
{
	struct moetap_plan *plan = calloc(1, sizeof(*plan));

	if (plan == NULL)
		return NULL;
	plan->shape = *shape;
	plan->layers = layers;
	plan->experts = experts;
	plan->slot_expert = calloc((size_t)layers * shape->slots, sizeof(uint32_t));
	plan->replicas = calloc((size_t)layers * experts, sizeof(uint32_t));
	if (plan->slot_expert == NULL || plan->replicas == NULL) {
		moetap_plan_free(plan);
		return NULL;
	}
	return plan;
}

static void count_replicas(struct moetap_plan *plan)
{
	for (uint32_t l = 0; l < plan->layers; l++) {
		const uint32_t *slot = plan->slot_expert + (size_t)l * plan->shape.slots;

		for (uint32_t s = 0; s < plan->shape.slots; s++)
			plan->replicas[(size_t)l * plan->experts + slot[s]]++;
	}
}

/** Reorders the slots of one rank so that what was there before keeps its slot. */
static void keep_slots(uint32_t *slot, const uint32_t *before, uint32_t n)
{
	for (uint32_t s = 0; s < n; s++) {
		for (uint32_t from = 0; from < n && slot[s] != before[s]; from++) {
			if (slot[from] != before[s])
				continue;
			slot[from] = slot[s];
			slot[s] = before[s];
		}
	}
}

static bool same_shape(const struct moetap_plan *a, const struct moetap_plan *b)
{
	return a->layers == b->layers && a->experts == b->experts &&
	       a->shape.slots == b->shape.slots && a->shape.ranks == b->shape.ranks;
}

static int plan_layers(struct moetap_plan *plan, const struct planner *planner, const double *loads,
	const struct moetap_plan *current)
{
	uint32_t slots = plan->shape.slots, per_rank = slots / plan->shape.ranks;
	struct task task = {.shape = plan->shape,
		.hierarchical = is_hierarchical(&plan->shape),
		.experts = plan->experts};
	int ret;

	for (uint32_t l = 0; l < plan->layers; l++) {
		uint32_t *slot = plan->slot_expert + (size_t)l * slots;

		task.load = loads + (size_t)l * plan->experts;
		task.current = current != NULL ? current->slot_expert + (size_t)l * slots : NULL;
		ret = planner->plan(&task, slot);
		if (ret < 0)
			return ret;
		for (uint32_t s = 0; s < slots && current != NULL; s += per_rank)
			keep_slots(
				slot + s, current->slot_expert + (size_t)l * slots + s, per_rank);
	}
	count_replicas(plan);
	return 0;
}

int moetap_plan_make(const char *policy, const struct moetap_shape *shape, uint32_t layers,
	uint32_t experts, const double *loads, const struct moetap_plan *current,
	struct moetap_plan **out, struct moetap_error *error)
{
	const struct planner *planner = planner_find(policy);
	struct moetap_plan *plan;
	int ret;

	if (planner == NULL)
		return mtl_fail(error, -EINVAL, "there is no policy '%.60s'", policy);
	ret = mtl_check_geometry(layers, experts, error);
	if (ret == 0)
		ret = check_shape(shape, experts, error);
	if (ret == 0 && !planner->doubles)
		ret = check_room(shape, experts, error);
	if (ret == 0)
		ret = check_loads(layers, experts, loads, error);
	if (ret < 0)
		return ret;
	plan = plan_new(shape, layers, experts);
	if (plan == NULL)
		return mtl_fail_memory(error);
	if (current != NULL && !same_shape(plan, current)) {
		moetap_plan_free(plan);
		return mtl_fail(error, -EINVAL,
			"the current placement has another number of layers, experts, slots or "
			"ranks");
	}
	if (plan_layers(plan, planner, loads, current) < 0) {
		moetap_plan_free(plan);
		return mtl_fail_memory(error);
	}
	*out = plan;
	return 0;
}

int moetap_plan_from_slots(const struct moetap_shape *shape, uint32_t layers, uint32_t experts,
	const uint32_t *slot_expert, struct moetap_plan **out, struct moetap_error *error)
{
	struct moetap_plan *plan;
	int ret;

	ret = mtl_check_geometry(layers, experts, error);
	if (ret == 0)
		ret = check_shape(shape, experts, error);
	for (size_t s = 0; ret == 0 && s < (size_t)layers * shape->slots; s++) {
		if (slot_expert[s] >= experts)
			ret = mtl_fail(error, -EINVAL,
				"layer %zu, slot %zu holds expert %u, but there are %u experts",
				s / shape->slots, s % shape->slots, slot_expert[s], experts);
	}
	if (ret < 0)
		return ret;
	plan = plan_new(shape, layers, experts);
	if (plan == NULL)
		return mtl_fail_memory(error);
	memcpy(plan->slot_expert, slot_expert, (size_t)layers * shape->slots * sizeof(uint32_t));
	count_replicas(plan);
	for (size_t c = 0; c < (size_t)layers * experts; c++) {
		if (plan->replicas[c] > 0)
			continue;
		moetap_plan_free(plan);
		return mtl_fail(error, -EINVAL, "layer %zu: expert %zu has no slot", c / experts,
			c % experts);
	}
	*out = plan;
	return 0;
}

int moetap_plan_trivial(const struct moetap_shape *shape, uint32_t layers, uint32_t experts,
	struct moetap_plan **out, struct moetap_error *error)
{
	struct moetap_plan *plan;
	int ret;

	ret = mtl_check_geometry(layers, experts, error);
	if (ret == 0)
		ret = check_shape(shape, experts, error);
	if (ret < 0)
		return ret;
	plan = plan_new(shape, layers, experts);
	if (plan == NULL)
		return mtl_fail_memory(error);
	for (uint32_t l = 0; l < layers; l++) {
		for (uint32_t s = 0; s < shape->slots; s++)
			plan->slot_expert[(size_t)l * shape->slots + s] = s % experts;
	}
	count_replicas(plan);
	*out = plan;
	return 0;
}

void moetap_plan_free(struct moetap_plan *plan)
{
	if (plan == NULL)
		return;
	free(plan->slot_expert);
	free(plan->replicas);
	free(plan);
}

/* ---- what a plan says ---- */

uint32_t moetap_plan_layers(const struct moetap_plan *plan)
{
	return plan->layers;
}

uint32_t moetap_plan_experts(const struct moetap_plan *plan)
{
	return plan->experts;
}

void moetap_plan_shape(const struct moetap_plan *plan, struct moetap_shape *shape)
{
	*shape = plan->shape;
}

bool moetap_plan_hierarchical(const struct moetap_plan *plan)
{
	return is_hierarchical(&plan->shape);
}

const uint32_t *moetap_plan_slots(const struct moetap_plan *plan)
{
	return plan->slot_expert;
}

const uint32_t *moetap_plan_replicas(const struct moetap_plan *plan)
{
	return plan->replicas;
}

/** How often `expert` is among n slots. */
static uint32_t occurrences(const uint32_t *slot, uint32_t n, uint32_t expert)
{
	uint32_t found = 0;

	for (uint32_t s = 0; s < n; s++)
		found += slot[s] == expert;
	return found;
}

uint32_t moetap_plan_doubled(const struct moetap_plan *plan)
{
	uint32_t per_rank = plan->shape.slots / plan->shape.ranks, doubled = 0;

	for (size_t at = 0; at < (size_t)plan->layers * plan->shape.slots; at += per_rank) {
		const uint32_t *slot = plan->slot_expert + at;

		/* Counted at the second replica. */
		for (uint32_t s = 0; s < per_rank; s++)
			doubled += occurrences(slot, s, slot[s]) == 1;
	}
	return doubled;
}

int64_t moetap_plan_moves(const struct moetap_plan *plan, const struct moetap_plan *current)
{
	uint32_t per_rank = plan->shape.slots / plan->shape.ranks;
	int64_t moves = 0;

	if (!same_shape(plan, current))
		return -EINVAL;
	for (size_t at = 0; at < (size_t)plan->layers * plan->shape.slots; at += per_rank) {
		for (uint32_t s = 0; s < per_rank; s++)
			moves += occurrences(current->slot_expert + at, per_rank,
					 plan->slot_expert[at + s]) == 0;
	}
	return moves;
}

/** Largest and mean sum over the slots of a rank. */
static double busiest(const struct moetap_plan *plan, uint32_t layer, const double *load,
	bool activated, double *mean)
{
	const uint32_t *slot = plan->slot_expert + (size_t)layer * plan->shape.slots;
	const uint32_t *replicas = plan->replicas + (size_t)layer * plan->experts;
	uint32_t per_rank = plan->shape.slots / plan->shape.ranks;
	double most = 0, sum = 0;

	for (uint32_t r = 0; r < plan->shape.ranks; r++) {
		double rank = 0;

		for (uint32_t s = r * per_rank; s < (r + 1) * per_rank; s++)
			rank += mtl_part(activated, load[slot[s]], replicas[slot[s]]);
		most = fmax(most, rank);
		sum += rank;
	}
	*mean = sum / plan->shape.ranks;
	return most;
}

double mtl_plan_busiest(
	const struct moetap_plan *plan, uint32_t layer, const double *load, double *mean)
{
	return busiest(plan, layer, load, false, mean);
}

double moetap_plan_activated(const struct moetap_plan *plan, const double *loads, double *layer)
{
	double sum = 0, mean;

	for (uint32_t l = 0; l < plan->layers; l++) {
		double most = busiest(plan, l, loads + (size_t)l * plan->experts, true, &mean);

		if (layer != NULL)
			layer[l] = most;
		sum += most;
	}
	return sum / plan->layers;
}

void moetap_plan_balance(const struct moetap_plan *plan, const double *loads,
	struct moetap_balance *balance, double *layer)
{
	double means = 0, maxima = 0;
	uint32_t counted = 0;

	memset(balance, 0, sizeof(*balance));
	for (uint32_t l = 0; l < plan->layers; l++) {
		double mean, most = mtl_plan_busiest(plan, l, loads + (size_t)l * plan->experts, &mean);

		if (layer != NULL)
			layer[l] = most > 0 ? mean / most : 1;
		if (most <= 0)
			continue;
		counted++;
		means += mean;
		maxima += most;
		balance->mean_max += mean / most;
		balance->excess += (most - mean) / mean;
	}
	balance->mean_max = counted > 0 ? balance->mean_max / counted : 1;
	balance->excess = counted > 0 ? balance->excess / counted : 0;
	balance->sums = counted > 0 ? means / maxima : 1;
}
