"""Torch on a CPU, fp32 or dynamic int8."""

from pathlib import Path

import numpy as np
import torch

from stages.compression import encoder
from stages.compression.dynamic_int8 import quantized


class TorchSession:
    def __init__(self, folder: Path, threads: int):
        torch.set_num_threads(threads)
        if (folder / "model.int8.pt").exists():
            # The weights bring their own scales, per channel or per tensor.
            self.model = quantized(encoder.build(folder), per_channel=True)
            self.model.load_state_dict(torch.load(folder / "model.int8.pt", weights_only=True))
        else:
            self.model = encoder.load(folder)

    @torch.inference_mode()
    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        ids, mask = torch.from_numpy(input_ids), torch.from_numpy(attention_mask)
        return self.model(input_ids=ids, attention_mask=mask).logits.numpy()
