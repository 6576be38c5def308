/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap hints network`: what each rank will send to each other one, for those who run switches. */
#include "cli.h"
#include "loads.h"
#include "map.h"
#include "moetap.h"
#include "telemetry.h"
#include "verbs.h"

#include <arpa/inet.h>
#include <math.h>
#include <stdlib.h>

/** What is asked for, and what is known. */
struct network {
	struct request request;
	uint32_t token_bytes, combine_bytes, queue_pairs;
	int64_t traffic_class; /**< below 0: not given */
	const char *map, *page;
	int format;
	struct outlook outlook;
	struct mt_bank *bank; /**< NULL: no map was given */
	uint32_t ranks;
	double *bytes;	  /**< [ranks][ranks], source first, a step */
	uint32_t *spread; /**< the same shape, queue pairs */
};

/** From tokens to bytes, in place: those of the dispatch, and of the combine the other way. */
static int count_bytes(struct network *n)
{
	uint32_t r = n->ranks;
	double *tokens = malloc((size_t)r * r * sizeof(*tokens));
	struct moetap_error error;

	if (tokens == NULL)
		return cli_fail("hints network", "out of memory");
	if (moetap_network_tokens(n->outlook.series, n->outlook.forecast, MOETAP_ALL_LAYERS,
		    NETWORK_STEPS, tokens, &error) < 0) {
		free(tokens);
		return cli_fail("hints network", "%s", error.text);
	}
	for (uint32_t s = 0; s < r; s++)
		for (uint32_t d = 0; d < r; d++) {
			double back = tokens[(size_t)d * r + s], out = tokens[(size_t)s * r + d];

			n->bytes[(size_t)s * r + d] =
				isnan(out) && isnan(back)
					? NAN
					: (isnan(out) ? 0 : out * n->token_bytes) +
						  (isnan(back) ? 0 : back * n->combine_bytes);
		}
	free(tokens);
	moetap_network_spread(n->bytes, r, n->queue_pairs, n->spread);
	return CLI_DONE;
}

/** The address of a rank by the map, or null; the first one if it has several. */
static json_t *address(const struct network *n, uint32_t rank)
{
	const struct mt_addr *a = n->bank != NULL ? mt_bank_addrs(n->bank) : NULL;
	char text[INET6_ADDRSTRLEN];

	for (uint32_t i = 0; n->bank != NULL && i < n->bank->addrs; i++)
		if (a[i].rank == rank)
			return json_string(mt_ip_text(a[i].ip, text));
	return json_null();
}

static json_t *pairs_json(const struct network *n)
{
	json_t *pairs = json_array();

	for (uint32_t s = 0; s < n->ranks; s++)
		for (uint32_t d = 0; d < n->ranks; d++) {
			size_t at = (size_t)s * n->ranks + d;

			if (isnan(n->bytes[at]))
				continue;
			json_array_append_new(pairs,
				json_pack("{s:I, s:I, s:o, s:o, s:f, s:I}", "src", (json_int_t)s,
					"dst", (json_int_t)d, "src_address", address(n, s),
					"dst_address", address(n, d), "bytes", n->bytes[at],
					"queue_pairs", (json_int_t)n->spread[at]));
		}
	return pairs;
}

/** Columns of the telemetry as objects, one a row. */
static json_t *rows_of(const json_t *columns)
{
	json_t *rows = json_array(), *column;
	const char *name;

	json_object_foreach((json_t *)columns, name, column)
	{
		for (size_t i = 0; i < json_array_size(column); i++) {
			if (json_array_size(rows) <= i)
				json_array_append_new(rows, json_object());
			json_object_set(json_array_get(rows, i), name, json_array_get(column, i));
		}
	}
	return rows;
}

/** What a running firmware sees to be wrong; null where no page was named. Returns an exit status. */
static int add_seen(const struct network *n, json_t *root)
{
	static const struct {
		const char *name, *command;
	} seen[] = {{"shared_source_ports", "/moetap/ports"}, {"congestion", "/moetap/congestion"}};
	char why[256];

	for (size_t i = 0; i < sizeof(seen) / sizeof(seen[0]); i++) {
		json_t *columns = NULL;

		if (n->page != NULL)
			columns = telemetry_ask(n->page, seen[i].command, why, sizeof(why));
		if (n->page != NULL && columns == NULL)
			return cli_fail("hints network", "%s", why);
		json_object_set_new(root, seen[i].name, columns != NULL ? rows_of(columns) : json_null());
		json_decref(columns);
	}
	return CLI_DONE;
}

static int print_json(const struct network *n)
{
	struct moetap_forecast_info info;
	char quality[128];
	json_t *root;

	moetap_forecast_info(n->outlook.forecast, &info);
	root = json_pack("{s:I, s:I, s:s, s:o, s:s, s:f, s:I, s:o, s:o}", "made_after_step",
		(json_int_t)info.step, "horizon", (json_int_t)info.horizon, "method", info.method,
		"flagged", flagged_json(info.quality, info.flagged), "quality",
		moetap_quality_text(info.quality, quality, sizeof(quality)), "estimated",
		info.unseen, "ranks", (json_int_t)n->ranks, "traffic_class",
		n->traffic_class >= 0 ? json_integer(n->traffic_class) : json_null(), "pairs",
		pairs_json(n));
	if (add_seen(n, root) != CLI_DONE) {
		json_decref(root);
		return CLI_FAILED;
	}
	return cli_print_json("hints network", root);
}

static int print_csv(const struct network *n)
{
	printf("src,dst,bytes,queue_pairs\n");
	for (size_t p = 0; p < (size_t)n->ranks * n->ranks; p++)
		if (!isnan(n->bytes[p]))
			printf("%zu,%zu,%.0f,%u\n", p / n->ranks, p % n->ranks, n->bytes[p],
				n->spread[p]);
	return CLI_DONE;
}

static int run(struct network *n, const char *trace)
{
	struct mt_error wrong;
	int status;

	if (n->map != NULL && mt_map_load(n->map, &n->bank, &wrong) < 0)
		return cli_fail("hints network", "%s", wrong.text);
	status = look_ahead("hints network", trace, &n->request, &n->outlook);
	if (status != CLI_DONE)
		return status;
	n->ranks = moetap_network_ranks(n->outlook.series);
	if (n->bank != NULL && n->ranks > n->bank->ranks)
		return cli_fail("hints network", "the trace has %u ranks, %s has %u: it is of "
			"another job", n->ranks, n->map, n->bank->ranks);
	n->bytes = malloc((size_t)n->ranks * n->ranks * sizeof(*n->bytes) + 1);
	n->spread = malloc((size_t)n->ranks * n->ranks * sizeof(*n->spread) + 1);
	if (n->bytes == NULL || n->spread == NULL)
		return cli_fail("hints network", "out of memory");
	status = count_bytes(n);
	if (status != CLI_DONE)
		return status;
	return n->format == 0 ? print_csv(n) : print_json(n);
}

static const char about[] =
	"Bytes that each rank will send to each other one in a step, as a mean over the H steps "
	"after\nthe end of the trace, for controllers of switches. The trace has to name sources, as "
	"what\n'moetap count' prints does. Prints CSV src,dst,bytes,queue_pairs: so many queue pairs "
	"that\neach would carry about the same; pairs of ranks that pass no tap are left out.\n\n"
	"  moetap hints network --horizon 100 --token-bytes 7168 counts.json";

int hints_network(int argc, char **argv)
{
	struct network n = {.queue_pairs = 1, .traffic_class = -1};
	int first, status;
	const struct cli_option options[] = {
		{"horizon", CLI_COUNT, &n.request.horizon, "H", "steps ahead", true},
		{"token-bytes", CLI_COUNT, &n.token_bytes, "B", "bytes of a token on its way out", true},
		{"combine-bytes", CLI_COUNT, &n.combine_bytes, "B",
			"bytes of a token on its way back (not counted)", false},
		{"queue-pairs", CLI_COUNT, &n.queue_pairs, "Q",
			"queue pairs of a pair of ranks with the mean of bytes (1)", false},
		{"traffic-class", CLI_STEP, &n.traffic_class, "N", "0 to 255, handed on as it is", false},
		{"map", CLI_TEXT, &n.map, "MAP.yaml", "JSON: say the ranks' addresses", false},
		{"page", CLI_TEXT, &n.page, "NAME",
			"JSON: what the moetap-fw of this page sees: queue pairs that share source "
			"ports, congestion",
			false},
		{"method", CLI_TEXT, &n.request.method, "NAME",
			"auto (default), arima, lstm, sw_avg or last", false},
		{"format", CLI_CHOICE, &n.format, "csv|json", "csv (default) or json", false},
		{0},
	};
	const struct cli cli = {"hints network", "TRACE", 1, about, options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	if (n.traffic_class > 255)
		return cli_usage(&cli, "--traffic-class: a class is 0 to 255");
	if (n.format == 0 && (n.map != NULL || n.page != NULL || n.traffic_class >= 0))
		return cli_usage(&cli, "--map, --page and --traffic-class go with --format json");
	status = run(&n, argv[first]);
	free(n.bytes);
	free(n.spread);
	free(n.bank);
	outlook_free(&n.outlook);
	return status;
}
