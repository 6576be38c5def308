/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file learn.h: a map from traffic alone. Frames go in, the layout of a job's buffers comes out;
 * it is a proposal, which only counting by it can prove.
 *
 * Learnt so far is the low-latency family: tokens and results are RDMA WRITEs known by their
 * address and length, and an atomic fetch-and-add behind the tokens of an expert announces their
 * number. Functions are thread-safe on different objects.
 */
#ifndef MOETAP_DRIVER_LEARN_H
#define MOETAP_DRIVER_LEARN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "error.h"

#define MT_LEARN_RANKS 256u
#define MT_LEARN_COMBINES 4u

/** What was seen of a job so far. */
struct mt_learn;

/** A frame as it was captured, from its Ethernet header on. */
struct mt_learn_frame {
	const uint8_t *data;
	uint32_t captured; /**< bytes in data */
};

/** Messages that were met, for those who want to know why nothing was learnt. */
struct mt_learn_seen {
	uint64_t frames, roce; /**< frames; those of reliable connections between ranks */
	uint64_t strangers;    /**< RoCE of other addresses */
	uint64_t writes, atomics, sends, reads, vendor; /**< packets that begin or are a message */
	uint64_t cut; /**< that end before the address of their message */
	bool heads;   /**< first packets of long messages were seen, and never one behind them */
};

/** The layout of a low-latency job. Offsets count from the base of each rank, or from its base of
 * atomics where there are two. Strides are bytes. */
struct mt_layout {
	uint32_t ranks, experts; /**< experts of each rank */
	uint8_t address[MT_LEARN_RANKS][16];
	uint64_t base[MT_LEARN_RANKS];
	uint64_t atomics[MT_LEARN_RANKS]; /**< bases of the counts, if `two_bases` */
	bool two_bases;

	uint32_t token, longest; /**< bytes of a token; of the longest message, if it is more */
	uint32_t slots;		 /**< places for tokens of one source and expert */
	uint64_t token_offset, token_size, token_expert, token_source;
	uint64_t token_parity; /**< distance of the areas; with `token_parities` above 1 */
	uint32_t token_parities;

	uint32_t combines; /**< lengths of results */
	struct {
		uint32_t length;
		bool region; /**< lies where tokens do, in as many areas */
	} combine[MT_LEARN_COMBINES];

	uint64_t count_offset, count_size, count_expert, count_source, count_parity;
	uint32_t count_parities;
	int scale, add;	 /**< what an operand announces */
	bool has_others; /**< the same cells get atomics that announce nothing */
	uint64_t other_offset, other_size;
	bool has_empty; /**< WRITEs without data */
	bool heads;

	/* Evidence. */
	uint64_t seen_tokens, seen_counts; /**< tokens in messages; as announced */
	uint64_t bursts,
		unclean; /**< counts with all their tokens before them; those with a hole */
	uint64_t starts; /**< places where the tokens of an expert begin */
	uint32_t pairs;	 /**< (source, destination) that were seen */
};

/** Order of a job's rounds. */
struct mt_learnt_order {
	uint32_t pattern; /**< MT_PATTERN_* */
	uint32_t layers, micro_batches;
	uint32_t rounds;   /**< that it was told from */
	double confidence; /**< 0 to 1; 1: stated by the user */
	char why[256];
};

/** One counted round. */
struct mt_learnt_round {
	const uint32_t *cells; /**< [cells] tokens */
	uint64_t first_ns, last_ns;
	bool exact;
};

/**
 * Begin. @p address: `ranks` addresses of 16 bytes, IPv4 as ::ffff:a.b.c.d, in the order of ranks;
 * 0 ranks: all that send RDMA, in the order of their addresses.
 * @return 0, -ENOMEM
 */
int mt_learn_new(const uint8_t (*address)[16], uint32_t ranks, struct mt_learn **l);
void mt_learn_free(struct mt_learn *l);

/** Look at a frame. @return 0; 1: enough was seen, more is left out; -ENOMEM */
int mt_learn_add(struct mt_learn *l, const struct mt_learn_frame *frame);

/** What was seen so far. */
const struct mt_learn_seen *mt_learn_seen(const struct mt_learn *l);

/** Propose a layout. @return 0, -ENOENT: none fits, @p err says what is missing; -ENOMEM */
int mt_learn_layout(struct mt_learn *l, struct mt_layout *layout, struct mt_error *err);

/**
 * Layers and pattern from counted rounds, in their order: of each, @p cells numbers, those of
 * @p experts follow each other for each source. What is not 0 in @p order, or not -1 as its
 * pattern, is taken as stated.
 * @return 0, -ENOENT: it cannot be told, @p err says why; -ENOMEM
 */
int mt_learn_order(const struct mt_learnt_round *rounds, uint32_t count, uint32_t cells,
	uint32_t experts, int pattern, struct mt_learnt_order *order, struct mt_error *err);

/**
 * The preset that makes this layout, as a line of text: its name, and what it wants to know.
 * @return whether there is one
 */
bool mt_learn_preset(const struct mt_layout *layout, char *text, size_t size);

/** Write the map. @p head: comment lines, or NULL; @p agreed: rounds whose counts agreed. */
void mt_learn_write(FILE *to, const struct mt_layout *layout, const struct mt_learnt_order *order,
	const char *job, const char *head, uint64_t agreed);

#endif
