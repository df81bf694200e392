"""The load test as a table and a picture."""

import json
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import LogLocator

from stages.core import model_folder
from stages.core.errors import UserError
from stages.core.settings import LoadTest
from stages.measurement import identity
from stages.measurement.enough import FEWEST
from stages.reporting import evidence
from stages.reporting.figures import COLORS, NARROW, name_ends, save
from stages.reporting.markdown import percent, table_of
from stages.reporting.results import cpu


@dataclass(frozen=True)
class Measured:
    """What the stage `load_test` measured: plans and loads in the process and over HTTP, and the rest."""

    plan: pd.DataFrame
    loads: pd.DataFrame
    http_plan: pd.DataFrame
    http_loads: pd.DataFrame
    service: dict  # what became of the soak's requests, by how the model is run
    machine: dict


RUN_BY = {
    "processes": "With processes that run the model themselves",
    "workers": "With workers that run the model for them (`--workers 1`)",
}


def read() -> Measured:
    """What the stage `load_test` measured.

    A UserError, if a file is missing or damaged, or calibrated/ has another model than was measured.
    """
    folder = Path("load_test")
    for name, digest in evidence.values(folder / "measured.json", ()).items():
        model = model_folder.CALIBRATED / name
        if not model.is_dir() or digest != identity.of_model(model):
            raise UserError(
                f"{folder}/measured.json: {name} is another model than calibrated/{name}: run `dvc repro`"
            )
    optional = ("gain", "p50_ms", "p95_ms", "p99_ms", "hit_rate", "per_core", "per_core_and_day", "cores")
    plan = evidence.table(
        folder / "plan.csv", ("requests_per_second", "load"), optional=optional, key=("scenario",)
    )
    loads = _loads(folder / "loads.csv")
    service = evidence.values(folder / "service.json", ("processes", "workers"))
    machine = evidence.values(
        folder / "machine.json", ("workers", "http_cores", "zipf_exponent", "delays_ms", "left_out")
    )
    if not machine["http_cores"]:
        return Measured(plan, loads, plan[:0], loads[:0], service, machine)
    http_plan = evidence.table(
        folder / "http_plan.csv",
        ("requests_per_second", "load"),
        optional=(*optional[1:4], "p99_ms_in_process", *optional[5:], "machines", "price_an_hour"),
        key=("scenario",),
    )
    return Measured(plan, loads, http_plan, _loads(folder / "http_loads.csv"), service, machine)


def _loads(path: Path) -> pd.DataFrame:
    table = evidence.table(
        path,
        ("offered", "requests"),
        optional=("p50_ms", "p95_ms", "p99_ms"),
        key=("scenario", "load"),
    )
    return table.reset_index().astype({"load": float})


def values(measured: Measured) -> dict:
    """The plans by scenario, null where they are not defined, the service and the machine."""
    steps, http = (json.loads(plan.to_json(orient="index")) for plan in (measured.plan, measured.http_plan))
    return {**steps, "http": http, "service": measured.service, "machine": measured.machine}


def markdown(measured: Measured, params: LoadTest) -> str:
    plan, loads, machine = measured.plan, measured.loads, measured.machine
    columns = ["step", "model", "requests a second", "gain (range)", "p50 / p95 / p99, ms", "cache hits"]
    columns += ["requests a second a core", "requests a day a core, millions", "cores"]
    rows = []
    for name, row in plan.iterrows():
        gain = "–" if pd.isna(row["gain"]) else f"×{row['gain']:.1f}"
        if not pd.isna(row["gain_low"]):
            gain += f" ({row['gain_low']:.1f}–{row['gain_high']:.1f})"
        met = not pd.isna(row["per_core"])
        rows.append(
            [
                str(name),
                params.scenarios[str(name)].model,
                f"{row['requests_per_second']:.0f}",
                gain,
                " / ".join(milliseconds(row[f"p{p}_ms"]) for p in (50, 95, 99)),
                percent(row.get("hit_rate"), 0),
                f"{row['per_core']:.0f}" if met else "none" if late(loads, str(name), params) else "–",
                f"{row['per_core_and_day'] / 1e6:.1f}" if met else "–",
                f"{row['cores']:,.0f}" if met else "–",
            ]
        )
    workers = machine["workers"]
    return table_of(
        columns,
        rows,
        f"{workers} worker processes served at the same time, each on {cpu(machine)}. Requests a second are "
        "those of all workers together, each asked again as soon as it has answered. p50, p95 and p99 are "
        f"the latencies at {percent(plan['load'].iloc[0], 0)} of that rate, with requests that arrive at "
        "random (Poisson), from arrival to answer. Each is the median over rounds and "
        "workers. Of fewer than 100 requests in a round, p99 is nearly the longest. Of fewer than "
        f"{FEWEST} in all, there is no p95 and no p99.",
        "Requests a second a core is the highest rate that was tried with a p99 within "
        f"{params.p99_ms:g} ms. The cores are those that {params.requests_a_day:,.0f} requests a day need, "
        f"at a peak of {params.peak_to_mean:g} times the mean, on cores as fast as these, without the cost "
        "of HTTP. The traffic is the test queries, drawn by Zipf's law with exponent "
        f"{machine['zipf_exponent']:.2f}. Where no model answers, the p99 on this machine is "
        f"{milliseconds(machine['delays_ms'])} ms.",
        *left_out(params, machine),
        *noise(loads, params, machine),
        *(
            f"{RUN_BY[kind]}, the service got {soak['requests']:,} requests, good and bad ones mixed, from "
            "clients on the same cores. One of those that run the model was killed on the way. "
            f"{soak['lost']} requests were lost and {soak['wrong']} were answered wrongly. It answered "
            f"{soak['requests_per_second']:.0f} a second, with a p50 of {milliseconds(soak['p50_ms'])} ms "
            f"and a p99 of {milliseconds(soak['p99_ms'])} ms."
            for kind, soak in measured.service.items()
        ),
        left=2,
    ) + over_http(measured, params)


def over_http(measured: Measured, params: LoadTest) -> str:
    """The same requests as a client of the service sees them, the plan; nothing, if none was served."""
    if measured.http_plan.empty:
        return ""
    columns = ["step, over HTTP", "requests a second a core"]
    columns += [f"requests a second a core within {params.p99_ms:g} ms", "p50 / p95 / p99, ms"]
    columns += ["p99 without HTTP, ms", "cores", "machines", "price an hour"]
    rows = []
    for name, row in measured.http_plan.iterrows():
        met = not pd.isna(row["per_core"])
        rows.append(
            [
                str(name),
                f"{row['requests_per_second']:.0f}",
                f"{row['per_core']:.0f}"
                if met
                else "none"
                if late(measured.http_loads, str(name), params)
                else "–",
                " / ".join(milliseconds(row[f"p{p}_ms"]) for p in (50, 95, 99)),
                milliseconds(row["p99_ms_in_process"]),
                f"{row['cores']:,.0f}" if met else "–",
                f"{row['machines']:,.0f}" if met else "–",
                f"{row['price_an_hour']:,.2f}" if met else "–",
            ]
        )
    cores = measured.machine["http_cores"]
    return "\n" + table_of(
        columns,
        rows,
        f"The service had {cores} of the cores, a process each, and its clients had another if there is "
        "one. The first column is of clients that ask again as soon as they have an answer. The latencies "
        "are at the rate of the second column, or at the lowest that was tried, from a request's arrival, "
        "so that the wait for a free connection counts. A request that is refused or lost counts as one of "
        "30 s. Beside them is the p99 of the same rate in the process. load_test_http.csv has all rates.",
        f"The plan is for {params.requests_a_day:,.0f} requests a day at a peak of {params.peak_to_mean:g} "
        f"times the mean, on machines of {params.machine_cores} such cores that cost "
        f"{params.machine_price:.2f} an hour each (load_test.machine_price, an assumption).",
        left=1,
    )


def milliseconds(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.1f}"


def late(loads: pd.DataFrame, scenario: str, params: LoadTest) -> bool:
    """Whether the lowest load of the scenario is known to have had a p99 over the limit."""
    lowest = loads[loads["scenario"] == scenario].sort_values("load").iloc[0]
    return any(lowest[key] > params.p99_ms for key in ("p50_ms", "p99_ms"))


def left_out(params: LoadTest, machine: dict) -> list[str]:
    """What is said of cached scenarios whose hit rate the test queries cannot give, or just nearly."""
    rate, asked = machine["expected_hit_rate"], percent(params.hit_rate, 0)
    if not any(scenario.cached for scenario in params.scenarios.values()):
        return []
    given = f"The {machine['test_queries']:,} test queries give a cache of {params.cache:,} a hit rate of "
    given += f"{percent(rate, 0)} at the nearest to {asked} (load_test.hit_rate)."
    if machine["left_out"]:
        return [
            f"**Left out: {', '.join(machine['left_out'])}.** {given} A gain from that cache would say "
            "nothing of other traffic. Set load_test.cache lower, or take more test queries."
        ]
    return [given] if abs(rate - params.hit_rate) > 0.01 else []


def noise(loads: pd.DataFrame, params: LoadTest, machine: dict) -> list[str]:
    """A warning if the machine's own delays are near the limit, or if a higher load halves the p99."""
    lines = []
    if machine["delays_ms"] is not None and machine["delays_ms"] > params.p99_ms / 4:
        lines.append(
            "**Too noisy to conclude.** The machine's own delays are more than a quarter of the limit of "
            f"{params.p99_ms:g} ms."
        )
    p99 = loads.sort_values("load").groupby("scenario", sort=False)["p99_ms"]
    falls = p99.apply(lambda ms: (ms < ms.cummax() / 2).any())
    if falls.any():
        lines.append(
            "**Too noisy to conclude.** At a higher load, the p99 of these scenarios is less than half of "
            f"that at a lower load: {', '.join(falls[falls].index)}."
        )
    return lines


def picture(measured: Measured, params: LoadTest, path: Path) -> None:
    """Above, throughput step by step; below, how latency rises with load."""
    plan = measured.plan
    figure, (above, below) = plt.subplots(2, 1, figsize=(NARROW, 8))
    figure.subplots_adjust(hspace=0.35)
    colors = {str(name): COLORS[i % len(COLORS)] for i, name in enumerate(plan.index)}
    rates = plan["requests_per_second"]
    above.barh(range(len(plan)), rates, color=list(colors.values()))
    for i, (_, row) in enumerate(plan.iterrows()):
        label = f"{row['requests_per_second']:,.0f}"
        label += "" if pd.isna(row["gain"]) else f" (×{row['gain']:.1f})"
        label += "" if pd.isna(row["per_core"]) else f", {row['cores']:,.0f} cores"
        above.text(row["requests_per_second"] * 1.08, i, label, va="center")
    above.set_yticks(range(len(plan)), list(plan.index))
    above.invert_yaxis()
    above.set_xscale("log")
    above.set_xlim(rates.min() / 2, rates.max() * 12)
    above.set_xlabel("requests a second, all workers (log scale)")
    above.set_title(
        "Throughput, gain over the step before, and cores for\n"
        f"{params.requests_a_day / 1e6:,.0f} million requests a day",
    )
    ends = []
    markers = dict(zip(plan.index, cycle("os^Dv"), strict=False))
    for loads, line in ((measured.loads, "-"), (measured.http_loads, ":")):
        for name, rows in loads.groupby("scenario", sort=False):
            known = rows[rows["p99_ms"].notna()]
            style = {"marker": markers[name], "color": colors[str(name)], "linestyle": line}
            below.plot(known["offered"], known["p99_ms"], **style)
            if line == "-":
                last = known[["offered", "p99_ms"]].tail(1).to_numpy()
                ends += [(x, y, str(name), style["color"]) for x, y in last]
    below.axhline(params.p99_ms, color="black", linestyle="--", linewidth=1)
    for line, text in (("-", "in the process"), (":", "over HTTP"), ("--", f"limit, {params.p99_ms:g} ms")):
        below.plot([], [], f"k{line}", label=text)
    below.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.15), ncols=3, frameon=False)
    any_known = pd.concat([measured.loads, measured.http_loads])["p99_ms"].notna().any()
    below.set(xscale="log" if any_known else "linear", yscale="log")
    below.set_xlabel("requests a second a core (log scale)")
    below.set_ylabel("99th percentile of latency, ms (log scale)")
    below.set_title("Latency under load, requests arriving at random")
    below.grid(alpha=0.3)
    for axes, subs in ((above, (1,)), (below, (1, 3))):
        if axes.get_xscale() == "log":
            axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    below.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    below.yaxis.set_major_formatter("{x:g}")
    below.yaxis.set_minor_formatter("")
    name_ends(below, ends)
    save(figure, path)
