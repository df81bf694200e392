import numpy as np
import pytest
import torch
from conftest import random_rows, shaken, small_trainer, word_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from stages.checkpoints import encoder, torch_int8
from stages.runtime import load
from stages.techniques import dynamic_int8, export, masks, structured
from stages.techniques.settings import Export, MovementPruning
from stages.techniques.students import from_teacher_layers
from stages.training import loop

QUERIES = ["send money to my car", "rent a car in w20", "my balance", "w33 w44 w55"]
# For each of three blocks, heads of 4 and columns of 32.
KEPT = [([0, 3], list(range(0, 32, 3))), ([2], [31]), ([0, 1, 3], list(range(5, 29)))]


OPTIMIZER = MovementPruning.model_construct(learning_rate=1e-3, weight_decay=0.01, score_learning_rate=0.05)


def model(kind, bert):
    """With biases and norms that are not those of a fresh model."""
    made = bert if kind == "bert" else from_teacher_layers(bert, [0, 2]).eval()
    return shaken(made)


def logits(made):
    return loop.logits(made, random_rows())


def remove(made, kept):
    """Mask all but `kept`, then remove it; the logits in between."""
    pruning = structured.StructuredMovement(made, 0.5, 0.5, 0, 1)
    for (_, scored_masks), part in zip(pruning.parts, zip(*kept, strict=True), strict=True):
        for scored, places in zip(scored_masks, part, strict=True):
            scored.mask.zero_()
            scored.mask[places] = True
    assert pruning.kept() == kept
    masked = logits(made)
    masks.detach(made)
    structured.remove(made, pruning.kept())
    return masked


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_removed_is_masked(kind, bert, tmp_path):
    """The same logits, with what was masked gone, saved and loaded; and removed from once more."""
    made = model(kind, bert)
    whole = logits(made)
    kept = KEPT if kind == "bert" else KEPT[:2]
    masked = remove(made, kept)
    assert np.abs(masked - whole).max() > 0.1
    np.testing.assert_allclose(logits(made), masked, atol=1e-5)
    # Query, key, value and output of 4 rows a head; two feed-forward matrices; all 16 wide.
    sizes = [16 * (4 * 4 * len(heads) + 2 * len(columns)) for heads, columns in kept]
    assert sum(m.weight.numel() for m in encoder.linears(made).values()) == sum(sizes)

    made.save_pretrained(tmp_path / "once")
    loaded = encoder.load(tmp_path / "once")
    assert np.array_equal(logits(loaded), logits(made))
    assert len(masks.zeros(loaded)) == 1 + 6 * len(kept)

    fewer = [([len(heads) - 1], list(range(0, len(columns), 2))) for heads, columns in kept]
    masked = remove(loaded, fewer)
    np.testing.assert_allclose(logits(loaded), masked, atol=1e-5)
    loaded.save_pretrained(tmp_path / "twice")
    again = encoder.load(tmp_path / "twice")
    assert again.config.layer_shapes == [[1, -(-len(columns) // 2)] for _, columns in kept]
    assert np.array_equal(logits(again), logits(loaded))


def test_removed_weights_are_those_of_the_rest(bert):
    """Of the second block, head 2 and column 31 are left: rows 8 … 11, and the last one."""
    before = {name: t.clone() for name, t in bert.state_dict().items()}
    remove(bert, KEPT)
    after = bert.state_dict()
    layer = "bert.encoder.layer.1"
    for name in ("query", "key", "value"):
        for part in ("weight", "bias"):
            key = f"{layer}.attention.self.{name}.{part}"
            assert torch.equal(after[key], before[key][8:12])
    key = f"{layer}.attention.output.dense.weight"
    assert torch.equal(after[key], before[key][:, 8:12])
    assert torch.equal(
        after[f"{layer}.intermediate.dense.bias"], before[f"{layer}.intermediate.dense.bias"][31:]
    )
    assert torch.equal(after[f"{layer}.output.dense.weight"], before[f"{layer}.output.dense.weight"][:, 31:])


def test_what_is_removed_runs_on_either_runtime(bert, tmp_path):
    made = model("distilbert", bert)
    remove(made, KEPT[:2])
    for name in ("torch", "ort", "int8"):
        (tmp_path / name).mkdir()
        word_tokenizer().save(str(tmp_path / name / "tokenizer.json"))
    made.save_pretrained(tmp_path / "torch")
    export.apply(tmp_path / "torch", tmp_path / "ort", Export(parent="any"))
    dynamic_int8.quantize(tmp_path / "torch", tmp_path / "int8", per_channel=True, reduce_range=True)
    expected = load(tmp_path / "torch").logits(QUERIES)
    np.testing.assert_allclose(load(tmp_path / "ort").logits(QUERIES), expected, atol=1e-4)
    int8 = load(tmp_path / "int8")
    found = int8.logits(QUERIES)
    assert 0 < np.abs(found - expected).max() < 0.3 * np.abs(expected).max()
    int8.session.model = torch_int8.quantized(made, per_channel=True)
    assert np.array_equal(int8.logits(QUERIES), found)


@given(
    st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 2.0]), min_size=1, max_size=8), min_size=1),
    st.floats(0, 1),
)
def test_best(scores, share):
    kept_masks = structured.best([torch.tensor(block) for block in scores], share)
    assert [len(mask) for mask in kept_masks] == [len(block) for block in scores]
    count = sum(len(block) for block in scores)
    assert sum(int((~mask).sum()) for mask in kept_masks) == min(round(share * count), count - len(scores))
    kept, removed = [], []
    for block, mask in zip(scores, kept_masks, strict=True):
        ranked = sorted(zip(block, mask.tolist(), strict=True), reverse=True)
        assert ranked[0] == (max(block), True)
        kept += [value for value, stays in ranked[1:] if stays]
        removed += [value for value, stays in ranked[1:] if not stays]
    # But for the best of each block, one ranking for all of them.
    assert not kept or not removed or max(removed) <= min(kept)


def train(student, pruning, epochs):
    """5 steps an epoch."""
    optimizer = masks.optimizer(student, OPTIMIZER)
    return loop.fit(small_trainer(student, pruning, epochs=epochs, optimizer=optimizer), "")


def test_training_reaches_the_shares(bert, tmp_path, monkeypatch):
    """Two blocks of 4 heads and 32 columns: 4 heads and 48 columns go."""
    monkeypatch.chdir(tmp_path)
    student = from_teacher_layers(bert, [0, 2])
    pruning = structured.StructuredMovement(student, 0.5, 0.75, 0.1, 0.6, every=4)
    history = train(student, pruning, epochs=3)
    assert [history[-1][f"{name}_removed"] for name in ("heads", "feed_forward")] == [0.5, 0.75]
    assert history[0]["feed_forward_removed"] < 0.75
    kept = pruning.kept()
    assert sum(len(heads) for heads, _ in kept) == 4
    assert sum(len(columns) for _, columns in kept) == 16
    assert all(heads and columns for heads, columns in kept)
    assert all(scored.scores.all() for _, masks in pruning.parts for scored in masks)
    masked = logits(student)
    masks.detach(student)
    structured.remove(student, kept)
    np.testing.assert_allclose(logits(student), masked, atol=1e-5)


def test_a_run_of_few_steps_reaches_the_shares(bert, tmp_path, monkeypatch):
    """5 steps, fewer than masks are drawn anew after; `end` is at the third."""
    monkeypatch.chdir(tmp_path)
    pruning = structured.StructuredMovement(bert, 0.5, 0.75, 0.1, 0.6)
    history = train(bert, pruning, epochs=1)
    assert [history[-1][f"{name}_removed"] for name in ("heads", "feed_forward")] == [0.5, 0.75]
