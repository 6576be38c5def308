/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap count`: tokens of every expert, from a capture or from a device page. */
#include "cli.h"
#include "map.h"
#include "moetap.h"
#include "page.h"
#include "verbs.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char about[] =
	"Counts tokens. With --map: sends CAPTURE (pcap or pcapng, also with gzip) through a\n"
	"moetap-fw of its own; - is standard input. Needs neither root nor a NIC. With --page: "
	"reads the rounds of a\n"
	"running moetap-fw. Prints CSV round,step,layer,phase,src,dst,expert,tokens,bytes: a row\n"
	"for every source and expert whose packets pass the tap, zeros included. Rounds that are\n"
	"not exact are named on standard error. What crosses no NIC is never counted, and never\n"
	"estimated here; how many of all sources are seen is said at the end.\n\n"
	"  moetap count --map job.yaml job.pcap.gz\n"
	"  moetap count --page job --follow";

/** Ranks that a dispatch was read from, and to. */
struct met {
	uint32_t ranks;
	bool *from, *to, *holds; /**< [ranks]; holds: experts, by the map */
	bool *seen, *crosses;	 /**< [ranks][ranks], source first: on the tap, and by the map */
};

/** Sums over the dispatch rounds. */
struct sums {
	uint32_t ranks, experts;
	uint32_t *expert_rank;	  /**< [experts] */
	uint64_t *tokens, *bytes; /**< [ranks][experts] */
	bool *seen;		  /**< [ranks][experts]: passes the tap */
};

struct count {
	const char *map, *page, *capture;
	uint32_t cores;
	int tap; /**< -1: as the map says */
	bool total, follow;
	int64_t from; /**< -1: not given */
	int format;
	uint32_t snap; /**< that the map needs; 0: not known */
	/** what the map looks for, and what of it may be wrong; as it is read */
	const char *sought, *places;
	struct moetap_source *source;
	struct sums sums;
	struct met met;
	uint64_t rounds, dispatch, exact;
	uint64_t witness[MOETAP_WITNESS_DISAGREED + 1]; /**< rounds, by enum moetap_witness */
	const char *load_from, *witness_from;
	bool told_assumed;
	bool progress; /**< shown right now */
	uint64_t progress_ns;
};

/* ---- on standard error ---- */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/** How far a capture is, ten times a second, where standard error is a terminal of its own. */
static void show_progress(struct count *c)
{
	uint64_t now = now_ns();
	double done = moetap_source_progress(c->source);

	if (isnan(done) || now - c->progress_ns < 100000000u || !isatty(STDERR_FILENO) ||
		isatty(STDOUT_FILENO))
		return;
	c->progress_ns = now;
	c->progress = true;
	fprintf(stderr, "\rmoetap count: %.0f %%, %" PRIu64 " rounds ", done * 100, c->rounds);
	fflush(stderr);
}

static void clear_progress(struct count *c)
{
	if (c->progress)
		fputs("\r\033[K", stderr);
	c->progress = false;
}

static void say(struct count *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(struct count *c, const char *format, ...)
{
	va_list args;

	clear_progress(c);
	fputs("moetap count: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

/** ": 3 packets never seen, 2 counts missing", as far as there is something to name. */
static void write_figures(const struct moetap_round *r, char *text, size_t size)
{
	const struct {
		uint64_t n;
		const char *what;
	} figures[] = {{r->gaps, "packets never seen"}, {r->counts_missing, "counts missing"},
		{r->disagreements, "cells differ from their witness"},
		{r->tokens_unseen, "tokens announced and not seen"},
		{r->stale, "packets too old to tell"}, {r->truncated, "frames cut too short"},
		{r->nic_drops, "packets dropped by the port"},
		{r->contradictions, "messages that contradict the map"},
		{r->late, "messages too late"}};
	size_t used = 0;

	text[0] = '\0';
	for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
		if (figures[i].n == 0 || used >= size)
			continue;
		used += (size_t)snprintf(text + used, size - used, "%s%" PRIu64 " %s",
			used > 0 ? ", " : ": ", figures[i].n, figures[i].what);
	}
}

/** What is wrong with a round, and what was noticed before it. */
static void report_round(struct count *c, const struct moetap_round *r)
{
	char quality[256], figures[512], pass[32] = "";

	if (r->restarted)
		say(c,
			"moetap-fw restarted before round %" PRIu64
			": what it had not published is lost, its steps count from 0 again",
			r->round);
	if (r->lost > 0)
		say(c,
			"%" PRIu64 " rounds before round %" PRIu64
			" are lost: they were overwritten before they were read (start moetap-fw "
			"with more --slots)",
			r->lost, r->round);
	if (r->map_assumed && !c->told_assumed)
		say(c,
			"the map of round %" PRIu64
			" was replaced: the ranks of its experts are those of a later map",
			r->round);
	c->told_assumed |= r->map_assumed;
	if (!(r->quality & MOETAP_QUALITY_INEXACT))
		return;
	if (r->pass != MOETAP_PASS_FORWARD)
		snprintf(pass, sizeof(pass), ", %s", mt_pass_name(r->pass));
	write_figures(r, figures, sizeof(figures));
	say(c, "round %" PRIu64 " (step %" PRIu64 " layer %u%s): %s%s", r->round, r->step, r->layer,
		pass, mt_quality_names(r->quality, quality, sizeof(quality)), figures);
}

/** Atomics that are not the standard ones. */
static void report_form(struct count *c, const struct moetap_stats *stats)
{
	const struct moetap_atomic_form *f = &stats->atomic_form;

	if (f->learnt)
		say(c,
			"masked atomic: learnt: opcode 0x%02x of %u bytes, address at %u, operand "
			"of "
			"%u bytes at %u, %s-endian: all counts of 3 rounds of every source agreed. "
			"A map that says so has them from its first round on: atomic-form: "
			"{opcode: 0x%02x, length: %u, address: %u, operand: %u, width: %u, order: "
			"%s}",
			f->opcode, f->length, f->address, f->width, f->operand,
			f->big_endian ? "big" : "little", f->opcode, f->length, f->address,
			f->operand, f->width, f->big_endian ? "big" : "little");
	else if (stats->outcome[MT_OUT_FORM] > 0)
		say(c,
			"%" PRIu64 " packets are most likely atomics, of a form that is not known "
			"(atomic-form): what they announce was not read. In a map, "
			"'atomic-form: learn' has the form learnt from the traffic",
			stats->outcome[MT_OUT_FORM]);
}

static void report_packets(struct count *c, const struct moetap_stats *stats)
{
	char text[1024];
	size_t used = 0;

	text[0] = '\0';
	for (uint32_t i = 0; moetap_outcome_name(i) != NULL && used < sizeof(text); i++)
		if (stats->outcome[i] > 0)
			used += (size_t)snprintf(text + used, sizeof(text) - used,
				"%s%" PRIu64 " %s", used > 0 ? ", " : ": ", stats->outcome[i],
				moetap_outcome_name(i));
	say(c, "%" PRIu64 " packets%s", stats->packets, text);
	if (stats->nic_drops > 0)
		say(c, "%" PRIu64 " packets were dropped by the port: give moetap-fw more cores",
			stats->nic_drops);
	if (stats->marked > 0)
		say(c, "%" PRIu64 " packets met congestion (ECN)", stats->marked);
	report_form(c, stats);
	if (stats->outcome[MT_OUT_TRUNCATED] == 0)
		return;
	if (c->snap > 0)
		say(c,
			"%" PRIu64 " frames were truncated before a field that the map needs: "
			"capture with a snap length of %u bytes or more (moetap map check %s)",
			stats->outcome[MT_OUT_TRUNCATED], c->snap, c->map);
	else
		say(c,
			"%" PRIu64 " frames were truncated before a field that the map needs: cut "
			"them at the snap length that moetap map check prints, or later",
			stats->outcome[MT_OUT_TRUNCATED]);
}

#define RANKS_NAMED 8u /* the others are only counted */

/** What one rank lacks; false: nothing. */
static bool report_rank(struct count *c, uint32_t rank, const struct moetap_stats *stats, bool name)
{
	uint64_t unknown = stats->outcome[MT_OUT_UNKNOWN_RANK];
	uint64_t unmatched = stats->outcome[MT_OUT_UNMATCHED];
	uint64_t contradict = stats->outcome[MT_OUT_CONTRADICT];
	bool from = c->met.from[rank], to = c->met.to[rank] || !c->met.holds[rank];

	if (from && to)
		return false;
	if (!name)
		return true;
	if (!from && !c->met.to[rank] && unknown > 0)
		say(c,
			"rank %u: no message from it or to it was read, %" PRIu64
			" packets of unknown ranks: is its address right?",
			rank, unknown);
	else if (!to)
		say(c,
			"rank %u: no message to it was read, %" PRIu64
			" packets unmatched, %" PRIu64 " contradict the map: compare %s",
			rank, unmatched, contradict, c->places);
	else
		say(c,
			"rank %u: no message from it was read, %" PRIu64
			" packets unmatched, %" PRIu64 " contradict the map, %" PRIu64
			" of unknown ranks: are its addresses right, and does the tap see its "
			"port?",
			rank, unmatched, contradict, unknown);
	return true;
}

/** Ranks that no dispatch was read from or to, when there are packets that the map does not read.
 */
static void report_ranks(struct count *c, const struct moetap_stats *stats)
{
	uint32_t n = 0;

	if (stats->outcome[MT_OUT_UNKNOWN_RANK] + stats->outcome[MT_OUT_UNMATCHED] +
			stats->outcome[MT_OUT_CONTRADICT] ==
		0)
		return;
	for (uint32_t r = 0; r < c->met.ranks; r++)
		n += report_rank(c, r, stats, n < RANKS_NAMED);
	if (n > RANKS_NAMED)
		say(c, "and %u more ranks that no message was read from or to", n - RANKS_NAMED);
}

/** Of how many sources the tokens of an expert of a rank pass the tap. */
static uint32_t sources_seen(const struct met *m, uint32_t dst)
{
	uint32_t n = 0;

	for (uint32_t src = 0; src < m->ranks; src++)
		n += m->seen[(size_t)src * m->ranks + dst];
	return n;
}

/** Where the map and the tap differ about what crosses a NIC. */
static void report_pairs(struct count *c)
{
	const struct met *m = &c->met;
	uint32_t missing = 0, extra = 0, first[2] = {0, 0};

	for (uint32_t pair = 0; pair < m->ranks * m->ranks; pair++) {
		bool sends = m->from[pair / m->ranks] && m->to[pair % m->ranks];

		if (m->seen[pair] && !m->crosses[pair] && extra++ == 0)
			first[1] = pair;
		if (sends && !m->seen[pair] && m->crosses[pair] && missing++ == 0)
			first[0] = pair;
	}
	if (missing > 0)
		say(c,
			"%u pairs of ranks that cross a NIC by the map never passed the tap, the "
			"first of them rank %u to rank %u: nothing is sent there, or the tap does "
			"not see their ports",
			missing, first[0] / m->ranks, first[0] % m->ranks);
	if (extra > 0)
		say(c,
			"%u pairs of ranks of one node pass the tap, the first of them rank %u to "
			"rank %u, but by the map none does: is 'within-node: seen' right?",
			extra, first[1] / m->ranks, first[1] % m->ranks);
}

/** What the counts leave out. */
static void report_seen(struct count *c)
{
	uint32_t least = UINT32_MAX, most = 0;
	char range[32] = "";

	for (uint32_t dst = 0; dst < c->met.ranks; dst++) {
		uint32_t n = sources_seen(&c->met, dst);

		if (!c->met.holds[dst])
			continue;
		least = n < least ? n : least;
		most = n > most ? n : most;
	}
	if (least < most)
		snprintf(range, sizeof(range), "%u to ", least);
	say(c,
		"of every expert, %s%u of %u sources pass the tap; what the others send is not in "
		"the counts",
		range, most, c->met.ranks);
	report_pairs(c);
}

/** Packets that the map leaves out and that are no fewer than those that it counts: what to do. */
static void report_fit(struct count *c, const struct moetap_stats *stats)
{
	uint64_t dispatch = stats->outcome[MT_OUT_DISPATCH];
	uint64_t unknown = stats->outcome[MT_OUT_UNKNOWN_RANK];
	uint64_t unmatched = stats->outcome[MT_OUT_UNMATCHED];

	if (unknown > 0 && unknown >= dispatch)
		say(c,
			"%" PRIu64 " packets are of unknown ranks, but %" PRIu64
			" begin a dispatch message: if these are the job's too, addresses are "
			"missing in the map; else have the mirror leave them out",
			unknown, dispatch);
	if (unmatched > 0 && unmatched >= dispatch)
		say(c,
			"%" PRIu64 " packets between ranks are of no rule, but %" PRIu64
			" begin a dispatch message: if these are tokens too, compare %s; else give "
			"them a rule of phase control",
			unmatched, dispatch, c->places);
}

/** A capture without a dispatch round: why. */
static void report_nothing(struct count *c, const struct moetap_stats *stats)
{
	uint64_t roce = stats->packets - stats->outcome[MT_OUT_NOT_ROCE] -
			stats->outcome[MT_OUT_TRANSPORT] - stats->outcome[MT_OUT_MALFORMED] -
			stats->outcome[MT_OUT_FRAGMENT] - stats->outcome[MT_OUT_VXLAN];

	if (stats->packets == 0)
		say(c, "no dispatch round was found: the capture has no packets");
	else if (roce == 0)
		say(c, "no dispatch round was found: no packet is %s. "
		       "Was another interface captured, or is the traffic not mirrored?",
			c->sought);
	else
		say(c,
			"no dispatch round was found: the map does not fit this traffic. Compare "
			"the ranks' addresses (%" PRIu64 " packets of unknown ranks), and "
			"%s (%" PRIu64 " packets that no rule knows, %" PRIu64
			" that contradict the map)",
			stats->outcome[MT_OUT_UNKNOWN_RANK], c->places,
			stats->outcome[MT_OUT_UNMATCHED], stats->outcome[MT_OUT_CONTRADICT]);
}

/** Whether what tells the same tokens in another way agrees. */
static void report_witness(struct count *c)
{
	char text[256];
	size_t used = 0;

	if (c->witness_from == NULL)
		return;
	for (int w = MOETAP_WITNESS_DISAGREED; w > MOETAP_WITNESS_NONE; w--)
		used += (size_t)snprintf(text + used, sizeof(text) - used,
			"%s%" PRIu64 " %s", used > 0 ? ", " : "", c->witness[w],
			moetap_witness_name((enum moetap_witness)w));
	say(c, "tokens are from %s; rounds by what the witness (%s) says: %s", c->load_from,
		c->witness_from, text);
}

/** Returns an exit status: a capture of which nothing could be counted is a failure. */
static int report_end(struct count *c)
{
	struct moetap_stats stats;

	moetap_source_stats(c->source, &stats);
	report_packets(c, &stats);
	say(c, "%" PRIu64 " rounds, %" PRIu64 " of them dispatch; %" PRIu64 " exact", c->rounds,
		c->dispatch, c->exact);
	report_witness(c);
	if (c->dispatch > 0) {
		report_seen(c);
		report_ranks(c, &stats);
		report_fit(c, &stats);
		return CLI_DONE;
	}
	if (c->page == NULL) {
		report_nothing(c, &stats);
		return CLI_FAILED;
	}
	say(c, "no dispatch round was published from there on");
	return CLI_DONE;
}

/* ---- ranks ---- */

static void met_free(struct met *m)
{
	free(m->from);
	free(m->to);
	free(m->holds);
	free(m->seen);
	free(m->crosses);
	*m = (struct met){0};
}

static bool met_begin(struct met *m, uint32_t ranks)
{
	met_free(m);
	m->from = calloc(ranks, sizeof(*m->from));
	m->to = calloc(ranks, sizeof(*m->to));
	m->holds = calloc(ranks, sizeof(*m->holds));
	m->seen = calloc((size_t)ranks * ranks, sizeof(*m->seen));
	m->crosses = calloc((size_t)ranks * ranks, sizeof(*m->crosses));
	m->ranks = ranks;
	return m->from != NULL && m->to != NULL && m->holds != NULL && m->seen != NULL &&
	       m->crosses != NULL;
}

/** Notes which pairs of ranks a round has met. */
static int met_add(struct met *m, const struct moetap_round *r)
{
	if (m->ranks != r->ranks && !met_begin(m, r->ranks))
		return cli_fail("count", "out of memory");
	for (uint32_t e = 0; e < r->experts; e++)
		if (r->expert_rank[e] < r->ranks)
			m->holds[r->expert_rank[e]] = true;
	for (uint32_t src = 0; src < r->ranks; src++)
		for (uint32_t dst = 0; dst < r->ranks; dst++)
			if (src != dst && r->pairs[(size_t)src * r->ranks + dst].last_ns != 0)
				m->seen[src * r->ranks + dst] = m->from[src] = m->to[dst] = true;
	memcpy(m->crosses, r->crosses, (size_t)r->ranks * r->ranks * sizeof(*m->crosses));
	return CLI_DONE;
}

/* ---- rounds ---- */

/** Whether a cell's packets pass the tap; `dst` gets the rank of the expert. */
static bool visible(const struct moetap_round *r, uint32_t src, uint32_t expert, uint32_t *dst)
{
	*dst = r->expert_rank[expert];
	return *dst < r->ranks && *dst != src &&
	       r->pairs[(size_t)src * r->ranks + *dst].last_ns != 0;
}

static uint32_t sources_of(const struct moetap_round *r, uint32_t expert)
{
	uint32_t n = 0, dst;

	for (uint32_t src = 0; src < r->ranks; src++)
		n += visible(r, src, expert, &dst);
	return n;
}

static void print_csv(const struct moetap_round *r)
{
	uint32_t dst;

	for (uint32_t src = 0; src < r->ranks; src++)
		for (uint32_t e = 0; e < r->experts; e++) {
			size_t cell = (size_t)src * r->experts + e;

			if (visible(r, src, e, &dst))
				printf("%" PRIu64 ",%" PRIu64 ",%u,%s,%u,%u,%u,%u,%" PRIu64 "\n",
					r->round, r->step, r->layer, mt_pass_name(r->pass), src,
					dst, e, r->cell_tokens[cell], r->cell_bytes[cell]);
		}
}

static void print_json_cell(
	bool *first, uint32_t src, uint32_t dst, uint32_t expert, uint64_t tokens, uint64_t bytes)
{
	printf("%s{\"src\":%u,\"dst\":%u,\"expert\":%u,\"tokens\":%" PRIu64 ",\"bytes\":%" PRIu64
	       "}",
		*first ? "" : ",", src, dst, expert, tokens, bytes);
	*first = false;
}

/** Which signal the load is from, and what the other one says of it. */
static void print_json_witness(const struct moetap_round *r)
{
	printf("\"load_from\":\"%s\",\"witness\":", r->load_from);
	if (r->witness_from == NULL)
		printf("null");
	else
		printf("{\"from\":\"%s\",\"result\":\"%s\",\"compared\":%u,\"differ\":%u,"
		       "\"gaps\":%u}",
			r->witness_from, moetap_witness_name(r->witness), r->witness_compared,
			r->witness_differ, r->witness_gaps);
	printf(",\"cells\":[");
}

/** One object, one line. */
static void print_json(const struct moetap_round *r)
{
	char quality[256];
	bool first = true;
	uint32_t dst;

	printf("{\"round\":%" PRIu64 ",\"step\":%" PRIu64 ",\"layer\":%u,\"phase\":\"%s\","
	       "\"exact\":%s,\"quality\":\"%s\",\"lost\":%" PRIu64 ",\"first_ns\":%" PRIu64
	       ",\"last_ns\":%" PRIu64 ",\"ranks\":%u,\"experts\":%u,\"sources_seen\":[",
		r->round, r->step, r->layer, mt_pass_name(r->pass),
		r->quality & MOETAP_QUALITY_INEXACT ? "false" : "true",
		mt_quality_names(r->quality, quality, sizeof(quality)), r->lost, r->first_ns,
		r->last_ns, r->ranks, r->experts);
	for (uint32_t e = 0; e < r->experts; e++)
		printf("%s%u", e > 0 ? "," : "", sources_of(r, e));
	printf("],");
	print_json_witness(r);
	for (uint32_t src = 0; src < r->ranks; src++)
		for (uint32_t e = 0; e < r->experts; e++) {
			size_t cell = (size_t)src * r->experts + e;

			if (visible(r, src, e, &dst))
				print_json_cell(&first, src, dst, e, r->cell_tokens[cell],
					r->cell_bytes[cell]);
		}
	puts("]}");
}

/* ---- sums ---- */

static bool sums_begin(struct sums *s, const struct moetap_round *r)
{
	size_t cells = (size_t)r->ranks * r->experts;

	s->ranks = r->ranks;
	s->experts = r->experts;
	s->expert_rank = malloc(r->experts * sizeof(*s->expert_rank));
	s->tokens = calloc(cells, sizeof(*s->tokens));
	s->bytes = calloc(cells, sizeof(*s->bytes));
	s->seen = calloc(cells, sizeof(*s->seen));
	if (s->expert_rank == NULL || s->tokens == NULL || s->bytes == NULL || s->seen == NULL)
		return false;
	memcpy(s->expert_rank, r->expert_rank, r->experts * sizeof(*s->expert_rank));
	return true;
}

static void sums_free(struct sums *s)
{
	free(s->expert_rank);
	free(s->tokens);
	free(s->bytes);
	free(s->seen);
}

static int sums_add(struct sums *s, const struct moetap_round *r)
{
	uint32_t dst;

	if (s->ranks == 0 && !sums_begin(s, r))
		return cli_fail("count", "out of memory");
	if (s->ranks != r->ranks || s->experts != r->experts ||
		memcmp(s->expert_rank, r->expert_rank, r->experts * sizeof(*s->expert_rank)) != 0)
		return cli_fail("count",
			"the map changed before round %" PRIu64
			": rounds of two maps have no sum; the sum up to there was printed",
			r->round);
	for (size_t cell = 0; cell < (size_t)r->ranks * r->experts; cell++) {
		s->tokens[cell] += r->cell_tokens[cell];
		s->bytes[cell] += r->cell_bytes[cell];
		s->seen[cell] |= visible(
			r, (uint32_t)(cell / r->experts), (uint32_t)(cell % r->experts), &dst);
	}
	return CLI_DONE;
}

static void print_sums(const struct count *c)
{
	const struct sums *s = &c->sums;
	bool first = true;

	if (c->format == 0)
		puts("src,dst,expert,tokens,bytes");
	else
		printf("{\"rounds\":%" PRIu64 ",\"exact\":%" PRIu64 ",\"cells\":[", c->rounds,
			c->exact);
	for (size_t cell = 0; cell < (size_t)s->ranks * s->experts; cell++) {
		uint32_t src = (uint32_t)(cell / s->experts), e = (uint32_t)(cell % s->experts);

		if (!s->seen[cell])
			continue;
		if (c->format == 0)
			printf("%u,%u,%u,%" PRIu64 ",%" PRIu64 "\n", src, s->expert_rank[e], e,
				s->tokens[cell], s->bytes[cell]);
		else
			print_json_cell(
				&first, src, s->expert_rank[e], e, s->tokens[cell], s->bytes[cell]);
	}
	if (c->format != 0)
		puts("]}");
}

/* ---- the way through ---- */

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

static int take(struct count *c, const struct moetap_round *r)
{
	report_round(c, r);
	c->rounds++;
	c->dispatch += r->pass == MOETAP_PASS_FORWARD;
	c->exact += !(r->quality & MOETAP_QUALITY_INEXACT);
	c->witness[r->witness <= MOETAP_WITNESS_DISAGREED ? r->witness : 0]++;
	c->load_from = r->load_from;
	c->witness_from = r->witness_from;
	if (met_add(&c->met, r) != CLI_DONE)
		return CLI_FAILED;
	if (c->total)
		return r->pass == MOETAP_PASS_FORWARD ? sums_add(&c->sums, r) : CLI_DONE;
	if (c->format == 0)
		print_csv(r);
	else
		print_json(r);
	if (c->follow)
		fflush(stdout);
	return ferror(stdout) ? CLI_FAILED : CLI_DONE;
}

/** Takes rounds until there are none, and no more are waited for. */
static int take_all(struct count *c)
{
	const struct timespec pause = {.tv_nsec = (c->follow ? 5 : 1) * 1000 * 1000};
	const struct moetap_round *round;
	struct moetap_error error;
	int ret, status = CLI_DONE;

	while (status == CLI_DONE && !stopped) {
		show_progress(c);
		ret = moetap_source_next(c->source, &round, &error);
		if (ret > 0) {
			status = take(c, round);
			continue;
		}
		if (ret == -EPIPE || (ret == 0 && c->page != NULL && !c->follow))
			break;
		if (ret == 0) {
			nanosleep(&pause, NULL);
			continue;
		}
		clear_progress(c);
		status = cli_fail("count", "%s", error.text);
	}
	clear_progress(c);
	return status;
}

/** What messages say of a map, in the words of its rules. */
static void set_words(struct count *c, const struct mt_bank *bank)
{
	bool based = false, flows = mt_bank_rules(bank)->type == MT_RULE_FLOW;

	for (uint32_t i = 0; i < bank->rules; i++)
		based |= mt_rule_needs_base(&mt_bank_rules(bank)[i]);
	c->snap = mt_bank_snap(bank);
	if (flows && bank->datagrams) {
		c->sought = "UDP between the map's ranks, on its ports";
		c->places = "the ports of 'udp', and the 'frame' of the rules";
	} else if (flows) {
		c->sought = "TCP between the map's ranks, on its ports";
		c->places = "the ports of 'tcp', its 'connect' and 'accept', and the 'frame' of "
			    "the rules";
	} else if (based) {
		c->places = "the ranks' 'base', and 'offset', 'size' and 'length' of the rules";
	} else {
		c->places = "the 'length' of the rules, and what else they say";
	}
}

static int open_source(struct count *c)
{
	static const char *const taps[] = {"all", "heads"};
	const struct moetap_capture_options options = {
		.cores = c->cores, .tap = c->tap >= 0 ? taps[c->tap] : NULL};
	uint64_t from = c->from >= 0 ? (uint64_t)c->from
			: c->follow  ? MOETAP_FROM_NOW
				     : MOETAP_FROM_OLDEST;
	struct moetap_error error;
	struct mt_bank *bank;
	struct mt_error wrong;
	int ret;

	if (c->page != NULL) {
		ret = moetap_source_open_page(c->page, from, &c->source, &error);
		return ret < 0 ? cli_fail("count", "%s", error.text) : CLI_DONE;
	}
	/* The firmware reads the map too, but here its errors come first. */
	if (mt_map_load(c->map, &bank, &wrong) < 0)
		return cli_fail("count", "%s", wrong.text);
	set_words(c, bank);
	free(bank);
	ret = moetap_source_open_capture(c->capture, c->map, &options, &c->source, &error);
	return ret < 0 ? cli_fail("count", "%s", error.text) : CLI_DONE;
}

static int run(struct count *c)
{
	const struct sigaction action = {.sa_handler = stop};
	int status = open_source(c), end;

	if (status != CLI_DONE)
		return status;
	if (c->follow) {
		sigaction(SIGINT, &action, NULL);
		sigaction(SIGTERM, &action, NULL);
	}
	if (!c->total && c->format == 0)
		puts("round,step,layer,phase,src,dst,expert,tokens,bytes");
	status = take_all(c);
	if (c->total)
		print_sums(c);
	fflush(stdout);
	end = report_end(c);
	moetap_source_close(c->source);
	sums_free(&c->sums);
	met_free(&c->met);
	return status != CLI_DONE ? status : end;
}

/** What goes together on the command line. */
static int check(const struct cli *cli, const struct count *c)
{
	if ((c->map != NULL) == (c->page != NULL))
		return cli_usage(cli, "wanted: either --map MAP.yaml and CAPTURE, or --page NAME");
	if (c->map != NULL && c->capture == NULL)
		return cli_usage(cli, "wanted after the options: CAPTURE");
	if (c->page != NULL && c->capture != NULL)
		return cli_usage(cli, "--page and CAPTURE do not go together");
	if (c->map != NULL && (c->follow || c->from >= 0))
		return cli_usage(cli, "--follow and --from go with --page only");
	if (c->page != NULL && (c->cores > 0 || c->tap >= 0))
		return cli_usage(cli, "--cores and --tap go with a capture only: moetap-fw has its "
				      "own");
	return CLI_DONE;
}

int verb_count(int argc, char **argv)
{
	struct count c = {.tap = -1,
		.from = -1,
		.sought = "RoCEv2 of a reliable connection",
		.places = "the rules with what the job sends"};
	int first, status;
	const struct cli_option options[] = {
		{"map", CLI_TEXT, &c.map, "MAP.yaml", "map of the job, to count a capture", false},
		{"cores", CLI_COUNT, &c.cores, "N", "poll cores for a capture (1)", false},
		{"tap", CLI_CHOICE, &c.tap, "all|heads",
			"what the tap saw, if not what the map says", false},
		{"page", CLI_TEXT, &c.page, "NAME", "page of a running moetap-fw, to read it",
			false},
		{"follow", CLI_FLAG, &c.follow, NULL, "go on until the firmware ends, or Ctrl-C",
			false},
		{"from", CLI_STEP, &c.from, "N",
			"first round wanted; if not given: all kept ones, with --follow the next",
			false},
		{"total", CLI_FLAG, &c.total, NULL,
			"src,dst,expert,tokens,bytes summed over dispatch rounds", false},
		{"format", CLI_CHOICE, &c.format, "csv|json",
			"csv (default) or json, one object a round and line", false},
		{0},
	};
	const struct cli cli = {"count", "[CAPTURE]", 1, about, options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	c.capture = argv[first];
	status = check(&cli, &c);
	return status == CLI_DONE ? run(&c) : status;
}
