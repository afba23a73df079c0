"""Registered models: spec, full-precision graph, tokenizer, golden set and calibration pool, in the object store.

models/NAME/DIGEST/<file>   immutable, addressed by content
models/NAME/current         the digest in use
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import onnx

from infra.canonical import canonical, sha256
from infra.engines import open_target
from infra.engines.port import Engine
from infra.errors import AlreadyExists, BadInput, NotFound
from infra.settings import settings
from infra.sources import fetch
from infra.stores import ObjectStore
from tasks.models.corpus import read_corpus
from tasks.models.export import export
from tasks.models.golden import positions, read_golden
from tasks.models.inputs import Inputs, language_inputs, open_inputs, run_all
from tasks.models.language.answers import SUITES
from tasks.models.language.comparison import compare
from tasks.models.language.generation import answer
from tasks.models.operators import require_operators
from tasks.models.overlap import golden_contents, require_disjoint
from tasks.models.spec import ModelSpec, Task, load_spec, parse_spec
from tasks.observation.sites import Site, expose, find_sites
from tasks.records import GoldenSet, Request, Tensor

FULL_PRECISION = "reference.onnx"
OPEN_MODELS = 8
"""Models that one process keeps open."""


@dataclass(frozen=True)
class RegisteredModel:
    """One registered model; its parts are read when first asked for."""

    name: str
    digest: str

    @cached_property
    def spec(self) -> ModelSpec:
        """The spec as it was registered."""
        return parse_spec(self.file("spec.yaml").decode(), where=f"the registered spec of {self.name}")

    @cached_property
    def graph(self) -> onnx.ModelProto:
        """The full-precision graph."""
        return onnx.load_from_string(self.file(FULL_PRECISION))

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Where the graph can be quantized."""
        return find_sites(self.graph)

    @cached_property
    def inputs(self) -> Inputs:
        """How payloads become feeds."""
        tokenizer = self.file("tokenizer.json") if self.spec.input.tokenizer else None
        return open_inputs(self.spec, tokenizer, self.graph if self.spec.task is Task.CAUSAL_LM else None)

    @cached_property
    def reference(self) -> Engine:
        """The full-precision graph, loaded on the CPU."""
        return open_target("onnxruntime-cpu").load(self.file(FULL_PRECISION))

    @cached_property
    def instrumented(self) -> Engine:
        """The full-precision graph that also returns every site's activations; never on the serving path."""
        return open_target("onnxruntime-cpu").load(expose(self.graph, self.sites).SerializeToString())

    @cached_property
    def golden(self) -> GoldenSet:
        """The fixed evaluation cases."""
        head = self.file("safety_head") if self.spec.golden.safety_head else None
        return read_golden(self.file("golden.parquet"), head, where=f"the golden set of {self.name}")

    @cached_property
    def golden_reference(self) -> Tensor:
        """Full-precision outputs of every golden case, [cases, ...]."""
        return run_all(self.reference, self.inputs, [case.payload for case in self.golden.cases])

    @cached_property
    def golden_answers(self) -> Mapping[int, str]:
        """A language model's full-precision answer to every golden case that asks for one, by its position."""
        return answer_golden(self.reference, self.inputs, self.golden)

    @cached_property
    def pool(self) -> tuple[Request, ...]:
        """The calibration pool."""
        return read_corpus(self.file("pool.parquet"), where=f"the calibration pool of {self.name}")

    def file(self, name: str) -> bytes:
        """One file's bytes."""
        return settings().store().get(_key(self.name, self.digest, name))


def answer_golden(engine: Engine, inputs: Inputs, golden: GoldenSet) -> Mapping[int, str]:
    """What a language model's engine says to every golden case that asks for an answer, by its position."""
    asked = positions(golden.cases, *SUITES).tolist()
    prompts = [str(golden.cases[place].payload) for place in asked]
    return dict(zip(asked, answer(engine, language_inputs(inputs), prompts), strict=True))


def register(spec_path: Path) -> RegisteredModel:
    """Read the spec, export the source to ONNX, check golden set and pool, and store them all.

    Registering the same content again changes nothing. Raises `BadInput` for whatever is wrong, before anything is
    stored.
    """
    spec = load_spec(spec_path)
    store = settings().store()
    files = _collect(spec, spec_path, settings().root / "cache" / spec.name)
    digest = sha256(canonical({name: sha256(data) for name, data in files.items()}))
    _check(spec, files)
    for name, data in files.items():
        try:
            store.create(_key(spec.name, digest, name), data)
        except AlreadyExists:
            continue  # the key names the content
    store.put(f"models/{spec.name}/current", json.dumps({"version": 1, "digest": digest}).encode())
    return open_model(spec.name)


def open_model(name: str) -> RegisteredModel:
    """The model in use under a name; raises `NotFound` naming the known ones."""
    store = settings().store()
    try:
        data = store.get(f"models/{name}/current")
    except NotFound as exc:
        known = ", ".join(model_names(store)) or "none yet"
        raise NotFound(
            f"no model is called {name!r} (known: {known}): add it with `requant model add SPEC.yaml`"
        ) from exc
    try:
        digest = str(json.loads(data)["digest"])
    except (ValueError, KeyError, TypeError) as exc:
        raise BadInput(f"models/{name}/current is damaged: run `requant model add` again for {name}") from exc
    return _opened(store.url, name, digest)


def open_exactly(name: str, digest: str) -> RegisteredModel:
    """A registered model by its digest, also when another has come into use since."""
    return _opened(settings().store().url, name, digest)


def where_spread(name: str) -> str | None:
    """The cluster setting for a model's work: the process's own, or its spec's."""
    return settings().cluster or open_model(name).spec.cluster


def model_names(store: ObjectStore) -> list[str]:
    """All registered models, sorted."""
    return sorted({key.split("/")[1] for key in store.list("models/") if key.endswith("/current")})


@lru_cache(maxsize=OPEN_MODELS)
def _opened(address: str, name: str, digest: str) -> RegisteredModel:
    return RegisteredModel(name, digest)


def _key(model: str, digest: str, name: str) -> str:
    return f"models/{model}/{digest}/{name}"


def _collect(spec: ModelSpec, spec_path: Path, cache: Path) -> dict[str, bytes]:
    base = spec_path.resolve().parent
    chosen = settings()
    folder = fetch(spec.source, base=base, cache=cache, endpoint_url=chosen.s3_endpoint_url, region=chosen.s3_region)
    files = {
        "spec.yaml": spec_path.read_bytes(),
        "golden.parquet": _read(base / spec.golden.cases, "golden.cases"),
        "pool.parquet": _read(base / spec.data.calibration, "data.calibration"),
    }
    if spec.golden.safety_head:
        files["safety_head"] = _read(base / spec.golden.safety_head, "golden.safety_head")
    if spec.input.tokenizer:
        files["tokenizer.json"] = _read(folder / spec.input.tokenizer, "input.tokenizer")
    files[FULL_PRECISION] = export(spec, folder).SerializeToString(deterministic=True)
    return files


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise BadInput(f"{field}: {path} cannot be read ({exc.strerror}); paths are relative to the spec") from exc


def _check(spec: ModelSpec, files: Mapping[str, bytes]) -> None:
    pool = read_corpus(files["pool.parquet"], where="data.calibration")
    golden = read_golden(files["golden.parquet"], files.get("safety_head"), where="golden")
    require_disjoint(pool, golden_contents(golden.cases))
    graph = onnx.load_from_string(files[FULL_PRECISION])
    require_operators(graph, spec.targets)
    sites = find_sites(graph)
    if not sites:
        raise BadInput("source: the graph has no matrix product or convolution with constant weights to quantize")
    inputs = open_inputs(spec, files.get("tokenizer.json"), graph if spec.task is Task.CAUSAL_LM else None)
    engine = open_target("onnxruntime-cpu").load(files[FULL_PRECISION])
    first = [case.payload for case in golden.cases[:2]]
    if spec.task is Task.CAUSAL_LM:
        compare(engine, engine, language_inputs(inputs), first)
    else:
        run_all(engine, inputs, first)
