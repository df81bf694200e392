import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.settings import Select
from stages.reporting.selection import ACCURACY, COSTS, choose, front, reason

TABLE = pd.DataFrame(
    {
        ACCURACY: [0.90, 0.895, 0.80, 0.81],
        "latency_ms": [10.0, 2.0, 1.0, 1.05],
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


def test_accuracy_decides_and_not_the_order():
    rule = Select(objective="fastest", tolerance=0.2)
    for accuracy, name in ((0.82, "smaller"), (0.80, "smallest")):
        table = TABLE[::-1].copy()
        table.loc["smaller", ACCURACY] = accuracy
        assert choose(table, rule) == name


FEW = st.sampled_from([0.5, 0.8, 0.85, 0.9])
COST = st.sampled_from([1.0, 1.05, 1.2, 2.0, 10.0])
ROWS = st.lists(st.tuples(FEW, COST, COST), min_size=1, max_size=7)


def beats(one, other, cost):
    """As good on both, and better on one."""
    as_good = one[ACCURACY] >= other[ACCURACY] and one[cost] <= other[cost]
    return as_good and (one[ACCURACY] > other[ACCURACY] or one[cost] < other[cost])


@given(ROWS, st.sampled_from(list(COSTS)), st.sampled_from([0.0, 0.05, 0.1, 1.0]))
def test_no_model_beats_the_one_chosen(rows, objective, tolerance):
    """The teacher comes first here, and last, and is among the worst, as it falls."""
    table = pd.DataFrame(rows, columns=list(TABLE), index=["teacher", *"abcdef"][: len(rows)])
    cost = COSTS[objective]
    name = choose(table, Select(objective=objective, tolerance=tolerance))
    assert not any(beats(row, table.loc[name], cost) for _, row in table.iterrows())
    assert table[ACCURACY][name] >= table[ACCURACY]["teacher"] - tolerance
    unbeaten = [
        name
        for name, row in table.iterrows()
        if not any(beats(other, row, cost) for _, other in table.iterrows())
    ]
    on_front = front(table, cost)  # of several equal rows, one
    assert set(on_front.index) <= set(unbeaten)
    assert {*map(tuple, on_front[[ACCURACY, cost]].to_numpy())} == {
        *map(tuple, table.loc[unbeaten, [ACCURACY, cost]].to_numpy())
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("teacher", "the teacher itself"),
        ("small", "0.5 points below it"),
        ("as good", "level with it"),
        ("better", "1.0 points above it"),
    ],
)
def test_reason(name, words):
    table = pd.concat([TABLE, pd.DataFrame({ACCURACY: [0.9, 0.91]}, index=["as good", "better"])])
    text = reason(table, name, Select(objective="fastest", tolerance=0.02))
    assert text == (
        f"the fastest model within 2 points of the teacher's calibrated validation accuracy ({words})"
    )
