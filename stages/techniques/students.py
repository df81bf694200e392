"""Students made of a BERT: of some of its layers, and narrower than it."""

import torch
from torch import nn
from transformers import (
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    PreTrainedModel,
)

from stages.checkpoints import encoder
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


def from_teacher_layers(
    teacher: BertForSequenceClassification, layers: list[int]
) -> DistilBertForSequenceClassification:
    """A DistilBERT made of the teacher's embeddings, the given layers (from 0) and its head.

    DistilBERT's own initialisation (Sanh et al., 2019, arXiv:1910.01108, section 3), for any BERT.
    DistilBERT has no token types: the row of type 0, which every token of a single text has, is
    added to each position's. The pooler becomes `pre_classifier` (there the activation is ReLU
    instead of tanh).
    """
    config = teacher.config
    if config.model_type != "bert":
        raise UserError(
            f"teacher-layers makes a student of a BERT, and the teacher is a {config.model_type}: "
            "choose student=distilbert, or another teacher"
        )
    if getattr(config, "layer_shapes", None) or encoder.embedding_rank(teacher):
        raise UserError("teacher-layers makes a student of a whole BERT: prune the student, not its teacher")
    if max(layers) >= config.num_hidden_layers:
        raise UserError(
            f"a student's layers have {max(layers)}, "
            f"and its teacher's layers are 0 to {config.num_hidden_layers - 1}: correct `layers`"
        )
    student = DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings,
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
    theirs, ours = teacher.bert.embeddings, student.distilbert.embeddings
    ours.word_embeddings.weight.data = theirs.word_embeddings.weight.data.clone()
    ours.position_embeddings.weight.data = (
        theirs.position_embeddings.weight.data + theirs.token_type_embeddings.weight.data[0]
    )
    ours.LayerNorm.load_state_dict(theirs.LayerNorm.state_dict())
    for layer, block in zip(layers, student.distilbert.transformer.layer, strict=True):
        for source, target in BLOCK.items():
            module = teacher.bert.encoder.layer[layer].get_submodule(source)
            block.get_submodule(target).load_state_dict(module.state_dict())
    student.pre_classifier.load_state_dict(teacher.bert.pooler.dense.state_dict())
    student.classifier.load_state_dict(teacher.classifier.state_dict())
    return student


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
