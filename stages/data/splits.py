"""Splits made by seed."""

import random

import numpy as np
import pandas as pd

from stages.core.errors import UserError

FEW = 10  # training queries of an intent, under which a warning names it
# What sources call each split.
NAMES = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}


def split_counts(total: int, test_fraction: float, validation_fraction: float) -> tuple[int, int]:
    """How many of `total` go to test and to validation: of three or more, at least one each, and to train."""
    test = max(1, round(total * test_fraction))
    return test, max(1, min(round(total * validation_fraction), total - test - 1))


def split(
    table: pd.DataFrame, test_fraction: float, validation_fraction: float, seed: int
) -> dict[str, pd.DataFrame]:
    """Deal the rows out to train, validation and test, each intent in the same proportions."""
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for intent, rows in table.groupby("intent").indices.items():
        if len(rows) < 3:
            raise UserError(
                f"intent {intent!r} has {len(rows)} distinct queries, and a split needs 3 at least: "
                "add some, or give train, validation and test files"
            )
        rows = list(rows)
        random.Random(f"{seed}/{intent}").shuffle(rows)
        test, validation = split_counts(len(rows), test_fraction, validation_fraction)
        parts["test"] += rows[:test]
        parts["validation"] += rows[test : test + validation]
        parts["train"] += rows[test + validation :]
    return {name: table.iloc[sorted(rows)].reset_index(drop=True) for name, rows in parts.items()}


def rare(train: pd.DataFrame) -> str | None:
    """A line that names the intents with fewer than FEW training queries, rarest first; None without any."""
    counts = train["intent"].value_counts(ascending=True)
    few = counts[counts < FEW]
    if few.empty:
        return None
    named = ", ".join(f"{intent} ({count})" for intent, count in few.iloc[:5].items())
    more = ", …" if len(few) > 5 else ""
    return (
        f"warning: {len(few)} of {len(counts)} intents have fewer than {FEW} training queries: {named}{more}."
        " Add some; the report has the F1 of each intent"
    )


def complete(
    tables: dict[str, pd.DataFrame], test_fraction: float, validation_fraction: float, seed: int
) -> dict[str, pd.DataFrame]:
    """All three splits: train alone is dealt out to them, and a missing validation is taken out of train."""
    if "test" not in tables:
        return split(tables["train"], test_fraction, validation_fraction, seed)
    if "validation" not in tables:
        train, validation = take_out(tables["train"], validation_fraction, seed)
        return {"train": train, "validation": validation, "test": tables["test"]}
    return tables


def take_out(table: pd.DataFrame, fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is left, and the fraction of each intent; of two queries, one is on either side."""
    taken: list[int] = []
    for intent, rows in table.groupby("intent").indices.items():
        rows = list(rows)
        random.Random(f"{seed}/{intent}").shuffle(rows)
        taken += rows[: min(max(1, round(len(rows) * fraction)), len(rows) - 1)]
    is_taken = np.isin(np.arange(len(table)), taken)
    return table[~is_taken].reset_index(drop=True), table[is_taken].reset_index(drop=True)
