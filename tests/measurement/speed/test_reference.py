import json

import pytest
from conftest import word_tokenizer

from stages import runtime
from stages.core.settings import BertShape
from stages.measurement.speed import reference

SHAPE = BertShape(
    vocab_size=100, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20
)


@pytest.fixture
def folder(models):
    reference.write(models / reference.NAME, models / "teacher", SHAPE)
    return models / reference.NAME


def test_it_answers_with_the_teachers_labels(folder):
    classifier = runtime.load(folder)
    assert classifier.labels == ["balance", "oos", "transfer"]
    queries = ["send money to my car", "my balance"]
    assert classifier.logits(queries).shape == (2, 3)
    assert {p.label for p in classifier.predict(queries)} <= set(classifier.labels)
    ids, _ = classifier.encode(queries[:1])
    assert ids[0].tolist() == word_tokenizer().encode(queries[0]).ids


def test_it_has_a_word_for_each_piece(models, capsys):
    reference.write(models / "it", models / "teacher", SHAPE.model_copy(update={"vocab_size": 59}))
    assert json.loads((models / "it" / "config.json").read_text())["vocab_size"] == 60
    assert (
        capsys.readouterr().out
        == "bert-base-shape has 60 words, as many as the teacher's tokenizer, not 59\n"
    )
