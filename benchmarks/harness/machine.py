"""What the figures were measured on."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

PACKAGES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "torch",
    "transformers",
    "nvidia-modelopt",
    "tensorrt-rtx",
    "pyarrow",
    "duckdb",
    "evidently",
)
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")


def conditions() -> Mapping[str, object]:
    """Return date, CPU model, its integer instructions, cores, load and library versions."""
    model, flags = cpu(Path("/proc/cpuinfo"))
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def cpu(cpuinfo: Path) -> tuple[str, frozenset[str]]:
    """Return the model name and the flags of the first processor; "unknown" where there is none."""
    if not cpuinfo.is_file():
        return "unknown", frozenset()
    lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
    facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    return facts.get("model name", "unknown"), frozenset(facts.get("flags", "").split())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
