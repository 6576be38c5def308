// SPDX-License-Identifier: BSD-3-Clause
/*
 * The wire layouts of frameworks: where each message lies and what is in it. Integers in payloads are
 * little-endian, as GPUs write them (and the machines here).
 */
#include <string.h>

#include "layout.h"

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

static unsigned int all_experts(const struct job *job)
{
	return job->ranks * job->experts;
}

/* deepep-ll: DeepEP's low-latency mode; uccl-ep: the same addresses, other messages */

enum { LL_COUNTS, LL_TOKENS }; /* job->at, where buffer 0 is; buffer 1 lies a stride on */

static uint32_t ll_message(const struct job *job)
{
	return 16 + job->hidden + 4 * (job->hidden / 128);
}

static uint64_t ll_combine_stride(const struct job *job, bool packed)
{
	return 2 * job->hidden + (packed ? 0 : 4 * (job->hidden / 128));
}

static uint64_t ll_counts_stride(const struct job *job)
{
	return round_up(8 * all_experts(job), 128);
}

static uint64_t ll_tokens_stride(const struct job *job)
{
	uint64_t message = 16 + 2 * job->hidden, stride = ll_combine_stride(job, false);

	return (uint64_t)all_experts(job) * job->tokens * (message > stride ? message : stride);
}

static void ll_tell(struct job *job, FILE *json, bool packed)
{
	fprintf(json,
		"\"message\": %u, \"combine_message\": %u, \"combine_stride\": %llu, \"counts\": %llu, \"counts_stride\": %llu,\n"
		" \"tokens_at\": %llu, \"tokens_stride\": %llu, ",
		ll_message(job), 2 * job->hidden, (unsigned long long)ll_combine_stride(job, packed),
		(unsigned long long)job->at[LL_COUNTS], (unsigned long long)ll_counts_stride(job),
		(unsigned long long)job->at[LL_TOKENS], (unsigned long long)ll_tokens_stride(job));
}

/* Counts of two buffers, two buffers to send from, two to receive into. */
static void ll_prepare(struct job *job, FILE *json)
{
	uint64_t stride = ll_combine_stride(job, false), send = job->tokens * (16 + 2ull * job->hidden);

	if (send < all_experts(job) * job->tokens * stride)
		send = all_experts(job) * job->tokens * stride;
	job->at[LL_COUNTS] = 0;
	job->at[LL_TOKENS] = 2 * ll_counts_stride(job) + 2 * send;
	job->region = job->at[LL_TOKENS] + 2 * ll_tokens_stride(job);
	ll_tell(job, json, false);
}

/* Counts lie behind the tokens. */
static void uccl_prepare(struct job *job, FILE *json)
{
	job->at[LL_TOKENS] = 0;
	job->at[LL_COUNTS] = 2 * ll_tokens_stride(job);
	job->region = job->at[LL_COUNTS] + 2 * ll_counts_stride(job);
	ll_tell(job, json, true);
}

static uint64_t ll_count_at(const struct job *job, uint64_t cell)
{
	return job->at[LL_COUNTS] + job->buffer * ll_counts_stride(job) + 8 * cell;
}

static uint64_t ll_at(const struct job *job, uint64_t offset)
{
	return job->at[LL_TOKENS] + job->buffer * ll_tokens_stride(job) + offset;
}

static void ll_dispatch_count(struct job *job, unsigned int expert, unsigned int tokens)
{
	unsigned int local = expert % job->experts;

	job_post(job, &(struct post){.kind = FETCH_ADD,
			      .peer = expert / job->experts,
			      .qp = local % job->qps,
			      .at = ll_count_at(job, (uint64_t)local * job->ranks + job->rank),
			      .add = (uint64_t)(-(int64_t)tokens - 1)});
}

static void ll_combine_flag(struct job *job, unsigned int expert, unsigned int source)
{
	job_post(job, &(struct post){.kind = FETCH_ADD,
			      .peer = source,
			      .qp = expert % job->experts % job->qps,
			      .at = ll_count_at(job, expert),
			      .add = 1});
}

/* Calls f for every (token, expert) of a rank for one expert; how many there are. */
static unsigned int tokens_for(struct job *job, const struct round *r, unsigned int rank, unsigned int expert,
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

static void uccl_emit(struct job *job, const struct round *r, unsigned int phase)
{
	for (unsigned int e = 0; phase == 0 && e < all_experts(job); e++)
		ll_dispatch_count(job, e, uccl_dispatch(job, r, e));
	for (unsigned int i = 0; phase == 1 && i < job->experts; i++)
		for (unsigned int s = 0; s < job->ranks; s++) {
			uccl_combine(job, r, job->rank * job->experts + i, s);
			ll_combine_flag(job, job->rank * job->experts + i, s);
		}
	job->buffer ^= 1;
}

/* uccl-ep-imm: of a NIC without atomics; what would be added to a cell is in an immediate */

enum { IMM_ATOMIC = 1u << 31, IMM_DONE = 1u << 30, IMM_BUFFER_SHIFT = 29, IMM_VALUE_SHIFT = 13 };
enum { IMM_VALUES = 0x7fff, IMM_SYNC = 1u << 30, IMM_SYNC_SHIFT = 8 };

static void imm_post(struct job *job, unsigned int peer, unsigned int qp, uint32_t imm)
{
	job_post(job, &(struct post){.kind = WRITE_IMM, .peer = peer, .qp = qp, .imm = imm});
}

static void imm_add(struct job *job, unsigned int peer, unsigned int qp, uint64_t cell, int value, uint32_t bits)
{
	cell += job->buffer * ll_counts_stride(job) / 8;
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
	for (unsigned int peer = 0; peer < job->ranks; peer++)
		imm_post(job, peer, 0, IMM_SYNC | (job->requests & 0xffff) << IMM_SYNC_SHIFT | job->rank);
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

	job->at[V2_COMBINED] = V2_DATA;
	job->region = V2_DATA + (v2_results(job, job->ranks) > tokens ? v2_results(job, job->ranks) : tokens);
	v2_tell(job, json, V2_DIRECT_COUNTS + 8ull * job->ranks, V2_DATA, tokens);
}

/* The tokens lie behind the buffers of the GPUs of the node. */
static void hybrid_prepare(struct job *job, FILE *json)
{
	uint64_t at = V2_DATA + ((uint64_t)job->ranks + 1) * job->tokens * v2_token(job), end;
	uint64_t tokens = (uint64_t)nodes(job) * job->qps * v2_per_channel(job) * v2_token(job);

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

/* fastmoe, megatron: messages of NCCL, in steps into the slots of a buffer that say nothing */

enum { NCCL_STEP = 32768, NCCL_SLOTS = 8, NCCL_CLEAR = 64 };

static void nccl_prepare(struct job *job, FILE *json)
{
	job->region = NCCL_SLOTS * NCCL_STEP + (uint64_t)job->ranks * NCCL_CLEAR;
	fprintf(json, "\"token\": %u, \"step\": %u, \"clear_to_send\": %u, ", 2 * job->hidden, NCCL_STEP, NCCL_CLEAR);
}

/* A step: the receiver's slot is free, says it (here: this rank says it of a slot of its own), and it is filled. */
static void nccl_step(struct job *job, unsigned int peer, const void *data, uint32_t length)
{
	job_post(job, &(struct post){.kind = WRITE,
			      .peer = peer,
			      .at = NCCL_SLOTS * NCCL_STEP + (uint64_t)job->rank * NCCL_CLEAR,
			      .data = job_room(job, NCCL_CLEAR),
			      .length = NCCL_CLEAR});
	job_post(job, &(struct post){.kind = WRITE_IMM,
			      .peer = peer,
			      .at = (uint64_t)(job->requests++ % NCCL_SLOTS) * NCCL_STEP,
			      .data = data,
			      .length = length,
			      .imm = length});
}

/* Tokens in steps; PyTorch also sends none of them, FastMoE does not. */
static void nccl_tokens(struct job *job, unsigned int peer, unsigned int tokens, bool empty)
{
	uint64_t bytes = 2ull * job->hidden * tokens, n;

	for (uint64_t at = 0; at < bytes || (empty && bytes == 0 && at == 0); at += n ? n : 1) {
		n = bytes - at < NCCL_STEP ? bytes - at : NCCL_STEP;
		nccl_step(job, peer, job_room(job, (uint32_t)n), (uint32_t)n);
	}
}

/* Counts for the experts of a peer, then the tokens for each, then back; a backward pass knows the counts. */
static void fastmoe_emit(struct job *job, const struct round *r, unsigned int phase)
{
	for (unsigned int p = 0; phase == 0 && r->pass != BACKWARD && p < job->ranks; p++) {
		int64_t *counts = job_room(job, 8 * job->experts);

		for (unsigned int i = 0; i < job->experts; i++)
			counts[i] = tokens_for(job, r, job->rank, p * job->experts + i, NULL);
		nccl_step(job, p, counts, 8 * job->experts);
	}
	for (unsigned int i = 0; phase > 0 && i < job->experts; i++)
		for (unsigned int p = 0; p < job->ranks; p++)
			nccl_tokens(job, p,
				phase == 1 ? tokens_for(job, r, job->rank, p * job->experts + i, NULL)
					   : tokens_for(job, r, p, job->rank * job->experts + i, NULL),
				false);
}

/* One message with the tokens for all experts of a peer, and one back. */
static void megatron_emit(struct job *job, const struct round *r, unsigned int phase)
{
	for (unsigned int p = 0; p < job->ranks; p++) {
		unsigned int n = 0;

		for (unsigned int i = 0; i < job->experts; i++)
			n += phase == 0 ? tokens_for(job, r, job->rank, p * job->experts + i, NULL)
					: tokens_for(job, r, p, job->rank * job->experts + i, NULL);
		nccl_tokens(job, p, n, true);
	}
}

const struct layout layouts[] = {
	{"deepep-ll", ll_prepare, 2, ll_emit, 0},
	{"uccl-ep", uccl_prepare, 2, uccl_emit, 0},
	{"deepep-normal", normal_prepare, 3, normal_emit, 0},
	{"pplx-garden", garden_prepare, 3, garden_emit, 0},
	{"queue-pairs", qp_prepare, 2, qp_emit, 0},
	{"deepep-ll-shared", ll_prepare, 2, ll_emit_shared, 0},
	{"uccl-ep-imm", uccl_prepare, 2, uccl_emit_imm, 0},
	{"deepep-v2-direct", direct_prepare, 2, direct_emit, 0},
	{"deepep-v2-hybrid", hybrid_prepare, 2, hybrid_emit, 0},
	{"fastmoe", nccl_prepare, 3, fastmoe_emit, 0},
	{"megatron", nccl_prepare, 2, megatron_emit, 1200},
	{0},
};
