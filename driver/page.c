/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "page.h"

#define LOAD_TIMEOUT_MS 5000

static int page_path(char *path, size_t len, const char *name, struct mt_error *err)
{
	if (name[0] == '\0' || strlen(name) >= MT_NAME_LEN - sizeof(MT_PAGE_PREFIX) ||
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") !=
			strlen(name))
		return mt_fail(err, -EINVAL,
			"page name '%s': 1 to %zu letters, digits, '.', '_' or '-'", name,
			MT_NAME_LEN - sizeof(MT_PAGE_PREFIX) - 1);
	snprintf(path, len, "%s%s", MT_PAGE_PREFIX, name);
	return 0;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/** Whether n items lie in the page after its header, aligned for the 64-bit words in them. */
static bool part_inside(uint64_t size, uint64_t off, uint64_t item, uint32_t n)
{
	return off >= sizeof(struct mt_page) && off <= size && off % 8 == 0 &&
	       (n == 1 || item % 8 == 0) && (size - off) / item >= n;
}

/** Whether what lies in memory is a page of this version whose parts lie inside it. */
static int page_check(const struct mt_page *p, uint64_t size, struct mt_error *err)
{
	uint64_t magic = __atomic_load_n(&p->magic, __ATOMIC_ACQUIRE);

	if (magic == 0)
		return mt_fail(err, -EAGAIN, "the page is just being made; try again");
	if (magic != MT_PAGE_MAGIC)
		return mt_fail(err, -EPROTO, "not a moetap page");
	if (p->version != MT_PAGE_VERSION || p->header_bytes != sizeof(*p))
		return mt_fail(err, -EPROTO,
			"page of version %u, this program reads version %u: use programs of one "
			"release on both sides, and restart moetap-fw",
			p->version, MT_PAGE_VERSION);
	if (p->size != size || p->name[sizeof(p->name) - 1] != '\0' || p->slots == 0 ||
		p->bank_bytes < sizeof(struct mt_bank) || p->slot_bytes < sizeof(struct mt_round) ||
		!part_inside(size, p->bank_off[0], p->bank_bytes, 1) ||
		!part_inside(size, p->bank_off[1], p->bank_bytes, 1) ||
		!part_inside(size, p->ring_off, p->slot_bytes, p->slots))
		return mt_fail(err, -EPROTO,
			"damaged page: remove its file in /dev/shm and restart moetap-fw");
	return 0;
}

/** Open the page's file and lock it as its firmware; a file that was just removed is not it. */
static int open_locked(const char *path, struct stat *st, struct mt_error *err)
{
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = MT_LOCK_FIRMWARE, .l_len = 1};
	int fd, ret;

	for (;;) {
		/* not O_CREAT at once: root may then not open other users' files
		 * (fs.protected_regular) */
		fd = shm_open(path, O_RDWR | O_CLOEXEC, 0);
		if (fd < 0 && errno == ENOENT)
			fd = shm_open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		if (fd < 0 && errno == EEXIST)
			continue; /* made meanwhile by another */
		if (fd < 0)
			return mt_fail(err, -errno, "/dev/shm%s: %s%s", path, strerror(errno),
				errno == EACCES ? " (start as its owner or as root)" : "");
		if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
			close(fd);
			return mt_fail(err, -EBUSY,
				"/dev/shm%s: another moetap-fw runs on this page; stop it or "
				"choose another --page",
				path);
		}
		if (fstat(fd, st) < 0) {
			ret = -errno;
			close(fd);
			return mt_fail(err, ret, "/dev/shm%s: %s", path, strerror(-ret));
		}
		if (st->st_nlink != 0)
			return fd;
		close(fd); /* its firmware ended and removed it meanwhile */
	}
}

static void page_layout(
	struct mt_page *p, const char *name, const struct mt_page_room *room, uint64_t size)
{
	uint64_t bank = ((uint64_t)room->bank_bytes + 4095) & ~4095ULL;

	p->version = MT_PAGE_VERSION;
	p->header_bytes = sizeof(*p);
	p->size = size;
	snprintf(p->name, sizeof(p->name), "%s", name);
	p->bank_bytes = room->bank_bytes;
	p->slots = room->slots;
	p->bank_off[0] = 4096;
	p->bank_off[1] = 4096 + bank;
	p->ring_off = 4096 + 2 * bank;
	p->slot_bytes = room->slot_bytes;
}

/** Bytes of a page; 0: more than there can be, or room for nothing. */
static uint64_t page_size(const struct mt_page_room *room)
{
	uint64_t bank = ((uint64_t)room->bank_bytes + 4095) & ~4095ULL, size;

	if (room->bank_bytes < sizeof(struct mt_bank) || room->slots == 0 ||
		room->slot_bytes < sizeof(struct mt_round) || room->slot_bytes % 8 != 0 ||
		__builtin_mul_overflow(room->slot_bytes, room->slots, &size) ||
		size > INT64_MAX - 4096 - 2 * bank)
		return 0;
	return 4096 + 2 * bank + size;
}

static void page_boot(struct mt_page *p)
{
	struct mt_page_state *s = &p->state;
	uint64_t id = 0;

	while (id == 0)
		if (getrandom(&id, sizeof(id), 0) != sizeof(id))
			id = now_ns();
	memset(&p->stats, 0, sizeof(p->stats));
	p->ctl.want = s->generation;
	p->ctl.attached = 0;
	p->ctl.attached = 0;
	p->ctl.paced_head = 0;
	s->pid = (uint32_t)getpid();
	s->refused = 0;
	s->started_ns = s->heartbeat_ns = now_ns();
	s->starts++;
	__atomic_store_n(&s->state, MT_STATE_STARTING, __ATOMIC_RELAXED);
	__atomic_store_n(&s->boot_id, id, __ATOMIC_RELEASE);
}

/** Map an existing file: true when it is a page of this user with room enough. */
static bool try_take_over(
	struct mt_page_map *map, const struct mt_page_room *room, const struct stat *st)
{
	uint64_t size = (uint64_t)st->st_size;
	struct mt_page *p;

	/* another user could cut the file under our feet */
	if (size < sizeof(struct mt_page) || st->st_uid != geteuid())
		return false;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, map->fd, 0);
	if (p == MAP_FAILED)
		return false;
	if (page_check(p, size, NULL) == 0 && p->bank_bytes >= room->bank_bytes &&
		p->slot_bytes >= room->slot_bytes && p->slots >= room->slots) {
		map->page = p;
		map->size = size;
		return true;
	}
	if (p->magic == MT_PAGE_MAGIC && p->version == MT_PAGE_VERSION)
		__atomic_store_n(&p->state.state, MT_STATE_RETIRED, __ATOMIC_RELEASE);
	munmap(p, size);
	return false;
}

int mt_page_create(struct mt_page_map *map, const char *name, const struct mt_page_room *room,
	struct mt_error *err)
{
	char path[MT_NAME_LEN];
	struct stat st;
	uint64_t size = page_size(room);
	int ret;

	memset(map, 0, sizeof(*map));
	ret = page_path(path, sizeof(path), name, err);
	if (ret < 0)
		return ret;
	if (size == 0)
		return mt_fail(err, -EINVAL, "page '%s': %u rounds of %lu bytes cannot be", name,
			room->slots, (unsigned long)room->slot_bytes);
	snprintf(map->name, sizeof(map->name), "%s", name);
again:
	map->fd = open_locked(path, &st, err);
	if (map->fd < 0)
		return map->fd;
	if (st.st_size != 0) {
		if (try_take_over(map, room, &st))
			goto boot;
		/* never cut a file that readers have mapped: they would die of SIGBUS */
		ret = shm_unlink(path) < 0 ? -errno : 0;
		close(map->fd);
		if (ret < 0 && ret != -ENOENT)
			return mt_fail(err, ret, "/dev/shm%s: cannot be replaced: %s", path,
				strerror(-ret));
		goto again;
	}
	ret = posix_fallocate(map->fd, 0, (off_t)size);
	if (ret != 0) {
		shm_unlink(path);
		close(map->fd);
		return mt_fail(err, -ret,
			"/dev/shm%s: no room for %lu MiB: %s (free memory in "
			"/dev/shm, or map fewer ranks)",
			path, (unsigned long)(size >> 20), strerror(ret));
	}
	map->page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, map->fd, 0);
	if (map->page == MAP_FAILED) {
		ret = -errno;
		shm_unlink(path);
		close(map->fd);
		return mt_fail(err, ret, "/dev/shm%s: mmap: %s", path, strerror(-ret));
	}
	map->size = size;
	page_layout(map->page, name, room, size);
boot:
	map->owner = true;
	page_boot(map->page);
	__atomic_store_n(&map->page->magic, MT_PAGE_MAGIC, __ATOMIC_RELEASE);
	return 0;
}

int mt_page_attach(struct mt_page_map *map, const char *name, bool loader, struct mt_error *err)
{
	char path[MT_NAME_LEN];
	struct stat st = {0};
	int ret;

	memset(map, 0, sizeof(*map));
	ret = page_path(path, sizeof(path), name, err);
	if (ret < 0)
		return ret;
	map->fd = shm_open(path, (loader ? O_RDWR : O_RDONLY) | O_CLOEXEC, 0);
	if (map->fd < 0)
		return mt_fail(err, -errno, "page '%s': %s%s", name, strerror(errno),
			errno == ENOENT	  ? " (is moetap-fw running with --page of that name?)"
			: errno == EACCES ? " (run as the owner of moetap-fw or as root)"
					  : "");
	if (fstat(map->fd, &st) < 0 || (uint64_t)st.st_size < sizeof(struct mt_page)) {
		close(map->fd);
		return mt_fail(err, st.st_size == 0 ? -EAGAIN : -EPROTO, "page '%s': %s", name,
			st.st_size == 0 ? "it is just being made; try again" : "not a moetap page");
	}
	map->size = (uint64_t)st.st_size;
	map->page = mmap(
		NULL, map->size, PROT_READ | (loader ? PROT_WRITE : 0), MAP_SHARED, map->fd, 0);
	if (map->page == MAP_FAILED) {
		ret = -errno;
		close(map->fd);
		return mt_fail(err, ret, "page '%s': mmap: %s", name, strerror(-ret));
	}
	ret = page_check(map->page, map->size, err);
	if (ret < 0) {
		munmap(map->page, map->size);
		close(map->fd);
		return ret;
	}
	snprintf(map->name, sizeof(map->name), "%s", name);
	return 0;
}

void mt_page_close(struct mt_page_map *map)
{
	char path[MT_NAME_LEN];
	struct stat st;

	if (map->owner) {
		__atomic_store_n(&map->page->state.state, MT_STATE_STOPPED, __ATOMIC_RELEASE);
		/* if somebody removed it, the name may be another firmware's by now */
		if (fstat(map->fd, &st) == 0 && st.st_nlink != 0 &&
			page_path(path, sizeof(path), map->name, NULL) == 0)
			shm_unlink(path);
	}
	munmap(map->page, map->size);
	close(map->fd);
	memset(map, 0, sizeof(*map));
}

static int wait_in_force(struct mt_page_map *map, uint32_t want, struct mt_error *err)
{
	const struct mt_page_state *s = &map->page->state;
	struct timespec ms = {.tv_nsec = 1000000};

	for (int i = 0; i < LOAD_TIMEOUT_MS; i++) {
		if (__atomic_load_n(&s->generation, __ATOMIC_ACQUIRE) == want)
			return 0;
		if (__atomic_load_n(&s->refused, __ATOMIC_ACQUIRE) == want)
			return mt_fail(err, -EINVAL, "moetap-fw refused the map; its log says why");
		if (!mt_page_alive(map))
			return mt_fail(err, -EPIPE,
				"moetap-fw of page '%s' has ended; start it again", map->name);
		nanosleep(&ms, NULL);
	}
	return mt_fail(err, -ETIMEDOUT, "moetap-fw on page '%s' did not answer within %d s",
		map->name, LOAD_TIMEOUT_MS / 1000);
}

int mt_page_load(struct mt_page_map *map, const struct mt_bank *bank, struct mt_error *err)
{
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = MT_LOCK_LOADER, .l_len = 1};
	struct mt_page *p = map->page;
	uint32_t want, asked;
	int ret;

	if (bank->bytes > p->bank_bytes ||
		mt_slot_bytes(bank->ranks, bank->experts) > p->slot_bytes)
		return mt_fail(err, -E2BIG,
			"the map is larger than page '%s' has room for: start moetap-fw with it",
			map->name);
	if (fcntl(map->fd, F_OFD_SETLK, &lock) < 0) {
		if (errno != EAGAIN && errno != EACCES)
			return mt_fail(err, -errno, "page '%s': %s", map->name, strerror(errno));
		return mt_fail(
			err, -EBUSY, "somebody else is loading a map into page '%s'", map->name);
	}
	/* the spare bank, under a number that was not asked for, hence not refused, before */
	want = __atomic_load_n(&p->state.generation, __ATOMIC_ACQUIRE) + 1;
	asked = __atomic_load_n(&p->ctl.want, __ATOMIC_RELAXED);
	if ((int32_t)(asked - want) >= 0)
		want = asked + 1 + ((asked + 1 - want) & 1);
	memcpy(mt_page_bank(map, want), bank, bank->bytes);
	__atomic_store_n(&p->ctl.want, want, __ATOMIC_RELEASE);
	ret = wait_in_force(map, want, err);
	lock.l_type = F_UNLCK;
	fcntl(map->fd, F_OFD_SETLK, &lock);
	return ret;
}

bool mt_page_alive(const struct mt_page_map *map)
{
	struct flock lock = {
		.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = MT_LOCK_FIRMWARE, .l_len = 1};
	uint32_t state = __atomic_load_n(&map->page->state.state, __ATOMIC_ACQUIRE);

	if (state == MT_STATE_STOPPED || state == MT_STATE_RETIRED)
		return false;
	if (map->owner) /* its own lock would not be in its way */
		return true;
	return fcntl(map->fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

int mt_reader_open(struct mt_reader *r, const struct mt_page_map *map, uint64_t from)
{
	r->map = map;
	r->boot_id = 0;
	r->next = from;
	if (from == UINT64_MAX) {
		r->boot_id = __atomic_load_n(&map->page->state.boot_id, __ATOMIC_ACQUIRE);
		r->next = __atomic_load_n(&map->page->state.head, __ATOMIC_ACQUIRE);
	}
	r->room = map->page->slot_bytes;
	r->round = malloc(r->room);
	return r->round == NULL ? -ENOMEM : 0;
}

void mt_reader_close(struct mt_reader *r)
{
	free(r->round);
	r->round = NULL;
}

/** Copy slot of round r->next: false when the writer has overtaken, before or meanwhile. */
static bool copy_slot(struct mt_reader *r)
{
	const struct mt_round *slot = mt_page_slot(r->map, r->next);
	uint32_t ranks, experts;
	uint64_t bytes;

	if (__atomic_load_n(&slot->seq, __ATOMIC_ACQUIRE) != r->next + 1)
		return false;
	ranks = __atomic_load_n(&slot->ranks, __ATOMIC_RELAXED);
	experts = __atomic_load_n(&slot->experts, __ATOMIC_RELAXED);
	if (ranks > MT_MAX_RANKS || experts > MT_MAX_EXPERTS)
		return false;
	bytes = mt_slot_bytes(ranks, experts);
	if (bytes > r->room)
		return false;
	memcpy(r->round, slot, bytes);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(&slot->seq, __ATOMIC_RELAXED) == r->next + 1 &&
	       r->round->ranks == ranks && r->round->experts == experts;
}

int mt_reader_next(struct mt_reader *r, struct mt_read *seen)
{
	const struct mt_page *p = r->map->page;
	uint64_t head, oldest;

	*seen = (struct mt_read){0};
	for (;;) {
		head = __atomic_load_n(&p->state.head, __ATOMIC_ACQUIRE);
		if (r->next >= head)
			break;
		oldest = head > p->slots ? head - p->slots : 0;
		if (r->next < oldest) {
			seen->lost += oldest - r->next;
			r->next = oldest;
		}
		if (copy_slot(r)) {
			seen->restarted = r->boot_id != 0 && r->boot_id != r->round->boot_id;
			r->boot_id = r->round->boot_id;
			r->next++;
			return 1;
		}
		/* overtaken between head and copy: that round is gone */
		seen->lost++;
		r->next++;
	}
	if (mt_page_alive(r->map))
		return 0;
	/* it may have published and ended between the two looks */
	return __atomic_load_n(&p->state.head, __ATOMIC_ACQUIRE) > r->next ? 0 : -EPIPE;
}

const char *mt_outcome_name(unsigned int outcome)
{
	static const char *const names[MT_OUTCOMES] = {"dispatch", "combine", "count", "control",
		"body", "orphan", "response", "duplicate", "stale", "unmatched", "contradiction",
		"unknown-rank", "no-room", "truncated", "malformed", "fragment", "uc", "rd", "ud",
		"cnp", "xrc", "other-transport", "rocev1", "vxlan", "pfc", "not-roce",
		"atomic-form"};

	return outcome < MT_OUTCOMES ? names[outcome] : "?";
}

const char *mt_pass_name(unsigned int pass)
{
	static const char *const names[MT_PASSES] = {"dispatch", "backward", "recompute"};

	return pass < MT_PASSES ? names[pass] : "?";
}

const char *mt_quality_names(uint32_t quality, char *buf, size_t len)
{
	static const char *const names[] = {"gap", "disagree", "stale", "truncated", "nic-drop",
		"overrun", "resync", "late", "no-room", "contradiction", "fraction", "align",
		"duplicates", "unmatched", "timeout", "unwitnessed"};
	size_t at = 0;

	buf[0] = '\0';
	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if ((quality & 1u << i) == 0)
			continue;
		at += (size_t)snprintf(buf + at, len - at, "%s%s", at ? ", " : "", names[i]);
		if (at >= len)
			break;
	}
	return buf;
}
