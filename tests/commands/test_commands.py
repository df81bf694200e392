"""The console script as a whole."""

import os
import subprocess
import sys

import pytest
from clone import ROOT
from conftest import locale

from stages.commands import COMMANDS, main

INTENTS = (sys.executable, "-m", "stages.commands")
HEAVY = {"numpy", "pandas", "torch", "transformers", "onnxruntime", "pydantic", "optuna", "starlette"}


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; from stages.commands import main; main(['--help'], standalone_mode=False); "
        f"print('heavy:', *({HEAVY} & set(sys.modules)))"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert text.splitlines()[-1].strip() == "heavy:"
    assert [line.split()[0] for line in text.split("Commands:")[1].splitlines()[1:-1]] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_teaches_by_example(intents, name):
    text = intents(name, "--help")
    assert f"\n  intents {name} " in text or f"\n  intents {name}\n" in text
    assert "..." not in main.get_command(None, name).get_short_help_str(60)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--modell", "x"],
        ["--modell=x y", "hello"],
        ["--model", "x", "-5"],
        ["--model", "x", "--threads=1", "-q", "hello"],
        ["--model x", "--model", "x", "hello"],
        ["--model", "x", "hello", "--thread", "2"],
    ],
)
def test_a_misspelt_option_is_an_error(intents, arguments):
    assert "No such option" in intents("predict", *arguments, fails=2)


def test_a_package_of_an_extra_is_named_with_it():
    code = "import sys; sys.modules['optuna'] = None; from stages.commands import main; main(['search'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == "error: optuna is not installed: pip install -e '.[search]'\n"


def test_ctrl_c_is_quiet(intents, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("stages.runtime.load", interrupted)
    assert intents("predict", "--model", "x", "hello", fails=130) == ""


@pytest.mark.parametrize(
    "command", ["yes 'my balance' | {} predict --model {}/student-ort", "{} compare HEAD"]
)
def test_a_reader_that_leaves_is_no_traceback(exported, command):
    """After its first line `compare` asks DVC for the params, so the reader has left by the second."""
    pipe = command.format(" ".join(INTENTS), exported) + " | head -n 1"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, cwd=ROOT)
    assert len(done.stdout.splitlines()) == 1
    assert all(line.startswith("note: ") for line in done.stderr.splitlines())


def without_a_reader(*command):
    """The end of `command` where no one reads its standard output."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    return done


@pytest.mark.parametrize("arguments", [["results"], ["compare", "HEAD"], ["predict", "-h"]])
def test_the_status_without_a_reader(arguments):
    done = without_a_reader(*INTENTS, *arguments)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("code", "status"), [("print('all')", 141), ("print('all', flush=True)", 141), ("pass", 0)]
)
def test_a_stage_without_a_reader(code, status):
    script = f"from stages.core.errors import command\n@command\ndef main(): {code}\nmain()"
    done = without_a_reader(sys.executable, "-c", script)
    assert (done.returncode, done.stderr) == (status, "")


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


LATIN_1 = {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1"}


@pytest.mark.parametrize(("variables", "expected"), [(ASCII, "…".encode()), (LATIN_1, b"\\u2026")])
def test_output_in_a_locale_that_lacks_its_characters(variables, expected):
    """Click itself writes UTF-8 for ASCII."""
    command = [*INTENTS, "seeds", "--help"]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=locale(variables))
    assert (done.returncode, done.stderr) == (0, b"")
    assert expected in done.stdout


def test_a_stage_in_a_locale_that_lacks_its_characters():
    script = "from stages.core.errors import command\n@command\ndef main(): print('\\xd7')\nmain()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT, env=locale(ASCII))
    assert (done.stdout, done.stderr) == (b"\\xd7\n", b"")


def test_an_override_that_is_not_utf8(intents):
    line = intents("search", "report.folder=\udce9", fails=1)
    assert line.startswith("error: an override is not UTF-8 (byte 15: ")
