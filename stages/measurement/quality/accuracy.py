"""Accuracy of intents, in scope and out of it."""

from dataclasses import replace

import numpy as np

from stages.measurement.enough import FEWEST
from stages.measurement.quality.calibration import can_learn, detection, expected_calibration_error
from stages.runtime.calibration import NONE, Calibration, Threshold


def accuracies(
    answers: np.ndarray, labels: np.ndarray, out_of_scope: int | None, share: float
) -> dict[str, float | None]:
    """Shares of right `answers`, class indices of shape (queries,) as `labels`.

    `accuracy` over all queries; `accuracy_in_scope` over those whose true label is in scope;
    `oos_recall`, the share of out-of-scope queries recognised as such; `oos_precision`, the share of
    queries answered "out of scope" that are. A share of no queries is None. `expected_accuracy`, where a
    `share` of the queries is out of scope; over the queries as they are, if there are none to learn it from.
    """
    right = answers == labels
    outside = labels == (-1 if out_of_scope is None else out_of_scope)
    in_scope, recall = _mean(right[~outside]), _mean(right[outside])
    expected = float(right.mean())
    if in_scope is not None and recall is not None:
        expected = (1 - share) * in_scope + share * recall
    return {
        "accuracy": float(right.mean()),
        "expected_accuracy": expected,
        "accuracy_in_scope": in_scope,
        "oos_recall": recall,
        "oos_precision": _mean(right[answers == (-1 if out_of_scope is None else out_of_scope)]),
    }


def leaving(numbers: np.ndarray, layers: list[int]) -> list[dict[str, float]]:
    """The `share` of queries that leave at each early exit, after so many `layers`.

    `numbers`, shape (queries,), are those of the exits that the queries leave at.
    """
    return [{"layer": layer, "share": float((numbers == i).mean())} for i, layer in enumerate(layers)]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def measure(
    logits: np.ndarray,
    labels: np.ndarray,
    out_of_scope: int | None,
    calibration: Calibration,
    share: float,
) -> dict[str, float | None]:
    """All measures of `logits`, shape (queries, labels), against `labels`, (queries,).

    `accuracies` of the plain argmax and, with the suffix `_calibrated`, of `calibration`;
    `calibration_error`, the expected calibration error of the softmax, plain and tempered (`_calibrated`),
    None of fewer than FEWEST queries; `auroc` and `fpr_at_95_recall` of the score that tells queries out of
    scope, if there is a threshold, and FEWEST queries on each side of it.
    """
    results = {}
    for suffix, applied in (("", NONE), ("_calibrated", calibration)):
        values = accuracies(applied.predict(logits), labels, out_of_scope, share)
        error = expected_calibration_error(applied.probabilities(logits), labels)
        values["calibration_error"] = error if len(labels) >= FEWEST else None
        results.update({key + suffix: value for key, value in values.items()})
    if calibration.threshold is not None:
        outside = labels == out_of_scope
        if can_learn(outside):
            scores = calibration.threshold.scores(logits / calibration.temperature)
            results.update(detection(scores, outside))
    return results


def spread(
    logits: np.ndarray, labels: np.ndarray, fitted: Calibration, again: list[Threshold]
) -> dict[str, float | None]:
    """Between which accuracies 95% of the thresholds chosen `again` are, in place of the one `fitted`.

    `threshold_accuracy_low` and `threshold_accuracy_high`; None without a threshold.
    """
    found: list[float] = []
    for score in {threshold.score for threshold in again}:
        same = [threshold for threshold in again if threshold.score == score]
        tempered = logits / fitted.temperature
        values = same[0].scores(tempered)
        right = replace(same[0], value=-np.inf).predict(tempered) == labels  # if all are accepted
        refused = values < np.array([t.value for t in same], values.dtype)[:, None]
        found += np.where(refused, labels == same[0].out_of_scope, right).mean(axis=1).tolist()
    low, high = np.percentile(found, [2.5, 97.5]).tolist() if found else (None, None)
    return {"threshold_accuracy_low": low, "threshold_accuracy_high": high}
