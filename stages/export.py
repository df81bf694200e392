"""Stage `export`: models/<parent> as an optimised ONNX graph."""

import sys

from stages import params
from stages.errors import command


@command
def main(name: str):
    p = params.load()
    from stages import model_folder
    from stages.compression import onnx_export

    variant = p.variants.export[name]
    parent = model_folder.MODELS / variant.parent
    with model_folder.derived(name, parent, "ONNX export", variant.model_dump()) as (scratch, _):
        onnx_export.export(parent, scratch)


if __name__ == "__main__":
    main(sys.argv[1])
