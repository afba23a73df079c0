"""What a Q/DQ graph fixed at calibration: one quantizer per site.

Stored with the release as `scales.json`.
"""

import json
from collections.abc import Mapping

import numpy as np

from infra.errors import BadInput
from tasks.numerics.formats import NumberFormat
from tasks.numerics.quantizer import Quantizer

VERSION = 2
READ = (1, 2)
"""Version 1 knew INT8, symmetric, and nothing else."""


Scales = Mapping[str, Quantizer]
"""By site, its quantizer. A site that is absent has no fixed scale: it is in high precision,
weight-only or dynamic.
"""


def dump_scales(scales: Scales, results: Scales | None = None) -> bytes:
    """Return the JSON document, with sorted keys so that equal scales have equal digests.

    `results` are the quantizers of tensors that one target alone wants, by tensor.
    """
    document = {"version": VERSION, "sites": _documented(scales)}
    if results:
        document["results"] = _documented(results)
    return json.dumps(document, sort_keys=True).encode()


def _documented(scales: Scales) -> dict[str, dict[str, object]]:
    return {
        name: {
            "amax": item.amax,
            # The stored key keeps its older word.
            "divisors": None if item.smoothing_scales is None else item.smoothing_scales.tolist(),
            "format": item.format.value,
            "bounds": None if item.bounds is None else list(item.bounds),
        }
        for name, item in scales.items()
    }


def parse_results(data: bytes, *, where: str) -> dict[str, Quantizer]:
    """Read the quantizers that one target alone wants, by tensor; a release may have none.

    Raises `BadInput` as `parse_scales` does.
    """
    return _parsed(data, "results", where=where)


def parse_scales(data: bytes, *, where: str) -> dict[str, Quantizer]:
    """Read the document; raises `BadInput` when it is none, or a scale is senseless."""
    return _parsed(data, "sites", where=where)


def _parsed(data: bytes, part: str, *, where: str) -> dict[str, Quantizer]:
    try:
        document = json.loads(data)
        if document["version"] not in READ:
            raise BadInput(
                f"{where} has version {document['version']!r}: this release reads versions 1 and "
                f"{VERSION}"
            )
        items = document.get(part, {}) if part == "results" else document[part]
        scales = {name: _quantizer(item) for name, item in items.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadInput(f"{where} is not a scales document ({exc!r}): rebuild the release") from exc
    check_scales(scales, where=where)
    return scales


def check_scales(scales: Scales, *, where: str) -> None:
    """Raise `BadInput` naming the first site whose amax, bounds or smoothing scales are senseless.

    They must be positive and finite.
    """
    for name, item in scales.items():
        smoothing_scales = np.ones(1) if item.smoothing_scales is None else item.smoothing_scales
        with np.errstate(over="ignore", under="ignore"):
            scale = np.float32(item.scale)  # as the graph stores it
        inside = item.bounds is None or item.bounds[0] <= 0 <= item.bounds[1]
        if not (
            np.isfinite(scale)
            and scale > 0
            and inside
            and np.isfinite(smoothing_scales).all()
            and (smoothing_scales > 0).all()
        ):
            raise BadInput(
                f"{where}: the scale of {name} is not a positive finite number; recalibrate on "
                "clean traffic"
            )


def _quantizer(item: Mapping[str, object]) -> Quantizer:
    bounds = None
    if item.get("bounds") is not None:
        low, high = np.asarray(item["bounds"], np.float64)
        bounds = (float(low), float(high))
    smoothing_scales = (
        None if item["divisors"] is None else np.asarray(item["divisors"], dtype=np.float32)
    )
    if smoothing_scales is not None and (smoothing_scales.ndim != 1 or not smoothing_scales.size):
        raise ValueError(f"smoothing scales of shape {smoothing_scales.shape}")
    return Quantizer(
        float(str(item["amax"])),
        smoothing_scales,
        NumberFormat(str(item.get("format", "int8"))),
        bounds,
    )
