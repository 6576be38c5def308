/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sources: device pages whose firmware is this test, and captures whose moetap-fw is this program
 * again, started by the library with a firmware's command line.
 */
#include "common.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <zlib.h>

#include "map.h"
#include "page.h"

#define RANKS 2u
#define EXPERTS 4u
#define SLOTS 4u
#define CAPTURE_ROUNDS 23u /* more than SLOTS: the reader must pace the firmware */
#define WORDS "moetap-fw: it is broken: mend it"

static char name[MT_NAME_LEN];
static char folder[] = "/tmp/moetap-test-XXXXXX";

/* ---- a firmware ---- */

/** A map of two ranks with as many experts each; rank 0 holds those from `first` on. To be freed.
 */
static struct mt_bank *bank_of(uint32_t first, uint32_t experts)
{
	char text[1024];
	struct mt_error error;
	struct mt_bank *bank;

	snprintf(text, sizeof(text),
		"moetap-map: 1\njob: test\npattern: training\nlayers: 3\nranks:\n"
		"  - {rank: 0, address: 192.0.2.1, base: 4096, experts: [%u, %u]}\n"
		"  - {rank: 1, address: 192.0.2.2, base: 4096, experts: [%u, %u]}\n"
		"rules:\n"
		"  - {name: token, rule: va, phase: dispatch, length: 64, offset: 0, size: 65536, "
		"expert: {stride: 4096, count: %u, of: dst}, source: {stride: 2048, count: 2}, "
		"token-bytes: 64}\n",
		first, experts / 2, experts / 2 - first, experts / 2, experts / 2);
	if (mt_map_parse(text, strlen(text), "test.yaml", &bank, &error) < 0)
		fail_msg("%s", error.text);
	return bank;
}

/** Puts a map in force, as generation now + 1. */
static void use_map(struct mt_page_map *map, uint32_t first, uint32_t experts)
{
	struct mt_bank *bank = bank_of(first, experts);
	uint32_t generation = map->page->state.generation + 1;

	memcpy(mt_page_bank(map, generation), bank, bank->bytes);
	map->page->ctl.want = generation;
	__atomic_store_n(&map->page->state.generation, generation, __ATOMIC_RELEASE);
	free(bank);
}

static void start_firmware(struct mt_page_map *map, const char *page, uint32_t slots)
{
	const struct mt_page_room room = {
		.bank_bytes = 4096, .slot_bytes = mt_slot_bytes(RANKS, 8), .slots = slots};
	struct mt_error error;

	if (mt_page_create(map, page, &room, &error) < 0)
		fail_msg("%s", error.text);
	use_map(map, 0, EXPERTS);
	__atomic_store_n(&map->page->state.state, MT_STATE_RUNNING, __ATOMIC_RELEASE);
}

/** As a death does it: the lock goes, the page stays as it is. */
static void kill_firmware(struct mt_page_map *map)
{
	munmap(map->page, map->size);
	close(map->fd);
}

static struct mt_round *begin_round(struct mt_page_map *map)
{
	struct mt_round *r = mt_page_slot(map, map->page->state.head);

	__atomic_store_n(&r->seq, 0, __ATOMIC_RELEASE);
	memset((char *)r + sizeof(r->seq), 0, map->page->slot_bytes - sizeof(r->seq));
	r->round = r->step = map->page->state.head;
	r->boot_id = map->page->state.boot_id;
	r->generation = map->page->state.generation;
	r->ranks = RANKS;
	r->experts = EXPERTS;
	return r;
}

static void end_round(struct mt_page_map *map, struct mt_round *r)
{
	uint64_t head = map->page->state.head;

	__atomic_store_n(&r->seq, head + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&map->page->state.head, head + 1, __ATOMIC_RELEASE);
}

static void write_rounds(struct mt_page_map *map, int n)
{
	while (n-- > 0)
		end_round(map, begin_round(map));
}

/* ---- reading ---- */

static struct moetap_source *open_page(uint64_t from)
{
	struct moetap_source *source;
	struct moetap_error error;

	if (moetap_source_open_page(name, from, &source, &error) < 0)
		fail_msg("%s", error.text);
	return source;
}

static const struct moetap_round *next(struct moetap_source *source)
{
	const struct moetap_round *round;
	struct moetap_error error;
	int ret = moetap_source_next(source, &round, &error);

	if (ret < 0)
		fail_msg("no round: %d", ret);
	assert_int_equal(ret, 1);
	return round;
}

static void assert_none(struct moetap_source *source, int ret, const char *words)
{
	struct moetap_error error = {""};
	const struct moetap_round *round;

	assert_int_equal(moetap_source_next(source, &round, &error), ret);
	if (words != NULL && strstr(error.text, words) == NULL)
		fail_msg("'%s' is not in '%s'", words, error.text);
}

/* ---- pages ---- */

static void test_open(void **unused)
{
	struct moetap_source *source;
	struct moetap_error error;

	(void)unused;
	assert_int_equal(moetap_source_open_page(name, 0, &source, &error), -ENOENT);
	assert_non_null(strstr(error.text, "moetap-fw"));
	assert_int_equal(moetap_source_open_page("a/b", 0, &source, &error), -EINVAL);
	assert_int_equal(moetap_source_open_page("", 0, &source, NULL), -EINVAL);
	moetap_source_close(NULL);
}

static void write_full_round(struct mt_page_map *map)
{
	struct mt_round *r = begin_round(map);

	r->step = 7;
	r->layer = 2;
	r->pass = MT_PASS_BACKWARD;
	r->quality = MT_Q_GAP | MT_Q_DUPLICATE;
	r->first_ns = 100;
	r->last_ns = 200;
	r->tokens = 30;
	r->bytes = 1920;
	r->gaps = 3;
	r->duplicates = 4;
	r->counts_missing = 5;
	r->disagreements = 6;
	r->tokens_unseen = 8;
	r->stale = 9;
	r->truncated = 10;
	r->nic_drops = 11;
	r->contradictions = 12;
	r->late = 13;
	r->unmatched = 14;
	r->load_from = MT_RULE_COUNTS;
	r->witness_from = MT_RULE_INDEX;
	r->witness = MT_WITNESS_DISAGREED;
	r->witness_compared = 15;
	r->witness_differ = 2;
	r->witness_gaps = 3;
	mt_round_pairs(r)[1] = (struct mt_pair){100, 200, 3, 4};
	for (uint32_t i = 0; i < RANKS * EXPERTS; i++) {
		mt_round_tokens(r)[i] = i + 1;
		mt_round_bytes(r)[i] = 64 * (i + 1);
	}
	end_round(map, r);
}

static void test_round(void **unused)
{
	const struct moetap_round *r;
	struct moetap_source *source;
	struct mt_page_map map;

	(void)unused;
	start_firmware(&map, name, SLOTS);
	write_full_round(&map);
	source = open_page(0);
	r = next(source);
	assert_int_equal(r->round, 0);
	assert_int_equal(r->step, 7);
	assert_int_equal(r->layer, 2);
	assert_int_equal(r->pass, MOETAP_PASS_BACKWARD);
	assert_int_equal(r->quality, MOETAP_QUALITY_GAP | MOETAP_QUALITY_DUPLICATE);
	assert_int_equal(r->first_ns + r->last_ns, 300);
	assert_int_equal(r->tokens + r->bytes, 1950);
	assert_int_equal(r->gaps + 10 * r->duplicates, 43);
	assert_int_equal(r->counts_missing + 10 * r->disagreements + 100 * r->tokens_unseen, 865);
	assert_int_equal(r->stale + r->truncated + r->nic_drops, 30);
	assert_int_equal(r->contradictions + r->late + r->unmatched, 39);
	assert_string_equal(r->load_from, "payload-counts");
	assert_string_equal(r->witness_from, "payload-index");
	assert_int_equal(r->witness, MOETAP_WITNESS_DISAGREED);
	assert_string_equal(moetap_witness_name(r->witness), "disagreed");
	assert_int_equal(r->witness_compared + 10 * r->witness_differ + 100 * r->witness_gaps, 335);
	assert_int_equal(r->pairs[1].last_ns, 200);
	assert_int_equal(r->pairs[1].gaps, 3);
	assert_int_equal(r->pairs[2].last_ns, 0);
	assert_int_equal(r->cell_tokens[RANKS * EXPERTS - 1], 8);
	assert_int_equal(r->cell_bytes[RANKS * EXPERTS - 1], 512);
	assert_int_equal(r->expert_rank[1], 0);
	assert_int_equal(r->expert_rank[2], 1);
	assert_memory_equal(r->crosses, ((bool[]){false, true, true, false}), 4 * sizeof(bool));
	assert_false(r->restarted || r->map_assumed || r->lost > 0);
	assert_none(source, 0, NULL);
	moetap_source_close(source);
	mt_page_close(&map);
}

static void test_end(void **unused)
{
	struct moetap_source *source;
	struct moetap_stats stats;
	struct mt_page_map map;
	struct moetap_job job;

	(void)unused;
	start_firmware(&map, name, SLOTS);
	source = open_page(MOETAP_FROM_NOW);
	assert_int_equal(moetap_source_job(source, &job), 0);
	assert_string_equal(job.name, "test");
	assert_int_equal(job.layers + 10 * job.ranks + 100 * job.experts, 423);
	assert_int_equal(job.generation, 1);
	write_rounds(&map, 1);
	map.page->stats.packets = 11;
	map.page->stats.outcome[MT_OUT_DISPATCH] = 5;
	map.page->stats.marked = 3;
	mt_page_close(&map);
	/* What was published before the end is read first; statistics stay. */
	next(source);
	assert_none(source, -EPIPE, NULL);
	assert_none(source, -EPIPE, NULL);
	moetap_source_stats(source, &stats);
	assert_int_equal(stats.packets, 11);
	assert_int_equal(stats.outcome[0], 5);
	assert_int_equal(stats.marked, 3);
	assert_string_equal(moetap_outcome_name(0), "dispatch");
	assert_null(moetap_outcome_name(MT_OUTCOMES));
	assert_true(isnan(moetap_source_progress(source)));
	moetap_source_close(source);
}

static void test_from(void **unused)
{
	const struct {
		uint64_t from, first, lost;
	} cases[] = {{8, 8, 0}, {MOETAP_FROM_OLDEST, 6, 0}, {MOETAP_FROM_NOW, 10, 0}, {1, 6, 5}};
	struct moetap_source *source[COUNT(cases)];
	const struct moetap_round *r;
	struct mt_page_map map;

	(void)unused;
	start_firmware(&map, name, SLOTS);
	write_rounds(&map, 10);
	for (size_t i = 0; i < COUNT(cases); i++)
		source[i] = open_page(cases[i].from);
	r = next(source[0]);
	assert_int_equal(r->round, cases[0].first);
	for (size_t i = 1; i < COUNT(cases); i++) {
		if (cases[i].from == MOETAP_FROM_NOW) {
			assert_none(source[i], 0, NULL);
			continue;
		}
		r = next(source[i]);
		assert_int_equal(r->round, cases[i].first);
		assert_int_equal(r->lost, cases[i].lost);
	}
	write_rounds(&map, 1);
	r = next(source[2]);
	assert_int_equal(r->round, 10);
	for (size_t i = 0; i < COUNT(cases); i++)
		moetap_source_close(source[i]);
	mt_page_close(&map);
}

static void test_overrun(void **unused)
{
	const struct moetap_round *r;
	struct moetap_source *source;
	struct mt_page_map map;

	(void)unused;
	start_firmware(&map, name, SLOTS);
	source = open_page(0);
	write_rounds(&map, 1);
	next(source);
	write_rounds(&map, 9);
	r = next(source);
	assert_int_equal(r->round, 6);
	assert_int_equal(r->lost, 5);
	/* The slot of round 7 is being written anew: that round is lost, never torn. */
	mt_page_slot(&map, 7)->seq = 0;
	r = next(source);
	assert_int_equal(r->round, 8);
	assert_int_equal(r->lost, 1);
	r = next(source);
	assert_int_equal(r->lost, 0);
	assert_none(source, 0, NULL);
	moetap_source_close(source);
	mt_page_close(&map);
}

static void test_restart(void **unused)
{
	const struct moetap_round *r;
	struct moetap_source *source;
	struct mt_page_map map, second;

	(void)unused;
	start_firmware(&map, name, SLOTS);
	source = open_page(0);
	write_rounds(&map, 2);
	next(source);
	kill_firmware(&map);
	/* What the dead one had published is read first. */
	r = next(source);
	assert_int_equal(r->round, 1);
	assert_none(source, -EOWNERDEAD, "died");
	start_firmware(&second, name, SLOTS);
	assert_none(source, 0, NULL);
	write_rounds(&second, 2);
	r = next(source);
	assert_int_equal(r->round, 2);
	assert_true(r->restarted);
	r = next(source);
	assert_false(r->restarted);
	/* One that needs more room makes a page of its own. */
	kill_firmware(&second);
	start_firmware(&map, name, 2 * SLOTS);
	assert_none(source, -EOWNERDEAD, "restarted with a new page");
	moetap_source_close(source);
	mt_page_close(&map);
}

static void test_maps(void **unused)
{
	const struct moetap_round *r;
	struct moetap_source *source;
	struct mt_page_map map;

	(void)unused;
	start_firmware(&map, name, SLOTS);
	source = open_page(0);
	write_rounds(&map, 1);
	use_map(&map, 2, EXPERTS);
	write_rounds(&map, 1);
	/* Each round has the map that it was counted with. */
	r = next(source);
	assert_int_equal(r->generation, 1);
	assert_int_equal(r->expert_rank[2], 1);
	r = next(source);
	assert_int_equal(r->generation, 2);
	assert_int_equal(r->expert_rank[2], 0);
	assert_false(r->map_assumed);
	/* Its map was replaced twice since: the one in force stands in, and the round says so. */
	write_rounds(&map, 1);
	use_map(&map, 2, EXPERTS);
	use_map(&map, 0, EXPERTS);
	moetap_source_close(source);
	source = open_page(2);
	r = next(source);
	assert_int_equal(r->generation, 2);
	assert_true(r->map_assumed);
	assert_int_equal(r->expert_rank[2], 1);
	/* No map of as many experts is left: the round cannot be read. */
	write_rounds(&map, 1);
	use_map(&map, 0, 8);
	use_map(&map, 4, 8);
	assert_none(source, 0, NULL);
	mt_page_bank(&map, 5)->magic = 0;
	mt_page_bank(&map, 6)->magic = 0;
	write_rounds(&map, 1);
	assert_none(source, -EPROTO, "no valid map");
	moetap_source_close(source);
	mt_page_close(&map);
}

static void test_series(void **unused)
{
	struct moetap_series *series = series_of(3, EXPERTS, 0), *other = series_of(3, 5, 0);
	const uint32_t tokens[RANKS * EXPERTS] = {1, 2, 3, 4, 10, 20, 30, 40};
	struct moetap_round r = {.step = 5,
		.layer = 1,
		.ranks = RANKS,
		.experts = EXPERTS,
		.quality = MOETAP_QUALITY_GAP | MOETAP_QUALITY_TIMEOUT,
		.cell_tokens = tokens};
	double mean[3 * EXPERTS];
	uint32_t quality;

	(void)unused;
	assert_int_equal(moetap_series_add_counts(series, &r, NULL), 0);
	assert_int_equal(moetap_series_add_counts(series, &r, NULL), 0); /* a micro-batch */
	r.pass = MOETAP_PASS_BACKWARD;
	assert_int_equal(moetap_series_add_counts(series, &r, NULL), 0);
	moetap_series_mean_tokens(series, 0, mean);
	for (uint32_t e = 0; e < EXPERTS; e++)
		assert_near(mean[EXPERTS + e], 2 * 11 * (e + 1), 0);
	assert_int_equal(moetap_series_flagged(series, 0, 9, &quality, NULL), 1);
	assert_int_equal(quality, MOETAP_QUALITY_GAP);
	r.pass = MOETAP_PASS_FORWARD;
	r.quality = 0;
	r.lost = 2;
	r.step = 6;
	assert_int_equal(moetap_series_add_counts(series, &r, NULL), 0);
	moetap_series_flagged(series, 6, 6, &quality, NULL);
	assert_int_equal(quality, MOETAP_QUALITY_OVERRUN);
	assert_int_equal(moetap_series_add_counts(other, &r, NULL), -EINVAL);
	r.layer = 3;
	assert_int_equal(moetap_series_add_counts(series, &r, NULL), -EINVAL);
	moetap_series_free(series);
	moetap_series_free(other);
}

/* ---- captures ---- */

static const char *in_folder(const char *file)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", folder, file);
	return path;
}

static void write_file(const char *file, const void *data, size_t bytes)
{
	FILE *f = fopen(in_folder(file), "w");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, bytes, f), bytes);
	fclose(f);
}

static void append_file(const char *file, const void *data, size_t bytes)
{
	FILE *f = fopen(in_folder(file), "a");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, bytes, f), bytes);
	fclose(f);
}

static size_t read_file(const char *path, unsigned char *data, size_t room, bool unpack)
{
	gzFile f = gzopen(path, "r");
	FILE *raw = fopen(path, "r");
	size_t n = unpack ? (size_t)gzread(f, data, (unsigned int)room) : fread(data, 1, room, raw);

	gzclose(f);
	fclose(raw);
	return n;
}

/** Opens a capture with the firmware that behaves as `how` says. */
static int open_capture(const char *path, const char *how, struct moetap_source **source,
	struct moetap_error *error)
{
	const struct moetap_capture_options options = {.cores = 2, .tap = "heads"};

	setenv("MOETAP_TEST_FIRMWARE", how, 1);
	return moetap_source_open_capture(path, "the.yaml", &options, source, error);
}

/** Reads to the end. Returns what moetap_source_next() returned there. */
static int read_all(struct moetap_source *source, uint32_t *rounds, struct moetap_error *error)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	const struct moetap_round *r;
	int ret;

	*rounds = 0;
	while ((ret = moetap_source_next(source, &r, error)) >= 0) {
		if (ret == 0) {
			nanosleep(&pause, NULL);
			continue;
		}
		assert_int_equal(r->round, *rounds);
		assert_int_equal(r->lost, 0);
		(*rounds)++;
	}
	return ret;
}

static void assert_left_nothing(void)
{
	char *left = NULL;
	FILE *p = popen(
		"ls -d /dev/shm/moetap-capture-$PPID-* $TMPDIR/moetap-?????? 2>/dev/null", "r");
	size_t n = 0;

	assert_non_null(p);
	assert_int_equal(getline(&left, &n, p), -1);
	free(left);
	pclose(p);
}

/** Counts a capture; expects that `bytes` reach the firmware, and the end `wanted`. */
static void count(const char *path, const char *how, uint64_t bytes, int wanted, const char *words)
{
	struct moetap_source *source;
	struct moetap_error error = {""};
	struct moetap_stats stats;
	uint32_t rounds = 0;
	int ret = open_capture(path, how, &source, &error);

	if (ret < 0)
		source = NULL; /* a flaw may be met when the file is opened, or later */
	else
		ret = read_all(source, &rounds, &error);
	if (ret != wanted || strstr(error.text, words) == NULL)
		fail_msg("%s: %d '%s', not %d '%s'", path, ret, error.text, wanted, words);
	if (strcmp(how, "good") == 0) {
		assert_int_equal(rounds, CAPTURE_ROUNDS);
		moetap_source_stats(source, &stats);
		assert_int_equal(stats.bytes, bytes);
		assert_near(moetap_source_progress(source), 1, ret == -EPIPE ? 0 : 1);
	}
	moetap_source_close(source);
	assert_left_nothing();
}

static unsigned char raw[1 << 20], packed[1 << 18];

static void test_capture(void **unused)
{
	const char *path = data_path("rxe-2ranks/capture.pcap.gz");
	size_t n = read_file(path, raw, sizeof(raw), true);
	size_t small = read_file(path, packed, sizeof(packed), false);

	(void)unused;
	assert_true(n > 100000 && small > 10000);
	count(path, "good", n, -EPIPE, "");
	write_file("plain.pcap", raw, n);
	count(in_folder("plain.pcap"), "good", n, -EPIPE, "");
	/* Only a header: no packets, no error. */
	write_file("empty.pcap", raw, 24);
	count(in_folder("empty.pcap"), "good", 24, -EPIPE, "");
	/* Cut in the file, in a record, in a record's header. */
	write_file("cut.pcap.gz", packed, small / 2);
	count(in_folder("cut.pcap.gz"), "any", 0, -EBADMSG, "cut.pcap.gz: the gzip file is cut");
	write_file("cut.pcap", raw, n - 1);
	count(in_folder("cut.pcap"), "good", n - 1, -EBADMSG, "cut.pcap: cut short in record 946");
	write_file("cut.pcap", raw, 24 + 10);
	count(in_folder("cut.pcap"), "good", 24, -EBADMSG, "cut short in record 1;");
	/* Several members of gzip, and zeros behind them, are one capture; anything else is not. */
	write_file("many.pcap.gz", packed, small);
	append_file("many.pcap.gz", "\0\0\0", 3);
	count(in_folder("many.pcap.gz"), "good", n, -EPIPE, "");
	append_file("many.pcap.gz", "\x1f garbage", 9);
	count(in_folder("many.pcap.gz"), "any", 0, -EBADMSG, "many.pcap.gz: damaged after 946");
	write_file("more.pcap.gz", packed, small);
	append_file("more.pcap.gz", "garbage", 7);
	count(in_folder("more.pcap.gz"), "good", n, -EBADMSG,
		"more.pcap.gz: after the gzip data, and 946 records, something else follows");
	/* Damaged gzip. */
	memset(packed + small / 2, 0x55, 64);
	write_file("bad.pcap.gz", packed, small);
	count(in_folder("bad.pcap.gz"), "any", 0, -EBADMSG, "bad.pcap.gz: ");
}

static uint32_t swap(uint32_t value)
{
	return __builtin_bswap32(value);
}

static void test_formats(void **unused)
{
	/* Two records of 4 bytes; the last one's length is set below. */
	uint32_t pcap[] = {
		0xa1b23c4d, 0x00040002, 0, 0, 65535, 1, 1, 2, 4, 60, 0xabcd, 1, 3, 4, 60, 0xabcd};
	uint32_t big[COUNT(pcap)];
	uint32_t pcapng[] = {0x0a0d0d0a, 28, 0x1a2b3c4d, 1, 0xffffffff, 0xffffffff, 28, 1, 20, 1, 0,
		20, 6, 36, 0, 0, 0, 4, 60, 0xabcd, 36};

	(void)unused;
	write_file("ns.pcap", pcap, sizeof(pcap));
	count(in_folder("ns.pcap"), "good", sizeof(pcap), -EPIPE, "");
	for (size_t i = 0; i < COUNT(pcap); i++)
		big[i] = swap(pcap[i]);
	write_file("big.pcap", big, sizeof(big));
	count(in_folder("big.pcap"), "good", sizeof(big), -EPIPE, "");
	pcap[13] = 262145;
	write_file("lie.pcap", pcap, sizeof(pcap));
	count(in_folder("lie.pcap"), "good", 44, -EBADMSG,
		"lie.pcap: damaged: record 2, at byte 44");
	write_file("new.pcapng", pcapng, sizeof(pcapng));
	count(in_folder("new.pcapng"), "good", sizeof(pcapng), -EPIPE, "");
	write_file("cut.pcapng", pcapng, sizeof(pcapng) - 4);
	count(in_folder("cut.pcapng"), "good", sizeof(pcapng) - 4, -EBADMSG, "cut short");
	for (size_t i = 0; i < COUNT(pcapng); i++)
		pcapng[i] = swap(pcapng[i]);
	pcapng[9] = swap(1u << 16); /* two numbers of 16 bits */
	write_file("big.pcapng", pcapng, sizeof(pcapng));
	count(in_folder("big.pcapng"), "good", sizeof(pcapng), -EPIPE, "");
	pcapng[8] = swap(21);
	write_file("lie.pcapng", pcapng, sizeof(pcapng));
	count(in_folder("lie.pcapng"), "good", 28, -EBADMSG, "record 2, at byte 28");
}

/* A section, two interfaces, a packet of the second one. */
#define TWO_INTERFACES(link, snap, interface)                                                      \
	{                                                                                          \
		0x0a0d0d0a, 28, 0x1a2b3c4d, 1, 0xffffffff, 0xffffffff, 28, 1, 20, 1, 0, 20, 1, 20, \
			link, snap, 20, 6, 36, interface, 0, 0, 4, 60, 0xabcd, 36                  \
	}

static void test_interfaces(void **unused)
{
	uint32_t shorter[] = TWO_INTERFACES(1, 128, 1), cooked[] = TWO_INTERFACES(113, 0, 0);
	uint32_t third[] = TWO_INTERFACES(1, 0, 2), big[COUNT(shorter)];
	/* A section in another byte order behind the first one. */
	uint32_t mixed[2 * COUNT(shorter)];

	(void)unused;
	write_file("two.pcapng", shorter, sizeof(shorter));
	count(in_folder("two.pcapng"), "good", sizeof(shorter), -EPIPE, "");
	write_file("cooked.pcapng", cooked, sizeof(cooked));
	count(in_folder("cooked.pcapng"), "good", 48, -EBADMSG,
		"cooked.pcapng: record 3: interface 1 has link type 113, which is not Ethernet");
	write_file("third.pcapng", third, sizeof(third));
	count(in_folder("third.pcapng"), "good", 68, -EBADMSG,
		"third.pcapng: damaged: record 4 is a packet of interface 2, and there are 2");
	for (size_t i = 0; i < COUNT(big); i++)
		big[i] = swap(shorter[i]);
	big[14] = swap(1u << 16); /* two numbers of 16 bits */
	big[9] = swap(1u << 16);
	memcpy(mixed, big, sizeof(big));
	memcpy(mixed + COUNT(big), big, sizeof(big));
	write_file("big.pcapng", mixed, sizeof(mixed));
	count(in_folder("big.pcapng"), "good", sizeof(mixed), -EPIPE, "");
	memcpy(mixed + COUNT(big), shorter, sizeof(shorter));
	write_file("mixed.pcapng", mixed, sizeof(mixed));
	count(in_folder("mixed.pcapng"), "good", sizeof(big), -EBADMSG,
		"mixed.pcapng: record 5: a section in another byte order");
}

static void test_no_captures(void **unused)
{
	uint32_t linux_cooked[] = {0xa1b2c3d4, 0x00040002, 0, 0, 65535, 113};
	uint32_t raw_ip[] = {0xa1b2c3d4, 0x00040002, 0, 0, 65535, 101};
	uint32_t cooked[] = {
		0x0a0d0d0a, 28, 0x1a2b3c4d, 1, 0xffffffff, 0xffffffff, 28, 1, 20, 113, 0, 20};
	uint32_t none[] = {0x0a0d0d0a, 28, 0x1a2b3c4d, 1, 0xffffffff, 0xffffffff, 28, 6, 36, 0, 0,
		0, 4, 60, 0xabcd, 36};
	const struct {
		const char *file;
		const void *data;
		size_t bytes;
		const char *words;
	} files[] = {{"empty", "", 0, "empty: empty"}, {"short", "ab", 2, "too short"},
		{"text.csv", "a,b,c,d,e,f\n1,2,3,4,5,6\n", 24, "text.csv: not a capture"},
		{"half.pcap", "\xd4\xc3\xb2\xa1\2\0", 6, "header: 6 of 24 bytes"},
		{"any.pcap", linux_cooked, sizeof(linux_cooked),
			"link type 113 is not Ethernet: capture on one"},
		{"ip.pcap", raw_ip, sizeof(raw_ip),
			"link type 101 is not Ethernet: capture on an Eth"},
		{"any.pcapng", cooked, sizeof(cooked), "any.pcapng: link type 113 is not Ethernet"},
		{"none.pcapng", none, sizeof(none),
			"describes no interface before its first packet"},
		{"cut.pcapng", none, 28, "describes no interface"},
		{"x.pcap.zst", "\x28\xb5\x2f\xfd", 4, "packed with zstd, and only gzip"},
		{"x.pcap.bz2", "BZh9", 4, "bzip2 -dc FILE | moetap count"}};
	struct moetap_source *source;
	struct moetap_error error;

	(void)unused;
	for (size_t i = 0; i < COUNT(files); i++) {
		write_file(files[i].file, files[i].data, files[i].bytes);
		assert_int_equal(
			open_capture(in_folder(files[i].file), "good", &source, &error), -EBADMSG);
		if (strstr(error.text, files[i].words) == NULL)
			fail_msg("'%s' is not in '%s'", files[i].words, error.text);
	}
	assert_int_equal(open_capture(in_folder("none"), "good", &source, &error), -ENOENT);
	assert_non_null(strstr(error.text, "none: No such file"));
	assert_int_equal(open_capture(folder, "good", &source, &error), -EISDIR);
	assert_left_nothing();
}

static void test_bad_firmware(void **unused)
{
	const char *path = data_path("rxe-2ranks/capture.pcap.gz");
	char firmware[4096];
	const struct moetap_round *round;
	struct moetap_source *source;
	struct moetap_error error;
	int ret;

	(void)unused;
	assert_int_equal(open_capture(path, "refuse", &source, &error), -EIO);
	assert_string_equal(error.text, WORDS);
	count(path, "die", 0, -EIO, "died of signal 9");
	count(path, "fail", 0, -EIO, WORDS);
	count(path, "deaf", 0, -EBADMSG, "stopped reading");
	/* Closed before its end. */
	assert_int_equal(open_capture(path, "good", &source, &error), 0);
	while ((ret = moetap_source_next(source, &round, &error)) == 0)
		usleep(100);
	assert_int_equal(ret, 1);
	moetap_source_close(source);
	assert_left_nothing();
	moetap_firmware_path(firmware, sizeof(firmware));
	setenv("MOETAP_FW", "/no/such/moetap-fw", 1);
	assert_int_equal(open_capture(path, "good", &source, &error), -EIO);
	assert_non_null(strstr(error.text, "/no/such/moetap-fw cannot be started"));
	setenv("MOETAP_FW", firmware, 1);
	assert_left_nothing();
}

/* ---- this program as moetap-fw ---- */

/** The argument after an option; ends the program where there is none. */
static const char *argument(int argc, char **argv, const char *option)
{
	for (int i = 1; i + 1 < argc; i++)
		if (strcmp(argv[i], option) == 0)
			return argv[i + 1];
	fprintf(stderr, "moetap-fw: no %s\n", option);
	exit(1);
}

static void pause_until(const uint64_t *word, uint64_t value)
{
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) < value)
		usleep(100);
}

static volatile sig_atomic_t quit;

static void on_signal(int signal_number)
{
	(void)signal_number;
	quit = 1;
}

/** Writes rounds no faster than the reader reads. */
static void publish_paced(struct mt_page_map *map)
{
	for (uint32_t i = 0; i < CAPTURE_ROUNDS && !quit; i++) {
		while (!quit &&
			i >= SLOTS + __atomic_load_n(&map->page->ctl.paced_head, __ATOMIC_ACQUIRE))
			usleep(100);
		if (!quit)
			write_rounds(map, 1);
	}
	if (!quit)
		pause_until(&map->page->ctl.paced_head, CAPTURE_ROUNDS);
}

static int fail_as_told(const char *how)
{
	if (strcmp(how, "die") == 0)
		kill(getpid(), SIGKILL);
	fprintf(stderr, "DPDK says this and that\n" WORDS "\n\n");
	_exit(1); /* without closing the page: as a crash does */
}

static int be_firmware(int argc, char **argv)
{
	const char *how = getenv("MOETAP_TEST_FIRMWARE");
	const struct sigaction action = {.sa_handler = on_signal};
	struct mt_page_map map;
	uint64_t bytes = 0;
	ssize_t n;

	sigaction(SIGTERM, &action, NULL);
	if (strcmp(how, "refuse") == 0 || strcmp(argument(argc, argv, "--map"), "the.yaml") != 0 ||
		strcmp(argument(argc, argv, "--tap"), "heads") != 0 ||
		strncmp(argument(argc, argv, "--lcores"), "(0-2)@(", 7) != 0 ||
		strcmp(argument(argc, argv, "--vdev"), "net_pcap0,rx_pcap=-") != 0)
		return fail_as_told("");
	start_firmware(&map, argument(argc, argv, "--page"), SLOTS);
	while (__atomic_load_n(&map.page->ctl.attached, __ATOMIC_ACQUIRE) == 0)
		usleep(100);
	if (strcmp(how, "die") == 0 || strcmp(how, "fail") == 0)
		return fail_as_told(how);
	while (strcmp(how, "deaf") != 0 && (n = read(STDIN_FILENO, raw, sizeof(raw))) > 0)
		bytes += (uint64_t)n;
	map.page->stats.bytes = bytes;
	publish_paced(&map);
	mt_page_close(&map);
	return 0;
}

/* ---- all ---- */

static int set_up(void **unused)
{
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	(void)unused;
	self[n > 0 ? n : 0] = '\0';
	snprintf(name, sizeof(name), "test-source-%d", (int)getpid());
	return mkdtemp(folder) == NULL || setenv("TMPDIR", folder, 1) != 0 ||
	       setenv("MOETAP_FW", self, 1) != 0;
}

static int tear_down(void **unused)
{
	char command[64];

	(void)unused;
	snprintf(command, sizeof(command), "rm -r %s", folder);
	return system(command);
}

static int remove_page(void **unused)
{
	char path[MT_NAME_LEN + 16];

	(void)unused;
	snprintf(path, sizeof(path), MT_PAGE_PREFIX "%s", name);
	shm_unlink(path);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_open, remove_page),
		cmocka_unit_test_teardown(test_round, remove_page),
		cmocka_unit_test_teardown(test_end, remove_page),
		cmocka_unit_test_teardown(test_from, remove_page),
		cmocka_unit_test_teardown(test_overrun, remove_page),
		cmocka_unit_test_teardown(test_restart, remove_page),
		cmocka_unit_test_teardown(test_maps, remove_page),
		cmocka_unit_test(test_series),
		cmocka_unit_test(test_capture),
		cmocka_unit_test(test_formats),
		cmocka_unit_test(test_interfaces),
		cmocka_unit_test(test_no_captures),
		cmocka_unit_test(test_bad_firmware),
	};

	if (argc > 1)
		return be_firmware(argc, argv);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
