"""Kinds of model that read texts."""

from benchmarks.evidence import shifts
from benchmarks.evidence.kinds.model_kind import ModelKind
from benchmarks.evidence.kinds.opening import among, open_kind
from benchmarks.evidence.kinds.usual_shifts import adversarial, tenant_mix, weight_update
from benchmarks.evidence.shifts import Select, Shift, TrafficPart


def text_encoder() -> ModelKind:
    """Return MiniLM, calibrated on English documentation."""
    prose, code = among(("docs", "docstrings", "interface"), ("en",)), among(("code",), ("en",))
    return _text(
        "text encoder",
        "minilm",
        prose,
        code,
        among(("interface",), ("ja", "ru")),
        0.008,
        "recall at 5",
    )


def language_model() -> ModelKind:
    """Return the small decoder, calibrated on English prose."""
    prose = among(("docs", "docstrings", "interface", "dialogue", "summary"), ("en",))
    foreign = among((), ("ja", "ru", "zh", "ko"))
    return _text(
        "language model",
        "lm",
        prose,
        among(("code", "coding"), ("en",)),
        foreign,
        0.15,
        "-nats a token",
    )


def _text(
    name: str,
    folder: str,
    prose: Select,
    code: Select,
    foreign: Select,
    budget: float,
    quality: str,
) -> ModelKind:
    changes = (
        Shift("language", "other languages only", (TrafficPart(foreign),)),
        Shift("domain", "source code only", (TrafficPart(code),)),
        Shift("jargon", "three words in ten are new terms", (TrafficPart(prose, shifts.jargon),)),
        Shift("length", "texts four times as long", (TrafficPart(prose, shifts.lengthened),)),
        Shift("noise", "one letter in ten is wrong", (TrafficPart(prose, shifts.misspelt),)),
        tenant_mix("requests in ten are one tenant's code", prose, code, shifts.same),
        weight_update(prose),
        adversarial(prose, shifts.hostile_text, "floods of rare symbols"),
    )
    return open_kind(
        name,
        folder,
        Shift("home", "English prose", (TrafficPart(prose),)),
        changes,
        budget,
        quality,
    )
