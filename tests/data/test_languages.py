"""Texts of many scripts through what reads queries: the normaliser, the leak check, the cache, the limits."""

import json
from pathlib import Path

import family_models
import pandas as pd
import pytest
import yaml
from tokenizers import trainers

from stages.core.errors import UserError
from stages.data import duplicates, unlabelled
from stages.data.tokenizer import normalized
from stages.serving.body import BadRequest, texts_in
from stages.serving.cache import ResponseCache
from stages.serving.options import Limits

CORPUS = yaml.safe_load((Path(__file__).parents[1] / "corpora/three_languages.yaml").read_text("utf-8"))
TEXTS = [query for by in CORPUS.values() for queries in by.values() for query in queries]
KINDS = ("bert", "roberta", "xlm-roberta")
# To a model that normalises by NFKC (XLM-R), or strips accents and marks (BERT), these pairs are one text.
ALIKE = [
    ("xlm-roberta", "Überweise Geld", "U\u0308berweise Geld"),  # combining accent
    ("xlm-roberta", "ＡＢＣ １２３", "ABC 123"),  # full width
    ("xlm-roberta", "مرحبا ﻻ", "مرحبا لا"),  # a ligature of Arabic
    ("xlm-roberta", "क़लम", "क\u093cलम"),  # nukta, composed and not
    ("bert", "café", "cafe\u0301"),
    ("bert", "שלום\u200f", "שלום"),  # a right-to-left mark
    ("bert", "我的余额", "我 的 余 额"),
    ("roberta", " 余额 ", "余额"),
]
# These differ, and stay so, words that the vocabulary lacks too.
DIFFERENT = [
    ("जाना है", "जाने है"),
    ("我的卡丢了", "我的卡冻了"),
    ("Kreditkarte sperren", "Kreditkarten sperren"),
    ("👍", "👎"),
    ("تحويل المال", "تحويل الماء"),
]


@pytest.mark.parametrize(("family", "one", "other"), ALIKE)
def test_one_text_written_in_two_ways(family, one, other):
    """It is read alike, it is a leak between splits, and its answers are one in the cache."""
    tokenizer = family_models.tokenizer(family)
    first, second = normalized([one, other], tokenizer, 64)
    assert first == second
    splits = {
        "train": pd.DataFrame({"text": [other, "x"], "intent": ["a", "a"]}),
        "test": pd.DataFrame({"text": [one], "intent": ["a"]}),
    }
    kept, dropped = duplicates.drop(splits, tokenizer, 64, "drop")
    assert (kept["train"]["text"].tolist(), sum(dropped.values())) == (["x"], 1)
    with pytest.raises(UserError, match="are one text to the teacher"):
        duplicates.drop(splits, tokenizer, 64, "error")


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_two_texts_stay_two(family, one, other):
    first, second = normalized([one, other], family_models.tokenizer(family), 64)
    assert first != second


@pytest.mark.parametrize("family", KINDS)
def test_no_query_of_the_corpus_is_another(family):
    assert len({*normalized(TEXTS, family_models.tokenizer(family), 64)}) == len(TEXTS)


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("text", ["余额" * 60, "Donaudampfschifffahrt " * 9, "बैंक बैलेंस " * 20, "👩‍👩‍👧 é" * 30])
def test_what_is_cut_off_does_not_count(family, text):
    """Two texts that begin alike are one, where the model reads no further: by characters, not bytes."""
    tokenizer = family_models.tokenizer(family)
    if family == "xlm-roberta":  # which joins unknown characters to one token, so it has to know these
        special = [*family_models.ROBERTA.values()]
        trainer = trainers.UnigramTrainer(
            vocab_size=1000, special_tokens=special, unk_token="<unk>", show_progress=False
        )
        tokenizer.train_from_iterator([*TEXTS, "👩‍👩‍👧 é"], trainer)
    ends = [text + " " + "卡" * 40, text + " " + "z" * 40]
    first, second = normalized(ends, tokenizer, 8)
    assert [*map(len, tokenizer.encode_batch(ends))] == [8, 8]
    assert first == second


@pytest.mark.parametrize("family", KINDS)
def test_the_caches_key_is_what_the_model_reads(family, tmp_path):
    tokenizer = family_models.tokenizer(family)
    tokenizer.enable_truncation(400)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    cache = ResponseCache(tmp_path, 8)
    texts = [*TEXTS, *(text for _, *pair in ALIKE for text in pair), *(t for pair in DIFFERENT for t in pair)]
    keys: dict = {}
    for text in texts:
        ids = tuple(tokenizer.encode(text).ids)
        assert cache.key(text) == ids
        keys.setdefault(ids, set()).add(text)
    if family == "roberta":  # whose bytes tell every text from every other
        assert all(len({text.strip() for text in alike}) == 1 for alike in keys.values())


def as_body(text: str) -> bytes:
    return json.dumps({"text": text}, ensure_ascii=False).encode()


@pytest.mark.parametrize("character", ["我", "क", "ع", "👍", "e\u0301", "\u200fא"])
def test_the_service_counts_characters(character):
    """A text of the most characters is served, whatever their bytes."""
    text = character * (Limits.characters // len(character))
    assert texts_in(as_body(text), Limits()) == ([text], False)
    with pytest.raises(BadRequest, match="characters: send at most"):
        texts_in(as_body(text + character), Limits())


def test_changed_text_is_text():
    """Queries without spaces are changed too, and no change makes half a character."""
    import random

    rng = random.Random(0)
    changed = [unlabelled.change(text, TEXTS, rng) for text in TEXTS]
    assert all(text.strip() and text.encode() for text in changed)
    assert sum(a != b for a, b in zip(changed, TEXTS, strict=True)) > 0.8 * len(TEXTS)
