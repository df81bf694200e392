"""Stage `qat`: models/<parent> distilled with the rounding of int8 in its forward pass."""

import sys

from stages import params
from stages.errors import command


@command
def main(name: str):
    p = params.load()
    variant = p.variants.qat[name]
    from transformers import set_seed

    from stages import model_folder
    from stages.compression import encoder, kd, qat

    seed = p.seed if variant.seed is None else variant.seed
    set_seed(seed)
    parent = model_folder.MODELS / variant.parent
    model = encoder.load(parent)
    rounding = {"per_channel": p.quantize.per_channel, "reduce_range": p.quantize.reduce_range}
    qat.prepare(model, **rounding)
    parameters = {**p.qat.model_dump(), **variant.model_dump(), "seed": seed, **rounding}
    with model_folder.derived(name, parent, "quantization-aware training", parameters) as (scratch, measured):
        measured["history"] = kd.distil(model, parent, name, p.qat, variant, seed)
        qat.convert(model)
        model.save_pretrained(scratch)


if __name__ == "__main__":
    main(sys.argv[1])
