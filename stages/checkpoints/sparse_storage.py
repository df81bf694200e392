"""Sparse storage: a model's file with its zeros left out, given back to the byte.

`<file>.sparse` stands for `<file>`, model.onnx or model.safetensors. It is a safetensors file of
byte strings, each a zlib stream:

| key          | what                                                                              |
|--------------|-----------------------------------------------------------------------------------|
| `index`      | JSON: the file's CRC-32 and, in its order, where each tensor cut from it was      |
| `rest`       | the file's other bytes: its header or graph, and tensors under 512 bytes          |
| `<t>.mask`   | of tensor t, a bit an entry, 0 where the entry is its most frequent value         |
| `<t>.values` | of tensor t, the entries left, lowest byte of each first, then the next bytes     |

A tensor whose mask would not pay has none. Entries are compared as bits, whatever their type.
"""

import json
import math
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from stages.core.errors import UserError

FILES = ("model.onnx", "model.safetensors")
SUFFIX = ".sparse"
SMALL = 512  # bytes; a tensor under it would hardly pay for its entry in the index


class Span(NamedTuple):
    """Where a tensor's bytes are in a file; `width` is of an entry, `columns` of its last axis."""

    name: str
    start: int
    size: int
    width: int
    columns: int


def pack(parent: Path, folder: Path) -> dict[str, int]:
    """Write `<file>.sparse` of `parent`'s model.onnx or model.safetensors, and its config.json.

    Returns `sizes(parent)`.
    """
    file = _model_file(parent)
    packed, measured = _packed(file)
    (folder / (file.name + SUFFIX)).write_bytes(packed)
    shutil.copyfile(parent / "config.json", folder / "config.json")
    return measured


def sizes(parent: Path) -> dict[str, int]:
    """Bytes of the model's file as it is and in each lossless format; "packed" is what `pack` writes.

    "csr" has all but each tensor's most frequent value, with 16-bit columns (32-bit from 65536 on)
    and 32-bit row pointers; "bitmask" is what `pack` has before zlib. Both have no headers of
    their own, and tensors dense where that is smaller. "zlib" is the dense file, deflated.
    """
    return _packed(_model_file(parent))[1]


def unpack(file: Path) -> bytes:
    """The bytes of the packed model.onnx or model.safetensors; a UserError if `file` is damaged."""
    try:
        return _unpacked(safetensors.numpy.load_file(file))
    except (SafetensorError, zlib.error, ValueError, TypeError, LookupError, OverflowError) as error:
        raise UserError(f"{file} is damaged ({error}); dvc repro, or dvc pull, makes it anew") from error


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """The state dict of the torch classifier (fp32) in the model folder, packed or not."""
    packed, plain = folder / "model.safetensors.sparse", folder / "model.safetensors"
    if packed.exists():
        return safetensors.numpy.load(unpack(packed))
    if plain.exists():
        return safetensors.numpy.load_file(plain)
    raise UserError(f"{folder} holds no torch weights in fp32: choose as parent a model before its export")


def _model_file(parent: Path) -> Path:
    for name in FILES:
        if (parent / name).exists():
            return parent / name
    raise UserError(f"{parent} has neither {' nor '.join(FILES)}, which sparse storage is for")


def _packed(file: Path) -> tuple[bytes, dict[str, int]]:
    data = file.read_bytes()
    spans = list(_onnx_spans(data) if file.suffix == ".onnx" else _safetensors_spans(data))
    streams, index, rest, end = {}, [], [], 0
    bitmask = csr = len(data)
    for span in spans:
        entries = np.frombuffer(data, f"<u{span.width}", span.size // span.width, span.start)
        fill, mask, values = _without_frequent(entries)
        index.append([span.name, span.start, span.size, span.width, fill])
        streams[f"{span.name}.mask"] = _stream(mask)
        streams[f"{span.name}.values"] = _stream(values.view(np.uint8).reshape(-1, span.width).T.tobytes())
        rest.append(data[end : span.start])
        end = span.start + span.size
        bitmask -= span.size - len(mask) - values.nbytes
        csr -= max(0, span.size - _csr_bytes(values, entries.size, span.columns))
    streams["rest"] = _stream(b"".join([*rest, data[end:]]))
    streams["index"] = _stream(json.dumps([zlib.crc32(data), index]).encode())
    packed = safetensors.numpy.save({k: np.frombuffer(s, np.uint8) for k, s in streams.items()})
    measured = {"dense": len(data), "zlib": len(zlib.compress(data)), "csr": csr, "bitmask": bitmask}
    return packed, {**measured, "packed": len(packed)}


def _unpacked(streams: dict[str, np.ndarray]) -> bytes:
    def stream(key: str, size: int = 2**16) -> bytes:
        return zlib.decompress(streams[key].data, bufsize=size)

    checksum, index = json.loads(stream("index"))
    rest = memoryview(stream("rest"))
    pieces: list[Any] = []
    end = 0
    for name, start, size, width, fill in index:
        planes = np.frombuffer(stream(f"{name}.values", size), np.uint8).reshape(width, -1)
        values = np.ascontiguousarray(planes.T).view(f"<u{width}").ravel()
        pieces += [rest[: start - end], _with_frequent(size // width, fill, stream(f"{name}.mask"), values)]
        rest = rest[start - end :]
        end = start + size
    data = b"".join([*pieces, rest])
    if zlib.crc32(data) != checksum:
        raise ValueError("its checksum is another")
    return data


def _without_frequent(values: np.ndarray) -> tuple[int | None, bytes, np.ndarray]:
    """The most frequent value, the bits of its mask, and the other entries.

    No value, no mask and all entries where the mask takes more bytes than it saves.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if (counts.max() - 1) * values.itemsize <= -(-values.size // 8):
        return None, b"", values
    fill = distinct[counts.argmax()]
    kept = values != fill
    return int(fill), np.packbits(kept).tobytes(), values[kept]


def _with_frequent(count: int, fill: int | None, mask: bytes, values: np.ndarray) -> np.ndarray:
    """The `count` entries of which `_without_frequent` made `fill`, `mask` and `values`."""
    if fill is None:
        return values
    full = np.full(count, fill, values.dtype)
    kept = np.unpackbits(np.frombuffer(mask, np.uint8), count=count).view(bool)
    full[np.flatnonzero(kept)] = values  # by index: at 60 % zeros, four times faster than by mask
    return full


def _csr_bytes(kept: np.ndarray, size: int, columns: int) -> int:
    """Bytes of the `kept` of `size` entries in compressed sparse rows."""
    column_bytes = 2 if columns <= 2**16 else 4
    return kept.size * (kept.itemsize + column_bytes) + 4 * (size // columns + 1)


def _stream(data: bytes) -> bytes:
    """A zlib stream of run lengths and Huffman codes, deflated only if that saves a tenth."""
    compressor = zlib.compressobj(strategy=zlib.Z_RLE)
    deflated = compressor.compress(data) + compressor.flush()
    return deflated if len(deflated) < 0.9 * len(data) else zlib.compress(data, 0)


def _safetensors_spans(data: bytes) -> Iterator[Span]:
    """As github.com/huggingface/safetensors has it: the header's length, the header, the tensors."""
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = tensor["data_offsets"]
        if end - start >= SMALL:
            yield _span(name, begin + start, end - start, tensor["shape"])


def _onnx_spans(data: bytes) -> Iterator[Span]:
    """The initializers' raw bytes, looked up in the file in its order."""
    import onnx

    end = 0
    for tensor in onnx.load_model_from_string(data).graph.initializer:
        size = len(tensor.raw_data)
        if size >= SMALL and (start := data.find(tensor.raw_data, end)) >= 0:
            end = start + size
            yield _span(tensor.name, start, size, list(tensor.dims))


def _span(name: str, start: int, size: int, shape: list[int]) -> Span:
    width = size // math.prod(shape)
    return Span(name, start, size, width if width in (1, 2, 4, 8) else 1, shape[-1])
