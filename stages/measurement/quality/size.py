"""Where the bytes of a model folder are."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.core import model_folder

MB = 2**20


def breakdown(folder: Path) -> dict[str, float]:
    """MB of 2^20 bytes of what is deployed: `size_mb`, and its parts.

    `embeddings_mb`, `head_mb` (classifier, the pooling layer before it, early exits), `encoder_mb` (the
    rest of the weights' file, an ONNX graph included), `tokenizer_mb` (tokenizer, config, calibration).
    """
    weights = next(folder.glob("model.*"))
    embeddings = head = 0
    for name, size in tensor_bytes(weights):
        if "embeddings." in name:
            embeddings += size
        elif name.startswith("exits.") or "classifier." in name or "pooler." in name:
            head += size
    file = weights.stat().st_size
    total = model_folder.size_mb(folder)
    return {
        "size_mb": total,
        "embeddings_mb": embeddings / MB,
        "encoder_mb": (file - embeddings - head) / MB,
        "head_mb": head / MB,
        "tokenizer_mb": total - file / MB,
    }


def tensor_bytes(file: Path) -> Iterator[tuple[str, int]]:
    """Name and bytes of every tensor in a file of weights: safetensors, packed, ONNX or torch."""
    if file.suffix in (".safetensors", ".sparse"):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                yield name, end - begin
    elif file.suffix == ".onnx":
        import onnx

        for tensor in onnx.load(file).graph.initializer:
            yield tensor.name, tensor.ByteSize()
    else:
        from stages.checkpoints import torch_int8

        for name, value in torch_int8.weights(file).items():
            yield name, sum(_nbytes(v) for v in (value if isinstance(value, tuple) else (value,)))


def _nbytes(value: Any) -> int:
    import torch

    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0
