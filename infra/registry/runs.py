"""Runs of MLflow experiments: opened, ended, and what is logged to them."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from infra.errors import BadInput
from infra.identifiers import RunId
from infra.liveness.process import identity, is_gone
from infra.registry.cards import EXPERIMENT_TAGS, describe_experiment
from infra.registry.vendor_errors import unless_taken

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_T = TypeVar("_T")
_PROCESS = "requant.process"  # the tag that names who logs a run, while it lasts
_BATCH = 100  # parameters or tags that MLflow takes in one request


@contextlib.contextmanager
def open_run(
    client: MlflowClient, model: str, name: str, tags: Mapping[str, str], artifact_root: str | None
) -> Iterator[RunId]:
    """Yield the id of a run that ends as finished, or as failed when the block raises."""
    experiment = _experiment(client, model, artifact_root)
    # With its process from the first moment: of a run without, nobody can tell that it was killed.
    mark = {_PROCESS: json.dumps(identity())}
    run_id = RunId(client.create_run(experiment, run_name=name, tags=mark).info.run_id)
    try:
        _log_tags(client, run_id, tags)
        yield run_id
    except BaseException:
        with contextlib.suppress(Exception):  # the first failure is the one to report
            client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)


def end_killed(client: MlflowClient, model: str) -> int:
    """End the runs whose process is certainly gone, and return how many there were.

    A run whose version was registered has done its work. Of any other, the models that it logged
    are deleted: no version leads to them.
    """
    experiment = client.get_experiment_by_name(model)
    if experiment is None:
        return 0
    place = [experiment.experiment_id]
    running = client.search_runs(place, "attributes.status = 'RUNNING'")
    killed = [run.info.run_id for run in running if is_gone(_process(run.data.tags))]
    for run_id in killed:
        done = bool(client.search_model_versions(f"run_id = '{run_id}'"))
        if not done:
            for logged in client.search_logged_models(place, f"source_run_id = '{run_id}'"):
                client.delete_logged_model(logged.model_id)
        client.set_terminated(run_id, "FINISHED" if done else "FAILED")
    return len(killed)


def _process(tags: Mapping[str, str]) -> object:
    try:
        return json.loads(tags.get(_PROCESS, "null"))
    except ValueError:
        return None


def log_run(
    client: MlflowClient,
    run_id: RunId,
    params: Mapping[str, str],
    metrics: Mapping[str, float],
    artifacts: Mapping[str, bytes],
) -> None:
    """Log parameters, metrics and files (by their path) to an open run."""
    from mlflow.entities import Metric, Param

    stamp = int(time.time() * 1000)
    for names in _batches(params):
        client.log_batch(run_id, params=[Param(name, str(params[name])) for name in names])
    for names in _batches(metrics):
        client.log_batch(
            run_id, metrics=[Metric(name, float(metrics[name]), stamp, 0) for name in names]
        )
    if artifacts:
        with tempfile.TemporaryDirectory() as folder:
            for path, data in artifacts.items():
                _write(Path(folder), path, data)
            client.log_artifacts(run_id, folder)


def _experiment(client: MlflowClient, model: str, artifact_root: str | None) -> str:
    experiment = client.get_experiment_by_name(model)
    if experiment is None:
        location = f"{artifact_root.rstrip('/')}/{model}" if artifact_root else None
        with unless_taken():
            client.create_experiment(model, artifact_location=location, tags=EXPERIMENT_TAGS)
        experiment = client.get_experiment_by_name(model)
    describe_experiment(client, experiment.experiment_id, experiment.tags)
    return str(experiment.experiment_id)


def _write(folder: Path, path: str, data: bytes) -> None:
    target = (folder / path).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise BadInput(
            f"The artifact path {path!r} leaves the run's folder: use a relative path without '..'."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def _log_tags(client: MlflowClient, run_id: RunId, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    for names in _batches(tags):
        client.log_batch(run_id, tags=[RunTag(name, str(tags[name])) for name in names])


def _batches(names: Mapping[str, _T]) -> Iterator[list[str]]:
    rest = iter(names)
    while batch := list(islice(rest, _BATCH)):
        yield batch
