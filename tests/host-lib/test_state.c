/* SPDX-License-Identifier: BSD-3-Clause */
#include "loads.h"

#define EXPERTS 8

static uint32_t seed;

/** Adds a step to every layer: 100,000 tokens by `weight`, with noise of the given size. */
static void add(struct moetap_series *s, int64_t step, const double *weight, double noise)
{
	double tokens[4 * EXPERTS];

	for (uint32_t l = 0; l < moetap_series_layers(s); l++) {
		for (int e = 0; e < EXPERTS; e++)
			tokens[l * EXPERTS + e] = weight[l * EXPERTS + e] * 1e5 *
						  (1 + noise * (2 * next_uniform(&seed) - 1));
	}
	assert_int_equal(moetap_series_add_step(s, step, tokens, NULL, NULL), 0);
}

static const double skewed[EXPERTS] = {8, 4, 2, 1, 1, 1, 1, 1};
static const double other[EXPERTS] = {1, 1, 1, 1, 8, 4, 2, 1};

static bool stable(const struct moetap_state *state, uint32_t layer)
{
	struct moetap_layer_state s;

	assert_int_equal(moetap_state_layer(state, layer, &s), 0);
	return s.stable;
}

static struct moetap_state *state_of(uint32_t layers)
{
	struct moetap_state *state;

	assert_int_equal(moetap_state_new(layers, &state), 0);
	return state;
}

static void test_too_few(void **unused)
{
	struct moetap_series *s = series_of(1, EXPERTS, 0);
	struct moetap_state *state = state_of(1);
	struct moetap_layer_state layer;
	char reason[128];

	(void)unused;
	for (int step = 0; step < 12; step++)
		add(s, step, skewed, 0.01);
	assert_int_equal(moetap_state_update(state, s, 11), 0);
	moetap_state_layer(state, 0, &layer);
	assert_false(layer.stable);
	assert_non_null(strstr(layer.reason, "only 12 steps seen"));
	assert_false(moetap_state_stable(state, reason));
	assert_non_null(strstr(reason, "only 12 steps seen"));
	assert_int_equal(moetap_state_layer(state, 1, &layer), -EINVAL);
	moetap_state_free(state);
	moetap_series_free(s);
}

/* Settled, then moved for good: transient soon after, stable again when the move lies behind. */
static void test_shift(void **unused)
{
	struct moetap_series *s = series_of(1, EXPERTS, 0);
	struct moetap_state *state = state_of(1);
	struct moetap_layer_state layer;

	(void)unused;
	seed = 7;
	for (int step = 0; step < 4000; step++)
		add(s, step, step < 1500 ? skewed : other, 0.05);
	moetap_state_update(state, s, 1499);
	assert_true(stable(state, 0));
	moetap_state_update(state, s, 1499 + 100);
	moetap_state_layer(state, 0, &layer);
	assert_false(layer.stable);
	assert_in_range(layer.since, 1500, 1599);
	assert_non_null(strstr(layer.reason, "drift"));
	moetap_state_update(state, s, 3999);
	assert_true(stable(state, 0));
	moetap_state_free(state);
	moetap_series_free(s);
}

/* Weights that keep moving are never stable, however little noise there is. */
static void test_drift(void **unused)
{
	struct moetap_series *s = series_of(1, EXPERTS, 0);
	struct moetap_state *state = state_of(1);
	double weight[EXPERTS];

	(void)unused;
	seed = 8;
	for (int step = 0; step < 2000; step++) {
		for (int e = 0; e < EXPERTS; e++)
			weight[e] = 1.5 + sin(step / 150.0 + e);
		add(s, step, weight, 0.01);
		moetap_state_update(state, s, step);
		assert_false(stable(state, 0));
	}
	moetap_state_free(state);
	moetap_series_free(s);
}

/* Bursts without drift are stable, though window means differ by more than the limits: what the
 * dispersion of shares explains is no reason to wait. */
static void test_noise(void **unused)
{
	struct moetap_series *s = series_of(1, EXPERTS, 0);
	struct moetap_state *state = state_of(1);
	struct moetap_layer_state layer;
	double weight[EXPERTS];
	uint32_t looks = 0, above = 0;

	(void)unused;
	seed = 9;
	for (int step = 0; step < 4000; step++) {
		for (int e = 0; e < EXPERTS; e++)
			weight[e] = skewed[e] * exp(6 * next_uniform(&seed));
		add(s, step, weight, 0);
		moetap_state_update(state, s, step);
		moetap_state_layer(state, 0, &layer);
		if (step < 1000)
			continue;
		assert_true(layer.stable);
		looks++;
		above += layer.drift > 0.10;
	}
	assert_true(above > looks / 10);
	moetap_state_free(state);
	moetap_series_free(s);
}

/* What is said at a step depends on the steps up to it alone: not on how often one looked, nor on
 * what comes later. */
static void test_grid(void **unused)
{
	struct moetap_series *s = series_of(1, EXPERTS, 0), *shorter = series_of(1, EXPERTS, 0);
	struct moetap_state *often = state_of(1), *once = state_of(1);
	struct moetap_layer_state a, b;

	(void)unused;
	seed = 10;
	for (int step = 0; step < 1200; step++)
		add(s, step, step < 700 ? skewed : other, 0.1);
	seed = 10;
	for (int step = 0; step < 777; step++)
		add(shorter, step, step < 700 ? skewed : other, 0.1);
	for (int step = 0; step < 777; step += 1 + step % 5)
		moetap_state_update(often, s, step);
	moetap_state_update(often, s, 776);
	moetap_state_update(once, shorter, 5000);
	moetap_state_layer(often, 0, &a);
	moetap_state_layer(once, 0, &b);
	assert_int_equal(a.stable, b.stable);
	assert_int_equal(a.since, b.since);
	assert_near(a.drift, b.drift, 0);
	assert_near(a.error, b.error, 0);
	assert_string_equal(a.reason, b.reason);
	moetap_state_free(often);
	moetap_state_free(once);
	moetap_series_free(s);
	moetap_series_free(shorter);
}

/* Dense layers never have tokens; they do not keep the others from being stable. */
static void test_idle_layers(void **unused)
{
	struct moetap_series *s = series_of(3, EXPERTS, 0);
	struct moetap_state *state = state_of(3);
	double weight[3 * EXPERTS] = {0};
	char reason[128];

	(void)unused;
	seed = 11;
	memcpy(weight + 2 * EXPERTS, skewed, sizeof(skewed));
	memcpy(weight + EXPERTS, skewed, sizeof(skewed));
	for (int step = 0; step < 1000; step++)
		add(s, step, weight, 0.05);
	moetap_state_update(state, s, 999);
	assert_false(stable(state, 0));
	assert_true(stable(state, 1));
	assert_true(moetap_state_stable(state, reason));
	/* One layer moves: the whole is transient, and it is named. */
	memcpy(weight + 2 * EXPERTS, other, sizeof(other));
	for (int step = 1000; step < 1100; step++)
		add(s, step, weight, 0.05);
	moetap_state_update(state, s, 1099);
	assert_true(stable(state, 1));
	assert_false(moetap_state_stable(state, reason));
	assert_non_null(strstr(reason, "1 of 2 layers are transient; layer 2"));
	moetap_state_free(state);
	moetap_series_free(s);
}

/* ---- known change points ---- */

/** Tokens of a step of one layer, by step. */
struct known {
	struct mix before, after;
	int64_t at; /**< first step of `after` */
	uint32_t tokens, scatter;
	int64_t every; /**< steps from one sample to the next */
};

/** Follows it up to step `end`. Returns how often the state changed; `at` gets the steps. */
static uint32_t follow(const struct known *k, int64_t end, int64_t at[16])
{
	struct moetap_series *s = series_of(1, k->before.experts, 32);
	struct moetap_state *state = state_of(1);
	double load[LOADS_EXPERTS_MOST];
	uint32_t changes = 0;
	bool was = false;

	for (int64_t step = 0; step < end; step += k->every) {
		mix_draw(
			step >= k->at ? &k->after : &k->before, k->tokens, k->scatter, &seed, load);
		assert_int_equal(moetap_series_add_step(s, step, load, NULL, NULL), 0);
		assert_int_equal(moetap_state_update(state, s, step), 0);
		if (stable(state, 0) == was)
			continue;
		was = !was;
		assert_true(changes < 16);
		at[changes++] = step;
	}
	moetap_state_free(state);
	moetap_series_free(s);
	return changes;
}

static struct known known_jump(uint32_t experts, uint32_t scatter)
{
	static struct known k;

	k = (struct known){.at = 1003, .tokens = 16384, .scatter = scatter, .every = 1};
	mix_zipf(&k.before, experts, 1, 0);
	mix_zipf(&k.after, experts, 1, experts / 2);
	mix_ready(&k.before);
	mix_ready(&k.after);
	return k;
}

/* Stable, a jump found within 300 steps, and within 300 steps stable with the new shares. */
static void test_jump(void **unused)
{
	static const uint32_t scatters[] = {1, 10, 30};
	int64_t at[16];

	(void)unused;
	seed = 12;
	for (size_t i = 0; i < COUNT(scatters); i++) {
		struct known k = known_jump(64, scatters[i]);

		assert_int_equal(follow(&k, 3000, at), 3);
		assert_in_range(at[0], 200, 300);
		assert_in_range(at[1], 1003, 1303);
		assert_in_range(at[2], at[1], 1303);
	}
}

/* Samples of every 10th step: as many samples are needed as of a whole trace, or fewer. */
static void test_sampled(void **unused)
{
	struct known k = known_jump(32, 10);
	int64_t at[16];

	(void)unused;
	seed = 13;
	k.every = 10;
	k.at = 10000;
	assert_int_equal(follow(&k, 20000, at), 3);
	assert_in_range(at[0], 1270, 2240);
	assert_in_range(at[1], 10000, 10160);
	assert_in_range(at[2], at[1], 12240);
}

/* Noise is no change, however much there is. */
static void test_no_false_alarm(void **unused)
{
	static const uint32_t scatters[] = {1, 2, 10, 30};
	int64_t at[16];

	(void)unused;
	seed = 14;
	for (size_t i = 0; i < COUNT(scatters); i++) {
		struct known k = known_jump(16, scatters[i]);

		k.at = INT64_MAX;
		assert_int_equal(follow(&k, 20000, at), 1);
		assert_in_range(at[0], 200, 300);
	}
}

/* Fewer tokens a step are more noise, not a change; nor are more tokens. */
static void test_tokens_change(void **unused)
{
	struct moetap_series *s = series_of(1, 64, 32);
	struct moetap_state *state = state_of(1);
	struct known k = known_jump(64, 4);
	double load[64];

	(void)unused;
	seed = 15;
	for (int step = 0; step < 3000; step++) {
		mix_draw(&k.before, step / 1000 == 1 ? 2048 : 65536, 4, &seed, load);
		moetap_series_add_step(s, step, load, NULL, NULL);
		moetap_state_update(state, s, step);
		assert_true(step < 300 || stable(state, 0));
	}
	moetap_state_free(state);
	moetap_series_free(s);
}

/* Steps that are missing, and rounds that say that they are not exact, are no change. Where most
 * say so, they are all there is to go by. */
static void test_missing_and_flagged(void **unused)
{
	struct moetap_series *s = series_of(1, 64, 32);
	struct moetap_state *state = state_of(1);
	struct known k = known_jump(64, 4);
	uint32_t gap = MOETAP_QUALITY_GAP;
	double load[64];

	(void)unused;
	seed = 16;
	for (int step = 0; step < 4000; step++) {
		bool flag = step >= 1000 && step < 2000 && step % 40 < 10;

		if (step % 50 >= 45)
			continue;
		mix_draw(flag || step >= 3000 ? &k.after : &k.before, 16384, 4, &seed, load);
		moetap_series_add_step(s, step, load, flag || step >= 2500 ? &gap : NULL, NULL);
		moetap_state_update(state, s, step);
		assert_true(step < 300 || step >= 3000 || stable(state, 0));
		assert_true(step != 3100 || !stable(state, 0));
	}
	assert_true(stable(state, 0));
	moetap_state_free(state);
	moetap_series_free(s);
}

/* A layer without tokens for long is idle, and begins anew. */
static void test_falls_idle(void **unused)
{
	struct moetap_series *s = series_of(2, EXPERTS, 32);
	struct moetap_state *state = state_of(2);
	struct moetap_layer_state layer;
	double weight[2 * EXPERTS];

	(void)unused;
	seed = 17;
	for (int step = 0; step < 1600; step++) {
		memcpy(weight, skewed, sizeof(skewed));
		memcpy(weight + EXPERTS, skewed, sizeof(skewed));
		if (step >= 500 && step < 1000)
			memset(weight + EXPERTS, 0, sizeof(skewed));
		add(s, step, weight, 0.05);
		moetap_state_update(state, s, step);
		moetap_state_layer(state, 1, &layer);
		assert_true(step < 300 || stable(state, 0));
		assert_true(step != 700 || layer.stable);
		assert_true(step != 900 || (!layer.stable && layer.confidence == 0 &&
						   moetap_state_stable(state, NULL)));
		assert_true(step != 1100 || (!layer.stable && layer.since == 1000));
	}
	assert_true(layer.stable);
	assert_true(layer.confidence > 0.3 && layer.confidence <= 1);
	moetap_state_free(state);
	moetap_series_free(s);
}

/* Prefill and decode in turn, by the clock or by chance: a few changes at the most until that is
 * known, then transient with the reason; stable again when it ends. */
static void test_alternates(void **unused)
{
	static const struct {
		int length[2];
		bool chance;
	} cases[] = {{{16, 32}, false}, {{50, 50}, false}, {{300, 300}, false}, {{700, 700}, false},
		{{16, 32}, true}, {{100, 100}, true}};

	(void)unused;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct moetap_series *s = series_of(1, EXPERTS, 4000);
		struct moetap_state *state = state_of(1);
		struct moetap_layer_state layer;
		int changes = 0, left = 0;
		bool phase = true, was = false;

		seed = 12;
		for (int step = 0; step < 15000; step++) {
			if (left-- == 0) {
				phase = !phase;
				left = cases[i].length[phase];
				left = (cases[i].chance ? (int)(2 * left * next_uniform(&seed))
							: left - 1);
			}
			add(s, step, phase && step < 10000 ? other : skewed, 0.05);
			moetap_state_update(state, s, step);
			changes += stable(state, 0) != was && step < 10000;
			was = stable(state, 0);
			if (step != 9999)
				continue;
			moetap_state_layer(state, 0, &layer);
			assert_false(layer.stable);
			assert_in_range(changes, 0, 6);
			if (i == 0) {
				assert_non_null(strstr(layer.reason, "alternates"));
				assert_true(layer.confidence >= 0.5);
			}
		}
		assert_true(was);
		moetap_state_free(state);
		moetap_series_free(s);
	}
}

static void test_wrong_use(void **unused)
{
	struct moetap_series *s = series_of(2, EXPERTS, 0);
	struct moetap_state *state = state_of(1);

	(void)unused;
	assert_int_equal(moetap_state_update(state, s, 0), -EINVAL);
	assert_false(moetap_state_stable(state, NULL));
	moetap_state_free(state);
	assert_int_equal(moetap_state_new(0, &state), -EINVAL);
	moetap_series_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_too_few),
		cmocka_unit_test(test_shift),
		cmocka_unit_test(test_drift),
		cmocka_unit_test(test_noise),
		cmocka_unit_test(test_grid),
		cmocka_unit_test(test_idle_layers),
		cmocka_unit_test(test_jump),
		cmocka_unit_test(test_sampled),
		cmocka_unit_test(test_no_false_alarm),
		cmocka_unit_test(test_tokens_change),
		cmocka_unit_test(test_missing_and_flagged),
		cmocka_unit_test(test_falls_idle),
		cmocka_unit_test(test_alternates),
		cmocka_unit_test(test_wrong_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
