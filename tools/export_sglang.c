/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * SGLang, --init-expert-location FILE.json: one key, and a row for every layer of the model, those
 * without experts too (sgl-project/sglang, python/sglang/srt/eplb/expert_location.py).
 */
#include "export.h"

static int write_sglang(const struct placement *p, FILE *out)
{
	json_t *map = json_array();

	for (uint32_t l = 0; l < p->hidden_layers; l++) {
		json_t *row = json_array();

		for (uint32_t s = 0; s < p->slots; s++)
			json_array_append_new(row, json_integer(export_slot(p, l, s)));
		json_array_append_new(map, row);
	}
	return export_json(json_pack("{s:o}", "physical_to_logical_map", map), out);
}

const struct exporter export_sglang = {
	.name = "sglang",
	.title = "JSON for --init-expert-location; a row for every layer of the model",
	.write = write_sglang,
};
