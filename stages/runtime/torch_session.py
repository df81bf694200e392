"""Torch on a CPU, fp32 or dynamic int8."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from stages.compression.dynamic_int8 import quantized


class TorchSession:
    def __init__(self, folder: Path, threads: int):
        torch.set_num_threads(threads)
        if (folder / "model.int8.pt").exists():
            model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder))
            # The weights bring their own scales, per channel or per tensor.
            self.model = quantized(model, per_channel=True)
            self.model.load_state_dict(torch.load(folder / "model.int8.pt", weights_only=True))
        else:
            self.model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    @torch.inference_mode()
    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        ids, mask = torch.from_numpy(input_ids), torch.from_numpy(attention_mask)
        return self.model(input_ids=ids, attention_mask=mask).logits.numpy()
