"""Latencies that can be compared on a noisy machine: interleaved, and as ratios within a round."""

import gc
import random
from collections.abc import Mapping

import pandas as pd
from tqdm import tqdm

from stages.measurement.performance import PerformanceBenchmark
from stages.params import Benchmark


def interleave(models: Mapping[str, PerformanceBenchmark], params: Benchmark, seed: int) -> pd.DataFrame:
    """Time `params.query` on every model in every round, in an order shuffled by `seed`.

    After `params.warmup` untimed runs of each, a round runs each model once untimed, to bring it
    back into the caches, and `runs_per_round` times timed. Gives one row for each timed run:
    `round`, `model`, `ms`.
    """
    for model in models.values():
        for _ in range(params.warmup):
            model.time_query(params.query)
    rng = random.Random(seed)
    rows = []
    gc.disable()
    try:
        for number in tqdm(range(params.rounds), "latency", unit="round"):
            for name in rng.sample(list(models), len(models)):
                models[name].time_query(params.query)
                rows += [
                    (number, name, models[name].time_query(params.query))
                    for _ in range(params.runs_per_round)
                ]
            gc.collect()
    finally:
        gc.enable()
    return pd.DataFrame(rows, columns=["round", "model", "ms"])


def summarize(times: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Per model: mean, std, p50, p95 and p99 in ms, and the speedup over `baseline`.

    The speedup is the median over rounds of the ratio of the two medians of that round, so what
    slows the machine down for longer than a round falls out.
    """
    by_model = times.groupby("model", sort=False)["ms"]
    summary = pd.DataFrame({"latency_mean_ms": by_model.mean(), "latency_std_ms": by_model.std()})
    for percent in (50, 95, 99):
        summary[f"latency_p{percent}_ms"] = by_model.quantile(percent / 100)
    medians = times.groupby(["round", "model"])["ms"].median().unstack()
    summary["speedup"] = medians.rdiv(medians[baseline], axis=0).median()
    return summary
