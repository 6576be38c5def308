/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file learn_atomic.h: the form of atomics that no standard tells, from the traffic.
 *
 * Some NICs have atomics of their own (mlx5: masked ones) whose packets are not public: an opcode
 * that is reserved or a vendor's, and somewhere behind the BTH the address and the operand. Where a
 * map wants it (atomic-form: learn), every place of the two and both byte orders of the operand
 * are tried on each such packet, by class: opcode and length. A place is refuted by a packet whose
 * address no rule atomic knows, or that announces another count than the tokens which its flow
 * carried to that expert in this round. It is believed when it alone tells counts and explains all
 * packets of its class since it was tried first, over FW_LEARN_ROUNDS rounds of every source that
 * dispatches, with counts that were not all the same. When none is left, all are tried anew: the
 * tap began inside of a round, or packets are missing. Packets behind a hole are not evidence.
 *
 * Poll cores learn from the flows that they own, in their slow way, and look at what the others
 * have learnt once a round of a source: words with one writer each, no lock. From then on the form
 * is read like an AtomicETH.
 *
 * Figures: FW_LEARN_CLASSES classes a core; a packet that no rule knows costs a look at each of up
 * to 15 places of an address.
 */
#ifndef MOETAP_FW_LEARN_ATOMIC_H
#define MOETAP_FW_LEARN_ATOMIC_H

#include "core.h"

#define FW_LEARN_ROUNDS 3u
#define FW_LEARN_CLASSES 4u
#define FW_LEARN_IDLE 64u /* packets without a count after which all places are tried anew */
#define FW_LEARN_PLACES (MT_FORM_MOST / 4)

struct fw_learn_class {
	uint32_t key; /**< opcode << 8 | bytes behind the BTH; 0: free */
	/** By place of the address: places of the operand, with its order, that explain all so far;
	 * and those that explained a count, too. */
	uint32_t alive[FW_LEARN_PLACES], counts[FW_LEARN_PLACES];
	uint32_t idle;	      /**< packets so far, while none explained a count */
	uint32_t least, most; /**< counts that were announced */
	uint8_t *rounds;      /**< [ranks]: rounds of a source that were explained, at most 255 */
	uint32_t *label;      /**< [ranks]: of the last one */
};

/** What one poll core has learnt. */
struct fw_learn_part {
	const struct fw_source *sources;
	struct fw_learn_class class[FW_LEARN_CLASSES];
};

struct fw_learn {
	uint64_t form; /**< struct mt_form that is read, 0: none yet */
	bool learning; /**< it may be learnt; else it was stated */
	uint8_t width; /**< of the operands that the map's rules read */
	uint32_t ranks;
	uint32_t parts;
	struct fw_learn_part *part[FW_MAX_CORES];
};

/** @return NULL: out of memory; to be freed with fw_learn_free() */
struct fw_learn *fw_learn_new(const struct mt_bank *bank);
void fw_learn_free(struct fw_learn *l);

/** Room for what the owner of @p t learns. @return 0 or -ENOMEM */
int fw_learn_join(struct fw_learn *l, struct fw_tables *t);

/** The form that is read at this moment; opcode 0: none. */
static inline struct mt_form fw_learn_form(const struct fw_learn *l)
{
	uint64_t word = __atomic_load_n(&l->form, __ATOMIC_RELAXED);
	struct mt_form form;

	memcpy(&form, &word, sizeof(form));
	return form;
}

/** Whether a packet of FW_KIND_ODD is an atomic whose form is known. */
bool fw_odd_known(const struct fw_config *c, const struct fw_packet *p);

/** Of such a packet, address and operand. @return false: the frame ends before them */
bool fw_odd_read(
	const struct fw_config *c, const struct fw_packet *p, uint64_t *va, uint64_t *operand);

/**
 * As fw_classify() of FW_KIND_ODD, and of an atomic that is longer than the standard one. Of a form
 * that is not known, the packet does not take its PSN: see fw_odd_skip().
 */
unsigned int fw_classify_odd(const struct fw_tables *t, struct fw_flow *f,
	const struct fw_packet *p, struct fw_item *it);

#endif
