"""Latencies that can be compared on a noisy machine: interleaved, and as ratios within a round."""

import gc
import random
from collections.abc import Mapping, Sequence

import pandas as pd
from pandas.api.typing import SeriesGroupBy
from tqdm import tqdm

from stages.core.settings import Benchmark
from stages.measurement.enough import FEWEST
from stages.measurement.speed import reference
from stages.measurement.speed.measured_model import MeasuredModel
from stages.measurement.statistics import interval

WARM_MS = 10
TEST = "test query"  # the load that speed-ups are of


def interleave(
    models: Mapping[str, MeasuredModel], queries: Sequence[str], params: Benchmark, seed: int
) -> pd.DataFrame:
    """Time every model on the same load in every round, in an order shuffled by `seed`.

    After `params.warmup` untimed runs of `params.query` to each, a round runs each model WARM_MS untimed (at
    least once), to bring it back into the caches. Then it is timed on `params.queries` of `queries`, one by
    one. They are dealt from a shuffled deck of all, so no query comes again before all have come. The slow
    reference.NAME answers a systematic sample of them: every `params.reference_every`th by length, from a
    random start. Each query is as likely to be in it as any other, and the sample has the lengths of the
    round, which are what its time depends on. In every `params.batches_every`th round each model is timed on
    `params.query`, whole and in its two parts, `params.runs_per_round` times, and on one batch of `queries`
    of each of `params.batch_sizes`. Gives one row for each timed run: `round`, `model`, `load` (TEST,
    "query", "tokenization", "session", "batch of 8"), and `ms`, for a batch those of each of its queries.
    """
    for model in models.values():
        for _ in range(params.warmup):
            model.time([params.query])
    rng = random.Random(seed)
    count = params.queries
    decks = -(-params.rounds * count // len(queries))
    deck = [query for _ in range(decks) for query in rng.sample(queries, len(queries))]
    rows = []
    gc.disable()
    gc.freeze()  # what torch holds: to go through it in every round takes seconds in all
    try:
        for number in tqdm(range(params.rounds), "latency", unit="round"):
            dealt = deck[number * count : (number + 1) * count]
            start = rng.randrange(params.reference_every)
            few = sorted(dealt, key=len)[start :: params.reference_every]
            batch = rng.choices(queries, k=max(params.batch_sizes))
            for name in rng.sample(list(models), len(models)):
                model = models[name]
                warm = 0.0
                while warm < WARM_MS:
                    warm += model.time([params.query])
                asked = few if name == reference.NAME else dealt
                rows += [(number, name, TEST, model.time([query])) for query in asked]
                if number % params.batches_every:
                    continue
                for _ in range(params.runs_per_round):
                    tokenization, session = model.time_parts(params.query)
                    rows.append((number, name, "query", model.time([params.query])))
                    rows.append((number, name, "tokenization", tokenization))
                    rows.append((number, name, "session", session))
                rows += [
                    (number, name, f"batch of {size}", model.time(batch[:size]) / size)
                    for size in params.batch_sizes
                ]
            gc.collect()
    finally:
        gc.unfreeze()
        gc.enable()
    return pd.DataFrame(rows, columns=["round", "model", "load", "ms"])


def summarize(times: pd.DataFrame, baselines: Mapping[str, str], seed: int) -> pd.DataFrame:
    """Per model, over test queries: how many were timed, mean, std, p50, p95 and p99 in ms; and what follows.

    `<key>` of each of `baselines`, the speed-up over the model it names: the median over rounds of the ratio
    of the two mean latencies of a round. What slows the machine down for longer than a round falls out, and
    what disturbs a few rounds does not count. `<key>_low` and `<key>_high`, its 95% bootstrap interval over
    rounds. `query_ms`, the median of the fixed query. `overhead`, its median time over the sum of its parts,
    tokenization and session, by rounds likewise. `batch_<size>_ms` and `batch_<size>_p95_ms`, a query's
    share in a batch. NaN: p95 and p99 of fewer than FEWEST runs, and intervals of fewer than FEWEST_ROUNDS.
    """
    loads = dict(iter(times.groupby("load", sort=False)))
    by_model = loads[TEST].groupby("model", sort=False)["ms"]
    summary = pd.DataFrame({"latency_queries": by_model.size(), "latency_mean_ms": by_model.mean()})
    summary["latency_std_ms"] = by_model.std()
    summary["latency_p50_ms"] = by_model.median()
    for percent in (95, 99):
        summary[f"latency_p{percent}_ms"] = _tail(by_model, percent)
    means = _by_round(loads[TEST]).mean().unstack()
    for key, baseline in baselines.items():
        ratios = means.rdiv(means[baseline], axis=0)
        summary[key] = ratios.median()
        for name in ratios:
            low, high = interval(ratios[name].to_numpy(), seed)
            summary.loc[name, [f"{key}_low", f"{key}_high"]] = low, high
    summary["query_ms"] = loads["query"].groupby("model")["ms"].median()
    whole, tokenization, session = (
        _by_round(loads[load]).median().unstack() for load in ("query", "tokenization", "session")
    )
    summary["overhead"] = (whole / (tokenization + session)).median()
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


def _by_round(times: pd.DataFrame) -> SeriesGroupBy:
    """Milliseconds, by round and model."""
    return times.groupby(["round", "model"])["ms"]
