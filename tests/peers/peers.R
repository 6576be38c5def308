#!/usr/bin/Rscript
# SPDX-License-Identifier: BSD-3-Clause
# Forecasts of auto.arima, ets, thetaf and ses of R's package forecast (Debian r-cran-forecast).
# Reads lines "id;k1,k2,...;v1,v2,..." and prints "id,method,seconds,mean of the next k1,k2,..."
suppressMessages(library(forecast))
methods <- list(
	auto.arima = function(x, h) forecast(auto.arima(x), h = h)$mean,
	ets = function(x, h) forecast(ets(x), h = h)$mean,
	ses = function(x, h) ses(x, h = h)$mean,
	thetaf = function(x, h) thetaf(x, h = h)$mean)
cpu <- function() sum(proc.time()[c("user.self", "sys.self")])
args <- commandArgs(trailingOnly = TRUE)
lines <- file("stdin", "r")
while (length(line <- readLines(lines, n = 1)) > 0) {
	part <- strsplit(line, ";")[[1]]
	ahead <- as.numeric(strsplit(part[2], ",")[[1]])
	x <- ts(as.numeric(strsplit(part[3], ",")[[1]]))
	for (m in args) {
		start <- cpu()
		# A method that refuses a series gets its mean: better than no answer.
		path <- tryCatch(as.numeric(methods[[m]](x, max(ahead))),
			error = function(e) rep(mean(x), max(ahead)))
		took <- cpu() - start
		means <- sapply(ahead, function(k) mean(path[1:k]))
		cat(part[1], m, took, paste(means, collapse = ","), sep = ",")
		cat("\n")
	}
}
