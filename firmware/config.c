/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "flow.h"
#include "learn_atomic.h"
#include "map.h"

#define V4_TRIES 16u /* multipliers, for one size of the table */

static uint32_t table_mask(uint32_t used)
{
	uint32_t size = 8;

	while (size < used * 4)
		size *= 2;
	return size - 1;
}

/** Whether an address is that of the one before it, and of a rank behind that one's. */
static bool is_shared(const struct mt_bank *b, uint32_t i)
{
	const struct mt_addr *a = mt_bank_addrs(b);

	return i > 0 && memcmp(a[i - 1].ip, a[i].ip, sizeof(a[i].ip)) == 0;
}

static bool add_v4(struct fw_config *c, const struct mt_addr *a)
{
	struct fw_v4 *b;
	uint32_t ip;

	memcpy(&ip, a->ip + 12, sizeof(ip));
	b = &c->v4[fw_hash_v4(c, ip)];
	for (int i = 0; i < 2; i++) {
		if (b->rank_plus_1[i] != 0)
			continue;
		b->ip[i] = ip;
		b->rank_plus_1[i] = a->rank + 1;
		return true;
	}
	return false;
}

/** Find a multiplier, then a larger table, with which no two addresses of a bucket get a third. */
static int fill_v4(struct fw_config *c, const struct mt_bank *bank)
{
	uint32_t i;

	c->v4_multiplier = 0x9e3779b1u;
	c->v4_shift = 32 - (uint32_t)__builtin_popcount(table_mask(bank->addrs));
	for (uint32_t tries = 0; c->v4_shift > 8; tries++, c->v4_multiplier += 0x3c6ef372u) {
		if (tries % V4_TRIES == 0) {
			free(c->v4);
			c->v4_shift -= tries != 0;
			c->v4 = calloc(1u << (32 - c->v4_shift), sizeof(*c->v4));
			if (c->v4 == NULL)
				return -ENOMEM;
		}
		memset(c->v4, 0, sizeof(*c->v4) << (32 - c->v4_shift));
		for (i = 0; i < bank->addrs; i++)
			if (!is_shared(bank, i) && mt_ip_is_v4(mt_bank_addrs(bank)[i].ip) &&
				!add_v4(c, &mt_bank_addrs(bank)[i]))
				break;
		if (i == bank->addrs)
			return 0;
	}
	return -ENOMEM;
}

static void add_v6(struct fw_config *c, uint32_t place)
{
	const struct mt_addr *a = &mt_bank_addrs(c->bank)[place];
	uint32_t i = fw_hash_v6(a->ip) & c->v6_mask;

	while (c->v6[i].addr_plus_1 != 0)
		i = (i + 1) & c->v6_mask;
	memcpy(c->v6[i].ip, a->ip, 16);
	c->v6[i].addr_plus_1 = place + 1;
}

/** Chain the ranks that share an address. @return whether there is memory */
static bool fill_shares(struct fw_config *c)
{
	const struct mt_bank *b = c->bank;
	const struct mt_addr *a = mt_bank_addrs(b);

	for (uint32_t i = 1; i < b->addrs; i++) {
		if (!is_shared(b, i))
			continue;
		if (c->shares == NULL) {
			c->shares = malloc(b->ranks * sizeof(*c->shares));
			if (c->shares == NULL)
				return false;
			for (uint32_t rank = 0; rank < b->ranks; rank++)
				c->shares[rank] = MT_MAX_RANKS;
		}
		c->shares[a[i - 1].rank] = (uint16_t)a[i].rank;
	}
	return true;
}

static struct rte_reciprocal_u64 reciprocal(uint64_t d)
{
	return rte_reciprocal_value_u64(d < 2 ? 2 : d); /* 0: the field is not there */
}

static uint32_t low_bits(uint32_t n)
{
	return n == 0 ? 0 : UINT32_MAX >> (32 - n);
}

/** A rule of frames: they are read as the bank has them, see tcp.c. */
static void add_flow_rule(struct fw_config *c, const struct mt_rule *r)
{
	c->tcp_header = c->tcp ? RTE_MIN(c->tcp_header, r->header) : r->header;
	c->tcp = true;
	c->datagrams = c->bank->datagrams;
	c->tcp_combine |= r->phase == MT_PHASE_COMBINE;
	if (r->phase == MT_PHASE_COMBINE && c->split == FW_SPLIT_IDLE)
		c->split = FW_SPLIT_COMBINE;
	if (r->phase != MT_PHASE_DISPATCH)
		return;
	c->by_bytes = r->token_bytes;
	if (r->frame_round.width != 0)
		c->split = FW_SPLIT_PARITY;
	else if (mt_rule_has_integers(r) && c->split != FW_SPLIT_PARITY)
		c->split = FW_SPLIT_AGAIN;
}

/** Whether a rule is a witness: counts in payloads are the load, all else is compared with them. */
static bool is_witness(const struct fw_config *c, const struct mt_rule *r)
{
	return c->witness && !mt_rule_is_load(r) && mt_rule_tells(r);
}

/** The part of a message of rule @p r to rank @p dst that is read. */
static struct fw_part part_of(const struct mt_bank *b, const struct mt_rule *r, uint32_t dst)
{
	const struct mt_rank *rank = &mt_bank_ranks(b)[dst];
	uint32_t skip = r->of == MT_OF_ALL ? rank->first_expert : 0;
	uint32_t all = r->of == MT_OF_ALL ? b->experts : rank->experts;

	switch (r->type) {
	case MT_RULE_COUNTS:
		return (struct fw_part){r->payload_at + skip * r->value_width,
			rank->experts * r->value_width, UINT32_MAX, 0, rank->experts};
	case MT_RULE_DENSE:
		return (struct fw_part){r->payload_at + skip * 4, rank->experts * 4,
			RTE_MAX(all, 1u) * 4, 0, rank->experts};
	default:
		return (struct fw_part){r->payload_at, r->payload_count * 4, r->payload_stride,
			skip, rank->experts};
	}
}

static const struct fw_part *add_parts(const struct fw_config *c, const struct mt_rule *r)
{
	struct fw_part *parts = c->parts + c->writes * c->bank->ranks;

	for (uint32_t i = 0; i < c->bank->ranks; i++)
		parts[i] = part_of(c->bank, r, i);
	return parts;
}

/** Where a rule looks for messages, and in them for the expert: with all divisions made. */
static void fill_places(struct fw_rule *f, const struct fw_config *c, const struct mt_rule *r)
{
	f->offset = r->offset;
	f->size = r->size;
	f->parity_stride = r->parity_stride;
	f->expert_stride = r->expert_stride;
	f->source_stride = r->source_stride;
	f->parity_div = reciprocal(r->parity_stride);
	f->expert_div = reciprocal(r->expert_stride);
	f->source_div = reciprocal(r->source_stride);
	f->expert_wrap = rte_reciprocal_value(RTE_MAX(r->expert_count, 1u));
	f->source_wrap = rte_reciprocal_value(RTE_MAX(r->source_count, 1u));
	f->length_min = r->length_min;
	f->length_span = r->length_max - r->length_min;
	f->length_step = r->length_step;
	f->step_wrap = rte_reciprocal_value(RTE_MAX(r->length_step, 1u));
	f->parity_count = r->parity_count;
	f->expert_count = r->expert_count;
	f->source_count = r->source_count;
	f->expert_fixed = r->expert_fixed;
	f->bases = r->base == 0 ? NULL : mt_bank_base(c->bank, r->base - 1u)->at;
	f->region = r->size != 0;
	f->has_window = f->region && r->immediate == MT_IMMEDIATE_ANY;
}

/** What a rule reads in a message: operands, immediates, integers. */
static void fill_values(struct fw_rule *f, const struct mt_rule *r)
{
	f->value_add = r->value_add;
	f->value_scale = r->value_scale;
	f->value_width = r->value_width;
	f->when = r->when;
	f->operand_signed = r->value_signed;
	f->operand_shift = r->operand_shift;
	f->operand_mask = low_bits(r->operand_bits);
	f->place_shift = r->place_shift;
	f->place_mask = low_bits(r->place_bits);
	f->imm_mask = r->imm_mask;
	f->imm_value = r->imm_value;
	f->place_unit = r->place_unit;
	f->encoding = r->encoding;
	f->of = r->of;
	f->matches = mt_rule_matches(r) ? r->matches : 0;
	f->match = r->match;
}

static struct fw_rule make_rule(const struct fw_config *c, const struct mt_rule *r)
{
	struct fw_rule f = {.token_bytes = r->token_bytes,
		.type = r->type,
		.phase = r->phase,
		.immediate = r->immediate,
		.payload = mt_rule_reads_payload(r) || is_witness(c, r),
		.witness = is_witness(c, r),
		.count_what = is_witness(c, r) ? FW_WITNESS : FW_COUNT,
		.number = (uint8_t)c->writes};

	fill_places(&f, c, r);
	fill_values(&f, r);
	if (mt_rule_reads_payload(r))
		f.parts = add_parts(c, r);
	f.by_bytes = r->phase == MT_PHASE_DISPATCH && !f.region && r->token_bytes != 0;
	return f;
}

/** What a rule says of all: what is counted, and what ends an epoch. */
static void set_ways(struct fw_config *c, const struct mt_rule *r, const struct fw_rule *f)
{
	c->announcers = RTE_MAX(c->announcers, r->announcers);
	c->values |= mt_rule_reads_payload(r);
	if (f->witness)
		c->witness_type = r->type;
	if (f->by_bytes)
		*(f->witness ? &c->witness_bytes : &c->by_bytes) = r->token_bytes;
	/* counts that are not to be read yet cannot end epochs */
	if ((r->phase == MT_PHASE_COUNT && c->bank->atomics != MT_ATOMICS_LEARN) ||
		r->type == MT_RULE_COUNTS)
		c->by_source = false;
	if (r->phase == MT_PHASE_COMBINE && c->split == FW_SPLIT_IDLE)
		c->split = FW_SPLIT_COMBINE;
	if (r->phase == MT_PHASE_DISPATCH && r->parity_count > 1)
		c->split = FW_SPLIT_PARITY;
}

/** A rule into the lists of the messages that it may know. */
static void add_rule(struct fw_config *c, const struct mt_rule *r)
{
	struct fw_rule f = make_rule(c, r);
	struct fw_length length = {f.length_min, f.length_span};

	set_ways(c, r, &f);
	if (r->type == MT_RULE_ATOMIC) {
		c->atomic[c->atomics++] = f;
		return;
	}
	if (r->type == MT_RULE_IMM) {
		c->imm[c->imms++] = f;
		return;
	}
	c->write_length[c->writes] = length;
	c->write[c->writes++] = f;
	if (!f.region && (!mt_rule_reads_payload(r) || f.matches != 0)) {
		c->send_length[c->sends] = length;
		c->send[c->sends++] = f;
	}
	if (r->type == MT_RULE_LENGTH && r->phase == MT_PHASE_CONTROL &&
		r->immediate == MT_IMMEDIATE_ANY) {
		c->read_length[c->reads] = length;
		c->read[c->reads++] = f;
	}
}

/** Rules that match numbers in messages come before those that take all of some length. */
static void add_rules(struct fw_config *c, bool matching)
{
	for (uint32_t i = 0; i < c->bank->rules; i++) {
		const struct mt_rule *r = &mt_bank_rules(c->bank)[i];

		if (r->type != MT_RULE_FLOW && mt_rule_matches(r) == matching)
			add_rule(c, r);
	}
}

/** Whether a rule may read a message whose first packet shows @p shows: enum fw_shows. */
static bool may_read(const struct fw_rule *r, unsigned int shows)
{
	static const uint8_t immediates[FW_SHOWS] = {
		[FW_SHOWS_ALONE] = 1 << MT_IMMEDIATE_ANY | 1 << MT_IMMEDIATE_WITHOUT,
		[FW_SHOWS_IMM] = 1 << MT_IMMEDIATE_ANY | 1 << MT_IMMEDIATE_WITH,
		[FW_SHOWS_MORE] = 1 << MT_IMMEDIATE_ANY};

	return immediates[shows] >> r->immediate & 1;
}

/** Those of @p all that may read such messages, at @p to; where all may, they need no copy. */
static struct fw_list part(const struct fw_list *all, unsigned int shows, struct fw_parted *to)
{
	struct fw_list list = {to->rule, to->length, 0};

	for (uint32_t i = 0; i < all->n; i++) {
		if (!may_read(&all->rule[i], shows))
			continue;
		to->rule[list.n] = all->rule[i];
		to->length[list.n++] = all->length[i];
	}
	return list.n == all->n ? *all : list;
}

/** The lists that messages are looked up in. @return whether there is memory */
static bool part_rules(struct fw_config *c)
{
	struct fw_list write = {c->write, c->write_length, c->writes};
	struct fw_list send = {c->send, c->send_length, c->sends};

	c->of_read = (struct fw_list){c->read, c->read_length, c->reads};
	c->of_atomic = (struct fw_list){c->atomic, NULL, c->atomics};
	c->parted = calloc(2ul * FW_SHOWS, sizeof(*c->parted));
	if (c->parted == NULL)
		return false;
	for (unsigned int shows = 0; shows < FW_SHOWS; shows++) {
		c->of_write[shows] = part(&write, shows, &c->parted[2ul * shows]);
		c->of_send[shows] = part(&send, shows, &c->parted[2ul * shows + 1]);
	}
	return true;
}

struct fw_config *fw_config_new(const struct mt_bank *bank, uint32_t generation)
{
	struct fw_config *c = calloc(1, sizeof(*c));
	struct mt_bank *copy = malloc(bank->bytes);

	if (c == NULL || copy == NULL)
		goto fail;
	memcpy(copy, bank, bank->bytes);
	c->bank = copy;
	c->generation = generation;
	c->announcers = 1;
	c->by_source = true; /* until a rule of phase count is found */
	c->split = FW_SPLIT_IDLE;
	c->v6_mask = table_mask(copy->addrs);
	c->v6 = calloc(c->v6_mask + 1, sizeof(*c->v6));
	c->parts = calloc((size_t)copy->rules * copy->ranks, sizeof(*c->parts));
	if (copy->atomics != MT_ATOMICS_STANDARD)
		c->learn = fw_learn_new(copy);
	if (c->v6 == NULL || c->parts == NULL || fill_v4(c, copy) < 0 ||
		(copy->atomics != MT_ATOMICS_STANDARD && c->learn == NULL))
		goto fail;
	for (uint32_t i = 0; i < copy->addrs; i++)
		if (!is_shared(copy, i) && !mt_ip_is_v4(mt_bank_addrs(copy)[i].ip))
			add_v6(c, i);
	c->witness = mt_rule_is_load(mt_bank_load(copy)) && mt_bank_witness(copy) != NULL;
	c->announced_first = mt_bank_load(copy)->phase == MT_PHASE_COUNT;
	for (uint32_t i = 0; i < copy->rules; i++)
		if (mt_bank_rules(copy)[i].type == MT_RULE_FLOW)
			add_flow_rule(c, &mt_bank_rules(copy)[i]);
	add_rules(c, true);
	add_rules(c, false);
	if (!part_rules(c) || !fill_shares(c))
		goto fail;
	for (uint32_t i = 0; i < copy->ranks; i++)
		c->max_experts = RTE_MAX(c->max_experts, mt_bank_ranks(copy)[i].experts);
	if (c->values && c->max_experts > 2)
		c->beside = 128; /* only the payload tells the expert: the cells of two more */
	c->body_adds = c->witness ? FW_WITNESS : FW_BYTES;
	c->source_labels = c->by_source || c->witness;
	c->heads = copy->tap == MT_TAP_HEADS;
	if (!c->by_source) /* heads: a first packet takes the PSNs of the whole message */
		c->hit_kinds = 1u << FW_KIND_WRITE | (c->heads ? 0 : 1u << FW_KIND_WRITE_FIRST);
	c->idle_gap_ns = copy->idle_gap_ns;
	c->mtu_log2 =
		(uint8_t)(31 - __builtin_clz(copy->path_mtu ? copy->path_mtu : MT_PATH_MTU_MAX));
	return c;
fail:
	free(copy);
	if (c != NULL) {
		c->bank = NULL;
		fw_config_free(c);
	}
	return NULL;
}

void fw_config_free(struct fw_config *c)
{
	if (c == NULL)
		return;
	fw_learn_free(c->learn);
	free((void *)(uintptr_t)c->bank);
	free(c->v4);
	free(c->v6);
	free(c->parts);
	free(c->parted);
	free(c->shares);
	free(c);
}
