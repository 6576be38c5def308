/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * libmoetap: from the loads of experts to a published hint.
 *
 * The words it uses. A **load** is the number of tokens that an expert got in a round; a **round**
 * is one dispatch all-to-all of one layer; a **step** is one pass through all layers. The
 * **share** of an expert is its load divided by the sum of loads of its layer. A **series** is
 * loads by step. A layer's **state** is transient or stable. A **forecast** made after step t for
 * a **horizon** h says what the mean share over the steps t+1 ... t+h will be. A **plan** is a
 * placement: which expert each **slot** holds, slots counted in rank order (slot s is on rank
 * s / (slots / ranks)). A **hint** is a published plan or the advice to keep the one in force.
 *
 * The way through: moetap_series_load_trace(), or moetap_source_*() -> moetap_series_add_counts();
 * then moetap_state_*() -> moetap_forecast_make() -> moetap_plan_make() -> moetap_decide() ->
 * moetap_publisher_publish().
 * A job that only reads hints needs moetap_hint.h and nothing of this library.
 *
 * Errors. Every function that can fail returns 0 or a negative errno; where it takes a
 * `struct moetap_error *`, that one says in words what is wrong and what would mend it (it may be
 * NULL, and is not touched on success).
 *
 * Ownership. A handle belongs to who made it and is freed by its *_free() function (NULL is
 * fine). Pointers that a getter returns live as long as their handle. What is passed in is copied.
 *
 * Threads. The library has no global state. Different handles may be used by different threads at
 * once. One handle may be read (functions that take a pointer to const) by any number of threads
 * at once; everything else needs the caller's lock.
 */
#ifndef MOETAP_H
#define MOETAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOETAP_EXPORT __attribute__((visibility("default")))

/** Limits. Larger input is refused with -E2BIG, never cut. */
#define MOETAP_MAX_LAYERS 1024u
#define MOETAP_MAX_EXPERTS 4096u /**< in a layer */
#define MOETAP_MAX_SLOTS 16384u	 /**< in a layer */
#define MOETAP_MAX_RANKS 4096u
/** Default bound on the memory of a series, in bytes. */
#define MOETAP_SERIES_BYTES ((size_t)4 << 30)

/** An error in words. */
struct moetap_error {
	char text[256]; /**< one line, ends with 0 */
};

/**
 * What was wrong with a round: bits, 0 for an exact one. A source ors these into the round that it
 * adds; forecasts, plans and hints made from such rounds carry them on. The values are those of
 * the device page's inexact rounds.
 */
enum moetap_quality {
	MOETAP_QUALITY_GAP = 1 << 0,	    /**< packets of the round were never seen */
	MOETAP_QUALITY_DISAGREE = 1 << 1,   /**< tokens counted differ from tokens announced */
	MOETAP_QUALITY_STALE = 1 << 2,	    /**< packets too old to tell from retransmissions */
	MOETAP_QUALITY_TRUNCATED = 1 << 3,  /**< the bytes that a rule needs were cut away */
	MOETAP_QUALITY_NIC_DROP = 1 << 4,   /**< the NIC dropped packets */
	MOETAP_QUALITY_OVERRUN = 1 << 5,    /**< rounds ran together, or were lost to the reader */
	MOETAP_QUALITY_RESYNC = 1 << 6,	    /**< a queue pair jumped to other PSNs */
	MOETAP_QUALITY_LATE = 1 << 7,	    /**< tokens arrived after the round was closed */
	MOETAP_QUALITY_NO_ROOM = 1 << 8,    /**< flows were not counted for lack of room */
	MOETAP_QUALITY_CONTRADICT = 1 << 9, /**< messages whose source or expert cannot be */
	MOETAP_QUALITY_FRACTION = 1 << 10,  /**< bytes are no whole number of tokens */
	MOETAP_QUALITY_ALIGN = 1 << 11,	    /**< layer and step are assumed */
	MOETAP_QUALITY_UNKNOWN = 1 << 16,   /**< the trace does not say; no flaw, and not flagged */
	MOETAP_QUALITY_ESTIMATED = 1 << 17, /**< tokens that cross no NIC are estimated; no flaw */
};

/** Version of the library, "major.minor.patch". */
MOETAP_EXPORT const char *moetap_version(void);

/**
 * Names of the flags in `quality` (enum moetap_quality), comma-separated; "" for none.
 * Writes at most `size` bytes with the final 0 and returns `text`.
 */
MOETAP_EXPORT char *moetap_quality_text(uint32_t quality, char *text, size_t size);

/* ---- series: loads by step ------------------------------------------------------------------ */

/** Loads [layers][experts] by step. Memory: about 8 * layers * (experts + 2) bytes a step, and half
 * as much again and more, 12 * layers * experts, where loads are estimated. */
struct moetap_series;

/**
 * An empty series that keeps at most the last `max_steps` steps (0: as many as fit into
 * MOETAP_SERIES_BYTES). Memory is taken as steps come. When it is full, a new step pushes the
 * oldest one out, which moetap_series_dropped() counts.
 *
 * Returns 0, -EINVAL (a zero), -E2BIG (over a limit) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_series_new(uint32_t layers, uint32_t experts, uint32_t max_steps,
	struct moetap_series **series, struct moetap_error *error);
MOETAP_EXPORT void moetap_series_free(struct moetap_series *series);

/**
 * Reads a trace: CSV with the header `step,l0_e0,l0_e1,...` (tokens; other columns are ignored,
 * columns may come in any order), one line a step, steps going up; or what `moetap count` prints
 * (`round,step,layer,phase,src,dst,expert,tokens,bytes`, or with --format json one object a round;
 * the dispatch rounds are taken). Only the objects say how good a round is; the rounds of a CSV are
 * MOETAP_QUALITY_UNKNOWN. Where the lines or cells name sources (`src`, `dst`), tokens between ranks
 * of which the file has no line are estimated, as moetap_series_add_counts() does it; other traces
 * are taken as they are. "-" is standard input. Bad input is refused with its line and column, and
 * nothing is returned: negative or not finite tokens, a wrong number of fields, a last line without
 * line feed (it may be cut), a step that goes back, a column missing.
 *
 * Returns 0, -ENOENT and other errors of open(2), -EBADMSG (bad input), -E2BIG (over a limit, or
 * more than MOETAP_SERIES_BYTES) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_series_load_trace(
	const char *path, struct moetap_series **series, struct moetap_error *error);

/**
 * Adds the loads of one round: `tokens[experts]` of `layer` in `step`, with its quality (enum
 * moetap_quality, 0 for an exact round). Rounds of one (step, layer), as micro-batches make them,
 * add up. Steps may come late as long as they are kept; a step below the oldest kept one is
 * refused.
 *
 * Returns 0, -EINVAL (layer out of range; negative or not finite tokens), -ESTALE (step too old)
 * or -ENOMEM.
 */
MOETAP_EXPORT int moetap_series_add_round(struct moetap_series *series, int64_t step,
	uint32_t layer, const double *tokens, uint32_t quality, struct moetap_error *error);

/** The same for a whole step: `tokens[layers][experts]`, `quality[layers]` or NULL for exact
 * rounds. */
MOETAP_EXPORT int moetap_series_add_step(struct moetap_series *series, int64_t step,
	const double *tokens, const uint32_t *quality, struct moetap_error *error);

MOETAP_EXPORT uint32_t moetap_series_layers(const struct moetap_series *series);
MOETAP_EXPORT uint32_t moetap_series_experts(const struct moetap_series *series);
/** Steps kept now. */
MOETAP_EXPORT uint32_t moetap_series_steps(const struct moetap_series *series);
/** Steps pushed out because the series was full. */
MOETAP_EXPORT uint64_t moetap_series_dropped(const struct moetap_series *series);
/** Oldest and newest step kept; 0 and -1 when empty. */
MOETAP_EXPORT int64_t moetap_series_first_step(const struct moetap_series *series);
MOETAP_EXPORT int64_t moetap_series_last_step(const struct moetap_series *series);

/**
 * Mean shares of a layer over the kept steps first ... last (both included), each step counting
 * the same. Steps in which the layer had no tokens have no shares and are left out.
 *
 * Returns how many steps were used; with 0, `share[experts]` is all zero.
 */
MOETAP_EXPORT uint32_t moetap_series_mean_shares(const struct moetap_series *series, uint32_t layer,
	int64_t first, int64_t last, double *share);

/** Mean tokens a step [layers][experts] over the last `steps` steps (0: all kept ones), estimated
 * ones included; NAN for experts that were not seen (moetap_series_seen()): they have no load. */
MOETAP_EXPORT void moetap_series_mean_tokens(
	const struct moetap_series *series, uint32_t steps, double *tokens);

/**
 * Whether tokens of an expert (0 ... experts - 1) were counted at all, if none of them came: false
 * when no round had a pair of ranks that passes the tap and could carry them, as rounds of a source
 * and what `moetap count` prints tell. Its load of 0 is unknown then, not zero. Experts of other
 * rounds and steps are all seen.
 */
MOETAP_EXPORT bool moetap_series_seen(const struct moetap_series *series, uint32_t expert);

/**
 * How much of a layer's loads over the kept steps first ... last is estimated, because tokens of
 * some sources cross no NIC: the mean over steps of the part of the layer's tokens, from 0 (all was
 * seen) to 1. docs/estimates.md says how it is done, and how well.
 *
 * `part[experts]` (may be NULL) gets the same of each expert's mean share; `half[experts]` (may be
 * NULL) half of the 80 % interval around the mean share of moetap_series_mean_shares() that comes
 * of the estimate: 0 where all was seen, INFINITY where nothing tells, as with one visible source.
 *
 * Returns NAN when there is no memory.
 */
MOETAP_EXPORT double moetap_series_unseen(const struct moetap_series *series, uint32_t layer,
	int64_t first, int64_t last, double *part, double *half);

/**
 * Flagged (step, layer) among the steps first ... last; `quality` (may be NULL) gets all their
 * flags ored, `rounds` (may be NULL) the number of (step, layer) that were seen at all.
 */
MOETAP_EXPORT uint64_t moetap_series_flagged(const struct moetap_series *series, int64_t first,
	int64_t last, uint32_t *quality, uint64_t *rounds);

/* ---- sources: rounds as they were counted --------------------------------------------------- */

/**
 * Where rounds come from: the device page of a running moetap-fw, or a capture file that is sent
 * through a moetap-fw of its own. (A trace, which has loads but no rounds, is read by
 * moetap_series_load_trace().)
 */
struct moetap_source;

/** What a round is in its step. Only forward rounds are loads. */
enum moetap_pass {
	MOETAP_PASS_FORWARD,   /**< the dispatch of the forward pass */
	MOETAP_PASS_BACKWARD,  /**< gradients, along the same routes */
	MOETAP_PASS_RECOMPUTE, /**< the forward pass again */
};

/**
 * Flags of struct moetap_round beyond enum moetap_quality: they do not make a round inexact.
 * MOETAP_QUALITY_INEXACT masks those that do.
 */
#define MOETAP_QUALITY_INEXACT ((1u << 12) - 1)
#define MOETAP_QUALITY_DUPLICATE (1u << 12)   /**< retransmissions were seen and left out */
#define MOETAP_QUALITY_UNMATCHED (1u << 13)   /**< packets that no rule of the map knows */
#define MOETAP_QUALITY_TIMEOUT (1u << 14)     /**< closed by silence, not by the traffic */
#define MOETAP_QUALITY_UNWITNESSED (1u << 15) /**< its announced counts could not be read */

/** Whether the load of a round is what its witness says. */
enum moetap_witness {
	MOETAP_WITNESS_NONE,	 /**< the map has none */
	MOETAP_WITNESS_ABSENT,	 /**< nothing was there to compare */
	MOETAP_WITNESS_AGREED,	 /**< all that was compared is the same */
	MOETAP_WITNESS_GAP,	 /**< some differ, where packets are missing: that says nothing */
	MOETAP_WITNESS_DISAGREED /**< some differ */
};

/** The name of a witness' word: "none", "absent", "agreed", "gap", "disagreed". */
MOETAP_EXPORT const char *moetap_witness_name(enum moetap_witness witness);

/** What passed from one rank to another in a round. */
struct moetap_pair {
	uint64_t first_ns;   /**< first packet of the dispatch; 0: nothing was sent in this round */
	uint64_t last_ns;    /**< last one; 0: this pair never passed the tap, its counts are
			      *   unknown, not zero */
	uint32_t gaps;	     /**< packets never seen */
	uint32_t duplicates; /**< retransmissions left out */
};

/** One round. Everything in it lives until the next call with its source. */
struct moetap_round {
	uint64_t round; /**< number on the page: rises by one, also over restarts and new maps */
	uint64_t step;	/**< counts from 0 when the firmware starts or a map is loaded */
	uint32_t layer;
	enum moetap_pass pass;
	uint32_t quality;	    /**< enum moetap_quality and MOETAP_QUALITY_*, bits */
	uint32_t generation;	    /**< of the map */
	uint64_t first_ns, last_ns; /**< of its packets, ns since the epoch */
	uint64_t tokens, bytes;	    /**< sums over the cells */
	uint64_t tokens_unseen;	    /**< tokens announced and not seen */
	uint32_t gaps;		    /**< packets never seen, all pairs */
	uint32_t duplicates;	    /**< retransmissions left out */
	uint32_t counts_missing;    /**< cells whose announced count never came */
	uint32_t disagreements;	    /**< cells whose load and witness differ */
	uint32_t unmatched, truncated, stale, nic_drops, contradictions, late; /**< packets */
	uint32_t ranks, experts;
	const struct moetap_pair *pairs; /**< [ranks][ranks], source first */
	const uint64_t *cell_bytes;	 /**< [ranks][experts], source first */
	const uint32_t *cell_tokens;	 /**< [ranks][experts], source first */
	const uint32_t *expert_rank;	 /**< [experts]: rank that holds it, UINT32_MAX: none */
	const bool *crosses; /**< [ranks][ranks], source first: what the map says to cross a NIC */

	/* Noticed on the way from the last round to this one. */
	uint64_t lost;	  /**< rounds that were overwritten before they were read */
	bool restarted;	  /**< the firmware restarted: steps count from 0 again */
	bool map_assumed; /**< its map was replaced twice since: ranks are those of a later one */

	/* Other rules of the map that see the same tokens as those that are the load. */
	const char *load_from;	      /**< kind of rule that the tokens are from, as maps name it */
	const char *witness_from;     /**< kind of rule that they are compared with, NULL: none */
	enum moetap_witness witness;  /**< what that says */
	uint32_t witness_compared;    /**< cells compared; pairs, where bytes alone are known */
	uint32_t witness_differ;      /**< of those, that differ */
	uint32_t witness_gaps;	      /**< that differ or were not compared: packets are missing */
};

/** What a map says of the job. Lives until the next call with its source. */
struct moetap_job {
	const char *name;
	uint32_t layers, ranks, experts; /**< experts of all ranks */
	uint32_t generation;		 /**< of the map */
};

/** Outcomes of packets that struct moetap_stats has room for. */
#define MOETAP_OUTCOMES_MAX 32u

/**
 * Atomics that no standard tells, as the firmware reads them: packets of that opcode, with so many
 * bytes behind the BTH, have a big-endian address of 8 bytes and an operand there.
 */
struct moetap_atomic_form {
	uint8_t opcode; /**< 0: only standard ones are read */
	uint8_t length;
	uint8_t address, operand; /**< where they are in these bytes */
	uint8_t width;		  /**< bytes of the operand */
	uint8_t big_endian;	  /**< the operand */
	uint8_t learnt;		  /**< from the traffic; else the map states it */
};

/** Counters of the firmware since it started. They are read one by one while it runs. */
struct moetap_stats {
	uint64_t outcome[MOETAP_OUTCOMES_MAX]; /**< packets, see moetap_outcome_name() */
	uint64_t packets, bytes;	       /**< on the wire */
	uint64_t nic_drops;		       /**< packets that the port missed */
	uint64_t flows, rounds;
	uint64_t marked; /**< packets that met congestion (ECN) */
	struct moetap_atomic_form atomic_form;
};

/** How to count a capture. All zero: one poll core, the tap that the map names. */
struct moetap_capture_options {
	uint32_t cores;	 /**< poll cores; 0: 1 */
	const char *tap; /**< "all" or "heads"; NULL: as the map says */
};

/** Values of `from` in moetap_source_open_page(). */
#define MOETAP_FROM_OLDEST (UINT64_MAX - 1) /**< the oldest round that the page still holds */
#define MOETAP_FROM_NOW UINT64_MAX	    /**< only rounds published after this call */

/**
 * Opens the device page /dev/shm/moetap-`name` for reading, from round number `from` on. Any number
 * of sources may read a page; none of them slows the firmware down.
 *
 * Returns 0, -ENOENT (there is no such page), -EINVAL (bad name), -EAGAIN (it is just being made),
 * -EPROTO (no page of this version, or damaged), -EACCES or -ENOMEM.
 */
MOETAP_EXPORT int moetap_source_open_page(
	const char *name, uint64_t from, struct moetap_source **source, struct moetap_error *error);

/**
 * Starts moetap-fw on a capture file (pcap or pcapng, also with gzip; "-" is standard input) with
 * the map file `map`, and opens the page of that firmware. The firmware waits for this source, so
 * no round is lost, however slowly they are read; and it ends with this process. It needs neither
 * root nor huge pages.
 *
 * The file is checked while it is read: moetap_source_next() tells when it is cut or damaged, after
 * the last round before that place.
 *
 * Makes a thread that reads the file, a child process, and, while DPDK starts, a folder in
 * $TMPDIR (or /tmp). The child is sent SIGTERM when the thread that called this
 * function ends: call it from one that lives as long as the source.
 *
 * Returns 0, -ENOENT and other errors of open(2), -EBADMSG (the file is no capture), -EIO
 * (moetap-fw failed; its own words are in the error) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_source_open_capture(const char *path, const char *map,
	const struct moetap_capture_options *options, struct moetap_source **source,
	struct moetap_error *error);

/** Ends a source, and the firmware of a capture. */
MOETAP_EXPORT void moetap_source_close(struct moetap_source *source);

/**
 * Gives the next round. Never waits, except for the end of a firmware that is ending.
 *
 * Returns 1: `*round` is set; 0: there is none yet, try again later; -EPIPE: none will come, the
 * firmware stopped or the capture is at its end; -EOWNERDEAD: none will come, the firmware of the
 * page died; -EBADMSG: the capture is cut or damaged from here on; -EPROTO: the page is damaged;
 * -EIO: the firmware of the capture failed. `error` is set with all but the first three.
 */
MOETAP_EXPORT int moetap_source_next(struct moetap_source *source,
	const struct moetap_round **round, struct moetap_error *error);

/** What the map says of the job: the map of the last round given, or, before the first, the one in
 * force. Returns 0, -EPROTO (there is no valid one yet) or -ENOMEM. */
MOETAP_EXPORT int moetap_source_job(struct moetap_source *source, struct moetap_job *job);

/** Counters of the firmware; after the last round, its final ones. */
MOETAP_EXPORT void moetap_source_stats(
	const struct moetap_source *source, struct moetap_stats *stats);

/** How much of the capture's file was read, from 0 to 1; NAN for a page, a pipe. */
MOETAP_EXPORT double moetap_source_progress(const struct moetap_source *source);

/** Name of the i-th outcome of a packet; NULL past the last one. */
MOETAP_EXPORT const char *moetap_outcome_name(uint32_t i);

/**
 * Adds what a round counted to a series: the tokens of every expert, summed over sources, with the
 * round's quality. Tokens of pairs of ranks that never passed the tap, as those of a rank for
 * itself, are estimated from what the other sources sent, and the round is then
 * MOETAP_QUALITY_ESTIMATED; moetap_series_unseen() tells how much that is. A round without pairs or
 * expert_rank (NULL) is taken as it is. Rounds that are not forward are left out (and 0 returned). Rounds lost before
 * this one flag it MOETAP_QUALITY_OVERRUN. Micro-batches of a step add up. After a restart steps
 * count from 0 again: begin a new series then.
 *
 * Returns as moetap_series_add_round(), and -EINVAL for another number of experts.
 */
MOETAP_EXPORT int moetap_series_add_counts(
	struct moetap_series *series, const struct moetap_round *round, struct moetap_error *error);

/**
 * The program that is started as moetap-fw: $MOETAP_FW, else beside this program or in ../sbin
 * (installed), else in the build tree that this program lies in, else whatever PATH has. Whether it
 * can be started is not checked. Writes at most `size` bytes with the final 0 and returns `path`.
 */
MOETAP_EXPORT char *moetap_firmware_path(char *path, size_t size);

/* ---- state: transient or stable ------------------------------------------------------------- */

/** Follows a series and says for every layer whether its shares are transient or stable. */
struct moetap_state;

/**
 * State of one layer. The three figures are means of |difference of shares| * experts; a window is
 * taken as the forecast of the steps after it. docs/forecasting.md, State, says how they decide.
 */
struct moetap_layer_state {
	bool stable;
	int64_t since;	   /**< step after which this was first said */
	double drift;	   /**< the last window, of 112 steps, against the one before */
	double error;	   /**< the same over the longest window that counts: up to 1,024 steps */
	double noise;	   /**< what drift would be from the dispersion of shares alone */
	double confidence; /**< 0 ... 1. Stable: how far the limits are, times the square root of
			    * the part of 1,000 steps that forecasts were judged over. Transient: 0.5
			    * at the limit, 1 far above it, 0 while there are too few steps */
	char reason[96];   /**< why, in words */
};

/** A detector for series of `layers` layers. Returns 0, -EINVAL or -ENOMEM. */
MOETAP_EXPORT int moetap_state_new(uint32_t layers, struct moetap_state **state);
MOETAP_EXPORT void moetap_state_free(struct moetap_state *state);

/**
 * Shows it the steps of `series` up to `step` that it has not seen yet, each once, so that the
 * outcome does not depend on how often it is called. They should be whole: what a round adds later
 * to a step already seen is not noticed. Memory is taken by the first update and does not grow.
 * A series of other experts, or a `step` below the last one, as after a restart, is a new series: it
 * begins anew.
 *
 * Rounds that are not exact are left out unless most are so. Returns 0, -EINVAL (another number of
 * layers) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_state_update(
	struct moetap_state *state, const struct moetap_series *series, int64_t step);

/** State of a layer after the last update. Returns 0 or -EINVAL. */
MOETAP_EXPORT int moetap_state_layer(
	const struct moetap_state *state, uint32_t layer, struct moetap_layer_state *out);

/** Whether every layer that has tokens is stable. `reason` (may be NULL) names what is not. */
MOETAP_EXPORT bool moetap_state_stable(const struct moetap_state *state, char reason[128]);

/* ---- forecast ------------------------------------------------------------------------------- */

/** Name and one-line description of the i-th method; NULL past the last one. */
MOETAP_EXPORT const char *moetap_forecast_method(uint32_t i, const char **title);

/** Forecast shares with 80 % intervals. */
struct moetap_forecast;

/**
 * Forecasts the mean share of every (layer, expert) over the steps step+1 ... step+horizon from
 * the steps up to `step` (of those kept) alone. `method` is a name or NULL for the default;
 * `window` is in steps, 0 lets the method choose. A layer without any tokens gets shares of 0;
 * those of any other layer sum to 1. Experts that were not seen (moetap_series_seen()) have none:
 * NAN. Where tokens are estimated (moetap_series_unseen()), intervals are wider by that.
 *
 * Returns 0, -EINVAL (unknown method, horizon 0), -ENODATA (no step up to `step`) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_forecast_make(const struct moetap_series *series, int64_t step,
	const char *method, uint32_t horizon, uint32_t window, struct moetap_forecast **forecast,
	struct moetap_error *error);
MOETAP_EXPORT void moetap_forecast_free(struct moetap_forecast *forecast);

MOETAP_EXPORT uint32_t moetap_forecast_layers(const struct moetap_forecast *forecast);
MOETAP_EXPORT uint32_t moetap_forecast_experts(const struct moetap_forecast *forecast);
/** Shares and the ends of their 80 % intervals, [layers][experts] each. */
MOETAP_EXPORT const double *moetap_forecast_share(const struct moetap_forecast *forecast);
MOETAP_EXPORT const double *moetap_forecast_low(const struct moetap_forecast *forecast);
MOETAP_EXPORT const double *moetap_forecast_high(const struct moetap_forecast *forecast);
/** Part of each share that is estimated, not counted, [layers][experts]; 0 ... 1. */
MOETAP_EXPORT const double *moetap_forecast_unseen(const struct moetap_forecast *forecast);

/**
 * The online form of moetap_forecast_make(): a method that follows a series as it grows, so that a
 * step is looked at once, however often forecasts are made. Its memory does not grow with the
 * steps.
 */
struct moetap_forecaster;

/** `method` and `window` as in moetap_forecast_make(). Returns 0, -EINVAL (unknown method) or
 * -ENOMEM. */
MOETAP_EXPORT int moetap_forecaster_new(const char *method, uint32_t window,
	struct moetap_forecaster **forecaster, struct moetap_error *error);
MOETAP_EXPORT void moetap_forecaster_free(struct moetap_forecaster *forecaster);

/**
 * Shows it the steps of `series` up to `step` that it has not seen yet. They should be whole: what
 * a round adds later to a step already seen is not noticed. A series of other layers or experts, or
 * a `step` below the last one, as after a restart, is a new series: it begins anew.
 *
 * Returns 0, -ENODATA (no step up to `step`) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_forecaster_update(struct moetap_forecaster *forecaster,
	const struct moetap_series *series, int64_t step, struct moetap_error *error);

/**
 * Forecasts from what the last update showed; `series` is the one of that update.
 *
 * Returns 0, -EINVAL (horizon 0), -ENODATA (no update came before) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_forecaster_forecast(struct moetap_forecaster *forecaster,
	const struct moetap_series *series, uint32_t horizon, struct moetap_forecast **forecast,
	struct moetap_error *error);

/** Where a forecast comes from. */
struct moetap_forecast_info {
	const char *method;
	const char *interval; /**< what the intervals rest on, in words */
	int64_t step;	      /**< made after this step */
	uint32_t horizon;     /**< steps */
	uint32_t window;      /**< steps that the method looked at */
	uint32_t quality;     /**< of the rounds in that window, ored */
	uint64_t rounds;      /**< rounds in that window */
	uint64_t flagged;     /**< those that are not exact */
	double unseen;	      /**< part of the tokens in that window that is estimated, mean of the
			       *   layers that have such; 0: all was seen */
	bool unseen_blind;    /**< nothing tells how well it is estimated: intervals say what could be */
};
MOETAP_EXPORT void moetap_forecast_info(
	const struct moetap_forecast *forecast, struct moetap_forecast_info *info);

/* ---- backtest ------------------------------------------------------------------------------- */

/** Which origins a line of a backtest is about. */
enum moetap_origins {
	MOETAP_ORIGINS_ALL,
	MOETAP_ORIGINS_TRANSIENT,
	MOETAP_ORIGINS_STABLE,
	MOETAP_ORIGINS_KINDS, /**< number of the above */
};

/** Error of one method. Fractions, not percent; NAN where nothing counted. */
struct moetap_backtest_line {
	double rel;	  /**< mean |p - a| / a where a >= 0.05 / experts */
	double norm;	  /**< mean |p - a| * experts over all */
	double coverage;  /**< fraction of actual shares inside their 80 % interval */
	uint32_t experts; /**< (layer, expert) that counted in `rel` at some origin */
	uint32_t origins;
};

/** How to run a backtest. */
struct moetap_backtest_options {
	const char *method; /**< NULL: the default */
	uint32_t horizon;   /**< steps */
	uint32_t window;    /**< steps; 0: the method chooses */
	int64_t from;	    /**< first origin; below 0: a sixteenth into the series */
	uint32_t every;	    /**< steps between origins; 0: a thirty-second of the series */
	uint32_t threads;   /**< at most so many methods at a time; 0: as many as processors */
	/** Called after each origin, `total` being origins times methods (may be NULL); returning
	 * non-zero ends with -ECANCELED. */
	int (*progress)(void *arg, uint32_t done, uint32_t total);
	/** Called with each forecast (may be NULL), which lives until it returns. */
	void (*made)(void *arg, const struct moetap_forecast *forecast);
	/** Of both, which may be called by any thread, but by one at a time. */
	void *arg;
};

/**
 * Rolling origins: at each origin t the method sees the steps up to t, and its forecast is
 * compared with the mean shares over t+1 ... t+horizon. Only origins whose horizon the series
 * covers count. An origin is stable when moetap_state_stable() says so at t.
 *
 * Returns 0, -EINVAL, -ENODATA (no origin fits), -ECANCELED or -ENOMEM.
 */
MOETAP_EXPORT int moetap_backtest(const struct moetap_series *series,
	const struct moetap_backtest_options *options,
	struct moetap_backtest_line lines[MOETAP_ORIGINS_KINDS], struct moetap_error *error);

/**
 * The same for `count` methods, several at a time; `options->method` is not looked at. The lines do
 * not depend on the number of threads, nor does the order in which one method's origins come; that
 * of different methods does. Returns as moetap_backtest().
 */
MOETAP_EXPORT int moetap_backtest_methods(const struct moetap_series *series,
	const struct moetap_backtest_options *options, const char *const *methods, uint32_t count,
	struct moetap_backtest_line (*lines)[MOETAP_ORIGINS_KINDS], struct moetap_error *error);

/* ---- plan ----------------------------------------------------------------------------------- */

/** What there is to place on. */
struct moetap_shape {
	uint32_t ranks;
	uint32_t nodes;	 /**< divides ranks */
	uint32_t slots;	 /**< in a layer, over all ranks; ranks divide it */
	uint32_t groups; /**< of experts, for group-limited routing; 1: none */
};

/** Name and one-line description of the i-th policy; NULL past the last one. The first is the
 * default. */
MOETAP_EXPORT const char *moetap_plan_policy(uint32_t i, const char **title);

/** A placement: which expert each slot of each layer holds. Replicas share an expert's load
 * equally. */
struct moetap_plan;

/**
 * Plans the placement for `loads[layers][experts]` (tokens or shares; finite, not negative; a
 * layer of zeros is fine; NAN, an expert of which nothing is known, is refused). Hierarchical when there are groups and the nodes divide them: a group
 * then stays on one node; global otherwise. `policy` is a name or NULL for the default, which is
 * deterministic, never puts two replicas of an expert on a rank, and is never less balanced than
 * `eplb` in a layer where `eplb` keeps that rule too. `experts` does the same for activated experts
 * (moetap_plan_activated()): its loads have to be tokens a step, not shares. `current` (may be NULL) is the placement in
 * force: experts that stay on their rank keep their slot, and the default policy looks for a plan
 * near it: the busiest rank of a layer may then have up to 0.8 % more than in a plan from scratch.
 *
 * Returns 0, -EINVAL (shape or loads impossible, unknown policy; the text says why), -E2BIG or
 * -ENOMEM.
 */
MOETAP_EXPORT int moetap_plan_make(const char *policy, const struct moetap_shape *shape,
	uint32_t layers, uint32_t experts, const double *loads, const struct moetap_plan *current,
	struct moetap_plan **plan, struct moetap_error *error);

/** A plan from a given placement `slot_expert[layers][slots]`; every expert must have a slot. */
MOETAP_EXPORT int moetap_plan_from_slots(const struct moetap_shape *shape, uint32_t layers,
	uint32_t experts, const uint32_t *slot_expert, struct moetap_plan **plan,
	struct moetap_error *error);

/** The placement that frameworks start with: slot s holds expert s modulo experts. */
MOETAP_EXPORT int moetap_plan_trivial(const struct moetap_shape *shape, uint32_t layers,
	uint32_t experts, struct moetap_plan **plan, struct moetap_error *error);
MOETAP_EXPORT void moetap_plan_free(struct moetap_plan *plan);

MOETAP_EXPORT uint32_t moetap_plan_layers(const struct moetap_plan *plan);
MOETAP_EXPORT uint32_t moetap_plan_experts(const struct moetap_plan *plan);
MOETAP_EXPORT void moetap_plan_shape(const struct moetap_plan *plan, struct moetap_shape *shape);
/** Whether groups are kept on nodes. */
MOETAP_EXPORT bool moetap_plan_hierarchical(const struct moetap_plan *plan);
/** Expert of every slot, [layers][slots]. */
MOETAP_EXPORT const uint32_t *moetap_plan_slots(const struct moetap_plan *plan);
/** Replicas of every expert, [layers][experts]. */
MOETAP_EXPORT const uint32_t *moetap_plan_replicas(const struct moetap_plan *plan);
/** (layer, rank, expert) with more than one replica: weights and memory wasted. */
MOETAP_EXPORT uint32_t moetap_plan_doubled(const struct moetap_plan *plan);
/**
 * Slots of all layers whose expert was not on that rank in `current`: the weights to be sent.
 * Returns -EINVAL when the two differ in shape.
 */
MOETAP_EXPORT int64_t moetap_plan_moves(
	const struct moetap_plan *plan, const struct moetap_plan *current);

/** Balancedness of a plan under given loads, in the three forms in use. Layers without tokens
 * are left out; all are 1, 1 and 0 when no layer has any. */
struct moetap_balance {
	double mean_max; /**< mean over layers of mean / max of rank loads (SGLang) */
	double sums;	 /**< sum of means / sum of maxima (vLLM) */
	double excess;	 /**< mean over layers of (max - mean) / mean (TensorRT-LLM) */
};

/** `layer` (may be NULL) gets mean / max of every layer; 1 for a layer without tokens. */
MOETAP_EXPORT void moetap_plan_balance(const struct moetap_plan *plan, const double *loads,
	struct moetap_balance *balance, double *layer);

/**
 * Experts activated on the busiest rank: how many get any token in a step there, expected for
 * `loads[layers][experts]` tokens a step that come independently, replicas sharing them equally
 * (sums of 1 - exp(-load / replicas)). Where ranks wait for memory, as in decode of small batches,
 * their time goes with it (METRO, arXiv 2512.09277). `layer` (may be NULL) gets it for every layer;
 * returns the mean over layers.
 */
MOETAP_EXPORT double moetap_plan_activated(
	const struct moetap_plan *plan, const double *loads, double *layer);

/**
 * Which replica the tokens of a layer take: `weight[nodes][slots]` gets, for each source node and
 * slot, the part of the node's tokens for the slot's expert that goes there; those of an expert add
 * up to 1. `from[nodes][experts]` are the tokens by source (any unit). All replicas of an expert get
 * the same, as the plan's balancedness takes it, and as much as possible stays on its node.
 *
 * Returns 0, -EINVAL (no such layer) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_plan_split(
	const struct moetap_plan *plan, uint32_t layer, const double *from, double *weight);

/**
 * Unequal parts instead, for jobs that can: `part[slots]` gets the part of an expert's `load[experts]`
 * tokens that each of its slots takes, so that the ranks of an existing `layer` are as even as the
 * placement allows; those of an expert add up to 1. Returns mean / max of rank loads then, NAN when
 * there is no memory.
 */
MOETAP_EXPORT double moetap_plan_even(
	const struct moetap_plan *plan, uint32_t layer, const double *load, double *part);

/** Tokens of a layer that go from one node to another, with such weights; unit of `from`. */
MOETAP_EXPORT double moetap_plan_between(
	const struct moetap_plan *plan, uint32_t layer, const double *from, const double *weight);

/** How a model's gate chooses. */
struct moetap_gate {
	uint32_t topk;	 /**< experts a token takes */
	uint32_t groups; /**< of experts; divides them */
	uint32_t limit;	 /**< groups that its experts are of; 1 with one group */
};

/**
 * Copies of a token that go to other nodes in a layer, where each node gets one however many of the
 * token's experts it holds: what splitting a group over nodes costs between nodes. Expected for
 * `load[experts]`, tokens coming from all nodes alike; a token's groups are drawn by their shares
 * and in each topk / limit experts, independently. Returns NAN for a gate that cannot be, a layer
 * without tokens, or no memory.
 */
MOETAP_EXPORT double moetap_plan_copies(const struct moetap_plan *plan, uint32_t layer,
	const double *load, const struct moetap_gate *gate);

/** From this balancedness on, a plan that was kept is as good as a new one. */
#define MOETAP_PICK_ENOUGH 0.99

/**
 * Of plans kept for the phases of a job, the one that is most even for `loads[layers][experts]`
 * (mean_max): the loads tell the phase. `balance` gets its balancedness; below MOETAP_PICK_ENOUGH, none
 * of them is of this phase, and a plan is to be made. Returns its index, or -EINVAL (no plan, or
 * layers or experts differ).
 */
MOETAP_EXPORT int moetap_plan_pick(const struct moetap_plan *const *plans, uint32_t count,
	const double *loads, struct moetap_balance *balance);

/** What a move costs and what tokens do. All but `stall` are needed; rates are of one rank, one
 * way. */
struct moetap_prices {
	double expert_bytes;  /**< weights of an expert in one layer */
	double inside;	      /**< bytes/s between ranks of a node */
	double outside;	      /**< bytes/s between nodes */
	double token_seconds; /**< that a rank works on a token */
	double stall;	      /**< seconds that a move stops the job besides; 0 or more */
};

/** What it is to go from one placement to another. */
struct moetap_move {
	int64_t slots;		/**< to be filled anew, all layers */
	double inside, outside; /**< bytes, from ranks of the same node and from others */
	double seconds;		/**< of the rank that sends or receives longest, and the stall */
	double gain;		/**< seconds saved a step, by the busiest ranks of all layers */
	double steps;		/**< after which it has paid, INFINITY: never */
};

/**
 * The move from `current` to `plan`, for `loads[layers][experts]` tokens a step. An expert comes
 * from a rank that holds it now, of the same node if there is one, and of these from the one that
 * has least to send so far.
 *
 * Returns 0, -EINVAL (shapes differ, a price that is no positive number) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_plan_price(const struct moetap_plan *plan,
	const struct moetap_plan *current, const double *loads, const struct moetap_prices *prices,
	struct moetap_move *move);

/* ---- trials --------------------------------------------------------------------------------- */

/** A plan held against the placement in force, on steps that came after it was made. */
struct moetap_trial {
	int64_t first, last;  /**< the steps */
	uint32_t steps;	      /**< of these, those that the series has */
	double before, after; /**< balancedness (sums) of the placement in force and of the plan */
	double busiest;	      /**< part of all tokens that was the busiest ranks', as it is in force */
	double gain;	      /**< part of that which the plan would have saved */
	double low, high;     /**< the 80 % interval of what it saves in a step, in the same unit */
};

/** Steps that a trial needs at least. */
#define MOETAP_TRIAL_LEAST 8
/** Steps of the trials that moetap_trials_best() compares: the shortest, twice that, and so on. */
#define MOETAP_TRIAL_SHORTEST 25
#define MOETAP_TRIAL_LONGEST 3200

/**
 * Judges `plan` on the steps first ... last. The interval rests on eight batches of steps and
 * Student's t, so it takes in that steps close to each other are alike.
 *
 * Returns 0, -EINVAL (not of the series' layers and experts), -ENODATA (fewer than
 * MOETAP_TRIAL_LEAST steps, or no tokens) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_trial_judge(const struct moetap_series *series,
	const struct moetap_plan *current, const struct moetap_plan *plan, int64_t first,
	int64_t last, struct moetap_trial *trial);

/** Plans that were made earlier, the newest 129. One thread at a time. */
struct moetap_trials;

/** Returns 0 or -ENOMEM. */
MOETAP_EXPORT int moetap_trials_new(struct moetap_trials **trials);
MOETAP_EXPORT void moetap_trials_free(struct moetap_trials *trials);

/** Keeps a copy of a plan that was made after `step`, later than those before. Returns 0 or
 * -ENOMEM. */
MOETAP_EXPORT int moetap_trials_add(
	struct moetap_trials *trials, int64_t step, const struct moetap_plan *plan);

/**
 * Adds what would have been planned after earlier steps: MOETAP_TRIAL_SHORTEST before `step`, twice
 * that, and so on, of those that the series has. `policy` is as in moetap_plan_make(), `forecaster`
 * a new one, which has seen these steps afterwards, `horizon` that of its forecasts. Returns 0 or
 * what these return.
 */
MOETAP_EXPORT int moetap_trials_replay(struct moetap_trials *trials,
	const struct moetap_series *series, int64_t step, const struct moetap_plan *current,
	const char *policy, struct moetap_forecaster *forecaster, uint32_t horizon,
	struct moetap_error *error);

/**
 * Judges the plans against `current` on the steps from when they were made up to `step`, and tells
 * the trial in which most was saved, at the low end of its interval and over all its steps.
 * Returns 0, -ENODATA (no plan is old enough) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_trials_best(const struct moetap_trials *trials,
	const struct moetap_series *series, int64_t step, const struct moetap_plan *current,
	struct moetap_trial *best);

/* ---- hints ---------------------------------------------------------------------------------- */

/** What a hint advises. */
enum moetap_verdict {
	MOETAP_KEEP, /**< leave the placement as it is */
	MOETAP_PLAN, /**< move to the published placement */
};

/** How the placement in force is known. */
enum moetap_known {
	MOETAP_KNOWN_START,   /**< not told: it is the one that frameworks start with */
	MOETAP_KNOWN_ACKED,   /**< the job acknowledged it on the hint page */
	MOETAP_KNOWN_STATED,  /**< an operator stated it */
	MOETAP_KNOWN_NOTICED, /**< the traffic shows it */
	MOETAP_KNOWN_NOT,     /**< placement unknown */
};

#define MOETAP_ALL_LAYERS UINT32_MAX

/**
 * Which expert each slot held, by layer and step. The wire shows slots (rank by rank, in each the
 * local ones); with replicas, and after a plan was applied, an expert is the sum of its slots.
 */
struct moetap_placements;

/** All layers as frameworks start: slot s holds expert s modulo experts. Returns as
 * moetap_plan_trivial(). */
MOETAP_EXPORT int moetap_placements_new(const struct moetap_shape *shape, uint32_t layers,
	uint32_t experts, struct moetap_placements **placements, struct moetap_error *error);
MOETAP_EXPORT void moetap_placements_free(struct moetap_placements *placements);

/**
 * `slots[slots]` (with MOETAP_ALL_LAYERS: [layers][slots]) are the experts of a layer's slots from
 * `step` on. What was added for that step and later ones is forgotten. Returns 0, -EINVAL (no such
 * layer or expert, an expert without a slot) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_placements_add(struct moetap_placements *placements, uint32_t layer,
	int64_t step, const uint32_t *slots, enum moetap_known known, struct moetap_error *error);

/**
 * Adds what the job acknowledged on the hint page `name` since it was read last, and keeps in mind
 * what the page's hints propose; for every look at the loads anew. Where the traffic had shown the
 * same, or nothing that is known, the job's word takes its place. No page, or one of another geometry,
 * says nothing. A page keeps the last four acknowledgements of a layer: after a fifth, what held before
 * the oldest is unknown unless it was added before. Returns 0, -EBADMSG (damaged), -EINVAL, -EACCES or -ENOMEM.
 */
MOETAP_EXPORT int moetap_placements_read(
	struct moetap_placements *placements, const char *name, struct moetap_error *error);

/**
 * Looks at layers of which nobody said how they are placed since the page's newest plan: do the
 * loads of slots still go with the placement in force? If not, but with one of the page's hints, that
 * one holds from the step at which the loads change (MOETAP_KNOWN_NOTICED); if with none, or if no
 * steps from before the plan are there, the placement is unknown (MOETAP_KNOWN_NOT) from the plan
 * on. Returns 0, -EINVAL (the series has not as many columns as slots) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_placements_check(struct moetap_placements *placements,
	const struct moetap_series *slots, struct moetap_error *error);

/** How the newest placements are known: MOETAP_KNOWN_NOT if that of any layer is not, and `reason`
 * (may be NULL) says why; else noticed, stated or acknowledged if that of any layer is. */
MOETAP_EXPORT enum moetap_known moetap_placements_known(
	const struct moetap_placements *placements, char reason[128]);

/** Experts of a layer's slots at a step, [slots]; NULL: unknown, or no such layer. */
MOETAP_EXPORT const uint32_t *moetap_placements_at(
	const struct moetap_placements *placements, uint32_t layer, int64_t step);

/** The newest placement of every layer that is known, as a plan. Returns 0 or -ENOMEM. */
MOETAP_EXPORT int moetap_placements_plan(const struct moetap_placements *placements,
	struct moetap_plan **plan, struct moetap_error *error);

/**
 * Loads of experts from loads of slots: each step with the placement that held in it. Steps of a
 * layer in which it is unknown are left out. Quality, and what is estimated, is carried over.
 * Returns 0, -EINVAL (the series has not as many columns as slots), -E2BIG or -ENOMEM.
 */
MOETAP_EXPORT int moetap_placements_experts(const struct moetap_placements *placements,
	const struct moetap_series *slots, struct moetap_series **experts,
	struct moetap_error *error);

/** A verdict with its grounds. */
struct moetap_decision {
	enum moetap_verdict verdict;
	enum moetap_known known; /**< set by the caller; moetap_decide() leaves it _START */
	double gain;	  /**< predicted fraction of the busiest ranks' load saved, all layers */
	double before;	  /**< balancedness (sums) forecast for the placement in force */
	double after;	  /**< balancedness (sums) forecast for the plan */
	int64_t moves;	  /**< slots to be filled anew */
	double least;	  /**< fraction saved at the low end: see moetap_decide_move() */
	double saved;	  /**< seconds saved over the horizon at the low end; 0 without prices */
	double tried;	  /**< seconds saved in the trial at the low end; 0 without one */
	double cost;	  /**< seconds that the move takes; 0 without prices */
	char reason[256]; /**< one sentence */
};

/** Default of the least gain. */
#define MOETAP_GAIN_THRESHOLD 0.05
/** Default of how often a move must pay for itself, as forecast, and in a trial. */
#define MOETAP_MOVE_MARGIN 2.0
#define MOETAP_TRIAL_MARGIN 1.0

/** What a plan must bring. Only `threshold` is needed; the rest may be 0. */
struct moetap_rule {
	double threshold; /**< least fraction of the busiest ranks' load, as forecast */
	const struct moetap_prices *prices; /**< NULL: moves cost nothing */
	const double *tokens; /**< [layers], tokens of a layer in a step; needed with prices */
	const struct moetap_trial *trial; /**< NULL: none; only read with prices */
	double margin; /**< how often a move must pay for itself; 0: MOETAP_MOVE_MARGIN, or
			*   MOETAP_TRIAL_MARGIN in a trial */
	uint32_t interval;    /**< least steps between two plans */
	int64_t last_plan; /**< step after which the last plan was made; only read with `interval`,
			    *   negative: none was */
};

/**
 * Says nothing rather than harm: `plan` only when
 *
 * - every layer that has tokens is stable,
 * - the last plan lies `interval` steps back or more, or ahead, as after a restart,
 * - the predicted gain of `plan` over `current` exceeds the threshold, and
 * - with prices, what it saves over the forecast's horizon at the low end of the intervals exceeds
 *   `margin` times what the move costs (moetap_plan_price()).
 *
 * or when, with prices and a trial, plans of this kind have shown what they save: on the steps of the
 * trial, at the low end of its interval, more than `margin` times what the move costs. That asks
 * neither for a state nor for a threshold. The last plan must be old enough all the same.
 *
 * Else `keep` with the reason. The low end of the forecast holds for all shares within the intervals that sum to 1
 * in each layer: there, the busiest ranks save at least that (docs/planning.md). What is in force
 * is left only for something better by the threshold, and going back must bring as much again, so
 * loads that waver by less move nothing.
 *
 * A forecast made from flagged rounds, or with estimated loads, is named as such in the reason.
 * Returns 0, -EINVAL (shapes differ; prices without tokens, or that are no positive numbers;
 * a negative margin) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_decide_move(const struct moetap_state *state,
	const struct moetap_forecast *forecast, const struct moetap_plan *current,
	const struct moetap_plan *plan, const struct moetap_rule *rule,
	struct moetap_decision *decision);

/** moetap_decide_move() with a threshold alone. */
MOETAP_EXPORT int moetap_decide(const struct moetap_state *state,
	const struct moetap_forecast *forecast, const struct moetap_plan *current,
	const struct moetap_plan *plan, double threshold, struct moetap_decision *decision);

/* ---- the network ---- */

#define MOETAP_QUEUE_PAIRS_MAX 128u /**< of one pair of ranks: NCCL's limit of a connection */

/** Ranks of rounds by source in a series; 0: it has none. */
MOETAP_EXPORT uint32_t moetap_network_ranks(const struct moetap_series *series);

/**
 * Tokens that each rank will dispatch to each other rank in a step, in one layer or in all of them
 * (MOETAP_ALL_LAYERS), as a mean over the forecast's horizon: of each expert, its forecast share of
 * the tokens that its layer had in the last `steps` steps (0: all that are kept), divided over the
 * sources as in the last 256 rounds, about, since experts are where they are.
 *
 * `tokens[ranks][ranks]`, source first, ranks as of moetap_network_ranks(); NAN: they pass no tap,
 * so nothing is known. Returns 0, -ENODATA (rounds name no sources), -EINVAL (the forecast is not of
 * this series, or has no such layer) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_network_tokens(const struct moetap_series *series,
	const struct moetap_forecast *forecast, uint32_t layer, uint32_t steps, double *tokens,
	struct moetap_error *error);

/**
 * Queue pairs a pair of ranks in proportion to its bytes, so that each carries about the same;
 * `queue_pairs` is what a pair with the mean of bytes gets. `bytes` and `spread` are [ranks][ranks];
 * at least 1 for a pair that passes the tap, at most MOETAP_QUEUE_PAIRS_MAX, and 0 where `bytes` is
 * NAN.
 */
MOETAP_EXPORT void moetap_network_spread(
	const double *bytes, uint32_t ranks, uint32_t queue_pairs, uint32_t *spread);

/** What the dispatches of one layer ask of the network. */
struct moetap_network {
	double busiest; /**< tokens a step from one rank to another, the most of all pairs */
	double mean;	/**< of all pairs that pass the tap */
	uint32_t queue_pairs;  /**< a connection; 0: no advice */
	int32_t traffic_class; /**< below 0: no advice */
};

/**
 * Fills `network[layers]` for the next steps, tokens as moetap_network_tokens() has them. Queue
 * pairs a connection are busiest / mean, rounded up, at most `most`, so that the busiest pair of
 * ranks has more paths through the fabric; with `most` 0 nothing is advised. `traffic_class` (below
 * 0: none) is handed on. Returns as moetap_network_tokens().
 */
MOETAP_EXPORT int moetap_network_layers(const struct moetap_series *series,
	const struct moetap_forecast *forecast, uint32_t steps, uint32_t most,
	int32_t traffic_class, struct moetap_network *network, struct moetap_error *error);

/* ---- simulation ----------------------------------------------------------------------------- */

/** When a simulated job moves its experts. */
enum moetap_when {
	MOETAP_WHEN_NEVER,   /**< it stays with the placement it began with */
	MOETAP_WHEN_EVERY,   /**< every K steps, to EPLB's plan for the last K steps */
	MOETAP_WHEN_DECIDED, /**< when moetap_decide_move() says so */
	MOETAP_WHENS,	     /**< number of the above */
};

/** A simulated step. */
struct moetap_simulated_step {
	int64_t step;
	uint32_t steps; /**< that it stands for: up to the next step of the series */
	double seconds; /**< of the busiest ranks, all layers, one step */
	double even;	/**< the same if all ranks had the same load */
	double moving;	/**< of a move before it; 0: none */
};

/** How to simulate. */
struct moetap_simulation {
	struct moetap_shape shape;
	struct moetap_prices prices;
	uint32_t every; /**< K of MOETAP_WHEN_EVERY */

	/* Of MOETAP_WHEN_DECIDED. */
	uint32_t horizon;   /**< steps */
	const char *method; /**< NULL: the default */
	uint32_t window;    /**< steps; 0: the method chooses */
	double threshold, margin;
	uint32_t interval; /**< these three as in struct moetap_rule */

	/** Called with every step (may be NULL). */
	void (*step)(void *arg, const struct moetap_simulated_step *step);
	void *arg;
};

/** What came out. */
struct moetap_simulated {
	double seconds; /**< of all steps, moving included */
	double moving;	/**< of that, moves */
	double even;	/**< of all steps if all ranks had the same load */
	uint32_t plans; /**< moves */
	int64_t slots;	/**< filled anew in them */
};

/**
 * Replays a series as a job that begins with moetap_plan_trivial(). A step takes as long as the
 * busiest rank of each layer, one layer after the other, works on its tokens; a move takes what
 * moetap_plan_price() says. A decision after step t knows the steps up to t and holds from the next
 * one on. MOETAP_WHEN_DECIDED looks every 25 steps. A step of the series stands for all up to the
 * next one; the last for itself.
 *
 * Returns 0, -EINVAL (shape, prices, method or experts that were never seen; `every` or `horizon`
 * 0), -ENODATA (no step) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_simulate(const struct moetap_series *series,
	const struct moetap_simulation *simulation, enum moetap_when when,
	struct moetap_simulated *result, struct moetap_error *error);

/** Name and one-line description of the i-th kind of generated loads; NULL past the last one. */
MOETAP_EXPORT const char *moetap_workload(uint32_t i, const char **title);

/** How much to generate. */
struct moetap_workload_size {
	uint32_t layers, experts;
	uint32_t ranks; /**< rank r is that of the experts r * experts / ranks and up */
	uint32_t steps;
	double tokens; /**< of a layer in a step, all experts, on the mean */
	uint32_t seed;
};

/**
 * Generates loads of a kind: shares as its description says, tokens around them with four times
 * the variance of independent draws, as tokens of a batch are alike. Equal input, equal loads.
 * Returns 0, -EINVAL (unknown kind; ranks that do not divide the experts; no steps or tokens),
 * -E2BIG or -ENOMEM.
 */
MOETAP_EXPORT int moetap_workload_make(const char *name, const struct moetap_workload_size *size,
	struct moetap_series **series, struct moetap_error *error);

/* ---- hint pages ----------------------------------------------------------------------------- */

/** The one writer of a hint page. */
struct moetap_publisher;

/**
 * Opens the hint page /dev/shm/moetap-hint-`name` for writing, making it where there is none.
 * A page that an earlier writer left is taken over: its hint stays readable and generations go on.
 * A page of another geometry or of an earlier version is retired (readers get -ESTALE and open
 * again) and made anew.
 *
 * Returns 0, -EINVAL (bad name or shape), -EBUSY (somebody else publishes there), -EACCES,
 * -EPROTO (the file is no hint page of this version) or another errno.
 */
MOETAP_EXPORT int moetap_publisher_open(const char *name, uint32_t layers, uint32_t experts,
	const struct moetap_shape *shape, struct moetap_publisher **publisher,
	struct moetap_error *error);

/** Gives the page up; it stays with its last hint for readers and the next writer. */
MOETAP_EXPORT void moetap_publisher_close(struct moetap_publisher *publisher);

/** Default of `bias_rate`: that of Megatron-Core's moe_router_bias_update_rate. */
#define MOETAP_BIAS_RATE 1e-3

/** What hints carry beside forecast and placement. */
struct moetap_terms {
	double bias_rate; /**< size of a step of the gate's bias, 0 or more */
	double lifetime;  /**< seconds after which a hint is stale; 0: only its steps end it */
	/** Tokens by source, [layers][nodes][experts] (any unit), for the split over replicas; NULL:
	 * all nodes send as the forecast's shares. It has to live as long as hints are published. */
	const double *from;
	/** [layers]; NULL: nothing is said of the network. It lives as long as `from`. */
	const struct moetap_network *network;
};

/** Sets them for the hints that follow. Returns 0 or -EINVAL (a rate or lifetime that is none). */
MOETAP_EXPORT int moetap_publisher_terms(
	struct moetap_publisher *publisher, const struct moetap_terms *terms);

/**
 * Publishes a hint. `placement` is the placement that the hint carries: the plan for
 * MOETAP_PLAN, the placement in force for MOETAP_KEEP. Readers see the old hint or the new one,
 * never a mixture, also when this process is killed half way. A hint whose placement is
 * MOETAP_KNOWN_NOT carries no placement and no split.
 *
 * Returns 0, -EINVAL (shape of forecast or placement is not the page's) or -ENOMEM.
 */
MOETAP_EXPORT int moetap_publisher_publish(struct moetap_publisher *publisher,
	const struct moetap_state *state, const struct moetap_forecast *forecast,
	const struct moetap_plan *placement, const struct moetap_decision *decision,
	struct moetap_error *error);

/** Generation of the last hint on the page; 0 when there is none yet. */
MOETAP_EXPORT uint64_t moetap_publisher_generation(const struct moetap_publisher *publisher);

/** Step after which the last plan that was published on the page was made; -1 when none was. */
MOETAP_EXPORT int64_t moetap_publisher_last_plan(const struct moetap_publisher *publisher);

/** Removes the page; readers that have it open get -ESTALE. Returns as moetap_publisher_open(). */
MOETAP_EXPORT int moetap_hint_remove(const char *name, struct moetap_error *error);

#ifdef __cplusplus
}
#endif

#endif
