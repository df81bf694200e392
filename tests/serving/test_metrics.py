import pytest

from stages.serving.metrics import Metrics
from stages.serving.model import Answer


def test_what_shows_drift():
    metrics = Metrics("oos")
    answers = [Answer("balance", 0.93, 0), Answer("oos", 0.32, 1), Answer("oos", 0.999, None)]
    metrics.answered(answers)
    metrics.ran(answers[:2])
    lines = metrics.text().decode().splitlines()
    for line in (
        'predictions_total{label="balance"} 1.0',
        'predictions_total{label="oos"} 2.0',
        "out_of_scope_total 2.0",
        'prediction_score_bucket{le="0.3"} 0.0',
        'prediction_score_bucket{le="0.35"} 1.0',
        'prediction_score_bucket{le="0.95"} 2.0',
        'prediction_score_bucket{le="1.0"} 3.0',
        'exits_total{exit="0"} 1.0',
        'exits_total{exit="1"} 1.0',
    ):
        assert line in lines


@pytest.mark.parametrize("out_of_scope", [None, "other"])
def test_without_out_of_scope(out_of_scope):
    metrics = Metrics(out_of_scope)
    metrics.answered([Answer("balance", 0.5)])
    assert "out_of_scope_total 0.0" in metrics.text().decode()
