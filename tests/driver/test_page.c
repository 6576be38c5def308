/* SPDX-License-Identifier: BSD-3-Clause */
#include "common.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "page.h"

#define RANKS 3u
#define EXPERTS 6u
#define SLOTS 8u

/** Name of the page of this process's tests, and of its file. */
static char name[32], file[64];
static struct mt_page_room room;

static int set_up(void **unused)
{
	(void)unused;
	snprintf(name, sizeof(name), "unit-%d", getpid());
	snprintf(file, sizeof(file), "/dev/shm/moetap-%s", name);
	room = (struct mt_page_room){
		.bank_bytes = 4096, .slot_bytes = mt_slot_bytes(RANKS, EXPERTS), .slots = SLOTS};
	return 0;
}

static int remove_page(void **unused)
{
	(void)unused;
	unlink(file);
	return 0;
}

/* ---- what stands in for the firmware ------------------------------------------------------- */

/** What word i of round n holds, for every word. */
static uint32_t word(uint64_t n, uint32_t i)
{
	return (uint32_t)(n * 2654435761u) ^ i * 40503u;
}

/** Rounds have different sizes, so that old bytes lie behind them. */
static void shape_of(uint64_t n, uint32_t *ranks, uint32_t *experts)
{
	*ranks = 2 + n % (RANKS - 1);
	*experts = 1 + n % EXPERTS;
}

static void fill(struct mt_round *r, uint64_t n)
{
	uint32_t words;

	r->round = r->step = n;
	r->quality = (uint32_t)n & 7;
	shape_of(n, &r->ranks, &r->experts);
	words = (uint32_t)(mt_slot_bytes(r->ranks, r->experts) - sizeof(*r)) / 4;
	for (uint32_t i = 0; i < words; i++)
		((uint32_t *)(r + 1))[i] = word(n, i);
}

static bool whole(const struct mt_round *r, uint64_t n)
{
	uint32_t ranks, experts, words;

	shape_of(n, &ranks, &experts);
	if (r->seq != n + 1 || r->round != n || r->step != n || r->quality != ((uint32_t)n & 7) ||
		r->ranks != ranks || r->experts != experts)
		return false;
	words = (uint32_t)(mt_slot_bytes(ranks, experts) - sizeof(*r)) / 4;
	for (uint32_t i = 0; i < words; i++)
		if (((const uint32_t *)(r + 1))[i] != word(n, i))
			return false;
	return true;
}

static struct mt_round *begin(struct mt_page_map *m)
{
	struct mt_round *slot = mt_page_slot(m, m->page->state.head);

	__atomic_store_n(&slot->seq, 0, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	return slot;
}

static void publish(struct mt_page_map *m, uint64_t rounds)
{
	while (rounds-- > 0) {
		uint64_t n = m->page->state.head;
		struct mt_round *slot = begin(m);

		fill(slot, n);
		slot->boot_id = m->page->state.boot_id;
		__atomic_store_n(&slot->seq, n + 1, __ATOMIC_RELEASE);
		__atomic_store_n(&m->page->state.head, n + 1, __ATOMIC_RELEASE);
	}
}

static void create(struct mt_page_map *m)
{
	struct mt_error err;

	if (mt_page_create(m, name, &room, &err) != 0)
		fail_msg("%s", err.text);
	__atomic_store_n(&m->page->state.state, MT_STATE_RUNNING, __ATOMIC_RELEASE);
}

static void attach(struct mt_page_map *m, bool loader)
{
	struct mt_error err;

	if (mt_page_attach(m, name, loader, &err) != 0)
		fail_msg("%s", err.text);
}

/** A firmware in another process that publishes and dies; its page stays. */
static void dead_firmware(uint64_t rounds, bool in_mid_round)
{
	struct mt_page_map m;
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		if (mt_page_create(&m, name, &room, NULL) != 0)
			_exit(1);
		m.page->state.state = MT_STATE_RUNNING;
		publish(&m, rounds);
		if (in_mid_round)
			fill(begin(&m), m.page->state.head + SLOTS);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

/** Reads rounds [from, to), all whole, one of them with these words on the way. */
static void read_rounds(struct mt_reader *r, uint64_t from, uint64_t to, uint64_t lost)
{
	struct mt_read seen;

	for (uint64_t n = from; n < to; n++) {
		assert_int_equal(mt_reader_next(r, &seen), 1);
		assert_true(whole(r->round, n));
		assert_int_equal(seen.lost, n == from ? lost : 0);
		assert_false(seen.restarted);
	}
}

static void ends_with(struct mt_reader *r, int ret)
{
	struct mt_read seen;

	assert_int_equal(mt_reader_next(r, &seen), ret);
	assert_int_equal(seen.lost, 0);
	assert_false(seen.restarted);
}

static ino_t inode(void)
{
	struct stat st;

	return stat(file, &st) == 0 ? st.st_ino : 0;
}

/* ---- names, creation, end ---------------------------------------------------------------- */

static void test_names(void **unused)
{
	static const char *const wrong[] = {"", "a/b", "../passwd", "a b", "a\n", "\xc3\xa4",
		"0123456789012345678901234567890123456789012345678901234"};
	static const char *const right[] = {
		"012345678901234567890123456789012345678901234567890123", "a.b_C-9", ".."};
	struct mt_page_map m;
	struct mt_error err;

	(void)unused;
	for (size_t i = 0; i < COUNT(wrong); i++) {
		assert_int_equal(mt_page_create(&m, wrong[i], &room, &err), -EINVAL);
		assert_int_equal(mt_page_attach(&m, wrong[i], false, &err), -EINVAL);
		assert_non_null(strstr(err.text, "1 to 54 letters"));
	}
	for (size_t i = 0; i < COUNT(right); i++) {
		assert_int_equal(mt_page_create(&m, right[i], &room, &err), 0);
		assert_string_equal(m.page->name, right[i]);
		mt_page_close(&m);
		assert_int_equal(mt_page_attach(&m, right[i], false, &err), -ENOENT);
	}
}

static void test_room(void **unused)
{
	struct mt_page_room wrong[] = {room, room, room, room, room};
	struct mt_page_map m;

	(void)unused;
	wrong[0].slots = 0;
	wrong[1].bank_bytes = sizeof(struct mt_bank) - 1;
	wrong[2].slot_bytes = sizeof(struct mt_round) - 8;
	wrong[3].slot_bytes++;
	wrong[4].slot_bytes = UINT64_MAX & ~63ULL;
	for (size_t i = 0; i < COUNT(wrong); i++) {
		assert_int_equal(mt_page_create(&m, name, &wrong[i], NULL), -EINVAL);
		assert_int_equal(inode(), 0);
	}
}

static void test_life(void **unused)
{
	struct mt_page_map fw, m;
	struct mt_reader r;
	struct mt_error err;
	struct stat st;

	(void)unused;
	assert_int_equal(mt_page_attach(&m, name, false, &err), -ENOENT);
	assert_non_null(strstr(err.text, "moetap-fw"));
	create(&fw);
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_size, fw.page->size);
	assert_int_equal(st.st_mode & 022, 0);
	attach(&m, false);
	assert_string_equal(m.page->name, name);
	assert_int_equal(m.page->slots, SLOTS);
	assert_int_equal(m.page->state.pid, getpid());
	assert_int_equal(m.page->state.starts, 1);
	assert_true(m.page->state.boot_id != 0);
	assert_true(m.page->ring_off % 64 == 0 && m.page->slot_bytes % 64 == 0);
	assert_true(mt_page_alive(&m));
	assert_true(mt_page_alive(&fw));
	assert_int_equal(mt_reader_open(&r, &m, 0), 0);
	ends_with(&r, 0);
	publish(&fw, 2);
	read_rounds(&r, 0, 1, 0);
	mt_page_close(&fw);
	assert_int_equal(inode(), 0);
	assert_int_equal(m.page->state.state, MT_STATE_STOPPED);
	read_rounds(&r, 1, 2, 0);
	ends_with(&r, -EPIPE);
	ends_with(&r, -EPIPE);
	mt_reader_close(&r);
	mt_page_close(&m);
}

static void test_second_firmware(void **unused)
{
	struct mt_page_map fw, second, m;
	struct mt_error err;
	int status;
	pid_t pid;

	(void)unused;
	create(&fw);
	publish(&fw, 1);
	assert_int_equal(mt_page_create(&second, name, &room, &err), -EBUSY);
	assert_non_null(strstr(err.text, "another moetap-fw"));
	assert_non_null(strstr(err.text, "--page"));
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(mt_page_create(&second, name, &room, NULL) == -EBUSY ? 0 : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	attach(&m, false);
	assert_true(mt_page_alive(&m));
	assert_int_equal(m.page->state.state, MT_STATE_RUNNING);
	assert_int_equal(m.page->state.head, 1);
	mt_page_close(&m);
	mt_page_close(&fw);
}

/* Somebody removed the file, and another firmware has the name: it is not ours to remove. */
static void test_removed_under_way(void **unused)
{
	struct mt_page_map fw, second, m;

	(void)unused;
	create(&fw);
	unlink(file);
	create(&second);
	mt_page_close(&fw);
	attach(&m, false);
	assert_true(mt_page_alive(&m));
	mt_page_close(&m);
	mt_page_close(&second);
	assert_int_equal(inode(), 0);
}

/* ---- firmware that died -------------------------------------------------------------------- */

static void test_take_over(void **unused)
{
	struct mt_page_map fw, m;
	struct mt_reader r, late;
	struct mt_read seen;
	uint64_t boot_id;
	ino_t before;

	(void)unused;
	dead_firmware(5, true);
	before = inode();
	attach(&m, false);
	boot_id = m.page->state.boot_id;
	assert_false(mt_page_alive(&m));
	assert_int_equal(mt_reader_open(&r, &m, 0), 0);
	assert_int_equal(mt_reader_open(&late, &m, UINT64_MAX), 0);
	read_rounds(&r, 0, 3, 0);
	ends_with(&late, -EPIPE);
	create(&fw);
	assert_int_equal(inode(), before);
	assert_int_equal(fw.page->state.starts, 2);
	assert_true(fw.page->state.boot_id != boot_id);
	assert_true(mt_page_alive(&m));
	/* the rounds of the dead one, but not the half one */
	read_rounds(&r, 3, 5, 0);
	ends_with(&r, 0);
	ends_with(&late, 0);
	publish(&fw, 2);
	assert_int_equal(mt_reader_next(&r, &seen), 1);
	assert_true(whole(r.round, 5));
	assert_true(seen.restarted);
	read_rounds(&r, 6, 7, 0);
	ends_with(&r, 0);
	assert_int_equal(mt_reader_next(&late, &seen), 1);
	assert_true(seen.restarted);
	mt_reader_close(&r);
	mt_reader_close(&late);
	mt_page_close(&m);
	mt_page_close(&fw);
}

/* What a dead firmware and its hosts asked for is not asked of the next one. */
static void test_take_over_control(void **unused)
{
	struct mt_page_map fw, m;

	(void)unused;
	dead_firmware(1, false);
	attach(&m, true);
	m.page->ctl.want = 7;
	m.page->ctl.attached = 1;
	m.page->ctl.paced_head = 9;
	m.page->state.generation = 4;
	m.page->state.refused = 5;
	m.page->stats.packets = 3;
	create(&fw);
	assert_int_equal(fw.page->ctl.want, 4);
	assert_int_equal(fw.page->ctl.attached, 0);
	assert_int_equal(fw.page->ctl.paced_head, 0);
	assert_int_equal(fw.page->state.generation, 4);
	assert_int_equal(fw.page->state.refused, 0);
	assert_int_equal(fw.page->stats.packets, 0);
	mt_page_close(&m);
	mt_page_close(&fw);
}

static void test_replaced(void **unused)
{
	struct mt_page_map fw, m, other;
	struct mt_reader r;
	ino_t before;

	(void)unused;
	dead_firmware(4, false);
	before = inode();
	attach(&m, false);
	assert_int_equal(mt_reader_open(&r, &m, 0), 0);
	read_rounds(&r, 0, 2, 0);
	room.slots *= 2;
	create(&fw);
	room.slots /= 2;
	assert_int_not_equal(inode(), before);
	assert_int_equal(m.page->state.state, MT_STATE_RETIRED);
	assert_false(mt_page_alive(&m));
	read_rounds(&r, 2, 4, 0);
	ends_with(&r, -EPIPE);
	assert_int_equal(fw.page->state.head, 0);
	assert_int_equal(fw.page->slots, 2 * SLOTS);
	attach(&other, false);
	assert_true(mt_page_alive(&other));
	mt_page_close(&other);
	mt_reader_close(&r);
	mt_page_close(&m);
	mt_page_close(&fw);
}

/* ---- rounds ------------------------------------------------------------------------------ */

static void test_overrun(void **unused)
{
	struct mt_page_map fw, m;
	struct mt_reader r, all;
	struct mt_read seen;

	(void)unused;
	create(&fw);
	attach(&m, false);
	publish(&fw, 3);
	assert_int_equal(mt_reader_open(&r, &m, UINT64_MAX), 0);
	assert_int_equal(mt_reader_open(&all, &m, 0), 0);
	ends_with(&r, 0);
	publish(&fw, SLOTS + 5);
	read_rounds(&r, 8, 3 + SLOTS + 5, 5);
	ends_with(&r, 0);
	read_rounds(&all, 8, 9, 8);
	/* the slot that is being written is the oldest one */
	begin(&fw);
	publish(&fw, 2);
	begin(&fw);
	read_rounds(&all, 11, 18, 2);
	ends_with(&all, 0);
	/* a slot that lies about its size */
	publish(&fw, 1);
	mt_page_slot(&fw, 18)->ranks = 0x80000000; /* its square times 24 is 0 in 64 bits */
	mt_page_slot(&fw, 18)->experts = 0;
	assert_int_equal(mt_reader_next(&all, &seen), 0);
	assert_int_equal(seen.lost, 1);
	mt_reader_close(&r);
	mt_reader_close(&all);
	mt_page_close(&m);
	mt_page_close(&fw);
}

struct racer {
	pthread_t thread;
	uint32_t pause;
	uint64_t rounds, lost, last;
	const char *wrong;
};

static void *race(void *object)
{
	struct racer *a = object;
	struct mt_page_map m;
	struct mt_reader r;
	struct mt_read seen;
	int ret;

	if (mt_page_attach(&m, name, false, NULL) != 0 || mt_reader_open(&r, &m, 0) != 0) {
		a->wrong = "attach";
		return NULL;
	}
	while ((ret = mt_reader_next(&r, &seen)) >= 0) {
		a->lost += seen.lost;
		if (ret == 0)
			continue;
		if (!whole(r.round, r.next - 1))
			a->wrong = "torn";
		if (r.next != a->rounds + a->lost + 1)
			a->wrong = "rounds neither read nor lost";
		if (seen.restarted)
			a->wrong = "restart";
		a->rounds++;
		a->last = r.next;
		for (volatile uint32_t i = 0; i < a->pause; i++)
			;
	}
	a->lost += seen.lost;
	if (ret != -EPIPE || r.next != m.page->state.head)
		a->wrong = "end";
	mt_reader_close(&r);
	mt_page_close(&m);
	return NULL;
}

/* A writer at full speed and readers of several speeds: whole rounds only, all accounted for. */
static void test_race(void **unused)
{
	struct racer readers[4] = {{.pause = 0}, {.pause = 100}, {.pause = 3000}, {.pause = 20000}};
	struct timespec begun, now;
	struct mt_page_map fw;
	uint64_t head;

	(void)unused;
	create(&fw);
	for (size_t i = 0; i < COUNT(readers); i++)
		assert_int_equal(pthread_create(&readers[i].thread, NULL, race, &readers[i]), 0);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	do {
		publish(&fw, 1000);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - begun.tv_sec < 5);
	head = fw.page->state.head;
	mt_page_close(&fw);
	for (size_t i = 0; i < COUNT(readers); i++) {
		pthread_join(readers[i].thread, NULL);
		print_message("of %llu rounds: %llu read, %llu lost\n", (unsigned long long)head,
			(unsigned long long)readers[i].rounds, (unsigned long long)readers[i].lost);
		if (readers[i].wrong != NULL)
			fail_msg("reader %zu: %s", i, readers[i].wrong);
		assert_int_equal(readers[i].rounds + readers[i].lost, head);
		assert_true(readers[i].rounds > 0);
	}
}

/* ---- files that are no pages ------------------------------------------------------------- */

static void *map_file(size_t size)
{
	int fd = open(file, O_RDWR | O_CREAT, 0644);
	void *p;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(p != MAP_FAILED);
	close(fd);
	return p;
}

static void attach_refused(int ret, const char *words)
{
	struct mt_page_map m;
	struct mt_error err = {""};
	int got = mt_page_attach(&m, name, false, &err);

	if (got != ret || strstr(err.text, words) == NULL)
		fail_msg("%d: %s", got, err.text);
}

/** A firmware does not care what lies there. */
static void creatable(void)
{
	struct mt_page_map fw;

	create(&fw);
	assert_int_equal(fw.page->state.starts, 1);
	mt_page_close(&fw);
}

#define DAMAGED(change, ret, words)                                                                \
	do {                                                                                       \
		struct mt_page *p;                                                                 \
		dead_firmware(2, false);                                                           \
		p = map_file(stat_size());                                                         \
		change;                                                                            \
		attach_refused(ret, words);                                                        \
		munmap(p, stat_size());                                                            \
		creatable();                                                                       \
	} while (0)

static size_t stat_size(void)
{
	struct stat st;

	assert_int_equal(stat(file, &st), 0);
	return (size_t)st.st_size;
}

static void test_damaged(void **unused)
{
	(void)unused;
	munmap(map_file(1), 1);
	attach_refused(-EPROTO, "not a moetap page");
	creatable();
	munmap(map_file(1 << 20), 1 << 20);
	attach_refused(-EAGAIN, "being made");
	creatable();
	close(open(file, O_RDWR | O_CREAT, 0644));
	attach_refused(-EAGAIN, "being made");
	creatable();
	DAMAGED(p->magic ^= 1, -EPROTO, "not a moetap page");
	DAMAGED(p->version = 99, -EPROTO, "page of version 99, this program reads version 6");
	DAMAGED(p->header_bytes -= 8, -EPROTO, "one release");
	DAMAGED(p->size -= 64, -EPROTO, "damaged");
	DAMAGED(assert_int_equal(truncate(file, 4096), 0), -EPROTO, "damaged");
	DAMAGED(p->slots = 0, -EPROTO, "damaged");
	DAMAGED(p->slots++, -EPROTO, "damaged");
	DAMAGED(p->slots = UINT32_MAX, -EPROTO, "damaged");
	DAMAGED(p->bank_bytes = 0, -EPROTO, "damaged");
	DAMAGED(p->bank_bytes = UINT32_MAX, -EPROTO, "damaged");
	DAMAGED(p->bank_off[0] = 0, -EPROTO, "damaged");
	DAMAGED(p->bank_off[0] += 4, -EPROTO, "damaged");
	DAMAGED(p->bank_off[0] = UINT64_MAX - 7, -EPROTO, "damaged");
	DAMAGED(p->bank_off[1] = p->size, -EPROTO, "damaged");
	DAMAGED(p->ring_off = 64, -EPROTO, "damaged");
	DAMAGED(p->ring_off += 1, -EPROTO, "damaged");
	DAMAGED(p->ring_off = UINT64_MAX - 7, -EPROTO, "damaged");
	DAMAGED(p->slot_bytes = 0, -EPROTO, "damaged");
	DAMAGED(p->slot_bytes = 64, -EPROTO, "damaged");
	DAMAGED(p->slot_bytes -= 4, -EPROTO, "damaged");
	DAMAGED(p->slot_bytes = UINT64_MAX - 63, -EPROTO, "damaged");
	DAMAGED(memset(p->name, 'x', sizeof(p->name)), -EPROTO, "damaged");
}

/* A page and rounds of random bytes: any answer, no crash, an end. */
static void test_random_pages(void **unused)
{
	uint32_t seed = first_seed(), attached = 0;

	(void)unused;
	dead_firmware(SLOTS + 3, false);
	for (int i = 0; i < 20000; i++) {
		size_t size = stat_size();
		struct mt_page *p = map_file(size);
		char header[1024], *ring = (char *)p + p->ring_off;
		struct mt_page_map m;
		struct mt_reader r;
		struct mt_read seen;

		memcpy(header, p, sizeof(header));
		for (uint32_t n = 1 + next_random(&seed) % 3; n > 0; n--)
			((uint8_t *)p)[12 + next_random(&seed) % (sizeof(*p) - 12)] =
				(uint8_t)next_random(&seed);
		ring[next_random(&seed) % (SLOTS * room.slot_bytes)] = (char)next_random(&seed);
		if (mt_page_attach(&m, name, false, NULL) == 0) {
			attached++;
			assert_int_equal(mt_reader_open(&r, &m, next_random(&seed) % 20), 0);
			for (int n = 0; n < 40 && mt_reader_next(&r, &seen) == 1; n++)
				assert_true(mt_slot_bytes(r.round->ranks, r.round->experts) <=
					    m.page->slot_bytes);
			mt_reader_close(&r);
			mt_page_close(&m);
		}
		memcpy(p, header, sizeof(header));
		munmap(p, size);
	}
	print_message("%u of 20000 can be attached\n", attached);
	assert_true(attached > 100);
}

/* ---- loading maps ------------------------------------------------------------------------ */

/** Answers like a firmware; `accept` decides. */
struct answerer {
	struct mt_page_map *fw;
	pthread_t thread;
	bool (*accept)(const struct mt_bank *bank);
	uint32_t answers;
	bool stop;
};

static void *answer(void *object)
{
	struct answerer *a = object;
	struct mt_page *p = a->fw->page;
	struct mt_bank *bank;
	bool good;

	while (!__atomic_load_n(&a->stop, __ATOMIC_RELAXED)) {
		uint32_t want = __atomic_load_n(&p->ctl.want, __ATOMIC_ACQUIRE);

		if (want == p->state.generation || want == p->state.refused)
			continue;
		a->answers++;
		bank = NULL;
		good = mt_bank_take(mt_page_bank(a->fw, want), p->bank_bytes, &bank, NULL) == 0 &&
		       a->accept(bank);
		free(bank);
		if (good)
			p->state.bank = want & 1;
		__atomic_store_n(
			good ? &p->state.generation : &p->state.refused, want, __ATOMIC_RELEASE);
	}
	return NULL;
}

static bool no_layer_13(const struct mt_bank *bank)
{
	return bank->layers != 13;
}

static void set_layers(struct mt_bank *bank, uint32_t layers)
{
	bank->layers = layers;
	bank->checksum = mt_bank_sum(bank);
}

static void test_load(void **unused)
{
	struct mt_bank *bank = good_bank();
	const uint32_t bytes = bank->bytes;
	struct mt_page_map fw, m, reader;
	struct answerer a = {.fw = &fw, .accept = no_layer_13};
	struct mt_error err;
	uint32_t seed = first_seed(), refusals = 0;

	(void)unused;
	create(&fw);
	attach(&m, true);
	attach(&reader, false);
	assert_int_equal(pthread_create(&a.thread, NULL, answer, &a), 0);
	for (uint32_t i = 0; i < 200; i++) {
		uint32_t before = fw.page->state.generation;
		bool refuse = next_random(&seed) % 3 == 0;
		int ret;

		set_layers(bank, refuse ? 13 : 20 + i);
		ret = mt_page_load(&m, bank, &err);
		assert_int_equal(ret, refuse ? -EINVAL : 0);
		assert_int_equal(a.answers, i + 1); /* each was looked at */
		if (refuse) {
			refusals++;
			assert_non_null(strstr(err.text, "refused"));
			assert_int_equal(fw.page->state.generation, before);
		} else {
			assert_true(fw.page->state.generation > before);
			assert_int_not_equal((fw.page->state.generation ^ before) & 1, 0);
			assert_int_equal(
				mt_page_bank(&m, fw.page->state.generation)->layers, 20 + i);
		}
	}
	assert_true(refusals > 10);
	/* not for this page */
	assert_int_equal(mt_page_load(&reader, bank, &err), -EBADF);
	bank->bytes = fw.page->bank_bytes + 8;
	assert_int_equal(mt_page_load(&m, bank, &err), -E2BIG);
	assert_non_null(strstr(err.text, "start moetap-fw with it"));
	bank->bytes = bytes;
	bank->ranks = 100;
	assert_int_equal(mt_page_load(&m, bank, &err), -E2BIG);
	__atomic_store_n(&a.stop, true, __ATOMIC_RELAXED);
	pthread_join(a.thread, NULL);
	mt_page_close(&reader);
	mt_page_close(&m);
	mt_page_close(&fw);
	free(bank);
}

static void *load_in_thread(void *object)
{
	struct mt_bank *bank = good_bank();
	intptr_t ret = mt_page_load(object, bank, NULL);

	free(bank);
	return (void *)ret;
}

static void test_load_without_answer(void **unused)
{
	struct mt_bank *bank = good_bank();
	struct mt_page_map fw, m, other;
	struct mt_error err;
	pthread_t thread;
	void *ret;

	(void)unused;
	create(&fw);
	attach(&m, true);
	attach(&other, true);
	/* no answer; meanwhile nobody else can load */
	assert_int_equal(pthread_create(&thread, NULL, load_in_thread, &other), 0);
	while (__atomic_load_n(&fw.page->ctl.want, __ATOMIC_ACQUIRE) == 0)
		;
	assert_int_equal(mt_page_load(&m, bank, &err), -EBUSY);
	assert_non_null(strstr(err.text, "somebody else"));
	pthread_join(thread, &ret);
	assert_int_equal((intptr_t)ret, -ETIMEDOUT);
	/* the next one asks anew, and the firmware ends while it waits */
	assert_int_equal(fw.page->ctl.want, 1);
	assert_int_equal(pthread_create(&thread, NULL, load_in_thread, &other), 0);
	while (__atomic_load_n(&fw.page->ctl.want, __ATOMIC_ACQUIRE) == 1)
		;
	assert_int_equal(fw.page->ctl.want, 3);
	mt_page_close(&fw);
	pthread_join(thread, &ret);
	assert_int_equal((intptr_t)ret, -EPIPE);
	assert_int_equal(mt_page_load(&m, bank, &err), -EPIPE);
	assert_non_null(strstr(err.text, "has ended"));
	mt_page_close(&m);
	mt_page_close(&other);
	free(bank);
}

/* ---- permissions ------------------------------------------------------------------------- */

/** Runs f as nobody; gives its result. */
static int as_nobody(int (*f)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		if (setgid(65534) != 0 || setuid(65534) != 0)
			_exit(99);
		_exit(f());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int try_as_other(void)
{
	struct mt_page_map m;
	struct mt_error err;

	if (mt_page_create(&m, name, &room, &err) != -EACCES || strstr(err.text, "owner") == NULL)
		return 1;
	if (mt_page_attach(&m, name, true, &err) != -EACCES || strstr(err.text, "owner") == NULL)
		return 2;
	if (mt_page_attach(&m, name, false, &err) != 0 || !mt_page_alive(&m))
		return 3;
	return 0;
}

static int leave_page(void)
{
	struct mt_page_map m;

	return mt_page_create(&m, name, &room, NULL) == 0 ? 0 : 1;
}

static void test_permissions(void **unused)
{
	struct mt_page_map fw;
	ino_t before;

	(void)unused;
	if (geteuid() != 0)
		skip();
	create(&fw);
	assert_int_equal(as_nobody(try_as_other), 0);
	mt_page_close(&fw);
	/* another user could cut it at any time, so it is not taken over */
	assert_int_equal(as_nobody(leave_page), 0);
	before = inode();
	assert_int_not_equal(before, 0);
	create(&fw);
	assert_int_not_equal(inode(), before);
	assert_int_equal(fw.page->state.starts, 1);
	mt_page_close(&fw);
}

/* ---- words ------------------------------------------------------------------------------- */

static void test_words(void **unused)
{
	char buf[256], small[8];

	(void)unused;
	assert_string_equal(mt_outcome_name(MT_OUT_DISPATCH), "dispatch");
	assert_string_equal(mt_outcome_name(MT_OUT_CONTRADICT), "contradiction");
	assert_string_equal(mt_outcome_name(MT_OUT_NOT_ROCE), "not-roce");
	assert_string_equal(mt_outcome_name(MT_OUTCOMES), "?");
	for (unsigned int i = 0; i < MT_OUTCOMES; i++)
		assert_non_null(mt_outcome_name(i));
	assert_string_equal(mt_pass_name(MT_PASS_FORWARD), "dispatch");
	assert_string_equal(mt_pass_name(MT_PASS_RECOMPUTE), "recompute");
	assert_string_equal(mt_pass_name(MT_PASSES), "?");
	assert_string_equal(mt_quality_names(0, buf, sizeof(buf)), "");
	assert_string_equal(mt_quality_names(MT_Q_GAP, buf, sizeof(buf)), "gap");
	assert_string_equal(
		mt_quality_names(MT_Q_LATE | MT_Q_TIMEOUT, buf, sizeof(buf)), "late, timeout");
	mt_quality_names(UINT32_MAX, buf, sizeof(buf));
	assert_non_null(strstr(buf, "gap, disagree, "));
	assert_non_null(strstr(buf, "unmatched, timeout"));
	for (size_t len = 1; len <= sizeof(small); len++) {
		mt_quality_names(UINT32_MAX, small, len);
		assert_true(strlen(small) < len);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_room),
		cmocka_unit_test_teardown(test_life, remove_page),
		cmocka_unit_test_teardown(test_second_firmware, remove_page),
		cmocka_unit_test_teardown(test_removed_under_way, remove_page),
		cmocka_unit_test_teardown(test_take_over, remove_page),
		cmocka_unit_test_teardown(test_take_over_control, remove_page),
		cmocka_unit_test_teardown(test_replaced, remove_page),
		cmocka_unit_test_teardown(test_overrun, remove_page),
		cmocka_unit_test_teardown(test_race, remove_page),
		cmocka_unit_test_teardown(test_damaged, remove_page),
		cmocka_unit_test_teardown(test_random_pages, remove_page),
		cmocka_unit_test_teardown(test_load, remove_page),
		cmocka_unit_test_teardown(test_load_without_answer, remove_page),
		cmocka_unit_test_teardown(test_permissions, remove_page),
		cmocka_unit_test(test_words),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
