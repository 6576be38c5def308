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

/** A region rule of the map, or a rule by length or queue pair (region false). */
struct fw_rule {
	uint64_t offset, size;
	uint64_t parity_stride, expert_stride, source_stride;
	struct rte_reciprocal_u64 parity_div, expert_div, source_div;
	struct rte_reciprocal expert_wrap, source_wrap; /**< of the counts, to take remainders */
	int64_t value_add;
	int32_t value_scale;
	uint32_t length_min, length_span; /**< matches when length - min <= span */
	uint32_t parity_count, expert_count, source_count, expert_fixed;
	uint32_t token_bytes;
	uint8_t type, phase, value_width;
	bool region, by_bytes; /**< by_bytes: tokens are made of bytes when the round closes */
};

/** Two addresses that share a hash; looked at both at once, since a branch would be a guess. */
struct fw_v4 {
	uint32_t ip[2]; /**< as on the wire */
	uint32_t rank_plus_1[2];
};

struct fw_v6 {
	uint8_t ip[16];
	uint32_t rank_plus_1;
	uint32_t reserved[3];
};

/** What ends an epoch of a source. */
enum fw_split { FW_SPLIT_PARITY, FW_SPLIT_COMBINE, FW_SPLIT_IDLE };

struct fw_config {
	uint32_t generation;
	uint32_t v4_shift, v4_multiplier; /**< chosen so that no bucket overflows */
	uint32_t v6_mask;		  /**< of an open-addressing table */
	struct fw_v4 *v4;
	struct fw_v6 *v6;
	uint32_t writes, sends, atomics; /**< rules in the lists below */
	struct fw_rule write[MT_MAX_RULES], send[MT_MAX_RULES], atomic[MT_MAX_RULES];
	bool heads;
	bool by_source;	      /**< no counts are announced: epochs are a source's, see flow.h */
	uint8_t split;	      /**< enum fw_split, where epochs are a source's */
	bool parity;	      /**< dispatch rules expose more than one parity */
	uint32_t by_bytes;    /**< bytes a token where tokens are made of bytes, else 0 */
	uint32_t max_experts; /**< largest number of experts at a rank */
	uint64_t idle_gap_ns;
	const struct mt_bank *bank; /**< a private copy, owned by this struct */
};

/** A flow's key: source rank, destination rank, destination QPN. Never 0: ranks differ. */
static inline uint64_t fw_key(uint32_t src, uint32_t dst, uint32_t qpn)
{
	return (uint64_t)src << 44 | (uint64_t)dst << 24 | qpn;
}

static inline uint32_t fw_key_src(uint64_t key)
{
	return (uint32_t)(key >> 44);
}

static inline uint32_t fw_key_dst(uint64_t key)
{
	return (uint32_t)(key >> 24) & 0xfffff;
}

/** Spread a key over 32 bits (Knuth, The Art of Computer Programming 3, 6.4, multiplicative). */
static inline uint32_t fw_hash(uint64_t key)
{
	key *= 0x9e3779b97f4a7c15ULL;
	return (uint32_t)(key >> 32 ^ key);
}

static inline uint32_t fw_key_qpn(uint64_t key)
{
	return (uint32_t)key & 0xffffff;
}

/** Which of @p cores poll cores counts a flow. */
static inline uint32_t fw_owner(
	const struct fw_config *c, uint64_t key, uint32_t hash, uint32_t cores)
{
	if (c->by_source)
		return fw_key_src(key) % cores;
	return (uint32_t)((uint64_t)hash * cores >> 32);
}

static inline uint32_t fw_hash_v6(const uint8_t *ip)
{
	uint64_t w[2];

	memcpy(w, ip, sizeof(w));
	return fw_hash(w[0] * 0x9e3779b97f4a7c15ULL ^ w[1]);
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

static inline uint32_t fw_rank_v6(const struct fw_config *c, const uint8_t *ip)
{
	uint32_t i = fw_hash_v6(ip) & c->v6_mask;

	while (c->v6[i].rank_plus_1 != 0 && memcmp(c->v6[i].ip, ip, 16) != 0)
		i = (i + 1) & c->v6_mask;
	return c->v6[i].rank_plus_1;
}

/**
 * Make a config of a bank that passed mt_bank_check(); the bank is copied.
 *
 * @return the config, to be freed with fw_config_free(), or NULL: out of memory
 */
struct fw_config *fw_config_new(const struct mt_bank *bank, uint32_t generation);
void fw_config_free(struct fw_config *c);

#endif
