"""ONNX Runtime on a CPU."""

from pathlib import Path

import numpy as np
import onnxruntime

from stages.compression.sparse_storage import unpack


class OnnxSession:
    def __init__(self, folder: Path, threads: int):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        packed = folder / "model.onnx.sparse"
        model = unpack(packed) if packed.exists() else folder / "model.onnx"
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})[0]
