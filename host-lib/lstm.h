/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * The network of the method `lstm`: one LSTM cell (Hochreiter and Schmidhuber, Neural Computation
 * 9, 1997, with the forget gate of Gers et al., 2000; the equations and the order of gates are
 * those of PyTorch's torch.nn.LSTM), and a layer that turns its output into a weighting. What it
 * forecasts is a mean of several levels of a series with these weights, so that it cannot leave
 * the range of what was seen.
 *
 * All arrays are of LSTM_LANES series at once, the last index being the series.
 */
#ifndef MOETAP_LSTM_H
#define MOETAP_LSTM_H

#include <stdint.h>

#define LSTM_LANES 8
#define LSTM_INPUTS 10
#define LSTM_HIDDEN 8
#define LSTM_LEVELS 9

/** Blocks of a window to learn from, and from which on its forecasts count: before that, the state
 * has not forgotten that it began with zeros. */
#define LSTM_STEPS 16
#define LSTM_COUNT_FROM 8

/** All weights. */
struct lstm {
	/** Input, forget, cell and output gates, HIDDEN of each; columns: inputs, outputs of the
	 * last step, bias. */
	double gate[4 * LSTM_HIDDEN][LSTM_INPUTS + LSTM_HIDDEN + 1];
	/** Logit of a level: mix[0] times (output, 1) plus mix[1] times (output, 1) times `far`. */
	double mix[2][LSTM_LEVELS][LSTM_HIDDEN + 1];
};

#define LSTM_WEIGHTS (sizeof(struct lstm) / sizeof(double))

/** What a series carries from step to step. */
struct lstm_state {
	double out[LSTM_HIDDEN][LSTM_LANES], cell[LSTM_HIDDEN][LSTM_LANES];
};

/** Windows of LSTM_LANES series to learn from. */
struct lstm_window {
	double input[LSTM_STEPS][LSTM_INPUTS][LSTM_LANES];
	double level[LSTM_STEPS][LSTM_LEVELS][LSTM_LANES];
	double target[LSTM_STEPS][LSTM_LANES]; /**< NAN: not known */
	double far;			       /**< how far ahead the targets lie, see `mix` */
};

/** Sets small random weights, the same for the same seed (not 0). */
void mtl_lstm_begin(struct lstm *net, uint32_t seed);

/** One step of the cell. */
void mtl_lstm_step(const struct lstm *net, const double input[LSTM_INPUTS][LSTM_LANES],
	struct lstm_state *state);

/** Weights of the levels, which sum to 1 in every lane. */
void mtl_lstm_mix(const struct lstm *net, const double out[LSTM_HIDDEN][LSTM_LANES], double far,
	double weight[LSTM_LEVELS][LSTM_LANES]);

/**
 * Adds the gradient of the loss over a window to `gradient`, by backpropagation through time, and
 * returns the loss: the sum of sqrt(1 + error^2) - 1 over the forecasts that count.
 */
double mtl_lstm_learn(
	const struct lstm *net, const struct lstm_window *window, struct lstm *gradient);

/** What Adam (Kingma and Ba, arXiv 1412.6980) remembers. All zero to begin with. */
struct lstm_adam {
	struct lstm mean, square;
	uint32_t steps;
};

/** One step of Adam down a gradient, which is cut to length 1. */
void mtl_lstm_descend(
	struct lstm *net, struct lstm_adam *adam, const struct lstm *gradient, double rate);

#endif
