"""What has changed since another commit, as Markdown."""

import sys

import click


@click.command
@click.argument("base")
@click.option(
    "--gate", is_flag=True, help="End with status 1 if a model lost more than `gate` in conf/ allows."
)
@click.option("--pictures", metavar="URL", help="Show the pictures that changed; the URL serves this tree.")
def command(base: str, gate: bool, pictures: str | None):
    """Compare the workspace with another commit.

    BASE is a commit, a branch or a tag. The Markdown has the params that changed, and for each model whether
    its accuracy, size and speed-up are better, worse, within noise or the same. All of it is read from Git:
    no cache and no GPU are needed.

    \b
    intents compare main
    intents compare main --gate
    """
    from stages.commands import changes
    from stages.core import settings

    p = settings.load()
    commit = changes.commit(base)
    click.echo(f"## Against {base} ({commit[:7]})\n")
    click.echo(changes.params_markdown(commit))
    excesses = []
    for folder in changes.reports(commit):
        table = changes.collect(folder, commit, p.gate)
        click.echo(changes.markdown(folder, table))
        excesses += changes.excesses(folder, table, p.gate)
    if pictures:
        click.echo(changes.pictures_markdown(commit, pictures))
    if gate:
        click.echo("\n".join(["### Gate", "", *(f"- {line}" for line in excesses or ["nothing beyond it"])]))
        if excesses:
            sys.exit(1)
