/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which epochs belong to the round at hand: of lanes that are sure the next one; of the others the
 * one that fits to those by parity and time. Where no lane is sure, how many rounds were lost.
 */
#include <stdlib.h>

#include "rounds_priv.h"

/* Of a round's PSNs missing: its whole dispatch may be. Of a flow, and of a source, of which more
 * is known than PSNs alone. */
#define SOME_ROUND 0.35
#define SOME_SOURCES_ROUND 0.15

struct head fw_head_of(const struct fw_rounds *r, const struct lane *l, uint32_t label)
{
	const struct fw_tables *t = tables_of(r, l->core);
	const struct fw_epoch *e;
	uint32_t at = label & (FW_EPOCHS - 1);

	if (r->config->by_source)
		return (struct head){.first_ns = t->sources[l->index].phase[at].first_ns,
			.last_ns = t->sources[l->index].phase[at].first_ns,
			.parity = t->sources[l->index].phase[at].parity};
	e = epoch_of(r, l->flows, label);
	return (struct head){.first_ns = e->first_ns,
		.last_ns = e->last_ns,
		.parity = e->parity,
		.start_psn = e->start_psn,
		.resync = (e->flags & FW_EPOCH_RESYNC) != 0};
}

/** The last packet of an epoch of a lane, as far as it is known. */
static uint64_t last_ns_of(const struct fw_rounds *r, const struct lane *l, uint32_t label)
{
	uint64_t last = 0;

	FOREACH_FLOW(l, f)
	{
		const struct fw_epoch *e = epoch_of(r, f, label);

		if (e != NULL)
			last = RTE_MAX(last, epoch_last_ns(f, e));
	}
	return last;
}

uint32_t fw_gaps_of_phase(const struct fw_rounds *r, const struct lane *l, uint32_t label)
{
	return load32(
		&tables_of(r, l->core)->sources[l->index].phase[label & (FW_EPOCHS - 1)].gaps);
}

bool fw_phase_parted(const struct fw_rounds *r, const struct lane *l, uint32_t label)
{
	return tables_of(r, l->core)->sources[l->index].phase[label & (FW_EPOCHS - 1)].parted;
}

/** Whether a phase of a source may not have all that is of it, or more. */
static bool phase_breaks(const struct fw_rounds *r, const struct lane *l, uint32_t label)
{
	return fw_gaps_of_phase(r, l, label) != 0 || fw_phase_parted(r, l, label);
}

enum life { LIFE_SAME, LIFE_JUMPED, LIFE_NEW };

/**
 * Whether a lane's oldest unread epoch is of the same life of the job as those before. A source
 * begins anew when all the flows that it uses do.
 */
static enum life life_of(const struct fw_rounds *r, const struct lane *l)
{
	enum life life = LIFE_NEW;

	if (l->last < 0)
		return LIFE_NEW;
	if (!r->config->by_source)
		return fw_head_of(r, l, l->next).resync ? LIFE_JUMPED : LIFE_SAME;
	FOREACH_FLOW(l, f)
	{
		const struct fw_epoch *e = epoch_of(r, f, l->next);

		if (e == NULL)
			continue;
		if (e->flags & FW_EPOCH_RESYNC)
			life = LIFE_JUMPED;
		else if (f->read || l->next - fw_cold_of(tables_of(r, f->core), f->f)->born > 1)
			return LIFE_SAME;
	}
	return life;
}

uint32_t fw_lane_missing(const struct fw_rounds *r, const struct lane *l, uint32_t label)
{
	const struct fw_epoch *e;

	if (r->config->by_source)
		return phase_breaks(r, l, label);
	e = epoch_of(r, l->flows, label);
	if (e->flags & FW_EPOCH_OVERRUN)
		return UINT32_MAX;
	return load32(&e->gaps) + load32(&e->truncated);
}

bool fw_lane_breaks(const struct fw_rounds *r, const struct lane *l)
{
	const struct fw_epoch *e;

	/* the combine that ended it may be missing, and the dispatch after that is in it too */
	if (r->config->by_source)
		return phase_breaks(r, l, l->next);
	e = epoch_of(r, l->flows, l->next);
	return e->gaps != 0 || (e->flags & FW_EPOCH_OVERRUN) != 0;
}

/** Whole epochs of a flow that so many missing packets can be: each has a count of every cell. */
static uint32_t most_epochs(const struct lane *l, uint32_t missing)
{
	return missing / RTE_MAX(l->counts, 1u);
}

#define NOT_KNOWN UINT32_MAX

/**
 * How many whole epochs of a flow are missing before its oldest unread one, where the number of
 * packets that are missing, and the parity, leave one answer.
 */
static uint32_t hidden_epochs(const struct fw_rounds *r, const struct lane *l)
{
	uint32_t most = most_epochs(l, l->missing), parity, odd;

	if (l->last < 0 || l->doubt)
		return NOT_KNOWN;
	if (most == 0)
		return 0;
	parity = fw_head_of(r, l, l->next).parity;
	if (!r->alternates || parity > 1 || l->parity > 1)
		return NOT_KNOWN;
	odd = parity == l->parity; /* one is missing, or three, ... */
	return odd <= most && odd + 2 > most ? odd : NOT_KNOWN;
}

/** Rounds from the one that the last epoch of a lane went into to the one before that at hand. */
static uint32_t distance(const struct fw_rounds *r, const struct lane *l)
{
	return (uint32_t)(r->number - (uint64_t)l->last - 1) + l->moved;
}

/** Nothing is missing between the epoch of a lane that went into the last round and its next. */
static bool is_clean(const struct fw_rounds *r, const struct lane *l)
{
	if (l->last < 0 || (uint64_t)l->last + 1 != r->number || l->suspect || l->doubt)
		return false;
	if (!r->config->by_source && most_epochs(l, l->missing) != 0)
		return false; /* frames that were cut */
	/* a source's packets that are missing may have been a whole round */
	if (r->config->by_source && phase_breaks(r, l, l->next))
		return false;
	return life_of(r, l) == LIFE_SAME;
}

/** Packets are missing there, but so few that its oldest unread epoch is of the round at hand. */
static bool is_known(const struct fw_rounds *r, const struct lane *l)
{
	return l->last >= 0 && !r->config->by_source && distance(r, l) == hidden_epochs(r, l) &&
	       life_of(r, l) == LIFE_SAME;
}

static void note_fix(struct fw_rounds *r, const struct lane *l)
{
	struct head h = fw_head_of(r, l, l->next);
	struct fix *x = &r->fix;
	uint64_t ns;

	x->clean++;
	if (x->parity == FW_NO_PARITY)
		x->parity = h.parity;
	x->first_ns = RTE_MIN(x->first_ns, h.first_ns);
	if (l->newest == l->next)
		return;
	ns = fw_head_of(r, l, l->next + 1).first_ns;
	x->next_ns[l->src] = RTE_MIN(x->next_ns[l->src], ns);
	x->any_next_ns = RTE_MIN(x->any_next_ns, ns);
}

/**
 * After note_fix() for all: an epoch that ends after others began the next is two run together; so
 * may be one with packets missing.
 */
static void note_last(struct fw_rounds *r, const struct lane *l)
{
	uint64_t ns = last_ns_of(r, l, l->next);
	struct fix *x = &r->fix;

	if (fw_lane_breaks(r, l))
		return;
	if (ns < x->next_ns[l->src])
		x->last_ns[l->src] = RTE_MAX(x->last_ns[l->src], ns);
	if (ns < x->any_next_ns)
		x->any_last_ns = RTE_MAX(x->any_last_ns, ns);
}

/**
 * After note_fix() for all, or fix_by_first(): whether times part the round from the next. No rank
 * dispatches before all have dispatched in the round before; so what ends after the next round
 * began is packets that came a round too late.
 */
static void note_mixed(struct fw_rounds *r)
{
	bool mixed = false, any = false;

	FOREACH_LANE(r, l)
	{
		if (!has_head(l) || (r->fix.clean != 0 && !l->taken) ||
			most_epochs(l, fw_lane_missing(r, l, l->next)) > 0)
			continue; /* perhaps two that ran together */
		any = true;
		mixed |= last_ns_of(r, l, l->next) >= r->fix.any_next_ns;
	}
	r->fix.mixed = mixed || !any;
}

/** Half way from @p from to @p to, where it is that way round. */
static uint64_t middle(uint64_t from, uint64_t to)
{
	return to == UINT64_MAX || from >= to ? to : from + (to - from) / 2;
}

static int by_first(const void *a, const void *b)
{
	const struct span *x = a, *y = b;

	return x->first_ns < y->first_ns ? -1 : x->first_ns > y->first_ns;
}

/** When the round after this one begins, as far as the lanes that are taken show. */
static uint64_t next_begins(const struct fw_rounds *r)
{
	uint64_t next = UINT64_MAX;

	FOREACH_LANE(r, l)
	if (l->taken && l->newest != l->next)
		next = RTE_MIN(next, fw_head_of(r, l, l->next + 1).first_ns);
	return next;
}

/** When a source began to dispatch to another one in the round at hand, 0: it did not. */
static uint64_t sent_ns(const struct fw_rounds *r, const struct lane *from, uint32_t to)
{
	uint64_t ns = 0;

	FOREACH_FLOW(from, f)
	{
		const struct fw_epoch *e = f->dst == to ? epoch_of(r, f, from->next) : NULL;

		if (e != NULL && (ns == 0 || e->first_ns < ns))
			ns = e->first_ns;
	}
	return ns;
}

/**
 * Whether a source has not combined since one of the @p n that began the round dispatched to it, so
 * that it cannot have dispatched in the next one: ranks may begin a round at very different times,
 * and combine late for some in the one before. A source that combined in no round before tells
 * nothing, nor does one to which nobody dispatched.
 */
static bool not_combined(const struct fw_rounds *r, const struct lane *l, uint32_t n)
{
	uint64_t ns = tables_of(r, l->core)
			      ->sources[l->index]
			      .phase[l->next & (FW_EPOCHS - 1)]
			      .combined_ns;

	for (uint32_t i = 0; ns != 0 && i < n; i++)
		if (r->spans[i].lane->taken && sent_ns(r, r->spans[i].lane, l->src) > ns)
			return true;
	return false;
}

/**
 * A source that had nothing to send in this round, or all of which was lost, is at the next one
 * already: it begins when others do so, behind the end of all that began before it, having combined
 * meanwhile; or has another parity than who began first. Where counts are announced, every source
 * announces some in every round.
 */
static void leave_early_sources(struct fw_rounds *r)
{
	uint64_t next = next_begins(r), last = 0;
	uint32_t n = 0, parity;
	bool left = false;

	FOREACH_LANE(r, l)
	if (l->taken)
		r->spans[n++] = (struct span){.lane = l,
			.first_ns = fw_head_of(r, l, l->next).first_ns,
			.last_ns = last_ns_of(r, l, l->next)};
	if (n == 0)
		return;
	qsort(r->spans, n, sizeof(*r->spans), by_first);
	parity = fw_head_of(r, r->spans[0].lane, r->spans[0].lane->next).parity;
	for (uint32_t i = 0; i < n; i++) {
		const struct span *s = &r->spans[i];
		uint32_t own = fw_head_of(r, s->lane, s->lane->next).parity;

		left |= i > 0 && !r->counting && s->first_ns >= middle(last, next) &&
			!not_combined(r, s->lane, i);
		s->lane->taken = !left && (i == 0 || own == parity || own == FW_NO_PARITY ||
						  parity == FW_NO_PARITY);
		if (s->last_ns < next) /* else two rounds that ran together */
			last = RTE_MAX(last, s->last_ns);
	}
}

/** Take the lanes that @p sure says are of the round at hand. */
static void take_sure(
	struct fw_rounds *r, bool (*sure)(const struct fw_rounds *r, const struct lane *l))
{
	r->fix.clean = 0;
	r->fix.parity = FW_NO_PARITY;
	r->fix.first_ns = r->fix.any_next_ns = UINT64_MAX;
	r->fix.any_last_ns = 0;
	memset(r->fix.last_ns, 0, ranks_of(r) * sizeof(uint64_t));
	memset(r->fix.next_ns, 0xff, ranks_of(r) * sizeof(uint64_t));
	FOREACH_LANE(r, l)
	l->taken = has_head(l) && sure(r, l);
	if (r->config->by_source)
		leave_early_sources(r);
	FOREACH_LANE(r, l)
	if (l->taken)
		note_fix(r, l);
	FOREACH_LANE(r, l)
	if (l->taken)
		note_last(r, l);
}

/**
 * Whether the oldest unread epoch of a lane that is not sure fits: parity, then time. Between two
 * dispatches of a source lies a combine; the middle of that pause parts the two rounds.
 */
static bool fits(const struct fw_rounds *r, const struct lane *l)
{
	struct head h = fw_head_of(r, l, l->next);
	const struct fix *x = &r->fix;

	if (x->parity != FW_NO_PARITY && h.parity != FW_NO_PARITY) {
		if (h.parity != x->parity)
			return false;
		if (l->last < 0 && x->clean == 0 && !x->other_life)
			return true; /* everything begins, nothing was lost */
	}
	if (l->last < 0 && x->clean != 0 && x->other_life)
		return false;
	if (x->next_ns[l->src] != UINT64_MAX && x->last_ns[l->src] != 0)
		return h.first_ns < middle(x->last_ns[l->src], x->next_ns[l->src]);
	/* ranks may begin at very different times, but end before others begin the next round */
	if (x->clean == 0 && !l->suspect)
		return h.first_ns < x->any_next_ns &&
		       (!r->config->by_source || last_ns_of(r, l, l->next) < x->any_next_ns);
	return h.first_ns <
	       middle(RTE_MAX(x->any_last_ns, x->clean != 0 ? x->first_ns : 0), x->any_next_ns);
}

/** By times: whether the oldest unread epoch of a lane lies between the rounds before and after. */
static bool fits_between(const struct fw_rounds *r, const struct lane *l)
{
	uint64_t first_ns = fw_head_of(r, l, l->next).first_ns;
	const struct fix *x = &r->fix;

	if (x->mixed || x->mixed_before || (!r->first && first_ns <= x->before_ns))
		return false;
	if (x->any_next_ns == UINT64_MAX)
		return first_ns <= x->any_last_ns;
	return last_ns_of(r, l, l->next) < x->any_next_ns;
}

bool fw_lane_fits(const struct fw_rounds *r, const struct lane *l)
{
	if (is_clean(r, l) || is_known(r, l))
		return true;
	/* it begins with all others, or anew, of which another word tells */
	if (l->last < 0 ? r->first || r->fix.clean == 0 : life_of(r, l) != LIFE_SAME)
		return true;
	return fits_between(r, l);
}

/** Whether the oldest unread epoch of a lane belongs to a round that was closed without it. */
static bool is_late(const struct fw_rounds *r, const struct lane *l)
{
	const struct fix *x = &r->fix;

	if (x->clean == 0 || l->taken || !has_head(l) || x->before_ns == 0 ||
		x->before_ns >= x->first_ns)
		return false;
	return fw_head_of(r, l, l->next).first_ns < middle(x->before_ns, x->first_ns);
}

/** Add the counts of a lane's oldest unread epoch to r->counts; @return whether one was there. */
static bool add_counts(struct fw_rounds *r, const struct lane *l)
{
	const struct flow *f = l->flows;
	const struct fw_epoch *e = epoch_of(r, f, l->next);
	const struct mt_rank *dst = &mt_bank_ranks(r->config->bank)[f->dst];
	uint32_t *counts =
		&r->counts[(size_t)f->src * r->config->bank->experts + dst->first_expert];
	bool twice = false;

	for (uint32_t i = 0; i < dst->experts; i++) {
		uint32_t more = load32(&e->cell[i].counts);

		twice |= more != 0 && counts[i] >= r->config->announcers;
		counts[i] += more;
	}
	return twice;
}

/**
 * Whether a new lane counts what another lane counts in this round: then there is another life of
 * the job, with other queue pairs.
 */
static bool is_other_life(struct fw_rounds *r)
{
	bool fresh = false, twice = false;

	FOREACH_LANE(r, l)
	fresh |= l->last < 0 && has_head(l);
	if (!fresh || r->config->by_source)
		return false;
	memset(r->counts, 0, (size_t)ranks_of(r) * r->config->bank->experts * sizeof(uint32_t));
	FOREACH_LANE(r, l)
	if (l->taken)
		add_counts(r, l);
	FOREACH_LANE(r, l)
	if (l->last < 0 && has_head(l))
		twice |= add_counts(r, l);
	return twice;
}

/**
 * Of a lane that is not sure, what fits by time; where packets came more than a round too late, by
 * how many are missing.
 */
static bool is_of_round(const struct fw_rounds *r, const struct lane *l)
{
	if (r->fix.mixed && !r->config->by_source && hidden_epochs(r, l) != NOT_KNOWN)
		return is_known(r, l);
	return fits(r, l);
}

static void take_others(struct fw_rounds *r)
{
	struct lane *earliest = NULL;
	bool any = false;

	r->fix.other_life = is_other_life(r);
	FOREACH_LANE(r, l)
	{
		while (is_late(r, l))
			fw_lane_skip(r, l);
		if (!l->taken && has_head(l))
			l->taken = is_of_round(r, l);
		any |= l->taken;
		if (has_head(l) &&
			(earliest == NULL ||
				fw_head_of(r, l, l->next).first_ns <
					fw_head_of(r, earliest, earliest->next).first_ns))
			earliest = l;
	}
	/* times that contradict each other (a capture may have any): every round takes something */
	if (!any && earliest != NULL)
		earliest->taken = true;
}

/** No lane is sure: what begins first says which parity this round has, and when it ends. */
static void fix_by_first(struct fw_rounds *r)
{
	struct lane *first = NULL;
	struct fix *x = &r->fix;
	uint64_t ns;

	FOREACH_LANE(r, l)
	{
		struct head h;

		if (!has_head(l))
			continue;
		h = fw_head_of(r, l, l->next);
		if (first == NULL || h.first_ns < x->begin_ns) {
			first = l;
			x->begin_ns = h.first_ns;
			x->parity = h.parity;
		}
		if (l->newest != l->next)
			x->any_next_ns =
				RTE_MIN(x->any_next_ns, fw_head_of(r, l, l->next + 1).first_ns);
	}
	if (first == NULL)
		return;
	ns = last_ns_of(r, first, first->next);
	x->any_last_ns = RTE_MAX(ns < x->any_next_ns ? ns : 0, x->begin_ns);
}

/** The job began anew: so does its step. */
static void begin_step(struct fw_rounds *r, bool new_flows)
{
	uint64_t number = r->number;

	if (r->first)
		return;
	r->number = fw_next_step(r->config->bank, number);
	/* new queue pairs are a new job; a jump of PSNs may also be a long loss of sight */
	r->joined &= !new_flows;
	r->align = new_flows ? false : r->align || r->number != number;
}

/**
 * Every lane has packets missing: whole rounds may be. How many, by parity, else by how many PSNs
 * are missing; where the two leave doubt, layer and step are assumptions from here on.
 */
static void lost_sight(struct fw_rounds *r)
{
	uint64_t jumped = 0, usual = 0;
	double rounds, most = 0; /* of all lanes together, of the lane that misses most */
	double some = r->config->by_source ? SOME_SOURCES_ROUND : SOME_ROUND;
	uint32_t lost, psns;

	FOREACH_LANE(r, l)
	{
		if (!has_head(l) || l->span == 0)
			continue;
		psns = r->config->by_source
			       ? l->span + fw_gaps_of_phase(r, l, l->next)
			       : (fw_head_of(r, l, l->next).start_psn - l->start) & FW_PSN_MASK;
		jumped += psns;
		usual += l->span;
		most = RTE_MAX(most, (double)psns / l->span - 1);
		/* two rounds of it, around one that is lost, ran together */
		r->align |= r->config->by_source && r->alternates &&
			    fw_head_of(r, l, l->next).parity != r->fix.parity;
		r->align |= r->config->by_source &&
			    (fw_phase_parted(r, l, l->next) || fw_phase_parted(r, l, l->next - 1));
	}
	rounds = usual != 0 ? (double)jumped / (double)usual - 1 : 0;
	if (r->alternates) {
		lost = r->fix.parity == r->last_parity;
		/* of a round that is lost, all PSNs may be missing or only those of its dispatch;
		 * by parity, one more or less would be two */
		r->align |= usual == 0 || rounds > (lost ? 0.9 : 0.3) || most > (lost ? 1.2 : 0.5);
	} else {
		lost = rounds > some ? (uint32_t)(rounds + 0.5) : 0;
		/* where a count of each flow is missing, that may have been all of a round */
		r->align |= !r->config->by_source || usual == 0 || rounds > some;
	}
	/* rounds have no usual size, but they have a pace */
	r->align |= r->fix.begin_ns > r->begun_ns &&
		    (double)(r->fix.begin_ns - r->begun_ns) > (lost + 1.5) * r->pace_ns;
	for (uint32_t i = 0; i < RTE_MIN(lost, FW_LAG); i++)
		fw_close_lost(r);
	r->sighted = r->number;
}

bool fw_heads_sure(const struct fw_rounds *r)
{
	FOREACH_LANE(r, l)
	if (has_head(l) && !is_clean(r, l))
		return false;
	return true;
}

void fw_heads_take(struct fw_rounds *r)
{
	bool fresh = false, known = false, resync = false;

	take_sure(r, is_clean);
	if (r->fix.clean == 0)
		take_sure(r, is_known);
	if (r->fix.clean != 0) {
		note_mixed(r);
	} else {
		FOREACH_LANE(r, l)
		{
			enum life life;

			if (!has_head(l))
				continue;
			life = life_of(r, l);
			fresh |= life == LIFE_NEW;
			resync |= life == LIFE_JUMPED;
			known |= life == LIFE_SAME;
		}
		fix_by_first(r);
		note_mixed(r);
		if ((fresh || resync) && !known)
			begin_step(r, !resync);
		else if (known && !r->first && r->sighted != r->number)
			lost_sight(r);
	}
	take_others(r);
}
