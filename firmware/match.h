/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file match.h: numbers at the start of a message or of a frame, by which rules know it.
 */
#ifndef MOETAP_FW_MATCH_H
#define MOETAP_FW_MATCH_H

#include "moetap_page.h"

enum fw_verdict { FW_IS_NOT, FW_IS, FW_MAY_BE };

/** A number of @p width bytes, up to 8, in enum mt_order. */
static inline uint64_t fw_number(const uint8_t *at, unsigned int width, unsigned int order)
{
	uint64_t v = 0;

	for (unsigned int i = 0; i < width; i++)
		v = v << 8 | at[order == MT_ORDER_BIG ? i : width - 1 - i];
	return v;
}

/** Whether @p n matches hold, as far as @p got bytes of a header tell. */
static inline enum fw_verdict fw_judge(
	const struct mt_match *m, unsigned int n, const uint8_t *head, unsigned int got)
{
	enum fw_verdict verdict = FW_IS;
	uint64_t v;

	for (; n > 0; n--, m++) {
		if (m->at + m->width > got) {
			verdict = FW_MAY_BE;
			continue;
		}
		v = fw_number(head + m->at, m->width, m->order) & m->mask;
		if ((m->modulo != 0 ? v % m->modulo : v) != m->value)
			return FW_IS_NOT;
	}
	return verdict;
}

#endif
