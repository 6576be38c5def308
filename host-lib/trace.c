/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Traces: one line a step, a column `l<layer>_e<expert>` for every expert. The other forms,
 * one line a cell and one object a round, are in trace_long.c and trace_json.c.
 */
#include "internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NO_CELL UINT32_MAX

/** What the header says: where each column goes. */
struct wide {
	uint32_t fields;
	uint32_t step; /**< column of the step */
	uint32_t layers, experts;
	uint32_t *cell; /**< [fields]: layer * experts + expert, or NO_CELL */
};

/** Whether a column is `l<layer>_e<expert>`. */
static bool column_name(const char *name, uint32_t *layer, uint32_t *expert)
{
	char again[32];

	if (sscanf(name, "l%9u_e%9u", layer, expert) != 2)
		return false;
	snprintf(again, sizeof(again), "l%u_e%u", *layer, *expert);
	return strcmp(name, again) == 0;
}

/** Finds the number of layers and experts and the column of the step. */
static int read_geometry(const struct csv *csv, struct wide *w, struct moetap_error *error)
{
	uint32_t layer, expert;
	bool step = false;

	for (uint32_t i = 0; i < w->fields; i++) {
		if (strcmp(mtl_csv_field(csv, i), "step") == 0) {
			if (step)
				return mtl_csv_fail(csv, i, error, "a second column 'step'");
			step = true;
			w->step = i;
		}
		if (!column_name(mtl_csv_field(csv, i), &layer, &expert))
			continue;
		if (layer >= MOETAP_MAX_LAYERS || expert >= MOETAP_MAX_EXPERTS)
			return mtl_csv_fail(csv, i, error,
				"%s is over the limit of %u layers and %u experts",
				mtl_csv_field(csv, i), MOETAP_MAX_LAYERS, MOETAP_MAX_EXPERTS);
		w->layers = layer + 1 > w->layers ? layer + 1 : w->layers;
		w->experts = expert + 1 > w->experts ? expert + 1 : w->experts;
	}
	if (!step)
		return mtl_csv_fail(csv, CSV_LINE, error, "the header has no column 'step'");
	return 0;
}

static int read_header(const struct csv *csv, struct wide *w, struct moetap_error *error)
{
	uint32_t layer, expert, cells;
	bool *seen;
	int ret;

	ret = read_geometry(csv, w, error);
	if (ret < 0)
		return ret;
	cells = w->layers * w->experts;
	/* Before the arrays are made: a header of two columns may name a huge geometry. */
	if (cells > w->fields - 1)
		return mtl_csv_fail(csv, CSV_LINE, error,
			"%u layers of %u experts need %u columns l<layer>_e<expert>, but there are "
			"%u columns besides the step",
			w->layers, w->experts, cells, w->fields - 1);
	w->cell = malloc(w->fields * sizeof(*w->cell));
	seen = calloc(cells, sizeof(*seen));
	if (w->cell == NULL || seen == NULL) {
		free(seen);
		return mtl_fail_memory(error);
	}
	ret = 0;
	for (uint32_t i = 0; i < w->fields && ret == 0; i++) {
		w->cell[i] = NO_CELL;
		if (!column_name(mtl_csv_field(csv, i), &layer, &expert))
			continue;
		w->cell[i] = layer * w->experts + expert;
		if (seen[w->cell[i]])
			ret = mtl_csv_fail(
				csv, i, error, "a second column '%s'", mtl_csv_field(csv, i));
		seen[w->cell[i]] = true;
	}
	for (uint32_t c = 0; c < cells && ret == 0; c++) {
		if (!seen[c])
			ret = mtl_csv_fail(csv, CSV_LINE, error,
				"the header has no column 'l%u_e%u'", c / w->experts,
				c % w->experts);
	}
	free(seen);
	return ret;
}

/** Reads one line into `tokens` and adds it. */
static int read_step(const struct csv *csv, const struct wide *w, double *tokens,
	struct moetap_series *series, struct moetap_error *error)
{
	uint32_t quality[MOETAP_MAX_LAYERS];
	int64_t step;
	int ret;

	ret = mtl_csv_integer(csv, w->step, INT64_MAX / 2, &step, error);
	for (uint32_t i = 0; i < w->fields && ret == 0; i++) {
		if (w->cell[i] != NO_CELL)
			ret = mtl_csv_load(csv, i, &tokens[w->cell[i]], error);
	}
	if (ret < 0)
		return ret;
	if (step <= moetap_series_last_step(series))
		return mtl_csv_fail(csv, w->step, error,
			"step %lld comes after step %lld; steps must go up", (long long)step,
			(long long)moetap_series_last_step(series));
	for (uint32_t l = 0; l < w->layers; l++)
		quality[l] = MOETAP_QUALITY_UNKNOWN;
	ret = moetap_series_add_step(series, step, tokens, quality, error);
	if (ret == 0 && moetap_series_dropped(series) > 0)
		return mtl_csv_fail(csv, CSV_LINE, error,
			"the trace is larger than the %zu MiB that a series may take; cut it",
			MOETAP_SERIES_BYTES >> 20);
	return ret;
}

static int read_lines(struct csv *csv, const struct wide *w, struct moetap_series *series,
	struct moetap_error *error)
{
	double *tokens = malloc((size_t)w->layers * w->experts * sizeof(*tokens));
	int ret, fields;

	if (tokens == NULL)
		return mtl_fail_memory(error);
	ret = 0;
	while (ret == 0) {
		fields = mtl_csv_next(csv, error);
		if (fields <= 0) {
			ret = fields;
			break;
		}
		if ((uint32_t)fields != w->fields)
			ret = mtl_csv_fail(csv, CSV_LINE, error, "%d fields, but the header has %u",
				fields, w->fields);
		else
			ret = read_step(csv, w, tokens, series, error);
	}
	free(tokens);
	if (ret == 0 && moetap_series_steps(series) == 0)
		return mtl_csv_fail(csv, CSV_LINE, error, "there is no line after the header");
	return ret;
}

/** Reads the lines after a header of columns l<layer>_e<expert>. */
static int read_wide(
	struct csv *csv, uint32_t fields, struct moetap_series **series, struct moetap_error *error)
{
	struct wide w = {.fields = fields};
	int ret;

	ret = read_header(csv, &w, error);
	if (ret == 0)
		ret = moetap_series_new(w.layers, w.experts, 0, series, error);
	if (ret == 0) {
		ret = read_lines(csv, &w, *series, error);
		if (ret < 0)
			moetap_series_free(*series);
	}
	free(w.cell);
	return ret;
}

static bool has_column(const struct csv *csv, uint32_t fields, const char *name)
{
	for (uint32_t i = 0; i < fields; i++) {
		if (strcmp(mtl_csv_field(csv, i), name) == 0)
			return true;
	}
	return false;
}

int moetap_series_load_trace(
	const char *path, struct moetap_series **series, struct moetap_error *error)
{
	struct moetap_series *read = NULL;
	struct csv *csv;
	int ret, fields;

	ret = mtl_csv_open(path, &csv, error);
	if (ret < 0)
		return ret;
	if (mtl_csv_begins(csv, '{')) {
		ret = mtl_trace_read_json(csv, series, error);
		mtl_csv_close(csv);
		return ret;
	}
	fields = mtl_csv_next(csv, error);
	if (fields < 0)
		ret = fields;
	else if (fields == 0)
		ret = mtl_csv_fail(csv, CSV_LINE, error, "the file is empty");
	else if (has_column(csv, (uint32_t)fields, "l0_e0"))
		ret = read_wide(csv, (uint32_t)fields, &read, error);
	else if (has_column(csv, (uint32_t)fields, "layer") &&
		 has_column(csv, (uint32_t)fields, "expert"))
		ret = mtl_trace_read_long(csv, (uint32_t)fields, &read, error);
	else
		ret = mtl_csv_fail(csv, CSV_LINE, error,
			"no trace: the header must be 'step,l0_e0,l0_e1,...', or what 'moetap "
			"count' or 'moetap forecast' print");
	mtl_csv_close(csv);
	if (ret == 0)
		*series = read;
	return ret;
}
