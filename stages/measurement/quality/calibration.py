"""From logits to probabilities that mean what they say, and to the queries that are out of scope.

A calibration is fitted on the validation split alone: a temperature for the probabilities (Guo et
al., 2017, arXiv:1706.04599, section 4.2), and a threshold on a score of how surely a query is in
scope, under which the answer is "out of scope".
"""

from collections.abc import Sequence

import numpy as np

from stages.measurement.enough import FEWEST
from stages.runtime.calibration import SCORES, Calibration, Threshold, ruled_out, softmax


def fit(
    logits: np.ndarray,
    labels: np.ndarray,
    out_of_scope: int | None,
    scores: Sequence[str],
    share: float,
    fewest: int = FEWEST,
) -> Calibration:
    """The calibration that does best on `logits`, shape (queries, labels), and `labels`, (queries,).

    Of `scores`, the one kept is the one whose best threshold has the highest expected accuracy where
    a `share` of the queries is out of scope. Without `fewest` queries in scope, and as many out of it, there
    is no threshold; without `fewest` queries, the temperature is 1. With the score "margin", and the share of
    `labels`, that accuracy is never below the plain argmax's, which is the threshold 0.
    """
    temperature = fit_temperature(logits, labels) if len(labels) >= fewest else 1.0
    if out_of_scope is None or not can_learn(labels == out_of_scope, fewest):
        return Calibration(temperature, None)
    candidates = [best_threshold(logits / temperature, labels, out_of_scope, s, share) for s in scores]
    return Calibration(temperature, max(candidates, key=lambda pair: pair[0])[1])


def can_learn(outside: np.ndarray, fewest: int = FEWEST) -> bool:
    """Whether there are `fewest` queries on both sides of `outside`, bool of shape (queries,)."""
    return fewest <= outside.sum() <= len(outside) - fewest


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T, between 1/20 and 20, that minimises the negative log likelihood of softmax(logits / T).

    It is convex in 1/T, so its slope has one zero, found by bisection. Queries whose true label an early exit
    has ruled out are as unlikely at any T, and left out.
    """
    true = logits[np.arange(len(labels)), labels]
    logits, true = logits[~ruled_out(true)], true[~ruled_out(true)]
    low, high = 1 / 20, 20.0
    for _ in range(50):
        inverse = (low * high) ** 0.5
        slope = ((softmax(inverse * logits) * logits).sum(axis=-1) - true).mean()
        low, high = (low, inverse) if slope > 0 else (inverse, high)
    return 1 / inverse


def best_threshold(
    logits: np.ndarray, labels: np.ndarray, out_of_scope: int, score: str, share: float
) -> tuple[float, Threshold]:
    """The best expected accuracy over all thresholds on `score`, and a threshold that reaches it.

    The expected accuracy is (1 − share) · in-scope accuracy + share · out-of-scope recall.

    Thresholds lie halfway between neighbouring scores; among equally good ones, the median.
    """
    values = SCORES[score](logits, out_of_scope)
    outside = labels == out_of_scope
    # Sorted by score, a threshold rejects the queries before it and accepts the rest.
    order = np.argsort(values, kind="stable")
    right = Threshold(out_of_scope, score, -np.inf).predict(logits) == labels
    rejected = np.concatenate([[0], np.cumsum(outside[order])])
    accepted = right.sum() - np.concatenate([[0], np.cumsum(right[order])])
    value = (1 - share) * accepted / (~outside).sum() + share * rejected / outside.sum()
    edges = np.concatenate([[-np.inf], values[order], [np.inf]])
    possible = edges[1:] > edges[:-1]
    best = np.flatnonzero(possible & (value == value[possible].max()))
    at = best[len(best) // 2]
    low, high = edges[at], edges[at + 1]
    if np.isinf(low) or np.isinf(high):
        finite = [edge for edge in (low + 1.0, high - 1.0) if np.isfinite(edge)]
        middle = finite[0] if finite else 0.0
    else:
        middle = (low + high) / 2
        if values.dtype.type(middle) <= low:  # neighbouring floats
            middle = high
    return float(value[at]), Threshold(out_of_scope, score, float(middle))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """The mean gap between confidence and accuracy over equal-width bins, weighted by their size.

    `probabilities` of shape (queries, labels) (Guo et al., 2017, equation 3).
    """
    return float(
        sum(
            b["share"] * abs(b["accuracy"] - b["confidence"])
            for b in reliability(probabilities, labels, bins)
        )
    )


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> list[dict[str, float]]:
    """`confidence`, `accuracy` and `share` of all queries, for each bin of the top probability."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "confidence": float(confidence[bin_of == b].mean()),
            "accuracy": float(right[bin_of == b].mean()),
            "share": float((bin_of == b).mean()),
        }
        for b in np.unique(bin_of)
    ]


def detection(scores: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """How well `scores` tell queries in scope from those `outside` (bool).

    `auroc`, the chance that a query in scope scores higher than one out of scope, ties counted half;
    `fpr_at_95_recall`, the share of in-scope queries rejected where 95% of those out of scope are. (By hand,
    since scikit-learn takes longer to import than the stage takes to evaluate.)
    """
    inside, outside = np.sort(scores[~outside]), np.sort(scores[outside])
    below, not_above = (np.searchsorted(outside, inside, side).sum() for side in ("left", "right"))
    threshold = outside[int(np.ceil(0.95 * len(outside))) - 1]
    return {
        "auroc": float((below + not_above) / 2 / (len(inside) * len(outside))),
        "fpr_at_95_recall": float((inside <= threshold).mean()),
    }
