/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file page.h: open the device page as firmware, as map loader, as reader.
 *
 * Functions give 0 or a negative errno, and a sentence in the struct mt_error, which may be NULL.
 * A struct of this file belongs to one thread at a time; different structs are independent.
 */
#ifndef MOETAP_DRIVER_PAGE_H
#define MOETAP_DRIVER_PAGE_H

#include <stdbool.h>

#include "error.h"
#include "moetap_page.h"

/** An open page. */
struct mt_page_map {
	struct mt_page *page;
	uint64_t size;
	int fd;
	bool owner; /**< opened by mt_page_create() */
	char name[MT_NAME_LEN];
};

/** Room that a new page offers. */
struct mt_page_room {
	uint32_t bank_bytes; /**< largest map */
	uint64_t slot_bytes; /**< largest round, see mt_slot_bytes() */
	uint32_t slots;	     /**< rounds kept for readers */
};

/**
 * Become the firmware of a page. A page that a dead firmware left behind is taken over with its
 * rounds when the room is enough and the file is this user's; else it is marked MT_STATE_RETIRED
 * and replaced, and readers that still hold it can read it to its end.
 *
 * @return 0; -EBUSY: another firmware runs on it; -EINVAL: bad name or room; -EACCES, -EPERM,
 *	-ENOSPC, -ENOMEM
 */
int mt_page_create(struct mt_page_map *map, const char *name, const struct mt_page_room *room,
	struct mt_error *err);

/**
 * Open a page to read it, or (@p loader) to load a map into it.
 *
 * @return 0; -ENOENT: there is none; -EAGAIN: it is being made; -EPROTO: not a page, or of another
 *	version; -EACCES
 */
int mt_page_attach(struct mt_page_map *map, const char *name, bool loader, struct mt_error *err);

/** Close a page; its firmware (mt_page_create()) also marks it stopped and removes it. */
void mt_page_close(struct mt_page_map *map);

/**
 * Load a map into a running firmware and wait until it is in force.
 *
 * @return 0; -EBUSY: another loader; -E2BIG: the page has no room for the map (start moetap-fw
 *	with this map); -EINVAL: the firmware refused it; -EPIPE: the firmware has ended;
 *	-ETIMEDOUT: no answer within 5 s; -EBADF: the page was not opened as a loader
 */
int mt_page_load(struct mt_page_map *map, const struct mt_bank *bank, struct mt_error *err);

/** Bank of a generation. Others may write it at any time: read it with mt_bank_take(). */
static inline struct mt_bank *mt_page_bank(const struct mt_page_map *map, uint32_t generation)
{
	return (struct mt_bank *)((char *)map->page + map->page->bank_off[generation & 1]);
}

static inline struct mt_round *mt_page_slot(const struct mt_page_map *map, uint64_t n)
{
	const struct mt_page *p = map->page;

	return (struct mt_round *)((char *)map->page + p->ring_off + n % p->slots * p->slot_bytes);
}

/** A place in the ring of rounds. */
struct mt_reader {
	const struct mt_page_map *map;
	struct mt_round *round; /**< copy of the last round read, owned by the reader */
	uint64_t room;		/**< bytes of it */
	uint64_t next;		/**< number of the round to read next */
	uint64_t boot_id;	/**< of the last round read */
};

/** What mt_reader_next() noticed on the way. */
struct mt_read {
	uint64_t lost;	/**< rounds overtaken by the writer since the last call */
	bool restarted; /**< the firmware restarted before this round: what was open is lost */
};

/**
 * @param from number of the first round wanted; UINT64_MAX: only rounds published from now on
 * @return 0 or -ENOMEM. @p map must outlive the reader.
 */
int mt_reader_open(struct mt_reader *r, const struct mt_page_map *map, uint64_t from);
void mt_reader_close(struct mt_reader *r);

/**
 * Read the next round. Never blocks, never gives a torn round.
 *
 * @return 1: r->round holds it; 0: none yet; -EPIPE: none, and none will come (the firmware
 *	stopped, died or left this page). After a dead one, another firmware may take the page
 *	over; then a later call gives its rounds.
 */
int mt_reader_next(struct mt_reader *r, struct mt_read *seen);

/** Whether a firmware holds the page right now (false: it ended, however). */
bool mt_page_alive(const struct mt_page_map *map);

const char *mt_outcome_name(unsigned int outcome);
const char *mt_pass_name(unsigned int pass);

/** Write the bits of a quality as words, ", " between them; gives @p buf. */
const char *mt_quality_names(uint32_t quality, char *buf, size_t len);

#endif
