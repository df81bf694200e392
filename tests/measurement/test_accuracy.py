import pytest

from stages.measurement.accuracy import intent_accuracy


@pytest.mark.parametrize(
    ("predictions", "references", "out_of_scope", "expected"),
    [
        # 0 is out of scope: 3 of 6 right; in scope 2 of 4; out of scope 1 of 2
        ([1, 2, 0, 1, 0, 2], [1, 2, 1, 2, 0, 0], 0, (0.5, 0.5, 0.5)),
        ([1, 1, 1, 0], [1, 1, 1, 1], 0, (0.75, 0.75, None)),
        ([0, 1], [0, 0], 0, (0.5, None, 0.5)),
        ([0, 1, 2], [0, 1, 1], None, (2 / 3, 2 / 3, None)),
    ],
)
def test_counted_by_hand(predictions, references, out_of_scope, expected):
    result = intent_accuracy().compute(
        predictions=predictions, references=references, out_of_scope=out_of_scope
    )
    assert tuple(result.values()) == pytest.approx(expected)
    assert list(result) == ["accuracy", "accuracy_in_scope", "oos_recall"]


def test_agrees_with_scikit_learn():
    import numpy as np
    from sklearn.metrics import accuracy_score, recall_score

    rng = np.random.default_rng(0)
    references = rng.integers(0, 5, 500)
    predictions = np.where(rng.random(500) < 0.7, references, rng.integers(0, 5, 500))
    result = intent_accuracy().compute(predictions=predictions, references=references, out_of_scope=3)
    inside = references != 3
    assert result["accuracy"] == pytest.approx(accuracy_score(references, predictions))
    assert result["accuracy_in_scope"] == pytest.approx(
        accuracy_score(references[inside], predictions[inside])
    )
    assert result["oos_recall"] == pytest.approx(
        recall_score(references, predictions, labels=[3], average=None)[0]
    )
