from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from stages.core import settings, watched
from stages.core.errors import UserError
from stages.techniques.settings import Distill, MagnitudePruning, SoftMovementPruning

ROOT = Path(__file__).parents[2]
REMOVED = object()
ONE = {"name": "one", "model": "teacher"}
KD = {"alpha": 0.1, "temperature": 4.0}
MODELS = "teacher, general, distilled, from-general, magnitude, structured, structured-vocabulary, "
TOP = (
    "general, distill, prune, structured, vocabulary, factorize, qat, exits, export, quantize, pack, data, "
    "teacher, "
    "teachers, "
)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load the repository's params.yaml with changes, e.g. load({"distill.alpha": 1.5})."""
    monkeypatch.chdir(tmp_path)

    def run(changes):
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        values["variants"] |= {"general": {"general": {"layers": [0, 5]}}}
        values["variants"]["distill"]["from-general"] = KD | {"parent": "general"}
        for key, value in changes.items():
            *sections, last = key.split(".")
            inner = values
            for section in sections:
                inner = inner[section]
            inner[last] = value
            if value is REMOVED:
                del inner[last]
        Path("params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return settings.load()

    return run


def test_the_repository_s_params():
    p = settings.load(ROOT / "params.yaml")
    assert (p.data.source, p.seed) == ("sample", 0)
    assert isinstance(p.data, settings.SampleData)
    magnitude, distilled = (p.variants.models[name] for name in ("magnitude", "distilled"))
    assert isinstance(magnitude, MagnitudePruning) and isinstance(distilled, Distill)
    assert (magnitude.parent, magnitude.rounds, magnitude.batch_size) == ("teacher", 4, 48)
    assert (distilled.student.layers, distilled.temperature, distilled.epochs) == ([0, 2, 5], 4.0, 3)
    assert p.variants.parents["magnitude-ort-int8-packed"] == "magnitude-ort-int8"
    assert p.variants.table[0] == "teacher" and len(p.variants.table) == 8
    assert p.variants.stages["magnitude"] == "prune" and len(p.variants.models) == 14


def test_the_sweep_is_not_in_the_table(load):
    rows = {"distilled": "sweep", "magnitude": "table", "teacher": "table"}
    p = load({"variants.rows": rows, "load_test.scenarios": [ONE]})
    assert p.variants.table == ["magnitude", "teacher"]


def test_a_line_replaces_what_it_shares_with_its_section(load):
    line = {"parent": "distilled", "method": "movement-soft", "penalty": 50, "alpha": 0.1, "temperature": 4.0}
    soft = load({"variants.prune.magnitude": line}).variants.models["magnitude"]
    assert isinstance(soft, SoftMovementPruning)
    assert (soft.penalty, soft.seed, soft.epochs) == (50.0, 0, 2)
    assert "sparsity" not in soft.model_dump() and "rounds" not in soft.model_dump()
    own = load({"variants.prune.magnitude": {**line, "epochs": 9, "seed": 7}}).variants.models["magnitude"]
    assert (own.epochs, own.seed) == (9, 7)


def test_a_lineage_starts_with_the_teacher(load):
    steps = load({}).variants.lineage("distilled-ort-int8")
    assert [step["stage"] for step in steps] == ["teacher", "distill", "export", "quantize"]
    assert [step["name"] for step in steps] == ["teacher", "distilled", "distilled-ort", "distilled-ort-int8"]
    assert (steps[1]["alpha"], steps[3]["method"]) == (0.1, "dynamic")


def test_a_general_student_is_part_of_a_lineage_and_keeps_its_seed(load):
    variants = load({"seed": 3}).variants
    assert [step["name"] for step in variants.lineage("from-general")] == [
        "teacher", "general", "from-general",
    ]  # fmt: skip
    assert variants.models["general"].seed == 0
    assert variants.models["from-general"].seed == 3


def test_a_student_from_the_hub_learns_no_layers(load):
    hub = {"init": "hub", "model": "x", "freeze_embeddings": False}
    with pytest.raises(UserError, match="token by token, and a student from the hub has its own"):
        load({"distill.student": hub, "distill.hidden": 1.0})
    with pytest.raises(UserError, match="from-general has parent 'general', which is the student"):
        load({"distill.student": hub})


@pytest.mark.parametrize(
    ("stage", "line", "message"),
    [
        (
            "structured",
            {**KD, "heads": 0.5, "feed_forward": 0.5},
            "structured.later would train early on, whose exits were chosen for its weights: give it the",
        ),
        ("export", {"method": "traced"}, "export.later would lose the exits of early: remove method: traced"),
    ],
)
def test_exits_come_last_of_trainings(load, stage, line, message):
    exits = {"early": {**KD, "parent": "distilled", "layers": [2, 0]}}
    assert load({"variants.exits": exits}).variants.models["early"].layers == [0, 2]
    smaller = {"parent": "early", "vocab_size": 0}
    later = {**line, "parent": "smaller"}
    changes = {"variants.vocabulary.smaller": smaller, f"variants.{stage}.later": later}
    with pytest.raises(UserError, match=message):
        load({"variants.exits": exits, **changes})


def test_one_exit_a_layer(load):
    with pytest.raises(UserError, match=r"variants.exits.early: layers are \[1, 1\]: each may have one exit"):
        load({"variants.exits": {"early": {**KD, "parent": "distilled", "layers": [1, 1]}}})


def test_a_stage_without_models_may_be_left_out(load):
    rows = {"teacher": "table"}
    p = load({"variants.pack": REMOVED, "variants.rows": rows, "load_test.scenarios": [ONE]})
    assert "pack" not in p.variants.stages.values()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        # out of range, of another type, not finite
        ("distill.alpha", 1.5, "distill.alpha is 1.5: should be less than or equal to 1"),
        ("distill.alpha", float("nan"), "distill.alpha is nan: "),
        ("distill.temperature", 0, "distill.temperature is 0: "),
        ("distill.temperature", "4", "distill.temperature is '4': "),
        ("distill.epochs", 2.5, "distill.epochs is 2.5: "),
        ("distill", None, "distill is None: "),
        ("prune.sparsity", 1.0, "prune.sparsity is 1.0: "),
        ("prune.begin", 0.7, "magnitude: begin (0.7) must be less than end (0.7)"),
        ("prune.threshold", 0.5, "prune.threshold is 0.5: "),
        ("structured.begin", 0.8, "structured: begin (0.8) must be less than end (0.7)"),
        ("structured.fine_tuning.epochs", 0, "structured.fine_tuning.epochs is 0: "),
        ("quantize.ranges", "mean", "quantize.ranges is 'mean': "),
        ("calibrate.scores", [], "calibrate.scores is []: "),
        ("calibrate.scores", ["energy", "entropy"], "calibrate.scores.1 is 'entropy': "),
        ("calibrate.out_of_scope_share", 1.0, "calibrate.out_of_scope_share is 1.0: "),
        ("benchmark.batch_sizes", [1, 0], "benchmark.batch_sizes.1 is 0: "),
        (
            "benchmark.reference_every",
            13,
            "benchmark: reference_every (13) must be at most queries (12): the reference answers in every",
        ),
        (
            "report.published",
            [{"label": "x", "accuracy": 91.5, "source": "y"}],
            "report.published.0.accuracy is",
        ),
        ("headline", {}, "headline is {}: "),
        ("headline.fast.size_mb", 0, "headline.fast.size_mb is 0: "),
        ("headline.fast.size", 8, "headline.fast: no parameter 'size' here; there are size_mb, speedup, "),
        (
            "benchmark.reference.hidden_size",
            770,
            "hidden_size (770) must be a multiple of num_attention_heads",
        ),
        ("teacher.model", "???", "cannot be read: Missing mandatory value: model full_key: teacher.model"),
        ("seed", 2**32, "seed is 4294967296: "),
        ("data.max_length", 7, "data.max_length is 7: "),
        ("distill.student.layers", [], "distill.student.layers is []: "),
        ("distill.student.layers", [0, -1], "distill.student.layers.1 is -1: "),
        ("variants.distill.distilled.layers", [-1], "variants.distill.distilled.layers.0 is -1: "),
        ("variants.distill.distilled.seed", -1, "variants.distill.distilled.seed is -1: "),
        ("variants.prune.magnitude.sparsity", 1.0, "variants.prune.magnitude.sparsity is 1.0: "),
        (
            "variants.vocabulary.structured-vocabulary.vocab_size",
            -1,
            "variants.vocabulary.structured-vocabulary.vocab_size is -1: ",
        ),
        ("search.space", {}, "search.space is {}: "),
        ("search.space.distill.alpha", 0.5, "search.space.distill.alpha is 0.5: "),
        ("search.space.distill.alpha.low", 1.0, "low (1.0) must be less than high (1.0)"),
        ("load_test.scenarios", [ONE, ONE], "load_test.scenarios: the names one, one should differ"),
        ("load_test.scenarios", {"one": {}}, "load_test.scenarios: should be a list of scenarios, each with"),
        ("load_test.scenarios", [{**ONE, "model": "x"}], "load_test.scenarios: one has model 'x', which is"),
        ("data.out_of_scope_weight", 0, "data.out_of_scope_weight is 0: "),
        ("data.outliers", [{"weight": 1.0}], "data.outliers.0.path is missing"),
        ("data.outliers", [{"path": "x", "held_out": 1.0}], "data.outliers.0.held_out is 1.0: "),
        ("data.outliers", [{"path": "x", "max_similarity": 2}], "data.outliers.0.max_similarity is 2: "),
        (
            "data.outliers",
            [{"path": "mine/a.txt"}],
            "data: outliers has mine/a.txt, and DVC watches stages/data/near_misses: set outliers_path to",
        ),
        # misspelt
        ("epochs", 3, f"no parameter 'epochs' here; there are {TOP}"),
        ("distill.epoch", 3, "distill: no parameter 'epoch' here; there are epochs, batch_size, "),
        ("variants.clip", {}, "variants: no parameter 'clip' here; there are general, distill, "),
        ("variants.distill.distilled.alfa", 0.5, "variants.distill.distilled: no parameter 'alfa' here; "),
        ("data.hub", "clinc_oos", "data: no parameter 'hub' here; there are path, out_of_scope, "),
        (
            "distill.student.model",
            "x",
            "distill.student: no parameter 'model' here; there are init, layers, ",
        ),
        ("benchmark.reference.layers", 12, "benchmark.reference: no parameter 'layers' here; "),
        # unknown
        ("data.source", "web", "data.source is 'web': should be one of 'sample', 'clinc150', 'files', 'hub'"),
        ("distill.student.init", "x", "distill.student.init is 'x': should be one of 'teacher-layers', "),
        ("variants.prune.magnitude.parent", "x", f"variants: there is no model 'x'; there are {MODELS}"),
        ("variants.rows.x", "table", f"variants: there is no model 'x'; there are {MODELS}"),
        ("variants.rows.distilled", "row", "variants.rows.distilled is 'row': "),
        (
            "variants.prune.magnitude.method",
            "magnitude",
            "method is 'magnitude': should be one of magnitude-",
        ),
        (
            "variants.quantize.static",
            {"parent": "distilled-ort", "method": "static", "ranges": "x"},
            "variants.quantize.static.ranges is 'x': ",
        ),
        # of another method of the technique
        ("variants.prune.magnitude.penalty", 1.0, "variants.prune.magnitude: no parameter 'penalty' here; "),
        (
            "variants.prune.magnitude.method",
            "movement-soft",
            "no parameter 'sparsity' here; there are parent, ",
        ),
        ("variants.prune.magnitude", None, "variants.prune.magnitude is None: should be a table"),
        # the layers' losses
        ("distill.hidden", -1.0, "distill.hidden is -1.0: "),
        ("general.hidden", 0.0, "general.hidden is 0.0: should be greater than 0"),
        ("variants.general.general.parent", "distilled", "general.parent is 'distilled': "),
        ("variants.general.general.layers", REMOVED, "variants.general.general.layers is missing"),
        ("variants.rows.general", "table", "variants: rows has 'general', which has no head yet: "),
        (
            "variants.prune.magnitude.parent",
            "general",
            "variants: magnitude has parent 'general', which has no head yet: distill it first",
        ),
        (
            "variants.distill.from-general.layers",
            [0],
            "variants: from-general has parent 'general', which is the student: remove `layers`",
        ),
        # missing
        ("seed", REMOVED, "seed is missing"),
        ("distill", REMOVED, "distill.epochs is missing"),
        ("data.source", REMOVED, "data.source is missing"),
        ("distill.student.layers", REMOVED, "distill.student.layers is missing"),
        ("variants.prune.magnitude.sparsity", REMOVED, "variants.prune.magnitude.sparsity is missing"),
        ("variants.prune.magnitude.method", REMOVED, "variants.prune.magnitude.method is missing"),
        # teachers and unlabelled text
        (
            "teachers.teacher",
            {"seed": 1},
            "teachers.teacher should be {}: its settings are those of `teacher`",
        ),
        ("teachers.other", 3, "teachers.other is 3: should be a table"),
        ("teachers.other", {"epoch": 3}, "teachers.other: no parameter 'epoch' here; there are epochs, "),
        ("teachers.other", {"freeze_encoder": True}, "nothing to train in 3 epochs: set epochs to 0"),
        ("teachers.distilled", {}, "variants.distill.distilled: the name 'distilled' is taken"),
        (
            "distill.unlabelled",
            True,
            "distilled has unlabelled: true, and data.unlabelled names no text: set",
        ),
        (
            "data.unlabelled.files",
            ["a.txt"],
            "files has a.txt, and DVC watches stages/data/unlabelled.py: set",
        ),
        # the variants as a whole
        ("variants.rows.teacher", "sweep", "variants: rows must have 'teacher: table', which the others are"),
        ("variants.export.distilled", {"parent": "teacher"}, "distilled: the name 'distilled' is taken"),
        ("variants.export.teacher", {"parent": "distilled"}, "teacher: the name 'teacher' is taken"),
        ("variants.export.A B", {"parent": "teacher"}, "'A B': "),
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
    "changes", [{"outliers": [{"path": "stages/data/x.txt"}]}, {"out_of_scope_weight": 4.0}]
)
def test_outliers_need_a_label(load, changes):
    values = {f"data.{key}": value for key, value in changes.items()}
    load(values)
    with pytest.raises(UserError, match=r"data: out_of_scope is null, and outliers .*: name their label, or"):
        load(values | {"data.out_of_scope": None})


def test_dvc_watches_the_first_of_the_outliers():
    one, folder = "data.outliers=[{path: mine/a.txt}]", "data.outliers_path=mine"
    two = "data.outliers=[{path: mine/a.txt}, {path: mine/b.txt, weight: 2}, {path: stages/data/c.txt}]"
    assert settings.compose(["data=files", one]).data.outliers_path == "mine/a.txt"
    assert settings.compose(["data=files", two, folder]).data.outliers[1].weight == 2.0
    with pytest.raises(UserError, match=r"outliers has mine/b.txt, and DVC watches mine/a.txt: set"):
        settings.compose(["data=files", two])
    assert settings.compose(["data=sample"]).data.outliers == []
    assert settings.compose(["experiment=book"]).data.outliers == []
    (near,) = settings.compose(["experiment=clinc150"]).data.outliers
    assert (near.weight, near.held_out, near.max_similarity) == (1.0, 0.1, None)
    assert Path(near.path).exists()


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
        settings.load()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^params.yaml is missing: run from the repository's root$"):
        settings.load()


def test_a_teacher_has_the_settings_of_the_first_and_its_own(load):
    p = load({"teachers.other": {"seed": 7, "epochs": 1}, "variants.rows.other": "table"})
    assert [*p.teachers] == ["teacher", "other"] == p.variants.teachers
    first, other = p.teachers.values()
    assert (first.seed, first.epochs, other.seed, other.epochs) == (0, 3, 7, 1)
    assert first.model_dump(exclude={"seed"}) == p.teacher.model_dump()
    assert p.variants.lineage("other") == [{"stage": "teacher", "name": "other"}]


def test_integers_and_short_exponents_are_numbers(load):
    p = load({"distill.temperature": 4, "distill.alpha": 1, "teacher.weight_decay": 0})
    assert p.distill.temperature == 4.0 and isinstance(p.distill.temperature, float)
    text, rate = Path("params.yaml").read_text(), p.distill.learning_rate
    for short, number in (("1e-4", 1e-4), ("2E-5", 2e-5)):
        Path("params.yaml").write_text(text.replace(str(rate), short))
        assert settings.load().distill.learning_rate == number


def test_params_are_frozen(load):
    p = load({})
    for section, key in ((p, "seed"), (p.data, "path"), (p.variants.models["magnitude"], "sparsity")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, 0)


def test_a_teachers_folder_is_watched(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert settings.compose(["teacher=own", "teacher.model=user/name"]).teacher.path == watched.ELSEWHERE
    own = ["teacher=own", f"teacher.model={tmp_path}"]
    assert settings.compose(own).teacher.path == str(tmp_path)
    with pytest.raises(UserError, match=rf"teacher\.path is 'elsewhere': should be '{tmp_path}'"):
        settings.compose([*own, "teacher.path=elsewhere"])


@pytest.mark.parametrize("layers", ["middle-2", "first-0", "spaced", "first-x"])
def test_layers_by_no_rule(monkeypatch, layers):
    monkeypatch.chdir(ROOT)
    assert settings.compose(["distill.student.layers=spaced-2"])
    with pytest.raises(UserError, match=r"distill\.student\.layers is ") as caught:
        settings.compose([f"distill.student.layers={layers}"])
    assert "\n" not in str(caught.value)
