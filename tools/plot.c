/* SPDX-License-Identifier: BSD-3-Clause */
#include "plot.h"

#include "cli.h"
#include "gnuplot.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/** Experts shown, and points of their loads. */
#define EXPERTS_MOST 6
#define POINTS_MOST 800

/** A forecast of one expert, and what came. */
struct point {
	const char *method;
	int64_t step;
	double share, low, high, actual;
};

struct plot {
	const char *verb, *path;
	const struct moetap_series *series;
	uint32_t layer, horizon;
	uint32_t count; /**< of experts */
	uint32_t expert[EXPERTS_MOST];
	struct point *point; /**< [points][count] */
	size_t points, room;
	double *actual; /**< [experts], scratch */
	int out;	/**< the file; negative: not open */
	bool written;
	bool failed; /**< no memory */
};

/** The most loaded experts of the layer. */
static void choose_experts(struct plot *p)
{
	uint32_t experts = moetap_series_experts(p->series);

	moetap_series_mean_shares(p->series, p->layer, moetap_series_first_step(p->series),
		moetap_series_last_step(p->series), p->actual);
	while (p->count < EXPERTS_MOST && p->count < experts) {
		uint32_t best = 0;

		for (uint32_t e = 1; e < experts; e++)
			if (p->actual[e] > p->actual[best])
				best = e;
		p->actual[best] = -1;
		p->expert[p->count++] = best;
	}
}

struct plot *plot_new(const char *verb, const char *path, const struct moetap_series *series,
	int64_t layer, uint32_t horizon)
{
	struct plot *p;

	if (layer >= moetap_series_layers(series)) {
		cli_fail(verb, "there is no layer %lld, only 0 to %u", (long long)layer,
			moetap_series_layers(series) - 1);
		return NULL;
	}
	p = calloc(1, sizeof(*p));
	if (p == NULL) {
		cli_fail(verb, "no memory");
		return NULL;
	}
	p->verb = verb;
	p->path = path;
	p->actual = malloc(moetap_series_experts(series) * sizeof(double));
	/* Now, so that nobody waits for a backtest and then has no picture. */
	p->out = gnuplot_open(verb, path);
	if (p->actual == NULL || p->out < 0) {
		if (p->out >= 0)
			cli_fail(verb, "no memory");
		plot_free(p);
		return NULL;
	}
	p->series = series;
	p->layer = (uint32_t)layer;
	p->horizon = horizon;
	choose_experts(p);
	return p;
}

void plot_free(struct plot *p)
{
	if (p == NULL)
		return;
	if (p->out >= 0) {
		close(p->out);
		if (!p->written)
			unlink(p->path);
	}
	free(p->point);
	free(p->actual);
	free(p);
}

static bool make_room(struct plot *p)
{
	struct point *point;

	if (p->points < p->room)
		return true;
	point = realloc(p->point, (2 * p->room + 64) * p->count * sizeof(*point));
	if (point == NULL) {
		p->failed = true;
		return false;
	}
	p->point = point;
	p->room = 2 * p->room + 64;
	return true;
}

void plot_add(struct plot *p, const struct moetap_forecast *f)
{
	size_t at = (size_t)p->layer * moetap_forecast_experts(f);
	struct moetap_forecast_info info;

	moetap_forecast_info(f, &info);
	/* Without tokens there is nothing to compare with. */
	if (moetap_series_mean_shares(
		    p->series, p->layer, info.step + 1, info.step + info.horizon, p->actual) == 0 ||
		!make_room(p))
		return;
	for (uint32_t i = 0; i < p->count; i++)
		p->point[p->points * p->count + i] = (struct point){
			.method = info.method,
			.step = info.step,
			.share = moetap_forecast_share(f)[at + p->expert[i]],
			.low = moetap_forecast_low(f)[at + p->expert[i]],
			.high = moetap_forecast_high(f)[at + p->expert[i]],
			.actual = p->actual[p->expert[i]],
		};
	p->points++;
}

/** The shares of the trace, as means of so many steps that not too many points are made. */
static void write_loads(struct plot *p, FILE *to)
{
	int64_t first = moetap_series_first_step(p->series);
	int64_t last = moetap_series_last_step(p->series);
	int64_t span = (last - first) / POINTS_MOST + 1;

	fprintf(to, "$loads << EOD\n");
	for (int64_t step = first; step <= last; step += span) {
		if (moetap_series_mean_shares(
			    p->series, p->layer, step, step + span - 1, p->actual) == 0)
			continue;
		fprintf(to, "%lld", (long long)(step + span / 2));
		for (uint32_t i = 0; i < p->count; i++)
			fprintf(to, " %.9g", p->actual[p->expert[i]]);
		fprintf(to, "\n");
	}
	fprintf(to, "EOD\n");
}

/** The forecasts of a method: step, then share, low, high and actual of each expert. */
static void write_method(struct plot *p, FILE *to, uint32_t number, const char *method)
{
	fprintf(to, "$m%u << EOD\n", number);
	for (size_t k = 0; k < p->points; k++) {
		const struct point *x = p->point + k * p->count;

		if (strcmp(x->method, method) != 0)
			continue;
		fprintf(to, "%lld", (long long)x->step);
		for (uint32_t i = 0; i < p->count; i++)
			fprintf(to, " %.9g %.9g %.9g %.9g", x[i].share, x[i].low, x[i].high,
				x[i].actual);
		fprintf(to, "\n");
	}
	fprintf(to, "EOD\n");
}

/** Writes the data of every method and notes their names. Returns how many there are. */
static uint32_t write_methods(struct plot *p, FILE *to, const char *name[], uint32_t most)
{
	uint32_t count = 0;

	for (size_t k = 0; k < p->points; k++) {
		uint32_t i = 0;

		while (i < count && strcmp(name[i], p->point[k * p->count].method) != 0)
			i++;
		if (i < count || count == most)
			continue;
		name[count++] = p->point[k * p->count].method;
		write_method(p, to, i, name[i]);
	}
	return count;
}

/** The range that shows forecasts and what came; early intervals may reach far beyond it. */
static void write_range(const struct plot *p, FILE *to, uint32_t i)
{
	double low = 1, high = 0, more;

	for (size_t k = 0; k < p->points; k++) {
		const struct point *x = &p->point[k * p->count + i];

		low = fmin(low, fmin(x->share, x->actual));
		high = fmax(high, fmax(x->share, x->actual));
	}
	more = fmax(high - low, 0.1 * high) + 1e-6;
	fprintf(to, "set yrange [%.9g:%.9g]\n", fmax(low - more, 0), high + more);
}

static void write_panel(
	const struct plot *p, FILE *to, uint32_t i, const char *const name[], uint32_t methods)
{
	write_range(p, to, i);
	fprintf(to, "set title 'layer %u, expert %u'\nplot ", p->layer, p->expert[i]);
	/* Bands of several methods would hide each other. */
	if (methods == 1)
		fprintf(to,
			"$m0 using 1:%u:%u with filledcurves lc rgb '#a6cee3' fs transparent "
			"solid 0.5 title '80 %% interval', ",
			3 + 4 * i, 4 + 4 * i);
	fprintf(to, "$loads using 1:%u with points pt 7 ps 0.15 lc rgb '#999999' title 'loads', ",
		2 + i);
	fprintf(to, "$m0 using 1:%u with lines lw 2 lc rgb 'black' title 'next %u steps'",
		5 + 4 * i, p->horizon);
	for (uint32_t m = 0; m < methods; m++)
		fprintf(to, ", $m%u using 1:%u with linespoints pt 7 ps 0.3 lt %u title '%s'", m,
			2 + 4 * i, m + 1, name[m]);
	fprintf(to, "\n");
}

static void write_script(struct plot *p, FILE *to)
{
	const char *name[16];
	uint32_t methods;

	gnuplot_terminal(to, p->path, 1200, 900);
	write_loads(p, to);
	methods = write_methods(p, to, name, 16);
	fprintf(to,
		"set multiplot layout %u,%u title 'share of the tokens; forecasts stand at the "
		"step after which they were made'\n",
		(p->count + 1) / 2, p->count > 1 ? 2 : 1);
	fprintf(to, "set key noenhanced\nset xlabel 'step'\n");
	for (uint32_t i = 0; i < p->count; i++)
		write_panel(p, to, i, name, methods);
	fprintf(to, "unset multiplot\n");
}

int plot_write(struct plot *p)
{
	FILE *script;
	int status;

	if (p->failed)
		return cli_fail(p->verb, "no memory for the plot");
	if (p->points == 0)
		return cli_fail(p->verb, "layer %u has no tokens to plot", p->layer);
	script = tmpfile();
	if (script == NULL)
		return cli_fail(p->verb, "temporary file: %s", strerror(errno));
	write_script(p, script);
	status = gnuplot_run(p->verb, script, p->out, p->path);
	p->written = status == CLI_DONE;
	fclose(script);
	return status;
}
