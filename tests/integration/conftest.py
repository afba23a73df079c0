"""One Prefect server for all integration tests of a worker, and a registered model with traffic."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from infra.settings import Settings
from tasks.records import Request

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
START = datetime(2026, 1, 5, 8, tzinfo=UTC)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Start a real server that asks for its workspace's secret.

    The API's address and "user:password" are returned.
    """
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    from flows.orchestration.runtime import server

    settings = Settings(workspace=tmp_path_factory.mktemp("server"))
    with server(settings, services=False) as address:
        yield address, settings.secret().basic


@pytest.fixture(scope="module")
def loop(shared_workspace: Settings, prefect_server: tuple[str, str]) -> Iterator[Settings]:
    """Point a workspace whose flows report to the server."""
    from flows.orchestration.runtime import using

    with using(*prefect_server):
        yield shared_workspace


@pytest.fixture(scope="module")
def limited_digits(shared_workspace: Settings, empty_registry: Path) -> Settings:
    """Register digits with a limit that a test can break; full precision itself is champion."""
    from tests.integration.fallbacks import BUDGETS, FALLBACK
    from tests.integration.gateways import register_itself

    limits = {"fallback": FALLBACK}
    register_itself(shared_workspace, empty_registry, serving=limits, budgets=BUDGETS)
    return shared_workspace


def images(*exposures: float, seed: int = 0, labelled: float = 0.3) -> list[Request]:
    """Return the shipped digits at these exposures; a fraction of them labelled."""
    from tasks.models.corpus import read_corpus

    rng = np.random.default_rng(seed)
    rows = read_corpus((EXAMPLES / "digits" / "traffic.parquet").read_bytes(), where="traffic")
    drawn = rng.choice(exposures, len(rows))
    return [
        replace(
            row,
            payload=np.asarray(row.payload, np.float32) * np.float32(exposure),
            domain=f"exposure-{exposure:g}",
            label=row.label if rng.random() < labelled else None,
        )
        for row, exposure in zip(rows, drawn, strict=True)
    ]


def serve(settings: Settings, model: str, day: int, requests: Sequence[Request]) -> None:
    """Write one day of traffic."""
    from tasks.traffic.storage.parts import write_traffic

    timed = [
        replace(
            one,
            request_id=f"{day}-{number}",
            tenant=f"t{number % 5}",
            time=START + timedelta(days=2 * day, minutes=number),
        )
        for number, one in enumerate(requests)
    ]
    write_traffic(settings.store(), model, timed)
