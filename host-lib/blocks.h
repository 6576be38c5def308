/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * Shares averaged over blocks of 1, 2, 4, ... 512 samples, the last 16 blocks of each length. A
 * sample is a step, or, in a trace that has every tenth step only, ten of them. Nothing is
 * allocated after opening; the memory is 10 * 16 * layers * (experts + 1) * 4 bytes (9.5 MB for 58
 * layers of 256 experts).
 *
 * Samples that are missing, layers that are idle and steps left out make blocks with less weight.
 * A round that is flagged is left out if one of the last 16 samples of its layer was exact; else
 * there is nothing better, and it counts.
 */
#ifndef MOETAP_BLOCKS_H
#define MOETAP_BLOCKS_H

#include "internal.h"

/** Lengths: level k has blocks of 2^k samples. */
#define BLOCKS_LEVELS 10u
/** Blocks kept of each length. */
#define BLOCKS_KEPT 16u

struct blocks {
	uint32_t layers, experts;
	int64_t first, last; /**< steps; `last` < 0: none yet */
	int64_t stride;	     /**< steps a sample: the smallest difference between two steps */
	uint64_t samples;    /**< so far, with missing ones */
	uint64_t *exact;     /**< [layers]: samples at the last exact round; 0: none */
	struct {
		float *mean;   /**< [BLOCKS_KEPT][layers][experts] */
		float *weight; /**< [BLOCKS_KEPT][layers], in samples; 0: not seen */
	} level[BLOCKS_LEVELS];
};

/** Returns 0 or -ENOMEM. mtl_blocks_close() is needed in both cases. */
int mtl_blocks_open(struct blocks *b, uint32_t layers, uint32_t experts);
void mtl_blocks_close(struct blocks *b);

/** Adds a step. */
void mtl_blocks_add(struct blocks *b, const struct observation *o);

/** Complete blocks of a level since the beginning; the last BLOCKS_KEPT are kept. */
static inline uint64_t mtl_blocks_count(const struct blocks *b, uint32_t level)
{
	return b->samples >> level;
}

/** Mean shares of a layer in the i-th block of a level, [experts]; NULL when less than an eighth of
 * it was seen. */
const float *mtl_blocks_mean(const struct blocks *b, uint32_t level, uint64_t i, uint32_t layer);

/** Mean shares of a layer in the block of a level that is not complete yet. Returns how much of it
 * is there, 0 to 1; with 0, `mean` is not touched. */
double mtl_blocks_partial(const struct blocks *b, uint32_t level, uint32_t layer, double *mean);

#endif
