/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file moetap_page.h: the device page, the only thing that firmware and host share.
 *
 * The firmware shows itself to the host as one page of shared memory, /dev/shm/moetap-NAME:
 *
 *	0                 struct mt_page    identity, geometry, state, control, statistics
 *	bank_off[0]       struct mt_bank    the map in force: ranks, addresses, rules, flows ...
 *	bank_off[1]       struct mt_bank    ... and the spare one
 *	ring_off          struct mt_round   slot 0: header, pairs[], bytes[], tokens[]
 *	  + slot_size     struct mt_round   slot 1, and so on, slots of them
 *	size
 *
 * Words: a *rank* is a process of the job; a *flow* is (source address, destination address,
 * destination QPN), or one direction of a TCP connection; a *rule* says how a packet names its
 * expert; a *pair* is (source rank, destination rank); a *cell* of a round counts the tokens of
 * one (source rank, expert); a *round* is one dispatch all-to-all of one layer.
 *
 * Fixed width, little-endian, no pointers: offsets are bytes from the start of the page (in a
 * bank: from the start of the bank). Sizes and offsets are checked at compile time; whoever
 * changes one raises MT_PAGE_VERSION.
 *
 * Who writes what: the firmware writes everything except struct mt_page_ctl and the spare bank,
 * which a map loader or a pacing reader on the host writes. One firmware a page (a lock on
 * byte MT_LOCK_FIRMWARE of the file), one map loader at a time (byte MT_LOCK_LOADER). Readers, any
 * number, map the page read-only and cannot slow
 * the firmware down.
 */
#ifndef MOETAP_PAGE_H
#define MOETAP_PAGE_H

#include <stddef.h>
#include <stdint.h>

#define MT_PAGE_MAGIC 0x313045474150544dULL /* "MTPAGE01", little-endian */
#define MT_BANK_MAGIC 0x3130304b4e41424dULL /* "MBANK001" */
#define MT_PAGE_VERSION 6u
#define MT_PAGE_PREFIX "/moetap-" /* of the name in shared memory */
#define MT_NAME_LEN 64
#define MT_OUTCOME_ROOM 32u /* of the statistics, for enum mt_outcome */

/* Limits. A map beyond them is refused by the loader with the limit named. */
#define MT_MAX_RANKS 1024u
#define MT_MAX_ADDRS 8192u
#define MT_MAX_RULES 16u
#define MT_MAX_BASES 8u /* that rules may name */
#define MT_MAX_FLOWS (1u << 20)
#define MT_MAX_EXPERTS 65536u
#define MT_MAX_CELLS (1u << 20) /* ranks * experts */
#define MT_MAX_LAYERS 1024u
#define MT_MAX_MICRO 1024u
#define MT_MAX_PARITY 16u

/* Bytes of the page's file on which its firmware and a map loader hold write locks (F_OFD_SETLK):
 * the kernel gives them back however the process ends. */
#define MT_LOCK_FIRMWARE 0
#define MT_LOCK_LOADER 1

enum mt_rule_type {
	MT_RULE_VA,	/**< address and length of an RDMA WRITE */
	MT_RULE_ATOMIC, /**< address and operand of an atomic */
	MT_RULE_QP,	/**< destination queue pair */
	MT_RULE_LENGTH, /**< length alone */
	MT_RULE_COUNTS, /**< integers in the payload of a WRITE, or SEND: tokens of each expert */
	MT_RULE_IMM,	/**< bits of the immediate of a WRITE of one packet */
	MT_RULE_INDEX,	/**< numbers of experts in the payload of a WRITE: a list a token */
	MT_RULE_DENSE,	/**< floats in the payload of a WRITE: what is not 0 is a token */
	MT_RULE_FLOW,	/**< frames of a TCP stream, or UDP datagrams */
	MT_RULE_TYPES
};

/** Which operands a rule atomic or imm takes; others are left to other rules. */
enum mt_when { MT_WHEN_ANY, MT_WHEN_NEGATIVE, MT_WHEN_POSITIVE, MT_WHENS };

/** Which messages a rule reads, by the immediate that the last packet of one may have. */
enum mt_immediate { MT_IMMEDIATE_ANY, MT_IMMEDIATE_WITH, MT_IMMEDIATE_WITHOUT, MT_IMMEDIATES };

/** How integers in a payload are written, little-endian. */
enum mt_encoding {
	MT_ENCODING_PLAIN,	/**< as they are */
	MT_ENCODING_COMPLEMENT, /**< n as -n - 1, so that 0 is told from nothing */
	MT_ENCODINGS
};

/** Whose experts the integers in a payload are of. */
enum mt_of { MT_OF_DST, MT_OF_ALL, MT_OFS };

/** Byte order of a field in a frame of a stream. */
enum mt_order { MT_ORDER_LITTLE, MT_ORDER_BIG, MT_ORDERS };

/** What a message is for. Only dispatch messages are tokens; count messages announce them. */
enum mt_phase { MT_PHASE_DISPATCH, MT_PHASE_COMBINE, MT_PHASE_COUNT, MT_PHASE_CONTROL, MT_PHASES };

/** What a round is in its step. Only forward rounds are loads. */
enum mt_pass { MT_PASS_FORWARD, MT_PASS_BACKWARD, MT_PASS_RECOMPUTE, MT_PASSES };

/** How the atomics that announce counts are known. */
enum mt_atomics {
	MT_ATOMICS_STANDARD, /**< AtomicETH, IBTA 9.3.5 */
	MT_ATOMICS_LEARN,    /**< of any form, which the traffic shows */
	MT_ATOMICS_FORM,     /**< standard ones, and those of a struct mt_form */
	MT_ATOMICS
};

/** Order of the rounds of a step; DESIGN: 0..L-1; then L-1..0; with each layer recomputed. */
enum mt_pattern {
	MT_PATTERN_INFERENCE,
	MT_PATTERN_TRAINING,
	MT_PATTERN_TRAINING_RECOMPUTE,
	MT_PATTERNS
};

/** Whether the tap sees what ranks of one node send to each other; NVLink carries it elsewhere. */
enum mt_within { MT_WITHIN_UNSEEN, MT_WITHIN_SEEN, MT_WITHINS };

/** Tap profiles: every packet, or only those with RETH, ImmDt or AtomicETH. */
enum mt_tap { MT_TAP_ALL, MT_TAP_HEADS, MT_TAPS };

/**
 * What became of a packet. Every packet that the port gave ends in exactly one, and all of them
 * together are all packets. mt_outcome_name() has the names users see.
 */
enum mt_outcome {
	MT_OUT_DISPATCH,     /**< starts a dispatch message: tokens counted */
	MT_OUT_COMBINE,	     /**< starts a combine message */
	MT_OUT_COUNT,	     /**< announces a count */
	MT_OUT_CONTROL,	     /**< starts a control message */
	MT_OUT_BODY,	     /**< goes on with a message whose start was seen */
	MT_OUT_ORPHAN,	     /**< goes on with a message whose start was not seen */
	MT_OUT_RESPONSE,     /**< acknowledge, atomic acknowledge, read response */
	MT_OUT_DUPLICATE,    /**< its PSN was seen before: retransmission */
	MT_OUT_STALE,	     /**< its PSN is older than the window remembers: not counted */
	MT_OUT_UNMATCHED,    /**< between ranks of the job, but no rule knows it */
	MT_OUT_CONTRADICT,   /**< a rule knows it, but its source or expert cannot be */
	MT_OUT_UNKNOWN_RANK, /**< RoCE, but an address is no rank's */
	MT_OUT_NO_ROOM,	     /**< a flow for which the flow table had no room */
	MT_OUT_TRUNCATED,    /**< the frame was cut before a field that is needed */
	MT_OUT_MALFORMED,    /**< lengths or versions in its headers contradict each other */
	MT_OUT_FRAGMENT,     /**< an IP fragment */
	MT_OUT_UC,	     /**< RoCEv2, unreliable connected */
	MT_OUT_RD,	     /**< RoCEv2, reliable datagram, or a dynamically connected one */
	MT_OUT_UD,	     /**< RoCEv2, unreliable datagram */
	MT_OUT_CNP,	     /**< RoCEv2, congestion notification */
	MT_OUT_XRC,	     /**< RoCEv2, extended reliable connected */
	MT_OUT_TRANSPORT,    /**< RoCEv2, of a reserved or a vendor's transport */
	MT_OUT_ROCEV1,	     /**< RoCE of version 1, straight on Ethernet */
	MT_OUT_VXLAN,	     /**< VXLAN with no RoCE inside */
	MT_OUT_PFC,	     /**< priority flow control: the link was paused */
	MT_OUT_NOT_ROCE,     /**< anything else on the wire */
	MT_OUT_FORM,	     /**< most likely an atomic, of a form that is not known (yet) */
	MT_OUTCOMES
};

/**
 * What the witness of a round says: rules of the map that see the same tokens as those that its
 * load comes from.
 */
enum mt_witness {
	MT_WITNESS_NONE,      /**< the map has none */
	MT_WITNESS_ABSENT,    /**< there was nothing to compare */
	MT_WITNESS_AGREED,    /**< all that was compared is the same */
	MT_WITNESS_GAP,	      /**< some differ, but packets are missing: that says nothing */
	MT_WITNESS_DISAGREED, /**< some differ */
	MT_WITNESSES
};

/** Quality of a round, as bits. Any of MT_Q_INEXACT: do not trust the counts blindly. */
enum mt_quality {
	MT_Q_GAP = 1 << 0,	  /**< packets of the round never seen (PSN, or count not seen) */
	MT_Q_DISAGREE = 1 << 1,	  /**< the load and its witness differ */
	MT_Q_STALE = 1 << 2,	  /**< packets too old to tell from retransmissions, or later than
				   *   their round; all datagrams */
	MT_Q_TRUNCATED = 1 << 3,  /**< frames cut before a needed field, while the round was open */
	MT_Q_NIC_DROP = 1 << 4,	  /**< the port dropped packets while the round was open */
	MT_Q_OVERRUN = 1 << 5,	  /**< the control core came too late: rounds ran together */
	MT_Q_RESYNC = 1 << 6,	  /**< a queue pair jumped to other PSNs: restart, or a long gap */
	MT_Q_LATE = 1 << 7,	  /**< tokens arrived for rounds that were published already */
	MT_Q_NO_ROOM = 1 << 8,	  /**< flows were not counted for lack of room */
	MT_Q_CONTRADICT = 1 << 9, /**< messages whose source or expert cannot be */
	MT_Q_FRACTION = 1 << 10,  /**< bytes are no whole number of tokens */
	MT_Q_ALIGN = 1 << 11,	  /**< layer and step are assumed: the firmware started or lost
				   *   sight in mid-job */
	MT_Q_DUPLICATE = 1 << 12, /**< retransmissions were seen and left out: exact */
	MT_Q_UNMATCHED = 1 << 13, /**< packets that no rule knows: exact if they are no tokens */
	MT_Q_TIMEOUT = 1 << 14,	  /**< closed by silence, not by the traffic */
	MT_Q_UNWITNESSED = 1 << 15, /**< the form of its announced counts was not known: exact, as
				     *   of a map without counts */
};
#define MT_Q_INEXACT ((1u << 12) - 1)

/* ---- map bank ---------------------------------------------------------------------------- */

/** A rank and the experts it holds: [first_expert, first_expert + experts). */
struct mt_rank {
	uint64_t base; /**< address at the rank that rules' offsets count from, bytes */
	uint32_t first_expert;
	uint32_t experts;
	uint32_t node; /**< that it is on; ranks of one node have the same number */
	uint32_t reserved;
};

/**
 * An address of a rank, by address, then rank; ranks that share one share all. IPv4 is written as
 * ::ffff:a.b.c.d (RFC 4291, 2.5.5.2).
 */
struct mt_addr {
	uint8_t ip[16];
	uint32_t rank;
	uint32_t reserved;
};

#define MT_NO_EXPERT UINT32_MAX

/** A flow that the map names; others between ranks are found as they come. */
struct mt_flow {
	uint32_t src, dst; /**< ranks */
	uint32_t qpn;	   /**< destination QPN, 24 bits */
	uint32_t expert;   /**< for rule qp: expert of dst, or MT_NO_EXPERT */
};

#define MT_FORM_LEAST 20u /* bytes behind the BTH of an atomic: address, key, operand */
#define MT_FORM_MOST 64u  /* that are looked at */

/**
 * An atomic that is not the standard one: packets of that opcode, with so many bytes behind the
 * BTH, have a big-endian address and an operand there. opcode 0: none.
 */
struct mt_form {
	uint8_t opcode;
	uint8_t length;		  /**< bytes behind the BTH, to the end of the packet */
	uint8_t address, operand; /**< where they are in these bytes */
	uint8_t width;		  /**< bytes of the operand: 4 or 8 */
	uint8_t order;		  /**< of the operand, enum mt_order */
	uint8_t learnt;		  /**< on the page: 1: the traffic showed it; in a bank 0 */
	uint8_t reserved;
};

#define MT_MAX_HEADER 64u /* bytes of a frame or message in which rules match */
#define MT_MAX_MATCHES 3u

/** A number in the header of a frame; width 0: no bytes, just what is added. */
struct mt_field {
	uint8_t at, width, order; /**< bytes from the frame's start; 0, 1, 2, 4 or 8; enum mt_order
				   */
	uint8_t reserved;
	int32_t add;
};

/** (number & mask) == value, or with a modulo (number & mask) % modulo == value. */
struct mt_match {
	uint64_t mask, value;
	uint8_t at, width, order;
	uint8_t reserved;
	uint32_t modulo; /**< 0: none */
};

/**
 * Addresses that rules may count from in place of the base of a rank, one a rank; for memory that
 * lies elsewhere at each of them.
 */
struct mt_base {
	char name[24];
	uint64_t at[]; /**< by rank; 0 where no rule needs it */
};

/**
 * A rule: which messages it reads and how they name their expert. With
 * o = VA - base(dst) - offset, a message is inside when o / parity_stride < parity_count and
 * o % parity_stride < size; then parity = o / parity_stride, and with r = o % parity_stride
 * expert index = (r / expert_stride) % expert_count, source = (r / source_stride) % source_count.
 * A count of 0 means: the field is not there.
 */
struct mt_rule {
	char name[24];
	uint8_t type;	     /**< enum mt_rule_type */
	uint8_t phase;	     /**< enum mt_phase */
	uint8_t value_width; /**< bytes of the operand of an atomic, or of an integer: 4 or 8 */
	uint8_t when;	     /**< enum mt_when */
	uint8_t encoding;    /**< enum mt_encoding */
	uint8_t of;	     /**< enum mt_of */
	uint8_t value_signed;
	uint8_t base; /**< 0: offsets count from the rank's base; n: from those of base n - 1 */
	uint64_t offset, size; /**< region, bytes; size 0: any address */
	uint64_t parity_stride;
	uint64_t expert_stride;
	uint64_t source_stride;
	uint32_t parity_count;
	uint32_t expert_count;
	uint32_t source_count;
	uint32_t expert_fixed;		 /**< rule length: index of the expert at dst */
	uint32_t length_min, length_max; /**< DMA length of the messages, bytes, inclusive */
	uint32_t token_bytes;		 /**< 0: every message is one token */
	int32_t value_scale;		 /**< tokens announced = scale * operand + add */
	int64_t value_add;
	uint32_t payload_at;	      /**< where in the message the integers start, bytes */
	uint32_t imm_mask, imm_value; /**< rule imm: (immediate & mask) == value */
	/* rule imm: the operand, and in place of VA - base(dst) the place times its unit */
	uint8_t operand_shift, operand_bits, place_shift, place_bits;
	uint32_t place_unit;
	uint32_t payload_count;	 /**< rule payload-index: numbers of a token */
	uint32_t payload_stride; /**< rule payload-index: from token to token, bytes */
	uint32_t
		announcers; /**< flows of a (source, destination) that announce each cell; 0: one */
	/* rule flow: length of a frame, header included; bytes of tokens; number of the round */
	struct mt_field frame_length, frame_bytes, frame_round;
	struct mt_match match[MT_MAX_MATCHES]; /**< all must hold; also of rule payload-counts */
	uint8_t header;			       /**< bytes of a frame that the rule reads */
	uint8_t matches;
	uint8_t immediate; /**< enum mt_immediate: of messages of one packet */
	uint8_t reserved3;
	uint32_t length_step; /**< lengths are length_min and so many bytes more each; 0: any */
};

/**
 * A map as the firmware takes it: one block without pointers, offsets from its start. Written
 * whole into the spare bank, then struct mt_page_ctl.want is set. A bank that does not pass
 * mt_bank_check() is refused and the old one stays in force.
 */
struct mt_bank {
	uint64_t magic;
	uint32_t version;
	uint32_t bytes; /**< of the whole bank */
	char job[MT_NAME_LEN];
	uint32_t pattern, layers, micro_batches, tap;
	uint64_t idle_gap_ns;
	uint32_t ranks, addrs, rules, flows;
	uint32_t experts; /**< of all ranks */
	uint32_t snap;	  /**< bytes of a frame that the rules need, see mt_bank_snap() */
	uint32_t rank_off, addr_off, rule_off, flow_off;
	uint32_t bases, base_off;
	uint64_t checksum; /**< FNV-1a over the bank with this field 0 */
	/* rules flow: ports of either side; bytes before the first frame, by who connected */
	uint16_t port_min, port_max;
	uint16_t connect_bytes, accept_bytes;
	uint32_t within_node; /**< enum mt_within */
	uint32_t atomics;     /**< enum mt_atomics */
	struct mt_form form;  /**< MT_ATOMICS_FORM: the one that is stated */
	uint32_t path_mtu;  /**< of queue pairs, where nothing else tells; bytes, 0: the longest */
	uint32_t datagrams; /**< rules flow: 1: a frame is a UDP datagram, 0: frames of TCP streams
			     */
};

/* ---- rounds ------------------------------------------------------------------------------ */

/**
 * What passed between two ranks in a round. Times: see struct mt_round. A pair whose last_ns is 0
 * was never seen by this tap: its cells are unknown, not zero.
 */
struct mt_pair {
	uint64_t first_ns; /**< first packet of the dispatch in this round, 0: none */
	uint64_t last_ns;  /**< last packet of the dispatch in this round or before, 0: none ever */
	uint32_t gaps;	   /**< packets never seen */
	uint32_t duplicates;
};

/**
 * A round as published. A slot holds, after this header: struct mt_pair pairs[ranks * ranks] (of
 * source s and destination d at s * ranks + d), uint64_t bytes[ranks * experts] and
 * uint32_t tokens[ranks * experts] (of source s and expert e at s * experts + e).
 *
 * Reading round n: slot n % slots. seq == n + 1 before and after the copy (acquire), else the
 * writer has overtaken the reader: rounds were lost to it, and struct mt_page_state.head says
 * which are left. mt_reader_next() does this.
 *
 * Times are ns since the epoch where packets carry them (captures, NIC clocks), else the host's
 * CLOCK_REALTIME at the receive burst.
 */
struct mt_round {
	uint64_t seq;	/**< 0 while it is written, then its number on the page + 1 */
	uint64_t round; /**< number since the firmware started or the map was loaded */
	uint64_t step;
	uint32_t layer;
	uint32_t pass; /**< enum mt_pass */
	uint64_t boot_id;
	uint32_t generation; /**< of the map */
	uint32_t quality;    /**< enum mt_quality, bits */
	uint64_t first_ns, last_ns, published_ns;
	uint64_t tokens, bytes; /**< sums over the cells */
	uint32_t ranks, experts;
	uint32_t gaps;		 /**< packets never seen, all pairs */
	uint32_t duplicates;	 /**< retransmissions left out */
	uint32_t counts_missing; /**< cells whose announced count never came */
	uint32_t disagreements;	 /**< cells whose announced and counted tokens differ, and
				  *   witness_differ */
	uint64_t tokens_unseen;	 /**< tokens announced and not seen, in those cells */
	uint32_t unmatched, truncated, stale, nic_drops, contradictions, late;
	uint8_t load_from;    /**< enum mt_rule_type: which rules the tokens are from */
	uint8_t witness_from; /**< enum mt_rule_type, where there is a witness */
	uint8_t witness;      /**< enum mt_witness */
	uint8_t reserved;
	/* cells, or where the witness knows no experts pairs: compared with the witness; of those,
	 * that differ; that differ, but packets are missing */
	uint32_t witness_compared, witness_differ, witness_gaps;
};

/* ---- the page ---------------------------------------------------------------------------- */

enum mt_state { MT_STATE_STARTING, MT_STATE_RUNNING, MT_STATE_STOPPED, MT_STATE_RETIRED };

/** What the firmware is doing. Written by its control core only. */
struct mt_page_state {
	uint64_t boot_id;      /**< random, new at every start: readers notice a restart */
	uint64_t heartbeat_ns; /**< CLOCK_REALTIME, at least every 100 ms */
	uint64_t started_ns;
	uint64_t head;	/**< rounds ever published on this page */
	uint32_t state; /**< enum mt_state */
	uint32_t pid;
	uint32_t generation; /**< of the map in force; raised by every load */
	uint32_t bank;	     /**< which bank holds it */
	uint32_t refused;    /**< generation asked for and refused, 0: none */
	uint32_t starts;     /**< firmware starts on this page */
	uint64_t form;	     /**< struct mt_form of the atomics that are read, 0: none */
};

/** What hosts ask for. Written by the holder of MT_LOCK_LOADER, and by a pacing reader. */
struct mt_page_ctl {
	uint32_t want;	     /**< generation asked for; its map is in bank want % 2 */
	uint32_t attached;   /**< 1: the reader that a firmware started with --paced waits for */
	uint64_t paced_head; /**< that reader has read the rounds below this number */
};

/** Monotonic counters since the firmware started; each is read on its own. */
struct mt_page_stats {
	uint64_t outcome[MT_OUTCOME_ROOM]; /**< enum mt_outcome */
	uint64_t packets;
	uint64_t bytes;	    /**< of frames on the wire, as far as headers tell */
	uint64_t nic_drops; /**< missed by the port, or for lack of buffers */
	uint64_t flows;
	uint64_t rounds;
	uint64_t overruns; /**< rounds that ran together: the control core came too late */
	uint64_t cores;
	uint64_t marked; /**< reliable connected packets that met congestion: ECN, RFC 3168 */
};

struct mt_page {
	uint64_t magic;
	uint32_t version;
	uint32_t header_bytes; /**< sizeof(struct mt_page) */
	uint64_t size;
	char name[MT_NAME_LEN];
	uint32_t bank_bytes, slots;
	uint64_t bank_off[2];
	uint64_t ring_off, slot_bytes;
	uint8_t reserved[120];
	struct mt_page_state state __attribute__((aligned(64)));
	struct mt_page_ctl ctl __attribute__((aligned(64)));
	struct mt_page_stats stats __attribute__((aligned(64)));
};

_Static_assert(sizeof(struct mt_rank) == 24, "ABI");
_Static_assert(sizeof(struct mt_addr) == 24, "ABI");
_Static_assert(sizeof(struct mt_flow) == 16, "ABI");
_Static_assert(sizeof(struct mt_field) == 8, "ABI");
_Static_assert(sizeof(struct mt_match) == 24, "ABI");
_Static_assert(sizeof(struct mt_rule) == 248, "ABI");
_Static_assert(offsetof(struct mt_rule, frame_length) == 144, "ABI");
_Static_assert(offsetof(struct mt_rule, match) == 168, "ABI");
_Static_assert(offsetof(struct mt_rule, header) == 240, "ABI");
_Static_assert(offsetof(struct mt_rule, length_step) == 244, "ABI");
_Static_assert(offsetof(struct mt_rule, offset) == 32, "ABI");
_Static_assert(offsetof(struct mt_rule, parity_count) == 72, "ABI");
_Static_assert(offsetof(struct mt_rule, value_add) == 104, "ABI");
_Static_assert(sizeof(struct mt_base) == 24, "ABI");
_Static_assert(sizeof(struct mt_form) == 8, "ABI");
_Static_assert(sizeof(struct mt_bank) == 192, "ABI");
_Static_assert(offsetof(struct mt_bank, pattern) == 80, "ABI");
_Static_assert(offsetof(struct mt_bank, bases) == 144, "ABI");
_Static_assert(offsetof(struct mt_bank, checksum) == 152, "ABI");
_Static_assert(offsetof(struct mt_bank, form) == 176, "ABI");
_Static_assert(sizeof(struct mt_pair) == 24, "ABI");
_Static_assert(sizeof(struct mt_round) == 160, "ABI");
_Static_assert(offsetof(struct mt_round, first_ns) == 48, "ABI");
_Static_assert(offsetof(struct mt_round, unmatched) == 120, "ABI");
_Static_assert(offsetof(struct mt_round, load_from) == 144, "ABI");
_Static_assert(sizeof(struct mt_page_state) == 64, "ABI");
_Static_assert(offsetof(struct mt_page, bank_bytes) == 88, "ABI");
_Static_assert(offsetof(struct mt_page, state) == 256, "ABI");
_Static_assert(offsetof(struct mt_page, ctl) == 320, "ABI");
_Static_assert(offsetof(struct mt_page, stats) == 384, "ABI");
_Static_assert(sizeof(struct mt_page) == 704, "ABI");
_Static_assert(MT_OUTCOMES <= MT_OUTCOME_ROOM, "stats.outcome has room");

/** Bytes of a slot for that many ranks and experts, a multiple of 64. */
static inline uint64_t mt_slot_bytes(uint64_t ranks, uint64_t experts)
{
	uint64_t n = sizeof(struct mt_round) + ranks * ranks * sizeof(struct mt_pair) +
		     ranks * experts * (sizeof(uint64_t) + sizeof(uint32_t));

	return (n + 63) & ~63ULL;
}

static inline struct mt_pair *mt_round_pairs(struct mt_round *r)
{
	return (struct mt_pair *)(r + 1);
}

static inline uint64_t *mt_round_bytes(struct mt_round *r)
{
	return (uint64_t *)(mt_round_pairs(r) + (size_t)r->ranks * r->ranks);
}

static inline uint32_t *mt_round_tokens(struct mt_round *r)
{
	return (uint32_t *)(mt_round_bytes(r) + (size_t)r->ranks * r->experts);
}

static inline const struct mt_rank *mt_bank_ranks(const struct mt_bank *b)
{
	return (const struct mt_rank *)((const char *)b + b->rank_off);
}

/** Whether the map says that the tap sees what rank @p src sends to rank @p dst. */
static inline int mt_bank_crosses(const struct mt_bank *b, uint32_t src, uint32_t dst)
{
	return src != dst && (b->within_node == MT_WITHIN_SEEN ||
				     mt_bank_ranks(b)[src].node != mt_bank_ranks(b)[dst].node);
}

static inline const struct mt_addr *mt_bank_addrs(const struct mt_bank *b)
{
	return (const struct mt_addr *)((const char *)b + b->addr_off);
}

static inline const struct mt_rule *mt_bank_rules(const struct mt_bank *b)
{
	return (const struct mt_rule *)((const char *)b + b->rule_off);
}

static inline const struct mt_flow *mt_bank_flows(const struct mt_bank *b)
{
	return (const struct mt_flow *)((const char *)b + b->flow_off);
}

/** Bytes of a struct mt_base for that many ranks. */
static inline uint64_t mt_base_bytes(uint64_t ranks)
{
	return sizeof(struct mt_base) + ranks * sizeof(uint64_t);
}

static inline const struct mt_base *mt_bank_base(const struct mt_bank *b, uint32_t i)
{
	return (const struct mt_base *)((const char *)b + b->base_off +
					i * mt_base_bytes(b->ranks));
}

#endif
