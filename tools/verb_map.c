/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap map`: check a map, or load it into a running moetap-fw. */
#include "cli.h"
#include "map.h"
#include "page.h"
#include "verbs.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define RANKS_SHOWN 16u /* in text; JSON has all */

/** Bytes of a frame that one rule needs. */
static uint32_t rule_snap(const struct mt_rule *rule)
{
	struct {
		struct mt_bank bank;
		struct mt_rule rule;
	} one = {.bank = {.rules = 1, .rule_off = sizeof(one.bank)}, .rule = *rule};

	return mt_bank_snap(&one.bank);
}

static const char *address_text(const struct mt_addr *a, char text[INET6_ADDRSTRLEN])
{
	static const uint8_t v4[12] = {[10] = 0xff, [11] = 0xff};

	if (memcmp(a->ip, v4, sizeof(v4)) == 0)
		return inet_ntop(AF_INET, a->ip + 12, text, INET6_ADDRSTRLEN);
	return inet_ntop(AF_INET6, a->ip, text, INET6_ADDRSTRLEN);
}

/* ---- check, as text ---- */

static void print_rank(const struct mt_bank *b, uint32_t rank)
{
	const struct mt_rank *r = &mt_bank_ranks(b)[rank];
	char text[INET6_ADDRSTRLEN];

	if (r->experts > 0)
		printf("  rank %-8u experts %u to %u, base 0x%" PRIx64 ",", rank, r->first_expert,
			r->first_expert + r->experts - 1, r->base);
	else
		printf("  rank %-8u no experts, base 0x%" PRIx64 ",", rank, r->base);
	for (uint32_t a = 0; a < b->addrs; a++)
		if (mt_bank_addrs(b)[a].rank == rank)
			printf(" %s", address_text(&mt_bank_addrs(b)[a], text));
	putchar('\n');
}

static void print_rule(const struct mt_rule *r)
{
	printf("  %-13s %s, %s: ", r->name, mt_rule_type_name(r->type), mt_phase_name(r->phase));
	if (r->token_bytes > 0)
		printf("%u bytes a token, ", r->token_bytes);
	printf("needs %u bytes of a frame\n", rule_snap(r));
}

static void print_text(const struct mt_bank *b)
{
	printf("job             %s\n", b->job);
	printf("pattern         %s, %u layers, %u micro-batches a step\n",
		mt_pattern_name(b->pattern), b->layers, b->micro_batches);
	printf("tap             %s\n",
		b->tap == MT_TAP_ALL ? "all: every packet"
				     : "heads: only packets with RETH, ImmDt or AtomicETH");
	printf("ranks           %u, which hold %u experts\n", b->ranks, b->experts);
	for (uint32_t r = 0; r < b->ranks && r < RANKS_SHOWN; r++)
		print_rank(b, r);
	if (b->ranks > RANKS_SHOWN)
		printf("  ... and %u more (--format json)\n", b->ranks - RANKS_SHOWN);
	printf("rules           %u\n", b->rules);
	for (uint32_t i = 0; i < b->rules; i++)
		print_rule(&mt_bank_rules(b)[i]);
	printf("flows           %u named; others between the ranks are found as they come\n",
		b->flows);
	printf("snap length     %u bytes or more\n", mt_bank_snap(b));
	printf("round           %" PRIu64 " bytes of a device page\n",
		mt_slot_bytes(b->ranks, b->experts));
}

/* ---- check, as JSON ---- */

static json_t *ranks_json(const struct mt_bank *b)
{
	json_t *ranks = json_array();
	char text[INET6_ADDRSTRLEN];

	for (uint32_t i = 0; i < b->ranks; i++) {
		const struct mt_rank *r = &mt_bank_ranks(b)[i];
		char base[32]; /* text, since not every reader of JSON keeps 64 bits */

		snprintf(base, sizeof(base), "0x%" PRIx64, r->base);
		json_array_append_new(
			ranks, json_pack("{s:I, s:I, s:I, s:s, s:[]}", "rank", (json_int_t)i,
				       "first_expert", (json_int_t)r->first_expert, "experts",
				       (json_int_t)r->experts, "base", base, "addresses"));
	}
	for (uint32_t i = 0; i < b->addrs; i++) {
		const struct mt_addr *a = &mt_bank_addrs(b)[i];
		json_t *rank = json_array_get(ranks, a->rank);

		json_array_append_new(
			json_object_get(rank, "addresses"), json_string(address_text(a, text)));
	}
	return ranks;
}

static json_t *rules_json(const struct mt_bank *b)
{
	json_t *rules = json_array();

	for (uint32_t i = 0; i < b->rules; i++) {
		const struct mt_rule *r = &mt_bank_rules(b)[i];

		json_array_append_new(
			rules, json_pack("{s:s, s:s, s:s, s:I, s:I}", "name", r->name, "rule",
				       mt_rule_type_name(r->type), "phase", mt_phase_name(r->phase),
				       "token_bytes", (json_int_t)r->token_bytes, "snap_length",
				       (json_int_t)rule_snap(r)));
	}
	return rules;
}

static int print_json(const struct mt_bank *b)
{
	return cli_print_json("map check",
		json_pack("{s:s, s:s, s:I, s:I, s:s, s:I, s:o, s:o, s:I, s:I, s:I}", "job", b->job,
			"pattern", mt_pattern_name(b->pattern), "layers", (json_int_t)b->layers,
			"micro_batches", (json_int_t)b->micro_batches, "tap", mt_tap_name(b->tap),
			"experts", (json_int_t)b->experts, "ranks", ranks_json(b), "rules",
			rules_json(b), "flows", (json_int_t)b->flows, "snap_length",
			(json_int_t)mt_bank_snap(b), "round_bytes",
			(json_int_t)mt_slot_bytes(b->ranks, b->experts)));
}

static int check(int argc, char **argv)
{
	int format = 0, first, status;
	struct mt_error error;
	struct mt_bank *bank;
	const struct cli_option options[] = {
		{"format", CLI_CHOICE, &format, "text|json", "text (default) or json", false},
		{0},
	};
	const struct cli cli = {"map check", "MAP.yaml", 1,
		"Checks a map and prints what it says: ranks, rules, and the snap length that a\n"
		"capture must have for them. A wrong map is refused with its line.\n\n"
		"  moetap map check job.yaml",
		options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	if (mt_map_load(argv[first], &bank, &error) < 0)
		return cli_fail("map check", "%s", error.text);
	if (format == 0)
		print_text(bank);
	else
		status = print_json(bank);
	free(bank);
	return format == 0 ? CLI_DONE : status;
}

/* ---- load ---- */

static int load_bank(const char *page, const struct mt_bank *bank)
{
	struct mt_page_map map;
	struct mt_error error;
	int ret = mt_page_attach(&map, page, true, &error);

	if (ret < 0)
		return cli_fail("map load", "%s", error.text);
	ret = mt_page_load(&map, bank, &error);
	if (ret < 0)
		cli_fail("map load", "%s", error.text);
	else
		printf("the map of job %s is in force on page %s, as generation %u\n", bank->job,
			page, map.page->state.generation);
	mt_page_close(&map);
	return ret < 0 ? CLI_FAILED : CLI_DONE;
}

static int load(int argc, char **argv)
{
	const char *page = NULL;
	int first, status;
	struct mt_error error;
	struct mt_bank *bank;
	const struct cli_option options[] = {
		{"page", CLI_TEXT, &page, "NAME", "page of the running moetap-fw", true},
		{0},
	};
	const struct cli cli = {"map load", "MAP.yaml", 1,
		"Loads a map into a running moetap-fw, which goes on with it without missing a\n"
		"packet, and waits until it is in force. Rounds and steps then count from 0.\n\n"
		"  moetap map load --page job job.yaml",
		options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	if (mt_map_load(argv[first], &bank, &error) < 0)
		return cli_fail("map load", "%s", error.text);
	status = load_bank(page, bank);
	free(bank);
	return status;
}

/* ---- the table ---- */

static const struct verb verbs[] = {
	{"check", check, "what a map says, and whether it is right"},
	{"load", load, "into a running moetap-fw"},
};

int verb_map(int argc, char **argv)
{
	return cli_verbs("map", verbs, sizeof(verbs) / sizeof(verbs[0]), argc, argv);
}
