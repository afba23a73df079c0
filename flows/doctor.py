"""What is installed and reachable, and how to mend what is not."""

import secrets
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from flows.runtime import healthy, running_server
from infra.engines import TARGETS, open_target
from infra.errors import AlreadyExists, RequantError, Unavailable
from infra.settings import Settings
from tasks.privacy import LIMITS, missing

PACKAGES = ("prefect", "mlflow", "evidently", "torch", "onnx", "onnxruntime", "boto3", "transformers")
PYTHON = (3, 11)
DISK_GB = 2


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    what: str
    state: str  # fine, absent (not needed for everything), broken
    found: str
    mend: str = ""


def examine(settings: Settings) -> list[Check]:
    """Every check; none raises."""
    probes: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("Python", _python),
        ("disk", lambda: _disk(settings)),
        ("object store", lambda: _store(settings)),
        ("signing key", lambda: _key(settings)),
        ("registry", lambda: _registry(settings)),
        ("Prefect", lambda: _prefect(settings)),
    )
    checks = [_run(what, probe) for what, probe in probes]
    return [*checks, *map(_package, PACKAGES), _privacy(), *map(_target, TARGETS)]


def _run(what: str, probe: Callable[[], Check]) -> Check:
    try:
        return probe()
    except (RequantError, OSError) as exc:
        return Check(what, "broken", str(exc))


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    state = "fine" if sys.version_info >= PYTHON else "broken"
    return Check("Python", state, found, "" if state == "fine" else "install Python 3.11 or newer")


def _disk(settings: Settings) -> Check:
    place = next(path for path in (settings.root, *settings.root.parents) if path.exists())
    free = shutil.disk_usage(place).free / 1e9
    mend = "" if free >= DISK_GB else f"free {DISK_GB} GB, or point REQUANT_STORE_URL elsewhere"
    return Check("disk", "broken" if mend else "fine", f"{free:.1f} GB free at {place}", mend)


def _store(settings: Settings) -> Check:
    """The ledger's one commit point is create-if-absent: a store that ignores it would lose the fence silently."""
    store, key = settings.store(), f"doctor/{secrets.token_hex(8)}"
    try:
        store.create(key, b"1")
        with suppress(AlreadyExists):
            store.create(key, b"2")
            mend = "use a store with conditional writes (If-None-Match), such as S3, Ceph or MinIO"
            return Check("object store", "broken", f"{store.url} overwrites in create-if-absent", mend)
    finally:
        store.delete(key)
    return Check("object store", "fine", f"{store.url} creates only if absent")


def _key(settings: Settings) -> Check:
    return Check("signing key", "fine", f"key {settings.signer().verifier().key_id}")


def _registry(settings: Settings) -> Check:
    settings.registry().ping()
    return Check("registry", "fine", settings.mlflow_uri)


def _prefect(settings: Settings) -> Check:
    address = settings.prefect_api_url or running_server(settings)
    if address is None:
        return Check("Prefect", "absent", "no server runs", "`requant up` starts one; single commands start their own")
    if not healthy(address):
        return Check("Prefect", "broken", f"no answer at {address}", "start it, or correct REQUANT_PREFECT_API_URL")
    return Check("Prefect", "fine", address)


def _package(name: str) -> Check:
    try:
        return Check(name, "fine", version(name))
    except PackageNotFoundError:
        return Check(name, "broken", "not installed", "make setup")


def _privacy() -> Check:
    reason = missing()
    if reason is not None:
        return Check("privacy library", "absent", reason, "make setup, or set calibration.privacy to patterns")
    return Check("privacy library", "fine", f"presidio-analyzer {version('presidio-analyzer')}: {LIMITS}")


def _target(name: str) -> Check:
    try:
        reason = open_target(name).why_not_executable()
    except Unavailable as exc:
        return Check(f"target {name}", "absent", str(exc))
    return Check(f"target {name}", "fine" if reason is None else "absent", reason or "builds and runs here")
