"""Torch's dynamic int8: how such a model is made, kept and read."""

import warnings
from pathlib import Path

import torch
from torch import nn
from torch.ao.quantization import default_dynamic_qconfig, per_channel_dynamic_qconfig, quantize_dynamic

from stages.checkpoints import encoder

FILE = "model.int8.pt"


def quantized(model: nn.Module, per_channel: bool) -> nn.Module:
    """`model` with its linear layers as torch's dynamic int8 ones."""
    config = per_channel_dynamic_qconfig if per_channel else default_dynamic_qconfig
    with warnings.catch_warnings():
        # Deprecated in favour of torchao, whose eager int8 is slower than fp32 on CPUs.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        return quantize_dynamic(model, {nn.Linear: config})


def save(model: nn.Module, folder: Path) -> None:
    """Write the weights of a `quantized` model."""
    torch.save(model.state_dict(), folder / FILE)


def load(folder: Path) -> nn.Module:
    """The model whose weights `save` wrote; they bring their own scales, per channel or per tensor."""
    model = quantized(encoder.build(folder), per_channel=True)
    model.load_state_dict(torch.load(folder / FILE, weights_only=True))
    return model
