"""Which model to deploy."""

import pandas as pd

from stages.core.settings import Select

# What the models differ in: a column that is better when higher, and one that is better when lower.
ACCURACY = "validation_expected_accuracy_calibrated"
COSTS = {"fastest": "latency_ms", "smallest": "size_mb"}


def front(table: pd.DataFrame, cost: str, accuracy: str = ACCURACY) -> pd.DataFrame:
    """The rows of `table` that no other beats: none is as good on `accuracy` and `cost` and better on one.

    The cheapest comes first.
    """
    ordered = table.sort_values([cost, accuracy], ascending=[True, False], kind="stable")
    return ordered[ordered[accuracy] > ordered[accuracy].cummax().shift(fill_value=-1.0)]


def choose(table: pd.DataFrame, rule: Select) -> str:
    """The name of a row of the `front` of `table`, which has a teacher.

    Of the rows at most `rule.tolerance` below the teacher, the fastest or the smallest; of those within a
    tenth of it, which neither timing nor a budget tells apart, the most accurate.
    """
    best = front(table, COSTS[rule.objective])
    best = best[best[ACCURACY] >= table[ACCURACY]["teacher"] - rule.tolerance]
    cost = best[COSTS[rule.objective]]
    return str(best[ACCURACY].where(cost <= cost.min() / 0.9).idxmax())


def reason(table: pd.DataFrame, name: str, rule: Select) -> str:
    """Why `choose` took the row `name`, as the end of a sentence."""
    gap = 100 * (table[ACCURACY][name] - table[ACCURACY]["teacher"])
    if name == "teacher":
        place = "the teacher itself"
    elif abs(gap) < 0.05:
        place = "level with it"
    else:
        place = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'} it"
    return (
        f"the {rule.objective} model within {100 * rule.tolerance:g} points of the teacher's calibrated "
        f"validation accuracy ({place})"
    )
