import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest
from click.testing import CliRunner
from clone import ROOT

from stages.commands import main
from stages.core.atomic import write_json
from stages.runtime.calibration import Calibration, Threshold


def test_one_query(models, intents):
    label, score = intents("predict", "--model", "models/student", "send money").split()
    assert label in {"balance", "oos", "transfer"}
    assert 1 / 3 <= float(score) <= 1


@pytest.mark.parametrize("name", ["student", "student-ort"])
def test_a_calibrated_model(models, intents, name):
    """At a great temperature the three labels are equally likely, and the threshold refuses everything."""
    fitted = Calibration(1e4, Threshold(1, "probability", 0.9))
    write_json(models / name / "calibration.json", asdict(fitted))
    label, score = intents("predict", "--model", f"models/{name}", "send money").split()
    assert label == "oos"
    assert float(score) == pytest.approx(1 / 3, abs=1e-3)


def test_lines_of_standard_input(models, intents):
    output = intents("predict", "--model", "models/student", input="send money\n\n  rent a car \nça va\n")
    answers = [json.loads(line) for line in output.splitlines()]
    assert [answer["text"] for answer in answers] == ["send money", "rent a car", "ça va"]
    assert all(set(answer) == {"text", "label", "score"} for answer in answers)


def test_same_answer_either_way(models, intents):
    label, score = intents("predict", "--model", "models/student", "my balance").split()
    answer = json.loads(intents("predict", "--model", "models/student", input="my balance\n"))
    assert (answer["label"], answer["score"]) == (label, pytest.approx(float(score), abs=1e-4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "models/none", "hello"], "error: models/none is no model folder"),
        (["--model", "models/student", "  "], "error: the query is empty"),
    ],
)
def test_bad_input_is_one_line(models, intents, arguments, message):
    error = intents("predict", *arguments, fails=1)
    assert error.startswith(message)
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_bytes_that_are_not_utf8(models, locale):
    """In the C locale too, where Python would let them through as surrogates."""
    command = [sys.executable, "-m", "stages.commands", "predict", "--model", "models/student-ort"]
    environment = {**os.environ, "LC_ALL": locale, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input=b"caf\xe9\n", capture_output=True, env=environment)
    assert done.returncode == 1
    note, error = done.stderr.splitlines()
    assert note.startswith(b"note: ") and error.startswith(b"error: standard input is not UTF-8")


def test_a_model_without_calibration_is_said(models):
    result = CliRunner().invoke(main, ["predict", "--model", "models/student", "my balance"])
    assert result.stderr.startswith("note: models/student is not calibrated: ")
    assert len(result.stderr.splitlines()) == 1
