/* SPDX-License-Identifier: BSD-3-Clause */
/* Counts in payloads and a second signal of the same tokens, on queue pairs of their own: what is
 * the same agrees, what is not is told in its round, and what was not seen is no disagreement. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>

#include "path.h"

#define RANKS 3u
#define QPS 4u /* of a (source, destination); the first one has the counts */
#define ROUNDS 24u
#define MOST (1u << 16) /* frames of a job */
#define HEADS (14 + 20 + 8 + 12)
#define COMBINE 7u /* bytes of a result */
#define PAUSE 5u   /* bytes of a message that means nothing */
#define TOKEN 128u /* of a token, where messages say only how long they are */
#define NOBODY UINT32_MAX

enum kind { VA, LENGTH, SEND, INDEX, DENSE, COUNT, KINDS };

/** A made-up job. */
struct made {
	enum kind kind;
	uint32_t experts; /* of a rank */
	uint32_t announcers;
	bool first;	/* counts are sent before tokens, else among them */
	bool repeats;	/* after every second round a dispatch comes again, without counts */
	bool quiet;	/* results do not take the last queue pair */
	bool nearby;	/* of rank 2 to rank 1 only counts take the wire */
	uint32_t far;	/* frames that may change places */
	uint32_t twice; /* of 64 frames, so many come once more */
};

struct wire {
	uint8_t data[HEADS + 20 + 512];
	uint32_t bytes, key, round, qp;
	bool counts, gone;
};

static struct path path;
static struct wire *frames;
static char what[64];
static uint32_t frame_count, at_round, psn[RANKS][RANKS][QPS], truth[ROUNDS][RANKS][RANKS][8];
static uint32_t lie_round; /* in which one witness message from rank 0 to rank 1 lies */
static uint64_t seed = 1;

static uint32_t draw(uint32_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % below;
}

static struct mt_bank *bank_of(const struct made *j)
{
	static const char *const rules[KINDS] = {
		[VA] = "va, phase: dispatch, length: 128, size: 0x%x, expert: {stride: 0x10000, "
		       "count: %u}",
		[LENGTH] =
			"length, phase: dispatch, length: [64, 65536], token-bytes: 128, expert: "
			"{fixed: 0}",
		[SEND] = "length, phase: dispatch, length: [64, 512], token-bytes: 128, expert: "
			 "{fixed: 0}",
		[INDEX] = "payload-index, phase: dispatch, length: [64, 4096], payload: {at: 8, "
			  "width: 4, of: all, count: 2, stride: 20}",
		[DENSE] = "payload-dense, phase: dispatch, length: [48, 4096], payload: {width: 4}",
		[COUNT] = "atomic, phase: count, size: 0x%x, expert: {stride: 0x10000, count: %u}, "
			  "value: {scale: 1}"};
	char text[4096];
	struct mt_error err = {""};
	struct mt_bank *bank;
	size_t n = (size_t)snprintf(text, sizeof(text),
		"moetap-map: 1\njob: two\npattern: inference\nlayers: 2\nexperts-per-rank: %u\n"
		"ranks:\n",
		j->experts);

	for (uint32_t r = 0; r < RANKS; r++)
		n += (size_t)snprintf(text + n, sizeof(text) - n,
			"- {rank: %u, address: 10.0.0.%u, base: 0x%lx}\n", r, r + 1, job_base(r));
	n += (size_t)snprintf(text + n, sizeof(text) - n,
		"rules:\n- {name: counts, rule: payload-counts, phase: dispatch, length: %u, "
		"payload: {width: 4}, announcers: %u}\n"
		"- {name: pause, rule: length, phase: control, length: %u}\n"
		"- {name: result, rule: length, phase: combine, length: %u}\n- {name: witness, "
		"rule: ",
		4 * j->experts, j->announcers, PAUSE, COMBINE);
	n += (size_t)snprintf(
		text + n, sizeof(text) - n, rules[j->kind], j->experts << 16, j->experts);
	snprintf(text + n, sizeof(text) - n, "}\n");
	MUST_SAY(mt_map_parse(text, strlen(text), "map", &bank, &err) == 0, "%s\n%s", err.text,
		text);
	return bank;
}

static struct wire *add(struct frame f, uint32_t qp, const void *from, uint32_t payload)
{
	struct wire *w = &frames[frame_count];
	uint32_t heads;

	assert_true(frame_count < MOST);
	*w = (struct wire){.round = at_round, .qp = qp};
	f.psn = psn[f.src][f.dst][qp]++;
	f.qpn = 0x11 + f.src + 64 * qp;
	f.payload = payload;
	heads = frame_make(w->data, &f);
	memcpy(w->data + heads, from, payload);
	w->bytes = heads + payload;
	frame_count++;
	return w;
}

/** A message of the witness, in packets of at most 64 bytes. */
static void add_message(struct frame f, uint32_t qp, const void *data, uint32_t length, bool send)
{
	f.length = length;
	for (uint32_t at = 0, part; at < length; at += part) {
		part = RTE_MIN(length - at, 64u);
		if (length <= 64)
			f.opcode = send ? OP_SEND_ONLY : OP_WRITE_ONLY;
		else if (at == 0)
			f.opcode = send ? OP_SEND_FIRST : OP_WRITE_FIRST;
		else if (at + part < length)
			f.opcode = send ? OP_SEND_MIDDLE : OP_WRITE_MIDDLE;
		else
			f.opcode = send ? OP_SEND_LAST : OP_WRITE_LAST;
		add(f, qp, (const uint8_t *)data + at, part);
	}
}

/** One token for expert e of the destination, as the kind of witness shows it. */
static void add_token(const struct made *j, uint32_t src, uint32_t dst, uint32_t e)
{
	struct frame f = {.src = src, .dst = dst, .va = job_base(dst) + e * 0x10000};
	uint32_t words[64], qp = draw(QPS);

	if (j->kind == LENGTH || j->kind == SEND) {
		memset(words, 0, sizeof(words));
		add_message(f, qp, words, TOKEN, j->kind == SEND);
	} else if (j->kind == VA) {
		memset(words, 0, sizeof(words));
		add_message(f, qp, words, 128, false);
	} else if (j->kind == INDEX) { /* one of four tokens goes there, the others nowhere */
		memset(words, 0xff, sizeof(words));
		words[2 + draw(4) * 5 + draw(2)] = dst * j->experts + e;
		add_message(f, qp, words, 80, false);
	} else if (j->kind == DENSE) {
		uint32_t rows = 64 / (4 * j->experts);

		memset(words, 0, sizeof(words));
		words[draw(rows) * j->experts + e] = 0x3f800000;
		add_message(f, qp, words, rows * j->experts * 4, false);
	} else {
		f.opcode = OP_FETCH_ADD;
		f.operand = 1;
		add(f, qp, "", 0);
	}
}

static void add_counts(const struct made *j, uint32_t src, uint32_t dst, const uint32_t *tokens)
{
	struct frame f = {.src = src,
		.dst = dst,
		.va = job_base(dst),
		.length = 4 * j->experts,
		.opcode = OP_WRITE_ONLY};
	uint32_t rest[8];

	memcpy(rest, tokens, sizeof(rest));
	for (uint32_t a = 0; a < j->announcers; a++) {
		uint32_t part[8];

		for (uint32_t e = 0; e < j->experts; e++) {
			part[e] = a + 1 == j->announcers ? rest[e] : draw(rest[e] + 1);
			rest[e] -= part[e];
		}
		add(f, a, part, 4 * j->experts)->counts = true;
	}
}

/** What a source sends for one destination; @p told: with counts. */
static void add_dispatch(const struct made *j, uint32_t src, uint32_t dst, bool told)
{
	uint32_t *t = truth[at_round][src][dst], when = j->first ? 0 : draw(5), n = 0;
	bool near = j->nearby && src == 2 && dst == 1;

	for (uint32_t e = 0; told && e < j->experts; e++)
		t[e] = draw(4);
	if (told && at_round == lie_round && src == 0 && dst == 1) {
		t[0] = 2;
		t[1] = 1;
	}
	if (told && when == 0)
		add_counts(j, src, dst, t);
	for (uint32_t e = 0; e < j->experts && !near; e++)
		for (uint32_t i = 0; i < t[e]; i++) {
			bool lie = told && at_round == lie_round && src == 0 && dst == 1 &&
				   e == 0 && i == 0;

			/* the liar's first token goes to the other expert; of bytes, is none */
			if (!lie || (j->kind != LENGTH && j->kind != SEND))
				add_token(j, src, dst, lie ? 1 : e);
			if (++n == when && told)
				add_counts(j, src, dst, t);
		}
	if (told && (near ? when != 0 : n < when))
		add_counts(j, src, dst, t);
}

/** What parts a dispatch and its results by more than frames overtake each other. */
static void add_pause(void)
{
	for (uint32_t i = 0; i < 64; i++)
		add((struct frame){.src = i % RANKS,
			    .dst = (i + 1) % RANKS,
			    .length = PAUSE,
			    .opcode = OP_WRITE_ONLY},
			0, "pause", PAUSE);
}

static void add_combine(const struct made *j, uint32_t src)
{
	for (uint32_t dst = 0; dst < RANKS; dst++)
		for (uint32_t qp = 0; qp < QPS - j->quiet && dst != src; qp++)
			for (uint32_t i = 0; i < 8; i++)
				add((struct frame){.src = src,
					    .dst = dst,
					    .length = COMBINE,
					    .opcode = OP_WRITE_ONLY},
					qp, "result", COMBINE);
}

static void add_all_to_all(const struct made *j, bool told)
{
	for (uint32_t src = 0; src < RANKS; src++)
		for (uint32_t dst = 0; dst < RANKS; dst++)
			if (dst != src)
				add_dispatch(j, src, dst, told);
	add_pause();
	for (uint32_t src = 0; src < RANKS; src++)
		add_combine(j, src);
	add_pause();
}

static int by_key(const void *a, const void *b)
{
	const struct wire *x = a, *y = b;

	return x->key < y->key ? -1 : x->key > y->key;
}

static void make(const struct made *j, uint32_t lie)
{
	frame_count = 0;
	lie_round = lie;
	memset(psn, 0, sizeof(psn));
	memset(truth, 0, sizeof(truth));
	for (at_round = 0; at_round < ROUNDS; at_round++) {
		add_all_to_all(j, true);
		if (j->repeats && at_round % 2 == 1)
			add_all_to_all(j, false);
	}
	for (uint32_t i = 0, n = frame_count; i < n; i++) {
		frames[i].key = (i + draw(j->far + 1)) * 2;
		if (draw(64) < j->twice) {
			frames[frame_count] = frames[i];
			frames[frame_count++].key += 2 * draw(20) + 1;
		}
	}
	qsort(frames, frame_count, sizeof(*frames), by_key);
}

static void play(const struct made *j, uint32_t cores, bool started)
{
	path_use(&path, bank_of(j), cores, 64);
	for (uint32_t i = 0; started && i < cores; i++)
		fw_start_all(path.core[i]);
	for (uint32_t i = 0; i < frame_count; i++) {
		if (!frames[i].gone)
			path_receive(&path, frames[i].data, frames[i].bytes, 1000 * (i + 1));
		path_pump(&path);
	}
	path_end(&path);
}

static uint32_t wrong_cells(const struct made *j, struct mt_round *m)
{
	uint32_t wrong = 0;

	for (uint32_t src = 0; src < RANKS; src++)
		for (uint32_t x = 0; x < RANKS * j->experts; x++)
			wrong += mt_round_tokens(m)[src * RANKS * j->experts + x] !=
				 truth[m->round][src][x / j->experts][x % j->experts];
	return wrong;
}

static struct made any_job(uint32_t i)
{
	struct made j = {.kind = i % KINDS,
		.experts = 2 + draw(3),
		.announcers = 1 + draw(2),
		.first = draw(2),
		.repeats = draw(2),
		.nearby = draw(2),
		.twice = draw(2)};

	return j;
}

/** Loads are the counts, and the witness agrees, however frames overtake each other a little. */
static void test_agrees(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 60; i++) {
		struct made j = any_job(i);

		if (j.kind == VA || j.kind == LENGTH || j.kind == COUNT)
			j.far = draw(2) * 8; /* of others, parts of one message in their order */
		snprintf(what, sizeof(what), "job %u, kind %u, %u cores", i, j.kind, 1 + i % 2);
		path_what = what;
		make(&j, NOBODY);
		play(&j, 1 + i % 2, j.far == 0 && draw(2));
		assert_int_equal(path.published, ROUNDS);
		for (uint32_t n = 0; n < ROUNDS; n++) {
			struct mt_round *m = path.round[n];
			uint32_t pairs = RANKS * (RANKS - 1) - j.nearby;

			assert_int_equal(m->quality & MT_Q_INEXACT, 0);
			assert_int_equal(wrong_cells(&j, m), 0);
			assert_int_equal(m->load_from, MT_RULE_COUNTS);
			assert_int_equal(m->witness, MT_WITNESS_AGREED);
			if (n > 4) /* every pair was seen with tokens by then */
				assert_int_equal(m->witness_compared,
					pairs * (j.kind == LENGTH || j.kind == SEND ? 1
										    : j.experts));
		}
		path_drop(&path);
	}
}

/** A witness that says something else in one round: that round tells, by its cells, no other. */
static void test_lies(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 60; i++) {
		struct made j = any_job(i);
		uint32_t lie = 2 + draw(ROUNDS - 6);
		uint32_t cells = j.kind == LENGTH || j.kind == SEND ? 1 : 2;

		j.repeats = false;
		make(&j, lie);
		play(&j, 1 + i % 2, draw(2));
		assert_int_equal(path.published, ROUNDS);
		for (uint32_t n = 0; n < ROUNDS; n++) {
			struct mt_round *m = path.round[n];

			assert_int_equal(wrong_cells(&j, m), 0); /* the counts are right */
			assert_int_equal(
				m->witness, n == lie ? MT_WITNESS_DISAGREED : MT_WITNESS_AGREED);
			assert_int_equal(m->witness_differ, n == lie ? cells : 0);
			assert_int_equal(m->disagreements, n == lie ? cells : 0);
			assert_int_equal(m->witness_gaps, 0);
			assert_int_equal(m->quality & MT_Q_INEXACT, n == lie ? MT_Q_DISAGREE : 0);
		}
		path_drop(&path);
	}
}

/** Frames that the tap did not see are a gap of the witness, never a disagreement. */
static void test_lost(void **state)
{
	uint32_t gaps = 0, agreed = 0;

	(void)state;
	for (uint32_t i = 0; i < 120; i++) {
		struct made j = any_job(i);
		uint32_t part = 1 + draw(40);
		bool any = draw(2); /* else none of a queue pair that has counts */

		make(&j, NOBODY);
		for (uint32_t n = 0; n < frame_count; n++)
			frames[n].gone = frames[n].round > 1 && frames[n].round < ROUNDS - 3 &&
					 (any || frames[n].qp >= j.announcers) && draw(1000) < part;
		play(&j, 1 + i % 2, draw(2));
		for (uint32_t n = 0; n < path.published; n++) {
			struct mt_round *m = path.round[n];

			assert_int_not_equal(m->witness, MT_WITNESS_DISAGREED);
			assert_int_equal(m->witness_differ, 0);
			gaps += m->witness == MT_WITNESS_GAP;
			agreed += m->witness == MT_WITNESS_AGREED;
			if (!any) {
				assert_int_equal(path.published, ROUNDS);
				assert_int_equal(wrong_cells(&j, m), 0);
			}
			if (!(m->quality & MT_Q_INEXACT))
				assert_int_equal(wrong_cells(&j, m), 0);
		}
		path_drop(&path);
	}
	assert_true(gaps > 100 && agreed > 100);
}

/** Parts of one message that overtake each other cannot be read: a gap of the witness alone. */
static void test_overtaken(void **state)
{
	uint32_t gaps = 0;

	(void)state;
	for (uint32_t i = 0; i < 60; i++) {
		struct made j = any_job(i);

		j.far = 1 + draw(40);
		make(&j, NOBODY);
		play(&j, 1 + i % 2, false);
		assert_int_equal(path.published, ROUNDS);
		for (uint32_t n = 0; n < ROUNDS; n++) {
			assert_int_equal(path.round[n]->quality & MT_Q_INEXACT, 0);
			assert_int_equal(wrong_cells(&j, path.round[n]), 0);
			gaps += path.round[n]->witness == MT_WITNESS_GAP;
		}
		path_drop(&path);
	}
	assert_true(gaps > 0);
}

/** The end of what a queue pair carries, and rounds after it, are not seen: its PSNs tell late. */
static void test_tail(void **state)
{
	struct made j = {.kind = VA, .experts = 2, .announcers = 1, .first = true, .quiet = true};

	(void)state;
	make(&j, NOBODY);
	for (uint32_t n = 0; n < frame_count; n++)
		frames[n].gone =
			frames[n].round > 8 && frames[n].round < 13 && frames[n].qp == QPS - 1;
	play(&j, 1, true);
	assert_int_equal(path.published, ROUNDS);
	for (uint32_t n = 0; n < ROUNDS; n++) {
		assert_int_equal(path.round[n]->quality & MT_Q_INEXACT, 0);
		assert_int_equal(wrong_cells(&j, path.round[n]), 0);
		if (n < 8 || n > 14)
			assert_int_equal(path.round[n]->witness, MT_WITNESS_AGREED);
	}
	assert_int_equal(path.round[10]->witness, MT_WITNESS_GAP);
	path_drop(&path);
}

/** Counts that never came are not made up for by the witness: the round says that they are missing.
 */
static void test_no_counts(void **state)
{
	struct made j = {.kind = VA, .experts = 2, .announcers = 1, .first = true};

	(void)state;
	make(&j, NOBODY);
	for (uint32_t n = 0; n < frame_count; n++)
		frames[n].gone = frames[n].round == 9 && frames[n].counts &&
				 frames[n].data[29] == 1 && frames[n].data[33] == 2;
	play(&j, 1, true);
	assert_int_equal(path.published, ROUNDS);
	assert_int_equal(path.round[9]->counts_missing, j.experts);
	assert_true(path.round[9]->quality & MT_Q_GAP);
	assert_int_equal(path.round[9]->load_from, MT_RULE_COUNTS);
	for (uint32_t e = 0; e < j.experts; e++)
		assert_int_equal(
			mt_round_tokens(path.round[9])[0 * RANKS * j.experts + j.experts + e], 0);
	path_drop(&path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_agrees),
		cmocka_unit_test(test_lies),
		cmocka_unit_test(test_lost),
		cmocka_unit_test(test_overtaken),
		cmocka_unit_test(test_tail),
		cmocka_unit_test(test_no_counts),
	};

	path_start_dpdk();
	path_init(&path);
	frames = calloc(MOST, sizeof(*frames));
	MUST(frames != NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
