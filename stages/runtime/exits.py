"""Early exits: which queries leave where, and with what answer. The ONNX graph computes the same."""

import numpy as np

from stages.checkpoints import RULED_OUT
from stages.runtime.calibration import softmax


def confidence(logits: np.ndarray, out_of_scope: int | None) -> np.ndarray:
    """The margin of calibration.py, 0 where it is negative: `logits` (…, labels) to (…).

    It is the likeliest label's probability less the runner-up's. A likeliest label that is out of scope is
    its own runner-up, so it never leaves at an exit.
    """
    probabilities = softmax(logits)
    if out_of_scope is not None:
        probabilities = np.concatenate([probabilities, probabilities[..., [out_of_scope]]], axis=-1)
    top = np.partition(probabilities, (-2, -1), axis=-1)
    return top[..., -1] - top[..., -2]


def leave(
    exit_logits: np.ndarray, logits: np.ndarray, threshold: float, out_of_scope: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The logits that answer, shape (batch, labels), and the number of the exit that each are of, int64.

    `exit_logits` has shape (exits, batch, labels); `logits`, those of the last layer, (batch, labels). A
    query leaves at the first exit whose `confidence` reaches the threshold. There its logit for
    `out_of_scope` is RULED_OUT: the last layer alone decides on that. The number of the last layer is that
    of exits.
    """
    sure = confidence(exit_logits, out_of_scope) >= np.float32(threshold)
    number = np.where(sure.any(axis=0), sure.argmax(axis=0), len(sure))
    ruled = exit_logits.copy()
    if out_of_scope is not None:
        ruled[..., out_of_scope] += np.float32(RULED_OUT)
    return np.concatenate([ruled, logits[None]])[number, np.arange(len(logits))], number
