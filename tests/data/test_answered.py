import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.core.errors import UserError
from stages.data import answered
from stages.runtime import Prediction


def predict(texts):
    return [Prediction(f"about {text}", 0.123456) for text in texts]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "q.csv",
            'id,text\n1,"a, ""b"""\n\n2,é\n',
            'id,text,prediction,score\n1,"a, ""b""","about a, ""b""",0.1235\n2,é,about é,0.1235\n',
        ),
        ("q.csv", "text;n\nça;1,50\n", "text;n;prediction;score\nça;1,50;about ça;0.1235\n"),
        ("q.tsv", "n\ttext\n007\t a \n", "n\ttext\tprediction\tscore\n007\t a \tabout a\t0.1235\n"),
        ("q.txt", 'text\n"two\nlines"\n', 'text,prediction,score\n"two\nlines","about two\nlines",0.1235\n'),
        ("q.csv", "text\n", "text,prediction,score\n"),
    ],
)  # fmt: skip
def test_a_csv_keeps_its_columns(tmp_path, name, content, expected):
    source, output = tmp_path / name, tmp_path / "new" / name
    source.write_text("\ufeff" + content, encoding="utf-8", newline="")
    assert answered.write(source, "text", output, predict) == expected.count("about")
    with output.open(encoding="utf-8", newline="") as file:
        assert file.read() == expected
    assert [path.name for path in output.parent.iterdir()] == [name]


def test_a_line_of_json_keeps_its_bytes(tmp_path):
    source, output = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    source.write_text('{"n": 1.10, "q": "नमस्ते", "big": 12345678901234567890}\n\n{"q": "a"}\n', "utf-8")
    assert answered.write(source, "q", output, predict) == 2
    lines = output.read_text("utf-8").splitlines()
    assert lines[0] == (
        '{"n": 1.10, "q": "नमस्ते", "big": 12345678901234567890, "prediction": "about नमस्ते", "score": 0.1235}'
    )
    assert json.loads(lines[1]) == {"q": "a", "prediction": "about a", "score": 0.1235}


def test_parquet_keeps_its_types(tmp_path):
    source, output = tmp_path / "q.parquet", tmp_path / "a.parquet"
    columns = {"when": pd.to_datetime(["2026-01-01", None]), "text": ["a", "مرحبا"], "n": pa.array([1, None])}
    table = pa.table(columns).replace_schema_metadata({"ours": "kept"})
    pq.write_table(table, source)
    assert answered.write(source, "text", output, predict) == 2
    made = pq.read_table(output)
    assert made.select(table.column_names).equals(table)
    assert made.schema.metadata == table.schema.metadata
    assert made["prediction"].to_pylist() == ["about a", "about مرحبا"]
    pq.write_table(table.slice(0, 0), source)
    assert answered.write(source, "text", output, predict) == 0
    assert pq.read_table(output).column_names == ["when", "text", "n", "prediction", "score"]


@pytest.mark.parametrize(
    ("name", "content", "output", "message"),
    [
        ("q.csv", "text\na\n", "q.csv", "is the input, which would be lost: name another file"),
        ("q.csv", "text\na\n", "a.parquet", "a.parquet is not written as .csv"),
        ("q.xlsx", "", "a.xlsx", "q.xlsx is none of .csv, .tsv"),
        (
            "q.csv",
            "query\na\n",
            "a.csv",
            "has no column 'text'; it has 'query': name the column of the queries",
        ),
        ("q.csv", "text,score\na,1\n", "a.csv", "has a column 'score' already: rename or remove it"),
        ("q.csv", "text,n\na,1\n ,2\n", "a.csv", "line 3: the text is empty"),
        ("q.jsonl", '["a"]\n', "a.jsonl", "line 1: not an object with 'text'"),
        ("q.csv", None, "a.csv", "q.csv: No such file or directory"),
    ],
)
def test_what_is_refused(tmp_path, name, content, output, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        answered.write(tmp_path / name, "text", tmp_path / output, predict)
    assert {path.name for path in tmp_path.iterdir()} <= {name}
    assert content is None or (tmp_path / name).read_text() == content


def test_a_fault_leaves_the_old_answers(tmp_path):
    (tmp_path / "q.csv").write_text("text\na\n")
    (tmp_path / "a.csv").write_text("old")

    def fails(texts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answered.write(tmp_path / "q.csv", "text", tmp_path / "a.csv", fails)
    assert (tmp_path / "a.csv").read_text() == "old"
