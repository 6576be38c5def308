/* SPDX-License-Identifier: BSD-3-Clause */
/* What dpdk-telemetry.py shows: the page's own words, read from another thread. */
#include <stdio.h>
#include <stdlib.h>

#include <rte_telemetry.h>
#include <rte_version.h>

#include "control.h"

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

void fw_telemetry_init(struct fw_control *c)
{
	control = c;
	rte_telemetry_register_cmd("/moetap/stats", show_stats, "Packets by outcome, and totals.");
	rte_telemetry_register_cmd("/moetap/rounds", show_rounds, "Rounds published; the newest.");
	rte_telemetry_register_cmd("/moetap/map", show_map, "The map in force.");
	rte_telemetry_register_cmd("/moetap/cores", show_cores, "Packets received, by poll core.");
}
