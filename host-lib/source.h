/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file source.h: what the files of the sources share: source.c (the page), source_capture.c (the
 * firmware that counts a capture), source_feed.c (the capture's file).
 */
#ifndef MOETAP_SOURCE_H
#define MOETAP_SOURCE_H

#include <sys/types.h>

#include "internal.h"

/* ---- source_feed.c ---- */

/** A capture file on its way into a pipe. */
struct feed;

/** Opens the file ("-": standard input) and checks how it begins. Returns 0, an error of open(2),
 * -EBADMSG or -ENOMEM. */
int mtl_feed_open(const char *path, struct feed **feed, struct moetap_error *error);

/** Begins to write into the pipe `to`, which it closes at the end, in a thread. */
int mtl_feed_start(struct feed *feed, int to, struct moetap_error *error);

/** Waits for the end. The pipe must have lost its readers, or be read to its end by them. Returns
 * 0, or -EBADMSG: the file is cut or damaged, or was not read to its end. */
int mtl_feed_end(struct feed *feed, struct moetap_error *error);

/** From 0 to 1; NAN: the file's length is not known. */
double mtl_feed_progress(const struct feed *feed);

/** Waits as mtl_feed_end() does. */
void mtl_feed_close(struct feed *feed);

/* ---- source_capture.c ---- */

/** A moetap-fw that counts a capture. */
struct capture;

/** Starts it on the page that mtl_capture_page() names. */
int mtl_capture_start(const char *path, const char *map,
	const struct moetap_capture_options *options, struct capture **capture,
	struct moetap_error *error);

const char *mtl_capture_page(const struct capture *capture);

/** Returns 0 while it runs; -EIO when it has ended, with its last words. */
int mtl_capture_running(struct capture *capture, struct moetap_error *error);

/** It runs: what it needed only to start is removed, so that nothing stays when we are killed. */
void mtl_capture_started(struct capture *capture);

/** Waits for its end, which must be near. Returns 0: all of the file was counted; -EBADMSG: the
 * file is cut or damaged; -EIO: the firmware failed. */
int mtl_capture_end(struct capture *capture, struct moetap_error *error);

double mtl_capture_progress(const struct capture *capture);

/** Ends it, if it still runs, and removes its traces. */
void mtl_capture_stop(struct capture *capture);

#endif
