/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Transient or stable. Cong et al. (arXiv 2404.16914) read the two states from plots of variance;
 * variance alone calls a run stable while its forecasts still get better. Here a window of shares
 * is taken as the forecast of the steps after it, at horizons that double, and judged as soon as
 * these steps have passed (drift.c). The forecast was wrong when noise does not explain its error
 * and what remains of it matters. Short windows find a jump soon; long ones find a slow drift.
 *
 * A layer is transient when a forecast was wrong. It becomes stable when the last steps agree with
 * each other by stricter limits, and longer windows do so too, or are wrong only because they hold
 * what lies before a change that is over.
 */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** Steps whose forecasts decide: about those that a placement is kept for. */
#define HORIZON 1000
/** Horizons: 64 steps, 128, and on to 1,024. */
#define WINDOWS 5
#define WINDOW_LEAST 64
/** Steps of the equal windows that a layer needs to become stable. Where steps were sampled, so
 * that WINDOW_LEAST of them span as many, that many do. */
#define WINDOW_SETTLED 112
/** A layer that was settled and lost it so often in so many steps alternates, as serving does
 * between prefill and decode. It is transient until it was not lost for as many steps. */
#define LOST 3
#define LOST_WITHIN (3 * HORIZON)
/** Steps without tokens after which a layer is idle. */
#define IDLE 256

/** A forecast was wrong when both are passed: standard deviations, and the multiple of tolerance().
 * To become stable, experts are taken not to go together, which errs on the side of transient. */
struct limits {
	double z, drift;
	bool apart;
};
static const struct limits enter = {.z = 2.5, .drift = 1, .apart = true};
static const struct limits leave = {.z = 6, .drift = 2};

struct layer {
	struct mtl_drift *drift;
	bool stable;
	int64_t since;
	bool settled; /**< the last looks agree, though it may alternate */
	bool alternates;
	uint32_t losses;    /**< times that it was settled no more */
	int64_t lost[LOST]; /**< steps of the last ones; losses % LOST is the oldest */
	uint64_t origin;    /**< steps of `drift` at the last change that is over */
	uint32_t missed;    /**< steps without tokens since the last one with */
	double flagged;	    /**< fraction of rounds that are not exact, lately */
	uint32_t looks;	    /**< windows in `look` */
	uint32_t least;	    /**< windows that a layer needs to become stable */
	struct mtl_look look[WINDOWS];
};

struct moetap_state {
	uint32_t layers, experts;
	bool started;
	int64_t step;	     /**< last one added */
	double *share, *sum; /**< of a step */
	uint32_t *quality;   /**< of a step */
	struct layer layer[];
};

int moetap_state_new(uint32_t layers, struct moetap_state **state)
{
	struct moetap_state *s;

	if (layers == 0 || layers > MOETAP_MAX_LAYERS)
		return -EINVAL;
	s = calloc(1, sizeof(*s) + layers * sizeof(s->layer[0]));
	if (s == NULL)
		return -ENOMEM;
	s->layers = layers;
	*state = s;
	return 0;
}

static void forget(struct moetap_state *s)
{
	for (uint32_t l = 0; l < s->layers; l++)
		mtl_drift_close(s->layer[l].drift);
	memset(s->layer, 0, s->layers * sizeof(s->layer[0]));
	free(s->share);
	free(s->sum);
	free(s->quality);
	s->share = s->sum = NULL;
	s->quality = NULL;
	s->started = false;
}

void moetap_state_free(struct moetap_state *s)
{
	if (s == NULL)
		return;
	forget(s);
	free(s);
}

/** Begins anew with a series of that many experts. Returns 0 or -ENOMEM. */
static int begin(struct moetap_state *s, uint32_t experts)
{
	int ret = 0;

	forget(s);
	s->experts = experts;
	s->share = malloc((size_t)s->layers * experts * sizeof(double));
	s->sum = malloc(s->layers * sizeof(double));
	s->quality = malloc(s->layers * sizeof(uint32_t));
	if (s->share == NULL || s->sum == NULL || s->quality == NULL)
		ret = -ENOMEM;
	for (uint32_t l = 0; l < s->layers && ret == 0; l++)
		ret = mtl_drift_open(experts, &s->layer[l].drift);
	if (ret < 0)
		forget(s);
	return ret;
}

/* ---- one look ---- */

/**
 * How far shares may move, by noise apart, from one window to the next. Over HORIZON steps it is
 * 0.05; shorter windows may move less, like the path of a random walk, as what they show is only
 * the beginning; below a hundred steps nothing smaller matters.
 */
static double tolerance(const struct mtl_look *look)
{
	return 0.05 * fmin(fmax(sqrt(look->span / HORIZON), 0.35), 1);
}

/** What remains of the difference of shares without noise: squares add up. */
static double beyond_noise(const struct mtl_look *look)
{
	return look->l1 * sqrt(fmax(1 - look->expected / look->square, 0));
}

/** How near a look is to the limits: above 1, both are passed. */
static double nearness(const struct mtl_look *look, const struct limits *limits)
{
	double z = (limits->apart ? look->z_most : look->z) / limits->z;
	double drift = beyond_noise(look) / (limits->drift * tolerance(look));

	return fmax(fmin(z, drift), 0);
}

/**
 * Whether the drift that `longer` shows is over: half of its pace is more than what `look` moved,
 * in any direction, for all that is certain, and surely more than what it moved in the same
 * direction.
 */
static bool over(
	const struct layer *layer, const struct mtl_look *look, const struct mtl_look *longer)
{
	double rest = fmax(look->square - look->expected - 2 * look->deviation, 0);
	double part = look->apart / longer->apart / 2, same, deviation;

	if (look->l1 * sqrt(rest / look->square) > beyond_noise(longer) * part)
		return false;
	same = mtl_drift_part(layer->drift, look, longer, &deviation);
	return same + 2 * deviation < part;
}

/**
 * Looks at equal windows of WINDOW_LEAST steps, and of WINDOW_SETTLED if these do not span as many;
 * then at forecasts from windows of a quarter of their horizon, on to the first whose horizon spans
 * HORIZON. Where the last change leaves too few steps for a horizon, one that they are enough for
 * takes its place.
 */
static void look_all(struct layer *layer)
{
	uint64_t steps = mtl_drift_steps(layer->drift) - layer->origin;

	layer->looks = layer->least = 0;
	for (uint32_t i = 0; i < WINDOWS; i++) {
		bool equal = layer->least == 0;
		uint32_t after = equal && i == 1 ? WINDOW_SETTLED : WINDOW_LEAST << i;
		uint32_t before = equal ? after : after / 4;
		struct mtl_look *look = &layer->look[i];

		if (!equal && steps < before + after) {
			before = steps / (5 * MTL_DRIFT_BLOCK) * MTL_DRIFT_BLOCK;
			after = 4 * before;
			if (before + after <= look[-1].before + look[-1].after)
				break;
		}
		if (!mtl_drift_look(layer->drift, before, after, look))
			break;
		layer->looks++;
		if (equal && look->span >= WINDOW_SETTLED - 1)
			layer->least = i + 1;
		if (look->span >= HORIZON)
			break;
	}
}

/** The nearest to the limits of all looks; `at` (may be NULL) gets which. */
static double nearest(const struct layer *layer, const struct limits *limits, uint32_t *at)
{
	double most = 0;

	for (uint32_t i = 0; i < layer->looks; i++) {
		double near = nearness(&layer->look[i], limits);

		if (near < most)
			continue;
		most = near;
		if (at != NULL)
			*at = i;
	}
	return most;
}

/** The longest look that is itself within the limits and shows that the drift of a longer one is
 * over. NULL: there is none. */
static const struct mtl_look *after_drift(
	const struct layer *layer, uint32_t longer, const struct limits *limits)
{
	for (uint32_t i = longer; i-- > layer->least - 1;) {
		if (nearness(&layer->look[i], limits) <= 1 &&
			over(layer, &layer->look[i], &layer->look[longer]))
			return &layer->look[i];
	}
	return NULL;
}

/** Whether all looks are within the limits. A forecast that was wrong only because it holds what
 * lies before a change that is over decides no more. */
static bool within(struct layer *layer, const struct limits *limits)
{
	uint64_t steps = mtl_drift_steps(layer->drift), origin = layer->origin;

	if (layer->least == 0)
		return false;
	for (uint32_t i = 0; i < layer->looks; i++) {
		const struct mtl_look *since;

		if (nearness(&layer->look[i], limits) <= 1)
			continue;
		since = i < layer->least ? NULL : after_drift(layer, i, limits);
		if (since == NULL)
			return false;
		if (origin < steps - since->before - since->after)
			origin = steps - since->before - since->after;
	}
	if (origin != layer->origin) {
		layer->origin = origin;
		look_all(layer);
	}
	return true;
}

/** The layer was settled, and is so no more. */
static void lose(struct layer *layer, int64_t step)
{
	layer->lost[layer->losses++ % LOST] = step;
	if (layer->losses >= LOST && step - layer->lost[layer->losses % LOST] < LOST_WITHIN)
		layer->alternates = true;
}

static void look(struct layer *layer, int64_t step)
{
	bool settled, stable;

	look_all(layer);
	settled = within(layer, layer->settled ? &leave : &enter);
	if (layer->settled && !settled)
		lose(layer, step);
	layer->settled = settled;
	if (layer->alternates)
		layer->alternates = step - layer->lost[(layer->losses - 1) % LOST] < LOST_WITHIN;
	stable = settled && !layer->alternates;
	if (stable != layer->stable)
		layer->since = step;
	layer->stable = stable;
}

/* ---- steps ---- */

static bool idle(const struct layer *layer)
{
	return layer->drift == NULL || mtl_drift_steps(layer->drift) == 0;
}

/** A step without tokens. After too many, the layer begins anew. */
static void miss(struct layer *layer, int64_t step)
{
	if (idle(layer) || ++layer->missed < IDLE)
		return;
	mtl_drift_forget(layer->drift);
	layer->looks = layer->least = 0;
	layer->origin = 0;
	layer->losses = 0;
	layer->stable = layer->settled = layer->alternates = false;
	layer->since = step;
}

/** Whether to leave a round out: its counts are not exact, and most others are. */
static bool flawed(struct layer *layer, uint32_t quality)
{
	bool flag = (quality & MOETAP_QUALITY_INEXACT) != 0;

	layer->flagged += (flag - layer->flagged) / WINDOW_LEAST;
	return flag && layer->flagged < 0.5;
}

static void add(struct moetap_state *s, const struct moetap_series *series, uint32_t i)
{
	s->step = mtl_series_observe(series, i, s->share, s->sum, s->quality);
	for (uint32_t l = 0; l < s->layers; l++) {
		struct layer *layer = &s->layer[l];

		if (s->sum[l] <= 0 || flawed(layer, s->quality[l])) {
			miss(layer, s->step);
			continue;
		}
		if (idle(layer))
			layer->since = s->step;
		layer->missed = 0;
		if (mtl_drift_add(layer->drift, s->step, s->share + (size_t)l * s->experts))
			look(layer, s->step);
	}
}

int moetap_state_update(struct moetap_state *s, const struct moetap_series *series, int64_t step)
{
	uint32_t experts = moetap_series_experts(series);
	uint32_t end = mtl_series_lower(series, step + 1);
	bool another = !s->started || experts != s->experts || step < s->step;

	if (moetap_series_layers(series) != s->layers)
		return -EINVAL;
	if (end == 0)
		return 0;
	if (another && begin(s, experts) < 0)
		return -ENOMEM;
	for (uint32_t i = another ? 0 : mtl_series_lower(series, s->step + 1); i < end; i++)
		add(s, series, i);
	s->started = true;
	return 0;
}

/* ---- what is said ---- */

/** Between the two states and certain of this one: see struct moetap_layer_state. */
static double confidence(const struct layer *layer)
{
	double near, span = 0;

	if (layer->least == 0)
		return 0;
	if (!layer->stable) {
		near = fmax(nearest(layer, &enter, NULL), layer->alternates);
		return near / (1 + near);
	}
	near = nearest(layer, &leave, NULL);
	for (uint32_t i = 0; i < layer->looks; i++)
		span = fmax(span, layer->look[i].span);
	return (1 - near) * sqrt(fmin(span / HORIZON, 1));
}

/** Steps that a layer needs which has had too few so far: less of them when they are sampled. */
static uint32_t steps_least(const struct moetap_state *s, const struct layer *layer)
{
	double apart = (double)(s->step - layer->since + 1) / mtl_drift_steps(layer->drift);

	return 2 * (apart * WINDOW_LEAST >= WINDOW_SETTLED ? WINDOW_LEAST : WINDOW_SETTLED);
}

static void explain(const struct moetap_state *s, const struct layer *layer, char reason[96])
{
	const struct mtl_look *look;
	uint32_t at = 0;

	if (!s->started)
		snprintf(reason, 96, "no steps seen yet");
	else if (idle(layer))
		snprintf(reason, 96, "no tokens, or none in the last %u steps", IDLE);
	else if (layer->least == 0)
		snprintf(reason, 96, "only %llu steps seen, %u are needed",
			(unsigned long long)mtl_drift_steps(layer->drift), steps_least(s, layer));
	else if (layer->alternates)
		snprintf(reason, 96,
			"alternates: settled and lost it %u times, %lld steps ago the last time",
			layer->losses,
			(long long)(s->step - layer->lost[(layer->losses - 1) % LOST]));
	else {
		nearest(layer, layer->stable ? &leave : &enter, &at);
		look = &layer->look[at];
		snprintf(reason, 96,
			at < layer->least
				? "drift %.3f over %.0f steps, noise explains %.3f"
				: "forecasts wrong by %.3f over %.0f steps, noise explains %.3f",
			look->l1, look->span, look->noise);
	}
}

int moetap_state_layer(const struct moetap_state *s, uint32_t l, struct moetap_layer_state *out)
{
	const struct layer *layer = &s->layer[l];

	if (l >= s->layers)
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	out->stable = layer->stable;
	out->since = layer->since;
	out->confidence = confidence(layer);
	for (uint32_t i = 0; i < layer->looks; i++) {
		if (i < layer->least || i == 0) {
			out->drift = layer->look[i].l1;
			out->noise = layer->look[i].noise;
		}
		out->error = layer->look[i].l1;
	}
	explain(s, layer, out->reason);
	return 0;
}

bool moetap_state_stable(const struct moetap_state *s, char reason[128])
{
	uint32_t transient = 0, none = 0, first = 0;
	struct moetap_layer_state state;

	for (uint32_t l = s->layers; l-- > 0;) {
		none += idle(&s->layer[l]);
		if (idle(&s->layer[l]) || s->layer[l].stable)
			continue;
		transient++;
		first = l;
	}
	moetap_state_layer(s, first, &state);
	if (reason != NULL && none == s->layers)
		snprintf(reason, 128, "no layer has tokens");
	else if (reason != NULL && transient == 0)
		snprintf(reason, 128, "all layers are stable");
	else if (reason != NULL)
		snprintf(reason, 128, "%u of %u layers are transient; layer %u: %.62s", transient,
			s->layers - none, first, state.reason);
	return none < s->layers && transient == 0;
}
