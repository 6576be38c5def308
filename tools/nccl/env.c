/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An environment plugin of NCCL: answers NCCL's variables of the network from a hint page, with no
 * change to the job.
 *
 *	MOETAP_HINT_PAGE=my-job NCCL_ENV_PLUGIN=moetap python3 train.py
 *
 * NCCL (2.28 and later) asks it for each variable, and keeps what it gets at the first time for as
 * long as the process lives; so hints act on the next start of a job. Whatever the environment says
 * counts for more than the hint. Without a page, or with a hint that is stale or says nothing of the
 * network, it answers as the environment does.
 *
 * The interface: NCCL, plugins/env/README.md, plugins/env/example/nccl/env_v1.h and env_v2.h.
 * Variables: NCCL's user guide, "Environment Variables".
 */
#include "moetap_hint.h"

#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))
#define NCCL_SUCCESS 0 /* of ncclResult_t */
#define NCCL_LOG_INFO 3
#define NCCL_ENV 128ul

typedef void logger(int level, unsigned long flags, const char *file, int line, const char *format, ...);

struct env_v1 {
	const char *name;
	int (*init)(uint8_t major, uint8_t minor, uint8_t patch, const char *suffix);
	int (*finalize)(void);
	const char *(*get_env)(const char *name);
};

struct env_v2 {
	const char *name;
	int (*init)(uint8_t major, uint8_t minor, uint8_t patch, const char *suffix, logger *log);
	int (*finalize)(void);
	const char *(*get_env)(const char *name);
};

/** What is answered; "" is nothing. Filled by init, and constant from then on, as NCCL wants it. */
static struct {
	const char *name;
	char value[16];
} answers[] = {{"NCCL_IB_QPS_PER_CONNECTION", ""}, {"NCCL_IB_TC", ""}};

enum { QUEUE_PAIRS, TRAFFIC_CLASS, ANSWERS };

/** The largest of all layers: a connection serves them all. */
static void take_hint(const struct moetap_hint *hint)
{
	uint32_t queue_pairs = 0;
	int32_t traffic_class = -1;

	for (uint32_t l = 0; l < hint->layers; l++) {
		const struct moetap_hint_network *n = moetap_hint_network(hint, l);

		if (n == NULL)
			return;
		queue_pairs = n->queue_pairs > queue_pairs ? n->queue_pairs : queue_pairs;
		traffic_class = n->traffic_class > traffic_class ? n->traffic_class : traffic_class;
	}
	if (queue_pairs > 0)
		snprintf(answers[QUEUE_PAIRS].value, sizeof(answers->value), "%u", queue_pairs);
	if (traffic_class >= 0)
		snprintf(answers[TRAFFIC_CLASS].value, sizeof(answers->value), "%d", traffic_class);
}

/** Reads the page's newest hint. Steps begin anew with the job, so only its clock makes it stale. */
static const char *read_page(const char *page)
{
	struct moetap_hint_reader reader;
	struct moetap_hint *hint;
	const char *what = "no hint";

	if (moetap_hint_open(&reader, page) < 0)
		return "no hint page";
	hint = malloc(moetap_hint_bytes(&reader));
	if (hint != NULL && moetap_hint_read(&reader, hint) == 0) {
		what = "a stale hint";
		if (moetap_hint_stale(&reader, hint, 0, 0) == 0) {
			take_hint(hint);
			what = "a hint";
		}
	}
	free(hint);
	moetap_hint_close(&reader);
	return what;
}

static int init_v2(uint8_t major, uint8_t minor, uint8_t patch, const char *suffix, logger *log)
{
	const char *page = getenv("MOETAP_HINT_PAGE"), *what = "no page: MOETAP_HINT_PAGE is not set";

	(void)major, (void)minor, (void)patch, (void)suffix;
	if (page != NULL)
		what = read_page(page);
	if (log != NULL)
		log(NCCL_LOG_INFO, NCCL_ENV, __FILE__, __LINE__,
			"moetap: %s (%s): queue pairs a connection '%s', traffic class '%s'", what,
			page != NULL ? page : "", answers[QUEUE_PAIRS].value,
			answers[TRAFFIC_CLASS].value);
	return NCCL_SUCCESS;
}

static int init_v1(uint8_t major, uint8_t minor, uint8_t patch, const char *suffix)
{
	return init_v2(major, minor, patch, suffix, NULL);
}

static int finalize(void)
{
	return NCCL_SUCCESS;
}

static const char *get_env(const char *name)
{
	const char *said = getenv(name);

	for (int i = 0; said == NULL && i < ANSWERS; i++)
		if (answers[i].value[0] != '\0' && strcmp(name, answers[i].name) == 0)
			return answers[i].value;
	return said;
}

EXPORT const struct env_v1 ncclEnvPlugin_v1 = {"moetap", init_v1, finalize, get_env};
EXPORT const struct env_v2 ncclEnvPlugin_v2 = {"moetap", init_v2, finalize, get_env};
