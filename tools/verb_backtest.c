/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap backtest`: how wrong forecasts would have been. */
#include "cli.h"
#include "loads.h"
#include "moetap.h"
#include "plot.h"
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
	"JSON also has the fraction of actual shares inside the 80 % intervals. Methods run on as "
	"many\n"
	"processors as there are. --plot shows the most loaded experts of a layer, their "
	"forecasts\n"
	"and intervals, and the mean shares over the next H steps; it needs gnuplot.\n\n"
	"  moetap backtest --horizon 1000 --method all --from 500 --every 250 loads.csv";

/** Room for all methods. */
#define METHODS_MOST 32

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

static void make_plot(void *plot, const struct moetap_forecast *forecast)
{
	plot_add(plot, forecast);
}

/** Runs the method asked for, or all, and prints their lines, or adds them to `rows` if that is not
 * NULL. */
static int run_methods(const struct moetap_series *series,
	const struct moetap_backtest_options *options, json_t *rows)
{
	struct moetap_backtest_line lines[METHODS_MOST][MOETAP_ORIGINS_KINDS];
	const char *methods[METHODS_MOST] = {options->method};
	uint32_t count = 1;
	struct moetap_error error;

	if (options->method == NULL)
		methods[0] = moetap_forecast_method(0, NULL);
	if (strcmp(methods[0], "all") == 0) {
		count = 0;
		while (count < METHODS_MOST && moetap_forecast_method(count, NULL) != NULL) {
			methods[count] = moetap_forecast_method(count, NULL);
			count++;
		}
	}
	if (moetap_backtest_methods(series, options, methods, count, lines, &error) < 0)
		return cli_fail("backtest", "%s", error.text);
	for (uint32_t i = 0; i < count; i++) {
		if (rows != NULL)
			add_json(rows, methods[i], options->horizon, lines[i]);
		else
			print_csv(methods[i], options->horizon, lines[i]);
	}
	return CLI_DONE;
}

/** The same, with a plot if one is wanted. */
static int run(const struct moetap_series *series, struct moetap_backtest_options *options,
	const char *path, int64_t layer, json_t *rows)
{
	struct plot *plot = NULL;
	int status;

	if (path != NULL) {
		plot = plot_new("backtest", path, series, layer, options->horizon);
		if (plot == NULL)
			return CLI_FAILED;
		options->made = make_plot;
		options->arg = plot;
	}
	status = run_methods(series, options, rows);
	if (plot != NULL && status == CLI_DONE)
		status = plot_write(plot);
	plot_free(plot);
	return status;
}

int verb_backtest(int argc, char **argv)
{
	struct moetap_backtest_options what = {.from = -1, .progress = show_progress};
	struct moetap_series *series;
	json_t *rows = NULL;
	int format = 0, first, status;
	double unseen;
	const char *path = NULL;
	int64_t layer = 0;
	const struct cli_option options[] = {
		{"horizon", CLI_COUNT, &what.horizon, "H", "steps ahead", true},
		{"method", CLI_TEXT, &what.method, "NAME|all", "auto (default), sw_avg, last, arima, lstm, or all",
			false},
		{"window", CLI_COUNT, &what.window, "W",
			"steps that sw_avg averages; chosen from the history if not given", false},
		{"from", CLI_STEP, &what.from, "S",
			"first origin; a sixteenth into the trace if not given", false},
		{"every", CLI_COUNT, &what.every, "K",
			"steps between origins; a thirty-second of the trace if not given", false},
		{"plot", CLI_TEXT, &path, "FILE", "make a picture, FILE.svg or FILE.png", false},
		{"layer", CLI_STEP, &layer, "L", "layer of the picture; 0 if not given", false},
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
	status = run(series, &what, path, layer, rows);
	if (rows != NULL && status == CLI_DONE)
		status = cli_print_json(
			"backtest", json_pack("{s:f, s:O}", "estimated", unseen, "backtest", rows));
	json_decref(rows);
	moetap_series_free(series);
	return status;
}
