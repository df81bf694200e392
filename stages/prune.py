"""Stage `prune`: gradual magnitude pruning of models/<parent> while the teacher teaches it."""

import sys
from pathlib import Path

from stages import params
from stages.errors import command


@command
def main(name: str):
    p = params.load()
    variant = p.variants.prune[name]
    from transformers import AutoModelForSequenceClassification, set_seed

    from stages import model_folder
    from stages.compression import kd, magnitude, student

    set_seed(p.seed)
    parent = model_folder.MODELS / variant.parent
    model = AutoModelForSequenceClassification.from_pretrained(parent)
    student.freeze_embeddings(model, p.student.freeze_embeddings)
    history = kd.distil(
        model,
        parent,
        Path("logits/train.npy"),
        name,
        p.prune,
        variant.alpha,
        variant.temperature,
        p.seed,
        [magnitude.GradualMagnitudePruning(variant.sparsity, p.prune.begin, p.prune.end)],
    )
    sparsity = magnitude.achieved_sparsity(model)
    parameters = {**p.prune.model_dump(), **variant.model_dump()}
    with model_folder.derived(
        name, parent, "gradual magnitude pruning", parameters, sparsity=sparsity, history=history
    ) as scratch:
        model.save_pretrained(scratch)


if __name__ == "__main__":
    main(sys.argv[1])
