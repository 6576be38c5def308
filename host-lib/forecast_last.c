/* SPDX-License-Identifier: BSD-3-Clause */
/* `last`: the next steps will be as the last one was. The yardstick for all other methods. */
#include "internal.h"

static void predict(const struct question *q, double *share, int64_t *first)
{
	uint32_t layers = moetap_series_layers(q->series);
	uint32_t experts = moetap_series_experts(q->series);
	uint32_t newest = mtl_series_lower(q->series, q->step + 1) - 1;

	*first = mtl_series_step(q->series, newest);
	for (uint32_t l = 0; l < layers; l++) {
		uint32_t i = newest;
		int64_t step;

		/* The last step that has shares at all. */
		while (i > 0 && mtl_series_sum(q->series, i, l) <= 0)
			i--;
		step = mtl_series_step(q->series, i);
		if (moetap_series_mean_shares(
			    q->series, l, step, step, share + (size_t)l * experts) > 0 &&
			step < *first)
			*first = step;
	}
}

const struct forecaster mtl_forecaster_last = {
	.name = "last",
	.title = "shares of the last step",
	.predict = predict,
};
