"""What the models answered on test, query by query: intervals, differences, domains, confusions."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from stages.measurement.statistics import mcnemar, verdicts, wilson
from stages.reporting.markdown import percent, table_of
from stages.reporting.results import calibration
from stages.runtime.calibration import NONE

KINDS = ("plain", "calibrated")
AGAINST = ("parent", "teacher")


def predictions(rows: list[str]) -> dict[str, pd.DataFrame]:
    """Class indices by kind, a row a query and a column a model."""
    answers: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
    for name in rows:
        logits = np.load(Path("evaluations") / name / "test.npy")
        answers["plain"][name] = NONE.predict(logits)
        answers["calibrated"][name] = calibration(name).predict(logits)
    return {kind: pd.DataFrame(columns) for kind, columns in answers.items()}


def right(answers: dict[str, pd.DataFrame], labels: np.ndarray, texts: Iterable[str]) -> pd.DataFrame:
    """Which queries each model has right, to be compared with those of another commit.

    `model`, `kind`, `queries` (a digest of texts and labels), `right` (a bit a query, in hex).
    """
    digest = hashlib.sha256(json.dumps([list(texts), labels.tolist()]).encode()).hexdigest()[:16]
    rows = [
        (model, kind, digest, np.packbits(table[model] == labels).tobytes().hex())
        for kind, table in answers.items()
        for model in table
    ]
    return pd.DataFrame(rows, columns=["model", "kind", "queries", "right"])


def differences(
    answers: dict[str, pd.DataFrame], labels: np.ndarray, ancestors: dict[str, str]
) -> pd.DataFrame:
    """A row for each model and kind, with its `accuracy`, `low`, `high`.

    Against its parent and the teacher (`_parent`, `_teacher`), what it `gained`, McNemar's `p` and the
    `verdict`. The parent is the nearest of the rows that it comes from, `ancestors`; where that is the
    teacher, there is one comparison.
    """
    rows: list[dict] = []
    tested = []
    for kind, table in answers.items():
        for name in table:
            right = (table[name] == labels).to_numpy()
            low, high = wilson(right)
            row = {"model": name, "kind": kind, "accuracy": right.mean(), "low": low, "high": high}
            for key, other in (("parent", ancestors.get(name)), ("teacher", "teacher")):
                if other and name != "teacher" and (key, other) != ("parent", "teacher"):
                    difference = mcnemar(right, (table[other] == labels).to_numpy())
                    row |= {f"gained_{key}": difference.gained, f"p_{key}": difference.p}
                    tested.append((row, f"verdict_{key}", difference))
            rows.append(row)
    for (row, key, _), verdict in zip(tested, verdicts([t[2] for t in tested]), strict=True):
        row[key] = verdict
    columns = ["model", "kind", "accuracy", "low", "high"]
    columns += [f"{key}_{other}" for other in AGAINST for key in ("gained", "p", "verdict")]
    return pd.DataFrame(rows, columns=columns)


def comparison_markdown(comparison: pd.DataFrame, ancestors: dict[str, str]) -> str:
    """Accuracy with intervals, and differences in words."""
    columns = ["model", "parent", "accuracy (95%)", *(f"against {other}" for other in AGAINST)]
    columns += ["calibrated (95%)", *columns[3:]]
    rows = []
    for name, kinds in comparison.groupby("model", sort=False):
        cells = [str(name), ancestors.get(name) or "–"]
        for _, row in kinds.iterrows():
            low, high = 100 * row["low"], 100 * row["high"]
            cells.append(f"{100 * row['accuracy']:.1f}% ({low:.1f}–{high:.1f})")
            cells += [_difference(row[f"gained_{other}"], row[f"verdict_{other}"]) for other in AGAINST]
        rows.append(cells)
    return table_of(
        columns,
        rows,
        "Accuracy on the test split, with 95% Wilson intervals. Differences are in points, on the same "
        "queries. A difference is called better or worse by McNemar's exact test, at a false discovery rate "
        "of 5% over the table. The parent is the nearest row that the model was made from.",
        left=2,
    )


def _difference(gained: float, verdict: str) -> str:
    return "–" if pd.isna(gained) else f"{100 * gained:+.1f}, {verdict}"


def by_intent(answers: pd.DataFrame, labels: np.ndarray, names: list[str]) -> pd.DataFrame:
    """F1 of each model (a column) for each intent (a row), beside the `queries` that the intent has.

    It is the harmonic mean of precision and recall, 2·TP / (2·TP + FP + FN). NaN where an intent has no query
    and is not answered.
    """
    counts = np.bincount(labels, minlength=len(names))
    table = {"queries": counts}
    for model in answers:
        answered = answers[model].to_numpy()
        right = np.bincount(labels[answered == labels], minlength=len(names))
        both = counts + np.bincount(answered, minlength=len(names))
        table[model] = np.divide(2 * right, both, out=np.full(len(names), np.nan), where=both > 0)
    return pd.DataFrame(table, index=pd.Index(names, name="intent"))


def macro_f1(by_intent: pd.DataFrame) -> pd.Series:
    """The mean F1 of the intents that have queries, for each model: a rare one counts as a frequent one."""
    return by_intent[by_intent["queries"] > 0].drop(columns="queries").mean()


def rare_markdown(by_intent: pd.DataFrame, most: int = 10) -> str:
    """The intents that the models find hardest, by their mean F1."""
    there = by_intent[by_intent["queries"] > 0]
    models = there.columns.drop("queries")
    hardest = there.loc[there[models].mean(axis=1).sort_values(kind="stable").index[:most]]
    rows = [["*mean of all intents (macro-F1)*", "", *(percent(value) for value in macro_f1(by_intent))]]
    rows += [
        [str(intent), str(int(row["queries"])), *(percent(row[model]) for model in models)]
        for intent, row in hardest.iterrows()
    ]
    return table_of(
        ["intent", "test queries", *models],
        rows,
        "F1 of calibrated answers on the test split. The mean counts a rare intent as much as a frequent "
        f"one. Below it are the {len(hardest)} intents with the lowest F1; intents.csv has all. An F1 of few "
        "queries is not sure.",
    )


def by_domain(
    answers: pd.DataFrame, labels: np.ndarray, names: list[str], domains: dict[str, list[str]]
) -> pd.DataFrame:
    """Accuracy of each model (a column), in each domain (a row); intents of none count as their own."""
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    domain = np.array([domain_of.get(name, name) for name in names])[labels]
    return answers.eq(labels, axis=0).groupby(domain).mean().rename_axis("domain")


def confusions(answers: pd.DataFrame, labels: np.ndarray, names: list[str], most: int = 10) -> pd.DataFrame:
    """The commonest mistakes of each model: `model`, `intent`, `answer`, `queries`."""
    counted = []
    for model in answers:
        wrong = answers[model].to_numpy() != labels
        pairs = pd.DataFrame({"intent": labels[wrong], "answer": answers[model][wrong]})
        counts = pairs.value_counts().rename("queries").reset_index()
        counts = counts.sort_values(["queries", "intent", "answer"], ascending=[False, True, True])
        counted.append(counts.head(most).assign(model=model))
    table = pd.concat(counted, ignore_index=True)
    for column in ("intent", "answer"):
        table[column] = [names[i] for i in table[column]]
    return table[["model", "intent", "answer", "queries"]]
