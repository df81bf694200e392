"""ONNX Runtime on a CPU."""

from pathlib import Path

import numpy as np
import onnxruntime


class OnnxSession:
    """The graph `model`, a file or its bytes, on `threads` threads."""

    def __init__(self, model: Path | bytes, threads: int):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        return self.answers(input_ids, attention_mask)[0]

    def answers(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> list[np.ndarray]:
        return self.session.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})
