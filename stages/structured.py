"""Stage `structured`: heads and feed-forward columns of models/<parent> removed, the rest fine-tuned."""

import sys

from stages import params
from stages.errors import command


@command
def main(name: str):
    p = params.load()
    variant = p.variants.structured[name]
    from transformers import set_seed

    from stages import model_folder
    from stages.compression import encoder, kd, movement, structured

    seed = p.seed if variant.seed is None else variant.seed
    set_seed(seed)
    parent = model_folder.MODELS / variant.parent
    model = encoder.load(parent)
    encoder.freeze_embeddings(model, p.student.freeze_embeddings)
    pruning = structured.StructuredMovementPruning(
        model, variant.heads, variant.feed_forward, p.structured.begin, p.structured.end
    )
    optimizer = movement.optimizer(
        model, p.structured.learning_rate, p.structured.weight_decay, p.structured.score_learning_rate
    )
    before = {name: module.weight.numel() for name, module in encoder.linears(model).items()}
    parameters = {**p.structured.model_dump(), **variant.model_dump(), "seed": seed}
    with model_folder.derived(name, parent, "structured pruning", parameters) as (scratch, measured):
        history = kd.distil(model, parent, name, p.structured, variant, seed, [pruning], optimizer)
        movement.detach(model)
        structured.remove(model, pruning.kept())
        tuned = kd.distil(model, parent, f"{name}-fine-tuning", p.structured.fine_tuning, variant, seed)
        for epoch in tuned:
            epoch["epoch"] += p.structured.epochs
        measured["history"] = history + tuned
        measured["layer_shapes"] = model.config.layer_shapes
        left = {name: module.weight.numel() for name, module in encoder.linears(model).items()}
        overall = 1 - sum(left.values()) / sum(before.values())
        measured["sparsity"] = {"overall": overall, **{name: 1 - left[name] / before[name] for name in left}}
        model.save_pretrained(scratch)


if __name__ == "__main__":
    main(sys.argv[1])
