"""The picture of accuracy against latency, with the models on its front named."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator

from stages.core.settings import Published
from stages.reporting import figures, selection
from stages.reporting.figures import plt

# By how many points of accuracy a model is at least better than a faster one, to be named.
NAMED = 0.2
# Text beside what it names: annotate's options.
LABEL: dict[str, Any] = {
    "textcoords": "offset points",
    "fontsize": 9,
    "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
    "zorder": 4,
}
Point = tuple[float, float, float, str, bool]  # x, y, radius, text, whether it is the model to deploy


def draw(results: pd.DataFrame, published: Sequence[Published] | None, path: Path) -> None:
    """A bubble a model, its area the size; a line for each accuracy that is `published`.

    The models on the front of what is drawn are dark, joined by steps and, as far as names fit, named. The
    model to deploy is ringed, and named too.
    """
    x, y, size = results["latency_ms"], 100 * results["accuracy_calibrated"], results["size_mb"]
    front = list(selection.front(results, "latency_ms", "accuracy_calibrated").index)
    (best,) = results.index[results["best"]]
    area = 700 * size / size.max()
    figure, axes = plt.subplots(figsize=(7.2, 5))
    axes.set_xscale("log")
    others = results.index.difference(front)
    axes.scatter(x[others], y[others], area[others], color="0.85", edgecolors="0.45", linewidths=0.7)
    axes.step(x[front], y[front], color="black", where="post", linewidth=1)
    axes.scatter(
        x[front], y[front], area[front], color="tab:blue", edgecolors="white", linewidths=0.7, zorder=3
    )
    ring = (np.sqrt(area[best]) + 7) ** 2
    axes.scatter(x[best], y[best], ring, facecolors="none", edgecolors="black", linewidths=1.5, zorder=3)
    lines = sorted(published or (), key=lambda line: line.accuracy)
    for line in lines:
        axes.axhline(100 * line.accuracy, color="black", linestyle="--", linewidth=0.9, zorder=0)
    axes.margins(y=0.12)
    texts = {name: f"{name}, {size[name]:.1f}\N{NO-BREAK SPACE}MB" for name in [*front, best]}
    texts[best] += ", chosen on validation"
    texts = {name: fill(text, 24) for name, text in texts.items()}
    radius = np.sqrt(area) / 2 + 3.5 * results["best"]
    _name_front(axes, [(x[name], y[name], radius[name], texts[name], name == best) for name in front])
    if best not in front:
        to_left = x[best] > np.sqrt(np.prod(axes.get_xlim()))  # right of the middle
        offset, side = (-radius[best] - 4, "right") if to_left else (radius[best] + 4, "left")
        axes.annotate(texts[best], (x[best], y[best]), (offset, 0), ha=side, va="center", **LABEL)
    _name_lines(axes, [(100 * line.accuracy, line.label, line.source) for line in lines])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set(
        xlabel="mean latency of a test query, ms (log scale)",
        ylabel="test accuracy, calibrated, %",
        title="Accuracy against latency (area: size)",
    )
    axes.grid(alpha=0.3)
    figures.save(figure, path)


def _name_front(axes: plt.Axes, front: list[Point]) -> None:
    """Write the texts of `front`, the cheapest first, above the points and to their left, where no point is.

    Of those whose accuracies are so close that texts do not fit, the cheaper ones are named. The cheapest,
    the most accurate and the one to deploy always are.
    """
    height, width = (pixels * 72 / axes.figure.dpi for pixels in (axes.bbox.height, axes.bbox.width))
    left = right = np.log(axes.get_xlim()[1])
    for x, _, radius, text, _ in front:
        share = (_wide(text) + radius + 6) / width
        left = min(left, (np.log(x) - share * right) / (1 - share))
    low, high = axes.get_ylim()
    high += 0.15 * (high - low)
    gap = NAMED
    while True:
        named = _apart(front, gap)
        starts = [(y - low) / (high - low) * height for _, y, *_ in named]
        ends = [(np.log(x) - left) / (right - left) * width - radius - 3 for x, _, radius, *_ in named]
        texts = [text for *_, text, _ in named]
        bottoms = _raised(
            [
                (end - _wide(text), end, start + 2, _high(text))
                for start, end, text in zip(starts, ends, texts, strict=True)
            ]
        )
        if max(b + _high(text) for b, text in zip(bottoms, texts, strict=True)) <= height:
            break
        if gap > 100:  # no more can be left out
            high = low + 1.1 * (high - low)
        gap *= 2
    for (x, y, radius, text, _), start, bottom in zip(named, starts, bottoms, strict=True):
        line = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 0, "shrinkB": radius, "relpos": (1, 0)}
        offset = (-radius - 3, bottom - start)
        axes.annotate(text, (x, y), offset, ha="right", va="bottom", arrowprops=line, **LABEL)
    axes.set_xlim(np.exp(left), np.exp(right))
    axes.set_ylim(low, high)


def _apart(front: list[Point], gap: float) -> list[Point]:
    """The points of `front` that are `gap` above the last taken and below the end; both ends; the best."""
    taken = front[:1]
    for point in front[1:-1]:
        if point[4] or taken[-1][1] + gap <= point[1] <= front[-1][1] - gap:
            taken.append(point)
    return taken + front[1:][-1:]


def _name_lines(axes: plt.Axes, lines: list[tuple[float, str, str]]) -> None:
    """Write label and source of published accuracies, the lowest first, to the right of the axes."""
    low, high = axes.get_ylim()
    height = axes.bbox.height * 72 / axes.figure.dpi
    texts = [
        fill(f"{label}: {accuracy:.1f}% ({source})", 18, break_on_hyphens=False)
        for accuracy, label, source in lines
    ]
    starts = [(accuracy - low) / (high - low) * height for accuracy, *_ in lines]
    boxes = [(0, 1, y - _high(text) / 2, _high(text)) for y, text in zip(starts, texts, strict=True)]
    for text, start, bottom, line in zip(texts, starts, _raised(boxes), lines, strict=True):
        offset = (5, bottom - start)
        axes.annotate(text, (1, line[0]), offset, axes.get_yaxis_transform(), va="bottom", **LABEL)


def _wide(text: str) -> float:
    """About how many points a label takes across."""
    return 5 * max(map(len, text.split("\n")))


def _high(text: str) -> float:
    return 11.5 * (text.count("\n") + 1) + 3


def _raised(boxes: Sequence[tuple[float, float, float, float]]) -> list[float]:
    """The bottoms of `boxes` (left, right, bottom, height), each raised above those before it in its way."""
    tops: list[tuple[float, float, float]] = []
    bottoms = []
    for left, right, bottom, height in boxes:
        bottoms.append(max([bottom, *(top for start, end, top in tops if start < right and left < end)]))
        tops.append((left, right, bottoms[-1] + height))
    return bottoms
