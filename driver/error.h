/* SPDX-License-Identifier: BSD-3-Clause */
/** @file error.h: an errno with the sentence that a user reads. */
#ifndef MOETAP_ERROR_H
#define MOETAP_ERROR_H

#include <stdarg.h>
#include <stdio.h>

/** What went wrong and what mends it, one line without a newline. */
struct mt_error {
	char text[512];
};

/** Write the sentence, when the caller wants one, and give back @p code (a negative errno). */
__attribute__((format(printf, 3, 4))) static inline int mt_fail(
	struct mt_error *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (err != NULL) {
		va_start(ap, fmt);
		vsnprintf(err->text, sizeof(err->text), fmt, ap);
		va_end(ap);
	}
	return code;
}

#endif
