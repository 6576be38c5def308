/* SPDX-License-Identifier: BSD-3-Clause */
#include "picture.h"

#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STEPS 8u    /* of a block, from empty to full */
#define CELL_TOP 2. /* value of a full block: twice the mean */

/** By eighths, from one to eight. */
static const char *const rising[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
static const char *const growing[] = {"▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"};
static const char levels[] = ".:-=+*#@";

/** Of the 256 colours: from blue over green to red. */
static const int colours[] = {33, 38, 36, 34, 70, 178, 208, 196};

struct picture picture_new(bool ascii)
{
	const char *no = getenv("NO_COLOR");
	bool utf8 = setlocale(LC_CTYPE, "") != NULL && strcmp(nl_langinfo(CODESET), "UTF-8") == 0;

	return (struct picture){.ascii = ascii || !utf8,
		.colour = isatty(STDOUT_FILENO) && (no == NULL || no[0] == '\0')};
}

void picture_bar(const struct picture *p, double fraction, uint32_t width)
{
	uint32_t eighths = (uint32_t)(fraction * width * STEPS + 0.5), i = 0;

	if (eighths > width * STEPS)
		eighths = width * STEPS;
	for (; i < eighths / STEPS; i++)
		fputs(p->ascii ? "#" : growing[STEPS - 1], stdout);
	if (eighths % STEPS > 0) {
		fputs(p->ascii ? "-" : growing[eighths % STEPS - 1], stdout);
		i++;
	}
	for (; i < width; i++)
		putchar(' ');
}

void picture_cell(const struct picture *p, double value)
{
	uint32_t level = (uint32_t)(value / CELL_TOP * STEPS);

	if (level >= STEPS)
		level = STEPS - 1;
	if (p->colour)
		printf("\033[38;5;%dm", colours[level]);
	if (p->ascii)
		putchar(levels[level]);
	else
		fputs(rising[level], stdout);
	if (p->colour)
		fputs("\033[0m", stdout);
	printf("%3.*f", value < 9.95 ? 1 : 0, value);
}

const char *picture_arrow(const struct picture *p)
{
	return p->ascii ? "->" : "→";
}

void picture_heading(const struct picture *p, const char *text)
{
	printf(p->colour ? "\n\033[1m%s\033[0m\n" : "\n%s\n", text);
}
