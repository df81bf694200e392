"""Pictures that need no network and no Node to look at."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from stages import model_folder

COLORS = [f"C{i}" for i in range(10)]


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def accuracy_against_latency(results: pd.DataFrame, path: Path) -> None:
    """A bubble a model, its area the size on disk; the best is ringed."""
    figure, axes = plt.subplots(figsize=(9, 5.5))
    scale = 1500 / results["size_mb"].max()
    for i, (name, row) in enumerate(results.iterrows()):
        x, y = row["latency_ms"], 100 * row["accuracy"]
        axes.scatter(
            x,
            y,
            s=scale * row["size_mb"],
            color=COLORS[i % 10],
            alpha=0.6,
            label=f"{name} ({row['size_mb']:.1f} MB)",
        )
        if row["best"]:
            size = (np.sqrt(scale * row["size_mb"]) + 12) ** 2
            axes.scatter(
                x, y, s=size, facecolors="none", edgecolors="black", linewidths=1.8, label="best: " + name
            )
    axes.set_xscale("log")
    ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
    low, high = results["latency_ms"].min() / 1.5, results["latency_ms"].max() * 1.5
    axes.set_xticks([t for t in ticks if low <= t <= high], minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlim(low, high)
    axes.margins(y=0.15)
    axes.set_xlabel("latency of one query, median, ms (log scale)")
    axes.set_ylabel("test accuracy, %")
    axes.set_title("Accuracy against latency; area: size on disk")
    axes.grid(alpha=0.3)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    for handle in legend.legend_handles:
        handle.set_sizes([60])
    _save(figure, path)


def training_curves(curves: pd.DataFrame, path: Path) -> None:
    """Training loss and validation accuracy by epoch, a line a model."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for i, (name, rows) in enumerate(curves.groupby("model", sort=False)):
        left.plot(rows["epoch"], rows["loss"], marker=".", color=COLORS[i % 10], label=name)
        right.plot(rows["epoch"], 100 * rows["eval_accuracy"], marker=".", color=COLORS[i % 10], label=name)
    left.set(
        xlabel="epoch", ylabel="training loss (each its own objective)", yscale="log", title="Training loss"
    )
    right.set(xlabel="epoch", ylabel="validation accuracy, %", title="Validation accuracy")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _save(figure, path)


def encoder_weights(folder: Path) -> np.ndarray:
    """All weights of the linear layers of the encoder's blocks, flat."""
    tensors = load_file(folder / "model.safetensors")
    return np.concatenate([t.ravel() for k, t in sorted(tensors.items()) if ".layer." in k and t.ndim == 2])


def weight_histogram(rows: list[str], path: Path) -> None:
    """The distribution of the encoder's weights in each torch fp32 model, a panel each."""
    names = [name for name in rows if (model_folder.MODELS / name / "model.safetensors").exists()]
    figure, panels = plt.subplots(
        len(names), 1, figsize=(8, 1.9 * len(names)), sharex=True, squeeze=False, layout="constrained"
    )
    weights = {name: encoder_weights(model_folder.MODELS / name) for name in names}
    limit = max(
        np.quantile(np.abs(values[:: len(values) // 100_000 + 1]), 0.999) for values in weights.values()
    )
    bins = np.linspace(-limit, limit, 201)
    for i, (axes, (name, values)) in enumerate(zip(panels[:, 0], weights.items(), strict=True)):
        kept = values[values != 0]
        axes.hist(kept, bins=bins, weights=np.full(len(kept), 100 / len(values)), color=COLORS[i % 10])
        axes.set_title(
            f"{name}: {100 * (1 - len(kept) / len(values)):.0f}% of the weights are zero", fontsize=10
        )
        axes.set_ylabel("% of weights")
        axes.grid(alpha=0.3)
    panels[-1, 0].set_xlabel("value of an encoder weight (zeros left out)")
    _save(figure, path)
