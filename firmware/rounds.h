/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file rounds.h: the control core: from epochs of flows to rounds.
 *
 * A *lane* is whatever has labels of its own: a flow where the map has announced counts, else a
 * source rank with all its flows (flow.h). Jobs of this kind go in lockstep: no rank dispatches
 * before it has the results of its last dispatch back. So the n-th epoch of every lane makes round
 * n, as long as nothing was lost. The control core assembles one round at a time, the oldest:
 *
 * - Which lanes' oldest unread epoch belongs to it: of a lane without gaps, the one after the
 *   epoch that went into the last round. Of other lanes (new, or with packets missing in between)
 *   the one that fits by parity and by time.
 * - When it is closed: as soon as every cell that crosses a NIC was announced and has as many
 *   tokens, and all lanes are sure of their epochs. Else as soon as some lane is two epochs further
 * (in lockstep nobody can still be dispatching then) and either every count came and equals the
 * tokens counted, or every lane has gone on, so that all its packets were seen or given up. Else
 * when some lane is FW_LAG epochs further, or when nothing came for the map's idle gap. What is
 * missing is said in its quality. While some flow is still held back to find its first packet,
 * nobody knows what it has of the round; so then FW_LAG_START, by which all flows are told to
 * start, and a gap.
 *
 * Without counts a last packet that was lost shows only in the next one of its flow. So there, a
 * round also waits (up to FW_LAG) until every flow of its lanes was seen to go on.
 *
 * One thread. Memory: about 0.5 KiB a flow, and one round.
 */
#ifndef MOETAP_FW_ROUNDS_H
#define MOETAP_FW_ROUNDS_H

#include "page.h"
#include "poll.h"

#define FW_LAG 48u	 /* epochs that a round may wait for late packets; less than FW_EPOCHS */
#define FW_LAG_START 60u /* and for flows to start */

struct fw_rounds;

/** Where rounds go. @p arg is what fw_rounds_new() was given. */
typedef void (*fw_publish)(void *arg, const struct mt_round *round);

/**
 * Rounds of the cores of @p plane, whose tables have to be in place.
 *
 * @return or NULL: out of memory
 */
struct fw_rounds *fw_rounds_new(const struct fw_plane *plane, fw_publish publish, void *arg);

/** Begin with the first step that @p old had not begun, instead of with 0. */
void fw_rounds_follow(struct fw_rounds *r, const struct fw_rounds *old);

/**
 * The job is amid its rounds: of the one that it is in, some flows may have all behind them and
 * others all before them, and nothing in the traffic tells. So which epochs go together is assumed,
 * like layer and step, until the job begins anew with other queue pairs (MT_Q_ALIGN), or if nothing
 * comes for the idle gap before it begins.
 */
void fw_rounds_join(struct fw_rounds *r);

/** @param tables those that it was made for, by core */
void fw_rounds_free(struct fw_rounds *r, struct fw_tables *const *tables);

/** Take what the poll cores told, close what can be closed. @return words taken */
uint32_t fw_rounds_pump(struct fw_rounds *r);

/** Nothing came for the idle gap (@p timeout), or nothing more will: close everything. */
void fw_rounds_close_all(struct fw_rounds *r, bool timeout);

/**
 * The port dropped so many packets since it was last asked, perhaps none: say so in the rounds that
 * are open, and, where these are the first ones, that others may have been before them.
 */
void fw_rounds_dropped(struct fw_rounds *r, uint64_t packets);

/** Flows found so far, for telemetry: calls @p each for every one. */
void fw_rounds_flows(const struct fw_rounds *r,
	void (*each)(void *arg, uint32_t src, uint32_t dst, uint32_t qpn, uint32_t epochs),
	void *arg);

#endif
