"""A resolver of conf/: `${watched:name}` is what DVC watches of a model, its folder if it is one here."""

from pathlib import Path

from omegaconf import OmegaConf

# What stands for a model of the hub or of a package, which does not change.
ELSEWHERE = "stages/checkpoints/pretrained.py"


def watched(name: str) -> str:
    return name if Path(name).is_dir() else ELSEWHERE


OmegaConf.register_new_resolver("watched", watched, replace=True)
