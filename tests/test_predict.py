import io
import json
import sys

import pytest

from stages.predict import main
from stages.runtime import calibrated
from stages.runtime.calibrated import Calibration, Threshold


def test_one_query(models, capsys):
    main(["--model", "models/student", "send money"])
    label, score = capsys.readouterr().out.split()
    assert label in {"balance", "oos", "transfer"}
    assert 1 / 3 <= float(score) <= 1


@pytest.mark.parametrize("name", ["student", "student-ort"])
def test_a_calibrated_model(models, capsys, name):
    """At a great temperature the three labels are equally likely, and the threshold refuses everything."""
    calibrated.write(models / name, Calibration(1e4, Threshold(1, "probability", 0.9)))
    main(["--model", f"models/{name}", "send money"])
    label, score = capsys.readouterr().out.split()
    assert label == "oos"
    assert float(score) == pytest.approx(1 / 3, abs=1e-3)


def test_lines_of_standard_input(models, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("send money\n\n  rent a car \nça va\n"))
    main(["--model", "models/student"])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["text"] for answer in answers] == ["send money", "rent a car", "ça va"]
    assert all(set(answer) == {"text", "label", "score"} for answer in answers)


def test_same_answer_either_way(models, capsys, monkeypatch):
    main(["--model", "models/student", "my balance"])
    label, score = capsys.readouterr().out.split()
    monkeypatch.setattr(sys, "stdin", io.StringIO("my balance\n"))
    main(["--model", "models/student"])
    answer = json.loads(capsys.readouterr().out)
    assert (answer["label"], answer["score"]) == (label, pytest.approx(float(score), abs=1e-4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "models/none", "hello"], "error: models/none is no model folder"),
        (["--model", "models/student", "  "], "error: the query is empty"),
        (["--model", "models/student", "--threads", "0", "hello"], "error: --threads is 0"),
    ],
)
def test_bad_input_is_one_line(models, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert str(stopped.value).startswith(message)
    assert "\n" not in str(stopped.value)


def test_bytes_that_are_not_utf8(models, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    with pytest.raises(SystemExit, match="standard input is not UTF-8"):
        main(["--model", "models/student"])
