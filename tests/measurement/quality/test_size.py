import shutil
from dataclasses import asdict

import pytest

from stages.checkpoints import sparse_storage
from stages.core.atomic import write_json
from stages.measurement.quality import size
from stages.runtime.calibration import NONE
from stages.techniques import dynamic_int8

# The tiny models' embeddings: 60 words, 24 positions, and a layer norm's weights and biases, 16 wide.
ENTRIES = (60 + 24 + 2) * 16
OVERHEAD = 1100  # bytes at most: names, position ids, scales and zero points
LAYER_NORM = 2 * 16 * 4


@pytest.fixture
def derived(models):
    """Write the model `name` made by `make(parent, folder)`; give its folder."""

    def run(name, make):
        folder = models / f"{name}-derived"
        folder.mkdir()
        for file in ("tokenizer.json", "tokenizer_config.json", "recipe.json"):
            shutil.copyfile(models / name / file, folder / file)
        make(models / name, folder)
        return folder

    return run


def int8(parent, folder):
    dynamic_int8.quantize(parent, folder, per_channel=True, reduce_range=True)


@pytest.mark.parametrize(
    ("name", "make", "weights", "least", "most"),
    [
        ("student", None, "model.safetensors", 4 * ENTRIES, 4 * ENTRIES),
        ("teacher", None, "model.safetensors", 4 * (ENTRIES + 2 * 16), 4 * (ENTRIES + 2 * 16)),  # token types
        ("student-ort", None, "model.onnx", 4 * ENTRIES, 4 * ENTRIES + OVERHEAD),
        ("student", int8, "model.int8.pt", 4 * ENTRIES, 4 * ENTRIES),  # torch leaves them in fp32
        ("student-ort", int8, "model.onnx", ENTRIES, ENTRIES + OVERHEAD),
        # The layer norm's are too small to be stored apart; random floats do not get smaller.
        ("student", sparse_storage.pack, "model.safetensors.sparse", 4 * ENTRIES - LAYER_NORM, 4 * ENTRIES),
        ("student-ort", sparse_storage.pack, "model.onnx.sparse", 4 * ENTRIES - LAYER_NORM, 4 * ENTRIES),
    ],
)
def test_parts(models, derived, name, make, weights, least, most):
    folder = models / name if make is None else derived(name, make)
    parts = size.breakdown(folder)
    assert least <= parts["embeddings_mb"] * 2**20 <= most
    assert 0 < parts["head_mb"] < parts["embeddings_mb"] < parts["encoder_mb"]
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert parts["tokenizer_mb"] * 2**20 == pytest.approx(
        sum(n for file, n in files.items() if file not in (weights, "recipe.json"))
    )
    assert parts["size_mb"] * 2**20 == pytest.approx(sum(files.values()) - files["recipe.json"])
    assert parts.pop("size_mb") == pytest.approx(sum(parts.values()))


def test_heads_of_both_architectures(models):
    """The layer before the classifier is its own in BERT (pooler) and DistilBERT (pre_classifier)."""
    for name in ("student", "teacher"):
        assert size.breakdown(models / name)["head_mb"] * 2**20 == (16 * 16 + 16 + 16 * 3 + 3) * 4


def test_the_calibration_counts_and_the_recipe_does_not(models):
    folder = models / "student"
    before = size.breakdown(folder)
    write_json(folder / "calibration.json", asdict(NONE))
    (folder / "recipe.json").write_text("x" * 10**6)
    after = size.breakdown(folder)
    added = (folder / "calibration.json").stat().st_size / size.MB
    for part in before:
        grows = part in ("size_mb", "tokenizer_mb")
        assert after[part] - before[part] == pytest.approx(added if grows else 0, abs=1e-12)
