"""Peers and our models on the same queries and in the same rounds."""

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import pandas as pd

from stages import checkpoints
from stages.checkpoints import pretrained
from stages.core import model_folder
from stages.core.atomic import write_json
from stages.core.errors import UserError
from stages.core.settings import Params
from stages.data import tables
from stages.measurement import identity
from stages.measurement.quality import accuracy, calibration
from stages.measurement.speed import latency, machine, reference
from stages.peers import workshop
from stages.peers.contract import Task
from stages.peers.timed import Timed
from stages.peers.workshop import Peer
from stages.reporting import answers, evidence, results
from stages.techniques.settings import TECHNIQUES, Training

SPLITS = ("validation", "test")
VNNI = {"avx512_vnni", "avx_vnni"}


@dataclass(frozen=True)
class Compared:
    """`table`, a row a model with its `kind` ("ours" or "peer"), measures on test, size and latency.

    `right`, which test queries each has right, calibrated; `speedups`, a column for each of ours, over which
    a row's model is so many times as fast, with `_low` and `_high`; `machine`, what they were timed on.
    """

    table: pd.DataFrame
    right: dict[str, np.ndarray]
    speedups: pd.DataFrame
    machine: dict


def ours(p: Params) -> list[str]:
    """The rows made from the teacher without training, as most peers are, those of the headline, the best."""
    names = [name for name in p.variants.table if not _trained(name, p)]
    headline = Path(p.report.folder) / "headline.json"
    if headline.exists():
        names += [row["model"] for row in evidence.values(headline, ()).values()]
    best = model_folder.MODELS / "best"
    if best.exists():
        names.append(model_folder.recipe(best)["parent"])
    return [name for name in dict.fromkeys(names) if name in p.variants.table]


def _trained(name: str, p: Params) -> bool:
    stages = [step["stage"] for step in p.variants.lineage(name)[1:]]
    return any(issubclass(TECHNIQUES[stage][0], Training) for stage in stages)


def run(peers: list[Peer], models: list[str], p: Params) -> Compared:
    """Make what is not made yet of the `peers`, then evaluate and time them beside our `models`."""
    rows, right = {}, {}
    for name in models:
        measured = results.evaluation(name)
        if results.measured_on(name)["data_sha256"] != identity.of_data():
            raise UserError(f"evaluations/{name} is of other data than data/ has: run `dvc repro`")
        rows[name] = {"kind": "ours", **measured["test"], "size_mb": measured["sizes"]["size_mb"]}
    labels = tables.read("test")["label"].to_numpy()
    for name, given in answers.predictions(models)["calibrated"].items():
        right[str(name)] = (given == labels).to_numpy()
    make(peers, p)
    for peer in peers:
        measures, right[peer.name] = evaluate(peer, p)
        rows[peer.name] = {"kind": "peer", **measures, "size_mb": peer.size_mb}
    times = time(peers, models, p)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    table = table.join(latency.summarize(times, {"speedup_over_bert_base": reference.NAME}, p.seed))
    speedups = latency.summarize(times, {name: name for name in models}, p.seed)
    return Compared(table, right, speedups, machine.describe(p.benchmark.threads))


def make(peers: list[Peer], p: Params) -> None:
    """The model of each peer, and its logits on validation and test."""
    teacher = model_folder.MODELS / "teacher"
    model_folder.label_names(teacher)
    config = json.loads((teacher / "config.json").read_bytes())
    encoder = pretrained.locate(p.teachers["teacher"])
    train = tables.read("train")
    train = train.loc[train.index.repeat(train["weight"].round().clip(lower=1).astype(int))]
    task = Task(
        teacher=str(teacher.resolve()),
        pretrained=str(Path(encoder).resolve()) if Path(encoder).is_dir() else encoder,
        texts=train["text"].tolist(),
        labels=train["label"].tolist(),
        vnni=bool(VNNI & set(machine.describe(p.benchmark.threads)["int8_instructions"])),
        seed=p.seed,
    )
    texts = {split: tables.read(split)["text"].tolist() for split in SPLITS}
    for peer in peers:
        click.echo(f"{peer.name}: its model, and its logits on validation and test", err=True)
        peer.make(task, texts, {key: config[key] for key in ("id2label", "label2id")})


def evaluate(peer: Peer, p: Params) -> tuple[dict, np.ndarray]:
    """Its measures on test, and which queries it has right, calibrated.

    The calibration is fitted on validation, as the stage `evaluate` fits those of our models, and kept with
    the peer's model.
    """
    out_of_scope = tables.read_labels().out_of_scope_id
    labels = {split: tables.read(split)["label"].to_numpy() for split in SPLITS}
    logits = {split: np.load(peer.folder / f"{split}.npy") for split in SPLITS}
    share = p.calibrate.out_of_scope_share
    if share is None:
        share = float((labels["validation"] == out_of_scope).mean())
    fitted = calibration.fit(
        logits["validation"], labels["validation"], out_of_scope, p.calibrate.scores, share
    )
    write_json(peer.model / checkpoints.CALIBRATION, asdict(fitted))
    measures = accuracy.measure(logits["test"], labels["test"], out_of_scope, fitted, share)
    return measures, fitted.predict(logits["test"]) == labels["test"]


def time(peers: list[Peer], models: list[str], p: Params) -> pd.DataFrame:
    """The rounds of the stage `benchmark`, each model in a process of its own."""
    threads = p.benchmark.threads
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        folders = {name: model_folder.CALIBRATED / name for name in models}
        folders[reference.NAME] = Path(scratch) / reference.NAME
        reference.write(folders[reference.NAME], model_folder.MODELS / "teacher", p.benchmark.reference)
        commands = {
            name: workshop.worker(sys.executable, "answer", "stages.runtime", folder, threads)
            for name, folder in folders.items()
        }
        commands |= {peer.name: peer.answering(threads) for peer in peers}
        timed = {}
        for name, command in commands.items():
            log = workshop.HOME / f"{name}-answers.log"
            timed[name] = stack.enter_context(Timed(command, workshop.environment(threads), log))
        return latency.interleave(timed, tables.read("test")["text"].tolist(), p.benchmark, p.seed)
