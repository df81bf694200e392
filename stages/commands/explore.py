"""A page to look at results, and to ask models."""

import os
import sys
import threading
import webbrowser
from pathlib import Path

import click


def has_a_browser() -> bool:
    """Whether a window can open; on Linux without a display a browser would take over the terminal."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@click.command
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--port", type=click.IntRange(0, 65535), default=8050, show_default=True)
@click.option("--open/--no-open", "opened", default=True, help="Open it in a browser.  [default: open]")
def command(folder: Path | None, port: int, opened: bool):
    """Look at results on a page of this machine.

    FOLDER is a report, by default that of params.yaml. The page shows which models are the most accurate for
    their latency and size, what a threshold does, the mistakes, training curves, and what changed between
    commits. Models in calibrated/ answer what is typed. It loads nothing from a network. The stage `explore`
    writes the same page, without the models, to report.html.

    \b
    intents explore
    intents explore metrics/clinc150
    """
    from stages.commands import live
    from stages.core import settings

    p = settings.load()
    chosen = folder or Path(p.report.folder)
    app = live.app(chosen, p)
    import uvicorn

    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")
    with config.bind_socket() as socket:
        url = f"http://127.0.0.1:{socket.getsockname()[1]}/"
        socket.listen()  # who comes before the server is ready waits
        click.echo(f"{chosen} is shown at {url} until Ctrl-C.")
        if opened and has_a_browser():
            threading.Timer(0.5, webbrowser.open, [url]).start()
        uvicorn.Server(config).run(sockets=[socket])
