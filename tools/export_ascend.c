/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vLLM-Ascend, eplb_config.expert_map_path: layers with experts, counted from 0, and the experts of
 * each device (vllm-project/vllm-ascend, vllm_ascend/eplb/core/eplb_utils.py).
 */
#include "export.h"

static json_t *layer_json(const struct placement *p, uint32_t layer)
{
	const uint32_t *slot = p->slot_expert + (size_t)layer * p->slots;
	uint32_t a_rank = p->slots / p->ranks;
	json_t *devices = json_array();

	for (uint32_t r = 0; r < p->ranks; r++)
		json_array_append_new(devices,
			json_pack("{s:I, s:o}", "device_id", (json_int_t)r, "device_expert",
				export_row(slot + (size_t)r * a_rank, a_rank)));
	return json_pack("{s:I, s:I, s:o}", "layer_id", (json_int_t)layer, "device_count",
		(json_int_t)p->ranks, "device_list", devices);
}

static int write_ascend(const struct placement *p, FILE *out)
{
	json_t *layers = json_array();

	for (uint32_t l = 0; l < p->layers; l++)
		json_array_append_new(layers, layer_json(p, l));
	return export_json(json_pack("{s:I, s:o}", "moe_layer_count", (json_int_t)p->layers,
				   "layer_list", layers),
		out);
}

const struct exporter export_ascend = {
	.name = "vllm-ascend",
	.title = "JSON for expert_map_path; experts of each device",
	.write = write_ascend,
};
