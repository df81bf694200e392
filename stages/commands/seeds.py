"""Mean and spread over seeds, and the headline."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.core.atomic import write_json, write_text
from stages.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("accuracy", "oos")  # what the names of measures begin with that a seed decides; speed has no seed
COLUMNS = ("accuracy", "accuracy_calibrated", "accuracy_in_scope_calibrated", "oos_recall_calibrated")

OPTIONAL = (*COLUMNS[2:], "accuracy_in_scope", "oos_recall", "oos_precision", "oos_precision_calibrated")


def collect(folder: Path) -> "pd.DataFrame":
    """`model`, `measure`, and over the seeds: `seeds` (how many), `mean`, `std`, `min`, `max`.

    A measure that a seed has not defined counts in fewer `seeds`. Every seed has the same rows and columns,
    or a UserError names the report that lacks one.
    """
    import pandas as pd

    from stages.reporting import evidence

    reports = sorted(folder.glob("seed-*/tables/results.csv"))
    if len(reports) < 2:
        raise UserError(
            f"{folder} has {len(reports)} seed-*/tables/results.csv, and a spread takes two: "
            "run experiment=clinc150-seeds with several seeds"
        )
    for seed in sorted(folder.glob("seed-*")):
        if seed.is_dir() and seed / "tables" / "results.csv" not in reports:
            raise UserError(f"{seed}/tables/results.csv is missing: make it again, or remove {seed}")
    tables = {report: evidence.table(report, COLUMNS[:2], optional=OPTIONAL) for report in reports}
    first = reports[0]
    for report, table in tables.items():
        for name in sorted(_names(tables[first]) ^ _names(table)):
            without, other = (first, report) if name in _names(table) else (report, first)
            raise evidence.damaged(str(without), f"has no {name}, which {other} has")
    measures = [name for name in tables[first] if name.startswith(MEASURES)]
    results = pd.concat([table.reset_index() for table in tables.values()])
    table = results.melt("model", measures, "measure", "value")
    order = {model: i for i, model in enumerate(results["model"].unique())}
    table = table.sort_values("model", key=lambda models: models.map(order), kind="stable")
    by = table.groupby(["model", "measure"], sort=False)["value"]
    return by.agg(seeds="count", mean="mean", std="std", min="min", max="max").reset_index()


def _names(results: "pd.DataFrame") -> set[str]:
    """The models, and the measures that a seed decides."""
    return {*results.index, *(name for name in results if name.startswith(MEASURES))}


def markdown(spread: "pd.DataFrame") -> str:
    """A row a model: mean ± standard deviation of the headline measures, – where they are not defined."""
    from stages.reporting.markdown import table_of

    columns = ["model", *(measure.replace("_", " ") for measure in COLUMNS)]
    seeds = spread["seeds"].max()
    by_model = spread.set_index("measure").groupby("model", sort=False)
    rows = [[str(model), *(_cell(of, measure, seeds) for measure in COLUMNS)] for model, of in by_model]
    return table_of(columns, rows, f"Test split, mean ± standard deviation over {seeds} seeds.")


def _cell(of: "pd.DataFrame", measure: str, seeds: int) -> str:
    if measure not in of.index or of["seeds"][measure] < 2:
        return "–"
    text = f"{100 * of['mean'][measure]:.2f}% ± {100 * of['std'][measure]:.2f}"
    return text if of["seeds"][measure] == seeds else f"{text} ({of['seeds'][measure]} seeds)"


@click.command
@click.argument("folder", type=click.Path(path_type=Path))
def command(folder: Path):
    """Write the accuracies over seeds, and the headline.

    FOLDER has a report for each seed, in seed-0, seed-1, … It gets seeds.csv, with a row for each model and
    measure, and seeds.md, the table that people read. If FOLDER is a report itself, it gets headline.json:
    for each row of `headline` in conf/config.yaml, the model that validation chooses, with the speed that
    FOLDER's benchmark measured. Its table goes into README.md, between the marks that name FOLDER.

    \b
    for seed in 0 1 2; do dvc exp run -S experiment=clinc150-seeds -S seed=$seed report; done
    intents seeds metrics/clinc150
    """
    from stages.commands import headline
    from stages.core import settings

    spread = collect(folder)
    report = (folder / "tables" / "results.csv").exists()
    chosen = headline.choose(folder, settings.load().headline) if report else {}
    write_text(folder / "seeds.csv", spread.to_csv(index=False, float_format="%.4f"))
    write_text(folder / "seeds.md", markdown(spread))
    click.echo(markdown(spread))
    if not chosen:
        click.echo(f"note: no headline.json: {folder}/tables/results.csv has no benchmark yet", err=True)
        return
    table = headline.markdown(chosen, folder.as_posix())
    write_json(folder / "headline.json", chosen)
    click.echo(table)
    readme = Path("README.md")
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        write_text(readme, headline.between_marks(text, folder.as_posix(), table))
