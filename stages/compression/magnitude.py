"""Magnitude pruning: the weights closest to zero are set to zero."""

from typing import Literal

import torch
from transformers import PreTrainedModel, TrainerCallback

from stages.compression import encoder
from stages.compression.sparsity import gradual, largest

Schedule = Literal["magnitude-one-shot", "magnitude-iterative", "magnitude-gradual"]


def scheduled(
    schedule: Schedule, progress: float, final: float, begin: float, end: float, rounds: int
) -> float:
    """The sparsity due at `progress` in [0, 1] of the run: 0 before `begin`, `final` from `end` on.

    One-shot: all of it at `begin`. Iterative: in `rounds` steps, evenly spread over begin … end,
    each of which removes the same share of the weights that are left (Han et al., 2015,
    arXiv:1506.02626). Gradual: along the cubic schedule.
    """
    if progress < begin:
        return 0.0
    if schedule == "magnitude-one-shot" or progress >= end:
        return final
    if schedule == "magnitude-gradual":
        return gradual(progress, final, begin, end)
    step = int((progress - begin) / (end - begin) * (rounds - 1)) + 1
    return 1 - (1 - final) ** (step / rounds)


class MagnitudePruning(TrainerCallback):
    """Prune each encoder matrix along a schedule while a Trainer trains it.

    The masks are drawn anew whenever the schedule asks for more, at most every `every` optimizer
    steps; masked weights are set back to zero after every step. `begin` and `end` are fractions
    of the run, `rounds` the steps of the iterative schedule.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        schedule: Schedule,
        sparsity: float,
        begin: float,
        end: float,
        rounds: int,
        every: int = 10,
    ):
        self.weights = [encoder.trained_weight(module) for module in encoder.linears(model).values()]
        self.schedule, self.final = schedule, sparsity
        self.begin, self.end, self.rounds = begin, end, rounds
        self.every = every
        self.target = -1.0
        self.masks: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_step_begin(self, args, state, control, **kwargs):
        step = state.global_step
        if step / state.max_steps < self.end:
            step -= step % self.every
        target = scheduled(
            self.schedule, step / state.max_steps, self.final, self.begin, self.end, self.rounds
        )
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
