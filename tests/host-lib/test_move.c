/* SPDX-License-Identifier: BSD-3-Clause */
/* What a move costs, and which replica a token takes. */
#include "common.h"

/** 2 nodes of 2 ranks of 2 slots: expert 0 on both nodes, 4 on one. */
static const struct moetap_shape shape = {.ranks = 4, .nodes = 2, .slots = 8, .groups = 1};
static const uint32_t slots[8] = {0, 1, 2, 3, 0, 4, 5, 6};

static struct moetap_plan *plan_of(const uint32_t *slot, uint32_t experts)
{
	struct moetap_plan *plan;

	assert_int_equal(moetap_plan_from_slots(&shape, 1, experts, slot, &plan, NULL), 0);
	return plan;
}

static void test_split_by_hand(void **unused)
{
	/* expert 0: 30 tokens from node 0, 10 from node 1; its replicas get 20 each */
	const double from[2][7] = {{30, 4, 0, 0, 8, 0, 0}, {10, 4, 0, 0, 0, 0, 0}};
	struct moetap_plan *plan = plan_of(slots, 7);
	double weight[2][8];

	(void)unused;
	assert_int_equal(moetap_plan_split(plan, 0, &from[0][0], &weight[0][0]), 0);
	assert_near(weight[0][0], 2.0 / 3, 1e-12); /* slot 0, on node 0 */
	assert_near(weight[0][4], 1.0 / 3, 1e-12);
	assert_near(weight[1][0], 0, 1e-12);
	assert_near(weight[1][4], 1, 1e-12);
	assert_near(weight[0][1], 1, 1e-12); /* one replica */
	assert_near(weight[1][1], 1, 1e-12);
	assert_near(weight[1][6], 1, 1e-12); /* no tokens */
	/* 10 of expert 0 to node 1, 4 of expert 1 to node 0, 8 of expert 4 to node 1 */
	assert_near(moetap_plan_between(plan, 0, &from[0][0], &weight[0][0]), 22, 1e-12);
	assert_int_equal(moetap_plan_split(plan, 1, &from[0][0], &weight[0][0]), -EINVAL);
	moetap_plan_free(plan);
}

/* On random plans: weights of a source add up to 1, replicas get the same, and no less could cross:
 * of an expert, at least what a node has beyond its replicas' part, or beyond all of it without. */
static void test_split_random(void **unused)
{
	enum { EXPERTS = 24, NODES = 4, SLOTS = 48 };
	const struct moetap_shape big = {.ranks = 8, .nodes = NODES, .slots = SLOTS, .groups = 1};
	uint32_t seed = 7;

	(void)unused;
	for (int i = 0; i < 200; i++) {
		double from[NODES][EXPERTS], weight[NODES][SLOTS], load[EXPERTS] = {0}, least = 0;
		struct moetap_plan *plan;
		const uint32_t *slot, *replicas;

		for (uint32_t k = 0; k < NODES; k++)
			for (uint32_t e = 0; e < EXPERTS; e++)
				load[e] += from[k][e] = floor(exp(5 * next_uniform(&seed)));
		assert_int_equal(
			moetap_plan_make(NULL, &big, 1, EXPERTS, load, NULL, &plan, NULL), 0);
		slot = moetap_plan_slots(plan);
		replicas = moetap_plan_replicas(plan);
		assert_int_equal(moetap_plan_split(plan, 0, &from[0][0], &weight[0][0]), 0);
		for (uint32_t e = 0; e < EXPERTS; e++)
			for (uint32_t k = 0; k < NODES; k++) {
				double sum = 0, here = 0;

				for (uint32_t s = 0; s < SLOTS; s++) {
					if (slot[s] != e)
						continue;
					assert_true(weight[k][s] >= 0);
					sum += weight[k][s];
					here += s / (SLOTS / NODES) == k ? load[e] / replicas[e]
									 : 0;
				}
				assert_near(sum, 1, 1e-9);
				least += fmax(from[k][e] - here, 0);
			}
		for (uint32_t s = 0; s < SLOTS; s++) {
			double got = 0;

			for (uint32_t k = 0; k < NODES; k++)
				got += from[k][slot[s]] * weight[k][s];
			assert_near(got, load[slot[s]] / replicas[slot[s]], 1e-9 * load[slot[s]]);
		}
		assert_near(moetap_plan_between(plan, 0, &from[0][0], &weight[0][0]), least, 1e-6);
		moetap_plan_free(plan);
	}
}

static void test_price_by_hand(void **unused)
{
	/* Rank 1 gives up expert 3, which rank 2 has too, for expert 0 of rank 0. */
	const uint32_t from[8] = {0, 1, 2, 3, 3, 4, 5, 6}, to[8] = {0, 1, 0, 2, 3, 4, 5, 6};
	const struct moetap_prices prices = {
		.expert_bytes = 100, .inside = 50, .outside = 10, .token_seconds = 0.5};
	const double loads[7] = {40, 0, 4, 4, 4, 0, 4};
	struct moetap_plan *plan, *current, *other;
	struct moetap_move move;

	(void)unused;
	assert_int_equal(moetap_plan_from_slots(&shape, 1, 7, from, &current, NULL), 0);
	assert_int_equal(moetap_plan_from_slots(&shape, 1, 7, to, &plan, NULL), 0);
	assert_int_equal(moetap_plan_price(plan, current, loads, &prices, &move), 0);
	assert_int_equal(move.slots, 1);
	assert_near(move.inside, 100, 0);
	assert_near(move.outside, 0, 0);
	assert_near(move.seconds, 2, 1e-12);
	/* busiest before: rank 0 with 40; after: 20 + 4 on rank 1 */
	assert_near(move.gain, (40 - 24) * 0.5, 1e-12);
	assert_near(move.steps, 0.25, 1e-12);
	/* the way back: expert 3 has a replica on the other node only */
	assert_int_equal(moetap_plan_price(current, plan, loads, &prices, &move), 0);
	assert_near(move.outside, 100, 0);
	assert_near(move.seconds, 10, 1e-12);
	assert_true(isinf(move.steps));
	assert_int_equal(moetap_plan_price(plan, plan, loads, &prices, &move), 0);
	assert_near(move.steps, 0, 0);
	assert_int_equal(
		moetap_plan_price(plan, plan, loads, &(struct moetap_prices){100, 0, 1, 1, 0}, &move),
		-EINVAL);
	assert_int_equal(
		moetap_plan_trivial(&(struct moetap_shape){2, 1, 8, 1}, 1, 7, &other, NULL), 0);
	assert_int_equal(moetap_plan_price(plan, other, loads, &prices, &move), -EINVAL);
	moetap_plan_free(other);
	moetap_plan_free(plan);
	moetap_plan_free(current);
}

/* Of several that hold an expert, each sends about as much. */
static void test_price_spread(void **unused)
{
	const struct moetap_shape wide = {.ranks = 8, .nodes = 1, .slots = 8, .groups = 1};
	const uint32_t from[8] = {0, 0, 0, 0, 1, 1, 1, 1}, to[8] = {0, 0, 1, 0, 0, 0, 0, 1};
	const struct moetap_prices prices = {100, 100, 1, 1, 0};
	struct moetap_plan *plan, *current;
	struct moetap_move move;

	(void)unused;
	assert_int_equal(moetap_plan_from_slots(&wide, 1, 2, from, &current, NULL), 0);
	assert_int_equal(moetap_plan_from_slots(&wide, 1, 2, to, &plan, NULL), 0);
	assert_int_equal(moetap_plan_price(plan, current, (double[]){1, 1}, &prices, &move), 0);
	assert_int_equal(move.slots, 4);
	assert_near(move.seconds, 1, 1e-12);
	moetap_plan_free(plan);
	moetap_plan_free(current);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_split_by_hand),
		cmocka_unit_test(test_split_random),
		cmocka_unit_test(test_price_by_hand),
		cmocka_unit_test(test_price_spread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
