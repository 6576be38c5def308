/* SPDX-License-Identifier: BSD-3-Clause */
/* Bytes to come between ranks, from rounds by source. */
#include "common.h"

#include <errno.h>

#define RANKS 3u
#define EXPERTS 6u
#define NS 1000 /* of a packet, any but 0 */

/** One round in which source s sends tokens[s][e]; what a rank sends to itself passes no tap. */
static void add_round(struct moetap_series *series, int64_t step, const uint32_t *rank,
	const uint32_t tokens[RANKS][EXPERTS])
{
	struct moetap_pair pairs[RANKS * RANKS] = {0};
	uint32_t seen[RANKS * EXPERTS] = {0};
	struct moetap_round r = {.step = (uint64_t)step,
		.ranks = RANKS,
		.experts = EXPERTS,
		.pairs = pairs,
		.cell_tokens = seen,
		.expert_rank = rank};

	for (uint32_t p = 0; p < RANKS * RANKS; p++)
		pairs[p].last_ns = p / RANKS != p % RANKS ? NS : 0;
	for (uint32_t s = 0; s < RANKS; s++)
		for (uint32_t e = 0; e < EXPERTS; e++)
			seen[s * EXPERTS + e] = rank[e] != s ? tokens[s][e] : 0;
	assert_int_equal(moetap_series_add_counts(series, &r, NULL), 0);
}

static struct moetap_forecast *last_of(const struct moetap_series *series)
{
	struct moetap_forecast *f;

	assert_int_equal(
		moetap_forecast_make(series, moetap_series_last_step(series), "last", 1, 0, &f, NULL), 0);
	return f;
}

static const uint32_t even[EXPERTS] = {0, 0, 1, 1, 2, 2};

/* Each source sends 10 tokens to each expert; rank 0 sends twice as many, and to expert 5 thrice. */
static const uint32_t uneven[RANKS][EXPERTS] = {
	{20, 20, 20, 20, 20, 30}, {10, 10, 10, 10, 10, 10}, {10, 10, 10, 10, 10, 10}};

static void test_pairs(void **unused)
{
	struct moetap_series *series = series_of(1, EXPERTS, 0);
	double tokens[RANKS * RANKS];
	struct moetap_forecast *f;

	(void)unused;
	for (int64_t step = 0; step < 40; step++)
		add_round(series, step, even, uneven);
	f = last_of(series);
	assert_int_equal(moetap_network_ranks(series), RANKS);
	assert_int_equal(moetap_network_tokens(series, f, MOETAP_ALL_LAYERS, 0, tokens, NULL), 0);
	for (uint32_t p = 0; p < RANKS * RANKS; p++) {
		uint32_t src = p / RANKS, dst = p % RANKS;

		if (src == dst)
			assert_true(isnan(tokens[p]));
		else
			assert_near(tokens[p],
				uneven[src][2 * dst] + uneven[src][2 * dst + 1], 1e-4);
	}
	moetap_forecast_free(f);
	moetap_series_free(series);
}

/** What is to come follows the forecast, not the past: expert 2 grows, its senders stay the same. */
static void test_forecast(void **unused)
{
	struct moetap_series *series = series_of(1, EXPERTS, 0);
	uint32_t more[RANKS][EXPERTS];
	double tokens[RANKS * RANKS], sum = 0;
	struct moetap_forecast *f;

	(void)unused;
	memcpy(more, uneven, sizeof(more));
	for (uint32_t s = 0; s < RANKS; s++)
		more[s][2] *= 9;
	for (int64_t step = 0; step < 40; step++)
		add_round(series, step, even, step < 39 ? (const uint32_t(*)[EXPERTS])uneven : (const uint32_t(*)[EXPERTS])more);
	f = last_of(series);
	assert_int_equal(moetap_network_tokens(series, f, MOETAP_ALL_LAYERS, 1, tokens, NULL), 0);
	/* last: the shares of the last step, in which rank 0 sent 180 to expert 2 and 20 to 3 */
	for (uint32_t s = 0; s < RANKS; s += 2)
		assert_near(tokens[s * RANKS + 1], more[s][2] + more[s][3], 1.0);
	for (uint32_t p = 0; p < RANKS * RANKS; p++)
		sum += isnan(tokens[p]) ? 0 : tokens[p];
	assert_true(sum > 360);
	moetap_forecast_free(f);
	moetap_series_free(series);
}

/** After experts moved, senders of the old placement say nothing of the new one. */
static void test_moved(void **unused)
{
	const uint32_t moved[EXPERTS] = {2, 2, 1, 1, 0, 0};
	struct moetap_series *series = series_of(1, EXPERTS, 0);
	double tokens[RANKS * RANKS];
	struct moetap_forecast *f;

	(void)unused;
	for (int64_t step = 0; step < 40; step++)
		add_round(series, step, step < 20 ? even : moved, uneven);
	f = last_of(series);
	assert_int_equal(moetap_network_tokens(series, f, MOETAP_ALL_LAYERS, 10, tokens, NULL), 0);
	assert_near(tokens[0 * RANKS + 2], 40, 1e-4); /* experts 0 and 1 */
	assert_near(tokens[1 * RANKS + 0], 20, 1e-4); /* experts 4 and 5 */
	moetap_forecast_free(f);
	moetap_series_free(series);
}

/** Rank 0 sends 50 tokens to rank 2, the mean pair gets 170 / 6: nearly twice as many. */
static void test_layers(void **unused)
{
	struct moetap_series *series = series_of(1, EXPERTS, 0);
	struct moetap_network network;
	struct moetap_forecast *f;

	(void)unused;
	for (int64_t step = 0; step < 40; step++)
		add_round(series, step, even, uneven);
	f = last_of(series);
	assert_int_equal(moetap_network_layers(series, f, 0, 8, 5, &network, NULL), 0);
	assert_near(network.busiest, 50, 1e-4);
	assert_near(network.mean, 170 / 6., 1e-4);
	assert_int_equal(network.queue_pairs, 2);
	assert_int_equal(network.traffic_class, 5);
	assert_int_equal(moetap_network_layers(series, f, 0, 1, -1, &network, NULL), 0);
	assert_int_equal(network.queue_pairs, 1);
	assert_int_equal(moetap_network_layers(series, f, 0, 0, -1, &network, NULL), 0);
	assert_int_equal(network.queue_pairs, 0);
	moetap_forecast_free(f);
	moetap_series_free(series);
}

static void test_refused(void **unused)
{
	struct moetap_series *series = series_of(1, EXPERTS, 0), *other = series_of(2, EXPERTS, 0);
	double tokens[RANKS * RANKS];
	struct moetap_error error;
	struct moetap_forecast *f;

	(void)unused;
	for (int64_t step = 0; step < 4; step++)
		moetap_series_add_step(
			other, step, (double[2 * EXPERTS]){1, 2, 3, 4, 5, 6}, NULL, NULL);
	f = last_of(other);
	assert_int_equal(moetap_network_ranks(other), 0);
	assert_int_equal(moetap_network_tokens(other, f, MOETAP_ALL_LAYERS, 0, tokens, &error), -ENODATA);
	assert_non_null(strstr(error.text, "which rank sent"));
	add_round(series, 0, even, uneven);
	assert_int_equal(moetap_network_tokens(series, f, MOETAP_ALL_LAYERS, 0, tokens, &error), -EINVAL);
	moetap_forecast_free(f);
	moetap_series_free(other);
	moetap_series_free(series);
}

static void test_spread(void **unused)
{
	double bytes[4] = {NAN, 300, 100, NAN}, none[4] = {NAN, 0, 0, NAN};
	uint32_t spread[4];

	(void)unused;
	moetap_network_spread(bytes, 2, 4, spread);
	assert_memory_equal(spread, ((uint32_t[]){0, 6, 2, 0}), sizeof(spread));
	moetap_network_spread(bytes, 2, 1, spread);
	assert_memory_equal(spread, ((uint32_t[]){0, 2, 1, 0}), sizeof(spread));
	moetap_network_spread(bytes, 2, 1000, spread);
	assert_memory_equal(spread,
		((uint32_t[]){0, MOETAP_QUEUE_PAIRS_MAX, MOETAP_QUEUE_PAIRS_MAX, 0}), sizeof(spread));
	moetap_network_spread(none, 2, 4, spread);
	assert_memory_equal(spread, ((uint32_t[]){0, 1, 1, 0}), sizeof(spread));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_pairs),
		cmocka_unit_test(test_forecast), cmocka_unit_test(test_moved),
		cmocka_unit_test(test_layers), cmocka_unit_test(test_refused), cmocka_unit_test(test_spread)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
