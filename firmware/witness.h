/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file witness.h: a second signal of the same tokens, to be compared with the load.
 *
 * Where counts in payloads are the load and other rules see the tokens too, those are the witness.
 * It mostly takes other queue pairs than the counts, of which no PSN says what comes first; so it
 * is counted by *phases* of its source rank, which one poll core owns: a phase begins with what
 * comes first after a combine. Counts say in their bank which phase they came in, so the control
 * core finds the witness of a round by its counts (compare.c); rounds themselves are closed by
 * counts alone. What comes is counted at once, also before its turn.
 *
 * A phase in which a packet is missing, or that no combine parts from the one before, says so in
 * its gaps: a difference in it means nothing. A phase without counts (a dispatch that repeats
 * routes) is forgotten.
 *
 * Memory: FW_EPOCHS phases of a source, 8 bytes an expert; only backed where touched.
 */
#ifndef MOETAP_FW_WITNESS_H
#define MOETAP_FW_WITNESS_H

#include "core.h"

size_t fw_witness_room(const struct fw_config *config);

/** Counts of rule payload-counts begin in @p f. @return the phase that they are of */
uint32_t fw_witness_told(const struct fw_tables *t, const struct fw_flow *f);

/** A message of rule @p r, no list, begins @p inside its region. @return outcome */
unsigned int fw_witness_begin(const struct fw_tables *t, struct fw_flow *f, const struct fw_rule *r,
	uint64_t inside, struct fw_item *it);

/** @p n tokens, or bytes, for an expert of the destination. */
void fw_witness_add(
	const struct fw_tables *t, const struct fw_flow *f, uint32_t expert, uint64_t n);

/** Take an item to the cells of the witness if it is one of it. @return whether it is */
bool fw_witness_apply(const struct fw_tables *t, const struct fw_flow *f, const struct fw_item *it);

/** A message of the witness begins: a phase may begin with it. */
void fw_witness_follow(const struct fw_tables *t, const struct fw_flow *f);

/** Packets of @p f are missing or cannot be read, of any phase from @p from to @p to or now. */
void fw_witness_miss(
	const struct fw_tables *t, const struct fw_flow *f, uint32_t from, uint32_t to);

/** Whether an item, though it is not its turn, is taken at once. */
static inline bool fw_witness_at_once(const struct fw_tables *t, const struct fw_item *it)
{
	return t->config->witness &&
	       (it->what == FW_WITNESS || it->what == FW_COMBINE ||
		       (it->what == FW_VALUES && t->config->write[it->values.rule].witness));
}

/** Cells of a phase of a source, by experts of all ranks. */
static inline uint64_t *fw_witness_cells(const struct fw_tables *t, uint32_t src, uint32_t label)
{
	return t->witness +
	       ((size_t)src * FW_EPOCHS + (label & (FW_EPOCHS - 1))) * t->config->bank->experts;
}

#endif
