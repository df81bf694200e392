"""Stage `quantize`: models/<parent> in dynamic int8."""

import sys

from stages import params
from stages.errors import command


@command
def main(name: str):
    p = params.load()
    from stages import model_folder
    from stages.compression import dynamic_int8

    variant = p.variants.quantize[name]
    parent = model_folder.MODELS / variant.parent
    parameters = {**p.quantize.model_dump(), **variant.model_dump()}
    with model_folder.derived(name, parent, "dynamic int8", parameters) as scratch:
        dynamic_int8.quantize(parent, scratch, p.quantize)


if __name__ == "__main__":
    main(sys.argv[1])
