import json

import numpy as np
import onnx
import pytest
import torch
from conftest import tiny_bert, tiny_distilbert, word_tokenizer

from stages import runtime
from stages.checkpoints import encoder
from stages.core.errors import UserError
from stages.runtime.onnx_session import OnnxSession
from stages.techniques import dynamic_int8, export, factorize
from stages.techniques.settings import Export, Factorize

QUERIES = ["send money to my car", "rent a car in w20", "my balance", "w33 w44 w55"]
WORDS = "word_embeddings.weight"


def test_factors_are_the_best_of_their_rank():
    """Their weighted error is that of the singular values left out (Eckart and Young)."""
    rng = np.random.default_rng(0)
    table, counts = rng.normal(size=(50, 16)).astype(np.float32), rng.integers(0, 100, 50)
    weights = np.sqrt(counts + 1.0)[:, None]
    for rank in (2, 8, 16):
        rows, projection = factorize.factors(table, counts, rank)
        assert (rows.shape, projection.shape) == ((50, rank), (16, rank))
        assert rows.dtype == projection.dtype == np.float32
        np.testing.assert_allclose(projection.T @ projection, np.eye(rank), atol=1e-6)
        error = np.square(weights * (table - rows @ projection.T)).sum()
        left = np.square(np.linalg.svd(weights * table, compute_uv=False)[rank:]).sum()
        assert error == pytest.approx(left, rel=1e-6, abs=1e-6)


def test_frequent_pieces_keep_more():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, 16)).astype(np.float32)

    def error(counts):
        rows, projection = factorize.factors(table, counts, 8)
        return np.square(table - rows @ projection.T).sum(axis=1)

    counts = np.where(np.arange(50) < 8, 10**6, 0)
    assert error(counts)[:8].max() < 1e-3 < error(np.zeros(50))[:8].min()


@pytest.fixture(params=[tiny_distilbert, tiny_bert])
def factorised(request, tmp_path):
    """The folder of a model with words of rank 6, and the same model with their product as its words."""
    model = request.param()
    torch.manual_seed(0)
    words = encoder.factorise(model, 6)
    with torch.no_grad():
        whole = words.weight @ words.projection.weight.T
    model.save_pretrained(tmp_path / "factorised")
    word_tokenizer().save(str(tmp_path / "factorised" / "tokenizer.json"))
    reference = request.param()
    encoder.words(reference).weight.data = whole
    reference.load_state_dict({k: v for k, v in model.state_dict().items() if WORDS not in k}, strict=False)
    return tmp_path / "factorised", reference.eval()


def inputs(batch, length):
    ids = np.random.default_rng(batch).integers(4, 60, (batch, length))
    mask = (np.arange(length) < np.maximum(length - np.arange(batch), 1)[:, None]).astype(np.int64)
    return ids * mask, mask


def answers(model, ids, mask):
    with torch.no_grad():
        return model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()


def test_a_folder_keeps_the_factors(factorised):
    folder, reference = factorised
    assert json.loads((folder / "config.json").read_text())["embedding_rank"] == 6
    model = encoder.load(folder)
    assert encoder.words(model).weight.shape == (60, 6)
    assert not [name for name in encoder.linears(model) if "embeddings" in name]
    np.testing.assert_allclose(answers(model, *inputs(3, 7)), answers(reference, *inputs(3, 7)), atol=1e-5)


def test_the_export_computes_the_product(factorised, tmp_path):
    folder, reference = factorised
    export.apply(folder, tmp_path, Export(parent="any"))
    session = OnnxSession(tmp_path / "model.onnx", threads=1)
    for shape in [(1, 1), (2, 8), (5, 3), (3, 24)]:
        np.testing.assert_allclose(session(*inputs(*shape)), answers(reference, *inputs(*shape)), atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_all_is_quantized(factorised, tmp_path, bits):
    folder, _ = factorised
    for name in ("ort", "int8"):
        (tmp_path / name).mkdir()
    export.apply(folder, tmp_path / "ort", Export(parent="any"))
    dynamic_int8.quantize(tmp_path / "ort", tmp_path / "int8", True, True, bits)
    word_tokenizer().save(str(tmp_path / "int8" / "tokenizer.json"))
    expected = runtime.load(folder).logits(QUERIES)
    found = runtime.load(tmp_path / "int8").logits(QUERIES)
    assert 0 < np.abs(found - expected).max() / np.abs(expected).max() < 0.3
    graph = onnx.load(tmp_path / "int8" / "model.onnx").graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer if len(t.dims) == 2}
    assert not [
        t.name for t in graph.initializer if t.name in shapes and t.data_type == onnx.TensorProto.FLOAT
    ]
    (words,) = (shape for name, shape in shapes.items() if WORDS in name and not name.endswith("_scales"))
    assert words == (60, 6 * bits // 8)
    assert (6, 16) in shapes.values() and (24, 16) in shapes.values()  # projection, positions


def test_torch_int8_has_the_projection(factorised, tmp_path):
    folder, _ = factorised
    dynamic_int8.quantize(folder, tmp_path, True, True)
    word_tokenizer().save(str(tmp_path / "tokenizer.json"))
    expected, found = (runtime.load(f).logits(QUERIES) for f in (folder, tmp_path))
    assert 0 < np.abs(found - expected).max() / np.abs(expected).max() < 0.3


@pytest.mark.parametrize("rank", [16, 8])
def test_what_cannot_be_factorised(tmp_path, rank):
    """As wide as the embeddings, or factorised already."""
    model = tiny_distilbert()
    if rank == 8:
        encoder.factorise(model, 10)
    model.save_pretrained(tmp_path / "parent")
    settings = Factorize.model_construct(rank=rank)
    with pytest.raises(UserError, match=f"rank is {rank}, and parent has embeddings of"):
        factorize.apply(tmp_path / "parent", tmp_path, settings)
