/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vLLM, eplb_config.initial_expert_map_path as proposed in vllm-project/vllm pull request 49572: a
 * list for each layer with experts, of experts by slot.
 */
#include "export.h"

static int write_vllm(const struct placement *p, FILE *out)
{
	json_t *map = json_array();

	for (uint32_t l = 0; l < p->layers; l++)
		json_array_append_new(
			map, export_row(p->slot_expert + (size_t)l * p->slots, p->slots));
	return export_json(map, out);
}

const struct exporter export_vllm = {
	.name = "vllm",
	.title = "JSON for initial_expert_map_path, as proposed; a list a layer with experts",
	.write = write_vllm,
};
