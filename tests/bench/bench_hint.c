/* SPDX-License-Identifier: BSD-3-Clause */
/* What a job pays for a hint: nanoseconds a read, beside memcpy() of the same bytes. */
#include <errno.h>
#include <stdlib.h>

#include "moetap.h"
#include "moetap_hint.h"

#define LAYERS 61
#define EXPERTS 256
#define REPEATS 7
static const struct moetap_shape shape = {.ranks = 32, .nodes = 4, .slots = 288, .groups = 1};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/** Publishes one hint of even loads. Returns 0 or a negative errno. */
static int publish(const char *name)
{
	double *tokens = malloc(LAYERS * EXPERTS * sizeof(*tokens));
	struct moetap_decision decision = {0};
	struct moetap_publisher *publisher;
	struct moetap_forecast *forecast;
	struct moetap_series *series;
	struct moetap_state *state;
	struct moetap_plan *plan;
	int ret = 0;

	if (tokens == NULL)
		return -ENOMEM;
	for (int c = 0; c < LAYERS * EXPERTS; c++)
		tokens[c] = 1 + c % 7;
	if (moetap_series_new(LAYERS, EXPERTS, 0, &series, NULL) < 0)
		return -ENOMEM;
	for (int step = 0; step < 20 && ret == 0; step++)
		ret = moetap_series_add_step(series, step, tokens, NULL, NULL);
	free(tokens);
	if (ret < 0 || moetap_state_new(LAYERS, &state) < 0 ||
		moetap_forecast_make(series, 19, NULL, 10, 0, &forecast, NULL) < 0 ||
		moetap_plan_trivial(&shape, LAYERS, EXPERTS, &plan, NULL) < 0 ||
		moetap_publisher_open(name, LAYERS, EXPERTS, &shape, &publisher, NULL) < 0)
		return -EIO;
	ret = moetap_publisher_publish(publisher, state, forecast, plan, &decision, NULL);
	moetap_publisher_close(publisher);
	moetap_plan_free(plan);
	moetap_forecast_free(forecast);
	moetap_state_free(state);
	moetap_series_free(series);
	return ret;
}

/** Best of some runs of `times` reads of a kind; kind 0: of all, KINDS: of nothing, changed(). */
static double read_ns(
	struct moetap_hint_reader *reader, uint32_t kind, unsigned char *buffer, uint32_t times)
{
	double best = 1e18;

	for (int r = 0; r < REPEATS; r++) {
		double start = now(), took;
		int failed = 0;

		for (uint32_t i = 0; i < times; i++)
			if (kind == MOETAP_HINT_KINDS)
				failed |= moetap_hint_changed(reader);
			else if (kind == 0)
				failed |= moetap_hint_read(reader, buffer);
			else
				failed |= moetap_hint_row(reader, kind, i % LAYERS, buffer, NULL);
		took = (now() - start) / times;
		if (failed != 0)
			return -1;
		best = took < best ? took : best;
	}
	return best;
}

static double copy_ns(
	const struct moetap_hint_reader *reader, size_t bytes, unsigned char *buffer, uint32_t times)
{
	const unsigned char *from = reader->page + moetap_hint_head(reader)->bank_offset[1];
	size_t room = moetap_hint_bytes(reader) / bytes;
	double best = 1e18;

	for (int r = 0; r < REPEATS; r++) {
		double start = now(), took;

		for (uint32_t i = 0; i < times; i++) {
			memcpy(buffer, from + i % (room < LAYERS ? room : LAYERS) * bytes, bytes);
			__asm__ volatile("" : : "r"(buffer) : "memory");
		}
		took = (now() - start) / times;
		best = took < best ? took : best;
	}
	return best;
}

int main(void)
{
	const struct {
		const char *name;
		uint32_t kind, times;
	} reads[] = {{"changed", MOETAP_HINT_KINDS, 2000000},
		{"placement of a layer", MOETAP_HINT_PLACEMENT, 500000},
		{"shares of a layer", MOETAP_HINT_SHARE, 500000},
		{"bias of a layer", MOETAP_HINT_BIAS, 500000}, {"whole hint", 0, 100}};
	struct moetap_hint_reader reader;
	unsigned char *buffer;
	char name[40];

	snprintf(name, sizeof(name), "bench-%d", getpid());
	if (publish(name) < 0 || moetap_hint_open(&reader, name) < 0)
		return 1;
	buffer = malloc(moetap_hint_bytes(&reader));
	if (buffer == NULL || moetap_hint_read(&reader, buffer) < 0)
		return 1;
	printf("%-22s %9s %12s %12s %6s\n", "read", "bytes", "ns", "ns memcpy", "ratio");
	for (size_t i = 0; i < sizeof(reads) / sizeof(reads[0]); i++) {
		uint32_t kind = reads[i].kind;
		size_t bytes = kind == MOETAP_HINT_KINDS ? 8
			       : kind == 0		 ? moetap_hint_bytes(&reader)
					   : (size_t)reader.kind[kind].columns * reader.kind[kind].element;
		double ns = read_ns(&reader, kind, buffer, reads[i].times);
		double copy = copy_ns(&reader, bytes, buffer, reads[i].times);

		if (ns < 0)
			return 1;
		printf("%-22s %9zu %12.1f %12.1f %6.1f\n", reads[i].name, bytes, ns, copy, ns / copy);
	}
	free(buffer);
	moetap_hint_close(&reader);
	return moetap_hint_remove(name, NULL) < 0;
}
