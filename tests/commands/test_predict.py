import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from clone import ROOT
from conftest import locale

from stages import runtime
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


@pytest.mark.parametrize("query", ["-5 degrees outside", "--help me", "- my\nbalance", "-h = my balance"])
def test_a_query_that_begins_with_a_dash(models, intents, query):
    """Before the options, after them, and after `--`, where one word will do."""
    model = ["--model", "models/student"]
    expected = answer(query)
    for arguments in ([query, *model], [*model, query], [*model, "--", query]):
        assert intents("predict", *arguments) == expected
    assert intents("predict", *model, "--", "-5") == answer("-5")
    assert intents("predict", *model, "--", "--model") == answer("--model")


def answer(query):
    prediction = runtime.load("models/student").predict([query])[0]
    return f"{prediction.label} {prediction.score:.4f}\n"


@pytest.mark.parametrize("arguments", [["--model=my models/student"], ["--model", "my models/student"]])
def test_an_option_with_a_space_in_its_value(models, intents, arguments):
    models.rename("my models")
    assert intents("predict", *arguments, "--threads", "1", "-5 degrees").split()[0] in {
        "balance",
        "oos",
        "transfer",
    }


LOCALES = {
    "C": {"LC_ALL": "C"},
    "C, without Python's UTF-8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "C.UTF-8": {"LC_ALL": "C.UTF-8"},
    "UTF-8 mode": {"LC_ALL": "C", "PYTHONUTF8": "1"},
    "Latin-1": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"},
    "ASCII, strict": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii:strict"},
}


@pytest.fixture(params=LOCALES)
def predict(request, models):
    """Run `intents predict` in a process with that locale, on what is given to its standard input."""
    environment = {**locale(LOCALES[request.param]), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.commands", "predict", "--model", "models/student-ort"]

    def run(*arguments, input=b""):
        return subprocess.run([*command, *arguments], input=input, capture_output=True, env=environment)

    return run


def error_of(done):
    """The one line of a failure, after the note that the model is not calibrated."""
    assert done.returncode == 1
    *notes, error = done.stderr.decode().splitlines()
    assert all(note.startswith("note: ") for note in notes)
    return error


def test_what_is_not_utf8_is_refused_in_any_locale(predict):
    """Python would let it through as surrogates in some, and as other letters in others."""
    done = predict(input="my balance\nça ".encode() + b"caf\xe9\n")
    assert error_of(done).startswith("error: standard input is not UTF-8 (line 2, byte 8: ")
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["my balance"]
    assert error_of(predict(b"caf\xe9")).startswith("error: the query is not UTF-8 (byte 4: ")
    assert error_of(predict(b"yes \xed\xa0\xbd")).startswith("error: the query is not UTF-8 (byte 5: ")


def test_every_text_is_read_and_written_in_any_locale(predict, models):
    """A label that the encoding of the output lacks is shown with backslashes, and JSON stays JSON."""
    config = json.loads((models / "student-ort/config.json").read_bytes())
    config["id2label"] = dict.fromkeys(config["id2label"], "🚗")
    (models / "student-ort/config.json").write_bytes(json.dumps(config, ensure_ascii=False).encode())
    done = predict(input="\ufeffça va 🚗?\n".encode())
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["text"] == "ça va 🚗?"
    assert json.loads(line)["label"] == "🚗"
    done = predict("ça va 🚗?".encode())
    assert done.returncode == 0
    assert done.stdout.split()[0] in ("🚗".encode(), b"\\U0001f697")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"my balance\nyes \xed\xa0\xbd\n", "not UTF-8 (line 2, byte 5: "),
        ("my balance\n".encode("utf-16"), "not UTF-8 (line 1, byte 1: "),
        ("my balance\n".encode("utf-16-le"), "a NUL, as UTF-16 has, in line 1"),
        (b"my balance\rrent a car\r", "a carriage return, in line 1"),
    ],
)
def test_standard_input_that_is_refused(models, intents, lines, message):
    error = intents("predict", "--model", "models/student-ort", input=lines, fails=1)
    assert message in error.splitlines()[-1]


def test_half_a_character_in_an_argument(models, intents):
    """As Windows can have them."""
    error = intents("predict", "--model", "models/student", "yes \ud83d", fails=1)
    assert error.startswith("error: the query is not UTF-8 (byte 5: ")


def test_blank_lines_are_counted(models):
    result = CliRunner().invoke(
        main, ["predict", "--model", "models/student"], input="send money\r\n\r\n \nrent a car"
    )
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["send money", "rent a car"]
    assert result.stderr.endswith("note: blank lines of standard input, which have no answer: 2\n")


def test_closed_standard_streams(models):
    command = f"{sys.executable} -m stages.commands predict --model models/student-ort"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", f"{command} <&-"], capture_output=True, env=environment)
    assert error_of(done) == "error: standard input is closed: give a query, or lines of input"
    for redirected in ("'my balance' >&-", "<<< 'my balance' >&-"):
        done = subprocess.run(["bash", "-c", f"{command} {redirected}"], capture_output=True, env=environment)
        assert done.returncode == 0 and b"Traceback" not in done.stderr


def test_a_model_without_calibration_is_said(models):
    result = CliRunner().invoke(main, ["predict", "--model", "models/student", "my balance"])
    assert result.stderr.startswith("note: models/student is not calibrated: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_file_of_queries(models, intents):
    """Each row has the answer that its query has alone."""
    Path("queries.csv").write_text("id;query\n7;send money\n8;ça va\n", encoding="utf-8")
    arguments = ["predict", "--model", "models/student", "queries.csv", "-o", "answers.csv"]
    assert intents(*arguments, "--column", "query") == "answers.csv: 2 queries\n"
    table = pd.read_csv("answers.csv", sep=";")
    assert table.columns.tolist() == ["id", "query", "prediction", "score"]
    label, score = intents("predict", "--model", "models/student", "send money").split()
    assert table.loc[0].tolist() == [7, "send money", label, pytest.approx(float(score), abs=1e-4)]
    assert "no column 'text'" in intents(*arguments, fails=1)
    assert "goes with --output" in intents("predict", "--model", "models/student", "-o", "a.csv", fails=1)


def test_from_python(models):
    """As the README of conf/ has it."""
    answers = runtime.load("models/student").predict(["send money", "what is my balance"])
    assert [type(answer.label) for answer in answers] == [str, str]
    assert all(1 / 3 <= answer.score <= 1 for answer in answers)
