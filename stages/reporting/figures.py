"""Pictures that need no network and no Node to look at."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from stages.checkpoints.sparse_storage import read_weights
from stages.core import model_folder
from stages.measurement.quality.calibration import can_learn, reliability
from stages.reporting.results import SIZES, calibration
from stages.runtime.calibration import NONE
from stages.techniques import int8

COLORS = [plt.get_cmap("tab20")(i) for i in range(20)]
LINES = ("-", "--", ":", "-.")


def save(figure: plt.Figure, path: Path) -> None:
    """Write a PNG that is the same for the same figure, and close the figure."""
    figure.savefig(path, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def _titled(text: str) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(6, 1))
    axes.set_title(text)
    axes.axis("off")
    return figure


def training_curves(curves: pd.DataFrame, path: Path) -> None:
    """Training loss and validation accuracy by epoch, a line a model."""
    if curves.empty:
        return save(_titled("No model of the table was trained"), path)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for i, (name, rows) in enumerate(curves.groupby("model", sort=False)):
        style = {"marker": ".", "color": COLORS[i % 20], "linestyle": LINES[i // 20 % 4], "label": name}
        left.plot(rows["epoch"], rows["loss"], **style)
        right.plot(rows["epoch"], 100 * rows["eval_accuracy"], **style)
    left.set(
        xlabel="epoch", ylabel="training loss (each its own objective)", yscale="log", title="Training loss"
    )
    right.set(xlabel="epoch", ylabel="validation accuracy, %", title="Validation accuracy")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    save(figure, path)


def pruned_weights(names: list[str], path: Path) -> None:
    """The weights left in the encoder of each model, torch fp32, a panel each."""
    figure, panels = plt.subplots(
        len(names), 1, figsize=(8, 1.9 * len(names)), sharex=True, squeeze=False, layout="constrained"
    )
    weights = {name: np.concatenate([w.ravel() for w in encoder_weights(name).values()]) for name in names}
    limit = max(np.quantile(np.abs(w[w != 0][::100]), 0.999) for w in weights.values())
    bins = np.linspace(-limit, limit, 201)
    for i, (axes, (name, values)) in enumerate(zip(panels[:, 0], weights.items(), strict=True)):
        kept = values[values != 0]
        axes.hist(kept, bins=bins, weights=np.full(len(kept), 100 / len(kept)), color=f"C{i % 10}")
        axes.set_title(
            f"{name}: {100 * (1 - len(kept) / len(values)):.0f}% of the weights are zero", fontsize=10
        )
        axes.set_ylabel("% of those left")
        axes.grid(alpha=0.3)
    panels[-1, 0].set_xlabel("value of an encoder weight (zeros left out)")
    save(figure, path)


def encoder_weights(name: str) -> dict[str, np.ndarray]:
    """The weight matrices of the encoder's blocks of a torch fp32 model, layer by layer."""
    weights = read_weights(model_folder.CALIBRATED / name).items()
    matrices = {
        _short(key).removesuffix(".weight"): w for key, w in weights if ".layer." in key and w.ndim == 2
    }
    return dict(sorted(matrices.items(), key=lambda item: (int(item[0].split(".")[0]), item[0])))


def _short(name: str) -> str:
    """Layer and matrix of an encoder weight, as in "0.ffn.lin1"."""
    return name.split("layer.")[1]


def sparsity_by_layer(profiles: dict[str, dict[str, float]], path: Path) -> None:
    """The share of each encoder matrix that was removed, a row a model; `profiles` are as in recipes."""
    if not profiles:
        return save(_titled("No model of the table is pruned"), path)
    shares = pd.DataFrame(profiles).T.drop(columns="overall")
    overall = [profile["overall"] for profile in profiles.values()]
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.3 * len(profiles)), layout="constrained")
    image = axes.imshow(100 * shares.to_numpy(dtype=float), vmin=0, vmax=100, cmap="viridis", aspect="auto")
    matrices = [_short(column) for column in shares.columns]
    axes.set_xticks(range(len(matrices)), matrices, rotation=60, ha="right")
    axes.set_yticks(
        range(len(profiles)), [f"{n} ({100 * o:.0f}%)" for n, o in zip(profiles, overall, strict=True)]
    )
    axes.set(xlabel="layer and matrix", title="Share of each encoder matrix that was removed")
    figure.colorbar(image, label="removed, %")
    save(figure, path)


def accuracy_against_sparsity(points: pd.DataFrame, dense: float, path: Path) -> None:
    """Validation accuracy by share of weights removed, a line a method; bars from least to most of the seeds.

    `dense` is the accuracy of what was pruned.
    """
    figure, axes = plt.subplots(figsize=(7.5, 4.8))
    for i, (method, rows) in enumerate(points.groupby("method", sort=False)):
        by = rows.assign(level=rows["sparsity"].round(2)).groupby("level")["validation_accuracy"]
        middle = 100 * by.mean()
        spread = [middle - 100 * by.min(), 100 * by.max() - middle]
        axes.errorbar(
            100 * middle.index, middle, yerr=spread, marker="o", capsize=4, color=f"C{i}", label=method
        )
    axes.axhline(100 * dense, color="black", linestyle=":", label="not pruned")
    axes.set(
        xlabel="encoder weights removed, %",
        ylabel="validation accuracy, %",
        title="Accuracy against sparsity (plain, before calibration)",
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save(figure, path)


def calibration_curves(names: list[str], named: list[str], labels: np.ndarray, path: Path) -> None:
    """Left, reliability of the models `named`, plain and tempered; right, the out-of-scope curves of `names`.

    Those that are not `named` are gray. `labels` are those of the test split, shape (queries,).
    """
    from scipy.stats import rankdata
    from sklearn.metrics import roc_curve

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5))
    left.plot([0, 100], [0, 100], color="black", linestyle=":", label="perfect")
    others = [name for name in names if name not in named]
    for name in [*others, *named]:
        logits = np.load(Path("evaluations") / name / "test.npy")
        fitted = calibration(name)
        color = f"C{named.index(name)}" if name in named else "silver"
        if name in named:
            for applied, style, what in ((NONE, "--", "plain"), (fitted, "-", "tempered")):
                bins = pd.DataFrame(reliability(applied.probabilities(logits), labels))
                left.plot(
                    100 * bins["confidence"],
                    100 * bins["accuracy"],
                    style,
                    marker=".",
                    color=color,
                    label=f"{name}, {what}",
                )
        if fitted.threshold is not None:
            scores = fitted.threshold.scores(logits / fitted.temperature)
            outside = labels == fitted.threshold.out_of_scope
            if not can_learn(outside):
                continue
            # By rank, since the scores of early exits are infinite.
            false_positives, recall, _ = roc_curve(outside, rankdata(-scores))
            label = name if name in named else "the other models"
            right.plot(100 * false_positives, 100 * recall, color=color, label=label, linewidth=1.2)
            refused = 100 * (scores < fitted.threshold.value)
            right.plot(refused[~outside].mean(), refused[outside].mean(), "o", color=color)
    left.set(
        xlabel="confidence, %", ylabel="test accuracy, %", title="Reliability: accuracy by top probability"
    )
    right.set(
        xlabel="queries in scope that are refused, % (log scale)",
        ylabel="queries out of scope that are recognised, %",
        title="Out of scope, by threshold (dot: chosen on validation)",
    )
    right.set_xscale("log")
    right.set_xlim(0.1, 100)
    right.xaxis.set_major_formatter("{x:g}")
    left.legend(frameon=False)
    if right.lines:
        lines, texts = right.get_legend_handles_labels()
        once = dict(zip(texts, lines, strict=True))
        right.legend(once.values(), once.keys(), frameon=False, loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save(figure, path)


def size_breakdown(results: pd.DataFrame, path: Path) -> None:
    """Where the bytes are, a stacked bar a model."""
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.36 * len(results)))
    left = np.zeros(len(results))
    for part in SIZES:
        axes.barh(results.index, results[part], left=left, label=part.removesuffix("_mb"))
        left += results[part].to_numpy()
    for y, total in enumerate(left):
        axes.text(total, y, f" {total:.1f}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.set(xlabel="MB of 2^20 bytes", title="Size of what is deployed")
    axes.legend(frameon=False, loc="lower right")
    save(figure, path)


def quantization_error(name: str, reduce_range: bool, path: Path) -> None:
    """Left, weights of the narrowest channel of a matrix and the int8 grids; right, the error in each matrix.

    Both of the encoder of a torch fp32 model, with a scale for each matrix and for each channel.
    """
    weights = encoder_weights(name)
    bits = 7 if reduce_range else 8
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.8), gridspec_kw={"width_ratios": [1, 1.3]})
    errors: dict[str, list[float]] = {}
    for axis, label in ((None, "a scale for each matrix"), (0, "a scale for each channel")):
        errors[label] = []
        for weight in weights.values():
            scale, zero = int8.scale_and_zero_point(weight, reduce_range=reduce_range, axis=axis)
            rounded = int8.dequantize(int8.quantize(weight, scale, zero), scale, zero)
            errors[label].append(100 * np.sqrt(((weight - rounded) ** 2).mean() / (weight**2).mean()))
    x = np.arange(len(weights))
    for i, (label, shares) in enumerate(errors.items()):
        right.bar(x + 0.4 * i - 0.2, shares, width=0.4, label=label)
    right.set_xticks(x, list(weights), rotation=60, ha="right")
    right.set(
        ylabel="root mean square error, % of the weights'", title=f"Error of {bits}-bit weights, by matrix"
    )
    right.legend(frameon=False)
    right.grid(alpha=0.3, axis="y")

    matrix, weight = max(weights.items(), key=lambda item: np.abs(item[1]).max() / item[1].std())
    channel = weight[np.abs(weight).max(axis=1).argmin()]
    limit = np.abs(channel).max()
    left.hist(channel, bins=60, color="lightgray", label="weights")
    for values, color, height, label in ((weight, "C0", 1.0, "matrix"), (channel, "C1", 0.5, "channel")):
        scale, _ = int8.scale_and_zero_point(values, reduce_range=reduce_range)
        grid = np.arange(-np.floor(limit / scale), np.floor(limit / scale) + 1) * scale
        left.vlines(
            grid,
            0,
            height * left.get_ylim()[1] * 0.25,
            color=color,
            linewidth=0.8,
            label=f"{len(grid)} levels, a scale for the {label}",
        )
    left.set(
        xlabel="value of a weight", ylabel="weights", title=f"One channel of {matrix}, and the int8 grid"
    )
    left.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    save(figure, path)
