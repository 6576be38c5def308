/* SPDX-License-Identifier: BSD-3-Clause */
/* libpcap reads the records, zlib the file, also if it is not packed. */
#include "frames.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

static ssize_t read_gz(void *cookie, char *to, size_t size)
{
	return gzread(cookie, to, (unsigned int)size);
}

static int close_gz(void *cookie)
{
	return gzclose(cookie) == Z_OK ? 0 : EOF;
}

int frames_open(struct frames *f, const char *path)
{
	const cookie_io_functions_t functions = {.read = read_gz, .close = close_gz};
	char why[PCAP_ERRBUF_SIZE] = "";
	gzFile gz = gzopen(path, "rbe");
	FILE *file;

	f->pcap = NULL;
	if (gz == NULL) {
		snprintf(f->error, sizeof(f->error), "%s", strerror(errno));
		return -1;
	}
	file = fopencookie(gz, "r", functions);
	if (file == NULL) {
		gzclose(gz);
		snprintf(f->error, sizeof(f->error), "out of memory");
		return -1;
	}
	f->pcap = pcap_fopen_offline(file, why);
	if (f->pcap == NULL) {
		fclose(file);
		snprintf(f->error, sizeof(f->error), "no capture: %s", why);
		return -1;
	}
	if (pcap_datalink(f->pcap) == DLT_EN10MB)
		return 0;
	snprintf(f->error, sizeof(f->error), "its link type is %d, wanted is Ethernet",
		pcap_datalink(f->pcap));
	frames_close(f);
	return -1;
}

int frames_next(struct frames *f, const unsigned char **data, uint32_t *captured)
{
	struct pcap_pkthdr *head;
	int got = pcap_next_ex(f->pcap, &head, data);

	if (got == PCAP_ERROR_BREAK)
		return 0;
	if (got < 0) {
		snprintf(f->error, sizeof(f->error), "%s", pcap_geterr(f->pcap));
		return -1;
	}
	*captured = head->caplen;
	return 1;
}

void frames_close(struct frames *f)
{
	if (f->pcap != NULL)
		pcap_close(f->pcap);
	f->pcap = NULL;
}
