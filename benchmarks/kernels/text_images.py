"""PP-OCR's three models with pages and lines rendered for them, and the digits.

Words are an earlier documentation's, in `words.txt`, so that figures stay when pages change; fonts
are those that Matplotlib ships.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.harness.subject import EXAMPLES, Subject
from infra.sources import fetch
from tasks.models.custom.layout import read_record_layout
from tasks.models.export import export
from tasks.models.inputs import open_inputs
from tasks.records import Record
from tasks.specs.spec import ModelSpec

FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Bold", "STIXGeneral")
PAGE, LINE, TURNED = (640, 640), (48, 320), (48, 192)
"""Height and width of what detector, recognizer and classifier of orientation read."""
FILES = {
    "det": "ch_PP-OCRv4_det_infer",
    "rec": "ch_PP-OCRv4_rec_infer",
    "cls": "ch_ppocr_mobile_v2.0_cls_infer",
}
BUDGETS = {
    "det": {"latency_ratio": 0.6},
    "rec": {"latency_ratio": 0.6},
    # Three in ten products are of depthwise layers, on which INT8 loses time.
    "cls": {"latency_ratio": 0.95, "int8_fraction": 0.65},
}
Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class RenderedImage:
    """What one model reads, [3, height, width], and what is on it."""

    pixels: Pixels
    label: str


@cache
def words() -> tuple[str, ...]:
    """Return the words that are drawn, common ones often."""
    return tuple(Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split())


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return one of Matplotlib's fonts."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{name}.ttf"), size)


def page(seed: int) -> RenderedImage:
    """Return a page of text in several fonts and sizes, as the detector reads it."""
    rng = np.random.default_rng(seed)
    height, width = PAGE
    image = Image.new("RGB", (width, height), _colour(rng, 200, 256))
    draw, top = ImageDraw.Draw(image), 10
    while top < height - 50:
        letters = font(FONTS[rng.integers(len(FONTS))], int(rng.integers(14, 40)))
        text = " ".join(rng.choice(words(), rng.integers(1, 6)))
        draw.text((int(rng.integers(5, 120)), top), text, _colour(rng, 0, 120), letters)
        top += int(letters.size * 1.2 + rng.integers(5, 40))
    return RenderedImage(_scaled(image, PAGE), "")


def line(seed: int) -> RenderedImage:
    """Return a line of one to three words, as the recognizer reads it."""
    image, text = _line(np.random.default_rng(seed))
    return RenderedImage(_fitted(image, LINE), text)


def turned_line(seed: int) -> RenderedImage:
    """Return a line that stands upright or on its head, as the classifier reads it."""
    image, _ = _line(np.random.default_rng(seed))
    turned = seed % 2 == 1
    return RenderedImage(_fitted(image.rotate(180) if turned else image, TURNED), str(int(turned)))


DRAWN: Mapping[str, Callable[[int], RenderedImage]] = {"det": page, "rec": line, "cls": turned_line}


def subject_of(
    name: str, calibration: Sequence[RenderedImage], judged: Sequence[RenderedImage]
) -> Subject:
    """Return a model as its package ships it, brought through the product's own door."""
    spec = ModelSpec.model_validate(_spec(name))
    source = fetch(spec.source, base=EXAMPLES, cache=EXAMPLES)
    model, given = export(spec, source), [_record(item) for item in calibration]
    layout = read_record_layout(model, spec.input, given)
    return Subject(
        name,
        spec,
        source,
        model,
        open_inputs(spec, None, model, layout=layout),
        (),
        tuple(given),
        {"all": tuple(_record(item) for item in judged)},
    )


def charset(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the recognizer's characters, which its file carries, and the space behind them."""
    (letters,) = [item.value for item in model.metadata_props if item.key == "character"]
    return (*letters.splitlines(), " ")


def _spec(name: str) -> dict[str, object]:
    return {
        "version": 1,
        "name": name,
        "source": f"package:rapidocr_onnxruntime/models/{FILES[name]}.onnx",
        "task": "custom",
        "input": {},
        "data": {"calibration": "calibration.parquet"},
        "golden": {"cases": "golden.parquet"},
        "budgets": {"size_ratio": 1.0} | BUDGETS[name],
        "metrics": [{"name": "cosine", "budget": 0.9}],
        "targets": ["onnxruntime-cpu"],
        "schedule": {"slug": "nightly", "cron": "0 3 * * *"},
    }


def _record(item: RenderedImage) -> Record:
    return {"x": item.pixels}


def _line(rng: np.random.Generator) -> tuple[Image.Image, str]:
    letters = font(FONTS[rng.integers(len(FONTS))], int(rng.integers(18, 40)))
    text = " ".join(rng.choice(words(), rng.integers(1, 3)))
    size = (int(letters.getlength(text)) + 16, int(letters.size * 1.5))
    image = Image.new("RGB", size, _colour(rng, 190, 256))
    ImageDraw.Draw(image).text((8, letters.size * 0.15), text, _colour(rng, 0, 110), letters)
    return image, text


def _colour(rng: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue


def _fitted(image: Image.Image, size: tuple[int, int]) -> Pixels:
    """Scale to the height, and pad to the width with what the models take for nothing."""
    height, width = size
    scaled = image.resize((min(width, height * image.width // image.height), height))
    pixels = np.zeros((3, height, width), np.float32)
    pixels[:, :, : scaled.width] = _scaled(scaled, (height, scaled.width))
    return pixels


def _scaled(image: Image.Image, size: tuple[int, int]) -> Pixels:
    pixels = np.asarray(image, np.float32).reshape(*size, 3)[:, :, ::-1] / 255
    return np.ascontiguousarray(((pixels - 0.5) / 0.5).transpose(2, 0, 1))
