/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Plan or keep. Moving weights stalls a job for seconds, and doing it too often costs more than
 * imbalance does; so everything but a clear case is "keep".
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check(
	const struct moetap_forecast *f, const struct moetap_plan *a, const struct moetap_plan *b)
{
	if (moetap_plan_layers(a) != moetap_forecast_layers(f) ||
		moetap_plan_experts(a) != moetap_forecast_experts(f))
		return -EINVAL;
	return moetap_plan_moves(b, a) < 0 ? -EINVAL : 0;
}

/** Appends what of the loads behind the forecast is estimated, and what is wrong with the rounds.
 */
static void name_quality(const struct moetap_forecast *f, char *text, size_t size)
{
	struct moetap_forecast_info info;
	size_t used = strlen(text);
	char names[96];

	moetap_forecast_info(f, &info);
	if (info.unseen > 0)
		snprintf(text + used, size - used, "; %.1f %% of the tokens estimated%s",
			100 * info.unseen, info.unseen_blind ? ", and nothing tells how well" : "");
	used = strlen(text);
	if (info.flagged == 0)
		return;
	snprintf(text + used, size - used, "; %llu of the %llu rounds behind it not exact (%s)",
		(unsigned long long)info.flagged, (unsigned long long)info.rounds,
		moetap_quality_text(info.quality & MOETAP_QUALITY_INEXACT, names, sizeof(names)));
}

static int check_rule(const struct moetap_rule *rule)
{
	const struct moetap_prices *p = rule->prices;

	if (!(rule->margin >= 0))
		return -EINVAL;
	return p == NULL || rule->tokens != NULL ? 0 : -EINVAL;
}

/** Fills gain, before, after and least, each layer counting by its tokens, and saved but for the
 * time of a token. Returns 0 or -ENOMEM. */
static int predict(const struct moetap_forecast *f, const struct moetap_plan *current,
	const struct moetap_plan *plan, const double *tokens, struct moetap_decision *d)
{
	uint32_t experts = moetap_plan_experts(plan);
	const double *share = moetap_forecast_share(f);
	double means = 0, before = 0, after = 0, least = 0, mean, low;

	for (uint32_t l = 0; l < moetap_plan_layers(plan); l++) {
		double weight = tokens != NULL ? tokens[l] : 1;
		double was = mtl_plan_busiest(current, l, share + (size_t)l * experts, &mean);

		if (was == 0 || weight == 0)
			continue; /* without tokens */
		means += weight * mean;
		before += weight * was;
		after += weight * mtl_plan_busiest(plan, l, share + (size_t)l * experts, &mean);
		if (mtl_plan_least_gain(plan, current, l, f, &low) < 0)
			return -ENOMEM;
		least += weight * low;
	}
	d->before = before > 0 ? means / before : 1;
	d->after = after > 0 ? means / after : 1;
	d->gain = 1 - d->before / d->after;
	d->least = before > 0 ? least / before : 0;
	d->saved = least;
	return 0;
}

/** Seconds that the trial saved, at the low end. */
static double tried(const struct moetap_rule *rule, uint32_t layers)
{
	const struct moetap_trial *t = rule->trial;
	double tokens = 0;

	for (uint32_t l = 0; l < layers; l++)
		tokens += rule->tokens[l];
	return t->low * t->busiest * tokens * rule->prices->token_seconds *
	       (double)(t->last - t->first + 1);
}

/** Fills cost, and turns saved into seconds. Returns 0, -EINVAL or -ENOMEM. */
static int price(const struct moetap_forecast *f, const struct moetap_plan *current,
	const struct moetap_plan *plan, const struct moetap_rule *rule, struct moetap_decision *d)
{
	uint32_t layers = moetap_plan_layers(plan), experts = moetap_plan_experts(plan);
	double *loads = malloc((size_t)layers * experts * sizeof(*loads));
	struct moetap_forecast_info info;
	struct moetap_move move;
	int ret;

	if (loads == NULL)
		return -ENOMEM;
	for (size_t c = 0; c < (size_t)layers * experts; c++)
		loads[c] = moetap_forecast_share(f)[c] * rule->tokens[c / experts];
	ret = moetap_plan_price(plan, current, loads, rule->prices, &move);
	free(loads);
	if (ret < 0)
		return ret;
	moetap_forecast_info(f, &info);
	d->cost = move.seconds;
	d->saved *= rule->prices->token_seconds * info.horizon;
	if (rule->trial != NULL)
		d->tried = tried(rule, layers);
	return 0;
}

static bool too_soon(const struct moetap_rule *rule, int64_t step)
{
	return rule->interval > 0 && rule->last_plan >= 0 && step >= rule->last_plan &&
	       step - rule->last_plan < rule->interval;
}

/** Whether such plans have shown that a move pays, and this one is forecast to gain too. */
static bool proven(const struct moetap_rule *rule, const struct moetap_decision *d)
{
	double margin = rule->margin > 0 ? rule->margin : MOETAP_TRIAL_MARGIN;

	return rule->prices != NULL && rule->trial != NULL && d->moves > 0 && d->gain > 0 &&
	       d->tried > margin * d->cost;
}

/** What speaks against the plan, into the reason. @return whether anything does */
static bool object(const struct moetap_state *state, const struct moetap_forecast *f,
	const struct moetap_rule *rule, struct moetap_decision *d)
{
	double margin = rule->margin > 0 ? rule->margin : MOETAP_MOVE_MARGIN;
	struct moetap_forecast_info info;
	char *to = d->reason, unstable[128];
	size_t size = sizeof(d->reason);

	moetap_forecast_info(f, &info);
	if (proven(rule, d) && !too_soon(rule, info.step))
		return false;
	if (!moetap_state_stable(state, unstable))
		snprintf(to, size, "keep: transient: %s", unstable);
	else if (isnan(d->gain))
		snprintf(to, size,
			"keep: of some expert no load is known, since no source of its tokens "
			"passes the tap");
	else if (too_soon(rule, info.step))
		snprintf(to, size, "keep: the last plan is %lld steps old, less than %u",
			(long long)(info.step - rule->last_plan), rule->interval);
	else if (d->gain <= rule->threshold)
		snprintf(to, size,
			"keep: the plan would save %.1f %% of the busiest ranks' load, no more "
			"than the %.1f %% that a move must bring",
			100 * d->gain, 100 * rule->threshold);
	else if (rule->prices != NULL && d->saved <= margin * d->cost)
		snprintf(to, size,
			"keep: %.3g s saved in %u steps at the low end (%.3g s a step), no more "
			"than %g times the %.3g s of the move",
			d->saved, info.horizon, d->saved / info.horizon, margin, d->cost);
	else
		return false;
	return true;
}

/** What speaks for it. */
static void agree(const struct moetap_rule *rule, struct moetap_decision *d)
{
	char *to = d->reason;
	size_t size = sizeof(d->reason);
	int used = snprintf(to, size,
		"plan: %sbalancedness %.3f -> %.3f forecast, %lld slots to move",
		proven(rule, d) ? "" : "stable, ", d->before, d->after, (long long)d->moves);

	if (proven(rule, d))
		snprintf(to + used, size - (size_t)used,
			" in %.3g s; a trial of %lld steps saved at least %.3g s", d->cost,
			(long long)(rule->trial->last - rule->trial->first + 1), d->tried);
	else if (rule->prices != NULL)
		snprintf(to + used, size - (size_t)used, " in %.3g s; at least %.3g s saved",
			d->cost, d->saved);
}

int moetap_decide_move(const struct moetap_state *state, const struct moetap_forecast *forecast,
	const struct moetap_plan *current, const struct moetap_plan *plan,
	const struct moetap_rule *rule, struct moetap_decision *d)
{
	int ret;

	if (check(forecast, current, plan) < 0 || check_rule(rule) < 0)
		return -EINVAL;
	memset(d, 0, sizeof(*d));
	ret = predict(forecast, current, plan, rule->prices != NULL ? rule->tokens : NULL, d);
	if (rule->prices == NULL)
		d->saved = 0;
	else if (ret == 0)
		ret = price(forecast, current, plan, rule, d);
	if (ret < 0)
		return ret;
	d->moves = moetap_plan_moves(plan, current);
	d->verdict = MOETAP_KEEP;
	if (!object(state, forecast, rule, d)) {
		d->verdict = MOETAP_PLAN;
		agree(rule, d);
	}
	name_quality(forecast, d->reason, sizeof(d->reason));
	return 0;
}

int moetap_decide(const struct moetap_state *state, const struct moetap_forecast *forecast,
	const struct moetap_plan *current, const struct moetap_plan *plan, double threshold,
	struct moetap_decision *d)
{
	const struct moetap_rule rule = {.threshold = threshold};

	return moetap_decide_move(state, forecast, current, plan, &rule, d);
}
