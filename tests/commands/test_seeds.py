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


def results_of(reports, seed):
    return reports / f"seed-{seed}" / "tables" / "results.csv"


def test_what_is_not_defined_is_a_dash(reports, intents):
    """Without out-of-scope data there is no recall; and in one seed of three, there may be none."""
    for seed in range(3):
        table = pd.read_csv(results_of(reports, seed), index_col="model")
        table["oos_recall_calibrated"] = table["oos_recall_calibrated"].astype(object)
        table.loc["teacher", "oos_recall_calibrated"] = None
        if seed == 0:
            table.loc["student", "oos_recall_calibrated"] = None
        table.to_csv(results_of(reports, seed))
    output = intents("seeds", reports)
    cells = {line.split(" | ")[0]: line for line in output.splitlines()}
    assert cells["| teacher"].endswith("| – |")
    assert cells["| student"].endswith("| 94.50% ± 3.54 (2 seeds) |")
    for file in ("seeds.csv", "seeds.md"):
        text = (reports / file).read_text().lower()
        assert "nan" not in text and "inf" not in text


def harmed(change):
    return lambda path: path.write_text(change(path.read_text()))


DAMAGE = {
    "gone": (lambda path: path.unlink(), "is missing"),
    "empty": (harmed(lambda text: ""), "is empty"),
    "pointer": (harmed(lambda text: "version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer"),
    "conflict": (harmed(lambda text: text + "=======\n"), "has a merge conflict"),
    "a row twice": (harmed(lambda text: text + text.splitlines()[-1] + "\n"), "has the row student twice"),
    "a row less": (harmed(lambda text: "".join(text.splitlines(True)[:-1])), "has no student, which"),
    "nan": (harmed(lambda text: text.replace("0.92", "nan", 1)), "accuracy is 'nan'"),
    "a column less": (
        lambda path: pd.read_csv(path).drop(columns="oos_recall_calibrated").to_csv(path, index=False),
        "has no oos_recall_calibrated, which",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_report_is_one_line(damage, reports, intents):
    harm, said = DAMAGE[damage]
    harm(results_of(reports, 1))
    error = intents("seeds", reports, fails=1)
    assert error.startswith(f"error: {results_of(reports, 1)} ") and said in error
    assert len(error.splitlines()) == 1 and not (reports / "seeds.csv").exists()
