"""Kinds of model that read images and sounds as tensors."""

from benchmarks.evidence import shifts
from benchmarks.evidence.kinds.model_kind import ModelKind
from benchmarks.evidence.kinds.opening import among, open_kind
from benchmarks.evidence.kinds.usual_shifts import (
    adversarial,
    noise,
    sensor_offset,
    tenant_mix,
    weight_update,
)
from benchmarks.evidence.shifts import Shift, TrafficPart

BRIGHT_TENANT = "images in ten from a tenant at exposure 4"


def image_classifier() -> ModelKind:
    """Return the digits classifier, calibrated at exposures 0.5 and 1."""
    scans = among(("exposure-1",))
    home = shifts.scaled(0.5, 1.0)

    changes = (
        Shift("exposure", "exposures 4 and 8", (TrafficPart(scans, shifts.scaled(4.0, 8.0)),)),
        noise(scans, shifts.chained(home, shifts.noisy(0.1)), "a tenth"),
        sensor_offset(scans, shifts.chained(home, shifts.offset(0.25)), "a quarter"),
        tenant_mix(BRIGHT_TENANT, scans, scans, shifts.scaled(4.0), usual=home),
        weight_update(scans, home),
        adversarial(scans, shifts.chained(home, shifts.hostile_tensor)),
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
        noise(studio, shifts.noisy(0.2), "a fifth"),
        sensor_offset(studio, shifts.offset(0.1), "a tenth"),
        Shift(
            "length",
            "up to half a second of a quiet room before the words",
            (TrafficPart(studio, shifts.late),),
        ),
        tenant_mix(
            "recordings in ten from a tenant with a weak, noisy line",
            studio,
            studio,
            shifts.chained(shifts.scaled(0.05), shifts.noisy(0.1)),
        ),
        weight_update(studio),
        adversarial(studio, shifts.hostile_tensor, "clicks"),
    )
    home = Shift("home", "studio recordings", (TrafficPart(studio),))
    return open_kind("speech recognizer", "speech", home, changes, 0.05, "word accuracy")


def image_encoder() -> ModelKind:
    """Return the encoder of coloured shapes, calibrated at daylight."""
    daylight = among(("daylight",))
    changes = (
        Shift("exposure", "exposures 2 and 4", (TrafficPart(daylight, shifts.scaled(2.0, 4.0)),)),
        noise(daylight, shifts.noisy(0.2), "a fifth"),
        sensor_offset(daylight, shifts.offset(0.5), "half"),
        tenant_mix(BRIGHT_TENANT, daylight, daylight, shifts.scaled(4.0)),
        weight_update(daylight),
        adversarial(daylight, shifts.hostile_tensor),
    )
    return open_kind(
        "image encoder",
        "vision",
        Shift("home", "daylight", (TrafficPart(daylight),)),
        changes,
        0.02,
        "accuracy",
    )
