import json
import logging
import shutil
import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest

from stages.commands import study as searches
from stages.core import processes, settings
from stages.core.errors import UserError
from stages.data import tables
from stages.measurement.speed import latency

P = settings.load()


def search_settings(tmp_path, **changes):
    storage = f"sqlite:///{tmp_path}/search.db"
    return P.search.model_copy(update={"storage": storage, "startup_trials": 1, "warmup_epochs": 0} | changes)


def training(folder, accuracies, seconds):
    """A command that reports, epoch after epoch, as the training of models/distilled does."""
    code = f"""
import json, os, pathlib, time
for epoch, accuracy in enumerate({accuracies}, 1):
    with open(os.environ["{processes.EPOCHS_FILE}"], "a") as file:
        file.write(json.dumps({{"model": "distilled", "epoch": epoch, "accuracy": accuracy}}) + "\\n")
    pathlib.Path(str(epoch)).touch()
    time.sleep({seconds})
pathlib.Path("done").touch()
"""
    inner = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {code!r}], cwd={str(folder)!r})"
    return [sys.executable, "-c", inner]


def test_epochs_are_seen_and_a_bad_training_is_stopped(tmp_path):
    """The second training, worse than the first from its first epoch on, does not come to its end."""
    study = searches.open_study(search_settings(tmp_path))
    folders = [tmp_path / name for name in ("good", "bad")]
    for folder, accuracies in zip(folders, ([0.5, 0.7], [0.4] * 60), strict=True):
        folder.mkdir()
        trial = study.ask()
        try:
            searches.watched(trial, training(folder, accuracies, 1.0), "distilled")
            study.tell(trial, accuracies[-1])
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    good, bad = study.trials
    assert good.intermediate_values == {1: 0.5, 2: 0.7} and (folders[0] / "done").exists()
    assert bad.state == optuna.trial.TrialState.PRUNED and 1 in bad.intermediate_values
    time.sleep(1.5)
    count = len(list(folders[1].iterdir()))
    time.sleep(1.5)
    assert len(list(folders[1].iterdir())) == count  # its process is gone


def test_an_experiment_that_fails_ends_the_search(tmp_path):
    trial = searches.open_study(search_settings(tmp_path)).ask()
    with pytest.raises(UserError, match="the experiment of trial 0 failed"):
        searches.watched(trial, [sys.executable, "-c", "raise SystemExit(3)"], "distilled")


def test_what_ends_a_search_is_no_traceback(tmp_path, monkeypatch):
    """Optuna would log one of its own."""
    p = P.model_copy(update={"search": search_settings(tmp_path)})
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    monkeypatch.setattr(logging.getLogger("optuna"), "handlers", [handler])

    def objective(trial, *_):
        raise UserError("a fault")

    monkeypatch.setattr(searches, "objective", objective)
    with pytest.raises(UserError, match="a fault"):
        searches.run(searches.open_study(p.search), p, [])
    assert records and not any(record.exc_info for record in records)


def test_dvc_that_fails_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="dvc repro failed, as is said above: mend it"):
        searches.run_through()


def test_a_search_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Three trials of five, an interruption, and the other two; then nothing more."""
    p = P.model_copy(update={"search": search_settings(tmp_path, trials=5)})
    values = iter([0.1, 0.5, 0.3, KeyboardInterrupt, 0.4, 0.2])

    def objective(trial, *_):
        value = next(values)
        if value is KeyboardInterrupt:
            raise value
        return value

    monkeypatch.setattr(searches, "objective", objective)
    with pytest.raises(KeyboardInterrupt):
        searches.run(searches.open_study(p.search), p, [])
    study = searches.open_study(p.search)
    assert searches.run(study, p, [])
    assert sorted(t.value for t in study.trials if t.value is not None) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert searches.run(searches.open_study(p.search), p, [])
    assert searches.best(study).value == 0.5


def test_the_best_is_within_the_bounds(tmp_path):
    study = searches.open_study(search_settings(tmp_path))
    for value, excess in ((0.9, 1.0), (0.8, -1.0), (0.7, -1.0)):
        trial = study.ask()
        trial.set_constraint("size_mb", excess)
        study.tell(trial, value)
    assert searches.best(study).value == 0.8


def test_nothing_is_within_the_bounds(tmp_path):
    study = searches.open_study(search_settings(tmp_path))
    trial = study.ask()
    trial.set_constraint("size_mb", 1.0)
    study.tell(trial, 0.9)
    with pytest.raises(UserError, match=r"no trial of distillation ended within search\.bounds"):
        searches.best(study)


@pytest.mark.parametrize("storage", ["nonsense", "postgresql+psycopg://nobody@127.0.0.1:1/none", "x://y"])
def test_a_storage_that_is_not_there(tmp_path, storage):
    with pytest.raises(UserError, match=r"search\.storage, '") as error:
        searches.open_study(search_settings(tmp_path, storage=storage))
    assert "\n" not in str(error.value)


def test_half_a_line_is_no_epoch(tmp_path):
    file = tmp_path / "epochs"
    assert searches.epochs(file, "distilled") == {}
    line = json.dumps({"model": "distilled", "epoch": 1, "accuracy": 0.5})
    file.write_text(f"{line}\n{line[:-3]}")
    assert searches.epochs(file, "distilled") == {1: 0.5}
    assert searches.epochs(file, "another") == {}


def test_what_is_searched_is_there():
    """Every conf/search names a model that is evaluated, and settings that are."""
    for path in (Path(__file__).parents[2] / "conf" / "search").glob("*.yaml"):
        p = settings.compose([f"search={path.stem}"])
        assert p.search.model in p.variants.rows
        for name, ends in p.search.space.items():
            settings.compose([f"{name}={ends.low}"])
            settings.compose([f"{name}={ends.high}"])


def test_the_speed_up_of_a_trial_is_that_of_validation_queries(models, monkeypatch):
    """As the experiment has them; test is not looked at."""

    class Experiment:
        def __init__(self, rev):
            assert rev == "distillation-0"

        def get(self, source, target, recursive):
            shutil.copytree(source.replace("calibrated", "models"), target)

    split = {
        name: pd.DataFrame({"text": [f"{name} {i}" for i in range(9)], "intent": "balance"})
        for name in tables.SPLITS
    }
    tables.write("data", split, tables.Labels(["balance"], None))
    monkeypatch.setattr(searches.dvc.api, "DVCFileSystem", Experiment)
    asked, interleave = [], latency.interleave

    def seen(models, queries, *arguments):
        asked.append((list(models), queries))
        return interleave(models, queries, *arguments)

    monkeypatch.setattr(latency, "interleave", seen)
    few = P.benchmark.model_copy(update={"rounds": 2, "queries": 2, "reference_every": 2})
    speedup = searches.speedup("distillation-0", "student-ort", P.model_copy(update={"benchmark": few}))
    assert asked == [(["student-ort", "teacher"], split["validation"]["text"].tolist())]
    assert speedup > 1  # of two layers in ONNX Runtime over three in torch
