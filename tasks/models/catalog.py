"""Registered models, opened to be run: graph, tokenizer, golden set and pool.

Where they lie is in `tasks.specs.registration`. Beside them, and no part of the digest:

    models/NAME/traffic.parquet  the corpus that simulations replay, where the spec names one
    models/NAME/folder.json      where the spec lay: relative folders of its sources begin there
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import onnx

from infra.canonical import canonical, sha256
from infra.engines import open_target, open_watching
from infra.engines.port import Engine, each_profile
from infra.errors import AlreadyExists, BadInput, NotFound
from infra.identifiers import Digest, ModelName
from infra.settings import settings
from infra.stores import layout
from infra.weights.naming import weight_files
from tasks.graphs.coverage import Coverage, coverage
from tasks.graphs.integer_regions import result_sites
from tasks.graphs.sites import Site, expose, expose_alone, find_sites
from tasks.graphs.weights import has_weights_beside
from tasks.metrics.generated_text import SUITES
from tasks.models.batches import CASES
from tasks.models.checkpoints.carried import CarriedCheckpoint
from tasks.models.corpus import read_corpus
from tasks.models.custom.inputs import (
    Outputs,
    run_records,
)
from tasks.models.decoding.generation import answer
from tasks.models.golden import positions, read_golden
from tasks.models.inputs import Inputs, language_inputs, open_inputs, record_inputs, run_all
from tasks.models.language.chat_template import FILE as CHAT_TEMPLATE
from tasks.models.readable import refusal_of
from tasks.models.source_files import (
    CHARSETS,
    CLASSES,
    FULL_PRECISION,
    LAYOUT,
    TOKENIZER,
    check_files,
    collect_files,
    read_replay,
)
from tasks.models.vision.classes import Classes, parse_classes
from tasks.records import GoldenSet, Payload, Request, Tensor
from tasks.specs.form import Form
from tasks.specs.registration import (
    current_digest,
    current_spec,
    read_file,
    read_spec,
    use_digest,
)
from tasks.specs.schedule import require_schedulable
from tasks.specs.sources import require_folders
from tasks.specs.spec import ModelSpec, Task, load_spec
from tasks.specs.tensors import PayloadShape, RecordLayout, parse_layout

OPEN_MODELS = 8
"""Models that one process keeps open."""


@dataclass(frozen=True)
class RegisteredModel:
    """One registered model; its parts are read when first asked for."""

    name: ModelName
    digest: Digest

    @cached_property
    def spec(self) -> ModelSpec:
        """Return the spec as it was registered."""
        return read_spec(self.name, self.digest)

    @cached_property
    def graph(self) -> onnx.ModelProto:
        """Return the full-precision graph."""
        return onnx.load_from_string(self.file(FULL_PRECISION))

    @cached_property
    def source(self) -> Digest:
        """Return SHA-256 of the full-precision graph: other weights, another digest."""
        return sha256(self.file(FULL_PRECISION))

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Return where the graph can be quantized."""
        return find_sites(self.graph)

    @property
    def coverage(self) -> Coverage:
        """Return what can be quantized of the graph, at the common shapes, and what cannot."""
        profile = each_profile(self.inputs.profile)[0]
        common = {name: shapes.common for name, shapes in profile.items()}
        return coverage(self.graph, self.sites, common)

    @property
    def form(self) -> Form:
        """Return what it is kept as; no graph of a checkpoint can be run."""
        return self.spec.form

    @cached_property
    def checkpoint(self) -> CarriedCheckpoint:
        """Return the full-precision checkpoint of a model that stays one."""
        return CarriedCheckpoint(self.graph)

    @cached_property
    def inputs(self) -> Inputs:
        """Return what makes feeds of payloads."""
        return open_inputs(
            self.spec,
            self._tokenizer,
            self.graph,
            lambda: self.reference,
            self.layout,
            self._chat_template,
        )

    @property
    def _tokenizer(self) -> bytes | None:
        return self.file(TOKENIZER) if self.spec.has_tokenizer else None

    @property
    def _chat_template(self) -> bytes | None:
        """Return a language model's chat template; None where its folder had none."""
        if self.spec.task is not Task.CAUSAL_LM:
            return None
        try:
            return self.file(CHAT_TEMPLATE)
        except NotFound:
            return None

    @cached_property
    def layout(self) -> RecordLayout | None:
        """Return what a model of a custom task reads; None of any other."""
        if self.spec.task is not Task.CUSTOM:
            return None
        return parse_layout(self.file(LAYOUT), where=f"{LAYOUT} of {self.name}")

    @cached_property
    def charsets(self) -> Mapping[str, tuple[str, ...]]:
        """Return the characters of a custom task's metrics that read text, by metric."""
        if self.spec.task is not Task.CUSTOM:
            return {}
        characters = json.loads(self.file(CHARSETS))["charsets"]
        return {name: tuple(letters) for name, letters in characters.items()}

    @cached_property
    def refusal(self) -> Callable[[Payload], str | None]:
        """Return what says why the model cannot read a payload; None where it can."""
        return refusal_of(self.spec, self._tokenizer, self._chat_template, self.layout)

    @property
    def reading(self) -> Digest:
        """Return SHA-256 of what `refusal` depends on."""
        layout = b"" if self.layout is None else self.file(LAYOUT)
        parts = (self._tokenizer or b"", self._chat_template or b"", layout)
        return sha256(canonical([self.spec.payload_shape, *map(sha256, parts)]))

    @property
    def payload_shape(self) -> PayloadShape:
        """Return what a request's payload looks like."""
        return self.layout or self.spec.payload_shape

    @cached_property
    def reference(self) -> Engine:
        """Return the full-precision graph, loaded on the CPU."""
        return self.open_reference()

    def open_reference(self) -> Engine:
        """Load the full-precision graph on the CPU, for a caller who lets it go by himself.

        Raises:
            BadInput: The model stays a checkpoint.
        """
        if self.form is not Form.GRAPH:
            raise BadInput(
                f"{self.name} stays a checkpoint (targets: compressed-tensors), and is read layer "
                "by layer: there is no graph of it to run"
            )
        return open_target("onnxruntime-cpu").load(self.file(FULL_PRECISION))

    def forget_graph(self) -> None:
        """Let the full-precision graph go; it is read again where it is asked for."""
        self.__dict__.pop("graph", None)

    @property
    def is_large(self) -> bool:
        """Return whether the weights lie beside the graph: then its activations are many, too."""
        return has_weights_beside(self.graph)

    @property
    def observed_cases(self) -> int:
        """Return how many cases are observed at a time."""
        return 1 if self.is_large else CASES

    @cached_property
    def instrumented(self) -> Engine:
        """Return the full-precision graph that also returns every site's activations.

        It is never on the serving path. It runs on the device where a target of the spec runs
        there, otherwise on the CPU.
        """
        return self._exposing(self.sites)

    @cached_property
    def observed_sites(self) -> tuple[Site, ...]:
        """Return the sites, and every tensor that some target wants a quantizer of."""
        return (*self.sites, *result_sites(self.graph, self.sites))

    @cached_property
    def calibrating(self) -> Engine:
        """Return the full-precision graph that also returns what calibration observes."""
        same = len(self.observed_sites) == len(self.sites)
        return self.instrumented if same else self._exposing(self.observed_sites)

    def _exposing(self, sites: tuple[Site, ...]) -> Engine:
        exposing = expose_alone if self.is_large else expose
        exposed = exposing(self.graph, sites).SerializeToString()
        targets = self.spec.targets if settings().observe_on_cuda else ()
        return open_watching(targets).load_exact(exposed, self.inputs.profile)

    @cached_property
    def golden(self) -> GoldenSet:
        """Return the fixed evaluation cases."""
        head = self.file("safety_head") if self.spec.golden.safety_head else None
        return read_golden(
            self.file("golden.parquet"), head, where=f"the golden set of {self.name}"
        )

    @cached_property
    def golden_reference(self) -> Tensor:
        """Return full-precision outputs of every golden case, [cases, ...]."""
        return run_all(self.reference, self.inputs, [case.payload for case in self.golden.cases])

    @cached_property
    def golden_records(self) -> tuple[Outputs, ...]:
        """Return a custom task's full-precision outputs of every golden case."""
        payloads = [case.payload for case in self.golden.cases]
        return run_records(self.reference, record_inputs(self.inputs), payloads)

    @cached_property
    def golden_answers(self) -> Mapping[int, str]:
        """Return a language model's full-precision answers by the golden case's position.

        Only cases that ask for an answer have one.
        """
        return answer_golden(self.reference, self.inputs, self.golden)

    @cached_property
    def classes(self) -> Classes | None:
        """Return the classes of an image encoder; None where the data hold no labels."""
        data = self.file(CLASSES) if self.spec.task is Task.IMAGE_EMBEDDING else b""
        return parse_classes(data, where=f"{CLASSES} of {self.name}") if data else None

    @cached_property
    def pool(self) -> tuple[Request, ...]:
        """Return the calibration pool."""
        return read_corpus(self.file("pool.parquet"), where=f"the calibration pool of {self.name}")

    @cached_property
    def replay(self) -> tuple[Request, ...]:
        """Return the corpus to replay as traffic: the spec's own, or the calibration pool."""
        try:
            data = settings().store().get(layout.replay(self.name))
        except NotFound:
            return self.pool
        return read_corpus(data, where=f"the traffic corpus of {self.name}")

    def file(self, name: str) -> bytes:
        """Return one file's bytes."""
        return read_file(self.name, self.digest, name)


def answer_golden(engine: Engine, inputs: Inputs, golden: GoldenSet) -> Mapping[int, str]:
    """Return what a language model's engine answers, by the golden case's position.

    Only cases that ask for an answer have one.
    """
    places = positions(golden.cases, *SUITES).tolist()
    prompts = [str(golden.cases[place].payload) for place in places]
    return dict(zip(places, answer(engine, language_inputs(inputs), prompts), strict=True))


def register(spec_path: Path) -> RegisteredModel:
    """Read the spec, export the source to ONNX, check golden set and pool, and store them all.

    Registering the same content again changes nothing.

    Raises:
        BadInput: for whatever is wrong, before anything is stored.
    """
    spec = load_spec(spec_path)
    require_schedulable(spec.schedule, where=str(spec_path))
    base = spec_path.resolve().parent
    require_folders(spec.sources, base)
    store = settings().store()
    files, untouched = collect_files(spec, spec_path, settings().root / "cache" / spec.name)
    digest = sha256(canonical({name: sha256(data) for name, data in files.items()}))
    check_files(spec, files, untouched)
    require_core(spec, files.get(TOKENIZER))
    require_judges(spec)
    replay = read_replay(spec, base)
    with settings().weights().published(weight_files(files[FULL_PRECISION])):
        for name, data in files.items():
            with contextlib.suppress(AlreadyExists):  # the key names the content
                store.create(layout.registration_file(spec.name, digest, name), data)
    if replay is None:
        store.delete(layout.replay(spec.name))
    else:
        store.put(layout.replay(spec.name), replay)
    store.put(
        layout.spec_folder(spec.name), json.dumps({"version": 1, "folder": str(base)}).encode()
    )
    use_digest(spec.name, digest)
    return open_model(spec.name)


def require_core(spec: ModelSpec, tokenizer: bytes | None) -> None:
    """Pass where a spec names no core, none that is registered yet, or one that can stand in.

    Args:
        spec: Of the model with the adapter, or of any other.
        tokenizer: The content of its tokenizer.json.

    Raises:
        BadInput: The core has another task or tokenizer.
    """
    core = spec.adapter.core if spec.adapter else None
    if core is None:
        return
    try:
        digest = current_digest(core)
    except NotFound:
        return
    below = read_spec(core, digest)
    if below.task is not spec.task:
        raise BadInput(
            f"adapter.core: {core} is a model of {below.task} and {spec.name} one of {spec.task}: "
            "name the model that the adapter was trained over"
        )
    if tokenizer is not None and read_file(core, digest, TOKENIZER) != tokenizer:
        raise BadInput(
            f"adapter.core: {core} reads texts by another tokenizer than {spec.name}: name the "
            "model that the adapter was trained over"
        )


def require_judges(spec: ModelSpec) -> None:
    """Pass where each model that a guard asks is registered and decides on texts.

    Raises:
        BadInput: One decides nothing.
        NotFound: One is not registered.
    """
    guards = spec.serving.guards if spec.serving else ()
    for name in {guard.model for guard in guards if guard.model} - {spec.name}:
        if not read_spec(name, current_digest(name)).decides_safety:
            raise BadInput(
                f"serving.guards: {name} decides on no texts: name a language model, or a model of "
                "texts with a golden.safety_head"
            )


def open_model(name: str) -> RegisteredModel:
    """Return the model in use under a name; raise `NotFound` naming the known ones."""
    return open_exactly(name, current_digest(name))


def spec_folder(name: str) -> Path:
    """Return where the spec of a model lay when it was registered.

    It is `/` when that was before folders were kept.
    """
    try:
        return Path(json.loads(settings().store().get(layout.spec_folder(name)))["folder"])
    except NotFound:
        return Path("/")


def source_of(name: str, digest: str) -> str:
    """Return `RegisteredModel.source` of an earlier registration.

    Raises:
        NotFound: when its graph is gone.
    """
    return _opened(settings().store().url, name, digest).source


def open_exactly(name: str, digest: str) -> RegisteredModel:
    """Return a registered model by its digest, also when another has come into use since."""
    return _opened(settings().store().url, name, digest)


def where_spread(name: str) -> str | None:
    """Return the cluster setting for a model's work: the process's own, or its spec's."""
    return settings().cluster or current_spec(name).cluster


@lru_cache(maxsize=OPEN_MODELS)
def _opened(address: str, name: str, digest: str) -> RegisteredModel:
    return RegisteredModel(ModelName(name), Digest(digest))
