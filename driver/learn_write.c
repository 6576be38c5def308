/* SPDX-License-Identifier: BSD-3-Clause */
/* The map of a layout, each line with its evidence. */
#include "learn.h"
#include "map.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <string.h>

static void write_address(FILE *to, const uint8_t *a)
{
	char text[INET6_ADDRSTRLEN];

	fprintf(to, mt_ip_is_v4(a) ? "%s" : "\"%s\"", mt_ip_text(a, text));
}

static void write_ranks(FILE *to, const struct mt_layout *y)
{
	fprintf(to, "experts-per-rank: %u  # cells that each source tells a rank in a round\n",
		y->experts);
	fprintf(to, "ranks:  # bases: where the first area lies\n");
	for (uint32_t r = 0; r < y->ranks; r++) {
		fprintf(to, "  - {rank: %u, address: ", r);
		write_address(to, y->address[r]);
		fprintf(to, ", base: 0x%" PRIx64, y->base[r]);
		if (y->two_bases)
			fprintf(to, ", bases: {atomics: 0x%" PRIx64 "}", y->atomics[r]);
		fprintf(to, "}\n");
	}
}

static void write_parity(FILE *to, uint64_t stride, uint32_t count, const char *why)
{
	if (count > 1)
		fprintf(to, "    parity: {stride: %" PRIu64 ", count: %u}  # %s\n", stride, count,
			why);
}

static void write_tokens(FILE *to, const struct mt_layout *y)
{
	fprintf(to, "  - name: token\n    rule: va\n    phase: dispatch\n");
	if (y->longest > y->token)
		fprintf(to, "    length: [%u, %u, %u]", y->token, y->longest, y->token);
	else
		fprintf(to, "    length: %u", y->token);
	fprintf(to, "  # %" PRIu64 " of these, and counts say %" PRIu64 "\n", y->seen_tokens,
		y->seen_counts);
	fprintf(to,
		"    offset: %" PRIu64 "\n    size: %" PRIu64
		"  # %u slots for each source and expert\n",
		y->token_offset, y->token_size, y->slots);
	write_parity(to, y->token_parity, y->token_parities, "areas take turns");
	fprintf(to,
		"    expert: {stride: %" PRIu64 ", count: %u, of: dst}  # %" PRIu64
		" places where tokens begin, all so\n",
		y->token_expert, y->experts, y->starts);
	fprintf(to, "    source: {stride: %" PRIu64 ", count: %u}  # %u pairs of ranks, %s\n",
		y->token_source, y->ranks, y->pairs,
		y->ranks == 2 ? "and the same layout at both" : "all so");
	fprintf(to, "    token-bytes: %u\n", y->token);
}

static void write_combines(FILE *to, const struct mt_layout *y)
{
	for (uint32_t i = 0; i < y->combines; i++) {
		char number[16] = "";

		if (y->combines > 1)
			snprintf(number, sizeof(number), "-%u", i);
		fprintf(to,
			"  - name: combine%s\n    rule: %s\n    phase: combine\n    length: %u"
			"  # behind the counts, on the same queue pairs\n",
			number, y->combine[i].region ? "va" : "length", y->combine[i].length);
		if (!y->combine[i].region)
			continue;
		fprintf(to, "    offset: %" PRIu64 "\n    size: %" PRIu64 "\n", y->token_offset,
			y->token_parity);
		write_parity(to, y->token_parity, y->token_parities,
			"all of them are in the areas of tokens");
	}
}

static void write_counts(FILE *to, const struct mt_layout *y)
{
	fprintf(to, "  - name: count\n    rule: atomic\n    phase: count\n%s",
		y->two_bases ? "    base: atomics\n" : "");
	fprintf(to, "    offset: %" PRIu64 "\n    size: %" PRIu64 "\n", y->count_offset,
		y->count_size);
	write_parity(
		to, y->count_parity, y->count_parities, "cells take turns from round to round");
	fprintf(to, "    expert: {stride: %" PRIu64 ", count: %u, of: dst}\n", y->count_expert,
		y->experts);
	fprintf(to, "    source: {stride: %" PRIu64 ", count: %u}\n", y->count_source, y->ranks);
	fprintf(to,
		"    value: {scale: %d, add: %d}  # %" PRIu64
		" bursts told just the tokens before them, %" PRIu64 " had holes\n",
		y->scale, y->add, y->bursts, y->unclean);
	if (y->has_others)
		fprintf(to, "    when: %s\n", y->scale < 0 ? "negative" : "positive");
}

static void write_others(FILE *to, const struct mt_layout *y)
{
	if (y->has_others)
		fprintf(to,
			"  - name: done  # atomics whose operand announces nothing\n    rule: "
			"atomic\n    phase: "
			"combine\n%s    offset: %" PRIu64 "\n    size: %" PRIu64
			"\n    value: {scale: 1, add: 0}\n    when: %s\n",
			y->two_bases ? "    base: atomics\n" : "",
			y->count_offset + y->other_offset, y->other_size,
			y->scale < 0 ? "positive" : "negative");
	if (y->has_empty)
		fprintf(to,
			"  - name: empty\n    rule: length\n    phase: control\n    length: 0\n");
}

static uint64_t up_to(uint64_t x, uint64_t a)
{
	return (x + a - 1) / a * a;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Formulas: driver/presets/deepep-ll.yaml, which names their sources. */
bool mt_learn_preset(const struct mt_layout *y, char *text, size_t size)
{
	uint64_t hidden = y->combine[0].length / 2, experts = (uint64_t)y->ranks * y->experts;
	uint64_t slot = 2 * hidden + 4 * (hidden / 128), largest = 16 + 2 * hidden;
	uint64_t signals = up_to(y->count_source * experts, 128);
	uint64_t send = larger(y->slots * largest, experts * y->slots * slot);
	uint64_t receive = experts * y->slots * larger(largest, slot);
	bool fp8 = y->token == 16 + hidden + 4 * (hidden / 128);

	if (y->combines != 1 || y->two_bases || y->count_offset != 0 || hidden % 128 != 0 ||
		(!fp8 && y->token != largest) || y->token_offset != 2 * signals + 2 * send ||
		y->token_expert != (uint64_t)y->ranks * y->slots * y->token ||
		y->count_expert != y->ranks * y->count_source || y->scale != -1 || y->add != -1 ||
		(y->token_parities > 1 && y->token_parity != receive) ||
		(y->count_parities > 1 && y->count_parity != signals))
		return false;
	snprintf(text, size,
		"preset: deepep-ll, with: {hidden: %" PRIu64
		", tokens: %u, dtype: %s, cell: %" PRIu64 "}",
		hidden, y->slots, fp8 ? "fp8" : "bf16", y->count_source);
	return true;
}

void mt_learn_write(FILE *to, const struct mt_layout *y, const struct mt_learnt_order *o,
	const char *job, const char *head, uint64_t agreed)
{
	if (head != NULL)
		fputs(head, to);
	fprintf(to, "moetap-map: 1\njob: %s\n", job);
	fprintf(to, "pattern: %s  # %s\n", mt_pattern_name(o->pattern), o->why);
	fprintf(to, "layers: %u  # confidence %.4f\n", o->layers, o->confidence);
	if (o->micro_batches > 1)
		fprintf(to, "micro-batches: %u\n", o->micro_batches);
	fprintf(to, "tap: %s\n",
		y->heads ? "heads  # no packet behind the first of a message" : "all");
	write_ranks(to, y);
	fprintf(to, "rules:");
	if (agreed > 0)
		fprintf(to, "  # in %" PRIu64 " rounds every count is that of the tokens seen",
			agreed);
	fputc('\n', to);
	write_tokens(to, y);
	write_combines(to, y);
	write_counts(to, y);
	write_others(to, y);
}
