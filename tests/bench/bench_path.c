/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Packets a second of an empty receive loop and of moetap's whole path (receive, parse, look up,
 * order, classify, count, open epochs), on one core, in turns over the same packets in memory.
 *
 * Receiving is what DPDK's net_pcap does with infinite_rx=1 (buffers from a pool, one copy of each
 * frame), but no packet comes twice: moetap would see a retransmission. Making the frames (8
 * tokens, a count, a combine message and an acknowledge of each flow in turn) and making rounds of
 * what was counted is not timed: one is the NIC's work, the other the control core's. Flows come
 * in turn, so that each is as cold as can be.
 *
 * With --rules: the same for each kind of rule, RULE_FLOWS flows in lockstep, as jobs are. What
 * tells the tokens of a round differs, the number of packets does not.
 *
 * With --count: no times, but calls of counted(), one for each kind of rule and one for flows out
 * of step, that handle COUNTED packets each; instructions.py counts the instructions of the path in
 * them.
 *
 * usage: bench-path [FLOWS ...] | --rules | --count
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_memcpy.h>
#include <rte_ring_elem.h>

#include "map.h"
#include "rounds.h"

#define RANKS 64u
#define EXPERTS 4u /* a rank */
#define TOKEN 7168u
#define COMBINE 14336u
#define BARRIER 8u
#define LIST 8u	  /* numbers or weights of a token */
#define SLOTS 64u /* tokens of a (source, expert) that the buffer has room for */
#define STRIDE 7u /* from flow to flow; shares no factor with their numbers */
#define CHUNK 4096u
#define TURNS 5	   /* medians are taken */
#define CHUNKS 200 /* of a turn, of which a tenth is faster than what is taken: see run_turns() */
#define FRAME_ROOM 124u /* the longest frame has headers and ICRC of 86 bytes */

#define RULE_FLOWS 1000u
#define COUNTED (16 * CHUNK)

/* A message over TCP: its length, what it is for, and the bytes of its tokens. */
#define FRAME_HEADER 24u
enum frame_kind { FRAME_OTHER, FRAME_TOKEN, FRAME_COMBINE };
#define SYN 11u /* `at` of a flow before its first packet */

/** What tells the tokens. */
enum kind {
	KIND_VA,
	KIND_QP,
	KIND_LENGTH,
	KIND_COUNTS,
	KIND_INDEX,
	KIND_DENSE,
	KIND_IMM,
	KIND_FLOW,
	KINDS
};

static const char *const kind_names[KINDS] = {
	"va", "qp", "length", "payload-counts", "payload-index", "payload-dense", "imm", "flow"};
static enum kind kind;

static const uint64_t area = (uint64_t)EXPERTS * RANKS * SLOTS * COMBINE;

struct source_flow {
	uint32_t src, dst, qpn, expert, psn, at, parity;
};

static struct rte_mempool *pool;
static struct {
	uint8_t data[FRAME_ROOM];
	uint32_t length;
} wire[CHUNK];
static uint32_t wire_at;
static struct source_flow *flows;
static uint32_t flows_n;
static uint64_t seed = 1;

static uint32_t draw(void)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33);
}

static void die(const char *what)
{
	fprintf(stderr, "bench-path: %s\n", what);
	exit(EXIT_FAILURE);
}

/* ---- packets ------------------------------------------------------------------------------- */

static void put(uint8_t **p, uint64_t v, uint32_t bytes)
{
	for (uint32_t i = 0; i < bytes; i++)
		(*p)[i] = (uint8_t)(v >> 8 * (bytes - 1 - i));
	*p += bytes;
}

/** Headers up to and with the BTH; the IP length is that of a packet with @p payload bytes. */
static uint8_t *put_headers(uint8_t *p, const struct source_flow *f, uint8_t opcode,
	uint32_t extension, uint32_t payload)
{
	uint32_t udp = 8 + 12 + extension + payload + 4;

	memset(p, 0, 12);
	p += 12;
	put(&p, 0x0800, 2);
	put(&p, 0x4502, 2);
	put(&p, 20 + udp, 2);
	put(&p, 0x4000, 4);
	put(&p, 0x4011, 2);
	put(&p, 0, 2);
	put(&p, 0x0a000001 + f->src, 4);
	put(&p, 0x0a000001 + f->dst, 4);
	put(&p, 0xc000, 2);
	put(&p, 4791, 2);
	put(&p, udp, 2);
	put(&p, 0, 2);
	put(&p, opcode, 1);
	put(&p, 0, 1);
	put(&p, 0xffff, 2);
	put(&p, f->qpn, 4);
	put(&p, f->psn & FW_PSN_MASK, 4);
	return p;
}

static uint8_t *put_write(uint8_t *p, const struct source_flow *f, uint64_t va, uint32_t length)
{
	/* the path MTU does not matter to the path: one packet a message */
	p = put_headers(p, f, 0x0a, 16, RTE_MIN(length, 4096u));
	put(&p, va, 8);
	put(&p, 0x202, 4);
	put(&p, length, 4);
	return p;
}

static uint64_t base_of(uint32_t rank)
{
	return 0x7f0000000000ull + rank * 0x100000000ull;
}

static uint8_t *put_token(uint8_t *p, const struct source_flow *f, uint64_t va)
{
	p = put_write(p, f,
		va + ((uint64_t)f->expert * RANKS + f->src) * SLOTS * TOKEN + f->at * TOKEN,
		kind == KIND_DENSE ? EXPERTS * 4 : TOKEN);
	if (kind == KIND_INDEX || kind == KIND_DENSE) /* one of them names an expert of f->dst */
		for (uint32_t i = 0; i < (kind == KIND_DENSE ? EXPERTS : LIST); i++)
			put(&p, i == f->at % EXPERTS ? rte_bswap32(f->dst * EXPERTS + i) : 0, 4);
	return p;
}

/** What announces the tokens of a flow, or is one more message where nothing does. */
static uint8_t *put_count(uint8_t *p, const struct source_flow *f, uint64_t va)
{
	uint32_t cell = f->expert * RANKS + f->src;

	switch (kind) {
	case KIND_LENGTH:
	case KIND_INDEX:
	case KIND_DENSE:
		return put_write(p, f, va, BARRIER);
	case KIND_COUNTS:
		p = put_write(p, f, va, EXPERTS * 4);
		for (uint32_t i = 0; i < EXPERTS; i++)
			put(&p, i == f->expert ? rte_bswap32(8) : 0, 4);
		return p;
	case KIND_IMM:
		p = put_headers(p, f, FW_WRITE_ONLY_IMM, 20, 0);
		put(&p, 0, 16);
		put(&p, 8u << 16 | (f->parity * EXPERTS * RANKS + cell), 4);
		return p;
	default:
		p = put_headers(p, f, 0x14, 28, 0);
		put(&p, va + area + cell * 8, 8);
		put(&p, 0x202, 4);
		put(&p, (uint64_t)-9, 8);
		put(&p, 0, 8);
		return p;
	}
}

/** Headers up to and with TCP's; the IP length is that of a segment with @p payload bytes. */
static uint8_t *put_segment(
	uint8_t *p, const struct source_flow *f, uint8_t flags, uint32_t payload)
{
	memset(p, 0, 12);
	p += 12;
	put(&p, 0x0800, 2);
	put(&p, 0x4500, 2);
	put(&p, 20 + 20 + payload, 2);
	put(&p, 0x4000, 4);
	put(&p, 0x4006, 2);
	put(&p, 0, 2);
	put(&p, 0x0a000001 + f->src, 4);
	put(&p, 0x0a000001 + f->dst, 4);
	put(&p, 0xc000 + f->qpn, 2);
	put(&p, 5000, 2);
	put(&p, f->psn, 4);
	put(&p, 1, 4);
	put(&p, 0x5000 | flags, 2);
	put(&p, 0x2000, 2);
	put(&p, 0, 4);
	return p;
}

/** As make(), of a TCP stream: a message a segment, whose data is not captured. */
static uint32_t make_segment(uint8_t *data, struct source_flow *f)
{
	static const uint32_t bytes[] = {
		[FRAME_OTHER] = BARRIER, [FRAME_TOKEN] = TOKEN, [FRAME_COMBINE] = COMBINE};
	enum frame_kind what = f->at < 8 ? FRAME_TOKEN : f->at == 8 ? FRAME_OTHER : FRAME_COMBINE;
	uint32_t length = FRAME_HEADER + bytes[what];
	uint8_t *p;

	if (f->at >= 10) { /* an acknowledge, or the first packet of the connection */
		p = put_segment(data, f, f->at == SYN ? 0x02 : 0x10, 0);
		f->psn += f->at == SYN;
		f->at = 0;
		return (uint32_t)(p - data);
	}
	p = put_segment(data, f, 0x18, length);
	put(&p, rte_bswap64(length), 8);
	put(&p, rte_bswap64(what), 8);
	put(&p, rte_bswap64(bytes[what]), 8);
	f->psn += length;
	f->at++;
	return (uint32_t)(p - data);
}

/** The next packet of a flow. @return its bytes */
static uint32_t make(uint8_t *data, struct source_flow *f)
{
	uint64_t va = base_of(f->dst) + f->parity * 2 * area;
	uint8_t *p;

	if (kind == KIND_FLOW)
		return make_segment(data, f);
	if (f->at == 10) { /* an acknowledge takes no PSN */
		p = put_headers(data, f, 0x11, 4, 0);
		put(&p, 0x1f000000, 4);
		f->at = 0;
		f->parity ^= 1;
		return (uint32_t)(p - data) + 4;
	}
	if (f->at < 8)
		p = put_token(data, f, va);
	else if (f->at == 8)
		p = put_count(data, f, va);
	else
		p = put_write(data, f, va, COMBINE);
	f->psn++;
	f->at++;
	return (uint32_t)(p - data) + 4;
}

/** A chunk of packets onto the wire. */
static void fill(void)
{
	static uint32_t next;

	for (uint32_t i = 0; i < CHUNK; i++) {
		next = (next + STRIDE) % flows_n;
		wire[i].length = make(wire[i].data, &flows[next]);
	}
	wire_at = 0;
}

/* ---- loops ----------------------------------------------------------------------------------- */

/** A burst from the wire, as eth_pcap_rx_infinite() of DPDK's drivers/net/pcap takes it. */
static __rte_noinline uint16_t receive(struct rte_mbuf **m)
{
	if (rte_pktmbuf_alloc_bulk(pool, m, FW_BURST) != 0)
		die("no buffers");
	for (uint32_t i = 0; i < FW_BURST; i++, wire_at++) {
		uint32_t length = wire[wire_at].length;

		rte_memcpy(rte_pktmbuf_mtod(m[i], void *), wire[wire_at].data, length);
		m[i]->data_len = (uint16_t)length;
		m[i]->pkt_len = length;
	}
	return FW_BURST;
}

/** Receive and free @p most packets. @return cycles */
static uint64_t empty_loop(struct fw_plane *plane, uint32_t most)
{
	struct rte_mbuf *m[FW_BURST];
	uint64_t begun = rte_rdtsc();
	uint16_t n;

	(void)plane;
	for (uint32_t got = 0; got < most; got += n) {
		n = receive(m);
		rte_pktmbuf_free_bulk(m, n);
	}
	return rte_rdtsc() - begun;
}

static uint64_t full_loop(struct fw_plane *plane, uint32_t most)
{
	struct rte_mbuf *m[FW_BURST];
	uint64_t begun = rte_rdtsc();
	uint16_t n;

	for (uint32_t got = 0; got < most; got += n) {
		uint64_t tsc = rte_rdtsc();

		n = receive(m);
		fw_receive(plane, plane->core[0], m, n, tsc);
	}
	return rte_rdtsc() - begun;
}

/** One chunk through a loop; then the control core has its turn. @return cycles */
static uint64_t chunk(
	struct fw_plane *plane, struct fw_rounds *r, uint64_t (*loop)(struct fw_plane *, uint32_t))
{
	uint64_t cycles;

	fill();
	cycles = loop(plane, CHUNK);
	plane->core[0]->done = rte_rdtsc();
	fw_rounds_pump(r);
	return cycles;
}

static void take_round(void *arg, const struct mt_round *round)
{
	(void)arg, (void)round;
}

/* ---- measuring ------------------------------------------------------------------------------- */

/** The rule of phase dispatch. */
static size_t put_token_rule(char *text, size_t room)
{
	switch (kind) {
	case KIND_QP:
		return (size_t)snprintf(text, room,
			"- {name: token, rule: qp, phase: dispatch, length: %u}\n", TOKEN);
	case KIND_LENGTH:
		return (size_t)snprintf(text, room,
			"- {name: token, rule: length, phase: dispatch, length: %u, token-bytes: "
			"%u,"
			" expert: {fixed: 0}}\n",
			TOKEN, TOKEN);
	case KIND_COUNTS:
		return (size_t)snprintf(text, room,
			"- {name: token, rule: length, phase: control, length: %u}\n"
			"- {name: count, rule: payload-counts, phase: dispatch, length: %u,"
			" payload: {width: 4}}\n",
			TOKEN, EXPERTS * 4);
	case KIND_INDEX:
		return (size_t)snprintf(text, room,
			"- {name: token, rule: payload-index, phase: dispatch, length: %u,"
			" payload: {width: 4, of: all, count: %u, stride: %u}}\n",
			TOKEN, LIST, TOKEN);
	case KIND_DENSE:
		return (size_t)snprintf(text, room,
			"- {name: token, rule: payload-dense, phase: dispatch, length: %u,"
			" payload: {width: 4}}\n",
			EXPERTS * 4);
	default:
		return (size_t)snprintf(text, room,
			"- {name: token, rule: va, phase: dispatch, length: %u, size: %lu,"
			" parity: {stride: %lu, count: 2}, expert: {stride: %u, count: %u, of: "
			"dst},"
			" source: {stride: %u, count: %u}, token-bytes: %u}\n",
			TOKEN, area, 2 * area, RANKS * SLOTS * TOKEN, EXPERTS, SLOTS * TOKEN, RANKS,
			TOKEN);
	}
}

static size_t put_count_rule(char *text, size_t room)
{
	const char *place =
		"size: %u, parity: {stride: %lu, count: 2}, expert: {stride: %u, count: %u,"
		" of: dst}, source: {stride: 8, count: %u},";
	char cells[256];

	if (kind == KIND_COUNTS || kind == KIND_LENGTH || kind == KIND_INDEX || kind == KIND_DENSE)
		return (size_t)snprintf(text, room,
			"- {name: barrier, rule: length, phase: control, length: %u}\n", BARRIER);
	snprintf(cells, sizeof(cells), place, EXPERTS * RANKS * 8,
		kind == KIND_IMM ? EXPERTS * RANKS * 8ul : 2 * area, RANKS * 8, EXPERTS, RANKS);
	if (kind == KIND_IMM)
		return (size_t)snprintf(text, room,
			"- {name: count, rule: imm, phase: count, imm: {mask: 0, value: 0}, %s"
			" place: {shift: 0, bits: 16, unit: 8}, value: {shift: 16, bits: 15, "
			"scale: 1}}\n",
			cells);
	return (size_t)snprintf(text, room,
		"- {name: count, rule: atomic, phase: count, offset: %lu, %s value: {scale: -1, "
		"add: -1}}\n",
		area, cells);
}

/** All rules of a job over TCP, whose frames say what they are for. */
static size_t put_frame_rules(char *text, size_t room)
{
	return (size_t)snprintf(text, room,
		"- {name: token, rule: flow, phase: dispatch, frame: {header: %u, length: {at: 0, "
		"width: 8}, match: [{at: 8, width: 8, value: %d}], bytes: {at: 16, width: 8}}, "
		"expert: {fixed: 0}, token-bytes: %u}\n"
		"- {name: combine, rule: flow, phase: combine, frame: {header: %u, length: {at: 0, "
		"width: 8}, match: [{at: 8, width: 8, value: %d}]}}\n"
		"- {name: other, rule: flow, phase: control, frame: {header: %u, length: {at: 0, "
		"width: 8}, match: [{at: 8, width: 8, value: %d}]}}\n",
		FRAME_HEADER, FRAME_TOKEN, TOKEN, FRAME_HEADER, FRAME_COMBINE, FRAME_HEADER,
		FRAME_OTHER);
}

/** All rules of a job over RoCE. */
static size_t put_rules(char *text, size_t room)
{
	size_t n = (size_t)snprintf(text, room,
		"- {name: combine, rule: length, phase: combine, length: %u}\n", COMBINE);

	n += put_token_rule(text + n, room - n);
	return n + put_count_rule(text + n, room - n);
}

static struct mt_bank *make_map(void)
{
	static char text[1 << 20];
	struct mt_error err;
	struct mt_bank *bank;
	size_t n = (size_t)snprintf(text, sizeof(text),
		"moetap-map: 1\njob: bench\npattern: inference\nlayers: 2\nexperts-per-rank: %u\n"
		"rules:\n",
		EXPERTS);

	n += kind == KIND_FLOW ? put_frame_rules(text + n, sizeof(text) - n)
			       : put_rules(text + n, sizeof(text) - n);
	n += (size_t)snprintf(text + n, sizeof(text) - n, "ranks:\n");
	for (uint32_t r = 0; r < RANKS; r++)
		n += (size_t)snprintf(text + n, sizeof(text) - n,
			"- {rank: %u, address: 10.0.0.%u, base: 0x%lx}\n", r, r + 1, base_of(r));
	n += kind == KIND_QP ? (size_t)snprintf(text + n, sizeof(text) - n, "flows:\n") : 0;
	for (uint32_t i = 0; kind == KIND_QP && i < flows_n; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n,
			"- {src: %u, dst: %u, qpn: %u, expert: %u}\n", flows[i].src, flows[i].dst,
			flows[i].qpn, flows[i].dst * EXPERTS + flows[i].expert);
	if (mt_map_parse(text, n, "bench", &bank, &err) < 0)
		die(err.text);
	return bank;
}

/** @param lockstep all are at the same message of their round */
static void make_flows(uint32_t n, bool lockstep)
{
	free(flows);
	flows = calloc(n, sizeof(*flows));
	if (flows == NULL)
		die("out of memory");
	flows_n = n;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t pair = i % (RANKS * (RANKS - 1)), qp = i / (RANKS * (RANKS - 1));

		flows[i].src = pair / (RANKS - 1);
		flows[i].dst = pair % (RANKS - 1);
		flows[i].dst += flows[i].dst >= flows[i].src;
		flows[i].qpn = 0x11 + qp;
		flows[i].expert = qp % EXPERTS;
		flows[i].psn = draw();
		flows[i].at = kind == KIND_FLOW ? SYN : lockstep ? 0 : draw() % 8;
	}
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/** Nothing may have gone another way than it should: the figures would be of something else. */
static void check_outcomes(const struct fw_core *core)
{
	static const uint32_t wanted = 1u << MT_OUT_DISPATCH | 1u << MT_OUT_COMBINE |
				       1u << MT_OUT_COUNT | 1u << MT_OUT_CONTROL |
				       1u << MT_OUT_RESPONSE;

	for (uint32_t o = 0; o < MT_OUTCOMES; o++)
		if (core->outcome[o] != 0 && !(wanted >> o & 1))
			die(mt_outcome_name(o));
	if (core->overruns != 0)
		die("overruns");
}

/**
 * Of the chunks of a turn, the last of the fastest tenth stands for it, in both loops: others on
 * this machine can only make a chunk slower.
 */
static void run_turns(struct fw_plane *plane, struct fw_rounds *r, double *empty, double *full)
{
	struct source_flow *before = malloc(flows_n * sizeof(*flows));
	double hz = (double)rte_get_tsc_hz();

	if (before == NULL)
		die("out of memory");
	for (int turn = 0; turn < TURNS; turn++) {
		double e[CHUNKS], f[CHUNKS];

		for (int i = 0; i < CHUNKS; i++) {
			/* the same packets twice, so the flows must not have gone on in between */
			memcpy(before, flows, flows_n * sizeof(*flows));
			e[i] = (double)chunk(plane, r, empty_loop);
			memcpy(flows, before, flows_n * sizeof(*flows));
			f[i] = (double)chunk(plane, r, full_loop);
		}
		qsort(e, CHUNKS, sizeof(*e), by_value);
		qsort(f, CHUNKS, sizeof(*f), by_value);
		empty[turn] = e[CHUNKS / 10] / CHUNK / hz * 1e9;
		full[turn] = f[CHUNKS / 10] / CHUNK / hz * 1e9;
	}
	free(before);
}

/** Nanoseconds a packet of both loops. */
struct figures {
	double empty, full;
};

/** What is done with a job whose flows are all known. */
typedef void (*job_fn)(struct fw_plane *plane, struct fw_rounds *r, void *arg);

static void run_job(struct fw_plane *plane, uint32_t n, bool lockstep, job_fn fn, void *arg)
{
	struct fw_core *core = plane->core[0];
	struct fw_config *config;
	struct mt_bank *bank;
	struct fw_rounds *r;

	if (n < 16 || n > MT_MAX_FLOWS) /* fewer would open more epochs in a chunk than may wait */
		die("16 to 1048576 flows");
	make_flows(n, lockstep);
	bank = make_map();
	config = fw_config_new(bank, 1);
	core->tables = config != NULL ? fw_tables_new(config, RTE_MAX(n, 1024u)) : NULL;
	r = core->tables != NULL ? fw_rounds_new(plane, take_round, NULL) : NULL;
	if (r == NULL)
		die("out of memory");
	core->tables->started = true; /* the rest of the job, not its first packets */
	for (uint32_t seen = 0; seen < 2 * n + CHUNK; seen += CHUNK)
		chunk(plane, r, full_loop); /* all flows are known */
	fn(plane, r, arg);
	check_outcomes(core);
	rte_ring_reset(core->back);
	fw_rounds_free(r, &core->tables);
	fw_tables_free(core->tables);
	fw_config_free(config);
	free(bank);
}

static void measure(struct fw_plane *plane, struct fw_rounds *r, void *arg)
{
	double empty[TURNS], full[TURNS];
	struct figures *f = arg;

	run_turns(plane, r, empty, full);
	qsort(empty, TURNS, sizeof(*empty), by_value);
	qsort(full, TURNS, sizeof(*full), by_value);
	*f = (struct figures){.empty = empty[TURNS / 2], .full = full[TURNS / 2]};
}

static void measure_rules(struct fw_plane *plane)
{
	double va = 0;

	printf("%-14s empty Mpps  moetap Mpps   ratio ns/packet   times va, without receiving\n",
		"rule");
	for (kind = 0; kind < KINDS; kind++) {
		struct figures f;

		run_job(plane, RULE_FLOWS, true, measure, &f);
		va = kind == KIND_VA ? f.full - f.empty : va;
		printf("%-14s %10.1f %12.1f %7.2f %9.1f %10.2f\n", kind_names[kind], 1e3 / f.empty,
			1e3 / f.full, f.empty / f.full, f.full, (f.full - f.empty) / va);
		fflush(stdout);
	}
}

static void measure_flows(struct fw_plane *plane, uint32_t n)
{
	struct figures f;

	run_job(plane, n, false, measure, &f);
	printf("%7u %12.1f %12.1f %7.2f %9.1f\n", n, 1e3 / f.empty, 1e3 / f.full, f.empty / f.full,
		f.full);
	fflush(stdout);
}

/** instructions.py knows it by its name. */
static __rte_noinline void counted(struct fw_plane *plane, struct fw_rounds *r, void *arg)
{
	for (uint32_t seen = 0; seen < COUNTED; seen += CHUNK)
		chunk(plane, r, full_loop);
	printf("%s %u\n", (const char *)arg, COUNTED);
}

static void count_all(struct fw_plane *plane)
{
	for (kind = 0; kind < KINDS; kind++)
		run_job(plane, RULE_FLOWS, true, counted, (void *)(uintptr_t)kind_names[kind]);
	kind = KIND_VA;
	run_job(plane, RULE_FLOWS, false, counted, (void *)(uintptr_t) "flows");
}

static void make_core(struct fw_plane *plane, struct fw_core *core)
{
	plane->core[0] = core;
	plane->cores = 1;
	plane->ns_per_tsc = 1e9 / (double)rte_get_tsc_hz();
	core->wait_tsc = core->hold_tsc = UINT64_MAX;
	core->events = rte_ring_create_elem("events", sizeof(struct fw_event), 1u << 20,
		SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
	core->back = rte_ring_create_elem(
		"back", sizeof(uint32_t), 1u << 20, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
	pool = rte_pktmbuf_pool_create("packets", 2 * CHUNK - 1, 256, FW_PRIV_BYTES,
		RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	if (core->events == NULL || core->back == NULL || pool == NULL)
		die("no memory: a larger -m");
}

int main(int argc, char **argv)
{
	static const char *eal[] = {"bench-path", "--no-huge", "-m", "256", "--no-pci",
		"--no-telemetry", "--no-shconf", "--lcores", "0", "--log-level", "error", NULL};
	static struct fw_plane plane;
	static struct fw_core core;

	if (rte_eal_init(RTE_DIM(eal) - 1, (char **)(uintptr_t)eal) < 0)
		die("DPDK cannot start");
	make_core(&plane, &core);
	if (argc == 2 && strcmp(argv[1], "--rules") == 0) {
		measure_rules(&plane);
	} else if (argc == 2 && strcmp(argv[1], "--count") == 0) {
		count_all(&plane);
	} else {
		printf("  flows   empty Mpps  moetap Mpps   ratio ns/packet   (medians of %d)\n",
			TURNS);
		for (int i = 1; i < argc; i++)
			measure_flows(&plane, (uint32_t)strtoul(argv[i], NULL, 10));
	}
	rte_eal_cleanup();
	return EXIT_SUCCESS;
}
