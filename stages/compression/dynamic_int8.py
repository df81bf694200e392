"""Dynamic int8: weights quantized beforehand, activations with a scale of their own at each call."""

import shutil
import warnings
from pathlib import Path


def quantize(parent: Path, folder: Path, per_channel: bool, reduce_range: bool) -> None:
    """Write the int8 model of `parent`, for torch or for ONNX Runtime, whichever `parent` runs on.

    Weights are symmetric int8, with a scale for each output channel if `per_channel`, else for
    each matrix. ONNX Runtime's embeddings are int8 too, torch's stay fp32. `reduce_range` keeps
    the weights to 7 bits: without VNNI, x86's 8-bit dot product saturates on full ones (torch
    always reduces them there).
    """
    if (parent / "model.onnx").exists():
        _quantize_onnx(parent, folder, per_channel, reduce_range)
    else:
        _quantize_torch(parent, folder, per_channel)
    shutil.copyfile(parent / "config.json", folder / "config.json")


def _quantize_onnx(parent: Path, folder: Path, per_channel: bool, reduce_range: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        parent / "model.onnx",
        folder / "model.onnx",
        weight_type=QuantType.QInt8,
        per_channel=per_channel,
        reduce_range=reduce_range,
    )


def _quantize_torch(parent: Path, folder: Path, per_channel: bool) -> None:
    import torch

    from stages.compression import encoder

    torch.save(quantized(encoder.load(parent), per_channel).state_dict(), folder / "model.int8.pt")


def quantized(model, per_channel: bool):
    """`model` with its linear layers as torch's dynamic int8 ones."""
    import torch
    from torch.ao.quantization import default_dynamic_qconfig, per_channel_dynamic_qconfig, quantize_dynamic

    config = per_channel_dynamic_qconfig if per_channel else default_dynamic_qconfig
    with warnings.catch_warnings():
        # Deprecated in favour of torchao, whose eager int8 is slower than fp32 on CPUs.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        return quantize_dynamic(model, {torch.nn.Linear: config})
