"""Running an engine: torch owns the memory and the stream.

What is on the device already is not copied.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infra.engines.nvidia.inspection import inspect
from infra.engines.port import Arrays, typed
from infra.errors import BadInput, Unavailable

if TYPE_CHECKING:
    import torch

_FAILED = "the device failed while running the engine{why}: look at the driver's log"
_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's names for tensors' types -> torch's."""


class TensorRtEngine:
    """An engine on the device.

    An execution context serves one inference at a time, so concurrent callers wait for each other.
    """

    def __init__(self, trt: ModuleType, engine: Any) -> None:
        import torch

        self._trt: Any = trt
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise Unavailable(
                "the device has no memory left for the engine: free some and load it again"
            )
        self.device = f"cuda:{torch.cuda.current_device()}"
        self._nowhere = torch.empty(16, dtype=torch.uint8, device=self.device)
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._alone = threading.Lock()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._inputs = [
            name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        ]
        self._outputs = [name for name in names if name not in self._inputs]

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """Run one synchronous inference."""
        checked = {name: self._checked(name, feeds) for name in self._inputs}
        with self._on_stream():
            outputs = self._there_and_back(checked)
            self._stream.synchronize()
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def time_runs(self, feeds: Arrays, rounds: int) -> NDArray[np.float64]:
        """Measure the milliseconds between two events on the stream, [rounds].

        They hold the kernels and the copies there and back.
        """
        import torch

        checked = {name: self._checked(name, feeds) for name in self._inputs}
        durations = np.empty(rounds)
        with self._on_stream():
            for index in range(rounds):
                start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
                end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
                start.record(self._stream)
                self._there_and_back(checked)
                end.record(self._stream)
                end.synchronize()
                durations[index] = start.elapsed_time(end)
        return durations

    def run_on_device(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Queue one inference behind torch's current stream.

        What is queued on that stream next sees the outputs.
        """
        import torch

        checked = {name: self._checked_tensor(name, feeds) for name in self._inputs}
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with self._on_stream():
            outputs = self._enqueue(checked)
        current.wait_stream(self._stream)
        # Memory that one stream allocated and another reads must not be handed out again too early.
        for tensor in checked.values():
            tensor.record_stream(self._stream)
        for tensor in outputs.values():
            tensor.record_stream(current)
        return outputs

    def inspection(self) -> bytes | None:
        """Return the engine inspector's JSON."""
        return inspect(self._trt, self._engine, self._context)

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Issue copies and kernels on one stream.

        Torch's default stream would not wait for this one.
        """
        import torch

        try:
            with self._alone, torch.cuda.stream(self._stream):
                yield
        except RuntimeError as exc:
            raise Unavailable(_FAILED.format(why=f" ({exc})")) from exc

    def _checked(self, name: str, feeds: Arrays) -> NDArray[np.generic]:
        if name not in feeds:
            raise BadInput(f"the engine wants an input called {name!r}")
        wanted = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        feed = np.ascontiguousarray(typed(feeds[name], wanted))
        if feed.dtype != wanted:
            raise BadInput(f"input {name!r} is {feed.dtype}, and the engine wants {wanted}")
        return feed

    def _checked_tensor(self, name: str, feeds: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if name not in feeds:
            raise BadInput(f"the engine wants an input called {name!r}")
        wanted, tensor = self._type(name), feeds[name]
        if tensor.dtype != wanted or str(tensor.device) != self.device:
            raise BadInput(
                f"input {name!r} is {tensor.dtype} on {tensor.device}, "
                f"and the engine wants {wanted} on {self.device}"
            )
        return tensor.contiguous()

    def _type(self, name: str) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(
            torch, _TYPES[str(self._engine.get_tensor_dtype(name)).rsplit(".", 1)[-1]]
        )
        return dtype

    def _there_and_back(self, feeds: Arrays) -> dict[str, torch.Tensor]:
        """Queue copies, kernels and copies.

        The results are in pinned memory once the stream is done.
        """
        import torch

        pinned = {name: torch.from_numpy(array).pin_memory() for name, array in feeds.items()}
        outputs = self._enqueue(
            {name: tensor.to(self.device, non_blocking=True) for name, tensor in pinned.items()}
        )
        back = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            for name, tensor in outputs.items()
        }
        return {
            name: back[name].copy_(tensor, non_blocking=True) for name, tensor in outputs.items()
        }

    def _enqueue(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Queue one inference over device tensors; the caller is on the engine's stream."""
        import torch

        self._choose_profile(feeds)
        for name, tensor in feeds.items():
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise BadInput(
                    f"input {name!r} of shape {tuple(tensor.shape)} is outside the engine's profile"
                )
        outputs = {
            name: torch.empty(
                tuple(self._context.get_tensor_shape(name)),
                dtype=self._type(name),
                device=self.device,
            )
            for name in self._outputs
        }
        for name, tensor in {**feeds, **outputs}.items():
            # An empty tensor has no address, and TensorRT wants one nevertheless.
            self._context.set_tensor_address(name, tensor.data_ptr() or self._nowhere.data_ptr())
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise Unavailable(_FAILED.format(why=""))
        return outputs

    def _choose_profile(self, feeds: Mapping[str, torch.Tensor]) -> None:
        """Switch to the first profile that holds the feeds' shapes.

        Where none does, the runtime says which input is outside.
        """
        for index in range(self._engine.num_optimization_profiles):
            ranges = {name: self._engine.get_tensor_profile_shape(name, index) for name in feeds}
            if all(
                _within(tuple(feeds[name].shape), low, high)
                for name, (low, _, high) in ranges.items()
            ):
                if self._context.active_optimization_profile != index:
                    self._context.set_optimization_profile_async(index, self._stream.cuda_stream)
                return


def _within(shape: tuple[int, ...], low: Iterable[int], high: Iterable[int]) -> bool:
    sizes = list(zip(low, high, strict=True))
    return len(sizes) == len(shape) and all(
        least <= size <= most for size, (least, most) in zip(shape, sizes, strict=True)
    )
