"""A classifier with BERT's blocks written as an ONNX graph, from its weights, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from stages.checkpoints import RULED_OUT
from stages.checkpoints.families import Family

OPSET, CONTRIB, IR = 20, "com.microsoft", 10
CONTRIB_OPERATORS = (
    "Attention",
    "BiasGelu",
    "EmbedLayerNormalization",
    "FastGelu",
    "MultiHeadAttention",
    "SkipLayerNormalization",
)
# The operator of each `hidden_act` that can be written; both add a bias first.
GELUS = {"gelu": "BiasGelu", "gelu_new": "FastGelu", "gelu_pytorch_tanh": "FastGelu"}
RELATIVE = "relative_bias"
# What torch adds to the scores of padding.
MASKED = float(np.finfo(np.float32).min)


class Graph:
    """Nodes and initializers, each once, in the order in which they are added."""

    def __init__(self, weights: dict[str, np.ndarray], scope: str = ""):
        self.weights = weights
        self.scope = scope
        self.nodes: list = []
        self.initializers: dict = {}

    def body(self, scope: str) -> "Graph":
        """The body of an `If`: nodes of its own, and the initializers of the whole, which it may read.

        There the quantizer finds them, and so do those who pack and measure files.
        """
        body = Graph(self.weights, scope)
        body.initializers = self.initializers
        return body

    def as_branch(self, outputs: list) -> GraphProto:
        """The body; that its products are floats, the quantizer finds out in the main graph alone."""
        products = [node.output[0] for node in self.nodes if node.op_type == "MatMul"]
        types = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in products]
        return helper.make_graph(self.nodes, self.scope, [], outputs, value_info=types)

    def add(self, operator: str, *inputs: str, outputs: Sequence[str] = (), **attributes) -> str:
        """A node; returns the name of its first output, one of its own unless `outputs` has names."""
        name = f"{self.scope}{operator}_{len(self.nodes)}"
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
        """A linear layer of `x`; a Gemm in the body of an `If` would stay in fp32."""
        return self.add("Add", self.product(x, layer), self.parameter(f"{layer}.bias"), outputs=outputs)

    def skip_norm(self, x: str, skip: str, norm: str, bias: str, epsilon: float) -> str:
        """The layer norm `norm` of x + skip + bias."""
        parameters = [self.parameter(f"{norm}.{part}") for part in ("weight", "bias")]
        inputs = (x, skip, *parameters, self.parameter(bias))
        return self.add("SkipLayerNormalization", *inputs, epsilon=epsilon)


@dataclass(frozen=True)
class Encoder:
    """What of config.json decides the graph; `exits` is that of checkpoints.exits, or None."""

    family: Family
    epsilon: float
    blocks: list[str]
    heads: list[int]
    gelu: str
    first_position: int
    labels: int
    exits: dict | None

    @classmethod
    def of(cls, config: dict, family: Family) -> "Encoder":
        epsilon = family.epsilon if isinstance(family.epsilon, float) else config[family.epsilon]
        groups = [family.group(layer, config) for layer in range(config[family.layers])]
        shapes = config.get("layer_shapes")
        return cls(
            family,
            epsilon,
            [f"{family.base}.{family.block.format(group)}" for group in groups],
            [shapes[group][0] if shapes else config[family.heads] for group in groups],
            GELUS[config[family.hidden_act]],
            family.first_position(config),
            len(config["id2label"]),
            config.get("exits"),
        )


def write(weights: dict[str, np.ndarray], config: dict, family: Family, file: Path) -> None:
    """Write the classifier with these `weights` and config.json as `file`.

    Inputs `input_ids` and `attention_mask`, int64 of shape (batch, length), both dimensions dynamic;
    output `logits`, float32 of shape (batch, labels). With early exits, a second output `exit`, int64 of
    shape (batch,), is the number of the exit that answered, from 0; the last layer's is how many exits
    there are. Embeddings with their norm, skip connections with theirs, and biases with GELU are ONNX
    Runtime's own operators. Parameters keep their names.
    """
    g = Graph(weights)
    encoder = Encoder.of(config, family)
    mask = g.add("Cast", "attention_mask", to=TensorProto.INT32)
    x = _embeddings(g, encoder)
    g.constant("first", np.array([0]))
    g.constant("axis", [1])
    if encoder.family.bias:
        _relative_bias(g, encoder)
    _answers(g, encoder, x, mask, passed=0)

    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ("batch", "length"))
        for name in ("input_ids", "attention_mask")
    ]
    outputs = _outputs(["logits", "exit"] if encoder.exits else ["logits"], encoder.labels)
    graph = helper.make_graph(g.nodes, "classifier", ids, outputs, list(g.initializers.values()))
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    model: ModelProto = helper.make_model(graph, opset_imports=domains, ir_version=IR)
    file.write_bytes(model.SerializeToString(deterministic=True))


def _answers(
    g: Graph, encoder: Encoder, x: str, mask: str, passed: int, outputs: Sequence[str] = ("logits", "exit")
) -> None:
    """Add the layers and exits that follow the first `passed` exits, whose rows that stay have states `x`.

    `outputs` are the names of the logits and, if exits follow, of the number of the exit that answers,
    counted from `passed`.
    """
    exits = [0, *encoder.exits["layers"]] if encoder.exits else [0]
    at_exit = passed + 1 < len(exits)
    for number in range(exits[passed], exits[passed + 1] if at_exit else len(encoder.heads)):
        x = _block(g, encoder, x, mask, number)
    if at_exit:
        _exit(g, encoder, x, mask, passed, outputs)
    else:
        pooled = g.dense(g.add("Squeeze", x, "axis"), encoder.family.dense)
        g.dense(g.add(encoder.family.activation, pooled), encoder.family.output, outputs=outputs[:1])


def _outputs(names: Sequence[str], labels: int) -> list:
    """The types of logits and, if it is named, of the number of the exit that answered."""
    kinds = ((TensorProto.FLOAT, ("batch", labels)), (TensorProto.INT64, ("batch",)))
    return [helper.make_tensor_value_info(name, *kind) for name, kind in zip(names, kinds, strict=False)]


def _block(g: Graph, encoder: Encoder, x: str, mask: str, number: int) -> str:
    """The hidden states after a layer; after the last one, those of the first token alone."""
    family, epsilon, block = encoder.family, encoder.epsilon, encoder.blocks[number]
    last = number == len(encoder.blocks) - 1
    query, key, value, out, up, down = (f"{block}.{name}" for name in family.linears)
    bias = g.joined([query, key, value], "bias")
    attention: dict = {"num_heads": encoder.heads[number], "mask_filter_value": MASKED}
    # Quantized, `Attention` knows no relative bias; and shared weights would be in the file joined, too.
    if last or family.bias or family.shared_layers:
        keys, values = g.product(x, key), g.product(x, value)
        if last:  # the classifier reads the first token alone: no other needs the last layer's answer
            x = g.add("Gather", x, "first", axis=1)
        queries = g.product(x, query)
        relative = [f"{RELATIVE}.first" if last else RELATIVE] if family.bias else []
        mixed = g.add("MultiHeadAttention", queries, keys, values, bias, mask, *relative, **attention)
    else:
        mixed = g.add("Attention", x, g.joined([query, key, value], "weight"), bias, mask, **attention)
    x = g.skip_norm(g.product(mixed, out), x, f"{block}.{family.attention_norm}", f"{out}.bias", epsilon)
    inner = g.add(encoder.gelu, g.product(x, up), g.parameter(f"{up}.bias"))
    return g.skip_norm(g.product(inner, down), x, f"{block}.{family.output_norm}", f"{down}.bias", epsilon)


def _exit(g: Graph, encoder: Encoder, x: str, mask: str, passed: int, outputs: Sequence[str]) -> None:
    """Add the exit after `passed` others, with what follows it: rows that are sure leave, the others go on.

    The arithmetic is that of stages.runtime.exits.
    """
    exits = encoder.exits or {}
    labels, out_of_scope = encoder.labels, exits["out_of_scope"]
    head = f"exits.{exits['layers'][passed]}"
    pooled = g.add(encoder.family.activation, g.dense(_mean(g, x, mask), f"{head}.dense"))
    logits = g.dense(pooled, f"{head}.classifier")
    probabilities = g.add("Softmax", logits, axis=-1)
    if out_of_scope is not None:
        runners_up = g.constant("runners_up", [*range(labels), out_of_scope])
        probabilities = g.add("Gather", probabilities, runners_up, axis=1)
        ruled_out = np.where(np.arange(labels) == out_of_scope, np.float32(RULED_OUT), np.float32(0))
        logits = g.add("Add", logits, g.constant("ruled_out", ruled_out))
    top = [f"{head}.{name}" for name in ("top", "labels")]
    g.add("TopK", probabilities, g.constant("two", [2]), outputs=top)
    signed = g.add("Mul", top[0], g.constant("signs", np.array([1, -1], np.float32)))
    margin = g.add("ReduceSum", signed, "axis", keepdims=0)
    threshold = g.constant("exits.threshold", np.float32(exits["threshold"]))
    stays, some_stay = (
        g.add("Less", value, threshold) for value in (margin, g.add("ReduceMin", margin, keepdims=0))
    )
    number = g.add("Where", stays, g.constant("one", 1), g.constant("zero", 0))

    rest, leave = g.body(f"{head}.stay."), g.body(f"{head}.leave.")
    x, mask = (rest.add("Compress", value, stays, axis=0) for value in (x, mask))
    below = [f"{rest.scope}{name}" for name in ("logits", "exit")]
    _answers(rest, encoder, x, mask, passed + 1, below)
    rows = rest.add("Reshape", rest.add("NonZero", stays), g.constant("column", [-1, 1]))
    answers = [rest.add("ScatterND", logits, rows, below[0])]
    if passed + 1 == len(exits["layers"]):
        answers.append(rest.add("Identity", number))
    else:
        later = rest.add("Add", below[1], "one")
        answers.append(rest.add("ScatterND", number, rows, later))
    left = [leave.add("Identity", value) for value in (logits, number)]
    g.add(
        "If",
        some_stay,
        outputs=outputs,
        then_branch=rest.as_branch(_outputs(answers, labels)),
        else_branch=leave.as_branch(_outputs(left, labels)),
    )


def _mean(g: Graph, x: str, mask: str) -> str:
    """The mean of the hidden states of each row's tokens, padding left out."""
    weights = g.add("Unsqueeze", g.add("Cast", mask, to=TensorProto.FLOAT), g.constant("last", [-1]))
    total, count = (g.add("ReduceSum", v, "axis", keepdims=0) for v in (g.add("Mul", x, weights), weights))
    return g.add("Div", total, count)


def _embeddings(g: Graph, encoder: Encoder) -> str:
    """Words, positions and the token type 0 of a single text, normed, and projected to the blocks' width.

    In one operator, unless the words are factorised.
    """
    family, epsilon = encoder.family, encoder.epsilon
    word, types = (f"{family.embeddings}.{kind}_embeddings.weight" for kind in ("word", "token_type"))
    norm = [g.parameter(f"{family.embeddings}.LayerNorm.{part}") for part in ("weight", "bias")]
    projection = f"{family.embeddings}.word_embeddings.projection"
    if f"{projection}.weight" in g.weights:
        words = g.product(g.add("Gather", g.parameter(word), "input_ids"), projection)
        length = g.add("Shape", "input_ids", start=1)
        positions = g.add("Slice", _positions(g, encoder), g.constant("start", [0]), length)
        first = [g.constant("token_type", g.weights[types][0])] if family.types else []
        embedded = g.add("SkipLayerNormalization", words, positions, *norm, *first, epsilon=epsilon)
    else:
        ids = g.add("Cast", "input_ids", to=TensorProto.INT32)
        segments = (g.add("Sub", ids, ids), g.parameter(types)) if family.types else ("", "")
        embedded = g.add(
            "EmbedLayerNormalization",
            ids,
            segments[0],
            g.parameter(word),
            _positions(g, encoder),
            segments[1],
            *norm,
            outputs=["embedded", "mask_index"],
            epsilon=epsilon,
        )
    wider = f"{family.base}.{family.wider}"
    return g.dense(embedded, wider) if f"{wider}.weight" in g.weights else embedded


def _relative_bias(g: Graph, encoder: Encoder) -> None:
    """Add what every layer adds to the scores, (1, heads, length, length), and that of the first token alone.

    A key's distance from the query chooses a bucket (Raffel et al., 2020, arXiv:1910.10683, section 2.1).
    """
    longest = len(g.weights[f"{encoder.family.embeddings}.position_embeddings.weight"])
    buckets = _bucket(np.arange(1 - longest, longest))
    by_distance = g.weights[f"{encoder.family.base}.{encoder.family.bias}.weight"][buckets].T
    g.constant(f"{RELATIVE}.by_distance", by_distance[None])
    length = g.add("Squeeze", g.add("Shape", "input_ids", start=1))
    tokens = g.add("Range", g.constant("zero", 0), length, g.constant("one", 1))
    queries = g.add("Unsqueeze", g.add("Sub", tokens, g.constant("longest", longest - 1)), "axis")
    g.add("Gather", f"{RELATIVE}.by_distance", g.add("Sub", tokens, queries), outputs=[RELATIVE], axis=2)
    g.add("Gather", RELATIVE, "first", outputs=[f"{RELATIVE}.first"], axis=2)


def _bucket(distance: np.ndarray) -> np.ndarray:
    """The bucket of a key at a distance from its query: as MPNet has them, 16 on each side.

    Eight are of one distance; the other eight are as wide as its logarithm asks for, up to 128.
    """
    far = np.log(np.maximum(abs(distance), 8).astype(np.float32) / 8) / np.float32(np.log(128 / 8)) * 8
    side = np.where(abs(distance) < 8, abs(distance), np.minimum(8 + far.astype(np.int64), 15))
    return np.where(distance > 0, 16, 0) + side


def _positions(g: Graph, encoder: Encoder) -> str:
    """The embeddings of positions, the first token's first."""
    name = f"{encoder.family.embeddings}.position_embeddings.weight"
    return g.constant(name, g.weights[name][encoder.first_position :])
