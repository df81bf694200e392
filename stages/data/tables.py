"""The data as every stage after `download` sees it: data/<split>.parquet and data/labels.json.

data/unlabelled.parquet has texts alone, perhaps none.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.atomic import replacing

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Labels:
    """Intent names in the order of the class indices; `out_of_scope` is one of them or None."""

    names: list[str]
    out_of_scope: str | None

    @property
    def out_of_scope_id(self) -> int | None:
        return None if self.out_of_scope is None else self.names.index(self.out_of_scope)


def write(
    folder: Path | str, tables: dict[str, pd.DataFrame], labels: Labels, unlabelled: Sequence[str] = ()
) -> None:
    """Write the splits: columns `text` and `intent` become `text` and `label`, the class index.

    Train has a `weight` (float32) too, 1 for what comes without. `unlabelled` are texts alone.
    """
    index = {name: i for i, name in enumerate(labels.names)}
    with replacing(folder) as scratch:
        scratch.mkdir()
        for split in SPLITS:
            table = tables[split]
            encoded = pd.DataFrame({"text": table["text"], "label": table["intent"].map(index)})
            if split == "train":
                encoded["weight"] = np.float32(table.get("weight", 1.0))
            encoded.to_parquet(scratch / f"{split}.parquet", index=False)
        texts = pd.DataFrame({"text": pd.Series(unlabelled, dtype="str")})
        texts.to_parquet(scratch / "unlabelled.parquet", index=False)
        (scratch / "labels.json").write_text(json.dumps(vars(labels), indent=2) + "\n")


def read(split: str, folder: Path | str = "data") -> pd.DataFrame:
    """One split, columns `text` (str) and `label` (int64), and of train `weight` (float32).

    Of `unlabelled`, `text` alone.
    """
    return pd.read_parquet(Path(folder) / f"{split}.parquet")


def read_labels(folder: Path | str = "data") -> Labels:
    return Labels(**json.loads((Path(folder) / "labels.json").read_text()))
