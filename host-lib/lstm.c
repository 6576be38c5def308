/* SPDX-License-Identifier: BSD-3-Clause */
/* The innermost loops run over the lanes, whose number is fixed: compilers make vectors of them. */
#include "lstm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define H LSTM_HIDDEN
#define IN LSTM_INPUTS
#define LV LSTM_LEVELS
#define N LSTM_LANES

/** What a step leaves for the way back. */
struct trace {
	double gate[4 * H][N]; /**< after their functions */
	double squashed[H][N]; /**< tanh of the cell */
	struct lstm_state before, after;
};

static double uniform(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed / 4294967296.0;
}

void mtl_lstm_begin(struct lstm *net, uint32_t seed)
{
	const double range = 1 / sqrt(H);

	memset(net, 0, sizeof(*net));
	for (int r = 0; r < 4 * H; r++) {
		for (int k = 0; k < IN + H; k++)
			net->gate[r][k] = (2 * uniform(&seed) - 1) * range;
		/* It begins by remembering. */
		net->gate[r][IN + H] = r / H == 1 ? 1 : 0;
	}
	/* And by trusting means over a few blocks more than any other. */
	for (int j = 0; j < LV; j++)
		net->mix[0][j][H] = -0.7 * abs(j - 2);
}

static double sigmoid(double x)
{
	return 1 / (1 + exp(-x));
}

/** tanh(), in a third of the time; as exact where it matters, as an absolute error. */
static double squash(double x)
{
	return 2 * sigmoid(2 * x) - 1;
}

/** Sums of the gates. */
static void sum_gates(const struct lstm *net, const double input[IN][N], const double out[H][N],
	double gate[4 * H][N])
{
	for (int r = 0; r < 4 * H; r++) {
		const double *w = net->gate[r];
		double sum[N];

		for (int n = 0; n < N; n++)
			sum[n] = w[IN + H];
		for (int k = 0; k < IN; k++)
			for (int n = 0; n < N; n++)
				sum[n] += w[k] * input[k][n];
		for (int k = 0; k < H; k++)
			for (int n = 0; n < N; n++)
				sum[n] += w[IN + k] * out[k][n];
		memcpy(gate[r], sum, sizeof(sum));
	}
}

static void step(const struct lstm *net, const double input[IN][N], struct lstm_state *state,
	double gate[4 * H][N], double squashed[H][N])
{
	sum_gates(net, input, state->out, gate);
	for (int k = 0; k < H; k++)
		for (int n = 0; n < N; n++) {
			double i = sigmoid(gate[k][n]), f = sigmoid(gate[H + k][n]);
			double g = squash(gate[2 * H + k][n]), o = sigmoid(gate[3 * H + k][n]);

			state->cell[k][n] = f * state->cell[k][n] + i * g;
			squashed[k][n] = squash(state->cell[k][n]);
			state->out[k][n] = o * squashed[k][n];
			gate[k][n] = i;
			gate[H + k][n] = f;
			gate[2 * H + k][n] = g;
			gate[3 * H + k][n] = o;
		}
}

void mtl_lstm_step(const struct lstm *net, const double input[IN][N], struct lstm_state *state)
{
	double gate[4 * H][N], squashed[H][N];

	step(net, input, state, gate, squashed);
}

void mtl_lstm_mix(const struct lstm *net, const double out[H][N], double far, double weight[LV][N])
{
	double most[N], sum[N] = {0};

	for (int j = 0; j < LV; j++) {
		const double *near = net->mix[0][j], *slope = net->mix[1][j];

		for (int n = 0; n < N; n++)
			weight[j][n] = near[H] + far * slope[H];
		for (int k = 0; k < H; k++)
			for (int n = 0; n < N; n++)
				weight[j][n] += (near[k] + far * slope[k]) * out[k][n];
	}
	memcpy(most, weight[0], sizeof(most));
	for (int j = 1; j < LV; j++)
		for (int n = 0; n < N; n++)
			most[n] = fmax(most[n], weight[j][n]);
	for (int j = 0; j < LV; j++)
		for (int n = 0; n < N; n++)
			sum[n] += weight[j][n] = exp(weight[j][n] - most[n]);
	for (int j = 0; j < LV; j++)
		for (int n = 0; n < N; n++)
			weight[j][n] /= sum[n];
}

/** Loss of the forecasts of a step, and what it is to the output of the cell. */
static double judge(const struct lstm *net, const struct lstm_window *window, int t,
	const double out[H][N], struct lstm *gradient, double d_out[H][N])
{
	double weight[LV][N], forecast[N] = {0}, slope[N], loss = 0;

	mtl_lstm_mix(net, out, window->far, weight);
	for (int j = 0; j < LV; j++)
		for (int n = 0; n < N; n++)
			forecast[n] += weight[j][n] * window->level[t][j][n];
	for (int n = 0; n < N; n++) {
		double error = forecast[n] - window->target[t][n];

		slope[n] = 0;
		if (isnan(error))
			continue;
		loss += sqrt(1 + error * error) - 1;
		slope[n] = error / sqrt(1 + error * error);
	}
	for (int j = 0; j < LV; j++) {
		double d[N], sum = 0;

		for (int n = 0; n < N; n++) {
			d[n] = slope[n] * weight[j][n] * (window->level[t][j][n] - forecast[n]);
			sum += d[n];
		}
		gradient->mix[0][j][H] += sum;
		gradient->mix[1][j][H] += sum * window->far;
		for (int k = 0; k < H; k++) {
			const double w = net->mix[0][j][k] + window->far * net->mix[1][j][k];

			sum = 0;
			for (int n = 0; n < N; n++) {
				sum += d[n] * out[k][n];
				d_out[k][n] += d[n] * w;
			}
			gradient->mix[0][j][k] += sum;
			gradient->mix[1][j][k] += sum * window->far;
		}
	}
	return loss;
}

/** From what the loss is to the output and the cell after a step to what it is to the sums of the
 * gates, and to the cell before it. */
static void gates_back(const struct trace *t, const double d_out[H][N], double d_cell[H][N],
	double d_gate[4 * H][N])
{
	for (int k = 0; k < H; k++)
		for (int n = 0; n < N; n++) {
			double i = t->gate[k][n], f = t->gate[H + k][n];
			double g = t->gate[2 * H + k][n], o = t->gate[3 * H + k][n];
			double s = t->squashed[k][n];
			double d = d_cell[k][n] + d_out[k][n] * o * (1 - s * s);

			d_gate[k][n] = d * g * i * (1 - i);
			d_gate[H + k][n] = d * t->before.cell[k][n] * f * (1 - f);
			d_gate[2 * H + k][n] = d * i * (1 - g * g);
			d_gate[3 * H + k][n] = d_out[k][n] * s * o * (1 - o);
			d_cell[k][n] = d * f;
		}
}

/** One step back: adds to the gradient, and replaces what the loss is to the state after the step
 * by what it is to the state before. */
static void step_back(const struct lstm *net, const double input[IN][N], const struct trace *t,
	double d_out[H][N], double d_cell[H][N], struct lstm *gradient)
{
	double d_gate[4 * H][N];

	gates_back(t, d_out, d_cell, d_gate);
	memset(d_out, 0, H * sizeof(*d_out));
	for (int r = 0; r < 4 * H; r++) {
		double *to = gradient->gate[r];
		double sum = 0;

		for (int k = 0; k < IN; k++)
			for (int n = 0; n < N; n++)
				to[k] += d_gate[r][n] * input[k][n];
		for (int k = 0; k < H; k++)
			for (int n = 0; n < N; n++) {
				to[IN + k] += d_gate[r][n] * t->before.out[k][n];
				d_out[k][n] += d_gate[r][n] * net->gate[r][IN + k];
			}
		for (int n = 0; n < N; n++)
			sum += d_gate[r][n];
		to[IN + H] += sum;
	}
}

double mtl_lstm_learn(
	const struct lstm *net, const struct lstm_window *window, struct lstm *gradient)
{
	struct trace trace[LSTM_STEPS];
	struct lstm_state state = {0};
	double d_out[H][N] = {0}, d_cell[H][N] = {0}, loss = 0;

	for (int t = 0; t < LSTM_STEPS; t++) {
		trace[t].before = state;
		step(net, window->input[t], &state, trace[t].gate, trace[t].squashed);
		trace[t].after = state;
	}
	for (int t = LSTM_STEPS; t-- > 0;) {
		if (t >= LSTM_COUNT_FROM)
			loss += judge(net, window, t, trace[t].after.out, gradient, d_out);
		step_back(net, window->input[t], &trace[t], d_out, d_cell, gradient);
	}
	return loss;
}

void mtl_lstm_descend(
	struct lstm *net, struct lstm_adam *adam, const struct lstm *gradient, double rate)
{
	double *w = (double *)net, *mean = (double *)&adam->mean, *square = (double *)&adam->square;
	const double *g = (const double *)gradient;
	double length = 0, scale, fresh, fresh_square;

	for (size_t i = 0; i < LSTM_WEIGHTS; i++)
		length += g[i] * g[i];
	scale = length > 1 ? 1 / sqrt(length) : 1;
	adam->steps++;
	fresh = 1 - pow(0.9, adam->steps);
	fresh_square = 1 - pow(0.999, adam->steps);
	for (size_t i = 0; i < LSTM_WEIGHTS; i++) {
		mean[i] += 0.1 * (scale * g[i] - mean[i]);
		square[i] += 0.001 * (scale * g[i] * scale * g[i] - square[i]);
		w[i] -= rate * mean[i] / fresh / (sqrt(square[i] / fresh_square) + 1e-8);
	}
}
