/* SPDX-License-Identifier: BSD-3-Clause */
/** @file learn_priv.h: messages of a job, as the parts of the learner share them. */
#ifndef MOETAP_DRIVER_LEARN_PRIV_H
#define MOETAP_DRIVER_LEARN_PRIV_H

#include "learn.h"

enum { LEARN_WRITE, LEARN_ATOMIC };

/** A message, known by its first packet. */
struct learn_msg {
	uint64_t order; /**< its PSN, unwrapped, and above that the life of its queue pair */
	uint64_t va;
	int64_t operand;
	uint32_t length, flow;
	uint8_t kind;
};

struct learn_flow {
	uint16_t src, dst;
	uint32_t qpn;
	uint64_t psn, life;  /**< of the last request */
	uint32_t first, end; /**< its messages, once they are sorted */
	uint32_t cells;	     /**< of counts */
	uint32_t clean;	     /**< of these in a round; 0: not known yet */
	bool met;
};

struct mt_learn {
	uint8_t address[MT_LEARN_RANKS][16];
	uint32_t ranks;
	bool open; /**< ranks are found as they come */
	struct mt_learn_seen seen;
	uint64_t firsts, behind; /**< first packets of long messages, and those behind them */
	struct learn_msg *msgs;
	uint32_t count, room;
	struct learn_flow *flows;
	uint32_t flow_count, flow_room;
	uint32_t *slots; /**< hash table of flows, index + 1 */
	bool sorted;
};

#endif
