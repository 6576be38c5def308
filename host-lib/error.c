/* SPDX-License-Identifier: BSD-3-Clause */
#include "internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int mtl_fail(struct moetap_error *error, int err, const char *format, ...)
{
	va_list args;

	if (error == NULL)
		return err;
	va_start(args, format);
	vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	return err;
}

int mtl_fail_memory(struct moetap_error *error)
{
	return mtl_fail(error, -ENOMEM, "out of memory");
}

int mtl_check_geometry(uint32_t layers, uint32_t experts, struct moetap_error *error)
{
	if (layers == 0 || experts == 0)
		return mtl_fail(error, -EINVAL, "there must be at least one layer and one expert");
	if (layers > MOETAP_MAX_LAYERS)
		return mtl_fail(error, -E2BIG, "%u layers are more than the limit of %u", layers,
			MOETAP_MAX_LAYERS);
	if (experts > MOETAP_MAX_EXPERTS)
		return mtl_fail(error, -E2BIG, "%u experts a layer are more than the limit of %u",
			experts, MOETAP_MAX_EXPERTS);
	return 0;
}

const char *moetap_version(void)
{
	return MOETAP_VERSION;
}

char *moetap_quality_text(uint32_t quality, char *text, size_t size)
{
	static const char *const names[] = {"gap", "disagree", "stale", "truncated", "nic-drop",
		"overrun", "resync", "late", "no-room", "contradict", "fraction", "align"};
	size_t used = 0;

	if (size == 0)
		return text;
	text[0] = '\0';
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!(quality & (1u << i)) || used >= size)
			continue;
		used += (size_t)snprintf(
			text + used, size - used, "%s%s", used > 0 ? "," : "", names[i]);
	}
	if (used == 0 && quality & MOETAP_QUALITY_UNKNOWN)
		used = (size_t)snprintf(text, size, "unknown");
	if (quality & MOETAP_QUALITY_ESTIMATED && used < size)
		snprintf(text + used, size - used, "%sestimated", used > 0 ? "," : "");
	return text;
}
