"""Golden cases proposed from live traffic, for a person to look through."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from infra.errors import BadInput
from infra.settings import settings
from tasks.models.catalog import RegisteredModel, open_model, where_spread
from tasks.models.decoding.generation import answer
from tasks.models.golden import write_golden
from tasks.models.inputs import language_inputs
from tasks.models.overlap import golden_contents
from tasks.payloads import fingerprint
from tasks.records import UNKNOWN, CaseKind, GoldenCase, Request
from tasks.sampling.scrubbing import readable, scrubbed
from tasks.sampling.shards import draw_window
from tasks.specs.spec import Task
from tasks.traffic.storage.windows import read_window
from tasks.transcripts import read_transcript

CASES = 20
"""Of each domain and language, that a golden set should have at least."""
SAMPLE = 2048
"""Requests of a window that cases are chosen from."""

Group = tuple[str, str]  # domain, language


@dataclass(frozen=True, slots=True)
class Proposal:
    """A golden set with more cases, and how many are new in each domain and language."""

    cases: tuple[GoldenCase, ...]
    added: Mapping[Group, int]

    @property
    def file(self) -> bytes:
        """Return the Parquet file."""
        return write_golden(self.cases)


def propose_cases(model: str, wanted: int = CASES) -> Proposal:
    """Add requests of the newest window to the golden set, where a group has too few cases.

    Traffic is stored redacted, and texts are scrubbed as samples are. A case's label is the
    request's own; a language model's is full precision's answer, where there is none.

    Args:
        model: A registered one.
        wanted: Cases that each domain and language of the traffic should have.

    Raises:
        BadInput: without traffic, or where no named group lacks cases that traffic could give.
    """
    opened = open_model(model)
    rules, privacy = opened.spec.window, opened.spec.calibration.privacy
    window = read_window(settings().store(), model, hours=rules.hours)
    drawn = draw_window(window, where_spread(model), size=SAMPLE, tenant_share=rules.tenant_share)
    requests = readable(scrubbed(drawn, privacy), opened.refusal).requests
    chosen = _missing(opened, requests, wanted)
    if not chosen:
        raise BadInput(
            f"nothing to propose for {model}: "
            + (
                f"no new request of its newest {rules.hours} hours is of a named domain and "
                f"language with fewer than {wanted} cases"
                if drawn.requests
                else "it has no traffic; bring some in with `requant traffic import`"
            )
        )
    cases = _cases(opened, chosen)
    added = Counter((case.domain, case.language) for case in cases)
    return Proposal((*opened.golden.cases, *cases), dict(added))


def _missing(model: RegisteredModel, requests: Iterable[Request], wanted: int) -> list[Request]:
    """Choose requests of the groups that have too few cases, none that is known already."""
    room: defaultdict[Group, int] = defaultdict(lambda: wanted)
    for case in model.golden.cases:
        room[case.domain, case.language] -= 1
    known = golden_contents(model.golden.cases) | {fingerprint(row.payload) for row in model.pool}
    chosen = []
    for request in requests:
        group, content = (request.domain, request.language), fingerprint(request.payload)
        if UNKNOWN in group or room[group] <= 0 or content in known:
            continue
        known |= {content}
        room[group] -= 1
        chosen.append(request)
    return chosen


def _cases(model: RegisteredModel, requests: Sequence[Request]) -> list[GoldenCase]:
    cases = [
        GoldenCase(
            f"traffic-{fingerprint(request.payload)[:16]}",
            request.payload,
            request.domain,
            request.language,
            label=request.label,
        )
        for request in requests
    ]
    return _answered(model, cases) if model.spec.task is Task.CAUSAL_LM else cases


def _answered(model: RegisteredModel, cases: Sequence[GoldenCase]) -> list[GoldenCase]:
    """Give each prompt full precision's answer, where it has none."""
    prompts = [str(case.payload) for case in cases]
    answers = answer(model.reference, language_inputs(model.inputs), prompts)
    return [
        replace(
            case,
            kind=CaseKind.DIALOGUE if read_transcript(prompt) else CaseKind.ANSWER,
            label=case.label or written,
        )
        for case, prompt, written in zip(cases, prompts, answers, strict=True)
    ]
