import pandas as pd
from matplotlib.image import imread

from stages.commands import sweep

NAMES = ["distill.alpha", "distill.temperature"]
TABLE = pd.DataFrame(
    {
        "experiment": ["a-b", "c-d", "e-f"],
        "distill.alpha": [0.1, 0.1, 0.5],
        "distill.temperature": [2.0, 8.0, 2.0],
        "validation_accuracy": [0.9312, 0.9404, 0.92],
        "size_mb": [67.2, 67.2, 67.2],
    }
)


def test_markdown():
    lines = sweep.markdown(TABLE, NAMES, "distilled").splitlines()
    assert lines[2] == "| a-b | 0.1 | 2 | 93.12% | 67.2 |"
    assert lines[3] == "| **c-d** | 0.1 | 8 | 94.04% | 67.2 |"


def test_a_param_that_an_experiment_has_not_is_a_dash():
    table = TABLE.assign(**{"distill.alpha": [float("nan"), 0.1, 0.5], "validation_accuracy": float("nan")})
    lines = sweep.markdown(table, NAMES, "distilled").splitlines()
    assert lines[2] == "| a-b | – | 2 | – | 67.2 |"


def test_heat_map(tmp_path):
    """Of a sweep that is not whole: one corner is empty."""
    sweep.heat_map(TABLE, NAMES, "distilled", tmp_path / "sweep.png")
    pixels = imread(tmp_path / "sweep.png")
    assert pixels.shape[1] > 300 and pixels[..., :3].std() > 0.05
