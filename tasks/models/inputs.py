"""From payloads to the arrays a graph wants, in batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from tokenizers import Tokenizer

from infra.engines.port import Engine, Profile, Profiles, Shapes
from infra.errors import BadInput
from infra.weights.carried import is_index
from tasks.graphs.canonical.constants import constant_outputs
from tasks.models.adapted import AdaptedInputs, are_usual, graph_names
from tasks.models.batches import BATCH, Batch
from tasks.models.custom.inputs import RecordInputs
from tasks.models.language.chat_template import parse_chat_template
from tasks.models.language.inputs import LanguageInputs
from tasks.models.language.layout import NO_CACHE, read_layout
from tasks.models.speech.hearing import read_hearing
from tasks.models.speech.inputs import SpeechInputs
from tasks.payloads import describe
from tasks.preprocess.prepare import digest_of
from tasks.records import Payload, Tensor
from tasks.specs.spec import ModelSpec, Task
from tasks.specs.tensors import RecordLayout
from tasks.specs.traits import TRAITS

SHORTEST = 2
"""Tokens: engines are built, and graphs exported, for no fewer."""


class Inputs(Protocol):
    """How one task prepares its inputs."""

    @property
    def output(self) -> str:
        """Name of the graph's output."""
        ...

    @property
    def profile(self) -> Profiles:
        """Return the shapes that engines are built for."""
        ...

    def batches(self, payloads: Sequence[Payload]) -> Iterator[Batch]:
        """Yield all payloads, each once; order and grouping are the batcher's choice."""
        ...


def open_inputs(
    spec: ModelSpec,
    tokenizer: bytes | None,
    graph: onnx.ModelProto | None = None,
    reference: Callable[[], Engine] | None = None,
    layout: RecordLayout | None = None,
    template: bytes | None = None,
) -> Inputs:
    """Return the batcher of a spec.

    Args:
        spec: the model's.
        tokenizer: the content of its tokenizer.json.
        graph: the model itself. A language model's tells what its cache looks like, a speech
            model's which features it hears.
        reference: full precision itself. A speech model's writes the tokens that a recording is
            read with.
        layout: what a graph with inputs of its own reads.
        template: a language model's chat template, as `read_chat_template` kept it.
    """
    if spec.task is Task.CUSTOM:
        return _record_inputs(spec, graph, layout, tokenizer, reference)
    traits, rules = TRAITS[spec.task], spec.input
    if traits.reads == "image":
        return _adapted(ImageInputs(rules.shape or (), traits.output), spec, graph)
    if tokenizer is None:
        raise BadInput(
            f"{spec.name}: the tokenizer is missing from the registered model; run `requant model "
            "add` again"
        )
    if spec.task is Task.TEXT_EMBEDDING:
        return _adapted(TextInputs(tokenizer, rules.max_length), spec, graph)
    if graph is None:
        raise BadInput(
            f"{spec.name}: the inputs of {spec.task} follow from its graph: open both together"
        )
    if spec.task is Task.CAUSAL_LM:
        return LanguageInputs(
            tokenizer,
            NO_CACHE if is_index(graph) else read_layout(graph),
            max_length=rules.max_length,
            new_tokens=rules.new_tokens,
            template=None if template is None else parse_chat_template(template),
        )
    if reference is None:
        raise BadInput(
            f"{spec.name}: a speech model's inputs need its full precision: open both together"
        )
    return SpeechInputs(tokenizer, read_hearing(graph), reference, new_tokens=rules.new_tokens)


def _adapted(inputs: Inputs, spec: ModelSpec, graph: onnx.ModelProto | None) -> Inputs:
    """Return the same batches under a graph's own names, where it has others."""
    if graph is None:
        return inputs
    names = graph_names(spec, graph)
    return inputs if are_usual(names, inputs.output) else AdaptedInputs(inputs, names)


def _record_inputs(
    spec: ModelSpec,
    graph: onnx.ModelProto | None,
    layout: RecordLayout | None,
    tokenizer: bytes | None,
    reference: Callable[[], Engine] | None,
) -> RecordInputs:
    if graph is None or layout is None:
        raise BadInput(f"{spec.name}: the inputs of {spec.task} follow from its graph: open both")
    rules = layout.preprocess
    if rules is not None and digest_of(rules) != layout.preprocess_digest:
        raise BadInput(
            f"the preprocess of {spec.name} is not what it was at registration (another function "
            "or library): scales and scores would be of other inputs; run `requant model add` again"
        )
    outputs = _judged_outputs(spec, graph, layout)
    return RecordInputs(layout, outputs, tokenizer, reference)


def _judged_outputs(spec: ModelSpec, graph: onnx.ModelProto, layout: RecordLayout) -> list[str]:
    """Return the outputs that the spec names, or all that a request can change; floats first.

    States, sequences and constants, such as a detector's anchors, are none.
    """
    types = {
        item.name: item.type.tensor_type.elem_type
        for item in graph.graph.output
        if item.type.WhichOneof("value") == "tensor_type"
    }
    unknown = sorted(set(spec.outputs) - set(types))
    if unknown:
        raise BadInput(
            f"outputs names {unknown[0]}, and the graph has the tensors "
            f"{', '.join(types) or 'none'}"
        )
    constants = constant_outputs(graph)
    fixed = sorted(set(spec.outputs) & constants)
    if fixed:
        raise BadInput(
            f"outputs names {fixed[0]}, which is the same for every request: leave it out"
        )
    others = constants | {state.output for state in layout.states.values()}
    chosen = spec.outputs or tuple(name for name in types if name not in others)
    if not chosen:
        raise BadInput(
            f"{spec.name}: the graph returns no tensor but states and sequences, and nothing can "
            "be judged: export it with what its users read"
        )
    if all(types[name] == onnx.TensorProto.STRING for name in chosen):
        raise BadInput(
            f"{spec.name}: {', '.join(chosen)} are texts, whose distance nothing measures: export "
            "the graph with the numbers that they are taken from"
        )
    return sorted(chosen, key=lambda name: types[name] != onnx.TensorProto.FLOAT)


def record_inputs(inputs: Inputs) -> RecordInputs:
    """Return the same inputs, known to be of a custom task; else raise `BadInput`."""
    if not isinstance(inputs, RecordInputs):
        raise BadInput("only a model of task custom reads records: this model has another task")
    return inputs


def language_inputs(inputs: Inputs) -> LanguageInputs:
    """Return the same inputs, known to be a language model's; else raise `BadInput`."""
    if not isinstance(inputs, LanguageInputs):
        raise BadInput(
            "only a language model reads tokens one after another: this model has another task"
        )
    return inputs


def speech_inputs(inputs: Inputs) -> SpeechInputs:
    """Return the same inputs, known to be a speech model's; else raise `BadInput`."""
    if not isinstance(inputs, SpeechInputs):
        raise BadInput("only a speech model reads waveforms: this model has another task")
    return inputs


def run_all(engine: Engine, inputs: Inputs, payloads: Sequence[Payload]) -> Tensor:
    """Return outputs of every payload, in order: [payloads, ...]."""
    return stacked(run_batches(engine, inputs, payloads), len(payloads))


def run_batches(
    engine: Engine, inputs: Inputs, payloads: Sequence[Payload]
) -> dict[int, NDArray[np.float32]]:
    """Return the output of each case that the batcher gives, by its place."""
    results: dict[int, NDArray[np.float32]] = {}
    for batch in inputs.batches(payloads):
        outputs = engine.run(batch.feeds)
        output = outputs.get(inputs.output)
        if output is None or len(output) != len(batch.cases):
            raise BadInput(
                f"the engine gave {', '.join(outputs)} for {len(batch.cases)} cases: "
                f"one row of {inputs.output!r} a case is needed; export the model again"
            )
        results.update(zip(batch.cases.tolist(), output, strict=True))
    return results


def stacked(results: Mapping[int, NDArray[np.float32]], count: int) -> Tensor:
    """Return the outputs of `count` cases in order, [count, ...]."""
    return (
        np.stack([results[case] for case in range(count)])
        if results
        else np.zeros((0, 0), np.float32)
    )


@dataclass(frozen=True, slots=True)
class BatchShard:
    """Every `of`-th batch of another batcher, from `index` on.

    Batches stay whole: cases keep their numbers and their padding. So shards together are the
    single pass.
    """

    inputs: Inputs
    index: int
    of: int

    @property
    def output(self) -> str:
        """Return the name that the other batcher's output has."""
        return self.inputs.output

    @property
    def profile(self) -> Profiles:
        """Return the other batcher's shapes."""
        return self.inputs.profile

    def batches(self, payloads: Sequence[Payload]) -> Iterator[Batch]:
        """Yield this shard's batches of all payloads."""
        return islice(self.inputs.batches(payloads), self.index, None, self.of)


class TextInputs:
    """Token ids and mask, padded to the longest text of the batch."""

    output = TRAITS[Task.TEXT_EMBEDDING].output

    def __init__(self, tokenizer: bytes, max_length: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer.decode())
        except Exception as exc:  # the library raises bare Exception
            raise BadInput(f"input.tokenizer is not a tokenizers JSON file: {exc}") from exc
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_length <= special:  # the library would then not truncate at all
            raise BadInput(
                f"input.max_length is {max_length}, and {special} of these are the tokenizer's own "
                "tokens"
            )
        self._tokenizer.enable_truncation(max_length)
        self._tokenizer.no_padding()
        self._max_length = max_length

    @property
    def profile(self) -> Profile:
        """Return the shapes of up to 64 texts of the full length."""
        longest = max(SHORTEST, self._max_length)
        shapes = Shapes((1, SHORTEST), (8, min(64, longest)), (64, longest))
        return {"input_ids": shapes, "attention_mask": shapes}

    def batches(self, payloads: Sequence[Payload]) -> Iterator[Batch]:
        """Yield texts of like length in one batch, so that little is padded."""
        if not all(isinstance(payload, str) for payload in payloads):
            raise BadInput("a text model was given a tensor; look at the traffic's `text` column")
        encoded = self._encode([str(item) for item in payloads])
        order = sorted(range(len(encoded)), key=lambda case: (len(encoded[case]), case))
        for start in range(0, len(order), BATCH):
            cases = order[start : start + BATCH]
            longest = max(SHORTEST, *(len(encoded[case]) for case in cases))
            ids, mask = (
                np.zeros((len(cases), longest), np.int64),
                np.zeros((len(cases), longest), np.int64),
            )
            for row, case in enumerate(cases):
                ids[row, : len(encoded[case])] = encoded[case]
                mask[row, : len(encoded[case])] = 1
            yield Batch(
                {"input_ids": ids, "attention_mask": mask}, np.asarray(cases), mask.astype(bool)
            )

    def _encode(self, texts: list[str]) -> list[list[int]]:
        try:
            return [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        # the library raises bare Exception; a lone surrogate, UnicodeEncodeError or TypeError
        except Exception as exc:
            raise BadInput(
                f"the tokenizer could not read a text ({exc}); look at the traffic's `text` column"
            ) from exc


class ImageInputs:
    """Images stacked into [batch, channels, height, width]."""

    def __init__(
        self, shape: tuple[int, ...], output: str = TRAITS[Task.IMAGE_CLASSIFICATION].output
    ) -> None:
        self._shape, self.output = shape, output

    @property
    def profile(self) -> Profile:
        """Return the shapes of up to 256 images."""
        return {"image": Shapes((1, *self._shape), (BATCH, *self._shape), (256, *self._shape))}

    def batches(self, payloads: Sequence[Payload]) -> Iterator[Batch]:
        """Yield images in order."""
        for start in range(0, len(payloads), BATCH):
            images = payloads[start : start + BATCH]
            for image in images:
                if not isinstance(image, np.ndarray) or image.shape != self._shape:
                    kind = describe(image)
                    raise BadInput(
                        f"the model wants images of shape {self._shape}, but was given {kind}"
                    )
            stacked = np.stack([np.asarray(image, np.float32) for image in images])
            yield Batch({"image": stacked}, np.arange(start, start + len(images)), None)
