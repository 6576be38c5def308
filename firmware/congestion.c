/* SPDX-License-Identifier: BSD-3-Clause */
#include "congestion.h"

const struct fw_congested *fw_congested_find(
	const struct fw_congested_table *t, uint64_t ips, uint32_t qpn)
{
	uint32_t i = fw_hash(ips, qpn) & (FW_CONGESTED - 1), at;

	for (;; i = (i + 1) & (FW_CONGESTED - 1)) {
		at = __atomic_load_n(&t->flow[i].qpn, __ATOMIC_ACQUIRE);
		if (at == 0)
			return NULL;
		if (at == qpn && t->flow[i].ips == ips)
			return &t->flow[i];
	}
}

static struct fw_congested *add(
	struct fw_congested_table *t, uint64_t ips, uint32_t qpn, uint32_t src, uint32_t dst)
{
	uint32_t i = fw_hash(ips, qpn) & (FW_CONGESTED - 1);

	if (t->used == FW_CONGESTED / 4 * 3)
		return NULL;
	t->used++;
	while (t->flow[i].qpn != 0)
		i = (i + 1) & (FW_CONGESTED - 1);
	t->flow[i].ips = ips;
	t->flow[i].src = (uint16_t)src;
	t->flow[i].dst = (uint16_t)dst;
	__atomic_store_n(&t->flow[i].qpn, qpn, __ATOMIC_RELEASE);
	return &t->flow[i];
}

void fw_congested(
	struct fw_core *core, unsigned int out, const struct fw_packet *p, const uint8_t *v6)
{
	const struct fw_config *c = core->tables->config;
	uint64_t ips =
		v6 != NULL ? fw_key_v6(fw_addr_v6(c, v6) - 1, fw_addr_v6(c, v6 + 16) - 1) : p->ips;
	uint32_t qpn = v6 != NULL ? p->qpn ^ FW_KEY_V4 ^ FW_KEY_V6 : p->qpn, from, to;
	uint32_t src = fw_key_src(c, ips, qpn), dst = fw_key_dst(c, ips, qpn);
	struct fw_congested_table *t = core->tables->congested;
	bool notified = out == MT_OUT_CNP;
	struct fw_congestion *pair;
	struct fw_congested *f;

	core->marked += !notified;
	if (src == 0 || dst == 0)
		return;
	from = (notified ? dst : src) - 1; /* a notification goes back to the sender */
	to = (notified ? src : dst) - 1;
	qpn |= notified ? FW_KEY_NOTIFIED : 0;
	pair = &core->tables->congestion[(size_t)from * c->bank->ranks + to];
	pair->notified += notified;
	pair->marked += !notified;
	f = (struct fw_congested *)(uintptr_t)fw_congested_find(t, ips, qpn);
	if (f == NULL)
		f = add(t, ips, qpn, from, to);
	if (f != NULL)
		f->packets++;
	else
		t->others++;
}
