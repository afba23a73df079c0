"""Activations counted on the device are exact; those computed there are within the tolerance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.graphs.sites import Layer, Site
from tasks.numerics import device_histogram
from tasks.observation.archive import dump_observation
from tasks.observation.counting import count
from tasks.observation.observer import Observer
from tasks.observation.watch import watch
from tests.gpu.devices import NEEDS_CUDA
from tests.observation_tolerance import moved, why_apart

torch = pytest.importorskip("torch")
pytestmark = NEEDS_CUDA

Floats = NDArray[np.float32]
LINEAR = Site("fc", "t", -1, (Layer("fc", "n", "MatMul", "w", 1),))
CONV = Site("conv", "i", 1, (Layer("conv", "m", "Conv", "v", 0),))
CASES, TOKENS, CHANNELS = 16, 32, 192


def activations(seed: int) -> dict[str, Floats]:
    """Draw tokens and images, from denormals to the largest magnitudes."""
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((CASES, TOKENS, CHANNELS)) * 10.0 ** rng.integers(
        -41, 38, (CASES, TOKENS, CHANNELS)
    )
    images = rng.standard_normal((CASES, 24, 16, 16)) * 10.0 ** rng.integers(
        -3, 3, (CASES, 24, 1, 1)
    )
    return {"t": tokens.astype(np.float32), "i": images.astype(np.float32)}


def strange(seed: int) -> dict[str, Floats]:
    found = activations(seed)
    found["t"][1, 2, :5] = [np.nan, np.inf, -np.inf, 0.0, -0.0]
    found["i"][3, 1, 0, 0] = -np.inf
    return found


def observed(batches: Sequence[dict[str, Floats]], device: str | None, divided: bool) -> bytes:
    smoothing_scales = {"fc": np.linspace(0.3, 3, CHANNELS, dtype=np.float32)} if divided else None
    observer = Observer((LINEAR, CONV), smoothing_scales)
    for number, batch in enumerate(batches):
        tensors: dict[str, Any] = dict(batch)
        if device is not None:
            tensors = {name: torch.from_numpy(one).to(device) for name, one in batch.items()}
        mask = np.arange(TOKENS)[None, :] < np.arange(1, 1 + 2 * CASES, 2)[:, None]
        observer.update(tensors, np.arange(CASES) + CASES * number, mask)
    return dump_observation(observer.result())


@pytest.mark.parametrize("divided", [False, True], ids=["plain", "smoothed"])
@pytest.mark.parametrize("make", [activations, strange])
def test_the_same_activations_are_observed_bit_for_bit(make: Any, divided: bool) -> None:
    batches = [make(seed) for seed in range(3)]
    assert observed(batches, "cuda", divided) == observed(batches, None, divided)


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 24])
def test_any_number_of_values_is_counted_exactly(size: int) -> None:
    values = np.random.default_rng(0).standard_normal((size, 1)).astype(np.float32)
    left, right = count(values, -1), count(torch.from_numpy(values).cuda(), -1)
    assert left.histogram == right.histogram
    assert np.array_equal(left.low, right.low)
    assert np.array_equal(left.high, right.high)


def drawn(rows: int, channels: int, kind: Any) -> Any:
    """Draw magnitudes from denormal to infinite on the device, with NaN of both signs in a few."""
    generator = torch.Generator("cuda").manual_seed(rows * channels)
    bits = torch.randint(
        -(1 << 31), (1 << 31) - 1, (rows, channels), device="cuda", generator=generator
    )
    return bits.to(torch.int32).view(torch.float32).to(kind)


def by_torch(monkeypatch: pytest.MonkeyPatch, values: Any, axis: int) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(device_histogram, "_kernel", lambda values: None)
        return count(values, axis)


SHAPES = [(1, 8), (3, 4), (5, 7), (1000, 384), (4096, 512), (257, 1536), (64, 14336), (2, 40_960)]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("axis", [-1, 1])
def test_the_kernel_counts_what_torch_counts_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], kind: Any, finite: bool, axis: int
) -> None:
    values = drawn(*shape, kind)
    if finite:
        values = torch.nan_to_num(values, 0.0, 1.0, -1.0)
    values = values if axis == -1 else values.unsqueeze(0).transpose(1, 2).contiguous()
    ours, theirs = count(values, axis), by_torch(monkeypatch, values, axis)
    host = count(values.float().cpu().numpy(), axis)
    for other in (theirs, host):
        assert ours.histogram == other.histogram
        for extreme in ("low", "high"):
            left, right = getattr(ours, extreme), getattr(other, extreme)
            assert (left + 0).tobytes() == (right + 0).tobytes()
        assert (ours.broken is None) == (other.broken is None)
        assert ours.broken is None or np.array_equal(ours.broken, other.broken)
    assert ours.broken is None or not finite


def test_the_kernel_runs_and_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(flat: Any) -> Any:
        assert not flat.numel(), "torch counted what the kernel could have read"
        return torch.zeros(2048, dtype=torch.int64, device=flat.device)

    monkeypatch.setattr(device_histogram, "count_by_torch", forbidden)
    for kind in (torch.float32, torch.bfloat16):
        counted = count(torch.ones(64, 128, device="cuda", dtype=kind), -1)
        assert counted.histogram.total == 64 * 128


@pytest.mark.parametrize("start", range(9))
def test_values_that_start_anywhere_in_memory_are_counted(start: int) -> None:
    flat = drawn(1, (1 << 14) + 8, torch.bfloat16).view(-1)
    values = flat[start : start + (1 << 14)].view(-1, 64)
    ours, host = count(values, -1), count(values.float().cpu().numpy(), -1)
    assert ours.histogram == host.histogram
    assert np.array_equal(ours.low, host.low, equal_nan=True)


@dataclass(frozen=True, slots=True)
class OneBatch:
    """Feeds of some cases, the only batch."""

    feeds: Mapping[str, Floats]
    cases: NDArray[np.int64]
    mask: None = None

    def parts(self, size: int) -> Iterator[OneBatch]:
        for start in range(0, len(self.cases), size):
            chosen = slice(start, start + size)
            yield OneBatch(
                {name: one[chosen] for name, one in self.feeds.items()}, self.cases[chosen]
            )


class Rows:
    """Inputs whose payloads are the feeds themselves."""

    def batches(self, payloads: Sequence[Any]) -> Iterator[OneBatch]:
        values = np.stack(payloads)
        yield OneBatch({"x": values}, np.arange(len(values)))


class Product:
    """x @ weight in torch, on a device or returned to the host.

    So there are two engines that add in different orders.
    """

    def __init__(self, weight: Floats, device: str) -> None:
        self._weight = torch.from_numpy(weight).to(device)

    def run(self, feeds: Mapping[str, Floats]) -> dict[str, Floats]:
        return {
            "t": (torch.from_numpy(feeds["x"]).to(self._weight.device) @ self._weight).cpu().numpy()
        }


class DeviceProduct(Product):
    device = "cuda:0"

    def run_on_device(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        assert all(one.is_cuda for one in feeds.values())
        return {"t": feeds["x"] @ self._weight}

    def run(self, feeds: Mapping[str, Floats]) -> dict[str, Floats]:
        raise AssertionError("the activations were copied to the host")


def test_an_engine_on_the_device_is_watched_there_within_the_stated_tolerance() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((768, 512)).astype(np.float32)
    payloads = list(rng.standard_normal((64, 32, 768)).astype(np.float32))
    inputs: Any = Rows()
    engines: list[Any] = [Product(weight, "cpu"), DeviceProduct(weight, "cuda:0")]
    left, right = (watch(engine, (LINEAR,), inputs, payloads) for engine in engines)
    share = moved(left["fc"].histogram, right["fc"].histogram)
    print(f"{torch.cuda.get_device_name()}: {share:.2e} of the counts moved a bin")
    assert why_apart(left, right) is None
    # The rows kept are the same requests', each within the last bits of its sums.
    assert np.allclose(left["fc"].rows, right["fc"].rows, rtol=1e-4, atol=1e-3)


def test_products_in_tf32_are_outside_the_tolerance() -> None:
    """Show why full precision is observed without it: a tolerance to let it pass tells nothing."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((768, 512)).astype(np.float32)
    payloads = list(rng.standard_normal((64, 32, 768)).astype(np.float32))
    inputs: Any = Rows()
    exact: Any = DeviceProduct(weight, "cuda:0")
    left = watch(exact, (LINEAR,), inputs, payloads)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        right = watch(exact, (LINEAR,), inputs, payloads)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this device has no TF32")
    assert why_apart(left, right) is not None
