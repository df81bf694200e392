"""Losses on what the layers compute: hidden states (TinyBERT) and self-attention relations (MiniLMv2)."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from stages.checkpoints import encoder
from stages.core.errors import UserError
from stages.techniques.settings import LayerLosses, Training
from stages.training import loop


def hidden_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean squared error of each query's hidden states, over its tokens and the width: shape (batch,).

    `student` and `teacher` have shape (batch, length, width), `mask` (batch, length), 0 for padding. It is
    MSE(H_S W, H_T) of TinyBERT (Jiao et al., 2020, arXiv:1909.10351, equations 8 and 9), of states that are
    projected to one width.
    """
    squares = (student - teacher).square().mean(-1)
    return (squares * mask).sum(-1) / mask.sum(-1)


def relation_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, heads: int
) -> torch.Tensor:
    """KL(teacher ‖ student) of each query's self-attention relations, a mean over heads and tokens: (batch,).

    `student` and `teacher` are queries, keys or values of one layer: shape (batch, length, width), each with
    a width of its own, a multiple of `heads`. `mask` (batch, length) is 0 for padding. The relations of
    relation head a are softmax(A_a A_aᵀ / √d) over the tokens, with d = width / heads (MiniLMv2, Wang et al.,
    2021, arXiv:2012.15828, section 3.1).
    """
    ours, theirs = (_log_relations(vectors, mask, heads) for vectors in (student, teacher))
    divergences = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1).mean(1)
    return (divergences * mask).sum(-1) / mask.sum(-1)


def _log_relations(vectors: torch.Tensor, mask: torch.Tensor, heads: int) -> torch.Tensor:
    """Shape (batch, heads, length, length), of vectors of shape (batch, length, width)."""
    parts = vectors.unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = parts @ parts.mT / math.sqrt(parts.shape[-1])
    padding = mask[:, None, None, :] == 0
    return scores.masked_fill(padding, torch.finfo(scores.dtype).min).log_softmax(-1)


@dataclass(frozen=True)
class Layerwise:
    """What `teacher` teaches a student's layers, on the same batch.

    The student's layer i learns the hidden states after the teacher's layer `layers[i]`, which it was made
    of. Its last layer learns those after the teacher's last, and its embeddings the teacher's embeddings.
    The relations are those of both last layers.
    """

    teacher: PreTrainedModel
    layers: Sequence[int]
    settings: LayerLosses

    def __post_init__(self):
        count = self.teacher.config.num_hidden_layers
        if max(self.layers) >= count:
            raise UserError(
                f"a student's layers have {max(self.layers)}, and its teacher's layers are 0 to {count - 1}: "
                "correct `layers`"
            )
        self.teacher.eval().set_attn_implementation("eager")  # as the student, see `loop.fit`

    @property
    def targets(self) -> list[int]:
        """Which of the teacher's hidden states, from 0 for its embeddings, each of the student's learns."""
        return [0, *(layer + 1 for layer in self.layers[:-1]), self.teacher.config.num_hidden_layers]

    def losses(
        self,
        student: PreTrainedModel,
        hidden_states: Sequence[torch.Tensor],
        batch: Mapping[str, torch.Tensor],
        autocast: Callable[[], AbstractContextManager],
    ) -> torch.Tensor:
        """hidden · Σ hidden_loss + relations · Σ relation_loss, shape (batch,).

        The sums are over the hidden states, and over queries, keys and values. `hidden_states`, each of
        shape (batch, length, width), are the student's of `batch`, embeddings first. `autocast` is the
        precision of the models; the losses are in float32.
        """
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden, relations = self.settings.hidden, self.settings.relations
        total = torch.zeros(len(ids), device=ids.device)
        with autocast():
            ours = _vectors(student, hidden_states) if relations else []
            with torch.no_grad():
                base = self.teacher.base_model.to(ids.device)
                states = base(ids, mask, output_hidden_states=True).hidden_states
                theirs = _vectors(self.teacher, states) if relations else []
        if hidden:
            project = getattr(student, "hidden_projection", nn.Identity())
            for state, index in zip(hidden_states, self.targets, strict=True):
                total = total + hidden * hidden_loss(project(state), states[index].float(), mask)
        heads = relation_heads(student, self.teacher)
        for vectors, target in zip(ours, theirs, strict=True):
            total = total + relations * relation_loss(vectors.float(), target.float(), mask, heads)
        return total

    @torch.no_grad()
    def attach(self, student: PreTrainedModel, examples: Sequence[dict]) -> None:
        """Give a student of another width `hidden_projection`, one learned matrix for all its hidden states.

        It starts as the least-squares fit on the hidden states of `some` examples. It is used outside of the
        student's forward pass, so several processes must not look for unused parameters.
        """
        width, wanted = student.config.hidden_size, self.teacher.config.hidden_size
        if not self.settings.hidden or width == wanted:
            return
        batch = some(examples, student.config.pad_token_id)
        tokens = batch["attention_mask"].bool()
        ours = student.eval().base_model(**batch, output_hidden_states=True).hidden_states
        theirs = self.teacher.base_model(**batch, output_hidden_states=True).hidden_states
        # By the normal equations in float64: others' last bits differ from run to run, and none would resume.
        inputs = torch.cat([state[tokens] for state in ours]).double()
        targets = torch.cat([theirs[index][tokens] for index in self.targets]).double()
        student.hidden_projection = nn.Linear(width, wanted, bias=False)
        inverse = torch.linalg.pinv(inputs.T @ inputs, rtol=1e-6, hermitian=True)
        student.hidden_projection.weight.copy_((inverse @ (inputs.T @ targets)).T)

    def detach(self, student: PreTrainedModel) -> None:
        """Drop what `attach` gave."""
        if hasattr(student, "hidden_projection"):
            del student.hidden_projection


def some(examples: Sequence[dict], pad_token_id: int | None, count: int = 256) -> dict[str, torch.Tensor]:
    """A batch of `count` of the examples or a few more, evenly spaced: `input_ids` and `attention_mask`."""
    few = examples[:: max(1, len(examples) // count)]
    return loop.PadToLongest(pad_token_id or 0)([{"input_ids": example["input_ids"]} for example in few])


def relation_heads(student: PreTrainedModel, teacher: PreTrainedModel) -> int:
    """As many relation heads as divide both widths, up to the teacher's number of attention heads."""
    widths = math.gcd(student.config.hidden_size, teacher.config.hidden_size)
    return max(n for n in range(1, teacher.config.num_attention_heads + 1) if widths % n == 0)


def _vectors(model: PreTrainedModel, hidden_states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Queries, keys and values of the last layer, whose input is the last but one of `hidden_states`."""
    last = encoder.blocks(model)[-1]
    return [linear(hidden_states[-2]) for linear in (last.query, last.key, last.value)]


class LayerwiseTrainer(loop.WeightedTrainer):
    """A WeightedTrainer of an encoder without a head, whose loss is that of `layerwise` alone."""

    def __init__(self, *args, layerwise: Layerwise, **kwargs):
        super().__init__(*args, **kwargs)
        self.layerwise = layerwise

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        del inputs["labels"]  # by which the Trainer counts the queries
        weight = inputs.pop("weight", None)
        outputs = model(**inputs, output_hidden_states=True)
        student: PreTrainedModel = self.model  # type: ignore[assignment]
        losses = self.layerwise.losses(student, outputs.hidden_states, inputs, self.accelerator.autocast)
        loss = self.weighted_mean(losses, weight, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss


def imitate(
    student: PreTrainedModel,
    layerwise: Layerwise,
    name: str,
    hyper: Training,
    seed: int,
    train: list[dict],
    validation: list[dict],
) -> list[dict]:
    """Train the encoder `student` in place on the layers' losses, and return the epochs' history.

    `name` is that of its checkpoints. The examples are those of `loop.encode`.
    """
    encoder.set_dropout(student, hyper.dropout)
    layerwise.attach(student, train)
    trainer = LayerwiseTrainer(
        student,
        loop.arguments(hyper, name, seed, prediction_loss_only=True, ddp_find_unused_parameters=False),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=loop.PadToLongest(student.config.pad_token_id),
        layerwise=layerwise,
    )
    history = loop.fit(trainer, identity=f"{hyper} {layerwise.layers}")
    layerwise.detach(student)
    if not all(math.isfinite(epoch["eval_loss"]) for epoch in history):
        raise UserError("the training has diverged, its loss is no number: lower its learning_rate")
    return history
