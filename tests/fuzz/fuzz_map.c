/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Any bytes as a formula, as a map, as a preset, as a bank, and as changes of a good bank that get
 * past its checksum: refused, or good for all that comes after.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "formula.h"
#include "map.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/** Without arguments of its own the target starts from the seeds; what is given comes later. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static char seeds[] = "-seed_inputs=" FUZZ_SEEDS, dict[] = "-dict=" FUZZ_DICT;
	char **more = calloc((size_t)*argc + 3, sizeof(*more));

	if (more == NULL)
		return 0;
	setenv("MOETAP_PRESETS", FUZZ_PRESETS, 1);
	more[0] = (*argv)[0];
	more[1] = seeds;
	more[2] = dict;
	memcpy(&more[3], &(*argv)[1], ((size_t)*argc - 1) * sizeof(*more));
	*argc += 2;
	*argv = more;
	return 0;
}

static volatile uint64_t sink;

/** Goes where a user of a checked bank goes. */
static void use(const struct mt_bank *b)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < b->addrs; i++)
		sum += mt_bank_ranks(b)[mt_bank_addrs(b)[i].rank].base;
	for (uint32_t i = 0; i < b->flows; i++)
		sum += mt_bank_ranks(b)[mt_bank_flows(b)[i].src].experts +
		       mt_bank_ranks(b)[mt_bank_flows(b)[i].dst].experts;
	for (uint32_t i = 0; i < b->bases; i++)
		sum += strlen(mt_bank_base(b, i)->name) + mt_bank_base(b, i)->at[b->ranks - 1];
	for (uint32_t i = 0; i < b->rules; i++)
		sum += strlen(mt_bank_rules(b)[i].name);
	sink = sum + strlen(b->job) + mt_bank_snap(b);
}

static void as_formula(const uint8_t *data, size_t size)
{
	static const struct mt_name names[] = {{"ranks", 4}, {"token", MT_NUMBER_MAX}, {"a", 0}};
	char text[256];
	struct mt_error err = {""};
	mt_number v;
	int ret;

	size = size < sizeof(text) - 1 ? size : sizeof(text) - 1;
	memcpy(text, data, size);
	text[size] = '\0';
	ret = mt_formula(text, names, 3, &v, &err);
	if (v < MT_NUMBER_MIN || v > MT_NUMBER_MAX ||
		(ret < 0) != (strncmp(err.text, "character ", 10) == 0))
		abort();
}

static void as_map(const uint8_t *data, size_t size)
{
	struct mt_error err = {""};
	struct mt_bank *bank;

	if (mt_map_parse((const char *)data, size, "map.yaml", &bank, &err) < 0) {
		/* of the map, or of a preset that it names */
		if (strstr(err.text, ":") == NULL || strchr(err.text, '\n') != NULL ||
			(memmem(data, size, "preset", 6) == NULL &&
				strncmp(err.text, "map.yaml:", 9) != 0))
			abort();
		return;
	}
	if (mt_bank_check(bank, bank->bytes, &err) < 0)
		abort();
	use(bank);
	free(bank);
}

/** As the preset of two maps: one gives parameters as most presets here need them, one none. */
static void as_preset(const uint8_t *data, size_t size)
{
	static const char head[] =
		"{moetap-map: 1, job: j, pattern: training, layers: 6, experts-per-rank: 1, "
		"ranks: [{rank: 0, address: 10.0.0.1, base: 0}, {rank: 1, address: 10.0.0.2, "
		"base: 0}, {rank: 2, address: 10.0.0.3, base: 0}, {rank: 3, address: 10.0.0.4, "
		"base: 0}], preset: /proc/self/fd/";
	static const char *const with[] = {
		"", ", with: {hidden: 2048}", ", with: {hidden: 2048, tokens: 128}"};
	static int file = -1;
	char map[512];

	if (memmem(data, size, "moetap-preset", 13) == NULL)
		return;
	if (file < 0)
		file = memfd_create("preset", MFD_CLOEXEC);
	if (file < 0 || ftruncate(file, 0) < 0 || pwrite(file, data, size, 0) != (ssize_t)size)
		abort();
	for (unsigned int i = 0; i < sizeof(with) / sizeof(with[0]); i++) {
		int n = snprintf(map, sizeof(map), "%s%d%s}", head, file, with[i]);

		as_map((const uint8_t *)map, (size_t)n);
	}
}

static void as_bank(const uint8_t *data, size_t size)
{
	struct mt_bank *bank = malloc(size), *copy;

	if (bank == NULL)
		return;
	memcpy(bank, data, size);
	if (mt_bank_check(bank, size, NULL) == 0)
		use(bank);
	if (size >= sizeof(*bank) && mt_bank_take(bank, size, &copy, NULL) == 0) {
		use(copy);
		free(copy);
	}
	free(bank);
}

/** Words of the input are written into a good bank: where (2 bytes), what (4 bytes). */
static void as_changes(const uint8_t *data, size_t size)
{
	static const char map[] =
		"{moetap-map: 1, job: j, pattern: training, layers: 3, "
		"experts-per-rank: 2, ranks: [{rank: 0, address: 10.0.0.1, "
		"base: 0}, {rank: 1, address: 10.0.0.2, base: 0}], "
		"flows: [{src: 0, dst: 1, qpn: 7, expert: 3}], "
		"rules: [{name: r, rule: va, phase: dispatch, size: 64, "
		"expert: {stride: 32, count: 2}, source: {stride: 16, count: 2}}, "
		"{name: c, rule: atomic, phase: count, size: 64, "
		"expert: {stride: 32, count: 2}, value: {scale: 1}}]}";
	struct mt_bank *bank;
	uint32_t bytes;
	uint16_t at;

	if (mt_map_parse(map, strlen(map), "map", &bank, NULL) < 0)
		abort();
	bytes = bank->bytes;
	for (; size >= 6; data += 6, size -= 6) {
		memcpy(&at, data, 2);
		memcpy((uint32_t *)bank + at % (bytes / 4), data + 2, 4);
	}
	if (bank->bytes <= bytes)
		bank->checksum = mt_bank_sum(bank);
	if (mt_bank_check(bank, bytes, NULL) == 0)
		use(bank);
	free(bank);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	as_formula(data, size);
	as_map(data, size);
	as_preset(data, size);
	as_bank(data, size);
	as_changes(data, size);
	return 0;
}
