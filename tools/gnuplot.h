/* SPDX-License-Identifier: BSD-3-Clause */
/** Pictures by gnuplot. */
#ifndef MOETAP_GNUPLOT_H
#define MOETAP_GNUPLOT_H

#include <stdio.h>

/** Makes the file of a picture, before the work for it is done. Prints on stderr why it cannot,
 * also for a name that does not end in .svg or .png. @return its descriptor, or -1 */
int gnuplot_open(const char *verb, const char *path);

/** Writes the line that sets the terminal: what the name ends in, of a size in pixels. */
void gnuplot_terminal(FILE *script, const char *path, int width, int height);

/** Runs gnuplot with the script as its input and `out`, the file `path`, as its output. Returns an
 * exit status. */
int gnuplot_run(const char *verb, FILE *script, int out, const char *path);

#endif
