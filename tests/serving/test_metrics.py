import asyncio

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from stages.serving.metrics import SOON, Histogram, Metrics
from stages.serving.model import Answer


def test_what_shows_drift():
    metrics = Metrics("oos")
    answers = [Answer("balance", 0.93, 0), Answer("oos", 0.32, 1), Answer("oos", 0.999, None)]

    async def answer():
        metrics.answered(200, 0.003, answers)
        metrics.ran(answers[:2])
        return metrics.text()

    lines = asyncio.run(answer()).decode().splitlines()
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
        'requests_total{status="200"} 1.0',
        'request_seconds_bucket{le="0.002"} 0.0',
        'request_seconds_bucket{le="0.004"} 1.0',
    ):
        assert line in lines


@pytest.mark.parametrize("out_of_scope", [None, "other"])
def test_without_out_of_scope(out_of_scope):
    metrics = Metrics(out_of_scope)

    async def answer():
        metrics.answered(200, 0.003, [Answer("balance", 0.5)])
        return metrics.text()

    assert "out_of_scope_total 0.0" in asyncio.run(answer()).decode()


def test_answers_are_counted_soon():
    metrics = Metrics("oos")

    async def answer():
        for _ in range(3):
            metrics.answered(200, 0.003, [Answer("balance", 0.5)])
        await asyncio.sleep(2 * SOON)
        return generate_latest(metrics.registry).decode()

    lines = asyncio.run(answer()).splitlines()
    for line in ('requests_total{status="200"} 3.0', "request_seconds_count 3.0", "prediction_score_sum 1.5"):
        assert line in lines


def test_many_amounts_are_observed_as_each_is():
    one, all_ = (Histogram("a", "b", buckets=[0.5, 1, 2], registry=CollectorRegistry()) for _ in range(2))
    amounts = [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 4.0]
    for amount in amounts:
        one.observe(amount)
    all_.observe_all(amounts)
    (expected,), (got,) = one.collect(), all_.collect()
    values = [
        {(s.name, s.labels.get("le")): s.value for s in m.samples if "created" not in s.name}
        for m in (expected, got)
    ]
    assert values[0] == values[1]
