/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file formula.h: formulas over whole numbers, as maps and presets have them.
 *
 * From the loosest to the tightest: `a ? b : c`, comparison (== != < <= > >=, which gives 0 or 1
 * and does not chain), + and -, * / and %, unary -. Then numbers (decimal, or hexadecimal after
 * 0x), names, parentheses, and align(x, a), ceil_div(x, a), min(x, ...), max(x, ...). Division
 * rounds towards 0, and the remainder has the sign of what is divided. Of `a ? b : c` only the
 * branch that is taken can go out of range or divide by zero.
 *
 * Nothing is allocated, and the stack used is bounded.
 */
#ifndef MOETAP_DRIVER_FORMULA_H
#define MOETAP_DRIVER_FORMULA_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

#define MT_FORMULA_MAX 1024u	/* bytes of a formula */
#define MT_FORMULA_DEPTH 32u	/* of parentheses, functions and conditions */
#define MT_FORMULA_NAME_LEN 32u /* of a name, with the final 0 */
#define MT_FORMULA_TEXT_LEN 24u /* of a number as text, with the final 0 */

/** From -2^63 to 2^64 - 1: what either int64_t or uint64_t can hold. */
typedef __int128 mt_number;

#define MT_NUMBER_MIN ((mt_number)INT64_MIN)
#define MT_NUMBER_MAX ((mt_number)UINT64_MAX)

/** A name that formulas may use. */
struct mt_name {
	char name[MT_FORMULA_NAME_LEN];
	mt_number value;
};

/**
 * Evaluate a formula.
 *
 * @param names what it may name; @p count of them
 * @return 0; -EINVAL: no formula; -ERANGE: a value that is out of range, a division by zero. @p err
 *	then has "character N: reason"; the first character is 1.
 */
int mt_formula(const char *text, const struct mt_name *names, unsigned int count, mt_number *value,
	struct mt_error *err);

/** Whether a text can be a name: [a-z][a-z0-9_]*, not too long, and no function's. */
bool mt_formula_is_name(const char *text);

/** A number in decimal digits. Returns @p text. */
char *mt_number_text(mt_number value, char text[MT_FORMULA_TEXT_LEN]);

#endif
