"""Dynamic int8: weights quantized beforehand, activations with a scale of their own at each call."""

import logging
import shutil
from pathlib import Path

from stages.core.errors import UserError

# The quantizer advises to pre-process the graph, which the export has done. It takes a graph with 4-bit
# embeddings for a quantized one.
ADVICE = ("pre-processing", "already quantized")
logging.getLogger().addFilter(lambda record: not any(advice in record.getMessage() for advice in ADVICE))


def quantize(
    parent: Path, folder: Path, per_channel: bool, reduce_range: bool, embedding_bits: int = 8
) -> None:
    """Write the int8 model of `parent`, for torch or for ONNX Runtime, whichever `parent` runs on.

    Weights are symmetric int8, with a scale for each output channel if `per_channel`, else for
    each matrix. ONNX Runtime's embeddings are int8 too, or those of words 4-bit by `embedding_bits`;
    torch's stay fp32. `reduce_range` keeps the weights to 7 bits: without VNNI, x86's 8-bit dot
    product saturates on full ones (torch always reduces them there).
    """
    if (parent / "model.onnx").exists():
        import onnx
        from onnx import TensorProto
        from onnxruntime.quantization import QuantType, quantize_dynamic

        from stages.techniques import int8_embeddings

        model = onnx.load(parent / "model.onnx")
        int8_embeddings.rewrite(model, embedding_bits)
        quantize_dynamic(
            model,
            folder / "model.onnx",
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=reduce_range,
            # Of what ONNX Runtime's own operators give, whose types ONNX does not infer.
            # The bodies of `If`, where the layers after an early exit are, would stay in fp32.
            extra_options={"DefaultTensorType": TensorProto.FLOAT, "EnableSubgraph": True},
        )
    elif embedding_bits == 4:
        raise UserError(f"{parent} runs on torch, whose embeddings stay fp32: export it for 4-bit embeddings")
    else:
        from stages.checkpoints import encoder, torch_int8

        torch_int8.save(torch_int8.quantized(encoder.load(parent), per_channel), folder)
    shutil.copyfile(parent / "config.json", folder / "config.json")
