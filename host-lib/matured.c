/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Intervals of the methods that learn. While steps come, the method is asked at horizons that
 * double, four times a horizon; when a horizon has passed, the forecast has matured and is compared
 * with what came. Memory: about 40 * MTL_HORIZONS_MOST * 6 bytes a (layer, expert).
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/** Longest horizon that is judged; beyond it, widths are stretched. */
#define HORIZON_MOST 8192
/** Steps between two forecasts of one horizon, at least: small horizons need no more. */
#define APART_LEAST 16
/** Forecasts of one horizon under way. */
#define UNDER_WAY 5
/** Matured forecasts that a width rests on, at most. */
#define KEPT 8

/** A forecast whose horizon has not passed. */
struct pending {
	int64_t end; /**< last step of its horizon; negative: none */
	float *predicted;
	double *sum;	 /**< of shares up to its origin, [layers][experts] */
	uint32_t *steps; /**< with tokens, up to its origin, [layers] */
};

struct horizon {
	uint32_t steps;
	uint32_t apart;
	int64_t next; /**< step of the next forecast */
	struct pending pending[UNDER_WAY];
	float *error; /**< [KEPT][layers][experts], in units of mtl_share_scale(); negative: none */
	uint32_t matured; /**< so far */
	double *width;	  /**< [layers] */
};

struct matured {
	uint32_t layers, experts, horizons;
	double *sum;	 /**< of shares since the beginning, [layers][experts] */
	uint32_t *steps; /**< [layers] */
	double *scratch; /**< [layers][experts] */
	float *pool;	 /**< [KEPT][experts] */
	int64_t last;
	struct horizon horizon[MTL_HORIZONS_MOST];
};

double mtl_share_scale(double share, uint32_t experts)
{
	return sqrt((share + 0.05 / experts) / experts);
}

static bool open_horizon(struct matured *m, uint32_t steps)
{
	struct horizon *h = &m->horizon[m->horizons++];
	size_t cells = (size_t)m->layers * m->experts;
	bool ok = true;

	h->steps = steps;
	h->apart = steps / 4 > APART_LEAST ? steps / 4 : APART_LEAST;
	h->next = INT64_MIN;
	for (int i = 0; i < UNDER_WAY; i++) {
		struct pending *p = &h->pending[i];

		p->end = -1;
		p->predicted = malloc(cells * sizeof(float));
		p->sum = malloc(cells * sizeof(double));
		p->steps = malloc(m->layers * sizeof(uint32_t));
		ok = ok && p->predicted != NULL && p->sum != NULL && p->steps != NULL;
	}
	h->error = malloc(KEPT * cells * sizeof(float));
	h->width = malloc(m->layers * sizeof(double));
	if (!ok || h->error == NULL || h->width == NULL)
		return false;
	for (size_t i = 0; i < KEPT * cells; i++)
		h->error[i] = -1;
	for (uint32_t l = 0; l < m->layers; l++)
		h->width[l] = -1;
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
	m->pool = malloc((size_t)KEPT * experts * sizeof(float));
	ok = m->sum != NULL && m->steps != NULL && m->scratch != NULL && m->pool != NULL;
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

		for (int k = 0; k < UNDER_WAY; k++) {
			free(h->pending[k].predicted);
			free(h->pending[k].sum);
			free(h->pending[k].steps);
		}
		free(h->error);
		free(h->width);
	}
	free(m->sum);
	free(m->steps);
	free(m->scratch);
	free(m->pool);
	free(m);
}

static int compare(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

/** The 80 % quantile of the kept errors of a layer. */
static void set_width(struct matured *m, struct horizon *h, uint32_t layer)
{
	size_t cells = (size_t)m->layers * m->experts, n = 0;

	for (uint32_t k = 0; k < KEPT; k++) {
		const float *error = h->error + k * cells + (size_t)layer * m->experts;

		if (error[0] < 0)
			continue;
		memcpy(m->pool + n, error, m->experts * sizeof(float));
		n += m->experts;
	}
	qsort(m->pool, n, sizeof(float), compare);
	h->width[layer] = n > 0 ? m->pool[(n * 8 + 9) / 10 - 1] : -1;
}

/** Compares a forecast with what came. */
static void judge(struct matured *m, struct horizon *h, struct pending *p)
{
	float *error = h->error + (size_t)(h->matured++ % KEPT) * m->layers * m->experts;

	for (uint32_t l = 0; l < m->layers; l++) {
		uint32_t steps = m->steps[l] - p->steps[l];
		size_t at = (size_t)l * m->experts;

		for (uint32_t e = 0; e < m->experts; e++) {
			double actual = steps > 0 ? (m->sum[at + e] - p->sum[at + e]) / steps : 0;

			error[at + e] =
				steps > 0
					? (float)(fabs(p->predicted[at + e] - actual) /
						  mtl_share_scale(p->predicted[at + e], m->experts))
					: -1;
		}
		set_width(m, h, l);
	}
	p->end = -1;
}

/** Judges all forecasts that end before `step`. */
static void judge_before(struct matured *m, int64_t step)
{
	for (uint32_t i = 0; i < m->horizons; i++) {
		for (int k = 0; k < UNDER_WAY; k++) {
			struct pending *p = &m->horizon[i].pending[k];

			if (p->end >= 0 && p->end < step)
				judge(m, &m->horizon[i], p);
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

void mtl_matured_ask(
	struct matured *m, void (*predict)(void *arg, uint32_t horizon, double *share), void *arg)
{
	size_t cells = (size_t)m->layers * m->experts;

	for (uint32_t i = 0; i < m->horizons; i++) {
		struct horizon *h = &m->horizon[i];
		struct pending *p = NULL;

		/* The horizons take turns, so that no step has to do it all. */
		if (h->next == INT64_MIN)
			h->next = m->last + i;
		for (int k = 0; k < UNDER_WAY && h->next <= m->last; k++)
			p = h->pending[k].end < 0 ? &h->pending[k] : p;
		if (p == NULL)
			continue;
		h->next = m->last + h->apart;
		predict(arg, h->steps, m->scratch);
		p->end = m->last + h->steps;
		for (size_t c = 0; c < cells; c++)
			p->predicted[c] = (float)m->scratch[c];
		memcpy(p->sum, m->sum, cells * sizeof(double));
		memcpy(p->steps, m->steps, m->layers * sizeof(uint32_t));
	}
}

/** Width of the i-th horizon stretched to `steps`, like the path of a random walk, which errs on
 * the wide side. */
static double stretched(const struct matured *m, uint32_t i, uint32_t layer, uint32_t steps)
{
	return m->horizon[i].width[layer] * sqrt((double)steps / m->horizon[i].steps);
}

bool mtl_matured_width(const struct matured *m, uint32_t steps, double *width)
{
	uint32_t above = 0;
	bool itself = true;

	while (above < m->horizons && m->horizon[above].steps < steps)
		above++;
	for (uint32_t l = 0; l < m->layers; l++) {
		uint32_t i = above;

		width[l] = -1;
		if (i < m->horizons && m->horizon[i].width[l] >= 0) {
			const struct horizon *h = &m->horizon[i];
			double part = 1;

			/* Between two horizons: by the logarithm. */
			if (i > 0 && h[-1].width[l] >= 0)
				part = log2((double)steps / h[-1].steps) /
				       log2((double)h->steps / h[-1].steps);
			width[l] =
				part * h->width[l] + (part < 1 ? (1 - part) * h[-1].width[l] : 0);
			continue;
		}
		itself = itself && m->horizon[0].width[l] < 0;
		while (i-- > 0 && width[l] < 0) {
			if (m->horizon[i].width[l] >= 0)
				width[l] = stretched(m, i, l, steps);
		}
	}
	return itself;
}
