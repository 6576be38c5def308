/* SPDX-License-Identifier: BSD-3-Clause */
/** What the verbs that start from a trace share. */
#ifndef MOETAP_LOADS_H
#define MOETAP_LOADS_H

#include "moetap.h"

#include <jansson.h>

#define NETWORK_STEPS 64 /* whose mean is the size of a step to come, for the network */

/** What to forecast. */
struct request {
	uint32_t horizon;   /**< steps */
	uint32_t window;    /**< steps; 0: the method chooses */
	const char *method; /**< NULL: the default */
	/** That has followed the loads so far, of that method and window; NULL: all are looked at. */
	struct moetap_forecaster *forecaster;
};

/** A trace, its state at its end, and the forecast made there. */
struct outlook {
	struct moetap_series *series;
	struct moetap_state *state;
	struct moetap_forecast *forecast;
};

/** Reads the trace and fills all three. Says on stderr what is wrong; returns an exit status. */
int look_ahead(
	const char *verb, const char *path, const struct request *request, struct outlook *outlook);

/** Reads a trace alone; says on stderr what is wrong, and which experts were never seen. Returns an
 * exit status. */
int series_read(const char *verb, const char *path, struct moetap_series **series);

/** "flagged": rounds that are not exact, null where the trace does not say. */
json_t *flagged_json(uint32_t quality, uint64_t flagged);

/** What of the loads is estimated, on standard error; nothing if nothing is. */
void report_estimated(const char *verb, double unseen, bool blind);

/** What of the loads of the last `steps` steps (0: all) is estimated, mean of the layers that have
 * such; says it on standard error. */
double series_unseen(const char *verb, const struct moetap_series *series, uint32_t steps);

/** The same for a series that is there already: fills state and forecast. */
int outlook_make(const char *verb, const struct request *request, struct outlook *outlook);
void outlook_free(struct outlook *outlook);

/** State of every layer. */
json_t *state_json(const struct moetap_state *state, uint32_t layers);

/** Reads a plan as `moetap plan` prints it: the member physical_to_logical_map. Returns an exit
 * status. */
int plan_read(const char *verb, const char *path, const struct moetap_shape *shape, uint32_t layers,
	uint32_t experts, struct moetap_plan **plan);

#endif
