/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file values.h: messages whose payload says how many tokens each expert gets (rule
 * payload-counts), or which experts each token goes to (payload-index, payload-dense); and messages
 * of other rules that are a witness.
 *
 * A message may be several packets; integers are read from each as it comes. A packet that waits
 * for an earlier one is freed meanwhile, so the integers of its destination's experts are kept.
 * What goes on with a message whose first packet comes later cannot be read: a gap.
 */
#ifndef MOETAP_FW_VALUES_H
#define MOETAP_FW_VALUES_H

#include "core.h"

#define FW_KEPT_BYTES (1ul << 32) /* of address space, for integers of packets that wait */
#define FW_KEPT_LEAST 4096u	  /* of a packet: lists may fill one of the longest path MTU */

/**
 * A message begins with @p p, @p inside the region of rule @p r. @return outcome; MT_OUTCOMES: its
 * numbers are not those of the rule
 */
unsigned int fw_values_begin(const struct fw_tables *t, struct fw_flow *f, const struct fw_rule *r,
	const struct fw_packet *p, uint64_t inside, struct fw_item *it);

/** @p p goes on with the message that is open in @p f. @return outcome */
unsigned int fw_values_go_on(const struct fw_tables *t, struct fw_flow *f,
	const struct fw_packet *p, struct fw_item *it);

/** Take what a packet has to the cells. */
void fw_values_apply(struct fw_core *core, struct fw_flow *f, const struct fw_item *it);

/** Keep what @p it points to until its turn. Without room for it, it is lost, and says so. */
void fw_values_keep(struct fw_tables *t, struct fw_item *it);

/** An integer of @p width bytes, enum mt_encoding, as tokens; negative: it cannot be. */
int64_t fw_values_tokens(const uint8_t *at, uint8_t width, uint8_t encoding);

/** Its turn came. */
void fw_values_drop(struct fw_tables *t, const struct fw_item *it);

#endif
