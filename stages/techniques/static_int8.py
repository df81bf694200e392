"""Static int8 for ONNX Runtime: activations quantized with scales fixed beforehand.

Dynamic int8 takes the range of an activation anew at each call, from the whole batch; here it is
measured once, on training queries, so a query's result does not depend on its neighbours.
"""

import contextlib
import io
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from tokenizers import Tokenizer

from stages.core.errors import UserError

Ranges = Literal["min-max", "percentile", "entropy"]
METHODS = {
    "min-max": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
PRODUCTS = ("MatMul", "Gemm")
# Of a tensor's values in percent. On CLINC150, 99.9 cuts into what the model needs: the logits
# are then five times as far from the float model's.
PERCENTILE = 99.99


class Queries(CalibrationDataReader):
    """Queries one at a time, without padding, whose activations no served query is to be scaled by."""

    def __init__(self, tokenizer: Path, texts: list[str]):
        tokens = Tokenizer.from_file(str(tokenizer))
        tokens.no_padding()
        self.encodings = tokens.encode_batch(texts)
        self.set_range(0, len(texts))

    def __len__(self) -> int:
        return len(self.encodings)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.rest = iter(self.encodings[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Both inputs of the graph, int64 of shape (1, length); None after the last query."""
        encoding = next(self.rest, None)
        if encoding is None:
            return None
        return {
            "input_ids": np.array([encoding.ids], dtype=np.int64),
            "attention_mask": np.array([encoding.attention_mask], dtype=np.int64),
        }


def quantize(
    parent: Path,
    folder: Path,
    texts: list[str],
    ranges: Ranges,
    per_channel: bool,
    reduce_range: bool,
) -> dict:
    """Write the int8 model of `parent`, an ONNX one, with its config.json.

    int8 are the products with a weight matrix (weights symmetric int8, with a scale for each
    output channel if `per_channel`; inputs affine uint8, one scale each) and the embeddings, the
    same as in dynamic int8. What a product gives is float, and so is all the rest: layer norms,
    GELU, softmax, attention's two products of activations. `reduce_range` keeps the weights to 7
    bits, as in dynamic int8.

    `ranges` is how the range of an activation follows from its values over `texts`: all of it
    (min-max), what is left after cutting off 100 − PERCENTILE percent, half at either end
    (percentile), or the range around zero whose histogram in 128 bins diverges least from the
    values' (entropy).

    Returns the number of `texts`, and of matrix products in int8 and in float. Raises
    a UserError if there are no texts, or `parent` is no ONNX model or has ONNX Runtime's attention, which
    its static quantizer leaves in float.
    """
    if not texts:
        raise UserError(
            "static int8 has no queries to choose ranges from: set quantize.range_queries to 1 or more"
        )
    if not (parent / "model.onnx").exists():
        raise UserError(f"{parent} has no model.onnx: static int8 needs an exported model as parent")
    if any(node.op_type.endswith("Attention") for node in onnx.load(parent / "model.onnx").graph.node):
        raise UserError(
            f"static int8 cannot quantize the attention of {parent}: make the model of an export with "
            "`method: traced`"
        )
    tokenizer = parent / "tokenizer.json"
    with TemporaryDirectory(dir=folder) as scratch, _quiet():
        # quantize_static writes beside what it reads.
        step = shutil.copyfile(parent / "model.onnx", Path(scratch) / "model.onnx")
        # Embeddings need no calibration, but quantize_dynamic would take the Gemms apart.
        quantize_static(
            step,
            step,
            Queries(tokenizer, texts[:1]),
            quant_format=QuantFormat.QOperator,
            op_types_to_quantize=["EmbedLayerNormalization", "Gather"],
            activation_type=QuantType.QUInt8,
        )
        model = onnx.load(step)
        weighted, others = _products(model)
        _declare_types(model, weighted)
        onnx.save(model, step)
        quantize_static(
            step,
            step,
            Queries(tokenizer, texts),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_quantize=[node.name for node in weighted],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=reduce_range,
            calibrate_method=METHODS[ranges],
            extra_options={
                "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
                "CalibTensorRangeSymmetric": False,
                "CalibPercentile": PERCENTILE,
                # Query by query, whatever the method: the histograms' calibrators would keep all
                # activations at once, and cannot put those of different lengths together.
                "CalibStridedMinMax": 1,
            },
        )
        model = onnx.load(step)
    _read_floats_elsewhere(model)
    onnx.save(model, folder / "model.onnx")
    shutil.copyfile(parent / "config.json", folder / "config.json")
    return {
        "range_queries": len(texts),
        "quantized_nodes": len(weighted),
        "float_nodes": len(others),
    }


def _products(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The matrix products with a constant second factor, and the others."""
    constants = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    weighted = [node for node in products if node.input[1] in constants]
    return weighted, [node for node in products if node.input[1] not in constants]


def _declare_types(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Declare what `nodes` read first as float32, where the graph does not say.

    ONNX infers no types past ONNX Runtime's own operators, and a tensor without one stays
    uncalibrated. ONNX Runtime's symbolic inference gives up on some exported models.
    """
    known = {value.name for value in [*model.graph.value_info, *model.graph.input]}
    unknown = {node.input[0]: None for node in nodes if node.input[0] not in known}
    model.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in unknown
    )


def _read_floats_elsewhere(model: onnx.ModelProto) -> None:
    """Let only matrix products read quantized activations.

    quantize_static puts its pair of QuantizeLinear and DequantizeLinear on the tensor, for all
    that read it: skip connections too.
    """
    nodes = model.graph.node
    source = {node.output[0]: node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    floats = {
        node.output[0]: source[node.input[0]]
        for node in nodes
        if node.op_type == "DequantizeLinear" and node.input[0] in source
    }
    for node in nodes:
        if node.op_type not in PRODUCTS:
            node.input[:] = [floats.get(name, name) for name in node.input]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the hints and counts that ONNX Runtime's quantizers log and print."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
