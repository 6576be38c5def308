/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rounds from a device page, whoever's firmware writes it.
 */
#include "source.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "map.h"
#include "page.h"

_Static_assert(sizeof(struct moetap_pair) == sizeof(struct mt_pair), "pairs are given as they are");
_Static_assert(offsetof(struct moetap_pair, gaps) == offsetof(struct mt_pair, gaps), "same");
_Static_assert(MOETAP_QUALITY_INEXACT == MT_Q_INEXACT, "quality is given as it is");
_Static_assert((int)MOETAP_QUALITY_ALIGN == (int)MT_Q_ALIGN, "same");
_Static_assert(MOETAP_QUALITY_TIMEOUT == MT_Q_TIMEOUT, "same");
_Static_assert(MOETAP_QUALITY_UNWITNESSED == MT_Q_UNWITNESSED, "same");
_Static_assert((int)MOETAP_PASS_RECOMPUTE == (int)MT_PASS_RECOMPUTE, "passes too");
_Static_assert((int)MOETAP_WITNESS_DISAGREED == (int)MT_WITNESS_DISAGREED, "and witnesses");

struct moetap_source {
	struct mt_page_map page;
	struct mt_reader reader;
	bool attached;		 /**< page and reader are open */
	struct capture *capture; /**< NULL: the firmware is somebody else's */
	struct mt_bank *bank;	 /**< the map, copied; bank_bytes of room */
	uint32_t *expert_rank;	 /**< [bank->experts] */
	bool *crosses;		 /**< [bank->ranks][bank->ranks] */
	bool bank_valid;
	bool map_assumed;
	uint32_t generation; /**< that the bank is used for */
	uint64_t lost;	     /**< since the last round given */
	bool restarted;
	struct moetap_round round;
};

/* ---- opening ---- */

/** Opens the reader of a page that was attached. */
static int open_reader(struct moetap_source *s, uint64_t from, struct moetap_error *error)
{
	const struct mt_page *p = s->page.page;
	uint64_t head = __atomic_load_n(&p->state.head, __ATOMIC_ACQUIRE);

	s->attached = true;
	if (from == MOETAP_FROM_OLDEST)
		from = head > p->slots ? head - p->slots : 0;
	s->bank = malloc(p->bank_bytes);
	if (mt_reader_open(&s->reader, &s->page, from) < 0 || s->bank == NULL)
		return mtl_fail_memory(error);
	return 0;
}

int moetap_source_open_page(
	const char *name, uint64_t from, struct moetap_source **source, struct moetap_error *error)
{
	struct moetap_source *s = calloc(1, sizeof(*s));
	struct mt_error why;
	int ret;

	if (s == NULL)
		return mtl_fail_memory(error);
	ret = mt_page_attach(&s->page, name, false, &why);
	if (ret < 0)
		mtl_fail(error, ret, "%s", why.text);
	else
		ret = open_reader(s, from, error);
	if (ret < 0)
		moetap_source_close(s);
	else
		*source = s;
	return ret;
}

static void pause_ms(int ms)
{
	const struct timespec pause = {.tv_nsec = ms * 1000L * 1000};

	nanosleep(&pause, NULL);
}

/** Waits until the firmware of the capture has made its page and has its map. */
static int attach_capture(struct moetap_source *s, struct moetap_error *error)
{
	const char *name = mtl_capture_page(s->capture);
	struct mt_error why;
	int ret;

	while ((ret = mt_page_attach(&s->page, name, true, &why)) == -ENOENT || ret == -EAGAIN) {
		ret = mtl_capture_running(s->capture, error);
		if (ret < 0)
			return ret;
		pause_ms(1);
	}
	if (ret < 0)
		return mtl_fail(error, ret, "%s", why.text);
	ret = open_reader(s, 0, error);
	while (ret == 0 && __atomic_load_n(&s->page.page->state.state, __ATOMIC_ACQUIRE) ==
				   MT_STATE_STARTING) {
		ret = mtl_capture_running(s->capture, error);
		pause_ms(1);
	}
	if (ret < 0)
		return ret;
	mtl_capture_started(s->capture);
	__atomic_store_n(&s->page.page->ctl.attached, 1, __ATOMIC_RELEASE);
	return 0;
}

int moetap_source_open_capture(const char *path, const char *map,
	const struct moetap_capture_options *options, struct moetap_source **source,
	struct moetap_error *error)
{
	struct moetap_source *s = calloc(1, sizeof(*s));
	int ret;

	if (s == NULL)
		return mtl_fail_memory(error);
	ret = mtl_capture_start(path, map, options, &s->capture, error);
	if (ret == 0)
		ret = attach_capture(s, error);
	if (ret < 0)
		moetap_source_close(s);
	else
		*source = s;
	return ret;
}

void moetap_source_close(struct moetap_source *s)
{
	if (s == NULL)
		return;
	if (s->capture != NULL)
		mtl_capture_stop(s->capture);
	if (s->attached) {
		mt_reader_close(&s->reader);
		mt_page_close(&s->page);
	}
	free(s->bank);
	free(s->expert_rank);
	free(s->crosses);
	free(s);
}

/* ---- the map of a round ---- */

/** Copies the map of a generation and makes what is looked up in it. */
static int take_bank(struct moetap_source *s, uint32_t generation)
{
	uint32_t room = s->page.page->bank_bytes, ranks;
	uint32_t *rank_of;
	bool *crosses;

	s->bank_valid = false;
	memcpy(s->bank, mt_page_bank(&s->page, generation), room);
	if (mt_bank_check(s->bank, room, NULL) < 0)
		return -EPROTO;
	ranks = s->bank->ranks;
	rank_of = realloc(s->expert_rank, s->bank->experts * sizeof(*rank_of));
	if (rank_of == NULL)
		return -ENOMEM;
	s->expert_rank = rank_of;
	crosses = realloc(s->crosses, (size_t)ranks * ranks * sizeof(*crosses));
	if (crosses == NULL)
		return -ENOMEM;
	s->crosses = crosses;
	for (uint32_t pair = 0; pair < ranks * ranks; pair++)
		crosses[pair] = mt_bank_crosses(s->bank, pair / ranks, pair % ranks) != 0;
	memset(rank_of, 0xff, s->bank->experts * sizeof(*rank_of));
	for (uint32_t r = 0; r < ranks; r++) {
		const struct mt_rank *rank = &mt_bank_ranks(s->bank)[r];

		for (uint32_t e = 0; e < rank->experts; e++)
			rank_of[rank->first_expert + e] = r;
	}
	s->bank_valid = true;
	return 0;
}

/**
 * Has the map of the round that was read. A page holds the maps of two generations; of an older
 * round, the map in force stands in for it if it has as many ranks and experts.
 *
 * Returns 0; -ESTALE: no map fits; -EPROTO, -ENOMEM.
 */
static int know_map(struct moetap_source *s)
{
	const struct mt_round *r = s->reader.round;
	uint32_t in_force;
	int ret = 0;

	if (!s->bank_valid || s->generation != r->generation) {
		in_force = __atomic_load_n(&s->page.page->state.generation, __ATOMIC_ACQUIRE);
		s->map_assumed = in_force - r->generation > 1;
		ret = take_bank(s, s->map_assumed ? in_force : r->generation);
		if (ret == -EPROTO && !s->map_assumed && in_force != r->generation) {
			s->map_assumed = true; /* a new map is just being written over it */
			ret = take_bank(s, in_force);
		}
		s->generation = r->generation;
	}
	if (ret < 0)
		return ret;
	return r->ranks == s->bank->ranks && r->experts == s->bank->experts &&
			       mt_slot_bytes(r->ranks, r->experts) <= s->page.page->slot_bytes
		       ? 0
		       : -ESTALE;
}

int moetap_source_job(struct moetap_source *s, struct moetap_job *job)
{
	uint32_t in_force = __atomic_load_n(&s->page.page->state.generation, __ATOMIC_ACQUIRE);
	int ret;

	if (!s->bank_valid) {
		ret = take_bank(s, in_force);
		if (ret < 0)
			return ret;
		s->generation = in_force;
		s->map_assumed = false;
	}
	*job = (struct moetap_job){.name = s->bank->job,
		.layers = s->bank->layers,
		.ranks = s->bank->ranks,
		.experts = s->bank->experts,
		.generation = s->generation};
	return 0;
}

/* ---- rounds ---- */

static void fill_round(struct moetap_source *s)
{
	struct mt_round *r = s->reader.round;

	s->round = (struct moetap_round){.round = r->seq - 1,
		.step = r->step,
		.layer = r->layer,
		.pass = (enum moetap_pass)r->pass,
		.quality = r->quality,
		.generation = r->generation,
		.first_ns = r->first_ns,
		.last_ns = r->last_ns,
		.tokens = r->tokens,
		.bytes = r->bytes,
		.tokens_unseen = r->tokens_unseen,
		.gaps = r->gaps,
		.duplicates = r->duplicates,
		.counts_missing = r->counts_missing,
		.disagreements = r->disagreements,
		.unmatched = r->unmatched,
		.truncated = r->truncated,
		.stale = r->stale,
		.nic_drops = r->nic_drops,
		.contradictions = r->contradictions,
		.late = r->late,
		.ranks = r->ranks,
		.experts = r->experts,
		.pairs = (const struct moetap_pair *)(const void *)mt_round_pairs(r),
		.cell_bytes = mt_round_bytes(r),
		.cell_tokens = mt_round_tokens(r),
		.expert_rank = s->expert_rank,
		.crosses = s->crosses,
		.lost = s->lost,
		.restarted = s->restarted,
		.map_assumed = s->map_assumed,
		.load_from = mt_rule_type_name(r->load_from),
		.witness_from = r->witness != MT_WITNESS_NONE ? mt_rule_type_name(r->witness_from)
							      : NULL,
		.witness = (enum moetap_witness)r->witness,
		.witness_compared = r->witness_compared,
		.witness_differ = r->witness_differ,
		.witness_gaps = r->witness_gaps};
	s->lost = 0;
	s->restarted = false;
}

/** No more rounds will come: why. */
static int finish(struct moetap_source *s, struct moetap_error *error)
{
	const struct mt_page_state *state = &s->page.page->state;
	int ret;

	if (s->capture != NULL) {
		ret = mtl_capture_end(s->capture, error);
		return ret < 0 ? ret : -EPIPE;
	}
	switch (__atomic_load_n(&state->state, __ATOMIC_ACQUIRE)) {
	case MT_STATE_STOPPED:
		return -EPIPE;
	case MT_STATE_RETIRED:
		return mtl_fail(error, -EOWNERDEAD,
			"the firmware of page '%s' died, and another one restarted with a new "
			"page: read that one",
			s->page.name);
	default:
		return mtl_fail(error, -EOWNERDEAD,
			"the firmware of page '%s' (process %u) died; all that it had published "
			"was read",
			s->page.name, state->pid);
	}
}

int moetap_source_next(
	struct moetap_source *s, const struct moetap_round **round, struct moetap_error *error)
{
	struct mt_read seen;
	int ret;

	do {
		ret = mt_reader_next(&s->reader, &seen);
		s->lost += seen.lost;
		s->restarted |= seen.restarted;
		if (ret == 0)
			return 0;
		if (ret < 0)
			return finish(s, error);
		if (s->capture != NULL)
			__atomic_store_n(
				&s->page.page->ctl.paced_head, s->reader.next, __ATOMIC_RELEASE);
		ret = know_map(s);
		if (ret == -ESTALE)
			s->lost++;
	} while (ret == -ESTALE);
	if (ret == -ENOMEM)
		return mtl_fail_memory(error);
	if (ret < 0)
		return mtl_fail(error, ret,
			"page '%s' holds no valid map: restart its moetap-fw with --map",
			s->page.name);
	fill_round(s);
	*round = &s->round;
	return 1;
}

double moetap_source_progress(const struct moetap_source *s)
{
	return s->capture != NULL ? mtl_capture_progress(s->capture) : NAN;
}

/* ---- statistics ---- */

void moetap_source_stats(const struct moetap_source *s, struct moetap_stats *stats)
{
	const struct mt_page_stats *from = &s->page.page->stats;
	struct mt_form form;
	uint64_t word;

	_Static_assert(sizeof(stats->outcome) == sizeof(from->outcome), "as many");
	for (uint32_t i = 0; i < MOETAP_OUTCOMES_MAX; i++)
		stats->outcome[i] = __atomic_load_n(&from->outcome[i], __ATOMIC_RELAXED);
	stats->packets = __atomic_load_n(&from->packets, __ATOMIC_RELAXED);
	stats->bytes = __atomic_load_n(&from->bytes, __ATOMIC_RELAXED);
	stats->nic_drops = __atomic_load_n(&from->nic_drops, __ATOMIC_RELAXED);
	stats->flows = __atomic_load_n(&from->flows, __ATOMIC_RELAXED);
	stats->rounds = __atomic_load_n(&from->rounds, __ATOMIC_RELAXED);
	stats->marked = __atomic_load_n(&from->marked, __ATOMIC_RELAXED);
	word = __atomic_load_n(&s->page.page->state.form, __ATOMIC_RELAXED);
	memcpy(&form, &word, sizeof(form));
	stats->atomic_form = (struct moetap_atomic_form){.opcode = form.opcode,
		.length = form.length,
		.address = form.address,
		.operand = form.operand,
		.width = form.width,
		.big_endian = form.order == MT_ORDER_BIG,
		.learnt = form.learnt};
}

const char *moetap_outcome_name(uint32_t i)
{
	return i < MT_OUTCOMES ? mt_outcome_name(i) : NULL;
}

const char *moetap_witness_name(enum moetap_witness witness)
{
	return mt_witness_name(witness);
}

/* ---- into a series ---- */

/** A round by source: what passed the tap was seen. */
static int add_sources(struct moetap_series *series, const struct moetap_round *r, uint32_t quality,
	struct moetap_error *error)
{
	size_t cells = (size_t)r->ranks * r->experts, pairs = (size_t)r->ranks * r->ranks;
	double *tokens = malloc(cells * sizeof(*tokens));
	bool *visible = malloc(pairs * sizeof(*visible));
	const struct mtl_sources sources = {r->ranks, r->experts, tokens, r->expert_rank, visible};
	int ret;

	if (tokens == NULL || visible == NULL) {
		free(tokens);
		free(visible);
		return mtl_fail_memory(error);
	}
	for (size_t c = 0; c < cells; c++)
		tokens[c] = r->cell_tokens[c];
	for (size_t p = 0; p < pairs; p++)
		visible[p] = r->pairs[p].last_ns != 0;
	ret = mtl_series_add_sources(series, (int64_t)r->step, r->layer, &sources, quality, error);
	free(tokens);
	free(visible);
	return ret;
}

/** A round that does not say what passed the tap: taken as it is. */
static int add_whole(struct moetap_series *series, const struct moetap_round *r, uint32_t quality,
	struct moetap_error *error)
{
	double *tokens = calloc(r->experts, sizeof(*tokens));
	int ret;

	if (tokens == NULL)
		return mtl_fail_memory(error);
	for (size_t c = 0; c < (size_t)r->ranks * r->experts; c++)
		tokens[c % r->experts] += r->cell_tokens[c];
	ret = moetap_series_add_round(series, (int64_t)r->step, r->layer, tokens, quality, error);
	free(tokens);
	return ret;
}

int moetap_series_add_counts(
	struct moetap_series *series, const struct moetap_round *r, struct moetap_error *error)
{
	uint32_t quality = r->quality & MOETAP_QUALITY_INEXACT;

	if (r->pass != MOETAP_PASS_FORWARD)
		return 0;
	if (r->experts != moetap_series_experts(series))
		return mtl_fail(error, -EINVAL, "a round of %u experts for a series of %u",
			r->experts, moetap_series_experts(series));
	if (r->lost > 0)
		quality |= MOETAP_QUALITY_OVERRUN;
	if (r->pairs == NULL || r->expert_rank == NULL)
		return add_whole(series, r, quality, error);
	return add_sources(series, r, quality, error);
}
