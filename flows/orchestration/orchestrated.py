"""Flows with Prefect and without: a run that is shown where a server is in use, else a plain call.

What a run leaves for its page (notes, tables, progress) has no equivalent without a server and is
left out there.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar, cast
from uuid import uuid4

import httpx
from prefect import Flow, flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.exceptions import ParameterTypeError, PrefectHTTPStatusError
from prefect.states import Completed
from prefect.utilities.callables import get_call_parameters

from flows.orchestration import runtime
from flows.orchestration.identity import authorized, one_actor
from infra.access.roles import EVERY, Role
from infra.errors import BadInput, Unavailable
from infra.identifiers import RunId
from infra.run_scope import run_scope
from infra.settings import settings, use_workspace
from tasks.step import flow_run_id, in_flow_run

WORKERS_RUN = "PREFECT__FLOW_RUN_ID"
"""Set by Prefect for a process that it starts for one run."""
P = ParamSpec("P")
R = TypeVar("R")


def orchestrated(
    name: str, run_name: str, *, role: Role, yields: bool = False
) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Make a function a flow: one actor from beginning to end, and everything opened once.

    Its outcome shows in the run's state and log.

    Args:
        name: The flow's.
        run_name: Of its runs; it may name parameters in braces.
        role: What who acts needs for the flow's model, or for all where it is called without one.
        yields: Whether a process of a worker does it at a lower priority, so that a gateway on the
            same host keeps its cores.
    """

    def made(fn: Callable[P, R]) -> Flow[P, R]:
        @wraps(fn)
        def body(*args: P.args, **kwargs: P.kwargs) -> R:
            _settle_in(yields)
            with one_actor(), run_scope():
                parameters = get_call_parameters(fn, args, kwargs)
                model = parameters.get("model")
                authorized(role, model or EVERY, f"{name} {model or 'all models'}")
                if model:
                    _leave_way_back()
                return _told(fn(*args, **kwargs))

        return flow(name=name, flow_run_name=run_name)(body)

    return made


def _settle_in(yields: bool) -> None:
    """Point the process that a worker started for a run at its workspace, as the command line does.

    A worker starts it in a folder that is deleted afterwards: a workspace there, and the key in it,
    would be lost.
    """
    if WORKERS_RUN not in os.environ:
        return
    if not settings().workspace.is_absolute():
        raise BadInput(
            f"this run's workspace would be {settings().root}, which its worker deletes: "
            "set REQUANT_WORKSPACE to an absolute path where the worker is started"
        )
    use_workspace(None)
    if yields:
        # Of this thread, and of the threads and processes that it starts from now on.
        wanted = max(settings().run_nice, os.getpriority(os.PRIO_PROCESS, 0))
        os.setpriority(os.PRIO_PROCESS, 0, wanted)


def call(target: Flow[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a flow: as a Prefect run inside another or with a server in use, else as its function.

    Raises:
        BadInput: naming the parameter that is wrong.
        Unavailable: Prefect went away meanwhile.
    """
    try:
        if in_flow_run() or runtime.address_in_use() is not None:
            return target(*args, **kwargs)
        parameters = get_call_parameters(target.fn, args, kwargs)
        return target.fn(**target.validate_parameters(parameters))  # type: ignore[call-arg]  # bound to its signature above
    except ParameterTypeError as exc:
        _, *wrong = str(exc).splitlines()  # a title, and a line a parameter
        raise BadInput(
            f"{target.name}: {'; '.join(line.strip(' -') for line in wrong) or exc}"
        ) from exc
    except (httpx.TransportError, PrefectHTTPStatusError) as exc:
        raise Unavailable(
            f"Prefect went away during {target.name} ({type(exc).__name__}): see whether its "
            "server runs, then run the same command again; the ledger says what was done"
        ) from exc


def run_id() -> RunId:
    """Return the flow run's id, or a fresh one: who holds an intent in the ledger."""
    return flow_run_id() or RunId(str(uuid4()))


def note(sentence: str) -> None:
    """Log one line at INFO in the run at hand, which Prefect's page shows."""
    if in_flow_run():
        get_run_logger().info(sentence)


def leave_markdown(key: str, markdown: str) -> None:
    """Leave a text on the run's page."""
    if in_flow_run():
        create_markdown_artifact(key=key, markdown=markdown)


def leave_link(key: str, link: str, text: str) -> None:
    """Leave a link on the run's page."""
    if in_flow_run():
        create_link_artifact(key=key, link=link, link_text=text)


def leave_table(
    key: str, rows: Sequence[Mapping[str, object]], description: str | None = None
) -> None:
    """Leave a table on the run's page, one column a key."""
    if in_flow_run():
        create_table_artifact(key=key, table=[dict(row) for row in rows], description=description)


def _leave_way_back() -> None:
    """Leave a link to the console's page of the run, where a console is known."""
    page = settings().console_page("runs", flow_run_id() or "")
    if page is not None:
        leave_link("console", page, "this run in Requant's console")


def _told(result: R) -> R:
    """Return the result with its sentence, if it has one.

    It is the last word of the log and the message of the state.
    """
    sentence = getattr(result, "sentence", None)
    if not in_flow_run() or not isinstance(sentence, str):
        return result
    note(sentence)
    return cast(
        R, Completed(message=sentence, data=result)
    )  # Prefect hands the caller what is inside
