"""Which model to deploy."""

import pandas as pd

from stages.core.settings import Select


def choose(table: pd.DataFrame, rule: Select) -> str:
    """The name of a row of `table`, which has `validation_accuracy`, `speedup`, `size_mb` and a teacher.

    Of the rows at most `rule.tolerance` below the teacher, the fastest or the smallest; of those within a
    tenth of it, which neither timing nor a budget tells apart, the most accurate.
    """
    accuracy = table["validation_accuracy"]
    merit = table["speedup"] if rule.objective == "fastest" else 1 / table["size_mb"]
    merit = merit.where(accuracy >= accuracy["teacher"] - rule.tolerance)
    return str(accuracy.where(merit >= 0.9 * merit.max()).idxmax())
