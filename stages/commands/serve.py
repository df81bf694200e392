"""Serve a model over HTTP."""

import logging
from pathlib import Path

import click

from stages.commands import warn_if_uncalibrated
from stages.core import processes
from stages.core.model_folder import label_names
from stages.serving.options import Limits, Options

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container, in Linux


def cores() -> int:
    """The cores of this process, as far as its container may use them."""
    quota, _, period = QUOTA.read_text().partition(" ") if QUOTA.exists() else ("max", "", "")
    if quota == "max":
        return processes.cores()
    return max(1, min(processes.cores(), round(int(quota) / int(period))))


CORES = cores()
LIMITS = Limits()
COUNT = click.IntRange(min=1)
SECONDS = click.FloatRange(min=0, min_open=True)


def limit(name: str, kind: click.ParamType, field: str, text: str):
    """An option for the `field` of Limits, with its default."""
    return click.option(name, field, type=kind, default=getattr(LIMITS, field), show_default=True, help=text)


@click.command
@click.option("--model", type=click.Path(path_type=Path), required=True, help="A model folder.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option(
    "--processes",
    type=COUNT,
    default=CORES,
    help="Processes that share the port and run the model, a core each.  [default: one a core]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Processes that run the model for each of the others. No request in one that dies is lost. "
    "0: the processes run it themselves. It is faster, but the requests in one that dies are lost.",
)
@click.option(
    "--cache",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Answers that each process keeps.",
)
@limit("--queue", COUNT, "queue", "Texts that may wait in each process. More are answered with 503.")
@limit("--max-body", COUNT, "body_bytes", "Bytes of a request's body. More are answered with 413.")
@limit("--max-characters", COUNT, "characters", "Characters of a text. More are answered with 413.")
@limit("--max-texts", COUNT, "texts", "Texts of a request. More are answered with 413.")
@limit("--body-seconds", SECONDS, "body_seconds", "Seconds for a body to arrive. Later comes a 408.")
@limit("--answer-seconds", SECONDS, "answer_seconds", "Seconds for an answer. Later comes a 503.")
@limit(
    "--start-seconds",
    SECONDS,
    "start_seconds",
    "Seconds for a process to load the model. One that takes longer is started again.",
)
@limit(
    "--hung-seconds",
    SECONDS,
    "hung_seconds",
    "A process that gives no sign of life for so many seconds is replaced.",
)
@click.option("--no-page", is_flag=True, help="Serve neither the page nor /docs.")
def command(
    model: Path, host: str, port: int, processes: int, workers: int, cache: int, no_page: bool, **limits
):
    """Serve a model over HTTP.

    POST /predict answers {"text": ...} with {"label", "score"}, and {"texts": [...]} with {"predictions"}.
    GET /health says which processes are ready. GET /metrics is for Prometheus. GET / is a page to ask the
    model on, and /docs describes the interface. SIGTERM or Ctrl-C ends the service once all that it accepted
    is answered, and a second one at once.

    \b
    intents serve --model calibrated/distilled-ort-int8 --port 8000
    curl localhost:8000/predict -d '{"text": "what is my balance"}'
    """
    label_names(model)  # a clear error where there is no model
    warn_if_uncalibrated(model)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from stages.serving.processes import serve

    serve(Options(model, workers, cache, not no_page, Limits(**limits)), host, port, processes)
