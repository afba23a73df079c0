"""What is kept beside a plan: how and where it was built.

It is read before the plan, which is native code, is touched.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.canonical import sha256
from infra.engine_options.building import BuildOptions, HardwareCompatibility
from infra.engines.nvidia.host import Host
from infra.errors import BadInput


class PlanMetadata(BaseModel):
    """One plan's origin, as `plan.json` beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    version: Literal[1] = 1
    target: str
    module: str
    module_version: str
    capability: str  # "SM89": what the plan was compiled for
    device: str | None  # None: built ahead of time, without one
    driver: str | None
    cuda: str | None
    options: BuildOptions
    build_seconds: float
    plan_sha256: str
    # Of the timing cache; the document keeps its older word.
    diagnostics: tuple[str, ...] = Field(default=(), alias="remarks")


def dump_metadata(metadata: PlanMetadata) -> bytes:
    """Return the JSON document."""
    return metadata.model_dump_json(indent=2, by_alias=True).encode()


def parse_metadata(data: bytes) -> PlanMetadata:
    """Parse the document.

    Raises:
        BadInput: It is not such a document.
    """
    try:
        return PlanMetadata.model_validate_json(data)
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the top"
        raise BadInput(
            f"plan.json is not readable at {place} ({first['msg']}): rebuild the release"
        ) from exc


def why_unfit(metadata: PlanMetadata, target: str, plan: bytes, host: Host) -> str | None:
    """Say why a plan cannot run on a host; None where nothing speaks against it."""
    if metadata.target != target:
        return f"it was built for {metadata.target}"
    if metadata.plan_sha256 != sha256(plan):
        return "its bytes are not those that its metadata describe"
    return _other_version(metadata, host) or _other_device(metadata, host)


def _other_version(metadata: PlanMetadata, host: Host) -> str | None:
    if metadata.module == host.module and metadata.module_version == host.version:
        return None
    built, here = _numbers(metadata.module_version), _numbers(host.version)
    newer = metadata.module == host.module and built[:1] == here[:1] and built <= here
    if metadata.options.version_compatible and newer:
        return None
    hint = (
        ""
        if metadata.options.version_compatible
        else ", without REQUANT_TENSORRT_VERSION_COMPATIBLE"
    )
    return (
        f"it was built by {metadata.module} {metadata.module_version}{hint}, "
        f"and here is {host.module} {host.version}"
    )


def _other_device(metadata: PlanMetadata, host: Host) -> str | None:
    if host.capability == metadata.capability:
        return None
    ampere_plus = metadata.options.hardware is HardwareCompatibility.AMPERE_PLUS
    if ampere_plus and host.capability is not None and _numbers(host.capability) >= (80,):
        return None
    return (
        f"it was built for {metadata.capability}, "
        f"and the visible device is {host.capability or 'none'}"
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))
