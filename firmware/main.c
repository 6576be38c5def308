/* SPDX-License-Identifier: BSD-3-Clause */
/* moetap-fw: reads the all-to-all packets of a job and publishes its rounds on a device page. */
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <rte_ring_elem.h>

#include "control.h"
#include "eal.h"
#include "port.h"

#define RING_ROOM (64ull << 20) /* bytes that the rounds on a page may take, if not told */
#define MIN_SLOTS 16u
#define MAX_SLOTS 4096u
#define DEFAULT_FLOWS 16384u
#define HAND_OVER 1024u /* packets on their way from one core to another */
#define HOLE_MS                                                                                    \
	20u /* how long a packet is waited for when nothing comes; a capture: to its end           \
	     */

struct options {
	const char *map, *page;
	uint32_t slots, flows;
	int tap; /* enum mt_tap, -1: as the map says */
	bool once, paced;
};

static const char usage_text[] =
	"Usage: moetap-fw [EAL OPTIONS] -- --map FILE --page NAME [OPTIONS]\n\n"
	"Counts the tokens of a job's experts in the packets of a DPDK port and publishes them on\n"
	"the device page NAME. The first lcore controls, the others poll: give it two or more.\n\n"
	"  --map FILE        the job's map (required)\n"
	"  --page NAME       the device page, /dev/shm/moetap-NAME (required)\n"
	"  --tap all|heads   what the tap sees, instead of what the map says\n"
	"  --slots N         rounds kept for readers (default: as fit in 64 MiB, 16 to 4096)\n"
	"  --flows N         flows a poll core can tell apart (default: 16384, at most 1048576)\n"
	"  --once            end with the capture; for net_pcap\n"
	"  --paced           wait for a reader of the page rather than overtake it\n"
	"  --help            this text\n\n"
	"  moetap-fw -a 0000:03:00.0 --lcores 0@2,1@3 -- --map job.yaml --page job\n"
	"  moetap-fw --no-huge -m 256 --no-pci --vdev net_af_xdp0,iface=mirror0 -- \\\n"
	"            --map job.yaml --page job\n";

static int fail(const char *text)
{
	fflush(stdout); /* DPDK's usage text, where it printed one: this line is the last */
	fprintf(stderr, "moetap-fw: %s\n", text);
	return EXIT_FAILURE;
}

static void on_signal(int signal_number)
{
	(void)signal_number;
	fw_quit = true;
}

/* ---- options --------------------------------------------------------------------------------- */

static bool read_number(const char *text, uint32_t least, uint32_t most, uint32_t *value)
{
	char *end;
	unsigned long v;

	errno = 0;
	v = strtoul(text, &end, 10);
	if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || v < least || v > most)
		return false;
	*value = (uint32_t)v;
	return true;
}

static int take_option(struct options *o, int which, const char *name, struct mt_error *err)
{
	switch (which) {
	case 'm':
		o->map = optarg;
		return 0;
	case 'p':
		o->page = optarg;
		return 0;
	case 't':
		o->tap = strcmp(optarg, "all") == 0	? MT_TAP_ALL
			 : strcmp(optarg, "heads") == 0 ? MT_TAP_HEADS
							: -1;
		if (o->tap >= 0)
			return 0;
		return mt_fail(err, -EINVAL, "--tap is all or heads, not '%s'", optarg);
	case 's':
		if (read_number(optarg, 2, 1u << 20, &o->slots))
			return 0;
		return mt_fail(err, -EINVAL, "--slots is 2 to 1048576, not '%s'", optarg);
	case 'f':
		if (read_number(optarg, 1, MT_MAX_FLOWS, &o->flows))
			return 0;
		return mt_fail(err, -EINVAL, "--flows is 1 to %u, not '%s'", MT_MAX_FLOWS, optarg);
	case 'o':
		o->once = true;
		return 0;
	case 'w':
		o->paced = true;
		return 0;
	case ':':
		return mt_fail(err, -EINVAL, "%s wants an argument; see moetap-fw --help", name);
	default:
		return mt_fail(err, -EINVAL, "there is no option %s; see moetap-fw --help", name);
	}
}

/** @return 0, 1: help was asked for, or a negative errno */
static int read_options(int argc, char **argv, struct options *o, struct mt_error *err)
{
	static const struct option table[] = {{"map", required_argument, NULL, 'm'},
		{"page", required_argument, NULL, 'p'}, {"tap", required_argument, NULL, 't'},
		{"slots", required_argument, NULL, 's'}, {"flows", required_argument, NULL, 'f'},
		{"once", no_argument, NULL, 'o'}, {"paced", no_argument, NULL, 'w'},
		{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
	int which, ret;

	optind = 0;
	opterr = 0;
	while ((which = getopt_long(argc, argv, ":", table, NULL)) != -1) {
		if (which == 'h')
			return 1;
		ret = take_option(o, which, argv[optind - 1], err);
		if (ret < 0)
			return ret;
	}
	if (optind < argc)
		return mt_fail(
			err, -EINVAL, "'%s' is no option; see moetap-fw --help", argv[optind]);
	if (o->map == NULL)
		return mt_fail(err, -EINVAL, "--map FILE is missing; see moetap-fw --help");
	if (o->page == NULL)
		return mt_fail(err, -EINVAL, "--page NAME is missing; see moetap-fw --help");
	return 0;
}

/* ---- the plane ------------------------------------------------------------------------------- */

static bool shares_cpus(void)
{
	rte_cpuset_t all, cpus;
	unsigned int lcore;

	CPU_ZERO(&all);
	RTE_LCORE_FOREACH(lcore)
	{
		cpus = rte_lcore_cpuset(lcore);
		CPU_OR(&all, &all, &cpus);
	}
	return (unsigned int)CPU_COUNT(&all) < rte_lcore_count();
}

static void set_clocks(struct fw_plane *plane)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	plane->wall_tsc = rte_rdtsc();
	plane->wall_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	plane->ns_per_tsc = 1e9 / (double)rte_get_tsc_hz();
}

/**
 * A ring on which one core hands packets to another. In memory of its own: rte_ring_create() takes
 * a memzone, of which DPDK has 2,560, and 64 poll cores need 4,032 of these rings.
 */
static struct rte_ring *make_hand_over(const char *name)
{
	ssize_t bytes = rte_ring_get_memsize(HAND_OVER);
	struct rte_ring *ring =
		bytes > 0 ? rte_malloc(name, (size_t)bytes, RTE_CACHE_LINE_SIZE) : NULL;

	if (ring != NULL &&
		rte_ring_init(ring, name, HAND_OVER, RING_F_SP_ENQ | RING_F_SC_DEQ) == 0)
		return ring;
	rte_free(ring);
	return NULL;
}

static struct fw_core *make_core(uint32_t id, uint32_t cores, const struct options *o)
{
	struct fw_core *core = aligned_alloc(FW_APART, sizeof(*core));
	char name[32];

	if (core == NULL)
		return NULL;
	memset(core, 0, sizeof(*core));
	core->id = id;
	core->order = core->obeyed = FW_HOLD;
	core->wait_tsc = o->paced ? UINT64_MAX : rte_get_tsc_hz() / 1000 * FW_WAIT_MS;
	core->hold_tsc = o->once ? UINT64_MAX : rte_get_tsc_hz() / 1000 * HOLE_MS;
	snprintf(name, sizeof(name), "moetap-e%u", id);
	core->events = rte_ring_create_elem(name, sizeof(struct fw_event), FW_EVENTS, SOCKET_ID_ANY,
		RING_F_SP_ENQ | RING_F_SC_DEQ);
	snprintf(name, sizeof(name), "moetap-b%u", id);
	core->back = rte_ring_create_elem(
		name, sizeof(uint32_t), FW_EVENTS, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
	if (core->events == NULL || core->back == NULL)
		return NULL;
	for (uint32_t from = 0; from < cores; from++) {
		if (from == id)
			continue;
		snprintf(name, sizeof(name), "moetap-p%u-%u", from, id);
		core->in[from] = make_hand_over(name);
		if (core->in[from] == NULL)
			return NULL;
	}
	return core;
}

static int make_plane(struct fw_plane *plane, const struct options *o, struct mt_error *err)
{
	if (rte_lcore_count() < 2)
		return mt_fail(err, -EINVAL,
			"one lcore controls, the others poll: give it two or "
			"more, as in --lcores 0@0,1@1");
	if (rte_lcore_count() > FW_MAX_CORES + 1)
		return mt_fail(err, -EINVAL, "at most %u poll cores", FW_MAX_CORES);
	plane->cores = rte_lcore_count() - 1;
	plane->yield = shares_cpus();
	set_clocks(plane);
	for (uint32_t i = 0; i < plane->cores; i++) {
		plane->core[i] = make_core(i, plane->cores, o);
		if (plane->core[i] == NULL)
			return mt_fail(err, -ENOMEM, "no memory for %u poll cores: a larger -m",
				plane->cores);
	}
	return 0;
}

static void free_plane(struct fw_plane *plane)
{
	for (uint32_t i = 0; i < plane->cores && plane->core[i] != NULL; i++) {
		rte_ring_free(plane->core[i]->events);
		rte_ring_free(plane->core[i]->back);
		for (uint32_t from = 0; from < plane->cores; from++)
			rte_free(plane->core[i]->in[from]);
		free(plane->core[i]);
	}
}

struct job {
	struct fw_plane *plane;
	struct fw_core *core;
};

static int poll_main(void *arg)
{
	struct job *j = arg;

	fw_poll(j->plane, j->core);
	return 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

/** The page for a map, and the map on it. */
static int open_page(struct fw_control *c, const struct options *o, const struct mt_bank *bank,
	struct mt_error *err)
{
	struct mt_page_room room = {.bank_bytes = RTE_MAX(bank->bytes * 2, 65536u),
		.slot_bytes = mt_slot_bytes(bank->ranks, bank->experts),
		.slots = o->slots};
	uint64_t fit = RING_ROOM / room.slot_bytes;
	struct mt_page_state *s;
	uint32_t generation;
	int ret;

	if (room.slots == 0)
		room.slots = fit < MIN_SLOTS   ? MIN_SLOTS
			     : fit > MAX_SLOTS ? MAX_SLOTS
					       : (uint32_t)fit;
	ret = mt_page_create(&c->page, o->page, &room, err);
	if (ret < 0)
		return ret;
	s = &c->page.page->state;
	generation = s->generation + 1;
	ret = fw_control_use(c, bank, generation, err);
	if (ret < 0) {
		mt_page_close(&c->page);
		return ret;
	}
	c->page.page->stats.cores = c->plane->cores;
	memcpy(mt_page_bank(&c->page, generation), bank, bank->bytes);
	c->page.page->ctl.want = generation;
	s->bank = generation & 1;
	__atomic_store_n(&s->generation, generation, __ATOMIC_RELEASE);
	return 0;
}

static void run(struct fw_control *c)
{
	struct job jobs[FW_MAX_CORES];
	unsigned int lcore;
	uint32_t i = 0;

	RTE_LCORE_FOREACH_WORKER(lcore)
	{
		jobs[i] = (struct job){.plane = c->plane, .core = c->plane->core[i]};
		rte_eal_remote_launch(poll_main, &jobs[i], lcore);
		i++;
	}
	fw_control_run(c);
	rte_eal_mp_wait_lcore();
}

/** Everything between DPDK's start and its end. */
static int serve(const struct options *o, struct mt_bank *bank, struct mt_error *err)
{
	static struct fw_plane plane;
	static struct fw_control control;
	int ret;

	control = (struct fw_control){.plane = &plane,
		.max_flows = o->flows,
		.once = o->once,
		.paced = o->paced,
		.silent = true};
	ret = make_plane(&plane, o, err);
	if (ret < 0)
		goto out;
	ret = fw_ports_start(&plane, mt_bank_snap(bank), err);
	if (ret < 0)
		goto out;
	ret = open_page(&control, o, bank, err);
	if (ret == 0) {
		fw_telemetry_init(&control);
		fprintf(stderr, "moetap-fw: job '%s' on page '%s', %u port(s), %u poll core(s)\n",
			bank->job, o->page, rte_eth_dev_count_avail(), plane.cores);
		run(&control);
		fw_control_free(&control);
		mt_page_close(&control.page);
	}
	fw_ports_stop();
out:
	free_plane(&plane);
	return ret;
}

static bool asks_help(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return true;
	return argc == 1;
}

int main(int argc, char **argv)
{
	struct options o = {.flows = DEFAULT_FLOWS, .tap = -1};
	struct mt_error err = {.text = ""};
	struct mt_bank *bank = NULL;
	int ret, used;

	if (asks_help(argc, argv)) {
		fputs(usage_text, argc == 1 ? stderr : stdout);
		return argc == 1 ? 2 : EXIT_SUCCESS;
	}
	used = fw_eal_start(argc, argv, &err);
	if (used < 0)
		return fail(err.text);
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	ret = read_options(argc - used, argv + used, &o, &err);
	if (ret == 0)
		ret = mt_map_load(o.map, &bank, &err);
	else if (ret == 1)
		fputs(usage_text, stdout);
	if (ret == 0 && o.tap >= 0) {
		bank->tap = (uint32_t)o.tap;
		bank->checksum = mt_bank_sum(bank);
	}
	if (ret == 0)
		ret = serve(&o, bank, &err);
	free(bank);
	fw_eal_end();
	return ret < 0 ? fail(err.text) : EXIT_SUCCESS;
}
