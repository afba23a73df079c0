"""PP-OCR's recognizer, which reads image files."""

from benchmarks.evidence import shifts
from benchmarks.evidence.kinds.model_kind import ADAPTER, ModelKind
from benchmarks.evidence.kinds.opening import among, open_kind
from benchmarks.evidence.shifts import Shift, TrafficPart
from examples.ocr.render import SHIPPED


def text_recognizer() -> ModelKind:
    """Return the recognizer of lines of text, calibrated on the cameras and fonts it ships with."""
    home, font, script = among(SHIPPED), among(("times",)), among(("script",))
    dark = shifts.pictured(shifts.scaled(0.4))
    changes = (
        Shift("exposure", "two fifths of the light", (TrafficPart(home, dark),)),
        Shift(
            "noise",
            "white noise of a tenth",
            (TrafficPart(home, shifts.pictured(shifts.noisy(0.1))),),
        ),
        Shift("font", "a font that was never calibrated on", (TrafficPart(font),)),
        Shift("script", "Chinese characters only", (TrafficPart(script),)),
        Shift(
            "tenant mix",
            "nine lines in ten from a tenant who writes Chinese in the dark",
            (TrafficPart(home, fraction=0.1), TrafficPart(script, dark, 0.9)),
        ),
        Shift(
            "weight update",
            "a low-rank update of every matrix",
            (TrafficPart(home),),
            weights=ADAPTER,
        ),
        Shift(
            "adversarial",
            "spikes, the worst of four",
            (TrafficPart(home, shifts.pictured(shifts.hostile_tensor)),),
            variants=4,
        ),
    )
    calibrated = Shift("home", "three fonts and a phone", (TrafficPart(home),))
    return open_kind("text recognizer", "ocr", calibrated, changes, 0.1, "character accuracy")
