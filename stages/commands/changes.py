"""The committed results of two commits, side by side; a change apart from noise."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.errors import UserError
from stages.core.settings import Gate
from stages.measurement.statistics import Difference, mcnemar, verdicts
from stages.reporting.markdown import percent, table_of

ACCURACIES = {"accuracy": "plain", "accuracy_calibrated": "calibrated"}
MEASURES = {**dict.fromkeys(ACCURACIES, percent), "size_mb": "{:.1f}".format, "speedup": "×{:.1f}".format}
SAME = "unchanged"
NOISE = "within noise"


def _git(*arguments: str) -> bytes | None:
    done = subprocess.run(["git", *arguments], capture_output=True)
    return done.stdout if done.returncode == 0 else None


def commit(revision: str) -> str:
    """The full hash of a commit."""
    full = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if full is None:
        raise UserError(f"there is no commit {revision!r} here: fetch it, or name another")
    return full.decode().strip()


def then(base: str, path: Path) -> bytes | None:
    """The file as it was in the commit `base`, if it was."""
    return _git("show", f"{base}:./{path.as_posix()}")


def reports(base: str) -> list[Path]:
    """The report folders under metrics/, of now and of `base`: those with tables/results.csv."""
    before = (_git("ls-tree", "-r", "--name-only", base, "metrics/") or b"").decode().splitlines()
    now = [path.as_posix() for path in Path("metrics").rglob("tables/results.csv")]
    return sorted({Path(p).parents[1] for p in [*before, *now] if p.endswith("/tables/results.csv")})


def _table(content: bytes | None) -> pd.DataFrame:
    columns = [*MEASURES, "speedup_low", "speedup_high"]
    if content is None:
        return pd.DataFrame(columns=columns, index=pd.Index([], name="model"))
    return pd.read_csv(io.BytesIO(content), index_col="model").reindex(columns=columns)


def _right(content: bytes | None) -> dict[tuple[str, str], tuple[str, np.ndarray]]:
    """By model and kind: which queries, as a digest, and whether each was answered right."""
    if content is None:
        return {}
    table = pd.read_csv(io.BytesIO(content), dtype=str)
    return {
        (row["model"], row["kind"]): (
            row["queries"],
            np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8)).astype(bool),
        )
        for _, row in table.iterrows()
    }


def collect(folder: Path, base: str, gate: Gate) -> pd.DataFrame:
    """A row for each model and measure: `before`, `after` and `verdict`.

    Accuracies differ by McNemar's exact test on the same test queries, at a false discovery rate of 5% over
    them all. Speed-ups differ if their 95% intervals do not meet and they are further apart than two runs of
    one benchmark may be. Sizes differ by a thousandth. Verdicts are "better", "worse", "unchanged",
    "within noise", "new", "gone", or "other queries".
    """
    name, answers = folder / "tables" / "results.csv", folder / "tables" / "right.csv"
    before, after = (_table(c) for c in (then(base, name), name.read_bytes() if name.exists() else None))
    right_before = _right(then(base, answers))
    right_after = _right(answers.read_bytes() if answers.exists() else None)
    rows: list[dict] = []
    tested: list[tuple[dict, Difference]] = []
    for model in dict.fromkeys([*before.index, *after.index]):
        for measure in MEASURES:
            old, new = (table[measure].get(model, np.nan) for table in (before, after))
            if np.isnan(old) and np.isnan(new):
                continue
            row = {"model": model, "measure": measure, "before": old, "after": new}
            rows.append(row)
            if np.isnan(old) or np.isnan(new):
                row["verdict"] = "new" if np.isnan(old) else "gone"
            elif measure in ACCURACIES:
                key = (model, ACCURACIES[measure])
                queries, was = right_before.get(key, ("", np.array([])))
                same, now = right_after.get(key, (" ", np.array([])))
                if queries == same:
                    row["verdict"] = SAME if np.array_equal(was, now) else NOISE
                    tested.append((row, mcnemar(now, was)))
                else:
                    row["verdict"] = SAME if old == new else "other queries"
            elif measure == "speedup":
                above = before.loc[model, "speedup_high"] < after.loc[model, "speedup_low"]
                below = after.loc[model, "speedup_high"] < before.loc[model, "speedup_low"]
                if (above or below) and max(old, new) > (1 + gate.speedup_noise) * min(old, new):
                    row["verdict"] = "better" if above else "worse"
                else:
                    row["verdict"] = SAME if old == new else NOISE
            else:
                row["verdict"] = SAME if abs(new - old) < 0.001 * old else "better" if new < old else "worse"
    for (row, _), verdict in zip(tested, verdicts([d for _, d in tested]), strict=True):
        if verdict in ("better", "worse"):
            row["verdict"] = verdict
    return pd.DataFrame(rows, columns=["model", "measure", "before", "after", "verdict"])


def markdown(folder: Path, table: pd.DataFrame) -> str:
    """A row for each model that changed, noise included."""
    changed = table.groupby("model", sort=False)["verdict"].transform(lambda v: (v != SAME).any())
    rows = []
    for model, cells in table[changed].groupby("model", sort=False):
        rows.append([str(model), *(_cell(row) for _, row in cells.iterrows())])
    kept = table.loc[~changed, "model"].nunique()
    title = f"### {folder}\n\n"
    if not rows:
        return f"{title}Nothing has changed.\n"
    return title + table_of(
        ["model", "accuracy", "calibrated", "size, MB", "speed-up"],
        rows,
        (f"{kept} more unchanged. " if kept else "")
        + "Accuracies on the test split are better or worse by McNemar's exact test on the same queries, at "
        "a false discovery rate of 5%. Speed-ups over the teacher are better or worse if their 95% intervals "
        "do not meet and they differ by more than two runs of one benchmark may (gate.speedup_noise).",
    )


def _cell(row: pd.Series) -> str:
    format_of = MEASURES[row["measure"]]
    if row["verdict"] == SAME:
        return "–" if np.isnan(row["after"]) else format_of(row["after"])
    if row["verdict"] in ("new", "gone"):
        return f"{format_of(row['after'] if row['verdict'] == 'new' else row['before'])}, {row['verdict']}"
    verdict = f"**{row['verdict']}**" if row["verdict"] in ("better", "worse") else row["verdict"]
    return f"{format_of(row['before'])} → {format_of(row['after'])}, {verdict}"


def excesses(folder: Path, table: pd.DataFrame, gate: Gate) -> list[str]:
    """What was lost beyond `gate`, a line each."""
    lines = []
    for _, row in table[table["verdict"] != SAME].iterrows():
        if row["measure"] in ACCURACIES and row["before"] - row["after"] > gate.accuracy:
            lines.append(
                f"{folder}: {row['model']} lost {100 * (row['before'] - row['after']):.1f} points of "
                f"{row['measure']}; at most {100 * gate.accuracy:g} are allowed (gate.accuracy)"
            )
        if row["measure"] == "size_mb" and row["after"] > (1 + gate.size) * row["before"]:
            lines.append(
                f"{folder}: {row['model']} grew from {row['before']:.1f} to {row['after']:.1f} MB; "
                f"at most {100 * gate.size:g}% more is allowed (gate.size)"
            )
    return lines


def params_markdown(base: str) -> str:
    """`dvc params diff` of the workspace against `base`."""
    command = [sys.executable, "-m", "dvc", "params", "diff", "--md", base]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"dvc params diff: {done.stderr.strip()}")
    return (
        "### Parameters\n\n"
        + (done.stdout.strip().replace(base, "before") or "No parameter has changed.")
        + "\n"
    )


def pictures_markdown(base: str, url: str) -> str:
    """The pictures under metrics/ that are not those of `base`; `url` is where the tree is served."""
    changed = [p for p in sorted(Path("metrics").rglob("*.png")) if then(base, p) != p.read_bytes()]
    images = "\n".join(f"![{path.stem}]({url.rstrip('/')}/{path.as_posix()})" for path in changed)
    return (
        f"<details><summary>Pictures ({len(changed)})</summary>\n\n{images}\n\n</details>\n"
        if changed
        else ""
    )
