"""dvc.yaml, params.yaml and conf/ say what the code does."""

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

from stages import params

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
VALUES = yaml.safe_load((ROOT / "params.yaml").read_text())


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose("config", overrides=list(overrides))
    OmegaConf.resolve(config)
    return OmegaConf.to_yaml(config)


def test_params_yaml_is_the_composed_conf():
    assert composed() == (ROOT / "params.yaml").read_text(), "run: dvc exp run, or compose conf/ anew"


@pytest.mark.parametrize(
    "overrides",
    [
        [f"{path.parent.name}={path.stem}"]
        for path in sorted((ROOT / "conf").glob("*/*.yaml"))
        if path.stem != "headline"  # it goes with the scenarios of experiment=clinc150-seeds
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_config_is_valid(overrides, tmp_path):
    text = composed(*overrides)
    assert "???" not in text
    (tmp_path / "params.yaml").write_text(text)
    params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_imports(stage):
    definition = STAGES[stage].get("do", STAGES[stage])
    declared = {dep for dep in definition["deps"] if dep.endswith(".py")}
    assert declared == modules(f"stages/{stage}.py", ROOT)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_its_module(stage):
    definition = STAGES[stage].get("do", STAGES[stage])
    key = " ${key}" if "foreach" in STAGES[stage] else ""
    launcher = "${launch.command}" if stage == "distill" else "python"
    assert definition["cmd"] == f"{launcher} -m stages.{stage}{key}"


@pytest.mark.parametrize("stage", STAGES)
def test_stages_are_thin_and_apart(stage):
    source = (ROOT / "stages" / f"{stage}.py").read_text()
    assert len(source.splitlines()) < 100
    others = {f"stages/{other}.py" for other in STAGES} - {f"stages/{stage}.py"}
    assert not others & modules(f"stages/{stage}.py", ROOT)


METHODS = ("model_dump", "model_copy", "items")
PROPERTIES = {"variants.table": "variants.rows"}


class Reads(ast.NodeVisitor):
    """Collects what is read of `p`, the loaded params: "data.max_length" for p.data.max_length."""

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
            self.chains.add(PROPERTIES.get(".".join(chain), ".".join(chain)))
        else:
            self.generic_visit(node)


# What a stage takes from its own variant, whatever the section of that name says.
FROM_VARIANT = {
    "distill": {"distill.alpha", "distill.temperature"},
    "prune": {"prune.sparsity"},
    "structured": {"structured.heads", "structured.feed_forward"},
}


def leaves(chain: str) -> set[str]:
    """The values in the section `chain` of params.yaml; the variants of a technique count as one."""
    inner = VALUES
    for key in chain.split("."):
        inner = inner[key]
    if not isinstance(inner, dict) or chain.startswith("variants."):
        return {chain}
    return {leaf for key in inner for leaf in leaves(f"{chain}.{key}")}


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_what_is_read(stage):
    definition = STAGES[stage].get("do", STAGES[stage])
    declared = {leaf for param in definition["params"] for leaf in leaves(param.removesuffix(".${key}"))}
    reads = Reads()
    reads.visit(ast.parse((ROOT / "stages" / f"{stage}.py").read_text()))
    read = set()
    for chain in reads.chains:
        read |= leaves(chain) - FROM_VARIANT.get(chain, set())
    assert declared == read


def keys(value) -> set[str]:
    """Every key of nested dicts."""
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys(inner) for inner in value.values()))


@pytest.mark.parametrize("stage", STAGES)
def test_the_run_cache_sees_every_param(stage):
    """It leaves out keys of these names, wherever they are: a change of one would give the old outputs."""
    read = STAGES[stage].get("do", STAGES[stage])["params"]
    chains = [param.removesuffix(".${key}").split(".") for param in read]
    for chain in chains:
        inner = VALUES
        for key in chain:
            inner = inner[key]
        assert not {*chain, *keys(inner)} & {"size", "nfiles"}, chain


@pytest.mark.parametrize("stage", [stage for stage in STAGES if "foreach" in STAGES[stage]])
def test_each_variant_depends_on_its_own_values_and_parent(stage):
    """One stage an entry of conf/variants/, which no change to another entry runs again."""
    definition = STAGES[stage]
    if definition["foreach"] == "${variants.rows}":
        assert not any(param.startswith("variants") for param in definition["do"]["params"])
        return
    assert definition["foreach"] == f"${{variants.{stage}}}"
    assert f"variants.{stage}.${{key}}" in definition["do"]["params"]
    assert "models/${item.parent}" in definition["do"]["deps"]
    assert definition["do"]["outs"] == ["models/${key}"]


def test_what_is_imported_is_installed():
    """Every module that stages/ imports comes with a dependency of the package itself, not of `dev`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[=<>\[ ]", line)[0].lower() for line in project["dependencies"]}
    distributions = importlib.metadata.packages_distributions()
    for path in (ROOT / "stages").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"stages"}:
                assert {name.lower().replace("_", "-") for name in distributions[top]} & declared, (
                    f"{path} imports {top}"
                )
