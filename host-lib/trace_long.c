/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Loads with one line a cell, as the verbs print them: `moetap count` (step, layer, phase, expert,
 * tokens; lines of one expert from several sources add up; only dispatch is load) and `moetap
 * forecast` (layer, expert, share; taken as one step). Columns are found by name.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NO_COLUMN UINT32_MAX

enum { STEP, LAYER, PHASE, SRC, DST, EXPERT, TOKENS, SHARE, COLUMNS };

static const char *const column_names[COLUMNS] = {
	"step", "layer", "phase", "src", "dst", "expert", "tokens", "share"};

/** Notes the ranks that a cell names. */
static int add_ranks(const struct csv *csv, struct mtl_cells *cells, const struct mtl_cell *cell,
	struct moetap_error *error)
{
	uint32_t most = cell->src > cell->dst ? cell->src : cell->dst;
	uint32_t *rank;

	if (cell->src == MTL_NO_RANK) {
		cells->sourceless = true;
		return 0;
	}
	if (cells->expert_rank == NULL) {
		cells->expert_rank = malloc(MOETAP_MAX_EXPERTS * sizeof(*cells->expert_rank));
		if (cells->expert_rank == NULL)
			return mtl_fail_memory(error);
		memset(cells->expert_rank, 0xff, MOETAP_MAX_EXPERTS * sizeof(*rank));
	}
	rank = &cells->expert_rank[cell->expert];
	if (*rank != MTL_NO_RANK && *rank != cell->dst)
		return mtl_csv_fail(csv, CSV_LINE, error,
			"expert %u is at rank %u here, and at rank %u before: rounds of two maps "
			"have no loads in common; read them apart",
			cell->expert, cell->dst, *rank);
	*rank = cell->dst;
	if (most >= cells->ranks)
		cells->ranks = most + 1;
	return 0;
}

void mtl_cells_free(struct mtl_cells *cells)
{
	free(cells->cell);
	free(cells->expert_rank);
	*cells = (struct mtl_cells){0};
}

int mtl_cells_add(const struct csv *csv, struct mtl_cells *cells, const struct mtl_cell *cell,
	struct moetap_error *error)
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
	if (cell->expert == MTL_NO_EXPERT)
		return 0;
	if (cell->expert >= cells->experts)
		cells->experts = cell->expert + 1;
	return add_ranks(csv, cells, cell, error);
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
	int64_t layer, expert, src = MTL_NO_RANK, dst = MTL_NO_RANK;
	int ret;

	*cell = (struct mtl_cell){.src = MTL_NO_RANK, .quality = MOETAP_QUALITY_UNKNOWN};
	ret = mtl_csv_integer(csv, column[LAYER], MOETAP_MAX_LAYERS - 1, &layer, error);
	if (ret == 0)
		ret = mtl_csv_integer(csv, column[EXPERT], MOETAP_MAX_EXPERTS - 1, &expert, error);
	if (ret == 0 && column[TOKENS] == column[SHARE] &&
		strcmp(mtl_csv_field(csv, column[SHARE]), "nan") == 0)
		cell->tokens = NAN; /* a forecast has none: the expert was never seen */
	else if (ret == 0)
		ret = mtl_csv_load(csv, column[TOKENS], &cell->tokens, error);
	if (ret == 0 && column[STEP] != NO_COLUMN)
		ret = mtl_csv_integer(csv, column[STEP], INT64_MAX / 2, &cell->step, error);
	if (ret == 0 && column[SRC] != NO_COLUMN && column[DST] != NO_COLUMN) {
		ret = mtl_csv_integer(csv, column[SRC], MOETAP_MAX_RANKS - 1, &src, error);
		if (ret == 0)
			ret = mtl_csv_integer(csv, column[DST], MOETAP_MAX_RANKS - 1, &dst, error);
		cell->src = (uint32_t)src;
		cell->dst = (uint32_t)dst;
	}
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
			ret = mtl_cells_add(csv, cells, &cell, error);
	}
	return ret;
}

/** What a run of cells comes to. */
struct run {
	const struct mtl_cells *cells;
	bool by_source;
	double *tokens; /**< [experts], or by source [ranks][experts] */
	bool *seen;  /**< [experts], or [ranks][ranks]: which are named, there in the whole file */
	size_t room; /**< of tokens */
};

/** Which pairs of ranks pass the tap: those that any line names. */
static void see_pairs(const struct run *run)
{
	for (size_t i = 0; i < run->cells->count; i++) {
		const struct mtl_cell *cell = &run->cells->cell[i];

		if (cell->expert != MTL_NO_EXPERT)
			run->seen[(size_t)cell->src * run->cells->ranks + cell->dst] = true;
	}
}

static int run_begin(struct run *run, const struct mtl_cells *cells)
{
	size_t pairs = (size_t)cells->ranks * cells->ranks;

	run->cells = cells;
	run->by_source = cells->ranks > 0 && !cells->sourceless;
	run->room = (run->by_source ? (size_t)cells->ranks : 1) * cells->experts;
	run->tokens = calloc(run->room, sizeof(*run->tokens));
	run->seen = calloc(run->by_source ? pairs : cells->experts, sizeof(*run->seen));
	if (run->tokens == NULL || run->seen == NULL)
		return -ENOMEM;
	if (run->by_source)
		see_pairs(run);
	return 0;
}

static void run_add(const struct run *run, const struct mtl_cell *cell)
{
	if (cell->expert == MTL_NO_EXPERT || isnan(cell->tokens))
		return;
	if (run->by_source) {
		run->tokens[(size_t)cell->src * run->cells->experts + cell->expert] += cell->tokens;
		return;
	}
	run->tokens[cell->expert] += cell->tokens;
	run->seen[cell->expert] = true;
}

/** Adds the round of a run, whose last cell is given, and begins the next one. */
static int run_end(const struct run *run, const struct mtl_cell *cell, uint32_t quality,
	struct moetap_series *series, struct moetap_error *error)
{
	const struct mtl_sources sources = {run->cells->ranks, run->cells->experts, run->tokens,
		run->cells->expert_rank, run->seen};
	int ret;

	if (run->by_source)
		ret = mtl_series_add_sources(
			series, cell->step, cell->layer, &sources, quality, error);
	else
		ret = mtl_series_add_seen(
			series, cell->step, cell->layer, run->tokens, run->seen, quality, error);
	memset(run->tokens, 0, run->room * sizeof(*run->tokens));
	return ret;
}

static int by_round(const void *a, const void *b)
{
	const struct mtl_cell *x = a, *y = b;

	if (x->step != y->step)
		return x->step < y->step ? -1 : 1;
	return x->layer < y->layer ? -1 : x->layer > y->layer;
}

/** Sorts cells of a file in another order: to estimate, all sources of a round are needed. */
static void sort_cells(struct mtl_cells *cells)
{
	size_t i = 1;

	while (i < cells->count && by_round(&cells->cell[i - 1], &cells->cell[i]) <= 0)
		i++;
	if (i < cells->count)
		qsort(cells->cell, cells->count, sizeof(*cells->cell), by_round);
}

/** Adds runs of cells of the same step and layer as one round each. */
static int fill(
	const struct mtl_cells *cells, struct moetap_series *series, struct moetap_error *error)
{
	struct run run = {0};
	int ret = run_begin(&run, cells) < 0 ? mtl_fail_memory(error) : 0;
	uint32_t quality = 0;

	for (size_t i = 0; i < cells->count && ret == 0; i++) {
		const struct mtl_cell *cell = &cells->cell[i];

		quality |= cell->quality;
		run_add(&run, cell);
		if (i + 1 < cells->count && cell[1].step == cell->step &&
			cell[1].layer == cell->layer)
			continue;
		ret = run_end(&run, cell, quality, series, error);
		quality = 0;
	}
	free(run.tokens);
	free(run.seen);
	return ret;
}

int mtl_cells_series(
	struct mtl_cells *cells, struct moetap_series **series, struct moetap_error *error)
{
	int ret = moetap_series_new(cells->layers, cells->experts, 0, series, error);

	if (ret < 0)
		return ret;
	if (cells->ranks > 0 && !cells->sourceless)
		sort_cells(cells);
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
	mtl_cells_free(&cells);
	return ret;
}
