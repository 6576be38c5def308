/* SPDX-License-Identifier: BSD-3-Clause */
/* Plans held against the placement in force on steps that they do not know. */
#include "loads.h"

static const struct moetap_shape shape = {.ranks = 2, .nodes = 1, .slots = 4, .groups = 1};

static struct moetap_plan *plan_of(const uint32_t *slot)
{
	struct moetap_plan *plan;

	assert_int_equal(moetap_plan_from_slots(&shape, 1, 4, slot, &plan, NULL), 0);
	return plan;
}

static void add(struct moetap_series *series, int64_t step, const double *load)
{
	assert_int_equal(moetap_series_add_round(series, step, 0, load, 0, NULL), 0);
}

/* 7 of 10 tokens on the busiest rank in force, 5 as planned; in the last two steps both have 5. */
static void test_by_hand(void **unused)
{
	struct moetap_series *series = series_of(1, 4, 0);
	struct moetap_plan *current = plan_of((uint32_t[]){0, 1, 2, 3});
	struct moetap_plan *plan = plan_of((uint32_t[]){0, 3, 2, 1});
	struct moetap_trial t;

	(void)unused;
	for (int step = 0; step < 18; step++)
		add(series, step, step < 16 ? (double[]){4, 3, 2, 1} : (double[]){1, 4, 1, 4});
	assert_int_equal(moetap_trial_judge(series, current, plan, 0, 15, &t), 0);
	assert_near(t.gain, 2 / 7.0, 1e-12);
	assert_near(t.low, 2 / 7.0, 1e-12); /* all steps alike */
	assert_near(t.high, 2 / 7.0, 1e-12);
	assert_near(t.before, 5 / 7.0, 1e-12);
	assert_near(t.after, 1, 1e-12);
	assert_near(t.busiest, 0.7, 1e-12);
	assert_int_equal(t.steps, 16);
	/* Batches of two: six save 4, one nothing; 2 x Student's t x their deviation / sqrt(8). */
	assert_int_equal(moetap_trial_judge(series, current, plan, 2, 17, &t), 0);
	assert_near(t.gain, 28.0 / 108, 1e-12);
	assert_near(t.gain - t.low, 8 * 1.415 * 4 / 8 / 108, 1e-12);
	assert_near(t.high - t.gain, t.gain - t.low, 1e-12);
	assert_int_equal(moetap_trial_judge(series, current, plan, 0, 6, &t), -ENODATA);
	assert_int_equal(moetap_trial_judge(series, current, plan, 20, 90, &t), -ENODATA);
	moetap_plan_free(plan);
	moetap_plan_free(current);
	moetap_series_free(series);
}

static void test_refused(void **unused)
{
	struct moetap_series *series = series_of(1, 5, 0), *idle = series_of(1, 4, 0);
	struct moetap_plan *plan = plan_of((uint32_t[]){0, 1, 2, 3});
	struct moetap_trial t;

	(void)unused;
	for (int step = 0; step < 20; step++) {
		add(series, step, (double[]){1, 1, 1, 1, 1});
		add(idle, step, (double[]){0, 0, 0, 0});
	}
	assert_int_equal(moetap_trial_judge(series, plan, plan, 0, 19, &t), -EINVAL);
	assert_int_equal(moetap_trial_judge(idle, plan, plan, 0, 19, &t), -ENODATA);
	moetap_plan_free(plan);
	moetap_series_free(idle);
	moetap_series_free(series);
}

/* What is saved fluctuates, and wanders over some steps: the truth lies in about 80 % of the
 * intervals. Of 1,000, 80 % are 800, give or take 13; a wander of 5 steps in batches of 50 costs
 * little. */
static void test_interval(void **unused)
{
	enum { STEPS = 400, TRIALS = 1000 };
	struct moetap_plan *current = plan_of((uint32_t[]){0, 1, 2, 3});
	struct moetap_plan *plan = plan_of((uint32_t[]){0, 3, 2, 1});
	uint32_t seed = 5, held = 0;

	(void)unused;
	for (int i = 0; i < TRIALS; i++) {
		struct moetap_series *series = series_of(1, 4, 0);
		struct moetap_trial t;
		double wander = 0;

		for (int step = 0; step < STEPS; step++) {
			double more;

			wander = 0.8 * wander + 3 * next_normal(&seed);
			more = fmin(fmax(wander, -30), 30);
			/* In force: 170 + more of 200 on rank 0; planned: 100 each. */
			add(series, step, (double[]){100, 70 + more, 30 - more, 0});
		}
		assert_int_equal(moetap_trial_judge(series, current, plan, 0, STEPS - 1, &t), 0);
		held += t.low * t.busiest <= 70.0 / 200 && 70.0 / 200 <= t.high * t.busiest;
		moetap_series_free(series);
	}
	print_message("%u of %d intervals hold the truth\n", held, TRIALS);
	assert_in_range(held, 740, 860);
	moetap_plan_free(plan);
	moetap_plan_free(current);
}

/* Of the plans that were made, the one in whose trial most was saved in all. */
static void test_best(void **unused)
{
	struct moetap_series *series = series_of(1, 4, 0);
	struct moetap_plan *current = plan_of((uint32_t[]){0, 1, 2, 3});
	struct moetap_plan *good = plan_of((uint32_t[]){0, 3, 2, 1});
	struct moetap_trials *trials;
	struct moetap_trial t;

	(void)unused;
	for (int step = 0; step < 200; step++)
		add(series, step, (double[]){4, 3, 2, 1});
	assert_int_equal(moetap_trials_new(&trials), 0);
	assert_int_equal(moetap_trials_best(trials, series, 199, current, &t), -ENODATA);
	/* Shares are alike at all steps, so both are the same; the older one saved longer. */
	assert_int_equal(moetap_trials_add(trials, 99, good), 0);
	assert_int_equal(moetap_trials_add(trials, 174, good), 0);
	assert_int_equal(moetap_trials_best(trials, series, 199, current, &t), 0);
	assert_int_equal(t.first, 100);
	assert_int_equal(t.last, 199);
	/* The plan itself in force: nothing is saved. */
	assert_int_equal(moetap_trials_best(trials, series, 199, good, &t), 0);
	assert_near(t.gain, 0, 1e-12);
	moetap_trials_free(trials);
	/* More than are kept: the oldest are forgotten. */
	assert_int_equal(moetap_trials_new(&trials), 0);
	for (int64_t step = 0; step < 200; step++)
		assert_int_equal(moetap_trials_add(trials, step, good), 0);
	assert_int_equal(moetap_trials_best(trials, series, 199, current, &t), 0);
	assert_int_equal(t.first, 100);
	moetap_trials_free(trials);
	moetap_plan_free(good);
	moetap_plan_free(current);
	moetap_series_free(series);
}

/* Plans of earlier steps know nothing of later ones: loads change over at step 400, and a plan
 * made before that saves nothing after it. */
static void test_replay(void **unused)
{
	struct moetap_series *series = series_of(1, 4, 0);
	struct moetap_plan *current = plan_of((uint32_t[]){0, 1, 2, 3});
	struct moetap_forecaster *forecaster;
	struct moetap_trials *trials;
	struct moetap_trial t;

	(void)unused;
	for (int step = 0; step < 500; step++)
		add(series, step, step < 400 ? (double[]){4, 3, 2, 1} : (double[]){4, 1, 4, 1});
	for (int last = 399; last <= 499; last += 100) {
		assert_int_equal(moetap_trials_new(&trials), 0);
		assert_int_equal(moetap_forecaster_new("last", 0, &forecaster, NULL), 0);
		assert_int_equal(moetap_trials_replay(trials, series, last, current, NULL,
					 forecaster, 100, NULL),
			0);
		moetap_forecaster_free(forecaster);
		assert_int_equal(moetap_trials_best(trials, series, last, current, &t), 0);
		if (last == 399) {
			assert_int_equal(t.first, 200); /* 100 before would be 299: 200 is longer */
			assert_near(t.gain, 2 / 7.0, 1e-12);
		} else {
			assert_true(t.low <= 0.2);
		}
		moetap_trials_free(trials);
	}
	moetap_plan_free(current);
	moetap_series_free(series);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_by_hand),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_interval),
		cmocka_unit_test(test_best),
		cmocka_unit_test(test_replay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
