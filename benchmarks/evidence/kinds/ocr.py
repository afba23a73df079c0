"""PP-OCR's recognizer, which reads image files."""

from benchmarks.evidence import shifts
from benchmarks.evidence.kinds.model_kind import ModelKind
from benchmarks.evidence.kinds.opening import among, open_kind
from benchmarks.evidence.kinds.usual_shifts import (
    adversarial,
    noise,
    tenant_mix,
    weight_update,
)
from benchmarks.evidence.shifts import Shift, TrafficPart
from examples.ocr.render import SHIPPED


def text_recognizer() -> ModelKind:
    """Return the recognizer of lines of text, calibrated on the cameras and fonts it ships with."""
    home, font, script = among(SHIPPED), among(("times",)), among(("script",))
    dark = shifts.pictured(shifts.scaled(0.4))
    changes = (
        Shift("exposure", "two fifths of the light", (TrafficPart(home, dark),)),
        noise(home, shifts.pictured(shifts.noisy(0.1)), "a tenth"),
        Shift("font", "a font that was never calibrated on", (TrafficPart(font),)),
        Shift("script", "Chinese characters only", (TrafficPart(script),)),
        tenant_mix("lines in ten from a tenant who writes Chinese in the dark", home, script, dark),
        weight_update(home),
        adversarial(home, shifts.pictured(shifts.hostile_tensor)),
    )
    calibrated = Shift("home", "three fonts and a phone", (TrafficPart(home),))
    return open_kind("text recognizer", "ocr", calibrated, changes, 0.1, "character accuracy")
