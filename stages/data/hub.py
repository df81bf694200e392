"""Any dataset that `datasets.load_dataset` loads: of the hub, or a folder in the hub's layout."""

import pandas as pd

from stages.core.errors import UserError, log_in
from stages.core.settings import HubData
from stages.data import formats
from stages.data.splits import NAMES


def load(params: HubData) -> dict[str, pd.DataFrame]:
    """The dataset's train and test, with validation if there is one; or train alone."""
    import datasets

    try:
        dataset = datasets.load_dataset(params.hub, params.config, revision=params.revision)
        contents = {name: rows.with_format("arrow")[:] for name, rows in dataset.items()}
    except Exception as error:  # the hub's client raises a dozen kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"cannot load {params.hub!r} ({reason}): {log_in(error)}connect to the hub, or correct data.hub "
            "and data.config"
        ) from None
    found = {split: [name for name in names if name in contents] for split, names in NAMES.items()}
    if any(len(names) > 1 for names in found.values()) or not (
        found["train"] and (found["test"] or not found["validation"])
    ):
        raise UserError(
            f"{params.hub!r} has the splits {', '.join(contents)}: it needs train and test, and may have one "
            "of validation; or train alone"
        )
    used = {split: names[0] for split, names in found.items() if names}
    if ignored := contents.keys() - used.values():
        print(f"{params.hub}: {', '.join(sorted(ignored))} not read, since the name is no split's")
    return {
        split: formats.arrow(
            contents[name],
            params.text_column,
            params.intent_column,
            f"{params.hub} ({name})",
            getattr(dataset[name].features.get(params.intent_column), "names", None),
        )
        for split, name in used.items()
    }
