"""The trials of a search, as a table and pictures."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import optuna
import pandas as pd
from optuna.trial import TrialState
from optuna.visualization import matplotlib as draw

from stages.core.settings import Search
from stages.reporting.figures import save
from stages.reporting.markdown import percent, table_of

COSTS = {"size_mb": "size, MB", "speedup": "speed-up over the teacher"}


def collect(study: optuna.Study, search: Search) -> pd.DataFrame:
    """A row a trial.

    Columns: `trial`, `experiment`, `state`, the settings drawn, `validation_accuracy`, `size_mb`, `speedup`
    over the teacher, `within` (the bounds), `best`. A pruned trial has no experiment, and its accuracy is
    that of its last epoch.
    """
    rows = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        complete = trial.state == TrialState.COMPLETE
        rows.append(
            {
                "trial": trial.number,
                "experiment": trial.user_attrs["experiment"] if complete else None,
                "state": trial.state.name.lower(),
                **{name: trial.params.get(name) for name in search.space},
                "validation_accuracy": trial.value
                if complete
                else trial.intermediate_values[trial.last_step or 0],
                "size_mb": trial.user_attrs.get("size_mb"),
                "speedup": trial.user_attrs.get("speedup"),
                "within": complete and all(excess <= 0 for excess in trial.constraints.values()),
                "best": trial.number == study.best_trial.number,
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame, search: Search) -> str:
    """The most accurate first."""
    costs = {key: name for key, name in COSTS.items() if table[key].notna().any()}
    ranked = table.sort_values("validation_accuracy", ascending=False)
    rows = [
        [
            f"**{row['trial']}**" if row["best"] else str(row["trial"]),
            row["state"] if row["within"] or row["state"] != "complete" else "out of bounds",
            *("–" if pd.isna(row[name]) else f"{row[name]:.4g}" for name in search.space),
            percent(row["validation_accuracy"], 2),
            *("–" if pd.isna(row[key]) else f"{row[key]:.1f}" for key in costs),
        ]
        for _, row in ranked.iterrows()
    ]
    columns = ["trial", "state", *search.space, "validation accuracy", *costs.values()]
    bounds = [f"{key} {value:g}" for key, value in search.bounds.model_dump().items() if value is not None]
    return table_of(
        columns,
        rows,
        f"{search.model}. `dvc exp apply {search.study}-<trial>` makes a complete trial the workspace. "
        "Pruned: stopped early, below the median of the others, and shown with the last accuracy seen."
        + (f" Bounds: {', '.join(bounds)}." if bounds else ""),
        left=2,
    )


def pareto(table: pd.DataFrame, search: Search, path: Path) -> None:
    """Accuracy against what it costs, in bytes and in time, and the trials that no other beats in both."""
    done = table[table["state"] == "complete"]
    costs = varying(table)
    figure, all_axes = plt.subplots(1, len(costs), figsize=(5.5 * len(costs), 4.2), squeeze=False)
    for axes, key in zip(all_axes[0], costs, strict=True):
        for within, color in ((True, "C0"), (False, "lightgray")):
            rows = done[done["within"] == within]
            label = "within the bounds" if within else "out of bounds"
            axes.scatter(rows[key], 100 * rows["validation_accuracy"], color=color, label=label)
        front = done[on_front(done, key)].sort_values(key)
        axes.plot(front[key], 100 * front["validation_accuracy"], color="C3", drawstyle="steps-post"
                  if key == "size_mb" else "steps-pre", label="Pareto front")  # fmt: skip
        best = done[done["best"]]
        axes.scatter(best[key], 100 * best["validation_accuracy"], s=140, facecolors="none",
                     edgecolors="black", label="best")  # fmt: skip
        bound = getattr(search.bounds, key)
        if bound is not None:
            axes.axvline(bound, color="black", linestyle="--", linewidth=1, label="bound")
        axes.set_xlabel(COSTS[key])
        axes.set_ylabel("validation accuracy, %")
        axes.grid(alpha=0.3)
    all_axes[0][-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.suptitle(f"Accuracy of {search.model} against its cost, a point a trial")
    figure.tight_layout()
    save(figure, path)


def varying(table: pd.DataFrame) -> list[str]:
    """The costs in which complete trials differ, to a tenth."""
    done = table[table["state"] == "complete"]
    return [key for key in COSTS if done[key].astype(float).round(1).nunique() > 1]


def on_front(done: pd.DataFrame, key: str) -> pd.Series:
    """True for a trial that none beats: as accurate at less `size_mb` or more `speedup`, or more accurate."""
    sign = -1 if key == "speedup" else 1
    cost, accuracy = sign * done[key], done["validation_accuracy"]
    return pd.Series(
        [
            not ((cost <= c) & (accuracy >= a) & ((cost < c) | (accuracy > a))).any()
            for c, a in zip(cost, accuracy, strict=True)
        ],
        index=done.index,
    )


def _plot(plot: Callable, study: optuna.Study, title: str, path: Path) -> None:
    with plt.style.context("default"):
        plot(study, target_name="validation accuracy")
        for axes in plt.gcf().axes:
            for place in ("left", "center"):
                axes.set_title("", loc=place)  # Optuna's own, which its legend covers
        plt.suptitle(title, y=1.03)
        save(plt.gcf(), path)


def outputs(study: optuna.Study, search: Search) -> dict[str, Callable[[Path], object]]:
    """What to write, by file name."""
    table = collect(study, search)
    files: dict[str, Callable[[Path], object]] = {
        "trials.csv": lambda path: table.to_csv(path, index=False, float_format="%.6g"),
        "trials.md": lambda path: path.write_text(markdown(table, search), encoding="utf-8"),
        "history.png": lambda path: _plot(draw.plot_optimization_history, study, "Accuracy by trial", path),
        "parallel.png": lambda path: _plot(
            draw.plot_parallel_coordinate, study, "Settings and accuracy", path
        ),
    }
    if varying(table):
        files["pareto.png"] = lambda path: pareto(table, search, path)
    if table["validation_accuracy"][table["state"] == "complete"].nunique() > 1:
        files["importance.png"] = lambda path: _plot(
            draw.plot_param_importances, study, "How much each setting matters", path
        )
    return files
