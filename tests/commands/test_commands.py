"""The console script as a whole."""

import subprocess
import sys

import pytest
from clone import ROOT

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


def test_a_misspelt_option_is_an_error(intents):
    assert "No such option" in intents("predict", "--modell", "x", fails=2)


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
