"""A suite on a release or a candidate, with full precision beside it, logged to MLflow.

Nothing is promoted by it.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from infra.engines import open_target
from infra.engines.port import Engine
from infra.errors import BadInput, NotFound, Refused, Unavailable
from infra.identifiers import RunId
from infra.settings import settings
from infra.stores import layout
from tasks.models.catalog import RegisteredModel, open_model
from tasks.models.inputs import language_inputs
from tasks.promotion.history import champion_of
from tasks.specs.spec import Task
from tasks.validation.evaluation import Figure, golden_figures, harness_figures
from tasks.validation.forms import JUDGES
from tasks.validation.harness import run_harness

GOLDEN, HARNESS = "golden", "lm-eval:"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a suite found."""

    model: str
    subject: str  # "version 3", "candidate 0f3a…"
    suite: str
    target: str
    figures: tuple[Figure, ...]
    run: RunId  # MLflow's id


@dataclass(frozen=True, slots=True)
class EvaluatedEngine:
    """What is evaluated."""

    name: str
    target: str
    plan: bytes


def evaluate(
    model: str,
    *,
    suite: str = GOLDEN,
    version: str | None = None,
    candidate: str | None = None,
    include: Path | None = None,
    limit: int | None = None,
) -> Evaluation:
    """Run a suite on the engine that can run here.

    It is a version's, a candidate's, or else the champion's. Raises `BadInput` for a suite that
    does not exist or does not fit the model, `NotFound` for a version or candidate that does not
    exist, `Refused` where none of its engines runs here.
    """
    registered = open_model(model)
    task = _task(suite, registered, include, limit)
    subject = find_subject(registered, version, candidate)
    if task is None:
        judge = JUDGES.of(registered.form)
        scores = judge.scores(registered, subject.target, subject.plan)
        figures = golden_figures(registered.golden, scores)
    else:
        engine = open_target(subject.target).load(subject.plan)
        figures = _harness(registered, engine, task, include, limit)
    return Evaluation(
        model,
        subject.name,
        suite,
        subject.target,
        figures,
        _log(model, suite, subject, figures, limit),
    )


def find_subject(
    model: RegisteredModel, version: str | None, candidate: str | None
) -> EvaluatedEngine:
    """Return the engine of a version (verified), of a stored candidate, or of the champion."""
    if version is not None and candidate is not None:
        raise BadInput("give --version or --candidate, not both")
    if candidate is not None:
        return _candidate(model, candidate)
    if version is None:
        reigning = champion_of(model.name)
        if reigning is None:
            raise NotFound(
                f"{model.name} has no champion yet: name a version or a candidate, or requantize "
                "first"
            )
        version = reigning.version
    digest = settings().registry().version(model.name, version).release
    if digest is None:
        raise NotFound(
            f"version {version} of {model.name} carries no release: it was not made by Requant"
        )
    release = settings().release(model.name, digest)
    plan_file = JUDGES.of(model.form).plan_file
    target = _runnable(
        model, [name for name in model.spec.targets if plan_file(name) in release.files]
    )
    return EvaluatedEngine(f"version {version}", target, release.file(plan_file(target)))


def _candidate(model: RegisteredModel, beginning: str) -> EvaluatedEngine:
    """Find a candidate by its whole id, or by its beginning."""
    store, kind = settings().store(), layout.CANDIDATE
    files = (kind.fields(key) for key in kind.keys(store, model=model.name))
    ids = sorted({fields["candidate"] for fields in files if fields is not None})
    matching = [name for name in ids if name.startswith(beginning)]
    if not beginning or len(matching) != 1:
        problem = (
            f"{len(matching)} candidates of {model.name} begin with {beginning!r}"
            if beginning
            else "the candidate is empty"
        )
        raise NotFound(
            f"{problem}: give one of "
            f"{', '.join(name[:12] for name in ids[:5]) or 'none, there is none yet'}"
        )
    plans: dict[str, str] = {
        name: layout.candidate_file(model.name, matching[0], JUDGES.of(model.form).plan_file(name))
        for name in model.spec.targets
    }
    built = [name for name, key in plans.items() if store.exists(key)]
    target = _runnable(model, built)
    return EvaluatedEngine(f"candidate {matching[0][:12]}", target, store.get(plans[target]))


def _runnable(model: RegisteredModel, targets: Sequence[str]) -> str:
    for target in targets:
        with suppress(Unavailable):
            if JUDGES.of(model.form).why_not_here(target) is None:
                return target
    raise Refused(
        f"none of the engines built for {model.name} ({', '.join(targets) or 'none'}) can run here"
    )


def _task(
    suite: str, model: RegisteredModel, include: Path | None, limit: int | None
) -> str | None:
    """Return the harness's task, or None for the golden set."""
    if suite == GOLDEN:
        if include is not None or limit is not None:
            raise BadInput(
                "--include-path and --limit belong to lm-eval suites: the golden set is run whole"
            )
        return None
    task = suite.removeprefix(HARNESS)
    if not suite.startswith(HARNESS) or not task:
        raise BadInput(f"no suite is called {suite!r}: allowed are {GOLDEN} and {HARNESS}TASK")
    if model.spec.task is not Task.CAUSAL_LM:
        raise BadInput(
            f"{model.name} is {model.spec.task}: lm-eval asks language models only; use --suite "
            f"{GOLDEN}"
        )
    if not JUDGES.of(model.form).writes_answers:
        raise BadInput(
            f"{model.name} stays a checkpoint: write it with `requant export {model.name}`, and "
            f"let lm-eval's own models read the folder; here use --suite {GOLDEN}"
        )
    if limit is not None and limit < 1:
        raise BadInput(f"--limit is {limit}: give at least 1 case, or leave it out for all")
    if include is not None and not include.is_dir():
        raise BadInput(
            f"--include-path {include} is no folder: give one that holds lm-eval task files"
        )
    return task


def _harness(
    model: RegisteredModel, engine: Engine, task: str, include: Path | None, limit: int | None
) -> tuple[Figure, ...]:
    inputs = language_inputs(model.inputs)
    before, after = (
        run_harness(subject, inputs, task, include=include, limit=limit)
        for subject in (model.reference, engine)
    )
    return harness_figures(before, after)


def _log(
    model: str, suite: str, subject: EvaluatedEngine, figures: tuple[Figure, ...], limit: int | None
) -> RunId:
    sides = {
        "full-precision": "full_precision",
        "candidate": "candidate",
        "difference": "difference",
    }
    metrics = {
        _allowed(f"{figure.metric}/{figure.group}/{side}"): float(getattr(figure, field))
        for figure in figures
        for side, field in sides.items()
    }
    params = {
        "suite": suite,
        "subject": subject.name,
        "target": subject.target,
        "limit": str(limit or "all"),
    }
    document = json.dumps(
        {"version": 1, "figures": TypeAdapter(tuple[Figure, ...]).dump_python(figures)}, indent=1
    )
    return (
        settings()
        .registry()
        .log_run(
            model,
            f"{suite} on {subject.name}",
            params=params,
            metrics=metrics,
            tags={"kind": "evaluation", "suite": suite},
            artifacts={"evaluation.json": document.encode()},
        )
    )


def _allowed(name: str) -> str:
    """Return a metric's name as MLflow takes it."""
    return re.sub(r"[^\w./: -]", ":", name)
