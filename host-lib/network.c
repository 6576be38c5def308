/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who sends to whom: sliding means of each source's tokens for each expert, and from them, and a
 * forecast, the bytes between ranks to come.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SENDERS_MOST 256 /* rounds that the means remember, about */

void mtl_senders_free(struct mtl_senders *s)
{
	free(s->mean);
	free(s->load);
	free(s->rank);
	free(s->crosses);
	*s = (struct mtl_senders){0};
}

static int begin(struct mtl_senders *s, const struct mtl_sources *round)
{
	if (s->mean != NULL && s->ranks == round->ranks &&
		memcmp(s->rank, round->expert_rank, round->experts * sizeof(*s->rank)) == 0)
		return 0;
	mtl_senders_free(s);
	s->mean = calloc((size_t)round->ranks * round->experts, sizeof(*s->mean));
	s->load = calloc(round->experts, sizeof(*s->load));
	s->rank = calloc(round->experts, sizeof(*s->rank));
	s->crosses = calloc((size_t)round->ranks * round->ranks, sizeof(*s->crosses));
	if (s->mean == NULL || s->load == NULL || s->rank == NULL || s->crosses == NULL) {
		mtl_senders_free(s);
		return -ENOMEM;
	}
	s->ranks = round->ranks;
	memcpy(s->rank, round->expert_rank, round->experts * sizeof(*s->rank));
	return 0;
}

int mtl_senders_add(struct mtl_senders *s, const struct mtl_sources *round, const double *load)
{
	double weight;

	if (begin(s, round) < 0)
		return -ENOMEM;
	s->rounds += s->rounds < SENDERS_MOST;
	weight = 1.0 / s->rounds;
	for (size_t p = 0; p < (size_t)s->ranks * s->ranks; p++)
		s->crosses[p] |= round->visible[p];
	for (uint32_t e = 0; e < round->experts; e++)
		s->load[e] += (load[e] - s->load[e]) * weight;
	for (size_t c = 0; c < (size_t)s->ranks * round->experts; c++)
		s->mean[c] += (float)((round->tokens[c] - (double)s->mean[c]) * weight);
	return 0;
}

/** Adds what source `src` will send in a step for the experts of a layer, to the pair's tokens. */
static void add_source(const struct mtl_senders *s, uint32_t src, const double *load,
	uint32_t experts, double *tokens)
{
	const float *mean = s->mean + (size_t)src * experts;

	for (uint32_t e = 0; e < experts; e++)
		if (s->rank[e] < s->ranks && s->load[e] > 0)
			tokens[(size_t)src * s->ranks + s->rank[e]] +=
				load[e] * (double)mean[e] / s->load[e];
}

/** Tokens of a step by expert: the forecast's shares of what the layer's steps had. */
static void fill_loads(const struct moetap_forecast *f, uint32_t layer, const double *mean,
	double *load)
{
	uint32_t experts = moetap_forecast_experts(f);
	const double *share = moetap_forecast_share(f) + (size_t)layer * experts;
	double sum = 0;

	for (uint32_t e = 0; e < experts; e++)
		sum += isnan(mean[(size_t)layer * experts + e])
			       ? 0
			       : mean[(size_t)layer * experts + e];
	for (uint32_t e = 0; e < experts; e++)
		load[e] = isnan(share[e]) ? 0 : share[e] * sum;
}

uint32_t moetap_network_ranks(const struct moetap_series *series)
{
	uint32_t ranks = 0;

	for (uint32_t l = 0; l < moetap_series_layers(series); l++) {
		const struct mtl_senders *s = mtl_series_senders(series, l);

		ranks = s != NULL && s->ranks > ranks ? s->ranks : ranks;
	}
	return ranks;
}

/** Adds a layer's tokens to the pairs that pass the tap; `load[experts]` is scratch. */
static void add_layer(const struct moetap_series *series, const struct moetap_forecast *f,
	uint32_t layer, uint32_t ranks, const double *mean, double *load, double *tokens)
{
	const struct mtl_senders *s = mtl_series_senders(series, layer);

	if (s == NULL || s->ranks != ranks)
		return;
	for (size_t p = 0; p < (size_t)ranks * ranks; p++)
		if (s->crosses[p] && isnan(tokens[p]))
			tokens[p] = 0;
	fill_loads(f, layer, mean, load);
	for (uint32_t src = 0; src < ranks; src++)
		add_source(s, src, load, moetap_series_experts(series), tokens);
}

int moetap_network_tokens(const struct moetap_series *series, const struct moetap_forecast *f,
	uint32_t layer, uint32_t steps, double *tokens, struct moetap_error *error)
{
	uint32_t layers = moetap_series_layers(series), experts = moetap_series_experts(series);
	uint32_t ranks = moetap_network_ranks(series);
	bool all = layer == MOETAP_ALL_LAYERS;
	double *mean, *load;

	if (ranks == 0)
		return mtl_fail(error, -ENODATA, "the trace does not say which rank sent what");
	if (moetap_forecast_layers(f) != layers || moetap_forecast_experts(f) != experts ||
		(!all && layer >= layers))
		return mtl_fail(error, -EINVAL, "the forecast is of another job");
	mean = malloc(((size_t)layers + 1) * experts * sizeof(*mean));
	if (mean == NULL)
		return mtl_fail_memory(error);
	load = mean + (size_t)layers * experts;
	moetap_series_mean_tokens(series, steps, mean);
	for (size_t p = 0; p < (size_t)ranks * ranks; p++)
		tokens[p] = NAN;
	for (uint32_t l = all ? 0 : layer; l < (all ? layers : layer + 1); l++)
		add_layer(series, f, l, ranks, mean, load, tokens);
	free(mean);
	return 0;
}

int moetap_network_layers(const struct moetap_series *series, const struct moetap_forecast *f,
	uint32_t steps, uint32_t most, int32_t traffic_class, struct moetap_network *network,
	struct moetap_error *error)
{
	size_t pairs = (size_t)moetap_network_ranks(series) * moetap_network_ranks(series);
	double *tokens = malloc(pairs * sizeof(*tokens) + 1);
	int ret = tokens != NULL ? 0 : mtl_fail_memory(error);

	for (uint32_t l = 0; l < moetap_series_layers(series) && ret == 0; l++) {
		double sum = 0, busiest = 0, times;
		uint32_t crossing = 0;

		ret = moetap_network_tokens(series, f, l, steps, tokens, error);
		for (size_t p = 0; p < pairs && ret == 0; p++) {
			sum += isnan(tokens[p]) ? 0 : tokens[p];
			crossing += !isnan(tokens[p]);
			busiest = fmax(busiest, tokens[p]);
		}
		/* a little above a whole number is rounding */
		times = sum > 0 ? ceil(busiest * crossing / sum - 1e-6) : 1;
		network[l] = (struct moetap_network){.busiest = busiest,
			.mean = crossing > 0 ? sum / crossing : 0,
			.queue_pairs = times < most ? (uint32_t)times : most,
			.traffic_class = traffic_class};
	}
	free(tokens);
	return ret;
}

void moetap_network_spread(
	const double *bytes, uint32_t ranks, uint32_t queue_pairs, uint32_t *spread)
{
	double sum = 0, part;
	uint32_t pairs = 0;

	for (size_t p = 0; p < (size_t)ranks * ranks; p++) {
		sum += bytes[p] > 0 ? bytes[p] : 0;
		pairs += bytes[p] > 0;
	}
	for (size_t p = 0; p < (size_t)ranks * ranks; p++) {
		part = bytes[p] > 0 ? round(bytes[p] * pairs / sum * queue_pairs) : 0;
		spread[p] = isnan(bytes[p])		   ? 0
			    : part > MOETAP_QUEUE_PAIRS_MAX ? MOETAP_QUEUE_PAIRS_MAX
			    : part > 1			   ? (uint32_t)part
							   : 1;
	}
}
