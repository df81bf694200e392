"""An Optuna study whose trials are DVC experiments."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import dvc.api
import optuna
import psutil
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from stages.errors import UserError
from stages.measurement import latency
from stages.measurement.performance import PerformanceBenchmark
from stages.params import Params, Search

HEARTBEAT = 10  # seconds; a worker that is silent for three times as long has died
PATIENCE = 60
DVC = (sys.executable, "-m", "dvc")
warnings.filterwarnings("ignore", category=ExperimentalWarning)  # of heartbeats


def open_study(search: Search) -> optuna.Study:
    """The study of that name in `search.storage`, new or as it was left."""
    try:
        try:
            storage = _storage(search.storage)
        except (IntegrityError, ProgrammingError):  # another worker is just making the tables
            time.sleep(HEARTBEAT)
            storage = _storage(search.storage)
    except (SQLAlchemyError, ImportError) as error:
        raise UserError(f"search.storage, {search.storage!r}: {' '.join(str(error).split())}") from None
    return optuna.create_study(
        study_name=search.study,
        storage=storage,
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(constant_liar=True),
        pruner=optuna.pruners.MedianPruner(search.startup_trials, search.warmup_epochs),
    )


def _storage(url: str) -> RDBStorage:
    return RDBStorage(
        url,
        heartbeat_interval=HEARTBEAT,
        grace_period=3 * HEARTBEAT,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )


def run(study: optuna.Study, p: Params, overrides: Sequence[str]) -> bool:
    """Run trials until `p.search.trials` are done, by all workers; True, if this one is to apply the best."""
    waited = False
    while (done := _count(study, TrialState.COMPLETE, TrialState.PRUNED)) < p.search.trials:
        fail_stale_trials(study)
        if done + _count(study, TrialState.RUNNING) < p.search.trials:
            study.optimize(lambda trial: objective(trial, p, overrides), n_trials=1)
        else:
            waited = True
            time.sleep(HEARTBEAT)
    if waited and "finisher" in study.user_attrs:
        return False
    study.set_user_attr("finisher", os.getpid())
    return True


def _count(study: optuna.Study, *states: TrialState) -> int:
    return len(study.get_trials(deepcopy=False, states=states))


def objective(trial: optuna.Trial, p: Params, overrides: Sequence[str]) -> float:
    """The validation accuracy of `p.search.model`, as the trial's experiment evaluates it.

    Its `size_mb`, and its `speedup` where that has a bound, are kept as attributes of the trial.
    """
    search = p.search
    drawn: dict[str, float] = {}
    for name, ends in search.space.items():
        if isinstance(ends.low, int) and isinstance(ends.high, int):
            drawn[name] = trial.suggest_int(name, ends.low, ends.high, log=ends.log)
        else:
            drawn[name] = trial.suggest_float(name, ends.low, ends.high, log=ends.log)
    experiment = f"{search.study}-{trial.number}"
    trial.set_user_attr("experiment", experiment)
    changes = [f"--set-param={change}" for change in [*overrides, *(f"{k}={v}" for k, v in drawn.items())]]
    pull = ["--pull"] if search.git_remote else []
    command = [*DVC, "exp", "run", "--temp", *pull, "--name", experiment, *changes]
    targets = [f"evaluate@{search.model}"]
    if search.bounds.speedup is not None:
        targets.append("calibrate@teacher")
    watched(trial, [*command, *targets], search.model)
    if search.git_remote:
        subprocess.run([*DVC, "exp", "push", search.git_remote, experiment], check=True)

    found = json.loads(dvc.api.read(f"evaluations/{search.model}.json", rev=experiment))
    costs = {"size_mb": found["sizes"]["size_mb"]}
    if search.bounds.size_mb is not None:
        trial.set_constraint("size_mb", costs["size_mb"] - search.bounds.size_mb)
    if search.bounds.speedup is not None:
        costs["speedup"] = speedup(experiment, search.model, p)
        trial.set_constraint("speedup", search.bounds.speedup - costs["speedup"])
    for key, value in costs.items():
        trial.set_user_attr(key, value)
    return found["validation"]["accuracy"]


def watched(trial: optuna.Trial, command: Sequence[str], model: str) -> None:
    """Run `command`, reporting the epochs of the training of `model`, and end it where the pruner says so."""
    with subprocess.Popen(command, start_new_session=True, preexec_fn=_interruptible) as process:
        try:
            while process.poll() is None:
                time.sleep(0.5)
                for epoch, accuracy in epochs(process.pid, model).items():
                    trial.report(accuracy, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
        finally:
            _stop(process)
    if process.returncode:
        raise UserError(f"the experiment of trial {trial.number} failed, see above; start again to go on")


def epochs(pid: int, model: str) -> dict[int, float]:
    """Validation accuracies by epoch so far, if a descendant of the process `pid` trains models/<model>."""
    try:
        folders = {Path(child.cwd()) for child in psutil.Process(pid).children(recursive=True)}
        states = [s for f in folders for s in f.glob(f".checkpoints/{model}/checkpoint-*/trainer_state.json")]
        history = [entry for state in states for entry in json.loads(state.read_text())["log_history"]]
    except (OSError, ValueError, psutil.Error):  # it is just being written or removed
        return {}
    return {round(entry["epoch"]): entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry}


def _interruptible() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _stop(process: subprocess.Popen) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                continue


def speedup(experiment: str, model: str, p: Params) -> float:
    """Over the teacher, for one query, in interleaved rounds of just these two."""
    files = dvc.api.DVCFileSystem(rev=experiment)
    with tempfile.TemporaryDirectory() as scratch:
        models = {}
        for name in (model, "teacher"):
            files.get(f"calibrated/{name}", f"{scratch}/{name}", recursive=True)
            models[name] = PerformanceBenchmark(Path(scratch) / name, p.benchmark.threads)
        only_single = p.benchmark.model_copy(update={"batch_sizes": [1], "batches_every": 1})
        times = latency.interleave(models, [p.benchmark.query], only_single, p.seed)
    return float(latency.summarize(times, {"speedup": "teacher"}, p.seed).loc[model, "speedup"])


def best(study: optuna.Study) -> optuna.trial.FrozenTrial:
    """The most accurate trial of those within the bounds."""
    try:
        return study.best_trial
    except ValueError:
        raise UserError(f"no trial of {study.study_name} ended within search.bounds: widen them") from None


def apply_best(study: optuna.Study, search: Search) -> None:
    """Make the best trial the workspace, as far as its outputs go."""
    experiment = best(study).user_attrs["experiment"]
    if search.git_remote:
        subprocess.run([*DVC, "exp", "pull", search.git_remote, experiment], check=True)
    # It ends badly where an output that no trial needed is not in the cache, but well before that.
    done = subprocess.run([*DVC, "exp", "apply", experiment], capture_output=True, text=True)
    if dvc.api.params_show() != dvc.api.params_show(rev=experiment):
        raise UserError(f"{experiment} cannot be applied: {done.stderr.strip()}")


def run_through() -> None:
    """Make what the applied trial lacks."""
    subprocess.run([*DVC, "repro"], check=True)
