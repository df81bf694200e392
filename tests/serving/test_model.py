import numpy as np
import pytest

from stages.runtime.calibration import NONE, SCORES, Calibration, Threshold
from stages.serving.model import Model

TEXTS = ["send money to my car", "balance", "rent a car in w20 w21 w22", "a", "what is my balance"]
CALIBRATIONS = [
    NONE,
    Calibration(0.7, None),
    *(Calibration(1.3, Threshold(0, score, 0.5)) for score in SCORES),
]


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_an_answer_does_not_depend_on_others(exported, calibration):
    model = Model(exported / "student-ort")
    model.classifier.calibration = calibration
    rng = np.random.default_rng(0)
    size = len(model.classifier.labels)
    runs = [model.run(text) for text in TEXTS]
    runs += [[rng.normal(0, 4, (1, size)).astype(np.float32)] for _ in range(40)]
    assert model.answers(runs) == [model.answers([run])[0] for run in runs]
    assert model.answers(runs)[: len(TEXTS)] == [model.answer(text) for text in TEXTS]


def test_an_answer_is_what_the_model_predicts(exported):
    model = Model(exported / "student-ort")
    for answer, expected in zip(
        model.answers([model.run(text) for text in TEXTS]), model.classifier.predict(TEXTS), strict=True
    ):
        assert answer.label == expected.label and answer.score == pytest.approx(expected.score, abs=1e-5)
