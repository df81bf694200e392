"""The user's own queries: CSV, JSONL, or JSON in CLINC's layout."""

from pathlib import Path

import pandas as pd

from stages.core.errors import UserError
from stages.core.settings import FilesData
from stages.data.clinc150 import read_json
from stages.data.splits import split

SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}


def load(params: FilesData, seed: int) -> dict[str, pd.DataFrame]:
    """Read `params.path`: one file that is split by seed, or a folder with a file for each split.

    JSON in CLINC's layout brings its own splits.
    """
    path = Path(params.path)
    if not path.exists():
        raise UserError(f"{path} does not exist: set data.path to your file or folder")
    if path.is_dir():
        tables = {name: _read(_find(path, stems), params) for name, stems in SPLITS.items()}
    elif path.suffix == ".json":
        tables = {name: _clean(table, f"{path} ({name})", params) for name, table in read_json(path).items()}
    else:
        return split(_read(path, params), params.test_fraction, params.validation_fraction, seed)
    return _without_leaks(tables, params)


def _find(folder: Path, stems: tuple[str, ...]) -> Path:
    for stem in stems:
        for suffix in (".csv", ".jsonl"):
            if (folder / f"{stem}{suffix}").exists():
                return folder / f"{stem}{suffix}"
    raise UserError(
        f"{folder} holds no {stems[0]}.csv or {stems[0]}.jsonl: add it, or set data.path to one file "
        "that is split by seed"
    )


def _read(path: Path, params: FilesData) -> pd.DataFrame:
    try:
        if path.suffix == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            if not isinstance(table.index, pd.RangeIndex):
                raise ValueError("rows are longer than the header: quote texts that hold a comma")
        elif path.suffix == ".jsonl":
            table = pd.read_json(path, lines=True, dtype=False, encoding="utf-8-sig")
        else:
            raise UserError(f"{path} is none of .csv, .jsonl and .json (CLINC's layout): convert it")
    except ValueError as error:  # pandas' parser errors and UnicodeDecodeError among them
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    for column in (params.text_column, params.intent_column):
        if column not in table:
            raise UserError(
                f"{path} has no column {column!r}; it has {', '.join(map(repr, table.columns)) or 'none'}: "
                "set data.text_column and data.intent_column"
            )
    table = table[[params.text_column, params.intent_column]].set_axis(["text", "intent"], axis=1)
    return _clean(table, str(path), params)


def _clean(table: pd.DataFrame, where: str, params: FilesData) -> pd.DataFrame:
    """Texts and intents stripped, each text once: a second intent for it is an error, or dropped."""
    for column in ("text", "intent"):
        bad = ~table[column].map(lambda value: isinstance(value, str) and bool(value.strip()))
        if bad.any():
            raise UserError(
                f"{where}: {bad.sum()} rows have an empty {column} or one that is not a string, the "
                f"first at row {bad.to_numpy().argmax() + 1}: fill them or remove them"
            )
    table = table.apply(lambda column: column.str.strip()).drop_duplicates(ignore_index=True)
    repeated = table["text"].duplicated()
    if repeated.any() and params.duplicates == "error":
        raise UserError(
            f"{where}: {repeated.sum()} texts have more than one intent, the first is "
            f"{table['text'][repeated].iloc[0]!r}: keep one of each, or set data.duplicates=drop"
        )
    return table[~repeated].reset_index(drop=True)


def _without_leaks(tables: dict[str, pd.DataFrame], params: FilesData) -> dict[str, pd.DataFrame]:
    """No text of one split stands in another: an error, or dropped where it is least missed."""
    held_out: set[str] = set()
    for name in ("test", "validation", "train"):
        table = tables[name]
        leaked = table["text"].isin(held_out)
        if leaked.any() and params.duplicates == "error":
            raise UserError(
                f"{leaked.sum()} texts of {name} stand in another split too, the first is "
                f"{table['text'][leaked].iloc[0]!r}: remove them, or set data.duplicates=drop"
            )
        tables[name] = table[~leaked].reset_index(drop=True)
        held_out |= set(table["text"])
    return tables
