/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file ports.h: UDP source ports of queue pairs.
 *
 * Switches spread flows over paths by a hash of addresses and ports (ECMP), and NICs over receive
 * queues; of RoCEv2 only the source port differs between the queue pairs of two hosts (IBTA annex
 * A17.9.3). Where many queue pairs share one port, all of their bytes take one path.
 */
#ifndef MOETAP_FW_PORTS_H
#define MOETAP_FW_PORTS_H

#include "core.h"

/** Queue pairs from one rank to another, and the source ports of their first packets. */
struct fw_ports {
	uint32_t src, dst;
	uint32_t queue_pairs, ports;
};

/**
 * Pairs of ranks whose queue pairs share source ports, those first that have most of them a port.
 * For telemetry: any thread, while the cores' tables stay.
 *
 * @return their number, at most @p room, and how many there are in @p all; -1: out of memory
 */
int fw_ports_shared(struct fw_core *const *cores, uint32_t n, struct fw_ports *shared,
	uint32_t room, uint32_t *all);

#endif
