/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Loads by step: a ring of rows, one row a step, in rising order of steps. A row is taken from the
 * heap when its step first comes and used again for a new step once the ring is full.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** What of a step is estimated, and how well; arrays in the same block. Variances are of tokens. */
struct guess {
	uint32_t *rounds; /**< [layers] */
	float *unseen;	  /**< [layers][experts], tokens */
	float *variance;  /**< sum over rounds; INFINITY: not known */
	float *lasting;	  /**< part of it that rounds have in common, sum over rounds */
};

/** One step. The three arrays lie behind it in the same block. */
struct row {
	int64_t step;
	struct guess *guess; /**< NULL: all of it was seen */
	double *tokens;	     /**< [layers][experts] */
	double *sum;	     /**< [layers], of tokens */
	uint32_t *quality;   /**< [layers], and SEEN once a round of the layer came */
};

/** Not a flaw: marks a layer of which a round was seen in this step. */
#define SEEN (1u << 31)
#define NO_FLAW (MOETAP_QUALITY_UNKNOWN | MOETAP_QUALITY_ESTIMATED)

struct moetap_series {
	uint32_t layers, experts;
	uint32_t max_steps; /**< limit of `count` */
	uint32_t room;	    /**< length of `rows` */
	uint32_t head;	    /**< where the oldest row is */
	uint32_t count;
	uint64_t dropped;
	bool *seen;		      /**< [experts]: some round could see it */
	bool guesses;		      /**< rows may have estimates */
	struct mtl_trail *trails;     /**< [layers]; NULL: no round came by source yet */
	struct mtl_senders *senders;  /**< [layers]; as `trails` */
	struct mtl_estimate estimate; /**< of the round that is added */
	struct row **rows;
};

static size_t row_bytes(uint32_t layers, uint32_t experts)
{
	return sizeof(struct row) + (size_t)layers * experts * sizeof(double) +
	       layers * (sizeof(double) + sizeof(uint32_t));
}

static size_t guess_bytes(const struct moetap_series *s)
{
	return sizeof(struct guess) + s->layers * sizeof(uint32_t) +
	       3 * (size_t)s->layers * s->experts * sizeof(float);
}

static struct row **row_at(const struct moetap_series *s, uint32_t i)
{
	return &s->rows[(s->head + i) % s->room];
}

int moetap_series_new(uint32_t layers, uint32_t experts, uint32_t max_steps,
	struct moetap_series **series, struct moetap_error *error)
{
	struct moetap_series *s;
	size_t fit;
	int ret;

	ret = mtl_check_geometry(layers, experts, error);
	if (ret < 0)
		return ret;
	fit = MOETAP_SERIES_BYTES / (row_bytes(layers, experts) + sizeof(struct row *));
	if (fit > UINT32_MAX)
		fit = UINT32_MAX;
	if (max_steps > fit)
		return mtl_fail(error, -E2BIG,
			"%u steps of %u layers and %u experts take more than %zu MiB; at most %zu "
			"steps fit",
			max_steps, layers, experts, MOETAP_SERIES_BYTES >> 20, fit);
	s = calloc(1, sizeof(*s));
	if (s == NULL)
		return mtl_fail_memory(error);
	s->seen = calloc(experts, sizeof(*s->seen));
	if (s->seen == NULL) {
		free(s);
		return mtl_fail_memory(error);
	}
	s->layers = layers;
	s->experts = experts;
	s->max_steps = max_steps > 0 ? max_steps : (uint32_t)fit;
	*series = s;
	return 0;
}

static void row_free(struct row *row)
{
	free(row->guess);
	free(row);
}

void moetap_series_free(struct moetap_series *s)
{
	if (s == NULL)
		return;
	for (uint32_t i = 0; i < s->count; i++)
		row_free(*row_at(s, i));
	for (uint32_t l = 0; s->trails != NULL && l < s->layers; l++)
		free(s->trails[l].mean);
	free(s->trails);
	for (uint32_t l = 0; s->senders != NULL && l < s->layers; l++)
		mtl_senders_free(&s->senders[l]);
	free(s->senders);
	mtl_estimate_free(&s->estimate);
	free(s->rows);
	free(s->seen);
	free(s);
}

static struct row *row_new(const struct moetap_series *s)
{
	size_t cells = (size_t)s->layers * s->experts;
	struct row *row = malloc(row_bytes(s->layers, s->experts));

	if (row == NULL)
		return NULL;
	row->tokens = (double *)(row + 1);
	row->sum = row->tokens + cells;
	row->quality = (uint32_t *)(row->sum + s->layers);
	row->guess = NULL;
	return row;
}

static void row_clear(const struct moetap_series *s, struct row *row, int64_t step)
{
	row->step = step;
	memset(row->tokens, 0, (size_t)s->layers * s->experts * sizeof(double));
	memset(row->sum, 0, s->layers * sizeof(double));
	memset(row->quality, 0, s->layers * sizeof(uint32_t));
	free(row->guess);
	row->guess = NULL;
}

/** Doubles the ring's room. */
static int grow(struct moetap_series *s)
{
	uint64_t room = s->room > 0 ? 2ull * s->room : 64;
	struct row **rows;

	if (room > s->max_steps)
		room = s->max_steps;
	rows = malloc(room * sizeof(*rows));
	if (rows == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->count; i++)
		rows[i] = *row_at(s, i);
	free(s->rows);
	s->rows = rows;
	s->room = (uint32_t)room;
	s->head = 0;
	return 0;
}

/** Makes the row of a new step, which belongs at index `at`. */
static int insert(struct moetap_series *s, uint32_t at, int64_t step, struct row **out)
{
	struct row *row;

	if (s->count == s->max_steps) {
		row = *row_at(s, 0);
		s->head = (s->head + 1) % s->room;
		s->count--;
		s->dropped++;
		at--;
	} else {
		if (s->count == s->room && grow(s) < 0)
			return -ENOMEM;
		row = row_new(s);
		if (row == NULL)
			return -ENOMEM;
	}
	row_clear(s, row, step);
	for (uint32_t i = s->count; i > at; i--)
		*row_at(s, i) = *row_at(s, i - 1);
	*row_at(s, at) = row;
	s->count++;
	*out = row;
	return 0;
}

uint32_t mtl_series_lower(const struct moetap_series *s, int64_t step)
{
	uint32_t low = 0, high = s->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if ((*row_at(s, middle))->step < step)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/** The row of a step, made if need be. */
static int row_of(struct moetap_series *s, int64_t step, struct row **row)
{
	/* Nearly always the newest step or the one after it. */
	uint32_t at = s->count > 0 && (*row_at(s, s->count - 1))->step < step
			      ? s->count
			      : mtl_series_lower(s, step);

	if (at < s->count && (*row_at(s, at))->step == step) {
		*row = *row_at(s, at);
		return 0;
	}
	if (at == 0 && s->count > 0 && (s->dropped > 0 || s->count == s->max_steps))
		return -ESTALE;
	return insert(s, at, step, row);
}

static int check_tokens(const struct moetap_series *s, uint32_t layer, const double *tokens,
	struct moetap_error *error)
{
	for (uint32_t e = 0; e < s->experts; e++) {
		if (!(tokens[e] >= 0 && tokens[e] <= LOAD_MAX))
			return mtl_fail(error, -EINVAL,
				"layer %u, expert %u: %g tokens; a load must be a number from 0 to "
				"2^53",
				layer, e, tokens[e]);
	}
	return 0;
}

static int find_row(
	struct moetap_series *s, int64_t step, struct row **row, struct moetap_error *error)
{
	int ret = row_of(s, step, row);

	if (ret == -ESTALE)
		return mtl_fail(error, ret, "step %lld is older than the oldest kept step %lld",
			(long long)step, (long long)moetap_series_first_step(s));
	if (ret < 0)
		return mtl_fail_memory(error);
	return 0;
}

/** Notes which experts a round could see; NULL: all. */
static void note_seen(struct moetap_series *s, const bool *seen)
{
	for (uint32_t e = 0; e < s->experts; e++)
		s->seen[e] |= seen == NULL || seen[e];
}

static void add_layer(const struct moetap_series *s, struct row *row, uint32_t layer,
	const double *tokens, uint32_t quality)
{
	double *to = row->tokens + (size_t)layer * s->experts;

	for (uint32_t e = 0; e < s->experts; e++) {
		to[e] += tokens[e];
		row->sum[layer] += tokens[e];
	}
	row->quality[layer] |= (quality & ~SEEN) | SEEN;
}

int mtl_series_add_seen(struct moetap_series *s, int64_t step, uint32_t layer, const double *tokens,
	const bool *seen, uint32_t quality, struct moetap_error *error)
{
	struct row *row;
	int ret;

	if (layer >= s->layers)
		return mtl_fail(
			error, -EINVAL, "layer %u of a series of %u layers", layer, s->layers);
	ret = check_tokens(s, layer, tokens, error);
	if (ret < 0)
		return ret;
	ret = find_row(s, step, &row, error);
	if (ret < 0)
		return ret;
	add_layer(s, row, layer, tokens, quality);
	note_seen(s, seen);
	return 0;
}

/** Once there are estimates rows take more, so that fewer may fit. */
static void limit_rows(struct moetap_series *s)
{
	size_t bytes = row_bytes(s->layers, s->experts) + guess_bytes(s) + sizeof(struct row *);
	size_t fit = MOETAP_SERIES_BYTES / bytes > 0 ? MOETAP_SERIES_BYTES / bytes : 1;

	s->guesses = true;
	if (fit < s->max_steps)
		s->max_steps = (uint32_t)fit;
	while (s->count > s->max_steps) {
		row_free(*row_at(s, 0));
		s->head = (s->head + 1) % s->room;
		s->count--;
		s->dropped++;
	}
}

static struct guess *guess_of(const struct moetap_series *s, struct row *row)
{
	size_t cells = (size_t)s->layers * s->experts;
	struct guess *g = row->guess;

	if (g != NULL)
		return g;
	g = calloc(1, guess_bytes(s));
	if (g == NULL)
		return NULL;
	g->rounds = (uint32_t *)(g + 1);
	g->unseen = (float *)(g->rounds + s->layers);
	g->variance = g->unseen + cells;
	g->lasting = g->variance + cells;
	row->guess = g;
	return g;
}

static void add_guess(const struct moetap_series *s, struct guess *g, uint32_t layer,
	const struct mtl_estimate *estimate)
{
	size_t at = (size_t)layer * s->experts;

	g->rounds[layer]++;
	for (uint32_t e = 0; e < s->experts; e++) {
		g->unseen[at + e] += (float)estimate->unseen[e];
		g->variance[at + e] += (float)estimate->variance[e];
		g->lasting[at + e] += (float)estimate->lasting[e];
	}
}

int mtl_series_add_sources(struct moetap_series *s, int64_t step, uint32_t layer,
	const struct mtl_sources *sources, uint32_t quality, struct moetap_error *error)
{
	struct mtl_estimate *estimate = &s->estimate;
	bool estimated = false;
	struct row *row;
	int ret = 0;

	if (layer >= s->layers)
		return mtl_fail(
			error, -EINVAL, "layer %u of a series of %u layers", layer, s->layers);
	if (s->trails == NULL)
		s->trails = calloc(s->layers, sizeof(*s->trails));
	if (s->senders == NULL)
		s->senders = calloc(s->layers, sizeof(*s->senders));
	if (estimate->load == NULL)
		ret = mtl_estimate_new(s->experts, estimate);
	if (ret < 0 || s->trails == NULL || s->senders == NULL)
		return mtl_fail_memory(error);
	ret = mtl_estimate_round(sources, &s->trails[layer], estimate);
	if (ret == 0)
		ret = mtl_senders_add(&s->senders[layer], sources, estimate->load);
	if (ret < 0)
		return mtl_fail_memory(error);
	for (uint32_t e = 0; e < s->experts; e++)
		estimated |= estimate->estimated[e];
	if (estimated && !s->guesses)
		limit_rows(s);
	ret = mtl_series_add_seen(s, step, layer, estimate->load, estimate->known,
		quality | (estimated ? MOETAP_QUALITY_ESTIMATED : 0), error);
	if (ret < 0 || !estimated)
		return ret;
	ret = find_row(s, step, &row, error);
	if (ret == 0 && guess_of(s, row) == NULL)
		ret = mtl_fail_memory(error);
	if (ret == 0)
		add_guess(s, row->guess, layer, estimate);
	return ret;
}

/** Adds what of a row of slots is estimated. Errors of an expert's slots are taken as independent. */
static void add_slot_guesses(const struct moetap_series *s, struct guess *g, uint32_t layer,
	const struct moetap_series *slots, const struct guess *from, const uint32_t *held)
{
	g->rounds[layer] += from->rounds[layer];
	for (uint32_t slot = 0; slot < slots->experts; slot++) {
		size_t to = (size_t)layer * s->experts + held[slot];
		size_t at = (size_t)layer * slots->experts + slot;

		g->unseen[to] += from->unseen[at];
		g->variance[to] += from->variance[at];
		g->lasting[to] += from->lasting[at];
	}
}

int mtl_series_add_slots(struct moetap_series *s, const struct moetap_series *slots, uint32_t i,
	uint32_t layer, const uint32_t *held, struct moetap_error *error)
{
	const struct row *from = *row_at(slots, i);
	const double *tokens = from->tokens + (size_t)layer * slots->experts;
	double *load = calloc(s->experts, sizeof(*load));
	bool *seen = malloc(s->experts * sizeof(*seen));
	struct row *row;
	int ret = 0;

	if (load == NULL || seen == NULL) {
		free(load);
		free(seen);
		return mtl_fail_memory(error);
	}
	memset(seen, true, s->experts * sizeof(*seen));
	for (uint32_t slot = 0; slot < slots->experts; slot++) {
		load[held[slot]] += tokens[slot];
		seen[held[slot]] &= slots->seen[slot];
	}
	if ((from->quality[layer] & SEEN) != 0) {
		if (from->guess != NULL && !s->guesses)
			limit_rows(s);
		ret = mtl_series_add_seen(
			s, from->step, layer, load, seen, from->quality[layer], error);
		if (ret == 0 && from->guess != NULL) {
			ret = find_row(s, from->step, &row, error);
			if (ret == 0 && guess_of(s, row) == NULL)
				ret = mtl_fail_memory(error);
			if (ret == 0)
				add_slot_guesses(s, row->guess, layer, slots, from->guess, held);
		}
	}
	free(load);
	free(seen);
	return ret;
}

int moetap_series_add_round(struct moetap_series *s, int64_t step, uint32_t layer,
	const double *tokens, uint32_t quality, struct moetap_error *error)
{
	return mtl_series_add_seen(s, step, layer, tokens, NULL, quality, error);
}

int moetap_series_add_step(struct moetap_series *s, int64_t step, const double *tokens,
	const uint32_t *quality, struct moetap_error *error)
{
	struct row *row;
	int ret;

	for (uint32_t l = 0; l < s->layers; l++) {
		ret = check_tokens(s, l, tokens + (size_t)l * s->experts, error);
		if (ret < 0)
			return ret;
	}
	ret = find_row(s, step, &row, error);
	if (ret < 0)
		return ret;
	for (uint32_t l = 0; l < s->layers; l++)
		add_layer(s, row, l, tokens + (size_t)l * s->experts,
			quality != NULL ? quality[l] : 0);
	note_seen(s, NULL);
	return 0;
}

const struct mtl_senders *mtl_series_senders(const struct moetap_series *s, uint32_t layer)
{
	return s->senders != NULL && s->senders[layer].rounds > 0 ? &s->senders[layer] : NULL;
}

uint32_t moetap_series_layers(const struct moetap_series *s)
{
	return s->layers;
}

uint32_t moetap_series_experts(const struct moetap_series *s)
{
	return s->experts;
}

uint32_t moetap_series_steps(const struct moetap_series *s)
{
	return s->count;
}

uint64_t moetap_series_dropped(const struct moetap_series *s)
{
	return s->dropped;
}

int64_t moetap_series_first_step(const struct moetap_series *s)
{
	return s->count > 0 ? (*row_at(s, 0))->step : 0;
}

int64_t moetap_series_last_step(const struct moetap_series *s)
{
	return s->count > 0 ? (*row_at(s, s->count - 1))->step : -1;
}

int64_t mtl_series_step(const struct moetap_series *s, uint32_t i)
{
	return (*row_at(s, i))->step;
}

double mtl_series_sum(const struct moetap_series *s, uint32_t i, uint32_t layer)
{
	return (*row_at(s, i))->sum[layer];
}

int64_t mtl_series_observe(
	const struct moetap_series *s, uint32_t i, double *share, double *sum, uint32_t *quality)
{
	const struct row *row = *row_at(s, i);

	for (uint32_t l = 0; l < s->layers; l++) {
		size_t at = (size_t)l * s->experts;
		double one = row->sum[l] > 0 ? 1 / row->sum[l] : 0;

		sum[l] = row->sum[l];
		quality[l] = row->quality[l] & ~SEEN;
		for (uint32_t e = 0; e < s->experts; e++)
			share[at + e] = row->tokens[at + e] * one;
	}
	return row->step;
}

uint32_t moetap_series_mean_shares(
	const struct moetap_series *s, uint32_t layer, int64_t first, int64_t last, double *share)
{
	uint32_t used = 0;

	memset(share, 0, s->experts * sizeof(*share));
	for (uint32_t i = mtl_series_lower(s, first); i < s->count; i++) {
		const struct row *row = *row_at(s, i);
		const double *tokens = row->tokens + (size_t)layer * s->experts;

		if (row->step > last)
			break;
		if (row->sum[layer] <= 0)
			continue;
		for (uint32_t e = 0; e < s->experts; e++)
			share[e] += tokens[e] / row->sum[layer];
		used++;
	}
	for (uint32_t e = 0; used > 0 && e < s->experts; e++)
		share[e] /= used;
	return used;
}

void moetap_series_mean_tokens(const struct moetap_series *s, uint32_t steps, double *tokens)
{
	size_t cells = (size_t)s->layers * s->experts;
	uint32_t first = steps > 0 && steps < s->count ? s->count - steps : 0;

	memset(tokens, 0, cells * sizeof(*tokens));
	for (uint32_t i = first; i < s->count; i++) {
		const double *row = (*row_at(s, i))->tokens;

		for (size_t c = 0; c < cells; c++)
			tokens[c] += row[c] / (s->count - first);
	}
	for (size_t c = 0; c < cells; c++)
		if (s->count > 0 && !s->seen[c % s->experts])
			tokens[c] = NAN;
}

/** Sums over the steps of a window, of one layer; arrays of [experts]. */
struct window {
	uint32_t steps;
	double unseen;	 /**< sum over steps of the part of the layer that is estimated */
	bool blind;	 /**< nothing tells some variance */
	double *share;	 /**< the next two are parts of it */
	double *guessed; /**< of the share, estimated */
	double *passing; /**< variance that each round has of its own, in squares of shares */
	double *lasting; /**< and that all have in common */
};

/** Adds the variances of a step's tokens, as those of shares: of x / (x + rest), to first order. */
static void add_variances(
	const struct moetap_series *s, const struct row *row, uint32_t layer, struct window *w)
{
	const double *tokens = row->tokens + (size_t)layer * s->experts;
	const float *variance = row->guess->variance + (size_t)layer * s->experts;
	const float *lasting = row->guess->lasting + (size_t)layer * s->experts;
	double sum = row->sum[layer], rounds = row->guess->rounds[layer], all[2] = {0, 0};

	for (uint32_t e = 0; e < s->experts; e++) {
		w->blind |= isinf(variance[e]) != 0;
		all[0] += (double)variance[e] - (double)lasting[e];
		all[1] += rounds * (double)lasting[e];
	}
	for (uint32_t e = 0; e < s->experts && !w->blind; e++) {
		double share = tokens[e] / sum, own = 1 - 2 * share;
		double passes = (double)variance[e] - (double)lasting[e];
		double lasts = rounds * (double)lasting[e];

		w->passing[e] += (own * passes + share * share * all[0]) / (sum * sum);
		w->lasting[e] += (own * lasts + share * share * all[1]) / (sum * sum);
	}
}

static void add_step(
	const struct moetap_series *s, const struct row *row, uint32_t layer, struct window *w)
{
	const double *tokens = row->tokens + (size_t)layer * s->experts;

	w->steps++;
	for (uint32_t e = 0; e < s->experts; e++)
		w->share[e] += tokens[e] / row->sum[layer];
	if (row->guess == NULL)
		return;
	for (uint32_t e = 0; e < s->experts; e++) {
		double unseen = (double)row->guess->unseen[(size_t)layer * s->experts + e];

		w->guessed[e] += unseen / row->sum[layer];
		w->unseen += unseen / row->sum[layer];
	}
	add_variances(s, row, layer, w);
}

/** Half of the interval of a mean share: what each round has of its own averages out. */
static double half_of(const struct window *w, uint32_t e)
{
	double all = (w->passing[e] + w->lasting[e]) / w->steps;
	double lasting = fmin(fmax(w->lasting[e] / w->steps, 0), all);

	if (w->blind)
		return INFINITY;
	return MTL_NORMAL_80 * sqrt(fmax(lasting + (all - lasting) / w->steps, 0));
}

double moetap_series_unseen(const struct moetap_series *s, uint32_t layer, int64_t first,
	int64_t last, double *part, double *half)
{
	double *room = calloc(4 * (size_t)s->experts, sizeof(*room));
	struct window w = {.share = room};

	if (room == NULL)
		return NAN;
	w.guessed = room + s->experts;
	w.passing = w.guessed + s->experts;
	w.lasting = w.passing + s->experts;
	for (uint32_t i = mtl_series_lower(s, first); i < s->count; i++) {
		const struct row *row = *row_at(s, i);

		if (row->step > last)
			break;
		if (row->sum[layer] > 0)
			add_step(s, row, layer, &w);
	}
	for (uint32_t e = 0; e < s->experts; e++) {
		if (part != NULL)
			part[e] = w.share[e] > 0 ? w.guessed[e] / w.share[e] : 0;
		if (half != NULL)
			half[e] = w.steps > 0 ? half_of(&w, e) : 0;
	}
	free(room);
	return w.steps > 0 ? w.unseen / w.steps : 0;
}

bool moetap_series_seen(const struct moetap_series *s, uint32_t expert)
{
	return expert < s->experts && s->seen[expert];
}

uint64_t moetap_series_flagged(const struct moetap_series *s, int64_t first, int64_t last,
	uint32_t *quality, uint64_t *rounds)
{
	uint64_t flagged = 0, seen = 0;
	uint32_t all = 0;

	for (uint32_t i = mtl_series_lower(s, first); i < s->count; i++) {
		const struct row *row = *row_at(s, i);

		if (row->step > last)
			break;
		for (uint32_t l = 0; l < s->layers; l++) {
			seen += (row->quality[l] & SEEN) != 0;
			flagged += (row->quality[l] & ~(SEEN | NO_FLAW)) != 0;
			all |= row->quality[l] & ~SEEN;
		}
	}
	if (quality != NULL)
		*quality = all;
	if (rounds != NULL)
		*rounds = seen;
	return flagged;
}
