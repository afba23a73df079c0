"""A candidate's bundle and its version in the registry, from what was built and judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

from infra.canonical import Json
from infra.registry.cards import Card
from infra.registry.numbers import Numbers
from infra.registry.registry import Registry
from infra.settings import settings
from infra.weights.naming import weight_files
from tasks.records import CandidateRef, EngineRef, GateReport
from tasks.step import run_tags

LIBRARIES = ("onnx", "onnxruntime", "numpy", "torch", "tensorrt_rtx", "tensorrt")
"""Recorded as far as they are installed: a GPU host need not have both of the last."""
CPU_PLAN, GRAPH, FACTS = "engines/onnxruntime-cpu/plan", "graph.onnx", "candidate.json"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a release is written from."""

    files: Mapping[str, bytes]
    facts: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with its engines and their reports."""

    candidate: CandidateRef
    engines: Sequence[EngineRef]
    reports: Sequence[GateReport]
    window: str = ""  # digest of the traffic that it was built for

    def bundle(self, stored: Mapping[str, bytes], preprocess: str = "") -> Bundle:
        """Return the candidate's stored files as a release holds them.

        `preprocess` is the digest of the steps before the graph; empty where there are none.
        """
        files = {name: data for name, data in stored.items() if name != FACTS}
        recorded = json.loads(stored[FACTS])
        if preprocess:
            recorded["preprocess"] = preprocess
        return Bundle(files, self.facts(recorded))

    def facts(self, recorded: Mapping[str, Json]) -> dict[str, Json]:
        """Return what the release records; `recorded` is what the candidate's maker did."""
        return {
            **recorded,
            "engines": [asdict(engine) for engine in self.engines],
            "verdicts": {report.target: report.verdict.value for report in self.reports},
            "libraries": {
                name: version for name in LIBRARIES if (version := _version(name)) is not None
            },
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Every gate's estimate, by target, metric and group."""
        return {
            f"{report.target}/{gate.metric}.{gate.group.replace('=', '.')}": gate.estimate.value
            for report in self.reports
            for gate in report.gates
            if gate.estimate is not None
        }

    def tags(self, run: Mapping[str, str]) -> dict[str, str]:
        """Return what a version is tagged with: how it was made, by which run, and its verdicts."""
        origin = {**run, "window": self.window}
        return {
            "recipe": self.candidate.recipe,
            "calibration": self.candidate.calibration,
            **{name: value for name, value in origin.items() if value},
            **{f"verdict.{report.target}": report.verdict.value for report in self.reports},
        }


def register(
    registry: Registry,
    judged: Judged,
    bundle: Bundle,
    digest: str,
    run_name: str,
    card: Card,
    numbers: Numbers,
) -> str:
    """Register a stored release as a version of its model and return the version.

    `bundle` is what the release of that `digest` was written from, and `numbers` says which numbers
    are other releases'. Raises `Unavailable`.
    """
    candidate, files = judged.candidate, bundle.files
    fraction = f"{candidate.quantized_share:.4f}"
    graph = files.get(CPU_PLAN, files[GRAPH])
    return registry.register(
        candidate.model,
        graph,
        release=digest,
        tags=judged.tags(run_tags(candidate.model)),
        run_name=run_name,
        metrics=judged.metrics,
        params={"recipe": candidate.recipe, "quantized_share": fraction},
        artifacts={name: data for name, data in files.items() if name.startswith("golden/")},
        card=card,
        numbers=numbers,
        weights=weights_beside(graph),
    )


def weights_beside(graph: bytes) -> Mapping[str, Path]:
    """Return the files of the weights that a serialized graph has beside it, by name."""
    return {name: settings().weights().path(name) for name in weight_files(graph)}


def _version(library: str) -> str | None:
    try:
        return installed(library)
    except PackageNotFoundError:
        return None
