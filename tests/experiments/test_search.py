import json
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from stages import params
from stages.errors import UserError
from stages.experiments import search

P = params.load()


def settings(tmp_path, **changes):
    storage = f"sqlite:///{tmp_path}/search.db"
    return P.search.model_copy(update={"storage": storage, "startup_trials": 1, "warmup_epochs": 0} | changes)


def training(folder, accuracies, seconds):
    """A command that leaves, epoch after epoch, what a Trainer leaves of models/distilled in `folder`."""
    code = f"""
import json, pathlib, time
history = []
for epoch, accuracy in enumerate({accuracies}, 1):
    history.append({{"epoch": float(epoch), "eval_accuracy": accuracy}})
    checkpoint = pathlib.Path(".checkpoints/distilled/checkpoint-" + str(epoch))
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text(json.dumps({{"log_history": history}}))
    time.sleep({seconds})
pathlib.Path("done").touch()
"""
    inner = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {code!r}], cwd={str(folder)!r})"
    return [sys.executable, "-c", inner]


def test_epochs_are_seen_and_a_bad_training_is_stopped(tmp_path):
    """The second training, worse than the first from its first epoch on, does not come to its end."""
    study = search.open_study(settings(tmp_path))
    folders = [tmp_path / name for name in ("good", "bad")]
    for folder, accuracies in zip(folders, ([0.5, 0.7], [0.4] * 60), strict=True):
        folder.mkdir()
        trial = study.ask()
        try:
            search.watched(trial, training(folder, accuracies, 1.0), "distilled")
            study.tell(trial, accuracies[-1])
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    good, bad = study.trials
    assert good.intermediate_values == {1: 0.5, 2: 0.7} and (folders[0] / "done").exists()
    assert bad.state == optuna.trial.TrialState.PRUNED and 1 in bad.intermediate_values
    time.sleep(1.5)
    count = len(list(folders[1].glob(".checkpoints/distilled/*")))
    time.sleep(1.5)
    assert len(list(folders[1].glob(".checkpoints/distilled/*"))) == count  # its process is gone


def test_an_experiment_that_fails_ends_the_search(tmp_path):
    trial = search.open_study(settings(tmp_path)).ask()
    with pytest.raises(UserError, match="the experiment of trial 0 failed"):
        search.watched(trial, [sys.executable, "-c", "raise SystemExit(3)"], "distilled")


def test_a_search_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Three trials of five, an interruption, and the other two; then nothing more."""
    p = P.model_copy(update={"search": settings(tmp_path, trials=5)})
    values = iter([0.1, 0.5, 0.3, KeyboardInterrupt, 0.4, 0.2])

    def objective(trial, *_):
        value = next(values)
        if value is KeyboardInterrupt:
            raise value
        return value

    monkeypatch.setattr(search, "objective", objective)
    with pytest.raises(KeyboardInterrupt):
        search.run(search.open_study(p.search), p, [])
    study = search.open_study(p.search)
    assert search.run(study, p, [])
    assert sorted(t.value for t in study.trials if t.value is not None) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert search.run(search.open_study(p.search), p, [])
    assert search.best(study).value == 0.5


def test_the_best_is_within_the_bounds(tmp_path):
    study = search.open_study(settings(tmp_path))
    for value, excess in ((0.9, 1.0), (0.8, -1.0), (0.7, -1.0)):
        trial = study.ask()
        trial.set_constraint("size_mb", excess)
        study.tell(trial, value)
    assert search.best(study).value == 0.8


def test_nothing_is_within_the_bounds(tmp_path):
    study = search.open_study(settings(tmp_path))
    trial = study.ask()
    trial.set_constraint("size_mb", 1.0)
    study.tell(trial, 0.9)
    with pytest.raises(UserError, match=r"no trial of distillation ended within search\.bounds"):
        search.best(study)


@pytest.mark.parametrize("storage", ["nonsense", "postgresql+psycopg://nobody@127.0.0.1:1/none", "x://y"])
def test_a_storage_that_is_not_there(tmp_path, storage):
    with pytest.raises(UserError, match=r"search\.storage, '") as error:
        search.open_study(settings(tmp_path, storage=storage))
    assert "\n" not in str(error.value)


def test_half_a_state_is_no_state(tmp_path):
    """It is being written, or has just been removed."""
    process = subprocess.Popen(
        training(tmp_path, [0.5], 30.0), start_new_session=True, preexec_fn=search._interruptible
    )
    try:
        deadline = time.monotonic() + 30
        while not search.epochs(process.pid, "distilled") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert search.epochs(process.pid, "distilled") == {1: 0.5}
        (state,) = tmp_path.glob(".checkpoints/*/*/trainer_state.json")
        state.write_text(json.dumps({"log_history": []})[:-3])
        assert search.epochs(process.pid, "distilled") == {}
        assert search.epochs(process.pid, "another") == {}
    finally:
        search._stop(process)
    assert search.epochs(process.pid, "distilled") == {}


def test_what_is_searched_is_there():
    """Every conf/search names a model that is evaluated, and settings that are."""
    for path in (Path(__file__).parents[2] / "conf" / "search").glob("*.yaml"):
        p = params.compose([f"search={path.stem}"])
        assert p.search.model in p.variants.rows
        for name, ends in p.search.space.items():
            params.compose([f"{name}={ends.low}"])
            params.compose([f"{name}={ends.high}"])
