/* SPDX-License-Identifier: BSD-3-Clause */
/* Packets of one queue pair, in any order, into the cells of an epoch. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>

#include "congestion.h"
#include "path.h"

/* in tests of a map with counts, rank 0 sends to expert 0 of rank 1 */
static const struct job counted = {
	.ranks = 2, .experts = 2, .layers = 1, .parity = true, .counts = true, .combine = true};
/* of any length, tokens are made of bytes; without counts */
static const struct job sends = {
	.ranks = 2, .experts = 1, .layers = 1, .combine = true, .rule = JOB_LENGTH, .send = true};

static struct path path;

/** @param started flows are not held back to find their first packet */
static void use(const struct job *j, uint32_t flows, bool started)
{
	path_use(&path, job_bank(j), 1, flows);
	if (started)
		fw_start_all(path.core[0]);
}

static void token(uint32_t psn, uint32_t parity)
{
	struct frame f = job_token(&counted, 0, 1, 0, psn, parity);

	f.psn = psn;
	path_send(&path, &f);
}

static void count(uint32_t psn, uint32_t tokens, uint32_t parity)
{
	struct frame f = job_count(&counted, 0, 1, 0, tokens, parity);

	f.psn = psn;
	path_send(&path, &f);
}

/** One packet of a SEND. */
static void part(uint8_t opcode, uint32_t psn, uint32_t payload)
{
	struct frame f = job_token(&sends, 0, 1, 0, 0, 0);

	f.opcode = opcode;
	f.payload = payload;
	f.psn = psn;
	path_send(&path, &f);
}

static const struct fw_flow *flow(void)
{
	const struct fw_flow *f = path_flow(&path, 0, 1, job_qpn(0, 0));

	assert_non_null(f);
	return f;
}

static const struct fw_epoch *epoch(void)
{
	return fw_epoch_of(path.core[0]->tables, flow());
}

/** The cell of the flow's only expert, with what the flow still has apart. */
static const struct fw_cell *cell(void)
{
	static struct fw_cell c;

	c = fw_cell_now(flow(), epoch(), 0);
	return &c;
}

static void test_in_order(void **state)
{
	(void)state;
	use(&counted, 4, true);
	token(10, 0);
	token(11, 0);
	token(12, 0);
	count(13, 3, 0);
	assert_int_equal(cell()->tokens, 3);
	assert_int_equal(cell()->bytes, 3 * JOB_TOKEN);
	assert_int_equal(cell()->announced, 3);
	assert_int_equal(cell()->counts, 1);
	assert_int_equal(flow()->next, 14);
	assert_int_equal(epoch()->gaps, 0);
	assert_int_equal(path_outcome(&path, MT_OUT_DISPATCH), 3);
	assert_int_equal(path_outcome(&path, MT_OUT_COUNT), 1);
	path_drop(&path);
}

/** An epoch ends with the parity, or where an expert is named again after its count. */
static void test_epochs(void **state)
{
	(void)state;
	use(&counted, 4, true);
	token(0, 0);
	assert_int_equal(flow()->label, 1);
	token(1, 1);
	assert_int_equal(flow()->label, 2);
	count(2, 1, 1);
	assert_int_equal(flow()->label, 2);
	token(3, 1);
	assert_int_equal(flow()->label, 3);
	assert_int_equal(cell()->tokens, 1);
	path_drop(&path);
}

static void test_duplicate(void **state)
{
	(void)state;
	use(&counted, 4, true);
	token(0, 0);
	token(1, 0);
	token(1, 0);
	token(0, 0);
	assert_int_equal(cell()->tokens, 2);
	assert_int_equal(epoch()->duplicates, 2);
	assert_int_equal(path_outcome(&path, MT_OUT_DUPLICATE), 2);
	token(2, 0);
	assert_int_equal(cell()->tokens, 3);
	path_drop(&path);
}

/** A sender goes back behind messages that were seen whole, and sends them all again. */
static void test_go_back(void **state)
{
	(void)state;
	use(&sends, 4, true);
	for (uint32_t again = 0; again < 2; again++) {
		part(OP_SEND_FIRST, 5, JOB_MTU);
		part(OP_SEND_LAST, 6, JOB_TOKEN);
		part(OP_SEND_ONLY, 7, JOB_TOKEN);
	}
	part(OP_SEND_ONLY, 8, JOB_TOKEN);
	assert_int_equal(cell()->bytes, JOB_MTU + 3 * JOB_TOKEN);
	assert_int_equal(cell()->messages, 3);
	assert_int_equal(path_outcome(&path, MT_OUT_DUPLICATE), 3);
	path_drop(&path);
}

static void test_wrap(void **state)
{
	(void)state;
	use(&counted, 4, true);
	for (uint32_t i = 0; i < 4; i++)
		token(FW_PSN_MASK - 1 + i, 0);
	token(FW_PSN_MASK, 0); /* again */
	assert_int_equal(cell()->tokens, 4);
	assert_int_equal(flow()->next, 2);
	assert_int_equal(epoch()->gaps, 0);
	assert_int_equal(epoch()->duplicates, 1);
	path_drop(&path);
}

/** A packet is overtaken by 128 others, then packets come from the last to the first. */
static void test_reorder(void **state)
{
	(void)state;
	use(&counted, 4, true);
	token(0, 0);
	for (uint32_t i = 0; i < 128; i++)
		token(2 + i, 0);
	assert_int_equal(cell()->tokens, 1);
	token(1, 0);
	assert_int_equal(cell()->tokens, 130);
	for (uint32_t i = 0; i < 128; i++)
		token(130 + 127 - i, 0);
	assert_int_equal(cell()->tokens, 258);
	assert_int_equal(epoch()->gaps, 0);
	assert_int_equal(epoch()->duplicates, 0);
	assert_int_equal(flow()->block, 0);
	path_drop(&path);
}

/** The first packet of a flow may be overtaken too. */
static void test_start(void **state)
{
	(void)state;
	use(&counted, 4, false);
	for (uint32_t i = 1; i < FW_START; i++)
		token(100 + i, 0);
	assert_int_equal(flow()->label, 0);
	token(100, 0);
	assert_int_equal(cell()->tokens, FW_START);
	assert_int_equal(epoch()->start_psn, 100);
	assert_int_equal(epoch()->gaps, 0);
	path_drop(&path);
}

/** Where every packet is an epoch, flows start after so many that no round waits too long. */
static void test_start_by_epochs(void **state)
{
	struct frame f = job_count(&counted, 1, 0, 0, 0, 0);

	(void)state;
	use(&counted, 4, false);
	path_send(&path, &f); /* another flow, which starts with this one */
	for (uint32_t i = 0; i < FW_START_LABEL - 1; i++)
		count(i, 0, i % 2);
	assert_int_equal(flow()->label, 0);
	count(FW_START_LABEL - 1, 0, 1);
	assert_int_equal(flow()->label, FW_START_LABEL);
	assert_int_equal(path_flow(&path, 1, 0, job_qpn(1, 0))->label, 1);
	path_drop(&path);
}

static void test_gap(void **state)
{
	(void)state;
	use(&counted, 4, true);
	token(0, 0);
	for (uint32_t i = 0; i < FW_BLOCK - 1; i++)
		token(3 + i, 0);
	assert_int_equal(cell()->tokens, 1);
	token(2 + FW_BLOCK, 0);
	assert_int_equal(cell()->tokens, 1 + FW_BLOCK);
	assert_int_equal(epoch()->gaps, 2);
	assert_int_equal(flow()->block, 0);
	token(2, 0); /* nobody knows whether it was counted */
	assert_int_equal(cell()->tokens, 1 + FW_BLOCK);
	assert_int_equal(epoch()->stale, 1);
	assert_int_equal(path_outcome(&path, MT_OUT_STALE), 1);
	path_drop(&path);
}

static void test_resync(void **state)
{
	(void)state;
	use(&counted, 4, true);
	token(0, 0);
	token(FW_RESYNC + 2, 1);
	assert_int_equal(flow()->label, 2);
	assert_int_equal(epoch()->flags & FW_EPOCH_RESYNC, FW_EPOCH_RESYNC);
	assert_int_equal(epoch()->gaps, 0);
	assert_int_equal(cell()->tokens, 1);
	token(FW_RESYNC + 3, 1);
	assert_int_equal(cell()->tokens, 2);
	token(FW_RESYNC + 4, 0);
	assert_int_equal(flow()->label, 3);
	assert_int_equal(epoch()->flags, 0);
	path_drop(&path);
}

/** The largest jump that is a gap. */
static void test_no_resync(void **state)
{
	(void)state;
	use(&counted, 4, true);
	token(0, 0);
	token(FW_RESYNC + 1, 1);
	path_flush(&path);
	assert_int_equal(flow()->label, 2);
	assert_int_equal(epoch()->flags, 0);
	path_drop(&path);
}

static void test_messages(void **state)
{
	(void)state;
	use(&sends, 4, true);
	part(OP_SEND_FIRST, 0, JOB_MTU);
	part(OP_SEND_MIDDLE, 1, JOB_MTU);
	part(OP_SEND_LAST, 2, JOB_TOKEN);
	assert_int_equal(cell()->bytes, 2 * JOB_MTU + JOB_TOKEN);
	assert_int_equal(cell()->messages, 1);
	assert_int_equal(path_outcome(&path, MT_OUT_DISPATCH), 1);
	assert_int_equal(path_outcome(&path, MT_OUT_BODY), 2);
	part(OP_SEND_LAST, 3, JOB_TOKEN); /* of no message */
	assert_int_equal(cell()->bytes, 2 * JOB_MTU + JOB_TOKEN);
	assert_int_equal(path_outcome(&path, MT_OUT_ORPHAN), 1);
	path_drop(&path);
}

/** The first packet of a SEND comes last, after the next message. */
static void test_late_first(void **state)
{
	(void)state;
	use(&sends, 4, true);
	part(OP_SEND_ONLY, 0, JOB_TOKEN);
	part(OP_SEND_MIDDLE, 2, JOB_MTU);
	part(OP_SEND_LAST, 3, JOB_TOKEN);
	part(OP_SEND_FIRST, 4, JOB_MTU);
	part(OP_SEND_LAST, 5, JOB_MTU);
	part(OP_SEND_FIRST, 1, JOB_MTU);
	assert_int_equal(cell()->bytes, 4 * JOB_MTU + 2 * JOB_TOKEN);
	assert_int_equal(path.core[0]->tables->sources[0].phase[1].gaps, 0);
	path_drop(&path);
}

/** The rest of a SEND is no part of the message before it. */
static void test_lost_first(void **state)
{
	(void)state;
	use(&sends, 4, true);
	part(OP_SEND_ONLY, 0, JOB_TOKEN);
	part(OP_SEND_MIDDLE, 2, JOB_MTU);
	part(OP_SEND_LAST, 3, JOB_TOKEN);
	path_flush(&path);
	assert_int_equal(cell()->bytes, JOB_TOKEN);
	assert_int_not_equal(path.core[0]->tables->sources[0].phase[1].gaps, 0);
	path_drop(&path);
}

static void test_cut(void **state)
{
	struct frame f = job_token(&counted, 0, 1, 0, 0, 0);

	(void)state;
	use(&counted, 4, true);
	f.cut = 60; /* in the RETH */
	path_send(&path, &f);
	assert_int_equal(flow()->label, 0);
	token(1, 0);
	assert_int_equal(cell()->tokens, 1);
	assert_int_equal(epoch()->truncated, 1);
	f.psn = 2;
	path_send(&path, &f);
	assert_int_equal(cell()->tokens, 1);
	assert_int_equal(epoch()->truncated, 2);
	assert_int_equal(path_outcome(&path, MT_OUT_TRUNCATED), 2);
	assert_int_equal(epoch()->gaps, 0);
	path_drop(&path);
}

static void test_no_room(void **state)
{
	(void)state;
	use(&counted, 2, true);
	for (uint32_t i = 0; i < 3; i++) {
		struct frame f = job_token(&counted, 0, 1, 0, 0, 0);

		f.qpn += i;
		path_send(&path, &f);
	}
	assert_int_equal(path.core[0]->tables->used, 2);
	assert_int_equal(path_outcome(&path, MT_OUT_DISPATCH), 2);
	assert_int_equal(path_outcome(&path, MT_OUT_NO_ROOM), 1);
	path_drop(&path);
}

/** A mark counts for the ranks of its packet, a notification for those that it is about. */
static void test_congestion(void **state)
{
	struct frame f = job_token(&counted, 0, 1, 0, 0, 0);
	struct frame cnp = {.src = 1, .qpn = 0x77, .opcode = OP_CNP};
	const struct fw_congested_table *flows;
	const struct fw_congestion *pairs;
	uint64_t ips = rte_cpu_to_be_32(0x0a000001) | (uint64_t)rte_cpu_to_be_32(0x0a000002) << 32;
	const struct fw_congested *flow;

	(void)state;
	use(&counted, 4, true);
	pairs = path.core[0]->tables->congestion;
	for (f.psn = 0; f.psn < 6; f.psn++) {
		f.marked = f.psn % 2 != 0;
		path_send(&path, &f);
	}
	for (int i = 0; i < 4; i++)
		path_send(&path, &cnp);
	f.src = 7; /* no rank's: its mark has no pair */
	path_send(&path, &f);
	cnp.dst = 7;
	path_send(&path, &cnp);
	assert_int_equal(cell()->tokens, 6);
	assert_int_equal(path_outcome(&path, MT_OUT_DISPATCH), 6);
	assert_int_equal(path_outcome(&path, MT_OUT_CNP), 5);
	assert_int_equal(path_outcome(&path, MT_OUT_UNKNOWN_RANK), 1);
	assert_int_equal(path.core[0]->marked, 4);
	assert_int_equal(pairs[0 * 2 + 1].marked, 3);
	assert_int_equal(pairs[0 * 2 + 1].notified, 4);
	assert_int_equal(pairs[1 * 2 + 0].marked + pairs[1 * 2 + 0].notified, 0);
	/* a mark is of its flow; a notification names the sender's queue pair, and goes back to it
	 */
	flows = path.core[0]->tables->congested;
	assert_int_equal(flows->used, 2);
	assert_int_equal(flows->others, 0);
	flow = fw_congested_find(flows, ips, job_qpn(0, 0) | FW_KEY_V4);
	assert_non_null(flow);
	assert_int_equal(flow->src, 0);
	assert_int_equal(flow->dst, 1);
	assert_int_equal(flow->packets, 3);
	flow = fw_congested_find(flows, ips << 32 | ips >> 32, 0x77 | FW_KEY_V4 | FW_KEY_NOTIFIED);
	assert_non_null(flow);
	assert_int_equal(flow->src, 0);
	assert_int_equal(flow->dst, 1);
	assert_int_equal(flow->packets, 4);
	path_drop(&path);
}

/** Flows beyond the table count for their pair. */
static void test_congested_flows(void **state)
{
	struct frame cnp = {.src = 1, .opcode = OP_CNP};
	const struct fw_congested_table *flows;
	uint32_t room = FW_CONGESTED / 4 * 3, n = 0;

	(void)state;
	use(&counted, 4, true);
	for (int turn = 0; turn < 2; turn++)
		for (cnp.qpn = 0; cnp.qpn < room + 5; cnp.qpn++)
			path_send(&path, &cnp);
	flows = path.core[0]->tables->congested;
	assert_int_equal(flows->used, room);
	assert_int_equal(flows->others, 10);
	for (uint32_t i = 0; i < FW_CONGESTED; i++)
		n += flows->flow[i].qpn != 0 && flows->flow[i].packets == 2;
	assert_int_equal(n, room);
	assert_int_equal(path.core[0]->tables->congestion[1].notified, 2 * (room + 5));
	path_drop(&path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_in_order),
		cmocka_unit_test(test_epochs),
		cmocka_unit_test(test_duplicate),
		cmocka_unit_test(test_go_back),
		cmocka_unit_test(test_wrap),
		cmocka_unit_test(test_reorder),
		cmocka_unit_test(test_start),
		cmocka_unit_test(test_start_by_epochs),
		cmocka_unit_test(test_gap),
		cmocka_unit_test(test_resync),
		cmocka_unit_test(test_no_resync),
		cmocka_unit_test(test_messages),
		cmocka_unit_test(test_late_first),
		cmocka_unit_test(test_lost_first),
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_no_room),
		cmocka_unit_test(test_congestion),
		cmocka_unit_test(test_congested_flows),
	};

	path_start_dpdk();
	path_init(&path);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
