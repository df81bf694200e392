"""Torchao: dynamic int8 of the linear layers, compiled by torch.compile."""

import shutil
from pathlib import Path

from stages import checkpoints
from stages.core.errors import UserError
from stages.peers.contract import Task
from stages.runtime import Classifier

REQUIRES = ("torchao==0.18.0", "torch==2.13.0")
RECIPE = (
    "`quantize_(model, Int8DynamicActivationInt8WeightConfig())`, then `model.compile(dynamic=True)`; "
    "embeddings stay fp32."
)
FILE = "model.pt"


def make(task: Task, folder: Path) -> None:
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    from transformers import AutoModelForSequenceClassification

    if not shutil.which("g++") and not shutil.which("clang++"):
        raise UserError("torch.compile needs a C++ compiler: install g++, or leave torchao out")
    model = AutoModelForSequenceClassification.from_pretrained(task.teacher).eval()
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    torch.save(model.state_dict(), folder / FILE)
    task.copy_tokenizer(folder)


def load(folder: Path, threads: int) -> Classifier:
    import torch
    import torchao  # noqa: F401  (its tensors, which the file holds)
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from stages.runtime.torch_session import TorchSession

    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder)).eval()
    model.load_state_dict(torch.load(folder / FILE, weights_only=False), assign=True)
    model.compile(dynamic=True)
    session = TorchSession(model, threads)
    return Classifier(checkpoints.read(folder), session, None)
