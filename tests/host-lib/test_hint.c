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

static void test_earlier_version(void **unused)
{
	const uint32_t version = MOETAP_HINT_VERSION - 1;
	struct moetap_publisher *publisher;
	struct moetap_hint_reader reader, other;
	union buffer b;

	(void)unused;
	fresh_page();
	open_reader(&reader);
	damage(offsetof(struct moetap_hint_page, version), &version, sizeof(version));
	assert_int_equal(moetap_hint_open(&other, name), -EPROTO);
	publisher = publisher_open();
	assert_int_equal(moetap_hint_read(&reader, &b), -ESTALE);
	moetap_hint_close(&reader);
	open_reader(&reader);
	assert_int_equal(moetap_hint_read(&reader, &b), -ENODATA);
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
	struct moetap_hint_reader reader;
	uint64_t bank1;
	size_t bytes;
	const uint64_t odd = 1;
	union buffer b;

	(void)unused;
	fresh_page();
	open_reader(&reader);
	bank1 = moetap_hint_head(&reader)->bank_offset[1];
	bytes = moetap_hint_bytes(&reader);
	moetap_hint_close(&reader);
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
	struct moetap_publisher *publisher = publisher_open();
	struct moetap_hint_reader reader;
	uint32_t overtaken = 0;
	size_t bytes;
	union buffer b;

	(void)unused;
	assert_int_equal(publish(publisher), 0);
	open_reader(&reader);
	bytes = moetap_hint_bytes(&reader);
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

/** Reads one layer of one kind and compares it with what its generation says. */
static void check_row(const struct moetap_hint_reader *reader, uint32_t i)
{
	const uint32_t layer = i % LAYERS, kind = MOETAP_HINT_PLACEMENT + i / LAYERS % 4;
	const struct version *v;
	double row[EXPERTS];
	uint64_t generation = 0;
	const void *is;
	int ret = moetap_hint_row(reader, kind, layer, row, &generation);

	if (ret == -EAGAIN)
		return;
	assert_int_equal(ret, 0);
	v = &versions[generation & 1];
	if (kind == MOETAP_HINT_PLACEMENT)
		is = moetap_plan_slots(v->placement) + (size_t)layer * 6;
	else
		is = (kind == MOETAP_HINT_SHARE	   ? moetap_forecast_share(v->forecast)
			     : kind == MOETAP_HINT_LOW ? moetap_forecast_low(v->forecast)
						       : moetap_forecast_high(v->forecast)) +
		     (size_t)layer * EXPERTS;
	assert_memory_equal(row, is, kind == MOETAP_HINT_PLACEMENT ? 6 * 4 : sizeof(row));
}

/* A writer in another process that never pauses, and a million reads of whole hints and of layers
 * (MOETAP_TEST_READS, if that is set): all whole, none goes back. Goes on until the writer had its
 * turn a thousand times. */
static void test_torn_reads(void **unused)
{
	const char *wanted = getenv("MOETAP_TEST_READS");
	const uint64_t reads = wanted != NULL ? strtoull(wanted, NULL, 10) : 1000000;
	uint64_t last = 0, generations = 0, again = 0, i;
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
	for (i = 0; i < reads || generations <= 1000; i++) {
		int ret = moetap_hint_read(&reader, &b);

		check_row(&reader, (uint32_t)i);
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
	print_message("%llu reads, and as many of a layer, saw %llu of %llu generations, %llu "
		      "times overtaken\n",
		(unsigned long long)i, (unsigned long long)generations, (unsigned long long)last,
		(unsigned long long)again);
	assert_true(again < i / 100);
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

/* ---- kinds, age, answers ---- */

/** Publishes version `which`, whatever comes next. */
static void publish_version(
	struct moetap_publisher *publisher, int which, enum moetap_known known, union buffer *b)
{
	const struct version *v = &versions[which];
	struct moetap_decision decision = v->decision;
	struct moetap_hint_reader reader;

	decision.known = known;
	assert_int_equal(moetap_publisher_publish(publisher, v->state, v->forecast, v->placement,
				 &decision, NULL),
		0);
	open_reader(&reader);
	assert_int_equal(moetap_hint_read(&reader, b), 0);
	moetap_hint_close(&reader);
}

static void test_gates(void **unused)
{
	struct moetap_publisher *publisher = publisher_open();
	union buffer b;

	(void)unused;
	/* Shares of 1/21 ... 6/21: the mean is 3.5/21. */
	publish_version(publisher, 1, MOETAP_KNOWN_START, &b);
	for (uint32_t e = 0; e < EXPERTS; e++) {
		assert_near(moetap_hint_bias(&b.hint, 1)[e], e < 3 ? 1e-3 : -1e-3, 1e-9);
		assert_near(moetap_hint_capacity(&b.hint, 1)[e],
			moetap_hint_high(&b.hint, 1)[e] * EXPERTS, 1e-6);
		assert_true(moetap_hint_capacity(&b.hint, 1)[e] >= (float)((e + 1) * 6 / 21.));
	}
	/* Even loads: nobody is pushed. */
	assert_int_equal(
		moetap_publisher_terms(publisher, &(struct moetap_terms){.bias_rate = 0.5}), 0);
	publish_version(publisher, 0, MOETAP_KNOWN_START, &b);
	for (uint32_t e = 0; e < EXPERTS; e++)
		assert_true(moetap_hint_bias(&b.hint, 0)[e] == 0);
	publish_version(publisher, 1, MOETAP_KNOWN_START, &b);
	assert_near(moetap_hint_bias(&b.hint, 0)[5], -0.5, 0);
	assert_int_equal(moetap_publisher_terms(publisher, &(struct moetap_terms){.bias_rate = -1}),
		-EINVAL);
	assert_int_equal(
		moetap_publisher_terms(publisher, &(struct moetap_terms){.lifetime = NAN}), -EINVAL);
	moetap_publisher_close(publisher);
}

/* Two nodes, an expert on both: as the tokens come, they are split, as plan_split does it. */
static void test_split(void **unused)
{
	const struct moetap_shape wide = {.ranks = 2, .nodes = 2, .slots = 8, .groups = 1};
	const uint32_t slots[LAYERS * 8] = {0, 1, 2, 3, 0, 4, 5, 1, 0, 1, 2, 3, 0, 4, 5, 2};
	double from[LAYERS * 2 * EXPERTS], weight[2 * 8];
	struct moetap_publisher *publisher;
	struct moetap_hint_reader reader;
	struct moetap_plan *plan;
	union buffer b;

	(void)unused;
	assert_int_equal(moetap_plan_from_slots(&wide, LAYERS, EXPERTS, slots, &plan, NULL), 0);
	assert_int_equal(moetap_publisher_open(name, LAYERS, EXPERTS, &wide, &publisher, NULL), 0);
	open_reader(&reader);
	for (int given = 0; given < 2; given++) {
		for (uint32_t c = 0; c < COUNT(from); c++)
			from[c] = given ? 1 + c % 5 : 1;
		assert_int_equal(moetap_publisher_terms(publisher,
					 &(struct moetap_terms){.from = given ? from : NULL}),
			0);
		assert_int_equal(moetap_publisher_publish(publisher, versions[1].state,
					 versions[1].forecast, plan, &versions[1].decision, NULL),
			0);
		assert_int_equal(moetap_hint_read(&reader, &b), 0);
		for (uint32_t l = 0; l < LAYERS; l++) {
			const float *got = moetap_hint_split(&b.hint, l);

			assert_int_equal(
				moetap_plan_split(plan, l, from + (size_t)l * 2 * EXPERTS, weight), 0);
			for (uint32_t i = 0; i < COUNT(weight); i++)
				assert_near(got[i], weight[i], 1e-6);
		}
		/* Alike: each node takes its own replica. */
		assert_true(given || (moetap_hint_split(&b.hint, 0)[0] == 1 &&
					     moetap_hint_split(&b.hint, 0)[4] == 0));
	}
	assert_true(moetap_hint_split(&b.hint, 1)[0] < 1 || moetap_hint_split(&b.hint, 1)[8 + 4] < 1);
	moetap_hint_close(&reader);
	moetap_publisher_close(publisher);
	moetap_plan_free(plan);
}

static void test_stale(void **unused)
{
	struct moetap_publisher *publisher = publisher_open();
	struct moetap_hint_reader reader;
	union buffer b;

	(void)unused;
	open_reader(&reader);
	publish_version(publisher, 0, MOETAP_KNOWN_START, &b);
	assert_int_equal(b.hint.expires_ns, 0);
	assert_int_equal(b.hint.expires_step, 109); /* made after 99 for 10 */
	assert_int_equal(moetap_hint_stale(&reader, &b.hint, 109, UINT64_MAX), 0);
	assert_int_equal(
		moetap_hint_stale(&reader, &b.hint, 110, 0), MOETAP_HINT_STALE_STEP);
	assert_int_equal(
		moetap_publisher_terms(publisher, &(struct moetap_terms){.lifetime = 0.5}), 0);
	publish_version(publisher, 0, MOETAP_KNOWN_START, &b);
	assert_int_equal(b.hint.expires_ns, b.hint.publish_time_ns + 500000000);
	assert_int_equal(moetap_hint_stale(&reader, &b.hint, 0, b.hint.expires_ns), 0);
	assert_int_equal(moetap_hint_stale(&reader, &b.hint, 0, b.hint.expires_ns + 1),
		MOETAP_HINT_STALE_TIME);
	/* By the clock, without being told. */
	usleep(600000);
	assert_int_equal(moetap_hint_stale(&reader, &b.hint, 0, 0), MOETAP_HINT_STALE_TIME);
	assert_int_equal(publish(publisher), 0);
	assert_int_equal(moetap_hint_stale(&reader, &b.hint, 0, 1), MOETAP_HINT_STALE_NEWER);
	moetap_publisher_close(publisher);
	remove_page(NULL);
	assert_true(moetap_hint_stale(&reader, &b.hint, 0, 1) & MOETAP_HINT_STALE_RETIRED);
	moetap_hint_close(&reader);
}

/* What a later moetap adds is passed over: another kind, another version of one. */
static void test_unknown_kinds(void **unused)
{
	struct moetap_hint_reader reader;
	const uint32_t kind = 99, version = 2;
	uint32_t crc;
	float row[EXPERTS];
	union buffer b;

	(void)unused;
	fresh_page();
	open_reader(&reader);
	for (int bank = 0; bank < 2; bank++) {
		uint64_t at = moetap_hint_head(&reader)->bank_offset[bank] +
			      sizeof(struct moetap_hint);

		damage((off_t)(at + (MOETAP_HINT_BIAS - 1) * sizeof(struct moetap_hint_kind)), &kind,
			sizeof(kind));
		damage((off_t)(at + (MOETAP_HINT_CAPACITY - 1) * sizeof(struct moetap_hint_kind) +
			       offsetof(struct moetap_hint_kind, version)),
			&version, sizeof(version));
	}
	crc = moetap_hint_crc(reader.crc,
		reader.page + moetap_hint_head(&reader)->bank_offset[1] + 16,
		moetap_hint_bytes(&reader) - 16);
	damage((off_t)(moetap_hint_head(&reader)->bank_offset[1] + 8), &crc, sizeof(crc));
	moetap_hint_close(&reader);
	open_reader(&reader);
	assert_int_equal(moetap_hint_read(&reader, &b), 0);
	assert_true(consistent(&b.hint));
	assert_null(moetap_hint_bias(&b.hint, 0));
	assert_null(moetap_hint_capacity(&b.hint, 0));
	assert_non_null(moetap_hint_split(&b.hint, 0));
	assert_int_equal(moetap_hint_row(&reader, MOETAP_HINT_BIAS, 0, row, NULL), -ENOTSUP);
	assert_int_equal(moetap_hint_row(&reader, MOETAP_HINT_CAPACITY, 0, row, NULL), -ENOTSUP);
	assert_int_equal(moetap_hint_row(&reader, 99, 0, row, NULL), -ENOTSUP);
	assert_int_equal(moetap_hint_row(&reader, MOETAP_HINT_PLACEMENT, LAYERS, row, NULL), -EINVAL);
	assert_int_equal(moetap_hint_row(&reader, MOETAP_HINT_PLACEMENT, 0, row, NULL), 0);
	moetap_hint_close(&reader);
	remove_page(NULL);
}

/* A hint that does not know the placement carries none, and none is new because of it. */
static void test_unknown_placement(void **unused)
{
	struct moetap_publisher *publisher = publisher_open();
	struct moetap_hint_reader reader;
	uint32_t row[6];
	union buffer b;

	(void)unused;
	publish_version(publisher, 1, MOETAP_KNOWN_ACKED, &b);
	assert_int_equal(b.hint.known, MOETAP_HINT_KNOWN_ACKED);
	assert_int_equal(b.hint.plan_generation, 1);
	assert_int_equal(b.hint.plan_step, 1099);
	publish_version(publisher, 0, MOETAP_KNOWN_ACKED, &b);
	assert_int_equal(b.hint.plan_generation, 1);
	assert_int_equal(b.hint.placement_generation, 2);
	publish_version(publisher, 0, MOETAP_KNOWN_NOT, &b);
	assert_int_equal(b.hint.known, MOETAP_HINT_KNOWN_NOT);
	assert_null(moetap_hint_placement(&b.hint, 0));
	assert_null(moetap_hint_split(&b.hint, 0));
	assert_non_null(moetap_hint_share(&b.hint, 0));
	assert_int_equal(b.hint.plan_generation, 1);
	assert_int_equal(b.hint.plan_step, 1099);
	open_reader(&reader);
	assert_int_equal(moetap_hint_row(&reader, MOETAP_HINT_PLACEMENT, 0, row, NULL), -ENOMSG);
	assert_int_equal(moetap_hint_open_ack(&reader, name), 0);
	assert_int_equal(moetap_hint_ack(&reader, &b.hint, 0, 5), -EINVAL);
	moetap_hint_close(&reader);
	publish_version(publisher, 0, MOETAP_KNOWN_STATED, &b);
	assert_int_equal(b.hint.placement_generation, 2);
	moetap_publisher_close(publisher);
}

/** An acknowledgement as it is read. */
union ack_buffer {
	struct moetap_hint_ack ack;
	unsigned char bytes[256];
};

static void test_acks(void **unused)
{
	struct moetap_publisher *publisher = publisher_open();
	struct moetap_hint_reader reader, job, second;
	union ack_buffer a;
	union buffer b;

	(void)unused;
	publish_version(publisher, 1, MOETAP_KNOWN_START, &b);
	open_reader(&reader);
	assert_int_equal(moetap_hint_ack(&reader, &b.hint, 0, 5), -EBADF);
	assert_int_equal(moetap_hint_acked(&reader, MOETAP_HINT_ALL_LAYERS), 0);
	assert_int_equal(moetap_hint_ack_read(&reader, 0, 1, &a), -ENODATA);
	/* The publisher's lock is another one; a second job is not let in. */
	assert_int_equal(moetap_hint_open_ack(&job, name), 0);
	assert_int_equal(moetap_hint_open_ack(&second, name), -EBUSY);
	assert_int_equal(moetap_hint_ack(&job, &b.hint, LAYERS, 5), -EINVAL);
	assert_int_equal(moetap_hint_ack(&job, &b.hint, 0, -1), -EINVAL);
	assert_int_equal(moetap_hint_ack(&job, &b.hint, 1, 1200), 0);
	assert_int_equal(moetap_hint_acked(&reader, 0), 0);
	assert_int_equal(moetap_hint_acked(&reader, 1), 1);
	assert_int_equal(moetap_hint_ack_read(&reader, 1, 1, &a), 0);
	assert_int_equal(a.ack.generation, 1);
	assert_int_equal(a.ack.step, 1200);
	assert_memory_equal(moetap_hint_ack_placement(&a.ack), moetap_hint_placement(&b.hint, 1), 24);
	/* NULL is what frameworks start with; the oldest records go. */
	for (int64_t step = 1300; step < 1304; step++)
		assert_int_equal(moetap_hint_ack(&job, NULL, MOETAP_HINT_ALL_LAYERS, step), 0);
	assert_int_equal(moetap_hint_acked(&reader, MOETAP_HINT_ALL_LAYERS), 1 + 4 * LAYERS);
	assert_int_equal(moetap_hint_ack_read(&reader, 1, 1, &a), -ENODATA);
	assert_int_equal(moetap_hint_ack_read(&reader, 1, 5, &a), 0);
	assert_int_equal(a.ack.step, 1303);
	assert_int_equal(a.ack.generation, 0);
	assert_memory_equal(
		moetap_hint_ack_placement(&a.ack), ((uint32_t[]){0, 1, 2, 3, 4, 5}), 24);
	/* Half a record is none. */
	a.ack.step = 9;
	damage((off_t)((const unsigned char *)moetap_hint_acks_of(&reader, 1) - reader.page) + 64 +
			offsetof(struct moetap_hint_ack, step),
		&a.ack.step, sizeof(a.ack.step));
	assert_int_equal(moetap_hint_ack_read(&reader, 1, 5, &a), -EAGAIN);
	/* Answers outlive the writer of hints. */
	moetap_publisher_close(publisher);
	publisher = publisher_open();
	assert_int_equal(moetap_hint_acked(&reader, 0), 4);
	moetap_hint_close(&job);
	assert_int_equal(moetap_hint_open_ack(&job, name), 0);
	moetap_publisher_close(publisher);
	remove_page(NULL);
	assert_int_equal(moetap_hint_ack(&job, NULL, 0, 1), -ESTALE);
	moetap_hint_close(&job);
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
		cmocka_unit_test_teardown(test_earlier_version, remove_page),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_refused_pages),
		cmocka_unit_test(test_torn_banks),
		cmocka_unit_test_teardown(test_overtaken, remove_page),
		cmocka_unit_test_teardown(test_torn_reads, remove_page),
		cmocka_unit_test_teardown(test_killed_writer, remove_page),
		cmocka_unit_test_teardown(test_gates, remove_page),
		cmocka_unit_test_teardown(test_split, remove_page),
		cmocka_unit_test_teardown(test_stale, remove_page),
		cmocka_unit_test(test_unknown_kinds),
		cmocka_unit_test_teardown(test_unknown_placement, remove_page),
		cmocka_unit_test_teardown(test_acks, remove_page),
		cmocka_unit_test(test_decide),
	};

	return cmocka_run_group_tests(tests, make_versions, free_versions);
}
