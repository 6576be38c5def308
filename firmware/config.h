/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file config.h: a map made ready for the poll cores: tables to look up, divisions made ahead.
 *
 * Built by the control core from a bank, read-only from then on, shared by all poll cores.
 */
#ifndef MOETAP_FW_CONFIG_H
#define MOETAP_FW_CONFIG_H

#include <rte_reciprocal.h>

#include "error.h"
#include "moetap_page.h"
#include "parse.h"

/**
 * What of a message with integers is read: of counts, those of its destination's experts; of lists,
 * what of each can be about them. Bytes from the message's start.
 */
struct fw_part {
	uint32_t begin, bytes;
	uint32_t stride;	 /**< from list to list; of counts UINT32_MAX */
	uint32_t first, experts; /**< of lists of numbers: those of the destination's experts */
};

/** A region rule of the map, or a rule by length or queue pair (region false). */
struct fw_rule {
	uint64_t offset, size;
	uint64_t parity_stride, expert_stride, source_stride;
	struct rte_reciprocal_u64 parity_div, expert_div, source_div;
	struct rte_reciprocal expert_wrap, source_wrap; /**< of the counts, to take remainders */
	struct rte_reciprocal step_wrap;		/**< of length_step */
	int64_t value_add;
	int32_t value_scale;
	uint32_t length_min, length_span; /**< matches when length - min <= span */
	uint32_t length_step; /**< and, without a region, is a multiple of this; 0: any */
	uint32_t parity_count, expert_count, source_count, expert_fixed;
	uint32_t token_bytes;
	const uint64_t *bases; /**< by rank, where offsets count from; NULL: from the rank's base */
	uint8_t type, phase, value_width;
	bool region, by_bytes; /**< by_bytes: tokens are made of bytes when the round closes */
	uint8_t when, encoding, of;
	bool payload;	    /**< read by values.h */
	uint8_t count_what; /**< enum fw_what of a message of phase count */
	bool witness;	    /**< not the load, but compared with it: read by values.h too */
	uint8_t number;	    /**< of the rule in fw_config.write */
	uint8_t immediate;  /**< enum mt_immediate */
	bool has_window;    /**< where a message goes says all of it; see struct fw_flow */
	uint8_t matches;    /**< that must hold for a message, of a rule with payload */
	const struct mt_match *match;
	bool operand_signed;
	uint8_t operand_shift, place_shift;
	uint32_t operand_mask, place_mask; /**< of an immediate, shifted */
	uint32_t imm_mask, imm_value, place_unit;
	const struct fw_part *parts; /**< of a rule with integers: [ranks], by destination */
};

/** The lengths of a rule: see fw_rule.length_min. */
struct fw_length {
	uint32_t min, span;
};

/** Two addresses that share a hash; looked at both at once, since a branch would be a guess. */
struct fw_v4 {
	uint32_t ip[2]; /**< as on the wire */
	uint32_t rank_plus_1[2];
};

struct fw_v6 {
	uint8_t ip[16];
	uint32_t addr_plus_1; /**< its place among those of the bank */
	uint32_t reserved[3];
};

/** What ends an epoch of a source. */
enum fw_split {
	FW_SPLIT_PARITY,
	FW_SPLIT_COMBINE,
	FW_SPLIT_IDLE,
	FW_SPLIT_AGAIN /**< integers of a stream: a pair is told of again */
};

/** Rules that are asked of a message, in their order. */
struct fw_list {
	const struct fw_rule *rule;
	const struct fw_length *length; /**< of each rule; atomics have none */
	uint32_t n;
};

/** Room for a list that is not of all rules. */
struct fw_parted {
	struct fw_rule rule[MT_MAX_RULES];
	struct fw_length length[MT_MAX_RULES];
};

struct fw_learn;

struct fw_config {
	uint32_t generation;
	uint32_t v4_shift, v4_multiplier; /**< chosen so that no bucket overflows */
	uint32_t v6_mask;		  /**< of an open-addressing table */
	struct fw_v4 *v4;
	struct fw_v6 *v6;
	/* Of ranks that share an address, tables have the first; behind each, the next; the last
	 * has MT_MAX_RANKS. NULL: no rank shares one, and an address is a rank. */
	uint16_t *shares;
	uint32_t writes, sends, reads, atomics, imms; /**< rules in the lists below */
	struct fw_rule write[MT_MAX_RULES], send[MT_MAX_RULES], read[MT_MAX_RULES],
		atomic[MT_MAX_RULES], imm[MT_MAX_RULES];
	struct fw_length write_length[MT_MAX_RULES], send_length[MT_MAX_RULES],
		read_length[MT_MAX_RULES]; /**< of the rules in the lists of these names */
	/* of WRITEs and SENDs, by enum fw_shows: write and send, unless a rule tells immediates */
	struct fw_list of_write[FW_SHOWS], of_send[FW_SHOWS], of_read, of_atomic;
	struct fw_parted *parted; /**< what those lists are of that not all rules are in */
	bool values;		  /**< there are rules that read payloads */
	uint32_t announcers;	  /**< flows of a pair that announce each cell */
	uint32_t hit_kinds;	  /**< bits 1 << enum fw_kind that fw_hit() may count */
	bool tcp;		  /**< the rules are of type flow */
	bool tcp_combine;	  /**< and there is one of phase combine */
	bool datagrams;		  /**< and read UDP in place of TCP */
	uint8_t tcp_header;	  /**< bytes of the shortest header among them */
	bool heads;
	bool by_source;	    /**< no counts are announced: epochs are a source's, see flow.h */
	bool witness;	    /**< counts in payloads are the load, and there is a witness of them */
	bool source_labels; /**< one of both: a source's packets are counted by one core */
	bool announced_first; /**< of counted and announced tokens the load is what was announced */
	uint8_t witness_type; /**< enum mt_rule_type */
	uint8_t body_adds;    /**< enum fw_what of a packet that adds its bytes to a message's */
	uint32_t witness_bytes; /**< bytes a token where the witness is bytes, else 0 */
	uint8_t split;		/**< enum fw_split, where epochs are a source's */
	uint32_t by_bytes;	/**< bytes a token where tokens are made of bytes, else 0 */
	uint32_t beside; /**< bytes from an epoch to the line that is fetched besides a cell's */
	uint32_t max_experts; /**< largest number of experts at a rank */
	uint64_t idle_gap_ns;
	struct fw_part *parts;	/**< of all rules */
	struct fw_learn *learn; /**< form of atomics, stated or learnt; NULL: standard ones alone */
	uint8_t mtu_log2;	/**< path MTU of a flow that has not shown it */
	const struct mt_bank *bank; /**< a private copy, owned by this struct */
};

/*
 * A flow is known by its addresses and its destination's queue pair: 64 bits of IPv4 addresses as
 * on the wire, so that no rank has to be looked up for a packet of a known flow; of IPv6, the
 * places of the two addresses among those of the map. The word with the QPN says which (FW_KEY_V4,
 * FW_KEY_V6), and is never 0.
 */
_Static_assert(RTE_BYTE_ORDER == RTE_LITTLE_ENDIAN, "the source is in the lower half");
/** Key of an IPv6 packet, like fw_packet.ips. */
static inline uint64_t fw_key_v6(uint32_t src, uint32_t dst) /* places */
{
	return (uint64_t)dst << 32 | src;
}

/**
 * Spread a flow over 32 bits. Addresses of a job differ in a few bits, and one product of them is a
 * lattice in the table: so its upper half, which depends on all of them, goes into another.
 */
static inline uint32_t fw_hash(uint64_t ips, uint32_t qpn)
{
	uint64_t h = (ips ^ qpn * 0xd6e8feb86659fd93ull) * 0x9e3779b97f4a7c15ull;

	return (uint32_t)((h ^ h >> 32) * 0xd6e8feb86659fd93ull >> 32);
}

static inline uint32_t fw_hash_v6(const uint8_t *ip)
{
	uint64_t w[2];

	memcpy(w, ip, sizeof(w));
	w[0] = (w[0] * 0x9e3779b97f4a7c15ull ^ w[1]) * 0x9e3779b97f4a7c15ull;
	return (uint32_t)(w[0] >> 32 ^ w[0]);
}

static inline uint32_t fw_hash_v4(const struct fw_config *c, uint32_t ip)
{
	return ip * c->v4_multiplier >> c->v4_shift;
}

/** Rank + 1 of an address, 0: nobody's. */
static inline uint32_t fw_rank_v4(const struct fw_config *c, uint32_t ip)
{
	const struct fw_v4 *b = &c->v4[fw_hash_v4(c, ip)];

	return (b->ip[0] == ip ? b->rank_plus_1[0] : 0) | (b->ip[1] == ip ? b->rank_plus_1[1] : 0);
}

/** Place + 1 of an address among those of the bank, 0: nobody's. */
static inline uint32_t fw_addr_v6(const struct fw_config *c, const uint8_t *ip)
{
	uint32_t i = fw_hash_v6(ip) & c->v6_mask;

	while (c->v6[i].addr_plus_1 != 0 && memcmp(c->v6[i].ip, ip, 16) != 0)
		i = (i + 1) & c->v6_mask;
	return c->v6[i].addr_plus_1;
}

/** Rank + 1 of the address at a place; one that is nobody's has none. */
static inline uint32_t fw_rank_at(const struct fw_config *c, uint32_t place)
{
	return place < c->bank->addrs ? mt_bank_addrs(c->bank)[place].rank + 1 : 0;
}

/** Ranks + 1 of a flow by its key, 0: nobody's; of ranks that share an address, the first. */
static inline uint32_t fw_key_src(const struct fw_config *c, uint64_t ips, uint32_t qpn)
{
	return qpn & FW_KEY_V6 ? fw_rank_at(c, (uint32_t)ips) : fw_rank_v4(c, (uint32_t)ips);
}

static inline uint32_t fw_key_dst(const struct fw_config *c, uint64_t ips, uint32_t qpn)
{
	return qpn & FW_KEY_V6 ? fw_rank_at(c, (uint32_t)(ips >> 32))
			       : fw_rank_v4(c, (uint32_t)(ips >> 32));
}

/**
 * Make a config of a bank that passed mt_bank_check(); the bank is copied.
 *
 * @return the config, to be freed with fw_config_free(), or NULL: out of memory
 */
struct fw_config *fw_config_new(const struct mt_bank *bank, uint32_t generation);
void fw_config_free(struct fw_config *c);

#endif
