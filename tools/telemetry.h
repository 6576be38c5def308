/* SPDX-License-Identifier: BSD-3-Clause */
/** What a running moetap-fw answers over DPDK's telemetry socket, version 2 of its protocol. */
#ifndef MOETAP_TELEMETRY_H
#define MOETAP_TELEMETRY_H

#include <jansson.h>

/**
 * Asks the moetap-fw of a page, "/moetap/ports".
 *
 * @return its answer, to be given back with json_decref(), or NULL with the reason in @p why
 */
json_t *telemetry_ask(const char *page, const char *command, char *why, size_t why_bytes);

#endif
