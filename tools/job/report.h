/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file report.h: what moetap-job tells on its standard output: one struct job_hello, then for
 * every round a struct job_round with the tokens that it sent. Whoever counts them elsewhere
 * compares.
 */
#ifndef MOETAP_JOB_REPORT_H
#define MOETAP_JOB_REPORT_H

#include <stdint.h>

#define JOB_MAGIC 0x4a4d544du /* "MTMJ" */

struct job_hello {
	uint32_t magic;
	uint32_t ranks, experts, slots, layers; /**< experts and slots of a layer, over all ranks */
	uint32_t tokens, top_k;			/**< of a rank in a round; experts of each */
	int64_t steps;
	int64_t shift; /**< step at which the gate shifts */
};

/**
 * A round. `sent[ranks * slots + experts]` follows: tokens from each rank to each slot, then tokens
 * of each expert, both without those that a rank sends to itself, which cross no NIC.
 */
struct job_round {
	int64_t step;
	uint32_t layer;
	uint32_t moved; /**< slots of this layer that were filled from other ranks before it */
	uint64_t moved_bytes; /**< weights that were sent for that, */
	uint64_t moved_ns;    /**< and the time for which the job stood still */
	uint64_t round_ns;    /**< of dispatch, computing and combine */
	uint32_t acked;	      /**< acknowledgements of this layer before it */
	uint32_t applied;     /**< a new placement of this layer holds from this step on */
};

static inline uint32_t job_sent(const struct job_hello *hello)
{
	return hello->ranks * hello->slots + hello->experts;
}

#endif
