"""Queries as people send them: few often, many rarely, and when they please."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq

HIT_RATE_TOLERANCE = 0.1


def zipf(count: int, exponent: float) -> np.ndarray:
    """The probabilities of `count` queries by rank, proportional to rank^-exponent."""
    weights = np.arange(1, count + 1, dtype=float) ** -exponent
    return weights / weights.sum()


def hit_rate(probabilities: np.ndarray, size: int) -> float:
    """The share of queries that an LRU cache of `size` holds, drawn independently by `probabilities`.

    By Che's approximation (Che, Tung & Wang, 2002, equation 5): a query is there if it was asked
    within the last t, where t is such that `size` are.
    """
    if size >= len(probabilities):
        return 1.0
    if size == 0:
        return 0.0
    t = brentq(lambda t: -np.expm1(-probabilities * t).sum() - size, 0, _longest(probabilities, size))
    return float((probabilities * -np.expm1(-probabilities * t)).sum())


def _longest(probabilities: np.ndarray, size: int) -> float:
    t = float(size)
    while -np.expm1(-probabilities * t).sum() < size:
        t *= 2
    return t


def exponent_for(count: int, size: int, target: float) -> float:
    """The Zipf exponent, 0 to 3, with which an LRU cache of `size` of `count` queries hits `target` of them.

    The nearer end, where none does.
    """

    def excess(exponent: float) -> float:
        return hit_rate(zipf(count, exponent), size) - target

    if excess(0.0) >= 0:
        return 0.0
    if excess(3.0) <= 0:
        return 3.0
    return float(brentq(excess, 0.0, 3.0, xtol=1e-4))


def reached(count: int, size: int, exponent: float, target: float) -> tuple[float, bool]:
    """The hit rate at the `exponent`, and whether that is within HIT_RATE_TOLERANCE of the `target`."""
    rate = hit_rate(zipf(count, exponent), size)
    return rate, abs(rate - target) <= HIT_RATE_TOLERANCE


def draw(queries: Sequence[str], exponent: float, count: int, seed: int) -> list[str]:
    """`count` of `queries`, in a popularity order shuffled by `seed`."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(queries))
    return [queries[i] for i in order[rng.choice(len(queries), count, p=zipf(len(queries), exponent))]]
