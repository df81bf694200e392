import json

import pytest

from stages.core.errors import UserError
from stages.reporting import evidence

GOOD = "model,accuracy,speedup\nteacher,0.9,1.0\nsmall,0.8,\n"


def parse(text):
    content = text if isinstance(text, bytes) else text.encode()
    return evidence.parse(content, "a.csv", ["accuracy"], optional=["speedup", "gone"])


def test_what_is_whole():
    table = parse(GOOD)
    assert table["accuracy"].to_dict() == {"teacher": 0.9, "small": 0.8}
    assert table["speedup"].isna().tolist() == [False, True]
    assert parse(GOOD.replace("\n", "\r\n")).equals(table)
    assert parse("model,accuracy\nnan,0.5\n007,0.25\n").index.tolist() == ["nan", "007"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("model,accuracy,speedup\n", "has no rows"),
        (GOOD[:-1], "ends in the middle of a line"),
        (GOOD[:30], "ends in the middle of a line"),
        (GOOD.replace("0.8,\n", "0.8\n"), "has 2 cells in row 3, and 3 columns"),
        (GOOD.replace("0.8,\n", "0.8,,1\n"), "has 4 cells in row 3"),
        (GOOD + "\n", "has 0 cells in row 4"),
        (GOOD.replace("accuracy", "accurcay"), "has no column 'accuracy'"),
        (GOOD.replace("model", "name"), "has no column 'model'"),
        (GOOD.replace("speedup", "accuracy"), "has the column 'accuracy' twice"),
        (GOOD + "small,0.8,\n", "has the row small twice"),
        (GOOD + "small,0.7,2.0\n", "has the row small twice"),
        (GOOD.replace("0.8", "nan"), "in row 3, accuracy is 'nan'"),
        (GOOD.replace("0.8", "inf"), "in row 3, accuracy is 'inf'"),
        (GOOD.replace("0.8", "eighty"), "in row 3, accuracy is 'eighty'"),
        (GOOD.replace("0.8", ""), "in row 3, accuracy is empty"),
        (GOOD.replace("1.0", "-inf"), "in row 2, speedup is '-inf'"),
        (GOOD.replace("teacher", ""), "in row 2, model is empty"),
        (GOOD + "<<<<<<< HEAD\nsmall,0.8\n=======\nsmall,0.7\n>>>>>>> x\n", "merge conflict in line 4"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "is a Git LFS pointer"),
        (GOOD.encode("utf-16"), "is not UTF-8 at byte 0"),
        (b"\x00\x01\x02\n", "has no column 'model'"),
        ('model,accuracy\n"small,0.8\n', "is not a CSV table"),
        (b"\x89PNG\r\n\x1a\n", "is not UTF-8 at byte 0"),
    ],
)  # fmt: skip
def test_what_is_damaged(text, said):
    with pytest.raises(UserError) as error:
        parse(text)
    line = str(error.value)
    assert line.startswith("a.csv ") and said in line and "\n" not in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "is not JSON: NaN"),
        ('{"a": -Infinity}', "is not JSON: -Infinity"),
        ('{"a": 1', "is not JSON"),
        ("[1]", "is not a JSON object"),
        ('{"b": 1}', "has no 'a'"),
        ("", "is empty"),
        ('{\n<<<<<<< HEAD\n"a": 1\n=======\n"a": 2\n>>>>>>> x\n}', "merge conflict in line 2"),
    ],
)
def test_damaged_json(text, said, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError) as error:
        evidence.values(tmp_path / "a.json", ["a"])
    assert str(error.value).startswith(f"{tmp_path}/a.json ") and said in str(error.value)


def test_what_is_not_there(tmp_path):
    for read in (evidence.table, evidence.values):
        with pytest.raises(UserError, match="nothing is missing: make the report with `dvc repro`"):
            read(tmp_path / "nothing", ["a"])
        with pytest.raises(UserError, match="cannot be read: Is a directory"):
            read(tmp_path, ["a"])
    (tmp_path / "a.json").write_text(json.dumps({"a": None, "b": 1}))
    assert evidence.values(tmp_path / "a.json", ["a"]) == {"a": None, "b": 1}
