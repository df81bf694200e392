"""Quantization to int8, dynamic or static."""

from pathlib import Path

from stages.data import tables
from stages.techniques import dynamic_int8
from stages.techniques.settings import DynamicInt8, StaticInt8


def apply(parent: Path, folder: Path, settings: DynamicInt8 | StaticInt8) -> dict:
    """Write into `folder` the int8 model of `parent`."""
    if isinstance(settings, DynamicInt8):
        dynamic_int8.quantize(
            parent, folder, settings.per_channel, settings.reduce_range, settings.embedding_bits
        )
        return {"scales_by_batch": True}
    from stages.techniques import static_int8

    train = tables.read("train")["text"]
    texts = train.sample(min(settings.range_queries, len(train)), random_state=settings.seed)
    return static_int8.quantize(
        parent, folder, texts.tolist(), settings.ranges, settings.per_channel, settings.reduce_range
    )
