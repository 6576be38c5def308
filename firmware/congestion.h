/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file congestion.h: packets that tell of congestion, by pairs of ranks and by flows.
 *
 * Kept by the core that receives them, in its tables, and read by telemetry, which adds them up.
 * A mark is of the flow of its packet. A notification (CNP, IBTA annex A17.9) has the QPN of the
 * queue pair that sent what was marked, and no other; so it is kept as a flow of its own, and no
 * mark is beside it.
 *
 * Failure behaviour: flows that the table has no room for count for their pair alone, and their
 * packets are counted as others.
 */
#ifndef MOETAP_FW_CONGESTION_H
#define MOETAP_FW_CONGESTION_H

#include "core.h"

#define FW_CONGESTED 8192u /* flows of a core, a power of two; three quarters are used at most */
#define FW_KEY_NOTIFIED (1u << 29) /* in fw_congested.qpn: QPN at the source of the data */

/** A flow that met congestion; qpn is written last. */
struct fw_congested {
	uint64_t ips;	   /**< as fw_packet.ips, of IPv6 as fw_key_v6() */
	uint32_t qpn;	   /**< as fw_packet.qpn, and FW_KEY_NOTIFIED; 0: free */
	uint16_t src, dst; /**< ranks: data went from source to destination */
	uint64_t packets;  /**< marked ones, or notifications */
};

/** Flows of one core. */
struct fw_congested_table {
	uint32_t used;
	uint64_t others; /**< packets of flows without room */
	struct fw_congested flow[FW_CONGESTED];
};

/**
 * Count a packet that was marked, or (@p out is MT_OUT_CNP) a notification.
 *
 * @param v6 its addresses; NULL: they are in @p p
 */
void fw_congested(
	struct fw_core *core, unsigned int out, const struct fw_packet *p, const uint8_t *v6);

/** A flow in a table by the words of its key; NULL: it is not there. For telemetry, at any time. */
const struct fw_congested *fw_congested_find(
	const struct fw_congested_table *t, uint64_t ips, uint32_t qpn);

#endif
