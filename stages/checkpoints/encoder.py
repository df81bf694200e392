"""Torch classifiers as model folders, and the parts of their encoder that techniques work on."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, logging

from stages.checkpoints import exits
from stages.checkpoints.families import FAMILIES
from stages.checkpoints.sparse_storage import read_weights
from stages.core.errors import UserError

logging.disable_progress_bar()  # of files that are read and written within a second


@dataclass(frozen=True)
class Block:
    """The linear layers of one transformer block.

    Head h has rows h·d … (h + 1)·d of `query`, `key` and `value` and the same columns of `out`;
    feed-forward column c is row c of `up` and column c of `down`.
    """

    head_size: int
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    up: nn.Linear
    down: nn.Linear

    @property
    def heads(self) -> int:
        return self.out.in_features // self.head_size

    @property
    def hidden(self) -> int:
        return self.down.in_features


def blocks(model: PreTrainedModel) -> list[Block]:
    """The encoder's blocks, first to last."""
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise UserError(f"the encoder is a {kind}: this works on {' and '.join(FAMILIES)}")
    base = model.base_model
    layers = base.transformer.layer if kind == "distilbert" else base.encoder.layer
    size = model.config.hidden_size // model.config.num_attention_heads
    return [Block(size, *(layer.get_submodule(name) for name in FAMILIES[kind].linears)) for layer in layers]


def linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The linear layers of the encoder's blocks; embeddings, pooler and head are not among them."""
    embeddings = {id(module) for module in model.base_model.embeddings.modules()}
    return {
        name: module
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in embeddings and "pooler" not in name
    }


def output_layer(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """The name and the module of the layer that gives the logits: the last linear one outside the encoder."""
    inside = f"{model.base_model_prefix}."  # which comes after the head in an XLM-RoBERTa
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [(name, module) for name, module in linears if not name.startswith(inside)][-1]


def positions(model: PreTrainedModel) -> int | None:
    """The most tokens that `model` reads; None where it has no embeddings of positions."""
    embeddings = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    if embeddings is None:
        return None
    first = 0 if embeddings.padding_idx is None else embeddings.padding_idx + 1  # as RoBERTa counts
    return embeddings.num_embeddings - first


def trained_weight(linear: nn.Linear) -> nn.Parameter:
    """The weight of `linear` as the optimizer sees it, under a parametrization or not."""
    parametrized = parametrize.is_parametrized(linear, "weight")
    return linear.get_parameter("parametrizations.weight.original" if parametrized else "weight")


@torch.no_grad()
def keep(linear: nn.Linear, rows: torch.Tensor | None = None, columns: torch.Tensor | None = None) -> None:
    """Reduce `linear`, in place, to the outputs `rows` and the inputs `columns` (1-d indices)."""
    if rows is not None:
        linear.weight.data, linear.bias.data = linear.weight.data[rows], linear.bias.data[rows]
    if columns is not None:
        linear.weight.data = linear.weight.data[:, columns].contiguous()
    linear.out_features, linear.in_features = linear.weight.shape


class FactorisedEmbedding(nn.Embedding):
    """Words with a row of `rank` entries each, projected to the encoder's width."""

    def __init__(self, words: int, rank: int, width: int, padding: int | None):
        super().__init__(words, rank, padding)
        self.projection = nn.Linear(rank, width, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.projection(super().forward(ids))


def words(model: PreTrainedModel) -> nn.Embedding:
    return model.get_input_embeddings()  # type: ignore[return-value]


def factorise(model: PreTrainedModel, rank: int) -> FactorisedEmbedding:
    """Give `model` untrained factors for its words; config.json keeps their rank as `embedding_rank`."""
    whole = words(model)
    factors = FactorisedEmbedding(whole.num_embeddings, rank, whole.embedding_dim, whole.padding_idx)
    model.set_input_embeddings(factors)
    model.config.embedding_rank = rank
    return factors


def embedding_rank(model: PreTrainedModel) -> int | None:
    """The rank of factorised words; None where they are whole."""
    return getattr(model.config, "embedding_rank", None)


def build(folder: Path, **options) -> PreTrainedModel:
    """The architecture of the model folder, its weights left at random, in evaluation mode.

    `layer_shapes` in config.json, a [heads, feed-forward columns] for each block, is what
    structured pruning has left of the configured ones; `embedding_rank` is that of factorised words; `exits`
    is explained in stages.checkpoints.exits.
    `options` go to transformers' from_config.
    """
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_config(config, **options)
    if getattr(config, "layer_shapes", None):
        for block, (heads, hidden) in zip(blocks(model), config.layer_shapes, strict=True):
            rows, columns = torch.arange(heads * block.head_size), torch.arange(hidden)
            for linear in (block.query, block.key, block.value):
                keep(linear, rows=rows)
            keep(block.out, columns=rows)
            keep(block.up, rows=columns)
            keep(block.down, columns=columns)
    if rank := embedding_rank(model):
        factorise(model, rank)
    if getattr(config, "exits", None):
        exits.attach(model)
    return model.eval()


def load(folder: Path, **options) -> PreTrainedModel:
    """The torch classifier (fp32) in the model folder, packed or not, in evaluation mode."""
    model = build(folder, **options)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in read_weights(folder).items()})
    return model


def freeze_embeddings(model: PreTrainedModel, frozen: bool) -> None:
    """Train the word and position embeddings, or leave them as they are."""
    position = getattr(model.base_model.embeddings, "position_embeddings", None)
    for part in (model.get_input_embeddings(), position):
        if part is not None:
            part.requires_grad_(not frozen)


def set_dropout(model: PreTrainedModel, probability: float) -> None:
    """Set the probability of every dropout of `model`; its config.json keeps the one that it came with."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
