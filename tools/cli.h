/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * What verbs share: options from one table (which also makes --help), errors, JSON, progress.
 */
#ifndef MOETAP_CLI_H
#define MOETAP_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/** Exit statuses. */
enum { CLI_DONE, CLI_FAILED, CLI_USAGE };

/** What an option takes, and what its `value` points to. */
enum cli_type {
	CLI_END,    /**< end of the table */
	CLI_COUNT,  /**< uint32_t, 1 or more */
	CLI_STEP,   /**< int64_t, a number of a step or round, 0 or more */
	CLI_NUMBER, /**< double, finite */
	CLI_AMOUNT, /**< double, CLI_AMOUNT_LEAST to CLI_AMOUNT_MOST: a price, a rate, a size */
	CLI_TEXT,   /**< const char * */
	CLI_CHOICE, /**< int, index into the words of `argument`, "csv|json" */
	CLI_FLAG,   /**< bool, true when given; takes no argument */
};

/** Quotients and products of amounts stay finite. */
#define CLI_AMOUNT_LEAST 1e-18
#define CLI_AMOUNT_MOST 1e18

/** One option, always long. */
struct cli_option {
	const char *name; /**< without the dashes */
	enum cli_type type;
	void *value;
	const char *argument; /**< its name in the help; NULL for a flag */
	const char *help;
	bool required;
};

/** A verb's command line. */
struct cli {
	const char *name;     /**< "plan" or "hints show" */
	const char *operands; /**< "LOADS.csv"; one in brackets may be left out */
	int operands_count;   /**< so many, with those in brackets */
	const char *about;    /**< what it does and prints, and an example */
	const struct cli_option *options;
};

/**
 * Reads the options. Returns the index of the first operand, or a negative number when there is
 * nothing more to do; `status` then is the exit status. --help is understood everywhere.
 */
int cli_parse(const struct cli *cli, int argc, char **argv, int *status);

/** Prints "moetap NAME: text" and where the help is on stderr, and returns CLI_USAGE. */
int cli_usage(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** Prints "moetap NAME: text" on stderr and returns CLI_FAILED. */
int cli_fail(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

struct verb;

/** Runs the verb argv[1] of a verb that has verbs of its own, or prints their table. Returns an
 * exit status. */
int cli_verbs(const char *name, const struct verb *verbs, size_t count, int argc, char **argv);

/** Prints an object, one member a line. Takes the reference. Returns an exit status. */
int cli_print_json(const char *name, json_t *object);

/** A number, or null where there is none (NAN). */
json_t *cli_number(double value);

/** Shows a bar and "done of total" on stderr if that is a terminal; clears it at the end. */
void cli_progress(const char *name, uint32_t done, uint32_t total);

#endif
