"""Workers: processes that make a peer's model, and answer with one."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from stages import runtime
from stages.core.errors import UserError
from stages.peers import worker, workshop
from stages.peers.timed import Timed

QUERIES = ["my balance", "send money to my car", "rent"]


def timed(folder, log, module="stages.runtime"):
    command = workshop.worker(sys.executable, "answer", module, folder, 1)
    return Timed(command, workshop.environment(1), log)


def test_logits_are_those_of_single_queries(models, tmp_path):
    (tmp_path / "texts.json").write_text(json.dumps(QUERIES))
    worker.logits("stages.runtime", models / "student-ort", tmp_path / "texts.json", tmp_path / "logits.npy")
    classifier = runtime.load(models / "student-ort")
    expected = np.concatenate([classifier.logits([query]) for query in QUERIES])
    logits = np.load(tmp_path / "logits.npy")
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, expected)


def test_it_is_timed_in_its_process(models, tmp_path):
    with timed(models / "student-ort", tmp_path / "log") as model:
        assert 0 < model.time(QUERIES) < 10_000
        tokenization, session = model.time_parts("my balance")
        assert tokenization > 0 and session > 0
        process = model.process
        assert process.poll() is None
    assert process.poll() is not None


def test_what_a_library_prints_is_no_answer(models, tmp_path):
    (tmp_path / "noisy.py").write_text(
        "from stages import runtime\n"
        "def load(folder, threads):\n"
        "    print('loading', flush=True)\n"
        "    return runtime.load(folder, threads)\n"
    )
    command = workshop.worker(sys.executable, "answer", "noisy", models / "student-ort", 1)
    variables = workshop.environment(1)
    variables["PYTHONPATH"] += f":{tmp_path}"
    with Timed(command, variables, tmp_path / "log") as model:
        assert model.time(QUERIES) > 0
    assert (tmp_path / "log").read_text() == "loading\n"


def test_a_worker_that_ends_is_told_with_its_log(tmp_path):
    log = tmp_path / "log"
    with (
        timed(Path("nowhere"), log) as model,
        pytest.raises(UserError, match=rf"^a process that answers queries ended \(nowhere is no .*see {log}"),
    ):
        model.time(QUERIES)
