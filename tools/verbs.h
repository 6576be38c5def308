/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * The verbs of `moetap`: one file a verb, one line a verb in the table of moetap.c.
 *
 * A verb gets the command line from its own name on (argv[0] is "count") and returns the exit
 * status of the process: 0 done, 1 failed, 2 wrong command line. It prints its result on stdout
 * and everything else on stderr.
 */
#ifndef MOETAP_VERBS_H
#define MOETAP_VERBS_H

/** One verb of the command line. */
struct verb {
	const char *name;		   /**< what the user types */
	int (*run)(int argc, char **argv); /**< does it; returns the exit status */
	const char *title;		   /**< one line for `moetap --help` */
};

int verb_count(int argc, char **argv);
int verb_map(int argc, char **argv);
int verb_demo(int argc, char **argv);
int verb_backtest(int argc, char **argv);
int verb_forecast(int argc, char **argv);
int verb_plan(int argc, char **argv);
int verb_advise(int argc, char **argv);
int verb_simulate(int argc, char **argv);
int verb_hints(int argc, char **argv);
int verb_learn(int argc, char **argv);
int verb_doctor(int argc, char **argv);

/** `moetap hints export`, which is a file of its own. */
int hints_export(int argc, char **argv);

/** `moetap hints network`, too. */
int hints_network(int argc, char **argv);

/** Says why a hint page cannot be read; err is what moetap_hint_open() or _read() returned. Returns
 * an exit status. */
int hints_explain(const char *verb, const char *name, int err);

#endif
