"""Masks over weights: drawn by magnitude, or learned as scores beside the weights.

Movement pruning (Sanh, Wolf and Rush, 2020, arXiv:2005.07683) computes with W′ = W ⊙ M(S), where the scores S
start at zero and are trained too. M is piecewise constant, so its gradient is taken straight through:
dL/dS = dL/dW′ ⊙ W. A score grows where its weight moves away from zero, and falls where it moves towards it.
"""

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel, TrainerState

from stages.checkpoints import encoder
from stages.techniques.settings import MovementPruning
from stages.training.schedules import progress


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
    # Equal values are common (scores start at zero), and the count must be exact.
    ties = (flat == threshold).nonzero().flatten()
    mask[ties[removed - int((flat < threshold).sum()) :]] = True
    return mask.view_as(values)


def zeros(model: PreTrainedModel) -> dict[str, float]:
    """The fraction of zeros in each weight matrix of the encoder, and in all of them ("overall")."""
    weights = {name: module.weight for name, module in encoder.linears(model).items()}
    counts = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    overall = sum(counts.values()) / sum(weight.numel() for weight in weights.values())
    return {"overall": overall, **{name: counts[name] / weights[name].numel() for name in weights}}


class StraightThrough(torch.autograd.Function):
    """Forward the mask, as floats; hand its gradient to the scores unchanged."""

    @staticmethod
    def forward(ctx, scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return mask.to(scores.dtype)

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor):
        return gradients[0], None


class ScoredMask(nn.Module):
    """A parametrization of a weight of shape (outputs, inputs): W ⊙ M(S).

    Scores and mask are of the weight's shape; or of shape (groups,), for its columns in `groups`
    equal, adjacent blocks.
    """

    mask: torch.Tensor

    def __init__(self, *shape: int):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(shape))
        self.register_buffer("mask", torch.ones(shape, dtype=torch.bool))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        mask = StraightThrough.apply(self.scores, self.mask)
        if mask.dim() == 1:
            mask = mask.repeat_interleave(weight.shape[1] // len(mask))
        return weight * mask


def attach(linear: nn.Linear, *shape: int) -> ScoredMask:
    """Mask the weight of `linear` from now on."""
    scored = ScoredMask(*shape)
    parametrize.register_parametrization(linear, "weight", scored)
    return scored


def detach(model: PreTrainedModel) -> None:
    """Make the masked weights of `model` plain weights, zeros included."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
            module.get_parameter("weight").data += 0.0  # which makes 0.0 of the mask's −0.0


def optimizer(model: PreTrainedModel, settings: MovementPruning) -> torch.optim.AdamW:
    """AdamW over the weights, and over the scores at a rate of their own, without decay."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    scores = [p for name, p in trained if name.endswith(".scores")]
    vectors = [p for name, p in trained if p.dim() < 2 and not name.endswith(".scores")]
    matrices = [p for name, p in trained if p.dim() >= 2 and not name.endswith(".scores")]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
            {"params": scores, "weight_decay": 0.0, "lr": settings.score_learning_rate},
        ],
        lr=settings.learning_rate,
        fused=True,
    )


def due(state: TrainerState, every: int, end: float) -> bool:
    """Whether masks are drawn anew before this step: every `every` steps, and when `end` is reached."""
    before, now = (progress(step, state.max_steps) for step in (state.global_step - 1, state.global_step))
    return state.global_step % every == 0 or before < end <= now


def removed(masks: list[ScoredMask]) -> float:
    """The share of all entries of the masks that are False."""
    return 1 - sum(m.mask.sum().item() for m in masks) / sum(m.mask.numel() for m in masks)
