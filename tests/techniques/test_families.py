"""The table of techniques and families in the README: the slow test makes it, the fast ones hold it."""

import json
import re
import shutil
from pathlib import Path

import family_models
import numpy as np
import pandas as pd
import pytest
import yaml

from stages import compress, evaluate, logits, runtime, soft_labels, teacher
from stages.checkpoints import families, sparse_storage
from stages.data import domains, outliers, tables
from stages.training import loop

ROOT = Path(__file__).parents[2]
README = ROOT / "stages/techniques/README.md"
TABLE = re.compile(r"(?<=<!-- families -->\n).*?(?=<!-- end of families -->)", re.DOTALL)
NAMES = {
    "bert": "BERT",
    "distilbert": "DistilBERT",
    "roberta": "RoBERTa",
    "xlm-roberta": "XLM-RoBERTa",
    "electra": "ELECTRA",
    "mpnet": "MPNet",
    "albert": "ALBERT",
    "deberta-v2": "DeBERTa-v2",
    "deberta-v3": "DeBERTa-v3",
    "modernbert": "ModernBERT",
}
KD = {"parent": "teacher", "alpha": 0.5, "temperature": 2.0, "epochs": 1, "batch_size": 16}
LINES = {
    "distill": {"layers": {**KD, "layers": "spaced-2"}},
    "prune": {
        "magnitude": {**KD, "method": "magnitude-gradual", "sparsity": 0.5},
        "movement": {**KD, "method": "movement-hard", "sparsity": 0.5},
    },
    "structured": {
        "structured": {**KD, "heads": 0.5, "feed_forward": 0.5},
        "columns": {**KD, "heads": 0.0, "feed_forward": 0.5},
    },
    "vocabulary": {"vocabulary": {"parent": "teacher", "vocab_size": 0}},
    "qat": {"qat": KD},
    "exits": {"exits": {**KD, "layers": [1]}},
    "export": {"export": {"parent": "teacher"}, "traced": {"parent": "teacher", "method": "traced"}},
    "quantize": {
        "torch": {"parent": "teacher", "method": "dynamic"},
        "dynamic": {"parent": "export", "method": "dynamic"},
        "static": {"parent": "traced", "method": "static", "range_queries": 20},
    },
    "pack": {"pack": {"parent": "magnitude"}},
}
STAGE = {name: stage for stage, lines in LINES.items() for name in lines}


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch):
    """Without the clock that chooses between it and bf16, before each training."""
    monkeypatch.setattr(loop, "_multiplies_bf16", lambda: False)


class Family:
    """A tiny teacher of the family in the working directory, and what each technique makes of it."""

    def __init__(self, name, intents):
        self.name, self.intents = name, intents
        family_models.save(name, "own")
        texts = family_models.corpus()[::48]
        table = pd.DataFrame(
            {"text": texts, "intent": [family_models.LABELS[len(text) % 3] for text in texts]}
        )
        labels = tables.Labels([*family_models.LABELS], "oos")
        tables.write("data", dict.fromkeys(tables.SPLITS, table), labels)
        domains.write({"banking": ["transfer", "balance"]})
        outliers.write([])
        self.texts = texts
        self.params("teacher")
        for stage in (teacher, logits):
            stage.main("teacher")
        soft_labels.main()
        self.params(*STAGE)

    def params(self, *names):
        """params.yaml with the lines `names`, in which the teacher is the one in the folder own."""
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        own = {"source": "hub", "model": "own", "path": "own", "sha256": None, "epochs": 0}
        values["teacher"] |= own
        values["data"]["max_length"] = 16
        values["distill"]["student"] |= {"architecture": "own"}
        values["structured"]["fine_tuning"] |= {"epochs": 1}
        lines = {s: {n: line for n, line in group.items() if n in names} for s, group in LINES.items()}
        rows = {"teacher": "table"} | ({"export": "table"} if "export" in names else {})
        values["variants"] = {**lines, "rows": rows}
        values["load_test"]["scenarios"] = [{"name": "one", "model": "teacher"}]
        Path("params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def made(self, name):
        """Why the model is refused, in one line, with nothing left behind; None once it is there."""
        folder = Path("models") / name
        if folder.exists():
            return None
        parent = LINES[STAGE[name]][name]["parent"]
        if parent != "teacher" and (reason := self.made(parent)):
            return reason
        if name == "traced" and not self.is_written:
            shutil.copytree("models/export", folder)  # which was traced, too
            return None
        try:
            compress.main(STAGE[name], name)
        except SystemExit as refused:
            reason = str(refused.code)
            assert reason.startswith("error: ") and "\n" not in reason, reason
            assert not folder.exists()
            return re.sub(r"^error: (\w+ is refused, whose parent is of the family \S+: )?", "", reason)
        return None

    @property
    def is_written(self):
        return families.FAMILIES[self.name.replace("deberta-v3", "deberta-v2")].written

    def logits(self, name, batch=1):
        classifier = runtime.load(Path("models") / name)
        parts = [self.texts[i : i + batch] for i in range(0, len(self.texts), batch)]
        return np.concatenate([classifier.logits(part) for part in parts])

    def cell(self, technique):
        """What stands in the table: yes, or more of it; or the reason why not."""
        if technique == "structured" and self.made("structured"):
            assert not self.made("columns")
            assert np.isfinite(self.logits("columns")).all()
            return self.made("structured")
        if technique in STAGE and (reason := self.made(technique)):
            return reason
        return getattr(self, f"check_{technique}", self.check_training)(technique) or "yes"

    def check_training(self, name):
        assert np.isfinite(self.logits(name)).all()
        assert abs(self.logits(name) - self.logits("teacher")).max() > 1e-3

    def check_magnitude(self, name):
        sparsity = json.loads(Path(f"models/{name}/recipe.json").read_text())["sparsity"]
        assert all(share == pytest.approx(0.5, abs=0.01) for share in sparsity.values())

    check_movement = check_magnitude

    def check_vocabulary(self, name):
        recipe = json.loads(Path(f"models/{name}/recipe.json").read_text())
        before, after = recipe["vocabulary"]
        assert after < before
        np.testing.assert_allclose(self.logits(name), self.logits("teacher"), rtol=1e-5, atol=1e-5)

    def check_exits(self, name):
        assert runtime.load(f"models/{name}").answers(self.texts[:3])[1].shape == (3,)

    def check_export(self, name):
        tolerance = 1e-5 if self.is_written else 1e-4
        for batch in (1, 8):
            expected = self.logits("teacher", batch)
            assert abs(self.logits(name, batch) - expected).max() < tolerance * abs(expected).max()
        return "written" if self.is_written else "traced"

    def check_torch(self, name):
        likeness = np.corrcoef(self.logits(name).ravel(), self.logits("teacher").ravel())[0, 1]
        assert likeness > 0.9, likeness  # of a model 16 wide with random weights

    check_dynamic = check_static = check_torch

    def check_pack(self, name):
        unpacked = sparse_storage.unpack(Path(f"models/{name}/model.safetensors.sparse"))
        assert unpacked == Path("models/magnitude/model.safetensors").read_bytes()

    def check_calibration(self, _):
        evaluate.main("export")
        assert json.loads(Path("calibrated/export/calibration.json").read_text())["temperature"] > 0

    def check_predict(self, _):
        said = self.intents("predict", "--model", "models/teacher", self.texts[0])
        assert said.split()[0] in family_models.LABELS

    def check_bundle(self, _):
        self.intents("bundle", "--model", "calibrated/export", "--output", "bundle")
        assert Path("bundle/model/model.onnx").exists()

    def check_publish(self, _):
        self.intents("publish", "--model", "models/teacher", "--output", "published")
        from transformers import pipeline

        answer = pipeline("text-classification", model="published")(self.texts[0])[0]["label"]
        assert answer == runtime.load("models/teacher").predict(self.texts[:1])[0].label


ROWS = {
    "layers": "`distill`: fewer layers",
    "magnitude": "`prune`: magnitude",
    "movement": "`prune`: movement",
    "structured": "`structured`",
    "vocabulary": "`vocabulary`",
    "qat": "`qat`",
    "exits": "`exits`",
    "export": "`export`",
    "torch": "int8: torch",
    "dynamic": "int8: ONNX Runtime, dynamic",
    "static": "int8: ONNX Runtime, static",
    "pack": "`pack`",
    "calibration": "`evaluate`: calibration",
    "predict": "`intents predict`",
    "bundle": "`intents bundle`",
    "publish": "`intents publish`",
}


def written(cells):
    """The table as Markdown, of {family: {technique: what `Family.cell` says}}; each reason once, below."""
    reasons: list[str] = []
    lines = [f"| | {' | '.join(NAMES[family] for family in cells)} |", "|---|" + "---|" * len(cells)]
    for technique, title in ROWS.items():
        row = []
        for column in cells.values():
            says = column[technique]
            if says not in ("yes", "written", "traced"):
                if says not in reasons:
                    reasons.append(says)
                says = f"{'columns alone' if technique == 'structured' else 'no'} ({reasons.index(says) + 1})"
            row.append(says)
        lines.append(f"| {title} | {' | '.join(row)} |")
    below = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, *(["", *below] if below else []), ""])


@pytest.mark.slow
def test_the_table_is_what_each_technique_does_to_each_family(tmp_path, monkeypatch, intents):
    """A table that differs is written, to be read and committed."""
    cells = {}
    for family in NAMES:
        (tmp_path / family).mkdir()
        monkeypatch.chdir(tmp_path / family)
        project = Family(family, intents)
        cells[family] = {technique: project.cell(technique) for technique in ROWS}
    before = README.read_text()
    after = TABLE.sub(lambda _: written(cells), before)
    README.write_text(after)
    assert after == before


def column(family):
    """The cells of a family in the table of the README."""
    rows = [line.strip("| ").split(" | ") for line in TABLE.search(README.read_text())[0].splitlines()]
    place = rows[0].index(NAMES[family])
    titles = {title: technique for technique, title in ROWS.items()}
    return {titles[row[0]]: row[place + 1] for row in rows if row[0] in titles}


@pytest.mark.parametrize(
    ("family", "techniques"),
    [
        ("mpnet", ["layers", "structured", "exits", "export", "predict", "publish"]),
        ("albert", ["exits", "export", "dynamic"]),
        ("modernbert", ["exits"]),
        ("roberta", ["magnitude", "exits", "export", "dynamic", "pack", "calibration", "bundle"]),
    ],
)
def test_the_table_says_what_happens(family, techniques, tmp_path, monkeypatch, intents):
    monkeypatch.chdir(tmp_path)
    project, says = Family(family, intents), column(family)
    for technique in techniques:
        cell = project.cell(technique)
        assert cell == says[technique] or says[technique].endswith(")"), (technique, cell)
        assert (cell in ("yes", "written", "traced")) == (says[technique] == cell), (technique, cell)


def test_a_plan_with_a_model_that_is_refused_ends_before_the_teacher(tmp_path, monkeypatch, intents):
    monkeypatch.chdir(tmp_path)
    Family("mpnet", intents)
    shutil.rmtree("models")
    with pytest.raises(
        SystemExit, match="structured is refused, whose parent is of the family mpnet: all its"
    ):
        teacher.main("teacher")
    assert not Path("models/teacher").exists()
