/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file tcp.h: jobs over sockets: frames of a TCP stream (rules flow).
 *
 * Each direction of a connection is a flow. Its stream is a chain of frames: a header, which a rule
 * of the map knows, then as many bytes as the header says. So only headers are read, and integers
 * behind them; what lies between is stepped over by sequence number (RFC 9293, 3.4). Segments that
 * have nothing of what is wanted next, whether they came before, twice or never, make no
 * difference.
 *
 * A segment that begins behind the byte that is wanted waits, as an mbuf, sorted; when too many
 * wait, or for too long, the byte is given up. Then nobody knows where the next frame begins: the
 * connection is blind, and its rounds have a gap, until FW_TCP_CHAIN frames follow each other, the
 * first at the start of a segment.
 *
 * Epochs are a source's (flow.h). Numbers of 64 bits stand for sequence numbers, so that they wrap
 * and frames may be longer than 2 GiB, as long as no 2 GiB are missing in a row.
 *
 * Limits: FW_TCP_WAIT segments of a connection wait, FW_TCP_HELD buffers of a core.
 */
#ifndef MOETAP_FW_TCP_H
#define MOETAP_FW_TCP_H

#include <rte_mbuf.h>

#include "core.h"

#define FW_TCP_WAIT 128u  /* segments of a connection */
#define FW_TCP_HELD 1024u /* of a core; as many buffers of the port are not to be had meanwhile */
#define FW_TCP_CHAIN 3u	  /* frames that must follow each other to be believed */

enum fw_tcp_state {
	FW_TCP_SURE,	 /**< its frames are followed from the start on */
	FW_TCP_UNSURE,	 /**< a header was found, too few others behind it yet */
	FW_TCP_BLIND,	 /**< where the next frame begins is not known */
	FW_TCP_STRANGER, /**< it speaks something else */
};

/** A segment with payload. */
struct fw_segment {
	struct rte_mbuf *m;
	uint64_t at; /**< of its first byte in the stream */
	uint64_t ns, tsc;
	uint32_t bytes, have; /**< of payload; that the frame has */
	uint32_t offset;      /**< of it in the frame */
	uint32_t label;	      /**< of its source, when it came */
	bool ended;	      /**< a dispatch would have begun an epoch then */
	uint8_t outcome;
	uint32_t tcp;  /**< connection, by its place in the table */
	uint32_t next; /**< 1 + the one that waits behind it, 0: none; also free ones */
};

/** One direction of a connection. */
struct fw_tcp {
	uint64_t ips; /**< as in struct fw_packet */
	uint32_t ports;
	uint32_t key;	      /**< FW_KEY_V4 or FW_KEY_V6, 0: free */
	uint64_t high;	      /**< behind the last byte that was seen */
	uint64_t want;	      /**< the first byte that is wanted and was not seen */
	uint64_t begin, end;  /**< of the frame at hand; of the last one while the next is read */
	struct fw_flow *flow; /**< NULL: no frame of it was seen yet */
	uint32_t src, dst;
	uint32_t isn;	       /**< the initial sequence number, where it was seen */
	uint32_t label;	       /**< as in struct fw_segment, of the message at hand */
	uint32_t values_label; /**< epoch that the integers at hand are counted in */
	uint32_t waits;	       /**< 1 + the first segment that waits, 0: none */
	uint16_t waiting;
	uint16_t value, values; /**< integers read, and of this frame */
	uint8_t state;		/**< enum fw_tcp_state */
	uint8_t chain;		/**< frames since it was unsure */
	uint8_t rule;		/**< of the integers */
	uint8_t need, got;	/**< bytes of head */
	bool ended, has_isn;
	uint8_t head[MT_MAX_HEADER]; /**< of the frame that begins, or of an integer */
};

/**
 * Parse a frame that is not RoCE.
 *
 * @param wrapped it is a VXLAN: the segment lies inside
 * @return MT_OUTCOMES: a segment of the job, to be given to fw_tcp_take(); else what it is
 */
unsigned int fw_tcp_parse(
	const struct fw_config *c, const struct rte_mbuf *m, bool wrapped, struct fw_packet *p);

/** The connection of a segment is soon asked for. */
static inline void fw_tcp_prefetch(const struct fw_tables *t, const struct fw_packet *p)
{
	const char *c = (const char *)&t->tcp[p->hash & t->tcp_mask];

	rte_prefetch0(c);
	rte_prefetch0(c + 64);
}

/** Count a segment, and its outcome. @p m stays the caller's; where it must wait, it is referred
 * to. */
void fw_tcp_take(struct fw_core *core, const struct fw_packet *p, struct rte_mbuf *m);

/** Give up what segments wait for: all of it, or what was waited for too long. */
void fw_tcp_give_up(struct fw_core *core, bool all);

/** Room for connections beside @p t->max flows. @return whether there is */
bool fw_tcp_reserve(struct fw_tables *t);
void fw_tcp_release(struct fw_tables *t);

#endif
