/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap plan`: which expert goes to which slot. */
#include "cli.h"
#include "loads.h"
#include "moetap.h"
#include "prices.h"
#include "verbs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** Phases for which plans may be kept. */
#define PHASES_MOST 16

static const char about[] =
	"Plans the placement of experts for given loads: a trace (the mean over its steps, or "
	"over\nthe last K) or what 'moetap forecast' prints; - is standard input. Slots are "
	"counted in\n"
	"rank order; slots beyond the experts hold replicas. With groups that the nodes divide, a\n"
	"group stays on one node; else placement is global. Prints JSON (the maps of SGLang, vLLM\n"
	"and EPLB: physical_to_logical_map [layers][slots], ...) or CSV\n"
	"layer,slot,rank,node,expert.\n\n"
	"With --phases, plans kept for the phases of a job (prefill, decode, ...): the most even "
	"one\nis printed again if it is at 0.99 or above, else a new one is made.\n\n"
	"With --current and any of the prices also what the move costs and after how many steps it\n"
	"has paid.\n\n"
	"  moetap forecast --horizon 1000 loads.csv | moetap plan --ranks 8 --slots 72 -";

/** What to plan. */
struct job {
	struct moetap_shape shape;
	const char *policy;
	const char *current_path;
	const char *phases;	 /**< paths, with commas; NULL: none */
	char *phase;		 /**< path of the one that was picked; NULL: a new plan */
	int objective;		 /**< 0 tokens, 1 experts */
	bool split;		 /**< groups may be split over nodes */
	bool parts;		 /**< unequal parts are wanted */
	struct moetap_gate gate; /**< topk 0: not told */
	double token_bytes;	 /**< 0: not told */
	uint32_t last;
	uint32_t layers, experts;
	double *loads;
	double unseen; /**< part of the loads that is estimated */
	struct moetap_plan *current, *plan;
	struct moetap_plan *kept; /**< with split: the plan that keeps groups */
	struct price_options price_options;
	bool priced;
	struct moetap_prices prices;
	struct moetap_move move;
};

static int read_loads(struct job *job, const char *path)
{
	struct moetap_series *series;
	int status = series_read("plan", path, &series);

	if (status != CLI_DONE)
		return status;
	job->layers = moetap_series_layers(series);
	job->experts = moetap_series_experts(series);
	job->loads = malloc((size_t)job->layers * job->experts * sizeof(double));
	if (job->loads != NULL)
		moetap_series_mean_tokens(series, job->last, job->loads);
	job->unseen = series_unseen("plan", series, job->last);
	moetap_series_free(series);
	return job->loads != NULL ? CLI_DONE : cli_fail("plan", "out of memory");
}

/* ---- loads ---- */

static double layer_tokens(const struct job *job, uint32_t layer)
{
	double sum = 0;

	for (uint32_t e = 0; e < job->experts; e++)
		sum += job->loads[(size_t)layer * job->experts + e];
	return sum;
}

/** Makes the loads tokens of a step, where they are shares or counts over many steps. */
static int scale_loads(const struct job *job)
{
	bool shares = true;

	for (uint32_t l = 0; l < job->layers; l++) {
		double sum = layer_tokens(job, l);

		shares &= sum < 1 + 1e-6;
		for (uint32_t e = 0; e < job->experts && job->price_options.tokens > 0 && sum > 0; e++)
			job->loads[(size_t)l * job->experts + e] *= job->price_options.tokens / sum;
	}
	if (shares && job->price_options.tokens == 0 && (job->objective == 1 || job->token_bytes > 0))
		return cli_fail("plan",
			"the loads are shares, which do not say how many tokens a step has; give "
			"--tokens");
	return CLI_DONE;
}

/* ---- output ---- */

/** Numbers of [rows][columns] as nested arrays. */
static json_t *matrix(const uint32_t *numbers, uint32_t rows, uint32_t columns)
{
	json_t *outer = json_array();

	for (uint32_t r = 0; r < rows; r++) {
		json_t *inner = json_array();

		for (uint32_t c = 0; c < columns; c++)
			json_array_append_new(
				inner, json_integer(numbers[(size_t)r * columns + c]));
		json_array_append_new(outer, inner);
	}
	return outer;
}

/** Most replicas that any expert has. */
static uint32_t most_replicas(const struct job *job)
{
	const uint32_t *replicas = moetap_plan_replicas(job->plan);
	uint32_t most = 0;

	for (size_t c = 0; c < (size_t)job->layers * job->experts; c++)
		most = replicas[c] > most ? replicas[c] : most;
	return most;
}

/** Slots of every expert of a layer, padded with -1 to the same length. */
static json_t *slots_of_layer(const struct job *job, uint32_t layer, uint32_t most)
{
	const uint32_t *slot = moetap_plan_slots(job->plan) + (size_t)layer * job->shape.slots;
	json_t *experts = json_array();

	for (uint32_t e = 0; e < job->experts; e++)
		json_array_append_new(experts, json_array());
	for (uint32_t s = 0; s < job->shape.slots; s++)
		json_array_append_new(json_array_get(experts, slot[s]), json_integer(s));
	for (uint32_t e = 0; e < job->experts; e++) {
		json_t *slots = json_array_get(experts, e);

		while (json_array_size(slots) < most)
			json_array_append_new(slots, json_integer(-1));
	}
	return experts;
}

static json_t *slots_of_experts(const struct job *job)
{
	uint32_t most = most_replicas(job);
	json_t *layers = json_array();

	for (uint32_t l = 0; l < job->layers; l++)
		json_array_append_new(layers, slots_of_layer(job, l, most));
	return layers;
}

/** Balancedness a layer, and of all in the three forms. */
static json_t *balance_json(const struct job *job, json_t **layers)
{
	double *layer = malloc(job->layers * sizeof(*layer));
	struct moetap_balance b;

	if (layer == NULL)
		return NULL;
	moetap_plan_balance(job->plan, job->loads, &b, layer);
	*layers = json_array();
	for (uint32_t l = 0; l < job->layers; l++)
		json_array_append_new(*layers, json_real(layer[l]));
	free(layer);
	return json_pack("{s:f, s:f, s:f}", "mean_of_mean_over_max", b.mean_max,
		"sum_of_means_over_sum_of_maxima", b.sums, "mean_of_excess_over_mean", b.excess);
}

static json_t *activated_json(const struct job *job)
{
	double *layer = malloc(job->layers * sizeof(*layer));
	json_t *all = json_array();

	if (layer == NULL)
		return NULL;
	moetap_plan_activated(job->plan, job->loads, layer);
	for (uint32_t l = 0; l < job->layers; l++)
		json_array_append_new(all, json_real(layer[l]));
	free(layer);
	return all;
}

/** Copies of a token that go to other nodes, mean over layers, and their bytes in a step. */
static json_t *copies_json(const struct job *job, const struct moetap_plan *plan)
{
	double copies = 0, bytes = 0;
	uint32_t counted = 0;

	for (uint32_t l = 0; l < job->layers; l++) {
		double sum = layer_tokens(job, l), c;

		if (sum <= 0)
			continue;
		c = moetap_plan_copies(plan, l, job->loads + (size_t)l * job->experts, &job->gate);
		copies += c;
		bytes += sum / job->gate.topk * c * job->token_bytes;
		counted++;
	}
	return json_pack("{s:o, s:o}", "copies", cli_number(counted > 0 ? copies / counted : 0),
		"bytes", job->token_bytes > 0 ? cli_number(bytes) : json_null());
}

/** What crosses nodes; for a plan that may split groups, also what would if they were kept. */
static json_t *between_json(const struct job *job)
{
	json_t *between = copies_json(job, job->plan), *kept;
	struct moetap_balance b;

	if (job->kept == NULL)
		return between;
	moetap_plan_balance(job->kept, job->loads, &b, NULL);
	kept = copies_json(job, job->kept);
	json_object_set_new(kept, "balancedness", json_real(b.mean_max));
	json_object_set_new(between, "groups_kept", kept);
	return between;
}

/** Unequal parts of tokens for replicas, and how even ranks are then. */
static int add_parts(const struct job *job, json_t *root)
{
	double *part = malloc(job->shape.slots * sizeof(*part));
	json_t *parts = json_array(), *even = json_array();

	for (uint32_t l = 0; l < job->layers && part != NULL; l++) {
		json_t *row = json_array();

		json_array_append_new(even, cli_number(moetap_plan_even(job->plan, l,
						    job->loads + (size_t)l * job->experts, part)));
		for (uint32_t s = 0; s < job->shape.slots; s++)
			json_array_append_new(row, json_real(part[s]));
		json_array_append_new(parts, row);
	}
	json_object_set_new(root, "parts", parts);
	json_object_set_new(root, "balancedness_parts", even);
	if (part == NULL)
		return cli_fail("plan", "out of memory");
	free(part);
	return CLI_DONE;
}

static json_t *move_json(const struct job *job)
{
	const struct moetap_move *m = &job->move;

	return json_pack("{s:I, s:f, s:f, s:f, s:f, s:o, s:o}", "slots", (json_int_t)m->slots,
		"bytes_inside", m->inside, "bytes_outside", m->outside, "seconds", m->seconds,
		"saved_a_step", m->gain, "pays_after_steps", cli_number(m->steps), "prices",
		prices_json(&job->prices));
}

/** What was asked for beside the plan. */
static void add_asked(const struct job *job, json_t *root)
{
	json_object_set_new(root, "estimated", json_real(job->unseen));
	if (job->objective == 1)
		json_object_set_new(root, "activated", activated_json(job));
	if (job->phases != NULL)
		json_object_set_new(
			root, "phase", job->phase != NULL ? json_string(job->phase) : json_null());
	if (job->gate.topk > 0)
		json_object_set_new(root, "between_nodes", between_json(job));
	if (job->current != NULL)
		json_object_set_new(
			root, "moves", json_integer(moetap_plan_moves(job->plan, job->current)));
	if (job->priced)
		json_object_set_new(root, "move", move_json(job));
}

static int print_json(const struct job *job)
{
	json_t *layers = NULL, *all = balance_json(job, &layers);
	json_t *root = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:I}",
		"policy", job->policy, "placement",
		moetap_plan_hierarchical(job->plan) ? "hierarchical" : "global", "ranks",
		(json_int_t)job->shape.ranks, "nodes", (json_int_t)job->shape.nodes, "slots",
		(json_int_t)job->shape.slots, "groups", (json_int_t)job->shape.groups,
		"physical_to_logical_map",
		matrix(moetap_plan_slots(job->plan), job->layers, job->shape.slots),
		"logical_to_physical_map", slots_of_experts(job), "expert_count",
		matrix(moetap_plan_replicas(job->plan), job->layers, job->experts), "balancedness",
		layers, "balancedness_all", all, "doubled",
		(json_int_t)moetap_plan_doubled(job->plan));

	if (root != NULL)
		add_asked(job, root);
	if (root != NULL && job->parts && add_parts(job, root) != CLI_DONE) {
		json_decref(root);
		return CLI_FAILED;
	}
	return cli_print_json("plan", root);
}

static void print_csv(const struct job *job)
{
	const struct moetap_shape *shape = &job->shape;
	uint32_t a_rank = shape->slots / shape->ranks, a_node = shape->slots / shape->nodes;

	printf("layer,slot,rank,node,expert\n");
	for (uint32_t l = 0; l < job->layers; l++) {
		for (uint32_t s = 0; s < shape->slots; s++)
			printf("%u,%u,%u,%u,%u\n", l, s, s / a_rank, s / a_node,
				moetap_plan_slots(job->plan)[(size_t)l * shape->slots + s]);
	}
}

/* ---- plans ---- */

/** Takes the most even of the plans `from[n]` if it is even enough; the others are freed. */
static void pick_phase(struct job *job, struct moetap_plan **from, char **path, uint32_t n)
{
	struct moetap_balance b;
	int best = moetap_plan_pick((const struct moetap_plan *const *)from, n, job->loads, &b);

	if (best >= 0 && b.mean_max >= MOETAP_PICK_ENOUGH) {
		job->plan = from[best];
		job->phase = strdup(path[best]);
		from[best] = NULL;
	}
}

/** Reads the plans that are kept, and picks one. */
static int read_phases(struct job *job)
{
	struct moetap_plan *from[PHASES_MOST] = {NULL};
	char *list = strdup(job->phases), *path[PHASES_MOST], *rest = NULL;
	int status = list != NULL ? CLI_DONE : cli_fail("plan", "out of memory");
	uint32_t n = 0;

	for (char *p = list; p != NULL && status == CLI_DONE; p = rest) {
		rest = strchr(p, ',');
		if (rest != NULL)
			*rest++ = 0;
		if (n == PHASES_MOST) {
			status = cli_fail("plan", "--phases: more than %d plans", PHASES_MOST);
			break;
		}
		path[n] = p;
		status = plan_read("plan", p, &job->shape, job->layers, job->experts, &from[n++]);
	}
	if (status == CLI_DONE)
		pick_phase(job, from, path, n);
	for (uint32_t i = 0; i < n; i++)
		moetap_plan_free(from[i]);
	free(list);
	return status;
}

/** For a plan that may split groups: the one that keeps them, to compare. */
static int make_kept(struct job *job)
{
	struct moetap_shape shape = job->shape;
	struct moetap_error error;

	shape.groups = job->gate.groups;
	if (moetap_plan_make(job->policy, &shape, job->layers, job->experts, job->loads, NULL,
		    &job->kept, &error) < 0)
		return cli_fail("plan", "%s", error.text);
	return CLI_DONE;
}

/** Whether the model's gate can be. */
static int check_gate(const struct job *job)
{
	const struct moetap_gate *g = &job->gate;

	if (g->topk == 0 || (g->limit <= g->groups && g->limit <= g->topk &&
				    g->topk <= job->experts / g->groups * g->limit))
		return CLI_DONE;
	return cli_fail("plan",
		"a token cannot take %u experts of %u groups out of %u of %u experts each", g->topk,
		g->limit, g->groups, job->experts / g->groups);
}

/** CSV has no place for it. */
static void report_move(const struct job *job)
{
	const struct moetap_move *m = &job->move;

	fprintf(stderr,
		"moetap plan: the move: %lld slots, %.4g bytes inside and %.4g between nodes, "
		"%.3g s; it saves %.3g s a step and ",
		(long long)m->slots, m->inside, m->outside, m->seconds, m->gain);
	if (isfinite(m->steps))
		fprintf(stderr, "has paid after %.4g steps\n", m->steps);
	else
		fprintf(stderr, "never pays\n");
}

/** Prices the move from the current placement; the loads must be tokens. */
static int price(struct job *job)
{
	double *tokens = malloc(job->layers * sizeof(*tokens));
	int status = prices_make("plan", &job->price_options, &job->prices);

	if (tokens == NULL)
		status = cli_fail("plan", "out of memory");
	if (status == CLI_DONE)
		status = prices_tokens("plan", &job->price_options, job->layers, job->experts,
			job->loads, tokens);
	if (status == CLI_DONE && moetap_plan_price(job->plan, job->current, job->loads,
					  &job->prices, &job->move) < 0)
		status = cli_fail("plan", "out of memory");
	free(tokens);
	return status;
}

/** Reads the loads and the current placement, and plans. */
static int make_plan(struct job *job, const char *path)
{
	struct moetap_error error;
	int status = read_loads(job, path);

	if (status == CLI_DONE)
		status = scale_loads(job);
	if (status == CLI_DONE)
		status = check_gate(job);
	if (status == CLI_DONE && job->split)
		status = make_kept(job);
	if (status == CLI_DONE && job->phases != NULL)
		status = read_phases(job);
	if (status == CLI_DONE && job->current_path != NULL)
		status = plan_read("plan", job->current_path, &job->shape, job->layers,
			job->experts, &job->current);
	if (status == CLI_DONE && job->plan == NULL &&
		moetap_plan_make(job->policy, &job->shape, job->layers, job->experts, job->loads,
			job->current, &job->plan, &error) < 0)
		status = cli_fail("plan", "%s", error.text);
	if (status == CLI_DONE && job->priced)
		status = price(job);
	return status;
}

/** What options say together. */
static int check_options(const struct cli *cli, struct job *job)
{
	struct price_options prices = job->price_options;

	if (job->policy != NULL && strcmp(job->policy, "experts") == 0)
		job->objective = 1;
	else if (job->objective == 1 && job->policy != NULL)
		return cli_usage(cli, "--objective experts is a policy of its own");
	if (job->policy == NULL)
		job->policy = job->objective == 1 ? "experts" : moetap_plan_policy(0, NULL);
	if (job->split && (job->shape.groups == 1 || job->gate.topk == 0))
		return cli_usage(cli, "--split-groups wants --groups and --topk");
	if (job->gate.topk == 0 && (job->gate.limit > 0 || job->token_bytes > 0))
		return cli_usage(cli, "--topk-groups and --token-bytes want --topk");
	if (job->objective == 1 && job->phases != NULL)
		return cli_usage(cli,
			"--phases picks by even tokens, so it goes with --objective tokens alone");
	job->priced = job->current_path != NULL && prices_given(&job->price_options);
	prices.tokens = 0; /* which is more than a price */
	if (job->current_path == NULL && prices_given(&prices))
		return cli_usage(cli, "prices need --current: what is moved from");
	job->gate.groups = job->shape.groups;
	if (job->gate.limit == 0)
		job->gate.limit =
			job->shape.groups < job->gate.topk ? job->shape.groups : job->gate.topk;
	if (job->split)
		job->shape.groups = 1;
	return CLI_DONE;
}

int verb_plan(int argc, char **argv)
{
	struct job job = {.shape = {.nodes = 1, .groups = 1}};
	int format = 0, first, status;
	const struct cli_option options[] = {
		{"ranks", CLI_COUNT, &job.shape.ranks, "R", "ranks", true},
		{"nodes", CLI_COUNT, &job.shape.nodes, "N", "nodes that hold the ranks (1)", false},
		{"slots", CLI_COUNT, &job.shape.slots, "S", "slots in a layer, over all ranks",
			true},
		{"groups", CLI_COUNT, &job.shape.groups, "G", "groups of experts (1: none)", false},
		{"current", CLI_TEXT, &job.current_path, "PLAN.json",
			"placement in force: keep slots where experts stay, count moves", false},
		PRICE_OPTIONS(job.price_options),
		{"last", CLI_COUNT, &job.last, "K", "only the last K steps of the trace", false},
		{"phases", CLI_TEXT, &job.phases, "PLAN.json,...",
			"plans kept, one a phase: take the one that fits, if any does", false},
		{"objective", CLI_CHOICE, &job.objective, "tokens|experts",
			"even tokens (default), or experts activated: memory-bound decode", false},
		{"parts", CLI_FLAG, &job.parts, NULL,
			"unequal parts of tokens for replicas too, and how even ranks are then",
			false},
		{"split-groups", CLI_FLAG, &job.split, NULL,
			"groups may be split over nodes; says what that costs", false},
		{"topk", CLI_COUNT, &job.gate.topk, "K",
			"experts a token takes: says how many copies go between nodes", false},
		{"topk-groups", CLI_COUNT, &job.gate.limit, "M",
			"groups that these are of (all, or K)", false},
		{"token-bytes", CLI_AMOUNT, &job.token_bytes, "B",
			"bytes of a token: says bytes between nodes too", false},
		{"policy", CLI_TEXT, &job.policy, "NAME", "moetap (default), experts or eplb",
			false},
		{"format", CLI_CHOICE, &format, "json|csv", "json (default) or csv", false},
		{0},
	};
	const struct cli cli = {"plan", "LOADS", 1, about, options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	status = check_options(&cli, &job);
	if (status == CLI_DONE && job.parts && format != 0)
		status = cli_usage(&cli, "--parts goes with --format json");
	if (status == CLI_DONE)
		status = make_plan(&job, argv[first]);
	if (status == CLI_DONE && job.priced && format != 0)
		report_move(&job);
	if (status == CLI_DONE && job.phases != NULL && format != 0)
		fprintf(stderr, "moetap plan: the phase: %s\n",
			job.phase != NULL ? job.phase : "none of those kept, a new plan");
	if (status == CLI_DONE && format == 0)
		status = print_json(&job);
	else if (status == CLI_DONE)
		print_csv(&job);
	moetap_plan_free(job.plan);
	moetap_plan_free(job.kept);
	moetap_plan_free(job.current);
	free(job.phase);
	free(job.loads);
	return status;
}
