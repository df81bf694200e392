"""A BERT or DistilBERT classifier written as an ONNX graph, from its weights, without torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stages.checkpoints.families import Family

OPSET, CONTRIB, IR = 20, "com.microsoft", 10
CONTRIB_OPERATORS = (
    "Attention",
    "BiasGelu",
    "EmbedLayerNormalization",
    "MultiHeadAttention",
    "SkipLayerNormalization",
)
# What torch adds to the scores of padding.
MASKED = float(np.finfo(np.float32).min)


class Graph:
    """Nodes and initializers, each once, in the order in which they are added."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self.weights = weights
        self.nodes: list = []
        self.initializers: dict = {}

    def add(self, operator: str, *inputs: str, outputs: Sequence[str] = (), **attributes) -> str:
        """A node; returns the name of its first output, one of its own unless `outputs` has names."""
        name = f"{operator}_{len(self.nodes)}"
        outputs = outputs or [f"{name}_output"]
        domain = CONTRIB if operator in CONTRIB_OPERATORS else ""
        self.nodes.append(helper.make_node(operator, inputs, outputs, name, domain=domain, **attributes))
        return outputs[0]

    def constant(self, name: str, value) -> str:
        self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def parameter(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def product(self, x: str, layer: str) -> str:
        """`x` times the weight of a linear layer, kept as (inputs, outputs); without the bias."""
        return self.add("MatMul", x, self.constant(f"{layer}.weight", self.weights[f"{layer}.weight"].T))

    def joined(self, layers: Sequence[str], part: str) -> str:
        """The weights (inputs, outputs) or biases of linear layers of one input, as one."""
        return self.constant(
            f"{layers[0]}.joined.{part}",
            np.concatenate([self.weights[f"{layer}.{part}"].T for layer in layers], axis=-1),
        )

    def dense(self, x: str, layer: str, outputs: Sequence[str] = ()) -> str:
        """A linear layer of `x`, of two dimensions."""
        parameters = [self.parameter(f"{layer}.{part}") for part in ("weight", "bias")]
        return self.add("Gemm", x, *parameters, transB=1, outputs=outputs)

    def skip_norm(self, x: str, skip: str, norm: str, bias: str, epsilon: float) -> str:
        """The layer norm `norm` of x + skip + bias."""
        parameters = [self.parameter(f"{norm}.{part}") for part in ("weight", "bias")]
        inputs = (x, skip, *parameters, self.parameter(bias))
        return self.add("SkipLayerNormalization", *inputs, epsilon=epsilon)


def write(weights: dict[str, np.ndarray], config: dict, family: Family, file: Path) -> None:
    """Write the classifier with these `weights` and config.json as `file`.

    Inputs `input_ids` and `attention_mask`, int64 of shape (batch, length), both dimensions dynamic;
    output `logits`, float32 of shape (batch, labels). Embeddings with their norm, skip connections with
    theirs, and biases with GELU are ONNX Runtime's own operators. Parameters keep their names.
    """
    epsilon = family.epsilon if isinstance(family.epsilon, float) else config[family.epsilon]
    layers = config[family.layers]
    shapes = config.get("layer_shapes") or [[config[family.heads], None]] * layers
    g = Graph(weights)

    mask = g.add("Cast", "attention_mask", to=TensorProto.INT32)
    x = _embeddings(g, family, epsilon)
    first = g.constant("first", np.array([0]))
    for number, (heads, _) in enumerate(shapes):
        block = family.block.format(number)
        query, key, value, out, up, down = (f"{block}.{name}" for name in family.linears)
        bias = g.joined([query, key, value], "bias")
        attention = {"num_heads": heads, "mask_filter_value": MASKED}
        if number < layers - 1:
            mixed = g.add("Attention", x, g.joined([query, key, value], "weight"), bias, mask, **attention)
        else:  # the classifier reads the first token alone: no other needs the last layer's answer
            keys, values = g.product(x, key), g.product(x, value)
            x = g.add("Gather", x, first, axis=1)
            queries = g.product(x, query)
            mixed = g.add("MultiHeadAttention", queries, keys, values, bias, mask, **attention)
        x = g.skip_norm(g.product(mixed, out), x, f"{block}.{family.attention_norm}", f"{out}.bias", epsilon)
        inner = g.add("BiasGelu", g.product(x, up), g.parameter(f"{up}.bias"))
        x = g.skip_norm(g.product(inner, down), x, f"{block}.{family.output_norm}", f"{down}.bias", epsilon)
    x = g.add("Squeeze", x, g.constant("axis", [1]))
    pooled = g.add(family.activation, g.dense(x, family.pooler))
    g.dense(pooled, "classifier", outputs=["logits"])

    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ("batch", "length"))
        for name in ("input_ids", "attention_mask")
    ]
    labels = len(weights["classifier.bias"])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", labels))
    graph = helper.make_graph(g.nodes, "classifier", ids, [output], list(g.initializers.values()))
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    model: ModelProto = helper.make_model(graph, opset_imports=domains, ir_version=IR)
    file.write_bytes(model.SerializeToString(deterministic=True))


def _embeddings(g: Graph, family: Family, epsilon: float) -> str:
    """Words, positions (from 0) and the token type 0 of a single text, normed.

    In one operator, unless the words are factorised.
    """
    word, position, types = (
        f"{family.embeddings}.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
    )
    norm = [g.parameter(f"{family.embeddings}.LayerNorm.{part}") for part in ("weight", "bias")]
    projection = f"{family.embeddings}.word_embeddings.projection"
    if f"{projection}.weight" in g.weights:
        words = g.product(g.add("Gather", g.parameter(word), "input_ids"), projection)
        length = g.add("Shape", "input_ids", start=1)
        positions = g.add("Slice", g.parameter(position), g.constant("start", [0]), length)
        first = [g.constant("token_type", g.weights[types][0])] if family.types else []
        return g.add("SkipLayerNormalization", words, positions, *norm, *first, epsilon=epsilon)
    ids = g.add("Cast", "input_ids", to=TensorProto.INT32)
    segments = (g.add("Sub", ids, ids), g.parameter(types)) if family.types else ("", "")
    return g.add(
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
