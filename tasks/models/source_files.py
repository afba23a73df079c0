"""What is stored of a model when it is registered: collected from its spec, and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from infra.engines import open_target
from infra.engines.port import Engine
from infra.errors import BadInput
from infra.settings import settings
from infra.sources import fetch
from tasks.graphs.canonical.held import require_same
from tasks.graphs.coverage import coverage
from tasks.graphs.operators import require_buildable, require_operators
from tasks.graphs.sites import Site, find_sites
from tasks.graphs.weights import constant_values
from tasks.metrics.custom.trusted import require_metrics
from tasks.models.corpus import guardrail_cases, read_corpus
from tasks.models.custom.charsets import read_charsets
from tasks.models.custom.inputs import (
    RecordInputs,
    find_batch_axes,
    require_independent_cases,
    require_repeatable,
    run_records,
)
from tasks.models.custom.layout import read_record_layout
from tasks.models.golden import read_golden
from tasks.models.inputs import language_inputs, open_inputs, record_inputs, run_all
from tasks.models.language.chat_template import FILE as CHAT_TEMPLATE
from tasks.models.language.chat_template import parse_chat_template, read_chat_template
from tasks.models.language.gguf_file import chat_template_of, is_gguf, tokenizer_of
from tasks.models.language.inputs import LanguageInputs, require_vocabulary
from tasks.models.language.layout import NO_CACHE, prefix_of
from tasks.models.overlap import golden_contents, require_disjoint
from tasks.models.token_agreement import token_agreement
from tasks.models.vision.classes import Classes, dump_classes, prototypes
from tasks.records import GoldenSet, Request
from tasks.specs.form import ByForm
from tasks.specs.spec import ModelSpec, Task
from tasks.specs.tensors import dump_layout, parse_layout
from tasks.specs.traits import TRAITS
from tasks.transcripts import Turn, write_transcript

if TYPE_CHECKING:
    from tasks.models.language.prefix import PrefixTexts

FULL_PRECISION = "reference.onnx"
TOKENIZER = "tokenizer.json"
CLASSES = "classes.safetensors"
"""Of an image encoder; empty where the data hold no labels."""
LAYOUT = "inputs.json"
"""What a model of a custom task reads."""
CHARSETS = "charsets.json"
"""Of a custom task's metrics that read text."""
CHAT = write_transcript([Turn("user", "Hello"), Turn("assistant", "")])
PREFIX_TEXTS = 16
"""Texts of the pool in which a prefix is found."""
HELD_CASES = 16
"""Golden cases on which a graph is compared with the file that it was made from."""


def collect_files(
    spec: ModelSpec, spec_path: Path, cache: Path
) -> tuple[dict[str, bytes], Path | None]:
    """Return what is stored of a model, and the ONNX file that it came as, if it did."""
    base = spec_path.resolve().parent
    chosen = settings()
    found = partial(
        fetch,
        base=base,
        cache=cache,
        endpoint_url=chosen.s3_endpoint_url,
        region=chosen.s3_region,
    )
    folder = found(spec.source)
    adapter = found(spec.adapter.path) if spec.adapter else None
    files = {
        "spec.yaml": spec_path.read_bytes(),
        "golden.parquet": _read(base / spec.golden.cases, "golden.cases"),
        "pool.parquet": _read(base / spec.data.calibration, "data.calibration"),
    }
    if spec.golden.safety_head:
        files["safety_head"] = _read(base / spec.golden.safety_head, "golden.safety_head")
    if spec.input.tokenizer:
        files[TOKENIZER] = _read(
            (folder.parent if folder.is_file() else folder) / spec.input.tokenizer,
            "input.tokenizer",
        )
    if spec.task is Task.CAUSAL_LM:
        files |= _of_language(spec, folder)
    return _TAKEN_IN.of(spec.form)(spec, base, folder, adapter, files)


def _take_checkpoint(
    spec: ModelSpec, base: Path, folder: Path, adapter: Path | None, files: dict[str, bytes]
) -> tuple[dict[str, bytes], Path | None]:
    from tasks.models.checkpoints.registering import taken_in  # torch takes a second to load

    index = taken_in(folder).SerializeToString(deterministic=True)
    return {**files, FULL_PRECISION: index}, None


def _export_graph(
    spec: ModelSpec, base: Path, folder: Path, adapter: Path | None, files: dict[str, bytes]
) -> tuple[dict[str, bytes], Path | None]:
    from tasks.models.export import READY, export  # torch, as above

    prefix_in = _prefix_texts(spec, files) if spec.input.prefix else None
    graph = export(spec, folder, adapter, prefix_in)
    if prefix_in is not None:
        _require_harmless_prefix(graph, spec)
    files[FULL_PRECISION] = graph.SerializeToString(deterministic=True)
    if spec.task is Task.IMAGE_EMBEDDING:
        files[CLASSES] = _classes(spec, folder, files)
    if spec.task is Task.CUSTOM:
        files[LAYOUT] = _layout(spec, files)
        graph = onnx.load_from_string(files[FULL_PRECISION])
        files[CHARSETS] = read_charsets(spec.metrics, graph, base)
    ready = folder if folder.is_file() else folder / READY
    came_as_graph = ready.is_file() and not is_gguf(ready)
    return files, ready if came_as_graph else None


_TAKEN_IN = ByForm(graph=_export_graph, checkpoint=_take_checkpoint)


def _require_harmless_prefix(graph: onnx.ModelProto, spec: ModelSpec) -> None:
    from tasks.models.language.prefix import require_harmless  # torch, as above

    require_harmless(prefix_of(graph), spec.budgets)


def _prefix_texts(spec: ModelSpec, files: Mapping[str, bytes]) -> "PrefixTexts":
    """Return texts of the pool as the model reads them, and what they usually begin with."""
    from tasks.models.language.prefix import PrefixTexts  # torch, as above

    template = files.get(CHAT_TEMPLATE)
    inputs = LanguageInputs(
        files[TOKENIZER],
        NO_CACHE,
        max_length=spec.input.max_length,
        new_tokens=spec.input.new_tokens,
        template=None if template is None else parse_chat_template(template),
    )
    pool = [
        str(item.payload) for item in read_corpus(files["pool.parquet"], where="data.calibration")
    ]
    chosen = pool[:: max(1, len(pool) // PREFIX_TEXTS)][:PREFIX_TEXTS]
    rows = [reading.ids for reading in inputs.read(chosen)]
    begun = inputs.whole_prompts([CHAT]) if inputs.template else []
    return PrefixTexts(rows, begun[0][0] if begun else inputs.first)


def _of_language(spec: ModelSpec, source: Path) -> dict[str, bytes]:
    """Return a language model's chat template, and the tokenizer that a GGUF file brings."""
    files = {} if spec.input.tokenizer else {TOKENIZER: tokenizer_of(source)}
    if not spec.input.chat_template:
        return files
    if is_gguf(source):
        template = chat_template_of(source)
    else:
        template = read_chat_template(source if source.is_dir() else source.parent)
    return files if template is None else {**files, CHAT_TEMPLATE: template}


def _layout(spec: ModelSpec, files: Mapping[str, bytes]) -> bytes:
    """Dump what a graph with inputs of its own reads."""
    pool = read_corpus(files["pool.parquet"], where="data.calibration")
    golden = read_golden(files["golden.parquet"], None, where="golden.cases")
    graph = onnx.load_from_string(files[FULL_PRECISION])
    payloads = [*(item.payload for item in pool), *(case.payload for case in golden.cases)]
    tokenizer = files.get(TOKENIZER)
    layout = read_record_layout(graph, spec.input, payloads, tokenizer)
    engine = _loaded(files[FULL_PRECISION])
    inputs = record_inputs(open_inputs(spec, tokenizer, graph, lambda: engine, layout))
    _check_records(inputs, pool, golden)
    axes = find_batch_axes(engine, inputs, golden.cases[0].payload)
    return dump_layout(replace(layout, batch_axes=axes))


def read_replay(spec: ModelSpec, base: Path) -> bytes | None:
    """Read the corpus to replay, if the spec names one and it is there.

    Nothing but simulations needs it.
    """
    if spec.data.traffic is None or not (base / spec.data.traffic).exists():
        return None
    data = _read(base / spec.data.traffic, "data.traffic")
    read_corpus(data, where="data.traffic")
    return data


def _classes(spec: ModelSpec, folder: Path, files: Mapping[str, bytes]) -> bytes:
    """Dump the classes of an image encoder.

    Where the spec has a prompt, they are all labels' texts by CLIP's text tower. Else they are
    means of the pool's labelled images.
    """
    pool = read_corpus(files["pool.parquet"], where="data.calibration")
    golden = read_golden(files["golden.parquet"], None, where="golden.cases")
    labelled = [(case.payload, case.label) for case in pool if case.label is not None]
    if spec.golden.prompt is not None:
        from tasks.models.vision.encoder import embed_texts  # torch, as above

        names = tuple(
            sorted(
                {label for _, label in labelled}
                | {case.label for case in golden.cases if case.label}
            )
        )
        if not names:
            raise BadInput(
                "golden.prompt makes texts of labels, and neither golden cases nor pool have any: "
                "add some"
            )
        try:
            texts = [spec.golden.prompt.replace("{}", name) for name in names]
            return dump_classes(
                Classes(names, embed_texts(folder, str(spec.input.tokenizer), texts))
            )
        except (ValueError, OSError) as exc:
            raise BadInput(
                f"golden.prompt: {folder} cannot embed texts: {' '.join(str(exc).split())[:300]}"
            ) from exc
    if not labelled:
        return b""
    engine, inputs = (
        open_target("onnxruntime-cpu").load(files[FULL_PRECISION]),
        open_inputs(spec, None, onnx.load_from_string(files[FULL_PRECISION])),
    )
    classes = prototypes(
        run_all(engine, inputs, [payload for payload, _ in labelled]),
        [label for _, label in labelled],
    )
    unknown = sorted({case.label for case in golden.cases if case.label} - set(classes.names))
    if unknown:
        raise BadInput(
            f"the golden label {unknown[0]!r} has no image in data.calibration to stand for it: "
            "add some"
        )
    return dump_classes(classes)


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise BadInput(
            f"{field}: {path} cannot be read ({exc.strerror}); paths are relative to the spec"
        ) from exc


def check_files(spec: ModelSpec, files: Mapping[str, bytes], untouched: Path | None) -> None:
    """Raise `BadInput` for whatever would make a registration useless.

    Args:
        spec: The model's.
        files: What is to be stored, by name.
        untouched: The ONNX file that the graph was made from, if it came as one.
    """
    pool = read_corpus(files["pool.parquet"], where="data.calibration")
    golden = read_golden(files["golden.parquet"], files.get("safety_head"), where="golden")
    require_disjoint(pool, golden_contents(golden.cases))
    guardrail_cases(pool, spec.calibration.guardrails)
    graph = onnx.load_from_string(files[FULL_PRECISION])
    _CHECKED.of(spec.form)(spec, graph, files, golden, untouched)


def _check_graph(
    spec: ModelSpec,
    graph: onnx.ModelProto,
    files: Mapping[str, bytes],
    golden: GoldenSet,
    untouched: Path | None,
) -> None:
    require_operators(graph, spec.targets)
    sites = find_sites(graph)
    if not sites:
        left = "".join(f"; {line}" for line in coverage(graph, (), {}).sentences[1:2])
        raise BadInput(
            "source: the graph has no matrix product or convolution with constant weights to "
            f"quantize{left}"
        )
    _require_finite(graph, sites)
    engine = _loaded(files[FULL_PRECISION])
    layout = parse_layout(files[LAYOUT], where=LAYOUT) if LAYOUT in files else None
    inputs = open_inputs(
        spec,
        files.get(TOKENIZER),
        graph,
        lambda: engine,
        layout,
        files.get(CHAT_TEMPLATE),
    )
    if isinstance(inputs, LanguageInputs):
        require_vocabulary(inputs, graph)
    require_buildable(graph, inputs.profile, spec.targets)
    first = [case.payload for case in golden.cases[:2]]
    if untouched is not None:
        payloads = [case.payload for case in golden.cases[:HELD_CASES]]
        if isinstance(inputs, RecordInputs):
            require_repeatable(engine, inputs, payloads)
        batches = [batch.feeds for batch in inputs.batches(payloads)]
        require_same(untouched, files[FULL_PRECISION], batches, spec.input.fixed)
    if isinstance(inputs, RecordInputs):
        require_metrics(spec.metrics)  # refused here, not after hours of building
        run_records(engine, inputs, first)
        require_independent_cases(engine, inputs, [item.payload for item in golden.cases[:4]])
    elif TRAITS[spec.task].per_token:
        token_agreement(engine, engine, inputs, first)
    else:
        run_all(engine, inputs, first)


def _check_checkpoint(
    spec: ModelSpec,
    index: onnx.ModelProto,
    files: Mapping[str, bytes],
    golden: GoldenSet,
    _: Path | None,
) -> None:
    from tasks.models.checkpoints.registering import require_readable

    inputs = open_inputs(spec, files.get(TOKENIZER), index, template=files.get(CHAT_TEMPLATE))
    first = [str(case.payload) for case in golden.cases[:2]]
    require_readable(index, language_inputs(inputs), first, where=spec.source)


_CHECKED = ByForm(graph=_check_graph, checkpoint=_check_checkpoint)


def _loaded(graph: bytes) -> Engine:
    try:
        return open_target("onnxruntime-cpu").load_exact(graph, {})
    except BadInput as exc:
        line = " ".join(str(exc.__cause__ or exc).split())[:300]
        raise BadInput(
            f"source: ONNX Runtime cannot load the graph ({line}): export it again"
        ) from exc


def _require_finite(graph: onnx.ModelProto, sites: Sequence[Site]) -> None:
    """Raise naming a layer whose weight holds NaN or infinity; a mask may be made of them."""
    layers = {layer.weight: layer for site in sites for layer in site.layers}
    for item in graph.graph.initializer:
        if item.name in layers and not np.isfinite(constant_values(item)).all():
            raise BadInput(
                f"source: the weight of {layers[item.name].name} holds NaN or infinity: the model "
                "is broken, export it again"
            )


def _check_records(inputs: RecordInputs, pool: Sequence[Request], golden: GoldenSet) -> None:
    """Raise `BadInput` naming a shipped request that does not fit the graph."""
    shipped = [(f"data.calibration, {item.request_id}", item.payload) for item in pool]
    shipped += [(f"golden.cases, {case.case_id}", case.payload) for case in golden.cases]
    for where, payload in shipped:
        try:
            inputs.record(payload)
        except BadInput as exc:
            raise BadInput(f"{where}: {exc}") from exc
