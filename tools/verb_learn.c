/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `moetap learn`: a map, from traffic alone. driver/ proposes a layout; here it is judged by counting
 * the capture with it, and only what the counts prove is written.
 */
#include "cli.h"
#include "frames.h"
#include "learn.h"
#include "map.h"
#include "moetap.h"
#include "verbs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PROOF 3u       /* rounds in which all counts must agree */
#define ROUNDS_MAX 4096u

static const char about[] =
	"Writes a map of a job, on standard output, from its traffic alone, each line with its\n"
	"evidence, or says what is missing. Learnt are jobs whose tokens are RDMA WRITEs by\n"
	"address and whose counts are atomics, as low-latency kernels have it. The map is written\n"
	"only if, in at least three rounds, all announced counts are those of the tokens seen.\n"
	"Capture from the start of the job, for three steps. Exit status 1: nothing is written.\n\n"
	"  moetap learn --ranks 10.77.0.1,10.77.0.2 job.pcap.gz > job.yaml";

/** Rounds as the firmware counted them with a layout. */
struct proof {
	struct mt_learnt_round *rounds; /**< [ROUNDS_MAX] */
	uint32_t count, cells;
	uint64_t agreed, disagreed, contradictions, unmatched;
	uint32_t most; /**< tokens of a cell */
	bool differ;   /**< not all cells are alike */
};

struct learn {
	const char *list, *capture;
	uint32_t layers, micro_batches;
	int pattern, format;
	struct mt_layout layout;
	struct mt_learnt_order order;
	struct mt_learn_seen seen;
	struct proof proof;
};

static int read_ranks(const char *list, uint8_t (*address)[16], uint32_t *ranks)
{
	char *copy = strdup(list), *rest = copy, *word;
	int status = CLI_DONE;

	*ranks = 0;
	if (copy == NULL)
		return cli_fail("learn", "out of memory");
	while (status == CLI_DONE && (word = strsep(&rest, ",")) != NULL) {
		uint8_t *to = address[*ranks];

		if (*ranks == MT_LEARN_RANKS) {
			status = cli_fail("learn", "--ranks: at most %u", MT_LEARN_RANKS);
			break;
		}
		memset(to, 0, 16);
		to[10] = to[11] = 0xff;
		if (inet_pton(AF_INET, word, to + 12) != 1 && inet_pton(AF_INET6, word, to) != 1)
			status = cli_fail("learn", "--ranks: '%s' is no IPv4 or IPv6 address", word);
		for (uint32_t i = 0; i < *ranks && status == CLI_DONE; i++)
			if (memcmp(address[i], to, 16) == 0)
				status = cli_fail("learn", "--ranks: %s is there twice", word);
		(*ranks)++;
	}
	free(copy);
	if (status == CLI_DONE && *ranks < 2)
		status = cli_fail("learn", "--ranks: at least two addresses");
	return status;
}

/** Why the capture is of no use to the learner. */
static int say_why(const struct learn *l, const struct mt_error *err)
{
	const struct mt_learn_seen *s = &l->seen;

	return cli_fail("learn",
		"%s (%" PRIu64 " frames; between the ranks %" PRIu64 " packets of reliable connections: %"
		PRIu64 " WRITEs, %" PRIu64 " atomics, %" PRIu64 " SENDs, %" PRIu64 " READs; %" PRIu64
		" of other addresses)",
		err->text, s->frames, s->roce, s->writes, s->atomics, s->sends, s->reads, s->strangers);
}

static int read_frames(struct learn *l, struct mt_learn *learn)
{
	struct mt_learn_frame frame;
	struct frames f;
	int ret = 0, got;

	if (frames_open(&f, l->capture) < 0)
		return cli_fail("learn", "%s: %s", l->capture, f.error);
	while ((got = frames_next(&f, &frame.data, &frame.captured)) > 0 && ret == 0)
		ret = mt_learn_add(learn, &frame);
	frames_close(&f);
	if (got < 0)
		return cli_fail("learn", "%s: %s", l->capture, f.error);
	return ret < 0 ? cli_fail("learn", "out of memory") : CLI_DONE;
}

/** Proposes a layout. */
static int propose(struct learn *l)
{
	uint8_t address[MT_LEARN_RANKS][16];
	struct mt_learn *learn;
	struct mt_error err;
	uint32_t ranks = 0;
	int status = l->list != NULL ? read_ranks(l->list, address, &ranks) : CLI_DONE;

	if (status != CLI_DONE)
		return status;
	if (mt_learn_new(address, ranks, &learn) < 0)
		return cli_fail("learn", "out of memory");
	status = read_frames(l, learn);
	if (status == CLI_DONE && mt_learn_layout(learn, &l->layout, &err) < 0) {
		l->seen = *mt_learn_seen(learn);
		status = say_why(l, &err);
	}
	l->seen = *mt_learn_seen(learn);
	mt_learn_free(learn);
	return status;
}

/* ---- proof ---- */

/** Writes the map into a file of its own, to count with. */
static int write_candidate(const struct learn *l, char *path, size_t size)
{
	const struct mt_learnt_order order = {.layers = 1, .micro_batches = 1};
	const char *folder = getenv("TMPDIR");
	FILE *file;
	int fd;

	snprintf(path, size, "%s/moetap-learn-XXXXXX", folder != NULL && folder[0] != '\0' ? folder : "/tmp");
	fd = mkstemp(path);
	file = fd >= 0 ? fdopen(fd, "w") : NULL;
	if (file == NULL) {
		path[0] = '\0';
		return cli_fail("learn", "cannot make a file for the map: %s (set TMPDIR)", strerror(errno));
	}
	mt_learn_write(file, &l->layout, &order, "learnt", NULL, 0);
	return fclose(file) == 0 ? CLI_DONE : cli_fail("learn", "%s: %s", path, strerror(errno));
}

static int keep_round(struct proof *p, const struct moetap_round *r)
{
	uint32_t cells = r->ranks * r->experts, *copy;

	p->agreed += r->witness == MOETAP_WITNESS_AGREED;
	p->disagreed += r->witness == MOETAP_WITNESS_DISAGREED;
	p->contradictions += r->contradictions;
	copy = malloc(cells * sizeof(*copy) + 1);
	if (copy == NULL)
		return cli_fail("learn", "out of memory");
	memcpy(copy, r->cell_tokens, cells * sizeof(*copy));
	p->cells = cells;
	p->rounds[p->count++] = (struct mt_learnt_round){
		copy, r->first_ns, r->last_ns, !(r->quality & MOETAP_QUALITY_INEXACT)};
	for (uint32_t i = 0; i < cells && r->witness == MOETAP_WITNESS_AGREED; i++) {
		p->differ |= copy[i] > 0 && p->most > 0 && copy[i] != p->most;
		p->most = copy[i] > p->most ? copy[i] : p->most;
	}
	return CLI_DONE;
}

static int take_rounds(struct proof *p, struct moetap_source *source)
{
	const struct timespec pause = {.tv_nsec = 2 * 1000 * 1000};
	const struct moetap_round *r;
	struct moetap_error error;
	int status = CLI_DONE;

	while (status == CLI_DONE && p->count < ROUNDS_MAX) {
		int ret = moetap_source_next(source, &r, &error);

		if (ret == -EPIPE)
			break;
		if (ret < 0)
			status = cli_fail("learn", "%s", error.text);
		else if (ret == 0)
			nanosleep(&pause, NULL);
		else
			status = keep_round(p, r);
	}
	return status;
}

/** Counts the capture with the layout. */
static int count(struct learn *l, const char *map)
{
	const struct moetap_capture_options options = {0};
	struct moetap_source *source;
	struct moetap_stats stats;
	struct moetap_error error;
	struct mt_bank *bank;
	struct mt_error wrong;
	int status;

	if (mt_map_load(map, &bank, &wrong) < 0)
		return cli_fail("learn", "the layout that explains the messages is no map: %s", wrong.text);
	free(bank);
	if (moetap_source_open_capture(l->capture, map, &options, &source, &error) < 0)
		return cli_fail("learn", "%s", error.text);
	status = take_rounds(&l->proof, source);
	moetap_source_stats(source, &stats);
	for (uint32_t i = 0; moetap_outcome_name(i) != NULL; i++)
		if (strcmp(moetap_outcome_name(i), "unmatched") == 0)
			l->proof.unmatched = stats.outcome[i];
	moetap_source_close(source);
	return status;
}

static int judge(struct learn *l)
{
	const struct proof *p = &l->proof;
	char path[4096];
	int status = write_candidate(l, path, sizeof(path));

	if (status == CLI_DONE)
		status = count(l, path);
	if (path[0] != '\0')
		unlink(path);
	if (status != CLI_DONE)
		return status;
	if (p->disagreed > 0 || p->contradictions > 0)
		return cli_fail("learn",
			"no proof: with the layout that explains the messages, counts and tokens differ in %"
			PRIu64 " rounds, and %" PRIu64 " messages contradict it", p->disagreed, p->contradictions);
	if (p->agreed < PROOF)
		return cli_fail("learn",
			"no proof: counts and tokens agree in %" PRIu64 " of %u rounds, and %u are needed: look for "
			"longer, at least three steps, with a tap that loses nothing", p->agreed, p->count, PROOF);
	if (!p->differ)
		return cli_fail("learn", "no proof: all counts are 0 or %u, which many layouts explain; look "
					 "while the job has tokens to route", p->most);
	return CLI_DONE;
}

/* ---- the map ---- */

static void write_head(const struct learn *l, char *text, size_t size)
{
	const struct proof *p = &l->proof;
	char preset[160];
	int n = snprintf(text, size,
		"# Learnt by moetap %s from traffic alone. Confidence %.4f.\n# Witness: atomics. In %" PRIu64
		" of %u rounds all counts are those of the tokens seen, in none they differ;\n"
		"# in the others packets are missing.\n",
		MOETAP_VERSION, l->order.confidence, p->agreed, p->count);

	if (mt_learn_preset(&l->layout, preset, sizeof(preset)))
		n += snprintf(text + n, size - (size_t)n, "# The same layout as %s.\n", preset);
	if (p->unmatched > 0)
		n += snprintf(text + n, size - (size_t)n, "# %" PRIu64 " packets between the ranks are of "
			"something else, and read by no rule.\n", p->unmatched);
	if (l->order.pattern != MT_PATTERN_INFERENCE && l->micro_batches == 0 && l->order.micro_batches == 1)
		snprintf(text + n, size - (size_t)n, "# Micro-batches of a step cannot be told where no pause "
			"parts steps: a step here is one of them.\n");
}

static int print_json(const struct learn *l, const char *map)
{
	const struct proof *p = &l->proof;
	const struct mt_layout *y = &l->layout;

	return cli_print_json("learn", json_pack(
		"{s:s, s:f, s:s, s:I, s:I, s:I, s:s, s:i, s:i, s:i, s:s, s:i, s:i, s:i, s:i, s:i}", "map", map,
		"confidence", l->order.confidence, "witness", "atomic", "rounds", (json_int_t)p->count, "agreed",
		(json_int_t)p->agreed, "unmatched", (json_int_t)p->unmatched, "pattern",
		mt_pattern_name(l->order.pattern), "layers", (int)l->order.layers, "micro_batches",
		(int)l->order.micro_batches, "order_rounds", (int)l->order.rounds, "order_evidence", l->order.why,
		"ranks", (int)y->ranks, "experts_per_rank", (int)y->experts, "token_bytes", (int)y->token,
		"slots", (int)y->slots, "parities", (int)y->token_parities));
}

static int print_map(const struct learn *l)
{
	char head[1024], *text = NULL;
	size_t size;
	FILE *to = open_memstream(&text, &size);
	int status = CLI_DONE;

	if (to == NULL)
		return cli_fail("learn", "out of memory");
	write_head(l, head, sizeof(head));
	mt_learn_write(to, &l->layout, &l->order, "learnt", head, l->proof.agreed);
	if (fclose(to) != 0)
		status = cli_fail("learn", "out of memory");
	else if (l->format == 1)
		status = print_json(l, text);
	else
		fputs(text, stdout);
	free(text);
	return status;
}

static int run(struct learn *l)
{
	struct mt_error err;
	int status = propose(l);

	if (status == CLI_DONE)
		status = judge(l);
	if (status != CLI_DONE)
		return status;
	l->order.layers = l->layers;
	l->order.micro_batches = l->micro_batches;
	if (mt_learn_order(l->proof.rounds, l->proof.count, l->proof.cells,
		    l->layout.ranks * l->layout.experts, l->pattern, &l->order, &err) < 0)
		return cli_fail("learn", "%s", err.text);
	return print_map(l);
}

int verb_learn(int argc, char **argv)
{
	struct learn *l = calloc(1, sizeof(*l));
	int first, status = CLI_FAILED;

	if (l == NULL)
		return cli_fail("learn", "out of memory");
	l->pattern = -1;
	const struct cli_option options[] = {
		{"ranks", CLI_TEXT, &l->list, "ADDR,ADDR,...",
			"addresses, in the order of ranks; if not given: all, in their own order", false},
		{"layers", CLI_COUNT, &l->layers, "N", "layers with experts, if known", false},
		{"pattern", CLI_CHOICE, &l->pattern, "inference|training|training-recompute",
			"order of the rounds of a step, if known", false},
		{"micro-batches", CLI_COUNT, &l->micro_batches, "N", "micro-batches a step, if known", false},
		{"format", CLI_CHOICE, &l->format, "yaml|json", "yaml (default), or json, with figures", false},
		{0},
	};
	const struct cli cli = {"learn", "CAPTURE", 1, about, options};

	first = cli_parse(&cli, argc, argv, &status);
	l->proof.rounds = calloc(ROUNDS_MAX, sizeof(*l->proof.rounds));
	if (first >= 0 && l->proof.rounds != NULL) {
		l->capture = argv[first];
		status = strcmp(l->capture, "-") == 0
				 ? cli_usage(&cli, "a capture is read twice: give a file")
				 : run(l);
	}
	for (uint32_t i = 0; i < l->proof.count; i++)
		free((void *)l->proof.rounds[i].cells);
	free(l->proof.rounds);
	free(l);
	return status;
}
