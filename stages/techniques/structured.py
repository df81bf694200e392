"""Structured movement pruning: whole attention heads and feed-forward columns are removed.

Block movement pruning (Lagunas et al., 2021, arXiv:2109.04838) with one score for each head and
each feed-forward column, which its weights share: dL/dS is the sum of dL/dW′ ⊙ W over them.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, TrainerCallback

from stages.checkpoints import encoder
from stages.techniques.masks import attach, detach, due, largest, optimizer, removed
from stages.techniques.settings import StructuredPruning
from stages.training.distillation import distil
from stages.training.schedules import gradual, progress


def apply(parent: Path, folder: Path, settings: StructuredPruning) -> dict:
    """Write into `folder` the torch model `parent` without some heads and columns, the rest fine-tuned.

    Returns `history` of both trainings, `layer_shapes` and `sparsity`.
    """
    model = encoder.load(parent)
    encoder.freeze_embeddings(model, settings.freeze_embeddings)
    pruning = StructuredMovement(model, settings.heads, settings.feed_forward, settings.begin, settings.end)
    before = {name: module.weight.numel() for name, module in encoder.linears(model).items()}
    name = folder.name
    history = distil(model, parent, name, settings, callbacks=[pruning], optimizer=optimizer(model, settings))
    detach(model)
    remove(model, pruning.kept())
    tuned = distil(model, parent, f"{name}-fine-tuning", settings, settings.fine_tuning)
    for epoch in tuned:
        epoch["epoch"] += settings.epochs
    left = {name: module.weight.numel() for name, module in encoder.linears(model).items()}
    overall = 1 - sum(left.values()) / sum(before.values())
    model.save_pretrained(folder)
    return {
        "history": history + tuned,
        "layer_shapes": model.config.layer_shapes,
        "sparsity": {"overall": overall, **{name: 1 - left[name] / before[name] for name in left}},
    }


class StructuredMovement(TrainerCallback):
    """Mask the heads and the feed-forward columns with the lowest scores, along the gradual schedule.

    `heads` and `feed_forward` are the shares to remove of all heads and of all columns of the
    encoder, ranked over its blocks together; each block keeps its best head and its best column.
    A head is masked where it enters the attention's output projection, a column where it enters
    the second feed-forward matrix: neither then adds anything to the block's output.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        heads: float,
        feed_forward: float,
        begin: float,
        end: float,
        every: int = 10,
    ):
        blocks = encoder.blocks(model)
        self.parts = [
            (heads, [attach(block.out, block.heads) for block in blocks]),
            (feed_forward, [attach(block.down, block.hidden) for block in blocks]),
        ]
        self.begin, self.end, self.every = begin, end, every

    @torch.no_grad()
    def on_step_begin(self, args, state, control, **kwargs):
        if due(state, self.every, self.end):
            done = progress(state.global_step, state.max_steps)
            for share, masks in self.parts:
                target = gradual(done, share, self.begin, self.end)
                for scored, mask in zip(masks, best([m.scores for m in masks], target), strict=True):
                    scored.mask.copy_(mask)

    def on_log(self, args, state, control, **kwargs):
        for name, (_, masks) in zip(("heads_removed", "feed_forward_removed"), self.parts, strict=True):
            state.log_history[-1][name] = removed(masks)

    def kept(self) -> list[tuple[list[int], list[int]]]:
        """For each block, the heads and the feed-forward columns that are not masked."""
        heads, columns = ([m.mask.nonzero().flatten().tolist() for m in masks] for _, masks in self.parts)
        return list(zip(heads, columns, strict=True))


def best(scores: Sequence[torch.Tensor], sparsity: float) -> list[torch.Tensor]:
    """Masks of the highest of all `scores` (1-d tensors) together, the highest of each always kept.

    round(sparsity · n) of the n scores are False, or as many as that last rule allows.
    """
    ranked = torch.cat([s.index_fill(0, s.argmax(), torch.inf) for s in scores])
    removed = min(round(sparsity * len(ranked)), len(ranked) - len(scores))
    mask = largest(ranked, removed / len(ranked))
    return list(mask.split([len(s) for s in scores]))


def remove(model: PreTrainedModel, kept: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
    """Cut the encoder of `model` down to the heads and feed-forward columns `kept` in each block.

    The shapes that are left are written to `config.layer_shapes`, from which `encoder.build` makes
    them again.
    """
    for block, (heads, columns) in zip(encoder.blocks(model), kept, strict=True):
        block.keep(heads, columns)
    model.config.layer_shapes = [[len(heads), len(columns)] for heads, columns in kept]
