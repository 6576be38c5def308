/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The smallest job that takes hints: waits for a hint on the page argv[1] and prints its
 * generation, its verdict and the placement of layer 0. Links nothing but libc.
 */
#include <stdlib.h>
#include <time.h>

#include "moetap_hint.h"

static void print(const struct moetap_hint *hint)
{
	printf("%llu %s", (unsigned long long)hint->generation,
		hint->verdict == MOETAP_HINT_PLAN ? "plan" : "keep");
	for (uint32_t s = 0; s < hint->slots; s++)
		printf(" %u", moetap_hint_placement(hint, 0)[s]);
	putchar('\n');
}

int main(int argc, char **argv)
{
	const struct timespec step = {.tv_nsec = 1000 * 1000};
	struct moetap_hint_reader reader;
	void *buffer;
	int ret;

	if (argc != 2)
		return 2;
	ret = moetap_hint_open(&reader, argv[1]);
	if (ret < 0) {
		fprintf(stderr, "%s: %s\n", argv[1], strerror(-ret));
		return 1;
	}
	buffer = malloc(moetap_hint_bytes(&reader));
	if (buffer == NULL)
		return 1;
	while (!moetap_hint_changed(&reader))
		nanosleep(&step, NULL);
	ret = moetap_hint_read(&reader, buffer);
	if (ret == 0)
		print((const struct moetap_hint *)buffer);
	free(buffer);
	moetap_hint_close(&reader);
	return ret == 0 ? 0 : 1;
}
