"""From a model folder to predictions, whatever the model runs on.

`load(folder)` gives a Classifier. An ONNX model is served without importing torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from stages import checkpoints
from stages.core.errors import UserError
from stages.runtime.calibration import Calibration


class Session(Protocol):
    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Logits of shape (batch, labels) for int64 inputs of shape (batch, length)."""

    def answers(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> Sequence[np.ndarray]:
        """The logits and, of a model with early exits, which exit each row left at, int64 (batch,)."""


@dataclass(frozen=True)
class Prediction:
    """An intent and its probability under the softmax of the logits.

    An answer that is out of scope by its threshold may be an improbable one.
    """

    label: str
    score: float


class Classifier:
    """Queries to logits and intents, with the Rust tokenizer and one of the sessions."""

    def __init__(self, checkpoint: checkpoints.Checkpoint, session: Session, length: int | None):
        self.labels = checkpoint.labels
        self.calibration = Calibration.of(checkpoint.calibration)
        self.session = session
        self.tokenizer = checkpoint.tokenizer
        self.tokenizer.encode_special_tokens = True  # "[SEP]" in a text is no separator, but what was typed
        if length is not None:
            self.tokenizer.enable_truncation(length)
        self.tokenizer.enable_padding(pad_id=checkpoint.pad_token_id, length=length)

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and attention mask, int64 of shape (len(texts), length), padded to `length` or the longest."""
        encodings = self.tokenizer.encode_batch_fast(texts)  # without offsets
        ids = np.array([e.ids for e in encodings], dtype=np.int64)
        mask = np.array([e.attention_mask for e in encodings], dtype=np.int64)
        return ids, mask

    def logits(self, texts: list[str]) -> np.ndarray:
        """Logits of shape (len(texts), labels), float32."""
        return self.session(*self.encode(texts))

    def answers(self, texts: list[str]) -> Sequence[np.ndarray]:
        """What the session answers: logits, and the number of each query's exit if the model has exits."""
        return self.session.answers(*self.encode(texts))

    def predict(self, texts: list[str]) -> list[Prediction]:
        logits = self.logits(texts)
        answers = self.calibration.predict(logits)
        probabilities = self.calibration.probabilities(logits)[np.arange(len(texts)), answers]
        return [
            Prediction(self.labels[i], float(score)) for i, score in zip(answers, probabilities, strict=True)
        ]


def load(folder: Path | str, threads: int = 1, length: int | None = None) -> Classifier:
    """The model in `folder`, running on `threads` threads (torch's are the whole process's).

    Queries are padded to the longest of their batch, or all cut or padded to `length` WordPieces, a UserError
    where the model has fewer positions.
    """
    checkpoint = checkpoints.read(folder)
    if length is not None and length > checkpoint.positions:
        raise UserError(
            f"{folder} reads {checkpoint.positions} tokens at most: shorten the length, which is {length}"
        )
    session: Session
    if checkpoint.is_onnx:
        from stages.runtime.onnx_session import OnnxSession

        session = OnnxSession(checkpoint.onnx(), threads)
    else:
        from stages.runtime.torch_session import TorchSession

        session = TorchSession(checkpoint.torch(), threads)
    return Classifier(checkpoint, session, length)
