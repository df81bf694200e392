"""dvc.yaml, params.yaml and conf/ say what the code does."""

import ast
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from imports import modules
from omegaconf import OmegaConf

from stages import params

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose("config", overrides=list(overrides))
    OmegaConf.resolve(config)
    return OmegaConf.to_yaml(config)


def test_params_yaml_is_the_composed_conf():
    assert composed() == (ROOT / "params.yaml").read_text(), "run: dvc exp run, or compose conf/ anew"


@pytest.mark.parametrize(
    "overrides",
    [[f"{path.parent.name}={path.stem}"] for path in sorted((ROOT / "conf").glob("*/*.yaml"))],
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
    key = {"evaluate": " ${item}"}.get(stage, " ${key}") if "foreach" in STAGES[stage] else ""
    assert definition["cmd"] == f"python -m stages.{stage}{key}"


@pytest.mark.parametrize("stage", STAGES)
def test_stages_are_thin_and_apart(stage):
    source = (ROOT / "stages" / f"{stage}.py").read_text()
    assert len(source.splitlines()) < 100
    others = {f"stages/{other}.py" for other in STAGES} - {f"stages/{stage}.py"}
    assert not others & modules(f"stages/{stage}.py", ROOT)


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
            self.chains.add(".".join(chain).removesuffix(".model_dump"))
        else:
            self.generic_visit(node)


# What a stage takes from its own variant, whatever the section of that name says.
FROM_VARIANT = {"distill": {"distill.alpha", "distill.temperature"}, "prune": {"prune.sparsity"}}


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_what_is_read(stage):
    definition = STAGES[stage].get("do", STAGES[stage])
    declared = {param.replace(".${key}", "") for param in definition.get("params", [])}
    reads = Reads()
    reads.visit(ast.parse((ROOT / "stages" / f"{stage}.py").read_text()))
    read = reads.chains
    config = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section in FROM_VARIANT:
        if section in read:
            read.remove(section)
            read |= {f"{section}.{key}" for key in config[section]} - FROM_VARIANT[section]
    # A part of a section that is read as a whole needs no line of its own.
    read = {chain for chain in read if not any(chain.startswith(whole + ".") for whole in read)}
    assert declared == read
