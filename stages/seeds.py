"""Mean and spread over seeds: the reports <folder>/seed-*/summary.json, side by side.

    python -m stages.seeds metrics/clinc150

Writes <folder>/seeds.csv, a row for each model and measure, and seeds.md, the table that people read.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from stages.atomic import replacing
from stages.errors import UserError, command

SHOWN = (
    "accuracy",
    "accuracy_calibrated",
    "accuracy_in_scope_calibrated",
    "oos_recall_calibrated",
)


def collect(folder: Path) -> pd.DataFrame:
    """`model`, `measure`, and over the seeds: `seeds` (how many), `mean`, `std`, `min`, `max`."""
    reports = sorted(folder.glob("seed-*/summary.json"))
    if len(reports) < 2:
        raise UserError(
            f"{folder} has {len(reports)} seed-*/summary.json, and a spread takes two: "
            "run experiment=clinc150-seeds with several seeds"
        )
    values = [
        (model, measure, value)
        for report in reports
        for model, row in json.loads(report.read_text()).items()
        for measure, value in row.items()
        if measure.startswith(("accuracy", "oos"))  # speed does not hang on the seed
    ]
    table = pd.DataFrame(values, columns=["model", "measure", "value"])
    by = table.groupby(["model", "measure"], sort=False)["value"]
    return by.agg(seeds="count", mean="mean", std="std", min="min", max="max").reset_index()


def markdown(spread: pd.DataFrame) -> str:
    """A row a model: mean ± standard deviation of the headline measures."""
    columns = " | ".join(measure.replace("_", " ") for measure in SHOWN)
    lines = [f"| model | {columns} |", "|---|" + "---:|" * len(SHOWN)]
    for model, rows in spread.set_index("measure").groupby("model", sort=False):
        cells = [f"{100 * rows['mean'][m]:.2f}% ± {100 * rows['std'][m]:.2f}" for m in SHOWN]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    seeds = spread["seeds"].max()
    return "\n".join([*lines, "", f"Test split, mean ± standard deviation over {seeds} seeds.", ""])


@command
def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(prog="python -m stages.seeds", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a folder with reports in seed-<n>/")
    folder = parser.parse_args(argv).folder
    spread = collect(folder)
    for name, text in (
        ("seeds.csv", spread.to_csv(index=False, float_format="%.4f")),
        ("seeds.md", markdown(spread)),
    ):
        with replacing(folder / name) as scratch:
            scratch.write_text(text)
    print(markdown(spread))


if __name__ == "__main__":
    main()
