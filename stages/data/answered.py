"""A file of queries with a prediction beside each, its other columns as they are."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from stages.core.atomic import replacing
from stages.core.errors import UserError
from stages.data import formats
from stages.runtime import Prediction

ADDED = ("prediction", "score")
ADVICE = "name the column of the queries with --column"
SUFFIXES = (*formats.DELIMITED, *formats.JSON_LINES, ".parquet")
Predict = Callable[[list[str]], list[Prediction]]


def write(source: Path, column: str, output: Path, predict: Predict) -> int:
    """Write `source` with what `predict` answers to the texts in `column` to `output`; return how many.

    The columns `prediction` and `score` are added. A CSV keeps its delimiter, a line of JSON its bytes, a
    Parquet its types and metadata. The text is UTF-8. `output` is whole or not there. A UserError says what
    cannot be read, is of another kind than `source`, has the new columns already, or would be overwritten.
    """
    suffix = source.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{source} is none of {', '.join(SUFFIXES)}: convert it")
    if output.suffix.lower() != suffix:
        raise UserError(f"{output} is not written as {suffix}, as {source} is: give it that ending")
    if output.exists() and source.exists() and output.samefile(source):
        raise UserError(f"{output} is the input, which would be lost: name another file")
    if output.is_dir():
        raise UserError(f"{output} is a folder: name a file")
    write_as = _parquet if suffix == ".parquet" else _json_lines
    try:
        return (_delimited if suffix in formats.DELIMITED else write_as)(source, column, output, predict)
    except OSError as error:
        raise UserError(f"{error.filename or source}: {error.strerror}: correct the path") from None


def _check(names: list[str], column: str, where: str) -> None:
    formats.check_columns(names, (column,), where, ADVICE)
    for name in ADDED:
        if name in names:
            raise UserError(f"{where} has a column {name!r} already: rename or remove it")


def _answers(values: list, places: list[str], predict: Predict) -> list[tuple[str, float]]:
    texts = [text.strip() for text in formats.strings(values, "text", places)]
    return [(answer.label, round(answer.score, 4)) for answer in predict(texts)]


def _delimited(source: Path, column: str, output: Path, predict: Predict) -> int:
    names, delimiter, rows = formats.delimited(source, (column,), ADVICE)
    _check(names, column, str(source))
    at = names.index(column)
    answers = _answers([row[at] for _, row in rows], [place for place, _ in rows], predict)
    with replacing(output) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow([*names, *ADDED])
        writer.writerows([*row, *answer] for (_, row), answer in zip(rows, answers, strict=True))
    return len(rows)


def _json_lines(source: Path, column: str, output: Path, predict: Predict) -> int:
    lines, values, places = [], [], []
    for number, line in enumerate(io.StringIO(formats.decode(source), newline=None), 1):
        if line.strip():
            place = f"{source}, line {number}"
            record = formats.parse(line, place)
            if not isinstance(record, dict):
                raise UserError(f"{place}: not an object with {column!r}: correct it")
            _check(list(record), column, place)
            lines.append(line.strip().removesuffix("}"))
            values.append(record[column])
            places.append(place)
    answers = _answers(values, places, predict)
    with replacing(output) as scratch, scratch.open("w", encoding="utf-8") as file:
        for line, answer in zip(lines, answers, strict=True):
            added = json.dumps(dict(zip(ADDED, answer, strict=True)), ensure_ascii=False)
            file.write(f"{line}, {added[1:]}\n")
    return len(lines)


def _parquet(source: Path, column: str, output: Path, predict: Predict) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = formats.read_parquet(source)
    _check(table.column_names, column, str(source))
    places = [f"{source}, row {i}" for i in range(1, len(table) + 1)]
    answers = _answers(formats.python_values(table.column(column)), places, predict)
    for i, kind in enumerate((pa.string(), pa.float64())):
        table = table.append_column(ADDED[i], pa.array([answer[i] for answer in answers], kind))
    with replacing(output) as scratch:
        pq.write_table(table, scratch)
    return len(table)
