import json

import pandas as pd
import pytest

from stages import seeds


@pytest.fixture
def reports(tmp_path):
    """Three reports of two models."""
    for seed, accuracy in enumerate((0.90, 0.92, 0.97)):
        (tmp_path / f"seed-{seed}").mkdir()
        row = dict.fromkeys(seeds.SHOWN, accuracy)
        summary = {
            "teacher": {**row, "speedup": 1.0},
            "student": {**row, "speedup": 10.0 + seed},
            "bert-base-shape": {"size_mb": 418.5, "latency_ms": 60.0, "speedup": 0.2},
        }
        (tmp_path / f"seed-{seed}" / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def test_mean_and_spread(reports, capsys):
    seeds.main([str(reports)])
    table = pd.read_csv(reports / "seeds.csv", index_col=["model", "measure"])
    row = table.loc[("student", "accuracy")]
    assert row["mean"] == pytest.approx(0.93)
    assert row["std"] == pytest.approx((((0.03**2) + 0.01**2 + 0.04**2) / 2) ** 0.5, abs=1e-4)
    assert (row["seeds"], row["min"], row["max"]) == (3, 0.90, 0.97)
    assert set(table.index) == {(model, key) for model in ("teacher", "student") for key in seeds.SHOWN}
    text = (reports / "seeds.md").read_text()
    assert text in capsys.readouterr().out
    assert "| student | 93.00% ± 3.61 |" in text
    assert "over 3 seeds" in text


def test_one_report_has_no_spread(reports, capsys):
    for seed in (1, 2):
        (reports / f"seed-{seed}" / "summary.json").unlink()
    with pytest.raises(SystemExit, match=r"has 1 seed-\*/summary.json"):
        seeds.main([str(reports)])
    assert not (reports / "seeds.csv").exists()


def test_no_folder(tmp_path):
    with pytest.raises(SystemExit, match="has 0 seed"):
        seeds.main([str(tmp_path / "nothing")])
