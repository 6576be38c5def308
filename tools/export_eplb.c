/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The three tensors that rebalance_experts() of deepseek-ai/EPLB (eplb.py) returns, int64, in a
 * NumPy archive: phy2log [layers][slots], log2phy [layers][experts][most replicas] (padded with
 * -1), logcnt [layers][experts]. Formats: NumPy's "npy format" 1.0, in a ZIP file.
 */
#include "export.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_BYTES 128 /* of an array: a multiple of 64 */

/** An array in the archive: `data[count]` of the given shape, as Python writes it. */
static int add_array(
	struct archive *a, const char *name, const char *shape, const int64_t *data, size_t count)
{
	struct archive_entry *entry = archive_entry_new();
	char head[HEAD_BYTES + 1];
	int n, ret;

	if (entry == NULL)
		return -ENOMEM;
	memcpy(head, "\x93NUMPY\x01\x00", 8);
	head[8] = HEAD_BYTES - 10;
	head[9] = 0;
	n = snprintf(head + 10, HEAD_BYTES - 10,
		"{'descr': '<i8', 'fortran_order': False, 'shape': (%s), }", shape);
	memset(head + 10 + n, ' ', (size_t)(HEAD_BYTES - 11 - n));
	head[HEAD_BYTES - 1] = '\n';
	archive_entry_set_pathname(entry, name);
	archive_entry_set_filetype(entry, AE_IFREG);
	archive_entry_set_perm(entry, 0644);
	archive_entry_set_size(entry, (la_int64_t)(HEAD_BYTES + count * sizeof(*data)));
	ret = archive_write_header(a, entry);
	archive_entry_free(entry);
	if (ret != ARCHIVE_OK || archive_write_data(a, head, HEAD_BYTES) != HEAD_BYTES ||
		archive_write_data(a, data, count * sizeof(*data)) !=
			(la_ssize_t)(count * sizeof(*data)))
		return -EIO;
	return 0;
}

/** Fills logcnt; returns the most replicas that an expert has. */
static uint32_t count_replicas(const struct placement *p, int64_t *count)
{
	int64_t most = 0;

	for (size_t s = 0; s < (size_t)p->layers * p->slots; s++) {
		int64_t *c = &count[s / p->slots * p->experts + p->slot_expert[s]];

		++*c;
		most = *c > most ? *c : most;
	}
	return (uint32_t)most;
}

static int add_all(
	struct archive *a, const struct placement *p, int64_t *count, int64_t *to, uint32_t most)
{
	size_t slots = (size_t)p->layers * p->slots, experts = (size_t)p->layers * p->experts;
	char shape[64];
	int ret;

	for (size_t s = 0; s < slots; s++)
		to[s] = p->slot_expert[s];
	snprintf(shape, sizeof(shape), "%u, %u", p->layers, p->slots);
	ret = add_array(a, "phy2log.npy", shape, to, slots);
	snprintf(shape, sizeof(shape), "%u, %u", p->layers, p->experts);
	if (ret == 0)
		ret = add_array(a, "logcnt.npy", shape, count, experts);
	memset(to, 0xff, experts * most * sizeof(*to));
	for (size_t s = slots; s-- > 0;) { /* the last replica first: count goes down to 0 */
		size_t e = s / p->slots * p->experts + p->slot_expert[s];

		to[e * most + (size_t)--count[e]] = (int64_t)(s % p->slots);
	}
	snprintf(shape, sizeof(shape), "%u, %u, %u", p->layers, p->experts, most);
	return ret == 0 ? add_array(a, "log2phy.npy", shape, to, experts * most) : ret;
}

static int write_eplb(const struct placement *p, FILE *out)
{
	size_t experts = (size_t)p->layers * p->experts, slots = (size_t)p->layers * p->slots;
	int64_t *count = calloc(experts, sizeof(*count)), *to = NULL;
	struct archive *a = archive_write_new();
	uint32_t most = 0;
	int ret = -ENOMEM;

	if (count != NULL)
		most = count_replicas(p, count);
	if (most != 0)
		to = calloc(experts * most > slots ? experts * most : slots, sizeof(*to));
	if (a != NULL && to != NULL)
		ret = archive_write_set_format_zip(a) == ARCHIVE_OK &&
				      archive_write_set_bytes_in_last_block(a, 1) == ARCHIVE_OK &&
				      archive_write_open_FILE(a, out) == ARCHIVE_OK
			      ? add_all(a, p, count, to, most)
			      : -EIO;
	if (a != NULL && archive_write_free(a) != ARCHIVE_OK && ret == 0)
		ret = -EIO;
	free(to);
	free(count);
	return ret;
}

const struct exporter export_eplb = {
	.name = "eplb",
	.title = "NumPy archive with EPLB's phy2log, log2phy and logcnt",
	.write = write_eplb,
};
