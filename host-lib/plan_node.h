/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file plan_node.h: placement inside one node (a global plan has one), and the search for a
 * better one. No two replicas of an expert are ever on a rank.
 */
#ifndef MOETAP_PLAN_NODE_H
#define MOETAP_PLAN_NODE_H

#include "internal.h"

/** What counts as lighter, relative: above the rounding of sums. */
#define LIGHTER (1 - 1e-12)

/** A placement in the making. Experts are numbered in the node. */
struct node {
	uint32_t experts, slots, ranks, per_rank;
	bool activated;	   /**< as in struct task; mtl_part() says what a replica weighs */
	double *load;	   /**< [experts], tokens */
	double *each;	   /**< [experts], weight of one replica */
	double *fewer;	   /**< [experts], of one if there were one less */
	double *further;   /**< [experts], of one if there were one more */
	uint32_t *count;   /**< [experts], replicas */
	uint32_t *slot;	   /**< [slots], expert */
	uint32_t *replica; /**< [slots], experts in order of granting */
	uint32_t *order;   /**< [slots] */
	uint32_t *best;	   /**< [slots], expert: the best placement so far */
	double *weight;	   /**< [slots] */
	double *rank;	   /**< [ranks], load */
	uint32_t *filled;  /**< [ranks], slots used */
	uint32_t *first;   /**< [experts], a slot that holds it; from there on next[] */
	uint32_t *next;	   /**< [slots], another slot with the same expert */
	uint32_t *home;	   /**< [slots], rank */
	bool *has;	   /**< [ranks][experts] */
};

/** Room for the nodes of a task. Returns 0 or -ENOMEM. */
int mtl_node_new(struct node *d, const struct task *task);
void mtl_node_free(struct node *d);

/** Places replicas for d->load[] greedily: of hot experts, or of cold ones. Returns 0 or -ENOMEM. */
int mtl_node_start(struct node *d, bool cold);

/** Makes `slot_expert[slots]`, which has no two replicas of an expert on a rank, the placement. */
void mtl_node_set(struct node *d, const uint32_t *slot_expert);

/** Takes the steps that help most until no rank has more than `enough` or no step helps. Returns
 * the load of the busiest rank. */
double mtl_node_search(struct node *d, double enough);

/** The whole search from a start, with kicks, until no rank has more than `enough` or nothing can
 * be gained. Leaves the best placement in d->best and returns the load of its busiest rank. */
double mtl_node_search_kicked(struct node *d, double enough);

/* ---- plan_stay.c ---- */

/**
 * Takes the placement in force, task->current, into account: `slot_expert`, a plan from scratch
 * whose busiest rank has `most`, becomes one that is nearly as even and moves few slots, if there
 * is one; else its ranks are put in the order that moves the fewest. Returns 0 or -ENOMEM.
 */
int mtl_plan_stay(const struct task *task, struct node *d, double most, uint32_t *slot_expert);

#endif
