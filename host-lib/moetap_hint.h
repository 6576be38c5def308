/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * The hint page and its reader: all that a job needs. Include this file; there is nothing to link.
 *
 *	struct moetap_hint_reader reader;
 *	void *buffer;
 *
 *	if (moetap_hint_open(&reader, "my-job") == 0) {
 *		buffer = malloc(moetap_hint_bytes(&reader));
 *		...
 *		if (moetap_hint_changed(&reader) && moetap_hint_read(&reader, buffer) == 0) {
 *			const struct moetap_hint *hint = buffer;
 *
 *			if (hint->verdict == MOETAP_HINT_PLAN)
 *				place(moetap_hint_placement(hint, layer));
 *		}
 *	}
 *
 * Layout of /dev/shm/moetap-hint-NAME, version 1: little-endian, no pointers; offsets are bytes.
 *
 *	0			struct moetap_hint_page
 *	bank_offset[0]		bank 0: struct moetap_hint, then its arrays
 *	bank_offset[1]		bank 1
 *
 *	in a bank, at the offsets that its struct moetap_hint names:
 *	layer_offset		struct moetap_hint_layer [layers]
 *	placement_offset	uint32_t [layers][slots], the expert of each slot; slots in rank
 *order share_offset		double [layers][experts], forecast shares low_offset, high_offset
 *double [layers][experts], ends of their 80 % intervals
 *
 * Who does what. One writer (it holds a lock on the file), any number of readers, which never
 * write and never make the writer wait. Hint number g (its generation) is in bank g & 1. The writer
 * fills the other bank (its `sequence` is odd meanwhile), and then sets the page's `generation`. So
 * a reader finds a whole hint at any moment, also when the writer was killed half way.
 *
 * How to read without this header (Python: mmap and zlib.crc32): read `generation`, copy the bank,
 * check that zlib.crc32(copy[16:bytes]) is `crc` and that `generation` in the copy is the one
 * asked for; else do it again. The checksum makes this safe without memory fences; it is zlib's
 * rather than CRC-32C because Python has it built in.
 *
 * Limits: those of moetap.h; a page of 61 layers, 256 experts and 288 slots takes about 0.9 MB.
 *
 * Failure: a file that is no page, is cut short or has another version is refused when it is
 * opened (-EPROTO). A page that its writer gave up for another geometry is `retired`: reads return
 * -ESTALE; close it and open again. Nothing here says that the writer is alive: compare
 * `publish_time_ns` with the clock.
 */
#ifndef MOETAP_HINT_H
#define MOETAP_HINT_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the hint page is little-endian"
#endif

#ifdef __cplusplus
#define MOETAP_HINT_ASSERT(what) static_assert(what, "layout of the hint page")
extern "C" {
#else
#define MOETAP_HINT_ASSERT(what) _Static_assert(what, "layout of the hint page")
#endif

#define MOETAP_HINT_MAGIC 0x3130544e4948544dull /* "MTHINT01" */
#define MOETAP_HINT_VERSION 1u
#define MOETAP_HINT_PATH "/dev/shm/moetap-hint-"
#define MOETAP_HINT_NAME_MAX 64 /**< longest NAME; letters, digits, '.', '_', '-' */

#define MOETAP_HINT_KEEP 0u
#define MOETAP_HINT_PLAN 1u

/** Start of the page. Everything but `generation` and `retired` is set once. */
struct moetap_hint_page {
	uint64_t magic;
	uint32_t version;
	uint32_t header_bytes; /**< of this struct */
	uint64_t page_bytes;   /**< of the file */
	uint64_t page_id;      /**< random; another one after the page was made anew */
	uint32_t layers, experts, slots, ranks, nodes, groups;
	uint64_t bank_bytes;
	uint64_t bank_offset[2];
	uint8_t reserved[48];
	uint64_t generation; /**< of the newest hint; 0: none yet */
	uint32_t retired;    /**< not 0: open again */
	uint8_t reserved2[52];
};
MOETAP_HINT_ASSERT(sizeof(struct moetap_hint_page) == 192);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint_page, layers) == 32);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint_page, bank_offset) == 64);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint_page, generation) == 128);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint_page, retired) == 136);

/** State of one layer; the figures are those of struct moetap_layer_state. */
struct moetap_hint_layer {
	uint32_t stable; /**< 0: transient */
	uint32_t reserved;
	int64_t since; /**< step */
	double drift, error, noise;
};
MOETAP_HINT_ASSERT(sizeof(struct moetap_hint_layer) == 40);

/** One hint. Texts end with 0. */
struct moetap_hint {
	uint64_t sequence; /**< odd while the bank is written */
	uint32_t crc;	   /**< CRC-32 (zlib's) of bytes 16 ... `bytes` - 1 of the bank */
	uint32_t bytes;	   /**< of the bank */
	uint64_t generation;
	uint64_t placement_generation; /**< hint that first carried this placement */
	uint64_t publish_time_ns;      /**< CLOCK_REALTIME */
	int64_t made_after_step;
	int64_t valid_from_step;
	uint32_t horizon; /**< steps that the forecast covers from valid_from_step on */
	uint32_t verdict; /**< MOETAP_HINT_KEEP: placement is the one in force; or _PLAN */
	uint32_t stable;  /**< 1: every layer that has tokens is */
	uint32_t quality; /**< what was wrong with the rounds behind it, ored; 0: exact; bit 16: the
			   *   trace did not say; bit 17: loads are in part estimated */
	uint64_t rounds;  /**< rounds behind the forecast */
	uint64_t flagged; /**< those that were not exact */
	double gain;	  /**< fraction of the busiest ranks' load that the plan saves */
	double balancedness_before, balancedness_after; /**< forecast; sum of means / of maxima */
	int64_t moves;					/**< slots that the plan fills anew */
	uint32_t layers, experts, slots, ranks, nodes, groups;
	uint32_t layer_offset, placement_offset, share_offset, low_offset, high_offset;
	uint32_t unseen_ppm; /**< of a million tokens behind it, estimated: they cross no NIC */
	char method[32]; /**< of the forecast */
	char reason[256];
};
MOETAP_HINT_ASSERT(sizeof(struct moetap_hint) == 456);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint, generation) == 16);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint, horizon) == 56);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint, gain) == 88);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint, layers) == 120);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint, method) == 168);

/** Reader of one page. Not to be shared by threads without a lock; each may have its own. */
struct moetap_hint_reader {
	const unsigned char *page;
	size_t bytes;
	uint64_t generation; /**< of the hint read last; 0: none */
};

/** Bytes of a bank, offsets of its arrays in `hint` (which may be NULL). */
static inline uint64_t moetap_hint_layout(
	uint32_t layers, uint32_t experts, uint32_t slots, struct moetap_hint *hint)
{
	uint64_t cells = (uint64_t)layers * experts * sizeof(double);
	uint64_t layer = sizeof(struct moetap_hint);
	uint64_t placement = layer + (uint64_t)layers * sizeof(struct moetap_hint_layer);
	uint64_t share = (placement + (uint64_t)layers * slots * sizeof(uint32_t) + 7) & ~7ull;

	if (hint != NULL) {
		hint->layer_offset = (uint32_t)layer;
		hint->placement_offset = (uint32_t)placement;
		hint->share_offset = (uint32_t)share;
		hint->low_offset = (uint32_t)(share + cells);
		hint->high_offset = (uint32_t)(share + 2 * cells);
	}
	return (share + 3 * cells + 63) & ~63ull;
}

/** CRC-32 as in zlib: polynomial 0xedb88320, start and end inverted. */
static inline uint32_t moetap_hint_crc(const void *data, size_t bytes)
{
	const unsigned char *at = (const unsigned char *)data;
	uint32_t table[256], crc = 0xffffffffu;

	for (uint32_t i = 0; i < 256; i++) {
		table[i] = i;
		for (int bit = 0; bit < 8; bit++)
			table[i] = (table[i] >> 1) ^ ((table[i] & 1) ? 0xedb88320u : 0);
	}
	for (size_t i = 0; i < bytes; i++)
		crc = (crc >> 8) ^ table[(crc ^ at[i]) & 0xff];
	return ~crc;
}

/** Whether the file is a page of this version, whole and consistent. */
static inline int moetap_hint_check(const void *start, size_t bytes)
{
	const struct moetap_hint_page *page = (const struct moetap_hint_page *)start;

	return bytes >= sizeof(*page) && page->magic == MOETAP_HINT_MAGIC &&
	       page->version == MOETAP_HINT_VERSION && page->header_bytes == sizeof(*page) &&
	       page->page_bytes == bytes &&
	       page->bank_bytes ==
		       moetap_hint_layout(page->layers, page->experts, page->slots, NULL) &&
	       page->bank_offset[0] == sizeof(*page) &&
	       page->bank_offset[1] == sizeof(*page) + page->bank_bytes &&
	       page->page_bytes == sizeof(*page) + 2 * page->bank_bytes;
}

/**
 * Opens the page NAME for reading. Returns 0, -EINVAL (bad name), -ENOENT (nobody published there),
 * -EPROTO (no page, cut short, or another version) or another negative errno.
 */
static inline int moetap_hint_open(struct moetap_hint_reader *reader, const char *name)
{
	char path[sizeof(MOETAP_HINT_PATH) + MOETAP_HINT_NAME_MAX];
	struct stat st;
	void *page;
	int fd, err = 0;

	memset(reader, 0, sizeof(*reader));
	if (name[0] == '\0' || strlen(name) > MOETAP_HINT_NAME_MAX || strchr(name, '/') != NULL)
		return -EINVAL;
	snprintf(path, sizeof(path), "%s%s", MOETAP_HINT_PATH, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		err = -errno;
	else if ((size_t)st.st_size < sizeof(struct moetap_hint_page))
		err = -EPROTO;
	if (err < 0) {
		close(fd);
		return err;
	}
	page = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	err = errno;
	close(fd);
	if (page == MAP_FAILED)
		return -err;
	if (!moetap_hint_check(page, (size_t)st.st_size)) {
		munmap(page, (size_t)st.st_size);
		return -EPROTO;
	}
	reader->page = (const unsigned char *)page;
	reader->bytes = (size_t)st.st_size;
	return 0;
}

/** Closes the page. */
static inline void moetap_hint_close(struct moetap_hint_reader *reader)
{
	munmap((void *)(uintptr_t)reader->page, reader->bytes);
	reader->page = NULL;
}

/** The start of the page, for its geometry. */
static inline const struct moetap_hint_page *moetap_hint_head(
	const struct moetap_hint_reader *reader)
{
	return (const struct moetap_hint_page *)(const void *)reader->page;
}

/** Bytes that moetap_hint_read() writes. */
static inline size_t moetap_hint_bytes(const struct moetap_hint_reader *reader)
{
	return (size_t)moetap_hint_head(reader)->bank_bytes;
}

/** Whether there is a hint that was not read yet, or the page was retired: one load, for a job's
 * every step. */
static inline int moetap_hint_changed(const struct moetap_hint_reader *reader)
{
	const struct moetap_hint_page *page = moetap_hint_head(reader);

	return __atomic_load_n(&page->generation, __ATOMIC_ACQUIRE) != reader->generation ||
	       __atomic_load_n(&page->retired, __ATOMIC_ACQUIRE) != 0;
}

/** One attempt at a copy of hint `generation`. Returns whether it is whole. */
static inline int moetap_hint_copy(
	const struct moetap_hint_reader *reader, uint64_t generation, void *buffer)
{
	const struct moetap_hint_page *page = moetap_hint_head(reader);
	const unsigned char *bank = reader->page + page->bank_offset[generation & 1];
	const uint64_t *sequence = (const uint64_t *)(const void *)bank;
	struct moetap_hint *hint = (struct moetap_hint *)buffer;
	uint64_t before = __atomic_load_n(sequence, __ATOMIC_ACQUIRE);

	if (before & 1)
		return 0;
	memcpy(buffer, bank, (size_t)page->bank_bytes);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (__atomic_load_n(sequence, __ATOMIC_RELAXED) != before)
		return 0;
	return hint->generation == generation && hint->bytes == page->bank_bytes &&
	       hint->crc == moetap_hint_crc((unsigned char *)buffer + 16, hint->bytes - 16);
}

/**
 * Copies the newest hint into `buffer` (moetap_hint_bytes() bytes, aligned to 8), which then starts
 * with a struct moetap_hint. Returns 0, -ENODATA (no hint yet), -ESTALE (retired: close and open
 * again) or -EAGAIN (the writer went over this reader time and again; or the page is damaged).
 */
static inline int moetap_hint_read(struct moetap_hint_reader *reader, void *buffer)
{
	const struct moetap_hint_page *page = moetap_hint_head(reader);

	for (int attempt = 0; attempt < 1000; attempt++) {
		uint64_t generation = __atomic_load_n(&page->generation, __ATOMIC_ACQUIRE);

		if (__atomic_load_n(&page->retired, __ATOMIC_ACQUIRE) != 0)
			return -ESTALE;
		if (generation == 0)
			return -ENODATA;
		if (moetap_hint_copy(reader, generation, buffer)) {
			reader->generation = generation;
			return 0;
		}
	}
	return -EAGAIN;
}

/** State of a layer in a hint that was read. */
static inline const struct moetap_hint_layer *moetap_hint_state(
	const struct moetap_hint *hint, uint32_t layer)
{
	return (const struct moetap_hint_layer *)(const void *)((const char *)hint +
								hint->layer_offset) +
	       layer;
}

/** Expert of each slot of a layer, [slots]. */
static inline const uint32_t *moetap_hint_placement(const struct moetap_hint *hint, uint32_t layer)
{
	return (const uint32_t *)(const void *)((const char *)hint + hint->placement_offset) +
	       (size_t)layer * hint->slots;
}

/** Forecast shares of a layer, [experts], and the ends of their intervals. */
static inline const double *moetap_hint_share(const struct moetap_hint *hint, uint32_t layer)
{
	return (const double *)(const void *)((const char *)hint + hint->share_offset) +
	       (size_t)layer * hint->experts;
}

static inline const double *moetap_hint_low(const struct moetap_hint *hint, uint32_t layer)
{
	return (const double *)(const void *)((const char *)hint + hint->low_offset) +
	       (size_t)layer * hint->experts;
}

static inline const double *moetap_hint_high(const struct moetap_hint *hint, uint32_t layer)
{
	return (const double *)(const void *)((const char *)hint + hint->high_offset) +
	       (size_t)layer * hint->experts;
}

#ifdef __cplusplus
}
#endif

#endif
