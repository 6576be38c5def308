/* SPDX-License-Identifier: BSD-3-Clause */
/** From loads to a hint on a page: what `moetap hints publish` and the loop of `moetap demo` share.
 */
#ifndef MOETAP_PUBLICATION_H
#define MOETAP_PUBLICATION_H

#include "loads.h"
#include "prices.h"

/** What is asked for, and what came of it. Functions say on stderr what is wrong, as the verb, and
 * return an exit status. */
struct publication {
	const char *verb;
	const char *name; /**< of the hint page */
	struct moetap_shape shape;
	struct request request;
	const char *policy;	  /**< NULL: the default */
	const char *current_path; /**< of a plan; NULL: as frameworks start */
	const char *stated;	  /**< "PLAN.json@STEP,...", or NULL */
	uint32_t experts; /**< loads are of slots, and they hold so many; 0: loads are of experts */
	struct moetap_rule rule; /**< of it, the threshold and interval are asked for */
	struct price_options prices;
	struct moetap_terms terms;
	uint32_t queue_pairs;	/**< at most, of NCCL's connections; 0: no advice */
	int64_t traffic_class;	/**< below 0: no advice */
	struct moetap_network *network; /**< [layers]; NULL: not asked for */
	int64_t seen;  /**< last step that request.forecaster has seen; -1 at first */
	uint32_t held; /**< what slots held up to then, in one number */
	struct outlook outlook;
	struct moetap_placements *placements;
	struct moetap_publisher *publisher; /**< from the decision until it is sent */
	enum moetap_known known;	    /**< how the placement in force is known */
	char unknown[128];		    /**< why it is not */
	struct moetap_plan *current, *plan; /**< no plan if it is unknown */
	struct moetap_decision decision;
};

/** Loads of slots: finds what these held, as stated, answered on the page, or shown by the loads,
 * and looks ahead with the loads of experts. Takes another request.forecaster where it must. */
int publication_look(struct publication *p, const struct moetap_series *slots);

/** Plan or keep, for the outlook that is there; takes the page, until it is sent. */
int publication_decide(struct publication *p);

/** Publishes what was decided. */
int publication_send(struct publication *p);

/** Frees what came of a look, before the next one; what slots held, and the forecaster, go on. */
void publication_forget(struct publication *p);

/** Frees all of it. */
void publication_free(struct publication *p);

#endif
