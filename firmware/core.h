/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file core.h: a poll core's own memory, and the few words that it exchanges with the others.
 *
 * Each field has one writer. What both sides touch stands on cache lines of its own.
 */
#ifndef MOETAP_FW_CORE_H
#define MOETAP_FW_CORE_H

#include <rte_ring.h>

#include "flow.h"

#define FW_MAX_CORES 64u
#define FW_BURST 32u
#define FW_APART 128	 /* bytes between what different cores write: two lines are often fetched */
#define FW_EVENTS 16384u /* of a core, waiting for the control core; banks on their way back */

/** What the control core wants of the poll cores, in the order in which they are gone through. */
enum fw_order {
	FW_RUN,	  /**< receive and count */
	FW_HOLD,  /**< receive nothing more; count what other cores hand over */
	FW_FLUSH, /**< give up holes: everything received is counted */
	FW_EXIT,
};

/**
 * Congestion on the way from one rank to another, as the core that received the packets saw it:
 * packets marked by a switch (ECN, RFC 3168), and the notifications that their receiver sent back
 * for them (CNP, IBTA annex A17.9). A tap before the congested switch sees only the second.
 */
struct fw_congestion {
	uint64_t marked;
	uint64_t notified;
};

/** Tables of one core for one map; replaced whole when the map is. */
struct fw_tables {
	const struct fw_config *config;
	struct fw_flow *flows; /**< open-addressed, mask + 1 of them */
	uint32_t mask, max;    /**< max: flows that may be in use */
	uint32_t used;
	uint32_t experts;	   /**< cells a flow and bank */
	struct fw_flow **by_index; /**< [max] */
	uint16_t *ports;	   /**< [max], UDP source port of a flow's first packet; 0: none */
	struct fw_cold *cold;	   /**< [mask + 1], beside flows */
	char *banks;		   /**< struct fw_epoch with its cells, bank_bytes each */
	uint32_t bank_bytes, banks_max;
	uint32_t banks_touched; /**< banks from this one on were never used */
	uint32_t *free_banks;	/**< stack of banks given back, [banks_max] */
	uint32_t free_count;
	struct fw_source *sources; /**< [ranks], where sources have labels */
	uint64_t *witness;	   /**< [ranks][FW_EPOCHS][experts of all ranks]; witness.h */
	struct fw_congestion *congestion;     /**< [ranks * ranks], source * ranks + destination */
	struct fw_congested_table *congested; /**< by flow, congestion.h */
	struct fw_block *blocks;	      /**< [FW_BLOCKS] */
	uint32_t free_block;		      /**< 1 + first free one, 0: none */
	uint32_t blocks_touched;	      /**< blocks from this one on were never used */
	bool has_blocks;		      /**< some may be in use: worth a sweep */
	uint8_t *kept; /**< integers of packets that wait, kept_bytes a piece; values.c */
	uint32_t kept_bytes, kept_max;
	uint32_t kept_touched; /**< pieces from this one on were never used */
	uint32_t *kept_free;   /**< stack of pieces given back, [kept_max] */
	uint32_t kept_free_count;
	uint32_t cuts, strays, unread; /**< flows without an epoch, by flag: FW_FLOW_CUT ... */
	uint32_t unplaced; /**< not 0: a rule knew a packet whose ranks were not told; fw_place() */
	struct fw_tcp *tcp; /**< connections, open-addressed, tcp_mask + 1 of them; tcp.c */
	uint32_t tcp_mask, tcp_used;
	struct fw_segment *segments; /**< [FW_TCP_HELD], that wait */
	uint32_t segments_touched;   /**< those from this one on were never used */
	uint32_t segments_used;	     /**< buffers that those that wait have */
	uint32_t free_segment;	     /**< 1 + first free one, 0: none */
	struct fw_learn_part *learn; /**< what this core has learnt of atomics; NULL: nothing to */
	bool started; /**< flows are not held back to find their first packet any more */
};

struct fw_core {
	/* the poll core's */
	struct fw_tables *tables;
	uint64_t tsc; /**< when the packet at hand was received */
	bool stuck;   /**< no bank was free for FW_WAIT_MS: do not wait again until one is */
	bool fast; /**< a flow came to FW_START_LABEL: flows that are still starting must start */
	uint64_t outcome[MT_OUTCOME_ROOM]; /**< enum mt_outcome */
	uint64_t packets, bytes;
	uint64_t marked; /**< packets that met congestion, see struct fw_congestion */
	uint64_t overruns;
	struct rte_ring *events;	   /**< struct fw_event, to the control core */
	struct rte_ring *back;		   /**< uint32_t, banks given back by the control core */
	struct rte_ring *in[FW_MAX_CORES]; /**< packets received by other cores, NULL for its own */
	uint32_t id, queues;
	struct {
		uint16_t port, queue;
	} queue[FW_MAX_CORES];

	/* words to the others */
	uint64_t sent __attribute__((
		aligned(FW_APART))); /**< all received before this tsc was handed on */
	uint64_t done;		     /**< all received before this tsc by anyone was counted here */
	uint64_t idle;		     /**< polls in a row that brought nothing */
	uint32_t obeyed;	     /**< enum fw_order */

	/* words from the control core */
	uint32_t order __attribute__((aligned(FW_APART))); /**< enum fw_order */
	uint64_t wait_tsc; /**< how long to wait for a bank, UINT64_MAX: for ever */
	uint64_t hold_tsc; /**< how long a hole may stay open when nothing comes */
} __attribute__((aligned(FW_APART)));

/** Memory that is zero and only backed where touched; NULL: none. Freed by fw_release(). */
void *fw_reserve(size_t bytes);
void fw_release(void *p, size_t bytes);

/** @return tables for up to @p max flows, or NULL: out of memory */
struct fw_tables *fw_tables_new(const struct fw_config *config, uint32_t max);
void fw_tables_free(struct fw_tables *t);

static inline struct fw_epoch *fw_bank(const struct fw_tables *t, uint32_t bank)
{
	return (struct fw_epoch *)(t->banks + (size_t)bank * t->bank_bytes);
}

/**
 * A cell of an epoch of a flow as it is now, with the messages that the flow still has apart. For
 * the control core, at any time; waits while the poll core adds those to the cell.
 */
struct fw_cell fw_cell_now(const struct fw_flow *f, const struct fw_epoch *e, uint32_t expert);

static inline struct fw_cold *fw_cold_of(const struct fw_tables *t, const struct fw_flow *f)
{
	return &t->cold[f - t->flows];
}

/** The epoch that a flow is counting; before its first, one that stays zero. */
static inline struct fw_epoch *fw_epoch_of(const struct fw_tables *t, const struct fw_flow *f)
{
	return fw_bank(t, f->epoch);
}

#endif
