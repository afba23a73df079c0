"""Releases of graphs that differ by their width alone, stored and registered as the loop does."""

from __future__ import annotations

from onnx import TensorProto, helper

from benchmarks.orchestration.served import MODEL
from infra.canonical import Json
from infra.registry.numbers import Numbers
from infra.releases import write_release
from infra.settings import Settings
from tasks.promotion import journal
from tasks.promotion.ledger import highest_number
from tasks.promotion.release import CPU_PLAN, GRAPH
from tasks.records import ReleaseRef


def numbered_graph(number: int) -> bytes:
    """Return a graph of so many columns."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", number]) for name in "xy"]
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "relu", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def release_numbered(chosen: Settings, number: int) -> ReleaseRef:
    """Write, sign and register the release of a number; the same again is the same."""
    graph = numbered_graph(number)
    facts: dict[str, Json] = {"verdicts": {"onnxruntime-cpu": "passed"}, "number": number}
    files = {GRAPH: graph, CPU_PLAN: graph}
    release = write_release(chosen.store(), MODEL, files, facts, chosen.signer())
    version = chosen.registry().register(
        MODEL,
        graph,
        release=release.digest,
        tags={},
        run_name=f"release {number}",
        metrics={},
        params={},
        artifacts={},
        numbers=Numbers(highest=highest_number(journal.read(MODEL))),
    )
    return ReleaseRef(release.model, version, release.digest)
