/* SPDX-License-Identifier: BSD-3-Clause */
#include "prices.h"

#include "cli.h"

bool prices_given(const struct price_options *o)
{
	return o->expert_bytes != 0 || o->inside != 0 || o->outside != 0 || o->token_us != 0 ||
	       o->tokens != 0;
}

/** One price; `standard` where it was not given. */
static int take(const char *verb, const char *name, double given, double standard, double *price)
{
	*price = given != 0 ? given : standard;
	if (*price > 0)
		return CLI_DONE;
	return cli_fail(verb, "--%s must be above 0", name);
}

int prices_make(const char *verb, const struct price_options *o, struct moetap_prices *p)
{
	double us;
	int status = take(verb, "expert-bytes", o->expert_bytes, 88080384, &p->expert_bytes);

	if (status == CLI_DONE)
		status = take(verb, "inside", o->inside, 160e9, &p->inside);
	if (status == CLI_DONE)
		status = take(verb, "outside", o->outside, 50e9, &p->outside);
	if (status == CLI_DONE)
		status = take(verb, "token-us", o->token_us, 0.22, &us);
	if (status == CLI_DONE)
		p->token_seconds = us / 1e6;
	return status;
}

int prices_tokens(const char *verb, const struct price_options *o, uint32_t layers,
	uint32_t experts, const double *loads, double *tokens)
{
	double most = 0;

	if (o->tokens < 0)
		return cli_fail(verb, "--tokens must be above 0");
	for (uint32_t l = 0; l < layers; l++) {
		tokens[l] = 0;
		for (uint32_t e = 0; e < experts; e++)
			tokens[l] += loads[(size_t)l * experts + e];
		most = tokens[l] > most ? tokens[l] : most;
		if (o->tokens > 0 && tokens[l] > 0)
			tokens[l] = o->tokens;
	}
	/* Rounded as they were printed, shares may add up to a little more than 1. */
	if (o->tokens > 0 || most > 1.01)
		return CLI_DONE;
	return cli_fail(verb, "the loads are shares: --tokens must say how many a step has");
}

json_t *prices_json(const struct moetap_prices *p)
{
	return json_pack("{s:f, s:f, s:f, s:f}", "expert_bytes", p->expert_bytes, "inside",
		p->inside, "outside", p->outside, "token_us", p->token_seconds * 1e6);
}
