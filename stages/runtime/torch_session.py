"""Torch on a CPU, fp32 or dynamic int8."""

import numpy as np
import torch


class TorchSession:
    """The classifier `model`; `threads` are the whole process's."""

    def __init__(self, model: torch.nn.Module, threads: int):
        torch.set_num_threads(threads)
        self.model = model

    @torch.inference_mode()
    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        ids, mask = torch.from_numpy(input_ids), torch.from_numpy(attention_mask)
        return self.model(input_ids=ids, attention_mask=mask).logits.numpy()
