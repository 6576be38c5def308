/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Frames of TCP streams: made-up protocols and jobs, cut into segments anywhere, sent again, out of
 * order, overlapping, lost, cut by the tap.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>

#include "path.h"
#include "tcp.h"

#define RANKS 3u
#define MOST 65536u /* segments of a job */
#define ROUNDS 12u
#define STREAM 65536u /* bytes of a stream */
#define EXPERTS 4u    /* of a rank, where integers tell */
#define TOKEN 16u
#define HEADS (14 + 20 + 20)

enum kind { CONTROL = 1, DISPATCH = 2, COMBINE = 3 };

/** A made-up protocol. */
struct protocol {
	uint32_t header;
	uint32_t length_at, length_width, kind_at, bytes_at, round_at;
	int32_t add; /* what the length field leaves out */
	bool big, combine, rounds, integers, idle;
	uint32_t connect, accept, width;
};

struct stream {
	uint8_t data[STREAM];
	uint32_t bytes, sent; /* made; of them, put into segments */
	uint32_t isn;
};

struct segment {
	uint32_t src, dst, at, bytes;
	uint64_t ns;
	uint32_t phase; /* of the job, counted on */
	bool syn;
	uint32_t cut; /* bytes that the tap leaves off */
};

static struct path path;
static struct stream streams[RANKS][RANKS];
static struct segment segments[MOST];
static uint32_t segment_count, truth[ROUNDS][RANKS][RANKS * EXPERTS];
static uint64_t seed = 1, clock_ns;
static uint32_t phases;

static uint32_t draw(uint32_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % below;
}

/* ---- the protocol and its map ---------------------------------------------------------------- */

static const struct protocol gloo = {.header = 48,
	.length_width = 8,
	.kind_at = 8,
	.bytes_at = 32,
	.round_at = 19,
	.rounds = true,
	.combine = true,
	.connect = 8};

static struct protocol random_protocol(void)
{
	struct protocol p = {.header = 16 + draw(49), .big = draw(2)};

	p.length_width = 4u << draw(2);
	p.length_at = draw(2);
	p.bytes_at = p.length_at + p.length_width;
	p.kind_at = p.header - 1;
	p.round_at = p.header - 3;
	p.add = (int32_t)draw(3) * (int32_t)p.header / 2;
	p.combine = true;
	p.connect = draw(40);
	p.accept = draw(40);
	if (p.bytes_at + 4 > p.round_at)
		p.bytes_at = p.length_at;
	return p;
}

static struct mt_bank *bank_of(const struct protocol *p)
{
	char text[4096], round[64] = "", head[512];
	const char *order = p->big ? "big" : "little";
	struct mt_error err = {""};
	struct mt_bank *bank;
	size_t n = (size_t)snprintf(text, sizeof(text),
		"moetap-map: 1\njob: streams\npattern: inference\nlayers: 2\nexperts-per-rank: %u\n"
		"tcp: {connect: %u, accept: %u}\n%sranks:\n",
		p->integers ? EXPERTS : 1, p->connect, p->accept,
		p->idle ? "idle-gap-us: 1000\n" : "");

	for (uint32_t r = 0; r < RANKS; r++)
		n += (size_t)snprintf(
			text + n, sizeof(text) - n, "- {rank: %u, address: 10.0.0.%u}\n", r, r + 1);
	snprintf(head, sizeof(head), "header: %u, length: {at: %u, width: %u, order: %s, add: %d}",
		p->header, p->length_at, p->length_width, order, p->add);
	if (p->rounds)
		snprintf(round, sizeof(round), ", round: {at: %u, width: 2, order: %s}",
			p->round_at, order);
	n += (size_t)snprintf(text + n, sizeof(text) - n,
		"rules:\n- {name: dispatch, rule: flow, phase: dispatch, frame: {%s, match: [{at: "
		"%u, width: 1, value: 2}]%s",
		head, p->kind_at, round);
	if (p->integers)
		n += (size_t)snprintf(
			text + n, sizeof(text) - n, "}, payload: {at: 8, width: %u}}\n", p->width);
	else if (p->bytes_at == p->length_at)
		n += (size_t)snprintf(text + n, sizeof(text) - n,
			", bytes: {at: %u, width: %u, order: %s, add: %d}}, expert: {fixed: 0}, "
			"token-bytes: %u}\n",
			p->bytes_at, p->length_width, order, p->add - (int32_t)p->header, TOKEN);
	else
		n += (size_t)snprintf(text + n, sizeof(text) - n,
			", bytes: {at: %u, width: 4, order: %s}}, expert: {fixed: 0}, token-bytes: "
			"%u}\n",
			p->bytes_at, order, TOKEN);
	n += (size_t)snprintf(text + n, sizeof(text) - n,
		"- {name: combine, rule: flow, phase: %s, frame: {%s, match: [{at: %u, width: 1, "
		"value: 3}]}}\n"
		"- {name: other, rule: flow, phase: control, frame: {%s, match: [{at: %u, width: "
		"1, value: 1}]}}\n",
		p->combine ? "combine" : "control", head, p->kind_at, head, p->kind_at);
	MUST(n < sizeof(text));
	MUST_SAY(mt_map_parse(text, n, "map", &bank, &err) == 0, "%s\n%s", err.text, text);
	return bank;
}

static void put(const struct protocol *p, uint8_t *at, uint64_t v, uint32_t width)
{
	for (uint32_t i = 0; i < width; i++)
		at[p->big ? width - 1 - i : i] = (uint8_t)(v >> 8 * i);
}

/** A frame with @p bytes of data, 0xee where @p data is NULL. */
static void add_frame(const struct protocol *p, uint32_t src, uint32_t dst, enum kind kind,
	uint32_t round, const uint8_t *data, uint32_t bytes)
{
	struct stream *s = &streams[src][dst];
	uint8_t *at = s->data + s->bytes;

	MUST(s->bytes + p->header + bytes <= STREAM);
	memset(at, 0, p->header);
	if (p->bytes_at != p->length_at)
		put(p, at + p->bytes_at, bytes, 4);
	put(p, at + p->length_at, (uint64_t)((int64_t)(p->header + bytes) - p->add),
		p->length_width);
	if (p->rounds)
		put(p, at + p->round_at, round * 3 + 1, 2);
	at[p->kind_at] = (uint8_t)kind;
	memset(at + p->header, 0xee, bytes);
	if (data != NULL)
		memcpy(at + p->header, data, bytes);
	s->bytes += p->header + bytes;
}

/* ---- the job --------------------------------------------------------------------------------- */

static void use(const struct protocol *p, uint32_t cores)
{
	path_use(&path, bank_of(p), cores, 64);
	memset(streams, 0, sizeof(streams));
	memset(truth, 0, sizeof(truth));
	segment_count = 0;
	clock_ns = 1000000;
	for (uint32_t a = 0; a < RANKS; a++)
		for (uint32_t b = 0; b < RANKS; b++) {
			struct stream *s = &streams[a][b];

			if (a == b)
				continue;
			s->isn = draw(4) == 0 ? draw(1u << 31) : 0xffffffffu - draw(3000);
			s->bytes = a < b ? p->connect : p->accept;
			memset(s->data, 0x77, s->bytes);
		}
}

/** What is in a stream and not sent yet, in segments of up to @p most bytes. */
static void send_some(uint32_t src, uint32_t dst, uint32_t most)
{
	struct stream *s = &streams[src][dst];
	uint32_t n = RTE_MIN(1 + draw(most), s->bytes - s->sent);

	MUST(segment_count < MOST);
	segments[segment_count++] = (struct segment){.src = src,
		.dst = dst,
		.at = s->sent,
		.bytes = n,
		.phase = phases,
		.ns = clock_ns += 1000};
	s->sent += n;
}

/** All streams, each in its order, taking turns at random. */
static void send_all(uint32_t most)
{
	bool more = true;

	while (more) {
		more = false;
		for (uint32_t a = 0; a < RANKS; a++)
			for (uint32_t b = 0; b < RANKS; b++) {
				if (streams[a][b].sent < streams[a][b].bytes && draw(2))
					send_some(a, b, most);
				more |= streams[a][b].sent < streams[a][b].bytes;
			}
	}
}

static void add_dispatch(const struct protocol *p, uint32_t n, uint32_t src, uint32_t dst)
{
	uint8_t data[8 + EXPERTS * 8 + 40] = {0};
	uint32_t tokens;

	for (uint32_t e = 0; p->integers && e < EXPERTS; e++) {
		uint64_t v = draw(1000);

		truth[n][src][dst * EXPERTS + e] = (uint32_t)v;
		memcpy(data + 8 + e * p->width, &v, p->width);
	}
	if (p->integers) {
		add_frame(p, src, dst, DISPATCH, n, data, 8 + EXPERTS * p->width + draw(40));
		return;
	}
	for (uint32_t i = 0; i < 1 + draw(2); i++) {
		tokens = draw(20);
		truth[n][src][dst] += tokens;
		add_frame(p, src, dst, DISPATCH, n, NULL, tokens * TOKEN);
	}
}

static void add_syns(void)
{
	for (uint32_t a = 0; a < RANKS; a++)
		for (uint32_t b = 0; b < RANKS; b++)
			if (a != b)
				segments[segment_count++] =
					(struct segment){.src = a, .dst = b, .syn = true};
}

static void add_rounds(const struct protocol *p, uint32_t most)
{
	add_syns();
	for (uint32_t n = 0; n < ROUNDS; n++) {
		for (int phase = DISPATCH; phase <= COMBINE; phase++) {
			for (uint32_t a = 0; a < RANKS; a++)
				for (uint32_t b = 0; b < RANKS; b++) {
					if (a == b)
						continue;
					if (draw(2))
						add_frame(p, a, b, CONTROL, n, NULL, draw(100));
					if (phase == DISPATCH)
						add_dispatch(p, n, a, b);
					else
						add_frame(p, a, b, COMBINE, n, NULL, draw(600));
				}
			send_all(most);
			phases++;
		}
		clock_ns += p->idle ? 10000000 : 0;
	}
}

static void play_segment(const struct segment *x)
{
	static uint8_t data[HEADS + 40 + STREAM];
	struct stream *s = &streams[x->src][x->dst];
	bool connects = x->src < x->dst;
	uint32_t options = x->at % 3 * 4, low = RTE_MIN(x->src, x->dst);
	uint32_t port = 40000 + low * 16 + RTE_MAX(x->src, x->dst);
	uint8_t *p = data;

	memset(data, 0, HEADS + 40);
	p += 12;
	frame_put(&p, 0x0800, 2);
	frame_put(&p, 0x4500, 2);
	frame_put(&p, 40 + options + x->bytes, 2);
	frame_put(&p, 0x4000, 4);
	frame_put(&p, 0x4006, 2);
	p += 2;
	frame_put(&p, 0x0a000001 + x->src, 4);
	frame_put(&p, 0x0a000001 + x->dst, 4);
	frame_put(&p, connects ? port : 5000, 2);
	frame_put(&p, connects ? 5000 : port, 2);
	frame_put(&p, (uint32_t)(s->isn + (x->syn ? 0 : 1 + x->at)), 4);
	frame_put(&p, 0, 4);
	frame_put(&p, (5 + options / 4) << 4, 1);
	frame_put(&p, x->syn ? (connects ? 0x02 : 0x12) : 0x10, 1);
	p += 6 + options;
	memcpy(p, s->data + x->at, x->bytes);
	path_receive(&path, data, (uint32_t)(p - data) + x->bytes - x->cut, x->ns);
}

static void play(void)
{
	for (uint32_t i = 0; i < segment_count; i++) {
		play_segment(&segments[i]);
		if (i % 16 == 0)
			path_pump(&path);
	}
	path_end(&path);
}

static uint32_t wrong_cells(const struct protocol *p, struct mt_round *r)
{
	uint32_t experts = p->integers ? EXPERTS : 1, wrong = 0;

	for (uint32_t src = 0; src < RANKS; src++)
		for (uint32_t x = 0; x < RANKS * experts; x++)
			wrong += x / experts != src &&
				 mt_round_tokens(r)[src * RANKS * experts + x] !=
					 (r->round < ROUNDS ? truth[r->round][src][x] : 0);
	return wrong;
}

static void must_be_exact(const struct protocol *p)
{
	assert_int_equal(path.published, ROUNDS);
	for (uint32_t n = 0; n < ROUNDS; n++) {
		assert_int_equal(path.round[n]->quality & MT_Q_INEXACT, 0);
		assert_int_equal(wrong_cells(p, path.round[n]), 0);
	}
}

/** @return rounds that say that they are not exact */
static uint32_t must_not_be_silent(const struct protocol *p)
{
	uint32_t flagged = 0;

	for (uint32_t n = 0; n < path.published; n++) {
		struct mt_round *r = path.round[n];

		flagged += (r->quality & MT_Q_INEXACT) != 0;
		if (r->quality & MT_Q_INEXACT)
			continue;
		MUST_SAY(wrong_cells(p, r) == 0, "round %lu, quality 0x%x", r->round, r->quality);
	}
	return flagged;
}

/* ---- what a tap does ------------------------------------------------------------------------- */

static void insert(uint32_t at, struct segment x)
{
	MUST(segment_count < MOST);
	memmove(&segments[at + 1], &segments[at], (segment_count - at) * sizeof(x));
	segments[at] = x;
	segment_count++;
}

/** Some are sent again, also together with parts of those before and behind them. */
static void send_again(uint32_t one_in)
{
	for (uint32_t i = 0; i < segment_count; i++) {
		struct segment x = segments[i];
		uint32_t before = RTE_MIN(x.at, draw(50)), at;

		if (draw(one_in) != 0 || x.syn)
			continue;
		x.at -= before;
		x.bytes += before;
		x.bytes -= draw(x.bytes);
		at = RTE_MIN(i + 1 + draw(10), segment_count);
		x.ns = segments[at - 1].ns;
		insert(at, x);
	}
}

/** Some come later than others of the same connection and phase. */
static void reorder(uint32_t window)
{
	for (uint32_t i = 6; i + 1 < segment_count; i++)
		for (uint32_t j = i + 1; j < RTE_MIN(i + window, segment_count); j++) {
			struct segment x = segments[i];

			if (segments[j].src != x.src || segments[j].dst != x.dst)
				continue;
			if (draw(3) == 0 && segments[j].phase == x.phase) {
				segments[i] = segments[j];
				segments[j] = x;
				segments[j].ns = segments[i].ns;
				segments[i].ns = x.ns;
			}
			break;
		}
}

/* ---- tests ----------------------------------------------------------------------------------- */

static struct protocol variant(uint32_t i)
{
	struct protocol p = i == 0 ? gloo : random_protocol();

	p.rounds = i % 4 == 0;
	p.combine = i % 4 != 2 && i % 8 != 3;
	p.idle = i % 4 == 2;
	p.integers = i % 4 == 3;
	p.width = 4u << draw(2);
	return p;
}

static void test_protocols(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 200; i++) {
		struct protocol p = variant(i);

		use(&p, 1 + i % 2);
		add_rounds(&p, 10 + draw(1400));
		play();
		must_be_exact(&p);
		path_drop(&path);
	}
}

/** Every place where two segments meet. */
static void test_boundaries(void **state)
{
	(void)state;
	for (uint32_t kind = 0; kind < 4; kind++) {
		struct protocol p = variant(kind);

		for (uint32_t at = 1; at < 400; at++) {
			use(&p, 1);
			add_syns();
			add_frame(&p, 0, 1, CONTROL, 0, NULL, 5);
			add_dispatch(&p, 0, 0, 1);
			add_frame(&p, 0, 1, COMBINE, 0, NULL, 9);
			add_dispatch(&p, 1, 0, 1);
			while (streams[0][1].sent < streams[0][1].bytes) {
				uint32_t n = RTE_MIN(at, streams[0][1].bytes - streams[0][1].sent);

				segments[segment_count++] = (struct segment){.dst = 1,
					.at = streams[0][1].sent,
					.bytes = n,
					.ns = clock_ns += p.idle ? 1000000000 : 1000};
				streams[0][1].sent += at;
			}
			play();
			for (uint32_t n = 0; !p.idle && n < path.published; n++)
				assert_int_equal(wrong_cells(&p, path.round[n]), 0);
			if (!p.idle)
				assert_int_equal(path.published, 2);
			path_drop(&path);
		}
	}
}

static void test_damage_without_loss(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 200; i++) {
		struct protocol p = variant(i);

		use(&p, 1 + i % 2);
		add_rounds(&p, 20 + draw(1400));
		if (i & 8)
			reorder(2 + draw(20));
		if (i & 4)
			send_again(4);
		play();
		must_be_exact(&p);
		path_drop(&path);
	}
}

/** Segments with nothing but data are not needed. */
static void test_bodies(void **state)
{
	const struct protocol p = gloo;

	(void)state;
	use(&p, 1);
	add_syns();
	for (uint32_t n = 0; n < ROUNDS; n++)
		for (int phase = DISPATCH; phase <= COMBINE; phase++)
			for (uint32_t a = 0; a < RANKS; a++)
				for (uint32_t b = 0; b < RANKS; b++) {
					struct stream *s = &streams[a][b];

					if (a == b)
						continue;
					add_frame(&p, a, b, (enum kind)phase, n, NULL, 1600);
					truth[n][a][b] += phase == DISPATCH ? 100 : 0;
					segments[segment_count++] = (struct segment){.src = a,
						.dst = b,
						.at = s->sent,
						.bytes = s->bytes - s->sent - 700,
						.cut = n % 2 * 800,
						.ns = clock_ns += 1000};
					s->sent = s->bytes;
				}
	play();
	assert_int_equal(path_outcome(&path, MT_OUT_TRUNCATED), 0);
	must_be_exact(&p);
	path_drop(&path);
}

/** Some segments are not seen, or are cut: rounds are right, or say that they are not. */
static void test_lost(void **state)
{
	uint32_t flagged = 0, exact = 0;

	(void)state;
	for (uint32_t i = 0; i < 800; i++) {
		struct protocol p = variant(i);
		uint32_t lose = 1 + draw(3);

		use(&p, 1 + i % 2);
		add_rounds(&p, 20 + draw(1400));
		for (uint32_t n = 0; n < lose; n++) {
			/* neither the last of a connection, nor the first: nothing would tell */
			uint32_t at = segment_count / 8 + draw(segment_count / 2);

			if (i & 8)
				segments[at].cut = segments[at].bytes - segments[at].bytes / 4;
			else
				segments[at].bytes = 0;
		}
		if (i & 16)
			reorder(4);
		path_what = "lost";
		play();
		flagged += must_not_be_silent(&p);
		exact += path.published;
		path_drop(&path);
	}
	print_message("%u rounds, %u flagged\n", exact, flagged);
	assert_true(flagged > 0);
}

static void test_strangers(void **state)
{
	const struct protocol p = gloo;

	(void)state;
	use(&p, 1);
	add_rounds(&p, 500);
	/* a connection that speaks something else: the one between ranks 1 and 2 */
	for (uint32_t i = 0; i < streams[1][2].bytes; i++)
		streams[1][2].data[i] = streams[2][1].data[i] = 0xa5;
	for (uint32_t n = 0; n < ROUNDS; n++)
		truth[n][1][2] = truth[n][2][1] = 0;
	play();
	assert_true(path_outcome(&path, MT_OUT_UNMATCHED) > 0);
	must_be_exact(&p);
	path_drop(&path);
}

/** The tap starts in the middle: nothing is told for sure until frames follow each other. */
static void test_late_start(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 40; i++) {
		struct protocol p = gloo;

		use(&p, 1);
		add_rounds(&p, 200 + draw(1000));
		memmove(&segments[0], &segments[segment_count / 4],
			(segment_count - segment_count / 4) * sizeof(*segments));
		segment_count -= segment_count / 4;
		play();
		assert_true(path.published > 0);
		assert_true(path.round[0]->quality & MT_Q_INEXACT);
		path_drop(&path);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_protocols),
		cmocka_unit_test(test_boundaries),
		cmocka_unit_test(test_damage_without_loss),
		cmocka_unit_test(test_bodies),
		cmocka_unit_test(test_lost),
		cmocka_unit_test(test_strangers),
		cmocka_unit_test(test_late_start),
	};

	path_start_dpdk();
	path_init(&path);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
