"""What encoder families differ in: where their parts are and what can be done to them, read without torch.

This is the one file that knows families by name. A technique asks it for parts, or whether it is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from stages.core.errors import UserError


@dataclass(frozen=True)
class Family:
    """Names are those of the state dict and of config.json.

    `base` is the encoder; `block` is one of its blocks, with the block's number, as a name inside `base`.
    Inside a block, `linears` are query, key, value, out, up and down, in that order. The first three are one
    name where one layer gives all three. `positions` are linear layers of relative positions, which have
    heads too. `attention_norm` and `output_norm` are the norms after each half of a block.

    `dense` is the layer of the head before `output`, which gives the logits, and `activation` the operator
    between them. Of config.json: `layers`, `heads`, `hidden_act` and `epsilon`, the key of the norms' ε or
    its value; `by_layer` are its lists with an entry for each layer. With `shared_layers`, the layers of a
    group have one set of weights. `wider` projects narrower embeddings to the blocks' width. `bias` is what
    all layers add to a head's scores, for each bucket of relative positions.

    `after_padding` says that positions are counted from the padding's id + 1, as RoBERTa does. `written` says
    that stages.techniques.graph writes it: blocks of a BERT, whose first token is classified. It `becomes`,
    layer by layer, the families that compute the same. `refuses` has what cannot be had of it, and why.
    """

    base: str
    block: str
    linears: tuple[str, str, str, str, str, str]
    dense: str
    output: str = "classifier"
    activation: str = "Tanh"
    attention_norm: str = "attention.output.LayerNorm"
    output_norm: str = "output.LayerNorm"
    norm: str = "LayerNorm"
    positions: tuple[str, ...] = ()
    types: bool = True
    wider: str = ""
    bias: str = ""
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    hidden_act: str = "hidden_act"
    epsilon: str | float = "layer_norm_eps"
    by_layer: tuple[str, ...] = ()
    after_padding: bool = False
    shared_layers: bool = False
    written: bool = False
    becomes: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)

    @property
    def embeddings(self) -> str:
        return f"{self.base}.embeddings"

    def group(self, layer: int, config: Mapping) -> int:
        """The number of the weights, in `block`, that the layer has."""
        return layer * config["num_hidden_groups"] // config[self.layers] if self.shared_layers else layer

    def first_position(self, config: Mapping) -> int:
        """The row of the position embeddings that the first token has."""
        return (config.get("pad_token_id") or 0) + 1 if self.after_padding else 0

    def refusal(self, what: str) -> str | None:
        """Why `what`, which a technique needs, cannot be had; None where it can."""
        return self.refuses.get(what) or (None if self.written else WRITTEN_ALONE.get(what))


# What is refused to every family that is not written.
WRITTEN_ALONE = {
    "exits": "early exits need a graph that `export` writes itself, of BERT's blocks",
    "4-bit embeddings": "4-bit embeddings need a graph that `export` writes itself, of BERT's blocks",
}

ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value")
BERT_LINEARS = (*ATTENTION, "attention.output.dense", "intermediate.dense", "output.dense")


def _bert(base: str, **changes) -> Family:
    """A family with BERT's blocks."""
    parts = {"block": "encoder.layer.{}", "linears": BERT_LINEARS, "written": True}
    return Family(base=base, **parts | changes)  # type: ignore[arg-type]


def _roberta(**changes) -> Family:
    """A family whose head is RoBERTa's: two layers, under one name."""
    head = {"dense": "classifier.dense", "output": "classifier.out_proj"}
    return _bert("roberta", **head, after_padding=True, becomes=("bert", "distilbert"), **changes)


FAMILIES = {
    "bert": _bert("bert", dense="bert.pooler.dense", becomes=("bert", "distilbert")),
    "distilbert": Family(
        base="distilbert",
        block="transformer.layer.{}",
        linears=(
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "ffn.lin1",
            "ffn.lin2",
        ),
        dense="pre_classifier",
        activation="Relu",
        attention_norm="sa_layer_norm",
        output_norm="output_layer_norm",
        types=False,
        layers="n_layers",
        heads="n_heads",
        hidden_act="activation",
        epsilon=1e-12,
        written=True,
    ),
    "roberta": _roberta(),
    "xlm-roberta": _roberta(),
    "electra": _bert(
        "electra",
        dense="classifier.dense",
        output="classifier.out_proj",
        activation="Gelu",
        wider="embeddings_project",
    ),
    "mpnet": Family(
        base="mpnet",
        block="encoder.layer.{}",
        linears=(
            "attention.attn.q",
            "attention.attn.k",
            "attention.attn.v",
            "attention.attn.o",
            "intermediate.dense",
            "output.dense",
        ),
        dense="classifier.dense",
        output="classifier.out_proj",
        attention_norm="attention.LayerNorm",
        types=False,
        bias="encoder.relative_attention_bias",
        after_padding=True,
        written=True,
        refuses={
            "heads": "all its layers share one relative bias for each head, so none can lose a head: "
            "set heads to 0"
        },
    ),
    "albert": Family(
        base="albert",
        block="encoder.albert_layer_groups.{}.albert_layers.0",
        linears=(
            "attention.query",
            "attention.key",
            "attention.value",
            "attention.dense",
            "ffn",
            "ffn_output",
        ),
        dense="albert.pooler",
        attention_norm="attention.LayerNorm",
        output_norm="full_layer_layer_norm",
        wider="encoder.embedding_hidden_mapping_in",
        shared_layers=True,
        written=True,
    ),
    "deberta-v2": Family(
        base="deberta",
        block="encoder.layer.{}",
        linears=(
            "attention.self.query_proj",
            "attention.self.key_proj",
            "attention.self.value_proj",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        ),
        dense="pooler.dense",
        activation="Gelu",
        positions=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
    ),
    "modernbert": Family(
        base="model",
        block="layers.{}",
        linears=("attn.Wqkv", "attn.Wqkv", "attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"),
        dense="head.dense",
        activation="Gelu",
        attention_norm="attn_norm",
        output_norm="mlp_norm",
        norm="norm",
        types=False,
        hidden_act="hidden_activation",
        epsilon="norm_eps",
        by_layer=("layer_types",),
        refuses={
            "layers from another than the first": "its first layer alone has no norm before the attention, "
            "so `layers` should begin with 0",
            "relations": "one matrix gives its queries, keys and values: set relations to 0",
        },
    ),
}


def of(config: Mapping) -> Family:
    """The family of a config.json; a UserError where it is of none."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UserError(f"the encoder is a {kind}: this works on {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def check(kind: str, needs: Iterable[str], name: str) -> None:
    """A UserError, where what the technique of the model `name` needs is refused to the family `kind`."""
    family = of({"model_type": kind})
    for need in needs:
        if reason := family.refusal(need):
            raise UserError(f"{name} is refused, whose parent is of the family {kind}: {reason}")


def check_plan(teacher: str, kind: str, params) -> None:
    """A UserError, where a model that `params` make of the `teacher`, of the family `kind`, will be refused.

    So that nobody waits for a teacher whose students are refused.
    """
    kinds: dict[str, str] = {teacher: kind}
    for name, technique in params.variants.models.items():
        if name in params.variants.stages and params.variants.stages[name] == "general":
            kinds[name] = "distilbert"
        parent = kinds.get(technique.parent)
        if name in kinds or parent not in FAMILIES:
            continue
        check(parent, technique.needs, name)
        student = getattr(technique, "student", None)
        if student is None or params.variants.stages.get(technique.parent) == "general":
            kinds[name] = parent
        elif student.init == "teacher-layers":
            kinds[name] = becomes(parent, student.architecture, name)


def becomes(kind: str, architecture: str | None, name: str = "student") -> str:
    """The family of a student made of layers of a `kind`; a UserError where it would not compute the same.

    Without an `architecture` it is a DistilBERT of a BERT, and of any other family its own.
    """
    architecture = architecture or ("distilbert" if kind == "bert" else "own")
    if architecture in ("own", kind):
        return kind
    if architecture not in of({"model_type": kind}).becomes:
        raise UserError(
            f"{name}: a {architecture} is not made of layers of a {kind}, which compute otherwise: set "
            "distill.student.architecture to own"
        )
    return architecture


def head_of(kind: str) -> str:
    """The layer before the logits, if it can start as the identity, which a Relu would cut; else nothing.

    A pooler inside the encoder has weights of its own.
    """
    family = FAMILIES.get(kind)
    outside = family and family.activation != "Relu" and not family.dense.startswith(f"{family.base}.")
    return family.dense if family and outside else ""


def positions(config: Mapping) -> float:
    """The most tokens that a model with this config.json has positions for."""
    family = FAMILIES.get(config.get("model_type", ""))
    first = family.first_position(config) if family else 0
    return config.get("max_position_embeddings", float("inf")) - first
