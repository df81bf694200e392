"""A working copy of what is tracked here, to run the pipeline in."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENV = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "DVC_NO_ANALYTICS": "1",
    "OMP_NUM_THREADS": "1",  # other tests run beside these
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


class Clone:
    """A repository of its own at `path`, committed, without results; `extra` files are added to it."""

    def __init__(self, path: Path, extra: dict[str, str] | None = None):
        self.path = path
        files = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True)
        for name in files.splitlines():
            if (ROOT / name).is_file() and not name.startswith("metrics/"):
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes((ROOT / name).read_bytes())
        for name, text in (extra or {}).items():
            (path / name).write_text(text)
        (path / "dvc.lock").unlink(missing_ok=True)
        self("git", "init", "-q", "-b", "main")
        self("git", "config", "user.name", "test")
        self("git", "config", "user.email", "test@example.org")
        self("git", "add", "-A")
        self("git", "commit", "-qm", "start")

    def __call__(self, *command, ok: bool | None = True) -> str:
        """Run `command` there, to a good end, a bad one, or any (None); give what it printed."""
        # The clone's own package, not the installed one: the working directory comes first with -m.
        done = subprocess.run(command, cwd=self.path, env=ENV, capture_output=True, text=True)
        output = done.stdout + done.stderr
        assert ok is None or (done.returncode == 0) == ok, output
        return output


def ran(output: str) -> set[str]:
    return set(re.findall(r"Running stage '(.+?)'", output))
