"""Torch classifiers as model folders, and the parts of their encoder that techniques work on."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    logging,
)

from stages.checkpoints import exits, families
from stages.checkpoints.families import Family
from stages.checkpoints.sparse_storage import read_weights

logging.disable_progress_bar()  # of files that are read and written within a second


@dataclass(frozen=True)
class Block:
    """The linear layers of one transformer block.

    Head h has rows h·d … (h + 1)·d of `query`, `key` and `value`, of the projections of relative `positions`,
    and the same columns of `out`; feed-forward column c is row c of `up` and column c of `down`. Where one
    layer gives queries, keys and values, it stands for all three, with the rows of the one below those of the
    other; so does an `up` that gives gates too.
    """

    head_size: int
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    up: nn.Linear
    down: nn.Linear
    attention: nn.Module
    positions: tuple[nn.Linear, ...] = ()

    @property
    def heads(self) -> int:
        return self.out.in_features // self.head_size

    @property
    def hidden(self) -> int:
        return self.down.in_features

    def keep(self, heads: Iterable[int], columns: Iterable[int]) -> None:
        """Reduce the block, in place, to these heads and feed-forward columns."""
        kept = torch.tensor([*heads])
        rows = torch.arange(self.out.in_features).view(self.heads, -1)[kept].flatten()
        inner = torch.tensor([*columns])
        for linear in {self.query, self.key, self.value, *self.positions}:
            keep(linear, rows=_in_each(rows, self.out.in_features, linear.out_features))
        keep(self.up, rows=_in_each(inner, self.hidden, self.up.out_features))
        keep(self.out, columns=rows)
        keep(self.down, columns=inner)
        if hasattr(self.attention, "num_attention_heads"):  # by which DeBERTa divides them
            self.attention.num_attention_heads = len(kept)  # type: ignore[assignment]


def _in_each(rows: torch.Tensor, height: int, total: int) -> torch.Tensor:
    """`rows` of each of the matrices of this `height` that lie below each other in `total` rows."""
    return torch.cat([rows + start for start in range(0, total, height)])


def family(model: PreTrainedModel) -> Family:
    """The family of `model`; a UserError where it is of none."""
    return families.of({"model_type": model.config.model_type})


def blocks(model: PreTrainedModel) -> list[Block]:
    """The encoder's blocks, first to last; layers that share their weights are one."""
    names = family(model)
    size = model.config.hidden_size // model.config.num_attention_heads
    before, _, after = names.block.partition(".{}")
    found = []
    for number in range(len(model.base_model.get_submodule(before))):  # type: ignore[arg-type]
        block = model.base_model.get_submodule(f"{before}.{number}{after}")
        linears = [block.get_submodule(name) for name in names.linears]
        attention = block.get_submodule(names.linears[0].rpartition(".")[0])
        relative = (name for name in names.positions if hasattr(attention, name.rpartition(".")[2]))
        positions = tuple(block.get_submodule(name) for name in relative)
        found.append(Block(size, *linears, attention, positions))  # type: ignore[arg-type, call-arg]
    return found


def linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The linear layers of the encoder's blocks; embeddings, pooler and head are not among them."""
    inside = family(model).block.partition(".{}")[0] + "."
    return {
        name: module
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(inside)
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
        linear.weight.data = linear.weight.data[rows]
        if linear.bias is not None:
            linear.bias.data = linear.bias.data[rows]
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
    """The architecture of the model folder, its weights left at random, in evaluation mode."""
    return from_config(AutoConfig.from_pretrained(folder), **options)


def from_config(config: PretrainedConfig, **options) -> PreTrainedModel:
    """The classifier with this config.json, its weights left at random, in evaluation mode.

    `layer_shapes`, a [heads, feed-forward columns] for each block, is what structured pruning has left of the
    configured ones; `embedding_rank` is that of factorised words; `exits` is explained in
    stages.checkpoints.exits. `options` go to transformers' from_config.
    """
    model = AutoModelForSequenceClassification.from_config(config, **options)
    if getattr(config, "layer_shapes", None):
        for block, (heads, hidden) in zip(blocks(model), config.layer_shapes, strict=True):
            block.keep(range(heads), range(hidden))
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
