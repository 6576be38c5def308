/* SPDX-License-Identifier: BSD-3-Clause */
#include "prices.h"

#include "cli.h"

bool prices_given(const struct price_options *o)
{
	return o->expert_bytes != 0 || o->inside != 0 || o->outside != 0 || o->token_us != 0 ||
	       o->tokens != 0 || o->stall != 0;
}

int prices_make(const char *verb, const struct price_options *o, struct moetap_prices *p)
{
	*p = (struct moetap_prices){
		.expert_bytes = o->expert_bytes > 0 ? o->expert_bytes : 88080384,
		.inside = o->inside > 0 ? o->inside : 160e9,
		.outside = o->outside > 0 ? o->outside : 50e9,
		.token_seconds = (o->token_us > 0 ? o->token_us : 0.22) / 1e6,
		.stall = o->stall,
	};
	if (o->stall >= 0 && o->stall <= CLI_AMOUNT_MOST)
		return CLI_DONE;
	return cli_fail(verb, "--stall must be 0 or more, and at most %g", CLI_AMOUNT_MOST);
}

int prices_tokens(const char *verb, const struct price_options *o, uint32_t layers,
	uint32_t experts, const double *loads, double *tokens)
{
	double most = 0;

	for (uint32_t l = 0; l < layers; l++) {
		tokens[l] = 0;
		for (uint32_t e = 0; e < experts; e++)
			tokens[l] += loads[(size_t)l * experts + e];
		most = tokens[l] > most ? tokens[l] : most;
		if (o->tokens > 0 && tokens[l] > 0)
			tokens[l] = o->tokens;
	}
	if (o->tokens == 0 && most == 0)
		return cli_fail(verb, "the loads are all 0: there is nothing to price a move by");
	/* Rounded as they were printed, shares may add up to a little more than 1. */
	if (o->tokens > 0 || most > 1.01)
		return CLI_DONE;
	return cli_fail(verb, "the loads are shares: --tokens must say how many a step has");
}

json_t *prices_json(const struct moetap_prices *p)
{
	return json_pack("{s:f, s:f, s:f, s:f, s:f}", "expert_bytes", p->expert_bytes, "inside",
		p->inside, "outside", p->outside, "token_us", p->token_seconds * 1e6, "stall",
		p->stall);
}
