"""A working directory with a report, and tiny models, data and logits that it was measured on."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from clone import ROOT

from stages import checkpoints, runtime
from stages.core.atomic import write_json
from stages.data import tables
from stages.measurement import identity
from stages.measurement.quality import accuracy, calibration

WORDS = ["balance", "send", "money", "rent", "car", *(f"w{i}" for i in range(20, 40))]
LABELS = tables.Labels(["balance", "oos", "transfer"], "oos")
SHARE = 0.25
REPORT = Path("metrics/sample")


def write(exported: Path, root: Path) -> None:
    """All of it, in the folder `root`; the models are those of `exported` under the names of the report."""
    shutil.copy(ROOT / "params.yaml", root)
    shutil.copytree(ROOT / "metrics/sample/tables", root / REPORT / "tables")
    rng = np.random.default_rng(0)
    splits = {
        split: pd.DataFrame(
            {
                "text": [f"my {' '.join(rng.choice(WORDS, 4))} <b>{i}</b>" for i in range(queries)],
                "intent": rng.choice(LABELS.names, queries),
            }
        )
        for split, queries in (("train", 20), ("validation", 120), ("test", 90))
    }
    tables.write(root / "data", splits, LABELS)
    file = root / REPORT / "tables/results.csv"
    results = pd.read_csv(file, index_col="model")
    results["data_sha256"] = identity.of_data(root / "data")
    results["out_of_scope_share"] = SHARE
    for name in results.index:
        onnx = "-ort" if "ort" in name else ""
        kind = "teacher" if name.startswith("teacher") else "student"
        results.loc[name, ["model_sha256", "accuracy_calibrated"]] = _evaluated(
            exported / f"{kind}{onnx}", root, name
        )
    results.to_csv(file)


def _evaluated(model: Path, root: Path, name: str) -> tuple[str, float]:
    """Write calibrated/<name> and evaluations/<name> as the stage does: the digest, the test accuracy."""
    folder, evaluations = root / "calibrated" / name, root / "evaluations" / name
    shutil.copytree(model, folder)
    evaluations.mkdir(parents=True)
    classifier = runtime.load(model)
    for split in ("validation", "test"):
        logits = classifier.logits(tables.read(split, root / "data")["text"].tolist())
        np.save(evaluations / f"{split}.npy", logits)
    labels = {
        split: tables.read(split, root / "data")["label"].to_numpy() for split in ("validation", "test")
    }
    fitted = calibration.fit(
        np.load(evaluations / "validation.npy"), labels["validation"], 1, ["energy", "probability"], SHARE
    )
    write_json(folder / checkpoints.CALIBRATION, asdict(fitted))
    digest = identity.of_model(folder)
    measured = {"model_sha256": digest, "data_sha256": identity.of_data(root / "data")}
    write_json(evaluations / "measured.json", measured)
    test = accuracy.measure(logits, labels["test"], 1, fitted, SHARE)
    return digest, test["accuracy_calibrated"]
