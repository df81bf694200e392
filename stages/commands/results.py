"""The results of a report, in the terminal."""

from pathlib import Path

import click


@click.command
@click.argument("folder", type=click.Path(path_type=Path), required=False)
def command(folder: Path | None):
    """Print the table of results, the model selected and why.

    FOLDER is a report, by default that of params.yaml. It is read from Git: no stage has to run. Of the
    report of params.yaml, numbers of other models or data than those in the working directory are left out.

    \b
    intents results
    intents results metrics/clinc150
    """
    from stages.core import settings
    from stages.reporting import summary

    report = settings.load().report
    own = Path(report.folder)
    beside = Path(report.beside) if report.beside and folder is None else None
    click.echo(summary.text(folder or own, beside, here=folder in (None, own)))
