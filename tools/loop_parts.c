/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The port between the two is net_memif: frames go through shared memory (memfd), the two meet at a
 * UNIX socket. Of DPDK's virtual ports it is the one that two processes can share without rights,
 * that loses nothing when the receiver is slow, and that gives frames as they come: net_ring is
 * within a process, net_pcap over a pipe reads whole bursts and so holds frames back, and net_tap,
 * net_af_packet and net_af_xdp need CAP_NET_RAW or more.
 */
#include "loop_parts.h"

#include "cli.h"
#include "moetap_page.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STOP_MS 5000 /* from SIGTERM to SIGKILL */
#define CPUS_MAX 128 /* DPDK knows no CPUs beyond */
#define ARGUMENTS 64
#define NOT_STARTED 127

static const char verb[] = "demo";

/* ---- finding and starting -------------------------------------------------------------------- */

/** moetap-job: $MOETAP_JOB, else in the build tree, else beside moetap-fw. */
static void find_job(struct loop_parts *p)
{
	const char *wanted = getenv("MOETAP_JOB"), *slash;
	char self[PATH_MAX];
	size_t room = sizeof(p->job.program);
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	self[n > 0 ? n : 0] = '\0';
	slash = strrchr(self, '/');
	n = slash != NULL ? slash + 1 - self : 0;
	if (wanted != NULL && wanted[0] != '\0')
		snprintf(p->job.program, room, "%s", wanted);
	else if ((size_t)snprintf(p->job.program, room, "%.*sjob/moetap-job", (int)n, self) >=
			 room ||
		 access(p->job.program, X_OK) != 0) {
		slash = strrchr(p->firmware.program, '/');
		n = slash != NULL ? slash + 1 - p->firmware.program : 0;
		snprintf(p->job.program, room, "%.*smoetap-job", (int)n, p->firmware.program);
	}
}

/** "(0-N)@(CPU,CPU,...)": lcores that are free to move over our CPUs. */
static void write_lcores(char *text, size_t size, unsigned int last)
{
	cpu_set_t cpus;
	size_t used = (size_t)snprintf(text, size, "(0-%u)@(", last);
	const char *comma = "";

	if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
		CPU_ZERO(&cpus);
	for (int cpu = 0; cpu < CPUS_MAX; cpu++)
		if (CPU_ISSET(cpu, &cpus)) {
			used += (size_t)snprintf(text + used, size - used, "%s%d", comma, cpu);
			comma = ",";
		}
	snprintf(text + used, size - used, "%s)", comma[0] == '\0' ? "0" : "");
}

/** In the child. Signals of the terminal go to us alone, so that we end it in order. */
static _Noreturn void become(
	const struct loop_part *part, const char *const *argv, int in, int out, pid_t parent)
{
	int log = open(part->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	sigset_t none;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(NOT_STARTED);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	dup2(in >= 0 ? in : open("/dev/null", O_RDONLY), STDIN_FILENO);
	dup2(out >= 0 ? out : log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	execvp(argv[0], (char *const *)argv);
	_exit(NOT_STARTED);
}

static int spawn(struct loop_part *part, const char *const *argv, int in, int out)
{
	pid_t parent = getpid();

	part->pid = fork();
	if (part->pid == 0)
		become(part, argv, in, out, parent);
	if (part->pid > 0)
		return CLI_DONE;
	part->pid = 0;
	return cli_fail(verb, "cannot start a process: %s", strerror(errno));
}

/* ---- ending ---------------------------------------------------------------------------------- */

static bool reap(struct loop_part *part, int options)
{
	pid_t got;

	if (part->pid == 0)
		return true;
	do {
		got = waitpid(part->pid, &part->status, options);
	} while (got < 0 && errno == EINTR);
	if (got == 0)
		return false;
	part->pid = 0;
	return true;
}

bool loop_runs(struct loop_part *part)
{
	char line[256], last[256] = "it says nothing";
	FILE *log;

	if (!reap(part, WNOHANG))
		return true;
	log = fopen(part->log, "r");
	while (log != NULL && fgets(line, sizeof(line), log) != NULL)
		if (line[0] != '\n')
			memcpy(last, line, sizeof(last));
	if (log != NULL)
		fclose(log);
	last[strcspn(last, "\n")] = '\0';
	if (WIFSIGNALED(part->status))
		cli_fail(verb, "%s died of signal %d: %s", part->program, WTERMSIG(part->status),
			last);
	else if (WEXITSTATUS(part->status) == NOT_STARTED)
		cli_fail(verb,
			"%s cannot be started: install moetap again, or set MOETAP_FW and "
			"MOETAP_JOB to the paths of moetap-fw and moetap-job",
			part->program);
	else
		cli_fail(verb, "%s ended early with exit status %d: %s", part->program,
			WEXITSTATUS(part->status), last);
	return false;
}

static void end(struct loop_part *part)
{
	const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};

	if (part->pid != 0)
		kill(part->pid, SIGTERM);
	for (int ms = 0; ms < STOP_MS && !reap(part, WNOHANG); ms += 5)
		nanosleep(&pause, NULL);
	if (part->pid != 0)
		kill(part->pid, SIGKILL);
	reap(part, 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	remove(path);
	return 0;
}

void loop_parts_end(struct loop_parts *p)
{
	char page[sizeof(MT_PAGE_PREFIX) + sizeof(p->page)];
	struct moetap_error error;

	end(&p->job);
	end(&p->firmware);
	if (p->report >= 0)
		close(p->report);
	if (p->leash >= 0)
		close(p->leash);
	/* The firmware removes its page itself, unless it was killed. */
	snprintf(page, sizeof(page), MT_PAGE_PREFIX "%s", p->page);
	shm_unlink(page);
	moetap_hint_remove(p->page, &error);
	if (p->folder[0] != '\0')
		nftw(p->folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	p->folder[0] = '\0';
}

/* ---- beginning ------------------------------------------------------------------------------- */

static void in_folder(const struct loop_parts *p, const char *name, char path[PATH_MAX])
{
	snprintf(path, PATH_MAX, "%.*s/%s", PATH_MAX - 32, p->folder, name);
}

/** The map, which the job knows. */
static int write_map(struct loop_parts *p, const struct moetap_shape *shape, uint32_t layers,
	uint32_t experts, uint32_t tokens)
{
	char map[PATH_MAX], ranks[12], slots[12], l[12], e[12], t[12];
	const char *const argv[] = {p->job.program, "--map", "--ranks", ranks, "--slots", slots,
		"--layers", l, "--experts", e, "--tokens", t, NULL};
	int file, status;

	in_folder(p, "map.yaml", map);
	snprintf(ranks, sizeof(ranks), "%u", shape->ranks);
	snprintf(slots, sizeof(slots), "%u", shape->slots);
	snprintf(l, sizeof(l), "%u", layers);
	snprintf(e, sizeof(e), "%u", experts);
	snprintf(t, sizeof(t), "%u", tokens);
	file = open(map, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (file < 0)
		return cli_fail(verb, "%s: %s", map, strerror(errno));
	status = spawn(&p->job, argv, -1, file);
	close(file);
	if (status == CLI_DONE)
		reap(&p->job, 0);
	if (status == CLI_DONE && p->job.status != 0) {
		loop_runs(&p->job);
		status = CLI_FAILED;
	}
	return status;
}

int loop_parts_new(struct loop_parts *p, const struct moetap_shape *shape, uint32_t layers,
	uint32_t experts, uint32_t tokens)
{
	const char *where = getenv("TMPDIR");

	*p = (struct loop_parts){.report = -1, .leash = -1};
	snprintf(p->page, sizeof(p->page), "demo-loop-%d", (int)getpid());
	moetap_firmware_path(p->firmware.program, sizeof(p->firmware.program));
	find_job(p);
	where = where != NULL && where[0] != '\0' ? where : "/tmp";
	snprintf(p->folder, sizeof(p->folder), "%s/moetap-demo-XXXXXX", where);
	/* a socket's name is short, and ends at a comma */
	if (strlen(p->folder) > 90 || strchr(p->folder, ',') != NULL)
		errno = EINVAL;
	else if (mkdtemp(p->folder) != NULL)
		errno = 0;
	if (errno != 0) {
		p->folder[0] = '\0';
		return cli_fail(verb,
			"cannot make a folder in %s: %s (set TMPDIR to one that is writable, "
			"short, and without a comma)",
			where, strerror(errno));
	}
	setenv("RUNTIME_DIRECTORY", p->folder, 1); /* DPDK heeds it */
	in_folder(p, "moetap-fw.log", p->firmware.log);
	in_folder(p, "moetap-job.log", p->job.log);
	return write_map(p, shape, layers, experts, tokens);
}

/** "net_memif0,...": DPDK's name of the port. */
static void write_port(const struct loop_parts *p, const char *role, char text[PATH_MAX])
{
	snprintf(text, PATH_MAX, "net_memif0,role=%s,rsize=11,socket=%.*s/memif,socket-abstract=no",
		role, PATH_MAX - 128, p->folder);
}

int loop_start_firmware(struct loop_parts *p)
{
	char lcores[CPUS_MAX * 4 + 32], port[PATH_MAX], map[PATH_MAX];
	const char *const argv[] = {p->firmware.program, "--no-huge", "-m", "128", "--no-pci",
		"--no-telemetry", "--no-shconf", "--file-prefix", "firmware", "--log-level",
		"error", "--lcores", lcores, "--vdev", port, "--", "--map", map, "--page", p->page,
		NULL};

	write_lcores(lcores, sizeof(lcores), 1);
	write_port(p, "server", port);
	in_folder(p, "map.yaml", map);
	return spawn(&p->firmware, argv, -1, -1);
}

int loop_start_job(struct loop_parts *p, const char *const *options)
{
	char lcores[CPUS_MAX * 4 + 32], port[PATH_MAX];
	const char *argv[ARGUMENTS] = {p->job.program, "--no-huge", "-m", "64", "--no-pci",
		"--no-telemetry", "--no-shconf", "--file-prefix", "job", "--log-level", "error",
		"--lcores", lcores, "--vdev", port, "--", "--hints", p->page};
	int in[2] = {-1, -1}, out[2] = {-1, -1}, n = 0, status;

	while (argv[n] != NULL)
		n++;
	for (int i = 0; options[i] != NULL && n < ARGUMENTS - 1; i++)
		argv[n++] = options[i];
	write_lcores(lcores, sizeof(lcores), 0);
	write_port(p, "client", port);
	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		return cli_fail(verb, "cannot make a pipe: %s", strerror(errno));
	status = spawn(&p->job, argv, in[0], out[1]);
	close(in[0]);
	close(out[1]);
	p->leash = in[1];
	p->report = out[0];
	return status;
}
