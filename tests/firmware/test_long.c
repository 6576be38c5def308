/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Many random jobs through the data path, damaged on their way: rounds are the truth or say that they
 * are not; with noise of any bytes between: nothing crashes, every packet has one outcome.
 *
 * usage: test-firmware-long [MILLIONS OF PACKETS]; MOETAP_SEED=N runs one again
 */
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

static const struct form masked = {0x15, 44, 0, 12, 8, false, 0};

static const struct job jobs[] = {
	{.ranks = 3, .experts = 2, .layers = 3, .parity = true, .counts = true, .combine = true},
	{.ranks = 2, .experts = 4, .layers = 2, .counts = true, .combine = true},
	{.ranks = 3, .experts = 2, .layers = 2, .counts = true, .combine = true, .heads = true},
	{.ranks = 2, .experts = 2, .layers = 3, .parity = true, .combine = true},
	{.ranks = 3, .experts = 2, .layers = 3, .combine = true},
	{.ranks = 3, .experts = 1, .layers = 2, .combine = true, .rule = JOB_LENGTH, .send = true},
	{.ranks = 2, .experts = 3, .layers = 2, .combine = true, .rule = JOB_QP, .send = true},
	{.ranks = 2, .experts = 3, .layers = 2, .combine = true, .rule = JOB_QP},
	{.ranks = 3, .experts = 1, .layers = 2, .rule = JOB_LENGTH, .idle_us = 200},
	{.ranks = 4, .experts = 4, .layers = 4, .micro_batches = 2, .pattern = "training",
		.parity = true, .counts = true, .combine = true},
	{.ranks = 3, .experts = 2, .layers = 3, .counts = true, .combine = true, .form = &masked,
		.atomic_form = "learn"},
	{.ranks = 3, .experts = 2, .layers = 3, .parity = true, .counts = true, .combine = true,
		.form = &masked, .atomic_form = "learn"},
	{.ranks = 3, .experts = 2, .layers = 2, .combine = true, .rule = JOB_INDEX},
	{.ranks = 3, .experts = 3, .layers = 2, .told = true, .combine = true, .rule = JOB_UNREAD},
	{.ranks = 3, .experts = 2, .layers = 2, .told = true, .combine = true},
	{.ranks = 2, .experts = 3, .layers = 2, .told = true, .combine = true, .parity = true},
	{.ranks = 3, .experts = 3, .layers = 3, .told = true, .combine = true, .rule = JOB_INDEX},
	{.ranks = 3, .experts = 2, .layers = 2, .told = true, .combine = true, .rule = JOB_QP},
	{.ranks = 3, .experts = 1, .layers = 3, .told = true, .combine = true, .rule = JOB_LENGTH, .send = true},
	{.ranks = 3, .experts = 3, .layers = 2, .told = true, .combine = true, .rule = JOB_LENGTH},
	{.ranks = 2, .experts = 1, .layers = 2, .combine = true},
	{.ranks = 2, .experts = 1, .layers = 3, .parity = true, .combine = true},
};

enum damage { NONE, SHUFFLE, LOSS, LOSE_SOURCE, LOSE_ALL, RESTART, RESTART_OTHER, NOISE, DAMAGES };

static const char *const damage_names[] = {"none", "shuffle", "loss", "lose a source's round",
	"lose rounds", "restart", "restart with other queue pairs", "noise"};

/** Of all jobs; shared by their processes. */
struct totals {
	uint64_t packets;
	struct {
		uint64_t jobs, rounds, inexact, align;
	} of[DAMAGES];
};

static uint32_t draw(void *arg)
{
	uint64_t *state = arg;

	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*state >> 32);
}

static void damage(struct sim *s, enum damage d)
{
	uint32_t at = 4 + sim_draw(s, s->rounds - 8);

	sim_sort(s);
	if (d == LOSS)
		sim_lose(s, 1 + sim_draw(s, s->j->counts && s->j->form == NULL ? 1300 : 650), 2, s->rounds - 3);
	if (d == LOSE_SOURCE)
		sim_lose_round(s, at, sim_draw(s, s->j->ranks), sim_draw(s, 2));
	if (d == LOSE_SOURCE && sim_draw(s, 2))
		damage(s, LOSS);
	for (uint32_t n = 1 + sim_draw(s, 3); d == LOSE_ALL && n > 0; n--)
		sim_lose_round(s, RTE_MIN(at++, s->rounds - 3), UINT32_MAX, sim_draw(s, 2));
	if (d == SHUFFLE)
		sim_shuffle(s, sim_draw(s, 100));
}

/** Any bytes, or a packet of the job with some of its bytes changed. */
static void send_noise(struct sim *s, struct path *p, const struct frame *f)
{
	uint8_t data[PATH_FRAME];
	uint32_t bytes = frame_make(data, f);

	if (sim_draw(s, 4) == 0)
		for (uint32_t i = 0; i < bytes; i++)
			data[i] = (uint8_t)draw(s->arg);
	for (uint32_t n = 1 + sim_draw(s, 4); n > 0; n--)
		data[sim_draw(s, bytes)] = (uint8_t)draw(s->arg);
	if (sim_draw(s, 4) == 0)
		bytes = sim_draw(s, bytes + 1);
	path_receive(p, data, bytes, f->ns);
}

static void play_noise(struct sim *s, struct path *p, uint32_t pace)
{
	for (size_t i = 0; i < s->n; i++) {
		path_send(p, &s->out[i].f);
		for (uint32_t n = sim_draw(s, 3); n > 0; n--)
			send_noise(s, p, &s->out[i].f);
		if (i % pace == 0)
			path_pump(p);
	}
	path_end(p);
	MUST(p->published <= 2 * p->frames);
}

static void add_up(struct totals *all, const struct path *p, enum damage d)
{
	all->packets += p->frames;
	all->of[d].jobs++;
	all->of[d].rounds += p->published;
	for (uint32_t i = 0; i < p->published; i++) {
		all->of[d].inexact += (p->round[i]->quality & MT_Q_INEXACT) != 0;
		all->of[d].align += (p->round[i]->quality & MT_Q_ALIGN) != 0;
	}
}

/** Whether packets are counted in the order of their sender; else when they come. */
static bool is_ordered(const struct job *j)
{
	return j->told || (j->counts && j->form == NULL);
}

static void run(struct path *p, uint64_t *state, struct totals *all)
{
	const struct job *j = &jobs[draw(state) % RTE_DIM(jobs)];
	enum damage d = draw(state) % DAMAGES;
	uint32_t rounds = 16 + draw(state) % 100, restart = 0, cores = 1 + draw(state) % PATH_CORES;
	static char what[128];
	struct sim s;

	/* what moetap does not claim: see flow.h and rounds.h */
	if (!is_ordered(j) && j->ranks * j->experts > 2 && d == SHUFFLE)
		d = NONE;
	if (j->rule == JOB_QP && d == RESTART_OTHER)
		d = RESTART;
	snprintf(what, sizeof(what), "job %u, %s, %u rounds, %u cores", (uint32_t)(j - jobs),
		damage_names[d], rounds, cores);
	path_what = what;
	sim_begin(&s, j, draw, state);
	if (d == RESTART || d == RESTART_OTHER) /* after an even number: the parity changes */
		restart = 6 + draw(state) % (rounds - 10) / 2 * 2;
	s.retransmit = draw(state) % 2 ? draw(state) % 1000 : 0;
	s.tokens = 1 + draw(state) % 12;
	for (uint32_t i = 0; i < rounds; i++) {
		if (restart != 0 && i == restart)
			sim_restart(&s, d == RESTART_OTHER);
		sim_round(&s);
	}
	damage(&s, d);
	path_use(p, job_bank(j), cores, 256);
	if (d == NOISE) {
		play_noise(&s, p, 1 + draw(state) % 256);
	} else {
		sim_play(&s, p, 1 + draw(state) % 64);
		sim_check(&s, p, d == NONE || (d == SHUFFLE && is_ordered(j)));
	}
	add_up(all, p, d);
	path_drop(p);
	sim_free(&s);
}

/** One job in a process of its own, so that one that fails ends no others. @return whether it is good */
static bool run_apart(struct path *p, uint64_t seed, struct totals *all)
{
	uint64_t state = seed * 0x9e3779b97f4a7c15ull;
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		alarm(120);
		run(p, &state, all);
		_exit(EXIT_SUCCESS);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return false;
	if (status != 0)
		fprintf(stderr, "MOETAP_SEED=%lu failed\n", seed);
	return status == 0;
}

int main(int argc, char **argv)
{
	uint64_t most = (argc > 1 ? strtoull(argv[1], NULL, 10) : 10) * 1000000;
	const char *given = getenv("MOETAP_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) << 10, bad = 0, n = 0;
	struct totals *all = mmap(NULL, sizeof(*all), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	time_t begun = time(NULL);
	static struct path p;

	MUST(all != MAP_FAILED);
	path_start_dpdk();
	path_init(&p);
	printf("MOETAP_SEED=%lu\n", seed);
	do { /* every job has a seed of its own: what fails is run again alone */
		bad += !run_apart(&p, seed + n, all);
		n++;
	} while (all->packets < most && bad < 20 && !(given && argc == 1));
	for (uint32_t d = 0; d < DAMAGES; d++)
		printf("%-32s %6lu jobs %8lu rounds %8lu inexact %8lu align\n", damage_names[d],
			all->of[d].jobs, all->of[d].rounds, all->of[d].inexact, all->of[d].align);
	printf("%lu jobs, %lu packets, %lu failed, %ld s\n", n, all->packets, bad,
		(long)(time(NULL) - begun));
	rte_eal_cleanup();
	return bad == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
