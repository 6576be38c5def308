/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * What the files of libmoetap share. Names with external linkage begin with mtl_, so that a job
 * that links the static library does not meet them.
 */
#ifndef MOETAP_INTERNAL_H
#define MOETAP_INTERNAL_H

#include <sys/types.h>

#include "moetap.h"

/** Writes the text of an error (which may be NULL) and returns `err`, so that a caller can write
 * `return mtl_fail(error, -EINVAL, "...")`. */
int mtl_fail(struct moetap_error *error, int err, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/** mtl_fail() for -ENOMEM. */
int mtl_fail_memory(struct moetap_error *error);

/** Refuses sizes that are 0 or over a limit. */
int mtl_check_geometry(uint32_t layers, uint32_t experts, struct moetap_error *error);

/* ---- estimate.c ---- */

/** 80 % of a normal distribution is within so many standard deviations. */
#define MTL_NORMAL_80 1.281552

/** One round by source. The arrays are the caller's. */
struct mtl_sources {
	uint32_t ranks, experts;
	const double *tokens;	     /**< [ranks][experts], source first */
	const uint32_t *expert_rank; /**< [experts]; ranks or above: at none */
	const bool *visible;	     /**< [ranks][ranks], source first: what passes the tap */
};

/** What sources of a layer were off by in the rounds before, in parts of the layer's load: a mean,
 * later of a sliding kind. All zero at first. */
struct mtl_trail {
	uint32_t ranks, rounds;
	float *mean; /**< [ranks][experts]; to be freed */
};

/** Loads with what no tap could see; arrays of [experts]. */
struct mtl_estimate {
	double *load;	  /**< tokens, the unseen ones included */
	double *unseen;	  /**< of these, estimated */
	double *rate;	  /**< of a source of activity 1 */
	double *spread;	  /**< squares of what the sources are off by */
	double *variance; /**< of the load, so that a normal distribution has the right 80 %;
			   *   INFINITY: nothing tells */
	double *lasting;  /**< part of it that rounds have in common; may come out below 0 */
	bool *known;	  /**< some source is visible; else there is no load */
	bool *estimated;  /**< some source is not */
};

/** Returns 0 or -ENOMEM. */
int mtl_estimate_new(uint32_t experts, struct mtl_estimate *estimate);
void mtl_estimate_free(struct mtl_estimate *estimate);

/** Estimates the loads of a round and goes on with its layer's trail. Returns 0 or -ENOMEM. */
int mtl_estimate_round(const struct mtl_sources *sources, struct mtl_trail *trail,
	struct mtl_estimate *estimate);

/* ---- network.c ---- */

/** Who sent the tokens of a layer's experts: sliding means of its rounds. All zero at first. */
struct mtl_senders {
	uint32_t ranks, rounds;
	float *mean;	/**< [ranks][experts], source first, tokens */
	double *load;	/**< [experts], tokens, those that no tap could see included */
	uint32_t *rank; /**< [experts]: ranks or above: at none */
	bool *crosses;	/**< [ranks][ranks], source first: passed the tap in some round */
};

/** Goes on with the means; `load[experts]` is of the same round. They begin anew where experts are
 * at other ranks than before. Returns 0 or -ENOMEM. */
int mtl_senders_add(
	struct mtl_senders *senders, const struct mtl_sources *round, const double *load);
void mtl_senders_free(struct mtl_senders *senders);

/** Those of a layer; NULL: no round came by source. */
const struct mtl_senders *mtl_series_senders(const struct moetap_series *series, uint32_t layer);

/* ---- series.c ---- */

/** Largest load: above it, doubles no longer count exactly. */
#define LOAD_MAX 9007199254740992.0

/** Index of the first kept step that is >= `step`; the number of kept steps if there is none. */
uint32_t mtl_series_lower(const struct moetap_series *series, int64_t step);

/** The i-th kept step, from the oldest. */
int64_t mtl_series_step(const struct moetap_series *series, uint32_t i);

/** Sum of the loads of a layer in the i-th kept step. */
double mtl_series_sum(const struct moetap_series *series, uint32_t i, uint32_t layer);

/** moetap_series_add_round() of a round by source: what of it cannot be seen is estimated. Experts
 * of which no source is visible were not seen. `series` has as many experts. */
int mtl_series_add_sources(struct moetap_series *series, int64_t step, uint32_t layer,
	const struct mtl_sources *sources, uint32_t quality, struct moetap_error *error);

/** The i-th kept step as one observation: fills share[layers][experts], sum[layers] and
 * quality[layers]. Returns the step. */
int64_t mtl_series_observe(const struct moetap_series *series, uint32_t i, double *share,
	double *sum, uint32_t *quality);

/** moetap_series_add_round() of a round that tells `seen[experts]`, the experts that it could see.
 */
int mtl_series_add_seen(struct moetap_series *series, int64_t step, uint32_t layer,
	const double *tokens, const bool *seen, uint32_t quality, struct moetap_error *error);

/** Adds a layer of the i-th kept step of a series of slots, `held[slots]` being their experts. */
int mtl_series_add_slots(struct moetap_series *series, const struct moetap_series *slots,
	uint32_t i, uint32_t layer, const uint32_t *held, struct moetap_error *error);

/* ---- csv.c ---- */

/** A CSV file that is read line by line. */
struct csv;

/** Opens `path`, "-" being standard input. Returns 0 or a negative errno. */
int mtl_csv_open(const char *path, struct csv **csv, struct moetap_error *error);
void mtl_csv_close(struct csv *csv);

/** Reads the next line and splits it at its commas. Returns the number of fields, 0 at the end of
 * the file, or a negative errno. */
int mtl_csv_next(struct csv *csv, struct moetap_error *error);

/** Whether the file begins with this character; before anything was read. */
bool mtl_csv_begins(struct csv *csv, char c);

/** Reads the next line as it is, for a file of lines of another kind. Returns its length with the
 * line feed, 0 at the end of the file, or a negative errno. */
ssize_t mtl_csv_line(struct csv *csv, const char **line, struct moetap_error *error);

/** The i-th field of the line. */
const char *mtl_csv_field(const struct csv *csv, uint32_t i);

/** mtl_fail() with -EBADMSG, the file and the line, and the column if it is not CSV_LINE. */
#define CSV_LINE UINT32_MAX
int mtl_csv_fail(const struct csv *csv, uint32_t column, struct moetap_error *error,
	const char *format, ...) __attribute__((format(printf, 4, 5)));

/** The i-th field as a load (finite, not negative) or as an integer from 0 to `most`. Return 0 or
 * -EBADMSG. */
int mtl_csv_load(const struct csv *csv, uint32_t i, double *load, struct moetap_error *error);
int mtl_csv_integer(const struct csv *csv, uint32_t i, int64_t most, int64_t *value,
	struct moetap_error *error);

/* ---- trace_long.c ---- */

#define MTL_NO_EXPERT UINT32_MAX
#define MTL_NO_RANK UINT32_MAX

/** The load of an expert from one source, or, with MTL_NO_EXPERT, a round and nothing more. */
struct mtl_cell {
	int64_t step;
	uint32_t layer, expert;
	uint32_t src; /**< MTL_NO_RANK: the trace does not say */
	uint32_t dst; /**< rank of the expert, if there is a source */
	uint32_t quality; /**< of the round */
	double tokens;
};

/** All cells: how many layers and experts there are is known at the end only. */
struct mtl_cells {
	struct mtl_cell *cell;
	size_t count, room;
	uint32_t layers, experts;
	uint32_t ranks;	       /**< that cells name; 0: not all of them name two */
	uint32_t *expert_rank; /**< [MOETAP_MAX_EXPERTS]; NULL: no cell yet */
	bool sourceless;       /**< some cell has no source */
};

/** Returns 0, -ENOMEM, -E2BIG, or -EBADMSG (the expert was at another rank before). */
int mtl_cells_add(const struct csv *csv, struct mtl_cells *cells, const struct mtl_cell *cell,
	struct moetap_error *error);
void mtl_cells_free(struct mtl_cells *cells);

/** Makes a series of them: runs of cells of the same step and layer are one round each; where cells
 * name sources they are sorted first. */
int mtl_cells_series(
	struct mtl_cells *cells, struct moetap_series **series, struct moetap_error *error);

/** Reads the lines after a header that has the columns `layer` and `expert`. */
int mtl_trace_read_long(struct csv *csv, uint32_t fields, struct moetap_series **series,
	struct moetap_error *error);

/* ---- trace_json.c ---- */

/** Reads rounds as `moetap count --format json` prints them, an object a line. */
int mtl_trace_read_json(struct csv *csv, struct moetap_series **series, struct moetap_error *error);

/* ---- forecast.c ---- */

/** One step, as a method that learns step by step gets it. Steps rise, and may leave gaps. */
struct observation {
	int64_t step;
	const double *share;	 /**< [layers][experts]; all 0 in a layer without tokens */
	const double *sum;	 /**< [layers], tokens; 0: the layer was idle or not seen */
	const uint32_t *quality; /**< [layers], enum moetap_quality */
};

/** What a method is asked. */
struct question {
	const struct moetap_series *series;
	int64_t step;	  /**< only steps up to this one may be read */
	uint32_t horizon; /**< steps */
	uint32_t window;  /**< steps; 0: the method chooses */
	void *state;	  /**< of a method that learns; it was given every step up to `step` */
};

/**
 * One method: a file, and a line in the table of forecast.c. A method either learns step by step
 * and has all of open, add and close, or reads the series whenever it is asked and has none.
 */
struct forecaster {
	const char *name;
	const char *title;
	/** Makes the state of a method that learns. Its memory must not grow with the steps; all
	 * that add and predict need is allocated here. `window` as in the question. Returns 0 or
	 * -ENOMEM. */
	int (*open)(uint32_t layers, uint32_t experts, uint32_t window, void **state);
	void (*close)(void *state); /**< NULL is fine */
	/** Learns from the next step. */
	void (*add)(void *state, const struct observation *observation);
	/** Fills share[layers][experts]; `first` gets the first step that mattered. The series has
	 * at least one step up to question->step. A method that learns leaves negative shares and
	 * sums other than 1 to the caller, who mends them; a layer in which it saw no tokens is
	 * all 0. */
	void (*predict)(const struct question *question, double *share, int64_t *first);
};

extern const struct forecaster mtl_forecaster_arima;
extern const struct forecaster mtl_forecaster_auto;
extern const struct forecaster mtl_forecaster_last;
extern const struct forecaster mtl_forecaster_lstm;
extern const struct forecaster mtl_forecaster_sw_avg;

/** The method of that name, the default for NULL, or NULL when there is none. */
const struct forecaster *mtl_forecaster_find(const char *name);

/** moetap_forecaster_new() for one horizon only (0: any), which takes less work and memory. */
int mtl_forecaster_new(const char *name, uint32_t window, uint32_t horizon,
	struct moetap_forecaster **forecaster, struct moetap_error *error);

/** Window of sw_avg where none is given, from the steps of history up to `step`. */
uint32_t mtl_sw_avg_window(const struct moetap_series *series, int64_t step);

/* ---- matured.c ---- */

/** Horizons that a run looks at: powers of two and, if one is asked for, that one. */
#define MTL_HORIZONS_MOST 16

/** Errors of shares grow about as their square root, like those of counts; dead experts keep a
 * floor. Dividing by this makes errors of all experts of a layer comparable, so that a few
 * forecasts are enough for a quantile. */
double mtl_share_scale(double share, uint32_t experts);

/** How wrong a method that learns was, by layer and horizon. */
struct matured;

/** `horizon` 0: any may be asked for. Returns 0 or -ENOMEM. */
int mtl_matured_open(uint32_t layers, uint32_t experts, uint32_t horizon, struct matured **matured);
void mtl_matured_close(struct matured *matured);

/** Judges the forecasts whose horizon ends with this step. To be called with every step, before
 * the method learns from it. */
void mtl_matured_add(struct matured *m, const struct observation *o);

/** Lets the method forecast after the step just added, at the horizons that are due. */
void mtl_matured_ask(
	struct matured *m, void (*predict)(void *arg, uint32_t horizon, double *share), void *arg);

/** Half width of the 80 % interval at a horizon, [layers], in units of mtl_share_scale(); negative
 * where nothing has matured. Returns whether forecasts of that horizon itself have, in all layers
 * that have any. */
bool mtl_matured_width(const struct matured *m, uint32_t horizon, double *width);

/* ---- season.c ---- */

/** Finds out whether loads come back after a number of steps. */
struct season;

/** Returns 0 or -ENOMEM. */
int mtl_season_open(uint32_t layers, uint32_t experts, struct season **season);
void mtl_season_close(struct season *season);

/** The next step: share[layers][experts]. */
void mtl_season_add(struct season *season, int64_t step, const double *share);

/** The mean over the next `horizon` steps if they are as those a period ago. Returns the period, in
 * steps that were seen, or 0 when there is none that would help. */
uint32_t mtl_season_predict(const struct season *season, int64_t horizon, double *share);

/* ---- drift.c ---- */

/** Steps after which one may look again; windows are multiples of it. Steps here are those seen,
 * whatever lies between them. */
#define MTL_DRIFT_BLOCK 16
/** Steps that two windows may have together. */
#define MTL_DRIFT_STEPS 1280

/** What the shares of one layer did lately. Its memory does not grow with the steps. */
struct mtl_drift;

/** Returns 0 or -ENOMEM. */
int mtl_drift_open(uint32_t experts, struct mtl_drift **drift);
void mtl_drift_close(struct mtl_drift *drift);

/** Makes it as if newly opened. */
void mtl_drift_forget(struct mtl_drift *drift);

/** Adds the shares [experts] of a step. Returns whether a look may say something new: after every
 * MTL_DRIFT_BLOCK steps. */
bool mtl_drift_add(struct mtl_drift *drift, int64_t step, const double *share);

/** Steps added. */
uint64_t mtl_drift_steps(const struct mtl_drift *drift);

/** Difference between the mean shares of two adjacent windows, the later of which has just ended. */
struct mtl_look {
	uint32_t before, after;
	double span;	  /**< of the later one, in numbers of steps, as they are sampled */
	double apart;	  /**< their middles, in numbers of steps */
	double l1;	  /**< sum over experts of |difference|: the mean, times experts */
	double noise;	  /**< what l1 would be from noise alone */
	double square;	  /**< weighted sum of squares */
	double expected;  /**< what that would be from noise alone */
	double deviation; /**< and its standard deviation */
	double z;	  /**< how unlikely noise alone is, in standard deviations */
	double z_most;	  /**< the same if experts did not go together */
};

/** Compares the last `after` steps with the `before` steps before them: multiples of
 * MTL_DRIFT_BLOCK. Returns false when there are too few steps. */
bool mtl_drift_look(const struct mtl_drift *drift, uint32_t before, uint32_t after,
	struct mtl_look *look);

/** Which part of the difference that `longer` shows `look` shows too: the projection of the one on
 * the other, with the standard deviation that noise gives it. Both are the newest looks. */
double mtl_drift_part(const struct mtl_drift *drift, const struct mtl_look *look,
	const struct mtl_look *longer, double *deviation);

/* ---- plan.c ---- */

/** What a policy plans for: one layer. */
struct task {
	struct moetap_shape shape;
	bool hierarchical; /**< groups stay on nodes */
	bool activated;    /**< ranks are to be even in experts activated, not in tokens */
	uint32_t experts;
	const double *load;	 /**< [experts] */
	const uint32_t *current; /**< [slots], placement in force, NULL: none is known */
};

/** One policy: a file, and a line in the table of plan.c. */
struct planner {
	const char *name;
	const char *title;
	/** Fills slot_expert[slots]. Returns 0 or -ENOMEM. */
	int (*plan)(const struct task *task, uint32_t *slot_expert);
	bool doubles; /**< may put two replicas of an expert on a rank */
};

extern const struct planner mtl_planner_moetap;
extern const struct planner mtl_planner_experts;
extern const struct planner mtl_planner_eplb;

/** What a replica adds to its rank when `count` of them share `load` tokens. */
double mtl_part(bool activated, double load, uint32_t count);

/** Experts of each node: `expert[experts]`, experts / nodes of them a node, by packing the groups
 * evenly. Global tasks have one node. Returns 0 or -ENOMEM. */
int mtl_pack_groups(const struct task *task, uint32_t *expert);

/** Largest and mean load of the ranks in a layer, whose loads are `load[experts]`. */
double mtl_plan_busiest(
	const struct moetap_plan *plan, uint32_t layer, const double *load, double *mean);

/** Fills loads[layers][experts] of the i-th kept step. */
void mtl_series_loads(const struct moetap_series *series, uint32_t i, double *loads);

/** Tokens of the busiest ranks of all layers, and of mean ones. */
double mtl_plan_busiest_all(const struct moetap_plan *plan, const double *loads, double *even);

/** The least part of a layer's tokens that `plan` takes off the busiest rank, compared with
 * `current`, for any shares within the intervals of a forecast; may be negative. For a layer that
 * has shares. Returns 0 or -ENOMEM. */
int mtl_plan_least_gain(const struct moetap_plan *plan, const struct moetap_plan *current,
	uint32_t layer, const struct moetap_forecast *forecast, double *gain);

/** Nodes that a task keeps apart: all, or one for a global task. */
uint32_t mtl_task_nodes(const struct task *task);

/** Packs `n` items of given weight into `packs` of n / packs items each: the heaviest first, each
 * into the lightest pack with room. `place[n]` gets pack * (n / packs) + position in the pack.
 * Returns 0 or -ENOMEM. */
int mtl_pack_evenly(uint32_t n, const double *weight, uint32_t packs, uint32_t *place);

/** Grants `total` replicas to `n` experts: one each, then every further one to the expert with the
 * most load a replica that has less than `most`. `replica[total]` gets their experts in the order
 * of granting, `count[n]` how many each expert has, `each[n]` the load of one. Needs
 * n <= total <= n * most. */
void mtl_replicate(uint32_t n, const double *load, uint32_t total, uint32_t most, uint32_t *replica,
	uint32_t *count, double *each);

/** Indices 0 ... n-1 by falling weight; equal ones by rising index. Returns 0 or
 * -ENOMEM. */
int mtl_order_falling(uint32_t n, const double *weight, uint32_t *order);

#endif
