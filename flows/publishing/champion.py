"""The champion, verified, with what other servers need of it."""

from __future__ import annotations

from dataclasses import dataclass

from infra.errors import NotFound, Refused
from infra.gateway.wire.signature import GraphSignature, read_signature
from infra.releases import Release
from infra.settings import settings
from infra.weights.naming import weight_files
from tasks.promotion.history import champion_of
from tasks.promotion.release import CPU_PLAN, GRAPH
from tasks.publishing.served_by import why_not_served
from tasks.records import ReleaseRef


@dataclass(frozen=True, slots=True)
class PublishedFiles:
    """A champion's plan for ONNX Runtime."""

    reference: ReleaseRef
    plan: bytes
    weights: dict[str, bytes]  # files beside it, by name
    signature: GraphSignature


def champions_files(model: str) -> PublishedFiles:
    """Read a champion's plan, every byte verified.

    Raises:
        NotFound: There is no such model, or no champion.
        Refused: Its release has no plan for ONNX Runtime, or it stays a checkpoint.
        Tampered: A file differs from its digest.
    """
    unserved = why_not_served(model)
    if unserved is not None:
        raise Refused(unserved)
    champion = champion_of(model)
    if champion is None:
        raise NotFound(f"{model} has no champion: run `requant maintain {model}` first")
    release = settings().release(model, champion.digest)
    if CPU_PLAN not in release.files and GRAPH not in release.files:
        raise Refused(
            f"version {champion.version} of {model} has no plan for ONNX Runtime: add the target "
            "onnxruntime-cpu to its spec"
        )
    plan = release.file(CPU_PLAN if CPU_PLAN in release.files else GRAPH)
    return PublishedFiles(champion, plan, _weights(release, plan), read_signature(plan))


def _weights(release: Release, plan: bytes) -> dict[str, bytes]:
    folder = settings().weights()
    return {name: folder.path(name).read_bytes() for name in weight_files(plan)}
