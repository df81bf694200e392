import math

import pandas as pd
import pytest

from stages.core import settings
from stages.serving import capacity

SCENARIOS = {
    "slow": {"model": "teacher"},
    "fast": {"model": "small"},
    "known": {"model": "small", "cached": True},
}
SERVE = settings.load().load_test.model_copy(
    update={
        "scenarios": {name: settings.Scenario(**values) for name, values in SCENARIOS.items()},
        "rounds": 1,
        "seconds": 0.5,
        "loads": [0.5, 0.8],
        "requests_a_day": 1e9,
        "peak_to_mean": 2.0,
        "p99_ms": 20.0,
    }
)


@pytest.fixture
def times():
    """Two workers, three rounds. `slow` takes 50 ms and `fast` 2; in the second round, all twice that."""
    rows = [
        (step, scenario, 0.0, worker, (2 if step == 1 else 1) * ms, False)
        for step in range(3)
        for scenario, ms in (("slow", 50.0), ("fast", 2.0), ("known", 1.0))
        for worker in range(2)
        for _ in range(4)
    ]
    for scenario, load, latencies in (
        ("slow", 0.5, [60.0] * 10),
        ("slow", 0.8, [90.0] * 16),
        ("fast", 0.5, [2.0] * 245 + [19.0] * 5),
        ("fast", 0.8, [3.0] * 392 + [21.0] * 8),
        ("known", 0.5, [1.0] * 500),
        ("known", 0.8, [2.0] * 800),
    ):
        rows += [(3, scenario, load, 0, ms, scenario == "known") for ms in latencies]
    rows += [(i, "no model", 1.0, 0, ms, False) for i in range(3) for ms in [0.1] * 99 + [[9.0, 2.0, 3.0][i]]]
    return pd.DataFrame(rows, columns=["round", "scenario", "load", "worker", "ms", "hit"])


def test_throughput(times):
    rates = capacity.throughput(times)
    assert rates["slow"].tolist() == [40, 20, 40]
    assert rates["fast"].tolist() == [1000, 500, 1000]


def test_under_load(times):
    loads = capacity.under_load(times, SERVE).set_index(["scenario", "load"])
    assert loads["offered"].to_dict() == {
        ("slow", 0.5): 10, ("slow", 0.8): 16, ("fast", 0.5): 250, ("fast", 0.8): 400,
        ("known", 0.5): 500, ("known", 0.8): 800,
    }  # fmt: skip
    row = loads.loc[("fast", 0.8)]
    assert (row["requests"], row["p50_ms"], row["p99_ms"]) == (400, 3, 21)


def test_plan(times):
    plan = capacity.plan(times, capacity.under_load(times, SERVE), SERVE)
    assert plan["requests_per_second"].to_dict() == {"slow": 40, "fast": 1000, "known": 2000}
    assert math.isnan(plan["gain"]["slow"])
    assert plan.loc["fast", ["gain", "gain_low", "gain_high"]].tolist() == [25, 25, 25]  # in every round
    assert plan["gain"]["known"] == 2
    assert plan["p99_ms"]["fast"] == 21 and plan["load"]["fast"] == 0.8
    assert plan["hit_rate"].tolist()[2] == pytest.approx(1300 / 1324)
    # 250 a second is the most that `fast` answers in time.
    assert plan["per_core"].tolist() == pytest.approx([math.nan, 250, 800], nan_ok=True)
    assert plan["per_core_and_day"]["fast"] == 250 * 86400 / 2
    assert plan["cores"].tolist() == pytest.approx([math.nan, 93, 29], nan_ok=True)
    assert 92 < 1e9 / (250 * 86400 / 2) < 93


def test_a_load_above_one_that_was_too_much_does_not_count(times):
    """Answered in time by chance, where a lower one was not."""
    times.loc[(times["scenario"] == "fast") & (times["load"] == 0.5), "ms"] = 30.0
    times.loc[(times["scenario"] == "fast") & (times["load"] == 0.8), "ms"] = 1.0
    plan = capacity.plan(times, capacity.under_load(times, SERVE), SERVE)
    assert math.isnan(plan["per_core"]["fast"])


def test_http_plan_has_the_latencies_of_the_highest_rate_in_time(times):
    loads = capacity.under_load(times, SERVE)
    fast, known = 0.5, 0.8  # slow: never in time, so the lowest
    plan = capacity.http_plan(times, loads, loads.assign(p99_ms=loads["load"]), SERVE, cores=1)
    assert plan["load"].to_dict() == {"fast": fast, "known": known, "slow": 0.5}
    assert plan["p99_ms_in_process"].dropna().to_dict() == {"fast": fast, "known": known}
    assert plan["p99_ms"].dropna().to_dict() == {"fast": 19, "known": 2}


def test_one_scenario(times):
    """Nothing to gain over, no cache, no load that is low enough: all columns all the same."""
    serve = SERVE.model_copy(update={"scenarios": {"slow": SERVE.scenarios["slow"]}})
    plan = capacity.plan(times, capacity.under_load(times, serve), serve)
    assert plan.columns.tolist() == capacity.COLUMNS
    assert plan.loc["slow", ["gain", "hit_rate", "per_core", "cores"]].isna().all()


def test_a_stalled_round_falls_out(times):
    """Of three rounds, one in which the machine stood still."""
    rows = times[(times["scenario"] == "known") & (times["load"] == 0.5)]
    more = [rows.assign(round=4, ms=500.0), rows.assign(round=5)]
    loads = capacity.under_load(pd.concat([times, *more]), SERVE).set_index(["scenario", "load"])
    assert loads.loc[("known", 0.5), "p99_ms"] == 1
    assert loads.loc[("known", 0.5), "requests"] == 1500


def test_too_few_requests_have_no_percentiles(times):
    """`slow` had 10 and 16 requests, of which p99 is the longest; nothing can be told in time from those."""
    loads = capacity.under_load(times, SERVE)
    shown = capacity.with_enough(loads).set_index(["scenario", "load"])
    assert shown.loc["slow", ["p95_ms", "p99_ms"]].isna().all(axis=None)
    assert shown.loc["slow", "p50_ms"].tolist() == [60, 90]
    assert shown.loc[["fast", "known"]].equals(loads.set_index(["scenario", "load"]).loc[["fast", "known"]])
    plan = capacity.plan(times, loads, SERVE.model_copy(update={"p99_ms": 100.0}))
    assert plan.loc["slow", ["p95_ms", "p99_ms", "per_core", "cores"]].isna().all()
    assert capacity.delays(times[times["scenario"] != "no model"]) is None


def test_one_round_has_no_range(times):
    plan = capacity.plan(times[times["round"].isin([0, 3])], capacity.under_load(times, SERVE), SERVE)
    assert plan["gain"]["fast"] == 25 and plan.loc["fast", ["gain_low", "gain_high"]].isna().all()


def test_delays(times):
    """Of three rounds, each 100 arrivals and one of them late: 1% of the way from 0.1 ms to how late."""
    assert capacity.delays(times) == pytest.approx(0.1 + 0.01 * 2.9)
