"""The whole product on two real models, in seven scenes.

Every decision is computed from the traffic that a scene writes. A scene states what it should show; when the loop
decides otherwise, the demo says so and fails.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from flows.maintenance import maintenance
from flows.outcomes import Outcome, Status
from flows.reconcile import reconcile
from flows.requantize import requantize
from infra.errors import BadInput
from infra.settings import settings
from tasks.models.catalog import RegisteredModel, open_model, register
from tasks.models.corpus import read_corpus
from tasks.promotion import journal, ledger
from tasks.promotion.ledger import Kind
from tasks.promotion.reconcile import Outcome as Reconciled
from tasks.promotion.steps import champion_of
from tasks.records import Action, Health, Request
from tasks.traffic import write_traffic

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
DAY = timedelta(days=2)
"""Scenes lie further apart than one traffic window is long."""
