"""Evidently's pages over the workspace's drift reports, as an application for the guard."""

from __future__ import annotations

from typing import cast

from starlette.types import ASGIApp

from infra.access.roles import EVERY, Needs, Role
from infra.processes.serve import Guarded
from infra.settings import settings


def application() -> Guarded:
    """Return Evidently's service over the folder of drift reports; its pages hold all scripts."""
    from evidently.ui.service.app import create_app, get_config

    folder = settings().root / "evidently"
    folder.mkdir(parents=True, exist_ok=True)
    return Guarded(cast(ASGIApp, create_app(get_config(workspace=str(folder)))), role_of=role_of)


def role_of(method: str, path: str) -> Needs:
    """Return which role Evidently's own routes need: it shows the reports of all models."""
    reads = method in ("GET", "HEAD", "OPTIONS")
    return (Role.VIEWER if reads else Role.ADMIN), EVERY
