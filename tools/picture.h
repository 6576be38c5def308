/* SPDX-License-Identifier: BSD-3-Clause */
/** Pictures in a terminal: Unicode blocks and colours where they can be shown, ASCII elsewhere. */
#ifndef MOETAP_PICTURE_H
#define MOETAP_PICTURE_H

#include <stdbool.h>
#include <stdint.h>

struct picture {
	bool ascii, colour;
};

/** How to draw on standard output: Unicode in a UTF-8 locale unless `ascii`, colours on a terminal
 * unless NO_COLOR is set. */
struct picture picture_new(bool ascii);

/** A bar of `width` columns, filled to `fraction` (0 to 1). */
void picture_bar(const struct picture *picture, double fraction, uint32_t width);

/** A number of 3 columns with a block before it, coloured by how far from 1 it is. */
void picture_cell(const struct picture *picture, double value);

/** "->", as nice as it can be shown. */
const char *picture_arrow(const struct picture *picture);

/** A heading, bold on a terminal. */
void picture_heading(const struct picture *picture, const char *text);

#endif
