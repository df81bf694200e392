"""What has changed since another commit, as Markdown."""

import sys

import click

from stages.core.errors import UserError


@click.command
@click.argument("base")
@click.option(
    "--gate",
    is_flag=True,
    help="End with status 1 if a model lost more than `gate` in conf/ allows, or results are missing.",
)
@click.option("--pictures", metavar="URL", help="Show the pictures that changed; the URL serves this tree.")
def command(base: str, gate: bool, pictures: str | None):
    """Compare the workspace with another commit.

    BASE is a commit, a branch or a tag. The Markdown has the params that changed, and for each model whether
    its accuracy, size and speed-up are better, worse, within noise or the same. All of it is read from Git:
    no cache and no GPU are needed. Damaged results are an error. With --gate, so are results, rows and
    measures that BASE has and the workspace has not.

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
    damaged, gaps, excesses, compared = [], [], [], False
    for folder in changes.reports(commit):
        try:
            table = changes.collect(folder, commit, p.gate)
        except UserError as error:
            damaged.append(str(error))
            click.echo(f"### {folder}\n\n**Not compared.** {error}.\n")
            continue
        click.echo(changes.markdown(folder, table))
        gaps += changes.gaps(folder, commit, table)
        excesses += changes.excesses(folder, table, p.gate)
        compared |= bool((table["before"].notna() & table["after"].notna()).any())
    if not compared and not damaged and not gaps:
        gaps.append(
            f"nothing was compared: no metrics/<report>/{changes.RESULTS} is in the workspace and in {base}"
        )
    if pictures:
        click.echo(changes.pictures_markdown(commit, pictures))
    evidence = [*damaged, *gaps] if gate else damaged
    if gate:
        lines = [*evidence, *excesses] or ["nothing beyond it"]
        click.echo("\n".join(["### Gate", "", *(f"- {line}" for line in lines)]))
    if evidence:
        more = f" (and {len(evidence) - 1} more, see above)" if len(evidence) > 1 else ""
        raise UserError(f"{evidence[0]}{more}")
    if gate and excesses:
        sys.exit(1)
