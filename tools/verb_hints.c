/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap hints`: publish, show and watch hint pages. */
#include "cli.h"
#include "loads.h"
#include "moetap.h"
#include "moetap_hint.h"
#include "publication.h"
#include "verbs.h"

#include <signal.h>
#include <stdlib.h>
#include <time.h>

/* ---- showing ---- */

static const char *verdict_name(const struct moetap_hint *hint)
{
	return hint->verdict == MOETAP_HINT_PLAN ? "plan" : "keep";
}

static const char *known_name(uint32_t known)
{
	const char *const names[] = {"start", "acknowledged", "stated", "noticed", "unknown"};

	return known < sizeof(names) / sizeof(names[0]) ? names[known] : "unknown";
}

static void print_slots(const struct moetap_hint *hint, uint32_t layer)
{
	const uint32_t *slots = moetap_hint_placement(hint, layer);
	uint32_t per_rank = hint->slots / hint->ranks;

	if (slots == NULL)
		printf("unknown");
	for (uint32_t s = 0; slots != NULL && s < hint->slots; s++)
		printf("%s%u", s == 0 ? "" : s % per_rank == 0 ? " | " : " ", slots[s]);
	putchar('\n');
}

static void print_layers(const struct moetap_hint *hint)
{
	printf("layer  state      since     drift  error  slots: experts\n");
	for (uint32_t l = 0; l < hint->layers; l++) {
		const struct moetap_hint_layer *layer = moetap_hint_state(hint, l);

		printf("%5u  %-9s  %-8lld  %.3f  %.3f  ", l, layer->stable ? "stable" : "transient",
			(long long)layer->since, layer->drift, layer->error);
		print_slots(hint, l);
	}
}

/** Until when a hint holds, and what of it is there to be taken. */
static void print_terms(const struct moetap_hint *hint)
{
	time_t seconds = (time_t)(hint->expires_ns / 1000000000u);
	char when[40];
	struct tm tm;

	strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", gmtime_r(&seconds, &tm));
	printf("holds         until step %lld%s%s\n", (long long)hint->expires_step,
		hint->expires_ns != 0 ? " and " : "", hint->expires_ns != 0 ? when : "");
	printf("in force      %s\n", known_name(hint->known));
	printf("carries       forecast%s%s%s%s%s\n",
		moetap_hint_placement(hint, 0) != NULL ? ", placement" : "",
		moetap_hint_split(hint, 0) != NULL ? ", split" : "",
		moetap_hint_bias(hint, 0) != NULL ? ", gate bias" : "",
		moetap_hint_capacity(hint, 0) != NULL ? ", capacity factors" : "",
		moetap_hint_network(hint, 0) != NULL ? ", network" : "");
}

static int print_text(const struct moetap_hint *hint)
{
	time_t seconds = (time_t)(hint->publish_time_ns / 1000000000u);
	char when[40], quality[128];
	struct tm tm;

	strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", gmtime_r(&seconds, &tm));
	moetap_quality_text(hint->quality & MOETAP_QUALITY_INEXACT, quality, sizeof(quality));
	printf("generation    %llu, published %s\n", (unsigned long long)hint->generation, when);
	printf("verdict       %s\n", hint->reason);
	printf("placement     of generation %llu, from step %lld on\n",
		(unsigned long long)hint->placement_generation, (long long)hint->valid_from_step);
	printf("forecast      %s, %u steps after step %lld\n", hint->method, hint->horizon,
		(long long)hint->made_after_step);
	printf("balancedness  %.3f in force, %.3f planned, %lld slots to move\n",
		hint->balancedness_before, hint->balancedness_after, (long long)hint->moves);
	if (hint->quality & MOETAP_QUALITY_UNKNOWN)
		printf("quality       unknown: the trace does not say it (moetap count --format "
		       "json does)\n");
	else
		printf("quality       %llu of %llu rounds not exact%s%s\n",
			(unsigned long long)hint->flagged, (unsigned long long)hint->rounds,
			quality[0] != '\0' ? ": " : "", quality);
	if (hint->unseen_ppm > 0)
		printf("estimated     %.1f %% of the tokens behind it: they cross no NIC\n",
			hint->unseen_ppm / 1e4);
	print_terms(hint);
	print_layers(hint);
	return CLI_DONE;
}

static json_t *real_array(const double *values, uint32_t n)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < n; i++)
		json_array_append_new(array, cli_number(values[i]));
	return array;
}

/** null for what the hint does not carry. */
static json_t *float_array(const float *values, uint32_t n)
{
	json_t *array = values != NULL ? json_array() : json_null();

	for (uint32_t i = 0; values != NULL && i < n; i++)
		json_array_append_new(array, cli_number((double)values[i]));
	return array;
}

static json_t *placement_json(const struct moetap_hint *hint, const uint32_t *slots)
{
	json_t *array = slots != NULL ? json_array() : json_null();

	for (uint32_t s = 0; slots != NULL && s < hint->slots; s++)
		json_array_append_new(array, json_integer(slots[s]));
	return array;
}

static json_t *network_json(const struct moetap_hint_network *n)
{
	if (n == NULL)
		return json_null();
	return json_pack("{s:f, s:f, s:I, s:o}", "busiest", (double)n->busiest, "mean",
		(double)n->mean, "queue_pairs", (json_int_t)n->queue_pairs, "traffic_class",
		n->traffic_class >= 0 ? json_integer(n->traffic_class) : json_null());
}

static json_t *layers_json(const struct moetap_hint *hint)
{
	json_t *layers = json_array();

	for (uint32_t l = 0; l < hint->layers; l++) {
		const struct moetap_hint_layer *state = moetap_hint_state(hint, l);
		const float *split = moetap_hint_split(hint, l);
		json_t *nodes = split != NULL ? json_array() : json_null();

		for (uint32_t k = 0; split != NULL && k < hint->nodes; k++)
			json_array_append_new(nodes, float_array(split + (size_t)k * hint->slots, hint->slots));
		json_array_append_new(layers,
			json_pack("{s:s, s:I, s:f, s:f, s:f, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "state",
				state->stable ? "stable" : "transient", "since",
				(json_int_t)state->since, "drift", state->drift, "error",
				state->error, "noise", state->noise, "placement",
				placement_json(hint, moetap_hint_placement(hint, l)),
				"share", real_array(moetap_hint_share(hint, l), hint->experts),
				"low", real_array(moetap_hint_low(hint, l), hint->experts), "high",
				real_array(moetap_hint_high(hint, l), hint->experts), "split", nodes,
				"bias", float_array(moetap_hint_bias(hint, l), hint->experts),
				"capacity",
				float_array(moetap_hint_capacity(hint, l), hint->experts), "network",
				network_json(moetap_hint_network(hint, l))));
	}
	return layers;
}

static int print_json(const struct moetap_hint *hint)
{
	char quality[128];
	json_t *root = json_pack("{s:I, s:I, s:I, s:s, s:s, s:I, s:I, s:I, s:b, s:s}", "generation",
		(json_int_t)hint->generation, "placement_generation",
		(json_int_t)hint->placement_generation, "publish_time_ns",
		(json_int_t)hint->publish_time_ns, "verdict", verdict_name(hint), "reason",
		hint->reason, "made_after_step", (json_int_t)hint->made_after_step,
		"valid_from_step", (json_int_t)hint->valid_from_step, "horizon",
		(json_int_t)hint->horizon, "stable", (int)hint->stable, "method", hint->method);
	json_t *more = json_pack("{s:f, s:f, s:f, s:I, s:I, s:o, s:s, s:f, s:I, s:I, s:I, s:I, s:I, s:o, s:s, s:o}",
		"gain", hint->gain, "balancedness_before", hint->balancedness_before,
		"balancedness_after", hint->balancedness_after, "moves", (json_int_t)hint->moves,
		"rounds", (json_int_t)hint->rounds, "flagged",
		flagged_json(hint->quality, hint->flagged), "quality",
		moetap_quality_text(hint->quality, quality, sizeof(quality)), "estimated",
		hint->unseen_ppm / 1e6, "ranks",
		(json_int_t)hint->ranks, "nodes", (json_int_t)hint->nodes, "slots",
		(json_int_t)hint->slots, "groups", (json_int_t)hint->groups, "expires_step",
		(json_int_t)hint->expires_step, "expires_ns",
		hint->expires_ns != 0 ? json_integer((json_int_t)hint->expires_ns) : json_null(),
		"in_force", known_name(hint->known), "layers", layers_json(hint));

	if (root != NULL && more != NULL)
		json_object_update(root, more);
	json_decref(more);
	return cli_print_json("hints", root);
}

static int print_hint(const struct moetap_hint *hint, int format)
{
	return format == 0 ? print_text(hint) : print_json(hint);
}

/* ---- reading ---- */

int hints_explain(const char *verb, const char *name, int err)
{
	if (err == -ENOENT)
		return cli_fail(verb,
			"nobody published hints as '%s' (there is no " MOETAP_HINT_PATH "%s)", name,
			name);
	if (err == -EPROTO)
		return cli_fail(verb,
			MOETAP_HINT_PATH
			"%s is no hint page of version %u: cut short, damaged, or "
			"of another version of moetap; publish anew after removing it",
			name, MOETAP_HINT_VERSION);
	if (err == -ENODATA)
		return cli_fail(verb, "no hint was published as '%s' yet", name);
	if (err == -ESTALE)
		return cli_fail(verb, "the hint page '%s' was just replaced; try again", name);
	if (err == -EAGAIN)
		return cli_fail(
			verb, "the hint page '%s' is damaged: checksums do not match", name);
	if (err == -EINVAL)
		return cli_fail(verb, "'%s' cannot name a hint page", name);
	return cli_fail(verb, MOETAP_HINT_PATH "%s: %s", name, strerror(-err));
}

/** Copies the newest acknowledgement of a layer. Returns whether there is one. */
static bool newest_ack(
	const struct moetap_hint_reader *reader, uint32_t layer, struct moetap_hint_ack *ack)
{
	void *buffer = malloc(moetap_hint_ack_bytes(reader));
	bool there = buffer != NULL && moetap_hint_ack_read(reader, layer,
					       moetap_hint_acked(reader, layer), buffer) == 0;

	if (there)
		memcpy(ack, buffer, sizeof(*ack));
	free(buffer);
	return there;
}

/** What the job answered, a line for layers that answered alike. */
static void print_acks(const struct moetap_hint_reader *reader)
{
	uint32_t layers = moetap_hint_head(reader)->layers;
	struct moetap_hint_ack ack = {0}, next = {0};

	for (uint32_t l = 0, end; l < layers; l = end) {
		bool there = newest_ack(reader, l, &ack);

		for (end = l + 1; end < layers; end++)
			if (newest_ack(reader, end, &next) != there ||
				(there && (next.generation != ack.generation ||
						  next.step != ack.step)))
				break;
		if (there)
			printf("acknowledged  generation %llu from step %lld on, layers %u to %u\n",
				(unsigned long long)ack.generation, (long long)ack.step, l,
				end - 1);
	}
}

/** Reads the newest hint of an open page and prints it. Returns 0 or a negative errno. */
static int read_and_print(struct moetap_hint_reader *reader, int format)
{
	void *buffer = malloc(moetap_hint_bytes(reader));
	int ret;

	if (buffer == NULL)
		return -ENOMEM;
	ret = moetap_hint_read(reader, buffer);
	if (ret == 0)
		print_hint(buffer, format);
	if (ret == 0 && format == 0)
		print_acks(reader);
	free(buffer);
	return ret;
}

static int show(int argc, char **argv)
{
	struct moetap_hint_reader reader;
	int format = 0, first, status, ret;
	const struct cli_option options[] = {
		{"format", CLI_CHOICE, &format, "text|json", "text (default) or json", false},
		{0},
	};
	const struct cli cli = {"hints show", "NAME", 1,
		"Prints the newest hint of the page NAME.\n\n  moetap hints show my-job", options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	ret = moetap_hint_open(&reader, argv[first]);
	if (ret == 0) {
		ret = read_and_print(&reader, format);
		moetap_hint_close(&reader);
	}
	return ret == 0 ? CLI_DONE : hints_explain("hints show", argv[first], ret);
}

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

/** Prints every hint of one page as it comes, until the page is retired or we are stopped. */
static int watch_page(struct moetap_hint_reader *reader, int format)
{
	const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
	int ret = 0;

	while (!stopped && ret == 0) {
		if (moetap_hint_changed(reader)) {
			ret = read_and_print(reader, format);
			fflush(stdout);
		}
		if (ret == 0 || ret == -ENODATA)
			nanosleep(&pause, NULL);
		ret = ret == -ENODATA ? 0 : ret;
	}
	return ret;
}

static int watch(int argc, char **argv)
{
	const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
	const struct sigaction action = {.sa_handler = stop};
	struct moetap_hint_reader reader;
	int format = 0, first, status, ret = 0;
	const struct cli_option options[] = {
		{"format", CLI_CHOICE, &format, "text|json", "text (default) or json", false},
		{0},
	};
	const struct cli cli = {"hints watch", "NAME", 1,
		"Prints every new hint of the page NAME, also when it is made later or anew, until "
		"it is\nstopped (Ctrl-C).\n\n  moetap hints watch my-job",
		options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	while (!stopped) {
		ret = moetap_hint_open(&reader, argv[first]);
		if (ret == 0) {
			ret = watch_page(&reader, format);
			moetap_hint_close(&reader);
		}
		if (ret != 0 && ret != -ENOENT && ret != -ESTALE)
			return hints_explain("hints watch", argv[first], ret);
		nanosleep(&pause, NULL);
	}
	return CLI_DONE;
}

/* ---- publishing ---- */

/** What the layers ask of the network, where the trace says who sent what. */
static int look_at_network(struct publication *p)
{
	struct moetap_error error;

	if (p->queue_pairs == 0 && p->traffic_class < 0)
		return CLI_DONE;
	p->network = calloc(moetap_series_layers(p->outlook.series), sizeof(*p->network));
	if (p->network == NULL)
		return cli_fail("hints publish", "out of memory");
	if (moetap_network_layers(p->outlook.series, p->outlook.forecast, NETWORK_STEPS,
		    p->queue_pairs, (int32_t)p->traffic_class, p->network, &error) < 0)
		return cli_fail("hints publish", "--queue-pairs, --traffic-class: %s", error.text);
	p->terms.network = p->network;
	return CLI_DONE;
}

/** Shown as a job would read it. */
static int show_sent(const struct publication *p, int format)
{
	struct moetap_hint_reader reader;
	int ret = moetap_hint_open(&reader, p->name);

	if (ret == 0) {
		ret = read_and_print(&reader, format);
		moetap_hint_close(&reader);
	}
	return ret == 0 ? CLI_DONE : hints_explain("hints publish", p->name, ret);
}

/** A trace of slots, as the wire shows them. */
static int look_ahead_slots(struct publication *p, const char *trace)
{
	struct moetap_series *slots;
	int status = series_read("hints publish", trace, &slots);

	if (status != CLI_DONE)
		return status;
	status = publication_look(p, slots);
	moetap_series_free(slots);
	return status;
}

static int run_publication(struct publication *p, const char *trace, int format)
{
	int status = p->experts > 0 ? look_ahead_slots(p, trace)
				    : look_ahead("hints publish", trace, &p->request, &p->outlook);
	struct moetap_forecast_info info;

	if (status == CLI_DONE) {
		moetap_forecast_info(p->outlook.forecast, &info);
		report_estimated("hints publish", info.unseen, info.unseen_blind);
		status = publication_decide(p);
	}
	if (status == CLI_DONE)
		status = look_at_network(p);
	if (status == CLI_DONE)
		status = publication_send(p);
	if (status == CLI_DONE)
		status = show_sent(p, format);
	publication_free(p);
	return status;
}

static const char publish_about[] =
	"From a trace to a hint: forecasts, looks at the state, plans, and publishes a plan on "
	"the\npage NAME only if all layers are stable and the plan's predicted gain exceeds the\n"
	"threshold; else the hint says 'keep' and why. With any of the prices, what it saves over\n"
	"the horizon at the low end of the intervals must also be twice what the move costs; or\n"
	"plans made earlier have, on the steps since, saved more than that cost.\n"
	"Prints the hint as 'hints show' does. The page stays in " MOETAP_HINT_PATH "NAME.\n\n"
	"  moetap hints publish --horizon 1000 --ranks 8 --slots 72 my-job loads.csv";

static int publish(int argc, char **argv)
{
	struct publication p = {
		.verb = "hints publish", .shape = {.nodes = 1, .groups = 1}, .rule = {.threshold = MOETAP_GAIN_THRESHOLD},
		.terms = {.bias_rate = MOETAP_BIAS_RATE}, .traffic_class = -1};
	int format = 0, first, status;
	const struct cli_option options[] = {
		{"horizon", CLI_COUNT, &p.request.horizon, "H", "steps ahead", true},
		{"ranks", CLI_COUNT, &p.shape.ranks, "R", "ranks", true},
		{"nodes", CLI_COUNT, &p.shape.nodes, "N", "nodes that hold the ranks (1)", false},
		{"slots", CLI_COUNT, &p.shape.slots, "S", "slots in a layer, over all ranks", true},
		{"groups", CLI_COUNT, &p.shape.groups, "G", "groups of experts (1: none)", false},
		{"current", CLI_TEXT, &p.current_path, "PLAN.json",
			"placement in force; slot s holds expert s modulo experts if not given",
			false},
		{"experts", CLI_COUNT, &p.experts, "E",
			"the trace counts slots, as the wire shows them, of E experts", false},
		{"placement", CLI_TEXT, &p.stated, "PLAN.json@STEP,...",
			"with --experts: placements in force from these steps on", false},
		{"threshold", CLI_NUMBER, &p.rule.threshold, "X",
			"gain that a plan must bring, as a fraction (0.05)", false},
		PRICE_OPTIONS(p.prices),
		{"min-interval", CLI_COUNT, &p.rule.interval, "K",
			"least steps between two plans on this page (none)", false},
		{"lifetime", CLI_NUMBER, &p.terms.lifetime, "SECONDS",
			"after which the hint is stale (0: only after its steps)", false},
		{"bias-rate", CLI_NUMBER, &p.terms.bias_rate, "RATE",
			"size of a step of the gate's bias (0.001)", false},
		{"queue-pairs", CLI_COUNT, &p.queue_pairs, "MOST",
			"advise so many queue pairs a connection at most, for NCCL", false},
		{"traffic-class", CLI_STEP, &p.traffic_class, "N", "0 to 255, advised as it is", false},
		{"method", CLI_TEXT, &p.request.method, "NAME", "auto (default), arima, lstm, sw_avg or last", false},
		{"window", CLI_COUNT, &p.request.window, "W",
			"steps that sw_avg averages; chosen from the history if not given", false},
		{"policy", CLI_TEXT, &p.policy, "NAME", "moetap (default) or eplb", false},
		{"format", CLI_CHOICE, &format, "text|json", "text (default) or json", false},
		{0},
	};
	const struct cli cli = {"hints publish", "NAME TRACE", 2, publish_about, options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	p.name = argv[first];
	if (p.experts > 0 ? p.current_path != NULL : p.stated != NULL)
		return cli_usage(&cli, "--experts goes with --placement, not with --current");
	if (p.traffic_class > 255 || p.queue_pairs > MOETAP_QUEUE_PAIRS_MAX)
		return cli_usage(&cli, "--traffic-class is 0 to 255, --queue-pairs 1 to %u",
			MOETAP_QUEUE_PAIRS_MAX);
	if (!(p.rule.threshold >= 0 && p.rule.threshold <= 1))
		return cli_usage(&cli, "--threshold is a fraction, from 0 to 1");
	if (p.policy != NULL && strcmp(p.policy, "experts") == 0)
		return cli_usage(&cli, "--policy experts is judged by tokens here; see moetap plan");
	return run_publication(&p, argv[first + 1], format);
}

/* ---- the table ---- */

static const struct verb verbs[] = {
	{"publish", publish, "from a trace to a hint"},
	{"show", show, "the newest hint of a page"},
	{"watch", watch, "every new hint of a page"},
	{"network", hints_network, "bytes to come between ranks, for controllers of switches"},
	{"export", hints_export, "a placement as a file that a framework reads"},
};

int verb_hints(int argc, char **argv)
{
	return cli_verbs("hints", verbs, sizeof(verbs) / sizeof(verbs[0]), argc, argv);
}
