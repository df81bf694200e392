import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stages.measurement.quality import calibration
from stages.runtime.calibration import SCORES, Calibration, Threshold

RULES = ["balanced", "accuracy"]


def softmax(logits):
    powers = np.exp(np.asarray(logits, dtype=np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


def value(rule, predictions, labels, out_of_scope):
    right, outside = predictions == labels, labels == out_of_scope
    return right.mean() if rule == "accuracy" else (right[~outside].mean() + right[outside].mean()) / 2


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (10_000, 5))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # drawn from their softmax
    logits *= temperature
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    # Where the likelihood is greatest, labels have the logits that the probabilities expect.
    expected = (softmax(logits / found) * logits).sum(axis=1).mean()
    assert logits[np.arange(len(labels)), labels].mean() == pytest.approx(expected, rel=1e-3)


def test_a_temperature_has_its_limits():
    logits = np.eye(4)
    assert calibration.fit_temperature(logits, np.arange(4)) == pytest.approx(1 / 20, rel=1e-3)
    assert calibration.fit_temperature(logits, 3 - np.arange(4)) == pytest.approx(20, rel=1e-3)


@st.composite
def queries(draw):
    """Logits on a coarse grid, with many ties; labels, in scope and out of it; the out-of-scope label."""
    count, classes = draw(st.integers(2, 12)), draw(st.integers(2, 4))
    grid = st.sampled_from([-2.0, 0.0, 0.5, 1.0, 4.0])
    logits = draw(
        arrays.arrays(draw(st.sampled_from([np.float32, np.float64])), (count, classes), elements=grid)
    )
    labels = draw(arrays.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    out_of_scope = draw(st.integers(0, classes - 1))
    labels[:2] = out_of_scope, (out_of_scope + 1) % classes
    return logits, labels, out_of_scope


@given(queries(), st.sampled_from(sorted(SCORES)), st.sampled_from(RULES))
def test_no_threshold_is_better(queries, score, rule):
    """Than the one chosen, tried one by one; and applied, that one does what it is said to."""
    logits, labels, out_of_scope = queries
    scores = SCORES[score](logits, out_of_scope)
    likeliest = np.where(np.arange(logits.shape[1]) == out_of_scope, -np.inf, logits).argmax(axis=1)
    values = [
        value(rule, np.where(scores < threshold, out_of_scope, likeliest), labels, out_of_scope)
        for threshold in [*scores, np.inf]
    ]
    claimed, threshold = calibration.best_threshold(logits, labels, out_of_scope, score, rule)
    assert claimed == pytest.approx(max(values))
    assert value(rule, threshold.predict(logits), labels, out_of_scope) == pytest.approx(claimed)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbouring_floats_are_told_apart(dtype):
    """Scores with no float halfway between them, of both parities."""
    first = dtype(1)
    second = np.nextafter(first, dtype(2))
    for low, high in ((first, second), (second, np.nextafter(second, dtype(2)))):
        logits = np.array([[low, 0], [high, 0]], dtype)  # of two labels, the energy is the intent's logit
        found, threshold = calibration.best_threshold(logits, np.array([1, 0]), 1, "energy", "accuracy")
        assert found == 1
        assert threshold.predict(logits).tolist() == [1, 0]


def test_the_middle_of_the_best_thresholds():
    """Two queries are answered wrongly on either side of it."""
    energies = np.array([0.0, 1.0, 2.0, 3.0])
    logits = np.stack([energies, energies - 100, np.zeros(4)], axis=1)
    for rule in RULES:
        found, threshold = calibration.best_threshold(logits, np.array([2, 1, 1, 0]), 2, "energy", rule)
        assert threshold == Threshold(2, "energy", 1.5)
        assert found == pytest.approx((1 / 3 + 1) / 2 if rule == "balanced" else 0.5)


def test_the_best_score_is_chosen():
    chosen = set()
    for seed in range(10):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 4, 60)
        logits = rng.normal(0, 2, (60, 4)) + 2 * np.eye(4)[labels]
        fitted = calibration.fit(logits, labels, 3, ["margin", "energy", "probability"], "balanced")
        reached = value("balanced", fitted.predict(logits), labels, 3)
        for score in SCORES:
            alone = calibration.fit(logits, labels, 3, [score], "balanced")
            assert alone.threshold.score == score
            assert reached >= value("balanced", alone.predict(logits), labels, 3)
        chosen.add(fitted.threshold.score)
    assert len(chosen) > 1


@pytest.mark.parametrize(("labels", "out_of_scope"), [([0, 1], None), ([0, 1], 2), ([2, 2], 2)])
def test_nothing_to_learn_a_threshold_from(labels, out_of_scope):
    logits, labels = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]]), np.array(labels)
    fitted = calibration.fit(logits, labels, out_of_scope, ["energy"], "balanced")
    assert fitted == Calibration(calibration.fit_temperature(logits, labels), None)


def binary(confidence):
    return np.stack([confidence, 1 - np.asarray(confidence)], axis=1)


def test_calibration_error_by_hand():
    probabilities = binary([0.92, 0.98, 0.61, 0.65, 1.0, 0.63])
    labels = np.array([0, 1, 0, 0, 0, 1])
    # Bin 0.9 … 1: confidence 2.9/3, accuracy 2/3; bin 0.6 … 0.7: confidence 0.63, accuracy 2/3.
    expected = (0.9 / 3 + 2 / 3 - 0.63) / 2
    assert calibration.expected_calibration_error(probabilities, labels, bins=10) == pytest.approx(expected)
    low, high = calibration.reliability(probabilities, labels, bins=10)
    assert low == pytest.approx({"confidence": 0.63, "accuracy": 2 / 3, "share": 0.5})
    assert high == pytest.approx({"confidence": 2.9 / 3, "accuracy": 2 / 3, "share": 0.5})


def test_calibrated_bins_have_no_error():
    probabilities = binary([0.8] * 5 + [0.6] * 5 + [1.0] * 3)
    labels = np.array([0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0])
    assert calibration.expected_calibration_error(probabilities, labels) == pytest.approx(0, abs=1e-12)


def test_detection_of_a_perfect_and_of_a_useless_score():
    outside = np.arange(80) < 40
    assert calibration.detection(np.where(outside, 0.0, 1.0), outside) == {"auroc": 1, "fpr_at_95_recall": 0}
    assert calibration.detection(np.zeros(80), outside) == {"auroc": 0.5, "fpr_at_95_recall": 1}
