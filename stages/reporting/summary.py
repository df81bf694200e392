"""A report's results as text for the terminal."""

import json
from pathlib import Path
from textwrap import fill

import pandas as pd

from stages.core.errors import UserError
from stages.reporting.markdown import percent
from stages.reporting.results import cpu, times

WIDTH = 100


def text(folder: Path, beside: Path | None = None) -> str:
    """The table of the report `folder`, the model selected and why, and where to look next.

    With the accuracy and speed-up that the models of the same name have in the report `beside`.
    """
    results, machine, selected = _read(folder)
    table = pd.DataFrame(
        {
            "accuracy": results["accuracy_calibrated"].map(percent),
            "size": results["size_mb"].map("{:.1f} MB".format),
            "latency": results["latency_p50_ms"].map("{:.2f} ms".format),
            "speed-up": results["speedup_over_bert_base"].map(times),
        }
    )
    notes = [
        "Accuracy: on test, with the out-of-scope threshold chosen on validation. Latency: of one query, "
        "median. Speed-up: over BERT-base's shape in torch, timed in the same rounds."
    ]
    if beside is not None and beside != folder:
        theirs, their_machine, _ = _read(beside)
        theirs = theirs.reindex(results.index)
        table["accuracy there"] = theirs["accuracy_calibrated"].map(percent)
        table["speed-up there"] = theirs["speedup_over_bert_base"].map(times)
        notes.append(f"There: {beside}, on {cpu(their_machine)}.")
    best = results.index[results["best"]][0]
    names = ["* " + name if name == best else "  " + name for name in table.index]
    table.index = [name.ljust(max(map(len, names))) for name in names]  # pandas sets an index to the right
    paragraphs = [
        fill(f"Results in {folder}, on {cpu(machine)}:", WIDTH),
        table.to_string(),
        *(fill(note, WIDTH) for note in notes),
        fill(f"* {best} is models/best: {selected['reason']}.", WIDTH),
        'Ask it:   intents predict --model models/best "what is my balance"\n'
        f"Look at:  {folder}/README.md, with every table and picture\n"
        "Change:   conf/README.md says which settings there are",
    ]
    return "\n\n".join(paragraphs)


def _read(folder: Path) -> tuple[pd.DataFrame, dict, dict]:
    """results.csv, machine.json and selected.json."""
    tables = folder / "tables"
    try:
        results = pd.read_csv(tables / "results.csv", index_col="model")
        machine, selected = (json.loads((tables / f"{n}.json").read_text()) for n in ("machine", "selected"))
        return results, machine, selected
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing: make the report with `dvc repro`") from None
