import itertools
import struct
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_bert, tiny_distilbert
from matplotlib.text import Text

from stages.checkpoints import RULED_OUT, encoder
from stages.checkpoints.families import FAMILIES
from stages.core.atomic import write_json
from stages.reporting import figures, results
from stages.runtime.calibration import Calibration, Threshold

pytestmark = pytest.mark.filterwarnings("error")

ROWS = ["teacher", "small", "smaller"]
MATRICES, BERT = (FAMILIES[kind].linears for kind in ("distilbert", "bert"))
LABELS = np.array([0, 1, 2, 3] * 50)
RESULTS = pd.DataFrame(
    {
        "size_mb": [80.0, 20.0, 1.5],
        "embeddings_mb": [40.0, 8.0, 0.5],
        "encoder_mb": [35.0, 10.0, 0.6],
        "head_mb": [1.0, 1.0, 0.1],
        "tokenizer_mb": [4.0, 1.0, 0.3],
    },
    index=pd.Index(ROWS, name="model"),
)


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """calibrated/ and evaluations/ of a BERT and two DistilBERTs, `smaller` half zeros."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ROWS:
        folder = tmp_path / "calibrated" / name
        model = tiny_bert() if name == "teacher" else tiny_distilbert()
        if name == "smaller":
            for module in encoder.linears(model).values():
                module.weight.data[:, ::2] = 0
        model.save_pretrained(folder)
        threshold = None if name == "small" else Threshold(3, "margin", 0.2)
        write_json(folder / "calibration.json", asdict(Calibration(1.5, threshold)))
        logits = rng.normal(0, 1, (200, 4)) + 3 * np.eye(4)[LABELS]
        if name == "smaller":
            logits[:20, 3] = RULED_OUT  # by an early exit
        (tmp_path / "evaluations" / name).mkdir(parents=True)
        np.save(tmp_path / "evaluations" / name / "test.npy", logits.astype(np.float32))
    return tmp_path


SMALL = "a-small-one-with-a-long-name"
STAGES = {"teacher": "teacher", "a": "distill", "b": "vocabulary", SMALL: "quantize"}
# A lineage, the rows of the table, and the time of BERT-base's shape.
MADE = (
    [{"stage": stage, "name": name} for name, stage in STAGES.items()],
    pd.DataFrame(
        {"size_mb": [80.0, 8.0], "latency_ms": [8.0, 0.4], "accuracy_calibrated": [0.94, 0.93]},
        index=["teacher", SMALL],
    ),
    pd.DataFrame({"size_mb": [400.0], "latency_ms": [80.0]}, index=["bert-base-shape"]),
)


def curves():
    epochs = [
        {"model": name, "epoch": epoch, "loss": 2 / epoch, "eval_accuracy": 0.2 * epoch}
        for name in ROWS
        for epoch in (1, 2, 3)
    ]
    return pd.DataFrame(epochs)


def profiles():
    zeros = {f"transformer.layer.0.{matrix}": 0.1 * i for i, matrix in enumerate(MATRICES)}
    return {name: {"overall": 0.25, **zeros} for name in ("small", "smaller")}


def points():
    return pd.DataFrame(
        [
            (method, sparsity + jitter, seed, 0.9 - sparsity / 3 + 0.01 * seed)
            for method in ("movement-soft", "magnitude-gradual")
            for sparsity in (0.3, 0.6, 0.9)
            for seed, jitter in ((0, 0.0), (1, 0.001), (2, -0.002))
        ],
        columns=["method", "sparsity", "seed", "validation_accuracy"],
    )


PICTURES = {
    "training curves": lambda path: figures.training_curves(curves(), path),
    "pruned weights": lambda path: figures.pruned_weights(["small", "smaller"], path),
    "sparsity by layer": lambda path: figures.sparsity_by_layer(profiles(), path),
    "accuracy against sparsity": lambda path: figures.accuracy_against_sparsity(points(), 0.9, path),
    "calibration curves": lambda path: figures.calibration_curves(ROWS, ["teacher", "small"], LABELS, path),
    "waterfall": lambda path: figures.waterfall(*MADE, path),
    "size breakdown": lambda path: figures.size_breakdown(RESULTS, path),
    "quantization error": lambda path: figures.quantization_error("small", True, path),
    "nothing pruned": lambda path: figures.pruned_weights(["teacher"], path),
    "full range, BERT": lambda path: figures.quantization_error("teacher", False, path),
}
EMPTY = {
    "no sparsity": lambda path: figures.sparsity_by_layer({}, path),
    "no pruned points": lambda path: figures.accuracy_against_sparsity(points()[:0], 0.9, path),
    "no training": lambda path: figures.training_curves(curves()[:0], path),
    "no out-of-scope queries": lambda path: figures.calibration_curves(ROWS, ["teacher"], LABELS % 3, path),
    "no thresholds": lambda path: figures.calibration_curves(["small"], ["small"], LABELS, path),
}


@pytest.mark.parametrize("name", PICTURES)
def test_is_drawn(name, outputs):
    PICTURES[name](outputs / ".picture.png.1.part")
    data = (outputs / ".picture.png.1.part").read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert 500 < width <= 900 and 150 < height < 1500  # its text is not scaled down where it is shown
    assert 5_000 < len(data) < 500_000


@pytest.mark.parametrize("name", EMPTY)
def test_is_drawn_of_nothing(name, outputs):
    """In a project without pruned rows, training or out-of-scope queries."""
    EMPTY[name](outputs / "picture")
    assert (outputs / "picture").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved from now on."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))
    yield kept
    for figure in kept:
        figures.plt.close(figure)


def test_same_numbers_same_picture(outputs):
    for name in ("a", "b"):
        figures.size_breakdown(RESULTS, outputs / name)
    assert (outputs / "a").read_bytes() == (outputs / "b").read_bytes()


@pytest.mark.parametrize(
    ("name", "layers", "matrices"), [("teacher", 3, BERT), ("small", 1, MATRICES), ("smaller", 1, MATRICES)]
)
def test_encoder_weights_in_layer_order(name, layers, matrices):
    """Without embeddings, norms and head."""
    weights = figures.encoder_weights(name)
    assert list(weights) == [f"{layer}.{matrix}" for layer in range(layers) for matrix in sorted(matrices)]
    zeros = sum((weight == 0).sum() for weight in weights.values())
    assert zeros == (sum(weight.size for weight in weights.values()) / 2 if name == "smaller" else 0)


def test_only_weights_left_are_in_the_histogram(drawn, outputs):
    figures.pruned_weights(["small", "smaller"], outputs / "a")
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == [
        "small: 0% of the weights are zero",
        "smaller: 50% of the weights are zero",
    ]
    for panel in panels:  # in percent; beyond the axis, next to none
        assert sum(bar.get_height() for bar in panel.patches) == pytest.approx(100, abs=5)


def test_dots_are_what_the_thresholds_do(drawn, outputs):
    """Each at the shares of test queries, in scope and out of it, that the calibrated model refuses."""
    for name, value in (("teacher", 0.5), ("smaller", -2.0), ("small", 2.0)):  # the last two: none, and all
        write_json(
            outputs / "calibrated" / name / "calibration.json",
            asdict(Calibration(1.5, Threshold(3, "margin", value))),
        )
    figures.calibration_curves(ROWS, ["teacher"], LABELS, outputs / "a")
    right = drawn[0].axes[1]
    dots = [line for line in right.lines if line.get_marker() == "o"]
    for name, dot in zip(["small", "smaller", "teacher"], dots, strict=True):  # those shown come last
        logits = np.load(outputs / "evaluations" / name / "test.npy")
        refused = results.calibration(name).predict(logits) == 3
        expected = [100 * refused[LABELS != 3].mean(), 100 * refused[LABELS == 3].mean()]
        assert [dot.get_xdata()[0], dot.get_ydata()[0]] == pytest.approx(expected)


def test_sparsity_is_in_percent(drawn, outputs):
    figures.sparsity_by_layer(profiles(), outputs / "a")
    axes = drawn[0].axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0, 10, 20, 30, 40, 50]] * 2)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["small (25%)", "smaller (25%)"]
    assert [label.get_text() for label in axes.get_xticklabels()][3:5] == [
        "0.attention.out_lin",
        "0.ffn.lin1",
    ]


def test_seeds_are_averaged(drawn, outputs):
    figures.accuracy_against_sparsity(points(), 0.95, outputs / "a")
    containers = drawn[0].axes[0].containers
    assert [c.get_label() for c in containers] == ["movement-soft", "magnitude-gradual"]
    for line, _, (bars,) in containers:
        assert line.get_xdata().tolist() == pytest.approx([30, 60, 90])
        assert line.get_ydata().tolist() == pytest.approx([81, 71, 61])
        ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
        assert ends == [pytest.approx([y - 1, y + 1]) for y in (81, 71, 61)]


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_is_small(name, drawn, outputs):
    PICTURES[name](outputs / "a")
    drawn[0].canvas.draw()
    texts = [text for text in drawn[0].findobj(Text) if text.get_text() and text.get_visible()]
    assert texts and min(text.get_fontsize() for text in texts) >= 9


@pytest.mark.parametrize("count", [1, 7, 25])
def test_names_beside_the_axes_hide_none(count, drawn, outputs):
    """Curves that end at the same place, with names of one line and of two."""
    figure, axes = figures.plt.subplots()
    axes.plot([0, 1], [0, 1])
    names = [f"name {i}\nof two lines" if i % 3 == 1 else f"name {i}" for i in range(count)]
    figures.name_ends(axes, [(1, 0.9 + 0.001 * i, name, "black") for i, name in enumerate(names)])
    figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    figures.plt.close(figure)
    for lower, upper in itertools.pairwise(boxes):
        assert lower.y1 <= upper.y0 + 1
    if count < 25:
        assert boxes[-1].y1 <= axes.bbox.y1 + 1


def test_a_step_is_drawn_from_the_one_before(drawn, outputs):
    figures.waterfall(*MADE, outputs / "a")
    latency, size, accuracy = drawn[0].axes
    bars = [[(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches] for axes in drawn[0].axes]
    assert bars[0] == [pytest.approx((80, 8)), pytest.approx((8, 0.4))]
    assert bars[1] == [pytest.approx((400, 80)), pytest.approx((80, 8))]
    assert bars[2] == [pytest.approx((94, 93))]
    assert [text.get_text() for text in latency.texts] == ["80.00", "8.00, ÷10.0", "0.40, ÷20.0"]
    assert [text.get_text() for text in accuracy.texts] == ["94.0", "93.0, −1.0"]
    assert size.get_xlabel() == "size, MB (log scale)"


def test_the_labels_of_steps_stay_inside(drawn, outputs):
    """One in the middle of its axes has more text than there is room on either side."""
    made, results, times = MADE
    table = results.assign(latency_ms=[6.0, 0.4])
    figures.waterfall(made, table, times, outputs / "a")
    drawn[0].canvas.draw()
    for axes in drawn[0].axes:
        for text in axes.texts:
            box = text.get_window_extent()
            assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1, text.get_text()


def test_bars_add_up_to_the_size(drawn, outputs):
    figures.size_breakdown(RESULTS, outputs / "a")
    widths = [[bar.get_width() for bar in container] for container in drawn[0].axes[0].containers]
    assert np.sum(widths, axis=0) == pytest.approx(RESULTS["size_mb"].to_numpy())
