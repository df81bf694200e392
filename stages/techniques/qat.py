"""Quantization-aware training: the rounding of int8 in the forward pass, its gradient straight through.

The arithmetic is that of ONNX Runtime's dynamic int8 (Jacob et al., 2018, arXiv:1712.05877): weights
symmetric, a scale for each output channel or for each matrix; what enters a linear layer affine in
8 bits, with a scale for each query. Embeddings are affine too, a scale for each matrix, or those of words
in 4 bits, a scale for each block.
"""

import functools
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from stages.checkpoints import encoder
from stages.techniques import int4, int8
from stages.techniques.settings import QuantizationAwareTraining
from stages.training.distillation import distil


def apply(parent: Path, folder: Path, settings: QuantizationAwareTraining) -> dict:
    """Write into `folder` the torch model `parent` trained for int8; returns its `history`."""
    model = encoder.load(parent)
    prepare(model, settings.per_channel, settings.reduce_range, settings.embedding_bits)
    history = distil(model, parent, folder.name, settings)
    convert(model)
    model.save_pretrained(folder)
    return {"history": history}


class RoundedWeight(nn.Module):
    """A parametrization: a weight, shape (outputs, inputs), on the grid of symmetric int8.

    `limit` is the largest integer; one scale for each output if `per_channel`, else one for all.
    """

    def __init__(self, limit: int, per_channel: bool):
        super().__init__()
        self.limit = limit
        self.per_channel = per_channel

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        size = weight.detach().abs()
        top = size.amax(dim=1, keepdim=True) if self.per_channel else size.max()
        scale = (top / self.limit).clamp(min=torch.finfo(weight.dtype).tiny)
        return straight_through(weight, (weight / scale).round() * scale)


class RoundedVector(nn.Module):
    """A parametrization: a vector on one affine 8-bit grid."""

    def forward(self, vector: torch.Tensor) -> torch.Tensor:
        return affine(vector, axes=(0,))


def round_input(linear: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    """A forward pre-hook: the input, shape (queries, …), on an affine 8-bit grid for each query."""
    return affine(inputs[0], axes=tuple(range(1, inputs[0].dim())))


def round_first_input(linear: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    """The same of the first token of each query, input shape (queries, tokens, …); the others are left."""
    return torch.cat([round_input(linear, (inputs[0][:, :1],)), inputs[0][:, 1:]], dim=1)


def affine(values: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """`values` on affine 8-bit grids, each of which spans the `axes`."""
    low = values.detach().amin(dim=axes, keepdim=True).clamp(max=0)
    high = values.detach().amax(dim=axes, keepdim=True).clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(values.dtype).tiny)
    zero = (-low / scale).round()
    return straight_through(values, ((values / scale + zero).round().clamp(0, 255) - zero) * scale)


def straight_through(values: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """`rounded` forward, the identity backward."""
    return values + (rounded - values).detach()


def prepare(model: PreTrainedModel, per_channel: bool, reduce_range: bool, embedding_bits: int = 8) -> None:
    """Have every linear layer of `model` compute as in int8, and freeze the embeddings on their grids.

    `reduce_range` keeps the weights to 7 bits. ONNX Runtime has 8-bit embeddings and their layer norm in one
    operator, whose int8 rounds the norm's weight and bias too; after 4-bit or factorised ones the norm is
    float. All of it is in float32, where the Trainer would have bf16 too: the 8 bits of its significand would
    move what is on the int8 grids.
    """
    first_alone: tuple[nn.Linear, ...] = ()  # as export writes the last block
    family = encoder.family(model)
    if family.written and not family.shared_layers:
        last = encoder.blocks(model)[-1]
        first_alone = (last.query, last.out, last.up, last.down)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            rounded = RoundedWeight(64 if reduce_range else 127, per_channel)
            parametrize.register_parametrization(module, "weight", rounded)
            # ONNX Runtime multiplies 8-bit words by their projection as they are.
            if embedding_bits == 4 or module is not getattr(encoder.words(model), "projection", None):
                module.register_forward_pre_hook(round_first_input if module in first_alone else round_input)
    embeddings = model.base_model.get_submodule("embeddings")
    for module in embeddings.modules():
        if isinstance(module, nn.Embedding):
            values = module.weight.detach().numpy()
            if embedding_bits == 4 and module is model.get_input_embeddings():
                grid = int4.dequantize(*int4.quantize(values))
            else:
                scale, zero = int8.scale_and_zero_point(values, symmetric=False)
                grid = int8.dequantize(int8.quantize(values, scale, zero), scale, zero)
            module.weight.data = torch.from_numpy(grid)
            module.weight.requires_grad_(False)
    if family.written and embedding_bits == 8 and not encoder.embedding_rank(model):
        for name in ("weight", "bias"):
            parametrize.register_parametrization(embeddings.get_submodule(family.norm), name, RoundedVector())
    forward = model.forward

    @functools.wraps(forward)
    def in_float32(*args, **kwargs):
        with torch.autocast(model.device.type, enabled=False):
            return forward(*args, **kwargs)

    model.forward = in_float32


def convert(model: PreTrainedModel) -> None:
    """Take the rounding out again: plain layers, their weights on the int8 grid that was trained for."""
    for module in list(model.modules()):
        for name in ("weight", "bias"):
            if parametrize.is_parametrized(module, name):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        if isinstance(module, nn.Linear):
            module._forward_pre_hooks.clear()
    del model.forward
