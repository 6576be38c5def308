/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdlib.h>
#include <string.h>

#include "config.h"

static uint32_t table_mask(uint32_t used)
{
	uint32_t size = 8;

	while (size < used * 4)
		size *= 2;
	return size - 1;
}

static bool is_v4(const uint8_t *ip)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	return memcmp(ip, mapped, sizeof(mapped)) == 0;
}

static void add_v4(struct fw_config *c, const struct mt_addr *a)
{
	uint32_t ip, i;

	memcpy(&ip, a->ip + 12, sizeof(ip));
	i = ip * 0x9e3779b1u >> 7 & c->v4_mask;
	while (c->v4[i].rank_plus_1 != 0)
		i = (i + 1) & c->v4_mask;
	c->v4[i] = (struct fw_v4){.ip = ip, .rank_plus_1 = a->rank + 1};
}

static void add_v6(struct fw_config *c, const struct mt_addr *a)
{
	uint32_t i = fw_hash_v6(a->ip) & c->v6_mask;

	while (c->v6[i].rank_plus_1 != 0)
		i = (i + 1) & c->v6_mask;
	memcpy(c->v6[i].ip, a->ip, 16);
	c->v6[i].rank_plus_1 = a->rank + 1;
}

static struct rte_reciprocal_u64 reciprocal(uint64_t d)
{
	return rte_reciprocal_value_u64(d < 2 ? 2 : d); /* 0: the field is not there */
}

static void add_rule(struct fw_config *c, const struct mt_rule *r)
{
	struct fw_rule f = {.offset = r->offset, .size = r->size,
		.parity_stride = r->parity_stride, .expert_stride = r->expert_stride,
		.source_stride = r->source_stride, .parity_div = reciprocal(r->parity_stride),
		.expert_div = reciprocal(r->expert_stride),
		.source_div = reciprocal(r->source_stride), .value_add = r->value_add,
		.value_scale = r->value_scale, .length_min = r->length_min,
		.length_span = r->length_max - r->length_min, .parity_count = r->parity_count,
		.expert_count = r->expert_count, .source_count = r->source_count,
		.expert_fixed = r->expert_fixed, .token_bytes = r->token_bytes, .type = r->type,
		.phase = r->phase, .value_width = r->value_width,
		.region = r->type <= MT_RULE_ATOMIC};

	if (r->phase == MT_PHASE_DISPATCH && !f.region && r->token_bytes != 0) {
		f.by_bytes = true;
		c->by_bytes = r->token_bytes;
	}
	if (r->phase == MT_PHASE_COUNT)
		c->by_source = false;
	if (r->phase == MT_PHASE_COMBINE && c->split == FW_SPLIT_IDLE)
		c->split = FW_SPLIT_COMBINE;
	if (r->phase == MT_PHASE_DISPATCH && r->parity_count > 1) {
		c->parity = true;
		c->split = FW_SPLIT_PARITY;
	}
	if (r->type == MT_RULE_ATOMIC) {
		c->atomic[c->atomics++] = f;
		return;
	}
	c->write[c->writes++] = f;
	if (!f.region)
		c->send[c->sends++] = f;
}

struct fw_config *fw_config_new(const struct mt_bank *bank, uint32_t generation)
{
	struct fw_config *c = calloc(1, sizeof(*c));
	struct mt_bank *copy = malloc(bank->bytes);

	if (c == NULL || copy == NULL)
		goto fail;
	memcpy(copy, bank, bank->bytes);
	c->bank = copy;
	c->generation = generation;
	c->by_source = true; /* until a rule of phase count is found */
	c->split = FW_SPLIT_IDLE;
	c->v4_mask = c->v6_mask = table_mask(copy->addrs);
	c->v4 = calloc(c->v4_mask + 1, sizeof(*c->v4));
	c->v6 = calloc(c->v6_mask + 1, sizeof(*c->v6));
	if (c->v4 == NULL || c->v6 == NULL)
		goto fail;
	for (uint32_t i = 0; i < copy->addrs; i++) {
		const struct mt_addr *a = &mt_bank_addrs(copy)[i];

		if (is_v4(a->ip))
			add_v4(c, a);
		else
			add_v6(c, a);
	}
	for (uint32_t i = 0; i < copy->rules; i++)
		add_rule(c, &mt_bank_rules(copy)[i]);
	for (uint32_t i = 0; i < copy->ranks; i++)
		c->max_experts = RTE_MAX(c->max_experts, mt_bank_ranks(copy)[i].experts);
	c->heads = copy->tap == MT_TAP_HEADS;
	c->idle_gap_ns = copy->idle_gap_ns;
	return c;
fail:
	free(copy);
	if (c != NULL) {
		c->bank = NULL;
		fw_config_free(c);
	}
	return NULL;
}

void fw_config_free(struct fw_config *c)
{
	if (c == NULL)
		return;
	free((void *)(uintptr_t)c->bank);
	free(c->v4);
	free(c->v6);
	free(c);
}
