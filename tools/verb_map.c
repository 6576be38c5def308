/* SPDX-License-Identifier: BSD-3-Clause */
/* `moetap map`: check a map, load it into a running moetap-fw, or show presets. */
#include "cli.h"
#include "map.h"
#include "page.h"
#include "preset.h"
#include "verbs.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define RANKS_SHOWN 16u /* in text; JSON has all */

/* ---- check, as text ---- */

/** Ranks whose tokens for the experts of a rank the tap sees, by the map. */
static uint32_t sources_seen(const struct mt_bank *b, uint32_t rank)
{
	uint32_t n = 0;

	for (uint32_t src = 0; src < b->ranks; src++)
		n += mt_bank_crosses(b, src, rank) != 0;
	return n;
}

/** Whether the map has nodes of several ranks. */
static bool has_nodes(const struct mt_bank *b)
{
	for (uint32_t i = 0; i < b->ranks; i++)
		if (mt_bank_ranks(b)[i].node != i)
			return true;
	return false;
}

static void print_sources(const struct mt_bank *b)
{
	uint32_t least = UINT32_MAX, most = 0;

	for (uint32_t i = 0; i < b->ranks; i++) {
		uint32_t n = sources_seen(b, i);

		if (mt_bank_ranks(b)[i].experts == 0)
			continue;
		least = n < least ? n : least;
		most = n > most ? n : most;
	}
	printf("sources seen    ");
	if (least < most)
		printf("%u to ", least);
	printf("%u of %u, of every expert; a rank's tokens for itself cross no NIC%s\n", most,
		b->ranks,
		has_nodes(b) && b->within_node == MT_WITHIN_UNSEEN ? ", nor do those within a node"
								   : "");
}

static void print_rank(const struct mt_bank *b, uint32_t rank)
{
	const struct mt_rank *r = &mt_bank_ranks(b)[rank];
	char text[INET6_ADDRSTRLEN];

	if (r->experts > 0)
		printf("  rank %-8u experts %u to %u, base 0x%" PRIx64 ",", rank, r->first_expert,
			r->first_expert + r->experts - 1, r->base);
	else
		printf("  rank %-8u no experts, base 0x%" PRIx64 ",", rank, r->base);
	if (has_nodes(b))
		printf(" node %u,", r->node);
	for (uint32_t i = 0; i < b->bases; i++)
		printf(" %s 0x%" PRIx64 ",", mt_bank_base(b, i)->name,
			mt_bank_base(b, i)->at[rank]);
	for (uint32_t a = 0; a < b->addrs; a++)
		if (mt_bank_addrs(b)[a].rank == rank)
			printf(" %s", mt_ip_text(mt_bank_addrs(b)[a].ip, text));
	putchar('\n');
}

static void print_rule(const struct mt_bank *b, const struct mt_rule *r)
{
	const char *role = mt_rule_role(b, r);

	printf("  %-13s %s, %s: ", r->name, mt_rule_type_name(r->type), mt_phase_name(r->phase));
	if (role != NULL)
		printf("%s, ", role);
	if (r->token_bytes > 0)
		printf("%u bytes a token, ", r->token_bytes);
	printf("needs %u bytes of a frame\n", mt_rule_snap(b, r));
}

/** Of atomics that are not, or need not be, the standard ones. */
static void print_form(const struct mt_bank *b)
{
	const struct mt_form *f = &b->form;

	if (b->atomics == MT_ATOMICS_LEARN)
		puts("atomics         of any form, to be learnt from the traffic");
	if (b->atomics == MT_ATOMICS_FORM)
		printf("atomics         also opcode 0x%02x of %u bytes: address at %u, operand of "
		       "%u bytes at %u, %s-endian\n",
			f->opcode, f->length, f->address, f->width, f->operand,
			mt_order_name(f->order));
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
	print_sources(b);
	printf("rules           %u\n", b->rules);
	for (uint32_t i = 0; i < b->rules; i++)
		print_rule(b, &mt_bank_rules(b)[i]);
	print_form(b);
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
		json_t *bases = json_object();
		char base[32]; /* text, since not every reader of JSON keeps 64 bits */

		for (uint32_t n = 0; n < b->bases; n++) {
			const struct mt_base *named = mt_bank_base(b, n);

			snprintf(base, sizeof(base), "0x%" PRIx64, named->at[i]);
			json_object_set_new(bases, named->name, json_string(base));
		}
		snprintf(base, sizeof(base), "0x%" PRIx64, r->base);
		json_array_append_new(ranks,
			json_pack("{s:I, s:I, s:I, s:I, s:I, s:s, s:o, s:[]}", "rank",
				(json_int_t)i, "first_expert", (json_int_t)r->first_expert,
				"experts", (json_int_t)r->experts, "node", (json_int_t)r->node,
				"sources_seen", (json_int_t)sources_seen(b, i), "base", base, "bases", bases, "addresses"));
	}
	for (uint32_t i = 0; i < b->addrs; i++) {
		const struct mt_addr *a = &mt_bank_addrs(b)[i];
		json_t *rank = json_array_get(ranks, a->rank);

		json_array_append_new(
			json_object_get(rank, "addresses"), json_string(mt_ip_text(a->ip, text)));
	}
	return ranks;
}

static json_t *rules_json(const struct mt_bank *b)
{
	json_t *rules = json_array();

	for (uint32_t i = 0; i < b->rules; i++) {
		const struct mt_rule *r = &mt_bank_rules(b)[i];

		json_array_append_new(
			rules, json_pack("{s:s, s:s, s:s, s:s?, s:I, s:I}", "name", r->name, "rule",
				       mt_rule_type_name(r->type), "phase", mt_phase_name(r->phase),
				       "role", mt_rule_role(b, r), "token_bytes",
				       (json_int_t)r->token_bytes, "snap_length",
				       (json_int_t)mt_rule_snap(b, r)));
	}
	return rules;
}

static json_t *form_json(const struct mt_bank *b)
{
	const struct mt_form *f = &b->form;

	if (b->atomics != MT_ATOMICS_FORM)
		return json_string(mt_atomics_name(b->atomics));
	return json_pack("{s:i, s:i, s:i, s:i, s:i, s:s}", "opcode", f->opcode, "length", f->length,
		"address", f->address, "operand", f->operand, "width", f->width, "order",
		mt_order_name(f->order));
}

static int print_json(const struct mt_bank *b)
{
	return cli_print_json("map check",
		json_pack("{s:s, s:s, s:I, s:I, s:s, s:s, s:o, s:I, s:o, s:o, s:I, s:I, s:I}", "job",
			b->job,
			"pattern", mt_pattern_name(b->pattern), "layers", (json_int_t)b->layers,
			"micro_batches", (json_int_t)b->micro_batches, "tap", mt_tap_name(b->tap),
			"within_node", mt_within_name(b->within_node),
			"atomic_form", form_json(b), "experts", (json_int_t)b->experts, "ranks", ranks_json(b), "rules",
			rules_json(b), "flows", (json_int_t)b->flows, "snap_length",
			(json_int_t)mt_bank_snap(b), "round_bytes",
			(json_int_t)mt_slot_bytes(b->ranks, b->experts)));
}

/* ---- check, as a plain map ---- */

/** A text in quotes, as YAML and JSON both read it. */
static void show_quoted(const char *text)
{
	json_t *string = json_string(text);
	char *quoted = json_dumps(string, JSON_ENCODE_ANY);

	fputs(quoted != NULL ? quoted : "\"\"", stdout);
	free(quoted);
	json_decref(string);
}

static void show_text(const char *key, const char *text)
{
	printf("%s: ", key);
	show_quoted(text);
	putchar('\n');
}

/** The n-th named base of a rank, inside of the rank's line. */
static void show_base(const struct mt_bank *b, uint32_t n, uint32_t rank)
{
	const struct mt_base *base = mt_bank_base(b, n);

	printf(n == 0 ? ", bases: {" : ", ");
	show_quoted(base->name);
	printf(": 0x%" PRIx64, base->at[rank]);
}

static void show_ranks(const struct mt_bank *b)
{
	char text[INET6_ADDRSTRLEN];

	printf("ranks:\n");
	for (uint32_t i = 0; i < b->ranks; i++) {
		const struct mt_rank *r = &mt_bank_ranks(b)[i];
		const char *separator = "";

		printf("  - {rank: %u, address: [", i);
		for (uint32_t a = 0; a < b->addrs; a++) {
			if (mt_bank_addrs(b)[a].rank != i)
				continue;
			printf("%s\"%s\"", separator, mt_ip_text(mt_bank_addrs(b)[a].ip, text));
			separator = ", ";
		}
		printf("], base: 0x%" PRIx64, r->base);
		for (uint32_t n = 0; n < b->bases; n++)
			show_base(b, n, i);
		printf("%s, experts: [%u, %u]", b->bases > 0 ? "}" : "", r->first_expert,
			r->experts);
		if (has_nodes(b))
			printf(", node: %u", r->node);
		printf("}\n");
	}
}

static void show_field(const char *name, uint64_t stride, uint32_t count, const char *more)
{
	if (count > 0)
		printf("    %s: {stride: %" PRIu64 ", count: %u%s}\n", name, stride, count, more);
}

static void show_imm(const struct mt_rule *r)
{
	printf("    imm: {mask: 0x%x, value: 0x%x}\n    place: {shift: %u, bits: %u, unit: %u}\n",
		r->imm_mask, r->imm_value, r->place_shift, r->place_bits, r->place_unit);
	if (r->value_scale != 0)
		printf("    value: {scale: %d, add: %" PRId64
		       ", shift: %u, bits: %u, signed: %u}\n",
			r->value_scale, r->value_add, r->operand_shift, r->operand_bits,
			r->value_signed);
}

static void show_payload(const struct mt_rule *r)
{
	printf("    payload: {at: %u, width: %u, encoding: %s, of: %s", r->payload_at,
		r->value_width, mt_encoding_name(r->encoding), mt_of_name(r->of));
	if (r->payload_count > 0)
		printf(", count: %u, stride: %u", r->payload_count, r->payload_stride);
	printf("}\n");
}

static void show_number(const char *name, const struct mt_field *f, bool always)
{
	if (f->width > 0)
		printf("      %s: {at: %u, width: %u, order: %s, add: %d}\n", name, f->at, f->width,
			mt_order_name(f->order), f->add);
	else if (f->add != 0 || always)
		printf("      %s: {add: %d}\n", name, f->add);
}

static void show_matches(const struct mt_rule *r, const char *indent)
{
	if (r->matches > 0)
		printf("%smatch:\n", indent);
	for (uint32_t i = 0; i < r->matches; i++) {
		const struct mt_match *m = &r->match[i];

		printf("%s  - {at: %u, width: %u, order: %s, mask: 0x%" PRIx64
		       ", value: 0x%" PRIx64,
			indent, m->at, m->width, mt_order_name(m->order), m->mask, m->value);
		if (m->modulo > 0)
			printf(", modulo: %u", m->modulo);
		printf("}\n");
	}
}

static void show_frame(const struct mt_bank *b, const struct mt_rule *r)
{
	printf("    frame:\n      header: %u\n", r->header);
	show_number("length", &r->frame_length, !b->datagrams);
	show_matches(r, "      ");
	show_number("bytes", &r->frame_bytes,
		!b->datagrams && r->phase == MT_PHASE_DISPATCH && !mt_rule_has_integers(r));
	show_number("round", &r->frame_round, false);
	if (mt_rule_has_integers(r))
		show_payload(r);
	else if (r->phase == MT_PHASE_DISPATCH)
		printf("    expert: {fixed: %u}\n", r->expert_fixed);
}

static void show_rule(const struct mt_bank *b, const struct mt_rule *r)
{
	show_text("  - name", r->name);
	printf("    rule: %s\n    phase: %s\n", mt_rule_type_name(r->type),
		mt_phase_name(r->phase));
	if (r->length_min == r->length_max)
		printf("    length: %u\n", r->length_min);
	else if (r->length_max != UINT32_MAX)
		printf(r->length_step != 0 ? "    length: [%u, %u, %u]\n" : "    length: [%u, %u]\n",
			r->length_min, r->length_max, r->length_step);
	if (r->base > 0)
		show_text("    base", mt_bank_base(b, r->base - 1u)->name);
	if (r->size > 0)
		printf("    offset: %" PRIu64 "\n    size: %" PRIu64 "\n", r->offset, r->size);
	show_field("parity", r->parity_stride, r->parity_count, "");
	show_field("expert", r->expert_stride, r->expert_count, ", of: dst");
	if (r->type == MT_RULE_LENGTH && r->phase == MT_PHASE_DISPATCH)
		printf("    expert: {fixed: %u}\n", r->expert_fixed);
	show_field("source", r->source_stride, r->source_count, "");
	if (r->token_bytes > 0)
		printf("    token-bytes: %u\n", r->token_bytes);
	if (r->type == MT_RULE_IMM)
		show_imm(r);
	else if (r->value_scale != 0)
		printf("    value: {scale: %d, add: %" PRId64 ", width: %u}\n", r->value_scale,
			r->value_add, r->value_width);
	if (r->when != MT_WHEN_ANY)
		printf("    when: %s\n", mt_when_name(r->when));
	if (r->announcers != 0)
		printf("    announcers: %u\n", r->announcers);
	if (r->immediate != MT_IMMEDIATE_ANY)
		printf("    immediate: %s\n", mt_immediate_name(r->immediate));
	if (mt_rule_matches(r))
		show_matches(r, "    ");
	if (mt_rule_reads_payload(r))
		show_payload(r);
	if (r->type == MT_RULE_FLOW)
		show_frame(b, r);
}

/** Every number of a map: without formulas and preset, it compiles to the same bank. */
static void show(const struct mt_bank *b)
{
	printf("moetap-map: 1\n");
	show_text("job", b->job);
	printf("pattern: %s\nlayers: %u\nmicro-batches: %u\ntap: %s\nidle-gap-us: %" PRIu64 "\n",
		mt_pattern_name(b->pattern), b->layers, b->micro_batches, mt_tap_name(b->tap),
		b->idle_gap_ns / 1000);
	if (b->atomics == MT_ATOMICS_FORM)
		printf("atomic-form: {opcode: 0x%02x, length: %u, address: %u, operand: %u, "
		       "width: %u, order: %s}\n",
			b->form.opcode, b->form.length, b->form.address, b->form.operand,
			b->form.width, mt_order_name(b->form.order));
	else if (b->atomics != MT_ATOMICS_STANDARD)
		printf("atomic-form: %s\n", mt_atomics_name(b->atomics));
	if (b->path_mtu != 0)
		printf("path-mtu: %u\n", b->path_mtu);
	if (b->datagrams)
		printf("udp: {ports: [%u, %u]}\n", b->port_min, b->port_max);
	else if (mt_bank_rules(b)->type == MT_RULE_FLOW)
		printf("tcp: {ports: [%u, %u], connect: %u, accept: %u}\n", b->port_min, b->port_max,
			b->connect_bytes, b->accept_bytes);
	if (has_nodes(b))
		printf("within-node: %s\n", mt_within_name(b->within_node));
	show_ranks(b);
	printf("rules:\n");
	for (uint32_t i = 0; i < b->rules; i++)
		show_rule(b, &mt_bank_rules(b)[i]);
	if (b->flows > 0)
		printf("flows:\n");
	for (uint32_t i = 0; i < b->flows; i++) {
		const struct mt_flow *f = &mt_bank_flows(b)[i];

		printf("  - {src: %u, dst: %u, qpn: 0x%x", f->src, f->dst, f->qpn);
		if (f->expert != MT_NO_EXPERT)
			printf(", expert: %u", f->expert);
		printf("}\n");
	}
}

static int check(int argc, char **argv)
{
	bool shown = false;
	int format = 0, first, status;
	struct mt_error error;
	struct mt_bank *bank;
	const struct cli_option options[] = {
		{"format", CLI_CHOICE, &format, "text|json", "text (default) or json", false},
		{"show", CLI_FLAG, &shown, NULL, "print a map with every number instead", false},
		{0},
	};
	const struct cli cli = {"map check", "MAP.yaml", 1,
		"Checks a map and prints what it says: ranks, rules, and the snap length that a\n"
		"capture must have for them. A wrong map is refused with its line. With --show "
		"the\n"
		"map is printed as a map: what formulas and a preset come to.\n\n"
		"  moetap map check job.yaml",
		options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	if (shown && format != 0)
		return cli_usage(&cli, "--show prints a map, and no JSON");
	if (mt_map_load(argv[first], &bank, &error) < 0)
		return cli_fail("map check", "%s", error.text);
	if (shown)
		show(bank);
	else if (format == 0)
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

/* ---- presets ---- */

/** A number as JSON; as text where JSON's readers would not keep it. */
static json_t *number_json(mt_number value)
{
	char text[MT_FORMULA_TEXT_LEN];

	if (value > -(1LL << 53) && value < 1LL << 53)
		return json_integer((json_int_t)value);
	return json_string(mt_number_text(value, text));
}

static json_t *parameters_json(const struct mt_preset *p)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < p->parameters; i++) {
		const struct mt_parameter *q = &p->parameter[i];
		json_t *words = json_object();

		for (unsigned int w = 0; w < q->words; w++)
			json_object_set_new(words, q->word[w].word, number_json(q->word[w].value));
		json_array_append_new(list,
			json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "name", q->name, "about",
				q->about, "default",
				q->required ? json_null() : number_json(q->value), "min",
				number_json(q->min), "max", number_json(q->max), "words", words));
	}
	return list;
}

static void print_parameter(const struct mt_parameter *p)
{
	char text[MT_FORMULA_TEXT_LEN];

	printf("  %-15s %s\n  %-15s ", p->name, p->about, "");
	for (unsigned int i = 0; i < p->words; i++)
		printf("%s%s", i > 0 ? " or " : "", p->word[i].word);
	if (p->words == 0) {
		printf("%s", mt_number_text(p->min, text));
		if (p->max == MT_NUMBER_MAX)
			printf(" or more");
		else
			printf(" to %s", mt_number_text(p->max, text));
	}
	if (p->required)
		printf("; required\n");
	else
		printf("; %s if not given\n", mt_parameter_text(p, p->value, text));
}

static int show_preset(const char *name, bool json)
{
	struct mt_preset *p = malloc(sizeof(*p));
	struct mt_error error;
	int status = CLI_DONE;

	if (p == NULL)
		return cli_fail("map presets", "out of memory");
	if (mt_preset_load(name, p, &error) < 0) {
		status = cli_fail("map presets", "%s", error.text);
	} else if (json) {
		status = cli_print_json(
			"map presets", json_pack("{s:s, s:s, s:s, s:s, s:o}", "name", name, "about",
					       p->about, "source", p->source, "file", p->path,
					       "parameters", parameters_json(p)));
	} else {
		printf("preset          %s\nabout           %s\nsource          %s\n"
		       "file            %s\nparameters      %u\n",
			name, p->about, p->source, p->path, p->parameters);
		for (unsigned int i = 0; i < p->parameters; i++)
			print_parameter(&p->parameter[i]);
	}
	free(p);
	return status;
}

static int is_preset(const struct dirent *entry)
{
	size_t length = strlen(entry->d_name);

	return entry->d_name[0] != '.' && length > 5 &&
	       strcmp(entry->d_name + length - 5, ".yaml") == 0;
}

/** By name: '.' of the ending is behind '-', so that 'a' would be behind 'a-b'. */
static int by_name(const struct dirent **x, const struct dirent **y)
{
	size_t nx = strlen((*x)->d_name) - 5, ny = strlen((*y)->d_name) - 5;
	int order = memcmp((*x)->d_name, (*y)->d_name, nx < ny ? nx : ny);

	return order != 0 ? order : (nx > ny) - (nx < ny);
}

/** Prints one preset, or adds it to @p list; a wrong one is told. Returns an exit status. */
static int list_preset(char *name, struct mt_preset *p, json_t *list)
{
	struct mt_error error;

	name[strlen(name) - 5] = '\0';
	if (mt_preset_load(name, p, &error) < 0)
		return cli_fail("map presets", "%s", error.text);
	if (list != NULL)
		json_array_append_new(
			list, json_pack("{s:s, s:s}", "name", name, "about", p->about));
	else
		printf("%-15s %s\n", name, p->about);
	return CLI_DONE;
}

static int list_presets(bool json)
{
	json_t *list = json ? json_array() : NULL;
	struct mt_preset *p = malloc(sizeof(*p));
	struct dirent **entries;
	int status = CLI_DONE, n;
	char folder[4096];

	n = scandir(mt_preset_folder(folder, sizeof(folder)), &entries, is_preset, by_name);
	if (n < 0 || p == NULL) {
		status = cli_fail("map presets", "%s: %s", folder, strerror(errno));
		goto out;
	}
	for (int i = 0; i < n; i++) {
		if (list_preset(entries[i]->d_name, p, list) != CLI_DONE)
			status = CLI_FAILED;
		free(entries[i]);
	}
	free(entries);
	if (json && cli_print_json("map presets",
			    json_pack("{s:s, s:O}", "folder", folder, "presets", list)) != CLI_DONE)
		status = CLI_FAILED;
out:
	json_decref(list);
	free(p);
	return status;
}

static int presets(int argc, char **argv)
{
	int format = 0, first, status;
	const struct cli_option options[] = {
		{"format", CLI_CHOICE, &format, "text|json", "text (default) or json", false},
		{0},
	};
	const struct cli cli = {"map presets", "[NAME]", 1,
		"Lists the presets that a map can name, or shows the parameters of one.\n\n"
		"  moetap map presets deepep-ll",
		options};

	first = cli_parse(&cli, argc, argv, &status);
	if (first < 0)
		return status;
	return first < argc ? show_preset(argv[first], format == 1) : list_presets(format == 1);
}

/* ---- the table ---- */

static const struct verb verbs[] = {
	{"check", check, "what a map says, and whether it is right"},
	{"load", load, "into a running moetap-fw"},
	{"presets", presets, "what is there to start a map from"},
};

int verb_map(int argc, char **argv)
{
	return cli_verbs("map", verbs, sizeof(verbs) / sizeof(verbs[0]), argc, argv);
}
