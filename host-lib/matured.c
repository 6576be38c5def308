/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Intervals of the methods that learn. While steps come, the method is asked at horizons that
 * double; when a horizon has passed, the forecast has matured and is compared with what came.
 *
 * What a long horizon's errors were is known late, when the run may have become quieter or less so.
 * Short horizons tell soon. So the error expected at a horizon is that of a horizon of about a
 * sixteenth, as it is now, times the ratios between the errors of neighbouring horizons, which
 * change less and are taken from forecasts made after the same step. A factor then follows how many
 * of the shares did lie inside (Gibbs and Candes, "Adaptive conformal inference under distribution
 * shift", NeurIPS 2021).
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Longest horizon that is judged; beyond it, the last ratio goes on. */
#define HORIZON_MOST 8192
/** Forecasts of one horizon under way, at most. */
#define UNDER_WAY 9
/** Octaves between a horizon and the one that tells how large errors are now. */
#define OCTAVES 4
/** Memory of errors and of ratios, in matured forecasts. */
#define MEMORY_ERROR 3.0
#define MEMORY_RATIO 16.0
/** An 80 % interval of a normal distribution, in mean absolute errors: 1.2816 / sqrt(2 / pi). */
#define WIDTH 1.606
/** Widening an octave between a horizon and the longest that matured: the ratios there are guesses.
 */
#define GUESSED 0.2
/** Step of the logarithm of the factor, for coverage that is wrong by 1. */
#define PACE 0.4

/** A forecast whose horizon has not passed. */
struct pending {
	int64_t begin, end; /**< first and last step of its horizon; end negative: none */
	float *predicted;   /**< [layers][experts] */
	double *sum;	    /**< of shares up to its origin, [layers][experts] */
	uint32_t *steps;    /**< with tokens, up to its origin, [layers] */
	double *width;	    /**< that it was given, [layers] */
	double *shorter; /**< error of the next shorter horizon, same origin; negative: unknown */
};

struct horizon {
	uint32_t steps, apart, under_way;
	int64_t next; /**< no forecast before this step */
	struct pending pending[UNDER_WAY];
	uint32_t matured; /**< so far */
	double *error;	  /**< mean of |error| / mtl_share_scale(), [layers]; negative: unknown */
	double *n;	  /**< forecasts behind it, discounted, [layers] */
	double ratio[2];  /**< sums of errors at this and at the next shorter horizon, all layers */
	double factor;	  /**< of the width */
};

struct matured {
	uint32_t layers, experts, horizons;
	double *sum;	 /**< of shares since the beginning, [layers][experts] */
	uint32_t *steps; /**< [layers] */
	double *scratch; /**< [layers][experts] */
	int64_t last;
	struct horizon horizon[MTL_HORIZONS_MOST];
};

double mtl_share_scale(double share, uint32_t experts)
{
	return sqrt((share + 0.05 / experts) / experts);
}

static bool open_pending(struct pending *p, uint32_t layers, uint32_t experts)
{
	size_t cells = (size_t)layers * experts;

	p->end = -1;
	p->predicted = malloc(cells * sizeof(float));
	p->sum = malloc(cells * sizeof(double));
	p->steps = malloc(layers * sizeof(uint32_t));
	p->width = malloc(layers * sizeof(double));
	p->shorter = malloc(layers * sizeof(double));
	return p->predicted != NULL && p->sum != NULL && p->steps != NULL && p->width != NULL &&
	       p->shorter != NULL;
}

/** Forecasts are a power of two of steps apart, so that where a long horizon is asked, all shorter
 * ones are; in large models less often, which bounds the work. */
static bool open_horizon(struct matured *m, uint32_t steps)
{
	struct horizon *h = &m->horizon[m->horizons++];
	bool ok = true;

	h->apart = (size_t)m->layers * m->experts > 4096 ? 16 : 4;
	while (2 * h->apart <= steps / 4)
		h->apart *= 2;
	h->steps = steps;
	h->under_way = steps / h->apart + 1;
	h->next = INT64_MIN;
	h->factor = 1;
	for (uint32_t i = 0; i < h->under_way && ok; i++)
		ok = open_pending(&h->pending[i], m->layers, m->experts);
	h->error = malloc(m->layers * sizeof(double));
	h->n = calloc(m->layers, sizeof(double));
	if (!ok || h->error == NULL || h->n == NULL)
		return false;
	for (uint32_t l = 0; l < m->layers; l++)
		h->error[l] = -1;
	return true;
}

int mtl_matured_open(uint32_t layers, uint32_t experts, uint32_t horizon, struct matured **out)
{
	size_t cells = (size_t)layers * experts;
	struct matured *m = calloc(1, sizeof(*m));
	uint32_t most = horizon > 0 && horizon < HORIZON_MOST ? horizon : HORIZON_MOST;
	bool ok;

	if (m == NULL)
		return -ENOMEM;
	m->layers = layers;
	m->experts = experts;
	m->sum = calloc(cells, sizeof(double));
	m->steps = calloc(layers, sizeof(uint32_t));
	m->scratch = malloc(cells * sizeof(double));
	ok = m->sum != NULL && m->steps != NULL && m->scratch != NULL;
	for (uint32_t steps = 1; ok && steps < most; steps *= 2)
		ok = open_horizon(m, steps);
	ok = ok && open_horizon(m, most);
	if (!ok) {
		mtl_matured_close(m);
		return -ENOMEM;
	}
	*out = m;
	return 0;
}

void mtl_matured_close(struct matured *m)
{
	if (m == NULL)
		return;
	for (uint32_t i = 0; i < m->horizons; i++) {
		struct horizon *h = &m->horizon[i];

		for (uint32_t k = 0; k < h->under_way; k++) {
			free(h->pending[k].predicted);
			free(h->pending[k].sum);
			free(h->pending[k].steps);
			free(h->pending[k].width);
			free(h->pending[k].shorter);
		}
		free(h->error);
		free(h->n);
	}
	free(m->sum);
	free(m->steps);
	free(m->scratch);
	free(m);
}

/** Tells the forecast of the next longer horizon, made after the same step, how wrong this one was
 * in a layer. */
static void tell_longer(struct matured *m, uint32_t i, int64_t begin, uint32_t layer, double error)
{
	if (i + 1 == m->horizons)
		return;
	for (uint32_t k = 0; k < m->horizon[i + 1].under_way; k++) {
		struct pending *p = &m->horizon[i + 1].pending[k];

		if (p->end >= 0 && p->begin == begin)
			p->shorter[layer] = error;
	}
}

/** Compares a layer with what came. Returns the part of its shares inside the interval. */
static double judge_layer(struct matured *m, uint32_t i, struct pending *p, uint32_t layer)
{
	struct horizon *h = &m->horizon[i];
	size_t at = (size_t)layer * m->experts;
	double steps = m->steps[layer] - p->steps[layer], error = 0;
	uint32_t inside = 0;

	for (uint32_t e = 0; e < m->experts; e++) {
		double actual = (m->sum[at + e] - p->sum[at + e]) / steps;
		double off = fabs(p->predicted[at + e] - actual) /
			     mtl_share_scale(p->predicted[at + e], m->experts);

		error += off / m->experts;
		inside += off <= p->width[layer];
	}
	h->n[layer] = fmin(h->n[layer] + 1, MEMORY_ERROR);
	h->error[layer] += (error - h->error[layer]) / h->n[layer];
	if (i > 0 && p->shorter[layer] >= 0) {
		h->ratio[0] += error;
		h->ratio[1] += p->shorter[layer];
	}
	tell_longer(m, i, p->begin, layer, error);
	return (double)inside / m->experts;
}

static void judge(struct matured *m, uint32_t i, struct pending *p)
{
	struct horizon *h = &m->horizon[i];
	uint32_t layers = 0;
	double inside = 0;

	h->ratio[0] *= 1 - 1 / MEMORY_RATIO;
	h->ratio[1] *= 1 - 1 / MEMORY_RATIO;
	for (uint32_t l = 0; l < m->layers; l++) {
		/* Not a layer that came only after the forecast, or was idle in its horizon. */
		if (m->steps[l] == p->steps[l] || p->steps[l] == 0)
			continue;
		inside += judge_layer(m, i, p, l);
		layers++;
	}
	if (layers > 0 && p->width[0] >= 0)
		h->factor *= exp(PACE * (0.8 - inside / layers));
	h->matured += layers > 0;
	p->end = -1;
}

/** Judges all forecasts that end before `step`, the short ones first. */
static void judge_before(struct matured *m, int64_t step)
{
	for (uint32_t i = 0; i < m->horizons; i++) {
		for (uint32_t k = 0; k < m->horizon[i].under_way; k++) {
			struct pending *p = &m->horizon[i].pending[k];

			if (p->end >= 0 && p->end < step)
				judge(m, i, p);
		}
	}
}

void mtl_matured_add(struct matured *m, const struct observation *o)
{
	/* Steps may leave gaps, so that no step is the last one of a horizon. */
	judge_before(m, o->step);
	for (uint32_t l = 0; l < m->layers; l++)
		m->steps[l] += o->sum[l] > 0;
	for (size_t c = 0; c < (size_t)m->layers * m->experts; c++)
		m->sum[c] += o->share[c];
	judge_before(m, o->step + 1);
	m->last = o->step;
}

/** Ratio of the errors of horizon i to those of the next shorter one; where it is not known, half
 * way between that of the longest horizon where it is and that of a random walk. */
static double ratio_of(const struct matured *m, uint32_t i)
{
	uint32_t k = i;
	double ratio, octaves;

	while (k > 0 && m->horizon[k].ratio[1] <= 0)
		k--;
	ratio = k > 0 ? m->horizon[k].ratio[0] / m->horizon[k].ratio[1] : M_SQRT2;
	if (k == i)
		return ratio;
	octaves = log2((double)m->horizon[i].steps / m->horizon[i - 1].steps);
	return pow(sqrt(fmin(fmax(ratio, 1), M_SQRT2) * M_SQRT2), octaves);
}

/** Half width at the i-th horizon in a layer; negative when nothing has matured. */
static double width_of(const struct matured *m, uint32_t i, uint32_t layer)
{
	uint32_t from = i, known = i;
	double width;

	while (from > 0 && m->horizon[from].error[layer] < 0)
		from--;
	for (uint32_t k = 0; k < OCTAVES && from > 0 && m->horizon[from].steps > 16; k++)
		from--;
	width = m->horizon[from].error[layer];
	if (width < 0)
		return -1;
	for (uint32_t k = from + 1; k <= i; k++)
		width *= ratio_of(m, k);
	/* The factor of the longest horizon of which it is known. */
	while (known > 0 && m->horizon[known].matured == 0)
		known--;
	width *= 1 + GUESSED * log2((double)m->horizon[i].steps / m->horizon[known].steps);
	return width * WIDTH * m->horizon[known].factor;
}

void mtl_matured_ask(
	struct matured *m, void (*predict)(void *arg, uint32_t horizon, double *share), void *arg)
{
	size_t cells = (size_t)m->layers * m->experts;

	for (uint32_t i = 0; i < m->horizons; i++) {
		struct horizon *h = &m->horizon[i];
		struct pending *p = NULL;

		if (h->next > m->last)
			continue;
		for (uint32_t k = 0; k < h->under_way; k++)
			p = h->pending[k].end < 0 ? &h->pending[k] : p;
		h->next = (m->last / h->apart + 1) * h->apart;
		if (p == NULL)
			continue;
		predict(arg, h->steps, m->scratch);
		p->begin = m->last;
		p->end = m->last + h->steps;
		for (size_t c = 0; c < cells; c++)
			p->predicted[c] = (float)m->scratch[c];
		memcpy(p->sum, m->sum, cells * sizeof(double));
		memcpy(p->steps, m->steps, m->layers * sizeof(uint32_t));
		for (uint32_t l = 0; l < m->layers; l++) {
			p->shorter[l] = -1;
			p->width[l] = width_of(m, i, l);
		}
	}
}

bool mtl_matured_width(const struct matured *m, uint32_t steps, double *width)
{
	uint32_t above = 0, below;
	double part;

	while (above + 1 < m->horizons && m->horizon[above].steps < steps)
		above++;
	below = above > 0 && m->horizon[above].steps > steps ? above - 1 : above;
	part = above == below
		       ? 0
		       : log2((double)steps / m->horizon[below].steps) /
				 log2((double)m->horizon[above].steps / m->horizon[below].steps);
	for (uint32_t l = 0; l < m->layers; l++) {
		double a = width_of(m, above, l), b = width_of(m, below, l);

		width[l] = a < 0 || b < 0 ? -1 : b * pow(a > 0 ? a / b : 1, part);
		/* Beyond the longest horizon: like a random walk. */
		if (steps > m->horizon[above].steps)
			width[l] *= sqrt((double)steps / m->horizon[above].steps);
	}
	return m->horizon[above].matured > 0;
}
