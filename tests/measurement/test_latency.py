import numpy as np
import pandas as pd
import pytest

from stages import params
from stages.measurement import latency, machine

SETTINGS = params.Benchmark(query="my balance", threads=1, warmup=3, rounds=4, runs_per_round=5)


class Scripted:
    """A model whose runs take what a script says, and that writes down when it is run."""

    def __init__(self, name, log, milliseconds=1.0):
        self.name, self.log, self.milliseconds = name, log, milliseconds

    def time_query(self, query):
        assert query == "my balance"
        self.log.append(self.name)
        return self.milliseconds


def test_interleaving():
    log = []
    times = latency.interleave({name: Scripted(name, log) for name in "abc"}, SETTINGS, seed=0)
    assert log[:9] == list("aaabbbccc")  # warm-up
    rounds = [log[9 + 18 * i : 9 + 18 * (i + 1)] for i in range(4)]
    for one in rounds:  # an untimed and five timed runs of each, together
        blocks = [one[i : i + 6] for i in (0, 6, 12)]
        assert all(len(set(block)) == 1 for block in blocks)
        assert {block[0] for block in blocks} == set("abc")
    assert len({tuple(one) for one in rounds}) > 1  # the order changes
    assert len(log) == 9 + 4 * 18
    assert times.groupby(["round", "model"]).size().eq(5).all()
    assert len(times) == 4 * 3 * 5


def test_summary_in_numbers():
    times = pd.DataFrame(
        [(0, "teacher", ms) for ms in (10, 12, 14)] + [(0, "small", ms) for ms in (2, 3, 4)],
        columns=["round", "model", "ms"],
    )
    summary = latency.summarize(times, baseline="teacher")
    assert summary.loc["teacher", "latency_mean_ms"] == 12
    assert summary.loc["teacher", "latency_std_ms"] == 2
    assert summary.loc["small", "latency_p50_ms"] == 3
    assert summary.loc["small", "latency_p95_ms"] == pytest.approx(np.percentile([2, 3, 4], 95))
    assert summary.loc["small", "latency_p99_ms"] == pytest.approx(np.percentile([2, 3, 4], 99))
    assert summary.loc["small", "speedup"] == 4
    assert summary.loc["teacher", "speedup"] == 1


def test_drift_falls_out_of_the_speedup():
    """The machine slows down fourfold from round to round; each round is 5 to 1 all the same."""
    times = pd.DataFrame(
        [
            (i, model, 4.0**i * ms)
            for i in range(5)
            for model, ms in (("teacher", 5), ("small", 1))
            for _ in range(3)
        ],
        columns=["round", "model", "ms"],
    )
    assert latency.summarize(times, baseline="teacher").loc["small", "speedup"] == pytest.approx(5)


def test_machine():
    described = machine.describe(threads=2)
    assert described["threads"] == 2
    assert described["cores"] >= 1
    assert described["cpu"]
    assert set(described["int8_instructions"]) <= set(machine.INT8_INSTRUCTIONS)
    assert described["torch"].startswith("2.")
