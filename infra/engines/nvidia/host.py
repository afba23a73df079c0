"""What a plan and a timing cache depend on: the module, the device and its driver."""

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DRIVER = Path("/proc/driver/nvidia/version")
_LIBRARY = "libcuda.so.1"


@dataclass(frozen=True, slots=True)
class Host:
    """One machine as TensorRT sees it; None where there is no device."""

    module: str
    version: str
    capability: str | None  # "SM89"
    device: str | None
    driver: str | None
    cuda: str | None  # that torch was built for


def read_host(trt: Any) -> Host:
    """Read the module, device and driver of this machine."""
    import torch

    visible = torch.cuda.is_available()
    return Host(
        trt.__name__,
        str(trt.__version__),
        device_capability() if visible else None,
        torch.cuda.get_device_name() if visible else None,
        _driver(),
        torch.version.cuda,
    )


def device_capability() -> str:
    """Return the visible device's compute capability, as the modules spell it."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"SM{major}{minor}"


def parse_driver(text: str) -> str | None:
    """Parse the version from the kernel module's own words; None where they name none."""
    match = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return match.group(1) if match else None


def _driver() -> str | None:
    try:
        return parse_driver(_DRIVER.read_text())
    except OSError:
        return None


def has_driver() -> bool:
    """Return whether the CUDA driver can be loaded; without it no device is visible."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True
