"""Stage `vocabulary`: models/<parent> without the embeddings of WordPieces that no training text has."""

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
        texts = tables.read("train")["text"]
        measured.update(vocabulary.prune(parent, scratch, texts, variant.size, variant.share))


if __name__ == "__main__":
    main(sys.argv[1])
