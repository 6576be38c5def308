/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Loads with one line a cell, as the verbs print them: `moetap count` (step, layer, phase, expert,
 * tokens; lines of one expert from several sources add up; only dispatch is load) and `moetap
 * forecast` (layer, expert, share; taken as one step). Columns are found by name.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NO_COLUMN UINT32_MAX

enum { STEP, LAYER, PHASE, EXPERT, TOKENS, SHARE, COLUMNS };

static const char *const column_names[COLUMNS] = {
	"step", "layer", "phase", "expert", "tokens", "share"};

int mtl_cells_add(struct mtl_cells *cells, const struct mtl_cell *cell, struct moetap_error *error)
{
	if (cells->count == cells->room) {
		size_t room = cells->room > 0 ? 2 * cells->room : 1024;
		struct mtl_cell *grown = NULL;

		if (room * sizeof(*grown) > MOETAP_SERIES_BYTES)
			return mtl_fail(error, -E2BIG, "more than %zu loads", cells->count);
		grown = realloc(cells->cell, room * sizeof(*grown));
		if (grown == NULL)
			return mtl_fail_memory(error);
		cells->cell = grown;
		cells->room = room;
	}
	cells->cell[cells->count++] = *cell;
	if (cell->layer >= cells->layers)
		cells->layers = cell->layer + 1;
	if (cell->expert != MTL_NO_EXPERT && cell->expert >= cells->experts)
		cells->experts = cell->expert + 1;
	return 0;
}

static int find_columns(const struct csv *csv, uint32_t fields, uint32_t column[COLUMNS],
	struct moetap_error *error)
{
	for (int c = 0; c < COLUMNS; c++) {
		column[c] = NO_COLUMN;
		for (uint32_t i = 0; i < fields; i++) {
			if (strcmp(mtl_csv_field(csv, i), column_names[c]) == 0)
				column[c] = i;
		}
	}
	if (column[TOKENS] == NO_COLUMN)
		column[TOKENS] = column[SHARE];
	if (column[TOKENS] == NO_COLUMN)
		return mtl_csv_fail(
			csv, CSV_LINE, error, "the header has no column 'tokens' or 'share'");
	return 0;
}

static int read_cell(const struct csv *csv, const uint32_t column[COLUMNS], struct mtl_cell *cell,
	struct moetap_error *error)
{
	int64_t layer, expert;
	int ret;

	*cell = (struct mtl_cell){.quality = MOETAP_QUALITY_UNKNOWN};
	ret = mtl_csv_integer(csv, column[LAYER], MOETAP_MAX_LAYERS - 1, &layer, error);
	if (ret == 0)
		ret = mtl_csv_integer(csv, column[EXPERT], MOETAP_MAX_EXPERTS - 1, &expert, error);
	if (ret == 0)
		ret = mtl_csv_load(csv, column[TOKENS], &cell->tokens, error);
	if (ret == 0 && column[STEP] != NO_COLUMN)
		ret = mtl_csv_integer(csv, column[STEP], INT64_MAX / 2, &cell->step, error);
	if (ret < 0)
		return ret;
	cell->layer = (uint32_t)layer;
	cell->expert = (uint32_t)expert;
	return 0;
}

static int read_cells(
	struct csv *csv, uint32_t fields, struct mtl_cells *cells, struct moetap_error *error)
{
	uint32_t column[COLUMNS];
	struct mtl_cell cell;
	int ret, got;

	ret = find_columns(csv, fields, column, error);
	while (ret == 0) {
		got = mtl_csv_next(csv, error);
		if (got <= 0)
			return got;
		if ((uint32_t)got != fields)
			return mtl_csv_fail(csv, CSV_LINE, error,
				"%d fields, but the header has %u", got, fields);
		if (column[PHASE] != NO_COLUMN &&
			strcmp(mtl_csv_field(csv, column[PHASE]), "dispatch") != 0)
			continue;
		ret = read_cell(csv, column, &cell, error);
		if (ret == 0)
			ret = mtl_cells_add(cells, &cell, error);
	}
	return ret;
}

/** Adds runs of cells of the same step and layer as one round each. */
static int fill(
	const struct mtl_cells *cells, struct moetap_series *series, struct moetap_error *error)
{
	double *tokens = calloc(cells->experts, sizeof(*tokens));
	bool *seen = calloc(cells->experts, sizeof(*seen));
	int ret = tokens != NULL && seen != NULL ? 0 : mtl_fail_memory(error);
	uint32_t quality = 0;

	for (size_t i = 0; i < cells->count && ret == 0; i++) {
		const struct mtl_cell *cell = &cells->cell[i];

		quality |= cell->quality;
		if (cell->expert != MTL_NO_EXPERT) {
			tokens[cell->expert] += cell->tokens;
			seen[cell->expert] = true;
		}
		if (i + 1 < cells->count && cell[1].step == cell->step &&
			cell[1].layer == cell->layer)
			continue;
		ret = mtl_series_add_seen(
			series, cell->step, cell->layer, tokens, seen, quality, error);
		memset(tokens, 0, cells->experts * sizeof(*tokens));
		quality = 0;
	}
	free(tokens);
	free(seen);
	return ret;
}

int mtl_cells_series(
	const struct mtl_cells *cells, struct moetap_series **series, struct moetap_error *error)
{
	int ret = moetap_series_new(cells->layers, cells->experts, 0, series, error);

	if (ret < 0)
		return ret;
	ret = fill(cells, *series, error);
	if (ret < 0)
		moetap_series_free(*series);
	return ret;
}

int mtl_trace_read_long(
	struct csv *csv, uint32_t fields, struct moetap_series **series, struct moetap_error *error)
{
	struct mtl_cells cells = {0};
	int ret;

	ret = read_cells(csv, fields, &cells, error);
	if (ret == 0 && cells.count == 0)
		ret = mtl_csv_fail(csv, CSV_LINE, error, "there is no load after the header");
	if (ret == 0)
		ret = mtl_cells_series(&cells, series, error);
	free(cells.cell);
	return ret;
}
