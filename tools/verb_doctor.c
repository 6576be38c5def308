/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file verb_doctor.c: `moetap doctor`, what this host lacks and the command that mends it.
 *
 * One function a check. A check adds one line or several to a report: what was looked at, how it
 * stands, what was found, and the remedy. Only "wrong" fails: captures can be counted without root,
 * huge pages or a NIC, so a lack of those is a warning.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli.h"
#include "moetap.h"
#include "telemetry.h"
#include "verbs.h"

enum standing { GOOD, NOTE, WARNING, WRONG };

static const char *const standing_names[] = {"ok", "note", "warning", "wrong"};

#define FOUND_LEN 512
#define REMEDY_LEN 256
#define MAX_LINES 256	       /* of a report; more interfaces than that are not listed */
#define SHM_ROOM (64ULL << 20) /* bytes: a page of some hundred experts with its ring */
#define ABI_FIRST 23	       /* of DPDK 22.11, the oldest supported */
#define ABI_LAST 40
#define ROCE_MTU 2200 /* a path MTU of 2048 and its headers */
#define XDP_MTU 3498  /* largest that fits a 4 KiB page with XDP's own room in it */
#if defined(__aarch64__)
#define KERNEL_PACKAGE "linux-image-arm64"
#else
#define KERNEL_PACKAGE "linux-image-amd64"
#endif
#define AS_ROOT "sudo moetap-fw ..., to tap live"

struct line {
	const char *check;
	enum standing standing;
	char found[FOUND_LEN];
	char remedy[REMEDY_LEN];
};

struct report {
	struct line lines[MAX_LINES];
	unsigned int count;
};

/** Copy a text, or as much of it as there is room for. */
static void copy(char *to, size_t len, const char *from)
{
	size_t n = strnlen(from, len - 1);

	memcpy(to, from, n);
	to[n] = '\0';
}

/** Add a line, "" for no remedy; a full report takes no more. */
__attribute__((format(printf, 5, 6))) static void add(struct report *rep, const char *check,
	enum standing standing, const char *remedy, const char *found, ...)
{
	struct line *l = &rep->lines[rep->count];
	va_list ap;

	if (rep->count == MAX_LINES)
		return;
	rep->count++;
	l->check = check;
	l->standing = standing;
	copy(l->remedy, sizeof(l->remedy), remedy);
	va_start(ap, found);
	vsnprintf(l->found, sizeof(l->found), found, ap);
	va_end(ap);
}

/* ---- looking ----------------------------------------------------------------------------- */

/** First line of a small file, without its newline; false: no such file, or it is empty. */
static bool read_line(const char *path, char *buf, size_t len)
{
	FILE *f = fopen(path, "re");
	bool got;

	if (f == NULL)
		return false;
	got = fgets(buf, (int)len, f) != NULL;
	fclose(f);
	if (got)
		buf[strcspn(buf, "\n")] = '\0';
	return got;
}

/** The number after @p name in a file of lines "name number"; @p none where there is no such line.
 */
static uint64_t read_field(const char *path, const char *name, int base, uint64_t none)
{
	FILE *f = fopen(path, "re");
	size_t n = strlen(name);
	char buf[256];

	if (f == NULL)
		return none;
	while (fgets(buf, sizeof(buf), f) != NULL)
		if (strncmp(buf, name, n) == 0) {
			none = strtoull(buf + n, NULL, base);
			break;
		}
	fclose(f);
	return none;
}

/** Last component of what a symbolic link names, "" where there is no link. */
static void link_name(const char *path, char *buf, size_t len)
{
	char target[PATH_MAX];
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	const char *slash;

	buf[0] = '\0';
	if (n < 0)
		return;
	target[n] = '\0';
	slash = strrchr(target, '/');
	copy(buf, len, slash != NULL ? slash + 1 : target);
}

/** Replace this process, a fresh child, by a program whose output goes into @p out. */
static _Noreturn void become(const char *const *argv, int out)
{
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	execvp(argv[0], (char *const *)argv);
	dprintf(STDERR_FILENO, "%s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

/**
 * Run a program to its end.
 *
 * @param[out] words its last line that is not empty
 * @return its exit status, 128 + number of the signal that ended it, or a negative errno
 */
static int run(const char *const *argv, char *words, size_t len)
{
	char buf[FOUND_LEN];
	int ends[2], status;
	FILE *out;
	pid_t pid;

	words[0] = '\0';
	if (pipe(ends) < 0)
		return -errno;
	pid = fork();
	if (pid == 0)
		become(argv, ends[1]);
	close(ends[1]);
	out = fdopen(ends[0], "r");
	while (pid > 0 && out != NULL && fgets(buf, sizeof(buf), out) != NULL) {
		buf[strcspn(buf, "\n")] = '\0';
		if (buf[0] != '\0')
			copy(words, len, buf);
	}
	if (out != NULL)
		fclose(out);
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- host -------------------------------------------------------------------------------- */

static void check_privileges(struct report *rep)
{
	/* bits of linux/capability.h */
	static const struct {
		unsigned int bit;
		const char *name;
	} wanted[] = {
		{12, "CAP_NET_ADMIN"}, {13, "CAP_NET_RAW"}, {21, "CAP_SYS_ADMIN"}, {39, "CAP_BPF"}};
	uint64_t caps = read_field("/proc/self/status", "CapEff:", 16, 0);
	char missing[128] = "";
	size_t n = 0;

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		if (!(caps >> wanted[i].bit & 1))
			n += (size_t)snprintf(
				missing + n, sizeof(missing) - n, " %s", wanted[i].name);
	if (n == 0)
		add(rep, "privileges", GOOD, "", "uid %u with the capabilities of a live tap",
			geteuid());
	else
		add(rep, "privileges", WARNING, AS_ROOT,
			"uid %u lacks%s: captures can be counted, a live tap needs them", geteuid(),
			missing);
}

static void check_huge_pages(struct report *rep)
{
	uint64_t free_pages = read_field("/proc/meminfo", "HugePages_Free:", 10, 0);
	uint64_t size = read_field("/proc/meminfo", "Hugepagesize:", 10, 0);
	uint64_t total = read_field("/proc/meminfo", "HugePages_Total:", 10, 0);
	char remedy[REMEDY_LEN];

	/* those that are in use stay */
	snprintf(remedy, sizeof(remedy), "sysctl -w vm.nr_hugepages=%" PRIu64, total + 512);
	if (free_pages > 0)
		add(rep, "huge pages", GOOD, "", "%" PRIu64 " free of %" PRIu64 " kB", free_pages,
			size);
	else
		add(rep, "huge pages", WARNING, remedy,
			"none free of %" PRIu64
			": start moetap-fw with --no-huge, slower on a busy link",
			total);
}

static void check_shm(struct report *rep)
{
	char remedy[REMEDY_LEN];
	struct statvfs v;
	uint64_t room, size;

	if (statvfs("/dev/shm", &v) < 0) {
		add(rep, "/dev/shm", WRONG, "mount -t tmpfs tmpfs /dev/shm", "%s", strerror(errno));
		return;
	}
	room = (uint64_t)v.f_bavail * v.f_frsize;
	size = (uint64_t)v.f_blocks * v.f_frsize;
	snprintf(remedy, sizeof(remedy),
		"ls -lS /dev/shm, and remove what nobody needs; or mount -o remount,size=%" PRIu64
		"M /dev/shm (of a container: start it with a larger --shm-size)",
		(size >> 20) + 1024);
	if (access("/dev/shm", W_OK) < 0)
		add(rep, "/dev/shm", WRONG, "chmod 1777 /dev/shm",
			"not writable: no device page can be made");
	else if (room < SHM_ROOM)
		add(rep, "/dev/shm", WRONG, remedy,
			"%" PRIu64 " of %" PRIu64 " MiB free, a device page may need %llu",
			room >> 20, size >> 20, SHM_ROOM >> 20);
	else
		add(rep, "/dev/shm", GOOD, "", "writable, %" PRIu64 " MiB free", room >> 20);
}

static void check_btf(struct report *rep)
{
	if (access("/sys/kernel/btf/vmlinux", R_OK) == 0)
		add(rep, "BTF", GOOD, "", "/sys/kernel/btf/vmlinux");
	else
		add(rep, "BTF", WARNING, "apt-get install " KERNEL_PACKAGE " && reboot",
			"this kernel does not describe its types: no eBPF discovery or XDP "
			"counting");
}

static void check_clock(struct report *rep)
{
	char name[64], others[256] = "";

	read_line("/sys/devices/system/clocksource/clocksource0/available_clocksource", others,
		sizeof(others));
	if (!read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", name,
		    sizeof(name)))
		add(rep, "clock", NOTE, "mount -t sysfs sysfs /sys", "source unknown");
	else if (strcmp(name, "tsc") == 0 || strcmp(name, "arch_sys_counter") == 0 ||
		 strcmp(name, "kvm-clock") == 0)
		add(rep, "clock", GOOD, "", "%s", name);
	else if (strstr(others, "tsc") == NULL)
		add(rep, "clock", NOTE, "",
			"%s: every reading of the time is a system call, and the kernel offers no "
			"better source here",
			name);
	else
		add(rep, "clock", WARNING,
			"echo tsc "
			">/sys/devices/system/clocksource/clocksource0/current_clocksource",
			"%s: every reading of the time is a system call", name);
}

/* ---- DPDK and the firmware ------------------------------------------------------------------ */

/** Ask the EAL itself, found by its ABI number: this program is not linked with DPDK. */
static void check_dpdk(struct report *rep)
{
	const char *(*version)(void);
	char name[32];
	void *lib = NULL;
	int abi = ABI_LAST + 1;

	while (lib == NULL && --abi >= ABI_FIRST) {
		snprintf(name, sizeof(name), "librte_eal.so.%d", abi);
		lib = dlopen(name, RTLD_LAZY | RTLD_LOCAL);
	}
	if (lib == NULL) {
		add(rep, "DPDK", WRONG, "apt-get install libdpdk-dev",
			"no librte_eal.so.%d or later: moetap-fw cannot start", ABI_FIRST);
		return;
	}
	/* ISO C has no cast from an object to a function; POSIX says that this works */
	*(void **)&version = dlsym(lib, "rte_version");
	add(rep, "DPDK", GOOD, "", "%s", version != NULL ? version() : name);
}

/** The smallest map. */
static const char trial_map[] =
	"moetap-map: 1\n"
	"job: doctor\n"
	"pattern: inference\n"
	"layers: 1\n"
	"experts-per-rank: 1\n"
	"ranks:\n"
	"  - {rank: 0, address: 192.0.2.1}\n"
	"  - {rank: 1, address: 192.0.2.2}\n"
	"rules:\n"
	"  - {name: stream, rule: length, phase: dispatch, length: [1, 1024], token-bytes: 1,"
	" expert: {fixed: 0}}\n";

/** A capture without packets: pcap, version 2.4, Ethernet. */
static const uint32_t trial_capture[] = {0xa1b2c3d4, 2 | 4 << 16, 0, 0, 65535, 1};

static bool write_file(const char *path, const void *data, size_t len)
{
	FILE *f = fopen(path, "we");
	bool good;

	if (f == NULL)
		return false;
	good = fwrite(data, 1, len, f) == len;
	return fclose(f) == 0 && good;
}

/** Send the capture without packets through moetap-fw, without huge pages. */
static void try_firmware(struct report *rep, const char *map, const char *capture)
{
	char path[PATH_MAX], port[PATH_MAX + 32], prefix[32], page[32], words[FOUND_LEN];
	char remedy[REMEDY_LEN];
	const char *const argv[] = {path, "--no-huge", "-m", "64", "--no-pci", "--no-telemetry",
		"--file-prefix", prefix, "--vdev", port, "--", "--map", map, "--page", page,
		"--once", NULL};
	int status;

	moetap_firmware_path(path, sizeof(path));
	snprintf(port, sizeof(port), "net_pcap0,rx_pcap=%s", capture);
	snprintf(prefix, sizeof(prefix), "moetap-doctor-%d", (int)getpid());
	snprintf(page, sizeof(page), "doctor-%d", (int)getpid());
	snprintf(remedy, sizeof(remedy),
		"%.120s --no-huge -m 64 --no-pci --vdev net_null0 -- --help, for all that DPDK "
		"says",
		path);
	status = run(argv, words, sizeof(words));
	if (status == 0)
		add(rep, "moetap-fw", GOOD, "", "%s, runs without huge pages", path);
	else if (status == 127)
		add(rep, "moetap-fw", WRONG,
			"tools/quickstart, or export MOETAP_FW=/path/to/moetap-fw", "%s", words);
	else if (strstr(words, "/dev/shm") != NULL)
		add(rep, "moetap-fw", WRONG, "see /dev/shm, below", "%s ended with %d: %s", path,
			status, words);
	else
		add(rep, "moetap-fw", WRONG, remedy, "%s ended with %d: %s", path, status, words);
}

static void check_firmware(struct report *rep)
{
	char dir[] = "/tmp/moetap-doctor-XXXXXX", map[64], capture[64];

	if (mkdtemp(dir) == NULL) {
		add(rep, "moetap-fw", WRONG, "chmod 1777 /tmp",
			"no trial run: cannot write in /tmp");
		return;
	}
	snprintf(map, sizeof(map), "%s/map.yaml", dir);
	snprintf(capture, sizeof(capture), "%s/empty.pcap", dir);
	if (write_file(map, trial_map, sizeof(trial_map) - 1) &&
		write_file(capture, trial_capture, sizeof(trial_capture)))
		try_firmware(rep, map, capture);
	else
		add(rep, "moetap-fw", WRONG, "df /tmp", "no trial run: no room in /tmp");
	unlink(map);
	unlink(capture);
	rmdir(dir);
}

/* ---- network ----------------------------------------------------------------------------- */

/** How DPDK takes over a kernel driver's port; drivers not named here give AF_XDP only. */
static const struct {
	const char *driver;
	const char *how;
} dpdk_drivers[] = {
	{"mlx5_core", "DPDK beside the kernel (mlx5), or AF_XDP"},
	{"mlx4_core", "DPDK beside the kernel (mlx4), or AF_XDP"},
	{"mana", "DPDK beside the kernel (mana), or AF_XDP"},
	{"ice", "DPDK once bound to vfio-pci, or AF_XDP"},
	{"iavf", "DPDK once bound to vfio-pci, or AF_XDP"},
	{"i40e", "DPDK once bound to vfio-pci, or AF_XDP"},
	{"ixgbe", "DPDK once bound to vfio-pci, or AF_XDP"},
	{"igb", "DPDK once bound to vfio-pci, or AF_XDP"},
	{"igc", "DPDK once bound to vfio-pci, or AF_XDP"},
	{"e1000e", "DPDK once bound to vfio-pci, or AF_XDP"},
	{"bnxt_en", "DPDK once bound to vfio-pci, or AF_XDP"},
	{"ena", "DPDK once bound to vfio-pci, or AF_XDP"},
	{"ionic", "DPDK once bound to vfio-pci, or AF_XDP"},
	{"virtio_net", "DPDK once bound to vfio-pci, or AF_XDP"},
	{"vmxnet3", "DPDK once bound to vfio-pci, or AF_XDP"},
};

#define AF_XDP_ONLY "AF_XDP"

static const char *how_to_use(const char *driver)
{
	for (size_t i = 0; i < sizeof(dpdk_drivers) / sizeof(dpdk_drivers[0]); i++)
		if (strcmp(driver, dpdk_drivers[i].driver) == 0)
			return dpdk_drivers[i].how;
	return AF_XDP_ONLY;
}

/** Whether a default route goes through an interface: then the host is reached by it. */
static bool has_default_route(const char *name)
{
	static const char none[] = "00000000000000000000000000000000 00 ";
	char buf[512], iface[64], target[64];
	bool found = false;
	FILE *f = fopen("/proc/net/route", "re");

	while (f != NULL && !found && fgets(buf, sizeof(buf), f) != NULL)
		found = sscanf(buf, "%63s %63s", iface, target) == 2 && strcmp(iface, name) == 0 &&
			strcmp(target, "00000000") == 0;
	if (f != NULL)
		fclose(f);
	f = found ? NULL : fopen("/proc/net/ipv6_route", "re");
	while (f != NULL && !found && fgets(buf, sizeof(buf), f) != NULL)
		found = strncmp(buf, none, strlen(none)) == 0 &&
			sscanf(buf, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %63s", iface) == 1 &&
			strcmp(iface, name) == 0;
	if (f != NULL)
		fclose(f);
	return found;
}

/**
 * The MTU matters to AF_XDP only: moetap-fw gives a port of DPDK's own the MTU that it needs. And
 * AF_XDP takes no frame of a path MTU of 4096, whatever the interface is set to.
 */
static void add_interface(struct report *rep, const char *name)
{
	char path[PATH_MAX], driver[64], text[32] = "0", state[32] = "?", remedy[REMEDY_LEN];
	const char *kind;
	long mtu;

	snprintf(path, sizeof(path), "/sys/class/net/%s/device/driver", name);
	link_name(path, driver, sizeof(driver));
	kind = driver[0] != '\0' ? driver : "virtual";
	snprintf(path, sizeof(path), "/sys/class/net/%s/mtu", name);
	read_line(path, text, sizeof(text));
	mtu = strtol(text, NULL, 10);
	snprintf(path, sizeof(path), "/sys/class/net/%s/operstate", name);
	read_line(path, state, sizeof(state));
	snprintf(remedy, sizeof(remedy), "ip link set dev %s mtu %d", name, XDP_MTU);
	if (has_default_route(name))
		add(rep, "interface", NOTE, "",
			"%s (%s, %s): the default route goes through it: no tap, it would take "
			"this host's own packets",
			name, kind, state);
	else if (mtu > XDP_MTU)
		add(rep, "interface", NOTE, remedy,
			"%s (%s, %s): %s; MTU %ld is more than AF_XDP takes, %d", name, kind, state,
			how_to_use(driver), mtu, XDP_MTU);
	else if (mtu < ROCE_MTU)
		add(rep, "interface", NOTE, remedy,
			"%s (%s, %s): %s; with AF_XDP, MTU %ld drops the packets of a path MTU of "
			"2048 (those of 4096 fit no AF_XDP port: have the mirror cut frames)",
			name, kind, state, how_to_use(driver), mtu);
	else
		add(rep, "interface", GOOD, "", "%s (%s, %s): %s; MTU %ld", name, kind, state,
			how_to_use(driver), mtu);
}

static bool is_port(const char *name)
{
	char path[PATH_MAX], type[16];

	if (name[0] == '.')
		return false;
	snprintf(path, sizeof(path), "/sys/class/net/%s/type", name);
	return read_line(path, type, sizeof(type)) && strcmp(type, "1") == 0; /* ARPHRD_ETHER */
}

static void check_interfaces(struct report *rep)
{
	DIR *d = opendir("/sys/class/net");
	const struct dirent *e;
	unsigned int n = 0;

	while (d != NULL && (e = readdir(d)) != NULL)
		if (is_port(e->d_name)) {
			add_interface(rep, e->d_name);
			n++;
		}
	if (d != NULL)
		closedir(d);
	if (n == 0)
		add(rep, "interface", NOTE, "dpdk-devbind.py --status",
			"the kernel has no Ethernet port: DPDK has them, or only captures can be "
			"counted");
}

static void check_af_xdp(struct report *rep)
{
	int fd = socket(AF_XDP, SOCK_RAW, 0);

	if (fd >= 0)
		add(rep, "AF_XDP", GOOD, "", "sockets can be opened");
	else if (errno == EPERM)
		add(rep, "AF_XDP", WARNING, AS_ROOT, "%s", strerror(errno));
	else
		add(rep, "AF_XDP", WARNING, "apt-get install " KERNEL_PACKAGE " && reboot",
			"%s: this kernel lacks CONFIG_XDP_SOCKETS, use a port of DPDK's own",
			strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void add_rdma(struct report *rep, const char *name)
{
	char path[PATH_MAX], address[64], where[80], words[FOUND_LEN], remedy[REMEDY_LEN];
	const char *const argv[] = {
		"devlink", "dev", "param", "show", where, "name", "enable_roce", NULL};
	int status;

	snprintf(path, sizeof(path), "/sys/class/infiniband/%s/device", name);
	link_name(path, address, sizeof(address));
	if (address[0] == '\0') {
		add(rep, "RDMA", GOOD, "", "%s: soft RoCE, its packets pass its network interface",
			name);
		return;
	}
	snprintf(where, sizeof(where), "pci/%s", address);
	status = run(argv, words, sizeof(words));
	if (status == 0 && strstr(words, "value false") != NULL) {
		add(rep, "RDMA", GOOD, "", "%s: RoCE is off, its packets reach DPDK", name);
		return;
	}
	snprintf(remedy, sizeof(remedy),
		"devlink dev param set %s name enable_roce value false cmode driverinit && "
		"devlink dev reload %s",
		where, where);
	add(rep, "RDMA", NOTE, status == 0 ? remedy : "",
		"%s: RDMA that ends in this NIC never reaches a DPDK queue of it: tap a mirror "
		"port on another NIC%s",
		name, status == 0 ? "; if no job uses this one, RoCE can be switched off" : "");
}

static void check_rdma(struct report *rep)
{
	DIR *d = opendir("/sys/class/infiniband");
	const struct dirent *e;

	while (d != NULL && (e = readdir(d)) != NULL)
		if (e->d_name[0] != '.')
			add_rdma(rep, e->d_name);
	if (d != NULL)
		closedir(d);
}

/* ---- a running firmware ----------------------------------------------------------------------- */

static json_int_t number(const json_t *columns, const char *name, size_t row)
{
	return json_integer_value(json_array_get(json_object_get(columns, name), row));
}

static const char page_remedy[] = "start moetap-fw with --page of that name, as the same user";

/** Whether the queue pairs of two ranks share UDP source ports: switches spread flows by these. */
static void check_ports(struct report *rep, const char *page)
{
	char why[FOUND_LEN];
	json_t *ports = telemetry_ask(page, "/moetap/ports", why, sizeof(why));
	json_int_t pairs = json_integer_value(json_object_get(ports, "pairs"));

	if (ports == NULL)
		add(rep, "source ports", WRONG, page_remedy, "%s", why);
	else if (pairs == 0)
		add(rep, "source ports", GOOD, "", "every queue pair that %s saw has its own", page);
	else
		add(rep, "source ports", WARNING, "",
			"%lld queue pairs from rank %lld to rank %lld share %lld UDP source ports, and "
			"so in %lld pairs of ranks: a switch spreads them over no more paths, and a NIC "
			"over no more queues",
			(long long)number(ports, "queue_pairs", 0), (long long)number(ports, "src", 0),
			(long long)number(ports, "dst", 0), (long long)number(ports, "ports", 0),
			(long long)pairs);
	json_decref(ports);
}

/** Packets that the port had no room for are in no count. */
static void check_drops(struct report *rep, const char *page)
{
	char why[FOUND_LEN];
	json_t *stats = telemetry_ask(page, "/moetap/stats", why, sizeof(why));
	json_int_t drops = json_integer_value(json_object_get(stats, "nic_drops"));
	json_int_t packets = json_integer_value(json_object_get(stats, "packets"));

	if (stats == NULL)
		add(rep, "drops", WRONG, page_remedy, "%s", why);
	else
		add(rep, "drops", drops == 0 ? GOOD : WARNING, "",
			"the port of %s dropped %lld packets beside %lld received%s", page,
			(long long)drops, (long long)packets,
			drops == 0 ? "" : ": more poll cores, a CPU for each, huge pages");
	json_decref(stats);
}

/* ---- the verb ------------------------------------------------------------------------------ */

static void (*const checks[])(struct report *) = {check_privileges, check_huge_pages, check_dpdk,
	check_firmware, check_shm, check_btf, check_clock, check_af_xdp, check_interfaces,
	check_rdma};

static bool any(const struct report *rep, enum standing standing)
{
	for (unsigned int i = 0; i < rep->count; i++)
		if (rep->lines[i].standing == standing)
			return true;
	return false;
}

static void print_table(const struct report *rep)
{
	for (unsigned int i = 0; i < rep->count; i++) {
		const struct line *l = &rep->lines[i];

		printf("%-8s %-11s %s\n", standing_names[l->standing], l->check, l->found);
		if (l->remedy[0] != '\0')
			printf("%-20s -> %s\n", "", l->remedy);
	}
	puts(any(rep, WRONG) ? "Something that moetap needs is missing: see the lines marked wrong."
		: any(rep, WARNING) ? "Captures can be counted. What a live tap lacks: see the "
				      "lines marked warning."
				    : "Everything that moetap needs is there.");
}

static int print_json(const struct report *rep)
{
	json_t *lines = json_array();

	for (unsigned int i = 0; i < rep->count; i++) {
		const struct line *l = &rep->lines[i];

		json_array_append_new(lines, json_pack("{s:s, s:s, s:s, s:s}", "check", l->check,
						     "standing", standing_names[l->standing],
						     "found", l->found, "remedy", l->remedy));
	}
	return cli_print_json(
		"doctor", json_pack("{s:b, s:o}", "ok", !any(rep, WRONG), "checks", lines));
}

int verb_doctor(int argc, char **argv)
{
	static struct report rep;
	const char *page = NULL;
	int format = 0, status;
	const struct cli_option options[] = {
		{"page", CLI_TEXT, &page, "NAME",
			"look at the running moetap-fw of this page too", false},
		{"format", CLI_CHOICE, &format, "text|json", "how to print it", false},
		{NULL, CLI_END, NULL, NULL, NULL, false}};
	const struct cli cli = {"doctor", "", 0,
		"Looks at this host: what moetap needs, how it stands, and the command that mends "
		"it.\n"
		"Exit status 0: everything needed is there; 1: something is missing.\n\n"
		"  moetap doctor",
		options};

	if (cli_parse(&cli, argc, argv, &status) < 0)
		return status;
	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++)
		checks[i](&rep);
	if (page != NULL) {
		check_ports(&rep, page);
		check_drops(&rep, page);
	}
	if (format == 0)
		print_table(&rep);
	else if (print_json(&rep) != CLI_DONE)
		return CLI_FAILED;
	return !any(&rep, WRONG) ? CLI_DONE : CLI_FAILED;
}
