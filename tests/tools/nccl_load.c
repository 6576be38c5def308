/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Loads an environment plugin as NCCL does (src/plugin/env.cc, src/plugin/env/env_v1.cc, env_v2.cc)
 * and prints what it answers, a line a variable, "=VALUE" or "-": nccl-load PLUGIN VERSION NAME...
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void logger(int level, unsigned long flags, const char *file, int line, const char *f, ...);

/* of version 1, init takes no logger */
struct plugin {
	const char *name;
	int (*init)(uint8_t major, uint8_t minor, uint8_t patch, const char *suffix, logger *log);
	int (*finalize)(void);
	const char *(*get_env)(const char *name);
};

static int said;

__attribute__((format(printf, 5, 6))) static void hear(
	int level, unsigned long flags, const char *file, int line, const char *format, ...)
{
	va_list ap;

	said++;
	fprintf(stderr, "%d %lx %s:%d ", level, flags, file, line);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
}

static void ask(const struct plugin *p, const char *name)
{
	const char *value = p->get_env(name), *again = p->get_env(name);

	if (value != again && (value == NULL || again == NULL || strcmp(value, again) != 0))
		exit(3);
	printf("%s%s\n", value != NULL ? "=" : "-", value != NULL ? value : "");
}

int main(int argc, char **argv)
{
	const struct plugin *p;
	char symbol[32];
	bool v2;
	void *lib;

	if (argc < 3)
		return 2;
	v2 = strcmp(argv[2], "2") == 0;
	lib = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	if (lib == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	snprintf(symbol, sizeof(symbol), "ncclEnvPlugin_v%s", argv[2]);
	p = dlsym(lib, symbol);
	if (p == NULL || strcmp(p->name, "moetap") != 0)
		return 4;
	/* what is no logger must not be touched by version 1 */
	if (p->init(2, 28, 3, "", v2 ? hear : (logger *)(uintptr_t)1) != 0 || said != v2)
		return 5;
	for (int i = 3; i < argc; i++)
		ask(p, argv[i]);
	return p->finalize() == 0 && dlclose(lib) == 0 ? 0 : 6;
}
