import numpy as np
import pytest
import torch
from conftest import bpe_tokenizer, save_as_hub, tiny_bert, tiny_distilbert, tiny_roberta, word_tokenizer

from stages.checkpoints import sentences
from stages.core.settings import Pretrained

TEXTS = ["send money to my car", "my balance", "a", "rent a car in w20 w21 w22 w23", "my balance"]


@pytest.mark.parametrize("kind", [tiny_bert, tiny_distilbert, tiny_roberta])
def test_the_mean_of_the_last_hidden_states(kind, tmp_path, monkeypatch, capsys):
    """Of one text at a time, without padding; in batches of two, in the order of the texts."""
    model, tokenizer = kind().eval(), bpe_tokenizer() if kind is tiny_roberta else word_tokenizer()
    save_as_hub(model, tokenizer, tmp_path / "hub")
    monkeypatch.setattr(sentences, "BATCH", 2)
    teacher = Pretrained(source="hub", model=str(tmp_path / "hub"), sha256=None)
    vectors = sentences.embed(TEXTS, teacher, tokenizer, max_length=12)
    assert vectors.dtype == np.float32
    tokenizer.enable_truncation(12)
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            hidden = model.base_model(ids).last_hidden_state[0].double().numpy()
        mean = hidden.sum(0) / len(hidden)
        np.testing.assert_allclose(vector, mean / np.sqrt((mean**2).sum()), atol=1e-5)
    assert vectors[1] @ vectors[4] == pytest.approx(1, abs=1e-6)
    assert capsys.readouterr() == ("", "")
