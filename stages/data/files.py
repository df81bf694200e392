"""The user's own queries: a file, a folder with a file for each split, or JSON in CLINC's layout."""

from pathlib import Path

import pandas as pd

from stages.core.errors import UserError
from stages.core.settings import FilesData
from stages.data import clinc150, formats
from stages.data.splits import NAMES


def load(params: FilesData) -> dict[str, pd.DataFrame]:
    """The splits that `params.path` has: one file is train alone, and validation may be missing."""
    path = Path(params.path)
    if not path.exists():
        raise UserError(f"{path} does not exist: set data.path to your file or folder")
    columns = (params.text_column, params.intent_column)
    try:
        if path.is_dir():
            return {split: formats.read(file, *columns) for split, file in _files(path).items()}
        if path.suffix.lower() == ".json" and isinstance(content := formats.read_json(path), dict):
            return clinc150.splits(content, path)
        return {"train": formats.read(path, *columns)}
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read ({error.strerror}): correct data.path, or the file"
        ) from None


def _files(folder: Path) -> dict[str, Path]:
    """The file of each split, by its name in any case."""
    there = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in formats.SUFFIXES and not file.name.startswith(".")
    )
    files = {}
    for split, stems in NAMES.items():
        named = [file for file in there if file.stem.lower() in stems]
        if len(named) > 1:
            raise UserError(f"{folder} has {' and '.join(file.name for file in named)} for {split}: keep one")
        if named:
            files[split] = named[0]
        elif split != "validation":
            raise UserError(
                f"{folder} holds no {split} file ({', '.join(formats.SUFFIXES)}): add it, set data.path "
                "to one file that is split by seed, or set data=hub if the folder has the hub's layout"
            )
    if ignored := [file.name for file in there if file not in files.values()]:
        print(f"{folder}: {', '.join(ignored)} not read, since the name is no split's")
    return files
