"""How a flow run is getting on, as Prefect records it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort, LogSort, TaskRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

from infra.errors import NotFound, Unavailable

LINES = 200
"""Log lines that are read of a run, the newest."""
STEP_DONE = "Finished in state Completed()"
"""What Prefect logs of every step that went well: the table of steps says it with a name."""
PEOPLE = ("requantize", "maintenance", "rollback", "approval", "intake")
"""What people follow; reconciliations, every few minutes, would bury it."""


@dataclass(frozen=True, slots=True)
class RunStep:
    """One task of a run."""

    name: str
    state: str  # Prefect's: Running, Completed, Failed, ...
    seconds: float


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a run logged."""

    time: str  # ISO 8601, UTC
    level: str  # INFO, WARNING, ERROR
    text: str


@dataclass(frozen=True, slots=True)
class RunView:
    """One flow run."""

    run_id: str
    name: str
    model: str | None
    state: str
    message: str  # of a failure
    started: str | None  # ISO 8601
    finished: bool
    fraction: float  # 0..1
    doing: str  # one sentence
    steps: tuple[RunStep, ...] = ()
    flow: str = ""  # requantize, maintenance, rollback, ...
    reason: str = ""  # why it was asked for
    ended: str | None = None  # ISO 8601
    lines: tuple[LogLine, ...] = ()  # oldest first
    runs: tuple[str, ...] = ()  # its id, and those of the runs inside it
    problem: str | None = None  # why the ledger alone tells of it


def read_run(run_id: str) -> RunView:
    """Return one run with its steps and log lines; raise `NotFound` and `Unavailable`."""
    try:
        client = _client_in_use()
        run = client.read_flow_run(UUID(run_id))
        flow = _flow_name(client, run.flow_id)
        if run.start_time is None and run.state is not None and not run.state.is_final():
            return replace(_view(run, (), 0.0, ""), flow=flow, runs=(str(run.id),))
        return replace(_begun(client, run), flow=flow)
    except (ObjectNotFound, ValueError) as exc:
        raise NotFound(
            f"the Prefect server in use has no run {run_id}: look at the list of runs"
        ) from exc
    except (httpx.HTTPError, PrefectHTTPStatusError) as exc:
        raise Unavailable(f"Prefect did not answer ({exc}): see whether its server runs") from exc


def _begun(client: SyncPrefectClient, run: FlowRun) -> RunView:
    """Return a run that began, with what it did so far."""
    parent = FlowRunFilterParentFlowRunId(any_=[run.id])
    inner = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))
    runs = [run.id, *(inner_run.id for inner_run in inner)]
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=runs)),
        sort=TaskRunSort.EXPECTED_START_TIME_ASC,
    )
    steps = tuple(
        RunStep(task.name, task.state_name or "", task.total_run_time.total_seconds())
        for task in tasks
    )
    view = _view(run, steps, *_progress(client, run, runs))
    return replace(view, lines=_lines(client, runs), runs=tuple(map(str, runs)))


def _client_in_use() -> SyncPrefectClient:
    """Return a client of the server in use that stays open: to make one is dearer than to ask."""
    return _opened(PREFECT_API_URL.value(), PREFECT_API_AUTH_STRING.value())


@lru_cache(maxsize=4)
def _opened(*_server: object) -> SyncPrefectClient:
    return get_client(sync_client=True).__enter__()


@lru_cache(maxsize=1000)
def _flow_name(client: SyncPrefectClient, flow: UUID) -> str:
    """Return what a flow is called, for good."""
    return client.read_flow(flow).name


def _lines(client: SyncPrefectClient, runs: list[UUID]) -> tuple[LogLine, ...]:
    """Return what a run and those inside it logged last."""
    of_runs = LogFilter(flow_run_id=LogFilterFlowRunId(any_=runs))
    newest = client.read_logs(log_filter=of_runs, sort=LogSort.TIMESTAMP_DESC, limit=LINES)
    return tuple(
        LogLine(line.timestamp.isoformat(), logging.getLevelName(line.level), line.message)
        for line in reversed(newest)
        if line.message != STEP_DONE
    )


def _progress(client: SyncPrefectClient, run: FlowRun, runs: list[UUID]) -> tuple[float, str]:
    """Return fraction and sentence.

    Maintenance re-quantizes in a subflow, whose steps fill what is left of its own.
    """
    artifacts = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=runs),
            type=ArtifactFilterType(any_=["progress"]),
        ),
        sort=ArtifactSort.UPDATED_DESC,
    )
    if not artifacts:
        return 0.0, ""
    newest = float(str(artifacts[0].data)) / 100
    own = next(
        (
            float(str(inner_run.data)) / 100
            for inner_run in artifacts
            if inner_run.flow_run_id == run.id
        ),
        0.0,
    )
    fraction = newest if artifacts[0].flow_run_id == run.id else own + (1 - own) * newest
    return fraction, artifacts[0].description or ""


def recent_runs(limit: int = 20, flows: Sequence[str] = PEOPLE) -> Sequence[RunView]:
    """Return the newest runs that are due, without their steps; raise `Unavailable`."""
    due = FlowRunFilterExpectedStartTime(
        before_=datetime.now(UTC)
    )  # schedules fill the future with runs
    try:
        runs = _client_in_use().read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(flows))),
            flow_run_filter=FlowRunFilter(expected_start_time=due),
            sort=FlowRunSort.START_TIME_DESC,
            limit=limit,
        )
    except (httpx.HTTPError, PrefectHTTPStatusError) as exc:
        raise Unavailable(f"Prefect did not answer ({exc}): see whether its server runs") from exc
    return [_view(run, (), 1.0 if run.state and run.state.is_final() else 0.0, "") for run in runs]


def _view(run: FlowRun, steps: tuple[RunStep, ...], fraction: float, doing: str) -> RunView:
    state = run.state
    model = run.parameters.get("model")
    return RunView(
        run_id=str(run.id),
        name=run.name,
        model=None if model is None else str(model),
        state=state.name if state and state.name else "Unknown",
        message=(state.message or "") if state else "",
        started=run.start_time.isoformat() if run.start_time else None,
        finished=bool(state and state.is_final()),
        fraction=fraction,
        doing=doing,
        steps=steps,
        reason=str(run.parameters.get("reason") or ""),
        ended=run.end_time.isoformat() if run.end_time else None,
    )
