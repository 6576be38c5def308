/* SPDX-License-Identifier: BSD-3-Clause */
#include "publication.h"

#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/** Adds the placements of "PLAN.json@STEP,...". */
static int add_stated(struct publication *p, uint32_t layers)
{
	char *copy = strdup(p->stated), *rest = copy, *one;
	struct moetap_error error;
	int status = copy == NULL ? cli_fail(p->verb, "out of memory") : CLI_DONE;

	while (status == CLI_DONE && (one = strsep(&rest, ",")) != NULL) {
		char *at = strrchr(one, '@'), *end = at;
		long long step = at != NULL ? strtoll(at + 1, &end, 10) : -1;
		struct moetap_plan *plan;

		if (at == NULL || end == at + 1 || *end != '\0' || step < 0) {
			status = cli_fail(p->verb,
				"--placement: '%s' is not PLAN.json@STEP", one);
			break;
		}
		*at = '\0';
		status = plan_read(p->verb, one, &p->shape, layers, p->experts, &plan);
		if (status != CLI_DONE)
			break;
		if (moetap_placements_add(p->placements, MOETAP_ALL_LAYERS, step,
			    moetap_plan_slots(plan), MOETAP_KNOWN_STATED, &error) < 0)
			status = cli_fail(p->verb, "%s", error.text);
		moetap_plan_free(plan);
	}
	free(copy);
	return status;
}

/** What slots held in the steps that the forecaster has seen, in one number. */
static uint32_t sum_held(const struct publication *p, const struct moetap_series *slots)
{
	size_t bytes = p->shape.slots * sizeof(uint32_t);
	uLong sum = crc32(0, NULL, 0);

	for (int64_t step = moetap_series_first_step(slots); step <= p->seen; step++)
		for (uint32_t l = 0; l < moetap_series_layers(slots); l++) {
			const uint32_t *held = moetap_placements_at(p->placements, l, step);

			sum = crc32(sum, (const Bytef *)(held != NULL ? held : &l),
				(uInt)(held != NULL ? bytes : sizeof(l)));
		}
	return (uint32_t)sum;
}

/** A forecaster sees a step once. Where the job says later what it held then, as one that
 * acknowledges late does, a new one has to look at all steps. */
static int follow_held(struct publication *p, const struct moetap_series *slots)
{
	struct moetap_forecaster *other;
	struct moetap_error error;

	if (p->seen >= 0 && sum_held(p, slots) != p->held) {
		if (moetap_forecaster_new(p->request.method, p->request.window, &other, &error) < 0)
			return cli_fail(p->verb, "%s", error.text);
		moetap_forecaster_free(p->request.forecaster);
		p->request.forecaster = other;
	}
	p->seen = moetap_series_last_step(slots);
	p->held = sum_held(p, slots);
	return CLI_DONE;
}

int publication_look(struct publication *p, const struct moetap_series *slots)
{
	uint32_t layers = moetap_series_layers(slots);
	struct moetap_error error;
	int status = CLI_DONE;

	if (p->placements == NULL) {
		if (moetap_placements_new(
			    &p->shape, layers, p->experts, &p->placements, &error) < 0)
			status = cli_fail(p->verb, "%s", error.text);
		else if (p->stated != NULL)
			status = add_stated(p, layers);
	}
	if (status == CLI_DONE &&
		(moetap_placements_read(p->placements, p->name, &error) < 0 ||
			moetap_placements_check(p->placements, slots, &error) < 0 ||
			moetap_placements_experts(
				p->placements, slots, &p->outlook.series, &error) < 0))
		status = cli_fail(p->verb, "%s", error.text);
	if (status == CLI_DONE && p->request.forecaster != NULL)
		status = follow_held(p, slots);
	return status == CLI_DONE ? outlook_make(p->verb, &p->request, &p->outlook) : status;
}

/** The placement in force: as stated, else the one that frameworks start with. */
static int find_current(struct publication *p)
{
	uint32_t layers = moetap_forecast_layers(p->outlook.forecast);
	uint32_t experts = moetap_forecast_experts(p->outlook.forecast);
	struct moetap_error error;

	if (p->placements != NULL)
		return moetap_placements_plan(p->placements, &p->current, &error) < 0
			       ? cli_fail(p->verb, "%s", error.text)
			       : CLI_DONE;
	if (p->current_path != NULL)
		return plan_read(
			p->verb, p->current_path, &p->shape, layers, experts, &p->current);
	if (moetap_plan_trivial(&p->shape, layers, experts, &p->current, &error) < 0)
		return cli_fail(p->verb, "%s", error.text);
	return CLI_DONE;
}

static int make_plan(struct publication *p)
{
	const struct moetap_forecast *f = p->outlook.forecast;
	struct moetap_error error;

	p->known = p->current_path != NULL ? MOETAP_KNOWN_STATED : MOETAP_KNOWN_START;
	if (p->placements != NULL)
		p->known = moetap_placements_known(p->placements, p->unknown);
	if (p->known == MOETAP_KNOWN_NOT)
		return CLI_DONE;
	if (moetap_plan_make(p->policy, &p->shape, moetap_forecast_layers(f),
		    moetap_forecast_experts(f), moetap_forecast_share(f), p->current, &p->plan,
		    &error) < 0)
		return cli_fail(p->verb, "%s", error.text);
	return CLI_DONE;
}

/** Tokens a step, of the steps that the forecast looked at. Returns an exit status. */
static int find_tokens(const struct publication *p, double *tokens)
{
	uint32_t layers = moetap_series_layers(p->outlook.series);
	uint32_t experts = moetap_series_experts(p->outlook.series);
	double *loads = malloc((size_t)layers * experts * sizeof(*loads));
	struct moetap_forecast_info info;
	int status;

	if (loads == NULL)
		return cli_fail(p->verb, "out of memory");
	moetap_forecast_info(p->outlook.forecast, &info);
	moetap_series_mean_tokens(p->outlook.series, info.window, loads);
	status = prices_tokens(p->verb, &p->prices, layers, experts, loads, tokens);
	free(loads);
	return status;
}

/** With a placement that is unknown nothing is planned. */
static int decide_unknown(struct publication *p)
{
	if (moetap_decide(p->outlook.state, p->outlook.forecast, p->current, p->current,
		    p->rule.threshold, &p->decision) < 0)
		return cli_fail(p->verb, "the placement does not fit the loads");
	snprintf(p->decision.reason, sizeof(p->decision.reason), "keep: placement unknown: %s",
		p->unknown);
	return CLI_DONE;
}

/** What plans made earlier would have saved, if any can be judged. Returns an exit status. */
static int find_trial(const struct publication *p, struct moetap_trial *trial, bool *found)
{
	int64_t step = moetap_series_last_step(p->outlook.series);
	struct moetap_forecaster *forecaster = NULL;
	struct moetap_trials *trials = NULL;
	struct moetap_error error;
	int ret = moetap_trials_new(&trials);

	*found = false;
	snprintf(error.text, sizeof(error.text), "out of memory");
	if (ret == 0)
		ret = moetap_forecaster_new(
			p->request.method, p->request.window, &forecaster, &error);
	if (ret == 0)
		ret = moetap_trials_replay(trials, p->outlook.series, step, p->current, p->policy,
			forecaster, p->request.horizon, &error);
	if (ret == 0) {
		ret = moetap_trials_best(trials, p->outlook.series, step, p->current, trial);
		*found = ret == 0;
	}
	moetap_trials_free(trials);
	moetap_forecaster_free(forecaster);
	return ret == 0 || ret == -ENODATA ? CLI_DONE : cli_fail(p->verb, "%s", error.text);
}

/** With prices: what speaks for a move besides the forecast. Returns an exit status. */
static int find_evidence(struct publication *p, struct moetap_prices *prices, double *tokens,
	struct moetap_trial *trial)
{
	bool found = false;
	int status = prices_make(p->verb, &p->prices, prices);

	if (status == CLI_DONE)
		status = find_tokens(p, tokens);
	if (status == CLI_DONE)
		status = find_trial(p, trial, &found);
	p->rule.prices = prices;
	p->rule.tokens = tokens;
	p->rule.trial = found ? trial : NULL;
	return status;
}

static int decide_move(struct publication *p)
{
	double *tokens = calloc(moetap_series_layers(p->outlook.series), sizeof(*tokens));
	struct moetap_prices prices;
	struct moetap_trial trial;
	int status = CLI_DONE;

	if (tokens == NULL)
		return cli_fail(p->verb, "out of memory");
	if (prices_given(&p->prices))
		status = find_evidence(p, &prices, tokens, &trial);
	p->rule.last_plan = moetap_publisher_last_plan(p->publisher);
	if (status == CLI_DONE && moetap_decide_move(p->outlook.state, p->outlook.forecast,
					  p->current, p->plan, &p->rule, &p->decision) < 0)
		status = cli_fail(p->verb, "out of memory");
	free(tokens);
	return status;
}

static int open_page(struct publication *p)
{
	const struct moetap_forecast *f = p->outlook.forecast;
	struct moetap_error error;

	if (moetap_publisher_open(p->name, moetap_forecast_layers(f), moetap_forecast_experts(f),
		    &p->shape, &p->publisher, &error) < 0)
		return cli_fail(p->verb, "%s", error.text);
	return CLI_DONE;
}

int publication_decide(struct publication *p)
{
	int status = find_current(p);

	if (status == CLI_DONE)
		status = make_plan(p);
	if (status == CLI_DONE)
		status = open_page(p);
	if (status == CLI_DONE)
		status = p->known == MOETAP_KNOWN_NOT ? decide_unknown(p) : decide_move(p);
	p->decision.known = p->known;
	return status;
}

int publication_send(struct publication *p)
{
	struct moetap_error error;
	int ret;

	if (moetap_publisher_terms(p->publisher, &p->terms) < 0)
		return cli_fail(p->verb,
			"--bias-rate must be 0 or more, --lifetime from 0 to 10^9 seconds");
	ret = moetap_publisher_publish(p->publisher, p->outlook.state, p->outlook.forecast,
		p->decision.verdict == MOETAP_PLAN ? p->plan : p->current, &p->decision, &error);
	moetap_publisher_close(p->publisher);
	p->publisher = NULL;
	return ret < 0 ? cli_fail(p->verb, "%s", error.text) : CLI_DONE;
}

void publication_forget(struct publication *p)
{
	moetap_publisher_close(p->publisher);
	moetap_plan_free(p->plan);
	moetap_plan_free(p->current);
	outlook_free(&p->outlook);
	p->publisher = NULL;
	p->plan = p->current = NULL;
	p->outlook = (struct outlook){0};
}

void publication_free(struct publication *p)
{
	publication_forget(p);
	moetap_placements_free(p->placements);
	moetap_forecaster_free(p->request.forecaster);
	free(p->network);
}
