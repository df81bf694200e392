"""What a process costs that only serves one model.

    python -m stages.measurement.footprint calibrated/distilled-ort-int8 "my balance"

prints a JSON object once it has answered, with its peak memory.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def start(folder: Path, query: str) -> dict[str, float]:
    """Start such a process.

    `start_s` is the time to its first answer, imports included; `peak_mb` is the most memory it had, in
    MB of 2^20 bytes.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, str(folder), query], stdout=subprocess.PIPE, text=True
    )
    line = process.stdout.readline()
    seconds = time.perf_counter() - began
    if process.wait() != 0:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return {"start_s": seconds, "peak_mb": json.loads(line)["peak_mb"]}


def main(folder: str, query: str) -> None:
    from stages import runtime

    runtime.load(folder).predict([query])
    print(json.dumps({"peak_mb": peak_mb()}), flush=True)


def peak_mb() -> float:
    """Of this process alone: on Linux, ru_maxrss is no less than that of the process it was forked from."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes


if __name__ == "__main__":
    main(*sys.argv[1:])
