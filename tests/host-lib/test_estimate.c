/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Estimates of what the tap cannot see, against jobs of which everything is known.
 *
 * With arguments it is a tool: `test-host-estimate TRUTH.csv RANKS_A_NODE` hides what ranks send
 * to themselves and within their node in a file with the columns step,layer,src,dst,expert,tokens
 * and prints how far the estimate is off, and how often the truth is in its 80 % interval.
 */
#include "common.h"

#include <errno.h>

#define NS 1000 /* of a packet, any but 0 */

/** Rounds of a job of which all is known; experts are spread evenly over ranks. */
struct job {
	uint32_t layers, ranks, experts, a_node;
	bool self; /**< the tap sees everything */
};

static void add_round(struct moetap_series *series, const struct job *job, int64_t step,
	uint32_t layer, const uint32_t *tokens)
{
	struct moetap_pair *pairs = calloc((size_t)job->ranks * job->ranks, sizeof(*pairs));
	uint32_t *seen = calloc((size_t)job->ranks * job->experts, sizeof(*seen));
	uint32_t *rank = calloc(job->experts, sizeof(*rank));
	struct moetap_round r = {.step = (uint64_t)step,
		.layer = layer,
		.ranks = job->ranks,
		.experts = job->experts,
		.pairs = pairs,
		.cell_tokens = seen,
		.expert_rank = rank};

	assert_true(pairs != NULL && seen != NULL && rank != NULL);
	for (uint32_t p = 0; p < job->ranks * job->ranks; p++)
		if (job->self || p / job->ranks / job->a_node != p % job->ranks / job->a_node)
			pairs[p].last_ns = NS;
	for (uint32_t e = 0; e < job->experts; e++) {
		rank[e] = e / (job->experts / job->ranks);
		for (uint32_t s = 0; s < job->ranks; s++)
			if (pairs[s * job->ranks + rank[e]].last_ns != 0)
				seen[s * job->experts + e] = tokens[s * job->experts + e];
	}
	assert_int_equal(moetap_series_add_counts(series, &r, NULL), 0);
	free(pairs);
	free(seen);
	free(rank);
}

static uint32_t quality_of(const struct moetap_series *series)
{
	uint32_t quality;

	assert_int_equal(moetap_series_flagged(series, 0, INT64_MAX, &quality, NULL), 0);
	return quality;
}

/* ---- by hand ---- */

/** Sources that route alike, of different activity: nothing is lost. */
static void test_exact(void **unused)
{
	static const uint32_t activity[4] = {10, 20, 5, 0}, rate[8] = {1, 2, 3, 0, 7, 1, 4, 2};
	struct job job = {1, 4, 8, 1, false};
	uint32_t tokens[4 * 8];
	double mean[8], part[8], half[8];

	(void)unused;
	for (uint32_t c = 0; c < 32; c++)
		tokens[c] = activity[c / 8] * rate[c % 8];
	for (int self = 0; self < 2; self++) {
		struct moetap_series *s = series_of(1, 8, 0);
		double unseen, hidden = 0;

		job.self = self != 0;
		add_round(s, &job, 0, 0, tokens);
		moetap_series_mean_tokens(s, 0, mean);
		unseen = moetap_series_unseen(s, 0, 0, 0, part, half);
		for (uint32_t e = 0; e < 8; e++) {
			double own = self ? 0 : activity[e / 2] / 35.0;

			assert_near(mean[e], 35 * rate[e], 1e-5);
			assert_near(part[e], rate[e] > 0 ? own : 0, 1e-6);
			assert_near(half[e], 0, 1e-6);
			hidden += own * rate[e];
		}
		assert_near(unseen, hidden / 20, 1e-6);
		assert_int_equal(quality_of(s), self ? 0 : MOETAP_QUALITY_ESTIMATED);
		moetap_series_free(s);
	}
}

/** One visible source: the load is doubled, and nothing tells how well. */
static void test_two_ranks(void **unused)
{
	static const uint32_t tokens[2 * 4] = {9, 9, 30, 10, 5, 15, 9, 9};
	struct job job = {1, 2, 4, 1, false};
	struct moetap_series *s = series_of(1, 4, 0);
	double mean[4], half[4];

	(void)unused;
	add_round(s, &job, 0, 0, tokens);
	moetap_series_mean_tokens(s, 0, mean);
	assert_memory_equal(mean, ((double[]){10, 30, 60, 20}), sizeof(mean));
	assert_near(moetap_series_unseen(s, 0, 0, 0, NULL, half), 0.5, 1e-6);
	for (uint32_t e = 0; e < 4; e++)
		assert_true(isinf(half[e]) && half[e] > 0);
	/* a step that it does not have, and one where nothing came */
	assert_near(moetap_series_unseen(s, 0, 7, 9, NULL, half), 0, 0);
	assert_near(half[0], 0, 0);
	add_round(s, &job, 1, 0, (uint32_t[8]){0});
	assert_near(moetap_series_unseen(s, 0, 1, 1, NULL, half), 0, 0);
	moetap_series_free(s);
}

/** Two nodes have no source in common: their sources are taken to be as active. */
static void test_two_nodes(void **unused)
{
	/* of node 0: 24 tokens from rank 2, 48 from rank 3 */
	static const uint32_t tokens[4 * 4] = {
		9, 9, 10, 20, 9, 9, 10, 20, 8, 16, 9, 9, 16, 32, 9, 9};
	struct job job = {1, 4, 4, 2, false};
	struct moetap_series *s = series_of(1, 4, 0);
	double mean[4], half[4];

	(void)unused;
	add_round(s, &job, 0, 0, tokens);
	moetap_series_mean_tokens(s, 0, mean);
	for (uint32_t e = 0; e < 4; e++)
		assert_near(mean[e], ((double[]){48, 96, 40, 80})[e], 1e-4);
	assert_near(moetap_series_unseen(s, 0, 0, 0, NULL, half), 0.5, 1e-6);
	assert_true(half[0] < 1e-4); /* they route alike */
	moetap_series_free(s);
}

/** Ranks that hold experts and send nothing have nothing that could be unseen. */
static void test_idle_ranks(void **unused)
{
	static const uint32_t tokens[3 * 3] = {0, 10, 20, 0, 0, 0, 0, 0, 0};
	struct job job = {1, 3, 3, 1, false};
	struct moetap_series *s = series_of(1, 3, 0);
	double mean[3];

	(void)unused;
	add_round(s, &job, 0, 0, tokens);
	moetap_series_mean_tokens(s, 0, mean);
	assert_near(mean[1], 10, 0);
	assert_near(mean[2], 20, 0);
	moetap_series_free(s);
}

/** An expert of which no source passes the tap has no load, and no plan is made. */
static void test_unknown(void **unused)
{
	const struct moetap_shape shape = {.ranks = 3, .nodes = 1, .slots = 3, .groups = 1};
	static const uint32_t tokens[3 * 3] = {5, 5, 5, 5, 5, 5, 5, 5, 5}, rank[] = {0, 1, 2};
	struct moetap_pair pairs[9] = {[1].last_ns = NS, [3].last_ns = NS, [6].last_ns = NS};
	struct moetap_round r = {.ranks = 3,
		.experts = 3,
		.pairs = pairs,
		.cell_tokens = tokens,
		.expert_rank = rank};
	struct moetap_series *s = series_of(1, 3, 0);
	struct moetap_forecast *f;
	struct moetap_error error;
	struct moetap_plan *plan;
	double mean[3];

	(void)unused;
	assert_int_equal(moetap_series_add_counts(s, &r, NULL), 0);
	assert_true(moetap_series_seen(s, 0) && moetap_series_seen(s, 1));
	assert_false(moetap_series_seen(s, 2));
	moetap_series_mean_tokens(s, 0, mean);
	assert_true(isnan(mean[2]) && mean[0] > 0 && mean[1] > 0);
	assert_int_equal(
		moetap_plan_make(NULL, &shape, 1, 3, mean, NULL, &plan, &error), -EINVAL);
	assert_non_null(strstr(error.text, "layer 0, expert 2: no load is known"));
	assert_int_equal(moetap_forecast_make(s, 0, NULL, 1, 0, &f, &error), 0);
	assert_true(isnan(moetap_forecast_share(f)[2]) && isnan(moetap_forecast_high(f)[2]));
	assert_int_equal(moetap_plan_make(NULL, &shape, 1, 3, moetap_forecast_share(f), NULL,
				 &plan, &error),
		-EINVAL);
	moetap_forecast_free(f);
	moetap_series_free(s);
}

/* ---- against the truth ---- */

/** How far estimates of single rounds were off, and intervals of them. */
struct outcome {
	double error, unscaled; /**< mean of |share - true share| * experts: estimated, as seen */
	double coverage, spread; /**< mean over rounds, and its standard error */
	double narrow;		 /**< coverage of intervals half as wide */
	double hot;		 /**< coverage of shares above the mean */
};

/** Everything by step: tokens [steps][layers][ranks][experts]. */
struct truth {
	struct job job;
	uint32_t steps;
	uint32_t *tokens;
};

static const uint32_t *round_of(const struct truth *t, uint32_t step, uint32_t layer)
{
	return t->tokens + ((size_t)step * t->job.layers + layer) * t->job.ranks * t->job.experts;
}

/** True mean shares of a layer over `window` steps. */
static void true_shares(
	const struct truth *t, uint32_t first, uint32_t window, uint32_t layer, double *share)
{
	memset(share, 0, t->job.experts * sizeof(*share));
	for (uint32_t step = first; step < first + window; step++) {
		const uint32_t *tokens = round_of(t, step, layer);
		double sum = 0;

		for (uint32_t c = 0; c < t->job.ranks * t->job.experts; c++)
			sum += tokens[c];
		for (uint32_t c = 0; c < t->job.ranks * t->job.experts; c++)
			share[c % t->job.experts] += tokens[c] / sum / window;
	}
}

/** Compares the windows of `window` steps one after the other, each layer for itself. */
static struct outcome compare_windows(
	const struct moetap_series *series, const struct truth *t, uint32_t window)
{
	uint32_t experts = t->job.experts, n = 0;
	double *real = calloc(experts, sizeof(*real)), *share = calloc(experts, sizeof(*share));
	double *half = calloc(experts, sizeof(*half)), *part = calloc(experts, sizeof(*part));
	double square = 0, hot = 0;
	struct outcome o = {0};

	assert_true(real != NULL && share != NULL && half != NULL && part != NULL);
	for (uint32_t first = 0; first + window <= t->steps; first += window)
		for (uint32_t l = 0; l < t->job.layers; l++, n++) {
			int64_t last = first + window - 1;
			double covered = 0, seen = 0;

			true_shares(t, first, window, l, real);
			moetap_series_mean_shares(series, l, first, last, share);
			moetap_series_unseen(series, l, first, last, part, half);
			for (uint32_t e = 0; e < experts; e++)
				seen += share[e] * (1 - part[e]);
			for (uint32_t e = 0; e < experts; e++) {
				o.error += fabs(share[e] - real[e]);
				o.unscaled += fabs(share[e] * (1 - part[e]) / seen - real[e]);
				covered += (fabs(share[e] - real[e]) <= half[e] + 1e-12) /
					   (double)experts;
			}
			o.coverage += covered;
			for (uint32_t e = 0; e < experts; e++) {
				if (real[e] * experts <= 1)
					continue;
				o.hot += fabs(share[e] - real[e]) <= half[e] + 1e-12;
				hot++;
			}
			for (uint32_t e = 0; e < experts; e++)
				o.narrow += (fabs(share[e] - real[e]) <= half[e] / 2) /
					    (double)experts;
			square += covered * covered;
		}
	o.error /= n;
	o.unscaled /= n;
	o.coverage /= n;
	o.narrow /= n;
	o.hot /= hot;
	o.spread = sqrt((square / n - o.coverage * o.coverage) / (n - 1));
	free(real);
	free(share);
	free(half);
	free(part);
	return o;
}

static struct moetap_series *estimated(const struct truth *t)
{
	struct moetap_series *series = series_of(t->job.layers, t->job.experts, 0);

	for (uint32_t step = 0; step < t->steps; step++)
		for (uint32_t l = 0; l < t->job.layers; l++)
			add_round(series, &t->job, step, l, round_of(t, step, l));
	return series;
}

static struct outcome compare(const struct truth *t, uint32_t window)
{
	struct moetap_series *series = estimated(t);
	struct outcome o = compare_windows(series, t, window);

	moetap_series_free(series);
	return o;
}

static void tell(const struct outcome *o, const char *what)
{
	print_message("%s: coverage %.3f, standard error %.4f, %.3f with half the width; mean "
		      "error of a share %.4f of the mean share, %.4f unscaled\n",
		what, o->coverage, o->spread, o->narrow, o->error, o->unscaled);
}

/** Reads step,layer,src,dst,expert,tokens; twice, for the sizes come first. */
static struct truth read_truth(const char *path, uint32_t a_node)
{
	struct truth t = {.job = {.a_node = a_node}};
	unsigned int step, layer, src, dst, expert, tokens;
	FILE *f = fopen(path, "r");

	if (f == NULL)
		fail_msg("%s: %s", path, strerror(errno));
	for (int fill = 0; fill < 2; fill++) {
		rewind(f);
		assert_int_equal(fscanf(f, "step,layer,src,dst,expert,tokens "), 0);
		while (fscanf(f, "%u,%u,%u,%u,%u,%u ", &step, &layer, &src, &dst, &expert,
			       &tokens) == 6) {
			if (fill) {
				((uint32_t *)(uintptr_t)round_of(&t, step, layer))
					[src * t.job.experts + expert] += tokens;
				continue;
			}
			t.steps = step + 1 > t.steps ? step + 1 : t.steps;
			t.job.layers = layer + 1 > t.job.layers ? layer + 1 : t.job.layers;
			t.job.ranks = src + 1 > t.job.ranks ? src + 1 : t.job.ranks;
			t.job.experts = expert + 1 > t.job.experts ? expert + 1 : t.job.experts;
		}
		assert_true(feof(f));
		if (!fill)
			t.tokens = calloc((size_t)t.steps * t.job.layers * t.job.ranks,
				t.job.experts * sizeof(*t.tokens));
		assert_non_null(t.tokens);
	}
	fclose(f);
	return t;
}

/** Real traffic, of which the job itself counted everything. */
static void test_job(void **unused)
{
	struct truth t = read_truth(data_path("rxe-4ranks/truth.csv"), 1);
	struct outcome o = compare(&t, 1);

	(void)unused;
	tell(&o, "rxe-4ranks");
	/* a deviation of four standard errors is one in 15,000 */
	assert_true(fabs(o.coverage - 0.8) < 4 * o.spread);
	free(t.tokens);
}

/* ---- simulated sources ---- */

static double uniform(uint32_t *seed)
{
	return next_uniform(seed) + 1e-12;
}

/** What sources differ by: each of them all the time, and from round to round. */
struct differ {
	double lasting, passing; /**< standard deviations of the logarithm of a rate */
};

static double normal(uint32_t *seed)
{
	return sqrt(-2 * log(uniform(seed))) * cos(2 * 3.14159265358979 * uniform(seed));
}

/** Tokens of each source, one after the other, by its own rates; batches differ as well. */
static void simulate(struct truth *t, const struct differ *by, uint32_t seed)
{
	uint32_t experts = t->job.experts, cells = t->job.ranks * experts;
	double *own = calloc((size_t)t->job.layers * cells, sizeof(*own));
	double *sum = calloc(experts, sizeof(*sum));

	t->tokens = calloc((size_t)t->steps * t->job.layers * cells, sizeof(*t->tokens));
	assert_true(own != NULL && sum != NULL && t->tokens != NULL);
	for (size_t c = 0; c < (size_t)t->job.layers * cells; c++)
		own[c] = exp(by->lasting * normal(&seed)) * (1 + c % experts % 5);
	for (size_t r = 0; r < (size_t)t->steps * t->job.layers * t->job.ranks; r++) {
		const double *rate = own + r % (t->job.layers * t->job.ranks) * experts;
		uint32_t batch = 300 + next_random(&seed) % 300;

		for (uint32_t e = 0; e < experts; e++)
			sum[e] = (e > 0 ? sum[e - 1] : 0) +
				 rate[e] * exp(by->passing * normal(&seed));
		for (uint32_t i = 0; i < batch; i++) {
			double at = uniform(&seed) * sum[experts - 1];
			uint32_t e = 0;

			while (sum[e] < at)
				e++;
			t->tokens[r * experts + e]++;
		}
	}
	free(own);
	free(sum);
}

static void test_simulated(void **unused)
{
	static const struct {
		const char *what;
		uint32_t ranks, a_node, window;
		struct differ by;
	} cases[] = {
		{"sources alike", 8, 1, 1, {0, 0}},
		{"sources differ from round to round", 8, 1, 1, {0, 0.3}},
		{"sources differ from round to round, 20 rounds", 8, 1, 20, {0, 0.3}},
		{"sources differ for good", 8, 1, 1, {0.3, 0}},
		{"sources differ for good, 20 rounds", 8, 1, 20, {0.3, 0}},
		{"nodes of 4", 16, 4, 1, {0, 0.3}},
	};

	(void)unused;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct truth t = {.job = {40, cases[i].ranks, 32, cases[i].a_node, false},
			.steps = 40};
		struct outcome o;

		simulate(&t, &cases[i].by, 4711 + (uint32_t)i);
		o = compare(&t, cases[i].window);
		tell(&o, cases[i].what);
		/* At least 80 %: what is added for few sources errs on the wide side, but not so far
		 * that half the width would do. */
		assert_true(o.coverage > 0.8 - 4 * o.spread);
		assert_true(o.narrow < 0.8 - 4 * o.spread);
		free(t.tokens);
	}
}

/* ---- carried on ---- */

/** The same loads as if all of them had been counted. */
static struct moetap_series *as_counted(const struct truth *t)
{
	struct moetap_series *all = series_of(t->job.layers, t->job.experts, 0);
	double *tokens = calloc((size_t)t->job.layers * t->job.experts, sizeof(*tokens));

	for (uint32_t step = 0; step < t->steps; step++) {
		struct moetap_series *one = series_of(t->job.layers, t->job.experts, 0);

		for (uint32_t l = 0; l < t->job.layers; l++)
			add_round(one, &t->job, step, l, round_of(t, step, l));
		moetap_series_mean_tokens(one, 0, tokens);
		assert_int_equal(moetap_series_add_step(all, step, tokens, NULL, NULL), 0);
		moetap_series_free(one);
	}
	free(tokens);
	return all;
}

/** Intervals of a forecast are wider by what the estimate alone leaves open. */
static void test_forecast(void **unused)
{
	(void)unused;
	for (uint32_t ranks = 2; ranks <= 4; ranks += 2) {
		struct truth t = {.job = {2, ranks, 8, 1, false}, .steps = 100};
		struct moetap_forecast *plain, *wide;
		struct moetap_series *all, *series;
		struct moetap_forecast_info info;
		double part[8], half[8], layer;

		simulate(&t, &(struct differ){0.2, 0.2}, 99);
		all = as_counted(&t);
		series = estimated(&t);
		assert_int_equal(moetap_forecast_make(all, 99, NULL, 10, 0, &plain, NULL), 0);
		assert_int_equal(moetap_forecast_make(series, 99, NULL, 10, 0, &wide, NULL), 0);
		moetap_forecast_info(plain, &info);
		assert_true(info.unseen == 0 && !info.unseen_blind);
		moetap_forecast_info(wide, &info);
		assert_near(info.unseen, 1.0 / ranks, 0.1);
		assert_int_equal(info.unseen_blind, ranks == 2);
		assert_int_equal(info.quality, MOETAP_QUALITY_ESTIMATED);
		assert_int_equal(info.flagged, 0);
		for (uint32_t c = 0; c < 16; c++) {
			double share = moetap_forecast_share(wide)[c];
			double low = moetap_forecast_low(plain)[c];
			double high = moetap_forecast_high(plain)[c];

			layer = moetap_series_unseen(
				series, c / 8, 100 - info.window, 99, part, half);
			assert_near(share, moetap_forecast_share(plain)[c], 1e-12);
			assert_near(moetap_forecast_unseen(wide)[c], part[c % 8], 1e-12);
			assert_near(moetap_forecast_unseen(plain)[c], 0, 0);
			if (ranks == 2) {
				low = fmax(low - share * part[c % 8], 0);
				high = fmin(high + layer, 1);
			} else {
				assert_true(half[c % 8] > 0.001 && half[c % 8] < 0.1);
				low = fmax(share - hypot(share - low, half[c % 8]), 0);
				high = fmin(share + hypot(high - share, half[c % 8]), 1);
			}
			assert_near(moetap_forecast_low(wide)[c], low, 1e-12);
			assert_near(moetap_forecast_high(wide)[c], high, 1e-12);
		}
		moetap_forecast_free(plain);
		moetap_forecast_free(wide);
		moetap_series_free(all);
		moetap_series_free(series);
		free(t.tokens);
	}
}

/** A decision names what is estimated, and none is made where a load is missing. */
static void test_decision(void **unused)
{
	const struct moetap_shape shape = {.ranks = 2, .nodes = 1, .slots = 8, .groups = 1};
	struct truth t = {.job = {1, 2, 8, 1, false}, .steps = 400};
	struct moetap_decision d;
	struct moetap_forecast *f;
	struct moetap_series *s;
	struct moetap_state *state;
	struct moetap_plan *plan;

	(void)unused;
	simulate(&t, &(struct differ){0, 0}, 7);
	s = estimated(&t);
	assert_int_equal(moetap_state_new(1, &state), 0);
	assert_int_equal(moetap_state_update(state, s, 399), 0);
	assert_int_equal(moetap_forecast_make(s, 399, NULL, 10, 0, &f, NULL), 0);
	assert_int_equal(moetap_plan_trivial(&shape, 1, 8, &plan, NULL), 0);
	assert_int_equal(moetap_decide(state, f, plan, plan, 0.05, &d), 0);
	assert_non_null(strstr(d.reason, "; 50.0 % of the tokens estimated, and nothing tells how "
					 "well"));
	((double *)(uintptr_t)moetap_forecast_share(f))[3] = NAN;
	assert_int_equal(moetap_decide(state, f, plan, plan, -1, &d), 0);
	assert_int_equal(d.verdict, MOETAP_KEEP);
	assert_non_null(strstr(d.reason, "of some expert no load is known"));
	moetap_plan_free(plan);
	moetap_forecast_free(f);
	moetap_state_free(state);
	moetap_series_free(s);
	free(t.tokens);
}

/** Micro-batches: what sources have in common in all of them does not average out. */
static void test_micro_batches(void **unused)
{
	struct truth t = {.job = {1, 8, 16, 1, false}, .steps = 64};
	struct moetap_series *single, *batches = series_of(1, 16, 0);
	double half[2][16];

	(void)unused;
	simulate(&t, &(struct differ){0.5, 0}, 5);
	single = estimated(&t);
	for (uint32_t step = 0; step < t.steps; step++)
		add_round(batches, &t.job, step / 8, 0, round_of(&t, step, 0));
	moetap_series_unseen(single, 0, 8, 63, NULL, half[0]);
	moetap_series_unseen(batches, 0, 1, 7, NULL, half[1]);
	/* seen as 56 steps of a round, or 7 of eight: the same rounds, and about the same error */
	for (uint32_t e = 0; e < 16; e++)
		assert_near(half[1][e] / half[0][e], 1, 0.1);
	moetap_series_free(single);
	moetap_series_free(batches);
	free(t.tokens);
}

/** A series that forgets: what was estimated goes with its step, and steps may come late. */
static void test_ring(void **unused)
{
	static const uint32_t tokens[3 * 3] = {4, 4, 4, 4, 4, 4, 4, 4, 4};
	struct moetap_series *s = series_of(1, 3, 2);

	(void)unused;
	for (int64_t step = 0; step < 6; step++) {
		struct job job = {1, 3, 3, 1, step % 2 == 1};

		add_round(s, &job, step * 2, 0, tokens);
		assert_near(moetap_series_unseen(s, 0, step * 2, step * 2, NULL, NULL),
			step % 2 == 1 ? 0 : 1.0 / 3, 1e-6);
	}
	assert_int_equal(moetap_series_dropped(s), 4);
	assert_near(moetap_series_unseen(s, 0, 0, 99, NULL, NULL), 1.0 / 6, 1e-6);
	add_round(s, &(struct job){1, 3, 3, 1, false}, 9, 0, tokens);
	assert_near(moetap_series_unseen(s, 0, 0, 99, NULL, NULL), 1.0 / 6, 1e-6);
	assert_int_equal(moetap_series_first_step(s), 9);
	moetap_series_free(s);
}

static int figures(const char *path, uint32_t a_node)
{
	static const uint32_t windows[] = {1, 10, 50};
	struct truth t = read_truth(path, a_node);
	struct moetap_series *series = estimated(&t);

	printf("steps,layers,ranks,experts,ranks_a_node,window,coverage,hot,error,unscaled\n");
	for (size_t i = 0; i < COUNT(windows) && windows[i] <= t.steps; i++) {
		struct outcome o = compare_windows(series, &t, windows[i]);

		printf("%u,%u,%u,%u,%u,%u,%.3f,%.3f,%.4f,%.4f\n", t.steps, t.job.layers, t.job.ranks,
			t.job.experts, a_node, windows[i], o.coverage, o.hot, o.error, o.unscaled);
	}
	moetap_series_free(series);
	free(t.tokens);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exact),
		cmocka_unit_test(test_two_ranks),
		cmocka_unit_test(test_two_nodes),
		cmocka_unit_test(test_idle_ranks),
		cmocka_unit_test(test_unknown),
		cmocka_unit_test(test_job),
		cmocka_unit_test(test_simulated),
		cmocka_unit_test(test_forecast),
		cmocka_unit_test(test_decision),
		cmocka_unit_test(test_micro_batches),
		cmocka_unit_test(test_ring),
	};

	if (argc == 3)
		return figures(argv[1], (uint32_t)atoi(argv[2]));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
