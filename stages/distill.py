"""Stage `distill`: a student of models/<parent>, taught by the teacher's logits."""

import sys
from pathlib import Path

from stages import params
from stages.errors import command


@command
def main(name: str):
    p = params.load()
    variant = p.variants.distill[name]
    from transformers import set_seed

    from stages import model_folder
    from stages.compression import kd, student
    from stages.intents import tables

    set_seed(p.seed)
    parent = model_folder.MODELS / variant.parent
    model = student.create(p.student, parent, tables.read_labels().names)
    history = kd.distil(
        model,
        parent,
        Path("logits/train.npy"),
        name,
        p.distill,
        variant.alpha,
        variant.temperature,
        p.seed,
    )
    parameters = {**p.distill.model_dump(), **variant.model_dump(), "student": p.student.model_dump()}
    with model_folder.derived(name, parent, "distillation", parameters, history=history) as scratch:
        model.save_pretrained(scratch)


if __name__ == "__main__":
    main(sys.argv[1])
