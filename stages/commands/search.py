"""Search settings with Optuna, a DVC experiment a trial."""

from pathlib import Path

import click

from stages.commands import typed


@click.command
@click.argument("overrides", nargs=-1)
def command(overrides: tuple[str, ...]):
    """Search the settings that conf/search/ names.

    OVERRIDES are Hydra's. Each trial is a DVC experiment. Started again, the search goes on where it
    stopped. Started in other clones too, on a storage that all reach, the workers share the trials. At the
    end the best trial is applied to the workspace, the report's folder gets search/ with the trials and
    pictures, and the pipeline runs through.

    \b
    intents search
    intents search experiment=clinc150 search.trials=20
    intents search search=structure
    """
    from stages.core import settings

    p = settings.compose([typed(override, "an override") for override in overrides])
    from stages.commands import study, tracked, trials
    from stages.core import model_folder
    from stages.core.atomic import replacing

    tracked.check(p)
    optuna_study = study.open_study(p.search)
    if not study.run(optuna_study, p, overrides):
        click.echo("all trials are done: another worker applies the best of them")
        return
    study.apply_best(optuna_study, p.search)
    folder = Path(p.report.folder) / "search"
    for name, write in trials.outputs(optuna_study, p.search).items():
        with replacing(folder / name) as scratch:
            write(scratch)
    click.echo((folder / "trials.md").read_text(encoding="utf-8"))
    study.run_through()
    best = model_folder.recipe(model_folder.MODELS / "best")["parent"]
    click.echo(f"{study.best(optuna_study).user_attrs['experiment']} is applied; models/best is {best}")
