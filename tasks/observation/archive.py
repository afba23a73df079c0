"""How an observation is kept: one compressed NumPy archive without pickles."""

from collections.abc import Mapping
from io import BytesIO
from zipfile import BadZipFile

import numpy as np

from infra.errors import BadInput
from tasks.observation.histogram import BINS, ExponentHistogram
from tasks.observation.observer import SiteObservation

VERSION = 1


def dump_observation(observed: Mapping[str, SiteObservation]) -> bytes:
    """Histogram counts [2048], amax, channel maxima and rows of every site."""
    names = sorted(observed)
    arrays: dict[str, np.ndarray] = {"version": np.asarray(VERSION), "sites": np.asarray(names)}
    for index, name in enumerate(names):
        site = observed[name]
        arrays[f"{index}.counts"] = site.histogram.counts
        arrays[f"{index}.amax"] = np.asarray(site.histogram.amax)
        arrays[f"{index}.channels"] = site.channel_amax
        arrays[f"{index}.rows"] = site.rows
    buffer = BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes the names for its own options
    return buffer.getvalue()


def parse_observation(data: bytes, *, where: str) -> dict[str, SiteObservation]:
    """Read the archive; raises `BadInput` when it is damaged or of another version."""
    try:
        with np.load(BytesIO(data), allow_pickle=False) as arrays:
            if int(arrays["version"]) != VERSION:
                raise BadInput(f"{where} has version {int(arrays['version'])}: this release reads version {VERSION}")
            return {
                str(name): SiteObservation(
                    ExponentHistogram(arrays[f"{i}.counts"].reshape(BINS), float(arrays[f"{i}.amax"])),
                    arrays[f"{i}.channels"],
                    arrays[f"{i}.rows"],
                )
                for i, name in enumerate(arrays["sites"])
            }
    except (ValueError, KeyError, OSError, BadZipFile, EOFError) as exc:
        raise BadInput(f"{where} is not an observation ({exc}): observe the calibration set again") from exc
