"""The book's trainer beside ours: seconds of an epoch, the teacher in the loop or its logits cached.

In a workspace that has data/, models/teacher and soft_labels/:

    python tests/training/book_trainer.py [rounds]

Students of three layers learn from 2,048 training queries, in rounds of one epoch each, in random order:

    book   its trainer with its settings: the teacher answers each batch of 48 queries in random order, all
           weights are trained, in fp32
    loop   its trainer with our settings: batches by length, frozen embeddings, bf16 where it is faster
    ours   the same settings, and the teacher's logits cached
"""

import random
import sys
import time

import numpy as np
import pandas as pd
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
KINDS = ("book", "loop", "ours")


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
    """Seconds of an epoch on `train` with the trainer of the `kind`, one of KINDS."""
    set_seed(0)
    teacher = encoder.load(TEACHER)
    student = students.of_teacher(teacher, [0, 2, 5])
    p = settings.load()
    extra = {"alpha": 0.5, "temperature": 2.0}
    arguments = loop.arguments(
        p.distill, "book_trainer", 0, distillation.DistillationTrainingArguments, **extra
    )
    if kind == "book":
        arguments = distillation.DistillationTrainingArguments(
            arguments.output_dir,
            per_device_train_batch_size=48,
            weight_decay=0.01,
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=arguments.use_cpu,
            **extra,
        )
    else:
        encoder.freeze_embeddings(student, True)
        for model in (teacher, student):
            model.set_attn_implementation("eager")  # as `loop.fit` does
    arguments.num_train_epochs, arguments.eval_strategy, arguments.save_strategy = 1, "no", "no"
    clock = Clock()
    common = {
        "model": student,
        "args": arguments,
        "data_collator": loop.PadToLongest(student.config.pad_token_id),
        "callbacks": [clock],
    }
    if kind == "ours":
        trainer = distillation.DistillationTrainer(train_dataset=train, **common)
    else:
        without = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in train]
        trainer = BookTrainer(train_dataset=without, teacher=teacher.eval(), **common)
    trainer.train()
    return clock.seconds


def main(rounds: int = 6) -> None:
    table = tables.read("train")
    chosen = np.random.default_rng(0).choice(len(table), min(QUERIES, len(table)), replace=False)
    train = loop.encode(table, TEACHER, teacher_logits=np.load(distillation.SOFT_LABELS / "train.npy"))
    train = [train[i] for i in chosen]
    seconds = pd.DataFrame(
        [{kind: epoch(kind, train) for kind in random.sample(KINDS, len(KINDS))} for _ in range(rounds)]
    )
    print(f"{len(train)} queries, {rounds} rounds: medians of the seconds, and of their ratio to ours")
    for kind in KINDS:
        ratios = seconds[kind] / seconds["ours"]
        print(
            f"{kind:4} {seconds[kind].median():6.2f} s, "
            f"x{ratios.median():.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
