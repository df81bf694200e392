"""The model card of a published model."""

import json
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from stages.core import model_folder
from stages.core.settings import Params
from stages.reporting.markdown import percent, table_of

# Of what a model was trained on, by data.source. Of the user's own files only they can say.
LICENSES = {
    "clinc150": ("cc-by-3.0", "CLINC150 (Larson et al., 2019), CC BY 3.0"),
    "sample": ("apache-2.0", "the corpus embedded in the pipeline, Apache-2.0"),
    "hub": (None, "the dataset's own; **state its licence here**"),
    "files": (None, "the publisher's own; **state its licence here**"),
}
ONNX = """```python
import json
import numpy, onnxruntime, tokenizers

session = onnxruntime.InferenceSession("model.onnx")
encoding = tokenizers.Tokenizer.from_file("tokenizer.json").encode("what is my balance")
inputs = {"input_ids": [encoding.ids], "attention_mask": [encoding.attention_mask]}
logits = session.run(None, {name: numpy.array(value) for name, value in inputs.items()})[0]
print(json.load(open("config.json"))["id2label"][str(logits.argmax())])
```

"""
TRANSFORMERS = """```python
from transformers import pipeline

print(pipeline("text-classification", model=".")("what is my balance"))
```

"""
PACKAGE = """With the package of the pipeline that made it, which applies the out-of-scope threshold of
`calibration.json`:

```python
from stages import runtime

print(runtime.load(".").predict(["what is my balance"])[0].label)
```

```bash
intents predict --model . "what is my balance"
intents serve --model .
```"""


def write(folder: Path, name: str, p: Params) -> str:
    """The card of the model `name`, a copy of which is in `folder`."""
    file = Path(p.report.folder) / "tables" / "results.csv"
    summary = pd.read_csv(file, index_col="model").to_dict("index") if file.exists() else {}
    row = summary.get(name, {})
    source = p.data.source
    license, trained_on = LICENSES[source]
    library, how = loading(folder)
    metadata = ModelCardData(
        language="en",
        license=license,
        library_name=library,
        pipeline_tag="text-classification",
        tags=["intent-classification", "distillation", "pruning", "quantization"],
        model_name=name,
        eval_results=[
            EvalResult("text-classification", source, source, "accuracy", row[key], metric_name=title)
            for key, title in (("accuracy", "accuracy"), ("accuracy_calibrated", "accuracy, with threshold"))
            if key in row
        ],
    )
    labels = model_folder.label_names(folder)
    rows = [[key, *_row(summary[key])] for key in dict.fromkeys(["teacher", name]) if key in summary]
    measured = table_of(
        ["model", "accuracy", "with the threshold", "size, MB", "speed-up over the teacher"],
        rows,
        "Test split; MB of 2^20 bytes; one query on one CPU thread.",
    )
    steps = [f"1. `{step.pop('stage')}`: {json.dumps(step)}" for step in p.variants.lineage(name)]
    return f"""---
{metadata.to_yaml()}
---

# {name}

Names the intent of a short query, one of {len(labels)} labels.

{measured}
## How to load it

{how}{PACKAGE}

## How it was made

{chr(10).join(steps)}

Trained on {trained_on}.

## Labels

{", ".join(labels)}
"""


def loading(folder: Path) -> tuple[str, str]:
    """The library that opens the model in `folder`, and the code for it, empty where only our own does."""
    if (folder / "model.onnx").exists():
        return "onnx", ONNX
    pruned = json.loads((folder / "config.json").read_text()).get("layer_shapes")
    if (folder / "model.safetensors").exists() and not pruned:
        return "transformers", TRANSFORMERS
    return "intent-compressor", ""


def _row(row: dict) -> list[str]:
    accuracies = [percent(row[key]) for key in ("accuracy", "accuracy_calibrated")]
    return [*accuracies, f"{row['size_mb']:.1f}", f"×{row['speedup']:.1f}"]
