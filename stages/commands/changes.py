"""The committed results of two commits, side by side; a change apart from noise."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.errors import UserError
from stages.core.settings import Gate
from stages.measurement.statistics import Difference, mcnemar, verdicts
from stages.reporting import evidence
from stages.reporting.markdown import percent, table_of

ACCURACIES = {"accuracy": "plain", "accuracy_calibrated": "calibrated"}
MEASURES = {**dict.fromkeys(ACCURACIES, percent), "size_mb": "{:.1f}".format, "speedup": "×{:.1f}".format}
SPEEDS = ("speedup", "speedup_low", "speedup_high")
SAME = "unchanged"
NOISE = "within noise"
UNTESTED = "not tested"
ROUNDED = 1e-4  # by how much an accuracy in results.csv may differ from the share of right answers
# The files of a report that are read here, and one more that tells a report from other folders.
RESULTS, RIGHT, SUMMARY = "tables/results.csv", "tables/right.csv", "summary.json"


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
    """The report folders under metrics/, of now and of `base`: those with a file of a report."""
    before = (_git("ls-tree", "-r", "--name-only", base, "metrics/") or b"").decode().splitlines()
    now = [path.as_posix() for path in Path("metrics").rglob("*") if path.is_file()]
    return sorted(
        {
            Path(path.removesuffix(file))
            for path in [*before, *now]
            for file in (RESULTS, RIGHT, SUMMARY)
            if path.endswith(f"/{file}")
        }
    )


def _content(path: Path, base: str | None) -> bytes | None:
    """The file as it is in the workspace, or was in the commit `base`; None where it is not."""
    if base is not None:
        return then(base, path)
    return path.read_bytes() if path.is_file() else None


def _name(path: Path, base: str | None) -> str:
    return f"{path} in the workspace" if base is None else f"{path} in the base ({base[:7]})"


Right = dict[tuple[str, str], tuple[str, np.ndarray]]


def _side(folder: Path, base: str | None) -> tuple[pd.DataFrame, Right]:
    """A report's results; and by model and kind, which queries (a digest) and whether each was right.

    Both are empty where their file is missing. A UserError names a file that is damaged.
    """
    columns = [*MEASURES, *SPEEDS[1:]]
    content = _content(folder / RESULTS, base)
    if content is None:
        return pd.DataFrame(columns=columns, index=pd.Index([], name="model")), {}
    name = _name(folder / RESULTS, base)
    results = evidence.parse(content, name, [*ACCURACIES, "size_mb"], optional=SPEEDS)
    right = _right(folder, base, list(results.index))
    for measure, kind in ACCURACIES.items():
        for model, accuracy in results[measure].items() if right else ():
            answers = right[str(model), kind][1]
            # As many queries as there are bits, or up to 7 fewer: the last byte is filled up.
            shares = answers.sum() / (len(answers) - np.arange(8))
            if np.abs(shares - accuracy).min() > ROUNDED:
                raise evidence.damaged(name, f"has, of {model}, another {measure} than {RIGHT}")
    return results.reindex(columns=columns), right


def _right(folder: Path, base: str | None, models: list[str]) -> Right:
    content, name = _content(folder / RIGHT, base), _name(folder / RIGHT, base)
    if content is None:
        return {}
    table = evidence.parse(content, name, (), texts=("queries", "right"), key=("model", "kind"))
    right = {}
    for (model, kind), row in table.iterrows():
        try:
            packed = np.frombuffer(bytes.fromhex(row["right"]), np.uint8)
        except ValueError:
            raise evidence.damaged(name, f"is damaged: {model}, {kind} has no hexadecimal digits") from None
        right[model, kind] = (row["queries"], np.unpackbits(packed).astype(bool))
    for model in models:
        for kind in ACCURACIES.values():
            if (model, kind) not in right:
                raise evidence.damaged(name, f"has no row {model}, {kind}")
    lengths: dict[str, int] = {}
    for (model, kind), (queries, answers) in right.items():
        if lengths.setdefault(queries, len(answers)) != len(answers):
            raise evidence.damaged(name, f"is damaged: {model}, {kind} is not as long as the rows before it")
    return right


def collect(folder: Path, base: str, gate: Gate, head: str | None = None) -> pd.DataFrame:
    """A row for each model and measure: `before`, in the commit `base`, `after` and `verdict`.

    After is in the commit `head`, or in the workspace.
    Accuracies differ by McNemar's exact test on the same test queries, at a false discovery rate of 5% over
    them all. Speed-ups differ if their 95% intervals do not meet and they are further apart than two runs of
    one benchmark may be. Sizes differ by a thousandth. Verdicts are "better", "worse", "unchanged",
    "within noise", "new", "gone", "other queries", or, without answers or intervals, "not tested". A
    UserError names a file that is damaged, and whose.
    """
    (before, right_before), (after, right_after) = _side(folder, base), _side(folder, head)
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
                if key not in right_before or key not in right_after:
                    row["verdict"] = SAME if old == new else UNTESTED
                    continue
                (queries, was), (same, now) = right_before[key], right_after[key]
                if queries == same:
                    if len(was) != len(now):
                        raise evidence.damaged(_name(folder / RIGHT, head), "is not as long as in the base")
                    row["verdict"] = SAME if np.array_equal(was, now) else NOISE
                    tested.append((row, mcnemar(now, was)))
                else:
                    row["verdict"] = SAME if old == new else "other queries"
            elif measure == "speedup":
                past, present = before.loc[model, list(SPEEDS)], after.loc[model, list(SPEEDS)]
                above = past["speedup_high"] < present["speedup_low"]
                below = present["speedup_high"] < past["speedup_low"]
                if past.isna().any() or present.isna().any():
                    row["verdict"] = SAME if old == new else UNTESTED
                elif (above or below) and max(old, new) > (1 + gate.speedup_noise) * min(old, new):
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
    title = f"### {folder}\n\n"
    if table.empty:
        return f"{title}There are no results on either side.\n"
    changed = table.groupby("model", sort=False)["verdict"].transform(lambda v: (v != SAME).any())
    rows = []
    for model, cells in table[changed].groupby("model", sort=False):
        by_measure = {row["measure"]: _cell(row) for _, row in cells.iterrows()}
        rows.append([str(model), *(by_measure.get(measure, "–") for measure in MEASURES)])
    kept = table.loc[~changed, "model"].nunique()
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
        return format_of(row["after"])
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


def gaps(folder: Path, base: str, table: pd.DataFrame) -> list[str]:
    """The evidence that the gate misses in a report, whose `table` is that of `collect`: a line each.

    A file that only one side has, and rows and measures of the base that are gone. A report that is new in
    the workspace misses nothing.
    """
    sides = (base, None)
    has = {
        (file, side): _content(folder / file, side) is not None
        for file in (RESULTS, RIGHT, SUMMARY)
        for side in sides
    }
    if not any(has[file, base] for file in (RESULTS, RIGHT, SUMMARY)):
        return []
    missing = [side for side in sides if not has[RESULTS, side]]
    if missing:
        return [f"{_name(folder / RESULTS, side)} is missing; {evidence.AGAIN}" for side in missing]
    here = _name(folder / RESULTS, None)
    lines = [
        f"{_name(folder / RIGHT, side)} is missing; {evidence.AGAIN}"
        for side in sides
        if not has[RIGHT, side] and any(has[RIGHT, other] for other in sides)
    ]
    for model, rows in table.groupby("model", sort=False):
        gone = rows.loc[rows["verdict"] == "gone", "measure"]
        if len(gone) == len(rows):
            lines.append(f"{here} has no row {model}, which the base has")
        else:
            lines += [f"{here} has no {measure} of {model}, which the base has" for measure in gone]
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
