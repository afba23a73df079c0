"""Kinds of model that read images and sounds as tensors."""

from benchmarks.evidence import shifts
from benchmarks.evidence.kinds.model_kind import ADAPTER, ModelKind
from benchmarks.evidence.kinds.opening import among, open_kind
from benchmarks.evidence.shifts import Shift, TrafficPart


def image_classifier() -> ModelKind:
    """Return the digits classifier, calibrated at exposures 0.5 and 1."""
    scans = among(("exposure-1",))
    home = shifts.scaled(0.5, 1.0)

    changes = (
        Shift("exposure", "exposures 4 and 8", (TrafficPart(scans, shifts.scaled(4.0, 8.0)),)),
        Shift(
            "noise",
            "white noise of a tenth",
            (TrafficPart(scans, shifts.chained(home, shifts.noisy(0.1))),),
        ),
        Shift(
            "sensor offset",
            "a quarter of the largest value added",
            (TrafficPart(scans, shifts.chained(home, shifts.offset(0.25))),),
        ),
        Shift(
            "tenant mix",
            "nine images in ten from a tenant at exposure 4",
            (TrafficPart(scans, home, 0.1), TrafficPart(scans, shifts.scaled(4.0), 0.9)),
        ),
        Shift(
            "weight update",
            "a low-rank update of every matrix",
            (TrafficPart(scans, home),),
            weights=ADAPTER,
        ),
        Shift(
            "adversarial",
            "spikes, the worst of four",
            (TrafficPart(scans, shifts.chained(home, shifts.hostile_tensor)),),
            variants=4,
        ),
    )
    return open_kind(
        "image classifier",
        "digits",
        Shift("home", "exposures 0.5 and 1", (TrafficPart(scans, home),)),
        changes,
        0.05,
        "accuracy",
    )


def speech_recognizer() -> ModelKind:
    """Return the recognizer of spoken digits, calibrated on recordings of the studio."""
    studio = among(("studio",))
    changes = (
        Shift(
            "gain",
            "recordings four and eight times as loud",
            (TrafficPart(studio, shifts.scaled(4.0, 8.0)),),
        ),
        Shift("noise", "white noise of a fifth", (TrafficPart(studio, shifts.noisy(0.2)),)),
        Shift(
            "sensor offset",
            "a tenth of the largest value added",
            (TrafficPart(studio, shifts.offset(0.1)),),
        ),
        Shift(
            "length",
            "up to half a second of a quiet room before the words",
            (TrafficPart(studio, shifts.late),),
        ),
        Shift(
            "tenant mix",
            "nine recordings in ten from a tenant with a weak, noisy line",
            (
                TrafficPart(studio, fraction=0.1),
                TrafficPart(studio, shifts.chained(shifts.scaled(0.05), shifts.noisy(0.1)), 0.9),
            ),
        ),
        Shift(
            "weight update",
            "a low-rank update of every matrix",
            (TrafficPart(studio),),
            weights=ADAPTER,
        ),
        Shift(
            "adversarial",
            "clicks, the worst of four",
            (TrafficPart(studio, shifts.hostile_tensor),),
            variants=4,
        ),
    )
    home = Shift("home", "studio recordings", (TrafficPart(studio),))
    return open_kind("speech recognizer", "speech", home, changes, 0.05, "word accuracy")


def image_encoder() -> ModelKind:
    """Return the encoder of coloured shapes, calibrated at daylight."""
    daylight = among(("daylight",))
    changes = (
        Shift("exposure", "exposures 2 and 4", (TrafficPart(daylight, shifts.scaled(2.0, 4.0)),)),
        Shift("noise", "white noise of a fifth", (TrafficPart(daylight, shifts.noisy(0.2)),)),
        Shift(
            "sensor offset",
            "half of the largest value added",
            (TrafficPart(daylight, shifts.offset(0.5)),),
        ),
        Shift(
            "tenant mix",
            "nine images in ten from a tenant at exposure 4",
            (TrafficPart(daylight, fraction=0.1), TrafficPart(daylight, shifts.scaled(4.0), 0.9)),
        ),
        Shift(
            "weight update",
            "a low-rank update of every matrix",
            (TrafficPart(daylight),),
            weights=ADAPTER,
        ),
        Shift(
            "adversarial",
            "spikes, the worst of four",
            (TrafficPart(daylight, shifts.hostile_tensor),),
            variants=4,
        ),
    )
    return open_kind(
        "image encoder",
        "vision",
        Shift("home", "daylight", (TrafficPart(daylight),)),
        changes,
        0.02,
        "accuracy",
    )
