#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Compares moetap's forecasts with what else a user could take, on one trace and the same origins:
ARIMA and exponential smoothing of statsmodels, auto.arima, ets, ses and thetaf of R's package
forecast, and an LSTM in PyTorch. All peers get the shares once as single samples (the last --last
of them) and once averaged over blocks; the better of these counts for a peer. With --layers, moetap
too gets no other layers.

usage: tests/peers/compare.py [options] TRACE.csv     (see --help)
Debian packages: python3-numpy python3-statsmodels python3-torch r-cran-forecast

It takes minutes to hours. The last lines say whether moetap's arima is within 5 % of the best
ARIMA of the others, its lstm within 5 % of PyTorch's, and auto ahead of all; the exit status is 1
if not. Errors are `rel` and `norm` as of moetap-backtest(1). Times are those of one processor, all
series at all origins together.
"""
import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ARIMAS = ("statsmodels ARIMA(0,1,1)", "statsmodels ARIMA(1,1,1)", "R auto.arima")
R = ("auto.arima", "ets", "ses", "thetaf")


def read_trace(path):
    """Steps and tokens [steps][layers][experts]; layers without tokens are refused: no peer could
    read them."""
    with open(path, newline="") as file:
        rows = csv.reader(file)
        header = next(rows)
        at = {tuple(int(x[1:]) for x in name.split("_")): i for i, name in enumerate(header)
              if name[0] == "l" and "_e" in name}
        layers, experts = (max(k[i] for k in at) + 1 for i in (0, 1))
        table = np.array(list(rows), dtype=object)
    steps = table[:, header.index("step")].astype(int)
    tokens = np.stack([[table[:, at[l, e]].astype(float) for e in range(experts)] for l in range(layers)])
    tokens = tokens.transpose(2, 0, 1)
    if (tokens.sum(2) == 0).any():
        sys.exit("compare.py: a layer without tokens")
    return steps, tokens


def write_trace(file, steps, tokens):
    """The same for moetap."""
    _, layers, experts = tokens.shape
    file.write("step," + ",".join(f"l{l}_e{e}" for l in range(layers) for e in range(experts)) + "\n")
    for step, row in zip(steps, tokens.reshape(len(steps), -1)):
        file.write(f"{step}," + ",".join(f"{v:.0f}" for v in row) + "\n")
    file.flush()


class Task:
    """One origin, all series, in one way of counting."""

    def __init__(self, origin, values, ahead):
        self.origin = origin
        self.values = values  # [samples or blocks][series]
        self.ahead = ahead    # per horizon, in those


def tasks_of(origins, steps, shares, horizons, length, last, stride):
    out = []
    for origin in origins:
        past = shares[: np.searchsorted(steps, origin, "right")].reshape(-1, shares[0].size)
        n = min(len(past) // length, last)
        values = past[len(past) - n * length:].reshape(n, length, -1).mean(1)
        out.append(Task(origin, values, [max(1, round(h / stride / length)) for h in horizons]))
    return out


def r_part(lines):
    text = "".join(lines)
    run = subprocess.run(["Rscript", "--vanilla", os.path.join(HERE, "peers.R"), *R], input=text, text=True,
                         stdout=subprocess.PIPE, check=True,
                         env=dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"))
    return run.stdout.splitlines()


def run_r(tasks, jobs):
    series = tasks[0].values.shape[1]
    lines = [f"{i}:{c};{','.join(map(str, t.ahead))};{','.join(f'{v:.9g}' for v in t.values[:, c])}\n"
             for i, t in enumerate(tasks) for c in range(series)]
    out = {m: np.zeros((len(tasks), len(tasks[0].ahead), series)) for m in R}
    seconds = dict.fromkeys(R, 0.0)
    with ThreadPoolExecutor(jobs) as pool:
        for part in pool.map(r_part, [lines[k::jobs] for k in range(jobs)]):
            for line in part:
                where, method, took, *means = line.split(",")
                i, c = map(int, where.split(":"))
                out[method][i, :, c] = [float(m) for m in means]
                seconds[method] += float(took)
    return {"R " + m: (out[m], seconds[m]) for m in R}


def statsmodels_one(task):
    """All series of a task: {method: (means [horizons][series], seconds)}."""
    from statsmodels.tsa.arima.model import ARIMA
    from statsmodels.tsa.holtwinters import ExponentialSmoothing, SimpleExpSmoothing

    warnings.simplefilter("ignore")
    methods = {
        "statsmodels ARIMA(0,1,1)": lambda x, h: ARIMA(x, order=(0, 1, 1)).fit().forecast(h),
        "statsmodels ARIMA(1,1,1)": lambda x, h: ARIMA(x, order=(1, 1, 1)).fit().forecast(h),
        "statsmodels SES": lambda x, h: SimpleExpSmoothing(x, initialization_method="estimated").fit().forecast(h),
        "statsmodels damped Holt": lambda x, h: ExponentialSmoothing(
            x, trend="add", damped_trend=True, initialization_method="estimated").fit().forecast(h),
    }
    out = {}
    for name, method in methods.items():
        means, start = [], time.process_time()
        for x in task.values.T:
            scale = x.mean() or 1.0
            try:
                path = method(x / scale, max(task.ahead)) * scale
            except Exception:  # a method that refuses a series gets its mean
                path = np.full(max(task.ahead), x.mean())
            means.append([np.mean(path[:k]) for k in task.ahead])
        out[name] = np.array(means).T, time.process_time() - start
    return out


def run_statsmodels(tasks, jobs):
    with ProcessPoolExecutor(jobs) as pool:
        parts = list(pool.map(statsmodels_one, tasks))
    return {m: (np.stack([p[m][0] for p in parts]), sum(p[m][1] for p in parts)) for m in parts[0]}


def run_torch(tasks):
    """One LSTM for all series, as users write it: it reads the last 16 values over their mean, and
    says the logarithm of the mean over each horizon over that mean. At each origin it goes on
    learning from all that has matured (300 descents at the first one, 60 at each other one)."""
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(1)
    start = time.process_time()
    look = 16

    class Net(torch.nn.Module):
        def __init__(self, outputs):
            super().__init__()
            self.lstm = torch.nn.LSTM(1, 32, batch_first=True)
            self.head = torch.nn.Linear(32, outputs)
            torch.nn.init.zeros_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    net = Net(len(tasks[0].ahead))
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)
    out = []
    for number, task in enumerate(tasks):
        x = torch.tensor(task.values, dtype=torch.float32).T  # [series][n]
        n, back = x.shape[1], min(look, max(2, x.shape[1] // 2))
        floor = 0.05 * x.mean()
        base = lambda w: w.mean(1, keepdim=True) + floor
        inputs, targets = [], []
        total = torch.nn.functional.pad(x.double().cumsum(1), (1, 0))
        for end in range(back, n):
            window = x[:, end - back:end]
            known = [torch.log(((total[:, end + k] - total[:, end]) / k).float()[:, None] / base(window) +
                               floor / base(window))
                     if end + k <= n else torch.full((len(x), 1), float("nan")) for k in task.ahead]
            inputs.append(window / base(window) - 1)
            targets.append(torch.cat(known, 1))
        if inputs:
            inputs, targets = torch.cat(inputs)[:, :, None], torch.cat(targets)
            for _ in range(300 if number == 0 else 60):
                pick = torch.randint(len(inputs), (256,))
                error = net(inputs[pick]) - targets[pick]
                error = error[~torch.isnan(error)]
                if len(error) == 0:
                    continue
                adam.zero_grad()
                torch.nn.functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1).backward()
                adam.step()
        with torch.no_grad():
            window = x[:, -back:]
            said = net((window / base(window) - 1)[:, :, None])
        out.append((torch.exp(said) * base(window) - floor).T.numpy())
    return {"PyTorch LSTM": (np.stack(out).astype(float), time.process_time() - start)}


def judge(means, origins, steps, shares, horizons):
    """rel and norm by horizon, as moetap backtest has them."""
    experts, result = shares.shape[2], []
    for i, horizon in enumerate(horizons):
        rel, norm = [], []
        for forecast, origin in zip(means[:, i], origins):
            if origin + horizon > steps[-1]:
                continue
            a, b = np.searchsorted(steps, [origin, origin + horizon], "right")
            actual = shares[a:b].mean(0)
            p = np.maximum(np.nan_to_num(forecast), 0).reshape(actual.shape)
            p = p / np.maximum(p.sum(1, keepdims=True), 1e-12)
            error = abs(p - actual)
            counts = actual >= 0.05 / experts
            rel.append(error[counts] / actual[counts])
            norm.append(error.mean() * experts)
        result.append((np.concatenate(rel).mean(), np.mean(norm)))
    return result


def run_moetap(args, trace, horizons):
    out = {}
    for method in ("auto", "arima", "lstm", "sw_avg", "last"):
        result, seconds = [], 0
        for horizon in horizons:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            text = subprocess.run([args.moetap, "backtest", "--horizon", str(horizon), "--method", method,
                                   "--from", str(args.start), "--every", str(args.every), "--format", "json",
                                   trace], stdout=subprocess.PIPE, check=True).stdout
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            line = next(r for r in json.loads(text)["backtest"] if r["state"] == "all")
            result.append((line["rel"], line["norm"]))
            seconds += after.ru_utime - before.ru_utime
        # One run of a method answers for all horizons; backtest asks for one at a time.
        out["moetap " + method] = result, seconds / len(horizons)
    return out


def say(table):
    for (name, counting), (result, seconds) in table.items():
        print(f"{name},{counting},{seconds:.1f}," + ",".join(f"{r:.5f},{n:.5f}" for r, n in result), flush=True)


def verdict(table, horizons):
    """Prints how moetap stands, and returns whether all goals are met."""
    def best(names, i):
        some = [(table[k][0][i][0], k) for k in table if k[0] in names]
        return min(some) if some else (float("nan"), ("nothing", ""))
    peers = {k[0] for k in table if not k[0].startswith("moetap")}
    others = peers | {"moetap arima", "moetap lstm", "moetap sw_avg", "moetap last"}
    good = True
    for i, h in enumerate(horizons):
        for own, names, limit in (("arima", ARIMAS, 1.05), ("lstm", ("PyTorch LSTM",), 1.05),
                                  ("auto", peers, 1), ("auto", others, 1)):
            mine = table["moetap " + own, ""][0][i][0]
            error, (name, counting) = best(set(names), i)
            met = not mine > error * limit
            good = good and met
            print(f"{'met' if met else 'MISSED'}: horizon {h}: {own} {mine:.4f}, {mine / error:.3f} of "
                  f"{name} {counting} {error:.4f} (limit {limit})")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", metavar="TRACE.csv")
    parser.add_argument("--moetap", default="build/tools/moetap", help="the program (default %(default)s)")
    parser.add_argument("--horizons", default="100,500,1000,2000", help="steps (default %(default)s)")
    parser.add_argument("--from", dest="start", type=int, default=500, help="first origin (default 500)")
    parser.add_argument("--every", type=int, default=250, help="steps between origins (default 250)")
    parser.add_argument("--blocks", default="100,25,1", help="lengths of blocks, samples (default %(default)s)")
    parser.add_argument("--layers", help="only these layers, as 0,4,8")
    parser.add_argument("--last", type=int, default=300, help="single samples, and blocks, that a peer gets")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--skip", default="", help="peers to leave out: r, statsmodels, torch")
    args = parser.parse_args()
    horizons = [int(h) for h in args.horizons.split(",")]
    steps, tokens = read_trace(args.trace)
    if args.layers:
        tokens = tokens[:, [int(l) for l in args.layers.split(",")]]
    shares = tokens / tokens.sum(2, keepdims=True)
    stride = int(np.diff(steps).min())
    origins = list(range(args.start, int(steps[-1]) - min(horizons) + 1, args.every))
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as trace:
        write_trace(trace, steps, tokens)
        table = {(name, ""): value for name, value in run_moetap(args, trace.name, horizons).items()}
    print("method,counting,seconds," + ",".join(f"rel_{h},norm_{h}" for h in horizons))
    say(table)
    for length in [int(b) for b in args.blocks.split(",")]:
        tasks = tasks_of(origins, steps, shares, horizons, length, args.last, stride)
        counting = "single" if length == 1 else f"blocks of {length}"
        for peer, run in (("torch", lambda: run_torch(tasks)), ("statsmodels", lambda: run_statsmodels(tasks, args.jobs)),
                          ("r", lambda: run_r(tasks, args.jobs))):
            if peer in args.skip.split(","):
                continue
            part = {(name, counting): (judge(means, origins, steps, shares, horizons), seconds)
                    for name, (means, seconds) in run().items()}
            table.update(part)
            say(part)
    return 0 if verdict(table, horizons) else 1


if __name__ == "__main__":
    sys.exit(main())
