"""A workspace in which a model has served for weeks.

`python -m benchmarks.orchestration.served FOLDER` writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from infra.canonical import Json, canonical, sha256
from infra.releases import write_release
from infra.settings import Settings, use_workspace
from infra.stores import layout
from tasks.drift.evidence import Evidence, dump_evidence
from tasks.drift.statistics.streams import Stream
from tasks.promotion import journal
from tasks.promotion.decisions import decision_details
from tasks.promotion.ledger import EntryKind, body
from tasks.records import Action, Decision, DetectorResult, Finding, Health, ReleaseRef, SampleRef

MODEL = "tiny"
SPEC = f"""
version: 1
name: {MODEL}
source: .
task: image-classification
input: {{shape: [1, 8, 8]}}
data: {{calibration: pool.parquet}}
golden: {{cases: golden.parquet}}
budgets: {{latency_ratio: 1.0, size_ratio: 0.5, quality: [{{metric: flips, at_most: 0.05}}]}}
targets: [onnxruntime-cpu]
schedule: {{slug: daily, cron: "15 6 * * *"}}
"""
WINDOWS = 28
START = datetime(2026, 1, 5, tzinfo=UTC)
FILES = ("scales.json", "graph.onnx", "engines/onnxruntime-cpu/plan")
"""Files of the release."""
DETECTORS = ("input", "range", "fidelity", "control")
STREAMS = 12
"""Streams of evidence of one detector: groups, features or layers."""
REASONS = ("Ranges and fidelity are fine: keep.",)
SOURCE = sha256(b"graph")
REGISTRATION = sha256(SPEC.encode())


def prepare(chosen: Settings) -> None:
    """Fill this process's empty workspace: a champion, decisions with evidence, lineage."""
    store = chosen.store()
    store.put(layout.registration_file(MODEL, REGISTRATION, "spec.yaml"), SPEC.encode())
    store.put(layout.registration_in_use(MODEL), canonical({"version": 1, "digest": REGISTRATION}))
    windows = [_window(chosen, number) for number in range(WINDOWS)]
    champion = _promoted(chosen, windows[0])
    for number, window in enumerate(windows, 1):
        _decided(chosen, champion, window, number)


def _window(chosen: Settings, number: int) -> SampleRef:
    start = START + timedelta(days=number)
    digest, end = sha256(b"window %d" % number), (start + timedelta(days=1)).isoformat()
    key, traffic = layout.window(MODEL, digest), sha256(b"traffic %d" % number)
    times = (start.isoformat(), end)
    window = SampleRef(MODEL, digest, key, 256, 9000, {}, (), *times, source=traffic)
    chosen.store().put(layout.sample_facts(key), canonical(asdict(window)))
    return window


def _promoted(chosen: Settings, window: SampleRef) -> ReleaseRef:
    calibration = sha256(b"calibration")
    facts: dict[str, Json] = {"source": window.digest, "rows": window.rows, "end": window.end}
    chosen.store().put(
        layout.sample_facts(layout.calibration_set(MODEL, calibration)), canonical(facts)
    )
    manifest: dict[str, Json] = {
        "model": REGISTRATION,
        "calibration": calibration,
        "recipe": {"name": "int8"},
    }
    files = {name: name.encode() for name in FILES}
    release = write_release(chosen.store(), MODEL, files, manifest, chosen.signer())
    champion = ReleaseRef(MODEL, "1", release.digest)
    named = {"version": champion.version, "release": champion.digest}
    _append(body(EntryKind.PROMOTED, actor="a person", reason="first", **named))
    return champion


def _decided(chosen: Settings, champion: ReleaseRef, window: SampleRef, number: int) -> None:
    evidence: dict[str, Json] = {
        detector: _evidence(
            chosen,
            f"{layout.evidence_folder(MODEL, champion.digest, SOURCE, detector)}{number:08d}.json",
            window,
            number,
        )
        for detector in DETECTORS
    }
    finding = Finding("all", 0.999, 0.95, False, "agreement is 0.999; at least 0.95 is wanted")
    results = tuple(
        DetectorResult(detector, Health.FINE, (finding,), window.rows) for detector in DETECTORS
    )
    decision = Decision(Action.KEEP, REASONS, results, window.digest, "nothing")
    basis: dict[str, Json] = {
        "source": SOURCE,
        "builds": False,
        "references": {},
        "evidence": evidence,
    }
    details = {**decision_details(decision, window), **basis, "champion": asdict(champion)}
    _append(
        body(EntryKind.DECIDED, actor="maintenance", reason=decision.reasons[0], details=details)
    )


def _evidence(chosen: Settings, key: str, window: SampleRef, number: int) -> Json:
    stream = Stream("0.95", (-0.1 * number,) * 8, (-0.5,) * 8, 256 * number, 1.0)
    streams = {f"language={place}": stream for place in range(STREAMS)}
    data = dump_evidence(Evidence(streams, (window.digest,), datetime.fromisoformat(window.end)))
    chosen.store().put(key, data)
    return {"key": key, "digest": sha256(data)}


def _append(entry: Mapping[str, Json]) -> None:
    def always(_: object) -> Mapping[str, Json]:
        return entry

    journal.commit(MODEL, always)


if __name__ == "__main__":
    prepare(use_workspace(Path(sys.argv[1])))
