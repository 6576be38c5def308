/* SPDX-License-Identifier: BSD-3-Clause */
#include "gnuplot.h"

#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static bool ends_in(const char *path, const char *end)
{
	size_t n = strlen(path), m = strlen(end);

	return n >= m && strcmp(path + n - m, end) == 0;
}

int gnuplot_open(const char *verb, const char *path)
{
	int out;

	if (!ends_in(path, ".svg") && !ends_in(path, ".png")) {
		cli_fail(verb, "%s: the name of a plot ends in .svg or .png", path);
		return -1;
	}
	out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (out < 0)
		cli_fail(verb, "%s: %s", path, strerror(errno));
	return out;
}

void gnuplot_terminal(FILE *script, const char *path, int width, int height)
{
	fprintf(script, "set terminal %s size %d,%d\n", ends_in(path, ".png") ? "pngcairo" : "svg",
		width, height);
}

int gnuplot_run(const char *verb, FILE *script, int out, const char *path)
{
	char program[] = "gnuplot", *const arguments[] = {program, NULL};
	posix_spawn_file_actions_t actions;
	int ret, status;
	pid_t pid;

	if (fflush(script) != 0 || lseek(fileno(script), 0, SEEK_SET) < 0)
		return cli_fail(verb, "temporary file: %s", strerror(errno));
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, fileno(script), STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	ret = posix_spawnp(&pid, program, &actions, NULL, arguments, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (ret != 0)
		return cli_fail(verb, "gnuplot cannot be run: %s (on Debian it is in gnuplot-nox)",
			strerror(ret));
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return cli_fail(verb, "gnuplot failed; %s was not made", path);
	return CLI_DONE;
}
