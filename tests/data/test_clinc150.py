import json
import os
from pathlib import Path

import pandas as pd
import pytest
import yaml

from stages.core.errors import UserError
from stages.core.settings import Clinc150Data
from stages.data import clinc150, tables

ROOT = Path(__file__).parents[2]
CONF = yaml.safe_load((ROOT / "conf/data/clinc150.yaml").read_text()) | {
    "path": str(ROOT / "stages/data/clinc150.json")
}
KNOWN = json.loads(Path(CONF["path"]).read_text())
REAL = Path(os.environ.get("CLINC150_PATH") or ROOT.parent / "shared/clinc150/data_oos_plus.json")
SMALL = {
    "train": [["balance please", "balance"], ["send 5 dollars", "transfer"], ['café, "hi"', "balance"]],
    "oos_train": [["is it raining", "oos"]],
    "val": [["how much have i got", "balance"]],
    "oos_val": [["sing", "oos"]],
    "test": [["move money", "transfer"]],
    "oos_test": [["who won", "oos"]],
}
LABELS = ["transfer", "oos", "balance"]
ADVICE = (
    "get data/data_oos_plus.json of github.com/clinc/oos-eval, and name it in data.local or in the "
    "environment variable CLINC150_PATH"
)

needs_the_real_file = pytest.mark.skipif(
    not REAL.exists(), reason="CLINC150_PATH names no data_oos_plus.json"
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with the small CLINC."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLINC150_PATH", raising=False)
    Path("small.json").write_text(json.dumps(SMALL))
    checksum = clinc150.checksum(clinc150.read_json(Path("small.json")))
    Path("known.json").write_text(json.dumps({"sha256": checksum, "labels": LABELS}))


@pytest.fixture
def as_hub(tmp_path, monkeypatch):
    """Write a local file's splits as a dataset of the hub: parquet, and a card with the label names."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def build(local, labels, config="plus", splits=("train", "validation", "test")):
        hub = tmp_path / "hub"
        (hub / config).mkdir(parents=True)
        for split, table in clinc150.read_json(local).items():
            if split in splits:
                table = table.assign(intent=table["intent"].map(labels.index))
                table.to_parquet(hub / config / f"{split}-00000-of-00001.parquet", index=False)
        features = [
            {"name": "text", "dtype": "string"},
            {
                "name": "intent",
                "dtype": {"class_label": {"names": {str(i): n for i, n in enumerate(labels)}}},
            },
        ]
        files = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
        card = {
            "dataset_info": [{"config_name": config, "features": features}],
            "configs": [{"config_name": config, "data_files": files}],
        }
        (hub / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
        return str(hub)

    return build


def load(**changes):
    return clinc150.load(Clinc150Data(**(CONF | changes)))


def fails(**changes):
    with pytest.raises(UserError) as caught:
        load(**changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(name, splits, labels):
    """The bytes of the data/ folder that the stage makes of it."""
    tables.write(name, splits, tables.Labels(labels, "oos"))
    return {path.name: path.read_bytes() for path in Path(name).iterdir()}


def rows(table):
    return table.to_numpy().tolist()


def test_the_known_labels():
    assert len(KNOWN["labels"]) == len(set(KNOWN["labels"])) == 151
    assert KNOWN["labels"].index("oos") == 42
    assert len(KNOWN["sha256"]) == 64


@needs_the_real_file
def test_the_real_file():
    splits, labels = load(local=str(REAL))
    assert {split: len(table) for split, table in splits.items()} == {
        "train": 15_250,
        "validation": 3_100,
        "test": 5_500,
    }
    assert labels == KNOWN["labels"]
    for table in splits.values():
        assert set(table["intent"]) == set(labels)
    assert [(table["intent"] == "oos").sum() for table in splits.values()] == [250, 100, 1_000]


@needs_the_real_file
def test_the_real_file_and_the_hub_give_the_same_bytes(as_hub):
    local = written("a", *load(local=str(REAL)))
    hub = written("b", *load(hub=as_hub(REAL, KNOWN["labels"])))
    assert local == hub
    assert tables.read("train", "a")["label"].value_counts()[42] == 250


def test_the_file_and_the_hub_give_the_same_bytes(as_hub):
    local, labels = load(path="known.json", local="small.json")
    assert labels == LABELS
    assert rows(local["train"]) == SMALL["train"] + SMALL["oos_train"]
    assert rows(local["validation"]) == SMALL["val"] + SMALL["oos_val"]
    assert rows(local["test"]) == SMALL["test"] + SMALL["oos_test"]
    hub = load(path="known.json", hub=as_hub(Path("small.json"), LABELS))
    assert written("a", local, labels) == written("b", *hub)
    assert tables.read("train", "a")["label"].tolist() == [2, 0, 2, 1]


def test_the_environment_names_the_file(monkeypatch):
    monkeypatch.setenv("CLINC150_PATH", "small.json")
    assert rows(load(path="known.json")[0]["test"]) == SMALL["test"] + SMALL["oos_test"]
    assert fails(path="known.json", local="other.json").startswith("other.json cannot be read")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["train"].reverse(),
        lambda c: c["train"][0].reverse(),
        lambda c: c["val"][0].__setitem__(1, "transfer"),
        lambda c: c["test"].append(["more", "balance"]),
        lambda c: c["oos_val"].clear(),
        lambda c: c.update(val=c["test"], test=c["val"]),
    ],
    ids=["order", "columns", "label", "more", "less", "splits"],
)
def test_a_file_that_differs(change):
    content = json.loads(json.dumps(SMALL))
    change(content)
    Path("small.json").write_text(json.dumps(content))
    assert fails(path="known.json", local="small.json") == (
        f"small.json is not CLINC150 plus as published (checksum differs): {ADVICE}"
    )


def test_a_hub_that_differs(as_hub):
    name = as_hub(Path("small.json"), LABELS)
    Path("known.json").write_text(json.dumps({"sha256": "0" * 64, "labels": LABELS}))
    assert fails(path="known.json", hub=name) == (
        f"the hub's {name!r} is not CLINC150 plus as published (checksum differs): {ADVICE}"
    )


def test_a_hub_with_labels_in_another_order(as_hub):
    name = as_hub(Path("small.json"), sorted(LABELS))
    assert fails(path="known.json", hub=name) == (
        f"the hub's {name!r} names its intents otherwise than CLINC150 plus: {ADVICE}"
    )


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        ({"config": "small"}, "BuilderConfig 'plus' not found"),
        ({"splits": ["train", "validation"]}, "'test'"),
    ],
    ids=["configuration", "split"],
)
def test_a_hub_that_lacks_something(as_hub, build, reason):
    name = as_hub(Path("small.json"), LABELS, **build)
    line = fails(path="known.json", hub=name)
    assert line.startswith(f"cannot load {name!r} from the hub ({reason}")
    assert line.endswith(ADVICE)


def test_a_hub_whose_intents_are_no_class_labels(as_hub):
    name = as_hub(Path("small.json"), LABELS)
    card = Path(name, "README.md")
    card.write_text(card.read_text().replace("class_label", "sequence"))
    assert fails(path="known.json", hub=name).startswith(f"cannot load {name!r} from the hub (")


@pytest.mark.parametrize("hub", ["clinc_oos", "./nowhere", ""])
def test_no_hub(hub):
    """tests/conftest.py keeps the client offline."""
    line = fails(hub=hub)
    assert line.startswith(f"cannot load {hub!r} from the hub (")
    assert line.endswith(f"): connect to it, or {ADVICE}")


@pytest.mark.parametrize(("text", "reason"), [("refused\nby a proxy", "refused"), ("", "OSError")])
def test_an_error_of_the_client_is_one_line(monkeypatch, text, reason):
    def refuse(*args):
        raise OSError(text)

    monkeypatch.setattr("datasets.load_dataset", refuse)
    assert fails() == f"cannot load 'clinc_oos' from the hub ({reason}): connect to it, or {ADVICE}"


@pytest.mark.parametrize(
    ("local", "reason"), [("nowhere.json", "No such file or directory"), (".", "Is a directory")]
)
def test_no_local_file(local, reason):
    assert fails(local=local) == f"{local} cannot be read ({reason}): {ADVICE}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "small.json: not JSON (Expecting property name"),
        (
            "null",
            "small.json is not in CLINC's layout (it has no keys): it needs lists of [text, intent] under",
        ),
        (
            "{}",
            "small.json is not in CLINC's layout (it has the keys ): it needs lists of [text, intent] under",
        ),
        (
            '{"train": [], "val": []}',
            "small.json is not in CLINC's layout (it has the keys 'train', 'val'): it",
        ),
        (
            '{"train": [], "test": [], "dev": []}',
            "small.json is not in CLINC's layout (it has the keys 'train', 't",
        ),
        (
            '{"train": {}, "test": []}',
            "small.json is not in CLINC's layout: train should be a list of [text, inte",
        ),
        (
            '{"train": [["a", "b", "c"]], "val": [], "test": []}',
            "small.json, train, row 1: should be [text, inten",
        ),
        ('{"train": ["ab"], "val": [], "test": []}', "small.json, train, row 1: should be [text, intent]"),
        ('{"train": [], "train": [], "test": []}', "small.json: not JSON (an object has 'train' twice)"),
        (
            '{"train": [["\\ud83d", "a"]], "test": []}',
            "small.json, train, row 1: in the text, half a character, U",
        ),
    ],
)
def test_a_malformed_local_file(content, reason):
    Path("small.json").write_text(content)
    assert fails(path="known.json", local="small.json").startswith(reason)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("nowhere", "FileNotFoundError"), (".", "IsADirectoryError"), ("small.json", "KeyError")],
)
def test_a_path_that_is_not_the_known_labels(path, reason):
    assert fails(path=path, local="small.json") == (
        f"{path} does not give labels and sha256 ({reason}): set data.path to stages/data/clinc150.json"
    )


def test_the_checksum_is_that_of_the_rows():
    table = pd.DataFrame({"text": ["a"], "intent": ["b"]})
    assert clinc150.checksum({"train": table}) != clinc150.checksum({"test": table})
