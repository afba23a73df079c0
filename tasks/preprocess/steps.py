"""One function a step: images as [height, width, channels], sounds as [samples]."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.specs.preprocess import Frames, LogMel, Normalise, Pad, Resize

Array = NDArray[np.generic]
Value = Array | str | Mapping[str, Array]


def resize(image: Array, rules: Resize) -> Array:
    """Scale by bilinear interpolation (Pillow)."""
    from PIL import Image

    height, width = image.shape[:2]
    sides = tuple(
        max(rules.multiple, round(side / rules.multiple) * rules.multiple)
        for side in _scaled(height, width, rules)
    )
    planes = [
        Image.fromarray(np.ascontiguousarray(image[..., channel])).resize(
            (sides[1], sides[0]), Image.Resampling.BILINEAR
        )
        for channel in range(image.shape[2])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def _scaled(height: int, width: int, rules: Resize) -> tuple[float, float]:
    if rules.shortest is not None:
        ratio = rules.shortest / min(height, width)
        return height * ratio, width * ratio
    if rules.height is not None and rules.width is None:
        return rules.height, width * rules.height / height
    if rules.width is not None and rules.height is None:
        return height * rules.width / width, rules.width
    return rules.height or height, rules.width or width


def pad(values: Array, rules: Pad) -> Array:
    """Fill up to the sizes given, or to multiples.

    Raises:
        BadInput: for what is larger already.
    """
    wanted = (rules.length,) if values.ndim == 1 else (rules.height, rules.width)
    filled = [
        -(-size // rules.multiple) * rules.multiple if want is None else want
        for size, want in zip(values.shape, wanted, strict=False)
    ]
    missing = [want - size for want, size in zip(filled, values.shape, strict=False)]
    if min(missing) < 0:
        raise BadInput(f"the input has shape {list(values.shape)}, and is padded to {filled}")
    widths = [(0, more) for more in missing] + [(0, 0)] * (values.ndim - len(missing))
    return np.pad(values, widths, constant_values=rules.value)


def normalise(values: Array, rules: Normalise) -> Array:
    """Return float32; mean and deviation are of the last axis, the channels."""
    scaled = values.astype(np.float32) * np.float32(rules.scale)
    mean, deviation = (np.asarray(side, np.float32) for side in (rules.mean, rules.deviation))
    result = (scaled - mean) / deviation
    return np.moveaxis(result, -1, 0) if result.ndim == 3 and rules.layout == "chw" else result


def log_mel(wave: Array, rules: LogMel) -> Array:
    """Return log-mel bands [bands, frames] (transformers.audio_utils)."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    filters = mel_filter_bank(
        num_frequency_bins=1 + rules.window // 2,
        num_mel_filters=rules.bands,
        min_frequency=0.0,
        max_frequency=rules.rate / 2,
        sampling_rate=rules.rate,
        norm="slaney",
        mel_scale="slaney",
    )
    bands = spectrogram(
        np.asarray(wave, np.float64),
        window_function(rules.window, "hann"),
        frame_length=rules.window,
        hop_length=rules.hop,
        power=2.0,
        mel_filters=filters,
        log_mel="log10",
    )
    return np.asarray((np.maximum(bands, bands.max() - 8.0) + 4.0) / 4.0, np.float32)


def frames(wave: Array, rules: Frames) -> Array:
    """Return chunks [chunks, length] of a sound [samples], one every `hop` samples."""
    hop = rules.hop or rules.length
    count = max(1, -(-len(wave) // hop))
    before, after = rules.length - hop, count * hop - len(wave)
    filled = np.pad(np.asarray(wave, np.float32), (before, max(0, after)))
    chunks = np.lib.stride_tricks.sliding_window_view(filled, rules.length)[::hop][:count]
    return np.ascontiguousarray(chunks)
