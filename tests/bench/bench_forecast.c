/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a forecaster costs in a large model: DeepSeek-V3's 58 layers of 256 experts, shares that
 * drift, one core. CPU time of showing it one more step, of a forecast of all shares with their
 * intervals, and the memory that it takes, without the series.
 *
 * usage: bench-forecast METHOD ...
 */
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "moetap.h"

#define LAYERS 58u
#define EXPERTS 256u
#define STEPS 3000u
#define KEPT 400u /* steps of the series, for methods that read it */
#define EVERY 20u /* steps between forecasts */
#define HORIZON 1000u

static double weight[LAYERS * EXPERTS], tokens[LAYERS * EXPERTS];

/** Uniform from 0 to 1. */
static double uniform(void)
{
	static uint64_t state = 88172645463325252u;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (double)(state >> 11) / 9007199254740992.0;
}

static void next_step(void)
{
	for (uint32_t c = 0; c < LAYERS * EXPERTS; c++) {
		weight[c] *= exp(0.01 * (uniform() - 0.5));
		tokens[c] = floor(1000 * weight[c] * (0.8 + 0.4 * uniform()));
	}
}

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static double allocated_mib(void)
{
	struct mallinfo2 m = mallinfo2();

	return (double)(m.uordblks + m.hblkhd) / (1 << 20);
}

static void stop(const struct moetap_error *error)
{
	fprintf(stderr, "bench-forecast: %s\n", error->text);
	exit(1);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double mean(const double *value, uint32_t n)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += value[i];
	return sum / n;
}

/** Milliseconds that the last of the shown steps took. */
static double show_step(struct moetap_forecaster *f, struct moetap_series *series, int64_t step)
{
	struct moetap_error error;
	double begin;

	next_step();
	if (moetap_series_add_step(series, step, tokens, NULL, &error) < 0)
		stop(&error);
	begin = now_ms();
	if (moetap_forecaster_update(f, series, step, &error) < 0)
		stop(&error);
	return now_ms() - begin;
}

static double forecast(struct moetap_forecaster *f, struct moetap_series *series)
{
	struct moetap_forecast *made;
	struct moetap_error error;
	double begin = now_ms(), took;

	if (moetap_forecaster_forecast(f, series, HORIZON, &made, &error) < 0)
		stop(&error);
	took = now_ms() - begin;
	moetap_forecast_free(made);
	return took;
}

static void run(const char *method)
{
	static double step[STEPS], ask[STEPS / EVERY];
	struct moetap_forecaster *f;
	struct moetap_series *series;
	struct moetap_error error;
	double before, series_mib;

	for (uint32_t c = 0; c < LAYERS * EXPERTS; c++)
		weight[c] = 0.2 + uniform();
	before = allocated_mib();
	if (moetap_series_new(LAYERS, EXPERTS, KEPT, &series, &error) < 0 ||
		moetap_forecaster_new(method, 0, &f, &error) < 0)
		stop(&error);
	series_mib = KEPT * (LAYERS * (EXPERTS * 8.0 + 12) + 40) / (1 << 20);
	for (uint32_t i = 0; i < STEPS; i++) {
		step[i] = show_step(f, series, i);
		if (i % EVERY == EVERY - 1)
			ask[i / EVERY] = forecast(f, series);
	}
	qsort(step, STEPS, sizeof(*step), compare);
	qsort(ask, STEPS / EVERY, sizeof(*ask), compare);
	printf("%-8s %9.3f %9.3f %9.3f %12.3f %9.3f %8.1f\n", method, mean(step, STEPS),
		step[STEPS * 99 / 100], step[STEPS - 1], mean(ask, STEPS / EVERY),
		ask[STEPS / EVERY - 1], allocated_mib() - before - series_mib);
	moetap_forecaster_free(f);
	moetap_series_free(series);
}

int main(int argc, char **argv)
{
	printf("%u layers, %u experts, %u steps, horizon %u; CPU time in ms\n", LAYERS, EXPERTS,
		STEPS, HORIZON);
	printf("%-8s %9s %9s %9s %12s %9s %8s\n", "method", "step", "99 %", "worst", "forecast",
		"worst", "MiB");
	for (int i = 1; i < argc; i++)
		run(argv[i]);
	return 0;
}
