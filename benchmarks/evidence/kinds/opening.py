"""Opening an example as a kind of model: its graph, its traffic and its golden cases."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence.kinds.model_kind import ModelKind, open_inputs_of
from benchmarks.evidence.shifts import Grouped, Select, Shift
from benchmarks.harness.subject import EXAMPLES, Subject
from infra.sources import fetch
from tasks.models.corpus import read_corpus
from tasks.models.export import export
from tasks.models.golden import read_golden
from tasks.records import CaseKind, Request
from tasks.specs.spec import load_spec


def among(domains: Sequence[str] = (), languages: Sequence[str] = ()) -> Select:
    """Return what selects cases of these domains and languages; without any, all of them."""

    def select(case: Grouped) -> bool:
        return (not domains or case.domain in domains) and (
            not languages or case.language in languages
        )

    return select


def open_kind(
    name: str, folder: str, home: Shift, others: tuple[Shift, ...], budget: float, quality: str
) -> ModelKind:
    """Return an example with what may befall its traffic."""
    path = EXAMPLES / folder
    spec = load_spec(path / "model.yaml")
    weights = fetch(spec.source, base=path, cache=EXAMPLES)
    graph = export(spec, weights)
    pool = _corpus(path, "calibration")
    head = spec.golden.safety_head
    golden = read_golden(
        (path / "golden.parquet").read_bytes(),
        (path / head).read_bytes() if head else None,
        where=f"the golden set of {name}",
    )
    judged = tuple(case for case in golden.cases if case.kind is not CaseKind.SAFETY)
    rows = (*_corpus(path, "traffic"), *pool)
    # The inputs follow from the graph, and of a speech model from its full precision as well.
    shipped = [*(row.payload for row in pool), *(case.payload for case in golden.cases)]
    inputs = open_inputs_of(spec, weights, graph, shipped)
    closed = Subject(name, spec, weights, graph, inputs, rows, (), {})
    return ModelKind(name, closed, rows, judged, home, others, budget, quality, golden)


def _corpus(path: Path, part: str) -> tuple[Request, ...]:
    return read_corpus((path / f"{part}.parquet").read_bytes(), where=f"{part} of {path.name}")
