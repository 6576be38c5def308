/* SPDX-License-Identifier: BSD-3-Clause */
#include <sched.h>

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_pause.h>

#include "congestion.h"
#include "count.h"
#include "poll.h"
#include "tcp.h"

#define SWEEP_PER_S 1000u /* looks for holes to give up, while nothing comes */

/** The time of a packet. @p flag: plane->stamp_flag */
static inline uint64_t stamp(
	const struct fw_plane *plane, uint64_t flag, const struct rte_mbuf *m, uint64_t now)
{
	if (m->ol_flags & flag)
		return *RTE_MBUF_DYNFIELD(m, plane->stamp_offset, const uint64_t *) *
		       plane->stamp_ns;
	return now;
}

/** The rest of an IPv6 packet's key. @return MT_OUTCOMES or MT_OUT_UNKNOWN_RANK */
static unsigned int find_v6(const struct fw_config *c, const uint8_t *ips, struct fw_packet *p)
{
	uint32_t src = fw_addr_v6(c, ips), dst = fw_addr_v6(c, ips + 16);

	p->ips = fw_key_v6(src - 1, dst - 1);
	p->qpn ^= FW_KEY_V4 | FW_KEY_V6;
	return src != 0 && dst != 0 ? MT_OUTCOMES : MT_OUT_UNKNOWN_RANK;
}

/** A packet that may be an atomic is one of its flow where the map has use for atomics. */
static unsigned int may_be_atomic(const struct fw_config *c, const struct fw_packet *p)
{
	return c->atomics != 0 ? MT_OUTCOMES : fw_unknown(p->opcode);
}

/** parse() of a frame that is not plain. */
static __rte_noinline unsigned int parse_long(
	struct fw_core *core, const uint8_t *data, uint32_t len, struct fw_packet *p)
{
	struct fw_far far;
	unsigned int out = fw_parse_long(data, len, p, &far);

	if (out == MT_OUT_FORM)
		out = may_be_atomic(core->tables->config, p);
	if (out == MT_OUT_CNP || (out == MT_OUTCOMES && far.marked))
		fw_congested(core, out, p, far.v6);
	if (out != MT_OUTCOMES)
		return out;
	if (p->kind == FW_KIND_RESPONSE)
		return MT_OUT_RESPONSE;
	if (far.v6 != NULL)
		out = find_v6(core->tables->config, far.v6, p);
	p->hash = fw_hash(p->ips, p->qpn);
	return out;
}

/** parse() of a plain frame, @p out by fw_parse_plain(). */
static __rte_noinline unsigned int parse_odd(
	struct fw_core *core, unsigned int out, struct fw_packet *p)
{
	if (out == MT_OUT_CNP)
		fw_congested(core, out, p, NULL);
	if (out == MT_OUT_FORM)
		out = may_be_atomic(core->tables->config, p);
	p->hash = fw_hash(p->ips, p->qpn);
	return out;
}

/** What is counted before a flow is looked up. @return MT_OUTCOMES: it has a flow to be found */
static inline unsigned int parse(
	struct fw_core *core, const struct rte_mbuf *m, struct fw_packet *p)
{
	const uint8_t *data = rte_pktmbuf_mtod(m, const uint8_t *);
	unsigned int out;

	if (unlikely(!fw_is_plain(data, m->data_len)))
		return parse_long(core, data, m->data_len, p);
	out = fw_parse_plain(data, m->data_len, p);
	if (unlikely(out != MT_OUTCOMES))
		return parse_odd(core, out, p);
	if (p->kind == FW_KIND_RESPONSE)
		return MT_OUT_RESPONSE;
	p->hash = fw_hash(p->ips, p->qpn);
	return MT_OUTCOMES;
}

/** Which poll core counts a flow. */
static inline uint32_t owner_of(
	const struct fw_plane *plane, const struct fw_config *c, const struct fw_packet *p)
{
	if (c->source_labels)
		return fw_key_src(c, p->ips, p->qpn) % plane->cores;
	return (uint32_t)((uint64_t)p->hash * plane->cores >> 32);
}

/**
 * Count packets whose flows' lines were prefetched, in order of arrival. Flows first, so that the
 * cells of those that will not be counted in their flow are on their way while the others are
 * looked up.
 */
static inline void count(struct fw_core *core, const struct fw_packet *p, uint32_t n)
{
	const struct fw_tables *t = core->tables;
	const struct fw_config *c = t->config;
	struct fw_flow *f[FW_BURST];
	uint32_t hits = 0;

	if (n != 0)
		core->tsc = p[n - 1].tsc; /* of all: a little late is on the safe side */
	for (uint32_t i = 0; i < n; i++) {
		f[i] = fw_flow_of(core, &p[i]);
		if (likely(f[i] != NULL))
			fw_prefetch(t, f[i], &p[i]);
	}
	for (uint32_t i = 0; i < n; i++) {
		if (unlikely(f[i] == NULL))
			continue;
		if (likely(fw_hit(c, f[i], &p[i])))
			hits++;
		else
			core->outcome[fw_take(core, f[i], &p[i])]++;
	}
	core->outcome[MT_OUT_DISPATCH] += hits;
}

/** Count the segments among packets; *n: what is left. */
static void take_segments(struct fw_core *core, struct fw_packet *p, void **m, uint32_t *n)
{
	uint32_t left = 0;

	for (uint32_t i = 0; i < *n; i++)
		if (p[i].kind == FW_KIND_TCP)
			fw_tcp_take(core, &p[i], m[i]);
		else
			p[left++] = p[i];
	*n = left;
}

/** Count what another core received. @return packets */
static uint32_t take_over(struct fw_core *core, struct rte_ring *ring)
{
	const struct fw_tables *t = core->tables;
	struct fw_packet p[FW_BURST];
	void *m[FW_BURST];
	uint32_t n, left;

	n = rte_ring_sc_dequeue_burst(ring, m, FW_BURST, NULL);
	for (uint32_t i = 0; i < n; i++)
		rte_prefetch0(rte_mbuf_to_priv(m[i]));
	for (uint32_t i = 0; i < n; i++) {
		memcpy(&p[i], rte_mbuf_to_priv(m[i]), sizeof(p[i]));
		rte_prefetch0(&t->flows[p[i].hash & t->mask]);
	}
	left = n;
	if (unlikely(t->config->tcp))
		take_segments(core, p, m, &left);
	count(core, p, left);
	if (n != 0)
		rte_pktmbuf_free_bulk((struct rte_mbuf **)m, n);
	return n;
}

/**
 * Give a packet to the core that owns its flow. While its ring is full, count what others handed
 * over here: that core may be waiting for just this.
 */
static __rte_noinline void hand_over(struct fw_plane *plane, struct fw_core *core, uint32_t owner,
	struct rte_mbuf *m, const struct fw_packet *p)
{
	struct rte_ring *ring = plane->core[owner]->in[core->id];

	memcpy(rte_mbuf_to_priv(m), p, sizeof(*p));
	while (rte_ring_sp_enqueue(ring, m) != 0) {
		for (uint32_t i = 0; i < plane->cores; i++)
			if (core->in[i] != NULL)
				take_over(core, core->in[i]);
		if (plane->yield)
			sched_yield();
		rte_pause();
	}
}

/**
 * A frame that is not RoCE, or a VXLAN (@p what) that has none inside.
 *
 * @param p where a segment of the job is described
 * @return whether it is one
 */
static __rte_noinline bool find_segment(
	struct fw_core *core, const struct rte_mbuf *m, unsigned int what, struct fw_packet *p)
{
	const struct fw_tables *t = core->tables;
	unsigned int out = fw_tcp_parse(t->config, m, what == MT_OUT_VXLAN, p);

	if (out != MT_OUTCOMES) {
		core->outcome[out == MT_OUT_NOT_ROCE ? what : out]++;
		return false;
	}
	fw_tcp_prefetch(t, p);
	return true;
}

/** Headers with an atomic's end in the second line. */
static inline void prefetch_headers(struct rte_mbuf **m, uint16_t n)
{
	for (uint16_t i = 0; i < n; i++) {
		const char *data = rte_pktmbuf_mtod(m[i], const char *);

		rte_prefetch0(data);
		rte_prefetch0(data + 64); /* also where lines are said to have 128 bytes */
	}
}

void fw_receive(
	struct fw_plane *plane, struct fw_core *core, struct rte_mbuf **m, uint16_t n, uint64_t tsc)
{
	uint64_t now =
		plane->wall_ns + (uint64_t)((double)(tsc - plane->wall_tsc) * plane->ns_per_tsc);
	const struct fw_config *c = core->tables->config;
	const struct fw_flow *flows = core->tables->flows;
	struct fw_packet own[FW_BURST], *p = own;
	void *frame[FW_BURST]; /* of segments in own */
	uint32_t owned, mask = core->tables->mask, cores = plane->cores;
	uint64_t bytes = 0, flag = plane->stamp_flag;

	prefetch_headers(m, n);
	for (uint16_t i = 0; i < n; i++) {
		unsigned int out = parse(core, m[i], p);

		bytes += m[i]->pkt_len;
		if (out != MT_OUTCOMES) {
			if (likely(out != MT_OUT_NOT_ROCE && out != MT_OUT_VXLAN) || !c->tcp) {
				core->outcome[out]++;
				continue;
			}
			if (!find_segment(core, m[i], out, p))
				continue;
			frame[p - own] = m[i];
		}
		p->ns = stamp(plane, flag, m[i], now);
		p->tsc = tsc;
		if (cores > 1) {
			uint32_t owner = owner_of(plane, c, p);

			if (owner != core->id) {
				hand_over(plane, core, owner, m[i], p);
				m[i] = NULL;
				continue;
			}
		}
		rte_prefetch0(&flows[p->hash & mask]);
		p++;
	}
	owned = (uint32_t)(p - own);
	if (unlikely(c->tcp))
		take_segments(core, own, frame, &owned);
	count(core, own, owned);
	core->packets += n;
	core->bytes += bytes;
	rte_pktmbuf_free_bulk(m, n); /* those that are NULL are another core's */
}

/** Receive a burst from each queue of this core. @return packets */
static uint32_t poll_queues(struct fw_plane *plane, struct fw_core *core, uint64_t tsc)
{
	struct rte_mbuf *m[FW_BURST];
	uint32_t got = 0;
	uint16_t n;

	for (uint32_t i = 0; i < core->queues; i++) {
		n = rte_eth_rx_burst(core->queue[i].port, core->queue[i].queue, m, FW_BURST);
		if (n != 0)
			fw_receive(plane, core, m, n, tsc);
		got += n;
	}
	return got;
}

/**
 * Count what others handed over. *since is lowered to a moment before which everything that they
 * received was counted here.
 */
static uint32_t poll_rings(struct fw_plane *plane, struct fw_core *core, uint64_t *since)
{
	uint32_t got = 0, n;

	for (uint32_t i = 0; i < plane->cores; i++) {
		uint64_t sent;

		if (core->in[i] == NULL)
			continue;
		sent = __atomic_load_n(&plane->core[i]->sent, __ATOMIC_ACQUIRE);
		n = take_over(core, core->in[i]);
		got += n;
		/* a full burst: more may be waiting, so nothing can be said of this moment */
		*since = n == FW_BURST ? RTE_MIN(*since, core->done) : RTE_MIN(*since, sent);
	}
	return got;
}

static void rest(struct fw_plane *plane, struct fw_core *core, uint64_t *swept)
{
	uint64_t now = rte_rdtsc();

	__atomic_store_n(&core->idle, core->idle + 1, __ATOMIC_RELAXED);
	if (now - *swept > rte_get_tsc_hz() / SWEEP_PER_S) {
		fw_give_up(core, false);
		*swept = now;
	}
	if (plane->yield)
		sched_yield();
	rte_pause();
}

/** The jobs' first packets: see FW_START_LABEL. */
static void follow_fast(struct fw_plane *plane, struct fw_core *core)
{
	if (unlikely(core->fast)) {
		core->fast = false;
		__atomic_store_n(&plane->fast, 1, __ATOMIC_RELAXED);
	}
	if (unlikely(!core->tables->started && __atomic_load_n(&plane->fast, __ATOMIC_RELAXED)))
		fw_start_all(core);
}

static void obey(struct fw_core *core, uint32_t order, uint32_t got)
{
	if (order == core->obeyed || (order == FW_FLUSH && got != 0))
		return;
	if (order == FW_FLUSH)
		fw_give_up(core, true);
	__atomic_store_n(&core->obeyed, order, __ATOMIC_RELEASE);
}

void fw_poll(struct fw_plane *plane, struct fw_core *core)
{
	uint64_t swept = 0, tsc, since;
	uint32_t order, got;

	do {
		order = __atomic_load_n(&core->order, __ATOMIC_ACQUIRE);
		got = 0;
		since = tsc = rte_rdtsc();
		if (order == FW_RUN) {
			got = poll_queues(plane, core, tsc);
			__atomic_store_n(&core->sent, tsc, __ATOMIC_RELEASE);
		}
		got += poll_rings(plane, core, &since);
		__atomic_store_n(&core->done, since, __ATOMIC_RELEASE);
		if (got == 0)
			rest(plane, core, &swept);
		else
			__atomic_store_n(&core->idle, 0, __ATOMIC_RELAXED);
		follow_fast(plane, core);
		obey(core, order, got);
	} while (order != FW_EXIT);
}
