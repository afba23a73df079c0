"""A release as a KServe InferenceService.

Source: https://kserve.github.io/website/docs/reference/crd-api, serving.kserve.io/v1beta1. In its
serverless mode KServe keeps revisions: with `canaryTrafficPercent` it sends that share to the
newest, and the rest to the one before; each publication of another `storageUri` makes a revision.
Its Standard mode keeps none: from 0.20 on the manifest itself names what serves, and below `canary`
what takes a share (https://github.com/kserve/kserve/pull/5672). There a predictor is named by its
version, so that a promotion gives the stable one the name of what runs already, and nothing starts
again.
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
    standard: bool = False,
    stable: str | None = None,
    namespace: str | None = None,
) -> dict[str, Json]:
    """Return the manifest.

    Args:
        name: Of the service.
        version: Of the release.
        release: Its digest.
        storage: Where Triton repositories lie, one a version: s3://..., gs://..., pvc://....
        canary_percent: Share of traffic of this version, 0 to 100; None: all.
        standard: Whether KServe runs in its Standard mode, which keeps no revisions.
        stable: The version that takes the rest of the traffic there.
        namespace: Of the cluster; None: the applier's.

    Raises:
        BadInput: The share is none, the storage is nothing that a cluster reaches, or nothing takes
            the rest in Standard mode.
    """
    if canary_percent is not None and not 0 <= canary_percent <= 100:
        raise BadInput(f"a canary of {canary_percent} % cannot be: give 0 to 100")
    if "://" not in storage or storage.startswith("file:"):
        raise BadInput(f"{storage} is nothing that a cluster reaches: give s3://, gs:// or pvc://")
    if standard and canary_percent is not None and stable is None:
        raise BadInput(f"{name} has no champion before version {version}: leave the canary out")
    metadata: dict[str, Json] = {
        "name": name,
        "annotations": {VERSION: version, RELEASE: release},
    }
    if namespace:
        metadata["namespace"] = namespace
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": (_standard if standard else _serverless)(storage, version, canary_percent, stable),
    }


def _serverless(storage: str, version: str, percent: int | None, _: str | None) -> dict[str, Json]:
    share: dict[str, Json] = {} if percent is None else {"canaryTrafficPercent": percent}
    return {"predictor": {**share, "model": _model(storage, version)}}


def _standard(
    storage: str, version: str, percent: int | None, stable: str | None
) -> dict[str, Json]:
    new: dict[str, Json] = {"name": f"v{version}", "model": _model(storage, version)}
    if percent is None or stable is None:
        return {"predictor": new}
    return {
        "predictor": {"name": f"v{stable}", "model": _model(storage, stable)},
        "canary": [{"trafficPercent": percent, "predictor": new}],
    }


def _model(storage: str, version: str) -> dict[str, Json]:
    return {
        "modelFormat": {"name": "triton"},
        "protocolVersion": "v2",
        "storageUri": f"{storage.rstrip('/')}/{version}",
    }
