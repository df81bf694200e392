"""The whole pipeline, on the smoke recipe, in a clone: what runs, what runs again, what comes out."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
ENV = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "DVC_NO_ANALYTICS": "1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


class Clone:
    """A working copy of what is tracked here, committed, with dvc at hand."""

    def __init__(self, path: Path):
        self.path = path
        files = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True)
        for name in files.splitlines():
            if (ROOT / name).is_file() and not name.startswith("metrics/"):
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes((ROOT / name).read_bytes())
        (path / "dvc.lock").unlink(missing_ok=True)
        self("git", "init", "-q")
        self("git", "config", "user.name", "test")
        self("git", "config", "user.email", "test@example.org")
        self("git", "add", "-A")
        self("git", "commit", "-qm", "start")

    def __call__(self, *command, ok=True) -> str:
        # The clone's own package, not the installed one: the working directory comes first with -m.
        done = subprocess.run(command, cwd=self.path, env=ENV, capture_output=True, text=True)
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, output
        return output

    def summary(self):
        return json.loads((self.path / "metrics" / "summary.json").read_text())


def ran(output: str) -> set[str]:
    return set(re.findall(r"Running stage '(.+?)'", output))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("clone"))
    clone.first = clone("dvc", "exp", "run", "-S", "experiment=smoke")
    clone.first_summary = clone.summary()
    return clone


def test_first_run_runs_every_stage(clone):
    stages = set(clone("dvc", "stage", "list", "--name-only").split())
    assert len(stages) == 20
    assert ran(clone.first) == stages


def test_results(clone):
    summary = clone.summary()
    rows = [
        "teacher",
        "fine-tuned",
        "distilled",
        "distilled-torch-int8",
        "distilled-ort",
        "distilled-ort-int8",
        "pruned",
        "pruned-ort-int8",
    ]
    assert list(summary) == rows
    for values in summary.values():
        assert list(values) == [
            "accuracy",
            "accuracy_in_scope",
            "oos_recall",
            "size_mb",
            "latency_ms",
            "speedup",
        ]
        assert 0 <= values["accuracy"] <= 1
        assert values["latency_ms"] > 0
    assert summary["teacher"]["speedup"] == 1
    assert summary["distilled-ort"]["accuracy"] == pytest.approx(summary["distilled"]["accuracy"], abs=0.002)
    assert summary["distilled-ort-int8"]["size_mb"] < 0.3 * summary["distilled"]["size_mb"]
    assert summary["distilled"]["size_mb"] < summary["teacher"]["size_mb"]
    sparsity = json.loads((clone.path / "models" / "pruned" / "recipe.json").read_text())["sparsity"]
    assert sparsity["overall"] == pytest.approx(0.6, abs=1e-4)
    times = pd.read_csv(clone.path / "benchmark" / "times.csv")
    assert (times.groupby("model").size() == 4).all()  # 2 rounds of 2
    for picture in ("accuracy_latency", "training", "weights"):
        assert (clone.path / "metrics" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    for name in rows:
        assert name in (clone.path / "metrics" / "results.md").read_text()


def test_accuracy_is_what_predict_gives(clone):
    """The accuracy of a row, counted again through the command line."""
    test = pd.read_parquet(clone.path / "data" / "test.parquet")
    names = json.loads((clone.path / "data" / "labels.json").read_text())["names"]
    done = subprocess.run(
        [sys.executable, "-m", "stages.predict", "--model", "models/distilled-ort-int8"],
        input="\n".join(test["text"]),
        cwd=clone.path,
        env=ENV,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == test["text"].tolist()
    right = [answer["label"] == names[label] for answer, label in zip(answers, test["label"], strict=True)]
    expected = clone.summary()["distilled-ort-int8"]["accuracy"]
    assert sum(right) / len(right) == pytest.approx(expected, abs=0.003)


def test_second_run_does_nothing(clone):
    assert ran(clone("dvc", "repro")) == set()


def test_alpha_and_temperature_leave_data_and_teacher_alone(clone):
    changes = ("-S", "distill.alpha=0.3", "-S", "distill.temperature=2.5")
    again = ran(clone("dvc", "exp", "run", "-S", "experiment=smoke", *changes))
    assert again == {
        "distill@distilled", "prune@pruned", "export@distilled-ort", "export@pruned-ort",
        "quantize@distilled-torch-int8", "quantize@distilled-ort-int8", "quantize@pruned-ort-int8",
        "evaluate@distilled", "evaluate@distilled-torch-int8", "evaluate@distilled-ort",
        "evaluate@distilled-ort-int8", "evaluate@pruned", "evaluate@pruned-ort-int8", "benchmark", "report",
    }  # fmt: skip


def test_back_to_the_first_values_nothing_is_trained(clone):
    """The cache has them all; only what Git keeps instead, the report, is written anew."""
    assert clone.summary() != clone.first_summary
    assert ran(clone("dvc", "exp", "run", "-S", "experiment=smoke")) == {"report"}
    assert clone.summary() == clone.first_summary


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("distill.alpha=1.5", "params.yaml: distill.alpha is 1.5: should be less than or equal to 1"),
        ("distill.alhpa=0.5", "Key 'alhpa' is not in struct"),
    ],
)
def test_bad_params_stop_before_anything_is_trained(clone, override, message):
    output = clone("dvc", "exp", "run", "-S", "experiment=smoke", "-S", override, ok=False)
    assert message in output
    assert "Traceback" not in output


def test_plots_are_drawn(clone):
    clone("dvc", "plots", "show", "-o", "plots")
    assert "accuracy" in (clone.path / "plots" / "index.html").read_text()
