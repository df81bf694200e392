import json

import pandas as pd
import pytest

from stages.data import tables
from stages.data.tables import Labels

LABELS = Labels(["transfer", "oos", "balance"], "oos")
SPLITS = {
    "train": pd.DataFrame({"text": ["café ☕", 'a,b\n"c"', "nan"], "intent": ["balance", "transfer", "oos"]}),
    "validation": pd.DataFrame({"text": ["v"], "intent": ["oos"]}),
    "test": pd.DataFrame({"text": ["t", "NA"], "intent": ["transfer", "balance"]}),
}


def test_what_is_written_is_read(tmp_path):
    tables.write(tmp_path / "data", SPLITS, LABELS)
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [
        "labels.json",
        "test.parquet",
        "train.parquet",
        "unlabelled.parquet",
        "validation.parquet",
    ]
    assert tables.read_labels(tmp_path / "data") == LABELS
    for split, table in SPLITS.items():
        back = tables.read(split, tmp_path / "data")
        assert list(back.columns) == ["text", "label", *(["weight"] if split == "train" else [])]
        assert back["label"].dtype == "int64"
        assert back["text"].tolist() == table["text"].tolist()
        assert [LABELS.names[label] for label in back["label"]] == table["intent"].tolist()


def test_weights(tmp_path):
    train = SPLITS["train"].assign(weight=[1.0, 4.0, 0.5])
    for tables_, expected in ((SPLITS, [1, 1, 1]), (SPLITS | {"train": train}, [1, 4, 0.5])):
        tables.write(tmp_path / "data", tables_, LABELS)
        weight = tables.read("train", tmp_path / "data")["weight"]
        assert weight.dtype == "float32" and weight.tolist() == expected


def test_labels_in_the_given_order(tmp_path):
    tables.write(tmp_path / "data", SPLITS, LABELS)
    assert tables.read("train", tmp_path / "data")["label"].tolist() == [2, 0, 1]
    assert json.loads((tmp_path / "data/labels.json").read_text()) == {
        "names": ["transfer", "oos", "balance"],
        "out_of_scope": "oos",
    }


@pytest.mark.parametrize(("name", "expected"), [("oos", 1), ("transfer", 0), (None, None)])
def test_out_of_scope_id(name, expected):
    assert Labels(LABELS.names, name).out_of_scope_id == expected


def test_the_same_tables_are_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        tables.write(tmp_path / folder, SPLITS, LABELS)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_failed_write_leaves_the_old(tmp_path):
    tables.write(tmp_path / "data", SPLITS, LABELS)
    before = {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir()}
    with pytest.raises(KeyError):
        tables.write(tmp_path / "data", {"train": SPLITS["train"]}, LABELS)
    assert {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
