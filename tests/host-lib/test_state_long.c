/* SPDX-License-Identifier: BSD-3-Clause */
/* Long runs of the state: false alarms in pure noise, and how soon known changes are found. It
 * prints the tables of docs/forecasting.md. */
#include "loads.h"

#define LAYERS 4

/** Tokens of a layer in a step: those of the trace in tests/data, and more for more experts. */
static uint32_t tokens_of(uint32_t experts)
{
	return experts > 16 ? 32768 : 8192;
}

typedef void draw_fn(
	const struct mix *m, uint32_t tokens, uint32_t scatter, uint32_t *seed, double *load);

static const struct noise {
	const char *name;
	draw_fn *draw;
	uint32_t scatter;
} noises[] = {
	{"multinomial", mix_draw, 1},
	{"2 times", mix_draw, 2},
	{"10 times", mix_draw, 10},
	{"30 times", mix_draw, 30},
	{"30 times, Dirichlet", mix_draw_dirichlet, 30},
};

static double load[LAYERS * LOADS_EXPERTS_MOST];

/** A series and its state, and what the layers were said to be. */
struct run {
	struct moetap_series *series;
	struct moetap_state *state;
	uint32_t layers, experts, seed;
	int64_t step;
	bool stable[LAYERS];
	uint32_t alarms;
};

static void run_open(struct run *r, uint32_t layers, uint32_t experts, uint32_t seed)
{
	memset(r, 0, sizeof(*r));
	r->layers = layers;
	r->experts = experts;
	r->seed = seed;
	r->series = series_of(layers, experts, 32);
	assert_int_equal(moetap_state_new(layers, &r->state), 0);
}

static void run_close(struct run *r)
{
	moetap_state_free(r->state);
	moetap_series_free(r->series);
}

static void run_step(struct run *r, const struct mix *m, const struct noise *noise)
{
	struct moetap_layer_state state;

	for (uint32_t l = 0; l < r->layers; l++)
		noise->draw(m, tokens_of(r->experts), noise->scatter, &r->seed,
			load + (size_t)l * r->experts);
	assert_int_equal(moetap_series_add_step(r->series, r->step, load, NULL, NULL), 0);
	assert_int_equal(moetap_state_update(r->state, r->series, r->step), 0);
	for (uint32_t l = 0; l < r->layers; l++) {
		moetap_state_layer(r->state, l, &state);
		r->alarms += r->stable[l] && !state.stable;
		r->stable[l] = state.stable;
	}
	r->step++;
}

/** Pure noise: a layer that became stable stays so. */
static void test_noise(void **unused)
{
	static const uint32_t sizes[] = {16, 64, 256};
	static struct mix m;
	uint32_t steps = 25000, all = 0;
	uint64_t layer_steps = 0;
	struct run r;

	(void)unused;
	printf("| noise | experts | shares | layer steps | false alarms |\n");
	printf("| --- | --- | --- | --- | --- |\n");
	for (uint32_t i = 0; i < COUNT(noises) * COUNT(sizes) * 2; i++) {
		const struct noise *noise = &noises[i / (2 * COUNT(sizes))];
		uint32_t experts = sizes[i / 2 % COUNT(sizes)];

		mix_zipf(&m, experts, i % 2, 0);
		mix_ready(&m);
		run_open(&r, LAYERS, experts, 77 + i);
		while (r.step < steps)
			run_step(&r, &m, noise);
		printf("| %s | %u | %s | %u | %u |\n", noise->name, experts,
			i % 2 ? "Zipf" : "uniform", LAYERS * steps, r.alarms);
		fflush(stdout);
		assert_true(r.alarms <= 1);
		for (int l = 0; l < LAYERS; l++)
			assert_true(r.stable[l]);
		all += r.alarms;
		layer_steps += LAYERS * steps;
		run_close(&r);
	}
	printf("%u false alarms in %llu layer steps\n", all, (unsigned long long)layer_steps);
	assert_true(all <= layer_steps / 100000);
}

/* ---- changes ---- */

/** Weights after `step`, when what changes does so at step 0. */
typedef void change_fn(struct mix *m, int64_t step);

/** The shares of all experts go to others. */
static void jump(struct mix *m, int64_t step)
{
	mix_zipf(m, m->experts, 1, step >= 0 ? m->experts / 2 : 0);
}

/** Three hot experts and three cold ones change places. */
static void jump_few(struct mix *m, int64_t step)
{
	mix_zipf(m, m->experts, 1, 0);
	for (uint32_t e = 0; e < 3 && step >= 0; e++) {
		double hot = m->weight[e];

		m->weight[e] = m->weight[m->experts - 1 - e];
		m->weight[m->experts - 1 - e] = hot;
	}
}

/** Shares drift for `steps`: some by a factor e in 1,000 steps, some by 1 / e. */
static void drifted(struct mix *m, double steps)
{
	mix_zipf(m, m->experts, 0.5, 0);
	for (uint32_t e = 0; e < m->experts; e++)
		m->weight[e] *= exp(steps / 1000 * ((int)(e * 7 % 5) - 2) / 2);
}

static void drift_begins(struct mix *m, int64_t step)
{
	drifted(m, step > 0 ? (double)step : 0);
}

static void drift_ends(struct mix *m, int64_t step)
{
	drifted(m, step < 0 ? (double)step : 0);
}

/** As after a fall of the learning rate. */
static void drift_slows(struct mix *m, int64_t step)
{
	drifted(m, step < 0 ? (double)step : (double)step / 20);
}

static const struct change {
	const char *name;
	change_fn *weigh;
	bool before, after; /**< stable? */
} changes[] = {
	{"jump of all", jump, true, true},
	{"jump of six experts", jump_few, true, true},
	{"drift begins", drift_begins, true, false},
	{"drift ends", drift_ends, false, true},
	{"drift slows to 1/20", drift_slows, false, true},
};

#define CHANGE_AT 1603
#define CHANGE_STEPS 2400

/** Steps from the change to the first other state, and to the one that lasts. */
struct delay {
	uint32_t first, last;
	uint32_t flaps; /**< to transient, more often than once */
};

static void follow(const struct change *c, const struct noise *noise, uint32_t experts,
	uint32_t seed, struct delay delay[LAYERS])
{
	static struct mix m;
	bool was[LAYERS];
	struct run r;

	run_open(&r, LAYERS, experts, seed);
	m.experts = experts;
	for (int l = 0; l < LAYERS; l++)
		delay[l] = (struct delay){UINT32_MAX, UINT32_MAX, 0};
	while (r.step < CHANGE_STEPS) {
		int64_t after = r.step - CHANGE_AT;

		c->weigh(&m, after);
		mix_ready(&m);
		memcpy(was, r.stable, sizeof(was));
		run_step(&r, &m, noise);
		for (int l = 0; l < LAYERS; l++) {
			delay[l].flaps += was[l] && !r.stable[l];
			if (after < 0 || was[l] == r.stable[l])
				continue;
			if (delay[l].first == UINT32_MAX)
				delay[l].first = (uint32_t)after + 1;
			delay[l].last = (uint32_t)after + 1;
		}
		for (int l = 0; l < LAYERS && after == -1; l++)
			assert_int_equal(r.stable[l], c->before);
	}
	for (int l = 0; l < LAYERS; l++) {
		assert_int_equal(r.stable[l], c->after);
		delay[l].flaps -= c->before;
	}
	run_close(&r);
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

#define SEEDS 5

static void test_changes(void **unused)
{
	static const uint32_t sizes[] = {16, 64, 256};

	(void)unused;
	printf("| change | noise | experts | found after (median, worst) | stable again after | "
	       "flaps |\n| --- | --- | --- | --- | --- | --- |\n");
	for (uint32_t i = 0; i < COUNT(changes) * COUNT(noises) * COUNT(sizes); i++) {
		const struct change *c = &changes[i / (COUNT(noises) * COUNT(sizes))];
		const struct noise *noise = &noises[i / COUNT(sizes) % COUNT(noises)];
		uint32_t experts = sizes[i % COUNT(sizes)], n = 0, flaps = 0;
		uint32_t first[SEEDS * LAYERS], last[SEEDS * LAYERS];
		struct delay delay[LAYERS];

		for (uint32_t s = 0; s < SEEDS; s++) {
			follow(c, noise, experts, 1 + 100 * i + s, delay);
			for (int l = 0; l < LAYERS; l++) {
				first[n] = delay[l].first;
				last[n++] = delay[l].last;
				flaps += delay[l].flaps;
			}
		}
		qsort(first, n, sizeof(*first), compare);
		qsort(last, n, sizeof(*last), compare);
		printf("| %s | %s | %u | %u, %u |", c->name, noise->name, experts, first[n / 2],
			first[n - 1]);
		if (c->before && c->after)
			printf(" %u, %u |", last[n / 2], last[n - 1]);
		else
			printf(" |");
		printf(" %u |\n", flaps);
		fflush(stdout);
		assert_in_range(first[n - 1], 1, 300);
		/* Drift that noise nearly hides may be called stable before it ends. */
		if (c->before) {
			assert_true(!c->after || last[n - 1] <= 300);
			assert_int_equal(flaps, 0);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_changes),
		cmocka_unit_test(test_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
