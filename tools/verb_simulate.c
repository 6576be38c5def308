/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap simulate`: what a job would have taken, had it moved its experts at other times. */
#include "cli.h"
#include "gnuplot.h"
#include "loads.h"
#include "moetap.h"
#include "prices.h"
#include "verbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/** Points of a curve. */
#define POINTS_MOST 1000

static const char about[] =
	"Replays a trace, or loads generated with --shape, and reckons the time of all steps,\n"
	"moving included, if experts are moved never, every K steps to EPLB's plan for the last K\n"
	"steps, or when moetap decides (as 'hints publish' does, every 25 steps). A step takes as\n"
	"long as the busiest rank of each layer works on its tokens. Prints CSV\n"
	"when,seconds,moving,even,plans,slots,saved:\n"
	"  moving  of these, for moves\n"
	"  even    seconds if all ranks always had the same load\n"
	"  saved   fraction of the seconds of 'never'\n"
	"--shape list prints the kinds of loads.\n\n"
	"  moetap simulate --ranks 4 --slots 20 --tokens 262144 loads.csv\n"
	"  moetap simulate --ranks 8 --slots 72 --shape shift";

static const char *const names[MOETAP_WHENS] = {"never", "every", "moetap"};

/** What to simulate. */
struct job {
	struct moetap_simulation sim;
	struct price_options prices;
	struct moetap_workload_size size;
	const char *shape, *plot;
	struct moetap_series *series;
	struct moetap_simulated result[MOETAP_WHENS];
	/* of the plot */
	FILE *script;
	int out;
	double sum, weight;
	uint32_t span; /**< steps of a point */
};

static int list_shapes(void)
{
	const char *title;

	for (uint32_t i = 0; moetap_workload(i, &title) != NULL; i++)
		printf("%-11s %s\n", moetap_workload(i, NULL), title);
	return CLI_DONE;
}

static int get_series(struct job *job, const char *path)
{
	struct moetap_error error;

	if (job->shape == NULL)
		return series_read("simulate", path, &job->series);
	job->size.ranks = job->sim.shape.ranks;
	if (job->prices.tokens > 0)
		job->size.tokens = job->prices.tokens;
	if (moetap_workload_make(job->shape, &job->size, &job->series, &error) < 0)
		return cli_fail("simulate", "%s", error.text);
	return CLI_DONE;
}

/** Prices; --tokens of a trace makes tokens dearer, so that each step keeps its part of all. */
static int get_prices(struct job *job)
{
	uint32_t layers = moetap_series_layers(job->series);
	uint32_t experts = moetap_series_experts(job->series);
	double *loads = malloc((size_t)layers * experts * sizeof(*loads));
	double *tokens = malloc(layers * sizeof(*tokens)), most = 0;
	int status = prices_make("simulate", &job->prices, &job->sim.prices);

	if (loads == NULL || tokens == NULL)
		status = cli_fail("simulate", "out of memory");
	if (status == CLI_DONE) {
		const struct price_options own = {.tokens = 0};

		moetap_series_mean_tokens(job->series, 0, loads);
		status = prices_tokens("simulate", job->prices.tokens > 0 ? &job->prices : &own,
			layers, experts, loads, tokens);
	}
	for (uint32_t l = 0; l < layers && status == CLI_DONE; l++) {
		double sum = 0;

		for (uint32_t e = 0; e < experts; e++)
			sum += loads[(size_t)l * experts + e];
		most = sum > most ? sum : most;
	}
	if (status == CLI_DONE && job->prices.tokens > 0 && job->shape == NULL && most > 0)
		job->sim.prices.token_seconds *= job->prices.tokens / most;
	free(loads);
	free(tokens);
	return status;
}

/* ---- the plot ---- */

/** A step in a curve: means of some steps over the time of even ones. */
static void plot_step(void *arg, const struct moetap_simulated_step *s)
{
	struct job *job = arg;

	job->sum += s->steps * s->seconds;
	job->weight += s->steps * s->even;
	if (s->moving > 0)
		fprintf(job->script, "# moved before step %lld\n", (long long)s->step);
	if ((s->step + 1) % job->span != 0 || job->weight == 0)
		return;
	fprintf(job->script, "%lld %.6g\n", (long long)s->step, job->sum / job->weight);
	job->sum = job->weight = 0;
}

static void plot_script(const struct job *job)
{
	gnuplot_terminal(job->script, job->plot, 1000, 500);
	fprintf(job->script,
		"set xlabel 'step'\nset ylabel 'time of a step / time with even ranks'\n"
		"set key outside bottom center horizontal\nset yrange [1:*]\n"
		"plot");
	for (int w = 0; w < MOETAP_WHENS; w++)
		fprintf(job->script, "%s $w%d using 1:2 with lines lw 2 title '%s: %.4g s, %u moves'",
			w == 0 ? "" : ",", w, names[w], job->result[w].seconds,
			job->result[w].plans);
	fprintf(job->script, "\n");
}

/* ---- results ---- */

/** Opens the picture now, so that nobody waits for a simulation and then has none. */
static int plot_begin(struct job *job)
{
	int64_t steps = moetap_series_last_step(job->series) -
			moetap_series_first_step(job->series) + 1;

	job->out = gnuplot_open("simulate", job->plot);
	if (job->out < 0)
		return CLI_FAILED;
	job->script = tmpfile();
	if (job->script == NULL)
		return cli_fail("simulate", "temporary file: %s", strerror(errno));
	job->span = (uint32_t)(steps / POINTS_MOST) + 1;
	job->sim.step = plot_step;
	job->sim.arg = job;
	return CLI_DONE;
}

static int replay(struct job *job, int when)
{
	struct moetap_error error;

	job->sum = job->weight = 0;
	if (job->script != NULL)
		fprintf(job->script, "$w%d << EOD\n", when);
	if (moetap_simulate(job->series, &job->sim, (enum moetap_when)when, &job->result[when],
		    &error) < 0)
		return cli_fail("simulate", "%s", error.text);
	if (job->script != NULL)
		fprintf(job->script, "EOD\n");
	cli_progress("simulate", (uint32_t)when + 1, MOETAP_WHENS);
	return CLI_DONE;
}

static int simulate(struct job *job)
{
	int status = job->plot != NULL ? plot_begin(job) : CLI_DONE;

	for (int w = 0; w < MOETAP_WHENS && status == CLI_DONE; w++)
		status = replay(job, w);
	if (job->plot == NULL)
		return status;
	if (status == CLI_DONE) {
		plot_script(job);
		status = gnuplot_run("simulate", job->script, job->out, job->plot);
	}
	if (job->out >= 0) {
		close(job->out);
		if (status != CLI_DONE)
			unlink(job->plot);
	}
	return status;
}

static double saved(const struct job *job, int w)
{
	double never = job->result[MOETAP_WHEN_NEVER].seconds;

	return never > 0 ? 1 - job->result[w].seconds / never : 0;
}

static void print_csv(const struct job *job)
{
	printf("when,seconds,moving,even,plans,slots,saved\n");
	for (int w = 0; w < MOETAP_WHENS; w++) {
		const struct moetap_simulated *r = &job->result[w];

		printf("%s,%.6g,%.6g,%.6g,%u,%lld,%.4f\n", names[w], r->seconds, r->moving,
			r->even, r->plans, (long long)r->slots, saved(job, w));
	}
}

static int print_json(const struct job *job)
{
	json_t *rows = json_array();

	for (int w = 0; w < MOETAP_WHENS; w++) {
		const struct moetap_simulated *r = &job->result[w];

		json_array_append_new(rows,
			json_pack("{s:s, s:f, s:f, s:f, s:I, s:I, s:f}", "when", names[w],
				"seconds", r->seconds, "moving", r->moving, "even", r->even,
				"plans", (json_int_t)r->plans, "slots", (json_int_t)r->slots,
				"saved", saved(job, w)));
	}
	return cli_print_json("simulate",
		json_pack("{s:I, s:o, s:o}", "steps", (json_int_t)moetap_series_steps(job->series),
			"prices", prices_json(&job->sim.prices), "simulated", rows));
}

static int run(struct job *job, const char *path, int format)
{
	int status = get_series(job, path);

	if (status == CLI_DONE)
		status = get_prices(job);
	if (status == CLI_DONE)
		status = simulate(job);
	if (status == CLI_DONE && format == 0)
		print_csv(job);
	else if (status == CLI_DONE)
		status = print_json(job);
	if (job->script != NULL)
		fclose(job->script);
	moetap_series_free(job->series);
	return status;
}

int verb_simulate(int argc, char **argv)
{
	struct job job = {.sim = {.shape = {.nodes = 1, .groups = 1},
				  .every = 1000,
				  .horizon = 300,
				  .threshold = MOETAP_GAIN_THRESHOLD},
		.size = {.layers = 4, .experts = 64, .steps = 3000, .tokens = 262144, .seed = 1}};
	int format = 0, first, status;
	const struct cli_option options[] = {
		{"ranks", CLI_COUNT, &job.sim.shape.ranks, "R", "ranks", true},
		{"nodes", CLI_COUNT, &job.sim.shape.nodes, "N", "nodes that hold the ranks (1)",
			false},
		{"slots", CLI_COUNT, &job.sim.shape.slots, "S", "slots in a layer, over all ranks",
			true},
		{"groups", CLI_COUNT, &job.sim.shape.groups, "G", "groups of experts (1: none)",
			false},
		{"shape", CLI_TEXT, &job.shape, "NAME|list", "generated loads in place of a trace",
			false},
		{"layers", CLI_COUNT, &job.size.layers, "L", "layers of generated loads (4)",
			false},
		{"experts", CLI_COUNT, &job.size.experts, "E", "experts of generated loads (64)",
			false},
		{"steps", CLI_COUNT, &job.size.steps, "T", "steps of generated loads (3000)",
			false},
		{"every", CLI_COUNT, &job.sim.every, "K",
			"steps between moves of 'every', and its window (1000)", false},
		{"horizon", CLI_COUNT, &job.sim.horizon, "H",
			"steps ahead that forecasts are made for (300)", false},
		{"threshold", CLI_NUMBER, &job.sim.threshold, "X",
			"least gain, as a fraction, of a plan that no trial has proven (0.05)", false},
		{"min-interval", CLI_COUNT, &job.sim.interval, "K",
			"least steps between two plans of moetap (none)", false},
		{"method", CLI_TEXT, &job.sim.method, "NAME", "method of forecasts", false},
		PRICE_OPTIONS(job.prices),
		{"plot", CLI_TEXT, &job.plot, "FILE", "time of steps as a picture, .svg or .png, by gnuplot",
			false},
		{"format", CLI_CHOICE, &format, "csv|json", "csv (default) or json", false},
		{0},
	};
	const struct cli cli = {"simulate", "[TRACE]", 1, about, options};

	if (argc == 3 && strcmp(argv[1], "--shape") == 0 && strcmp(argv[2], "list") == 0)
		return list_shapes();
	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	if (job.shape != NULL && strcmp(job.shape, "list") == 0)
		return list_shapes();
	if ((job.shape != NULL) == (first < argc))
		return cli_usage(&cli, "wanted: either TRACE or --shape NAME");
	return run(&job, argv[first], format);
}
