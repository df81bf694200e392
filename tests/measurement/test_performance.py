import pandas as pd
import pytest

from stages.measurement.performance import PerformanceBenchmark

TEXTS = ["send money to my car", "my balance", "rent a car in w20", "w33 w44", "w50"]


@pytest.mark.parametrize("name", ["student", "student-ort"])
def test_accuracy_is_over_the_models_own_predictions(models, name):
    """Labels taken from the model's predictions, two of five of them spoilt."""
    benchmark = PerformanceBenchmark(models / name)
    labels = benchmark.classifier.logits(TEXTS).argmax(-1)
    labels[:2] = (labels[:2] + 1) % 3
    table = pd.DataFrame({"text": TEXTS, "label": labels})
    for batch_size in (1, 2, 5):
        result = benchmark.accuracy(table, None, batch_size)
        assert result == {"accuracy": 0.6, "accuracy_in_scope": 0.6, "oos_recall": None}


def test_size_is_what_is_deployed(models):
    folder = models / "student"
    files = [path for path in folder.iterdir() if path.name != "recipe.json"]
    expected = sum(len(path.read_bytes()) for path in files) / 1024 / 1024
    assert PerformanceBenchmark(folder).size_mb() == pytest.approx(expected)
    (folder / "recipe.json").write_text("x" * 10**6)
    assert PerformanceBenchmark(folder).size_mb() == pytest.approx(expected)


def test_a_query_takes_time(models):
    assert 0 < PerformanceBenchmark(models / "student-ort").time_query("my balance") < 1000
