import pytest

from stages.reporting.markdown import percent, table_of


def test_table():
    rows = [["a", "b", "1"], ["c", "d", "2"]]
    assert table_of(["x", "y", "z"], rows, "First.", "Second.", left=2) == (
        "| x | y | z |\n|---|---|---:|\n| a | b | 1 |\n| c | d | 2 |\n\nFirst.\n\nSecond.\n"
    )
    assert table_of(["x", "y"], []) == "| x | y |\n|---|---:|\n"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.1234, "12.3%"), (1.0, "100.0%"), (None, "–"), (float("nan"), "–")]
)
def test_percent(value, shown):
    assert percent(value) == shown


def test_percent_of_more_digits():
    assert percent(0.123456, 2) == "12.35%"
