"""Movement pruning (Sanh, Wolf and Rush, 2020, arXiv:2005.07683): what training moves to zero is removed."""

import torch
from transformers import PreTrainedModel, TrainerCallback

from stages.checkpoints import encoder
from stages.techniques.masks import attach, due, largest, removed
from stages.training.schedules import gradual, progress

MINIMUM_KEPT = 0.005  # of a matrix, in soft movement pruning


class HardMovement(TrainerCallback):
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
            target = gradual(progress(state.global_step, state.max_steps), *self.schedule)
            for scored in self.masks:
                scored.mask.copy_(largest(scored.scores, target))

    def on_log(self, args, state, control, **kwargs):
        # The Trainer appends an epoch's entry before it calls this.
        state.log_history[-1]["sparsity"] = removed(self.masks)


class SoftMovement(TrainerCallback):
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
        tau = gradual(progress(state.global_step, state.max_steps), *self.schedule)
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
