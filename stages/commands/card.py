"""The model card of a published model."""

import json
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from stages.core import model_folder
from stages.core.settings import Params
from stages.data import tables
from stages.measurement import identity
from stages.reporting import evidence
from stages.reporting.markdown import percent, table_of

# Of what a model was trained on, by data.source. Of the user's own files only they can say.
LICENSES = {
    "clinc150": ("cc-by-3.0", "CLINC150 (Larson et al., 2019), CC BY 3.0"),
    "sample": ("apache-2.0", "the corpus embedded in the pipeline, Apache-2.0"),
    "hub": (None, "the dataset's own; **state its licence here**"),
    "files": (None, "the publisher's own; **state its licence here**"),
}
# Of the text of data.outliers, by its file.
OUTLIERS = {
    "stages/data/near_misses/clinc150.yaml": "CC BY 4.0",
    "stages/data/sample/out_of_scope.yaml": "Apache-2.0",
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
    """The card of the model `name`, a copy of which is in `folder`.

    It has the numbers that the report of `p` measured on that very model and on the data in data/, or says
    why there are none.
    """
    rows, without = measured(folder, name, p)
    row = rows.get(name, {})
    source = p.data.source
    labels = model_folder.label_names(folder)
    license, trained_on = LICENSES[source]
    for file in p.data.outliers:
        trained_on += f"; and {file.path}, {OUTLIERS.get(file.path, '**state its licence here**')}"
    library, how = loading(folder)
    if Path("data/labels.json").exists() and sorted(tables.read_labels().names) != sorted(labels):
        license, trained_on = (
            None,
            "other data than data/ has, by its labels; **state it and its licence here**",
        )
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
            if not pd.isna(row.get(key))
        ],
    )
    numbers = table_of(
        ["model", "accuracy", "with the threshold", "size, MB", "speed-up over the teacher"],
        [[key, *_row(rows[key])] for key in rows],
        "Test split; MB of 2^20 bytes; one query on one CPU thread.",
    )
    if without:
        numbers = f"No accuracy and no speed is given here: {without}.\n"
    steps = [f"1. `{step.pop('stage')}`: {json.dumps(step)}" for step in lineage(folder, name, p)]
    return f"""---
{metadata.to_yaml()}
---

# {name}

Names the intent of a short query, one of {len(labels)} labels.

{numbers}
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
    config = json.loads((folder / "config.json").read_text())
    ours = config.get("layer_shapes") or config.get("embedding_rank")
    if (folder / "model.safetensors").exists() and not ours:
        return "transformers", TRANSFORMERS
    return "intent-compressor", ""


def measured(folder: Path, name: str, p: Params) -> tuple[dict[str, dict], str]:
    """The rows of the teacher and the model in the report, or none and why.

    None of another model than the one in `folder`, and none of other data than data/ has.
    """
    file = Path(p.report.folder) / "tables" / "results.csv"
    if not file.exists():
        return {}, f"{file} is not made yet"
    results = evidence.table(file, ("accuracy", "accuracy_calibrated", "size_mb"), optional=("speedup",))
    if name not in results.index:
        return {}, f"{file} has no row {name}"
    row = results.loc[name]
    if any(pd.isna(row.get(key)) for key in ("model_sha256", "data_sha256")):
        return {}, f"{file} does not say on which model and data it was measured"
    if row["model_sha256"] != identity.of_model(folder):
        return {}, f"{file} has those of another model {name}, as by another training or calibration"
    if not Path("data/test.parquet").exists():
        return {}, f"whether {file} is of this data cannot be told without data/test.parquet"
    if row["data_sha256"] != identity.of_data():
        return {}, f"{file} has those of other data than data/ has"
    same = results[results["data_sha256"] == row["data_sha256"]]
    without_threshold = same.get("score", pd.Series("", same.index)).isna()
    same = same.assign(accuracy_calibrated=same["accuracy_calibrated"].mask(without_threshold))
    rows = same.to_dict("index")
    return {key: rows[key] for key in dict.fromkeys(["teacher", name]) if key in rows}, ""


def lineage(folder: Path, name: str, p: Params) -> list[dict]:
    """How the model was made, as far as its recipe and the variants of `p` say."""
    recipe = model_folder.recipe(folder)
    if "lineage" in recipe:
        return [dict(step) for step in recipe["lineage"]]
    if name in ("teacher", *p.variants.models):
        return p.variants.lineage(name)
    return [{"stage": recipe["technique"], "name": name, **recipe["parameters"]}]


def _row(row: dict) -> list[str]:
    accuracies = [percent(row.get(key)) for key in ("accuracy", "accuracy_calibrated")]
    speedup = row.get("speedup")
    return [*accuracies, f"{row['size_mb']:.1f}", "–" if pd.isna(speedup) else f"×{speedup:.1f}"]
