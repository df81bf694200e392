"""A report's results as text for the terminal."""

from pathlib import Path
from textwrap import fill

import pandas as pd

from stages.core import model_folder
from stages.measurement import identity
from stages.reporting import evidence
from stages.reporting.markdown import percent
from stages.reporting.results import SPREAD, cpu, times

WIDTH = 100
NUMBERS = ("accuracy_calibrated", "size_mb", "latency_mean_ms", "speedup_over_bert_base")
MACHINE = ("cpu", "cores", "threads", "int8_instructions")
IDENTITY = ("model_sha256", "data_sha256")


def text(folder: Path, beside: Path | None = None, here: bool = False) -> str:
    """The table of the report `folder`, the model selected and why, and where to look next.

    With the accuracy and speed-up that the models of the same name have in the report `beside`. Where the
    report should be of the models and data `here`, in the working directory, numbers of others are left out.
    """
    results, machine, selected = read(folder)
    best = _best(folder, results, selected)
    others = _others(results) if here else {}
    results.loc[list(others), list(NUMBERS)] = float("nan")
    table = pd.DataFrame(
        {
            "accuracy": results["accuracy_calibrated"].map(percent),
            "size": results["size_mb"].map(_known("{:.1f} MB")),
            "latency": results["latency_mean_ms"].map(_known("{:.2f} ms")),
            "speed-up": results["speedup_over_bert_base"].map(times),
        }
    )
    threshold = "with the out-of-scope threshold chosen on validation"
    if "score" in results and results["score"].isna().all():
        threshold = "without an out-of-scope threshold"
    notes = [
        f"Accuracy: on test, {threshold}. Latency: mean over test queries, one at a time. Speed-up: over "
        "BERT-base's shape in torch, timed in the same rounds.",
        *_sure(results),
        *(f"{reason}: {', '.join(names)}. Run `dvc repro`." for reason, names in _by_reason(others).items()),
    ]
    if beside is not None and beside != folder:
        theirs, their_machine, _ = read(beside)
        theirs = theirs.reindex(results.index)
        table["accuracy there"] = theirs["accuracy_calibrated"].map(percent)
        table["speed-up there"] = theirs["speedup_over_bert_base"].map(times)
        notes.append(f"There: {beside}, on {cpu(their_machine)}.")
        if not _queries(folder) & _queries(beside):
            notes.append("The accuracies there are not known to be of the same test queries.")
    names = ["* " + name if name == best else "  " + name for name in table.index]
    table.index = [name.ljust(max(map(len, names))) for name in names]  # pandas sets an index to the right
    paragraphs = [
        fill(f"Results in {folder}, on {cpu(machine)}:", WIDTH),
        table.to_string(),
        *(fill(note, WIDTH) for note in notes),
        fill(f"* {best} is models/best: {selected['reason']}.", WIDTH),
        'Ask it:   intents predict --model models/best "what is my balance"\n'
        f"Look at:  intents explore, or {folder}/README.md with every table and picture\n"
        "Change:   conf/README.md says which settings there are",
    ]
    return "\n\n".join(paragraphs)


def _sure(results: pd.DataFrame) -> list[str]:
    """How far another draw of validation moves an accuracy, by its threshold, if the report says so."""
    if not {*SPREAD} <= {*results} or results[SPREAD].isna().all(axis=None):
        return []
    low, high = (results[key] for key in SPREAD)
    return [
        f"Another draw of validation moves an accuracy by up to {100 * (high - low).max():.1f} points (95%)."
    ]


def read(folder: Path) -> tuple[pd.DataFrame, dict, dict]:
    """results.csv, machine.json and selected.json of a report; a UserError where one is damaged."""
    tables = folder / "tables"
    results = evidence.table(tables / "results.csv", NUMBERS)
    if "best" not in results:
        raise evidence.damaged(str(tables / "results.csv"), "has no column 'best'")
    machine = evidence.values(tables / "machine.json", MACHINE)
    return results, machine, evidence.values(tables / "selected.json", ("model", "reason"))


def _best(folder: Path, results: pd.DataFrame, selected: dict) -> str:
    """The model selected, on which both files have to agree."""
    best = results.index[results["best"].eq(True)].tolist()
    if best != [selected["model"]]:
        names = ", ".join(best) or "none"
        raise evidence.damaged(
            str(folder / "tables" / "selected.json"), f"names {selected['model']}, and results.csv {names}"
        )
    return best[0]


def _queries(folder: Path) -> set[str]:
    """The digest of the test queries that a report's accuracies are of, if it says so."""
    file = folder / "tables" / "right.csv"
    if not file.exists():
        return set()
    return set(evidence.table(file, (), texts=("queries", "right"), key=("model", "kind"))["queries"])


def _others(results: pd.DataFrame) -> dict[str, str]:
    """The rows measured on other models or data than those here, as far as they are here; and which."""
    if any(column not in results for column in IDENTITY):
        unknown = "The report does not say on which models and data it was measured"
        return dict.fromkeys(results.index, unknown) if Path("data").exists() else {}
    data = identity.of_data() if Path("data/test.parquet").exists() else None
    others = {}
    for name, row in results.iterrows():
        folder = model_folder.CALIBRATED / str(name)
        if data not in (None, row["data_sha256"]):
            others[str(name)] = "Measured on other data than data/ has, and left out"
        elif folder.exists() and identity.of_model(folder) != row["model_sha256"]:
            others[str(name)] = "Measured on other models than calibrated/ has, and left out"
    return others


def _by_reason(others: dict[str, str]) -> dict[str, list[str]]:
    return {reason: [n for n, why in others.items() if why == reason] for reason in others.values()}


def _known(form: str):
    """A formatter that gives – for what is not known."""
    return lambda value: "–" if pd.isna(value) else form.format(value)
