"""Where a release comes from, and what came of some traffic: one graph of digests.

    traffic ─► window ─► calibration set ─► observation ─► scales ─►
                                                   model ─┘
        graph ─► engines ─► release ─► version

Exported as OpenLineage events (one a step) or as W3C PROV-JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import NAMESPACE_URL, uuid5

from infra.canonical import Json
from infra.errors import BadInput, NotFound

KINDS = (
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
)
"""From what was given to what serves."""
STEPS: Mapping[str, str] = {
    "window": "sample-window",
    "calibration": "compose-calibration-set",
    "observation": "observe-calibration-set",
    "scales": "derive-scales",
    "graph": "write-qdq-graph",
    "engine": "build-engine",
    "release": "release-candidate",
    "version": "register",
}
"""The step that makes each kind."""
PRODUCER = "https://github.com/requant/requant"
SHORTEST = 6
"""Digits of a digest that tell it from the others."""


@dataclass(frozen=True, slots=True)
class Node:
    """One thing that was made, or given."""

    kind: str
    digest: str  # SHA-256 of what it is or was made from; of a version its number
    facts: Mapping[str, str] = field(
        default_factory=dict
    )  # key in the store, recipe, target, alias
    time: str = ""  # ISO 8601, where it is known

    @property
    def name(self) -> str:
        """Unique in the graph."""
        return f"{self.kind}:{self.digest}"


@dataclass(frozen=True, slots=True)
class Lineage:
    """Nodes by name, and from each to what it was made from."""

    model: str
    nodes: Mapping[str, Node]
    sources: Mapping[str, tuple[str, ...]]


def lineage(model: str, nodes: Iterable[Node], edges: Iterable[tuple[Node, Node]]) -> Lineage:
    """Return a graph of edges (made, from); of a node that is named twice the first facts count."""
    edges = tuple(edges)
    described: dict[str, Node] = {}
    for node in (*nodes, *(end for edge in edges for end in edge)):
        described.setdefault(node.name, node)
    sources: dict[str, list[str]] = {}
    for product, source in edges:
        if source.name not in sources.setdefault(product.name, []):
            sources[product.name].append(source.name)
    return Lineage(model, described, {name: tuple(nearest) for name, nearest in sources.items()})


def find(graph: Lineage, digest: str) -> Node:
    """Return the node of a digest, its beginning, or its name.

    Raises `NotFound`, and `BadInput` where several begin so.
    """
    if digest in graph.nodes:
        return graph.nodes[digest]
    matches = [node for node in graph.nodes.values() if node.digest.startswith(digest)]
    exact = [node for node in matches if node.digest == digest]
    matches = exact or (matches if len(digest) >= SHORTEST else [])
    if not matches:
        raise NotFound(
            f"nothing of {graph.model} has the digest {digest!r}: "
            f"give {SHORTEST} or more of its first digits, as "
            f"`requant lineage {graph.model}` shows them"
        )
    if len(matches) > 1:
        names = ", ".join(sorted(node.name[:40] for node in matches)[:4])
        raise BadInput(
            f"{digest!r} may be any of {len(matches)}: {names}; give more digits, or KIND:DIGEST"
        )
    return matches[0]


def trace(graph: Lineage, start: Node) -> Lineage:
    """Return what the node was made from, all the way up, and what was made from it, down."""
    products: dict[str, list[str]] = {}
    for name, sources in graph.sources.items():
        for source in sources:
            products.setdefault(source, []).append(name)
    names = _reach(start.name, graph.sources) | _reach(start.name, products)
    return Lineage(
        graph.model,
        {name: graph.nodes[name] for name in graph.nodes if name in names},
        {
            name: inside
            for name, nearest in graph.sources.items()
            if name in names and (inside := _within(nearest, names))
        },
    )


def ordered(graph: Lineage) -> list[Node]:
    """Return the nodes from traffic to versions, by kind and time."""
    return sorted(
        graph.nodes.values(), key=lambda node: (KINDS.index(node.kind), node.time, node.digest)
    )


def to_openlineage(graph: Lineage, now: str) -> list[dict[str, Json]]:
    """Return one COMPLETE event for every thing made; `now` stands in for unknown times.

    OpenLineage, specification 2-0-2; datasets are named MODEL/KIND/DIGEST. Run ids follow from the
    digests, so exporting again gives the same runs.
    """
    from openlineage.client.event_v2 import (
        InputDataset,
        Job,
        OutputDataset,
        Run,
        RunEvent,
        RunState,
    )
    from openlineage.client.generated.base import DatasetFacet
    from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet
    from openlineage.client.generated.documentation_dataset import DocumentationDatasetFacet
    from openlineage.client.serde import Serde

    def facets(node: Node) -> dict[str, DatasetFacet]:
        description = "; ".join(f"{key}: {value}" for key, value in sorted(node.facts.items()))
        return {
            "version": DatasetVersionDatasetFacet(datasetVersion=node.digest, producer=PRODUCER),
            "documentation": DocumentationDatasetFacet(
                description=description or node.kind, producer=PRODUCER
            ),
        }

    events = []
    for node in ordered(graph):
        if node.kind in STEPS:
            inputs = [graph.nodes[name] for name in graph.sources.get(node.name, ())]
            event = RunEvent(
                eventType=RunState.COMPLETE,
                eventTime=node.time or now,
                producer=PRODUCER,
                run=Run(str(uuid5(NAMESPACE_URL, f"requant:{graph.model}:{node.name}"))),
                job=Job("requant", f"{graph.model}.{STEPS[node.kind]}"),
                inputs=[
                    InputDataset("requant", _path(graph, source), facets=facets(source))
                    for source in inputs
                ],
                outputs=[OutputDataset("requant", _path(graph, node), facets=facets(node))],
            )
            events.append(Serde.to_dict(event))
    return events


def to_prov(graph: Lineage) -> dict[str, Json]:
    """Return the W3C's PROV-JSON (member submission of 2013).

    Entities, one activity a step, and who used and made what.
    """
    entities: dict[str, Json] = {}
    activities: dict[str, Json] = {}
    used: dict[str, Json] = {}
    generated: dict[str, Json] = {}
    derived: dict[str, Json] = {}
    for node in ordered(graph):
        entity = f"requant:{_path(graph, node)}"
        facts: dict[str, Json] = {f"requant:{key}": value for key, value in node.facts.items()}
        entities[entity] = {
            "prov:type": f"requant:{node.kind}",
            "requant:digest": node.digest,
            **facts,
        }
        if node.kind not in STEPS:
            continue
        activity = f"requant:{STEPS[node.kind]}/{_path(graph, node)}"
        times: dict[str, Json] = {"prov:endTime": node.time} if node.time else {}
        activities[activity] = {"prov:type": f"requant:{STEPS[node.kind]}", **times}
        generated[f"_:g{len(generated)}"] = {"prov:entity": entity, "prov:activity": activity}
        for name in graph.sources.get(node.name, ()):
            source = f"requant:{_path(graph, graph.nodes[name])}"
            used[f"_:u{len(used)}"] = {"prov:activity": activity, "prov:entity": source}
            derived[f"_:d{len(derived)}"] = {
                "prov:generatedEntity": entity,
                "prov:usedEntity": source,
            }
    return {
        "prefix": {"requant": f"{PRODUCER}#", "prov": "http://www.w3.org/ns/prov#"},
        "entity": entities,
        "activity": activities,
        "used": used,
        "wasGeneratedBy": generated,
        "wasDerivedFrom": derived,
    }


def _path(graph: Lineage, node: Node) -> str:
    return f"{graph.model}/{node.kind}/{node.digest}"


def _within(candidates: Sequence[str], names: set[str]) -> tuple[str, ...]:
    return tuple(name for name in candidates if name in names)


def _reach(start: str, edges: Mapping[str, Sequence[str]]) -> set[str]:
    reached, waiting = {start}, [start]
    while waiting:
        for name in edges.get(waiting.pop(), ()):
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    return reached
