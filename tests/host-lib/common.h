/* SPDX-License-Identifier: BSD-3-Clause */
/** What the tests of libmoetap share. */
#ifndef TESTS_HOST_COMMON_H
#define TESTS_HOST_COMMON_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "moetap.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/** Fails with both figures when they differ by more than `within`. */
#define assert_near(a, b, within) assert_near_at(a, b, within, __FILE__, __LINE__)

static inline void assert_near_at(double a, double b, double within, const char *file, int line)
{
	if (fabs(a - b) <= within)
		return;
	print_error("%.17g and %.17g differ by more than %g\n", a, b, within);
	_fail(file, line);
}

/** Pseudo-random numbers from a seed, so that a run can be made again. */
static inline uint32_t next_random(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

/** Uniform from 0 to 1, 1 left out. */
static inline double next_uniform(uint32_t *seed)
{
	return next_random(seed) / 4294967296.0;
}

static inline struct moetap_series *series_of(uint32_t layers, uint32_t experts, uint32_t max_steps)
{
	struct moetap_series *series;

	assert_int_equal(moetap_series_new(layers, experts, max_steps, &series, NULL), 0);
	return series;
}

/** Path of a file of tests/data. */
static inline const char *data_path(const char *name)
{
	static char path[4096];

	assert_non_null(getenv("MOETAP_TEST_DATA"));
	snprintf(path, sizeof(path), "%s/%s", getenv("MOETAP_TEST_DATA"), name);
	return path;
}

#endif
