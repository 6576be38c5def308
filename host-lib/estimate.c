/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the tap cannot see of a round: tokens of a rank for itself, and between ranks of a node.
 *
 * The tokens n[s][e] of sources s for experts e are taken as quasi-independent: mean a[s] * q[e], a
 * source's activity times an expert's tokens a source of activity 1, with cells that cannot be seen
 * (L. A. Goodman, "The Analysis of Cross-Classified Data: Independence, Quasi-Independence, and
 * Interactions in Contingency Tables with or without Missing Entries", JASA 63, 1968). The fit is
 * proportional, cell by cell of those seen; what is seen or not is the same for all experts of a
 * rank, so it is done on the table of ranks by ranks. The load of an expert is then what was seen
 * of it / the share of the sources' activity that was seen. Where all sources are equally active
 * this is the number of all sources / those seen.
 *
 * How far that can be off comes from how much the visible sources differ: the scatter of
 * (n - a q) / sqrt(a) over them, plus one observation's worth of the layer's mean scatter, since a
 * few sources that agree by chance, or at 0, are no certainty. The unseen part of activity u next
 * to a seen one of v then has the variance scatter * u * (1 + u / v + leverage): its own scatter,
 * the error of q, and that of the unseen sources' activities. The leverage is an expert's part in
 * the fit of the activities, and is also what the fit takes from the scatter.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FITS_MOST 100	  /* rounds of proportional fitting */
#define FIT_CLOSE 1e-9	  /* relative change of an activity that is none */
#define HALF_A_TOKEN 0.5  /* Jeffreys' prior: none seen does not make the rate certain */
#define LEVERAGE_MOST 0.9 /* beyond, an expert fits its own activities */
#define TRAIL_MOST 32	  /* rounds that a source's trail remembers, about */

/** Everything about ranks in one round; arrays of [ranks], `table` of [ranks][ranks]. */
struct fit {
	uint32_t ranks;
	const bool *visible; /**< [ranks][ranks], source first */
	double *table;	     /**< tokens, source first; 0 where not visible */
	/* of a source: sums of its row and of the rates that it is visible to, activity, its root
	 */
	double *sent, *reach, *activity, *root;
	/* of a destination: sum of its column; tokens of a source of activity 1; activity seen and
	 * unseen; means of 1 / reach over the active sources that are seen and unseen */
	double *got, *rate, *seen, *unseen, *lever_seen, *lever_unseen;
	double *part_sum;
	uint32_t *part; /**< connected part of the table that a source is in */
	uint32_t *part_size;
	uint32_t *sources; /**< active ones that a destination is visible to */
	bool *known;	   /**< some source is visible to a destination */
};

static void fit_free(struct fit *f)
{
	free(f->table);
	free(f->sent);
	free(f->part);
	free(f->known);
}

static bool fit_new(struct fit *f, uint32_t ranks, const bool *visible)
{
	*f = (struct fit){.ranks = ranks, .visible = visible};
	double **const arrays[] = {&f->sent, &f->reach, &f->activity, &f->root, &f->got, &f->rate,
		&f->seen, &f->unseen, &f->lever_seen, &f->lever_unseen, &f->part_sum};
	size_t n = sizeof(arrays) / sizeof(arrays[0]);

	f->table = calloc((size_t)ranks * ranks, sizeof(double));
	f->sent = calloc(ranks * n, sizeof(double));
	f->part = calloc((size_t)ranks * 3, sizeof(uint32_t));
	f->known = calloc(ranks, sizeof(bool));
	if (f->table == NULL || f->sent == NULL || f->part == NULL || f->known == NULL) {
		fit_free(f);
		return false;
	}
	for (size_t i = 1; i < n; i++)
		*arrays[i] = f->sent + i * ranks;
	f->part_size = f->part + ranks;
	f->sources = f->part_size + ranks;
	return true;
}

static void fill_table(struct fit *f, const struct mtl_sources *s)
{
	for (uint32_t src = 0; src < s->ranks; src++) {
		const double *tokens = s->tokens + (size_t)src * s->experts;
		double *row = f->table + (size_t)src * s->ranks;

		for (uint32_t e = 0; e < s->experts; e++)
			if (s->expert_rank[e] < s->ranks)
				row[s->expert_rank[e]] += tokens[e];
		for (uint32_t dst = 0; dst < s->ranks; dst++) {
			if (!f->visible[(size_t)src * s->ranks + dst]) {
				row[dst] = 0;
				continue;
			}
			f->known[dst] = true;
			f->sent[src] += row[dst];
			f->got[dst] += row[dst];
		}
		f->activity[src] = f->sent[src] > 0;
	}
}

/** One proportional fit of rates to columns and activities to rows. Returns the largest relative
 * change of an activity. */
static double fit_once(struct fit *f)
{
	double change = 0;

	memset(f->seen, 0, f->ranks * sizeof(*f->seen));
	for (uint32_t s = 0; s < f->ranks; s++)
		for (uint32_t d = 0; d < f->ranks; d++)
			f->seen[d] += f->visible[(size_t)s * f->ranks + d] ? f->activity[s] : 0;
	for (uint32_t d = 0; d < f->ranks; d++)
		f->rate[d] = f->seen[d] > 0 ? f->got[d] / f->seen[d] : 0;
	for (uint32_t s = 0; s < f->ranks; s++) {
		double next;

		f->reach[s] = 0;
		for (uint32_t d = 0; d < f->ranks; d++)
			f->reach[s] += f->visible[(size_t)s * f->ranks + d] ? f->rate[d] : 0;
		next = f->reach[s] > 0 ? f->sent[s] / f->reach[s] : 0;
		if (f->activity[s] > 0)
			change = fmax(change, fabs(next / f->activity[s] - 1));
		f->activity[s] = next;
	}
	return change;
}

/** Sources that share a destination are in one part; only within one can activities be compared. */
static void find_parts(struct fit *f)
{
	bool again = true;

	for (uint32_t s = 0; s < f->ranks; s++)
		f->part[s] = s;
	while (again) {
		again = false;
		for (uint32_t d = 0; d < f->ranks; d++) {
			uint32_t least = UINT32_MAX;

			for (uint32_t s = 0; s < f->ranks; s++)
				if (f->table[(size_t)s * f->ranks + d] > 0 && f->part[s] < least)
					least = f->part[s];
			for (uint32_t s = 0; s < f->ranks; s++)
				if (f->table[(size_t)s * f->ranks + d] > 0 && f->part[s] > least) {
					f->part[s] = least;
					again = true;
				}
		}
	}
}

/** Makes the mean activity of every part 1: with nothing to compare them by, sources of two parts
 * are taken to send as much. Rates follow. */
static void level_parts(struct fit *f)
{
	find_parts(f);
	for (uint32_t s = 0; s < f->ranks; s++) {
		if (f->activity[s] <= 0)
			continue;
		f->part_sum[f->part[s]] += f->activity[s];
		f->part_size[f->part[s]]++;
	}
	for (uint32_t s = 0; s < f->ranks; s++)
		if (f->activity[s] > 0)
			f->activity[s] *= f->part_size[f->part[s]] / f->part_sum[f->part[s]];
	fit_once(f);
}

/** What each destination has of activities, and their leverage. */
static void look_at_destinations(struct fit *f)
{
	memset(f->seen, 0, f->ranks * sizeof(*f->seen));
	for (uint32_t s = 0; s < f->ranks; s++)
		f->root[s] = sqrt(f->activity[s]);
	for (uint32_t d = 0; d < f->ranks; d++) {
		uint32_t unseen = 0;

		for (uint32_t s = 0; s < f->ranks; s++) {
			double lever = f->reach[s] > 0 ? 1 / f->reach[s] : 0;

			if (f->activity[s] <= 0)
				continue;
			if (f->visible[(size_t)s * f->ranks + d]) {
				f->seen[d] += f->activity[s];
				f->lever_seen[d] += lever;
				f->sources[d]++;
			} else {
				f->unseen[d] += f->activity[s];
				f->lever_unseen[d] += lever;
				unseen++;
			}
		}
		if (f->sources[d] > 0)
			f->lever_seen[d] /= f->sources[d];
		if (unseen > 0)
			f->lever_unseen[d] /= unseen;
	}
}

static void fit_ranks(struct fit *f, const struct mtl_sources *s)
{
	fill_table(f, s);
	for (int i = 0; i < FITS_MOST && fit_once(f) > FIT_CLOSE; i++)
		;
	level_parts(f);
	look_at_destinations(f);
}

/** Half of the central 80 % of Student's t, as a multiple of the normal one's; exact to 3 digits.
 * Above the table by Abramowitz and Stegun, 26.7.5. */
static double t_factor(uint32_t freedom)
{
	static const double t[] = {3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397};

	if (freedom <= sizeof(t) / sizeof(t[0]))
		return t[freedom - 1] / MTL_NORMAL_80;
	return 1 + (MTL_NORMAL_80 * MTL_NORMAL_80 + 1) / (4 * freedom);
}

static double leverage(double rate, double lever)
{
	return fmin(rate * lever, LEVERAGE_MOST);
}

/** Fills loads, and what of them is estimated. Returns their sum. */
static double fill_loads(const struct fit *f, const struct mtl_sources *s, struct mtl_estimate *out)
{
	double total = 0;

	memset(out->load, 0, s->experts * sizeof(*out->load));
	for (uint32_t src = 0; src < s->ranks; src++) {
		const bool *visible = f->visible + (size_t)src * s->ranks;

		for (uint32_t e = 0; e < s->experts; e++)
			if (s->expert_rank[e] < s->ranks && visible[s->expert_rank[e]])
				out->load[e] += s->tokens[(size_t)src * s->experts + e];
	}
	for (uint32_t e = 0; e < s->experts; e++) {
		uint32_t d = s->expert_rank[e];

		out->known[e] = d < s->ranks && f->known[d];
		out->estimated[e] = out->known[e] && f->unseen[d] > 0;
		out->rate[e] = out->known[e] && f->seen[d] > 0 ? out->load[e] / f->seen[d] : 0;
		out->unseen[e] = out->estimated[e] ? out->rate[e] * f->unseen[d] : 0;
		out->load[e] += out->unseen[e];
		total += out->load[e];
	}
	return total;
}

/** What one source is off by, as one of activity 1: adds the squares to `spread`, the products with
 * what it was off by before to `lasting`, and goes on with that trail, in parts of the total. */
static void follow_source(const struct fit *f, const struct mtl_sources *s, uint32_t src,
	double total, struct mtl_trail *trail, struct mtl_estimate *out)
{
	const bool *visible = f->visible + (size_t)src * s->ranks;
	const double *tokens = s->tokens + (size_t)src * s->experts;
	float *mean = trail->mean + (size_t)src * s->experts;
	double root = f->root[src];

	for (uint32_t e = 0; e < s->experts; e++) {
		double off;

		if (s->expert_rank[e] >= s->ranks || !visible[s->expert_rank[e]])
			continue;
		off = tokens[e] / root - root * out->rate[e];
		out->spread[e] += off * off;
		out->lasting[e] += off * (double)mean[e] * total;
		mean[e] += (float)((off / total - (double)mean[e]) / trail->rounds);
	}
}

/** Mean scatter of the layer, for a rate of 1; below 0: nothing tells. */
static double mean_scatter(
	const struct fit *f, const struct mtl_sources *s, const struct mtl_estimate *out)
{
	double scatter = 0, rates = 0;

	for (uint32_t e = 0; e < s->experts; e++) {
		uint32_t d = s->expert_rank[e];

		if (!out->known[e] || f->sources[d] < 2)
			continue;
		scatter += out->spread[e] / (f->sources[d] - 1) /
			   (1 - leverage(out->rate[e], f->lever_seen[d]));
		rates += out->rate[e];
	}
	return rates > 0 ? scatter / rates : -1;
}

/** Fills the variance of a load, and the part of it that lasts, for one expert. `first`: no round
 * before tells what lasts. */
static void fill_variance(const struct fit *f, uint32_t d, uint32_t e, double mean, bool first,
	struct mtl_estimate *out)
{
	uint32_t m = f->sources[d];
	double rate = out->rate[e], free, gain;

	if (m == 0 || mean < 0) {
		out->variance[e] = out->lasting[e] = INFINITY;
		return;
	}
	free = 1 - leverage(rate, f->lever_seen[d]);
	gain = f->unseen[d] * (1 + f->unseen[d] / f->seen[d] + leverage(rate, f->lever_unseen[d])) *
	       t_factor(m) * t_factor(m);
	out->variance[e] =
		(out->spread[e] / free + mean * (rate + HALF_A_TOKEN / f->seen[d])) / m * gain;
	if (m < 2 || first)
		out->lasting[e] = out->variance[e];
	else
		out->lasting[e] *= gain / (m - 1) / free;
}

/** Makes the trail of a layer, anew when the ranks are others. */
static int begin_trail(struct mtl_trail *trail, const struct mtl_sources *s)
{
	if (trail->mean != NULL && trail->ranks == s->ranks)
		return 0;
	free(trail->mean);
	*trail = (struct mtl_trail){.ranks = s->ranks};
	trail->mean = calloc((size_t)s->ranks * s->experts, sizeof(*trail->mean));
	return trail->mean != NULL ? 0 : -ENOMEM;
}

/** Fills variances of what is estimated, and goes on with the trail. Returns 0 or -ENOMEM. */
static int fill_variances(const struct fit *f, const struct mtl_sources *s, double total,
	struct mtl_trail *trail, struct mtl_estimate *out)
{
	double mean;
	bool first;

	if (begin_trail(trail, s) < 0)
		return -ENOMEM;
	first = trail->rounds == 0;
	if (total > 0 && trail->rounds < TRAIL_MOST)
		trail->rounds++;
	for (uint32_t src = 0; src < s->ranks; src++)
		if (f->activity[src] > 0)
			follow_source(f, s, src, total, trail, out);
	mean = mean_scatter(f, s, out);
	for (uint32_t e = 0; e < s->experts; e++) {
		if (out->estimated[e])
			fill_variance(f, s->expert_rank[e], e, mean, first, out);
		else
			out->lasting[e] = 0;
	}
	return 0;
}

int mtl_estimate_round(
	const struct mtl_sources *s, struct mtl_trail *trail, struct mtl_estimate *out)
{
	bool any = false;
	double total;
	struct fit f;
	int ret = 0;

	if (!fit_new(&f, s->ranks, s->visible))
		return -ENOMEM;
	fit_ranks(&f, s);
	total = fill_loads(&f, s, out);
	for (uint32_t e = 0; e < s->experts; e++) {
		out->spread[e] = out->variance[e] = out->lasting[e] = 0;
		any |= out->estimated[e];
	}
	if (any)
		ret = fill_variances(&f, s, total, trail, out);
	fit_free(&f);
	return ret;
}

int mtl_estimate_new(uint32_t experts, struct mtl_estimate *out)
{
	out->load = calloc((size_t)experts * 6, sizeof(*out->load));
	out->known = calloc((size_t)experts * 2, sizeof(*out->known));
	if (out->load == NULL || out->known == NULL) {
		mtl_estimate_free(out);
		return -ENOMEM;
	}
	out->unseen = out->load + experts;
	out->rate = out->unseen + experts;
	out->spread = out->rate + experts;
	out->variance = out->spread + experts;
	out->lasting = out->variance + experts;
	out->estimated = out->known + experts;
	return 0;
}

void mtl_estimate_free(struct mtl_estimate *out)
{
	free(out->load);
	free(out->known);
	*out = (struct mtl_estimate){0};
}
