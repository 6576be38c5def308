/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file wire.h: the emulated job's messages as RoCEv2 frames on a DPDK port, in a layout like that
 * of DeepEP's low-latency kernels, and the map that says so.
 *
 * In the memory of each rank, twice, in turns from round to round: tokens by local slot, by source;
 * results by slot; counts by local slot, by source. Behind them the weights of its slots, by layer.
 * The local slots of each (source, destination) share some queue pairs.
 */
#ifndef MOETAP_JOB_WIRE_H
#define MOETAP_JOB_WIRE_H

#include <signal.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_mbuf.h>

#define WIRE_TOKEN 272u		   /* bytes of a token: 16, and 128 elements of 2 */
#define WIRE_RESULT 256u	   /* of its result */
#define WIRE_EXPERT (128u * 1024u) /* of an expert's weights in a layer */
#define WIRE_MTU 1024u
#define WIRE_BURST 32u

struct wire_shape {
	uint32_t ranks, slots, layers,
		tokens;	      /**< slots of all ranks; tokens of a rank in a round */
	uint32_t queue_pairs; /**< of a (source, destination) */
};

struct wire {
	struct wire_shape shape;
	uint32_t own;  /**< slots of a rank */
	uint32_t *psn; /**< [ranks][ranks][queue_pairs]: source, destination */
	uint16_t port;
	struct rte_mempool *pool;
	struct rte_mbuf *burst[WIRE_BURST];
	uint16_t held;
	const volatile sig_atomic_t *stopped; /**< not 0: what waits for the port gives up */
	int error; /**< stopped, or the port took nothing for long: a negative errno; nothing more
		    *   is sent */
};

/** The map of such a job, as `moetap-fw --map` takes it. */
void wire_map(FILE *file, const struct wire_shape *shape);

/** Opens the only DPDK port and waits until its other end is there, or `stopped` is not 0 (-EINTR).
 * Returns 0 or a negative errno, and says on standard error what is wrong. */
int wire_open(
	struct wire *wire, const struct wire_shape *shape, const volatile sig_atomic_t *stopped);
void wire_close(struct wire *wire);

/** One token of `src` for `slot`, its `index`-th there in this round. */
void wire_token(struct wire *wire, uint64_t round, uint32_t src, uint32_t slot, uint32_t index);

/** What `src` announces for `slot`. */
void wire_count(struct wire *wire, uint64_t round, uint32_t src, uint32_t slot, uint32_t tokens);

/** The result of that token, back to `src`. */
void wire_result(struct wire *wire, uint64_t round, uint32_t src, uint32_t slot, uint32_t index);

/** The weights of an expert, from a rank that has it into a slot. */
void wire_weights(struct wire *wire, uint32_t from, uint32_t layer, uint32_t slot);

/** Hands over to the port what is held back. */
void wire_flush(struct wire *wire);

#endif
