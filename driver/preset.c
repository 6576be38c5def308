/* SPDX-License-Identifier: BSD-3-Clause */
/* Where presets are, and what programs show of them. They are read in map.c. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "preset.h"

static const char name_characters[] =
	"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";

char *mt_preset_folder(char *path, size_t size)
{
	/* from tools/ and firmware/, and from tests/driver/; from bin/ and sbin/ */
	static const char *const places[] = {
		"../driver/presets", "../../driver/presets", "../share/moetap/presets"};
	const char *wanted = getenv("MOETAP_PRESETS");
	char self[PATH_MAX], *slash;
	ssize_t n;

	if (wanted != NULL && wanted[0] != '\0') {
		snprintf(path, size, "%s", wanted);
		return path;
	}
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[n > 0 ? n : 0] = '\0';
	slash = strrchr(self, '/');
	for (size_t i = 0; slash != NULL && i < sizeof(places) / sizeof(places[0]); i++) {
		slash[1] = '\0';
		if ((size_t)snprintf(path, size, "%s%s", self, places[i]) < size &&
			access(path, X_OK) == 0)
			return path;
	}
	snprintf(path, size, "%s", MOETAP_DATA "/presets");
	return path;
}

int mt_preset_path(const char *name, const char *beside, char *path, size_t size)
{
	const char *slash = strrchr(beside, '/');
	char folder[PATH_MAX];
	int n;

	for (const char *c = name; *c; c++)
		if (*c < ' ' || *c > '~') /* the path goes into errors, and so to terminals */
			return -EINVAL;
	if (strchr(name, '/') == NULL) {
		if (name[0] == '\0' || name[0] == '.' ||
			name[strspn(name, name_characters)] != '\0')
			return -EINVAL;
		n = snprintf(
			path, size, "%s/%s.yaml", mt_preset_folder(folder, sizeof(folder)), name);
	} else if (name[0] == '/' || slash == NULL) {
		n = snprintf(path, size, "%s", name);
	} else {
		n = snprintf(path, size, "%.*s/%s", (int)(slash - beside), beside, name);
	}
	return (size_t)n < size ? 0 : -ENAMETOOLONG;
}

const char *mt_parameter_text(
	const struct mt_parameter *p, mt_number value, char text[MT_FORMULA_TEXT_LEN])
{
	for (unsigned int i = 0; i < p->words; i++)
		if (p->word[i].value == value)
			return p->word[i].word;
	return mt_number_text(value, text);
}
