"""Latencies that can be compared on a noisy machine: interleaved, and as ratios within a round."""

import gc
import random
from collections.abc import Mapping, Sequence

import pandas as pd
from pandas.api.typing import SeriesGroupBy
from tqdm import tqdm

from stages.core.settings import Benchmark
from stages.measurement.enough import FEWEST
from stages.measurement.speed.measured_model import MeasuredModel
from stages.measurement.statistics import interval

WARM_MS = 10


def interleave(
    models: Mapping[str, MeasuredModel], queries: Sequence[str], params: Benchmark, seed: int
) -> pd.DataFrame:
    """Time every model on the same load in every round, in an order shuffled by `seed`.

    After `params.warmup` untimed queries to each, a round runs each model WARM_MS untimed (at least
    once), to bring it back into the caches, and then timed: `params.query`, whole and in its two parts,
    `params.runs_per_round` times; in every `params.batches_every`th round, one batch of `queries` drawn
    for it, of each of `params.batch_sizes` (of size 1, `runs_per_round` of them). Gives one row for each
    timed run: `round`, `model`, `load` ("query", "tokenization", "session", "batch of 8"), and `ms`, for
    a batch those of each of its queries.
    """
    for model in models.values():
        for _ in range(params.warmup):
            model.time([params.query])
    rng = random.Random(seed)
    rows = []
    gc.disable()
    try:
        for number in tqdm(range(params.rounds), "latency", unit="round"):
            drawn = rng.choices(queries, k=max(*params.batch_sizes, params.runs_per_round))
            for name in rng.sample(list(models), len(models)):
                model = models[name]
                warm = 0.0
                while warm < WARM_MS:
                    warm += model.time([params.query])
                for _ in range(params.runs_per_round):
                    tokenization, session = model.time_parts(params.query)
                    rows.append((number, name, "query", model.time([params.query])))
                    rows.append((number, name, "tokenization", tokenization))
                    rows.append((number, name, "session", session))
                for size in params.batch_sizes if number % params.batches_every == 0 else ():
                    count = params.runs_per_round if size == 1 else 1
                    for start in range(count):
                        ms = model.time(drawn[start : start + size])
                        rows.append((number, name, f"batch of {size}", ms / size))
            gc.collect()
    finally:
        gc.enable()
    return pd.DataFrame(rows, columns=["round", "model", "load", "ms"])


def summarize(times: pd.DataFrame, baselines: Mapping[str, str], seed: int) -> pd.DataFrame:
    """Per model, of one query: mean, std, p50, p95 and p99 in ms; and what follows.

    `<key>` of each of `baselines`, the speed-up over the model it names: the median over rounds of
    the ratio of the two medians of a round, so what slows the machine down for longer than a round
    falls out; `<key>_low` and `<key>_high`, its 95% bootstrap interval over rounds. `overhead`, likewise: the
    whole over the sum of its parts, tokenization and session. `batch_<size>_ms` and
    `batch_<size>_p95_ms`, a query's share in a batch. NaN: p95 and p99 of fewer than FEWEST runs, and
    intervals of fewer than FEWEST_ROUNDS.
    """
    loads = dict(iter(times.groupby("load", sort=False)))
    by_model = loads["query"].groupby("model", sort=False)["ms"]
    summary = pd.DataFrame({"latency_mean_ms": by_model.mean(), "latency_std_ms": by_model.std()})
    summary["latency_p50_ms"] = by_model.median()
    for percent in (95, 99):
        summary[f"latency_p{percent}_ms"] = _tail(by_model, percent)
    medians = {load: _medians(rows) for load, rows in loads.items()}
    whole = medians["query"]
    for key, baseline in baselines.items():
        ratios = whole.rdiv(whole[baseline], axis=0)
        summary[key] = ratios.median()
        for name in ratios:
            low, high = interval(ratios[name].to_numpy(), seed)
            summary.loc[name, [f"{key}_low", f"{key}_high"]] = low, high
    summary["overhead"] = (whole / (medians["tokenization"] + medians["session"])).median()
    for load, rows in loads.items():
        if load.startswith("batch of "):
            shares = rows.groupby("model", sort=False)["ms"]
            column = load.replace(" of ", "_")
            summary[f"{column}_ms"] = shares.median()
            summary[f"{column}_p95_ms"] = _tail(shares, 95)
    return summary


def _tail(milliseconds: SeriesGroupBy, percent: int) -> pd.Series:
    """The percentile of each group that has FEWEST; NaN of the others."""
    return milliseconds.quantile(percent / 100).where(milliseconds.size() >= FEWEST)


def _medians(times: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds, a row a round and a column a model."""
    return times.groupby(["round", "model"])["ms"].median().unstack()
