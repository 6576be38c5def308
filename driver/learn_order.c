/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The order of rounds from their loads. A backward pass repeats the counts of the forward pass,
 * mirrored: that is exact, cell by cell. Else the number of layers is the distance at which loads
 * are alike, as an expert that is popular in a layer stays so from step to step: for each number
 * the rounds of a layer are taken as samples of one distribution, and the evidence for that
 * (multinomial with a uniform prior, so ln of the Dirichlet-multinomial) is compared with that for
 * the others, for rounds that have nothing to do with each other, and for experts that are all
 * alike.
 */
#include "learn.h"
#include "moetap_page.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STEPS 3u  /* that are looked at, if they are enough */
#define SURE 0.99 /* below, it is said that it cannot be told */
#define MICRO_MAX 16u
#define PAUSE 3.0 /* a pause between steps is so many times one inside */

struct look {
	const struct mt_learnt_round *rounds;
	uint32_t count, cells, experts;
	double *loads; /**< [count][experts], of all sources */
	double *sum;   /**< [experts] */
};

static bool alike(const struct look *l, uint32_t i, uint32_t j)
{
	return memcmp(l->rounds[i].cells, l->rounds[j].cells, l->cells * sizeof(uint32_t)) == 0;
}

/* ---- training ---- */

static uint32_t unit_of(uint32_t pattern, uint32_t layers)
{
	return layers * (pattern == MT_PATTERN_INFERENCE	 ? 1
				: pattern == MT_PATTERN_TRAINING ? 2
								 : 3);
}

/** The layer of the n-th round of a micro-batch. */
static uint32_t layer_of(uint32_t pattern, uint32_t layers, uint32_t n)
{
	if (n < layers)
		return n;
	n -= layers;
	return layers - 1 - (pattern == MT_PATTERN_TRAINING ? n : n / 2);
}

/** Compares all rounds of the first micro-batches. Returns how sure it is that they repeat so. */
static double mirrored(const struct look *l, uint32_t pattern, uint32_t layers, uint32_t *used)
{
	uint32_t unit = unit_of(pattern, layers),
		 end = STEPS * unit < l->count ? STEPS * unit : l->count;
	uint32_t same = 0, others = 0, chance = 0;

	*used = end;
	for (uint32_t i = 0; i < end; i++) {
		for (uint32_t j = i + 1; j < end && j < i + unit; j++) {
			bool pair =
				i / unit == j / unit && layer_of(pattern, layers, i % unit) ==
								layer_of(pattern, layers, j % unit);

			if (!l->rounds[i].exact || !l->rounds[j].exact)
				continue;
			if (pair && !alike(l, i, j))
				return 0;
			same += pair;
			others += !pair;
			chance += !pair && alike(l, i, j);
		}
	}
	if (same < STEPS || others == 0 || end < unit)
		return 0;
	return 1 - pow((chance + 0.5) / (others + 1.0), same);
}

/** Micro-batches a step, if pauses show them; else 1. */
static uint32_t micro_batches(const struct look *l, uint32_t unit)
{
	for (uint32_t m = 2; m <= MICRO_MAX; m++) {
		double inside = 0, between = INFINITY;
		uint32_t steps = 0;

		for (uint32_t i = unit; i < l->count; i += unit) {
			double gap =
				(double)l->rounds[i].first_ns - (double)l->rounds[i - 1].last_ns;

			if (i / unit % m != 0)
				inside = gap > inside ? gap : inside;
			else {
				between = gap < between ? gap : between;
				steps++;
			}
		}
		if (steps >= 2 && between > PAUSE * inside && between > 0)
			return m;
	}
	return 1;
}

static int find_mirror(const struct look *l, int pattern, struct mt_learnt_order *o)
{
	static const uint32_t patterns[] = {MT_PATTERN_TRAINING, MT_PATTERN_TRAINING_RECOMPUTE};
	uint32_t used;

	for (size_t p = 0; p < 2; p++) {
		if (pattern >= 0 && (uint32_t)pattern != patterns[p])
			continue;
		for (uint32_t n = 1; unit_of(patterns[p], n) <= l->count; n++) {
			double sure = o->layers == 0 || o->layers == n
					      ? mirrored(l, patterns[p], n, &used)
					      : 0;

			if (sure < SURE)
				continue;
			o->pattern = patterns[p];
			o->layers = n;
			o->rounds = used;
			o->confidence = sure;
			if (o->micro_batches == 0)
				o->micro_batches = micro_batches(l, unit_of(patterns[p], n));
			snprintf(o->why, sizeof(o->why),
				"%s of %u rounds: the counts of all cells come %s", "mirrored",
				used,
				p == 0 ? "twice, the second time in the opposite order"
				       : "three times, from the last layer on twice in a row");
			return 0;
		}
	}
	return -ENOENT;
}

/* ---- inference ---- */

/** Evidence, ln, that the rounds first, first + step, ... have the same shares. */
static double evidence(const struct look *l, uint32_t rounds, uint32_t first, uint32_t step)
{
	double total = 0, ln;

	memset(l->sum, 0, l->experts * sizeof(*l->sum));
	for (uint32_t t = first; t < rounds; t += step)
		for (uint32_t e = 0; e < l->experts; e++)
			l->sum[e] += l->loads[(size_t)t * l->experts + e];
	for (uint32_t e = 0; e < l->experts; e++)
		total += l->sum[e];
	ln = lgamma(l->experts) - lgamma(l->experts + total);
	for (uint32_t e = 0; e < l->experts; e++)
		ln += lgamma(1 + l->sum[e]);
	return ln;
}

static double evidence_of(const struct look *l, uint32_t rounds, uint32_t layers)
{
	double ln = 0;

	for (uint32_t i = 0; i < layers; i++)
		ln += evidence(l, rounds, i, layers);
	return ln;
}

/** How much more loads of a layer scatter than tokens that know nothing of each other: at least 1.
 */
static double scatter(const struct look *l, uint32_t rounds, uint32_t layers)
{
	double chi = 0, free = 0;

	for (uint32_t i = 0; i < layers; i++) {
		double all = 0;

		evidence(l, rounds, i, layers); /* leaves the sums */
		for (uint32_t e = 0; e < l->experts; e++)
			all += l->sum[e];
		for (uint32_t t = i; t < rounds; t += layers) {
			const double *x = l->loads + (size_t)t * l->experts;
			double n = 0;

			for (uint32_t e = 0; e < l->experts; e++)
				n += x[e];
			for (uint32_t e = 0; e < l->experts && all > 0; e++) {
				double mean = n * l->sum[e] / all;

				chi += mean > 0 ? (x[e] - mean) * (x[e] - mean) / mean : 0;
			}
			free += t > i ? l->experts - 1 : 0;
		}
	}
	return free > 0 && chi > free ? chi / free : 1;
}

/** The likeliest number of layers among the first rounds; 0: loads that are not alike, or all
 * alike. */
static uint32_t likeliest(const struct look *l, uint32_t rounds, double *sure)
{
	double best, ln[2] = {0, evidence_of(l, rounds, rounds)}, total = 0, tempered;
	uint32_t layers = 0, most = rounds / 2;

	for (uint32_t t = 0; t < rounds; t++)
		for (uint32_t e = 0; e < l->experts; e++)
			ln[0] -= l->loads[(size_t)t * l->experts + e] * log(l->experts);
	/* Tokens of a round in any order: the same for all of these, left out. */
	best = ln[0] > ln[1] ? ln[0] : ln[1];
	for (uint32_t n = 1; n <= most; n++) {
		double at = evidence_of(l, rounds, n);

		if (at > best) {
			best = at;
			layers = n;
		}
	}
	if (layers == 0)
		return 0;
	tempered = scatter(l, rounds, layers);
	for (uint32_t n = 1; n <= most; n++)
		total += exp((evidence_of(l, rounds, n) - best) / tempered);
	total += exp((ln[0] - best) / tempered) + exp((ln[1] - best) / tempered);
	*sure = 1 / total;
	return layers;
}

/** Whether counts come again just so, which inference does not do. */
static bool repeats(const struct look *l)
{
	uint32_t twins = 0;

	for (uint32_t i = 0; i < l->count; i++)
		for (uint32_t j = i > 64 ? i - 64 : 0; j < i; j++)
			if (alike(l, i, j)) {
				twins++;
				break;
			}
	return 4 * twins > l->count;
}

static int find_lag(const struct look *l, struct mt_learnt_order *o, struct mt_error *err)
{
	double sure = 0, fewer = 0;
	uint32_t layers = likeliest(l, l->count, &sure), used = l->count;

	if (layers > 0 && STEPS * layers < l->count &&
		likeliest(l, STEPS * layers, &fewer) == layers && fewer >= SURE) {
		used = STEPS * layers;
		sure = fewer;
	}
	if (layers == 0)
		return mt_fail(err, -ENOENT,
			"the layout is proven, but the number of layers cannot be told: in %u "
			"rounds no loads "
			"are alike at any distance. State it (--layers N), or look for at least "
			"three steps "
			"from the start of the job",
			l->count);
	if (sure < SURE)
		return mt_fail(err, -ENOENT,
			"the layout is proven, but the number of layers cannot be told: likeliest "
			"of %u rounds "
			"is %u, with a confidence of %.2f where 0.99 is wanted. State it (--layers "
			"N), or look "
			"longer: at least three steps",
			l->count, layers, sure);
	o->layers = layers;
	o->rounds = used;
	o->confidence = sure;
	snprintf(o->why, sizeof(o->why), "loads of %u rounds are alike every %u", used, layers);
	return 0;
}

static int find_order(struct look *l, int pattern, struct mt_learnt_order *o, struct mt_error *err)
{
	bool stated = o->layers > 0;

	for (uint32_t t = 0; t < l->count; t++)
		for (uint32_t c = 0; c < l->cells; c++)
			l->loads[(size_t)t * l->experts + c % l->experts] += l->rounds[t].cells[c];
	if (stated && pattern >= 0) {
		o->pattern = (uint32_t)pattern;
		o->rounds = 0;
		o->confidence = 1;
		snprintf(o->why, sizeof(o->why), "stated");
		return 0;
	}
	if (pattern != MT_PATTERN_INFERENCE && find_mirror(l, pattern, o) == 0)
		return 0;
	if (pattern > (int)MT_PATTERN_INFERENCE)
		return mt_fail(err, -ENOENT,
			"the layout is proven, but in %u rounds no counts come again in "
			"the order of that pattern: look longer, or state --layers",
			l->count);
	if (pattern < 0 && repeats(l))
		return mt_fail(err, -ENOENT,
			"the layout is proven, but not the pattern: counts come again, yet "
			"in no order that is known. Was the capture begun inside of a step? State "
			"--pattern "
			"and --layers");
	o->pattern = MT_PATTERN_INFERENCE;
	if (!stated)
		return find_lag(l, o, err);
	o->rounds = l->count;
	o->confidence = 1;
	snprintf(o->why, sizeof(o->why), "layers are stated; in %u rounds no counts come again",
		l->count);
	return 0;
}

int mt_learn_order(const struct mt_learnt_round *rounds, uint32_t count, uint32_t cells,
	uint32_t experts, int pattern, struct mt_learnt_order *order, struct mt_error *err)
{
	struct look l = {rounds, count, cells, experts, NULL, NULL};
	int ret = -ENOMEM;

	l.loads = calloc((size_t)count * experts + 1, sizeof(*l.loads));
	l.sum = calloc((size_t)experts + 1, sizeof(*l.sum));
	if (l.loads != NULL && l.sum != NULL)
		ret = find_order(&l, pattern, order, err);
	else
		mt_fail(err, ret, "out of memory");
	if (order->micro_batches == 0)
		order->micro_batches = 1;
	free(l.loads);
	free(l.sum);
	return ret;
}
