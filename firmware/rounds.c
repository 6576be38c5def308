/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdlib.h>

#include <rte_ring_elem.h>

#include "rounds_priv.h"

#define WORDS 64 /* taken from a core at a time */

/* ---- what poll cores tell -------------------------------------------------------------------- */

static uint32_t lanes_max(const struct fw_tables *t)
{
	return t->config->by_source ? t->config->bank->ranks : t->max;
}

static void lane_begin(struct fw_rounds *r, uint32_t core, uint32_t index, uint32_t src)
{
	struct lane *l = &r->lanes[core][index];

	if (l->next != 0)
		return;
	*l = (struct lane){.core = core, .index = index, .next = 1, .last = -1, .src = src};
	if (index >= r->lanes_known[core])
		r->lanes_known[core] = index + 1;
}

/** Take up flows that a core found since the last look. */
static void find_flows(struct fw_rounds *r, uint32_t core)
{
	const struct fw_tables *t = tables_of(r, core);
	uint32_t used = __atomic_load_n(&t->used, __ATOMIC_ACQUIRE);

	for (uint32_t i = r->flows_known[core]; i < used; i++) {
		struct flow *f = &r->flows[core][i];
		struct lane *l;

		f->f = t->by_index[i];
		f->core = core;
		f->src = fw_cold_of(t, f->f)->src;
		f->dst = fw_cold_of(t, f->f)->dst;
		f->psn = load32(&f->f->next);
		lane_begin(r, core, r->config->by_source ? f->src : i, f->src);
		l = &r->lanes[core][r->config->by_source ? f->src : i];
		f->next = l->flows;
		l->flows = f;
	}
	r->flows_known[core] = used;
}

static void read_late(struct fw_rounds *r, struct lane *l);

/** A flow counts in another bank now. */
static void take_bank(struct fw_rounds *r, uint32_t core, const struct fw_event *e)
{
	struct flow *f = &r->flows[core][e->index];

	if (f->held != 0)
		r->back[core][r->back_count[core]++] = f->held;
	f->held = 0;
	f->bank[e->label & (FW_EPOCHS - 1)] = e->bank;
}

static void take_word(struct fw_rounds *r, uint32_t core, const struct fw_event *e)
{
	struct lane *l;
	uint32_t lead;

	if (e->bank != FW_NO_BANK)
		take_bank(r, core, e);
	if (e->bank != FW_NO_BANK && r->config->by_source)
		return;
	lane_begin(r, core, e->index, e->index);
	l = &r->lanes[core][e->index];
	l->newest = e->label;
	if (l->unread != 0 && e->label > l->unread)
		read_late(r, l);
	lead = l->newest - l->next;
	if (lead > r->ready_lead && lead < 1u << 31) {
		r->ready_lead = lead;
		r->ready_tsc = e->tsc;
	}
	r->words++;
}

static uint32_t take_words(struct fw_rounds *r)
{
	struct fw_event e[WORDS];
	uint32_t n, all = 0;

	for (uint32_t c = 0; c < r->plane->cores; c++) {
		n = rte_ring_sc_dequeue_burst_elem(
			r->plane->core[c]->events, e, sizeof(e[0]), WORDS, NULL);
		find_flows(r, c); /* also of a core that has told nothing yet */
		for (uint32_t i = 0; i < n; i++)
			take_word(r, c, &e[i]);
		all += n;
	}
	return all;
}

/** Everything received before this moment was counted, by all cores. */
static uint64_t progress(const struct fw_rounds *r)
{
	uint64_t tsc = UINT64_MAX;

	for (uint32_t c = 0; c < r->plane->cores; c++)
		tsc = RTE_MIN(tsc, __atomic_load_n(&r->plane->core[c]->done, __ATOMIC_ACQUIRE));
	return tsc;
}

/** A bank was read. Where its source went on without it, a flow may still have it: then later. */
static void give_back(struct fw_rounds *r, struct flow *f, uint32_t label)
{
	uint32_t *bank = &f->bank[label & (FW_EPOCHS - 1)];

	if (*bank != 0 && __atomic_load_n(&f->f->label, __ATOMIC_ACQUIRE) == label)
		f->held = *bank;
	else if (*bank != 0)
		r->back[f->core][r->back_count[f->core]++] = *bank;
	*bank = 0;
}

/** As many as the rings take; the banks read last, which are the warmest, first. */
static void send_back(struct fw_rounds *r)
{
	for (uint32_t c = 0; c < r->plane->cores; c++) {
		uint32_t sent, n;

		do {
			n = RTE_MIN(r->back_count[c], (uint32_t)WORDS);
			sent = n == 0 ? 0
				      : rte_ring_sp_enqueue_burst_elem(r->plane->core[c]->back,
						&r->back[c][r->back_count[c] - n], sizeof(uint32_t),
						n, NULL);
			/* of a part, the first ones went: close the hole */
			memmove(&r->back[c][r->back_count[c] - n],
				&r->back[c][r->back_count[c] - n + sent],
				(n - sent) * sizeof(uint32_t));
			r->back_count[c] -= sent;
		} while (sent == WORDS);
	}
}

/** How many epochs further than the round at hand the foremost lane is. */
static uint32_t lead_of(const struct fw_rounds *r)
{
	uint32_t lead = 0;

	FOREACH_LANE(r, l)
	if (has_head(l))
		lead = RTE_MAX(lead, l->newest - l->next);
	return lead;
}

/* ---- adding up ------------------------------------------------------------------------------- */

static void clear_round(struct fw_rounds *r)
{
	struct mt_round *m = r->round;
	uint32_t ranks = ranks_of(r), experts = r->config->bank->experts;

	memset(m, 0, r->slot_bytes);
	memset(r->announced, 0, (size_t)ranks * experts * sizeof(uint32_t));
	memset(r->counts, 0, (size_t)ranks * experts * sizeof(uint32_t));
	memset(r->phase, 0, (size_t)ranks * ranks * sizeof(*r->phase));
	m->ranks = ranks;
	m->experts = experts;
	m->first_ns = UINT64_MAX;
	for (uint32_t i = 0; i < ranks * ranks; i++)
		mt_round_pairs(m)[i].last_ns = r->pair_last[i];
}

static void add_cells(struct fw_rounds *r, const struct flow *f, const struct fw_epoch *e)
{
	const struct mt_rank *dst = &mt_bank_ranks(r->config->bank)[f->dst];
	size_t to = (size_t)f->src * r->config->bank->experts + dst->first_expert;

	for (uint32_t i = 0; i < dst->experts; i++) {
		const struct fw_cell c = fw_cell_now(f->f, e, i);

		mt_round_bytes(r->round)[to + i] += c.bytes;
		mt_round_tokens(r->round)[to + i] += c.tokens;
		r->announced[to + i] += c.announced;
		r->counts[to + i] += c.counts;
	}
}

/** Counts of a pair came in a phase of their source: all of them in the same, as a rule. */
static void add_phase(struct fw_rounds *r, const struct flow *f, uint32_t label)
{
	struct phase *p = &r->phase[f->src * ranks_of(r) + f->dst];

	p->core = f->core;
	p->label = p->label == 0 || p->label == label ? label : FW_PHASES;
}

static void add_epoch(struct fw_rounds *r, const struct lane *l, const struct flow *f)
{
	const struct fw_epoch *e = epoch_of(r, f, l->next);
	struct mt_round *m = r->round;
	struct mt_pair *p = &mt_round_pairs(m)[f->src * ranks_of(r) + f->dst];
	uint64_t first, last;

	if (e == NULL)
		return;
	/* 0 says that nothing was seen, and a capture may have no times */
	last = RTE_MAX(epoch_last_ns(f, e), 1u);
	first = RTE_MAX(e->first_ns, 1u);
	add_cells(r, f, e);
	if (e->phase != 0)
		add_phase(r, f, e->phase);
	p->first_ns = p->first_ns == 0 ? first : RTE_MIN(p->first_ns, first);
	p->last_ns = RTE_MAX(p->last_ns, last);
	p->gaps += e->gaps;
	p->duplicates += e->duplicates;
	m->first_ns = RTE_MIN(m->first_ns, first);
	m->last_ns = RTE_MAX(m->last_ns, last);
	m->gaps += e->gaps;
	m->duplicates += e->duplicates;
	m->unmatched += e->unmatched;
	m->truncated += e->truncated;
	m->contradictions += e->contradict;
	m->stale += e->stale;
	if (e->flags & FW_EPOCH_OVERRUN)
		m->quality |= MT_Q_OVERRUN;
	if (e->flags & FW_EPOCH_FRACTION)
		m->quality |= MT_Q_FRACTION;
	if (e->flags & FW_EPOCH_RESYNC && r->align)
		m->quality |= MT_Q_RESYNC;
}

/** What is known of a source's packets that were not seen. */
static void add_source(struct fw_rounds *r, const struct lane *l)
{
	const struct fw_tables *t = tables_of(r, l->core);

	r->round->gaps += fw_gaps_of_phase(r, l, l->next);
	r->odd |= l->taken && t->sources[l->index].phase[l->next & (FW_EPOCHS - 1)].odd;
	if (t->sources[l->index].phase[l->next & (FW_EPOCHS - 1)].jumped)
		r->round->quality |= MT_Q_RESYNC;
	if (fw_phase_parted(r, l, l->next))
		r->round->quality |= MT_Q_STALE;
	FOREACH_FLOW(l, f)
	if (f->f->block != 0 && load32(&fw_cold_of(t, f->f)->passed) <= l->next)
		r->round->quality |= MT_Q_GAP; /* a hole that is still open */
}

/** What lanes hold of the round at hand, so far. */
static void add_lanes(struct fw_rounds *r)
{
	clear_round(r);
	r->odd = false;
	FOREACH_LANE(r, l)
	{
		if (r->config->by_source && has_head(l))
			add_source(r, l); /* not of this round: it may be missing in it */
		/* packets are missing right before, and no parity says that they are not of
		 * this round; what a source has of it may have run together with the one before */
		if (l->suspect && (r->config->by_source ? !l->taken : l->taken && !r->alternates))
			r->round->quality |= MT_Q_GAP;
		if (!l->taken)
			continue;
		FOREACH_FLOW(l, f)
		add_epoch(r, l, f);
	}
}

/** Tokens from bytes, where messages do not say how many they are. */
static void judge_bytes(struct fw_rounds *r, size_t cell)
{
	uint64_t bytes = mt_round_bytes(r->round)[cell];

	if (r->config->by_bytes == 0)
		return;
	mt_round_tokens(r->round)[cell] = (uint32_t)(bytes / r->config->by_bytes);
	if (bytes % r->config->by_bytes != 0)
		r->round->quality |= MT_Q_FRACTION;
}

/** Whether the cells of all pairs that were ever seen have their counts. */
static bool all_counted(const struct fw_rounds *r)
{
	const struct mt_bank *b = r->config->bank;

	for (uint32_t pair = 0; pair < b->ranks * b->ranks; pair++) {
		const struct mt_rank *dst = &mt_bank_ranks(b)[pair % b->ranks];
		size_t cell = (size_t)(pair / b->ranks) * b->experts + dst->first_expert;

		if (mt_round_pairs(r->round)[pair].last_ns == 0)
			continue;
		for (uint32_t e = 0; e < dst->experts; e++)
			if (r->counts[cell + e] < r->config->announcers)
				return false;
	}
	return true;
}

/**
 * Whether the round has announced counts to compare with, all of which could be read. Where their
 * form is learnt, that happens amid a round, a part of whose counts was not read yet: so only from
 * the first round on that has all of them.
 */
static bool has_counts(const struct fw_rounds *r)
{
	size_t cells = (size_t)ranks_of(r) * r->config->bank->experts;

	if (!r->config->by_source)
		return true;
	if (r->config->learn == NULL || r->odd || (!r->counting && !all_counted(r)))
		return false;
	for (size_t i = 0; i < cells; i++)
		if (r->counts[i] != 0)
			return true;
	return false;
}

/** Sums and the comparison over all cells of pairs that were ever seen. */
static void judge(struct fw_rounds *r)
{
	const struct mt_bank *b = r->config->bank;
	struct mt_round *m = r->round;

	r->counted = has_counts(r);
	if (!r->counted && r->config->learn != NULL)
		m->quality |= MT_Q_UNWITNESSED;
	for (uint32_t s = 0; s < b->ranks; s++)
		for (uint32_t d = 0; d < b->ranks; d++) {
			const struct mt_rank *dst = &mt_bank_ranks(b)[d];

			if (mt_round_pairs(m)[s * b->ranks + d].last_ns == 0)
				continue;
			for (uint32_t e = 0; e < dst->experts; e++)
				judge_bytes(r, (size_t)s * b->experts + dst->first_expert + e);
			if (r->counted)
				fw_compare_pair(r, s, d);
			for (uint32_t e = 0; e < dst->experts; e++) {
				size_t cell = (size_t)s * b->experts + dst->first_expert + e;

				m->tokens += mt_round_tokens(m)[cell];
				m->bytes += mt_round_bytes(m)[cell];
			}
		}
}

/* ---- closing --------------------------------------------------------------------------------- */

/** Whether each of the lane's flows was seen to go on after the round, so nothing is missing. */
static bool flows_passed(const struct fw_rounds *r, const struct lane *l)
{
	const struct fw_tables *t = tables_of(r, l->core);

	FOREACH_FLOW(l, f)
	if (f->f->block != 0 || load32(&fw_cold_of(t, f->f)->passed) <= l->next)
		return false;
	return true;
}

/** Whether a flow is held back to find its first packet: it may be of this round. */
static bool any_starting(const struct fw_rounds *r)
{
	FOREACH_LANE(r, l)
	if (l->newest == 0 && l->flows != NULL &&
		__atomic_load_n(&l->flows->f->flags, __ATOMIC_RELAXED) & FW_FLOW_STARTING)
		return true;
	return false;
}

/**
 * Whether a lane may be of this round, which has told nothing yet: its first packet is not known,
 * or it has begun since words were taken last. Its packets waited, so it may be behind all others.
 */
static bool is_beginning(const struct lane *l)
{
	const struct fw_flow *f = l->flows != NULL ? l->flows->f : NULL;

	return l->newest == 0 && f != NULL &&
	       (__atomic_load_n(&f->block, __ATOMIC_ACQUIRE) != 0 ||
		       __atomic_load_n(&f->label, __ATOMIC_ACQUIRE) != 0);
}

/** Whether everything that this round will ever have is there. */
static bool is_whole(const struct fw_rounds *r)
{
	bool counted = !r->config->by_source && r->round->counts_missing == 0 &&
		       r->round->disagreements == 0 && r->round->first_ns != UINT64_MAX;

	FOREACH_LANE(r, l)
	{
		bool ended = has_head(l) && l->newest != l->next;

		if (is_beginning(l))
			return false;
		if (!l->taken && counted)
			continue; /* a lane that the round does not need: an old queue pair */
		if (!ended && !(counted && has_head(l)))
			return false;
		if (r->config->by_source && !flows_passed(r, l))
			return false;
		/* a hole that waits for its packet may still be filled */
		if (!ended && l->flows != NULL && l->flows->f->block != 0)
			return false;
	}
	return true;
}

/** Gaps and messages in the epochs of a lane's flows of that label. */
static void sum_epochs(const struct fw_rounds *r, const struct lane *l, uint32_t label,
	uint32_t *gaps, uint32_t *messages)
{
	const struct fw_tables *t = tables_of(r, l->core);

	*gaps = *messages = 0;
	FOREACH_FLOW(l, f)
	{
		const struct fw_epoch *e = epoch_of(r, f, label);

		if (e == NULL)
			continue;
		*gaps += load32(&e->gaps);
		for (uint32_t i = 0; i < t->experts; i++)
			*messages += fw_cell_now(f->f, e, i).messages + load32(&e->cell[i].counts);
	}
}

/** How far the flows of a source have gone on, to know how many PSNs a round usually has. */
static void follow_source(const struct fw_rounds *r, struct lane *l)
{
	FOREACH_FLOW(l, f)
	{
		uint32_t psn = load32(&f->f->next), by = (psn - f->psn) & FW_PSN_MASK;

		l->advanced += by < FW_RESYNC ? by : 0;
		f->psn = psn;
		f->read |= epoch_of(r, f, l->next) != NULL;
	}
	l->span = (uint32_t)(l->advanced / l->newest);
}

/** Let the poll core go on to further epochs. */
static void tell_read(const struct fw_rounds *r, const struct lane *l, uint32_t label)
{
	const struct fw_tables *t = tables_of(r, l->core);
	uint32_t *read = r->config->by_source ? &t->sources[l->index].read
					      : &fw_cold_of(t, t->by_index[l->index])->read;

	__atomic_store_n(read, label, __ATOMIC_RELEASE);
}

/** How many count messages an epoch of a flow has at least. */
static void follow_counts(const struct fw_rounds *r, struct lane *l)
{
	const struct fw_epoch *e = epoch_of(r, l->flows, l->next);
	uint32_t counts = 0;

	if (l->newest == l->next || fw_lane_missing(r, l, l->next) != 0)
		return;
	for (uint32_t i = 0; i < tables_of(r, l->core)->experts; i++)
		counts += load32(&e->cell[i].counts);
	/* of integers in payloads, one message has several */
	counts = r->config->values ? 1 : counts;
	l->counts = l->counts == 0 ? counts : RTE_MIN(l->counts, counts);
}

/** The epoch at hand of a lane is in the round: on to the next. */
static void lane_read(struct fw_rounds *r, struct lane *l)
{
	bool suspect = fw_lane_breaks(r, l);
	uint32_t label = l->next;

	if (!r->config->by_source) {
		uint32_t start = fw_head_of(r, l, label).start_psn;

		if (l->last >= 0 && !l->suspect)
			l->span = (start - l->start) & FW_PSN_MASK;
		l->start = start;
		l->parity = fw_head_of(r, l, label).parity;
		follow_counts(r, l);
	} else {
		follow_source(r, l);
	}
	l->suspect = suspect;
	l->missing = fw_lane_missing(r, l, label);
	l->last = (int64_t)r->number;
	l->moved = 0;
	l->next++;
	if (l->newest == label) { /* it has not ended: its bank is still being written */
		l->unread = label;
		sum_epochs(r, l, label, &l->read_gaps, &l->read_messages);
	} else {
		FOREACH_FLOW(l, f)
		give_back(r, f, label);
	}
	tell_read(r, l, label);
}

/** What came to an epoch after it was read is too late for its round. */
static void count_late(struct fw_rounds *r, struct lane *l)
{
	uint32_t gaps, messages;

	sum_epochs(r, l, l->unread, &gaps, &messages);
	r->late_tokens += messages - l->read_messages;
	l->read_messages = messages;
	if (r->config->by_source)
		return;
	l->suspect |= gaps > l->read_gaps;
	l->missing = fw_lane_missing(r, l, l->unread);
}

/** An epoch that was read before it ended has ended. */
static void read_late(struct fw_rounds *r, struct lane *l)
{
	count_late(r, l);
	FOREACH_FLOW(l, f)
	give_back(r, f, l->unread);
	l->unread = 0;
}

void fw_lane_skip(struct fw_rounds *r, struct lane *l)
{
	uint32_t gaps, messages;

	sum_epochs(r, l, l->next, &gaps, &messages);
	r->late_tokens += messages;
	lane_read(r, l);
	l->suspect = l->doubt = true;
}

static uint64_t rounds_per_step(const struct mt_bank *b)
{
	static const uint32_t passes[MT_PATTERNS] = {1, 2, 3};

	return (uint64_t)b->layers * b->micro_batches * passes[b->pattern];
}

uint64_t fw_next_step(const struct mt_bank *b, uint64_t number)
{
	uint64_t per = rounds_per_step(b);

	return (number + per - 1) / per * per;
}

/** Layer, step and pass of a round by its number (DESIGN: what a step looks like). */
static void place(const struct mt_bank *b, uint64_t number, struct mt_round *m)
{
	uint64_t per = rounds_per_step(b), at = number % per % (per / b->micro_batches);
	uint32_t back;

	m->round = number;
	m->step = number / per;
	m->pass = MT_PASS_FORWARD;
	m->layer = (uint32_t)at;
	if (at < b->layers)
		return;
	back = (uint32_t)at - b->layers;
	m->pass = MT_PASS_BACKWARD;
	if (b->pattern == MT_PATTERN_TRAINING_RECOMPUTE) {
		m->pass = back % 2 == 0 ? MT_PASS_RECOMPUTE : MT_PASS_BACKWARD;
		back /= 2;
	}
	m->layer = b->layers - 1 - back;
}

/** Whether a core had no room for a flow, or no bank for an epoch, since the last round. */
static uint32_t quality_of_cores(struct fw_rounds *r)
{
	uint64_t no_room = 0, overruns = 0;
	uint32_t q = 0;

	for (uint32_t c = 0; c < r->plane->cores; c++) {
		const struct fw_core *core = r->plane->core[c];
		const struct fw_tables *t = core->tables;

		/* of flows of which no epoch says so */
		q |= load32(&t->cuts) != 0 ? MT_Q_TRUNCATED : 0;
		q |= load32(&t->strays) + load32(&t->unplaced) != 0 ? MT_Q_CONTRADICT : 0;
		q |= load32(&t->unread) != 0 ? MT_Q_UNMATCHED : 0;
		no_room += __atomic_load_n(&core->outcome[MT_OUT_NO_ROOM], __ATOMIC_RELAXED);
		overruns += __atomic_load_n(&core->overruns, __ATOMIC_RELAXED);
	}
	if (no_room != r->no_room)
		q |= MT_Q_NO_ROOM;
	if (overruns != r->overruns) {
		q |= MT_Q_OVERRUN;
		r->align = true; /* how many rounds ran together is not known */
	}
	r->no_room = no_room;
	r->overruns = overruns;
	return q;
}

static uint32_t quality_of(struct fw_rounds *r, bool timeout)
{
	const struct mt_round *m = r->round;
	uint32_t q = m->quality | quality_of_cores(r);

	if (m->gaps != 0 || m->counts_missing != 0 || m->tokens_unseen != 0)
		q |= MT_Q_GAP;
	if (m->disagreements != 0)
		q |= MT_Q_DISAGREE;
	if (m->stale != 0 || r->config->bank->datagrams)
		q |= MT_Q_STALE;
	if (m->truncated != 0)
		q |= MT_Q_TRUNCATED;
	if (m->contradictions != 0)
		q |= MT_Q_CONTRADICT;
	if (m->duplicates != 0)
		q |= MT_Q_DUPLICATE;
	if (m->unmatched != 0)
		q |= MT_Q_UNMATCHED;
	if (r->late_tokens != 0)
		q |= MT_Q_LATE;
	if (r->align || r->joined)
		q |= MT_Q_ALIGN;
	if (timeout)
		q |= MT_Q_TIMEOUT;
	return q;
}

static void follow_pace(struct fw_rounds *r, const struct mt_round *m)
{
	double since = m->first_ns > r->begun_ns ? (double)(m->first_ns - r->begun_ns) : 0;

	if (r->begun_ns != 0)
		r->pace_ns += (since - r->pace_ns) / (r->pace_ns == 0 ? 1 : 8);
	r->begun_ns = m->first_ns;
	/* an epoch with packets missing may reach into the next round: rather by those without */
	r->fix.before_ns = r->fix.any_last_ns != 0 ? r->fix.any_last_ns : m->last_ns;
	r->fix.mixed_before = r->fix.mixed;
}

static void publish(struct fw_rounds *r, bool timeout)
{
	struct mt_round *m = r->round;

	if (m->first_ns == UINT64_MAX)
		m->first_ns = 0;
	if (r->config->by_source) /* a source may never end its epoch: others must not wait for that
				   */
		FOREACH_LANE(r, l)
	if (l->unread != 0 && l->last < (int64_t)r->number)
		count_late(r, l);
	m->late = (uint32_t)RTE_MIN(r->late_tokens, UINT32_MAX);
	m->generation = r->config->generation;
	place(r->config->bank, r->number, m);
	m->quality = quality_of(r, timeout);
	r->late_tokens = 0;
	if (r->drops != 0) {
		m->quality |= MT_Q_NIC_DROP;
		m->nic_drops = (uint32_t)RTE_MIN(r->drops, UINT32_MAX);
		if (r->number >= r->drop_until)
			r->drops = 0;
	}
	for (uint32_t i = 0; i < m->ranks * m->ranks; i++)
		r->pair_last[i] = mt_round_pairs(m)[i].last_ns;
	if (m->last_ns != 0)
		follow_pace(r, m);
	r->publish(r->arg, m);
	for (uint32_t i = 0; i < m->ranks * m->experts; i++)
		r->counts_closed += r->counts[i];
	r->counting |= r->counted && m->tokens != 0;
	r->number++;
	r->first = false;
	r->ready_lead = 0;
	r->tried_lead = r->tried_words = 0;
}

void fw_close_lost(struct fw_rounds *r)
{
	clear_round(r);
	judge(r);
	fw_compare_end(r);
	r->round->quality |= MT_Q_GAP;
	publish(r, false);
	/* its parity stays open: the lanes' last rounds are moved along, so that they are judged as
	 * before */
	FOREACH_LANE(r, l)
	if (l->last >= 0 && (uint64_t)l->last + 2 == r->number) {
		l->last++;
		l->moved++;
	}
	if (r->alternates)
		r->last_parity ^= 1;
}

/** The first round began before the tap did, when counts exceed tokens without a gap between. */
static bool began_before(const struct fw_rounds *r)
{
	return r->first && !r->config->by_source && r->round->gaps == 0 &&
	       (r->round->tokens_unseen != 0);
}

static void follow_parity(struct fw_rounds *r)
{
	uint32_t parity = FW_NO_PARITY;

	FOREACH_LANE(r, l)
	{
		uint32_t p = l->taken ? fw_head_of(r, l, l->next).parity : FW_NO_PARITY;

		if (p != FW_NO_PARITY)
			parity = p;
	}
	if (!r->first && parity != FW_NO_PARITY && r->last_parity != FW_NO_PARITY) {
		r->steady &= parity != r->last_parity;
		r->alternates = r->steady;
	}
	if (parity != FW_NO_PARITY)
		r->last_parity = parity;
}

/** A flow that is new begins later, as times have it; but where packets overtook rounds, perhaps
 * not. */
static bool may_begin(const struct fw_rounds *r, const struct lane *l)
{
	return !r->config->by_source && (r->fix.mixed || r->fix.mixed_before) && l->last < 0 &&
	       has_head(l);
}

/** The round at hand is added up and judged. */
static void close_judged(struct fw_rounds *r, bool timeout)
{
	fw_compare_end(r);
	if (any_starting(r))
		r->round->quality |= MT_Q_GAP;
	r->align |= began_before(r);
	follow_parity(r);
	FOREACH_LANE(r, l)
	{
		if (l->taken)
			l->doubt = !fw_lane_fits(r, l);
		if (l->taken ? l->doubt : may_begin(r, l))
			r->round->quality |= MT_Q_GAP;
	}
	FOREACH_LANE(r, l)
	if (l->taken)
		lane_read(r, l);
	publish(r, timeout);
}

static void close_round(struct fw_rounds *r, bool timeout)
{
	add_lanes(r);
	judge(r);
	close_judged(r, timeout);
}

/** Messages of phase count so far, of all cores. */
static uint64_t count_messages(const struct fw_rounds *r)
{
	uint64_t n = 0;

	for (uint32_t c = 0; c < r->plane->cores; c++)
		n += __atomic_load_n(&r->plane->core[c]->outcome[MT_OUT_COUNT], __ATOMIC_RELAXED);
	return n;
}

/** Cells of pairs that cross a NIC, times the counts that each gets. */
static uint64_t counts_of_a_round(const struct mt_bank *b, uint32_t announcers)
{
	uint64_t n = 0;

	for (uint32_t s = 0; s < b->ranks; s++)
		for (uint32_t d = 0; d < b->ranks; d++)
			n += mt_bank_crosses(b, s, d) ? mt_bank_ranks(b)[d].experts : 0;
	return n * announcers;
}

/** Whether every cell that crosses a NIC has all its counts in the round at hand. */
static bool all_announced(const struct fw_rounds *r)
{
	const struct mt_bank *b = r->config->bank;

	for (uint32_t pair = 0; pair < b->ranks * b->ranks; pair++) {
		const struct mt_rank *dst = &mt_bank_ranks(b)[pair % b->ranks];
		size_t cell = (size_t)(pair / b->ranks) * b->experts + dst->first_expert;

		if (!mt_bank_crosses(b, pair / b->ranks, pair % b->ranks))
			continue;
		for (uint32_t e = 0; e < dst->experts; e++)
			if (r->counts[cell + e] < r->config->announcers)
				return false;
	}
	return true;
}

/**
 * Close the round at hand without waiting for the next ones, by its own evidence: every cell that
 * crosses a NIC was announced and has as many tokens, and every lane is sure of its epoch. To look
 * costs a walk over all flows; so only when as many counts came as a round has, and when not all of
 * them were in it, as many more as were missing. @return whether it was closed
 */
static bool try_close_complete(struct fw_rounds *r)
{
	uint64_t n;

	if (r->config->by_source || r->config->witness || r->first)
		return false;
	n = count_messages(r);
	if ((int64_t)(n - r->counts_closed) < (int64_t)r->counts_expected || n < r->counts_try)
		return false;
	r->counts_try = n + r->counts_expected / 8 + 1;
	if (!fw_heads_sure(r))
		return false;
	fw_heads_take(r);
	add_lanes(r);
	judge(r);
	if (r->round->counts_missing != 0)
		r->counts_try = n + r->round->counts_missing;
	/* counts went lost before, and now it is known again how many came */
	if (r->round->counts_missing != 0 && lead_of(r) == 0)
		r->counts_closed = r->counts_try - r->counts_expected;
	if (!all_announced(r) || !is_whole(r))
		return false;
	close_judged(r, false);
	return true;
}

/** Close the round at hand if it can be. @return whether it was */
static bool try_close(struct fw_rounds *r)
{
	uint32_t lead = lead_of(r);

	/* a core that waits for a bank makes no progress: then the lead alone decides */
	if (lead < 2 || (lead < FW_LAG && r->progress <= r->ready_tsc))
		return false;
	/* look again when somebody went on further; every word would be too often */
	if (lead == r->tried_lead && r->words - r->tried_words <= r->fix.clean / 8)
		return false;
	r->tried_lead = lead;
	r->tried_words = r->words;
	fw_heads_take(r);
	add_lanes(r);
	judge(r);
	if (!is_whole(r) && (lead < FW_LAG || (lead < FW_LAG_START && any_starting(r))))
		return false;
	close_round(r, false);
	return true;
}

uint32_t fw_rounds_pump(struct fw_rounds *r)
{
	uint64_t done = progress(r);
	uint32_t n = 0, got;

	do {
		got = take_words(r);
		n += got;
	} while (got != 0 && n < FW_EVENTS);
	if (got == 0)
		r->progress = done;
	while (try_close_complete(r) || try_close(r))
		;
	send_back(r);
	return n;
}

static bool any_head(const struct fw_rounds *r)
{
	FOREACH_LANE(r, l)
	if (has_head(l))
		return true;
	return false;
}

void fw_rounds_close_all(struct fw_rounds *r, bool timeout)
{
	while (fw_rounds_pump(r) != 0)
		;
	for (uint32_t c = 0; c < r->plane->cores; c++)
		find_flows(r, c);
	if (r->first && timeout && !any_head(r))
		r->joined = false; /* what was amid its rounds has ended */
	while (any_head(r)) {
		fw_heads_take(r);
		close_round(r, timeout);
		send_back(r);
	}
}

void fw_rounds_dropped(struct fw_rounds *r, uint64_t packets)
{
	if (packets == 0) {
		r->watched |= !r->first;
		return;
	}
	/* no flow is known yet whose PSNs could tell that the first rounds are missing whole */
	r->align |= !r->watched;
	r->drops += packets;
	r->drop_until = r->number + lead_of(r);
}

void fw_rounds_flows(const struct fw_rounds *r,
	void (*each)(void *arg, uint32_t src, uint32_t dst, uint32_t qpn, uint32_t epochs),
	void *arg)
{
	for (uint32_t c = 0; c < r->plane->cores; c++)
		for (uint32_t i = 0; i < r->flows_known[c]; i++)
			each(arg, r->flows[c][i].src, r->flows[c][i].dst,
				r->flows[c][i].f->qpn & FW_KEY_QPN,
				load32(&r->flows[c][i].f->label));
}

/* ---- life ------------------------------------------------------------------------------------ */

static bool reserve_core(struct fw_rounds *r, uint32_t c)
{
	const struct fw_tables *t = tables_of(r, c);

	r->lanes[c] = fw_reserve(lanes_max(t) * sizeof(struct lane));
	r->flows[c] = fw_reserve(t->max * sizeof(struct flow));
	r->back[c] = fw_reserve(t->banks_max * sizeof(uint32_t));
	return r->lanes[c] != NULL && r->flows[c] != NULL && r->back[c] != NULL;
}

void fw_rounds_follow(struct fw_rounds *r, const struct fw_rounds *old)
{
	r->number = fw_next_step(r->config->bank, old->number);
}

void fw_rounds_join(struct fw_rounds *r)
{
	r->joined = true;
}

struct fw_rounds *fw_rounds_new(const struct fw_plane *plane, fw_publish publish_round, void *arg)
{
	struct fw_rounds *r = calloc(1, sizeof(*r));
	uint32_t n = plane->cores;
	size_t ranks, cells;
	bool good;

	if (r == NULL)
		return NULL;
	r->plane = plane;
	r->config = plane->core[0]->tables->config;
	r->publish = publish_round;
	r->arg = arg;
	r->first = r->steady = true;
	r->last_parity = FW_NO_PARITY;
	r->sighted = UINT64_MAX;
	r->counts_closed = count_messages(r);
	r->counts_expected = counts_of_a_round(r->config->bank, r->config->announcers);
	ranks = ranks_of(r);
	cells = ranks * r->config->bank->experts;
	r->slot_bytes = mt_slot_bytes(ranks, r->config->bank->experts);
	r->lanes = calloc(n, sizeof(*r->lanes));
	r->flows = calloc(n, sizeof(*r->flows));
	r->back = calloc(n, sizeof(*r->back));
	r->back_count = calloc(n, sizeof(*r->back_count));
	r->flows_known = calloc(n, sizeof(uint32_t));
	r->lanes_known = calloc(n, sizeof(uint32_t));
	r->round = calloc(1, r->slot_bytes);
	r->announced = calloc(cells, sizeof(uint32_t));
	r->counts = calloc(cells, sizeof(uint32_t));
	r->pair_last = calloc(ranks * ranks, sizeof(uint64_t));
	r->phase = calloc(ranks * ranks, sizeof(*r->phase));
	r->witnessed = calloc(ranks * ranks, sizeof(*r->witnessed));
	r->fix.last_ns = calloc(ranks, sizeof(uint64_t));
	r->fix.next_ns = calloc(ranks, sizeof(uint64_t));
	r->spans = calloc(ranks, sizeof(*r->spans));
	good = r->lanes != NULL && r->flows != NULL && r->back != NULL && r->back_count != NULL &&
	       r->flows_known != NULL && r->lanes_known != NULL && r->round != NULL &&
	       r->announced != NULL && r->counts != NULL && r->phase != NULL &&
	       r->witnessed != NULL && r->pair_last != NULL && r->fix.last_ns != NULL &&
	       r->fix.next_ns != NULL && r->spans != NULL;
	for (uint32_t c = 0; good && c < n; c++)
		good = reserve_core(r, c);
	if (!good) {
		struct fw_tables *tables[FW_MAX_CORES];

		for (uint32_t c = 0; c < n; c++)
			tables[c] = plane->core[c]->tables;
		fw_rounds_free(r, tables);
		return NULL;
	}
	quality_of_cores(r);
	return r;
}

void fw_rounds_free(struct fw_rounds *r, struct fw_tables *const *tables)
{
	if (r == NULL)
		return;
	for (uint32_t c = 0; c < r->plane->cores; c++) {
		if (r->lanes != NULL)
			fw_release(r->lanes[c], lanes_max(tables[c]) * sizeof(struct lane));
		if (r->flows != NULL)
			fw_release(r->flows[c], tables[c]->max * sizeof(struct flow));
		if (r->back != NULL)
			fw_release(r->back[c], tables[c]->banks_max * sizeof(uint32_t));
	}
	free(r->lanes);
	free(r->flows);
	free(r->back);
	free(r->back_count);
	free(r->flows_known);
	free(r->lanes_known);
	free(r->round);
	free(r->announced);
	free(r->counts);
	free(r->phase);
	free(r->witnessed);
	free(r->pair_last);
	free(r->fix.last_ns);
	free(r->fix.next_ns);
	free(r->spans);
	free(r);
}
