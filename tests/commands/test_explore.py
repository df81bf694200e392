import http.client
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import explored
import pytest
from clone import ENV, ROOT
from starlette.testclient import TestClient

from stages import runtime
from stages.commands import live
from stages.core import settings
from stages.core.errors import UserError


@pytest.fixture
def root(exported, tmp_path, monkeypatch):
    explored.write(exported, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def client(root):
    return TestClient(live.app(explored.REPORT, settings.load()), base_url="http://127.0.0.1")


def test_a_model_answers_as_predict_does(client):
    for name in ("teacher", "distilled-ort-int8"):
        answer = client.post("/ask", json={"text": "send my money", "model": name}).json()
        expected = runtime.load(Path("calibrated") / name).predict(["send my money"])[0]
        assert (answer["label"], answer["score"]) == (expected.label, pytest.approx(expected.score, abs=1e-6))
        assert answer["in_scope"] == (expected.label != "oos") and answer["exit"] is None
        assert 0 < answer["tokenization_ms"] < 10_000 and 0 < answer["session_ms"] < 10_000


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"text": "my money", "model": "nothing"}', 404),
        (b'{"text": "my money", "model": "../calibrated/teacher"}', 404),
        (b'{"text": "my money"}', 400),
        (b"[]", 400),
        (b"\xff", 400),
    ],
)
def test_bad_questions_are_one_line(client, body, status):
    answer = client.post("/ask", content=body)
    assert answer.status_code == status and set(answer.json()) == {"error"}


def test_another_sites_page_gets_no_answer(root):
    client = TestClient(live.app(explored.REPORT, settings.load()), base_url="http://elsewhere.example")
    assert client.get("/").status_code == 400


def test_new_results_are_shown_when_the_page_is_loaded_again(client):
    assert '"lacks": null' in client.get("/").text
    shutil.rmtree("data")
    assert "data/, calibrated/ and evaluations/ are not here" in client.get("/").text
    (explored.REPORT / "tables/results.csv").write_text("")
    answer = client.get("/")
    assert answer.status_code == 500
    assert answer.text.startswith("error: metrics/sample/tables/results.csv is empty")


def test_a_folder_without_a_report(intents, root):
    assert "error: metrics/none/tables/results.csv is missing" in intents("explore", "metrics/none", fails=1)


def test_the_recipe_of_a_report(monkeypatch):
    monkeypatch.chdir(ROOT)
    p = settings.load()
    assert live.recipe(Path("metrics/sample"), p) == (p.variants, "dvc repro")
    variants, make = live.recipe(Path("metrics/clinc150-quick"), p)
    assert make == "dvc exp run -S experiment=clinc150-quick"
    assert "two-layers-half-exits-ort-int8" in variants.table
    assert live.recipe(Path("metrics/of-mine"), p) == (None, "dvc repro")


def test_changes_of_a_commit_that_is_not_here(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="there is no commit 'nothing' here"):
        live.compare(Path("metrics/sample"), "nothing", None, settings.load().gate)


def test_the_command_serves_the_page(root):
    command = [sys.executable, "-m", "stages.commands", "explore", "--port", "0", "--no-open"]
    environment = ENV | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stdout.readline()
        port = int(re.search(r"metrics/sample is shown at http://127\.0\.0\.1:(\d+)/", line)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/")
        assert b'"live": {"models": ["distilled"' in connection.getresponse().read()
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)
    finally:
        process.kill()
        process.wait()
