"""Each peer by itself, as far as its packages are here."""

import dataclasses
import json
import re
import tomllib

import numpy as np
import onnx
import onnxruntime
import pytest
from clone import ROOT
from conftest import save_as_hub, shaken, tiny_bert, word_tokenizer

from stages import runtime
from stages.core.errors import UserError
from stages.peers import NAMES, onnx_file, tfidf, workshop
from stages.peers.contract import Task
from stages.peers.workshop import Peer

TEXTS = [
    "my balance",
    "send money",
    "rent a car",
    "my balance to my car",
    "send my money to w20",
    "a car in w20",
]
LABELS = [0, 2, 1, 0, 2, 1]
CONFIG = {"id2label": {"0": "balance", "1": "oos", "2": "transfer"}}


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A tiny teacher, as its stage leaves it, and six queries of each intent."""
    monkeypatch.chdir(tmp_path)
    workshop.HOME.mkdir()
    save_as_hub(tiny_bert(), word_tokenizer(), tmp_path / "teacher")
    return Task(str(tmp_path / "teacher"), str(tmp_path / "teacher"), TEXTS * 3, LABELS * 3, True, 0)


def made(name, task, texts=TEXTS):
    peer = Peer(name)
    peer.make(task, {"test": texts}, CONFIG)
    return peer


def test_the_extra_has_what_goes_with_our_pins():
    """tfidf needs nothing more; the others are in the extra, or in an environment of their own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours, extra = set(project["dependencies"]), set(project["optional-dependencies"]["peers"])
    peers = [Peer(name) for name in NAMES]
    shared = {
        requirement
        for peer in peers
        if not hasattr(peer.module, "OWN_ENVIRONMENT")
        for requirement in peer.module.REQUIRES
    }
    assert shared - ours == extra
    for peer in peers:
        assert re.fullmatch(r"[^=]+==[^=]+", peer.module.REQUIRES[0])
    assert Peer("olive").install == "pip install -e '.[peers]'"
    home = ".peers/environments/optimum"
    assert Peer("optimum").install == (
        f"python -m venv {home} && {home}/bin/pip install 'optimum-onnx[onnxruntime]==0.1.0' 'torch==2.13.0'"
    )


def test_an_environment_of_its_own_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    python = tmp_path / ".peers" / "environments" / "tfidf" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho '[\"9.9\"]'\n")
    python.chmod(0o755)
    assert Peer("tfidf").versions == {"scikit-learn": "9.9"}
    python.write_text("#!/bin/sh\nexit 1\n")
    assert Peer("tfidf").versions is None


def test_tfidf(task):
    """Its logits are those of the model that it keeps; the size is that of its files."""
    peer = made("tfidf", task)
    logits = np.load(peer.folder / "test.npy")
    assert logits.argmax(axis=-1).tolist() == LABELS
    np.testing.assert_allclose(np.exp(logits).sum(axis=-1), 1, rtol=1e-5)
    classifier = tfidf.load(peer.model, 1)
    np.testing.assert_allclose(classifier.logits(TEXTS), logits, atol=1e-5)
    assert [prediction.label for prediction in classifier.predict(TEXTS[:2])] == ["balance", "transfer"]
    assert peer.size_mb == sum(file.stat().st_size for file in peer.model.iterdir()) / 2**20


def test_a_label_without_training_queries_is_the_least_likely(task):
    some = [i for i, label in enumerate(task.labels) if label != 1]
    few = dataclasses.replace(
        task, texts=[task.texts[i] for i in some], labels=[task.labels[i] for i in some]
    )
    logits = np.load(made("tfidf", few).folder / "test.npy")
    assert np.isfinite(logits).all()
    assert (logits[:, 1] < -80).all() and (logits[:, [0, 2]] > -80).all()


def test_it_is_made_once_for_a_teacher_its_data_and_the_code(task, monkeypatch):
    def ran(task, texts=TEXTS):
        done = []
        with monkeypatch.context() as patch:
            patch.setattr(Peer, "_run", lambda self, *given: done.append(given[1]) or run(self, *given))
            made("tfidf", task, texts)
        return done

    run = Peer._run
    assert ran(task) == ["make", "logits"]
    assert ran(task) == []
    assert ran(task, TEXTS[:2]) == ["make", "logits"]
    assert np.load(".peers/made/tfidf/test.npy").shape == (2, 3)
    other = dataclasses.replace(task, labels=[*LABELS, *LABELS, 0, 2, 1, 0, 2, 2])
    assert ran(other, TEXTS[:2]) == ["make", "logits"]
    shaken(tiny_bert()).save_pretrained(task.teacher)
    assert ran(other, TEXTS[:2]) == ["make", "logits"]


def test_one_that_cannot_be_made_is_told_in_a_line(task):
    """As a peer's library fails; nothing half made is left."""
    one = dataclasses.replace(task, labels=[0] * len(task.labels))
    with pytest.raises(
        UserError,
        match=r"^tfidf: make failed \(ValueError: .* least 2 classes.*\): see .peers/tfidf.log, or leave",
    ):
        made("tfidf", one)
    assert "Traceback" in (workshop.HOME / "tfidf.log").read_text()
    assert not (workshop.HOME / "made" / "tfidf").exists()


def test_token_types_are_computed_as_zeros(tmp_path):
    """0.5 · float(ids) + float(types), whose types are an input of the first graph alone."""
    helper, kinds = onnx.helper, onnx.TensorProto
    given = [
        helper.make_tensor_value_info(name, kinds.INT64, ["n", "m"])
        for name in ("input_ids", "token_type_ids")
    ]
    nodes = [
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=kinds.FLOAT),
        helper.make_node("Cast", ["input_ids"], ["ids"], to=kinds.FLOAT),
        helper.make_node("Add", ["ids", "types"], ["logits"]),
    ]
    output = helper.make_tensor_value_info("logits", kinds.FLOAT, ["n", "m"])
    model = helper.make_model(
        helper.make_graph(nodes, "g", given, [output]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "theirs.onnx")
    onnx_file.without_token_types(tmp_path / "theirs.onnx", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    ids = np.array([[5, 7], [1, 2]])
    assert [given.name for given in session.get_inputs()] == ["input_ids"]
    np.testing.assert_array_equal(session.run(None, {"input_ids": ids})[0], ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["olive", "optimum", "openvino", "torchao", "model2vec", "setfit"])
def test_a_peer_whose_packages_are_installed(name, task):
    """Those that compress the teacher answer as it does, but for int8."""
    if Peer(name).versions is None:
        pytest.skip(f"{name} is not installed")
    peer = made(name, task)
    logits = np.load(peer.folder / "test.npy")
    assert logits.shape == (6, 3) and np.isfinite(logits).all()
    assert json.loads((peer.model / "config.json").read_bytes())["id2label"] == CONFIG["id2label"]
    if name in ("olive", "optimum", "openvino", "torchao"):
        expected = runtime.load(task.teacher).logits(TEXTS)
        spread = expected.std()
        assert np.abs(logits - expected).max() < 0.2 * spread
