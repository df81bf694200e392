"""OpenVINO: static int8 by NNCF, ranges from training queries."""

import random
from pathlib import Path

import numpy as np

from stages import checkpoints
from stages.peers.contract import Task
from stages.runtime import Classifier

REQUIRES = ("openvino==2026.4.1", "nncf==3.4.0")
RECIPE = (
    "`openvino.convert_model`, then `nncf.quantize` with `ModelType.TRANSFORMER` and 300 training queries; "
    "compiled with the performance hint LATENCY."
)


def make(task: Task, folder: Path) -> None:
    import nncf
    import openvino
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(task.teacher).eval()
    task.copy_tokenizer(folder)
    texts = random.Random(task.seed).sample(task.texts, min(300, len(task.texts)))
    encodings = checkpoints.read(task.teacher).tokenizer.encode_batch(texts)
    inputs = [
        {"input_ids": np.array([e.ids]), "attention_mask": np.array([e.attention_mask])} for e in encodings
    ]
    example = {name: torch.from_numpy(value) for name, value in inputs[0].items()}
    dynamic = [(name, [-1, -1], np.int64) for name in example]
    converted = openvino.convert_model(model, example_input=example, input=dynamic)
    quantized = nncf.quantize(
        converted, nncf.Dataset(inputs), subset_size=len(inputs), model_type=nncf.ModelType.TRANSFORMER
    )
    openvino.save_model(quantized, folder / "model.xml")


def load(folder: Path, threads: int) -> Classifier:
    import openvino

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", options)
    return Classifier(checkpoints.read(folder), CompiledSession(compiled), None)


class CompiledSession:
    """A model compiled by OpenVINO."""

    def __init__(self, compiled):
        self.request = compiled.create_infer_request()

    def __call__(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        return self.answers(input_ids, attention_mask)[0]

    def answers(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> list[np.ndarray]:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return [self.request.infer(inputs, share_inputs=True)[0]]
