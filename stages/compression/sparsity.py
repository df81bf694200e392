"""What every way of removing weights shares: schedules, masks, and the zeros counted."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, TrainerCallback

from stages.compression import encoder


def gradual(progress: float, final: float, begin: float, end: float) -> float:
    """s_f − s_f·(1 − (t − t0)/(nΔt))³ at `progress` in [0, 1] of the run.

    0 until `begin`, `final` from `end` on (Zhu and Gupta, 2017, arXiv:1710.01878, equation 1, from
    a sparsity of 0).
    """
    ramp = min(max((progress - begin) / (end - begin), 0.0), 1.0)
    return final * (1 - (1 - ramp) ** 3)


def largest(values: torch.Tensor, sparsity: float) -> torch.Tensor:
    """A mask like `values`, False for the round(sparsity · n) smallest of its n entries.

    Among equal ones, those first in the tensor are False first.
    """
    flat = values.detach().flatten()
    removed = round(sparsity * flat.numel())
    if removed == 0:
        return torch.ones_like(values, dtype=torch.bool)
    threshold = flat.kthvalue(removed).values
    mask = flat > threshold
    ties = (flat == threshold).nonzero().flatten()
    mask[ties[removed - int((flat < threshold).sum()) :]] = True
    return mask.view_as(values)


def achieved(folder: Path) -> dict[str, float]:
    """The share of zeros in each saved weight matrix of the encoder, and in all of them ("overall")."""
    model = encoder.build(folder)
    prefix = model.base_model_prefix + "."
    saved = load_file(folder / "model.safetensors")
    weights = {name: saved[f"{prefix}{name}.weight"] for name in encoder.linears(model)}
    zeros = {name: (weight == 0).sum().item() for name, weight in weights.items()}
    overall = sum(zeros.values()) / sum(weight.numel() for weight in weights.values())
    return {"overall": overall, **{name: zeros[name] / weights[name].numel() for name in weights}}


class KeepZeros(TrainerCallback):
    """Keep the encoder's weights that are zero now at zero, after every step of a training."""

    def __init__(self, model: PreTrainedModel):
        weights = [encoder.trained_weight(module) for module in encoder.linears(model).values()]
        self.masks = [(w, w == 0) for w in weights if (w == 0).any()]

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        for weight, zeros in self.masks:
            weight.masked_fill_(zeros, 0.0)
