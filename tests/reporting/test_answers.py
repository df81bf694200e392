from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from stages.core.atomic import write_json
from stages.reporting import answers
from stages.runtime.calibration import Calibration, Threshold

NAMES = ["transfer", "oos", "balance"]
BETTER, WORSE, NONE = "better", "worse", "no difference shown"


def test_predictions(tmp_path, monkeypatch):
    """Plain, the largest logit; calibrated, 1 is out of scope where no other logit is over the threshold."""
    monkeypatch.chdir(tmp_path)
    logits = np.array([[3, 0, 1], [1, 0, 0.5], [0, 2, 1], [0, 5, 4]], np.float32)
    for name, fitted in (
        ("teacher", Calibration(2.0, None)),
        ("small", Calibration(1.0, Threshold(1, "energy", 2.0))),
    ):
        (tmp_path / "calibrated" / name).mkdir(parents=True)
        write_json(tmp_path / "calibrated" / name / "calibration.json", asdict(fitted))
        write_json(tmp_path / "calibrated" / name / "config.json", {"id2label": {}})
        (tmp_path / "evaluations" / name).mkdir(parents=True)
        np.save(f"evaluations/{name}/test.npy", logits if name == "teacher" else logits[::-1])
    tables = answers.predictions(["teacher", "small"])
    assert {kind: table.to_dict("list") for kind, table in tables.items()} == {
        "plain": {"teacher": [0, 0, 1, 1], "small": [1, 1, 0, 0]},
        # Energies 4.02, 1.31, 1.47 and 3.13 of the two intents.
        "calibrated": {"teacher": [0, 0, 1, 1], "small": [2, 1, 1, 0]},
    }


LABELS = np.zeros(40, dtype=int)
ANCESTORS = {"small": "teacher", "smaller": "small"}


def answered(*wrong):
    """Answers to 40 queries of intent 0; those of the slices `wrong` are 1."""
    given = np.zeros(40, dtype=int)
    for part in wrong:
        given[part] = 1
    return given


PLAIN = pd.DataFrame(
    {
        "teacher": answered(slice(0, 10)),
        "small": answered(slice(9, 11)),  # wins 9 and loses 1
        "smaller": answered(slice(9, 25)),  # loses 14 to small; against the teacher, wins 9 and loses 15
    }
)
SAME = pd.DataFrame(dict.fromkeys(PLAIN, answered(slice(0, 10))))


def test_right():
    """A bit a query, and a digest that changes with a text or a label."""
    texts = [f"query {i}" for i in range(40)]
    table = answers.right({"plain": PLAIN, "calibrated": SAME}, LABELS, texts)
    assert table[["model", "kind"]].to_numpy().tolist() == [
        [model, kind] for kind in ("plain", "calibrated") for model in PLAIN
    ]
    for _, row in table.iterrows():
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8))
        given = {"plain": PLAIN, "calibrated": SAME}[row["kind"]][row["model"]]
        assert (bits == (given == LABELS)).all()
    (digest,) = set(table["queries"])
    others = [answers.right({"plain": PLAIN}, LABELS, [*texts[1:], "other"])]
    others.append(answers.right({"plain": PLAIN}, np.eye(40, dtype=int)[0], texts))
    assert digest not in [other["queries"][0] for other in others]


def test_differences_by_hand():
    table = answers.differences({"plain": PLAIN, "calibrated": SAME}, LABELS, ANCESTORS)
    assert table["model"].tolist() == ["teacher", "small", "smaller"] * 2
    assert table["kind"].tolist() == ["plain"] * 3 + ["calibrated"] * 3
    assert table["accuracy"].tolist() == pytest.approx([0.75, 0.95, 0.6, 0.75, 0.75, 0.75])
    assert (table["low"] < table["accuracy"]).all() and (table["accuracy"] < table["high"]).all()
    teacher, small, smaller = (row for _, row in table[:3].iterrows())
    assert teacher.iloc[5:].isna().all()
    p = 2 * (1 + 10) / 2**10
    assert small[["gained_teacher", "p_teacher"]].tolist() == pytest.approx([0.2, p])
    assert pd.isna(small["gained_parent"])  # its parent is the teacher
    assert smaller[["gained_parent", "p_parent"]].tolist() == pytest.approx([-0.35, 2 / 2**14])
    assert smaller["gained_teacher"] == pytest.approx(-0.15)
    # Of six comparisons, three of the same answers: 0.0215 is not under 2 / 6 of 5%, 0.0167.
    assert small["verdict_teacher"] == NONE
    assert smaller[["verdict_parent", "verdict_teacher"]].tolist() == [WORSE, NONE]
    assert (table["gained_teacher"][4:] == 0).all() and (table["verdict_teacher"][4:] == NONE).all()
    assert (table["gained_parent"][5], table["verdict_parent"][5]) == (0, NONE)


def test_what_is_shown_depends_on_the_whole_table():
    """By itself, the same p is under 5%."""
    table = answers.differences({"plain": PLAIN[["teacher", "small"]]}, LABELS, {"small": "teacher"})
    assert table["verdict_teacher"].tolist()[1:] == [BETTER]


def test_comparison_markdown():
    table = answers.differences({"plain": PLAIN, "calibrated": SAME}, LABELS, ANCESTORS)
    lines = answers.comparison_markdown(table, ANCESTORS).splitlines()
    assert lines[0] == (
        "| model | parent | accuracy (95%) | against parent | against teacher | calibrated (95%) "
        "| against parent | against teacher |"
    )
    assert lines[1] == "|---|---|---:|---:|---:|---:|---:|---:|"
    # Wilson's intervals of 30, 38 and 24 in 40.
    assert lines[2] == "| teacher | – | 75.0% (59.8–85.8) | – | – | 75.0% (59.8–85.8) | – | – |"
    assert lines[4] == (
        "| smaller | small | 60.0% (44.6–73.7) | -35.0, worse | -15.0, no difference shown "
        "| 75.0% (59.8–85.8) | +0.0, no difference shown | +0.0, no difference shown |"
    )
    assert lines[5] == ""


def test_the_teacher_alone():
    table = answers.differences({"plain": PLAIN[["teacher"]], "calibrated": PLAIN[["teacher"]]}, LABELS, {})
    assert len(table) == 2 and table.iloc[:, 5:].isna().all(axis=None)
    assert len(answers.comparison_markdown(table, {}).splitlines()) == 5


TRUE = np.array([0, 0, 0, 1, 1, 2, 2, 2])
GIVEN = pd.DataFrame({"teacher": [0, 0, 1, 1, 1, 2, 2, 0], "small": [2, 1, 2, 0, 2, 0, 1, 2], "right": TRUE})


def test_by_domain():
    table = answers.by_domain(GIVEN, TRUE, NAMES, {"banking": ["balance", "transfer", "other"]})
    assert table.index.name == "domain"
    assert table.T.to_dict() == {
        "banking": pytest.approx({"teacher": 4 / 6, "small": 1 / 6, "right": 1}),
        "oos": {"teacher": 1, "small": 0, "right": 1},
    }


def test_by_domain_without_domains():
    table = answers.by_domain(GIVEN, TRUE, NAMES, {})
    assert table["teacher"].to_dict() == pytest.approx({"balance": 2 / 3, "oos": 1, "transfer": 2 / 3})


@pytest.mark.parametrize("most", [10, 2])
def test_confusions(most):
    """The commonest first; of those as common, in the order of the classes."""
    teacher = [("teacher", "transfer", "oos", 1), ("teacher", "balance", "transfer", 1)]
    small = [
        ("small", "transfer", "balance", 2),
        ("small", "transfer", "oos", 1),
        ("small", "oos", "transfer", 1),
        ("small", "oos", "balance", 1),
        ("small", "balance", "transfer", 1),
        ("small", "balance", "oos", 1),
    ]
    table = answers.confusions(GIVEN, TRUE, NAMES, most)
    assert table.columns.tolist() == ["model", "intent", "answer", "queries"]
    assert list(table.itertuples(index=False, name=None)) == [*teacher, *small[:most]]


def test_confusions_of_none():
    assert answers.confusions(GIVEN[["right"]], TRUE, NAMES).empty


def test_f1_by_intent():
    """A rare intent that is never answered has F1 0, and pulls the macro-F1 by a whole share."""
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])
    models = pd.DataFrame({"a": [0, 0, 0, 0, 0, 0, 1, 1, 0], "b": labels})
    table = answers.by_intent(models, labels, ["often", "some", "rare", "absent"])
    assert table["queries"].tolist() == [6, 2, 1, 0]
    assert table["a"].tolist() == pytest.approx([12 / 13, 1.0, 0.0, np.nan], nan_ok=True)
    assert answers.macro_f1(table).to_dict() == pytest.approx({"a": 25 / 39, "b": 1.0})
    lines = answers.rare_markdown(table, most=2).splitlines()
    assert lines[2] == "| *mean of all intents (macro-F1)* |  | 64.1% | 100.0% |"
    assert lines[3:5] == ["| rare | 1 | 0.0% | 100.0% |", "| often | 6 | 92.3% | 100.0% |"]
