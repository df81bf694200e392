"""Everything that serves a model, in one folder that needs neither this repository nor torch.

    python -m stages.bundle --model calibrated/distilled-ort-int8 --output bundle
    cd bundle && pip install -r requirements.txt && python -m stages.service --model model

`model/` is the model, its tokenizer, labels and threshold; `stages/` is the code that serves it;
requirements.txt names what that imports, in the versions of this environment.
"""

import argparse
import shutil
from importlib import metadata
from modulefinder import ModuleFinder
from pathlib import Path

from stages import model_folder
from stages.atomic import replacing
from stages.errors import UserError, command

ROOT = Path(__file__).parents[1]
REQUIRED = (
    "httptools",
    "numpy",
    "onnxruntime",
    "prometheus-client",
    "safetensors",
    "starlette",
    "tokenizers",
    "uvicorn",
    "uvloop",
)


def modules() -> list[Path]:
    """The files of this package that the service needs for an ONNX model."""
    finder = ModuleFinder([str(ROOT)], excludes=["stages.runtime.torch_session"])
    script = ROOT / "stages" / "service.py"
    finder.run_script(str(script))
    found = [vars(module)["__file__"] for module in finder.modules.values()]
    return sorted({script, *(Path(file) for file in found if file)})


@command
def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(
        prog="python -m stages.bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, required=True, help="a folder with an ONNX model")
    parser.add_argument("--output", type=Path, default=Path("bundle"), help="the folder to write (bundle)")
    arguments = parser.parse_args(argv)
    model_folder.label_names(arguments.model)
    if not list(arguments.model.glob("model.onnx*")):
        raise UserError(f"{arguments.model} is not an ONNX model: choose one that was exported")
    if arguments.output.exists():
        raise UserError(f"{arguments.output} is there already: remove it, or name another --output")
    with replacing(arguments.output) as scratch:
        shutil.copytree(arguments.model, scratch / "model")
        for file in modules():
            to = scratch / file.relative_to(ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)
        pins = [f"{name}=={metadata.version(name)}\n" for name in REQUIRED]
        (scratch / "requirements.txt").write_text("".join(pins))
    print(f"{arguments.output}: {model_folder.size_mb(arguments.output / 'model'):.1f} MB of model")


if __name__ == "__main__":
    main()
