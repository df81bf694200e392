"""From logits to probabilities that mean what they say, and to the queries that are out of scope.

A calibration is fitted on the validation split alone: a temperature for the probabilities (Guo et
al., 2017, arXiv:1706.04599, section 4.2), and a threshold on a score of how surely a query is in
scope, under which the answer is "out of scope".
"""

from collections.abc import Sequence

import numpy as np

from stages.measurement.enough import FEWEST
from stages.runtime.calibration import SCORES, Calibration, Threshold, in_scope, ruled_out, softmax

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
    """Temperature and threshold for `logits`, shape (queries, labels), and `labels`, (queries,).

    The threshold is for the accuracy expected where a `share` of the queries is out of scope (`choose`), and
    for the queries that no early exit answers. Without `fewest` of those in scope, and as many out of it,
    there is no threshold; without `fewest` queries, the temperature is 1.
    """
    temperature = fit_temperature(logits, labels) if len(labels) >= fewest else 1.0
    if out_of_scope is None:
        return Calibration(temperature, None)
    last = ~ruled_out(logits[:, out_of_scope])
    if not can_learn((labels == out_of_scope)[last], fewest):
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
    counts = np.zeros((RESAMPLES, len(labels)), np.float32)
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
    """The score with the least loss (`even`), and its threshold, for each row of `counts`.

    `counts`, shape (draws, queries), say how often each query was drawn: in scope and out of it, as often in
    all as there are such queries. A query weighs what its right answer adds to the expected accuracy,
    (1 − share) · in-scope accuracy + share · out-of-scope recall.
    """
    outside = labels == out_of_scope
    right = in_scope(logits, out_of_scope).argmax(axis=-1) == labels
    gains = np.where(outside, share / outside.sum(), (1 - share) * right / (~outside).sum())
    last = ~ruled_out(logits[:, out_of_scope])  # what an early exit answers is in scope at any threshold
    logits, outside, gains, counts = logits[last], outside[last], gains[last], counts[:, last]
    fits = [even(SCORES[score](logits, out_of_scope), outside, gains, counts) for score in scores]
    losses, values = zip(*fits, strict=True)
    best = np.argmin(losses, axis=0)
    return [
        Threshold(out_of_scope, scores[score], float(values[score][draw])) for draw, score in enumerate(best)
    ]


def even(
    values: np.ndarray, outside: np.ndarray, gains: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The loss of a logistic regression of "in scope" on the score, and the score where it is even.

    Both have the shape (draws,), and `counts` (draws, queries). `values`, the scores, `outside`, and `gains`,
    the weights, have the shape (queries,). Where the odds do not rise with the score, the threshold accepts
    or refuses every query.

    The threshold with the best accuracy on the same queries depends on the chance of a few. This one does
    better on others. (Platt, 1999, fits the same regression, for probabilities.)
    """
    center, width = values.mean(dtype=float), values.std(dtype=float) or 1.0
    x = ((values - center) / width).astype(counts.dtype)
    offset = slope = np.zeros(1, counts.dtype)
    # Newton's steps for each query once, then from there for the draws.
    for weights, steps in ((gains[None], 20), (counts * gains.astype(counts.dtype), 3)):
        for _ in range(steps):
            p = (1 + np.tanh((offset[:, None] + slope[:, None] * x) / 2)) / 2
            error, curvature = weights * (~outside - p), weights * p * (1 - p)
            a, b, c = curvature.sum(axis=1) + 1e-6, curvature @ x, curvature @ x**2 + 1e-6
            g, h = error.sum(axis=1), error @ x
            offset = offset + np.clip((c * g - b * h) / (a * c - b * b), -2, 2)
            slope = slope + np.clip((a * h - b * g) / (a * c - b * b), -2, 2)
    odds = offset[:, None] + slope[:, None] * x
    losses = (weights * np.logaddexp(0, np.where(outside, odds, -odds))).sum(axis=1)
    rising = slope > 1e-6
    refuse = weights @ outside > weights.sum(axis=1) / 2
    constant = np.where(refuse, values.max() + 1, values.min() - 1)
    return losses, np.where(rising, center - width * offset / np.where(rising, slope, 1), constant)


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
