/* SPDX-License-Identifier: BSD-3-Clause */
/* Formulas and presets in maps, and the presets that are there. */
#include "common.h"

#include "preset.h"

static char folder[] = "/tmp/moetap-preset-XXXXXX";
static char preset_path[64];

/** A map of ranks without rules; what comes behind it starts in line 8. */
#define HEAD                                                                                       \
	"moetap-map: 1\n"                                                                          \
	"job: j\n"                                                                                 \
	"layers: 6\n"                                                                              \
	"experts-per-rank: 2\n"                                                                    \
	"ranks:\n"                                                                                 \
	"  - {rank: 0, address: 10.0.0.1, base: 0}\n"                                              \
	"  - {rank: 1, address: 10.0.0.2, base: 0}\n"

#define RULES                                                                                      \
	"pattern: training\n"                                                                      \
	"rules:\n"                                                                                 \
	"  - name: r\n"                                                                            \
	"    rule: va\n"                                                                           \
	"    phase: dispatch\n"                                                                    \
	"    size: SIZE\n"                                                                         \
	"    expert: {stride: 64, count: experts_per_rank}\n"

/** A good preset; lines are counted below. */
static const char good_preset[] = "moetap-preset: 1\n"
				  "about: a test\n"
				  "source: none\n"
				  "pattern: inference\n"
				  "tap: heads\n"
				  "idle-gap-us: 77\n"
				  "parameters:\n"
				  "  hidden: {about: elements, min: 16, max: 4096}\n"
				  "  dtype: {about: type, default: fp8, words: {fp8: 1, bf16: 2}}\n"
				  "  extra: {about: more, default: 0}\n"
				  "require:\n"
				  "  - {if: hidden % 16 == 0, else: hidden is a multiple of 16}\n"
				  "let:\n"
				  "  token: hidden * dtype + extra\n"
				  "rules:\n"
				  "  - name: r\n"
				  "    rule: va\n"
				  "    phase: dispatch\n"
				  "    length: token\n"
				  "    size: experts_per_rank * ranks * token\n"
				  "    expert: {stride: ranks * token, count: experts_per_rank}\n"
				  "    source: {stride: token, count: ranks}\n";

static void write_preset(const char *text)
{
	FILE *f = fopen(preset_path, "w");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

/** A text with its first @p from made @p to; freed by the caller. */
static char *changed(const char *in, const char *from, const char *to)
{
	const char *at = strstr(in, from);
	char *text;

	if (at == NULL)
		fail_msg("no '%s'", from);
	assert_true(asprintf(&text, "%.*s%s%s", (int)(at - in), in, to, at + strlen(from)) > 0);
	return text;
}

static struct mt_bank *good(const char *text)
{
	struct mt_error err;
	struct mt_bank *bank;

	if (mt_map_parse(text, strlen(text), "m.yaml", &bank, &err) != 0)
		fail_msg("refused: %s\n%s", err.text, text);
	assert_int_equal(mt_bank_check(bank, bank->bytes, NULL), 0);
	return bank;
}

/** Refused with a line of that file, and a reason that has those words. */
static void refused_in(const char *text, const char *file, unsigned int line, const char *words)
{
	struct mt_error err = {"(no words)"};
	struct mt_bank *bank;
	char place[128];
	int ret = mt_map_parse(text, strlen(text), "m.yaml", &bank, &err);

	snprintf(place, sizeof(place), "%s:%u: ", file, line);
	if (ret != -EINVAL || strncmp(err.text, place, strlen(place)) != 0 ||
		strstr(err.text, words) == NULL)
		fail_msg("wanted '%s ... %s', got %d: %s\n%s", place, words, ret,
			ret ? err.text : "", text);
}

static void refused(const char *text, unsigned int line, const char *words)
{
	refused_in(text, "m.yaml", line, words);
}

/* ---- formulas in maps -------------------------------------------------------------------- */

static uint64_t size_with(const char *let, const char *formula)
{
	char *rules = changed(RULES, "SIZE", formula), *text;
	struct mt_bank *bank;
	uint64_t size;

	assert_true(asprintf(&text, "%s%s%s", let, HEAD, rules) > 0);
	bank = good(text);
	size = mt_bank_rules(bank)->size;
	free(bank);
	free(text);
	free(rules);
	return size;
}

static void test_formulas(void **unused)
{
	struct mt_bank *bank;
	char *head, *rules, *text;

	(void)unused;
	assert_int_equal(size_with("", "64 * 2"), 128);
	assert_int_equal(size_with("", "\"align(100, 64)\""), 128);
	assert_int_equal(size_with("", "100 * ranks + layers * experts_per_rank"), 212);
	assert_int_equal(size_with("let: {a: 200, b: a * ranks}\n", "b + 1"), 401);
	assert_int_equal(size_with("", "\"ranks > 2 ? 1 : 128\""), 128);
	head = changed(
		HEAD, "10.0.0.2, base: 0", "10.0.0.2, base: 0xffffffff00000000 + ranks * 4096");
	rules = changed(RULES, "SIZE", "128");
	assert_true(asprintf(&text, "%s%s", head, rules) > 0);
	bank = good(text);
	assert_true(mt_bank_ranks(bank)[1].base == 0xffffffff00002000);
	free(bank);
	free(head);
	free(rules);
	free(text);
}

static void refused_let(const char *let, unsigned int line, const char *words)
{
	char *text;

	assert_true(asprintf(&text, "%slet:\n%s%s", HEAD, let, RULES) > 0);
	refused(text, line, words);
	free(text);
}

static void test_wrong_formulas(void **unused)
{
	char many[16384] = "let:\n";

	(void)unused;
	refused_let("  a: 1\n  b: a + c\n", 10, "character 5: there is no 'c'");
	refused_let("  a: 1\n  b: a / 0\n", 10, "character 3: a division by zero");
	refused_let("  a: b\n  b: 1\n", 9, "there is no 'b'");
	refused_let("  a: 0xffffffffffffffff * 2\n", 9, "out of range");
	refused_let("  a: 1\n  a: 2\n", 10, "'a' is a name already");
	refused_let("  ranks: 1\n", 9, "'ranks' is a name of every map");
	refused_let("  experts_per_rank: 1\n", 9, "is a name of every map");
	refused_let("  min: 1\n", 9, "cannot be a name");
	refused_let("  token-bytes: 1\n", 9, "'token-bytes' cannot be a name");
	refused_let("  A: 1\n", 9, "cannot be a name");
	refused_let("  [a]: 1\n", 9, "cannot be a name");
	refused_let("  - a\n", 9, "names are expected");
	refused_let("  a: [1]\n", 9, "whole number is expected");
	refused_let("  a: (1\n", 9, "'(1' is not a whole number");
	refused(HEAD RULES, 13, "'SIZE' is not a whole number");
	/* names are for what comes behind layers and experts-per-rank */
	refused("layers: ranks\n" HEAD RULES, 1, "there is no 'ranks' here; names are none");
	for (unsigned int i = 0; i < 130; i++)
		sprintf(many + strlen(many), "  n%u: %u\n", i, i);
	strcat(many, HEAD RULES);
	refused(many, 1 + 1, "too many names: at most 128");
}

static void test_out_of_range(void **unused)
{
	char *text = changed(HEAD RULES, "size: SIZE", "size: 128\n    token-bytes: 5 - ranks * 4");

	(void)unused;
	refused(text, 14, "5 - ranks * 4 = -3 is out of range: 1 to 2147483647");
	free(text);
	text = changed(HEAD RULES, "size: SIZE", "size: 5 - ranks * 4");
	refused(text, 13, "'5 - ranks * 4' is below 0");
	free(text);
}

/* ---- presets in maps --------------------------------------------------------------------- */

#define USE HEAD "preset: good\n"

/** Whether traffic within a node is seen, by a preset that says so and what the map says. */
static uint32_t bank_within(const char *map)
{
	char text[2048];
	struct mt_bank *bank;
	uint32_t within;

	snprintf(text, sizeof(text), "%swithin-node: seen\n", good_preset);
	write_preset(text);
	snprintf(text, sizeof(text),
		"moetap-map: 1\njob: j\nlayers: 2\nexperts-per-rank: 2\n%sranks:\n"
		"  - {rank: 0, address: 192.0.2.1, base: 0, node: 4}\n"
		"  - {rank: 1, address: 192.0.2.2, base: 0, node: 5}\n"
		"preset: good\nwith: {hidden: 128}\n",
		map);
	bank = good(text);
	within = bank->within_node;
	free(bank);
	write_preset(good_preset);
	return within;
}

static void test_preset(void **unused)
{
	struct mt_bank *bank;
	const struct mt_rule *r;

	(void)unused;
	write_preset(good_preset);
	bank = good(USE "let: {h: 16}\nwith: {hidden: h * 8, dtype: bf16}\n");
	r = mt_bank_rules(bank);
	assert_int_equal(bank->rules, 1);
	assert_int_equal(r->length_min, 256);
	assert_int_equal(r->size, 1024);
	assert_int_equal(r->expert_stride, 512);
	assert_int_equal(r->source_stride, 256);
	assert_int_equal(r->source_count, 2);
	assert_int_equal(bank->pattern, MT_PATTERN_INFERENCE);
	assert_int_equal(bank->tap, MT_TAP_HEADS);
	assert_int_equal(bank->idle_gap_ns, 77000);
	free(bank);
	/* a map has the last word, and a word has its number */
	bank = good("pattern: training\ntap: all\nidle-gap-us: 5\n" USE
		    "with: {hidden: 128, dtype: 2 - 1, extra: 8}\n");
	assert_int_equal(mt_bank_rules(bank)->length_min, 136);
	assert_int_equal(bank->pattern, MT_PATTERN_TRAINING);
	assert_int_equal(bank->tap, MT_TAP_ALL);
	assert_int_equal(bank->idle_gap_ns, 5000);
	free(bank);
	assert_int_equal(bank_within(""), MT_WITHIN_SEEN);
	assert_int_equal(bank_within("within-node: unseen\n"), MT_WITHIN_UNSEEN);
	/* names of a map and of its preset do not meet */
	free(good(USE "let: {token: 16, hidden: 32, r: hidden}\nwith: {hidden: hidden * token}\n"));
}

static void test_wrong_with(void **unused)
{
	(void)unused;
	write_preset(good_preset);
	refused(USE, 8, "the preset needs 'hidden', elements; parameters are hidden, dtype, extra");
	refused(USE "with:\n  dtype: fp8\n", 10, "the preset needs 'hidden', elements");
	refused(USE "with:\n  hidden: 16\n  width: 1\n", 11,
		"no parameter 'width'; parameters are hidden, dtype, extra");
	refused(USE "with:\n  hidden: 16\n  hidden: 32\n", 11, "'hidden' stands here twice");
	refused(USE "with:\n  hidden: 15\n", 10, "'hidden' is out of range, 15: 16 to 4096; param");
	refused(USE "with:\n  hidden: 4097\n", 10, "out of range, 4097: 16 to 4096");
	refused(USE "with:\n  hidden: 17\n", 10, "preset 'good': hidden is a multiple of 16");
	refused(USE "with:\n  hidden: 16\n  dtype: fp4\n", 11,
		"'dtype' may be fp8, bf16, not 'fp4'");
	refused(USE "with:\n  hidden: 16\n  dtype: 3\n", 11, "'dtype' may be fp8, bf16, not 3");
	refused(USE "with:\n  hidden: token\n", 10, "there is no 'token' here");
	refused(USE "with: []\n", 9, "parameters are expected");
	refused(USE "with:\n  [a]: 1\n", 10, "no parameter '(not a word)'");
	refused(HEAD "preset: none\n", 8, "no preset 'none'");
	refused(HEAD "preset: none\n", 8, "'moetap map presets' lists those there are");
	refused(HEAD "preset: ../good\n", 8, "No such file");
	refused(HEAD "preset: .good\n", 8, "'.good' is no name of a preset");
	refused(HEAD "preset: a b\n", 8, "'a b' is no name of a preset");
	refused(HEAD "preset: \"./a\\e[2J\"\n", 8, "'./a?[2J' is no name of a preset");
	refused(HEAD "preset: /tmp/\n", 8, "regular file");
	refused(HEAD "preset: []\n", 8, "name of a preset is expected");
	refused(HEAD "with: {}\n" RULES, 14, "'SIZE'");
	refused(HEAD "with: {}\nrules: []\n", 8, "'with' is for a 'preset'");
	refused(USE RULES, 14, "'SIZE'");
	refused(USE "rules: []\n", 8, "'rules' or a 'preset', not both");
	refused(HEAD, 1, "'rules' is missing, or a 'preset'");
	refused("{moetap-map: 1, job: j, layers: 2, ranks: [], preset: good}", 1,
		"experts-per-rank");
}

static void refused_preset(const char *from, const char *to, unsigned int line, const char *words)
{
	char *text = changed(good_preset, from, to);

	write_preset(text);
	refused_in(USE "with: {hidden: 64}\n", preset_path, line, words);
	free(text);
}

static void test_wrong_presets(void **unused)
{
	struct mt_bank *bank;
	char *text;

	(void)unused;
	refused_preset("moetap-preset: 1", "moetap-preset: 2", 1, "out of range");
	refused_preset("about: a test\n", "", 1, "'about' is missing");
	refused_preset("source: none\n", "", 1, "'source' is missing");
	refused_preset("tap: heads", "taps: heads", 5, "'taps' is not known here; keys are");
	refused_preset("tap: heads", "tap: tails", 5, "'tails' is not known");
	refused_preset("tap: heads", "within-node: tails", 5, "'tails' is not known");
	refused_preset("pattern: inference", "pattern: x", 4, "'x' is not known");
	refused_preset("min: 16", "min: 5000", 8, "'min' of 'hidden' is above 'max'");
	refused_preset("about: elements, ", "", 8, "'about' is missing");
	refused_preset("hidden: {", "hidden-size: {", 8, "cannot be a name");
	refused_preset("hidden: {", "layers: {", 8, "is a name of every map");
	refused_preset("extra: {", "dtype: {", 10, "'dtype' stands here twice");
	refused_preset("default: fp8", "default: fp4", 9, "'dtype' may be fp8, bf16, not 'fp4'");
	refused_preset("bf16: 2", "fp8: 2", 9, "'fp8' stands here twice");
	refused_preset("bf16: 2", "16: 2", 9, "a word begins with a letter");
	refused_preset("if: hidden", "if: hide", 12, "there is no 'hide'");
	refused_preset(", else: hidden is a multiple of 16", "", 12, "'else' is missing");
	refused_preset("  token: hidden", "  token: h", 14, "there is no 'h'");
	refused_preset("  token: hidden", "  hidden: 2", 14, "'hidden' is a name already");
	refused_preset("length: token", "length: token / extra", 19, "division by zero");
	refused_preset("stride: token", "stride: token * 9", 16, "do not fit");
	refused_preset("phase: dispatch", "phase: control", 16, "has no use for");
	refused_preset("count: ranks", "count: 3", 16, "3 sources, but the map has 2 ranks");
	refused_preset("source: none", "source: \x01", 3, "not YAML");
	refused_preset("about: a test", "about: [a", 3, "not YAML");
	refused_preset("moetap-preset: 1", "%YAML 9", 1, "not YAML");
	text = changed(good_preset, "pattern: inference\n", "");
	write_preset(text);
	free(text);
	refused(USE "with: {hidden: 64}\n", 1, "'pattern' is missing");
	/* what only the map can mend is told with its line */
	write_preset(good_preset);
	text = changed(USE "with: {hidden: 64}\n", "10.0.0.2, base: 0", "10.0.0.2");
	refused(text, 7, "rank 1 has no 'base', which rule 'r' needs");
	free(text);
	/* a path from the folder of the map on */
	text = changed(USE "with: {hidden: 64}\n", "good", "./good.yaml");
	assert_int_equal(mt_map_parse(text, strlen(text), preset_path, &bank, NULL), 0);
	free(bank);
	free(text);
}

static void test_preset_load(void **unused)
{
	struct mt_preset *p = malloc(sizeof(*p));
	char text[MT_FORMULA_TEXT_LEN], small[8];
	struct mt_error err;

	(void)unused;
	assert_non_null(p);
	write_preset(good_preset);
	assert_int_equal(mt_preset_load("good", p, &err), 0);
	assert_string_equal(p->about, "a test");
	assert_string_equal(p->source, "none");
	assert_string_equal(p->path, preset_path);
	assert_int_equal(p->parameters, 3);
	assert_string_equal(p->parameter[0].name, "hidden");
	assert_true(p->parameter[0].required);
	assert_false(p->parameter[1].required);
	assert_string_equal(
		mt_parameter_text(&p->parameter[1], p->parameter[1].value, text), "fp8");
	assert_string_equal(mt_parameter_text(&p->parameter[2], -5, text), "-5");
	assert_int_equal(mt_preset_load("none", p, &err), -ENOENT);
	assert_int_equal(mt_preset_load(" ", p, &err), -EINVAL);
	assert_int_equal(mt_preset_path("good", "", small, sizeof(small)), -ENAMETOOLONG);
	write_preset("moetap-preset: 1\n");
	assert_int_equal(mt_preset_load("good", p, &err), -EINVAL);
	free(p);
}

/* ---- the presets that are there ----------------------------------------------------------- */

/** Some ranks with some experts each; the rank's base is left at 0. */
static struct mt_bank *shipped_at(unsigned int ranks, const char *preset, unsigned int layers,
	unsigned int experts, const char *with)
{
	struct mt_bank *bank;
	char list[1024] = "", *text;

	for (unsigned int i = 0; i < ranks; i++)
		sprintf(list + strlen(list),
			"{rank: %u, address: 10.0.0.%u, base: 0, "
			"bases: {atomics: %u}},",
			i, i + 1, 4096 * i);
	assert_true(asprintf(&text,
			    "{moetap-map: 1, job: j, layers: %u, experts-per-rank: %u, ranks: [%s],"
			    " preset: %s/driver/presets/%s.yaml, with: {%s}}",
			    layers, experts, list, getenv("MOETAP_SOURCE"), preset, with) > 0);
	bank = good(text);
	free(text);
	return bank;
}

static struct mt_bank *shipped(
	const char *preset, unsigned int layers, unsigned int experts, const char *with)
{
	return shipped_at(4, preset, layers, experts, with);
}

/** A rule of a bank against numbers; what is 0 in @p want must be 0. */
static void same_rule(const struct mt_bank *bank, unsigned int i, const struct mt_rule *want)
{
	const struct mt_rule *r = &mt_bank_rules(bank)[i];

	assert_true(i < bank->rules);
	assert_string_equal(r->name, want->name);
	assert_int_equal(r->type, want->type);
	assert_int_equal(r->phase, want->phase);
	assert_int_equal(r->when, want->when);
	assert_int_equal(r->base, want->base);
	assert_int_equal(r->offset, want->offset);
	assert_int_equal(r->size, want->size);
	assert_int_equal(r->parity_stride, want->parity_stride);
	assert_int_equal(r->parity_count, want->parity_count);
	assert_int_equal(r->expert_stride, want->expert_stride);
	assert_int_equal(r->expert_count, want->expert_count);
	assert_int_equal(r->source_stride, want->source_stride);
	assert_int_equal(r->source_count, want->source_count);
	assert_int_equal(r->length_min, want->length_min);
	assert_int_equal(r->length_max, want->length_max);
	assert_int_equal(r->token_bytes, want->token_bytes);
	assert_int_equal(r->value_scale, want->value_scale);
	assert_int_equal(r->value_add, want->value_add);
	assert_int_equal(r->value_width, want->value_width ? want->value_width : 8);
	assert_int_equal(r->value_signed, want->value_signed);
	assert_int_equal(r->encoding, want->encoding);
	assert_int_equal(r->of, want->of);
	assert_int_equal(r->payload_at, want->payload_at);
	assert_int_equal(r->announcers, want->announcers);
	assert_int_equal(r->payload_count, want->payload_count);
	assert_int_equal(r->imm_mask, want->imm_mask);
	assert_int_equal(r->imm_value, want->imm_value);
	assert_int_equal(r->operand_shift, want->operand_shift);
	assert_int_equal(r->operand_bits, want->operand_bits);
	assert_int_equal(r->place_shift, want->place_shift);
	assert_int_equal(r->place_bits, want->place_bits);
	assert_int_equal(r->place_unit, want->place_unit ? want->place_unit : 1);
}

/** A rule that takes every message in a region, or every one of some lengths, as control. */
static void same_control(const struct mt_bank *bank, unsigned int i, struct mt_rule want)
{
	want.phase = MT_PHASE_CONTROL;
	if (want.size != 0 && want.length_max == 0)
		want.length_max = UINT32_MAX;
	same_rule(bank, i, &want);
}

/* Hidden 2048, 8 experts at 4 ranks, 128 tokens: numbers worked out by hand from the sources. */

static void test_deepep_ll(void **unused)
{
	struct mt_rule token = {.name = "token",
		.type = MT_RULE_VA,
		.phase = MT_PHASE_DISPATCH,
		.offset = 8519936,
		.size = 2179072,
		.parity_stride = 4259840,
		.parity_count = 2,
		.expert_stride = 1089536,
		.expert_count = 2,
		.source_stride = 272384,
		.source_count = 4,
		.length_min = 2128,
		.length_max = 2128,
		.token_bytes = 2128};
	const struct mt_rule combine = {.name = "combine",
		.type = MT_RULE_VA,
		.phase = MT_PHASE_COMBINE,
		.offset = 8519936,
		.size = 4259840,
		.parity_stride = 4259840,
		.parity_count = 2,
		.source_stride = 1064960,
		.source_count = 4,
		.length_min = 4096,
		.length_max = 4096};
	struct mt_rule count = {.name = "count",
		.type = MT_RULE_ATOMIC,
		.phase = MT_PHASE_COUNT,
		.when = MT_WHEN_NEGATIVE,
		.size = 32,
		.parity_stride = 128,
		.parity_count = 2,
		.expert_stride = 16,
		.expert_count = 2,
		.source_stride = 4,
		.source_count = 4,
		.length_max = UINT32_MAX,
		.value_scale = -1,
		.value_add = -1,
		.value_width = 4};
	struct mt_rule done = {.name = "done",
		.type = MT_RULE_ATOMIC,
		.phase = MT_PHASE_COMBINE,
		.when = MT_WHEN_POSITIVE,
		.value_scale = 1,
		.value_width = 4,
		.size = 32,
		.parity_stride = 128,
		.parity_count = 2,
		.source_stride = 8,
		.source_count = 4,
		.length_max = UINT32_MAX};
	struct mt_bank *bank = shipped("deepep-ll", 2, 2, "hidden: 2048, tokens: 128");

	(void)unused;
	assert_int_equal(bank->rules, 4);
	same_rule(bank, 0, &token);
	same_rule(bank, 1, &combine);
	same_rule(bank, 2, &count);
	same_rule(bank, 3, &done);
	/* places of a token (local expert 1, source 2, slot 5) and of a count */
	assert_int_equal(
		token.offset + token.expert_stride + 2 * token.source_stride + 5 * token.length_min,
		10164880);
	assert_int_equal(count.expert_stride + 2 * count.source_stride, 24);
	free(bank);
	bank = shipped("deepep-ll", 2, 2, "hidden: 2048, tokens: 128, dtype: bf16");
	token.length_min = token.length_max = token.token_bytes = 4112;
	token.size = 4210688;
	token.expert_stride = 2105344;
	token.source_stride = 526336;
	same_rule(bank, 0, &token);
	same_rule(bank, 1, &combine);
	same_rule(bank, 2, &count);
	same_rule(bank, 3, &done);
	free(bank);
	/* cells of 8 bytes: 8 experts have 64, still in 128 bytes of signals */
	bank = shipped("deepep-ll", 2, 2, "hidden: 2048, tokens: 128, dtype: bf16, cell: 8");
	count.size = done.size = 64;
	done.source_stride = 16;
	count.expert_stride = 32;
	count.source_stride = 8;
	count.value_width = done.value_width = 8;
	same_rule(bank, 0, &token);
	same_rule(bank, 1, &combine);
	same_rule(bank, 2, &count);
	same_rule(bank, 3, &done);
	free(bank);
}

static void test_uccl_ep(void **unused)
{
	struct mt_rule token = {.name = "token",
		.type = MT_RULE_VA,
		.phase = MT_PHASE_DISPATCH,
		.offset = 8388864,
		.size = 2179072,
		.parity_stride = 4210688,
		.parity_count = 2,
		.expert_stride = 1089536,
		.expert_count = 2,
		.source_stride = 272384,
		.source_count = 4,
		.length_min = 2128,
		.length_max = 2128,
		.token_bytes = 2128};
	struct mt_rule combine = {.name = "combine",
		.type = MT_RULE_VA,
		.phase = MT_PHASE_COMBINE,
		.offset = 8388864,
		.size = 4194304,
		.parity_stride = 4210688,
		.parity_count = 2,
		.source_stride = 1048576,
		.source_count = 4,
		.length_min = 4096,
		.length_max = 4096};
	const struct mt_rule barrier = {
		.name = "barrier", .type = MT_RULE_VA, .phase = MT_PHASE_CONTROL, .size = 16};
	struct mt_rule count = {.name = "count",
		.type = MT_RULE_ATOMIC,
		.phase = MT_PHASE_COUNT,
		.when = MT_WHEN_NEGATIVE,
		.base = 1,
		.size = 64,
		.parity_stride = 128,
		.parity_count = 2,
		.expert_stride = 32,
		.expert_count = 2,
		.source_stride = 8,
		.source_count = 4,
		.length_max = UINT32_MAX,
		.value_scale = -1,
		.value_add = -1};
	const struct mt_rule done = {.name = "done",
		.type = MT_RULE_ATOMIC,
		.phase = MT_PHASE_COMBINE,
		.when = MT_WHEN_POSITIVE,
		.base = 1,
		.size = 64,
		.parity_stride = 128,
		.parity_count = 2,
		.source_stride = 16,
		.source_count = 4,
		.length_max = UINT32_MAX};
	struct mt_bank *bank = shipped("uccl-ep", 2, 2, "hidden: 2048, tokens: 128");

	(void)unused;
	assert_int_equal(bank->rules, 5);
	same_rule(bank, 3, &count);
	same_rule(bank, 4, &done);
	assert_string_equal(mt_bank_base(bank, 0)->name, "atomics");
	assert_int_equal(mt_bank_base(bank, 0)->at[3], 3 * 4096);
	/* local expert 1, source 2; results of expert 3 in buffer 1 */
	assert_int_equal(count.expert_stride + 2 * count.source_stride, 48);
	assert_int_equal(done.parity_stride + 3 * 8, 152);
	same_rule(bank, 0, &token);
	same_rule(bank, 1, &combine);
	same_rule(bank, 2, &barrier);
	assert_int_equal(token.offset + token.parity_stride, 12599552);
	assert_int_equal(
		token.offset + token.expert_stride + 2 * token.source_stride + 5 * token.length_min,
		10033808);
	free(bank);
	/* batches: areas move */
	bank = shipped(
		"uccl-ep", 2, 2, "hidden: 2048, tokens: 128, dtype: bf16, batching: batches");
	token.length_min = token.token_bytes = 4112;
	token.length_max = 128 * 4112;
	token.offset = combine.offset = 9474304;
	token.size = 4210688;
	token.expert_stride = 2105344;
	token.source_stride = 526336;
	same_rule(bank, 0, &token);
	same_rule(bank, 1, &combine);
	assert_int_equal(token.offset + token.parity_stride, 13684992);
	free(bank);
}

static void test_pplx_kernels(void **unused)
{
	struct mt_rule token = {.name = "token",
		.type = MT_RULE_VA,
		.phase = MT_PHASE_DISPATCH,
		.offset = 1 << 20,
		.size = 2179072,
		.expert_stride = 1089536,
		.expert_count = 2,
		.source_stride = 272384,
		.source_count = 4,
		.length_min = 2128,
		.length_max = 2128,
		.token_bytes = 2128};
	const struct mt_rule result = {.name = "result",
		.type = MT_RULE_VA,
		.phase = MT_PHASE_COMBINE,
		.offset = 64 << 20,
		.size = 8 * 128 * 4096,
		.length_min = 4096,
		.length_max = 4096};
	struct mt_bank *bank = shipped("pplx-kernels", 2, 2,
		"hidden: 2048, hidden_bytes: 2048, scale_bytes: 64, tokens: 128, "
		"x_out: 1024 * 1024, c_out: 64 * 1024 * 1024");

	(void)unused;
	assert_int_equal(bank->rules, 3);
	same_rule(bank, 0, &token);
	same_rule(bank, 1, &result);
	assert_int_equal(
		token.expert_stride + 2 * token.source_stride + 5 * token.length_min, 1644944);
	free(bank);
	bank = shipped("pplx-kernels", 2, 2,
		"hidden: 2048, hidden_bytes: 4096, tokens: 128, x_out: 0, c_out: 64 * 1024 * 1024");
	assert_int_equal(mt_bank_rules(bank)->length_min, 4112);
	free(bank);
}

static void test_nccl(void **unused)
{
	struct mt_rule chunk = {.name = "chunk",
		.type = MT_RULE_LENGTH,
		.phase = MT_PHASE_DISPATCH,
		.length_min = 65,
		.length_max = 131072,
		.token_bytes = 4096};
	const struct mt_rule empty = {.name = "empty",
		.type = MT_RULE_LENGTH,
		.phase = MT_PHASE_DISPATCH,
		.token_bytes = 4096};
	struct mt_rule control = {.name = "control",
		.type = MT_RULE_LENGTH,
		.phase = MT_PHASE_CONTROL,
		.length_min = 1,
		.length_max = 64};
	struct mt_bank *bank = shipped("nccl", 4, 1, "hidden: 2048");

	(void)unused;
	assert_int_equal(bank->rules, 3);
	assert_int_equal(bank->idle_gap_ns, 500000);
	same_rule(bank, 0, &chunk);
	same_rule(bank, 1, &empty);
	same_rule(bank, 2, &control);
	free(bank);
	bank = shipped("megatron", 6, 1, "hidden: 2048");
	same_rule(bank, 0, &chunk);
	same_rule(bank, 1, &empty);
	same_rule(bank, 2, &control);
	free(bank);
	bank = shipped("nccl", 4, 1, "hidden: 2048, requests: 8, chunk: 524288");
	chunk.length_min = 513;
	chunk.length_max = 524288;
	control.length_max = 512;
	same_rule(bank, 0, &chunk);
	same_rule(bank, 1, &empty);
	same_rule(bank, 2, &control);
	free(bank);
}

#define ANY_ADDRESS (1ULL << 47)
#define LONGEST INT32_MAX

static void test_uccl_ep_imm(void **unused)
{
	struct mt_bank *with_atomics = shipped("uccl-ep", 2, 2, "hidden: 2048, tokens: 128"),
		       *bank = shipped("uccl-ep-imm", 2, 2, "hidden: 2048, tokens: 128");
	const struct mt_rule count = {.name = "count",
		.type = MT_RULE_IMM,
		.phase = MT_PHASE_COUNT,
		.imm_mask = 0xc0000000,
		.imm_value = 0x80000000,
		.place_bits = 13,
		.place_unit = 8,
		.size = 64,
		.parity_stride = 128,
		.parity_count = 2,
		.expert_stride = 32,
		.expert_count = 2,
		.source_stride = 8,
		.source_count = 4,
		.value_scale = -1,
		.value_add = -1,
		.value_signed = 1,
		.operand_shift = 13,
		.operand_bits = 15};
	const struct mt_rule done = {.name = "done",
		.type = MT_RULE_IMM,
		.phase = MT_PHASE_COMBINE,
		.imm_mask = 0xc0000000,
		.imm_value = 0xc0000000,
		.place_bits = 13,
		.place_unit = 8,
		.size = 64,
		.parity_stride = 128,
		.parity_count = 2};
	const struct mt_rule barrier = {.name = "barrier",
		.type = MT_RULE_IMM,
		.phase = MT_PHASE_CONTROL,
		.imm_mask = 0xc0000000,
		.imm_value = 0x40000000,
		.place_bits = 1,
		.size = 2};

	(void)unused;
	assert_int_equal(bank->rules, 5);
	same_rule(bank, 0, &mt_bank_rules(with_atomics)[0]);
	same_rule(bank, 1, &mt_bank_rules(with_atomics)[1]);
	same_rule(bank, 2, &count);
	same_rule(bank, 3, &done);
	same_rule(bank, 4, &barrier);
	/* buffers 0 and 1, local expert 1, source 2, 5 tokens; results of expert 3 in buffer 1 */
	for (uint64_t b = 0; b < 2; b++) {
		uint64_t place =
			(b * count.parity_stride + count.expert_stride + 2 * count.source_stride) /
			count.place_unit;

		assert_int_equal(count.imm_value | b << 29 | (-6 & 0x7fff) << 13 | place,
			b ? 0xafff4016 : 0x8fff4006);
	}
	assert_int_equal(
		done.imm_value | 1 << 29 | 5 << 13 | (done.parity_stride + 3 * 8) / 8, 0xe000a013);
	free(with_atomics);
	free(bank);
}

static void test_deepep_normal(void **unused)
{
	const struct mt_rule notify = {.name = "notify",
		.type = MT_RULE_COUNTS,
		.phase = MT_PHASE_DISPATCH,
		.length_min = 68,
		.length_max = 68,
		.payload_at = 32,
		.value_width = 4,
		.announcers = 8};
	struct mt_bank *bank = shipped_at(2, "deepep-normal", 2, 8, "hidden: 2048, topk: 2");

	(void)unused;
	assert_int_equal(bank->rules, 4);
	same_rule(bank, 0, &notify);
	same_control(bank, 1,
		(struct mt_rule){.name = "shorter", .type = MT_RULE_LENGTH, .length_max = 67});
	same_control(bank, 2,
		(struct mt_rule){.name = "longer",
			.type = MT_RULE_LENGTH,
			.length_min = 69,
			.length_max = LONGEST});
	same_control(bank, 3,
		(struct mt_rule){.name = "channel", .type = MT_RULE_ATOMIC, .size = ANY_ADDRESS});
	/* behind the heads of a WRITE with an immediate */
	assert_int_equal(mt_bank_snap(bank), 22 + 40 + 20 + 20 + 32 + 4 * 8);
	free(bank);
}

static void test_deepep_v2(void **unused)
{
	struct mt_rule counts = {.name = "counts",
		.type = MT_RULE_COUNTS,
		.phase = MT_PHASE_DISPATCH,
		.offset = 49200,
		.size = 64,
		.length_min = 16,
		.length_max = 16,
		.encoding = MT_ENCODING_COMPLEMENT};
	struct mt_bank *bank = shipped("deepep-v2-direct", 2, 2, "");

	(void)unused;
	assert_int_equal(bank->within_node, MT_WITHIN_SEEN); /* counts take no NVLink */
	assert_int_equal(bank->rules, 4);
	same_rule(bank, 0, &counts);
	assert_int_equal(counts.offset + 2 * counts.length_min, 49232); /* of source 2 */
	same_control(bank, 1,
		(struct mt_rule){.name = "rank-count",
			.offset = 49168,
			.size = 32,
			.length_min = 8,
			.length_max = 8});
	same_control(
		bank, 2, (struct mt_rule){.name = "data", .offset = 14680064, .size = 1ULL << 46});
	same_control(bank, 3,
		(struct mt_rule){.name = "barrier", .type = MT_RULE_ATOMIC, .size = ANY_ADDRESS});
	free(bank);
	/* one expert a rank: as long as the count of a rank, elsewhere */
	free(shipped("deepep-v2-direct", 2, 1, ""));

	/* 2 nodes of 2 ranks */
	bank = shipped_at(2, "deepep-v2-hybrid", 2, 4, "gpus: 2");
	assert_int_equal(bank->rules, 4);
	counts.offset = 90144;
	counts.size = 32;
	counts.value_width = 4;
	counts.announcers = 2;
	same_rule(bank, 0, &counts);
	assert_int_equal(counts.offset + counts.length_min, 90160); /* of source 1 */
	same_control(bank, 1,
		(struct mt_rule){.name = "rank-counts",
			.offset = 90128,
			.size = 16,
			.length_min = 8,
			.length_max = 8});
	same_control(
		bank, 2, (struct mt_rule){.name = "data", .offset = 14680064, .size = 1ULL << 46});
	same_control(bank, 3,
		(struct mt_rule){.name = "signal", .type = MT_RULE_ATOMIC, .size = ANY_ADDRESS});
	free(bank);
}

static void test_hybrid_ep(void **unused)
{
	const struct mt_rule weights = {.name = "weights",
		.type = MT_RULE_DENSE,
		.phase = MT_PHASE_DISPATCH,
		.length_min = 16,
		.length_max = 16,
		.value_width = 4};
	struct mt_bank *bank = shipped_at(2, "hybrid-ep", 2, 4, "hidden: 2048");

	(void)unused;
	assert_int_equal(bank->rules, 4);
	assert_int_equal(bank->idle_gap_ns, 500000);
	same_rule(bank, 0, &weights);
	same_control(bank, 1,
		(struct mt_rule){.name = "shorter", .type = MT_RULE_LENGTH, .length_max = 15});
	same_control(bank, 2,
		(struct mt_rule){.name = "longer",
			.type = MT_RULE_LENGTH,
			.length_min = 17,
			.length_max = LONGEST});
	same_control(bank, 3,
		(struct mt_rule){.name = "flag", .type = MT_RULE_ATOMIC, .size = ANY_ADDRESS});
	free(bank);
}

static void test_pplx_garden(void **unused)
{
	static const char *const kinds[] = {
		"tokens", "results", "dispatch-barrier", "combine-barrier"};
	const struct mt_rule route = {.name = "route",
		.type = MT_RULE_COUNTS,
		.phase = MT_PHASE_DISPATCH,
		.length_min = 32,
		.length_max = 32,
		.of = MT_OF_ALL,
		.value_width = 4};
	struct mt_bank *bank = shipped("pplx-garden", 2, 2, "hidden: 2048, scales: 16");
	struct mt_rule kind = {.type = MT_RULE_IMM,
		.imm_mask = UINT32_MAX,
		.place_bits = 1,
		.size = 2,
		.length_max = UINT32_MAX};

	(void)unused;
	assert_int_equal(bank->rules, 7);
	same_rule(bank, 0, &route);
	for (unsigned int i = 0; i < COUNT(kinds); i++) {
		snprintf(kind.name, sizeof(kind.name), "%s", kinds[i]);
		kind.imm_value = 0x01000080 + i * 0x01000000;
		same_control(bank, 1 + i, kind);
	}
	same_control(bank, 5,
		(struct mt_rule){.name = "shorter", .type = MT_RULE_LENGTH, .length_max = 31});
	same_control(bank, 6,
		(struct mt_rule){.name = "longer",
			.type = MT_RULE_LENGTH,
			.length_min = 33,
			.length_max = LONGEST});
	free(bank);
	bank = shipped("pplx-garden", 2, 2, "hidden: 2048, imm_base: 0x12345678");
	assert_int_equal(mt_bank_rules(bank)[4].imm_value, 0x7c563412);
	free(bank);
}

static void test_fastmoe(void **unused)
{
	const struct mt_rule exchange = {.name = "exchange",
		.type = MT_RULE_COUNTS,
		.phase = MT_PHASE_DISPATCH,
		.length_min = 16,
		.length_max = 16};
	struct mt_bank *bank = shipped("fastmoe", 2, 2, "hidden: 2048");

	(void)unused;
	assert_int_equal(bank->rules, 3);
	same_rule(bank, 0, &exchange);
	same_control(bank, 1,
		(struct mt_rule){.name = "shorter", .type = MT_RULE_LENGTH, .length_max = 15});
	same_control(bank, 2,
		(struct mt_rule){.name = "longer",
			.type = MT_RULE_LENGTH,
			.length_min = 17,
			.length_max = LONGEST});
	free(bank);
}

static void refused_shipped(
	const char *preset, unsigned int experts, const char *with, const char *words)
{
	struct mt_error err = {"(none)"};
	struct mt_bank *bank;
	char *text;

	assert_true(asprintf(&text,
			    "{moetap-map: 1, job: j, layers: 6, experts-per-rank: %u, ranks: ["
			    "{rank: 0, address: 10.0.0.1, base: 0, bases: {atomics: 0}}, "
			    "{rank: 1, address: 10.0.0.2, base: 0, bases: {atomics: 0}}], "
			    "preset: %s/driver/presets/%s.yaml, with: {%s}}",
			    experts, getenv("MOETAP_SOURCE"), preset, with) > 0);
	if (mt_map_parse(text, strlen(text), "m.yaml", &bank, &err) != -EINVAL ||
		strncmp(err.text, "m.yaml:1: ", 10) != 0 || strstr(err.text, words) == NULL)
		fail_msg("wanted '%s', got %s", words, err.text);
	free(text);
}

/** What a preset needs of the ranks is told at a line of the map, where it is to be written. */
static void refused_without_bases(void)
{
	struct mt_error err = {"(none)"};
	struct mt_bank *bank;
	char *text;

	assert_true(asprintf(&text,
			    HEAD "preset: %s/driver/presets/uccl-ep.yaml\n"
				 "with: {hidden: 2048, tokens: 128}\n",
			    getenv("MOETAP_SOURCE")) > 0);
	assert_int_equal(mt_map_parse(text, strlen(text), "m.yaml", &bank, &err), -EINVAL);
	assert_string_equal(err.text,
		"m.yaml:6: rank 0 has no 'atomics' among its 'bases', which rule 'count' of the "
		"preset needs, as in bases: {atomics: 0x7f0000000000}");
	free(text);
}

/* 2 experts of 8 bytes behind the bytes of rc_mlx5 and the kind, and a tag of 8. */
static void test_mpi_ucx(void **unused)
{
	const struct mt_rule counts = {.name = "counts",
		.type = MT_RULE_COUNTS,
		.phase = MT_PHASE_DISPATCH,
		.length_min = 26,
		.length_max = 26,
		.payload_at = 10};
	struct mt_bank *bank = shipped("mpi-ucx", 2, 2, "integer: int64");
	const struct mt_rule *r = mt_bank_rules(bank);

	(void)unused;
	assert_int_equal(bank->rules, 2);
	same_rule(bank, 0, &counts);
	assert_int_equal(r->matches, 2);
	assert_int_equal(r->match[0].at, 1);
	assert_int_equal(r->match[1].at, 6);
	same_control(bank, 1,
		(struct mt_rule){.name = "other", .type = MT_RULE_LENGTH, .length_max = LONGEST});
	assert_int_equal(bank->path_mtu, 1024);
	/* as if they were WRITEs with an immediate */
	assert_int_equal(mt_bank_snap(bank), 22 + 40 + 20 + 20 + 26);
	free(bank);
	bank = shipped("mpi-ucx", 2, 2, "integer: int64, transport: rc_verbs");
	assert_int_equal(mt_bank_rules(bank)->payload_at, 9);
	free(bank);
}

/* Streams: a preset names the ports and what comes before the first frame, and a map before it. */
static void test_streams(void **unused)
{
	struct mt_bank *bank = shipped("mpi", 2, 2, "integer: int32");

	(void)unused;
	assert_int_equal(bank->port_min, 1024);
	assert_int_equal(bank->port_max, 1279);
	assert_int_equal(bank->connect_bytes, 24);
	assert_int_equal(bank->accept_bytes, 24);
	assert_int_equal(mt_bank_rules(bank)->match[2].value, 14 + 2 * 4);
	free(bank);
	bank = shipped("mpi-ucx-tcp", 2, 2, "integer: int32}, tcp: {ports: 7");
	assert_int_equal(bank->port_min, 7);
	assert_int_equal(bank->connect_bytes, 0);
	assert_int_equal(mt_bank_rules(bank)->match[2].value, 8 + 2 * 4);
	free(bank);
	bank = shipped("gloo", 2, 2, "hidden: 2048");
	assert_int_equal(bank->connect_bytes, 8);
	assert_int_equal(bank->port_min, 0);
	assert_int_equal(mt_bank_rules(bank)->match[2].value, 2 * 8);
	assert_int_equal(mt_bank_snap(bank), MT_SNAP_WHOLE);
	free(bank);
	bank = shipped("gloo", 2, 2, "hidden: 2048, pair_number: none");
	assert_int_equal(bank->connect_bytes, 0);
	free(bank);
}

static void test_requirements(void **unused)
{
	(void)unused;
	refused_shipped("deepep-ll", 2, "hidden: 2049, tokens: 128", "multiple of 128");
	refused_shipped(
		"deepep-ll", 2, "hidden: 640, tokens: 128", "multiple of 512 with dtype fp8");
	refused_shipped("deepep-ll", 2, "hidden: 2048, tokens: 1", "multiple of 4");
	refused_shipped("deepep-ll", 2, "hidden: 2048, tokens: 128, cell: 6", "cell is 4 or 8");
	refused_shipped(
		"uccl-ep", 2, "hidden: 2048, tokens: 128, batching: batches", "batches of fp8");
	refused_without_bases();
	refused_shipped("uccl-ep", 513, "hidden: 2048, tokens: 128", "at most 1024 experts");
	refused_shipped("pplx-kernels", 2,
		"hidden: 8, hidden_bytes: 17, tokens: 1, x_out: 0, c_out: 999999",
		"multiple of 16");
	refused_shipped("nccl", 2, "hidden: 2048", "one expert a rank");
	refused_shipped("nccl", 1, "hidden: 100", "as short as a clear-to-send");
	refused_shipped("nccl", 1, "hidden: 64, requests: 2", "as short as a clear-to-send");
	refused_shipped("megatron", 2, "hidden: 2048", "one expert a rank");
	refused_shipped("uccl-ep-imm", 2, "hidden: 2048, tokens: 16384", "at most 16382 tokens");
	refused_shipped("deepep-v2-direct", 257, "", "at most 256 experts a rank");
	refused_shipped("deepep-v2-hybrid", 4, "gpus: 3", "a multiple of its GPUs");
	refused_shipped("hybrid-ep", 4, "hidden: 2056", "multiple of 16");
	refused_shipped("hybrid-ep", 6, "hidden: 2048", "multiple of 4");
	refused_shipped("pplx-garden", 2, "hidden: 2048, imm_base: 255", "at most 251");
	refused_shipped("fastmoe", 8, "hidden: 2048", "as long as a clear-to-send");
	refused_shipped("fastmoe", 6, "hidden: 2048, clear_to_send: 48", "a clear-to-send");
	refused_shipped("mpi-ucx", 127, "integer: int64", "several packets");
	refused_shipped("gloo", 2, "hidden: 2", "as long as the counts");
}

/* Where counts are as long as something else: the lengths of that, worked out by hand. */
static void test_ambiguous_lengths(void **unused)
{
	(void)unused;
	/* 4 x (9 + experts): a channel's 72; a token's 2144 or 4128; 4112; cached, 2128 or 4112 */
	refused_shipped("deepep-normal", 9, "hidden: 2048, topk: 2", "the start of a channel");
	refused_shipped("deepep-normal", 527, "hidden: 2048, topk: 2", "as long as tokens");
	refused_shipped("deepep-normal", 2 * 536 - 9, "hidden: 2048, topk: 2", "as tokens");
	refused_shipped("deepep-normal", 1023, "hidden: 2048, topk: 2, dtype: bf16", "as tokens");
	refused_shipped("deepep-normal", 1019, "hidden: 2048, topk: 2", "as long as results");
	refused_shipped("deepep-normal", 523, "hidden: 2048, topk: 2", "of a cached dispatch");
	free(shipped_at(2, "deepep-normal", 2, 528, "hidden: 2048, topk: 2"));
	/* 4 x experts: 2048 or 4096, 64, 4096 */
	refused_shipped("hybrid-ep", 512, "hidden: 2048, dtype: fp8", "as long as a token");
	refused_shipped("hybrid-ep", 1024, "hidden: 2048", "as long as a token");
	refused_shipped("hybrid-ep", 1024, "hidden: 2048, dtype: fp8", "as long as a result");
	refused_shipped("hybrid-ep", 16, "hidden: 2048, dtype: fp8", "as long as its scales");
	/* 4 x 2 x experts: a token's 2128 or 4112, a result's 4096, a quarter of it */
	refused_shipped("pplx-garden", 266, "hidden: 2048, scales: 16", "as long as tokens");
	refused_shipped("pplx-garden", 514, "hidden: 2048, dtype: bf16", "as long as tokens");
	refused_shipped("pplx-garden", 512, "hidden: 2048, scales: 16", "as long as results");
	refused_shipped("pplx-garden", 128, "hidden: 2048, scales: 16, nets: 4", "part of them");
	refused_shipped("pplx-garden", 133, "hidden: 2048, scales: 16, nets: 2", "part of tokens");
	free(shipped("pplx-garden", 2, 100, "hidden: 2048, scales: 16, nets: 4"));
	/* 8 x experts: any multiple of 4096 bytes, of 256 */
	refused_shipped("fastmoe", 512, "hidden: 2048", "message of tokens");
	refused_shipped("fastmoe", 32, "hidden: 2048, out_hidden: 128", "message of results");
	free(shipped("fastmoe", 2, 31, "hidden: 2048, out_hidden: 128"));
}

/* The layout of the captures in tests/data, as a preset: the bank is that of their maps. */
static void test_captures(void **unused)
{
	static const char *const captures[] = {"rxe-2ranks", "rxe-4ranks"};
	char path[4096], with[4096];
	struct mt_bank *by_hand, *by_preset;
	struct mt_error err;

	(void)unused;
	for (size_t i = 0; i < COUNT(captures); i++) {
		const char *source = getenv("MOETAP_SOURCE");

		snprintf(path, sizeof(path), "%s/tests/data/%s/map.yaml", source, captures[i]);
		assert_int_equal(mt_map_load(path, &by_hand, &err), 0);
		snprintf(with, sizeof(with), "%s/tests/data/%s/preset.yaml", source, captures[i]);
		if (mt_map_load(with, &by_preset, &err) != 0)
			fail_msg("%s", err.text);
		assert_int_equal(by_hand->bytes, by_preset->bytes);
		assert_memory_equal(by_hand, by_preset, by_hand->bytes);
		free(by_hand);
		free(by_preset);
	}
}

static int prepare(void **unused)
{
	(void)unused;
	if (getenv("MOETAP_SOURCE") == NULL || mkdtemp(folder) == NULL)
		return -1;
	snprintf(preset_path, sizeof(preset_path), "%s/good.yaml", folder);
	return setenv("MOETAP_PRESETS", folder, 1);
}

static int clean(void **unused)
{
	(void)unused;
	unlink(preset_path);
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_formulas),
		cmocka_unit_test(test_wrong_formulas),
		cmocka_unit_test(test_out_of_range),
		cmocka_unit_test(test_preset),
		cmocka_unit_test(test_wrong_with),
		cmocka_unit_test(test_wrong_presets),
		cmocka_unit_test(test_preset_load),
		cmocka_unit_test(test_deepep_ll),
		cmocka_unit_test(test_uccl_ep),
		cmocka_unit_test(test_pplx_kernels),
		cmocka_unit_test(test_nccl),
		cmocka_unit_test(test_uccl_ep_imm),
		cmocka_unit_test(test_deepep_normal),
		cmocka_unit_test(test_deepep_v2),
		cmocka_unit_test(test_hybrid_ep),
		cmocka_unit_test(test_pplx_garden),
		cmocka_unit_test(test_fastmoe),
		cmocka_unit_test(test_mpi_ucx),
		cmocka_unit_test(test_streams),
		cmocka_unit_test(test_requirements),
		cmocka_unit_test(test_ambiguous_lengths),
		cmocka_unit_test(test_captures),
	};

	return cmocka_run_group_tests(tests, prepare, clean);
}
