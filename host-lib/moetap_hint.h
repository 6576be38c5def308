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
 * Layout of /dev/shm/moetap-hint-NAME, version 2: little-endian, no pointers; offsets are bytes.
 *
 *	0			struct moetap_hint_page
 *	bank_offset[0]		bank 0: struct moetap_hint, its directory of kinds, their arrays
 *	bank_offset[1]		bank 1
 *	ack_offset		what the job answers: struct moetap_hint_acks, then for every layer a
 *				struct moetap_hint_acks and its records
 *
 * A hint has several kinds of content. The directory (struct moetap_hint_kind) says of each where
 * it is, how wide, and in what version; the hint's `present` says which of them it carries. A
 * reader takes the kinds and versions that it knows and passes over the others.
 *
 * Who does what. One writer (it holds a lock on the file), any number of readers, which never make
 * the writer wait. Hint number g (its generation) is in bank g & 1. The writer fills the other bank
 * (its `sequence` is odd meanwhile), and then sets the page's `generation`. So a reader finds a
 * whole hint at any moment, also when the writer was killed half way. The answers have one writer
 * too, the job, which maps nothing else writable.
 *
 * How to read without this header (Python: mmap and zlib.crc32; tools/python does it): read
 * `generation`, copy the bank, check that zlib.crc32(copy[16:bytes]) is `crc` and that `generation`
 * in the copy is the one asked for; else do it again. The checksum makes this safe without memory
 * fences; it is zlib's rather than CRC-32C because Python has it built in.
 *
 * Limits: those of moetap.h. Failure: a file that is no page, is cut short or has another version
 * is refused when it is opened (-EPROTO). A page that its writer gave up for another geometry is
 * `retired`: reads return -ESTALE; close it and open again. Whether a hint is still good tells
 * moetap_hint_stale(). docs/hints.md has the layout field by field and examples.
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
#include <time.h>
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
#define MOETAP_HINT_VERSION 2u
#define MOETAP_HINT_PATH "/dev/shm/moetap-hint-"
#define MOETAP_HINT_NAME_MAX 64 /**< longest NAME; letters, digits, '.', '_', '-' */

#define MOETAP_HINT_KEEP 0u
#define MOETAP_HINT_PLAN 1u

/** Kinds of content, each a row a layer. */
enum {
	MOETAP_HINT_STATE = 1, /**< struct moetap_hint_layer */
	MOETAP_HINT_PLACEMENT, /**< uint32_t [slots], expert of each slot; slots in rank order */
	MOETAP_HINT_SHARE,     /**< double [experts], forecast shares */
	MOETAP_HINT_LOW,       /**< double [experts], lower ends of their 80 % intervals */
	MOETAP_HINT_HIGH,      /**< double [experts], upper ends */
	MOETAP_HINT_SPLIT,     /**< float [nodes][slots], part of a node's tokens for the slot's
				*   expert that goes to this slot; those of an expert add up to 1 */
	MOETAP_HINT_BIAS,      /**< float [experts], what to add to the gate's bias each step */
	MOETAP_HINT_CAPACITY,  /**< float [experts], capacity factor: upper end x experts */
	MOETAP_HINT_NETWORK,   /**< struct moetap_hint_network */
	MOETAP_HINT_KINDS,     /**< one more than the last */
};

/** How the placement in force is known (struct moetap_hint, `known`). */
enum {
	MOETAP_HINT_KNOWN_START,   /**< it is the one that frameworks start with */
	MOETAP_HINT_KNOWN_ACKED,   /**< the job acknowledged it */
	MOETAP_HINT_KNOWN_STATED,  /**< an operator stated it */
	MOETAP_HINT_KNOWN_NOTICED, /**< the traffic shows it */
	MOETAP_HINT_KNOWN_NOT,	   /**< placement unknown: the hint has none, and plans nothing */
};

#define MOETAP_HINT_ALL_LAYERS UINT32_MAX
#define MOETAP_HINT_ACKS 4u /**< acknowledgements that a layer keeps */

/** Start of the page. What lies before `generation` is set once. */
struct moetap_hint_page {
	uint64_t magic;
	uint32_t version;
	uint32_t header_bytes; /**< of this struct */
	uint64_t page_bytes;   /**< of the file */
	uint64_t page_id;      /**< random; another one after the page was made anew */
	uint32_t layers, experts, slots, ranks, nodes, groups;
	uint64_t bank_bytes;
	uint64_t bank_offset[2];
	uint64_t ack_offset; /**< a multiple of 65536, so that it can be mapped alone */
	uint64_t ack_bytes;
	uint8_t reserved[32];
	uint64_t generation; /**< of the newest hint; 0: none yet */
	uint32_t retired;    /**< not 0: open again */
	uint32_t reserved2;
	int64_t after_plan; /**< step from which the last plan holds, for the writer; 0: none */
	uint8_t reserved3[40];
};
MOETAP_HINT_ASSERT(sizeof(struct moetap_hint_page) == 192);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint_page, layers) == 32);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint_page, bank_offset) == 64);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint_page, ack_offset) == 80);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint_page, generation) == 128);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint_page, retired) == 136);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint_page, after_plan) == 144);

/** One kind of content. Set once, with the page. */
struct moetap_hint_kind {
	uint32_t kind;
	uint32_t version;
	char type[8];	  /**< of an element, as NumPy writes it: "<f8"; "" for a struct */
	uint32_t element; /**< bytes of one */
	uint32_t columns; /**< elements a layer */
	uint32_t offset;  /**< in the bank */
	uint32_t reserved;
};
MOETAP_HINT_ASSERT(sizeof(struct moetap_hint_kind) == 32);

/** State of one layer; the figures are those of struct moetap_layer_state. */
struct moetap_hint_layer {
	uint32_t stable; /**< 0: transient */
	uint32_t reserved;
	int64_t since; /**< step */
	double drift, error, noise;
};
MOETAP_HINT_ASSERT(sizeof(struct moetap_hint_layer) == 40);

/** What the dispatches of one layer ask of the network. */
struct moetap_hint_network {
	float busiest;	      /**< tokens a step from one rank to another, the most of all pairs */
	float mean;	      /**< of all pairs that cross a NIC */
	uint32_t queue_pairs; /**< a connection, so that the busiest pair has more paths; 0: no advice */
	int32_t traffic_class; /**< of the job's packets, as the operator said; below 0: no advice */
};
MOETAP_HINT_ASSERT(sizeof(struct moetap_hint_network) == 16);

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
	uint32_t kinds_offset, kinds; /**< directory in the bank: struct moetap_hint_kind [kinds] */
	uint32_t kind_bytes;	      /**< from one entry to the next */
	uint32_t present;    /**< bit i: the i-th entry of the directory is filled in this hint */
	uint32_t known;	     /**< MOETAP_HINT_KNOWN_*, of the placement in force */
	uint32_t unseen_ppm; /**< of a million tokens behind it, estimated: they cross no NIC */
	uint64_t expires_ns;   /**< CLOCK_REALTIME after which it is stale; 0: never by the clock */
	int64_t expires_step;  /**< last step that it is for */
	uint64_t plan_generation; /**< newest hint with the verdict `plan`; 0: none so far */
	int64_t plan_step;	  /**< after which that one was made */
	char method[32];	  /**< of the forecast */
	char reason[256];
};
MOETAP_HINT_ASSERT(sizeof(struct moetap_hint) == 488);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint, generation) == 16);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint, horizon) == 56);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint, gain) == 88);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint, layers) == 120);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint, kinds_offset) == 144);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint, expires_ns) == 168);
MOETAP_HINT_ASSERT(offsetof(struct moetap_hint, method) == 200);

/** Start of the job's answers, and of those of each layer; a cache line of its own. */
struct moetap_hint_acks {
	uint64_t count; /**< so far: of all layers, or of this one */
	uint8_t reserved[56];
};
MOETAP_HINT_ASSERT(sizeof(struct moetap_hint_acks) == 64);

/** One acknowledgement: record (number - 1) % MOETAP_HINT_ACKS of its layer. */
struct moetap_hint_ack {
	uint32_t crc;	     /**< CRC-32 of the record from byte 4 on, placement included */
	uint32_t slots;
	uint64_t number;     /**< 1, 2, ... in its layer */
	uint64_t generation; /**< of the hint whose placement it is; 0: as frameworks start */
	int64_t step;	     /**< from which the layer is placed so */
	uint64_t time_ns;    /**< CLOCK_REALTIME of the answer */
	/* uint32_t placement[slots] */
};
MOETAP_HINT_ASSERT(sizeof(struct moetap_hint_ack) == 40);

/** Reader of one page. Not to be shared by threads without a lock; each may have its own. */
struct moetap_hint_reader {
	const unsigned char *page;
	size_t bytes;
	unsigned char *acks; /**< writable; NULL: not opened for answers */
	int fd;		     /**< holds the lock of the answers; -1: none */
	uint64_t generation; /**< of the hint read last; 0: none */
	/** Of the kinds that this header knows, in each bank; columns 0: the page has none such. */
	struct moetap_hint_kind kind[MOETAP_HINT_KINDS];
	uint32_t bit[MOETAP_HINT_KINDS]; /**< of `present` */
	uint32_t crc[8][256];
};

/** Tables for moetap_hint_crc(): polynomial 0xedb88320, eight bytes at a time. */
static inline void moetap_hint_crc_tables(uint32_t table[8][256])
{
	for (uint32_t i = 0; i < 256; i++) {
		table[0][i] = i;
		for (int bit = 0; bit < 8; bit++)
			table[0][i] = (table[0][i] >> 1) ^
				      ((table[0][i] & 1) ? 0xedb88320u : 0);
	}
	for (uint32_t i = 0; i < 256; i++)
		for (int k = 1; k < 8; k++)
			table[k][i] = (table[k - 1][i] >> 8) ^ table[0][table[k - 1][i] & 0xff];
}

/** CRC-32 as in zlib: start and end inverted. */
static inline uint32_t moetap_hint_crc(
	const uint32_t table[8][256], const void *data, size_t bytes)
{
	const unsigned char *at = (const unsigned char *)data;
	uint32_t crc = 0xffffffffu;

	for (; bytes >= 8; bytes -= 8, at += 8) {
		uint32_t low, high;

		memcpy(&low, at, sizeof(low));
		memcpy(&high, at + 4, sizeof(high));
		low ^= crc;
		crc = table[7][low & 0xff] ^ table[6][low >> 8 & 0xff] ^
		      table[5][low >> 16 & 0xff] ^ table[4][low >> 24] ^ table[3][high & 0xff] ^
		      table[2][high >> 8 & 0xff] ^ table[1][high >> 16 & 0xff] ^
		      table[0][high >> 24];
	}
	for (; bytes > 0; bytes--)
		crc = (crc >> 8) ^ table[0][(crc ^ *at++) & 0xff];
	return ~crc;
}

/** Bytes from one layer's answers to the next, and from one record to the next. */
static inline uint64_t moetap_hint_ack_record(uint32_t slots)
{
	return (sizeof(struct moetap_hint_ack) + (uint64_t)slots * 4 + 63) & ~63ull;
}

static inline uint64_t moetap_hint_ack_stride(uint32_t slots)
{
	return sizeof(struct moetap_hint_acks) + MOETAP_HINT_ACKS * moetap_hint_ack_record(slots);
}

/** Columns that a kind must have in version 1; 0: not known here. */
static inline uint64_t moetap_hint_columns(const struct moetap_hint_page *page, uint32_t kind)
{
	if (kind == MOETAP_HINT_STATE || kind == MOETAP_HINT_NETWORK)
		return 1;
	if (kind == MOETAP_HINT_PLACEMENT)
		return page->slots;
	if (kind == MOETAP_HINT_SPLIT)
		return (uint64_t)page->nodes * page->slots;
	return kind > 0 && kind < MOETAP_HINT_KINDS ? page->experts : 0;
}

static inline uint32_t moetap_hint_element(uint32_t kind)
{
	if (kind == MOETAP_HINT_STATE)
		return (uint32_t)sizeof(struct moetap_hint_layer);
	if (kind == MOETAP_HINT_NETWORK)
		return (uint32_t)sizeof(struct moetap_hint_network);
	return kind >= MOETAP_HINT_SHARE && kind <= MOETAP_HINT_HIGH ? 8 : 4;
}

/** Whether the directory of a bank is whole and within it. Fills `kind` and `bit` of a reader. */
static inline int moetap_hint_directory(const struct moetap_hint_page *page, const void *start,
	struct moetap_hint_reader *reader)
{
	const struct moetap_hint *bank = (const struct moetap_hint *)start;
	uint64_t end = bank->kinds_offset + (uint64_t)bank->kinds * bank->kind_bytes;

	if (bank->bytes != page->bank_bytes || bank->layers != page->layers ||
		bank->experts != page->experts || bank->slots != page->slots || bank->kinds > 32 ||
		bank->kind_bytes < sizeof(struct moetap_hint_kind) || end > page->bank_bytes ||
		bank->kinds_offset < sizeof(*bank))
		return 0;
	for (uint32_t i = 0; i < bank->kinds; i++) {
		struct moetap_hint_kind k;

		memcpy(&k, (const char *)start + bank->kinds_offset + i * bank->kind_bytes,
			sizeof(k));
		if (k.offset < end || (k.offset & 7) != 0 || k.offset > page->bank_bytes ||
			(page->bank_bytes - k.offset) / page->layers <
				(uint64_t)k.columns * k.element)
			return 0;
		if (moetap_hint_columns(page, k.kind) == 0 || k.version != 1)
			continue;
		if (k.columns != moetap_hint_columns(page, k.kind) ||
			k.element != moetap_hint_element(k.kind))
			return 0;
		reader->kind[k.kind] = k;
		reader->bit[k.kind] = 1u << i;
	}
	return 1;
}

/** Whether the file is a page of this version, whole and consistent; fills `kind` and `bit` of a
 * reader. */
static inline int moetap_hint_check(
	const void *start, size_t bytes, struct moetap_hint_reader *reader)
{
	const struct moetap_hint_page *page = (const struct moetap_hint_page *)start;

	if (bytes < sizeof(*page) || page->magic != MOETAP_HINT_MAGIC ||
		page->version != MOETAP_HINT_VERSION || page->header_bytes != sizeof(*page) ||
		page->page_bytes != bytes || page->layers == 0 ||
		page->bank_bytes < sizeof(struct moetap_hint) || page->ack_offset > bytes ||
		page->ack_bytes > bytes - page->ack_offset ||
		page->ack_bytes < sizeof(struct moetap_hint_acks) ||
		(page->ack_bytes - sizeof(struct moetap_hint_acks)) /
				moetap_hint_ack_stride(page->slots) <
			page->layers)
		return 0;
	for (int i = 0; i < 2; i++) {
		uint64_t at = page->bank_offset[i];

		if (at < sizeof(*page) || (at & 7) != 0 || at > bytes ||
			page->bank_bytes > bytes - at ||
			!moetap_hint_directory(page, (const char *)start + at, reader))
			return 0;
	}
	return 1;
}

/** Opens and maps the page. `flags` are those of open(2). */
static inline int moetap_hint_map(struct moetap_hint_reader *reader, const char *name, int flags)
{
	char path[sizeof(MOETAP_HINT_PATH) + MOETAP_HINT_NAME_MAX];
	struct stat st;
	void *page;
	int err;

	memset(reader, 0, sizeof(*reader));
	reader->fd = -1;
	if (name[0] == '\0' || strlen(name) > MOETAP_HINT_NAME_MAX || strchr(name, '/') != NULL)
		return -EINVAL;
	snprintf(path, sizeof(path), "%s%s", MOETAP_HINT_PATH, name);
	reader->fd = open(path, flags | O_CLOEXEC);
	if (reader->fd < 0)
		return -errno;
	if (fstat(reader->fd, &st) < 0)
		return -errno;
	if ((size_t)st.st_size < sizeof(struct moetap_hint_page))
		return -EPROTO;
	page = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, reader->fd, 0);
	err = errno;
	if (page == MAP_FAILED)
		return -err;
	reader->page = (const unsigned char *)page;
	reader->bytes = (size_t)st.st_size;
	if (!moetap_hint_check(page, reader->bytes, reader))
		return -EPROTO;
	moetap_hint_crc_tables(reader->crc);
	return 0;
}

/** Closes the page. */
static inline void moetap_hint_close(struct moetap_hint_reader *reader)
{
	if (reader->acks != NULL)
		munmap(reader->acks,
			((const struct moetap_hint_page *)(const void *)reader->page)->ack_bytes);
	if (reader->page != NULL)
		munmap((void *)(uintptr_t)reader->page, reader->bytes);
	if (reader->fd >= 0)
		close(reader->fd);
	reader->acks = NULL;
	reader->page = NULL;
	reader->fd = -1;
}

/**
 * Opens the page NAME for reading. Returns 0, -EINVAL (bad name), -ENOENT (nobody published there),
 * -EPROTO (no page, cut short, or another version) or another negative errno.
 */
static inline int moetap_hint_open(struct moetap_hint_reader *reader, const char *name)
{
	int ret = moetap_hint_map(reader, name, O_RDONLY);

	if (ret < 0) {
		moetap_hint_close(reader);
		return ret;
	}
	close(reader->fd);
	reader->fd = -1;
	return 0;
}

#ifdef F_OFD_SETLK
#define MOETAP_HINT_LOCK F_OFD_SETLK
#else
#define MOETAP_HINT_LOCK 37 /* F_OFD_SETLK without _GNU_SOURCE */
#endif

/**
 * The same, for a job that also answers: moetap_hint_ack(). Only the answers are mapped writable.
 * One process of a job does this on each host; it needs the right to write the file, which the
 * user who publishes has. Also returns -EBUSY (another process answers) and -EACCES.
 */
static inline int moetap_hint_open_ack(struct moetap_hint_reader *reader, const char *name)
{
	const struct moetap_hint_page *page;
	struct flock lock;
	void *acks = MAP_FAILED;
	int ret = moetap_hint_map(reader, name, O_RDWR);

	if (ret == 0) {
		page = (const struct moetap_hint_page *)(const void *)reader->page;
		memset(&lock, 0, sizeof(lock));
		lock.l_type = F_WRLCK;
		lock.l_whence = SEEK_SET;
		lock.l_start = (off_t)page->ack_offset;
		lock.l_len = (off_t)page->ack_bytes;
		if (fcntl(reader->fd, MOETAP_HINT_LOCK, &lock) < 0)
			ret = errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
	}
	if (ret == 0) {
		acks = mmap(NULL, (size_t)page->ack_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
			reader->fd, (off_t)page->ack_offset);
		ret = acks == MAP_FAILED ? -errno : 0;
	}
	if (ret < 0) {
		moetap_hint_close(reader);
		return ret;
	}
	reader->acks = (unsigned char *)acks;
	return 0;
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
	       hint->crc == moetap_hint_crc(
				    reader->crc, (unsigned char *)buffer + 16, hint->bytes - 16);
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

/**
 * Copies one layer of one kind of the newest hint, without the rest of it, for a hot loop:
 * `buffer` gets reader->kind[kind].columns elements. `generation` (may be NULL) gets the hint that
 * they are of. Whole by the sequence number; no checksum is made.
 *
 * Returns 0, -EINVAL (no such layer), -ENOTSUP (the page has no such kind, or in another version),
 * -ENOMSG (this hint does not carry it), or as moetap_hint_read().
 */
static inline int moetap_hint_row(const struct moetap_hint_reader *reader, uint32_t kind,
	uint32_t layer, void *buffer, uint64_t *generation)
{
	const struct moetap_hint_page *page = moetap_hint_head(reader);
	const struct moetap_hint_kind *k;
	size_t bytes;

	if (layer >= page->layers)
		return -EINVAL;
	if (kind >= MOETAP_HINT_KINDS || reader->kind[kind].columns == 0)
		return -ENOTSUP;
	k = &reader->kind[kind];
	bytes = (size_t)k->columns * k->element;
	for (int attempt = 0; attempt < 1000; attempt++) {
		uint64_t newest = __atomic_load_n(&page->generation, __ATOMIC_ACQUIRE), before, got;
		const unsigned char *bank = reader->page + page->bank_offset[newest & 1];
		const struct moetap_hint *hint = (const struct moetap_hint *)(const void *)bank;
		uint32_t present;

		if (__atomic_load_n(&page->retired, __ATOMIC_ACQUIRE) != 0)
			return -ESTALE;
		if (newest == 0)
			return -ENODATA;
		before = __atomic_load_n(&hint->sequence, __ATOMIC_ACQUIRE);
		got = hint->generation;
		present = hint->present;
		memcpy(buffer, bank + k->offset + layer * bytes, bytes);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if ((before & 1) != 0 || got != newest ||
			__atomic_load_n(&hint->sequence, __ATOMIC_RELAXED) != before)
			continue;
		if (generation != NULL)
			*generation = newest;
		return (present & reader->bit[kind]) != 0 ? 0 : -ENOMSG;
	}
	return -EAGAIN;
}

/** Why a hint should not be followed any more, ored. */
#define MOETAP_HINT_STALE_RETIRED 1u /**< the page was given up: open again */
#define MOETAP_HINT_STALE_NEWER 2u   /**< there is a newer hint: read it */
#define MOETAP_HINT_STALE_TIME 4u    /**< its time is over */
#define MOETAP_HINT_STALE_STEP 8u    /**< its steps are over */

/** Whether a hint that was read is stale at `step` of the job and `now_ns` (CLOCK_REALTIME; 0: read
 * the clock): 0, or MOETAP_HINT_STALE_*. */
static inline uint32_t moetap_hint_stale(const struct moetap_hint_reader *reader,
	const struct moetap_hint *hint, int64_t step, uint64_t now_ns)
{
	const struct moetap_hint_page *page = moetap_hint_head(reader);
	uint32_t why = 0;

	if (now_ns == 0 && hint->expires_ns != 0) {
		struct timespec now;

		clock_gettime(CLOCK_REALTIME, &now);
		now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	}
	if (__atomic_load_n(&page->retired, __ATOMIC_ACQUIRE) != 0)
		why |= MOETAP_HINT_STALE_RETIRED;
	if (__atomic_load_n(&page->generation, __ATOMIC_ACQUIRE) != hint->generation)
		why |= MOETAP_HINT_STALE_NEWER;
	if (hint->expires_ns != 0 && now_ns > hint->expires_ns)
		why |= MOETAP_HINT_STALE_TIME;
	if (step > hint->expires_step)
		why |= MOETAP_HINT_STALE_STEP;
	return why;
}

/** A layer of a kind in a hint that was read; NULL: the hint does not carry it. */
static inline const void *moetap_hint_find(
	const struct moetap_hint *hint, uint32_t kind, uint32_t layer)
{
	for (uint32_t i = 0; i < hint->kinds; i++) {
		const struct moetap_hint_kind *k =
			(const struct moetap_hint_kind *)(const void *)((const char *)hint +
									hint->kinds_offset +
									i * hint->kind_bytes);

		if (k->kind == kind && k->version == 1)
			return (hint->present >> i & 1) == 0
				       ? NULL
				       : (const char *)hint + k->offset +
						 (size_t)layer * k->columns * k->element;
	}
	return NULL;
}

/** State of a layer. */
static inline const struct moetap_hint_layer *moetap_hint_state(
	const struct moetap_hint *hint, uint32_t layer)
{
	return (const struct moetap_hint_layer *)moetap_hint_find(hint, MOETAP_HINT_STATE, layer);
}

/** Expert of each slot of a layer, [slots]. NULL when the placement in force is unknown. */
static inline const uint32_t *moetap_hint_placement(const struct moetap_hint *hint, uint32_t layer)
{
	return (const uint32_t *)moetap_hint_find(hint, MOETAP_HINT_PLACEMENT, layer);
}

/** Forecast shares of a layer, [experts], and the ends of their intervals. */
static inline const double *moetap_hint_share(const struct moetap_hint *hint, uint32_t layer)
{
	return (const double *)moetap_hint_find(hint, MOETAP_HINT_SHARE, layer);
}

static inline const double *moetap_hint_low(const struct moetap_hint *hint, uint32_t layer)
{
	return (const double *)moetap_hint_find(hint, MOETAP_HINT_LOW, layer);
}

static inline const double *moetap_hint_high(const struct moetap_hint *hint, uint32_t layer)
{
	return (const double *)moetap_hint_find(hint, MOETAP_HINT_HIGH, layer);
}

/** Split of the tokens of each node, [nodes][slots], for the hint's placement; or NULL. */
static inline const float *moetap_hint_split(const struct moetap_hint *hint, uint32_t layer)
{
	return (const float *)moetap_hint_find(hint, MOETAP_HINT_SPLIT, layer);
}

/** What to add to the gate's bias each step, [experts]; or NULL. */
static inline const float *moetap_hint_bias(const struct moetap_hint *hint, uint32_t layer)
{
	return (const float *)moetap_hint_find(hint, MOETAP_HINT_BIAS, layer);
}

/** Capacity factors, [experts]; the largest is the layer's. Or NULL. */
static inline const float *moetap_hint_capacity(const struct moetap_hint *hint, uint32_t layer)
{
	return (const float *)moetap_hint_find(hint, MOETAP_HINT_CAPACITY, layer);
}

/** What a layer asks of the network, or NULL. */
static inline const struct moetap_hint_network *moetap_hint_network(
	const struct moetap_hint *hint, uint32_t layer)
{
	return (const struct moetap_hint_network *)moetap_hint_find(
		hint, MOETAP_HINT_NETWORK, layer);
}

/* ---- what the job answers ---- */

/** Answers of a layer within the area `acks`, or, with MOETAP_HINT_ALL_LAYERS, the area's start. */
static inline const struct moetap_hint_acks *moetap_hint_acks_of(
	const struct moetap_hint_reader *reader, uint32_t layer)
{
	const struct moetap_hint_page *page = moetap_hint_head(reader);
	const unsigned char *at = reader->page + page->ack_offset;

	if (layer != MOETAP_HINT_ALL_LAYERS)
		at += sizeof(struct moetap_hint_acks) +
		      layer * moetap_hint_ack_stride(page->slots);
	return (const struct moetap_hint_acks *)(const void *)at;
}

/** How many acknowledgements a layer (or, with MOETAP_HINT_ALL_LAYERS, all) got so far. */
static inline uint64_t moetap_hint_acked(const struct moetap_hint_reader *reader, uint32_t layer)
{
	return __atomic_load_n(&moetap_hint_acks_of(reader, layer)->count, __ATOMIC_ACQUIRE);
}

static inline void moetap_hint_ack_layer(struct moetap_hint_reader *reader,
	const struct moetap_hint *hint, uint32_t layer, int64_t step, uint64_t now_ns)
{
	const struct moetap_hint_page *page = moetap_hint_head(reader);
	unsigned char *start = reader->acks + ((const unsigned char *)moetap_hint_acks_of(
						       reader, layer) -
						      reader->page - page->ack_offset);
	struct moetap_hint_acks *mine = (struct moetap_hint_acks *)(void *)start;
	uint64_t number = mine->count + 1;
	unsigned char *record = start + sizeof(*mine) +
				((number - 1) % MOETAP_HINT_ACKS) *
					moetap_hint_ack_record(page->slots);
	struct moetap_hint_ack *ack = (struct moetap_hint_ack *)(void *)record;
	uint32_t *slots = (uint32_t *)(void *)(record + sizeof(*ack));

	/* Whoever reads it meanwhile finds that the checksum is not the record's. */
	ack->slots = page->slots;
	ack->number = number;
	ack->generation = hint != NULL ? hint->placement_generation : 0;
	ack->step = step;
	ack->time_ns = now_ns;
	for (uint32_t s = 0; s < page->slots; s++)
		slots[s] = hint != NULL ? moetap_hint_placement(hint, layer)[s] : s % page->experts;
	ack->crc = moetap_hint_crc(reader->crc, record + 4, sizeof(*ack) - 4 + page->slots * 4ull);
	__atomic_store_n(&mine->count, number, __ATOMIC_RELEASE);
}

/**
 * Says that the placement of `hint` (a copy that was read; NULL: the one that frameworks start
 * with) holds in `layer` (or MOETAP_HINT_ALL_LAYERS) from `step` on, in the steps that hints count.
 * The reader was opened with moetap_hint_open_ack(). Waits for nobody. May be called again, for
 * layers that come later or for the next placement; the last MOETAP_HINT_ACKS of a layer are kept.
 *
 * Returns 0, -EBADF (not opened for answers), -EINVAL (no such layer; step below 0; a hint without a
 * placement, or of another geometry) or -ESTALE (the page was given up).
 */
static inline int moetap_hint_ack(struct moetap_hint_reader *reader,
	const struct moetap_hint *hint, uint32_t layer, int64_t step)
{
	const struct moetap_hint_page *page = moetap_hint_head(reader);
	uint32_t first = layer == MOETAP_HINT_ALL_LAYERS ? 0 : layer;
	uint32_t end = layer == MOETAP_HINT_ALL_LAYERS ? page->layers : layer + 1;
	struct timespec now;

	if (reader->acks == NULL)
		return -EBADF;
	if (first >= page->layers || step < 0)
		return -EINVAL;
	if (hint != NULL && (hint->layers != page->layers || hint->slots != page->slots ||
				    moetap_hint_placement(hint, 0) == NULL))
		return -EINVAL;
	if (__atomic_load_n(&page->retired, __ATOMIC_ACQUIRE) != 0)
		return -ESTALE;
	clock_gettime(CLOCK_REALTIME, &now);
	for (uint32_t l = first; l < end; l++)
		moetap_hint_ack_layer(reader, hint, l, step,
			(uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
	__atomic_fetch_add(&((struct moetap_hint_acks *)(void *)reader->acks)->count, end - first,
		__ATOMIC_RELEASE);
	return 0;
}

/** Bytes that moetap_hint_ack_read() writes. */
static inline size_t moetap_hint_ack_bytes(const struct moetap_hint_reader *reader)
{
	return sizeof(struct moetap_hint_ack) + (size_t)moetap_hint_head(reader)->slots * 4;
}

/** The placement in an acknowledgement that was read, [slots]. */
static inline const uint32_t *moetap_hint_ack_placement(const struct moetap_hint_ack *ack)
{
	return (const uint32_t *)(const void *)(ack + 1);
}

/** Copies acknowledgement `number` (1 ... moetap_hint_acked()) of a layer. Returns 0, -ENODATA (not
 * there yet, or no longer) or -EAGAIN (it is just being written). */
static inline int moetap_hint_ack_read(const struct moetap_hint_reader *reader, uint32_t layer,
	uint64_t number, void *buffer)
{
	uint32_t slots = moetap_hint_head(reader)->slots;
	uint64_t count = moetap_hint_acked(reader, layer);
	struct moetap_hint_ack *ack = (struct moetap_hint_ack *)buffer;
	size_t bytes = moetap_hint_ack_bytes(reader);

	if (number == 0 || number > count || number + MOETAP_HINT_ACKS <= count)
		return -ENODATA;
	memcpy(buffer,
		(const unsigned char *)moetap_hint_acks_of(reader, layer) +
			sizeof(struct moetap_hint_acks) +
			((number - 1) % MOETAP_HINT_ACKS) * moetap_hint_ack_record(slots),
		bytes);
	if (ack->crc != moetap_hint_crc(reader->crc, (unsigned char *)buffer + 4, bytes - 4) ||
		ack->number != number || ack->slots != slots)
		return -EAGAIN;
	return 0;
}

#ifdef __cplusplus
}
#endif

#endif
