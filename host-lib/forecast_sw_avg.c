/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `sw_avg`: the mean shares of a sliding window; SW_Avg of Cong et al., "Prediction Is All MoE
 * Needs" (arXiv 2404.16914), who do not say how long their window was.
 */
#include "internal.h"

/* A tenth of the history, since early on the shares still move; within these limits, since below
 * ten steps the noise of a step dominates, and beyond a few hundred the drift does. */
#define WINDOW_LEAST 10
#define WINDOW_MOST 300

uint32_t mtl_sw_avg_window(const struct moetap_series *series, int64_t step)
{
	int64_t tenth = (step - moetap_series_first_step(series) + 1) / 10;

	if (tenth < WINDOW_LEAST)
		return WINDOW_LEAST;
	return tenth > WINDOW_MOST ? WINDOW_MOST : (uint32_t)tenth;
}

static void predict(const struct question *q, double *share, int64_t *first)
{
	uint32_t layers = moetap_series_layers(q->series);
	uint32_t experts = moetap_series_experts(q->series);
	uint32_t window = q->window > 0 ? q->window : mtl_sw_avg_window(q->series, q->step);

	*first = q->step - window + 1;
	for (uint32_t l = 0; l < layers; l++) {
		double *to = share + (size_t)l * experts;
		int64_t begin = *first, oldest = moetap_series_first_step(q->series);

		/* No shares in the window (the layer was idle, or steps are sparse): look further
		 * back, twice as far each time. */
		while (moetap_series_mean_shares(q->series, l, begin, q->step, to) == 0 &&
			begin > oldest)
			begin = q->step - 2 * (q->step - begin + 1) + 1;
	}
	if (*first < moetap_series_first_step(q->series))
		*first = moetap_series_first_step(q->series);
}

const struct forecaster mtl_forecaster_sw_avg = {
	.name = "sw_avg",
	.title = "mean shares of a sliding window (default)",
	.predict = predict,
};
