/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file match.h: numbers at the start of a message or of a frame, by which rules know it.
 */
#ifndef MOETAP_FW_MATCH_H
#define MOETAP_FW_MATCH_H

#include <string.h>

#include <rte_byteorder.h>

#include "moetap_page.h"

enum fw_verdict { FW_IS_NOT, FW_IS, FW_MAY_BE };

/** A number of @p width bytes, 0, 1, 2, 4 or 8, in enum mt_order. */
static inline uint64_t fw_number(const uint8_t *at, unsigned int width, unsigned int order)
{
	bool big = order == MT_ORDER_BIG;
	uint64_t v8;
	uint32_t v4;
	uint16_t v2;

	switch (width) {
	case 8:
		memcpy(&v8, at, sizeof(v8));
		return big ? rte_be_to_cpu_64(v8) : rte_le_to_cpu_64(v8);
	case 4:
		memcpy(&v4, at, sizeof(v4));
		return big ? rte_be_to_cpu_32(v4) : rte_le_to_cpu_32(v4);
	case 2:
		memcpy(&v2, at, sizeof(v2));
		return big ? rte_be_to_cpu_16(v2) : rte_le_to_cpu_16(v2);
	case 1:
		return *at;
	default:
		return 0;
	}
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
