/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file poll.h: the poll cores: receive, parse, hand over to the core that owns the flow, count.
 *
 * RSS does not spread these jobs (all queue pairs of two hosts often share one UDP source port), so
 * whoever receives a packet parses it, and the core that owns its flow counts it. What follows
 * the headers never moves: an mbuf is handed over with its parsed packet in its private area.
 */
#ifndef MOETAP_FW_POLL_H
#define MOETAP_FW_POLL_H

#include <rte_mbuf.h>

#include "core.h"

/** All poll cores, and what they share. */
struct fw_plane {
	struct fw_core *core[FW_MAX_CORES];
	uint32_t cores;
	uint32_t fast;	     /**< raised by a core whose flows must all have started by now */
	bool yield;	     /**< more cores than CPUs: an idle one gives its CPU away */
	int stamp_offset;    /**< of the receive time in an mbuf */
	uint64_t stamp_flag; /**< set in mbufs that carry one; 0: none do */
	uint64_t stamp_ns;   /**< its unit */
	uint64_t wall_tsc, wall_ns; /**< the same moment on both clocks */
	double ns_per_tsc;
};

#define FW_PRIV_BYTES RTE_ALIGN_CEIL(sizeof(struct fw_packet), RTE_MBUF_PRIV_ALIGN)

/** The loop of a poll core, until it is told to exit. */
void fw_poll(struct fw_plane *plane, struct fw_core *core);

/**
 * Parse and count @p n frames received at @p tsc, handing over those of other cores' flows.
 * Takes the mbufs.
 */
void fw_receive(struct fw_plane *plane, struct fw_core *core, struct rte_mbuf **m, uint16_t n,
	uint64_t tsc);

#endif
