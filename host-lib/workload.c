/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Generated loads. The kinds are those that benchmarks of Megatron-Core's dispatchers take
 * (NVIDIA/Megatron-LM, issue 7488), as loads of experts by step, and shifts of them.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Variance of tokens over that of independent draws. */
#define DISPERSION 4.0
/** Steps that a rotating hot spot stays, and between the beginnings of bursts, and of a burst. */
#define ROTATION 40
#define BURSTS 200
#define BURST 20

struct kind {
	const char *name, *title;
	/** Fills weight[experts] of a layer in a step. */
	void (*fill)(const struct moetap_workload_size *size, uint32_t layer, uint32_t step,
		uint64_t *random, double *weight);
};

/** splitmix64. */
static uint64_t next(uint64_t *random)
{
	uint64_t z = *random += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/** From 0 to 1, both left out. */
static double uniform(uint64_t *random)
{
	return ((double)(next(random) >> 11) + 0.5) / 9007199254740992.0;
}

/** Box and Muller. */
static double normal(uint64_t *random)
{
	double radius = sqrt(-2 * log(uniform(random)));

	return radius * cos(2 * M_PI * uniform(random));
}

static void all_alike(const struct moetap_workload_size *size, double *weight)
{
	for (uint32_t e = 0; e < size->experts; e++)
		weight[e] = 1;
}

static void balanced(const struct moetap_workload_size *size, uint32_t layer, uint32_t step,
	uint64_t *random, double *weight)
{
	(void)layer;
	(void)step;
	(void)random;
	all_alike(size, weight);
}

/** An eighth of the experts, others in each layer and for each `which`, get half of the tokens. */
static void some_hot(
	const struct moetap_workload_size *size, uint32_t layer, uint32_t which, double *weight)
{
	uint32_t hot = size->experts >= 16 ? size->experts / 8 : 1;
	uint64_t choice = ((uint64_t)size->seed << 40) + ((uint64_t)which << 20) + layer;

	all_alike(size, weight);
	for (uint32_t n = 0; n < hot && n + 1 < size->experts;) {
		uint32_t e = (uint32_t)(next(&choice) % size->experts);

		if (weight[e] > 1)
			continue;
		weight[e] = 1.0 * (size->experts - hot) / hot;
		/* of two experts the hot one would be like the other */
		weight[e] = weight[e] > 1 ? weight[e] : 2;
		n++;
	}
}

static void hot_set(const struct moetap_workload_size *size, uint32_t layer, uint32_t step,
	uint64_t *random, double *weight)
{
	(void)step;
	(void)random;
	some_hot(size, layer, 0, weight);
}

static void shift(const struct moetap_workload_size *size, uint32_t layer, uint32_t step,
	uint64_t *random, double *weight)
{
	(void)random;
	some_hot(size, layer, (uint32_t)((uint64_t)step * 3 / size->steps), weight);
}

/** Weight of the experts of one rank; the others' is 1. */
static void one_rank(
	const struct moetap_workload_size *size, uint32_t rank, double its, double *weight)
{
	uint32_t a_rank = size->experts / size->ranks;

	all_alike(size, weight);
	for (uint32_t e = rank * a_rank; e < (rank + 1) * a_rank; e++)
		weight[e] = its;
}

static void hot_rank(const struct moetap_workload_size *size, uint32_t layer, uint32_t step,
	uint64_t *random, double *weight)
{
	(void)step;
	(void)random;
	one_rank(size, layer % size->ranks, 4, weight);
}

static void zero_rank(const struct moetap_workload_size *size, uint32_t layer, uint32_t step,
	uint64_t *random, double *weight)
{
	(void)step;
	(void)random;
	one_rank(size, layer % size->ranks, 0, weight);
}

static void spread_hot(const struct moetap_workload_size *size, uint32_t layer, uint32_t step,
	uint64_t *random, double *weight)
{
	uint32_t a_rank = size->experts / size->ranks;

	(void)step;
	(void)random;
	all_alike(size, weight);
	for (uint32_t r = 0; r < size->ranks; r++)
		weight[r * a_rank + layer % a_rank] = 1 + a_rank;
}

/** A source likes the experts of the rank after it twice as much as others. */
static void ragged(const struct moetap_workload_size *size, uint32_t layer, uint32_t step,
	uint64_t *random, double *weight)
{
	uint32_t a_rank = size->experts / size->ranks;

	(void)step;
	memset(weight, 0, size->experts * sizeof(*weight));
	for (uint32_t r = 0; r < size->ranks; r++) {
		double tokens = 2 * uniform(random) / size->ranks;
		uint32_t likes = (r + 1 + layer) % size->ranks;

		for (uint32_t e = 0; e < size->experts; e++)
			weight[e] += tokens * (e / a_rank == likes ? 2 : 1);
	}
}

static void rotating(const struct moetap_workload_size *size, uint32_t layer, uint32_t step,
	uint64_t *random, double *weight)
{
	(void)random;
	one_rank(size, (step / ROTATION + layer) % size->ranks, 4, weight);
}

static void burst(const struct moetap_workload_size *size, uint32_t layer, uint32_t step,
	uint64_t *random, double *weight)
{
	(void)random;
	one_rank(size, (step / BURSTS + layer) % size->ranks, step % BURSTS < BURST ? 8 : 1, weight);
}

static const struct kind kinds[] = {
	{"balanced", "all experts alike", balanced},
	{"hot-set", "an eighth of the experts gets half of the tokens", hot_set},
	{"hot-rank", "the experts of one rank get four times as much as others", hot_rank},
	{"spread-hot", "a hot expert on every rank: ranks are alike", spread_hot},
	{"ragged", "each source sends from none to twice the mean, and has its likes", ragged},
	{"zero-rank", "the experts of one rank get nothing", zero_rank},
	{"rotating", "a hot rank, another one every 40 steps", rotating},
	{"burst", "all alike, and for 20 of 200 steps a rank eight times as hot", burst},
	{"shift", "hot-set, with another set in each third of the steps", shift},
};

const char *moetap_workload(uint32_t i, const char **title)
{
	if (i >= sizeof(kinds) / sizeof(kinds[0]))
		return NULL;
	if (title != NULL)
		*title = kinds[i].title;
	return kinds[i].name;
}

/** Turns weights into tokens, with noise. */
static void draw(const struct moetap_workload_size *size, bool ragged, uint64_t *random, double *load)
{
	double sum = 0;

	for (uint32_t e = 0; e < size->experts; e++)
		sum += load[e];
	/* The tokens of ragged sources differ; their mean weight is that of `size`. */
	if (ragged)
		sum = size->experts + (double)size->experts / size->ranks;
	for (uint32_t e = 0; e < size->experts; e++) {
		double mean = size->tokens * load[e] / sum;

		load[e] = fmax(round(mean + sqrt(DISPERSION * mean) * normal(random)), 0);
	}
}

static int check(const struct moetap_workload_size *s, struct moetap_error *error)
{
	int ret = mtl_check_geometry(s->layers, s->experts, error);

	if (ret < 0)
		return ret;
	if (s->ranks == 0 || s->experts % s->ranks != 0)
		return mtl_fail(error, -EINVAL, "%u experts cannot be spread evenly over %u ranks",
			s->experts, s->ranks);
	if (s->steps == 0 || !(s->tokens >= 1 && s->tokens <= LOAD_MAX / s->experts))
		return mtl_fail(error, -EINVAL, "there must be a step and a token at least");
	return 0;
}

int moetap_workload_make(const char *name, const struct moetap_workload_size *size,
	struct moetap_series **out, struct moetap_error *error)
{
	const struct kind *kind = kinds;
	uint64_t random = size->seed;
	struct moetap_series *series;
	double *load;
	int ret;

	while (kind < kinds + sizeof(kinds) / sizeof(kinds[0]) && strcmp(kind->name, name) != 0)
		kind++;
	if (kind == kinds + sizeof(kinds) / sizeof(kinds[0]))
		return mtl_fail(error, -EINVAL, "there are no loads of kind '%.60s'", name);
	ret = check(size, error);
	if (ret == 0)
		ret = moetap_series_new(size->layers, size->experts, 0, &series, error);
	if (ret < 0)
		return ret;
	load = malloc(size->experts * sizeof(*load));
	ret = load != NULL ? 0 : mtl_fail_memory(error);
	for (uint32_t step = 0; step < size->steps && ret == 0; step++)
		for (uint32_t l = 0; l < size->layers && ret == 0; l++) {
			kind->fill(size, l, step, &random, load);
			draw(size, kind->fill == ragged, &random, load);
			ret = moetap_series_add_round(series, step, l, load, 0, error);
		}
	free(load);
	if (ret < 0)
		moetap_series_free(series);
	else
		*out = series;
	return ret;
}
