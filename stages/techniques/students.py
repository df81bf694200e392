"""Students made of a teacher: of some of its layers, and narrower than it."""

from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    PreTrainedModel,
)

from stages.checkpoints import encoder, families
from stages.core.errors import UserError

# BertLayer's modules under the names of DistilBERT's TransformerBlock.
BLOCK = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def indices(layers: list[int] | str, count: int) -> list[int]:
    """The layers, from 0, that `layers` names of `count`: themselves, or first-n, last-n or spaced-n.

    `spaced` takes the first, the last, and n - 2 between them, as DistilBERT does (Sanh et al., 2019).
    """
    if isinstance(layers, str):
        rule, _, number = layers.partition("-")
        n = int(number)
        rules = {"first": range(n), "last": range(count - n, count)}
        chosen = rules.get(rule, [round(i * (count - 1) / max(n - 1, 1)) for i in range(n)])
        if n > count:
            raise UserError(f"a student's layers are {layers}, and its teacher has {count}: correct `layers`")
        return [*chosen]
    if max(layers) >= count:
        raise UserError(
            f"a student's layers have {max(layers)}, "
            f"and its teacher's layers are 0 to {count - 1}: correct `layers`"
        )
    return layers


def of_teacher(
    teacher: PreTrainedModel, layers: list[int], architecture: str | None = None
) -> PreTrainedModel:
    """A student made of the teacher's embeddings, the given layers (from 0) and its head.

    Without an `architecture` it is a DistilBERT of a BERT, and of any other teacher of the teacher's own. A
    UserError, before anything is computed, where the teacher's layers are not those of the architecture.
    """
    kind = teacher.config.model_type
    architecture = families.becomes(kind, architecture)
    if architecture == kind:
        return of_own_architecture(teacher, layers)
    if getattr(teacher.config, "layer_shapes", None) or encoder.embedding_rank(teacher):
        raise UserError(
            "teacher-layers makes a student of a whole BERT: prune the student, not its teacher, or set "
            "distill.student.architecture to own"
        )
    return from_teacher_layers(teacher, layers) if architecture == "distilbert" else as_bert(teacher, layers)


def of_own_architecture(teacher: PreTrainedModel, layers: list[int]) -> PreTrainedModel:
    """A student of the teacher's own architecture with the given layers, embeddings and head.

    Of all layers in order it is the teacher. Where layers share their weights, a student has the shared ones
    and passes them less often.
    """
    family = encoder.family(teacher)
    reason = family.refusal("layers from another than the first")
    if layers[0] and reason:
        raise UserError(f"a {teacher.config.model_type} gives no student of the layers {layers}: {reason}")
    values = teacher.config.to_dict()
    values[family.layers] = len(layers)
    each = family.by_layer if family.shared_layers else (*family.by_layer, "layer_shapes")
    values |= {key: [values[key][layer] for layer in layers] for key in each if values.get(key)}
    student = encoder.from_config(type(teacher.config).from_dict(values))
    weights = teacher.state_dict()
    if not family.shared_layers:
        before, _, after = f"{family.base}.{family.block}".partition("{}")
        for number, layer in enumerate(layers):
            source, target = f"{before}{layer}{after}.", f"{before}{number}{after}."
            weights |= {
                target + name.removeprefix(source): value
                for name, value in teacher.state_dict().items()
                if name.startswith(source)
            }
    student.load_state_dict({name: weights[name].clone() for name in student.state_dict()})
    return student


def from_teacher_layers(teacher: PreTrainedModel, layers: list[int]) -> DistilBertForSequenceClassification:
    """A DistilBERT made of the teacher's embeddings, the given layers (from 0) and its head.

    DistilBERT's own initialisation (Sanh et al., 2019, arXiv:1910.01108, section 3), for any BERT or RoBERTa.
    DistilBERT has no token types: the row of type 0, which every token of a single text has, is
    added to each position's. The layer before the logits becomes `pre_classifier` (there the activation is
    ReLU instead of tanh).
    """
    config = teacher.config
    family = encoder.family(teacher)
    if "distilbert" not in family.becomes:
        raise UserError(
            f"a DistilBERT is not made of layers of a {config.model_type}, which compute otherwise"
        )
    positions = _positions(teacher)
    student = DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=config.vocab_size,
            max_position_embeddings=len(positions),
            n_layers=len(layers),
            n_heads=config.num_attention_heads,
            dim=config.hidden_size,
            hidden_dim=config.intermediate_size,
            activation=config.hidden_act,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            pad_token_id=config.pad_token_id,
            id2label=config.id2label,
            label2id=config.label2id,
            problem_type="single_label_classification",
        )
    )
    base: Any = teacher.base_model
    theirs, ours = base.embeddings, student.distilbert.embeddings
    ours.word_embeddings.weight.data = theirs.word_embeddings.weight.data.clone()
    ours.position_embeddings.weight.data = positions + theirs.token_type_embeddings.weight.data[0]
    ours.LayerNorm.load_state_dict(theirs.LayerNorm.state_dict())
    for layer, block in zip(layers, student.distilbert.transformer.layer, strict=True):
        for source, target in BLOCK.items():
            module = base.encoder.layer[layer].get_submodule(source)
            block.get_submodule(target).load_state_dict(module.state_dict())
    student.pre_classifier.load_state_dict(teacher.get_submodule(family.dense).state_dict())
    student.classifier.load_state_dict(teacher.get_submodule(family.output).state_dict())
    return student


def as_bert(teacher: PreTrainedModel, layers: list[int]) -> BertForSequenceClassification:
    """A BERT with the teacher's embeddings, the given layers (from 0) and head: of all layers, its logits.

    A RoBERTa is a BERT whose positions begin later, and whose head has the pooler's weights.
    """
    values = {key: value for key, value in teacher.config.to_dict().items() if key != "model_type"}
    family, positions = encoder.family(teacher), _positions(teacher)
    shape = {"num_hidden_layers": len(layers), "max_position_embeddings": len(positions)}
    student = BertForSequenceClassification(BertConfig.from_dict(values | shape)).eval()
    theirs: Any = teacher.base_model
    ours = student.bert
    for name in ("word_embeddings", "token_type_embeddings", "LayerNorm"):
        source = theirs.embeddings.get_submodule(name)
        ours.embeddings.get_submodule(name).load_state_dict(source.state_dict())
    ours.embeddings.position_embeddings.weight.data = positions
    for layer, block in zip(layers, ours.encoder.layer, strict=True):
        block.load_state_dict(theirs.encoder.layer[layer].state_dict())
    ours.pooler.dense.load_state_dict(teacher.get_submodule(family.dense).state_dict())
    student.classifier.load_state_dict(teacher.get_submodule(family.output).state_dict())
    return student


def _positions(teacher: PreTrainedModel) -> torch.Tensor:
    """The embeddings of positions, shape (positions, width), from that of the first token on."""
    first = encoder.family(teacher).first_position(teacher.config.to_dict())
    base: Any = teacher.base_model
    return base.embeddings.position_embeddings.weight.data[first:].clone()


@torch.no_grad()
def principal_basis(model: PreTrainedModel, batch: dict[str, torch.Tensor], width: int) -> torch.Tensor:
    """Orthonormal columns, shape (the model's width, `width`), that keep most of its hidden states.

    They span the principal subspace, not centred, of all hidden states of the tokens in `batch` together.
    Inside it they are rotated at random: LayerNorm suits dimensions of equal variance. The whole width is
    left as it is.
    """
    if width == model.config.hidden_size:
        return torch.eye(width)
    tokens = batch["attention_mask"].bool()
    states = model.base_model(**batch, output_hidden_states=True).hidden_states
    rows = torch.cat([state[tokens] for state in states]).double()  # for the same bits in every run
    _, vectors = torch.linalg.eigh(rows.T @ rows)  # the largest eigenvalues last
    return (vectors[:, -width:] @ torch.linalg.qr(torch.randn(width, width).double()).Q).float()


@torch.no_grad()
def narrowed(model: DistilBertModel, basis: torch.Tensor, feed_forward: int) -> DistilBertModel:
    """`model` with `basis`ᵀ h in place of each hidden state h, and `feed_forward` columns a block.

    `basis` has orthonormal columns, shape (width, the new width), a multiple of the size of a head. A matrix
    that reads hidden states is multiplied by it, one that writes them by its transpose. The heads and the
    columns stay that have the largest product of what they read and write. A norm commutes with no basis:
    its new weight and bias are each dimension's standard deviation and mean, had the old ones been
    independent. So the result is a start for a training, no equal of `model`.
    """
    width = basis.shape[1]
    heads = width * model.config.n_heads // model.config.dim
    shape = {"dim": width, "n_heads": heads, "hidden_dim": feed_forward}
    narrow = DistilBertModel(DistilBertConfig.from_dict(model.config.to_dict() | shape)).eval()
    for theirs, ours in zip(model.modules(), narrow.modules(), strict=True):
        if isinstance(theirs, nn.Embedding):
            ours.weight.copy_(theirs.weight @ basis)
        elif isinstance(theirs, nn.LayerNorm):
            ours.weight.copy_((basis.T.square() @ theirs.weight.square()).sqrt())
            ours.bias.copy_(basis.T @ theirs.bias)
    for block, small in zip(encoder.blocks(model), encoder.blocks(narrow), strict=True):
        values = block.value.weight.unflatten(0, (block.heads, -1))
        outs = block.out.weight.unflatten(1, (block.heads, -1)).transpose(0, 1)
        best = (outs @ values).flatten(1).norm(dim=1).topk(heads).indices.sort().values
        rows = torch.arange(block.out.in_features).view(block.heads, -1)[best].flatten()
        sizes = block.up.weight.norm(dim=1) * block.down.weight.norm(dim=0)
        columns = sizes.topk(feed_forward).indices.sort().values
        reading = ((block.query, small.query), (block.key, small.key), (block.value, small.value))
        for kept, pairs in ((rows, reading), (columns, [(block.up, small.up)])):
            for theirs, ours in pairs:
                ours.weight.copy_(theirs.weight[kept] @ basis)
                ours.bias.copy_(theirs.bias[kept])
        for kept, theirs, ours in ((rows, block.out, small.out), (columns, block.down, small.down)):
            ours.weight.copy_(basis.T @ theirs.weight[:, kept])
            ours.bias.copy_(basis.T @ theirs.bias)
    return narrow
