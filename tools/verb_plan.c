/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap plan`: which expert goes to which slot. */
#include "cli.h"
#include "loads.h"
#include "moetap.h"
#include "verbs.h"

#include <stdio.h>
#include <stdlib.h>

static const char about[] =
	"Plans the placement of experts for given loads: a trace (the mean over its steps, or "
	"over\nthe last K) or what 'moetap forecast' prints; - is standard input. Slots are "
	"counted in\n"
	"rank order; slots beyond the experts hold replicas. With groups that the nodes divide, a\n"
	"group stays on one node; else placement is global. Prints JSON (the maps of SGLang, vLLM\n"
	"and EPLB: physical_to_logical_map [layers][slots], ...) or CSV\n"
	"layer,slot,rank,node,expert.\n\n"
	"  moetap forecast --horizon 1000 loads.csv | moetap plan --ranks 8 --slots 72 -";

/** What to plan. */
struct job {
	struct moetap_shape shape;
	const char *policy;
	const char *current_path;
	uint32_t last;
	uint32_t layers, experts;
	double *loads;
	double unseen; /**< part of the loads that is estimated */
	struct moetap_plan *current, *plan;
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
		json_object_set_new(root, "estimated", json_real(job->unseen));
	if (root != NULL && job->current != NULL)
		json_object_set_new(
			root, "moves", json_integer(moetap_plan_moves(job->plan, job->current)));
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

/** Reads the loads and the current placement, and plans. */
static int make_plan(struct job *job, const char *path)
{
	struct moetap_error error;
	int status = read_loads(job, path);

	if (status == CLI_DONE && job->current_path != NULL)
		status = plan_read("plan", job->current_path, &job->shape, job->layers,
			job->experts, &job->current);
	if (status == CLI_DONE &&
		moetap_plan_make(job->policy, &job->shape, job->layers, job->experts, job->loads,
			job->current, &job->plan, &error) < 0)
		status = cli_fail("plan", "%s", error.text);
	return status;
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
		{"last", CLI_COUNT, &job.last, "K", "only the last K steps of the trace", false},
		{"policy", CLI_TEXT, &job.policy, "NAME", "moetap (default) or eplb", false},
		{"format", CLI_CHOICE, &format, "json|csv", "json (default) or csv", false},
		{0},
	};
	const struct cli cli = {"plan", "LOADS", 1, about, options};

	job.policy = moetap_plan_policy(0, NULL);
	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	status = make_plan(&job, argv[first]);
	if (status == CLI_DONE && format == 0)
		status = print_json(&job);
	else if (status == CLI_DONE)
		print_csv(&job);
	moetap_plan_free(job.plan);
	moetap_plan_free(job.current);
	free(job.loads);
	return status;
}
