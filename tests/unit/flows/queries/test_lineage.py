"""From traffic to an engine and back, from any digest."""

import json
from pathlib import Path

import pytest

from flows.queries import lineage as flow
from infra.errors import BadInput, NotFound
from infra.releases import write_release
from infra.settings import Settings
from tasks import lineage
from tasks.lineage import Node
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, body

WINDOW, SET, OTHER, TRAFFIC, MODEL = ("a" * 64, "b" * 64, "c" * 64, "d" * 64, "e" * 64)


@pytest.fixture
def stored(workspace: Settings) -> Settings:
    """Store two releases from two calibration sets of one window; the second is champion."""
    store = workspace.store()
    store.put("models/m/current", json.dumps({"version": 1, "digest": MODEL}).encode())
    store.put(
        f"windows/m/{WINDOW}.json",
        json.dumps({"source": TRAFFIC, "rows": 9, "end": "2026-01-02T00:00"}).encode(),
    )
    store.put(f"windows/m/{WINDOW}.weights.json", b"{}")
    for number, digest in enumerate((SET, OTHER), 1):
        store.put(
            f"calibration/m/{digest}.json", json.dumps({"source": WINDOW, "rows": 5}).encode()
        )
        files = {
            "scales.json": b"s%d" % number,
            "graph.onnx": b"g%d" % number,
            "engines/cpu/plan": b"p%d" % number,
        }
        facts = {
            "model": MODEL,
            "calibration": digest,
            "observation": f"observations/m/{number}.npz",
        }
        release = write_release(
            store, "m", files, {**facts, "recipe": {"name": "int8"}}, workspace.signer()
        )
        entry = body(
            EntryKind.PROMOTED, actor="a", reason="r", version=str(number), release=release.digest
        )
        journal.commit("m", lambda _, entry=entry: entry)
    return workspace


def kinds(graph: lineage.Lineage) -> list[str]:
    return [node.kind for node in lineage.ordered(graph)]


CHAIN = [
    "traffic",
    "model",
    "window",
    "calibration",
    "observation",
    "scales",
    "graph",
    "engine",
    "release",
    "version",
]


def test_a_version_leads_up_to_its_traffic_and_holds_nothing_of_its_sister(
    stored: Settings,
) -> None:
    found = flow.of("m", version="2")
    assert kinds(found) == CHAIN
    assert f"calibration:{OTHER}" in found.nodes
    assert f"calibration:{SET}" not in found.nodes
    assert found.nodes["version:2"].facts["aliases"] == "champion"


def test_a_window_leads_down_to_every_release_that_came_of_it(stored: Settings) -> None:
    found = flow.of("m", digest=WINDOW[:8])
    assert kinds(found).count("version") == 2
    assert kinds(flow.of("m", digest=f"calibration:{SET}")) == [
        kind for kind in CHAIN if kind != "model"
    ]
    engine = next(node for node in found.nodes.values() if node.kind == "engine")
    assert kinds(flow.of("m", digest=engine.digest)) == CHAIN


def test_openlineage_events_name_inputs_and_outputs_and_keep_their_run_ids(
    stored: Settings,
) -> None:
    found = flow.of("m", version="1")
    events = [json.loads(line) for line in flow.exported(found, "openlineage").splitlines()]
    by_job = {one["job"]["name"]: one for one in events}
    observed = by_job["m.observe-calibration-set"]
    assert {one["name"].split("/")[1] for one in observed["inputs"]} == {"calibration", "model"}
    assert observed["eventType"] == "COMPLETE"
    assert observed["schemaURL"].startswith("https://openlineage.io/spec/")
    assert [one["run"]["runId"] for one in events] == [
        json.loads(line)["run"]["runId"]
        for line in flow.exported(found, "openlineage").splitlines()
    ]


def test_prov_names_only_entities_and_activities_that_it_declares(stored: Settings) -> None:
    document = json.loads(flow.exported(flow.of("m"), "prov"))
    for one in document["wasGeneratedBy"].values():
        assert one["prov:entity"] in document["entity"]
        assert one["prov:activity"] in document["activity"]
    for one in document["wasDerivedFrom"].values():
        assert {one["prov:generatedEntity"], one["prov:usedEntity"]} <= document["entity"].keys()
    assert len(document["used"]) == len(document["wasDerivedFrom"]) > 10


def test_what_is_not_known_is_refused_with_what_is(stored: Settings, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no version '7' in its ledger: known are 1, 2"):
        flow.of("m", version="7")
    with pytest.raises(NotFound, match="nothing of m has the digest 'ffffff'"):
        flow.of("m", digest="ffffff")
    with pytest.raises(BadInput, match="not both"):
        flow.of("m", version="1", digest=SET)
    with pytest.raises(BadInput, match="cannot be written"):
        flow.write(flow.of("m"), "prov", tmp_path / "nowhere" / "x.json")


def test_a_beginning_that_several_share_is_refused() -> None:
    graph = lineage.lineage("m", (Node("scales", "abcdef1"), Node("graph", "abcdef2")), ())
    with pytest.raises(BadInput, match="may be any of 2"):
        lineage.find(graph, "abcdef")
    assert lineage.find(graph, "abcdef2").kind == "graph"


def test_a_damaged_document_ends_its_chain_and_spoils_no_other(stored: Settings) -> None:
    stored.store().put(f"calibration/m/{SET}.json", b"{")
    assert kinds(flow.of("m", version="2")) == CHAIN
    assert "window" not in kinds(flow.of("m", version="1"))
