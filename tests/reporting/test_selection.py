import pandas as pd
import pytest

from stages.core.settings import Select
from stages.reporting.selection import choose

TABLE = pd.DataFrame(
    {
        "validation_accuracy": [0.90, 0.895, 0.80, 0.81],
        "speedup": [1.0, 5.0, 10.0, 9.5],
        "size_mb": [80.0, 16.0, 8.5, 8.0],
    },
    index=["teacher", "small", "smaller", "smallest"],
)


@pytest.mark.parametrize(
    ("objective", "tolerance", "name"),
    [
        ("fastest", 0.0, "teacher"),
        ("fastest", 0.01, "small"),
        ("fastest", 0.095, "smallest"),  # smaller is as fast, and not within the tolerance
        ("fastest", 0.2, "smallest"),  # of two as fast, the more accurate
        ("smallest", 0.01, "small"),
        ("smallest", 0.2, "smallest"),
    ],
)
def test_choose(objective, tolerance, name):
    assert choose(TABLE, Select(objective=objective, tolerance=tolerance)) == name


def test_validation_decides_and_not_the_order():
    rule = Select(objective="fastest", tolerance=0.2)
    for accuracy, name in ((0.82, "smaller"), (0.80, "smallest")):
        table = TABLE[::-1].copy()
        table.loc["smaller", "validation_accuracy"] = accuracy
        assert choose(table, rule) == name
