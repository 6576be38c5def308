/* SPDX-License-Identifier: BSD-3-Clause */
/** A picture of a backtest, made by gnuplot: the loads of some experts, and what was forecast. */
#ifndef MOETAP_PLOT_H
#define MOETAP_PLOT_H

#include <stdint.h>

#include "moetap.h"

struct plot;

/**
 * A picture of a layer's most loaded experts, for the file `path`, whose name ends in .svg or .png.
 * The file is made at once, and removed by plot_free() if nothing was written.
 * Prints on stderr why there is none, and returns NULL.
 */
struct plot *plot_new(const char *verb, const char *path, const struct moetap_series *series,
	int64_t layer, uint32_t horizon);
void plot_free(struct plot *plot);

/** Takes a forecast in. */
void plot_add(struct plot *plot, const struct moetap_forecast *forecast);

/** Runs gnuplot. Returns an exit status. */
int plot_write(struct plot *plot);

#endif
