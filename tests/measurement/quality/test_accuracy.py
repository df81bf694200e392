import json

import numpy as np
import pytest
from scipy import special

from stages.measurement.quality.accuracy import accuracies, measure, spread
from stages.measurement.quality.calibration import expected_calibration_error
from stages.runtime.calibration import NONE, Calibration, Threshold


@pytest.mark.parametrize(
    ("predictions", "references", "out_of_scope", "expected"),
    [
        # 0 is out of scope: 3 of 7 right; in scope 2 of 5; out of scope 1 of 2, of 3 answers of it
        ([1, 2, 0, 1, 0, 2, 0], [1, 2, 1, 2, 0, 0, 1], 0, (3 / 7, 2 / 5, 1 / 2, 1 / 3)),
        ([1, 1, 1, 0], [1, 1, 1, 1], 0, (0.75, 0.75, None, 0)),
        ([0, 1], [0, 0], 0, (0.5, None, 0.5, 1)),
        ([1, 1], [0, 1], 0, (0.5, 1, 0, None)),
        ([0, 1, 2], [0, 1, 1], None, (2 / 3, 2 / 3, None, None)),
    ],
)
def test_counted_by_hand(predictions, references, out_of_scope, expected):
    result = accuracies(np.array(predictions), np.array(references), out_of_scope, share=0.2)
    expected_accuracy = result.pop("expected_accuracy")
    assert tuple(result.values()) == pytest.approx(expected)
    assert list(result) == ["accuracy", "accuracy_in_scope", "oos_recall", "oos_precision"]
    accuracy, in_scope, recall, _ = expected
    known = in_scope is not None and recall is not None
    assert expected_accuracy == pytest.approx(0.8 * in_scope + 0.2 * recall if known else accuracy)


def test_agrees_with_scikit_learn():
    from sklearn.metrics import accuracy_score, precision_score, recall_score

    rng = np.random.default_rng(0)
    references = rng.integers(0, 5, 500)
    predictions = np.where(rng.random(500) < 0.7, references, rng.integers(0, 5, 500))
    result = accuracies(predictions, references, out_of_scope=3, share=0.5)
    inside = references != 3
    assert result["accuracy"] == pytest.approx(accuracy_score(references, predictions))
    assert result["accuracy_in_scope"] == pytest.approx(
        accuracy_score(references[inside], predictions[inside])
    )
    assert result["oos_recall"] == pytest.approx(
        recall_score(references, predictions, labels=[3], average=None)[0]
    )
    assert result["oos_precision"] == pytest.approx(
        precision_score(references, predictions, labels=[3], average=None)[0]
    )


# Of balance, out of scope, transfer.
LOGITS = np.array([[3.0, 0, 1], [0, 1, 4], [1.0, 2, 0], [0.5, 1, 1.2], [2.0, 0, 2.5], [0, 5, 0.1]])
LABELS = np.array([0, 2, 0, 1, 0, 1])


def test_plain_and_calibrated():
    """Plain, queries 2 and 5 are answered out of scope; by the threshold, 2, 3 and 5."""
    # Energies 1.81, 2.13, 0.97, 1.13, 1.94 and 0.72; each query ten times, and so 20 out of scope.
    fitted = Calibration(2.0, Threshold(1, "energy", 1.4))
    assert measure(np.tile(LOGITS, (10, 1)), np.tile(LABELS, 10), 1, fitted, 0.1) == pytest.approx(
        {
            "accuracy": 3 / 6,
            "expected_accuracy": 0.9 * 2 / 4 + 0.1 * 1 / 2,
            "accuracy_in_scope": 2 / 4,
            "oos_recall": 1 / 2,
            "oos_precision": 1 / 2,
            "calibration_error": expected_calibration_error(special.softmax(LOGITS, axis=1), LABELS),
            "accuracy_calibrated": 4 / 6,
            "expected_accuracy_calibrated": 0.9 * 2 / 4 + 0.1,
            "accuracy_in_scope_calibrated": 2 / 4,
            "oos_recall_calibrated": 1,
            "oos_precision_calibrated": 2 / 3,
            "calibration_error_calibrated": expected_calibration_error(
                special.softmax(LOGITS / 2, axis=1), LABELS
            ),
            "auroc": 7 / 8,  # query 3, out of scope, is above query 2
            "fpr_at_95_recall": 1 / 4,
        }
    )


@pytest.mark.parametrize("times", [1, 9])
def test_too_few_queries(times):
    """18 of them out of scope are too few to detect, and 6 in all for a calibration error."""
    fitted = Calibration(2.0, Threshold(1, "energy", 1.4))
    results = measure(np.tile(LOGITS, (times, 1)), np.tile(LABELS, times), 1, fitted, 0.1)
    assert "auroc" not in results and "fpr_at_95_recall" not in results
    assert results["accuracy"] == 3 / 6 and results["oos_recall_calibrated"] == 1
    assert (results["calibration_error"] is None) == (times == 1)


def test_constant_scores_and_a_single_class():
    for labels in (np.tile([0, 1], 30), np.zeros(60, int), np.ones(60, int)):
        results = measure(np.zeros((60, 3)), labels, 1, Calibration(1.0, Threshold(1, "energy", 1.0)), 0.1)
        json.dumps(results, allow_nan=False)
        assert results.get("auroc") == (0.5 if len(set(labels)) == 2 else None)


def test_spread_is_that_of_each_threshold_alone():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (200, 4)).astype(np.float32), rng.integers(0, 4, 200)
    fitted = Calibration(2.0, Threshold(3, "energy", 1.0))
    again = [Threshold(3, "energy", v) for v in np.linspace(-1, 3, 30)]
    again += [Threshold(3, "margin", v) for v in np.linspace(-0.5, 0.5, 20)]
    alone = [(Calibration(2.0, threshold).predict(logits) == labels).mean() for threshold in again]
    low, high = np.percentile(alone, [2.5, 97.5])
    assert spread(logits, labels, fitted, again) == pytest.approx(
        {"threshold_accuracy_low": low, "threshold_accuracy_high": high}
    )
    assert set(spread(logits, labels, Calibration(2.0, None), []).values()) == {None}


def test_without_a_threshold():
    logits, labels = np.tile(LOGITS, (4, 1)), np.tile(LABELS, 4)
    results = measure(logits, labels, 1, Calibration(3.0, None), 0.1)
    plain = measure(logits, labels, 1, NONE, 0.1)
    for key in ("accuracy", "accuracy_in_scope", "oos_recall", "oos_precision"):
        assert results[key] == results[f"{key}_calibrated"] == plain[key]
    assert results["calibration_error"] == plain["calibration_error_calibrated"]
    assert results["calibration_error"] != results["calibration_error_calibrated"]
    assert "auroc" not in results


def test_nothing_out_of_scope_to_detect():
    """A split without such queries, measured with the threshold of one that had some."""
    fitted = Calibration(2.0, Threshold(1, "energy", 1.0))
    results = measure(LOGITS, np.array([0, 2, 0, 0, 0, 2]), 1, fitted, 0.1)
    assert results["oos_recall_calibrated"] is None
    assert results["oos_precision_calibrated"] == 0
    json.dumps(results, allow_nan=False)
