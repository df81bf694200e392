import random
from itertools import cycle

import pytest

from stages.core import settings
from stages.serving import load

TEXTS = ["my balance", "send money", "rent a car", "my car"]
SETTINGS = settings.load().load_test.model_copy(
    update={
        "scenarios": {
            "fixed": settings.Scenario(model="student-ort", length=16),
            "int8": settings.Scenario(model="student-ort"),
            "cached": settings.Scenario(model="student-ort", cached=True),
        },
        "rounds": 2,
        "seconds": 0.05,
        "loads": [0.25, 0.5],
        "cache": 3,
    }
)


class Clock:
    """In the place of the module `time`: passes when told to."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0  # a sleep of 0 s takes 60 us
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(load, "time", clock)
    return clock


def test_closed_loop(clock):
    asked = []

    def answer(text):
        asked.append(text)
        clock.now += 0.25
        return text == "b"

    taken = load.closed_loop(answer, cycle("ab"), seconds=1.0)
    assert asked == ["a", "b", "a", "b"]
    assert taken == [(250.0, False), (250.0, True)] * 2


def test_open_loop_counts_the_wait(clock):
    """Queries every second that take two: each waits a second longer than the one before."""

    class EverySecond:
        def expovariate(self, rate):
            assert rate == 7
            return 1.0

    def answer(text):
        clock.now += 2
        return False

    taken = load.open_loop(answer, cycle("a"), 7, 4.5, EverySecond())
    assert [ms for ms, _ in taken] == [2000, 3000, 4000, 5000]


def test_open_loop_is_poisson(clock):
    taken = load.open_loop(lambda text: False, cycle("a"), 50.0, 400.0, random.Random(0))
    assert len(taken) == pytest.approx(400 * 50, rel=0.03)
    assert max(ms for ms, _ in taken) == pytest.approx(0, abs=1e-6)  # none waits for another


def test_scenarios(models):
    """What is padded, what is remembered, and that all answer the same."""
    padded = load.answerer(models / "student", settings.Scenario(model="student", length=16), 3)
    assert [padded(text) for text in TEXTS * 2] == [False] * 8
    cached = load.answerer(models / "student-ort", SETTINGS.scenarios["cached"], 3)
    assert [cached(text) for text in (*TEXTS[:3], *TEXTS[:3], TEXTS[3], TEXTS[0])] == (
        [False] * 3 + [True] * 3 + [False] * 2
    )


def test_workers_serve_every_scenario_under_every_load(models):
    folders = {name: models / scenario.model for name, scenario in SETTINGS.scenarios.items()}
    times = load.run(folders, TEXTS, 2, SETTINGS, seed=0)
    assert times.columns.tolist() == ["ms", "hit", "worker", "round", "scenario", "load"]
    assert set(times["scenario"]) == {*folders, load.NO_MODEL} and set(times["worker"]) == {0, 1}
    closed = times[times["load"] == load.FULL]
    assert closed.groupby(["scenario", "worker"])["round"].nunique().eq(2).all()
    loads = times.groupby("scenario")["load"].agg(set).to_dict()
    assert loads == {name: {load.FULL, 0.25, 0.5} for name in folders} | {load.NO_MODEL: {1.0}}
    assert (times["ms"] > 0).all()
    # A worker has two texts of its own, which the cache knows once it is warm.
    assert times.groupby("scenario")["hit"].mean().to_dict() == {
        "cached": 1, "fixed": 0, "int8": 0, load.NO_MODEL: 0,
    }  # fmt: skip


def test_a_model_that_does_not_load_ends_it(models):
    """And leaves no worker waiting for the others."""
    (models / "student-ort" / "model.onnx").write_bytes(b"nothing")
    folders = {name: models / scenario.model for name, scenario in SETTINGS.scenarios.items()}
    with pytest.raises(Exception, match=r"model\.onnx|[Pp]rotobuf"):
        load.run(folders, TEXTS, 2, SETTINGS, seed=0)
