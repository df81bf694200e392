"""Stage `logits`: a teacher's logits over train, validation and the unlabelled text."""

import sys

from stages.core.errors import command


@command
def main(name: str):
    import numpy as np

    from stages.checkpoints import encoder
    from stages.core import model_folder
    from stages.core.atomic import replacing
    from stages.data import tables
    from stages.training import loop

    folder = model_folder.MODELS / name
    model = encoder.load(folder)
    with replacing(f"logits/{name}") as scratch:
        scratch.mkdir()
        for split in ("train", "validation", "unlabelled"):
            examples = loop.encode(tables.read(split), folder)
            np.save(scratch / f"{split}.npy", loop.logits(model, examples, bar=f"{name}, {split}"))


if __name__ == "__main__":
    main(*sys.argv[1:])
