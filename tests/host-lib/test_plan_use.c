/* SPDX-License-Identifier: BSD-3-Clause */
/* Plans for activated experts, plans kept by phase, and what goes between nodes. */
#include "loads.h"

static struct moetap_plan *make(const char *policy, const struct moetap_shape *shape,
	uint32_t layers, uint32_t experts, const double *loads)
{
	struct moetap_plan *plan;
	struct moetap_error error;

	if (moetap_plan_make(policy, shape, layers, experts, loads, NULL, &plan, &error) < 0)
		fail_msg("%s", error.text);
	return plan;
}

static struct moetap_plan *of_slots(
	const struct moetap_shape *shape, uint32_t layers, uint32_t experts, const uint32_t *slots)
{
	struct moetap_plan *plan;

	assert_int_equal(moetap_plan_from_slots(shape, layers, experts, slots, &plan, NULL), 0);
	return plan;
}

/* ---- activated experts ---- */

static void test_activated_by_hand(void **unused)
{
	const struct moetap_shape shape = {.ranks = 2, .nodes = 1, .slots = 4, .groups = 1};
	const uint32_t slots[2][4] = {{0, 1, 0, 2}, {0, 1, 2, 0}};
	const double loads[2][3] = {{2, 0, 3}, {0, 0, 0}};
	struct moetap_plan *plan = of_slots(&shape, 2, 3, &slots[0][0]);
	double layer[2], mean = moetap_plan_activated(plan, &loads[0][0], layer);

	(void)unused;
	assert_near(mean, layer[0] / 2, 1e-12);
	assert_near(layer[0], 1 - exp(-1) + 1 - exp(-3), 1e-12);
	assert_near(layer[1], 0, 0);
	moetap_plan_free(plan);
}

/* The definition: steps are drawn, and what gets a token is counted. */
static void test_activated_drawn(void **unused)
{
	enum { EXPERTS = 16, STEPS = 4000, TOKENS = 32 };
	const struct moetap_shape shape = {.ranks = 4, .nodes = 1, .slots = 20, .groups = 1};
	double load[EXPERTS], sum = 0, layer, counted[4] = {0};
	struct moetap_plan *plan;
	static struct mix mix;
	uint32_t seed = 17;

	(void)unused;
	mix_zipf(&mix, EXPERTS, 1, 0);
	mix_ready(&mix);
	for (uint32_t e = 0; e < EXPERTS; e++)
		sum += mix.weight[e];
	for (uint32_t e = 0; e < EXPERTS; e++)
		load[e] = TOKENS * mix.weight[e] / sum;
	plan = make("experts", &shape, 1, EXPERTS, load);
	moetap_plan_activated(plan, load, &layer);
	for (uint32_t i = 0; i < STEPS; i++) {
		bool hit[20] = {false};

		for (uint32_t t = 0; t < TOKENS; t++) {
			uint32_t e = mix.slot[next_random(&seed) >> 20];
			uint32_t which = next_random(&seed) % moetap_plan_replicas(plan)[e];

			for (uint32_t s = 0; s < shape.slots; s++)
				if (moetap_plan_slots(plan)[s] == e && which-- == 0)
					hit[s] = true;
		}
		for (uint32_t s = 0; s < shape.slots; s++)
			counted[s / 5] += hit[s];
	}
	for (int r = 1; r < 4; r++)
		counted[0] = fmax(counted[0], counted[r]);
	/* Poisson for a fixed number of tokens: 1 % apart here, and as much of chance */
	assert_near(counted[0] / STEPS / layer, 1, 0.03);
	moetap_plan_free(plan);
}

/* Whatever the loads, `experts` activates no more than the plans for tokens do. */
static void test_activated_least(void **unused)
{
	const struct moetap_shape shapes[] = {
		{.ranks = 8, .nodes = 1, .slots = 72, .groups = 1},
		{.ranks = 8, .nodes = 2, .slots = 72, .groups = 4},
		{.ranks = 16, .nodes = 4, .slots = 128, .groups = 8},
	};
	uint32_t seed = 5, fewer = 0, n = 0;

	(void)unused;
	for (int i = 0; i < 120; i++) {
		const struct moetap_shape *shape = &shapes[i % COUNT(shapes)];
		double load[64], tokens = exp(2 + 6 * next_uniform(&seed)), sum = 0, a, b, c;
		struct moetap_plan *ours, *even, *eplb;

		for (uint32_t e = 0; e < 64; e++)
			sum += load[e] = exp(1.5 * next_normal(&seed));
		for (uint32_t e = 0; e < 64; e++)
			load[e] *= tokens / sum;
		ours = make("experts", shape, 1, 64, load);
		even = make(NULL, shape, 1, 64, load);
		eplb = make("eplb", shape, 1, 64, load);
		a = moetap_plan_activated(ours, load, NULL);
		b = moetap_plan_activated(even, load, NULL);
		c = moetap_plan_activated(eplb, load, NULL);
		assert_int_equal(moetap_plan_doubled(ours), 0);
		assert_true(a <= b * (1 + 1e-9));
		assert_true(a <= c * (1 + 1e-9));
		fewer += a < 0.95 * b;
		n++;
		moetap_plan_free(ours);
		moetap_plan_free(even);
		moetap_plan_free(eplb);
	}
	print_message("5 %% fewer activated experts than with even tokens in %u of %u\n", fewer, n);
	assert_true(fewer > n / 4);
}

/* ---- phases ---- */

enum { LAYERS = 6, EXPERTS = 256, PHASES = 3 };

/** Tokens drawn for shares, `n` a layer. */
static void draw(const double *share, double n, uint32_t *seed, double *loads)
{
	for (uint32_t c = 0; c < LAYERS * EXPERTS; c++)
		loads[c] = fmax(0, n * share[c] + sqrt(n * share[c]) * next_normal(seed));
}

/* Phases that differ by a total variation of about 0.16, as prefill and decode of DeepSeek-V3 do.
 */
static void make_phases(double share[PHASES][LAYERS * EXPERTS], uint32_t *seed)
{
	for (uint32_t c = 0; c < LAYERS * EXPERTS; c++) {
		double common = exp(0.8 * next_normal(seed));

		for (int p = 0; p < PHASES; p++)
			share[p][c] = common * exp(0.3 * next_normal(seed));
	}
	for (int p = 0; p < PHASES; p++)
		for (uint32_t l = 0; l < LAYERS; l++) {
			double sum = 0;

			for (uint32_t e = 0; e < EXPERTS; e++)
				sum += share[p][l * EXPERTS + e];
			for (uint32_t e = 0; e < EXPERTS; e++)
				share[p][l * EXPERTS + e] /= sum;
		}
}

static void test_phases(void **unused)
{
	const struct moetap_shape shape = {.ranks = 32, .nodes = 1, .slots = 288, .groups = 1};
	static double share[PHASES][LAYERS * EXPERTS], loads[LAYERS * EXPERTS];
	const struct moetap_plan *kept[PHASES];
	struct moetap_plan *plan[PHASES];
	struct moetap_balance balance;
	uint32_t seed = 77;
	double other = 0;

	(void)unused;
	make_phases(share, &seed);
	for (int p = 0; p < PHASES; p++) {
		draw(share[p], 1e7, &seed, loads);
		/* Before a phase has a plan, none of the others will do. */
		if (p > 0) {
			assert_true(moetap_plan_pick(kept, (uint32_t)p, loads, &balance) >= 0);
			assert_true(balance.mean_max < 0.85);
			other = fmax(other, balance.mean_max);
		}
		kept[p] = plan[p] = make(NULL, &shape, LAYERS, EXPERTS, loads);
	}
	/* Then each has its own again, for other tokens of the phase. */
	for (int i = 0; i < 30; i++) {
		int p = (int)(next_random(&seed) % PHASES);

		draw(share[p], 1e7, &seed, loads);
		assert_int_equal(moetap_plan_pick(kept, PHASES, loads, &balance), p);
		assert_true(balance.mean_max >= MOETAP_PICK_ENOUGH);
	}
	print_message("a plan of another phase: at most %.3f\n", other);
	for (int p = 0; p < PHASES; p++)
		moetap_plan_free(plan[p]);
}

static void test_pick_refused(void **unused)
{
	const struct moetap_shape shape = {.ranks = 2, .nodes = 1, .slots = 4, .groups = 1};
	const double loads[4] = {1, 2, 3, 4};
	struct moetap_plan *a = make(NULL, &shape, 1, 4, loads);
	struct moetap_plan *b = make(NULL, &shape, 1, 3, loads);
	struct moetap_balance balance;

	(void)unused;
	assert_int_equal(moetap_plan_pick(NULL, 0, loads, &balance), -EINVAL);
	assert_int_equal(
		moetap_plan_pick((const struct moetap_plan *const[]){a, b}, 2, loads, &balance),
		-EINVAL);
	moetap_plan_free(a);
	moetap_plan_free(b);
}

/* ---- between nodes ---- */

static void test_copies_by_hand(void **unused)
{
	const struct moetap_shape shape = {.ranks = 2, .nodes = 2, .slots = 4, .groups = 1};
	const double load[4] = {1, 1, 1, 1};
	struct moetap_plan *kept = of_slots(&shape, 1, 4, (uint32_t[]){0, 1, 2, 3});
	struct moetap_plan *split = of_slots(&shape, 1, 4, (uint32_t[]){0, 2, 1, 3});
	const struct moetap_gate one = {.topk = 2, .groups = 2, .limit = 1};
	const struct moetap_gate both = {.topk = 2, .groups = 2, .limit = 2};
	const struct moetap_gate none = {.topk = 1, .groups = 1, .limit = 1};

	(void)unused;
	/* Two experts of one group: on one node, or of either by chance. Half of it stays home. */
	assert_near(moetap_plan_copies(kept, 0, load, &one), 1 * 0.5, 1e-12);
	assert_near(moetap_plan_copies(split, 0, load, &one), 2 * (1 - 0.25) * 0.5, 1e-12);
	assert_near(moetap_plan_copies(kept, 0, load, &both), 2 * 0.5, 1e-12);
	assert_near(moetap_plan_copies(kept, 0, load, &none), 1 * 0.5, 1e-12);
	/* Of groups that get no tokens, none is taken. */
	assert_near(moetap_plan_copies(kept, 0, (double[]){1, 3, 0, 0}, &one), 0.5, 1e-12);
	moetap_plan_free(kept);
	moetap_plan_free(split);
}

static void test_copies_refused(void **unused)
{
	const struct moetap_shape shape = {.ranks = 2, .nodes = 2, .slots = 4, .groups = 1};
	const double load[4] = {1, 1, 1, 1}, zero[4] = {0};
	struct moetap_plan *plan = of_slots(&shape, 1, 4, (uint32_t[]){0, 1, 2, 3});
	const struct moetap_gate bad[] = {
		{.topk = 2, .groups = 0, .limit = 1},
		{.topk = 2, .groups = 3, .limit = 1},
		{.topk = 2, .groups = 2, .limit = 0},
		{.topk = 2, .groups = 2, .limit = 3},
		{.topk = 1, .groups = 2, .limit = 2},
		{.topk = 3, .groups = 2, .limit = 1},
	};
	const struct moetap_gate good = {.topk = 2, .groups = 2, .limit = 1};

	(void)unused;
	for (size_t i = 0; i < COUNT(bad); i++)
		assert_true(isnan(moetap_plan_copies(plan, 0, load, &bad[i])));
	assert_true(isnan(moetap_plan_copies(plan, 1, load, &good)));
	assert_true(isnan(moetap_plan_copies(plan, 0, zero, &good)));
	moetap_plan_free(plan);
}

/* Groups kept: what a plan costs between nodes is never more than when they are split. */
static void test_copies_of_plans(void **unused)
{
	const struct moetap_shape kept_shape = {.ranks = 8, .nodes = 4, .slots = 72, .groups = 8};
	const struct moetap_shape free_shape = {.ranks = 8, .nodes = 4, .slots = 72, .groups = 1};
	const struct moetap_gate gate = {.topk = 8, .groups = 8, .limit = 4};
	uint32_t seed = 3;

	(void)unused;
	for (int i = 0; i < 50; i++) {
		struct moetap_plan *kept, *split;
		double load[64];

		for (uint32_t e = 0; e < 64; e++)
			load[e] = exp(next_normal(&seed));
		kept = make(NULL, &kept_shape, 1, 64, load);
		split = make(NULL, &free_shape, 1, 64, load);
		assert_true(moetap_plan_copies(kept, 0, load, &gate) <
			    moetap_plan_copies(split, 0, load, &gate));
		assert_true(moetap_plan_copies(split, 0, load, &gate) <= 3);
		moetap_plan_free(kept);
		moetap_plan_free(split);
	}
}

/* With groups kept, no rank can be below the mean of the busiest node: plans are at that bound. */
static void test_groups_bound(void **unused)
{
	const struct moetap_shape shape = {.ranks = 32, .nodes = 8, .slots = 320, .groups = 8};
	uint32_t seed = 8;

	(void)unused;
	for (int i = 0; i < 40; i++) {
		double load[EXPERTS], most = 0, sum = 0;
		struct moetap_balance balance;
		struct moetap_plan *plan;

		for (uint32_t g = 0; g < 8; g++) {
			double node = 0;

			for (uint32_t e = 32 * g; e < 32 * g + 32; e++)
				node += load[e] = exp(0.7 * next_normal(&seed));
			most = fmax(most, node);
			sum += node;
		}
		plan = make(NULL, &shape, 1, EXPERTS, load);
		moetap_plan_balance(plan, load, &balance, NULL);
		assert_true(balance.mean_max <= sum / 8 / most * (1 + 1e-9));
		assert_true(balance.mean_max >= sum / 8 / most * 0.999);
		moetap_plan_free(plan);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_activated_by_hand),
		cmocka_unit_test(test_activated_drawn),
		cmocka_unit_test(test_activated_least),
		cmocka_unit_test(test_phases),
		cmocka_unit_test(test_pick_refused),
		cmocka_unit_test(test_copies_by_hand),
		cmocka_unit_test(test_copies_refused),
		cmocka_unit_test(test_copies_of_plans),
		cmocka_unit_test(test_groups_bound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
