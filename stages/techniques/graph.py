"""A BERT or DistilBERT classifier written as an ONNX graph, from its weights, without torch."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stages.checkpoints.families import Family

OPSET, CONTRIB, IR = 20, "com.microsoft", 10
CONTRIB_OPERATORS = ("EmbedLayerNormalization", "SkipLayerNormalization", "BiasGelu")


class Graph:
    """Nodes and initializers, each once, in the order in which they are added."""

    def __init__(self, weights: dict[str, np.ndarray], width: int):
        self.weights, self.width = weights, width
        self.nodes: list = []
        self.initializers: dict = {}
        self.shapes: list = []

    def add(self, operator: str, *inputs: str, outputs: Sequence[str] = (), **attributes) -> str:
        """A node; returns the name of its first output, one of its own unless `outputs` has names."""
        name = f"{operator}_{len(self.nodes)}"
        outputs = outputs or [f"{name}_output"]
        domain = CONTRIB if operator in CONTRIB_OPERATORS else ""
        self.nodes.append(helper.make_node(operator, inputs, outputs, name, domain=domain, **attributes))
        return outputs[0]

    def hidden(self, name: str, width: int | None = None) -> str:
        """Declare `name` as float32 (batch, length, width), which ONNX does not infer of such operators."""
        shape = ("batch", "length", width or self.width)
        self.shapes.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def constant(self, name: str, value) -> str:
        self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def parameter(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def product(self, x: str, layer: str) -> str:
        """`x` times the weight of a linear layer, kept as (inputs, outputs); without the bias."""
        return self.add("MatMul", x, self.constant(f"{layer}.weight", self.weights[f"{layer}.weight"].T))

    def linear(self, x: str, layer: str) -> str:
        """A linear layer of every token."""
        return self.add("Add", self.product(x, layer), self.parameter(f"{layer}.bias"))

    def dense(self, x: str, layer: str, outputs: Sequence[str] = ()) -> str:
        """A linear layer of `x`, of two dimensions."""
        parameters = [self.parameter(f"{layer}.{part}") for part in ("weight", "bias")]
        return self.add("Gemm", x, *parameters, transB=1, outputs=outputs)

    def skip_norm(self, x: str, skip: str, norm: str, bias: str, epsilon: float) -> str:
        """The layer norm `norm` of x + skip + bias."""
        parameters = [self.parameter(f"{norm}.{part}") for part in ("weight", "bias")]
        inputs = (x, skip, *parameters, self.parameter(bias))
        return self.hidden(self.add("SkipLayerNormalization", *inputs, epsilon=epsilon))


def write(weights: dict[str, np.ndarray], config: dict, family: Family, file: Path) -> None:
    """Write the classifier with these `weights` and config.json as `file`.

    Inputs `input_ids` and `attention_mask`, int64 of shape (batch, length), both dimensions dynamic;
    output `logits`, float32 of shape (batch, labels). Embeddings with their norm, skip connections with
    theirs, and biases with GELU are ONNX Runtime's own operators. Parameters keep their names.
    """
    width = config[family.width]
    size = width // config[family.heads]
    epsilon = family.epsilon if isinstance(family.epsilon, float) else config[family.epsilon]
    layers = config[family.layers]
    shapes = config.get("layer_shapes") or [[config[family.heads], None]] * layers
    g = Graph(weights, width)

    mask = g.add(
        "Unsqueeze", g.add("Cast", "attention_mask", to=TensorProto.FLOAT), g.constant("axes", [1, 2])
    )
    masked = g.add("Sub", g.constant("one", np.float32(1)), mask)
    bias = g.add("Mul", masked, g.constant("masked", np.finfo(np.float32).min))

    x = _embeddings(g, family, epsilon)
    scale = g.constant("scale", np.float32(1 / math.sqrt(size)))
    for number, (heads, _) in enumerate(shapes):
        block = family.block.format(number)
        query, key, value, out, up, down = (f"{block}.{name}" for name in family.linears)
        split = g.constant(f"{block}.heads", [0, 0, heads, size])
        q, k, v = (
            g.add("Transpose", g.add("Reshape", g.linear(x, layer), split), perm=perm)
            for layer, perm in ((query, [0, 2, 1, 3]), (key, [0, 2, 3, 1]), (value, [0, 2, 1, 3]))
        )
        scores = g.add("Add", g.add("Mul", g.add("MatMul", q, k), scale), bias)
        mixed = g.add("MatMul", g.add("Softmax", scores, axis=-1), v)
        merge = g.constant(f"{block}.width", [0, 0, heads * size])
        mixed = g.add("Reshape", g.add("Transpose", mixed, perm=[0, 2, 1, 3]), merge)
        x = g.skip_norm(g.product(mixed, out), x, f"{block}.{family.attention_norm}", f"{out}.bias", epsilon)
        inner = g.add("BiasGelu", g.product(x, up), g.parameter(f"{up}.bias"))
        inner = g.hidden(inner, len(weights[f"{up}.bias"]))
        x = g.skip_norm(g.product(inner, down), x, f"{block}.{family.output_norm}", f"{down}.bias", epsilon)
    first = g.add("Gather", x, g.constant("first", np.int64(0)), axis=1)
    pooled = g.add(family.activation, g.dense(first, family.pooler))
    g.dense(pooled, "classifier", outputs=["logits"])

    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ("batch", "length"))
        for name in ("input_ids", "attention_mask")
    ]
    labels = len(weights["classifier.bias"])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", labels))
    graph = helper.make_graph(
        g.nodes, "classifier", ids, [output], list(g.initializers.values()), value_info=g.shapes
    )
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    model: ModelProto = helper.make_model(graph, opset_imports=domains, ir_version=IR)
    file.write_bytes(model.SerializeToString(deterministic=True))


def _embeddings(g: Graph, family: Family, epsilon: float) -> str:
    """Words, positions (from 0) and the token type 0 of a single text, normed."""
    word, position, types = (
        f"{family.embeddings}.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
    )
    norm = [g.parameter(f"{family.embeddings}.LayerNorm.{part}") for part in ("weight", "bias")]
    ids = g.add("Cast", "input_ids", to=TensorProto.INT32)
    segments = (g.add("Sub", ids, ids), g.parameter(types)) if family.types else ("", "")
    embedded = g.add(
        "EmbedLayerNormalization",
        ids,
        segments[0],
        g.parameter(word),
        g.parameter(position),
        segments[1],
        *norm,
        outputs=["embedded", "mask_index"],
        epsilon=epsilon,
    )
    return g.hidden(embedded)
