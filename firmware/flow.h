/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file flow.h: what a poll core knows of each flow, and where it counts.
 *
 * Words of this folder: an *epoch* is the part of a round that one flow carries. Where the map has
 * announced counts, the epochs of a flow are found in the flow itself (another parity, an expert
 * named again after its count was announced) and have labels 1, 2, 3, ... Where it has none, one
 * flow can be silent for a whole round, so epochs are found by what a source rank does (another
 * parity; a combine, then a dispatch; silence), labels are those of the source, and one poll core
 * owns all flows of a source. Which labels of which flows make one round is the control core's
 * business (rounds.h).
 *
 * PSNs order the packets of a queue pair as its sender posted them (IBTA 9.7.2). A packet is
 * applied when all before it were applied or given up; until then it waits in a block, sorted. So
 * everything behind fw_apply() sees a flow in the order of its sender, each message once, however
 * the tap reordered it. (Without announced counts a packet is counted when it comes, since order
 * among flows matters more there; PSNs then only tell duplicates and gaps.)
 *
 * An epoch is counted in a *bank*: a header and a cell for each expert at the destination. The
 * poll core takes a clean bank for every epoch and tells the control core which; the control core
 * gives it back when it has read it. So a bank has one writer, then one reader, and needs no lock;
 * banks just given back are used first, so few are ever touched.
 *
 * Limits and failure behaviour: FW_BLOCK packets of a flow may wait, then the oldest hole is given
 * up: a gap, counted. FW_BLOCKS flows of a core may have holes at a time; for more, holes are gaps
 * at once. FW_EPOCHS epochs of a flow may wait for the control core; then the poll core waits, at
 * most FW_WAIT_MS, and then lets rounds run together and says so (FW_EPOCH_OVERRUN). Flows beyond
 * the table end as MT_OUT_NO_ROOM.
 *
 * Figures: 64 hot and 32 cold bytes a flow, at a load of at most 1/4; 64 + 32 * experts at the
 * destination for each epoch that is open or unread, usually three a flow; FW_BLOCKS * 10.5 KiB a
 * core, only backed where touched.
 */
#ifndef MOETAP_FW_FLOW_H
#define MOETAP_FW_FLOW_H

#include "config.h"

#define FW_EPOCHS 64u	    /* epochs of a flow that are open or unread, a power of two */
#define FW_SPARSE 4u	    /* slots of the table a flow: a second look at it is a wrong guess */
#define FW_BLOCK 192u	    /* packets of a flow that may wait for an earlier one */
#define FW_BLOCKS 4096u	    /* of a core */
#define FW_HOLD_LABELS 3u   /* epochs of a source after which nothing of earlier ones comes */
#define FW_START 128u	    /* packets after which the first of a new flow must have come */
#define FW_START_LABEL 32u  /* epochs of a flow, also waiting ones, after which all must start */
#define FW_RESYNC (1 << 16) /* a larger jump in PSNs is another life of the queue pair */
#define FW_WAIT_MS 100u
#define FW_PSN_MASK 0xffffffu

/** Counters of one expert in one epoch of a flow. */
struct fw_cell {
	uint64_t bytes;
	uint32_t tokens;
	uint32_t messages;
	uint32_t announced; /**< tokens, by count messages */
	uint32_t counts;    /**< count messages */
	uint64_t reserved;
};
_Static_assert(sizeof(struct fw_cell) == 32, "two a cache line");

enum fw_epoch_flag {
	FW_EPOCH_RESYNC = 1,   /**< opened after a jump of the PSN */
	FW_EPOCH_OVERRUN = 2,  /**< the next epoch found no free bank: it was counted in this one */
	FW_EPOCH_FRACTION = 4, /**< a message is no whole number of tokens */
};

/** A bank: one epoch of one flow. */
struct fw_epoch {
	uint64_t first_ns;
	uint64_t last_ns; /**< valid once a later epoch is open; before, see fw_flow.last_ns */
	uint32_t label;
	uint32_t start_psn;
	uint32_t gaps; /**< PSNs given up after its first packet and before the next epoch */
	uint32_t duplicates;
	uint32_t stale, truncated, contradict, unmatched;
	uint32_t phase; /**< of its source, to find the witness of it; witness.h */
	uint8_t parity;
	uint8_t flags; /**< enum fw_epoch_flag */
	uint8_t reserved[10];
	struct fw_cell cell[]; /**< [experts at the destination] */
};
_Static_assert(sizeof(struct fw_epoch) == 64, "one cache line, then cells");

enum fw_flow_flag {
	FW_FLOW_STARTING =
		1,	     /**< collecting its first packets: the first in PSN order is unknown */
	FW_FLOW_RESYNC = 2,  /**< the next epoch opens after a jump of the PSN */
	FW_FLOW_CUT = 4,     /**< a head was cut before the first epoch was open */
	FW_FLOW_STRAY = 8,   /**< contradicted the map before the first epoch was open */
	FW_FLOW_UNREAD = 16, /**< had what no rule knows before the first epoch was open */
	FW_FLOW_DOUBT = 32,  /**< contradicted the map: perhaps what begins the next epoch */
};

/**
 * A flow; one cache line, written by its poll core only. The table is open-addressed by key.
 *
 * Messages of a flow mostly go where the last one went: to the same expert's part of the same
 * buffer. The *window* is that part: a message inside, of the same length, means the same, and the
 * rules need not be asked again. Where labels are a flow's own, its cell need not be touched
 * either: *hits* counts such messages, and is added to the cell when something else happens
 * (fw_add_hits()). A window is of the epoch being counted, and of an expert whose count was not
 * announced in it: a count, and a dispatch elsewhere, end it.
 */
struct fw_flow {
	uint64_t ips;		/**< addresses, see fw_hash() */
	uint32_t qpn;		/**< destination queue pair, see fw_hash(); 0: free */
	uint32_t epoch;		/**< bank being counted in; before the first epoch, one of zeros */
	uint64_t window;	/**< address */
	uint32_t window_bytes;	/**< 0: there is none */
	uint32_t window_length; /**< DMA length of the messages that it is about */
	uint64_t last_ns;	/**< last dispatch or count packet */
	uint32_t hits;	/**< messages in the window that its cell does not have yet; or FW_ADDING */
	uint32_t next;	/**< PSN expected */
	uint32_t label; /**< of the epoch being counted, 0: none yet */
	uint16_t block; /**< 1 + block of waiting packets, 0: none wait */
	uint16_t expert; /**< of the last dispatch message, and of the window */
	uint16_t window_tokens;
	uint8_t window_parity;
	uint8_t parity;	  /**< of the current epoch */
	uint8_t flags;	  /**< enum fw_flow_flag */
	uint8_t message;  /**< enum fw_message, before the PSN expected */
	uint8_t mtu_log2; /**< path MTU, once a FIRST packet showed it; 0: not yet */
	uint8_t reserved;
};
_Static_assert(sizeof(struct fw_flow) == 64, "one cache line");

/** What of a flow few packets need. */
struct fw_cold {
	uint32_t gap_psn; /**< highest PSN that was given up, or the one before the first */
	uint32_t passed;  /**< label of its source at its last packet, where sources have labels */
	uint32_t born;	  /**< label of its source at its first packet; with a witness, when it told
			   *   counts last */
	uint32_t index;	  /**< name of the flow in words to the control core */
	uint16_t src, dst; /**< ranks */
	uint32_t odd;	   /**< a PSN expected << 8 | packets from it on that may be its own; see
			    *   fw_odd_run() */
	uint16_t early;	   /**< PSNs not counted before the first epoch, at most so many */
	uint16_t expert;   /**< rule qp: index at the destination, FW_NO_EXPERT none */
	uint32_t read;	   /**< highest label that the control core has read; its word */
};
_Static_assert(sizeof(struct fw_cold) == 32, "two a cache line");

#define FW_ADDING (1u << 31) /* in fw_flow.hits: they are being added to their cell */
#define FW_NO_EXPERT 0xffffu
#define FW_NO_PARITY 0xffu /* the rule that a packet matched exposes none */
#define FW_NO_EPOCH 0xfeu  /* parity of a flow before its first epoch: no packet has it */

/** What the packets that follow a FIRST go on with. */
enum fw_message {
	FW_MSG_NONE,
	FW_MSG_OPEN,
	FW_MSG_ADDS,	/**< payload counts packet by packet */
	FW_MSG_VALUES,	/**< payload has integers; fw_flow.window: rule and bytes so far */
	FW_MSG_UNKNOWN, /**< of a packet that waits: the one before it was not seen yet */
};

/** What a packet does to the counters once it is its turn. */
enum fw_what {
	FW_NOTHING, /**< takes its PSNs */
	FW_DISPATCH,
	FW_COUNT,
	FW_COMBINE,
	FW_WITNESS, /**< tokens or bytes to be compared with the load, see witness.h */
	FW_BYTES,   /**< goes on with a dispatch message whose bytes are counted as they come */
	FW_VALUES,  /**< has integers in its payload, see values.c */
	FW_LOST,    /**< had some, but there was no room to keep them until its turn */
	FW_UNMATCHED,
	FW_CONTRADICT,
	FW_TRUNCATED,
};

/** The part of a message with integers that a packet has. */
struct fw_values {
	const uint8_t *at; /**< the first byte of it; a copy, while the packet waits */
	uint32_t from;	   /**< where in the message that lies */
	uint32_t bytes;
	uint32_t next; /**< where in the message the next packet begins */
	uint32_t rule;
};

struct fw_item {
	uint64_t ns;
	uint32_t psn;
	uint32_t span; /**< PSNs that it takes */
	uint32_t bytes;
	uint32_t value; /**< tokens of a dispatch, tokens announced by a count; of a packet that was
			 *   counted before its turn, the label of its source then */
	uint16_t expert; /**< index at the destination */
	uint8_t what;	 /**< enum fw_what */
	uint8_t parity;
	bool fraction;
	bool counted : 1; /**< it was a dispatch, counted before its turn */
	bool ended : 1;	  /**< it was a combine that ended the phase of its source */
	uint8_t message;  /**< of one that waits: enum fw_message, after it */
	bool unknown;	  /**< of one that waits: it goes on with a message that is not known yet */
	struct fw_values values; /**< of FW_VALUES */
};
_Static_assert(sizeof(struct fw_item) == 56, "FW_BLOCK of them are 10.5 KiB");

/** Packets of one flow that wait for an earlier one, sorted by PSN. */
struct fw_block {
	struct fw_item item[FW_BLOCK];
	struct fw_flow *flow;
	uint64_t opened_tsc;
	uint32_t count;
	uint32_t next_free;
};

/**
 * What a source rank does, where labels are a source's, or where its witness is counted by them
 * (witness.h). Phases are its epochs.
 */
struct fw_source {
	uint64_t last_ns;
	uint64_t combined_ns; /**< its last combine; 0: none yet */
	uint32_t label;
	uint8_t parity;
	bool combined;	 /**< since its last dispatch; see fw_source_combines() */
	bool turns : 1;	 /**< another parity was dispatched than the one before */
	bool odd : 1;	 /**< of the phase to come: it has atomics of unknown form */
	bool parted : 1; /**< of the phase to come: see below */
	bool told : 1;	 /**< counts, in this phase: somebody will ask for its witness */
	bool used : 1;	 /**< there is some of the witness in it */
	uint32_t round;	 /**< number of its epoch, where frames of a stream have one */
	uint32_t carry;	 /**< PSNs given up that may be of the phase to come */
	uint32_t read;	 /**< highest label that the control core has read; its word */
	struct {
		uint64_t first_ns;
		uint64_t combined_ns; /**< its last combine before that; 0: none */
		uint8_t parity;
		bool odd;      /**< it has atomics of unknown form */
		bool jumped;   /**< a flow jumped to other PSNs, perhaps in this phase */
		bool parted;   /**< from others at the wrong place: packets overtook each other */
		uint32_t gaps; /**< PSNs given up in this phase, or in a stretch that touches it */
		uint32_t witness; /**< label that its cells of the witness are of, 0: none */
	} phase[FW_EPOCHS];
};

/** A word to the control core: an epoch was opened. */
struct fw_event {
	uint64_t tsc;	/**< when its packet was received */
	uint32_t index; /**< of the flow, or of the source */
	uint32_t label;
	uint32_t bank; /**< FW_NO_BANK: an epoch of a source, which has none itself */
	uint32_t reserved;
};

/**
 * Packets of an opcode that nobody knows, from the PSN expected on. Whether they are requests that
 * take PSNs of the flow (and not answers, or another transport's) shows only in the request that
 * follows: it has the PSN behind them.
 */
static inline uint32_t fw_odd_run(const struct fw_cold *cold, const struct fw_flow *f)
{
	return cold->odd >> 8 == f->next ? cold->odd & 0xff : 0;
}

#define FW_ODD_MOST 0xffu /* of them in a row, more are a hole */
#define FW_NO_BANK UINT32_MAX
#define FW_ZERO_BANK 0u /* stays zero: of flows before their first epoch */
#define FW_DUMP_BANK 1u /* read by nobody: of flows that got no bank for their first epoch */

/** Signed distance from PSN b to PSN a, modulo 2^24 (IBTA 9.7.1, serial order). */
static inline int32_t fw_psn_ahead(uint32_t a, uint32_t b)
{
	return (int32_t)((a - b) << 8) >> 8;
}

#endif
