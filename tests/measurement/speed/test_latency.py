import gc
import math
from itertools import chain

import pandas as pd
import pytest

from stages.core.settings import Benchmark, BertShape
from stages.measurement.speed import latency, machine

SHAPE = BertShape(
    vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
)
QUERIES = [f"query {i}" for i in range(50)]


def settings(batch_sizes, batches_every=1):
    return Benchmark(
        query="my balance",
        threads=1,
        warmup=3,
        rounds=4,
        runs_per_round=5,
        batch_sizes=batch_sizes,
        batches_every=batches_every,
        starts=1,
        reference=SHAPE,
    )


class Scripted:
    """A model that writes down what it is run on; a batch takes `ms`, and `ms` more for each query."""

    def __init__(self, name, log, ms=1.0):
        self.name, self.log, self.ms = name, log, ms

    def time(self, queries):
        self.log.append((self.name, *queries))
        return self.ms * (1 + len(queries))

    def time_parts(self, query):
        self.log.append((self.name, "the parts of", query))
        return self.ms / 4, self.ms / 2


@pytest.fixture(autouse=True)
def warm_at_once(monkeypatch):
    monkeypatch.setattr(latency, "WARM_MS", 2)


def test_models_are_warmed_up_by_time(monkeypatch):
    """A run takes twice `ms`: of 12 ms, six runs of the one, and two of the other."""
    monkeypatch.setattr(latency, "WARM_MS", 12)
    log = []
    models = {"a": Scripted("a", log, 1.0), "b": Scripted("b", log, 4.0)}
    latency.interleave(models, QUERIES, settings([1]), 0)
    timed = 4 * (2 * 5 + 5)  # rounds, each of queries and their parts, and batches of one
    assert [sum(name == model for name, *_ in log) for model in "ab"] == [
        3 + timed + 4 * 6,
        3 + timed + 4 * 2,
    ]


def run(batch_sizes, seed=0):
    log = []
    models = {name: Scripted(name, log, ms) for name, ms in (("a", 1.0), ("b", 2.0), ("c", 4.0))}
    return latency.interleave(models, QUERIES, settings(batch_sizes), seed), log


def test_batches_every_other_round():
    times = latency.interleave({"a": Scripted("a", [])}, QUERIES, settings([8], batches_every=2), 0)
    assert times[times["load"] == "batch of 8"]["round"].tolist() == [0, 2]
    assert times[times["load"] == "query"]["round"].nunique() == 4


@pytest.mark.parametrize(
    ("batch_sizes", "batches"), [([1, 8], [1] * 5 + [8]), ([3, 1], [3] + [1] * 5), ([2], [2])]
)
def test_interleaving(batch_sizes, batches):
    _, log = run(batch_sizes)
    assert log[:9] == [(name, "my balance") for name in "aaabbbccc"]  # warm-up
    size = 1 + 2 * 5 + len(batches)  # an untimed run, five queries and their parts, the batches
    assert len(log) == 9 + 4 * 3 * size
    orders, loads = [], []
    for start in range(9, len(log), 3 * size):
        blocks = [log[i : i + size] for i in range(start, start + 3 * size, size)]
        assert all(len({name for name, *_ in block}) == 1 for block in blocks)
        orders.append("".join(block[0][0] for block in blocks))
        first, second, third = ([tuple(run) for _, *run in block] for block in blocks)
        assert first == second == third  # every model, the same load
        assert first[:11] == [("my balance",), *[("the parts of", "my balance"), ("my balance",)] * 5]
        assert [len(batch) for batch in first[11:]] == batches
        loads.append(first[11:])
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 1  # the order changes
    assert len({tuple(load) for load in loads}) == 4  # and so do the queries
    assert all(set(batch) <= set(QUERIES) for load in loads for batch in load)


def test_each_single_query_of_a_round_is_another():
    _, log = run([1])
    singles = [texts[0] for name, *texts in log if name == "a" and texts[0] in QUERIES]
    assert len(singles) == 20
    assert len(set(singles)) > 10


def test_the_seed_decides():
    (times, log), (again, same), (_, other) = run([1, 8]), run([1, 8]), run([1, 8], seed=1)
    pd.testing.assert_frame_equal(times, again)
    assert log == same != other


def test_a_row_for_each_timed_run():
    times, _ = run([1, 8])
    assert times.columns.tolist() == ["round", "model", "load", "ms"]
    loads = {"query": 5, "tokenization": 5, "session": 5, "batch of 1": 5, "batch of 8": 1}
    counts = times.groupby(["round", "model", "load"]).size()
    assert len(counts) == 4 * 3 * 5
    assert all(count == loads[load] for (_, _, load), count in counts.items())
    each = times[times["model"] == "b"].groupby("load")["ms"].unique()
    assert {load: ms.tolist() for load, ms in each.items()} == {
        "query": [4], "tokenization": [0.5], "session": [1], "batch of 1": [4], "batch of 8": [2 * 9 / 8],
    }  # fmt: skip


def test_garbage_is_not_collected_while_timing():
    collecting = []

    class Model(Scripted):
        def time_parts(self, query):
            collecting.append(gc.isenabled())
            if len(collecting) == 4:
                raise ZeroDivisionError
            return super().time_parts(query)

    with pytest.raises(ZeroDivisionError):
        latency.interleave({"a": Model("a", [])}, QUERIES, settings([1]), seed=0)
    assert collecting == [False] * 4
    assert gc.isenabled()


def rows(number, model, whole, parts=(1.0, 1.0), batches=()):
    """A round of a model: the query's times; tokenization's and the session's; shares in batches of 8."""
    loads = [("query", ms) for ms in whole]
    loads += [("tokenization", parts[0]), ("session", parts[1])]
    return [(number, model, load, ms) for load, ms in [*loads, *(("batch of 8", ms) for ms in batches)]]


def summarize(*rounds, seed=0, **baselines):
    times = pd.DataFrame(chain(*rounds), columns=["round", "model", "load", "ms"])
    return latency.summarize(times, baselines or {"speedup": "teacher"}, seed)


def test_summary_by_hand():
    summary = summarize(
        rows(0, "small", [2, 4, 3], (0.5, 2.0), [1.0]),
        rows(0, "teacher", [10, 14, 12], (2.0, 4.0), [5.0]),
        rows(0, "base", [40, 30, 20], (2.0, 8.0), [9.0]),
        rows(1, "teacher", [24, 20, 28], (4.0, 8.0), [6.0]),
        rows(1, "small", [8, 4, 9], (1.0, 4.0), [3.0]),
        rows(1, "base", [30, 36, 42], (2.0, 10.0), [9.0]),
        speedup="teacher",
        over="base",
    )
    assert summary.index.tolist() == ["small", "teacher", "base"]
    # Six runs and two rounds have no 95th percentile, and no interval.
    # Medians of rounds: 3 and 8; the teacher's 12 and 24; base's 30 and 36; the parts' sums 2.5 and 5.
    assert summary.loc["small"].to_dict() == pytest.approx(
        {
            "latency_mean_ms": 5,
            "latency_std_ms": (40 / 5) ** 0.5,
            "latency_p50_ms": 4,
            "latency_p95_ms": math.nan,
            "latency_p99_ms": math.nan,
            "speedup": (4 + 3) / 2,
            "speedup_low": math.nan,
            "speedup_high": math.nan,
            "over": (10 + 4.5) / 2,
            "over_low": math.nan,
            "over_high": math.nan,
            "overhead": (1.2 + 1.6) / 2,
            "batch_8_ms": 2,
            "batch_8_p95_ms": math.nan,
        },
        nan_ok=True,
    )
    assert summary["speedup"]["teacher"] == 1
    assert summary.loc["teacher", "over"] == (2.5 + 1.5) / 2
    assert summary.loc["base", "speedup"] == pytest.approx((0.4 + 2 / 3) / 2)


def test_drift_falls_out_of_the_ratios():
    """The machine slows down fourfold from round to round; each round is 5 to 1 all the same."""
    summary = summarize(
        *(
            rows(i, model, [4.0**i * ms] * 3, (4.0**i * ms / 4, 4.0**i * ms / 4))
            for i in range(6)
            for model, ms in (("teacher", 5), ("small", 1))
        )
    )
    found = summary.loc["small", ["speedup", "speedup_low", "speedup_high", "overhead"]]
    assert found.tolist() == pytest.approx([5, 5, 5, 2])


@pytest.mark.parametrize(("count", "known"), [(19, False), (20, True)])
def test_percentiles_of_enough_runs(count, known):
    """Of 1, 2, … 20: 0.95 · 19 = 18.05 steps from the first."""
    milliseconds = list(range(1, count + 1))
    summary = summarize(rows(0, "teacher", milliseconds, batches=milliseconds))
    found = summary.loc["teacher", ["latency_p95_ms", "latency_p99_ms", "batch_8_p95_ms"]].tolist()
    expected = [19.05, 19.81, 19.05] if known else [math.nan] * 3
    assert found == pytest.approx(expected, nan_ok=True)
    assert summary["latency_p50_ms"]["teacher"] == (count + 1) / 2


def test_an_interval_of_enough_rounds():
    """Ratios of 1 to 6: an interval of six, and none of the first five."""
    each = [part for i in range(6) for part in (rows(i, "teacher", [i + 1]), rows(i, "small", [1]))]
    low, high = summarize(*each).loc["small", ["speedup_low", "speedup_high"]]
    assert 1 <= low < 3.5 < high <= 6
    assert summarize(*each[:10]).loc["small", ["speedup_low", "speedup_high"]].isna().all()


def test_machine():
    described = machine.describe(threads=2)
    assert described["threads"] == 2
    assert described["cores"] >= 1
    assert described["cpu"]
    assert set(described["int8_instructions"]) <= set(machine.INT8_INSTRUCTIONS)
    assert described["torch"].startswith("2.")
