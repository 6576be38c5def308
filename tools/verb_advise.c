/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap advise`: should a job balance its experts at all? */
#include "cli.h"
#include "loads.h"
#include "moetap.h"
#include "prices.h"
#include "verbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** More rounds than this part that are not exact, and nothing is said. */
#define FLAGGED_MOST 0.1

static const char about[] =
	"Should a job balance its experts at all? Plans from the first half of a trace, or of the\n"
	"rounds that a device page still holds, and judges the plan on the second half, which it\n"
	"does not know. Says\n"
	"  trial                what is saved, at the low end of its 80 % interval, is more than "
	"the\n"
	"                       threshold, and pays for the move within these steps\n"
	"  not now              not even the high end is, or does\n"
	"  not enough evidence  the interval holds both, or the loads are too few or not exact\n"
	"and why, with the figures. The job is taken to hold its experts in order, without "
	"replicas,\n"
	"if --current does not say otherwise. Touches nothing: no framework is needed.\n\n"
	"  moetap advise --ranks 8 --slots 72 loads.csv\n"
	"  moetap advise --ranks 8 --slots 72 --page job";

static const char *const verdicts[] = {"trial", "not now", "not enough evidence"};
enum { TRIAL, NOT_NOW, NOT_ENOUGH };

/** What is asked, and what is known. */
struct job {
	struct moetap_shape shape;
	struct request request; /**< its horizon is the window */
	const char *policy, *current_path, *page;
	double threshold;
	struct price_options price_options;
	int format;

	struct moetap_prices prices;
	struct moetap_series *series;
	struct moetap_plan *off;	 /**< what the job does without */
	struct moetap_plan *from, *plan; /**< the move to the plan */
	int64_t first, middle, last;	 /**< planned from first ... middle, judged on the rest */
	double tokens;			 /**< of all layers in a step */
	double expected;		 /**< balancedness of the plan, as forecast */
	struct moetap_move move;
	struct moetap_trial trial;
	uint64_t rounds, flagged;
	uint32_t quality;
	int verdict;
	char reason[256];
};

static int refuse(const char *text)
{
	return cli_fail("advise", "%s", text);
}

/* ---- loads ---- */

/** Takes the rounds that are there now. A restart of the firmware begins anew. */
static int take_rounds(struct job *job, struct moetap_source *source)
{
	const struct moetap_round *round;
	struct moetap_error error;
	struct moetap_job of;
	int ret;

	while ((ret = moetap_source_next(source, &round, &error)) == 1) {
		if (job->series == NULL || round->restarted) {
			moetap_series_free(job->series);
			job->series = NULL;
			if (moetap_source_job(source, &of) < 0)
				return refuse("the page has no map yet");
			if (moetap_series_new(of.layers, of.experts, 0, &job->series, &error) < 0)
				return refuse(error.text);
		}
		if (moetap_series_add_counts(job->series, round, &error) < 0)
			return refuse(error.text);
	}
	if (ret < 0 && ret != -EPIPE && ret != -EOWNERDEAD)
		return refuse(error.text);
	return job->series != NULL ? CLI_DONE : refuse("the page has no rounds yet");
}

static int read_page(struct job *job)
{
	struct moetap_source *source;
	struct moetap_error error;
	int status;

	if (moetap_source_open_page(job->page, MOETAP_FROM_OLDEST, &source, &error) < 0)
		return refuse(error.text);
	status = take_rounds(job, source);
	moetap_source_close(source);
	return status;
}

/* ---- planning and judging ---- */

static void not_enough(struct job *job, const char *why)
{
	job->verdict = NOT_ENOUGH;
	snprintf(job->reason, sizeof(job->reason), "%s", why);
}

/** Finds the two windows. @return whether there are enough steps */
static bool find_windows(struct job *job)
{
	int64_t steps;

	job->first = moetap_series_first_step(job->series);
	job->last = moetap_series_last_step(job->series);
	steps = job->last - job->first + 1;
	if (job->request.horizon == 0)
		job->request.horizon = steps / 2 < UINT32_MAX ? (uint32_t)(steps / 2) : UINT32_MAX;
	job->middle = job->last - job->request.horizon;
	job->flagged = moetap_series_flagged(
		job->series, job->first, job->last, &job->quality, &job->rounds);
	if (job->middle - job->first + 1 >= MOETAP_TRIAL_LEAST &&
		moetap_series_steps(job->series) >= 2 * MOETAP_TRIAL_LEAST)
		return true;
	if (job->request.horizon >= steps)
		snprintf(job->reason, sizeof(job->reason),
			"--window %u leaves nothing of %lld steps to plan from",
			job->request.horizon, (long long)steps);
	else
		snprintf(job->reason, sizeof(job->reason),
			"%u steps are too few: %d at least are planned from, and as many judged on",
			moetap_series_steps(job->series), MOETAP_TRIAL_LEAST);
	job->verdict = NOT_ENOUGH;
	return false;
}

/** What the job does without balancing, and what a move would start from. */
static int find_off(struct job *job)
{
	uint32_t layers = moetap_series_layers(job->series);
	uint32_t experts = moetap_series_experts(job->series);
	struct moetap_shape alone = job->shape;
	struct moetap_error error;

	if (job->current_path != NULL) {
		int status = plan_read(
			"advise", job->current_path, &job->shape, layers, experts, &job->from);

		return status != CLI_DONE ? status
					  : plan_read("advise", job->current_path, &job->shape,
						    layers, experts, &job->off);
	}
	if (moetap_plan_trivial(&job->shape, layers, experts, &job->from, &error) < 0)
		return refuse(error.text);
	if (experts % job->shape.ranks == 0)
		alone.slots = experts;
	return moetap_plan_trivial(&alone, layers, experts, &job->off, &error) < 0
		       ? refuse(error.text)
		       : CLI_DONE;
}

/** Loads of a step in the first window, for what the move costs. */
static int find_tokens(struct job *job, const double *share, double **loads)
{
	uint32_t layers = moetap_series_layers(job->series);
	uint32_t experts = moetap_series_experts(job->series);
	double *tokens = calloc(layers, sizeof(*tokens));
	int status;

	*loads = calloc((size_t)layers * experts, sizeof(**loads));
	if (tokens == NULL || *loads == NULL) {
		free(tokens);
		return refuse("out of memory");
	}
	moetap_series_mean_tokens(job->series, 0, *loads);
	status = prices_tokens("advise", &job->price_options, layers, experts, *loads, tokens);
	job->tokens = 0;
	for (uint32_t l = 0; l < layers; l++)
		job->tokens += tokens[l];
	for (size_t c = 0; c < (size_t)layers * experts; c++)
		(*loads)[c] = share[c] * tokens[c / experts];
	free(tokens);
	return status;
}

static int make_plan(struct job *job, const struct moetap_forecast *f)
{
	const double *share = moetap_forecast_share(f);
	struct moetap_balance balance;
	struct moetap_error error;
	double *loads = NULL;
	int status = find_tokens(job, share, &loads);

	if (status == CLI_DONE &&
		moetap_plan_make(job->policy, &job->shape, moetap_forecast_layers(f),
			moetap_forecast_experts(f), share, job->from, &job->plan, &error) < 0)
		status = refuse(error.text);
	if (status == CLI_DONE) {
		moetap_plan_balance(job->plan, share, &balance, NULL);
		job->expected = balance.sums;
	}
	if (status == CLI_DONE &&
		moetap_plan_price(job->plan, job->from, loads, &job->prices, &job->move) < 0)
		status = refuse("out of memory");
	free(loads);
	return status;
}

/** Seconds that the part `gain` of the busiest ranks' load is, of the steps judged on. */
static double seconds(const struct job *job, double gain)
{
	return gain * job->trial.busiest * job->tokens * job->prices.token_seconds *
	       (double)(job->last - job->middle);
}

static void conclude(struct job *job)
{
	const struct moetap_trial *t = &job->trial;
	double low = seconds(job, t->low), high = seconds(job, t->high);

	if (job->rounds > 0 && (double)job->flagged > FLAGGED_MOST * (double)job->rounds) {
		snprintf(job->reason, sizeof(job->reason),
			"%.0f %% of the rounds are not exact, more than %.0f %%",
			100.0 * (double)job->flagged / (double)job->rounds, 100 * FLAGGED_MOST);
		job->verdict = NOT_ENOUGH;
	} else if (t->low > job->threshold && low > job->move.seconds) {
		snprintf(job->reason, sizeof(job->reason),
			"at least %.1f %% of the busiest ranks' load is saved; the move of %.3g s "
			"pays after %.0f steps at most",
			100 * t->low, job->move.seconds,
			job->move.seconds / low * (double)(job->last - job->middle));
		job->verdict = TRIAL;
	} else if (t->high <= job->threshold) {
		snprintf(job->reason, sizeof(job->reason),
			"at most %.1f %% of the busiest ranks' load is saved, no more than the "
			"%.1f %% that are asked for",
			100 * t->high, 100 * job->threshold);
		job->verdict = NOT_NOW;
	} else if (high <= job->move.seconds) {
		snprintf(job->reason, sizeof(job->reason),
			"at most %.3g s are saved in %lld steps, no more than the %.3g s of the "
			"move",
			high, (long long)(job->last - job->middle), job->move.seconds);
		job->verdict = NOT_NOW;
	} else {
		snprintf(job->reason, sizeof(job->reason),
			"between %.1f and %.1f %% of the busiest ranks' load are saved: %.3g to "
			"%.3g s, for a move of %.3g s; more steps would tell",
			100 * t->low, 100 * t->high, low, high, job->move.seconds);
		job->verdict = NOT_ENOUGH;
	}
}

/** Plans from the first window and judges on the second. */
static int plan_and_judge(struct job *job)
{
	struct moetap_forecast *f;
	struct moetap_error error;
	int status = find_off(job), ret;

	if (status != CLI_DONE)
		return status;
	if (moetap_forecast_make(job->series, job->middle, job->request.method,
		    job->request.horizon, job->request.window, &f, &error) < 0)
		return refuse(error.text);
	status = make_plan(job, f);
	moetap_forecast_free(f);
	if (status != CLI_DONE)
		return status;
	ret = moetap_trial_judge(
		job->series, job->off, job->plan, job->middle + 1, job->last, &job->trial);
	if (ret == -ENODATA)
		not_enough(job, "too few steps of the second window have tokens");
	else if (ret < 0)
		return refuse("out of memory");
	else
		conclude(job);
	return CLI_DONE;
}

/* ---- results ---- */

static void print_text(const struct job *job)
{
	const struct moetap_trial *t = &job->trial;

	printf("verdict       %s: %s\n", verdicts[job->verdict], job->reason);
	if (t->steps == 0)
		return;
	printf("planned from  steps %lld to %lld\n", (long long)job->first, (long long)job->middle);
	printf("judged on     steps %lld to %lld\n", (long long)t->first, (long long)t->last);
	if (!(job->quality & MOETAP_QUALITY_UNKNOWN))
		printf("not exact     %llu of %llu rounds\n", (unsigned long long)job->flagged,
			(unsigned long long)job->rounds);
	printf("balancedness  %.3f -> %.3f; as forecast %.3f\n", t->before, t->after,
		job->expected);
	printf("saved         %.1f %% of the busiest ranks' load, 80 %% interval %.1f to %.1f\n",
		100 * t->gain, 100 * t->low, 100 * t->high);
	printf("seconds       %.3g saved in these steps, %.3g to %.3g; the move takes %.3g\n",
		seconds(job, t->gain), seconds(job, t->low), seconds(job, t->high),
		job->move.seconds);
}

static int print_json(const struct job *job)
{
	const struct moetap_trial *t = &job->trial;
	json_t *top = json_pack("{s:s, s:s, s:f}", "verdict", verdicts[job->verdict], "reason",
		job->reason, "threshold", job->threshold);

	if (t->steps > 0)
		json_object_update_new(top,
			json_pack("{s:[I,I], s:[I,I], s:I, s:o, s:f, s:f, s:f, s:f, s:f, s:f, "
				  "s:[f,f,f], s:f, s:I, s:o}",
				"planned_from", (json_int_t)job->first, (json_int_t)job->middle,
				"judged_on", (json_int_t)t->first, (json_int_t)t->last, "rounds",
				(json_int_t)job->rounds, "flagged",
				flagged_json(job->quality, job->flagged), "before", t->before,
				"after", t->after, "expected", job->expected, "gain", t->gain,
				"low", t->low, "high", t->high, "seconds", seconds(job, t->low),
				seconds(job, t->gain), seconds(job, t->high), "move_seconds",
				job->move.seconds, "slots", (json_int_t)job->move.slots, "prices",
				prices_json(&job->prices)));
	return cli_print_json("advise", top);
}

static int run(struct job *job, const char *trace)
{
	int status = prices_make("advise", &job->price_options, &job->prices);

	if (status == CLI_DONE)
		status = job->page != NULL ? read_page(job)
					   : series_read("advise", trace, &job->series);
	if (status == CLI_DONE && find_windows(job))
		status = plan_and_judge(job);
	if (status == CLI_DONE && job->format == 0)
		print_text(job);
	else if (status == CLI_DONE)
		status = print_json(job);
	moetap_plan_free(job->plan);
	moetap_plan_free(job->from);
	moetap_plan_free(job->off);
	moetap_series_free(job->series);
	return status;
}

int verb_advise(int argc, char **argv)
{
	struct job job = {.shape = {.nodes = 1, .groups = 1}, .threshold = MOETAP_GAIN_THRESHOLD};
	int first, status;
	const struct cli_option options[] = {
		{"ranks", CLI_COUNT, &job.shape.ranks, "R", "ranks", true},
		{"nodes", CLI_COUNT, &job.shape.nodes, "N", "nodes that hold the ranks (1)", false},
		{"slots", CLI_COUNT, &job.shape.slots, "S",
			"slots in a layer, over all ranks, if it balanced", true},
		{"groups", CLI_COUNT, &job.shape.groups, "G", "groups of experts (1: none)", false},
		{"page", CLI_TEXT, &job.page, "NAME", "page of a running moetap-fw, for a trace",
			false},
		{"current", CLI_TEXT, &job.current_path, "PLAN.json",
			"placement in force; experts in order if not given", false},
		{"window", CLI_COUNT, &job.request.horizon, "W",
			"steps to judge on, the last ones (half of all)", false},
		{"threshold", CLI_NUMBER, &job.threshold, "X",
			"gain that is worth it, as a fraction (0.05)", false},
		{"method", CLI_TEXT, &job.request.method, "NAME", "method of the forecast", false},
		{"policy", CLI_TEXT, &job.policy, "NAME", "moetap (default) or eplb", false},
		PRICE_OPTIONS(job.price_options),
		{"format", CLI_CHOICE, &job.format, "text|json", "text (default) or json", false},
		{0},
	};
	const struct cli cli = {"advise", "[TRACE]", 1, about, options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	if ((job.page != NULL) == (first < argc))
		return cli_usage(&cli, "wanted: either TRACE or --page NAME");
	if (!(job.threshold >= 0 && job.threshold <= 1))
		return cli_usage(&cli, "--threshold is a fraction, from 0 to 1");
	if (job.policy != NULL && strcmp(job.policy, "experts") == 0)
		return cli_usage(&cli, "--policy experts is judged by tokens here; see moetap plan");
	return run(&job, argv[first]);
}
