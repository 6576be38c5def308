/* SPDX-License-Identifier: BSD-3-Clause */
#include "telemetry.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define HELLO_BYTES 1024 /* of DPDK's first words, which say how long answers may be */
#define ANSWER_MOST (1u << 20)
#define PATIENCE_S 5

/** DPDK's run-time folder, by its guide "EAL parameters": root's, else the user's. */
static int socket_path(const char *page, char *path, size_t bytes)
{
	const char *user = getenv("XDG_RUNTIME_DIR");
	const char *top = geteuid() == 0 ? "/var/run" : user != NULL ? user : "/tmp";
	int n = snprintf(path, bytes, "%s/dpdk/moetap-%s/dpdk_telemetry.v2", top, page);

	return n < (int)bytes ? 0 : -ENAMETOOLONG;
}

static int open_socket(const char *page)
{
	const struct timeval patience = {.tv_sec = PATIENCE_S};
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int fd, ret = socket_path(page, at.sun_path, sizeof(at.sun_path));

	if (ret < 0)
		return ret;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (const struct sockaddr *)&at, sizeof(at)) == 0)
		return fd;
	ret = -errno;
	close(fd);
	return ret;
}

/** One message of the socket as JSON, or NULL. */
static json_t *receive(int fd, size_t room)
{
	char *words = malloc(room);
	ssize_t n = words != NULL ? recv(fd, words, room, 0) : -1;
	json_t *json = n > 0 ? json_loadb(words, (size_t)n, 0, NULL) : NULL;

	free(words);
	return json;
}

/** Asks over an open socket; takes `fd`. The answer is the one member of what is sent back. */
static json_t *ask(int fd, const char *command)
{
	json_t *hello = receive(fd, HELLO_BYTES), *whole = NULL, *answer;
	json_int_t room = json_integer_value(json_object_get(hello, "max_output_len"));

	if (room > 0 && room <= (json_int_t)ANSWER_MOST &&
		send(fd, command, strlen(command), MSG_NOSIGNAL) == (ssize_t)strlen(command))
		whole = receive(fd, (size_t)room + 1);
	answer = json_incref(json_object_get(whole, command));
	json_decref(whole);
	json_decref(hello);
	close(fd);
	return answer;
}

json_t *telemetry_ask(const char *page, const char *command, char *why, size_t why_bytes)
{
	int fd = open_socket(page);
	json_t *answer;

	if (fd < 0) {
		snprintf(why, why_bytes,
			fd == -ENOENT || fd == -ECONNREFUSED
				? "no moetap-fw of page %s runs here, or it is another user's"
				: "the telemetry of page %s: %s",
			page, strerror(-fd));
		return NULL;
	}
	answer = ask(fd, command);
	if (answer == NULL || json_is_null(answer)) {
		snprintf(why, why_bytes, "moetap-fw of page %s does not answer %s", page, command);
		json_decref(answer);
		return NULL;
	}
	return answer;
}
