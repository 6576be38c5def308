/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * ARIMA(p, 1, q) of a panel: series that share their coefficients and have a scale each. Exact
 * Gaussian likelihood of the changes from block to block by the Kalman filter (Harvey's state-space
 * form of an ARMA process; Gardner, Harvey, Phillips, Applied Statistics 29, 1980, algorithm AS
 * 154), the scales concentrated out. Blocks may be missing.
 *
 * Since all series share their gains, the filter's matrices are computed once a block, and a
 * series costs a dozen operations. And since a forecast is then the same affine combination of the
 * past for all series, shares that sum to 1 have forecasts that sum to 1.
 */
#ifndef MOETAP_ARIMA_H
#define MOETAP_ARIMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Most of p and of q. */
#define ARIMA_MOST 2
/** Length of the state: the level, and the most of max(p, q + 1). */
#define ARIMA_STATE (ARIMA_MOST + 2)

/** A panel. */
struct panel {
	uint32_t blocks, series;
	const double *value; /**< [blocks][series] */
	const bool *seen;    /**< [blocks]; the values of a block that was not seen are not read */
};

/** A model: x(t) - ar[0] x(t-1) - ... = e(t) + ma[0] e(t-1) + ..., x being the changes. */
struct arima {
	uint32_t p, q;
	double ar[ARIMA_MOST], ma[ARIMA_MOST];
};

/** How well a model fits. */
struct arima_fit {
	double loglik;	   /**< of all series together */
	double aicc;	   /**< Akaike's criterion, corrected for short series */
	uint32_t observed; /**< changes between blocks that were seen */
	uint32_t used;	   /**< series that change at all; the others say nothing */
};

/** The filter of a panel under one model. */
struct arima_filter {
	double t[ARIMA_STATE][ARIMA_STATE]; /**< transition of the state */
	double q[ARIMA_STATE][ARIMA_STATE]; /**< covariance of what a block adds, scale 1 */
	double p[ARIMA_STATE][ARIMA_STATE]; /**< covariance of the predicted state */
	uint32_t seen;			    /**< blocks */
	double logs; /**< sum of the logarithms of the variances of the innovations */
	/* Of every series, in the caller's memory. */
	uint32_t n;
	double *state; /**< [ARIMA_STATE][n] */
	double *v;     /**< [n], innovations of the block */
	double *ssq;   /**< [n], their sum of squares */
};

/** Bytes of memory that a filter wants for a panel of so many series. */
size_t mtl_arima_bytes(uint32_t series);

/** Starts a filter before the first block, in memory of mtl_arima_bytes(). */
void mtl_arima_begin(
	struct arima_filter *f, const struct arima *model, uint32_t series, double *memory);

/** Goes on by one block: `value[series]`, or NULL for a block that was not seen. */
void mtl_arima_step(struct arima_filter *f, const double *value);

/**
 * Forecasts the mean over the next `ahead` blocks (more than 0, whole or not) of every series.
 *
 * `value[series]` is what is known of the block under way, NULL if nothing is, and `noise` the
 * variance by which it is more uncertain than the whole block would be, in units of the scale; the
 * mean then is over the blocks after that one. Before a block was seen, all are 0.
 */
void mtl_arima_forecast(const struct arima_filter *f, const double *value, double noise,
	double ahead, double *mean);

/**
 * Log-likelihood of a given model; `memory` is of mtl_arima_bytes(). A series that never changes
 * counts neither way. With fewer than 3 blocks seen, or without a series that changes, fit->loglik
 * and fit->aicc are NAN.
 */
void mtl_arima_judge(const struct arima *model, const struct panel *panel, double *memory,
	struct arima_fit *fit);

/**
 * Finds the coefficients for the orders in `model`: maximum likelihood by L-BFGS (liblbfgs), kept
 * inside the stationary and invertible region by way of partial autocorrelations (M. C. Jones,
 * Technometrics 22, 1980). The search begins with the coefficients in `model`. Returns false where
 * the likelihood is NAN.
 */
bool mtl_arima_fit(
	struct arima *model, const struct panel *panel, double *memory, struct arima_fit *fit);

#endif
