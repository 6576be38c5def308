/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap`: everything it can do is in this table. */
#include "cli.h"
#include "verbs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct verb verbs[] = {
	{"demo", verb_demo, "bundled real traffic through all of it, as a picture"},
	{"count", verb_count, "tokens of every expert, from a capture or a device page"},
	{"map", verb_map, "check a map, or load it into a running moetap-fw"},
	{"learn", verb_learn, "a map, from a capture alone"},
	{"forecast", verb_forecast, "shares of the next steps, with intervals"},
	{"backtest", verb_backtest, "how wrong forecasts would have been on a trace"},
	{"plan", verb_plan, "a placement of experts on ranks"},
	{"advise", verb_advise, "should a job balance its experts at all?"},
	{"simulate", verb_simulate, "what other times of moving experts would have cost"},
	{"hints", verb_hints, "publish, show and watch hint pages"},
	{"doctor", verb_doctor, "what is missing on this host, and what mends it"},
};

#define VERBS (sizeof(verbs) / sizeof(verbs[0]))

static void print_help(FILE *to)
{
	fprintf(to, "Usage: moetap VERB [OPTIONS] ...\n\n"
		    "Counts the tokens of experts on the wire, forecasts their loads, plans their "
		    "placement.\n\nVerbs:\n");
	for (size_t i = 0; i < VERBS; i++)
		fprintf(to, "  %-10s %s\n", verbs[i].name, verbs[i].title);
	fprintf(to, "\n  moetap VERB --help   options of a verb, with an example\n"
		    "  moetap --version\n");
}

/** For the completion of shells: the verbs, one a line. Options are completed from --help. */
static void print_verbs(void)
{
	for (size_t i = 0; i < VERBS; i++)
		puts(verbs[i].name);
}

/** Runs the verb argv[1]. */
static int run(int argc, char **argv)
{
	if (argc < 2) {
		print_help(stderr);
		return CLI_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		print_help(stdout);
		return CLI_DONE;
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("moetap %s\n", MOETAP_VERSION);
		return CLI_DONE;
	}
	if (strcmp(argv[1], "--complete") == 0) {
		print_verbs();
		return CLI_DONE;
	}
	for (size_t i = 0; i < VERBS; i++) {
		if (strcmp(argv[1], verbs[i].name) == 0)
			return verbs[i].run(argc - 1, argv + 1);
	}
	fprintf(stderr, "moetap: there is no verb '%s'\nSee: moetap --help\n", argv[1]);
	return CLI_USAGE;
}

/**
 * Why standard output failed. Where nothing is left to write, the reason went by with a write
 * before; then one more line asks for it again.
 */
static const char *why_not_written(void)
{
	clearerr(stdout);
	errno = 0;
	putchar('\n');
	fflush(stdout);
	return errno != 0 ? strerror(errno) : "a part of it was lost";
}

int main(int argc, char **argv)
{
	int status = run(argc, argv);

	/* A result that did not reach the disk is no result. */
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "moetap: cannot write the result: %s\n", why_not_written());
		return CLI_FAILED;
	}
	return status;
}
