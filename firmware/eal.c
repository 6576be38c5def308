/* SPDX-License-Identifier: BSD-3-Clause */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>

#include "eal.h"
#include "moetap_page.h"

/* ---- the command line ------------------------------------------------------------------------ */

/** The argument of an option among ours, behind "--"; NULL: it is not there. */
static const char *our_option(int argc, char **argv, const char *name)
{
	size_t n = strlen(name);
	bool ours = false;

	for (int i = 1; i < argc; i++) {
		ours |= strcmp(argv[i], "--") == 0;
		if (!ours || strncmp(argv[i], name, n) != 0)
			continue;
		if (argv[i][n] == '=')
			return argv[i] + n + 1;
		if (argv[i][n] == '\0' && i + 1 < argc)
			return argv[i + 1];
	}
	return NULL;
}

/** Whether an option begins so among DPDK's, which may be shortened. */
static bool eal_option(int argc, char **argv, const char *begin)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strncmp(argv[i], begin, strlen(begin)) == 0)
			return true;
	return false;
}

/** A prefix from the page's name; "" where the user gave one, or the name makes none. */
static void choose_prefix(int argc, char **argv, char *prefix, size_t size)
{
	const char *page = our_option(argc, argv, "--page");

	prefix[0] = '\0';
	if (page == NULL || page[0] == '\0' || strlen(page) >= MT_NAME_LEN ||
		strpbrk(page, "/%") != NULL || eal_option(argc, argv, "--file"))
		return;
	snprintf(prefix, size, "moetap-%s", page);
}

/* ---- what DPDK says -------------------------------------------------------------------------- */

/*
 * DPDK gives a number when it cannot start, and often that number is 0. What was wrong is in its
 * log only, so this goes through us on its way to standard error.
 */
static const struct cause {
	const char *words; /* of DPDK */
	const char *meaning;
} causes[] = {
	{"Is another primary process running", NULL}, /* see explain() */
	{"core ", NULL},
	{"specified cores are part of", NULL},
	{"invalid parameter for --lcores",
		"--lcores cannot be read: it is a list of LCORE@CPU, as in --lcores 0@2,1@3"},
	{"invalid core list", "the list of cores cannot be read: use --lcores, as in --lcores "
			      "0@2,1@3"},
	{"hugepage", "there are no free huge pages that it may use: sysctl -w vm.nr_hugepages=512, "
		     "or add --no-huge "
		     "-m 256"},
	{"'command line' arguments", "an option before -- is wrong: DPDK's own words are above"},
};

static const struct cause *cause;

static ssize_t hear(void *cookie, const char *text, size_t size)
{
	char line[256];

	(void)cookie;
	snprintf(line, sizeof(line), "%.*s", (int)(size < sizeof(line) ? size : sizeof(line) - 1),
		text);
	for (size_t i = 0; i < sizeof(causes) / sizeof(causes[0]); i++) {
		if (cause != NULL && cause <= &causes[i])
			break;
		if (strstr(line, causes[i].words) != NULL &&
			(i != 1 || strstr(line, "unavailable") != NULL))
			cause = &causes[i];
	}
	fwrite(text, 1, size, stderr);
	return (ssize_t)size;
}

static int explain(const char *prefix, struct mt_error *err)
{
	const char *text = rte_errno != 0 ? rte_strerror(rte_errno) : "its own words are above";

	if (cause == &causes[0] && prefix[0] != '\0')
		return mt_fail(err, -EBUSY,
			"DPDK cannot start: a program with --file-prefix %s runs already, a "
			"moetap-fw on the same page: stop it, or choose another --page",
			prefix);
	if (cause == &causes[0])
		return mt_fail(err, -EBUSY,
			"DPDK cannot start: another DPDK program runs with the same --file-prefix: "
			"choose another one, or leave it out for one of the page's name");
	if (cause == &causes[1] || cause == &causes[2])
		return mt_fail(err, -EINVAL,
			"DPDK cannot start: it was given CPUs that it may not use (which ones, see "
			"above): %ld are online, from 0 to %ld; several lcores may share one, as "
			"in "
			"--lcores 0@0,1@0",
			sysconf(_SC_NPROCESSORS_ONLN), sysconf(_SC_NPROCESSORS_ONLN) - 1);
	if (cause != NULL)
		return mt_fail(err, -EINVAL, "DPDK cannot start: %s", cause->meaning);
	return mt_fail(err, -EIO,
		"DPDK cannot start (%s). Without root: add --no-huge --no-pci, and taps need "
		"CAP_NET_RAW",
		text);
}

/* ---- start and end --------------------------------------------------------------------------- */

int fw_eal_start(int argc, char **argv, struct mt_error *err)
{
	static const cookie_io_functions_t to_us = {.write = hear};
	static char option[] = "--file-prefix", prefix[MT_NAME_LEN + 16];
	static char **with; /* DPDK keeps its arguments */
	FILE *log = fopencookie(NULL, "w", to_us);
	int more = 0, used;

	with = calloc((size_t)argc + 3, sizeof(*with));
	if (with == NULL || log == NULL)
		return mt_fail(err, -ENOMEM, "out of memory");
	setvbuf(log, NULL, _IOLBF, 0);
	choose_prefix(argc, argv, prefix, sizeof(prefix));
	with[0] = argv[0];
	if (prefix[0] != '\0') {
		with[1] = option;
		with[2] = prefix;
		more = 2;
	}
	memcpy(with + 1 + more, argv + 1, (size_t)argc * sizeof(*with)); /* and the NULL */
	rte_openlog_stream(log);
	used = rte_eal_init(argc + more, with);
	rte_openlog_stream(NULL);
	fclose(log);
	return used < 0 ? explain(prefix, err) : used - more;
}

void fw_eal_end(void)
{
	char path[PATH_MAX], dir[PATH_MAX];
	struct dirent *e;
	DIR *d;

	snprintf(dir, sizeof(dir), "%s", rte_eal_get_runtime_dir());
	rte_eal_cleanup();
	d = opendir(dir);
	while (d != NULL && (e = readdir(d)) != NULL)
		if (e->d_name[0] != '.' &&
			snprintf(path, sizeof(path), "%s/%s", dir, e->d_name) < PATH_MAX)
			unlink(path);
	if (d != NULL)
		closedir(d);
	rmdir(dir);
}
