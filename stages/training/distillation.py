"""Knowledge distillation (Hinton, Vinyals and Dean, 2015, arXiv:1503.02531)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from stages.checkpoints import encoder, exits
from stages.data import tables
from stages.techniques.settings import Distillation, Training
from stages.training import loop
from stages.training.layerwise import Layerwise

SOFT_LABELS = Path("soft_labels")


def distillation_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    alpha: float,
    temperature: float,
    reduction: str = "mean",
    labelled: float | None = None,
) -> torch.Tensor:
    """alpha · CE(labels, student) + (1 − alpha) · T² · KL(teacher ‖ student), both softened by T.

    Logits have shape (batch, labels), `labels` (batch,). A row of the label UNLABELLED has soft labels alone:

        L = alpha / |H| · Σ_{i ∈ H} CE(y_i, s_i) + (1 − alpha) · T² / n · Σ_i KL(p_i ‖ q_i)

    over the n rows, of which H have labels. `reduction` over the batch: "mean", which is L, "sum", n · L, or
    "none", the addends of n · L, shape (batch,). `labelled` is |H| / n, that of the batch unless it is given.
    Of rows with weights, counts are sums of weights. The T² keeps the size of the soft targets' gradient
    independent of T (section 2.1 of the paper).
    """
    if labelled is None:
        labelled = float((labels != loop.UNLABELLED).float().mean())
    hard = F.cross_entropy(student_logits, labels, reduction="none", ignore_index=loop.UNLABELLED)
    soft = F.kl_div(
        F.log_softmax(student_logits / temperature, dim=-1),
        F.log_softmax(teacher_logits / temperature, dim=-1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    losses = alpha * hard / (labelled or 1.0) + (1 - alpha) * temperature**2 * soft
    return losses if reduction == "none" else getattr(losses, reduction)()


@dataclass
class DistillationTrainingArguments(TrainingArguments):
    """`alpha` weighs the true labels against the teacher; `temperature` softens both distributions.

    alpha = 1 is plain fine-tuning.
    """

    alpha: float = 0.5
    temperature: float = 2.0


class DistillationTrainer(loop.WeightedTrainer):
    """A WeightedTrainer whose batches carry `teacher_logits`, shape (batch, labels), computed beforehand.

    The loss is the sum over the classifier's heads, its early exits and its last one (DeeBERT's joint
    training). `penalty()`, a scalar, and the losses of `layerwise` are added to it. Batches without teacher
    logits (evaluation) are scored by the cross entropy of the last head alone.
    """

    args: DistillationTrainingArguments

    def __init__(
        self,
        *args,
        penalty: Callable[[], torch.Tensor] | None = None,
        layerwise: Layerwise | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.penalty = penalty
        self.layerwise = layerwise
        self.labelled = 1.0

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Those of a WeightedTrainer; `labelled` is the share of the rows with labels in their weight."""
        batches, total = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and "weight" in batches[0]:
            known = sum(batch["weight"][batch["labels"] != loop.UNLABELLED].sum() for batch in batches)
            self.labelled = float(self.accelerator.gather(known.to(device)).sum() / total)
        return batches, total

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels, weight = inputs.pop("labels"), inputs.pop("weight", None)
        teacher_logits = inputs.pop("teacher_logits", None)
        layerwise = None if teacher_logits is None else self.layerwise
        outputs = model(**inputs, output_hidden_states=layerwise is not None)
        if teacher_logits is None:
            losses = F.cross_entropy(outputs.logits, labels, reduction="none")
        else:
            heads = [
                distillation_loss(
                    logits,
                    teacher_logits,
                    labels,
                    self.args.alpha,
                    self.args.temperature,
                    "none",
                    self.labelled,
                )
                for logits in exits.heads(outputs)
            ]
            losses = torch.stack(heads).sum(0)
        if layerwise is not None:
            student: PreTrainedModel = self.model  # type: ignore[assignment]
            states = outputs.hidden_states
            losses = losses + layerwise.losses(student, states, inputs, self.accelerator.autocast)
        loss = self.weighted_mean(losses, weight, num_items_in_batch)
        if teacher_logits is not None and self.penalty is not None:
            loss = loss + self.penalty() / self.current_gradient_accumulation_steps
        return (loss, {"logits": outputs.logits}) if return_outputs else loss


class KeepZeros(TrainerCallback):
    """Keep the encoder's weights that are zero now at zero, after every step of a training."""

    def __init__(self, model: PreTrainedModel):
        weights = [encoder.trained_weight(module) for module in encoder.linears(model).values()]
        self.masks = [(w, w == 0) for w in weights if (w == 0).any()]

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        for weight, zeros in self.masks:
            weight.masked_fill_(zeros, 0.0)


def distil(
    student: PreTrainedModel,
    tokenizer: Path,
    name: str,
    settings: Distillation,
    hyper: Training | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    optimizer: torch.optim.Optimizer | None = None,
    penalty: Callable[[], torch.Tensor] | None = None,
    layerwise: Layerwise | None = None,
) -> list[dict]:
    """Train `student` in place on data/, under the `name` of its checkpoints, and return the epochs' history.

    `tokenizer` is the folder of the tokenizer that it reads with, the teacher's or its own: the soft targets
    are the teachers' mean logits, cached by query, over the training split and, if `settings` say so, the
    unlabelled text, whose queries weigh 1. `hyper` replaces the hyper-parameters of `settings`. AdamW, unless
    an `optimizer` is given, on a linear learning-rate schedule. Encoder weights that are zero at the start
    stay zero: a second technique keeps what the first has pruned. `layerwise` teaches the layers, too.
    """
    hyper = hyper or settings
    encoder.set_dropout(student, hyper.dropout)
    train = loop.encode(tables.read("train"), tokenizer, teacher_logits=np.load(SOFT_LABELS / "train.npy"))
    if settings.unlabelled:
        texts = tables.read("unlabelled").assign(weight=np.float32(1))
        train += loop.encode(texts, tokenizer, teacher_logits=np.load(SOFT_LABELS / "unlabelled.npy"))
    if layerwise is not None:
        layerwise.attach(student, train)
    trainer = DistillationTrainer(
        student,
        loop.arguments(
            hyper,
            name,
            settings.seed,
            DistillationTrainingArguments,
            alpha=settings.alpha,
            temperature=settings.temperature,
            ddp_find_unused_parameters=None if layerwise is None else False,
        ),
        train_dataset=train,
        eval_dataset=loop.encode(tables.read("validation"), tokenizer),
        data_collator=loop.PadToLongest(student.config.pad_token_id),
        compute_metrics=loop.metrics,
        callbacks=[KeepZeros(student), *callbacks],
        optimizers=(optimizer, None),
        penalty=penalty,
        layerwise=layerwise,
    )
    history = loop.fit(trainer, identity=f"{hyper} {settings}")
    if layerwise is not None:
        layerwise.detach(student)
    return history
