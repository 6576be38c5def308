/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file rounds_priv.h: what rounds.c and heads.c share.
 *
 * rounds.c takes the words of the poll cores, adds up, judges and closes; heads.c says which epochs
 * belong to the round at hand.
 */
#ifndef MOETAP_FW_ROUNDS_PRIV_H
#define MOETAP_FW_ROUNDS_PRIV_H

#include "rounds.h"

/** A flow, as the control core sees it. */
struct flow {
	const struct fw_flow *f;
	uint32_t core, src, dst;
	uint32_t psn;		  /* that it had come to, when last looked at */
	bool read;		  /* an epoch of it went into a round */
	struct flow *next;	  /* in its lane */
	uint32_t bank[FW_EPOCHS]; /* by label: not read yet, 0: none */
	uint32_t held;		  /* bank that was read, but the flow has not left it, 0: none */
};

struct lane {
	uint32_t core, index;  /* of its labels: the flow's, or the source rank */
	uint32_t newest, next; /* labels: the newest told, the oldest unread */
	int64_t last;	       /* round that its last epoch went into, -1: none yet */
	uint32_t src;
	uint32_t span;		/* PSNs from one epoch to the next, of the last one without gaps;
				 * of a source, on average */
	uint64_t advanced;	/* PSNs that the flows of a source have gone on by */
	uint32_t start;		/* first PSN of the epoch read last */
	uint32_t unread;	/* label that was read before it ended, 0: none */
	uint32_t read_gaps;	/* gaps in it at that time */
	uint32_t read_messages; /* messages in it at that time */
	uint32_t missing; /* packets that are missing between the epoch read last and the next */
	uint32_t parity;  /* of the epoch read last */
	uint32_t counts;  /* least count messages of an epoch without gaps, 0: none yet */
	uint32_t moved;	  /* rounds without packets, after the one that the last epoch went into */
	bool suspect;	  /* some are, or may be */
	bool doubt;	  /* it is not sure which round its last epoch was of */
	bool taken;	  /* its oldest unread epoch belongs to the round at hand */
	struct flow *flows;
};

/** From the first to the last packet of a lane's oldest unread epoch. */
struct span {
	struct lane *lane;
	uint64_t first_ns, last_ns;
};

/** What is known of the round at hand from the lanes that are sure. */
struct fix {
	uint32_t clean;	   /* lanes that are sure */
	uint32_t parity;   /* FW_NO_PARITY: not known */
	uint64_t *last_ns; /* [ranks]: when a source ended it, as far as is known */
	uint64_t *next_ns; /* [ranks]: when it began the round after, UINT64_MAX: not yet */
	/* of any source, 0: not known; of the round before: when it ended */
	uint64_t first_ns, any_last_ns, any_next_ns, before_ns;
	uint64_t begin_ns; /* when no lane is sure: of the first */
	bool other_life;   /* lanes that are new cannot be of this round: see is_other_life() */
	/* times do not part the round from the next, or the one before from it */
	bool mixed, mixed_before;
};

/** In which phase of its source a pair's counts of the round at hand came; witness.h. */
struct phase {
	uint32_t label; /* 0: none, FW_PHASES: in several */
	uint32_t core;
};

#define FW_PHASES UINT32_MAX

struct fw_rounds {
	const struct fw_plane *plane;
	const struct fw_config *config;
	fw_publish publish;
	void *arg;
	struct lane **lanes;		     /* by core; of flows or of sources */
	uint32_t *flows_known, *lanes_known; /* by core */
	struct flow **flows;
	uint32_t **back, *back_count; /* by core: banks read, to be given back */
	struct mt_round *round;	      /* the one being assembled */
	uint32_t *announced, *counts; /* its cells' */
	struct phase *phase;	      /* [ranks][ranks], its pairs' */
	bool *witnessed;	      /* [ranks][ranks]: the witness of a pair was seen once */
	uint64_t *pair_last;	      /* [ranks][ranks]: last dispatch ever seen, ns */
	struct fix fix;
	struct span *spans; /* [ranks], where lanes are of sources */
	size_t slot_bytes;
	uint64_t number;    /* of the round at hand */
	uint64_t progress;  /* what was received before this tsc was counted, and told */
	uint64_t ready_tsc; /* the word that made it ready to be closed was received then */
	uint32_t ready_lead;
	uint32_t tried_lead, tried_words; /* when closing it was tried last */
	uint32_t words;
	uint64_t counts_expected; /* in a round */
	uint64_t counts_closed;	  /* counts in the rounds closed, of all that came */
	uint64_t counts_try;	  /* that must have come before a look whether all are there */
	uint32_t last_parity;	  /* of the round before */
	bool steady, alternates;  /* parity changed at every round so far, and did at least once */
	bool odd;		  /* the round at hand has atomics of unknown form */
	bool counted;		  /* it has announced counts to compare with */
	bool counting;		  /* some round before had */
	bool align;		  /* layer and step are assumed */
	bool joined;		  /* see fw_rounds_join() */
	bool first;		  /* no round was closed yet */
	uint64_t begun_ns;	  /* when the round before began */
	double pace_ns;		  /* from round to round, 0: not known yet */
	uint64_t sighted;	  /* round before which lost rounds were looked for */
	uint64_t late_tokens, drops;
	bool watched;		    /* the port dropped nothing before the first round was closed */
	uint64_t drop_until;	    /* rounds up to this one were open when packets were dropped */
	uint64_t no_room, overruns; /* counters as last looked at */
};

static inline uint32_t load32(const uint32_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline uint32_t ranks_of(const struct fw_rounds *r)
{
	return r->config->bank->ranks;
}

static inline const struct fw_tables *tables_of(const struct fw_rounds *r, uint32_t core)
{
	return r->plane->core[core]->tables;
}

#define FOREACH_LANE(r, l)                                                                         \
	for (uint32_t c_ = 0; c_ < (r)->plane->cores; c_++)                                        \
		for (struct lane *l = (r)->lanes[c_]; l < (r)->lanes[c_] + (r)->lanes_known[c_];   \
			l++)                                                                       \
			if (l->next != 0)

#define FOREACH_FLOW(l, f) for (struct flow *f = (l)->flows; f != NULL; f = f->next)

/** The epoch of a flow that is not read yet, NULL: it was silent. */
static inline struct fw_epoch *epoch_of(
	const struct fw_rounds *r, const struct flow *f, uint32_t label)
{
	uint32_t bank = f->bank[label & (FW_EPOCHS - 1)];

	return bank == 0 ? NULL : fw_bank(tables_of(r, f->core), bank);
}

/** Time of the last packet of an epoch of a flow, so far. */
static inline uint64_t epoch_last_ns(const struct flow *f, const struct fw_epoch *e)
{
	uint64_t ns = __atomic_load_n(&f->f->last_ns, __ATOMIC_ACQUIRE);

	/* in this order: meanwhile the flow may go on to the next epoch, whose time it has then */
	return __atomic_load_n(&f->f->label, __ATOMIC_ACQUIRE) == e->label ? ns : e->last_ns;
}

static inline bool has_head(const struct lane *l)
{
	return (int32_t)(l->newest - l->next) >= 0;
}

struct head {
	uint64_t first_ns, last_ns;
	uint32_t parity, start_psn;
	bool resync;
};

/* ---- heads.c --------------------------------------------------------------------------------- */

/** Decide for each lane whether its oldest unread epoch belongs to the round at hand. */
void fw_heads_take(struct fw_rounds *r);

/** Whether every lane that has an epoch is sure that its oldest unread one is of the round at hand,
 * so that fw_heads_take() takes just these. */
bool fw_heads_sure(const struct fw_rounds *r);

/** How an epoch of a lane, which it has, begins. */
struct head fw_head_of(const struct fw_rounds *r, const struct lane *l, uint32_t label);

/** Whether it is sure that the oldest unread epoch of a lane is of the round at hand. */
bool fw_lane_fits(const struct fw_rounds *r, const struct lane *l);

/** Packets that are missing in an epoch of a lane, or behind it. */
uint32_t fw_lane_missing(const struct fw_rounds *r, const struct lane *l, uint32_t label);

/** Packets may be missing between the epoch at hand of a flow and its next one. */
bool fw_lane_breaks(const struct fw_rounds *r, const struct lane *l);

/** PSNs that are missing in a phase of a source, or around it. */
uint32_t fw_gaps_of_phase(const struct fw_rounds *r, const struct lane *l, uint32_t label);

/** Packets of a phase of a source overtook each other: they may be of another one. */
bool fw_phase_parted(const struct fw_rounds *r, const struct lane *l, uint32_t label);

/* ---- compare.c ------------------------------------------------------------------------------- */

/** Compare announced with counted tokens, of a pair. */
void fw_compare_pair(struct fw_rounds *r, uint32_t src, uint32_t dst);

/** What the round says of its witness. Once, when it is closed. */
void fw_compare_end(struct fw_rounds *r);

/* ---- rounds.c -------------------------------------------------------------------------------- */

/** The first round of a step, from a number on. */
uint64_t fw_next_step(const struct mt_bank *b, uint64_t number);

/** The epoch at hand of a lane comes too late: its tokens count as late in the round at hand. */
void fw_lane_skip(struct fw_rounds *r, struct lane *l);

/** Publish a round of which nothing was seen. */
void fw_close_lost(struct fw_rounds *r);

#endif
