/* SPDX-License-Identifier: BSD-3-Clause */
/* From epochs of flows to rounds: when they close, what their quality says, where in a step they
 * are. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>

#include "sim.h"

static const struct job counted = {
	.ranks = 2, .experts = 2, .layers = 2, .parity = true, .counts = true, .combine = true};
static const struct job uncounted = {
	.ranks = 2, .experts = 1, .layers = 2, .parity = true, .combine = true};
static const struct job no_parity = {
	.ranks = 3, .experts = 2, .layers = 2, .counts = true, .combine = true};

static struct path path;
static uint32_t psn[SIM_RANKS][SIM_RANKS];
static uint64_t now;

static uint32_t draw(void *arg)
{
	uint64_t *state = arg;

	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*state >> 32);
}

/** @param started flows are not held back to find their first packet */
static void use(const struct job *j, uint32_t cores, bool started)
{
	path_use(&path, job_bank(j), cores, 64);
	for (uint32_t i = 0; started && i < cores; i++)
		fw_start_all(path.core[i]);
	memset(psn, 0, sizeof(psn));
	now = 1700000000000000000ull;
}

/** The next packet of a queue pair; @p seen by the tap. */
static void put(struct frame f, bool seen)
{
	f.psn = psn[f.src][f.dst]++;
	f.ns = now += 1000;
	if (seen)
		path_send(&path, &f);
}

/** Two ranks send n tokens to expert 0 of each other, and combine. */
static void round_of(const struct job *j, uint32_t n, uint32_t parity)
{
	for (uint32_t src = 0; src < 2; src++) {
		for (uint32_t i = 0; i < n; i++)
			put(job_token(j, src, !src, 0, i, parity), true);
		if (j->counts)
			put(job_count(j, src, !src, 0, n, parity), true);
	}
	for (uint32_t src = 0; src < 2; src++)
		put(job_combine(j, src, !src, 0, parity), true);
	path_pump(&path);
}

/** Only rank 0 sends: what is seen of tokens and count is asked bit by bit. */
static void half_of(
	const struct job *j, uint32_t n, uint32_t parity, uint32_t tokens_seen, bool count_seen)
{
	for (uint32_t i = 0; i < n; i++)
		put(job_token(j, 0, 1, 0, i, parity), tokens_seen >> i & 1);
	put(job_count(j, 0, 1, 0, n, parity), count_seen);
	path_pump(&path);
}

static struct mt_round *round_at(uint32_t i)
{
	assert_true(i < path.published);
	return path.round[i];
}

/** The n-th epoch of every lane makes round n; it is closed when all are two epochs further. */
static void test_parity(void **state)
{
	(void)state;
	use(&uncounted, 1, true);
	for (uint32_t i = 0; i < 6; i++) {
		round_of(&uncounted, i + 1, i % 2);
		assert_int_equal(path.published, i < 2 ? 0 : i - 1);
	}
	path_end(&path);
	assert_int_equal(path.published, 6);
	for (uint32_t i = 0; i < 6; i++) {
		assert_int_equal(round_at(i)->round, i);
		assert_int_equal(round_at(i)->tokens, 2 * (i + 1));
		assert_int_equal(mt_round_tokens(round_at(i))[1], i + 1);
		assert_int_equal(round_at(i)->quality, 0);
	}
	path_drop(&path);
}

/** Of eight rounds of three ranks that send a token each, rank 2 has none in round 3. */
static void end_without_third(void)
{
	path_end(&path);
	assert_int_equal(path.published, 8);
	for (uint32_t i = 0; i < 8; i++) {
		assert_int_equal(mt_round_tokens(round_at(i))[2 * 3 + 0], i != 3);
		assert_int_equal(round_at(i)->tokens, i != 3 ? 3 : 2);
		assert_int_equal(round_at(i)->quality & MT_Q_INEXACT, 0);
	}
	path_drop(&path);
}

/** A source without tokens in a round is not seen in it; its next epoch is of the next round. */
static void test_silent_source(void **state)
{
	static const struct job j = {.ranks = 3, .experts = 1, .layers = 2, .combine = true};

	(void)state;
	path_what = "a silent source";
	use(&j, 1, true);
	for (uint32_t i = 0; i < 8; i++) {
		for (uint32_t src = 0; src < 3; src++)
			if (src != 2 || i != 3)
				put(job_token(&j, src, (src + 1) % 3, 0, i, 0), true);
		now += 50000;
		for (uint32_t src = 0; src < 3; src++)
			put(job_combine(&j, src, (src + 1) % 3, 0, 0), true);
		now += 50000;
		path_pump(&path);
	}
	end_without_third();
}

/** Ranks dispatch at very different times in a round, but none before it has combined in the one
 * before. */
static void test_late_source(void **state)
{
	static const struct job j = {.ranks = 2, .experts = 1, .layers = 2, .combine = true};
	uint64_t seed = 5;

	(void)state;
	path_what = "a late source";
	use(&j, 1, true);
	for (uint32_t i = 0; i < 64; i++) {
		uint32_t first = draw(&seed) & 1;

		for (uint32_t n = 0; n < 2; n++) {
			for (uint32_t t = 0; t <= i; t++)
				put(job_token(&j, first ^ n, !(first ^ n), 0, t, 0), true);
			now += draw(&seed) % 100000000;
		}
		for (uint32_t n = 0; n < 2; n++) {
			put(job_combine(&j, first ^ n, !(first ^ n), 0, 0), true);
			now += draw(&seed) % 10000;
		}
		path_pump(&path);
	}
	path_end(&path);
	assert_int_equal(path.published, 64);
	for (uint32_t i = 0; i < 64; i++) {
		for (uint32_t cell = 1; cell <= 2; cell++)
			assert_int_equal(mt_round_tokens(round_at(i))[cell], i + 1);
		assert_int_equal(round_at(i)->quality & MT_Q_INEXACT, 0);
	}
	path_drop(&path);
}

/**
 * A rank that combines late in a round, when another has dispatched in the next already, and then
 * dispatches late too.
 */
static void test_slow_source(void **state)
{
	static const struct job j = {.ranks = 3, .experts = 1, .layers = 2, .combine = true};

	(void)state;
	path_what = "a slow source";
	use(&j, 1, true);
	for (uint32_t i = 0; i < 12; i++) {
		bool slow = i % 4 == 3;

		for (uint32_t src = 0; src < 3; src++) {
			if (slow && src == 1) /* of the round before: rank 1 waits for it */
				put(job_combine(&j, 2, 1, 0, 0), true);
			if (slow && src == 2)
				now += 1000000;
			for (uint32_t t = 0; t <= i; t++)
				for (uint32_t dst = 0; dst < 3; dst++)
					if (dst != src)
						put(job_token(&j, src, dst, 0, t, 0), true);
		}
		now += 50000;
		for (uint32_t src = 0; src < 3; src++)
			for (uint32_t dst = 0; dst < 3; dst++)
				if (dst != src && (i % 4 != 2 || src != 2 || dst != 1))
					put(job_combine(&j, src, dst, 0, 0), true);
		now += 50000;
		path_pump(&path);
	}
	path_end(&path);
	assert_int_equal(path.published, 12);
	for (uint32_t i = 0; i < 12; i++) {
		assert_int_equal(round_at(i)->tokens, 6 * (i + 1));
		assert_int_equal(round_at(i)->quality & MT_Q_INEXACT, 0);
	}
	path_drop(&path);
}

/** A rank that has no part in a round, neither sends nor gets, is seen in the next one. */
static void test_idle_source(void **state)
{
	static const struct job j = {.ranks = 3, .experts = 1, .layers = 2, .combine = true};

	(void)state;
	path_what = "an idle source";
	use(&j, 1, true);
	for (uint32_t i = 0; i < 8; i++) {
		uint32_t n = i == 3 ? 2 : 3;

		for (uint32_t src = 0; src < n; src++)
			put(job_token(&j, src, (src + 1) % n, 0, i, 0), true);
		now += 50000;
		for (uint32_t src = 0; src < n; src++)
			put(job_combine(&j, (src + 1) % n, src, 0, 0), true);
		now += 50000;
		path_pump(&path);
	}
	end_without_third();
}

/**
 * Two flows begin; packets of one are overtaken by its next round, and all of the other come after
 * both. Where no parity tells, a round without the other is not claimed to be whole.
 */
static void test_late_beginning(void **state)
{
	static const struct job j = {.ranks = 2, .experts = 1, .layers = 2, .counts = true};
	static const uint32_t order[] = {0, 2, 1, 3};
	struct frame f[4];

	(void)state;
	path_what = "a late beginning";
	use(&j, 1, true);
	for (uint32_t i = 0; i < 4; i++) {
		f[i] = i % 2 == 0 ? job_token(&j, 0, 1, 0, i, 0) : job_count(&j, 0, 1, 0, 1, 0);
		f[i].psn = i;
	}
	for (uint32_t i = 0; i < 4; i++) {
		f[order[i]].ns = now += 1000;
		path_send(&path, &f[order[i]]);
	}
	for (uint32_t i = 0; i < 2; i++) {
		for (uint32_t t = 0; t <= i; t++)
			put(job_token(&j, 1, 0, 0, t, 0), true);
		put(job_count(&j, 1, 0, 0, i + 1, 0), true);
	}
	path_end(&path);
	for (uint32_t i = 0; i < path.published; i++)
		if (i >= 2 || round_at(i)->tokens != i + 2)
			assert_int_not_equal(round_at(i)->quality & MT_Q_INEXACT, 0);
	assert_int_equal(round_at(0)->tokens, 1);
	path_drop(&path);
}

/** Two ranks send n tokens to the expert of each other; rank 1's count is seen by the tap or not.
 */
static void dispatch_of(const struct job *j, uint32_t n, uint32_t parity, bool seen)
{
	for (uint32_t src = 0; src < 2; src++) {
		for (uint32_t i = 0; i < n; i++)
			put(job_token(j, src, !src, 0, i, parity), true);
		put(job_count(j, src, !src, 0, n, parity), src == 0 || seen);
		path_pump(&path);
	}
}

/**
 * When every cell has its count and as many tokens, nothing more is waited for, not even for the
 * results of the round; but for the first one, whose lanes are not known yet. A count that is
 * missing is waited for as ever, and said.
 */
static void test_complete(void **state)
{
	static const struct job j = {.ranks = 2,
		.experts = 1,
		.layers = 2,
		.parity = true,
		.counts = true,
		.combine = true};

	(void)state;
	use(&j, 1, true);
	for (uint32_t i = 0; i < 12; i++) {
		dispatch_of(&j, i % 3, i % 2, i != 6);
		if (i <= 6 || i == 11)
			assert_int_equal(path.published, i < 2 ? 0 : i == 6 ? 6 : i + 1);
		for (uint32_t src = 0; src < 2; src++)
			put(job_combine(&j, src, !src, 0, i % 2), true);
		path_pump(&path);
		if (i > 6)
			path_flush(&path); /* what waits for the count is let go */
	}
	path_end(&path);
	assert_int_equal(path.published, 12);
	for (uint32_t i = 0; i < 12; i++) {
		assert_int_equal(round_at(i)->round, i);
		assert_int_equal(round_at(i)->quality & MT_Q_INEXACT, i == 6 ? MT_Q_GAP : 0);
		assert_int_equal(round_at(i)->tokens, 2 * (i % 3));
	}
	path_drop(&path);
}

/** All that was announced is there: exact. */
static void test_counts(void **state)
{
	(void)state;
	use(&no_parity, 1, true);
	for (uint32_t i = 0; i < 4; i++)
		half_of(&no_parity, i, 0, UINT32_MAX, true);
	path_end(&path);
	assert_int_equal(path.published, 4);
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(round_at(i)->tokens, i);
		/* expert 1 of rank 1 has a count in no round */
		assert_int_equal(round_at(i)->counts_missing, 1);
		assert_int_equal(round_at(i)->disagreements, 0);
	}
	path_drop(&path);
}

static void test_gap(void **state)
{
	(void)state;
	use(&counted, 1, true);
	half_of(&counted, 3, 0, UINT32_MAX, true);
	half_of(&counted, 3, 1, 5, true);	    /* a token is lost */
	half_of(&counted, 3, 0, UINT32_MAX, false); /* the count is */
	half_of(&counted, 3, 1, UINT32_MAX, true);
	path_end(&path);
	assert_int_equal(path.published, 4);
	assert_int_equal(round_at(0)->gaps, 0);
	assert_int_equal(round_at(0)->tokens, 3);
	/* what was announced goes before what was seen of it */
	assert_int_equal(round_at(1)->tokens, 3);
	assert_int_equal(round_at(1)->load_from, MT_RULE_ATOMIC);
	assert_int_equal(round_at(1)->witness, MT_WITNESS_GAP);
	assert_int_equal(round_at(1)->gaps, 1);
	assert_int_equal(round_at(1)->tokens_unseen, 1);
	assert_int_equal(round_at(1)->quality, MT_Q_GAP | MT_Q_DISAGREE);
	assert_int_equal(round_at(2)->tokens, 3);
	assert_int_equal(round_at(2)->counts_missing, 2);
	assert_int_equal(round_at(2)->quality & MT_Q_GAP, MT_Q_GAP);
	assert_int_equal(round_at(3)->tokens, 3);
	assert_int_equal(round_at(3)->disagreements, 0);
	path_drop(&path);
}

/**
 * A simulated job with up to @p tokens to an expert, of which round @p lost is lost.
 *
 * @return rounds that are not exact
 */
static uint32_t play(const struct job *j, uint32_t cores, uint32_t tokens, uint32_t lost,
	uint32_t rounds, bool exact)
{
	uint64_t seed = 7;
	uint32_t n = 0;
	struct sim s;

	path_what = "a simulated job";
	use(j, cores, false);
	sim_begin(&s, j, draw, &seed);
	s.tokens = tokens;
	s.retransmit = 500;
	for (uint32_t i = 0; i < rounds; i++)
		sim_round(&s);
	sim_sort(&s);
	if (lost != UINT32_MAX)
		sim_lose_round(&s, lost, UINT32_MAX, true);
	sim_play(&s, &path, 1);
	sim_check(&s, &path, exact);
	for (uint32_t i = 0; i < path.published; i++)
		n += (path.round[i]->quality & MT_Q_INEXACT) != 0;
	sim_free(&s);
	return n;
}

/** Epochs of a flow are opened many at once when its first packet was found: rounds wait for
 * others. */
static void test_starting(void **state)
{
	const struct job j = {.ranks = 4,
		.experts = 4,
		.layers = 2,
		.parity = true,
		.counts = true,
		.combine = true};

	(void)state;
	assert_int_equal(play(&j, 2, 0, UINT32_MAX, 70, true), 0);
	assert_int_equal(path.published, 70);
	path_drop(&path);
}

static void test_lost_round(void **state)
{
	(void)state;
	/* the parity tells that it was one */
	assert_true(play(&counted, 1, 4, 9, 20, false) >= 1);
	assert_int_equal(path.published, 20);
	assert_int_equal(round_at(9)->tokens, 0);
	assert_int_equal(round_at(9)->quality & MT_Q_GAP, MT_Q_GAP);
	assert_int_equal(round_at(7)->quality & MT_Q_INEXACT, 0); /* 8 may have lost its end */
	path_drop(&path);
	/* without, it is not known how many: layer and step are assumed */
	assert_true(play(&no_parity, 1, 4, 9, 20, false) >= 1);
	assert_int_equal(path.round[path.published - 1]->quality & MT_Q_ALIGN, MT_Q_ALIGN);
	path_drop(&path);
}

static void check_steps(const char *pattern, const uint32_t (*at)[2], uint32_t n)
{
	struct job j = uncounted;

	j.pattern = pattern;
	j.layers = 3;
	play(&j, 1, 4, UINT32_MAX, 2 * n, true);
	assert_int_equal(path.published, 2 * n);
	for (uint32_t i = 0; i < 2 * n; i++) {
		assert_int_equal(round_at(i)->step, i / n);
		assert_int_equal(round_at(i)->layer, at[i % n][0]);
		assert_int_equal(round_at(i)->pass, at[i % n][1]);
	}
	path_drop(&path);
}

static void test_steps(void **state)
{
	enum { F = MT_PASS_FORWARD, B = MT_PASS_BACKWARD, R = MT_PASS_RECOMPUTE };
	static const uint32_t inference[][2] = {{0, F}, {1, F}, {2, F}};
	static const uint32_t training[][2] = {{0, F}, {1, F}, {2, F}, {2, B}, {1, B}, {0, B}};
	static const uint32_t recompute[][2] = {
		{0, F}, {1, F}, {2, F}, {2, R}, {2, B}, {1, R}, {1, B}, {0, R}, {0, B}};

	(void)state;
	check_steps("inference", inference, RTE_DIM(inference));
	check_steps("training", training, RTE_DIM(training));
	check_steps("training-recompute", recompute, RTE_DIM(recompute));
}

static void test_two_cores(void **state)
{
	static const struct job *const jobs[] = {&uncounted, &no_parity};

	(void)state;
	for (uint32_t i = 0; i < RTE_DIM(jobs); i++) {
		assert_int_equal(play(jobs[i], 2, 4, UINT32_MAX, 120, true), 0);
		assert_int_equal(path.published, 120);
		/* both had something to do */
		assert_true(path.core[0]->tables->used != 0 && path.core[1]->tables->used != 0);
		path_drop(&path);
	}
}

/** What rank 1 sends contradicts the map, has no head, or is known to no rule: no epoch says so. */
static void test_no_epoch(void **state)
{
	static const uint32_t flags[] = {MT_Q_CONTRADICT, MT_Q_TRUNCATED, MT_Q_UNMATCHED};

	(void)state;
	for (uint32_t i = 0; i < RTE_DIM(flags); i++) {
		use(&counted, 1, true);
		for (uint32_t n = 0; n < 4; n++) {
			struct frame f = job_token(&counted, 1, 0, 0, 0, n % 2);

			half_of(&counted, 3, n % 2, 7, true);
			f.cut = i == 1 ? 60 : 0;
			f.va = i == 0	? job_token(&counted, 0, 0, 0, 0, n % 2).va
			       : i == 2 ? 16
					: f.va;
			put(f, true);
		}
		path_end(&path);
		assert_int_equal(path.published, 4);
		for (uint32_t n = 0; n < 4; n++) {
			assert_int_equal(round_at(n)->tokens, 3);
			assert_true(round_at(n)->quality & flags[i]);
		}
		path_drop(&path);
	}
}

/** What begins a round contradicts the map: that is said of its round, not only of the one before.
 */
static void test_doubt(void **state)
{
	(void)state;
	use(&uncounted, 1, true);
	for (uint32_t n = 0; n < 4; n++) {
		for (uint32_t src = 0; src < 2; src++) {
			struct frame f = job_token(&uncounted, src, !src, 0, 0, n % 2);

			f.va = src == 0 ? f.va : job_token(&uncounted, 0, 0, 0, 0, n % 2).va;
			put(f, true);
			put(job_token(&uncounted, src, !src, 0, 1, n % 2), true);
		}
		for (uint32_t src = 0; src < 2; src++)
			put(job_combine(&uncounted, src, !src, 0, n % 2), true);
		path_pump(&path);
	}
	path_end(&path);
	assert_int_equal(path.published, 4);
	for (uint32_t n = 0; n < 4; n++) {
		assert_int_equal(round_at(n)->tokens, 3);
		assert_true(round_at(n)->quality & MT_Q_CONTRADICT);
	}
	path_drop(&path);
}

/** A packet of rank 0 that is seen later, on its PSN. */
static struct frame keep(struct frame f)
{
	f.psn = psn[f.src][f.dst];
	put(f, false);
	return f;
}

static void put_kept(struct frame f)
{
	f.ns = now += 1000;
	path_send(&path, &f);
}

/** Sent again, a token comes when its source is in the next round: it is not counted there. */
static void test_again_too_late(void **state)
{
	static const struct job jobs[] = {{.ranks = 2, .experts = 1, .layers = 2, .combine = true},
		{.ranks = 2, .experts = 1, .layers = 2, .combine = true, .parity = true}};

	(void)state;
	for (uint32_t i = 0; i < 2 * RTE_DIM(jobs); i++) {
		const struct job *j = &jobs[i / 2];
		bool late = i % 2;
		struct frame again = {0};

		use(j, 1, true);
		for (uint32_t n = 0; n < 6; n++) {
			put(job_token(j, 0, 1, 0, 0, n % 2), true);
			if (n == 2)
				again = keep(job_token(j, 0, 1, 0, 1, n % 2));
			else
				put(job_token(j, 0, 1, 0, 1, n % 2), true);
			if (n == 2 && !late)
				put_kept(again);
			put(job_token(j, 0, 1, 0, 2, n % 2), true);
			if (n == 3 && late)
				put_kept(again);
			put(job_combine(j, 0, 1, 0, n % 2), true);
			path_pump(&path);
		}
		path_end(&path);
		assert_int_equal(path.published, 6);
		for (uint32_t n = 0; n < 6; n++) {
			assert_int_equal(round_at(n)->tokens, 3 - (late && n == 2));
			/* where in the two rounds it belongs is not sure */
			assert_int_equal((round_at(n)->quality & MT_Q_STALE) != 0,
				late && (n == 2 || n == 3));
			assert_int_equal(round_at(n)->quality & MT_Q_ALIGN & -!late, 0);
		}
		path_drop(&path);
	}
}

/**
 * A combine is sent again when the next round has begun. Of a queue pair that is alone in it, the
 * tokens behind it were counted in the round before; if another one has told of the end of that
 * round, nothing is wrong.
 */
static void test_combine_again(void **state)
{
	static const struct job j = {.ranks = 3, .experts = 1, .layers = 2, .combine = true};

	(void)state;
	for (uint32_t alone = 0; alone <= 1; alone++) {
		struct frame again = {0};

		use(&j, 1, true);
		for (uint32_t n = 0; n < 6; n++) {
			put(job_token(&j, 0, 1, 0, 0, 0), true);
			if (n == 3)
				put_kept(again);
			put(job_token(&j, 0, 1, 0, 1, 0), true);
			put(job_token(&j, 0, 2, 0, 0, 0), !alone);
			if (n == 2)
				again = keep(job_combine(&j, 0, 1, 0, 0));
			else
				put(job_combine(&j, 0, 1, 0, 0), true);
			put(job_combine(&j, 0, 2, 0, 0), !alone);
			path_pump(&path);
		}
		path_end(&path);
		assert_int_equal(path.published, 6);
		for (uint32_t n = 0; n < 6; n++) {
			uint32_t whole = alone ? 2 : 3;
			bool wrong = alone && (n == 2 || n == 3);

			assert_int_equal(round_at(n)->tokens, whole + wrong * (n == 2 ? 1 : -1));
			assert_true(!wrong || (round_at(n)->quality & MT_Q_STALE) != 0);
			assert_int_equal(n < 2 ? round_at(n)->quality & MT_Q_INEXACT : 0, 0);
			assert_int_equal(round_at(n)->quality & MT_Q_ALIGN & -!alone, 0);
		}
		path_drop(&path);
	}
}

/**
 * The first token of a round comes when the next one has begun, so times do not part rounds. Of one
 * queue pair so many packets are lost that two rounds of it may be, which leave the parity as it
 * is: that it goes on with the next round is not sure, until the last one, which no other can
 * follow. Where fewer are lost it is sure, and what is behind the gap is exact.
 */
static void test_mixed_times(void **state)
{
	static const struct job j = {.ranks = 2,
		.experts = 1,
		.layers = 2,
		.parity = true,
		.counts = true,
		.combine = true};

	(void)state;
	for (uint32_t lost = 1; lost <= 2; lost++) {
		struct frame f[8][2][3];

		use(&j, 1, false);
		for (uint32_t n = 0; n < 8; n++)
			for (uint32_t src = 0; src < 2; src++) {
				f[n][src][0] = job_token(&j, src, !src, 0, 0, n % 2);
				f[n][src][1] = job_token(&j, src, !src, 0, 1, n % 2);
				f[n][src][2] = job_count(&j, src, !src, 0, 2, n % 2);
				for (uint32_t i = 0; i < 3; i++)
					f[n][src][i].psn = n * 3 + i;
			}
		for (uint32_t n = 0; n < 8;
			n++) /* a round's first token comes with the next round */
			for (uint32_t src = 0; src < 2; src++) {
				if (n != 0)
					put_kept(f[n - 1][src][0]);
				for (uint32_t i = 1; i < 3; i++)
					if (n != 3 || src != 1 || i > lost)
						put_kept(f[n][src][i]);
			}
		for (uint32_t src = 0; src < 2; src++)
			put_kept(f[7][src][0]);
		path_end(&path);
		assert_int_equal(path.published, 8);
		for (uint32_t n = 0; n < 8; n++) {
			bool sure = n < 3 || n == 7 || (lost == 1 && n != 3);

			assert_int_equal((round_at(n)->quality & MT_Q_INEXACT) != 0, !sure);
			assert_true(sure || round_at(n)->quality & MT_Q_GAP);
			/* of round 3, what was announced: by the other one of the two at least */
			assert_int_equal(round_at(n)->tokens, n == 3 && lost == 2 ? 3 : 4);
		}
		path_drop(&path);
	}
}

/** What the port drops before any round is known may have been whole rounds; later, PSNs tell. */
static void test_drops(void **state)
{
	(void)state;
	for (uint32_t late = 0; late <= 1; late++) {
		use(&counted, 1, true);
		for (uint32_t i = 0; i < 6; i++) {
			if (i == late * 4)
				fw_rounds_dropped(path.rounds, 7);
			round_of(&counted, 2, i % 2);
			fw_rounds_dropped(path.rounds, 0);
		}
		path_end(&path);
		assert_int_equal(path.published, 6);
		for (uint32_t i = 0; i < 6; i++)
			assert_int_equal((round_at(i)->quality & MT_Q_ALIGN) != 0, !late);
		assert_int_equal(round_at(0)->quality & MT_Q_NIC_DROP, late ? 0 : MT_Q_NIC_DROP);
		path_drop(&path);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parity),
		cmocka_unit_test(test_silent_source),
		cmocka_unit_test(test_late_source),
		cmocka_unit_test(test_slow_source),
		cmocka_unit_test(test_idle_source),
		cmocka_unit_test(test_late_beginning),
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_complete),
		cmocka_unit_test(test_gap),
		cmocka_unit_test(test_starting),
		cmocka_unit_test(test_lost_round),
		cmocka_unit_test(test_no_epoch),
		cmocka_unit_test(test_doubt),
		cmocka_unit_test(test_again_too_late),
		cmocka_unit_test(test_combine_again),
		cmocka_unit_test(test_mixed_times),
		cmocka_unit_test(test_drops),
		cmocka_unit_test(test_steps),
		cmocka_unit_test(test_two_cores),
	};

	path_start_dpdk();
	path_init(&path);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
