/* SPDX-License-Identifier: BSD-3-Clause */
/* The slow way of a packet: new flows, holes, epochs. Nothing here allocates memory or logs. */
#include <stdlib.h>
#include <sys/mman.h>

#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_pause.h>
#include <rte_ring_elem.h>

#include "congestion.h"
#include "count.h"
#include "map.h"
#include "tcp.h"

/* ---- memory -------------------------------------------------------------------------------- */

void *fw_reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, bytes, MADV_HUGEPAGE); /* flows lie scattered; small pages miss the TLB */
	return p;
}

void fw_release(void *p, size_t bytes)
{
	if (p != NULL)
		munmap(p, bytes);
}

static size_t banks_bytes(const struct fw_tables *t)
{
	return (size_t)t->banks_max * t->bank_bytes;
}

static size_t congestion_bytes(const struct fw_tables *t)
{
	return (size_t)t->config->bank->ranks * t->config->bank->ranks * sizeof(*t->congestion);
}

struct fw_tables *fw_tables_new(const struct fw_config *config, uint32_t max)
{
	struct fw_tables *t = calloc(1, sizeof(*t));

	if (t == NULL)
		return NULL;
	t->config = config;
	t->max = max;
	t->mask = rte_align32pow2(max * FW_SPARSE) - 1;
	t->experts = RTE_MAX(config->max_experts, 1u);
	t->bank_bytes = (uint32_t)RTE_ALIGN_CEIL(
		sizeof(struct fw_epoch) + t->experts * sizeof(struct fw_cell), 64);
	t->banks_max = max * FW_EPOCHS + FW_DUMP_BANK + 1;
	t->banks_touched = FW_DUMP_BANK + 1;
	t->flows = fw_reserve((t->mask + 1ul) * sizeof(*t->flows));
	t->by_index = fw_reserve(max * sizeof(*t->by_index));
	t->ports = fw_reserve(max * sizeof(*t->ports));
	t->cold = fw_reserve((t->mask + 1ul) * sizeof(*t->cold));
	t->banks = fw_reserve(banks_bytes(t));
	t->free_banks = fw_reserve(t->banks_max * sizeof(*t->free_banks));
	t->sources = fw_reserve(config->bank->ranks * sizeof(*t->sources));
	t->witness = fw_reserve(fw_witness_room(config));
	t->congestion = fw_reserve(congestion_bytes(t));
	t->congested = fw_reserve(sizeof(*t->congested));
	t->blocks = fw_reserve(FW_BLOCKS * sizeof(*t->blocks));
	if (config->values) {
		t->kept_bytes = RTE_MAX(t->experts * 8, FW_KEPT_LEAST);
		t->kept_max = (uint32_t)RTE_MIN(
			FW_KEPT_BYTES / t->kept_bytes, (unsigned long)FW_BLOCKS * FW_BLOCK);
	}
	t->kept = fw_reserve((size_t)t->kept_max * t->kept_bytes + 1);
	t->kept_free = fw_reserve(t->kept_max * sizeof(*t->kept_free) + 1);
	if (t->flows == NULL || t->by_index == NULL || t->ports == NULL || t->cold == NULL ||
		t->banks == NULL || t->free_banks == NULL || t->sources == NULL ||
		t->witness == NULL || t->congestion == NULL || t->congested == NULL ||
		t->blocks == NULL || t->kept == NULL || t->kept_free == NULL ||
		fw_learn_join(config->learn, t) < 0 || !fw_tcp_reserve(t)) {
		fw_tables_free(t);
		return NULL;
	}
	return t;
}

void fw_tables_free(struct fw_tables *t)
{
	if (t == NULL)
		return;
	fw_tcp_release(t);
	fw_release(t->flows, (t->mask + 1ul) * sizeof(*t->flows));
	fw_release(t->by_index, t->max * sizeof(*t->by_index));
	fw_release(t->ports, t->max * sizeof(*t->ports));
	fw_release(t->cold, (t->mask + 1ul) * sizeof(*t->cold));
	fw_release(t->banks, banks_bytes(t));
	fw_release(t->free_banks, t->banks_max * sizeof(*t->free_banks));
	fw_release(t->sources, t->config->bank->ranks * sizeof(*t->sources));
	fw_release(t->witness, fw_witness_room(t->config));
	fw_release(t->congestion, congestion_bytes(t));
	fw_release(t->congested, sizeof(*t->congested));
	fw_release(t->blocks, FW_BLOCKS * sizeof(*t->blocks));
	fw_release(t->kept, (size_t)t->kept_max * t->kept_bytes + 1);
	fw_release(t->kept_free, t->kept_max * sizeof(*t->kept_free) + 1);
	free(t);
}

struct fw_cell fw_cell_now(const struct fw_flow *f, const struct fw_epoch *e, uint32_t expert)
{
	struct fw_cell c;
	uint32_t next, hits;

	if (__atomic_load_n(&f->label, __ATOMIC_ACQUIRE) != e->label)
		return e->cell[expert]; /* nobody writes to it any more */
	do {
		next = __atomic_load_n(&f->next, __ATOMIC_RELAXED);
		hits = __atomic_load_n(&f->hits, __ATOMIC_ACQUIRE);
		c = e->cell[expert];
		if (hits != 0 && f->expert == expert && f->label == e->label) {
			c.bytes += (uint64_t)hits * f->window_length;
			c.tokens += hits * f->window_tokens;
			c.messages += hits;
		}
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
	} while (hits >= FW_ADDING || hits != __atomic_load_n(&f->hits, __ATOMIC_RELAXED) ||
		 next != __atomic_load_n(&f->next, __ATOMIC_RELAXED));
	return c;
}

/* ---- blocks of waiting packets --------------------------------------------------------------- */

/** A block for @p f, or NULL when all are in use. */
static struct fw_block *block_take(struct fw_core *core, struct fw_flow *f)
{
	struct fw_tables *t = core->tables;
	struct fw_block *b;

	if (t->free_block != 0) {
		b = &t->blocks[t->free_block - 1];
		t->free_block = b->next_free;
	} else if (t->blocks_touched < FW_BLOCKS) {
		b = &t->blocks[t->blocks_touched++];
	} else {
		return NULL;
	}
	b->flow = f;
	b->count = 0;
	b->opened_tsc = core->tsc;
	f->block = (uint16_t)(b - t->blocks + 1);
	t->has_blocks = true;
	return b;
}

static void block_give_back(struct fw_tables *t, struct fw_flow *f, struct fw_block *b)
{
	b->flow = NULL;
	b->next_free = t->free_block;
	t->free_block = (uint32_t)(b - t->blocks) + 1;
	f->block = 0;
}

/** Where @p psn belongs in the block; *known: it is there already. */
static uint32_t block_place(const struct fw_block *b, uint32_t psn, bool *known)
{
	uint32_t at = b->count;

	/* packets come nearly in order: look from the end */
	while (at > 0 && fw_psn_ahead(b->item[at - 1].psn, psn) > 0)
		at--;
	*known = at > 0 && b->item[at - 1].psn == psn;
	return at;
}

static void block_insert(struct fw_block *b, uint32_t at, const struct fw_item *it)
{
	memmove(&b->item[at + 1], &b->item[at], (b->count - at) * sizeof(*it));
	b->item[at] = *it;
	b->count++;
}

void fw_gap_in_phases(struct fw_source *s, uint32_t from, uint32_t to, uint32_t missing)
{
	if (to - s->label == 1)
		s->carry += missing;
	to = to - s->label == 1 ? s->label : to;
	from = s->label - from < FW_EPOCHS ? from : to;
	for (uint32_t l = RTE_MAX(from, 1u); l <= to; l++) {
		s->phase[l & (FW_EPOCHS - 1)].gaps += missing;
		s->phase[l & (FW_EPOCHS - 1)].jumped |= missing == 0;
	}
}

/** Packets that did not come in their order stretch their epoch's times both ways. */
static void stretch_times(const struct fw_tables *t, struct fw_flow *f, const struct fw_item *it)
{
	struct fw_epoch *e = fw_epoch_of(t, f);

	if ((it->what == FW_DISPATCH || it->what == FW_COUNT) && it->ns < e->first_ns)
		e->first_ns = it->ns;
}

/** The packets of a message whose payload counts go to its expert, not to that of the last one. */
static void go_on_with(const struct fw_tables *t, struct fw_flow *f, const struct fw_item *it)
{
	f->message = it->message;
	if (it->message == FW_MSG_VALUES)
		f->window = (uint64_t)it->values.rule << 32 | it->values.next;
	if (it->message != FW_MSG_ADDS)
		return;
	if (f->hits != 0)
		fw_add_hits(t, f);
	f->expert = it->expert;
	f->window_bytes = 0;
}

/** Whether the message that is open in a flow is one of the witness. */
static bool is_of_witness(const struct fw_tables *t, const struct fw_flow *f)
{
	if (!t->config->witness)
		return false;
	return f->message == FW_MSG_ADDS ||
	       (f->message == FW_MSG_VALUES && t->config->write[f->window >> 32].witness);
}

/**
 * A packet of a message whose first packet was not seen when it came: now it is known whether its
 * payload counts. If its source went on since then, its epoch is not to be had any more: a gap.
 */
static void apply_unknown(struct fw_core *core, struct fw_flow *f, const struct fw_item *it)
{
	const struct fw_tables *t = core->tables;
	struct fw_source *s = &t->sources[fw_cold_of(t, f)->src];

	if (is_of_witness(t, f)) {
		fw_witness_miss(t, f, it->value, s->label);
	} else if (f->message == FW_MSG_VALUES) {
		if (t->config->by_source)
			fw_gap_in_phases(s, it->value, s->label, 1);
		else if (f->label != 0)
			fw_epoch_of(t, f)->gaps++;
		else
			fw_cold_of(t, f)->early++;
	} else if (f->message == FW_MSG_ADDS && f->label != 0) {
		if (!t->config->by_source || (f->label == it->value && s->label == it->value))
			fw_epoch_of(t, f)->cell[f->expert].bytes += it->bytes;
		else
			fw_gap_in_phases(s, it->value, s->label, 1);
	}
	if (f->message == FW_MSG_VALUES)
		f->window += it->bytes;
	if (it->message != FW_MSG_UNKNOWN)
		f->message = it->message;
}

/** It is the turn of a packet that waited. */
static void apply_waiting(struct fw_core *core, struct fw_flow *f, const struct fw_item *it)
{
	uint64_t last_ns = f->last_ns;
	uint32_t label = f->label;

	if (it->unknown)
		apply_unknown(core, f, it);
	else
		go_on_with(core->tables, f, it);
	fw_apply(core, f, it);
	if (it->what == FW_VALUES)
		fw_values_drop(core->tables, it);
	stretch_times(core->tables, f, it);
	if (f->label == label && last_ns > f->last_ns)
		f->last_ns = last_ns;
	f->next = (f->next + it->span) & FW_PSN_MASK;
	if (core->tables->config->source_labels)
		fw_cold_of(core->tables, f)->passed = it->value;
}

/** Apply the packets whose turn it is. */
static void block_drain(struct fw_core *core, struct fw_flow *f, struct fw_block *b)
{
	uint32_t n = 0;

	for (; n < b->count && fw_psn_ahead(b->item[n].psn, f->next) <= 0; n++)
		if (b->item[n].psn == f->next) /* else inside the span of a message */
			apply_waiting(core, f, &b->item[n]);
	b->count -= n;
	memmove(&b->item[0], &b->item[n], b->count * sizeof(b->item[0]));
	b->opened_tsc = core->tsc;
	if (b->count == 0)
		block_give_back(core->tables, f, b);
}

/**
 * The PSNs up to @p psn will not come: count them as missing. @p label: of the source, when the
 * packet after them came; @p counted: that was a dispatch, so no later phase is concerned.
 */
static void skip_to(
	struct fw_core *core, struct fw_flow *f, uint32_t psn, uint32_t label, bool counted)
{
	uint32_t missing = (uint32_t)fw_psn_ahead(psn, f->next);
	const struct fw_tables *t = core->tables;
	struct fw_cold *cold = fw_cold_of(t, f);

	if (t->config->by_source && label != 0)
		/* by parity, an even number of rounds may be missing before what seems to go on */
		fw_gap_in_phases(&t->sources[fw_cold_of(t, f)->src], cold->passed,
			label + (!counted || t->config->split == FW_SPLIT_PARITY), missing);
	else if (f->label != 0)
		fw_epoch_of(t, f)->gaps += missing;
	else
		cold->early = (uint16_t)RTE_MIN(cold->early + missing, (uint32_t)UINT16_MAX);
	fw_witness_miss(t, f, cold->passed, label + 1);
	cold->gap_psn = (psn - 1) & FW_PSN_MASK;
	f->next = psn;
}

static void flow_start(struct fw_core *core, struct fw_flow *f, struct fw_block *b)
{
	f->flags &= (uint8_t)~FW_FLOW_STARTING;
	f->next = b->item[0].psn;
	fw_cold_of(core->tables, f)->gap_psn = (f->next - 1) & FW_PSN_MASK;
	block_drain(core, f, b);
}

static void give_up_first(struct fw_core *core, struct fw_flow *f, struct fw_block *b)
{
	if (f->flags & FW_FLOW_STARTING) {
		flow_start(core, f, b);
		return;
	}
	skip_to(core, f, b->item[0].psn, b->item[0].value, b->item[0].counted);
	block_drain(core, f, b);
}

static void give_up_flow(struct fw_core *core, struct fw_flow *f)
{
	while (f->block != 0)
		give_up_first(core, f, &core->tables->blocks[f->block - 1]);
}

void fw_start_all(struct fw_core *core)
{
	struct fw_tables *t = core->tables;

	t->started = true;
	for (uint32_t i = 0; i < t->blocks_touched; i++) {
		struct fw_block *b = &t->blocks[i];

		if (b->flow != NULL && (b->flow->flags & FW_FLOW_STARTING))
			flow_start(core, b->flow, b);
	}
}

void fw_give_up(struct fw_core *core, bool all)
{
	struct fw_tables *t = core->tables;
	uint64_t now = rte_rdtsc();

	if (t->config->tcp)
		fw_tcp_give_up(core, all);
	if (!t->has_blocks)
		return;
	t->has_blocks = false;
	core->tsc = now;
	for (uint32_t i = 0; i < t->blocks_touched; i++) {
		struct fw_block *b = &t->blocks[i];

		if (b->flow != NULL && (all || now - b->opened_tsc > core->hold_tsc))
			give_up_flow(core, b->flow);
		t->has_blocks |= b->flow != NULL;
	}
}

/* ---- flows --------------------------------------------------------------------------------- */

static int by_flow(const void *x, const void *y)
{
	return mt_flow_order(x, y);
}

const struct mt_flow *fw_mapped(const struct mt_bank *b, const struct mt_flow *want)
{
	return bsearch(want, mt_bank_flows(b), b->flows, sizeof(*want), by_flow);
}

/** Index at the destination of the expert that the map gives to a queue pair. */
static uint16_t mapped_expert(const struct mt_bank *b, const struct mt_flow *want)
{
	const struct mt_flow *f = fw_mapped(b, want);

	if (f == NULL || f->expert == MT_NO_EXPERT)
		return FW_NO_EXPERT;
	return (uint16_t)(f->expert - mt_bank_ranks(b)[want->dst].first_expert);
}

/** What of a flow is not in its key. */
static void fill_flow(struct fw_core *core, struct fw_flow *f, const struct mt_flow *want)
{
	struct fw_tables *t = core->tables;

	f->epoch = t->config->by_source ? FW_DUMP_BANK : FW_ZERO_BANK;
	f->parity = FW_NO_EPOCH;
	*fw_cold_of(t, f) = (struct fw_cold){.gap_psn = (f->next - 1) & FW_PSN_MASK,
		.src = (uint16_t)want->src,
		.dst = (uint16_t)want->dst,
		.expert = mapped_expert(t->config->bank, want),
		.index = t->used,
		.passed = t->config->witness ? t->sources[want->src].label : 0,
		.born = t->config->witness ? 0 : t->sources[want->src].label};
	if (!t->config->by_source && !t->started && block_take(core, f) != NULL)
		f->flags = FW_FLOW_STARTING;
}

struct fw_flow *fw_flow_new(struct fw_core *core, const struct fw_packet *p)
{
	struct fw_tables *t = core->tables;
	uint32_t src = fw_key_src(t->config, p->ips, p->qpn);
	uint32_t dst = fw_key_dst(t->config, p->ips, p->qpn), i = p->hash & t->mask;
	struct mt_flow want = {.src = src - 1, .dst = dst - 1, .qpn = p->qpn & FW_KEY_QPN};

	if (src == 0 || dst == 0 || (src == dst && t->config->shares == NULL)) {
		core->outcome[MT_OUT_UNKNOWN_RANK]++;
		return NULL;
	}
	if (t->config->shares != NULL && !fw_place(core, p, &want))
		return NULL;
	if (t->used == t->max) {
		core->outcome[MT_OUT_NO_ROOM]++;
		return NULL;
	}
	while (t->flows[i].qpn != 0)
		i = (i + 1) & t->mask;
	t->flows[i] = (struct fw_flow){.ips = p->ips, .qpn = p->qpn, .next = p->psn};
	fill_flow(core, &t->flows[i], &want);
	t->by_index[t->used] = &t->flows[i];
	t->ports[t->used] = p->ext != NULL ? fw_source_port(p) : 0;
	__atomic_store_n(&t->used, t->used + 1, __ATOMIC_RELEASE);
	return &t->flows[i];
}

/* ---- rules ----------------------------------------------------------------------------------- */

static void narrow(
	uint64_t inside, uint64_t stride, uint32_t count, uint64_t *before, uint64_t *after)
{
	if (count == 0)
		return;
	*before = RTE_MIN(*before, inside % stride);
	*after = RTE_MIN(*after, stride - inside % stride);
}

void fw_window_set(struct fw_flow *f, const struct fw_rule *r, uint64_t va, uint64_t inside,
	const struct fw_item *it)
{
	uint64_t before = inside, after = r->size - inside;

	f->window_bytes = 0;
	if (!r->has_window || it->fraction || it->value > UINT16_MAX)
		return;
	narrow(inside, r->expert_stride, r->expert_count, &before, &after);
	narrow(inside, r->source_stride, r->source_count, &before, &after);
	if (before + after > UINT32_MAX)
		return;
	f->window = va - before;
	f->window_bytes = (uint32_t)(before + after);
	f->window_length = it->bytes;
	f->window_tokens = (uint16_t)it->value;
	f->window_parity = it->parity;
}

/* ---- epochs -------------------------------------------------------------------------------- */

/** Take the banks that the control core gave back. */
static void take_back(struct fw_core *core)
{
	struct fw_tables *t = core->tables;

	t->free_count += rte_ring_sc_dequeue_burst_elem(
		core->back, &t->free_banks[t->free_count], sizeof(uint32_t), FW_BURST, NULL);
}

/**
 * Whether an epoch of that label may be opened: the control core is less than FW_EPOCHS behind and
 * has room for a word or two, and there is a bank.
 */
static bool may_open(struct fw_core *core, const uint32_t *read_to, uint32_t label)
{
	const struct fw_tables *t = core->tables;
	uint32_t read = __atomic_load_n(read_to, __ATOMIC_ACQUIRE);

	if (t->free_count == 0)
		take_back(core);
	return label - read < FW_EPOCHS && rte_ring_free_count(core->events) >= 2 &&
	       (t->free_count != 0 || t->banks_touched < t->banks_max);
}

/** Wait until an epoch may be opened; false: that does not come to pass. */
static bool wait_open(struct fw_core *core, const uint32_t *read_to, uint32_t label)
{
	uint64_t begun;

	if (likely(may_open(core, read_to, label))) {
		core->stuck = false;
		return true;
	}
	begun = rte_rdtsc();
	while (!core->stuck && rte_rdtsc() - begun < core->wait_tsc) {
		rte_pause();
		if (may_open(core, read_to, label))
			return true;
	}
	core->stuck = true;
	core->overruns++;
	return false;
}

static void tell(struct fw_core *core, uint32_t index, uint32_t label, uint32_t bank)
{
	struct fw_event e = {.tsc = core->tsc, .index = index, .label = label, .bank = bank};

	rte_ring_sp_enqueue_elem(core->events, &e, sizeof(e)); /* wait_open() saw the room */
}

/** A bank; wait_open() saw that there is one. */
static uint32_t take_bank(struct fw_tables *t)
{
	if (t->free_count != 0)
		return t->free_banks[--t->free_count];
	return t->banks_touched++;
}

/** The flags of a flow that has no epoch, and how many flows there are with each. */
static void mark(struct fw_tables *t, struct fw_flow *f, uint8_t flag, bool set)
{
	uint32_t *n = flag == FW_FLOW_CUT     ? &t->cuts
		      : flag == FW_FLOW_STRAY ? &t->strays
					      : &t->unread;

	if (((f->flags & flag) != 0) == set)
		return;
	f->flags ^= flag;
	__atomic_store_n(n, set ? *n + 1 : *n - 1, __ATOMIC_RELAXED);
}

void fw_mark(struct fw_tables *t, struct fw_flow *f, const struct fw_item *it)
{
	if (it->what == FW_TRUNCATED)
		mark(t, f, FW_FLOW_CUT, true);
	if (it->what == FW_CONTRADICT)
		mark(t, f, FW_FLOW_STRAY, true);
	if (it->what == FW_UNMATCHED)
		mark(t, f, FW_FLOW_UNREAD, true);
}

static void unmark(struct fw_tables *t, struct fw_flow *f)
{
	mark(t, f, FW_FLOW_CUT, false);
	mark(t, f, FW_FLOW_STRAY, false);
	mark(t, f, FW_FLOW_UNREAD, false);
}

void fw_epoch_open(
	struct fw_core *core, struct fw_flow *f, const struct fw_item *it, uint32_t label)
{
	struct fw_tables *t = core->tables;
	struct fw_cold *cold = fw_cold_of(t, f);
	struct fw_epoch *e = fw_epoch_of(t, f);

	if (f->hits != 0)
		fw_add_hits(t, f);
	if (!wait_open(core, t->config->by_source ? &t->sources[cold->src].read : &cold->read,
		    label)) {
		e->flags |= f->label != 0 ? FW_EPOCH_OVERRUN : 0;
		f->epoch = f->label != 0 ? f->epoch : FW_DUMP_BANK;
		return;
	}
	if (f->label != 0)
		e->last_ns = f->last_ns;
	f->epoch = take_bank(t);
	e = fw_epoch_of(t, f);
	*e = (struct fw_epoch){.first_ns = it->ns,
		.last_ns = it->ns,
		.label = label,
		.start_psn = it->psn,
		.parity = it->parity,
		.gaps = cold->early,
		.truncated = (f->flags & FW_FLOW_CUT) != 0,
		.contradict = (f->flags & FW_FLOW_DOUBT) != 0,
		.flags = f->flags & FW_FLOW_RESYNC ? FW_EPOCH_RESYNC : 0};
	for (uint32_t i = 0; i < t->experts; i++)
		e->cell[i] = (struct fw_cell){0};
	f->flags &= (uint8_t) ~(FW_FLOW_RESYNC | FW_FLOW_DOUBT);
	unmark(t, f);
	cold->early = 0;
	f->parity = it->parity;
	__atomic_store_n(&f->label, label, __ATOMIC_RELEASE); /* the one before has all its hits */
	core->fast |= label == FW_START_LABEL;
	tell(core, cold->index, label, f->epoch);
}

void fw_flow_step(
	struct fw_core *core, struct fw_flow *f, const struct fw_item *it, uint32_t expert)
{
	struct fw_epoch *e = fw_epoch_of(core->tables, f);
	bool announced = e->cell[expert].counts != 0;

	if (f->label != 0 && !announced &&
		(it->parity == FW_NO_PARITY || f->parity == FW_NO_PARITY)) {
		if (it->parity != FW_NO_PARITY) /* opened by a rule that exposes none */
			f->parity = e->parity = it->parity;
		return;
	}
	fw_epoch_open(core, f, it, f->label + 1);
}

void fw_source_open(
	struct fw_core *core, struct fw_source *s, uint32_t source, const struct fw_item *it)
{
	uint32_t label = s->label + 1, at = label & (FW_EPOCHS - 1);

	if (!wait_open(core, &s->read, label))
		return;
	s->phase[at].first_ns = it->ns;
	s->phase[at].combined_ns = s->combined_ns;
	s->phase[at].parity = it->parity;
	s->phase[at].gaps = s->carry;
	s->phase[at].jumped = false;
	s->phase[at].parted = s->parted;
	s->phase[at].odd = s->odd;
	s->carry = 0;
	s->turns |= s->label != 0 && it->parity != s->parity;
	s->odd = s->parted = false;
	s->label = label;
	s->parity = it->parity;
	s->combined = false;
	tell(core, source, label, FW_NO_BANK);
}

/* ---- the slow way of a packet ---------------------------------------------------------------- */

/** Whether the epoch of a flow is open: where labels are a source's, it may have gone on. */
static bool has_epoch(const struct fw_tables *t, const struct fw_flow *f)
{
	return f->label != 0 &&
	       (!t->config->by_source || f->label == t->sources[fw_cold_of(t, f)->src].label);
}

/**
 * Packets of the phases of a source from @p from to @p to, which may be the one to come, were
 * counted in another one of them, or not at all.
 */
static void doubt_phases(struct fw_source *s, uint32_t from, uint32_t to)
{
	s->parted |= to - s->label == 1;
	from = s->label - from < FW_EPOCHS ? RTE_MAX(from, 1u) : s->label;
	for (uint32_t l = from; l <= RTE_MIN(to, s->label); l++)
		s->phase[l & (FW_EPOCHS - 1)].parted = true;
}

static unsigned int take_old(const struct fw_core *core, struct fw_flow *f, uint32_t psn)
{
	const struct fw_tables *t = core->tables;
	struct fw_cold *cold = fw_cold_of(t, f);
	struct fw_source *s = &t->sources[cold->src];
	/* a PSN that was given up long ago seems to lie ahead after half a turn of the PSNs */
	bool stale =
		fw_psn_ahead(f->next, cold->gap_psn) > 0 && fw_psn_ahead(cold->gap_psn, psn) >= 0;

	if (stale)
		fw_witness_miss(t, f, cold->passed, cold->passed);
	/* before the first one of a new flow, which may have ended the phase that it is of */
	if (stale && t->config->by_source && s->label - cold->born < FW_HOLD_LABELS)
		doubt_phases(s, cold->born, s->label + s->combined);
	if (has_epoch(t, f)) {
		fw_epoch_of(t, f)->stale += stale;
		fw_epoch_of(t, f)->duplicates += !stale;
	} else if (stale && f->label == 0) {
		cold->early += cold->early < UINT16_MAX;
	} else if (stale) {
		fw_gap_in_phases(s, s->label, s->label, 1);
	}
	return stale ? MT_OUT_STALE : MT_OUT_DUPLICATE;
}

/** Another life of the queue pair, or a gap too long to tell. */
static void resync(struct fw_core *core, struct fw_flow *f, uint32_t psn)
{
	const struct fw_tables *t = core->tables;
	struct fw_source *s = &t->sources[fw_cold_of(t, f)->src];
	struct fw_cold *cold = fw_cold_of(t, f);

	give_up_flow(core, f);
	if (t->config->by_source)
		fw_gap_in_phases(s, cold->passed, s->label, 0);
	fw_witness_miss(t, f, cold->passed, s->label);
	f->next = psn;
	cold->gap_psn = (psn - 1) & FW_PSN_MASK;
	f->message = FW_MSG_NONE;
	f->flags |= FW_FLOW_RESYNC;
}

/**
 * Where labels are a source's, packets are counted when they come. What others of its flow did that
 * overtook a packet, and wait, says of which phase it is.
 */
struct overtook {
	uint32_t before;		   /* label of the source when the packet before it came */
	uint32_t lowest;		   /* and when those came that overtook it */
	bool counted;			   /* one of them was counted in the phase that is open */
	bool ended;			   /* one of them ended it */
	bool counted_before, ended_before; /* the same, of a phase that is not open any more */
};

static struct overtook look_behind(
	const struct fw_tables *t, const struct fw_flow *f, const struct fw_block *b, uint32_t at)
{
	const struct fw_cold *cold = fw_cold_of(t, f);
	uint32_t label = t->sources[cold->src].label;
	struct overtook o = {
		.before = at > 0 ? b->item[at - 1].value : cold->passed, .lowest = label};

	for (uint32_t i = at; i < b->count; i++) {
		const struct fw_item *it = &b->item[i];

		o.lowest = RTE_MIN(o.lowest, it->value);
		o.counted |= it->counted && it->value == label;
		o.ended |= it->ended && it->value == label;
		o.counted_before |= it->counted && it->value != label;
		o.ended_before |= it->ended && it->value != label;
	}
	return o;
}

/**
 * A combine that others of its flow overtook. Dispatches among them were counted in the phase that
 * it ends, unless their source had told of its end elsewhere: then it has nothing to say any more.
 */
static void combine_overtaken(
	struct fw_core *core, struct fw_flow *f, const struct fw_item *it, const struct overtook *o)
{
	struct fw_source *s = &core->tables->sources[fw_cold_of(core->tables, f)->src];
	bool elsewhere = o->counted && o->before < s->label;

	if (!fw_combine_ends(core->tables->config, s, it))
		return;
	if (o->lowest == s->label && !elsewhere)
		fw_apply(core, f, it);
	if (o->counted_before || (o->counted && !elsewhere))
		doubt_phases(s, o->lowest, s->label + 1);
}

/** @return whether it was counted: not if its phase is not open any more */
static bool dispatch_overtaken(
	struct fw_core *core, struct fw_flow *f, const struct fw_item *it, const struct overtook *o)
{
	const struct fw_config *c = core->tables->config;
	struct fw_source *s = &core->tables->sources[fw_cold_of(core->tables, f)->src];
	bool turns = c->split == FW_SPLIT_PARITY && it->parity != FW_NO_PARITY &&
		     it->parity != s->parity;
	bool ended = s->combined && s->label != 0 && !turns;

	if (o->lowest < s->label || (o->counted && turns)) {
		doubt_phases(s, RTE_MIN(o->before, o->lowest), s->label);
		return false;
	}
	/* it does not begin a phase that what is behind it is not of */
	s->combined &= !ended;
	fw_apply(core, f, it);
	s->combined |= ended;
	if (ended ? !o->counted && !o->ended : !turns && o->lowest < s->label)
		doubt_phases(s, o->before, s->label + ended);
	return true;
}

/**
 * Where labels are a source's: count a packet that belongs at @p at in the block. Of what others
 * overtook, the phases around are flagged where it is not sure of which one it is.
 */
static void count_at_once(struct fw_core *core, struct fw_flow *f, struct fw_item *it,
	const struct fw_block *b, uint32_t at)
{
	struct fw_source *s = &core->tables->sources[fw_cold_of(core->tables, f)->src];
	struct overtook o = look_behind(core->tables, f, b, at);
	bool dispatch = it->what == FW_DISPATCH || it->what == FW_COUNT || it->what == FW_VALUES;
	bool combined = s->combined;

	if (at != b->count && (dispatch || it->what == FW_BYTES)) {
		dispatch &= dispatch_overtaken(core, f, it, &o);
	} else if (at != b->count && it->what == FW_COMBINE) {
		combine_overtaken(core, f, it, &o);
	} else {
		fw_apply(core, f, it);
		/* a phase ended before all of it was there, perhaps also of other flows */
		if (o.ended_before)
			doubt_phases(s, o.lowest, s->label);
	}
	it->counted = dispatch;
	it->ended = s->combined && !combined;
	it->value = at == b->count ? s->label : o.lowest;
}

/** Whose turn it is: apply it, then those that waited for it. */
static unsigned int take_next(struct fw_core *core, struct fw_flow *f, const struct fw_packet *p)
{
	const struct fw_tables *t = core->tables;
	struct fw_item it;
	struct fw_block *b = f->block != 0 ? &t->blocks[f->block - 1] : NULL;
	unsigned int out = fw_classify(t, f, p, &it);
	bool known;

	if (b != NULL && t->config->by_source)
		count_at_once(core, f, &it, b, block_place(b, p->psn, &known));
	else
		fw_apply(core, f, &it);
	f->next = (it.psn + it.span) & FW_PSN_MASK;
	if (t->config->source_labels)
		fw_cold_of(t, f)->passed = b != NULL && t->config->by_source
						   ? it.value
						   : t->sources[fw_cold_of(t, f)->src].label;
	if (b != NULL)
		block_drain(core, f, b);
	return out;
}

/** Whether a flow waited long enough for the packet that is missing. */
static bool has_waited(const struct fw_tables *t, const struct fw_flow *f, const struct fw_block *b)
{
	if (f->flags & FW_FLOW_STARTING)
		return b->count == FW_START;
	return b->count == FW_BLOCK ||
	       (t->config->by_source &&
		       t->sources[fw_cold_of(t, f)->src].label - b->item[0].value >=
			       FW_HOLD_LABELS);
}

/** Epochs that wait in the block of a flow that is starting: how often this count came. */
static uint32_t epochs_waiting(const struct fw_block *b, const struct fw_item *count)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < b->count; i++)
		n += b->item[i].what == count->what && b->item[i].expert == count->expert;
	return n;
}

/** What a packet means that belongs at @p at in the block: it may go on with the one before it. */
static unsigned int classify_early(const struct fw_core *core, struct fw_flow *f,
	const struct fw_block *b, uint32_t at, const struct fw_packet *p, struct fw_item *it)
{
	const struct fw_item *before = at > 0 ? &b->item[at - 1] : NULL;
	uint64_t window = f->window;
	uint8_t message = f->message;
	unsigned int out;
	bool unknown;

	f->message = FW_MSG_UNKNOWN;
	if (before != NULL && ((before->psn + before->span) & FW_PSN_MASK) == p->psn)
		go_on_with(core->tables, f, before);
	unknown = f->message == FW_MSG_UNKNOWN;
	out = fw_classify(core->tables, f, p, it);
	it->message = f->message;
	it->unknown = unknown && out == MT_OUT_BODY;
	if (it->unknown) {
		it->bytes = p->payload;
		out = message == FW_MSG_NONE ? MT_OUT_ORPHAN : MT_OUT_BODY;
	}
	f->message = message;
	if (message == FW_MSG_VALUES) { /* the message that is open: how far it is */
		f->window = window;
		f->window_bytes = 0;
	}
	return out;
}

/** Not its turn: it waits, sorted. */
static unsigned int take_early(struct fw_core *core, struct fw_flow *f, const struct fw_packet *p)
{
	const struct fw_tables *t = core->tables;
	struct fw_block *b = f->block != 0 ? &t->blocks[f->block - 1] : block_take(core, f);
	struct fw_item it;
	unsigned int out;
	uint32_t at;
	bool known;

	if (b == NULL) {
		skip_to(core, f, p->psn, t->sources[fw_cold_of(t, f)->src].label, false);
		return take_next(core, f, p);
	}
	at = block_place(b, p->psn, &known);
	if (known) {
		if (has_epoch(t, f))
			fw_epoch_of(t, f)->duplicates++;
		return MT_OUT_DUPLICATE;
	}
	out = classify_early(core, f, b, at, p, &it);
	if (t->config->by_source) {
		count_at_once(core, f, &it, b, at);
		it.what = FW_NOTHING;
	} else if (t->config->witness) {
		if (fw_witness_at_once(t, &it)) {
			fw_apply(core, f, &it);
			it.what = FW_NOTHING;
		}
		it.value = t->sources[fw_cold_of(t, f)->src].label;
	}
	if (it.what == FW_VALUES)
		fw_values_keep(core->tables, &it);
	block_insert(b, at, &it);
	if (f->flags & FW_FLOW_STARTING && (it.what == FW_COUNT || it.what == FW_VALUES))
		core->fast |= epochs_waiting(b, &it) == FW_START_LABEL;
	if (has_waited(t, f, b))
		give_up_first(core, f, b);
	return out;
}

/** A packet of an opcode that nobody knows: those that wait may follow it. */
static unsigned int take_odd(struct fw_core *core, struct fw_flow *f, const struct fw_packet *p)
{
	const struct fw_tables *t = core->tables;
	struct fw_block *b = f->block != 0 ? &t->blocks[f->block - 1] : NULL;
	struct fw_cold *cold = fw_cold_of(t, f);
	uint32_t run = fw_odd_run(cold, f);
	struct fw_item it;
	unsigned int out = fw_classify(t, f, p, &it);

	if (b == NULL || f->flags & FW_FLOW_STARTING || run == FW_ODD_MOST ||
		p->psn != ((f->next + run) & FW_PSN_MASK))
		return out;
	cold->odd = f->next << 8 | ++run;
	if (b->item[0].psn == ((f->next + run) & FW_PSN_MASK)) {
		f->next = b->item[0].psn;
		block_drain(core, f, b);
	}
	return out;
}

/** A request behind such packets: they were requests too. @return how far ahead it is then */
static int32_t skip_odd(struct fw_tables *t, struct fw_flow *f, int32_t ahead)
{
	int32_t run = (int32_t)fw_odd_run(fw_cold_of(t, f), f);

	if (run == 0 || ahead < run)
		return ahead;
	f->next = (f->next + (uint32_t)run) & FW_PSN_MASK;
	return ahead - run;
}

unsigned int fw_take_slow(
	struct fw_core *core, struct fw_flow *f, const struct fw_packet *p, int32_t ahead)
{
	if (p->kind == FW_KIND_ODD && !fw_odd_known(core->tables->config, p))
		return take_odd(core, f, p);
	ahead = skip_odd(core->tables, f, ahead);
	if (unlikely(ahead > FW_RESYNC || ahead < -FW_RESYNC)) {
		resync(core, f, p->psn);
		return take_next(core, f, p);
	}
	if (f->flags & FW_FLOW_STARTING)
		return take_early(core, f, p);
	if (ahead < 0)
		return take_old(core, f, p->psn);
	if (ahead == 0)
		return take_next(core, f, p);
	return take_early(core, f, p);
}
