/* SPDX-License-Identifier: BSD-3-Clause */
/** @file loop_parts.h: the two programs of the loop, and the folder with what they need to meet. */
#ifndef MOETAP_LOOP_PARTS_H
#define MOETAP_LOOP_PARTS_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "moetap.h"

struct loop_part {
	char program[PATH_MAX];
	char log[PATH_MAX]; /**< what it says on standard error */
	pid_t pid;	    /**< 0: it does not run */
	int status;	    /**< of waitpid(2), when it ended */
};

struct loop_parts {
	char folder[PATH_MAX]; /**< "": none */
	char page[64];	       /**< of the firmware, and of hints */
	struct loop_part firmware, job;
	int report; /**< what the job says on standard output */
	int leash;  /**< the job stays until this is closed */
};

/** Makes the folder and the map, for a job of that shape with so many tokens of a rank in a round.
 * Returns an exit status, as all here. */
int loop_parts_new(struct loop_parts *parts, const struct moetap_shape *shape, uint32_t layers,
	uint32_t experts, uint32_t tokens);

/** Starts moetap-fw, on a memif port that waits for the job. */
int loop_start_firmware(struct loop_parts *parts);

/** Starts the job, with options of its own ("--steps", "750", ..., NULL). */
int loop_start_job(struct loop_parts *parts, const char *const *options);

/** Whether a part still runs; if not, says why it ended. */
bool loop_runs(struct loop_part *part);

/** Ends it, and removes all its traces. */
void loop_parts_end(struct loop_parts *parts);

#endif
