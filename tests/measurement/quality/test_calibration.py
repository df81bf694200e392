import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve

from stages.measurement.quality import calibration
from stages.runtime.calibration import SCORES, Calibration, Threshold


def softmax(logits):
    powers = np.exp(np.asarray(logits, dtype=np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


def value(share, predictions, labels, out_of_scope):
    right, outside = predictions == labels, labels == out_of_scope
    return (1 - share) * right[~outside].mean() + share * right[outside].mean()


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


def simulated(seed, inside=400, outside=60):
    """Logits of three intents and, last, out of scope, whose scores overlap; labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2, 3], [inside - 2 * (inside // 3), inside // 3, inside // 3, outside])
    logits = rng.normal(0, 1, (len(labels), 4))
    logits[np.arange(len(labels)), labels] += 3
    return logits, labels


def chosen(logits, labels, score, share, counts=None):
    """The threshold on one score, of untempered logits with the last label out of scope."""
    counts = np.ones((1, len(labels))) if counts is None else counts
    (threshold,) = calibration.choose(logits, labels, logits.shape[1] - 1, [score], share, counts)
    return threshold


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("score", ["probability", "energy-0.25"])
def test_even_is_where_scikit_learns_regression_is(score, share):
    logits, labels = simulated(0)
    values = SCORES[score](logits, 3)
    outside = labels == 3
    right = logits[:, :3].argmax(axis=1) == labels  # a wrong answer gains nothing on either side
    weights = np.where(outside, share / outside.sum(), (1 - share) * right / (~outside).sum())
    used = weights > 0
    regression = LogisticRegression(C=1e6, tol=1e-8).fit(
        values[used, None], ~outside[used], 1000 * weights[used]
    )
    threshold = -regression.intercept_[0] / regression.coef_[0, 0]
    probabilities = regression.predict_proba(values[used, None])
    loss = -np.log(probabilities[np.arange(used.sum()), (~outside[used]).astype(int)]) @ weights[used]
    found = calibration.even(values, outside, weights, np.ones((1, len(labels))))
    assert np.ravel(found) == pytest.approx([loss, threshold], rel=1e-3)
    assert chosen(logits, labels, score, share) == Threshold(3, score, found[1][0])


def test_a_threshold_lies_between_what_it_tells_apart():
    for count in (20, 200):
        energies = np.concatenate([np.linspace(0, 4, count), np.linspace(5, 9, count)])
        logits = np.stack([energies, np.zeros(2 * count)], axis=1)  # of two labels, the intent's logit
        for share in (0.03, 0.2, 0.5):
            assert 4 < chosen(logits, np.repeat([1, 0], count), "energy", share).value < 5


@given(queries(), st.sampled_from(sorted(SCORES)), st.sampled_from([0.03, 0.4]))
def test_any_queries_have_a_finite_threshold(queries, score, share):
    logits, labels, out_of_scope = queries
    counts = np.array([np.ones(len(labels)), np.arange(len(labels)) == 0])  # and a draw of a single query
    found = calibration.choose(logits, labels, out_of_scope, [score], share, counts)
    assert np.isfinite([threshold.value for threshold in found]).all()
    (alone,) = calibration.choose(logits, labels, out_of_scope, [score], share, counts[:1])
    assert alone.value == pytest.approx(found[0].value, rel=1e-6, abs=1e-6)  # a draw knows of no other


@pytest.mark.parametrize(("share", "refused"), [(0.4, 0), (0.6, 80)])
@pytest.mark.parametrize("slope", [0, -1])
def test_a_score_that_tells_nothing_accepts_or_refuses_all(share, refused, slope):
    """Constant, or highest for queries out of scope."""
    energies = slope * np.linspace(0, 10, 80)
    logits, labels = np.stack([energies, np.zeros(80)], axis=1), np.repeat([1, 0], [30, 50])
    answers = chosen(logits, labels, "energy", share).predict(logits)
    assert (answers == 1).sum() == refused


def test_thresholds_vary_less_than_the_best_ones_and_do_better():
    """Than those with the best expected accuracy on the same queries, on others."""
    others, labels_of_others = simulated(1000, 20_000, 20_000)
    best, even = [], []
    for seed in range(40):
        logits, labels = simulated(seed)
        tries = SCORES["energy"](logits, 3)
        reached = [value(0.2, Threshold(3, "energy", t).predict(logits), labels, 3) for t in tries]
        best.append(tries[np.argmax(reached)])
        even.append(chosen(logits, labels, "energy", 0.2).value)
    best_reach, even_reach = (
        np.mean([value(0.2, Threshold(3, "energy", t).predict(others), labels_of_others, 3) for t in of])
        for of in (best, even)
    )
    assert np.std(even) < 0.7 * np.std(best)
    assert even_reach > best_reach


@pytest.mark.parametrize("score", ["energy", "margin"])
def test_draws_are_fits_of_the_queries_drawn(score):
    logits, labels = simulated(0)
    fitted = calibration.fit(logits, labels, 3, [score], 0.2)
    again = calibration.refit(logits, labels, fitted, [score], 0.2)
    assert again == calibration.refit(logits, labels, fitted, [score], 0.2)
    assert len(again) == calibration.RESAMPLES
    spread = np.std([threshold.value for threshold in again])
    rng = np.random.default_rng(1)
    for _ in range(5):
        sides = (labels == 3, labels != 3)
        drawn = np.concatenate([rng.choice(np.flatnonzero(side), side.sum()) for side in sides])
        counts = np.bincount(drawn, minlength=len(labels))[None].astype(float)
        of_counts = chosen(logits / fitted.temperature, labels, score, 0.2, counts)
        of_rows = chosen(logits[drawn] / fitted.temperature, labels[drawn], score, 0.2)
        assert of_counts.value == pytest.approx(of_rows.value, abs=0.2 * spread)


def test_the_interval_is_as_wide_as_other_validations_are_apart():
    logits, labels = simulated(0)
    fitted = calibration.fit(logits, labels, 3, ["energy"], 0.2)
    spread = calibration.spread(fitted, calibration.refit(logits, labels, fitted, ["energy"], 0.2))
    assert spread["same_score"] == 1 and spread["low"] < fitted.threshold.value < spread["high"]
    others = []
    for seed in range(1, 100):
        logits, labels = simulated(seed)
        others.append(chosen(logits / fitted.temperature, labels, "energy", 0.2).value)
    width = np.ptp(np.percentile(others, [2.5, 97.5]))
    assert spread["high"] - spread["low"] == pytest.approx(width, rel=0.3)


def test_spread_by_hand():
    fitted = Calibration(1.0, Threshold(1, "energy", 2.0))
    again = [Threshold(1, "energy", v) for v in np.linspace(1, 3, 41)] + [Threshold(1, "margin", 0.1)] * 41
    assert calibration.spread(fitted, again) == pytest.approx({"same_score": 0.5, "low": 1.05, "high": 2.95})
    none = Calibration(1.0, None)
    assert calibration.refit(np.eye(3), np.arange(3), none, ["energy"], 0.2) == []
    assert calibration.spread(none, []) is None


def test_the_score_with_the_least_loss_is_chosen():
    kept = set()
    for seed in range(10):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 4, 60)
        logits = rng.normal(0, 2, (60, 4)) + 2 * np.eye(4)[labels]
        fitted = calibration.fit(logits, labels, 3, list(SCORES), 0.5, fewest=1)
        losses = {}
        for score, of in SCORES.items():
            tempered, outside = logits / fitted.temperature, labels == 3
            right = tempered[:, :3].argmax(axis=1) == labels
            gains = np.where(outside, 0.5 / outside.sum(), 0.5 * right / (~outside).sum())
            losses[score] = calibration.even(of(tempered, 3), outside, gains, np.ones((1, 60)))[0][0]
        assert losses[fitted.threshold.score] == min(losses.values())
        assert fitted == calibration.fit(logits, labels, 3, [fitted.threshold.score], 0.5, fewest=1)
        kept.add(fitted.threshold.score)
    assert len(kept) > 1


@pytest.mark.parametrize(("labels", "out_of_scope"), [([0, 1], None), ([0, 1], 2), ([2, 2], 2)])
def test_nothing_to_learn_a_threshold_from(labels, out_of_scope):
    logits, labels = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]]), np.array(labels)
    fitted = calibration.fit(logits, labels, out_of_scope, ["energy"], 0.5, fewest=1)
    assert fitted == Calibration(calibration.fit_temperature(logits, labels), None)


@pytest.mark.parametrize(
    ("inside", "outside", "learnt"), [(60, 20, True), (60, 19, False), (60, 3, False), (19, 60, False)]
)
def test_a_threshold_takes_twenty_queries_of_each_side(inside, outside, learnt):
    labels = np.repeat([0, 1], [inside, outside])
    logits = np.random.default_rng(0).normal(0, 1, (len(labels), 2)) + np.eye(2)[labels]
    fitted = calibration.fit(logits, labels, 1, ["energy"], 0.5)
    assert (fitted.threshold is not None) == learnt
    assert fitted.temperature == calibration.fit_temperature(logits, labels)


def test_a_temperature_takes_twenty_queries():
    logits = np.tile(np.eye(2), (10, 1))
    for count, temperature in ((19, 1.0), (20, 1 / 20)):
        fitted = calibration.fit(logits[:count], logits[:count].argmax(axis=1), None, ["energy"], 0.5)
        assert fitted.temperature == pytest.approx(temperature, rel=1e-3)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_constant_scores_have_a_finite_threshold(value):
    labels = np.repeat([0, 1, 2], 30)
    for score in SCORES:
        found = calibration.fit(np.full((90, 3), value), labels, 2, [score], 0.5)
        assert np.isfinite([found.temperature, found.threshold.value]).all()


def test_a_higher_share_refuses_more():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    logits = rng.normal(0, 2, (400, 4)) + 2 * np.eye(4)[labels]
    fitted = [calibration.fit(logits, labels, 3, ["energy"], share) for share in (0.05, 0.3, 0.6)]
    refused = [(calibration.predict(logits) == 3).mean() for calibration in fitted]
    assert refused == sorted(refused)
    assert refused[0] < refused[-1]


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


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.7]), st.booleans()), min_size=2, max_size=60))
def test_detection_is_scikit_learns(queries):
    scores, outside = np.array([score for score, _ in queries]), np.array([out for _, out in queries])
    outside[:2] = True, False
    false_positives, recall, _ = roc_curve(outside, -scores, drop_intermediate=False)
    assert calibration.detection(scores, outside) == pytest.approx(
        {
            "auroc": roc_auc_score(outside, -scores),
            "fpr_at_95_recall": false_positives[np.argmax(recall >= 0.95 - 1e-12)],
        }
    )


def test_detection_of_a_perfect_and_of_a_useless_score():
    outside = np.arange(80) < 40
    assert calibration.detection(np.where(outside, 0.0, 1.0), outside) == {"auroc": 1, "fpr_at_95_recall": 0}
    assert calibration.detection(np.zeros(80), outside) == {"auroc": 0.5, "fpr_at_95_recall": 1}
