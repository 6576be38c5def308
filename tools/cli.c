/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli.h"
#include "verbs.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OPTIONS_MAX 32

static void print_help(const struct cli *cli)
{
	printf("Usage: moetap %s [OPTIONS] %s\n\n%s\n\nOptions:\n", cli->name, cli->operands,
		cli->about);
	for (const struct cli_option *o = cli->options; o->type != CLI_END; o++) {
		char left[48];

		snprintf(left, sizeof(left), "--%s %s", o->name,
			o->argument != NULL ? o->argument : "");
		printf("  %-24s %s%s\n", left, o->help, o->required ? " (required)" : "");
	}
	printf("  %-24s %s\n", "--help", "this text");
}

int cli_usage(const struct cli *cli, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "moetap %s: ", cli->name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\nSee: moetap %s --help\n", cli->name);
	return CLI_USAGE;
}

/** Index of `word` in "a|b|c", or -1. */
static int choice(const char *words, const char *word)
{
	size_t length = strlen(word);

	for (int i = 0; words != NULL; i++) {
		if (length > 0 && strncmp(words, word, length) == 0 &&
			(words[length] == '|' || words[length] == '\0'))
			return i;
		words = strchr(words, '|');
		words = words != NULL ? words + 1 : NULL;
	}
	return -1;
}

static bool read_integer(const char *text, long long least, long long most, long long *value)
{
	char *end;

	errno = 0;
	*value = strtoll(text, &end, 10);
	return errno == 0 && end != text && *end == '\0' && *value >= least && *value <= most;
}

/** Stores an option's argument. Returns an exit status. */
static int store(const struct cli *cli, const struct cli_option *o, const char *text)
{
	long long integer;
	char *end;

	switch (o->type) {
	case CLI_COUNT:
		if (!read_integer(text, 1, UINT32_MAX, &integer))
			return cli_usage(
				cli, "--%s must be an integer from 1 on, not '%s'", o->name, text);
		*(uint32_t *)o->value = (uint32_t)integer;
		return CLI_DONE;
	case CLI_STEP:
		if (!read_integer(text, 0, INT64_MAX / 4, &integer))
			return cli_usage(
				cli, "--%s must be an integer, 0 or more, not '%s'", o->name, text);
		*(int64_t *)o->value = integer;
		return CLI_DONE;
	case CLI_NUMBER:
		*(double *)o->value = strtod(text, &end);
		if (end == text || *end != '\0' || !isfinite(*(double *)o->value))
			return cli_usage(cli, "--%s must be a number, not '%s'", o->name, text);
		return CLI_DONE;
	case CLI_AMOUNT:
		*(double *)o->value = strtod(text, &end);
		if (end == text || *end != '\0' || !(*(double *)o->value >= CLI_AMOUNT_LEAST) ||
			*(double *)o->value > CLI_AMOUNT_MOST)
			return cli_usage(cli,
				"--%s must be a number above 0 (%g to %g), not '%s'", o->name,
				CLI_AMOUNT_LEAST, CLI_AMOUNT_MOST, text);
		return CLI_DONE;
	case CLI_CHOICE:
		*(int *)o->value = choice(o->argument, text);
		if (*(int *)o->value < 0)
			return cli_usage(cli, "--%s must be one of %s, not '%s'", o->name,
				o->argument, text);
		return CLI_DONE;
	case CLI_TEXT:
		*(const char **)o->value = text;
		return CLI_DONE;
	case CLI_FLAG:
		*(bool *)o->value = true;
		return CLI_DONE;
	case CLI_END:
		break;
	}
	return CLI_USAGE;
}

/** Makes getopt's table; the last option is --help. Returns the number of ours. */
static int make_table(const struct cli *cli, struct option table[OPTIONS_MAX + 2])
{
	int n = 0;

	for (; cli->options[n].type != CLI_END && n < OPTIONS_MAX; n++)
		table[n] = (struct option){cli->options[n].name,
			cli->options[n].type == CLI_FLAG ? no_argument : required_argument, NULL,
			0};
	table[n] = (struct option){"help", no_argument, NULL, 0};
	table[n + 1] = (struct option){0};
	return n;
}

static int optional_operands(const struct cli *cli)
{
	int n = 0;

	for (const char *at = strchr(cli->operands, '['); at != NULL; at = strchr(at + 1, '['))
		n++;
	return n;
}

int cli_parse(const struct cli *cli, int argc, char **argv, int *status)
{
	struct option table[OPTIONS_MAX + 2];
	bool given[OPTIONS_MAX] = {false};
	int n = make_table(cli, table), index = 0, got;

	optind = 0; /* glibc: start anew, verbs may have verbs of their own */
	opterr = 0;
	*status = CLI_USAGE;
	while ((got = getopt_long(argc, argv, ":", table, &index)) != -1) {
		if (got == ':')
			cli_usage(cli, "%s wants an argument", argv[optind - 1]);
		else if (got == '?')
			cli_usage(cli, "there is no option %s", argv[optind - 1]);
		if (got != 0)
			return -1;
		if (index == n) {
			print_help(cli);
			*status = CLI_DONE;
			return -1;
		}
		given[index] = true;
		if (store(cli, &cli->options[index], optarg) != CLI_DONE)
			return -1;
	}
	for (int i = 0; i < n; i++) {
		if (!cli->options[i].required || given[i])
			continue;
		cli_usage(
			cli, "--%s %s is missing", cli->options[i].name, cli->options[i].argument);
		return -1;
	}
	n = argc - optind;
	if (n > cli->operands_count || n < cli->operands_count - optional_operands(cli)) {
		cli_usage(cli, "wanted after the options: %s",
			cli->operands_count > 0 ? cli->operands : "nothing");
		return -1;
	}
	return optind;
}

int cli_fail(const char *name, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "moetap %s: ", name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return CLI_FAILED;
}

int cli_verbs(const char *name, const struct verb *verbs, size_t count, int argc, char **argv)
{
	bool help = argc > 1 && strcmp(argv[1], "--help") == 0;
	FILE *to = help ? stdout : stderr;

	for (size_t i = 0; argc > 1 && i < count; i++) {
		if (strcmp(argv[1], verbs[i].name) == 0)
			return verbs[i].run(argc - 1, argv + 1);
	}
	fprintf(to, "Usage: moetap %s VERB [OPTIONS] ...\n\nVerbs:\n", name);
	for (size_t i = 0; i < count; i++)
		fprintf(to, "  %-10s %s\n", verbs[i].name, verbs[i].title);
	return help ? CLI_DONE : CLI_USAGE;
}

int cli_print_json(const char *name, json_t *object)
{
	const char *key, *separator = "{";
	json_t *value;

	if (object == NULL)
		return cli_fail(name, "out of memory");
	json_object_foreach(object, key, value)
	{
		printf("%s\n\"%s\": ", separator, key);
		json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(10));
		separator = ",";
	}
	printf("\n}\n");
	json_decref(object);
	return CLI_DONE;
}

json_t *cli_number(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

void cli_progress(const char *name, uint32_t done, uint32_t total)
{
	static const char bar[] = "########################";
	const int width = sizeof(bar) - 1;

	if (!isatty(STDERR_FILENO))
		return;
	if (done < total)
		fprintf(stderr, "\rmoetap %s: [%-*.*s] %u of %u ", name, width,
			(int)((uint64_t)done * (uint32_t)width / total), bar, done, total);
	else
		fprintf(stderr, "\r\033[K");
	fflush(stderr);
}
