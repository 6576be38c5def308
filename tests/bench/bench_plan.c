/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What plans of a large model cost and how even they are, beside those of the policy `eplb`: the
 * mean over layers of mean / max of rank loads, its worst layer, and the CPU time of all layers on
 * one core, best of the runs, as a ratio to that of `eplb` too. Without files the loads are drawn:
 * DeepSeek-V3's 58 layers of 256 experts, lognormal with the skew that its published counts have.
 *
 * usage: bench-plan [TRACE.csv ...]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "moetap.h"

#define LAYERS 58u
#define EXPERTS 256u
#define RUNS 3

/** The heaviest of 256 has about 7 times the mean. */
#define SIGMA 0.8

static const struct moetap_shape shapes[] = {
	{.ranks = 32, .nodes = 1, .slots = 288, .groups = 1},
	{.ranks = 64, .nodes = 1, .slots = 320, .groups = 1},
	{.ranks = 144, .nodes = 1, .slots = 288, .groups = 1},
	{.ranks = 32, .nodes = 4, .slots = 288, .groups = 8},
	{.ranks = 64, .nodes = 8, .slots = 320, .groups = 8},
};

/** One set of loads. */
struct loads {
	uint32_t layers, experts;
	double *load; /**< [layers][experts] */
};

/** Uniform in (0, 1]. */
static double uniform(void)
{
	static uint64_t state = 88172645463325252u;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return ((double)(state >> 11) + 1) / 9007199254740992.0;
}

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static void stop(const char *why)
{
	fprintf(stderr, "bench-plan: %s\n", why);
	exit(1);
}

static void *room(uint32_t layers, uint32_t experts)
{
	double *all = malloc((size_t)layers * experts * sizeof(*all));

	if (all == NULL)
		stop("out of memory");
	return all;
}

static void draw(struct loads *x)
{
	*x = (struct loads){LAYERS, EXPERTS, room(LAYERS, EXPERTS)};
	for (uint32_t c = 0; c < LAYERS * EXPERTS; c++) {
		double normal = sqrt(-2 * log(uniform())) * cos(2 * M_PI * uniform());

		x->load[c] = floor(1e4 * exp(SIGMA * normal));
	}
}

static void read_trace(const char *path, struct loads *x)
{
	struct moetap_series *series;
	struct moetap_error error;

	if (moetap_series_load_trace(path, &series, &error) < 0)
		stop(error.text);
	*x = (struct loads){moetap_series_layers(series), moetap_series_experts(series), NULL};
	x->load = room(x->layers, x->experts);
	moetap_series_mean_tokens(series, 0, x->load);
	moetap_series_free(series);
}

/** Plans once. @return milliseconds; `balanced` and `worst` get mean / max, mean and least of
 * layers
 */
static double plan(const char *policy, const struct moetap_shape *shape, const struct loads *x,
	double *balanced, double *worst)
{
	double begin = now_ms(), took, *layer = room(x->layers, 1);
	struct moetap_balance balance;
	struct moetap_plan *made;
	struct moetap_error error;

	if (moetap_plan_make(policy, shape, x->layers, x->experts, x->load, NULL, &made, &error) <
		0)
		stop(error.text);
	took = now_ms() - begin;
	moetap_plan_balance(made, x->load, &balance, layer);
	*balanced = balance.mean_max;
	for (uint32_t l = 0; l < x->layers; l++)
		*worst = fmin(*worst, layer[l]);
	free(layer);
	moetap_plan_free(made);
	return took;
}

/** All sets of loads under one shape. @return milliseconds a set */
static double run(const char *policy, const struct moetap_shape *shape, const struct loads *sets,
	int n, double base)
{
	double best = INFINITY, sum = 0, worst = 1;

	for (int r = 0; r < RUNS; r++) {
		double ms = 0, balanced;

		sum = 0;
		for (int i = 0; i < n; i++) {
			ms += plan(policy, shape, &sets[i], &balanced, &worst);
			sum += balanced;
		}
		best = fmin(best, ms / n);
	}
	printf("%5u %5u %5u %6u  %-8s %9.3f %7.2f %8.4f %8.4f\n", shape->slots, shape->ranks,
		shape->nodes, shape->groups, policy, best, base > 0 ? best / base : 1.0, sum / n,
		worst);
	return best;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? argc - 1 : 1;
	struct loads *sets = calloc((size_t)n, sizeof(*sets));

	if (sets == NULL)
		stop("out of memory");
	if (argc == 1)
		draw(&sets[0]);
	for (int i = 1; i < argc; i++)
		read_trace(argv[i], &sets[i - 1]);
	printf("%5s %5s %5s %6s  %-8s %9s %7s %8s %8s\n", "slots", "ranks", "nodes", "groups",
		"policy", "ms", "to eplb", "balanced", "worst");
	for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
		double base = run("eplb", &shapes[s], sets, n, 0);

		run("moetap", &shapes[s], sets, n, base);
	}
	for (int i = 0; i < n; i++)
		free(sets[i].load);
	free(sets);
	return 0;
}
