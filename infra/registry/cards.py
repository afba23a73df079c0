"""What MLflow shows a person of a model and a version: descriptions, tags, data behind a run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from infra.identifiers import RunId

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DIGEST = 32
"""Characters of a dataset's digest that MLflow is given; it takes 36."""
EXPERIMENT_TAGS = {
    # MLflow's pages then open on runs and models, and ask nothing.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "Candidates, ladders, drift reports and evaluations of one model that "
    "Requant keeps right.",
}
BATCH = 100
"""Metrics in one request."""
_CONTEXT = "mlflow.data.context"
_VERSIONS = "mlflow.modelVersions"
_NOTE = "mlflow.note.content"


@dataclass(frozen=True, slots=True)
class DataSet:
    """Data that a run used, by content."""

    name: str
    digest: str  # SHA-256
    uri: str
    context: str  # what for: "calibration", "evaluation"
    rows: int | None = None

    @property
    def short(self) -> str:
        """The digest as MLflow holds it."""
        return self.digest[:DIGEST]


@dataclass(frozen=True, slots=True)
class Card:
    """What a person reads of a registered model and of the version that is registered now."""

    kind: str = "onnx"  # of model; MLflow groups logged models by it
    about_model: str = ""  # Markdown
    about_version: str = ""  # Markdown
    model_tags: Mapping[str, str] = field(default_factory=dict)
    data: tuple[DataSet, ...] = ()
    judged_on: DataSet | None = None  # one of `data`: what the metrics were measured on


def log_data(client: MlflowClient, run_id: RunId, card: Card) -> None:
    """Log the data as inputs of the run, and its description."""
    from mlflow.entities import DatasetInput, InputTag

    if card.about_version:
        client.set_tag(run_id, _NOTE, card.about_version)
    inputs = [
        DatasetInput(_dataset(data), [InputTag(_CONTEXT, data.context)]) for data in card.data
    ]
    if inputs:
        client.log_inputs(run_id, inputs)


def _dataset(data: DataSet) -> object:
    from mlflow.entities import Dataset

    return Dataset(
        data.name,
        data.short,
        source_type={"s3": "s3", "file": "local"}.get(urlsplit(data.uri).scheme, "uri"),
        source=json.dumps({"uri": data.uri, "sha256": data.digest}),
        profile=None if data.rows is None else json.dumps({"num_rows": data.rows}),
    )


def log_judged(
    client: MlflowClient, run_id: RunId, model_id: str, metrics: Mapping[str, float], card: Card
) -> None:
    """Log metrics of the run and of the logged model at once, on the data they were measured on."""
    from mlflow.entities import Metric

    stamp, names = int(time.time() * 1000), iter(metrics)
    judged = (
        {"dataset_name": card.judged_on.name, "dataset_digest": card.judged_on.short}
        if card.judged_on
        else {}
    )
    while batch := list(islice(names, BATCH)):
        client.log_batch(
            run_id,
            metrics=[
                Metric(
                    name, float(metrics[name]), stamp, 0, model_id=model_id, run_id=run_id, **judged
                )
                for name in batch
            ],
        )


def link_version(client: MlflowClient, model_id: str, model: str, version: str) -> None:
    """Let the logged model's page name the version.

    A server does that by itself, a database does not.
    """
    if _VERSIONS not in client.get_logged_model(model_id).tags:
        client.set_logged_model_tags(
            model_id, {_VERSIONS: json.dumps([{"name": model, "version": version}])}
        )


def describe_model(client: MlflowClient, model: str, card: Card) -> None:
    """Fill in what the registered model lacks; a description that somebody wrote stays."""
    registered = client.get_registered_model(model)
    if card.about_model and not registered.description:
        client.update_registered_model(model, card.about_model)
    for name, value in card.model_tags.items():
        if registered.tags.get(name) != value:
            client.set_registered_model_tag(model, name, value)


def describe_experiment(
    client: MlflowClient, experiment_id: str, present: Mapping[str, str]
) -> None:
    """Fill in what an experiment of an earlier release lacks."""
    for name, value in EXPERIMENT_TAGS.items():
        if name not in present:
            client.set_experiment_tag(experiment_id, name, value)
