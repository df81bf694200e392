"""What a benchmark ran on."""

import os
import platform
from importlib import metadata
from pathlib import Path

INT8_INSTRUCTIONS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8")


def describe(threads: int) -> dict:
    """CPU, the instruction sets that matter to int8, cores, threads used, versions."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name", platform.processor()),
        "int8_instructions": [name for name in INT8_INSTRUCTIONS if name in flags],
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("torch", "onnxruntime", "tokenizers")},
    }
