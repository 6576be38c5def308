// SPDX-License-Identifier: BSD-3-Clause
/*
 * The lab's job: an expert-parallel all-to-all over verbs, with the wire layout of a framework.
 * usage: lab-job SPEC RANK FOLDER
 * SPEC has a key and its value a line, and lines "rank N ADDRESS"; see docs/lab.md. Into FOLDER it writes
 * truth-RANK.csv (step,layer,src,dst,expert,tokens) as it posts, and rank 0 job.json.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "layout.h"

enum {
	MAX_RANKS = 64,
	MAX_QPS = 32,
	MAX_K = 32,
	MAX_EXPERTS = 64,    /* of a rank */
	DEPTH = 128,         /* of every queue */
	ROOM = 32 << 20,     /* bytes of messages that are not acknowledged yet */
	SINK = 4096,         /* where results of atomics go */
	LANDING = 1 << 20,   /* where SENDs go */
	CONNECT_TRIES = 600, /* of 0.1 s */
};

struct peer {
	uint64_t base;
	uint32_t rkey;
	union ibv_gid gid;
	uint32_t qpn[MAX_RANKS][MAX_QPS], psn[MAX_RANKS][MAX_QPS]; /* of its queue pairs with each rank */
};

struct engine {
	char address[MAX_RANKS][64], control[64], device[64];
	unsigned int port, mtu, timeout;
	bool backward, recompute;
	int fd[MAX_RANKS]; /* rank 0: of the others; others: fd[0] */
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_cq *send_cq, *receive_cq;
	struct ibv_qp *qp[MAX_RANKS][MAX_QPS];
	unsigned int open[MAX_RANKS][MAX_QPS], all_open;
	struct ibv_mr *region, *room, *landing;
	char *base, *rooms, *lands;
	size_t used;
	unsigned int gid_index;
	struct peer *peers;
	FILE *truth;
	int32_t route[MAX_K];
};

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("lab-job: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

/* Routes */

uint64_t job_hash(uint64_t seed, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
	const uint64_t words[] = {a, b, c, d, e};
	uint64_t h = seed + 0x9e3779b97f4a7c15;

	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		h = (h ^ words[i]) * 0xbf58476d1ce4e5b9;
		h = (h ^ (h >> 27)) * 0x94d049bb133111eb;
		h ^= h >> 31;
	}
	return h;
}

unsigned int job_tokens(const struct job *job, const struct round *r, unsigned int rank)
{
	return job->tokens - job_hash(job->seed, 1, r->step, r->micro_batch, rank, 0) % (job->tokens / 4 + 1);
}

const int32_t *job_route(const struct job *job, const struct round *r, unsigned int rank, unsigned int token)
{
	unsigned int all = job->ranks * job->experts, sum, k, e;
	int32_t *out = job->engine->route;
	unsigned int weight[MAX_RANKS * MAX_EXPERTS];

	for (e = 0; e < all; e++) { /* some experts are hot, others in other layers */
		weight[e] = 1 + job_hash(job->seed, 2, r->layer, e, 0, 0) % 8;
		weight[e] *= weight[e];
	}
	for (k = 0; k < job->top_k; k++) {
		uint64_t h = job_hash(job->seed, 3 + k, r->step << 16 | r->micro_batch, r->layer, rank, token);
		unsigned int at;

		for (sum = 0, e = 0; e < all; e++)
			sum += weight[e];
		out[k] = -1;
		if (sum == 0 || h % 29 == 0) /* dropped */
			continue;
		at = (unsigned int)((h >> 8) % sum);
		for (e = 0; at >= weight[e]; e++)
			at -= weight[e];
		out[k] = (int32_t)e;
		weight[e] = 0;
	}
	return out;
}

static void tell_truth(struct job *job, const struct round *r)
{
	unsigned int all = job->ranks * job->experts;
	unsigned int count[MAX_RANKS * MAX_EXPERTS] = {0};

	for (unsigned int t = 0; t < job_tokens(job, r, job->rank); t++) {
		const int32_t *route = job_route(job, r, job->rank, t);

		for (unsigned int k = 0; k < job->top_k; k++)
			if (route[k] >= 0)
				count[route[k]]++;
	}
	for (unsigned int e = 0; e < all; e++)
		fprintf(job->engine->truth, "%u,%u,%u,%u,%u,%u\n", r->step, r->layer, job->rank, e / job->experts, e,
			count[e]);
}

/* Posting */

static void receive(struct engine *g, struct ibv_qp *qp)
{
	struct ibv_sge sge = {(uintptr_t)g->lands, LANDING, g->landing->lkey};
	struct ibv_recv_wr wr = {.wr_id = (uintptr_t)qp, .sg_list = &sge, .num_sge = 1}, *bad;

	if (ibv_post_recv(qp, &wr, &bad))
		die("ibv_post_recv: %s", strerror(errno));
}

/* Takes in what was completed. */
static void progress(struct engine *g)
{
	struct ibv_wc wc[32];
	int n;

	if (!g->send_cq)
		return;
	while ((n = ibv_poll_cq(g->send_cq, 32, wc)) > 0)
		for (int i = 0; i < n; i++) {
			if (wc[i].status != IBV_WC_SUCCESS)
				die("a message was not delivered: %s", ibv_wc_status_str(wc[i].status));
			g->open[wc[i].wr_id / MAX_QPS][wc[i].wr_id % MAX_QPS]--;
			g->all_open--;
		}
	while ((n = ibv_poll_cq(g->receive_cq, 32, wc)) > 0)
		for (int i = 0; i < n; i++) {
			if (wc[i].status != IBV_WC_SUCCESS)
				die("a message was not received: %s", ibv_wc_status_str(wc[i].status));
			receive(g, (struct ibv_qp *)(uintptr_t)wc[i].wr_id);
		}
}

static void flush(struct engine *g)
{
	while (g->all_open)
		progress(g);
	g->used = 0;
}

void *job_room(struct job *job, uint32_t bytes)
{
	struct engine *g = job->engine;
	unsigned char *p;

	if (bytes > ROOM - SINK)
		die("a message of %u bytes is too long", bytes);
	if (SINK + g->used + bytes > ROOM)
		flush(g);
	p = (unsigned char *)g->rooms + SINK + g->used;
	g->used += (bytes + 63) & ~63u;
	memset(p, 0x40 + (int)(job->rank & 15), bytes);
	return p;
}

void job_post(struct job *job, const struct post *post)
{
	static const enum ibv_wr_opcode opcodes[] = {
		[WRITE] = IBV_WR_RDMA_WRITE,
		[WRITE_IMM] = IBV_WR_RDMA_WRITE_WITH_IMM,
		[FETCH_ADD] = IBV_WR_ATOMIC_FETCH_AND_ADD,
		[SWAP] = IBV_WR_ATOMIC_CMP_AND_SWP,
		[SEND] = IBV_WR_SEND,
	};
	struct engine *g = job->engine;
	struct ibv_sge sge = {(uintptr_t)post->data, post->length, g->room->lkey};
	struct ibv_send_wr wr = {.sg_list = &sge, .num_sge = post->length > 0, .send_flags = IBV_SEND_SIGNALED}, *bad;

	if (post->peer == job->rank)
		return;
	if (post->peer >= job->ranks || post->qp >= job->qps ||
		(post->kind != SEND && post->at + post->length > job->region))
		die("layout %s: a message to nowhere: rank %u queue pair %u offset %llu", job->layout->name, post->peer,
			post->qp, (unsigned long long)post->at);
	wr.wr_id = post->peer * MAX_QPS + post->qp;
	wr.opcode = opcodes[post->kind];
	wr.imm_data = htonl(post->imm);
	if (post->kind == FETCH_ADD || post->kind == SWAP) {
		sge = (struct ibv_sge){(uintptr_t)g->rooms, 8, g->room->lkey};
		wr.num_sge = 1;
		wr.wr.atomic.remote_addr = g->peers[post->peer].base + post->at;
		wr.wr.atomic.rkey = g->peers[post->peer].rkey;
		wr.wr.atomic.compare_add = post->kind == SWAP ? 0 : post->add;
		wr.wr.atomic.swap = post->add;
	} else {
		wr.wr.rdma.remote_addr = g->peers[post->peer].base + post->at;
		wr.wr.rdma.rkey = g->peers[post->peer].rkey;
	}
	while (g->open[post->peer][post->qp] >= DEPTH)
		progress(g);
	if (ibv_post_send(g->qp[post->peer][post->qp], &wr, &bad))
		die("ibv_post_send: %s", strerror(errno));
	g->open[post->peer][post->qp]++;
	g->all_open++;
}

/* The ranks talk by TCP, through rank 0. */

static void transfer(struct engine *g, int fd, void *data, size_t bytes, bool out)
{
	char *p = data;

	while (bytes) {
		ssize_t n = out ? send(fd, p, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) : recv(fd, p, bytes, MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			die("a rank is gone: %s", n ? strerror(errno) : "it hung up");
		if (n < 0) { /* others may wait for us to receive */
			progress(g);
			poll(&(struct pollfd){fd, out ? POLLOUT : POLLIN, 0}, 1, 1);
			continue;
		}
		p += n;
		bytes -= (size_t)n;
	}
}

/* Every rank gives `mine`, and gets those of all. */
static void gather(struct job *job, const void *mine, void *all, size_t bytes)
{
	struct engine *g = job->engine;
	char *out = all;

	memcpy(out + job->rank * bytes, mine, bytes);
	if (job->rank == 0) {
		for (unsigned int r = 1; r < job->ranks; r++)
			transfer(g, g->fd[r], out + r * bytes, bytes, false);
		for (unsigned int r = 1; r < job->ranks; r++)
			transfer(g, g->fd[r], all, job->ranks * bytes, true);
	} else {
		transfer(g, g->fd[0], out + job->rank * bytes, bytes, true);
		transfer(g, g->fd[0], all, job->ranks * bytes, false);
	}
}

static void barrier(struct job *job)
{
	char all[MAX_RANKS];

	gather(job, "", all, 1);
}

static void meet(struct job *job)
{
	struct engine *g = job->engine;
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)g->port)};
	int one = 1, s;

	if (inet_pton(AF_INET, g->control, &a.sin_addr) != 1)
		die("control: no IPv4 address: %s", g->control);
	if (job->rank == 0) {
		s = socket(AF_INET, SOCK_STREAM, 0);
		setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		if (bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, MAX_RANKS))
			die("port %u: %s", g->port, strerror(errno));
		for (unsigned int i = 1; i < job->ranks; i++) {
			uint32_t rank;
			int fd = accept(s, NULL, NULL);

			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
			transfer(g, fd, &rank, sizeof rank, false);
			if (rank == 0 || rank >= job->ranks || g->fd[rank])
				die("rank %u came twice, or is none", rank);
			g->fd[rank] = fd;
		}
		close(s);
		return;
	}
	for (int i = 0; i < CONNECT_TRIES; i++, usleep(100000)) {
		s = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(s, (struct sockaddr *)&a, sizeof a) == 0) {
			setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
			g->fd[0] = s;
			transfer(g, s, &(uint32_t){job->rank}, 4, true);
			return;
		}
		close(s);
	}
	die("rank 0 does not answer at %s", g->control);
}

/* Verbs */

static enum ibv_mtu mtu_of(unsigned int bytes)
{
	for (int m = IBV_MTU_256; m <= IBV_MTU_4096; m++)
		if (128u << m == bytes)
			return (enum ibv_mtu)m;
	die("no path MTU: %u", bytes);
}

static void find_gid(struct engine *g, const char *address, union ibv_gid *gid)
{
	union ibv_gid wanted = {.raw = {[10] = 0xff, [11] = 0xff}};

	if (inet_pton(AF_INET, address, wanted.raw + 12) != 1 && inet_pton(AF_INET6, address, wanted.raw) != 1)
		die("no address: %s", address);
	for (g->gid_index = 0; ibv_query_gid(g->context, 1, (int)g->gid_index, gid) == 0; g->gid_index++)
		if (memcmp(gid, &wanted, sizeof wanted) == 0)
			return;
	die("device %s has no GID of %s", g->device, address);
}

static void *memory(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("no memory: %zu bytes", bytes);
	return p;
}

/* Peers see it from address `at` on. */
static struct ibv_mr *registered(struct engine *g, void *p, size_t bytes, uint64_t at)
{
	struct ibv_mr *mr = ibv_reg_mr_iova(
		g->pd, p, bytes, at, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC);

	if (!mr)
		die("ibv_reg_mr of %zu bytes: %s", bytes, strerror(errno));
	return mr;
}

static void open_device(struct job *job, struct peer *me)
{
	struct engine *g = job->engine;
	int depth = (int)(job->ranks * job->qps * DEPTH), n = 0;
	struct ibv_device **list = ibv_get_device_list(&n);

	for (int i = 0; i < n; i++)
		if (strcmp(ibv_get_device_name(list[i]), g->device) == 0)
			g->context = ibv_open_device(list[i]);
	if (!g->context)
		die("no RDMA device %s", g->device);
	ibv_free_device_list(list);
	g->pd = ibv_alloc_pd(g->context);
	g->send_cq = ibv_create_cq(g->context, depth, NULL, NULL, 0);
	g->receive_cq = ibv_create_cq(g->context, depth, NULL, NULL, 0);
	if (!g->pd || !g->send_cq || !g->receive_cq)
		die("no completion queue of %d", depth);
	g->base = memory(job->region);
	g->rooms = memory(ROOM);
	g->lands = memory(LANDING);
	me->base = job->window_at_0 ? 0 : (uintptr_t)g->base;
	g->region = registered(g, g->base, job->region, me->base);
	g->room = registered(g, g->rooms, ROOM, (uintptr_t)g->rooms);
	g->landing = registered(g, g->lands, LANDING, (uintptr_t)g->lands);
	me->rkey = g->region->rkey;
	find_gid(g, g->address[job->rank], &me->gid);
}

static void create_qps(struct job *job, struct peer *me)
{
	struct engine *g = job->engine;

	for (unsigned int r = 0; r < job->ranks; r++)
		for (unsigned int q = 0; r != job->rank && q < job->qps; q++) {
			struct ibv_qp_init_attr init = {.send_cq = g->send_cq,
				.recv_cq = g->receive_cq,
				.qp_type = IBV_QPT_RC,
				.cap = {DEPTH, DEPTH, 1, 1, 0}};
			struct ibv_qp_attr a = {.qp_state = IBV_QPS_INIT,
				.port_num = 1,
				.qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC};
			struct ibv_qp *qp = g->qp[r][q] = ibv_create_qp(g->pd, &init);

			if (!qp || ibv_modify_qp(qp, &a,
					   IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS))
				die("ibv_create_qp: %s", strerror(errno));
			for (int i = 0; i < DEPTH; i++)
				receive(g, qp);
			me->qpn[r][q] = qp->qp_num;
			/* half of them wrap soon */
			me->psn[r][q] = (uint32_t)job_hash(job->seed, 90, job->rank, r, q, 0) & 0xffffff;
			if (q & 1)
				me->psn[r][q] |= 0xffff00;
		}
}

static void connect_qps(struct job *job)
{
	struct engine *g = job->engine;

	for (unsigned int r = 0; r < job->ranks; r++)
		for (unsigned int q = 0; r != job->rank && q < job->qps; q++) {
			const struct peer *p = &g->peers[r], *me = &g->peers[job->rank];
			struct ibv_qp_attr a = {.qp_state = IBV_QPS_RTR,
				.path_mtu = mtu_of(g->mtu),
				.dest_qp_num = p->qpn[job->rank][q],
				.rq_psn = p->psn[job->rank][q],
				.max_dest_rd_atomic = 16,
				.min_rnr_timer = 12,
				.ah_attr = {.is_global = 1,
					.port_num = 1,
					.grh = {.dgid = p->gid, .sgid_index = (uint8_t)g->gid_index, .hop_limit = 64}}};

			if (ibv_modify_qp(g->qp[r][q], &a,
				    IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
					    IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER))
				die("queue pair with rank %u: %s", r, strerror(errno));
			a = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS,
				.sq_psn = me->psn[r][q],
				.timeout = (uint8_t)g->timeout,
				.retry_cnt = 7,
				.rnr_retry = 7,
				.max_rd_atomic = 16};
			if (ibv_modify_qp(g->qp[r][q], &a,
				    IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
					    IBV_QP_MAX_QP_RD_ATOMIC))
				die("queue pair with rank %u: %s", r, strerror(errno));
		}
}

/* Spec, and what a map must know */

static void read_spec(struct job *job, const char *path)
{
	struct engine *g = job->engine;
	const struct {
		const char *key;
		unsigned int *value, least, most;
	} numbers[] = {
		{"ranks", &job->ranks, 2, MAX_RANKS},
		{"gpus-per-node", &job->gpus, 1, 8},
		{"experts-per-rank", &job->experts, 1, MAX_EXPERTS},
		{"layers", &job->layers, 1, 1024},
		{"steps", &job->steps, 1, 1000000},
		{"micro-batches", &job->micro_batches, 1, 1024},
		{"tokens", &job->tokens, 1, 4096},
		{"top-k", &job->top_k, 1, MAX_K},
		{"hidden", &job->hidden, 128, 16384},
		{"fp8", &job->fp8, 0, 1},
		{"qps", &job->qps, 1, MAX_QPS},
		{"batch", &job->batch, 0, 4096},
		{"window", &job->window, 1, 4096},
		{"mtu", &g->mtu, 256, 4096},
		{"timeout", &g->timeout, 1, 31},
		{"port", &g->port, 1, 65535},
	};
	char line[256], key[64], value[64], more[64];
	FILE *f = fopen(path, "r");

	if (!f)
		die("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof line, f)) {
		int words = sscanf(line, "%63s %63s %63s", key, value, more);
		size_t i, n = sizeof numbers / sizeof *numbers;

		if (words < 1 || key[0] == '#')
			continue;
		if (words < 2)
			die("%s: no value: %s", path, key);
		for (i = 0; i < n && strcmp(numbers[i].key, key); i++)
			;
		if (i < n) {
			*numbers[i].value = (unsigned int)strtoul(value, NULL, 10);
			if (*numbers[i].value < numbers[i].least || *numbers[i].value > numbers[i].most)
				die("%s: %s: %u to %u", path, key, numbers[i].least, numbers[i].most);
		} else if (strcmp(key, "layout") == 0) {
			for (job->layout = layouts; job->layout->name; job->layout++)
				if (strcmp(job->layout->name, value) == 0)
					break;
			if (!job->layout->name)
				die("%s: no such layout: %s", path, value);
		} else if (strcmp(key, "pattern") == 0) {
			g->backward = strcmp(value, "inference") != 0;
			g->recompute = strcmp(value, "training-recompute") == 0;
			if (g->backward && !g->recompute && strcmp(value, "training"))
				die("%s: no such pattern: %s", path, value);
		} else if (strcmp(key, "seed") == 0) {
			job->seed = strtoull(value, NULL, 10);
		} else if (strcmp(key, "device") == 0) {
			strcpy(g->device, value);
		} else if (strcmp(key, "control") == 0) {
			strcpy(g->control, value);
		} else if (strcmp(key, "rank") == 0 && words == 3 && strtoul(value, NULL, 10) < MAX_RANKS) {
			strcpy(g->address[strtoul(value, NULL, 10)], more);
		} else {
			die("%s: unknown: %s", path, line);
		}
	}
	fclose(f);
	if (!job->layout || job->ranks < 2 || job->ranks % job->gpus)
		die("%s: layout, ranks (a multiple of gpus-per-node) and addresses are needed", path);
}

static void tell_job(struct job *job, const char *folder, const char *said)
{
	struct engine *g = job->engine;
	char path[4096];
	FILE *f;

	snprintf(path, sizeof path, "%s/job.json", folder);
	f = fopen(path, "w");
	if (!f)
		die("%s: %s", path, strerror(errno));
	fprintf(f,
		"{\"layout\": \"%s\", \"num_ranks\": %u, \"gpus_per_node\": %u, \"experts_per_rank\": %u, "
		"\"layers\": %u,\n \"micro_batches\": %u, \"tokens\": %u, \"top_k\": %u, \"hidden\": %u, \"fp8\": %u, \"mtu\": %u,\n %s",
		job->layout->name, job->ranks, job->gpus, job->experts, job->layers, job->micro_batches, job->tokens,
		job->top_k, job->hidden, job->fp8, g->mtu, said);
	fprintf(f, "\"ranks\": [");
	for (unsigned int r = 0; r < job->ranks; r++)
		fprintf(f, "%s\n  {\"rank\": %u, \"address\": \"%s\", \"base\": %llu, \"rkey\": %u}", r ? "," : "", r,
			g->address[r], (unsigned long long)g->peers[r].base, g->peers[r].rkey);
	fprintf(f, "],\n \"flows\": [");
	for (unsigned int s = 0, n = 0; s < job->ranks; s++)
		for (unsigned int d = 0; d < job->ranks; d++)
			for (unsigned int q = 0; s != d && q < job->qps; q++)
				fprintf(f, "%s\n  {\"src\": %u, \"dst\": %u, \"index\": %u, \"qpn\": %u}", n++ ? "," : "", s, d,
					q, g->peers[d].qpn[s][q]);
	fprintf(f, "]}\n");
	if (fclose(f))
		die("%s: %s", path, strerror(errno));
}

/* The rounds */

static void one_round(struct job *job, const struct round *r)
{
	if (r->pass == FORWARD)
		tell_truth(job, r);
	for (unsigned int phase = 0; phase < job->layout->phases; phase++) {
		job->layout->emit(job, r, phase);
		flush(job->engine);
		barrier(job);
		usleep(job->layout->phase_pause_ms * 1000);
	}
	usleep(job->layout->pause_ms * 1000);
}

static void micro_batch(struct job *job, struct round r)
{
	for (r.layer = 0; r.layer < job->layers; r.layer++)
		one_round(job, &r);
	for (r.layer = job->layers; job->engine->backward && r.layer-- > 0;) {
		r.pass = RECOMPUTE;
		if (job->engine->recompute)
			one_round(job, &r);
		r.pass = BACKWARD;
		one_round(job, &r);
	}
}

int main(int argc, char **argv)
{
	struct engine engine = {.port = 7471, .mtu = 1024, .timeout = 14, .device = "rxe0"};
	struct job job = {.gpus = 1, .experts = 4, .layers = 2, .steps = 2, .micro_batches = 1, .tokens = 16, .top_k = 4,
		.hidden = 512, .fp8 = 1, .qps = 4, .batch = 8, .window = 16, .seed = 1, .engine = &engine};
	char path[4096], *said = NULL;
	struct peer me = {0};
	size_t size = 0;
	FILE *json;

	if (argc != 4)
		die("usage: lab-job SPEC RANK FOLDER");
	read_spec(&job, argv[1]);
	job.rank = (unsigned int)strtoul(argv[2], NULL, 10);
	if (job.rank >= job.ranks)
		die("no such rank: %s", argv[2]);
	json = open_memstream(&said, &size);
	job.layout->prepare(&job, json);
	fclose(json);
	engine.peers = calloc(job.ranks, sizeof *engine.peers);
	snprintf(path, sizeof path, "%s/truth-%u.csv", argv[3], job.rank);
	engine.truth = fopen(path, "w");
	if (!engine.truth || !engine.peers)
		die("%s: %s", path, strerror(errno));
	meet(&job);
	open_device(&job, &me);
	create_qps(&job, &me);
	gather(&job, &me, engine.peers, sizeof me);
	connect_qps(&job);
	if (job.rank == 0)
		tell_job(&job, argv[3], said);
	barrier(&job);
	for (unsigned int s = 0; s < job.steps; s++)
		for (unsigned int m = 0; m < job.micro_batches; m++)
			micro_batch(&job, (struct round){.step = s, .micro_batch = m});
	if (fclose(engine.truth))
		die("%s: %s", path, strerror(errno));
	free(engine.peers);
	free(said);
	return 0;
}
