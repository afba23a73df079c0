"""Streams, pinned memory and events of `TensorRtEngine` on a real device.

Only TensorRT itself is stood in for: the stand-in queues y = 2 x on the stream that it is handed,
over the addresses that it is handed, as TensorRT does.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infra.errors import BadInput
from tests.gpu.devices import NEEDS_CUDA

torch = pytest.importorskip("torch")
pytestmark = NEEDS_CUDA
DELAY = 50_000_000
"""Cycles that a kernel sleeps before it writes: some 25 ms.

A missing wait is seen.
"""


class Address:
    """Device memory at an address, as torch reads it."""

    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f4",
            "data": (address, False),
            "version": 3,
        }


class Context:
    active_optimization_profile = 0

    def __init__(self, delay: int) -> None:
        self._delay = delay
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return shape[1:] == (8,)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if 0 in self._shape:
            return True
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            x, y = (
                torch.as_tensor(Address(self._addresses[name], self._shape), device="cuda")
                for name in "xy"
            )
            torch.cuda._sleep(self._delay)
            torch.mul(x, 2, out=y)
        return True


class Engine:
    num_io_tensors, num_optimization_profiles = 2, 1

    def __init__(self, delay: int) -> None:
        self._delay = delay

    def create_execution_context(self) -> Context:
        return Context(self._delay)

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == "x" else "output"

    def get_tensor_dtype(self, name: str) -> str:
        return "DataType.FLOAT"

    def get_tensor_profile_shape(self, name: str, index: int) -> tuple[tuple[int, int], ...]:
        return (0, 8), (4, 8), (1 << 20, 8)


TRT: Any = SimpleNamespace(
    TensorIOMode=SimpleNamespace(INPUT="input"), nptype=lambda kind: np.float32
)
X = np.random.default_rng(0).standard_normal((1 << 12, 8)).astype(np.float32)


def loaded(delay: int = 0) -> Any:
    from infra.engines.nvidia.execution import TensorRtEngine

    return TensorRtEngine(TRT, Engine(delay))


@pytest.mark.parametrize("delay", [0, DELAY])
def test_results_are_read_only_once_they_are_there(delay: int) -> None:
    engine = loaded(delay)
    for scale in (1, 3):
        assert np.array_equal(engine.run({"x": X * np.float32(scale)})["y"], 2 * scale * X)


def test_tensors_on_the_device_are_not_copied_and_wait_for_their_makers() -> None:
    engine = loaded(DELAY)
    torch.cuda._sleep(DELAY)
    x = torch.from_numpy(X).pin_memory().to("cuda", non_blocking=True) + 1
    y = engine.run_on_device({"x": x})["y"]
    assert y.is_cuda
    assert np.array_equal((y - 1).cpu().numpy(), 2 * (X + 1) - 1)


def test_many_runs_in_flight_do_not_mix() -> None:
    engine = loaded(DELAY // 50)
    outputs = [
        engine.run_on_device({"x": torch.full((4096, 8), float(i), device="cuda")})["y"]
        for i in range(50)
    ]
    assert [float(one.min()) for one in outputs] == [2.0 * i for i in range(50)]
    assert [float(one.max()) for one in outputs] == [2.0 * i for i in range(50)]


def test_runs_are_timed_by_the_device() -> None:
    fast, slow = loaded().time_runs({"x": X}, 5), loaded(DELAY).time_runs({"x": X}, 5)
    print(
        f"{torch.cuda.get_device_name()}: {np.median(fast):.3f} ms, with a sleeping kernel "
        f"{np.median(slow):.3f} ms"
    )
    assert fast.shape == slow.shape == (5,)
    assert (fast > 0).all()
    assert np.median(slow) > np.median(fast) + 5


def test_an_empty_batch_has_an_address_too() -> None:
    assert loaded().run({"x": X[:0]})["y"].shape == (0, 8)


@pytest.mark.parametrize(
    "make",
    [
        dict,
        lambda: {"x": torch.from_numpy(X)},
        lambda: {"x": torch.from_numpy(X).cuda().double()},
        lambda: {"x": torch.from_numpy(X[:, :3]).cuda()},
    ],
    ids=["missing", "on the host", "float64", "width"],
)
def test_tensors_that_do_not_fit_are_bad_input(make: Any) -> None:
    with pytest.raises(BadInput):
        loaded().run_on_device(make())
