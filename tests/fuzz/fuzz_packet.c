/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Any frames through the data path, and rounds of them. The first byte chooses a job and its map,
 * the second the cores and what the rest of the input is: frames, or the chance by which a job
 * sends and a tap damages (sim.h), whose rounds then have to be the truth or say that they are not.
 *
 * A first byte from 0xf0 on is a job over TCP: segments of frames that are mostly right. One from
 * 0xe0 on is a job with counts among other SENDs, rows of weights, or immediates.
 *
 * A frame is a byte that says of what kind, then either its bytes behind their number, or few bytes
 * that choose what a plausible packet has. Every packet has one outcome, every round is consistent,
 * and there are no more rounds than epochs.
 */
#include <sys/prctl.h>

#include "congestion.h"
#include "sim.h"
#include "tcp.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct form forms[] = {{0x15, 44, 0, 12, 8, false, 0}, {0xe1, 36, 12, 28, 4, true, 0}};

static const struct job jobs[] = {
	{.ranks = 3, .experts = 2, .layers = 3, .parity = true, .counts = true, .combine = true},
	{.ranks = 2, .experts = 4, .layers = 2, .counts = true, .combine = true},
	{.ranks = 3, .experts = 2, .layers = 2, .counts = true, .combine = true, .heads = true},
	{.ranks = 2, .experts = 2, .layers = 3, .parity = true, .combine = true},
	{.ranks = 3, .experts = 2, .layers = 3, .combine = true, .pattern = "training"},
	{.ranks = 3, .experts = 1, .layers = 2, .combine = true, .rule = JOB_LENGTH, .send = true},
	{.ranks = 2, .experts = 3, .layers = 2, .combine = true, .rule = JOB_QP, .send = true},
	{.ranks = 3, .experts = 1, .layers = 2, .rule = JOB_LENGTH, .idle_us = 200},
	{.ranks = 3,
		.experts = 2,
		.layers = 2,
		.counts = true,
		.combine = true,
		.form = &forms[0],
		.atomic_form = "learn"},
	{.ranks = 2,
		.experts = 2,
		.layers = 2,
		.parity = true,
		.counts = true,
		.combine = true,
		.form = &forms[1],
		.atomic_form = "learn"},
	{.ranks = 3, .experts = 2, .layers = 2, .told = true, .combine = true},
	{.ranks = 2, .experts = 3, .layers = 3, .told = true, .combine = true, .rule = JOB_INDEX},
	{.ranks = 3,
		.experts = 2,
		.layers = 2,
		.told = true,
		.combine = true,
		.rule = JOB_QP,
		.send = true},
	{.ranks = 3, .experts = 1, .layers = 2, .told = true, .combine = true, .rule = JOB_LENGTH},
	{.ranks = 3, .experts = 3, .layers = 2, .told = true, .rule = JOB_UNREAD},
	{.ranks = 2, .experts = 2, .layers = 2, .combine = true, .rule = JOB_INDEX},
};

static struct path path;

struct input {
	const uint8_t *at, *end;
	uint64_t chance; /* when the bytes are used up */
};

static uint32_t byte(struct input *in)
{
	return in->at < in->end ? *in->at++ : 0;
}

static uint32_t draw(void *arg)
{
	struct input *in = arg;
	uint32_t v = 0;

	if (in->end - in->at >= 2) {
		v = (uint32_t)(in->at[0] | in->at[1] << 8);
		in->at += 2;
		return v * 0x9e3779b1u; /* all bits, so that any remainder can be had */
	}
	in->chance = in->chance * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(in->chance >> 32);
}

/** Without arguments of its own the target starts from the seeds; what is given comes later. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static char seeds[] = "-seed_inputs=" FUZZ_SEEDS;
	char **more = calloc((size_t)*argc + 2, sizeof(*more));

	prctl(PR_SET_THP_DISABLE, 1, 0, 0,
		0); /* tables live for one input: do not clear megabytes */
	path_start_dpdk();
	path_init(&path);
	if (more == NULL)
		return 0;
	more[0] = (*argv)[0];
	more[1] = seeds;
	memcpy(&more[2], &(*argv)[1], ((size_t)*argc - 1) * sizeof(*more));
	*argc += 1;
	*argv = more;
	return 0;
}

static void send_bytes(struct path *p, struct input *in, uint64_t ns)
{
	uint32_t bytes = byte(in) | byte(in) << 8;

	bytes = RTE_MIN(bytes, (uint32_t)(in->end - in->at));
	path_receive(p, in->at, bytes, ns);
	in->at += bytes;
}

struct model {
	uint32_t psn[SIM_RANKS][SIM_RANKS][SIM_EXPERTS];
	uint64_t ns;
};

/** Where the PSN of a packet lies: mostly the next one. */
static uint32_t choose_psn(struct input *in, uint32_t next)
{
	uint32_t v = byte(in);

	switch (v >> 6) {
	case 0:
		return next + (v & 63);
	case 1:
		return next - (v & 63);
	case 2:
		return v == 0x80   ? next + 0x10001
		       : v == 0x81 ? next - 0x10001
				   : next + (v & 63) * 512;
	default:
		return next;
	}
}

static void send_plausible(struct path *p, const struct job *j, struct input *in, struct model *m)
{
	static const uint8_t opcodes[] = {OP_SEND_FIRST, OP_SEND_MIDDLE, OP_SEND_LAST, OP_SEND_ONLY,
		OP_WRITE_FIRST, OP_WRITE_MIDDLE, OP_WRITE_LAST, OP_WRITE_LAST_IMM,
		OP_WRITE_ONLY_IMM, OP_READ, OP_ACK, OP_CAS, 0x1c, 0x15, OP_CNP, OP_WRITE_ONLY};
	uint32_t who = byte(in), what = byte(in), src = who % j->ranks, dst = who / 4 % j->ranks;
	uint32_t e = who / 16 % j->experts, parity = what >> 7, tokens = what >> 4 & 7;
	uint32_t *next = &m->psn[src][dst][e], extra;
	struct frame f;

	if (what % 4 == 0 && j->told)
		f = job_told(j, src, dst, e, (uint32_t[]){tokens, tokens / 2, parity - 1});
	else if (what % 4 == 0)
		f = job_count(j, src, dst, e, tokens, parity);
	else if (what % 4 == 1)
		f = job_combine(j, src, dst, e, parity);
	else
		f = job_token(j, src, dst, e, tokens, parity);
	f.psn = choose_psn(in, *next);
	if (what % 16 == 3) { /* not as the job would have it */
		extra = byte(in);
		f.opcode = opcodes[extra % 16];
		f.length = extra >> 4 == 0 ? UINT32_MAX : (extra >> 4) * 300;
		f.payload = RTE_MIN(f.length, JOB_MTU);
		extra = byte(in);
		f.va += (uint64_t)(int8_t)extra * 64;
		f.operand = extra < 32 ? (uint64_t)INT64_MIN + extra : f.operand;
		f.marked = extra % 8 == 1;
		f.cut = extra % 8 == 0 ? byte(in) % 96 : 0;
	}
	f.ns = m->ns;
	*next = (f.psn + 1) & FW_PSN_MASK;
	path_send(p, &f);
}

static void play_frames(struct path *p, const struct job *j, struct input *in)
{
	struct model m = {.ns = 1700000000000000000ull};

	for (uint32_t n = 0; in->at < in->end && n < 4096; n++) {
		uint32_t kind = byte(in);

		m.ns += (kind >> 3 & 3) == 3 ? 1000000 : (kind >> 3 & 3) * 1000;
		if (kind == 0xff)
			m.ns = byte(in); /* a clock may jump */
		if (kind % 8 == 0)
			send_bytes(p, in, m.ns);
		else
			send_plausible(p, j, in, &m);
		if (kind >> 5 == 7)
			path_pump(p);
		else if (kind >> 5 == 6)
			path_flush(p);
		else if (kind == 0xa7)
			fw_rounds_close_all(p->rounds, true);
	}
	path_end(p);
}

/** A pair of ranks has no mark and no notification that no packet had. */
static void check_congestion(const struct fw_core *core)
{
	const struct fw_congested_table *kept = core->tables->congested;
	uint64_t marked = 0, notified = 0, by_flow = 0, ranks = core->tables->config->bank->ranks;

	for (uint64_t i = 0; i < ranks * ranks; i++) {
		marked += core->tables->congestion[i].marked;
		notified += core->tables->congestion[i].notified;
	}
	MUST(marked <= core->marked && core->marked <= core->packets);
	MUST(notified <= core->outcome[MT_OUT_CNP]);
	for (uint32_t i = 0; i < FW_CONGESTED && kept->used != 0; i++)
		by_flow += kept->flow[i].packets;
	MUST(by_flow + kept->others == marked + notified);
}

/** A round that is not empty has used up an epoch; of lost ones there are not many in a row. */
static void check_bounds(const struct path *p)
{
	uint64_t epochs = 0, rounds = 0;

	for (uint32_t c = 0; c < p->plane.cores; c++) {
		const struct fw_tables *t = p->core[c]->tables;

		check_congestion(p->core[c]);
		for (uint32_t i = 0; p->config->by_source && i < p->bank->ranks; i++)
			epochs += t->sources[i].label;
		for (uint32_t i = 0; !p->config->by_source && i < t->used; i++)
			epochs += t->by_index[i]->label;
	}
	for (uint32_t i = 0; i < p->published; i++)
		rounds += p->round[i]->first_ns != 0;
	MUST(rounds <= epochs);
	MUST(p->published <= (rounds + 1) * (FW_LAG + 1));
}

static void play_job(struct path *p, const struct job *j, struct input *in)
{
	uint32_t rounds = 8 + byte(in) % 24, how = byte(in), at = 4 + byte(in) % (rounds - 7);
	struct sim s;

	sim_begin(&s, j, draw, in);
	s.tokens = 1 + byte(in) % 8;
	s.retransmit = how & 8 ? 2000 : 0;
	for (uint32_t i = 0; i < rounds; i++)
		sim_round(&s);
	sim_sort(&s);
	if (how % 8 == 1)
		sim_lose(&s, 1000, 2, rounds - 3);
	else if (how % 8 == 2)
		sim_lose_round(&s, at, byte(in) % j->ranks, how & 16);
	else if (how % 8 == 3)
		sim_lose_round(&s, at, UINT32_MAX, how & 16);
	else if (how % 8 == 4 && !p->config->by_source)
		sim_shuffle(&s, 1 + byte(in) % 100);
	sim_play(&s, p, 1 + byte(in) % 64);
	/* while a form is learnt, rounds may say more than need be: firmware/atomic looks at that
	 */
	sim_check(&s, p, (how % 8 == 0 || how % 8 > 3) && j->form == NULL);
	sim_free(&s);
}

/* ---- streams --------------------------------------------------------------------------------- */

#define TCP_RANKS 3u
#define TCP_HEAD "header: 12, length: {at: 0, width: 4, add: 12}, match: [{at: 4, width: 1, value: "
#define TCP_OTHER                                                                                  \
	"- {name: combine, rule: flow, phase: combine, frame: {" TCP_HEAD "3}]}}\n"                \
	"- {name: other, rule: flow, phase: control, frame: {" TCP_HEAD "1}]}}\n"

/** Rules of phase dispatch, and what stands before them. */
static const struct {
	const char *map, *rule;
} tcp_maps[] = {
	{"tcp: {connect: 3}\n",
		"2}], bytes: {at: 8, width: 4}}, expert: {fixed: 1}, token-bytes: 8}\n"},
	{"tcp: {ports: 5000, accept: 70}\n",
		"2}], bytes: {at: 0, width: 4}, round: {at: 5, width: 1}}, "
		"expert: {fixed: 0}, token-bytes: 8}\n"},
	{"", "2}]}, payload: {at: 4, width: 4, of: all}}\n"},
	{"idle-gap-us: 500\n", "2}]}, payload: {width: 8, encoding: complement}}\n"},
};

static const struct mt_bank *tcp_bank(uint32_t i)
{
	static struct mt_bank *banks[RTE_DIM(tcp_maps)];
	static char text[4096];
	struct mt_error err = {""};
	int n;

	if (banks[i] != NULL)
		return banks[i];
	n = snprintf(text, sizeof(text),
		"moetap-map: 1\njob: fuzz\npattern: inference\nlayers: 2\nexperts-per-rank: "
		"2\n%sranks:\n"
		"- {rank: 0, address: 10.0.0.1}\n- {rank: 1, address: 10.0.0.2}\n"
		"- {rank: 2, address: 10.0.0.3}\nrules:\n"
		"- {name: dispatch, rule: flow, phase: dispatch, frame: {" TCP_HEAD "%s" TCP_OTHER,
		tcp_maps[i].map, tcp_maps[i].rule);

	MUST(n > 0 && n < (int)sizeof(text));
	MUST_SAY(mt_map_parse(text, (size_t)n, "map", &banks[i], &err) == 0, "%s", err.text);
	return banks[i];
}

/** Frames of a stream, or any bytes. @return bytes */
static uint32_t make_payload(struct input *in, uint8_t *at, uint32_t room)
{
	uint32_t frames = byte(in) % 8, n = 0;

	for (uint32_t i = 0; i < frames && n + 12 <= room; i++) {
		uint32_t data = byte(in) * (frames == 7 ? 65536u : 1u);

		memset(at + n, 0, 12);
		memcpy(at + n, &data, sizeof(data));
		at[n + 4] = (uint8_t)(1 + byte(in) % 4);
		at[n + 5] = (uint8_t)byte(in);
		at[n + 8] = at[n];
		n += 12;
		data = RTE_MIN(data, room - n);
		memset(at + n, data & 1 ? 0 : 0xff, data);
		n += data;
	}
	for (uint32_t i = byte(in) % 16; i > 0 && n < room; i--)
		at[n++] = (uint8_t)byte(in);
	return n;
}

static void send_segment(struct path *p, struct input *in, uint32_t *next, uint64_t ns)
{
	static uint8_t data[54 + 1500];
	uint32_t who = byte(in), how = byte(in), src = who % TCP_RANKS, dst = who / 4 % TCP_RANKS;
	uint32_t n, seq, *at = &next[(src * TCP_RANKS + dst) * 2 + (who >> 6 & 1)], cut = 0;
	uint8_t *h = data + 12, *payload = data + 54;
	bool syn = how % 16 == 15, v6 = how % 16 == 14;

	n = make_payload(in, payload, 1500);
	seq = *at;
	if (how % 16 == 13)
		seq += byte(in) << (how >> 4) * 2;
	else if (how % 16 == 12)
		seq -= byte(in) << (how >> 4);
	else if (how % 16 == 11)
		cut = RTE_MIN(byte(in), n);
	*at = seq + n + syn;
	if (how % 16 == 10) /* only in the tap */
		return;
	memset(data, 0, 54);
	frame_put(&h, v6 ? 0x86dd : 0x0800, 2);
	frame_put(&h, 0x4500, 2);
	frame_put(&h, 40 + n, 2);
	frame_put(&h, 0x4000, 4);
	frame_put(&h, 0x4006, 2);
	h += 2;
	frame_put(&h, 0x0a000001 + src, 4);
	frame_put(&h, 0x0a000001 + dst, 4);
	frame_put(&h, src < dst ? 40000 + (who >> 6) : 5000, 2);
	frame_put(&h, src < dst ? 5000 : 40000 + (who >> 6), 2);
	frame_put(&h, seq, 4);
	frame_put(&h, 0, 4);
	frame_put(&h, how == 0xf9 ? 0xf0 : 0x50, 1);
	frame_put(&h, syn ? (src < dst ? 0x02 : 0x12) : 0x10, 1);
	path_receive(p, data, 54 + n - cut, ns);
}

static void play_streams(struct path *p, struct input *in)
{
	uint32_t next[TCP_RANKS * TCP_RANKS * 2];
	uint64_t ns = 1700000000000000000ull;

	for (uint32_t i = 0; i < RTE_DIM(next); i++)
		next[i] = i % 3 == 0 ? 0u - i * 50 : i << 20;
	for (uint32_t n = 0; in->at < in->end && n < 4096; n++) {
		uint32_t kind = byte(in);

		ns += (kind >> 3 & 3) == 3 ? 1000000 : (kind >> 3 & 3) * 1000;
		if (kind % 8 == 0)
			send_bytes(p, in, ns);
		else
			send_segment(p, in, next, ns);
		if (kind >> 5 == 7)
			path_pump(p);
		else if (kind >> 5 == 6)
			path_flush(p);
		else if (kind == 0xa7)
			fw_rounds_close_all(p->rounds, true);
	}
	path_end(p);
}

static void try_streams(struct input *in, uint32_t which, uint32_t how)
{
	struct mt_bank *bank = malloc(tcp_bank(which)->bytes);

	if (bank == NULL)
		return;
	memcpy(bank, tcp_bank(which), tcp_bank(which)->bytes);
	path_use(&path, bank, 1 + how % PATH_CORES, how & 4 ? 4 : 64);
	play_streams(&path, in);
	check_bounds(&path);
	path_drop(&path);
}

/* ---- rules that jobs of sim.h do not have ------------------------------------------------------
 */

#define TWO_RANKS                                                                                  \
	"pattern: inference, layers: 2, experts-per-rank: 4, ranks: ["                             \
	"{rank: 0, address: [10.0.0.1, \"fd77::1\"]}, {rank: 1, address: [10.0.0.2, "              \
	"\"fd77::2\"]}], rules: ["

static const char *const other_maps[] = {
	"{moetap-map: 1, job: sent, " TWO_RANKS
	"{name: counts, rule: payload-counts, phase: dispatch, length: 41, payload: {at: 9, width: "
	"8}, "
	"match: [{at: 0, width: 1, mask: 0x1f, value: 2}, "
	"{at: 5, width: 4, mask: 0xffffff00, value: 0xfffff300}]}, "
	"{name: parts, rule: payload-counts, phase: dispatch, length: [0x21, 0x2000], "
	"payload: {at: 1, width: 4, of: all, encoding: complement}, "
	"match: [{at: 63, width: 1, modulo: 3, value: 1}]}, "
	"{name: other, rule: length, phase: control, length: [0, 0x7fffffff]}]}",
	"{moetap-map: 1, job: dense, " TWO_RANKS
	"{name: weights, rule: payload-dense, phase: dispatch, length: [32, 4096, 32], "
	"payload: {width: 4, of: dst}}, "
	"{name: result, rule: length, phase: combine, length: [4097, 0x7fffffff]}]}",
	"{moetap-map: 1, job: imm, " TWO_RANKS
	"{name: token, rule: length, phase: dispatch, length: [16, 0x7fffffff], expert: {fixed: "
	"1}, token-bytes: 16}, "
	"{name: count, rule: imm, phase: count, length: 0, imm: {mask: 0x80, value: 0x80}, "
	"place: {shift: 0, bits: 7, unit: 8}, size: 64, expert: {stride: 16, count: 4, of: dst}, "
	"source: {stride: 8, count: 2}, "
	"value: {shift: 8, bits: 8, signed: 1, scale: -1, add: -1}, when: negative}, "
	"{name: done, rule: imm, phase: combine, length: 0, imm: {mask: 0x80, value: 0x80}, "
	"place: {shift: 0, bits: 7, unit: 8}, size: 64, value: {shift: 8, bits: 8, signed: 1, "
	"scale: 1}, when: positive}]}",
};

static void try_others(struct input *in, uint32_t which, uint32_t how)
{
	static struct mt_bank *banks[RTE_DIM(other_maps)];
	struct mt_bank *bank = banks[which];
	struct mt_error err = {""};
	struct mt_bank *copy;

	if (bank == NULL)
		MUST_SAY(mt_map_parse(other_maps[which], strlen(other_maps[which]), "map", &bank,
				 &err) == 0,
			"%s", err.text);
	banks[which] = bank;
	copy = malloc(bank->bytes);
	if (copy == NULL)
		return;
	memcpy(copy, bank, bank->bytes);
	path_use(&path, copy, 1 + how % PATH_CORES, how & 4 ? 4 : 64);
	play_frames(&path, &jobs[1], in); /* of two ranks */
	check_bounds(&path);
	path_drop(&path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {.at = data, .end = data + size, .chance = 1};
	static struct mt_bank *banks[RTE_DIM(jobs)];
	uint32_t first = byte(&in), which = first % RTE_DIM(jobs), how = byte(&in);
	struct mt_bank *bank;

	if (first >= 0xf0) {
		try_streams(&in, first % RTE_DIM(tcp_maps), how);
		return 0;
	}
	if (first >= 0xe0) {
		try_others(&in, first % RTE_DIM(other_maps), how);
		return 0;
	}
	if (banks[which] == NULL)
		banks[which] = job_bank(&jobs[which]);
	bank = malloc(banks[which]->bytes);
	if (bank == NULL)
		return 0;
	memcpy(bank, banks[which], banks[which]->bytes);
	path_use(&path, bank, 1 + how % PATH_CORES, how & 4 ? 4 : 64);
	if (how & 2 && !(how & 4))
		play_job(&path, &jobs[which], &in);
	else
		play_frames(&path, &jobs[which], &in);
	check_bounds(&path);
	path_drop(&path);
	return 0;
}
