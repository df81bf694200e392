"""From a model folder to predictions, whatever the model runs on.

`load(folder)` gives a Classifier. An ONNX model is served without importing torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from stages.model_folder import label_names
from stages.runtime import calibrated


class Session(Protocol):
    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Logits of shape (batch, labels) for int64 inputs of shape (batch, length)."""


@dataclass(frozen=True)
class Prediction:
    """An intent and its probability under the softmax of the logits.

    An answer that is out of scope by its threshold may be an improbable one.
    """

    label: str
    score: float


class Classifier:
    """Queries to logits and intents, with the Rust tokenizer and one of the sessions."""

    def __init__(self, folder: Path, session: Session, length: int | None):
        from tokenizers import Tokenizer

        self.labels = label_names(folder)
        self.calibration = calibrated.read(folder)
        self.session = session
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.encode_special_tokens = True  # "[SEP]" in a text is no separator, but what was typed
        if length is not None:
            self.tokenizer.enable_truncation(length)
        self.tokenizer.enable_padding(pad_id=self.tokenizer.token_to_id("[PAD]") or 0, length=length)

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and attention mask, int64 of shape (len(texts), length), padded to `length` or the longest."""
        encodings = self.tokenizer.encode_batch(texts)
        ids = np.array([e.ids for e in encodings], dtype=np.int64)
        mask = np.array([e.attention_mask for e in encodings], dtype=np.int64)
        return ids, mask

    def logits(self, texts: list[str]) -> np.ndarray:
        """Logits of shape (len(texts), labels), float32."""
        return self.session(*self.encode(texts))

    def predict(self, texts: list[str]) -> list[Prediction]:
        logits = self.logits(texts)
        answers = self.calibration.predict(logits)
        probabilities = self.calibration.probabilities(logits)[np.arange(len(texts)), answers]
        return [
            Prediction(self.labels[i], float(score)) for i, score in zip(answers, probabilities, strict=True)
        ]


def load(folder: Path | str, threads: int = 1, length: int | None = None) -> Classifier:
    """The model in `folder`, running on `threads` threads (torch's are the whole process's).

    Queries are padded to the longest of their batch, or all cut or padded to `length` WordPieces.
    """
    folder = Path(folder)
    label_names(folder)  # first of all, a clear error where there is no model
    if list(folder.glob("model.onnx*")):
        from stages.runtime.onnx_session import OnnxSession

        return Classifier(folder, OnnxSession(folder, threads), length)
    from stages.runtime.torch_session import TorchSession

    return Classifier(folder, TorchSession(folder, threads), length)
