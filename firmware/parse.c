/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdbool.h>
#include <string.h>

#include "parse.h"

#define RETH 16
#define ATOMIC 28
#define ATOMIC_READ 20 /* address, key, first operand */
#define AETH 4
#define IMM 4
#define DETH 8
#define CNP 16 /* bytes that are reserved */

const struct fw_opcode fw_opcodes[256] = {
	[0x00] = {FW_KIND_SEND, 0, 0, true, false, FW_SHOWS_MORE, {0}},	  /* SEND first */
	[0x01] = {FW_KIND_BODY, 0, 0, false, false, FW_SHOWS_ALONE, {0}}, /* SEND middle */
	[0x02] = {FW_KIND_BODY, 0, 0, false, true, FW_SHOWS_ALONE, {0}},  /* SEND last */
	[0x03] = {FW_KIND_BODY, IMM, 0, false, true, FW_SHOWS_ALONE,
		{0}}, /* SEND last with immediate */
	[0x04] = {FW_KIND_SEND, 0, 0, false, false, FW_SHOWS_ALONE, {0}}, /* SEND only */
	[0x05] = {FW_KIND_SEND, IMM, 0, false, false, FW_SHOWS_IMM,
		{0}}, /* SEND only with immediate */
	[0x06] = {FW_KIND_WRITE_FIRST, RETH, RETH, true, false, FW_SHOWS_MORE,
		{0}},							  /* WRITE first */
	[0x07] = {FW_KIND_BODY, 0, 0, false, false, FW_SHOWS_ALONE, {0}}, /* WRITE middle */
	[0x08] = {FW_KIND_BODY, 0, 0, false, true, FW_SHOWS_ALONE, {0}},  /* WRITE last */
	[0x09] = {FW_KIND_BODY, IMM, 0, false, true, FW_SHOWS_ALONE,
		{0}}, /* WRITE last with immediate */
	[0x0a] = {FW_KIND_WRITE, RETH, RETH, false, false, FW_SHOWS_ALONE, {0}}, /* WRITE only */
	[0x0b] = {FW_KIND_WRITE, RETH + IMM, RETH, false, false, FW_SHOWS_IMM,
		{0}}, /* WRITE only with immediate */
	[0x0c] = {FW_KIND_READ, RETH, RETH, false, false, FW_SHOWS_ALONE, {0}}, /* READ request */
	[0x0d] = {FW_KIND_RESPONSE, AETH, 0, false, false, FW_SHOWS_ALONE,
		{0}}, /* READ response first */
	[0x0e] = {FW_KIND_RESPONSE, 0, 0, false, false, FW_SHOWS_ALONE,
		{0}}, /* READ response middle */
	[0x0f] = {FW_KIND_RESPONSE, AETH, 0, false, false, FW_SHOWS_ALONE,
		{0}}, /* READ response last */
	[0x10] = {FW_KIND_RESPONSE, AETH, 0, false, false, FW_SHOWS_ALONE,
		{0}}, /* READ response only */
	[0x11] = {FW_KIND_RESPONSE, AETH, 0, false, false, FW_SHOWS_ALONE, {0}}, /* acknowledge */
	[0x12] = {FW_KIND_RESPONSE, AETH + 8, 0, false, false, FW_SHOWS_ALONE,
		{0}}, /* atomic acknowledge */
	[0x13] = {FW_KIND_ATOMIC, ATOMIC, ATOMIC_READ, false, false, FW_SHOWS_ALONE,
		{0}}, /* compare and swap */
	[0x14] = {FW_KIND_ATOMIC, ATOMIC, ATOMIC_READ, false, false, FW_SHOWS_ALONE,
		{0}}, /* fetch and add */
	[0x15] = {FW_KIND_NONE, 0, 0, false, false, FW_SHOWS_ALONE, {0}},
	[0x16] = {FW_KIND_BODY, 4, 0, false, true, FW_SHOWS_ALONE,
		{0}}, /* SEND last with invalidate */
	[0x17] = {FW_KIND_SEND, 4, 0, false, false, FW_SHOWS_ALONE,
		{0}}, /* SEND only with invalidate */
	[0x18 ... 0x1b] = {FW_KIND_NONE, 0, 0, false, false, FW_SHOWS_ALONE, {0}},
	[0x1c] = {FW_KIND_OTHER, 4 + RETH, 0, false, false, FW_SHOWS_ALONE,
		{0}}, /* FLUSH: FETH, RETH */
	[0x1d] = {FW_KIND_OTHER, RETH, 0, false, false, FW_SHOWS_ALONE, {0}}, /* ATOMIC WRITE */
	[0x1e ... 0x1f] = {FW_KIND_NONE, 0, 0, false, false, FW_SHOWS_ALONE, {0}},
	/* of other transports, what all packets have: they are counted by name */
	[0x60 ... 0x7f] = {FW_KIND_TRANSPORT, DETH, 0, false, false, FW_SHOWS_ALONE, {0}}, /* UD */
	[0x80 ... 0x9f] = {FW_KIND_TRANSPORT, CNP, 0, false, false, FW_SHOWS_ALONE, {0}},
};

const uint8_t fw_transports[8] = {MT_OUTCOMES, MT_OUT_UC, MT_OUT_RD, MT_OUT_UD, MT_OUT_CNP,
	MT_OUT_XRC, MT_OUT_TRANSPORT, MT_OUT_TRANSPORT};

/** Reserved opcodes of reliable connections, and all of vendors' own transports. */
static bool is_odd(uint8_t opcode)
{
	return fw_opcodes[opcode].kind == FW_KIND_NONE || opcode >> 5 == 7;
}

unsigned int fw_parse_odd(const uint8_t *bth, uint32_t have, uint32_t left, struct fw_packet *p)
{
	const struct fw_opcode *op = &fw_opcodes[bth[0]];
	uint32_t ends = (bth[1] >> 4 & 3u) + FW_ICRC_BYTES;
	uint64_t low = fw_be64(bth + 4);

	if ((bth[1] & 0x0f) != 0 || op->kind > FW_KIND_NONE || left < FW_BTH_BYTES + op->ext + ends)
		return MT_OUT_MALFORMED;
	p->opcode = bth[0];
	p->psn = (uint32_t)low & 0xffffff;
	p->qpn = (uint32_t)(low >> 32 & 0xffffff) | FW_KEY_V4;
	if (!is_odd(bth[0]))
		return fw_transports[bth[0] >> 5];
	if (left < FW_BTH_BYTES + MT_FORM_LEAST + ends)
		return fw_unknown(bth[0]);
	p->ext = bth + FW_BTH_BYTES;
	p->have = have - FW_BTH_BYTES;
	p->kind = FW_KIND_ODD;
	p->payload = left - FW_BTH_BYTES - ends;
	return MT_OUT_FORM;
}
