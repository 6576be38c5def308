/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap demo`: bundled real data through everything, from packets to a hint. */
#include "cli.h"
#include "loads.h"
#include "loop.h"
#include "moetap.h"
#include "moetap_hint.h"
#include "picture.h"
#include "verbs.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CAPTURE "rxe-4ranks.pcap.gz"
#define MAP "rxe-4ranks.yaml"
#define TRACE "gpt-4x16-short.csv"
#define TRACE_RANKS 8u /* the trace is of one process; its experts are spread over so many */
#define HORIZON_MAX 100u
#define TOP 3u	/* experts shown of a forecast */
#define ROW 16u /* experts in a row of the picture */
#define LABEL "%-10s"

/** From loads to a hint, as one verb after the other would do it. */
struct story {
	char page[32]; /**< of hints */
	struct moetap_shape shape;
	uint32_t layers, experts;
	struct outlook outlook;
	double *loads; /**< mean tokens a step, [layers][experts] */
	struct moetap_plan *current, *plan;
	double *before, *after; /**< balancedness of the loads, [layers] */
	struct moetap_decision decision;
	struct moetap_hint *hint; /**< as a job reads it */
	struct moetap_stats stats;
	uint64_t rounds, exact;
	double seconds;
};

/* ---- the bundled data ---- */

/** Where the data lies: beside the program (build tree), or installed. `place` is of PATH_MAX. */
static int find_data(char *place)
{
	static const char *const beside[] = {"", "/../share/moetap"};
	char program[PATH_MAX], path[PATH_MAX + 32], *slash;
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);

	program[n > 0 ? n : 0] = '\0';
	if (strchr(program_invocation_name, '/') != NULL)
		snprintf(program, sizeof(program), "%s", program_invocation_name);
	slash = strrchr(program, '/');
	for (size_t i = 0; slash != NULL && i < sizeof(beside) / sizeof(beside[0]); i++) {
		*slash = '\0';
		snprintf(path, sizeof(path), "%s%s", program, beside[i]);
		if (strlen(path) < PATH_MAX - sizeof(CAPTURE))
			memcpy(place, path, strlen(path) + 1);
		strcat(path, "/" CAPTURE);
		if (access(path, R_OK) == 0)
			return CLI_DONE;
	}
	strcpy(place, MOETAP_DATA);
	if (access(MOETAP_DATA "/" CAPTURE, R_OK) == 0)
		return CLI_DONE;
	return cli_fail("demo", "the bundled data is not in %s: install moetap again", MOETAP_DATA);
}

/* ---- from packets to loads ---- */

static int take_rounds(struct story *s, struct moetap_source *source)
{
	const struct timespec pause = {.tv_nsec = 1000 * 1000};
	const struct moetap_round *round;
	struct moetap_error error;
	int ret;

	while ((ret = moetap_source_next(source, &round, &error)) >= 0) {
		if (ret == 0) {
			nanosleep(&pause, NULL);
			continue;
		}
		s->rounds++;
		s->exact += !(round->quality & MOETAP_QUALITY_INEXACT);
		if (moetap_series_add_counts(s->outlook.series, round, &error) < 0)
			return cli_fail("demo", "%s", error.text);
	}
	return ret == -EPIPE ? CLI_DONE : cli_fail("demo", "%s", error.text);
}

static int count_capture(struct story *s, const char *place)
{
	const struct moetap_capture_options options = {0};
	char capture[PATH_MAX + 32], map[PATH_MAX + 32];
	struct moetap_source *source;
	struct moetap_error error;
	struct timespec begin, end;
	struct moetap_job job;
	int status;

	snprintf(capture, sizeof(capture), "%s/" CAPTURE, place);
	snprintf(map, sizeof(map), "%s/" MAP, place);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	if (moetap_source_open_capture(capture, map, &options, &source, &error) < 0)
		return cli_fail("demo", "%s", error.text);
	if (moetap_source_job(source, &job) < 0 ||
		moetap_series_new(job.layers, job.experts, 0, &s->outlook.series, &error) < 0) {
		moetap_source_close(source);
		return cli_fail("demo", "moetap-fw has no map, or there is no memory");
	}
	s->shape.ranks = job.ranks;
	status = take_rounds(s, source);
	moetap_source_stats(source, &s->stats);
	moetap_source_close(source);
	clock_gettime(CLOCK_MONOTONIC, &end);
	s->seconds =
		(double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) * 1e-9;
	if (status == CLI_DONE && moetap_series_steps(s->outlook.series) == 0)
		status = cli_fail("demo", "moetap-fw found no rounds in %s", capture);
	return status;
}

static int load_trace(struct story *s, const char *place)
{
	char path[PATH_MAX + 32];
	struct moetap_error error;

	snprintf(path, sizeof(path), "%s/" TRACE, place);
	s->shape.ranks = TRACE_RANKS;
	if (moetap_series_load_trace(path, &s->outlook.series, &error) < 0)
		return cli_fail("demo", "%s", error.text);
	s->rounds = (uint64_t)moetap_series_steps(s->outlook.series) *
		    moetap_series_layers(s->outlook.series);
	s->exact = s->rounds - moetap_series_flagged(s->outlook.series, 0, INT64_MAX, NULL, NULL);
	return CLI_DONE;
}

/* ---- from loads to a hint ---- */

/** The placement in force: every rank holds its own experts. Its spare slot repeats one of them,
 * which leaves the loads of ranks as they are. */
static int place_as_is(struct story *s)
{
	uint32_t slots = s->shape.slots, a_rank = slots / s->shape.ranks;
	uint32_t *expert = calloc((size_t)s->layers * slots, sizeof(*expert));
	struct moetap_error error;
	int ret;

	if (expert == NULL)
		return cli_fail("demo", "out of memory");
	for (uint32_t i = 0; i < s->layers * slots; i++) {
		uint32_t slot = i % slots, last = a_rank - 2;
		uint32_t own = slot % a_rank < last ? slot % a_rank : last;

		expert[i] = slot / a_rank * (a_rank - 1) + own;
	}
	ret = moetap_plan_from_slots(&s->shape, s->layers, s->experts, expert, &s->current, &error);
	free(expert);
	return ret < 0 ? cli_fail("demo", "%s", error.text) : CLI_DONE;
}

static int plan(struct story *s)
{
	const struct moetap_forecast *f = s->outlook.forecast;
	struct moetap_balance unused;
	struct moetap_error error;

	if (place_as_is(s) != CLI_DONE)
		return CLI_FAILED;
	if (moetap_plan_make(NULL, &s->shape, s->layers, s->experts, moetap_forecast_share(f),
		    s->current, &s->plan, &error) < 0)
		return cli_fail("demo", "%s", error.text);
	moetap_decide(
		s->outlook.state, f, s->current, s->plan, MOETAP_GAIN_THRESHOLD, &s->decision);
	s->before = calloc(s->layers, sizeof(*s->before));
	s->after = calloc(s->layers, sizeof(*s->after));
	if (s->before == NULL || s->after == NULL)
		return cli_fail("demo", "out of memory");
	moetap_plan_balance(s->current, s->loads, &unused, s->before);
	moetap_plan_balance(s->plan, s->loads, &unused, s->after);
	return CLI_DONE;
}

static int publish(struct story *s)
{
	struct moetap_publisher *publisher;
	struct moetap_error error;
	int ret = moetap_publisher_open(
		s->page, s->layers, s->experts, &s->shape, &publisher, &error);

	if (ret == -EACCES) { /* another user's demo: take a page of our own */
		size_t n = strlen(s->page);

		snprintf(s->page + n, sizeof(s->page) - n, "-%u", (unsigned int)getuid());
		ret = moetap_publisher_open(
			s->page, s->layers, s->experts, &s->shape, &publisher, &error);
	}
	if (ret < 0)
		return cli_fail("demo", "%s", error.text);
	ret = moetap_publisher_publish(publisher, s->outlook.state, s->outlook.forecast,
		s->decision.verdict == MOETAP_PLAN ? s->plan : s->current, &s->decision, &error);
	moetap_publisher_close(publisher);
	return ret < 0 ? cli_fail("demo", "%s", error.text) : CLI_DONE;
}

/** Reads the hint as a job does. */
static int read_back(struct story *s)
{
	struct moetap_hint_reader reader;
	int ret = moetap_hint_open(&reader, s->page);

	if (ret == 0) {
		s->hint = malloc(moetap_hint_bytes(&reader));
		ret = s->hint != NULL ? moetap_hint_read(&reader, s->hint) : -ENOMEM;
		moetap_hint_close(&reader);
	}
	return ret < 0 ? cli_fail("demo", "cannot read the hint page '%s': %s", s->page,
				 strerror(-ret))
		       : CLI_DONE;
}

/** Everything after the loads. */
static int go_on(struct story *s)
{
	struct request request = {.horizon = moetap_series_steps(s->outlook.series)};

	s->layers = moetap_series_layers(s->outlook.series);
	s->experts = moetap_series_experts(s->outlook.series);
	s->shape.slots = s->shape.ranks * (s->experts / s->shape.ranks + 1);
	s->shape.nodes = s->shape.groups = 1;
	if (request.horizon > HORIZON_MAX)
		request.horizon = HORIZON_MAX;
	s->loads = calloc((size_t)s->layers * s->experts, sizeof(*s->loads));
	if (s->loads == NULL)
		return cli_fail("demo", "out of memory");
	moetap_series_mean_tokens(s->outlook.series, request.horizon, s->loads);
	if (outlook_make("demo", &request, &s->outlook) != CLI_DONE || plan(s) != CLI_DONE ||
		publish(s) != CLI_DONE)
		return CLI_FAILED;
	return read_back(s);
}

static void story_free(struct story *s)
{
	outlook_free(&s->outlook);
	moetap_plan_free(s->current);
	moetap_plan_free(s->plan);
	free(s->loads);
	free(s->before);
	free(s->after);
	free(s->hint);
}

/* ---- as a picture ---- */

static void print_packets(const struct story *s)
{
	const char *separator = ": ";

	printf(LABEL "%" PRIu64 " in %.1f s", "packets", s->stats.packets, s->seconds);
	for (uint32_t i = 0, shown = 0; moetap_outcome_name(i) != NULL; i++) {
		if (s->stats.outcome[i] == 0)
			continue;
		if (shown++ == 5) /* a second line, so that no line is too wide */
			printf(",\n" LABEL, "");
		else
			fputs(separator, stdout);
		printf("%" PRIu64 " %s", s->stats.outcome[i], moetap_outcome_name(i));
		separator = ", ";
	}
	putchar('\n');
}

/** One row of the heat map: some experts of one layer. */
static void print_row(
	const struct picture *p, const struct story *s, uint32_t layer, uint32_t first)
{
	const double *load = s->loads + (size_t)layer * s->experts;
	uint32_t a_rank = s->experts / s->shape.ranks;
	double sum = 0;

	for (uint32_t e = 0; e < s->experts; e++)
		sum += load[e];
	printf(LABEL "layer %-4u", "", layer);
	for (uint32_t e = first; e < s->experts && e < first + ROW; e++) {
		printf("%s", e == first ? "" : e % a_rank == 0 ? "|" : " ");
		picture_cell(p, sum > 0 ? load[e] * s->experts / sum : 0);
	}
	putchar('\n');
}

static void print_loads(const struct picture *p, const struct story *s)
{
	uint32_t a_rank = s->experts / s->shape.ranks;

	printf(LABEL "of every expert%s, as a multiple of an even share (1.0); mean of %u steps\n",
		"load", s->hint->unseen_ppm > 0 ? ", estimated in part" : "", s->hint->horizon);
	for (uint32_t first = 0; first < s->experts; first += ROW) {
		printf(LABEL "expert    ", "");
		for (uint32_t e = first; e < s->experts && e < first + ROW; e++)
			printf("%s%4u", e == first ? "" : e % a_rank == 0 ? "|" : " ", e);
		putchar('\n');
		for (uint32_t l = 0; l < s->layers; l++)
			print_row(p, s, l, first);
	}
}

static void print_ranks(const struct picture *p, const struct story *s)
{
	printf(LABEL "balancedness (mean load / largest) of %u ranks %s with a plan of %u slots, "
		     "by layer\n",
		"ranks", s->shape.ranks, picture_arrow(p), s->shape.slots);
	for (uint32_t l = 0; l < s->layers; l++) {
		const uint32_t *replicas = moetap_plan_replicas(s->plan) + (size_t)l * s->experts;
		uint32_t shown = 0;

		printf(LABEL "layer %-4u%.3f ", "", l, s->before[l]);
		picture_bar(p, s->before[l], 16);
		printf(" %s %.3f ", picture_arrow(p), s->after[l]);
		picture_bar(p, s->after[l], 16);
		for (uint32_t e = 0; e < s->experts && shown < 6; e++)
			if (replicas[e] > 1)
				printf("%s %u", shown++ == 0 ? " replicas of" : ",", e);
		putchar('\n');
	}
}

static void print_state(const struct story *s)
{
	char reason[128] = "";
	bool stable = moetap_state_stable(s->outlook.state, reason);
	struct moetap_layer_state layer;

	moetap_state_layer(s->outlook.state, 0, &layer);
	printf(LABEL "%s: %s\n", "state", stable ? "stable" : "transient",
		reason[0] != '\0' ? reason : layer.reason);
}

/** Index of the largest share that is not marked yet, which it marks. */
static uint32_t next_largest(const double *share, uint32_t experts, bool *taken)
{
	uint32_t best = UINT32_MAX;

	for (uint32_t e = 0; e < experts; e++)
		if (!taken[e] && (best == UINT32_MAX || share[e] > share[best]))
			best = e;
	if (best != UINT32_MAX)
		taken[best] = true;
	return best;
}

static void print_forecast(const struct story *s)
{
	bool *taken = malloc(s->experts * sizeof(*taken));

	printf(LABEL "largest shares over the next %u steps (%s), with 80 %% intervals\n",
		"forecast", s->hint->horizon, s->hint->method);
	for (uint32_t l = 0; l < s->layers && taken != NULL; l++) {
		const double *share = moetap_hint_share(s->hint, l);

		memset(taken, 0, s->experts * sizeof(*taken));
		printf(LABEL "layer %-4u", "", l);
		for (uint32_t i = 0; i < TOP && i < s->experts; i++) {
			uint32_t e = next_largest(share, s->experts, taken);

			printf("%s%u: %.1f %% (%.1f-%.1f)", i > 0 ? "  " : "", e, share[e] * 100,
				moetap_hint_low(s->hint, l)[e] * 100,
				moetap_hint_high(s->hint, l)[e] * 100);
		}
		putchar('\n');
	}
	free(taken);
}

static const char *verdict(const struct story *s)
{
	return s->hint->verdict == MOETAP_HINT_PLAN ? "plan" : "keep";
}

/** Words, broken between words at the given column. */
static void print_wrapped(const char *text, int left)
{
	int column = left;

	while (*text != '\0') {
		int word = (int)strcspn(text, " ");

		if (column > left && column + word >= 98) {
			printf("\n" LABEL, "");
			column = left;
		}
		column += printf("%s%.*s", column > left ? " " : "", word, text);
		text += word + (text[word] == ' ');
	}
	putchar('\n');
}

static void print_hint(const struct story *s)
{
	printf(LABEL, "hint");
	print_wrapped(s->hint->reason, 10);
	printf(LABEL "verdict '%s', read back from hint page '%s' as a job does: generation "
		     "%" PRIu64 "\n",
		"", verdict(s), s->page, s->hint->generation);
}

static void print_story(const struct picture *p, const struct story *s)
{
	if (s->stats.packets > 0) { /* a trace has neither packets nor quality */
		print_packets(s);
		printf(LABEL "%" PRIu64 " of %" PRIu64 " rounds exact; %.1f %% of the tokens cross no "
			     "NIC and are estimated\n",
			"quality", s->exact, s->rounds, s->hint->unseen_ppm / 1e4);
	}
	print_loads(p, s);
	print_ranks(p, s);
	print_state(s);
	print_forecast(s);
	print_hint(s);
}

static void print_next(bool ascii, const char *place, const char *page)
{
	const struct picture p = picture_new(ascii);

	/* names for the two paths, so that the lines fit wherever the tree lies */
	picture_heading(&p, "Where to go next (the hint pages stay in " MOETAP_HINT_PATH "demo*)");
	printf("  moetap=%s\n  data=%s\n", program_invocation_name, place);
	printf("  $moetap count --map $data/" MAP " --total $data/" CAPTURE "\n");
	printf("  $moetap forecast --horizon 100 $data/" TRACE "\n");
	printf("  $moetap hints show %s\n", page);
	printf("  $moetap doctor\n");
	printf("Read on: README.md, docs/firmware.md, docs/host-lib.md, moetap --help\n");
}

static void print_text(const struct story *capture, const struct story *trace, bool ascii)
{
	const struct picture p = picture_new(ascii);
	char heading[128];

	snprintf(heading, sizeof(heading),
		"1. A capture of real RoCEv2 traffic through moetap-fw: %u ranks, %u experts, %u "
		"layers",
		capture->shape.ranks, capture->experts, capture->layers);
	picture_heading(&p, heading);
	print_story(&p, capture);
	if (!capture->hint->stable)
		printf(LABEL
			"No plan from loads that are not stable: saying nothing is better than "
			"harm.\n",
			"");
	snprintf(heading, sizeof(heading),
		"2. The loads of a real training run, %u steps, as if on %u ranks",
		moetap_series_steps(trace->outlook.series), trace->shape.ranks);
	picture_heading(&p, heading);
	print_story(&p, trace);
}

/* ---- as JSON ---- */

static json_t *reals(const double *values, uint32_t n)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < n; i++)
		json_array_append_new(array, json_real(values[i]));
	return array;
}

static json_t *layers_json(const struct story *s)
{
	json_t *layers = json_array();

	for (uint32_t l = 0; l < s->layers; l++)
		json_array_append_new(layers,
			json_pack("{s:o, s:f, s:f, s:o, s:o, s:o}", "tokens",
				reals(s->loads + (size_t)l * s->experts, s->experts),
				"balancedness", s->before[l], "balancedness_planned", s->after[l],
				"share", reals(moetap_hint_share(s->hint, l), s->experts), "low",
				reals(moetap_hint_low(s->hint, l), s->experts), "high",
				reals(moetap_hint_high(s->hint, l), s->experts)));
	return layers;
}

static json_t *story_json(const struct story *s)
{
	return json_pack("{s:I, s:I, s:I, s:f, s:I, s:I, s:b, s:o, s:s, s:s, s:s, s:I}", "packets",
		(json_int_t)s->stats.packets, "rounds", (json_int_t)s->rounds, "exact",
		(json_int_t)s->exact, "estimated", s->hint->unseen_ppm / 1e6, "ranks", (json_int_t)s->shape.ranks, "slots",
		(json_int_t)s->shape.slots, "stable", (int)s->hint->stable, "layers",
		layers_json(s), "hint_page", s->page, "verdict", verdict(s), "reason",
		s->hint->reason, "generation", (json_int_t)s->hint->generation);
}

/* ---- the loop ---- */

static const char *known_word(enum moetap_known known)
{
	const char *const words[] = {"start", "acknowledged", "stated", "noticed", "unknown"};

	return words[known];
}

/** What the job did in a window. */
static void print_deeds(const struct loop_window *w)
{
	if (w->shifted)
		printf(LABEL "the gate shifts: other experts are hot\n", "");
	if (w->applied >= 0)
		printf(LABEL "the job moved %u slots, %.1f MB in %.1f ms; all of it holds from step "
			     "%" PRId64 " on\n",
			"", w->moved, w->moved_mb, w->moved_ms, w->applied);
}

static void print_window(void *arg, const struct loop_window *w)
{
	const struct picture *p = arg;

	print_deeds(w);
	printf("%4" PRId64 "-%-4" PRId64 " %.3f ", w->first, w->last, w->balancedness);
	picture_bar(p, w->balancedness, 20);
	printf(" %5.2f ms a step  %s, ", w->step_ms, w->stable ? "stable" : "transient");
	if (w->known == MOETAP_KNOWN_NOT)
		printf("keep: placement unknown\n");
	else if (w->verdict == MOETAP_PLAN)
		printf("plan: %" PRId64 " slots to move\n", w->moves);
	else
		printf("keep\n");
	fflush(stdout);
}

static void print_loop_end(const struct loop *loop)
{
	printf(LABEL "%" PRIu64 " packets, %" PRIu64 " of %" PRIu64
		     " rounds exact, %" PRIu64 " with the job's own counts\n",
		"NIC", loop->packets, loop->exact, loop->rounds, loop->equal);
	printf(LABEL "of every expert, from slots: %" PRIu64 " rounds as the job has them, %" PRIu64
		     " unknown, %" PRIu64 " wrong\n",
		"loads", loop->right, loop->unknown, loop->rounds - loop->right - loop->unknown);
}

static json_t *window_json(const struct loop_window *w)
{
	return json_pack("{s:I, s:I, s:f, s:f, s:b, s:I, s:f, s:f, s:o, s:I, s:b, s:s, s:s, s:I, s:s}",
		"first", (json_int_t)w->first, "last", (json_int_t)w->last, "balancedness",
		w->balancedness, "step_ms", w->step_ms, "shifted", (int)w->shifted, "moved",
		(json_int_t)w->moved, "moved_mb", w->moved_mb, "moved_ms", w->moved_ms, "applied",
		w->applied >= 0 ? json_integer(w->applied) : json_null(), "acknowledged",
		(json_int_t)w->acked, "stable", (int)w->stable, "verdict",
		w->verdict == MOETAP_PLAN ? "plan" : "keep", "in_force", known_word(w->known),
		"moves", (json_int_t)w->moves, "reason", w->reason);
}

static json_t *loop_json(const struct loop *loop)
{
	json_t *windows = json_array();

	for (uint32_t i = 0; i < loop->count; i++)
		json_array_append_new(windows, window_json(&loop->windows[i]));
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:o}",
		"ranks", (json_int_t)loop->job.ranks, "experts", (json_int_t)loop->job.experts,
		"slots", (json_int_t)loop->job.slots, "layers", (json_int_t)loop->job.layers,
		"steps", (json_int_t)loop->job.steps, "shift", (json_int_t)loop->job.shift,
		"packets", (json_int_t)loop->packets, "dropped", (json_int_t)loop->dropped,
		"rounds", (json_int_t)loop->rounds, "exact", (json_int_t)loop->exact, "equal",
		(json_int_t)loop->equal, "loads_right", (json_int_t)loop->right,
		"loads_unknown", (json_int_t)loop->unknown, "seconds", loop->seconds, "windows",
		windows);
}

static void no_window(void *arg, const struct loop_window *w)
{
	(void)arg, (void)w;
}

/** Runs the loop, and puts it into `json` unless that is NULL: then it is printed as it goes. What
 * the NIC counted must be what the job sent. */
static int show_loop(const char *apply, bool ascii, json_t *json)
{
	struct picture p = picture_new(ascii);
	struct loop loop;
	int status;

	if (json == NULL) {
		picture_heading(&p, "3. The loop, closed: an emulated job sends to moetap-fw, "
				    "reads the hint, moves experts");
		printf("steps     balancedness of 4 ranks, as the NIC sees it; hints\n");
	}
	status = loop_run(&loop, apply, json == NULL ? print_window : no_window, &p);
	if (status == CLI_DONE && json == NULL)
		print_loop_end(&loop);
	else if (status == CLI_DONE)
		json_object_set_new(json, "loop", loop_json(&loop));
	if (status == CLI_DONE &&
		(loop.equal != loop.rounds || loop.right + loop.unknown != loop.rounds))
		status = cli_fail("demo", "what moetap counted is not what the job sent");
	loop_free(&loop);
	return status;
}

/* ---- the verb ---- */

/** The bundled data, in `json` or printed; `page` gets the trace's hint page. */
static int show_data(bool ascii, json_t *json, char page[32])
{
	struct story capture = {.page = "demo"}, trace = {.page = "demo-trace"};
	char place[PATH_MAX];
	int status = find_data(place);

	if (status == CLI_DONE)
		status = count_capture(&capture, place);
	if (status == CLI_DONE)
		status = go_on(&capture);
	if (status == CLI_DONE)
		status = load_trace(&trace, place);
	if (status == CLI_DONE)
		status = go_on(&trace);
	if (status == CLI_DONE && json == NULL)
		print_text(&capture, &trace, ascii);
	else if (status == CLI_DONE) {
		json_object_set_new(json, "capture", story_json(&capture));
		json_object_set_new(json, "trace", story_json(&trace));
	}
	memcpy(page, trace.page, sizeof(trace.page));
	story_free(&capture);
	story_free(&trace);
	return status;
}

static const char *const applies[] = {"now", "late", "layers", "silent", "never"};

static int run(int format, bool ascii, bool loop_only, int apply)
{
	json_t *json = format == 1 ? json_object() : NULL;
	char place[PATH_MAX], page[32];
	int status = loop_only ? CLI_DONE : show_data(ascii, json, page);

	if (status == CLI_DONE)
		status = show_loop(applies[apply], ascii, json);
	if (status == CLI_DONE && json == NULL && !loop_only && find_data(place) == CLI_DONE)
		print_next(ascii, place, page);
	if (json == NULL)
		return status;
	if (status == CLI_DONE)
		return cli_print_json("demo", json);
	json_decref(json);
	return status;
}

int verb_demo(int argc, char **argv)
{
	bool ascii = false, loop_only = false;
	int format = 0, apply = 0, status;
	const struct cli_option options[] = {
		{"loop", CLI_FLAG, &loop_only, NULL, "the closed loop alone", false},
		{"apply", CLI_CHOICE, &apply, "now|late|layers|silent|never",
			"when the job of the loop applies plans (now)", false},
		{"ascii", CLI_FLAG, &ascii, NULL, "no Unicode in the picture", false},
		{"format", CLI_CHOICE, &format, "text|json", "text (default) or json", false},
		{0},
	};
	const struct cli cli = {"demo", "", 0,
		"Sends a bundled capture of real RoCEv2 traffic through moetap-fw, and shows what\n"
		"comes of it: loads of experts, imbalance of ranks, state, forecast, plan, and "
		"the\n"
		"hint, which is published on hint page 'demo'. Then the same for a bundled longer\n"
		"trace ('demo-trace'). Then an emulated job sends to a moetap-fw, and follows the\n"
		"hints that come of it. Needs no NIC, no root and no huge pages.\n\n"
		"  moetap demo",
		options};

	if (cli_parse(&cli, argc, argv, &status) < 0)
		return status;
	return run(format, ascii, loop_only, apply);
}
