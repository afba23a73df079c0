"""A champion as a KServe manifest over a published Triton repository."""

from __future__ import annotations

import yaml

from flows.publishing.triton import publish_triton
from infra.errors import BadInput
from infra.settings import settings
from infra.stores import open_store
from tasks.promotion import journal, ledger
from tasks.promotion.history import champion_of
from tasks.publishing.kserve import inference_service


def publish_kserve(
    model: str,
    to: str,
    *,
    storage: str | None = None,
    canary_percent: int | None = None,
    standard: bool = False,
    namespace: str | None = None,
) -> str:
    """Write a Triton repository for one version, and return the InferenceService in YAML.

    Each version has a repository of its own, `TO/VERSION`: another address makes another revision,
    between which KServe splits traffic. In its Standard mode the manifest names the champion before
    too, whose repository must lie there from when it was published.

    Args:
        model: Whose champion.
        to: A folder, or s3://bucket/prefix.
        storage: The address of `to` as the cluster sees it; None: the same.
        canary_percent: Share of traffic of the new version; None: all.
        standard: Whether KServe (0.20 or later) runs in its Standard mode.
        namespace: Of the cluster.

    Raises:
        NotFound: There is no champion.
        BadInput: The cluster cannot reach the storage, the share is none, or the champion before,
            which Standard mode names, was not published there.
    """
    champion = champion_of(model)
    version = champion.version if champion else ""
    before = ledger.previous(journal.read(model)) if standard else None
    stable = before.version if before and canary_percent is not None else None
    manifest = inference_service(
        model,
        version,
        champion.digest if champion else "",
        storage or to,
        canary_percent=canary_percent,
        standard=standard,
        stable=stable,
        namespace=namespace,
    )
    if stable is not None:
        _require_published(model, to, stable)
    publish_triton(model, f"{to.rstrip('/')}/{version}")
    return yaml.safe_dump(manifest, sort_keys=False)


def _require_published(model: str, to: str, version: str) -> None:
    chosen = settings()
    store = open_store(to, endpoint_url=chosen.s3_endpoint_url, region=chosen.s3_region)
    if not store.exists(f"{version}/{model}/config.pbtxt"):
        raise BadInput(
            f"version {version} of {model}, the champion before, is not in {to}: a canary beside "
            "it wants its repository there, so leave the canary out"
        )
