"""The experiments of a sweep as a table and a heat map."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.core.atomic import replacing, write_text
from stages.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def collect(names: list[str], model: str) -> "pd.DataFrame":
    """A row an experiment: `experiment`, the params of those `names`, `validation_accuracy`, `size_mb`."""
    import dvc.api
    import pandas as pd
    from dvc.exceptions import DvcException

    rows = []
    for experiment in dvc.api.exp_show():
        unknown = [name for name in names if name not in experiment]
        if unknown:
            raise UserError(f"there is no param {unknown[0]!r} in params.yaml")
        if experiment["Experiment"] is None or experiment["State"] not in (None, "Success"):
            continue
        try:
            evaluation = json.loads(dvc.api.read(f"evaluations/{model}/accuracy.json", rev=experiment["rev"]))
        except (DvcException, OSError):
            continue
        rows.append(
            {
                "experiment": experiment["Experiment"],
                **{name: experiment[name] for name in names},
                "validation_accuracy": evaluation["validation"]["accuracy"],
                "size_mb": evaluation["sizes"]["size_mb"],
            }
        )
    if not rows:
        raise UserError(
            f"no experiment of this commit has evaluated {model}: see dvc exp show, dvc queue status"
        )
    return pd.DataFrame(rows).sort_values(names, ignore_index=True)


def text_of(value: object) -> str:
    if value is None or value != value:  # NaN, where an experiment has not the param
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def markdown(table: "pd.DataFrame", names: list[str], model: str) -> str:
    from stages.reporting.markdown import percent, table_of

    best = table["validation_accuracy"].max()
    rows = [
        [
            f"**{row['experiment']}**" if row["validation_accuracy"] == best else row["experiment"],
            *(text_of(row[name]) for name in names),
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


def heat_map(table: "pd.DataFrame", names: list[str], model: str, path: Path) -> None:
    """Validation accuracy by the first (rows) and the second of the params; the mean over the others."""
    import pandas as pd

    from stages.reporting.figures import plt, save

    cells = 100 * table.pivot_table("validation_accuracy", *names[:2])
    figure, axes = plt.subplots(figsize=(2.5 + 1.1 * cells.shape[1], 1.8 + 0.8 * cells.shape[0]))
    axes.imshow(cells, cmap="viridis", aspect="auto")
    for i, row in enumerate(cells.to_numpy()):
        for j, value in enumerate(row):
            color = "white" if value < cells.stack().median() else "black"
            axes.text(j, i, "" if pd.isna(value) else f"{value:.2f}", ha="center", va="center", color=color)
    axes.set_yticks(range(len(cells.index)), [text_of(value) for value in cells.index])
    axes.set_xticks(range(len(cells.columns)), [text_of(value) for value in cells.columns])
    axes.set_ylabel(names[0])
    axes.set_xlabel(names[1])
    axes.set_title(f"Validation accuracy of {model}, %")
    save(figure, path)


@click.command
@click.argument("params", nargs=-1, required=True)
@click.option("--model", required=True, help="The model whose accuracy counts.")
@click.option("--name", default="sweep", show_default=True, help="Of the files to write.")
def command(params: tuple[str, ...], model: str, name: str):
    """Write the experiments of a sweep as a table.

    The experiments are those of this commit that `dvc exp show` lists. The report's folder gets sweep.csv,
    sweep.md, and sweep.png, a heat map of the first two of the PARAMS.

    \b
    intents sweep distill.alpha distill.temperature --model distilled
    """
    if len(params) < 2:
        raise UserError("name two params or more, such as distill.alpha distill.temperature")
    from stages.core import settings

    folder = Path(settings.load().report.folder)
    table = collect(list(params), model)
    text = markdown(table, list(params), model)
    write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    write_text(folder / f"{name}.md", text)
    with replacing(folder / f"{name}.png") as scratch:
        heat_map(table, list(params), model, scratch)
    click.echo(text)
