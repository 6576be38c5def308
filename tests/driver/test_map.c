/* SPDX-License-Identifier: BSD-3-Clause */
#include "common.h"

#include <arpa/inet.h>
#include <glob.h>
#include <sys/stat.h>
#include <sys/wait.h>

/** A parsed map, or why it was refused. */
struct outcome {
	int ret;
	struct mt_bank *bank;
	struct mt_error err;
};

static struct outcome parse_bytes(const char *text, size_t len)
{
	struct outcome o = {.err = {"(no words)"}};
	/* exactly as long as the text: what is read behind it is found by the sanitizer */
	char *exact = malloc(len ? len : 1);

	assert_non_null(exact);
	memcpy(exact, text, len);
	o.ret = mt_map_parse(exact, len, "m.yaml", &o.bank, &o.err);
	free(exact);
	return o;
}

static struct outcome parse(const char *text)
{
	return parse_bytes(text, strlen(text));
}

/** The map must be good; gives the bank, to be freed. */
static struct mt_bank *good(const char *text)
{
	struct outcome o = parse(text);
	struct mt_error err;

	if (o.ret != 0)
		fail_msg("refused: %s\n%.2000s", o.err.text, text);
	if (mt_bank_check(o.bank, o.bank->bytes, &err) != 0)
		fail_msg("bank refused: %s\n%.2000s", err.text, text);
	return o.bank;
}

/** The map must be refused with that line and a reason that has those words. */
static void refused_bytes(const char *text, size_t len, unsigned int line, const char *words)
{
	struct outcome o = parse_bytes(text, len);
	char place[32];

	snprintf(place, sizeof(place), "m.yaml:%u: ", line);
	if (o.ret != -EINVAL || strncmp(o.err.text, place, strlen(place)) != 0 ||
		strstr(o.err.text, words) == NULL)
		fail_msg("wanted '%s ... %s', got %d: %s\n%.1000s", place, words, o.ret,
			o.ret ? o.err.text : "", text);
	for (const char *c = o.err.text; *c; c++)
		assert_true(*c >= ' ' && *c <= '~');
}

static void refused(const char *text, unsigned int line, const char *words)
{
	refused_bytes(text, strlen(text), line, words);
}

static char *base; /* the map that is changed, NULL: good_map */

/** From now on, another example is changed. @p path in the project, NULL: good_map again */
static void use_base(const char *path)
{
	const char *source = getenv("MOETAP_SOURCE");
	char full[4096];
	FILE *f;

	free(base);
	base = NULL;
	if (path == NULL)
		return;
	assert_non_null(source);
	snprintf(full, sizeof(full), "%s/%s", source, path);
	base = calloc(1, 65536);
	f = fopen(full, "r");
	assert_true(base != NULL && f != NULL && fread(base, 1, 65535, f) > 0);
	fclose(f);
}

/** The base with its first `from` made `to`; freed by the caller. */
static char *changed(const char *from, const char *to)
{
	const char *map = base != NULL ? base : good_map, *at = strstr(map, from);
	char *text;

	if (at == NULL)
		fail_msg("the good map has no '%s'", from);
	assert_true(asprintf(&text, "%.*s%s%s", (int)(at - map), map, to, at + strlen(from)) > 0);
	return text;
}

static void refused_with(const char *from, const char *to, unsigned int line, const char *words)
{
	char *text = changed(from, to);

	refused(text, line, words);
	free(text);
}

static struct mt_bank *good_with(const char *from, const char *to)
{
	char *text = changed(from, to);
	struct mt_bank *bank = good(text);

	free(text);
	return bank;
}

static void ok_with(const char *from, const char *to)
{
	free(good_with(from, to));
}

/* ---- good maps --------------------------------------------------------------------------- */

static void test_good_map(void **unused)
{
	static const struct mt_rule token = {.name = "token",
		.type = MT_RULE_VA,
		.phase = MT_PHASE_DISPATCH,
		.value_width = 8,
		.place_unit = 1,
		.size = 69632,
		.parity_stride = 135168,
		.expert_stride = 17408,
		.source_stride = 8704,
		.parity_count = 2,
		.expert_count = 4,
		.source_count = 2,
		.length_min = 544,
		.length_max = 544,
		.token_bytes = 544};
	static const struct mt_rule count = {.name = "count",
		.type = MT_RULE_ATOMIC,
		.phase = MT_PHASE_COUNT,
		.value_width = 8,
		.place_unit = 1,
		.offset = 133120,
		.size = 64,
		.parity_stride = 135168,
		.expert_stride = 16,
		.source_stride = 8,
		.parity_count = 2,
		.expert_count = 4,
		.source_count = 2,
		.length_max = UINT32_MAX,
		.value_scale = -1,
		.value_add = -1};
	static const struct mt_rank rank1 = {
		.base = 0x2000000, .first_expert = 4, .experts = 4, .node = 1};
	static const struct mt_flow first = {.src = 0, .dst = 1, .qpn = 0x11, .expert = 7};
	static const struct mt_flow second = {
		.src = 1, .dst = 0, .qpn = 0x12, .expert = MT_NO_EXPERT};
	static const uint8_t ip[16] = {[10] = 0xff, 0xff, 10, 77, 0, 1};
	struct mt_bank *b = good(good_map);

	(void)unused;
	assert_string_equal(b->job, "good");
	assert_int_equal(b->pattern, MT_PATTERN_INFERENCE);
	assert_int_equal(b->layers, 2);
	assert_int_equal(b->micro_batches, 3);
	assert_int_equal(b->tap, MT_TAP_ALL);
	assert_int_equal(b->idle_gap_ns, 400000);
	assert_int_equal(b->ranks, 2);
	assert_int_equal(b->addrs, 2);
	assert_int_equal(b->rules, 3);
	assert_int_equal(b->flows, 2);
	assert_int_equal(b->experts, 8);
	assert_int_equal(b->snap, 22 + 40 + 8 + 12 + 20);
	assert_memory_equal(&mt_bank_ranks(b)[1], &rank1, sizeof(rank1));
	assert_memory_equal(mt_bank_addrs(b)[0].ip, ip, sizeof(ip));
	assert_int_equal(mt_bank_addrs(b)[0].rank, 0);
	assert_memory_equal(&mt_bank_rules(b)[0], &token, sizeof(token));
	assert_memory_equal(&mt_bank_rules(b)[2], &count, sizeof(count));
	assert_memory_equal(&mt_bank_flows(b)[0], &first, sizeof(first));
	assert_memory_equal(&mt_bank_flows(b)[1], &second, sizeof(second));
	free(b);
}

static void test_defaults(void **unused)
{
	struct mt_bank *b = good("moetap-map: 1\njob: d\npattern: inference\nlayers: 1\n"
				 "ranks: [{rank: 0, address: 1.1.1.1, experts: [0, 1]},\n"
				 "  {rank: 1, address: 1.1.1.2, experts: [1, 3]}]\n"
				 "rules: [{name: r, rule: length, phase: dispatch, length: 7,\n"
				 "  expert: {fixed: 0}, token-bytes: 9}]\n");

	(void)unused;
	assert_int_equal(b->micro_batches, 1);
	assert_int_equal(b->tap, MT_TAP_ALL);
	assert_int_equal(b->idle_gap_ns, 2000000000);
	assert_int_equal(b->flows, 0);
	assert_int_equal(b->experts, 4);
	assert_int_equal(b->snap, 22 + 40 + 8 + 12 + 16);
	free(b);
}

/** Rows of a message of @p length bytes, of 3 experts. */
static uint32_t snap_of_rows(const char *length)
{
	struct mt_bank *b;
	uint32_t snap;
	char *text;

	assert_true(asprintf(&text,
			    "moetap-map: 1\njob: d\npattern: inference\nlayers: 1\n"
			    "experts-per-rank: 3\nranks: [{rank: 0, address: 1.1.1.1},\n"
			    "  {rank: 1, address: 1.1.1.2}]\n"
			    "rules: [{name: r, rule: payload-dense, phase: dispatch,\n"
			    "  length: %s, payload: {width: 4, of: dst}}]\n",
			    length) > 0);
	b = good(text);
	snap = b->snap;
	free(b);
	free(text);
	return snap;
}

/** One row, 7 of them, more than a packet of the longest path MTU has. */
static void test_snap_of_rows(void **unused)
{
	(void)unused;
	assert_int_equal(snap_of_rows("12"), 22 + 40 + 20 + 20 + 12);
	assert_int_equal(snap_of_rows("[12, 84]"), 22 + 40 + 20 + 20 + 84);
	assert_int_equal(snap_of_rows("[12, 6000]"), 22 + 40 + 20 + 20 + 4096);
}

static char *read_file(const char *path)
{
	char *text = NULL;
	size_t room = 0;
	FILE *f = fopen(path, "r");

	if (f == NULL)
		fail_msg("%s: %s", path, strerror(errno));
	assert_true(getdelim(&text, &room, '\0', f) > 0);
	fclose(f);
	return text;
}

static unsigned int load_all(const char *pattern)
{
	struct mt_error err;
	struct mt_bank *bank;
	char path[4096];
	glob_t found;
	unsigned int n;

	assert_non_null(getenv("MOETAP_SOURCE"));
	snprintf(path, sizeof(path), "%s/%s", getenv("MOETAP_SOURCE"), pattern);
	assert_int_equal(glob(path, 0, NULL, &found), 0);
	for (size_t i = 0; i < found.gl_pathc; i++) {
		if (mt_map_load(found.gl_pathv[i], &bank, &err) != 0)
			fail_msg("%s", err.text);
		if (mt_bank_check(bank, bank->bytes, &err) != 0)
			fail_msg("%s: %s", found.gl_pathv[i], err.text);
		free(bank);
	}
	n = (unsigned int)found.gl_pathc;
	globfree(&found);
	return n;
}

static void test_files(void **unused)
{
	(void)unused;
	assert_true(load_all("docs/maps/*.yaml") >= 8);
	assert_true(load_all("tests/data/*/map.yaml") >= 3);
}

/* The examples that docs/map.md shows are the files of docs/maps, whole. */
static void test_documented_examples(void **unused)
{
	const char *source = getenv("MOETAP_SOURCE");
	char path[4096], *doc, *block;
	glob_t found;
	size_t shown = 0;

	(void)unused;
	assert_non_null(source);
	snprintf(path, sizeof(path), "%s/docs/map.md", source);
	doc = read_file(path);
	snprintf(path, sizeof(path), "%s/docs/maps/*.yaml", source);
	assert_int_equal(glob(path, 0, NULL, &found), 0);
	for (size_t i = 0; i < found.gl_pathc; i++) {
		char *text = read_file(found.gl_pathv[i]);
		char *body = strchr(text, '\n') + 1; /* without the licence */

		if (strstr(doc, body) == NULL)
			fail_msg("docs/map.md does not show %s as it is", found.gl_pathv[i]);
		free(text);
	}
	for (block = doc; (block = strstr(block, "\nmoetap-map: 1\n")) != NULL; block++)
		shown++;
	assert_int_equal(shown, found.gl_pathc);
	globfree(&found);
	free(doc);
}

static void test_addresses(void **unused)
{
	struct mt_bank *b = good_with("address: 10.77.0.1", "address: [\"fd00::1\", 10.77.0.1, "
							    "\"::ffff:10.77.0.9\"]");
	const struct mt_addr *a = mt_bank_addrs(b);
	uint8_t v6[16];

	(void)unused;
	assert_int_equal(b->addrs, 4);
	for (uint32_t i = 1; i < b->addrs; i++)
		assert_true(memcmp(a[i - 1].ip, a[i].ip, 16) < 0);
	assert_int_equal(inet_pton(AF_INET6, "::ffff:10.77.0.1", v6), 1);
	assert_memory_equal(a[0].ip, v6, 16);
	assert_int_equal(a[0].rank, 0);
	assert_int_equal(a[1].rank, 1);
	assert_int_equal(a[2].ip[15], 9);
	assert_int_equal(a[2].rank, 0);
	assert_int_equal(inet_pton(AF_INET6, "fd00::1", v6), 1);
	assert_memory_equal(a[3].ip, v6, 16);
	free(b);
	refused_with("10.77.0.1", "\"::ffff:10.77.0.2\"", 11, "all ranks are on node 0");
	refused_with("10.77.0.1", "[10.77.0.3, 10.77.0.2]", 10,
		"ranks 0 and 1 share the address in line 11, but not all");
	refused_with("10.77.0.1", "[10.77.0.3, 10.77.0.3]", 11, "has the address in line 11 twice");
	refused_with("10.77.0.1", "10.77.0.256", 11, "10.77.0.256");
	refused_with("10.77.0.1", "10.77.0.01", 11, "10.77.0.01");
	refused_with("10.77.0.1", "10.77.0.1/24", 11, "10.77.0.1/24");
	refused_with("10.77.0.1", "\"fe80::1%eth0\"", 11, "fe80::1%eth0");
	refused_with("10.77.0.1", "host", 11, "host");
	refused_with("10.77.0.1", "{a: b}", 11, "address");
	refused_with("10.77.0.1", "[]", 11, "at least one");
	refused_with("10.77.0.1", "[[10.77.0.1]]", 11, "not an IPv4 or IPv6");
}

/** Two nodes of two ranks, each node with one address. */
static const char shared_map[] =
	"moetap-map: 1\njob: s\npattern: inference\nlayers: 1\nexperts-per-rank: 2\nranks:\n"
	"- {rank: 0, address: 10.0.0.1, base: 0x100000}\n"
	"- {rank: 1, address: 10.0.0.1, base: 0x200000}\n"
	"- {rank: 2, address: 10.0.0.2, base: 0x100000}\n"
	"- {rank: 3, address: 10.0.0.2, base: 0x200000}\nrules:\n"
	"- {name: token, rule: va, phase: dispatch, length: 512, size: 0x2000,\n"
	"   expert: {stride: 0x1000, count: 2}, source: {stride: 0x400, count: 4}}\n"
	"- {name: combine, rule: va, phase: combine, offset: 0x2000, size: 0x2000,\n"
	"   source: {stride: 0x800, count: 4}}\n"
	"- {name: flag, rule: atomic, phase: control, offset: 0x4000, size: 8}\n";

static void test_shared_addresses(void **unused)
{
	static const char flows[] = "flows:\n- {src: 0, dst: 2, qpn: 7}\n"
				    "- {src: 1, dst: 3, qpn: 8}\nrules:\n";
	struct mt_bank *b = good(shared_map);
	char *named;

	(void)unused;
	assert_int_equal(b->addrs, 4);
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(mt_bank_addrs(b)[i].rank, i);
		assert_int_equal(mt_bank_ranks(b)[i].node, i / 2 * 2);
	}
	free(b);
	base = strdup(shared_map);
	assert_non_null(base);
	refused_with("1, base: 0x200000}", "1, base: 0x100800}", 8,
		"the regions of rules 'token' and 'token' meet there: are their bases right?");
	refused_with("1, base: 0x200000}", "1, base: 0xfd000}", 8, "rules 'combine' and 'token'");
	ok_with("1, base: 0x200000}", "1, base: 0x104000}");
	refused_with(", source: {stride: 0x400, count: 4}}", "}", 12,
		"a rule va or atomic with 'source'; or name all queue pairs in 'flows'");
	refused_with(",\n   source: {stride: 0x800, count: 4}}", "}", 14, "rule 'combine': ranks");
	refused_with("rule: va, phase: combine, offset: 0x2000, size: 0x2000,\n"
		     "   source: {stride: 0x800, count: 4}}",
		"rule: length, phase: combine, length: 7}", 14, "or name all queue pairs");
	/* rounds that counts part need no combines */
	ok_with(",\n   source: {stride: 0x800, count: 4}}\n"
		"- {name: flag, rule: atomic, phase: control, offset: 0x4000, size: 8}",
		"}\n- {name: count, rule: atomic, phase: count, offset: 0x4000, size: 64,\n"
		"   expert: {stride: 32, count: 2}, source: {stride: 8, count: 4}, value: {scale: 1}}");
	refused_with("{rank: 1, address: 10.0.0.1,", "{rank: 1, node: 1, address: 10.0.0.1,", 8,
		"all ranks say it, or none");
	/* queue pairs that are named tell all that places do not, one rank at either end */
	named = changed("rules:\n", flows);
	free(base);
	base = named;
	ok_with("1, base: 0x200000}", "1, base: 0x100000}");
	ok_with(",\n   source: {stride: 0x800, count: 4}}", "}");
	refused_with("dst: 3, qpn: 8", "dst: 3, qpn: 7", 13,
		"queue pair 0x7 at that address is in line 12 too");
	ok_with("dst: 3, qpn: 8", "dst: 0, qpn: 7");
	use_base(NULL);
}

static void test_experts(void **unused)
{
	struct mt_bank *b = good_with("base: 0x1000000}\n", "base: 0x1000000, experts: [96, 4]}\n");

	(void)unused;
	assert_int_equal(b->experts, 100);
	assert_int_equal(mt_bank_ranks(b)[0].first_expert, 96);
	free(b);
	/* a rank without experts counts for nothing, wherever it says it starts */
	b = good_with("base: 0x1000000}\n", "base: 0x1000000, experts: [60000, 0]}\n");
	assert_int_equal(b->experts, 8);
	assert_int_equal(mt_bank_ranks(b)[0].first_expert, 0);
	free(b);
	refused_with("experts-per-rank: 4\n", "", 10, "rank 0: no experts");
	refused_with("experts-per-rank: 4", "experts-per-rank: 0", 8, "out of range");
	refused_with("experts-per-rank: 4", "experts-per-rank: 65536", 10, "too many experts");
	refused_with("experts-per-rank: 4", "experts-per-rank: 8", 14, "not at rank 1");
	refused_with("experts-per-rank: 4", "experts-per-rank: 2", 14, "not at rank 1");
	refused_with("0x1000000}", "0x1000000, experts: [6, 4]}", 10, "at rank 0 and at rank 1");
	refused_with("0x1000000}", "0x1000000, experts: 4}", 11, "two numbers");
	refused_with("0x1000000}", "0x1000000, experts: [0, 4, 8]}", 11, "two numbers");
	refused_with("0x1000000}", "0x1000000, experts: [0, x]}", 11, "'x'");
	refused_with("0x1000000}", "0x1000000, experts: [0, 65537]}", 11, "out of range");
	refused_with("0x1000000}", "0x1000000, experts: [65534, 4]}", 11, "too many experts");
	refused("moetap-map: 1\njob: d\npattern: inference\nlayers: 1\n"
		"ranks: [{rank: 0, address: 1.1.1.1, experts: [0, 0]},\n"
		"  {rank: 1, address: 1.1.1.2, experts: [1, 0]}]\nrules: []\n",
		1, "no rank holds an expert");
}

/* ---- wrong maps -------------------------------------------------------------------------- */

static void test_keys_of_the_map(void **unused)
{
	(void)unused;
	refused("", 1, "empty");
	refused("\n# nothing\n", 1, "empty");
	refused("---\n...\n", 2, "key: value");
	refused("moetap-map: 2\n", 1, "out of range");
	refused("- 1\n- 2\n", 1, "key: value");
	refused("word\n", 1, "key: value");
	refused_with("moetap-map: 1\n", "", 1, "'moetap-map' is missing");
	refused_with("job: good\n", "", 1, "'job' is missing");
	refused_with("pattern: inference\n", "", 1, "'pattern' is missing");
	refused_with("layers: 2\n", "", 1, "'layers' is missing");
	refused_with("layers: 2", "layer: 2", 4, "'layer' is not known here; keys are");
	refused_with("layers: 2", "layers: 2\nlayers: 3", 5, "'layers' stands here twice");
	refused_with("layers: 2", "layers: 0", 4, "out of range: 1 to 1024");
	refused_with("layers: 2", "layers: 1025", 4, "out of range: 1 to 1024");
	refused_with("layers: 2", "layers: 99999999999999999999", 4, "out of range");
	refused_with("layers: 2", "layers: -2", 4, "out of range");
	refused_with("layers: 2", "layers: two", 4, "'two' is not a whole number");
	refused_with("layers: 2", "layers: 2.5", 4, "'2.5'");
	refused_with("layers: 2", "layers: 2 layers", 4, "'2 layers'");
	refused_with("layers: 2", "layers: \" 2\"", 4, "whole number");
	refused_with("layers: 2", "layers: +2", 4, "whole number");
	refused_with("layers: 2", "layers: 0x", 4, "whole number");
	refused_with("layers: 2", "layers: --2", 4, "whole number");
	refused_with("layers: 2", "layers: 010", 4, "'010' is not a whole number");
	refused_with("layers: 2", "layers:", 4, "whole number is expected");
	refused_with("layers: 2", "layers: [2]", 4, "whole number is expected");
	refused_with("layers: 2", "layers: \"2\\0junk\"", 4, "whole number is expected");
	refused_with("micro-batches: 3", "micro-batches: 1025", 5, "out of range");
	refused_with("job: good", "job: ''", 2, "1 to 63 characters");
	refused_with("job: good", "job: [good]", 2, "1 to 63 characters");
	refused_with("job: good", "job: \"a\\e[2Jb\"", 2, "control character");
	refused_with("job: good", "job: \"a\\0b\"", 2, "1 to 63 characters");
	refused_with("job: good",
		"job: 0123456789012345678901234567890123456789012345678901234567890123", 2,
		"1 to 63 characters");
	ok_with("job: good",
		"job: 012345678901234567890123456789012345678901234567890123456789012");
	refused_with("pattern: inference", "pattern: sometimes", 3,
		"'sometimes' is not known; it may be inference, training, training-recompute");
	refused_with("pattern: inference", "pattern: {}", 3, "may be inference");
	ok_with("pattern: inference", "pattern: training-recompute");
	refused_with("tap: all", "tap: tails", 6, "may be all, heads");
	ok_with("tap: all", "tap: heads");
	refused_with("idle-gap-us: 400", "idle-gap-us: 0", 7, "out of range");
	refused_with("idle-gap-us: 400", "idle-gap-us: 3600000001", 7, "out of range");
	ok_with("idle-gap-us: 400", "idle-gap-us: 3600000000");
	ok_with("layers: 2", "layers: 0x10");
	ok_with("layers: 2", "layers: '2'");
	/* what an error quotes does nothing to a terminal */
	refused_with("layers: 2", "\"\\e[31mred\\n\": 2", 4, "'?[31mred?' is not known");
	refused_with("layers: 2", "? [layers]\n: 2", 4, "(not a word)");
}

static void test_ranks(void **unused)
{
	(void)unused;
	refused_with("rank: 0", "rank: 1", 11, "rank 1 stands here twice, first in line 10");
	refused_with("rank: 0", "rank: 2", 1, "rank 0 is missing");
	refused_with("rank: 0", "rank: 1024", 11, "out of range");
	refused_with("rank: 0, ", "", 11, "'rank' is missing");
	refused_with("address: 10.77.0.1, ", "", 11, "'address' is missing");
	refused_with("base: 0x1000000", "base: -1", 11, "0 or more");
	refused_with("base: 0x1000000", "base: ' -1'", 11, "0 or more");
	refused_with("base: 0x1000000", "base: 0x10000000000000000", 11, "out of range");
	refused_with("base: 0x1000000", "base: yes", 11, "'yes'");
	refused_with("base: 0x1000000", "base: 077", 11, "'077'");
	ok_with("base: 0x1000000", "base: 0xffffffffffffffff");
	refused_with(", base: 0x1000000", "", 11, "rank 0 has no 'base', which rule 'token' needs");
	refused_with("base: 0x1000000", "bass: 1", 11, "'bass' is not known here");
	refused_with("{rank: 0, address: 10.77.0.1, base: 0x1000000}", "7", 11, "key: value");
	refused_with("  - {rank: 0, address: 10.77.0.1, base: 0x1000000}\n", "", 1, "rank 0");
	refused("moetap-map: 1\njob: d\npattern: inference\nlayers: 1\nexperts-per-rank: 1\n"
		"ranks: [{rank: 0, address: 1.1.1.1}]\nrules: []\n",
		1, "at least 2 ranks");
	refused("moetap-map: 1\njob: d\npattern: inference\nlayers: 1\nranks: {rank: 0}\n"
		"rules: []\n",
		5, "a list of ranks");
}

static void test_flows(void **unused)
{
	(void)unused;
	refused_with("src: 1, dst: 0", "src: 2, dst: 0", 13, "there is no rank 2");
	refused_with("src: 1, dst: 0", "src: 1, dst: 5", 13, "there is no rank 5");
	refused_with("src: 1, dst: 0", "src: 1, dst: 1", 13, "to itself");
	refused_with(
		"src: 1, dst: 0, qpn: 0x12", "src: 0, dst: 1, qpn: 17", 14, "stands here twice");
	refused_with("qpn: 0x12", "qpn: 0x1000000", 13, "out of range");
	refused_with("qpn: 0x12", "qpn: 18, port: 3", 13, "'port' is not known");
	refused_with(", qpn: 0x12", "", 13, "'qpn' is missing");
	refused_with("expert: 7", "expert: 3", 14, "expert 3 is not at rank 1, which holds 4 to 7");
	refused_with("expert: 7", "expert: 8", 14, "not at rank 1");
	ok_with("qpn: 0x12", "qpn: 0xffffff");
}

/** Four ranks on two nodes, in place of the two of good_map. */
#define RANKS_OF_GOOD                                                                              \
	"  - {rank: 1, address: 10.77.0.2, base: 0x2000000}\n"                                     \
	"  - {rank: 0, address: 10.77.0.1, base: 0x1000000}\n"
#define RANK(r, more) "  - {rank: " #r ", address: 10.77.0.9" #r ", base: 1" more "}\n"

static void test_nodes(void **unused)
{
	static const char four[] = "{moetap-map: 1, job: j, pattern: inference, layers: 1, "
				   "experts-per-rank: 1, %sranks: ["
				   "{rank: 0, address: 192.0.2.1, node: 7}, "
				   "{rank: 1, address: 192.0.2.2, node: 2}, "
				   "{rank: 2, address: 192.0.2.3, node: 7}, "
				   "{rank: 3, address: 192.0.2.4, node: 0x2}], "
				   "rules: [{name: r, rule: length, phase: dispatch, length: 64, "
				   "expert: {fixed: 0}, token-bytes: 64}]}";
	static const char *const within[] = {"", "within-node: unseen, ", "within-node: seen, "};
	struct mt_bank *bank = good(good_map);
	char text[2048];

	(void)unused;
	/* each rank is a node of its own, if nothing is said */
	assert_int_equal(mt_bank_ranks(bank)[0].node, 0);
	assert_int_equal(mt_bank_ranks(bank)[1].node, 1);
	assert_int_equal(bank->within_node, MT_WITHIN_UNSEEN);
	assert_true(mt_bank_crosses(bank, 0, 1) && mt_bank_crosses(bank, 1, 0));
	assert_false(mt_bank_crosses(bank, 0, 0) || mt_bank_crosses(bank, 1, 1));
	free(bank);
	for (unsigned int w = 0; w < COUNT(within); w++) {
		snprintf(text, sizeof(text), four, within[w]);
		bank = good(text);
		assert_int_equal(bank->within_node, w == 2 ? MT_WITHIN_SEEN : MT_WITHIN_UNSEEN);
		assert_int_equal(mt_bank_ranks(bank)[2].node, 7);
		for (uint32_t src = 0; src < 4; src++)
			for (uint32_t dst = 0; dst < 4; dst++)
				assert_int_equal(mt_bank_crosses(bank, src, dst),
					src != dst && (w == 2 || src % 2 != dst % 2));
		free(bank);
	}
	refused_with("base: 0x2000000}", "base: 0x2000000, node: 1024}", 10, "0 to 1023");
	refused_with("base: 0x2000000}", "base: 0x2000000, node: -1}", 10, "0 to 1023");
	refused_with("base: 0x2000000}", "base: 0x2000000, node: a}", 10, "not a whole number");
	refused_with("base: 0x2000000}", "base: 0x2000000, node: 1, node: 1}", 10, "twice");
	/* rank 1, in line 10, says it, and rank 0, in line 11, does not; and the other way round */
	refused_with(
		"base: 0x2000000}", "base: 0x2000000, node: 1}", 10, "all ranks say it, or none");
	refused_with("base: 0x1000000}", "base: 0x1000000, node: 1}", 10, "rank 1 has no 'node'");
	refused_with("tap: all\n", "tap: all\nwithin-node: maybe\n", 7, "may be unseen, seen");
	refused_with("tap: all\n", "tap: all\nwithin-node: seen\n", 7, "no rank says its 'node'");
	refused_with(RANKS_OF_GOOD, RANK(0, ", node: 5") RANK(1, ", node: 5"), 10,
		"all ranks are on node 5");
	bank = good_with("tap: all\n"
			 "idle-gap-us: 400\nexperts-per-rank: 4\nranks:\n" RANKS_OF_GOOD,
		"within-node: seen\nexperts-per-rank: 4\nranks:\n" RANK(0, ", node: 5")
			RANK(1, ", node: 5"));
	assert_true(mt_bank_crosses(bank, 0, 1));
	free(bank);
}

static void test_rules(void **unused)
{
	(void)unused;
	refused_with("name: token", "name: 012345678901234567890123", 16, "1 to 23 characters");
	refused_with("  - name: token\n    rule: va", "  - rule: va", 16, "'name' is missing");
	refused_with("name: combine", "name: token", 26, "name 'token' stands in line 16");
	refused_with("rule: va", "rule: magic", 17, "may be va, atomic, qp, length");
	refused_with(
		"phase: dispatch", "phase: lunch", 18, "may be dispatch, combine, count, control");
	refused_with("    rule: va\n    phase: dispatch", "    rule: atomic\n    phase: dispatch",
		16, "an atomic carries no tokens");
	refused_with("    rule: va\n    phase: combine", "    rule: qp\n    phase: combine", 26,
		"phase dispatch only");
	refused_with("    rule: va\n    phase: combine", "    rule: va\n    phase: count", 26,
		"counts are announced by rules atomic");
	refused_with("phase: dispatch", "phase: combine", 16, "has no use for 'expert'");
	refused_with("length: 544", "length: [545, 544]", 19, "above the second");
	refused_with("length: 544", "length: [1, 2, 3, 4]", 19, "two numbers");
	refused_with("length: 544", "length: 2147483648", 19, "out of range");
	refused_with("length: 544", "length: -1", 19, "out of range");
	refused_with("offset: 0", "offset: -8", 20, "0 or more");
	refused_with("size: 69632", "size: 0", 21, "1 to 2^47");
	refused_with("size: 69632", "size: 0x800000000001", 21, "1 to 2^47");
	refused_with("    size: 69632\n", "", 16, "'token' (va, dispatch) needs 'size'");
	refused_with("size: 69632", "size: 69631", 16, "4 experts of 17408 bytes do not fit");
	refused_with("{stride: 135168, count: 2}", "{stride: 100, count: 2}", 16, "parity stride");
	refused_with("{stride: 135168, count: 2}", "{stride: 100, count: 1}", 16, "parity stride");
	refused_with(
		"{stride: 135168, count: 2}", "{stride: 135168, count: 17}", 22, "out of range");
	refused_with("{stride: 135168, count: 2}", "{stride: 135168}", 22, "'count' is missing");
	refused_with("{stride: 135168, count: 2}", "{count: 2}", 22, "'stride' is missing");
	refused_with("{stride: 135168, count: 2}", "2", 22, "key: value");
	refused_with("stride: 17408", "stride: 0", 23, "stride of 2 to 2^47");
	refused_with("stride: 17408", "stride: 1", 23, "stride of 2 to 2^47");
	refused_with("count: 4, of: dst", "count: 4000000000, of: dst", 23, "out of range");
	refused_with("count: 4, of: dst", "count: 0, of: dst", 23, "out of range");
	refused_with("count: 4, of: dst", "count: 3, of: dst", 16, "rank 0 holds 4");
	refused_with("of: dst", "of: src", 23, "'of: dst'");
	refused_with("stride: 17408, count: 4", "stride: 17408", 23, "'stride' and 'count'");
	refused_with("stride: 17408, count: 4", "fixed: 1, count: 4", 23, "'fixed' alone");
	refused_with(
		"stride: 17408, count: 4", "fixed: 1", 16, "'stride' and 'count' in a rule va");
	refused_with("    expert: {stride: 17408, count: 4, of: dst}\n", "", 16, "needs 'expert'");
	refused_with("{stride: 8704, count: 2}", "{stride: 8704, count: 3}", 16, "3 sources, but");
	refused_with("{stride: 8704, count: 2}", "{stride: 34817, count: 2}", 16, "do not fit");
	refused_with("token-bytes: 544", "token-bytes: 0", 25, "out of range");
	ok_with("    token-bytes: 544\n", "");
	ok_with("    source: {stride: 8704, count: 2}\n", "");
	ok_with("    length: 544\n", "    length: [1, 1039]\n");
	refused_with("    size: 133120\n", "    size: 133120\n    value: {scale: 1}\n", 26,
		"has no use for 'value'");
	refused_with("    value: {scale: -1, add: -1}\n", "", 32, "needs 'value'");
	ok_with("{scale: -1, add: -1}", "{scale: -1, add: -1}\n    when: negative");
	ok_with("{scale: -1, add: -1}",
		"{scale: -1, add: -1, width: 4}\n    when: negative\n"
		"  - {name: done, rule: atomic, phase: combine, offset: 133120, size: 64, parity: "
		"{stride: 135168, count: 2}, value: {scale: 1, width: 4}, when: positive}");
	/* -6 of 4 bytes is positive as 8 bytes */
	refused_with("{scale: -1, add: -1}",
		"{scale: -1, add: -1, width: 4}\n    when: negative\n"
		"  - {name: done, rule: atomic, phase: combine, offset: 133120, size: 64, parity: "
		"{stride: 135168, count: 2}, when: positive}",
		42, "by rule 'done' and by rule 'count'");
	refused_with("{scale: -1, add: -1}", "{scale: -1, add: -1}\n    when: zero", 41,
		"may be any, negative, positive");
	refused_with("length: 544", "length: 544\n    when: negative", 16, "no use for 'when'");
	refused_with(
		"length: 544", "length: 544\n    payload: {width: 4}", 16, "no use for 'payload'");
	refused_with("{scale: -1, add: -1}", "{add: -1}", 40, "'scale' is missing");
	refused_with("{scale: -1, add: -1}", "{scale: 0}", 40, "announces nothing");
	refused_with("{scale: -1, add: -1}", "{scale: 1000001}", 40, "out of range");
	refused_with("{scale: -1, add: -1}", "{scale: 1, add: 2147483648}", 40, "out of range");
	refused_with("{scale: -1, add: -1}", "{scale: 1, width: 5}", 40, "4 or 8");
	ok_with("{scale: -1, add: -1}", "{scale: -1000000, add: -2147483648, width: 4}");
}

/** A map with these rules; qp: with flows that name experts. */
static char *with_rules(bool flows, const char *rules)
{
	char *text;

	assert_true(asprintf(&text,
			    "moetap-map: 1\njob: d\npattern: inference\nlayers: 1\n"
			    "experts-per-rank: 1\n"
			    "ranks: [{rank: 0, address: 1.1.1.1, base: 0}, "
			    "{rank: 1, address: 1.1.1.2, base: 0}]\n%srules:\n%s",
			    flows ? "flows: [{src: 0, dst: 1, qpn: 9, expert: 1}]\n" : "\n",
			    rules) > 0);
	return text;
}

static void rules_refused(bool flows, const char *rules, unsigned int line, const char *words)
{
	char *text = with_rules(flows, rules);

	refused(text, line, words);
	free(text);
}

static void rules_ok(bool flows, const char *rules)
{
	char *text = with_rules(flows, rules);

	free(good(text));
	free(text);
}

#define VA(name, more) "- {name: " name ", rule: va, phase: dispatch, " more "}\n"
#define COMBINE(name, more) "- {name: " name ", rule: va, phase: combine, " more "}\n"
#define EXPERT "expert: {stride: 4, count: 1}"

/** A map that wants to learn a form, in line 6, and has these rules. */
static void learn_refused(const char *rules, const char *words)
{
	char *text;

	assert_true(asprintf(&text,
			    "moetap-map: 1\njob: d\npattern: inference\nlayers: 1\n"
			    "experts-per-rank: 1\natomic-form: learn\nranks: [{rank: 0, address: "
			    "1.1.1.1, base: 0}, {rank: 1, address: 1.1.1.2, base: 0}]\nrules:\n%s",
			    rules) > 0);
	refused(text, 6, words);
	free(text);
}

/** How atomics are known: a word, or numbers that can be. */
static void test_atomic_form(void **unused)
{
	static const struct mt_form none, form = {.opcode = 0xe1,
		.length = 36,
		.address = 12,
		.operand = 28,
		.width = 4,
		.order = MT_ORDER_LITTLE};
	struct mt_bank *bank;

	(void)unused;
#define FORM(text) "tap: all\natomic-form: " text
	bank = good_with("tap: all", FORM("learn"));
	assert_int_equal(bank->atomics, MT_ATOMICS_LEARN);
	assert_memory_equal(&bank->form, &none, sizeof(none));
	assert_int_equal(mt_bank_snap(bank), 22 + 40 + 8 + 12 + MT_FORM_MOST);
	free(bank);
	bank = good_with("tap: all", FORM("{opcode: 0xe1, length: 36, address: 12, operand: 28, width: 4, "
				       "order: little}"));
	assert_int_equal(bank->atomics, MT_ATOMICS_FORM);
	assert_memory_equal(&bank->form, &form, sizeof(form));
	assert_int_equal(mt_bank_snap(bank), 22 + 40 + 8 + 12 + 32);
	free(bank);
	ok_with("tap: all", FORM("standard"));
	ok_with("tap: all", FORM("{opcode: 0x15, length: 20, address: 0, operand: 12, width: 8}"));
	ok_with("tap: all", FORM("{opcode: 0x14, length: 32, address: 0, operand: 28, width: 4}"));
	ok_with("tap: all", FORM("{opcode: 255, length: 64, address: 56, operand: 48, width: 8}"));
	refused_with("tap: all", FORM("guess"), 7, "may be standard, learn");
	refused_with("tap: all", FORM("{opcode: 0x15}"), 7, "'length' is missing");
	refused_with("tap: all",
		FORM("{opcode: 0x15, length: 16, address: 0, operand: 8, width: 4}"), 7,
		"out of range");
	refused_with("tap: all",
		FORM("{opcode: 0x15, length: 68, address: 0, operand: 8, width: 4}"), 7,
		"out of range");
	refused_with("tap: all",
		FORM("{opcode: 0x15, length: 28, address: 0, operand: 12, width: 2}"), 7, "4 or 8");
	refused_with("tap: all",
		FORM("{opcode: 0x15, length: 28, address: 0, operand: 12, width: 8, order: odd}"), 7,
		"may be little, big");
	/* a WRITE; the standard atomic; no room, shared, or at odd places */
	for (size_t i = 0; i < 9; i++) {
		static const char *const bad[] = {
			FORM("{opcode: 0x0a, length: 28, address: 0, operand: 12, width: 8}"),
			FORM("{opcode: 0x81, length: 28, address: 0, operand: 12, width: 8}"),
			FORM("{opcode: 0x14, length: 28, address: 0, operand: 12, width: 8}"),
			FORM("{opcode: 0x15, length: 28, address: 24, operand: 12, width: 8}"),
			FORM("{opcode: 0x15, length: 28, address: 0, operand: 24, width: 8}"),
			FORM("{opcode: 0x15, length: 28, address: 8, operand: 12, width: 8}"),
			FORM("{opcode: 0x15, length: 28, address: 8, operand: 4, width: 8}"),
			FORM("{opcode: 0x15, length: 28, address: 2, operand: 12, width: 8}"),
			FORM("{opcode: 0x15, length: 30, address: 0, operand: 12, width: 8}")};

		refused_with("tap: all", bad[i], 7, "no atomic: opcode 0x15");
	}
#undef FORM
#define COUNTED(rule) "- {name: token, rule: va, phase: dispatch, size: 8, " EXPERT "}\n" rule
#define ATOMIC_RULE                                                                                \
	"- {name: n, rule: atomic, phase: count, size: 8, " EXPERT ", value: {scale: 1}}\n"
	learn_refused(COUNTED("- {name: n, rule: atomic, phase: combine, size: 8}\n"),
		"'atomic-form' needs a rule atomic of phase count");
	learn_refused(COUNTED(ATOMIC_RULE "- {name: i, rule: imm, phase: count, imm: {mask: 1, value: "
					  "1}, place: {shift: 0, bits: 1}, size: 8, " EXPERT
					  ", value: {scale: 1, bits: 1}}\n"),
		"but rule 'i' (imm) tells tokens too");
}

/* Which rules could read one message. */
static void test_overlaps(void **unused)
{
	(void)unused;
	rules_ok(false, VA("a", "size: 8, " EXPERT) COMBINE("b", "offset: 8, size: 8"));
	rules_refused(false, VA("a", "size: 8, " EXPERT) COMBINE("b", "offset: 7, size: 8"), 10,
		"could be read by rule 'b' and by rule 'a' (line 9)");
	rules_ok(false, VA("a", "size: 8, length: 4, " EXPERT) COMBINE("b", "size: 8, length: 5"));
	rules_refused(false,
		VA("a", "size: 8, length: [4, 5], " EXPERT) COMBINE("b", "size: 8, length: 5"), 10,
		"could be read");
	/* parity areas lie between each other */
	rules_ok(false, VA("a", "size: 8, parity: {stride: 16, count: 3}, " EXPERT)
				COMBINE("b", "offset: 8, size: 8, parity: {stride: 16, count: 3}"));
	rules_refused(false,
		VA("a", "size: 8, parity: {stride: 16, count: 3}, " EXPERT)
			COMBINE("b", "offset: 39, size: 1"),
		10, "could be read");
	rules_ok(false, VA("a", "size: 8, parity: {stride: 16, count: 3}, " EXPERT)
				COMBINE("b", "offset: 40, size: 9999"));
	/* addresses wrap */
	rules_ok(false,
		VA("a", "offset: 0xfffffffffffffff8, size: 8, " EXPERT) COMBINE("b", "size: 8"));
	rules_refused(false,
		VA("a", "offset: 0xfffffffffffffff8, size: 9, " EXPERT) COMBINE("b", "size: 8"), 10,
		"could be read");
	rules_refused(false,
		VA("a", "size: 8, " EXPERT) COMBINE("b", "offset: 0xffffffffffffffff, size: 2"), 10,
		"could be read");
	/* an atomic is no write */
	rules_ok(false,
		VA("a", "size: 8, " EXPERT) "- {name: b, rule: atomic, phase: control, size: 8}\n");
	rules_refused(false,
		VA("a", "size: 8, " EXPERT) "- {name: b, rule: atomic, phase: control, size: 8}\n"
					    "- {name: c, rule: atomic, phase: combine, size: 1}\n",
		11, "could be read");
	/* rules without a region read all addresses */
	rules_refused(false,
		VA("a", "size: 8, " EXPERT) "- {name: b, rule: length, phase: combine, length: "
					    "4}\n",
		10, "could be read");
	rules_ok(false, VA("a", "size: 8, length: 5, " EXPERT) "- {name: b, rule: length, phase: "
							       "combine, length: 4}\n");
	rules_refused(true,
		"- {name: a, rule: qp, phase: dispatch}\n"
		"- {name: b, rule: length, phase: combine, length: 4}\n",
		10, "could be read");
	rules_ok(true, "- {name: a, rule: qp, phase: dispatch, length: [5, 9]}\n"
		       "- {name: b, rule: length, phase: combine, length: 4}\n");
}

/* Two ranks with two named bases; rules start in line 9. */
static char *with_bases(const char *at_0, const char *at_1, const char *rules)
{
	char *text;

	assert_true(asprintf(&text,
			    "moetap-map: 1\njob: d\npattern: inference\nlayers: 1\n"
			    "experts-per-rank: 1\nranks:\n"
			    "- {rank: 0, address: 1.1.1.1, base: 0x1000, bases: {%s}}\n"
			    "- {rank: 1, address: 1.1.1.2, base: 0x1000, bases: {%s}}\nrules:\n%s",
			    at_0, at_1, rules) > 0);
	return text;
}

static void bases_refused(
	const char *at_0, const char *at_1, const char *rules, unsigned int line, const char *words)
{
	char *text = with_bases(at_0, at_1, rules);

	refused(text, line, words);
	free(text);
}

static void bases_ok(const char *at_0, const char *at_1, const char *rules)
{
	char *text = with_bases(at_0, at_1, rules);

	free(good(text));
	free(text);
}

static void test_bases(void **unused)
{
	static const char one[] = VA("a", "base: x, size: 8, " EXPERT);
	static const char two[] =
		VA("a", "base: x, size: 8, " EXPERT) COMBINE("b", "base: y, size: 8");
	static const char own[] = VA("a", "size: 8, parity: {stride: 16, count: 2}, " EXPERT)
		COMBINE("b", "base: x, offset: 4, size: 4, parity: {stride: 32, count: 2}");

	(void)unused;
	bases_ok("x: 1", "x: 2, y: 3", one);
	bases_refused("x: 1", "y: 2", one, 8,
		"rank 1 has no 'x' among its 'bases', which rule 'a' needs");
	bases_refused("y: 1", "y: 2", one, 10, "rule 'a': no rank has 'x' among its 'bases'");
	bases_refused("x: 1, x: 2", "x: 2", one, 7, "'x' stands here twice");
	bases_refused("x: -1", "x: 2", one, 7, "0 or more");
	bases_refused("x: a", "x: 2", one, 7, "'a'");
	bases_refused("? [x] : 1", "x: 2", one, 7, "a text of 1 to 23 characters");
	bases_refused("a23456789012345678901234: 1", "x: 2", one, 7, "a text of 1 to 23");
	bases_refused("a: 1, b: 1, c: 1, d: 1, e: 1, f: 1, g: 1, h: 1", "i: 1", one, 8,
		"too many names of bases: at most 8");
	bases_refused("a: 1, b: 1, c: 1, d: 1, e: 1, f: 1, g: 1, h: 1, i: 1", "x: 1", one, 7,
		"too many bases: at most 8");
	bases_refused("x: 1", "x: 1",
		VA("a", "size: 8, " EXPERT) "- {name: b, rule: length, phase: control, length: 4, "
					    "base: x}\n",
		11, "has no use for 'base'");
	bases_refused("x: 1", "x: 1",
		"- {name: b, rule: payload-counts, phase: dispatch, length: 4, base: x, payload: "
		"{width: 4}}\n",
		10, "has no use for 'base' without 'size'");
	bases_ok("x: 1", "x: 1",
		"- {name: b, rule: payload-counts, phase: dispatch, length: 4, base: x, size: 4, "
		"payload: {width: 4}}\n");
	/* regions of different bases, at each rank */
	bases_ok("x: 0, y: 8", "x: 8, y: 0", two);
	bases_refused("x: 0, y: 8", "x: 8, y: 1", two, 11,
		"could be read by rule 'b' and by rule 'a' (line 10)");
	bases_refused("x: 0, y: 7", "x: 8, y: 0", two, 11, "could be read");
	bases_ok("x: 0, y: 0xfffffffffffffff8", "x: 0xfffffffffffffff8, y: 0", two);
	bases_refused("x: 1, y: 0xfffffffffffffffa", "x: 16, y: 0", two, 11, "could be read");
	/* own base and a named one, with areas */
	bases_ok("x: 0x1004", "x: 0x1004", own);
	bases_refused("x: 0x1004", "x: 0x1003", own, 11, "could be read");
	bases_refused("x: 0xff0", "x: 0x1004", own, 11, "could be read");
	bases_ok("x: 0xfd8", "x: 0x1014", own);
}

#define LENGTH(name, length, more)                                                                 \
	"- {name: " name ", rule: length, phase: dispatch, length: " length ", " more "}\n"

#define TOLD "- {name: t, rule: payload-counts, phase: dispatch, length: 4, payload: {width: 4}}\n"
#define DONE(name, length) "- {name: " name ", rule: length, phase: combine, length: " length "}\n"
#define ADDED(name, more)                                                                          \
	"- {name: " name ", rule: atomic, phase: count, value: {scale: 1}, " more "}\n"
#define LIST(name, length)                                                                         \
	"- {name: " name ", rule: payload-index, phase: dispatch, length: " length                 \
	", payload: {width: 4, count: 1, stride: 8}}\n"

/** Every rule of the load's or the witness's type that tells tokens says so; the others are neither. */
static void check_roles(const struct mt_bank *bank, unsigned int load, int witness)
{
	uint32_t most = 0;

	for (uint32_t i = 0; i < bank->rules; i++) {
		const struct mt_rule *r = &mt_bank_rules(bank)[i];
		const char *role = mt_rule_role(bank, r);

		if (r->phase != MT_PHASE_DISPATCH && r->phase != MT_PHASE_COUNT)
			assert_null(role);
		else
			assert_string_equal(role, r->type == load ? "load" : "witness");
		assert_true(role == NULL || r->type == load || (int)r->type == witness);
		most = mt_rule_snap(bank, r) > most ? mt_rule_snap(bank, r) : most;
	}
	assert_int_equal(most, bank->snap);
}

static void good_witness(const char *rules, unsigned int load, int witness)
{
	char *text = with_rules(false, rules);
	struct mt_bank *bank = good(text);

	assert_int_equal(mt_bank_load(bank)->type, load);
	check_roles(bank, load, witness);
	if (witness < 0)
		assert_null(mt_bank_witness(bank));
	else
		assert_int_equal(mt_bank_witness(bank)->type, witness);
	free(bank);
	free(text);
}

/** Where several rules tell the same tokens: which is the load, and which is compared with it. */
static void test_witness(void **unused)
{
	(void)unused;
	good_witness(TOLD, MT_RULE_COUNTS, -1);
	good_witness(TOLD DONE("d", "5") LIST("l", "16"), MT_RULE_COUNTS, MT_RULE_INDEX);
	good_witness(LIST("l", "16") DONE("d", "5") TOLD, MT_RULE_COUNTS, MT_RULE_INDEX);
	good_witness(TOLD DONE("d", "5") VA("a", "length: 8, size: 8, " EXPERT), MT_RULE_COUNTS,
		MT_RULE_VA);
	good_witness(TOLD DONE("d", "5") LENGTH("b", "6", "expert: {fixed: 0}, token-bytes: 2"),
		MT_RULE_COUNTS, MT_RULE_LENGTH);
	good_witness(VA("a", "size: 8, " EXPERT) ADDED("c", "offset: 16, size: 8, " EXPERT),
		MT_RULE_ATOMIC, MT_RULE_VA);
	rules_refused(false, TOLD LIST("l", "16"), 10, "needs a rule of phase combine");
	rules_refused(false,
		TOLD DONE("d", "5") LIST("l", "16") VA("a", "length: 8, size: 8, " EXPERT), 12,
		"'l' and 'a' count tokens in different ways");
	rules_refused(false, TOLD DONE("d", "5") LIST("l", "16") ADDED("c", "size: 8, " EXPERT), 12,
		"are both to be compared with 't'");
	rules_refused(false,
		TOLD DONE("d", "5") LENGTH("b", "6", "expert: {fixed: 0}, token-bytes: 2")
			LENGTH("c", "7", "expert: {fixed: 0}, token-bytes: 3"),
		12, "count tokens in different ways");
	rules_refused(false,
		TOLD "- {name: u, rule: payload-counts, phase: count, length: 6, payload: {width: "
		     "4}}\n",
		10, "both read the load");
}

/** Lengths that lie so many bytes apart, and rules that are left out. */
static void test_steps(void **unused)
{
	(void)unused;
	rules_ok(false, DONE("d", "[6, 60, 12]") LIST("l", "[8, 32, 8]") DONE("e", "[7, 61, 6]"));
	rules_refused(false, DONE("d", "[6, 60, 6]") LIST("l", "[8, 24, 8]"), 10, "could be read");
	rules_ok(false, DONE("d", "[6, 23, 6]") LIST("l", "[8, 24, 8]"));
	rules_refused(false, DONE("d", "[10, 20, 5]") LIST("l", "15"), 10, "could be read");
	rules_ok(false, DONE("d", "[10, 20, 5]") LIST("l", "16"));
	rules_refused(false, DONE("d", "[6, 60, 0]"), 9, "1 to 1048576 bytes apart");
	rules_refused(false, DONE("d", "[6, 60, 1048577]"), 9, "1 to 1048576 bytes apart");
	rules_refused(false, DONE("d", "[6, 60, 6, 6]"), 9, "two numbers are expected");
	rules_refused(false, VA("a", "length: [8, 80, 8], size: 8, " EXPERT), 9,
		"are for rules without 'size'");
	rules_ok(false, TOLD "- {if: 0, name: t, rule: qp, phase: dispatch}\n");
	rules_ok(false,
		TOLD "- {if: ranks == 2, name: d, rule: length, phase: combine, length: 5}\n");
	rules_refused(false, "- {if: 0, name: t, rule: qp, phase: dispatch}\n", 1,
		"no rule of phase dispatch");
	rules_ok(false, TOLD "- {if: 0, name: t, rule: x, length: [9, 8]}\n");
	rules_refused(false, TOLD "- {if: x, name: t, rule: qp, phase: dispatch}\n", 10, "x");
}

static void test_ways_to_count(void **unused)
{
	(void)unused;
	rules_refused(false, COMBINE("b", "size: 8"), 1, "no rule of phase dispatch");
	rules_refused(false, "- {name: a, rule: qp, phase: dispatch}\n", 9, "needs 'flows'");
	rules_ok(true, "- {name: a, rule: qp, phase: dispatch}\n");
	rules_refused(false,
		LENGTH("b", "4", "expert: {fixed: 0}, token-bytes: 2") "- {name: a, rule: qp, "
								       "phase: dispatch, length: "
								       "5, token-bytes: 2}\n",
		10, "needs 'flows'");
	rules_refused(
		true, "- {name: a, rule: qp, phase: dispatch, size: 4}\n", 9, "no use for 'size'");
	rules_refused(true, "- {name: a, rule: qp, phase: dispatch, " EXPERT "}\n", 9,
		"no use for 'expert'");
	rules_refused(false, LENGTH("a", "4", "token-bytes: 2"), 9, "needs 'expert'");
	rules_refused(false, LENGTH("a", "4", "expert: {fixed: 0}"), 9, "needs 'token-bytes'");
	rules_refused(
		false, LENGTH("a", "4", EXPERT ", token-bytes: 2"), 9, "'fixed' in a rule length");
	rules_refused(false, LENGTH("a", "4", "expert: {fixed: 1}, token-bytes: 2"), 9,
		"expert 1 of a rank, but rank 0 holds 1");
	rules_refused(false, LENGTH("a", "4", "expert: {fixed: 65536}, token-bytes: 2"), 9,
		"out of range");
	rules_refused(false,
		LENGTH("a", "4", "expert: {fixed: 0}, token-bytes: 2")
			LENGTH("b", "5", "expert: {fixed: 0}, token-bytes: 3"),
		10, "'a' and 'b' count tokens in different ways");
	rules_refused(false,
		VA("a", "size: 8, length: 5, " EXPERT)
			LENGTH("b", "4", "expert: {fixed: 0}, token-bytes: 3"),
		10, "different ways");
	rules_ok(false, VA("a", "size: 8, token-bytes: 4, " EXPERT)
				VA("b", "offset: 8, size: 8, token-bytes: 5, " EXPERT));
}

/* ---- limits ------------------------------------------------------------------------------ */

struct text {
	char *at;
	size_t len;
	FILE *f;
};

static void text_open(struct text *t, unsigned int ranks)
{
	t->f = open_memstream(&t->at, &t->len);
	assert_non_null(t->f);
	fprintf(t->f, "moetap-map: 1\njob: big\npattern: inference\nlayers: 1\n"
		      "experts-per-rank: 1\nranks:\n");
	for (unsigned int r = 0; r < ranks; r++)
		fprintf(t->f, "  - {rank: %u, address: 10.0.%u.%u}\n", r, r >> 8, r & 255);
}

static const char *text_done(struct text *t)
{
	fclose(t->f);
	return t->at;
}

#define LENGTH_RULE "rules:\n" LENGTH("r", "8", "expert: {fixed: 0}, token-bytes: 8")

static void test_limits(void **unused)
{
	struct mt_bank *bank;
	struct text t;

	(void)unused;
	text_open(&t, MT_MAX_RANKS);
	fputs(LENGTH_RULE, t.f);
	bank = good(text_done(&t));
	assert_int_equal(bank->ranks, MT_MAX_RANKS);
	assert_int_equal(bank->experts, MT_MAX_RANKS);
	free(bank);
	free(t.at);
	text_open(&t, MT_MAX_RANKS + 1);
	fputs(LENGTH_RULE, t.f);
	refused(text_done(&t), 7, "too many ranks: at most 1024");
	free(t.at);
	/* cells */
	text_open(&t, MT_MAX_RANKS - 1);
	fprintf(t.f, "  - {rank: %u, address: 10.1.0.0, experts: [1023, 2]}\n" LENGTH_RULE,
		MT_MAX_RANKS - 1);
	refused(text_done(&t), 1, "1024 ranks with 1025 experts make more than 1048576 cells");
	free(t.at);
	/* addresses */
	text_open(&t, 2);
	fputs("  - rank: 2\n    address:\n", t.f);
	for (unsigned int i = 0; i < MT_MAX_ADDRS - 1; i++)
		fprintf(t.f, "    - 10.1.%u.%u\n", i >> 8, i & 255);
	fputs(LENGTH_RULE, t.f);
	refused(text_done(&t), 11 + MT_MAX_ADDRS - 2, "too many addresses: at most 8192");
	free(t.at);
	/* rules */
	text_open(&t, 2);
	fputs("rules:\n", t.f);
	for (unsigned int i = 0; i <= MT_MAX_RULES; i++)
		fprintf(t.f,
			"- {name: r%u, rule: length, phase: dispatch, length: %u, "
			"expert: {fixed: 0}, token-bytes: 8}\n",
			i, i);
	refused(text_done(&t), 10, "too many rules: at most 16");
	*strstr(t.at, "- {name: r16") = '#';
	bank = good(t.at);
	assert_int_equal(bank->rules, MT_MAX_RULES);
	free(bank);
	free(t.at);
	/* many flows, backwards */
	text_open(&t, 2);
	fputs("flows:\n", t.f);
	for (unsigned int i = 20000; i-- > 0;)
		fprintf(t.f, "  - {src: %u, dst: %u, qpn: %u}\n", i & 1, ~i & 1, i);
	fputs(LENGTH_RULE, t.f);
	bank = good(text_done(&t));
	assert_int_equal(bank->flows, 20000);
	assert_int_equal(mt_bank_flows(bank)[19999].qpn, 19999);
	free(bank);
	free(t.at);
}

/* ---- YAML -------------------------------------------------------------------------------- */

static void test_yaml(void **unused)
{
	struct mt_bank *bank;
	char *text, *again;

	(void)unused;
	refused("moetap-map: [1\n", 2, "not YAML");
	refused("moetap-map: 1\n\tjob: x\n", 2, "not YAML");
	refused("moetap-map: 1\njob: x\n}\n", 3, "not YAML");
	refused("moetap-map: 1\njob: *nobody\n", 2, "not YAML: found undefined alias");
	refused_with("layers: 2", "layers: &a 2\nmicro-batches: *a\n", 7, "stands here twice");
	/* anchors and aliases are YAML's and fine */
	text = changed(
		"parity: {stride: 135168, count: 2}", "parity: &p {stride: 135168, count: 2}");
	again = strstr(strstr(text, "combine"), "{stride: 135168, count: 2}");
	memcpy(again, "*p                        ", strlen("{stride: 135168, count: 2}"));
	bank = good(text);
	assert_int_equal(mt_bank_rules(bank)[1].parity_stride, 135168);
	free(bank);
	free(text);
	refused_with("rank: 0, address: 10.77.0.1, base: 0x1000000}", "<<: *r}", 11,
		"not YAML"); /* no such anchor */
	refused("a: &a [*a]\n", 1, "'a' is not known");
	refused("&a {*a : *a}\n", 1, "(not a word)");
	refused("moetap-map: 1\nranks: &a [*a]\n", 2, "key: value");
	refused("moetap-map: 1\nranks:\n- &a {rank: 0, address: [*a]}\n", 3, "not an IPv4");
	/* line ends, marks, documents */
	text = malloc(2 * sizeof(good_map) + 3);
	assert_non_null(text);
	memcpy(text, "\xef\xbb\xbf", 3);
	for (size_t i = 0, at = 3; i < sizeof(good_map); i++) {
		if (good_map[i] == '\n')
			text[at++] = '\r';
		text[at++] = good_map[i];
	}
	free(good(text));
	*strstr(text, "layers") = 'p';
	refused(text, 4, "'payers' is not known");
	free(text);
	ok_with("moetap-map: 1\n", "%YAML 1.1\n---\nmoetap-map: 1\n");
	ok_with("{scale: -1, add: -1}\n", "{scale: -1, add: -1}\n...\n# end\n");
	refused_with("{scale: -1, add: -1}\n", "{scale: -1, add: -1}\n---\nlayers: 3\n", 41,
		"a second document");
	refused_with("{scale: -1, add: -1}\n", "{scale: -1, add: -1}\n...\n}\n", 42, "not YAML");
}

static void test_bytes(void **unused)
{
	static const char nul[] = "moetap-map: 1\njob: a\0b\n";
	static const char latin[] = "moetap-map: 1\njob: a\njob: \xe4\xf6\xfc\n";
	static const char surrogate[] = "moetap-map: 1\njob: \xed\xa0\x80\n";
	static const char utf16[] = "\xff\xfe"
				    "a\0:\0 \0"
				    "1\0";
	static const char half[] = "moetap-map: 1\njob: \xe2\x82";
	char random[800];

	(void)unused;
	for (size_t i = 0; i < sizeof(random); i += 4)
		memcpy(random + i, "\x00\xff\xfe\x01", 4);
	refused_bytes(random, sizeof(random), 1, "not YAML");
	refused_bytes(nul, sizeof(nul) - 1, 2, "not YAML: control characters");
	refused_bytes(latin, sizeof(latin) - 1, 3, "not YAML: invalid");
	refused_bytes(surrogate, sizeof(surrogate) - 1, 2, "not YAML: invalid");
	refused_bytes(half, sizeof(half) - 1, 2, "not YAML: incomplete");
	refused_bytes(utf16, sizeof(utf16) - 1, 1, "'a' is not known");
	refused_with("job: good", "job: \x01", 2, "not YAML: control characters");
	refused_with("job: good", "job: \x7f", 2, "not YAML");
	ok_with("job: good", "job: \xc3\xa4\xe2\x82\xac");
}

static void test_nesting(void **unused)
{
	static const char *const parts[] = {"[", "{a: ", "- ", "? ", "&a [", "!!map {a: "};
	struct timespec begun, ended;

	(void)unused;
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (size_t p = 0; p < COUNT(parts); p++) {
		size_t n = strlen(parts[p]), times = 200000;
		char *text = malloc(n * times + 1);

		assert_non_null(text);
		for (size_t i = 0; i < times; i++)
			memcpy(text + i * n, parts[p], n + 1);
		refused(text, 1, "more than 16 deep");
		free(text);
	}
	clock_gettime(CLOCK_MONOTONIC, &ended);
	assert_true(ended.tv_sec - begun.tv_sec < 20);
}

/* Any change of some bytes: refused with a place, or a bank that can be used. */
static void test_random_changes(void **unused)
{
	static const char alphabet[] = "0123456789-x:{}[],&*#'\"\n \tabc\\|>%!?\xc3\x80\x01";
	uint32_t seed = first_seed(), parsed = 0;
	char text[sizeof(good_map)];

	(void)unused;
	for (int i = 0; i < 20000; i++) {
		uint32_t changes = 1 + next_random(&seed) % 4;
		struct outcome o;

		memcpy(text, good_map, sizeof(text));
		while (changes-- > 0)
			text[next_random(&seed) % (sizeof(text) - 1)] =
				alphabet[next_random(&seed) % (sizeof(alphabet) - 1)];
		o = parse_bytes(text, next_random(&seed) % 8 ? sizeof(text) - 1
							     : next_random(&seed) % sizeof(text));
		if (o.ret == 0) {
			assert_int_equal(mt_bank_check(o.bank, o.bank->bytes, NULL), 0);
			free(o.bank);
			parsed++;
		} else {
			assert_int_equal(o.ret, -EINVAL);
			assert_int_equal(strncmp(o.err.text, "m.yaml:", 7), 0);
		}
	}
	print_message("%u of 20000 are still maps\n", parsed);
	assert_true(parsed > 100);
}

/* ---- files ------------------------------------------------------------------------------- */

static void load_refused(const char *path, int ret, const char *words)
{
	struct mt_error err = {""};
	struct mt_bank *bank;

	assert_int_equal(mt_map_load(path, &bank, &err), ret);
	if (strstr(err.text, path) == NULL || strstr(err.text, words) == NULL)
		fail_msg("%s", err.text);
}

static void test_load(void **unused)
{
	char dir[] = "/tmp/moetap-map-XXXXXX", path[64];
	struct mt_error err;
	struct mt_bank *bank;
	int status;
	pid_t pid;
	FILE *f;

	(void)unused;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/map", dir);
	load_refused(path, -ENOENT, "No such file");
	load_refused(dir, -EINVAL, "regular file");
	assert_int_equal(mkfifo(path, 0600), 0);
	load_refused(path, -EINVAL, "regular file"); /* and does not wait for a writer */
	unlink(path);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(good_map, f);
	fclose(f);
	assert_int_equal(mt_map_load(path, &bank, &err), 0);
	free(bank);
	assert_int_equal(chmod(path, 0), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (geteuid() == 0 && setuid(65534) != 0)
			_exit(2);
		_exit(mt_map_load(path, &bank, &err) == -EACCES &&
					strstr(err.text, "Permission") != NULL
				? 0
				: 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	chmod(path, 0600);
	assert_int_equal(truncate(path, (off_t)MT_MAP_FILE_MAX + 1), 0);
	load_refused(path, -EFBIG, "256 MiB");
	unlink(path);
	rmdir(dir);
}

/* ---- rules that read payloads and immediates ----------------------------------------------- */

static void test_payload(void **unused)
{
	(void)unused;
	use_base("docs/maps/vectors.yaml");
	ok_with("at: 32", "at: 36");
	refused_with("at: 32", "at: 40", 14, "rank 0 end at byte 72, but messages may have 68");
	refused_with("at: 32", "at: 30", 14, "no multiple of the width, 4");
	refused_with("at: 32", "at: 65540", 18, "out of range");
	refused_with("width: 4", "width: 5", 18, "4 or 8");
	refused_with("width: 4, ", "", 18, "'width' is missing");
	refused_with("width: 4", "width: 8", 14, "rank 0 end at byte 96");
	refused_with("of: dst", "of: all", 14, "rank 0 end at byte 128");
	refused_with("of: dst", "of: src", 18, "may be dst, all");
	refused_with("plain", "zigzag", 18, "may be plain, complement");
	refused_with("length: 68 ", "length: [60, 68] ", 14, "messages may have 60");
	refused_with("phase: dispatch", "phase: combine", 14, "integers are tokens");
	refused_with("phase: dispatch", "phase: count", 1, "no rule of phase dispatch");
	refused_with("of: dst}", "of: dst, count: 2}", 14, "no use for 'count'");
	ok_with("of: dst}", "of: dst}\n    announcers: 8");
	refused_with("of: dst}", "of: dst}\n    announcers: 0", 19, "out of range: 1 to 4096");
	refused_with(
		"length: [4096", "announcers: 2\n    length: [4096", 19, "no use for 'announcers'");
	refused_with("length: [4096, 2147483647]", "length: [68, 2147483647]", 19,
		"could be read by rule 'data' and by rule 'counts'");
	use_base(NULL);
}

static void test_lists(void **unused)
{
	(void)unused;
	use_base("docs/maps/lists.yaml");
	refused_with(", count: 4", "", 14, "payload needs 'count'");
	refused_with(", stride: 2128", "", 14, "payload needs 'count'");
	refused_with("stride: 2128", "stride: 12", 14,
		"4 numbers of 4 bytes do not fit in a stride of 12");
	refused_with("stride: 2128", "stride: 2127", 14, "multiple of 4");
	refused_with("length: 2128 ", "length: 2127 ", 14,
		"end at byte 2128, but messages may have 2127");
	refused_with("width: 4", "width: 8", 14, "a width of 4, plain");
	refused_with("of: all", "of: all, encoding: complement", 14, "a width of 4, plain");
	refused_with(
		"phase: dispatch", "phase: combine", 14, "a list names experts: phase dispatch");
	use_base("docs/maps/rows.yaml");
	refused_with(
		"length: 64", "length: 60", 13, "rank 0 end at byte 64, but messages may have 60");
	refused_with("of: dst", "of: all", 13, "rank 0 end at byte 128");
	refused_with("of: dst}", "of: dst, stride: 64}", 13, "no use for 'count' and 'stride'");
	use_base(NULL);
}

static void test_imm(void **unused)
{
	(void)unused;
	use_base("docs/maps/immediates.yaml");
	refused_with("value: 0x80000000}", "value: 0xc0000000}", 24, "bits that the mask");
	refused_with("bits: 13, unit: 8", "bits: 33, unit: 8", 25, "out of range: 1 to 32");
	refused_with("shift: 0, bits: 13", "shift: 24, bits: 13", 20, "an immediate has 32 bits");
	refused_with("bits: 15, ", "", 20, "needs the 'bits' of its value");
	refused_with("unit: 8", "unit: 0", 25, "out of range");
	refused_with("signed: 1", "signed: 2", 29, "out of range");
	refused_with("phase: count", "phase: dispatch", 20, "an immediate announces");
	refused_with("    when: negative\n", "", 30, "by rule 'done' and by rule 'count'");
	/* what is negative in 15 bits may be positive in others */
	refused_with("bits: 15, signed: 1, scale: 1}", "bits: 16, signed: 1, scale: 1}", 31,
		"by rule 'done' and by rule 'count'");
	refused_with("    size: 64      ", "    # size: 64      ", 20, "needs 'size'");
	use_base(NULL);
}

static void test_matches(void **unused)
{
	static const char counts[] =
		"  - {name: b, rule: payload-counts, phase: dispatch, length: 41, "
		"match: [{at: 0, width: 1, value: 6}], "
		"payload: {at: 9, width: 8}}\n  - name: other";
	static const char lists[] =
		"  - {name: b, rule: payload-dense, phase: control, length: 41, "
		"match: [{at: 0, width: 1, value: 6}], "
		"payload: {width: 4}}\n  - name: other";

	(void)unused;
	use_base("docs/maps/matches.yaml");
	/* behind a header integers may lie anywhere, and lengths need not set rules apart */
	ok_with("  - name: other", counts);
	refused_with("  - name: other", lists, 21, "a list names experts");
	refused_with("length: 41", "length: 40", 13, "end at byte 41, but messages may have 40");
	refused_with("width: 1, mask: 0x1f, value: 2", "width: 1, mask: 0x1f, value: 32", 18,
		"bits that the mask 0x1f has not");
	refused_with("at: 5, width: 4", "at: 61, width: 4", 18, "a match ends behind byte 64");
	ok_with("at: 5, width: 4", "at: 60, width: 4");
	ok_with("layers: 12", "layers: 12\npath-mtu: 1024");
	refused_with("layers: 12", "layers: 12\npath-mtu: 1500", 8, "a power of two");
	refused_with("layers: 12", "layers: 12\npath-mtu: 128", 8, "out of range");
	refused_with("rule: length", "rule: length\n    match: [{at: 0, width: 1, value: 1}]", 21,
		"has no use for 'match'");
	refused_with("    match:\n      - {at: 0, width: 1, mask: 0x1f, value: 2}\n"
		     "      - {at: 5, width: 4, mask: 0xffffff00, value: 0xfffff300}\n",
		"    match: []\n", 17, "the list of matches is empty");
	refused_with("    match:\n      - {at: 0, width: 1, mask: 0x1f, value: 2}\n"
		     "      - {at: 5, width: 4, mask: 0xffffff00, value: 0xfffff300}\n",
		"", 13, "no multiple of the width, 8");
	use_base(NULL);
}

static void test_frames(void **unused)
{
	(void)unused;
	use_base("docs/maps/gloo.yaml");
	ok_with("connect: 8", "connect: 8, ports: 5000");
	ok_with("connect: 8", "accept: 65535, ports: [1, 65535]");
	refused_with("connect: 8", "ports: [2, 1]", 10, "the first port is above");
	refused_with("connect: 8", "ports: 65536", 10, "out of range");
	refused_with("connect: 8", "listen: 8", 10, "keys are ports, connect, accept");
	refused_with("header: 48", "header: 65", 20, "out of range: 1 to 64");
	refused_with("header: 48", "header: 0", 20, "out of range");
	refused_with("header: 48", "header: 39", 20, "a field ends behind the header of 39");
	refused_with("      header: 48\n", "", 20, "'header' is missing");
	refused_with("length: {at: 0, width: 8}", "length: {at: 0}", 21, "stand together");
	refused_with("length: {at: 0, width: 8}", "length: {at: 0, width: 3}", 21, "1, 2, 4 or 8");
	refused_with("length: {at: 0, width: 8}", "length: {at: 0, width: 8, order: up}", 21,
		"may be little, big");
	ok_with("length: {at: 0, width: 8}", "length: {add: 48}");
	refused_with(
		"length: {at: 0, width: 8}", "length: {add: 47}", 20, "shorter than its header");
	refused_with("length: {at: 0, width: 8}", "length: {}", 21, "or 'add', are expected");
	ok_with("length: {at: 0, width: 8}", "length: {at: 0, width: 8, order: big, add: -1}");
	refused_with("modulo: 3, value: 1", "modulo: 3, value: 3", 22, "below the modulo, 3");
	refused_with("modulo: 3, value: 1", "modulo: 1, value: 0", 22, "out of range");
	refused_with("{at: 23, width: 1, value: 8}", "{at: 23, width: 1, value: 256}", 22,
		"bits that the mask 0xff has not");
	refused_with("[{at: 8, width: 8, value: 1}, ",
		"[{at: 8, width: 8, value: 1}, {at: 8, width: 8, value: 1}, ", 22, "at most 3");
	refused_with("      bytes: {at: 32, width: 8}\n", "", 16, "the frame needs 'bytes'");
	refused_with("    token-bytes: 4096\n", "", 16, "needs 'token-bytes'");
	refused_with("    expert: {fixed: 0}\n    token-bytes: 4096\n", "    payload: {width: 8}\n",
		16, "'bytes' of a frame go with 'token-bytes'");
	refused_with("    token-bytes: 4096\n", "    token-bytes: 4096\n    payload: {width: 8}\n",
		16, "has no use for");
	refused_with("phase: combine", "phase: count", 27, "counts are announced by");
	refused_with("rule: flow", "rule: length\n    length: 7", 16, "has no use for 'frame'");
	refused_with("layers: 12", "layers: 12\ntap: heads", 17, "needs 'tap: all'");
	refused_with("  - name: other\n    rule: flow\n",
		"  - {name: x, rule: length, phase: control, length: 7}\n"
		"  - name: other\n    rule: flow\n",
		34, "rules flow read TCP, others RDMA");
	use_base(NULL);
}

/* A datagram is a frame, and says how long it is. */
static void test_datagrams(void **unused)
{
	struct mt_bank *b;

	(void)unused;
	use_base("docs/maps/datagrams.yaml");
	b = good_with("layers: 12", "layers: 13");
	assert_int_equal(b->datagrams, 1);
	assert_int_equal(b->port_min, 7000);
	assert_int_equal(b->snap, 22 + 40 + 8 + 12);
	free(b);
	b = good_with("    expert: {fixed: 0}\n    token-bytes: 1024\n",
		"    payload: {at: 8, width: 8}\n");
	assert_int_equal(b->snap, 22 + 40 + 8 + 12 + 8 + 8);
	free(b);
	ok_with("      round: {at: 8", "      bytes: {at: 4, width: 4}\n      round: {at: 8");
	refused_with("udp: {ports: 7000}", "udp: {ports: 7000}\ntcp: {ports: 7000}", 4,
		"'tcp' or 'udp', not both");
	refused_with("udp: {ports: 7000}", "udp: {connect: 8}", 9, "keys are ports");
	refused_with("udp: {ports: 7000}\n", "", 14, "the frame needs 'length'");
	refused_with("header: 12", "header: 12\n      length: {add: 12}", 15,
		"a datagram says how long it is");
	refused_with("layers: 12", "layers: 12\ntap: heads", 16, "needs 'tap: all'");
	use_base("docs/maps/gloo.yaml");
	refused_with("      length: {at: 0, width: 8}\n", "", 16, "the frame needs 'length'");
	use_base(NULL);
}

/* The first packet of a message says what it is, the last one has the immediate. */
static void test_immediate(void **unused)
{
	(void)unused;
	use_base("docs/maps/queue-pairs.yaml");
	ok_with("length: [1, 65536]", "length: [1, 256]\n    immediate: with");
	refused_with("length: [1, 65536]", "length: [1, 257]\n    immediate: with", 17,
		"at most 256, the path MTU's least; a larger one is said by 'path-mtu'");
	refused_with("length: [1, 65536]", "immediate: without", 17,
		"a message of several packets has its immediate in the last one");
	refused_with("length: [1, 65536]", "length: 1\n    immediate: yes", 21,
		"may be any, with, without");
	ok_with("layers: 32", "layers: 32\npath-mtu: 1024");
	use_base("docs/maps/immediate.yaml");
	refused_with("path-mtu: 2048", "path-mtu: 1024", 15, "to be at most 1024, the path MTU");
	refused_with("immediate: without", "immediate: with", 22,
		"could be read by rule 'result' and by rule 'token' (line 15)");
	refused_with("    immediate: without\n", "", 22,
		"could be read by rule 'result' and by rule 'token' (line 15)");
	ok_with("length: 2048\n    immediate: without", "length: 2049");
	use_base(NULL);
	refused_with("    rule: atomic\n", "    rule: atomic\n    immediate: with\n", 32,
		"has no use for 'immediate'");
}

static void test_names(void **unused)
{
	(void)unused;
	assert_string_equal(mt_rule_type_name(MT_RULE_LENGTH), "length");
	assert_string_equal(mt_rule_type_name(MT_RULE_TYPES), "?");
	assert_string_equal(mt_rule_type_name(MT_RULE_IMM), "imm");
	assert_string_equal(mt_when_name(MT_WHENS), "?");
	assert_string_equal(mt_encoding_name(MT_ENCODINGS), "?");
	assert_string_equal(mt_of_name(MT_OFS), "?");
	assert_string_equal(mt_phase_name(MT_PHASE_CONTROL), "control");
	assert_string_equal(mt_phase_name(MT_PHASES), "?");
	assert_string_equal(mt_pattern_name(MT_PATTERN_TRAINING), "training");
	assert_string_equal(mt_pattern_name(99), "?");
	assert_string_equal(mt_tap_name(MT_TAP_HEADS), "heads");
	assert_string_equal(mt_tap_name(99), "?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good_map),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_snap_of_rows),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_documented_examples),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_shared_addresses),
		cmocka_unit_test(test_experts),
		cmocka_unit_test(test_keys_of_the_map),
		cmocka_unit_test(test_atomic_form),
		cmocka_unit_test(test_ranks),
		cmocka_unit_test(test_flows),
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_overlaps),
		cmocka_unit_test(test_bases),
		cmocka_unit_test(test_witness),
		cmocka_unit_test(test_steps),
		cmocka_unit_test(test_ways_to_count),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_yaml),
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_nesting),
		cmocka_unit_test(test_random_changes),
		cmocka_unit_test(test_load),
		cmocka_unit_test(test_nodes),
		cmocka_unit_test(test_payload),
		cmocka_unit_test(test_lists),
		cmocka_unit_test(test_imm),
		cmocka_unit_test(test_matches),
		cmocka_unit_test(test_frames),
		cmocka_unit_test(test_immediate),
		cmocka_unit_test(test_datagrams),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
