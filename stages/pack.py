"""Stage `pack`: models/<parent> with its zeros not stored."""

import sys

from stages import params
from stages.errors import command


@command
def main(name: str):
    p = params.load()
    variant = p.variants.pack[name]
    from stages import model_folder
    from stages.compression import sparse_storage

    parent = model_folder.MODELS / variant.parent
    with model_folder.derived(name, parent, "sparse storage", variant.model_dump()) as (scratch, measured):
        measured["bytes"] = sparse_storage.pack(parent, scratch)
        measured["scales_by_batch"] = model_folder.scales_by_batch(parent)


if __name__ == "__main__":
    main(sys.argv[1])
