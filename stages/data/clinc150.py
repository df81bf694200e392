"""CLINC150 "plus" (Larson et al., EMNLP-IJCNLP 2019), from the hub or from a local copy."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from stages.core.errors import UserError
from stages.core.settings import Clinc150Data
from stages.data import formats

HOW_TO_GET_IT = (
    "get data/data_oos_plus.json of github.com/clinc/oos-eval, and name it in data.local or in "
    "the environment variable CLINC150_PATH"
)
KEYS = ("train", "val", "test", "oos_train", "oos_val", "oos_test")


def load(params: Clinc150Data) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The three splits and the 151 label names in the hub's order.

    The local file, if `params.local` or CLINC150_PATH names one, else the hub; the same rows
    in the same order either way, held against the checksum in `params.path`.
    """
    try:
        known = json.loads(Path(params.path).read_text("utf-8"))
        labels, sha256 = known["labels"], known["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{params.path} does not give labels and sha256 ({type(error).__name__}): set data.path to "
            "stages/data/clinc150.json"
        ) from None
    local = params.local or os.environ.get("CLINC150_PATH")
    origin = local or f"the hub's {params.hub!r}"
    tables = read_json(Path(local)) if local else _from_hub(params.hub, labels)
    if checksum(tables) != sha256:
        raise UserError(f"{origin} is not CLINC150 plus as published (checksum differs): {HOW_TO_GET_IT}")
    return tables, labels


def checksum(tables: dict[str, pd.DataFrame]) -> str:
    """sha256 of the rows, whatever file they came in."""
    rows = [[split, *row] for split, table in tables.items() for row in table.itertuples(index=False)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def read_json(path: Path) -> dict[str, pd.DataFrame]:
    """Read a file in CLINC's layout."""
    try:
        content = formats.read_json(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {HOW_TO_GET_IT}") from None
    return splits(content, path)


def splits(content, path: Path) -> dict[str, pd.DataFrame]:
    """The splits in CLINC's layout: lists of [text, intent] under train, val, test and oos_*.

    val may be missing. The index says where in `path` each row stands.
    """
    if not isinstance(content, dict) or not {"train", "test"} <= {*content} <= {*KEYS}:
        keys = f"the keys {', '.join(map(repr, content))}" if isinstance(content, dict) else "no keys"
        raise UserError(
            f"{path} is not in CLINC's layout (it has {keys}): it needs lists of [text, intent] under train, "
            f"val and test, and may have them under {', '.join(KEYS[3:])}"
        )
    tables = {}
    for split, key in (("train", "train"), ("validation", "val"), ("test", "test")):
        if key in content or f"oos_{key}" in content:
            tables[split] = formats.table([*_rows(content, key, path), *_rows(content, f"oos_{key}", path)])
    return tables


def _rows(content: dict, key: str, path: Path) -> Iterator[formats.Row]:
    rows = content.get(key, [])
    if not isinstance(rows, list):
        raise UserError(f"{path} is not in CLINC's layout: {key} should be a list of [text, intent]")
    for i, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != 2:
            raise UserError(f"{path}, {key}, row {i}: should be [text, intent]")
        yield f"{path}, {key}, row {i}", *row


def _from_hub(name: str, labels: list[str]) -> dict[str, pd.DataFrame]:
    import datasets

    try:
        dataset = datasets.load_dataset(name, "plus")
        names = dataset["train"].features["intent"].names
        tables = {
            split: formats.arrow(
                dataset[split].with_format("arrow")[:], "text", "intent", f"{name} ({split})", names
            )
            for split in ("train", "validation", "test")
        }
    except Exception as error:  # the hub's client raises a dozen kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"cannot load {name!r} from the hub ({reason}): connect to it, or {HOW_TO_GET_IT}"
        ) from None
    if names != labels:
        raise UserError(f"the hub's {name!r} names its intents otherwise than CLINC150 plus: {HOW_TO_GET_IT}")
    return tables
