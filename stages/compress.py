"""The stage of every technique: models/<parent> in, models/<name> out."""

import json
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.checkpoints import families
from stages.core import model_folder, processes, settings
from stages.core.errors import command
from stages.techniques.settings import Distillation


@command
def main(stage: str, name: str):
    p = settings.load()
    variant = p.variants.models[name]
    parent = model_folder.MODELS / variant.parent
    families.check(json.loads((parent / "config.json").read_bytes())["model_type"], variant.needs, name)
    technique = import_module(f"stages.techniques.{stage}")
    if isinstance(variant, Distillation):
        from transformers import set_seed

        set_seed(variant.seed)
    if not processes.is_main():  # its copy of the trained model is not kept
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            folder.mkdir()
            technique.apply(parent, folder, variant)
        return
    recipe = model_folder.recipe(parent)
    inherited = {key: recipe[key] for key in model_folder.INHERITED if key in recipe}
    with model_folder.derived(name, parent) as folder:
        measures = inherited | technique.apply(parent, folder, variant)
        if isinstance(variant, Distillation):
            measures["teachers"] = json.loads(Path("soft_labels/teachers.json").read_bytes())
        parameters = variant.model_dump(exclude={"parent"}, exclude_none=True)
        model_folder.write_recipe(folder, variant.parent, stage, parameters, **measures)


if __name__ == "__main__":
    main(*sys.argv[1:])
