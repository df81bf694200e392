"""The experiments of a sweep as a table, and as a heat map of the first two of its params.

    python -m stages.sweep distill.alpha distill.temperature --model distilled

Takes the experiments of this commit that `dvc exp show` lists, and the validation accuracy that each one's
`evaluate@<model>` found. Writes sweep.csv, sweep.md and sweep.png, or another `--name`, to <report.folder>.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from stages import params
from stages.atomic import replacing
from stages.errors import UserError, command
from stages.reporting.markdown import percent, table_of


def collect(names: list[str], model: str) -> pd.DataFrame:
    """A row an experiment: `experiment`, the params of those `names`, `validation_accuracy`, `size_mb`."""
    import dvc.api
    from dvc.exceptions import DvcException

    rows = []
    for found in dvc.api.exp_show():
        unknown = [name for name in names if name not in found]
        if unknown:
            raise UserError(f"there is no param {unknown[0]!r} in params.yaml")
        if found["Experiment"] is None or found["State"] not in (None, "Success"):
            continue
        try:
            evaluation = json.loads(dvc.api.read(f"evaluations/{model}.json", rev=found["rev"]))
        except (DvcException, OSError):
            continue
        rows.append(
            {
                "experiment": found["Experiment"],
                **{name: found[name] for name in names},
                "validation_accuracy": evaluation["validation"]["accuracy"],
                "size_mb": evaluation["sizes"]["size_mb"],
            }
        )
    if not rows:
        raise UserError(
            f"no experiment of this commit has evaluated {model}: see dvc exp show, dvc queue status"
        )
    return pd.DataFrame(rows).sort_values(names, ignore_index=True)


def shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def markdown(table: pd.DataFrame, names: list[str], model: str) -> str:
    best = table["validation_accuracy"].max()
    rows = [
        [
            f"**{row['experiment']}**" if row["validation_accuracy"] == best else row["experiment"],
            *(shown(row[name]) for name in names),
            percent(row["validation_accuracy"], 2),
            f"{row['size_mb']:.1f}",
        ]
        for _, row in table.iterrows()
    ]
    return table_of(
        ["experiment", *names, "validation accuracy", "size, MB"],
        rows,
        f"{model}. Bold: the most accurate. `dvc exp apply <experiment>` makes one the workspace.",
    )


def heat_map(table: pd.DataFrame, names: list[str], model: str, path: Path) -> None:
    """Validation accuracy by the first (rows) and the second of the params; the mean over the others."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    cells = 100 * table.pivot_table("validation_accuracy", *names[:2])
    figure, axes = plt.subplots(figsize=(2.5 + 1.1 * cells.shape[1], 1.8 + 0.8 * cells.shape[0]))
    axes.imshow(cells, cmap="viridis", aspect="auto")
    for i, row in enumerate(cells.to_numpy()):
        for j, value in enumerate(row):
            color = "white" if value < cells.stack().median() else "black"
            axes.text(j, i, "" if pd.isna(value) else f"{value:.2f}", ha="center", va="center", color=color)
    axes.set_yticks(range(len(cells.index)), [shown(value) for value in cells.index])
    axes.set_xticks(range(len(cells.columns)), [shown(value) for value in cells.columns])
    axes.set_ylabel(names[0])
    axes.set_xlabel(names[1])
    axes.set_title(f"Validation accuracy of {model}, %")
    figure.savefig(path, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


@command
def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(
        prog="python -m stages.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("params", nargs="+", help="two or more that were varied, as distill.alpha")
    parser.add_argument("--model", required=True, help="whose accuracy, as distilled")
    parser.add_argument("--name", default="sweep", help="of the files to write")
    arguments = parser.parse_args(argv)
    if len(arguments.params) < 2:
        raise UserError("name two params or more, as distill.alpha distill.temperature")
    folder = Path(params.load().report.folder)
    table = collect(arguments.params, arguments.model)
    text = markdown(table, arguments.params, arguments.model)
    for suffix, write in (
        ("csv", lambda path: table.to_csv(path, index=False, float_format="%.6g")),
        ("md", lambda path: path.write_text(text)),
        ("png", lambda path: heat_map(table, arguments.params, arguments.model, path)),
    ):
        with replacing(folder / f"{arguments.name}.{suffix}") as scratch:
            write(scratch)
    print(text)


if __name__ == "__main__":
    main()
