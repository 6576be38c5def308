/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file export.h: placements in the files that others read. An exporter is a file and a line in
 * the table of export.c.
 */
#ifndef MOETAP_EXPORT_H
#define MOETAP_EXPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

/** What is exported. */
struct placement {
	uint32_t layers, experts, ranks, slots;
	const uint32_t *slot_expert; /**< [layers][slots] */
	const uint32_t *layer_id;    /**< [layers], in the model, rising */
	uint32_t hidden_layers;	     /**< of the model, those without experts too */
};

struct exporter {
	const char *name, *title;
	/** Writes the whole file. @return 0 or a negative errno */
	int (*write)(const struct placement *p, FILE *out);
};

extern const struct exporter export_ascend, export_csv, export_eplb, export_sglang, export_trtllm,
	export_vllm;

/** The exporter of that name, NULL: there is none. */
const struct exporter *export_find(const char *name);

/** The i-th exporter, NULL past the last one. */
const struct exporter *export_at(uint32_t i);

/**
 * Replaces `path` ("-": standard output) by what the exporter writes: readers see the old file or
 * the new one, whole. @return exit status of the verb, which is told what is wrong
 */
int export_to(
	const char *verb, const struct exporter *x, const struct placement *p, const char *path);

/** Expert of slot @p s in layer @p layer of the model, where slots of layers without experts are
 * taken to hold expert s modulo experts, as frameworks start. */
uint32_t export_slot(const struct placement *p, uint32_t layer, uint32_t s);

/** Slots of a layer from `first` on as a JSON array. */
json_t *export_row(const uint32_t *slot_expert, uint32_t n);

/** Writes JSON and gives it up. @return 0 or a negative errno */
int export_json(json_t *root, FILE *out);

#endif
