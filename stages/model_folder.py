"""A model is a folder, models/<name>/: weights, config.json, the tokenizer, recipe.json.

calibrated/<name>/ is the same with its calibration, as it is measured and served.

| file                                    | what                                              |
|-----------------------------------------|---------------------------------------------------|
| `model.safetensors`                     | torch weights, fp32                               |
| `model.int8.pt`                         | torch weights, dynamic int8                       |
| `model.onnx`                            | a graph for ONNX Runtime                          |
| `config.json`                           | the architecture, and the labels (`id2label`)     |
| `tokenizer.json`, `tokenizer_config.json` | the tokenizer; truncation at `data.max_length`  |
| `calibration.json`                      | temperature and out-of-scope threshold            |
| `recipe.json`                           | parent, technique, its parameters, what it measured of itself |
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.atomic import replacing
from stages.errors import UserError

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
MODELS = Path("models")
CALIBRATED = Path("calibrated")


@contextmanager
def derived(name: str, parent: Path, technique: str, parameters: dict) -> Iterator[tuple[Path, dict]]:
    """Yield a scratch folder that becomes models/<name>, and a dict for what the model measures of itself.

    The parent's tokenizer is there already, and its `sparsity` among the measures, if it has one;
    the caller writes the weights and config.json. recipe.json is written at the end.
    """
    with replacing(MODELS / name) as scratch:
        scratch.mkdir()
        for file in TOKENIZER:
            shutil.copyfile(parent / file, scratch / file)
        measured = {key: value for key, value in recipe(parent).items() if key == "sparsity"}
        yield scratch, measured
        write_recipe(scratch, parent.name, technique, parameters, **measured)


def write_recipe(folder: Path, parent: str, technique: str, parameters: dict, **measured) -> None:
    recipe = {"parent": parent, "technique": technique, "parameters": parameters, **measured}
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")


def recipe(folder: Path) -> dict:
    return json.loads((folder / "recipe.json").read_text())


def label_names(folder: Path) -> list[str]:
    """The labels in the order of the class indices, from config.json."""
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder} is no model folder (it has no config.json); dvc repro makes models/<name>")
    id2label = json.loads(path.read_text())["id2label"]
    return [id2label[str(i)] for i in range(len(id2label))]


def scales_by_batch(folder: Path) -> bool:
    """True where activations get their int8 scale from the whole batch: logits depend on the neighbours."""
    return recipe(folder).get("scales_by_batch", False)


def size_mb(folder: Path) -> float:
    """What is deployed, in MB of 2^20 bytes: weights, config, tokenizer, calibration; not the recipe."""
    return sum(f.stat().st_size for f in folder.iterdir() if f.name != "recipe.json") / 2**20
