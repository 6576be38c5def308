/* SPDX-License-Identifier: BSD-3-Clause */
#include "common.h"

#include <pthread.h>
#include <sys/mman.h>

#define ROOM 65536u

static struct mt_bank *original;
/** Ends where memory ends: a read behind it is a crash. */
static char *guarded_end;

static int set_up(void **unused)
{
	char *p =
		mmap(NULL, ROOM + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)unused;
	assert_true(p != MAP_FAILED);
	assert_int_equal(mprotect(p + ROOM, 4096, PROT_NONE), 0);
	guarded_end = p + ROOM;
	original = good_bank();
	return 0;
}

static int tear_down(void **unused)
{
	(void)unused;
	free(original);
	return 0;
}

/** A copy of the good bank that ends where memory ends. */
static struct mt_bank *fresh(void)
{
	return memcpy(guarded_end - original->bytes, original, original->bytes);
}

static int check(struct mt_bank *b)
{
	if (b->bytes <= original->bytes)
		b->checksum = mt_bank_sum(b);
	return mt_bank_check(b, original->bytes, NULL);
}

#define REFUSED(change)                                                                            \
	do {                                                                                       \
		struct mt_bank *b = fresh();                                                       \
		change;                                                                            \
		if (check(b) != -EINVAL)                                                           \
			fail_msg("%s was not refused", #change);                                   \
	} while (0)
#define ACCEPTED(change)                                                                           \
	do {                                                                                       \
		struct mt_bank *b = fresh();                                                       \
		change;                                                                            \
		if (check(b) != 0)                                                                 \
			fail_msg("%s was refused", #change);                                       \
	} while (0)

static struct mt_rank *rank(struct mt_bank *b, uint32_t i)
{
	return (struct mt_rank *)((char *)b + original->rank_off) + i;
}

static struct mt_addr *addr(struct mt_bank *b, uint32_t i)
{
	return (struct mt_addr *)((char *)b + original->addr_off) + i;
}

static struct mt_rule *rule(struct mt_bank *b, uint32_t i)
{
	return (struct mt_rule *)((char *)b + original->rule_off) + i;
}

static struct mt_flow *flow(struct mt_bank *b, uint32_t i)
{
	return (struct mt_flow *)((char *)b + original->flow_off) + i;
}

static void test_room(void **unused)
{
	struct mt_bank *b = fresh();
	struct mt_error err;

	(void)unused;
	assert_int_equal(mt_bank_check(b, b->bytes, &err), 0);
	assert_int_equal(mt_bank_check(b, UINT64_MAX, NULL), 0);
	/* every beginning of it, where memory ends behind */
	for (uint32_t n = 0; n < original->bytes; n++) {
		char *at = guarded_end - (n + 7) / 8 * 8;

		memcpy(at, original, n);
		assert_int_equal(mt_bank_check((struct mt_bank *)at, n, &err), -EINVAL);
		assert_true(err.text[0] != '\0');
	}
}

static void test_header(void **unused)
{
	(void)unused;
	ACCEPTED((void)b);
	REFUSED(b->magic ^= 1);
	REFUSED(b->version++);
	REFUSED(b->bytes = 0);
	REFUSED(b->bytes = sizeof(*b) - 1);
	REFUSED(b->bytes -= 8);
	REFUSED(b->bytes++);
	REFUSED(b->bytes = UINT32_MAX);
	REFUSED(memset(b->job, 'a', sizeof(b->job)));
	REFUSED(b->pattern = MT_PATTERNS);
	REFUSED(b->layers = 0);
	REFUSED(b->layers = MT_MAX_LAYERS + 1);
	REFUSED(b->micro_batches = 0);
	REFUSED(b->micro_batches = MT_MAX_MICRO + 1);
	REFUSED(b->tap = MT_TAPS);
	ACCEPTED(b->within_node = MT_WITHIN_SEEN);
	REFUSED(b->within_node = MT_WITHINS);
	REFUSED(b->atomics = MT_ATOMICS);
	REFUSED(b->atomics = MT_ATOMICS_FORM); /* and no form */
	REFUSED(b->form.opcode = 0x15);	       /* and it is not said */
	REFUSED(b->idle_gap_ns = 0);
	REFUSED(b->datagrams = 2);
	REFUSED(b->path_mtu = 128);
	REFUSED(b->path_mtu = 1500);
	REFUSED(b->path_mtu = 8192);
	REFUSED(b->idle_gap_ns = MT_MAX_IDLE_GAP_NS + 1);
	REFUSED(b->ranks = 0);
	REFUSED(b->ranks = 1);
	REFUSED(b->ranks = MT_MAX_RANKS);
	REFUSED(b->ranks = UINT32_MAX);
	REFUSED(b->addrs = MT_MAX_ADDRS);
	REFUSED(b->addrs = UINT32_MAX);
	REFUSED(b->rules = 0);
	REFUSED(b->rules = MT_MAX_RULES);
	REFUSED(b->rules = UINT32_MAX);
	REFUSED(b->flows = MT_MAX_FLOWS);
	REFUSED(b->flows = UINT32_MAX);
	REFUSED(b->experts = 0);
	REFUSED(b->experts = 7); /* rank 1 holds expert 7 */
	REFUSED(b->experts = MT_MAX_EXPERTS + 1);
	REFUSED(b->experts = UINT32_MAX);
	REFUSED(b->snap--);
	REFUSED(b->rank_off = 0);
	REFUSED(b->rank_off += 4);
	REFUSED(b->rank_off = UINT32_MAX - 7);
	REFUSED(b->addr_off = b->bytes - 8);
	REFUSED(b->rule_off = b->bytes);
	REFUSED(b->rule_off += 16);
	REFUSED(b->flow_off += 8);
	REFUSED(b->flow_off = UINT32_MAX);
	ACCEPTED(b->addrs = 0);
	ACCEPTED(b->flows = 0; b->flow_off = b->bytes);
}

static void test_ranks(void **unused)
{
	(void)unused;
	ACCEPTED(rank(b, 0)->base = UINT64_MAX);
	REFUSED(rank(b, 0)->experts = 9);
	REFUSED(rank(b, 0)->experts = UINT32_MAX);
	REFUSED(rank(b, 1)->first_expert = 5);
	REFUSED(rank(b, 1)->first_expert = UINT32_MAX);
	REFUSED(rank(b, 1)->first_expert = UINT32_MAX - 3);
	REFUSED(rank(b, 0)->experts = 5);      /* one of them is rank 1's */
	REFUSED(rank(b, 0)->first_expert = 1); /* so is this */
	ACCEPTED(rank(b, 0)->node = MT_MAX_RANKS - 1);
	REFUSED(rank(b, 0)->node = MT_MAX_RANKS);
	REFUSED(rank(b, 0)->reserved = 1);
}

static void test_addresses(void **unused)
{
	(void)unused;
	REFUSED(addr(b, 0)->rank = 2);
	REFUSED(addr(b, 1)->rank = UINT32_MAX);
	REFUSED(addr(b, 0)->reserved = 1);
	ACCEPTED(addr(b, 0)->ip[15] = 2); /* of both ranks */
	REFUSED((addr(b, 0)->ip[15] = 2, addr(b, 1)->rank = 0)); /* twice */
	REFUSED((addr(b, 0)->ip[15] = 2, addr(b, 0)->rank = 1));
	REFUSED(addr(b, 0)->ip[15] = 3); /* not sorted */
}

static void test_flows(void **unused)
{
	(void)unused;
	REFUSED(flow(b, 0)->src = 2);
	REFUSED(flow(b, 0)->src = UINT32_MAX);
	REFUSED(flow(b, 0)->dst = 2);
	REFUSED(flow(b, 0)->dst = 0); /* to itself */
	REFUSED(flow(b, 0)->qpn = 0x1000000);
	REFUSED(flow(b, 0)->expert = 3);
	REFUSED(flow(b, 0)->expert = 8);
	REFUSED(flow(b, 0)->expert = MT_NO_EXPERT - 1);
	REFUSED(*flow(b, 1) = *flow(b, 0));				      /* twice */
	REFUSED(*flow(b, 0) = *flow(b, 1); *flow(b, 1) = *flow(original, 0)); /* not sorted */
	ACCEPTED(flow(b, 0)->expert = MT_NO_EXPERT);
}

static void test_rules(void **unused)
{
	(void)unused;
	REFUSED(memset(rule(b, 0)->name, 'n', sizeof(rule(b, 0)->name)));
	REFUSED(rule(b, 0)->type = MT_RULE_TYPES);
	REFUSED(rule(b, 0)->type = 255);
	REFUSED(rule(b, 0)->phase = MT_PHASES);
	REFUSED(rule(b, 0)->phase = 255);
	REFUSED(rule(b, 0)->value_width = 0);
	REFUSED(rule(b, 0)->value_width = 5);
	REFUSED(rule(b, 0)->base = 1); /* there are none */
	REFUSED(b->bases = 1);	       /* no room for it */
	REFUSED(b->bases = UINT32_MAX);
	REFUSED(rule(b, 0)->size = 0);
	REFUSED(rule(b, 0)->size = (1ULL << 47) + 1);
	REFUSED(rule(b, 0)->parity_stride = 0);
	REFUSED(rule(b, 0)->parity_stride = 69631);
	REFUSED(rule(b, 0)->parity_stride = (1ULL << 47) + 1);
	REFUSED(rule(b, 0)->parity_count = MT_MAX_PARITY + 1);
	REFUSED(rule(b, 0)->expert_stride = 0);
	REFUSED(rule(b, 0)->expert_stride = 1);
	REFUSED(rule(b, 0)->expert_stride = UINT64_MAX);
	REFUSED(rule(b, 0)->expert_count = 0);
	REFUSED(rule(b, 0)->expert_count = MT_MAX_EXPERTS + 1);
	REFUSED(rule(b, 0)->source_stride = 0);
	REFUSED(rule(b, 0)->source_count = 3);
	REFUSED(rule(b, 0)->source_count = UINT32_MAX);
	REFUSED(rule(b, 0)->expert_fixed = MT_MAX_EXPERTS);
	REFUSED(rule(b, 0)->length_min = 545);
	REFUSED(rule(b, 0)->length_max = 543);
	REFUSED(rule(b, 2)->value_scale = 0);
	REFUSED(rule(b, 2)->value_scale = MT_MAX_SCALE + 1);
	REFUSED(rule(b, 2)->value_scale = INT32_MIN);
	REFUSED(rule(b, 2)->value_add = INT64_MIN);
	REFUSED(rule(b, 2)->value_add = INT32_MAX + 1LL);
	/* kinds that do not go together */
	REFUSED(rule(b, 0)->type = MT_RULE_ATOMIC);
	REFUSED(rule(b, 0)->type = MT_RULE_QP);
	REFUSED(rule(b, 0)->phase = MT_PHASE_COUNT);
	REFUSED(rule(b, 0)->phase = MT_PHASE_COMBINE); /* nothing would be counted */
	REFUSED(rule(b, 1)->phase = MT_PHASE_DISPATCH);
	REFUSED(rule(b, 1)->type = MT_RULE_QP; rule(b, 1)->size = 0);
	REFUSED(rule(b, 1)->type = MT_RULE_QP; rule(b, 1)->size = 0;
		rule(b, 1)->phase = MT_PHASE_DISPATCH); /* beside a rule va */
	REFUSED(rule(b, 0)->type = MT_RULE_LENGTH; rule(b, 0)->size = 0;
		rule(b, 0)->token_bytes = 0);
	REFUSED(rule(b, 2)->phase = MT_PHASE_DISPATCH);
	ACCEPTED(rule(b, 1)->type = MT_RULE_LENGTH; rule(b, 1)->size = 0;
		 rule(b, 1)->parity_count = 0);
	ACCEPTED(rule(b, 0)->offset = UINT64_MAX);
	ACCEPTED(rule(b, 0)->token_bytes = 0);
}

/** The first rule reads integers behind a header that says what a message is. */
static struct mt_rule *matching(struct mt_bank *b)
{
	struct mt_rule *r = rule(b, 0);

	r->type = MT_RULE_COUNTS;
	r->payload_at = 9;
	r->matches = 1;
	r->match[0] = (struct mt_match){.mask = 0x1f, .value = 2, .width = 1};
	b->snap = mt_bank_snap(b);
	return r;
}

static void test_matches(void **unused)
{
	(void)unused;
	ACCEPTED(matching(b));
	ACCEPTED(matching(b)->match[0].at = 63; b->snap = mt_bank_snap(b));
	REFUSED(matching(b)->match[0].at = 64; b->snap = mt_bank_snap(b));
	REFUSED(matching(b)->match[0].width = 3; b->snap = mt_bank_snap(b));
	REFUSED(matching(b)->match[0].width = 0);
	REFUSED(matching(b)->match[0].order = MT_ORDERS);
	REFUSED(matching(b)->match[0].reserved = 1);
	REFUSED(matching(b)->matches = MT_MAX_MATCHES + 1);
	REFUSED(matching(b)->matches = 255);
	REFUSED(matching(b)->matches = 0; b->snap = mt_bank_snap(b)); /* 9 bytes, of 8 each */
}

/* With two named bases, of which a rule counts from the second. */
static void test_bases(void **unused)
{
	static const char text[] =
		"{moetap-map: 1, job: b, pattern: inference, layers: 1, experts-per-rank: 1, "
		"ranks: [{rank: 0, address: 1.1.1.1, bases: {x: 1, y: 0x1000}}, "
		"{rank: 1, address: 1.1.1.2, bases: {y: 0x2000}}], "
		"rules: [{name: v, rule: va, phase: dispatch, base: y, size: 8, "
		"expert: {stride: 8, count: 1}}]}";
	struct mt_bank *old = original;

	(void)unused;
	assert_int_equal(mt_map_parse(text, strlen(text), "bases", &original, NULL), 0);
	assert_int_equal(original->bases, 2);
	assert_string_equal(mt_bank_base(original, 0)->name, "x");
	assert_int_equal(mt_bank_base(original, 0)->at[0], 1);
	assert_int_equal(mt_bank_base(original, 0)->at[1], 0);
	assert_string_equal(mt_bank_base(original, 1)->name, "y");
	assert_int_equal(mt_bank_base(original, 1)->at[0], 0x1000);
	assert_int_equal(mt_bank_base(original, 1)->at[1], 0x2000);
	assert_int_equal(rule(original, 0)->base, 2);
	ACCEPTED((void)b);
	ACCEPTED(rule(b, 0)->base = 1);
	REFUSED(rule(b, 0)->base = 3);
	REFUSED(rule(b, 0)->base = 255);
	REFUSED(b->bases = 1); /* the rule counts from the second */
	REFUSED(b->bases = 3);
	REFUSED(b->bases = MT_MAX_BASES + 1);
	REFUSED(b->base_off = 0);
	REFUSED(b->base_off += 4);
	REFUSED(b->base_off += 8);
	REFUSED(b->base_off = UINT32_MAX - 7);
	REFUSED(memset((char *)b + b->base_off, 'n', 24));
	REFUSED(rule(b, 0)->type = MT_RULE_LENGTH; rule(b, 0)->size = 0;
		rule(b, 0)->token_bytes = 1); /* counts from nothing */
	free(original);
	original = old;
}

/** Goes where a user of the bank goes. */
static void use(const struct mt_bank *b)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < b->addrs; i++)
		sum += mt_bank_ranks(b)[mt_bank_addrs(b)[i].rank].base;
	for (uint32_t i = 0; i < b->flows; i++)
		sum += mt_bank_ranks(b)[mt_bank_flows(b)[i].src].experts +
		       mt_bank_ranks(b)[mt_bank_flows(b)[i].dst].experts;
	for (uint32_t i = 0; i < b->bases; i++)
		sum += strlen(mt_bank_base(b, i)->name) + mt_bank_base(b, i)->at[b->ranks - 1];
	for (uint32_t i = 0; i < b->rules; i++)
		sum += strlen(mt_bank_rules(b)[i].name) +
		       strlen(mt_rule_type_name(mt_bank_rules(b)[i].type));
	assert_true(sum + strlen(b->job) + mt_bank_snap(b) > 0);
}

/* A bit of any field flips: found by the checksum; and with a right checksum, no harm is done. */
static void test_every_bit(void **unused)
{
	unsigned int accepted = 0;

	(void)unused;
	for (uint32_t bit = 0; bit < original->bytes * 8; bit++) {
		struct mt_bank *b = fresh();

		((unsigned char *)b)[bit / 8] ^= (unsigned char)(1u << bit % 8);
		assert_int_equal(mt_bank_check(b, original->bytes, NULL), -EINVAL);
		if (check(b) == 0) {
			use(b);
			accepted++;
		}
	}
	print_message("%u of %u bits may be either\n", accepted, original->bytes * 8);
}

static void test_random_damage(void **unused)
{
	uint32_t seed = first_seed(), words = original->bytes / 4;

	(void)unused;
	for (int i = 0; i < 100000; i++) {
		struct mt_bank *b = fresh();

		for (uint32_t n = 1 + next_random(&seed) % 4; n > 0; n--) {
			uint32_t at = next_random(&seed) % words, value = next_random(&seed);

			((uint32_t *)b)[at] = value & 1 ? value : value >> (1 + value % 31);
		}
		if (check(b) == 0)
			use(b);
	}
}

/* ---- banks that others write ------------------------------------------------------------- */

struct scribbler {
	struct mt_bank *bank;
	struct mt_bank *other;
	uint32_t seed;
	bool stop;
};

/** Writes one bank, then another, then damages it, and so on, without end. */
static void *scribble(void *object)
{
	struct scribbler *s = object;

	while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED)) {
		uint32_t r = next_random(&s->seed);

		if (r % 4 == 0)
			memcpy(s->bank, original, original->bytes);
		else if (r % 4 == 1)
			memcpy(s->bank, s->other, s->other->bytes);
		else
			((uint32_t *)s->bank)[r / 4 % (original->bytes / 4)] =
				next_random(&s->seed);
	}
	return NULL;
}

static void test_take(void **unused)
{
	struct mt_bank *b = fresh(), *copy;
	struct mt_error err;

	(void)unused;
	assert_int_equal(mt_bank_take(b, original->bytes, &copy, &err), 0);
	assert_ptr_not_equal(copy, b);
	assert_memory_equal(copy, original, original->bytes);
	free(copy);
	assert_int_equal(mt_bank_take(b, original->bytes - 1, &copy, &err), -EINVAL);
	b->bytes = UINT32_MAX;
	assert_int_equal(mt_bank_take(b, original->bytes, &copy, &err), -EINVAL);
	b->bytes = 0;
	assert_int_equal(mt_bank_take(b, original->bytes, &copy, &err), -EINVAL);
	b = fresh();
	b->layers++;
	assert_int_equal(mt_bank_take(b, original->bytes, &copy, &err), -EINVAL);
}

static void test_take_while_written(void **unused)
{
	struct scribbler s = {.bank = fresh(), .other = good_bank(), .seed = first_seed()};
	unsigned int taken = 0, refused = 0;
	struct mt_bank *copy;
	pthread_t thread;

	(void)unused;
	s.other->layers = 77;
	s.other->checksum = mt_bank_sum(s.other);
	assert_int_equal(pthread_create(&thread, NULL, scribble, &s), 0);
	while (taken < 200 || refused < 20000) {
		if (mt_bank_take(s.bank, original->bytes, &copy, NULL) < 0) {
			refused++;
			continue;
		}
		taken++;
		/* whole: one of the two that were ever written whole */
		assert_true(memcmp(copy, original, original->bytes) == 0 ||
			    memcmp(copy, s.other, original->bytes) == 0);
		free(copy);
	}
	__atomic_store_n(&s.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	print_message("%u banks taken, %u refused\n", taken, refused);
	free(s.other);
}

static void test_sum(void **unused)
{
	struct mt_bank *b = fresh();
	uint64_t sum = mt_bank_sum(b), h = 0xcbf29ce484222325ULL;

	(void)unused;
	b->checksum = 0;
	assert_int_equal(mt_bank_sum(b), sum);
	for (uint32_t i = 0; i < b->bytes; i++)
		h = (h ^ ((unsigned char *)b)[i]) * 0x100000001b3ULL;
	assert_int_equal(h, sum);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_room),
		cmocka_unit_test(test_header),
		cmocka_unit_test(test_ranks),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_flows),
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_matches),
		cmocka_unit_test(test_bases),
		cmocka_unit_test(test_every_bit),
		cmocka_unit_test(test_random_damage),
		cmocka_unit_test(test_take),
		cmocka_unit_test(test_take_while_written),
		cmocka_unit_test(test_sum),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
