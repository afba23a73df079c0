"""A champion as a KServe manifest over a published Triton repository."""

from __future__ import annotations

import yaml

from flows.publishing.triton import publish_triton
from tasks.promotion.history import champion_of
from tasks.publishing.kserve import inference_service


def publish_kserve(
    model: str,
    to: str,
    *,
    storage: str | None = None,
    canary_percent: int | None = None,
    namespace: str | None = None,
) -> str:
    """Write a Triton repository for one version, and return the InferenceService in YAML.

    Each version has a repository of its own, `TO/VERSION`: another address makes another revision,
    between which KServe splits traffic.

    Args:
        model: Whose champion.
        to: A folder, or s3://bucket/prefix.
        storage: The address of `to` as the cluster sees it; None: the same.
        canary_percent: Share of traffic of the new revision; None: all.
        namespace: Of the cluster.

    Raises:
        NotFound: There is no champion.
        BadInput: The cluster cannot reach the storage, or the share is none.
    """
    champion = champion_of(model)
    version = champion.version if champion else ""
    seen = f"{(storage or to).rstrip('/')}/{version}"
    digest = champion.digest if champion else ""
    manifest = inference_service(
        model, version, digest, seen, canary_percent=canary_percent, namespace=namespace
    )
    publish_triton(model, f"{to.rstrip('/')}/{version}")
    return yaml.safe_dump(manifest, sort_keys=False)
