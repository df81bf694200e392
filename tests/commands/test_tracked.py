"""What an experiment's copy of the repository has, in repositories with Git and DVC."""

import subprocess
import sys

import pytest
from clone import Clone

from stages.commands import tracked
from stages.core import settings
from stages.core.errors import UserError

FILES = settings.compose(["data=files"])
NEAR = settings.compose(["data=files", "data.outliers=[{path: near.txt}]"])
CLINC150 = settings.compose(["experiment=clinc150"])
HUB = settings.compose(["data=hub", "data.hub=banking77", "teacher=bert-base", "student=distilbert"])


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty one, as the working directory."""
    folder = tmp_path / "repository"
    (folder / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(folder)
    run("git", "init", "-q")
    return folder


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("text,intent\n")


def line(p=FILES, **data):
    """What `check` says of `p` with other settings of its data, or None."""
    try:
        tracked.check(p.model_copy(update={"data": p.data.model_copy(update=data)}))
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return str(error)


def dvc_add(path):
    run(sys.executable, "-m", "dvc", "add", "-q", path)


def test_a_file(repository):
    assert line() == "queries.csv does not exist: set data.path to your file or folder"
    write(repository / "queries.csv")
    assert line() == (
        "data.path: queries.csv is untracked, and an experiment runs in a copy of what Git and DVC track: "
        "run `git add queries.csv` or `dvc add queries.csv`"
    )
    run("git", "add", "queries.csv")
    assert line() is None


def test_outliers(repository):
    for name in ("queries.csv", "near.txt"):
        write(repository / name)
    run("git", "add", "queries.csv")
    assert line(NEAR).startswith("data.outliers.0.path: near.txt is untracked")
    run("git", "add", "near.txt")
    assert line(NEAR) is None


def test_a_file_that_git_ignores(repository):
    write(repository / "my data" / "queries.csv")
    (repository / ".gitignore").write_text("/my data/\n")
    said = line(path="my data/queries.csv")
    assert "run `git add --force 'my data/queries.csv'`" in said
    run("git", "add", "--force", "my data/queries.csv")
    assert line(path="my data/queries.csv") is None


@pytest.mark.parametrize("path", ["queries.csv", "queries"])
def test_dvc_add(repository, path):
    write(repository / "queries.csv")
    write(repository / "queries" / "train.csv")
    dvc_add(path)
    assert "run `git add queries" in line(path=path) and ".dvc`" in line(path=path)
    run("git", "add", f"{path}.dvc", ".gitignore")
    assert line(path=path) is None
    assert (line(path="queries/train.csv") is None) == (path == "queries")


def test_a_folder_that_is_tracked_in_part(repository):
    for name in ("train", "validation", "test"):
        write(repository / "queries" / f"{name}.csv")
    assert "`git add queries` or `dvc add queries`" in line(path="queries")
    run("git", "add", "queries/train.csv", "queries/validation.csv")
    said = line(path="queries/")
    assert said.startswith("data.path: queries/test.csv is untracked") and said.endswith(
        "run `git add queries`"
    )
    run("git", "add", "queries")
    assert line(path="queries") is None


def test_an_output_of_another_stage(repository):
    (repository / "dvc.yaml").write_text("stages: {mine: {cmd: make, outs: [queries.csv]}}\n")
    run("git", "add", "dvc.yaml")
    assert line() is None
    (repository / ".gitignore").write_text("/queries.csv\n")
    write(repository / "queries.csv")
    assert line() is None


def test_outside_the_repository(repository, tmp_path):
    write(tmp_path / "queries.csv")
    assert line(path="../queries.csv").endswith("give its absolute path")
    assert line(path=str(tmp_path / "queries.csv")) is None


def test_links(repository, tmp_path):
    write(tmp_path / "theirs" / "queries.csv")
    write(repository / "ours.csv")
    for name, target in (
        ("linked", tmp_path / "theirs"),
        ("outside", "../theirs"),
        ("queries.csv", "ours.csv"),
    ):
        (repository / name).symlink_to(target)
        assert f"{name} is untracked" in line(path=f"{name}/queries.csv" if name != "queries.csv" else name)
        run("git", "add", name)
    assert line(path="linked/queries.csv") is None
    assert line(path="outside/queries.csv").endswith("give its absolute path")
    assert "ours.csv is untracked" in line()
    run("git", "add", "ours.csv")
    assert line() is None


def test_the_other_files_that_settings_name(repository, monkeypatch):
    monkeypatch.delenv("CLINC150_PATH", raising=False)
    write(repository / CLINC150.data.path)
    write(repository / CLINC150.data.outliers_path)
    run("git", "add", ".")
    assert line(CLINC150) is None
    write(repository / "data_oos_plus.json")
    assert line(CLINC150, local="data_oos_plus.json").startswith(
        "data.local: data_oos_plus.json is untracked"
    )
    monkeypatch.setenv("CLINC150_PATH", "data_oos_plus.json")
    assert line(CLINC150).startswith("CLINC150_PATH: data_oos_plus.json is untracked")
    unlabelled = settings.Unlabelled(files=["logs.txt"], files_path="logs.txt")
    write(repository / "logs.txt")
    monkeypatch.delenv("CLINC150_PATH")
    assert line(CLINC150, unlabelled=unlabelled).startswith("data.unlabelled.files: logs.txt is untracked")
    write(repository / HUB.data.path)
    run("git", "add", "stages")
    assert line(HUB) is None
    write(repository / "other" / "config.json")
    other = HUB.teachers["teacher"].model_copy(update={"model": "other"})
    two = HUB.model_copy(update={"teachers": HUB.teachers | {"other": other}})
    assert line(two).startswith("teachers.other.model: other/config.json is untracked")
    for setting, model in (
        ("data.hub", "banking77"),
        ("teacher.model", "bert-base-uncased"),
        ("distill.student.model", "distilbert-base-uncased"),
    ):
        write(repository / model / "config.json")
        assert line(HUB).startswith(f"{setting}: {model}/config.json is untracked")
        run("git", "add", model)
    assert line(HUB) is None


@pytest.fixture
def clone(tmp_path):
    """With an untracked file of queries."""
    clone = Clone(tmp_path)
    write(tmp_path / "queries.csv")
    return clone


def test_no_search_starts(clone):
    output = clone(sys.executable, "-m", "stages.commands", "search", "data=files", ok=False)
    assert output.startswith("error: data.path: queries.csv is untracked") and len(output.splitlines()) == 1
    assert not (clone.path / "search.db").exists()


@pytest.mark.slow
def test_nothing_is_queued(clone):
    """Once both files are tracked, it is."""
    queue = ("dvc", "exp", "run", "--queue", "-S", "data=files", "-S", "data.path=queries.csv,more.csv")
    output = clone(*queue, ok=False)
    assert output.splitlines()[-1].startswith("ERROR: data.path: queries.csv is untracked")
    clone("git", "add", "queries.csv")
    output = clone(*queue, ok=False)
    assert output.splitlines()[-1].startswith("ERROR: more.csv does not exist")
    write(clone.path / "more.csv")
    clone("dvc", "add", "-q", "more.csv")
    clone("git", "add", "more.csv.dvc", ".gitignore")
    assert "No experiment tasks" in clone("dvc", "queue", "status")
    assert clone(*queue).count("Queued experiment") == 2
    assert not clone("git", "diff", "HEAD", "--name-only", "--", "params.yaml")
