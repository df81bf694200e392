"""A file of queries as people have it: CSV and its dialects, JSON, JSON lines, Parquet."""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stages.core.errors import UserError

DELIMITED = (".csv", ".tsv", ".txt")
JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (*DELIMITED, *JSON_LINES, ".json", ".parquet")
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
# UTF-32's mark begins with UTF-16's.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
SETTINGS = "set data.text_column and data.intent_column"
LINE_BREAK = re.compile("[\r\n]")

Row = tuple[str, object, object]  # place, text, intent


def read(path: Path, text_column: str, intent_column: str) -> pd.DataFrame:
    """The queries of a file, columns `text` and `intent`; the index says where each row stands.

    A UserError names the file, and the line or row, of what is no query. An unreadable file is an OSError.
    """
    columns = (text_column, intent_column)
    suffix = path.suffix.lower()
    if suffix in DELIMITED:
        names, _, rows = delimited(path, columns)
        at = [names.index(column) for column in columns]
        return table((place, row[at[0]], row[at[1]]) for place, row in rows)
    if suffix in JSON_LINES:
        return table(_json_lines(path, columns))
    if suffix == ".json":
        return records(read_json(path), path, *columns)
    if suffix == ".parquet":
        return _parquet(path, columns)
    raise UserError(f"{path} is none of {', '.join(SUFFIXES)}: convert it")


def table(rows: Iterable[Row]) -> pd.DataFrame:
    """Columns `text` and `intent` of (place, text, intent), the places as the index.

    A number is taken as it is written; bytes are UTF-8. A UserError names the first row whose text or intent
    is empty or of another type, has half a character, or looks like several rows in one.
    """
    rows = list(rows)
    places = [place for place, _, _ in rows]
    texts = strings([text for _, text, _ in rows], "text", places)
    intents = strings([intent for _, _, intent in rows], "intent", places)
    known = {intent.strip() for intent in intents}
    for place, text, intent in zip(places, texts, intents, strict=True):
        if LINE_BREAK.search(intent):
            raise UserError(
                f"{place}: the intent {intent[:60]!r} has a line break: remove it, or close the quote"
            )
        if LINE_BREAK.search(text):
            for line in text.splitlines():
                if _holds_an_intent(line, known):
                    raise UserError(
                        f"{place}: the text that begins here has a line {line[:60]!r}, which looks like a "
                        "row: close the quote before it, or remove the line"
                    )
    intents = [intent.strip() for intent in intents]
    return pd.DataFrame({"text": texts, "intent": intents}, index=pd.Index(places, dtype=object))


def records(values: object, path: Path, text_column: str, intent_column: str) -> pd.DataFrame:
    """The queries of a list of objects, which was read from the JSON file `path`."""
    if not isinstance(values, list):
        raise UserError(
            f"{path} is no list of objects with {text_column!r} and {intent_column!r}: convert it"
        )
    places = [f"{path}, row {i}" for i in range(1, len(values) + 1)]
    columns = (text_column, intent_column)
    return table(
        (place, *_fields(value, columns, place)) for place, value in zip(places, values, strict=True)
    )


def arrow(
    content: pa.Table, text_column: str, intent_column: str, where: str, names: list[str] | None
) -> pd.DataFrame:
    """The queries of an Arrow table; with `names`, its intents are indices of these."""
    columns = (text_column, intent_column)
    check_columns(content.column_names, columns, where)
    texts, intents = (python_values(content.column(column)) for column in columns)
    if names is not None:
        intents = [names[i] if i is not None and 0 <= i < len(names) else None for i in intents]
    places = [f"{where}, row {i}" for i in range(1, len(texts) + 1)]
    return table(zip(places, texts, intents, strict=True))


def decode(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark."""
    content = path.read_bytes()
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, "replace").count("\n") + 1
        raise UserError(
            f"{path}, line {line}: byte {error.start + 1} of the file, 0x{content[error.start]:02x}, is not "
            f"{encoding.upper()}: save the file as UTF-8"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(
            f"{path}, line {line}: a NUL, as in UTF-16 without a byte order mark: save it as UTF-8"
        )
    return text.removeprefix("\ufeff")


def read_json(path: Path):
    """A JSON file's value, each number as it is written; an object with a key twice is a UserError."""
    return parse(decode(path), str(path))


def _no_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, object]]) -> dict:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"an object has {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return made


def parse(text: str, place: str):
    """The value of JSON, as `read_json` has it."""
    try:
        return json.loads(
            text, parse_int=str, parse_float=str, parse_constant=_no_constant, object_pairs_hook=_object
        )
    except (ValueError, RecursionError) as error:
        reason = str(error).replace("line 1 column", "column")
        advice = ", or name it .jsonl if it has an object a line" if "Extra data: line" in reason else ""
        raise UserError(f"{place}: not JSON ({reason}): correct it{advice}") from None


def _json_lines(path: Path, columns: tuple[str, str]) -> Iterator[Row]:
    for number, line in enumerate(io.StringIO(decode(path), newline=None), 1):
        if line.strip():
            place = f"{path}, line {number}"
            yield place, *_fields(parse(line, place), columns, place)


def _fields(record: object, columns: tuple[str, str], place: str) -> tuple[object, object]:
    if not isinstance(record, dict):
        raise UserError(f"{place}: not an object with {columns[0]!r} and {columns[1]!r}: correct it")
    check_columns(list(record), columns, place)
    return record[columns[0]], record[columns[1]]


def check_columns(names: list[str], columns: Sequence[str], where: str, advice: str = SETTINGS) -> None:
    """A UserError, if one of the `columns` is not among `names`, or is twice."""
    for column in columns:
        if column not in names:
            raise UserError(
                f"{where} has no column {column!r}; it has {', '.join(map(repr, names)) or 'none'}: {advice}"
            )
        if names.count(column) > 1:
            raise UserError(f"{where} has the column {column!r} {names.count(column)} times: rename one")


def delimited(
    path: Path, columns: Sequence[str], advice: str = SETTINGS
) -> tuple[list[str], str, list[tuple[str, list[str]]]]:
    """The header, the delimiter, and the rows, each with its place, of a file that has the `columns`.

    The delimiter is the one that finds them in the header.
    """
    content = decode(path)
    candidates = list(DELIMITERS)
    if excel := re.match("sep=([,;\t|])[\r\n]", content, re.IGNORECASE):
        candidates = [excel[1]]
        content = content[excel.end(1) :]
    headers = {delimiter: _header(content, delimiter) for delimiter in candidates}
    delimiter = next(
        (d for d in headers if {*columns} <= {*headers[d]}), max(headers, key=lambda d: len(headers[d]))
    )
    names: list[str] | None = None
    rows: list[tuple[str, list[str]]] = []
    begin = 1
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            place, begin = f"{path}, line {begin}", reader.line_num + 1
            if len(row) < 2 and not "".join(row).strip():
                continue
            if names is None:
                names = [name.strip() for name in row]
                check_columns(names, columns, str(path), advice)
            elif [name.strip("\ufeff ") for name in row] == names:
                raise UserError(f"{place}: the header stands here again: remove the line")
            elif len(row) != len(names):
                raise UserError(
                    f"{place}: {len(row)} fields where the header has {len(names)}: quote a text that holds "
                    f"a {DELIMITERS.get(delimiter, delimiter)}, and fill what is missing"
                )
            else:
                rows.append((place, row))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {begin}: the row that begins here is broken ({error}): close its quotes, and "
            "double those within a quoted text"
        ) from None
    if names is None:
        raise UserError(f"{path} is empty: it needs a header with {' and '.join(map(repr, columns))}")
    return names, delimiter, rows


def _header(content: str, delimiter: str) -> list[str]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        return [name.strip() for name in next((row for row in reader if row), [])]
    except csv.Error:
        return []


def read_parquet(path: Path) -> pa.Table:
    """The table of a Parquet file; a UserError, if it is not whole."""
    try:
        return pq.ParquetFile(io.BytesIO(path.read_bytes())).read()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not whole Parquet ({' '.join(str(error).split())}): get it again"
        ) from None


def _parquet(path: Path, columns: tuple[str, str]) -> pd.DataFrame:
    content = read_parquet(path)
    return arrow(content, *columns, str(path), _class_names(content.schema, columns[1]))


def _class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """The names that `datasets` keeps beside a column of indices."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return None


def python_values(column: pa.ChunkedArray) -> list:
    """The values, strings as their bytes: Arrow does not promise that they are UTF-8."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column = column.cast(pa.large_binary())
    return column.to_pylist()


def strings(values: list, name: str, places: list[str]) -> list[str]:
    """The values as strings; a UserError names the first that is empty or no string, or half a character."""
    made = [_string(value, name, place) for value, place in zip(values, places, strict=True)]
    empty = [place for string, place in zip(made, places, strict=True) if not string.strip()]
    if empty:
        raise UserError(
            f"{empty[0]}: the {name} is empty, or neither a string nor a number; {len(empty)} of "
            f"{len(places)} rows are so: fill them or remove them"
        )
    return made


def _string(value: object, name: str, place: str) -> str:
    """The value as a string, empty if it is none."""
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, str):
            value.encode()
            return value
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1}, 0x{error.object[error.start]:02x}, is not UTF-8"
    except UnicodeEncodeError as error:
        byte = len(error.object[: error.start].encode()) + 1
        reason = f"half a character, U+{ord(error.object[error.start]):04X}, is at byte {byte}"
    else:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
        return str(value) if is_number else ""
    raise UserError(f"{place}: in the {name}, {reason}: correct it")


def _holds_an_intent(line: str, intents: set[str]) -> bool:
    """True of "how are you,greeting": a field of a row with any delimiter is an intent."""
    return any(
        field.strip(' "\t') in intents
        for delimiter in DELIMITERS
        if delimiter in line
        for field in line.split(delimiter)
    )
