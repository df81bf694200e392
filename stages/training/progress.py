"""Epochs reported to a search, which stops a training that falls behind."""

import json
from pathlib import Path

from transformers import TrainerCallback


class ReportEpochs(TrainerCallback):
    """Append a line of JSON to the file `path` after each evaluation: `model`, `epoch`, `accuracy`."""

    def __init__(self, path: Path, model: str):
        self.path, self.model = path, model

    def on_evaluate(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            entry = {
                "model": self.model,
                "epoch": round(state.epoch),
                "accuracy": kwargs["metrics"]["eval_accuracy"],
            }
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
