"""From an image or sound file's bytes to pixels or samples."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

_LARGEST_16 = 65_535


def decode_image(data: bytes, channels: str) -> NDArray[np.generic]:
    """Return an image file's pixels as a person sees them, uint8 [height, width, channels].

    They are turned as EXIF says; what is transparent lies on white, 16 bits a pixel become 8.

    Raises:
        BadInput: for what Pillow cannot read, and for several pictures in a file.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(_plain(image).convert("L" if channels == "L" else "RGB"))
    except BadInput:
        raise
    except Exception as exc:  # of damaged files Pillow raises whatever its decoders meet
        raise BadInput(f"the image cannot be read: {' '.join(str(exc).split())[:200]}") from exc
    if channels == "L":
        return pixels[..., None]
    return pixels[..., ::-1] if channels == "BGR" else pixels


def _plain(image: ImageFile) -> Image:
    """Return a picture of 8 bits a channel, turned upright, on white where it is transparent."""
    from PIL import Image, ImageOps

    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a phone's second view of the same
        raise BadInput(f"the image file holds {frames} pictures: give each a file of its own")
    if image.mode == "F":
        raise BadInput("the image has float pixels: save it with 8 or 16 bits, or as .npy")
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        values = np.asarray(upright)
        if values.min(initial=0) < 0 or values.max(initial=0) > _LARGEST_16:
            raise BadInput("the image has pixels of 32 bits: save it with 8 or 16 bits")
        return Image.fromarray((values // 257).astype(np.uint8))
    if "transparency" in upright.info or upright.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(white, upright)
    return upright


def decode_audio(data: bytes) -> tuple[NDArray[np.float32], int]:
    """Return a WAV file's samples in -1..1, channels averaged, and its rate.

    Raises:
        BadInput: for what SciPy cannot read.
    """
    from scipy.io import wavfile  # type: ignore[import-untyped, unused-ignore]

    try:
        rate, samples = wavfile.read(io.BytesIO(data))
    except Exception as exc:  # of damaged headers SciPy raises whatever they lead to
        raise BadInput(f"the sound is no WAV file: {' '.join(str(exc).split())[:200]}") from exc
    wave = np.asarray(samples)
    if wave.dtype == np.uint8:
        wave = wave.astype(np.float32) / 128 - 1
    elif wave.dtype.kind == "i":
        wave = wave.astype(np.float32) / np.float32(np.iinfo(wave.dtype).max + 1)
    mono = wave if wave.ndim == 1 else wave.mean(axis=1)
    return mono.astype(np.float32), int(rate)


def resampled(wave: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """Return a sound [samples] at another rate, by SciPy's polyphase filter."""
    from math import gcd

    from scipy.signal import resample_poly  # type: ignore[import-untyped, unused-ignore]

    divisor = gcd(rate, wanted)
    return np.asarray(resample_poly(wave, wanted // divisor, rate // divisor), np.float32)
