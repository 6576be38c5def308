/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file loop.h: the loop, closed: an emulated job (moetap-job) sends to a moetap-fw of our own,
 * whose rounds become hints that the job follows.
 */
#ifndef MOETAP_LOOP_H
#define MOETAP_LOOP_H

#include <stdbool.h>

#include "job/report.h"
#include "moetap.h"

/** Some steps on, as counted at the NIC. */
struct loop_window {
	int64_t first, last; /**< steps */
	double balancedness; /**< of ranks, by the tokens that came to them; mean of the layers */
	double step_ms;	     /**< of the job, mean */
	bool shifted;	     /**< the gate shifted in it */
	uint32_t moved;	     /**< slots that the job filled anew in it */
	double moved_mb, moved_ms;
	int64_t applied; /**< step from which on that holds, of the last layer; -1: nothing was */
	uint32_t acked;	 /**< layers that were acknowledged in it */
	bool stable;	 /**< from here on: the hint that was published at its end */
	enum moetap_verdict verdict;
	enum moetap_known known;
	int64_t moves; /**< slots that the plan would fill anew */
	char reason[256];
};

/** How the loop went. */
struct loop {
	struct job_hello job;
	uint64_t rounds, exact;	 /**< that moetap-fw counted */
	uint64_t equal;		 /**< in which every count is that of the job itself */
	uint64_t right, unknown; /**< whose loads of experts are the job's; of no known placement */
	uint64_t packets, dropped;
	double seconds; /**< from the first packet to the last round */
	struct loop_window *windows;
	uint32_t count;
};

/** Runs it; `apply` is how the job applies plans, as moetap-job --help says. `each` is called with
 * every window when it is over. Ends early, cleanly, by SIGINT and SIGTERM, which then act. Says on
 * stderr what is wrong; returns an exit status. loop_free() in any case. */
int loop_run(struct loop *loop, const char *apply,
	void (*each)(void *arg, const struct loop_window *window), void *arg);
void loop_free(struct loop *loop);

#endif
