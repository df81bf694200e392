import math

import pandas as pd
import pytest

from stages.reporting import lineage

MADE = [
    {"stage": "teacher", "name": "teacher"},
    {"stage": "distill", "name": "distilled"},
    {"stage": "structured", "name": "cut"},
    {"stage": "export", "name": "cut-ort"},
    {"stage": "quantize", "name": "cut-ort-int8"},
]
RESULTS = pd.DataFrame(
    {"size_mb": [80.0, 60.0, 8.0], "latency_ms": [8.0, 4.0, 0.5], "accuracy_calibrated": [0.94, 0.93, 0.92]},
    index=["teacher", "distilled", "cut-ort-int8"],
)
TIMES = pd.DataFrame({"size_mb": [400.0], "latency_ms": [80.0]}, index=["bert-base-shape"])


def test_what_was_not_measured_counts_to_the_next_that_was():
    first, *steps = lineage.steps(MADE, RESULTS, TIMES)
    assert (first.name, first.stages, first.size_mb, first.latency_ms) == ("bert-base-shape", [], 400.0, 80.0)
    assert math.isnan(first.accuracy)
    assert steps == [
        lineage.Step("teacher", ["teacher"], 80.0, 8.0, 0.94),
        lineage.Step("distilled", ["distill"], 60.0, 4.0, 0.93),
        lineage.Step("cut-ort-int8", ["structured", "export", "quantize"], 8.0, 0.5, 0.92),
    ]


@pytest.mark.parametrize(
    ("stages", "name"),
    [
        ([], "teacher"),
        (["vocabulary", "export", "quantize"], "teacher"),
        (["general", "distill"], "distilled"),
        (["distill", "prune", "pack"], "pruned"),
        (["distill", "structured", "vocabulary"], "structured"),
        (["distill", "prune", "structured"], "chains"),
        (["distill", "exits"], "chains"),
        (["distill", "qat"], "chains"),
    ],
)
def test_families(stages, name):
    assert lineage.family([{"stage": stage, "name": stage} for stage in ["teacher", *stages]]) == name
