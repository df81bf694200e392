"""A model is a folder, models/<name>/: weights, config.json, the tokenizer, recipe.json.

calibrated/<name>/ is the same with its calibration, as it is measured and served.

| file                                    | what                                              |
|-----------------------------------------|---------------------------------------------------|
| `model.safetensors`                     | torch weights, fp32                               |
| `model.int8.pt`                         | torch weights, dynamic int8                       |
| `model.onnx`                            | a graph for ONNX Runtime                          |
| `<file>.sparse`                         | one of them with its zeros not stored             |
| `config.json`                           | the architecture, and the labels (`id2label`)     |
| `tokenizer.json`, `tokenizer_config.json` | the tokenizer; truncation at `data.max_length` at most |
| `calibration.json`                      | temperature and out-of-scope threshold            |
| `recipe.json`                           | parent, technique, its parameters, what it measured of itself |
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.core.atomic import replacing
from stages.core.errors import UserError

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
MODELS = Path("models")
CALIBRATED = Path("calibrated")
INHERITED = (
    "sparsity",
    "scales_by_batch",
    "embedding_mb_by_script",
)  # measures of a parent that are its children's too


@contextmanager
def derived(name: str, parent: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes models/<name>, with the parent's tokenizer in it."""
    with replacing(MODELS / name) as scratch:
        scratch.mkdir()
        for file in TOKENIZER:
            shutil.copyfile(parent / file, scratch / file)
        yield scratch


def write_recipe(folder: Path, parent: str, technique: str, parameters: dict, **measures) -> None:
    recipe = {"parent": parent, "technique": technique, "parameters": parameters, **measures}
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2, allow_nan=False) + "\n")


def recipe(folder: Path) -> dict:
    return json.loads((folder / "recipe.json").read_bytes())


def label_names(folder: Path) -> list[str]:
    """The labels in the order of the class indices, from config.json."""
    path = folder / "config.json"
    if not path.exists():
        raise UserError(
            f"{folder} is no model folder: it has no config.json; dvc repro makes calibrated/<name>"
        )
    id2label = json.loads(path.read_bytes())["id2label"]
    return [id2label[str(i)] for i in range(len(id2label))]


def scales_by_batch(folder: Path) -> bool:
    """True where activations are scaled by the whole batch: a query's logits depend on the others."""
    return recipe(folder).get("scales_by_batch", False)


def size_mb(folder: Path) -> float:
    """MB of 2^20 bytes that are deployed: weights, config, tokenizer, calibration; not the recipe."""
    return sum(f.stat().st_size for f in folder.iterdir() if f.name != "recipe.json") / 2**20
