/* SPDX-License-Identifier: BSD-3-Clause */
/* A job replayed with moves at several times. */
#include "common.h"

static const struct moetap_prices prices = {
	.expert_bytes = 88080384, .inside = 160e9, .outside = 50e9, .token_seconds = 0.22e-6};

static struct moetap_simulated simulate(
	const struct moetap_series *series, const struct moetap_simulation *sim, enum moetap_when w)
{
	struct moetap_simulated r;

	assert_int_equal(moetap_simulate(series, sim, w, &r, NULL), 0);
	return r;
}

/* Four steps of loads 4, 3, 2, 1 on two ranks: 7 of 10 tokens on the busiest. After two steps EPLB
 * swaps an expert of each rank, which takes 1 s and leaves 5. */
static void test_by_hand(void **unused)
{
	const struct moetap_simulation sim = {
		.shape = {.ranks = 2, .nodes = 1, .slots = 4, .groups = 1},
		.prices = {.expert_bytes = 1, .inside = 1, .outside = 1, .token_seconds = 1},
		.every = 2,
		.horizon = 10};
	struct moetap_series *series = series_of(1, 4, 0);
	struct moetap_simulated r;

	(void)unused;
	for (int step = 0; step < 4; step++)
		assert_int_equal(
			moetap_series_add_round(series, step, 0, (double[]){4, 3, 2, 1}, 0, NULL),
			0);
	r = simulate(series, &sim, MOETAP_WHEN_NEVER);
	assert_near(r.seconds, 28, 1e-9);
	assert_near(r.even, 20, 1e-9);
	assert_int_equal(r.plans, 0);
	r = simulate(series, &sim, MOETAP_WHEN_EVERY);
	assert_near(r.seconds, 2 * 7 + 2 * 5 + r.moving, 1e-9);
	assert_int_equal(r.plans, 1);
	assert_true(r.moving == 1 || r.moving == 2);	 /* EPLB may exchange the ranks too */
	r = simulate(series, &sim, MOETAP_WHEN_DECIDED); /* too early to tell */
	assert_near(r.seconds, 28, 1e-9);
	moetap_series_free(series);
}

/** Simulates a kind of loads: deciding loses no more than 1 % to staying; and where loads shift, it
 * wins against both. */
static void check_shape(const char *name, const struct moetap_simulation *sim)
{
	const struct moetap_workload_size size = {
		.layers = 2, .experts = 64, .ranks = 8, .steps = 1200, .tokens = 262144, .seed = 1};
	struct moetap_simulated never, every, ours;
	struct moetap_series *series;

	assert_int_equal(moetap_workload_make(name, &size, &series, NULL), 0);
	never = simulate(series, sim, MOETAP_WHEN_NEVER);
	every = simulate(series, sim, MOETAP_WHEN_EVERY);
	ours = simulate(series, sim, MOETAP_WHEN_DECIDED);
	print_message("%s, %u slots, stall %g s: never %.2f s, every %.2f s, decided %.2f s\n",
		name, sim->shape.slots, sim->prices.stall, never.seconds, every.seconds,
		ours.seconds);
	assert_true(ours.seconds <= 1.01 * never.seconds);
	if (strcmp(name, "shift") == 0) {
		assert_true(ours.seconds < never.seconds);
		assert_true(ours.seconds < every.seconds);
	}
	moetap_series_free(series);
}

/* Also where a move stops the job for 0.3 s, about 20 steps. */
static void test_shapes(void **unused)
{
	struct moetap_simulation sim = {.shape = {.ranks = 8, .nodes = 1, .groups = 1},
		.prices = prices,
		.every = 300,
		.horizon = 300,
		.threshold = MOETAP_GAIN_THRESHOLD};
	const char *name;

	(void)unused;
	for (uint32_t i = 0; (name = moetap_workload(i, NULL)) != NULL; i++) {
		sim.shape.slots = i % 2 == 0 ? 64 : 72;
		sim.prices.stall = 0;
		check_shape(name, &sim);
		sim.shape.slots = i % 2 == 0 ? 72 : 64;
		sim.prices.stall = 0.3;
		check_shape(name, &sim);
	}
}

/* The first steps of a real training run: ahead of both. */
static void test_trace(void **unused)
{
	const struct moetap_simulation sim = {
		.shape = {.ranks = 4, .nodes = 1, .slots = 20, .groups = 1},
		.prices = prices,
		.every = 300,
		.horizon = 300,
		.threshold = MOETAP_GAIN_THRESHOLD};
	struct moetap_simulated never, every, ours;
	struct moetap_series *series;

	(void)unused;
	assert_int_equal(
		moetap_series_load_trace(data_path("gpt-4x16-short.csv"), &series, NULL), 0);
	never = simulate(series, &sim, MOETAP_WHEN_NEVER);
	ours = simulate(series, &sim, MOETAP_WHEN_DECIDED);
	every = simulate(series, &sim, MOETAP_WHEN_EVERY);
	assert_true(ours.seconds < never.seconds);
	assert_true(ours.seconds < every.seconds);
	moetap_series_free(series);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_by_hand),
		cmocka_unit_test(test_shapes),
		cmocka_unit_test(test_trace),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
