/* SPDX-License-Identifier: BSD-3-Clause */
/** What the tests of driver/ share. */
#ifndef TESTS_DRIVER_COMMON_H
#define TESTS_DRIVER_COMMON_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "map.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/** Pseudo-random numbers from a seed, so that a run can be made again. */
static inline uint32_t next_random(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

/** A new seed, or that of MOETAP_SEED; printed. */
static inline uint32_t first_seed(void)
{
	const char *given = getenv("MOETAP_SEED");
	uint32_t seed = given ? (uint32_t)strtoul(given, NULL, 0)
			      : (uint32_t)time(NULL) ^ (uint32_t)getpid() << 16;

	seed |= seed == 0;
	print_message("MOETAP_SEED=%u\n", seed);
	return seed;
}

/** A good map with everything in it; lines are counted in test_map.c. */
static const char good_map[] = "moetap-map: 1\n"
			       "job: good\n"
			       "pattern: inference\n"
			       "layers: 2\n"
			       "micro-batches: 3\n"
			       "tap: all\n"
			       "idle-gap-us: 400\n"
			       "experts-per-rank: 4\n"
			       "ranks:\n"
			       "  - {rank: 1, address: 10.77.0.2, base: 0x2000000}\n"
			       "  - {rank: 0, address: 10.77.0.1, base: 0x1000000}\n"
			       "flows:\n"
			       "  - {src: 1, dst: 0, qpn: 0x12}\n"
			       "  - {src: 0, dst: 1, qpn: 0x11, expert: 7}\n"
			       "rules:\n"
			       "  - name: token\n"
			       "    rule: va\n"
			       "    phase: dispatch\n"
			       "    length: 544\n"
			       "    offset: 0\n"
			       "    size: 69632\n"
			       "    parity: {stride: 135168, count: 2}\n"
			       "    expert: {stride: 17408, count: 4, of: dst}\n"
			       "    source: {stride: 8704, count: 2}\n"
			       "    token-bytes: 544\n"
			       "  - name: combine\n"
			       "    rule: va\n"
			       "    phase: combine\n"
			       "    length: 1040\n"
			       "    size: 133120\n"
			       "    parity: {stride: 135168, count: 2}\n"
			       "  - name: count\n"
			       "    rule: atomic\n"
			       "    phase: count\n"
			       "    offset: 133120\n"
			       "    size: 64\n"
			       "    parity: {stride: 135168, count: 2}\n"
			       "    expert: {stride: 16, count: 4, of: dst}\n"
			       "    source: {stride: 8, count: 2}\n"
			       "    value: {scale: -1, add: -1}\n";

static inline struct mt_bank *good_bank(void)
{
	struct mt_bank *bank;

	assert_int_equal(mt_map_parse(good_map, strlen(good_map), "good", &bank, NULL), 0);
	return bank;
}

#endif
