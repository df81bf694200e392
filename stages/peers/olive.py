"""Olive: ONNX, ONNX Runtime's transformer optimizer, dynamic int8 for each channel."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from stages import runtime
from stages.peers.contract import Task
from stages.peers.onnx_file import without_token_types

REQUIRES = ("olive-ai==0.13.0", "requests==2.34.2")
RECIPE = (
    "`olive run` with the passes OnnxConversion, OrtTransformersOptimization and OnnxDynamicQuantization "
    "(per channel; 7-bit weights on a CPU without VNNI)."
)
load = runtime.load


def make(task: Task, folder: Path) -> None:
    config = {
        "input_model": {"type": "HfModel", "model_path": task.teacher, "task": "text-classification"},
        "systems": {
            "local": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "host": "local",
        "target": "local",
        "passes": {
            "conversion": {"type": "OnnxConversion"},
            "fusion": {"type": "OrtTransformersOptimization", "model_type": "bert"},
            "int8": {
                "type": "OnnxDynamicQuantization",
                "per_channel": True,
                "reduce_range": not task.vnni,
            },
        },
    }
    with TemporaryDirectory() as name:
        scratch = Path(name)
        places = {"output_dir": str(scratch / "output"), "cache_dir": str(scratch / "cache")}
        (scratch / "run.json").write_text(json.dumps(config | places))
        subprocess.run([sys.executable, "-m", "olive", "run", "--config", scratch / "run.json"], check=True)
        (made,) = (scratch / "output").rglob("*.onnx")
        without_token_types(made, folder / "model.onnx")
    task.copy_tokenizer(folder)
