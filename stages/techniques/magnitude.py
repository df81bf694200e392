"""Magnitude pruning: the weights closest to zero are set to zero."""

import torch
from transformers import PreTrainedModel, TrainerCallback

from stages.checkpoints import encoder
from stages.techniques.masks import largest
from stages.techniques.settings import MagnitudePruning
from stages.training.schedules import progress, scheduled


class Magnitude(TrainerCallback):
    """Prune each encoder matrix along a schedule while a Trainer trains it.

    The masks are drawn anew whenever the schedule asks for more, at most every `every` optimizer
    steps; masked weights are set back to zero after every step.
    """

    def __init__(self, model: PreTrainedModel, settings: MagnitudePruning, every: int = 10):
        self.weights = [encoder.trained_weight(module) for module in encoder.linears(model).values()]
        self.settings, self.every = settings, every
        self.target = -1.0
        self.masks: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_step_begin(self, args, state, control, **kwargs):
        step, s = state.global_step, self.settings
        if progress(step, state.max_steps) < s.end:
            step -= step % self.every
        target = scheduled(s.method, progress(step, state.max_steps), s.sparsity, s.begin, s.end, s.rounds)
        if target != self.target:
            self.target = target
            self.masks = [(weight, largest(weight.abs(), target)) for weight in self.weights]
            self._apply()

    def on_step_end(self, args, state, control, **kwargs):
        self._apply()

    @torch.no_grad()
    def _apply(self):
        for weight, mask in self.masks:
            weight.masked_fill_(~mask, 0.0)

    def on_log(self, args, state, control, **kwargs):
        state.log_history[-1]["sparsity"] = self.target
