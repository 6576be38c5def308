/* SPDX-License-Identifier: BSD-3-Clause */
/* What a move must bring before it is advised. */
#include "common.h"

/** One layer of settled loads, and a forecast of it whose intervals the test may set. */
struct scene {
	struct moetap_series *series;
	struct moetap_state *state;
	struct moetap_forecast *forecast;
	double *share, *low, *high;
};

#define STEPS 500

static void scene_open(struct scene *s, const double *load, uint32_t experts, uint32_t horizon)
{
	s->series = series_of(1, experts, 0);
	for (int step = 0; step < STEPS; step++)
		assert_int_equal(moetap_series_add_round(s->series, step, 0, load, 0, NULL), 0);
	assert_int_equal(moetap_state_new(1, &s->state), 0);
	assert_int_equal(moetap_state_update(s->state, s->series, STEPS - 1), 0);
	assert_true(moetap_state_stable(s->state, NULL));
	assert_int_equal(moetap_forecast_make(s->series, STEPS - 1, "sw_avg", horizon, 0, &s->forecast,
				 NULL),
		0);
	s->share = (double *)(uintptr_t)moetap_forecast_share(s->forecast);
	s->low = (double *)(uintptr_t)moetap_forecast_low(s->forecast);
	s->high = (double *)(uintptr_t)moetap_forecast_high(s->forecast);
}

static void scene_close(struct scene *s)
{
	moetap_forecast_free(s->forecast);
	moetap_state_free(s->state);
	moetap_series_free(s->series);
}

static struct moetap_plan *plan_of(
	const struct moetap_shape *shape, uint32_t experts, const uint32_t *slot)
{
	struct moetap_plan *plan;

	assert_int_equal(moetap_plan_from_slots(shape, 1, experts, slot, &plan, NULL), 0);
	return plan;
}

/* Shares 0.4, 0.3, 0.2, 0.1, each 0.05 more or less. In force: rank 0 has experts 0 and 1, 0.7 of
 * the tokens; planned: 0 and 3, 1 and 2, 0.5 each. If rank 0 of the plan is the busiest, it saves
 * expert 1 - expert 3, at least 0.25 - 0.15; if rank 1 is, expert 0 - expert 2, at least
 * 0.35 - 0.25. */
static const struct moetap_shape shape = {.ranks = 2, .nodes = 1, .slots = 4, .groups = 1};
static const double loads[4] = {400, 300, 200, 100};

static void hand_open(struct scene *s, uint32_t horizon, struct moetap_plan *plan[2])
{
	scene_open(s, loads, 4, horizon);
	for (int e = 0; e < 4; e++) {
		s->low[e] = s->share[e] - 0.05;
		s->high[e] = s->share[e] + 0.05;
	}
	plan[0] = plan_of(&shape, 4, (uint32_t[]){0, 1, 2, 3});
	plan[1] = plan_of(&shape, 4, (uint32_t[]){0, 3, 2, 1});
}

static void hand_close(struct scene *s, struct moetap_plan *plan[2])
{
	moetap_plan_free(plan[0]);
	moetap_plan_free(plan[1]);
	scene_close(s);
}

/** An expert takes 1 s to move; every rank of the plan above gets one. A step has 1 s of work. */
static const struct moetap_prices prices = {
	.expert_bytes = 1e9, .inside = 1e9, .outside = 1e8, .token_seconds = 1e-3};
static const double tokens[1] = {1000};

static struct moetap_decision decide(uint32_t horizon, const struct moetap_rule *rule)
{
	struct moetap_decision d;
	struct moetap_plan *plan[2];
	struct scene s;

	hand_open(&s, horizon, plan);
	assert_int_equal(moetap_decide_move(s.state, s.forecast, plan[0], plan[1], rule, &d), 0);
	hand_close(&s, plan);
	return d;
}

static void test_by_hand(void **unused)
{
	struct moetap_rule rule = {.threshold = 0.05, .prices = &prices, .tokens = tokens};
	struct moetap_decision d = decide(20, &rule);

	(void)unused;
	assert_near(d.before, 0.5 / 0.7, 1e-9);
	assert_near(d.after, 1, 1e-9);
	assert_near(d.gain, 0.2 / 0.7, 1e-9);
	assert_near(d.least, 0.1 / 0.7, 1e-9);
	assert_near(d.saved, 0.1 * 1000 * 1e-3 * 20, 1e-9);
	assert_near(d.cost, 1, 1e-12);
	assert_int_equal(d.moves, 2);
}

/* 2 s saved in 20 steps are no more than twice 1 s; 2.1 s in 21 are. */
static void test_margin(void **unused)
{
	struct moetap_rule rule = {.threshold = 0.05, .prices = &prices, .tokens = tokens};
	struct moetap_decision d = decide(20, &rule);

	(void)unused;
	assert_int_equal(d.verdict, MOETAP_KEEP);
	assert_non_null(strstr(d.reason, "no more than 2 times the 1 s of the move"));
	assert_int_equal(decide(21, &rule).verdict, MOETAP_PLAN);
	rule.margin = 3;
	assert_int_equal(decide(30, &rule).verdict, MOETAP_KEEP);
	assert_int_equal(decide(31, &rule).verdict, MOETAP_PLAN);
	rule.threshold = 0.3;
	d = decide(31, &rule);
	assert_int_equal(d.verdict, MOETAP_KEEP);
	assert_non_null(strstr(d.reason, "28.6 %"));
	/* Without prices the threshold alone decides. */
	rule = (struct moetap_rule){.threshold = 0.05};
	d = decide(1, &rule);
	assert_int_equal(d.verdict, MOETAP_PLAN);
	assert_true(d.cost == 0 && d.saved == 0);
}

static void test_interval(void **unused)
{
	struct moetap_rule rule = {.threshold = 0.05, .interval = 6, .last_plan = STEPS - 6};
	struct moetap_decision d = decide(10, &rule);

	(void)unused;
	assert_int_equal(d.verdict, MOETAP_KEEP);
	assert_non_null(strstr(d.reason, "the last plan is 5 steps old, less than 6"));
	rule.interval = 5;
	assert_int_equal(decide(10, &rule).verdict, MOETAP_PLAN);
	rule.interval = 1000;
	rule.last_plan = -1; /* none */
	assert_int_equal(decide(10, &rule).verdict, MOETAP_PLAN);
	rule.last_plan = STEPS; /* of a job before this one */
	assert_int_equal(decide(10, &rule).verdict, MOETAP_PLAN);
}

/* What was moved to is not left for loads that waver by less than the threshold. */
static void test_hysteresis(void **unused)
{
	const struct moetap_rule rule = {.threshold = 0.05};
	const double wavering[2][4] = {{260, 250, 250, 240}, {240, 250, 250, 260}};
	struct moetap_plan *plan, *current;

	(void)unused;
	current = plan_of(&shape, 4, (uint32_t[]){0, 1, 2, 3});
	for (int i = 0; i < 4; i++) {
		struct moetap_decision d;
		struct scene s;

		scene_open(&s, wavering[i % 2], 4, 1000);
		assert_int_equal(moetap_plan_make("eplb", &shape, 1, 4, s.share, current, &plan,
					 NULL),
			0);
		assert_int_equal(
			moetap_decide_move(s.state, s.forecast, current, plan, &rule, &d), 0);
		assert_true(d.moves > 0 && d.gain > 0);
		assert_int_equal(d.verdict, MOETAP_KEEP);
		moetap_plan_free(plan);
		scene_close(&s);
	}
	moetap_plan_free(current);
}

static double largest(const struct moetap_plan *plan, const double *share)
{
	struct moetap_balance b;
	double layer;

	moetap_plan_balance(plan, share, &b, &layer);
	return 1.0 / 4 / layer; /* 4 ranks, shares of sum 1 */
}

/* On random plans and intervals: no shares within them gain less than is said. */
static void test_bound(void **unused)
{
	enum { EXPERTS = 12, SLOTS = 16 };
	const struct moetap_shape four = {.ranks = 4, .nodes = 1, .slots = SLOTS, .groups = 1};
	const struct moetap_rule rule = {.threshold = 0.05};
	uint32_t seed = 11;
	double closest = INFINITY;

	(void)unused;
	for (int i = 0; i < 100; i++) {
		double load[EXPERTS], s[EXPERTS], wide = 0.5 * next_uniform(&seed), least;
		struct moetap_plan *current, *plan;
		struct moetap_decision d;
		struct scene x;

		for (int e = 0; e < EXPERTS; e++)
			load[e] = 1 + floor(exp(5 * next_uniform(&seed)));
		scene_open(&x, load, EXPERTS, 10);
		for (int e = 0; e < EXPERTS; e++) {
			x.low[e] = x.share[e] * (1 - wide * next_uniform(&seed));
			x.high[e] = x.share[e] * (1 + wide * next_uniform(&seed));
		}
		assert_int_equal(moetap_plan_trivial(&four, 1, EXPERTS, &current, NULL), 0);
		assert_int_equal(
			moetap_plan_make(NULL, &four, 1, EXPERTS, load, current, &plan, NULL), 0);
		assert_int_equal(
			moetap_decide_move(x.state, x.forecast, current, plan, &rule, &d), 0);
		least = d.least * largest(current, x.share);
		for (int k = 0; k < 2000; k++) {
			double left = 1, gain;

			for (int e = 0; e < EXPERTS; e++)
				left -= s[e] = x.low[e];
			/* experts in random order, filled up: corners of the set */
			while (left > 1e-15) {
				uint32_t e = next_random(&seed) % EXPERTS;
				double more = fmin(left, x.high[e] - s[e]);

				s[e] += more;
				left -= more;
			}
			gain = largest(current, s) - largest(plan, s);
			assert_true(gain >= least - 1e-12);
			closest = fmin(closest, gain - least);
		}
		moetap_plan_free(plan);
		moetap_plan_free(current);
		scene_close(&x);
	}
	assert_true(closest < 0.01); /* and it is no idle bound */
}

/* A trial of 10 steps in which 0.1 of the 0.7 s a step of the busiest ranks were saved at least:
 * 0.7 s. That pays for a move of 0.6 s, whatever the state and the forecast say; not one of 1 s,
 * nor one that comes too soon, nor one that is forecast to lose. */
static void test_trial(void **unused)
{
	const struct moetap_prices cheap = {
		.expert_bytes = 0.6e9, .inside = 1e9, .outside = 1e8, .token_seconds = 1e-3};
	const struct moetap_trial trial = {
		.first = 490, .last = 499, .busiest = 0.7, .gain = 0.2, .low = 0.1, .high = 0.3};
	struct moetap_rule rule = {
		.threshold = 1, .prices = &cheap, .tokens = tokens, .trial = &trial};
	struct moetap_decision d = decide(1, &rule), back;
	struct moetap_plan *plan[2];
	struct scene s;

	(void)unused;
	assert_int_equal(d.verdict, MOETAP_PLAN);
	assert_near(d.tried, 0.7, 1e-12);
	assert_non_null(strstr(d.reason, "a trial of 10 steps saved at least 0.7 s"));
	rule.margin = 1.2;
	assert_int_equal(decide(1, &rule).verdict, MOETAP_KEEP);
	rule.margin = 0;
	rule.interval = 20;
	rule.last_plan = STEPS - 10;
	assert_int_equal(decide(1, &rule).verdict, MOETAP_KEEP);
	rule.interval = 0;
	hand_open(&s, 1, plan);
	assert_int_equal(moetap_decide_move(s.state, s.forecast, plan[1], plan[0], &rule, &back), 0);
	assert_int_equal(back.verdict, MOETAP_KEEP);
	hand_close(&s, plan);
	rule.prices = &prices;
	assert_int_equal(decide(1, &rule).verdict, MOETAP_KEEP);
	rule.prices = NULL; /* without prices nothing says what was saved */
	assert_int_equal(decide(1, &rule).verdict, MOETAP_KEEP);
}

static void test_refused(void **unused)
{
	const struct moetap_prices free_of_charge = {.inside = 1, .outside = 1};
	const struct moetap_rule bad[] = {
		{.prices = &prices},
		{.prices = &free_of_charge, .tokens = tokens},
		{.margin = -1},
		{.margin = NAN},
	};
	struct moetap_decision d;
	struct moetap_plan *plan[2];
	struct scene s;

	(void)unused;
	hand_open(&s, 10, plan);
	for (size_t i = 0; i < COUNT(bad); i++)
		assert_int_equal(
			moetap_decide_move(s.state, s.forecast, plan[0], plan[1], &bad[i], &d),
			-EINVAL);
	hand_close(&s, plan);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_by_hand),
		cmocka_unit_test(test_margin),
		cmocka_unit_test(test_interval),
		cmocka_unit_test(test_hysteresis),
		cmocka_unit_test(test_bound),
		cmocka_unit_test(test_trial),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
