/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_cycles.h>

#include "control.h"
#include "learn_atomic.h"
#include "port.h"

#define STATS_PER_S 50u	 /* updates of statistics, heartbeat and port counters */
#define QUIET_POLLS 256u /* empty polls of a core after which a capture is at its end */
#define NAP_NS 20000
#define RENEW_S 1u

volatile bool fw_quit;

static uint64_t wall_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void nap(void)
{
	struct timespec ts = {.tv_nsec = NAP_NS};

	nanosleep(&ts, NULL);
}

/* ---- publishing ------------------------------------------------------------------------------ */

static void pace(const struct fw_control *c)
{
	const struct mt_page *p = c->page.page;
	uint64_t head = p->state.head;

	while (c->paced && !fw_quit &&
		head - __atomic_load_n(&p->ctl.paced_head, __ATOMIC_ACQUIRE) >= p->slots)
		nap();
}

/** Write a round into the ring: seq 0, contents, seq, head; readers check seq around their copy. */
static void publish(void *arg, const struct mt_round *round)
{
	struct fw_control *c = arg;
	struct mt_page_state *s = &c->page.page->state;
	struct mt_round *slot;

	pace(c);
	slot = mt_page_slot(&c->page, s->head);
	__atomic_store_n(&slot->seq, 0, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	memcpy((char *)slot + sizeof(slot->seq), (const char *)round + sizeof(round->seq),
		mt_slot_bytes(round->ranks, round->experts) - sizeof(slot->seq));
	slot->boot_id = s->boot_id;
	slot->published_ns = wall_ns();
	__atomic_store_n(&slot->seq, s->head + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&s->head, s->head + 1, __ATOMIC_RELEASE);
	c->page.page->stats.rounds++;
}

static uint64_t load(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static void store(uint64_t *p, uint64_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static void update_stats(struct fw_control *c)
{
	struct mt_page_stats *s = &c->page.page->stats;
	struct mt_page_stats sum = {0};
	uint64_t drops = fw_ports_drops();

	for (uint32_t i = 0; i < c->plane->cores; i++) {
		const struct fw_core *core = c->plane->core[i];

		for (uint32_t o = 0; o < MT_OUTCOMES; o++)
			sum.outcome[o] += load(&core->outcome[o]);
		sum.packets += load(&core->packets);
		sum.bytes += load(&core->bytes);
		sum.overruns += load(&core->overruns);
		sum.marked += load(&core->marked);
		sum.flows += __atomic_load_n(&core->tables->used, __ATOMIC_RELAXED);
	}
	for (uint32_t o = 0; o < MT_OUTCOMES; o++)
		store(&s->outcome[o], sum.outcome[o]);
	store(&s->bytes, sum.bytes);
	store(&s->overruns, sum.overruns);
	store(&s->marked, sum.marked);
	store(&s->flows, sum.flows);
	store(&s->nic_drops, drops);
	if (c->config->learn != NULL)
		store(&c->page.page->state.form, load(&c->config->learn->form));
	else
		store(&c->page.page->state.form, 0);
	store(&s->packets, sum.packets);
	store(&c->page.page->state.heartbeat_ns, wall_ns());
	fw_rounds_dropped(c->rounds, drops > c->drops ? drops - c->drops : 0);
	c->drops = drops;
}

/* ---- orders to the poll cores ---------------------------------------------------------------- */

/** Tell all poll cores, and take their words until all have obeyed. */
static void order(struct fw_control *c, uint32_t what)
{
	bool all;

	for (uint32_t i = 0; i < c->plane->cores; i++)
		__atomic_store_n(&c->plane->core[i]->order, what, __ATOMIC_RELEASE);
	do {
		all = true;
		for (uint32_t i = 0; i < c->plane->cores; i++)
			all &= __atomic_load_n(&c->plane->core[i]->obeyed, __ATOMIC_ACQUIRE) ==
			       what;
		if (fw_rounds_pump(c->rounds) == 0 && !all)
			nap();
	} while (!all);
}

/** Everything received becomes rounds. Leaves the poll cores waiting. */
static void settle(struct fw_control *c)
{
	order(c, FW_HOLD);
	order(c, FW_FLUSH);
	update_stats(c);
	fw_rounds_close_all(c->rounds, false);
}

/* ---- maps ------------------------------------------------------------------------------------ */

static void free_tables(struct fw_tables **t, uint32_t cores)
{
	for (uint32_t i = 0; i < cores; i++)
		fw_tables_free(t[i]);
}

/** Put @p t in place; @p t gets those that were. */
static void swap_tables(struct fw_control *c, struct fw_tables **t)
{
	rte_spinlock_lock(&c->tables_lock);
	for (uint32_t i = 0; i < c->plane->cores; i++) {
		struct fw_tables *old = c->plane->core[i]->tables;

		c->plane->core[i]->tables = t[i];
		t[i] = old;
	}
	rte_spinlock_unlock(&c->tables_lock);
}

/** What takes time is done before the poll cores are held and after they go on. */
int fw_control_use(
	struct fw_control *c, const struct mt_bank *bank, uint32_t generation, struct mt_error *err)
{
	struct fw_plane *plane = c->plane;
	struct fw_config *config = fw_config_new(bank, generation), *old_config = c->config;
	struct fw_tables *t[FW_MAX_CORES] = {NULL};
	struct fw_rounds *rounds = NULL, *old_rounds = c->rounds;
	bool good = config != NULL;

	if (good && config->learn != NULL && old_config != NULL &&
		old_config->generation == generation)
		config->learn->form = load(&old_config->learn->form);
	for (uint32_t i = 0; good && i < plane->cores; i++) {
		t[i] = fw_tables_new(config, c->max_flows);
		good = t[i] != NULL;
	}
	if (good && old_rounds != NULL)
		settle(c);
	if (good) {
		swap_tables(c, t);
		rounds = fw_rounds_new(plane, publish, c);
		if (rounds == NULL)
			swap_tables(c, t);
	}
	if (rounds != NULL) {
		if (old_rounds != NULL && old_config->generation == generation)
			fw_rounds_follow(rounds, old_rounds);
		if (!c->silent)
			fw_rounds_join(rounds);
		c->config = config;
		c->rounds = rounds;
		plane->fast = 0;
		for (uint32_t i = 0; i < plane->cores; i++)
			rte_ring_reset(plane->core[i]->back); /* banks of the old tables */
	}
	if (good && old_rounds != NULL)
		order(c, FW_RUN);
	if (rounds != NULL && old_rounds != NULL)
		fw_rounds_free(old_rounds, t);
	free_tables(t, plane->cores);
	fw_config_free(rounds != NULL ? old_config : config);
	if (rounds != NULL)
		return 0;
	return mt_fail(err, -ENOMEM,
		"no memory for %u flows a core with %u experts each: start "
		"moetap-fw with a smaller --flows",
		c->max_flows, bank->experts);
}

void fw_control_free(struct fw_control *c)
{
	struct fw_tables *t[FW_MAX_CORES] = {NULL};

	swap_tables(c, t);
	fw_rounds_free(c->rounds, t);
	free_tables(t, c->plane->cores);
	fw_config_free(c->config);
}

/** A copy of the bank that was asked for, checked, or NULL. */
static struct mt_bank *take_bank(const struct fw_control *c, uint32_t want, struct mt_error *err)
{
	const struct mt_page *p = c->page.page;
	struct mt_bank *bank;

	if (mt_bank_take(mt_page_bank(&c->page, want), p->bank_bytes, &bank, err) < 0)
		return NULL;
	if (mt_slot_bytes(bank->ranks, bank->experts) <= p->slot_bytes)
		return bank;
	mt_fail(err, -E2BIG, "the map needs larger rounds than the page has room for");
	free(bank);
	return NULL;
}

/** Take the map that a loader left on the page, between two packets. */
static void follow_map(struct fw_control *c)
{
	struct mt_page_state *s = &c->page.page->state;
	uint32_t want = __atomic_load_n(&c->page.page->ctl.want, __ATOMIC_ACQUIRE);
	struct mt_error err = {.text = ""};
	struct mt_bank *bank;
	int ret = -EINVAL;

	if (want == s->generation || want == s->refused)
		return;
	bank = take_bank(c, want, &err);
	if (bank != NULL) {
		ret = fw_control_use(c, bank, want, &err);
		free(bank);
	}
	if (ret < 0) {
		fprintf(stderr, "moetap-fw: map %u refused: %s\n", want, err.text);
		__atomic_store_n(&s->refused, want, __ATOMIC_RELEASE);
		return;
	}
	s->bank = want & 1;
	__atomic_store_n(&s->generation, want, __ATOMIC_RELEASE);
}

/**
 * A job that restarts brings new queue pairs; those of its earlier lives stay in the tables until
 * these are full. Then begin with empty ones, at most every RENEW_S seconds.
 */
static void follow_room(struct fw_control *c)
{
	uint64_t n = 0, now = rte_rdtsc();
	struct mt_error err;

	for (uint32_t i = 0; i < c->plane->cores; i++)
		n += load(&c->plane->core[i]->outcome[MT_OUT_NO_ROOM]);
	if (n == c->no_room || now - c->renewed_tsc < RENEW_S * rte_get_tsc_hz())
		return;
	if (fw_control_use(c, c->config->bank, c->config->generation, &err) < 0)
		fprintf(stderr, "moetap-fw: the flow table stays full: %s\n", err.text);
	c->no_room = n;
	c->renewed_tsc = rte_rdtsc();
}

/* ---- the loop -------------------------------------------------------------------------------- */

/** Whether the ports bring nothing more: every core saw many empty polls, one after the other. */
static bool at_end(const struct fw_control *c)
{
	for (uint32_t i = 0; i < c->plane->cores; i++)
		if (load(&c->plane->core[i]->idle) < QUIET_POLLS)
			return false;
	return true;
}

/** Messages of the job so far; *any: RoCE packets, also those that the map cannot read. */
static uint64_t activity(const struct fw_control *c, uint64_t *any)
{
	uint64_t n = 0;

	*any = 0;
	for (uint32_t i = 0; i < c->plane->cores; i++) {
		const struct fw_core *core = c->plane->core[i];

		n += load(&core->outcome[MT_OUT_DISPATCH]) + load(&core->outcome[MT_OUT_COMBINE]) +
		     load(&core->outcome[MT_OUT_COUNT]);
		*any += load(&core->packets) - load(&core->outcome[MT_OUT_NOT_ROCE]);
	}
	return n;
}

/** Close what is open when the job has been silent for the map's idle gap. */
static void follow_silence(struct fw_control *c)
{
	uint64_t now = rte_rdtsc(), any, n = activity(c, &any);
	double gap = (double)c->config->idle_gap_ns / c->plane->ns_per_tsc;

	if (c->once)
		return; /* how fast a capture is read says nothing of the job */
	if (any != c->any) {
		c->any = any;
		c->any_tsc = now;
	}
	c->silent = any == 0 || (double)(now - c->any_tsc) > gap;
	if (n != c->active) {
		c->active = n;
		c->active_tsc = now;
	} else if ((double)(now - c->active_tsc) > gap) {
		fw_rounds_close_all(c->rounds, true);
		c->active_tsc = now;
	}
}

static void wait_attached(const struct fw_control *c)
{
	while (c->paced && !fw_quit &&
		__atomic_load_n(&c->page.page->ctl.attached, __ATOMIC_ACQUIRE) == 0)
		nap();
}

static void wait_read(const struct fw_control *c)
{
	const struct mt_page *p = c->page.page;

	while (c->paced && !fw_quit &&
		__atomic_load_n(&p->ctl.paced_head, __ATOMIC_ACQUIRE) < p->state.head)
		nap();
}

void fw_control_run(struct fw_control *c)
{
	uint64_t now, next = 0;
	struct mt_page_state *s = &c->page.page->state;

	__atomic_store_n(&s->state, MT_STATE_RUNNING, __ATOMIC_RELEASE);
	wait_attached(c);
	order(c, FW_RUN);
	while (!fw_quit && !(c->once && at_end(c))) {
		if (fw_rounds_pump(c->rounds) == 0)
			nap();
		now = rte_rdtsc();
		if (now < next)
			continue;
		next = now + rte_get_tsc_hz() / STATS_PER_S;
		update_stats(c);
		follow_silence(c);
		follow_map(c);
		follow_room(c);
	}
	settle(c);
	wait_read(c);
	order(c, FW_EXIT);
}
