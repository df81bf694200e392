"""Knowledge distillation (Hinton, Vinyals and Dean, 2015, arXiv:1503.02531)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from stages.compression import training
from stages.compression.sparsity import KeepZeros
from stages.intents import tables
from stages.params import DistillVariant, Training

TEACHER_LOGITS = Path("logits/train.npy")


def distillation_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    alpha: float,
    temperature: float,
    reduction: str = "mean",
) -> torch.Tensor:
    """alpha · CE(labels, student) + (1 − alpha) · T² · KL(teacher ‖ student), both softened by T.

    Logits have shape (batch, labels), `labels` (batch,). `reduction` over the batch: "mean" or
    "sum". The T² keeps the size of the soft targets' gradient independent of T (section 2.1 of
    the paper).
    """
    hard = F.cross_entropy(student_logits, labels, reduction=reduction)
    soft = F.kl_div(
        F.log_softmax(student_logits / temperature, dim=-1),
        F.log_softmax(teacher_logits / temperature, dim=-1),
        reduction="batchmean" if reduction == "mean" else reduction,
        log_target=True,
    )
    return alpha * hard + (1 - alpha) * temperature**2 * soft


@dataclass
class DistillationTrainingArguments(TrainingArguments):
    """`alpha` weighs the true labels against the teacher; `temperature` softens both distributions.

    alpha = 1 is plain fine-tuning.
    """

    alpha: float = 0.5
    temperature: float = 2.0


class DistillationTrainer(Trainer):
    """A Trainer whose batches carry `teacher_logits`, shape (batch, labels), computed beforehand.

    `penalty()`, a scalar, is added to the loss. Batches without teacher logits (evaluation) are
    scored by cross entropy alone.
    """

    args: DistillationTrainingArguments

    def __init__(self, *args, penalty: Callable[[], torch.Tensor] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.penalty = penalty
        # Have the batches of one accumulated step counted together, and divide by that count here.
        self.model_accepts_loss_kwargs = True

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        teacher_logits = inputs.pop("teacher_logits", None)
        outputs = model(**inputs)
        if teacher_logits is None:
            loss = F.cross_entropy(outputs.logits, labels, reduction="sum")
        else:
            loss = distillation_loss(
                outputs.logits, teacher_logits, labels, self.args.alpha, self.args.temperature, "sum"
            )
        if num_items_in_batch is None:
            loss = loss / len(labels)
        else:  # counted over all processes, whose gradients are averaged
            loss = self.accelerator.num_processes * loss / num_items_in_batch
        if teacher_logits is not None and self.penalty is not None:
            loss = loss + self.penalty() / self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss


def distil(
    student: PreTrainedModel,
    parent: Path,
    name: str,
    hyper: Training,
    variant: DistillVariant,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
    optimizer: torch.optim.Optimizer | None = None,
    penalty: Callable[[], torch.Tensor] | None = None,
) -> list[dict]:
    """Train `student` in place on data/ to become models/<name>, and give the history of its epochs.

    `parent` is the model folder whose tokenizer it reads with. The soft targets are the teacher's
    cached logits over the training split. AdamW, unless an `optimizer` is given, on a linear
    learning-rate schedule. Encoder weights that are zero at the start stay zero: what is pruned
    stays pruned.
    """
    trainer = DistillationTrainer(
        student,
        training.arguments(
            hyper,
            name,
            seed,
            DistillationTrainingArguments,
            alpha=variant.alpha,
            temperature=variant.temperature,
        ),
        train_dataset=training.encode(tables.read("train"), parent, teacher_logits=np.load(TEACHER_LOGITS)),
        eval_dataset=training.encode(tables.read("validation"), parent),
        data_collator=training.PadToLongest(student.config.pad_token_id),
        compute_metrics=training.metrics,
        callbacks=[KeepZeros(student), *callbacks],
        optimizers=(optimizer, None),
        penalty=penalty,
    )
    return training.fit(trainer, identity=f"{hyper} {variant}")
