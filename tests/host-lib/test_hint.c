/* SPDX-License-Identifier: BSD-3-Clause */
#include "common.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

/* The reader's copy goes through here, so that a test can let the writer in between. */
static void *copy(void *to, const void *from, size_t bytes);
#define memcpy(to, from, bytes) copy(to, from, bytes)
#include "moetap_hint.h"
#undef memcpy

#define LAYERS 2
#define EXPERTS 6
static const struct moetap_shape shape = {.ranks = 3, .nodes = 1, .slots = 6, .groups = 1};

/** Name of the page of this process's tests. */
static char name[MOETAP_HINT_NAME_MAX];

/** One of the two hints that the tests publish: everything in it tells which one it is. */
struct version {
	struct moetap_series *series;
	struct moetap_state *state;
	struct moetap_forecast *forecast;
	struct moetap_plan *placement;
	struct moetap_decision decision;
};
static struct version versions[2];

static void version_make(struct version *v, int which)
{
	uint32_t slots[LAYERS * 6];
	double tokens[LAYERS * EXPERTS];

	v->series = series_of(LAYERS, EXPERTS, 0);
	for (int c = 0; c < LAYERS * EXPERTS; c++)
		tokens[c] = which == 0 ? 1 : c % EXPERTS + 1;
	for (int step = 0; step < 100; step++)
		assert_int_equal(
			moetap_series_add_step(v->series, step + 1000 * which, tokens, NULL, NULL),
			0);
	assert_int_equal(moetap_state_new(LAYERS, &v->state), 0);
	assert_int_equal(
		moetap_forecast_make(v->series, 99 + 1000 * which, which == 0 ? "last" : "sw_avg",
			10u + (uint32_t)which, 0, &v->forecast, NULL),
		0);
	for (uint32_t s = 0; s < COUNT(slots); s++)
		slots[s] = which == 0 ? s % 6 : 5 - s % 6;
	assert_int_equal(
		moetap_plan_from_slots(&shape, LAYERS, EXPERTS, slots, &v->placement, NULL), 0);
	v->decision.verdict = which == 0 ? MOETAP_KEEP : MOETAP_PLAN;
	v->decision.moves = 7 + which;
	memset(v->decision.reason, 'a' + which, sizeof(v->decision.reason) - 1);
}

static int make_versions(void **unused)
{
	(void)unused;
	snprintf(name, sizeof(name), "test-%d", getpid());
	version_make(&versions[0], 0);
	version_make(&versions[1], 1);
	return 0;
}

static int free_versions(void **unused)
{
	(void)unused;
	for (int i = 0; i < 2; i++) {
		moetap_series_free(versions[i].series);
		moetap_state_free(versions[i].state);
		moetap_forecast_free(versions[i].forecast);
		moetap_plan_free(versions[i].placement);
	}
	return 0;
}

static int remove_page(void **unused)
{
	(void)unused;
	moetap_hint_remove(name, NULL);
	return 0;
}

static struct moetap_publisher *publisher_open(void)
{
	struct moetap_publisher *publisher;
	struct moetap_error error;

	if (moetap_publisher_open(name, LAYERS, EXPERTS, &shape, &publisher, &error) < 0)
		fail_msg("%s", error.text);
	return publisher;
}

/** Publishes the version that belongs to the next generation: even 0, odd 1. */
static int publish(struct moetap_publisher *publisher)
{
	const struct version *v = &versions[(moetap_publisher_generation(publisher) + 1) & 1];

	return moetap_publisher_publish(
		publisher, v->state, v->forecast, v->placement, &v->decision, NULL);
}

/** Returns whether every field of a hint is of the version that its generation says. */
static bool consistent(const struct moetap_hint *hint)
{
	const struct version *v = &versions[hint->generation & 1];
	size_t cells = LAYERS * EXPERTS * sizeof(double);

	return hint->verdict == (uint32_t)v->decision.verdict && hint->moves == v->decision.moves &&
	       strcmp(hint->reason, v->decision.reason) == 0 &&
	       hint->made_after_step == 99 + 1000 * (int64_t)(hint->generation & 1) &&
	       hint->valid_from_step == hint->made_after_step + 1 &&
	       hint->horizon == 10 + (hint->generation & 1) &&
	       memcmp(moetap_hint_placement(hint, 0), moetap_plan_slots(v->placement),
		       LAYERS * 6 * sizeof(uint32_t)) == 0 &&
	       memcmp(moetap_hint_share(hint, 0), moetap_forecast_share(v->forecast), cells) == 0 &&
	       memcmp(moetap_hint_low(hint, 0), moetap_forecast_low(v->forecast), cells) == 0 &&
	       memcmp(moetap_hint_high(hint, 0), moetap_forecast_high(v->forecast), cells) == 0;
}

/** A buffer for the hints of the tests' geometry. */
union buffer {
	struct moetap_hint hint;
	unsigned char bytes[4096];
};

static void open_reader(struct moetap_hint_reader *reader)
{
	assert_int_equal(moetap_hint_open(reader, name), 0);
	assert_true(moetap_hint_bytes(reader) <= sizeof(union buffer));
}

static void test_publish_and_read(void **unused)
{
	struct moetap_publisher *publisher = publisher_open();
	struct moetap_hint_reader reader;
	union buffer b;

	(void)unused;
	open_reader(&reader);
	assert_int_equal(moetap_hint_head(&reader)->layers, LAYERS);
	assert_int_equal(moetap_hint_head(&reader)->slots, 6);
	assert_false(moetap_hint_changed(&reader));
	assert_int_equal(moetap_hint_read(&reader, &b), -ENODATA);
	for (uint64_t g = 1; g <= 5; g++) {
		assert_int_equal(publish(publisher), 0);
		assert_true(moetap_hint_changed(&reader));
		assert_int_equal(moetap_hint_read(&reader, &b), 0);
		assert_false(moetap_hint_changed(&reader));
		assert_int_equal(b.hint.generation, g);
		assert_int_equal(b.hint.placement_generation, g);
		assert_true(consistent(&b.hint));
		assert_string_equal(b.hint.method, g & 1 ? "sw_avg" : "last");
		assert_int_equal(moetap_hint_state(&b.hint, 1)->stable, 0);
	}
	/* The same placement again: the hint is new, the placement is not. */
	assert_int_equal(
		moetap_publisher_publish(publisher, versions[1].state, versions[1].forecast,
			versions[1].placement, &versions[1].decision, NULL),
		0);
	assert_int_equal(moetap_hint_read(&reader, &b), 0);
	assert_int_equal(b.hint.generation, 6);
	assert_int_equal(b.hint.placement_generation, 5);
	moetap_hint_close(&reader);
	moetap_publisher_close(publisher);
}

static void test_writer_restart(void **unused)
{
	struct moetap_publisher *publisher = publisher_open();
	struct moetap_hint_reader reader;
	union buffer b;

	(void)unused;
	assert_int_equal(publish(publisher), 0);
	moetap_publisher_close(publisher);
	/* The hint outlives its writer. */
	open_reader(&reader);
	assert_int_equal(moetap_hint_read(&reader, &b), 0);
	assert_int_equal(b.hint.generation, 1);
	publisher = publisher_open();
	assert_int_equal(moetap_publisher_generation(publisher), 1);
	assert_int_equal(publish(publisher), 0);
	assert_int_equal(moetap_hint_read(&reader, &b), 0);
	assert_int_equal(b.hint.generation, 2);
	moetap_hint_close(&reader);
	moetap_publisher_close(publisher);
}

static void test_single_writer(void **unused)
{
	struct moetap_publisher *publisher = publisher_open(), *second;
	struct moetap_error error;

	(void)unused;
	assert_int_equal(
		moetap_publisher_open(name, LAYERS, EXPERTS, &shape, &second, &error), -EBUSY);
	assert_non_null(strstr(error.text, "another process"));
	assert_int_equal(moetap_hint_remove(name, &error), -EBUSY);
	moetap_publisher_close(publisher);
	moetap_publisher_close(publisher_open());
}

static void test_other_geometry(void **unused)
{
	const struct moetap_shape other = {.ranks = 4, .nodes = 1, .slots = 8, .groups = 1};
	struct moetap_publisher *publisher = publisher_open();
	struct moetap_hint_reader reader;
	union buffer b;

	(void)unused;
	assert_int_equal(publish(publisher), 0);
	open_reader(&reader);
	assert_int_equal(moetap_hint_read(&reader, &b), 0);
	moetap_publisher_close(publisher);
	assert_int_equal(moetap_publisher_open(name, LAYERS, EXPERTS, &other, &publisher, NULL), 0);
	assert_true(moetap_hint_changed(&reader));
	assert_int_equal(moetap_hint_read(&reader, &b), -ESTALE);
	moetap_hint_close(&reader);
	open_reader(&reader);
	assert_int_equal(moetap_hint_head(&reader)->slots, 8);
	/* What does not have the page's shape is refused. */
	assert_int_equal(publish(publisher), -EINVAL);
	moetap_hint_close(&reader);
	moetap_publisher_close(publisher);
}

static void test_names(void **unused)
{
	const char *const bad[] = {"", "a/b", "..", ".x", "a b",
		"12345678901234567890123456789012345678901234567890123456789012345"};
	struct moetap_publisher *publisher;
	struct moetap_hint_reader reader;
	struct moetap_error error;

	(void)unused;
	for (size_t i = 0; i < COUNT(bad); i++)
		assert_int_equal(
			moetap_publisher_open(bad[i], LAYERS, EXPERTS, &shape, &publisher, &error),
			-EINVAL);
	assert_int_equal(moetap_hint_open(&reader, "a/b"), -EINVAL);
	assert_int_equal(moetap_hint_open(&reader, ""), -EINVAL);
	assert_int_equal(moetap_hint_open(&reader, "nobody-publishes-here"), -ENOENT);
	assert_int_equal(moetap_hint_remove("nobody-publishes-here", &error), -ENOENT);
}

/** Changes some bytes of the page's file. */
static void damage(off_t at, const void *bytes, size_t length)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), MOETAP_HINT_PATH "%s", name);
	fd = open(path, O_WRONLY);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, length, at), length);
	close(fd);
}

static void cut(off_t length)
{
	char path[128];

	snprintf(path, sizeof(path), MOETAP_HINT_PATH "%s", name);
	assert_int_equal(truncate(path, length), 0);
}

/** A page that neither a reader nor a writer takes. */
static void assert_refused(void)
{
	struct moetap_publisher *publisher;
	struct moetap_hint_reader reader;
	struct moetap_error error;

	assert_int_equal(moetap_hint_open(&reader, name), -EPROTO);
	assert_int_equal(
		moetap_publisher_open(name, LAYERS, EXPERTS, &shape, &publisher, &error), -EPROTO);
	assert_non_null(strstr(error.text, "rm /dev/shm/moetap-hint-"));
}

static void fresh_page(void)
{
	char path[128];
	struct moetap_publisher *publisher;

	snprintf(path, sizeof(path), MOETAP_HINT_PATH "%s", name);
	unlink(path);
	publisher = publisher_open();
	assert_int_equal(publish(publisher), 0);
	moetap_publisher_close(publisher);
}

static void test_refused_pages(void **unused)
{
	const uint32_t fields[] = {offsetof(struct moetap_hint_page, magic),
		offsetof(struct moetap_hint_page, version),
		offsetof(struct moetap_hint_page, header_bytes),
		offsetof(struct moetap_hint_page, page_bytes),
		offsetof(struct moetap_hint_page, layers),
		offsetof(struct moetap_hint_page, experts),
		offsetof(struct moetap_hint_page, slots),
		offsetof(struct moetap_hint_page, bank_bytes),
		offsetof(struct moetap_hint_page, bank_offset)};
	const uint32_t other = 0x7ffffff2;
	char path[128];

	(void)unused;
	for (size_t i = 0; i < COUNT(fields); i++) {
		fresh_page();
		damage(fields[i], &other, sizeof(other));
		assert_refused();
	}
	fresh_page();
	cut(sizeof(struct moetap_hint_page) + 100);
	assert_refused();
	cut(10);
	assert_refused();
	cut(0);
	assert_refused();
	snprintf(path, sizeof(path), MOETAP_HINT_PATH "%s", name);
	unlink(path);
}

/* What a checksum or a sequence number is for: each kind of damage to a bank is noticed. */
static void test_torn_banks(void **unused)
{
	const uint64_t bank1 = sizeof(struct moetap_hint_page) +
			       moetap_hint_layout(LAYERS, EXPERTS, shape.slots, NULL);
	const size_t bytes = moetap_hint_layout(LAYERS, EXPERTS, shape.slots, NULL);
	struct moetap_hint_reader reader;
	const uint64_t odd = 1;
	union buffer b;

	(void)unused;
	for (size_t at = 8; at < bytes; at += 13) {
		unsigned char byte;

		fresh_page();
		open_reader(&reader);
		byte = reader.page[bank1 + at] ^ 0x10;
		damage((off_t)(bank1 + at), &byte, 1);
		assert_int_equal(moetap_hint_read(&reader, &b), -EAGAIN);
		moetap_hint_close(&reader);
	}
	fresh_page();
	open_reader(&reader);
	damage((off_t)bank1, &odd, sizeof(odd));
	assert_int_equal(moetap_hint_read(&reader, &b), -EAGAIN);
	moetap_hint_close(&reader);
	remove_page(NULL);
}

/** When set, a copy is interrupted after `split` bytes by so many publications. */
static struct {
	struct moetap_publisher *publisher;
	size_t split;
	int times;
} interruption;

static void *copy(void *to, const void *from, size_t bytes)
{
	size_t split = interruption.times > 0 ? interruption.split : 0;

	memcpy(to, from, split);
	for (; interruption.times > 0; interruption.times--)
		assert_int_equal(publish(interruption.publisher), 0);
	memcpy((char *)to + split, (const char *)from + split, bytes - split);
	return to;
}

/* The writer overtakes a reader at every place of its copy, once to five times. */
static void test_overtaken(void **unused)
{
	const size_t bytes = moetap_hint_layout(LAYERS, EXPERTS, shape.slots, NULL);
	struct moetap_publisher *publisher = publisher_open();
	struct moetap_hint_reader reader;
	uint32_t overtaken = 0;
	union buffer b;

	(void)unused;
	assert_int_equal(publish(publisher), 0);
	open_reader(&reader);
	for (size_t split = 0; split <= bytes; split += 4) {
		for (int times = 1; times <= 5; times++) {
			uint64_t before = moetap_publisher_generation(publisher);

			interruption.publisher = publisher;
			interruption.split = split;
			interruption.times = times;
			assert_int_equal(moetap_hint_read(&reader, &b), 0);
			assert_true(consistent(&b.hint));
			/* One publication leaves the bank that is being read alone. */
			assert_int_equal(
				b.hint.generation, times == 1 ? before : before + (uint64_t)times);
			overtaken += times > 1;
		}
	}
	assert_true(overtaken > 100);
	moetap_hint_close(&reader);
	moetap_publisher_close(publisher);
}

/** Publishes as fast as it can until it is killed. */
static void publish_for_ever(void)
{
	struct moetap_publisher *publisher = NULL;

	if (moetap_publisher_open(name, LAYERS, EXPERTS, &shape, &publisher, NULL) < 0)
		_exit(1);
	for (;;) {
		if (publish(publisher) < 0)
			_exit(2);
	}
}

/* A writer in another process that never pauses, and a million reads: all whole, none goes back. */
static void test_torn_reads(void **unused)
{
	enum { READS = 1000000 };
	uint64_t last = 0, generations = 0, again = 0;
	struct moetap_hint_reader reader;
	union buffer b;
	pid_t writer;

	(void)unused;
	fresh_page();
	writer = fork();
	assert_true(writer >= 0);
	if (writer == 0)
		publish_for_ever();
	open_reader(&reader);
	for (uint32_t i = 0; i < READS; i++) {
		int ret = moetap_hint_read(&reader, &b);

		/* Overtaken a thousand times in a row: allowed, but it must not be the rule. */
		if (ret == -EAGAIN) {
			again++;
			continue;
		}
		assert_int_equal(ret, 0);
		assert_true(consistent(&b.hint));
		assert_true(b.hint.generation >= last);
		generations += b.hint.generation > last;
		last = b.hint.generation;
	}
	kill(writer, SIGKILL);
	waitpid(writer, NULL, 0);
	print_message("%u reads saw %llu generations, %llu times overtaken\n", READS,
		(unsigned long long)generations, (unsigned long long)again);
	assert_true(generations > 1000);
	assert_true(again < READS / 100);
	moetap_hint_close(&reader);
}

/* A writer killed at any moment leaves a whole hint, and the next one goes on from it. */
static void test_killed_writer(void **unused)
{
	struct moetap_hint_reader reader;
	uint32_t seed = 17;
	uint64_t last = 0;
	union buffer b;

	(void)unused;
	fresh_page();
	open_reader(&reader);
	for (int i = 0; i < 100; i++) {
		const struct timespec pause = {.tv_nsec = 500000 + next_random(&seed) % 1500000};
		int status;
		pid_t writer = fork();

		assert_true(writer >= 0);
		if (writer == 0)
			publish_for_ever();
		nanosleep(&pause, NULL);
		kill(writer, SIGKILL);
		waitpid(writer, &status, 0);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		assert_int_equal(moetap_hint_read(&reader, &b), 0);
		assert_true(consistent(&b.hint));
		assert_true(b.hint.generation >= last);
		last = b.hint.generation;
	}
	assert_true(last > 100);
	moetap_hint_close(&reader);
}

/* ---- what is decided ---- */

/** A series of one layer: `settled` steps of skewed loads, the last flagged if asked. */
static struct moetap_series *skewed_series(int settled, uint32_t quality)
{
	struct moetap_series *s = series_of(1, 4, 0);
	uint32_t seed = 2;

	for (int step = 0; step < settled; step++) {
		double noise = 1 + 0.01 * next_uniform(&seed);

		assert_int_equal(
			moetap_series_add_round(s, step, 0, (double[]){600 * noise, 300, 60, 40},
				step == settled - 1 ? quality : 0, NULL),
			0);
	}
	return s;
}

static void decide(
	int settled, uint32_t quality, double threshold, struct moetap_decision *decision)
{
	const struct moetap_shape small = {.ranks = 2, .nodes = 1, .slots = 4, .groups = 1};
	struct moetap_series *series = skewed_series(settled, quality);
	struct moetap_plan *current, *plan;
	struct moetap_forecast *forecast;
	struct moetap_state *state;

	assert_int_equal(moetap_state_new(1, &state), 0);
	moetap_state_update(state, series, settled - 1);
	assert_int_equal(
		moetap_forecast_make(series, settled - 1, NULL, 10, 0, &forecast, NULL), 0);
	assert_int_equal(moetap_plan_trivial(&small, 1, 4, &current, NULL), 0);
	assert_int_equal(moetap_plan_make(NULL, &small, 1, 4, moetap_forecast_share(forecast),
				 current, &plan, NULL),
		0);
	assert_int_equal(moetap_decide(state, forecast, current, plan, threshold, decision), 0);
	moetap_plan_free(plan);
	moetap_plan_free(current);
	moetap_forecast_free(forecast);
	moetap_state_free(state);
	moetap_series_free(series);
}

static void test_decide(void **unused)
{
	struct moetap_decision d;

	(void)unused;
	decide(500, 0, 0.05, &d);
	assert_int_equal(d.verdict, MOETAP_PLAN);
	assert_true(d.after > d.before);
	assert_near(d.gain, 1 - d.before / d.after, 1e-12);
	assert_true(d.moves > 0);
	/* The gain is not worth it. */
	decide(500, 0, 0.9, &d);
	assert_int_equal(d.verdict, MOETAP_KEEP);
	assert_non_null(strstr(d.reason, "must bring"));
	/* The gain would be, but it is too early to tell. */
	decide(20, 0, 0.05, &d);
	assert_int_equal(d.verdict, MOETAP_KEEP);
	assert_non_null(strstr(d.reason, "only 20 steps seen"));
	/* Flagged rounds are named. */
	decide(500, MOETAP_QUALITY_GAP, 0.05, &d);
	assert_non_null(strstr(d.reason, "not exact (gap)"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_publish_and_read, remove_page),
		cmocka_unit_test_teardown(test_writer_restart, remove_page),
		cmocka_unit_test_teardown(test_single_writer, remove_page),
		cmocka_unit_test_teardown(test_other_geometry, remove_page),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_refused_pages),
		cmocka_unit_test(test_torn_banks),
		cmocka_unit_test_teardown(test_overtaken, remove_page),
		cmocka_unit_test_teardown(test_torn_reads, remove_page),
		cmocka_unit_test_teardown(test_killed_writer, remove_page),
		cmocka_unit_test(test_decide),
	};

	return cmocka_run_group_tests(tests, make_versions, free_versions);
}
