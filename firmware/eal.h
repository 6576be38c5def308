/* SPDX-License-Identifier: BSD-3-Clause */
/** @file eal.h: the start and the end of DPDK. */
#ifndef MOETAP_FW_EAL_H
#define MOETAP_FW_EAL_H

#include "error.h"

/**
 * Start DPDK. Without a --file-prefix it gets one of the name of the page, so that a host runs as
 * many firmwares as it has pages.
 *
 * @return how many of the arguments were DPDK's, as rte_eal_init() does, or a negative errno
 */
int fw_eal_start(int argc, char **argv, struct mt_error *err);

/** End DPDK, and remove what it leaves in its folder: some MiB of memory each time. */
void fw_eal_end(void);

#endif
