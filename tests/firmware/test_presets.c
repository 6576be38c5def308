/* SPDX-License-Identifier: BSD-3-Clause */
/* Presets with messages of the programs that they are for, byte by byte: what is counted for whom.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>

#include "path.h"

#define HEADS (14 + 20 + 8 + 12)
#define BASE 0x7f0000000000ull
#define ATOMICS 0x7f3500000000ull

static struct path path;
static uint32_t psn[4][4], ranks, experts;
static uint64_t now;

/** A job of so many ranks with so many experts each, all in one tap. */
static void use(const char *preset, uint32_t its_ranks, uint32_t its_experts, uint64_t base,
	const char *with)
{
	struct mt_error err = {""};
	struct mt_bank *bank;
	char text[4096];
	size_t n;

	ranks = its_ranks;
	experts = its_experts;
	n = (size_t)snprintf(text, sizeof(text),
		"{moetap-map: 1, job: j, layers: 1, experts-per-rank: %u, pattern: inference, "
		"preset: %s/driver/presets/%s.yaml, with: {%s}, ranks: [",
		experts, getenv("MOETAP_SOURCE"), preset, with);
	for (uint32_t r = 0; r < ranks; r++)
		n += (size_t)snprintf(text + n, sizeof(text) - n,
			"{rank: %u, address: 10.0.0.%u, base: 0x%lx, bases: {atomics: 0x%llx}},", r,
			r + 1, base, ATOMICS + r * 0x10000000);
	snprintf(text + n, sizeof(text) - n, "]}");
	MUST_SAY(mt_map_parse(text, strlen(text), "map", &bank, &err) == 0, "%s\n%s", err.text,
		text);
	path_use(&path, bank, 1, 64);
	fw_start_all(path.core[0]);
	memset(psn, 0, sizeof(psn));
	now = 1;
}

/** A packet, with an immediate and a payload if its kind has them. */
static void send_one(struct frame f, uint32_t imm, const uint8_t *payload, uint32_t bytes)
{
	uint8_t data[HEADS + 20 + 4096] = {0}, *p = data + HEADS + 16;
	uint32_t heads;

	f.qpn = 0x11 + f.src;
	f.psn = psn[f.src][f.dst]++;
	f.payload = bytes;
	heads = frame_make(data, &f);
	if (f.opcode == OP_WRITE_ONLY_IMM)
		frame_put(&p, imm, 4);
	if (bytes != 0)
		memcpy(data + heads, payload, bytes);
	path_receive(&path, data, heads + bytes, now++ * 1000);
	path_pump(&path);
}

static void write_one(
	uint32_t src, uint32_t dst, uint64_t va, const uint8_t *payload, uint32_t bytes)
{
	struct frame f = {
		.src = src, .dst = dst, .va = va, .length = bytes, .opcode = OP_WRITE_ONLY};

	send_one(f, 0, payload, bytes);
}

static void write_imm(uint32_t src, uint32_t dst, uint64_t va, uint32_t imm, const uint8_t *payload,
	uint32_t bytes)
{
	struct frame f = {
		.src = src, .dst = dst, .va = va, .length = bytes, .opcode = OP_WRITE_ONLY_IMM};

	send_one(f, imm, payload, bytes);
}

static void fetch_add(uint32_t src, uint32_t dst, uint64_t va, uint64_t operand)
{
	struct frame f = {
		.src = src, .dst = dst, .va = va, .operand = operand, .opcode = OP_FETCH_ADD};

	send_one(f, 0, NULL, 0);
}

/** Nothing but this was counted, in the n-th round, and every message was known. */
static void must_be(uint32_t n, uint32_t src, uint32_t dst, const uint32_t *tokens)
{
	const struct mt_round *r;
	uint64_t sum = 0;

	assert_true(n < path.published);
	r = path.round[n];
	for (uint32_t e = 0; e < experts; e++) {
		assert_int_equal(
			mt_round_tokens(path.round[n])[src * ranks * experts + dst * experts + e],
			tokens[e]);
		sum += tokens[e];
	}
	assert_int_equal(r->tokens, sum);
	assert_int_equal(r->tokens_unseen, 0);
	assert_int_equal(r->disagreements, 0);
	assert_int_equal(r->quality & (MT_Q_CONTRADICT | MT_Q_TRUNCATED), 0);
	assert_int_equal(path_outcome(&path, MT_OUT_UNMATCHED), 0);
}

static const uint8_t filling[4096];

static void masked_add(uint32_t src, uint32_t dst, uint64_t va, int32_t operand)
{
	static const struct form form = {0x15, 36, 0, 12, 4, false, 0};
	struct frame f = {.src = src,
		.dst = dst,
		.va = va,
		.operand = (uint64_t)(int64_t)operand,
		.opcode = form.opcode,
		.form = &form};

	send_one(f, 0, NULL, 0);
}

/** Tokens of a round of a made-up job. */
static uint32_t load_of(uint32_t round, uint32_t src, uint32_t dst, uint32_t e)
{
	return src == dst ? 0 : (round * 7 + src * 3 + dst * 5 + e * 2) % 6;
}

/* The plain loop: dispatches have the first buffer, combines the second. 4 ranks with 2 experts,
 * of 2048 elements and 128 tokens: 128 bytes of signals and 4259840 of sends a buffer, so the first
 * token lies at 8519936, and the first result 4259840 behind it. */
static void deepep_ll_round(uint32_t round, uint64_t base)
{
	for (uint32_t src = 0; src < 4; src++)
		for (uint32_t to = 0; to < 8; to++) {
			uint32_t dst = to / 2, cell = to % 2 * 4 + src,
				 n = load_of(round, src, dst, to % 2);

			for (uint32_t i = 0; i < n; i++)
				write_one(src, dst, base + 8519936 + (cell * 128 + i) * 2128,
					filling, 2128);
			if (src != dst)
				masked_add(src, dst, base + 4 * cell, -(int32_t)n - 1);
		}
	for (uint32_t src = 0; src < 4; src++)
		for (uint32_t from = 0; from < 8; from++) {
			uint32_t dst = from / 2, expert = src * 2 + from % 2;

			for (uint32_t i = 0; i < load_of(round, dst, src, from % 2); i++)
				write_one(src, dst, base + 12779776 + (expert * 128 + i) * 4160,
					filling, 4096);
			if (src != dst)
				masked_add(src, dst, base + 128 + 4 * expert, 1);
		}
}

static void test_deepep_ll(void **state)
{
	(void)state;
	use("deepep-ll", 4, 2, BASE, "hidden: 2048, tokens: 128");
	for (uint32_t r = 0; r < 12; r++)
		deepep_ll_round(r, BASE);
	path_end(&path);
	assert_int_equal(path.published, 12);
	for (uint32_t r = 0; r < 12; r++) {
		struct mt_round *m = path.round[r];

		assert_int_equal(m->quality, r < 3 ? MT_Q_UNWITNESSED : 0);
		for (uint32_t src = 0; src < 4; src++)
			for (uint32_t e = 0; e < 8; e++)
				assert_int_equal(mt_round_tokens(m)[src * 8 + e],
					load_of(r, src, e / 2, e % 2));
	}
	assert_int_equal(path_outcome(&path, MT_OUT_UNMATCHED), 0);
	assert_int_equal(fw_learn_form(path.config->learn).operand, 12);
	path_drop(&path);
}

/* Local expert 1, source 2, 5 tokens from slot 5 on; its results and their flag. */
static void test_uccl_ep(void **state)
{
	(void)state;
	for (uint32_t imm = 0; imm < 2; imm++) {
		use(imm ? "uccl-ep-imm" : "uccl-ep", 4, 2, BASE, "hidden: 2048, tokens: 128");
		for (uint32_t i = 0; i < 5; i++) /* the last of a batch has an immediate */
			if (i < 4)
				write_one(2, 1, BASE + 10033808 + i * 2128, filling, 2128);
			else
				write_imm(2, 1, BASE + 10033808 + i * 2128, 0x80000005, filling,
					2128);
		if (imm) {
			write_imm(2, 1, BASE, 0x8fff4006, NULL, 0);
			write_one(2, 1, BASE + 12599552, filling, 4096);
			write_imm(2, 1, BASE, 0xe000a013, NULL, 0);
			write_imm(2, 1, BASE, 0x40000102, NULL, 0);
		} else {
			uint64_t a = ATOMICS + 0x10000000;

			fetch_add(2, 1, a + 48, 0xfffffffffffffffa);
			write_one(2, 1, BASE + 12599552, filling, 4096);
			fetch_add(2, 1, a + 152, 1);
			write_imm(2, 1, BASE, 0x40000102, NULL, 0);
		}
		path_end(&path);
		assert_int_equal(path_outcome(&path, MT_OUT_DISPATCH), 5);
		assert_int_equal(path_outcome(&path, MT_OUT_COUNT), 1);
		assert_int_equal(path_outcome(&path, MT_OUT_COMBINE), 2);
		assert_int_equal(path_outcome(&path, MT_OUT_CONTROL), 1);
		must_be(0, 2, 1, (const uint32_t[]){0, 5});
		path_drop(&path);
	}
}

/* Two dispatches from node 1 to node 0, with tokens and results behind each. */
static void test_deepep_normal(void **state)
{
	int32_t notify[17] = {9, 9, 9, 9, 9, 9, 9, 9, 1, 0, 3, 0, 0, 7, 0, 2, 9};

	(void)state;
	use("deepep-normal", 2, 8, 0, "hidden: 2048, topk: 2, gpus: 1");
	for (uint32_t n = 0; n < 2; n++) {
		notify[8] = 1 + (int32_t)n;
		write_one(1, 0, BASE + 136 + 68, (const uint8_t *)notify, sizeof(notify));
		write_one(1, 0, BASE + 12007840, filling, 72);
		write_one(1, 0, BASE + 8119328, filling, 2144);
		fetch_add(1, 0, BASE + 12009440, 1);
		write_one(1, 0, BASE + 10855680, filling, 4112 - 16);
		fetch_add(1, 0, BASE + 21711520, 1);
	}
	path_end(&path);
	assert_int_equal(path.published, 2);
	assert_int_equal(path_outcome(&path, MT_OUT_DISPATCH), 2);
	assert_int_equal(path_outcome(&path, MT_OUT_CONTROL), 10);
	must_be(0, 1, 0, (const uint32_t[]){1, 0, 3, 0, 0, 7, 0, 2});
	must_be(1, 1, 0, (const uint32_t[]){2, 0, 3, 0, 0, 7, 0, 2});
	path_drop(&path);
}

/* Notify of node 1, then tokens with the numbers of their experts: those of node 0 are told. */
static void test_deepep_normal_witness(void **state)
{
	int32_t notify[17] = {[9] = 2, [11] = 1};
	int32_t ids[3][2] = {{1, 3}, {-1, 1}, {9, -1}}; /* of tokens; 9 is the other node's */
	uint8_t tokens[3 * 2144] = {0};

	(void)state;
	for (uint32_t i = 0; i < 3; i++)
		memcpy(tokens + i * 2144 + 2120, ids[i], sizeof(ids[i]));
	for (uint32_t lie = 0; lie < 2; lie++) {
		use("deepep-normal", 2, 8, 0, "hidden: 2048, topk: 2, gpus: 1, witness: witness");
		for (uint32_t n = 0; n < 5; n++) {
			notify[8] = n == 2 && lie; /* a token that nobody sends */
			write_one(1, 0, BASE, (const uint8_t *)notify, sizeof(notify));
			write_one(1, 0, BASE, filling, 72);
			write_one(1, 0, BASE, tokens, 2144);
			write_one(1, 0, BASE, tokens + 2144, 2144);
			write_one(1, 0, BASE, tokens + 2 * 2144, 2144);
			fetch_add(1, 0, BASE + 12009440, 3);
			write_one(1, 0, BASE, filling, 2128); /* of a cached dispatch */
			fetch_add(1, 0, BASE + 21711520, 1);
		}
		path_end(&path);
		assert_int_equal(path.published, 5);
		assert_int_equal(path_outcome(&path, MT_OUT_UNMATCHED), 0);
		for (uint32_t n = 0; n < 5; n++) {
			assert_int_equal(path.round[n]->tokens, 3 + (n == 2 && lie));
			assert_int_equal(path.round[n]->witness,
				n == 2 && lie ? MT_WITNESS_DISAGREED : MT_WITNESS_AGREED);
			assert_int_equal(path.round[n]->witness_differ, n == 2 && lie);
		}
		path_drop(&path);
	}
}

/* Tokens of rank 2 to rank 1 before and behind their counts, which rank 3 gets on no wire. */
static void test_deepep_v2_witness(void **state)
{
	const int64_t counts[2] = {-4, -2};
	const int32_t ids[3][2] = {{2, 3}, {2, 7}, {0, 2}};
	uint8_t token[2144] = {0};

	(void)state;
	use("deepep-v2-direct", 4, 2, 0, "hidden: 2048, topk: 2, witness: witness");
	for (uint32_t n = 0; n < 4; n++) {
		for (uint32_t i = 0; i < 3; i++) {
			memcpy(token + 2112, ids[i], sizeof(ids[i]));
			if (i == n % 3) {
				write_one(2, 1, 49232, (const uint8_t *)counts, sizeof(counts));
				write_one(2, 3, 49232, (const uint8_t *)counts, sizeof(counts));
			}
			write_one(2, 1, 15239648 + i * 2144, token, 2144);
		}
		write_one(2, 1, 14680064, filling, 4096);
	}
	path_end(&path);
	assert_int_equal(path.published, 4);
	assert_int_equal(path_outcome(&path, MT_OUT_UNMATCHED), 0);
	for (uint32_t n = 0; n < 4; n++) {
		assert_int_equal(path.round[n]->tokens, 8);
		assert_int_equal(path.round[n]->load_from, MT_RULE_COUNTS);
		assert_int_equal(path.round[n]->witness_from, MT_RULE_INDEX);
		assert_int_equal(path.round[n]->witness, MT_WITNESS_AGREED);
		assert_int_equal(path.round[n]->witness_compared, 2);
	}
	path_drop(&path);
}

static void test_deepep_v2(void **state)
{
	const int64_t counts[2] = {-4, -1};
	const int32_t node[4] = {-1, -6, -1, -3};

	(void)state;
	assert_memory_equal(
		counts, "\xfc\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 16);
	use("deepep-v2-direct", 4, 2, 0, "");
	fetch_add(2, 1, 8, 1);
	write_one(2, 1, 49184, filling, 8);
	write_one(2, 1, 15239648, filling, 2144);
	write_one(2, 1, 49232, (const uint8_t *)counts, sizeof(counts));
	write_one(2, 1, 14680064, filling, 4096);
	path_end(&path);
	assert_int_equal(path_outcome(&path, MT_OUT_CONTROL), 4);
	must_be(0, 2, 1, (const uint32_t[]){3, 0});
	path_drop(&path);

	use("deepep-v2-hybrid", 2, 4, 0, "gpus: 2");
	write_one(1, 0, 90136, filling, 8);
	write_one(1, 0, 90160, (const uint8_t *)node, sizeof(node));
	write_one(1, 0, 16382400, filling, 2144);
	fetch_add(1, 0, 102472, 0x0000000600000000);
	write_one(1, 0, 16793600, filling, 4096);
	path_end(&path);
	assert_int_equal(path_outcome(&path, MT_OUT_CONTROL), 4);
	must_be(0, 1, 0, (const uint32_t[]){0, 5, 0, 2});
	path_drop(&path);
}

/* Two tokens to node 1: one for its experts 0 and 3, one for 3 alone, where -0 is none. */
static void test_hybrid_ep(void **state)
{
	const float row[2][4] = {{0.75f, 0, 0, 0.25f}, {0, -0.0f, 0, 1}};

	(void)state;
	use("hybrid-ep", 2, 4, 0, "hidden: 2048, dtype: fp8");
	for (uint32_t t = 0; t < 2; t++)
		write_one(0, 1, BASE + t * 2048, filling, 2048);
	for (uint32_t t = 0; t < 2; t++)
		write_one(0, 1, BASE + 0x10000000 + t * 16, (const uint8_t *)row[t], 16);
	for (uint32_t t = 0; t < 2; t++)
		write_one(0, 1, BASE + 0x20000000 + t * 64, filling, 64);
	fetch_add(0, 1, BASE + 0x30000000, 1);
	write_one(0, 1, BASE + 0x40000000, filling, 4096);
	path_end(&path);
	assert_int_equal(path_outcome(&path, MT_OUT_DISPATCH), 2);
	assert_int_equal(path_outcome(&path, MT_OUT_CONTROL), 6);
	must_be(0, 0, 1, (const uint32_t[]){1, 0, 0, 2});
	path_drop(&path);
}

/* A message of tokens as long as a route, too, is told from it by its immediate. */
static void test_pplx_garden(void **state)
{
	const uint32_t route[8] = {3, 0, 5, 1, 2, 4, 0, 9};

	(void)state;
	use("pplx-garden", 4, 2, 0, "hidden: 2048, scales: 16");
	write_imm(2, 1, BASE + 64, 0x00000080, (const uint8_t *)route, sizeof(route));
	write_imm(2, 1, BASE + 323456, 0x01000080, filling, 2128);
	write_imm(2, 1, BASE + 323456, 0x01000080, filling, 32);
	write_imm(2, 1, BASE, 0x03000080, NULL, 0);
	write_imm(2, 1, BASE, 0x02000080, NULL, 0);
	write_imm(2, 1, BASE, 0x04000080, NULL, 0);
	path_end(&path);
	assert_int_equal(path_outcome(&path, MT_OUT_DISPATCH), 1);
	assert_int_equal(path_outcome(&path, MT_OUT_CONTROL), 5);
	must_be(0, 2, 1, (const uint32_t[]){5, 1});
	path_drop(&path);
}

static void test_fastmoe(void **state)
{
	const uint64_t counts[2] = {5, 0};

	(void)state;
	use("fastmoe", 4, 2, 0, "hidden: 2048");
	write_one(1, 2, BASE, filling, 64); /* clear-to-send */
	write_imm(2, 1, BASE, 16, (const uint8_t *)counts, sizeof(counts));
	write_imm(2, 1, BASE, 4096, filling, 4096);
	path_end(&path);
	assert_int_equal(path_outcome(&path, MT_OUT_DISPATCH), 1);
	assert_int_equal(path_outcome(&path, MT_OUT_CONTROL), 2);
	must_be(0, 2, 1, (const uint32_t[]){5, 0});
	path_drop(&path);
}

static void send_message(uint32_t src, uint32_t dst, const uint8_t *payload, uint32_t bytes)
{
	send_one((struct frame){.src = src, .dst = dst, .opcode = OP_SEND_ONLY}, 0, payload, bytes);
}

/* Rank 2 has 5 and 3 tokens for rank 1: its tag ends in context 0 and source 2. */
static void test_mpi_ucx(void **state)
{
	static const uint8_t counts[] = {
		0, 0x82, 0, 0, 0x20, 0, 0, 0xf3, 0xff, 0xff, 5, 0, 0, 0, 3, 0, 0, 0};
	uint8_t other[sizeof(counts) + 8] = {0};

	(void)state;
	for (uint32_t mlx5 = 0; mlx5 < 2; mlx5++) {
		use("mpi-ucx", 4, 2, 0,
			mlx5 ? "integer: int32" : "integer: int32, transport: rc_verbs");
		/* of a rendezvous: its response is 8 packets of the path MTU */
		send_one((struct frame){.src = 2, .dst = 1, .length = 8192, .opcode = OP_READ}, 0,
			NULL, 0);
		psn[2][1] += 7;
		send_message(2, 1, counts + !mlx5, sizeof(counts) - !mlx5);
		/* of another tag; of another kind; of several ranks, for they are relayed */
		memcpy(other, counts, sizeof(counts));
		other[7] = 0xf2;
		send_message(2, 1, other + !mlx5, sizeof(counts) - !mlx5);
		other[7] = 0xf3;
		other[1] = 6;
		send_message(2, 1, other + !mlx5, sizeof(counts) - !mlx5);
		other[1] = 2;
		send_message(2, 1, other + !mlx5, sizeof(other) - !mlx5);
		/* shorter than its tag; empty: a grant of credits has nothing more */
		send_message(2, 1, counts + !mlx5, 5);
		send_message(2, 1, counts, 0);
		write_one(2, 1, BASE, filling, 4096); /* a rendezvous the other way */
		path_end(&path);
		assert_int_equal(path_outcome(&path, MT_OUT_DISPATCH), 1);
		assert_int_equal(path_outcome(&path, MT_OUT_CONTROL), 7);
		must_be(0, 2, 1, (const uint32_t[]){5, 3});
		assert_int_equal(path.round[0]->quality & MT_Q_INEXACT, 0);
		path_drop(&path);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_deepep_ll),
		cmocka_unit_test(test_uccl_ep),
		cmocka_unit_test(test_deepep_normal),
		cmocka_unit_test(test_deepep_normal_witness),
		cmocka_unit_test(test_deepep_v2_witness),
		cmocka_unit_test(test_deepep_v2),
		cmocka_unit_test(test_hybrid_ep),
		cmocka_unit_test(test_pplx_garden),
		cmocka_unit_test(test_fastmoe),
		cmocka_unit_test(test_mpi_ucx),
	};

	if (getenv("MOETAP_SOURCE") == NULL)
		return EXIT_FAILURE;
	path_start_dpdk();
	path_init(&path);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
