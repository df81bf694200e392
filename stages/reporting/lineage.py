"""The steps that led to a model: what each cost, as far as its models were measured."""

from dataclasses import dataclass

import pandas as pd

from stages.measurement.speed import reference

# What a model is called after the steps that made it; the first whose steps hold all of a model's.
FAMILIES = {
    "teacher": set(),
    "distilled": {"general", "distill"},
    "pruned": {"general", "distill", "prune"},
    "structured": {"general", "distill", "structured"},
}
# Steps that another family's models have, too.
COMMON = {"teacher", "vocabulary", "export", "quantize", "pack"}


@dataclass(frozen=True)
class Step:
    """A measured model, and the stages that made it of the one before.

    Its size in MB of 2^20 bytes, its mean latency in ms and its calibrated test accuracy: NaN of BERT-base's
    shape, which is untrained.
    """

    name: str
    stages: list[str]
    size_mb: float
    latency_ms: float
    accuracy: float


def family(lineage: list[dict]) -> str:
    """One of FAMILIES, or "chains" of several kinds of compression."""
    stages = {step["stage"] for step in lineage} - COMMON
    return next((name for name, those in FAMILIES.items() if stages <= those), "chains")


def steps(lineage: list[dict], results: pd.DataFrame, times: pd.DataFrame) -> list[Step]:
    """From BERT-base's shape, a row of latency.csv, `times`, to the model that `lineage` ends with.

    `lineage` is that of settings.Variants. What is no row of `results` was not measured: its stage counts to
    the next that is.
    """
    shape = times.loc[reference.NAME]
    found = [Step(reference.NAME, [], shape["size_mb"], shape["latency_ms"], float("nan"))]
    stages: list[str] = []
    for step in lineage:
        stages.append(step["stage"])
        if step["name"] in results.index:
            row = results.loc[step["name"]]
            numbers = (row["size_mb"], row["latency_ms"], row["accuracy_calibrated"])
            found.append(Step(step["name"], stages, *numbers))
            stages = []
    return found
