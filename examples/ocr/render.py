"""Lines and pages of text as scanners and cameras see them, for PP-OCR's three networks.

`python -m examples.ocr.render` writes golden sets, pools and traffic beside the specs, the same
bytes each time. Fonts are those that Matplotlib and matplotlib-fontja ship.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from infra.identifiers import RequestId
from tasks.metrics.custom.labels import image_label
from tasks.models.corpus import EPOCH, write_corpus
from tasks.models.golden import write_golden
from tasks.records import GoldenCase, Record, Request

HERE = Path(__file__).parent
HEIGHT, WIDTH = 48, 256
PAGE_HEIGHT, PAGE_WIDTH = 128, 256
SHRINK = 0.6
"""How far a text detector's map lies inside a line (Liao et al. 2020, section 3.4).

They shrink an annotator's loose box by 0.4; the boxes here touch the letters."""
LETTERS = "ABCDEFGHKLMNPRSTUVWXYZabcdefghkmnprstuvwxyz"
DIGITS = "0123456789"
HAN = (
    "人大中小上下左右山水火土木金日月年時分車門口手足目耳心天地王玉石田力男女子学校文字本書生先名"
    "前後東西南北京市町村"
)
WORDS = {
    "en": ("Total", "Invoice", "cash", "paid", "change", "thank you", "receipt", "date"),
    "de": ("Summe", "Rechnung", "bar", "gezahlt", "danke", "Beleg", "Datum", "Stück"),
}


@dataclass(frozen=True, slots=True)
class Sight:
    """What stands between a text and its picture."""

    font: str = "DejaVuSans"
    light: float = 1.0  # that pixels are multiplied with
    shade: float = 0.0  # how much darker the right edge is
    noise: float = 4.0  # standard deviation of pixels in 0..255
    blur: float = 0.0  # radius in pixels
    tilt: float = 0.0  # degrees at most, either way
    alphabet: str = LETTERS + DIGITS
    languages: tuple[str, ...] = ()  # of words; none: letters by chance


PHONE = Sight(shade=0.3, noise=6.0, blur=0.6, tilt=1.5, languages=tuple(WORDS))
SIGHTS = {
    "scan": Sight(),
    "serif": Sight(font="DejaVuSerif"),
    "mono": Sight(font="DejaVuSansMono"),
    "phone": PHONE,
    "dark": replace(PHONE, light=0.4),
    "noisy": Sight(noise=24.0),
    "digits": Sight(alphabet=DIGITS),
    "times": Sight(font="STIXGeneralItalic"),
    "script": Sight(font="ipaexg", alphabet=HAN),
}
"""By domain: a font, a camera, what is written."""
SHIPPED = ("scan", "serif", "mono", "phone")
"""What pool and normal traffic hold."""
DRIFTED = ("dark", "noisy", "times", "script")
"""What comes in the scenarios: a darker or noisier camera, another font, another script."""


def write_text(rng: np.random.Generator, sight: Sight) -> tuple[str, str]:
    """Return a word and an amount with their language, or characters by chance."""
    if sight.languages:
        language = str(rng.choice(sight.languages))
        word = str(rng.choice(WORDS[language]))
        return f"{word} {rng.integers(1, 100)}.{rng.integers(10, 100)}", language
    length = int(rng.integers(5, 10)) - 2 * (sight.alphabet == HAN)
    language = "zh" if sight.alphabet == HAN else "none"
    return "".join(rng.choice(list(sight.alphabet), length)), language


def render(text: str, sight: Sight, rng: np.random.Generator) -> Record:
    """Return a JPEG file of one line, as a user sends it."""
    return {"image": _jpeg(_line(text, sight, rng))}


def _line(text: str, sight: Sight, rng: np.random.Generator) -> NDArray[np.float32]:
    font = _font(sight, 32)
    _, top, _, bottom = font.getbbox(text)
    size = 32
    while font.getlength(text) > WIDTH - 16:
        size -= 2
        font = _font(sight, size)
    image = Image.new("RGB", (WIDTH, HEIGHT), (240, 240, 235))
    place = (8, (HEIGHT - top - bottom) / 2)
    ImageDraw.Draw(image).text(place, text, font=font, fill=(20, 20, 30))
    return _photograph(image, sight, rng)


def render_page(sight: Sight, rng: np.random.Generator) -> tuple[Record, NDArray[np.uint8]]:
    """Return a page of two or three lines, and where their maps lie, 0 or 255."""
    image = Image.new("RGB", (PAGE_WIDTH, PAGE_HEIGHT), (240, 240, 235))
    mask = Image.new("L", image.size, 0)
    top = int(rng.integers(4, 16))
    while top < PAGE_HEIGHT - 30:
        font = _font(sight, int(rng.integers(14, 24)))
        text, left = write_text(rng, sight)[0], int(rng.integers(6, 60))
        box = ImageDraw.Draw(image).textbbox((left, top), text, font=font)
        ImageDraw.Draw(image).text((left, top), text, font=font, fill=(20, 20, 30))
        width, height = box[2] - box[0], box[3] - box[1]
        inset = width * height * (1 - SHRINK**2) / (2 * (width + height))
        inner = (box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset)
        ImageDraw.Draw(mask).rectangle(inner, fill=255)
        top += int(rng.integers(34, 50))
    angle = float(rng.uniform(-sight.tilt, sight.tilt))
    pixels = _photograph(image, replace(sight, tilt=0.0), rng, angle)
    return {"image": _jpeg(pixels)}, np.asarray(mask.rotate(angle), np.uint8)


def _photograph(
    image: Image.Image, sight: Sight, rng: np.random.Generator, angle: float = 0.0
) -> NDArray[np.float32]:
    """Return pixels [height, width, 3] after tilt, blur, light and noise."""
    if sight.tilt:
        angle = float(rng.uniform(-sight.tilt, sight.tilt))
    if angle:
        image = image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=(240, 240, 235))
    if sight.blur:
        image = image.filter(ImageFilter.GaussianBlur(sight.blur))
    fall = 1 - sight.shade * np.linspace(0, 1, image.width, dtype=np.float32)[None, :, None]
    pixels = np.asarray(image, np.float32) * np.float32(sight.light) * fall
    noise = rng.normal(0, sight.noise, (image.height, image.width, 1))
    return np.asarray(pixels + noise, np.float32)


def _font(sight: Sight, size: int) -> ImageFont.FreeTypeFont:
    if sight.font == "ipaexg":
        import matplotlib_fontja  # type: ignore[import-not-found, import-untyped, unused-ignore]

        folder = Path(matplotlib_fontja.__file__).parent / "fonts"
    else:
        import matplotlib

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{sight.font}.ttf"), size)


def _jpeg(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=70)
    return np.frombuffer(buffer.getvalue(), np.uint8)


Drawn = tuple[Record, str, str]
"""A payload, its label and its language."""
Draw = Callable[[Sight, np.random.Generator], Drawn]


def line(sight: Sight, rng: np.random.Generator) -> Drawn:
    """Return a line with its text, for the recognizer."""
    text, language = write_text(rng, sight)
    return render(text, sight, rng), text, language


def page(sight: Sight, rng: np.random.Generator) -> Drawn:
    """Return a page with a mask of where its lines are, for the detector."""
    payload, mask = render_page(sight, rng)
    buffer = io.BytesIO()
    Image.fromarray(mask).convert("1").save(buffer, "PNG", optimize=True)
    return (
        payload,
        image_label(buffer.getvalue()),
        sight.languages[0] if sight.languages else "none",
    )


def turned(sight: Sight, rng: np.random.Generator) -> Drawn:
    """Return a line, every other one upside down, with its angle, for the classifier."""
    pixels, angle = _line(write_text(rng, sight)[0], sight, rng), 180 * int(rng.integers(2))
    return {"image": _jpeg(pixels[::-1, ::-1] if angle else pixels)}, str(angle), "none"


def requests(
    domains: Sequence[str],
    count: int,
    seed: int,
    draw: Draw = line,
) -> list[Request]:
    """Return so many labelled pictures, of these domains in turn."""
    rng = np.random.default_rng(seed)
    drawn = []
    for number in range(count):
        domain = domains[number % len(domains)]
        payload, label, language = draw(SIGHTS[domain], rng)
        drawn.append(
            Request(
                request_id=RequestId(f"{seed}-{number}"),
                time=EPOCH,
                tenant="corpus",
                domain=domain,
                language=language,
                payload=payload,
                label=label,
            )
        )
    return drawn


@dataclass(frozen=True, slots=True)
class Shipment:
    """What is shipped with one network's spec."""

    folder: Path
    draw: Draw
    home: tuple[str, ...]  # domains of pool and normal traffic; one twice is drawn twice as often
    drifted: tuple[str, ...]  # of the scenarios' traffic
    new: tuple[str, ...]  # those of them that are judged as well
    each: int  # pictures of a domain
    judged: int  # golden cases of one

    def write(self) -> None:
        """Write golden set, pool and traffic."""
        counts = (self.judged, self.judged, self.each // 2, self.each // 2)
        drawn = [
            requests(domains, count * len(domains), seed, self.draw)
            for seed, (domains, count) in enumerate(
                zip((self.home, self.new, self.home, self.drifted), counts, strict=True), 1
            )
        ]
        golden = [
            GoldenCase(item.request_id, item.payload, item.domain, item.language, label=item.label)
            for item in (*drawn[0], *drawn[1])
        ]
        pool = requests(self.home, 2 * self.each, 5, self.draw)
        (self.folder / "golden.parquet").write_bytes(write_golden(golden))
        (self.folder / "calibration.parquet").write_bytes(write_corpus(pool))
        (self.folder / "traffic.parquet").write_bytes(write_corpus([*drawn[2], *drawn[3]]))


def main() -> None:
    """Write the files of all three."""
    lines = (*SHIPPED, "phone")
    Shipment(HERE, line, lines, DRIFTED, ("times", "script"), 40, 80).write()
    pages, bad = ("scan", "phone"), ("dark", "noisy", "script")
    Shipment(HERE / "detection", page, pages, bad, ("script",), 40, 40).write()
    Shipment(HERE / "orientation", turned, pages, bad, ("script",), 40, 40).write()


if __name__ == "__main__":
    main()
