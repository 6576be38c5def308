/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `auto`: levels of many memories, combined by how wrong they were lately. docs/forecasting.md has
 * the reasons and figures. In short, all of it by layer, and pooled by half over the layers:
 *
 * 1. Levels: running means of shares with fixed half-lives, and means whose memory is a fixed part
 *    of the history ("polynomial decay", Shamir and Zhang, ICML 2013).
 * 2. Snapshots of the levels are kept while steps come. When one is 1, 2, 4, ... steps old (its
 *    lag), the error of each level against what came is known, and so is the matrix of their
 *    products, C. The errors are relative, and experts of a layer count alike.
 * 3. For each lag the weights on the simplex that minimise w'Cw (Bates and Granger 1969), with a
 *    short memory and the neighbouring lags taken in. Under a local-level model the best weights
 *    do not depend on the lag: so short lags, which are known early, serve long horizons.
 * 4. Each of these in a second form, moved towards equal shares and along the latest trend, at
 *    rates regressed from the same matrices; never further than the longest lag that was judged.
 * 5. A forecast mixes all of them by the inverse power of the mean square error that each had,
 *    with the weights of its time, at the lag of the horizon.
 *
 * Memory is bounded: a snapshot lives four times as long as the power of two that divides its
 * number says, so that every lag finds one every quarter of its length.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HALF_LIVES 9 /**< levels with half-lives of 1, 2, 4, ... steps */
#define PARTS 6	     /**< levels whose gain is 1, 2, 4, ... by the number of steps */
#define LEVELS (HALF_LIVES + PARTS)
#define EQUAL LEVELS /**< equal shares, which only the second form uses */
#define MEMBERS (LEVELS + 1)

/** Directions in which the second form moves: from one member towards another. */
enum { TO_EQUAL, TREND, RECENT, RATES };
static const struct {
	uint32_t towards, from;
} directions[RATES] = {
	[TO_EQUAL] = {LEVELS, LEVELS},		    /* towards equal shares, from the levels */
	[TREND] = {HALF_LIVES + 4, HALF_LIVES + 2}, /* of a sixteenth and a quarter of all steps */
	[RECENT] = {4, 6},			    /* of half-lives of 16 and 64 steps */
};

#define LAGS 12 /**< 1, 2, 4, ... 2,048 steps */
#define LAG_MOST (1u << (LAGS - 1))
#define FORMS 2
#define CANDIDATES (FORMS * LAGS)
#define SNAPSHOTS 26

/** Experts are fitted apart by size: where noise is as the square root of a share and drift as the
 * share, the small ones need a longer memory. */
enum { SMALL, LARGE, GROUPS };
/** From this part of an equal share on an expert is large, by the level of a quarter. */
#define LARGE_FROM 0.5f
#define SIZE (HALF_LIVES + 2)
/** Errors of experts from which on a group counts as much by itself as with the others. */
#define ENOUGH 32.0

/** Memory of the matrices, in steps: at least, and as a part of the history. */
#define MEMORY_LEAST 8
#define MEMORY_PART 0.03
/** The same for the regression of the second form, which has to tell a small signal. */
#define MEMORY_LEAST_RATE 32
#define MEMORY_PART_RATE 0.1
/** Rates rest on lags of at most this part of the history: longer ones were judged seldom, and at
 * its beginning. */
#define RATE_LAG 8
/** Part of a unit's matrix that is that of its group in all layers; for rates more. */
#define POOLED 0.5
#define POOLED_RATE 0.8
/** How much the regression is held back, as a part of what it rests on. */
#define RIDGE 0.1
/** A candidate's weight is its mean square error to minus this. */
#define POWER 5

typedef float matrix[MEMBERS][MEMBERS];

/** What was known at one step. */
struct snapshot {
	uint64_t tick;		       /**< 0: free */
	float *level;		       /**< [LEVELS][layers][experts] */
	double *sum;		       /**< of shares so far, [layers][experts] */
	uint32_t *steps;	       /**< with tokens so far, [layers] */
	float (*weight)[LAGS][LEVELS]; /**< [units] */
	float (*rate)[LAGS][RATES];    /**< [units] */
};

/** What matured forecasts said about one lag. */
struct lag {
	uint64_t tick;				    /**< of the last one; 0: none yet */
	matrix *fit;				    /**< [units], sums of C for the weights */
	matrix *fit_rate;			    /**< [units], the same with the longer memory */
	float (*loss)[CANDIDATES];		    /**< [units], sums of mean square errors */
	float *seen;				    /**< [units], errors of experts behind them */
	matrix pooled[GROUPS], pooled_rate[GROUPS]; /**< means over layers, in their least */
};

/** A unit is a group of experts of a layer: layer * GROUPS + group. */
struct level_state {
	uint32_t layers, experts, units;
	uint64_t tick; /**< steps seen */
	int64_t first, last;
	float *level;		       /**< [LEVELS][layers][experts] */
	double *sum;		       /**< [layers][experts] */
	uint32_t *steps;	       /**< [layers] */
	double (*told)[LEVELS];	       /**< [layers], news in each level */
	double *flagged;	       /**< [layers], part of the recent steps that are flagged */
	float (*weight)[LAGS][LEVELS]; /**< [units] */
	float (*rate)[LAGS][RATES];    /**< [units] */
	uint32_t next_layer;	       /**< to fit */
	struct lag lag[LAGS];
	struct snapshot snapshot[SNAPSHOTS];
	struct season *season;
	double *seasonal; /**< scratch, [layers][experts] */
};

/* ---- making and freeing ---- */

static void snapshot_free(struct snapshot *s)
{
	free(s->level);
	free(s->sum);
	free(s->steps);
	free(s->weight);
	free(s->rate);
}

static bool snapshot_new(struct snapshot *s, uint32_t layers, uint32_t experts)
{
	size_t cells = (size_t)layers * experts;

	s->level = malloc(LEVELS * cells * sizeof(float));
	s->sum = malloc(cells * sizeof(double));
	s->steps = malloc(layers * sizeof(uint32_t));
	s->weight = malloc(layers * GROUPS * sizeof(*s->weight));
	s->rate = malloc(layers * GROUPS * sizeof(*s->rate));
	return s->level != NULL && s->sum != NULL && s->steps != NULL && s->weight != NULL &&
	       s->rate != NULL;
}

static void level_close(void *state)
{
	struct level_state *s = state;

	if (s == NULL)
		return;
	for (uint32_t i = 0; i < SNAPSHOTS; i++)
		snapshot_free(&s->snapshot[i]);
	for (uint32_t b = 0; b < LAGS; b++) {
		free(s->lag[b].fit);
		free(s->lag[b].fit_rate);
		free(s->lag[b].loss);
		free(s->lag[b].seen);
	}
	free(s->level);
	free(s->sum);
	free(s->steps);
	free(s->told);
	free(s->flagged);
	free(s->weight);
	free(s->rate);
	free(s->seasonal);
	mtl_season_close(s->season);
	free(s);
}

static int level_open(uint32_t layers, uint32_t experts, uint32_t window, void **state)
{
	size_t cells = (size_t)layers * experts;
	struct level_state *s = calloc(1, sizeof(*s));
	bool ok;

	(void)window;
	if (s == NULL)
		return -ENOMEM;
	s->layers = layers;
	s->experts = experts;
	s->units = layers * GROUPS;
	s->level = calloc(LEVELS * cells, sizeof(float));
	s->sum = calloc(cells, sizeof(double));
	s->steps = calloc(layers, sizeof(uint32_t));
	s->told = calloc(layers, sizeof(*s->told));
	s->flagged = calloc(layers, sizeof(double));
	s->weight = calloc(s->units, sizeof(*s->weight));
	s->rate = calloc(s->units, sizeof(*s->rate));
	s->seasonal = malloc(cells * sizeof(double));
	ok = s->level != NULL && s->sum != NULL && s->steps != NULL && s->told != NULL &&
	     s->flagged != NULL && s->weight != NULL && s->rate != NULL && s->seasonal != NULL &&
	     mtl_season_open(layers, experts, &s->season) == 0;
	for (uint32_t i = 0; ok && i < SNAPSHOTS; i++)
		ok = snapshot_new(&s->snapshot[i], layers, experts);
	for (uint32_t b = 0; ok && b < LAGS; b++) {
		s->lag[b].fit = calloc(s->units, sizeof(matrix));
		s->lag[b].fit_rate = calloc(s->units, sizeof(matrix));
		s->lag[b].loss = calloc(s->units, sizeof(*s->lag[b].loss));
		s->lag[b].seen = calloc(s->units, sizeof(float));
		ok = s->lag[b].seen != NULL && s->lag[b].fit != NULL &&
		     s->lag[b].fit_rate != NULL && s->lag[b].loss != NULL;
	}
	if (!ok) {
		level_close(s);
		return -ENOMEM;
	}
	/* Until something is known: the means of all and of half of the history. */
	for (uint32_t u = 0; u < s->units; u++) {
		for (uint32_t b = 0; b < LAGS; b++)
			s->weight[u][b][HALF_LIVES] = s->weight[u][b][HALF_LIVES + 1] = 0.5f;
	}
	*state = s;
	return 0;
}

/* ---- levels ---- */

/** Gain of level k for a step that tells `news`, in a layer that was told `*told` before. */
static double gain(uint32_t k, double news, double *told)
{
	if (k < HALF_LIVES)
		*told *= exp2(-1.0 / (1u << k));
	*told += news;
	return k < HALF_LIVES ? news / *told : fmin(1, (1u << (k - HALF_LIVES)) * news / *told);
}

/** Levels of a fixed half-life are means of shares, each step counting the same; those of a part of
 * the history pool tokens, which is less of chance where steps differ in size, as in serving. */
static void add_levels(struct level_state *s, uint32_t layer, const double *share, double tokens)
{
	size_t cells = (size_t)s->layers * s->experts, at = (size_t)layer * s->experts;
	s->steps[layer]++;
	for (uint32_t k = 0; k < LEVELS; k++) {
		float *level = s->level + k * cells + at;
		float g = (float)gain(k, k < HALF_LIVES ? 1 : tokens, &s->told[layer][k]);

		for (uint32_t e = 0; e < s->experts; e++)
			level[e] += g * ((float)share[e] - level[e]);
	}
	for (uint32_t e = 0; e < s->experts; e++)
		s->sum[at + e] += share[e];
}

/** A flagged step is left out, unless most of the recent ones are: then they are all there is. */
static bool is_usable(struct level_state *s, const struct observation *o, uint32_t layer)
{
	bool flagged = (o->quality[layer] & MOETAP_QUALITY_INEXACT) != 0;

	if (o->sum[layer] <= 0)
		return false;
	s->flagged[layer] += (flagged - s->flagged[layer]) / fmin(s->tick, 64);
	return !flagged || s->flagged[layer] > 0.5;
}

/* ---- candidates ---- */

/** Growth of what drifts at a rate that falls as 1 / steps, in the mean over the next `ahead` of
 * `steps` steps: the mean of log(1 + x / steps) over x from 0 to `ahead`. */
static double growth(double ahead, double steps)
{
	double u = ahead / steps;

	return u < 1e-4 ? u / 2 : ((1 + u) * log1p(u) - u) / u;
}

/** Growth over a lag, seen from its beginning. */
static double growth_of_lag(uint32_t b, uint64_t begin)
{
	double lag = 1u << b;

	return growth(lag, fmax((double)begin, lag / 4));
}

/** The members' weights of a candidate: those of its levels, moved by its rates times `g`. */
static void candidate(const float weight[LEVELS], const float rate[RATES], uint32_t form, double g,
	float out[MEMBERS])
{
	double equal = form > 0 ? rate[TO_EQUAL] * g : 0;

	equal = equal > 0 ? 1 - exp(-fmin(equal, 3)) : fmax(equal, -0.5);
	for (uint32_t k = 0; k < LEVELS; k++)
		out[k] = (float)((1 - equal) * weight[k]);
	out[EQUAL] = (float)equal;
	for (uint32_t x = TREND; form > 0 && x < RATES; x++) {
		float move = (float)fmin(fmax(rate[x] * g, -2), 2);

		out[directions[x].towards] += move;
		out[directions[x].from] -= move;
	}
}

static double quadratic(const matrix c, const float *w)
{
	double sum = 0;

	for (uint32_t i = 0; i < MEMBERS; i++) {
		float row = 0;

		for (uint32_t j = 0; j < MEMBERS; j++)
			row += c[i][j] * w[j];
		sum += (double)row * w[i];
	}
	return sum;
}

/* ---- maturing ---- */

static uint32_t group_of(float level, uint32_t experts)
{
	return level * (float)experts < LARGE_FROM ? SMALL : LARGE;
}

/** The products of the relative errors of all members, mean over the experts of each group.
 * `count` gets how many these are. */
static void products(struct level_state *s, const struct snapshot *then, uint32_t layer,
	matrix c[GROUPS], uint32_t count[GROUPS])
{
	size_t cells = (size_t)s->layers * s->experts, at = (size_t)layer * s->experts;
	double steps = s->steps[layer] - then->steps[layer];
	float equal = 1.0f / (float)s->experts, d[MEMBERS];

	memset(c, 0, GROUPS * sizeof(matrix));
	memset(count, 0, GROUPS * sizeof(*count));
	for (uint32_t e = 0; e < s->experts; e++) {
		uint32_t group = group_of(then->level[SIZE * cells + at + e], s->experts);
		float actual = (float)((s->sum[at + e] - then->sum[at + e]) / steps);
		float scale = 1 / (actual + 0.05f * equal);

		for (uint32_t k = 0; k < LEVELS; k++)
			d[k] = (then->level[k * cells + at + e] - actual) * scale;
		d[EQUAL] = (equal - actual) * scale;
		count[group]++;
		for (uint32_t i = 0; i < MEMBERS; i++) {
			for (uint32_t j = 0; j < MEMBERS; j++)
				c[group][i][j] += d[i] * d[j];
		}
	}
}

static void discount(matrix c, double by)
{
	for (uint32_t i = 0; i < MEMBERS; i++) {
		for (uint32_t j = 0; j < MEMBERS; j++)
			c[i][j] *= (float)by;
	}
}

static void accumulate(matrix to, matrix c)
{
	for (uint32_t i = 0; i < MEMBERS; i++) {
		for (uint32_t j = 0; j < MEMBERS; j++)
			to[i][j] += c[i][j];
	}
}

/** How much is left of the sums of a lag. */
struct keep {
	double fit, rate, loss;
};

static void fade(struct lag *lag, uint32_t unit, const struct keep *keep)
{
	discount(lag->fit[unit], keep->fit);
	discount(lag->fit_rate[unit], keep->rate);
	lag->seen[unit] *= (float)keep->fit;
	for (uint32_t i = 0; i < CANDIDATES; i++)
		lag->loss[unit][i] *= (float)keep->loss;
}

static void judge_layer(struct level_state *s, const struct snapshot *then, uint32_t b,
	uint32_t layer, const struct keep *keep)
{
	struct lag *lag = &s->lag[b];
	double g = growth_of_lag(b, then->tick);
	uint32_t count[GROUPS] = {0};
	float w[MEMBERS];
	matrix c[GROUPS];

	/* Not a layer that came only later, or was idle since. */
	if (s->steps[layer] != then->steps[layer] && then->steps[layer] > 0)
		products(s, then, layer, c, count);
	for (uint32_t group = 0; group < GROUPS; group++) {
		uint32_t u = layer * GROUPS + group;

		fade(lag, u, keep);
		if (count[group] == 0)
			continue;
		discount(c[group], 1.0 / count[group]);
		lag->seen[u] += (float)count[group];
		accumulate(lag->fit[u], c[group]);
		accumulate(lag->fit_rate[u], c[group]);
		for (uint32_t i = 0; i < CANDIDATES; i++) {
			candidate(then->weight[u][i % LAGS], then->rate[u][b], i / LAGS, g, w);
			lag->loss[u][i] += (float)quadratic(c[group], w);
		}
	}
}

/** What a lag's forecasts said fades with the steps since the last one. */
static void judge(struct level_state *s, const struct snapshot *then, uint32_t b)
{
	struct lag *lag = &s->lag[b];
	double apart = lag->tick > 0 ? (double)(s->tick - lag->tick) : 0, steps = 1u << b;
	double memory = fmax(MEMORY_LEAST, MEMORY_PART * s->tick);
	double memory_rate = fmax(fmax(MEMORY_LEAST_RATE, MEMORY_PART_RATE * s->tick), steps / 2);
	const struct keep keep = {
		exp2(-apart / memory), exp2(-apart / memory_rate), exp2(-2 * apart / steps)};

	for (uint32_t l = 0; l < s->layers; l++)
		judge_layer(s, then, b, l, &keep);
	lag->tick = s->tick;
}

/* ---- snapshots ---- */

/** The longest lag that the snapshot of a tick is judged at. */
static uint64_t reach(uint64_t tick)
{
	uint64_t power = tick & -tick;

	return power < LAG_MOST / 4 ? 4 * power : LAG_MOST;
}

/** Steps between two snapshots, a power of two: every step at first, and in large models less
 * often, which bounds the work. */
static uint64_t apart(const struct level_state *s)
{
	size_t cells = (size_t)s->layers * s->experts;
	uint64_t most = s->tick / 64 > cells / 4096 ? s->tick / 64 : cells / 4096, power = 1;

	while (2 * power <= most && power < 16)
		power *= 2;
	return power;
}

static void judge_snapshots(struct level_state *s)
{
	for (uint32_t i = 0; i < SNAPSHOTS; i++) {
		struct snapshot *then = &s->snapshot[i];
		uint64_t age = s->tick - then->tick;

		if (then->tick == 0)
			continue;
		if ((age & (age - 1)) == 0)
			judge(s, then, (uint32_t)__builtin_ctzll(age));
		if (age >= reach(then->tick))
			then->tick = 0;
	}
}

static void take_snapshot(struct level_state *s)
{
	size_t cells = (size_t)s->layers * s->experts;
	struct snapshot *to = NULL;

	if (s->tick % apart(s) != 0)
		return;
	for (uint32_t i = 0; i < SNAPSHOTS && to == NULL; i++)
		to = s->snapshot[i].tick == 0 ? &s->snapshot[i] : NULL;
	if (to == NULL)
		return;
	to->tick = s->tick;
	memcpy(to->level, s->level, LEVELS * cells * sizeof(float));
	memcpy(to->sum, s->sum, cells * sizeof(double));
	memcpy(to->steps, s->steps, s->layers * sizeof(uint32_t));
	memcpy(to->weight, s->weight, s->units * sizeof(*s->weight));
	memcpy(to->rate, s->rate, s->units * sizeof(*s->rate));
}

/* ---- fitting ---- */

/** The least mean square error of a single level. */
static double least(const matrix c)
{
	double v = c[0][0];

	for (uint32_t k = 1; k < LEVELS; k++)
		v = fmin(v, c[k][k]);
	return v;
}

/** Adds `part` of a layer's matrix, divided by its least, to `to`. */
static void add_scaled(matrix to, const matrix c, double part)
{
	double v = least(c);

	/* A layer that was forecast exactly has nothing to tell. */
	if (v <= 1e-12)
		return;
	for (uint32_t i = 0; i < MEMBERS; i++) {
		for (uint32_t j = 0; j < MEMBERS; j++)
			to[i][j] += (float)(part / v) * c[i][j];
	}
}

static void add_matrix(matrix to, const matrix c, double part)
{
	for (uint32_t i = 0; i < MEMBERS; i++) {
		for (uint32_t j = 0; j < MEMBERS; j++)
			to[i][j] += (float)part * c[i][j];
	}
}

/** How far a group is taken by itself. */
static double apart_from_others(double seen, double enough)
{
	return seen / (seen + enough);
}

/** Means over layers of each group, moved towards that over all where little was seen. */
static void pool_units(const struct level_state *s, const struct lag *lag, const matrix *fit,
	double enough, matrix pooled[GROUPS])
{
	double seen[GROUPS] = {0}, sum = 0;
	matrix all;

	memset(all, 0, sizeof(all));
	memset(pooled, 0, GROUPS * sizeof(matrix));
	for (uint32_t u = 0; u < s->units; u++) {
		add_scaled(pooled[u % GROUPS], fit[u], lag->seen[u]);
		seen[u % GROUPS] += lag->seen[u];
		sum += lag->seen[u];
	}
	for (uint32_t group = 0; group < GROUPS && sum > 0; group++)
		add_matrix(all, pooled[group], 1 / sum);
	for (uint32_t group = 0; group < GROUPS && sum > 0; group++) {
		double part = apart_from_others(seen[group], enough);

		if (seen[group] > 0)
			discount(pooled[group], part / seen[group]);
		add_matrix(pooled[group], all, 1 - part);
	}
}

static void pool_layers(struct level_state *s)
{
	for (uint32_t b = 0; b < LAGS; b++) {
		struct lag *lag = &s->lag[b];

		if (lag->tick == 0)
			continue;
		pool_units(s, lag, lag->fit, ENOUGH, lag->pooled);
		pool_units(s, lag, lag->fit_rate, INFINITY, lag->pooled_rate);
	}
}

/**
 * Minimises w'Cw over the simplex of levels, from where `w` is, by moving weight between the pair
 * of levels that gains most, each time as far as it gains (sequential minimal optimisation).
 */
static void minimise(matrix c, float w[LEVELS])
{
	float gradient[LEVELS];

	for (uint32_t i = 0; i < LEVELS; i++) {
		gradient[i] = 0;
		for (uint32_t j = 0; j < LEVELS; j++)
			gradient[i] += c[i][j] * w[j];
	}
	for (int round = 0; round < 30; round++) {
		uint32_t to = 0, from = 0;
		float bend, move;

		for (uint32_t k = 1; k < LEVELS; k++)
			to = gradient[k] < gradient[to] ? k : to;
		while (w[from] <= 0)
			from++;
		for (uint32_t k = from + 1; k < LEVELS; k++)
			from = w[k] > 0 && gradient[k] > gradient[from] ? k : from;
		bend = c[to][to] + c[from][from] - 2 * c[to][from];
		if (gradient[from] - gradient[to] <= 1e-6f * fabsf(gradient[to]) || bend <= 0)
			return;
		move = (gradient[from] - gradient[to]) / bend;
		move = move < w[from] ? move : w[from];
		w[to] += move;
		w[from] -= move;
		for (uint32_t k = 0; k < LEVELS; k++)
			gradient[k] += move * (c[to][k] - c[from][k]);
	}
}

/** How much lag `a` tells about lag or horizon `b`, both as logarithms of 2. */
static double kinship(double a, double b, double breadth)
{
	return exp(-(a - b) * (a - b) * M_LN2 * M_LN2 / breadth);
}

/** The matrix of a unit: as far as `part` says that of its group in all layers; the rest is that of
 * its layer, of which up to half is its own. */
static void unit_matrix(const struct lag *lag, const matrix *own, const matrix *pooled,
	uint32_t unit, double enough, double part, matrix out)
{
	uint32_t first = unit - unit % GROUPS;
	double layer = 1 - part, seen = 0;
	double alone = layer / 2 * apart_from_others(lag->seen[unit], enough);

	memset(out, 0, sizeof(matrix));
	for (uint32_t u = first; u < first + GROUPS; u++)
		seen += lag->seen[u];
	for (uint32_t u = first; u < first + GROUPS && seen > 0; u++)
		add_scaled(out, own[u],
			(layer - alone) * lag->seen[u] / seen + (u == unit ? alone : 0));
	add_matrix(out, pooled[unit % GROUPS], part);
}

static void fit_weights(struct level_state *s, uint32_t unit)
{
	matrix c[LAGS];

	for (uint32_t b = 0; b < LAGS; b++)
		unit_matrix(
			&s->lag[b], s->lag[b].fit, s->lag[b].pooled, unit, ENOUGH, POOLED, c[b]);
	for (uint32_t b = 0; b < LAGS; b++) {
		matrix sum;
		bool any = false;

		memset(sum, 0, sizeof(sum));
		for (uint32_t a = 0; a < LAGS; a++) {
			float k = (float)kinship(a, b, 3);

			if (s->lag[a].tick == 0)
				continue;
			any = true;
			for (uint32_t i = 0; i < LEVELS; i++) {
				for (uint32_t j = 0; j < MEMBERS; j++)
					sum[i][j] += k * c[a][i][j];
			}
		}
		if (any)
			minimise(sum, s->weight[unit][b]);
	}
}

/** Normal equations of the rates, summed over lags. */
struct normal {
	double s[RATES][RATES], r[RATES];
};

/** Adds what one lag says: the errors of its levels regressed on the directions. */
static void add_normal(struct normal *n, const matrix c, const float weight[LEVELS], double g)
{
	double direction[RATES][MEMBERS] = {{0}}, w[MEMBERS] = {0};

	for (uint32_t k = 0; k < LEVELS; k++) {
		w[k] = weight[k];
		direction[TO_EQUAL][k] = -w[k];
	}
	direction[TO_EQUAL][EQUAL] = 1;
	for (int x = TREND; x < RATES; x++) {
		direction[x][directions[x].towards] = 1;
		direction[x][directions[x].from] = -1;
	}
	for (uint32_t i = 0; i < MEMBERS; i++) {
		for (uint32_t j = 0; j < MEMBERS; j++) {
			for (int x = 0; x < RATES; x++) {
				double d = g * direction[x][i] * c[i][j];

				n->r[x] -= d * w[j];
				for (int y = 0; y < RATES; y++)
					n->s[x][y] += d * g * direction[y][j];
			}
		}
	}
}

/** Solves the equations, held back by RIDGE (Gauss, no pivot: the matrix is positive). */
static void solve(struct normal *n, float rate[RATES])
{
	for (int x = 0; x < RATES; x++)
		n->s[x][x] = n->s[x][x] * (1 + RIDGE) + 1e-30;
	for (int x = 0; x < RATES; x++) {
		for (int y = x + 1; y < RATES; y++) {
			double part = n->s[y][x] / n->s[x][x];

			for (int z = x; z < RATES; z++)
				n->s[y][z] -= part * n->s[x][z];
			n->r[y] -= part * n->r[x];
		}
	}
	for (int x = RATES - 1; x >= 0; x--) {
		double r = n->r[x];

		for (int y = x + 1; y < RATES; y++)
			r -= n->s[x][y] * rate[y];
		rate[x] = (float)(r / n->s[x][x]);
	}
}

/** Rates for every lag from the normal equations of the lags near it. */
static void fit_rates(struct level_state *s, uint32_t unit)
{
	struct normal of[LAGS];

	memset(of, 0, sizeof(of));
	for (uint32_t b = 0; b < LAGS; b++) {
		matrix c;

		if (s->lag[b].tick == 0)
			continue;
		unit_matrix(&s->lag[b], s->lag[b].fit_rate, s->lag[b].pooled_rate, unit, INFINITY,
			POOLED_RATE, c);
		add_normal(&of[b], c, s->weight[unit][b], growth_of_lag(b, s->tick - (1u << b)));
	}
	for (uint32_t b = 0; b < LAGS; b++) {
		struct normal n = {{{0}}, {0}};

		for (uint32_t a = 0; a < LAGS; a++) {
			double k = kinship(a, b, 2);

			for (int x = 0; x < RATES; x++) {
				n.r[x] += k * of[a].r[x];
				for (int y = 0; y < RATES; y++)
					n.s[x][y] += k * of[a].s[x][y];
			}
		}
		solve(&n, s->rate[unit][b]);
	}
}

/** Fits some layers, so that all have had their turn before the next snapshot. */
static void fit_some(struct level_state *s)
{
	uint32_t count = (uint32_t)((s->layers + apart(s) - 1) / apart(s));

	if (s->lag[0].tick == 0 && s->lag[1].tick == 0 && s->lag[2].tick == 0)
		return;
	for (; count > 0; count--) {
		if (s->next_layer == 0)
			pool_layers(s);
		for (uint32_t group = 0; group < GROUPS; group++) {
			fit_weights(s, s->next_layer * GROUPS + group);
			fit_rates(s, s->next_layer * GROUPS + group);
		}
		s->next_layer = (s->next_layer + 1) % s->layers;
	}
}

static void level_add(void *state, const struct observation *o)
{
	struct level_state *s = state;

	if (s->tick == 0)
		s->first = o->step;
	s->last = o->step;
	s->tick++;
	for (uint32_t l = 0; l < s->layers; l++) {
		if (is_usable(s, o, l))
			add_levels(s, l, o->share + (size_t)l * s->experts, o->sum[l]);
	}
	mtl_season_add(s->season, o->step, o->share);
	judge_snapshots(s);
	fit_some(s);
	take_snapshot(s);
}

/* ---- forecasting ---- */

/** The lag that stands for a horizon: the nearest one, or the longest that was judged. */
static uint32_t lag_of(const struct level_state *s, double log2_ahead)
{
	double nearest = fmin(fmax(round(log2_ahead), 0), LAGS - 1);
	uint32_t b = (uint32_t)nearest;

	while (b > 0 && s->lag[b].tick == 0)
		b--;
	return b;
}

/** The least mean square error of a candidate; 0 when nothing was judged. */
static double least_loss(const float loss[CANDIDATES])
{
	double v = loss[0];

	for (uint32_t i = 1; i < CANDIDATES; i++)
		v = fmin(v, loss[i]);
	return v;
}

/** What a forecast needs beside the state. */
struct ahead {
	uint32_t lag;
	uint32_t rate_lag; /**< the same for the rates */
	double growth;
	double pooled[GROUPS]
		     [CANDIDATES]; /**< losses at the lag, mean over layers, in their least */
};

/** Adds `part` of the losses of a unit, in units of the least. */
static void add_losses(double to[CANDIDATES], const float loss[CANDIDATES], double part)
{
	double v = least_loss(loss);

	for (uint32_t i = 0; i < CANDIDATES; i++)
		to[i] += part * (v > 0 ? loss[i] / v : 1);
}

/** As pool_units(). */
static void pool_losses(const struct level_state *s, struct ahead *a)
{
	const struct lag *lag = &s->lag[a->lag];
	double all[CANDIDATES] = {0}, seen[GROUPS] = {0}, sum = 0;

	memset(a->pooled, 0, sizeof(a->pooled));
	for (uint32_t u = 0; u < s->units; u++) {
		seen[u % GROUPS] += lag->seen[u];
		sum += lag->seen[u];
	}
	for (uint32_t u = 0; u < s->units && sum > 0; u++) {
		uint32_t group = u % GROUPS;

		add_losses(all, lag->loss[u], lag->seen[u] / sum);
		if (lag->seen[u] > 0)
			add_losses(a->pooled[group], lag->loss[u],
				lag->seen[u] / seen[group] *
					apart_from_others(seen[group], ENOUGH));
	}
	for (uint32_t group = 0; group < GROUPS; group++) {
		for (uint32_t i = 0; i < CANDIDATES; i++)
			a->pooled[group][i] +=
				all[i] * (1 - apart_from_others(seen[group], ENOUGH));
	}
}

/** The members' weights of a unit's forecast. */
static void mix(
	const struct level_state *s, const struct ahead *a, uint32_t unit, float out[MEMBERS])
{
	const struct lag *lag = &s->lag[a->lag];
	double own = apart_from_others(lag->seen[unit], ENOUGH), best = INFINITY, sum = 0;
	double loss[CANDIDATES] = {0}, mixed[MEMBERS] = {0};
	float w[MEMBERS];

	add_losses(loss, lag->loss[unit], own);
	for (uint32_t i = 0; i < CANDIDATES; i++) {
		loss[i] += a->pooled[unit % GROUPS][i] * (2 - own);
		best = fmin(best, loss[i]);
	}
	for (uint32_t i = 0; i < CANDIDATES; i++) {
		double part =
			kinship(i % LAGS, a->lag, 8) * (best > 0 ? pow(loss[i] / best, -POWER) : 1);

		candidate(s->weight[unit][i % LAGS], s->rate[unit][a->rate_lag], i / LAGS,
			a->growth, w);
		for (uint32_t k = 0; k < MEMBERS; k++)
			mixed[k] += part * w[k];
		sum += part;
	}
	for (uint32_t k = 0; k < MEMBERS; k++)
		out[k] = (float)(mixed[k] / sum);
}

/** Steps of a plain window whose mean is as old as that of these members. */
static double window_of(const float w[MEMBERS], double steps)
{
	double age = 0;

	for (uint32_t k = 0; k < LEVELS; k++)
		age += w[k] * (k < HALF_LIVES ? (1u << k) / M_LN2
					      : steps / (1 + (1u << (k - HALF_LIVES))));
	return fmin(fmax(2 * age, 1), steps);
}

/** The forecast of one layer from its levels. Returns the window that is as old as they are. */
static double predict_layer(
	const struct level_state *s, const struct ahead *a, uint32_t layer, double *share)
{
	size_t cells = (size_t)s->layers * s->experts, at = (size_t)layer * s->experts;
	float w[GROUPS][MEMBERS];
	double window = 0;

	for (uint32_t group = 0; group < GROUPS; group++) {
		mix(s, a, layer * GROUPS + group, w[group]);
		window = fmax(window, window_of(w[group], (double)s->tick));
	}
	for (uint32_t e = 0; e < s->experts; e++) {
		const float *level = s->level + at + e;
		const float *weight = w[group_of(level[SIZE * cells], s->experts)];

		share[e] = (double)weight[EQUAL] / s->experts;
		for (uint32_t k = 0; k < LEVELS; k++)
			share[e] += (double)weight[k] * level[k * cells];
	}
	return window;
}

/** Takes the steps of a period ago instead, in layers that had tokens then, if there is a period.
 * Returns the period, or 0. */
static uint32_t predict_season(struct level_state *s, int64_t horizon, double *share)
{
	uint32_t period = mtl_season_predict(s->season, horizon, s->seasonal);

	for (uint32_t l = 0; l < s->layers && period > 0; l++) {
		size_t at = (size_t)l * s->experts;
		double sum = 0;

		for (uint32_t e = 0; e < s->experts; e++)
			sum += s->seasonal[at + e];
		if (sum > 0)
			memcpy(share + at, s->seasonal + at, s->experts * sizeof(*share));
	}
	return period;
}

static void level_predict(const struct question *q, double *share, int64_t *first)
{
	struct level_state *s = q->state;
	/* Horizons are in steps of the job, memories in steps that were seen. */
	double each = s->tick > 1 ? (double)(s->last - s->first) / (double)(s->tick - 1) : 1;
	double steps = fmax(q->horizon / each, 1), window = 0;
	struct ahead a = {.lag = lag_of(s, log2(steps))};

	a.rate_lag = a.lag;
	while (a.rate_lag > 0 && RATE_LAG * (1ull << a.rate_lag) > s->tick)
		a.rate_lag--;
	/* No further than the longest lag that was judged. */
	for (uint32_t b = 0; b < LAGS; b++) {
		if (s->lag[b].tick > 0)
			a.growth = growth(fmin(steps, 1u << b), (double)s->tick);
	}
	pool_losses(s, &a);
	memset(share, 0, (size_t)s->layers * s->experts * sizeof(*share));
	for (uint32_t l = 0; l < s->layers; l++) {
		if (s->steps[l] > 0)
			window = fmax(
				window, predict_layer(s, &a, l, share + (size_t)l * s->experts));
	}
	window = fmax(window, predict_season(s, q->horizon, share));
	*first = s->last - llround(fmax(window - 1, 0) * each);
	*first = *first > s->first ? *first : s->first;
}

const struct forecaster mtl_forecaster_auto = {
	.name = "auto",
	.title = "levels of many memories, by their errors so far (default)",
	.open = level_open,
	.close = level_close,
	.add = level_add,
	.predict = level_predict,
};
