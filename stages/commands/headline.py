"""The headline: for each row of limits, the model that validation chooses, over seeds and one benchmark."""

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from stages.core.errors import UserError
from stages.core.settings import Limits
from stages.reporting import evidence
from stages.reporting.markdown import table_of
from stages.reporting.results import cpu
from stages.reporting.selection import ACCURACY
from stages.reporting.summary import MACHINE

MEASURES = ("accuracy_calibrated", "accuracy_in_scope_calibrated", "oos_recall_calibrated")
SPEEDUP = "speedup_over_bert_base"
LATENCIES = tuple(f"latency_{key}_ms" for key in ("mean", "p50", "p95", "p99"))
SPEEDS = (SPEEDUP, f"{SPEEDUP}_low", f"{SPEEDUP}_high", *LATENCIES)
MARKS = re.compile(r"(<!-- headline of (?P<folder>\S+) -->\n).*?(<!-- end of headline -->)", re.DOTALL)


def choose(folder: Path, rows: Mapping[str, Limits]) -> dict[str, dict]:
    """By name, the `limits` of each of `rows`, its `model` and the model's numbers.

    A row takes, of the models within its limits, the one with the highest mean of ACCURACY over the seeds.
    `model` is None where no model is within them. ACCURACY and MEASURES are from the reports folder/seed-*:
    mean and standard deviation over the seeds, or None where a seed has not defined the measure. `size_mb` is
    the largest of a seed, in MB of 2^20 bytes. Latencies and speed-ups are from the benchmark of `folder`.
    Models that it has not timed are no candidates.
    """
    reports = sorted(folder.glob("seed-*/tables/results.csv"))
    numbers = ("size_mb", ACCURACY, MEASURES[0])
    seeds = pd.concat([evidence.table(report, numbers, optional=MEASURES[1:]) for report in reports])
    by_model = seeds.groupby(level="model", sort=False)
    means, largest = by_model[ACCURACY].mean(), by_model["size_mb"].max()
    timed = evidence.table(folder / "tables" / "results.csv", SPEEDS)
    machine = evidence.values(folder / "tables" / "machine.json", MACHINE)
    timed = timed.loc[[name for name in timed.index if name in means.index]]
    headline: dict[str, dict] = {}
    for row, limits in rows.items():
        within = (largest[timed.index] <= limits.size_mb) & (timed[SPEEDUP] >= limits.speedup)
        within &= timed[f"{SPEEDUP}_low"] >= (limits.speedup_low or 0)
        candidates = means[timed.index[within]]
        headline[row] = {"limits": limits.model_dump(exclude_none=True), "model": None}
        if len(candidates):
            name = str(candidates.idxmax())
            headline[row] |= {
                "model": name,
                "seeds": [_seed(report.parents[1]) for report in reports],
                **{key: _spread(seeds[key][[name]]) for key in (ACCURACY, *MEASURES)},
                "size_mb": round(float(largest[name]), 4),
                **{key: round(float(timed[key][name]), 4) for key in SPEEDS},
                "machine": {key: machine[key] for key in MACHINE},
            }
    return headline


def _seed(report: Path) -> int:
    try:
        return int(report.name.removeprefix("seed-"))
    except ValueError:
        raise UserError(f"{report} is not named after a seed, as seed-0 is: rename or remove it") from None


def _spread(values: pd.Series) -> dict[str, float] | None:
    if values.isna().any():
        return None
    return {"mean": round(float(values.mean()), 4), "std": round(float(values.std()), 4)}


def markdown(headline: dict[str, dict], folder: str) -> str:
    """The table that people read, of headline.json in `folder`."""
    columns = ["", "model", "accuracy", "in scope", "out-of-scope recall", "size, MB"]
    columns += ["latency, mean (p50, p95, p99), ms", "speed-up (95%)"]
    rows = []
    for row, of in headline.items():
        limits = of["limits"]
        named = f"**{row}**, ≤ {limits['size_mb']:g} MB, ≥ ×{limits['speedup']:g}"
        if of["model"] is None:
            rows.append([named, "none is within the limits", *"––––––"])
            continue
        mean, *tails = (f"{of[key]:.2f}" for key in LATENCIES)
        low, high = (f"{of[key]:.0f}" for key in SPEEDS[1:3])
        rows.append(
            [
                named,
                of["model"],
                *(_percents(of[key]) for key in MEASURES),
                f"{of['size_mb']:.1f}",
                f"{mean} ({', '.join(tails)})",
                f"×{of[SPEEDUP]:.0f} ({low}–{high})",
            ]
        )
    made = next((of for of in headline.values() if of["model"]), None)
    notes = []
    if made:
        seeds = ", ".join(map(str, made["seeds"]))
        notes = [
            f"Test split, calibrated, mean ± standard deviation over seeds {seeds}, each with its own "
            "teacher. The models were chosen on validation. Latency and the speed-up over BERT-base's shape "
            f"are those of test queries, one at a time, with tokenization, on {cpu(made['machine'])}. "
            f"[headline.json]({folder}/headline.json) has the numbers."
        ]
    return table_of(columns, rows, *notes, left=2)


def _percents(spread: dict[str, float] | None) -> str:
    return "–" if spread is None else f"{100 * spread['mean']:.1f} ± {100 * spread['std']:.1f}%"


def between_marks(text: str, folder: str, table: str) -> str:
    """`text` with `table` between the marks that name `folder`, if it has them."""
    return MARKS.sub(
        lambda match: f"{match[1]}\n{table}\n{match[3]}" if match["folder"] == folder else match[0], text
    )
