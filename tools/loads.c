/* SPDX-License-Identifier: BSD-3-Clause */
#include "loads.h"

#include "cli.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** Names the experts of whose load nothing is known: a plan or a share of 0 is no finding. */
static void report_unseen(const char *verb, const struct moetap_series *series)
{
	uint32_t experts = moetap_series_experts(series), runs = 0, unseen = 0, e = 0, last;
	char text[512];
	size_t used = 0;

	while (e < experts && used < sizeof(text)) {
		if (moetap_series_seen(series, e)) {
			e++;
			continue;
		}
		last = e;
		while (last + 1 < experts && !moetap_series_seen(series, last + 1))
			last++;
		used += (size_t)snprintf(text + used, sizeof(text) - used,
			last > e ? "%s%u to %u" : "%s%u", runs++ > 0 ? ", " : "", e, last);
		unseen += last - e + 1;
		e = last + 1;
	}
	if (runs > 0)
		fprintf(stderr,
			"moetap %s: expert%s %s %s never seen: unknown, not zero (no pair of "
			"ranks that carries such tokens passed the tap)\n",
			verb, unseen > 1 ? "s" : "", text, unseen > 1 ? "were" : "was");
}

void report_estimated(const char *verb, double unseen, bool blind)
{
	if (unseen > 0)
		fprintf(stderr,
			"moetap %s: estimated: %.1f %% of the tokens cross no NIC (or pass no "
			"tap)%s\n",
			verb, unseen * 100,
			blind ? "; one source is seen of each expert, so that nothing tells how "
				"far the others differ: intervals say what could be"
			      : "");
}

double series_unseen(const char *verb, const struct moetap_series *series, uint32_t steps)
{
	uint32_t kept = moetap_series_steps(series), layers = 0;
	int64_t first = steps > 0 && steps < kept ? moetap_series_last_step(series) - steps + 1 : 0;
	double *half = calloc(moetap_series_experts(series), sizeof(*half)), all = 0;
	bool blind = false;

	for (uint32_t l = 0; l < moetap_series_layers(series) && half != NULL; l++) {
		double unseen = moetap_series_unseen(series, l, first, INT64_MAX, NULL, half);

		all += unseen;
		layers += unseen > 0;
		for (uint32_t e = 0; e < moetap_series_experts(series); e++)
			blind |= isinf(half[e]) != 0;
	}
	free(half);
	all /= layers > 0 ? layers : 1;
	report_estimated(verb, all, blind);
	return all;
}

int series_read(const char *verb, const char *path, struct moetap_series **series)
{
	struct moetap_error error;

	if (moetap_series_load_trace(path, series, &error) < 0)
		return cli_fail(verb, "%s", error.text);
	report_unseen(verb, *series);
	return CLI_DONE;
}

json_t *flagged_json(uint32_t quality, uint64_t flagged)
{
	if (quality & MOETAP_QUALITY_UNKNOWN)
		return json_null();
	return json_integer((json_int_t)flagged);
}

int look_ahead(const char *verb, const char *path, const struct request *request, struct outlook *o)
{
	int status = series_read(verb, path, &o->series);

	return status == CLI_DONE ? outlook_make(verb, request, o) : status;
}

static int forecast(
	const struct request *q, int64_t last, struct outlook *o, struct moetap_error *error)
{
	int ret;

	if (q->forecaster == NULL)
		return moetap_forecast_make(
			o->series, last, q->method, q->horizon, q->window, &o->forecast, error);
	ret = moetap_forecaster_update(q->forecaster, o->series, last, error);
	return ret < 0 ? ret
		       : moetap_forecaster_forecast(
				 q->forecaster, o->series, q->horizon, &o->forecast, error);
}

int outlook_make(const char *verb, const struct request *request, struct outlook *o)
{
	int64_t last = moetap_series_last_step(o->series);
	struct moetap_error error;

	if (moetap_state_new(moetap_series_layers(o->series), &o->state) < 0 ||
		moetap_state_update(o->state, o->series, last) < 0)
		return cli_fail(verb, "out of memory");
	if (forecast(request, last, o, &error) < 0)
		return cli_fail(verb, "%s", error.text);
	return CLI_DONE;
}

void outlook_free(struct outlook *o)
{
	moetap_forecast_free(o->forecast);
	moetap_state_free(o->state);
	moetap_series_free(o->series);
}

json_t *state_json(const struct moetap_state *state, uint32_t layers)
{
	json_t *rows = json_array();

	for (uint32_t l = 0; l < layers; l++) {
		struct moetap_layer_state s;

		moetap_state_layer(state, l, &s);
		json_array_append_new(
			rows, json_pack("{s:i, s:s, s:I, s:f, s:f, s:f, s:f, s:s}", "layer", (int)l,
				      "state", s.stable ? "stable" : "transient", "since",
				      (json_int_t)s.since, "confidence", s.confidence, "drift",
				      s.drift, "error", s.error, "noise", s.noise, "reason",
				      s.reason));
	}
	return rows;
}

/** Copies the numbers of one layer. Returns whether they are as many integers as there are slots.
 */
static bool read_layer(const json_t *layer, uint32_t slots, uint32_t *slot_expert)
{
	if (json_array_size(layer) != slots)
		return false;
	for (uint32_t s = 0; s < slots; s++) {
		const json_t *expert = json_array_get(layer, s);
		json_int_t value = json_is_integer(expert) ? json_integer_value(expert) : -1;

		if (value < 0 || value > UINT32_MAX)
			return false;
		slot_expert[s] = (uint32_t)value;
	}
	return true;
}

static int plan_from_json(const char *verb, const char *path, const json_t *map,
	const struct moetap_shape *shape, uint32_t layers, uint32_t experts,
	struct moetap_plan **plan)
{
	uint32_t *slot_expert = calloc((size_t)layers * shape->slots, sizeof(*slot_expert));
	struct moetap_error error;
	int status = CLI_DONE;

	if (slot_expert == NULL)
		return cli_fail(verb, "out of memory");
	if (json_array_size(map) != layers)
		status = cli_fail(verb, "%s: physical_to_logical_map must be an array of %u layers",
			path, layers);
	for (uint32_t l = 0; l < layers && status == CLI_DONE; l++) {
		if (!read_layer(json_array_get(map, l), shape->slots,
			    slot_expert + (size_t)l * shape->slots))
			status = cli_fail(verb,
				"%s: physical_to_logical_map[%u] must be an array of %u experts",
				path, l, shape->slots);
	}
	if (status == CLI_DONE &&
		moetap_plan_from_slots(shape, layers, experts, slot_expert, plan, &error) < 0)
		status = cli_fail(verb, "%s: %s", path, error.text);
	free(slot_expert);
	return status;
}

/** A plan that says for what it is must be for this: slots of other ranks are other places. */
static int check_topology(
	const char *verb, const char *path, const json_t *root, const struct moetap_shape *shape)
{
	const struct {
		const char *name;
		uint32_t wanted;
	} numbers[] = {{"ranks", shape->ranks}, {"nodes", shape->nodes}, {"slots", shape->slots}};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		const json_t *number = json_object_get(root, numbers[i].name);

		if (number != NULL && json_integer_value(number) != numbers[i].wanted)
			return cli_fail(verb, "%s: a plan for %" JSON_INTEGER_FORMAT " %s, not %u",
				path, json_integer_value(number), numbers[i].name,
				numbers[i].wanted);
	}
	return CLI_DONE;
}

/** And its experts those of this model. */
static int check_model(const char *verb, const char *path, const json_t *root, uint32_t experts)
{
	size_t given = json_array_size(json_array_get(json_object_get(root, "expert_count"), 0));

	if (given > 0 && given != experts)
		return cli_fail(verb, "%s: a plan of a model with %zu experts, not %u", path, given,
			experts);
	return CLI_DONE;
}

int plan_read(const char *verb, const char *path, const struct moetap_shape *shape, uint32_t layers,
	uint32_t experts, struct moetap_plan **plan)
{
	json_error_t where;
	json_t *root = json_load_file(path, 0, &where);
	int status;

	if (root == NULL && where.line < 0)
		return cli_fail(verb, "%s", where.text);
	if (root == NULL)
		return cli_fail(
			verb, "%s:%d: column %d: %s", path, where.line, where.column, where.text);
	status = check_topology(verb, path, root, shape);
	if (status == CLI_DONE)
		status = check_model(verb, path, root, experts);
	if (status == CLI_DONE)
		status = plan_from_json(verb, path,
			json_object_get(root, "physical_to_logical_map"), shape, layers, experts,
			plan);
	json_decref(root);
	return status;
}
