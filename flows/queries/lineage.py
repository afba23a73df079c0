"""What the stored manifests, samples and the ledger say about where everything comes from."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from infra.canonical import Json
from infra.errors import BadInput, NotFound
from infra.settings import settings
from infra.stores import layout
from infra.stores.port import ObjectStore
from tasks import lineage
from tasks.lineage import Lineage, Node
from tasks.promotion import journal, ledger
from tasks.specs.registration import current_digest

Edge = tuple[Node, Node]
Export = Literal["openlineage", "prov"]


def of_model(model: str) -> Lineage:
    """Return everything known of one model; raise `NotFound`.

    A damaged or missing document ends its chain there.
    """
    current_digest(model)
    store = settings().store()
    edges = [*_windows(store, model), *_sets(store, model), *_releases(store, model)]
    return lineage.lineage(model, (), edges)


def of(model: str, version: str | None = None, digest: str | None = None) -> Lineage:
    """Return the part of it that leads to and from a version or a digest, or all of it.

    Raises:
        BadInput: when both are given.
        NotFound: when nothing bears the name.
    """
    if version is not None and digest is not None:
        raise BadInput("give --version or --digest, not both: whose lineage is asked for?")
    graph = of_model(model)
    if version is None and digest is None:
        return graph
    if digest is not None:
        return lineage.trace(graph, lineage.find(graph, digest))
    name = f"version:{version}"
    if name not in graph.nodes:
        versions = (
            ", ".join(node.digest for node in lineage.ordered(graph) if node.kind == "version")
            or "none yet"
        )
        raise NotFound(f"{model} has no version {version!r} in its ledger: known are {versions}")
    return lineage.trace(graph, graph.nodes[name])


def exported(graph: Lineage, form: Export) -> bytes:
    """Return OpenLineage events, one a line, or one PROV-JSON document."""
    if form == "prov":
        return json.dumps(lineage.to_prov(graph), indent=1, sort_keys=True).encode() + b"\n"
    events = lineage.to_openlineage(graph, datetime.now(UTC).isoformat())
    return "".join(json.dumps(event, sort_keys=True) + "\n" for event in events).encode()


def write(graph: Lineage, form: Export, path: Path) -> None:
    """Export to a file; raises `BadInput` when it cannot be written."""
    try:
        path.write_bytes(exported(graph, form))
    except OSError as exc:
        raise BadInput(
            f"--output: {path} cannot be written ({exc.strerror}): name a file in a folder that "
            "exists"
        ) from exc


def _documents(
    store: ObjectStore, kind: layout.ObjectKind, model: str
) -> Iterator[tuple[str, Mapping[str, Json]]]:
    for key in kind.keys(store, model=model):
        digest = (kind.fields(key) or {})["digest"]
        try:
            yield digest, json.loads(store.get(key))
        except ValueError:
            continue


def _windows(store: ObjectStore, model: str) -> Iterator[Edge]:
    for digest, facts in _documents(store, layout.WINDOW_FACTS, model):
        source = str(facts.get("source") or f"{facts.get('start')} to {facts.get('end')}")
        span = {"start": str(facts.get("start")), "end": str(facts.get("end"))}
        yield _window(model, digest, facts), Node("traffic", source, span)


def _window(model: str, digest: str, facts: Mapping[str, Json]) -> Node:
    details = {
        "key": layout.window(model, digest),
        "rows": str(facts.get("rows")),
        "seen": str(facts.get("seen")),
    }
    return Node("window", digest, details, str(facts.get("end") or ""))


def _sets(store: ObjectStore, model: str) -> Iterator[Edge]:
    for digest, facts in _documents(store, layout.CALIBRATION_FACTS, model):
        details = {"key": layout.calibration_set(model, digest), "rows": str(facts.get("rows"))}
        calibration = Node("calibration", digest, details, str(facts.get("end") or ""))
        if facts.get("source"):
            yield calibration, Node("window", str(facts["source"]))


def _releases(store: ObjectStore, model: str) -> Iterator[Edge]:
    entries = journal.read(model)
    aliases: dict[str | None, list[str]] = {}
    for alias, version in ledger.aliases(entries).items():
        aliases.setdefault(version, []).append(alias)
    for key in layout.RELEASE.keys(store, model=model, path=layout.MANIFEST):
        digest = (layout.RELEASE.fields(key) or {})["release"]
        try:
            manifest = json.loads(store.get(key))
            yield from _release(digest, manifest["facts"], manifest["files"])
        except (ValueError, KeyError, TypeError):
            continue
        release = Node("release", digest)
        for entry in entries:
            if entry.release == digest and entry.version:
                details = {
                    "aliases": ", ".join(aliases.get(entry.version, [])),
                    "event": entry.kind.value,
                }
                yield Node("version", entry.version, details, entry.time.isoformat()), release


def _release(
    digest: str, facts: Mapping[str, Json], files: Mapping[str, Mapping[str, Json]]
) -> Iterator[Edge]:
    recipe = facts.get("recipe")
    named = {"recipe": str(recipe.get("name")) if isinstance(recipe, Mapping) else ""}
    model, calibration = (
        Node("model", str(facts["model"])),
        Node("calibration", str(facts["calibration"])),
    )
    observation = Node(
        "observation", str(facts.get("observation") or f"{facts['model']}-{facts['calibration']}")
    )
    scales = Node("scales", str(files["scales.json"]["sha256"]), named)
    graph = Node("graph", str(files["graph.onnx"]["sha256"]), named)
    release = Node("release", digest, named)
    yield from (
        (observation, calibration),
        (observation, model),
        (scales, observation),
        (graph, scales),
        (graph, model),
    )
    yield release, graph
    for name, file in sorted(files.items()):
        if name.startswith("engines/") and name.endswith("/plan"):
            engine = Node("engine", str(file["sha256"]), {"target": name.split("/")[1]})
            yield from ((engine, graph), (release, engine))
