/* SPDX-License-Identifier: BSD-3-Clause */
/** @file firmware.h: where the tools find moetap-fw. */
#ifndef MOETAP_TOOLS_FIRMWARE_H
#define MOETAP_TOOLS_FIRMWARE_H

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/**
 * The program to start as moetap-fw: $MOETAP_FW, else beside this program (installed), else in the
 * build tree that this program lies in, else whatever PATH has. Not checked any further.
 *
 * @param[out] path of PATH_MAX bytes
 */
static inline void firmware_path(char path[PATH_MAX])
{
	static const char *const places[] = {"moetap-fw", "../firmware/moetap-fw"};
	const char *wanted = getenv("MOETAP_FW");
	char self[PATH_MAX];
	ssize_t n;

	if (wanted != NULL && wanted[0] != '\0') {
		snprintf(path, PATH_MAX, "%s", wanted);
		return;
	}
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[n > 0 ? n : 0] = '\0';
	if (strrchr(self, '/') != NULL)
		strrchr(self, '/')[1] = '\0';
	for (size_t i = 0; n > 0 && i < sizeof(places) / sizeof(places[0]); i++)
		if (snprintf(path, PATH_MAX, "%s%s", self, places[i]) < PATH_MAX &&
			access(path, X_OK) == 0)
			return;
	snprintf(path, PATH_MAX, "moetap-fw");
}

#endif
