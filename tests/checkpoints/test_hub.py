"""A hub with one gated repository, spoken to by huggingface_hub itself."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import family_models
import pytest

NAME, TOKEN, COMMIT = "org/gated", "hf_of_a_reader", "a" * 40
LOAD = """
from stages.checkpoints import pretrained
from stages.core.errors import command
from stages.data import tokenizer

@command
def main():
    print(tokenizer.of_teacher("hub", "org/gated").get_vocab_size())
    print(pretrained.found("org/gated", ["balance", "oos", "transfer"], keep_head=True))

main()
"""


class Hub(BaseHTTPRequestHandler):
    """What the client asks of a hub for the files of `folder`, for those who send TOKEN."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder, *args):
        self.folder = folder
        super().__init__(*args)

    def answer(self, status, content=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_GET(self):
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.answer(401, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted.")
        if self.path.startswith(f"/api/models/{NAME}"):
            about = {"id": NAME, "sha": COMMIT, "siblings": []}
            return self.answer(200, json.dumps(about).encode(), Content_Type="application/json")
        file = self.folder / self.path.partition("?")[0].rpartition("/")[2]
        if not file.is_file():
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        content = file.read_bytes()
        return self.answer(200, content, X_Repo_Commit=COMMIT, ETag=hashlib.sha256(content).hexdigest())

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def load(tmp_path):
    """A function that loads the model in a process of its own, with some environment; its result."""
    family_models.save("roberta", tmp_path / "model")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, tmp_path / "model"))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(**environment):
        address = f"http://127.0.0.1:{server.server_port}"
        home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address}
        return subprocess.run(
            [sys.executable, "-c", LOAD], env=os.environ | home | environment, capture_output=True, text=True
        )

    yield run
    server.shutdown()


@pytest.mark.slow
def test_a_gated_model_is_loaded_by_who_has_logged_in(load, tmp_path):
    refused = load()
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert "gated repo" in line and "log in by `hf auth login`; or name a local folder" in line
    assert "its head of 3 labels is kept" in load(HF_TOKEN=TOKEN).stdout
    (tmp_path / "home" / "token").write_text(TOKEN)  # as `hf auth login` leaves it
    assert "its head of 3 labels is kept" in load().stdout
