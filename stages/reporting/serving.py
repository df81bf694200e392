"""What serving costs, as a table and a picture."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import LogLocator

from stages.params import Serve
from stages.reporting.markdown import percent, table_of


def markdown(plan: pd.DataFrame, loads: pd.DataFrame, service: dict, params: Serve, machine: dict) -> str:
    columns = ["step", "model", "requests a second", "gain (range)", "p50 / p95 / p99, ms", "cache hits"]
    columns += ["requests a second a core", "requests a day a core, millions", "cores"]
    rows = []
    for name, row in plan.iterrows():
        gain = f"×{row['gain']:.1f} ({row['gain_low']:.1f}–{row['gain_high']:.1f})"
        met = not pd.isna(row["per_core"])
        rows.append(
            [
                str(name),
                params.scenarios[str(name)].model,
                f"{row['requests_per_second']:.0f}",
                "–" if pd.isna(row["gain"]) else gain,
                " / ".join(f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
                percent(row.get("hit_rate"), 0),
                f"{row['per_core']:.0f}" if met else "none",
                f"{row['per_core_and_day'] / 1e6:.1f}" if met else "–",
                f"{row['cores']:,.0f}" if met else "–",
            ]
        )
    workers = machine["workers"]
    return table_of(
        columns,
        rows,
        f"{workers} worker(s), one thread each, on {machine['cores']} cores ({machine['cpu']}; int8 "
        f"instructions: {', '.join(machine['int8_instructions']) or 'none'}). Requests a second: of all "
        "workers, each asked again once it has answered. p50, p95, p99: at "
        f"{percent(plan['load'].iloc[0], 0)} of that, arriving at random (Poisson), from a request's arrival "
        "to its answer, the median over rounds (of fewer than 100 requests in one, p99 is nearly the "
        "longest). A core: the most that was tried with a p99 within "
        f"{params.p99_ms:g} ms. Cores: for {params.requests_a_day:,.0f} requests a day at a peak "
        f"{params.peak_to_mean:g} times the mean, if load spreads evenly over cores as fast as these, HTTP "
        "not included. Traffic: queries of the test split by Zipf's law, exponent "
        f"{machine['zipf_exponent']:.2f}. Arrivals that no model answers take this machine a p99 of "
        f"{machine['delays_ms']:.1f} ms.",
        *noise(loads, params, machine),
        f"The HTTP service with {workers} worker(s) over a socket, its clients on the same cores: "
        f"{service['requests']:,} requests, good and bad ones mixed, {service['workers_killed']} worker "
        f"killed on the way: {service['lost']} lost, {service['wrong']} answered wrongly; "
        f"{service['requests_per_second']:.0f} a second, p50 {service['p50_ms']:.1f}, p99 "
        f"{service['p99_ms']:.1f} ms.",
        left=2,
    )


def noise(loads: pd.DataFrame, params: Serve, machine: dict) -> list[str]:
    """A warning, where the limit is near the machine's own delays, or a higher load halves the p99."""
    lines = []
    if machine["delays_ms"] > params.p99_ms / 4:
        lines.append(
            "**Too noisy to conclude** from latencies under load: the machine's own delays are more than a "
            f"quarter of the limit of {params.p99_ms:g} ms."
        )
    p99 = loads.sort_values("load").groupby("scenario", sort=False)["p99_ms"]
    falls = p99.apply(lambda ms: (ms < ms.cummax() / 2).any())
    if falls.any():
        lines.append(
            f"**Too noisy to conclude** from the latencies of {', '.join(falls[falls].index)}: one of them "
            "is less than half of that at a lower load."
        )
    return lines


def picture(plan: pd.DataFrame, loads: pd.DataFrame, params: Serve, path: Path) -> None:
    """Throughput step by step, and how latency rises with load."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
    colors = {name: f"C{i}" for i, name in enumerate(plan.index)}
    rates = plan["requests_per_second"]
    left.barh(range(len(plan)), rates, color=list(colors.values()))
    for i, (_, row) in enumerate(plan.iterrows()):
        label = f"{row['requests_per_second']:,.0f}"
        label += "" if pd.isna(row["gain"]) else f" (×{row['gain']:.1f})"
        label += "" if pd.isna(row["per_core"]) else f", {row['cores']:,.0f} cores"
        left.text(row["requests_per_second"] * 1.08, i, label, va="center", fontsize=9)
    left.set_yticks(range(len(plan)), list(plan.index))
    left.invert_yaxis()
    left.set_xscale("log")
    left.set_xlim(rates.min() / 2, rates.max() * 40)
    left.set_xlabel("requests a second, all workers (log scale)")
    left.set_title(
        f"Throughput, gain over the step before,\nand cores for {params.requests_a_day / 1e6:,.0f} million "
        "requests a day",
        fontsize=10,
    )
    for name, rows in loads.groupby("scenario", sort=False):
        right.plot(rows["offered"], rows["p99_ms"], marker="o", color=colors[str(name)], label=name)
    right.axhline(params.p99_ms, color="black", linestyle="--", linewidth=1)
    right.annotate(f"limit, {params.p99_ms:g} ms", (0.01, params.p99_ms), (0, 3), va="bottom", ha="left",
                   xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=9)  # fmt: skip
    right.set(xscale="log", yscale="log")
    right.set_xlabel("requests a second a core (log scale)")
    right.set_ylabel("99th percentile of latency, ms (log scale)")
    right.set_title("Latency under load, requests arriving at random", fontsize=10)
    right.grid(alpha=0.3)
    right.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    for axes in (left, right):
        axes.xaxis.set_major_formatter("{x:g}")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter("")
    figure.savefig(path, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
