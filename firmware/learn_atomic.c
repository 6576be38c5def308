/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>

#include "count.h"
#include "learn_atomic.h"
#include "map.h"

/* ---- life ------------------------------------------------------------------------------------ */

struct fw_learn *fw_learn_new(const struct mt_bank *bank)
{
	struct fw_learn *l = calloc(1, sizeof(*l));

	if (l == NULL)
		return NULL;
	memcpy(&l->form, &bank->form, sizeof(l->form));
	l->learning = bank->atomics == MT_ATOMICS_LEARN;
	l->ranks = bank->ranks;
	for (uint32_t i = 0; i < bank->rules; i++)
		if (mt_bank_rules(bank)[i].type == MT_RULE_ATOMIC &&
			mt_bank_rules(bank)[i].phase == MT_PHASE_COUNT)
			l->width = RTE_MAX(l->width, mt_bank_rules(bank)[i].value_width);
	return l;
}

void fw_learn_free(struct fw_learn *l)
{
	if (l == NULL)
		return;
	for (uint32_t i = 0; i < l->parts; i++) {
		for (uint32_t k = 0; k < FW_LEARN_CLASSES; k++) {
			free(l->part[i]->class[k].rounds);
			free(l->part[i]->class[k].label);
		}
		free(l->part[i]);
	}
	free(l);
}

int fw_learn_join(struct fw_learn *l, struct fw_tables *t)
{
	struct fw_learn_part *part;

	if (l == NULL || !l->learning)
		return 0;
	part = calloc(1, sizeof(*part));
	if (part == NULL)
		return -ENOMEM;
	l->part[l->parts++] = part;
	part->sources = t->sources;
	for (uint32_t k = 0; k < FW_LEARN_CLASSES; k++) {
		part->class[k].rounds = calloc(l->ranks, sizeof(uint8_t));
		part->class[k].label = calloc(l->ranks, sizeof(uint32_t));
		if (part->class[k].rounds == NULL || part->class[k].label == NULL)
			return -ENOMEM;
	}
	t->learn = part;
	return 0;
}

/* ---- classes --------------------------------------------------------------------------------- */

static uint32_t length_of(const struct fw_packet *p)
{
	return p->kind == FW_KIND_ODD ? p->payload : fw_opcodes[p->opcode].ext + p->payload;
}

/** All places of address and operand in @p length bytes are tried (anew). */
static void begin(const struct fw_learn *l, struct fw_learn_class *k)
{
	uint32_t length = k->key & 0xff;

	for (uint32_t a = 0; a < FW_LEARN_PLACES; a++) {
		uint32_t alive = 0;

		for (uint32_t b = 0; b * 4 + l->width <= length; b++)
			if (b * 4 + l->width <= a * 4 || b >= a + 2)
				alive |= 3u << 2 * b;
		__atomic_store_n(&k->alive[a], a * 4 + 8 <= length ? alive : 0, __ATOMIC_RELAXED);
		__atomic_store_n(&k->counts[a], 0, __ATOMIC_RELAXED);
	}
	k->idle = 0;
	k->least = UINT32_MAX;
	k->most = 0;
	for (uint32_t i = 0; i < l->ranks; i++) {
		__atomic_store_n(&k->rounds[i], 0, __ATOMIC_RELAXED);
		k->label[i] = 0;
	}
}

/** The class of a packet; NULL: it is of none, or there is no room for another one. */
static struct fw_learn_class *class_of(
	const struct fw_learn *l, struct fw_learn_part *part, const struct fw_packet *p)
{
	uint32_t length = length_of(p), key = (uint32_t)p->opcode << 8 | length;

	if (length < MT_FORM_LEAST || length > MT_FORM_MOST || length % 4 != 0 || p->have < length)
		return NULL;
	for (uint32_t i = 0; i < FW_LEARN_CLASSES; i++) {
		struct fw_learn_class *k = &part->class[i];

		if (k->key == 0) {
			k->key = key;
			begin(l, k);
			__atomic_thread_fence(__ATOMIC_RELEASE);
		}
		if (k->key == key)
			return k;
	}
	return NULL;
}

/** All cores together: the only place that is left, once every source has shown enough of it. */
static bool is_proved(const struct fw_learn *l, uint32_t key, uint32_t alive[FW_LEARN_PLACES])
{
	uint32_t least = UINT32_MAX, most = 0, left = 0;

	memset(alive, 0xff, FW_LEARN_PLACES * sizeof(*alive));
	for (uint32_t i = 0; i < l->parts; i++) {
		const struct fw_learn_class *k = NULL;

		for (uint32_t j = 0; j < FW_LEARN_CLASSES; j++)
			if (__atomic_load_n(&l->part[i]->class[j].key, __ATOMIC_ACQUIRE) == key)
				k = &l->part[i]->class[j];
		for (uint32_t s = 0; s < l->ranks; s++)
			if (__atomic_load_n(&l->part[i]->sources[s].label, __ATOMIC_RELAXED) != 0 &&
				(k == NULL || __atomic_load_n(&k->rounds[s], __ATOMIC_ACQUIRE) <
						      FW_LEARN_ROUNDS))
				return false;
		for (uint32_t a = 0; k != NULL && a < FW_LEARN_PLACES; a++)
			alive[a] &= __atomic_load_n(&k->alive[a], __ATOMIC_RELAXED) &
				    __atomic_load_n(&k->counts[a], __ATOMIC_RELAXED);
		least = k != NULL ? RTE_MIN(least, __atomic_load_n(&k->least, __ATOMIC_RELAXED))
				  : least;
		most = k != NULL ? RTE_MAX(most, __atomic_load_n(&k->most, __ATOMIC_RELAXED))
				 : most;
	}
	for (uint32_t a = 0; a < FW_LEARN_PLACES; a++)
		left += (uint32_t)__builtin_popcount(alive[a]);
	return left == 1 && least < most;
}

static void try_believe(struct fw_learn *l, uint32_t key)
{
	uint32_t alive[FW_LEARN_PLACES], bit, a = 0;
	struct mt_form form = {.opcode = (uint8_t)(key >> 8), .length = (uint8_t)key, .learnt = 1};
	uint64_t word, none = 0;

	if (!is_proved(l, key, alive))
		return;
	while (alive[a] == 0)
		a++;
	bit = (uint32_t)__builtin_ctz(alive[a]);
	form.address = (uint8_t)(a * 4);
	form.operand = (uint8_t)(bit / 2 * 4);
	form.width = l->width;
	form.order = bit % 2 == 0 ? MT_ORDER_BIG : MT_ORDER_LITTLE;
	memcpy(&word, &form, sizeof(word));
	__atomic_compare_exchange_n(
		&l->form, &none, word, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* ---- evidence -------------------------------------------------------------------------------- */

static int64_t operand_at(const uint8_t *at, unsigned int width, unsigned int order)
{
	uint64_t v = width == 4 ? fw_be32(at) : fw_be64(at);

	if (order == MT_ORDER_LITTLE)
		v = width == 4 ? rte_bswap32((uint32_t)v) : rte_bswap64(v);
	return width == 4 ? (int32_t)v : (int64_t)v;
}

/** Whether an address is one that a rule atomic could know. */
static bool is_known(const struct fw_config *c, const struct mt_rank *dst, uint64_t va)
{
	uint64_t inside;
	uint8_t parity;

	for (uint32_t i = 0; i < c->atomics; i++)
		if (fw_rule_matches(&c->atomic[i],
			    fw_rule_offset(c, &c->atomic[i], dst, va, va - dst->base),
			    c->atomic[i].length_min, &inside, &parity))
			return true;
	return false;
}

/** Whether an atomic of this source begins its next round. */
static bool begins(const struct fw_tables *t, const struct fw_source *s, const struct fw_item *it)
{
	return s->label == 0 || fw_source_ends(t->config, s, it);
}

/** Tokens that a flow has carried to the expert of @p it in the round that this is of. */
static uint64_t tokens_of(const struct fw_tables *t, const struct fw_flow *f,
	const struct fw_source *s, const struct fw_item *it)
{
	const struct fw_cell *cell = &fw_epoch_of(t, f)->cell[it->expert];

	if (begins(t, s, it) || f->label != s->label)
		return 0;
	return t->config->by_bytes != 0 ? cell->bytes / t->config->by_bytes : cell->tokens;
}

/**
 * Does a packet fit, read so? @p it: what it is then.
 */
static bool explains(const struct fw_tables *t, struct fw_flow *f, const struct fw_packet *p,
	uint64_t va, int64_t operand, struct fw_item *it)
{
	const struct fw_source *s = &t->sources[fw_cold_of(t, f)->src];

	*it = (struct fw_item){.ns = p->ns};
	switch (fw_read_atomic(t, f, va, (uint64_t)operand, it)) {
	case MT_OUT_COUNT:
		return it->value == tokens_of(t, f, s, it);
	case MT_OUT_COMBINE:
	case MT_OUT_CONTROL:
		return true;
	default:
		return false;
	}
}

/** Try the places of the operand that are left behind one of the address. @return those that tell a
 * count */
static uint32_t refute(const struct fw_tables *t, struct fw_flow *f, const struct fw_packet *p,
	struct fw_learn_class *k, uint32_t a, struct fw_item *count)
{
	uint64_t va = fw_be64(p->ext + 4 * a);
	uint32_t tried = is_known(t->config, fw_rank_of(t, f), va) ? k->alive[a] : 0;
	uint32_t left = tried, told = 0;
	struct fw_item it;

	for (; tried != 0; tried &= tried - 1) {
		uint32_t bit = (uint32_t)__builtin_ctz(tried);
		int64_t operand = operand_at(p->ext + bit / 2 * 4, t->config->learn->width,
			bit % 2 == 0 ? MT_ORDER_BIG : MT_ORDER_LITTLE);

		if (!explains(t, f, p, va, operand, &it)) {
			left &= ~(1u << bit);
		} else if (it.what == FW_COUNT) {
			told |= 1u << bit;
			*count = it;
		}
	}
	__atomic_store_n(&k->alive[a], left, __ATOMIC_RELAXED);
	return told;
}

/**
 * Try all that is left on a packet.
 *
 * @return whether it is a count by the only place that tells counts; *count
 */
static bool is_evidence(const struct fw_tables *t, struct fw_flow *f, const struct fw_packet *p,
	struct fw_learn_class *k, struct fw_item *count)
{
	uint32_t telling = 0, told = 0;

	for (uint32_t a = 0; a < FW_LEARN_PLACES; a++) {
		uint32_t now = k->alive[a] != 0 ? refute(t, f, p, k, a, count) : 0;

		__atomic_store_n(&k->counts[a], k->counts[a] | now, __ATOMIC_RELAXED);
		told += now != 0;
		telling += (uint32_t)__builtin_popcount(k->alive[a] & k->counts[a]);
	}
	if (telling == 0 && (k->least <= k->most || ++k->idle == FW_LEARN_IDLE))
		begin(t->config->learn, k);
	return telling == 1 && told != 0;
}

/** A packet whose turn it is, behind no hole. */
static void learn(const struct fw_tables *t, struct fw_flow *f, const struct fw_packet *p)
{
	uint32_t src = fw_cold_of(t, f)->src, label;
	const struct fw_source *s = &t->sources[src];
	struct fw_learn_class *k = class_of(t->config->learn, t->learn, p);
	struct fw_item count = {0};

	if (k == NULL || s->carry != 0 || s->parted ||
		(s->label != 0 && (s->phase[s->label & (FW_EPOCHS - 1)].gaps != 0 ||
					  s->phase[s->label & (FW_EPOCHS - 1)].parted)))
		return;
	if (!is_evidence(t, f, p, k, &count))
		return;
	__atomic_store_n(&k->least, RTE_MIN(k->least, count.value), __ATOMIC_RELAXED);
	__atomic_store_n(&k->most, RTE_MAX(k->most, count.value), __ATOMIC_RELAXED);
	label = s->label + begins(t, s, &count);
	if (k->label[src] == label || k->rounds[src] == UINT8_MAX)
		return;
	k->label[src] = label;
	__atomic_store_n(&k->rounds[src], k->rounds[src] + 1, __ATOMIC_RELEASE);
	if (k->rounds[src] >= FW_LEARN_ROUNDS)
		try_believe(t->config->learn, k->key);
}

/* ---- packets --------------------------------------------------------------------------------- */

bool fw_odd_known(const struct fw_config *c, const struct fw_packet *p)
{
	struct mt_form form;

	if (c->learn == NULL)
		return false;
	form = fw_learn_form(c->learn);
	return form.opcode != 0 && form.opcode == p->opcode && form.length == length_of(p);
}

bool fw_odd_read(
	const struct fw_config *c, const struct fw_packet *p, uint64_t *va, uint64_t *operand)
{
	struct mt_form form = fw_learn_form(c->learn);

	if (p->have < RTE_MAX(form.address + 8u, (uint32_t)form.operand + form.width))
		return false;
	*va = fw_be64(p->ext + form.address);
	*operand = (uint64_t)operand_at(p->ext + form.operand, form.width, form.order);
	return true;
}

static unsigned int classify_known(
	const struct fw_tables *t, struct fw_flow *f, const struct fw_packet *p, struct fw_item *it)
{
	uint64_t va, operand;

	f->message = FW_MSG_NONE;
	if (!fw_odd_read(t->config, p, &va, &operand)) {
		it->what = FW_TRUNCATED;
		return MT_OUT_TRUNCATED;
	}
	return fw_read_atomic(t, f, va, operand, it);
}

/** Its counts, if they are some, are not known: in the source's round, or, after a combine, next.
 */
static void mark_source(const struct fw_tables *t, const struct fw_flow *f)
{
	struct fw_source *s = &t->sources[fw_cold_of(t, f)->src];

	if (s->label == 0 || s->combined)
		s->odd = true;
	else
		s->phase[s->label & (FW_EPOCHS - 1)].odd = true;
}

/** Whether a packet stands where the flow goes on, behind those like it that it is told of. */
static bool in_order(const struct fw_tables *t, const struct fw_flow *f, const struct fw_packet *p)
{
	struct fw_cold *cold = fw_cold_of(t, f);
	uint32_t run = fw_odd_run(cold, f);

	if (f->block != 0 || run == FW_ODD_MOST || p->psn != ((f->next + run) & FW_PSN_MASK))
		return false;
	cold->odd = f->next << 8 | (run + 1);
	return true;
}

unsigned int fw_classify_odd(
	const struct fw_tables *t, struct fw_flow *f, const struct fw_packet *p, struct fw_item *it)
{
	bool ours, learning;

	if (fw_odd_known(t->config, p))
		return classify_known(t, f, p, it);
	learning = t->learn != NULL && fw_learn_form(t->config->learn).opcode == 0;
	if (p->kind == FW_KIND_ODD) {
		ours = in_order(t, f, p);
		it->span = 0;
	} else {
		ours = f->block == 0 && p->psn == f->next;
		f->message = FW_MSG_NONE;
	}
	if (learning)
		mark_source(t, f);
	if (learning && ours)
		learn(t, f, p);
	it->what = FW_NOTHING;
	return MT_OUT_FORM;
}
