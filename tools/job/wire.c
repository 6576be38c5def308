/* SPDX-License-Identifier: BSD-3-Clause */
#include "wire.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_byteorder.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_lcore.h>
#include <rte_udp.h>

#define BUFFERS 4096u
#define WAIT_S 20 /* for the other end; and until the port takes something */
#define NAP_NS 20000
#define ROCE_PORT 4791u
#define ICRC 4u

#define WRITE_FIRST 0x06u
#define WRITE_MIDDLE 0x07u
#define WRITE_LAST 0x08u
#define WRITE_ONLY 0x0au
#define FETCH_ADD 0x14u

/* ---- the layout ------------------------------------------------------------------------------ */

static uint64_t base_of(uint32_t rank)
{
	return 0x7f0000000000u + ((uint64_t)rank << 34);
}

static uint32_t address_of(uint32_t rank)
{
	return RTE_IPV4(10, 77, rank / 250, 1 + rank % 250);
}

static uint64_t token_bytes(const struct wire_shape *s)
{
	return (uint64_t)s->slots * s->tokens * WIRE_TOKEN; /* slots of a rank, from all ranks */
}

static uint64_t result_bytes(const struct wire_shape *s)
{
	return (uint64_t)s->slots * s->tokens * WIRE_RESULT;
}

static uint64_t buffer_bytes(const struct wire_shape *s)
{
	return RTE_ALIGN_CEIL(token_bytes(s) + result_bytes(s) + s->slots * 8u, 4096);
}

void wire_map(FILE *f, const struct wire_shape *s)
{
	uint32_t own = s->slots / s->ranks;
	uint64_t stride = buffer_bytes(s), counts = token_bytes(s) + result_bytes(s);
	uint64_t row = (uint64_t)s->ranks * s->tokens * WIRE_TOKEN;

	fprintf(f,
		"# The layout of moetap-job, which printed this: see tools/job/wire.h.\n"
		"moetap-map: 1\njob: moetap-job\npattern: inference\nlayers: %u\n"
		"experts-per-rank: %u\nranks:\n",
		s->layers, own);
	for (uint32_t r = 0; r < s->ranks; r++) {
		uint32_t a = address_of(r);

		fprintf(f, "  - {rank: %u, address: %u.%u.%u.%u, base: %#" PRIx64 "}\n", r, a >> 24,
			a >> 16 & 255, a >> 8 & 255, a & 255, base_of(r));
	}
	fprintf(f,
		"rules:\n"
		"  - name: token\n    rule: va\n    phase: dispatch\n    length: %u\n"
		"    size: %" PRIu64 "\n    parity: {stride: %" PRIu64 ", count: 2}\n"
		"    expert: {stride: %" PRIu64 ", count: %u, of: dst}\n"
		"    source: {stride: %u, count: %u}\n    token-bytes: %u\n",
		WIRE_TOKEN, token_bytes(s), stride, row, own, s->tokens * WIRE_TOKEN, s->ranks,
		WIRE_TOKEN);
	fprintf(f,
		"  - name: result\n    rule: va\n    phase: combine\n    length: %u\n"
		"    offset: %" PRIu64 "\n    size: %" PRIu64 "\n"
		"    parity: {stride: %" PRIu64 ", count: 2}\n",
		WIRE_RESULT, token_bytes(s), result_bytes(s), stride);
	fprintf(f,
		"  - name: count\n    rule: atomic\n    phase: count\n    offset: %" PRIu64 "\n"
		"    size: %u\n    parity: {stride: %" PRIu64 ", count: 2}\n"
		"    expert: {stride: %u, count: %u, of: dst}\n    source: {stride: 8, count: %u}\n"
		"    value: {scale: -1, add: -1}\n",
		counts, s->slots * 8, stride, s->ranks * 8, own, s->ranks);
	fprintf(f,
		"  - name: weights\n    rule: va\n    phase: control\n    offset: %" PRIu64 "\n"
		"    size: %" PRIu64 "\n",
		2 * stride, (uint64_t)own * s->layers * WIRE_EXPERT);
}

/* ---- the port -------------------------------------------------------------------------------- */

static void nap(void)
{
	const struct timespec pause = {.tv_nsec = NAP_NS};

	nanosleep(&pause, NULL);
}

static time_t seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

static int fail(const char *what, int err)
{
	fprintf(stderr, "moetap-job: %s: %s\n", what, rte_strerror(-err));
	return err;
}

/** Virtual ports are connected some time after they were started. */
static int wait_link(const struct wire *w)
{
	time_t end = seconds() + WAIT_S;
	struct rte_eth_link link = {0};

	while (rte_eth_link_get_nowait(w->port, &link) == 0 &&
		link.link_status == RTE_ETH_LINK_DOWN) {
		if (*w->stopped)
			return -EINTR;
		if (seconds() > end)
			return fail("nobody is at the other end of the port", -ETIMEDOUT);
		nap();
	}
	return 0;
}

static int start_port(struct wire *w)
{
	struct rte_eth_conf conf = {0};
	uint16_t rx = 64, tx = 1024;
	int ret;

	if (rte_eth_dev_count_avail() != 1)
		return fail("it wants one port, as in --vdev net_memif0,role=client,socket=PATH",
			-ENODEV);
	w->port = (uint16_t)rte_eth_find_next(0);
	w->pool = rte_pktmbuf_pool_create(
		"moetap-job", BUFFERS, 64, 0, RTE_MBUF_DEFAULT_BUF_SIZE, (int)rte_socket_id());
	if (w->pool == NULL)
		return fail("no memory for packet buffers (a larger -m)", -ENOMEM);
	/* nothing is received, but drivers want a queue for it */
	ret = rte_eth_dev_configure(w->port, 1, 1, &conf);
	if (ret == 0)
		ret = rte_eth_dev_adjust_nb_rx_tx_desc(w->port, &rx, &tx);
	if (ret == 0)
		ret = rte_eth_rx_queue_setup(w->port, 0, rx,
			(unsigned int)rte_eth_dev_socket_id(w->port), NULL, w->pool);
	if (ret == 0)
		ret = rte_eth_tx_queue_setup(
			w->port, 0, tx, (unsigned int)rte_eth_dev_socket_id(w->port), NULL);
	if (ret == 0)
		ret = rte_eth_dev_start(w->port);
	return ret < 0 ? fail("the port", ret) : wait_link(w);
}

int wire_open(struct wire *w, const struct wire_shape *shape, const volatile sig_atomic_t *stopped)
{
	*w = (struct wire){.shape = *shape, .stopped = stopped, .own = shape->slots / shape->ranks};
	w->psn = calloc((size_t)shape->ranks * shape->ranks * shape->queue_pairs, sizeof(*w->psn));
	return w->psn != NULL ? start_port(w) : -ENOMEM;
}

void wire_close(struct wire *w)
{
	free(w->psn);
	if (w->pool == NULL)
		return;
	rte_eth_dev_stop(w->port);
	rte_eth_dev_close(w->port);
	rte_mempool_free(w->pool);
}

/** A full port is waited for: what is sent is received. */
void wire_flush(struct wire *w)
{
	time_t end = 0;
	uint16_t done = 0;

	while (done < w->held && w->error == 0) {
		uint16_t sent =
			rte_eth_tx_burst(w->port, 0, w->burst + done, (uint16_t)(w->held - done));

		done += sent;
		if (sent != 0) {
			end = 0;
			continue;
		}
		end = end == 0 ? seconds() + WAIT_S : end;
		if (*w->stopped)
			w->error = -EINTR;
		else if (seconds() > end)
			w->error = fail("the port takes no packets any more", -ETIMEDOUT);
		nap();
	}
	rte_pktmbuf_free_bulk(w->burst + done, w->held - done);
	w->held = 0;
}

/* ---- frames ---------------------------------------------------------------------------------- */

static uint8_t *put(uint8_t *p, uint64_t value, uint32_t bytes)
{
	for (uint32_t i = 0; i < bytes; i++)
		p[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
	return p + bytes;
}

/** Ethernet, IPv4 and UDP around `inside` bytes of RoCE. @return where these begin */
static uint8_t *put_outside(uint8_t *p, uint32_t src, uint32_t dst, uint32_t inside)
{
	struct rte_ether_hdr *eth = (struct rte_ether_hdr *)p;
	struct rte_ipv4_hdr *ip = (struct rte_ipv4_hdr *)(eth + 1);
	struct rte_udp_hdr *udp = (struct rte_udp_hdr *)(ip + 1);

	*eth = (struct rte_ether_hdr){.dst_addr = {{2, 0, 0, 0, (uint8_t)(dst >> 8), (uint8_t)dst}},
		.src_addr = {{2, 0, 0, 0, (uint8_t)(src >> 8), (uint8_t)src}},
		.ether_type = RTE_BE16(RTE_ETHER_TYPE_IPV4)};
	*ip = (struct rte_ipv4_hdr){.version_ihl = RTE_IPV4_VHL_DEF,
		.type_of_service = 2, /* ECN is understood */
		.total_length = rte_cpu_to_be_16((uint16_t)(sizeof(*ip) + sizeof(*udp) + inside)),
		.fragment_offset = RTE_BE16(RTE_IPV4_HDR_DF_FLAG),
		.time_to_live = 64,
		.next_proto_id = IPPROTO_UDP,
		.src_addr = rte_cpu_to_be_32(address_of(src)),
		.dst_addr = rte_cpu_to_be_32(address_of(dst))};
	ip->hdr_checksum = rte_ipv4_cksum(ip);
	*udp = (struct rte_udp_hdr){.src_port = rte_cpu_to_be_16((uint16_t)(49152 + src)),
		.dst_port = RTE_BE16(ROCE_PORT),
		.dgram_len = rte_cpu_to_be_16((uint16_t)(sizeof(*udp) + inside))};
	return (uint8_t *)(udp + 1);
}

/** A packet of the queue pair of (src, dst, local slot), with its BTH; `more` bytes follow, the
 * ICRC not counted.
 * @return where they go, NULL: the port gave up */
static uint8_t *put_packet(
	struct wire *w, uint32_t src, uint32_t dst, uint32_t at, uint32_t opcode, uint32_t more)
{
	uint32_t inside = 12 + more + ICRC, pair = at % w->shape.queue_pairs;
	uint32_t *psn = &w->psn[(size_t)(src * w->shape.ranks + dst) * w->shape.queue_pairs + pair];
	struct rte_mbuf *m;
	uint8_t *p;

	if (w->held == WIRE_BURST)
		wire_flush(w);
	while ((m = rte_pktmbuf_alloc(w->pool)) == NULL && w->error == 0) {
		wire_flush(w);
		if (*w->stopped)
			w->error = -EINTR;
	}
	if (w->error != 0) {
		rte_pktmbuf_free(m);
		return NULL;
	}
	w->burst[w->held++] = m;
	p = (uint8_t *)rte_pktmbuf_append(
		m, (uint16_t)(sizeof(struct rte_ether_hdr) + sizeof(struct rte_ipv4_hdr) +
			      sizeof(struct rte_udp_hdr) + inside));
	p = put_outside(p, src, dst, inside);
	p = put(p, opcode, 1);
	p = put(p, 0x40, 1); /* migration state, as NICs send it */
	p = put(p, 0xffff, 2);
	p = put(p, 0x100 + src * w->shape.queue_pairs + pair, 4); /* at the destination */
	p = put(p, (*psn)++ & 0xffffff, 4);
	/* No receiver is there that would check the ICRC. */
	memset(p + more, 0, ICRC);
	return p;
}

static uint8_t *put_reth(uint8_t *p, uint64_t va, uint32_t length)
{
	if (p == NULL)
		return NULL;
	p = put(p, va, 8);
	p = put(p, 0x202, 4);
	return put(p, length, 4);
}

/** The buffer of a round at a rank. */
static uint64_t buffer_of(const struct wire *w, uint32_t rank, uint64_t round)
{
	return base_of(rank) + round % 2 * buffer_bytes(&w->shape);
}

void wire_token(struct wire *w, uint64_t round, uint32_t src, uint32_t slot, uint32_t index)
{
	uint32_t dst = slot / w->own, at = slot % w->own;
	uint64_t place = ((uint64_t)at * w->shape.ranks + src) * w->shape.tokens + index;

	put_reth(put_packet(w, src, dst, at, WRITE_ONLY, 16 + WIRE_TOKEN),
		buffer_of(w, dst, round) + place * WIRE_TOKEN, WIRE_TOKEN);
}

void wire_result(struct wire *w, uint64_t round, uint32_t src, uint32_t slot, uint32_t index)
{
	uint32_t dst = slot / w->own, at = slot % w->own;
	uint64_t place = (uint64_t)slot * w->shape.tokens + index;

	put_reth(put_packet(w, dst, src, at, WRITE_ONLY, 16 + WIRE_RESULT),
		buffer_of(w, src, round) + token_bytes(&w->shape) + place * WIRE_RESULT,
		WIRE_RESULT);
}

void wire_count(struct wire *w, uint64_t round, uint32_t src, uint32_t slot, uint32_t tokens)
{
	uint32_t dst = slot / w->own, at = slot % w->own;
	uint8_t *p = put_packet(w, src, dst, at, FETCH_ADD, 28);

	if (p == NULL)
		return;
	p = put(p,
		buffer_of(w, dst, round) + token_bytes(&w->shape) + result_bytes(&w->shape) +
			((uint64_t)at * w->shape.ranks + src) * 8,
		8);
	p = put(p, 0x202, 4);
	p = put(p, -(uint64_t)tokens - 1, 8); /* -n - 1, so that 0 tokens are told too */
	put(p, 0, 8);
}

void wire_weights(struct wire *w, uint32_t from, uint32_t layer, uint32_t slot)
{
	uint32_t dst = slot / w->own, at = slot % w->own;
	uint64_t va = base_of(dst) + 2 * buffer_bytes(&w->shape) +
		      ((uint64_t)layer * w->own + at) * WIRE_EXPERT;

	for (uint32_t done = 0; done < WIRE_EXPERT; done += WIRE_MTU) {
		bool first = done == 0, last = done + WIRE_MTU >= WIRE_EXPERT;
		uint8_t *p = put_packet(w, from, dst, at,
			first  ? WRITE_FIRST
			: last ? WRITE_LAST
			       : WRITE_MIDDLE,
			WIRE_MTU + (first ? 16 : 0));

		if (first)
			put_reth(p, va, WIRE_EXPERT);
	}
}
