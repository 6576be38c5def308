/* SPDX-License-Identifier: BSD-3-Clause */
/* Atomics whose form no standard tells: learnt from made-up jobs, or stated by the map. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>

#include "sim.h"

#define ROUNDS 24u

static struct path path;

static uint32_t draw(void *arg)
{
	uint64_t *state = arg;

	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*state >> 32);
}

/** A job with counts in atomics of that form. Its buffers take turns, or not. */
static struct job job_of(const struct form *form, const char *atomic_form, bool parity)
{
	return (struct job){.ranks = 3,
		.experts = 2,
		.layers = 4,
		.parity = parity,
		.counts = true,
		.combine = true,
		.form = form,
		.atomic_form = atomic_form};
}

static void run(struct sim *s, const struct job *j, uint64_t *seed, uint32_t rounds)
{
	sim_begin(s, j, draw, seed);
	s->tokens = 9;
	for (uint32_t i = 0; i < rounds; i++)
		sim_round(s);
	sim_sort(s);
}

static bool learnt(const struct form *f)
{
	struct mt_form form = fw_learn_form(path.config->learn);

	return form.learnt && form.opcode == f->opcode && form.length == f->length &&
	       form.address == f->address && form.operand == f->operand && form.width == f->width &&
	       form.order == (f->little ? MT_ORDER_LITTLE : MT_ORDER_BIG);
}

/** Rounds whose counts were not to be read. */
static uint32_t unwitnessed(void)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < path.published; i++)
		n += (path.round[i]->quality & MT_Q_UNWITNESSED) != 0;
	return n;
}

static const struct form forms[] = {
	/* as an AtomicETH, but longer: masks behind the operands */
	{0x15, 44, 0, 12, 8, false, 0},
	{0x14, 44, 0, 12, 8, false, 0},
	/* masks before the operand; half an operand of 8 bytes; a vendor's opcode */
	{0x1e, 44, 0, 28, 8, false, 0},
	{0x18, 28, 0, 16, 4, false, 0},
	{0xe5, 36, 12, 28, 4, false, 0},
	/* little-endian, and the operand before the address */
	{0xff, 32, 0, 20, 4, true, 0},
	{0x15, 28, 20, 8, 8, true, 0},
	{0x13, 64, 56, 0, 4, true, 0},
};

/** Each of them becomes the witness, after some rounds without; none is counted wrong. */
static void test_learn(void **state)
{
	uint64_t seed = 1;

	(void)state;
	for (uint32_t i = 0; i < RTE_DIM(forms) * 4; i++) {
		const struct form *form = &forms[i / 4];
		struct job j = job_of(form, "learn", i & 1);
		struct sim s;

		path_what = i & 1 ? "a form, with parity" : "a form, without";
		run(&s, &j, &seed, ROUNDS);
		path_use(&path, job_bank(&j), 1 + (i >> 1 & 1), 64);
		sim_play(&s, &path, 16);
		sim_check(&s, &path, true);
		MUST_SAY(learnt(form), "form %u", i / 4);
		MUST_SAY(unwitnessed() >= FW_LEARN_ROUNDS && unwitnessed() <= 6, "%u",
			unwitnessed());
		assert_int_equal(path.published, ROUNDS);
		for (uint32_t r = 0; r < ROUNDS; r++)
			MUST(!(path.round[r]->quality & MT_Q_UNWITNESSED) == (r >= unwitnessed()));
		path_drop(&path);
		sim_free(&s);
	}
}

/** Once it is known, an announced count that is not true is noticed. */
static void test_witness(void **state)
{
	struct job j = job_of(&forms[0], "learn", false);
	uint64_t seed = 2;
	struct sim s;
	bool changed = false;

	(void)state;
	path_what = "a count that is not true";
	run(&s, &j, &seed, ROUNDS);
	for (size_t i = 0; i < s.n && !changed; i++) {
		struct sim_packet *p = &s.out[i];

		changed = p->round == 20 && p->f.form != NULL && p->f.operand != 1;
		if (changed)
			p->f.operand--;
	}
	assert_true(changed);
	path_use(&path, job_bank(&j), 1, 64);
	sim_play(&s, &path, 16);
	for (uint32_t r = 0; r < ROUNDS; r++) {
		assert_int_equal(
			path.round[r]->quality & MT_Q_DISAGREE, r == 20 ? MT_Q_DISAGREE : 0);
		assert_int_equal(path.round[r]->disagreements, r == 20);
	}
	path_drop(&path);
	sim_free(&s);
}

/** What two places explain is not believed; the rounds are as exact as those without counts. */
static void test_ambiguous(void **state)
{
	static const struct form twice = {0x15, 44, 0, 12, 8, false, 28};
	struct job j = job_of(&twice, "learn", false);
	uint64_t seed = 3;
	struct sim s;

	(void)state;
	path_what = "an operand that stands there twice";
	run(&s, &j, &seed, ROUNDS);
	path_use(&path, job_bank(&j), 1, 64);
	sim_play(&s, &path, 16);
	sim_check(&s, &path, true);
	assert_int_equal(fw_learn_form(path.config->learn).opcode, 0);
	assert_int_equal(unwitnessed(), ROUNDS);
	assert_int_equal(path_outcome(&path, MT_OUT_COUNT), 0);
	assert_int_equal(
		path_outcome(&path, MT_OUT_DUPLICATE) + path_outcome(&path, MT_OUT_STALE), 0);
	path_drop(&path);
	sim_free(&s);
}

/** Counts that never differ prove nothing. */
static void test_constant(void **state)
{
	struct job j = job_of(&forms[0], "learn", true);
	uint64_t seed = 9;
	struct sim s;

	(void)state;
	path_what = "one token each";
	j.experts = 1;
	sim_begin(&s, &j, draw, &seed);
	s.tokens = 0;
	for (uint32_t i = 0; i < ROUNDS; i++)
		sim_round(&s);
	sim_sort(&s);
	path_use(&path, job_bank(&j), 1, 64);
	sim_play(&s, &path, 16);
	sim_check(&s, &path, true);
	assert_int_equal(fw_learn_form(path.config->learn).opcode, 0);
	assert_int_equal(path.round[5]->tokens, 6);
	path_drop(&path);
	sim_free(&s);
}

/** Nor do others than were sent, cells of nobody, or any bytes. */
static void test_junk(void **state)
{
	static const char *const what[] = {"always three", "not true", "anywhere", "any bytes"};
	uint64_t seed = 4;

	(void)state;
	for (uint32_t way = 0; way < RTE_DIM(what); way++) {
		struct job j = job_of(&forms[0], "learn", way & 1);
		struct sim s;

		path_what = what[way];
		run(&s, &j, &seed, ROUNDS);
		for (size_t i = 0; i < s.n; i++) {
			struct frame *f = &s.out[i].f;

			if (f->form == NULL)
				continue;
			f->operand = way == 0	? (uint64_t)-4
				     : way == 2 ? f->operand
						: -draw(&seed) % 9;
			f->va = way < 2 ? f->va : draw(&seed) | (uint64_t)draw(&seed) << 32;
		}
		path_use(&path, job_bank(&j), 1, 64);
		sim_play(&s, &path, 16);
		sim_check(&s, &path, true);
		assert_int_equal(fw_learn_form(path.config->learn).opcode, 0);
		assert_int_equal(unwitnessed(), ROUNDS);
		path_drop(&path);
		sim_free(&s);
	}
}

/** Lost, repeated and late packets are no evidence, for or against. */
static void test_loss(void **state)
{
	uint64_t seed = 5;

	(void)state;
	path_what = "loss";
	for (uint32_t i = 0; i < RTE_DIM(forms); i++) {
		struct job j = job_of(&forms[i], "learn", true);
		struct sim s;

		sim_begin(&s, &j, draw, &seed);
		s.tokens = 9;
		s.retransmit = 300;
		for (uint32_t r = 0; r < 80; r++)
			sim_round(&s);
		sim_sort(&s);
		sim_lose(&s, 200, 2, 77);
		path_use(&path, job_bank(&j), 1 + i % 2, 64);
		sim_play(&s, &path, 16);
		sim_check(&s, &path, false);
		MUST_SAY(learnt(&forms[i]), "form %u", i);
		path_drop(&path);
		sim_free(&s);
	}
}

/** A tap that begins inside of a round learns from the next one on. */
static void test_late_start(void **state)
{
	struct job j = job_of(&forms[2], "learn", true);
	uint64_t seed = 6;
	struct sim s;

	(void)state;
	path_what = "a tap that begins late";
	run(&s, &j, &seed, ROUNDS);
	for (size_t i = 0; i < 40; i++)
		s.out[i].gone = true;
	path_use(&path, job_bank(&j), 1, 64);
	sim_play(&s, &path, 16);
	assert_true(learnt(&forms[2]));
	path_drop(&path);
	sim_free(&s);
}

/** A form that the map states is the witness at once; one that is not right is told. */
static void test_stated(void **state)
{
	static const struct {
		const char *form;
		uint32_t quality;
	} cases[] = {
		{"{opcode: 0x15, length: 44, address: 0, operand: 12, width: 8}", 0},
		{"{opcode: 0x15, length: 44, address: 0, operand: 12, width: 8, order: little}",
			MT_Q_GAP},
		{"{opcode: 0x15, length: 44, address: 0, operand: 28, width: 8}", MT_Q_GAP},
		{"{opcode: 0x15, length: 40, address: 0, operand: 12, width: 8}", MT_Q_GAP},
		{"{opcode: 0x18, length: 44, address: 0, operand: 12, width: 8}", MT_Q_GAP},
	};
	uint64_t seed = 7;

	(void)state;
	for (uint32_t i = 0; i < RTE_DIM(cases); i++) {
		struct job j = job_of(&forms[0], cases[i].form, true);
		struct sim s;

		path_what = cases[i].form;
		run(&s, &j, &seed, ROUNDS);
		path_use(&path, job_bank(&j), 1 + i % 2, 64);
		sim_play(&s, &path, 16);
		sim_check(&s, &path, i == 0);
		assert_int_equal(unwitnessed(), 0);
		for (uint32_t r = 0; r < path.published; r++)
			MUST_SAY((path.round[r]->quality & cases[i].quality) == cases[i].quality,
				"round %u: 0x%x", r, path.round[r]->quality);
		path_drop(&path);
		sim_free(&s);
	}
}

/**
 * What nobody knows may be an answer, with the PSNs of another flow: a token that comes with the
 * same PSN counts.
 */
static void test_no_request(void **state)
{
	struct job j = job_of(&forms[4], "learn", true);
	uint64_t seed = 8;
	struct sim s;

	(void)state;
	path_what = "answers of unknown form";
	run(&s, &j, &seed, ROUNDS);
	path_use(&path, job_bank(&j), 1, 64);
	for (size_t i = 0; i < s.n; i++) {
		struct frame answer = s.out[i].f;

		answer.form = &forms[5];
		answer.opcode = forms[5].opcode;
		if (s.out[i].f.form == NULL && answer.payload != 0 && draw(&seed) % 2)
			path_send(&path, &answer);
		path_send(&path, &s.out[i].f);
		if (i % 16 == 0)
			path_pump(&path);
	}
	path_end(&path);
	sim_check(&s, &path, true);
	assert_int_equal(
		path_outcome(&path, MT_OUT_DUPLICATE) + path_outcome(&path, MT_OUT_STALE), 0);
	path_drop(&path);
	sim_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_learn),
		cmocka_unit_test(test_witness),
		cmocka_unit_test(test_ambiguous),
		cmocka_unit_test(test_constant),
		cmocka_unit_test(test_junk),
		cmocka_unit_test(test_loss),
		cmocka_unit_test(test_late_start),
		cmocka_unit_test(test_stated),
		cmocka_unit_test(test_no_request),
	};

	path_start_dpdk();
	path_init(&path);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
