/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The layout of a low-latency job from its messages.
 *
 * On a queue pair the tokens of a round come first, behind those of an expert the atomic that tells
 * their number, then the results of the other direction: a burst. How many tokens an atomic tells
 * says which length is that of tokens. Sorted by address, the cells of the atomics and the tokens
 * of a burst are in the same order, so the numbers tell where the tokens of each expert begin; and
 * these places are base + parity x stride + expert x stride + source x stride, or nothing is
 * proposed.
 */
#include "learn_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LENGTHS_MAX 256u
#define CELLS_MAX 4096u	      /* in a burst, and of a pair */
#define TOKENS_MAX (1u << 20) /* that an atomic announces */
#define PARITIES_MAX 4u
#define BURSTS_LEAST 3u
#define OTHERS_MAX (1ull << 30) /* bytes behind the first cell in which flags may lie */
#define NEAR 0.1 /* part of the tokens that may be missing: a tap that loses, or a cut capture */

/** How an operand may tell n tokens: scale x operand + add. */
static const struct encoding {
	int scale, add;
} encodings[] = {{-1, -1}, {1, 0}, {-1, 0}, {1, -1}};

#define ENCODINGS (sizeof(encodings) / sizeof(encodings[0]))

struct item {
	uint64_t va;
	uint32_t n; /**< tokens that are announced, or in a message */
};

struct items {
	struct item *at;
	uint32_t count, room;
};

/** Where the tokens of an expert begin, or a cell: then only the pair and the address are used. */
struct place {
	uint32_t pair, parity, expert;
	uint64_t va;
};

struct places {
	struct place *at;
	uint32_t count, room;
};

struct fit {
	struct mt_learn *l;
	struct mt_layout *lay;
	struct mt_error *err;
	const struct encoding *enc;
	uint32_t lengths[LENGTHS_MAX], length_count;
	bool batches; /**< a message may be several tokens */
	uint64_t pitch;
	uint32_t *pair_first;	  /**< [ranks * ranks + 1] in cells */
	uint64_t *cell0, *start0; /**< [ranks * ranks] */
	struct places cells, starts;
	struct items counts, tokens; /**< of a burst */
	uint32_t hist[CELLS_MAX + 1];
	uint64_t steps, pitched, vote, votes; /**< between addresses of tokens */
	bool no_memory;
};

static int refuse(struct fit *f, const char *why)
{
	return mt_fail(f->err, -ENOENT, "%s", why);
}

/* ---- lists ---- */

static void *grown(void *at, uint32_t count, uint32_t *room, size_t size, bool *no_memory)
{
	void *more;

	if (count < *room)
		return at;
	*room = *room > 0 ? 2 * *room : 256;
	more = realloc(at, *room * size);
	*no_memory |= more == NULL;
	if (more == NULL)
		*room = count;
	return more != NULL ? more : at;
}

static void add_item(struct fit *f, struct items *l, uint64_t va, uint32_t n)
{
	l->at = grown(l->at, l->count, &l->room, sizeof(*l->at), &f->no_memory);
	if (!f->no_memory)
		l->at[l->count++] = (struct item){va, n};
}

static void add_place(struct fit *f, struct places *l, const struct place *p)
{
	l->at = grown(l->at, l->count, &l->room, sizeof(*l->at), &f->no_memory);
	if (!f->no_memory)
		l->at[l->count++] = *p;
}

static int by_value(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

static int order_items(const void *a, const void *b)
{
	return by_value(((const struct item *)a)->va, ((const struct item *)b)->va);
}

static int order_expert(const void *a, const void *b)
{
	const struct place *p = a, *q = b;

	if (p->pair != q->pair)
		return by_value(p->pair, q->pair);
	if (p->expert != q->expert)
		return by_value(p->expert, q->expert);
	return p->parity != q->parity ? by_value(p->parity, q->parity) : by_value(p->va, q->va);
}

static int order_parity(const void *a, const void *b)
{
	const struct place *p = a, *q = b;

	if (p->pair != q->pair)
		return by_value(p->pair, q->pair);
	return p->parity != q->parity ? by_value(p->parity, q->parity)
				      : by_value(p->expert, q->expert);
}

static void sort_items(struct items *l)
{
	if (l->count > 1)
		qsort(l->at, l->count, sizeof(*l->at), order_items);
}

/** Sorts by pair, expert, parity and address, and leaves each place once. */
static void sort_places(struct places *l)
{
	uint32_t to = 0;

	if (l->count == 0)
		return;
	qsort(l->at, l->count, sizeof(*l->at), order_expert);
	for (uint32_t i = 1; i < l->count; i++)
		if (order_expert(&l->at[i], &l->at[to]) != 0)
			l->at[++to] = l->at[i];
	l->count = to + 1;
}

static int order_msgs(const void *a, const void *b)
{
	const struct learn_msg *m = a, *n = b;

	if (m->flow != n->flow)
		return by_value(m->flow, n->flow);
	return by_value(m->order, n->order);
}

/* ---- messages ---- */

static int order_addresses(const void *a, const void *b)
{
	return memcmp(a, b, 17);
}

/** Ranks that were found as they came get the order of their addresses. */
static void sort_ranks(struct mt_learn *l)
{
	uint8_t old[MT_LEARN_RANKS][17]; /* address, and what it was */
	uint16_t rank[MT_LEARN_RANKS];

	for (uint32_t i = 0; i < l->ranks; i++) {
		memcpy(old[i], l->address[i], 16);
		old[i][16] = (uint8_t)i;
	}
	qsort(old, l->ranks, sizeof(old[0]), order_addresses);
	for (uint32_t i = 0; i < l->ranks; i++) {
		memcpy(l->address[i], old[i], 16);
		rank[old[i][16]] = (uint16_t)i;
	}
	for (uint32_t i = 0; i < l->flow_count; i++) {
		l->flows[i].src = rank[l->flows[i].src];
		l->flows[i].dst = rank[l->flows[i].dst];
	}
	l->open = false;
}

/** Each message once, flow by flow, as it was posted. */
static void sort_messages(struct mt_learn *l)
{
	uint32_t to = 0;

	if (l->sorted || l->count == 0)
		return;
	if (l->open)
		sort_ranks(l);
	qsort(l->msgs, l->count, sizeof(*l->msgs), order_msgs);
	for (uint32_t i = 1; i < l->count; i++)
		if (order_msgs(&l->msgs[i], &l->msgs[to]) != 0)
			l->msgs[++to] = l->msgs[i];
	l->count = to + 1;
	for (uint32_t i = 0; i < l->flow_count; i++)
		l->flows[i].first = l->flows[i].end = 0;
	for (uint32_t i = 0; i < l->count; i++) {
		struct learn_flow *f = &l->flows[l->msgs[i].flow];

		if (f->end == 0)
			f->first = i;
		f->end = i + 1;
	}
	l->sorted = true;
}

/** Whether an atomic tells tokens, and how many. */
static bool tells(const struct encoding *e, const struct learn_msg *m, uint32_t *n)
{
	int64_t tokens = m->operand;

	if (m->kind != LEARN_ATOMIC || tokens > (int64_t)TOKENS_MAX ||
		tokens < -(int64_t)TOKENS_MAX)
		return false;
	tokens = e->scale * tokens + e->add;
	*n = (uint32_t)tokens;
	return tokens >= 0;
}

/** Tokens of a message; 0: it is none of tokens. */
static uint32_t tokens_of(const struct learn_msg *m, uint32_t token, bool batches)
{
	if (m->kind != LEARN_WRITE || token == 0 || m->length == 0)
		return 0;
	if (m->length == token)
		return 1;
	return batches && m->length % token == 0 ? m->length / token : 0;
}

/* ---- which length is that of a token ---- */

static int order_numbers(const void *a, const void *b)
{
	return by_value(*(const uint32_t *)a, *(const uint32_t *)b);
}

/** All lengths of WRITEs that are not empty. False: there are too many, or none. */
static bool find_lengths(struct fit *f)
{
	uint32_t last = 0;

	for (uint32_t i = 0; i < f->l->count; i++) {
		const struct learn_msg *m = &f->l->msgs[i];
		bool known = m->kind != LEARN_WRITE || m->length == 0 || m->length == last;

		for (uint32_t k = 0; k < f->length_count && !known; k++)
			known = f->lengths[k] == m->length;
		if (m->kind == LEARN_WRITE)
			last = m->length;
		if (known)
			continue;
		if (f->length_count == LENGTHS_MAX)
			return false;
		f->lengths[f->length_count++] = m->length;
	}
	if (f->length_count > 0)
		qsort(f->lengths, f->length_count, sizeof(f->lengths[0]), order_numbers);
	return f->length_count > 0;
}

/** How far what is announced on each flow is from tokens of that size there: 0 is just so. */
static double distance(struct fit *f, const struct encoding *e, uint32_t token, bool batches)
{
	uint64_t off = 0, all = 0, counts = 0;

	for (uint32_t i = 0; i < f->l->flow_count; i++) {
		const struct learn_flow *flow = &f->l->flows[i];
		int64_t sum = 0;
		uint32_t n;

		for (uint32_t k = flow->first; k < flow->end; k++) {
			sum -= tokens_of(&f->l->msgs[k], token, batches);
			if (!tells(e, &f->l->msgs[k], &n))
				continue;
			sum += n;
			all += n;
			counts++;
		}
		off += (uint64_t)(sum < 0 ? -sum : sum);
	}
	return all == 0 || counts == 0 ? 1 : (double)off / (double)all;
}

static int find_token(struct fit *f)
{
	double best = NEAR;

	for (size_t e = 0; e < ENCODINGS; e++)
		for (uint32_t k = 0; k < f->length_count; k++)
			for (int batches = 0; batches < 2; batches++) {
				double d = distance(f, &encodings[e], f->lengths[k], batches);

				if (d >= best)
					continue;
				best = d;
				f->enc = &encodings[e];
				f->lay->token = f->lengths[k];
				f->batches = batches;
			}
	if (f->enc == NULL)
		return refuse(f,
			"no witness: on no queue pair do atomics tell how many WRITEs of some "
			"length came before them. Tokens by bytes or with lists or counts in "
			"payloads are not learnt yet: write a map, or use a preset");
	f->lay->scale = f->enc->scale;
	f->lay->add = f->enc->add;
	return 0;
}

/* ---- bursts ---- */

typedef void burst_fn(struct fit *f, struct learn_flow *flow);

/** Calls `fn` with each burst of a flow in f->counts and f->tokens, sorted. */
static void walk(struct fit *f, struct learn_flow *flow, burst_fn *fn)
{
	uint32_t n;

	f->counts.count = f->tokens.count = 0;
	for (uint32_t k = flow->first; k <= flow->end; k++) {
		const struct learn_msg *m = &f->l->msgs[k];
		bool end = k == flow->end;
		uint32_t tokens = k == flow->end ? 0 : tokens_of(m, f->lay->token, f->batches);

		if (k < flow->end && tokens > 0)
			add_item(f, &f->tokens, m->va, tokens);
		else if (k < flow->end && tells(f->enc, m, &n))
			add_item(f, &f->counts, m->va, n);
		else if (k < flow->end)
			end = true;
		/* Where no results part rounds, the last cell does. */
		end = end || (flow->clean > 0 && f->counts.count == flow->clean);
		if (!end || f->counts.count == 0)
			continue;
		sort_items(&f->counts);
		sort_items(&f->tokens);
		fn(f, flow);
		f->counts.count = f->tokens.count = 0;
	}
}

/** How many cells a burst counts, and how far its tokens are from each other. */
static void look(struct fit *f, struct learn_flow *flow)
{
	struct place cell = {.pair = flow->src + flow->dst * f->lay->ranks};
	bool again = false; /* then it is several, with no results between them */

	for (uint32_t i = 0; i < f->counts.count; i++) {
		cell.va = f->counts.at[i].va;
		add_place(f, &f->cells, &cell);
		again |= i > 0 && cell.va == f->counts.at[i - 1].va;
	}
	if (!again)
		f->hist[f->counts.count < CELLS_MAX ? f->counts.count : CELLS_MAX]++;
	for (uint32_t i = 1; i < f->tokens.count; i++) {
		uint64_t step = f->tokens.at[i].va - f->tokens.at[i - 1].va;

		f->steps++;
		f->pitched += step == (uint64_t)f->tokens.at[i - 1].n * f->lay->token;
		step /= f->tokens.at[i - 1].n;
		if (f->votes == 0)
			f->vote = step;
		f->votes += f->vote == step ? 1 : (uint64_t)-1;
	}
}

/** Cells of a flow, each once, from the place `from` of the list on. Returns how many. */
static uint32_t cells_of_flow(struct fit *f, uint32_t from)
{
	struct places own = {f->cells.at + from, f->cells.count - from, 0};

	sort_places(&own);
	f->cells.count = from + own.count;
	return own.count;
}

/**
 * Bursts of all flows. Each tells by how many cells of its flow it counts how many halves there
 * are: the most that a quarter of them tell, for one between whose rounds no results went tells
 * less.
 */
static int look_at_all(struct fit *f)
{
	uint64_t tell[PARITIES_MAX + 1] = {0}, all = 0;

	for (uint32_t i = 0; i < f->l->flow_count; i++) {
		uint32_t from = f->cells.count, cells;

		memset(f->hist, 0, sizeof(f->hist));
		walk(f, &f->l->flows[i], look);
		cells = cells_of_flow(f, from);
		f->l->flows[i].cells = cells;
		for (uint32_t n = 1; n <= cells && n < CELLS_MAX; n++) {
			all += f->hist[n];
			if (cells % n == 0 && cells / n <= PARITIES_MAX)
				tell[cells / n] += f->hist[n];
		}
	}
	for (uint32_t n = 1; n <= PARITIES_MAX; n++)
		if (tell[n] >= BURSTS_LEAST && 4 * tell[n] >= all)
			f->lay->count_parities = n;
	f->pitch = 4 * f->pitched >= f->steps ? f->lay->token : f->vote;
	sort_places(&f->cells);
	if (f->no_memory)
		return -ENOMEM;
	return f->lay->count_parities > 0 ? 0
					  : refuse(f, "rounds cannot be told apart: too few "
						      "results between counts. Look longer");
}

/* ---- cells ---- */

/** Experts of a rank, the same for all pairs, and so many cells of each flow in a round. */
static int find_experts(struct fit *f)
{
	struct mt_layout *y = f->lay;
	uint32_t pairs = y->ranks * y->ranks, at = 0, cells;
	bool even = true;

	for (uint32_t pair = 0; pair < pairs; pair++) {
		f->pair_first[pair] = at;
		while (at < f->cells.count && f->cells.at[at].pair == pair)
			at++;
		cells = at - f->pair_first[pair];
		if (cells == 0)
			continue;
		y->pairs++;
		if (y->experts == 0)
			y->experts = cells / y->count_parities;
		even = even && cells == y->experts * y->count_parities;
	}
	f->pair_first[pairs] = at;
	for (uint32_t i = 0; i < f->l->flow_count; i++) {
		f->l->flows[i].clean = f->l->flows[i].cells / y->count_parities;
		even = even && f->l->flows[i].cells % y->count_parities == 0;
	}
	return even && y->experts > 0 ? 0
				      : refuse(f, "the cells of counts are not the same number for "
						  "all pairs of ranks: either "
						  "the capture is too short (three rounds are "
						  "needed), or ranks hold different "
						  "numbers of experts, which is not learnt");
}

/** Takes a stride if there is none yet. False: it is another one. */
static bool same(uint64_t *stride, uint64_t value)
{
	if (*stride == 0)
		*stride = value;
	return *stride == value;
}

static int find_cell_strides(struct fit *f)
{
	struct mt_layout *y = f->lay;
	uint32_t e = y->experts;

	for (uint32_t pair = 0; pair < y->ranks * y->ranks; pair++) {
		const struct place *c = f->cells.at + f->pair_first[pair];
		uint32_t n = f->pair_first[pair + 1] - f->pair_first[pair];

		f->cell0[pair] = n > 0 ? c[0].va : 0;
		for (uint32_t i = 1; i < n; i++)
			if (i % e != 0 && !same(&y->count_expert, c[i].va - c[i - 1].va))
				return refuse(f, "the cells of counts are not evenly spaced");
		for (uint32_t i = e; i < n; i++)
			if (!same(&y->count_parity, c[i].va - c[i - e].va))
				return refuse(f,
					"the halves of the cells of counts are not evenly spaced");
	}
	return 0;
}

/** The stride between sources, from those of the same destination. 0: they contradict each other.
 */
static bool stride_of_sources(const struct fit *f, const uint64_t *first, uint64_t *stride)
{
	uint32_t ranks = f->lay->ranks;

	for (uint32_t dst = 0; dst < ranks; dst++) {
		uint32_t last = UINT32_MAX;

		for (uint32_t src = 0; src < ranks; src++) {
			uint64_t step, at = first[src + dst * ranks];

			if (at == 0)
				continue;
			if (last != UINT32_MAX) {
				step = at - first[last + dst * ranks];
				if (at <= first[last + dst * ranks] || step % (src - last) != 0 ||
					!same(stride, step / (src - last)))
					return false;
			}
			last = src;
		}
	}
	return true;
}

static int find_cell_sources(struct fit *f)
{
	struct mt_layout *y = f->lay;
	uint64_t lone = y->experts == 1 ? 8 : y->count_expert / y->ranks;

	if (!stride_of_sources(f, f->cell0, &y->count_source))
		return refuse(f,
			"the cells of sources are not evenly spaced in the order of ranks: are the "
			"addresses in the order of ranks?");
	if (y->count_source == 0) /* two ranks: each has only one source */
		y->count_source = lone >= 4 && lone * y->ranks >= 8 && y->count_expert != 8
					  ? lone
					  : y->experts * y->count_expert;
	if (y->experts == 1)
		y->count_expert = y->ranks * y->count_source;
	y->count_size = y->count_expert > y->count_source ? y->experts * y->count_expert
							  : y->ranks * y->count_source;
	if (y->count_parities > 1 && y->count_parity < y->count_size)
		return refuse(f, "the halves of the cells of counts overlap");
	return 0;
}

/* ---- tokens ---- */

/** The number of a cell among those of its pair, or UINT32_MAX. */
static uint32_t cell_of(const struct fit *f, uint32_t pair, uint64_t va)
{
	uint32_t low = f->pair_first[pair], high = f->pair_first[pair + 1];

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (f->cells.at[mid].va == va)
			return mid - f->pair_first[pair];
		if (f->cells.at[mid].va < va)
			low = mid + 1;
		else
			high = mid;
	}
	return UINT32_MAX;
}

/** The place behind the n tokens from `at` on; 0: they do not follow each other. */
static uint32_t run_of(const struct fit *f, uint32_t at, uint32_t n)
{
	const struct item *t = f->tokens.at;
	uint32_t first = at, got = 0;

	for (; got < n && at < f->tokens.count; at++) {
		if (t[at].va != t[first].va + got * f->pitch)
			return 0;
		got += t[at].n;
	}
	return got == n ? at : 0;
}

/** Notes where the tokens of each expert begin, if a burst is whole. */
static void place_tokens(struct fit *f, struct learn_flow *flow)
{
	struct place start = {.pair = flow->src + flow->dst * f->lay->ranks};
	uint32_t at = 0, before = f->starts.count, cell = 0, parity = 0;
	bool whole = f->counts.count == flow->clean;

	for (uint32_t i = 0; i < f->counts.count && whole; i++) {
		const struct item *c = &f->counts.at[i];

		cell = cell_of(f, start.pair, c->va);
		start.parity = cell / f->lay->experts;
		start.expert = cell % f->lay->experts;
		whole = (i == 0 || parity == start.parity) && (i == 0 || c->va != c[-1].va);
		parity = start.parity;
		if (c->n == 0 || !whole)
			continue;
		start.va = at < f->tokens.count ? f->tokens.at[at].va : 0;
		at = run_of(f, at, c->n);
		whole = at > 0;
		if (whole)
			add_place(f, &f->starts, &start);
	}
	whole = whole && at == f->tokens.count;
	if (!whole)
		f->starts.count = before;
	f->lay->bursts += whole;
	f->lay->unclean += !whole;
}

/** Where counts have one half, that of tokens is by their own order. */
static void number_parities(struct fit *f)
{
	struct place *s = f->starts.at;

	for (uint32_t i = 0; i < f->starts.count; i++)
		s[i].parity = i > 0 && s[i].pair == s[i - 1].pair && s[i].expert == s[i - 1].expert
				      ? s[i - 1].parity + 1
				      : 0;
}

static int find_token_strides(struct fit *f)
{
	struct mt_layout *y = f->lay;
	struct place *s = f->starts.at;

	y->token_parities = 1;
	sort_places(&f->starts);
	if (y->count_parities == 1)
		number_parities(f);
	for (uint32_t i = 1; i < f->starts.count; i++) {
		uint64_t step = s[i].va - s[i - 1].va;
		uint32_t more = s[i].parity - s[i - 1].parity;

		if (s[i].pair != s[i - 1].pair || s[i].expert != s[i - 1].expert)
			continue;
		if (more == 0 || s[i].parity >= PARITIES_MAX)
			return refuse(f, "the tokens of an expert begin at more places than there "
					 "are halves");
		if (step == 0 && y->token_parity == 0)
			continue;
		if (step % more != 0 || s[i].va < s[i - 1].va ||
			!same(&y->token_parity, step / more))
			return refuse(f, "the halves of the tokens are not evenly spaced");
		y->token_parities =
			s[i].parity + 1 > y->token_parities ? s[i].parity + 1 : y->token_parities;
	}
	if (y->token_parity != 0 && y->count_parities > y->token_parities)
		y->token_parities = y->count_parities;
	qsort(s, f->starts.count, sizeof(*s), order_parity);
	for (uint32_t i = 1; i < f->starts.count; i++) {
		uint64_t step = s[i].va - s[i - 1].va;
		uint32_t more = s[i].expert - s[i - 1].expert;

		if (s[i].pair != s[i - 1].pair || s[i].parity != s[i - 1].parity || more == 0)
			continue;
		if (s[i].va < s[i - 1].va || step % more != 0 ||
			!same(&y->token_expert, step / more))
			return refuse(f, "the tokens of experts are not evenly spaced");
	}
	if (y->experts > 1 && y->token_expert == 0)
		return refuse(f, "too few experts had tokens: look longer");
	return 0;
}

/** Where the tokens of each pair would begin for expert 0 in the first half. */
static int find_starts(struct fit *f)
{
	struct mt_layout *y = f->lay;

	for (uint32_t i = 0; i < f->starts.count; i++) {
		const struct place *s = &f->starts.at[i];

		if (!same(&f->start0[s->pair],
			    s->va - s->parity * y->token_parity - s->expert * y->token_expert))
			return refuse(f, "tokens lie at places that no strides of experts and "
					 "halves explain");
	}
	for (uint32_t pair = 0; pair < y->ranks * y->ranks; pair++)
		if (f->cell0[pair] != 0 && f->start0[pair] == 0)
			return refuse(f,
				"between some ranks counts were seen, but no tokens: look longer");
	return 0;
}

/** Of two ranks, each has one source: the stride is what makes both layouts the same. */
static uint64_t stride_of_two(const struct fit *f)
{
	const struct mt_layout *y = f->lay;
	/* pair = source + 2 x destination: 1 is from rank 1 to rank 0, 2 from rank 0 to rank 1 */
	uint64_t stride =
		(f->cell0[2] - f->start0[2]) - (f->cell0[1] - y->count_source - f->start0[1]);

	if (stride != 0 && stride < UINT64_MAX / 2 && stride % f->pitch == 0)
		return stride;
	return y->token_expert % (2 * f->pitch) == 0 ? y->token_expert / 2 : 0;
}

static int find_token_sources(struct fit *f)
{
	struct mt_layout *y = f->lay;
	uint64_t inner;

	if (!stride_of_sources(f, f->start0, &y->token_source))
		return refuse(f,
			"the areas of sources are not evenly spaced in the order of ranks: are the "
			"addresses in the order of ranks?");
	if (y->token_source == 0 && y->ranks == 2)
		y->token_source = stride_of_two(f);
	if (y->token_source == 0)
		return refuse(f, "the distance of the areas of sources cannot be told");
	if (y->experts == 1)
		y->token_expert = y->ranks * y->token_source;
	inner = y->token_source < y->token_expert ? y->token_source : y->token_expert;
	y->slots = (uint32_t)(inner / f->pitch);
	y->token_size = y->token_expert > y->token_source ? y->experts * y->token_expert
							  : y->ranks * y->token_source;
	if (y->token_parities > 1 && y->token_parity < y->token_size)
		return refuse(f, "the halves of the tokens overlap");
	return 0;
}

/* ---- bases ---- */

/** Bases of one kind: where rank 0's part of the region begins. */
static int find_bases(struct fit *f, const uint64_t *first, uint64_t stride, uint64_t *base)
{
	for (uint32_t dst = 0; dst < f->lay->ranks; dst++) {
		for (uint32_t src = 0; src < f->lay->ranks; src++) {
			uint64_t at = first[src + dst * f->lay->ranks];

			if (at != 0 && !same(&base[dst], at - src * stride))
				return refuse(f, "sources are not evenly spaced");
		}
		if (base[dst] == 0)
			return refuse(f, "a rank got no counts or no tokens: are its address and "
					 "its place in "
					 "the list right, and does the tap see its port?");
	}
	return 0;
}

static int place_bases(struct fit *f)
{
	struct mt_layout *y = f->lay;
	int ret = find_bases(f, f->start0, y->token_source, y->base);

	if (ret == 0)
		ret = find_bases(f, f->cell0, y->count_source, y->atomics);
	for (uint32_t r = 0; r < y->ranks && ret == 0; r++)
		y->two_bases |= y->atomics[r] - y->base[r] != y->atomics[0] - y->base[0];
	if (ret != 0 || y->two_bases)
		return ret;
	if (y->atomics[0] > y->base[0])
		y->count_offset = y->atomics[0] - y->base[0];
	else
		y->token_offset = y->base[0] - y->atomics[0];
	if (y->token_offset > 0)
		memcpy(y->base, y->atomics, sizeof(y->base));
	return 0;
}

/* ---- results ---- */

/** Whether WRITEs of that length all lie in the halves of the tokens. */
static bool in_halves(const struct fit *f, uint32_t length)
{
	const struct mt_layout *y = f->lay;

	for (uint32_t i = 0; i < f->l->count; i++) {
		const struct learn_msg *m = &f->l->msgs[i];
		uint64_t at = m->va - y->base[f->l->flows[m->flow].dst] - y->token_offset;

		if (m->kind == LEARN_WRITE && m->length == length &&
			at >= y->token_parity * y->token_parities)
			return false;
	}
	return y->token_parities > 1;
}

static int find_combines(struct fit *f)
{
	struct mt_layout *y = f->lay;

	for (uint32_t k = 0; k < f->length_count; k++) {
		struct learn_msg m = {.kind = LEARN_WRITE, .length = f->lengths[k]};

		if (tokens_of(&m, y->token, f->batches) > 0) {
			y->longest = m.length;
			continue;
		}
		if (y->combines == MT_LEARN_COMBINES)
			return refuse(
				f, "WRITEs beside the tokens have more lengths than are learnt");
		y->combine[y->combines].length = m.length;
		y->combine[y->combines].region = in_halves(f, m.length);
		y->combines++;
	}
	return 0;
}

/** Atomics that tell nothing: where they lie, counted from the cells of counts. */
static void add_other(struct mt_layout *y, uint64_t at)
{
	uint64_t end = y->other_offset + y->other_size;

	if (!y->has_others || at < y->other_offset)
		y->other_offset = at;
	end = !y->has_others || at + 8 > end ? at + 8 : end;
	y->other_size = end - y->other_offset;
	y->has_others = true;
}

/** What was seen in all. */
static void add_up(struct fit *f)
{
	struct mt_layout *y = f->lay;
	uint32_t n;

	for (uint32_t i = 0; i < f->l->count; i++) {
		const struct learn_msg *m = &f->l->msgs[i];
		uint32_t dst = f->l->flows[m->flow].dst;

		y->seen_tokens += tokens_of(m, y->token, f->batches);
		y->has_empty |= m->kind == LEARN_WRITE && m->length == 0;
		if (tells(f->enc, m, &n))
			y->seen_counts += n;
		else if (m->kind == LEARN_ATOMIC && m->va >= y->atomics[dst] &&
			 m->va - y->atomics[dst] < OTHERS_MAX)
			add_other(y, m->va - y->atomics[dst]);
	}
	y->starts = f->starts.count;
	y->heads = f->l->seen.heads;
	memcpy(y->address, f->l->address, sizeof(y->address));
}

static int propose(struct fit *f)
{
	int ret;

	if (f->l->ranks < 2)
		return refuse(f, "no RDMA between two ranks: are the addresses right?");
	if (f->l->seen.cut > f->l->count)
		return refuse(f,
			"frames are cut before the addresses in them: capture 102 bytes of each "
			"or more");
	if (f->l->seen.atomics == 0)
		return refuse(f, f->l->seen.vendor > 0
					 ? "no witness: no standard atomic was seen. Atomics of a "
					   "vendor's form are not "
					   "learnt yet: use the preset, which has its form learnt"
					 : "no witness: no atomic announces how many tokens were "
					   "sent. Jobs without "
					   "counts, or with counts in payloads, are not learnt "
					   "yet: use a preset");
	if (!find_lengths(f))
		return refuse(f, f->length_count == 0
					 ? "no RDMA WRITE was seen, so no tokens by address"
					 : "WRITEs have too many lengths for tokens of one size");
	ret = find_token(f);
	if (ret == 0)
		ret = look_at_all(f);
	if (ret == 0)
		ret = find_experts(f);
	if (ret == 0)
		ret = find_cell_strides(f);
	if (ret == 0)
		ret = find_cell_sources(f);
	for (uint32_t i = 0; i < f->l->flow_count && ret == 0; i++)
		walk(f, &f->l->flows[i], place_tokens);
	if (ret == 0 && f->no_memory)
		ret = -ENOMEM;
	if (ret == 0 && (f->lay->bursts < BURSTS_LEAST || f->lay->bursts < f->lay->unclean))
		ret = refuse(f, "where tokens lie does not go with their counts: no run of tokens "
				"follows each "
				"other from a first place on");
	if (ret == 0)
		ret = find_token_strides(f);
	if (ret == 0)
		ret = find_starts(f);
	if (ret == 0)
		ret = find_token_sources(f);
	if (ret == 0)
		ret = place_bases(f);
	if (ret == 0)
		ret = find_combines(f);
	if (ret == 0)
		add_up(f);
	return ret;
}

int mt_learn_layout(struct mt_learn *l, struct mt_layout *layout, struct mt_error *err)
{
	struct fit *f = calloc(1, sizeof(*f));
	size_t pairs;
	int ret = -ENOMEM;

	memset(layout, 0, sizeof(*layout));
	if (f == NULL)
		return mt_fail(err, -ENOMEM, "out of memory");
	sort_messages(l);
	f->l = l;
	f->lay = layout;
	f->err = err;
	layout->ranks = l->ranks;
	pairs = (size_t)l->ranks * l->ranks + 1;
	f->pair_first = calloc(pairs, sizeof(*f->pair_first));
	f->cell0 = calloc(pairs, sizeof(*f->cell0));
	f->start0 = calloc(pairs, sizeof(*f->start0));
	if (f->pair_first != NULL && f->cell0 != NULL && f->start0 != NULL)
		ret = propose(f);
	if (ret == -ENOMEM)
		mt_fail(err, ret, "out of memory");
	free(f->pair_first);
	free(f->cell0);
	free(f->start0);
	free(f->cells.at);
	free(f->starts.at);
	free(f->counts.at);
	free(f->tokens.at);
	free(f);
	return ret;
}
