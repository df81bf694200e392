"""Stage `vocabulary`: models/<parent> without the WordPieces that the training text never uses."""

import sys

from stages import params
from stages.errors import command
from stages.intents import tables


@command
def main(name: str):
    p = params.load()
    variant = p.variants.vocabulary[name]
    from stages import model_folder
    from stages.compression import vocabulary

    parent = model_folder.MODELS / variant.parent
    with model_folder.derived(name, parent, "vocabulary pruning", variant.model_dump()) as (
        scratch,
        measured,
    ):
        measured.update(vocabulary.prune(parent, scratch, tables.read("train")["text"], variant.size))


if __name__ == "__main__":
    main(sys.argv[1])
