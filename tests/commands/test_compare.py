import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from stages.commands import changes, main
from stages.core.errors import UserError
from stages.core.settings import Gate

ROOT = Path(__file__).parents[2]
FOLDER = Path("metrics/sample")
GATE = Gate(accuracy=0.01, size=0.05, speedup_noise=0.15)


def git(*arguments):
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def bits(right):
    return np.packbits(right).tobytes().hex()


def report(models, queries="abc"):
    """What `report` writes: of each model its right answers, size, and speed-up with interval."""
    (FOLDER / "tables").mkdir(parents=True, exist_ok=True)
    results, right = [], []
    for model, (answers, size, (speed, low, high)) in models.items():
        results.append(
            {
                "model": model, "accuracy": answers.mean(), "accuracy_calibrated": answers.mean(),
                "size_mb": size, "speedup": speed, "speedup_low": low, "speedup_high": high,
            }
        )  # fmt: skip
        right += [
            {"model": model, "kind": kind, "queries": queries, "right": bits(answers)}
            for kind in ("plain", "calibrated")
        ]
    pd.DataFrame(results).to_csv(FOLDER / "tables" / "results.csv", index=False)
    pd.DataFrame(right).to_csv(FOLDER / "tables" / "right.csv", index=False)


def right(count, of=400, rolled=0):
    """The first `count` of `of` queries right, and rolled on."""
    return np.roll(np.arange(of) < count, rolled)


BEFORE = {
    "teacher": (right(360), 80.0, (1.0, 1.0, 1.0)),
    "better": (right(320), 20.0, (10.0, 9.5, 10.5)),
    "worse": (right(320), 20.0, (10.0, 9.5, 10.5)),
    "noise": (right(320), 20.0, (10.0, 9.5, 10.5)),
    "gone": (right(320), 20.0, (10.0, 9.5, 10.5)),
}
AFTER = {
    "teacher": BEFORE["teacher"],
    "better": (right(350), 18.0, (12.0, 11.0, 13.0)),
    "worse": (right(290), 22.0, (8.0, 7.5, 8.5)),
    "noise": (right(321, rolled=5), 20.01, (10.3, 9.9, 11.0)),
    "new": (right(330), 5.0, (20.0, 19.0, 21.0)),
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Two reports: one committed, one in the workspace."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    git("config", "user.name", "test")
    git("config", "user.email", "test@example.org")
    report(BEFORE)
    (FOLDER / "same.png").write_bytes(b"1")
    (FOLDER / "other.png").write_bytes(b"1")
    git("add", "-A")
    git("commit", "-qm", "before")
    report(AFTER)
    (FOLDER / "other.png").write_bytes(b"2")
    return changes.commit("HEAD")


def test_verdicts(repository):
    table = changes.collect(FOLDER, repository, GATE).pivot(
        index="model", columns="measure", values="verdict"
    )
    expected = pd.DataFrame(
        {
            "better": ["better"] * 4,
            "gone": ["gone"] * 4,
            "new": ["new"] * 4,
            "noise": ["within noise", "within noise", "unchanged", "within noise"],
            "teacher": ["unchanged"] * 4,
            "worse": ["worse"] * 4,
        },
        index=["accuracy", "accuracy_calibrated", "size_mb", "speedup"],
    ).T
    pd.testing.assert_frame_equal(table, expected, check_names=False)


def test_noise_is_what_mcnemar_says(repository):
    """Five queries won and none lost are no proof (p = 0.06), six are (p = 0.03)."""
    report({"teacher": (right(320), 80.0, (1.0, 1.0, 1.0))})
    git("commit", "-qam", "320")
    verdicts = {}
    for won in (5, 6):
        report({"teacher": (right(320 + won), 80.0, (1.0, 1.0, 1.0))})
        table = changes.collect(FOLDER, changes.commit("HEAD"), GATE)
        verdicts[won] = table.set_index("measure")["verdict"]["accuracy"]
    assert verdicts == {5: "within noise", 6: "better"}


@pytest.mark.parametrize(("speed", "verdict"), [(11.4, "within noise"), (11.6, "better"), (8.6, "worse")])
def test_speed_ups_of_two_runs_of_one_benchmark(speed, verdict, repository):
    """10.0 against what is outside of its interval, and within 15% or not."""
    report({"teacher": (right(320), 80.0, (10.0, 9.9, 10.1))})
    git("commit", "-qam", "10.0")
    report({"teacher": (right(320), 80.0, (speed, speed - 0.1, speed + 0.1))})
    table = changes.collect(FOLDER, changes.commit("HEAD"), GATE).set_index("measure")
    assert table["verdict"]["speedup"] == verdict


def test_other_test_queries_are_not_compared(repository):
    report(AFTER, queries="xyz")
    table = changes.collect(FOLDER, repository, GATE).set_index(["model", "measure"])["verdict"]
    assert table["better", "accuracy"] == "other queries"
    assert table["better", "size_mb"] == "better"


def test_markdown(repository):
    table = changes.collect(FOLDER, repository, GATE)
    lines = changes.markdown(FOLDER, table).splitlines()
    (better,) = (line for line in lines if line.startswith("| better"))
    points = "80.0% → 87.5%, **better**"
    assert better == f"| better | {points} | {points} | 20.0 → 18.0, **better** | ×10.0 → ×12.0, **better** |"
    (noise,) = (line for line in lines if line.startswith("| noise"))
    assert noise.endswith("| 20.0 | ×10.0 → ×10.3, within noise |")
    assert not any(line.startswith("| teacher") for line in lines)
    assert any(line.startswith("1 more unchanged.") for line in lines)


def test_nothing_changed(repository):
    report(BEFORE)
    assert "Nothing has changed." in changes.markdown(FOLDER, changes.collect(FOLDER, repository, GATE))


def test_gate(repository):
    lines = changes.excesses(FOLDER, changes.collect(FOLDER, repository, GATE), GATE)
    assert [line.split(";")[0] for line in lines] == [
        "metrics/sample: worse lost 7.5 points of accuracy",
        "metrics/sample: worse lost 7.5 points of accuracy_calibrated",
        "metrics/sample: worse grew from 20.0 to 22.0 MB",
    ]
    lax = Gate(accuracy=0.08, size=0.11, speedup_noise=0.15)
    assert changes.excesses(FOLDER, changes.collect(FOLDER, repository, GATE), lax) == []


def test_reports_of_both_sides(repository):
    """Before and after; and not what a command wrote beside them."""
    clinc150 = FOLDER.with_name("clinc150")
    (clinc150 / "search").mkdir(parents=True)
    (clinc150 / "search" / "results.csv").write_text("")
    (FOLDER / "tables").rename(clinc150 / "tables")
    assert changes.reports(repository) == [clinc150, FOLDER]


def test_pictures(repository):
    text = changes.pictures_markdown(repository, "https://example.org/raw/abc/")
    assert "![other](https://example.org/raw/abc/metrics/sample/other.png)" in text and "same" not in text


def test_the_committed_reports(monkeypatch, intents):
    monkeypatch.chdir(ROOT)
    text = intents("compare", "HEAD")
    assert "### metrics/sample\n" in text and "### metrics/clinc150\n" in text


RESULTS, RIGHT = FOLDER / "tables" / "results.csv", FOLDER / "tables" / "right.csv"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"


def rewritten(path, change):
    path.write_text(change(path.read_text()))


def without(column):
    return lambda: pd.read_csv(RESULTS).drop(columns=column).to_csv(RESULTS, index=False)


def emptied(column):
    return lambda: pd.read_csv(RESULTS).assign(**{column: None}).to_csv(RESULTS, index=False)


DAMAGE = {
    "results gone": (RESULTS.unlink, RESULTS, "is missing"),
    "answers gone": (RIGHT.unlink, RIGHT, "is missing"),
    "report renamed": (lambda: FOLDER.rename("metrics/other"), RESULTS, "is missing"),
    "file renamed": (lambda: RESULTS.rename(RESULTS.with_name("result.csv")), RESULTS, "is missing"),
    "empty": (lambda: RESULTS.write_text(""), RESULTS, "is empty"),
    "no answers": (lambda: RIGHT.write_text(""), RIGHT, "is empty"),
    "header alone": (lambda: rewritten(RESULTS, lambda t: t.split("\n")[0] + "\n"), RESULTS, "has no rows"),
    "cut": (lambda: rewritten(RESULTS, lambda t: t[:-9]), RESULTS, "ends in the middle of a line"),
    "answers cut": (lambda: rewritten(RIGHT, lambda t: t[:-11] + "\n"), RIGHT, "is not as long as the rows"),
    "a digit cut": (lambda: rewritten(RIGHT, lambda t: t[:-2] + "\n"), RIGHT, "no hexadecimal digits"),
    "half the answers": (
        lambda: report({name: (right(160, of=200), *rest) for name, (_, *rest) in BEFORE.items()}),
        RIGHT, "is not as long as in the base",
    ),
    "conflict": (
        lambda: rewritten(RESULTS, lambda t: t + "<<<<<<< HEAD\n=======\n>>>>>>> x\n"),
        RESULTS, "merge conflict",
    ),
    "pointer": (lambda: RESULTS.write_text(POINTER), RESULTS, "is a Git LFS pointer"),
    "a row twice": (
        lambda: rewritten(RESULTS, lambda t: t + t.splitlines()[-1] + "\n"),
        RESULTS, "has the row gone twice",
    ),
    "a row gone": (
        lambda: rewritten(RESULTS, lambda t: "".join(t.splitlines(True)[:-1])), RESULTS, "has no row gone",
    ),
    "answers of a row gone": (
        lambda: rewritten(RIGHT, lambda t: "".join(t.splitlines(True)[:-1])),
        RIGHT, "has no row gone, calibrated",
    ),
    "no accuracy": (without("accuracy"), RESULTS, "has no column 'accuracy'"),
    "no size": (without("size_mb"), RESULTS, "has no column 'size_mb'"),
    "no speed": (without("speedup"), RESULTS, "has no speedup of teacher"),
    "an older results.csv": (
        lambda: rewritten(RIGHT, lambda t: t.replace(bits(right(360)), bits(right(300)))),
        RESULTS, "has, of teacher, another accuracy than tables/right.csv",
    ),
    "empty accuracy": (emptied("accuracy_calibrated"), RESULTS, "accuracy_calibrated is empty"),
}  # fmt: skip


def pipeline():
    for name in ("dvc.yaml", "params.yaml"):
        Path(name).write_text((ROOT / name).read_text())
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)


@pytest.fixture
def gate(repository, monkeypatch):
    """`intents compare HEAD --gate`, of a workspace that is as the commit: its status and its two outputs."""
    report(BEFORE)
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.setattr(changes, "params_markdown", lambda base: "")  # of which DVC makes a second's work

    def run(*options):
        result = CliRunner().invoke(main, ["compare", "HEAD", *options])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def test_the_gate_of_what_did_not_change(gate):
    status, output, error = gate("--gate")
    assert (status, error) == (0, "") and output.endswith("- nothing beyond it\n")


@pytest.mark.parametrize("damage", DAMAGE)
def test_evidence_that_is_gone_or_damaged_fails_the_gate(damage, gate):
    """In one line of standard error, which names the file and the side, and in the Markdown."""
    harm, path, said = DAMAGE[damage]
    harm()
    status, output, error = gate("--gate")
    assert status == 1 and len(error.splitlines()) == 1
    assert error.startswith(f"error: {path} in the workspace ") and said in error
    assert f"- {path} in the workspace" in output and "nothing beyond it" not in output


@pytest.mark.parametrize(
    "damage", ["results gone", "empty", "pointer", "conflict", "a row twice", "answers gone"]
)
def test_the_evidence_of_the_base_too(damage, gate):
    harm, path, said = DAMAGE[damage]
    harm()
    git("add", "-A")
    git("commit", "-qm", damage)
    report(BEFORE)
    status, _, error = gate("--gate")
    assert status == 1 and len(error.splitlines()) == 1
    assert error.startswith(f"error: {path} in the base ({changes.commit('HEAD')[:7]}) ") and said in error


def test_damage_is_an_error_without_the_gate_and_a_model_removed_is_none(gate):
    rewritten(RESULTS, lambda text: "".join(text.splitlines(True)[:-1]))
    assert gate()[0] == 0
    RESULTS.write_text("")
    status, output, error = gate()
    assert status == 1 and error.startswith(f"error: {RESULTS} in the workspace is empty")
    assert "**Not compared.**" in output


def test_no_report_at_all_fails_the_gate(gate):
    git("rm", "-rq", "--cached", "metrics")
    git("commit", "-qm", "no report")
    status, _, error = gate("--gate")
    assert status == 1 and "nothing was compared: no metrics/<report>/tables/results.csv is in" in error


def test_a_report_that_is_new_passes(gate):
    subprocess.run(["cp", "-r", FOLDER, "metrics/new"], check=True)
    assert gate("--gate")[0] == 0


def test_speed_ups_without_intervals_are_not_tested(repository):
    once = {
        name: (answers, size, (speed, None, None)) for name, (answers, size, (speed, *_)) in BEFORE.items()
    }
    report(once)
    table = changes.collect(FOLDER, repository, GATE).set_index("measure")["verdict"]
    assert set(table["speedup"]) == {"unchanged"}
    report({**once, "better": (right(320), 20.0, (30.0, None, None))})
    table = changes.collect(FOLDER, repository, GATE).set_index(["model", "measure"])["verdict"]
    assert table["better", "speedup"] == "not tested"
    assert "**better**" not in changes.markdown(FOLDER, table.reset_index().assign(before=1.0, after=2.0))


def test_no_such_commit(repository):
    with pytest.raises(UserError, match="there is no commit 'nowhere' here"):
        changes.commit("nowhere")


def test_command(repository, intents):
    """In a pipeline, with a param and a report that changed."""
    for name in ("dvc.yaml", "params.yaml"):
        Path(name).write_text((ROOT / name).read_text())
    report(BEFORE)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    git("add", "-A")
    git("commit", "-qm", "pipeline")
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("temperature: 4.0", "temperature: 3.0")
    )
    report(AFTER)
    text = intents("compare", "HEAD")
    assert "| params.yaml | distill.temperature | 4.0 | 3.0 |" in " ".join(text.split()).replace(" | ", " | ")
    assert "| worse |" in text and "Gate" not in text
    result = CliRunner().invoke(main, ["compare", "HEAD", "--gate"])
    assert result.exit_code == 1
    assert "- metrics/sample: worse lost 7.5 points of accuracy; at most 1 are allowed" in result.stdout
