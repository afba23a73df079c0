"""Whether a device can be visible at all, asked without what takes seconds to import."""

import subprocess
import sys

import pytest

from infra.engines.nvidia import host

ASKS = """
import sys
from infra.engines import open_watching
print(open_watching(["tensorrt-rtx", "onnxruntime-cpu"]).name, "torch" in sys.modules)
"""


def test_a_driver_is_there_when_its_library_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_LIBRARY", "libc.so.6")
    assert host.has_driver()
    monkeypatch.setattr(host, "_LIBRARY", "libno-driver-of-this-name.so.1")
    assert not host.has_driver()


@pytest.mark.skipif(host.has_driver(), reason="a CUDA driver is here, so torch is asked next")
def test_where_no_driver_is_torch_is_not_imported_to_find_that_out() -> None:
    asked = subprocess.run([sys.executable, "-c", ASKS], capture_output=True, text=True, check=True)
    assert asked.stdout.split() == ["onnxruntime-cpu", "False"]
