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

/** A key of a mapping, and who takes its value to the object that is read. */
struct map_key {
	const char *name;
	int (*take)(struct build *b, yaml_node_t *value, void *object);
	bool required;
};

/** What is wrong in a line of the file @p name. @return -EINVAL */
__attribute__((format(printf, 4, 5))) int map_bad_in(
	struct build *b, const char *name, unsigned int line, const char *fmt, ...);

/** The same in the file that is read. */
__attribute__((format(printf, 3, 4))) int map_bad(
	struct build *b, unsigned int line, const char *fmt, ...);

/* ---- map_read.c: of any file; 0 or -EINVAL, and then the error has the line ---------------- */

/** The line that a node begins in. */
unsigned int map_line_of(const yaml_node_t *n);

/** The text of a scalar; NULL for lists, mappings and texts with a NUL in them. */
const char *map_scalar(const yaml_node_t *n);

/** A number, or a formula for one, in the names that there are at this place. */
int map_get_number(struct build *b, const yaml_node_t *n, const char *what, mt_number *out);

/** A whole number from @p min to @p max; so are the next two. @return 0, -EINVAL */
int map_get_int(struct build *b, yaml_node_t *n, int64_t min, int64_t max, int64_t *out);
int map_get_u32(struct build *b, yaml_node_t *n, uint32_t min, uint32_t max, uint32_t *out);

/** Addresses use all 64 bits, so they have a reader of their own. */
int map_get_u64(struct build *b, yaml_node_t *n, uint64_t *out);

/** One of @p words words, which @p name names; its number. */
int map_get_word(struct build *b, yaml_node_t *n, const char *(*name)(unsigned int),
	unsigned int words, uint32_t *out);

/** A text of less than @p len bytes without control characters, filled up with zeros. */
int map_get_text(struct build *b, yaml_node_t *n, char *out, size_t len);

/** Walk a mapping along its table of keys; @p seen gets a bit for each key that stood there. */
int map_walk(struct build *b, yaml_node_t *n, const struct map_key *keys, void *object,
	uint32_t *seen_out);

/** Walk a list of at most @p max items. @p what they are, for errors. */
int map_each(struct build *b, yaml_node_t *n, const char *what, uint32_t max,
	int (*take)(struct build *b, yaml_node_t *item));

/** Walk a mapping whose keys are the user's; @p object goes to @p take. */
int map_each_pair(struct build *b, yaml_node_t *n, const char *what, uint32_t max,
	int (*take)(struct build *b, yaml_node_t *key, yaml_node_t *value, void *object),
	void *object);

/** The value of a key of a mapping; NULL if there is none. */
yaml_node_t *map_find(struct build *b, yaml_node_t *n, const char *key);

/** @p count numbers in a list, as in [first, count]. */
int map_get_some(struct build *b, yaml_node_t *n, uint32_t max, uint32_t *two, int count);

/** The same of just two. */
int map_get_two(struct build *b, yaml_node_t *n, uint32_t max, uint32_t two[2]);

/** Room for one more in a growing array; keeps what is there. */
int map_grow(void **array, uint32_t *cap, uint32_t used, size_t item);

/** A small number, an enum mt_order, a width of 1, 2, 4 or 8 bytes. */
int map_get_bits(struct build *b, yaml_node_t *n, uint32_t min, uint32_t max, uint8_t *out);
int map_width_of(struct build *b, yaml_node_t *n, uint8_t *out);
int map_order_of(struct build *b, yaml_node_t *n, uint8_t *out);

/* ---- map_rules.c --------------------------------------------------------------------------- */

/** Read a rule, the next one of those in @p b, unless its 'if' says that it is left out. */
int map_take_rule(struct build *b, yaml_node_t *n);

/** Name of a key of a rule; NULL behind the last one. */
const char *map_rule_key(unsigned int key);

/* ---- the rest ------------------------------------------------------------------------------ */

/** Number of a named base, from 1 on; 0: there is none. */
uint32_t map_find_base(const struct build *b, const char *name);

/** Fill in what may stand in any order, and judge what only the whole can tell. @return 0, -errno
 */
int map_judge(struct build *b);

#endif
