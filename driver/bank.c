/* SPDX-License-Identifier: BSD-3-Clause */
/* The bank as the firmware gets it: checked again, since any process may have written it. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "map.h"

#define ETH_VLAN_BYTES (14u + 2 * 4u)
#define IPV6_BYTES 40u
#define UDP_BYTES 8u
#define UDP_BTH_BYTES (UDP_BYTES + 12u)
#define RETH_BYTES 16u
#define IMM_BYTES 4u
#define ATOMIC_OPERAND_BYTES 20u /* address, key and the first operand */

uint64_t mt_bank_sum(const struct mt_bank *bank)
{
	const unsigned char *p = (const unsigned char *)bank;
	uint64_t h = 0xcbf29ce484222325ULL;

	for (uint32_t i = 0; i < bank->bytes; i++) {
		bool own = i >= offsetof(struct mt_bank, checksum) &&
			   i < offsetof(struct mt_bank, checksum) + sizeof(bank->checksum);

		h = (h ^ (own ? 0 : p[i])) * 0x100000001b3ULL;
	}
	return h;
}

static uint32_t max32(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

static uint32_t min32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/**
 * Bytes behind the BTH that a rule reads. Of integers in the payload, as if the message were one
 * packet with an immediate; in a packet of several, none is further from the start. Rows of floats
 * may follow each other to the end of the message, or of a packet of the longest path MTU.
 */
static uint32_t rule_reads(const struct mt_bank *bank, const struct mt_rule *r)
{
	uint32_t values = 0;

	switch (r->type) {
	case MT_RULE_ATOMIC:
		if (bank->atomics == MT_ATOMICS_LEARN)
			return MT_FORM_MOST;
		return max32(ATOMIC_OPERAND_BYTES,
			max32(bank->form.address + 8u, bank->form.operand + bank->form.width));
	case MT_RULE_IMM:
		return RETH_BYTES + IMM_BYTES;
	case MT_RULE_COUNTS:
	case MT_RULE_DENSE:
		for (uint32_t i = 0; i < bank->ranks; i++)
			values = max32(values, mt_rule_values(bank, r, i));
		values = r->payload_at + values * r->value_width;
		if (r->type == MT_RULE_DENSE)
			values = max32(values, min32(r->length_max, MT_PATH_MTU_MAX));
		for (uint32_t i = 0; mt_rule_matches(r) && i < r->matches && i < MT_MAX_MATCHES;
			i++)
			values = max32(values, (uint32_t)r->match[i].at + r->match[i].width);
		return RETH_BYTES + IMM_BYTES + values;
	case MT_RULE_INDEX: /* anywhere in a packet of the longest path MTU */
		return RETH_BYTES + IMM_BYTES + MT_PATH_MTU_MAX;
	default:
		return RETH_BYTES;
	}
}

/** Bytes of a frame to the end of what a rule reads in a datagram. */
static uint32_t datagram_reads(const struct mt_bank *bank, const struct mt_rule *r)
{
	uint32_t values = 0;

	for (uint32_t i = 0; i < bank->ranks && mt_rule_has_integers(r); i++)
		values = max32(values, r->payload_at + r->value_width * mt_rule_values(bank, r, i));
	return ETH_VLAN_BYTES + IPV6_BYTES + UDP_BYTES + r->header + values;
}

uint32_t mt_rule_snap(const struct mt_bank *bank, const struct mt_rule *r)
{
	if (r->type == MT_RULE_FLOW)
		return bank->datagrams ? datagram_reads(bank, r) : MT_SNAP_WHOLE;
	return ETH_VLAN_BYTES + IPV6_BYTES + UDP_BTH_BYTES + rule_reads(bank, r);
}

uint32_t mt_bank_snap(const struct mt_bank *bank)
{
	uint32_t need = 0;

	for (uint32_t i = 0; i < bank->rules; i++)
		need = max32(need, mt_rule_snap(bank, &mt_bank_rules(bank)[i]));
	return need;
}

uint32_t mt_rule_values(const struct mt_bank *bank, const struct mt_rule *r, uint32_t dst)
{
	return r->of == MT_OF_ALL ? bank->experts : mt_bank_ranks(bank)[dst].experts;
}

static bool part_fits(const struct mt_bank *b, uint32_t off, uint32_t n, size_t item)
{
	return off >= sizeof(*b) && off % 8 == 0 && off <= b->bytes &&
	       (uint64_t)n * item <= b->bytes - off;
}

static bool field_sane(uint64_t stride, uint32_t count, uint32_t max)
{
	return count <= max && (count == 0 || (stride >= 2 && stride <= 1ULL << 47));
}

static bool width_sane(unsigned int at, unsigned int width, unsigned int order, unsigned int header)
{
	bool known = width == 1 || width == 2 || width == 4 || width == 8;

	return known && at + width <= header && order < MT_ORDERS;
}

static bool frame_field_sane(const struct mt_field *f, unsigned int header)
{
	return f->reserved == 0 && (f->width == 0 || width_sane(f->at, f->width, f->order, header));
}

static bool matches_sane(const struct mt_rule *r, unsigned int header)
{
	if (r->matches > MT_MAX_MATCHES)
		return false;
	for (uint32_t i = 0; i < r->matches; i++)
		if (!width_sane(r->match[i].at, r->match[i].width, r->match[i].order, header) ||
			r->match[i].reserved != 0)
			return false;
	return true;
}

/** A rule that reads frames of a stream. */
static bool flow_rule_sane(const struct mt_rule *r)
{
	if (r->header == 0 || r->header > MT_MAX_HEADER || !matches_sane(r, r->header))
		return false;
	if (!frame_field_sane(&r->frame_length, r->header) ||
		!frame_field_sane(&r->frame_bytes, r->header) ||
		!frame_field_sane(&r->frame_round, r->header))
		return false;
	return r->phase != MT_PHASE_COUNT && r->payload_at <= MT_MAX_PAYLOAD_AT;
}

/** Phases that a type of rule can have, and whether it needs an expert or a value for them. */
static bool rule_kind_sane(const struct mt_rule *r)
{
	switch (r->type) {
	case MT_RULE_VA:
		return r->phase == MT_PHASE_DISPATCH ? r->expert_count != 0
						     : r->phase != MT_PHASE_COUNT;
	case MT_RULE_ATOMIC:
		return r->phase == MT_PHASE_COUNT ? r->expert_count != 0 && r->value_scale != 0
						  : r->phase != MT_PHASE_DISPATCH;
	case MT_RULE_QP:
		return r->phase == MT_PHASE_DISPATCH;
	case MT_RULE_LENGTH:
		return r->phase == MT_PHASE_DISPATCH ? r->token_bytes != 0
						     : r->phase != MT_PHASE_COUNT;
	case MT_RULE_COUNTS:
		return (r->phase == MT_PHASE_DISPATCH || r->phase == MT_PHASE_COUNT) &&
		       r->payload_at <= MT_MAX_PAYLOAD_AT && matches_sane(r, MT_MAX_HEADER) &&
		       (mt_rule_matches(r) || r->payload_at % r->value_width == 0);
	case MT_RULE_INDEX:
	case MT_RULE_DENSE:
		return r->phase == MT_PHASE_DISPATCH && r->payload_at <= MT_MAX_PAYLOAD_AT &&
		       r->value_width == 4 && r->payload_at % 4 == 0 &&
		       r->payload_stride % 4 == 0 && r->payload_stride <= MT_MAX_PAYLOAD_AT &&
		       (r->type == MT_RULE_DENSE || r->payload_count != 0) &&
		       r->payload_count <= r->payload_stride / 4;
	case MT_RULE_IMM:
		return (r->phase != MT_PHASE_COUNT ||
			       (r->expert_count != 0 && r->value_scale != 0)) &&
		       r->phase != MT_PHASE_DISPATCH && r->place_unit != 0 &&
		       r->operand_shift + r->operand_bits <= 32 &&
		       r->place_shift + r->place_bits <= 32;
	case MT_RULE_FLOW:
		return flow_rule_sane(r);
	default:
		return false;
	}
}

static bool rule_sane(const struct mt_bank *b, const struct mt_rule *r)
{
	bool region = r->type <= MT_RULE_ATOMIC || r->type == MT_RULE_IMM;

	if (r->value_width != 4 && r->value_width != 8)
		return false;
	if (r->when >= MT_WHENS || r->encoding >= MT_ENCODINGS || r->of >= MT_OFS ||
		r->value_signed > 1 || r->announcers > MT_MAX_ANNOUNCERS ||
		r->immediate >= MT_IMMEDIATES || r->reserved3 != 0)
		return false;
	if (r->phase >= MT_PHASES || !rule_kind_sane(r) || r->name[sizeof(r->name) - 1] != '\0')
		return false;
	if (r->base > b->bases || (r->base != 0 && !mt_rule_needs_base(r)))
		return false;
	if (r->size > 1ULL << 47 || (mt_rule_reads_payload(r) ? false : region != (r->size != 0)))
		return false;
	if (!field_sane(r->parity_stride, r->parity_count, MT_MAX_PARITY) ||
		!field_sane(r->expert_stride, r->expert_count, MT_MAX_EXPERTS) ||
		!field_sane(r->source_stride, r->source_count, b->ranks))
		return false;
	if (r->parity_count != 0 && r->size > r->parity_stride)
		return false;
	if (r->length_min > r->length_max || r->expert_fixed >= MT_MAX_EXPERTS ||
		r->length_step > MT_MAX_LENGTH_STEP || (r->length_step != 0 && r->size != 0))
		return false;
	if (r->value_scale < -MT_MAX_SCALE || r->value_scale > MT_MAX_SCALE ||
		r->value_add < INT32_MIN || r->value_add > INT32_MAX)
		return false;
	return true;
}

bool mt_form_opcode(unsigned int opcode)
{
	return opcode == 0x15 || (opcode >= 0x18 && opcode <= 0x1b) || opcode == 0x1e ||
	       opcode == 0x1f || opcode >= 0xe0;
}

bool mt_form_sane(const struct mt_form *f)
{
	bool standard = f->opcode == 0x13 || f->opcode == 0x14;

	if (!standard && !mt_form_opcode(f->opcode))
		return false;
	return f->length >= MT_FORM_LEAST && f->length <= MT_FORM_MOST && f->length % 4 == 0 &&
	       (!standard || f->length > 28) && (f->width == 4 || f->width == 8) &&
	       f->address % 4 == 0 && f->operand % 4 == 0 && f->address + 8 <= f->length &&
	       f->operand + f->width <= f->length &&
	       (f->operand + f->width <= f->address || f->address + 8 <= f->operand) &&
	       f->order < MT_ORDERS && f->learnt == 0 && f->reserved == 0;
}

/** A form is there when it is stated. */
static bool atomics_sane(const struct mt_bank *b)
{
	static const struct mt_form none;

	if (b->atomics >= MT_ATOMICS)
		return false;
	if (b->atomics == MT_ATOMICS_FORM)
		return mt_form_sane(&b->form);
	return memcmp(&b->form, &none, sizeof(none)) == 0;
}

/** Names of bases end. */
static bool bases_sane(const struct mt_bank *b)
{
	for (uint32_t i = 0; i < b->bases; i++) {
		const struct mt_base *base = mt_bank_base(b, i);

		if (base->name[sizeof(base->name) - 1] != '\0')
			return false;
	}
	return true;
}

/** Ranks hold different experts, and are on nodes. */
static bool ranks_sane(const struct mt_bank *b)
{
	const struct mt_rank *ranks = mt_bank_ranks(b);

	for (uint32_t i = 0; i < b->ranks; i++) {
		const struct mt_rank *r = &ranks[i];

		if (r->node >= MT_MAX_RANKS || r->reserved != 0)
			return false;
		if (r->experts > b->experts || r->first_expert > b->experts - r->experts)
			return false;
		for (uint32_t j = 0; j < i; j++)
			if (r->first_expert < ranks[j].first_expert + ranks[j].experts &&
				ranks[j].first_expert < r->first_expert + r->experts)
				return false;
	}
	return true;
}

/** Addresses grow, and of one address ranks, so that none is there twice. */
static bool addrs_sane(const struct mt_bank *b)
{
	const struct mt_addr *a = mt_bank_addrs(b);

	for (uint32_t i = 0; i < b->addrs; i++) {
		int order = i == 0 ? -1 : memcmp(a[i - 1].ip, a[i].ip, sizeof(a[i].ip));

		if (a[i].rank >= b->ranks || a[i].reserved != 0 || order > 0 ||
			(order == 0 && a[i - 1].rank >= a[i].rank))
			return false;
	}
	return true;
}

int mt_flow_order(const struct mt_flow *f, const struct mt_flow *g)
{
	if (f->src != g->src)
		return f->src < g->src ? -1 : 1;
	if (f->dst != g->dst)
		return f->dst < g->dst ? -1 : 1;
	return f->qpn < g->qpn ? -1 : f->qpn > g->qpn;
}

/** Flows grow by source, destination and QPN, so that none is there twice. */
static bool flows_sane(const struct mt_bank *b)
{
	const struct mt_flow *flows = mt_bank_flows(b);

	for (uint32_t i = 0; i < b->flows; i++) {
		const struct mt_flow *f = &flows[i];
		const struct mt_rank *d;

		if (f->src >= b->ranks || f->dst >= b->ranks || f->src == f->dst ||
			f->qpn > 0xffffff || (i > 0 && mt_flow_order(f, f - 1) <= 0))
			return false;
		d = &mt_bank_ranks(b)[f->dst];
		if (f->expert != MT_NO_EXPERT &&
			(f->expert < d->first_expert || f->expert - d->first_expert >= d->experts))
			return false;
	}
	return true;
}

int mt_rule_way(const struct mt_rule *r)
{
	switch (r->type) {
	case MT_RULE_VA:
		return -1;
	case MT_RULE_COUNTS:
		return -2;
	case MT_RULE_INDEX:
	case MT_RULE_DENSE:
		return -3;
	case MT_RULE_FLOW:
		return mt_rule_has_integers(r) ? -2 : (int)r->token_bytes;
	default:
		return (int)r->token_bytes;
	}
}

const char *mt_rule_type_name(unsigned int type)
{
	static const char *const names[MT_RULE_TYPES] = {"va", "atomic", "qp", "length",
		"payload-counts", "imm", "payload-index", "payload-dense", "flow"};

	return type < MT_RULE_TYPES ? names[type] : "?";
}

const char *mt_witness_name(unsigned int witness)
{
	static const char *const names[MT_WITNESSES] = {
		"none", "absent", "agreed", "gap", "disagreed"};

	return witness < MT_WITNESSES ? names[witness] : "?";
}

/** Of several signals that tell the same, which goes first: what is told, then what is seen. */
static int precedence(const struct mt_rule *r)
{
	static const int by_type[MT_RULE_TYPES] = {[MT_RULE_COUNTS] = 5,
		[MT_RULE_ATOMIC] = 4,
		[MT_RULE_INDEX] = 3,
		[MT_RULE_DENSE] = 3,
		[MT_RULE_VA] = 3,
		[MT_RULE_IMM] = 2,
		[MT_RULE_QP] = 1,
		[MT_RULE_LENGTH] = 1,
		[MT_RULE_FLOW] = 1};

	if (r->phase != MT_PHASE_DISPATCH && r->phase != MT_PHASE_COUNT)
		return 0;
	return by_type[r->type];
}

/** Whether @p r tells tokens in another way than the load does. */
static bool is_beside(const struct mt_rule *load, const struct mt_rule *r)
{
	return r->phase != load->phase ||
	       (load->type == MT_RULE_COUNTS && r->type != MT_RULE_COUNTS);
}

/** The rule that goes first, of those beside @p load. */
static const struct mt_rule *first_rule(const struct mt_bank *b, const struct mt_rule *load)
{
	const struct mt_rule *best = NULL;

	for (uint32_t i = 0; i < b->rules; i++) {
		const struct mt_rule *r = &mt_bank_rules(b)[i];

		if (precedence(r) > (best != NULL ? precedence(best) : 0) &&
			(load == NULL || is_beside(load, r)))
			best = r;
	}
	return best;
}

const struct mt_rule *mt_bank_load(const struct mt_bank *b)
{
	return first_rule(b, NULL);
}

const struct mt_rule *mt_bank_witness(const struct mt_bank *b)
{
	return first_rule(b, mt_bank_load(b));
}

bool mt_rule_tells(const struct mt_rule *r)
{
	return precedence(r) != 0;
}

const char *mt_rule_role(const struct mt_bank *b, const struct mt_rule *r)
{
	if (!mt_rule_tells(r))
		return NULL;
	return is_beside(mt_bank_load(b), r) ? "witness" : "load";
}

/** Counts in payloads have one witness, and phases to compare it by. */
static bool witness_sane(const struct mt_bank *b)
{
	const struct mt_rule *load = mt_bank_load(b), *witness = mt_bank_witness(b);
	bool combine = false;

	if (!mt_rule_is_load(load) || witness == NULL)
		return true;
	for (uint32_t i = 0; i < b->rules; i++) {
		const struct mt_rule *r = &mt_bank_rules(b)[i];

		combine |= r->phase == MT_PHASE_COMBINE;
		if (mt_rule_tells(r) && !mt_rule_is_load(r) &&
			(r->type != witness->type || r->token_bytes != witness->token_bytes))
			return false;
	}
	return combine;
}

/** Rules of phase dispatch count in one way, beside counts in payloads; and there is one. */
static bool rules_sane(const struct mt_bank *b)
{
	const struct mt_rule *first = NULL;

	for (uint32_t i = 0; i < b->rules; i++) {
		const struct mt_rule *r = &mt_bank_rules(b)[i];

		if (!rule_sane(b, r))
			return false;
		if ((r->type == MT_RULE_FLOW) != (mt_bank_rules(b)->type == MT_RULE_FLOW))
			return false;
		if (r->phase != MT_PHASE_DISPATCH)
			continue;
		if (first == NULL)
			first = r;
		if (mt_rule_is_load(first))
			first = r;
		if (mt_rule_way(r) != mt_rule_way(first) && !mt_rule_is_load(r))
			return false;
	}
	return first != NULL && witness_sane(b);
}

static bool mtu_sane(uint32_t mtu)
{
	return mtu == 0 ||
	       (mtu >= MT_PATH_MTU_MIN && mtu <= MT_PATH_MTU_MAX && (mtu & (mtu - 1)) == 0);
}

int mt_bank_check(const struct mt_bank *b, uint64_t room, struct mt_error *err)
{
	if (room < sizeof(*b) || b->magic != MT_BANK_MAGIC || b->version != MT_PAGE_VERSION)
		return mt_fail(err, -EINVAL, "the bank holds no map of this version");
	if (b->bytes < sizeof(*b) || b->bytes > room)
		return mt_fail(err, -EINVAL, "the map in the bank is longer than the bank");
	if (b->ranks < 2 || b->ranks > MT_MAX_RANKS || b->addrs > MT_MAX_ADDRS || b->rules == 0 ||
		b->rules > MT_MAX_RULES || b->bases > MT_MAX_BASES || b->flows > MT_MAX_FLOWS ||
		b->experts == 0 || b->experts > MT_MAX_EXPERTS ||
		(uint64_t)b->ranks * b->experts > MT_MAX_CELLS || b->layers == 0 ||
		b->layers > MT_MAX_LAYERS || b->micro_batches == 0 ||
		b->micro_batches > MT_MAX_MICRO || b->pattern >= MT_PATTERNS || b->tap >= MT_TAPS ||
		b->within_node >= MT_WITHINS || !mtu_sane(b->path_mtu) || b->datagrams > 1 ||
		b->idle_gap_ns == 0 || b->idle_gap_ns > MT_MAX_IDLE_GAP_NS ||
		b->port_min > b->port_max || b->job[MT_NAME_LEN - 1] != '\0')
		return mt_fail(err, -EINVAL, "the map in the bank is beyond a limit");
	if (!part_fits(b, b->rank_off, b->ranks, sizeof(struct mt_rank)) ||
		!part_fits(b, b->addr_off, b->addrs, sizeof(struct mt_addr)) ||
		!part_fits(b, b->rule_off, b->rules, sizeof(struct mt_rule)) ||
		!part_fits(b, b->flow_off, b->flows, sizeof(struct mt_flow)) ||
		!part_fits(b, b->base_off, b->bases, mt_base_bytes(b->ranks)))
		return mt_fail(err, -EINVAL, "a table of the map lies outside of the bank");
	if (mt_bank_sum(b) != b->checksum)
		return mt_fail(err, -EINVAL, "the map in the bank is damaged (checksum)");
	if (!ranks_sane(b) || !addrs_sane(b) || !bases_sane(b) || !atomics_sane(b) ||
		!rules_sane(b) || !flows_sane(b) || b->snap != mt_bank_snap(b))
		return mt_fail(err, -EINVAL, "a table of the map has an impossible entry");
	return 0;
}

int mt_bank_take(
	const struct mt_bank *shared, uint64_t room, struct mt_bank **bank, struct mt_error *err)
{
	uint32_t bytes = __atomic_load_n(&shared->bytes, __ATOMIC_RELAXED);
	struct mt_bank *copy;
	int ret;

	if (bytes < sizeof(*shared) || bytes > room)
		return mt_fail(err, -EINVAL, "the bank holds no map of this version");
	copy = malloc(bytes);
	if (copy == NULL)
		return mt_fail(err, -ENOMEM, "out of memory for a map of %u bytes", bytes);
	memcpy(copy, shared, bytes);
	ret = mt_bank_check(copy, bytes, err);
	if (ret < 0) {
		free(copy);
		return ret;
	}
	*bank = copy;
	return 0;
}

bool mt_ip_is_v4(const uint8_t ip[16])
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	return memcmp(ip, mapped, sizeof(mapped)) == 0;
}

const char *mt_ip_text(const uint8_t ip[16], char *text)
{
	return mt_ip_is_v4(ip) ? inet_ntop(AF_INET, ip + 12, text, INET6_ADDRSTRLEN)
			       : inet_ntop(AF_INET6, ip, text, INET6_ADDRSTRLEN);
}
