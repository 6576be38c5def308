/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file path.h: the data path without ports, for tests: frames in, rounds out.
 *
 * A path has poll cores with tables, and the control core's rounds, all driven by one thread. Each
 * frame is an mbuf around a block of just its bytes, so that a read behind it is found. Every round
 * is checked for what must hold of any, and kept. What must hold and does not ends the program.
 */
#ifndef TESTS_FIRMWARE_PATH_H
#define TESTS_FIRMWARE_PATH_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>
#include <rte_ring_elem.h>

#include "count.h"
#include "map.h"
#include "rounds.h"

#define PATH_CORES 2u
#define PATH_FRAME 160u /* the longest head that a struct frame makes */

static const char *path_what = ""; /* what is being done, for messages */

#define MUST_SAY(cond, ...)                                                                        \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: %s: %s: ", __FILE__, __LINE__, path_what, #cond);  \
			fprintf(stderr, __VA_ARGS__);                                              \
			fputc('\n', stderr);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)
#define MUST(cond) MUST_SAY(cond, "does not hold")

struct path {
	struct fw_plane plane;
	struct fw_core *core[PATH_CORES];
	struct rte_mempool *pool;
	struct fw_config *config;
	struct mt_bank *bank;
	struct fw_rounds *rounds;
	struct mt_round **round; /* published, copies */
	uint32_t published, room;
	uint64_t frames;
	uint32_t receiver; /* core that gets the next frame */
};

/* ---- frames ---------------------------------------------------------------------------------- */

enum {
	OP_SEND_FIRST = 0x00,
	OP_SEND_MIDDLE = 0x01,
	OP_SEND_LAST = 0x02,
	OP_SEND_ONLY = 0x04,
	OP_SEND_ONLY_IMM = 0x05,
	OP_WRITE_FIRST = 0x06,
	OP_WRITE_MIDDLE = 0x07,
	OP_WRITE_LAST = 0x08,
	OP_WRITE_LAST_IMM = 0x09,
	OP_WRITE_ONLY = 0x0a,
	OP_WRITE_ONLY_IMM = 0x0b,
	OP_READ = 0x0c,
	OP_ACK = 0x11,
	OP_CAS = 0x13,
	OP_FETCH_ADD = 0x14,
	OP_CNP = 0x81,
};

/** An atomic that no standard knows: what is not address and operand is made up. */
struct form {
	uint8_t opcode, length, address, operand, width;
	bool little; /* the operand; the address is big-endian */
	uint8_t again; /* where the operand stands a second time, 0: nowhere */
};

/** A packet of a job whose rank r has the address 10.0.0.(r + 1). */
struct frame {
	uint64_t ns;
	uint64_t va, operand;
	uint32_t src, dst, qpn, psn;
	uint32_t length;  /* of the message */
	uint32_t payload; /* of this packet */
	uint32_t cut;	  /* bytes that the tap gives, 0: all heads */
	uint8_t opcode;
	bool marked; /* it met congestion */
	const struct form *form;
	uint32_t words; /* of the payload, that the frame has; the rest of it is cut */
	uint32_t word[4];
};

static inline void frame_put(uint8_t **p, uint64_t v, uint32_t bytes)
{
	for (uint32_t i = 0; i < bytes; i++)
		(*p)[i] = (uint8_t)(v >> 8 * (bytes - 1 - i));
	*p += bytes;
}

static inline void form_operand(uint8_t *p, const struct form *form, uint64_t v)
{
	for (uint32_t i = 0; i < form->width; i++)
		p[form->little ? i : form->width - 1u - i] = (uint8_t)(v >> 8 * i);
}

/** Masks and the like: all ones, all zeros, what looks like a counter. */
static inline void form_put(uint8_t *p, const struct frame *f)
{
	const struct form *form = f->form;

	for (uint32_t i = 0; i < form->length; i++)
		p[i] = i % 12 < 4 ? 0xff : i % 12 < 8 ? 0 : (uint8_t)(f->psn >> i % 4);
	form_operand(p + form->operand, form, f->operand);
	if (form->again != 0)
		form_operand(p + form->again, form, f->operand);
	p += form->address;
	frame_put(&p, f->va, 8);
}

/** The heads of a frame, and the words of its payload. @return bytes */
static inline uint32_t frame_make(uint8_t *data, const struct frame *f)
{
	const struct fw_opcode *op = &fw_opcodes[f->opcode];
	uint32_t ext = f->form != NULL ? f->form->length : op->ext;
	uint32_t udp = 8 + 12 + ext + f->payload + 4;
	uint8_t *p = data;

	memset(data, 0, PATH_FRAME);
	p += 12;
	frame_put(&p, 0x0800, 2);
	frame_put(&p, f->marked ? 0x4503 : 0x4502, 2);
	frame_put(&p, 20 + udp, 2);
	frame_put(&p, 0x4000, 4);
	frame_put(&p, 0x4011, 2);
	p += 2;
	frame_put(&p, 0x0a000001 + f->src, 4);
	frame_put(&p, 0x0a000001 + f->dst, 4);
	frame_put(&p, 0xc000, 2);
	frame_put(&p, 4791, 2);
	frame_put(&p, udp, 2);
	p += 2;
	frame_put(&p, f->opcode, 1);
	p += 3;
	frame_put(&p, f->qpn, 4);
	frame_put(&p, f->psn & FW_PSN_MASK, 4);
	if (f->form != NULL) {
		form_put(p, f);
	} else if (op->ext >= 16) {
		frame_put(&p, f->va, 8);
		frame_put(&p, 0x202, 4);
		if (op->kind == FW_KIND_ATOMIC)
			frame_put(&p, f->operand, 8);
		else
			frame_put(&p, f->length, 4);
	}
	memcpy(data + 54 + ext, f->word, f->words * sizeof(f->word[0]));
	return f->cut != 0 ? f->cut : 54u + ext + f->words * (uint32_t)sizeof(f->word[0]);
}

/* ---- the path ---------------------------------------------------------------------------------- */

static inline void path_start_dpdk(void)
{
	static const char *eal[] = {"test", "--no-huge", "-m", "64", "--no-pci", "--no-telemetry",
		"--no-shconf", "--lcores", "0", "--log-level", "error", NULL};

	MUST_SAY(rte_eal_init(RTE_DIM(eal) - 1, (char **)(uintptr_t)eal) >= 0, "%s",
		rte_strerror(rte_errno));
}

static inline struct fw_core *path_core(uint32_t id)
{
	struct fw_core *core = aligned_alloc(64, sizeof(*core));
	char name[32];

	MUST(core != NULL);
	memset(core, 0, sizeof(*core));
	core->id = id;
	core->order = core->obeyed = FW_EXIT; /* fw_poll() goes round once */
	core->hold_tsc = UINT64_MAX;
	snprintf(name, sizeof(name), "events%u", id);
	core->events = rte_ring_create_elem(name, sizeof(struct fw_event), FW_EVENTS, SOCKET_ID_ANY,
		RING_F_SP_ENQ | RING_F_SC_DEQ);
	snprintf(name, sizeof(name), "back%u", id);
	core->back = rte_ring_create_elem(name, sizeof(uint32_t), FW_EVENTS, SOCKET_ID_ANY,
		RING_F_SP_ENQ | RING_F_SC_DEQ);
	for (uint32_t from = 0; from < PATH_CORES; from++) {
		snprintf(name, sizeof(name), "in%u-%u", from, id);
		if (from != id)
			core->in[from] = rte_ring_create(
				name, 1024, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
		MUST(from == id || core->in[from] != NULL);
	}
	MUST(core->events != NULL && core->back != NULL);
	return core;
}

/** Everything that lasts: to be called once, after path_start_dpdk(). */
static inline void path_init(struct path *p)
{
	memset(p, 0, sizeof(*p));
	for (uint32_t i = 0; i < PATH_CORES; i++)
		p->plane.core[i] = p->core[i] = path_core(i);
	p->pool = rte_pktmbuf_pool_create(
		"packets", 2047, 0, FW_PRIV_BYTES, RTE_PKTMBUF_HEADROOM, SOCKET_ID_ANY);
	MUST(p->pool != NULL);
	MUST(rte_mbuf_dyn_rx_timestamp_register(
		     &p->plane.stamp_offset, &p->plane.stamp_flag) == 0);
	p->plane.stamp_ns = 1;
	p->plane.ns_per_tsc = 1;
}

/** What must hold of any round; keeps a copy. */
static inline void path_publish(void *arg, const struct mt_round *m)
{
	struct path *p = arg;
	struct mt_round *r = malloc(mt_slot_bytes(m->ranks, m->experts));
	uint64_t tokens = 0, bytes = 0;

	MUST(r != NULL);
	memcpy(r, m, mt_slot_bytes(m->ranks, m->experts));
	MUST(r->ranks == p->bank->ranks && r->experts == p->bank->experts);
	for (uint32_t i = 0; i < r->ranks * r->experts; i++) {
		tokens += mt_round_tokens(r)[i];
		bytes += mt_round_bytes(r)[i];
	}
	MUST_SAY(tokens == r->tokens, "%lu %lu", tokens, r->tokens);
	MUST(bytes == r->bytes);
	MUST(r->layer < p->bank->layers && r->pass < MT_PASSES);
	MUST(p->published == 0 || r->round > p->round[p->published - 1]->round);
	MUST(r->gaps == 0 || (r->quality & MT_Q_GAP));
	MUST(r->late == 0 || (r->quality & MT_Q_LATE));
	if (p->published == p->room) {
		p->room = p->room * 2 + 64;
		p->round = realloc(p->round, p->room * sizeof(*p->round));
		MUST(p->round != NULL);
	}
	p->round[p->published++] = r;
}

/** Begin with a bank, which is taken. */
static inline void path_use(struct path *p, struct mt_bank *bank, uint32_t cores, uint32_t flows)
{
	p->bank = bank;
	p->config = fw_config_new(bank, 1);
	MUST(p->config != NULL);
	p->plane.cores = cores;
	p->plane.fast = 0;
	p->frames = 0;
	p->receiver = 0;
	for (uint32_t i = 0; i < cores; i++) {
		struct fw_core *c = p->core[i];

		c->tables = fw_tables_new(p->config, flows);
		MUST(c->tables != NULL);
		memset(c->outcome, 0, sizeof(c->outcome));
		c->packets = c->bytes = c->marked = c->overruns = c->tsc = 0;
		c->stuck = c->fast = false;
		c->sent = c->done = c->idle = 0;
		c->wait_tsc = 0;
		rte_ring_reset(c->events);
		rte_ring_reset(c->back);
	}
	p->rounds = fw_rounds_new(&p->plane, path_publish, p);
	MUST(p->rounds != NULL);
}

static inline void path_drop(struct path *p)
{
	struct fw_tables *t[PATH_CORES];

	for (uint32_t i = 0; i < p->plane.cores; i++)
		t[i] = p->core[i]->tables;
	fw_rounds_free(p->rounds, t);
	for (uint32_t i = 0; i < p->plane.cores; i++)
		fw_tables_free(t[i]);
	fw_config_free(p->config);
	free(p->bank);
	for (uint32_t i = 0; i < p->published; i++)
		free(p->round[i]);
	p->published = 0;
}

static inline uint64_t path_outcome(const struct path *p, enum mt_outcome o)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < p->plane.cores; i++)
		n += p->core[i]->outcome[o];
	return n;
}

static inline void path_free_block(void *block, void *info)
{
	(void)info;
	free(block);
}

/** A frame as it is, received by core p->receiver. */
static inline void path_receive(struct path *p, const void *data, uint32_t bytes, uint64_t ns)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(p->pool);
	struct rte_mbuf_ext_shared_info *info;
	void *block = malloc(bytes);

	MUST_SAY(m != NULL, "a buffer was not given back");
	MUST(block != NULL || bytes == 0);
	if (bytes != 0)
		memcpy(block, data, bytes);
	/* the shared info lies in the mbuf's own data room, so the block has the frame only */
	info = (void *)RTE_ALIGN_CEIL((uintptr_t)m->buf_addr, 8);
	info->free_cb = path_free_block;
	info->fcb_opaque = NULL;
	rte_mbuf_ext_refcnt_set(info, 1);
	rte_pktmbuf_attach_extbuf(m, block, 0, (uint16_t)bytes, info);
	m->data_off = 0;
	m->data_len = (uint16_t)bytes;
	m->pkt_len = bytes;
	m->ol_flags |= p->plane.stamp_flag;
	*RTE_MBUF_DYNFIELD(m, p->plane.stamp_offset, uint64_t *) = ns;
	p->frames++;
	fw_receive(&p->plane, p->core[p->receiver], &m, 1, rte_rdtsc());
	if (p->plane.cores > 1) {
		for (uint32_t i = 0; i < p->plane.cores; i++)
			fw_poll(&p->plane, p->core[i]);
		p->receiver = (p->receiver + 1) % p->plane.cores;
	}
	if (p->core[0]->fast) { /* as fw_poll() does it */
		p->core[0]->fast = false;
		fw_start_all(p->core[0]);
	}
}

static inline void path_send(struct path *p, const struct frame *f)
{
	uint8_t data[PATH_FRAME];
	uint32_t bytes = frame_make(data, f);

	path_receive(p, data, bytes, f->ns);
}

/** The control core's turn. */
static inline void path_pump(struct path *p)
{
	for (uint32_t i = 0; i < p->plane.cores; i++)
		p->core[i]->sent = p->core[i]->done = rte_rdtsc();
	fw_rounds_pump(p->rounds);
}

static inline void path_flush(struct path *p)
{
	for (uint32_t i = 0; i < p->plane.cores; i++)
		fw_give_up(p->core[i], true);
	path_pump(p);
}

/** Nothing more comes: everything becomes rounds. Every packet has one outcome. */
static inline void path_end(struct path *p)
{
	uint64_t packets = 0, outcomes = 0;

	path_flush(p);
	fw_rounds_close_all(p->rounds, false);
	for (uint32_t i = 0; i < p->plane.cores; i++)
		packets += p->core[i]->packets;
	for (uint32_t o = 0; o < RTE_DIM(p->core[0]->outcome); o++)
		outcomes += path_outcome(p, o);
	MUST_SAY(packets == p->frames && outcomes == packets, "%lu frames, %lu packets, %lu outcomes",
		p->frames, packets, outcomes);
}

static inline struct fw_flow *path_flow(
	const struct path *p, uint32_t src, uint32_t dst, uint32_t qpn)
{
	for (uint32_t c = 0; c < p->plane.cores; c++) {
		const struct fw_tables *t = p->core[c]->tables;

		for (uint32_t i = 0; i < t->used; i++) {
			struct fw_flow *f = t->by_index[i];

			if (fw_cold_of(t, f)->src == src && fw_cold_of(t, f)->dst == dst &&
				(f->qpn & FW_KEY_QPN) == qpn)
				return f;
		}
	}
	return NULL;
}

/* ---- jobs -------------------------------------------------------------------------------------- */

/** How a job's tokens are known; JOB_UNREAD: not at all. */
enum job_rule { JOB_VA, JOB_QP, JOB_LENGTH, JOB_INDEX, JOB_UNREAD };

/** A made-up job and its map. */
struct job {
	uint32_t ranks, experts; /* experts: of a rank; its expert e uses queue pair e */
	uint32_t layers, micro_batches;
	const char *pattern;
	bool parity, counts, combine, heads, send;
	bool told; /* counts for all experts of a rank go in one payload; tokens are their witness */
	enum job_rule rule;
	uint32_t idle_us; /* 0: as the map has it when it does not say */
	const struct form *form; /* of its atomics, NULL: the standard one */
	const char *atomic_form; /* what the map says of it, NULL: nothing */
};

#define JOB_TOKEN 512u
#define JOB_COMBINE 1024u
#define JOB_SLOTS 32u
#define JOB_MTU 1024u
#define JOB_BARRIER 16u /* length of a control message */

static inline uint64_t job_area(const struct job *j)
{
	return (uint64_t)j->experts * j->ranks * JOB_SLOTS * JOB_COMBINE;
}

static inline uint64_t job_base(uint32_t rank)
{
	return 0x7f0000000000ull + rank * 0x100000000ull;
}

/** The queue pair at dst that carries what src sends to expert e of dst. */
static inline uint32_t job_qpn(uint32_t src, uint32_t e)
{
	return 0x11 + src * 256 + e;
}

static inline size_t job_rules(const struct job *j, char *text, size_t room)
{
	uint64_t area = job_area(j);
	char parity[64] = "";
	size_t n = 0;

	if (j->parity)
		snprintf(parity, sizeof(parity), " parity: {stride: %lu, count: 2},", 2 * area);
	n += (size_t)snprintf(text + n, room - n, "rules:\n");
	if (j->told)
		n += (size_t)snprintf(text + n, room - n,
			"- {name: told, rule: payload-counts, phase: dispatch, length: %u, payload: {width: 4}}\n",
			4 * j->experts);
	if (j->rule == JOB_VA)
		n += (size_t)snprintf(text + n, room - n,
			"- {name: token, rule: va, phase: dispatch, length: %u, size: %lu,%s expert: "
			"{stride: %u, count: %u, of: dst}, source: {stride: %u, count: %u}, token-bytes: "
			"%u}\n", JOB_TOKEN, area, parity, j->ranks * JOB_SLOTS * JOB_TOKEN, j->experts,
			JOB_SLOTS * JOB_TOKEN, j->ranks, JOB_TOKEN);
	else if (j->rule == JOB_INDEX)
		n += (size_t)snprintf(text + n, room - n,
			"- {name: token, rule: payload-index, phase: dispatch, length: %u, payload: {width: 4, "
			"of: all, count: 1, stride: %u}}\n", JOB_TOKEN, JOB_TOKEN);
	else if (j->rule == JOB_UNREAD)
		n += (size_t)snprintf(text + n, room - n,
			"- {name: token, rule: length, phase: control, length: [17, 1000000]}\n");
	else
		n += (size_t)snprintf(text + n, room - n,
			"- {name: token, rule: %s, phase: dispatch, length: [17, 1000000],%s token-bytes: "
			"%u}\n", j->rule == JOB_QP ? "qp" : "length",
			j->rule == JOB_QP ? "" : " expert: {fixed: 0},", JOB_TOKEN);
	if (j->combine && j->rule == JOB_VA)
		n += (size_t)snprintf(text + n, room - n,
			"- {name: combine, rule: va, phase: combine,%s length: %u, size: %lu}\n", parity,
			JOB_COMBINE, area);
	if (j->counts)
		n += (size_t)snprintf(text + n, room - n,
			"- {name: count, rule: atomic, phase: count, offset: %lu, size: %u,%s expert: "
			"{stride: %u, count: %u, of: dst}, source: {stride: 8, count: %u}, value: {scale: "
			"-1, add: -1, width: %u}, when: %s}\n", area, j->experts * j->ranks * 8, parity,
			j->ranks * 8, j->experts, j->ranks, j->form != NULL ? j->form->width : 8,
			j->form != NULL ? "negative" : "any");
	if (j->counts && j->form != NULL)
		n += (size_t)snprintf(text + n, room - n,
			"- {name: done, rule: atomic, phase: combine, offset: %lu, size: %u,%s value: "
			"{scale: 1, width: %u}, when: positive}\n", area, j->experts * j->ranks * 8, parity,
			j->form->width);
	return n + (size_t)snprintf(text + n, room - n,
			   "- {name: barrier, rule: length, phase: %s, length: %u}\n",
			   j->combine && j->rule != JOB_VA ? "combine" : "control", JOB_BARRIER);
}

static inline struct mt_bank *job_bank(const struct job *j)
{
	static char text[65536];
	struct mt_error err = {""};
	struct mt_bank *bank;
	size_t n = (size_t)snprintf(text, sizeof(text),
		"moetap-map: 1\njob: made-up\npattern: %s\nlayers: %u\nmicro-batches: %u\n"
		"experts-per-rank: %u\ntap: %s\n", j->pattern ? j->pattern : "inference", j->layers,
		j->micro_batches ? j->micro_batches : 1, j->experts, j->heads ? "heads" : "all");

	if (j->atomic_form != NULL)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "atomic-form: %s\n", j->atomic_form);
	if (j->idle_us != 0)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "idle-gap-us: %u\n", j->idle_us);
	n += (size_t)snprintf(text + n, sizeof(text) - n, "ranks:\n");
	for (uint32_t r = 0; r < j->ranks; r++)
		n += (size_t)snprintf(text + n, sizeof(text) - n,
			"- {rank: %u, address: 10.0.0.%u, base: 0x%lx}\n", r, r + 1, job_base(r));
	if (j->rule == JOB_QP) {
		n += (size_t)snprintf(text + n, sizeof(text) - n, "flows:\n");
		for (uint32_t s = 0; s < j->ranks; s++)
			for (uint32_t e = 0; e < j->ranks * j->experts; e++)
				if (e / j->experts != s)
					n += (size_t)snprintf(text + n, sizeof(text) - n,
						"- {src: %u, dst: %u, qpn: %u, expert: %u}\n", s, e / j->experts,
						job_qpn(s, e % j->experts), e);
	}
	n += job_rules(j, text + n, sizeof(text) - n);
	MUST(n < sizeof(text));
	MUST_SAY(mt_map_parse(text, n, "map", &bank, &err) == 0, "%s\n%s", err.text, text);
	return bank;
}

/** Whether a job sends its tokens one by one. */
static inline bool job_by_token(const struct job *j)
{
	return j->rule == JOB_VA || j->rule == JOB_INDEX;
}

/** Frames of a job, without time and PSN. */
static inline struct frame job_token(const struct job *j, uint32_t src, uint32_t dst, uint32_t e,
	uint32_t slot, uint32_t parity)
{
	return (struct frame){.words = j->rule == JOB_INDEX, .word = {dst * j->experts + e},
		.src = src, .dst = dst, .qpn = job_qpn(src, e),
		.opcode = j->send ? OP_SEND_ONLY : OP_WRITE_ONLY, .length = JOB_TOKEN, .payload = JOB_TOKEN,
		.va = job_base(dst) + (j->parity ? parity : 0) * 2 * job_area(j) +
		      ((uint64_t)(e * j->ranks + src) * JOB_SLOTS + slot % JOB_SLOTS) * JOB_TOKEN};
}

static inline struct frame job_count(const struct job *j, uint32_t src, uint32_t dst, uint32_t e,
	uint32_t tokens, uint32_t parity)
{
	return (struct frame){.src = src, .dst = dst, .qpn = job_qpn(src, e),
		.opcode = j->form != NULL ? j->form->opcode : OP_FETCH_ADD, .form = j->form,
		.operand = -(uint64_t)tokens - 1,
		.va = job_base(dst) + (j->parity ? parity : 0) * 2 * job_area(j) + job_area(j) +
		      (e * j->ranks + src) * 8};
}

/** Counts of all experts of dst, in one message on the queue pair of its expert e. */
static inline struct frame job_told(
	const struct job *j, uint32_t src, uint32_t dst, uint32_t e, const uint32_t *tokens)
{
	struct frame f = {.src = src, .dst = dst, .qpn = job_qpn(src, e), .opcode = OP_WRITE_ONLY,
		.va = job_base(dst), .length = 4 * j->experts, .payload = 4 * j->experts,
		.words = j->experts};

	memcpy(f.word, tokens, j->experts * sizeof(*tokens));
	return f;
}

/** The flag behind the results of an expert. */
static inline struct frame job_done(
	const struct job *j, uint32_t src, uint32_t dst, uint32_t e, uint32_t parity)
{
	struct frame f = job_count(j, src, dst, e, 0, parity);

	f.operand = 1;
	return f;
}

static inline struct frame job_combine(
	const struct job *j, uint32_t src, uint32_t dst, uint32_t e, uint32_t parity)
{
	uint32_t length = j->rule == JOB_VA ? JOB_COMBINE : JOB_BARRIER;

	return (struct frame){.src = src, .dst = dst, .qpn = job_qpn(src, e), .opcode = OP_WRITE_ONLY,
		.va = job_base(dst) + (j->parity ? parity : 0) * 2 * job_area(j), .length = length,
		.payload = length};
}

#endif
