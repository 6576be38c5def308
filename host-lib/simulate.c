/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What it would have been to move experts at other times: a series replayed, with the time of the
 * busiest ranks and that of moves.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Steps between two looks of MOETAP_WHEN_DECIDED. */
#define LOOK MOETAP_TRIAL_SHORTEST

/** A run. */
struct run {
	const struct moetap_series *series;
	const struct moetap_simulation *sim;
	struct moetap_error *error;
	struct moetap_simulated *result;
	uint32_t layers, experts;
	struct moetap_state *state;
	struct moetap_forecaster *forecaster;
	struct moetap_trials *trials;
	struct moetap_plan *current;
	double *loads;	/**< [layers][experts] */
	double *tokens; /**< [layers] */
	int64_t due;	/**< step after which the next decision is made */
	int64_t last_plan;
	double moving; /**< seconds of a move before the next step */
};

/* ---- moving ---- */

/** Takes the plan over. */
static void move(struct run *run, struct moetap_plan *plan, double seconds, int64_t step)
{
	run->result->plans++;
	run->result->slots += moetap_plan_moves(plan, run->current);
	run->moving = seconds;
	run->last_plan = step;
	moetap_plan_free(run->current);
	run->current = plan;
}

/** Loads of the steps first ... `last` summed into run->loads, and their means into run->tokens. */
static int sum_up(struct run *run, int64_t first, int64_t last)
{
	size_t cells = (size_t)run->layers * run->experts;
	uint32_t begin = mtl_series_lower(run->series, first);
	uint32_t end = mtl_series_lower(run->series, last + 1);
	double *one = malloc(cells * sizeof(*one));

	if (one == NULL)
		return mtl_fail_memory(run->error);
	memset(run->loads, 0, cells * sizeof(*one));
	memset(run->tokens, 0, run->layers * sizeof(*one));
	for (uint32_t i = begin; i < end; i++) {
		mtl_series_loads(run->series, i, one);
		for (size_t c = 0; c < cells; c++) {
			run->loads[c] += one[c];
			run->tokens[c / run->experts] += one[c] / (end - begin);
		}
	}
	free(one);
	return 0;
}

/** What who uses EPLB does: the sum of the last window, and no question whether it pays. */
static int move_anyway(struct run *run, int64_t step)
{
	struct moetap_plan *plan;
	struct moetap_move m;
	int ret = sum_up(run, step - run->sim->every + 1, step);

	if (ret == 0)
		ret = moetap_plan_make("eplb", &run->sim->shape, run->layers, run->experts,
			run->loads, run->current, &plan, run->error);
	if (ret < 0)
		return ret;
	if (moetap_plan_price(plan, run->current, run->loads, &run->sim->prices, &m) < 0) {
		moetap_plan_free(plan);
		return mtl_fail_memory(run->error);
	}
	if (m.slots > 0)
		move(run, plan, m.seconds, step);
	else
		moetap_plan_free(plan);
	return 0;
}

/** Moves to the plan, or frees it, as is decided. */
static int decide(
	struct run *run, const struct moetap_forecast *f, struct moetap_plan *plan, int64_t step)
{
	const struct moetap_simulation *sim = run->sim;
	struct moetap_rule rule = {.threshold = sim->threshold,
		.prices = &sim->prices,
		.tokens = run->tokens,
		.margin = sim->margin,
		.interval = sim->interval,
		.last_plan = run->last_plan};
	struct moetap_decision d = {.verdict = MOETAP_KEEP};
	struct moetap_forecast_info info;
	struct moetap_trial trial;
	int ret = moetap_trials_best(run->trials, run->series, step, run->current, &trial);

	if (ret == 0)
		rule.trial = &trial;
	if (ret == 0 || ret == -ENODATA) {
		moetap_forecast_info(f, &info);
		ret = sum_up(run, step - info.window + 1, step);
	}
	if (ret == 0)
		ret = moetap_decide_move(run->state, f, run->current, plan, &rule, &d);
	if (ret == 0 && d.verdict == MOETAP_PLAN)
		move(run, plan, d.cost, step);
	else
		moetap_plan_free(plan);
	return ret == 0 ? 0 : mtl_fail_memory(run->error);
}

/** Plans for a forecast, to be tried, and decides. */
static int plan_for(struct run *run, const struct moetap_forecast *f, int64_t step)
{
	struct moetap_plan *plan;
	int ret = moetap_plan_make(NULL, &run->sim->shape, run->layers, run->experts,
		moetap_forecast_share(f), run->current, &plan, run->error);

	if (ret < 0)
		return ret;
	if (moetap_trials_add(run->trials, step, plan) < 0) {
		moetap_plan_free(plan);
		return mtl_fail_memory(run->error);
	}
	return decide(run, f, plan, step);
}

static int look(struct run *run, int64_t step)
{
	struct moetap_forecast *f;
	int ret;

	if (moetap_state_update(run->state, run->series, step) < 0)
		return mtl_fail_memory(run->error);
	ret = moetap_forecaster_update(run->forecaster, run->series, step, run->error);
	if (ret == 0)
		ret = moetap_forecaster_forecast(
			run->forecaster, run->series, run->sim->horizon, &f, run->error);
	if (ret < 0)
		return ret;
	ret = plan_for(run, f, step);
	moetap_forecast_free(f);
	return ret;
}

/* ---- replaying ---- */

static int decide_after(struct run *run, enum moetap_when when, int64_t step)
{
	int64_t every = when == MOETAP_WHEN_EVERY ? run->sim->every : LOOK;

	if (when == MOETAP_WHEN_NEVER || step < run->due)
		return 0;
	run->due += (step - run->due) / every * every + every;
	return when == MOETAP_WHEN_EVERY ? move_anyway(run, step) : look(run, step);
}

static void replay_step(struct run *run, uint32_t i)
{
	int64_t step = mtl_series_step(run->series, i);
	struct moetap_simulated_step s = {.step = step, .steps = 1, .moving = run->moving};

	if (i + 1 < moetap_series_steps(run->series))
		s.steps = (uint32_t)(mtl_series_step(run->series, i + 1) - step);
	mtl_series_loads(run->series, i, run->loads);
	s.seconds = mtl_plan_busiest_all(run->current, run->loads, &s.even) *
		    run->sim->prices.token_seconds;
	s.even *= run->sim->prices.token_seconds;
	run->moving = 0;
	run->result->seconds += s.steps * s.seconds + s.moving;
	run->result->moving += s.moving;
	run->result->even += s.steps * s.even;
	if (run->sim->step != NULL)
		run->sim->step(run->sim->arg, &s);
}

static int replay(struct run *run, enum moetap_when when)
{
	uint32_t steps = moetap_series_steps(run->series);
	int64_t first = moetap_series_first_step(run->series);
	int ret = 0;

	run->due = first + (when == MOETAP_WHEN_EVERY ? run->sim->every : LOOK) - 1;
	for (uint32_t i = 0; i < steps && ret == 0; i++) {
		replay_step(run, i);
		/* After the last step nothing is to be gained. */
		if (i + 1 < steps)
			ret = decide_after(run, when, mtl_series_step(run->series, i));
	}
	return ret;
}

static int check(const struct run *run)
{
	const struct moetap_prices *p = &run->sim->prices;
	struct moetap_move unused;

	if (run->sim->every == 0 || run->sim->horizon == 0)
		return mtl_fail(run->error, -EINVAL, "every 0 steps, or a horizon of 0");
	if (moetap_series_steps(run->series) == 0)
		return mtl_fail(run->error, -ENODATA, "the series has no step");
	for (uint32_t e = 0; e < run->experts; e++)
		if (!moetap_series_seen(run->series, e))
			return mtl_fail(run->error, -EINVAL,
				"expert %u was never seen: no source of its tokens passes the tap",
				e);
	mtl_series_loads(run->series, 0, run->loads);
	if (moetap_plan_price(run->current, run->current, run->loads, p, &unused) == -EINVAL)
		return mtl_fail(run->error, -EINVAL, "a price is no positive number");
	return 0;
}

int moetap_simulate(const struct moetap_series *series, const struct moetap_simulation *sim,
	enum moetap_when when, struct moetap_simulated *result, struct moetap_error *error)
{
	struct run run = {.series = series,
		.sim = sim,
		.error = error,
		.result = result,
		.layers = moetap_series_layers(series),
		.experts = moetap_series_experts(series),
		.last_plan = -1};
	int ret = moetap_plan_trivial(&sim->shape, run.layers, run.experts, &run.current, error);

	if (ret < 0)
		return ret;
	memset(result, 0, sizeof(*result));
	run.loads = malloc((size_t)run.layers * run.experts * sizeof(double));
	run.tokens = malloc(run.layers * sizeof(double));
	if (run.loads == NULL || run.tokens == NULL ||
		moetap_state_new(run.layers, &run.state) < 0 || moetap_trials_new(&run.trials) < 0)
		ret = mtl_fail_memory(error);
	if (ret == 0)
		ret = moetap_forecaster_new(sim->method, sim->window, &run.forecaster, error);
	if (ret == 0)
		ret = check(&run);
	if (ret == 0)
		ret = replay(&run, when);
	moetap_trials_free(run.trials);
	moetap_forecaster_free(run.forecaster);
	moetap_state_free(run.state);
	moetap_plan_free(run.current);
	free(run.loads);
	free(run.tokens);
	return ret;
}
