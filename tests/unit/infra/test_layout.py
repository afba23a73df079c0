"""Each key belongs to one kind, and each kind that is derived says what from."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.stores import layout
from infra.stores.layout import KINDS, Holds, ObjectKind
from infra.stores.local import LocalStore
from tests.stored_kinds import kinds_of

A, B = "a" * 64, "b" * 64
HOUR = datetime(2026, 3, 1, 9, 41, tzinfo=UTC)
OBSERVATION = layout.observation("m", A, B)
SPELT = {
    layout.REGISTRATION: layout.registration_file("m", A, "golden.parquet"),
    layout.REGISTRATION_IN_USE: layout.registration_in_use("m"),
    layout.SPEC_FOLDER: layout.spec_folder("m"),
    layout.REPLAY: layout.replay("m"),
    layout.WEIGHT: layout.weight(f"sha256-{A}"),
    layout.WEIGHTS_GOING: layout.weights_going(),
    layout.TRAFFIC: layout.traffic_part("m", HOUR, A[:32]),
    layout.PROFILE: layout.part_profile(
        {"model": "m", "date": "2026-03-01", "hour": "09", "digest": A[:32]}, 3, B
    ),
    layout.REJECTED: layout.rejected("m", A),
    layout.FILE_RECORD: layout.file_record("m", "my-logs", "waiting", A, B),
    layout.LAST_INTAKE: layout.last_intake("m", "my-logs"),
    layout.TRACE_PROGRESS: layout.trace_progress("m", "my-logs", A),
    layout.SOURCE_ORIGIN: layout.source_origin("m", "my-logs", A),
    layout.WINDOW: layout.window("m", A),
    layout.WINDOW_FACTS: layout.sample_facts(layout.window("m", A)),
    layout.WINDOW_WEIGHTS: layout.sample_weights(layout.window("m", A)),
    layout.WINDOW_MARKS: layout.sample_marks(layout.window("m", A)),
    layout.CALIBRATION: layout.calibration_set("m", A),
    layout.CALIBRATION_FACTS: layout.sample_facts(layout.calibration_set("m", A)),
    layout.CALIBRATION_WEIGHTS: layout.sample_weights(layout.calibration_set("m", A)),
    layout.CALIBRATION_MARKS: layout.sample_marks(layout.calibration_set("m", A)),
    layout.DRAW: layout.draw("m", A),
    layout.QUARANTINE: layout.quarantine("m", A),
    layout.FROZEN_TRAFFIC: layout.frozen_traffic("m", A),
    layout.OBSERVATION: layout.observation("m", A, B, "0a1b2c3d"),
    layout.CHAMPION_OBSERVATION: layout.champion_observation(OBSERVATION, A),
    layout.SENSITIVITY: layout.sensitivity("m", A[:32], others=True),
    layout.CANDIDATE: layout.candidate_file("m", A, "engines/onnxruntime-cpu/plan"),
    layout.VERDICT: layout.verdict("m", A),
    layout.EVIDENCE: f"{layout.evidence_folder('m', A, B, 'whole-traffic')}00000007.json",
    layout.EMBEDDING: layout.embeddings("m", A, B),
    layout.REPORT: layout.report("m", A, "evidently.html"),
    layout.REPORT_LIBRARY: layout.report_library(A),
    layout.RELEASE: layout.release_file("m", A, "golden/onnxruntime-cpu.json"),
    layout.LEDGER: f"{layout.ledger('m')}/00000001.json",
    layout.ACCESS: f"{layout.access_log()}/00000001.json",
    layout.PROJECTION: layout.projection("m"),
    layout.PROJECTING: layout.projecting("m", "n"),
    layout.FORGETTING: layout.act_of_forgetting("m", A[:32]),
    layout.TIMING_CACHE: layout.timing_cache("tensorrt_rtx-1.2/9.0-H200/driver-580"),
    layout.STORE_PROBE: layout.store_probe("0123456789abcdef"),
}


def test_every_kind_is_spelt_here() -> None:
    assert set(SPELT) == set(KINDS)
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_key_belongs_to_its_kind_and_to_no_other(kind: ObjectKind) -> None:
    assert kinds_of(SPELT[kind]) == (kind,)
    assert SPELT[kind].startswith(
        kind.prefix(**({"model": "m"} if "{model}" in kind.template else {}))
    )


def test_keys_are_spelt_as_they_always_were() -> None:
    assert SPELT[layout.TRAFFIC] == f"traffic/m/date=2026-03-01/hour=09/part-{A[:32]}.parquet"
    assert SPELT[layout.OBSERVATION] == f"observations/m/{A[:16]}-{B}-0a1b2c3d.npz"
    assert SPELT[layout.CHAMPION_OBSERVATION] == (
        f"observations/m/{A[:16]}-{B}-seen-by-{A[:16]}.npz"
    )
    assert SPELT[layout.EVIDENCE] == f"evidence/m/{A[:16]}-{B[:16]}/whole-traffic/00000007.json"
    assert SPELT[layout.EMBEDDING] == f"embeddings/m/{A[:16]}-{B[:32]}.npy"
    assert SPELT[layout.REPORT] == f"reports/m/{A[:16]}/evidently.html"
    assert SPELT[layout.SENSITIVITY] == f"sensitivities/m/{A[:32]}-others.json"


def test_what_follows_from_requests_names_a_kind_that_holds_them() -> None:
    kinds = {kind.name: kind for kind in KINDS}
    for kind in KINDS:
        assert bool(kind.sources) >= (kind.holds is Holds.ROWS), kind
        for source in kind.sources:
            assert kinds[source.kind].holds is Holds.REQUESTS
            assert f"{{{source.field}}}" in kind.template


def test_rows_are_found_by_what_they_were_made_from(tmp_path: Path) -> None:
    store, sample = LocalStore(str(tmp_path)), layout.calibration_set("m", B)
    others = (
        layout.embeddings("m", A, A),
        layout.observation("m", A, A),
        layout.report("m", B, "x"),
    )
    rows = (
        layout.embeddings("m", A, B),
        layout.observation("m", A, B),
        SPELT[layout.CHAMPION_OBSERVATION],
    )
    for key in (*others, *rows, layout.embeddings("other", A, B), sample):
        store.put(key, b"")
    assert set(layout.rows_made_from(store, layout.CALIBRATION, sample)) == set(rows)
