/* SPDX-License-Identifier: BSD-3-Clause */
#include "export.h"

static int write_csv(const struct placement *p, FILE *out)
{
	fprintf(out, "layer,slot,rank,expert\n");
	for (uint32_t l = 0; l < p->layers; l++)
		for (uint32_t s = 0; s < p->slots; s++)
			fprintf(out, "%u,%u,%u,%u\n", p->layer_id[l], s, s / (p->slots / p->ranks),
				p->slot_expert[(size_t)l * p->slots + s]);
	return 0;
}

const struct exporter export_csv = {
	.name = "csv",
	.title = "layer,slot,rank,expert; layers as the model numbers them",
	.write = write_csv,
};
