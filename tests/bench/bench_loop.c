/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From the last packet of a step's last round to its hint on the page. moetap-job sends, moetap-fw
 * counts, this program does what a publisher does with every step, but for planning: reads the
 * rounds, adds them to the series, looks at the state, forecasts, publishes what is in force.
 *
 * Times are of one clock (CLOCK_REALTIME): a packet's is when the poll core received it, a round's
 * and a hint's when they were published. The job computes between a dispatch and its results, so
 * that its packets do not stand in the way of what is measured.
 *
 * usage: bench-loop [LAYERS [STEPS [QUEUE-PAIRS]]], these of a (source, destination); 4 are most
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "job/report.h"
#include "loop_parts.h"
#include "moetap.h"

#define EXPERTS 256u
#define FIRST 40 /* steps that are not counted: flows begin, memory is touched */
#define WAIT_S 60
#define SILENCE_S 4 /* by then the last rounds are closed, whatever is missing */

static const struct moetap_shape shape = {.ranks = 64, .nodes = 8, .slots = 256, .groups = 1};

enum { PAGE, SERIES, HINT, TIMES };
static const char *const names[TIMES] = {"device page", "series", "hint page"};

struct bench {
	struct loop_parts parts;
	uint32_t layers, steps, pairs, measured, rounds, exact, silent;
	bool ended; /**< the job has sent all */
	bool over;  /**< the last step was seen */
	struct moetap_source *source;
	struct moetap_series *series;
	struct moetap_state *state;
	struct moetap_forecaster *forecaster;
	struct moetap_plan *current;
	struct moetap_publisher *publisher;
	double *us[TIMES];
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void nap(void)
{
	const struct timespec pause = {.tv_nsec = 20 * 1000};

	nanosleep(&pause, NULL);
}

/** What follows a step's last round. Returns when the hint was on the page, 0: it failed. */
static uint64_t publish(struct bench *b, int64_t step)
{
	const struct moetap_decision keep = {.verdict = MOETAP_KEEP, .reason = "keep"};
	struct moetap_forecast *forecast;
	struct moetap_error error;
	uint64_t done = 0;

	if (moetap_state_update(b->state, b->series, step) < 0 ||
		moetap_forecaster_update(b->forecaster, b->series, step, &error) < 0 ||
		moetap_forecaster_forecast(b->forecaster, b->series, 100, &forecast, &error) < 0)
		return 0;
	if (moetap_publisher_publish(b->publisher, b->state, forecast, b->current, &keep, &error) ==
		0)
		done = now_ns();
	moetap_forecast_free(forecast);
	return done;
}

static bool take(struct bench *b, const struct moetap_round *round, uint64_t seen)
{
	struct moetap_error error;
	uint64_t added, done, last = round->last_ns;
	bool steady = round->step >= FIRST;

	b->rounds++;
	b->exact += !(round->quality & MOETAP_QUALITY_INEXACT);
	b->silent += (round->quality & MOETAP_QUALITY_TIMEOUT) != 0;
	if (moetap_series_add_counts(b->series, round, &error) < 0)
		return false;
	if (round->layer + 1 < b->layers)
		return true;
	b->over = round->step + 1 >= b->steps;
	added = now_ns();
	done = publish(b, (int64_t)round->step);
	if (done == 0)
		return false;
	if (!steady || b->measured == b->steps)
		return true;
	b->us[PAGE][b->measured] = (double)(seen - last) * 1e-3;
	b->us[SERIES][b->measured] = (double)(added - last) * 1e-3;
	b->us[HINT][b->measured++] = (double)(done - last) * 1e-3;
	return true;
}

/** What the job says is of no interest here, but it must not be held up by a full pipe. */
static void drain(struct bench *b)
{
	static char bin[1 << 20];
	ssize_t n;

	while ((n = read(b->parts.report, bin, sizeof(bin))) > 0)
		;
	b->ended |= n == 0;
}

static int run(struct bench *b)
{
	uint64_t end = now_ns() + WAIT_S * 1000000000ull;
	const struct moetap_round *round;
	struct moetap_error error;
	int ret;

	while (!b->over) {
		ret = moetap_source_next(b->source, &round, &error);
		if (ret > 0 && !take(b, round, now_ns()))
			return cli_fail("bench-loop", "cannot publish");
		if (ret > 0) {
			end = now_ns() + WAIT_S * 1000000000ull;
			continue;
		}
		/* on a machine that is too busy rounds may have run together: then fewer come */
		if (ret == 0 && b->ended && now_ns() > end - (WAIT_S - SILENCE_S) * 1000000000ull)
			break;
		if (ret < 0 || !loop_runs(&b->parts.firmware) || now_ns() > end)
			return cli_fail(
				"bench-loop", "moetap-fw gave %u rounds and no more", b->rounds);
		drain(b);
		nap();
	}
	return CLI_DONE;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void print(struct bench *b)
{
	printf("%u ranks, %u experts, %u layers, %u queue pairs: %u rounds, %u exact, %u closed by "
	       "silence\n",
		shape.ranks, EXPERTS, b->layers, shape.ranks * (shape.ranks - 1) * b->pairs,
		b->rounds, b->exact, b->silent);
	printf("ms from the last packet of a step to  p50     p99     most  (%u steps)\n",
		b->measured);
	for (int i = 0; i < TIMES && b->measured > 0; i++) {
		qsort(b->us[i], b->measured, sizeof(double), by_size);
		printf("%-34s %7.3f %7.3f %7.3f\n", names[i], b->us[i][b->measured / 2] * 1e-3,
			b->us[i][b->measured * 99 / 100] * 1e-3, b->us[i][b->measured - 1] * 1e-3);
	}
}

static bool make_library(struct bench *b)
{
	struct moetap_error error;

	for (int i = 0; i < TIMES; i++)
		b->us[i] = calloc(b->steps, sizeof(double));
	return b->us[PAGE] != NULL && b->us[SERIES] != NULL && b->us[HINT] != NULL &&
	       moetap_series_new(b->layers, EXPERTS, 400, &b->series, &error) == 0 &&
	       moetap_state_new(b->layers, &b->state) == 0 &&
	       moetap_forecaster_new("sw_avg", 0, &b->forecaster, &error) == 0 &&
	       moetap_plan_trivial(&shape, b->layers, EXPERTS, &b->current, &error) == 0 &&
	       moetap_publisher_open(
		       b->parts.page, b->layers, EXPERTS, &shape, &b->publisher, &error) == 0;
}

static int begin(struct bench *b)
{
	char layers[12], steps[12], pairs[12];
	const char *const options[] = {"--apply", "never", "--ranks", "64", "--experts", "256",
		"--slots", "256", "--tokens", "32", "--top-k", "4", "--token-ns", "4000",
		"--layers", layers, "--steps", steps, "--queue-pairs", pairs, NULL};
	struct moetap_error error;
	int ret = -1;

	snprintf(layers, sizeof(layers), "%u", b->layers);
	snprintf(steps, sizeof(steps), "%u", b->steps);
	snprintf(pairs, sizeof(pairs), "%u", b->pairs);
	if (loop_parts_new(&b->parts, &shape, b->layers, EXPERTS, 32) != CLI_DONE ||
		loop_start_firmware(&b->parts) != CLI_DONE)
		return CLI_FAILED;
	while (ret < 0 && loop_runs(&b->parts.firmware)) {
		ret = moetap_source_open_page(
			b->parts.page, MOETAP_FROM_OLDEST, &b->source, &error);
		nap();
	}
	if (ret < 0 || !make_library(b))
		return cli_fail("bench-loop", "cannot begin");
	if (loop_start_job(&b->parts, options) != CLI_DONE)
		return CLI_FAILED;
	return fcntl(b->parts.report, F_SETFL, O_NONBLOCK) == 0 ? CLI_DONE : CLI_FAILED;
}

int main(int argc, char **argv)
{
	struct bench b = {.layers = argc > 1 ? (uint32_t)atoi(argv[1]) : 1,
		.steps = argc > 2 ? (uint32_t)atoi(argv[2]) : 300,
		.pairs = argc > 3 ? (uint32_t)atoi(argv[3]) : 1};
	int status = begin(&b);

	if (status == CLI_DONE)
		status = run(&b);
	if (status == CLI_DONE)
		print(&b);
	moetap_publisher_close(b.publisher);
	moetap_source_close(b.source);
	loop_parts_end(&b.parts);
	moetap_plan_free(b.current);
	moetap_forecaster_free(b.forecaster);
	moetap_state_free(b.state);
	moetap_series_free(b.series);
	for (int i = 0; i < TIMES; i++)
		free(b.us[i]);
	return status;
}
