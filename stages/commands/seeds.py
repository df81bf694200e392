"""Mean and spread over seeds."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.core.atomic import write_text
from stages.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("accuracy", "accuracy_calibrated", "accuracy_in_scope_calibrated", "oos_recall_calibrated")


def collect(folder: Path) -> "pd.DataFrame":
    """`model`, `measure`, and over the seeds: `seeds` (how many), `mean`, `std`, `min`, `max`."""
    import pandas as pd

    reports = sorted(folder.glob("seed-*/tables/results.csv"))
    if len(reports) < 2:
        raise UserError(
            f"{folder} has {len(reports)} seed-*/tables/results.csv, and a spread takes two: "
            "run experiment=clinc150-seeds with several seeds"
        )
    results = pd.concat([pd.read_csv(report) for report in reports])
    measures = [name for name in results if name.startswith(("accuracy", "oos"))]  # speed has no seed
    table = results.melt("model", measures, "measure", "value")
    order = {model: i for i, model in enumerate(results["model"].unique())}
    table = table.sort_values("model", key=lambda models: models.map(order), kind="stable")
    by = table.groupby(["model", "measure"], sort=False)["value"]
    return by.agg(seeds="count", mean="mean", std="std", min="min", max="max").reset_index()


def markdown(spread: "pd.DataFrame") -> str:
    """A row a model: mean ± standard deviation of the headline measures."""
    from stages.reporting.markdown import table_of

    columns = ["model", *(measure.replace("_", " ") for measure in COLUMNS)]
    rows = [
        [str(model), *(f"{100 * of['mean'][m]:.2f}% ± {100 * of['std'][m]:.2f}" for m in COLUMNS)]
        for model, of in spread.set_index("measure").groupby("model", sort=False)
    ]
    seeds = spread["seeds"].max()
    return table_of(columns, rows, f"Test split, mean ± standard deviation over {seeds} seeds.")


@click.command
@click.argument("folder", type=click.Path(path_type=Path))
def command(folder: Path):
    """Write the mean and spread of accuracies over seeds.

    FOLDER has a report for each seed, in seed-0, seed-1, … It gets seeds.csv, with a row for each model and
    measure, and seeds.md, the table that people read.

    \b
    for seed in 0 1 2; do dvc exp run -S experiment=clinc150-seeds -S seed=$seed report; done
    intents seeds metrics/clinc150
    """
    spread = collect(folder)
    write_text(folder / "seeds.csv", spread.to_csv(index=False, float_format="%.4f"))
    write_text(folder / "seeds.md", markdown(spread))
    click.echo(markdown(spread))
