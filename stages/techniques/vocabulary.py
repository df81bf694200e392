"""Vocabulary pruning: WordPieces that the training texts do not use lose their embeddings.

What they stood for is split into pieces that stay, or is read as the most similar of these. Positions
beyond the tokenizer's truncation lose theirs, too: no query reaches them.
"""

import copy
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import safetensors.numpy
from tokenizers import Tokenizer

from stages.checkpoints.families import FAMILIES
from stages.checkpoints.sparse_storage import read_weights
from stages.core.errors import UserError
from stages.data import tables
from stages.techniques.settings import VocabularyPruning

EMBEDDINGS = "embeddings.word_embeddings.weight"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
UNUSED = "[unused"  # BERT's places for pieces that were never given


def apply(parent: Path, folder: Path, settings: VocabularyPruning) -> dict:
    """Write into `folder` the torch model `parent` with the WordPieces of the training texts."""
    return prune(parent, folder, tables.read("train")["text"], settings.vocab_size, settings.share)


def body(piece: str, prefix: str) -> str:
    """The characters that the piece stands for: without the `prefix` (##) of a continuation."""
    return piece.removeprefix(prefix) or piece


def letters(piece: str, prefix: str) -> set[str]:
    """The single-character pieces that would spell the piece, in the vocabulary or not."""
    text = body(piece, prefix)
    return {piece.removesuffix(text) + text[:1], *(prefix + character for character in text[1:])}


def splits(text: str) -> list[tuple[str, str]]:
    """Every way to cut the text in two, neither part empty."""
    return [(text[:i], text[i:]) for i in range(1, len(text))]


def indispensable(vocabulary: set[str], kept: set[str], prefix: str) -> set[str]:
    """The pieces to keep besides `kept`, which holds every single-character piece of the vocabulary.

    With them, a word that `vocabulary` encodes is encoded by what is kept. WordPiece takes the
    longest piece that fits and never steps back, so a word turns into [UNK] where no piece fits;
    where the next character is a piece of its own in that position, x or ##x, that one always fits.

    A piece with a character that is none is indispensable. Keeping these is not enough: of ab,
    ##cy and ##bc without ##y, `abcy` is ab ##cy; with ab dropped, it is a ##bc, and no piece fits y.
    So a piece is indispensable, too, when a kept one can start inside it and end inside an
    indispensable one that follows.

    Then no cut of the new encoding lies inside an indispensable piece of the old one. The first
    such cut would end a piece that starts outside; not at an old cut, where the old encoding would
    have taken that piece or a longer one, so inside an old piece: by the rule an indispensable one,
    with an earlier cut inside. Everywhere else a piece fits: at an old cut the old piece or its
    first character, within a dispensable piece the next character.

    In BERT's uncased vocabulary every character of every piece is a piece of its own in its
    position, and nothing but the special tokens, whose capitals are not, is indispensable.
    """
    needed = {piece for piece in vocabulary if not letters(piece, prefix) <= vocabulary}
    while True:
        ahead = {
            head for piece in needed if piece.startswith(prefix) for head, _ in splits(body(piece, prefix))
        }
        entries = {
            head[:i]
            for piece in kept | needed
            if piece.startswith(prefix)
            for head, tail in splits(body(piece, prefix))
            if tail in ahead
            for i in range(1, len(head) + 1)
        }
        more = {p for p in vocabulary if any(tail in entries for _, tail in splits(body(p, prefix)))}
        if more <= needed:
            return needed
        needed |= more


def processors(post_processor: dict | None) -> list[dict]:
    """The post-processors of a tokenizer, those of a Sequence one by one."""
    if post_processor is None:
        return []
    if post_processor["type"] == "Sequence":
        return [leaf for inner in post_processor["processors"] for leaf in processors(inner)]
    return [post_processor]


def pruned_tokenizer(
    tokenizer: dict, used: set[str], vocab_size: int = 0, embeddings: np.ndarray | None = None
) -> tuple[dict, list[int]]:
    """The tokenizer.json reduced to the pieces `used`, and the old ids of its rows in their new order.

    If they make fewer than `vocab_size`, the first of the others are kept up to that number: BERT's
    vocabularies are in the order of frequency. Special tokens and added ones stay. A string whose
    pieces are all kept is encoded into the same pieces; their ids are 0, 1, 2 …, in the old order.

    Without `embeddings`, the pieces not kept are gone. Single characters (x and ##x) stay, and so do the
    `indispensable` pieces: a string that the old tokenizer encodes without [UNK] is encoded without
    it by the new one (truncation aside).

    With `embeddings`, shape (old ids, width), every string falls into the pieces that it fell into,
    and one that is not kept has the id of the `nearest` that is.

    A tokenizer that is not of the WordPiece kind is a UserError.
    """
    kind = tokenizer["model"].get("type")
    if kind != "WordPiece":
        raise UserError(
            f"the tokenizer is a {kind}, and vocabulary pruning works on WordPiece: "
            "choose as parent a model of a BERT or DistilBERT"
        )
    new = copy.deepcopy(tokenizer)
    vocabulary, prefix = new["model"]["vocab"], new["model"]["continuing_subword_prefix"]
    added = {token["content"]: token["id"] for token in new["added_tokens"]}
    leaves = processors(new["post_processor"])
    templates = [template for leaf in leaves for template in leaf.get("special_tokens", {}).values()]
    pairs = [leaf[key] for leaf in leaves for key in ("cls", "sep") if key in leaf]

    special = {*SPECIAL, new["model"]["unk_token"], *added, *(token for token, _ in pairs)}
    special.update(token for template in templates for token in template["tokens"])
    special.update([new["padding"]["pad_token"]] if new["padding"] else [])
    old = vocabulary | added
    rows = {old[piece] for piece in (used | special) & old.keys()}
    if embeddings is None:
        rows |= {row for piece, row in vocabulary.items() if len(body(piece, prefix)) == 1}
    others = sorted({row for piece, row in vocabulary.items() if UNUSED not in piece} - rows)
    rows.update(others[: max(vocab_size - len(rows), 0)])
    if embeddings is None:
        kept = {piece for piece, row in vocabulary.items() if row in rows}
        rows |= {old[piece] for piece in indispensable(set(vocabulary), kept, prefix)}

    order = sorted(rows)
    place = {row: i for i, row in enumerate(order)}
    ids = {piece: place[row] for piece, row in old.items() if row in place}
    if embeddings is not None:
        among = sorted(rows - {old[piece] for piece in special & old.keys()})
        lost = [piece for piece in vocabulary if piece not in ids and UNUSED not in piece]
        rows_of = nearest(embeddings, [old[piece] for piece in lost], among)
        ids |= {piece: place[row] for piece, row in zip(lost, rows_of, strict=True)}
    new["model"]["vocab"] = {piece: ids[piece] for piece in vocabulary if piece in ids}
    for token in new["added_tokens"]:
        token["id"] = ids[token["content"]]
    for template in templates:
        template["ids"] = [ids[token] for token in template["tokens"]]
    for pair in pairs:
        pair[1] = ids[pair[0]]
    if new["padding"]:
        new["padding"]["pad_id"] = ids[new["padding"]["pad_token"]]
    return new, order


def nearest(embeddings: np.ndarray, rows: list[int], among: list[int]) -> list[int]:
    """For each of `rows` of `embeddings`, shape (ids, width), the one `among` them at the least angle."""
    directions = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    candidates = directions[among].T
    parts = (directions[rows[start : start + 1024]] for start in range(0, len(rows), 1024))
    nearest_of = [(part @ candidates).argmax(axis=1) for part in parts]
    return [among[i] for part in nearest_of for i in part]


def prune(parent: Path, folder: Path, texts: Iterable[str], vocab_size: int = 0, share: bool = False) -> dict:
    """Write into `folder` the torch model `parent` with the pieces of `texts`, or `vocab_size` of them.

    On `texts` it computes what the parent computes. Any other piece is split into pieces that stay, in the
    worst case into characters; to `share`, it has the embedding of the nearest piece that stays. Returns the
    rows of the word embeddings and their size in MB of 2^20 bytes, each as [before, after]. A parent with
    an exported model or another tokenizer is a UserError.
    """
    source = json.loads((parent / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((parent / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(parent / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    config = json.loads((parent / "config.json").read_text(encoding="utf-8"))
    weights = read_weights(parent)
    named = {
        key: value for key, value in config.items() if key.endswith("_token_id") and isinstance(value, int)
    }
    used = {piece for encoding in tokenizer.encode_batch(list(texts)) for piece in encoding.tokens}
    used |= {piece for piece, i in tokenizer.get_vocab().items() if i in named.values()}
    key = next(name for name in weights if name.endswith((EMBEDDINGS, "tok_embeddings.weight")))
    before = weights[key]
    projection = weights.get(key.replace("word_embeddings", "word_embeddings.projection"))
    whole = before if projection is None else before @ projection.T
    pruned, rows = pruned_tokenizer(source, used, vocab_size, whole if share else None)

    place = {old: new for new, old in enumerate(rows)}
    after = weights[key] = before[rows]
    config |= {"vocab_size": len(rows), **{key: place.get(i) for key, i in named.items()}}
    family = FAMILIES.get(config["model_type"])
    key = f"{family.embeddings}.position_embeddings.weight" if family else ""
    if family and key in weights and source["truncation"]:
        weights[key] = weights[key][: family.first_position(config) + source["truncation"]["max_length"]]
        config["max_position_embeddings"] = len(weights[key])
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    safetensors.numpy.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if "added_tokens_decoder" in settings:
        decoder = settings["added_tokens_decoder"]
        settings["added_tokens_decoder"] = {str(place[int(i)]): token for i, token in decoder.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    text = json.dumps(pruned, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return {
        "vocabulary": [len(before), len(after)],
        "embedding_mb": [matrix.nbytes / 2**20 for matrix in (before, after)],
    }
