import numpy as np
import pytest
import torch
from conftest import bpe_tokenizer, save_as_hub, tiny_roberta, word_tokenizer
from transformers import AutoModelForSequenceClassification

from stages import runtime
from stages.core.errors import UserError

QUERIES = ["send money to my car", "balance", "rent a car in w20 w21 w22"]


@pytest.fixture(params=["student", "student-ort"])
def folder(request, models):
    return models / request.param


def test_predictions_are_the_models(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder.with_name("student")).eval()
    predictions = runtime.load(folder).predict(QUERIES)
    for query, prediction in zip(QUERIES, predictions, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([word_tokenizer().encode(query).ids])).logits[0]
        score, index = logits.softmax(-1).max(-1)
        assert prediction.label == model.config.id2label[int(index)]
        assert prediction.score == pytest.approx(score.item(), abs=1e-5)


def test_encoding(folder):
    ids, mask = runtime.load(folder).encode(["my balance", "Balance"])
    assert ids.dtype == mask.dtype == np.int64
    assert ids.tolist() == [[2, 4, 5, 3], [2, 5, 3, 0]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_a_fixed_length(folder):
    ids, mask = runtime.load(folder, length=4).encode(["my balance is money", "balance"])
    assert ids[1].tolist() == [2, 5, 3, 0] and ids.shape == (2, 4)
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_a_fixed_length_beyond_the_positions(folder):
    with pytest.raises(UserError, match=r"reads 24 tokens at most: shorten the length, which is 25"):
        runtime.load(folder, length=25)
    assert runtime.load(folder, length=24).logits(QUERIES).shape == (3, 3)


def test_special_tokens_that_were_typed_are_text(folder):
    ids, _ = runtime.load(folder).encode(["my [SEP] balance [PAD] [CLS]"])
    assert [ids[0].tolist().count(special) for special in (0, 2, 3)] == [0, 1, 1]


def test_padding_changes_nothing(folder):
    classifier = runtime.load(folder)
    alone = np.concatenate([classifier.logits([query]) for query in QUERIES])
    np.testing.assert_allclose(classifier.logits(QUERIES), alone, atol=1e-5)


def test_the_padding_is_the_models_own(tmp_path):
    model = tiny_roberta()
    save_as_hub(model, bpe_tokenizer(), tmp_path)
    classifier = runtime.load(tmp_path)
    ids, mask = classifier.encode(["my balance", "w"])
    assert (ids[1] == 1).tolist() == (mask[1] == 0).tolist()
    alone = np.concatenate([classifier.logits([query]) for query in QUERIES])
    np.testing.assert_allclose(classifier.logits(QUERIES), alone, atol=1e-5)
    with torch.no_grad():
        theirs = model(torch.tensor([bpe_tokenizer().encode(QUERIES[0]).ids])).logits
    np.testing.assert_allclose(alone[:1], theirs, atol=1e-5)


def test_long_and_odd_queries(folder):
    classifier = runtime.load(folder)
    predictions = classifier.predict(["money " * 1000, "", "¿qué? 你好 🚗", "\x00"])
    assert all(p.label in {"balance", "oos", "transfer"} and 0 < p.score <= 1 for p in predictions)


def test_no_model(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is no model folder: it has no config.json"):
        runtime.load(tmp_path / "nowhere")
