/* SPDX-License-Identifier: BSD-3-Clause */
#include "export.h"
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct exporter *const exporters[] = {
	&export_sglang,
	&export_trtllm,
	&export_vllm,
	&export_ascend,
	&export_eplb,
	&export_csv,
};

const struct exporter *export_at(uint32_t i)
{
	return i < sizeof(exporters) / sizeof(exporters[0]) ? exporters[i] : NULL;
}

const struct exporter *export_find(const char *name)
{
	for (uint32_t i = 0; export_at(i) != NULL; i++)
		if (strcmp(export_at(i)->name, name) == 0)
			return export_at(i);
	return NULL;
}

uint32_t export_slot(const struct placement *p, uint32_t layer, uint32_t s)
{
	for (uint32_t l = 0; l < p->layers; l++)
		if (p->layer_id[l] == layer)
			return p->slot_expert[(size_t)l * p->slots + s];
	return s % p->experts;
}

json_t *export_row(const uint32_t *slot_expert, uint32_t n)
{
	json_t *row = json_array();

	for (uint32_t s = 0; s < n; s++)
		json_array_append_new(row, json_integer(slot_expert[s]));
	return row;
}

int export_json(json_t *root, FILE *out)
{
	int ret = root == NULL ? -ENOMEM : json_dumpf(root, out, JSON_COMPACT) != 0 ? -EIO : 0;

	fputc('\n', out);
	json_decref(root);
	return ret;
}

/** Makes the new file the one that readers find. @return 0 or a negative errno */
static int replace(FILE *out, const char *made, const char *path)
{
	int ret = fflush(out) != 0 || fsync(fileno(out)) != 0 ? -errno : 0;

	if (fclose(out) != 0 && ret == 0)
		ret = -errno;
	if (ret == 0 && rename(made, path) != 0)
		ret = -errno;
	return ret;
}

int export_to(
	const char *verb, const struct exporter *x, const struct placement *p, const char *path)
{
	char *made = NULL;
	FILE *out;
	int fd, ret;

	if (strcmp(path, "-") == 0) {
		ret = x->write(p, stdout);
		if (ret == 0 && fflush(stdout) != 0)
			ret = -errno;
		return ret == 0 ? CLI_DONE : cli_fail(verb, "standard output: %s", strerror(-ret));
	}
	if (asprintf(&made, "%s.XXXXXX", path) < 0)
		return cli_fail(verb, "out of memory");
	fd = mkstemp(made);
	out = fd < 0 ? NULL : fdopen(fd, "w");
	if (out == NULL) {
		ret = -errno;
	} else {
		fchmod(fd, 0644);
		ret = x->write(p, out);
		if (ret == 0)
			ret = replace(out, made, path);
		else
			fclose(out);
	}
	if (ret < 0 && fd >= 0)
		unlink(made);
	free(made);
	return ret == 0 ? CLI_DONE : cli_fail(verb, "%s: %s", path, strerror(-ret));
}
