/* SPDX-License-Identifier: BSD-3-Clause */
/** What a move costs, as options that verbs share. */
#ifndef MOETAP_PRICES_H
#define MOETAP_PRICES_H

#include "moetap.h"

#include <jansson.h>

/** As given; 0: not given. */
struct price_options {
	double expert_bytes, inside, outside, token_us, tokens, stall;
};

/**
 * The options. Their defaults: an expert of DeepSeek-V3 in BF16 (3 matrices of 7168 x 2048, 2 bytes
 * each), NVLink and a 400 Gb/s NIC as DeepEP's README gives them for H800 (160 and 50 GB/s), and
 * two operations a weight and token at 400 Tflop/s, forward only.
 */
#define PRICE_OPTIONS(p)                                                                           \
	{"expert-bytes", CLI_AMOUNT, &(p).expert_bytes, "B",                                       \
		"price: weights of an expert in one layer (88080384)", false},                     \
		{"inside", CLI_AMOUNT, &(p).inside, "B/S",                                         \
			"price: bytes/s of a rank inside a node (160e9)", false},                  \
		{"outside", CLI_AMOUNT, &(p).outside, "B/S",                                       \
			"price: bytes/s of a rank between nodes (50e9)", false},                   \
		{"token-us", CLI_AMOUNT, &(p).token_us, "US",                                      \
			"price: microseconds of a rank for a token of an expert (0.22)", false},   \
		{"tokens", CLI_AMOUNT, &(p).tokens, "T",                                           \
			"tokens of a layer in a step, all experts (as in the trace)", false},      \
	{                                                                                          \
		"stall", CLI_NUMBER, &(p).stall, "S",                                              \
			"price: seconds that a move stops the job besides (0)", false              \
	}

/** Whether any was given. */
bool prices_given(const struct price_options *options);

/** Fills in the prices. Says on stderr if the stall is none; returns an exit status. */
int prices_make(
	const char *verb, const struct price_options *options, struct moetap_prices *prices);

/**
 * Tokens of each layer in a step, `tokens[layers]`: of `loads[layers][experts]`, or as given. Says
 * on stderr when the loads are mere shares and none were given. Returns an exit status.
 */
int prices_tokens(const char *verb, const struct price_options *options, uint32_t layers,
	uint32_t experts, const double *loads, double *tokens);

/** What it was reckoned with. */
json_t *prices_json(const struct moetap_prices *prices);

#endif
