/* SPDX-License-Identifier: BSD-3-Clause */
/* Tables of addresses, and divisions made ahead. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <arpa/inet.h>

#include "count.h"
#include "map.h"

#define RANKS 1000u
#define STRANGERS 1000000u

static char text[1 << 20];
static size_t used;

static void begin(void)
{
	used = (size_t)snprintf(text, sizeof(text),
		"moetap-map: 1\njob: made-up\npattern: inference\nlayers: 1\nexperts-per-rank: "
		"1\nranks:\n");
}

static void add_rank(uint32_t rank, const char *address)
{
	used += (size_t)snprintf(text + used, sizeof(text) - used,
		"- {rank: %u, address: [%s], base: 0}\n", rank, address);
}

/** @param rule what a rule has beside name and phase */
static struct fw_config *end(const char *rule)
{
	struct mt_error err = {""};
	struct fw_config *c;
	struct mt_bank *bank;

	used += (size_t)snprintf(text + used, sizeof(text) - used,
		"rules:\n- {name: token, phase: dispatch, %s}\n", rule);
	if (mt_map_parse(text, used, "map", &bank, &err) < 0)
		fail_msg("%s", err.text);
	c = fw_config_new(bank, 1);
	free(bank);
	assert_non_null(c);
	return c;
}

static uint32_t v4(const char *address)
{
	struct in_addr a;

	assert_int_equal(inet_pton(AF_INET, address, &a), 1);
	return a.s_addr;
}

static struct in6_addr v6(const char *address)
{
	struct in6_addr a;

	assert_int_equal(inet_pton(AF_INET6, address, &a), 1);
	return a;
}

/** Racks of 40 hosts, as clusters number them. */
static void v4_address(uint32_t rank, char *address, size_t room)
{
	snprintf(address, room, "10.%u.%u.%u", 16 + rank / 400, rank / 40 % 10 * 8, rank % 40 + 1);
}

static uint32_t rank_v6(const struct fw_config *c, const uint8_t *ip)
{
	return fw_rank_at(c, fw_addr_v6(c, ip) - 1);
}

static void test_v4(void **state)
{
	static uint32_t ip[RANKS];
	struct fw_config *c;
	uint64_t seed = 1;
	char address[32];

	(void)state;
	begin();
	for (uint32_t i = 0; i < RANKS; i++) {
		v4_address(i, address, sizeof(address));
		add_rank(i, address);
		ip[i] = v4(address);
	}
	c = end("rule: length, length: 512, expert: {fixed: 0}, token-bytes: 512");
	for (uint32_t i = 0; i < RANKS; i++) {
		assert_int_equal(fw_rank_v4(c, ip[i]), i + 1);
		assert_int_equal(fw_rank_v4(c, ip[i] ^ htonl(1u << 31)), 0);
	}
	assert_int_equal(fw_rank_v4(c, 0), 0);
	assert_int_equal(fw_rank_v4(c, UINT32_MAX), 0);
	for (uint32_t i = 0; i < STRANGERS; i++) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		/* outside of 10.0.0.0/8 */
		assert_int_equal(fw_rank_v4(c, htonl((uint32_t)(seed >> 32) | 0x80000000u)), 0);
	}
	fw_config_free(c);
}

/** Ranks by IPv6, one by IPv4, one by both. */
static void test_v6(void **state)
{
	struct fw_config *c;
	struct in6_addr a;
	char address[64];

	(void)state;
	begin();
	for (uint32_t i = 0; i < 100; i++) {
		snprintf(address, sizeof(address), "fd00:%x::%x", i / 10, i + 1);
		add_rank(i, address);
	}
	add_rank(100, "10.1.2.3, fe80::1");
	c = end("rule: length, length: 512, expert: {fixed: 0}, token-bytes: 512");
	for (uint32_t i = 0; i < 100; i++) {
		snprintf(address, sizeof(address), "fd00:%x::%x", i / 10, i + 1);
		a = v6(address);
		assert_int_equal(rank_v6(c, a.s6_addr), i + 1);
		a.s6_addr[15] ^= 0x80;
		assert_int_equal(rank_v6(c, a.s6_addr), 0);
	}
	a = v6("fe80::1");
	assert_int_equal(rank_v6(c, a.s6_addr), 101);
	assert_int_equal(fw_rank_v4(c, v4("10.1.2.3")), 101);
	a = v6("::");
	assert_int_equal(rank_v6(c, a.s6_addr), 0);
	assert_null(c->shares);
	fw_config_free(c);
}

/** Ranks that share addresses; queue pairs of two NICs of a rank may have one number. */
static void test_shared(void **state)
{
	uint64_t key[2];
	struct fw_config *c;
	struct in6_addr a[3];

	(void)state;
	begin();
	for (uint32_t i = 0; i < 6; i++)
		add_rank(i, i < 3 ? "10.0.0.9, 'fd00::9', 'fd01::9'" : "10.0.0.8, 'fd00::8'");
	used += (size_t)snprintf(text + used, sizeof(text) - used,
		"flows: [{src: 0, dst: 3, qpn: 1}, {src: 1, dst: 3, qpn: 2}]\n");
	c = end("rule: length, length: 512, expert: {fixed: 0}, token-bytes: 512");
	a[0] = v6("fd00::9");
	a[1] = v6("fd01::9");
	a[2] = v6("fd00::8");
	assert_int_equal(rank_v6(c, a[0].s6_addr), 1);
	assert_int_equal(rank_v6(c, a[1].s6_addr), 1);
	assert_int_equal(rank_v6(c, a[2].s6_addr), 4);
	assert_int_equal(fw_rank_v4(c, v4("10.0.0.9")), 1);
	assert_int_equal(fw_rank_v4(c, v4("10.0.0.8")), 4);
	for (uint32_t i = 0; i < 2; i++) {
		key[i] =
			fw_key_v6(fw_addr_v6(c, a[2].s6_addr) - 1, fw_addr_v6(c, a[i].s6_addr) - 1);
		assert_int_equal(fw_key_src(c, key[i], FW_KEY_V6), 4);
		assert_int_equal(fw_key_dst(c, key[i], FW_KEY_V6), 1);
	}
	assert_true(key[0] != key[1]);
	for (uint32_t rank = 0; rank < 6; rank++)
		assert_int_equal(c->shares[rank], rank % 3 == 2 ? MT_MAX_RANKS : rank + 1);
	fw_config_free(c);
}

static void check_division(const struct rte_reciprocal_u64 *r, uint64_t stride, uint64_t a)
{
	if (rte_reciprocal_divide_u64(a, r) != a / stride)
		fail_msg("%lu / %lu: %lu", a, stride, rte_reciprocal_divide_u64(a, r));
}

static void test_strides(void **state)
{
	static const uint64_t strides[] = {2, 3, 7, 8, 544, 4096, 8704, 65535, 65536, 135168,
		(1ull << 31) - 1, 1ull << 31, (1ull << 32) - 1, (1ull << 32) + 1, (1ull << 40) + 1,
		(1ull << 46) - 1, 1ull << 46};

	(void)state;
	for (uint32_t i = 0; i < RTE_DIM(strides); i++) {
		uint64_t s = strides[i];
		struct fw_config *c;
		char rule[256];

		snprintf(rule, sizeof(rule),
			"rule: va, length: 1, size: %lu, expert: {stride: %lu, count: 1}", s, s);
		begin();
		add_rank(0, "10.0.0.1");
		add_rank(1, "10.0.0.2");
		c = end(rule);
		for (uint64_t k = 0; k < 70; k++) {
			uint64_t a = k < 10 ? k * s : s * (UINT64_MAX / s >> (k - 10) % 60);

			check_division(&c->write[0].expert_div, s, a);
			check_division(&c->write[0].expert_div, s, a + 1);
			check_division(
				&c->write[0].expert_div, s, a - 1); /* 0: the largest number */
		}
		fw_config_free(c);
	}
}

/** Remainders by counts: every count that a map may have. */
static void test_counts(void **state)
{
	(void)state;
	for (uint32_t n = 1; n <= MT_MAX_RANKS; n++) {
		struct rte_reciprocal r = rte_reciprocal_value(n);

		for (uint32_t k = 0; k < 34; k++) {
			uint32_t a = k < 32 ? n << k : k == 32 ? UINT32_MAX : UINT32_MAX / n * n;

			assert_int_equal(fw_wrap(a, n, r), a % n);
			assert_int_equal(fw_wrap(a - 1, n, r), (a - 1) % n);
			assert_int_equal(fw_wrap(a + 1, n, r), (a + 1) % n);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_v4),
		cmocka_unit_test(test_v6),
		cmocka_unit_test(test_shared),
		cmocka_unit_test(test_strides),
		cmocka_unit_test(test_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
