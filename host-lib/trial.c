/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Trials: a plan is held against the placement in force on the steps that came after it was made,
 * which it does not know. That is what an operator would see who had moved then. Nothing is
 * assumed of how loads fluctuate, nor of forecasts: where these were bad, the plan saved little.
 *
 * Steps close to each other are alike, so the interval rests on the means of eight equal batches
 * of them (the method of batch means of simulations), with Student's t of seven degrees of freedom.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BATCHES MOETAP_TRIAL_LEAST
/** 0.9 quantile of Student's t with BATCHES - 1 degrees of freedom. */
#define STUDENT 1.415

/** Plans that are kept: up to the longest trial, one each shortest. */
#define KEPT (MOETAP_TRIAL_LONGEST / MOETAP_TRIAL_SHORTEST + 1)

struct moetap_trials {
	struct {
		int64_t step;
		struct moetap_plan *plan; /**< NULL: empty */
	} kept[KEPT];
	uint32_t next; /**< the oldest, to be replaced */
};

void mtl_series_loads(const struct moetap_series *series, uint32_t i, double *loads)
{
	uint32_t experts = moetap_series_experts(series);
	int64_t step = mtl_series_step(series, i);

	for (uint32_t l = 0; l < moetap_series_layers(series); l++) {
		double sum = mtl_series_sum(series, i, l);

		moetap_series_mean_shares(series, l, step, step, loads + (size_t)l * experts);
		for (uint32_t e = 0; e < experts; e++)
			loads[(size_t)l * experts + e] *= sum;
	}
}

double mtl_plan_busiest_all(const struct moetap_plan *plan, const double *loads, double *even)
{
	double sum = 0, mean;

	*even = 0;
	for (uint32_t l = 0; l < moetap_plan_layers(plan); l++) {
		sum += mtl_plan_busiest(
			plan, l, loads + (size_t)l * moetap_plan_experts(plan), &mean);
		*even += mean;
	}
	return sum;
}

/** Sums over steps: tokens of the busiest ranks under both, and of mean ranks. */
struct sums {
	double current, plan, even;
};

static struct sums sum_steps(const struct moetap_series *series, uint32_t begin, uint32_t end,
	const struct moetap_plan *current, const struct moetap_plan *plan, double *loads)
{
	struct sums s = {0};

	for (uint32_t i = begin; i < end; i++) {
		double even;

		mtl_series_loads(series, i, loads);
		s.current += mtl_plan_busiest_all(current, loads, &even);
		s.plan += mtl_plan_busiest_all(plan, loads, &even);
		s.even += even;
	}
	return s;
}

/** Half the width of the interval of the mean of the batches. */
static double half_width(const double *batch)
{
	double mean = 0, squares = 0;

	for (int b = 0; b < BATCHES; b++)
		mean += batch[b] / BATCHES;
	for (int b = 0; b < BATCHES; b++)
		squares += (batch[b] - mean) * (batch[b] - mean);
	return STUDENT * sqrt(squares / (BATCHES - 1) / BATCHES);
}

/** Fills the trial from the kept steps begin ... end - 1. */
static void judge(const struct moetap_series *series, uint32_t begin, uint32_t end,
	const struct moetap_plan *current, const struct moetap_plan *plan, double *loads,
	struct moetap_trial *t)
{
	uint64_t steps = end - begin;
	double saved[BATCHES], half;
	struct moetap_shape shape;
	struct sums all = {0};

	for (uint32_t b = 0; b < BATCHES; b++) {
		uint32_t from = begin + (uint32_t)(steps * b / BATCHES);
		uint32_t to = begin + (uint32_t)(steps * (b + 1) / BATCHES);
		struct sums s = sum_steps(series, from, to, current, plan, loads);

		saved[b] = (s.current - s.plan) / (to - from) * (double)steps;
		all.current += s.current;
		all.plan += s.plan;
		all.even += s.even;
	}
	if (all.current == 0)
		return;
	moetap_plan_shape(current, &shape);
	half = half_width(saved) / all.current;
	t->before = all.even / all.current;
	t->after = all.even / all.plan;
	t->busiest = all.current / (all.even * shape.ranks);
	t->gain = 1 - all.plan / all.current;
	t->low = t->gain - half;
	t->high = t->gain + half;
}

int moetap_trial_judge(const struct moetap_series *series, const struct moetap_plan *current,
	const struct moetap_plan *plan, int64_t first, int64_t last, struct moetap_trial *trial)
{
	uint32_t begin = mtl_series_lower(series, first), end = mtl_series_lower(series, last + 1);
	uint32_t layers = moetap_series_layers(series), experts = moetap_series_experts(series);
	double *loads;

	if (moetap_plan_layers(plan) != layers || moetap_plan_experts(plan) != experts ||
		moetap_plan_layers(current) != layers || moetap_plan_experts(current) != experts)
		return -EINVAL;
	if (end < begin + BATCHES)
		return -ENODATA;
	loads = malloc((size_t)layers * experts * sizeof(*loads));
	if (loads == NULL)
		return -ENOMEM;
	memset(trial, 0, sizeof(*trial));
	trial->first = first;
	trial->last = last;
	trial->steps = end - begin;
	judge(series, begin, end, current, plan, loads, trial);
	free(loads);
	return trial->busiest > 0 ? 0 : -ENODATA;
}

/* ---- plans that were made earlier ---- */

int moetap_trials_new(struct moetap_trials **trials)
{
	*trials = calloc(1, sizeof(**trials));
	return *trials != NULL ? 0 : -ENOMEM;
}

void moetap_trials_free(struct moetap_trials *trials)
{
	for (uint32_t i = 0; trials != NULL && i < KEPT; i++)
		moetap_plan_free(trials->kept[i].plan);
	free(trials);
}

int moetap_trials_add(struct moetap_trials *trials, int64_t step, const struct moetap_plan *plan)
{
	struct moetap_plan *copy;
	struct moetap_shape shape;
	int ret;

	moetap_plan_shape(plan, &shape);
	ret = moetap_plan_from_slots(&shape, moetap_plan_layers(plan), moetap_plan_experts(plan),
		moetap_plan_slots(plan), &copy, NULL);
	if (ret < 0)
		return ret;
	moetap_plan_free(trials->kept[trials->next].plan);
	trials->kept[trials->next].plan = copy;
	trials->kept[trials->next].step = step;
	trials->next = (trials->next + 1) % KEPT;
	return 0;
}

/** The newest plan made `age` steps before `step` or earlier, but not twice as early. */
static const struct moetap_plan *find(
	const struct moetap_trials *trials, int64_t step, int64_t age, int64_t *made)
{
	const struct moetap_plan *found = NULL;

	*made = step - 2 * age;
	for (uint32_t i = 0; i < KEPT; i++) {
		if (trials->kept[i].plan == NULL || trials->kept[i].step > step - age ||
			trials->kept[i].step <= *made)
			continue;
		found = trials->kept[i].plan;
		*made = trials->kept[i].step;
	}
	return found;
}

int moetap_trials_best(const struct moetap_trials *trials, const struct moetap_series *series,
	int64_t step, const struct moetap_plan *current, struct moetap_trial *best)
{
	double most = -INFINITY;

	for (int64_t age = MOETAP_TRIAL_SHORTEST; age <= MOETAP_TRIAL_LONGEST; age *= 2) {
		int64_t made;
		const struct moetap_plan *plan = find(trials, step, age, &made);
		struct moetap_trial t;
		double saved;
		int ret;

		if (plan == NULL)
			continue;
		ret = moetap_trial_judge(series, current, plan, made + 1, step, &t);
		if (ret == -ENODATA)
			continue;
		if (ret < 0)
			return ret;
		saved = t.low * t.busiest * (double)(t.last - t.first + 1);
		if (saved <= most)
			continue;
		most = saved;
		*best = t;
	}
	return most > -INFINITY ? 0 : -ENODATA;
}

int moetap_trials_replay(struct moetap_trials *trials, const struct moetap_series *series,
	int64_t step, const struct moetap_plan *current, const char *policy,
	struct moetap_forecaster *forecaster, uint32_t horizon, struct moetap_error *error)
{
	struct moetap_shape shape;
	int ret = 0;

	moetap_plan_shape(current, &shape);
	for (int64_t age = MOETAP_TRIAL_LONGEST; age >= MOETAP_TRIAL_SHORTEST && ret == 0;
		age /= 2) {
		struct moetap_forecast *f;
		struct moetap_plan *plan;

		if (step - age < moetap_series_first_step(series))
			continue;
		ret = moetap_forecaster_update(forecaster, series, step - age, error);
		if (ret == 0)
			ret = moetap_forecaster_forecast(forecaster, series, horizon, &f, error);
		if (ret < 0)
			break;
		ret = moetap_plan_make(policy, &shape, moetap_series_layers(series),
			moetap_series_experts(series), moetap_forecast_share(f), current, &plan,
			error);
		moetap_forecast_free(f);
		if (ret < 0)
			break;
		if (moetap_trials_add(trials, step - age, plan) < 0)
			ret = mtl_fail_memory(error);
		moetap_plan_free(plan);
	}
	return ret;
}
