/* SPDX-License-Identifier: BSD-3-Clause */
/* Plans beside the best ones, which integer programs gave (tests/peers/plan_optimum.py). */
#include "common.h"

#define EXPERTS_MOST 24

static const struct {
	struct moetap_shape shape;
	uint32_t experts;
	double busiest; /**< load of the busiest rank of the best placement */
	double load[EXPERTS_MOST];
} values[] = {
#include "plan_optimum_values.h"
};

static void test_optimum(void **unused)
{
	uint32_t best = 0, grouped = 0;
	double most = 0, sum = 0;

	(void)unused;
	for (size_t i = 0; i < COUNT(values); i++) {
		struct moetap_balance balance;
		struct moetap_plan *plan;
		double total = 0, above;

		assert_int_equal(moetap_plan_make(NULL, &values[i].shape, 1, values[i].experts,
					 values[i].load, NULL, &plan, NULL),
			0);
		for (uint32_t e = 0; e < values[i].experts; e++)
			total += values[i].load[e];
		moetap_plan_balance(plan, values[i].load, &balance, NULL);
		above = total / values[i].shape.ranks / balance.mean_max / values[i].busiest - 1;
		/* Nothing is better than the best: what integer programs take as decided is 1e-5.
		 */
		assert_true(above > -2e-5);
		if (above > 0.01)
			fail_msg("instance %zu: %.2f %% above the best", i, 100 * above);
		best += above < 1e-5;
		most = fmax(most, above);
		sum += above;
		grouped += moetap_plan_hierarchical(plan);
		moetap_plan_free(plan);
	}
	print_message("%zu instances, %u with groups: busiest rank above the best: mean %.4f %%, "
		      "most %.3f %%; the best itself in %u\n",
		COUNT(values), grouped, 100 * sum / COUNT(values), 100 * most, best);
	assert_true(COUNT(values) >= 250 && grouped >= 70);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_optimum)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
