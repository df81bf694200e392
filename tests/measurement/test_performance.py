import numpy as np
import pandas as pd
import pytest

from stages import model_folder
from stages.measurement.performance import PerformanceBenchmark

TEXTS = ["send money to my car", "my balance", "rent a car in w20", "w33 w44", "w50", "my car", "to w20 w21"]
TABLE = pd.DataFrame({"text": TEXTS}, index=[30, 10, 20, 5, 7, 9, 8])


@pytest.mark.parametrize("name", ["student", "student-ort"])
@pytest.mark.parametrize(
    ("scales_by_batch", "batch_size", "sizes"),
    [(False, 3, [3, 3, 1]), (False, 50, [7]), (False, 1, [1] * 7), (True, 3, [1] * 7)],
)
def test_logits_are_the_rows(models, name, scales_by_batch, batch_size, sizes):
    model_folder.write_recipe(models / name, "nothing", "a test", {}, scales_by_batch=scales_by_batch)
    benchmark = PerformanceBenchmark(models / name)
    alone = [benchmark.classifier.logits([text])[0] for text in TEXTS]
    served, calls = benchmark.classifier.logits, []
    benchmark.classifier.logits = lambda texts: calls.append(texts) or served(texts)
    logits = benchmark.logits(TABLE, batch_size)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, alone, atol=1e-5)
    assert [len(texts) for texts in calls] == sizes
    lengths = [len(text) for texts in calls for text in texts]
    assert lengths == sorted(lengths)  # which leaves the least to pad


def test_size_is_what_is_deployed(models):
    folder = models / "student"
    files = [path for path in folder.iterdir() if path.name != "recipe.json"]
    expected = sum(len(path.read_bytes()) for path in files) / 1024 / 1024
    assert PerformanceBenchmark(folder).size_mb() == pytest.approx(expected)
    (folder / "recipe.json").write_text("x" * 10**6)
    assert PerformanceBenchmark(folder).size_mb() == pytest.approx(expected)


def test_a_query_takes_time(models):
    benchmark = PerformanceBenchmark(models / "student-ort")
    assert 0 < benchmark.time(["my balance", "send money"]) < 10_000


def test_the_parts_of_a_query(models):
    """The session is run on what the tokenizer gives, once."""
    benchmark = PerformanceBenchmark(models / "student-ort")
    session, runs = benchmark.classifier.session, []
    benchmark.classifier.session = lambda *inputs: runs.append(inputs) or session(*inputs)
    tokenization, run = benchmark.time_parts("my balance")
    assert tokenization > 0 and run > 0
    [(ids, mask)] = runs
    assert ids.tolist() == [[2, 4, 5, 3]] and mask.tolist() == [[1, 1, 1, 1]]
