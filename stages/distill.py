"""Stage `distill`: a student of models/<parent>, taught by the teacher's logits."""

import sys

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

    seed = p.seed if variant.seed is None else variant.seed
    set_seed(seed)
    parent = model_folder.MODELS / variant.parent
    model = student.create(p.student, parent, tables.read_labels().names)
    parameters = {
        **p.distill.model_dump(),
        **variant.model_dump(),
        "seed": seed,
        "student": p.student.model_dump(),
    }
    with model_folder.derived(name, parent, "distillation", parameters) as (scratch, measured):
        measured["history"] = kd.distil(model, parent, name, p.distill, variant, seed)
        model.save_pretrained(scratch)


if __name__ == "__main__":
    main(sys.argv[1])
