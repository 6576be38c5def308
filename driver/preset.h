/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file preset.h: presets, the rules of a known program with parameters in place of numbers.
 *
 * What a preset may say is in docs/map.md.
 */
#ifndef MOETAP_DRIVER_PRESET_H
#define MOETAP_DRIVER_PRESET_H

#include <stdbool.h>
#include <stddef.h>

#include "error.h"
#include "formula.h"

#define MT_PRESET_FILE_MAX (1u << 20) /* bytes */
#define MT_MAX_PARAMETERS 32u	      /* of a preset */
#define MT_MAX_WORDS 8u		      /* of a parameter */

/** A word that stands for a value of a parameter. */
struct mt_word {
	char word[24];
	mt_number value;
};

struct mt_parameter {
	char name[MT_FORMULA_NAME_LEN];
	char about[160];
	bool required;		   /**< there is no value without one from the map */
	mt_number value, min, max; /**< the value if the map gives none */
	unsigned int words;	   /**< 0: any number from min to max */
	struct mt_word word[MT_MAX_WORDS];
};

struct mt_preset {
	char about[160];
	char source[512]; /**< repository and files that the formulas come from */
	char path[4096];  /**< of its file */
	unsigned int parameters;
	struct mt_parameter parameter[MT_MAX_PARAMETERS];
};

/**
 * The folder with the presets: $MOETAP_PRESETS, else in the build tree or the installation that
 * this program lies in, else where they are installed. Writes at most @p size bytes with the final
 * 0 and returns @p path.
 */
char *mt_preset_folder(char *path, size_t size);

/**
 * The file of a preset: a @p name with '/' is its path, from the folder of the file @p beside on;
 * others lie in mt_preset_folder().
 *
 * @return 0; -EINVAL: no such name can be; -ENAMETOOLONG
 */
int mt_preset_path(const char *name, const char *beside, char *path, size_t size);

/**
 * Read what a preset says of itself; its rules and formulas are not looked at.
 *
 * @param name as in a map; a path counts from the working directory
 * @return 0; -EINVAL: the preset is wrong; -ENOENT, -EACCES, -EFBIG, -ENOMEM
 */
int mt_preset_load(const char *name, struct mt_preset *preset, struct mt_error *err);

/** How a value of a parameter is written in a map: its word, if it has one. */
const char *mt_parameter_text(
	const struct mt_parameter *p, mt_number value, char text[MT_FORMULA_TEXT_LEN]);

#endif
