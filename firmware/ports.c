/* SPDX-License-Identifier: BSD-3-Clause */
#include "ports.h"

#include <stdlib.h>

static uint32_t used_of(const struct fw_core *core)
{
	return __atomic_load_n(&core->tables->used, __ATOMIC_ACQUIRE);
}

/** Source, destination and port of every flow over UDP, in one word each. @return their number */
static uint32_t gather(struct fw_core *const *cores, uint32_t n, uint64_t *words, uint32_t room)
{
	uint32_t w = 0;

	for (uint32_t c = 0; c < n; c++) {
		const struct fw_tables *t = cores[c]->tables;
		uint32_t used = used_of(cores[c]);

		for (uint32_t i = 0; i < used && w < room; i++) {
			const struct fw_cold *cold = fw_cold_of(t, t->by_index[i]);

			if (t->ports[i] != 0)
				words[w++] = (uint64_t)cold->src << 32 | (uint64_t)cold->dst << 16 |
					     t->ports[i];
		}
	}
	return w;
}

static int by_word(const void *x, const void *y)
{
	uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;

	return (a > b) - (a < b);
}

/** Keep @p new among those with most queue pairs a port, those first. @return their number */
static uint32_t keep(struct fw_ports *worst, uint32_t n, uint32_t room, const struct fw_ports *new)
{
	uint32_t i = n < room ? n++ : room;

	for (; i > 0 && (uint64_t)worst[i - 1].queue_pairs * new->ports <
				(uint64_t) new->queue_pairs *worst[i - 1].ports;
		i--)
		if (i < room)
			worst[i] = worst[i - 1];
	if (i < room)
		worst[i] = *new;
	return n;
}

int fw_ports_shared(struct fw_core *const *cores, uint32_t n, struct fw_ports *shared,
	uint32_t room, uint32_t *all)
{
	uint32_t flows = 0, found = 0, words_used;
	uint64_t *words;

	for (uint32_t c = 0; c < n; c++)
		flows += used_of(cores[c]);
	words = malloc(flows * sizeof(*words) + 1);
	if (words == NULL)
		return -1;
	words_used = gather(cores, n, words, flows);
	qsort(words, words_used, sizeof(*words), by_word);
	*all = 0;
	for (uint32_t i = 0, end; i < words_used; i = end) {
		struct fw_ports p = {.src = (uint32_t)(words[i] >> 32),
			.dst = (uint32_t)(words[i] >> 16) & 0xffff};

		for (end = i; end < words_used && words[end] >> 16 == words[i] >> 16; end++)
			p.ports += end == i || words[end] != words[end - 1];
		p.queue_pairs = end - i;
		if (p.ports == p.queue_pairs)
			continue;
		found = keep(shared, found, room, &p);
		++*all;
	}
	free(words);
	return (int)found;
}
