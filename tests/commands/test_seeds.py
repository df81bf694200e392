import pandas as pd
import pytest

from stages.commands import seeds


@pytest.fixture
def reports(tmp_path):
    """Three reports of two models."""
    for seed, accuracy in enumerate((0.90, 0.92, 0.97)):
        (tmp_path / f"seed-{seed}" / "tables").mkdir(parents=True)
        row = {**dict.fromkeys(seeds.COLUMNS, accuracy), "validation_accuracy": 0.5, "speedup": 10.0 + seed}
        table = pd.DataFrame({"teacher": row, "student": row}).T.rename_axis("model")
        table.to_csv(tmp_path / f"seed-{seed}" / "tables" / "results.csv")
    return tmp_path


def test_mean_and_spread(reports, intents):
    output = intents("seeds", reports)
    table = pd.read_csv(reports / "seeds.csv", index_col=["model", "measure"])
    row = table.loc[("student", "accuracy")]
    assert row["mean"] == pytest.approx(0.93)
    assert row["std"] == pytest.approx((((0.03**2) + 0.01**2 + 0.04**2) / 2) ** 0.5, abs=1e-4)
    assert (row["seeds"], row["min"], row["max"]) == (3, 0.90, 0.97)
    assert set(table.index) == {(model, key) for model in ("teacher", "student") for key in seeds.COLUMNS}
    text = (reports / "seeds.md").read_text()
    assert text in output
    assert "| student | 93.00% ± 3.61 |" in text
    assert "over 3 seeds" in text


def test_one_report_has_no_spread(reports, intents):
    for seed in (1, 2):
        (reports / f"seed-{seed}" / "tables" / "results.csv").unlink()
    assert "has 1 seed-*/tables/results.csv" in intents("seeds", reports, fails=1)
    assert not (reports / "seeds.csv").exists()
