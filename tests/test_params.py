from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from pydantic import ValidationError

from stages import params
from stages.errors import UserError

ROOT = Path(__file__).parents[1]
REMOVED = object()
MODELS = (
    "teacher, fine-tuned, distilled, pruned, distilled-ort, pruned-ort, distilled-torch-int8, "
    "distilled-ort-int8, pruned-ort-int8"
)
TOP = "data, teacher, student, distill, prune, quantize, variants, evaluate, benchmark, report, seed"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load the repository's params.yaml with changes, e.g. load({"distill.alpha": 1.5})."""
    monkeypatch.chdir(tmp_path)

    def run(changes):
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        for key, value in changes.items():
            *sections, last = key.split(".")
            inner = values
            for section in sections:
                inner = inner[section]
            inner[last] = value
            if value is REMOVED:
                del inner[last]
        Path("params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return params.load()

    return run


def test_the_repository_s_params():
    p = params.load(ROOT / "params.yaml")
    assert (p.data.source, p.student.layers, p.distill.temperature, p.seed) == ("sample", [0, 2, 5], 4.0, 0)
    assert isinstance(p.data, params.SampleData) and isinstance(p.student, params.TeacherLayers)
    assert p.variants.prune["pruned"].parent == "distilled"
    assert p.variants.rows[0] == "teacher"


@pytest.mark.parametrize(
    "path",
    [path for group in ("data", "teacher", "student") for path in (ROOT / "conf" / group).glob("*.yaml")],
    ids=lambda path: f"{path.parent.name}={path.stem}",
)
def test_every_choice_of_conf(load, path):
    chosen = OmegaConf.to_container(OmegaConf.load(path))
    assert getattr(load({path.parent.name: chosen}), path.parent.name).model_dump() == chosen


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("distill.alpha", 1.5, "distill.alpha is 1.5: should be less than or equal to 1"),
        ("distill.alpha", -0.1, "distill.alpha is -0.1: should be greater than or equal to 0"),
        ("distill.alpha", float("nan"), "distill.alpha is nan: should be a finite number"),
        ("distill.alpha", True, "distill.alpha is True: should be a valid number"),
        ("distill.temperature", 0, "distill.temperature is 0: should be greater than 0"),
        ("distill.temperature", -1, "distill.temperature is -1: should be greater than 0"),
        ("distill.temperature", float("inf"), "distill.temperature is inf: should be a finite number"),
        ("distill.temperature", "4", "distill.temperature is '4': should be a valid number"),
        ("distill.epochs", 0, "distill.epochs is 0: should be greater than or equal to 1"),
        ("distill.epochs", 2.5, "distill.epochs is 2.5: should be a valid integer"),
        ("distill.epochs", "10", "distill.epochs is '10': should be a valid integer"),
        ("distill", None, "distill is None: should be a valid dictionary or instance of Distill"),
        ("distill", [1], "distill is [1]: should be a valid dictionary or instance of Distill"),
        ("prune.sparsity", 1.0, "prune.sparsity is 1.0: should be less than 1"),
        ("prune.sparsity", -0.1, "prune.sparsity is -0.1: should be greater than or equal to 0"),
        ("prune.begin", 0.7, "prune: begin (0.7) must be less than end (0.7)"),
        ("prune.begin", 0.8, "prune: begin (0.8) must be less than end (0.7)"),
        ("teacher.model", "???", "cannot be read: Missing mandatory value: model full_key: teacher.model"),
        ("teacher.epochs", -1, "teacher.epochs is -1: should be greater than or equal to 0"),
        ("seed", -1, "seed is -1: should be greater than or equal to 0"),
        ("seed", 2**32, "seed is 4294967296: should be less than 4294967296"),
        ("data.max_length", 7, "data.max_length is 7: should be greater than or equal to 8"),
        ("data.test_fraction", 0.5, "data.test_fraction is 0.5: should be less than 0.5"),
        ("data.path", None, "data.path is None: should be a valid string"),
        ("student.layers", [], "student.layers is []: List should have at least 1 item"),
        ("student.layers", [0, -1], "student.layers.1 is -1: should be greater than or equal to 0"),
        # misspelt
        ("epochs", 3, f"no parameter 'epochs' here; there are {TOP}"),
        (
            "distill.epoch",
            3,
            "distill: no parameter 'epoch' here; there are epochs, batch_size, learning_rate, "
            "weight_decay, warmup, alpha, temperature",
        ),
        (
            "variants.distill.distilled.alfa",
            0.5,
            "variants.distill.distilled: no parameter 'alfa' here; there are parent, alpha, temperature",
        ),
        (
            "data.hub",
            "clinc_oos",
            "data: no parameter 'hub' here; there are path, out_of_scope, max_length, source, "
            "queries_per_template, test_fraction, validation_fraction",
        ),
        (
            "student.model",
            "x",
            "student: no parameter 'model' here; there are init, layers, freeze_embeddings",
        ),
        # unknown
        ("data.source", "web", "data.source is 'web': should be one of 'sample', 'clinc150', 'files'"),
        ("student.init", "x", "student.init is 'x': should be one of 'teacher-layers', 'hub'"),
        ("teacher.source", "x", "teacher.source is 'x': should be 'wheel' or 'hub'"),
        ("variants.prune.pruned.parent", "x", f"variants: there is no model 'x'; there are {MODELS}"),
        ("variants.rows", ["teacher", "x"], f"variants: there is no model 'x'; there are {MODELS}"),
        # missing
        ("seed", REMOVED, "seed is missing"),
        ("distill", REMOVED, "distill is missing"),
        ("distill.alpha", REMOVED, "distill.alpha is missing"),
        ("data.path", REMOVED, "data.path is missing"),
        ("data.source", REMOVED, "data.source is missing"),
        ("student.layers", REMOVED, "student.layers is missing"),
        ("student.init", REMOVED, "student.init is missing"),
        ("variants.prune.pruned.sparsity", REMOVED, "variants.prune.pruned.sparsity is missing"),
        # the variants as a whole
        ("variants.rows", ["distilled"], "variants: rows must have 'teacher', which the others are compared"),
        ("variants.rows", [], "variants.rows is []: List should have at least 1 item"),
        ("variants.rows", "teacher", "variants.rows is 'teacher': should be a valid list"),
        ("variants.export.distilled", {"parent": "teacher"}, "variants: the name 'distilled' is taken"),
        ("variants.export.teacher", {"parent": "distilled"}, "variants: the name 'teacher' is taken"),
        ("variants.export.A B", {"parent": "teacher"}, "'A B': String should match pattern"),
    ],
)
def test_a_bad_value_is_one_line(load, key, value, message):
    with pytest.raises(UserError) as caught:
        load({key: value})
    line = str(caught.value)
    assert line.startswith("params.yaml")
    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "params.yaml cannot be read: while parsing a flow sequence"),
        (b"seed: 1\nseed: 2", "params.yaml cannot be read: while constructing a mapping"),
        (b"a: ${b", "params.yaml cannot be read: no viable alternative at input '${b'"),
        (b"caf\xe9: 1", "params.yaml cannot be read: 'utf-8' codec can't decode byte 0xe9"),
        (b"3", "params.yaml cannot be read: Invalid loaded object type: int"),
        (b"", "params.yaml: data is missing"),
        (b"- data\n- seed", "params.yaml: is ['data', 'seed']: should be a valid dictionary"),
        (b"hello", f"params.yaml: no parameter 'hello' here; there are {TOP}"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        params.load()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^params.yaml is missing: run from the repository's root$"):
        params.load()


def test_integers_and_short_exponents_are_numbers(load):
    p = load({"distill.temperature": 4, "distill.alpha": 1, "teacher.weight_decay": 0})
    assert p.distill.temperature == 4.0 and isinstance(p.distill.temperature, float)
    text = Path("params.yaml").read_text()
    for short, number in (("1e-4", 1e-4), ("2E-5", 2e-5)):
        Path("params.yaml").write_text(text.replace("0.0003", short))
        assert params.load().distill.learning_rate == number


def test_params_are_frozen(load):
    p = load({})
    for section, key in ((p, "seed"), (p.distill, "alpha"), (p.variants.prune["pruned"], "sparsity")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, 0)
