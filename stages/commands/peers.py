"""What people would use instead, measured beside our models."""

from pathlib import Path

import click

from stages.core.errors import UserError
from stages.peers import NAMES


@click.command
@click.option(
    "--peer",
    "names",
    type=click.Choice(NAMES),
    multiple=True,
    help="A peer; several times for several. By default, all that are installed.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A model of ours, by its name in calibrated/. By default, those made from the teacher without "
    "training, those of headline.json, and models/best.",
)
def command(names: tuple[str, ...], models: tuple[str, ...]):
    """Compare with what people would use instead.

    The peers compress the same teacher, or learn from the same queries. Each is calibrated on validation as
    our models are, and timed with them in the same rounds. The folder of the report gets peers.md, peers.json
    and peers.png. Models and logs stay in .peers, and are made again when the teacher or the data change.

    \b
    pip install -e '.[peers]'
    intents peers
    intents peers --peer openvino --peer tfidf --model distilled-ort-int8
    """
    from stages.core import settings
    from stages.core.atomic import replacing, write_json, write_text
    from stages.peers import comparison
    from stages.peers.workshop import HOME, Peer
    from stages.reporting import peers as results

    p = settings.load()
    for name in models:
        if name not in p.variants.table:
            raise UserError(f"there is no row {name!r}; there are {', '.join(p.variants.table)}")
    chosen = [Peer(name) for name in NAMES if name in (names or NAMES)]
    missing = [peer for peer in chosen if peer.versions is None]
    for peer in missing:
        line = f"{peer.name} is not installed: {peer.install}"
        if names:
            raise UserError(line)
        click.echo(f"note: {line}", err=True)
    HOME.mkdir(exist_ok=True)
    peers = [peer for peer in chosen if peer not in missing]
    compared = comparison.run(peers, list(dict.fromkeys(["teacher", *(models or comparison.ours(p))])), p)
    folder = Path(p.report.folder)
    with replacing(folder / "peers.png") as scratch:
        results.picture(compared.table, scratch)
    write_json(folder / "peers.json", results.values(compared, peers, missing))
    text = results.markdown(compared, peers, missing)
    write_text(folder / "peers.md", text)
    click.echo(text)
