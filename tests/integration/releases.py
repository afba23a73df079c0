"""Releases of a small graph, stored and registered as the loop does, for tests of promotion."""

from __future__ import annotations

import json

from infra.canonical import Json
from infra.identifiers import Digest, ModelName
from infra.registry.numbers import Numbers
from infra.releases import write_release
from infra.settings import Settings
from tasks.promotion import journal
from tasks.promotion.ledger import highest_number
from tasks.records import ReleaseRef
from tests.integration.test_registry import tiny_onnx

GATES: Json = {
    "version": 1,
    "target": "onnxruntime-cpu",
    "gates": [
        {"metric": "cosine", "group": "all", "estimate": {"value": 0.99}},
        {"metric": "layer-precision", "group": "all", "estimate": None},
    ],
}


def released(
    settings: Settings,
    scale: float,
    model: str = "tiny",
    verdict: str = "passed",
    plan: bytes | None = None,
) -> ReleaseRef:
    """Store and register a release of this plan, or of a graph that multiplies by `scale`."""
    plan = plan or tiny_onnx(scale)
    files = {
        "graph.onnx": plan,
        "engines/onnxruntime-cpu/plan": plan,
        "golden/onnxruntime-cpu.json": json.dumps(GATES).encode(),
    }
    facts: dict[str, Json] = {
        "recipe": {"name": "int8-max"},
        "calibration": "c" * 64,
        "verdicts": {"onnxruntime-cpu": verdict},
    }
    release = write_release(settings.store(), model, files, facts, settings.signer())
    version = settings.registry().register(
        model,
        plan,
        release=release.digest,
        tags={"recipe": "int8-max"},
        run_name=f"candidate {scale}",
        metrics={"cosine": 0.99},
        params={"recipe": "int8-max"},
        numbers=Numbers(highest=highest_number(journal.read(model))),
        artifacts={"golden/onnxruntime-cpu.json": files["golden/onnxruntime-cpu.json"]},
    )
    return ReleaseRef(ModelName(model), version, Digest(release.digest))


def promoted(settings: Settings, *scales: float, model: str = "tiny") -> list[ReleaseRef]:
    """Release and promote one after the other; the last is the champion."""
    from tasks.promotion.acts.promoting import promote

    releases: list[ReleaseRef] = []
    for scale in scales:
        release = released(settings, scale, model)
        promote(release, releases[-1].version if releases else None, "tester", "it passed")
        releases.append(release)
    return releases


def flip(settings: Settings, release: ReleaseRef, file: str) -> None:
    """Flip a bit of one file of a stored bundle."""
    key = f"releases/{release.model}/{release.digest}/{file}"
    data = bytearray(settings.store().get(key))
    data[len(data) // 2] ^= 1
    settings.store().put(key, bytes(data))
