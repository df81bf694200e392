"""Everything that serves a model, in one folder that needs neither this repository nor torch."""

import shutil
from importlib import metadata
from modulefinder import ModuleFinder
from pathlib import Path

import click

from stages.commands import warn_if_uncalibrated
from stages.core import model_folder
from stages.core.atomic import replacing
from stages.core.errors import UserError

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / "stages" / "commands" / name for name in ("__main__.py", "serve.py")]
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


@click.command
@click.option("--model", type=click.Path(path_type=Path), required=True, help="A folder with an ONNX model.")
@click.option(
    "--output", type=click.Path(path_type=Path), default="bundle", show_default=True, help="The new folder."
)
def command(model: Path, output: Path):
    """Make a folder that serves a model on its own.

    It needs neither this repository nor torch. It has the model, the code that serves it, and
    requirements.txt with the versions of this environment.

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
        pins = [f"{name}=={metadata.version(name)}\n" for name in REQUIRED]
        (scratch / "requirements.txt").write_text("".join(pins))
    click.echo(f"{output}: {model_folder.size_mb(output / 'model'):.1f} MB of model")
