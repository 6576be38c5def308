/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Loads with one object a round and line, as `moetap count --format json` prints them. Unlike its
 * CSV they say how good each round is, and how many experts there are.
 */
#include "internal.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "page.h"

/** Experts that a round says there are; at least those of its cells count. */
static int read_experts(const struct csv *csv, const json_t *round, struct mtl_cells *cells,
	struct moetap_error *error)
{
	const json_t *experts = json_object_get(round, "experts");
	json_int_t n = json_integer_value(experts);

	if (experts == NULL)
		return 0;
	if (!json_is_integer(experts) || n < 1 || n > MOETAP_MAX_EXPERTS)
		return mtl_csv_fail(
			csv, CSV_LINE, error, "'experts' must be from 1 to %u", MOETAP_MAX_EXPERTS);
	if (n > cells->experts)
		cells->experts = (uint32_t)n;
	return 0;
}

/** An integer of an object, from 0 to `most`. */
static int integer(const struct csv *csv, const json_t *object, const char *name, int64_t most,
	int64_t *value, struct moetap_error *error)
{
	const json_t *member = json_object_get(object, name);

	*value = json_integer_value(member);
	if (!json_is_integer(member) || *value < 0 || *value > most)
		return mtl_csv_fail(csv, CSV_LINE, error,
			"'%s' must be an integer from 0 to %lld; wanted is what 'moetap count "
			"--format json' prints, without --total",
			name, (long long)most);
	return 0;
}

/** The bit of a word of quality, 0: there is no such word. */
static uint32_t quality_bit(const char *word, size_t length)
{
	char name[32];

	for (uint32_t bit = 1; mt_quality_names(bit, name, sizeof(name))[0] != '\0'; bit <<= 1) {
		if (strlen(name) == length && strncmp(name, word, length) == 0)
			return bit;
	}
	return 0;
}

/** Words as mt_quality_names() writes them; rounds that do not say are of unknown quality. */
static int read_quality(
	const struct csv *csv, const json_t *round, uint32_t *quality, struct moetap_error *error)
{
	const char *words = json_string_value(json_object_get(round, "quality"));

	*quality = words != NULL ? 0 : MOETAP_QUALITY_UNKNOWN;
	while (words != NULL && *words != '\0') {
		size_t length = strcspn(words, ",");
		uint32_t bit = quality_bit(words, length);

		if (bit == 0)
			return mtl_csv_fail(csv, CSV_LINE, error, "'%.*s' is no word of quality",
				length > 40 ? 40 : (int)length, words);
		*quality |= bit & MOETAP_QUALITY_INEXACT;
		words += length;
		words += strspn(words, ", ");
	}
	/* As moetap_series_add_counts() does it. */
	if (json_integer_value(json_object_get(round, "lost")) > 0)
		*quality |= MOETAP_QUALITY_OVERRUN;
	return 0;
}

static int read_cell(const struct csv *csv, const json_t *object, struct mtl_cell *cell,
	struct moetap_error *error)
{
	bool sources =
		json_object_get(object, "src") != NULL && json_object_get(object, "dst") != NULL;
	int64_t expert, tokens, src = MTL_NO_RANK, dst = MTL_NO_RANK;
	int ret = integer(csv, object, "expert", MOETAP_MAX_EXPERTS - 1, &expert, error);

	if (ret == 0)
		ret = integer(csv, object, "tokens", (int64_t)LOAD_MAX, &tokens, error);
	if (ret == 0 && sources)
		ret = integer(csv, object, "src", MOETAP_MAX_RANKS - 1, &src, error);
	if (ret == 0 && sources)
		ret = integer(csv, object, "dst", MOETAP_MAX_RANKS - 1, &dst, error);
	if (ret < 0)
		return ret;
	cell->expert = (uint32_t)expert;
	cell->src = (uint32_t)src;
	cell->dst = (uint32_t)dst;
	cell->tokens = (double)tokens;
	return 0;
}

static int read_round(const struct csv *csv, const json_t *round, struct mtl_cells *cells,
	struct moetap_error *error)
{
	const json_t *list = json_object_get(round, "cells");
	const char *phase = json_string_value(json_object_get(round, "phase"));
	struct mtl_cell cell = {.expert = MTL_NO_EXPERT, .src = MTL_NO_RANK};
	int64_t layer;
	int ret;

	if (phase != NULL && strcmp(phase, "dispatch") != 0)
		return 0;
	ret = integer(csv, round, "step", INT64_MAX / 2, &cell.step, error);
	if (ret == 0)
		ret = integer(csv, round, "layer", MOETAP_MAX_LAYERS - 1, &layer, error);
	if (ret == 0)
		ret = read_quality(csv, round, &cell.quality, error);
	if (ret == 0)
		ret = read_experts(csv, round, cells, error);
	if (ret == 0 && !json_is_array(list))
		ret = mtl_csv_fail(csv, CSV_LINE, error, "the round has no array 'cells'");
	if (ret < 0)
		return ret;
	cell.layer = (uint32_t)layer;
	/* A round of which nothing was seen counts too: it may be flagged. */
	ret = mtl_cells_add(csv, cells, &cell, error);
	for (size_t i = 0; i < json_array_size(list) && ret == 0; i++) {
		ret = read_cell(csv, json_array_get(list, i), &cell, error);
		if (ret == 0)
			ret = mtl_cells_add(csv, cells, &cell, error);
	}
	return ret;
}

static int read_rounds(struct csv *csv, struct mtl_cells *cells, struct moetap_error *error)
{
	json_error_t where;
	const char *line;
	json_t *round;
	ssize_t length;
	int ret = 0;

	while (ret == 0) {
		length = mtl_csv_line(csv, &line, error);
		if (length <= 0)
			return (int)length;
		round = json_loadb(line, (size_t)length, JSON_REJECT_DUPLICATES, &where);
		if (round == NULL || !json_is_object(round))
			ret = mtl_csv_fail(csv, CSV_LINE, error,
				"no round as 'moetap count --format json' prints it: %.80s",
				round == NULL ? where.text : "no object");
		else
			ret = read_round(csv, round, cells, error);
		json_decref(round);
	}
	return ret;
}

int mtl_trace_read_json(struct csv *csv, struct moetap_series **series, struct moetap_error *error)
{
	struct mtl_cells cells = {0};
	int ret = read_rounds(csv, &cells, error);

	if (ret == 0 && cells.experts == 0)
		ret = mtl_csv_fail(csv, CSV_LINE, error, "there is no load in any dispatch round");
	if (ret == 0)
		ret = mtl_cells_series(&cells, series, error);
	mtl_cells_free(&cells);
	return ret;
}
