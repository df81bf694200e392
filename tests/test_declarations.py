"""dvc.yaml, settings.yaml and conf/ say what the code does."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from imports import modules
from omegaconf import OmegaConf

from stages.core import settings
from stages.techniques.settings import TECHNIQUES, Training

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose("config", overrides=list(overrides))
    OmegaConf.resolve(config)
    return OmegaConf.to_yaml(config)


VALUES = yaml.safe_load(composed("variants=all"))  # which has every technique


def test_params_yaml_is_the_composed_conf():
    assert composed() == (ROOT / "params.yaml").read_text(), "run: dvc exp run, or compose conf/ anew"


@pytest.mark.parametrize(
    "overrides",
    [
        [f"{path.parent.name}={path.stem}"]
        for path in sorted((ROOT / "conf").glob("*/*.yaml"))
        # These go with the scenarios of an experiment; `training` is chosen by section.
        if f"{path.parent.name}={path.stem}"
        not in (*("variants=fast", "variants=headline", "variants=own", "variants=smoke"),)
        and path.parent.name != "training"
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_config_is_valid(overrides, tmp_path):
    text = composed(*overrides)
    assert "???" not in text
    (tmp_path / "params.yaml").write_text(text)
    settings.load(tmp_path / "params.yaml")


def test_a_teacher_of_the_group_joins_the_first(monkeypatch):
    monkeypatch.chdir(ROOT)
    p = settings.compose(["+teacher@teachers.mpnet=mpnet", "+teachers.seed-1.seed=1"])
    assert [*p.teachers] == ["teacher", "mpnet", "seed-1"]
    assert (p.teachers["mpnet"].freeze_encoder, p.teachers["seed-1"].seed) == (True, 1)
    assert p.teachers["seed-1"].model == p.teacher.model != p.teachers["mpnet"].model


def definition(stage: str) -> dict:
    return STAGES[stage].get("do", STAGES[stage])


# `general` makes a model of none of ours, so it has a script of its own.
COMPRESSING = {*TECHNIQUES} - {"general"}


def entries(stage: str) -> list[str]:
    """The module that dvc.yaml runs, and the technique that it imports by name."""
    if stage in COMPRESSING:
        return ["stages/compress.py", f"stages/techniques/{stage}.py"]
    if stage in TECHNIQUES:
        return [f"stages/{stage}.py", f"stages/techniques/{stage}.py"]
    return [f"stages/{stage}.py"]


IGNORED = set((ROOT / ".dvcignore").read_text().replace("\n/", "\n").splitlines())
# The load test starts the service as a process of its own.
STARTED = {"load_test": ["stages/commands/__main__.py", "stages/commands/serve.py"]}


@pytest.mark.parametrize("stage", STAGES)
def test_every_import_lies_under_a_dep_and_every_dep_is_imported(stage):
    deps = {dep for dep in definition(stage)["deps"] if dep.startswith("stages/")}
    imports = modules(*entries(stage), *STARTED.get(stage, []), root=ROOT) - IGNORED
    under = {path: {dep for dep in deps if path == dep or path.startswith(dep + "/")} for path in imports}
    assert not [path for path in imports if not under[path]], "imported, and under no dep"
    assert deps == set().union(*under.values()), "deps that nothing imports"


@pytest.mark.parametrize("stage", STAGES)
def test_a_change_of_a_technique_or_a_report_leaves_the_others_alone(stage):
    """Trainings and evaluations, which take hours on real data, depend on no folder of others' code."""
    deps = definition(stage)["deps"]
    assert "stages/techniques" not in deps
    if stage in (*TECHNIQUES, "teacher", "evaluate"):
        apart = ("stages/reporting", "stages/serving", "stages/commands", "stages/measurement/speed")
        assert not [dep for dep in deps if dep.startswith(apart) or dep == "stages/measurement"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_its_module(stage):
    trains = stage in TECHNIQUES and issubclass(TECHNIQUES[stage][0], Training)
    launcher = "${launch.command}" if trains else "python"
    module = f"compress {stage}" if stage in COMPRESSING else stage
    key = " ${key}" if "foreach" in STAGES[stage] else ""
    assert definition(stage)["cmd"] == f"{launcher} -m stages.{module}{key}"


def test_every_technique_is_a_stage_with_an_empty_table():
    assert set(TECHNIQUES) <= set(STAGES)
    (empty,) = yaml.safe_load((ROOT / "dvc.yaml").read_text())["vars"]
    assert empty == {"variants": {stage: {} for stage in TECHNIQUES}}


def test_what_dvc_yaml_runs_and_nothing_else():
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert scripts == (set(STAGES) - COMPRESSING) | {"compress"}


@pytest.mark.parametrize("stage", STAGES)
def test_stages_are_thin_and_apart(stage):
    source = (ROOT / entries(stage)[0]).read_text()
    assert len(source.splitlines()) < 110
    others = {path for other in STAGES for path in entries(other)} - set(entries(stage))
    assert not others & modules(*entries(stage), root=ROOT)


METHODS = ("model_dump", "items")


class Reads(ast.NodeVisitor):
    """Collects what is read of `p`, the loaded settings: "data.max_length" for p.data.max_length."""

    def __init__(self):
        self.chains = set()

    def visit_Attribute(self, node):
        chain = []
        inner = node
        while isinstance(inner, ast.Attribute):
            chain.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id == "p":
            while chain[-1] in METHODS:
                chain.pop()
            if chain[0] == "variants" and chain[1:] != ["rows"]:
                chain = ["variants", "rows"] if chain[1:] == ["table"] else ["variants"]
            if chain[0] == "teachers":  # which share what they do not set
                self.chains |= {"teacher", "seed"}
            self.chains.add(".".join(chain))
        else:
            self.generic_visit(node)


def leaves(chain: str) -> set[str]:
    """The values in the section `chain` of params.yaml; the variants of a technique count as one."""
    inner = VALUES
    for key in chain.split("."):
        inner = inner[key]
    if not isinstance(inner, dict) or chain.startswith("variants.") or chain == "distill.student":
        return {chain}
    return {leaf for key in inner for leaf in leaves(f"{chain}.{key}")}


def read_by(stage: str) -> set[str]:
    """The params that a stage reads: of a technique, its variants and what they share with its section."""
    if stage in TECHNIQUES:
        shared = {field for kind in TECHNIQUES[stage] for field in kind.shared()}
        top = {field for field in shared if field in VALUES}
        return {f"variants.{stage}", *top, *(leaf for f in shared - top for leaf in leaves(f"{stage}.{f}"))}
    reads = Reads()
    reads.visit(ast.parse((ROOT / f"stages/{stage}.py").read_text()))
    return {leaf for chain in reads.chains for leaf in leaves(chain)}


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_what_is_read(stage):
    params = [param.removesuffix(".${key}") for param in definition(stage).get("params", [])]
    assert {leaf for param in params for leaf in leaves(param)} == read_by(stage)


def keys(value) -> set[str]:
    """Every key of nested dicts."""
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys(inner) for inner in value.values()))


@pytest.mark.parametrize("stage", STAGES)
def test_the_run_cache_sees_every_param(stage):
    """It leaves out keys of these names, wherever they are: a change of one would give the old outputs."""
    chains = [param.removesuffix(".${key}").split(".") for param in definition(stage).get("params", [])]
    for chain in chains:
        inner = VALUES
        for key in chain:
            inner = inner[key]
        assert not {*chain, *keys(inner)} & {"size", "nfiles"}, chain


@pytest.mark.parametrize("stage", [stage for stage in STAGES if "foreach" in STAGES[stage]])
def test_each_variant_depends_on_its_own_values_and_parent(stage):
    """One stage an entry of conf/variants/ or of `teachers`, which no change to another entry runs again."""
    if STAGES[stage]["foreach"] in ("${variants.rows}", "${teachers}"):
        params = definition(stage).get("params", [])
        assert not {"variants", "teachers"} & {param.removesuffix(".rows") for param in params}
        return
    assert STAGES[stage]["foreach"] == f"${{variants.{stage}}}"
    assert f"variants.{stage}.${{key}}" in definition(stage)["params"]
    assert ("models/${item.parent}" in definition(stage)["deps"]) == (stage in COMPRESSING)
    assert definition(stage)["outs"] == ["models/${key}"]


def test_what_is_imported_is_installed():
    """Every module that stages/ imports comes with a dependency of the package or of a command."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {
        re.split(r"[=<>\[ ]", line)[0].lower() for line in [*project["dependencies"], *extras["search"]]
    }
    distributions = importlib.metadata.packages_distributions()
    # A peer's packages are its REQUIRES, whose installation its tests hold.
    for path in {*(ROOT / "stages").rglob("*.py")} - {*(ROOT / "stages" / "peers").glob("*.py")}:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"stages"}:
                assert {name.lower().replace("_", "-") for name in distributions[top]} & declared, (
                    f"{path} imports {top}"
                )
