"""What a Q/DQ graph fixed at calibration: one quantizer per site. Stored with the release as `scales.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput

VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Quantizer:
    """INT8, symmetric, per-tensor: x is divided by `divisors`, if any, then by amax / 127, and rounded."""

    amax: float
    divisors: NDArray[np.float32] | None = None  # [channels]; SmoothQuant's factors

    @property
    def scale(self) -> float:
        """The step between two levels."""
        return self.amax / 127


Scales = Mapping[str, Quantizer]
"""Site name -> quantizer; a site that is absent stays in high precision."""


def dump_scales(scales: Scales) -> bytes:
    """The JSON document, with sorted keys so that equal scales have equal digests."""
    sites = {
        name: {"amax": item.amax, "divisors": None if item.divisors is None else item.divisors.tolist()}
        for name, item in scales.items()
    }
    return json.dumps({"version": VERSION, "sites": sites}, sort_keys=True).encode()


def parse_scales(data: bytes, *, where: str) -> dict[str, Quantizer]:
    """Read the document; raises `BadInput` when it is not one, or a scale is not a positive finite number."""
    try:
        document = json.loads(data)
        if document["version"] != VERSION:
            raise BadInput(f"{where} has version {document['version']!r}: this release reads version {VERSION}")
        scales = {name: _quantizer(item) for name, item in document["sites"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadInput(f"{where} is not a scales document ({exc!r}): rebuild the release") from exc
    check_scales(scales, where=where)
    return scales


def check_scales(scales: Scales, *, where: str) -> None:
    """Raise `BadInput` naming the first site whose amax or divisors are not positive and finite."""
    for name, item in scales.items():
        divisors = np.ones(1) if item.divisors is None else item.divisors
        with np.errstate(over="ignore", under="ignore"):
            scale = np.float32(item.scale)  # as the graph stores it
        if not (np.isfinite(scale) and scale > 0 and np.isfinite(divisors).all() and (divisors > 0).all()):
            raise BadInput(
                f"{where}: the scale of {name} is not a positive finite number; recalibrate on clean traffic"
            )


def _quantizer(item: Mapping[str, object]) -> Quantizer:
    amax = float(str(item["amax"]))
    if item["divisors"] is None:
        return Quantizer(amax)
    divisors = np.asarray(item["divisors"], dtype=np.float32)
    if divisors.ndim != 1 or not divisors.size:
        raise ValueError(f"divisors of shape {divisors.shape}")
    return Quantizer(amax, divisors)
