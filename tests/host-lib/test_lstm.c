/* SPDX-License-Identifier: BSD-3-Clause */
#include "common.h"

#include "lstm.h"
#include "lstm_values.h"

static struct lstm net;
static struct lstm_window window;

static int read_values(void **unused)
{
	(void)unused;
	assert_int_equal(sizeof(net.gate), sizeof(torch_gate));
	assert_int_equal(sizeof(window.input), sizeof(torch_input));
	assert_int_equal(sizeof(window.level), sizeof(torch_level));
	memcpy(net.gate, torch_gate, sizeof(net.gate));
	memcpy(net.mix, torch_mix, sizeof(net.mix));
	memcpy(window.input, torch_input, sizeof(window.input));
	memcpy(window.level, torch_level, sizeof(window.level));
	memcpy(window.target, torch_target, sizeof(window.target));
	window.far = torch_far;
	return 0;
}

static void assert_all_near(const void *a, const void *b, size_t bytes, double within)
{
	const double *x = a, *y = b;

	for (size_t i = 0; i < bytes / sizeof(double); i++)
		assert_near(x[i], y[i], within);
}

/* PyTorch's LSTM with the same weights. */
static void test_forward(void **unused)
{
	double weight[LSTM_LEVELS][LSTM_LANES];
	struct lstm_state state = {0};

	(void)unused;
	for (int t = 0; t < LSTM_STEPS; t++)
		mtl_lstm_step(&net, window.input[t], &state);
	assert_all_near(state.out, torch_out, sizeof(state.out), 1e-8);
	assert_all_near(state.cell, torch_cell, sizeof(state.cell), 1e-8);
	mtl_lstm_mix(&net, state.out, torch_far, weight);
	assert_all_near(weight, torch_weight, sizeof(weight), 1e-8);
}

/* PyTorch's gradient of the same loss. */
static void test_gradient_torch(void **unused)
{
	struct lstm gradient = {0};

	(void)unused;
	assert_near(mtl_lstm_learn(&net, &window, &gradient), torch_loss, 1e-8);
	assert_all_near(gradient.gate, torch_gate_slope, sizeof(gradient.gate), 1e-7);
	assert_all_near(gradient.mix, torch_mix_slope, sizeof(gradient.mix), 1e-7);
}

/* Central differences of the loss, for every weight; some targets are not known. */
static void test_gradient_differences(void **unused)
{
	struct lstm gradient = {0}, nothing = {0};
	struct lstm_window some = window;
	const double h = 1e-5;

	(void)unused;
	some.target[LSTM_STEPS - 1][2] = some.target[LSTM_COUNT_FROM + 1][5] = NAN;
	mtl_lstm_learn(&net, &some, &gradient);
	for (size_t i = 0; i < LSTM_WEIGHTS; i++) {
		struct lstm moved = net;
		double above, below;

		((double *)&moved)[i] += h;
		above = mtl_lstm_learn(&moved, &some, &nothing);
		((double *)&moved)[i] -= 2 * h;
		below = mtl_lstm_learn(&moved, &some, &nothing);
		assert_near(((double *)&gradient)[i], (above - below) / (2 * h), 1e-6);
	}
}

/* A weighting that can be learned: the right level is known by the sign of an input. */
static void test_learns(void **unused)
{
	static struct lstm_adam adam;
	uint32_t seed = 3;
	struct lstm fresh;
	double first = 0, loss = 0;

	(void)unused;
	mtl_lstm_begin(&fresh, 1);
	for (int k = 0; k < 400; k++) {
		struct lstm gradient = {0};

		for (int t = 0; t < LSTM_STEPS; t++)
			for (int n = 0; n < LSTM_LANES; n++) {
				double sign = next_uniform(&seed) < 0.5 ? -1 : 1;

				for (int i = 0; i < LSTM_INPUTS; i++)
					window.input[t][i][n] = i == 3 ? sign : 0;
				for (int j = 0; j < LSTM_LEVELS; j++)
					window.level[t][j][n] = 4 * next_uniform(&seed) - 2;
				window.target[t][n] = window.level[t][sign > 0 ? 1 : 7][n];
			}
		loss = mtl_lstm_learn(&fresh, &window, &gradient);
		if (k == 0)
			first = loss;
		mtl_lstm_descend(&fresh, &adam, &gradient, 0.02);
	}
	assert_true(loss < 0.2 * first);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_forward, read_values),
		cmocka_unit_test_setup(test_gradient_torch, read_values),
		cmocka_unit_test_setup(test_gradient_differences, read_values),
		cmocka_unit_test(test_learns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
