"""Pictures that need no network and no Node to look at, and are readable 800 px wide, in grey too."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator

from stages.checkpoints.sparse_storage import read_weights
from stages.core import model_folder
from stages.measurement.enough import FEWEST
from stages.measurement.quality.calibration import can_learn, reliability
from stages.reporting import lineage
from stages.reporting.results import SIZES, calibration
from stages.runtime.calibration import NONE
from stages.techniques import int8

# Okabe and Ito's palette, which colour-blind readers tell apart; the order alternates dark and light.
COLORS = ("#000000", "#e69f00", "#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7")
LINES = ("-", "--", ":", "-.")
# Inches: of axes with names beside them, and of those without.
NARROW, WIDE = 4.9, 6.6
SMALLEST = 9  # points of text
SCALES = ("#08306b", "#e69f00")  # of a matrix, of a channel

plt.rcParams |= {"font.size": SMALLEST, "axes.titlesize": 10}
plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False}


def save(figure: plt.Figure, path: Path) -> None:
    """Write a PNG that is the same for the same figure, and close the figure."""
    figure.savefig(path, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def _titled(text: str) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(6, 1))
    axes.set_title(text)
    axes.axis("off")
    return figure


def name_ends(axes: plt.Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names in a column right of the axes, whose limits are final, each with a line to its end of a curve.

    An end is x, y, the name and its colour.
    """
    height = axes.bbox.height * 72 / axes.figure.dpi
    to_fraction = axes.transData + axes.transAxes.inverted()
    ends = sorted(ends, key=lambda end: to_fraction.transform(end[:2])[1])
    half = [((SMALLEST + 2.5) * (name.count("\n") + 1) + 1) / 2 / height for _, _, name, _ in ends]
    places: list[float] = []
    for i, (x, y, *_) in enumerate(ends):
        free = places[-1] + half[i - 1] + half[i] if i else -np.inf
        places.append(max(to_fraction.transform((x, y))[1], free))
    # What was pushed over the top comes down, and pushes down what is in its way.
    top = max(1.0, 2 * sum(half))
    for i in reversed(range(len(ends))):
        places[i] = min(places[i], top - half[i])
        top = places[i] - half[i]
    for (x, y, name, color), place in zip(ends, places, strict=True):
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.6", "relpos": (0, 0.5), "shrinkA": 0}
        at = ((x, y), (1.06, place), "data", "axes fraction")
        axes.annotate(name, *at, line, va="center", color=color)


def _style(i: int) -> dict:
    """Of the line `i` of a picture: no two of 28 look alike."""
    return {"color": COLORS[i % len(COLORS)], "linestyle": LINES[i // len(COLORS) % len(LINES)]}


def training_curves(curves: pd.DataFrame, path: Path) -> None:
    """Training loss and validation accuracy by epoch, a line a model."""
    if curves.empty:
        return save(_titled("No model of the table was trained"), path)
    figure, panels = plt.subplots(2, 1, figsize=(NARROW, 7.8))
    shown = {"loss": (1, "training loss, each its own objective (log scale)"),
             "eval_accuracy": (100, "validation accuracy, %")}  # fmt: skip
    for axes, (column, (unit, label)) in zip(panels, shown.items(), strict=True):
        ends = []
        for i, (name, rows) in enumerate(curves.groupby("model", sort=False)):
            (line,) = axes.plot(rows["epoch"], unit * rows[column], marker=".", **_style(i))
            ends.append((rows["epoch"].iloc[-1], unit * rows[column].iloc[-1], str(name), line.get_color()))
        axes.set(xlabel="epoch", ylabel=label, yscale="log" if column == "loss" else "linear")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if column == "loss":
            axes.yaxis.set_major_formatter("{x:g}")
        name_ends(axes, ends)
    save(figure, path)


def pruned_weights(names: list[str], path: Path) -> None:
    """The weights left in the encoder of each model, torch fp32, a panel each."""
    figure, panels = plt.subplots(
        len(names), 1, figsize=(WIDE, 1.7 * len(names)), sharex=True, squeeze=False, layout="constrained"
    )
    weights = {name: np.concatenate([w.ravel() for w in encoder_weights(name).values()]) for name in names}
    limit = max(np.quantile(np.abs(w[w != 0][::100]), 0.999) for w in weights.values())
    bins = np.linspace(-limit, limit, 201)
    for axes, (name, values) in zip(panels[:, 0], weights.items(), strict=True):
        kept = values[values != 0]
        axes.hist(kept, bins=bins, weights=np.full(len(kept), 100 / len(kept)), color="0.4")
        axes.set_title(f"{name}: {100 * (1 - len(kept) / len(values)):.0f}% of the weights are zero")
        axes.set_ylabel("weights left, %")
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
    figure, axes = plt.subplots(figsize=(WIDE, 1.7 + 0.3 * len(profiles)), layout="constrained")
    image = axes.imshow(100 * shares.to_numpy(dtype=float), vmin=0, vmax=100, cmap="viridis", aspect="auto")
    matrices = [_short(column) for column in shares.columns]
    axes.set_xticks(range(len(matrices)), matrices, rotation=90)
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
    if points.empty:
        return save(_titled("No model of the table is pruned"), path)
    figure, axes = plt.subplots(figsize=(NARROW, 4.2))
    ends = []
    for i, (method, rows) in enumerate(points.groupby("method", sort=False)):
        by = rows.assign(level=rows["sparsity"].round(2)).groupby("level")["validation_accuracy"]
        middle = 100 * by.mean()
        spread = [middle - 100 * by.min(), 100 * by.max() - middle]
        style = {"marker": "os^Dv"[i % 5], "capsize": 4, "label": method, **_style(i)}
        axes.errorbar(100 * middle.index, middle, yerr=spread, **style)
        ends.append((100 * middle.index[-1], middle.iloc[-1], str(method), style["color"]))
    axes.axhline(100 * dense, color="0.4", linestyle=":")
    ends.append((axes.get_xlim()[1], 100 * dense, "not pruned", "0.4"))
    axes.set(xlabel="encoder weights removed, %", ylabel="validation accuracy, plain, %")
    axes.set_title("Accuracy against sparsity")
    axes.grid(alpha=0.3)
    name_ends(axes, ends)
    save(figure, path)


def calibration_curves(names: list[str], named: list[str], labels: np.ndarray, path: Path) -> None:
    """Above, reliability of the models `named`, plain and tempered; below, out-of-scope curves of `names`.

    Models that are not `named` are gray. `labels` are those of the test split, shape (queries,).
    """
    from scipy.stats import rankdata
    from sklearn.metrics import roc_curve

    figure, (above, below) = plt.subplots(2, 1, figsize=(NARROW, 8.6))
    above.plot([0, 100], [0, 100], color="0.4", linestyle=":")
    reliable, detected = [(100, 100, "perfect", "0.4")], []
    others = [name for name in names if name not in named]
    for name in [*others, *named]:
        logits = np.load(Path("evaluations") / name / "test.npy")
        fitted = calibration(name)
        color = COLORS[2 * named.index(name) % len(COLORS)] if name in named else "0.75"
        if name in named:
            for applied, style, what in ((NONE, "--", "plain"), (fitted, "-", "tempered")):
                bins = pd.DataFrame(reliability(applied.probabilities(logits), labels))
                bins = 100 * bins[bins["share"] * len(labels) >= FEWEST]
                above.plot(bins["confidence"], bins["accuracy"], style, marker=".", color=color)
                for _, last in bins.tail(1).iterrows():
                    end = (last["confidence"], last["accuracy"])
                    reliable.append((*end, fill(f"{name}, {what}", 28), color))
        if fitted.threshold is not None:
            scores = fitted.threshold.scores(logits / fitted.temperature)
            outside = labels == fitted.threshold.out_of_scope
            if not can_learn(outside):
                continue
            # By rank, since the scores of early exits are infinite.
            false_positives, recall, _ = roc_curve(outside, rankdata(-scores))
            below.plot(100 * false_positives, 100 * recall, color=color, linewidth=1.2)
            refused = 100 * (scores < fitted.threshold.value)
            dot = (refused[~outside].mean(), refused[outside].mean())
            below.plot(*dot, "o", color=color)
            if name in named:
                detected.append((*dot, fill(name, 28), color))
            elif name == others[-1]:
                detected.append((*dot, "the other models", "0.4"))
    above.set(xlabel="confidence, %", ylabel="test accuracy, %")
    above.set_title(f"Reliability: accuracy by top probability, where {FEWEST} queries have it")
    below.set(
        xlabel="queries in scope that are refused, % (log scale)",
        ylabel="queries out of scope that are recognised, %",
        title="Out of scope, by threshold (dot: chosen on validation)",
    )
    below.set_xscale("log")
    below.set_xlim(0.1, 100)
    below.xaxis.set_major_formatter("{x:g}")
    figure.subplots_adjust(hspace=0.3)
    for axes, ends in ((above, reliable), (below, detected)):
        axes.grid(alpha=0.3)
        name_ends(axes, ends)
    save(figure, path)


def size_breakdown(results: pd.DataFrame, path: Path) -> None:
    """Where the bytes are, a stacked bar a model."""
    figure, axes = plt.subplots(figsize=(NARROW, 1.0 + 0.27 * len(results)))
    left = np.zeros(len(results))
    for part, shade in zip(SIZES, ("#08306b", "#2f7ebc", "#e69f00", "#d9d9d9"), strict=True):
        label = part.removesuffix("_mb")
        axes.barh(results.index, results[part], left=left, label=label, color=shade, edgecolor="white")
        left += results[part].to_numpy()
    for y, total in enumerate(left):
        axes.text(total, y, f" {total:.1f}", va="center")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel="size of what is deployed, MB of 2^20 bytes")
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(-0.02, 1.0), handlelength=1)
    save(figure, path)


def waterfall(made: list[dict], results: pd.DataFrame, times: pd.DataFrame, path: Path) -> None:
    """What each step to a model did to its latency, size and accuracy, from BERT-base's shape on.

    `made` is the model's lineage; `times` are those of latency.csv. Latency and size are on log scales, where
    a bar is a ratio; accuracy has points.
    """
    steps = lineage.steps(made, results, times)
    panels = {
        "latency_ms": ("latency, ms (log scale)", "{:.2f}", True),
        "size_mb": ("size, MB (log scale)", "{:.1f}", True),
        "accuracy": ("test accuracy, %", "{:.1f}", False),
    }
    table = pd.DataFrame([vars(step) for step in steps])
    table["accuracy"] *= 100
    figure, all_axes = plt.subplots(1, 3, figsize=(5.8, 0.7 + 0.62 * len(steps)), sharey=True)
    figure.subplots_adjust(wspace=0.2)
    for axes, (column, (label, form, ratio)) in zip(all_axes, panels.items(), strict=True):
        values = table[column]
        if ratio:
            axes.set_xscale("log")
        for y, (before, after) in enumerate(zip(values.shift(), values, strict=True)):
            if pd.isna(after):
                continue
            text = form.format(after)
            if not pd.isna(before):
                color = COLORS[3] if ratio else COLORS[1]
                axes.barh(y, after - before, left=before, height=0.3, color=color)
                axes.plot([before, before], [y - 1, y + 0.15], color="0.6", linewidth=0.7)
                change = (
                    f"÷{before / after:.1f}" if ratio else f"{after - before:+.1f}".replace("-", "\u2212")
                )
                text += f", {change}"
            axes.plot([after, after], [y - 0.22, y + 0.22], color="black", linewidth=2)
            middle = np.sqrt(values.min() * values.max()) if ratio else (values.min() + values.max()) / 2
            side = "left" if after < middle else "right"
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            axes.text(after, y - 0.25, text, ha=side, va="bottom", bbox=box)
        axes.use_sticky_edges = False  # those of bars, which would have no margin
        axes.margins(x=0.45)
        axes.set_xlabel(label)
        if ratio:
            axes.xaxis.set_major_locator(LogLocator())
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        axes.grid(alpha=0.3, axis="x")
        axes.tick_params(axis="y", length=0)
    labels = [f"{fill(step.name, 26)}\n{fill(', '.join(step.stages), 30)}".strip() for step in steps]
    all_axes[0].set_yticks(range(len(steps)), labels)
    all_axes[0].set_ylim(len(steps) - 0.5, -0.7)
    figure.draw_without_rendering()  # which settles the limits
    for axes in all_axes:
        _keep_texts_inside(axes)
    save(figure, path)


def _keep_texts_inside(axes: plt.Axes) -> None:
    """Move the texts that cross a side of the `axes`, whose limits are final, back inside."""
    inside = axes.get_window_extent().padded(-5)
    for text in axes.texts:
        box = text.get_window_extent()
        shift = max(inside.x0 - box.x0, 0) - max(box.x1 - inside.x1, 0)
        x, y = axes.transData.transform(text.get_position())
        text.set_x(axes.transData.inverted().transform((x + shift, y))[0])


def quantization_error(name: str, reduce_range: bool, path: Path) -> None:
    """Above, weights of the narrowest channel of a matrix and the int8 grids; below, each matrix's error.

    Both of the encoder of a torch fp32 model, with a scale for each matrix and for each channel.
    """
    weights = encoder_weights(name)
    bits = 7 if reduce_range else 8
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDE, 7.2), layout="constrained")
    errors: dict[str, list[float]] = {}
    for axis, label in ((None, "a scale for each matrix"), (0, "a scale for each channel")):
        errors[label] = []
        for weight in weights.values():
            scale, zero = int8.scale_and_zero_point(weight, reduce_range=reduce_range, axis=axis)
            rounded = int8.dequantize(int8.quantize(weight, scale, zero), scale, zero)
            errors[label].append(100 * np.sqrt(((weight - rounded) ** 2).mean() / (weight**2).mean()))
    x = np.arange(len(weights))
    for i, (label, shares) in enumerate(errors.items()):
        below.bar(x + 0.4 * i - 0.2, shares, width=0.4, label=label, color=SCALES[i])
    below.set_xticks(x, list(weights), rotation=90)
    below.set(
        ylabel="root mean square error, % of the weights'", title=f"Error of {bits}-bit weights, by matrix"
    )
    below.legend(frameon=False)
    below.grid(alpha=0.3, axis="y")

    matrix, weight = max(weights.items(), key=lambda item: np.abs(item[1]).max() / item[1].std())
    channel = weight[np.abs(weight).max(axis=1).argmin()]
    limit = np.abs(channel).max()
    above.hist(channel, bins=60, color="lightgray", label="weights")
    for values, color, height, label in (
        (weight, SCALES[0], 1.0, "matrix"),
        (channel, SCALES[1], 0.5, "channel"),
    ):
        scale, _ = int8.scale_and_zero_point(values, reduce_range=reduce_range)
        grid = np.arange(-np.floor(limit / scale), np.floor(limit / scale) + 1) * scale
        above.vlines(
            grid,
            0,
            height * above.get_ylim()[1] * 0.25,
            color=color,
            linewidth=0.8,
            label=f"{len(grid)} levels, a scale for the {label}",
        )
    above.set(
        xlabel="value of a weight", ylabel="weights", title=f"One channel of {matrix}, and the int8 grid"
    )
    above.margins(y=0.35)
    above.legend(frameon=False, loc="upper left")
    save(figure, path)
