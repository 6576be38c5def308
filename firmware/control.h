/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file control.h: the control core's loop: rounds onto the page, maps from it, statistics.
 */
#ifndef MOETAP_FW_CONTROL_H
#define MOETAP_FW_CONTROL_H

#include <rte_spinlock.h>

#include "map.h"
#include "page.h"
#include "rounds.h"

struct fw_control {
	struct fw_plane *plane;
	struct mt_page_map page;
	struct fw_config *config;
	struct fw_rounds *rounds;
	rte_spinlock_t tables_lock;  /**< other threads hold it while they read tables */
	uint32_t max_flows;	     /**< a core */
	bool once;		     /**< end when the ports bring nothing more */
	bool paced;		     /**< wait for the reader of the page */
	uint64_t drops;		     /**< of the ports, as last looked at */
	uint64_t no_room;	     /**< packets of flows that had no room, as last looked at */
	uint64_t renewed_tsc;	     /**< when the tables were last emptied to make room */
	uint64_t active, active_tsc; /**< messages of the job, as last looked at; when they grew */
	uint64_t any, any_tsc;	     /**< the same of RoCE packets */
	bool silent;		     /**< none came for the idle gap, or ever */
};

/** Set by SIGINT and SIGTERM. */
extern volatile bool fw_quit;

/**
 * Make tables and rounds for a map and count with them. Poll cores that count with another one are
 * held for a moment: what they received becomes rounds of the old map, what follows is counted
 * under the new one.
 *
 * @return 0 or -ENOMEM; then nothing has changed
 */
int fw_control_use(struct fw_control *c, const struct mt_bank *bank, uint32_t generation,
	struct mt_error *err);
void fw_control_free(struct fw_control *c);

/** Run until told to quit, or (once) until the end of the capture; then close all rounds. */
void fw_control_run(struct fw_control *c);

/** Telemetry commands /moetap/...; @p c must live as long as the process. */
void fw_telemetry_init(struct fw_control *c);

#endif
