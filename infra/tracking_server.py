"""MLflow's server over the workspace's own database, as an application for the guard."""

from __future__ import annotations

import os
import uuid
from typing import cast

from starlette.types import ASGIApp

from infra.access.serve import Guarded
from infra.settings import settings


def application() -> Guarded:
    """Return MLflow's server: its tables made or migrated, its files below the workspace."""
    chosen = settings()
    database, files = chosen.mlflow_uri, chosen.artifact_root
    # Imported late: what MLflow's command line hands to its own server process is read as it loads.
    from mlflow import server
    from mlflow.server.handlers import initialize_backend_stores

    os.environ |= {
        server.BACKEND_STORE_URI_ENV_VAR: database,
        server.ARTIFACT_ROOT_ENV_VAR: files,
        server._MLFLOW_SGI_NAME.name: "uvicorn",
        server._MLFLOW_SERVER_BOOT_ID.name: uuid.uuid4().hex,
    }
    initialize_backend_stores(database, None, files)
    from mlflow.server.fastapi_app import app

    return Guarded(cast(ASGIApp, app))
