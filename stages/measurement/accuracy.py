"""Accuracy of intents, in scope and out of it, as a metric of `evaluate`."""

import datasets
import evaluate
import numpy as np


class IntentAccuracy(evaluate.Metric):
    """`compute(predictions, references, out_of_scope)` over class indices.

    Gives `accuracy` over all queries; `accuracy_in_scope` over those whose true label is in
    scope; `oos_recall`, the share of out-of-scope queries recognised as such. The last is None
    where there are none (no out-of-scope label, or no such query), the second where all are.
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
        outside = np.asarray(references) == (-1 if out_of_scope is None else out_of_scope)
        return {
            "accuracy": float(right.mean()),
            "accuracy_in_scope": _mean(right[~outside]),
            "oos_recall": _mean(right[outside]),
        }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def intent_accuracy() -> IntentAccuracy:
    """The metric, kept in memory rather than in a cache folder."""
    return IntentAccuracy(keep_in_memory=True)
