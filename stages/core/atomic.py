"""Outputs that are whole or absent."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a scratch path of the same name, for a file or a folder.

    When the block ends well, what was written there takes the place of `path`; when it
    raises, or is interrupted, it is removed and `path` is as it was.
    """
    path = Path(path)
    folder = path.with_name(f".{path.name}.{os.getpid()}.part")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder / path.name
        remove(path)
        (folder / path.name).rename(path)
    finally:
        remove(folder)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value) -> None:
    """Write a JSON file; a number that is not finite is a ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
