/* SPDX-License-Identifier: BSD-3-Clause */
/** @file gate.h: which experts the tokens of the emulated job want. */
#ifndef MOETAP_JOB_GATE_H
#define MOETAP_JOB_GATE_H

#include <stdbool.h>
#include <stdint.h>

#define GATE_TOP_MAX 16u

/** Skewed by a few hot experts of each layer, and drifting slowly. */
struct gate {
	uint32_t layers, experts;
	uint64_t random;
	bool *hot;	    /**< [layers][experts] */
	double *cumulative; /**< [experts], of the layer at hand, up to 1 */
};

/** Returns 0 or -ENOMEM. */
int gate_new(struct gate *gate, uint32_t layers, uint32_t experts, uint64_t seed);
void gate_free(struct gate *gate);

/** Makes `experts[count]` the hot ones of a layer: the gate shifts. */
void gate_heat(struct gate *gate, uint32_t layer, const uint32_t *experts, uint32_t count);

/** Takes up a layer at a step: the tokens that follow are of it. */
void gate_layer(struct gate *gate, uint32_t layer, int64_t step);

/** Draws the `top` different experts of a token. */
void gate_token(struct gate *gate, uint32_t top, uint32_t *expert);

#endif
