import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from typing import get_args

import numpy as np
import pytest
from scipy import special

from stages import runtime
from stages.checkpoints import sparse_storage
from stages.core.atomic import write_json
from stages.core.section import Score
from stages.runtime import calibration
from stages.runtime.calibration import NONE, SCORES, Calibration, Threshold

QUERIES = ["send money to my car", "balance", "rent a car in w20 w21 w22"]
LOGITS = np.random.default_rng(0).normal(0, 4, (50, 5))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("out_of_scope", [0, 2, 4])
def test_scores_are_their_formulas(dtype, out_of_scope):
    probabilities = special.softmax(LOGITS, axis=1)
    np.testing.assert_allclose(calibration.softmax(LOGITS.astype(dtype)), probabilities, rtol=1e-4)
    intents = [i for i in range(5) if i != out_of_scope]
    for i, row in enumerate(probabilities):
        likeliest = max(intents, key=lambda j: row[j])
        energy = special.logsumexp(LOGITS[i, intents])
        expected = {
            "probability": row[likeliest],
            "energy": energy,
            "energy-0.25": energy - 0.25 * LOGITS[i, out_of_scope],
            "energy-0.5": energy - 0.5 * LOGITS[i, out_of_scope],
            "energy-1": special.logit(1 - row[out_of_scope]),
            "margin": row[likeliest] - max(p for j, p in enumerate(row) if j != likeliest),
        }
        for score, function in SCORES.items():
            got = function(LOGITS.astype(dtype), out_of_scope)
            assert got.shape == (50,)
            assert got[i] == pytest.approx(expected[score], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("out_of_scope", [0, 1])
def test_scores_of_two_labels(out_of_scope):
    logits = LOGITS[:, :2]
    inside = special.expit(logits[:, 1 - out_of_scope] - logits[:, out_of_scope])
    np.testing.assert_allclose(calibration.probability(logits, out_of_scope), inside)
    np.testing.assert_allclose(calibration.margin(logits, out_of_scope), 2 * inside - 1, atol=1e-12)
    np.testing.assert_allclose(calibration.energy(logits, out_of_scope), logits[:, 1 - out_of_scope])


def test_settings_know_the_scores():
    assert get_args(Score) == tuple(SCORES)


def test_large_logits_do_not_overflow():
    logits = 1e4 * LOGITS
    for score in (calibration.softmax, *(lambda x, f=f: f(x, 2) for f in SCORES.values())):
        assert np.isfinite(score(logits)).all()


def test_answers_by_hand():
    logits = np.array([[4.0, 0.0, 3.0], [1.0, 6.0, 2.0], [0.0, 5.0, 8.0], [2.0, 9.0, 0.0]])
    assert NONE.predict(logits).tolist() == [0, 1, 2, 1]
    # Half the logits; 1 is out of scope; energies about 2.47, 1.47, 4.02, 1.31.
    fitted = Calibration(2.0, Threshold(1, "energy", 1.4))
    assert fitted.predict(logits).tolist() == [0, 2, 2, 1]
    np.testing.assert_allclose(fitted.probabilities(logits), special.softmax(logits / 2, axis=1))
    at = fitted.threshold.scores(logits / 2)[1]  # a score at the threshold is not under it
    assert Calibration(2.0, Threshold(1, "energy", at)).predict(logits).tolist() == [0, 2, 2, 1]


def write(folder, fitted):
    write_json(folder / "calibration.json", asdict(fitted))


@pytest.mark.parametrize(
    "fitted", [Calibration(0.1 + 0.2, Threshold(3, "margin", -1 / 3)), Calibration(20.0, None), NONE]
)
def test_kept_as_it_was(fitted, tmp_path):
    assert Calibration.of(None) == NONE
    write(tmp_path, fitted)
    assert Calibration.of(json.loads((tmp_path / "calibration.json").read_text())) == fitted


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", ["student", "student-ort"])
def test_a_folder_is_served_as_it_was_evaluated(models, name, score):
    """Query by query, with a threshold between its scores."""
    logits = runtime.load(models / name).logits(QUERIES)
    values = np.sort(SCORES[score](logits / 2.5, 1))
    fitted = Calibration(2.5, Threshold(1, score, float(values[1] + values[2]) / 2))
    write(models / name, fitted)
    served = runtime.load(models / name)
    answers = [served.labels[i] for i in fitted.predict(logits)]
    assert answers.count("oos") == 2
    assert [served.predict([query])[0].label for query in QUERIES] == answers


@pytest.mark.parametrize("name", ["student", "student-ort"])
def test_a_folders_calibration_is_applied(models, name):
    logits = runtime.load(models / name).logits(QUERIES)
    tempered = special.softmax(logits / 2.5, axis=1)  # of balance, oos, transfer
    for threshold, answers in (
        (None, logits.argmax(axis=1)),
        (Threshold(1, "energy", 1e9), [1, 1, 1]),
        (Threshold(1, "energy", -1e9), np.where(logits[:, 0] >= logits[:, 2], 0, 2)),
    ):
        write(models / name, Calibration(2.5, threshold))
        predictions = runtime.load(models / name).predict(QUERIES)
        assert [p.label for p in predictions] == [("balance", "oos", "transfer")[i] for i in answers]
        expected = tempered[np.arange(len(QUERIES)), answers]
        assert [p.score for p in predictions] == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def packed(models):
    """Pack the model of a name; give its folder."""

    def pack(name):
        folder = models / f"{name}-packed"
        folder.mkdir()
        shutil.copyfile(models / name / "tokenizer.json", folder / "tokenizer.json")
        sparse_storage.pack(models / name, folder)
        return folder

    return pack


@pytest.mark.parametrize("name", ["student", "student-ort", "teacher", "teacher-ort"])
def test_a_packed_model_is_its_parent(models, packed, name):
    folder = packed(name)
    assert len(list(folder.glob("model.*"))) == 1
    expected = runtime.load(models / name).logits(QUERIES)
    np.testing.assert_array_equal(runtime.load(folder).logits(QUERIES), expected)


def test_packed_onnx_models_are_served_without_torch(models, packed):
    write(packed("student-ort"), Calibration(1.5, Threshold(1, "margin", 2.0)))
    code = (
        "import sys; from stages import runtime; "
        "print(runtime.load('models/student-ort-packed').predict(['balance'])[0].label); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "oos"
