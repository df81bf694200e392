"""Which model and which data a number was measured on, as SHA-256."""

import hashlib
import json
from pathlib import Path

from stages.data import tables

NOT_DEPLOYED = ("recipe.json", "README.md")


def of_model(folder: Path) -> str:
    """Of all files in a model folder that decide its answers: weights, config, tokenizer, calibration."""
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.name not in NOT_DEPLOYED:
            with file.open("rb") as opened:
                total.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def of_data(folder: Path | str = "data") -> str:
    """Of the label names and the test split, its texts and labels in their order."""
    test, labels = tables.read("test", folder), tables.read_labels(folder)
    content = [labels.names, labels.out_of_scope, test["text"].tolist(), test["label"].tolist()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
