"""From logits to probabilities that mean what they say, and to the queries that are out of scope.

A calibration is fitted on the validation split alone: a temperature for the probabilities (Guo et
al., 2017, arXiv:1706.04599, section 4.2), and a threshold on a score of how surely a query is in
scope, under which the answer is "out of scope".
"""

from collections.abc import Sequence

import numpy as np

from stages.measurement.enough import FEWEST
from stages.runtime.calibration import SCORES, Calibration, Threshold, softmax

# How often validation is drawn again, to say how sure a threshold is.
RESAMPLES = 200


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
    is no threshold; without `fewest` queries, the temperature is 1.
    """
    temperature = fit_temperature(logits, labels) if len(labels) >= fewest else 1.0
    if out_of_scope is None or not can_learn(labels == out_of_scope, fewest):
        return Calibration(temperature, None)
    once = np.ones((1, len(labels)))
    return Calibration(
        temperature, choose(logits / temperature, labels, out_of_scope, scores, share, once)[0]
    )


def refit(
    logits: np.ndarray, labels: np.ndarray, fitted: Calibration, scores: Sequence[str], share: float
) -> list[Threshold]:
    """The thresholds that `fit` would have chosen on RESAMPLES other draws of the same queries.

    Queries in scope and out of it are drawn apart, with replacement. The temperature is kept.
    """
    if fitted.threshold is None:
        return []
    outside = labels == fitted.threshold.out_of_scope
    rng = np.random.default_rng(0)
    counts = np.zeros((RESAMPLES, len(labels)))
    for side in (outside, ~outside):
        size = side.sum()
        drawn = rng.integers(size, size=(RESAMPLES, size)) + size * np.arange(RESAMPLES)[:, None]
        counts[:, side] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    tempered = logits / fitted.temperature
    return choose(tempered, labels, fitted.threshold.out_of_scope, scores, share, counts)


def can_learn(outside: np.ndarray, fewest: int = FEWEST) -> bool:
    """Whether there are `fewest` queries on both sides of `outside`, bool of shape (queries,)."""
    return fewest <= outside.sum() <= len(outside) - fewest


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T, between 1/20 and 20, that minimises the negative log likelihood of softmax(logits / T).

    It is convex in 1/T, so its slope has one zero, found by bisection.
    """
    true = logits[np.arange(len(labels)), labels]
    low, high = 1 / 20, 20.0
    for _ in range(50):
        inverse = (low * high) ** 0.5
        slope = ((softmax(inverse * logits) * logits).sum(axis=-1) - true).mean()
        low, high = (low, inverse) if slope > 0 else (inverse, high)
    return 1 / inverse


def spread(fitted: Calibration, again: list[Threshold]) -> dict[str, float] | None:
    """How sure the threshold is, by those chosen `again`; None without a threshold.

    `same_score`, the share of them with the same score; `low` and `high`, between which 95% of those lie.
    """
    if fitted.threshold is None:
        return None
    values = [t.value for t in again if t.score == fitted.threshold.score] or [fitted.threshold.value]
    low, high = np.percentile(values, [2.5, 97.5])
    same = np.mean([t.score == fitted.threshold.score for t in again])
    return {"same_score": float(same), "low": float(low), "high": float(high)}


def choose(
    logits: np.ndarray,
    labels: np.ndarray,
    out_of_scope: int,
    scores: Sequence[str],
    share: float,
    counts: np.ndarray,
) -> list[Threshold]:
    """The best score and its threshold for each row of `counts`, shape (draws, queries).

    A row says how often each query was drawn, with as many draws in scope and out of it as there are queries.
    """
    curves = [Curve(logits, labels, out_of_scope, score, share) for score in scores]
    expected, values = zip(*(curve.thresholds(counts) for curve in curves), strict=True)
    best = np.argmax(expected, axis=0)
    return [
        Threshold(out_of_scope, scores[score], float(values[score][draw])) for draw, score in enumerate(best)
    ]


class Curve:
    """The accuracy expected by the threshold on one score, and the threshold to choose.

    It is (1 − share) · in-scope accuracy + share · out-of-scope recall.
    """

    def __init__(self, logits: np.ndarray, labels: np.ndarray, out_of_scope: int, score: str, share: float):
        values = SCORES[score](logits, out_of_scope)
        outside = labels == out_of_scope
        right = Threshold(out_of_scope, score, -np.inf).predict(logits) == labels
        gains = np.where(outside, share / outside.sum(), (1 - share) * right / (~outside).sum())
        # Sorted by score, a threshold refuses the queries before it and accepts the rest.
        self.order = np.argsort(values, kind="stable")
        self.values, self.outside, self.gains = values[self.order], outside[self.order], gains[self.order]
        self.edges = np.concatenate([[-np.inf], self.values, [np.inf]], dtype=values.dtype)
        # Two standard errors of the accuracy, where half of the queries out of scope are refused.
        self.error = share / outside.sum() ** 0.5
        self.mean, self.width = values.mean(dtype=float), values.std(dtype=float) or 1.0
        self.line = np.zeros((2, 1))
        self.line = self._line(self.gains[None], steps=20)

    def thresholds(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best expected accuracy and the threshold to choose, for each row of `counts`, as in `choose`.

        The best of all thresholds follows the chance of a few queries. Over other queries the `even` one does
        better, so it is chosen, unless it is worse by `error` on these.
        """
        gains = counts[:, self.order] * self.gains
        expected = self.expected(gains)
        top, best = self.best(expected)
        even = self.even(gains)
        refused = np.searchsorted(self.values, even)
        near = expected[np.arange(len(counts)), refused] >= top - self.error
        return top, np.where(near & np.isfinite(even), even, best)

    def expected(self, gains: np.ndarray) -> np.ndarray:
        """The expected accuracy where the first 0, 1, … queries are refused, shape (draws, queries + 1).

        It is -inf where no threshold does so, between equal scores. `gains`, shape (draws, queries), are what
        the right answer to each query adds to it, sorted by score.
        """
        accepted = (gains * ~self.outside).sum(axis=1, keepdims=True)
        steps = np.concatenate([accepted, np.where(self.outside, gains, -gains)], axis=1)
        return np.where(self.edges[1:] > self.edges[:-1], steps.cumsum(axis=1), -np.inf)

    def best(self, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best of the `expected` accuracies and the median of the thresholds that reach it.

        A threshold lies halfway between neighbouring scores, or 1 beyond the first or the last.
        """
        top = expected.max(axis=1)
        ties = (expected > top[:, None] - 1e-9).cumsum(axis=1)
        at = (ties > ties[:, -1:] // 2).argmax(axis=1)
        low, high = self.edges[at], self.edges[at + 1]
        low, high = np.where(np.isinf(low), high - 2, low), np.where(np.isinf(high), low + 2, high)
        middle = low + (high - low) / 2
        return top, np.where(middle <= low, high, middle)  # of neighbouring floats there is no middle

    def even(self, gains: np.ndarray) -> np.ndarray:
        """Where a logistic regression of "in scope" on the score is even (Platt, 1999), shape (draws,).

        Each query weighs its gain. NaN where the log-odds do not rise.
        """
        offset, slope = self._line(gains, steps=2)
        even = self.mean - self.width * offset / np.where(slope > 0, slope, np.nan)
        return even.astype(self.values.dtype)

    def _line(self, gains: np.ndarray, steps: int) -> np.ndarray:
        """Offset and slope of the log-odds by the standardised score, shape (2, draws).

        By Newton's steps from `line`, which is that of each query once.
        """
        x = (self.values.astype(float) - self.mean) / self.width
        offset, slope = self.line
        for _ in range(steps):
            p = (1 + np.tanh((offset[:, None] + slope[:, None] * x) / 2)) / 2
            error, curvature = gains * (~self.outside - p), gains * p * (1 - p)
            a, b, c = curvature.sum(axis=1) + 1e-6, curvature @ x, curvature @ x**2 + 1e-6
            g, h = error.sum(axis=1), error @ x
            offset = offset + np.clip((c * g - b * h) / (a * c - b * b), -2, 2)
            slope = slope + np.clip((a * h - b * g) / (a * c - b * b), -2, 2)
        return np.stack([offset, slope])


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
