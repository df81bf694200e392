"""Everything that serves a model, in one folder that needs neither this repository nor torch."""

import csv
import math
import shutil
import sys
from importlib import metadata
from modulefinder import ModuleFinder
from pathlib import Path
from string import Template

import click

from stages.commands import warn_if_uncalibrated
from stages.core import model_folder
from stages.core.atomic import replacing
from stages.core.errors import UserError
from stages.serving.options import Limits

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / "stages" / "commands" / name for name in ("__main__.py", "serve.py")]
DEPLOY = ROOT / "stages" / "serving" / "deploy"
PLAN = Path("load_test")
PROCESS_MB = 100  # of memory that a process takes without its model
TORCH = ["stages.runtime.torch_session", "stages.checkpoints.encoder", "stages.checkpoints.torch_int8"]
REQUIRED = (
    "click",
    "httptools",
    "numpy",
    "onnxruntime",
    "prometheus-client",
    "safetensors",
    "starlette",
    "swagger-ui-bundle",
    "tokenizers",
    "uvicorn",
    "uvloop",
)


def modules() -> list[Path]:
    """The files of this package that the service needs for an ONNX model, its page too."""
    finder = ModuleFinder([str(ROOT)], excludes=TORCH)
    for script in SCRIPTS:
        finder.run_script(str(script))
    files = [vars(module)["__file__"] for module in finder.modules.values()]
    pages = (ROOT / "stages" / "serving").glob("*.html")
    return sorted({*SCRIPTS, *pages, *(Path(file) for file in files if file)})


def planned_cores(model: Path) -> int | None:
    """The cores that the load test's plan over HTTP gives to this very model, if it was measured."""
    if not (PLAN / "http_plan.csv").exists():
        return None
    from stages.measurement import identity
    from stages.reporting import evidence

    digest = identity.of_model(model)
    same = {name for name, other in evidence.values(PLAN / "measured.json", ()).items() if other == digest}
    with (PLAN / "http_plan.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] in same and row["cores"]]
    return math.ceil(float(rows[0]["cores"])) if rows else None


def deployment(model: Path, processes: int) -> dict[str, str]:
    """The files of DEPLOY by name, for pods of so many `processes`."""
    limits = Limits()
    memory = math.ceil(processes * (PROCESS_MB + 3 * model_folder.size_mb(model)))
    cores = planned_cores(model)
    found = (
        f"load_test plans {cores} cores for this model."
        if cores
        else "The load test did not measure this model."
    )
    values = {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "stop_seconds": math.ceil(limits.body_seconds + limits.answer_seconds) + 10,
        "processes": processes,
        "replicas": math.ceil(cores / processes) if cores else 2,
        "replicas_from": found,
        "memory": memory,
        "memory_limit": 2 * memory,
    }
    return {file.name: Template(file.read_text()).substitute(values) for file in DEPLOY.iterdir()}


@click.command
@click.option("--model", type=click.Path(path_type=Path), required=True, help="A folder with an ONNX model.")
@click.option(
    "--output", type=click.Path(path_type=Path), default="bundle", show_default=True, help="The new folder."
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Of a Kubernetes pod, a core each.",
)
def command(model: Path, output: Path, processes: int):
    """Make a folder that serves a model on its own.

    It needs neither this repository nor torch. It has the model, the code that serves it, requirements.txt
    with the versions of this environment, and ways to deploy it: a Dockerfile, a systemd unit and a
    Kubernetes manifest, each with the commands to check it. The manifest has as many replicas as the plan in
    load_test/ says, if it has this model.

    \b
    intents bundle --model calibrated/distilled-ort-int8 --output bundle
    cd bundle && pip install -r requirements.txt
    python -m stages.commands serve --model model
    """
    model_folder.label_names(model)
    warn_if_uncalibrated(model)
    if not list(model.glob("model.onnx*")):
        raise UserError(f"{model} is not an ONNX model: choose one that was exported")
    if output.exists():
        raise UserError(f"{output} exists: remove it, or name another --output")
    with replacing(output) as scratch:
        shutil.copytree(model, scratch / "model")
        for file in modules():
            to = scratch / file.relative_to(ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)
        for name, text in deployment(model, processes).items():
            (scratch / name).write_text(text)
        pins = [f"{name}=={metadata.version(name)}\n" for name in REQUIRED]
        (scratch / "requirements.txt").write_text("".join(pins))
    click.echo(f"{output}: {model_folder.size_mb(output / 'model'):.1f} MB of model")
