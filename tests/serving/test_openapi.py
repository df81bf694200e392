"""The service against its own description, by schemathesis: what it draws is answered as is described."""

import json
import subprocess
import sys

import pytest

from stages.serving import openapi, soak
from stages.serving.options import Limits

pytest.importorskip("schemathesis")


@pytest.fixture(scope="module")
def port(exported):
    with soak.service(exported / "student-ort", "--processes", "1") as port:
        yield port


def test_schemathesis(port, tmp_path):
    """Requests that follow the schema are answered, and such as do not are refused."""
    (tmp_path / "schemathesis.toml").write_text(
        "[checks.negative_data_rejection]\nexpected-statuses = [400, 413]\n"
    )
    program = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
    command = [sys.executable, "-c", program, "run", f"http://127.0.0.1:{port}/openapi.json"]
    options = ["--url", f"http://127.0.0.1:{port}", "--max-examples", "15", "--seed", "0", "--no-color"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "Tested: 3" in done.stdout


def test_the_limits_in_force_are_described():
    text = json.dumps(openapi.document(Limits(characters=77, texts=5)))
    assert '"maxLength": 77' in text and '"maxItems": 5' in text
