"""Embeddings in an ONNX graph, as its quantizer cannot quantize them: words in 4 bits, plain positions.

The quantizer knows `EmbedLayerNormalization`, in 8 bits. For words in 4 bits, plain operators are written in
its place.
"""

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from stages.core.errors import UserError
from stages.techniques import int4, int8

CONTRIB_OPERATORS = ("GatherBlockQuantized", "SkipLayerNormalization")
WORDS, POSITIONS = "word_embeddings.weight", "position_embeddings.weight"


def rewrite(model: ModelProto, bits: int) -> None:
    """Have the graph of an export, in place, read its words in 4 `bits`, or leave them for the quantizer's 8.

    Positions get an 8-bit grid where they are not fused. After plain operators, the norm and the token type
    0, which a single text has, stay float. A UserError where words should be in 4 bits and torch has traced
    the graph.
    """
    graph = model.graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants: dict[str, np.ndarray] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        fused = node.op_type == "EmbedLayerNormalization" and len(node.input) <= 7  # torch's has a mask
        for part in _plain(node, tensors, constants) if fused and bits == 4 else [node]:
            if bits == 4 and part.op_type == "Gather" and part.input[0].endswith(WORDS):
                nodes += _in_4_bits(part, tensors, constants)
            elif part.op_type == "Slice" and part.input[0].endswith(POSITIONS):
                nodes += _in_8_bits(part, tensors, constants)
            else:
                nodes.append(part)
    if bits == 4 and all(node.op_type != "GatherBlockQuantized" for node in nodes):
        raise UserError("4-bit embeddings need a parent whose export was `written`: this one was traced")

    used = _read_by(nodes) | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    kept += [numpy_helper.from_array(value, name) for name, value in constants.items()]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(node for node in nodes if used & set(node.output))
    graph.initializer.extend(kept)


def _read_by(nodes: Sequence[NodeProto]) -> set[str]:
    """The names that `nodes` read, those in the bodies of `If` too."""
    bodies = [attribute.g for node in nodes for attribute in node.attribute if attribute.HasField("g")]
    inside = [_read_by(body.node) for body in bodies]
    return {name for node in nodes for name in node.input}.union(*inside)


def _plain(fused: NodeProto, tensors: dict, constants: dict) -> list[NodeProto]:
    """What `EmbedLayerNormalization` fuses, of words, positions from 0 and the token type 0."""
    ids, _, word, position, types, *norm = fused.input
    constants["start"] = np.array([0])
    if types:
        constants["token_type"] = tensors[types][0]
    added = ["words", "positions", *norm, *(["token_type"] if types else [])]
    epsilon = helper.get_node_attr_value(fused, "epsilon")
    return [
        _node("Gather", word, ids, output="words"),
        _node("Shape", ids, output="length", start=1),
        _node("Slice", position, "start", "length", output="positions"),
        _node("SkipLayerNormalization", *added, output=fused.output[0], epsilon=epsilon),
    ]


def _in_4_bits(gather: NodeProto, tensors: dict, constants: dict) -> list[NodeProto]:
    word, ids = gather.input
    q, scales = int4.quantize(tensors[word])
    constants |= {f"{word}_4bit": int4.packed(q), f"{word}_scales": scales}
    blocks = {"bits": 4, "block_size": int4.BLOCK, "gather_axis": 0, "quantize_axis": 1}
    return [  # the cast, of a constant, is computed once, when the graph is loaded
        _node("Cast", f"{word}_scales", output="scales", to=TensorProto.FLOAT),
        _node("GatherBlockQuantized", f"{word}_4bit", ids, "scales", output=gather.output[0], **blocks),
    ]


def _in_8_bits(part: NodeProto, tensors: dict, constants: dict) -> list[NodeProto]:
    position, *bounds = part.input
    scale, zero_point = int8.scale_and_zero_point(tensors[position], symmetric=False)
    q = int8.quantize(tensors[position], scale, zero_point)
    stored = dict(zip(("quantized", "scale", "zero_point"), (q, scale, zero_point), strict=True))
    constants |= {f"{position}_{name}": value for name, value in stored.items()}
    grid = (f"{position}_scale", f"{position}_zero_point")
    return [
        _node("Slice", f"{position}_quantized", *bounds, output="positions_quantized"),
        _node("DequantizeLinear", "positions_quantized", *grid, output=part.output[0]),
    ]


def _node(operator: str, *inputs: str, output: str, **attributes) -> NodeProto:
    domain = "com.microsoft" if operator in CONTRIB_OPERATORS else ""
    return helper.make_node(operator, inputs, [output], f"embeddings_{operator}", domain=domain, **attributes)
