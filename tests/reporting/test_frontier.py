import itertools
import struct
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.text import Text

from stages.core.settings import Published
from stages.reporting import figures, frontier

pytestmark = pytest.mark.filterwarnings("error")

PUBLISHED = [Published(label="RoBERTa-large", accuracy=0.915, source="model card")]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved from now on."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))
    yield kept
    for figure in kept:
        figures.plt.close(figure)


def draw(rows, best, published=None):
    """Draw models named in alphabetical order; `rows` have milliseconds, accuracy and MB."""
    names = pd.Index(list("abcdefghijklmnopqrstuvwxyz"[: len(rows)]), name="model")
    table = pd.DataFrame(rows, names, ["latency_ms", "accuracy_calibrated", "size_mb"])
    frontier.draw(table.assign(best=names == best), published, Path("a.png"))


CROWDED = [(0.3 * 1.02**i, 0.9 + 0.003 * i, 90 - 8 * i) for i in range(10)] + [(9.0, 0.8, 60.0)]


def test_the_front_is_named_and_joined(drawn):
    draw([(1, 0.8, 4), (2, 0.7, 8), (3, 0.9, 16), (3, 0.85, 32), (8, 0.95, 64)], "d", PUBLISHED)
    (axes,) = drawn[0].axes
    texts = sorted(" ".join(text.get_text().split()) for text in axes.texts)
    assert texts == [
        "RoBERTa-large: 91.5% (model card)",
        "a, 4.0 MB", "c, 16.0 MB", "d, 32.0 MB, chosen on validation", "e, 64.0 MB",
    ]  # fmt: skip
    steps, line = axes.lines
    assert (list(steps.get_xdata()), list(steps.get_ydata())) == ([1, 3, 8], pytest.approx([80, 90, 95]))
    assert list(line.get_ydata()) == pytest.approx([91.5, 91.5])
    assert axes.get_ylim()[0] < 70 and axes.get_ylim()[1] > 95 and axes.get_legend() is None
    beaten, front, ring = axes.collections
    assert beaten.get_offsets().tolist() == [[2, 70], [3, 85]]
    assert [*beaten.get_sizes(), *front.get_sizes()] == pytest.approx([87.5, 350, 43.75, 175, 700])
    assert ring.get_offsets().tolist() == [[3, 85]]


@pytest.mark.parametrize("rows", [CROWDED, CROWDED[::-1], CROWDED[-1:], CROWDED[:2]])
def test_no_name_hides_another_or_leaves_the_picture(rows, drawn):
    draw(rows, "a")
    figure = drawn[0]
    figure.canvas.draw()
    (axes,) = figure.axes
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert len(boxes) >= min(len(rows), 5)
    for box in boxes:
        assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
        assert axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


def test_a_model_hardly_better_than_a_faster_one_is_not_named(drawn):
    """Of steps of 0.05 points, each fourth is; and both ends, and the model to deploy."""
    draw([(1 + i, 0.9 + 0.0005 * i, 9) for i in range(12)], "b")
    names = [text.get_text().split(",")[0] for text in drawn[0].axes[0].texts]
    assert names == ["a", "b", "f", "l"]


def test_as_many_are_named_as_fit(drawn):
    rows = [(0.3 * 1.02**i, 0.9 + 0.003 * i, 9) for i in range(26)]
    draw(rows, "e")
    (axes,) = drawn[0].axes
    names = [text.get_text().split(",")[0] for text in axes.texts]
    assert 8 <= len(names) < 26 and {"a", "e", "z"} <= set(names)
    assert axes.get_ylim()[1] < 101


def test_published_accuracies_close_to_each_other(drawn):
    published = [
        Published(label="a long name of a model", accuracy=a, source="its card") for a in (0.87, 0.868)
    ]
    draw(CROWDED, "b", published)
    drawn[0].canvas.draw()
    texts = [text for text in drawn[0].axes[0].texts if "card" in text.get_text()]
    assert "86.8%" in texts[0].get_text() and "87.0%" in texts[1].get_text()
    lower, upper = (Text.get_window_extent(text) for text in texts)
    assert lower.y1 <= upper.y0


def test_no_text_is_small(drawn):
    draw(CROWDED, "b", PUBLISHED)
    drawn[0].canvas.draw()
    texts = [text for text in drawn[0].findobj(Text) if text.get_text()]
    assert len(texts) > 20 and min(text.get_fontsize() for text in texts) >= 9


@pytest.mark.parametrize("published", [PUBLISHED, None])
def test_is_drawn_the_same_twice(published, tmp_path, monkeypatch):
    """About 800 px wide: its text is not scaled down where it is shown."""
    monkeypatch.chdir(tmp_path)
    pictures = []
    for _ in range(2):
        draw(CROWDED, "c", published)
        pictures.append(Path("a.png").read_bytes())
    assert pictures[0] == pictures[1] and pictures[0].startswith(b"\x89PNG")
    width, height = struct.unpack(">II", pictures[0][16:24])
    assert 700 < width < 950 and 400 < height < 650
