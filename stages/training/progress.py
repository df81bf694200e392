"""How far a training is: for who watches, and for a search that stops one that falls behind."""

import json
from pathlib import Path

from tqdm import tqdm
from transformers import TrainerCallback


class ProgressBar(TrainerCallback):
    """One bar over all steps of a training, with the last epoch's loss and validation accuracy."""

    def __init__(self, model: str):
        self.model = model
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.model,
            unit="step",
            mininterval=1.0,
            disable=not state.is_world_process_zero,
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_log(self, args, state, control, **kwargs):
        if "loss" in kwargs["logs"]:
            self.shown["loss"] = f"{kwargs['logs']['loss']:.3f}"

    def on_evaluate(self, args, state, control, **kwargs):
        metrics = kwargs["metrics"]
        accuracy = metrics.get("eval_accuracy")  # which an encoder without a head has not
        self.shown["validation"] = f"{metrics['eval_loss']:.3f}" if accuracy is None else f"{accuracy:.1%}"
        self.bar.set_postfix(self.shown)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


class ReportEpochs(TrainerCallback):
    """Append a line of JSON to the file `path` after each evaluation: `model`, `epoch`, `accuracy`."""

    def __init__(self, path: Path, model: str):
        self.path, self.model = path, model

    def on_evaluate(self, args, state, control, **kwargs):
        if state.is_world_process_zero and "eval_accuracy" in kwargs["metrics"]:
            entry = {
                "model": self.model,
                "epoch": round(state.epoch),
                "accuracy": kwargs["metrics"]["eval_accuracy"],
            }
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
