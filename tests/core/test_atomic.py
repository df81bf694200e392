import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.core import atomic
from stages.core.atomic import remove, replacing, write_json


def fill(path, kind, text):
    if kind == "folder":
        path.mkdir()
        (path / text).write_text(text)
    else:
        path.write_text(text)


def content(path):
    return {p.name: p.read_text() for p in path.iterdir()} if path.is_dir() else path.read_text()


@pytest.mark.parametrize(
    ("kind", "expected"), [("file", "new"), ("folder", {"new": "new"})], ids=["file", "folder"]
)
@pytest.mark.parametrize("before", [None, "file", "folder"])
def test_the_new_takes_the_place_of_the_old(tmp_path, kind, expected, before):
    path = tmp_path / "parent" / "out"
    if before:
        path.parent.mkdir()
        fill(path, before, "old")
    with replacing(path) as scratch:
        assert scratch.name == path.name and scratch != path
        fill(scratch, kind, "new")
        assert path.exists() == bool(before)
    assert content(path) == expected
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_error_leaves_the_old_and_no_scratch(tmp_path, kind, error):
    path = tmp_path / "out"
    fill(path, kind, "old")
    before = content(path)
    with pytest.raises(error), replacing(path) as scratch:
        fill(scratch, kind, "half")
        raise error
    assert content(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(ValueError), replacing(tmp_path / "out") as scratch:
        fill(scratch, "folder", "half")
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_replaced_and_what_it_names_is_kept(tmp_path):
    """DVC may link an output into its cache."""
    cache, path = tmp_path / "cache", tmp_path / "out"
    fill(cache, "folder", "cached")
    path.symlink_to(cache)
    with replacing(path) as scratch:
        fill(scratch, "folder", "new")
    assert not path.is_symlink() and content(path) == {"new": "new"}
    assert content(cache) == {"cached": "cached"}


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_and_list(folder):
    """What is in `folder` once "new" is written there."""
    write_json(folder / "new", 1)
    return {path.name for path in folder.iterdir()} - {"new"}


@pytest.mark.parametrize("host", ["", f"@{atomic.HOST}"], ids=["without a host", "this host"])
@pytest.mark.parametrize("name", ["new", "distilled-ort.int8"])
def test_what_a_killed_process_left_is_removed(tmp_path, dead, name, host):
    (tmp_path / f".{name}.{dead}{host}.part" / name).mkdir(parents=True)
    assert write_and_list(tmp_path) == set()


def test_what_is_no_dead_process_of_this_host_stays(tmp_path, dead):
    for left in (f".a.{os.getppid()}.part", f".a.{dead}@{atomic.HOST}-2.part", f".b.{dead}.part"):
        fill(tmp_path / left, "folder", "a")
    fill(tmp_path / f".a.{dead}.part", "file", "of another program")
    before = {path.name for path in tmp_path.iterdir()}
    assert write_and_list(tmp_path) == before


def test_a_dead_process_of_this_ones_number(tmp_path):
    """As the first process of a container, which has the same number each time."""
    fill(tmp_path / f".new.{os.getpid()}@{atomic.HOST}.part", "folder", "new")
    assert write_and_list(tmp_path) == set()


def test_a_kill_leaves_scratch_and_the_next_run_removes_it(tmp_path):
    code = "import os; from stages.core.atomic import replacing\n"
    code += f"with replacing({str(tmp_path / 'out')!r}) as scratch: scratch.mkdir(); os.kill(os.getpid(), 9)"
    environment = {**os.environ, "PYTHONPATH": str(Path(atomic.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -9
    assert [path.name[:5] for path in tmp_path.iterdir()] == [".out."]
    assert write_and_list(tmp_path) == set()


def test_remove_what_is_not_there(tmp_path):
    remove(tmp_path / "nothing")


def test_json_that_strict_parsers_would_refuse_is_not_written(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, None]})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": [\n    1,\n    null\n  ]\n}\n'
