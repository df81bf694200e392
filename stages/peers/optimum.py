"""Optimum: ONNX, dynamic int8 for each channel."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from stages import runtime
from stages.peers.contract import Task
from stages.peers.onnx_file import without_token_types

REQUIRES = ("optimum-onnx[onnxruntime]==0.1.0", "torch==2.13.0")
OWN_ENVIRONMENT = "it needs transformers below 4.58"
RECIPE = (
    "`optimum-cli export onnx --task text-classification`, then `optimum-cli onnxruntime quantize "
    "--per_channel` with `--avx512_vnni`, or `--avx2` on a CPU without VNNI. It cannot quantize what its "
    "`--optimize` writes."
)
load = runtime.load


def make(task: Task, folder: Path) -> None:
    preset = "--avx512_vnni" if task.vnni else "--avx2"
    with TemporaryDirectory() as scratch:
        exported, quantized = f"{scratch}/exported", f"{scratch}/quantized"
        _cli("export", "onnx", "--model", task.teacher, "--task", "text-classification", exported)
        _cli("onnxruntime", "quantize", "--onnx_model", exported, "--per_channel", preset, "-o", quantized)
        (made,) = Path(quantized).glob("*.onnx")
        without_token_types(made, folder / "model.onnx")
    task.copy_tokenizer(folder)


def _cli(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "optimum.commands.optimum_cli", *arguments], check=True)
