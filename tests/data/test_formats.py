import codecs
import csv
import io
import json
import re
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.core.errors import UserError
from stages.data import formats

QUERIES = [("what's my balance", "balance"), ("send 5 dollars, please", "transfer"), ("café ☕ 😀", "oos")]


def read(name, content, text_column="text", intent_column="intent"):
    """The rows of a file with this name and content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        try:
            table = formats.read(path, text_column, intent_column)
        except UserError as error:
            raise UserError(str(error).replace(f"{folder}/", "")) from None
    return [tuple(row) for row in table.to_numpy().tolist()]


def fails(name, content, **columns):
    with pytest.raises(UserError) as caught:
        read(name, content, **columns)
    line = str(caught.value)
    assert "\n" not in line and "\r" not in line
    return line


def parquet(*arrays, names=("text", "intent"), metadata=None):
    file = io.BytesIO()
    pq.write_table(pa.table(list(arrays), names=list(names), metadata=metadata), file)
    return file.getvalue()


def delimited(rows, **dialect):
    file = io.StringIO(newline="")
    csv.writer(file, **dialect).writerows([("text", "intent"), *rows])
    return file.getvalue()


@pytest.mark.parametrize("name", ["q.csv", "q.CSV", "q.tsv", "q.txt"])
@pytest.mark.parametrize("delimiter", ",;\t|")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_dialects(name, delimiter, encoding):
    content = delimited(QUERIES, delimiter=delimiter)
    assert read(name, content.encode(encoding)) == QUERIES


def test_big_endian_utf_16():
    assert read("q.csv", codecs.BOM_UTF16_BE + delimited(QUERIES).encode("utf-16-be")) == QUERIES


def test_the_line_by_which_excel_names_the_delimiter():
    assert read("q.csv", "sep=;\r\n" + delimited(QUERIES, delimiter=";")) == QUERIES
    assert fails("q.csv", "sep=;\ntext;intent\na;b;c\n").startswith(
        "q.csv, line 3: 3 fields where the header"
    )


def test_a_delimiter_in_a_text_and_columns_in_any_order():
    assert read("q.csv", "id; intent ; text\n1;a; one, two\n2;b;three") == [
        (" one, two", "a"),
        ("three", "b"),
    ]


@pytest.mark.parametrize("name", ["q.jsonl", "q.JSONL", "q.ndjson", "q.json"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ascii", [True, False])
def test_json(name, encoding, ascii):
    values = [{"id": i, "text": text, "intent": intent} for i, (text, intent) in enumerate(QUERIES)]
    lines = [json.dumps(value, ensure_ascii=ascii) for value in values]
    content = f"[{', '.join(lines)}]" if name == "q.json" else "\r\n".join(lines)
    assert read(name, content.encode(encoding)) == QUERIES


def test_parquet():
    texts, intents = zip(*QUERIES, strict=True)
    assert read("q.parquet", parquet(texts, intents)) == QUERIES
    assert read(
        "q.PARQUET", parquet(pa.array(texts, pa.large_string()), pa.array(intents).dictionary_encode())
    )
    assert read("q.parquet", parquet([text.encode() for text in texts], intents)) == QUERIES


def test_class_indices_become_their_names():
    features = {"intent": {"names": ["balance", "oos"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    assert read("q.parquet", parquet(["a", "b"], [1, 0], metadata=metadata)) == [
        ("a", "oos"),
        ("b", "balance"),
    ]
    for index in (-1, 2, None):
        line = fails("q.parquet", parquet(["a", "b"], [1, index], metadata=metadata))
        assert line.startswith("q.parquet, row 2: the intent is empty")


@pytest.mark.parametrize("labels", [["1", "0"], ["10", "-3"], ["1.50", "2e3"]])
def test_numbers_are_labels_as_they_are_written(labels):
    expected = [("a", labels[0]), ("b", labels[1])]
    lines = [f'{{"text": "{text}", "intent": {label}}}' for text, label in expected]
    assert read("q.csv", delimited(expected)) == expected
    assert read("q.jsonl", "\n".join(lines)) == expected
    assert read("q.json", f"[{','.join(lines)}]") == expected


def test_whole_numbers_of_parquet():
    assert read("q.parquet", parquet(["a", "b"], [1, 0])) == [("a", "1"), ("b", "0")]


@pytest.mark.parametrize("value", ["true", "null", "[1]", "{}", '""', '" "'])
def test_what_is_no_label(value):
    assert fails("q.jsonl", f'{{"text": "a", "intent": "b"}}\n{{"text": "a", "intent": {value}}}') == (
        "q.jsonl, line 2: the intent is empty, or neither a string nor a number; 1 of 2 rows are so: fill "
        "them or remove them"
    )


@pytest.mark.parametrize(
    "texts", [["NA", "nan", "null", "None"], ["007", "12", "1e5"], ["2020-01-01"], ["true"]]
)
def test_text_is_kept_as_text(texts):
    expected = [(text, "NA") for text in texts]
    assert read("q.csv", delimited(expected)) == expected
    assert read("q.jsonl", "\n".join(json.dumps({"text": t, "intent": i}) for t, i in expected)) == expected
    assert read("q.parquet", parquet(*zip(*expected, strict=True))) == expected


ROWS = [f"query {i},{intent}" for i, intent in enumerate(["greet", "bye", "thanks"] * 12)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # Two texts that begin with a quote: what is between them would be one text.
        (
            {4: '"hello,greet', 18: '"later,bye'},
            "line 6: the row that begins here is broken (',' expected after",
        ),
        ({4: '"hello,greet'}, "line 6: the row that begins here is broken (unexpected end of data)"),
        (
            {4: '"hello,greet', 18: 'later",bye'},
            "line 6: the text that begins here has a line 'hello,greet', which",
        ),
        ({4: 'hello,"greet', 18: 'later,bye"'}, "line 6: the intent 'greet\\n"),
        ({4: '"hello" there,greet'}, "line 6: the row that begins here is broken (',' expected after '\"')"),
        (
            {4: "hello, there,greet"},
            "line 6: 3 fields where the header has 2: quote a text that holds a comma",
        ),
        ({4: "hello"}, "line 6: 1 fields where the header has 2"),
        ({4: "text,intent"}, "line 6: the header stands here again: remove the line"),
        ({4: "<<<<<<< HEAD"}, "line 6: 1 fields where the header has 2"),
    ],
)
def test_rows_that_would_vanish_or_merge(changes, message):
    lines = [changes.get(i, row) for i, row in enumerate(ROWS)]
    assert fails("q.csv", "\n".join(["text,intent", *lines])).startswith(f"q.csv, {message}")


def test_rows_that_merge_where_the_intent_comes_first():
    lines = [",".join(reversed(row.split(","))) for row in ROWS]
    lines[4], lines[9] = 'greet,"hello', 'bye,later"'
    assert "line 6: the text that begins here has a line" in fails(
        "q.csv", "\n".join(["intent,text", *lines])
    )


def test_a_text_of_several_lines():
    expected = [("two\nlines, one text", "greet"), ('"quoted"', "bye"), ('6" pipe', "bye")]
    assert read("q.csv", delimited(expected)) == expected
    assert read("q.csv", 'text,intent\n6" pipe,bye\n\n  \n7,bye\n') == [('6" pipe', "bye"), ("7", "bye")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "q.csv",
            b"text,intent\na,b\ncaf\xe9,b",
            "q.csv, line 3: byte 20 of the file, 0xe9, is not UTF-8: save",
        ),
        ("q.csv", b"text,intent\n\xed\xa0\xbd,b", "q.csv, line 2: byte 13 of the file, 0xed, is not UTF-8"),
        ("q.jsonl", b'\n{"text": "caf\xe9"}', "q.jsonl, line 2: byte 15 of the file, 0xe9, is not UTF-8"),
        ("q.json", b"\xff", "q.json, line 1: byte 1 of the file, 0xff, is not UTF-8"),
        ("q.csv", b"\xff\xfea\0\n\0\x3d\xd8a\0", "q.csv, line 2: byte 7 of the file, 0x3d, is not UTF-16-LE"),
        (
            "q.csv",
            "text,intent\n".encode("utf-16-le"),
            "q.csv, line 1: a NUL, as in UTF-16 without a byte order",
        ),
        (
            "q.jsonl",
            '{"text": "a", "intent": "b"}\n{"text": "yes é\\ud83d", "intent": "b"}',
            "q.jsonl, line 2: in the text, half a character, U+D83D, is at byte 7: correct it",
        ),
        (
            "q.json",
            '[{"text": "a", "intent": "\\udd00"}]',
            "q.json, row 1: in the intent, half a character, U+DD00, is at byte 1: correct it",
        ),
        (
            "q.parquet",
            parquet(["a", "b"], [b"b", b"caf\xe9"]),
            "q.parquet, row 2: in the intent, byte 4, 0xe9, is not UTF-8: correct it",
        ),
    ],
)
def test_characters_that_are_broken(name, content, message):
    assert fails(name, content).startswith(message)


def test_a_string_of_parquet_that_is_not_utf_8():
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xe9"))
    assert fails("q.parquet", parquet(broken, ["x", "x"])).startswith(
        "q.parquet, row 2: in the text, byte 1, 0xe9"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", "", "q.csv is empty: it needs a header with 'text' and 'intent'"),
        ("q.csv", "\n \n", "q.csv is empty"),
        (
            "q.csv",
            "a,b\nc,d",
            "q.csv has no column 'text'; it has 'a', 'b': set data.text_column and data.intent",
        ),
        (
            "q.csv",
            "text;query\nc;d",
            "q.csv has no column 'intent'; it has 'text', 'query': set data.text_column",
        ),
        ("q.csv", "text,intent,text\n", "q.csv has the column 'text' 2 times: rename one"),
        (
            "q.csv",
            "text,intent\na,b\n ,b\n,b",
            "q.csv, line 3: the text is empty, or neither a string nor a numb",
        ),
        (
            "q.jsonl",
            '{"text": "a"}',
            "q.jsonl, line 1 has no column 'intent'; it has 'text': set data.text_column",
        ),
        (
            "q.jsonl",
            '{"text": "a", ',
            "q.jsonl, line 1: not JSON (Expecting property name enclosed in double qu",
        ),
        ("q.jsonl", "[1, 2]", "q.jsonl, line 1: not an object with 'text' and 'intent': correct it"),
        (
            "q.jsonl",
            '{"text": "a", "text": "b", "intent": "c"}',
            "q.jsonl, line 1: not JSON (an object has 'text' t",
        ),
        (
            "q.jsonl",
            '{"text": "a", "intent": NaN}',
            "q.jsonl, line 1: not JSON (NaN is not JSON): correct it",
        ),
        ("q.json", "[" * 100_000, "q.json: not JSON (maximum recursion depth exceeded"),
        (
            "q.json",
            "{}\n{}",
            "q.json: not JSON (Extra data: line 2 column 1 (char 3)): correct it, or name it .jso",
        ),
        ("q.json", "{}", "q.json is no list of objects with 'text' and 'intent': convert it"),
        ("q.parquet", "PAR1", "q.parquet is not whole Parquet ("),
        (
            "q.parquet",
            parquet(["a"], ["b"], names=("text", "label")),
            "q.parquet has no column 'intent'; it has 't",
        ),
        ("q.parquet", parquet(["a", None], ["b", "c"]), "q.parquet, row 2: the text is empty"),
        ("q.parquet", parquet(["a"], [float("nan")]), "q.parquet, row 1: the intent is empty"),
        ("q.xlsx", "PK", "q.xlsx is none of .csv, .tsv, .txt, .jsonl, .ndjson, .json, .parquet: convert it"),
        ("q", "", "q is none of .csv"),
    ],
)
def test_a_bad_file_is_one_line(name, content, message):
    assert fails(name, content).startswith(message)


# Whatever a file holds, it is read rightly or refused in one line.

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12).filter(
    str.strip
)
TRICKY = st.text("\",;\t|\r\n ab'é", min_size=1, max_size=60)


def read_or_refuse(name, content):
    """The rows, or None if they are refused, in one line that names the file."""
    try:
        return read(name, content)
    except UserError as error:
        assert str(error).startswith(name) and len(str(error).splitlines()) == 1
        return None


@settings(database=None, deadline=None)
@given(
    rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5),
    delimiter=st.sampled_from(",;\t|"),
    style=st.sampled_from([(csv.QUOTE_ALL, "\n"), (csv.QUOTE_ALL, "\r"), (csv.QUOTE_MINIMAL, "\r\n")]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_csv_writes_is_read(rows, delimiter, style, encoding):
    quoting, line_end = style
    content = delimited(rows, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
    made = read_or_refuse("q.csv", content.encode(encoding))
    assert made is None or made == [(text, intent.strip()) for text, intent in rows]
    if not any(re.search("[\r\n]", text + intent) for text, intent in rows):
        assert made is not None


@settings(database=None, deadline=None, max_examples=500)
@example('"hello,a\nb",b\n')
@example('a,"b\na,b"\n')
@example('a,"\nb,c\n"\n')
@given(TRICKY)
def test_no_row_of_a_csv_is_lost_or_merged_in_silence(body):
    made = read_or_refuse("q.csv", "text,intent\n" + body)
    if made is None:
        return
    letters = re.sub(r'[",\s]', "", body)
    assert re.sub(r'[",\s]', "", "".join(text + intent for text, intent in made)) == letters
    if not any(re.search("[\r\n]", text) for text, _ in made):  # which would be counted
        assert len(made) == len([line for line in re.split("[\r\n]", body) if line.strip(' "\t')])


@settings(database=None, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), st.booleans())
def test_what_json_writes_is_read(rows, ascii):
    lines = [json.dumps({"text": text, "intent": intent}, ensure_ascii=ascii) for text, intent in rows]
    expected = [(text, intent.strip()) for text, intent in rows]
    for name, content in (("q.jsonl", "\n".join(lines)), ("q.json", f"[{','.join(lines)}]")):
        made = read_or_refuse(name, content)
        assert made is None or made == expected
        if not any(re.search("[\r\n]", text + intent) for text, intent in rows):
            assert made is not None


@settings(database=None, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(st.characters(), max_size=8), st.text(st.characters(), max_size=8)), min_size=1
    )
)
def test_half_characters_and_empty_strings_are_refused(rows):
    content = "\n".join(json.dumps({"text": text, "intent": intent}) for text, intent in rows)
    made = read_or_refuse("q.jsonl", content)
    if any("\ud800" <= c <= "\udfff" for row in json.loads(json.dumps(rows)) for value in row for c in value):
        assert made is None
    if any(not value.strip() for row in rows for value in row):
        assert made is None


@settings(database=None, deadline=None, max_examples=300)
@given(
    st.sampled_from(["q.csv", "q.tsv", "q.jsonl", "q.json", "q.parquet"]),
    st.sampled_from([b"", b"text,intent\n", b'{"text": "', b'[{"text": "', codecs.BOM_UTF16_LE, b"PAR1"]),
    st.binary(max_size=60),
)
def test_any_bytes(name, start, content):
    made = read_or_refuse(name, start + content)
    assert made is None or all(text.strip() and intent.strip() for text, intent in made)


@settings(database=None, deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=4)), max_size=3))
def test_damaged_parquet(damages):
    content = bytearray(parquet(*zip(*QUERIES, strict=True)))
    for place, bytes_ in damages:
        place %= len(content)
        content[place : place + len(bytes_)] = bytes_
    made = read_or_refuse("q.parquet", bytes(content))
    assert made is None or isinstance(made, list)


@settings(database=None, deadline=None)
@given(st.lists(st.binary(max_size=6), min_size=1, max_size=4))
def test_bytes_in_parquet(values):
    made = read_or_refuse("q.parquet", parquet(values, ["x"] * len(values)))
    try:
        expected = [(value.decode(), "x") for value in values]
    except UnicodeDecodeError:
        expected = None
    if made is not None:
        assert made == expected
    elif expected is not None:
        assert any(not text.strip() or re.search("[\r\n]", text) for text, _ in expected)


def test_the_index_says_where_each_row_stands(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text('text,intent\n"a\nb",x\n\nc,y\n')
    assert formats.read(path, "text", "intent").index.tolist() == [f"{path}, line 2", f"{path}, line 5"]
    pd.DataFrame({"text": ["a"], "intent": ["b"]}).to_parquet(tmp_path / "q.parquet")
    assert (
        formats.read(tmp_path / "q.parquet", "text", "intent").index[0] == f"{tmp_path / 'q.parquet'}, row 1"
    )
