"""domains.json: which intents belong together, as far as the source says."""

import json
from pathlib import Path

import yaml

from stages.core.atomic import replacing
from stages.core.settings import Clinc150Data, Data, SampleData

FILE = Path("domains.json")


def of(data: Data) -> dict[str, list[str]]:
    """The intents of each domain: of CLINC150 by its authors, of the embedded corpus a file each."""
    if isinstance(data, Clinc150Data):
        return json.loads(Path(data.path).read_text("utf-8")).get("domains", {})
    if isinstance(data, SampleData):
        return {
            path.stem: list(yaml.safe_load(path.read_text("utf-8"))["intents"])
            for path in sorted(Path(data.path).glob("*.yaml"))
            if path.stem != "out_of_scope"
        }
    return {}


def write(domains: dict[str, list[str]]) -> None:
    with replacing(FILE) as scratch:
        scratch.write_text(json.dumps(domains, indent=2) + "\n")


def read() -> dict[str, list[str]]:
    return json.loads(FILE.read_text())
