"""Outputs that are whole or absent."""

import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOST = platform.node()
SCRATCH = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d{1,7})(@(?P<host>.*))?\.part")


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a scratch path of the same name, for a file or a folder.

    When the block ends well, what was written there takes the place of `path`; when it
    raises, or is interrupted, it is removed and `path` is as it was. What processes that were
    killed have left beside `path` is removed too.
    """
    path = Path(path)
    folder = path.with_name(f".{path.name}.{os.getpid()}@{HOST}.part")
    for left in [folder, *_abandoned(path.parent)]:  # a dead process may have had this process's number
        shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder / path.name
        remove(path)
        (folder / path.name).rename(path)
    finally:
        remove(folder)


def _abandoned(folder: Path) -> Iterator[Path]:
    """The scratch folders in `folder` whose process, one of this host, is dead."""
    for path in folder.glob(".*.part"):
        match = SCRATCH.fullmatch(path.name)
        if not match or not path.is_dir() or match["host"] not in (None, HOST):
            continue
        ours = {inner.name for inner in path.iterdir()} <= {match["name"]}
        if ours and not _runs(int(match["pid"])):
            yield path


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


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
