"""Torch on a CPU, fp32 or dynamic int8."""

import numpy as np
import torch

from stages.runtime import exits


class TorchSession:
    """The classifier `model`; `threads` are the whole process's. It computes all layers, exits or not."""

    def __init__(self, model: torch.nn.Module, threads: int):
        torch.set_num_threads(threads)
        self.model = model

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        return self.answers(input_ids, attention_mask)[0]

    @torch.inference_mode()
    def answers(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> tuple[np.ndarray, ...]:
        ids, mask = torch.from_numpy(input_ids), torch.from_numpy(attention_mask)
        outputs = self.model(input_ids=ids, attention_mask=mask)
        logits = outputs.logits.numpy()
        if "exit_logits" not in outputs:
            return (logits,)
        at: dict = self.model.config.exits  # type: ignore[union-attr, assignment]
        return exits.leave(outputs.exit_logits.numpy(), logits, at["threshold"], at["out_of_scope"])
