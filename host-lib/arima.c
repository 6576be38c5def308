/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ARIMA of a panel. The state of the filter is (level, a[0], a[1], a[2]): the ARMA process of the
 * changes in Harvey's form, and the level that they add up to, which with a[0] is what is observed.
 * All orders use the same four numbers, the unused ones being zero.
 */
#include "arima.h"

#include <lbfgs.h>
#include <math.h>
#include <string.h>

#define S ARIMA_STATE
/** Mean squares below this are rounding: values are shares, which are at most 1. */
#define STILL 1e-24
/** Evaluations of the likelihood end here; it is flat by then. */
#define ITERATIONS_MOST 40

size_t mtl_arima_bytes(uint32_t series)
{
	return (size_t)series * (S + 2) * sizeof(double);
}

static void multiply(double out[S][S], const double a[S][S], const double b[S][S])
{
	double m[S][S];

	for (int i = 0; i < S; i++)
		for (int j = 0; j < S; j++) {
			m[i][j] = 0;
			for (int k = 0; k < S; k++)
				m[i][j] += a[i][k] * b[k][j];
		}
	memcpy(out, m, sizeof(m));
}

/** out = a p a'. */
static void conjugate(double out[S][S], const double a[S][S], const double p[S][S])
{
	double half[S][S], transposed[S][S];

	for (int i = 0; i < S; i++)
		for (int j = 0; j < S; j++)
			transposed[i][j] = a[j][i];
	multiply(half, a, p);
	multiply(out, half, transposed);
}

/** Covariance of the stationary ARMA process: the sum of T^k Q T'^k, doubling the number of terms
 * each time, so that 2^24 of them are in. */
static void stationary(struct arima_filter *f)
{
	double a[S][S], more[S][S];

	memcpy(a, f->t, sizeof(a));
	a[0][0] = a[0][1] = 0;
	memcpy(f->p, f->q, sizeof(f->p));
	for (int k = 0; k < 24; k++) {
		conjugate(more, a, f->p);
		for (int i = 0; i < S; i++)
			for (int j = 0; j < S; j++)
				f->p[i][j] += more[i][j];
		multiply(a, a, a);
	}
}

void mtl_arima_begin(
	struct arima_filter *f, const struct arima *model, uint32_t series, double *memory)
{
	double r[S] = {0, 1};

	memset(f, 0, sizeof(*f));
	memset(memory, 0, mtl_arima_bytes(series));
	f->n = series;
	f->state = memory;
	f->v = f->state + (size_t)S * f->n;
	f->ssq = f->v + f->n;
	f->t[0][0] = f->t[0][1] = 1;
	for (uint32_t i = 0; i < model->p; i++)
		f->t[1 + i][1] = model->ar[i];
	for (int i = 1; i + 1 < S; i++)
		f->t[i][i + 1] = 1;
	for (uint32_t i = 0; i < model->q; i++)
		r[2 + i] = model->ma[i];
	for (int i = 0; i < S; i++)
		for (int j = 0; j < S; j++)
			f->q[i][j] = r[i] * r[j];
	stationary(f);
}

/** One block further without looking. */
static void advance_covariance(struct arima_filter *f)
{
	conjugate(f->p, f->t, f->p);
	for (int i = 0; i < S; i++)
		for (int j = 0; j < S; j++)
			f->p[i][j] += f->q[i][j];
}

/** state = T state + gain v, for all series. */
static void advance_states(struct arima_filter *f, const double gain[S])
{
	double *restrict level = f->state, *restrict a = level + f->n, *restrict b = a + f->n;
	double *restrict e = b + f->n;
	const double *restrict v = f->v;
	const double t0 = f->t[1][1], t1 = f->t[2][1];

	for (uint32_t i = 0; i < f->n; i++) {
		double now = a[i];

		level[i] += now + gain[0] * v[i];
		a[i] = t0 * now + b[i] + gain[1] * v[i];
		b[i] = t1 * now + e[i] + gain[2] * v[i];
		e[i] = gain[3] * v[i];
	}
}

/** Innovations of a block, and what they add to the likelihood. */
static void innovate(struct arima_filter *f, const double *value, double variance)
{
	const double *restrict level = f->state, *restrict a = level + f->n;
	double *restrict v = f->v, *restrict ssq = f->ssq;
	const double weight = 1 / variance;

	for (uint32_t i = 0; i < f->n; i++) {
		v[i] = value[i] - level[i] - a[i];
		ssq[i] += v[i] * v[i] * weight;
	}
	f->logs += log(variance);
}

/** The first block seen is the level itself. */
static void begin_level(struct arima_filter *f, const double *value)
{
	memcpy(f->state, value, f->n * sizeof(*value));
	f->seen = 1;
}

/** What an observation with that much noise says about the state: covariance of the two, and the
 * variance of the observation. */
static double observe(const struct arima_filter *f, double noise, double pz[S])
{
	for (int i = 0; i < S; i++)
		pz[i] = f->p[i][0] + f->p[i][1];
	return pz[0] + pz[1] + noise;
}

/** The gain for the state after the block. */
static void find_gain(
	const struct arima_filter *f, const double pz[S], double variance, double gain[S])
{
	for (int i = 0; i < S; i++) {
		gain[i] = 0;
		for (int j = 0; j < S; j++)
			gain[i] += f->t[i][j] * pz[j] / variance;
	}
}

void mtl_arima_step(struct arima_filter *f, const double *value)
{
	double gain[S] = {0}, pz[S], variance = 0;

	if (f->seen == 0) {
		if (value != NULL)
			begin_level(f, value);
		return;
	}
	if (value == NULL) {
		memset(f->v, 0, f->n * sizeof(*f->v));
	} else {
		variance = observe(f, 0, pz);
		find_gain(f, pz, variance, gain);
		innovate(f, value, variance);
		f->seen++;
	}
	advance_states(f, gain);
	advance_covariance(f);
	for (int i = 0; i < S; i++)
		for (int j = 0; j < S; j++)
			f->p[i][j] -= gain[i] * gain[j] * variance;
}

static void run(struct arima_filter *f, const struct arima *model, const struct panel *panel,
	double *memory)
{
	mtl_arima_begin(f, model, panel->series, memory);
	for (uint32_t t = 0; t < panel->blocks; t++)
		mtl_arima_step(f, panel->seen[t] ? panel->value + (size_t)t * panel->series : NULL);
}

void mtl_arima_judge(
	const struct arima *model, const struct panel *panel, double *memory, struct arima_fit *fit)
{
	struct arima_filter f;
	double n, k;

	run(&f, model, panel, memory);
	*fit = (struct arima_fit){.loglik = NAN, .aicc = NAN};
	if (f.seen < 3)
		return;
	fit->observed = f.seen - 1;
	n = fit->observed;
	fit->loglik = 0;
	for (uint32_t i = 0; i < panel->series; i++) {
		double square = f.ssq[i] / n;

		if (square < STILL)
			continue;
		fit->used++;
		fit->loglik -= 0.5 * (n * (log(2 * M_PI * square) + 1) + f.logs);
	}
	if (fit->used == 0) {
		fit->loglik = NAN;
		return;
	}
	/* Parameters: the coefficients, and a scale a series. */
	k = model->p + model->q + fit->used;
	n *= fit->used;
	fit->aicc = n - k - 1 > 0 ? -2 * fit->loglik + 2 * k * n / (n - k - 1) : INFINITY;
}

/** Coefficients from numbers without bounds: their hyperbolic tangents are taken for partial
 * autocorrelations, from which the recursion of Durbin and Levinson makes the coefficients of a
 * stationary process. */
static void unbind(const double *x, uint32_t n, double sign, double *coefficient)
{
	double a[ARIMA_MOST] = {0}, old[ARIMA_MOST];

	for (uint32_t k = 0; k < n; k++) {
		double r = tanh(x[k]);

		memcpy(old, a, sizeof(old));
		for (uint32_t i = 0; i < k; i++)
			a[i] = old[i] - r * old[k - 1 - i];
		a[k] = r;
	}
	for (uint32_t k = 0; k < n; k++)
		coefficient[k] = sign * a[k];
}

/** The other way round. */
static void bind(const double *coefficient, uint32_t n, double sign, double *x)
{
	double a[ARIMA_MOST] = {0}, old[ARIMA_MOST];

	for (uint32_t k = 0; k < n; k++)
		a[k] = sign * coefficient[k];
	for (uint32_t k = n; k-- > 0;) {
		double r = fmin(fmax(a[k], -0.999), 0.999);

		x[k] = atanh(r);
		memcpy(old, a, sizeof(old));
		for (uint32_t i = 0; i < k; i++)
			a[i] = (old[i] + r * old[k - 1 - i]) / (1 - r * r);
	}
}

/** What the optimiser works on. */
struct search {
	struct arima model;
	const struct panel *panel;
	double *memory;
};

static double objective(struct search *s, const double *x)
{
	struct arima_fit fit;

	unbind(x, s->model.p, 1, s->model.ar);
	unbind(x + s->model.p, s->model.q, -1, s->model.ma);
	mtl_arima_judge(&s->model, s->panel, s->memory, &fit);
	return -fit.loglik / ((double)fit.observed * fit.used);
}

static lbfgsfloatval_t evaluate(void *arg, const lbfgsfloatval_t *x, lbfgsfloatval_t *gradient,
	const int n, const lbfgsfloatval_t step)
{
	const double h = 1e-5;
	struct search *s = arg;
	double at[2 * ARIMA_MOST];

	(void)step;
	memcpy(at, x, (size_t)n * sizeof(*at));
	for (int i = 0; i < n; i++) {
		at[i] = x[i] + h;
		gradient[i] = objective(s, at);
		at[i] = x[i] - h;
		gradient[i] = (gradient[i] - objective(s, at)) / (2 * h);
		at[i] = x[i];
	}
	return objective(s, at);
}

bool mtl_arima_fit(
	struct arima *model, const struct panel *panel, double *memory, struct arima_fit *fit)
{
	struct search s = {.model = *model, .panel = panel, .memory = memory};
	/* liblbfgs built for SSE wants its vectors aligned, and reads them in eights. */
	lbfgsfloatval_t x[8] __attribute__((aligned(16))) = {0};
	lbfgs_parameter_t parameters;
	const int n = (int)(model->p + model->q);

	mtl_arima_judge(model, panel, memory, fit);
	if (isnan(fit->loglik))
		return false;
	if (n == 0)
		return true;
	bind(model->ar, model->p, 1, x);
	bind(model->ma, model->q, -1, x + model->p);
	lbfgs_parameter_init(&parameters);
	parameters.epsilon = 1e-6;
	parameters.max_iterations = ITERATIONS_MOST;
	/* However it ends, x is the best point that was found. */
	lbfgs(n, x, NULL, evaluate, NULL, &s, &parameters);
	objective(&s, x);
	mtl_arima_judge(&s.model, panel, memory, fit);
	*model = s.model;
	return true;
}

/** w = w T. Returns whether that changed it. */
static bool pass_on(const struct arima_filter *f, double w[S])
{
	double next[S] = {0};
	bool changed = false;

	for (int j = 0; j < S; j++) {
		for (int i = 0; i < S; i++)
			next[j] += w[i] * f->t[i][j];
		changed = changed || fabs(next[j] - w[j]) > 1e-12;
	}
	memcpy(w, next, sizeof(next));
	return changed;
}

/** Weights of the predicted state in the mean of the next `ahead` blocks. The last block counts
 * with its fraction. */
static void path_weights(const struct arima_filter *f, double ahead, double weight[S])
{
	double block[S] = {1, 1}, left = ahead;
	bool changes = true;

	memset(weight, 0, S * sizeof(*weight));
	while (left > 0) {
		/* Once nothing changes, all blocks that are left are alike. */
		const double part = changes ? fmin(left, 1) : left;

		for (int i = 0; i < S; i++)
			weight[i] += part / ahead * block[i];
		changes = pass_on(f, block);
		left -= part;
	}
}

void mtl_arima_forecast(
	const struct arima_filter *f, const double *value, double noise, double ahead, double *mean)
{
	const double *level = f->state, *a = level + f->n;
	double weight[S], pz[S], gain = 0;

	path_weights(f, ahead, weight);
	if (value != NULL) {
		const double variance = observe(f, noise, pz);

		pass_on(f, weight);
		for (int i = 0; i < S; i++)
			gain += weight[i] * pz[i] / variance;
	}
	for (uint32_t i = 0; i < f->n; i++) {
		mean[i] = value != NULL ? gain * (value[i] - level[i] - a[i]) : 0;
		for (int k = 0; k < S; k++)
			mean[i] += weight[k] * f->state[(size_t)k * f->n + i];
	}
}
