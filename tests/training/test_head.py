import numpy as np
import pytest
import torch
from conftest import random_rows, tiny_roberta
from sklearn.linear_model import LogisticRegression
from transformers import RobertaForSequenceClassification, XLMRobertaForSequenceClassification

from stages.training import head, loop


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 2]], ids=["all", "two of three"])
def test_the_head_is_the_logistic_regression_of_the_features(bert, labels):
    rows = [row | {"labels": labels[i % len(labels)]} for i, row in enumerate(random_rows(30))]
    with torch.no_grad():
        features = np.concatenate(
            [bert.bert(row["input_ids"][None]).pooler_output.numpy() for row in rows]
        )  # one by one, without padding
    expected = LogisticRegression(max_iter=300).fit(features, [row["labels"] for row in rows])
    encoder = {name: value.clone() for name, value in bert.bert.state_dict().items()}
    kept = bert.classifier.weight[1].clone()
    head.fit(bert, rows)
    logits = loop.logits(bert, rows)[:, labels]
    probabilities = torch.tensor(logits).softmax(-1).numpy()
    np.testing.assert_allclose(probabilities, expected.predict_proba(features), atol=1e-3)
    assert all(torch.equal(encoder[name], value) for name, value in bert.bert.state_dict().items())
    assert torch.equal(bert.classifier.weight[1], kept) == (1 not in labels)


@pytest.mark.parametrize("kind", [RobertaForSequenceClassification, XLMRobertaForSequenceClassification])
def test_a_head_of_two_layers_has_its_last_one_fitted(kind):
    """Whichever comes first in the model, its head or its encoder."""
    model = kind(kind.config_class(**tiny_roberta().config.to_dict() | {"initializer_range": 0.02}))
    rows = [row | {"labels": i % 3} for i, row in enumerate(random_rows(30))]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    head.fit(model, rows)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(before[name], value)]
    assert changed == ["classifier.out_proj.weight", "classifier.out_proj.bias"]


def test_a_weight_counts_as_copies_do(bert):
    rows = [row | {"labels": i % 3} for i, row in enumerate(random_rows(30))]
    logits = []
    for given in (
        [*rows, *rows[:5], *rows[:5]],
        [row | {"weight": np.float32(3.0 if i < 5 else 1.0)} for i, row in enumerate(rows)],
    ):
        head.fit(bert, given)
        logits.append(torch.tensor(loop.logits(bert, rows)).softmax(-1).numpy())
    np.testing.assert_allclose(*logits, atol=1e-3)
    head.fit(bert, rows)
    assert np.abs(torch.tensor(loop.logits(bert, rows)).softmax(-1).numpy() - logits[0]).max() > 0.01
