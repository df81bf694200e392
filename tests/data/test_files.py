import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from stages.core.errors import UserError
from stages.core.settings import FilesData
from stages.data import files

CONF = yaml.safe_load((Path(__file__).parents[2] / "conf/data/files.yaml").read_text())
TRAIN = [("what's my balance", "balance"), ("send 5 dollars", "transfer"), ("is it raining", "oos")]
VALIDATION = [("how much have i got", "balance"), ("pay her", "transfer"), ("sing", "oos")]
TEST = [("am i broke", "balance"), ("move money", "transfer"), ("who won", "oos")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(path, **changes):
    return files.load(FilesData(**(CONF | {"path": path} | changes)))


def fails(path, **changes):
    with pytest.raises(UserError) as caught:
        load(path, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path, rows, columns=("text", "intent")):
    Path(path).parent.mkdir(exist_ok=True)
    table = pd.DataFrame(rows, columns=list(columns))
    if path.lower().endswith("csv"):
        table.to_csv(path, index=False)
    elif path.endswith("tsv"):
        table.to_csv(path, index=False, sep="\t")
    elif path.endswith("parquet"):
        table.to_parquet(path, index=False)
    else:
        table.to_json(path, orient="records", lines=path.endswith("jsonl"))


def write_splits(kind, train=TRAIN, validation=VALIDATION, test=TEST):
    """The splits as a folder of files of one format, or as CLINC's JSON; the path to load."""
    if kind == "clinc":
        Path("q.json").write_text(json.dumps({"train": train, "val": validation, "test": test}))
        return "q.json"
    for split, rows in (("train", train), ("validation", validation), ("test", test)):
        write(f"q/{split}.{kind}", rows)
    return "q"


def rows(table):
    return list(table.itertuples(index=False, name=None))


def loaded(path, **changes):
    return {split: rows(table) for split, table in load(path, **changes).items()}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet", "clinc"])
def test_given_splits(kind):
    assert loaded(write_splits(kind)) == {"train": TRAIN, "validation": VALIDATION, "test": TEST}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_one_file_is_train(kind):
    write(f"q.{kind}", TRAIN)
    assert loaded(f"q.{kind}") == {"train": TRAIN}


def test_json_with_out_of_scope_lists():
    content = {"train": TRAIN[:2], "val": VALIDATION[:2], "test": TEST[:2]}
    content |= {"oos_train": TRAIN[2:], "oos_val": VALIDATION[2:], "oos_test": TEST[2:]}
    Path("q.json").write_text(json.dumps(content))
    assert loaded("q.json") == {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    assert load("q.json")["train"].index[-1] == "q.json, oos_train, row 1"


@pytest.mark.parametrize("name", ["validation.csv", "val.csv", "valid.csv", "dev.csv", "Dev.CSV"])
def test_names_of_the_validation_file(name):
    write_splits("csv")
    Path("q/validation.csv").rename(f"q/{name}")
    assert loaded("q")["validation"] == VALIDATION


@pytest.mark.parametrize("kind", ["csv", "clinc"])
def test_no_validation(kind):
    path = write_splits(kind)
    if kind == "csv":
        Path("q/validation.csv").unlink()
    else:
        Path(path).write_text(json.dumps({"train": TRAIN, "test": TEST}))
    assert loaded(path) == {"train": TRAIN, "test": TEST}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_file(split):
    write_splits("csv")
    Path(f"q/{split}.csv").unlink()
    assert fails("q").startswith(
        f"q holds no {split} file (.csv, .tsv, .txt, .jsonl, .ndjson, .json, .parquet): add"
    )


def test_two_files_for_a_split():
    write_splits("csv")
    write("q/train.jsonl", TRAIN)
    assert fails("q") == "q has train.csv and train.jsonl for train: keep one"
    Path("q/train.jsonl").unlink()
    write("q/dev.csv", VALIDATION)
    assert fails("q") == "q has dev.csv and validation.csv for validation: keep one"


def test_other_files_of_the_folder_are_named(capsys):
    write_splits("csv")
    write("q/oos.csv", TEST)
    write("q/._train.csv", TEST)
    Path("q/LICENSE").touch()
    assert loaded("q")["train"] == TRAIN
    assert capsys.readouterr().out == "q: oos.csv not read, since the name is no split's\n"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns_of_other_names(kind):
    path = f"q.{kind}"
    write(path, [(i, f"query {i}", "oos") for i in range(5)], columns=["id", "utterance", "label"])
    made = loaded(path, text_column="utterance", intent_column="label")
    assert made == {"train": [(f"query {i}", "oos") for i in range(5)]}
    message = (
        "has no column 'text'; it has 'id', 'utterance', 'label': set data.text_column and data.intent_column"
    )
    assert message in fails(path)
    assert "has no column 'intent'; it has 'id'" in fails(path, text_column="utterance")


def test_files_that_cannot_be_read():
    assert fails("nowhere") == "nowhere does not exist: set data.path to your file or folder"
    Path("q.csv").symlink_to("q.csv")
    assert fails("q.csv") == "q.csv does not exist: set data.path to your file or folder"
    write_splits("csv")
    Path("q/train.csv").unlink()
    Path("q/train.csv").mkdir()
    assert fails("q") == "q/train.csv cannot be read (Is a directory): correct data.path, or the file"
    Path("q.json").mkdir()
    assert fails("q.json").startswith("q.json holds no train file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "{",
            "q.json: not JSON (Expecting property name enclosed in double quotes: column 2 (char 1)): ",
        ),
        (
            "{}",
            "q.json is not in CLINC's layout (it has the keys ): it needs lists of [text, intent] under",
        ),
        ("3", "q.json is no list of objects with 'text' and 'intent': convert it"),
        ('{"train": ["ab"], "test": []}', "q.json, train, row 1: should be [text, intent]"),
        (
            '{"train": [[null, "a"]], "test": []}',
            "q.json, train, row 1: the text is empty, or neither a string nor",
        ),
        (
            '{"train": [], "test": [["a", true]]}',
            "q.json, test, row 1: the intent is empty, or neither a string no",
        ),
    ],
)
def test_bad_json_is_one_line(content, message):
    Path("q.json").write_text(content)
    assert fails("q.json").startswith(message)


def test_numbers_are_labels_in_clincs_layout():
    Path("q.json").write_text('{"train": [["a", 1]], "test": [["b", 1]]}')
    assert loaded("q.json") == {"train": [("a", "1")], "test": [("b", "1")]}
