/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reads a capture file, unpacks it, and writes it into a pipe, from which moetap-fw reads. On the
 * way it goes from record to record: a file that is cut, or whose records lie about their lengths,
 * is passed on up to that place and then named, since DPDK's reader would just stop there.
 */
#include "source.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define BUFFER_BYTES (64u << 10) /* a pipe's */
#define PCAP_HEAD 24u
#define PCAP_RECORD_MAX 262144u	     /* the largest that libpcap reads */
#define PCAPNG_BLOCK_MAX (16u << 20) /* the same */
#define PCAPNG_SECTION 0x0a0d0d0au
#define PCAPNG_ORDER 0x1a2b3c4du
#define PCAPNG_INTERFACE 1u /* blocks, and the least bytes of them */
#define PCAPNG_INTERFACE_LEAST 20u
#define PCAPNG_PACKET 6u
#define ETHERNET 1u
#define LINUX_COOKED 113u
#define LINUX_COOKED_2 276u

struct feed {
	char *path;
	int fd;
	bool gzip;	       /**< the file is; else it is read as it is */
	bool between;	       /**< members of the gzip file */
	int code;	       /**< of the last inflate(); what came with an error goes first */
	z_stream z;	       /**< its input: what of `packed` is to be unpacked */
	unsigned char *packed; /**< BUFFER_BYTES of the file */
	uint64_t file_bytes;   /**< as it lies on the disk; 0: not known */
	uint64_t file_done;    /**< of these; written by the thread, read by others */
	int to;		       /**< write end of the pipe */
	pthread_t thread;
	bool started;

	bool pcapng, swapped;
	uint32_t interfaces; /**< of the section that it is in */
	bool snap_known;
	uint32_t snap;	  /**< of the first interface, as it lies in the file */
	uint64_t offset;  /**< of the buffer in what was unpacked */
	uint64_t records; /**< met so far */
	uint64_t skip;	  /**< bytes of the last record that are still to come */
	unsigned char *buffer;
	uint32_t have; /**< bytes in the buffer */

	bool broken; /**< the reader went away before the end */
	int status;  /**< 0 or -EBADMSG and an error, once the thread ended */
	struct moetap_error error;
};

static uint32_t get32(const struct feed *f, const unsigned char *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return f->swapped ? __builtin_bswap32(value) : value;
}

static uint16_t get16(const struct feed *f, const unsigned char *at)
{
	uint16_t value;

	memcpy(&value, at, sizeof(value));
	return f->swapped ? __builtin_bswap16(value) : value;
}

/** What to do about packets that do not begin with an Ethernet header. */
static const char *other_link(uint32_t link)
{
	return link == LINUX_COOKED || link == LINUX_COOKED_2
		       ? "capture on one interface, not on 'any'"
		       : "capture on an Ethernet interface, such as the port of the mirror";
}

/* ---- opening ---- */

static int open_file(struct feed *f, struct moetap_error *error)
{
	bool input = strcmp(f->path, "-") == 0;
	struct stat st = {0};

	f->fd = input ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)
		      : open(f->path, O_RDONLY | O_CLOEXEC);
	if (f->fd < 0)
		return mtl_fail(error, -errno, "%s: %s", f->path, strerror(errno));
	if (input) {
		free(f->path);
		f->path = strdup("standard input");
		if (f->path == NULL)
			return mtl_fail_memory(error);
	}
	if (fstat(f->fd, &st) == 0 && S_ISDIR(st.st_mode))
		return mtl_fail(error, -EISDIR, "%s: a folder, not a capture", f->path);
	f->file_bytes = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
	return 0;
}

/** Reads on in the file itself. Returns the bytes that came, 0 at the end, or -EBADMSG. */
static ssize_t read_file(struct feed *f, unsigned char *to, size_t room, struct moetap_error *error)
{
	ssize_t got;

	do {
		got = read(f->fd, to, room);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return mtl_fail(error, -EBADMSG, "%s: damaged after %llu records: %s", f->path,
			(unsigned long long)f->records, strerror(errno));
	__atomic_store_n(&f->file_done, f->file_done + (uint64_t)got, __ATOMIC_RELAXED);
	return got;
}

/** Looks for gzip at the beginning, and makes ready to unpack it. */
static int check_packing(struct feed *f, struct moetap_error *error)
{
	ssize_t got = 1;

	while (got > 0 && f->z.avail_in < 2) {
		got = read_file(f, f->packed + f->z.avail_in, BUFFER_BYTES - f->z.avail_in, error);
		if (got < 0)
			return (int)got;
		f->z.avail_in += (unsigned int)got;
	}
	f->z.next_in = f->packed;
	f->gzip = f->z.avail_in >= 2 && f->packed[0] == 0x1f && f->packed[1] == 0x8b;
	if (f->gzip && inflateInit2(&f->z, 16 + MAX_WBITS) != Z_OK) {
		f->gzip = false;
		return mtl_fail_memory(error);
	}
	return 0;
}

/** Has packed bytes at hand. Returns 1, 0 at the end of the file, or -EBADMSG. */
static int more_packed(struct feed *f, struct moetap_error *error)
{
	ssize_t got;

	if (f->z.avail_in > 0)
		return 1;
	got = read_file(f, f->packed, BUFFER_BYTES, error);
	if (got <= 0)
		return (int)got;
	f->z.next_in = f->packed;
	f->z.avail_in = (unsigned int)got;
	return 1;
}

/** Behind a member of a gzip file there may be another one, or zeros. Returns as more_packed(). */
static int next_member(struct feed *f, struct moetap_error *error)
{
	int got;

	while ((got = more_packed(f, error)) > 0 && *f->z.next_in == 0) {
		f->z.next_in++;
		f->z.avail_in--;
	}
	if (got > 0 && *f->z.next_in != 0x1f)
		return mtl_fail(error, -EBADMSG,
			"%s: after the gzip data, and %llu records, something else follows; what "
			"came before it was counted",
			f->path, (unsigned long long)f->records);
	if (got > 0 && inflateReset(&f->z) != Z_OK)
		return mtl_fail_memory(error);
	f->between = got <= 0;
	return got;
}

/** Unpacks into the buffer. Returns the bytes that came, 0 at the end, or -EBADMSG. */
static int unpack(struct feed *f, struct moetap_error *error)
{
	uint32_t before = f->have;
	int got;

	while (f->have == before) {
		if (f->code != Z_OK && f->code != Z_STREAM_END)
			return mtl_fail(error, -EBADMSG, "%s: damaged after %llu records: %s",
				f->path, (unsigned long long)f->records,
				f->z.msg != NULL ? f->z.msg : zError(f->code));
		got = f->between ? next_member(f, error) : more_packed(f, error);
		if (got == 0 && !f->between)
			return mtl_fail(error, -EBADMSG,
				"%s: the gzip file is cut short after %llu records: copy it again",
				f->path, (unsigned long long)f->records);
		if (got <= 0)
			return got;
		f->z.next_out = f->buffer + f->have;
		f->z.avail_out = BUFFER_BYTES - f->have;
		f->code = inflate(&f->z, Z_NO_FLUSH);
		f->have = BUFFER_BYTES - f->z.avail_out;
		f->between = f->code == Z_STREAM_END;
	}
	return (int)(f->have - before);
}

/** Fills the buffer up. Returns the bytes that came, 0 at the end, or -EBADMSG. */
static int fill(struct feed *f, struct moetap_error *error)
{
	uint32_t first = f->z.avail_in;
	ssize_t got;

	if (f->gzip)
		return unpack(f, error);
	if (first > 0) { /* what check_packing() has read */
		first = first < BUFFER_BYTES - f->have ? first : BUFFER_BYTES - f->have;
		memcpy(f->buffer + f->have, f->z.next_in, first);
		f->z.next_in += first;
		f->z.avail_in -= first;
		f->have += first;
		return (int)first;
	}
	got = read_file(f, f->buffer + f->have, BUFFER_BYTES - f->have, error);
	if (got > 0)
		f->have += (uint32_t)got;
	return (int)got;
}

/** Length of the record at `at`, its header included; 0: it cannot be. */
static uint64_t record_bytes(struct feed *f, const unsigned char *at)
{
	uint32_t length;

	if (!f->pcapng) {
		length = get32(f, at + 8);
		return length <= PCAP_RECORD_MAX ? 16u + length : 0;
	}
	length = get32(f, at + 4);
	if (length < (get32(f, at) == PCAPNG_INTERFACE ? PCAPNG_INTERFACE_LEAST : 12u))
		return 0;
	return length <= PCAPNG_BLOCK_MAX && length % 4 == 0 ? length : 0;
}

/** Bytes that have to be there of a record at `at`, of which 12 are. */
static uint32_t record_head(const struct feed *f, const unsigned char *at)
{
	return !f->pcapng || get32(f, at) == PCAPNG_INTERFACE ? 16 : 12;
}

static int check_link(const struct feed *f, uint32_t link, struct moetap_error *error)
{
	if (link == ETHERNET)
		return 0;
	return mtl_fail(error, -EBADMSG, "%s: link type %u is not Ethernet: %s", f->path, link,
		other_link(link));
}

/** The byte order of a pcapng file, and its first interface, without which libpcap does not open
 * it. */
static int check_pcapng(struct feed *f, struct moetap_error *error)
{
	uint64_t at = 0;

	f->swapped = f->have >= 12 && get32(f, f->buffer + 8) != PCAPNG_ORDER;
	for (;;) {
		int got = 1;

		while (got > 0 && f->have < at + 16 && at + 16 <= BUFFER_BYTES)
			got = fill(f, error);
		if (got < 0)
			return got;
		if (at + 16 > BUFFER_BYTES ||
			(f->have >= at + 12 && !record_bytes(f, f->buffer + at)))
			return 0; /* walk() will tell */
		if (got == 0 || get32(f, f->buffer + at) == PCAPNG_PACKET)
			return mtl_fail(error, -EBADMSG,
				"%s: damaged: it describes no interface before its first packet",
				f->path);
		if (get32(f, f->buffer + at) == PCAPNG_INTERFACE)
			return check_link(f, get16(f, f->buffer + at + 8), error);
		at += record_bytes(f, f->buffer + at);
	}
}

static int check_pcap(struct feed *f, struct moetap_error *error)
{
	if (f->have < PCAP_HEAD)
		return mtl_fail(error, -EBADMSG, "%s: cut short in its header: %u of %u bytes",
			f->path, f->have, PCAP_HEAD);
	return check_link(f, get32(f, f->buffer + 20) & 0xffff, error);
}

/** The program that unpacks a file which begins so; NULL: none that is known. */
static const char *unpacker(uint32_t magic)
{
	static const struct {
		uint32_t magic, mask;
		const char *program;
	} known[] = {{0x28b52ffd, 0xffffffff, "zstd"}, {0xfd377a58, 0xffffffff, "xz"},
		{0x425a6800, 0xffffff00, "bzip2"}, {0x04224d18, 0xffffffff, "lz4"}};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if ((magic & known[i].mask) == known[i].magic)
			return known[i].program;
	return NULL;
}

static int no_capture(const struct feed *f, uint32_t magic, struct moetap_error *error)
{
	const char *program = unpacker(magic);

	if (program != NULL)
		return mtl_fail(error, -EBADMSG,
			"%s: packed with %s, and only gzip is unpacked here: %s -dc FILE | moetap "
			"count --map MAP -",
			f->path, program, program);
	return mtl_fail(error, -EBADMSG,
		"%s: not a capture: it begins with %08x, which is neither pcap nor pcapng", f->path,
		magic);
}

/** Looks at the first bytes: which format, which byte order. */
static int check_head(struct feed *f, struct moetap_error *error)
{
	static const uint32_t pcap[] = {0xa1b2c3d4, 0xa1b23c4d}; /* in us, in ns */
	uint32_t magic;
	int got;

	do {
		got = fill(f, error);
	} while (got > 0 && f->have < PCAP_HEAD);
	if (got < 0)
		return got;
	if (f->have < sizeof(magic))
		return mtl_fail(error, -EBADMSG, "%s: %s", f->path,
			f->have == 0 ? "empty, not a capture" : "too short for a capture");
	memcpy(&magic, f->buffer, sizeof(magic));
	f->pcapng = magic == PCAPNG_SECTION;
	for (size_t i = 0; i < sizeof(pcap) / sizeof(pcap[0]); i++) {
		if (magic != pcap[i] && magic != __builtin_bswap32(pcap[i]))
			continue;
		f->swapped = magic != pcap[i];
		f->skip = PCAP_HEAD;
		return check_pcap(f, error);
	}
	return f->pcapng ? check_pcapng(f, error) : no_capture(f, be32toh(magic), error);
}

int mtl_feed_open(const char *path, struct feed **feed, struct moetap_error *error)
{
	struct feed *f = calloc(1, sizeof(*f));
	int ret;

	if (f == NULL)
		return mtl_fail_memory(error);
	f->to = f->fd = -1;
	f->path = strdup(path);
	f->buffer = malloc(BUFFER_BYTES);
	f->packed = malloc(BUFFER_BYTES);
	ret = f->path != NULL && f->buffer != NULL && f->packed != NULL ? open_file(f, error)
									: mtl_fail_memory(error);
	if (ret == 0)
		ret = check_packing(f, error);
	if (ret == 0)
		ret = check_head(f, error);
	if (ret < 0)
		mtl_feed_close(f);
	else
		*feed = f;
	return ret;
}

/* ---- from record to record ---- */

/** What libpcap, with which moetap-fw reads, would leave out without a word: all packets of an
 * interface that differs from the first one. They have to be Ethernet; a snap length tells nothing
 * of their packets, so that of the first one is written over it. Returns 0 or -EBADMSG. */
static int check_interface(struct feed *f, unsigned char *at)
{
	uint32_t link = get16(f, at + 8);

	if (link != ETHERNET)
		return mtl_fail(&f->error, -EBADMSG,
			"%s: record %llu: interface %u has link type %u, which is not Ethernet: "
			"%s; counted up to there",
			f->path, (unsigned long long)f->records + 1, f->interfaces, link,
			other_link(link));
	if (!f->snap_known)
		memcpy(&f->snap, at + 12, sizeof(f->snap));
	memcpy(at + 12, &f->snap, sizeof(f->snap));
	f->snap_known = true;
	f->interfaces++;
	return 0;
}

/** A block of a pcapng file. Returns 0 or -EBADMSG. */
static int check_block(struct feed *f, unsigned char *at)
{
	uint32_t type = get32(f, at);

	if (type == PCAPNG_INTERFACE)
		return check_interface(f, at);
	if (type == PCAPNG_PACKET && get32(f, at + 8) >= f->interfaces)
		return mtl_fail(&f->error, -EBADMSG,
			"%s: damaged: record %llu is a packet of interface %u, and there are %u; "
			"counted up to there",
			f->path, (unsigned long long)f->records + 1, get32(f, at + 8),
			f->interfaces);
	if (type == PCAPNG_SECTION && get32(f, at + 8) != PCAPNG_ORDER)
		return mtl_fail(&f->error, -EBADMSG,
			"%s: record %llu: a section in another byte order than the one before it, "
			"which libpcap does not read; counted up to there",
			f->path, (unsigned long long)f->records + 1);
	if (type == PCAPNG_SECTION)
		f->interfaces = 0;
	return 0;
}

/** Goes over the records in the buffer. Returns how many of its bytes may be passed on; fewer than
 * there are when a header is cut at the buffer's end, or with f->status where the file lies. */
static uint32_t walk(struct feed *f)
{
	uint32_t at = 0;

	for (;;) {
		uint64_t length;

		if (f->skip >= f->have - at) {
			f->skip -= f->have - at;
			return f->have;
		}
		at += (uint32_t)f->skip;
		f->skip = 0;
		if (f->have - at < 12 || f->have - at < record_head(f, f->buffer + at))
			return at;
		if (f->pcapng && (f->status = check_block(f, f->buffer + at)) < 0)
			return at;
		length = record_bytes(f, f->buffer + at);
		if (length == 0) {
			f->status = mtl_fail(&f->error, -EBADMSG,
				"%s: damaged: record %llu, at byte %llu, cannot be so long; "
				"counted up to there",
				f->path, (unsigned long long)f->records + 1,
				(unsigned long long)f->offset + at);
			return at;
		}
		f->records++;
		f->skip = length;
	}
}

static bool send_all(struct feed *f, const unsigned char *data, size_t bytes)
{
	while (bytes > 0) {
		ssize_t sent = write(f->to, data, bytes);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return false;
		data += sent;
		bytes -= (size_t)sent;
	}
	return true;
}

static void cut_short(struct feed *f)
{
	f->status =
		mtl_fail(&f->error, -EBADMSG, "%s: cut short in record %llu; counted up to there",
			f->path, (unsigned long long)f->records + (f->skip == 0));
}

/** The thread: until the end of the file, its first flaw, or the death of the reader. */
static void *run(void *arg)
{
	struct feed *f = arg;
	int got = 1;

	while (got > 0) {
		uint32_t whole = walk(f);

		if (!send_all(f, f->buffer, whole)) {
			f->broken = true;
			break;
		}
		if (f->status < 0)
			break;
		f->have -= whole;
		f->offset += whole;
		memmove(f->buffer, f->buffer + whole, f->have);
		got = fill(f, &f->error);
		if (got < 0)
			f->status = got;
		else if (got == 0 && (f->have > 0 || f->skip > 0))
			cut_short(f);
	}
	close(f->to);
	return NULL;
}

int mtl_feed_start(struct feed *f, int to, struct moetap_error *error)
{
	sigset_t all, before;
	int ret;

	/* A pipe without a reader is an error of write(2) here; and signals are the program's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	f->to = to;
	ret = pthread_create(&f->thread, NULL, run, f);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (ret != 0) {
		close(to);
		return mtl_fail(error, -ret, "no thread to read %s: %s", f->path, strerror(ret));
	}
	f->started = true;
	return 0;
}

int mtl_feed_end(struct feed *f, struct moetap_error *error)
{
	if (f->started)
		pthread_join(f->thread, NULL);
	f->started = false;
	if (f->status < 0)
		return mtl_fail(error, f->status, "%s", f->error.text);
	if (f->broken)
		return mtl_fail(error, -EBADMSG, "%s: moetap-fw stopped reading at record %llu",
			f->path, (unsigned long long)f->records);
	return 0;
}

double mtl_feed_progress(const struct feed *f)
{
	uint64_t done = __atomic_load_n(&f->file_done, __ATOMIC_RELAXED);

	return f->file_bytes > 0 ? (double)done / (double)f->file_bytes : NAN;
}

void mtl_feed_close(struct feed *f)
{
	if (f->started)
		pthread_join(f->thread, NULL);
	if (f->gzip)
		inflateEnd(&f->z);
	if (f->fd >= 0)
		close(f->fd);
	free(f->packed);
	free(f->buffer);
	free(f->path);
	free(f);
}
