"""Stage `general`: a student of the pretrained encoder, taught by its layers on text without labels."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.core import model_folder, processes, settings
from stages.core.atomic import replacing
from stages.core.errors import command
from stages.techniques.settings import General


@command
def main(name: str):
    p = settings.load()
    variant = p.variants.models[name]
    assert isinstance(variant, General)
    from transformers import set_seed

    from stages.checkpoints import pretrained
    from stages.techniques import general

    set_seed(variant.seed)
    source = pretrained.locate(variant)
    if not processes.is_main():  # its copy of the trained model is not kept
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            folder.mkdir()
            general.apply(source, folder, variant)
        return
    with replacing(model_folder.MODELS / name) as folder:
        folder.mkdir()
        measures = general.apply(source, folder, variant)
        model_folder.write_recipe(folder, variant.model, "general", variant.model_dump(), **measures)


if __name__ == "__main__":
    main(*sys.argv[1:])
