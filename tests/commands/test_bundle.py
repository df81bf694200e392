import http.client
import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from stages import runtime
from stages.core.atomic import write_json
from stages.measurement import identity
from stages.serving import soak
from stages.serving.options import Limits

NOT_NEEDED = [
    "torch",
    "transformers",
    "onnx",
    "pandas",
    "scipy",
    "sklearn",
    "dvc",
    "pydantic",
    "omegaconf",
    "hydra",
]


@pytest.fixture
def bundled(models, intents):
    intents("bundle", "--model", "models/student-ort", "--output", "bundled")
    return Path("bundled").resolve()


@pytest.fixture
def blocked(tmp_path, monkeypatch):
    """Every interpreter started from here on fails to import what is not needed."""
    folder = tmp_path / "blocked"
    folder.mkdir()
    for name in NOT_NEEDED:
        (folder / f"{name}.py").write_text("raise ModuleNotFoundError(__name__ + ' is not needed')")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def run(bundled, code):
    """The output of another interpreter in the bundle."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=bundled, capture_output=True, text=True, check=True
    ).stdout


def test_torch_is_blocked(bundled, blocked):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run(bundled, "import torch")
    assert "torch is not needed" in failed.value.stderr


def test_it_has_all_that_it_needs(bundled, blocked):
    code = "import stages.commands.serve, stages.serving.service; from stages import runtime; "
    code += "print(stages.__file__); "
    place, label = run(
        bundled, code + "print(runtime.load('model').predict(['my balance'])[0].label)"
    ).split()
    assert Path(place) == bundled / "stages" / "__init__.py"
    assert label == runtime.load("models/student-ort").predict(["my balance"])[0].label
    assert {path.stem for path in (bundled / "stages" / "commands").glob("*.py")} == {
        "__init__", "__main__", "serve",
    }  # fmt: skip
    assert not (bundled / "stages" / "core" / "settings.py").exists()


def test_its_requirements_are_what_it_imports(bundled, blocked):
    """Seen in an interpreter: every distribution that is imported is named, or needed by one that is."""
    code = """
import sys
import stages.checkpoints.sparse_storage, stages.commands.serve, stages.serving.processes
import stages.serving.page, stages.serving.service
import uvicorn
from uvicorn.loops.auto import auto_loop_factory
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from importlib import metadata
from stages import runtime
auto_loop_factory()
runtime.load("model").predict(["my balance"])
of = metadata.packages_distributions()
print(*{name for module in [m for m in sys.modules if sys.modules[m]] for name in of.get(module, ())})
"""
    imported = {canonical(name) for name in run(bundled, code).split()} - {"intent-compressor", "setuptools"}
    pins = dict(line.split("==") for line in (bundled / "requirements.txt").read_text().splitlines())
    for name, version in pins.items():
        assert metadata.version(name) == version
    assert set(pins) <= imported <= closure(pins)


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names):
    """`names`, and all that they require."""
    closed, todo = set(), list(names)
    while todo:
        name = canonical(re.split(r"[^\w.-]", todo.pop())[0])
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        if name not in closed:
            closed.add(name)
            todo += [line for line in required if "extra ==" not in line]
    return closed


def test_it_serves(bundled, blocked, monkeypatch):
    """The service and its workers run the bundle's own code, as the working directory comes first."""
    expected = runtime.load("models/student-ort").predict(["my balance"])[0].label
    monkeypatch.chdir(bundled)
    with soak.service(Path("model"), "--processes", "1") as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", "/predict", b'{"text": "my balance"}')
        answer = json.loads(connection.getresponse().read())
    assert answer["label"] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "models/student"], "models/student is not an ONNX model"),
        (["--model", "models/nowhere"], "models/nowhere is no model folder"),
        (["--model", "models/student-ort", "--output", "models"], "models exists: remove it"),
    ],
)
def test_what_cannot_be_bundled(models, intents, arguments, message):
    assert message in intents("bundle", *arguments, fails=1)


def parsed(bundled, name):
    return list(yaml.safe_load_all((bundled / name).read_text()))


def test_the_manifest_follows_the_schema_of_kubernetes(bundled):
    validate = pytest.importorskip("kubernetes_validate")
    deployment, service = parsed(bundled, "kubernetes.yaml")
    for document in (deployment, service):
        validate.validate(document, "1.34", strict=True)
    deployment["spec"]["template"]["spec"]["containers"][0]["readinessProbes"] = {}
    with pytest.raises(validate.ValidationError):
        validate.validate(deployment, "1.34", strict=True)


def test_the_manifest_has_what_the_plan_says(models, intents):
    """As many pods as the cores of the plan over HTTP take, if the plan is of this very model."""
    Path("load_test").mkdir()
    write_json("load_test/measured.json", {"small": identity.of_model(Path("models/student-ort"))})
    Path("load_test/http_plan.csv").write_text("scenario,model,cores\nslow,large,90\nint8,small,10.0\n")
    for name, replicas, said in (("student", 4, "plans 10 cores"), ("teacher", 2, "did not measure")):
        intents("bundle", "--model", f"models/{name}-ort", "--output", name, "--processes", "3")
        deployment, service = parsed(Path(name), "kubernetes.yaml")
        assert deployment["spec"]["replicas"] == replicas
        assert said in (Path(name) / "kubernetes.yaml").read_text()
        pod = deployment["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["requests"]["cpu"] == container["args"][1] == "3"
        assert pod["metadata"]["labels"] == service["spec"]["selector"]
        assert pod["spec"]["terminationGracePeriodSeconds"] > Limits.answer_seconds + Limits.body_seconds


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
def test_the_unit_is_one_that_systemd_takes(bundled):
    unit = bundled / "intents.service"
    unit.write_text(unit.read_text().replace("/opt/intents/venv/bin/python", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "intents" in line]) == (0, [])
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=perhaps"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert "restart" in done.stderr.lower()


def test_the_image_has_what_the_bundle_has(bundled):
    """Every COPY is there, and its command serves."""
    lines = (bundled / "Dockerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY"):
            assert (bundled / line.split()[1]).exists()
    assert f"FROM python:3.{sys.version_info.minor}-slim" in lines and "USER 10001" in lines
    (entry,) = [line.removeprefix("ENTRYPOINT ") for line in lines if line.startswith("ENTRYPOINT")]
    program, *arguments = json.loads(entry)
    assert program == "python"
    shown = subprocess.run(
        [sys.executable, *arguments, "--help"], cwd=bundled, capture_output=True, text=True
    )
    assert shown.returncode == 0 and "--max-body" in shown.stdout
