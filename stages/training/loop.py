"""What every training run shares: encoding, batches, arguments, checkpoints, history."""

import functools
import hashlib
import os
import shutil
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import EvalPrediction, PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from stages.core import processes
from stages.core.errors import UserError
from stages.techniques.settings import Training
from stages.training import progress

CHECKPOINTS = Path(".checkpoints")
UNLABELLED = -100  # as torch's cross entropy has it


def encode(table: pd.DataFrame, model: Path, **columns: np.ndarray) -> list[dict]:
    """The queries of `table` as training examples for the tokenizer of the folder `model`.

    Each has `input_ids` (1-d int64 tensor), `labels` (int; UNLABELLED if the table has none), `weight` if the
    table has it, and one row of each of `columns`, arrays with a first dimension of len(table).
    """
    if "weight" in table:
        columns["weight"] = table["weight"].to_numpy()
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text, as it is when served
    encodings = tokenizer.encode_batch(table["text"].tolist())
    labels = table.get("label", pd.Series(UNLABELLED, table.index)).tolist()
    rows = zip(encodings, labels, *columns.values(), strict=True)
    return [
        {"input_ids": torch.tensor(encoding.ids), "labels": label, **dict(zip(columns, values, strict=True))}
        for encoding, label, *values in rows
    ]


class PadToLongest:
    """Collate examples into a batch as wide as its longest query."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        batch = {
            key: torch.as_tensor(np.stack([example[key] for example in examples]))
            for key in examples[0]
            if key != "input_ids"
        }
        ids = [example["input_ids"] for example in examples]
        batch["input_ids"] = pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id)
        lengths = torch.tensor([len(row) for row in ids])
        batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
        return batch


class WeightedTrainer(Trainer):
    """A Trainer whose loss is Σ w·l / Σ w over the queries of a step: l is cross entropy, w is `weight`.

    Batches without a `weight` (evaluation) weigh all queries the same.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Have the batches of one accumulated step weighed together, and divide by their weight here.
        self.model_accepts_loss_kwargs = True

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of a step and the sum of their weights over all processes, in place of their number."""
        batches, total = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and "weight" in batches[0]:
            total = self.accelerator.gather(sum(batch["weight"].sum() for batch in batches).to(device)).sum()
        return batches, total

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels, weight = inputs.pop("labels"), inputs.pop("weight", None)
        outputs = model(**inputs)
        losses = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="none")
        loss = self.weighted_mean(losses, weight, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def weighted_mean(self, losses, weight, total):
        """Σ w·l over `total`, the weight of the whole step; without it, over that of this batch.

        `losses` and `weight` have shape (batch,).
        """
        weight = torch.ones_like(losses) if weight is None else weight
        loss = (weight * losses).sum()
        if total is None:
            return loss / weight.sum()
        return self.accelerator.num_processes * loss / total  # of all processes, whose gradients are averaged


def arguments(
    training: Training, name: str, seed: int, kind: type[TrainingArguments] = TrainingArguments, **extra
) -> TrainingArguments:
    """`training` as arguments for a Hugging Face Trainer that makes models/<name>."""
    return kind(
        output_dir=str(CHECKPOINTS / name),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=processes.share(training.batch_size),
        per_device_eval_batch_size=128,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_steps=training.warmup,
        optim="adamw_torch_fused",
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="epoch",
        disable_tqdm=True,  # ProgressBar shows one in place of the Trainer's two
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=False,
        use_cpu=not torch.accelerator.is_available(),  # or the Trainer overlooks torchrun's processes
        bf16=_multiplies_bf16(),
        seed=seed,
        **extra,
    )


@functools.cache
def _multiplies_bf16() -> bool:
    """Whether the device multiplies in bfloat16 faster than in fp32.

    On CPUs the instructions do not tell: with AVX-512 BF16, Zen 5 is four times as fast, an Intel Xeon
    without AMX half as fast. So both are timed, on the shapes of a feed-forward layer.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")):
        return False
    return _seconds_of_a_product(torch.bfloat16) < _seconds_of_a_product(torch.float32)


def _seconds_of_a_product(dtype: torch.dtype) -> float:
    x, weight = torch.ones(1024, 384, dtype=dtype), torch.ones(1536, 384, dtype=dtype)
    return min(timeit.repeat(lambda: torch.nn.functional.linear(x, weight), repeat=20, number=1))


class Accuracy(evaluate.Metric):
    """The share of right answers; `evaluate.load` would fetch this metric's script from the hub."""

    def _info(self):
        features = datasets.Features(dict.fromkeys(("predictions", "references"), datasets.Value("int64")))
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=features)

    def _compute(self, predictions, references):
        return {"accuracy": float(np.mean(np.equal(predictions, references)))}


def metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`compute_metrics` of a Trainer: cross entropy and accuracy over all labels.

    The Trainer's own loss counts queries twice where processes share them unevenly. A UserError says that
    the training has diverged, which the Trainer's log hides.
    """
    if not np.isfinite(prediction.predictions).all():
        raise UserError("the training has diverged, its logits are no numbers: lower its learning_rate")
    logits, labels = torch.tensor(prediction.predictions), torch.tensor(prediction.label_ids)
    accuracy = Accuracy(keep_in_memory=True).compute(predictions=logits.argmax(-1), references=labels)
    return {"loss": float(torch.nn.functional.cross_entropy(logits, labels)), **accuracy}


def fit(trainer: Trainer, identity: str) -> list[dict]:
    """Train, from the last checkpoint of the same run if it was interrupted, and return the history.

    A run is the same if its starting weights, training examples, arguments and `identity` are. The
    history has one dict an epoch: `epoch`, `loss` (training), `eval_loss` and `eval_accuracy`
    (validation), and what callbacks have logged.
    """
    folder = Path(str(trainer.args.output_dir))
    # On short queries no slower than the fused kernels, and in bf16 on CPUs twice as fast.
    trainer.model.set_attn_implementation("eager")  # type: ignore[operator, union-attr]
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(progress.ProgressBar(folder.name))
    if path := os.environ.get(processes.EPOCHS_FILE):
        trainer.add_callback(progress.ReportEpochs(Path(path), folder.name))
    marker = folder / "run"
    run = _fingerprint(trainer, identity)
    if processes.is_main() and (not marker.exists() or marker.read_text() != run):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        marker.write_text(run)
    trainer.accelerator.wait_for_everyone()
    # The Trainer writes a checkpoint's trainer_state.json last: without it, it is not whole.
    whole = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda p: p.stat().st_mtime)
    trainer.train(resume_from_checkpoint=str(whole[-1].parent) if whole else None)
    # Or the model would go on computing in bf16. (accelerate's own unwrap_model takes off the model's
    # decorators too.)
    if (forward := vars(trainer.model).pop("_original_forward", None)) is not None:
        trainer.model.forward = forward  # type: ignore[method-assign, union-attr]

    history: dict[int, dict] = {}
    for entry in trainer.state.log_history:
        if "loss" in entry or "eval_loss" in entry:
            kept = {k: v for k, v in entry.items() if not k.endswith(("_runtime", "_per_second"))}
            history.setdefault(round(entry["epoch"]), {}).update(kept)
    trainer.accelerator.wait_for_everyone()
    if processes.is_main():
        shutil.rmtree(folder)
    return list(history.values())


def _fingerprint(trainer, identity: str) -> str:
    digest = hashlib.sha256(identity.encode())
    for name, tensor in trainer.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy(force=True).tobytes())
    for example in trainer.train_dataset:
        for value in example.values():
            digest.update(np.asarray(value).tobytes())
    digest.update(trainer.args.to_json_string().encode())
    return digest.hexdigest()


@torch.inference_mode()
def logits(
    model: PreTrainedModel,
    examples: list[dict],
    batch_size: int = 128,
    bar: str = "",
    of: Callable[[Any], torch.Tensor] = lambda outputs: outputs.logits,
) -> np.ndarray:
    """The model's logits for each example, shape (len(examples), labels), float32, on its device.

    Or what `of` takes from the model's outputs, its first dimension the batch. If it takes seconds, a
    progress bar shows, called `bar`.
    """
    if not examples:
        return np.empty((0, len(model.config.id2label or {})), np.float32)
    model.eval()
    collate = PadToLongest(model.config.pad_token_id)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]["input_ids"]))
    parts = []
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc=bar, unit="batch", delay=3, mininterval=1.0, disable=not bar):
        batch = collate([{"input_ids": examples[i]["input_ids"]} for i in order[start : start + batch_size]])
        parts.append(of(model(**{k: v.to(model.device) for k, v in batch.items()})).numpy(force=True))
    return np.concatenate(parts)[np.argsort(order)]
