"""How an observation is kept: one NumPy archive without pickles."""

from collections.abc import Mapping
from io import BytesIO
from zipfile import BadZipFile, ZipFile

import numpy as np

from infra.errors import BadInput
from tasks.numerics.histogram import BINS, ExponentHistogram
from tasks.observation.observer import NOTHING_KEPT, SiteObservation

VERSION = 2
READ = (1, 2)
"""Version 1 knew the largest magnitude of a channel, not its sign."""


def dump_observation(observed: Mapping[str, SiteObservation]) -> bytes:
    """Return the archive: histogram, amax, channel extremes and rows of every site.

    Histogram counts are [2048]. Sites that saw images have pixels too.
    """
    names = sorted(observed)
    arrays: dict[str, np.ndarray] = {"version": np.asarray(VERSION), "sites": np.asarray(names)}
    for index, name in enumerate(names):
        site = observed[name]
        arrays[f"{index}.counts"] = site.histogram.counts
        arrays[f"{index}.amax"] = np.asarray(site.histogram.amax)
        arrays[f"{index}.low"], arrays[f"{index}.high"] = site.channel_low, site.channel_high
        arrays[f"{index}.rows"] = site.rows
        if site.pixels.size:
            arrays[f"{index}.pixels"] = site.pixels
    buffer = BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes the names for its own options
    return buffer.getvalue()


def parse_observation(data: bytes, *, where: str) -> dict[str, SiteObservation]:
    """Read the archive; raises `BadInput` when it is damaged or of another version."""
    try:
        _require_checksums(data)
        with np.load(BytesIO(data), allow_pickle=False) as arrays:
            version = int(arrays["version"])
            names = enumerate(arrays["sites"]) if version in READ else ()
            observed = {str(name): _site(arrays, i, version) for i, name in names}
    except (
        Exception
    ) as exc:  # damaged bytes raise whatever zipfile, zlib, struct and NumPy trip over
        raise BadInput(
            f"{where} is not an observation ({exc!r}): observe the calibration set again"
        ) from exc
    if version not in READ:
        raise BadInput(
            f"{where} has version {version}: this release reads versions 1 and {VERSION}"
        )
    return observed


def _require_checksums(data: bytes) -> None:
    """Raise `BadZipFile` when a member does not match its checksum.

    NumPy reads as many bytes as an array's header says, and zipfile compares a checksum only at the
    end of a member.
    """
    damaged = ZipFile(BytesIO(data)).testzip()
    if damaged is not None:
        raise BadZipFile(f"{damaged} does not match its checksum")


def _site(arrays: Mapping[str, np.ndarray], index: int, version: int) -> SiteObservation:
    counts, rows = arrays[f"{index}.counts"], arrays[f"{index}.rows"]
    high = arrays[f"{index}.{'channels' if version == 1 else 'high'}"]
    low = -high if version == 1 else arrays[f"{index}.low"]
    if counts.shape != (BINS,) or counts.dtype != np.int64 or (counts < 0).any():
        raise ValueError(f"counts of shape {counts.shape} and type {counts.dtype}")
    if (
        high.ndim != 1
        or low.shape != high.shape
        or rows.ndim != 2
        or (rows.size and rows.shape[1] != len(high))
    ):
        raise ValueError(f"channels {low.shape} and {high.shape}, and rows {rows.shape}")
    pixels = arrays.get(f"{index}.pixels", NOTHING_KEPT)
    if pixels.ndim != 2 or (pixels.size and pixels.shape[1] != len(high)):
        raise ValueError(f"channels {high.shape} and pixels {pixels.shape}")
    return SiteObservation(
        ExponentHistogram(counts, float(arrays[f"{index}.amax"])), low, high, rows, pixels=pixels
    )
