"""The book's trainer beside ours: seconds of an epoch, the teacher in the loop or its logits cached.

In a workspace that has data/, models/teacher and soft_labels/:

    python tests/training/book_trainer.py [rounds]

Students of three layers learn from 2,048 training queries, in rounds of one epoch each, in random order.
"""

import random
import statistics
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Trainer, TrainerCallback, set_seed

from stages.checkpoints import encoder
from stages.core import model_folder, settings
from stages.data import tables
from stages.techniques import students
from stages.training import distillation, loop

TEACHER = model_folder.MODELS / "teacher"
QUERIES = 2048


class BookTrainer(Trainer):
    """Tunstall, von Werra and Wolf (2022), chapter 8: the teacher answers each batch."""

    def __init__(self, *args, teacher, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        student = model(**inputs)
        with torch.no_grad():
            logits = self.teacher(**inputs).logits
        t, alpha = self.args.temperature, self.args.alpha
        soft = F.kl_div(
            F.log_softmax(student.logits / t, dim=-1), F.softmax(logits / t, dim=-1), reduction="batchmean"
        )
        return alpha * student.loss + (1 - alpha) * t**2 * soft


class Clock(TrainerCallback):
    """The seconds from the first step to the last."""

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = getattr(self, "start", time.perf_counter())

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self.start


def epoch(kind: str, train: list[dict]) -> float:
    """Seconds of an epoch on `train` with the trainer of the `kind`, "book" or "ours"."""
    set_seed(0)
    teacher = encoder.load(TEACHER, attn_implementation="eager")
    student = students.of_teacher(teacher, [0, 2, 5])
    student.set_attn_implementation("eager")
    encoder.freeze_embeddings(student, True)
    p = settings.load()
    arguments = loop.arguments(
        p.distill, "book_trainer", 0, distillation.DistillationTrainingArguments, alpha=0.5, temperature=2.0
    )
    arguments.num_train_epochs, arguments.eval_strategy, arguments.save_strategy = 1, "no", "no"
    clock = Clock()
    common = {
        "model": student,
        "args": arguments,
        "data_collator": loop.PadToLongest(student.config.pad_token_id),
        "callbacks": [clock],
    }
    if kind == "book":
        without = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in train]
        trainer = BookTrainer(train_dataset=without, teacher=teacher.eval(), **common)
    else:
        trainer = distillation.DistillationTrainer(train_dataset=train, **common)
    trainer.train()
    return clock.seconds


def main(rounds: int = 6) -> None:
    table = tables.read("train")
    chosen = np.random.default_rng(0).choice(len(table), min(QUERIES, len(table)), replace=False)
    train = loop.encode(table, TEACHER, teacher_logits=np.load(distillation.SOFT_LABELS / "train.npy"))
    train = [train[i] for i in chosen]
    seconds: dict[str, list[float]] = {"book": [], "ours": []}
    for _ in range(rounds):
        for kind in random.sample(["book", "ours"], 2):
            seconds[kind].append(epoch(kind, train))
    ratios = [book / ours for book, ours in zip(*seconds.values(), strict=True)]
    book, ours = map(statistics.median, seconds.values())
    print(
        f"{len(train)} queries, {rounds} rounds: book {book:.2f} s, ours {ours:.2f} s, "
        f"x{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
