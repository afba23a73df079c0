"""Lines of text as scanners and cameras see them, for PP-OCR's recognizer.

`python -m examples.ocr.render` writes golden set, pool and traffic beside this file, the same bytes
each time. Fonts are those that Matplotlib ships.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from infra.identifiers import RequestId
from tasks.models.corpus import EPOCH, write_corpus
from tasks.models.golden import write_golden
from tasks.records import GoldenCase, Record, Request

HERE = Path(__file__).parent
HEIGHT, WIDTH = 48, 256
LETTERS = "ABCDEFGHKLMNPRSTUVWXYZabcdefghkmnprstuvwxyz"
DIGITS = "0123456789"


@dataclass(frozen=True, slots=True)
class Sight:
    """What stands between a text and its picture."""

    font: str = "DejaVuSans"
    light: float = 1.0  # that pixels are multiplied with
    noise: float = 4.0  # standard deviation of pixels in 0..255
    alphabet: str = LETTERS + DIGITS


SIGHTS = {
    "scan": Sight(),
    "serif": Sight(font="DejaVuSerif"),
    "mono": Sight(font="DejaVuSansMono"),
    "dark": Sight(light=0.4),
    "noisy": Sight(noise=24.0),
    "digits": Sight(alphabet=DIGITS),
    "times": Sight(font="STIXGeneral"),
}
"""By domain; another script, another font and darker or noisier cameras are drift scenarios."""
SHIPPED = ("scan", "serif", "mono")
"""What pool, golden set and traffic hold: the rest comes as drift."""


def write_text(rng: np.random.Generator, sight: Sight) -> str:
    """Return five to nine characters."""
    return "".join(rng.choice(list(sight.alphabet), int(rng.integers(5, 10))))


def render(text: str, sight: Sight, rng: np.random.Generator) -> Record:
    """Return a JPEG file of one line, as a user sends it."""
    import matplotlib

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(fonts / f"{sight.font}.ttf"), 32)
    _, top, _, bottom = font.getbbox(text)
    image = Image.new("RGB", (WIDTH, HEIGHT), (240, 240, 235))
    place = (8, (HEIGHT - top - bottom) / 2)
    ImageDraw.Draw(image).text(place, text, font=font, fill=(20, 20, 30))
    pixels = np.asarray(image, np.float32) * np.float32(sight.light)
    pixels = pixels + rng.normal(0, sight.noise, (HEIGHT, WIDTH, 1)).astype(np.float32)
    return {"image": _jpeg(pixels)}


def requests(domains: Sequence[str], count: int, seed: int) -> list[Request]:
    """Return so many labelled lines, of these domains in turn."""
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        domain = domains[number % len(domains)]
        text = write_text(rng, SIGHTS[domain])
        lines.append(
            Request(
                request_id=RequestId(f"{seed}-{number}"),
                time=EPOCH,
                tenant="corpus",
                domain=domain,
                language="none",
                payload=render(text, SIGHTS[domain], rng),
                label=text,
            )
        )
    return lines


def _jpeg(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def main() -> None:
    """Write the three files."""
    golden = [
        GoldenCase(item.request_id, item.payload, item.domain, item.language, label=item.label)
        for item in requests(SHIPPED, 150, seed=1)
    ]
    (HERE / "golden.parquet").write_bytes(write_golden(golden))
    (HERE / "calibration.parquet").write_bytes(write_corpus(requests(SHIPPED, 96, seed=2)))
    (HERE / "traffic.parquet").write_bytes(write_corpus(requests(SHIPPED, 192, seed=3)))


if __name__ == "__main__":
    main()
