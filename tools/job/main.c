/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * moetap-job: an emulated job of mixture-of-experts layers that does what a framework does. Its
 * gate is skewed and drifts; its tokens go as RDMA WRITEs onto a DPDK port; between steps it reads
 * a hint page, moves experts and pays for it, and says on the page from which step on the placement
 * holds.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <rte_eal.h>

#include "gate.h"
#include "moetap_hint.h"
#include "report.h"
#include "wire.h"

#define LATE 40	      /* steps from a plan to its application, for a job that is late, */
#define LATE_ACK 30   /* and from there until it says so */
#define LAYER_EVERY 9 /* steps between layers, for a job that applies one after the other */
#define HINT_WAIT_S 20

/** When plans are applied and acknowledged. */
enum apply { APPLY_NOW, APPLY_LATE, APPLY_LAYERS, APPLY_SILENT, APPLY_NEVER };

static const char *const apply_names[] = {"now", "late", "layers", "silent", "never", NULL};

struct options {
	const char *hints;
	bool map;
	enum apply apply;
	uint32_t ranks, experts, slots, layers, tokens, top_k, token_ns, seed;
	uint32_t steps, shift, queue_pairs;
};

struct job {
	const struct options *o;
	uint32_t own; /**< slots of a rank */
	struct wire wire;
	struct gate gate;
	uint64_t round;
	uint32_t *placement;	/**< [layers][slots]: expert */
	uint32_t *copies;	/**< [layers][experts][ranks]: its slots, */
	uint32_t *copies_count; /**< [layers][experts] */
	uint32_t *turn;		/**< [ranks][experts]: which copy is next */
	uint32_t *sent;		/**< [ranks][slots], of this round */
	struct job_round *report;
	uint32_t *order; /**< [tokens * top_k][ranks]: slots, as they are sent; own ones too */
	struct moetap_hint_reader reader;
	struct moetap_hint *hint, *plan; /**< as read last; the one to be applied */
	bool pending;
	int64_t plan_step; /**< when it was read */
	uint32_t done;	   /**< layers of it applied */
	int64_t ack_step;  /**< when to say so, if late; -1: nothing to say */
	int64_t holds;	   /**< from which step on it holds */
};

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
	(void)number;
	stopped = 1;
}

static int fail(const char *text)
{
	fprintf(stderr, "moetap-job: %s\n", text);
	return -EINVAL;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- the placement --------------------------------------------------------------------------- */

static uint32_t *row(const struct job *j, uint32_t layer)
{
	return j->placement + (size_t)layer * j->o->slots;
}

/** Slots of an expert in a layer. */
static uint32_t *copies_of(const struct job *j, uint32_t layer, uint32_t expert)
{
	return j->copies + ((size_t)layer * j->o->experts + expert) * j->o->slots;
}

static uint32_t *count_of(const struct job *j, uint32_t layer, uint32_t expert)
{
	return &j->copies_count[(size_t)layer * j->o->experts + expert];
}

static void find_copies(struct job *j, uint32_t layer)
{
	memset(count_of(j, layer, 0), 0, j->o->experts * sizeof(uint32_t));
	for (uint32_t s = 0; s < j->o->slots; s++) {
		uint32_t e = row(j, layer)[s];

		copies_of(j, layer, e)[(*count_of(j, layer, e))++] = s;
	}
}

/** As frameworks start. */
static void place(struct job *j)
{
	for (uint32_t l = 0; l < j->o->layers; l++) {
		for (uint32_t s = 0; s < j->o->slots; s++)
			row(j, l)[s] = s % j->o->experts;
		find_copies(j, l);
	}
}

/** Makes hot what one rank alone holds, of the rank that holds most such experts: the worst that
 * can happen to a placement. */
static void heat(struct job *j, uint32_t layer)
{
	uint32_t best = 0, most = 0, n = 0, *hot = j->order; /* room that is free between rounds */

	for (uint32_t r = 0; r < j->o->ranks; r++) {
		uint32_t single = 0;

		for (uint32_t i = 0; i < j->own; i++)
			single += *count_of(j, layer, row(j, layer)[r * j->own + i]) == 1;
		if (single > most) {
			most = single;
			best = r;
		}
	}
	for (uint32_t i = 0; i < j->own; i++) {
		uint32_t e = row(j, layer)[best * j->own + i];

		if (*count_of(j, layer, e) == 1)
			hot[n++] = e;
	}
	gate_heat(&j->gate, layer, hot, n);
}

/** Whether a rank holds an expert, as placed. */
static bool holds(const struct job *j, uint32_t layer, uint32_t rank, uint32_t expert)
{
	for (uint32_t i = 0; i < j->own; i++)
		if (row(j, layer)[rank * j->own + i] == expert)
			return true;
	return false;
}

/** Brings the weights of a layer where `then` wants them: the job stands still meanwhile. */
static void move(struct job *j, uint32_t layer, const uint32_t *then)
{
	uint64_t begin = now_ns();
	struct job_round *told = j->report;

	for (uint32_t s = 0; s < j->o->slots; s++) {
		uint32_t e = then[s], n = *count_of(j, layer, e);

		if (holds(j, layer, s / j->own, e))
			continue;
		wire_weights(&j->wire, copies_of(j, layer, e)[s % n] / j->own, layer, s);
		told[layer].moved++;
		told[layer].moved_bytes += WIRE_EXPERT;
	}
	wire_flush(&j->wire);
	memcpy(row(j, layer), then, j->o->slots * sizeof(*then));
	find_copies(j, layer);
	told[layer].applied = 1;
	told[layer].moved_ns += now_ns() - begin;
}

/* ---- hints ----------------------------------------------------------------------------------- */

static void acknowledge(struct job *j, uint32_t layer, int64_t step)
{
	if (moetap_hint_ack(&j->reader, j->plan, layer, step) < 0)
		return;
	for (uint32_t l = 0; l < j->o->layers; l++)
		j->report[l].acked += layer == MOETAP_HINT_ALL_LAYERS || layer == l;
}

static void apply_all(struct job *j, int64_t step)
{
	for (uint32_t l = 0; l < j->o->layers; l++)
		move(j, l, moetap_hint_placement(j->plan, l));
	j->pending = false;
	j->holds = step;
	if (j->o->apply == APPLY_LATE)
		j->ack_step = step + LATE_ACK;
	else if (j->o->apply == APPLY_NOW)
		acknowledge(j, MOETAP_HINT_ALL_LAYERS, step);
}

static void apply_layer(struct job *j, int64_t step)
{
	if ((step - j->plan_step) % LAYER_EVERY != 0)
		return;
	move(j, j->done, moetap_hint_placement(j->plan, j->done));
	acknowledge(j, j->done, step);
	j->pending = ++j->done < j->o->layers;
}

/** A plan that is new, and of which something differs from what is in force. */
static void read_hint(struct job *j, int64_t step)
{
	if (!moetap_hint_changed(&j->reader) || moetap_hint_read(&j->reader, j->hint) < 0)
		return;
	if (j->o->apply == APPLY_NEVER || j->pending || j->ack_step >= 0 ||
		j->hint->verdict != MOETAP_HINT_PLAN ||
		moetap_hint_stale(&j->reader, j->hint, step, 0) != 0 ||
		memcmp(j->placement, moetap_hint_placement(j->hint, 0),
			(size_t)j->o->layers * j->o->slots * sizeof(uint32_t)) == 0)
		return;
	memcpy(j->plan, j->hint, moetap_hint_bytes(&j->reader));
	j->pending = true;
	j->plan_step = step;
	j->done = 0;
}

/** Between two steps. */
static void follow_hints(struct job *j, int64_t step)
{
	if (j->o->hints == NULL)
		return;
	read_hint(j, step);
	if (j->ack_step == step) {
		acknowledge(j, MOETAP_HINT_ALL_LAYERS, j->holds);
		j->ack_step = -1;
	}
	if (!j->pending)
		return;
	if (j->o->apply == APPLY_LAYERS)
		apply_layer(j, step);
	else if (j->o->apply != APPLY_LATE || step == j->plan_step + LATE)
		apply_all(j, step);
}

/** The publisher makes the page; the job may be there before. */
static int open_hints(struct job *j)
{
	const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
	const struct moetap_hint_page *page;
	int ret = -ENOENT;

	for (int i = 0; i < HINT_WAIT_S * 100 && ret == -ENOENT && !stopped; i++) {
		ret = moetap_hint_open_ack(&j->reader, j->o->hints);
		if (ret == -ENOENT)
			nanosleep(&pause, NULL);
	}
	if (ret < 0) {
		fprintf(stderr, "moetap-job: hint page '%s': %s\n", j->o->hints, strerror(-ret));
		return ret;
	}
	page = moetap_hint_head(&j->reader);
	if (page->layers != j->o->layers || page->slots != j->o->slots ||
		page->experts != j->o->experts)
		return fail("the hint page is of another job");
	j->hint = malloc(moetap_hint_bytes(&j->reader));
	j->plan = malloc(moetap_hint_bytes(&j->reader));
	return j->hint != NULL && j->plan != NULL ? 0 : -ENOMEM;
}

/* ---- rounds ---------------------------------------------------------------------------------- */

/** Routes the tokens of a layer: `order` gets the slot of each. Copies of an expert take turns. */
static void route(struct job *j, uint32_t layer, int64_t step)
{
	const struct options *o = j->o;
	uint32_t expert[GATE_TOP_MAX], *to = j->order;

	gate_layer(&j->gate, layer, step);
	for (uint32_t t = 0; t < o->tokens; t++)
		for (uint32_t src = 0; src < o->ranks; src++) {
			gate_token(&j->gate, o->top_k, expert);
			for (uint32_t k = 0; k < o->top_k; k++) {
				uint32_t *turn = &j->turn[(size_t)src * o->experts + expert[k]];
				uint32_t n = *count_of(j, layer, expert[k]);

				*to++ = copies_of(j, layer, expert[k])[(*turn)++ % n];
			}
		}
}

/** Sends what was routed, ranks in turns; with `back`, the results. A rank's own tokens stay. */
static void send_tokens(struct job *j, bool back)
{
	const struct options *o = j->o;
	const uint32_t *slot = j->order;

	memset(j->sent, 0, (size_t)o->ranks * o->slots * sizeof(*j->sent));
	for (uint32_t t = 0; t < o->tokens && j->wire.error == 0; t++)
		for (uint32_t src = 0; src < o->ranks; src++)
			for (uint32_t k = 0; k < o->top_k; k++, slot++) {
				uint32_t *sent = &j->sent[(size_t)src * o->slots + *slot];

				if (*slot / j->own == src)
					continue;
				if (back)
					wire_result(&j->wire, j->round, src, *slot, (*sent)++);
				else
					wire_token(&j->wire, j->round, src, *slot, (*sent)++);
			}
}

static void send_counts(struct job *j)
{
	const struct options *o = j->o;

	for (uint32_t s = 0; s < o->slots; s++)
		for (uint32_t src = 0; src < o->ranks; src++)
			if (s / j->own != src)
				wire_count(&j->wire, j->round, src, s,
					j->sent[(size_t)src * o->slots + s]);
	wire_flush(&j->wire);
}

/** The busiest rank is waited for. */
static void compute(const struct job *j)
{
	struct timespec ts = {0};
	uint64_t most = 0;

	for (uint32_t r = 0; r < j->o->ranks; r++) {
		uint64_t load = 0;

		for (uint32_t i = 0; i < j->o->tokens * j->o->top_k * j->o->ranks; i++)
			load += j->order[i] / j->own == r;
		most = load > most ? load : most;
	}
	most *= j->o->token_ns;
	ts.tv_sec = (time_t)(most / 1000000000u);
	ts.tv_nsec = (long)(most % 1000000000u);
	if (most > 0)
		nanosleep(&ts, NULL);
}

static bool write_all(const void *data, size_t bytes)
{
	const char *at = data;

	while (bytes > 0) {
		ssize_t n = write(STDOUT_FILENO, at, bytes);

		if (n < 0 && errno == EINTR && !stopped)
			continue;
		if (n <= 0)
			return false;
		at += n;
		bytes -= (size_t)n;
	}
	return true;
}

/** Tells what was sent in a round. */
static bool tell(struct job *j, uint32_t layer, int64_t step, uint64_t begin)
{
	const struct options *o = j->o;
	struct job_round *told = &j->report[layer];
	uint32_t *expert = j->sent + (size_t)o->ranks * o->slots;

	memset(expert, 0, o->experts * sizeof(*expert));
	for (uint32_t i = 0; i < o->ranks * o->slots; i++)
		expert[row(j, layer)[i % o->slots]] += j->sent[i];
	told->step = step;
	told->layer = layer;
	told->round_ns = now_ns() - begin;
	if (!write_all(told, sizeof(*told)) ||
		!write_all(j->sent, ((size_t)o->ranks * o->slots + o->experts) * sizeof(*j->sent)))
		return false;
	*told = (struct job_round){0};
	return true;
}

static bool run_round(struct job *j, uint32_t layer, int64_t step)
{
	uint64_t begin = now_ns();

	route(j, layer, step);
	send_tokens(j, false);
	send_counts(j);
	compute(j);
	send_tokens(j, true);
	wire_flush(&j->wire);
	j->round++;
	return j->wire.error == 0 && tell(j, layer, step, begin);
}

static int run(struct job *j)
{
	const struct options *o = j->o;
	const struct job_hello hello = {JOB_MAGIC, o->ranks, o->experts, o->slots, o->layers,
		o->tokens, o->top_k, o->steps, o->shift};
	bool good = write_all(&hello, sizeof(hello));

	for (uint32_t l = 0; l < o->layers; l++)
		heat(j, l);
	for (int64_t step = 0; step < o->steps && good && !stopped; step++) {
		follow_hints(j, step);
		for (uint32_t l = 0; l < o->layers && step > 0 && step == o->shift; l++)
			heat(j, l);
		for (uint32_t l = 0; l < o->layers && good; l++)
			good = run_round(j, l, step);
	}
	return stopped || good ? 0 : -EIO;
}

/* ---- life ------------------------------------------------------------------------------------ */

/** What is on its way would be lost with the port, and nothing tells when it has arrived: so until
 * standard input ends. */
static void linger(void)
{
	char c;

	close(STDOUT_FILENO);
	while (!stopped && read(STDIN_FILENO, &c, 1) > 0)
		;
}

static bool reserve(struct job *j)
{
	const struct options *o = j->o;
	size_t placed = (size_t)o->layers * o->experts;

	j->placement = calloc((size_t)o->layers * o->slots, sizeof(uint32_t));
	j->copies = calloc(placed * o->slots, sizeof(uint32_t));
	j->copies_count = calloc(placed, sizeof(uint32_t));
	j->turn = calloc((size_t)o->ranks * o->experts, sizeof(uint32_t));
	j->sent = calloc((size_t)o->ranks * o->slots + o->experts, sizeof(uint32_t));
	j->order = calloc((size_t)o->tokens * o->top_k * o->ranks + o->slots, sizeof(uint32_t));
	j->report = calloc(o->layers, sizeof(*j->report));
	return j->placement != NULL && j->copies != NULL && j->copies_count != NULL &&
	       j->turn != NULL && j->sent != NULL && j->order != NULL && j->report != NULL &&
	       gate_new(&j->gate, o->layers, o->experts, o->seed) == 0;
}

static void release(struct job *j)
{
	gate_free(&j->gate);
	free(j->placement);
	free(j->copies);
	free(j->copies_count);
	free(j->turn);
	free(j->sent);
	free(j->order);
	free(j->report);
	free(j->hint);
	free(j->plan);
}

static int emulate(const struct options *o)
{
	const struct wire_shape shape = {o->ranks, o->slots, o->layers, o->tokens, o->queue_pairs};
	struct job j = {.o = o, .own = o->slots / o->ranks, .ack_step = -1};
	int ret = reserve(&j) ? 0 : fail("out of memory");

	if (ret == 0)
		ret = wire_open(&j.wire, &shape, &stopped);
	if (ret == 0 && o->hints != NULL)
		ret = open_hints(&j);
	if (ret == 0) {
		place(&j);
		ret = run(&j);
		linger();
	}
	if (j.reader.page != NULL)
		moetap_hint_close(&j.reader);
	wire_close(&j.wire);
	release(&j);
	return ret;
}

/* ---- the command line ------------------------------------------------------------------------ */

static const char usage_text[] =
	"Usage: moetap-job [EAL OPTIONS] -- [OPTIONS]    moetap-job --map [OPTIONS]\n\n"
	"Emulates a job of mixture-of-experts layers: sends its tokens as RoCEv2 WRITEs onto the\n"
	"DPDK port that it is given, follows the hint page NAME, and writes what it sent on "
	"standard\n"
	"output, as tools/job/report.h says. Then it stays until its standard input ends, so that "
	"what\n"
	"it sent is received. `moetap demo` runs it.\n\n"
	"  --map          print the map for moetap-fw, send nothing\n"
	"  --hints NAME   the hint page that it reads and answers on (none)\n"
	"  --apply HOW    plans: now (default), late, layers (one after the other), silent (no\n"
	"                 answer), never\n"
	"  --ranks N      (4)       --experts N  of a layer (16)\n"
	"  --slots N      (20)      --layers N   (2)\n"
	"  --tokens N     of a rank in a round (128)\n"
	"  --top-k N      experts of a token (2)\n"
	"  --steps N      (750)     --shift N    the step at which the gate shifts (never)\n"
	"  --queue-pairs N of a (source, destination) (one a local slot)\n"
	"  --token-ns N   that a rank computes for a token (0)\n"
	"  --seed N       (1)\n"
	"  --help         this text\n";

static const struct option table[] = {{"map", no_argument, NULL, 'm'},
	{"hints", required_argument, NULL, 'h'}, {"apply", required_argument, NULL, 'a'},
	{"ranks", required_argument, NULL, 'r'}, {"experts", required_argument, NULL, 'e'},
	{"slots", required_argument, NULL, 's'}, {"layers", required_argument, NULL, 'l'},
	{"tokens", required_argument, NULL, 't'}, {"top-k", required_argument, NULL, 'k'},
	{"steps", required_argument, NULL, 'n'}, {"shift", required_argument, NULL, 'f'},
	{"queue-pairs", required_argument, NULL, 'q'}, {"token-ns", required_argument, NULL, 'c'},
	{"seed", required_argument, NULL, 'd'}, {"help", no_argument, NULL, '?'},
	{NULL, 0, NULL, 0}};

/** The number that an option sets; NULL: it sets none. */
static uint32_t *number_of(struct options *o, int which)
{
	switch (which) {
	case 'r':
		return &o->ranks;
	case 'e':
		return &o->experts;
	case 's':
		return &o->slots;
	case 'l':
		return &o->layers;
	case 't':
		return &o->tokens;
	case 'k':
		return &o->top_k;
	case 'n':
		return &o->steps;
	case 'f':
		return &o->shift;
	case 'q':
		return &o->queue_pairs;
	case 'c':
		return &o->token_ns;
	case 'd':
		return &o->seed;
	default:
		return NULL;
	}
}

static int take(struct options *o, int which)
{
	uint32_t *number = number_of(o, which);
	char *end;
	unsigned long value;

	if (which == 'm' || which == 'h') {
		o->map |= which == 'm';
		o->hints = which == 'h' ? optarg : o->hints;
		return 0;
	}
	if (which == 'a') {
		for (int i = 0; apply_names[i] != NULL; i++)
			if (strcmp(optarg, apply_names[i]) == 0) {
				o->apply = (enum apply)i;
				return 0;
			}
		return fail("--apply is now, late, layers, silent or never");
	}
	if (number == NULL)
		return fail("no such option; see moetap-job --help");
	value = strtoul(optarg, &end, 10);
	if (*optarg < '0' || *optarg > '9' || *end != '\0' || value > 1000000000)
		return fail("an option's number is none, or too large");
	*number = (uint32_t)value;
	return 0;
}

static int check(struct options *o)
{
	if (o->ranks < 2 || o->ranks > 1024 || o->layers < 1 || o->layers > 1024 || o->tokens < 1 ||
		o->tokens > 65536)
		return fail("2 to 1024 ranks, 1 to 1024 layers, 1 to 65536 tokens");
	if (o->slots % o->ranks != 0 || o->slots < o->experts || o->slots > 16384)
		return fail("ranks must divide the slots, which are as many as experts or more");
	if (o->queue_pairs == 0)
		o->queue_pairs = o->slots / o->ranks;
	if (o->queue_pairs > o->slots / o->ranks)
		return fail("--queue-pairs is no more than a rank has slots");
	if (o->top_k < 1 || o->top_k > GATE_TOP_MAX || o->top_k > o->experts)
		return fail("--top-k is 1 to 16, and no more than there are experts");
	return 0;
}

/** @return 0, 1: help was asked for, or a negative errno */
static int read_options(int argc, char **argv, struct options *o)
{
	int which, ret = 0;

	optind = 0;
	opterr = 0;
	while (ret == 0 && (which = getopt_long(argc, argv, "", table, NULL)) != -1) {
		if (which == '?' && optopt == 0 && strcmp(argv[optind - 1], "--help") == 0)
			return 1;
		ret = take(o, which);
	}
	if (ret == 0 && optind < argc)
		ret = fail("it takes options only; see moetap-job --help");
	return ret == 0 ? check(o) : ret;
}

int main(int argc, char **argv)
{
	struct options o = {.ranks = 4,
		.experts = 16,
		.slots = 20,
		.layers = 2,
		.tokens = 128,
		.top_k = 2,
		.steps = 750,
		.seed = 1};
	const struct sigaction action = {.sa_handler = on_signal};
	bool bare = argc > 1 && (strcmp(argv[1], "--map") == 0 || strcmp(argv[1], "--help") == 0);
	int used = bare ? 0 : rte_eal_init(argc, argv), ret;

	if (used < 0)
		return fail("DPDK cannot start: its own words are above"), EXIT_FAILURE;
	/* a read that waits ends too */
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	ret = read_options(argc - used, argv + used, &o);
	if (ret == 1)
		fputs(usage_text, stdout);
	else if (ret == 0 && o.map)
		wire_map(stdout, &(struct wire_shape){o.ranks, o.slots, o.layers, o.tokens, 1});
	else if (ret == 0)
		ret = emulate(&o);
	if (!bare)
		rte_eal_cleanup();
	return ret < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
