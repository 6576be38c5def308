// SPDX-License-Identifier: BSD-3-Clause
/*
 * Layouts of jobs that send and receive by NCCL: a message is cut into parts, one a channel (queue pair), and
 * a part into steps, into the slots of a buffer that say nothing. An immediate is the size of its step. For
 * every step the receiver first says that a slot is free.
 */
#include "layout.h"

enum { SLOTS = 8, LARGEST_STEP = 131072, PAGE = 4096, CLEAR = 64 };
enum { PART = 65536, LARGEST_PART = 131072, SMALL = 131072, MIDDLE = 1048576 }; /* bytes */

void nccl_prepare(struct job *job, FILE *json)
{
	job->region = SLOTS * LARGEST_STEP + (uint64_t)job->ranks * CLEAR;
	fprintf(json, "\"token\": %u, ", 2 * job->hidden);
}

static void clear_to_send(struct job *job, unsigned int peer, unsigned int channel)
{
	job_post(job, &(struct post){.kind = WRITE,
			      .peer = peer,
			      .qp = channel,
			      .at = SLOTS * LARGEST_STEP + (uint64_t)job->rank * CLEAR,
			      .data = job_room(job, CLEAR),
			      .length = CLEAR});
}

static void step(struct job *job, unsigned int peer, unsigned int channel, uint32_t length)
{
	job_post(job, &(struct post){.kind = WRITE_IMM,
			      .peer = peer,
			      .qp = channel,
			      .at = (uint64_t)(job->requests++ % SLOTS) * LARGEST_STEP,
			      .data = job_room(job, length),
			      .length = length,
			      .imm = length});
}

static unsigned int parts_of(const struct job *job, uint64_t bytes)
{
	uint64_t n = (bytes + PART - 1) / PART, least = (job->qps + 1) / 2;

	n = n < 1 ? 1 : n > least ? least : n;
	while ((bytes + n - 1) / n > LARGEST_PART && 2 * n <= job->qps)
		n *= 2;
	return (unsigned int)n;
}

/* A message to a peer, or what must be said before one from it. One without a byte is a step without a byte. */
static void message(struct job *job, unsigned int peer, uint64_t bytes, bool out)
{
	unsigned int parts = parts_of(job, bytes);
	uint64_t part = round_up((bytes + parts - 1) / parts, PAGE), at = 0, n;
	uint64_t most = bytes < SMALL ? 32768 : bytes < MIDDLE ? 65536 : LARGEST_STEP;

	for (unsigned int c = 0; c < parts && (c == 0 || at < bytes); c++) {
		uint64_t end = (c + 1) * part < bytes ? (c + 1) * part : bytes;

		do {
			n = end - at < most ? end - at : most;
			if (out)
				step(job, peer, c, (uint32_t)n);
			else
				clear_to_send(job, peer, c);
			at += n;
		} while (at < end);
	}
}

/* Tokens of `rank` for experts of `owner`: of one, or of all. */
static unsigned int tokens_of(struct job *job, const struct round *r, unsigned int rank, unsigned int owner, int expert)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < job->experts; i++)
		n += expert < 0 || i == (unsigned int)expert ? tokens_for(job, r, rank, owner * job->experts + i, NULL) : 0;
	return n;
}

/* An all-to-all of `size` bytes a token, to the experts (or one of those of every rank) or back. */
static void all_to_all(struct job *job, const struct round *r, int expert, bool back, uint32_t size, bool empty)
{
	for (unsigned int p = 0; p < job->ranks; p++) {
		unsigned int there = tokens_of(job, r, job->rank, p, expert), here = tokens_of(job, r, p, job->rank, expert);
		unsigned int sent = back ? here : there, got = back ? there : here;

		if (got > 0 || empty)
			message(job, p, (uint64_t)got * size, false);
		if (sent > 0 || empty)
			message(job, p, (uint64_t)sent * size, true);
	}
}

/* nccl: one message with the tokens for all experts of a peer, as PyTorch sends it, and one back. */
void nccl_emit(struct job *job, const struct round *r, unsigned int phase)
{
	all_to_all(job, r, -1, phase == 1, 2 * job->hidden, true);
}

/* megatron: between them one with a probability for each token; gradients of these go back. */
void megatron_emit(struct job *job, const struct round *r, unsigned int phase)
{
	bool back = phase == 2 || (phase == 1 && r->pass == BACKWARD);

	all_to_all(job, r, -1, back, phase == 1 ? 4 : 2 * job->hidden, true);
}

/* fastmoe: counts for the experts of a peer, then the tokens for each, then back; a backward pass knows the counts. */
void fastmoe_emit(struct job *job, const struct round *r, unsigned int phase)
{
	for (unsigned int p = 0; phase == 0 && r->pass != BACKWARD && p < job->ranks; p++) {
		int64_t *counts = job_room(job, 8 * job->experts);

		for (unsigned int i = 0; i < job->experts; i++)
			counts[i] = tokens_for(job, r, job->rank, p * job->experts + i, NULL);
		clear_to_send(job, p, 0);
		job_post(job, &(struct post){.kind = WRITE_IMM,
				      .peer = p,
				      .at = (uint64_t)(job->requests++ % SLOTS) * LARGEST_STEP,
				      .data = counts,
				      .length = 8 * job->experts,
				      .imm = 8 * job->experts});
	}
	for (unsigned int i = 0; phase > 0 && i < job->experts; i++)
		all_to_all(job, r, (int)i, phase == 2, 2 * job->hidden, false);
}
