"""Stage `quantize`: models/<parent> in int8, dynamic or static."""

import sys

from stages import params
from stages.errors import command
from stages.intents import tables


@command
def main(name: str):
    p = params.load()
    from stages import model_folder
    from stages.compression import dynamic_int8, static_int8

    variant = p.variants.quantize[name]
    options = p.quantize.model_copy(
        update=variant.model_dump(exclude={"parent", "method"}, exclude_none=True)
    )
    parent = model_folder.MODELS / variant.parent
    parameters = {**variant.model_dump(), **options.model_dump()}
    with model_folder.derived(name, parent, f"{variant.method} int8", parameters) as (scratch, measured):
        if variant.method == "dynamic":
            dynamic_int8.quantize(parent, scratch, options.per_channel, options.reduce_range)
            measured["scales_by_batch"] = True
        else:
            train = tables.read("train")["text"]
            texts = train.sample(min(options.calibration_queries, len(train)), random_state=p.seed)
            measured.update(
                static_int8.quantize(
                    parent,
                    scratch,
                    texts.tolist(),
                    options.calibration,
                    options.per_channel,
                    options.reduce_range,
                )
            )


if __name__ == "__main__":
    main(sys.argv[1])
