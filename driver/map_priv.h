/* SPDX-License-Identifier: BSD-3-Clause */
/** @file map_priv.h: a map between its text and its bank, with the lines to complain about. */
#ifndef MOETAP_DRIVER_MAP_PRIV_H
#define MOETAP_DRIVER_MAP_PRIV_H

#include <yaml.h>

#include "formula.h"
#include "map.h"
#include "preset.h"

#define MAX_NAMES 128u /* for formulas */

#define BASE_NAME sizeof(((struct mt_base *)NULL)->name)

struct line_rule {
	struct mt_rule r;
	char base[BASE_NAME];
	unsigned int line;
	uint32_t keys; /* which keys stood there, bits of rule_keys[] */
	bool frame_has_bytes, frame_has_length;
};

struct line_rank {
	struct mt_rank r;
	unsigned int line;
	uint64_t bases[MT_MAX_BASES];
	uint32_t has_bases; /* bits */
	uint32_t first;	    /* of the ranks that have its addresses; itself, if it shares none */
	uint32_t addrs;
	bool has_base, has_experts, has_node, seen;
};

struct line_addr {
	struct mt_addr a;
	unsigned int line;
};

struct line_flow {
	struct mt_flow f;
	unsigned int line;
};

struct build {
	const char *name; /* of the file that is read: the map, or its preset */
	const char *map_name;
	const char *rules_name; /* of the file that has the rules */
	struct mt_error *err;
	yaml_document_t doc;	    /* that is read */
	yaml_node_t *preset, *with; /* of the map */
	struct mt_preset *found;
	struct mt_name names[MAX_NAMES];
	unsigned int name_count;
	bool has_pattern;
	unsigned int within_line; /* where the map says it; 0: it does not */
	unsigned int form_line;	  /* of `atomic-form`, 0: not given */
	const char *form_name;	  /* the file that has it */
	struct mt_bank head;
	uint32_t experts_per_rank;
	struct line_rank *ranks;
	struct line_addr *addrs;
	struct line_rule *rules;
	struct line_flow *flows;
	bool shared; /* some ranks share addresses */
	uint32_t cap_addrs, cap_flows;
	char base_names[MT_MAX_BASES][BASE_NAME];
};

/** Keys of a rule. */
enum rule_key {
	KEY_NAME,
	KEY_RULE,
	KEY_PHASE,
	KEY_LENGTH,
	KEY_BASE,
	KEY_OFFSET,
	KEY_SIZE,
	KEY_PARITY,
	KEY_EXPERT,
	KEY_SOURCE,
	KEY_TOKEN_BYTES,
	KEY_VALUE,
	KEY_WHEN,
	KEY_PAYLOAD,
	KEY_IMM,
	KEY_PLACE,
	KEY_ANNOUNCERS,
	KEY_FRAME,
	KEY_IF,
	KEY_MATCH,
	KEY_IMMEDIATE
};

/** What is wrong in a line of the file @p name. @return -EINVAL */
__attribute__((format(printf, 4, 5))) int map_bad_in(
	struct build *b, const char *name, unsigned int line, const char *fmt, ...);

/** The same in the file that is read. */
__attribute__((format(printf, 3, 4))) int map_bad(
	struct build *b, unsigned int line, const char *fmt, ...);

/** Name of a key of a rule; NULL behind the last one. */
const char *map_rule_key(unsigned int key);

/** Number of a named base, from 1 on; 0: there is none. */
uint32_t map_find_base(const struct build *b, const char *name);

/** Fill in what may stand in any order, and judge what only the whole can tell. @return 0, -errno
 */
int map_judge(struct build *b);

#endif
