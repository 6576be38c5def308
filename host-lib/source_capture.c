/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A moetap-fw of our own that counts a capture: a child process that reads the file from its
 * standard input, where a feed writes it.
 */
#include "source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "moetap_page.h"

#define CORES_MAX 64u
#define MEMORY_LEAST 128u /* MB that DPDK gets, of which it takes what it uses */
#define CPUS_MAX 128	  /* DPDK's RTE_MAX_LCORE: it knows no CPUs beyond */
#define STOP_MS 5000	  /* from SIGTERM to SIGKILL */
#define PREFIX "moetap"	  /* of the files that DPDK makes */
#define NOT_STARTED 127

struct capture {
	struct feed *feed;
	pid_t pid;  /**< 0: none */
	int status; /**< of waitpid(2), once pid is 0 again */
	int log;    /**< what it says, a file in memory; -1: none */
	char page[MT_NAME_LEN];
	char folder[PATH_MAX]; /**< where DPDK makes its files; "": none */
	sigset_t before;       /**< signals that were held back before, while there is one */
	char program[PATH_MAX];
};

char *moetap_firmware_path(char *path, size_t size)
{
	static const char *const places[] = {
		"moetap-fw", "../sbin/moetap-fw", "../firmware/moetap-fw"};
	const char *wanted = getenv("MOETAP_FW");
	char self[PATH_MAX], *slash;
	ssize_t n;

	if (wanted != NULL && wanted[0] != '\0') {
		snprintf(path, size, "%s", wanted);
		return path;
	}
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[n > 0 ? n : 0] = '\0';
	slash = strrchr(self, '/');
	for (size_t i = 0; slash != NULL && i < sizeof(places) / sizeof(places[0]); i++) {
		slash[1] = '\0';
		if ((size_t)snprintf(path, size, "%s%s", self, places[i]) < size &&
			access(path, X_OK) == 0)
			return path;
	}
	snprintf(path, size, "moetap-fw");
	return path;
}

/* ---- starting ---- */

/** Signals that end a program. They wait while there is a folder, or they would leave it behind. */
static const int ending[] = {SIGINT, SIGTERM, SIGHUP};

static bool is_ending(const struct capture *c)
{
	sigset_t pending;

	if (c->folder[0] == '\0' || sigpending(&pending) < 0)
		return false;
	for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++)
		if (sigismember(&pending, ending[i]) == 1 &&
			sigismember(&c->before, ending[i]) == 0)
			return true;
	return false;
}

/** Makes the folder for DPDK's files, in which no other user can stand in the way. */
static int make_folder(struct capture *c, struct moetap_error *error)
{
	const char *where = getenv("TMPDIR");
	int n = snprintf(c->folder, sizeof(c->folder), "%s/moetap-XXXXXX",
		where != NULL && where[0] != '\0' ? where : "/tmp");

	sigset_t held;

	sigemptyset(&held);
	for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++)
		sigaddset(&held, ending[i]);
	pthread_sigmask(SIG_BLOCK, &held, &c->before);
	if ((size_t)n < sizeof(c->folder) && mkdtemp(c->folder) != NULL)
		return 0;
	n = errno;
	c->folder[0] = '\0';
	pthread_sigmask(SIG_SETMASK, &c->before, NULL);
	return mtl_fail(error, -n, "cannot make a folder in %s: %s (set TMPDIR)",
		where != NULL ? where : "/tmp", strerror(n));
}

static void remove_folder(struct capture *c)
{
	static const char *const parts[] = {("/dpdk/" PREFIX), "/dpdk", ""};
	char path[PATH_MAX + 32];

	for (size_t i = 0; c->folder[0] != '\0' && i < sizeof(parts) / sizeof(parts[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", c->folder, parts[i]);
		rmdir(path);
	}
	if (c->folder[0] == '\0')
		return;
	c->folder[0] = '\0';
	pthread_sigmask(SIG_SETMASK, &c->before, NULL);
}

/** "(0-N)@(CPU,CPU,...)": a control core and N poll cores, free to move over our CPUs. */
static void write_lcores(char *text, size_t size, uint32_t cores)
{
	cpu_set_t cpus;
	size_t used = (size_t)snprintf(text, size, "(0-%u)@(", cores);
	const char *comma = "";

	if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
		CPU_ZERO(&cpus);
	for (int cpu = 0; cpu < CPUS_MAX; cpu++) {
		if (!CPU_ISSET(cpu, &cpus))
			continue;
		used += (size_t)snprintf(text + used, size - used, "%s%d", comma, cpu);
		comma = ",";
	}
	snprintf(text + used, size - used, "%s)", comma[0] == '\0' ? "0" : "");
}

/** The environment with RUNTIME_DIRECTORY, which DPDK heeds; to be freed, as is `entry`. */
static char **make_environment(const struct capture *c, char *entry, size_t size)
{
	static const char name[] = "RUNTIME_DIRECTORY=";
	size_t n = 0, to = 0;
	char **all;

	while (environ[n] != NULL)
		n++;
	all = calloc(n + 2, sizeof(*all));
	if (all == NULL)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (strncmp(environ[i], name, strlen(name)) != 0)
			all[to++] = environ[i];
	snprintf(entry, size, "%s%s", name, c->folder);
	all[to] = entry;
	return all;
}

/** What a child needs, made before it is one. */
struct birth {
	const char *argv[32];
	char **environment;
	int in, log;
	pid_t parent;
	sigset_t no_signals;
};

/** In the child: only what is safe after fork(2) in a program with threads. */
static _Noreturn void become_firmware(const struct birth *b)
{
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != b->parent)
		_exit(NOT_STARTED);
	sigprocmask(SIG_SETMASK, &b->no_signals, NULL);
	dup2(b->in, STDIN_FILENO);
	dup2(b->log, STDOUT_FILENO);
	dup2(b->log, STDERR_FILENO);
	execvpe(b->argv[0], (char *const *)b->argv, b->environment);
	_exit(NOT_STARTED);
}

static int spawn(struct capture *c, struct birth *b, struct moetap_error *error)
{
	char entry[PATH_MAX + 32];

	b->environment = make_environment(c, entry, sizeof(entry));
	if (b->environment == NULL)
		return mtl_fail_memory(error);
	b->parent = getpid();
	b->log = c->log;
	sigemptyset(&b->no_signals);
	c->pid = fork();
	if (c->pid == 0)
		become_firmware(b);
	free(b->environment);
	if (c->pid > 0)
		return 0;
	c->pid = 0;
	return mtl_fail(error, -errno, "cannot start a process: %s", strerror(errno));
}

/** Starts the firmware with a pipe as its input, and the feed that fills the pipe. */
static int connect(struct capture *c, struct birth *b, struct moetap_error *error)
{
	int ends[2], ret;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return mtl_fail(error, -errno, "cannot make a pipe: %s", strerror(errno));
	b->in = ends[0];
	ret = spawn(c, b, error);
	close(ends[0]);
	if (ret == 0)
		return mtl_feed_start(c->feed, ends[1], error);
	close(ends[1]);
	return ret;
}

/** MB for that many poll cores: each has packet buffers and a queue of events, and from every other
 * one a ring. A quarter more than 16 to 64 poll cores were found to need. */
static uint32_t memory_for(uint32_t cores)
{
	uint32_t need = 96 + 10 * cores + cores * cores / 64;

	return need > MEMORY_LEAST ? need : MEMORY_LEAST;
}

static int start(struct capture *c, const char *map, const struct moetap_capture_options *options,
	struct moetap_error *error)
{
	uint32_t cores = options->cores > 0 ? options->cores : 1;
	char lcores[CPUS_MAX * 4 + 32], memory[16];
	struct birth b = {
		.argv = {c->program, "--no-huge", "-m", memory, "--no-pci", "--no-telemetry",
			"--no-shconf", "--file-prefix", PREFIX, "--log-level", "error", "--lcores",
			lcores, "--vdev", "net_pcap0,rx_pcap=-", "--", "--map", map, "--page",
			c->page, "--once", "--paced", options->tap != NULL ? "--tap" : NULL,
			options->tap, NULL}};
	uint32_t random = 0;

	if (cores > CORES_MAX)
		return mtl_fail(error, -EINVAL, "%u poll cores: at most %u", cores, CORES_MAX);
	write_lcores(lcores, sizeof(lcores), cores);
	snprintf(memory, sizeof(memory), "%u", memory_for(cores));
	if (getrandom(&random, sizeof(random), 0) < 0)
		random = (uint32_t)time(NULL);
	snprintf(c->page, sizeof(c->page), "capture-%d-%08x", (int)getpid(), random);
	moetap_firmware_path(c->program, sizeof(c->program));
	c->log = memfd_create("moetap-fw", MFD_CLOEXEC);
	if (c->log < 0)
		return mtl_fail(error, -errno, "cannot make a file in memory: %s", strerror(errno));
	return connect(c, &b, error);
}

int mtl_capture_start(const char *path, const char *map,
	const struct moetap_capture_options *options, struct capture **capture,
	struct moetap_error *error)
{
	struct capture *c = calloc(1, sizeof(*c));
	int ret;

	if (c == NULL)
		return mtl_fail_memory(error);
	c->log = -1;
	ret = mtl_feed_open(path, &c->feed, error);
	if (ret == 0)
		ret = make_folder(c, error);
	if (ret == 0)
		ret = start(c, map, options, error);
	if (ret < 0)
		mtl_capture_stop(c);
	else
		*capture = c;
	return ret;
}

const char *mtl_capture_page(const struct capture *c)
{
	return c->page;
}

/* ---- ending ---- */

/** Its last line that is not empty; "" when it said nothing. */
static void last_words(const struct capture *c, char *words, size_t size)
{
	char tail[2048];
	off_t length = lseek(c->log, 0, SEEK_END);
	off_t from = length > (off_t)sizeof(tail) - 1 ? length - ((off_t)sizeof(tail) - 1) : 0;
	ssize_t n = pread(c->log, tail, sizeof(tail) - 1, from);
	char *line, *rest = tail;

	words[0] = '\0';
	tail[n > 0 ? n : 0] = '\0';
	while ((line = strsep(&rest, "\n")) != NULL)
		if (line[0] != '\0')
			snprintf(words, size, "%s", line);
}

static int explain(const struct capture *c, struct moetap_error *error)
{
	char words[sizeof(error->text)];

	last_words(c, words, sizeof(words));
	if (WIFEXITED(c->status) && WEXITSTATUS(c->status) == NOT_STARTED)
		return mtl_fail(error, -EIO,
			"%s cannot be started%s%s: set MOETAP_FW to the path of moetap-fw, or see "
			"moetap doctor",
			c->program, words[0] != '\0' ? ": " : "", words);
	if (WIFSIGNALED(c->status))
		return mtl_fail(
			error, -EIO, "moetap-fw died of signal %d: %s", WTERMSIG(c->status), words);
	if (words[0] != '\0' && WEXITSTATUS(c->status) != 0)
		return mtl_fail(error, -EIO, "%s", words);
	return mtl_fail(error, -EIO, "%s ended early with exit status %d", c->program,
		WEXITSTATUS(c->status));
}

/** Returns whether it has ended. */
static bool reap(struct capture *c, int options)
{
	pid_t got;

	if (c->pid == 0)
		return true;
	do {
		got = waitpid(c->pid, &c->status, options);
	} while (got < 0 && errno == EINTR);
	if (got == 0)
		return false;
	c->pid = 0;
	return true;
}

int mtl_capture_running(struct capture *c, struct moetap_error *error)
{
	if (is_ending(c))
		return mtl_fail(error, -EINTR, "interrupted");
	return reap(c, WNOHANG) ? explain(c, error) : 0;
}

void mtl_capture_started(struct capture *c)
{
	remove_folder(c);
}

int mtl_capture_end(struct capture *c, struct moetap_error *error)
{
	reap(c, 0);
	if (!WIFEXITED(c->status) || WEXITSTATUS(c->status) != 0)
		return explain(c, error);
	return mtl_feed_end(c->feed, error);
}

double mtl_capture_progress(const struct capture *c)
{
	return mtl_feed_progress(c->feed);
}

static void end_firmware(struct capture *c)
{
	const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
	char page[sizeof(MT_PAGE_PREFIX) + MT_NAME_LEN];

	if (c->pid != 0)
		kill(c->pid, SIGTERM);
	for (int ms = 0; ms < STOP_MS && !reap(c, WNOHANG); ms += 5)
		nanosleep(&pause, NULL);
	if (c->pid != 0)
		kill(c->pid, SIGKILL);
	reap(c, 0);
	/* It removes its page itself, unless it was killed. */
	snprintf(page, sizeof(page), MT_PAGE_PREFIX "%s", c->page);
	if (c->page[0] != '\0')
		shm_unlink(page);
}

void mtl_capture_stop(struct capture *c)
{
	end_firmware(c);
	if (c->feed != NULL)
		mtl_feed_close(c->feed);
	if (c->log >= 0)
		close(c->log);
	remove_folder(c);
	free(c);
}
