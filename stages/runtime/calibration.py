"""A calibration, as it is kept in calibration.json, applied to logits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from stages.checkpoints import RULED_OUT


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis (by hand, since a bundle installs no SciPy)."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def in_scope(logits: np.ndarray, out_of_scope: int) -> np.ndarray:
    """`logits`, that of the out-of-scope label put to -inf."""
    logits = logits.copy()
    logits[..., out_of_scope] = -np.inf
    return logits


def probability(logits: np.ndarray, out_of_scope: int) -> np.ndarray:
    """The probability of the likeliest intent, the out-of-scope label among the alternatives."""
    return in_scope(softmax(logits), out_of_scope).max(axis=-1)


def energy(logits: np.ndarray, out_of_scope: int, weight: float = 0.0) -> np.ndarray:
    """log Σ exp of the intents' logits: minus the free energy of Liu et al., 2020 (arXiv:2010.03759).

    Less `weight` times the out-of-scope logit. With the weight 1 it is the log-odds of being in scope.
    """
    intents = in_scope(logits, out_of_scope)
    top = intents.max(axis=-1)
    return top + np.log(np.exp(intents - top[..., None]).sum(axis=-1)) - weight * logits[..., out_of_scope]


def margin(logits: np.ndarray, out_of_scope: int) -> np.ndarray:
    """The likeliest intent's probability less that of the runner-up, be it out of scope."""
    probabilities = softmax(logits)
    likeliest = in_scope(probabilities, out_of_scope).argmax(axis=-1)[..., None]
    top = np.take_along_axis(probabilities, likeliest, axis=-1)[..., 0]
    np.put_along_axis(probabilities, likeliest, 0.0, axis=-1)
    return top - probabilities.max(axis=-1)


def ruled_out(logits: np.ndarray) -> np.ndarray:
    """Which of some logits, tempered or not, are those of a label that an early exit may not answer."""
    return logits < RULED_OUT / 1000


SCORES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "probability": probability,
    "energy": energy,
    "margin": margin,
    **{f"energy-{weight:g}": partial(energy, weight=weight) for weight in (0.25, 0.5, 1.0)},
}


@dataclass(frozen=True)
class Threshold:
    """Under `value` of one of SCORES, of the tempered logits, the answer is the class `out_of_scope`."""

    out_of_scope: int
    score: str
    value: float

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """How surely each query is in scope, shape (queries,): the higher the surer.

        Where an early exit has ruled `out_of_scope` out, +inf: no threshold rejects that answer.
        """
        scores = SCORES[self.score](logits, self.out_of_scope)
        return np.where(ruled_out(logits[..., self.out_of_scope]), np.inf, scores)

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """The likeliest intent of each query, or out of scope."""
        likeliest = in_scope(logits, self.out_of_scope).argmax(axis=-1)
        return np.where(self.scores(logits) < self.value, self.out_of_scope, likeliest)


@dataclass(frozen=True)
class Calibration:
    """What makes answers and probabilities of logits of shape (queries, labels)."""

    temperature: float
    threshold: Threshold | None

    @classmethod
    def of(cls, values: dict | None) -> "Calibration":
        """The calibration with the `values` of a calibration.json; NONE of None."""
        if values is None:
            return NONE
        threshold = values["threshold"]
        return cls(values["temperature"], None if threshold is None else Threshold(**threshold))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """The softmax of the tempered logits."""
        return softmax(logits / self.temperature)

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """Class indices, shape (queries,)."""
        if self.threshold is None:
            return logits.argmax(axis=-1)
        return self.threshold.predict(logits / self.temperature)


NONE = Calibration(1.0, None)
