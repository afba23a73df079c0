"""A release as a KServe InferenceService.

Source: https://kserve.github.io/website/docs/reference/crd-api, serving.kserve.io/v1beta1. With
`canaryTrafficPercent` KServe sends that share to the newest revision, and the rest to the one
before; each publication of another `storageUri` makes a revision.
"""

from __future__ import annotations

from infra.canonical import Json
from infra.errors import BadInput

VERSION = "requant.release/version"
RELEASE = "requant.release/digest"
"""Annotations of what is served."""


def inference_service(
    name: str,
    version: str,
    release: str,
    storage: str,
    *,
    canary_percent: int | None = None,
    namespace: str | None = None,
) -> dict[str, Json]:
    """Return the manifest.

    Args:
        name: Of the service.
        version: Of the release.
        release: Its digest.
        storage: Where the Triton repository lies: s3://..., gs://..., pvc://....
        canary_percent: Share of traffic of this revision, 0 to 100; None: all.
        namespace: Of the cluster; None: the applier's.

    Raises:
        BadInput: The share is none, or the storage is nothing that a cluster reaches.
    """
    if canary_percent is not None and not 0 <= canary_percent <= 100:
        raise BadInput(f"a canary of {canary_percent} % cannot be: give 0 to 100")
    if "://" not in storage or storage.startswith("file:"):
        raise BadInput(f"{storage} is nothing that a cluster reaches: give s3://, gs:// or pvc://")
    metadata: dict[str, Json] = {
        "name": name,
        "annotations": {VERSION: version, RELEASE: release},
    }
    if namespace:
        metadata["namespace"] = namespace
    model: dict[str, Json] = {
        "modelFormat": {"name": "triton"},
        "protocolVersion": "v2",
        "storageUri": storage,
    }
    share: dict[str, Json] = (
        {} if canary_percent is None else {"canaryTrafficPercent": canary_percent}
    )
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"predictor": {**share, "model": model}},
    }
