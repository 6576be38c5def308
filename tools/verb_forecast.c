/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap forecast`: shares of the next steps. */
#include "cli.h"
#include "loads.h"
#include "moetap.h"
#include "verbs.h"

#include <stdio.h>

static const char about[] =
	"Forecasts the mean share of every (layer, expert) over the H steps after the end of the\n"
	"trace, with 80 % intervals. Prints CSV layer,expert,share,low,high. TRACE has the\n"
	"header step,l0_e0,l0_e1,... or is what 'moetap count' prints; - is standard input. What\n"
	"'moetap count --format json' prints says how good each round is, and that is carried on;\n"
	"of a CSV the quality is unknown. Where TRACE names sources, tokens that cross no NIC are\n"
	"estimated: intervals are wider by that, and standard error says how much it is.\n\n"
	"  moetap forecast --horizon 1000 loads.csv\n"
	"  moetap count --format json --page job | moetap forecast --horizon 1000 -";

static void print_csv(const struct moetap_forecast *f)
{
	uint32_t experts = moetap_forecast_experts(f);

	printf("layer,expert,share,low,high\n");
	for (size_t c = 0; c < (size_t)moetap_forecast_layers(f) * experts; c++)
		printf("%zu,%zu,%.9f,%.9f,%.9f\n", c / experts, c % experts,
			moetap_forecast_share(f)[c], moetap_forecast_low(f)[c],
			moetap_forecast_high(f)[c]);
}

static json_t *table(const struct moetap_forecast *f, const struct moetap_series *series)
{
	uint32_t experts = moetap_forecast_experts(f);
	json_t *rows = json_array();

	for (size_t c = 0; c < (size_t)moetap_forecast_layers(f) * experts; c++)
		json_array_append_new(rows,
			json_pack("{s:I, s:I, s:o, s:o, s:o, s:f, s:b}", "layer",
				(json_int_t)(c / experts), "expert", (json_int_t)(c % experts),
				"share", cli_number(moetap_forecast_share(f)[c]), "low",
				cli_number(moetap_forecast_low(f)[c]), "high",
				cli_number(moetap_forecast_high(f)[c]), "estimated",
				moetap_forecast_unseen(f)[c], "seen", (int)moetap_series_seen(series, (uint32_t)(c % experts))));
	return rows;
}

static int print_json(const struct outlook *o)
{
	const struct moetap_forecast *f = o->forecast;
	struct moetap_forecast_info info;
	char quality[128];

	moetap_forecast_info(f, &info);
	return cli_print_json("forecast",
		json_pack("{s:s, s:I, s:I, s:I, s:s, s:f, s:b, s:I, s:o, s:s, s:o, s:o}", "method",
			info.method, "made_after_step", (json_int_t)info.step, "horizon",
			(json_int_t)info.horizon, "window", (json_int_t)info.window, "interval",
			info.interval, "estimated", info.unseen, "estimate_bounded", !info.unseen_blind,
			"rounds", (json_int_t)info.rounds, "flagged",
			flagged_json(info.quality, info.flagged), "quality",
			moetap_quality_text(info.quality, quality, sizeof(quality)), "state",
			state_json(o->state, moetap_forecast_layers(f)), "forecast",
			table(f, o->series)));
}

/** A table of shares has no place for it. */
static void report_flagged(const struct moetap_forecast *f)
{
	struct moetap_forecast_info info;
	char quality[128];

	moetap_forecast_info(f, &info);
	report_estimated("forecast", info.unseen, info.unseen_blind);
	if (info.flagged > 0)
		fprintf(stderr,
			"moetap forecast: %llu of the %llu rounds behind it not exact: %s\n",
			(unsigned long long)info.flagged, (unsigned long long)info.rounds,
			moetap_quality_text(
				info.quality & MOETAP_QUALITY_INEXACT, quality, sizeof(quality)));
}

int verb_forecast(int argc, char **argv)
{
	struct request request = {0};
	struct outlook outlook = {0};
	int format = 0, first, status;
	const struct cli_option options[] = {
		{"horizon", CLI_COUNT, &request.horizon, "H", "steps ahead", true},
		{"method", CLI_TEXT, &request.method, "NAME", "auto (default), arima, lstm, sw_avg or last", false},
		{"window", CLI_COUNT, &request.window, "W",
			"steps that sw_avg averages; chosen from the history if not given", false},
		{"format", CLI_CHOICE, &format, "csv|json", "csv (default) or json", false},
		{0},
	};
	const struct cli cli = {"forecast", "TRACE", 1, about, options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	status = look_ahead("forecast", argv[first], &request, &outlook);
	if (status == CLI_DONE)
		report_flagged(outlook.forecast);
	if (status == CLI_DONE && format == 0)
		print_csv(outlook.forecast);
	else if (status == CLI_DONE)
		status = print_json(&outlook);
	outlook_free(&outlook);
	return status;
}
