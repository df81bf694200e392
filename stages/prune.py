"""Stage `prune`: weights of models/<parent> set to zero, by magnitude or movement, while distilling."""

import sys

from stages import params
from stages.errors import command


@command
def main(name: str):
    p = params.load()
    variant = p.variants.prune[name]
    from transformers import set_seed

    from stages import model_folder
    from stages.compression import encoder, kd, magnitude, movement, sparsity

    seed = p.seed if variant.seed is None else variant.seed
    set_seed(seed)
    parent = model_folder.MODELS / variant.parent
    model = encoder.load(parent)
    encoder.freeze_embeddings(model, p.student.freeze_embeddings)
    begin, end = p.prune.begin, p.prune.end
    pruning: magnitude.MagnitudePruning | movement.HardMovementPruning | movement.SoftMovementPruning
    optimizer = penalty = None
    if variant.method == "movement-soft":
        pruning = movement.SoftMovementPruning(model, variant.penalty, p.prune.threshold, begin, end)
        penalty = pruning.penalty
    elif variant.method == "movement-hard":
        pruning = movement.HardMovementPruning(model, variant.sparsity, begin, end)
    else:
        pruning = magnitude.MagnitudePruning(
            model, variant.method, variant.sparsity, begin, end, p.prune.rounds
        )
    if variant.method.startswith("movement"):
        optimizer = movement.optimizer(
            model, p.prune.learning_rate, p.prune.weight_decay, p.prune.score_learning_rate
        )
    parameters = {**p.prune.model_dump(exclude={"sparsity"}), **variant.model_dump(), "seed": seed}
    with model_folder.derived(name, parent, "pruning", parameters) as (scratch, measured):
        measured["history"] = kd.distil(
            model, parent, name, p.prune, variant, seed, [pruning], optimizer, penalty
        )
        movement.detach(model)
        model.save_pretrained(scratch)
        measured["sparsity"] = sparsity.achieved(scratch)


if __name__ == "__main__":
    main(sys.argv[1])
