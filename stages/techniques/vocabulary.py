"""Vocabulary pruning: pieces of words that the training texts do not use lose their embeddings.

What they stood for is split into pieces that stay or, in a WordPiece, is read as the most similar of these.
Positions beyond the tokenizer's truncation lose theirs, too: no query reaches them.
"""

import copy
import itertools
import json
import re
import unicodedata
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

EMBEDDINGS = ("embeddings.word_embeddings.weight", "embeddings.tok_embeddings.weight")
KINDS = ("WordPiece", "BPE", "Unigram")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
UNUSED = "[unused"  # BERT's places for pieces that were never given
BYTE = re.compile("<0x[0-9A-F]{2}>")  # which stand for a character that is no piece


def apply(parent: Path, folder: Path, settings: VocabularyPruning) -> dict:
    """Write into `folder` the torch model `parent` with the pieces of the training texts."""
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


def characters(model: dict) -> set[str]:
    """The pieces that stay whatever the texts use: each character, and in a byte-level BPE each byte.

    A Unigram keeps each piece with a character that is no piece, too, and the piece with the lowest score,
    which sets that of an unknown character.
    """
    vocabulary = numbered(model)
    if model["type"] == "WordPiece":
        return {piece for piece in vocabulary if len(body(piece, model["continuing_subword_prefix"])) == 1}
    single = {piece for piece in vocabulary if len(piece) == 1}
    kept = single | {piece for piece in vocabulary if model.get("byte_fallback") and BYTE.fullmatch(piece)}
    if model["type"] == "Unigram":
        kept |= {piece for piece in vocabulary if not set(piece) <= single}
        kept.add(min(model["vocab"], key=lambda entry: entry[1])[0])
    return kept


def merged(piece: str, ranks: dict[tuple[str, str], int]) -> set[str]:
    """The pieces that a BPE makes on the way from characters to `piece`, itself among them.

    `ranks` are the places of the merges. Where they do not lead to `piece`, there are none.
    """
    parts = list(piece)
    made = set(parts)
    while len(parts) > 1:
        places = [ranks.get(pair, len(ranks)) for pair in itertools.pairwise(parts)]
        i = places.index(min(places))
        if places[i] == len(ranks):
            return set()
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        made.add(parts[i])
    return made


def needed(model: dict, kept: set[str]) -> set[str]:
    """The pieces to keep besides `kept`, which holds the `characters`, for the encoding to stay what it was.

    A WordPiece's are the `indispensable` ones. A BPE's are those on the way to a kept one: what is merged
    within a piece does not depend on the text around it, so a text whose pieces are all kept is merged in
    the same steps. A Unigram needs none: it takes the likeliest of all ways to cut a text, and where that
    one's pieces are kept it stays the likeliest.
    """
    if model["type"] == "WordPiece":
        return indispensable(set(numbered(model)), kept, model["continuing_subword_prefix"])
    if model["type"] == "BPE":
        ranks = {(left, right): rank for rank, (left, right) in enumerate(pairs(model))}
        return set().union(*(merged(piece, ranks) for piece in kept)) & numbered(model).keys()
    return set()


def pairs(model: dict) -> list[list[str]]:
    """The merges of a BPE; old files have a string for each."""
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]


def numbered(model: dict) -> dict[str, int]:
    """The pieces of a tokenizer.json's model and their ids."""
    if model["type"] == "Unigram":
        return {piece: i for i, (piece, _) in enumerate(model["vocab"])}
    return model["vocab"]


def reduce(model: dict, ids: dict[str, int]) -> None:
    """Leave in the model, in place, the pieces that have `ids`, and what leads to them."""
    if model["type"] == "Unigram":
        unknown = model["unk_id"]
        if unknown is not None:
            model["unk_id"] = ids[model["vocab"][unknown][0]]
        model["vocab"] = [entry for entry in model["vocab"] if entry[0] in ids]
        return
    model["vocab"] = {piece: ids[piece] for piece in model["vocab"] if piece in ids}
    if model["type"] == "BPE":
        model["merges"] = [pair for pair in pairs(model) if {*pair, "".join(pair)} <= ids.keys()]


def check(model: dict) -> None:
    """A UserError says that no proof covers this kind of vocabulary."""
    kind = model.get("type")
    if kind not in KINDS:
        raise UserError(
            f"the tokenizer is a {kind}, and vocabulary pruning works on {', '.join(KINDS)}: "
            "remove the models of `variants.vocabulary`, or choose another teacher"
        )
    if kind == "BPE" and (model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")):
        raise UserError(
            "the tokenizer is a BPE that marks where words go on or end, and vocabulary pruning works on "
            "BPE without such marks: remove the models of `variants.vocabulary`, or choose another teacher"
        )


def pruned_tokenizer(
    tokenizer: dict, used: set[str], vocab_size: int = 0, embeddings: np.ndarray | None = None
) -> tuple[dict, list[int]]:
    """The tokenizer.json reduced to the pieces `used`, and the old ids of its rows in their new order.

    If they make fewer than `vocab_size`, the first of the others are kept up to that number: vocabularies
    are in the order of frequency. Special tokens and added ones stay. A string whose pieces are all kept
    is encoded into the same pieces; their ids are 0, 1, 2 …, in the old order.

    Without `embeddings`, the pieces not kept are gone. `characters` stay, and so do the pieces `needed`: a
    string that the old tokenizer encodes without an unknown is encoded without one by the new
    (truncation aside).

    With `embeddings`, shape (old ids, width), of a WordPiece, every string falls into the pieces that it fell
    into, and one that is not kept has the id of the `nearest` that is.

    A tokenizer of another kind than KINDS is a UserError.
    """
    check(tokenizer["model"])
    new = copy.deepcopy(tokenizer)
    model = new["model"]
    vocabulary = numbered(model)
    added = {token["content"]: token["id"] for token in new["added_tokens"]}
    leaves = processors(new["post_processor"])
    templates = [template for leaf in leaves for template in leaf.get("special_tokens", {}).values()]
    ends = [leaf[key] for leaf in leaves for key in ("cls", "sep") if key in leaf]

    special = {*SPECIAL, *added, *(token for token, _ in ends)}
    special.update(token for template in templates for token in template["tokens"])
    special.update([new["padding"]["pad_token"]] if new["padding"] else [])
    unknown = model["vocab"][model["unk_id"] or 0][0] if model["type"] == "Unigram" else model["unk_token"]
    special.add(unknown)
    old = vocabulary | added
    rows = {old[piece] for piece in (used | special) & old.keys()}
    if embeddings is None:
        rows |= {vocabulary[piece] for piece in characters(model)}
    others = sorted({row for piece, row in vocabulary.items() if UNUSED not in piece} - rows)
    rows.update(others[: max(vocab_size - len(rows), 0)])
    if embeddings is None:
        kept = {piece for piece, row in vocabulary.items() if row in rows}
        rows |= {vocabulary[piece] for piece in needed(model, kept)}

    order = sorted(rows)
    place = {row: i for i, row in enumerate(order)}
    ids = {piece: place[row] for piece, row in old.items() if row in place}
    if embeddings is not None:
        among = sorted(rows - {old[piece] for piece in special & old.keys()})
        lost = [piece for piece in vocabulary if piece not in ids and UNUSED not in piece]
        rows_of = nearest(embeddings, [old[piece] for piece in lost], among)
        ids |= {piece: place[row] for piece, row in zip(lost, rows_of, strict=True)}
    reduce(model, ids)
    for token in new["added_tokens"]:
        token["id"] = ids[token["content"]]
    for template in templates:
        template["ids"] = [ids[token] for token in template["tokens"]]
    for end in ends:
        end[1] = ids[end[0]]
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


def script(text: str) -> str:
    """The script of the first letter, such as "latin" or "devanagari"; "none" where there is no letter."""
    letter = next(filter(str.isalpha, text), None)
    return "none" if letter is None else unicodedata.name(letter, "none").split()[0].lower()


def by_script(
    tokenizer: Tokenizer, texts: Iterable[str], before: int, rows: list[int]
) -> dict[str, list[int]]:
    """How many of the `before` ids of the tokenizer, and of those in `rows`, are in each script of `texts`.

    "other" has those in none of these scripts: no letters, added tokens, other scripts.
    """
    scripts = {script(letter) for letter in set().union(*map(set, texts))} - {"none"}
    counts = {name: [0, 0] for name in [*sorted(scripts), "other"]}
    kept = set(rows)
    for i in range(before):
        piece = tokenizer.id_to_token(i)
        text = tokenizer.decoder.decode([piece]) if piece is not None and tokenizer.decoder else piece or ""
        count = counts.get(script(text), counts["other"])
        count[0] += 1
        count[1] += i in kept
    return counts


def prune(parent: Path, folder: Path, texts: Iterable[str], vocab_size: int = 0, share: bool = False) -> dict:
    """Write into `folder` the torch model `parent` with the pieces of `texts`, or `vocab_size` of them.

    On `texts` it computes what the parent computes. Any other piece is split into pieces that stay, in the
    worst case into characters; to `share`, it has the embedding of the nearest piece that stays. Two pieces
    have one id in a WordPiece alone, so those of other kinds are split, which is said.

    Returns the rows of the word embeddings, `vocabulary`, and their size in MB of 2^20 bytes, `embedding_mb`,
    each as [before, after]; `embedding_mb_by_script`, the same of the pieces in each script of `texts`; and
    `tokenizer_mb` of tokenizer.json. A parent with an exported model or another tokenizer is a UserError.
    """
    texts = list(texts)
    source = json.loads((parent / "tokenizer.json").read_text(encoding="utf-8"))
    check(source["model"])
    if share and source["model"]["type"] != "WordPiece":
        print(f"share: a {source['model']['type']} has an id for each piece, so dropped pieces are split")
        share = False
    settings = json.loads((parent / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(parent / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    config = json.loads((parent / "config.json").read_text(encoding="utf-8"))
    weights = read_weights(parent)
    named = {
        key: value for key, value in config.items() if key.endswith("_token_id") and isinstance(value, int)
    }
    used = {piece for encoding in tokenizer.encode_batch(texts) for piece in encoding.tokens}
    used |= {piece for piece, i in tokenizer.get_vocab().items() if i in named.values()}
    key = next(name for name in weights if name.endswith(EMBEDDINGS))
    before = weights[key]
    projection = weights.get(f"{key.removesuffix('weight')}projection.weight")
    whole = before if projection is None else before @ projection.T
    pruned, rows = pruned_tokenizer(source, used, vocab_size, whole if share else None)

    place = {old: new for new, old in enumerate(rows)}
    after = weights[key] = before[rows]
    new_config = config | {"vocab_size": len(rows), **{key: place.get(i) for key, i in named.items()}}
    family = FAMILIES.get(config["model_type"])
    key = f"{family.embeddings}.position_embeddings.weight" if family else ""
    if family and key in weights:
        first = family.first_position(new_config)  # which moves with the padding's id
        begin = family.first_position(config) - first
        end = begin + first + source["truncation"]["max_length"] if source["truncation"] else None
        weights[key] = weights[key][begin:end]
        new_config["max_position_embeddings"] = len(weights[key])
        if config.get("relative_attention") and config.get("max_relative_positions", -1) < 1:
            new_config["max_relative_positions"] = config["max_position_embeddings"]
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(new_config, indent=2) + "\n", encoding="utf-8")
    safetensors.numpy.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if "added_tokens_decoder" in settings:
        decoder = settings["added_tokens_decoder"]
        settings["added_tokens_decoder"] = {str(place[int(i)]): token for i, token in decoder.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    text = json.dumps(pruned, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    row_mb = before[:1].nbytes / 2**20
    scripts = by_script(tokenizer, texts, len(before), rows)
    return {
        "vocabulary": [len(before), len(after)],
        "embedding_mb": [matrix.nbytes / 2**20 for matrix in (before, after)],
        "embedding_mb_by_script": {
            name: [row_mb * count for count in counts] for name, counts in scripts.items()
        },
        "tokenizer_mb": [(f / "tokenizer.json").stat().st_size / 2**20 for f in (parent, folder)],
    }
