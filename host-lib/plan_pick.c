/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Plans that are kept, one for each phase of a job (prefill and decode, say): which of them fits.
 * The loads themselves tell the phase: a plan of another one is far less even.
 */
#include "internal.h"

#include <errno.h>

int moetap_plan_pick(const struct moetap_plan *const *plans, uint32_t count, const double *loads,
	struct moetap_balance *balance)
{
	struct moetap_balance one;
	uint32_t best = 0;

	if (count == 0)
		return -EINVAL;
	moetap_plan_balance(plans[0], loads, balance, NULL);
	for (uint32_t i = 1; i < count; i++) {
		if (moetap_plan_layers(plans[i]) != moetap_plan_layers(plans[0]) ||
			moetap_plan_experts(plans[i]) != moetap_plan_experts(plans[0]))
			return -EINVAL;
		moetap_plan_balance(plans[i], loads, &one, NULL);
		if (one.mean_max <= balance->mean_max)
			continue;
		*balance = one;
		best = i;
	}
	return (int)best;
}
