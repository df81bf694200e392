"""Makes the peers' models and their logits, each in its environment, once for a teacher and its data."""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType

from stages import runtime
from stages.core.atomic import replacing
from stages.core.errors import UserError
from stages.peers.contract import Task
from stages.peers.timed import last_line

HOME = Path(".peers")
ROOT = Path(__file__).parents[2]
VERSIONS = (
    "import importlib.metadata as m, json, sys; print(json.dumps([m.version(n) for n in sys.argv[1:]]))"
)


@dataclass(frozen=True)
class Peer:
    """The peer `name`: a module of stages.peers, the Python that has its packages, and its files in HOME."""

    name: str

    @cached_property
    def module(self) -> ModuleType:
        return import_module(f"stages.peers.{self.name}")

    @property
    def environment(self) -> Path:
        return HOME / "environments" / self.name

    @property
    def python(self) -> str:
        """That of an environment of its own, if there is one; else this one."""
        own = self.environment / "bin" / "python"
        return str(own) if own.exists() else sys.executable

    @property
    def folder(self) -> Path:
        return HOME / "made" / self.name

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @cached_property
    def versions(self) -> dict[str, str] | None:
        """Of the packages that it requires, as they are installed; None where one is missing."""
        names = [re.split(r"[\[=]", requirement)[0] for requirement in self.module.REQUIRES]
        done = subprocess.run([self.python, "-c", VERSIONS, *names], capture_output=True, text=True)
        return dict(zip(names, json.loads(done.stdout), strict=True)) if done.returncode == 0 else None

    @property
    def install(self) -> str:
        """The commands that install it."""
        if not hasattr(self.module, "OWN_ENVIRONMENT"):
            return "pip install -e '.[peers]'"
        packages = " ".join(f"'{requirement}'" for requirement in self.module.REQUIRES)
        return f"python -m venv {self.environment} && {self.environment}/bin/pip install {packages}"

    @property
    def size_mb(self) -> float:
        """MB of 2^20 bytes of all files of the model."""
        return sum(file.stat().st_size for file in self.model.rglob("*") if file.is_file()) / 2**20

    @property
    def loads_in(self) -> str:
        """The Python that loads the model: what our own runtime loads needs nothing of the peer's."""
        return sys.executable if self.module.load is runtime.load else self.python

    def answering(self, threads: int) -> list[str]:
        """The command of a worker that answers with the model."""
        return worker(self.loads_in, "answer", self.module.__name__, self.model, threads)

    def make(self, task: Task, texts: dict[str, list[str]], labels: dict) -> None:
        """Write `folder`: the model, and its logits on each of `texts`, as <split>.npy.

        It is left as it is if it was made by this code, of this task and these texts. `labels` are what
        config.json says of them.
        """
        key = self._key(task, texts)
        recipe = self.folder / "made.json"
        if recipe.exists() and json.loads(recipe.read_text()) == key:
            return
        with replacing(self.folder) as scratch:
            model = scratch / "model"
            model.mkdir(parents=True)
            task.write(scratch / "task.json")
            self._run(self.python, "make", scratch / "task.json", model.resolve())
            config = model / "config.json"
            if not config.exists():
                config.write_bytes((Path(task.teacher) / "config.json").read_bytes())
            config.write_text(json.dumps(json.loads(config.read_bytes()) | labels, indent=2) + "\n")
            for split, queries in texts.items():
                (scratch / "texts.json").write_text(json.dumps(queries))
                self._run(self.loads_in, "logits", model, scratch / "texts.json", scratch / f"{split}.npy")
            (scratch / "task.json").unlink()
            (scratch / "texts.json").unlink()
            (scratch / "made.json").write_text(json.dumps(key))

    def _key(self, task: Task, texts: dict[str, list[str]]) -> dict[str, str]:
        """What the outputs follow from, wherever the teacher's folder is."""
        teacher = hashlib.sha256()
        for file in sorted(Path(task.teacher).iterdir()):
            teacher.update(file.read_bytes())
        given = json.dumps([vars(task) | {"teacher": None}, texts, self.versions])
        return {
            "teacher": teacher.hexdigest(),
            "given": hashlib.sha256(given.encode()).hexdigest(),
            "code": hashlib.sha256((ROOT / "stages" / "peers" / f"{self.name}.py").read_bytes()).hexdigest(),
        }

    def _run(self, python: str, action: str, *arguments) -> None:
        log = HOME / f"{self.name}.log"
        with log.open("a") as output:
            command = worker(python, action, self.module.__name__, *arguments)
            done = subprocess.run(command, env=environment(), stdout=output, stderr=output)
        if done.returncode != 0:
            raise UserError(f"{self.name}: {action} failed{last_line(log)}")


def worker(python: str, action: str, *arguments) -> list[str]:
    return [python, "-m", "stages.peers.worker", action, *map(str, arguments)]


def environment(threads: int | None = None) -> dict[str, str]:
    """The variables of a worker: this package, and `threads` for libraries that would take all cores.

    Nothing is asked of a hub. Nothing is reported to the makers of Olive and of OpenVINO, which reports
    nothing from continuous integration.
    """
    limits = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    offline = {"HF_HUB_OFFLINE": "1", "OLIVE_DISABLE_TELEMETRY": "1", "CI": "true"}
    return {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", **offline, **limits}
