"""Knowledge distillation (Hinton, Vinyals and Dean, 2015, arXiv:1503.02531)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from stages.checkpoints import encoder
from stages.data import tables
from stages.techniques.settings import Distillation, Training
from stages.training import loop

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

    over the n rows, of which H have labels. `reduction` is "mean", L, or "sum", n · L. `labelled` is |H| / n,
    that of the batch unless it is given. The T² keeps the size of the soft targets' gradient independent of
    T (section 2.1 of the paper).
    """
    if labelled is None:
        labelled = float((labels != loop.UNLABELLED).float().mean())
    hard = F.cross_entropy(student_logits, labels, reduction="sum", ignore_index=loop.UNLABELLED)
    soft = F.kl_div(
        F.log_softmax(student_logits / temperature, dim=-1),
        F.log_softmax(teacher_logits / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )
    loss = alpha * (hard / labelled if labelled else hard) + (1 - alpha) * temperature**2 * soft
    return loss / len(labels) if reduction == "mean" else loss


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
        self.rows = torch.tensor(0)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of a step, and how many of their rows have labels; `rows` is how many there are."""
        batches, labelled = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows = torch.tensor(sum(len(batch["labels"]) for batch in batches), device=device)
        self.rows = self.accelerator.gather(rows).sum()
        return batches, labelled

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        teacher_logits = inputs.pop("teacher_logits", None)
        outputs = model(**inputs)
        if teacher_logits is None:
            loss = F.cross_entropy(outputs.logits, labels)
        else:  # rows are counted over all processes, whose gradients are averaged
            loss = distillation_loss(
                outputs.logits,
                teacher_logits,
                labels,
                self.args.alpha,
                self.args.temperature,
                "sum",
                labelled=float(num_items_in_batch / self.rows),
            )
            loss = self.accelerator.num_processes * loss / self.rows
        if teacher_logits is not None and self.penalty is not None:
            loss = loss + self.penalty() / self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss


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
) -> list[dict]:
    """Train `student` in place on data/, under the `name` of its checkpoints, and return the epochs' history.

    `tokenizer` is the folder of the tokenizer that it reads with, the teacher's or its own: the soft targets
    are the teachers' mean logits, cached by query, over the training split and, if `settings` say so, the
    unlabelled text. `hyper` replaces the hyper-parameters of `settings`. AdamW, unless an `optimizer` is
    given, on a linear learning-rate schedule. Encoder weights that are zero at the start stay zero: a second
    technique keeps what the first has pruned.
    """
    hyper = hyper or settings
    encoder.set_dropout(student, hyper.dropout)
    train = [
        example
        for split in (("train", "unlabelled") if settings.unlabelled else ("train",))
        for example in loop.encode(
            tables.read(split), tokenizer, teacher_logits=np.load(SOFT_LABELS / f"{split}.npy")
        )
    ]
    trainer = DistillationTrainer(
        student,
        loop.arguments(
            hyper,
            name,
            settings.seed,
            DistillationTrainingArguments,
            alpha=settings.alpha,
            temperature=settings.temperature,
        ),
        train_dataset=train,
        eval_dataset=loop.encode(tables.read("validation"), tokenizer),
        data_collator=loop.PadToLongest(student.config.pad_token_id),
        compute_metrics=loop.metrics,
        callbacks=[KeepZeros(student), *callbacks],
        optimizers=(optimizer, None),
        penalty=penalty,
    )
    return loop.fit(trainer, identity=f"{hyper} {settings}")
