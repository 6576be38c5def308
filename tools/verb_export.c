/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap hints export`: a placement as a file that a framework reads. */
#include "cli.h"
#include "export.h"
#include "loads.h"
#include "moetap.h"
#include "moetap_hint.h"
#include "verbs.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define VERB "hints export"

static const char about[] = "Writes a placement as a file that a framework reads: that of the hint "
			    "page PAGE, or a plan "
			    "as\n'moetap plan' prints it (--plan). FILE is replaced as a whole. "
			    "With --watch, again for "
			    "every\nplacement that the page brings, until it is stopped (Ctrl-C). "
			    "Say which layers of the "
			    "model\nhave experts (--layers) if not all do.\n\n"
			    "  moetap hints export --as sglang --layers 3-60 --hidden-layers 61 "
			    "--output map.json my-job";

/** What is asked for. */
struct request_of_export {
	const char *as, *output, *layers, *plan_path;
	uint32_t hidden;
	bool watch;
	const struct exporter *exporter;
	uint32_t *layer_id; /**< of the model, MOETAP_MAX_LAYERS at most */
	uint32_t ids;	    /**< how many; 0: not stated */
};

/* ---- layers ---- */

/** Reads "3-60" or "1,3,5-9" into layer_id. */
static int read_layers(struct request_of_export *r)
{
	const char *at = r->layers;
	unsigned long first, last;
	char *end;

	while (at != NULL) {
		first = last = strtoul(at, &end, 10);
		if (end != at && *end == '-') {
			at = end + 1;
			last = strtoul(at, &end, 10);
		}
		if (end == at || last < first || last >= 1u << 20 ||
			(*end != ',' && *end != '\0') ||
			(r->ids > 0 && first <= r->layer_id[r->ids - 1]) ||
			last - first >= MOETAP_MAX_LAYERS - r->ids)
			return cli_fail(VERB,
				"--layers: '%s' is no list of rising numbers like 3-60 or 1,3,5",
				r->layers);
		for (unsigned long id = first; id <= last; id++)
			r->layer_id[r->ids++] = (uint32_t)id;
		at = *end == ',' ? end + 1 : NULL;
	}
	return CLI_DONE;
}

/** Fits the layers of the model to those of a placement. */
static int number_layers(struct request_of_export *r, struct placement *p)
{
	uint32_t last;

	if (r->ids == 0)
		for (uint32_t l = 0; l < p->layers; l++)
			r->layer_id[l] = l;
	else if (r->ids != p->layers)
		return cli_fail(VERB, "--layers names %u layers, but the placement has %u", r->ids,
			p->layers);
	last = r->layer_id[p->layers - 1];
	p->layer_id = r->layer_id;
	p->hidden_layers = r->hidden != 0 ? r->hidden : last + 1;
	if (p->hidden_layers <= last)
		return cli_fail(VERB, "--hidden-layers %u: layer %u has experts", r->hidden, last);
	return CLI_DONE;
}

static int export_placement(struct request_of_export *r, struct placement *p)
{
	int status = number_layers(r, p);

	return status != CLI_DONE ? status : export_to(VERB, r->exporter, p, r->output);
}

/* ---- from a plan ---- */

static uint32_t member(const json_t *root, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(root, key));

	return n > 0 && n <= UINT32_MAX ? (uint32_t)n : 0;
}

static int export_plan(struct request_of_export *r)
{
	json_t *root = json_load_file(r->plan_path, 0, NULL);
	struct moetap_shape shape = {.ranks = member(root, "ranks"),
		.nodes = member(root, "nodes"),
		.slots = member(root, "slots"),
		.groups = member(root, "groups")};
	size_t layers = json_array_size(json_object_get(root, "physical_to_logical_map"));
	size_t experts = json_array_size(json_array_get(json_object_get(root, "expert_count"), 0));
	struct placement p = {.layers = (uint32_t)layers,
		.experts = (uint32_t)experts,
		.ranks = shape.ranks,
		.slots = shape.slots};
	struct moetap_plan *plan;
	int status;

	json_decref(root);
	if (root != NULL && (layers == 0 || experts == 0 || shape.ranks == 0 || shape.slots == 0))
		return cli_fail(VERB, "%s: no plan as 'moetap plan' prints it", r->plan_path);
	/* also says why a file is no JSON */
	status = plan_read(VERB, r->plan_path, &shape, p.layers, p.experts, &plan);
	if (status != CLI_DONE)
		return status;
	p.slot_expert = moetap_plan_slots(plan);
	status = export_placement(r, &p);
	moetap_plan_free(plan);
	return status;
}

/* ---- from a page ---- */

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

static int export_hint(struct request_of_export *r, const struct moetap_hint *hint)
{
	uint32_t *slots = malloc((size_t)hint->layers * hint->slots * sizeof(*slots));
	struct placement p = {.layers = hint->layers,
		.experts = hint->experts,
		.ranks = hint->ranks,
		.slots = hint->slots,
		.slot_expert = slots};
	int status;

	if (slots == NULL)
		return cli_fail(VERB, "out of memory");
	if (moetap_hint_placement(hint, 0) == NULL) {
		free(slots);
		return cli_fail(VERB, "%s", hint->reason);
	}
	for (uint32_t l = 0; l < hint->layers; l++)
		for (uint32_t s = 0; s < hint->slots; s++)
			slots[(size_t)l * hint->slots + s] = moetap_hint_placement(hint, l)[s];
	status = export_placement(r, &p);
	if (status == CLI_DONE && strcmp(r->output, "-") != 0)
		fprintf(stderr, "moetap " VERB ": %s: placement of generation %llu\n", r->output,
			(unsigned long long)hint->placement_generation);
	free(slots);
	return status;
}

/** Exports the newest hint if its placement is not that of generation *last. Returns 0, a negative
 * errno of the page, or a positive exit status. */
static int export_newest(
	struct request_of_export *r, struct moetap_hint_reader *reader, uint64_t *last)
{
	struct moetap_hint *hint = malloc(moetap_hint_bytes(reader));
	int ret = hint == NULL ? -ENOMEM : moetap_hint_read(reader, hint);

	if (ret == 0 && hint->placement_generation != *last) {
		ret = export_hint(r, hint);
		*last = hint->placement_generation;
	}
	free(hint);
	return ret;
}

static int export_page(struct request_of_export *r, const char *name)
{
	const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
	const struct sigaction action = {.sa_handler = stop};
	struct moetap_hint_reader reader;
	uint64_t last = UINT64_MAX;
	int ret;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	do {
		ret = moetap_hint_open(&reader, name);
		if (ret == 0) {
			do {
				ret = export_newest(r, &reader, &last);
				while (ret == 0 && r->watch && !stopped &&
					!moetap_hint_changed(&reader))
					nanosleep(&pause, NULL);
			} while (ret == 0 && r->watch && !stopped);
			moetap_hint_close(&reader);
		}
		if (ret == 0 || !r->watch || (ret != -ENOENT && ret != -ESTALE && ret != -ENODATA))
			break;
		nanosleep(&pause, NULL);
	} while (!stopped);
	if (stopped && r->watch)
		return CLI_DONE;
	return ret < 0 ? hints_explain(VERB, name, ret) : ret;
}

/* ---- the verb ---- */

static int list_formats(void)
{
	for (uint32_t i = 0; export_at(i) != NULL; i++)
		printf("%-14s %s\n", export_at(i)->name, export_at(i)->title);
	return CLI_DONE;
}

static int run_export(struct request_of_export *r, const char *page)
{
	int status;

	r->exporter = export_find(r->as);
	if (r->exporter == NULL)
		return cli_fail(VERB, "--as: there is no '%s'; --as list names all", r->as);
	if (r->watch && (r->plan_path != NULL || strcmp(r->output, "-") == 0))
		return cli_fail(VERB, "--watch wants a PAGE, and --output FILE");
	if ((page == NULL) == (r->plan_path == NULL))
		return cli_fail(VERB, "wanted: either a PAGE or --plan PLAN.json");
	r->layer_id = calloc(MOETAP_MAX_LAYERS, sizeof(*r->layer_id));
	if (r->layer_id == NULL)
		return cli_fail(VERB, "out of memory");
	status = read_layers(r);
	if (status == CLI_DONE)
		status = page != NULL ? export_page(r, page) : export_plan(r);
	free(r->layer_id);
	return status;
}

int hints_export(int argc, char **argv)
{
	struct request_of_export r = {.output = "-"};
	int first, status;
	const struct cli_option options[] = {
		{"as", CLI_TEXT, &r.as, "FORMAT",
			"sglang, tensorrt-llm, vllm, vllm-ascend, eplb, csv; list says what they "
			"are",
			true},
		{"output", CLI_TEXT, &r.output, "FILE", "where to (- is standard output)", false},
		{"plan", CLI_TEXT, &r.plan_path, "PLAN.json", "a plan in place of a page", false},
		{"layers", CLI_TEXT, &r.layers, "IDS",
			"layers of the model that have experts, as 3-60 or 1,3,5 (0 to layers - 1)",
			false},
		{"hidden-layers", CLI_COUNT, &r.hidden, "N",
			"layers of the model in all (up to the last with experts)", false},
		{"watch", CLI_FLAG, &r.watch, NULL, "go on with every new placement", false},
		{0},
	};
	const struct cli cli = {VERB, "[PAGE]", 1, about, options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	if (strcmp(r.as, "list") == 0)
		return list_formats();
	return run_export(&r, first < argc ? argv[first] : NULL);
}
