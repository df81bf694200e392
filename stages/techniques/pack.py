"""Sparse storage: the zeros of a model are not stored."""

from pathlib import Path

from stages.checkpoints import sparse_storage
from stages.techniques.settings import Pack


def apply(parent: Path, folder: Path, settings: Pack) -> dict:
    """Write into `folder` the packed model of `parent`; returns its `bytes`, by format."""
    return {"bytes": sparse_storage.pack(parent, folder)}
