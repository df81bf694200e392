import gc
import math
from itertools import chain

import numpy as np
import pandas as pd
import pytest

from stages.core.settings import Benchmark, BertShape
from stages.measurement.speed import latency, machine, reference

SHAPE = BertShape(
    vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
)
QUERIES = [f"query {i}" for i in range(50)]
SETTINGS = Benchmark(
    query="my balance",
    threads=1,
    warmup=3,
    rounds=4,
    queries=6,
    reference_every=3,
    runs_per_round=5,
    batch_sizes=[8],
    batches_every=1,
    starts=1,
    reference=SHAPE,
)


def settings(**changes):
    return SETTINGS.model_copy(update=changes)


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
    latency.interleave(models, QUERIES, SETTINGS, 0)
    timed = 4 * (6 + 2 * 5 + 1)  # rounds, each of test queries, the fixed one and its parts, and a batch
    assert [sum(name == model for name, *_ in log) for model in "ab"] == [
        3 + timed + 4 * 6,
        3 + timed + 4 * 2,
    ]


def run(seed=0, names=("a", "b", reference.NAME), queries=QUERIES, **changes):
    log = []
    models = {name: Scripted(name, log, 2.0**i) for i, name in enumerate(names)}
    return latency.interleave(models, queries, settings(**changes), seed), log


def asked(log, name):
    """The single test queries that the model was run on."""
    return [
        texts[0] for model, *texts in log if model == name and len(texts) == 1 and texts != ["my balance"]
    ]


def test_interleaving():
    _, log = run(names="abc")
    assert log[:9] == [(name, "my balance") for name in "aaabbbccc"]  # warm-up
    size = 1 + 6 + 2 * 5 + 1  # an untimed run, the test queries, five of the fixed one and its parts, a batch
    assert len(log) == 9 + 4 * 3 * size
    orders, loads = [], []
    for start in range(9, len(log), 3 * size):
        blocks = [log[i : i + size] for i in range(start, start + 3 * size, size)]
        assert all(len({name for name, *_ in block}) == 1 for block in blocks)
        orders.append("".join(block[0][0] for block in blocks))
        first, second, third = ([tuple(run) for _, *run in block] for block in blocks)
        assert first == second == third  # every model, the same load
        assert first[0] == ("my balance",)
        assert all(len(asked) == 1 and asked[0] in QUERIES for asked in first[1:7])
        assert first[7:17] == [("the parts of", "my balance"), ("my balance",)] * 5
        assert len(first[17]) == 8 and set(first[17]) <= set(QUERIES)
        loads.append(first[1:])
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 1  # the order changes
    assert len({tuple(load) for load in loads}) == 4  # and so do the queries


def test_the_fixed_query_and_batches_every_other_round():
    times, _ = run(batches_every=2, batch_sizes=[8, 3])
    by_load = times.groupby("load")["round"].unique()
    assert {load: list(rounds) for load, rounds in by_load.items()} == {
        latency.TEST: [0, 1, 2, 3], "query": [0, 2], "tokenization": [0, 2], "session": [0, 2],
        "batch of 8": [0, 2], "batch of 3": [0, 2],
    }  # fmt: skip


def test_no_query_comes_again_before_all_have_come():
    """30 rounds of 6 go through 50 queries three times, and 30 of them once more."""
    _, log = run(rounds=30)
    queries = asked(log, "a")
    passes = [queries[start : start + 50] for start in range(0, 180, 50)]
    assert [len(set(some)) for some in passes] == [50, 50, 50, 30]
    assert passes[0] != passes[1]
    assert queries == asked(log, "b")


def test_more_queries_a_round_than_there_are():
    _, log = run(queries=QUERIES[:4])
    assert sorted(asked(log, "a")) == sorted(QUERIES[:4] * 6)


def test_the_reference_answers_a_systematic_sample_of_the_others_queries():
    """Of six, the first and the fourth by length, or the second and the fifth, or the third and the last."""
    _, log = run(queries=["x" * i for i in range(1, 51)], rounds=200)
    dealt = np.array([len(text) for text in asked(log, "a")]).reshape(200, 6)
    few = np.array([len(text) for text in asked(log, reference.NAME)]).reshape(200, 2)
    ranks = (np.sort(dealt)[:, :, None] == few[:, None]).argmax(axis=1)
    pairs, counts = np.unique(ranks, axis=0, return_counts=True)
    assert pairs.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert counts.min() > 40  # of 67 expected: no query of a round is favoured


def test_the_seed_decides():
    (times, log), (again, same), (_, other) = run(), run(), run(seed=1)
    pd.testing.assert_frame_equal(times, again)
    assert log == same != other


def test_a_row_for_each_timed_run():
    times, _ = run()
    assert times.columns.tolist() == ["round", "model", "load", "ms"]
    loads = {latency.TEST: 6, "query": 5, "tokenization": 5, "session": 5, "batch of 8": 1}
    counts = times.groupby(["round", "model", "load"]).size()
    assert len(counts) == 4 * 3 * 5
    for (_, model, load), count in counts.items():
        assert count == (2 if (model, load) == (reference.NAME, latency.TEST) else loads[load])
    each = times[times["model"] == "b"].groupby("load")["ms"].unique()
    assert {load: ms.tolist() for load, ms in each.items()} == {
        latency.TEST: [4], "query": [4], "tokenization": [0.5], "session": [1], "batch of 8": [2 * 9 / 8],
    }  # fmt: skip


class Exiting:
    """A model whose time depends on the query, on a machine whose pace changes from run to run."""

    def __init__(self, ms, rng):
        self.ms, self.rng = ms, rng

    def time(self, queries):
        pace = self.rng.normal(1, 0.05) + (40 if self.rng.random() < 0.003 else 0)  # or something else runs
        return self.ms(queries[0]) * pace

    def time_parts(self, query):
        return 1.0, 1.0


def test_the_speed_up_is_that_of_mean_latencies_though_queries_differ():
    """A third of the queries leave early; the reference gets a tenth, and takes longer for long ones."""
    rng = np.random.default_rng(0)
    texts = ["x" * length for length in rng.integers(10, 90, 2000)]
    early = dict(zip(texts, rng.random(2000) < 1 / 3, strict=True))
    ms = {
        "teacher": lambda text: 5 + 0.05 * len(text),
        "exits": lambda text: 0.2 if early.get(text) else 0.5 + 0.004 * len(text),
        reference.NAME: lambda text: 30 + 0.8 * len(text),
    }
    models = {name: Exiting(of, rng) for name, of in ms.items()}
    times = latency.interleave(models, texts, settings(rounds=40, queries=50, reference_every=10), 0)
    summary = latency.summarize(times, {"speedup": "teacher", "over": reference.NAME}, 0)
    mean = {name: np.mean([of(text) for text in texts]) for name, of in ms.items()}
    for key, baseline in (("speedup", "teacher"), ("over", reference.NAME)):
        true = mean[baseline] / mean["exits"]
        row = summary.loc["exits"]
        assert row[key] == pytest.approx(true, rel=0.03)
        assert row[f"{key}_low"] < true < row[f"{key}_high"] < 1.2 * row[f"{key}_low"]
    assert summary["latency_queries"].to_dict() == {"teacher": 2000, "exits": 2000, reference.NAME: 200}


def test_garbage_is_not_collected_while_timing():
    collecting = []

    class Model(Scripted):
        def time_parts(self, query):
            collecting.append(gc.isenabled())
            if len(collecting) == 4:
                raise ZeroDivisionError
            return super().time_parts(query)

    with pytest.raises(ZeroDivisionError):
        latency.interleave({"a": Model("a", [])}, QUERIES, SETTINGS, seed=0)
    assert collecting == [False] * 4
    assert gc.isenabled() and gc.get_freeze_count() == 0


def rows(number, model, each, fixed=2.0, parts=(1.0, 1.0), batches=()):
    """A round of a model: times of test queries; the fixed query's and its parts'; shares in batches of 8."""
    loads = [(latency.TEST, ms) for ms in each]
    loads += [("query", fixed), ("tokenization", parts[0]), ("session", parts[1])]
    return [(number, model, load, ms) for load, ms in [*loads, *(("batch of 8", ms) for ms in batches)]]


def summarize(*rounds, seed=0, **baselines):
    times = pd.DataFrame(chain(*rounds), columns=["round", "model", "load", "ms"])
    return latency.summarize(times, baselines or {"speedup": "teacher"}, seed)


def test_summary_by_hand():
    summary = summarize(
        rows(0, "small", [1, 6, 2], 3.0, (0.5, 2.0), [1.0]),
        rows(0, "teacher", [10, 16, 10], 12.0, (2.0, 4.0), [5.0]),
        rows(0, "base", [50, 10], 30.0, (2.0, 8.0), [9.0]),
        rows(1, "teacher", [24, 20, 28], 24.0, (4.0, 8.0), [6.0]),
        rows(1, "small", [8, 4, 12], 8.0, (1.0, 4.0), [3.0]),
        rows(1, "base", [36], 36.0, (2.0, 10.0), [9.0]),
        speedup="teacher",
        over="base",
    )
    assert summary.index.tolist() == ["small", "teacher", "base"]
    # Six runs and two rounds have no 95th percentile, and no interval.
    # Means of rounds: 3 and 8; the teacher's 12 and 24; base's 30 and 36; the parts' sums 2.5 and 5.
    assert summary.loc["small"].to_dict() == pytest.approx(
        {
            "latency_queries": 6,
            "latency_mean_ms": 5.5,
            "latency_std_ms": (83.5 / 5) ** 0.5,
            "latency_p50_ms": 5,
            "latency_p95_ms": math.nan,
            "latency_p99_ms": math.nan,
            "speedup": (4 + 3) / 2,
            "speedup_low": math.nan,
            "speedup_high": math.nan,
            "over": (10 + 4.5) / 2,
            "over_low": math.nan,
            "over_high": math.nan,
            "query_ms": 5.5,
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
            rows(i, model, [4.0**i * ms] * 3, 4.0**i * ms, (4.0**i * ms / 4, 4.0**i * ms / 4))
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
