#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Makes the values that tests/host-lib/test_arima.c compares with: likelihoods and coefficients of
statsmodels; where blocks are missing, and for forecasts, the plain density of a normal vector.

usage: tests/peers/arima_values.py >tests/host-lib/arima_values.h
Debian packages: python3-numpy python3-scipy python3-statsmodels
"""
import warnings

import numpy as np
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from statsmodels.tsa.arima_process import ArmaProcess
from statsmodels.tsa.statespace.sarimax import SARIMAX

warnings.simplefilter("ignore")
N = 40
AHEAD = (1, 7, 2.5)
rng = np.random.default_rng(20240425)


def changes(kind):
    e = rng.normal(size=N + 50)
    x = np.zeros(N + 50)
    for t in range(2, N + 50):
        x[t] = {"ma": e[t] - 0.6 * e[t - 1], "ar": 0.7 * x[t - 1] + e[t],
                "arma": 0.5 * x[t - 1] + 0.2 * x[t - 2] + e[t] + 0.4 * e[t - 1]}[kind]
    return x[50:]


def covariance(ar, ma, n):
    acov = ArmaProcess(np.r_[1, -np.array(ar)], np.r_[1, ma]).acovf(n)
    return np.array([[acov[abs(i - j)] for j in range(n)] for i in range(n)])


def sums(at, n):
    """Differences between the values at `at`, out of n changes."""
    return np.array([[1.0 if a <= k < b else 0.0 for k in range(n)] for a, b in zip(at, at[1:])])


def dense(at, w, ar, ma):
    pick = sums(at, N - 1)
    cov = pick @ covariance(ar, ma, N - 1) @ pick.T
    scale = w @ np.linalg.solve(cov, w) / len(w)
    return multivariate_normal(np.zeros(len(w)), scale * cov).logpdf(w)


def fit(known, at, p, q):
    if p + q == 0:
        return [], [], dense(at, np.diff(known[at]), [], [])
    if len(at) == N:
        model = SARIMAX(np.diff(known), order=(p, 0, q), concentrate_scale=True)
        best = max((model.fit(start, disp=0, method="nm", xtol=1e-9, ftol=1e-12, maxiter=5000)
                    for start in (None, [0.1] * p + [-0.2] * q, [0.1] * p + [0.2] * q)), key=lambda f: f.llf)
        return (best.arparams if p else []), (best.maparams if q else []), best.llf
    w = np.diff(known[at])
    best = minimize(lambda x: -dense(at, w, x[:p], x[p:]) if max(abs(x)) < 1 else 1e9, [0.1] * p + [-0.2] * q,
                    method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 4000})
    return best.x[:p], best.x[p:], -best.fun


def forecast(known, at, ar, ma, ahead):
    """Mean of the next `ahead` values, given those seen."""
    total = N - 1 + int(np.ceil(ahead))
    cov, pick = covariance(ar, ma, total), sums(at, total)
    path = np.array([max(0, (ahead - max(0, k - (N - 1))) / ahead) if k >= N - 1 else 0.0
                     for k in range(total)])
    return known[N - 1] + path @ cov @ pick.T @ np.linalg.solve(pick @ cov @ pick.T, np.diff(known[at]))


def row(values):
    return ", ".join(f"{v:.12g}" for v in values)


def main():
    print("/* SPDX-License-Identifier: BSD-3-Clause */")
    print("/* Made by tests/peers/arima_values.py. */")
    print(f"#define VALUES_N {N}")
    print("static const double ahead[] = {%s};" % row(AHEAD))
    print("static const struct {\n\tunsigned int p, q;\n\tunsigned int missing; /**< 3 blocks from there; 0: none */")
    print("\tdouble value[VALUES_N];\n\tdouble ar[2], ma[2], loglik; /**< of the greatest likelihood */")
    print("\tdouble forecast[%d];\n} values[] = {" % len(AHEAD))
    for p, q, kind, missing in ((0, 1, "ma", 0), (1, 0, "ar", 0), (1, 1, "arma", 0), (2, 1, "arma", 0),
                                (0, 2, "ma", 0), (0, 0, "ar", 0), (0, 1, "ma", 17), (1, 1, "ar", 9)):
        known = np.cumsum(changes(kind)) * 0.01 + 0.5
        at = [t for t in range(N) if not (missing and missing <= t < missing + 3)]
        ar, ma, loglik = fit(known, at, p, q)
        print(f"\t{{{p}, {q}, {missing},\n\t\t{{", end="")
        print(",\n\t\t\t".join(row(known[i:i + 5]) for i in range(0, N, 5)), end="},\n\t\t")
        print(f"{{{row(list(ar) + [0] * (2 - p))}}}, {{{row(list(ma) + [0] * (2 - q))}}}, {loglik:.12g},")
        print(f"\t\t{{{row(forecast(known, at, ar, ma, h) for h in AHEAD)}}}}},")
    print("};")


main()
