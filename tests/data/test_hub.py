import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from stages.core.errors import UserError
from stages.core.settings import HubData
from stages.data import hub

CONF = yaml.safe_load((Path(__file__).parents[2] / "conf/data/hub.yaml").read_text())
LABELS = ["transfer", "balance"]
TRAIN = [("send 5 dollars", "transfer"), ("what is my balance", "balance")]
TEST = [("pay her", "transfer")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """Write splits as a dataset in the hub's layout: Parquet, and a card that names the class indices."""

    def write(**splits):
        made = tmp_path / "hub"
        (made / "data").mkdir(parents=True)
        for split, rows in splits.items():
            table = pd.DataFrame(rows, columns=["text", "label"])
            table["label"] = table["label"].map(LABELS.index)
            table.to_parquet(made / f"data/{split}-00000-of-00001.parquet", index=False)
        names = {"class_label": {"names": {str(i): name for i, name in enumerate(LABELS)}}}
        features = [{"name": "text", "dtype": "string"}, {"name": "label", "dtype": names}]
        files = [{"split": split, "path": f"data/{split}-*"} for split in splits]
        card = {
            "dataset_info": {"features": features},
            "configs": [{"config_name": "default", "data_files": files}],
        }
        (made / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
        return str(made)

    return write


def load(name, **changes):
    data = HubData(**(CONF | {"hub": name, "intent_column": "label"} | changes))
    return {split: list(table.itertuples(index=False, name=None)) for split, table in hub.load(data).items()}


def fails(name, **changes):
    with pytest.raises(UserError) as caught:
        load(name, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_dataset_with_class_indices(folder):
    assert load(folder(train=TRAIN, dev=TEST, test=TEST)) == {
        "train": TRAIN,
        "validation": TEST,
        "test": TEST,
    }


def test_splits_that_a_dataset_may_lack(folder, capsys):
    assert load(folder(train=TRAIN, test=TEST, oos=TEST)) == {"train": TRAIN, "test": TEST}
    assert capsys.readouterr().out.endswith("/hub: oos not read, since the name is no split's\n")


def test_train_alone(folder):
    assert load(folder(train=TRAIN)) == {"train": TRAIN}


@pytest.mark.parametrize(
    "splits", [["test"], ["train", "validation"], ["train", "dev", "validation", "test"]]
)
def test_splits_that_do_not_do(folder, splits):
    name = folder(**dict.fromkeys(splits, TRAIN))
    assert f"has the splits {', '.join(splits)}: it needs train and test, and may have" in fails(name)


def test_files_of_a_dataset_without_a_card(tmp_path):
    for split, rows in (("train", TRAIN), ("test", TEST)):
        lines = [json.dumps({"text": text, "label": intent}) for text, intent in rows]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    assert load(str(tmp_path)) == {"train": TRAIN, "test": TEST}


def test_rows_that_merge_in_a_csv_of_a_dataset(tmp_path):
    lines = [f"query {i},{LABELS[i % 2]}" for i in range(20)]
    lines[3], lines[8] = '"first,balance', 'last",transfer'
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *lines]))
    assert "(train), row 4: the text that begins here has a line 'first,balance', which" in fails(
        str(tmp_path)
    )


def test_a_label_that_is_missing(folder):
    name = folder(train=TRAIN, test=TEST)
    pd.DataFrame({"text": ["a"], "label": [-1]}).to_parquet(f"{name}/data/test-00000-of-00001.parquet")
    assert "(test), row 1: the intent is empty" in fails(name)


def test_a_column_that_is_missing(folder):
    line = fails(folder(train=TRAIN), intent_column="intent")
    assert line.endswith(
        "(train) has no column 'intent'; it has 'text', 'label': set data.text_column and data.intent_column"
    )


@pytest.mark.parametrize("changes", [{}, {"config": "other"}, {"revision": "v2"}])
def test_no_hub(changes):
    """tests/conftest.py keeps the client offline."""
    line = fails("no/such-dataset", **changes)
    assert line.startswith("cannot load 'no/such-dataset' (")
    assert line.endswith("): connect to the hub, or correct data.hub and data.config")


def test_a_path_that_hub_does_not_name():
    with pytest.raises(
        ValueError, match=r"path is 'q.parquet': should be stages/data/hub.py, or the folder that"
    ):
        load("no/such-dataset", path="q.parquet")


def test_a_configuration_that_is_missing(folder):
    assert fails(folder(train=TRAIN), config="other").endswith("or correct data.hub and data.config")
