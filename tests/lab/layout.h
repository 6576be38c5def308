/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a layout of the lab's job has to say: which messages a rank posts in a phase of a round. The
 * engine (job.c) connects the ranks, routes the tokens, posts, waits and writes the truth; a layout
 * (layouts.c) is a row of a table.
 */
#ifndef MOETAP_LAB_LAYOUT_H
#define MOETAP_LAB_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum pass { FORWARD, BACKWARD, RECOMPUTE };

struct round {
	unsigned int step, micro_batch, layer;
	enum pass pass;
};

enum kind { WRITE, WRITE_IMM, FETCH_ADD, SWAP, SEND };

struct post {
	enum kind kind;
	unsigned int peer, qp; /**< rank, and which of the queue pairs with it */
	uint64_t at;           /**< offset in the peer's region */
	const void *data;      /**< from job_room(); WRITE, WRITE_IMM, SEND */
	uint32_t length;
	uint32_t imm; /**< as the wire shows it, a big-endian number */
	uint64_t add; /**< SWAP: what is stored where 0 was */
};

struct layout;

struct job {
	const struct layout *layout;
	unsigned int ranks, rank, gpus; /**< gpus: ranks of a node */
	unsigned int experts;           /**< of a rank */
	unsigned int layers, steps, micro_batches;
	unsigned int tokens, top_k; /**< tokens: at most, of a rank in a round */
	unsigned int hidden;        /**< elements */
	unsigned int fp8;           /**< 1: tokens are dispatched as FP8 with scales, 0: as bf16 */
	unsigned int qps;           /**< of a pair of ranks */
	unsigned int batch;         /**< tokens in one message, or before one with an immediate; 0: all of an expert */
	unsigned int window;        /**< tokens of a ring at the receiver */
	uint64_t seed;
	uint64_t region;     /**< set by prepare: bytes that peers write to */
	bool window_at_0;    /**< set by prepare: their addresses begin at 0 */
	unsigned int apart;  /**< bytes by which atomics lie further on at every next rank */
	unsigned int buffer; /**< of two, for layouts that take turns */
	uint32_t requests;   /**< for layouts that number their requests */
	uint64_t at[8];      /**< offsets in the region, for the layout */
	struct engine *engine;
};

struct layout {
	const char *name;
	/** Sets job->region; says in JSON what a map must know. */
	void (*prepare)(struct job *job, FILE *json);
	unsigned int phases;
	/** Posts all of a phase. All ranks are through with it before the next phase begins. */
	void (*emit)(struct job *job, const struct round *round, unsigned int phase);
	unsigned int phase_pause_ms, pause_ms; /**< of silence behind every phase, behind every round */
};

/** More than `idle-gap-us` of the lab's maps. */
enum { SILENCE_MS = 900 };

extern const struct layout layouts[];

/** Room for the data of a message that is posted next, filled with a pattern. */
void *job_room(struct job *job, uint32_t bytes);
/** Posts; what a rank sends to itself is left out, it never reaches a NIC. */
void job_post(struct job *job, const struct post *post);
/** Tokens that a rank has in a round. */
unsigned int job_tokens(const struct job *job, const struct round *round, unsigned int rank);
/** The top_k experts (-1: none) of a token. The same in all passes of a layer. */
const int32_t *job_route(const struct job *job, const struct round *round, unsigned int rank, unsigned int token);
/** A number that depends on nothing but the seed and these. */
uint64_t job_hash(uint64_t seed, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e);

/* What several files of layouts use. */

uint64_t round_up(uint64_t n, uint64_t to);
unsigned int all_experts(const struct job *job);
/** Calls f (or not, if NULL) for every token of a rank for one expert; how many there are. */
unsigned int tokens_for(struct job *job, const struct round *r, unsigned int rank, unsigned int expert,
	void (*f)(struct job *, unsigned int token, unsigned int n, unsigned int expert, unsigned int rank));

/* layouts_nccl.c */

void nccl_prepare(struct job *job, FILE *json);
void nccl_emit(struct job *job, const struct round *r, unsigned int phase);
void fastmoe_emit(struct job *job, const struct round *r, unsigned int phase);
void megatron_emit(struct job *job, const struct round *r, unsigned int phase);

#endif
