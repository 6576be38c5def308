/* SPDX-License-Identifier: BSD-3-Clause */
/* The writer of the hint page; moetap_hint.h has the layout and how readers go about it. */
#include "internal.h"
#include "moetap_hint.h"

#include <math.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <time.h>
#include <zlib.h>

struct moetap_publisher {
	int fd; /**< holds the lock */
	struct moetap_hint_page *page;
	struct moetap_hint *draft; /**< a whole bank, filled before it goes to the page */
	struct moetap_shape shape;
	uint32_t layers, experts;
	struct moetap_terms terms;
};

/** Shares that differ by less are equal: of an even layer no expert is to be pushed. */
#define ROUNDING 1e-12

/** Where the answers begin: the largest page size of a machine, so that they can be mapped alone. */
#define ACK_ALIGN 65536u

/* ---- the layout ---- */

/** Fills the geometry and the directory of a bank, `hint` (which may be NULL). @return its bytes */
static uint64_t bank_layout(uint32_t layers, uint32_t experts, const struct moetap_shape *shape,
	struct moetap_hint *hint)
{
	const struct moetap_hint_page geometry = {
		.experts = experts, .slots = shape->slots, .nodes = shape->nodes};
	const char *const type[MOETAP_HINT_KINDS] = {[MOETAP_HINT_PLACEMENT] = "<u4",
		[MOETAP_HINT_SHARE] = "<f8",
		[MOETAP_HINT_LOW] = "<f8",
		[MOETAP_HINT_HIGH] = "<f8",
		[MOETAP_HINT_SPLIT] = "<f4",
		[MOETAP_HINT_BIAS] = "<f4",
		[MOETAP_HINT_CAPACITY] = "<f4"};
	struct moetap_hint_kind *entry = (struct moetap_hint_kind *)(void *)(hint + 1);
	uint64_t at = sizeof(*hint) + (MOETAP_HINT_KINDS - 1) * sizeof(*entry);

	for (uint32_t kind = 1; kind < MOETAP_HINT_KINDS; kind++) {
		uint32_t columns = (uint32_t)moetap_hint_columns(&geometry, kind);
		uint32_t element = moetap_hint_element(kind);

		if (hint != NULL) {
			entry[kind - 1] = (struct moetap_hint_kind){.kind = kind,
				.version = 1,
				.element = element,
				.columns = columns,
				.offset = (uint32_t)at};
			if (type[kind] != NULL)
				strcpy(entry[kind - 1].type, type[kind]);
		}
		at = (at + (uint64_t)layers * columns * element + 7) & ~7ull;
	}
	at = (at + 63) & ~63ull;
	if (hint == NULL)
		return at;
	hint->bytes = (uint32_t)at;
	hint->layers = layers;
	hint->experts = experts;
	hint->slots = shape->slots;
	hint->ranks = shape->ranks;
	hint->nodes = shape->nodes;
	hint->groups = shape->groups;
	hint->kinds_offset = sizeof(*hint);
	hint->kinds = MOETAP_HINT_KINDS - 1;
	hint->kind_bytes = sizeof(*entry);
	return at;
}

static uint64_t ack_offset_of(uint64_t bank_bytes)
{
	return (sizeof(struct moetap_hint_page) + 2 * bank_bytes + ACK_ALIGN - 1) &
	       ~(uint64_t)(ACK_ALIGN - 1);
}

/** A layer of a kind in a hint that is being filled. */
static void *row_of(struct moetap_hint *hint, uint32_t kind, uint32_t layer)
{
	hint->present |= 1u << (kind - 1);
	return (void *)(uintptr_t)moetap_hint_find(hint, kind, layer);
}

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
	page->bank_bytes = bank_layout(p->layers, p->experts, &p->shape, NULL);
	page->ack_offset = ack_offset_of(page->bank_bytes);
	page->ack_bytes = bytes - page->ack_offset;
	for (uint32_t i = 0; i < 2; i++) {
		page->bank_offset[i] = sizeof(*page) + i * page->bank_bytes;
		bank_layout(p->layers, p->experts, &p->shape,
			(struct moetap_hint *)(void *)((char *)page + page->bank_offset[i]));
	}
	return getrandom(&page->page_id, sizeof(page->page_id), 0) < 0 ? -errno : 0;
}

/** Makes a page under no name, fills in its start, and only then gives it its name: nobody ever
 * sees half a page. */
static int page_make(struct moetap_publisher *p, const char *path, struct moetap_error *error)
{
	size_t bytes = ack_offset_of(bank_layout(p->layers, p->experts, &p->shape, NULL)) +
		       sizeof(struct moetap_hint_acks) +
		       p->layers * moetap_hint_ack_stride(p->shape.slots);
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
	       page->nodes == p->shape.nodes && page->groups == p->shape.groups &&
	       page->bank_bytes == bank_layout(p->layers, p->experts, &p->shape, NULL);
}

/** A page of an earlier version: `retired` was always where it is, so that its readers are told. */
static bool page_outdated(const struct moetap_hint_page *page)
{
	return page->magic == MOETAP_HINT_MAGIC && page->version < MOETAP_HINT_VERSION;
}

static void page_retire(struct moetap_hint_page *page, const char *path)
{
	__atomic_store_n(&page->retired, 1, __ATOMIC_RELEASE);
	unlink(path);
}

/** Takes over the page whose lock `fd` holds, or retires it (-EAGAIN) if it does not fit or is of an
 * earlier version. */
static int page_take(struct moetap_publisher *p, int fd, const char *path, bool retire,
	struct moetap_error *error)
{
	struct moetap_hint_reader found;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return mtl_fail(error, -errno, "%s: %s", path, strerror(errno));
	p->page = (size_t)st.st_size >= sizeof(*p->page) ? page_map(fd, (size_t)st.st_size) : NULL;
	if (p->page != NULL && page_outdated(p->page))
		retire = true;
	else if (p->page == NULL || !moetap_hint_check(p->page, (size_t)st.st_size, &found)) {
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
	if (bank_layout(layers, experts, shape, NULL) > UINT32_MAX)
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
	p->terms.bias_rate = MOETAP_BIAS_RATE;
	p->draft = calloc(1, bank_layout(layers, experts, shape, NULL));
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

int moetap_publisher_terms(struct moetap_publisher *p, const struct moetap_terms *terms)
{
	if (!(terms->bias_rate >= 0 && isfinite(terms->bias_rate)) ||
		!(terms->lifetime >= 0 && terms->lifetime < 1e9))
		return -EINVAL;
	p->terms = *terms;
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
		struct moetap_hint_layer *to = row_of(hint, MOETAP_HINT_STATE, l);
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
	hint->expires_step = info.step + info.horizon;
	hint->known = (uint32_t)decision->known;
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

static void fill_shares(struct moetap_hint *hint, const struct moetap_forecast *forecast)
{
	size_t bytes = (size_t)hint->layers * hint->experts * sizeof(double);

	memcpy(row_of(hint, MOETAP_HINT_SHARE, 0), moetap_forecast_share(forecast), bytes);
	memcpy(row_of(hint, MOETAP_HINT_LOW, 0), moetap_forecast_low(forecast), bytes);
	memcpy(row_of(hint, MOETAP_HINT_HIGH, 0), moetap_forecast_high(forecast), bytes);
}

/**
 * Gate bias: rate * sign(mean - load), as DeepSeek-V3 adds it after each step ("Auxiliary-loss-free
 * load balancing", arXiv 2412.19437 and 2408.15664) and Megatron-Core under
 * --moe-router-bias-update-rate. Here the load is the forecast one. Capacity factor of an expert:
 * the upper end of its share times experts, so that a capacity of factor * tokens / experts holds
 * what the interval allows.
 */
static void fill_gates(
	struct moetap_hint *hint, const struct moetap_forecast *forecast, double rate)
{
	for (uint32_t l = 0; l < hint->layers; l++) {
		float *bias = row_of(hint, MOETAP_HINT_BIAS, l);
		float *capacity = row_of(hint, MOETAP_HINT_CAPACITY, l);
		const double *share = moetap_forecast_share(forecast) + (size_t)l * hint->experts;
		const double *high = moetap_forecast_high(forecast) + (size_t)l * hint->experts;
		double sum = 0;

		for (uint32_t e = 0; e < hint->experts; e++)
			sum += share[e];
		for (uint32_t e = 0; e < hint->experts; e++) {
			double under = sum / hint->experts - share[e];
			int sign = (under > ROUNDING) - (under < -ROUNDING);

			bias[e] = (float)(rate * sign);
			capacity[e] = (float)(high[e] * hint->experts);
		}
	}
}

static void fill_network(struct moetap_hint *hint, const struct moetap_network *network)
{
	for (uint32_t l = 0; l < hint->layers; l++)
		*(struct moetap_hint_network *)row_of(hint, MOETAP_HINT_NETWORK, l) =
			(struct moetap_hint_network){.busiest = (float)network[l].busiest,
				.mean = (float)network[l].mean,
				.queue_pairs = network[l].queue_pairs,
				.traffic_class = network[l].traffic_class};
}

static int fill_split(struct moetap_publisher *p, const struct moetap_forecast *forecast,
	const struct moetap_plan *placement)
{
	struct moetap_hint *hint = p->draft;
	size_t columns = (size_t)hint->nodes * hint->slots;
	size_t sources = (size_t)hint->nodes * hint->experts;
	double *weight = malloc((columns + sources) * sizeof(*weight)), *from = weight + columns;
	int ret = 0;

	if (weight == NULL)
		return -ENOMEM;
	for (uint32_t l = 0; l < hint->layers && ret == 0; l++) {
		float *row = row_of(hint, MOETAP_HINT_SPLIT, l);

		/* Unless it is said what each node sends, all send alike. */
		for (size_t i = 0; i < sources; i++)
			from[i] = p->terms.from != NULL
					  ? p->terms.from[l * sources + i]
					  : moetap_forecast_share(forecast)[(size_t)l * hint->experts +
									    i % hint->experts];
		ret = moetap_plan_split(placement, l, from, weight);
		for (size_t i = 0; i < columns; i++)
			row[i] = (float)weight[i];
	}
	free(weight);
	return ret;
}

/** Kinds that follow from the loads; without those of all experts, they are left out. */
static int fill_arrays(struct moetap_publisher *p, const struct moetap_forecast *forecast,
	const struct moetap_plan *placement)
{
	struct moetap_hint *hint = p->draft;
	bool unknown = hint->known == MOETAP_HINT_KNOWN_NOT, blind = false;
	size_t cells = (size_t)hint->layers * hint->experts;
	int ret = 0;

	memcpy(row_of(hint, MOETAP_HINT_PLACEMENT, 0), moetap_plan_slots(placement),
		(size_t)hint->layers * hint->slots * sizeof(uint32_t));
	if (unknown) /* the bytes tell the next hint whether its placement is another one */
		hint->present &= ~(1u << (MOETAP_HINT_PLACEMENT - 1));
	fill_shares(hint, forecast);
	for (size_t c = 0; c < cells; c++)
		blind |= isnan(moetap_forecast_share(forecast)[c]);
	if (!blind)
		fill_gates(hint, forecast, p->terms.bias_rate);
	if (p->terms.network != NULL)
		fill_network(hint, p->terms.network);
	if (!blind && !unknown)
		ret = fill_split(p, forecast, placement);
	return ret;
}

/** What is carried on from the hint before: the generation that first had this placement, and that
 * of the newest plan. */
static void fill_generations(struct moetap_publisher *p)
{
	struct moetap_hint *hint = p->draft;
	uint64_t before = p->page->generation;
	const struct moetap_hint *last = bank_of(p, before);
	bool whole = before > 0 && last->generation == before;
	const struct moetap_hint_kind *entry = (const struct moetap_hint_kind *)(const void *)(hint + 1);
	uint32_t at = entry[MOETAP_HINT_PLACEMENT - 1].offset;

	hint->generation = before + 1;
	hint->placement_generation = hint->generation;
	if (whole && memcmp((const char *)hint + at, (const char *)last + at,
			     (size_t)p->layers * p->shape.slots * sizeof(uint32_t)) == 0)
		hint->placement_generation = last->placement_generation;
	hint->plan_generation = whole ? last->plan_generation : 0;
	hint->plan_step = whole ? last->plan_step : 0;
	if (hint->verdict == MOETAP_HINT_PLAN) {
		hint->plan_generation = hint->generation;
		hint->plan_step = hint->made_after_step;
	}
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
	memset(hint, 0, bank_layout(p->layers, p->experts, &p->shape, NULL));
	bank_layout(p->layers, p->experts, &p->shape, hint);
	hint->publish_time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	if (p->terms.lifetime > 0)
		hint->expires_ns = hint->publish_time_ns + (uint64_t)(p->terms.lifetime * 1e9);
	fill_figures(hint, state, forecast, decision);
	fill_layers(hint, state);
	if (fill_arrays(p, forecast, placement) < 0)
		return mtl_fail_memory(error);
	fill_generations(p);
	hint->crc = (uint32_t)crc32(0, (const unsigned char *)hint + 16, hint->bytes - 16);
	/* First, so that who is killed here has at worst counted a plan that nobody saw. */
	if (hint->verdict == MOETAP_HINT_PLAN)
		p->page->after_plan = hint->valid_from_step;
	send_readers(p);
	return 0;
}

int64_t moetap_publisher_last_plan(const struct moetap_publisher *p)
{
	return p->page->after_plan - 1;
}

uint64_t moetap_publisher_generation(const struct moetap_publisher *p)
{
	return p->page->generation;
}
