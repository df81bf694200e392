import shutil

import pandas as pd
import pytest

from stages.data import tables
from stages.measurement import identity


def test_a_model_is_its_weights_config_tokenizer_and_calibration(models):
    folder = models / "student-ort"
    digest = identity.of_model(folder)
    copy = shutil.copytree(folder, models / "copy")
    (copy / "README.md").write_text("a card")
    (copy / "recipe.json").write_text("{}")
    assert identity.of_model(copy) == digest
    (copy / "calibration.json").write_text("{}")
    seen = {digest, identity.of_model(copy)}
    for file in ("model.onnx", "config.json", "tokenizer.json"):
        with (copy / file).open("ab") as opened:
            opened.write(b" ")
        seen.add(identity.of_model(copy))
    assert len(seen) == 5


@pytest.mark.parametrize(
    "change", ["a text", "a label", "the order", "a name", "out of scope", "train", None]
)
def test_data_is_its_labels_and_its_test_split(change, tmp_path):
    table = pd.DataFrame({"text": ["a", "b", "c"], "intent": ["x", "y", "oos"]})
    labels = tables.Labels(["x", "y", "oos"], "oos")
    tables.write(tmp_path / "data", dict.fromkeys(tables.SPLITS, table), labels)
    splits = dict.fromkeys(tables.SPLITS, table)
    if change == "a text":
        splits["test"] = table.assign(text=["a", "b", "d"])
    elif change == "a label":
        splits["test"] = table.assign(intent=["x", "x", "oos"])
    elif change == "the order":
        splits["test"] = table[::-1]
    elif change == "a name":
        labels = tables.Labels(["x", "z", "oos"], "oos")
        splits = {split: rows.replace({"intent": {"y": "z"}}) for split, rows in splits.items()}
    elif change == "out of scope":
        labels = tables.Labels(["x", "y", "oos"], None)
    elif change == "train":
        splits["train"] = table[:1]
    tables.write(tmp_path / "other", splits, labels)
    same = identity.of_data(tmp_path / "data") == identity.of_data(tmp_path / "other")
    assert same == (change in ("train", None))
