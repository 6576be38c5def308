/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Plan or keep. Moving weights stalls a job for seconds, and doing it too often costs more than
 * imbalance does; so everything but a clear case is "keep".
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static int check(
	const struct moetap_forecast *f, const struct moetap_plan *a, const struct moetap_plan *b)
{
	if (moetap_plan_layers(a) != moetap_forecast_layers(f) ||
		moetap_plan_experts(a) != moetap_forecast_experts(f))
		return -EINVAL;
	return moetap_plan_moves(b, a) < 0 ? -EINVAL : 0;
}

/** Appends what of the loads behind the forecast is estimated, and what is wrong with the rounds. */
static void name_quality(const struct moetap_forecast *f, char *text, size_t size)
{
	struct moetap_forecast_info info;
	size_t used = strlen(text);
	char names[96];

	moetap_forecast_info(f, &info);
	if (info.unseen > 0)
		snprintf(text + used, size - used, "; %.1f %% of the tokens estimated%s",
			100 * info.unseen, info.unseen_blind ? ", and nothing tells how well" : "");
	used = strlen(text);
	if (info.flagged == 0)
		return;
	snprintf(text + used, size - used, "; %llu of the %llu rounds behind it not exact (%s)",
		(unsigned long long)info.flagged, (unsigned long long)info.rounds,
		moetap_quality_text(
			info.quality & MOETAP_QUALITY_INEXACT, names, sizeof(names)));
}

int moetap_decide(const struct moetap_state *state, const struct moetap_forecast *forecast,
	const struct moetap_plan *current, const struct moetap_plan *plan, double threshold,
	struct moetap_decision *d)
{
	const double *share = moetap_forecast_share(forecast);
	struct moetap_balance before, after;
	char unstable[128];

	if (check(forecast, current, plan) < 0)
		return -EINVAL;
	memset(d, 0, sizeof(*d));
	moetap_plan_balance(current, share, &before, NULL);
	moetap_plan_balance(plan, share, &after, NULL);
	d->before = before.sums;
	d->after = after.sums;
	/* The means are the same, so the sums of maxima are as the inverse of `sums`. */
	d->gain = 1 - before.sums / after.sums;
	d->moves = moetap_plan_moves(plan, current);
	d->verdict = MOETAP_KEEP;
	if (!moetap_state_stable(state, unstable))
		snprintf(d->reason, sizeof(d->reason), "keep: transient: %s", unstable);
	else if (isnan(d->gain))
		snprintf(d->reason, sizeof(d->reason),
			"keep: of some expert no load is known, since no source of its tokens "
			"passes the tap");
	else if (d->gain <= threshold)
		snprintf(d->reason, sizeof(d->reason),
			"keep: the plan would save %.1f %% of the busiest ranks' load, no more "
			"than the %.1f %% that a move must bring",
			100 * d->gain, 100 * threshold);
	else {
		d->verdict = MOETAP_PLAN;
		snprintf(d->reason, sizeof(d->reason),
			"plan: stable, balancedness %.3f -> %.3f forecast, %lld slots to move",
			d->before, d->after, (long long)d->moves);
	}
	name_quality(forecast, d->reason, sizeof(d->reason));
	return 0;
}
