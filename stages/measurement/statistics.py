"""Whether a difference is one: in accuracy, on the same queries; in speed, in the same rounds."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap, false_discovery_control

from stages.measurement.enough import FEWEST_ROUNDS

LEVEL = 0.05


def wilson(right: np.ndarray) -> tuple[float, float]:
    """The 95% Wilson score interval of the share of `right`, bool of shape (queries,)."""
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Difference:
    """Of `right` (bool, one for each query) against `other`: the accuracy gained, McNemar's exact p."""

    gained: float
    p: float


def mcnemar(right: np.ndarray, other: np.ndarray) -> Difference:
    """McNemar's exact test, on the queries that just one of the two models has right."""
    won, lost = int((right & ~other).sum()), int((~right & other).sum())
    p = binomtest(won, won + lost).pvalue if won + lost else 1.0
    return Difference((won - lost) / len(right), float(p))


def verdicts(differences: list[Difference]) -> list[str]:
    """The words "better", "worse" or "no difference shown" for each of the comparisons of one table.

    At a false discovery rate of 5% over them all (Benjamini & Hochberg, 1995).
    """
    if not differences:
        return []
    adjusted = false_discovery_control([d.p for d in differences])
    return [
        "no difference shown" if p >= LEVEL else "better" if d.gained > 0 else "worse"
        for d, p in zip(differences, adjusted, strict=True)
    ]


def interval(ratios: np.ndarray, seed: int) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the median of `ratios`, one of each round.

    NaN, of fewer than FEWEST_ROUNDS.
    """
    if len(ratios) < FEWEST_ROUNDS:
        return np.nan, np.nan
    if np.ptp(ratios) == 0:
        return ratios.min(), ratios.max()
    result = bootstrap((ratios,), np.median, method="percentile", n_resamples=2000, rng=seed)
    return tuple(result.confidence_interval)
