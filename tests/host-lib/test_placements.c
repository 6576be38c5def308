/* SPDX-License-Identifier: BSD-3-Clause */
/* Jobs that apply plans late, layer by layer and never, and what is known of it. */
#include "common.h"

#include "moetap_hint.h"

#define LAYERS 3
#define EXPERTS 6
#define SLOTS 8
#define PLAN_STEP 199
static const struct moetap_shape shape = {.ranks = 2, .nodes = 1, .slots = SLOTS, .groups = 1};

/** As frameworks start, what the tests' hints plan, and what nobody planned. */
static const uint32_t start[SLOTS] = {0, 1, 2, 3, 4, 5, 0, 1};
static const uint32_t planned[SLOTS] = {5, 0, 4, 2, 5, 1, 3, 4};
static const uint32_t other[SLOTS] = {1, 0, 3, 2, 5, 4, 5, 4};

static char name[MOETAP_HINT_NAME_MAX];

/** A job: what it does is true, what it says is what moetap knows. */
struct job {
	int64_t applied[LAYERS];  /**< step from which a layer is placed anew */
	const uint32_t *placement; /**< so */
	struct moetap_series *slots, *truth;
};

/** Tokens of an expert in a step, the same whichever placement it has; not quite the same each
 * step. */
static double load_of(uint32_t layer, uint32_t expert, uint32_t *seed)
{
	return (expert + 1) * (expert + 1) * 100 + layer * 50 + next_random(seed) % 64 * 2;
}

static void run_steps(struct job *job, int64_t first, int64_t end, uint32_t *seed)
{
	if (job->slots == NULL) {
		job->slots = series_of(LAYERS, SLOTS, 0);
		job->truth = series_of(LAYERS, EXPERTS, 0);
	}
	for (int64_t step = first; step < end; step++)
		for (uint32_t l = 0; l < LAYERS; l++) {
			const uint32_t *held = step >= job->applied[l] ? job->placement : start;
			double expert[EXPERTS], slot[SLOTS] = {0};
			uint32_t replicas[EXPERTS] = {0};

			for (uint32_t s = 0; s < SLOTS; s++)
				replicas[held[s]]++;
			for (uint32_t e = 0; e < EXPERTS; e++)
				expert[e] = load_of(l, e, seed);
			for (uint32_t s = 0; s < SLOTS; s++)
				slot[s] = expert[held[s]] / replicas[held[s]];
			assert_int_equal(moetap_series_add_round(job->slots, step, l, slot,
						 step == 7 ? MOETAP_QUALITY_GAP : 0, NULL),
				0);
			assert_int_equal(moetap_series_add_round(
						 job->truth, step, l, expert, 0, NULL),
				0);
		}
}

static void job_free(struct job *job)
{
	moetap_series_free(job->slots);
	moetap_series_free(job->truth);
}

/** Publishes the plan, or a hint to keep what was in force, after PLAN_STEP. */
static void publish(const struct job *job, enum moetap_verdict verdict)
{
	struct moetap_decision decision = {.verdict = verdict};
	uint32_t slots[LAYERS * SLOTS];
	struct moetap_publisher *publisher;
	struct moetap_forecast *forecast;
	struct moetap_state *state;
	struct moetap_plan *plan;

	for (uint32_t i = 0; i < COUNT(slots); i++)
		slots[i] = (verdict == MOETAP_PLAN ? planned : start)[i % SLOTS];
	assert_int_equal(moetap_plan_from_slots(&shape, LAYERS, EXPERTS, slots, &plan, NULL), 0);
	assert_int_equal(moetap_state_new(LAYERS, &state), 0);
	assert_int_equal(
		moetap_forecast_make(job->truth, PLAN_STEP, NULL, 100, 0, &forecast, NULL), 0);
	assert_int_equal(moetap_publisher_open(name, LAYERS, EXPERTS, &shape, &publisher, NULL), 0);
	assert_int_equal(
		moetap_publisher_publish(publisher, state, forecast, plan, &decision, NULL), 0);
	moetap_publisher_close(publisher);
	moetap_forecast_free(forecast);
	moetap_state_free(state);
	moetap_plan_free(plan);
}

/** The job's answer: the newest hint's placement (or the start's) from a step on. */
static void ack(bool hint, uint32_t layer, int64_t step)
{
	struct moetap_hint_reader reader;
	void *buffer;

	assert_int_equal(moetap_hint_open_ack(&reader, name), 0);
	buffer = malloc(moetap_hint_bytes(&reader));
	assert_non_null(buffer);
	assert_int_equal(moetap_hint_read(&reader, buffer), 0);
	assert_int_equal(moetap_hint_ack(&reader, hint ? buffer : NULL, layer, step), 0);
	free(buffer);
	moetap_hint_close(&reader);
}

static struct moetap_placements *know(const struct job *job)
{
	struct moetap_placements *p;
	struct moetap_error error = {""};

	assert_int_equal(moetap_placements_new(&shape, LAYERS, EXPERTS, &p, NULL), 0);
	if (moetap_placements_read(p, name, &error) < 0 ||
		moetap_placements_check(p, job->slots, &error) < 0)
		fail_msg("%s", error.text);
	return p;
}

/** Loads of experts are the job's, to the last token, in every step up to `last`. */
static void assert_one_series(
	const struct moetap_placements *p, const struct job *job, int64_t last)
{
	struct moetap_series *experts;
	double got[EXPERTS], want[EXPERTS];
	uint32_t quality;

	assert_int_equal(moetap_placements_experts(p, job->slots, &experts, NULL), 0);
	for (int64_t step = 0; step <= last; step++)
		for (uint32_t l = 0; l < LAYERS; l++) {
			assert_int_equal(
				moetap_series_mean_shares(experts, l, step, step, got), 1);
			moetap_series_mean_shares(job->truth, l, step, step, want);
			for (uint32_t e = 0; e < EXPERTS; e++)
				assert_near(got[e], want[e], 1e-12);
		}
	assert_int_equal(moetap_series_flagged(experts, 0, 50, &quality, NULL), LAYERS);
	assert_int_equal(quality, MOETAP_QUALITY_GAP);
	moetap_series_free(experts);
}

static void assert_held(
	const struct moetap_placements *p, uint32_t layer, int64_t step, const uint32_t *slots)
{
	assert_memory_equal(moetap_placements_at(p, layer, step), slots, sizeof(start));
}

/* The plan is for step 200 and comes in force at 230. */
static void test_late(void **unused)
{
	struct job job = {.applied = {230, 230, 230}, .placement = planned};
	struct moetap_placements *p;
	struct moetap_plan *plan;
	uint32_t seed = 5;

	(void)unused;
	run_steps(&job, 0, PLAN_STEP + 1, &seed);
	publish(&job, MOETAP_PLAN);
	run_steps(&job, PLAN_STEP + 1, 225, &seed);
	/* Nothing applied, nothing said: still as at the start. */
	p = know(&job);
	assert_int_equal(moetap_placements_known(p, NULL), MOETAP_KNOWN_START);
	assert_one_series(p, &job, 224);
	moetap_placements_free(p);
	ack(true, MOETAP_HINT_ALL_LAYERS, 230);
	run_steps(&job, 225, 300, &seed);
	p = know(&job);
	assert_int_equal(moetap_placements_known(p, NULL), MOETAP_KNOWN_ACKED);
	assert_held(p, 1, 229, start);
	assert_held(p, 1, 230, planned);
	assert_one_series(p, &job, 299);
	assert_int_equal(moetap_placements_plan(p, &plan, NULL), 0);
	assert_memory_equal(moetap_plan_slots(plan), planned, sizeof(planned));
	moetap_plan_free(plan);
	moetap_placements_free(p);
	job_free(&job);
}

/* A layer every ten steps, and one not at all. */
static void test_layer_by_layer(void **unused)
{
	struct job job = {.applied = {210, 220, INT64_MAX}, .placement = planned};
	struct moetap_placements *p;
	uint32_t seed = 6;

	(void)unused;
	run_steps(&job, 0, PLAN_STEP + 1, &seed);
	publish(&job, MOETAP_PLAN);
	ack(true, 0, 210);
	ack(true, 1, 220);
	run_steps(&job, PLAN_STEP + 1, 300, &seed);
	p = know(&job);
	assert_int_equal(moetap_placements_known(p, NULL), MOETAP_KNOWN_ACKED);
	assert_held(p, 0, 215, planned);
	assert_held(p, 1, 215, start);
	assert_held(p, 2, 299, start);
	assert_one_series(p, &job, 299);
	moetap_placements_free(p);
	/* Back again: the placement that frameworks start with. */
	ack(false, MOETAP_HINT_ALL_LAYERS, 300);
	p = know(&job);
	assert_held(p, 0, 299, planned);
	assert_held(p, 0, 300, start);
	/* A fifth answer pushes the first out; what held before the second is not known then. */
	for (int64_t step = 301; step < 304; step++)
		ack(true, 0, step);
	moetap_placements_free(p);
	p = know(&job);
	assert_null(moetap_placements_at(p, 0, 299));
	assert_held(p, 0, 300, start);
	assert_held(p, 0, 303, planned);
	moetap_placements_free(p);
	job_free(&job);
}

/* It never answers. Once it applied the plan, the traffic shows it, from its very step on. */
static void test_never_noticed(void **unused)
{
	struct job job = {.applied = {240, 260, 240}, .placement = planned};
	struct moetap_placements *p;
	uint32_t seed = 7;

	(void)unused;
	run_steps(&job, 0, PLAN_STEP + 1, &seed);
	publish(&job, MOETAP_PLAN);
	run_steps(&job, PLAN_STEP + 1, 300, &seed);
	p = know(&job);
	assert_int_equal(moetap_placements_known(p, NULL), MOETAP_KNOWN_NOTICED);
	assert_held(p, 0, 239, start);
	assert_held(p, 0, 240, planned);
	assert_held(p, 1, 259, start);
	assert_held(p, 1, 260, planned);
	assert_one_series(p, &job, 299);
	moetap_placements_free(p);
	job_free(&job);
}

/* It never answers, and what it did is not on the page: nothing is known, nothing is made up. */
static void test_never_unknown(void **unused)
{
	struct job job = {.applied = {240, 240, INT64_MAX}, .placement = other};
	struct moetap_series *experts;
	struct moetap_placements *p;
	double share[EXPERTS];
	uint32_t seed = 8, all[LAYERS * SLOTS];
	char reason[128];

	(void)unused;
	run_steps(&job, 0, PLAN_STEP + 1, &seed);
	publish(&job, MOETAP_PLAN);
	run_steps(&job, PLAN_STEP + 1, 300, &seed);
	p = know(&job);
	assert_int_equal(moetap_placements_known(p, reason), MOETAP_KNOWN_NOT);
	assert_non_null(strstr(reason, "plan of step 199"));
	assert_null(moetap_placements_at(p, 0, 250));
	assert_held(p, 0, PLAN_STEP, start);
	assert_held(p, 2, 299, start);
	assert_int_equal(moetap_placements_experts(p, job.slots, &experts, NULL), 0);
	assert_int_equal(
		moetap_series_mean_shares(experts, 0, 0, 299, share), PLAN_STEP + 1);
	assert_int_equal(moetap_series_mean_shares(experts, 2, 0, 299, share), 300);
	moetap_series_free(experts);
	moetap_placements_free(p);
	/* The operator says it. */
	for (uint32_t i = 0; i < COUNT(all); i++)
		all[i] = i / SLOTS < 2 ? other[i % SLOTS] : start[i % SLOTS];
	assert_int_equal(moetap_placements_new(&shape, LAYERS, EXPERTS, &p, NULL), 0);
	assert_int_equal(moetap_placements_add(
				 p, MOETAP_ALL_LAYERS, 240, all, MOETAP_KNOWN_STATED, NULL),
		0);
	assert_int_equal(moetap_placements_read(p, name, NULL), 0);
	assert_int_equal(moetap_placements_check(p, job.slots, NULL), 0);
	assert_int_equal(moetap_placements_known(p, NULL), MOETAP_KNOWN_STATED);
	assert_one_series(p, &job, 299);
	moetap_placements_free(p);
	job_free(&job);
}

/* It never answers and never applies anything, and hints go on: it stays as it is known. */
static void test_never_applied(void **unused)
{
	struct job job = {.applied = {INT64_MAX, INT64_MAX, INT64_MAX}, .placement = planned};
	struct job cut = {.applied = {INT64_MAX, INT64_MAX, INT64_MAX}, .placement = planned};
	struct moetap_placements *p;
	uint32_t seed = 9;
	char reason[128];

	(void)unused;
	run_steps(&job, 0, PLAN_STEP + 1, &seed);
	publish(&job, MOETAP_PLAN);
	publish(&job, MOETAP_KEEP);
	publish(&job, MOETAP_KEEP);
	run_steps(&job, PLAN_STEP + 1, 400, &seed);
	p = know(&job);
	assert_int_equal(moetap_placements_known(p, NULL), MOETAP_KNOWN_START);
	assert_one_series(p, &job, 399);
	moetap_placements_free(p);
	/* Without loads from before the plan there is nothing to tell it by. */
	run_steps(&cut, 300, 400, &seed);
	p = know(&cut);
	assert_int_equal(moetap_placements_known(p, reason), MOETAP_KNOWN_NOT);
	assert_non_null(strstr(reason, "no loads from before"));
	moetap_placements_free(p);
	job_free(&cut);
	job_free(&job);
}

/** Another look, with what was known before. */
static void look_again(struct moetap_placements *p, const struct job *job)
{
	assert_int_equal(moetap_placements_read(p, name, NULL), 0);
	assert_int_equal(moetap_placements_check(p, job->slots, NULL), 0);
}

/* What was noticed stays, whatever the page proposes later, until the job says it itself. */
static void test_followed(void **unused)
{
	struct job job = {.applied = {220, 220, 220}, .placement = planned};
	struct moetap_placements *p;
	uint32_t seed = 10;

	(void)unused;
	run_steps(&job, 0, PLAN_STEP + 1, &seed);
	publish(&job, MOETAP_PLAN);
	run_steps(&job, PLAN_STEP + 1, 240, &seed);
	p = know(&job);
	assert_int_equal(moetap_placements_known(p, NULL), MOETAP_KNOWN_NOTICED);
	publish(&job, MOETAP_KEEP);
	publish(&job, MOETAP_KEEP);
	run_steps(&job, 240, 300, &seed);
	look_again(p, &job);
	assert_int_equal(moetap_placements_known(p, NULL), MOETAP_KNOWN_NOTICED);
	assert_one_series(p, &job, 299);
	moetap_placements_free(p);
	/* The same read and read again, by one who was told nothing of it before. */
	publish(&job, MOETAP_PLAN);
	ack(true, MOETAP_HINT_ALL_LAYERS, 220);
	p = know(&job);
	look_again(p, &job);
	look_again(p, &job);
	assert_int_equal(moetap_placements_known(p, NULL), MOETAP_KNOWN_ACKED);
	assert_one_series(p, &job, 299);
	moetap_placements_free(p);
	job_free(&job);
}

/* The traffic shows that something else holds, and only then the job says what, and since when. */
static void test_told_after(void **unused)
{
	struct job job = {.applied = {220, 220, 220}, .placement = planned};
	struct moetap_placements *p;
	uint32_t seed = 11;

	(void)unused;
	run_steps(&job, 0, PLAN_STEP + 1, &seed);
	publish(&job, MOETAP_PLAN);
	publish(&job, MOETAP_KEEP);
	publish(&job, MOETAP_KEEP);
	run_steps(&job, PLAN_STEP + 1, 260, &seed);
	p = know(&job);
	assert_int_equal(moetap_placements_known(p, NULL), MOETAP_KNOWN_NOT);
	assert_null(moetap_placements_at(p, 0, 210));
	publish(&job, MOETAP_PLAN);
	ack(true, MOETAP_HINT_ALL_LAYERS, 220);
	look_again(p, &job);
	assert_int_equal(moetap_placements_known(p, NULL), MOETAP_KNOWN_ACKED);
	assert_held(p, 0, 219, start);
	assert_held(p, 0, 220, planned);
	assert_one_series(p, &job, 259);
	moetap_placements_free(p);
	job_free(&job);
}

static void test_refused(void **unused)
{
	const uint32_t twice[SLOTS] = {0, 1, 2, 3, 4, 4, 0, 1}, beyond[SLOTS] = {0, 1, 2, 3, 4, 5, 6};
	struct moetap_series *series = series_of(LAYERS, EXPERTS, 0), *experts;
	struct moetap_placements *p;
	struct moetap_error error;

	(void)unused;
	assert_int_equal(moetap_placements_new(&shape, LAYERS, EXPERTS, &p, NULL), 0);
	assert_int_equal(
		moetap_placements_add(p, 0, 5, twice, MOETAP_KNOWN_STATED, &error), -EINVAL);
	assert_non_null(strstr(error.text, "no slot holds expert 5"));
	assert_int_equal(
		moetap_placements_add(p, 0, 5, beyond, MOETAP_KNOWN_STATED, &error), -EINVAL);
	assert_non_null(strstr(error.text, "slot 6 holds expert 6 of 6"));
	assert_int_equal(
		moetap_placements_add(p, LAYERS, 5, start, MOETAP_KNOWN_STATED, &error), -EINVAL);
	assert_int_equal(moetap_placements_check(p, series, &error), -EINVAL);
	assert_int_equal(moetap_placements_experts(p, series, &experts, &error), -EINVAL);
	assert_non_null(strstr(error.text, "not 8 slots"));
	assert_int_equal(moetap_placements_read(p, "nobody-publishes-here", &error), 0);
	assert_null(moetap_placements_at(p, LAYERS, 0));
	moetap_placements_free(p);
	moetap_series_free(series);
}

static int set_up(void **unused)
{
	(void)unused;
	snprintf(name, sizeof(name), "test-placements-%d", getpid());
	return 0;
}

static int remove_page(void **unused)
{
	(void)unused;
	moetap_hint_remove(name, NULL);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_late, remove_page),
		cmocka_unit_test_teardown(test_layer_by_layer, remove_page),
		cmocka_unit_test_teardown(test_never_noticed, remove_page),
		cmocka_unit_test_teardown(test_never_unknown, remove_page),
		cmocka_unit_test_teardown(test_never_applied, remove_page),
		cmocka_unit_test_teardown(test_followed, remove_page),
		cmocka_unit_test_teardown(test_told_after, remove_page),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
