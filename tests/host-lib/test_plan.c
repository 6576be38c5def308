/* SPDX-License-Identifier: BSD-3-Clause */
#include "common.h"

/** The example of EPLB's README: 2 layers, 12 experts in 4 groups; 16 slots, 2 nodes, 8 ranks. */
static const double readme[2][12] = {
	{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
	{20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27},
};
static const struct moetap_shape readme_shape = {.ranks = 8, .nodes = 2, .slots = 16, .groups = 4};
/** The placement published there. */
static const uint32_t readme_slots[2][16] = {
	{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1},
	{7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1},
};

static struct moetap_plan *make(const char *policy, const struct moetap_shape *shape,
	uint32_t layers, uint32_t experts, const double *loads, const struct moetap_plan *current)
{
	struct moetap_plan *plan;
	struct moetap_error error;

	if (moetap_plan_make(policy, shape, layers, experts, loads, current, &plan, &error) < 0)
		fail_msg("%s", error.text);
	return plan;
}

/** mean / max of rank loads, from the slots alone. */
static double balancedness(const uint32_t *slot, const struct moetap_shape *shape, uint32_t experts,
	const double *load)
{
	uint32_t per_rank = shape->slots / shape->ranks, count[64] = {0};
	double most = 0, sum = 0;

	assert_true(experts <= COUNT(count));
	for (uint32_t s = 0; s < shape->slots; s++)
		count[slot[s]]++;
	for (uint32_t r = 0; r < shape->ranks; r++) {
		double rank = 0;

		for (uint32_t s = r * per_rank; s < (r + 1) * per_rank; s++)
			rank += load[slot[s]] / count[slot[s]];
		most = fmax(most, rank);
		sum += rank;
	}
	return most > 0 ? sum / shape->ranks / most : 1;
}

/** Whether a rank holds an expert twice, from the slots alone. */
static bool doubles(const uint32_t *slot, const struct moetap_shape *shape)
{
	uint32_t per_rank = shape->slots / shape->ranks;

	for (uint32_t s = 0; s < shape->slots; s++) {
		for (uint32_t t = s + 1; t < shape->slots && t / per_rank == s / per_rank; t++) {
			if (slot[s] == slot[t])
				return true;
		}
	}
	return false;
}

static void test_readme(void **unused)
{
	struct moetap_plan *ours = make(NULL, &readme_shape, 2, 12, &readme[0][0], NULL);
	struct moetap_plan *eplb = make("eplb", &readme_shape, 2, 12, &readme[0][0], NULL);

	(void)unused;
	assert_true(moetap_plan_hierarchical(ours));
	/* `eplb` is EPLB: slot by slot what its README prints. */
	assert_memory_equal(moetap_plan_slots(eplb), readme_slots, sizeof(readme_slots));
	for (int l = 0; l < 2; l++) {
		const uint32_t *slot = moetap_plan_slots(ours) + 16 * l;

		assert_false(doubles(slot, &readme_shape));
		assert_true(balancedness(slot, &readme_shape, 12, readme[l]) >=
			    balancedness(readme_slots[l], &readme_shape, 12, readme[l]));
	}
	moetap_plan_free(ours);
	moetap_plan_free(eplb);
}

/** A random instance that has room. */
static void pick_instance(uint32_t *seed, struct moetap_shape *shape, uint32_t *experts,
	double *loads, uint32_t layers)
{
	double skew = 4 * next_uniform(seed);

	do {
		shape->nodes = 1u << next_random(seed) % 3;
		shape->ranks = shape->nodes * (1 + next_random(seed) % 4);
		shape->groups =
			next_random(seed) % 2 ? 1 : shape->nodes * (1 + next_random(seed) % 3);
		*experts = shape->groups * (1 + next_random(seed) % 8);
		shape->slots = shape->ranks * (1 + next_random(seed) % 6);
	} while (*experts > 64 || shape->slots < *experts ||
		 shape->slots / shape->ranks > *experts / (shape->groups > 1 ? shape->nodes : 1));
	for (uint32_t c = 0; c < layers * *experts; c++)
		loads[c] = next_random(seed) % 10 ? floor(exp(skew * next_uniform(seed)) * 100) : 0;
}

/** Every expert has a slot, the counts are right, no doubles, groups on one node. */
static void check_valid(const struct moetap_plan *plan, uint32_t layer,
	const struct moetap_shape *shape, uint32_t experts)
{
	const uint32_t *slot = moetap_plan_slots(plan) + (size_t)layer * shape->slots;
	const uint32_t *replicas = moetap_plan_replicas(plan) + (size_t)layer * experts;
	uint32_t count[64] = {0}, node_of_group[64];

	assert_false(doubles(slot, shape));
	memset(node_of_group, 0xff, sizeof(node_of_group));
	for (uint32_t s = 0; s < shape->slots; s++) {
		uint32_t node = s / (shape->slots / shape->nodes), group;

		assert_true(slot[s] < experts);
		count[slot[s]]++;
		group = slot[s] / (experts / shape->groups);
		if (shape->groups == 1)
			continue;
		assert_true(node_of_group[group] == UINT32_MAX || node_of_group[group] == node);
		node_of_group[group] = node;
	}
	for (uint32_t e = 0; e < experts; e++) {
		assert_true(count[e] > 0);
		assert_int_equal(count[e], replicas[e]);
	}
}

static void test_random_instances(void **unused)
{
	enum { INSTANCES = 2000, LAYERS = 2 };
	uint32_t seed = 20240425, compared = 0, better = 0;

	(void)unused;
	for (int i = 0; i < INSTANCES; i++) {
		double loads[LAYERS * 64], layer[LAYERS];
		struct moetap_shape shape;
		struct moetap_balance balance;
		struct moetap_plan *ours, *eplb;
		uint32_t experts;

		pick_instance(&seed, &shape, &experts, loads, LAYERS);
		ours = make(NULL, &shape, LAYERS, experts, loads, NULL);
		eplb = make("eplb", &shape, LAYERS, experts, loads, NULL);
		moetap_plan_balance(ours, loads, &balance, layer);
		assert_int_equal(moetap_plan_doubled(ours), 0);
		for (uint32_t l = 0; l < LAYERS; l++) {
			const double *load = loads + l * experts;
			const uint32_t *theirs = moetap_plan_slots(eplb) + l * shape.slots;

			check_valid(ours, l, &shape, experts);
			assert_near(layer[l],
				balancedness(moetap_plan_slots(ours) + l * shape.slots, &shape,
					experts, load),
				1e-12);
			/* Where EPLB keeps the rule too, ours is at least as balanced. */
			if (doubles(theirs, &shape))
				continue;
			compared++;
			assert_true(layer[l] >=
				    balancedness(theirs, &shape, experts, load) * (1 - 1e-9));
			better +=
				layer[l] > balancedness(theirs, &shape, experts, load) * (1 + 1e-9);
		}
		moetap_plan_free(ours);
		moetap_plan_free(eplb);
	}
	print_message("%u layers compared with eplb, more balanced in %u\n", compared, better);
	assert_true(compared > INSTANCES / 2);
	assert_true(better > compared / 10);
}

/* ---- against the best of all placements ---- */

/** Search through all placements of a small global instance. */
struct exhaustive {
	struct moetap_shape shape;
	uint32_t experts;
	const double *load;
	uint32_t sets[256], count; /**< what a rank may hold, as bits */
	uint32_t slot[16];
	double best;
};

static void try_all(struct exhaustive *x, uint32_t rank, uint32_t from)
{
	uint32_t per_rank = x->shape.slots / x->shape.ranks;

	if (rank == x->shape.ranks) {
		uint32_t held = 0;

		for (uint32_t s = 0; s < x->shape.slots; s++)
			held |= 1u << x->slot[s];
		if (held == (1u << x->experts) - 1)
			x->best = fmax(
				x->best, balancedness(x->slot, &x->shape, x->experts, x->load));
		return;
	}
	/* Ranks are alike, so their sets may be taken in rising order. */
	for (uint32_t i = from; i < x->count; i++) {
		uint32_t s = rank * per_rank;

		for (uint32_t e = 0; e < x->experts; e++) {
			if (x->sets[i] >> e & 1)
				x->slot[s++] = e;
		}
		try_all(x, rank + 1, i);
	}
}

static double best_balancedness(
	const struct moetap_shape *shape, uint32_t experts, const double *load)
{
	struct exhaustive x = {.shape = *shape, .experts = experts, .load = load};

	for (uint32_t set = 0; set < 1u << experts; set++) {
		if ((uint32_t)__builtin_popcount(set) == shape->slots / shape->ranks)
			x.sets[x.count++] = set;
	}
	try_all(&x, 0, 0);
	return x.best;
}

static void test_near_optimum(void **unused)
{
	enum { INSTANCES = 300 };
	uint32_t seed = 31, optimal = 0;
	double gap = 0;

	(void)unused;
	for (int i = 0; i < INSTANCES; i++) {
		struct moetap_shape shape = {.nodes = 1, .groups = 1};
		struct moetap_balance balance;
		double load[7], ours, best;
		struct moetap_plan *plan;
		uint32_t experts;

		do {
			experts = 2 + next_random(&seed) % 6;
			shape.ranks = 2 + next_random(&seed) % 3;
			shape.slots = shape.ranks * (1 + next_random(&seed) % 4);
		} while (shape.slots < experts || shape.slots / shape.ranks > experts);
		for (uint32_t e = 0; e < experts; e++)
			load[e] = floor(exp(3 * next_uniform(&seed)) * 10);
		plan = make(NULL, &shape, 1, experts, load, NULL);
		moetap_plan_balance(plan, load, &balance, &ours);
		best = best_balancedness(&shape, experts, load);
		assert_true(ours <= best * (1 + 1e-9));
		optimal += ours >= best * (1 - 1e-9);
		gap += (best - ours) / INSTANCES;
		moetap_plan_free(plan);
	}
	print_message("optimal in %u of %u small instances, %.5f below on average\n", optimal,
		INSTANCES, gap);
	assert_true(optimal >= INSTANCES * 9 / 10);
	assert_true(gap < 0.001);
}

/* ---- the rest ---- */

static void test_deterministic(void **unused)
{
	const struct moetap_shape shape = {.ranks = 6, .nodes = 1, .slots = 30, .groups = 1};
	double loads[24];
	uint32_t seed = 3;

	(void)unused;
	for (size_t e = 0; e < COUNT(loads); e++)
		loads[e] = next_random(&seed) % 1000;
	struct moetap_plan *a = make(NULL, &shape, 1, 24, loads, NULL);
	struct moetap_plan *b = make(NULL, &shape, 1, 24, loads, NULL);

	assert_memory_equal(moetap_plan_slots(a), moetap_plan_slots(b), 30 * sizeof(uint32_t));
	moetap_plan_free(a);
	moetap_plan_free(b);
}

static void test_refused(void **unused)
{
	static const struct {
		struct moetap_shape shape;
		uint32_t experts;
		const char *what;
	} bad[] = {
		{{8, 2, 15, 4}, 12, "evenly over 8 ranks; the next number that can is 16"},
		{{8, 2, 8, 4}, 12, "8 slots do not hold 12 experts"},
		{{8, 3, 16, 4}, 12, "evenly over 3 nodes"},
		{{8, 2, 16, 5}, 12, "12 experts cannot be split into 5"},
		{{2, 1, 8, 1}, 3, "at most 6 slots"},
		{{4, 2, 16, 2}, 6, "at most 12 slots"},
		{{0, 1, 8, 1}, 3, "at least 1"},
		{{4, 0, 8, 1}, 3, "at least 1"},
		{{4, 1, 0, 1}, 3, "at least 1"},
		{{4, 1, 8, 0}, 3, "at least 1"},
	};
	const struct moetap_shape shape = {2, 1, 4, 1};
	const double loads[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
	struct moetap_plan *plan, *current = make(NULL, &readme_shape, 2, 12, &readme[0][0], NULL);
	struct moetap_error error;

	(void)unused;
	for (size_t i = 0; i < COUNT(bad); i++) {
		assert_int_equal(moetap_plan_make(NULL, &bad[i].shape, 1, bad[i].experts, loads,
					 NULL, &plan, &error),
			-EINVAL);
		if (strstr(error.text, bad[i].what) == NULL)
			fail_msg("case %zu: '%s' lacks '%s'", i, error.text, bad[i].what);
	}
	assert_int_equal(
		moetap_plan_make("best", &shape, 1, 4, loads, NULL, &plan, &error), -EINVAL);
	assert_int_equal(
		moetap_plan_make(NULL, &shape, 1, 4, (double[]){1, NAN, 1, 1}, NULL, &plan, &error),
		-EINVAL);
	assert_non_null(strstr(error.text, "expert 1"));
	assert_int_equal(
		moetap_plan_make(NULL, &shape, 1, 4, (double[]){1, 1, 1, -2}, NULL, &plan, &error),
		-EINVAL);
	assert_int_equal(
		moetap_plan_make(NULL, &shape, 1, 4, loads, current, &plan, &error), -EINVAL);
	assert_non_null(strstr(error.text, "current"));
	assert_int_equal(
		moetap_plan_from_slots(&shape, 1, 4, (uint32_t[]){0, 1, 2, 4}, &plan, &error),
		-EINVAL);
	assert_int_equal(
		moetap_plan_from_slots(&shape, 1, 4, (uint32_t[]){0, 1, 2, 2}, &plan, &error),
		-EINVAL);
	assert_non_null(strstr(error.text, "expert 3 has no slot"));
	moetap_plan_free(current);
}

/* Full, empty and one-sided instances. */
static void test_corners(void **unused)
{
	static const struct {
		struct moetap_shape shape;
		uint32_t experts;
		double load[8];
	} cases[] = {
		{{1, 1, 1, 1}, 1, {5}}, {{4, 1, 4, 1}, 1, {5}}, /* one expert everywhere */
		{{2, 1, 8, 1}, 4, {1, 2, 3, 4}},		/* all experts on all ranks */
		{{2, 2, 8, 2}, 8, {1, 1, 1, 1, 9, 9, 9, 9}},	/* a node a rank */
		{{4, 1, 8, 1}, 8, {0, 0, 0, 0, 0, 0, 0, 0}},	/* no tokens */
		{{4, 1, 8, 1}, 8, {9, 0, 0, 0, 0, 0, 0, 0}},	/* all tokens for one */
		{{4, 2, 12, 2}, 8, {0, 0, 0, 0, 9, 1, 1, 1}},	/* an idle node */
	};

	(void)unused;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct moetap_plan *plan =
			make(NULL, &cases[i].shape, 1, cases[i].experts, cases[i].load, NULL);

		check_valid(plan, 0, &cases[i].shape, cases[i].experts);
		moetap_plan_free(plan);
	}
}

static void test_balance_by_hand(void **unused)
{
	const struct moetap_shape shape = {.ranks = 2, .nodes = 1, .slots = 4, .groups = 1};
	/* Layer 0: expert 0 twice. Rank loads 3 + 1 and 3 + 5. Layer 1: 4 and 2. Layer 2: none. */
	const uint32_t slots[3][4] = {{0, 1, 0, 2}, {0, 1, 2, 0}, {0, 1, 2, 0}};
	const double loads[3][3] = {{6, 1, 5}, {2, 3, 1}, {0, 0, 0}};
	struct moetap_balance balance;
	struct moetap_plan *plan;
	double layer[3];

	(void)unused;
	assert_int_equal(moetap_plan_from_slots(&shape, 3, 3, &slots[0][0], &plan, NULL), 0);
	moetap_plan_balance(plan, &loads[0][0], &balance, layer);
	assert_near(layer[0], 6.0 / 8, 1e-12);
	assert_near(layer[1], 3.0 / 4, 1e-12);
	assert_near(layer[2], 1, 0);
	assert_near(balance.mean_max, 0.75, 1e-12);
	assert_near(balance.sums, (6.0 + 3) / (8 + 4), 1e-12);
	assert_near(balance.excess, (2.0 / 6 + 1.0 / 3) / 2, 1e-12);
	moetap_plan_free(plan);
}

static void test_current(void **unused)
{
	const struct moetap_shape shape = {.ranks = 2, .nodes = 1, .slots = 6, .groups = 1};
	const uint32_t before[6] = {3, 0, 1, 2, 4, 0}, after[6] = {0, 5, 3, 4, 1, 2};
	const double loads[6] = {1, 1, 1, 1, 1, 1};
	struct moetap_plan *trivial, *a, *b, *kept;

	(void)unused;
	assert_int_equal(moetap_plan_from_slots(&shape, 1, 5, before, &a, NULL), 0);
	assert_int_equal(moetap_plan_from_slots(&shape, 1, 6, after, &b, NULL), 0);
	assert_int_equal(moetap_plan_moves(b, a), -EINVAL);
	moetap_plan_free(a);
	assert_int_equal(moetap_plan_trivial(&shape, 1, 6, &a, NULL), 0);
	/* Trivial: 0 1 2 | 3 4 5. After: rank 0 got 5 and 3, rank 1 got 1 and 2. */
	assert_int_equal(moetap_plan_moves(b, a), 4);
	assert_int_equal(moetap_plan_moves(a, a), 0);
	/* Experts that stay on their rank stay in their slot. */
	kept = make(NULL, &shape, 1, 6, loads, b);
	check_valid(kept, 0, &shape, 6);
	for (int s = 0; s < 6; s++) {
		for (int t = s / 3 * 3; t < s / 3 * 3 + 3; t++) {
			if (moetap_plan_slots(kept)[s] == after[t])
				assert_int_equal(s, t);
		}
	}
	assert_int_equal(
		moetap_plan_trivial(&(struct moetap_shape){2, 1, 8, 1}, 1, 6, &trivial, NULL), 0);
	assert_memory_equal(moetap_plan_slots(trivial), ((uint32_t[]){0, 1, 2, 3, 4, 5, 0, 1}),
		8 * sizeof(uint32_t));
	moetap_plan_free(trivial);
	moetap_plan_free(kept);
	moetap_plan_free(a);
	moetap_plan_free(b);
}

/* The same on random instances: whatever was in force, a plan is hardly less even than one from
 * scratch, and an expert that is still on its rank is in its slot. */
static void test_current_random(void **unused)
{
	uint32_t seed = 5, stayed = 0;

	(void)unused;
	for (int i = 0; i < 300; i++) {
		double loads[2 * 64];
		struct moetap_plan *current, *free_plan, *plan;
		struct moetap_balance a, b;
		struct moetap_shape shape;
		uint32_t experts, per_rank;

		pick_instance(&seed, &shape, &experts, loads, 2);
		current = make("eplb", &shape, 1, experts, loads + experts, NULL);
		free_plan = make(NULL, &shape, 1, experts, loads, NULL);
		plan = make(NULL, &shape, 1, experts, loads, current);
		check_valid(plan, 0, &shape, experts);
		moetap_plan_balance(free_plan, loads, &a, NULL);
		moetap_plan_balance(plan, loads, &b, NULL);
		assert_true(b.mean_max * 1.008 >= a.mean_max * (1 - 1e-9));
		per_rank = shape.slots / shape.ranks;
		for (uint32_t s = 0; s < shape.slots; s++) {
			const uint32_t *before = moetap_plan_slots(current);
			uint32_t expert = moetap_plan_slots(plan)[s], found = 0;

			for (uint32_t t = s / per_rank * per_rank;
				t < (s / per_rank + 1) * per_rank; t++)
				found += before[t] == expert;
			if (found == 0)
				continue;
			assert_int_equal(before[s], expert);
			stayed++;
		}
		moetap_plan_free(current);
		moetap_plan_free(free_plan);
		moetap_plan_free(plan);
	}
	assert_true(stayed > 1000);
}

/* Loads that change by a percent: hardly anything moves, and ranks stay even. */
static void test_noise(void **unused)
{
	enum { LAYERS = 8, EXPERTS = 256 };
	const struct moetap_shape shapes[] = {
		{.ranks = 32, .nodes = 1, .slots = 288, .groups = 1},
		{.ranks = 64, .nodes = 8, .slots = 320, .groups = 1},
	};
	static double loads[LAYERS * EXPERTS], later[LAYERS * EXPERTS];
	uint32_t seed = 9;

	(void)unused;
	for (uint32_t c = 0; c < LAYERS * EXPERTS; c++) {
		double noise = next_uniform(&seed) + next_uniform(&seed) + next_uniform(&seed) +
			       next_uniform(&seed) - 2; /* of variance 1/3 */

		loads[c] = floor(exp(3 * next_uniform(&seed)) * 1000);
		later[c] = loads[c] * (1 + 0.01 * sqrt(3) * noise);
	}
	for (size_t i = 0; i < COUNT(shapes); i++) {
		struct moetap_plan *current = make(NULL, &shapes[i], LAYERS, EXPERTS, loads, NULL);
		struct moetap_plan *plan =
			make(NULL, &shapes[i], LAYERS, EXPERTS, later, current);
		struct moetap_balance balance;
		double layer[LAYERS];

		moetap_plan_balance(plan, later, &balance, layer);
		for (uint32_t l = 0; l < LAYERS; l++)
			assert_true(layer[l] >= 0.99);
		assert_true(moetap_plan_moves(plan, current) * 50 <=
			    (int64_t)LAYERS * shapes[i].slots);
		moetap_plan_free(current);
		moetap_plan_free(plan);
	}
}

/* Two busy groups must be parted, and the search near what is in force does not part groups. Of a
 * plan from scratch, ranks and nodes are then put where most is in place already. */
static void test_order(void **unused)
{
	const struct moetap_shape shape = {.ranks = 4, .nodes = 2, .slots = 8, .groups = 4};
	const uint32_t in_force[2][8] = {{6, 4, 5, 7, 3, 1, 2, 0}, {3, 1, 2, 0, 6, 4, 5, 7}};
	const double loads[8] = {50, 51, 52, 53, 1, 2, 3, 4};

	(void)unused;
	for (int i = 0; i < 2; i++) { /* either node first: a plan from scratch has one order */
		struct moetap_plan *current, *plan;
		struct moetap_balance balance;

		assert_int_equal(
			moetap_plan_from_slots(&shape, 1, 8, in_force[i], &current, NULL), 0);
		plan = make(NULL, &shape, 1, 8, loads, current);
		check_valid(plan, 0, &shape, 8);
		moetap_plan_balance(plan, loads, &balance, NULL);
		assert_true(balance.mean_max > 0.98);
		assert_int_equal(moetap_plan_moves(plan, current), 4);
		moetap_plan_free(current);
		moetap_plan_free(plan);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_readme),
		cmocka_unit_test(test_random_instances),
		cmocka_unit_test(test_near_optimum),
		cmocka_unit_test(test_deterministic),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_corners),
		cmocka_unit_test(test_balance_by_hand),
		cmocka_unit_test(test_current),
		cmocka_unit_test(test_current_random),
		cmocka_unit_test(test_noise),
		cmocka_unit_test(test_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
