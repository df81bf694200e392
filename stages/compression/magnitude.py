"""Magnitude pruning: the weights closest to zero are set to zero."""

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback


def cubic_sparsity(progress: float, final: float, begin: float, end: float) -> float:
    """Gradual sparsity at `progress` in [0, 1] of the run: s_f − s_f·(1 − (t − t0)/(nΔt))³.

    0 until `begin`, `final` from `end` on (Zhu and Gupta, 2017, arXiv:1710.01878, equation 1,
    with an initial sparsity of 0).
    """
    ramp = min(max((progress - begin) / (end - begin), 0.0), 1.0)
    return final * (1 - (1 - ramp) ** 3)


def encoder_linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The linear layers of the encoder's blocks; embeddings and head are never pruned."""
    embeddings = {id(module) for module in model.base_model.embeddings.modules()}
    return {
        name: module
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in embeddings and "pooler" not in name
    }


def magnitude_mask(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """A mask like `weight`, False for the round(sparsity · n) entries of least magnitude.

    Among equal magnitudes, those first in the matrix are pruned first.
    """
    magnitude = weight.detach().abs().flatten()
    pruned = round(sparsity * magnitude.numel())
    if pruned == 0:
        return torch.ones_like(weight, dtype=torch.bool)
    threshold = magnitude.kthvalue(pruned).values
    mask = magnitude > threshold
    ties = (magnitude == threshold).nonzero().flatten()
    mask[ties[pruned - int((magnitude < threshold).sum()) :]] = True
    return mask.view_as(weight)


def achieved_sparsity(model: PreTrainedModel) -> dict[str, float]:
    """The share of zeros in each weight matrix of the encoder, and in all of them ("overall")."""
    zeros = {name: (m.weight == 0).sum().item() for name, m in encoder_linears(model).items()}
    sizes = {name: m.weight.numel() for name, m in encoder_linears(model).items()}
    overall = sum(zeros.values()) / sum(sizes.values())
    return {"overall": overall, **{name: zeros[name] / sizes[name] for name in zeros}}


class GradualMagnitudePruning(TrainerCallback):
    """Prune each encoder matrix along the cubic schedule while a Trainer trains it.

    The masks are drawn anew every `every` optimizer steps until `end`, and fixed from there on;
    masked weights are set back to zero after every step.
    """

    def __init__(self, sparsity: float, begin: float, end: float, every: int = 10):
        self.schedule = (sparsity, begin, end)
        self.every = every
        self.target = -1.0
        self.masks: dict[nn.Linear, torch.Tensor] = {}

    def on_step_end(self, args, state, control, **kwargs):
        model = kwargs["model"]
        target = cubic_sparsity(state.global_step / state.max_steps, *self.schedule)
        due = state.global_step % self.every == 0 or target == self.schedule[0] or not self.masks
        if due and target != self.target:
            self.target = target
            self.masks = {m: magnitude_mask(m.weight, target) for m in encoder_linears(model).values()}
        with torch.no_grad():
            for module, mask in self.masks.items():
                module.weight.mul_(mask)

    def on_log(self, args, state, control, **kwargs):
        state.log_history[-1]["sparsity"] = max(self.target, 0.0)
