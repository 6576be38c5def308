/* SPDX-License-Identifier: BSD-3-Clause */
#include "loop.h"

#include "cli.h"
#include "loop_parts.h"
#include "publication.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define EXPERTS 16u
#define LAYERS 2u
#define TOKENS 128u /* of a rank in a round */
#define WINDOW 25   /* steps of a line; then a hint is published */
#define STEPS "750"
#define SHIFT "400"
#define TOKEN_NS "3000" /* that a rank computes for a token */
#define HORIZON 200u	/* steps that a hint looks ahead */
#define WAIT_MS 20
#define START_S 30 /* for the firmware and the job; */
#define END_S 10   /* and for the last rounds */

static const char verb[] = "demo";
static const struct moetap_shape shape = {.ranks = 4, .nodes = 1, .slots = 20, .groups = 1};

/** A round as the job says it was; one as it was counted. */
struct told {
	struct job_round head;
	uint32_t *sent; /**< job_sent() of them */
};

struct counted {
	int64_t step;
	uint32_t layer;
	uint32_t *cells; /**< [ranks][slots] */
};

struct run {
	struct loop *loop;
	struct loop_parts parts;
	struct moetap_source *source;
	struct moetap_series *slots;
	struct publication publication;
	struct told *told;
	struct counted *counted;
	uint64_t told_count, counted_count, compared;
	char *pending; /**< of the report: a part of a record */
	size_t have;
	bool greeted, ended; /**< the report began; it ended */
	uint64_t first_ns, last_ns;
	double *rank_load; /**< [layers][ranks], of the window under way */
	uint64_t step_ns;
	struct loop_window window;
	void (*each)(void *arg, const struct loop_window *window);
	void *arg;
};

/** What ends a loop in order: the terminal, its end, and that of who reads what we print. */
static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};

#define ENDS (sizeof(ends) / sizeof(ends[0]))

static volatile sig_atomic_t stopped;

static void stop(int number)
{
	stopped = number;
}

/** Catches what ends us, but for what is ignored, as by nohup. */
static void catch_ends(struct sigaction before[ENDS])
{
	const struct sigaction action = {.sa_handler = stop};

	for (size_t i = 0; i < ENDS; i++) {
		sigaction(ends[i], NULL, &before[i]);
		if (before[i].sa_handler != SIG_IGN)
			sigaction(ends[i], &action, NULL);
	}
}

static int out_of_memory(void)
{
	return cli_fail(verb, "out of memory");
}

/* ---- what the job says ----------------------------------------------------------------------- */

static size_t record_bytes(const struct run *r)
{
	return r->greeted ? sizeof(struct job_round) + job_sent(&r->loop->job) * sizeof(uint32_t)
			  : sizeof(struct job_hello);
}

static int greet(struct run *r)
{
	struct job_hello *hello = &r->loop->job;
	uint64_t rounds;

	memcpy(hello, r->pending, sizeof(*hello));
	if (hello->magic != JOB_MAGIC || hello->ranks != shape.ranks ||
		hello->slots != shape.slots || hello->layers != LAYERS ||
		hello->experts != EXPERTS || hello->steps <= 0 || hello->steps > 1000000)
		return cli_fail(verb, "%s is of another version", r->parts.job.program);
	r->greeted = true;
	rounds = (uint64_t)hello->steps * LAYERS;
	r->told = calloc(rounds, sizeof(*r->told));
	r->counted = calloc(rounds, sizeof(*r->counted));
	r->loop->windows = calloc((size_t)hello->steps / WINDOW + 1, sizeof(struct loop_window));
	free(r->pending);
	r->pending = malloc(record_bytes(r));
	return r->told != NULL && r->counted != NULL && r->loop->windows != NULL &&
			       r->pending != NULL
		       ? CLI_DONE
		       : out_of_memory();
}

static int take_told(struct run *r)
{
	struct told *t;
	size_t bytes = job_sent(&r->loop->job) * sizeof(uint32_t);

	if (!r->greeted)
		return greet(r);
	if (r->told_count == (uint64_t)r->loop->job.steps * LAYERS)
		return cli_fail(verb, "the job says more rounds than it has");
	t = &r->told[r->told_count];
	t->sent = malloc(bytes);
	if (t->sent == NULL)
		return out_of_memory();
	memcpy(&t->head, r->pending, sizeof(t->head));
	memcpy(t->sent, r->pending + sizeof(t->head), bytes);
	r->told_count++;
	return CLI_DONE;
}

/** Reads what is there of the report; waits a little if nothing is. */
static int read_report(struct run *r)
{
	struct pollfd fd = {.fd = r->parts.report, .events = POLLIN};
	const struct timespec pause = {.tv_nsec = WAIT_MS * 1000 * 1000};
	ssize_t n = 1;
	int status = CLI_DONE;

	if (r->ended) {
		nanosleep(&pause, NULL);
		return CLI_DONE;
	}
	while (status == CLI_DONE && n > 0 && poll(&fd, 1, WAIT_MS) > 0) {
		n = read(fd.fd, r->pending + r->have, record_bytes(r) - r->have);
		r->have += n > 0 ? (size_t)n : 0;
		r->ended = n == 0;
		if (r->have < record_bytes(r))
			continue;
		r->have = 0;
		status = take_told(r);
		if (r->told_count % LAYERS == 0)
			break; /* rounds are looked at in between */
	}
	return status;
}

/* ---- what the NIC says ----------------------------------------------------------------------- */

static int take_counted(struct run *r, const struct moetap_round *round)
{
	struct counted *c = &r->counted[r->counted_count];
	size_t cells = (size_t)shape.ranks * shape.slots;
	struct moetap_error error;

	if (!r->greeted || r->counted_count == (uint64_t)r->loop->job.steps * LAYERS ||
		round->ranks != shape.ranks || round->experts != shape.slots)
		return cli_fail(verb, "moetap-fw counted a round that the job does not have");
	if (moetap_series_add_counts(r->slots, round, &error) < 0)
		return cli_fail(verb, "%s", error.text);
	c->step = (int64_t)round->step;
	c->layer = round->layer;
	c->cells = malloc(cells * sizeof(*c->cells));
	if (c->cells == NULL)
		return out_of_memory();
	memcpy(c->cells, round->cell_tokens, cells * sizeof(*c->cells));
	r->counted_count++;
	r->loop->rounds++;
	r->loop->exact += !(round->quality & MOETAP_QUALITY_INEXACT) && round->lost == 0;
	if (r->first_ns == 0)
		r->first_ns = round->first_ns;
	r->last_ns = round->last_ns;
	return CLI_DONE;
}

/** Rounds up to the end of the window under way. */
static uint64_t window_end(const struct run *r)
{
	uint64_t a_window = WINDOW * LAYERS;

	return (r->compared / a_window + 1) * a_window;
}

static int read_rounds(struct run *r)
{
	const struct moetap_round *round;
	struct moetap_error error;
	int ret = 0, status = CLI_DONE;

	/* the job tells itself first; and no hint comes of rounds that its window does not have */
	while (status == CLI_DONE && r->greeted && r->counted_count < window_end(r) &&
		(ret = moetap_source_next(r->source, &round, &error)) > 0)
		status = take_counted(r, round);
	if (status == CLI_DONE && ret < 0)
		return cli_fail(verb, "%s", ret == -EPIPE ? "moetap-fw ended early" : error.text);
	return status;
}

/* ---- windows --------------------------------------------------------------------------------- */

/** Publishes a hint from all that was counted so far. */
static int publish(struct run *r)
{
	struct loop_window *w = &r->window;
	struct publication *p = &r->publication;
	int status = publication_look(p, r->slots);

	if (status == CLI_DONE)
		status = publication_decide(p);
	if (status == CLI_DONE)
		status = publication_send(p);
	if (status == CLI_DONE) {
		w->stable = moetap_state_stable(p->outlook.state, NULL);
		w->verdict = p->decision.verdict;
		w->known = p->decision.known;
		w->moves = p->decision.moves;
		memcpy(w->reason, p->decision.reason, sizeof(w->reason));
	}
	publication_forget(p);
	return status;
}

static double balancedness(const struct run *r)
{
	double sum = 0;

	for (uint32_t l = 0; l < LAYERS; l++) {
		const double *load = r->rank_load + (size_t)l * shape.ranks;
		double all = 0, most = 0;

		for (uint32_t rank = 0; rank < shape.ranks; rank++) {
			all += load[rank];
			most = load[rank] > most ? load[rank] : most;
		}
		sum += most > 0 ? all / shape.ranks / most : 1;
	}
	return sum / LAYERS;
}

static int end_window(struct run *r, int64_t step)
{
	struct loop_window *w = &r->window;
	int status;

	w->last = step;
	w->balancedness = balancedness(r);
	w->step_ms = (double)r->step_ns / (double)(step - w->first + 1) * 1e-6;
	w->shifted = r->loop->job.shift >= w->first && r->loop->job.shift <= step;
	status = publish(r);
	if (status != CLI_DONE)
		return status;
	r->loop->windows[r->loop->count++] = *w;
	r->each(r->arg, w);
	*w = (struct loop_window){.first = step + 1, .applied = -1};
	r->step_ns = 0;
	memset(r->rank_load, 0, (size_t)LAYERS * shape.ranks * sizeof(double));
	return CLI_DONE;
}

/** A round that both sides told of: are they the same? Then it is one more of the window. */
static int compare(struct run *r)
{
	const struct told *t = &r->told[r->compared];
	const struct counted *c = &r->counted[r->compared];
	uint32_t own = shape.slots / shape.ranks, cells = shape.ranks * shape.slots;
	struct loop_window *w = &r->window;

	r->loop->equal += c->step == t->head.step && c->layer == t->head.layer &&
			  memcmp(c->cells, t->sent, cells * sizeof(*c->cells)) == 0;
	for (uint32_t i = 0; i < cells; i++)
		r->rank_load[(size_t)c->layer * shape.ranks + i % shape.slots / own] += c->cells[i];
	r->step_ns += t->head.round_ns + t->head.moved_ns;
	w->moved += t->head.moved;
	w->moved_mb += (double)t->head.moved_bytes * 1e-6;
	w->moved_ms += (double)t->head.moved_ns * 1e-6;
	w->acked += t->head.acked;
	if (t->head.applied)
		w->applied = t->head.step;
	r->compared++;
	if (r->compared % (WINDOW * LAYERS) != 0)
		return CLI_DONE;
	return end_window(r, t->head.step);
}

/** Loads of experts, as the placements in force make them of what was counted: those of the job? */
static int compare_experts(struct run *r)
{
	struct publication *p = &r->publication;
	uint32_t load[EXPERTS];
	int status = publication_look(p, r->slots);

	for (uint64_t i = 0; i < r->compared && status == CLI_DONE; i++) {
		const struct counted *c = &r->counted[i];
		const uint32_t *held = moetap_placements_at(p->placements, c->layer, c->step);

		if (held == NULL) {
			r->loop->unknown++;
			continue;
		}
		memset(load, 0, sizeof(load));
		for (uint32_t n = 0; n < shape.ranks * shape.slots; n++)
			load[held[n % shape.slots]] += c->cells[n];
		r->loop->right += memcmp(load, r->told[i].sent + shape.ranks * shape.slots,
					  sizeof(load)) == 0;
	}
	publication_forget(p);
	return status;
}

/* ---- the loop -------------------------------------------------------------------------------- */

static bool all_there(const struct run *r)
{
	return r->ended && r->compared == (uint64_t)r->loop->job.steps * LAYERS;
}

static time_t seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

static int follow(struct run *r)
{
	time_t end = 0;
	int status = CLI_DONE;

	while (status == CLI_DONE && !stopped && !all_there(r)) {
		bool whole = r->told_count == (uint64_t)r->loop->job.steps * LAYERS && r->greeted;

		status = read_report(r);
		if (status == CLI_DONE)
			status = read_rounds(r);
		while (status == CLI_DONE && r->compared < r->told_count &&
			r->compared < r->counted_count)
			status = compare(r);
		if (status == CLI_DONE &&
			(!loop_runs(&r->parts.firmware) || (!whole && !loop_runs(&r->parts.job))))
			status = CLI_FAILED;
		if (!whole || status != CLI_DONE)
			continue;
		end = end == 0 ? seconds() + END_S : end;
		if (seconds() > end)
			status = cli_fail(verb, "of %llu rounds of the job, moetap-fw closed %llu",
				(unsigned long long)r->told_count,
				(unsigned long long)r->counted_count);
	}
	return status;
}

/** Waits until the firmware's page is there. */
static int open_source(struct run *r)
{
	const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
	time_t end = seconds() + START_S;
	struct moetap_error error;
	struct moetap_job job;
	int ret;

	do {
		ret = moetap_source_open_page(
			r->parts.page, MOETAP_FROM_OLDEST, &r->source, &error);
		if (ret == 0 && moetap_source_job(r->source, &job) == 0)
			return CLI_DONE;
		moetap_source_close(r->source);
		r->source = NULL;
		if (!loop_runs(&r->parts.firmware))
			return CLI_FAILED;
		nanosleep(&pause, NULL);
	} while (!stopped && seconds() < end);
	return stopped ? CLI_FAILED : cli_fail(verb, "moetap-fw does not start");
}

/** The page that the job reads, with nothing on it yet. */
static int make_hint_page(const struct run *r)
{
	struct moetap_publisher *publisher;
	struct moetap_error error;

	if (moetap_publisher_open(r->parts.page, LAYERS, EXPERTS, &shape, &publisher, &error) < 0)
		return cli_fail(verb, "%s", error.text);
	moetap_publisher_close(publisher);
	return CLI_DONE;
}

static int begin(struct run *r, const char *apply)
{
	const char *const options[] = {"--apply", apply, "--ranks", "4", "--experts", "16",
		"--slots", "20", "--layers", "2", "--tokens", "128", "--steps", STEPS, "--shift",
		SHIFT, "--token-ns", TOKEN_NS, NULL};
	struct moetap_error error;

	r->pending = malloc(sizeof(struct job_hello));
	r->rank_load = calloc((size_t)LAYERS * shape.ranks, sizeof(double));
	if (r->pending == NULL || r->rank_load == NULL ||
		moetap_forecaster_new(NULL, 0, &r->publication.request.forecaster, &error) < 0 ||
		moetap_series_new(LAYERS, shape.slots, 0, &r->slots, &error) < 0)
		return out_of_memory();
	if (loop_parts_new(&r->parts, &shape, LAYERS, EXPERTS, TOKENS) != CLI_DONE ||
		loop_start_firmware(&r->parts) != CLI_DONE || open_source(r) != CLI_DONE ||
		make_hint_page(r) != CLI_DONE)
		return CLI_FAILED;
	return loop_start_job(&r->parts, options);
}

static void finish(struct run *r)
{
	struct moetap_stats stats;

	if (r->source != NULL) {
		moetap_source_stats(r->source, &stats);
		r->loop->packets = stats.packets;
		r->loop->dropped = stats.nic_drops;
	}
	moetap_source_close(r->source);
	loop_parts_end(&r->parts);
	for (uint64_t i = 0; i < r->told_count; i++)
		free(r->told[i].sent);
	for (uint64_t i = 0; i < r->counted_count; i++)
		free(r->counted[i].cells);
	free(r->told);
	free(r->counted);
	free(r->pending);
	free(r->rank_load);
	moetap_series_free(r->slots);
	publication_free(&r->publication);
}

int loop_run(struct loop *loop, const char *apply,
	void (*each)(void *arg, const struct loop_window *window), void *arg)
{
	struct sigaction before[ENDS];
	struct run r = {.loop = loop,
		.parts = {.report = -1, .leash = -1},
		.publication = {.verb = verb,
			.shape = shape,
			.experts = EXPERTS,
			.seen = -1,
			.request = {.horizon = HORIZON},
			.rule.threshold = MOETAP_GAIN_THRESHOLD,
			.terms = {.bias_rate = MOETAP_BIAS_RATE}},
		.window = {.applied = -1},
		.each = each,
		.arg = arg};
	int status;

	*loop = (struct loop){0};
	r.publication.name = r.parts.page;
	catch_ends(before);
	status = begin(&r, apply);
	if (status == CLI_DONE)
		status = follow(&r);
	if (status == CLI_DONE && !stopped)
		status = compare_experts(&r);
	loop->seconds = (double)(r.last_ns - r.first_ns) * 1e-9;
	finish(&r);
	for (size_t i = 0; i < ENDS; i++)
		sigaction(ends[i], &before[i], NULL);
	if (stopped) {
		fflush(stdout);
		raise(stopped);
	}
	return status;
}

void loop_free(struct loop *loop)
{
	free(loop->windows);
}
