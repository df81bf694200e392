import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.errors import UserError
from stages.data.splits import complete, rare, split, split_counts, take_out

FRACTION = st.floats(min_value=0, max_value=0.5, exclude_min=True, exclude_max=True)
SIZES = {"balance": 40, "oos": 10, "transfer": 3}


def queries(sizes):
    return pd.DataFrame(
        [(f"{intent} {i}", intent) for intent, n in sizes.items() for i in range(n)],
        columns=["text", "intent"],
    )


@pytest.mark.parametrize(
    ("total", "test", "validation", "expected"),
    [
        (100, 0.2, 0.1, (20, 10)),
        (25, 0.25, 0.15, (6, 4)),
        (10, 0.01, 0.01, (1, 1)),
        (3, 0.4, 0.4, (1, 1)),
        (4, 0.49, 0.49, (2, 1)),
    ],
)
def test_split_counts(total, test, validation, expected):
    assert split_counts(total, test, validation) == expected


@settings(database=None)
@given(st.integers(3, 500), FRACTION, FRACTION)
def test_three_are_enough_for_all_splits(total, test_fraction, validation_fraction):
    test, validation = split_counts(total, test_fraction, validation_fraction)
    assert min(test, validation, total - test - validation) >= 1


def test_every_intent_in_proportion_and_every_row_once():
    parts = split(queries(SIZES), 0.2, 0.1, seed=0)
    assert list(parts) == ["train", "validation", "test"]
    counts = {name: part["intent"].value_counts().to_dict() for name, part in parts.items()}
    assert counts == {
        "train": {"balance": 28, "oos": 7, "transfer": 1},
        "validation": {"balance": 4, "oos": 1, "transfer": 1},
        "test": {"balance": 8, "oos": 2, "transfer": 1},
    }
    joined = pd.concat(parts.values())
    assert sorted(joined["text"]) == sorted(queries(SIZES)["text"])
    assert (joined["text"].str.split().str[0] == joined["intent"]).all()


def test_a_new_intent_moves_no_query_of_the_others():
    old = split(queries(SIZES), 0.2, 0.1, seed=0)
    new = split(queries({"alarm": 7} | SIZES), 0.2, 0.1, seed=0)
    for name in old:
        kept = new[name][new[name]["intent"] != "alarm"].reset_index(drop=True)
        pd.testing.assert_frame_equal(kept, old[name])


def test_an_intent_with_too_few_queries():
    with pytest.raises(
        UserError, match=r"^intent 'rare' has 2 distinct queries, and a split needs 3 at least"
    ):
        split(queries(SIZES | {"rare": 2}), 0.2, 0.1, seed=0)


def test_a_missing_validation_is_taken_out_of_train():
    train, test = queries(SIZES | {"rare": 1}), queries({"alarm": 5})
    parts = complete({"train": train, "test": test}, 0.2, 0.1, seed=0)
    assert parts["test"] is test
    counts = {name: parts[name]["intent"].value_counts().to_dict() for name in ("train", "validation")}
    assert counts == {
        "train": {"balance": 36, "oos": 9, "transfer": 2, "rare": 1},
        "validation": {"balance": 4, "oos": 1, "transfer": 1},
    }
    assert sorted([*parts["train"]["text"], *parts["validation"]["text"]]) == sorted(train["text"])
    again, other = (take_out(train, 0.1, seed)[1]["text"].tolist() for seed in (0, 1))
    assert parts["validation"]["text"].tolist() == again != other


def test_given_splits_stay():
    given = {"train": queries(SIZES), "validation": queries({"oos": 1}), "test": queries({"oos": 2})}
    assert complete(given, 0.2, 0.1, seed=0) is given
    assert list(complete({"train": queries(SIZES)}, 0.2, 0.1, seed=0)) == ["train", "validation", "test"]


def test_a_warning_names_intents_with_few_queries():
    assert rare(queries({"balance": 10})) is None
    assert rare(queries({"balance": 40, "b": 9, "a": 1, "c": 3})).startswith(
        "warning: 3 of 4 intents have fewer than 10 training queries: a (1), c (3), b (9). Add some;"
    )
