/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * TensorRT-LLM, moe_config.load_balancer: YAML with three keys, others are refused; layers by their
 * number in the model (NVIDIA/TensorRT-LLM, tensorrt_llm/llmapi/llm_args.py,
 * MoeLoadBalancerConfig). No updates: the placement is ours.
 */
#include "export.h"

#include <errno.h>
#include <string.h>
#include <yaml.h>

static bool scalar(yaml_emitter_t *y, const char *text)
{
	yaml_event_t e;

	return yaml_scalar_event_initialize(&e, NULL, NULL, (const yaml_char_t *)text,
		       (int)strlen(text), 1, 0, YAML_PLAIN_SCALAR_STYLE) != 0 &&
	       yaml_emitter_emit(y, &e) != 0;
}

static bool number(yaml_emitter_t *y, uint32_t n)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", n);
	return scalar(y, text);
}

static bool begin_map(yaml_emitter_t *y)
{
	yaml_event_t e;

	return yaml_mapping_start_event_initialize(&e, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE) !=
		       0 &&
	       yaml_emitter_emit(y, &e) != 0;
}

static bool end_map(yaml_emitter_t *y)
{
	yaml_event_t e;

	return yaml_mapping_end_event_initialize(&e) != 0 && yaml_emitter_emit(y, &e) != 0;
}

static bool list(yaml_emitter_t *y, const uint32_t *n, uint32_t count)
{
	yaml_event_t e;
	bool good = yaml_sequence_start_event_initialize(
			    &e, NULL, NULL, 1, YAML_FLOW_SEQUENCE_STYLE) != 0 &&
		    yaml_emitter_emit(y, &e) != 0;

	for (uint32_t i = 0; good && i < count; i++)
		good = number(y, n[i]);
	return good && yaml_sequence_end_event_initialize(&e) != 0 && yaml_emitter_emit(y, &e) != 0;
}

static bool emit(yaml_emitter_t *y, const struct placement *p)
{
	yaml_event_t e;
	bool good = yaml_stream_start_event_initialize(&e, YAML_UTF8_ENCODING) != 0 &&
		    yaml_emitter_emit(y, &e) != 0 &&
		    yaml_document_start_event_initialize(&e, NULL, NULL, NULL, 1) != 0 &&
		    yaml_emitter_emit(y, &e) != 0 && begin_map(y) && scalar(y, "num_slots") &&
		    number(y, p->slots) && scalar(y, "initial_global_assignments") && begin_map(y);

	for (uint32_t l = 0; good && l < p->layers; l++)
		good = number(y, p->layer_id[l]) &&
		       list(y, p->slot_expert + (size_t)l * p->slots, p->slots);
	return good && end_map(y) && scalar(y, "layer_updates_per_iter") && number(y, 0) &&
	       end_map(y) && yaml_document_end_event_initialize(&e, 1) != 0 &&
	       yaml_emitter_emit(y, &e) != 0 && yaml_stream_end_event_initialize(&e) != 0 &&
	       yaml_emitter_emit(y, &e) != 0;
}

static int write_trtllm(const struct placement *p, FILE *out)
{
	yaml_emitter_t y;
	bool good;

	if (yaml_emitter_initialize(&y) == 0)
		return -ENOMEM;
	yaml_emitter_set_output_file(&y, out);
	yaml_emitter_set_width(&y, -1);
	good = emit(&y, p);
	yaml_emitter_delete(&y);
	return good ? 0 : -EIO;
}

const struct exporter export_trtllm = {
	.name = "tensorrt-llm",
	.title = "YAML for moe_config.load_balancer; layers as the model numbers them",
	.write = write_trtllm,
};
