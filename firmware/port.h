/* SPDX-License-Identifier: BSD-3-Clause */
/** @file port.h: the DPDK ports that are tapped. */
#ifndef MOETAP_FW_PORT_H
#define MOETAP_FW_PORT_H

#include "error.h"
#include "poll.h"

/**
 * Open and start every port that DPDK found, and give their queues to the poll cores in turn.
 *
 * @param snap  bytes of a frame that are read, see mt_bank_snap(): buffers are made for them
 * @return 0; -ENODEV: there is none; another negative errno of the driver
 */
int fw_ports_start(struct fw_plane *plane, uint32_t snap, struct mt_error *err);
void fw_ports_stop(void);

/** Packets that ports dropped or had no buffer for, since they were started. */
uint64_t fw_ports_drops(void);

#endif
