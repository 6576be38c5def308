/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap backtest`: how wrong forecasts would have been. */
#include "cli.h"
#include "loads.h"
#include "moetap.h"
#include "verbs.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char about[] =
	"Goes through a trace and forecasts at every origin from what came before, then compares\n"
	"with the mean shares over the next H steps. Prints CSV\n"
	"method,horizon,state,rel,norm,experts,origins with one line each for all origins and for\n"
	"those in the transient and in the stable state. Errors are fractions (0.02 = 2 %):\n"
	"  rel      mean of |forecast - actual| / actual, where actual >= 0.05 / experts\n"
	"  norm     mean of |forecast - actual| * experts, over all\n"
	"  experts  (layer, expert) that counted in rel\n"
	"JSON also has the fraction of actual shares inside the 80 % intervals.\n\n"
	"  moetap backtest --horizon 1000 --method all --from 500 --every 250 loads.csv";

static const char *const states[MOETAP_ORIGINS_KINDS] = {"all", "transient", "stable"};

static int show_progress(void *arg, uint32_t done, uint32_t total)
{
	(void)arg;
	cli_progress("backtest", done, total);
	return 0;
}

static void print_number(double value)
{
	if (isfinite(value))
		printf("%.6f", value);
	putchar(',');
}

static void print_csv(
	const char *method, uint32_t horizon, const struct moetap_backtest_line *lines)
{
	for (int k = 0; k < MOETAP_ORIGINS_KINDS; k++) {
		printf("%s,%u,%s,", method, horizon, states[k]);
		print_number(lines[k].rel);
		print_number(lines[k].norm);
		printf("%u,%u\n", lines[k].experts, lines[k].origins);
	}
}

static void add_json(json_t *rows, const char *method, uint32_t horizon,
	const struct moetap_backtest_line *lines)
{
	for (int k = 0; k < MOETAP_ORIGINS_KINDS; k++)
		json_array_append_new(rows,
			json_pack("{s:s, s:I, s:s, s:o, s:o, s:I, s:I, s:o}", "method", method,
				"horizon", (json_int_t)horizon, "state", states[k], "rel",
				cli_number(lines[k].rel), "norm", cli_number(lines[k].norm),
				"experts", (json_int_t)lines[k].experts, "origins",
				(json_int_t)lines[k].origins, "coverage",
				cli_number(lines[k].coverage)));
}

/** Runs one method and prints its lines, or adds them to `rows` if that is not NULL. */
static int run(const struct moetap_series *series, const struct moetap_backtest_options *options,
	json_t *rows)
{
	struct moetap_backtest_line lines[MOETAP_ORIGINS_KINDS];
	struct moetap_error error;

	if (moetap_backtest(series, options, lines, &error) < 0)
		return cli_fail("backtest", "%s", error.text);
	if (rows != NULL)
		add_json(rows, options->method, options->horizon, lines);
	else
		print_csv(options->method, options->horizon, lines);
	return CLI_DONE;
}

/** Runs the method asked for, or all. */
static int run_methods(
	const struct moetap_series *series, struct moetap_backtest_options *options, json_t *rows)
{
	const char *wanted = options->method;
	int status = CLI_DONE;

	if (wanted == NULL)
		options->method = moetap_forecast_method(0, NULL);
	if (wanted == NULL || strcmp(wanted, "all") != 0)
		return run(series, options, rows);
	for (uint32_t i = 0; status == CLI_DONE; i++) {
		options->method = moetap_forecast_method(i, NULL);
		if (options->method == NULL)
			break;
		status = run(series, options, rows);
	}
	return status;
}

int verb_backtest(int argc, char **argv)
{
	struct moetap_backtest_options run = {.from = -1, .progress = show_progress};
	struct moetap_series *series;
	json_t *rows = NULL;
	int format = 0, first, status;
	double unseen;
	const struct cli_option options[] = {
		{"horizon", CLI_COUNT, &run.horizon, "H", "steps ahead", true},
		{"method", CLI_TEXT, &run.method, "NAME|all", "sw_avg (default), last, or all",
			false},
		{"window", CLI_COUNT, &run.window, "W",
			"steps that sw_avg averages; chosen from the history if not given", false},
		{"from", CLI_STEP, &run.from, "S",
			"first origin; a sixteenth into the trace if not given", false},
		{"every", CLI_COUNT, &run.every, "K",
			"steps between origins; a thirty-second of the trace if not given", false},
		{"format", CLI_CHOICE, &format, "csv|json", "csv (default) or json", false},
		{0},
	};
	const struct cli cli = {"backtest", "TRACE", 1, about, options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	status = series_read("backtest", argv[first], &series);
	if (status != CLI_DONE)
		return status;
	unseen = series_unseen("backtest", series, 0);
	if (format == 1)
		rows = json_array();
	else
		printf("method,horizon,state,rel,norm,experts,origins\n");
	status = run_methods(series, &run, rows);
	if (rows != NULL && status == CLI_DONE)
		status = cli_print_json("backtest", json_pack("{s:f, s:O}", "estimated", unseen,
							   "backtest", rows));
	json_decref(rows);
	moetap_series_free(series);
	return status;
}
