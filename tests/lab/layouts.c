// SPDX-License-Identifier: BSD-3-Clause
/*
 * The wire layouts of frameworks: where each message lies and what is in it. Integers in payloads are
 * little-endian, as GPUs write them (and the machines here).
 */
#include <string.h>

#include "layout.h"

uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

unsigned int all_experts(const struct job *job)
{
	return job->ranks * job->experts;
}

/* deepep-ll: DeepEP's low-latency mode; uccl-ep: nearly the same addresses, other messages */

enum { LL_COUNTS, LL_TOKENS, LL_COUNTS_STRIDE, LL_TOKENS_STRIDE }; /* job->at, where buffer 0 is; 1 lies a stride on */
enum { UCCL_APART = 128 }; /* the atomic buffer of each rank lies that much further on */

static uint32_t ll_message(const struct job *job)
{
	return 16 + (job->fp8 ? job->hidden + 4 * (job->hidden / 128) : 2 * job->hidden);
}

static uint64_t ll_combine_stride(const struct job *job, bool packed)
{
	return 2 * job->hidden + (packed ? 0 : 4 * (job->hidden / 128));
}

/* A receive buffer has room for the larger of both kinds of messages, in bf16. */
static void ll_strides(struct job *job, uint64_t combine_stride, unsigned int cells)
{
	uint64_t largest = 16 + 2 * job->hidden;

	job->at[LL_TOKENS_STRIDE] = (uint64_t)all_experts(job) * job->tokens * larger(largest, combine_stride);
	job->at[LL_COUNTS_STRIDE] = round_up(8ull * cells, 128);
}

static void ll_tell(struct job *job, FILE *json, uint64_t combine_stride)
{
	fprintf(json,
		"\"message\": %u, \"combine_message\": %u, \"combine_stride\": %llu, \"counts\": %llu, \"counts_stride\": %llu,\n"
		" \"tokens_at\": %llu, \"tokens_stride\": %llu, ",
		ll_message(job), 2 * job->hidden, (unsigned long long)combine_stride,
		(unsigned long long)job->at[LL_COUNTS], (unsigned long long)job->at[LL_COUNTS_STRIDE],
		(unsigned long long)job->at[LL_TOKENS], (unsigned long long)job->at[LL_TOKENS_STRIDE]);
}

/* Counts of two buffers, two buffers to send from, two to receive into. */
static void ll_prepare(struct job *job, FILE *json)
{
	uint64_t stride = ll_combine_stride(job, false), all = all_experts(job);

	ll_strides(job, stride, all_experts(job));
	job->at[LL_COUNTS] = 0;
	job->at[LL_TOKENS] = 2 * job->at[LL_COUNTS_STRIDE] +
			     2 * larger(job->tokens * (16 + 2ull * job->hidden), all * job->tokens * stride);
	job->region = job->at[LL_TOKENS] + 2 * job->at[LL_TOKENS_STRIDE];
	ll_tell(job, json, stride);
}

/* Counts lie in a buffer of their own, and no other rank has it at the same distance. */
static void uccl_prepare(struct job *job, FILE *json)
{
	uint64_t largest = 16 + 2ull * job->hidden, result = ll_combine_stride(job, true), all = all_experts(job);
	bool batches = job->batch == 0; /* a build with PER_EXPERT_BATCHING */
	unsigned int cells = all_experts(job);

	if (batches && cells < job->ranks * job->ranks)
		cells = job->ranks * job->ranks;
	ll_strides(job, result, cells);
	job->at[LL_TOKENS] = 2 * round_up(4ull * cells, 128) +
			     2 * larger((batches ? all + 1 : 1) * job->tokens * largest, all * job->tokens * result);
	job->at[LL_COUNTS] = round_up(job->at[LL_TOKENS] + 2 * job->at[LL_TOKENS_STRIDE], 4096);
	job->apart = UCCL_APART;
	job->region = job->at[LL_COUNTS] + (uint64_t)job->ranks * UCCL_APART + 2 * job->at[LL_COUNTS_STRIDE];
	fprintf(json, "\"apart\": %u, \"batching\": %d, ", UCCL_APART, batches);
	ll_tell(job, json, result);
}

static uint64_t ll_count_at(const struct job *job, unsigned int peer, uint64_t cell)
{
	return job->at[LL_COUNTS] + (uint64_t)peer * job->apart + job->buffer * job->at[LL_COUNTS_STRIDE] + 8 * cell;
}

static uint64_t ll_at(const struct job *job, uint64_t offset)
{
	return job->at[LL_TOKENS] + job->buffer * job->at[LL_TOKENS_STRIDE] + offset;
}

static void ll_dispatch_count(struct job *job, unsigned int expert, unsigned int tokens)
{
	unsigned int local = expert % job->experts, peer = expert / job->experts;

	job_post(job, &(struct post){.kind = FETCH_ADD,
			      .peer = peer,
			      .qp = local % job->qps,
			      .at = ll_count_at(job, peer, (uint64_t)local * job->ranks + job->rank),
			      .add = (uint64_t)(-(int64_t)tokens - 1)});
}

static void ll_combine_flag(struct job *job, unsigned int expert, unsigned int source)
{
	job_post(job, &(struct post){.kind = FETCH_ADD,
			      .peer = source,
			      .qp = expert % job->experts % job->qps,
			      .at = ll_count_at(job, source, expert),
			      .add = 1});
}

unsigned int tokens_for(struct job *job, const struct round *r, unsigned int rank, unsigned int expert,
	void (*f)(struct job *, unsigned int token, unsigned int n, unsigned int expert, unsigned int rank))
{
	unsigned int n = 0;

	for (unsigned int t = 0; t < job_tokens(job, r, rank); t++) {
		const int32_t *route = job_route(job, r, rank, t);

		for (unsigned int k = 0; k < job->top_k; k++)
			if (route[k] == (int32_t)expert) {
				if (f)
					f(job, t, n, expert, rank);
				n++;
			}
	}
	return n;
}

static void ll_token(struct job *job, unsigned int token, unsigned int n, unsigned int expert, unsigned int rank)
{
	unsigned int local = expert % job->experts;
	uint32_t length = ll_message(job);
	void *data = job_room(job, length);

	memcpy(data, &token, 4);
	job_post(job, &(struct post){.kind = WRITE,
			      .peer = expert / job->experts,
			      .qp = local % job->qps,
			      .at = ll_at(job, (((uint64_t)local * job->ranks + rank) * job->tokens + n) * length),
			      .data = data,
			      .length = length});
}

static void ll_back(struct job *job, unsigned int token, unsigned int n, unsigned int expert, unsigned int rank)
{
	uint32_t length = 2 * job->hidden;

	(void)n;
	job_post(job, &(struct post){.kind = WRITE,
			      .peer = rank,
			      .qp = expert % job->experts % job->qps,
			      .at = ll_at(job, ((uint64_t)expert * job->tokens + token) * ll_combine_stride(job, false)),
			      .data = job_room(job, length),
			      .length = length});
}

static void ll_emit(struct job *job, const struct round *r, unsigned int phase)
{
	for (unsigned int e = 0; phase == 0 && e < all_experts(job); e++)
		ll_dispatch_count(job, e, tokens_for(job, r, job->rank, e, ll_token));
	for (unsigned int i = 0; phase == 1 && i < job->experts; i++)
		for (unsigned int s = 0; s < job->ranks; s++) {
			unsigned int expert = job->rank * job->experts + i;

			tokens_for(job, r, s, expert, ll_back);
			ll_combine_flag(job, expert, s);
		}
	job->buffer ^= 1; /* with every dispatch and every combine */
}

/* All tokens of an expert in one message. */
static void ll_emit_bulk(struct job *job, const struct round *r, unsigned int phase)
{
	for (unsigned int e = 0; phase == 0 && e < all_experts(job); e++) {
		unsigned int n = tokens_for(job, r, job->rank, e, NULL), local = e % job->experts;
		uint32_t length = n * ll_message(job);

		if (n > 0)
			job_post(job, &(struct post){.kind = WRITE,
					      .peer = e / job->experts,
					      .qp = local % job->qps,
					      .at = ll_at(job, ((uint64_t)local * job->ranks + job->rank) * job->tokens *
								       ll_message(job)),
					      .data = job_room(job, length),
					      .length = length});
		ll_dispatch_count(job, e, n);
	}
	if (phase == 0)
		job->buffer ^= 1;
	else
		ll_emit(job, r, phase);
}

/* A buffer for each round: what a combine writes lies where its dispatch wrote, flags in the cells of counts. */
static void ll_emit_shared(struct job *job, const struct round *r, unsigned int phase)
{
	ll_emit(job, r, phase);
	job->buffer ^= phase == 0;
}

/* Tokens of an expert; the last of a batch has an immediate that names its request. */
static void uccl_write(struct job *job, unsigned int peer, unsigned int qp, uint64_t at, uint32_t length, bool last)
{
	job->requests++;
	job_post(job, &(struct post){.kind = last ? WRITE_IMM : WRITE,
			      .peer = peer,
			      .qp = qp,
			      .at = at,
			      .data = job_room(job, length),
			      .length = length,
			      .imm = job->requests});
}

static unsigned int uccl_dispatch(struct job *job, const struct round *r, unsigned int expert)
{
	unsigned int n = tokens_for(job, r, job->rank, expert, NULL), local = expert % job->experts;
	uint32_t length = ll_message(job);
	uint64_t first = ((uint64_t)local * job->ranks + job->rank) * job->tokens * length;

	if (job->batch == 0 && n > 0)
		uccl_write(job, expert / job->experts, local % job->qps, ll_at(job, first), n * length, true);
	for (unsigned int i = 0; job->batch != 0 && i < n; i++)
		uccl_write(job, expert / job->experts, local % job->qps, ll_at(job, first + (uint64_t)i * length), length,
			i + 1 == n || i % job->batch == job->batch - 1);
	return n;
}

static unsigned int uccl_combine(struct job *job, const struct round *r, unsigned int expert, unsigned int source)
{
	unsigned int n = 0, all = tokens_for(job, r, source, expert, NULL);

	for (unsigned int t = 0; t < job_tokens(job, r, source); t++) {
		const int32_t *route = job_route(job, r, source, t);

		for (unsigned int k = 0; k < job->top_k; k++)
			if (route[k] == (int32_t)expert)
				uccl_write(job, source, expert % job->experts % job->qps,
					ll_at(job, ((uint64_t)expert * job->tokens + t) * ll_combine_stride(job, true)),
					2 * job->hidden, ++n == all);
	}
	return n;
}

/* uccl-ep-imm: of a NIC without atomics; what would be added to a cell is in an immediate */

enum { IMM_ATOMIC = 1u << 31, IMM_DONE = 1u << 30, IMM_BUFFER_SHIFT = 29, IMM_VALUE_SHIFT = 13 };
enum { IMM_VALUES = 0x7fff, IMM_SYNC = 1u << 30, IMM_SYNC_SHIFT = 8 };

static void imm_post(struct job *job, unsigned int peer, unsigned int qp, uint32_t imm)
{
	job_post(job, &(struct post){.kind = WRITE_IMM, .peer = peer, .qp = qp, .imm = imm});
}

/* Every proxy tells every other how far it is, at the start of the buffer. */
static void uccl_barrier(struct job *job)
{
	for (unsigned int peer = 0; peer < job->ranks; peer++)
		imm_post(job, peer, 0, IMM_SYNC | (job->requests & 0xffff) << IMM_SYNC_SHIFT | job->rank);
}

static void uccl_emit(struct job *job, const struct round *r, unsigned int phase)
{
	uccl_barrier(job);
	for (unsigned int e = 0; phase == 0 && e < all_experts(job); e++)
		ll_dispatch_count(job, e, uccl_dispatch(job, r, e));
	for (unsigned int i = 0; phase == 1 && i < job->experts; i++)
		for (unsigned int s = 0; s < job->ranks; s++) {
			uccl_combine(job, r, job->rank * job->experts + i, s);
			ll_combine_flag(job, job->rank * job->experts + i, s);
		}
	job->buffer ^= 1;
}

static void imm_add(struct job *job, unsigned int peer, unsigned int qp, uint64_t cell, int value, uint32_t bits)
{
	cell += job->buffer * job->at[LL_COUNTS_STRIDE] / 8;
	imm_post(job, peer, qp,
		IMM_ATOMIC | bits | job->buffer << IMM_BUFFER_SHIFT | ((uint32_t)value & IMM_VALUES) << IMM_VALUE_SHIFT |
			(uint32_t)cell);
}

static void imm_count(struct job *job, unsigned int expert, unsigned int tokens)
{
	unsigned int local = expert % job->experts;

	imm_add(job, expert / job->experts, local % job->qps, (uint64_t)local * job->ranks + job->rank,
		-(int)tokens - 1, 0);
}

/* It says how many tokens came back. */
static void imm_flag(struct job *job, unsigned int expert, unsigned int source, unsigned int tokens)
{
	imm_add(job, source, expert % job->experts % job->qps, expert, (int)tokens, IMM_DONE);
}

static void uccl_emit_imm(struct job *job, const struct round *r, unsigned int phase)
{
	uccl_barrier(job);
	for (unsigned int e = 0; phase == 0 && e < all_experts(job); e++)
		imm_count(job, e, uccl_dispatch(job, r, e));
	for (unsigned int i = 0; phase == 1 && i < job->experts; i++)
		for (unsigned int s = 0; s < job->ranks; s++) {
			unsigned int expert = job->rank * job->experts + i;

			imm_flag(job, expert, s, uccl_combine(job, r, expert, s));
		}
	job->buffer ^= 1;
}

/* deepep-normal: DeepEP's high-throughput mode between nodes; GPUs of equal place in their nodes talk */

enum { NVL_PEERS = 8, META_INTS = 2 * NVL_PEERS + 2 }; /* fixed in DeepEP, also with fewer GPUs a node */
enum { N_META, N_HEAD, N_TAIL };

static unsigned int nodes(const struct job *job)
{
	return job->ranks / job->gpus;
}

static unsigned int channels(const struct job *job)
{
	return job->qps / 2;
}

/* Offsets in a token, and its size. A cached dispatch has no lists of experts. */
struct token {
	uint32_t meta, ids, weights, size;
};

static struct token normal_token(const struct job *job, bool fp8, bool ids, bool weights)
{
	struct token t = {.meta = fp8 ? job->hidden + 4 * (job->hidden / 128) : 2 * job->hidden};

	t.ids = t.meta + 8;
	t.weights = t.ids + (ids ? 4 * job->top_k : 0);
	t.size = (uint32_t)round_up(t.weights + (weights ? 4 * job->top_k : 0), 16);
	return t;
}

static uint32_t normal_counts(const struct job *job)
{
	return 4 * (NVL_PEERS + 1 + all_experts(job) / nodes(job));
}

static void normal_prepare(struct job *job, FILE *json)
{
	struct token t = normal_token(job, true, true, true), back = normal_token(job, false, false, true);
	uint32_t most = t.size > back.size ? t.size : back.size;

	job->at[N_META] = 2ull * most * job->window * nodes(job) * channels(job);
	job->at[N_HEAD] = round_up(job->at[N_META] + 2ull * 4 * META_INTS * nodes(job) * channels(job), 128);
	job->at[N_TAIL] = job->at[N_HEAD] + 8 * nodes(job) * channels(job);
	job->region = job->at[N_TAIL] + 8 * nodes(job) * channels(job) + 2ull * nodes(job) * normal_counts(job);
	fprintf(json,
		"\"nodes\": %u, \"channels\": %u, \"window\": %u, \"chunk\": %u, \"counts_message\": %u, \"token\": %u,\n"
		" \"ids_at\": %u, \"combine_token\": %u, \"cached_token\": %u, ",
		nodes(job), channels(job), job->window, job->batch, normal_counts(job), t.size, t.ids, back.size,
		normal_token(job, false, false, false).size);
}

static bool goes_to(const struct job *job, const int32_t *route, unsigned int first, unsigned int experts)
{
	for (unsigned int k = 0; k < job->top_k; k++)
		if (route[k] >= (int32_t)first && route[k] < (int32_t)(first + experts))
			return true;
	return false;
}

static unsigned int channel_first(const struct job *job, const struct round *r, unsigned int source, unsigned int c)
{
	return job_tokens(job, r, source) * c / channels(job);
}

/* The tokens of rank `source` that channel c takes to node `to`. */
static unsigned int channel_tokens(const struct job *job, const struct round *r, unsigned int source, unsigned int c,
	unsigned int to, unsigned int *list)
{
	unsigned int per_node = job->gpus * job->experts, n = 0;

	for (unsigned int t = channel_first(job, r, source, c); t < channel_first(job, r, source, c + 1); t++)
		if (goes_to(job, job_route(job, r, source, t), to * per_node, per_node))
			list[n++] = t;
	return n;
}

/* Counts of the tokens of this GPU: for each GPU of the node, for each expert, in all. */
static void normal_notify(struct job *job, const struct round *r, unsigned int to)
{
	unsigned int per_node = job->gpus * job->experts, node = job->rank / job->gpus;
	int32_t *counts = job_room(job, normal_counts(job));

	memset(counts, 0, normal_counts(job));
	for (unsigned int t = 0; t < job_tokens(job, r, job->rank); t++) {
		const int32_t *route = job_route(job, r, job->rank, t);

		for (unsigned int g = 0; g < job->gpus; g++)
			counts[g] += goes_to(job, route, to * per_node + g * job->experts, job->experts);
		for (unsigned int k = 0; k < job->top_k; k++)
			if (route[k] >= 0 && (unsigned int)route[k] / per_node == to)
				counts[NVL_PEERS + (unsigned int)route[k] % per_node]++;
		counts[NVL_PEERS + per_node] += goes_to(job, route, to * per_node, per_node);
	}
	job_post(job, &(struct post){.kind = WRITE,
			      .peer = to * job->gpus + job->rank % job->gpus,
			      .qp = 0,
			      .at = (uint64_t)normal_counts(job) * (nodes(job) + node),
			      .data = counts,
			      .length = normal_counts(job)});
}

static void normal_fill(struct job *job, const struct round *r, const struct token *t, unsigned int source,
	unsigned int token, unsigned int to, char *data)
{
	unsigned int per_node = job->gpus * job->experts;
	const int32_t *route = job_route(job, r, source, token);
	int32_t meta[2] = {(int32_t)(source / job->gpus), 0};

	for (unsigned int g = 0; g < job->gpus; g++)
		meta[1] |= goes_to(job, route, to * per_node + g * job->experts, job->experts) << g;
	memcpy(data + t->meta, meta, sizeof meta);
	if (t->weights > t->ids)
		memcpy(data + t->ids, route, 4 * job->top_k);
	for (uint32_t at = t->weights; at + 4 <= t->weights + 4 * job->top_k && at + 4 <= t->size; at += 4)
		memcpy(data + at, &(float){1.0f / (float)job->top_k}, 4);
}

/* Tokens of `source` on channel c in chunks into the ring of the peer, and how far they got. */
static void normal_send(struct job *job, const struct round *r, const struct token *t, unsigned int source,
	unsigned int to, unsigned int peer, unsigned int c)
{
	unsigned int list[4096], node = job->rank / job->gpus, n = channel_tokens(job, r, source, c, to, list), m;
	uint64_t ring = (uint64_t)t->size * job->window;

	for (unsigned int i = 0; i < n; i += m) {
		unsigned int slot = i % job->window;
		char *data;

		for (m = 1; m < job->batch && i + m < n && slot + m < job->window; m++)
			;
		data = job_room(job, m * t->size);
		for (unsigned int j = 0; j < m; j++)
			normal_fill(job, r, t, source, list[i + j], to, data + j * t->size);
		job_post(job, &(struct post){.kind = WRITE,
				      .peer = peer,
				      .qp = c,
				      .at = ring * nodes(job) * (channels(job) + c) + node * ring +
					      (uint64_t)slot * t->size,
				      .data = data,
				      .length = m * t->size});
		job_post(job, &(struct post){.kind = FETCH_ADD,
				      .peer = peer,
				      .qp = c,
				      .at = job->at[N_TAIL] + 8ull * (c * nodes(job) + node),
				      .add = m});
	}
}

/* How many tokens for each GPU, and in all, the channels before this one and this one bring, as -n - 1. */
static void normal_meta(struct job *job, const struct round *r, unsigned int to, unsigned int c)
{
	unsigned int per_node = job->gpus * job->experts, node = job->rank / job->gpus;
	int32_t *meta = job_room(job, 4 * META_INTS);

	memset(meta, 0xff, 4 * META_INTS);
	for (unsigned int t = 0; t < channel_first(job, r, job->rank, c + 1); t++) {
		const int32_t *route = job_route(job, r, job->rank, t);
		bool before = t < channel_first(job, r, job->rank, c);

		for (unsigned int g = 0; g < job->gpus; g++) {
			int hit = goes_to(job, route, to * per_node + g * job->experts, job->experts);

			meta[g] -= before ? hit : 0;
			meta[NVL_PEERS + g] -= hit;
		}
		meta[2 * NVL_PEERS] -= before && goes_to(job, route, to * per_node, per_node);
		meta[2 * NVL_PEERS + 1] -= goes_to(job, route, to * per_node, per_node);
	}
	job_post(job, &(struct post){.kind = WRITE,
			      .peer = to * job->gpus + job->rank % job->gpus,
			      .qp = c,
			      .at = job->at[N_META] + 4ull * META_INTS * (nodes(job) * (channels(job) + c) + node),
			      .data = meta,
			      .length = 4 * META_INTS});
}

static void normal_emit(struct job *job, const struct round *r, unsigned int phase)
{
	bool cached = r->pass == BACKWARD; /* its gradients go the ways that are known */
	struct token there = normal_token(job, !cached, !cached, !cached), back = normal_token(job, false, false, true);
	unsigned int list[4096], node = job->rank / job->gpus, gpu = job->rank % job->gpus;

	for (unsigned int n = 0; n < nodes(job); n++) {
		unsigned int peer = n * job->gpus + gpu;

		if (n == node)
			continue;
		if (phase == 0 && !cached)
			normal_notify(job, r, n);
		for (unsigned int c = 0; c < channels(job); c++)
			if (phase == 0) {
				normal_meta(job, r, n, c);
				normal_send(job, r, &there, job->rank, n, peer, c);
			} else if (phase == 1) { /* the receiver tells how far it has read */
				unsigned int got = channel_tokens(job, r, peer, c, node, list);

				if (got)
					job_post(job, &(struct post){.kind = FETCH_ADD,
							      .peer = peer,
							      .qp = c + channels(job),
							      .at = job->at[N_HEAD] + 8ull * (c * nodes(job) + node),
							      .add = got});
			} else {
				normal_send(job, r, &back, peer, node, peer, c);
			}
	}
}

/* pplx-garden: counts of all experts first, then the tokens of a rank in one message, sorted by expert */

enum { G_ROUTES, G_PRIVATE, G_OVERFLOW, G_COMBINED };
enum { IMM_ROUTE = 0x00000080, IMM_DISPATCH = 0x01000080, IMM_COMBINE = 0x02000080, IMM_BARRIER = 0x03000080 };

static uint32_t garden_token(const struct job *job)
{
	return (uint32_t)(round_up(job->hidden, 16) + round_up(4 * (job->hidden / 128), 16) + 16);
}

/* Tokens that a rank has for each expert, and for all of a peer. */
static unsigned int garden_counts(struct job *job, const struct round *r, unsigned int rank, unsigned int peer,
	uint32_t *counts)
{
	unsigned int n = 0;

	for (unsigned int e = 0; e < all_experts(job); e++) {
		counts[e] = tokens_for(job, r, rank, e, NULL);
		n += e / job->experts == peer ? counts[e] : 0;
	}
	return n;
}

static void garden_prepare(struct job *job, FILE *json)
{
	uint64_t most = (uint64_t)job->tokens * job->top_k;

	job->at[G_ROUTES] = 0;
	job->at[G_PRIVATE] = round_up(4ull * all_experts(job) * job->ranks, 128);
	job->at[G_OVERFLOW] = job->at[G_PRIVATE] + (uint64_t)job->ranks * job->window * garden_token(job);
	job->at[G_COMBINED] = job->at[G_OVERFLOW] + job->ranks * most * garden_token(job);
	job->region = job->at[G_COMBINED] + job->ranks * most * 2 * job->hidden;
	fprintf(json, "\"token\": %u, \"combine_message\": %u, \"private\": %u, \"private_at\": %llu, \"overflow_at\": %llu,\n ",
		garden_token(job), 2 * job->hidden, job->window, (unsigned long long)job->at[G_PRIVATE],
		(unsigned long long)job->at[G_OVERFLOW]);
}

static void garden_write(struct job *job, unsigned int peer, uint64_t at, uint32_t length, uint32_t imm)
{
	job_post(job, &(struct post){.kind = WRITE_IMM,
			      .peer = peer,
			      .at = at,
			      .data = job_room(job, length),
			      .length = length,
			      .imm = imm});
}

static void garden_route(struct job *job, const struct round *r, unsigned int peer)
{
	uint32_t *counts = job_room(job, 4 * all_experts(job));

	garden_counts(job, r, job->rank, peer, counts);
	job_post(job, &(struct post){.kind = WRITE_IMM,
			      .peer = peer,
			      .at = job->at[G_ROUTES] + 4ull * all_experts(job) * job->rank,
			      .data = counts,
			      .length = 4 * all_experts(job),
			      .imm = IMM_ROUTE});
}

static void garden_dispatch(struct job *job, const struct round *r, unsigned int peer)
{
	uint32_t counts[4096], size = garden_token(job), most = job->window;
	unsigned int n = garden_counts(job, r, job->rank, peer, counts);
	uint64_t before = 0;

	garden_write(job, peer, job->at[G_PRIVATE] + (uint64_t)job->rank * most * size, (n < most ? n : most) * size,
		IMM_DISPATCH);
	for (unsigned int s = 0; n > most && s < job->rank; s++) {
		unsigned int other = garden_counts(job, r, s, peer, counts);

		before += other > most ? other - most : 0;
	}
	if (n > most)
		garden_write(job, peer, job->at[G_OVERFLOW] + before * size, (n - most) * size, IMM_DISPATCH);
}

static void garden_combine(struct job *job, const struct round *r, unsigned int peer)
{
	uint32_t counts[4096], n = garden_counts(job, r, peer, job->rank, counts);

	garden_write(job, peer, 0, 0, IMM_BARRIER);
	garden_write(job, peer, job->at[G_COMBINED] + (uint64_t)job->rank * job->tokens * job->top_k * 2 * job->hidden,
		n * 2 * job->hidden, IMM_COMBINE);
}

static void garden_emit(struct job *job, const struct round *r, unsigned int phase)
{
	static void (*const phases[])(struct job *, const struct round *, unsigned int) = {
		garden_route, garden_dispatch, garden_combine};

	for (unsigned int peer = 0; peer < job->ranks; peer++)
		phases[phase](job, r, peer);
}

/* queue-pairs: a queue pair for every expert of the peer, tokens by SEND and by WRITE in turns */

static void qp_prepare(struct job *job, FILE *json)
{
	job->qps = job->experts;
	job->region = (uint64_t)job->tokens * all_experts(job) * 2 * job->hidden;
	fprintf(json, "\"message\": %u, \"combine_message\": %u, ", ll_message(job), 2 * job->hidden);
}

static void qp_token(struct job *job, unsigned int token, unsigned int n, unsigned int expert, unsigned int rank)
{
	uint32_t length = ll_message(job);

	(void)rank;
	job_post(job, &(struct post){.kind = n & 1 ? WRITE : SEND,
			      .peer = expert / job->experts,
			      .qp = expert % job->experts,
			      .at = (uint64_t)token * length,
			      .data = job_room(job, length),
			      .length = length});
}

static void qp_back(struct job *job, unsigned int token, unsigned int n, unsigned int expert, unsigned int rank)
{
	(void)n;
	job_post(job, &(struct post){.kind = WRITE,
			      .peer = rank,
			      .qp = expert % job->experts,
			      .at = ((uint64_t)expert * job->tokens + token) * 2 * job->hidden,
			      .data = job_room(job, 2 * job->hidden),
			      .length = 2 * job->hidden});
}

static void qp_emit(struct job *job, const struct round *r, unsigned int phase)
{
	for (unsigned int e = 0; phase == 0 && e < all_experts(job); e++)
		tokens_for(job, r, job->rank, e, qp_token);
	for (unsigned int i = 0; phase == 1 && i < job->experts; i++)
		for (unsigned int s = 0; s < job->ranks; s++)
			tokens_for(job, r, s, job->rank * job->experts + i, qp_back);
}

/* deepep-v2-direct: DeepEP's elastic buffer, every rank by RDMA; deepep-v2-hybrid: nodes by RDMA */

enum { V2_DATA = 14680064, V2_DIRECT_COUNTS = 49168, V2_HYBRID_COUNTS = 90128, V2_TAILS = 102416, V2_TAIL_TOKENS = 6 };
enum { V2_COMBINED }; /* job->at */

static uint32_t v2_ids_at(const struct job *job)
{
	return (uint32_t)(round_up(job->hidden, 32) + round_up(4 * (job->hidden / 128), 32));
}

static uint32_t v2_token(const struct job *job)
{
	return v2_ids_at(job) + (uint32_t)round_up(8 * job->top_k + 4 * (1 + job->top_k), 32);
}

static uint32_t v2_result(const struct job *job)
{
	return (uint32_t)(round_up(2 * job->hidden, 32) + round_up(8 * job->top_k, 32));
}

static unsigned int v2_per_channel(const struct job *job)
{
	return (job->tokens + job->qps - 1) / job->qps;
}

static void v2_tell(const struct job *job, FILE *json, uint64_t counts_at, uint64_t tokens_at, uint64_t tokens_size)
{
	fprintf(json,
		"\"token\": %u, \"ids_at\": %u, \"combine_message\": %u, \"counts\": %llu,\n"
		" \"tokens_at\": %llu, \"tokens_size\": %llu, \"combined_at\": %llu, \"combined_size\": %llu, ",
		v2_token(job), v2_ids_at(job), v2_result(job), (unsigned long long)counts_at,
		(unsigned long long)tokens_at, (unsigned long long)tokens_size,
		(unsigned long long)job->at[V2_COMBINED], (unsigned long long)(job->region - job->at[V2_COMBINED]));
}

static uint64_t v2_results(const struct job *job, unsigned int responders)
{
	return (uint64_t)(responders < job->top_k ? responders : job->top_k) * job->tokens * v2_result(job);
}

static void direct_prepare(struct job *job, FILE *json)
{
	uint64_t tokens = (uint64_t)job->ranks * job->tokens * v2_token(job);

	job->window_at_0 = true;
	job->at[V2_COMBINED] = V2_DATA;
	job->region = V2_DATA + (v2_results(job, job->ranks) > tokens ? v2_results(job, job->ranks) : tokens);
	v2_tell(job, json, V2_DIRECT_COUNTS + 8ull * job->ranks, V2_DATA, tokens);
}

/* The tokens lie behind the buffers of the GPUs of the node. */
static void hybrid_prepare(struct job *job, FILE *json)
{
	uint64_t at = V2_DATA + ((uint64_t)job->ranks + 1) * job->tokens * v2_token(job), end;
	uint64_t tokens = (uint64_t)nodes(job) * job->qps * v2_per_channel(job) * v2_token(job);

	job->window_at_0 = true;
	job->at[V2_COMBINED] = V2_DATA + (job->gpus < job->top_k ? job->gpus : job->top_k) * (uint64_t)nodes(job) *
						 job->tokens * v2_result(job);
	end = job->at[V2_COMBINED] + v2_results(job, nodes(job));
	job->region = end > at + tokens ? end : at + tokens;
	v2_tell(job, json, V2_HYBRID_COUNTS + 4ull * job->ranks, at, tokens);
}

/* Counts of the tokens of this GPU for `experts` of a peer from `first` on, by GPU and by expert, as -n - 1. */
static void v2_count(const struct job *job, const struct round *r, unsigned int first, unsigned int experts,
	int64_t *by_rank, int64_t *by_expert)
{
	memset(by_rank, 0xff, experts / job->experts * sizeof *by_rank);
	memset(by_expert, 0xff, experts * sizeof *by_expert);
	for (unsigned int t = 0; t < job_tokens(job, r, job->rank); t++) {
		const int32_t *route = job_route(job, r, job->rank, t);

		for (unsigned int g = 0; g < experts / job->experts; g++)
			by_rank[g] -= goes_to(job, route, first + g * job->experts, job->experts);
		for (unsigned int k = 0; k < job->top_k; k++)
			if (route[k] >= (int32_t)first && route[k] < (int32_t)(first + experts))
				by_expert[(unsigned int)route[k] - first]--;
	}
}

static void v2_notify_values(
	struct job *job, unsigned int peer, uint64_t at, const int64_t *values, unsigned int n, unsigned int width)
{
	char *data = job_room(job, n * width);

	for (unsigned int i = 0; i < n; i++)
		memcpy(data + i * width, &values[i], width); /* little-endian: the lower half comes first */
	job_post(job, &(struct post){.kind = WRITE, .peer = peer, .at = at, .data = data, .length = n * width});
}

static void v2_notify(struct job *job, const struct round *r, unsigned int peer, bool hybrid)
{
	unsigned int per = hybrid ? job->gpus * job->experts : job->experts, to = hybrid ? peer / job->gpus : peer;
	unsigned int source = hybrid ? job->rank / job->gpus : job->rank, width = hybrid ? 4 : 8;
	uint64_t at = hybrid ? V2_HYBRID_COUNTS : V2_DIRECT_COUNTS;
	int64_t by_rank[8], by_expert[1024];

	v2_count(job, r, to * per, per, by_rank, by_expert);
	v2_notify_values(
		job, peer, at + (uint64_t)width * (per / job->experts) * source, by_rank, per / job->experts, width);
	v2_notify_values(job, peer, at + (uint64_t)width * (job->ranks + per * source), by_expert, per, width);
}

static void v2_write_token(
	struct job *job, const struct round *r, unsigned int token, unsigned int peer, unsigned int qp, uint64_t at)
{
	uint32_t length = v2_token(job), index = job->rank * job->tokens + token;
	char *data = job_room(job, length);

	memcpy(data + v2_ids_at(job), job_route(job, r, job->rank, token), 4 * job->top_k);
	for (unsigned int k = 0; k < job->top_k; k++)
		memcpy(data + v2_ids_at(job) + 4 * (job->top_k + k), &(float){1.0f / (float)job->top_k}, 4);
	memcpy(data + v2_ids_at(job) + 8 * job->top_k, &index, 4);
	job_post(job, &(struct post){.kind = WRITE, .peer = peer, .qp = qp, .at = at, .data = data, .length = length});
}

/* The sum of what the experts of this rank (or node) made of a token goes where its source has room for it. */
static void v2_write_result(struct job *job, const struct round *r, unsigned int source, unsigned int token,
	unsigned int qp, unsigned int me, unsigned int responders, unsigned int experts)
{
	const int32_t *route = job_route(job, r, source, token);
	uint32_t length = v2_result(job);
	unsigned int i = me;

	if (responders > job->top_k)
		for (i = 0; route[i] < 0 || (unsigned int)route[i] / experts != me; i++)
			;
	job_post(job, &(struct post){.kind = WRITE,
			      .peer = source,
			      .qp = qp,
			      .at = job->at[V2_COMBINED] + ((uint64_t)i * job->tokens + token) * length,
			      .data = job_room(job, length),
			      .length = length});
}

static void v2_barrier(struct job *job, unsigned int peer)
{
	job_post(job, &(struct post){.kind = FETCH_ADD, .peer = peer, .at = 8ull * job->rank, .add = 1});
}

/* Counts and tokens come from other warps, in any order: counts are posted before some token. */
static void direct_dispatch(struct job *job, const struct round *r)
{
	unsigned int n = job_tokens(job, r, job->rank), slot[64] = {0};
	unsigned int when = (unsigned int)(job_hash(job->seed, 50, r->step, r->layer, job->rank, 0) % (n + 1));

	for (unsigned int t = 0; t <= n; t++) {
		for (unsigned int p = 0; t == when && r->pass != BACKWARD && p < job->ranks; p++)
			v2_notify(job, r, p, false);
		for (unsigned int p = 0; t < n && p < job->ranks; p++)
			if (goes_to(job, job_route(job, r, job->rank, t), p * job->experts, job->experts)) {
				v2_write_token(job, r, t, p, slot[p] % job->qps,
					V2_DATA + ((uint64_t)job->rank * job->tokens + slot[p]) * v2_token(job));
				slot[p]++;
			}
	}
}

static void direct_emit(struct job *job, const struct round *r, unsigned int phase)
{
	for (unsigned int p = 0; p < job->ranks; p++)
		v2_barrier(job, p);
	if (phase == 0)
		direct_dispatch(job, r);
	for (unsigned int s = 0; phase == 1 && s < job->ranks; s++)
		for (unsigned int t = 0; t < job_tokens(job, r, s); t++)
			if (goes_to(job, job_route(job, r, s, t), job->rank * job->experts, job->experts))
				v2_write_result(job, r, s, t, t % job->qps, job->rank, job->ranks, job->experts);
}

/* Adds to the cell of a channel: whether all its tokens were sent, and how many more. */
static void hybrid_tail(struct job *job, unsigned int peer, unsigned int channel, unsigned int tokens, bool finish)
{
	job_post(job, &(struct post){.kind = FETCH_ADD,
			      .peer = peer,
			      .qp = channel,
			      .at = V2_TAILS + 8ull * (channel * nodes(job) + job->rank / job->gpus),
			      .add = (uint64_t)tokens << 32 | finish});
}

static void hybrid_channel(struct job *job, const struct round *r, unsigned int peer, unsigned int c)
{
	unsigned int per_node = job->gpus * job->experts, each = v2_per_channel(job), slot = 0, told = 0;
	uint64_t at = V2_DATA + ((uint64_t)job->ranks + 1) * job->tokens * v2_token(job);

	at += (uint64_t)(job->rank / job->gpus * job->qps + c) * each * v2_token(job);
	for (unsigned int t = c * each; t < (c + 1) * each && t < job_tokens(job, r, job->rank); t++) {
		if (!goes_to(job, job_route(job, r, job->rank, t), peer / job->gpus * per_node, per_node))
			continue;
		v2_write_token(job, r, t, peer, c, at + (uint64_t)slot++ * v2_token(job));
		if (slot - told >= V2_TAIL_TOKENS) {
			hybrid_tail(job, peer, c, slot - told, false);
			told = slot;
		}
	}
	hybrid_tail(job, peer, c, slot - told, true);
}

static void hybrid_back(struct job *job, const struct round *r, unsigned int peer, unsigned int c)
{
	unsigned int per_node = job->gpus * job->experts, each = v2_per_channel(job), node = job->rank / job->gpus;

	for (unsigned int t = c * each; t < (c + 1) * each && t < job_tokens(job, r, peer); t++)
		if (goes_to(job, job_route(job, r, peer, t), node * per_node, per_node))
			v2_write_result(job, r, peer, t, c, node, nodes(job), per_node);
	hybrid_tail(job, peer, c, 0, true);
}

static void hybrid_emit(struct job *job, const struct round *r, unsigned int phase)
{
	for (unsigned int n = 0; n < nodes(job); n++) {
		unsigned int peer = n * job->gpus + job->rank % job->gpus;
		unsigned int when = (unsigned int)(job_hash(job->seed, 50, r->step, r->layer, job->rank, n) % job->qps);

		if (n == job->rank / job->gpus)
			continue;
		v2_barrier(job, peer);
		for (unsigned int c = 0; c < job->qps; c++) {
			if (phase == 1) {
				hybrid_back(job, r, peer, c);
				continue;
			}
			if (c == when && r->pass != BACKWARD)
				v2_notify(job, r, peer, true);
			hybrid_channel(job, r, peer, c);
		}
	}
}

/* pplx-kernels: one buffer for dispatched tokens, one for results; a signal behind every message */

enum { P_NUM_TOKENS, P_NUM_RECV, P_COMBINE_SIGNAL, P_COMBINE_SYNC, P_X_OUT, P_C_OUT };

static uint32_t pplx_token(const struct job *job)
{
	return (uint32_t)round_up((job->fp8 ? job->hidden + 4 * (job->hidden / 128) : 2 * job->hidden) + 4, 16);
}

/* The heap in the order in which its buffers are allocated; those to send from are left out. */
static void pplx_prepare(struct job *job, FILE *json)
{
	uint64_t slots = (uint64_t)all_experts(job) * job->tokens;
	const uint64_t sizes[] = {8ull * all_experts(job), 8ull * all_experts(job), 8ull * job->tokens, 8ull * job->ranks,
		slots * pplx_token(job), slots * 2 * job->hidden};

	for (unsigned int i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		job->at[i] = job->region;
		job->region = round_up(job->region + sizes[i], 512);
	}
	fprintf(json, "\"hidden_bytes\": %u, \"scale_bytes\": %u, \"x_out\": %llu, \"c_out\": %llu, ",
		job->fp8 ? job->hidden : 2 * job->hidden, job->fp8 ? 4 * (job->hidden / 128) : 0,
		(unsigned long long)job->at[P_X_OUT], (unsigned long long)job->at[P_C_OUT]);
}

static void pplx_signal(struct job *job, unsigned int peer, unsigned int qp, uint64_t at)
{
	job_post(job, &(struct post){.kind = FETCH_ADD, .peer = peer, .qp = qp, .at = at, .add = 1});
}

/* What NVSHMEM stores by a compare-and-swap that is masked so that it compares nothing. Nobody reads it here. */
static void pplx_set(struct job *job, unsigned int peer, unsigned int qp, uint64_t at, uint64_t value)
{
	job_post(job, &(struct post){.kind = SWAP, .peer = peer, .qp = qp, .at = at, .add = value});
}

static void pplx_send(struct job *job, unsigned int token, unsigned int n, unsigned int expert, unsigned int rank)
{
	unsigned int local = expert % job->experts, peer = expert / job->experts;
	uint64_t cell = (uint64_t)local * job->ranks + rank;
	uint32_t length = pplx_token(job);
	char *data = job_room(job, length);

	memcpy(data + (job->fp8 ? job->hidden + 4 * (job->hidden / 128) : 2 * job->hidden), &token, 4);
	job_post(job, &(struct post){.kind = WRITE,
			      .peer = peer,
			      .qp = local % job->qps,
			      .at = job->at[P_X_OUT] + (cell * job->tokens + n) * length,
			      .data = data,
			      .length = length});
	pplx_signal(job, peer, local % job->qps, job->at[P_NUM_RECV] + 8 * cell);
}

static void pplx_back(struct job *job, unsigned int token, unsigned int n, unsigned int expert, unsigned int rank)
{
	uint32_t length = 2 * job->hidden;

	(void)n;
	job_post(job, &(struct post){.kind = WRITE,
			      .peer = rank,
			      .qp = expert % job->qps,
			      .at = job->at[P_C_OUT] + ((uint64_t)expert * job->tokens + token) * length,
			      .data = job_room(job, length),
			      .length = length});
	pplx_signal(job, rank, expert % job->qps, job->at[P_COMBINE_SIGNAL] + 8ull * token);
}

/* Counts are another warp's, on another queue pair than their tokens: before some expert's. */
static void pplx_emit(struct job *job, const struct round *r, unsigned int phase)
{
	unsigned int all = all_experts(job);
	unsigned int when = (unsigned int)(job_hash(job->seed, 50, r->step, r->layer, job->rank, 0) % (all + 1));

	for (unsigned int e = 0; phase == 0 && e <= all; e++) {
		for (unsigned int c = 0; e == when && c < all; c++)
			pplx_set(job, c / job->experts, (c + 1) % job->qps,
				job->at[P_NUM_TOKENS] + 8ull * (c % job->experts * job->ranks + job->rank),
				tokens_for(job, r, job->rank, c, NULL) + 1);
		if (e < all)
			tokens_for(job, r, job->rank, e, pplx_send);
	}
	for (unsigned int i = 0; phase == 1 && i < job->experts; i++)
		for (unsigned int s = 0; s < job->ranks; s++)
			tokens_for(job, r, s, job->rank * job->experts + i, pplx_back);
	for (unsigned int s = 0; phase == 1 && s < job->ranks; s++)
		pplx_set(job, s, 0, job->at[P_COMBINE_SYNC] + 8ull * job->rank, 1);
}

/* hybrid-ep: DeepEP's branch of that name; with each token a row of weights of the experts of the node */

enum { H_PROB, H_CPROB, H_TOKEN, H_SCALES, H_RESULT, H_FLAGS, H_CFLAGS, H_AREAS };
enum { H_CHUNK = 64, H_BATCH = 32, H_LEAST = 512 };

struct hybrid {
	unsigned int node, peer, there; /**< the other node, its GPU, what place it is in there */
	unsigned int stride;            /**< tokens of an area, of each source */
	unsigned int experts;           /**< of a node */
	bool runs;                      /**< tokens that follow each other are one message (builds with NIXL) */
};

static unsigned int hep_stride(const struct job *job)
{
	return (unsigned int)round_up(job->tokens > H_LEAST ? job->tokens : H_LEAST, H_CHUNK);
}

/* Bytes of a token in an area. */
static uint32_t hep_size(const struct job *job, unsigned int area)
{
	switch (area) {
	case H_PROB:
	case H_CPROB:
		return 4 * job->gpus * job->experts;
	case H_TOKEN:
		return job->fp8 ? job->hidden : 2 * job->hidden;
	case H_SCALES:
		return job->fp8 ? 4 * (job->hidden / 128) : 0;
	default:
		return 2 * job->hidden;
	}
}

/* Seven areas; DeepEP registers each on its own. Flags: of each chunk, and one more a source. */
static void hep_prepare(struct job *job, FILE *json)
{
	uint64_t others = nodes(job) - 1, flags = 8 * others * (hep_stride(job) / H_CHUNK + 1);

	for (unsigned int i = 0; i < H_AREAS; i++) {
		job->at[i] = job->region;
		job->region += i < H_FLAGS ? others * hep_stride(job) * hep_size(job, i) : flags;
		job->region = round_up(job->region, 4096);
	}
	fprintf(json, "\"nodes\": %u, \"row\": %u, \"rows_at\": %llu, \"rows_size\": %llu, \"others_at\": %llu, ",
		nodes(job), hep_size(job, H_PROB), (unsigned long long)job->at[H_PROB],
		(unsigned long long)(others * hep_stride(job) * hep_size(job, H_PROB)),
		(unsigned long long)job->at[H_CPROB]);
}

/* The weights of a token of `source` for the experts of node `to`. */
static void hep_row(
	struct job *job, const struct round *r, unsigned int source, unsigned int token, unsigned int to, char *row)
{
	unsigned int per_node = job->gpus * job->experts;
	const int32_t *route = job_route(job, r, source, token);

	memset(row, 0, 4 * per_node);
	for (unsigned int k = 0; k < job->top_k; k++)
		if (route[k] >= 0 && (unsigned int)route[k] / per_node == to)
			memcpy(row + 4 * ((unsigned int)route[k] % per_node),
				&(float){1.0f / (float)(k + 1) / (float)job->top_k}, 4);
}

/* `n` tokens of `source` from `first` on, in an area; node `to` has the experts. */
static void hep_write(struct job *job, const struct round *r, const struct hybrid *h, unsigned int area,
	unsigned int source, unsigned int to, unsigned int first, unsigned int n)
{
	uint32_t size = hep_size(job, area);
	char *data;

	if (size == 0)
		return;
	data = job_room(job, n * size);
	for (unsigned int i = 0; (area == H_PROB || area == H_CPROB) && i < n; i++)
		hep_row(job, r, source, first + i, to, data + (size_t)i * size);
	job_post(job, &(struct post){.kind = WRITE,
			      .peer = h->peer,
			      .qp = first / H_CHUNK % job->qps,
			      .at = job->at[area] + ((uint64_t)h->there * h->stride + first) * size,
			      .data = data,
			      .length = n * size});
}

/* The tokens of a batch in one area: each a message, or each run of them. */
static void hep_batch(struct job *job, const struct round *r, const struct hybrid *h, unsigned int area,
	unsigned int source, unsigned int to, unsigned int first, unsigned int end)
{
	unsigned int n;

	for (unsigned int t = first; t < end; t += n ? n : 1) {
		for (n = 0; t + n < end && (n == 0 || h->runs); n++)
			if (!goes_to(job, job_route(job, r, source, t + n), to * h->experts, h->experts))
				break;
		if (n > 0)
			hep_write(job, r, h, area, source, to, t, n);
	}
}

/* Tokens of `source` in chunks, with a flag behind each. Areas end with H_AREAS. */
static void hep_chunks(struct job *job, const struct round *r, const struct hybrid *h, unsigned int source,
	unsigned int to, const unsigned int *areas, unsigned int flags)
{
	unsigned int all = job_tokens(job, r, source), chunks = h->stride / H_CHUNK;

	for (unsigned int c = 0; c * H_CHUNK < all; c++) {
		for (unsigned int t = c * H_CHUNK; t < (c + 1) * H_CHUNK && t < all; t += H_BATCH)
			for (unsigned int i = 0; areas[i] != H_AREAS; i++)
				hep_batch(job, r, h, areas[i], source, to, t, t + H_BATCH < all ? t + H_BATCH : all);
		job_post(job, &(struct post){.kind = FETCH_ADD,
				      .peer = h->peer,
				      .qp = c % job->qps,
				      .at = job->at[flags] + 8ull * (h->there * chunks + c),
				      .add = 1});
	}
}

/* Weights go there in a forward pass, and their gradients come back in a backward pass. */
static void hep_emit_as(struct job *job, const struct round *r, unsigned int phase, bool runs)
{
	static const unsigned int there[] = {H_TOKEN, H_PROB, H_SCALES, H_AREAS}, bare[] = {H_TOKEN, H_SCALES, H_AREAS},
				  back[] = {H_RESULT, H_AREAS}, gradients[] = {H_RESULT, H_CPROB, H_AREAS};
	unsigned int me = job->rank / job->gpus;
	struct hybrid h = {.stride = hep_stride(job), .experts = job->gpus * job->experts, .runs = runs};

	for (h.node = 0; h.node < nodes(job); h.node++) {
		if (h.node == me)
			continue;
		h.peer = h.node * job->gpus + job->rank % job->gpus;
		h.there = me < h.node ? me : me - 1;
		if (phase == 0) {
			hep_chunks(job, r, &h, job->rank, h.node, r->pass == BACKWARD ? bare : there, H_FLAGS);
			job_post(job, &(struct post){.kind = FETCH_ADD, /* it has read all */
					      .peer = h.peer,
					      .at = job->at[H_FLAGS] +
						    8ull * (h.stride / H_CHUNK * (nodes(job) - 1) + h.there),
					      .add = 1});
		} else {
			hep_chunks(job, r, &h, h.peer, me, r->pass == BACKWARD ? gradients : back, H_CFLAGS);
		}
	}
}

static void hep_emit(struct job *job, const struct round *r, unsigned int phase)
{
	hep_emit_as(job, r, phase, false);
}

static void hep_emit_runs(struct job *job, const struct round *r, unsigned int phase)
{
	hep_emit_as(job, r, phase, true);
}

const struct layout layouts[] = {
	{"deepep-ll", ll_prepare, 2, ll_emit, 0, 0},
	{"deepep-ll-bulk", ll_prepare, 2, ll_emit_bulk, 0, 0},
	{"deepep-ll-shared", ll_prepare, 2, ll_emit_shared, 0, 0},
	{"uccl-ep", uccl_prepare, 2, uccl_emit, 0, 0},
	{"uccl-ep-imm", uccl_prepare, 2, uccl_emit_imm, 0, 0},
	{"deepep-normal", normal_prepare, 3, normal_emit, 0, 0},
	{"pplx-garden", garden_prepare, 3, garden_emit, 0, 0},
	{"pplx-kernels", pplx_prepare, 2, pplx_emit, 0, 0},
	{"queue-pairs", qp_prepare, 2, qp_emit, 0, 0},
	{"deepep-v2-direct", direct_prepare, 2, direct_emit, 0, 0},
	{"deepep-v2-hybrid", hybrid_prepare, 2, hybrid_emit, 0, 0},
	{"hybrid-ep", hep_prepare, 2, hep_emit, 0, SILENCE_MS},
	{"hybrid-ep-runs", hep_prepare, 2, hep_emit_runs, 0, SILENCE_MS},
	{"nccl", nccl_prepare, 2, nccl_emit, SILENCE_MS, 0},
	{"fastmoe", nccl_prepare, 3, fastmoe_emit, 0, 0},
	{"megatron", nccl_prepare, 3, megatron_emit, SILENCE_MS, 0},
	{0},
};
