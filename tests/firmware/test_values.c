/* SPDX-License-Identifier: BSD-3-Clause */
/* Tokens that payloads and immediates tell: whole and in parts, in any order, cut and lost. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>

#include "path.h"

#define RANKS 3u
#define ROUNDS 20u
#define MOST 8192   /* frames of a job */
#define FILLING 14u /* messages that mean nothing, of a (source, destination) and round */
#define HEADS (14 + 20 + 8 + 12)

/** How a made-up job writes its counts. */
struct vector {
	uint32_t experts;		      /* of a rank */
	uint32_t width, at, mtu, tail;	      /* tail: bytes of the message behind the integers */
	bool complement, all, imm, announces; /* announces: phase count, tokens are messages */
	bool twice; /* on two flows, each of which has half of the tokens */
	bool sent;  /* as SENDs, known by their first byte: integers lie behind it */
};

struct wire {
	uint8_t data[HEADS + 20 + 4096];
	uint32_t bytes, key, pauses; /* pauses: of the job before it */
};

static struct path path;
static struct wire *frames;
static uint32_t frame_count, pauses, psn[RANKS][RANKS][2];
static uint64_t seed = 1;

static uint32_t draw(uint32_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % below;
}

#define KIND 0xa5u /* of counts, among SENDs */

static uint32_t length_of(const struct vector *v)
{
	return v->at + v->width * v->experts * (v->all ? RANKS : 1) + v->tail;
}

static struct mt_bank *bank_of(const struct vector *v)
{
	char text[4096];
	struct mt_error err = {""};
	struct mt_bank *bank;
	size_t n = (size_t)snprintf(text, sizeof(text),
		"moetap-map: 1\njob: vectors\npattern: inference\nlayers: 2\n"
		"experts-per-rank: %u\nranks:\n",
		v->experts);

	for (uint32_t r = 0; r < RANKS; r++)
		n += (size_t)snprintf(text + n, sizeof(text) - n,
			"- {rank: %u, address: 10.0.0.%u, base: 0x%lx}\n", r, r + 1, job_base(r));
	n += (size_t)snprintf(text + n, sizeof(text) - n,
		"rules:\n- {name: counts, rule: payload-counts, phase: %s, length: %u, payload: "
		"{at: %u, width: %u, encoding: %s, of: %s}, "
		"announcers: %u%s}\n",
		v->announces ? "count" : "dispatch", length_of(v), v->at, v->width,
		v->complement ? "complement" : "plain", v->all ? "all" : "dst", v->twice ? 2 : 1,
		v->sent ? ", match: [{at: 0, width: 1, mask: 0x1f, value: 5}]" : "");
	n += (size_t)snprintf(text + n, sizeof(text) - n,
		"- {name: filling, rule: length, phase: control, length: %s}\n",
		v->sent ? "[0, 4096]" : "7");
	if (v->announces)
		snprintf(text + n, sizeof(text) - n,
			"- {name: token, rule: va, phase: dispatch, length: 8192, size: 0x%x, "
			"expert: "
			"{stride: 0x10000, count: %u}}\n",
			v->experts << 16, v->experts);
	MUST_SAY(mt_map_parse(text, strlen(text), "map", &bank, &err) == 0, "%s\n%s", err.text,
		text);
	return bank;
}

static void use(const struct vector *v, uint32_t cores, bool started)
{
	path_use(&path, bank_of(v), cores, 64);
	for (uint32_t i = 0; started && i < cores; i++)
		fw_start_all(path.core[i]);
	memset(psn, 0, sizeof(psn));
	frame_count = 0;
}

/** A packet with @p payload bytes of @p from. */
static void add(struct frame f, const uint8_t *from, uint32_t payload)
{
	struct wire *w = &frames[frame_count];
	uint32_t heads;

	assert_true(frame_count < MOST);
	f.psn = psn[f.src][f.dst][f.qpn]++;
	f.qpn = 0x11 + f.src + 64 * f.qpn; /* the first, or the second of the two ranks */
	f.payload = payload;
	heads = frame_make(w->data, &f);
	memcpy(w->data + heads, from, payload);
	w->bytes = heads + payload;
	w->pauses = pauses;
	w->key = frame_count++;
}

static void add_vector(
	const struct vector *v, uint32_t src, uint32_t dst, uint32_t qp, const uint32_t *tokens)
{
	uint8_t message[65536] = {0};
	uint32_t length = length_of(v), n = v->experts * (v->all ? RANKS : 1), part;
	struct frame f = {.src = src, .dst = dst, .qpn = qp, .length = length, .va = job_base(dst)};

	for (uint32_t i = 0; i < n; i++) {
		/* where all experts are told, those of other ranks have numbers too */
		uint32_t own = v->all ? i - dst * v->experts : i;
		int64_t value = own < v->experts ? tokens[own] : 1000000 + i;

		value = v->complement ? -1 - value : value;
		memcpy(message + v->at + i * v->width, &value, v->width);
	}
	if (v->sent)
		message[0] = KIND;
	for (uint32_t at = 0; at == 0 || at < length; at += part) {
		part = RTE_MIN(length - at, v->mtu);
		f.opcode = v->sent		? OP_SEND_ONLY
			   : length <= v->mtu	? (v->imm ? OP_WRITE_ONLY_IMM : OP_WRITE_ONLY)
			   : at == 0		? OP_WRITE_FIRST
			   : at + part < length ? OP_WRITE_MIDDLE
			   : v->imm		? OP_WRITE_LAST_IMM
						: OP_WRITE_LAST;
		add(f, message + at, part);
	}
}

/** What rank src has for the e-th expert of dst in round n. */
static uint32_t truth(uint32_t n, uint32_t src, uint32_t dst, uint32_t e)
{
	return (n * 131 + src * 17 + dst * 7 + e * 3) % 61;
}

static void add_round(const struct vector *v, uint32_t n)
{
	uint32_t tokens[1024];

	for (uint32_t src = 0; src < RANKS; src++)
		for (uint32_t dst = 0; dst < RANKS; dst++) {
			if (dst == src)
				continue;
			for (uint32_t e = 0; e < v->experts; e++) {
				struct frame f = {.src = src,
					.dst = dst,
					.opcode = OP_WRITE_FIRST,
					.length = 8192,
					.va = job_base(dst) + e * 0x10000};

				tokens[e] = truth(n, src, dst, e);
				for (uint32_t i = 0; v->announces && i < tokens[e] % 3; i++)
					add(f, (uint8_t[1]){0}, 1);
				tokens[e] = v->announces ? tokens[e] % 3 : tokens[e];
			}
			for (uint32_t e = 0; v->twice && e < v->experts; e++)
				tokens[e] /= 2;
			add_vector(v, src, dst, 0, tokens);
			for (uint32_t e = 0; v->twice && e < v->experts; e++)
				tokens[e] = truth(n, src, dst, e) - tokens[e];
			if (v->twice)
				add_vector(v, src, dst, 1, tokens);
		}
	/* what makes a round last longer than packets overtake each other */
	for (uint32_t i = 0; i < FILLING * RANKS * RANKS; i++) {
		struct frame f = {.src = i % RANKS,
			.dst = i / RANKS % RANKS,
			.length = 7,
			.opcode = v->sent ? OP_SEND_ONLY : OP_WRITE_ONLY};

		if (f.src != f.dst)
			add(f, (uint8_t[8]){0}, 8);
	}
}

static int by_key(const void *a, const void *b)
{
	const struct wire *x = a, *y = b;

	return x->key < y->key ? -1 : x->key > y->key;
}

/** Every frame up to @p far places later than it was sent, one in eight once more. */
static void shuffle(uint32_t far)
{
	uint32_t n = frame_count;

	for (uint32_t i = 0; i < n; i++) {
		frames[i].key = i + draw(far + 1);
		if (draw(8) == 0) {
			frames[frame_count] = frames[i];
			frames[frame_count++].key += draw(far + 1);
		}
	}
	qsort(frames, frame_count, sizeof(*frames), by_key);
}

static void play(void)
{
	for (uint32_t i = 0; i < frame_count; i++) {
		path_receive(&path, frames[i].data, frames[i].bytes,
			1000 * (i + 1) + 100000ul * frames[i].pauses);
		path_pump(&path);
	}
	path_end(&path);
}

static void must_be_true(const struct vector *v, uint32_t rounds)
{
	assert_int_equal(path.published, rounds);
	for (uint32_t n = 0; n < rounds; n++) {
		assert_int_equal(path.round[n]->quality & MT_Q_INEXACT, 0);
		for (uint32_t src = 0; src < RANKS; src++)
			for (uint32_t x = 0; x < RANKS * v->experts; x++) {
				uint32_t want = truth(n, src, x / v->experts, x % v->experts);

				want = x / v->experts == src ? 0 : v->announces ? want % 3 : want;
				assert_int_equal(
					mt_round_tokens(
						path.round[n])[src * RANKS * v->experts + x],
					want);
			}
	}
}

static void test_layouts(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 200; i++) {
		uint32_t width = draw(2) ? 4 : 8;
		struct vector v = {.experts = 1 + draw(9),
			.width = width,
			.at = width * draw(6),
			.mtu = 16u << draw(5),
			.tail = draw(3) * 4,
			.complement = draw(2),
			.all = draw(2),
			.imm = draw(2),
			.twice = draw(2)};

		/* parts of one message in their order, messages in any */
		uint32_t far = length_of(&v) <= v.mtu ? draw(60) : 0;

		use(&v, 1 + i % 2, far == 0 && draw(2));
		for (uint32_t n = 0; n < ROUNDS; n++)
			add_round(&v, n);
		shuffle(far);
		play();
		must_be_true(&v, ROUNDS);
		path_drop(&path);
	}
}

/** Counts that are SENDs among others, known by a byte, behind which integers lie anywhere. */
static void test_matches(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 100; i++) {
		struct vector v = {.experts = 1 + draw(9),
			.width = draw(2) ? 4 : 8,
			.at = 1 + draw(30),
			.mtu = 4096,
			.complement = draw(2),
			.all = draw(2),
			.twice = draw(2),
			.sent = true};

		use(&v, 1 + i % 2, draw(2));
		for (uint32_t n = 0; n < ROUNDS; n++)
			add_round(&v, n);
		shuffle(path.core[0]->tables->started ? 0 : draw(60));
		play();
		must_be_true(&v, ROUNDS);
		path_drop(&path);
	}
}

/** Behind a header an integer may lie in two packets: it is not read, and the round says so. */
static void test_between_packets(void **state)
{
	const struct vector v = {.experts = 8, .width = 4, .at = 1, .mtu = 4096, .sent = true};
	struct frame f = {.src = 0, .dst = 1, .length = 33, .opcode = OP_WRITE_FIRST};
	uint8_t message[33] = {KIND};

	(void)state;
	for (uint32_t e = 0; e < v.experts; e++)
		message[1 + e * 4] = (uint8_t)(1 << e);
	use(&v, 1, true);
	for (uint32_t at = 0; at < sizeof(message); at += 16) {
		add(f, message + at, RTE_MIN(16u, (uint32_t)sizeof(message) - at));
		f.opcode = at == 0 ? OP_WRITE_MIDDLE : OP_WRITE_LAST;
	}
	play();
	assert_int_equal(path.published, 1);
	for (uint32_t e = 0; e < v.experts; e++)
		assert_int_equal(mt_round_tokens(path.round[0])[v.experts + e],
			e == 3 || e == 7 ? 0 : 1 << e);
	assert_true(path.round[0]->quality & MT_Q_CONTRADICT);
	path_drop(&path);
}

/** Every frame is cut inside of what it is known by: it may have been counts. */
static void test_cut_matches(void **state)
{
	const struct vector v = {.experts = 2, .width = 4, .at = 1, .mtu = 4096, .sent = true};

	(void)state;
	use(&v, 1, true);
	for (uint32_t n = 0; n < 4; n++)
		add_round(&v, n);
	for (uint32_t i = 0; i < frame_count; i++)
		frames[i].bytes = RTE_MIN(frames[i].bytes, (uint32_t)HEADS);
	play();
	assert_int_equal(path_outcome(&path, MT_OUT_TRUNCATED), 4 * 6);
	assert_int_equal(path.published, 0);
	path_drop(&path);
}

/** Beside a rule that counts messages, integers are a witness. */
static void test_witness(void **state)
{
	const struct vector v = {.experts = 2, .width = 4, .mtu = 4096, .announces = true};

	(void)state;
	use(&v, 1, true);
	for (uint32_t n = 0; n < ROUNDS; n++)
		add_round(&v, n);
	shuffle(0);
	play();
	must_be_true(&v, ROUNDS);
	path_drop(&path);
}

/** Every frame is cut just before the end of the integers of rank 1, or just behind it. */
static void test_cut(void **state)
{
	const struct vector v = {.experts = 3, .width = 4, .at = 8, .mtu = 4096, .tail = 40};

	(void)state;
	for (uint32_t missing = 0; missing <= 1; missing++) {
		use(&v, 1, true);
		for (uint32_t n = 0; n < 4; n++)
			add_round(&v, n);
		for (uint32_t i = 0; i < frame_count; i++)
			frames[i].bytes = RTE_MIN(frames[i].bytes, HEADS + 16u + 8 + 12 - missing);
		play();
		if (missing == 0)
			must_be_true(&v, 4);
		else
			assert_int_equal(path_outcome(&path, MT_OUT_TRUNCATED), 4 * 6);
		for (uint32_t i = 0; missing && i < path.published; i++)
			assert_true(path.round[i]->quality & MT_Q_INEXACT);
		path_drop(&path);
	}
}

/** Each frame in turn is not seen: its round says so, or the one beside it; none is wrong. */
static void test_lost(void **state)
{
	const struct vector v = {.experts = 4, .width = 8, .mtu = 16, .complement = true};

	(void)state;
	for (uint32_t lost = 0; lost < 6 * 2 * 2; lost++) {
		uint32_t inexact = 0, at;

		use(&v, 1, true);
		for (uint32_t n = 0; n < 8; n++)
			add_round(&v, n);
		at = frame_count / 8 + lost; /* of the second round, each packet of each vector */
		memmove(&frames[at], &frames[at + 1], (frame_count - at - 1) * sizeof(*frames));
		frame_count--;
		play();
		for (uint32_t n = 0; n < path.published; n++) {
			if (path.round[n]->quality & MT_Q_INEXACT) {
				inexact++;
				continue;
			}
			for (uint32_t x = 0; x < RANKS * v.experts; x++)
				for (uint32_t src = 0; src < RANKS; src++)
					if (x / v.experts != src)
						assert_int_equal(
							mt_round_tokens(path.round[n])
								[src * RANKS * v.experts + x],
							truth((uint32_t)path.round[n]->round, src,
								x / v.experts, x % v.experts));
		}
		assert_true(inexact >= 1 && inexact <= 3); /* before it, in it, after it */
		path_drop(&path);
	}
}

static void test_impossible(void **state)
{
	const struct vector v = {.experts = 1, .width = 8, .mtu = 4096, .complement = true};
	const int64_t values[] = {0, 1, INT64_MAX, INT64_MIN, -(1ll << 31) - 1};

	(void)state;
	for (uint32_t i = 0; i < RTE_DIM(values); i++) {
		struct frame f = {.src = 0, .dst = 1, .length = 8, .opcode = OP_WRITE_ONLY};

		use(&v, 1, true);
		add(f, (const uint8_t *)&values[i], 8);
		play();
		assert_int_equal(path.published, 1);
		assert_int_equal(path.round[0]->contradictions, 1);
		assert_int_equal(path.round[0]->tokens, 0);
		path_drop(&path);
	}
}

/* ---- lists ----------------------------------------------------------------------------------- */

/** How a made-up job writes which experts a token goes to. */
struct list {
	uint32_t experts, at, count, gap,
		mtu; /* gap: bytes between lists; dense: count is of a row */
	bool dense, all;
};

static struct mt_bank *bank_of_lists(const struct list *l)
{
	char text[4096];
	struct mt_error err = {""};
	struct mt_bank *bank;
	size_t n = (size_t)snprintf(text, sizeof(text),
		"moetap-map: 1\njob: lists\npattern: inference\nlayers: 2\nexperts-per-rank: %u\n"
		"ranks:\n",
		l->experts);

	for (uint32_t r = 0; r < RANKS; r++)
		n += (size_t)snprintf(
			text + n, sizeof(text) - n, "- {rank: %u, address: 10.0.0.%u}\n", r, r + 1);
	n += (size_t)snprintf(text + n, sizeof(text) - n,
		"rules:\n- {name: done, rule: length, phase: combine, length: 7}\n"
		"- {name: token, rule: payload-%s, phase: dispatch, length: [%u, 65536], payload: "
		"{at: "
		"%u, width: 4, of: %s",
		l->dense ? "dense" : "index", RTE_MAX(8u, l->at + l->count * 4), l->at,
		l->all ? "all" : "dst");
	n += l->dense ? 0
		      : (size_t)snprintf(text + n, sizeof(text) - n, ", count: %u, stride: %u",
				l->count, l->count * 4 + l->gap);
	snprintf(text + n, sizeof(text) - n, "}}\n");
	MUST_SAY(mt_map_parse(text, strlen(text), "map", &bank, &err) == 0, "%s\n%s", err.text,
		text);
	return bank;
}

/** A message of @p n tokens, adding to @p load what goes to each expert of dst. */
static void add_lists(const struct list *l, uint32_t src, uint32_t dst, uint32_t n, uint32_t *load)
{
	uint32_t words[16384], length = l->at + n * (l->count * 4 + l->gap), part;
	struct frame f = {.src = src, .dst = dst, .length = length};

	for (uint32_t i = 0; i < RTE_DIM(words); i++)
		words[i] = draw(4); /* between lists: what could be taken for numbers */
	for (uint32_t i = 0; i < n * l->count; i++) {
		uint32_t *w =
			&words[(l->at + i / l->count * (l->count * 4 + l->gap)) / 4 + i % l->count];
		uint32_t e = l->dense ? i % l->count : draw(l->experts * (l->all ? RANKS : 1) + 2);
		uint32_t own;

		/* in the first round all have something: who has not may be taken for late */
		if (frame_count < RANKS * RANKS && i == 0 && !l->dense)
			e = l->all ? dst * l->experts : 0;
		own = e - (l->all ? dst * l->experts : 0);
		if (l->dense)
			*w = frame_count < RANKS * RANKS || draw(3) == 0
				     ? 0x3f000000 + i
				     : draw(2) << 31; /* 0 and -0 */
		else
			*w = e < l->experts * RANKS ? e : UINT32_MAX;
		if (own < l->experts && (!l->dense || (*w << 1) != 0))
			load[own]++;
	}
	for (uint32_t at = 0; at < length; at += part) {
		part = RTE_MIN(length - at, l->mtu);
		f.opcode = length <= l->mtu	? OP_WRITE_ONLY
			   : at == 0		? OP_WRITE_FIRST
			   : at + part < length ? OP_WRITE_MIDDLE
						: OP_WRITE_LAST;
		add(f, (const uint8_t *)words + at, part);
	}
}

static void add_list_round(const struct list *l, uint32_t load[RANKS][RANKS][64])
{
	memset(load, 0, sizeof(uint32_t[RANKS][RANKS][64]));
	pauses++; /* without them, who has nothing to send in a round cannot be told from who is
		     early */
	for (uint32_t i = 0; i < RANKS * RANKS * 2; i++) {
		uint32_t src = i % RANKS, dst = i / RANKS % RANKS;

		if (src != dst)
			add_lists(
				l, src, dst, 1 + draw(l->dense && l->gap ? 1 : 3), load[src][dst]);
	}
	for (uint32_t i = 0; i < RANKS * RANKS; i++)
		if (i % RANKS != i / RANKS)
			add((struct frame){.src = i % RANKS,
				    .dst = i / RANKS,
				    .length = 7,
				    .opcode = OP_WRITE_ONLY},
				(uint8_t[8]){0}, 8);
}

static void test_lists(void **state)
{
	static uint32_t load[6][RANKS][RANKS][64];

	(void)state;
	for (uint32_t i = 0; i < 100; i++) {
		struct list l = {.experts = 1 + draw(9),
			.at = 4 * draw(9),
			.count = 1 + draw(8),
			.gap = 4 * draw(20),
			.mtu = 64u << draw(5),
			.dense = draw(2),
			.all = draw(2)};

		if (l.dense) { /* a row is as long as there are experts, rows lie side by side */
			l.count = l.experts * (l.all ? RANKS : 1);
			l.gap = 0;
		}
		path_use(&path, bank_of_lists(&l), 1 + i % 2, 64);
		memset(psn, 0, sizeof(psn));
		frame_count = 0;
		for (uint32_t n = 0; n < RTE_DIM(load); n++)
			add_list_round(&l, load[n]);
		shuffle(0); /* some come twice */
		play();
		assert_int_equal(path.published, RTE_DIM(load));
		for (uint32_t n = 0; n < RTE_DIM(load) * RANKS * RANKS * l.experts; n++) {
			uint32_t e = n % l.experts, dst = n / l.experts % RANKS;
			uint32_t src = n / l.experts / RANKS % RANKS,
				 at = n / l.experts / RANKS / RANKS;

			assert_int_equal(
				mt_round_tokens(
					path.round[at])[(src * RANKS + dst) * l.experts + e],
				load[at][src][dst][e]);
			assert_int_equal(path.round[at]->quality & MT_Q_INEXACT, 0);
		}
		path_drop(&path);
	}
}

/* ---- immediates ------------------------------------------------------------------------------ */

static const char imm_map[] =
	"moetap-map: 1\njob: imm\npattern: inference\nlayers: 1\nexperts-per-rank: 2\nranks:\n"
	"- {rank: 0, address: 10.0.0.1, base: 0}\n- {rank: 1, address: 10.0.0.2, base: 0}\n"
	"- {rank: 2, address: 10.0.0.3, base: 0}\nrules:\n"
	"- {name: token, rule: va, phase: dispatch, length: 512, size: 0x2000, expert: {stride: "
	"0x1000, count: 2}}\n"
	"- {name: count, rule: imm, phase: count, imm: {mask: 0xc0000000, value: 0x80000000}, "
	"place: {shift: 0, bits: 13, unit: 8}, size: 48, expert: {stride: 24, count: 2}, source: "
	"{stride: 8, count: 3}, value: {shift: 13, bits: 15, signed: 1, scale: -1, add: -1}, when: "
	"negative}\n"
	"- {name: done, rule: imm, phase: combine, imm: {mask: 0xc0000000, value: 0x80000000}, "
	"place: {shift: 0, bits: 13, unit: 8}, size: 48, value: {shift: 13, bits: 15, signed: 1, "
	"scale: 1}, when: positive}\n";

static void imm(uint32_t src, uint32_t e, int32_t operand, uint32_t cut)
{
	struct frame f = {.src = src, .dst = 1, .opcode = OP_WRITE_ONLY_IMM};
	uint32_t word = 0x80000000u | ((uint32_t)operand & 0x7fff) << 13 | (e * 3 + src);
	uint8_t be[4] = {
		(uint8_t)(word >> 24), (uint8_t)(word >> 16), (uint8_t)(word >> 8), (uint8_t)word};
	struct wire *w = &frames[frame_count];

	add(f, be, 0);
	memcpy(w->data + HEADS + 16, be, 4);
	w->bytes = HEADS + 20 - cut;
}

static void test_imm(void **state)
{
	struct mt_error err = {""};
	struct mt_bank *bank;
	struct frame f = {
		.src = 0, .dst = 1, .opcode = OP_WRITE_FIRST, .length = 512, .va = 0x1000};

	(void)state;
	MUST_SAY(mt_map_parse(imm_map, sizeof(imm_map) - 1, "map", &bank, &err) == 0, "%s",
		err.text);
	path_use(&path, bank, 1, 64);
	fw_start_all(path.core[0]);
	memset(psn, 0, sizeof(psn));
	frame_count = 0;
	for (uint32_t i = 0; i < 5; i++)
		add(f, (uint8_t[1]){0}, 1);
	imm(0, 1, -6, 0);
	imm(0, 0, -1, 0);
	imm(0, 1, 1, 0);
	imm(2, 0, -16384, 0); /* the least that 15 bits hold: 16383 tokens, none of them seen */
	imm(2, 1, -1, 1);     /* cut in the immediate */
	play();
	assert_int_equal(path_outcome(&path, MT_OUT_DISPATCH), 5);
	assert_int_equal(path_outcome(&path, MT_OUT_COUNT), 3);
	assert_int_equal(path_outcome(&path, MT_OUT_COMBINE), 1);
	assert_int_equal(path_outcome(&path, MT_OUT_TRUNCATED), 1);
	assert_int_equal(path.published, 1);
	assert_int_equal(mt_round_tokens(path.round[0])[3], 5);
	assert_int_equal(path.round[0]->tokens, 5);
	assert_int_equal(path.round[0]->tokens_unseen, 16383);
	path_drop(&path);
}

static const char immediate_map[] =
	"moetap-map: 1\njob: immediate\npattern: inference\nlayers: 1\nexperts-per-rank: 1\n"
	"path-mtu: 1024\nranks:\n- {rank: 0, address: 10.0.0.1}\n- {rank: 1, address: 10.0.0.2}\n"
	"- {rank: 2, address: 10.0.0.3}\nrules:\n"
	"- {name: token, rule: length, phase: dispatch, length: [0, 1024], immediate: with, "
	"expert: "
	"{fixed: 0}, token-bytes: 512}\n"
	"- {name: result, rule: length, phase: combine, length: [0, 1024], immediate: without}\n"
	"- {name: longer, rule: length, phase: control, length: [1025, 4096]}\n";

/* What differs in nothing but the immediate, WRITEs and SENDs; longer messages are of no such rule.
 */
static void test_immediate(void **state)
{
	static const uint8_t tokens[] = {OP_WRITE_ONLY_IMM, OP_SEND_ONLY_IMM},
			     results[] = {OP_WRITE_ONLY, OP_SEND_ONLY},
			     others[] = {OP_WRITE_FIRST, OP_SEND_FIRST, OP_READ};
	struct mt_error err = {""};
	struct mt_bank *bank;

	(void)state;
	MUST_SAY(mt_map_parse(immediate_map, sizeof(immediate_map) - 1, "map", &bank, &err) == 0,
		"%s", err.text);
	path_use(&path, bank, 1, 64);
	memset(psn, 0, sizeof(psn));
	frame_count = 0;
	for (uint32_t round = 0; round < 3; round++) {
		struct frame f = {.src = 0, .dst = 1, .length = 512, .va = 0x1000};

		for (uint32_t i = 0; i < 8; i++) {
			f.opcode = tokens[i % 2];
			add(f, (uint8_t[512]){0}, 512);
		}
		for (uint32_t i = 0; i < 4; i++) {
			f.opcode = results[i % 2];
			add(f, (uint8_t[512]){0}, 512);
		}
		for (uint32_t i = 0; i < RTE_DIM(others); i++) {
			f.opcode = others[i];
			add(f, (uint8_t[1024]){0}, others[i] == OP_READ ? 0 : 1024);
		}
		f.opcode = OP_WRITE_FIRST;
		f.length = 2048;
		add(f, (uint8_t[1024]){0}, 1024);
	}
	play();
	assert_int_equal(path_outcome(&path, MT_OUT_DISPATCH), 3 * 8);
	assert_int_equal(path_outcome(&path, MT_OUT_COMBINE), 3 * 4);
	assert_int_equal(path_outcome(&path, MT_OUT_UNMATCHED), 3 * RTE_DIM(others));
	assert_int_equal(path_outcome(&path, MT_OUT_CONTROL), 3);
	assert_int_equal(path.published, 3);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(mt_round_tokens(path.round[i])[1], 8);
	path_drop(&path);
}

/* ---- bases ----------------------------------------------------------------------------------- */

static const char bases_map[] =
	"moetap-map: 1\njob: bases\npattern: inference\nlayers: 1\nexperts-per-rank: 2\nranks:\n"
	"- {rank: 0, address: 10.0.0.1, base: 0x10000, bases: {a: 0x50000, v: 0x90000}}\n"
	"- {rank: 1, address: 10.0.0.2, base: 0x20000, bases: {a: 0x70000, v: 0xa0000}}\n"
	"- {rank: 2, address: 10.0.0.3, base: 0x30000, bases: {a: 0x60000, v: 0x80000}}\nrules:\n"
	"- {name: side, rule: va, phase: control, base: v, offset: 16, size: 0x100}\n"
	"- {name: token, rule: va, phase: dispatch, length: 512, size: 0x2000, expert: {stride: "
	"0x1000, count: 2}}\n"
	"- {name: beside, rule: va, phase: dispatch, base: v, offset: 0x1000, size: 0x2000, "
	"expert: {stride: 0x1000, count: 2}}\n"
	"- {name: count, rule: atomic, phase: count, base: a, size: 48, expert: {stride: 24, "
	"count: 2}, source: {stride: 8, count: 3}, value: {scale: -1, add: -1}, when: negative}\n"
	"- {name: done, rule: atomic, phase: combine, base: a, size: 48, when: positive}\n"
	"- {name: other, rule: atomic, phase: control, size: 8}\n";

/* Each rank has its own addresses for what a rule counts from; none of them is another's. */
static void test_bases(void **state)
{
	static const uint64_t own[RANKS] = {0x10000, 0x20000, 0x30000},
			      a[RANKS] = {0x50000, 0x70000, 0x60000},
			      v[RANKS] = {0x90000, 0xa0000, 0x80000};
	struct mt_error err = {""};
	struct mt_bank *bank;

	(void)state;
	MUST_SAY(mt_map_parse(bases_map, sizeof(bases_map) - 1, "map", &bank, &err) == 0, "%s",
		err.text);
	path_use(&path, bank, 1, 64);
	fw_start_all(path.core[0]);
	memset(psn, 0, sizeof(psn));
	frame_count = 0;
	for (uint32_t src = 0; src < RANKS; src++)
		for (uint32_t dst = 0; dst < RANKS; dst++) {
			struct frame f = {.src = src, .dst = dst};

			if (src == dst)
				continue;
			for (uint32_t i = 0; i < 3; i++) { /* two of them in the window */
				f.opcode = OP_WRITE_ONLY;
				f.length = 512;
				f.va = own[dst] + 0x1000 + i * 512;
				add(f, (uint8_t[512]){0}, 512);
			}
			f.va = v[dst] + 0x1000;
			add(f, (uint8_t[512]){0}, 512);
			f.length = 256;
			f.va = v[dst] + 16;
			add(f, (uint8_t[256]){0}, 256);
			f.va = v[dst] + 15; /* a byte before the region */
			add(f, (uint8_t[256]){0}, 256);
			f.opcode = OP_FETCH_ADD;
			for (uint64_t e = 0; e < 2; e++) {
				f.va = a[dst] + e * 24 + src * 8;
				f.operand = e == 0 ? -2ull : -4ull;
				add(f, (uint8_t[1]){0}, 0);
			}
			f.operand = 1;
			add(f, (uint8_t[1]){0}, 0);
			f.va = own[dst];
			add(f, (uint8_t[1]){0}, 0);
			f.va = a[(dst + 1) % RANKS]; /* another rank's */
			add(f, (uint8_t[1]){0}, 0);
		}
	play();
	assert_int_equal(path_outcome(&path, MT_OUT_DISPATCH), 6 * 4);
	assert_int_equal(path_outcome(&path, MT_OUT_COUNT), 6 * 2);
	assert_int_equal(path_outcome(&path, MT_OUT_COMBINE), 6);
	assert_int_equal(path_outcome(&path, MT_OUT_CONTROL), 6 * 2);
	assert_int_equal(path_outcome(&path, MT_OUT_UNMATCHED), 6 * 2);
	assert_int_equal(path.published, 1);
	assert_int_equal(path.round[0]->quality & MT_Q_INEXACT, 0);
	for (uint32_t src = 0; src < RANKS; src++)
		for (uint32_t e = 0; e < 2 * RANKS; e++)
			assert_int_equal(mt_round_tokens(path.round[0])[src * 2 * RANKS + e],
				e / 2 == src ? 0
				: e % 2 == 0 ? 1
					     : 3);
	path_drop(&path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layouts),
		cmocka_unit_test(test_matches),
		cmocka_unit_test(test_between_packets),
		cmocka_unit_test(test_cut_matches),
		cmocka_unit_test(test_witness),
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_lost),
		cmocka_unit_test(test_impossible),
		cmocka_unit_test(test_lists),
		cmocka_unit_test(test_imm),
		cmocka_unit_test(test_immediate),
		cmocka_unit_test(test_bases),
	};

	frames = calloc(MOST, sizeof(*frames));
	if (frames == NULL)
		return EXIT_FAILURE;
	path_start_dpdk();
	path_init(&path);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
