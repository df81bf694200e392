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


def load(path, seed=0, **changes):
    return files.load(FilesData(**(CONF | {"path": path} | changes)), seed)


def fails(path, **changes):
    with pytest.raises(UserError) as caught:
        load(path, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path, rows, columns=("text", "intent")):
    Path(path).parent.mkdir(exist_ok=True)
    table = pd.DataFrame(rows, columns=list(columns))
    if path.endswith(".csv"):
        table.to_csv(path, index=False)
    else:
        table.to_json(path, orient="records", lines=True)


def write_splits(kind, train=TRAIN, validation=VALIDATION, test=TEST):
    """The splits as a folder of CSV or JSONL, or as CLINC's JSON; the path to load."""
    if kind == "json":
        Path("q.json").write_text(json.dumps({"train": train, "val": validation, "test": test}))
        return "q.json"
    for split, rows in (("train", train), ("validation", validation), ("test", test)):
        write(f"q/{split}.{kind}", rows)
    return "q"


def rows(table):
    return list(table.itertuples(index=False, name=None))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_given_splits(kind):
    tables = load(write_splits(kind))
    assert rows(tables["train"]) == TRAIN
    assert rows(tables["validation"]) == VALIDATION
    assert rows(tables["test"]) == TEST


def test_json_with_out_of_scope_lists():
    content = {"train": TRAIN[:2], "val": VALIDATION[:2], "test": TEST[:2]}
    content |= {"oos_train": TRAIN[2:], "oos_val": VALIDATION[2:], "oos_test": TEST[2:]}
    Path("q.json").write_text(json.dumps(content))
    assert {split: rows(table) for split, table in load("q.json").items()} == {
        "train": TRAIN,
        "validation": VALIDATION,
        "test": TEST,
    }


@pytest.mark.parametrize("stem", ["validation", "val", "valid", "dev"])
def test_names_of_the_validation_file(stem):
    write_splits("csv")
    Path("q/validation.csv").rename(f"q/{stem}.csv")
    assert rows(load("q")["validation"]) == VALIDATION


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_missing_split_file(split):
    write_splits("csv")
    Path(f"q/{split}.csv").unlink()
    assert fails("q").startswith(f"q holds no {split}.csv or {split}.jsonl: add it, or set data.path")


@pytest.mark.parametrize("path", ["q.csv", "q.jsonl"])
def test_a_single_file_is_split_by_seed(path):
    made = [(f"{intent} {i}", intent) for intent, n in (("balance", 40), ("oos", 10)) for i in range(n)]
    write(path, made)
    first, again, other = load(path), load(path), load(path, seed=1)
    counts = {split: table["intent"].value_counts().to_dict() for split, table in first.items()}
    assert counts == {
        "train": {"balance": 28, "oos": 7},
        "validation": {"balance": 4, "oos": 1},
        "test": {"balance": 8, "oos": 2},
    }
    assert sorted(row for table in first.values() for row in rows(table)) == sorted(made)
    for split in first:
        pd.testing.assert_frame_equal(first[split], again[split])
        assert rows(first[split]) != rows(other[split])


def test_a_single_file_has_each_text_once():
    made = [(f"{intent} {i}", intent) for intent in ("balance", "oos") for i in range(10)]
    write("q.csv", [*made, *made, (" balance 1 ", "balance"), ("balance 2", "balance ")])
    assert sorted(row for table in load("q.csv").values() for row in rows(table)) == sorted(made)


def test_a_single_file_with_too_few_queries_of_an_intent():
    write("q.csv", [*TRAIN, ("a", "rare"), ("b", "rare"), ("b", "rare")])
    assert fails("q.csv").startswith("intent 'balance' has 1 distinct queries, and a split needs 3 at least")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_a_text_with_two_intents(kind):
    path = write_splits(kind, train=[*TRAIN, ("send 5 dollars", "balance"), TRAIN[0]])
    where = "q.json (train)" if kind == "json" else f"q/train.{kind}"
    assert fails(path) == (
        f"{where}: 1 texts have more than one intent, the first is 'send 5 dollars': "
        "keep one of each, or set data.duplicates=drop"
    )
    assert rows(load(path, duplicates="drop")["train"]) == TRAIN


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_a_text_in_two_splits(kind):
    path = write_splits(
        kind, train=[*TRAIN, TEST[0], (" pay her", "transfer")], validation=[*VALIDATION, TEST[1]]
    )
    assert fails(path) == (
        "1 texts of validation stand in another split too, the first is 'move money': "
        "remove them, or set data.duplicates=drop"
    )
    tables = load(path, duplicates="drop")
    assert (rows(tables["train"]), rows(tables["validation"]), rows(tables["test"])) == (
        TRAIN,
        VALIDATION,
        TEST,
    )


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_columns_of_other_names(suffix):
    path = f"q.{suffix}"
    made = [(i, f"query {i}", "oos") for i in range(5)]
    write(path, made, columns=["id", "utterance", "label"])
    tables = load(path, text_column="utterance", intent_column="label")
    assert sorted(row for table in tables.values() for row in rows(table)) == [row[1:] for row in made]
    advice = "set data.text_column and data.intent_column"
    assert fails(path) == f"{path} has no column 'text'; it has 'id', 'utterance', 'label': {advice}"
    assert fails(path, text_column="utterance") == (
        f"{path} has no column 'intent'; it has 'id', 'utterance', 'label': {advice}"
    )


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(
    "texts",
    [
        ["NA", "nan", "null", "None"],
        ["007", "12", "1.0", "1e5"],
        ["2020-01-01", "2020-01-02", "2020-01-03"],
        ["true", "false", "True"],
        ["a,b", 'say "hi"', "café", "two\nlines"],
    ],
)
def test_text_is_kept_as_text(suffix, texts):
    write(f"q.{suffix}", [(text, "NA") for text in texts], columns=["date", "nan"])
    tables = load(f"q.{suffix}", text_column="date", intent_column="nan")
    assert sorted(row for table in tables.values() for row in rows(table)) == sorted((t, "NA") for t in texts)


@pytest.mark.parametrize("path", ["q.csv", "q.jsonl"])
def test_a_byte_order_mark_is_skipped(path):
    write(path, [(f"query {i}", "oos") for i in range(5)])
    Path(path).write_bytes(b"\xef\xbb\xbf" + Path(path).read_bytes())
    assert sum(len(table) for table in load(path).values()) == 5


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        # rows
        ("q.csv", "a,oos\n  ,oos\n,oos", "q.csv: 2 rows have an empty text or one that is not a string, the"),
        ("q.csv", "a,oos\n  ,oos", "the first at row 2: fill them or remove them"),
        ("q.csv", "a,oos\nb,", "q.csv: 1 rows have an empty intent"),
        ("q.csv", "a,oos\nb", "q.csv: 1 rows have an empty intent"),
        (
            "q.jsonl",
            '{"text": "a", "intent": "b"}\n{"text": null, "intent": "b"}',
            "text or one that is not a",
        ),
        ("q.jsonl", '{"text": "a", "intent": "b"}\n{"intent": "b"}', "text or one that is not a string"),
        ("q.jsonl", '{"text": 12, "intent": "b"}', "q.jsonl: 1 rows have an empty text or one that is not"),
        ("q.jsonl", '{"text": "a", "intent": 3}', "q.jsonl: 1 rows have an empty intent or one that is not"),
        ("q.json", '{"train": [[null, "a"]], "val": [], "test": []}', "q.json (train): 1 rows have an empty"),
        ("q.json", '{"train": [], "val": [], "test": [["a", 3]]}', "q.json (test): 1 rows have an empty"),
        # layout
        ("q.csv", "a,oos\nb,c,oos", "q.csv cannot be read: Error tokenizing data."),
        ("q.csv", '"a,oos', "q.csv cannot be read: Error tokenizing data."),
        (
            "q.csv",
            "well, a,oos",
            "q.csv cannot be read: rows are longer than the header: quote texts that hold",
        ),
        ("q.jsonl", '{"text": "a", "intent": "b"}\n{"text": ', "q.jsonl cannot be read: Expected object"),
        ("q.jsonl", "", "q.jsonl has no column 'text'; it has none: set data.text_column"),
        ("q.jsonl", "[1, 2]", "q.jsonl has no column 'text'; it has 0, 1: set data.text_column"),
        ("q.json", "{", "q.json is not in CLINC's layout (JSONDecodeError: "),
        ("q.json", "{}", "(KeyError: 'train'): it needs lists of [text, intent] under train, val and test"),
        ("q.json", "[]", "q.json is not in CLINC's layout (TypeError: "),
        ("q.json", '{"train": ["a"], "val": [], "test": []}', "not in CLINC's layout (ValueError: "),
        ("q.json", '{"train": {}, "val": [], "test": []}', "not in CLINC's layout (TypeError: "),
        ("q.txt", "", "q.txt is none of .csv, .jsonl and .json (CLINC's layout): convert it"),
        ("q", "", "q is none of .csv, .jsonl and .json (CLINC's layout): convert it"),
    ],
)
def test_a_bad_file_is_one_line(path, content, message):
    Path(path).write_text(f"text,intent\n{content}\n" if path == "q.csv" else content)
    assert message in fails(path)


def test_an_empty_csv():
    Path("q.csv").touch()
    assert fails("q.csv") == "q.csv cannot be read: No columns to parse from file"


@pytest.mark.parametrize("path", ["q.csv", "q.jsonl", "q.json"])
def test_a_file_that_is_not_utf_8(path):
    Path(path).write_bytes("text,intent\ncafé,oos\n".encode("latin-1"))
    assert fails(path).startswith(f"{path} ")
    assert "'utf-8' codec can't decode byte 0xe9" in fails(path)


@pytest.mark.parametrize("path", ["q.csv", "q.json", "nowhere"])
def test_a_missing_file(path):
    assert fails(path) == f"{path} does not exist: set data.path to your file or folder"
