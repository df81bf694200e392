"""What an experiment outside the workspace can read: it runs in a copy of what Git and DVC track."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from stages.core.errors import UserError
from stages.core.settings import Params


def check(p: Params) -> None:
    """A UserError, if a file or a folder that `p` names is not in such a copy as it is here."""
    for setting, path in _paths(p):
        _check(setting, path)


def _paths(p: Params) -> Iterator[tuple[str, Path]]:
    """The files and folders that `p` names, each with its setting."""
    yield "data.path", Path(p.data.path)
    for i, file in enumerate(p.data.outliers):
        yield f"data.outliers.{i}.path", Path(file.path)
    if p.data.source == "clinc150":
        local = p.data.local or os.environ.get("CLINC150_PATH")
        if local:
            yield "data.local" if p.data.local else "CLINC150_PATH", Path(local)
    for text in p.data.unlabelled.files:
        yield "data.unlabelled.files", Path(text)
    students = [getattr(technique, "student", None) for technique in p.variants.models.values()]
    names = [("data.hub", getattr(p.data, "hub", None)), ("teacher.model", p.teacher.model)]
    names += [(f"teachers.{name}.model", teacher.model) for name, teacher in p.teachers.items()]
    names += [("distill.student.model", getattr(student, "model", None)) for student in students]
    for setting, name in names:
        if name and Path(name).exists():  # else it is one on the hub, or a package's
            yield setting, Path(name)


def _check(setting: str, path: Path) -> None:
    if path.is_absolute():
        return
    if Path(os.path.normpath(path)).parts[:1] == ("..",):
        raise UserError(
            f"{setting}: {path} is outside the repository, a copy of which does not have it: give its "
            "absolute path"
        )
    link = next((place for place in (*reversed(path.parents), path) if place.is_symlink()), None)
    _check_tracked(setting, link or path)
    if link:
        _check(setting, link.parent / link.readlink() / path.relative_to(link))


def _check_tracked(setting: str, path: Path) -> None:
    untracked = _files(path, "--others")
    if path.exists() and not untracked:
        return
    places = _outputs()
    for file in untracked or [path]:
        place = next((places[out] for out in (file, *file.parents) if out in places), None)
        if place is None and not path.exists():
            raise UserError(f"{path} does not exist: set {setting} to your file or folder")
        if place is None:
            raise UserError(f"{setting}: {_advice(file, path, can_be_dvc=not _files(path))}")
        if _files(place, "--others"):
            raise UserError(f"{setting}: {_advice(place, place, can_be_dvc=False)}")


def _advice(file: Path, path: Path, can_be_dvc: bool) -> str:
    """What to do about `file`, which is untracked, and all beside it in `path`."""
    name = shlex.quote(str(path))
    ignored = _files(file, "--others", "--ignored", "--exclude-standard")
    dvc = f" or `dvc add {name}`" if can_be_dvc else ""
    return (
        f"{file} is untracked, and an experiment runs in a copy of what Git and DVC track: "
        f"run `git add {'--force ' if ignored else ''}{name}`{dvc}"
    )


def _files(path: Path, *options: str) -> list[Path]:
    """The files of `path` that `git ls-files` lists with these options: without, those that Git tracks."""
    command = ["git", "--literal-pathspecs", "ls-files", "-z", *options, "--", str(path)]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise UserError(f"git ls-files: {' '.join(os.fsdecode(done.stderr).split())}")
    return [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]


def _outputs() -> dict[Path, Path]:
    """What DVC tracks in this repository, each with the .dvc file or the dvc.yaml that says so."""
    from dvc.repo import Repo

    with Repo() as repo:
        root = Path(repo.root_dir)
        return {
            Path(out.fs_path).relative_to(root): Path(out.stage.path).relative_to(root)
            for out in repo.index.outs
            if Path(out.fs_path).is_relative_to(root)
        }
