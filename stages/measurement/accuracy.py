"""Accuracy of intents, in scope and out of it, as a metric of `evaluate`."""

import datasets
import evaluate
import numpy as np

from stages.measurement.calibration import detection, expected_calibration_error
from stages.runtime.calibrated import NONE, Calibration


class IntentAccuracy(evaluate.Metric):
    """`compute(predictions, references, out_of_scope)` over class indices.

    Gives `accuracy` over all queries; `accuracy_in_scope` over those whose true label is in
    scope; `oos_recall`, the share of out-of-scope queries recognised as such; `oos_precision`, the
    share of queries answered so that are. A share of no queries is None.
    Defined here and not loaded by name, which would fetch a script from the hub.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, out_of_scope: int | None = None):
        right = np.asarray(predictions) == np.asarray(references)
        out_of_scope = -1 if out_of_scope is None else out_of_scope
        outside = np.asarray(references) == out_of_scope
        return {
            "accuracy": float(right.mean()),
            "accuracy_in_scope": _mean(right[~outside]),
            "oos_recall": _mean(right[outside]),
            "oos_precision": _mean(right[np.asarray(predictions) == out_of_scope]),
        }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def measure(
    logits: np.ndarray, labels: np.ndarray, out_of_scope: int | None, calibration: Calibration
) -> dict[str, float | None]:
    """What IntentAccuracy gives, of the plain argmax and (`_calibrated`) of `calibration`; and

    `calibration_error`, the expected calibration error of the softmax, plain and tempered
    (`_calibrated`); `auroc` and `fpr_at_95_recall` of the score that tells queries out of scope.
    `logits` of shape (queries, labels), `labels` (queries,).
    """
    metric = IntentAccuracy(keep_in_memory=True)
    results = {}
    for suffix, applied in (("", NONE), ("_calibrated", calibration)):
        values = metric.compute(
            predictions=applied.predict(logits), references=labels, out_of_scope=out_of_scope
        )
        values["calibration_error"] = expected_calibration_error(applied.probabilities(logits), labels)
        results.update({key + suffix: value for key, value in values.items()})
    if calibration.threshold is not None:
        outside = labels == out_of_scope
        if 0 < outside.sum() < len(outside):
            scores = calibration.threshold.scores(logits / calibration.temperature)
            results.update(detection(scores, outside))
    return results
