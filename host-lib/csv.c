/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * CSV, as far as traces need it: commas and line feeds, no quotes. Strict, since a file that is
 * half read gives a forecast that is quietly wrong.
 */
#include "internal.h"

#include <errno.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** Longest line, in bytes: all columns of the largest geometry that a series of one GiB a step
 * could have would be longer, but no such file is a trace. */
#define LINE_MAX_BYTES ((size_t)64 << 20)
#define FIELDS_MAX (1u << 22)

struct csv {
	FILE *file;
	char *path;
	locale_t locale; /**< "C": a decimal point is a point whatever the job's language */
	uint64_t line;	 /**< number of the line in `buffer`, from 1 */
	char *buffer;
	size_t room;
	char **field;
	uint32_t fields, field_room;
};

int mtl_csv_open(const char *path, struct csv **out, struct moetap_error *error)
{
	struct csv *csv = calloc(1, sizeof(*csv));
	int err;

	if (csv == NULL)
		return mtl_fail_memory(error);
	csv->path = strdup(strcmp(path, "-") == 0 ? "standard input" : path);
	csv->locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	csv->file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
	if (csv->path == NULL || csv->locale == (locale_t)0 || csv->file == NULL) {
		err = errno;
		mtl_csv_close(csv);
		return mtl_fail(error, -err, "%s: %s", path, strerror(err));
	}
	*out = csv;
	return 0;
}

void mtl_csv_close(struct csv *csv)
{
	if (csv->file != NULL && csv->file != stdin)
		fclose(csv->file);
	if (csv->locale != (locale_t)0)
		freelocale(csv->locale);
	free(csv->path);
	free(csv->buffer);
	free(csv->field);
	free(csv);
}

int mtl_csv_fail(
	const struct csv *csv, uint32_t column, struct moetap_error *error, const char *format, ...)
{
	char what[200], where[40] = "";
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	if (column != CSV_LINE)
		snprintf(where, sizeof(where), " column %u:", column + 1);
	/* The end of a long path tells more than its beginning. */
	size_t length = strlen(csv->path), skip = length > 80 ? length - 80 : 0;

	return mtl_fail(error, -EBADMSG, "%s%s:%llu:%s %s", skip > 0 ? "..." : "", csv->path + skip,
		(unsigned long long)csv->line, where, what);
}

/** Reads up to the line feed. Returns the length, 0 at the end of the file, or an error. */
static ssize_t read_line(struct csv *csv, struct moetap_error *error)
{
	size_t used = 0;
	int c;

	csv->line++;
	while ((c = getc_unlocked(csv->file)) != EOF) {
		if (used + 1 >= csv->room) {
			size_t room = csv->room > 0 ? 2 * csv->room : 4096;
			char *buffer = room <= LINE_MAX_BYTES ? realloc(csv->buffer, room) : NULL;

			if (room > LINE_MAX_BYTES)
				return mtl_csv_fail(csv, CSV_LINE, error,
					"no line feed in %zu MiB; this is no CSV",
					LINE_MAX_BYTES >> 20);
			if (buffer == NULL)
				return mtl_fail_memory(error);
			csv->buffer = buffer;
			csv->room = room;
		}
		if (c == '\0')
			return mtl_csv_fail(csv, CSV_LINE, error, "a zero byte; this is no CSV");
		csv->buffer[used++] = (char)c;
		if (c == '\n')
			break;
	}
	if (ferror(csv->file))
		return mtl_fail(error, -EIO, "%s: read error: %s", csv->path, strerror(errno));
	if (used == 0)
		return 0;
	if (csv->buffer[used - 1] != '\n')
		return mtl_csv_fail(csv, CSV_LINE, error,
			"the last line has no line feed, so it may be cut in the middle; remove "
			"it, or add a line feed if it is whole");
	csv->buffer[used] = '\0';
	return (ssize_t)used;
}

static int add_field(struct csv *csv, char *field, struct moetap_error *error)
{
	if (csv->fields == csv->field_room) {
		uint32_t room = csv->field_room > 0 ? 2 * csv->field_room : 64;
		char **fields =
			room <= FIELDS_MAX ? realloc(csv->field, room * sizeof(*fields)) : NULL;

		if (room > FIELDS_MAX)
			return mtl_csv_fail(
				csv, CSV_LINE, error, "more than %u fields", FIELDS_MAX);
		if (fields == NULL)
			return mtl_fail_memory(error);
		csv->field = fields;
		csv->field_room = room;
	}
	csv->field[csv->fields++] = field;
	return 0;
}

bool mtl_csv_begins(struct csv *csv, char c)
{
	int first = getc(csv->file);

	if (first != EOF)
		ungetc(first, csv->file);
	return first == c;
}

ssize_t mtl_csv_line(struct csv *csv, const char **line, struct moetap_error *error)
{
	ssize_t length = read_line(csv, error);

	*line = csv->buffer;
	return length;
}

int mtl_csv_next(struct csv *csv, struct moetap_error *error)
{
	ssize_t length = read_line(csv, error);
	char *at;
	int ret;

	if (length <= 0)
		return (int)length;
	csv->buffer[--length] = '\0';
	if (length > 0 && csv->buffer[length - 1] == '\r')
		csv->buffer[--length] = '\0';
	csv->fields = 0;
	at = csv->buffer;
	do {
		ret = add_field(csv, strsep(&at, ","), error);
		if (ret < 0)
			return ret;
	} while (at != NULL);
	return (int)csv->fields;
}

const char *mtl_csv_field(const struct csv *csv, uint32_t i)
{
	return csv->field[i];
}

int mtl_csv_load(const struct csv *csv, uint32_t i, double *load, struct moetap_error *error)
{
	const char *text = csv->field[i];
	char *end;

	/* strtod() takes more than a number: spaces, "nan", "inf", "0x1p3". */
	if (text[0] == '\0' || text[strspn(text, "0123456789.eE+-")] != '\0')
		return mtl_csv_fail(csv, i, error, "'%.40s' is no number of tokens", text);
	*load = strtod_l(text, &end, csv->locale);
	if (*end != '\0')
		return mtl_csv_fail(csv, i, error, "'%.40s' is no number of tokens", text);
	if (!(*load >= 0 && *load <= LOAD_MAX) || text[0] == '-')
		return mtl_csv_fail(csv, i, error, "'%.40s': a load must be from 0 to 2^53", text);
	return 0;
}

int mtl_csv_integer(
	const struct csv *csv, uint32_t i, int64_t most, int64_t *value, struct moetap_error *error)
{
	const char *text = csv->field[i];

	if (text[0] == '\0' || text[strspn(text, "0123456789")] != '\0')
		return mtl_csv_fail(csv, i, error, "'%.40s' is not an integer of 0 or more", text);
	errno = 0;
	*value = strtoll(text, NULL, 10);
	if (errno != 0 || *value > most)
		return mtl_csv_fail(csv, i, error, "%.40s is more than the limit of %lld", text,
			(long long)most);
	return 0;
}
