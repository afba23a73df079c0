"""A step of a flow: a Prefect task inside a flow run, the plain function everywhere else.

Prefect is imported only once a flow run is active: a worker, a test and a command without a server
need none of it.
"""

import sys
from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

from infra.identifiers import RunId
from infra.settings import settings

if TYPE_CHECKING:
    from prefect import Task

P = ParamSpec("P")
R = TypeVar("R")
CONSOLE = "console"
"""The tag with the address of the page that tells more."""


class Step(Generic[P, R]):
    """One named step; Prefect caches no result, since what is done stands in the object store."""

    def __init__(self, fn: Callable[P, R], name: str) -> None:
        update_wrapper(self, fn)
        self.fn = fn
        self.name = name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it: as a task where a flow run can show it, else as the plain function."""
        return self._task(*args, **kwargs) if in_flow_run() else self.fn(*args, **kwargs)

    @cached_property
    def _task(self) -> "Task[P, R]":
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        return task(name=self.name, cache_policy=NO_CACHE)(self.fn)


def step(name: str) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Make a function a step of that name, as Prefect shows it."""

    def named(fn: Callable[P, R]) -> Step[P, R]:
        return Step(fn, name)

    return named


def in_flow_run() -> bool:
    """Return whether this is called from within a run of a Prefect flow."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def flow_run_id() -> RunId | None:
    """Return the id of the Prefect run at hand; None where there is none."""
    if not in_flow_run():
        return None
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return RunId(str(context.flow_run.id)) if context and context.flow_run else None


def run_tags(model: str) -> dict[str, str]:
    """Return what the registry's runs of a model are tagged with: the Prefect run, and its page.

    Empty outside of one; without the page where no console is known.
    """
    run = flow_run_id()
    if run is None:
        return {}
    page = settings().console_page("runs", run)
    return {"flow_run": run, **({CONSOLE: f"{page}?model={model}"} if page else {})}
