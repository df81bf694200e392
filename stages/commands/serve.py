"""Serve a model over HTTP."""

from pathlib import Path

import click

from stages.commands import warn_if_uncalibrated
from stages.core import processes
from stages.core.model_folder import label_names

CORES = processes.cores()


@click.command
@click.option("--model", type=click.Path(path_type=Path), required=True, help="A model folder.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option(
    "--workers", type=click.IntRange(min=1), default=CORES, help="Worker processes.  [default: one a core]"
)
@click.option(
    "--queue", type=click.IntRange(min=1), default=256, show_default=True, help="Texts that may wait."
)
@click.option("--cache", type=click.IntRange(min=0), default=0, show_default=True, help="Answers to keep.")
@click.option("--no-page", is_flag=True, help="Serve neither the page nor /docs.")
def command(model: Path, host: str, port: int, workers: int, queue: int, cache: int, no_page: bool):
    """Serve a model over HTTP.

    POST /predict answers {"text": ...} with {"label", "score"}, and {"texts": [...]} with {"predictions"}.
    GET /health says whether a worker is ready. GET /metrics is for Prometheus. GET / is a page to ask the
    model on, and /docs describes the interface. SIGTERM or Ctrl-C ends the service once all that it accepted
    is answered.

    \b
    intents serve --model calibrated/distilled-ort-int8 --port 8000
    curl localhost:8000/predict -d '{"text": "what is my balance"}'
    """
    label_names(model)  # a clear error where there is no model
    warn_if_uncalibrated(model)

    import uvicorn

    from stages.serving import page
    from stages.serving.service import ANSWER_SECONDS, BODY_SECONDS, Service

    uvicorn.run(
        Service(model, workers, queue, cache).app([] if no_page else page.routes(model)),
        host=host,
        port=port,
        access_log=False,
        timeout_graceful_shutdown=ANSWER_SECONDS + BODY_SECONDS,
    )
