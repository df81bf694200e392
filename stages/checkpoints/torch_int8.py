"""Torch's dynamic int8: how such a model is made, kept and read."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.ao.quantization import default_dynamic_qconfig, per_channel_dynamic_qconfig, quantize_dynamic

from stages.checkpoints import encoder

FILE = "model.int8.pt"


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without torch's about its own code.

    Its int8 is deprecated in favour of torchao, whose eager int8 is slower than fp32 on CPUs; and its files
    use a storage class that will go.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield


def quantized(model: nn.Module, per_channel: bool) -> nn.Module:
    """`model` with its linear layers as torch's dynamic int8 ones."""
    config = per_channel_dynamic_qconfig if per_channel else default_dynamic_qconfig
    with _without_warnings():
        return quantize_dynamic(model, {nn.Linear: config})


def save(model: nn.Module, folder: Path) -> None:
    """Write the weights of a `quantized` model."""
    with _without_warnings():
        torch.save(model.state_dict(), folder / FILE)


def load(folder: Path) -> nn.Module:
    """The model whose weights `save` wrote; they bring their own scales, per channel or per tensor."""
    model = quantized(encoder.build(folder), per_channel=True)
    model.load_state_dict(weights(folder / FILE))
    return model


def weights(file: Path) -> dict:
    """The state dict that `save` wrote: tensors, and tuples of a packed weight and its bias."""
    with _without_warnings():
        return torch.load(file, weights_only=True)
