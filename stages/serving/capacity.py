"""From load to a plan: how many cores a day's requests take."""

import math

import pandas as pd

from stages.core.settings import LoadTest
from stages.measurement.enough import FEWEST
from stages.serving.load import FULL, NO_MODEL

COLUMNS = ["requests_per_second", "gain", "gain_low", "gain_high", "load", "p50_ms", "p95_ms", "p99_ms"]
TAIL = ["p95_ms", "p99_ms"]
COLUMNS += ["hit_rate", "per_core", "per_core_and_day", "cores"]
HTTP_COLUMNS = [
    "model",
    "requests_per_second",
    "load",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "p99_ms_in_process",
    "per_core",
]
HTTP_COLUMNS += ["per_core_and_day", "cores", "machines", "price_an_hour"]
DAY = 24 * 60 * 60


def throughput(times: pd.DataFrame) -> pd.DataFrame:
    """Requests a second of all workers together, a row a round and a column a scenario."""
    by = times[times["load"] == FULL].groupby(["round", "scenario", "worker"])["ms"]
    return (1000 / by.mean()).groupby(["round", "scenario"]).sum().unstack()


def under_load(times: pd.DataFrame, params: LoadTest, cores: int | None = None) -> pd.DataFrame:
    """A row for each scenario of `times` and load, with so many `cores`, if not one a worker.

    `offered` are the requests a second a core that came, `requests` all that came. `p50_ms`, `p95_ms` and
    `p99_ms` are each the median over rounds and workers of that percentile, so that what stalls the machine
    in fewer than half of them falls out.
    """
    seconds = params.seconds * params.rounds * (cores or times["worker"].nunique())
    rows = []
    for name in [name for name in params.scenarios if name in set(times["scenario"])]:
        for load in params.loads:
            came = times[(times["scenario"] == name) & (times["load"] == load)]
            ms = came.groupby(["round", "worker"])["ms"]
            percentiles = {f"p{q}_ms": ms.quantile(q / 100).median() for q in (50, 95, 99)}
            row = {"scenario": name, "load": load, "offered": len(came) / seconds, "requests": len(came)}
            rows.append(row | percentiles)
    return pd.DataFrame(rows)


def with_enough(loads: pd.DataFrame) -> pd.DataFrame:
    """`loads` without the p95 and p99 of fewer than FEWEST requests."""
    return loads.assign(**{key: loads[key].where(loads["requests"] >= FEWEST) for key in TAIL})


def delays(times: pd.DataFrame) -> float | None:
    """The 99th percentile, in ms, of the machine's own delays: under_load's of NO_MODEL.

    None of fewer than FEWEST.
    """
    idle = times[times["scenario"] == NO_MODEL]
    if len(idle) < FEWEST:
        return None
    return float(idle.groupby(["round", "worker"])["ms"].quantile(0.99).median())


def plan(times: pd.DataFrame, loads: pd.DataFrame, params: LoadTest) -> pd.DataFrame:
    """A row for each scenario.

    `requests_per_second` of all workers together, as fast as they can; `gain` over the scenario before,
    the median of the ratios within a round, and their range, if there are two rounds; latencies at the middle
    one of the loads; `hit_rate` of the cache. `per_core`, the most requests a second a core that were offered
    and, as were all fewer, answered with a 99th percentile within `params.p99_ms`; with that,
    `per_core_and_day` at a peak `params.peak_to_mean` times the mean, and `cores` for
    `params.requests_a_day`. NaN, where no load was low enough, and of fewer than FEWEST requests.
    """
    rates = throughput(times)
    rows = []
    before = None
    for name, scenario in params.scenarios.items():
        row = {"scenario": name, "requests_per_second": rates[name].median()}
        if before is not None:
            ratios = rates[name] / rates[before]
            row["gain"] = ratios.median()
            if len(ratios) > 1:
                row["gain_low"], row["gain_high"] = ratios.min(), ratios.max()
        before = name
        mine = loads[loads["scenario"] == name].sort_values("load")
        middle = with_enough(mine).iloc[len(mine) // 2]
        row |= {key: middle[key] for key in ("load", "p50_ms", "p95_ms", "p99_ms")}
        if scenario.cached:
            row["hit_rate"] = times.loc[times["scenario"] == name, "hit"].mean()
        rows.append(row | needs(mine, params))
    table = pd.DataFrame(rows).set_index("scenario")
    return table.reindex(columns=COLUMNS)


def in_time(loads: pd.DataFrame, params: LoadTest) -> pd.DataFrame:
    """Those of the `loads` of one scenario that are answered in time, as are all that are lower."""
    kept = (loads["p99_ms"] <= params.p99_ms).cummin() & (loads["requests"] >= FEWEST)
    return loads[kept]


def needs(loads: pd.DataFrame, params: LoadTest) -> dict[str, float]:
    """`per_core`, `per_core_and_day` and `cores`, as `plan` has them, of the `loads` of one scenario."""
    per_core = in_time(loads, params)["offered"].max()
    found = {"per_core": per_core, "per_core_and_day": per_core * DAY / params.peak_to_mean}
    if not math.isnan(per_core):
        found["cores"] = math.ceil(params.requests_a_day / found["per_core_and_day"])
    return found


def http_plan(
    times: pd.DataFrame, http_loads: pd.DataFrame, loads: pd.DataFrame, params: LoadTest, cores: int
) -> pd.DataFrame:
    """A row for each scenario that was served over HTTP, on so many `cores`: the columns of `plan`.

    `requests_per_second` a core, as fast as it can; latencies at the highest load that is answered in time,
    or the lowest of all; `p99_ms_in_process`, of the same rate without HTTP, from `loads`. `machines` of
    `params.machine_cores` have the `cores`, and cost `price_an_hour` together.
    """
    full = times[times["load"] == FULL].groupby(["scenario", "round"])["ms"].size()
    rows = []
    for name, mine in http_loads.groupby("scenario", sort=False):
        mine = mine.sort_values("load")
        highest = [mine.index[0], *in_time(mine, params).index][-1]
        shown = with_enough(mine).loc[highest]
        row = {
            "scenario": name,
            "model": params.scenarios[str(name)].model,
            "requests_per_second": full[name].median() / params.seconds / cores,
            **{key: shown[key] for key in ("load", "p50_ms", "p95_ms", "p99_ms")},
        }
        same = (loads["scenario"] == name) & (loads["load"] == shown["load"])
        row["p99_ms_in_process"] = with_enough(loads)[same]["p99_ms"].iloc[0]
        row |= needs(mine, params)
        if "cores" in row:
            row["machines"] = math.ceil(row["cores"] / params.machine_cores)
            row["price_an_hour"] = row["machines"] * params.machine_price
        rows.append(row)
    table = pd.DataFrame(rows, columns=["scenario", *HTTP_COLUMNS])
    return table.set_index("scenario")
