"""What a registry in a database imports at its first use, imported and set up ahead of it."""

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
from sqlalchemy.orm import configure_mappers

configure_mappers()
