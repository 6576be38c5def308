/* SPDX-License-Identifier: BSD-3-Clause */
/** Loads with known change points and known noise. */
#ifndef TESTS_HOST_LOADS_H
#define TESTS_HOST_LOADS_H

#include "common.h"

#define LOADS_EXPERTS_MOST 256
#define LOADS_SLOTS 4096

/** Shares from which tokens are drawn. */
struct mix {
	uint32_t experts;
	double weight[LOADS_EXPERTS_MOST];
	uint16_t slot[LOADS_SLOTS]; /**< expert of each 4,096th of the tokens */
};

/** Weight 1 / (rank + 1)^skew, ranks from `first` on; 0: all alike. */
static inline void mix_zipf(struct mix *m, uint32_t experts, double skew, uint32_t first)
{
	m->experts = experts;
	for (uint32_t e = 0; e < experts; e++)
		m->weight[e] = pow(1.0 + (e + first) % experts, -skew);
}

/** To be called once the weights are set. */
static inline void mix_ready(struct mix *m)
{
	double sum = 0, below = 0;
	uint32_t i = 0;

	for (uint32_t e = 0; e < m->experts; e++)
		sum += m->weight[e];
	for (uint32_t e = 0; e < m->experts; e++) {
		below += m->weight[e];
		while (i < LOADS_SLOTS && i + 0.5 <= below / sum * LOADS_SLOTS)
			m->slot[i++] = (uint16_t)e;
	}
	while (i < LOADS_SLOTS)
		m->slot[i++] = (uint16_t)(m->experts - 1);
}

/** Draws `tokens` tokens. With `scatter` k they come in parcels of k for the same expert: the
 * variance of a load is k times that of a multinomial. */
static inline void mix_draw(
	const struct mix *m, uint32_t tokens, uint32_t scatter, uint32_t *seed, double *load)
{
	memset(load, 0, m->experts * sizeof(*load));
	for (uint32_t i = 0; i < tokens / scatter; i++)
		load[m->slot[next_random(seed) >> 20]] += scatter;
}

static inline double next_normal(uint32_t *seed)
{
	double radius = sqrt(-2 * log(1 - next_uniform(seed)));

	return radius * cos(2 * M_PI * next_uniform(seed));
}

/** A gamma variable of scale 1 (Marsaglia and Tsang 2000; below shape 1 by their note). */
static inline double next_gamma(double shape, uint32_t *seed)
{
	double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3, c = 1 / sqrt(9 * d);

	for (;;) {
		double x = next_normal(seed), v = pow(1 + c * x, 3);

		if (v > 0 && log(1 - next_uniform(seed)) < x * x / 2 + d - d * v + d * log(v))
			return d * v * (shape < 1 ? pow(1 - next_uniform(seed), 1 / shape) : 1);
	}
}

/** The same from a Dirichlet-multinomial: every step has shares of its own, scattered about those
 * of the mix so that the variance of a load is `scatter` (above 1) times that of a multinomial. */
static inline void mix_draw_dirichlet(
	const struct mix *m, uint32_t tokens, uint32_t scatter, uint32_t *seed, double *load)
{
	double sum = 0, precision = (tokens - scatter) / (scatter - 1.0);
	static struct mix step;

	step.experts = m->experts;
	for (uint32_t e = 0; e < m->experts; e++)
		sum += m->weight[e];
	for (uint32_t e = 0; e < m->experts; e++)
		step.weight[e] = next_gamma(precision * m->weight[e] / sum, seed);
	mix_ready(&step);
	mix_draw(&step, tokens, 1, seed, load);
}

#endif
