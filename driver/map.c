/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * YAML to bank in three steps: read (every key once, known, of the right kind; map_read.c has what
 * any file needs, map_rules.c the rules), then, in map_judge.c, resolve (what may stand in any
 * order: experts of ranks) and judge (what only the whole can tell: overlaps, rules that two
 * messages could mean). Each complaint names file and line.
 *
 * Numbers are formulas, evaluated as they are read; so what defines names is read before the rest.
 * The rules of a map are its own or those of a preset, a file that is read in the same way.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "map_priv.h"

#define MAX_DEPTH 16u /* of lists and keys; a map needs 5 */

/* ---- read: names for formulas ------------------------------------------------------------- */

static const char *const defined_names[] = {"ranks", "layers", "experts_per_rank"};

static const struct mt_name *find_name(const struct build *b, const char *name)
{
	for (unsigned int i = 0; i < b->name_count; i++)
		if (strcmp(name, b->names[i].name) == 0)
			return &b->names[i];
	return NULL;
}

/** A name of the file's own: that it can be one, and is none already. */
static int judge_name(struct build *b, const yaml_node_t *n)
{
	const char *s = map_scalar(n);

	if (s == NULL || !mt_formula_is_name(s))
		return map_bad(b, map_line_of(n),
			"'%.40s' cannot be a name: a to z, 0 to 9 and _, a letter first, at most "
			"%u "
			"characters, and no function",
			s ? s : "(not a word)", MT_FORMULA_NAME_LEN - 1);
	for (unsigned int i = 0; i < sizeof(defined_names) / sizeof(defined_names[0]); i++)
		if (strcmp(s, defined_names[i]) == 0)
			return map_bad(b, map_line_of(n), "'%s' is a name of every map", s);
	if (find_name(b, s) != NULL)
		return map_bad(b, map_line_of(n), "'%s' is a name already", s);
	return b->name_count < MAX_NAMES
		       ? 0
		       : map_bad(b, map_line_of(n), "too many names: at most %u", MAX_NAMES);
}

static void add_name(struct build *b, const char *name, mt_number value)
{
	struct mt_name *new = &b->names[b->name_count++];

	snprintf(new->name, sizeof(new->name), "%s", name);
	new->value = value;
}

static int take_let(struct build *b, yaml_node_t *key, yaml_node_t *value, void *object)
{
	mt_number v = 0;
	int ret = judge_name(b, key);

	(void)object;
	if (ret == 0)
		ret = map_get_number(b, value, "whole number", &v);
	if (ret == 0)
		add_name(b, map_scalar(key), v);
	return ret;
}

static int take_lets(struct build *b, yaml_node_t *n)
{
	return map_each_pair(b, n, "names", MAX_NAMES, take_let, NULL);
}

/* ---- read: ranks ------------------------------------------------------------------------- */

static int rank_number(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t *rank = object;

	return map_get_u32(b, n, 0, MT_MAX_RANKS - 1, rank);
}

static int rank_later(struct build *b, yaml_node_t *n, void *object)
{
	(void)b, (void)n, (void)object;
	return 0; /* read in the second walk, when the rank's number is known */
}

static int rank_base(struct build *b, yaml_node_t *n, void *object)
{
	struct line_rank *r = object;

	r->has_base = true;
	return map_get_u64(b, n, &r->r.base);
}

/** Which of the bases of the map has a name; how many there are: none. */
uint32_t map_find_base(const struct build *b, const char *name)
{
	uint32_t i = 0;

	while (i < b->head.bases && strcmp(b->base_names[i], name) != 0)
		i++;
	return i;
}

static int rank_one_base(struct build *b, yaml_node_t *key, yaml_node_t *value, void *object)
{
	struct line_rank *r = object;
	char name[BASE_NAME];
	int ret = map_get_text(b, key, name, sizeof(name));
	uint32_t i;

	if (ret < 0)
		return ret;
	i = map_find_base(b, name);
	if (i == MT_MAX_BASES)
		return map_bad(
			b, map_line_of(key), "too many names of bases: at most %u", MT_MAX_BASES);
	if (r->has_bases & 1u << i)
		return map_bad(b, map_line_of(key), "'%s' stands here twice", name);
	if (i == b->head.bases) {
		memcpy(b->base_names[i], name, sizeof(name));
		b->head.bases++;
	}
	r->has_bases |= 1u << i;
	return map_get_u64(b, value, &r->bases[i]);
}

static int rank_bases(struct build *b, yaml_node_t *n, void *object)
{
	return map_each_pair(b, n, "bases", MT_MAX_BASES, rank_one_base, object);
}

static int rank_experts(struct build *b, yaml_node_t *n, void *object)
{
	struct line_rank *r = object;
	uint32_t two[2];
	int ret = map_get_two(b, n, MT_MAX_EXPERTS, two);

	if (ret < 0)
		return ret;
	r->has_experts = true;
	r->r.first_expert = two[1] == 0 ? 0 : two[0];
	r->r.experts = two[1];
	return 0;
}

static int rank_node(struct build *b, yaml_node_t *n, void *object)
{
	struct line_rank *r = object;

	r->has_node = true;
	return map_get_u32(b, n, 0, MT_MAX_RANKS - 1, &r->r.node);
}

static int one_address(struct build *b, yaml_node_t *n, uint32_t rank)
{
	const char *s = map_scalar(n);
	struct line_addr *a;
	uint8_t *ip;
	int ret;

	ret = map_grow((void **)&b->addrs, &b->cap_addrs, b->head.addrs, sizeof(*b->addrs));
	if (ret < 0)
		return mt_fail(b->err, ret, "%s: out of memory", b->name);
	if (b->head.addrs == MT_MAX_ADDRS)
		return map_bad(b, map_line_of(n), "too many addresses: at most %u", MT_MAX_ADDRS);
	a = &b->addrs[b->head.addrs];
	memset(a, 0, sizeof(*a));
	a->a.rank = rank;
	a->line = map_line_of(n);
	ip = a->a.ip;
	if (s != NULL && inet_pton(AF_INET, s, ip + 12) == 1)
		ip[10] = ip[11] = 0xff;
	else if (s == NULL || inet_pton(AF_INET6, s, ip) != 1)
		return map_bad(
			b, map_line_of(n), "'%.60s' is not an IPv4 or IPv6 address", s ? s : "");
	b->head.addrs++;
	return 0;
}

static int rank_address(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t rank = (uint32_t)((struct line_rank *)object - b->ranks);
	int ret;

	if (n->type != YAML_SEQUENCE_NODE)
		return one_address(b, n, rank);
	if (n->data.sequence.items.start == n->data.sequence.items.top)
		return map_bad(b, map_line_of(n), "a rank has at least one address");
	for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top;
		i++) {
		ret = one_address(b, yaml_document_get_node(&b->doc, *i), rank);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int take_rank(struct build *b, yaml_node_t *n)
{
	static const struct map_key first[] = {{"rank", rank_number, true},
		{"address", rank_later, true}, {"base", rank_later, false},
		{"bases", rank_later, false}, {"experts", rank_later, false},
		{"node", rank_later, false}, {NULL, NULL, false}};
	static const struct map_key second[] = {{"rank", rank_later, true},
		{"address", rank_address, true}, {"base", rank_base, false},
		{"bases", rank_bases, false}, {"experts", rank_experts, false},
		{"node", rank_node, false}, {NULL, NULL, false}};
	uint32_t rank = 0;
	int ret;

	ret = map_walk(b, n, first, &rank, NULL);
	if (ret < 0)
		return ret;
	if (b->ranks[rank].seen)
		return map_bad(b, map_line_of(n), "rank %u stands here twice, first in line %u",
			rank, b->ranks[rank].line);
	b->ranks[rank].seen = true;
	b->ranks[rank].line = map_line_of(n);
	b->head.ranks++;
	return map_walk(b, n, second, &b->ranks[rank], NULL);
}

/* ---- read: flows ------------------------------------------------------------------------- */

static int flow_src(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(b, n, 0, MT_MAX_RANKS - 1, &((struct line_flow *)object)->f.src);
}

static int flow_dst(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(b, n, 0, MT_MAX_RANKS - 1, &((struct line_flow *)object)->f.dst);
}

static int flow_qpn(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(b, n, 0, 0xffffff, &((struct line_flow *)object)->f.qpn);
}

static int flow_expert(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_u32(b, n, 0, MT_MAX_EXPERTS - 1, &((struct line_flow *)object)->f.expert);
}

static int take_flow(struct build *b, yaml_node_t *n)
{
	static const struct map_key keys[] = {{"src", flow_src, true}, {"dst", flow_dst, true},
		{"qpn", flow_qpn, true}, {"expert", flow_expert, false}, {NULL, NULL, false}};
	struct line_flow *f;
	int ret;

	ret = map_grow((void **)&b->flows, &b->cap_flows, b->head.flows, sizeof(*b->flows));
	if (ret < 0)
		return mt_fail(b->err, ret, "%s: out of memory", b->name);
	f = &b->flows[b->head.flows++];
	f->f = (struct mt_flow){.expert = MT_NO_EXPERT};
	f->line = map_line_of(n);
	return map_walk(b, n, keys, f, NULL);
}

/* ---- read: the whole --------------------------------------------------------------------- */

static int map_version(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t v;

	(void)object;
	return map_get_u32(b, n, 1, 1, &v);
}

static int map_job(struct build *b, yaml_node_t *n, void *object)
{
	(void)object;
	return map_get_text(b, n, b->head.job, sizeof(b->head.job));
}

static int map_pattern(struct build *b, yaml_node_t *n, void *object)
{
	(void)object;
	return map_get_word(b, n, mt_pattern_name, MT_PATTERNS, &b->head.pattern);
}

static int map_layers(struct build *b, yaml_node_t *n, void *object)
{
	(void)object;
	return map_get_u32(b, n, 1, MT_MAX_LAYERS, &b->head.layers);
}

static int map_micro(struct build *b, yaml_node_t *n, void *object)
{
	(void)object;
	return map_get_u32(b, n, 1, MT_MAX_MICRO, &b->head.micro_batches);
}

static int map_tap(struct build *b, yaml_node_t *n, void *object)
{
	(void)object;
	return map_get_word(b, n, mt_tap_name, MT_TAPS, &b->head.tap);
}

static int map_within(struct build *b, yaml_node_t *n, void *object)
{
	(void)object;
	b->within_line = map_line_of(n);
	return map_get_word(b, n, mt_within_name, MT_WITHINS, &b->head.within_node);
}

static int map_idle_gap(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t us = 0;
	int ret = map_get_u32(b, n, 1, MT_MAX_IDLE_GAP_NS / 1000, &us);

	(void)object;
	b->head.idle_gap_ns = us * 1000ULL;
	return ret;
}

static int form_opcode(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_bits(b, n, 0, UINT8_MAX, &((struct mt_form *)object)->opcode);
}

static int form_length(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_bits(b, n, MT_FORM_LEAST, MT_FORM_MOST, &((struct mt_form *)object)->length);
}

static int form_address(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_bits(b, n, 0, MT_FORM_MOST, &((struct mt_form *)object)->address);
}

static int form_operand(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_bits(b, n, 0, MT_FORM_MOST, &((struct mt_form *)object)->operand);
}

static int form_width(struct build *b, yaml_node_t *n, void *object)
{
	return map_width_of(b, n, &((struct mt_form *)object)->width);
}

static int form_order(struct build *b, yaml_node_t *n, void *object)
{
	return map_order_of(b, n, &((struct mt_form *)object)->order);
}

/** How atomics are known: a word, or the form that was learnt before. */
static int map_atomic_form(struct build *b, yaml_node_t *n, void *object)
{
	static const struct map_key keys[] = {{"opcode", form_opcode, true},
		{"length", form_length, true}, {"address", form_address, true},
		{"operand", form_operand, true}, {"width", form_width, true},
		{"order", form_order, false}, {NULL, NULL, false}};
	struct mt_form *f = &b->head.form;
	int ret;

	(void)object;
	b->form_line = map_line_of(n);
	b->form_name = b->name;
	if (n->type != YAML_MAPPING_NODE)
		return map_get_word(b, n, mt_atomics_name, MT_ATOMICS_FORM, &b->head.atomics);
	b->head.atomics = MT_ATOMICS_FORM;
	f->order = MT_ORDER_BIG;
	ret = map_walk(b, n, keys, f, NULL);
	if (ret == 0 && !mt_form_sane(f))
		ret = map_bad(b, map_line_of(n),
			"no atomic: opcode 0x15, 0x18 to 0x1b, 0x1e, 0x1f, 0xe0 to 0xff, or 0x13 "
			"or 0x14 with a length above 28; an address of 8 bytes and an operand of "
			"4 or 8 lie apart in the length, at multiples of 4");
	return ret;
}

static int map_path_mtu(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t v = 0;
	int ret = map_get_u32(b, n, MT_PATH_MTU_MIN, MT_PATH_MTU_MAX, &v);

	(void)object;
	if (ret == 0 && (v & (v - 1)) != 0)
		ret = map_bad(b, map_line_of(n), "a path MTU is a power of two");
	b->head.path_mtu = v;
	return ret;
}

static int tcp_ports(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t two[2] = {0};
	int ret;

	(void)object;
	if (n->type == YAML_SEQUENCE_NODE) {
		ret = map_get_two(b, n, UINT16_MAX, two);
		if (ret == 0 && two[0] > two[1])
			ret = map_bad(b, map_line_of(n), "the first port is above the second");
	} else {
		ret = map_get_u32(b, n, 1, UINT16_MAX, &two[0]);
		two[1] = two[0];
	}
	b->head.port_min = (uint16_t)two[0];
	b->head.port_max = (uint16_t)two[1];
	return ret;
}

static int tcp_connect(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t v = 0;
	int ret = map_get_u32(b, n, 0, UINT16_MAX, &v);

	(void)object;
	b->head.connect_bytes = (uint16_t)v;
	return ret;
}

static int tcp_accept(struct build *b, yaml_node_t *n, void *object)
{
	uint32_t v = 0;
	int ret = map_get_u32(b, n, 0, UINT16_MAX, &v);

	(void)object;
	b->head.accept_bytes = (uint16_t)v;
	return ret;
}

static int map_tcp(struct build *b, yaml_node_t *n, void *object)
{
	static const struct map_key keys[] = {{"ports", tcp_ports, false},
		{"connect", tcp_connect, false}, {"accept", tcp_accept, false},
		{NULL, NULL, false}};

	(void)object;
	return map_walk(b, n, keys, NULL, NULL);
}

static int map_udp(struct build *b, yaml_node_t *n, void *object)
{
	static const struct map_key keys[] = {{"ports", tcp_ports, false}, {NULL, NULL, false}};

	(void)object;
	b->head.datagrams = 1;
	return map_walk(b, n, keys, NULL, NULL);
}

static int map_experts(struct build *b, yaml_node_t *n, void *object)
{
	(void)object;
	return map_get_u32(b, n, 1, MT_MAX_EXPERTS, &b->experts_per_rank);
}

static int map_ranks(struct build *b, yaml_node_t *n, void *object)
{
	(void)object;
	return map_each(b, n, "ranks", MT_MAX_RANKS, take_rank);
}

static int map_rules(struct build *b, yaml_node_t *n, void *object)
{
	(void)object;
	return map_each(b, n, "rules", MT_MAX_RULES, map_take_rule);
}

static int map_flows(struct build *b, yaml_node_t *n, void *object)
{
	(void)object;
	return map_each(b, n, "flows", MT_MAX_FLOWS, take_flow);
}

static int map_let(struct build *b, yaml_node_t *n, void *object)
{
	(void)b, (void)n, (void)object;
	return 0; /* read before all else */
}

static int map_preset(struct build *b, yaml_node_t *n, void *object)
{
	(void)object;
	b->preset = n;
	return 0; /* read behind all else */
}

static int map_with(struct build *b, yaml_node_t *n, void *object)
{
	(void)object;
	b->with = n;
	return 0;
}

enum {
	MAP_VERSION,
	MAP_JOB,
	MAP_PATTERN,
	MAP_LAYERS,
	MAP_MICRO,
	MAP_TAP,
	MAP_IDLE_GAP,
	MAP_WITHIN,
	MAP_ATOMIC_FORM,
	MAP_PATH_MTU,
	MAP_TCP,
	MAP_UDP,
	MAP_EXPERTS,
	MAP_LET,
	MAP_RANKS,
	MAP_PRESET,
	MAP_WITH,
	MAP_RULES,
	MAP_FLOWS
};

static const struct map_key map_keys[] = {[MAP_VERSION] = {"moetap-map", map_version, true},
	[MAP_JOB] = {"job", map_job, true},
	[MAP_PATTERN] = {"pattern", map_pattern, false},
	[MAP_LAYERS] = {"layers", map_layers, true},
	[MAP_MICRO] = {"micro-batches", map_micro, false},
	[MAP_TAP] = {"tap", map_tap, false},
	[MAP_IDLE_GAP] = {"idle-gap-us", map_idle_gap, false},
	[MAP_WITHIN] = {"within-node", map_within, false},
	[MAP_ATOMIC_FORM] = {"atomic-form", map_atomic_form, false},
	[MAP_PATH_MTU] = {"path-mtu", map_path_mtu, false},
	[MAP_TCP] = {"tcp", map_tcp, false},
	[MAP_UDP] = {"udp", map_udp, false},
	[MAP_EXPERTS] = {"experts-per-rank", map_experts, false},
	[MAP_LET] = {"let", map_let, false},
	[MAP_RANKS] = {"ranks", map_ranks, true},
	[MAP_PRESET] = {"preset", map_preset, false},
	[MAP_WITH] = {"with", map_with, false},
	[MAP_RULES] = {"rules", map_rules, false},
	[MAP_FLOWS] = {"flows", map_flows, false},
	{NULL, NULL, false}};

/** What formulas may name, wherever in the file it is defined. */
static int read_names(struct build *b, yaml_node_t *root)
{
	yaml_node_t *layers = map_find(b, root, "layers"),
		    *experts = map_find(b, root, "experts-per-rank"),
		    *ranks = map_find(b, root, "ranks"), *let = map_find(b, root, "let");
	int ret = 0;

	if (layers != NULL)
		ret = map_layers(b, layers, NULL);
	if (ret == 0 && experts != NULL)
		ret = map_experts(b, experts, NULL);
	if (ret < 0)
		return ret;
	if (ranks != NULL && ranks->type == YAML_SEQUENCE_NODE)
		add_name(b, defined_names[0],
			ranks->data.sequence.items.top - ranks->data.sequence.items.start);
	if (layers != NULL)
		add_name(b, defined_names[1], b->head.layers);
	if (experts != NULL)
		add_name(b, defined_names[2], b->experts_per_rank);
	return let != NULL ? take_lets(b, let) : 0;
}

/* ---- files ------------------------------------------------------------------------------- */

/** A whole file; @p what it is, for errors, and how many bytes it may have. */
static int read_file(const char *path, const char *what, uint32_t max, char **text, size_t *len,
	struct mt_error *err)
{
	struct stat st;
	ssize_t n = 0;
	int fd, ret;

	*len = 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe without a writer would wait */
	if (fd < 0 || fstat(fd, &st) < 0) {
		ret = mt_fail(err, -errno, "%s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return ret;
	}
	if (!S_ISREG(st.st_mode) || st.st_size > (off_t)max) {
		close(fd);
		return mt_fail(err, S_ISREG(st.st_mode) ? -EFBIG : -EINVAL,
			"%s: a %s is a regular file of at most %u MiB", path, what, max >> 20);
	}
	*text = malloc((size_t)st.st_size + 1);
	if (*text == NULL) {
		close(fd);
		return mt_fail(err, -ENOMEM, "%s: out of memory", path);
	}
	while (*len < (size_t)st.st_size &&
		(n = read(fd, *text + *len, (size_t)st.st_size - *len)) > 0)
		*len += (size_t)n;
	ret = n < 0 ? mt_fail(err, -errno, "%s: %s", path, strerror(errno)) : 0;
	close(fd);
	if (ret < 0)
		free(*text);
	return ret;
}

/** Line of a byte of the text: the YAML reader tells no line of bytes that are no text. */
static unsigned int line_at(const char *text, size_t offset)
{
	unsigned int line = 1;

	for (const char *c = text; c < text + offset; c++)
		line += *c == '\n';
	return line;
}

static int not_yaml(struct build *b, const yaml_parser_t *p, const char *text, size_t len)
{
	unsigned int line = (unsigned int)p->problem_mark.line + 1;

	if (p->error == YAML_MEMORY_ERROR)
		return mt_fail(b->err, -ENOMEM, "%s: out of memory", b->name);
	if (p->error == YAML_READER_ERROR)
		line = line_at(text, p->problem_offset < len ? p->problem_offset : len);
	return map_bad(b, line, "not YAML: %s", p->problem ? p->problem : "unreadable");
}

/**
 * What would cost much or not be seen: the YAML library takes time with the square of the depth,
 * and reads the first document only.
 */
static int judge_shape(struct build *b, const char *text, size_t len)
{
	unsigned int depth = 0, documents = 0, line;
	yaml_event_type_t type = YAML_NO_EVENT;
	yaml_parser_t p;
	yaml_event_t ev;
	int ret = 0;

	if (!yaml_parser_initialize(&p))
		return mt_fail(b->err, -ENOMEM, "%s: out of memory", b->name);
	yaml_parser_set_input_string(&p, (const unsigned char *)text, len);
	while (ret == 0 && type != YAML_STREAM_END_EVENT) {
		if (!yaml_parser_parse(&p, &ev)) {
			ret = not_yaml(b, &p, text, len);
			break;
		}
		type = ev.type;
		line = (unsigned int)ev.start_mark.line + 1;
		yaml_event_delete(&ev);
		depth += type == YAML_SEQUENCE_START_EVENT || type == YAML_MAPPING_START_EVENT;
		depth -= type == YAML_SEQUENCE_END_EVENT || type == YAML_MAPPING_END_EVENT;
		documents += type == YAML_DOCUMENT_START_EVENT;
		if (depth > MAX_DEPTH)
			ret = map_bad(b, line,
				"lists and keys inside each other, more than %u deep", MAX_DEPTH);
		if (documents > 1)
			ret = map_bad(b, line, "a second document; a file is one map or preset");
	}
	yaml_parser_delete(&p);
	if (ret == 0 && documents == 0)
		ret = map_bad(b, 1, "the file is empty");
	return ret;
}

/* ---- read: the preset -------------------------------------------------------------------- */

/** A preset as it is read; its nodes live as long as its document. */
struct preset_file {
	struct mt_preset *p;
	yaml_node_t *require, *let, *rules, *pattern, *tap, *idle_gap, *within, *atomic_form;
	yaml_node_t *path_mtu, *tcp;
};

/** What the map gives to a preset. */
struct with {
	const struct mt_preset *p;
	mt_number value[MT_MAX_PARAMETERS];
	uint32_t given; /* bits */
};

static int word_value(struct build *b, yaml_node_t *key, yaml_node_t *value, void *object)
{
	struct mt_parameter *p = object;
	struct mt_word *w = &p->word[p->words];
	int ret = map_get_text(b, key, w->word, sizeof(w->word));

	if (ret == 0 && !isalpha((unsigned char)w->word[0]))
		return map_bad(b, map_line_of(key), "a word begins with a letter");
	for (unsigned int i = 0; ret == 0 && i < p->words; i++)
		if (strcmp(p->word[i].word, w->word) == 0)
			return map_bad(b, map_line_of(key), "'%s' stands here twice", w->word);
	p->words++;
	return ret < 0 ? ret : map_get_number(b, value, "whole number", &w->value);
}

struct parameter_keys {
	struct mt_parameter *p;
	yaml_node_t *value;
};

static int parameter_about(struct build *b, yaml_node_t *n, void *object)
{
	struct mt_parameter *p = ((struct parameter_keys *)object)->p;

	return map_get_text(b, n, p->about, sizeof(p->about));
}

static int parameter_default(struct build *b, yaml_node_t *n, void *object)
{
	(void)b;
	((struct parameter_keys *)object)->value = n;
	return 0; /* read when its limits are known */
}

static int parameter_min(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_number(b, n, "whole number", &((struct parameter_keys *)object)->p->min);
}

static int parameter_max(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_number(b, n, "whole number", &((struct parameter_keys *)object)->p->max);
}

static int parameter_words(struct build *b, yaml_node_t *n, void *object)
{
	return map_each_pair(
		b, n, "words", MT_MAX_WORDS, word_value, ((struct parameter_keys *)object)->p);
}

/** A value of a parameter: one of its words, or a number in its limits. @p after ends errors. */
static int get_value(struct build *b, yaml_node_t *n, const struct mt_parameter *p,
	const char *after, mt_number *out)
{
	char value[MT_FORMULA_TEXT_LEN], least[MT_FORMULA_TEXT_LEN], most[MT_FORMULA_TEXT_LEN];
	const char *s = map_scalar(n);
	char known[MT_MAX_WORDS * 26] = "";
	size_t at = 0;
	bool fits = p->words == 0;
	int ret;

	for (unsigned int i = 0; i < p->words; i++) {
		if (s != NULL && strcmp(s, p->word[i].word) == 0) {
			*out = p->word[i].value;
			return 0;
		}
		at += (size_t)snprintf(
			known + at, sizeof(known) - at, "%s%s", i ? ", " : "", p->word[i].word);
	}
	if (p->words != 0 && s != NULL && mt_formula_is_name(s) && find_name(b, s) == NULL)
		return map_bad(b, map_line_of(n), "'%s' may be %s, not '%.40s'%s", p->name, known,
			s, after);
	ret = map_get_number(b, n, "whole number", out);
	if (ret < 0)
		return ret;
	for (unsigned int i = 0; i < p->words; i++)
		fits = fits || *out == p->word[i].value;
	if (!fits)
		return map_bad(b, map_line_of(n), "'%s' may be %s, not %s%s", p->name, known,
			mt_number_text(*out, value), after);
	if (*out < p->min || *out > p->max)
		return map_bad(b, map_line_of(n), "'%s' is out of range, %s: %s to %s%s", p->name,
			mt_number_text(*out, value), mt_number_text(p->min, least),
			mt_number_text(p->max, most), after);
	return 0;
}

static int take_parameter(struct build *b, yaml_node_t *key, yaml_node_t *value, void *object)
{
	static const struct map_key keys[] = {{"about", parameter_about, true},
		{"default", parameter_default, false}, {"min", parameter_min, false},
		{"max", parameter_max, false}, {"words", parameter_words, false},
		{NULL, NULL, false}};
	struct mt_preset *preset = object;
	struct mt_parameter *p = &preset->parameter[preset->parameters];
	struct parameter_keys k = {.p = p};
	int ret = judge_name(b, key);

	if (ret < 0)
		return ret;
	for (unsigned int i = 0; i < preset->parameters; i++)
		if (strcmp(preset->parameter[i].name, map_scalar(key)) == 0)
			return map_bad(
				b, map_line_of(key), "'%s' stands here twice", map_scalar(key));
	*p = (struct mt_parameter){.max = MT_NUMBER_MAX};
	snprintf(p->name, sizeof(p->name), "%s", map_scalar(key));
	preset->parameters++;
	ret = map_walk(b, value, keys, &k, NULL);
	if (ret < 0)
		return ret;
	if (p->min > p->max)
		return map_bad(b, map_line_of(key), "'min' of '%s' is above 'max'", p->name);
	p->required = k.value == NULL;
	return p->required ? 0 : get_value(b, k.value, p, "", &p->value);
}

static int preset_about(struct build *b, yaml_node_t *n, void *object)
{
	struct mt_preset *p = ((struct preset_file *)object)->p;

	return map_get_text(b, n, p->about, sizeof(p->about));
}

static int preset_source(struct build *b, yaml_node_t *n, void *object)
{
	struct mt_preset *p = ((struct preset_file *)object)->p;

	return map_get_text(b, n, p->source, sizeof(p->source));
}

static int preset_parameters(struct build *b, yaml_node_t *n, void *object)
{
	return map_each_pair(b, n, "parameters", MT_MAX_PARAMETERS, take_parameter,
		((struct preset_file *)object)->p);
}

/* What needs the values of the parameters is only noted. */
static int preset_require(struct build *b, yaml_node_t *n, void *object)
{
	(void)b;
	((struct preset_file *)object)->require = n;
	return 0;
}

static int preset_let(struct build *b, yaml_node_t *n, void *object)
{
	(void)b;
	((struct preset_file *)object)->let = n;
	return 0;
}

static int preset_rules(struct build *b, yaml_node_t *n, void *object)
{
	(void)b;
	((struct preset_file *)object)->rules = n;
	return 0;
}

static int preset_pattern(struct build *b, yaml_node_t *n, void *object)
{
	(void)b;
	((struct preset_file *)object)->pattern = n;
	return 0;
}

static int preset_tap(struct build *b, yaml_node_t *n, void *object)
{
	(void)b;
	((struct preset_file *)object)->tap = n;
	return 0;
}

static int preset_atomic_form(struct build *b, yaml_node_t *n, void *object)
{
	(void)b;
	((struct preset_file *)object)->atomic_form = n;
	return 0;
}

static int preset_idle_gap(struct build *b, yaml_node_t *n, void *object)
{
	(void)b;
	((struct preset_file *)object)->idle_gap = n;
	return 0;
}

static int preset_within(struct build *b, yaml_node_t *n, void *object)
{
	(void)b;
	((struct preset_file *)object)->within = n;
	return 0;
}

static int preset_path_mtu(struct build *b, yaml_node_t *n, void *object)
{
	(void)b;
	((struct preset_file *)object)->path_mtu = n;
	return 0;
}

static int preset_tcp(struct build *b, yaml_node_t *n, void *object)
{
	(void)b;
	((struct preset_file *)object)->tcp = n;
	return 0;
}

/** Reads a preset from its text: becomes the document that is read, unless it is wrong. */
static int open_preset(struct build *b, struct preset_file *f, const char *text, size_t len)
{
	static const struct map_key keys[] = {{"moetap-preset", map_version, true},
		{"about", preset_about, true}, {"source", preset_source, true},
		{"parameters", preset_parameters, true}, {"require", preset_require, false},
		{"let", preset_let, false}, {"rules", preset_rules, true},
		{"pattern", preset_pattern, false}, {"tap", preset_tap, false},
		{"idle-gap-us", preset_idle_gap, false}, {"within-node", preset_within, false},
		{"atomic-form", preset_atomic_form, false}, {"path-mtu", preset_path_mtu, false},
		{"tcp", preset_tcp, false}, {NULL, NULL, false}};
	yaml_parser_t parser;
	int ret;

	b->name = f->p->path;
	f->p->parameters = 0;
	ret = judge_shape(b, text, len);
	if (ret < 0)
		return ret;
	if (!yaml_parser_initialize(&parser))
		return mt_fail(b->err, -ENOMEM, "%s: out of memory", b->name);
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
	if (yaml_parser_load(&parser, &b->doc)) {
		ret = map_walk(b, yaml_document_get_root_node(&b->doc), keys, f, NULL);
		if (ret < 0)
			yaml_document_delete(&b->doc);
	} else {
		ret = not_yaml(b, &parser, text, len);
	}
	yaml_parser_delete(&parser);
	return ret;
}

/** "; parameters are a, b, c", for errors. */
static const char *parameters_text(const struct mt_preset *p, char *text, size_t size)
{
	size_t at =
		(size_t)snprintf(text, size, "; parameters are %s", p->parameters ? "" : "none");

	for (unsigned int i = 0; i < p->parameters && at < size; i++)
		at += (size_t)snprintf(
			text + at, size - at, "%s%s", i ? ", " : "", p->parameter[i].name);
	return text;
}

static int take_with(struct build *b, yaml_node_t *key, yaml_node_t *value, void *object)
{
	struct with *w = object;
	const char *s = map_scalar(key);
	char known[256];
	unsigned int i = 0;

	parameters_text(w->p, known, sizeof(known));
	while (i < w->p->parameters && (s == NULL || strcmp(s, w->p->parameter[i].name) != 0))
		i++;
	if (i == w->p->parameters)
		return map_bad(b, map_line_of(key), "the preset has no parameter '%.40s'%s",
			s ? s : "(not a word)", known);
	if (w->given & 1u << i)
		return map_bad(b, map_line_of(key), "'%s' stands here twice", s);
	w->given |= 1u << i;
	return get_value(b, value, &w->p->parameter[i], known, &w->value[i]);
}

/** Values of all parameters, from the map or the preset. The document read is the map. */
static int read_with(struct build *b, const struct mt_preset *p, struct with *w)
{
	char known[256];
	int ret = 0;

	w->p = p;
	w->given = 0;
	if (b->with != NULL)
		ret = map_each_pair(b, b->with, "parameters", MT_MAX_PARAMETERS, take_with, w);
	for (unsigned int i = 0; i < p->parameters && ret == 0; i++) {
		if (w->given & 1u << i)
			continue;
		if (p->parameter[i].required)
			ret = map_bad(b, map_line_of(b->with ? b->with : b->preset),
				"the preset needs '%s', %s%s", p->parameter[i].name,
				p->parameter[i].about, parameters_text(p, known, sizeof(known)));
		w->value[i] = p->parameter[i].value;
	}
	return ret;
}

struct requirement {
	mt_number holds;
	char otherwise[200];
};

static int require_if(struct build *b, yaml_node_t *n, void *object)
{
	return map_get_number(b, n, "whole number", &((struct requirement *)object)->holds);
}

static int require_else(struct build *b, yaml_node_t *n, void *object)
{
	struct requirement *r = object;

	return map_get_text(b, n, r->otherwise, sizeof(r->otherwise));
}

static int take_requirement(struct build *b, yaml_node_t *n)
{
	static const struct map_key keys[] = {
		{"if", require_if, true}, {"else", require_else, true}, {NULL, NULL, false}};
	struct requirement r = {0};
	int ret = map_walk(b, n, keys, &r, NULL);

	if (ret < 0 || r.holds != 0)
		return ret;
	return map_bad_in(b, b->map_name, map_line_of(b->with ? b->with : b->preset),
		"preset '%.60s': %s", map_scalar(b->preset), r.otherwise);
}

/** Everything of a preset that depends on its parameters. The document read is the preset. */
static int read_preset(
	struct build *b, const struct preset_file *f, const struct with *w, uint32_t seen)
{
	unsigned int defined = sizeof(defined_names) / sizeof(defined_names[0]);
	int ret = 0;

	b->name_count = defined; /* those of the map are its own */
	for (unsigned int i = 0; i < f->p->parameters; i++)
		add_name(b, f->p->parameter[i].name, w->value[i]);
	if (f->let != NULL)
		ret = take_lets(b, f->let);
	if (ret == 0 && f->require != NULL)
		ret = map_each(b, f->require, "requirements", MAX_NAMES, take_requirement);
	if (ret == 0 && f->pattern != NULL && (seen & 1 << MAP_PATTERN) == 0)
		ret = map_pattern(b, f->pattern, NULL);
	if (ret == 0 && f->tap != NULL && (seen & 1 << MAP_TAP) == 0)
		ret = map_tap(b, f->tap, NULL);
	if (ret == 0 && f->idle_gap != NULL && (seen & 1 << MAP_IDLE_GAP) == 0)
		ret = map_idle_gap(b, f->idle_gap, NULL);
	if (ret == 0 && f->within != NULL && (seen & 1 << MAP_WITHIN) == 0)
		ret = map_get_word(b, f->within, mt_within_name, MT_WITHINS, &b->head.within_node);
	if (ret == 0 && f->atomic_form != NULL && (seen & 1 << MAP_ATOMIC_FORM) == 0)
		ret = map_atomic_form(b, f->atomic_form, NULL);
	if (ret == 0 && f->path_mtu != NULL && (seen & 1 << MAP_PATH_MTU) == 0)
		ret = map_path_mtu(b, f->path_mtu, NULL);
	if (ret == 0 && f->tcp != NULL && (seen & (1 << MAP_TCP | 1 << MAP_UDP)) == 0)
		ret = map_tcp(b, f->tcp, NULL);
	return ret < 0 ? ret : map_rules(b, f->rules, NULL);
}

/** The rules of the map's preset, from its text. @p seen: which keys stand in the map. */
static int use_preset(struct build *b, const char *text, size_t len, uint32_t seen)
{
	yaml_document_t map = b->doc, preset;
	struct preset_file f = {.p = b->found};
	unsigned int names = b->name_count;
	struct with w;
	int ret;

	b->name_count = 0; /* a preset tells its parameters without a map */
	ret = open_preset(b, &f, text, len);
	if (ret == 0) {
		preset = b->doc;
		b->doc = map;
		b->name = b->map_name;
		b->name_count = names;
		ret = read_with(b, f.p, &w);
		b->doc = preset;
		b->name = f.p->path;
		if (ret == 0)
			ret = read_preset(b, &f, &w, seen);
		b->rules_name = f.p->path;
		b->has_pattern = b->has_pattern || f.pattern != NULL;
		yaml_document_delete(&b->doc);
	}
	b->doc = map;
	b->name = b->map_name;
	return ret;
}

static int find_preset(struct build *b, uint32_t seen)
{
	const char *name = map_scalar(b->preset);
	struct mt_error why;
	size_t len;
	char *text;
	int ret;

	if (name == NULL || *name == '\0')
		return map_bad(b, map_line_of(b->preset), "the name of a preset is expected");
	if ((seen & 1 << MAP_EXPERTS) == 0)
		return map_bad(b, map_line_of(b->preset), "a preset needs 'experts-per-rank'");
	b->found = calloc(1, sizeof(*b->found));
	if (b->found == NULL)
		return mt_fail(b->err, -ENOMEM, "%s: out of memory", b->name);
	if (mt_preset_path(name, b->map_name, b->found->path, sizeof(b->found->path)) < 0)
		return map_bad(b, map_line_of(b->preset), "'%.100s' is no name of a preset", name);
	ret = read_file(b->found->path, "preset", MT_PRESET_FILE_MAX, &text, &len, &why);
	if (ret == -ENOMEM)
		return mt_fail(b->err, ret, "%s", why.text);
	if (ret < 0)
		return map_bad(b, map_line_of(b->preset),
			"no preset '%.60s': %s ('moetap map presets' lists those there are)", name,
			why.text);
	ret = use_preset(b, text, len, seen);
	free(text);
	return ret;
}

/** Rules are the map's or a preset's, and with them what a preset may say in place of the map. */
static int read_rules(struct build *b, yaml_node_t *root, uint32_t seen)
{
	bool preset = seen & 1 << MAP_PRESET, rules = seen & 1 << MAP_RULES;
	int ret = 0;

	if (preset && rules)
		return map_bad(
			b, map_line_of(b->preset), "a map has 'rules' or a 'preset', not both");
	if (!preset && !rules)
		return map_bad(b, map_line_of(root), "'rules' is missing, or a 'preset'");
	if (!preset && b->with != NULL)
		return map_bad(
			b, map_line_of(b->with), "'with' is for a 'preset', and there is none");
	b->has_pattern = seen & 1 << MAP_PATTERN;
	if (preset)
		ret = find_preset(b, seen);
	if (ret == 0 && !b->has_pattern)
		ret = map_bad(b, map_line_of(root), "'pattern' is missing");
	return ret;
}

/* ---- compile ----------------------------------------------------------------------------- */

static void put_base(const struct build *b, struct mt_base *to, uint32_t i)
{
	memcpy(to->name, b->base_names[i], sizeof(to->name));
	for (uint32_t rank = 0; rank < b->head.ranks; rank++)
		to->at[rank] = b->ranks[rank].bases[i];
}

static struct mt_bank *compile(struct build *b)
{
	struct mt_bank h = b->head, *bank;
	uint64_t at = sizeof(h);

	h.magic = MT_BANK_MAGIC;
	h.version = MT_PAGE_VERSION;
	h.rank_off = (uint32_t)at;
	at += h.ranks * sizeof(struct mt_rank);
	h.addr_off = (uint32_t)at;
	at += h.addrs * sizeof(struct mt_addr);
	h.rule_off = (uint32_t)at;
	at += h.rules * sizeof(struct mt_rule);
	h.flow_off = (uint32_t)at;
	at += h.flows * sizeof(struct mt_flow);
	h.base_off = (uint32_t)at;
	at += h.bases * mt_base_bytes(h.ranks);
	h.bytes = (uint32_t)at;
	bank = calloc(1, at);
	if (bank == NULL)
		return NULL;
	memcpy(bank, &h, sizeof(h));
	for (uint32_t i = 0; i < h.ranks; i++)
		((struct mt_rank *)((char *)bank + h.rank_off))[i] = b->ranks[i].r;
	for (uint32_t i = 0; i < h.addrs; i++)
		((struct mt_addr *)((char *)bank + h.addr_off))[i] = b->addrs[i].a;
	for (uint32_t i = 0; i < h.rules; i++)
		((struct mt_rule *)((char *)bank + h.rule_off))[i] = b->rules[i].r;
	for (uint32_t i = 0; i < h.flows; i++)
		((struct mt_flow *)((char *)bank + h.flow_off))[i] = b->flows[i].f;
	for (uint32_t i = 0; i < h.bases; i++)
		put_base(b,
			(struct mt_base *)((char *)bank + h.base_off + i * mt_base_bytes(h.ranks)),
			i);
	bank->snap = mt_bank_snap(bank);
	bank->checksum = mt_bank_sum(bank);
	return bank;
}

static int build_bank(struct build *b, struct mt_bank **bank)
{
	yaml_node_t *root = yaml_document_get_root_node(&b->doc);
	uint32_t seen = 0;
	int ret;

	b->head.micro_batches = 1;
	b->head.idle_gap_ns = 2000000000ULL;
	b->head.port_max = UINT16_MAX;
	ret = read_names(b, root);
	if (ret == 0)
		ret = map_walk(b, root, map_keys, NULL, &seen);
	if (ret == 0 && (seen & 1 << MAP_TCP) && (seen & 1 << MAP_UDP))
		ret = map_bad(b, map_line_of(root), "a map has 'tcp' or 'udp', not both");
	if (ret == 0)
		ret = read_rules(b, root, seen);
	if (ret == 0)
		ret = map_judge(b);
	if (ret < 0)
		return ret;
	*bank = compile(b);
	return *bank == NULL ? mt_fail(b->err, -ENOMEM, "%s: out of memory", b->name) : 0;
}

int mt_map_parse(
	const char *text, size_t len, const char *name, struct mt_bank **bank, struct mt_error *err)
{
	struct build b = {.name = name, .map_name = name, .rules_name = name, .err = err};
	yaml_parser_t parser;
	int ret;

	ret = judge_shape(&b, text, len);
	if (ret < 0)
		return ret;
	ret = -ENOMEM;
	b.ranks = calloc(MT_MAX_RANKS, sizeof(*b.ranks));
	b.rules = calloc(MT_MAX_RULES, sizeof(*b.rules));
	if (b.ranks == NULL || b.rules == NULL || !yaml_parser_initialize(&parser)) {
		mt_fail(err, ret, "%s: out of memory", name);
		goto out;
	}
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
	if (yaml_parser_load(&parser, &b.doc)) {
		ret = build_bank(&b, bank);
		yaml_document_delete(&b.doc);
	} else {
		ret = not_yaml(&b, &parser, text, len);
	}
	yaml_parser_delete(&parser);
out:
	free(b.ranks);
	free(b.rules);
	free(b.addrs);
	free(b.flows);
	free(b.found);
	return ret;
}

int mt_map_load(const char *path, struct mt_bank **bank, struct mt_error *err)
{
	char *text;
	size_t len;
	int ret = read_file(path, "map", MT_MAP_FILE_MAX, &text, &len, err);

	if (ret < 0)
		return ret;
	ret = mt_map_parse(text, len, path, bank, err);
	free(text);
	return ret;
}

int mt_preset_load(const char *name, struct mt_preset *preset, struct mt_error *err)
{
	struct build b = {.err = err};
	struct preset_file f = {.p = preset};
	size_t len;
	char *text;
	int ret;

	ret = mt_preset_path(name, "", preset->path, sizeof(preset->path));
	if (ret < 0)
		return mt_fail(err, ret, "'%.100s' is no name of a preset", name);
	b.name = b.map_name = preset->path;
	ret = read_file(preset->path, "preset", MT_PRESET_FILE_MAX, &text, &len, err);
	if (ret < 0)
		return ret;
	ret = open_preset(&b, &f, text, len);
	free(text);
	if (ret == 0)
		yaml_document_delete(&b.doc);
	return ret;
}

const char *mt_when_name(unsigned int when)
{
	static const char *const names[MT_WHENS] = {"any", "negative", "positive"};

	return when < MT_WHENS ? names[when] : "?";
}

const char *mt_immediate_name(unsigned int immediate)
{
	static const char *const names[MT_IMMEDIATES] = {"any", "with", "without"};

	return immediate < MT_IMMEDIATES ? names[immediate] : "?";
}

const char *mt_encoding_name(unsigned int encoding)
{
	static const char *const names[MT_ENCODINGS] = {"plain", "complement"};

	return encoding < MT_ENCODINGS ? names[encoding] : "?";
}

const char *mt_of_name(unsigned int of)
{
	static const char *const names[MT_OFS] = {"dst", "all"};

	return of < MT_OFS ? names[of] : "?";
}

const char *mt_order_name(unsigned int order)
{
	static const char *const names[MT_ORDERS] = {"little", "big"};

	return order < MT_ORDERS ? names[order] : "?";
}

const char *mt_phase_name(unsigned int phase)
{
	static const char *const names[MT_PHASES] = {"dispatch", "combine", "count", "control"};

	return phase < MT_PHASES ? names[phase] : "?";
}

const char *mt_pattern_name(unsigned int pattern)
{
	static const char *const names[MT_PATTERNS] = {
		"inference", "training", "training-recompute"};

	return pattern < MT_PATTERNS ? names[pattern] : "?";
}

const char *mt_tap_name(unsigned int tap)
{
	static const char *const names[MT_TAPS] = {"all", "heads"};

	return tap < MT_TAPS ? names[tap] : "?";
}

const char *mt_within_name(unsigned int within)
{
	static const char *const names[MT_WITHINS] = {"unseen", "seen"};

	return within < MT_WITHINS ? names[within] : "?";
}

const char *mt_atomics_name(unsigned int atomics)
{
	static const char *const names[MT_ATOMICS_FORM] = {"standard", "learn"};

	return atomics < MT_ATOMICS_FORM ? names[atomics] : "?";
}
