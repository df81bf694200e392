"""Factorised embeddings: a narrow row for each word, and one projection to the encoder's width.

ALBERT's factorised embedding parameterization (Lan et al., 2020, arXiv:1909.11942, section 3.1), made of
whole embeddings and then distilled. When served, each token costs one more product, of rank x width.
"""

from pathlib import Path

import numpy as np
import torch

from stages.checkpoints import encoder
from stages.core.errors import UserError
from stages.data import tables
from stages.techniques.settings import Factorize
from stages.training import loop
from stages.training.distillation import distil


def apply(parent: Path, folder: Path, settings: Factorize) -> dict:
    """Write into `folder` the torch model `parent`, factorised and trained; returns its `history`.

    Also `variance`, the share that the rank keeps of the embeddings of the training queries' pieces.
    """
    model = encoder.load(parent)
    table = encoder.words(model).weight.detach().numpy()
    if encoder.embedding_rank(model) or settings.rank >= table.shape[1]:
        raise UserError(
            f"factorize: rank is {settings.rank}, and {parent.name} has embeddings of {table.shape[1]}: "
            "choose a lower rank"
        )
    pieces = [example["input_ids"] for example in loop.encode(tables.read("train"), parent)]
    counts = np.bincount(torch.cat(pieces), minlength=len(table))
    rows, projection = factors(table, counts, settings.rank)
    words = encoder.factorise(model, settings.rank)
    words.weight.data = torch.from_numpy(rows)
    words.projection.weight.data = torch.from_numpy(projection)
    kept, whole = (counts @ np.square(values).sum(axis=1) for values in (rows, table))
    encoder.freeze_embeddings(model, settings.freeze_embeddings)
    history = distil(model, parent, folder.name, settings)
    model.save_pretrained(folder)
    return {"history": history, "variance": float(kept / whole)}


def factors(table: np.ndarray, counts: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, shape (pieces, rank), and a projection, (width, rank), whose product is near `table`.

    Of all of that rank it has the least squared error, each piece's weighed by its count and one more: the
    projection has the right singular vectors of the weighted table, as orthonormal columns.
    """
    weighted = np.sqrt(counts + 1)[:, None] * table.astype(np.float64)
    _, vectors = np.linalg.eigh(weighted.T @ weighted)  # the largest eigenvalues last
    projection = vectors[:, : -rank - 1 : -1].astype(np.float32)
    return table @ projection, np.ascontiguousarray(projection)
