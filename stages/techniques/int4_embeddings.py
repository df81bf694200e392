"""Embeddings of words in 4 bits, in the ONNX graph of an export."""

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from stages.core.errors import UserError
from stages.techniques import int4, int8

CONTRIB = "com.microsoft"


def rewrite(model: ModelProto) -> None:
    """Have the graph of an export read its words in 4 bits, in place.

    `EmbedLayerNormalization` cannot, and becomes the operators that it fuses. Positions are on an 8-bit grid.
    The token type 0, which a single text has, and the norm stay float. A UserError where torch has traced the
    graph.
    """
    graph = model.graph
    fused = next((node for node in graph.node if node.op_type == "EmbedLayerNormalization"), None)
    if fused is None or len(fused.input) > 7:  # a mask, positions of its own
        raise UserError("4-bit embeddings need a parent whose export was `written`: this one was traced")
    _, _, word, position, types, gamma, beta = fused.input
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    q, scales = int4.quantize(tensors[word])
    places = tensors[position]
    scale, zero_point = int8.scale_and_zero_point(places, symmetric=False)
    constants = {
        f"{word}_4bit": int4.packed(q),
        f"{word}_scales": scales,
        f"{position}_quantized": int8.quantize(places, scale, zero_point),
        f"{position}_scale": scale,
        f"{position}_zero_point": zero_point,
        "start": np.array([0]),
    }
    if types:
        constants["token_type"] = tensors[types][0]
    grid = (f"{position}_scale", f"{position}_zero_point")
    blocks = {"bits": 4, "block_size": int4.BLOCK, "gather_axis": 0, "quantize_axis": 1}
    epsilon = helper.get_node_attr_value(fused, "epsilon")
    added, embedded = (gamma, beta, *(["token_type"] if types else [])), fused.output[0]
    nodes = [  # the cast, of a constant, is computed once, when the graph is loaded
        _node("Cast", f"{word}_scales", output="scales", to=TensorProto.FLOAT),
        _node("GatherBlockQuantized", f"{word}_4bit", "input_ids", "scales", output="words", **blocks),
        _node("Shape", "input_ids", output="length", start=1),
        _node("Slice", f"{position}_quantized", "start", "length", output="places"),
        _node("DequantizeLinear", "places", *grid, output="positions"),
        _node("SkipLayerNormalization", "words", "positions", *added, output=embedded, epsilon=epsilon),
    ]
    at = list(graph.node).index(fused)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    _keep_needed(graph, [*graph.node[:at], *nodes, *graph.node[at + 1 :]])


def _node(operator: str, *inputs: str, output: str, **attributes) -> NodeProto:
    domain = CONTRIB if operator in ("GatherBlockQuantized", "SkipLayerNormalization") else ""
    return helper.make_node(operator, inputs, [output], f"embeddings_{operator}", domain=domain, **attributes)


def _keep_needed(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Give `graph` those of the `nodes`, in their order, and of its initializers that its output needs."""
    needed = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.insert(0, node)
            needed.update(node.input)
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(initializers)
