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
    from stages.compression import distributed, kd, student
    from stages.intents import tables

    seed = p.seed if variant.seed is None else variant.seed
    set_seed(seed)
    parent = model_folder.MODELS / variant.parent
    settings = p.student.model_copy(update={"layers": variant.layers}) if variant.layers else p.student
    model = student.create(settings, parent, tables.read_labels().names)
    parameters = {
        **p.distill.model_dump(),
        **variant.model_dump(exclude={"layers"}),
        "seed": seed,
        "student": settings.model_dump(),
    }
    if not distributed.is_main():
        kd.distil(model, parent, name, p.distill, variant, seed)
        return
    with model_folder.derived(name, parent, "distillation", parameters) as (scratch, measured):
        measured["history"] = kd.distil(model, parent, name, p.distill, variant, seed)
        model.save_pretrained(scratch)


if __name__ == "__main__":
    main(sys.argv[1])
