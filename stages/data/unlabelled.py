"""Text without labels, on which the teachers' logits are what there is to learn."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from stages.core import packages
from stages.core.errors import UserError
from stages.core.settings import Unlabelled
from stages.data import formats
from stages.data.tokenizer import normalized

WORDS = range(3, 21)  # of an utterance of chit-chat


def load(
    params: Unlabelled,
    queries: dict[str, list[str]],
    tokenizer: Tokenizer,
    max_length: int,
    seed: int,
) -> list[str]:
    """Texts from all sources, none of which is a query of a split of `queries`, nor stands twice.

    Two texts are the same if the tokenizer makes the same of them. `seed` decides what is drawn and changed.
    A UserError says that sources are named and no text is left.
    """
    texts = [text for path in params.files for file in _files(Path(path)) for text in lines(file)]
    if params.chitchat:
        texts += _draw(chitchat(), params.chitchat, seed)
    rng = random.Random(f"{seed}/changed")
    texts += [change(text, queries["train"], rng) for _ in range(params.changed) for text in queries["train"]]

    known = {*normalized([text for split in queries.values() for text in split], tokenizer, max_length)}
    first: dict[str, str] = {}
    for words, text in zip(normalized(texts, tokenizer, max_length), texts, strict=True):
        if words and words not in known:
            first.setdefault(words, text)
    kept = _draw([*first.values()], params.limit or len(first), seed)
    if params and not kept:
        raise UserError("data.unlabelled: each of its texts is a query of the data: name others")
    return kept


def lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank."""
    try:
        return [line.strip() for line in formats.decode(path).splitlines() if line.strip()]
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): correct data.unlabelled.files, or the file"
        ) from None


def chitchat() -> list[str]:
    """The utterances of 3 to 20 words that the package chitchat-dataset has, each once."""
    path = packages.find("chitchat-dataset", "dataset.json", "-e '.[transfer]'")
    if path is None:
        raise UserError("the package 'chitchat-dataset' carries no dataset.json: reinstall it")
    conversations = json.loads(path.read_text("utf-8")).values()
    turns = [turn for conversation in conversations for turn in conversation["messages"]]
    texts = dict.fromkeys(utterance["text"].strip() for turn in turns for utterance in turn)
    return [text for text in texts if len(text.split()) in WORDS]


def change(query: str, others: Sequence[str], rng: random.Random) -> str:
    """The query with a word left out, two words swapped, a letter mistyped, or another's second half.

    The other is drawn from `others`. What the query has too few words for is not drawn.
    """
    words = query.split()
    kind = rng.choice(("mistype", "join", "drop", "swap") if len(words) > 1 else ("mistype", "join"))
    at = rng.randrange(len(words) - (kind == "swap"))
    if kind == "drop":
        del words[at]
    elif kind == "swap":
        words[at : at + 2] = reversed(words[at : at + 2])
    elif kind == "mistype":
        words[at] = mistype(words[at], rng)
    else:
        other = rng.choice(others).split()
        words = words[: (len(words) + 1) // 2] + other[len(other) // 2 :]
    return " ".join(words)


def mistype(word: str, rng: random.Random) -> str:
    """The word with a letter typed twice, left out, or after the next one."""
    at = rng.randrange(len(word))
    letter, rest = word[at], word[at + 1 :]
    typed = [letter + letter + rest, rest, rest[:1] + letter + rest[1:]]
    return rng.choice([made for end in typed if (made := word[:at] + end) not in ("", word)])


def _files(path: Path) -> list[Path]:
    """The file, or those of a folder whose names do not begin with a dot."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))


def _draw(texts: list[str], count: int, seed: int) -> list[str]:
    """At most `count` of the texts, in their order."""
    if count >= len(texts):
        return texts
    return [texts[i] for i in sorted(random.Random(seed).sample(range(len(texts)), count))]
