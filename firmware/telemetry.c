/* SPDX-License-Identifier: BSD-3-Clause */
/* What dpdk-telemetry.py shows: the page's own words, read from another thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_telemetry.h>
#include <rte_version.h>

#include "congestion.h"
#include "control.h"
#include "ports.h"

#define SHOWN 128u /* pairs of ranks: an answer has 16 KiB */

static struct fw_control *control;

static uint64_t load(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

/* spelt otherwise before DPDK 23.03 (its release notes) */
#if RTE_VERSION < RTE_VERSION_NUM(23, 3, 0, 0)
#define rte_tel_data_add_dict_uint rte_tel_data_add_dict_u64
#define rte_tel_data_add_array_uint rte_tel_data_add_array_u64
#define RTE_TEL_UINT_VAL RTE_TEL_U64_VAL
#endif

/** By its name, as far as DPDK lets it be one: '-' is '_'. */
static void add_outcome(struct rte_tel_data *d, unsigned int outcome, uint64_t n)
{
	char name[32];

	snprintf(name, sizeof(name), "%s", mt_outcome_name(outcome));
	for (char *c = name; *c != '\0'; c++)
		*c = *c == '-' ? '_' : *c;
	rte_tel_data_add_dict_uint(d, name, n);
}

static int show_stats(const char *cmd, const char *params, struct rte_tel_data *d)
{
	const struct mt_page_stats *s = &control->page.page->stats;

	(void)cmd, (void)params;
	rte_tel_data_start_dict(d);
	rte_tel_data_add_dict_uint(d, "packets", load(&s->packets));
	rte_tel_data_add_dict_uint(d, "bytes", load(&s->bytes));
	rte_tel_data_add_dict_uint(d, "nic_drops", load(&s->nic_drops));
	rte_tel_data_add_dict_uint(d, "flows", load(&s->flows));
	rte_tel_data_add_dict_uint(d, "rounds", load(&s->rounds));
	rte_tel_data_add_dict_uint(d, "overruns", load(&s->overruns));
	rte_tel_data_add_dict_uint(d, "marked", load(&s->marked));
	for (unsigned int o = 0; o < MT_OUTCOMES; o++)
		add_outcome(d, o, load(&s->outcome[o]));
	return 0;
}

static int show_rounds(const char *cmd, const char *params, struct rte_tel_data *d)
{
	const struct mt_page_state *s = &control->page.page->state;
	uint64_t head = __atomic_load_n(&s->head, __ATOMIC_ACQUIRE);
	const struct mt_round *r;
	char words[160];

	(void)cmd, (void)params;
	rte_tel_data_start_dict(d);
	rte_tel_data_add_dict_uint(d, "published", head);
	rte_tel_data_add_dict_uint(d, "slots", control->page.page->slots);
	if (head == 0)
		return 0;
	r = mt_page_slot(&control->page, head - 1);
	rte_tel_data_add_dict_uint(d, "step", r->step);
	rte_tel_data_add_dict_uint(d, "layer", r->layer);
	rte_tel_data_add_dict_string(d, "pass", mt_pass_name(r->pass));
	rte_tel_data_add_dict_uint(d, "tokens", r->tokens);
	rte_tel_data_add_dict_string(
		d, "quality", mt_quality_names(r->quality, words, sizeof(words)));
	return 0;
}

static int show_map(const char *cmd, const char *params, struct rte_tel_data *d)
{
	const struct mt_page_state *s = &control->page.page->state;
	uint32_t generation = __atomic_load_n(&s->generation, __ATOMIC_ACQUIRE);
	struct mt_bank *b;

	(void)cmd, (void)params;
	/* a copy: a loader may be writing, and this thread is not the one that changes maps */
	if (mt_bank_take(mt_page_bank(&control->page, generation), control->page.page->bank_bytes,
		    &b, NULL) < 0)
		return -1;
	rte_tel_data_start_dict(d);
	rte_tel_data_add_dict_string(d, "job", b->job);
	rte_tel_data_add_dict_uint(d, "generation", generation);
	rte_tel_data_add_dict_uint(d, "refused", __atomic_load_n(&s->refused, __ATOMIC_RELAXED));
	rte_tel_data_add_dict_string(d, "pattern", mt_pattern_name(b->pattern));
	rte_tel_data_add_dict_string(d, "tap", mt_tap_name(b->tap));
	rte_tel_data_add_dict_uint(d, "layers", b->layers);
	rte_tel_data_add_dict_uint(d, "ranks", b->ranks);
	rte_tel_data_add_dict_uint(d, "experts", b->experts);
	rte_tel_data_add_dict_uint(d, "rules", b->rules);
	rte_tel_data_add_dict_uint(d, "snap", b->snap);
	free(b);
	return 0;
}

static int show_cores(const char *cmd, const char *params, struct rte_tel_data *d)
{
	(void)cmd, (void)params;
	rte_tel_data_start_array(d, RTE_TEL_UINT_VAL);
	for (uint32_t i = 0; i < control->plane->cores; i++)
		rte_tel_data_add_array_uint(d, load(&control->plane->core[i]->packets));
	return 0;
}

static int show_atomics(const char *cmd, const char *params, struct rte_tel_data *d)
{
	uint64_t word = load(&control->page.page->state.form);
	struct mt_form f;

	(void)cmd, (void)params;
	memcpy(&f, &word, sizeof(f));
	rte_tel_data_start_dict(d);
	rte_tel_data_add_dict_string(d, "form",
		f.opcode == 0 ? "standard"
		: f.learnt    ? "learnt"
			      : "stated");
	rte_tel_data_add_dict_uint(
		d, "unknown", load(&control->page.page->stats.outcome[MT_OUT_FORM]));
	if (f.opcode == 0)
		return 0;
	rte_tel_data_add_dict_uint(d, "opcode", f.opcode);
	rte_tel_data_add_dict_uint(d, "length", f.length);
	rte_tel_data_add_dict_uint(d, "address", f.address);
	rte_tel_data_add_dict_uint(d, "operand", f.operand);
	rte_tel_data_add_dict_uint(d, "width", f.width);
	rte_tel_data_add_dict_string(d, "order", mt_order_name(f.order));
	return 0;
}

struct pair {
	uint32_t src, dst;
	struct fw_congestion seen;
};

/** What all cores saw of a pair of ranks, by its place in their tables. */
static struct fw_congestion congestion_of(uint64_t at)
{
	struct fw_congestion sum = {0};

	for (uint32_t i = 0; i < control->plane->cores; i++) {
		const struct fw_core *core = control->plane->core[i];

		if (load(&core->marked) + load(&core->outcome[MT_OUT_CNP]) == 0)
			continue;
		sum.marked += load(&core->tables->congestion[at].marked);
		sum.notified += load(&core->tables->congestion[at].notified);
	}
	return sum;
}

/** Keep @p new among the pairs with most, those first. @return their number */
static uint32_t keep(struct pair *worst, uint32_t n, const struct pair *new)
{
	uint64_t weight = new->seen.marked + new->seen.notified;
	uint32_t i = n < SHOWN ? n++ : SHOWN;

	for (; i > 0 && worst[i - 1].seen.marked + worst[i - 1].seen.notified < weight; i--)
		if (i < SHOWN)
			worst[i] = worst[i - 1];
	if (i < SHOWN)
		worst[i] = *new;
	return n;
}

/** @return pairs of ranks with congestion, at most SHOWN; -1: no map is in force any more */
static int find_worst(struct pair *worst)
{
	const struct fw_tables *t;
	uint32_t ranks, n = 0;

	rte_spinlock_lock(&control->tables_lock);
	t = control->plane->core[0]->tables;
	ranks = t != NULL ? t->config->bank->ranks : 0;
	for (struct pair p = {0}; p.src < ranks; p.src++)
		for (p.dst = 0; p.dst < ranks; p.dst++) {
			p.seen = congestion_of((uint64_t)p.src * ranks + p.dst);
			if (p.seen.marked + p.seen.notified != 0)
				n = keep(worst, n, &p);
		}
	rte_spinlock_unlock(&control->tables_lock);
	return t != NULL ? (int)n : -1;
}

/** Columns of numbers, by name, to be filled row by row. @return 0, -1: out of memory */
static int start_columns(
	struct rte_tel_data *d, const char *const *names, struct rte_tel_data **column, uint32_t n)
{
	rte_tel_data_start_dict(d);
	for (uint32_t i = 0; i < n; i++) {
		column[i] = rte_tel_data_alloc();
		if (column[i] == NULL)
			return -1;
		rte_tel_data_start_array(column[i], RTE_TEL_UINT_VAL);
		rte_tel_data_add_dict_container(d, names[i], column[i], 0);
	}
	return 0;
}

static int show_congestion(const char *cmd, const char *params, struct rte_tel_data *d)
{
	static const char *const names[] = {"src", "dst", "marked", "notified"};
	struct rte_tel_data *column[RTE_DIM(names)];
	struct pair worst[SHOWN];
	int n = find_worst(worst);

	(void)cmd, (void)params;
	if (n < 0 || start_columns(d, names, column, RTE_DIM(names)) < 0)
		return -1;
	for (int i = 0; i < n; i++) {
		rte_tel_data_add_array_uint(column[0], worst[i].src);
		rte_tel_data_add_array_uint(column[1], worst[i].dst);
		rte_tel_data_add_array_uint(column[2], worst[i].seen.marked);
		rte_tel_data_add_array_uint(column[3], worst[i].seen.notified);
	}
	return 0;
}

/** Flows that met congestion, those with most first. */
struct worst_flows {
	struct fw_congested flow[SHOWN];
	uint32_t n;
	uint64_t flows, others; /**< that met congestion; packets of those that are not kept */
};

/** All cores' packets of a flow that core @p c has; 0: a core before it has it too. */
static uint64_t packets_of(uint32_t c, const struct fw_congested *f)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < control->plane->cores; i++) {
		const struct fw_congested *same = fw_congested_find(
			control->plane->core[i]->tables->congested, f->ips, f->qpn);

		if (same != NULL && i < c)
			return 0;
		n += same != NULL ? load(&same->packets) : 0;
	}
	return n;
}

static void keep_flow(struct worst_flows *w, const struct fw_congested *f, uint64_t packets)
{
	uint32_t i = w->n < SHOWN ? w->n++ : SHOWN;

	for (; i > 0 && w->flow[i - 1].packets < packets; i--)
		if (i < SHOWN)
			w->flow[i] = w->flow[i - 1];
	if (i == SHOWN)
		return;
	w->flow[i] = *f;
	w->flow[i].packets = packets;
}

/** @param src, dst of these ranks only, unless they are UINT32_MAX */
static int find_worst_flows(struct worst_flows *w, uint32_t src, uint32_t dst)
{
	bool there;

	rte_spinlock_lock(&control->tables_lock);
	there = control->plane->core[0]->tables != NULL;
	for (uint32_t c = 0; there && c < control->plane->cores; c++) {
		const struct fw_congested_table *t = control->plane->core[c]->tables->congested;

		w->others += load(&t->others);
		for (uint32_t i = 0; i < FW_CONGESTED; i++) {
			const struct fw_congested *f = &t->flow[i];
			uint64_t packets;

			if (__atomic_load_n(&f->qpn, __ATOMIC_ACQUIRE) == 0 ||
				(src != UINT32_MAX && (f->src != src || f->dst != dst)))
				continue;
			packets = packets_of(c, f);
			w->flows += packets != 0;
			if (packets != 0)
				keep_flow(w, f, packets);
		}
	}
	rte_spinlock_unlock(&control->tables_lock);
	return there ? 0 : -1;
}

/** @p params: nothing, or the ranks of a pair, "SRC,DST" */
static int show_congested_flows(const char *cmd, const char *params, struct rte_tel_data *d)
{
	static const char *const names[] = {"src", "dst", "qpn", "marked", "notified"};
	struct rte_tel_data *column[RTE_DIM(names)];
	uint32_t src = UINT32_MAX, dst = UINT32_MAX;
	struct worst_flows w = {.n = 0};
	char rest;

	(void)cmd;
	if (params != NULL && *params != '\0' &&
		(sscanf(params, "%u,%u%c", &src, &dst, &rest) != 2 || src == UINT32_MAX))
		return -1;
	if (find_worst_flows(&w, src, dst) < 0 ||
		start_columns(d, names, column, RTE_DIM(names)) < 0)
		return -1;
	for (uint32_t i = 0; i < w.n; i++) {
		const struct fw_congested *f = &w.flow[i];
		bool notified = f->qpn & FW_KEY_NOTIFIED;

		rte_tel_data_add_array_uint(column[0], f->src);
		rte_tel_data_add_array_uint(column[1], f->dst);
		rte_tel_data_add_array_uint(column[2], f->qpn & FW_KEY_QPN);
		rte_tel_data_add_array_uint(column[3], notified ? 0 : f->packets);
		rte_tel_data_add_array_uint(column[4], notified ? f->packets : 0);
	}
	rte_tel_data_add_dict_uint(d, "flows", w.flows);
	rte_tel_data_add_dict_uint(d, "others", w.others);
	return 0;
}

/** Pairs of ranks whose queue pairs share UDP source ports. */
static int show_ports(const char *cmd, const char *params, struct rte_tel_data *d)
{
	static const char *const names[] = {"src", "dst", "queue_pairs", "ports"};
	struct rte_tel_data *column[RTE_DIM(names)];
	struct fw_ports shared[SHOWN];
	uint32_t all = 0;
	int n = -1;

	(void)cmd, (void)params;
	rte_spinlock_lock(&control->tables_lock);
	if (control->plane->core[0]->tables != NULL)
		n = fw_ports_shared(
			control->plane->core, control->plane->cores, shared, SHOWN, &all);
	rte_spinlock_unlock(&control->tables_lock);
	if (n < 0 || start_columns(d, names, column, RTE_DIM(names)) < 0)
		return -1;
	for (int i = 0; i < n; i++) {
		rte_tel_data_add_array_uint(column[0], shared[i].src);
		rte_tel_data_add_array_uint(column[1], shared[i].dst);
		rte_tel_data_add_array_uint(column[2], shared[i].queue_pairs);
		rte_tel_data_add_array_uint(column[3], shared[i].ports);
	}
	rte_tel_data_add_dict_uint(d, "pairs", all);
	return 0;
}

void fw_telemetry_init(struct fw_control *c)
{
	control = c;
	rte_telemetry_register_cmd("/moetap/stats", show_stats, "Packets by outcome, and totals.");
	rte_telemetry_register_cmd("/moetap/rounds", show_rounds, "Rounds published; the newest.");
	rte_telemetry_register_cmd("/moetap/map", show_map, "The map in force.");
	rte_telemetry_register_cmd(
		"/moetap/atomics", show_atomics, "Form of the atomics that are read.");
	rte_telemetry_register_cmd("/moetap/cores", show_cores, "Packets received, by poll core.");
	rte_telemetry_register_cmd(
		"/moetap/congestion", show_congestion, "Pairs of ranks that met congestion.");
	rte_telemetry_register_cmd("/moetap/ports", show_ports,
		"Pairs of ranks whose queue pairs share UDP source ports.");
	rte_telemetry_register_cmd("/moetap/congestion/flows", show_congested_flows,
		"Flows that met congestion, of all, or of a pair: SRC,DST.");
}
