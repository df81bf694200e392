"""Results that are read back: whole, or a UserError that names the file and what is wrong with it."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.errors import UserError

AGAIN = "restore it from Git, or make it again with `dvc repro`"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
CONFLICT = ("<<<<<<< ", "||||||| ", "=======", ">>>>>>> ")


def table(
    path: Path | str,
    numbers: Sequence[str],
    *,
    optional: Sequence[str] = (),
    texts: Sequence[str] = (),
    key: Sequence[str] = ("model",),
) -> pd.DataFrame:
    """The CSV file `path`, as `parse` reads it."""
    return parse(_read(path), str(path), numbers, optional=optional, texts=texts, key=key)


def parse(
    content: bytes,
    name: str,
    numbers: Sequence[str],
    *,
    optional: Sequence[str] = (),
    texts: Sequence[str] = (),
    key: Sequence[str] = ("model",),
) -> pd.DataFrame:
    """The rows of a CSV file, indexed by the columns `key`, in which no two agree.

    Every row has finite `numbers` and, as str, `texts`. The columns `optional` may be missing, and their
    cells empty (NaN); what they hold is finite. A UserError says of the file `name` what is not so.
    """
    text = _text(content, name)
    if not text.endswith("\n"):
        raise damaged(name, "ends in the middle of a line")
    try:
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except csv.Error as error:
        raise damaged(name, f"is not a CSV table: {error}") from None
    for column in (*key, *numbers, *texts):
        if column not in header:
            raise damaged(name, f"has no column {column!r}")
    twice = next((column for column in header if header.count(column) > 1), None)
    if twice is not None:
        raise damaged(name, f"has the column {twice!r} twice")
    if not rows:
        raise damaged(name, "has no rows")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise damaged(name, f"has {len(row)} cells in row {number}, and {len(header)} columns")
    types = dict.fromkeys([*key, *texts], str)
    frame = pd.read_csv(io.StringIO(text), dtype=types, keep_default_na=False, na_values=[""])
    for column in (*key, *texts, *numbers, *optional):
        if column not in header:
            continue
        wrong = frame[column].isna() & (column not in optional)
        if column not in types:
            wrong |= frame[column].notna() & ~np.isfinite(pd.to_numeric(frame[column], errors="coerce"))
        if wrong.any():
            at = int(wrong.to_numpy().argmax())
            cell = rows[at][header.index(column)]
            what = f"is {cell!r}, which is no finite number" if cell else "is empty"
            raise damaged(name, f"is damaged: in row {at + 2}, {column} {what}")
    repeated = frame.duplicated(list(key))
    if repeated.any():
        at = int(repeated.to_numpy().argmax())
        raise damaged(name, f"has the row {', '.join(frame.loc[at, list(key)])} twice")
    return frame.set_index(list(key))


def values(path: Path | str, keys: Sequence[str]) -> dict:
    """The object in the JSON file `path`, which has `keys`; NaN and Infinity are no JSON."""
    text = _text(_read(path), str(path))
    try:
        found = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise damaged(str(path), f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise damaged(str(path), "is not a JSON object")
    for key in keys:
        if key not in found:
            raise damaged(str(path), f"has no {key!r}")
    return found


def damaged(name: str, what: str) -> UserError:
    """The error of a file that `what` is said of."""
    return UserError(f"{name} {what}; {AGAIN}")


def _read(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: make the report with `dvc repro`") from None
    except OSError as error:
        raise damaged(str(path), f"cannot be read: {error.strerror}") from None


def _text(content: bytes, name: str) -> str:
    if not content.strip():
        raise damaged(name, "is empty")
    if content.startswith(LFS_POINTER):
        raise UserError(f"{name} is a Git LFS pointer and not the file: run `git lfs pull`")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise damaged(name, f"is not UTF-8 at byte {error.start}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(CONFLICT):
            raise damaged(name, f"has a merge conflict in line {number}")
    return text


def _refuse(constant: str):
    raise ValueError(f"{constant} is no JSON number")
