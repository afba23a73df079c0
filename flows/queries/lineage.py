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
    """Everything known of one model; a damaged or missing document ends its chain there. Raises `NotFound`."""
    current_digest(model)
    store = settings().store()
    edges = [*_windows(store, model), *_sets(store, model), *_releases(store, model)]
    return lineage.lineage(model, (), edges)


def of(model: str, version: str | None = None, digest: str | None = None) -> Lineage:
    """The part of it that leads to and from a version or a digest; all of it where neither is given.

    Raises `BadInput` when both are given, `NotFound` when nothing bears the name.
    """
    if version is not None and digest is not None:
        raise BadInput("give --version or --digest, not both: whose lineage is asked for?")
    whole = of_model(model)
    if version is None and digest is None:
        return whole
    if digest is not None:
        return lineage.trace(whole, lineage.find(whole, digest))
    name = f"version:{version}"
    if name not in whole.nodes:
        known = (
            ", ".join(node.digest for node in lineage.ordered(whole) if node.kind == "version")
            or "none yet"
        )
        raise NotFound(f"{model} has no version {version!r} in its ledger: known are {known}")
    return lineage.trace(whole, whole.nodes[name])


def exported(graph: Lineage, form: Export) -> bytes:
    """OpenLineage events, one a line, or one PROV-JSON document."""
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
    told = {
        "key": layout.window(model, digest),
        "rows": str(facts.get("rows")),
        "seen": str(facts.get("seen")),
    }
    return Node("window", digest, told, str(facts.get("end") or ""))


def _sets(store: ObjectStore, model: str) -> Iterator[Edge]:
    for digest, facts in _documents(store, layout.CALIBRATION_FACTS, model):
        told = {"key": layout.calibration_set(model, digest), "rows": str(facts.get("rows"))}
        made = Node("calibration", digest, told, str(facts.get("end") or ""))
        if facts.get("source"):
            yield made, Node("window", str(facts["source"]))


def _releases(store: ObjectStore, model: str) -> Iterator[Edge]:
    entries = journal.read(model)
    shown: dict[str | None, list[str]] = {}
    for alias, version in ledger.aliases(entries).items():
        shown.setdefault(version, []).append(alias)
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
                told = {
                    "aliases": ", ".join(shown.get(entry.version, [])),
                    "event": entry.kind.value,
                }
                yield Node("version", entry.version, told, entry.time.isoformat()), release


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
