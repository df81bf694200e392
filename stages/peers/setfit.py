"""SetFit: the pretrained encoder fine-tuned on pairs of queries, and a linear head."""

from pathlib import Path

from stages.peers.contract import Answers, Task
from stages.peers.tfidf import in_all_classes

REQUIRES = ("setfit==1.2.0",)
SHOTS, STEPS, BATCH = 16, 600, 16
RECIPE = (
    f"`Trainer.train_embeddings` on {SHOTS} training queries an intent ({STEPS} steps of {BATCH} pairs), "
    "then `Trainer.train_classifier` on the whole training split; in torch."
)


def make(task: Task, folder: Path) -> None:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments, sample_dataset

    model = SetFitModel.from_pretrained(task.pretrained)
    data = Dataset.from_dict({"text": task.texts, "label": task.labels})
    few = sample_dataset(data, num_samples=SHOTS, seed=task.seed)
    arguments = TrainingArguments(
        output_dir=str(folder / "scratch"),
        max_steps=STEPS,
        batch_size=BATCH,
        seed=task.seed,
        save_strategy="no",
        report_to="none",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=few)
    trainer.train_embeddings(few["text"], few["label"])
    trainer.train_classifier(task.texts, task.labels)
    model.save_pretrained(folder)


def load(folder: Path, threads: int) -> Answers:
    import torch
    from setfit import SetFitModel

    torch.set_num_threads(threads)
    model = SetFitModel.from_pretrained(str(folder), local_files_only=True)

    def encode(texts: list[str]):
        return (model.model_body.encode(texts, show_progress_bar=False),)

    return Answers(folder, encode, in_all_classes(folder, model.model_head))
