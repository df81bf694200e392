import http.client
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from stages import bundle, runtime
from stages.serving import soak

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
def made(models):
    bundle.main(["--model", "models/student-ort", "--output", "made"])
    return Path("made").resolve()


def run(made, code):
    """In the bundle, by another interpreter, which finds none of what is not needed."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED}))\n"
    return subprocess.run(
        [sys.executable, "-c", hide + code], cwd=made, capture_output=True, text=True, check=True
    ).stdout


def test_it_has_all_that_it_needs(made):
    code = (
        "import stages.service, stages.serving.service; from stages import runtime; print(stages.__file__);"
    )
    place, label = run(made, code + "print(runtime.load('model').predict(['my balance'])[0].label)").split()
    assert Path(place) == made / "stages" / "__init__.py"
    assert label == runtime.load("models/student-ort").predict(["my balance"])[0].label
    assert not (made / "stages" / "params.py").exists()


def test_its_requirements_are_what_it_imports(made):
    """Seen in an interpreter: every distribution that is imported is named, or needed by one that is."""
    code = """
import stages.service, stages.serving.service, uvicorn
from uvicorn.loops.auto import auto_loop_factory
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from importlib import metadata
from stages import runtime
auto_loop_factory()
runtime.load("model").predict(["my balance"])
of = metadata.packages_distributions()
print(*{name for module in [m for m in sys.modules if sys.modules[m]] for name in of.get(module, ())})
"""
    imported = {canonical(name) for name in run(made, code).split()} - {"stages", "setuptools"}
    pins = dict(line.split("==") for line in (made / "requirements.txt").read_text().splitlines())
    for name, version in pins.items():
        assert metadata.version(name) == version
    assert set(pins) <= imported <= closure(pins)


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names):
    """`names`, and all that they require."""
    found, todo = set(), list(names)
    while todo:
        name = canonical(re.split(r"[^\w.-]", todo.pop())[0])
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            todo += [line for line in required if "extra ==" not in line]
    return found


def test_it_serves(made):
    with soak.service(made / "model", "--workers", "1") as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", "/predict", b'{"text": "my balance"}')
        answer = json.loads(connection.getresponse().read())
    assert answer["label"] == runtime.load("models/student-ort").predict(["my balance"])[0].label


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "models/student"], "models/student is not an ONNX model"),
        (["--model", "models/nowhere"], "models/nowhere is no model folder"),
        (["--model", "models/student-ort", "--output", "models"], "models is there already"),
    ],
)
def test_what_cannot_be_bundled(models, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        bundle.main(arguments)
    assert message in stopped.value.code
