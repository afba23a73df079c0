"""Coloured shapes on grey ground: what is drawn, under which light and through which lens."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SIDE = 24  # pixels
LEVELS = 31  # of a pixel: images of few levels pack well
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.12, 0.7, 0.2),
    "blue": (0.15, 0.2, 0.85),
    "yellow": (0.85, 0.8, 0.1),
    "purple": (0.6, 0.12, 0.75),
}
SHAPES = ("circle", "square", "triangle", "cross")
CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
Image = npt.NDArray[np.float32]
"""[3, SIDE, SIDE] in 0..1."""


@dataclass(frozen=True, slots=True)
class Sight:
    """How an image is taken."""

    exposure: float  # every pixel times this
    blur: float  # standard deviation in pixels


SIGHTS: dict[str, Sight] = {
    "indoor": Sight(0.5, 0.0),
    "daylight": Sight(1.0, 0.0),
    "blurred": Sight(0.5, 1.0),
}


def draw(name: str, rng: np.random.Generator) -> Image:
    """Draw one image of a class such as "red circle"; place, size, angle and shade are its own."""
    colour, shape = name.split()
    ground = rng.uniform(0.25, 0.6) + rng.normal(0, 0.02, (1, SIDE, SIDE))
    paint = np.clip(
        np.array(COLOURS[colour]) * rng.uniform(0.8, 1.15) + rng.normal(0, 0.03, 3), 0, 1
    )
    inside = _mask(shape, rng)
    image = ground * (1 - inside) + paint[:, None, None] * inside
    return np.asarray(np.clip(image, 0, 1), np.float32)


def see(image: Image, sight: Sight) -> Image:
    """Return the image as that sight takes it, in few brightness values: [3, SIDE, SIDE]."""
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(image, (0, sight.blur, sight.blur)) if sight.blur else image
    return np.asarray(np.round(blurred * LEVELS) / LEVELS * sight.exposure, np.float32)


def caption(name: str) -> str:
    """Return the text that belongs to a class."""
    return f"a photo of a {name}"


def _mask(shape: str, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return 1 inside the shape, 0 outside, between at its edge: [1, SIDE, SIDE]."""
    size = rng.uniform(7.0, 9.0)
    centre = SIDE / 2 - 0.5 + rng.uniform(-2, 2, 2)
    down, right = (
        axis - middle for axis, middle in zip(np.mgrid[:SIDE, :SIDE], centre, strict=True)
    )
    angle = rng.uniform(-0.15, 0.15)
    x, y = (
        right * np.cos(angle) + down * np.sin(angle),
        down * np.cos(angle) - right * np.sin(angle),
    )
    if shape == "circle":
        outside = np.hypot(x, y) - size
    elif shape == "square":
        outside = np.maximum(np.abs(x), np.abs(y)) - 0.85 * size
    elif shape == "triangle":
        outside = np.maximum(0.866 * np.abs(x) - 0.5 * y, y) - 0.55 * size
    else:
        bars = [
            np.maximum(np.abs(first) - 0.3 * size, np.abs(other) - size)
            for first, other in ((x, y), (y, x))
        ]
        outside = np.minimum(*bars)
    return np.asarray(np.clip(0.5 - outside, 0, 1))[None]
