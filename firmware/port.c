/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_mbuf_dyn.h>
#include <rte_version.h>

#include "port.h"

#define DESCRIPTORS 4096u
#define BUFFERS_PER_CORE 2048u /* on their way from core to core */
#define FRAME_MTU 9000u
#define PACKET_BYTES 4224u /* a path MTU of 4096, and the headers before it */
#define VXLAN_BYTES                                                                                \
	78u /* that a VXLAN puts before them: Ethernet with two tags, IPv6, UDP, VXLAN */
#define DRIVER_PCAP "net_pcap"
/* net_pcap stamps in ns from this version on, before in µs (its release notes) */
#define PCAP_NS_VERSION RTE_VERSION_NUM(26, 7, 0, 0)

static uint16_t queues_of(const struct fw_plane *plane, const struct rte_eth_dev_info *info)
{
	return (uint16_t)RTE_MIN(plane->cores, (uint32_t)info->max_rx_queues);
}

static bool is_pcap(const struct rte_eth_dev_info *info)
{
	return strcmp(info->driver_name, DRIVER_PCAP) == 0;
}

/**
 * Bytes of a buffer. Only what lies in the first one of a frame is read, so a map of lists in
 * payloads wants a packet in it. Drivers that cannot scatter may have no larger ones (net_af_xdp: a
 * page).
 */
static uint16_t buffer_bytes(const struct rte_eth_dev_info *info, uint32_t snap)
{
	bool any = is_pcap(info) || (info->rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER);
	uint32_t most = RTE_PKTMBUF_HEADROOM + VXLAN_BYTES + RTE_MIN(snap, PACKET_BYTES);

	return (uint16_t)(any ? RTE_MAX(most, (uint32_t)RTE_MBUF_DEFAULT_BUF_SIZE)
			      : RTE_MBUF_DEFAULT_BUF_SIZE);
}

/** Frames longer than a buffer are wanted too: their headers are in its first bytes. */
static void wish(const struct rte_eth_dev_info *info, uint16_t queues, struct rte_eth_conf *conf)
{
	if (info->rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER) {
		conf->rxmode.offloads |= RTE_ETH_RX_OFFLOAD_SCATTER;
		conf->rxmode.mtu = RTE_MIN(FRAME_MTU, (uint32_t)info->max_mtu);
	}
	if (is_pcap(info))
		conf->rxmode.offloads |= info->rx_offload_capa & RTE_ETH_RX_OFFLOAD_TIMESTAMP;
	if (queues > 1 && info->flow_type_rss_offloads != 0) {
		conf->rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf->rx_adv_conf.rss_conf.rss_hf =
			info->flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP);
	}
}

static void give_queues(struct fw_plane *plane, uint16_t port, uint16_t queues, uint32_t *turn)
{
	for (uint16_t q = 0; q < queues; q++, (*turn)++) {
		struct fw_core *core = plane->core[*turn % plane->cores];

		if (core->queues == RTE_DIM(core->queue))
			continue;
		core->queue[core->queues].port = port;
		core->queue[core->queues++].queue = q;
	}
}

static int set_up_queues(uint16_t port, uint16_t queues, uint16_t rx, uint16_t tx_queues,
	uint16_t tx, struct rte_mempool *pool)
{
	int ret = 0;

	for (uint16_t q = 0; q < queues && ret == 0; q++)
		ret = rte_eth_rx_queue_setup(port, q, rx, rte_eth_dev_socket_id(port), NULL, pool);
	for (uint16_t q = 0; q < tx_queues && ret == 0; q++)
		ret = rte_eth_tx_queue_setup(port, q, tx, rte_eth_dev_socket_id(port), NULL);
	return ret;
}

static int start(
	struct fw_plane *plane, uint16_t port, uint32_t snap, uint32_t *turn, struct mt_error *err)
{
	struct rte_eth_conf conf = {0};
	struct rte_eth_dev_info info;
	char name[RTE_ETH_NAME_MAX_LEN] = "?", pool_name[RTE_MEMPOOL_NAMESIZE];
	struct rte_mempool *pool;
	uint16_t queues, tx_queues, rx = DESCRIPTORS, tx = DESCRIPTORS;
	int ret;

	rte_eth_dev_get_name_by_port(port, name);
	ret = rte_eth_dev_info_get(port, &info);
	if (ret < 0)
		return mt_fail(err, ret, "port %s: %s", name, rte_strerror(-ret));
	queues = queues_of(plane, &info);
	wish(&info, queues, &conf);
	/* nothing is sent, but some drivers (net_af_xdp) want as many queues for that */
	tx_queues = info.max_tx_queues >= queues ? queues : 0;
	ret = rte_eth_dev_configure(port, queues, tx_queues, &conf);
	if (ret == 0)
		ret = rte_eth_dev_adjust_nb_rx_tx_desc(port, &rx, &tx);
	if (ret < 0)
		return mt_fail(
			err, ret, "port %s cannot be configured: %s", name, rte_strerror(-ret));
	snprintf(pool_name, sizeof(pool_name), "moetap-%u", port);
	pool = rte_pktmbuf_pool_create(pool_name, queues * rx + plane->cores * BUFFERS_PER_CORE,
		256, FW_PRIV_BYTES, buffer_bytes(&info, snap), rte_eth_dev_socket_id(port));
	if (pool == NULL)
		return mt_fail(err, -ENOMEM,
			"port %s: no memory for packet buffers: more huge pages "
			"(sysctl -w vm.nr_hugepages=512), or a larger -m with --no-huge",
			name);
	ret = set_up_queues(port, queues, rx, tx_queues, tx, pool);
	if (ret < 0)
		return mt_fail(err, ret, "port %s: queues: %s", name, rte_strerror(-ret));
	ret = rte_eth_dev_start(port);
	if (ret < 0)
		return mt_fail(err, ret, "port %s cannot be started: %s", name, rte_strerror(-ret));
	rte_eth_promiscuous_enable(port); /* a mirror's frames are addressed to others */
	rte_eth_stats_reset(port);
	give_queues(plane, port, queues, turn);
	return 0;
}

/** Only net_pcap's stamps have a unit that is known without asking the NIC for its clock. */
static void find_stamps(struct fw_plane *plane)
{
	struct rte_eth_dev_info info;
	uint16_t port;

	plane->stamp_offset = -1;
	plane->stamp_flag = 0;
	plane->stamp_ns = RTE_VERSION >= PCAP_NS_VERSION ? 1 : 1000;
	RTE_ETH_FOREACH_DEV(port)
	if (rte_eth_dev_info_get(port, &info) != 0 || !is_pcap(&info))
		return;
	rte_mbuf_dyn_rx_timestamp_register(&plane->stamp_offset, &plane->stamp_flag);
}

int fw_ports_start(struct fw_plane *plane, uint32_t snap, struct mt_error *err)
{
	uint32_t turn = 0;
	uint16_t port;
	int ret;

	if (rte_eth_dev_count_avail() == 0)
		return mt_fail(err, -ENODEV,
			"no port to tap: name a NIC with -a PCI-ADDRESS, or a "
			"virtual port, as in --vdev net_af_xdp0,iface=NAME or "
			"--vdev net_pcap0,rx_pcap=FILE; if one was named, DPDK says above why it "
			"is not "
			"there");
	RTE_ETH_FOREACH_DEV(port)
	{
		ret = start(plane, port, snap, &turn, err);
		if (ret < 0)
			return ret;
	}
	find_stamps(plane);
	return 0;
}

void fw_ports_stop(void)
{
	uint16_t port;

	RTE_ETH_FOREACH_DEV(port)
	{
		rte_eth_dev_stop(port);
		rte_eth_dev_close(port);
	}
}

uint64_t fw_ports_drops(void)
{
	struct rte_eth_stats s;
	uint64_t n = 0;
	uint16_t port;

	RTE_ETH_FOREACH_DEV(port)
	if (rte_eth_stats_get(port, &s) == 0)
		n += s.imissed + s.rx_nombuf;
	return n;
}
