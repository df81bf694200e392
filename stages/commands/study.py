"""An Optuna study whose trials are DVC experiments."""

import json
import logging
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
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from stages.core import processes
from stages.core.errors import UserError
from stages.core.settings import Params, Search
from stages.data import tables
from stages.measurement.speed import latency
from stages.measurement.speed.measured_model import MeasuredModel

HEARTBEAT = 10  # seconds; a worker that is silent for three times as long has died
PATIENCE = 60
DVC = (sys.executable, "-m", "dvc")
warnings.filterwarnings("ignore", category=ExperimentalWarning)  # of heartbeats


def _is_no_traceback(record: logging.LogRecord) -> bool:
    """False for Optuna's report of a UserError or of Ctrl-C, which end a search without a traceback."""
    return not record.exc_info or not isinstance(record.exc_info[1], UserError | KeyboardInterrupt)


logging.getLogger("optuna.study._optimize").addFilter(_is_no_traceback)


def open_study(search: Search) -> optuna.Study:
    """The study of that name in `search.storage`, new or as it was left."""
    try:
        try:
            storage = _storage(search.storage)
        except (IntegrityError, ProgrammingError):  # another worker is just making the tables
            time.sleep(HEARTBEAT)
            storage = _storage(search.storage)
    except ImportError:
        raise UserError(
            f"search.storage, {search.storage!r}: its driver is not installed: pip install -e '.[postgresql]'"
        ) from None
    except SQLAlchemyError as error:
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
    values: dict[str, float] = {}
    for name, ends in search.space.items():
        if isinstance(ends.low, int) and isinstance(ends.high, int):
            values[name] = trial.suggest_int(name, ends.low, ends.high, log=ends.log)
        else:
            values[name] = trial.suggest_float(name, ends.low, ends.high, log=ends.log)
    experiment = f"{search.study}-{trial.number}"
    trial.set_user_attr("experiment", experiment)
    changes = [f"--set-param={change}" for change in [*overrides, *(f"{k}={v}" for k, v in values.items())]]
    pull = ["--pull"] if search.git_remote else []
    command = [*DVC, "exp", "run", "--temp", *pull, "--name", experiment, *changes]
    targets = [f"evaluate@{search.model}"]
    if search.bounds.speedup is not None:
        targets.append("evaluate@teacher")
    watched(trial, [*command, *targets], search.model)
    if search.git_remote:
        _run("exp", "push", search.git_remote, experiment)

    evaluation = json.loads(dvc.api.read(f"evaluations/{search.model}/accuracy.json", rev=experiment))
    costs = {"size_mb": evaluation["sizes"]["size_mb"]}
    if search.bounds.size_mb is not None:
        trial.set_constraint("size_mb", costs["size_mb"] - search.bounds.size_mb)
    if search.bounds.speedup is not None:
        costs["speedup"] = speedup(experiment, search.model, p)
        trial.set_constraint("speedup", search.bounds.speedup - costs["speedup"])
    for key, cost in costs.items():
        trial.set_user_attr(key, cost)
    return evaluation["validation"]["accuracy"]


def watched(trial: optuna.Trial, command: Sequence[str], model: str) -> None:
    """Run `command` and report the epochs of models/<model> to `trial`; stop it if the pruner says so."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "epochs"
        environment = {**os.environ, processes.EPOCHS_FILE: str(file)}
        with subprocess.Popen(
            command, env=environment, start_new_session=True, preexec_fn=_interruptible
        ) as process:
            try:
                reported: set[int] = set()
                running = True
                while running:
                    time.sleep(0.5)
                    running = process.poll() is None
                    accuracies = epochs(file, model)
                    for epoch in accuracies.keys() - reported:
                        trial.report(accuracies[epoch], epoch)
                    reported |= accuracies.keys()
                    if running and trial.should_prune():
                        raise optuna.TrialPruned
            finally:
                _stop(process)
    if process.returncode:
        raise UserError(
            f"the experiment of trial {trial.number} failed, as is said above: mend it, then the same "
            "command goes on"
        )


def epochs(file: Path, model: str) -> dict[int, float]:
    """Validation accuracies by epoch that the training of models/<model> has reported so far."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be half written
    return {entry["epoch"]: entry["accuracy"] for entry in entries if entry["model"] == model}


def _interruptible() -> None:
    """Let Ctrl-C end the process: a child of a shell's background job would ignore it."""
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
    """Over the teacher, for validation queries, in interleaved rounds of just these two."""
    files = dvc.api.DVCFileSystem(rev=experiment)
    with tempfile.TemporaryDirectory() as scratch:
        models = {}
        for name in (model, "teacher"):
            files.get(f"calibrated/{name}", f"{scratch}/{name}", recursive=True)
            models[name] = MeasuredModel(Path(scratch) / name, p.benchmark.threads)
        files.get("data", f"{scratch}/data", recursive=True)
        queries = tables.read("validation", f"{scratch}/data")["text"].tolist()
        only_single = p.benchmark.model_copy(update={"batch_sizes": [1]})
        times = latency.interleave(models, queries, only_single, p.seed)
    return float(latency.summarize(times, {"speedup": "teacher"}, p.seed).loc[model, "speedup"])


def best(study: optuna.Study) -> optuna.trial.FrozenTrial:
    """The most accurate trial of those within the bounds."""
    try:
        return study.best_trial
    except ValueError:
        raise UserError(f"no trial of {study.study_name} ended within search.bounds: widen them") from None


def apply_best(study: optuna.Study, search: Search) -> None:
    """Apply the best trial's experiment to the workspace."""
    experiment = best(study).user_attrs["experiment"]
    if search.git_remote:
        _run("exp", "pull", search.git_remote, experiment)
    # DVC fails at outputs that no trial made, after it has applied the rest. The params tell whether it did.
    applied = subprocess.run([*DVC, "exp", "apply", experiment], capture_output=True)
    if dvc.api.params_show() != dvc.api.params_show(rev=experiment):
        raise UserError(f"{experiment} cannot be applied: {' '.join(os.fsdecode(applied.stderr).split())}")


def run_through() -> None:
    """Make what the applied trial lacks."""
    _run("repro")


def _run(*arguments: str) -> None:
    """Run DVC; a UserError, if it fails."""
    if subprocess.run([*DVC, *arguments]).returncode:
        raise UserError(
            f"dvc {' '.join(arguments)} failed, as is said above: mend it, then the same command goes on"
        )
