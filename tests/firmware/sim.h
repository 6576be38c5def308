/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file sim.h: a made-up job that sends, a tap that damages, and the truth about both.
 *
 * Ranks go in lockstep as real ones do: a rank combines when all its tokens of the round are there,
 * and dispatches again when all its combines are. All chance comes from one function, so that a
 * seed or a fuzzer's bytes decide everything. A round that is published without a word about its
 * quality must be the truth: sim_check().
 */
#ifndef TESTS_FIRMWARE_SIM_H
#define TESTS_FIRMWARE_SIM_H

#include "path.h"

#define SIM_RANKS 4u
#define SIM_EXPERTS 4u /* of a rank */
#define SIM_MEMORY 32u /* packets that a queue pair can send again */

struct sim_packet {
	struct frame f;
	uint64_t key;	/* of the order at the tap */
	uint32_t round; /* in the order of the job */
	bool dispatch, gone;
};

struct sim {
	const struct job *j;
	uint32_t (*draw)(void *arg);
	void *arg;
	uint32_t tokens;     /* most that go to an expert */
	uint32_t retransmit; /* of 65536 packets, how many make their queue pair go back */
	struct sim_packet *out;
	size_t n, room;
	uint32_t psn[SIM_RANKS][SIM_RANKS][SIM_EXPERTS];
	uint32_t first;	  /* round of this life of the job */
	uint32_t qpn_add; /* other queue pairs after a restart */
	uint64_t ready[SIM_RANKS];
	uint32_t *truth; /* [rounds][ranks][all experts] */
	uint64_t *number; /* [rounds]: what moetap should call them */
	uint32_t rounds;
	uint64_t next_number;
	bool shuffled;
};

static inline uint32_t sim_draw(struct sim *s, uint32_t n)
{
	return n == 0 ? 0 : s->draw(s->arg) % n;
}

static inline uint32_t sim_experts(const struct sim *s)
{
	return s->j->ranks * s->j->experts;
}

/** New queue pairs. Their PSNs are far from those of old ones: near ones moetap cannot tell apart. */
static inline void sim_connect(struct sim *s)
{
	for (uint32_t i = 0; i < SIM_RANKS; i++)
		for (uint32_t k = 0; k < SIM_RANKS; k++)
			for (uint32_t e = 0; e < SIM_EXPERTS; e++)
				s->psn[i][k][e] =
					(s->psn[i][k][e] + FW_RESYNC + 4096 +
						sim_draw(s, FW_PSN_MASK - 4 * FW_RESYNC)) & FW_PSN_MASK;
}

static inline void sim_begin(
	struct sim *s, const struct job *j, uint32_t (*draw)(void *arg), void *arg)
{
	memset(s, 0, sizeof(*s));
	s->j = j;
	s->draw = draw;
	s->arg = arg;
	s->tokens = 4;
	for (uint32_t i = 0; i < SIM_RANKS; i++)
		s->ready[i] = 1700000000000000000ull;
	sim_connect(s);
}

static inline void sim_free(struct sim *s)
{
	free(s->out);
	free(s->truth);
	free(s->number);
}

/* ---- sending ------------------------------------------------------------------------------------ */

/** What one rank has posted on one queue pair. */
struct sim_queue {
	struct sim_packet *p;
	uint32_t n, room, sent;
};

static inline void sim_post_one(
	struct sim *s, struct sim_queue *q, const struct frame *f, bool dispatch)
{
	uint32_t *psn = &s->psn[f->src][f->dst][(f->qpn - 0x11) % 256];

	if (q->n == q->room) {
		q->room = q->room * 2 + 32;
		q->p = realloc(q->p, q->room * sizeof(*q->p));
		MUST(q->p != NULL);
	}
	q->p[q->n] = (struct sim_packet){.f = *f, .round = s->rounds - 1, .dispatch = dispatch};
	q->p[q->n].f.psn = *psn;
	q->p[q->n++].f.qpn += s->qpn_add;
	*psn = (*psn + 1) & FW_PSN_MASK;
}

/** A message, in packets of the path MTU. */
static inline void sim_post(struct sim *s, struct sim_queue *q, struct frame f, bool dispatch)
{
	bool send = f.opcode == OP_SEND_ONLY;
	uint32_t left = f.length;

	if (left <= JOB_MTU) {
		sim_post_one(s, q, &f, dispatch);
		return;
	}
	for (bool first = true; left != 0; first = false) {
		f.payload = RTE_MIN(left, JOB_MTU);
		left -= f.payload;
		f.opcode = first ? OP_WRITE_FIRST : left != 0 ? OP_WRITE_MIDDLE : OP_WRITE_LAST;
		if (send)
			f.opcode = first ? OP_SEND_FIRST : left != 0 ? OP_SEND_MIDDLE : OP_SEND_LAST;
		sim_post_one(s, q, &f, dispatch);
	}
}

static inline void sim_put(struct sim *s, const struct sim_packet *p, uint64_t ns)
{
	if (s->n == s->room) {
		s->room = s->room * 2 + 1024;
		s->out = realloc(s->out, s->room * sizeof(*s->out));
		MUST(s->out != NULL);
	}
	s->out[s->n] = *p;
	s->out[s->n].f.ns = ns;
	s->out[s->n++].key = ns;
}

/** Send what rank src has posted, its queue pairs in turns by chance. */
static inline void sim_drain(struct sim *s, struct sim_queue (*q)[SIM_EXPERTS], uint32_t src,
	uint64_t *arrived)
{
	struct sim_queue *busy[SIM_RANKS * SIM_EXPERTS], *b;
	uint64_t ns = s->ready[src];
	uint32_t n = 0, at, back;

	for (uint32_t d = 0; d < s->j->ranks; d++)
		for (uint32_t e = 0; e < s->j->experts; e++)
			if (q[d][e].n != 0)
				busy[n++] = &q[d][e];
	while (n != 0) {
		at = sim_draw(s, n);
		b = busy[at];
		ns += 1 + sim_draw(s, 2000);
		sim_put(s, &b->p[b->sent], ns);
		b->sent++;
		if (sim_draw(s, 65536) < s->retransmit) {
			back = 1 + sim_draw(s, RTE_MIN(b->sent, SIM_MEMORY));
			for (uint32_t i = b->sent - RTE_MIN(back, b->sent); i < b->sent; i++) {
				ns += 1 + sim_draw(s, 2000);
				sim_put(s, &b->p[i], ns);
			}
		}
		arrived[b->p[0].f.dst] = RTE_MAX(arrived[b->p[0].f.dst], ns);
		arrived[src] = RTE_MAX(arrived[src], ns);
		if (b->sent == b->n)
			busy[at] = busy[--n];
	}
	for (uint32_t d = 0; d < s->j->ranks; d++)
		for (uint32_t e = 0; e < s->j->experts; e++)
			q[d][e].n = q[d][e].sent = 0;
}

/** The tokens of src for expert e of d, and what announces them. */
static inline void sim_post_tokens(struct sim *s, struct sim_queue *q, uint32_t src, uint32_t d,
	uint32_t e, uint32_t n, uint32_t parity)
{
	const struct job *j = s->j;
	struct frame f = job_token(j, src, d, e, 0, parity);

	if (!job_by_token(j) && n != 0) {
		f.length = n * JOB_TOKEN;
		f.payload = f.length;
		sim_post(s, q, f, true);
	}
	for (uint32_t i = 0; job_by_token(j) && i < n; i++)
		sim_post(s, q, job_token(j, src, d, e, i, parity), true);
	if (j->counts)
		sim_post(s, q, job_count(j, src, d, e, n, parity), true);
}

static inline void sim_post_dispatch(
	struct sim *s, struct sim_queue (*q)[SIM_EXPERTS], uint32_t src, uint32_t parity)
{
	const struct job *j = s->j;
	bool announced = j->told || (j->counts && j->form == NULL);
	uint32_t *truth = s->truth + ((size_t)(s->rounds - 1) * j->ranks + src) * sim_experts(s);

	for (uint32_t d = 0; d < j->ranks; d++) {
		uint32_t told = j->told && d != src ? 1 + sim_draw(s, 2) : 0; /* before, or behind */

		for (uint32_t e = 0; e < j->experts && d != src; e++) {
			uint32_t n = sim_draw(s, s->tokens + 1);

			/* one that waits for nothing would not be seen to dispatch at all */
			truth[d * j->experts + e] = !announced && n == 0 && e == 0 ? 1 : n;
		}
		if (told == 1)
			sim_post(s, &q[d][0], job_told(j, src, d, 0, truth + d * j->experts), true);
		for (uint32_t e = 0; e < j->experts && d != src; e++)
			sim_post_tokens(s, &q[d][e], src, d, e, truth[d * j->experts + e], parity);
		if (told == 2)
			sim_post(s, &q[d][0], job_told(j, src, d, 0, truth + d * j->experts), true);
	}
}

static inline void sim_post_combine(
	struct sim *s, struct sim_queue (*q)[SIM_EXPERTS], uint32_t src, uint32_t parity)
{
	const uint32_t *truth = s->truth + (size_t)(s->rounds - 1) * s->j->ranks * sim_experts(s);

	/* a result for each token that d sent; one at least, so that no queue pair is silent */
	for (uint32_t d = 0; d < s->j->ranks; d++)
		for (uint32_t e = 0; e < s->j->experts; e++) {
			for (uint32_t n = truth[d * sim_experts(s) + src * s->j->experts + e], i = 0;
				d != src && i < RTE_MAX(n, 1u); i++)
				sim_post(s, &q[d][e], job_combine(s->j, src, d, e, parity), false);
			if (d != src && s->j->form != NULL)
				sim_post(s, &q[d][e], job_done(s->j, src, d, e, parity), false);
		}
}

/** One all-to-all; after it every rank may go on when it has all that is for it. */
static inline void sim_all_to_all(struct sim *s, uint32_t parity, bool dispatch)
{
	struct sim_queue q[SIM_RANKS][SIM_EXPERTS] = {0};
	uint64_t last[SIM_RANKS] = {0};

	for (uint32_t src = 0; src < s->j->ranks; src++) {
		if (dispatch)
			sim_post_dispatch(s, q, src, parity);
		else
			sim_post_combine(s, q, src, parity);
		sim_drain(s, q, src, last);
	}
	for (uint32_t r = 0; r < s->j->ranks; r++)
		s->ready[r] = last[r] + 10000 + sim_draw(s, 10000);
	for (uint32_t d = 0; d < s->j->ranks; d++)
		for (uint32_t e = 0; e < s->j->experts; e++)
			free(q[d][e].p);
}

/** Send one round. */
static inline void sim_round(struct sim *s)
{
	size_t cells = (size_t)s->j->ranks * sim_experts(s);
	uint32_t parity = (s->rounds - s->first) % 2;

	s->rounds++;
	s->truth = realloc(s->truth, s->rounds * cells * sizeof(*s->truth));
	s->number = realloc(s->number, s->rounds * sizeof(*s->number));
	MUST(s->truth != NULL && s->number != NULL);
	memset(s->truth + (s->rounds - 1) * cells, 0, cells * sizeof(*s->truth));
	s->number[s->rounds - 1] = s->next_number++;
	sim_all_to_all(s, parity, true);
	sim_all_to_all(s, parity, false);
	if (s->j->idle_us != 0) {
		uint64_t all = 0;

		for (uint32_t r = 0; r < s->j->ranks; r++)
			all = RTE_MAX(all, s->ready[r]);
		for (uint32_t r = 0; r < s->j->ranks; r++)
			s->ready[r] = all + 4000ull * s->j->idle_us;
	}
}

/** The job begins anew, at the start of a step. */
static inline void sim_restart(struct sim *s, bool other_queue_pairs)
{
	uint32_t passes = s->j->pattern == NULL ? 1 : strcmp(s->j->pattern, "training") == 0 ? 2 : 3;
	uint32_t per = s->j->layers * passes * (s->j->micro_batches ? s->j->micro_batches : 1);
	uint64_t all = 0;

	sim_connect(s);
	s->first = s->rounds;
	if (other_queue_pairs)
		s->qpn_add += 16;
	s->next_number = (s->next_number + per - 1) / per * per;
	for (uint32_t r = 0; r < s->j->ranks; r++)
		all = RTE_MAX(all, s->ready[r]);
	for (uint32_t r = 0; r < s->j->ranks; r++)
		s->ready[r] = all + 1000000000;
}

/* ---- the tap ------------------------------------------------------------------------------------ */

static inline int sim_by_key(const void *a, const void *b)
{
	const struct sim_packet *p = a, *q = b;

	return p->key < q->key ? -1 : p->key > q->key;
}

/** Into the order of the wire. */
static inline void sim_sort(struct sim *s)
{
	qsort(s->out, s->n, sizeof(*s->out), sim_by_key);
	for (size_t i = 0; i < s->n; i++)
		s->out[i].key = i;
}

/** What is at most so far apart may change places; times stay with the packets. */
static inline void sim_shuffle(struct sim *s, uint32_t far)
{
	s->shuffled = true;
	for (size_t i = 0; i < s->n; i++)
		s->out[i].key = (i + sim_draw(s, far + 1)) * 2 + 1;
	qsort(s->out, s->n, sizeof(*s->out), sim_by_key);
}

/** Of 65536 packets of the rounds in [from, to), so many are not seen. */
static inline void sim_lose(struct sim *s, uint32_t part, uint32_t from, uint32_t to)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->out[i].round >= from && s->out[i].round < to)
			s->out[i].gone |= sim_draw(s, 65536) < part;
}

/** Nothing of a round is seen; or nothing of source @p src. */
static inline void sim_lose_round(struct sim *s, uint32_t round, uint32_t src, bool combine_too)
{
	for (size_t i = 0; i < s->n; i++)
		s->out[i].gone |= s->out[i].round == round &&
				  (src == UINT32_MAX || s->out[i].f.src == src) &&
				  (combine_too || s->out[i].dispatch);
}

static inline bool sim_is_head(const struct frame *f)
{
	return fw_opcodes[f->opcode].ext >= 16 || f->opcode == OP_WRITE_LAST_IMM;
}

/** Everything that the tap sees goes through the path, the control core's turn every @p pace. */
static inline void sim_play(struct sim *s, struct path *p, uint32_t pace)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct sim_packet *q = &s->out[i];

		if (!q->gone && (!s->j->heads || sim_is_head(&q->f)))
			path_send(p, &q->f);
		if (i % pace == 0)
			path_pump(p);
	}
	path_end(p);
}

/* ---- the truth ---------------------------------------------------------------------------------- */

static inline uint32_t sim_find(const struct sim *s, uint64_t number)
{
	for (uint32_t i = 0; i < s->rounds; i++)
		if (s->number[i] == number)
			return i;
	return UINT32_MAX;
}

static inline uint32_t sim_wrong_cells(const struct sim *s, uint32_t round, struct mt_round *m)
{
	uint32_t all = sim_experts(s), ranks = s->j->ranks, wrong = 0;

	for (uint32_t src = 0; src < ranks; src++)
		for (uint32_t e = 0; e < all; e++)
			if (mt_round_pairs(m)[src * ranks + e / s->j->experts].last_ns != 0)
				wrong += mt_round_tokens(m)[src * all + e] !=
					 s->truth[((size_t)round * ranks + src) * all + e];
	return wrong;
}

static inline void sim_tell(const struct sim *s, const struct path *p)
{
	char names[512];

	for (uint32_t i = 0; i < p->published; i++) {
		struct mt_round *m = p->round[i];
		uint32_t at = sim_find(s, m->round);

		fprintf(stderr, "round %lu: %s%s; %lu tokens, %u gaps, %u missing, witness %s\n", m->round,
			mt_quality_names(m->quality, names, sizeof(names)),
			at == UINT32_MAX ? ", unknown" : sim_wrong_cells(s, at, m) ? ", WRONG" : "",
			m->tokens, m->gaps, m->counts_missing, mt_witness_name(m->witness));
	}
}

/**
 * What a round says against its counts. Counts in payloads are right also where their witness
 * differs, and it only may where packets of a dispatch and of its combine change places.
 */
static inline uint32_t sim_doubts(const struct sim *s, const struct mt_round *m, bool *bad)
{
	uint32_t doubts = m->quality & MT_Q_INEXACT;

	if (!s->j->told)
		return doubts;
	*bad |= (doubts & (MT_Q_DISAGREE | MT_Q_OVERRUN)) == MT_Q_DISAGREE && !s->shuffled;
	return doubts & ~(uint32_t)MT_Q_DISAGREE;
}

/**
 * No published round is wrong without saying so, and none is missing. @p exact: none may say
 * anything against its counts.
 */
static inline void sim_check(const struct sim *s, const struct path *p, bool exact)
{
	bool bad = false, aligned = true;
	uint64_t next = 0;

	for (uint32_t i = 0; i < p->published; i++) {
		struct mt_round *m = p->round[i];
		uint32_t at = sim_find(s, m->round);

		aligned &= !(m->quality & MT_Q_ALIGN);
		/* a number that was left out is one that the job left out */
		for (; aligned && next < m->round; next++)
			bad |= sim_find(s, next) != UINT32_MAX;
		next = m->round + 1;
		if (sim_doubts(s, m, &bad) != 0)
			bad |= exact;
		else
			bad |= at == UINT32_MAX || sim_wrong_cells(s, at, m) != 0;
	}
	bad |= aligned && s->rounds != 0 && next != s->number[s->rounds - 1] + 1;
	if (bad) {
		sim_tell(s, p);
		fprintf(stderr, "%s: wrong in silence (%u rounds sent, %u published)\n", path_what,
			s->rounds, p->published);
		abort();
	}
}

#endif
