"""`python -m flows.commands.serving`: keep registered models on schedule, and run triggers.

A model that is registered, or given another spec, while this runs is scheduled within seconds.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping

from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runner import Runner

from flows.deployments import maintenance_deployment, shared_deployments
from flows.gateway.steering.incidents import ask_for_maintenance
from flows.orchestration.services import served_mark
from flows.orchestration.warm_runs import begin_runs_warm
from flows.schedules import (
    close_broken_off,
    drop_earlier_schedules,
    drop_superseded,
    keep_what_people_set,
)
from infra.processes.supervision import end_with_parent
from infra.processes.warm import ours
from infra.settings import settings, use_workspace
from tasks.specs.registration import current_digest, model_names

LIMIT = 2
"""Flow runs at once: each fills a core."""
ASK_S = 0.5
"""Seconds between two looks at what is due: a person who pressed a button waits."""
LOOK_S = 5.0
"""Seconds between two looks at what is registered."""
_log = logging.getLogger(__name__)


class SaidOnce(logging.Filter):
    """Drop what was logged before.

    A damaged model is looked at every few seconds, and is news once.
    """

    MOST = 1000

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a sentence pass the first time."""
        sentence = record.getMessage()
        if sentence in self._said:
            return False
        if len(self._said) >= self.MOST:
            self._said.clear()
        self._said.add(sentence)
        return True


async def serve() -> None:
    """Serve until stopped; every deployment is applied before the first run starts."""
    runner = Runner(
        name="requant",
        query_seconds=None if "PREFECT_RUNNER_POLL_FREQUENCY" in os.environ else ASK_S,
        limit=LIMIT,
        pause_on_shutdown=False,  # a pause is for people to set
    )
    applied = await _apply(runner, None)
    if settings().prefect_api_url is None:  # on a shared server, others may run the same
        await asyncio.to_thread(close_broken_off)
    await asyncio.to_thread(drop_superseded)  # before the runner takes the oldest
    mark = served_mark(settings())
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    if (warm := ours()) is not None:
        begin_runs_warm(warm)
    following = asyncio.create_task(_follow(runner, applied))
    try:
        await runner.start()
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


async def _follow(runner: Runner, applied: Mapping[str, str]) -> None:
    """Look again and again at what is registered; what goes wrong is tried at the next look."""
    asked: set[str] = set()
    while True:
        try:
            applied = await _apply(runner, applied)
            await asyncio.to_thread(drop_superseded)
            await asyncio.to_thread(ask_for_maintenance, sorted(applied), asked)
        except (
            Exception
        ) as error:  # the server may be starting again, the store out of reach for a moment
            _log.warning("schedules could not be brought up to date: %s", error)
        await asyncio.sleep(LOOK_S)


async def _apply(runner: Runner, applied: Mapping[str, str] | None) -> Mapping[str, str]:
    """Apply the deployments of what was registered since, and return every model's digest.

    It is "" for one to try again. None is applied before the first look, which applies also those
    that take any model.
    """
    registered = await asyncio.to_thread(_registered)
    shared = await asyncio.to_thread(_shared, registered, applied)
    scheduled = await asyncio.to_thread(_changed, registered, applied or {})
    for deployment in shared:
        await _bring(runner, deployment)
    failed = [
        name for name, deployment in scheduled.items() if not await _brought(runner, deployment)
    ]
    return registered | dict.fromkeys(failed, "")


async def _bring(runner: Runner, deployment: RunnerDeployment) -> None:
    await asyncio.to_thread(keep_what_people_set, deployment)
    deployment_id = await runner.aadd_deployment(deployment)
    await asyncio.to_thread(drop_earlier_schedules, deployment_id, deployment)


async def _brought(runner: Runner, deployment: RunnerDeployment | None) -> bool:
    """Bring one model's maintenance to the server; what it refuses stops no other model's."""
    if deployment is None:
        return False
    try:
        await _bring(runner, deployment)
    except (PrefectHTTPStatusError, ValueError) as error:
        _log.error("%s is not scheduled: %s", deployment.name, error)
        return False
    return True


def _registered() -> dict[str, str]:
    digests: dict[str, str] = {}
    for name in model_names(settings().store()):
        try:
            digests[name] = current_digest(name)
        except Exception as error:  # whatever it is, the other models are scheduled
            _log.error("%s is not scheduled: %s", name, error)
    return digests


def _shared(
    registered: Mapping[str, str], applied: Mapping[str, str] | None
) -> list[RunnerDeployment]:
    """Return the deployments that take any model, only where a name came.

    Each time they are applied, the runs ahead are made anew.
    """
    if applied is not None and registered.keys() <= applied.keys():
        return []
    return shared_deployments(sorted(registered))


def _changed(
    registered: Mapping[str, str], applied: Mapping[str, str]
) -> dict[str, RunnerDeployment | None]:
    fresh = (name for name, digest in registered.items() if applied.get(name) != digest)
    return {name: maintenance_deployment(name) for name in fresh}


if __name__ == "__main__":
    end_with_parent()
    use_workspace(None)
    for talkative in (_log, logging.getLogger("flows.deployments")):
        talkative.addFilter(SaidOnce())
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
