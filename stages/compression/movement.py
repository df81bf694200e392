"""Movement pruning (Sanh, Wolf and Rush, 2020, arXiv:2005.07683): remove what training moves to zero.

W′ = W ⊙ M(S), with importance scores S that start at zero and are learned beside the weights. M is
piecewise constant, so its gradient is taken straight through: dL/dS = dL/dW′ ⊙ W. A score grows
where the weight moves away from zero, and falls where it moves towards it.
"""

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel, TrainerCallback, TrainerState

from stages.compression import encoder
from stages.compression.sparsity import gradual, largest

MINIMUM_KEPT = 0.005  # of a matrix, in soft movement pruning


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


def optimizer(
    model: PreTrainedModel, learning_rate: float, weight_decay: float, score_learning_rate: float
) -> torch.optim.AdamW:
    """AdamW over the weights, and over the scores at a rate of their own, without decay."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    scores = [p for name, p in trained if name.endswith(".scores")]
    vectors = [p for name, p in trained if p.dim() < 2 and not name.endswith(".scores")]
    matrices = [p for name, p in trained if p.dim() >= 2 and not name.endswith(".scores")]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
            {"params": scores, "weight_decay": 0.0, "lr": score_learning_rate},
        ],
        lr=learning_rate,
        fused=True,
    )


def due(state: TrainerState, every: int, end: float) -> bool:
    """Whether masks are drawn anew before this step: every `every` steps, and when `end` is reached."""
    before, now = (state.global_step - 1) / state.max_steps, state.global_step / state.max_steps
    return state.global_step % every == 0 or before < end <= now


class HardMovementPruning(TrainerCallback):
    """Keep the weights with the highest scores of each encoder matrix, along the gradual schedule.

    The masks are drawn anew every `every` optimizer steps, up to the end of the run, and at `end`.
    `begin` and `end` are fractions of the run.
    """

    def __init__(self, model: PreTrainedModel, sparsity: float, begin: float, end: float, every: int = 10):
        self.masks = [attach(m, *m.weight.shape) for m in encoder.linears(model).values()]
        self.schedule = (sparsity, begin, end)
        self.every = every

    @torch.no_grad()
    def on_step_begin(self, args, state, control, **kwargs):
        if due(state, self.every, self.schedule[-1]):
            target = gradual(state.global_step / state.max_steps, *self.schedule)
            for scored in self.masks:
                scored.mask.copy_(largest(scored.scores, target))

    def on_log(self, args, state, control, **kwargs):
        state.log_history[-1]["sparsity"] = removed(self.masks)


class SoftMovementPruning(TrainerCallback):
    """Keep the weights with σ(S) > τ; a penalty on σ(S) decides how many they are.

    τ rises from 0 to `threshold` along the gradual schedule, and the penalty with it:
    λ_t · mean σ(S), λ_t = λ_f · τ_t / τ_f, added to the loss by `penalty()`, with `weight` as λ_f.
    At least 0.5% of each matrix is kept, to the nearest weight.
    """

    def __init__(self, model: PreTrainedModel, weight: float, threshold: float, begin: float, end: float):
        self.masks = [attach(m, *m.weight.shape) for m in encoder.linears(model).values()]
        self.weight = weight
        self.schedule = (threshold, begin, end)
        self.ramp = 0.0

    @torch.no_grad()
    def on_step_begin(self, args, state, control, **kwargs):
        tau = gradual(state.global_step / state.max_steps, *self.schedule)
        self.ramp = tau / self.schedule[0]
        for scored in self.masks:
            mask = scored.scores.sigmoid() > tau
            if mask.float().mean() < MINIMUM_KEPT:
                mask = largest(scored.scores, 1 - MINIMUM_KEPT)
            scored.mask.copy_(mask)

    def penalty(self) -> torch.Tensor:
        """λ_t times the mean over the matrices of the mean of σ(S) in each."""
        means = torch.stack([scored.scores.sigmoid().mean() for scored in self.masks])
        return self.weight * self.ramp * means.mean()

    def on_log(self, args, state, control, **kwargs):
        state.log_history[-1]["sparsity"] = removed(self.masks)


def removed(masks: list[ScoredMask]) -> float:
    """The share of all entries of the masks that are False."""
    return 1 - sum(m.mask.sum().item() for m in masks) / sum(m.mask.numel() for m in masks)
