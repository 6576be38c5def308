/* SPDX-License-Identifier: BSD-3-Clause */
/** Frames of a capture file: pcap or pcapng, also with gzip. */
#ifndef MOETAP_FRAMES_H
#define MOETAP_FRAMES_H

#include <pcap/pcap.h>

/** An open capture. */
struct frames {
	pcap_t *pcap;
	char error[PCAP_ERRBUF_SIZE + 64];
};

/** Opens a file. Returns 0, or -1 and an error. */
int frames_open(struct frames *f, const char *path);

/** The next frame. Returns 1, 0 at the end, or -1 and an error: the file is cut or damaged. */
int frames_next(struct frames *f, const unsigned char **data, uint32_t *captured);

void frames_close(struct frames *f);

#endif
