"""Which engine watches is chosen by what is present."""

from __future__ import annotations

import pytest

import infra.engines
from infra.engines import open_watching
from infra.errors import Unavailable


class Device:
    """A target that runs here, or says why not."""

    def __init__(self, name: str, reason: str | None) -> None:
        self.name, self._reason = name, reason

    def why_not_executable(self) -> str | None:
        return self._reason


@pytest.mark.parametrize(
    ("present", "names", "chosen"),
    [
        ({"tensorrt": None}, ("onnxruntime-cpu", "tensorrt"), "tensorrt"),
        ({"tensorrt": "no device"}, ("tensorrt", "onnxruntime-cpu"), "onnxruntime-cpu"),
        (
            {"tensorrt-rtx": None},
            ("tensorrt", "tensorrt-rtx"),
            "tensorrt-rtx",
        ),  # the first is not installed
        ({"tensorrt": None}, ("onnxruntime-cpu",), "onnxruntime-cpu"),  # the spec names no other
        ({"tensorrt": None}, (), "onnxruntime-cpu"),  # switched off
    ],
)
def test_the_first_target_that_runs_on_a_device_watches_and_otherwise_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
    present: dict[str, str | None],
    names: tuple[str, ...],
    chosen: str,
) -> None:
    def opened(name: str) -> Device:
        if name == "onnxruntime-cpu":
            return Device(name, None)
        if name not in present:
            raise Unavailable(f"{name} is not installed")
        return Device(name, present[name])

    monkeypatch.setattr(infra.engines, "open_target", opened)
    assert open_watching(names).name == chosen
