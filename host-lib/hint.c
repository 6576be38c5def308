/* SPDX-License-Identifier: BSD-3-Clause */
/* The writer of the hint page; moetap_hint.h has the layout and how readers go about it. */
#include "internal.h"
#include "moetap_hint.h"

#include <math.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <time.h>

struct moetap_publisher {
	int fd; /**< holds the lock */
	struct moetap_hint_page *page;
	struct moetap_hint *draft; /**< a whole bank, filled before it goes to the page */
	struct moetap_shape shape;
	uint32_t layers, experts;
};

/* ---- the page ---- */

static int page_path(const char *name, char path[128], struct moetap_error *error)
{
	size_t length = strlen(name);

	if (length == 0 || length > MOETAP_HINT_NAME_MAX || name[0] == '.' ||
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") !=
			length)
		return mtl_fail(error, -EINVAL,
			"'%.80s' cannot name a hint page: use up to %d letters, digits, '.', '_' "
			"and '-'",
			name, MOETAP_HINT_NAME_MAX);
	snprintf(path, 128, "%s%s", MOETAP_HINT_PATH, name);
	return 0;
}

/** Takes the lock of the page at `path`. Returns a file descriptor, -ENOENT when there is none, or
 * -EAGAIN when it was replaced meanwhile. */
static int page_lock(const char *path, struct moetap_error *error)
{
	struct stat mine, theirs;
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW), err;

	if (fd < 0 && errno == ENOENT)
		return -ENOENT;
	if (fd < 0) {
		err = errno;
		return mtl_fail(error, -err, "%s: %s", path, strerror(err));
	}
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		err = errno;
		close(fd);
		if (err == EWOULDBLOCK)
			return mtl_fail(error, -EBUSY,
				"%s: another process publishes there; stop it, or take another "
				"name",
				path);
		return mtl_fail(error, -err, "%s: %s", path, strerror(err));
	}
	if (fstat(fd, &mine) < 0 || stat(path, &theirs) < 0 || mine.st_ino != theirs.st_ino) {
		close(fd);
		return -EAGAIN;
	}
	/* Whoever owns the file can cut it while we write, which would kill us. */
	if (mine.st_uid != geteuid()) {
		close(fd);
		return mtl_fail(
			error, -EACCES, "%s belongs to another user; take another name", path);
	}
	return fd;
}

static struct moetap_hint_page *page_map(int fd, size_t bytes)
{
	void *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return page == MAP_FAILED ? NULL : (struct moetap_hint_page *)page;
}

static int page_init(struct moetap_hint_page *page, const struct moetap_publisher *p, size_t bytes)
{
	page->magic = MOETAP_HINT_MAGIC;
	page->version = MOETAP_HINT_VERSION;
	page->header_bytes = sizeof(*page);
	page->page_bytes = bytes;
	page->layers = p->layers;
	page->experts = p->experts;
	page->slots = p->shape.slots;
	page->ranks = p->shape.ranks;
	page->nodes = p->shape.nodes;
	page->groups = p->shape.groups;
	page->bank_bytes = (bytes - sizeof(*page)) / 2;
	page->bank_offset[0] = sizeof(*page);
	page->bank_offset[1] = sizeof(*page) + page->bank_bytes;
	return getrandom(&page->page_id, sizeof(page->page_id), 0) < 0 ? -errno : 0;
}

/** Makes a page under no name, fills in its start, and only then gives it its name: nobody ever
 * sees half a page. */
static int page_make(struct moetap_publisher *p, const char *path, struct moetap_error *error)
{
	size_t bytes = sizeof(struct moetap_hint_page) +
		       2 * moetap_hint_layout(p->layers, p->experts, p->shape.slots, NULL);
	int fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0644), err;
	char self[40];

	if (fd < 0)
		return mtl_fail(error, -errno, "/dev/shm: %s", strerror(errno));
	/* Takes the memory now; a full /dev/shm would kill the writer later. */
	err = posix_fallocate(fd, 0, (off_t)bytes);
	if (err == 0 && flock(fd, LOCK_EX | LOCK_NB) < 0)
		err = errno;
	p->page = err == 0 ? page_map(fd, bytes) : NULL;
	if (err == 0 && p->page == NULL)
		err = errno;
	if (err == 0)
		err = -page_init(p->page, p, bytes);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	if (err == 0 && linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0)
		err = errno;
	if (err != 0) {
		if (p->page != NULL)
			munmap(p->page, bytes);
		p->page = NULL;
		close(fd);
		if (err == EEXIST)
			return -EAGAIN;
		return mtl_fail(error, -err, "%s (%zu bytes): %s", path, bytes, strerror(err));
	}
	p->fd = fd;
	return 0;
}

static bool page_fits(const struct moetap_hint_page *page, const struct moetap_publisher *p)
{
	return page->retired == 0 && page->layers == p->layers && page->experts == p->experts &&
	       page->slots == p->shape.slots && page->ranks == p->shape.ranks &&
	       page->nodes == p->shape.nodes && page->groups == p->shape.groups;
}

static void page_retire(struct moetap_hint_page *page, const char *path)
{
	__atomic_store_n(&page->retired, 1, __ATOMIC_RELEASE);
	unlink(path);
}

/** Takes over the page whose lock `fd` holds, or retires it (-EAGAIN) if it does not fit. */
static int page_take(struct moetap_publisher *p, int fd, const char *path, bool retire,
	struct moetap_error *error)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return mtl_fail(error, -errno, "%s: %s", path, strerror(errno));
	p->page = (size_t)st.st_size >= sizeof(*p->page) ? page_map(fd, (size_t)st.st_size) : NULL;
	if (p->page == NULL || !moetap_hint_check(p->page, (size_t)st.st_size)) {
		if (p->page != NULL)
			munmap(p->page, (size_t)st.st_size);
		p->page = NULL;
		return mtl_fail(error, -EPROTO,
			"%s is no hint page of version %u; if nothing needs it, remove it: rm %s",
			path, MOETAP_HINT_VERSION, path);
	}
	if (!retire && page_fits(p->page, p)) {
		p->fd = fd;
		return 0;
	}
	page_retire(p->page, path);
	munmap(p->page, (size_t)st.st_size);
	p->page = NULL;
	return -EAGAIN;
}

/** One attempt; -EAGAIN when another process was in between. */
static int page_open(struct moetap_publisher *p, const char *path, struct moetap_error *error)
{
	int fd = page_lock(path, error), ret;

	if (fd == -ENOENT)
		return page_make(p, path, error);
	if (fd < 0)
		return fd;
	ret = page_take(p, fd, path, false, error);
	if (ret < 0)
		close(fd);
	return ret;
}

static int check_publisher(uint32_t layers, uint32_t experts, const struct moetap_shape *shape,
	struct moetap_error *error)
{
	struct moetap_plan *trivial;
	int ret = moetap_plan_trivial(shape, layers, experts, &trivial, error);

	if (ret < 0)
		return ret;
	moetap_plan_free(trivial);
	/* Offsets in a bank have 32 bits. */
	if (moetap_hint_layout(layers, experts, shape->slots, NULL) > UINT32_MAX)
		return mtl_fail(error, -E2BIG, "a hint of this geometry takes more than 4 GiB");
	return 0;
}

int moetap_publisher_open(const char *name, uint32_t layers, uint32_t experts,
	const struct moetap_shape *shape, struct moetap_publisher **publisher,
	struct moetap_error *error)
{
	struct moetap_publisher *p;
	char path[128];
	int ret;

	ret = page_path(name, path, error);
	if (ret == 0)
		ret = check_publisher(layers, experts, shape, error);
	if (ret < 0)
		return ret;
	p = calloc(1, sizeof(*p));
	if (p == NULL)
		return mtl_fail_memory(error);
	p->fd = -1;
	p->layers = layers;
	p->experts = experts;
	p->shape = *shape;
	p->draft = calloc(1, moetap_hint_layout(layers, experts, shape->slots, NULL));
	ret = p->draft != NULL ? -EAGAIN : mtl_fail_memory(error);
	for (int attempt = 0; attempt < 10 && ret == -EAGAIN; attempt++)
		ret = page_open(p, path, error);
	if (ret < 0) {
		moetap_publisher_close(p);
		if (ret == -EAGAIN)
			return mtl_fail(
				error, -EBUSY, "%s: other processes keep replacing it", path);
		return ret;
	}
	*publisher = p;
	return 0;
}

void moetap_publisher_close(struct moetap_publisher *p)
{
	if (p == NULL)
		return;
	if (p->page != NULL)
		munmap(p->page, p->page->page_bytes);
	if (p->fd >= 0)
		close(p->fd);
	free(p->draft);
	free(p);
}

int moetap_hint_remove(const char *name, struct moetap_error *error)
{
	struct moetap_publisher none = {.fd = -1};
	char path[128];
	int fd, ret;

	ret = page_path(name, path, error);
	if (ret < 0)
		return ret;
	fd = page_lock(path, error);
	if (fd == -ENOENT)
		return mtl_fail(error, -ENOENT, "there is no hint page '%s'", name);
	if (fd == -EAGAIN)
		return mtl_fail(error, -EBUSY, "%s: other processes keep replacing it", path);
	if (fd < 0)
		return fd;
	ret = page_take(&none, fd, path, true, error);
	close(fd);
	return ret == -EAGAIN ? 0 : ret;
}

/* ---- the hint ---- */

static struct moetap_hint *bank_of(const struct moetap_publisher *p, uint64_t generation)
{
	return (struct moetap_hint *)(void *)((char *)p->page +
					      p->page->bank_offset[generation & 1]);
}

static void fill_layers(struct moetap_hint *hint, const struct moetap_state *state)
{
	for (uint32_t l = 0; l < hint->layers; l++) {
		struct moetap_hint_layer *to =
			(struct moetap_hint_layer *)(uintptr_t)moetap_hint_state(hint, l);
		struct moetap_layer_state from;

		moetap_state_layer(state, l, &from);
		*to = (struct moetap_hint_layer){
			from.stable, 0, from.since, from.drift, from.error, from.noise};
	}
}

static void fill_figures(struct moetap_hint *hint, const struct moetap_state *state,
	const struct moetap_forecast *forecast, const struct moetap_decision *decision)
{
	struct moetap_forecast_info info;

	moetap_forecast_info(forecast, &info);
	hint->made_after_step = info.step;
	hint->valid_from_step = info.step + 1;
	hint->horizon = info.horizon;
	hint->quality = info.quality;
	hint->rounds = info.rounds;
	hint->flagged = info.flagged;
	hint->unseen_ppm = (uint32_t)lround(info.unseen * 1e6);
	hint->verdict = decision->verdict == MOETAP_PLAN ? MOETAP_HINT_PLAN : MOETAP_HINT_KEEP;
	hint->stable = moetap_state_stable(state, NULL);
	hint->gain = decision->gain;
	hint->balancedness_before = decision->before;
	hint->balancedness_after = decision->after;
	hint->moves = decision->moves;
	snprintf(hint->method, sizeof(hint->method), "%s", info.method);
	snprintf(hint->reason, sizeof(hint->reason), "%s", decision->reason);
}

static void fill_arrays(struct moetap_hint *hint, const struct moetap_forecast *forecast,
	const struct moetap_plan *placement)
{
	size_t cells = (size_t)hint->layers * hint->experts * sizeof(double);
	char *start = (char *)hint;

	memcpy(start + hint->placement_offset, moetap_plan_slots(placement),
		(size_t)hint->layers * hint->slots * sizeof(uint32_t));
	memcpy(start + hint->share_offset, moetap_forecast_share(forecast), cells);
	memcpy(start + hint->low_offset, moetap_forecast_low(forecast), cells);
	memcpy(start + hint->high_offset, moetap_forecast_high(forecast), cells);
}

/** The generation that first carried this placement: that of the hint before if it is the same. */
static uint64_t placement_generation(const struct moetap_publisher *p)
{
	uint64_t before = p->page->generation;
	const struct moetap_hint *last = bank_of(p, before);

	if (before > 0 && last->generation == before &&
		memcmp(moetap_hint_placement(p->draft, 0),
			(const char *)last + p->draft->placement_offset,
			(size_t)p->layers * p->shape.slots * sizeof(uint32_t)) == 0)
		return last->placement_generation;
	return before + 1;
}

/** Writes the draft into the bank that nobody is sent to, then sends readers there. */
static void send_readers(struct moetap_publisher *p)
{
	struct moetap_hint *bank = bank_of(p, p->draft->generation);
	uint64_t sequence = bank->sequence | 1; /* odd already if a writer was killed here */

	__atomic_store_n(&bank->sequence, sequence, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	memcpy((char *)bank + sizeof(sequence), (char *)p->draft + sizeof(sequence),
		p->draft->bytes - sizeof(sequence));
	__atomic_store_n(&bank->sequence, sequence + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&p->page->generation, p->draft->generation, __ATOMIC_RELEASE);
}

static int check_same(const struct moetap_publisher *p, const struct moetap_forecast *forecast,
	const struct moetap_plan *placement, struct moetap_error *error)
{
	struct moetap_shape shape;

	moetap_plan_shape(placement, &shape);
	if (moetap_forecast_layers(forecast) == p->layers &&
		moetap_forecast_experts(forecast) == p->experts &&
		moetap_plan_layers(placement) == p->layers &&
		moetap_plan_experts(placement) == p->experts && shape.slots == p->shape.slots &&
		shape.ranks == p->shape.ranks)
		return 0;
	return mtl_fail(error, -EINVAL, "forecast or placement has another shape than the page");
}

int moetap_publisher_publish(struct moetap_publisher *p, const struct moetap_state *state,
	const struct moetap_forecast *forecast, const struct moetap_plan *placement,
	const struct moetap_decision *decision, struct moetap_error *error)
{
	struct moetap_hint *hint = p->draft;
	struct moetap_layer_state last;
	struct timespec now;

	if (check_same(p, forecast, placement, error) < 0)
		return -EINVAL;
	if (moetap_state_layer(state, p->layers - 1, &last) < 0)
		return mtl_fail(error, -EINVAL, "the state has fewer layers than the page");
	clock_gettime(CLOCK_REALTIME, &now);
	memset(hint, 0, sizeof(*hint));
	hint->layers = p->layers;
	hint->experts = p->experts;
	hint->slots = p->shape.slots;
	hint->ranks = p->shape.ranks;
	hint->nodes = p->shape.nodes;
	hint->groups = p->shape.groups;
	hint->bytes = (uint32_t)moetap_hint_layout(p->layers, p->experts, p->shape.slots, hint);
	hint->generation = p->page->generation + 1;
	hint->publish_time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	fill_figures(hint, state, forecast, decision);
	fill_layers(hint, state);
	fill_arrays(hint, forecast, placement);
	hint->placement_generation = placement_generation(p);
	hint->crc = moetap_hint_crc((const char *)hint + 16, hint->bytes - 16);
	send_readers(p);
	return 0;
}

uint64_t moetap_publisher_generation(const struct moetap_publisher *p)
{
	return p->page->generation;
}
