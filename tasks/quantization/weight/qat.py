"""Quantization-aware training of one site: its weights, their steps and the activation's clip.

Esser et al., "Learned step size quantization" (2020): rounding passes gradients straight through,
and steps are learned with the weights. What is matched is the site's own full-precision output, as
in Li et al., "BRECQ" (2021), section 3.1. No pass over the whole model is needed, and sites can be
trained one by one, the most sensitive alone.

Where a CUDA device is visible, it trains there. Its sums are taken in another order: in float32,
Adam made whole steps of what was left of sums that should be zero, and a tenth of the quantized
values came out otherwise. So training is in float64, and `tests/gpu/test_training.py` holds what a
device makes to a tolerance against the CPU's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.numerics.quantized_weight import QuantizedWeight, spread
from tasks.numerics.quantizer import Quantizer
from tasks.quantization.weight.held_out_rows import HELD_OUT, LEAST_ROWS

STEPS = 120
RATE = 0.02
"""Of Adam, in units of the weights' steps.

And of the logarithms of steps and clip a tenth of it.
"""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedSite:
    """What training made of one site; as it was where nothing was better on the rows held out."""

    weight: QuantizedWeight
    quantizer: Quantizer | None
    before: float  # squared output error / squared output, on the rows held out
    after: float


def train(
    rows: NDArray[np.float32],
    weight: NDArray[np.float32],
    start: QuantizedWeight,
    quantizer: Quantizer | None,
    steps: int = STEPS,
    device: str | None = None,
    *,
    learn_clip: bool = True,
) -> TrainedSite:
    """Train from a rounded weight, plain or GPTQ's, towards the exact outputs of the rows.

    Rows and weight are on the same side of the smoothing: already divided, already multiplied. It
    is deterministic on a CPU.

    Args:
        rows: What the layer reads, [n, inputs].
        weight: [outputs, inputs], exact.
        start: The same weight, rounded.
        quantizer: Of the activation; None leaves it in floating point.
        steps: How often the optimizer moves.
        device: Torch's name for where to train; None: CUDA where it is visible.
        learn_clip: Without it the quantizer comes back as it was: other layers read it too.

    Raises:
        BadInput: There are fewer than 8 rows, or a format is not evenly spaced.
    """
    _require(rows, start, quantizer)
    with _one_thread():
        return _train(
            rows,
            weight,
            start,
            quantizer,
            steps,
            torch.device(device or default_device()),
            learn_clip,
        )


def default_device() -> str:
    """Return where training runs by default: `CUDA_VISIBLE_DEVICES=` hides a device."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread: sums are split among threads, and a last bit can tip a rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(
    rows: NDArray[np.float32],
    weight: NDArray[np.float32],
    start: QuantizedWeight,
    quantizer: Quantizer | None,
    steps: int,
    device: torch.device,
    learn_clip: bool,
) -> TrainedSite:
    held_out = np.arange(len(rows)) % HELD_OUT == 0
    learned, judged = (_double(rows[part], device) for part in (~held_out, held_out))
    exact = _double(weight, device).T
    site = _Site(start, quantizer, device, learn_clip)
    groups: list[dict[str, object]] = [
        {"params": [site.units]},
        {"params": site.logs, "lr": RATE / 10},
    ]
    optimizer = torch.optim.Adam(groups, lr=RATE)
    before = least = _error(site, judged, judged @ exact)
    best = (start, quantizer)
    wanted = learned @ exact
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        torch.square(site.output(learned) - wanted).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 10 == 0 and (error := _error(site, judged, judged @ exact)) < least:
            least, best = error, site.result()
    return TrainedSite(*best, before, least)


def _require(
    rows: NDArray[np.float32], start: QuantizedWeight, quantizer: Quantizer | None
) -> None:
    if len(rows) < LEAST_ROWS:
        raise BadInput(
            f"training a site needs at least {LEAST_ROWS} observed rows, and there are {len(rows)}"
        )
    if not start.format.is_integer or (quantizer is not None and not quantizer.format.is_integer):
        raise BadInput("only evenly spaced formats can be trained here: use INT8, INT4 or INT2")


class _Site:
    """The quantized layer as torch sees it.

    Weights in units of their steps, steps and clip as logarithms.
    """

    def __init__(
        self,
        start: QuantizedWeight,
        quantizer: Quantizer | None,
        device: torch.device,
        learn_clip: bool,
    ) -> None:
        self._start, self._quantizer = start, quantizer
        zeros = (
            np.zeros_like(start.scales)
            if start.zero_points is None
            else start.zero_points.astype(np.float32)
        )
        zero = spread(zeros, start.block, start.values.shape[1])
        self.units = _double(start.values.astype(np.float32) - zero, device).requires_grad_()
        self._zero, self._largest = _double(zero, device), start.format.largest
        self._steps = _double(np.log(start.scales, dtype=np.float64), device).requires_grad_()
        clips = learn_clip and quantizer is not None and quantizer.bounds is None
        self._clip = torch.tensor(0.0, dtype=torch.float64, device=device, requires_grad=clips)
        self.logs = [self._steps, self._clip]

    def output(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the layer's output: rows [n, inputs] -> [n, outputs]."""
        scales = torch.exp(self._steps)
        if self._start.block is not None:
            scales = scales.repeat_interleave(self._start.block, dim=1)[:, : self.units.shape[1]]
        values = torch.clamp(_round(self.units + self._zero), -self._largest - 1, self._largest)
        return self._activation(rows) @ ((values - self._zero) * scales).T

    def _activation(self, rows: torch.Tensor) -> torch.Tensor:
        if self._quantizer is None:
            return rows
        largest, zero = self._quantizer.format.largest, self._quantizer.zero_point
        scale = self._quantizer.scale * torch.exp(self._clip)
        return (torch.clamp(_round(rows / scale + zero), -largest - 1, largest) - zero) * scale

    def result(self) -> tuple[QuantizedWeight, Quantizer | None]:
        """Return weight and quantizer as they stand now."""
        values = torch.clamp(
            torch.round(self.units + self._zero), -self._largest - 1, self._largest
        )
        scales = torch.exp(self._steps).detach().cpu().numpy().astype(np.float32)
        stored = values.detach().cpu().numpy().astype(np.int8)
        weight = replace(self._start, values=stored, scales=scales)
        if self._quantizer is None:
            return weight, None
        return weight, replace(
            self._quantizer, amax=self._quantizer.amax * float(torch.exp(self._clip.detach()))
        )


def _double(values: NDArray[np.floating], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.array(values, np.float64)).to(device)


def _round(values: torch.Tensor) -> torch.Tensor:
    """Round to the nearest whole number, ties to even; the gradient passes as if it had not."""
    return values + (torch.round(values) - values).detach()


def _error(site: _Site, rows: torch.Tensor, wanted: torch.Tensor) -> float:
    with torch.no_grad():
        lost = torch.square(site.output(rows) - wanted).sum()
        return float(lost) / max(float(torch.square(wanted).sum()), 1e-30)
