"""What is installed and reachable, and how to mend what is not."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from flows.orchestration.runtime import healthy, prefect_environment, running_server, using
from infra.addresses import without_password
from infra.engines import TARGETS, open_target
from infra.errors import AlreadyExists, RequantError, Unavailable
from infra.settings import Settings
from infra.stores import layout
from tasks.personal_data.identifiers import LIMITS, missing
from tasks.promotion import history
from tasks.promotion.registered.condition import wrong_with
from tasks.specs.form import CHECKPOINT, why_not_written
from tasks.specs.registration import model_names

if TYPE_CHECKING:
    from flows.schedules import Upcoming

PACKAGES = (
    "prefect",
    "mlflow",
    "evidently",
    "torch",
    "onnx",
    "onnxruntime",
    "boto3",
    "transformers",
)
PYTHON = (3, 11)
DISK_GB = 2


@dataclass(frozen=True, slots=True)
class SetupCheck:
    """One thing looked at."""

    what: str
    state: str  # fine, absent (not needed for everything), broken
    found: str
    mend: str = ""


def examine(settings: Settings) -> list[SetupCheck]:
    """Return every check; none raises."""
    probes: tuple[tuple[str, Callable[[], SetupCheck]], ...] = (
        ("Python", _python),
        ("disk", lambda: _disk(settings)),
        ("object store", lambda: _store(settings)),
        ("signing key", lambda: _key(settings)),
        ("users", lambda: _users(settings)),
        ("registry", lambda: _registry(settings)),
        ("registry's files", lambda: _artifacts(settings)),
        ("champions", lambda: _champions(settings)),
        ("Prefect", lambda: _prefect(settings)),
        ("schedules", lambda: _schedules(settings)),
    )
    checks = [_run(subject, probe) for subject, probe in probes]
    return [*checks, *map(_package, PACKAGES), _privacy(), *map(_target, TARGETS), _checkpoints()]


def _run(subject: str, probe: Callable[[], SetupCheck]) -> SetupCheck:
    try:
        return probe()
    except (RequantError, OSError) as exc:
        return SetupCheck(subject, "broken", str(exc))


def _python() -> SetupCheck:
    version = ".".join(map(str, sys.version_info[:3]))
    state = "fine" if sys.version_info >= PYTHON else "broken"
    return SetupCheck(
        "Python", state, version, "" if state == "fine" else "install Python 3.11 or newer"
    )


def _disk(settings: Settings) -> SetupCheck:
    place = next(path for path in (settings.root, *settings.root.parents) if path.exists())
    free = shutil.disk_usage(place).free / 1e9
    mend = "" if free >= DISK_GB else f"free {DISK_GB} GB, or point REQUANT_STORE_URL elsewhere"
    return SetupCheck("disk", "broken" if mend else "fine", f"{free:.1f} GB free at {place}", mend)


def _store(settings: Settings) -> SetupCheck:
    """Check create-if-absent, the ledger's one commit point.

    A store that ignores it would lose the fence silently.
    """
    store, key = settings.store(), layout.store_probe(secrets.token_hex(8))
    try:
        store.create(key, b"1")
        with suppress(AlreadyExists):
            store.create(key, b"2")
            mend = "use a store with conditional writes (If-None-Match), such as S3, Ceph or MinIO"
            return SetupCheck(
                "object store", "broken", f"{store.url} overwrites in create-if-absent", mend
            )
    finally:
        store.delete(key)
    return SetupCheck("object store", "fine", f"{store.url} creates only if absent")


def _key(settings: Settings) -> SetupCheck:
    ids = ", ".join(settings.verifier().ids)
    if settings.trusted_keys is not None:
        return SetupCheck("signing key", "fine", f"verifies by {ids}; signs nothing here")
    name = settings.signer().verifier().key_id
    return SetupCheck("signing key", "fine", f"key {name}, {settings.keys().place}; trusted: {ids}")


def _users(settings: Settings) -> SetupCheck:
    accounts = settings.directory().accounts()
    if not accounts.in_use:
        words = "none: whoever holds the workspace, its key or a link does everything"
        mend = "`requant users add NAME --role admin` makes it a store of several"
        return SetupCheck("users", "absent", words, mend)
    words = f"{len(accounts.users)}, of whom {len(accounts.admins)} admins of all models"
    return SetupCheck("users", "fine", words)


def _registry(settings: Settings) -> SetupCheck:
    settings.registry().ping()
    return SetupCheck("registry", "fine", without_password(settings.mlflow_uri))


def _artifacts(settings: Settings) -> SetupCheck:
    """Write one artifact and delete it.

    The database may answer while the files behind it, on S3 say, cannot be reached.
    """
    place = settings.registry().try_files()
    return SetupCheck(
        "registry's files", "fine", f"a file was written below {place}, read and deleted"
    )


def _champions(settings: Settings) -> SetupCheck:
    """Read and verify every champion whole: its bundle in the store, its copy in the registry."""
    wrong = []
    champions = [history.champion_of(name) for name in model_names(settings.store())]
    serving = [champion for champion in champions if champion is not None]
    for champion in serving:
        trouble = wrong_with(champion)
        if trouble is not None:
            wrong.append(f"{champion.model} version {champion.version}: {trouble}")
    if wrong:
        mend = "`requant reconcile` registers a copy again; restore a damaged bundle, or roll back"
        return SetupCheck("champions", "broken", "; ".join(wrong), mend)
    return SetupCheck("champions", "fine", f"{len(serving)} verified, bundle and copy")


def _schedules(settings: Settings) -> SetupCheck:
    """Check what Prefect should have scheduled and has not, or has scheduled and nobody runs."""
    reached = prefect_environment(settings)
    silent = SetupCheck(
        "schedules", "absent", "no Prefect server answers", "`requant up` keeps the schedules"
    )
    if not reached:
        return silent
    with using(reached["PREFECT_API_URL"], reached.get("PREFECT_API_AUTH_STRING")):
        if not healthy(reached["PREFECT_API_URL"]):
            return silent
        from flows.schedules import upcoming

        return judge_schedules(model_names(settings.store()), upcoming())


def judge_schedules(models: Sequence[str], scheduled: Mapping[str, Upcoming]) -> SetupCheck:
    """Return whether every registered model has a run ahead, and no run that was due waits."""
    missing = [
        f"{model.model} (due {model.missing})" for model in scheduled.values() if model.missing
    ]
    overdue = [
        f"{model.model} (by {model.overdue_s:.0f} s)"
        for model in scheduled.values()
        if model.overdue_s
    ]
    unknown = sorted(set(models) - set(scheduled))
    if missing:
        mend = (
            "Prefect's scheduler is at fault: see its log; SQLAlchemy 2.1 breaks it, "
            "so `pip install 'sqlalchemy<2.1'`"
        )
        return SetupCheck(
            "schedules",
            "broken",
            f"runs that were due were never created: {', '.join(missing)}",
            mend,
        )
    if overdue:
        return SetupCheck(
            "schedules",
            "broken",
            f"overdue: {', '.join(overdue)}",
            "see whether `requant up` or a worker runs, and how long runs take",
        )
    if unknown:
        return SetupCheck(
            "schedules",
            "broken",
            f"not deployed: {', '.join(unknown)}",
            "`requant up` or `requant deploy`",
        )
    ahead = ", ".join(
        f"{model.model} {'paused' if model.paused else model.next_run or 'not created yet'}"
        for model in scheduled.values()
    )
    return SetupCheck(
        "schedules", "fine", f"next runs: {ahead}" if ahead else "no model is registered"
    )


def _prefect(settings: Settings) -> SetupCheck:
    address = settings.prefect_api_url
    if address is None:
        running = running_server(settings)  # has proved that it is ours
        if running is not None:
            return SetupCheck("Prefect", "fine", running)
        return SetupCheck(
            "Prefect", "absent", "no server runs", "`requant up` starts one; flows need none"
        )
    if not healthy(address):
        return SetupCheck(
            "Prefect",
            "broken",
            f"no answer at {address}",
            "start it, or correct REQUANT_PREFECT_API_URL",
        )
    return SetupCheck("Prefect", "fine", address)


def _package(name: str) -> SetupCheck:
    try:
        return SetupCheck(name, "fine", version(name))
    except PackageNotFoundError:
        return SetupCheck(name, "broken", "not installed", "make setup")


def _privacy() -> SetupCheck:
    reason = missing()
    if reason is not None:
        return SetupCheck(
            "privacy library",
            "absent",
            reason,
            "make setup, or set calibration.privacy to patterns",
        )
    return SetupCheck(
        "privacy library", "fine", f"presidio-analyzer {version('presidio-analyzer')}: {LIMITS}"
    )


def _target(name: str) -> SetupCheck:
    try:
        reason = open_target(name).why_not_executable()
    except Unavailable as exc:
        return SetupCheck(f"target {name}", "absent", str(exc))
    return SetupCheck(
        f"target {name}", "fine" if reason is None else "absent", reason or "builds and runs here"
    )


def _checkpoints() -> SetupCheck:
    reason = why_not_written()
    state = "fine" if reason is None else "absent"
    return SetupCheck(f"target {CHECKPOINT}", state, reason or "is written and read here")
