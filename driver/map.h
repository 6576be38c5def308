/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file map.h: from a map as users write it (YAML) to the bank that the firmware takes.
 *
 * What a map may say is in docs/map.md. All functions are thread-safe on different objects.
 */
#ifndef MOETAP_DRIVER_MAP_H
#define MOETAP_DRIVER_MAP_H

#include <stdbool.h>

#include "error.h"
#include "moetap_page.h"

/** Largest map file read, bytes: a million flows fit. */
#define MT_MAP_FILE_MAX (256u << 20)

#define MT_MAX_SCALE 1000000 /* of announced counts, and as a negative */
#define MT_MAX_LENGTH_STEP (1u << 20)
#define MT_MAX_ANNOUNCERS 4096u
#define MT_MAX_PAYLOAD_AT 65536u
#define MT_PATH_MTU_MIN 256u /* IBTA volume 1, 9.7.3: 256 to 4096, powers of two */
#define MT_PATH_MTU_MAX 4096u
#define MT_SNAP_WHOLE 65535u		  /* headers of frames lie anywhere in a stream's packets */
#define MT_MAX_IDLE_GAP_NS 3600000000000u /* an hour */

/**
 * Read, check and compile a map file.
 *
 * @param[out] bank one block, to be freed with free()
 * @return 0; -EINVAL: the map is wrong, @p err has "file:line: reason"; -ENOENT, -EACCES, -EFBIG,
 *	-ENOMEM
 */
int mt_map_load(const char *path, struct mt_bank **bank, struct mt_error *err);

/** The same from memory; @p name stands for the file in errors. */
int mt_map_parse(const char *text, size_t len, const char *name, struct mt_bank **bank,
	struct mt_error *err);

/**
 * Whether a bank of @p room bytes can be used as it stands: everything that the firmware relies
 * on. Addresses and flows must be sorted and free of doubles, as mt_map_parse() makes them.
 *
 * Only for memory that nobody else writes: what was checked could change before it is used. For a
 * bank in a page there is mt_bank_take().
 *
 * @return 0 or -EINVAL
 */
int mt_bank_check(const struct mt_bank *bank, uint64_t room, struct mt_error *err);

/**
 * Copy a bank out of a page, where a map loader may write it at any time, and check the copy.
 *
 * @param[out] bank the copy, to be freed with free()
 * @return 0; -EINVAL: no map, damaged, or changed while it was copied; -ENOMEM
 */
int mt_bank_take(
	const struct mt_bank *shared, uint64_t room, struct mt_bank **bank, struct mt_error *err);

/** The order in which a bank has its flows: source, destination, QPN. Below, equal to, above 0. */
int mt_flow_order(const struct mt_flow *f, const struct mt_flow *g);

/** FNV-1a, 64 bits, over the bank as if its checksum were 0. */
uint64_t mt_bank_sum(const struct mt_bank *bank);

/**
 * Bytes from the start of a frame that the rules need, for a snap length (0: none, no rules).
 * Assumes two VLAN tags and IPv6, without IP options. Rules flow: MT_SNAP_WHOLE.
 */
uint32_t mt_bank_snap(const struct mt_bank *bank);

/** The same for one of its rules alone. */
uint32_t mt_rule_snap(const struct mt_bank *bank, const struct mt_rule *r);

/** How many integers a message of rule payload-counts to rank @p dst holds. */
uint32_t mt_rule_values(const struct mt_bank *bank, const struct mt_rule *r, uint32_t dst);

/** Whether a rule finds experts by a place: an address, or bits of an immediate. */
static inline bool mt_rule_has_place(const struct mt_rule *r)
{
	return r->type == MT_RULE_VA || r->type == MT_RULE_ATOMIC || r->type == MT_RULE_IMM;
}

/** Whether a rule reads the payload of messages. */
static inline bool mt_rule_reads_payload(const struct mt_rule *r)
{
	return r->type == MT_RULE_COUNTS || r->type == MT_RULE_INDEX || r->type == MT_RULE_DENSE;
}

/** Whether a rule knows messages by numbers in their payload. */
static inline bool mt_rule_matches(const struct mt_rule *r)
{
	return r->type == MT_RULE_COUNTS && r->matches != 0;
}

/** The longest message that a rule with an immediate, or without one, can read, bytes. */
static inline uint32_t mt_immediate_most(const struct mt_bank *b)
{
	return b->path_mtu != 0 ? b->path_mtu : MT_PATH_MTU_MIN;
}

/** Whether places are addresses at a rank. */
static inline bool mt_rule_needs_base(const struct mt_rule *r)
{
	return r->type != MT_RULE_IMM && r->size != 0;
}

/** Whether a rule flow reads integers behind the header of its frames. */
static inline bool mt_rule_has_integers(const struct mt_rule *r)
{
	return r->phase == MT_PHASE_DISPATCH && r->token_bytes == 0;
}

/** Whether a rule is the load wherever it stands, whatever else tells the same tokens. */
static inline bool mt_rule_is_load(const struct mt_rule *r)
{
	return r->type == MT_RULE_COUNTS && r->phase == MT_PHASE_DISPATCH;
}

/** Whether a rule tells tokens: of phase dispatch or count. */
bool mt_rule_tells(const struct mt_rule *r);

/** How a rule of phase dispatch counts: by messages, by integers, or by bytes a token. */
int mt_rule_way(const struct mt_rule *r);

/**
 * The rule that the tokens of a round are from: of phase dispatch, the one that goes first where
 * there are several kinds.
 */
const struct mt_rule *mt_bank_load(const struct mt_bank *b);

/**
 * A rule that sees the same tokens, to be compared with them; all of these are of one type. NULL:
 * there is none.
 */
const struct mt_rule *mt_bank_witness(const struct mt_bank *b);

/** What a rule is to the tokens of a round: "load", "witness", or NULL: it tells none. */
const char *mt_rule_role(const struct mt_bank *b, const struct mt_rule *r);

/** What the witness of a round says, as users see it; NULL: no such. */
const char *mt_witness_name(unsigned int witness);
/** Whether an opcode is one that no standard gives a meaning to: reserved, or a vendor's. */
bool mt_form_opcode(unsigned int opcode);

/** Whether a form can be: its fields lie in its bytes, and its opcode may be an atomic's. */
bool mt_form_sane(const struct mt_form *form);

/** Whether an address, as in struct mt_addr, is one of IPv4. */
bool mt_ip_is_v4(const uint8_t ip[16]);

/** An address as people write it, at @p text of INET6_ADDRSTRLEN bytes. @return text */
const char *mt_ip_text(const uint8_t ip[16], char *text);

const char *mt_rule_type_name(unsigned int type);
const char *mt_when_name(unsigned int when);
const char *mt_immediate_name(unsigned int immediate);
const char *mt_encoding_name(unsigned int encoding);
const char *mt_of_name(unsigned int of);
const char *mt_order_name(unsigned int order);
const char *mt_phase_name(unsigned int phase);
const char *mt_pattern_name(unsigned int pattern);
const char *mt_tap_name(unsigned int tap);
const char *mt_within_name(unsigned int within);

/** "standard", "learn"; a form that is stated has no word. */
const char *mt_atomics_name(unsigned int atomics);

#endif
