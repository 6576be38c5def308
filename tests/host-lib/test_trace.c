/* SPDX-License-Identifier: BSD-3-Clause */
#include "common.h"

/** Loads `length` bytes as a trace. */
static int load(
	const char *text, size_t length, struct moetap_series **series, struct moetap_error *error)
{
	char path[] = "/tmp/moetap-test-trace-XXXXXX";
	int fd = mkstemp(path), ret;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, length), length);
	close(fd);
	ret = moetap_series_load_trace(path, series, error);
	unlink(path);
	return ret;
}

static struct moetap_series *good(const char *text)
{
	struct moetap_series *series;
	struct moetap_error error;

	if (load(text, strlen(text), &series, &error) < 0)
		fail_msg("%s", error.text);
	return series;
}

static void test_trace(void **unused)
{
	struct moetap_series *s = good("l1_e0,step,loss,l0_e1,l0_e0,l1_e1,l0_ex\n"
				       "3,10,n/a,2,1,4,\n"
				       "7,20,\"x\",6,5.5,8e0,-1\n");
	double tokens[4];

	(void)unused;
	assert_int_equal(moetap_series_layers(s), 2);
	assert_int_equal(moetap_series_experts(s), 2);
	assert_int_equal(moetap_series_steps(s), 2);
	assert_int_equal(moetap_series_first_step(s), 10);
	assert_int_equal(moetap_series_last_step(s), 20);
	moetap_series_mean_tokens(s, 1, tokens);
	assert_memory_equal(tokens, ((double[]){5.5, 6, 7, 8}), sizeof(tokens));
	moetap_series_free(s);
	/* Lines that end as on Windows. */
	s = good("step,l0_e0\r\n0,5\r\n");
	assert_int_equal(moetap_series_steps(s), 1);
	moetap_series_free(s);
}

static void test_counts_and_forecasts(void **unused)
{
	/* As `moetap count` prints: only dispatch is load, sources add up, steps interleave. With
	 * what ranks keep to themselves, which it cannot see, nothing is left to estimate. */
	struct moetap_series *s = good("round,step,layer,phase,src,dst,expert,tokens,bytes\n"
				       "0,0,0,dispatch,0,1,0,10,0\n"
				       "0,0,0,dispatch,1,0,2,4,0\n"
				       "1,0,1,dispatch,0,1,0,1,0\n"
				       "2,1,0,dispatch,0,1,1,8,0\n"
				       "0,0,0,dispatch,1,1,0,5,0\n"
				       "0,0,0,dispatch,0,0,2,0,0\n"
				       "3,0,0,backward,0,1,0,99,0\n");
	double tokens[6];

	(void)unused;
	assert_int_equal(moetap_series_layers(s), 2);
	assert_int_equal(moetap_series_experts(s), 3);
	assert_int_equal(moetap_series_steps(s), 2);
	moetap_series_mean_tokens(s, 0, tokens);
	assert_memory_equal(tokens, ((double[]){7.5, 4, 2, 0.5, 0, 0}), sizeof(tokens));
	assert_near(moetap_series_unseen(s, 0, 0, 9, NULL, NULL), 0, 0);
	moetap_series_free(s);
	/* As `moetap forecast` prints. */
	s = good("layer,expert,share,low,high\n0,0,0.25,0,1\n0,1,0.75,0,1\n");
	moetap_series_mean_tokens(s, 0, tokens);
	assert_memory_equal(tokens, ((double[]){0.25, 0.75}), 2 * sizeof(double));
	moetap_series_free(s);
	s = good("layer,expert,share,low,high\n0,0,1,0,1\n0,1,nan,nan,nan\n");
	assert_int_equal(moetap_series_experts(s), 2);
	assert_true(moetap_series_seen(s, 0) && !moetap_series_seen(s, 1));
	moetap_series_free(s);
}

/* Where a trace names sources, what is missing of them is estimated: in any order of lines, as a CSV
 * and as rounds. By sources of equal activity, the loads are 3/2 of what was seen. */
static void test_sources(void **unused)
{
	static const char csv[] = "step,layer,src,dst,expert,tokens\n"
				  "1,0,0,1,1,4\n0,0,0,1,1,20\n0,0,2,1,1,20\n1,0,2,1,1,4\n"
				  "0,0,0,2,2,30\n0,0,1,2,2,30\n0,0,1,0,0,10\n0,0,2,0,0,10\n"
				  "1,0,0,2,2,4\n1,0,1,2,2,4\n1,0,1,0,0,4\n1,0,2,0,0,4\n";
	static const char cells[] =
		"{\"step\":0,\"layer\":0,\"quality\":\"\",\"ranks\":3,\"experts\":3,\"cells\":["
		"{\"src\":0,\"dst\":1,\"expert\":1,\"tokens\":20},"
		"{\"src\":2,\"dst\":1,\"expert\":1,\"tokens\":20},"
		"{\"src\":0,\"dst\":2,\"expert\":2,\"tokens\":30},"
		"{\"src\":1,\"dst\":2,\"expert\":2,\"tokens\":30},"
		"{\"src\":1,\"dst\":0,\"expert\":0,\"tokens\":10},"
		"{\"src\":2,\"dst\":0,\"expert\":0,\"tokens\":10}]}\n";
	struct moetap_series *s = good(csv);
	uint32_t quality;
	double tokens[3];

	(void)unused;
	moetap_series_mean_tokens(s, 0, tokens);
	for (uint32_t e = 0; e < 3; e++)
		assert_near(tokens[e], (15 * (e + 1) * 2 + 12) / 2.0, 1e-6);
	assert_near(moetap_series_unseen(s, 0, 0, 1, NULL, NULL), 1.0 / 3, 1e-6);
	moetap_series_flagged(s, 0, 1, &quality, NULL);
	assert_int_equal(quality, MOETAP_QUALITY_UNKNOWN | MOETAP_QUALITY_ESTIMATED);
	moetap_series_free(s);
	s = good(cells);
	moetap_series_mean_tokens(s, 0, tokens);
	for (uint32_t e = 0; e < 3; e++)
		assert_near(tokens[e], 30 * (e + 1), 1e-6);
	moetap_series_flagged(s, 0, 1, &quality, NULL);
	assert_int_equal(quality, MOETAP_QUALITY_ESTIMATED);
	moetap_series_free(s);
}

/* As `moetap count --format json` prints: the quality of each round comes along. */
static void test_rounds(void **unused)
{
	struct moetap_series *s = good(
		"{\"step\":0,\"layer\":0,\"phase\":\"dispatch\",\"quality\":\"\",\"experts\":4,"
		"\"cells\":["
		"{\"src\":0,\"expert\":0,\"tokens\":10},{\"src\":1,\"expert\":0,\"tokens\":5}]}\n"
		"{\"step\":0,\"layer\":1,\"phase\":\"dispatch\",\"quality\":\"gap, contradiction, "
		"duplicates\",\"experts\":4,\"cells\":[{\"expert\":2,\"tokens\":0}]}\n"
		"{\"step\":9,\"layer\":0,\"phase\":\"backward\",\"cells\":[]}\n"
		"{\"step\":1,\"layer\":0,\"phase\":\"dispatch\",\"quality\":\"duplicates, "
		"timeout\","
		"\"experts\":4,\"cells\":[{\"expert\":0,\"tokens\":1}]}\n"
		"{\"step\":1,\"layer\":1,\"phase\":\"dispatch\",\"quality\":\"\",\"lost\":2,"
		"\"experts\":4,\"cells\":[]}\n");
	uint32_t quality;
	double tokens[8];
	uint64_t rounds;

	(void)unused;
	assert_int_equal(moetap_series_layers(s), 2);
	assert_int_equal(moetap_series_experts(s), 4);
	assert_int_equal(moetap_series_steps(s), 2);
	moetap_series_mean_tokens(s, 0, tokens);
	for (uint32_t e = 0; e < 8; e++) /* experts 1 and 3 were never seen */
		assert_true(e % 2 == 0 ? tokens[e] == (e == 0 ? 8 : 0) : isnan(tokens[e]));
	assert_int_equal(moetap_series_flagged(s, 0, 0, &quality, &rounds), 1);
	assert_int_equal(quality, MOETAP_QUALITY_GAP | MOETAP_QUALITY_CONTRADICT);
	assert_int_equal(rounds, 2);
	assert_int_equal(moetap_series_flagged(s, 1, 1, &quality, NULL), 1);
	assert_int_equal(quality, MOETAP_QUALITY_OVERRUN);
	for (uint32_t e = 0; e < 5; e++)
		assert_int_equal(moetap_series_seen(s, e), e == 0 || e == 2);
	moetap_series_free(s);
	/* What does not say how good it is, is not called exact. */
	s = good("step,l0_e0\n0,5\n");
	assert_int_equal(moetap_series_flagged(s, 0, 9, &quality, &rounds), 0);
	assert_int_equal(quality, MOETAP_QUALITY_UNKNOWN);
	assert_true(moetap_series_seen(s, 0));
	moetap_series_free(s);
	s = good("step,layer,expert,tokens\n0,0,2,5\n");
	assert_int_equal(moetap_series_flagged(s, 0, 9, &quality, &rounds), 0);
	assert_int_equal(quality, MOETAP_QUALITY_UNKNOWN);
	assert_false(moetap_series_seen(s, 1));
	assert_true(moetap_series_seen(s, 2));
	moetap_series_free(s);
}

static void test_refused(void **unused)
{
	static const struct {
		const char *text, *where, *what;
	} bad[] = {
		{"", ":1:", "empty"},
		{"\n", ":1:", "no trace"},
		{"a,b\n1,2\n", ":1:", "no trace"},
		{"l0_e0\n1\n", ":1:", "'step'"},
		{"step,l0_e0,step\n", ":1: column 3:", "second"},
		{"step,l0_e0,l0_e0\n1,2,3\n", ":1:", "second"},
		{"step,l0_e0,l1_e1\n1,2,3\n", ":1:", "need 4 columns"},
		{"step,l0_e0,l1_e1,x,y\n1,2,3,4,5\n", ":1:", "'l0_e1'"},
		{"step,l0_e0,l9999_e0\n", ":1: column 3:", "limit"},
		{"step,l0_e0\n", ":2:", "no line"},
		{"step,l0_e0,l0_e1\n0,1,2\n1,3\n", ":3:", "2 fields"},
		{"step,l0_e0,l0_e1\n0,1,2\n1,3,4,5\n", ":3:", "4 fields"},
		{"step,l0_e0,l0_e1\n0,1,2\n\n", ":3:", "1 fields"},
		{"step,l0_e0,l0_e1\n0,1,-2\n", ":2: column 3:", "'-2'"},
		{"step,l0_e0\n0,-0\n", ":2: column 2:", "'-0'"},
		{"step,l0_e0,l0_e1\n0,1,nan\n", ":2: column 3:", "'nan'"},
		{"step,l0_e0,l0_e1\n0,inf,1\n", ":2: column 2:", "'inf'"},
		{"step,l0_e0,l0_e1\n0,1e400,1\n", ":2: column 2:", "'1e400'"},
		{"step,l0_e0,l0_e1\n0,0x10,1\n", ":2: column 2:", "'0x10'"},
		{"step,l0_e0,l0_e1\n0,,1\n", ":2: column 2:", "''"},
		{"step,l0_e0,l0_e1\n0, 1,1\n", ":2: column 2:", "' 1'"},
		{"step,l0_e0,l0_e1\n0,1-2,1\n", ":2: column 2:", "'1-2'"},
		{"step,l0_e0\nx,1\n", ":2: column 1:", "'x'"},
		{"step,l0_e0\n-1,1\n", ":2: column 1:", "'-1'"},
		{"step,l0_e0\n99999999999999999999,1\n", ":2: column 1:", "limit"},
		{"step,l0_e0\n5,1\n4,1\n", ":3: column 1:", "step 4 comes after step 5"},
		{"step,l0_e0\n5,1\n5,1\n", ":3: column 1:", "must go up"},
		{"step,l0_e0\n0,1\n1,12", ":3:", "line feed"},
		{"step,l0_e0", ":1:", "line feed"},
		{"layer,expert\n0,1\n", ":1:", "'tokens' or 'share'"},
		{"layer,expert,share\n", ":2:", "no load"},
		{"layer,expert,share\n0,0\n", ":2:", "2 fields"},
		{"layer,expert,share\n0,99999,1\n", ":2: column 2:", "limit"},
		{"layer,expert,share\n0,0,x\n", ":2: column 3:", "'x'"},
		{"layer,expert,tokens\n0,0,nan\n", ":2: column 3:", "'nan'"},
		{"layer,src,dst,expert,tokens\n0,0,1,5,1\n0,2,0,5,1\n", ":3:", "at rank 0 here"},
		{"layer,src,dst,expert,tokens\n0,4096,1,5,1\n", ":2: column 2:", "limit"},
		{"layer,src,dst,expert,tokens\n0,0,-1,5,1\n", ":2: column 3:", "'-1'"},
		{"{\n}\n", ":1:", "no round"},
		{"{}", ":1:", "line feed"},
		{"{}\n", ":1:", "'step'"},
		{"{\"step\":-1,\"layer\":0}\n", ":1:", "'step'"},
		{"{\"step\":0.5,\"layer\":0}\n", ":1:", "'step'"},
		{"{\"step\":0,\"layer\":1024}\n", ":1:", "'layer'"},
		{"{\"step\":0,\"layer\":0,\"cells\":1}\n", ":1:", "'cells'"},
		{"{\"step\":0,\"layer\":0,\"quality\":\"gap, x\"}\n", ":1:", "'x'"},
		{"{\"step\":0,\"layer\":0,\"experts\":0}\n", ":1:", "'experts'"},
		{"{\"step\":0,\"layer\":0,\"cells\":[]}\n", ":2:", "no load"},
		{"{\"step\":0,\"layer\":0,\"cells\":[]}\n[]\n", ":2:", "no object"},
		{"{\"step\":0,\"layer\":0,\"cells\":[1]}\n", ":1:", "'expert'"},
		{"{\"step\":0,\"layer\":0,\"cells\":[{\"expert\":4096}]}\n", ":1:", "'expert'"},
		{"{\"step\":0,\"layer\":0,\"cells\":[{\"expert\":0,\"tokens\":-1}]}\n",
			":1:", "'tokens'"},
		{"{\"step\":0,\"layer\":0,\"cells\":[{\"expert\":0,\"tokens\":1,\"src\":4096,"
		 "\"dst\":0}]}\n",
			":1:", "'src'"},
		{"{\"step\":0,\"step\":0}\n", ":1:", "duplicate"},
		{"{\"rounds\":6,\"exact\":6,\"cells\":[]}\n", ":1:", "without --total"},
	};
	struct moetap_series *series;
	struct moetap_error error;

	(void)unused;
	for (size_t i = 0; i < COUNT(bad); i++) {
		error.text[0] = '\0';
		assert_int_equal(load(bad[i].text, strlen(bad[i].text), &series, &error), -EBADMSG);
		if (strstr(error.text, bad[i].where) == NULL ||
			strstr(error.text, bad[i].what) == NULL)
			fail_msg("case %zu: '%s' lacks '%s' or '%s'", i, error.text, bad[i].where,
				bad[i].what);
	}
	assert_int_equal(load("step,l0_e0\n0,\0001\n", 15, &series, &error), -EBADMSG);
	assert_non_null(strstr(error.text, "zero byte"));
	assert_int_equal(moetap_series_load_trace("/nowhere/x.csv", &series, &error), -ENOENT);
	assert_int_equal(moetap_series_load_trace("/dev/zero", &series, &error), -EBADMSG);
	assert_int_equal(moetap_series_load_trace("/tmp", &series, &error), -EIO);
}

/* Every cut of a trace is refused, except at the end of a line. */
static void test_every_cut(void **unused)
{
	static const char text[] = "step,l0_e0,l0_e1\n10,1,2\n11,30,40\n";
	struct moetap_series *series;

	(void)unused;
	for (size_t length = 0; length < sizeof(text); length++) {
		bool whole = length > 17 && text[length - 1] == '\n';

		if (length == sizeof(text) - 1)
			whole = true;
		assert_int_equal(load(text, length, &series, NULL), whole ? 0 : -EBADMSG);
		if (whole)
			moetap_series_free(series);
	}
}

/* Random bytes and random damage to a good trace: an error or a series, never more. */
static void test_damage(void **unused)
{
	static const char good_text[] = "step,l0_e0,l0_e1,l1_e0,l1_e1\n1,2,3,4,5\n2,3,4,5,6\n";
	struct moetap_series *series;
	uint32_t seed = 4711, accepted = 0;

	(void)unused;
	for (int i = 0; i < 3000; i++) {
		char text[sizeof(good_text)];

		memcpy(text, good_text, sizeof(text));
		for (uint32_t k = 0; k <= next_random(&seed) % 3; k++) {
			char *at = &text[next_random(&seed) % (sizeof(text) - 1)];

			*at = ",\n0-e.l_"[next_random(&seed) % 8];
			if (next_random(&seed) % 2)
				*at = (char)next_random(&seed);
		}
		if (load(text, sizeof(text) - 1, &series, NULL) == 0) {
			accepted++;
			moetap_series_free(series);
		}
	}
	/* The damage is neither always nor never noticed. */
	assert_in_range(accepted, 1, 2000);
}

static void test_real_trace(void **unused)
{
	struct moetap_series *s;
	double tokens[4 * 16], sum;

	(void)unused;
	assert_int_equal(moetap_series_load_trace(data_path("gpt-4x16-short.csv"), &s, NULL), 0);
	assert_int_equal(moetap_series_layers(s), 4);
	assert_int_equal(moetap_series_experts(s), 16);
	assert_int_equal(moetap_series_steps(s), 2000);
	moetap_series_mean_tokens(s, 0, tokens);
	/* Top-2 of 4,096 tokens. */
	for (int l = 0; l < 4; l++) {
		sum = 0;
		for (int e = 0; e < 16; e++)
			sum += tokens[l * 16 + e];
		assert_near(sum, 8192, 1e-6);
	}
	moetap_series_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_trace),
		cmocka_unit_test(test_counts_and_forecasts),
		cmocka_unit_test(test_sources),
		cmocka_unit_test(test_rounds),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_every_cut),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_real_trace),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
